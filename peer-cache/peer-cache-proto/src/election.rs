//! Which node of a site asks the origin: exactly one in a stable view, replaced within a deadline.
//!
//! Nothing is voted on. Every node sees the same ranks over live authenticated connections and draws the same conclusion;
//! while views differ two may fetch, which costs bytes and never correctness, and HQ's lease stops the second.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use trust_format::PublicKey;

use crate::mix;

/// How long a view must hold before a node begins: peers of a store that powers up find each other first.
pub const SETTLE: Duration = Duration::from_millis(700);
/// How long a fetcher may go without progress.
pub const DEADLINE: Duration = Duration::from_secs(10);
/// How long others believe a fetcher while nothing comes of it: an object of a mebibyte over 10 kbit/s. Whoever only says that it
/// fetches must not keep a store waiting for ever.
pub const IDLE_CLAIM_MAX: Duration = Duration::from_secs(900);
/// How long its claims mean nothing after that.
pub const DISBELIEVED_FOR: Duration = Duration::from_secs(4 * 900);
/// Peers that are disbelieved at a time; the one that has been for longest makes room.
const DISBELIEVED_MAX: usize = 256;
/// A node that was refused steps back for a deadline, the second time in a row and from then on for so many, and each time
/// for up to half a deadline more: after an outage not all knock at once.
const STEP_BACK_DEADLINES_MAX: u32 = 2;
/// How often a fetcher says that it goes on.
pub const CLAIM_EVERY: Duration = Duration::from_secs(2);

/// Who is preferred; compared field by field, the higher one fetches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    /// A node that stays, before an agent that reboots soon.
    pub node: bool,
    /// A node that its administrator pinned: it is always on and keeps everything.
    pub always_on: bool,
    /// Free bytes for objects, in GiB.
    pub free_gib: u32,
    /// Time since start, in minutes, at most a day: what has run for long goes on running.
    pub uptime_minutes: u16,
}

/// What the shell has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Begin to fetch under this term.
    Start {
        /// Grows with each change of fetcher that this node saw.
        term: u64,
    },
    /// Stop fetching: somebody with a better right does.
    Stop,
    /// Tell all peers that this node fetches.
    Claim {
        /// Our term.
        term: u64,
    },
}

#[derive(Debug)]
struct Candidate {
    rank: Rank,
    /// Passed over until then: it claimed and made no progress.
    barred_until: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Claim {
    by: PublicKey,
    term: u64,
    seen: Duration,
    /// When this peer claimed first.
    since: Duration,
}

/// The election of one manifest's fetcher.
#[derive(Debug)]
pub struct Election {
    me: PublicKey,
    rank: Rank,
    barred_until: Duration,
    /// How often in a row this node stepped back without progress.
    stepped_back: u32,
    /// The highest term of anybody: one that was paused comes back with an older one.
    term: u64,
    peers: BTreeMap<PublicKey, Candidate>,
    changed: Duration,
    claim: Option<Claim>,
    /// Whose claims came to nothing, and until when they mean nothing; a new connection changes nothing of it.
    disbelieved: BTreeMap<PublicKey, Duration>,
    fetching: Option<u64>,
    progress: Duration,
    /// When somebody in the store had something new last.
    brought: Duration,
    next_claim: Duration,
    actions: VecDeque<Action>,
}

impl Election {
    /// An election in which this node stands with its rank.
    pub fn new(now: Duration, me: PublicKey, rank: Rank) -> Self {
        Self {
            me,
            rank,
            barred_until: Duration::ZERO,
            stepped_back: 0,
            term: 0,
            peers: BTreeMap::new(),
            changed: now,
            claim: None,
            disbelieved: BTreeMap::new(),
            fetching: None,
            progress: now,
            brought: now,
            next_claim: now,
            actions: VecDeque::new(),
        }
    }

    /// The term under which this node fetches, if it does.
    pub fn fetching(&self) -> Option<u64> {
        self.fetching
    }

    /// A peer with a live authenticated connection.
    pub fn handle_peer(&mut self, now: Duration, peer: PublicKey, rank: Rank) {
        if let Some(candidate) = self.peers.get_mut(&peer) {
            candidate.rank = rank;
            return;
        }
        let candidate = Candidate {
            rank,
            barred_until: self.disbelieved.get(&peer).copied().unwrap_or_default(),
        };
        self.peers.insert(peer, candidate);
        self.changed = now;
    }

    /// A peer's connection ended.
    pub fn handle_peer_gone(&mut self, now: Duration, peer: &PublicKey) {
        if self.peers.remove(peer).is_some() {
            self.changed = now;
        }
        if self.claim.is_some_and(|c| c.by == *peer) {
            self.claim = None;
        }
    }

    /// A peer says that it fetches. The better right is the higher term, then the lower key.
    pub fn handle_claim(&mut self, now: Duration, by: PublicKey, term: u64) {
        let disbelieved = self.disbelieved.get(&by).is_some_and(|until| now < *until);
        if disbelieved || !self.peers.contains_key(&by) {
            return;
        }
        self.term = self.term.max(term);
        if let Some(mine) = self.fetching {
            if (mine, std::cmp::Reverse(self.me)) > (term, std::cmp::Reverse(by)) {
                return;
            }
            self.fetching = None;
            self.actions.push_back(Action::Stop);
        }
        if self.claim.is_none_or(|c| term >= c.term) {
            let again = self.claim.filter(|c| c.by == by);
            self.claim = Some(Claim {
                by,
                term,
                seen: now,
                since: again.map_or(now, |c| c.since),
            });
        }
    }

    /// Somebody has what nobody had, or something is needed that was not: whoever claims to fetch has its time from now.
    pub fn handle_brought(&mut self, now: Duration) {
        self.brought = now;
    }

    /// Bytes came from the origin, or HQ told the fetcher to wait for them.
    pub fn handle_progress(&mut self, now: Duration) {
        self.progress = now;
        self.stepped_back = 0;
    }

    /// Something is needed of the origin after a time in which nothing was: whose turn it is counts from now.
    pub fn handle_need(&mut self, now: Duration) {
        self.changed = now;
    }

    /// HQ refused, or the origin cannot be reached: this node steps back until a deadline has passed.
    pub fn handle_refused(&mut self, now: Duration) {
        self.step_back(now);
    }

    /// This one has no right to fetch for now: somebody who outranks it is back.
    pub fn handle_outranked(&mut self) {
        if self.fetching.take().is_some() {
            self.actions.push_back(Action::Stop);
        }
    }

    /// Looks at the clock; call it at [`Self::poll_timeout`].
    pub fn handle_timeout(&mut self, now: Duration) {
        if let Some(claim) = self.claim
            && now >= claim.seen + DEADLINE
        {
            if let Some(candidate) = self.peers.get_mut(&claim.by) {
                candidate.barred_until = now + DEADLINE;
            }
            self.claim = None;
        }
        if let Some(claim) = self.claim
            && now >= self.idle_at(&claim)
        {
            self.disbelieve(now, claim.by);
            self.claim = None;
        }
        match self.fetching {
            Some(_) if now >= self.progress + DEADLINE => self.step_back(now),
            Some(term) if now >= self.next_claim => {
                self.next_claim = now + CLAIM_EVERY;
                self.actions.push_back(Action::Claim { term });
            }
            Some(_) => {}
            None => self.stand(now),
        }
    }

    /// When [`Self::handle_timeout`] wants to be called at the latest.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let stand = (self.changed + SETTLE).max(self.barred_until);
        Some(match (self.fetching, self.claim) {
            (Some(_), _) => self.next_claim.min(self.progress + DEADLINE),
            (None, Some(claim)) => (claim.seen + DEADLINE).min(self.idle_at(&claim)),
            (None, None) => self
                .peers
                .values()
                .map(|c| c.barred_until)
                .chain([stand])
                .max()
                .unwrap_or(stand),
        })
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    fn disbelieve(&mut self, now: Duration, peer: PublicKey) {
        let until = now + DISBELIEVED_FOR;
        if let Some(candidate) = self.peers.get_mut(&peer) {
            candidate.barred_until = until;
        }
        self.disbelieved.retain(|_, until| now < *until);
        if self.disbelieved.len() >= DISBELIEVED_MAX
            && let Some((oldest, _)) = self.disbelieved.iter().min_by_key(|(_, until)| **until)
        {
            let oldest = *oldest;
            self.disbelieved.remove(&oldest);
        }
        self.disbelieved.insert(peer, until);
    }

    fn idle_at(&self, claim: &Claim) -> Duration {
        claim.since.max(self.brought) + IDLE_CLAIM_MAX
    }

    fn stand(&mut self, now: Duration) {
        let settled = now >= self.changed + SETTLE && now >= self.barred_until;
        if !settled || self.claim.is_some() {
            return;
        }
        let mine = (self.rank, std::cmp::Reverse(self.me));
        let better = self
            .peers
            .iter()
            .filter(|(_, c)| now >= c.barred_until)
            .any(|(key, c)| (c.rank, std::cmp::Reverse(*key)) > mine);
        if better {
            // the better one has as long as a fetcher may go without progress
            if now < self.changed + SETTLE + DEADLINE {
                return;
            }
            for candidate in self.peers.values_mut().filter(|c| (c.rank) > self.rank) {
                candidate.barred_until = now + DEADLINE;
            }
        }
        self.term = self.term.saturating_add(1);
        let term = self.term;
        self.fetching = Some(term);
        self.progress = now;
        self.next_claim = now + CLAIM_EVERY;
        self.actions.push_back(Action::Start { term });
        self.actions.push_back(Action::Claim { term });
    }

    fn step_back(&mut self, now: Duration) {
        if self.fetching.take().is_some() {
            self.actions.push_back(Action::Stop);
        }
        self.stepped_back = self.stepped_back.saturating_add(1);
        let deadlines = self.stepped_back.min(STEP_BACK_DEADLINES_MAX);
        self.barred_until = now + DEADLINE * deadlines + self.jitter();
    }

    /// Differs from node to node and from time to time.
    fn jitter(&self) -> Duration {
        let [a, b, c, d, e, f, g, h, ..] = self.me.0;
        let key = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        let half = u64::try_from(DEADLINE.as_millis() / 2).unwrap_or(1);
        Duration::from_millis(mix(key, u64::from(self.stepped_back)) % half)
    }
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "small test inputs")]
mod tests;
