//! How often a site's PIN was tried and used, in the whole site: each node counts what it saw, and tells the others.
//!
//! Two halves of a store that cannot hear each other count apart: each gives the PIN's tries and uses once.

use std::{collections::BTreeMap, time::Duration};

use trust_format::{
    PinRule, PublicKey,
    codec::{DecodeError, Reader, Writer},
};

/// Nodes whose counts are remembered.
pub const COUNTING_NODES_MAX: usize = 256;
/// Tries that are being checked at once: each takes [`PinRule::MEMORY_KIB`].
pub const CHECKS_AT_ONCE: usize = 1;

/// What one node saw of a PIN; it only grows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PinCount {
    /// Wrong tries.
    pub wrong: u32,
    /// Machines that it admitted.
    pub used: u32,
}

/// What every node saw of one PIN.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PinTally {
    /// The PIN's number.
    pub number: u64,
    /// By node.
    pub counts: BTreeMap<PublicKey, PinCount>,
}

impl PinTally {
    /// Appends it: on the wire, and where a node keeps it.
    pub fn encode(&self, out: &mut Writer) {
        out.u64(self.number).count(self.counts.len());
        for (node, count) in &self.counts {
            out.raw(&node.0).u32(count.wrong).u32(count.used);
        }
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let number = input.u64("PIN number")?;
        let count = input.count(COUNTING_NODES_MAX, 40, "counts")?;
        let counts = (0..count).map(|_| {
            let node = PublicKey(input.array("node")?);
            let wrong = input.u32("wrong tries")?;
            let used = input.u32("uses")?;
            Ok((node, PinCount { wrong, used }))
        });
        Ok(Self {
            number,
            counts: counts.collect::<Result<_, DecodeError>>()?,
        })
    }
}

/// Whether a try is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PinGate {
    /// It is.
    Open,
    /// There were too many wrong ones: a person sets a new PIN at HQ.
    Locked,
    /// It has admitted as many machines as it may.
    UsedUp,
    /// Its time is over.
    Over,
    /// The site has no PIN.
    None,
}

impl PinGate {
    /// For the person at the machine.
    pub fn words(self) -> &'static str {
        match self {
            Self::Open => "type the site's PIN",
            Self::Locked => "the site's PIN is locked after wrong tries: a new one is set at HQ",
            Self::UsedUp => {
                "the site's PIN has admitted as many machines as it may: a new one is set at HQ"
            }
            Self::Over => "the time of the site's PIN is over: a new one is set at HQ",
            Self::None => "the site has no PIN: approve this machine at HQ",
        }
    }
}

/// The counts of a node and of those it heard of.
#[derive(Debug, Default)]
pub struct PinCounter {
    tally: PinTally,
    /// When this node heard of the PIN.
    since: Duration,
}

impl PinCounter {
    /// Goes on where an earlier start of the node ended. The PIN's time begins anew, its tries and uses do not.
    pub fn resume(tally: PinTally, now: Duration) -> Self {
        Self { tally, since: now }
    }

    /// The site's PIN is this one now; a new one begins with no tries and no uses.
    pub fn handle_rule(&mut self, now: Duration, rule: Option<&PinRule>) {
        if let Some(rule) = rule
            && rule.number > self.tally.number
        {
            let (number, counts) = (rule.number, BTreeMap::new());
            (self.tally, self.since) = (PinTally { number, counts }, now);
        }
    }

    /// Whether a try is looked at.
    pub fn gate(&self, now: Duration, rule: Option<&PinRule>) -> PinGate {
        // one that is older than what was counted already is a roster's that went back, which there is not
        let Some(rule) = rule.filter(|rule| rule.number == self.tally.number) else {
            return PinGate::None;
        };
        let sum = |count: fn(&PinCount) -> u32| {
            let all = self.tally.counts.values();
            all.fold(0u32, |sum, c| sum.saturating_add(count(c)))
        };
        let life = Duration::from_secs(u64::from(rule.life_hours) * 3600);
        if sum(|c| c.wrong) >= PinRule::WRONG_TRIES_MAX {
            PinGate::Locked
        } else if sum(|c| c.used) >= u32::from(rule.uses) {
            PinGate::UsedUp
        } else if !life.is_zero() && now.saturating_sub(self.since) >= life {
            PinGate::Over
        } else {
            PinGate::Open
        }
    }

    /// This node saw a try of the PIN of this number.
    pub fn handle_try(&mut self, me: PublicKey, number: u64, is_right: bool) {
        if number != self.tally.number {
            return;
        }
        let count = self.tally.counts.entry(me).or_default();
        match is_right {
            true => count.used = count.used.saturating_add(1),
            false => count.wrong = count.wrong.saturating_add(1),
        }
    }

    /// Another node's counts. Returns whether any is news, to be kept and passed on.
    pub fn handle_tally(&mut self, heard: &PinTally) -> bool {
        if heard.number != self.tally.number {
            return false;
        }
        let mut is_news = false;
        for (node, count) in &heard.counts {
            let room = self.tally.counts.len() < COUNTING_NODES_MAX;
            if !room && !self.tally.counts.contains_key(node) {
                continue;
            }
            let known = self.tally.counts.entry(*node).or_default();
            let merged = PinCount {
                wrong: known.wrong.max(count.wrong),
                used: known.used.max(count.used),
            };
            is_news |= merged != *known;
            *known = merged;
        }
        is_news
    }

    /// What is known, to be told and kept.
    pub fn tally(&self) -> &PinTally {
        &self.tally
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PublicKey = PublicKey([1; 32]);
    const B: PublicKey = PublicKey([2; 32]);
    const NOW: Duration = Duration::from_secs(1000);

    fn rule(number: u64) -> PinRule {
        PinRule {
            number,
            uses: 3,
            life_hours: 24,
            salt: [0; 16],
            hash: [0; 32],
        }
    }

    fn counter() -> PinCounter {
        let mut counter = PinCounter::default();
        counter.handle_rule(NOW, Some(&rule(1)));
        counter
    }

    #[test]
    fn five_wrong_tries_anywhere_in_the_site_lock_it() {
        let (mut a, mut b) = (counter(), counter());
        for _ in 0..3 {
            a.handle_try(A, 1, false);
        }
        for _ in 0..2 {
            b.handle_try(B, 1, false);
        }
        let open = |c: &PinCounter| c.gate(NOW, Some(&rule(1)));
        assert_eq!((open(&a), open(&b)), (PinGate::Open, PinGate::Open));
        assert!(b.handle_tally(a.tally()) && !b.handle_tally(a.tally()));
        assert_eq!(open(&b), PinGate::Locked);
        assert!(a.handle_tally(b.tally()));
        assert_eq!(open(&a), PinGate::Locked);
        // a replay of the old PIN opens nothing, a new one does
        a.handle_rule(NOW, Some(&rule(1)));
        assert_eq!(open(&a), PinGate::Locked);
        a.handle_rule(NOW, Some(&rule(2)));
        assert_eq!(a.gate(NOW, Some(&rule(2))), PinGate::Open);
        assert_eq!(a.gate(NOW, Some(&rule(1))), PinGate::None);
    }

    #[test]
    fn it_is_spent_by_use_and_by_time() {
        let mut a = counter();
        for _ in 0..3 {
            assert_eq!(a.gate(NOW, Some(&rule(1))), PinGate::Open);
            a.handle_try(A, 1, true);
        }
        assert_eq!(a.gate(NOW, Some(&rule(1))), PinGate::UsedUp);
        let fresh = counter();
        let day = Duration::from_secs(24 * 3600);
        assert_eq!(fresh.gate(NOW + day, Some(&rule(1))), PinGate::Over);
        assert_eq!(fresh.gate(NOW, None), PinGate::None);
    }

    #[test]
    fn a_restart_forgets_no_try() {
        let mut a = counter();
        for _ in 0..5 {
            a.handle_try(A, 1, false);
        }
        let mut again = PinCounter::resume(a.tally().clone(), Duration::ZERO);
        again.handle_rule(Duration::ZERO, Some(&rule(1)));
        assert_eq!(again.gate(Duration::ZERO, Some(&rule(1))), PinGate::Locked);
    }

    #[test]
    fn a_liar_makes_no_more_than_its_room() {
        let mut a = counter();
        let crowd = (0..=u8::MAX).map(|n| {
            let mut key = [n; 32];
            key[0] = 7;
            (PublicKey(key), PinCount::default())
        });
        for n in 0..8u8 {
            let counts = crowd.clone().map(|(mut k, c)| {
                k.0[1] = n;
                (k, c)
            });
            a.handle_tally(&PinTally {
                number: 1,
                counts: counts.collect(),
            });
        }
        assert_eq!(a.tally().counts.len(), COUNTING_NODES_MAX);
    }
}
