//! One manifest's download: the swarm among neighbours, and the fetch over the WAN of what none of them has.
//!
//! Nobody is elected to fetch what neighbours hold: the clock of the election stands still while every missing chunk is
//! held or on its way somewhere in the store.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use image_format::{ChunkId, PartId, PartTable};
use trust_format::PublicKey;

use crate::{
    PeerId,
    election::{self, Election, Rank},
    swarm::{self, Counters, Failure, PeerKind, RequestId, Swarm},
};

mod wishes;

pub use wishes::{PASS_ON_AGAIN_AFTER, PASS_ON_FOR, PASS_ON_MAX, Wishes};

/// How often the view of the store's nodes is looked at.
pub const LOOK_EVERY: Duration = Duration::from_millis(200);
/// A fetch that neighbours can shorten by so many chunks begins anew: what is on its way from the origin is lost then.
const SHORTER_BY_MIN: usize = 8;

/// What the shell has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Among neighbours.
    Swarm(swarm::Action),
    /// Ask the origin for these chunks, in this order, and give out first copies of them. Until
    /// [`Download::handle_fetched`] or [`Download::handle_fetch_failed`] it goes on.
    Fetch {
        /// The term of the election that this node won.
        term: u64,
        /// What no live peer has.
        wanted: Vec<ChunkId>,
    },
    /// End the fetch, and give out no more first copies.
    StopFetching,
    /// Tell all nodes that this one fetches.
    Claim {
        /// Our term.
        term: u64,
    },
}

/// The download of one manifest.
#[derive(Debug)]
pub struct Download {
    table: Arc<PartTable>,
    swarm: Swarm,
    /// Of nodes that can reach the origin.
    election: Option<Election>,
    candidates: BTreeSet<PublicKey>,
    /// Takes part in the election now: always, but for an agent.
    stands: bool,
    is_fetching: bool,
    /// What the origin was asked for last and has not brought.
    wanted: BTreeSet<ChunkId>,
    next_look: Duration,
    /// How many chunks were to be had of the origin only, at the last look.
    was_nowhere: usize,
    actions: VecDeque<Action>,
    /// `None` where everything is to be here.
    wishes: Option<Wishes>,
    /// Chunks that others keep, in memory until they have them; since when.
    passing: BTreeMap<ChunkId, Duration>,
    /// Chunks that nobody took, and when that was.
    left_over: BTreeMap<ChunkId, Duration>,
    released: VecDeque<ChunkId>,
}

impl Download {
    /// A download of a manifest's objects. `salt` is any number that differs from machine to machine; `stands` is this peer
    /// and its rank, if it can fetch over the WAN. A node stands at once; an agent when [`Self::handle_standing`] says so.
    pub fn new(
        now: Duration,
        table: Arc<PartTable>,
        salt: u64,
        stands: Option<(PublicKey, Rank)>,
    ) -> Self {
        Self {
            swarm: Swarm::new(table.clone(), salt),
            table,
            election: stands.map(|(me, rank)| Election::new(now, me, rank)),
            candidates: BTreeSet::new(),
            stands: stands.is_some_and(|(_, rank)| rank.node),
            is_fetching: false,
            wanted: BTreeSet::new(),
            next_look: now,
            was_nowhere: 0,
            actions: VecDeque::new(),
            wishes: None,
            passing: BTreeMap::new(),
            left_over: BTreeMap::new(),
            released: VecDeque::new(),
        }
    }

    /// Whether everything is here. Where only a share is to be, it goes on: the others may need this node to fetch.
    pub fn is_finished(&self) -> bool {
        self.wishes.is_none() && self.swarm.is_finished()
    }

    /// What came from where.
    pub fn counters(&self) -> &Counters {
        self.swarm.counters()
    }

    /// Whether an agent takes part in the election: while no node is in view, see [`crate::fallback`]. Its candidates are
    /// agents then. What is fetched when a node is back ends at once: the node goes on.
    pub fn handle_standing(&mut self, now: Duration, stands: bool) {
        let stood = std::mem::replace(&mut self.stands, stands);
        let Some(election) = self.election.as_mut().filter(|_| stood != stands) else {
            return;
        };
        match stands {
            // whose turn it is counts from now: the view of the others is old
            true => election.handle_need(now),
            false => election.handle_outranked(),
        }
    }

    /// Those who may fetch and have a live authenticated connection, and their ranks: nodes, and for an agent other agents
    /// too. Those that are not among them any more are gone.
    pub fn handle_nodes(&mut self, now: Duration, nodes: &BTreeMap<PublicKey, Rank>) {
        let Some(election) = &mut self.election else {
            return;
        };
        for gone in self.candidates.iter().filter(|k| !nodes.contains_key(*k)) {
            election.handle_peer_gone(now, gone);
        }
        for (key, rank) in nodes {
            election.handle_peer(now, *key, *rank);
        }
        self.candidates = nodes.keys().copied().collect();
    }

    /// A peer of this swarm is connected.
    pub fn handle_peer(&mut self, now: Duration, id: PeerId, kind: PeerKind) {
        self.swarm.handle_peer(now, id, kind);
    }

    /// A peer announced parts.
    pub fn handle_have(&mut self, now: Duration, id: PeerId, parts: &[PartId]) {
        self.swarm.handle_have(now, id, parts);
    }

    /// A connection ended.
    pub fn handle_peer_gone(&mut self, now: Duration, id: PeerId) {
        self.swarm.handle_peer_gone(now, id);
    }

    /// A source said which part the answer to [`swarm::Want::Next`] will be.
    pub fn handle_assigned(&mut self, now: Duration, id: RequestId, part: PartId) {
        self.swarm.handle_assigned(now, id, part);
    }

    /// A source has given out everything once.
    pub fn handle_exhausted(&mut self, now: Duration, id: RequestId) {
        self.swarm.handle_exhausted(now, id);
    }

    /// Verified bytes of a part are here and can be served.
    pub fn handle_arrived(&mut self, now: Duration, id: RequestId, part: PartId) {
        self.swarm.handle_arrived(now, id, part);
    }

    /// A request brought nothing.
    pub fn handle_failed(&mut self, now: Duration, id: RequestId, failure: Failure) {
        self.swarm.handle_failed(now, id, failure);
    }

    /// A chunk is here without the swarm: from the slab, the old disk or the origin.
    pub fn handle_local(&mut self, now: Duration, chunk: ChunkId) {
        self.wanted.remove(&chunk);
        if let Some(election) = &mut self.election {
            election.handle_progress(now);
        }
        for part in self.table.parts_of(chunk) {
            self.swarm.handle_local(now, part);
        }
    }

    /// A chunk that was here is here no longer.
    pub fn handle_lost(&mut self, now: Duration, chunk: ChunkId) {
        for part in self.table.parts_of(chunk) {
            self.swarm.handle_lost(now, part);
        }
    }

    /// Another node says that it fetches.
    pub fn handle_claim(&mut self, now: Duration, by: PublicKey, term: u64) {
        if let Some(election) = &mut self.election {
            election.handle_claim(now, by, term);
        }
    }

    /// Bytes come from the origin, though no chunk is whole yet, or HQ told the fetcher to wait.
    pub fn handle_fetch_goes_on(&mut self, now: Duration) {
        if let Some(election) = &mut self.election {
            election.handle_progress(now);
        }
    }

    /// The origin gave everything that was wanted of it.
    pub fn handle_fetched(&mut self) {
        self.is_fetching = false;
    }

    /// HQ refused, or the origin cannot be reached.
    pub fn handle_fetch_failed(&mut self, now: Duration) {
        self.is_fetching = false;
        if let Some(election) = &mut self.election {
            election.handle_refused(now);
        }
    }

    /// A deadline of [`Self::poll_timeout`] passed.
    pub fn handle_timeout(&mut self, now: Duration) {
        if self.swarm.poll_timeout().is_some_and(|t| t <= now) {
            self.swarm.handle_timeout(now);
        }
        if now >= self.next_look {
            self.next_look = now + LOOK_EVERY;
            self.look(now);
            self.release(now);
        }
    }

    /// When [`Self::handle_timeout`] wants to be called at the latest.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let stands = self.election.is_some() && self.stands;
        let look = stands.then_some(self.next_look);
        self.swarm.poll_timeout().into_iter().chain(look).min()
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        while let Some(action) = self.swarm.poll_action() {
            self.actions.push_back(Action::Swarm(action));
        }
        while let Some(action) = self.election.as_mut().and_then(Election::poll_action) {
            match action {
                election::Action::Start { term } => self.fetch(term),
                election::Action::Stop => {
                    self.is_fetching = false;
                    self.actions.push_back(Action::StopFetching);
                }
                election::Action::Claim { term } => self.actions.push_back(Action::Claim { term }),
            }
        }
        self.actions.pop_front()
    }

    fn look(&mut self, now: Duration) {
        if self.election.is_none() || !self.stands {
            return;
        }
        let nowhere = self.nowhere();
        let is_missing = !nowhere.is_empty();
        let was_nowhere = std::mem::replace(&mut self.was_nowhere, nowhere.len());
        let was_missing = was_nowhere > 0;
        if self.is_fetching && self.is_shorter_by_now(nowhere.len()) {
            self.is_fetching = false;
            self.actions.push_back(Action::StopFetching);
        }
        let Some(election) = &mut self.election else {
            return;
        };
        if nowhere.len() < was_nowhere || !was_missing {
            election.handle_brought(now);
        }
        if self.wishes.is_some() && is_missing && !was_missing {
            election.handle_need(now);
        }
        let term = election.fetching();
        if term.is_some() && !self.is_fetching && !is_missing {
            // what is left is in flight from neighbours
            election.handle_progress(now);
        }
        if (term.is_some() || is_missing) && election.poll_timeout().is_some_and(|t| t <= now) {
            election.handle_timeout(now);
        }
        // some chunks were in flight from a neighbour that vanished when the last fetch began
        if let Some(term) = election.fetching().filter(|t| Some(*t) == term)
            && is_missing
            && !self.is_fetching
        {
            self.fetch(term);
        }
    }

    /// Whether neighbours hold much of what the origin was asked for: a node that begins to fetch a moment before its first
    /// connection would bring the whole version over the WAN once more.
    fn is_shorter_by_now(&self, nowhere: usize) -> bool {
        let lacks = |chunk: &&ChunkId| self.table.parts_of(**chunk).any(|p| !self.swarm.holds(p));
        let lacking = self.wanted.iter().filter(lacks).count();
        match nowhere {
            0 => lacking > 0,
            _ => lacking >= nowhere + SHORTER_BY_MIN,
        }
    }

    fn fetch(&mut self, term: u64) {
        self.is_fetching = true;
        let wanted = self.nowhere();
        self.wanted = wanted.iter().copied().collect();
        self.actions.push_back(Action::Fetch { term, wanted });
    }
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "small test inputs")]
mod tests;
