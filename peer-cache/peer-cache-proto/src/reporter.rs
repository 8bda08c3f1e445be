//! Which node of a site tells HQ that the site's nodes are there: of those that are connected, the one whose key is the lowest.
//!
//! Each node begins by reporting for itself and for all nodes that it is connected to, and tells them so. One that is told so by a node
//! before it rests: HQ hears nothing of it but what is news. When that node goes, or falls silent, the next one begins, and the others
//! hear of it before their turn comes. Nobody is elected and nothing is agreed on: two that report are a waste, not a fault.

use std::{collections::BTreeMap, time::Duration};

use trust_format::PublicKey;

/// Who was reported by another rests for so long, unless it is reported again. HQ is told every ten seconds: two rounds may be lost.
pub const REPORTED_FOR: Duration = Duration::from_secs(30);
/// So often each node calls HQ itself, whoever reports it: a node that lies keeps a revocation from its neighbours for no longer.
pub const OWN_CALL_EVERY: Duration = Duration::from_secs(600);
/// Where a reporter was lost, a node waits for so long for each node that comes before it.
pub const TURN: Duration = Duration::from_millis(300);
/// Nodes that are remembered: as many as a program has members.
const REPORTERS_MAX: usize = 256;

/// What one node knows of those that report it.
#[derive(Debug)]
pub struct Reporters {
    me: PublicKey,
    /// Until when each counts.
    heard: BTreeMap<PublicKey, Duration>,
    /// When this node called HQ itself.
    called: Option<Duration>,
    is_wanted: bool,
}

impl Reporters {
    /// Of the node with this key.
    pub fn new(me: PublicKey) -> Self {
        Self {
            me,
            heard: BTreeMap::new(),
            called: None,
            is_wanted: false,
        }
    }

    /// A node says that HQ took its report, in which this one is named. HQ may want to hear this one itself.
    pub fn handle_reported(&mut self, now: Duration, by: PublicKey, is_wanted: bool) {
        self.is_wanted |= is_wanted;
        if by >= self.me {
            return;
        }
        if self.heard.len() >= REPORTERS_MAX && !self.heard.contains_key(&by) {
            let oldest = self.heard.iter().min_by_key(|(_, until)| **until);
            if let Some(oldest) = oldest.map(|(key, _)| *key) {
                self.heard.remove(&oldest);
            }
        }
        self.heard.insert(by, now + REPORTED_FOR);
    }

    /// A node is not connected any more.
    pub fn handle_gone(&mut self, now: Duration, peer: &PublicKey) {
        if let Some(until) = self.heard.get_mut(peer) {
            *until = now.min(*until);
        }
    }

    /// HQ answered this node.
    pub fn handle_called(&mut self, now: Duration) {
        self.called = Some(now);
        self.is_wanted = false;
    }

    /// Until when this node need not call HQ, with so many nodes connected that come before it; `None` when it is due now.
    pub fn rests_until(&self, now: Duration, before: usize) -> Option<Duration> {
        let turns = u32::try_from(before.min(REPORTERS_MAX)).unwrap_or(u32::MAX);
        let reported = *self.heard.values().max()? + TURN * turns;
        let own = self.called? + OWN_CALL_EVERY;
        let until = reported.min(own);
        (until > now && !self.is_wanted).then_some(until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> PublicKey {
        PublicKey([n; 32])
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn called(me: u8) -> Reporters {
        let mut reporters = Reporters::new(key(me));
        reporters.handle_called(at(0));
        reporters
    }

    #[test]
    fn who_is_reported_by_a_node_before_it_rests() {
        let mut second = called(2);
        assert_eq!(second.rests_until(at(1), 0), None, "nobody reports it");
        second.handle_reported(at(1), key(3), false);
        assert_eq!(second.rests_until(at(1), 0), None, "the third waits for it");
        second.handle_reported(at(1), key(1), false);
        assert_eq!(second.rests_until(at(1), 0), Some(at(31)));
        second.handle_reported(at(11), key(1), false);
        assert_eq!(second.rests_until(at(40), 0), Some(at(41)));
        assert_eq!(second.rests_until(at(41), 0), None, "the first fell silent");
        assert_eq!(second.rests_until(at(41), 10), Some(at(44)), "others first");
    }

    #[test]
    fn it_begins_again_when_the_reporter_goes_or_hq_wants_it() {
        let mut second = called(2);
        second.handle_reported(at(1), key(1), false);
        second.handle_gone(at(2), &key(1));
        assert_eq!(second.rests_until(at(2), 0), None);
        assert_eq!(second.rests_until(at(2), 1), Some(at(2) + TURN));
        second.handle_reported(at(3), key(1), true);
        assert_eq!(
            second.rests_until(at(3), 0),
            None,
            "HQ has something for it"
        );
        second.handle_called(at(4));
        assert_eq!(second.rests_until(at(4), 0), Some(at(33)));
    }

    #[test]
    fn a_liar_keeps_nobody_from_hq_for_long() {
        let mut second = called(2);
        let calls = (1..3600).filter(|seconds| {
            let now = at(*seconds);
            second.handle_reported(now, key(1), false);
            let is_due = second.rests_until(now, 0).is_none();
            if is_due {
                second.handle_called(now);
            }
            is_due
        });
        assert_eq!(calls.count(), 5);
        // and one that HQ never heard does not begin with a rest
        let mut new = Reporters::new(key(2));
        new.handle_reported(at(1), key(1), false);
        assert_eq!(new.rests_until(at(1), 0), None);
    }

    /// Lets a second pass: who is due reports all others. Says how many did.
    fn pass(nodes: &mut [Reporters], second: u64) -> usize {
        let mut due = 0;
        for by in 0..nodes.len() {
            let now = at(second) + TURN * u32::try_from(by).unwrap();
            if nodes[by].rests_until(now, by).is_some() {
                continue;
            }
            due += 1;
            let key = nodes[by].me;
            nodes[by].handle_called(now);
            for other in nodes.iter_mut().filter(|n| n.me != key) {
                other.handle_reported(now, key, false);
            }
        }
        due
    }

    #[test]
    fn one_of_many_that_see_each_other_reports() {
        let mut nodes: Vec<Reporters> = (1..=20).map(|n| Reporters::new(key(n))).collect();
        assert_eq!(pass(&mut nodes, 1), 20, "all at first");
        for second in [11, 21, 31] {
            assert_eq!(pass(&mut nodes, second), 1);
        }
        nodes.remove(0);
        nodes
            .iter_mut()
            .for_each(|n| n.handle_gone(at(32), &key(1)));
        for second in [33, 43, 53] {
            assert_eq!(pass(&mut nodes, second), 1, "the next one, alone");
        }
    }

    #[test]
    fn not_more_are_remembered_than_can_be_connected() {
        let mut last = called(255);
        for n in 0..1000_u32 {
            let mut by = [0; 32];
            by[..4].copy_from_slice(&n.to_le_bytes());
            last.handle_reported(at(u64::from(n)), PublicKey(by), false);
        }
        assert_eq!(last.heard.len(), REPORTERS_MAX);
        assert_eq!(last.heard.values().min(), Some(&at(744 + 30)));
    }
}
