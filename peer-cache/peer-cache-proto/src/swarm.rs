//! Which chunk to ask of whom, and when: one machine's part in a swarm, for one manifest.
//!
//! A source's link is the bottleneck, so of a source a receiver asks for *the next chunk that nobody has* and the
//! source chooses ([`crate::duty::Duty`]). Among receivers the rarest comes first. One rule covers slow peers and the
//! end: an idle peer is asked for a second copy of what is overdue elsewhere, never for a third.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use image_format::ChunkId;

use crate::{PeerId, mix};

/// How long news of chunks is gathered before it is announced.
pub const ANNOUNCE_DELAY: Duration = Duration::from_millis(10);
/// Requests in flight to one peer.
pub const WINDOW: usize = 4;
/// Peers of one swarm; more are not asked.
pub const PEERS_MAX: usize = 256;
/// A chunk younger in flight than this is never asked for twice.
const SECOND_COPY_AFTER_MIN: Duration = Duration::from_millis(250);
/// For a peer whose speed is not known yet.
const SECOND_COPY_AFTER_UNKNOWN: Duration = Duration::from_secs(1);
/// How long chunks that a source gave away may stay unannounced before they count as lost.
const GRACE: Duration = Duration::from_millis(500);
/// How long a peer that failed to answer is left alone.
const REST_AFTER_FAILURE: Duration = Duration::from_millis(200);
const TICK: Duration = Duration::from_millis(20);

/// A request's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// The next chunk that nobody has; only of a source.
    Next,
    /// This chunk.
    Chunk(ChunkId),
}

/// What the shell has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Ask a peer.
    Request {
        /// Comes back with every event about it.
        id: RequestId,
        /// Whom.
        peer: PeerId,
        /// For what.
        want: Want,
    },
    /// The answer is of no use any more.
    Cancel {
        /// The request.
        id: RequestId,
    },
    /// Tell every peer what is new here.
    Announce {
        /// The chunks.
        chunks: Vec<ChunkId>,
    },
    /// This peer sent bytes that are not what was signed: drop it, report it, do not ask it again.
    Accuse {
        /// The culprit.
        peer: PeerId,
        /// What it was asked for.
        chunk: Option<ChunkId>,
    },
    /// Every chunk is here.
    Finished,
}

/// Why a request brought nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The peer does not have it after all.
    Missing,
    /// The connection or stream broke.
    Broken,
    /// The bytes were not what was signed.
    Invalid,
}

/// What a peer can do in this swarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerKind {
    /// Assigns first copies: it holds everything or fetches it over the WAN.
    Source,
    /// Downloads like us.
    Receiver,
}

#[derive(Debug)]
struct Peer {
    kind: PeerKind,
    have: Vec<bool>,
    in_flight: usize,
    chunk_time: Option<Duration>,
    exhausted: Option<Duration>,
    resting_until: Duration,
}

impl Peer {
    fn can_take(&self, now: Duration) -> bool {
        self.in_flight < WINDOW && now >= self.resting_until
    }
}

#[derive(Debug)]
struct Flight {
    peer: PeerId,
    want: Want,
    chunk: Option<ChunkId>,
    since: Duration,
}

/// Where chunks came from, and what went wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Chunks by the peer that sent them.
    pub received: BTreeMap<PeerId, u64>,
    /// Chunks that arrived although they were here.
    pub duplicates: u64,
    /// Second copies asked for.
    pub second_copies: u64,
    /// Requests that brought nothing.
    pub failures: u64,
}

/// One machine's part in the swarm of one manifest.
#[derive(Debug)]
pub struct Swarm {
    /// Differs from machine to machine, so that equals do not choose alike.
    salt: u64,
    held: Vec<bool>,
    missing: usize,
    holders: Vec<u16>,
    copies: Vec<u8>,
    /// Chunks neither held nor in flight: (how many receivers announced it, a private order, chunk). Sources do not count:
    /// what only they have is first-copy duty.
    wanted: BTreeSet<(u16, u64, u32)>,
    peers: BTreeMap<PeerId, Peer>,
    accused: BTreeSet<PeerId>,
    flights: BTreeMap<RequestId, Flight>,
    last_request: u64,
    actions: VecDeque<Action>,
    news: Vec<ChunkId>,
    news_since: Option<Duration>,
    next_tick: Duration,
    counters: Counters,
}

impl Swarm {
    /// A swarm over `chunks` chunks.
    pub fn new(chunks: u32, salt: u64) -> Self {
        let count = chunks as usize;
        Self {
            salt,
            held: vec![false; count],
            missing: count,
            holders: vec![0; count],
            copies: vec![0; count],
            wanted: (0..chunks)
                .map(|c| (0, mix(u64::from(c), salt), c))
                .collect(),
            peers: BTreeMap::new(),
            accused: BTreeSet::new(),
            flights: BTreeMap::new(),
            last_request: 0,
            actions: VecDeque::new(),
            news: Vec::new(),
            news_since: None,
            next_tick: Duration::ZERO,
            counters: Counters::default(),
        }
    }

    /// Whether everything is here.
    pub fn is_finished(&self) -> bool {
        self.missing == 0
    }

    /// Chunks that are not here.
    pub fn missing(&self) -> usize {
        self.missing
    }

    /// Whether a chunk is here.
    pub fn holds(&self, chunk: ChunkId) -> bool {
        self.held.get(chunk.0 as usize).copied().unwrap_or(false)
    }

    /// Every chunk that is here.
    pub fn held(&self) -> Vec<ChunkId> {
        list(&self.held)
    }

    /// Missing chunks that are not in flight and that no connected peer has announced: what only the origin can give.
    pub fn unavailable(&self) -> Vec<ChunkId> {
        let nobody_has = |chunk: u32| self.peers.values().all(|p| !p.have[chunk as usize]);
        let mut chunks: Vec<ChunkId> = self
            .wanted
            .range(..(1, 0, 0))
            .filter(|(_, _, c)| nobody_has(*c))
            .map(|(_, _, c)| ChunkId(*c))
            .collect();
        chunks.sort_unstable();
        chunks
    }

    /// What came from where.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// A chunk that is here without the swarm: from the slab, the old disk or the origin.
    pub fn handle_local(&mut self, now: Duration, chunk: ChunkId) {
        self.hold(now, chunk);
        self.cancel_others(chunk);
        self.choose(now);
    }

    /// A chunk that was here is here no longer: it turned out damaged.
    pub fn handle_lost(&mut self, now: Duration, chunk: ChunkId) {
        let Some(held) = self.held.get_mut(chunk.0 as usize) else {
            return;
        };
        if std::mem::replace(held, false) {
            self.missing += 1;
            self.news.retain(|c| *c != chunk);
            self.wanted.insert(self.key(chunk));
            self.choose(now);
        }
    }

    /// A peer of this swarm is connected.
    pub fn handle_peer(&mut self, now: Duration, id: PeerId, kind: PeerKind) {
        if self.accused.contains(&id) || self.peers.len() >= PEERS_MAX {
            return;
        }
        if self.peers.get(&id).is_some_and(|p| p.kind == kind) {
            return;
        }
        // a receiver that turns into a source, or back, begins anew: its chunks are counted differently
        let have = self.peers.get(&id).map(|p| p.have.clone());
        self.forget(id);
        let peer = Peer {
            kind,
            have: vec![false; self.held.len()],
            in_flight: 0,
            chunk_time: None,
            exhausted: None,
            resting_until: now,
        };
        self.peers.insert(id, peer);
        let chunks: Vec<ChunkId> = have.map(|have| list(&have)).unwrap_or_default();
        self.handle_have(now, id, &chunks);
    }

    /// A peer announced chunks.
    pub fn handle_have(&mut self, now: Duration, id: PeerId, chunks: &[ChunkId]) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let mut raised = Vec::new();
        for chunk in chunks {
            if let Some(have) = peer.have.get_mut(chunk.0 as usize)
                && !std::mem::replace(have, true)
            {
                raised.push(*chunk);
            }
        }
        if peer.kind == PeerKind::Receiver {
            for chunk in raised {
                self.change_holders(chunk, 1);
            }
        }
        // what the other receivers can give is what it was
        self.choose_among(now, |of, peer| of == id || peer.kind == PeerKind::Source);
    }

    /// A source said which chunk the answer to [`Want::Next`] will be.
    pub fn handle_assigned(&mut self, now: Duration, id: RequestId, chunk: ChunkId) {
        let Some(flight) = self.flights.get_mut(&id) else {
            return;
        };
        if flight.want != Want::Next
            || flight.chunk.is_some()
            || chunk.0 as usize >= self.held.len()
        {
            return;
        }
        // held already, or another source assigned the same: either way these bytes are not needed
        if self.holds(chunk) || self.copies[chunk.0 as usize] > 0 {
            self.drop_flight(id);
            self.actions.push_back(Action::Cancel { id });
            self.choose(now);
        } else {
            self.take_off(chunk);
            if let Some(flight) = self.flights.get_mut(&id) {
                flight.chunk = Some(chunk);
            }
        }
    }

    /// A source has given out everything once.
    pub fn handle_exhausted(&mut self, now: Duration, id: RequestId) {
        if let Some(flight) = self.drop_flight(id)
            && let Some(peer) = self.peers.get_mut(&flight.peer)
        {
            peer.exhausted.get_or_insert(now);
        }
        self.choose(now);
    }

    /// Verified bytes of a chunk are here and can be served.
    pub fn handle_arrived(&mut self, now: Duration, id: RequestId, chunk: ChunkId) {
        if let Some(flight) = self.drop_flight(id) {
            let took = now.saturating_sub(flight.since);
            if let Some(peer) = self.peers.get_mut(&flight.peer) {
                peer.chunk_time = Some(peer.chunk_time.map_or(took, |t| (t * 7 + took) / 8));
            }
            *self.counters.received.entry(flight.peer).or_default() += 1;
        }
        match self.holds(chunk) {
            true => self.counters.duplicates += 1,
            false => self.hold(now, chunk),
        }
        self.cancel_others(chunk);
        self.choose(now);
    }

    /// A request brought nothing.
    pub fn handle_failed(&mut self, now: Duration, id: RequestId, failure: Failure) {
        let Some(flight) = self.drop_flight(id) else {
            return;
        };
        self.counters.failures += 1;
        if failure == Failure::Invalid {
            self.accused.insert(flight.peer);
            self.actions.push_back(Action::Accuse {
                peer: flight.peer,
                chunk: flight.chunk,
            });
            self.forget(flight.peer);
        } else if let Some(peer) = self.peers.get_mut(&flight.peer) {
            peer.resting_until = now + REST_AFTER_FAILURE;
            let missing = flight
                .chunk
                .filter(|c| failure == Failure::Missing && peer.have[c.0 as usize]);
            if let Some(chunk) = missing {
                peer.have[chunk.0 as usize] = false;
                if peer.kind == PeerKind::Receiver {
                    self.change_holders(chunk, -1);
                }
            }
        }
        self.choose(now);
    }

    /// A connection ended.
    pub fn handle_peer_gone(&mut self, now: Duration, id: PeerId) {
        self.forget(id);
        self.choose(now);
    }

    /// A deadline of [`Self::poll_timeout`] passed.
    pub fn handle_timeout(&mut self, now: Duration) {
        if self
            .news_since
            .is_some_and(|since| now >= since + ANNOUNCE_DELAY)
        {
            self.announce();
        }
        if now >= self.next_tick {
            self.choose(now);
        }
    }

    /// When [`Self::handle_timeout`] wants to be called at the latest.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let announce = self.news_since.map(|since| since + ANNOUNCE_DELAY);
        let tick = (!self.is_finished() && !self.peers.is_empty()).then_some(self.next_tick);
        [announce, tick].into_iter().flatten().min()
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    fn hold(&mut self, now: Duration, chunk: ChunkId) {
        let Some(held) = self.held.get_mut(chunk.0 as usize) else {
            return;
        };
        if std::mem::replace(held, true) {
            return;
        }
        self.wanted.remove(&self.key(chunk));
        self.missing -= 1;
        self.news.push(chunk);
        self.news_since.get_or_insert(now);
        if self.missing == 0 {
            self.announce();
            let left: Vec<RequestId> = self.flights.keys().copied().collect();
            for id in left {
                self.drop_flight(id);
                self.actions.push_back(Action::Cancel { id });
            }
            self.actions.push_back(Action::Finished);
        }
    }

    fn announce(&mut self) {
        self.news_since = None;
        if !self.news.is_empty() {
            let chunks = std::mem::take(&mut self.news);
            self.actions.push_back(Action::Announce { chunks });
        }
    }

    fn cancel_others(&mut self, chunk: ChunkId) {
        let losers: Vec<RequestId> = self
            .flights
            .iter()
            .filter(|(_, f)| f.chunk == Some(chunk))
            .map(|(id, _)| *id)
            .collect();
        for id in losers {
            self.drop_flight(id);
            self.actions.push_back(Action::Cancel { id });
        }
    }

    fn forget(&mut self, id: PeerId) {
        let flights: Vec<RequestId> = self
            .flights
            .iter()
            .filter(|(_, f)| f.peer == id)
            .map(|(id, _)| *id)
            .collect();
        for request in flights {
            self.drop_flight(request);
            self.actions.push_back(Action::Cancel { id: request });
        }
        let Some(peer) = self.peers.remove(&id) else {
            return;
        };
        if peer.kind == PeerKind::Receiver {
            for chunk in list(&peer.have) {
                self.change_holders(chunk, -1);
            }
        }
    }

    fn key(&self, chunk: ChunkId) -> (u16, u64, u32) {
        (
            self.holders[chunk.0 as usize],
            mix(u64::from(chunk.0), self.salt),
            chunk.0,
        )
    }

    fn change_holders(&mut self, chunk: ChunkId, by: i16) {
        let key = self.key(chunk);
        let listed = self.wanted.remove(&key);
        let holders = &mut self.holders[chunk.0 as usize];
        *holders = holders.saturating_add_signed(by);
        if listed {
            self.wanted.insert(self.key(chunk));
        }
    }

    /// A copy is in flight.
    fn take_off(&mut self, chunk: ChunkId) {
        self.copies[chunk.0 as usize] += 1;
        self.wanted.remove(&self.key(chunk));
    }

    fn drop_flight(&mut self, id: RequestId) -> Option<Flight> {
        let flight = self.flights.remove(&id)?;
        if let Some(chunk) = flight.chunk {
            let copies = &mut self.copies[chunk.0 as usize];
            *copies -= 1;
            if *copies == 0 && !self.held[chunk.0 as usize] {
                self.wanted.insert(self.key(chunk));
            }
        }
        if let Some(peer) = self.peers.get_mut(&flight.peer) {
            peer.in_flight -= 1;
        }
        Some(flight)
    }

    /// Asks whoever can take a request.
    fn choose(&mut self, now: Duration) {
        self.next_tick = now + TICK;
        self.choose_among(now, |_, _| true);
    }

    /// One request per peer and round, so that no peer takes all that several could give.
    fn choose_among(&mut self, now: Duration, may: impl Fn(PeerId, &Peer) -> bool) {
        if self.missing == 0 {
            return;
        }
        let turn = mix(self.last_request, self.salt);
        let mut open: Vec<PeerId> = self
            .peers
            .iter()
            .filter(|(id, peer)| peer.can_take(now) && may(**id, peer))
            .map(|(id, _)| *id)
            .collect();
        open.sort_by_cached_key(|id| (self.peers[id].kind == PeerKind::Receiver, mix(id.0, turn)));
        while !open.is_empty() {
            open.retain(|id| match self.want_of(now, *id) {
                None => false,
                Some(want) => {
                    self.ask(now, *id, want);
                    true
                }
            });
        }
    }

    fn ask(&mut self, now: Duration, peer: PeerId, want: Want) {
        self.last_request += 1;
        let id = RequestId(self.last_request);
        let chunk = match want {
            Want::Next => None,
            Want::Chunk(chunk) => Some(chunk),
        };
        if let Some(chunk) = chunk {
            self.take_off(chunk);
        }
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.in_flight += 1;
        }
        self.flights.insert(
            id,
            Flight {
                peer,
                want,
                chunk,
                since: now,
            },
        );
        self.actions.push_back(Action::Request { id, peer, want });
    }

    fn want_of(&mut self, now: Duration, id: PeerId) -> Option<Want> {
        let peer = self.peers.get(&id)?;
        if !peer.can_take(now) {
            return None;
        }
        let first = match (peer.kind, peer.exhausted) {
            (PeerKind::Receiver, _) => self.rarest_of(peer),
            // a source is not asked for more first copies than there can be
            (PeerKind::Source, None) => (self.unassigned() > 0).then_some(Want::Next),
            (PeerKind::Source, Some(since)) => {
                let nobody_announces = self.peers.values().all(|p| p.kind == PeerKind::Source);
                self.helping(peer, nobody_announces || now.saturating_sub(since) >= GRACE)
            }
        };
        first.or_else(|| self.second_copy(now, id))
    }

    fn unassigned(&self) -> usize {
        let asked = self.flights.values().filter(|f| f.chunk.is_none()).count();
        self.wanted.len().saturating_sub(asked)
    }

    fn rarest_of(&self, peer: &Peer) -> Option<Want> {
        let chunk = self
            .wanted
            .iter()
            .find(|(_, _, c)| peer.have[*c as usize])?;
        Some(Want::Chunk(ChunkId(chunk.2)))
    }

    /// First copies are all given: a source helps with the rest, but leaves what a receiver is about to announce alone.
    fn helping(&self, peer: &Peer, lost: bool) -> Option<Want> {
        let announced = self
            .wanted
            .range((1, 0, 0)..)
            .find(|(_, _, c)| peer.have[*c as usize]);
        let chunk = match announced {
            Some(found) => Some(found),
            None if lost => self.wanted.iter().find(|(_, _, c)| peer.have[*c as usize]),
            None => None,
        };
        chunk.map(|(_, _, c)| Want::Chunk(ChunkId(*c)))
    }

    fn second_copy(&mut self, now: Duration, id: PeerId) -> Option<Want> {
        let peer = self.peers.get(&id)?;
        if peer.in_flight > 0 {
            return None;
        }
        let patience = peer
            .chunk_time
            .map_or(SECOND_COPY_AFTER_UNKNOWN, |t| t * 3)
            .max(SECOND_COPY_AFTER_MIN);
        let (_, chunk) = self
            .flights
            .values()
            .filter(|f| f.peer != id && now.saturating_sub(f.since) > patience)
            .filter_map(|f| f.chunk.map(|c| (f.since, c)))
            .filter(|(_, c)| self.copies[c.0 as usize] == 1 && peer.have[c.0 as usize])
            .min()?;
        self.counters.second_copies += 1;
        Some(Want::Chunk(chunk))
    }
}

fn list(have: &[bool]) -> Vec<ChunkId> {
    (0u32..)
        .zip(have)
        .filter(|(_, have)| **have)
        .map(|(c, _)| ChunkId(c))
        .collect()
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "small test inputs")]
mod tests;
