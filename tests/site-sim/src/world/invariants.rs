//! What must never be, looked at while it could happen.

use peer_cache_proto::{beacon::TicketLife, election::CLAIM_EVERY};
use trust_format::{MachineId, SiteId, Ticket};

use super::*;

/// Copies of a part that a member may have asked for at once.
const COPIES_MAX: u8 = 2;
/// Two fetchers that are connected: so soon one has heard the other's claim and stopped, whatever is lost or stands still for
/// less than a connection's end.
const YIELD_WITHIN: Duration = CLAIM_EVERY
    .saturating_add(IDLE_TIMEOUT)
    .saturating_add(Duration::from_secs(2));
/// Objects that come again for a node that meets its neighbours a moment after HQ told it to fetch.
const REPEATED_MAX: u32 = 16;
/// Of a ticket that each node gives when it starts.
const TICKET_LIFE: Duration = Duration::from_secs(20);

impl World {
    fn found(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    /// A fetcher asks HQ only for what no live peer of its has said that it holds. A peer that gives it nothing holds nothing for
    /// it: an agent whose node was revoked is refused by everybody who knows.
    pub(crate) fn invariant_only_what_nobody_has(&mut self, member: usize, wanted: &[ChunkId]) {
        let ends = self.members[member].links.iter();
        let ends: Vec<(PeerId, usize)> = ends.map(|(link, end)| (*link, end.other)).collect();
        let mut givers = Vec::new();
        for (link, other) in ends {
            if self.may_be_served(other, link) && self.has_right(other, link) {
                givers.push(link);
            }
        }
        let me = &self.members[member];
        let is_announced = |part: PartId| {
            let mut links = givers.iter().filter_map(|link| me.links.get(link));
            links.any(|l| l.announced.get(part.0 as usize) == Some(&true))
        };
        let is_held = |chunk: &ChunkId| me.table.parts_of(*chunk).all(is_announced);
        if let Some(chunk) = wanted.iter().find(|chunk| is_held(chunk)) {
            self.found(format!(
                "invariant_only_what_nobody_has: {member} fetches chunk {}, which a neighbour holds",
                chunk.0
            ));
        }
    }

    /// No part is asked for more than twice at once.
    pub(crate) fn invariant_copies(&mut self, member: usize, part: PartId) {
        let copies = self.members[member].copies_of(part);
        if copies > COPIES_MAX {
            self.found(format!(
                "invariant_copies: {member} has asked for part {} {copies} times at once",
                part.0
            ));
        }
    }

    /// A node asks the origin once at a time.
    pub(crate) fn invariant_one_fetch(&mut self, member: usize) {
        if self.members[member].fetch.is_some() {
            self.found(format!(
                "invariant_one_fetch: {member} begins to fetch while it fetches"
            ));
        }
    }

    /// Who was caught with wrong bytes is not asked again by the one who caught it.
    pub(crate) fn invariant_caught_once(&mut self, member: usize, peer: PeerId) {
        let me = &self.members[member];
        if let Some(end) = me.links.get(&peer)
            && me.caught.contains(&end.other)
        {
            let other = end.other;
            self.found(format!(
                "invariant_caught_once: {member} asks {other} again, which sent it wrong bytes"
            ));
        }
    }

    /// What is held, and so served, is what was signed.
    pub(crate) fn invariant_only_true_bytes(&mut self, member: usize, part: PartId, is_true: bool) {
        if !is_true {
            self.found(format!(
                "invariant_only_true_bytes: {member} holds part {}, which nobody signed",
                part.0
            ));
        }
    }

    /// HQ gives no lease beside one that works, whose holder was connected to the asking node all the while.
    pub(crate) fn invariant_one_lease_in_an_island(
        &mut self,
        member: usize,
        fence: u64,
        before: &[(trust_format::PublicKey, u64)],
    ) {
        if before.iter().any(|(_, old)| *old == fence) {
            // renewed; when two islands have just met, both go on until one has heard the other's claim
            return;
        }
        let me = &self.members[member];
        let since = me.fetch.as_ref().map_or(self.now, |f| f.asked_since);
        let is_beside = |(holder, _): &&(trust_format::PublicKey, u64)| {
            let mut links = me.links.values();
            *holder != me.key
                && links.any(|l| self.members[l.other].key == *holder && l.since < since)
        };
        if before.iter().any(|lease| is_beside(&lease)) {
            self.found(format!(
                "invariant_one_lease_in_an_island: {member} gets one beside a holder that it sees"
            ));
        }
    }

    /// Of two connected members that both fetch, one stops when it hears of the other.
    pub(crate) fn invariant_one_fetcher(&mut self) {
        // where nothing goes wrong no agent is left alone
        let fetchers = match self.plan.faults {
            true => self.members.len(),
            false => self.plan.nodes,
        };
        let nodes = 0..fetchers;
        let fetches = |m: &usize| {
            let me = &self.members[*m];
            let fence = me.fetch.as_ref().and_then(|f| f.fence);
            fence.is_some_and(|fence| self.hq.works(self.now, fence))
        };
        if nodes.len() < 2 {
            return;
        }
        let fetchers: Vec<usize> = nodes.filter(fetches).collect();
        if fetchers.len() < 2 {
            return self.rivals.clear();
        }
        let mut rivals = BTreeMap::new();
        for (n, a) in fetchers.iter().enumerate() {
            for b in &fetchers[n + 1..] {
                if self.members[*a].link_to(*b).is_some() {
                    let since = self.rivals.get(&(*a, *b)).copied().unwrap_or(self.now);
                    rivals.insert((*a, *b), since);
                }
            }
        }
        let overdue = |since: &Duration| self.now > *since + YIELD_WITHIN;
        let found = rivals.iter().find(|(_, since)| overdue(since));
        if let Some(((a, b), _)) = found {
            let what = format!("invariant_one_fetcher: {a} and {b} both fetch, and are connected");
            self.found(what);
        }
        self.rivals = rivals;
    }

    /// No object comes over the WAN twice, unless a fetcher died or the store fell apart.
    pub(crate) fn invariant_wan_bill(&mut self) {
        let twice: u32 = self.landings.iter().map(|n| n.saturating_sub(1)).sum();
        if twice > REPEATED_MAX && !self.may_repeat_objects {
            self.found(format!(
                "invariant_wan_bill: {twice} objects came over the WAN again, and no fetcher died"
            ));
        }
    }

    /// A ticket ends when its issuer's clock says so, as the freshest beacon told it: no replay makes it live longer.
    pub(crate) fn invariant_tickets_end(
        &mut self,
        member: usize,
        issuer: usize,
        boot: u64,
        uptime: Duration,
    ) {
        let now = self.now;
        let node = &self.members[issuer];
        let (issuer_key, current, age) = (node.key, node.boot, now.saturating_sub(node.started));
        if !node.is_alive || boot != current {
            return;
        }
        let me = &mut self.members[member];
        // how far the freshest reading was behind
        let behind = age.saturating_sub(uptime);
        let known = me.behind.entry(issuer).or_insert((boot, behind));
        if known.0 != boot {
            *known = (boot, behind);
        }
        known.1 = known.1.min(behind);
        let age = age.saturating_sub(known.1);
        let ticket = Ticket {
            issuer: issuer_key,
            issuer_boot: boot,
            issued: Duration::ZERO,
            life: TICKET_LIFE,
            agent: me.key,
            machine: MachineId([1; 16]),
            site: SiteId([9; 16]),
            order: 1,
        };
        let left = match me.clocks.judge(now, &ticket) {
            TicketLife::Left(left) => left,
            TicketLife::Lapsed | TicketLife::Over => Duration::ZERO,
        };
        let expected = TICKET_LIFE.saturating_sub(age);
        // beacons count in milliseconds
        if left.abs_diff(expected) > Duration::from_millis(2) {
            self.found(format!(
                "invariant_tickets_end: {member} gives {issuer}'s ticket {left:?} more, {expected:?} are left"
            ));
        }
    }
}
