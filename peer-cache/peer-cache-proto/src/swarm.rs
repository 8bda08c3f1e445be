//! Which part to ask of whom, and when: what one machine does in the swarm of one manifest.
//!
//! A source's link is the bottleneck, so of a source a receiver asks for *the next part that nobody has* and the
//! source chooses ([`crate::duty::Duty`]). Among receivers the rarest comes first. One rule covers slow peers and the
//! end: an idle peer is asked for a second copy of what is overdue elsewhere, never for a third.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use image_format::{ChunkId, PartId, PartTable};

use crate::{PeerId, mix};

mod choose;
mod share;

/// How long news of parts is gathered before it is announced.
pub const ANNOUNCE_DELAY: Duration = Duration::from_millis(10);
/// Requests in flight to one peer, where there are few.
const WINDOW_MAX: usize = 4;
/// Peers of one swarm; more are not asked.
pub const PEERS_MAX: usize = 256;
/// Chunks of which some parts are here or in flight and some are not: as many objects are held in memory. Beyond it only
/// parts of these are asked for.
const OPEN_CHUNKS_MAX: usize = 64;
/// A source chooses itself which chunk comes next, and its link must not stand still.
const OPEN_CHUNKS_OF_SOURCES_MAX: usize = 16;
/// The most chunks that a download has begun and not finished: what the shell must have room for.
pub const OPEN_CHUNKS_BOUND: usize = OPEN_CHUNKS_MAX + OPEN_CHUNKS_OF_SOURCES_MAX + WINDOW_MAX;
/// How long a peer that failed to answer is left alone.
const REST_AFTER_FAILURE: Duration = Duration::from_millis(200);
/// The same for one that has enough to do.
const REST_AFTER_BUSY: Duration = Duration::from_millis(40);
const TICK: Duration = Duration::from_millis(20);

/// A request's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// The next part that nobody has; only of a source.
    Next,
    /// This part.
    Part(PartId),
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
        /// The parts.
        parts: Vec<PartId>,
    },
    /// This peer sent bytes that are not what was signed: drop it, report it, do not ask it again.
    Accuse {
        /// The culprit.
        peer: PeerId,
        /// What it was asked for.
        part: Option<PartId>,
    },
    /// Every part is here.
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
    /// The peer has it, and enough to do.
    Busy,
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
    /// How many of the wanted parts it has.
    useful: usize,
    /// From request to last byte, round trip and queue included; the mean of about the last eight.
    part_time: Option<Duration>,
    exhausted: Option<Duration>,
    resting_until: Duration,
}

/// How far a chunk is.
#[derive(Debug, Clone, Copy, Default)]
struct ChunkState {
    parts: u8,
    held: u8,
    in_flight: u8,
}

impl ChunkState {
    fn is_open(self) -> bool {
        self.held < self.parts && (self.held > 0 || self.in_flight > 0)
    }
}

#[derive(Debug)]
struct Flight {
    peer: PeerId,
    want: Want,
    part: Option<PartId>,
    since: Duration,
}

/// Where parts came from, and what went wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Parts by the peer that sent them.
    pub received: BTreeMap<PeerId, u64>,
    /// Parts that arrived although they were here.
    pub duplicates: u64,
    /// Second copies asked for.
    pub second_copies: u64,
    /// Requests that brought nothing.
    pub failures: u64,
    /// Requests to a peer that had enough to do.
    pub busy: u64,
}

/// One machine's part in the swarm of one manifest.
#[derive(Debug)]
pub struct Swarm {
    /// Differs from machine to machine, so that equals do not choose alike.
    salt: u64,
    table: Arc<PartTable>,
    chunks: Vec<ChunkState>,
    open: BTreeSet<u32>,
    held: Vec<bool>,
    /// Parts that others keep: passed on when they are here, never asked for.
    spared: Vec<bool>,
    /// Parts neither held nor spared.
    missing: usize,
    holders: Vec<u16>,
    copies: Vec<u8>,
    /// Parts neither held nor in flight: (how many receivers announced it, a private order of chunks, part). Sources do not
    /// count: what only they have is first-copy duty.
    wanted: BTreeSet<(u16, u64, u32)>,
    peers: BTreeMap<PeerId, Peer>,
    /// Those of `peers` that are sources.
    sources: BTreeSet<PeerId>,
    accused: BTreeSet<PeerId>,
    flights: BTreeMap<RequestId, Flight>,
    /// From request to last byte, over all peers; the mean of about the last 32.
    usual_part_time: Option<Duration>,
    last_request: u64,
    actions: VecDeque<Action>,
    news: Vec<PartId>,
    news_since: Option<Duration>,
    next_tick: Duration,
    counters: Counters,
}

impl Swarm {
    /// A swarm over the parts of a manifest. `salt` is any number that differs from machine to machine.
    pub fn new(table: Arc<PartTable>, salt: u64) -> Self {
        let parts = table.part_count();
        let count = parts as usize;
        let chunks = (0..table.chunk_count()).map(|chunk| ChunkState {
            parts: u8::try_from(table.parts_of(ChunkId(chunk)).count()).unwrap_or(u8::MAX),
            ..ChunkState::default()
        });
        Self {
            salt,
            chunks: chunks.collect(),
            open: BTreeSet::new(),
            held: vec![false; count],
            spared: vec![false; count],
            missing: count,
            holders: vec![0; count],
            copies: vec![0; count],
            wanted: (0..parts)
                .map(|part| (0, order(&table, PartId(part), salt), part))
                .collect(),
            table,
            peers: BTreeMap::new(),
            sources: BTreeSet::new(),
            accused: BTreeSet::new(),
            flights: BTreeMap::new(),
            usual_part_time: None,
            last_request: 0,
            actions: VecDeque::new(),
            news: Vec::new(),
            news_since: None,
            next_tick: Duration::ZERO,
            counters: Counters::default(),
        }
    }

    /// Whether everything is here that is to be here.
    pub fn is_finished(&self) -> bool {
        self.missing == 0
    }

    /// Parts that are not here and should be.
    pub fn missing(&self) -> usize {
        self.missing
    }

    /// Whether a part is here.
    pub fn holds(&self, part: PartId) -> bool {
        self.held.get(part.0 as usize).copied().unwrap_or(false)
    }

    /// Every part that is here.
    pub fn held(&self) -> Vec<PartId> {
        list(&self.held)
    }

    /// What came from where.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// A part that is here without the swarm: from the slab, the old disk or the origin.
    pub fn handle_local(&mut self, now: Duration, part: PartId) {
        self.hold(now, part);
        self.cancel_others(part);
        self.choose(now);
    }

    /// A peer of this swarm is connected.
    pub fn handle_peer(&mut self, now: Duration, id: PeerId, kind: PeerKind) {
        if self.accused.contains(&id) || self.peers.len() >= PEERS_MAX {
            return;
        }
        let kind = self.kind_of(kind);
        if self.peers.get(&id).is_some_and(|p| p.kind == kind) {
            return;
        }
        // a receiver that turns into a source, or back, begins anew: its parts are counted differently
        let have = self.peers.get(&id).map(|p| p.have.clone());
        self.forget(id);
        let peer = Peer {
            kind,
            have: vec![false; self.held.len()],
            in_flight: 0,
            useful: 0,
            part_time: None,
            exhausted: None,
            resting_until: now,
        };
        self.peers.insert(id, peer);
        if kind == PeerKind::Source {
            self.sources.insert(id);
        }
        let parts: Vec<PartId> = have.map(|have| list(&have)).unwrap_or_default();
        self.handle_have(now, id, &parts);
    }

    /// A peer announced parts.
    pub fn handle_have(&mut self, now: Duration, id: PeerId, parts: &[PartId]) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let mut raised = Vec::new();
        for part in parts {
            if let Some(have) = peer.have.get_mut(part.0 as usize)
                && !std::mem::replace(have, true)
            {
                let at = part.0 as usize;
                let wanted = !self.held[at] && !self.spared[at] && self.copies[at] == 0;
                peer.useful += usize::from(wanted);
                raised.push(*part);
            }
        }
        if peer.kind == PeerKind::Receiver {
            for part in raised {
                self.change_holders(part, 1);
            }
        }
        self.choose_with(now, id);
    }

    /// A source said which part the answer to [`Want::Next`] will be.
    pub fn handle_assigned(&mut self, now: Duration, id: RequestId, part: PartId) {
        let Some(flight) = self.flights.get_mut(&id) else {
            return;
        };
        if flight.want != Want::Next || flight.part.is_some() || part.0 as usize >= self.held.len()
        {
            return;
        }
        // held already, or another source assigned the same: either way these bytes are not needed
        if self.holds(part) || self.copies[part.0 as usize] > 0 {
            self.drop_flight(id);
            self.actions.push_back(Action::Cancel { id });
            self.choose(now);
        } else {
            self.take_off(part);
            if let Some(flight) = self.flights.get_mut(&id) {
                flight.part = Some(part);
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

    /// Verified bytes of a part are here and can be served.
    pub fn handle_arrived(&mut self, now: Duration, id: RequestId, part: PartId) {
        if let Some(flight) = self.drop_flight(id) {
            let took = now.saturating_sub(flight.since);
            self.usual_part_time = Some(mean(self.usual_part_time, took, 32));
            if let Some(peer) = self.peers.get_mut(&flight.peer) {
                peer.part_time = Some(mean(peer.part_time, took, 8));
            }
            *self.counters.received.entry(flight.peer).or_default() += 1;
        }
        match self.holds(part) {
            true => self.counters.duplicates += 1,
            false => self.hold(now, part),
        }
        self.cancel_others(part);
        self.choose(now);
    }

    /// A request brought nothing.
    pub fn handle_failed(&mut self, now: Duration, id: RequestId, failure: Failure) {
        let Some(flight) = self.drop_flight(id) else {
            return;
        };
        match failure {
            Failure::Busy => self.counters.busy += 1,
            _ => self.counters.failures += 1,
        }
        if failure == Failure::Invalid {
            self.accused.insert(flight.peer);
            self.actions.push_back(Action::Accuse {
                peer: flight.peer,
                part: flight.part,
            });
            self.forget(flight.peer);
        } else if let Some(peer) = self.peers.get_mut(&flight.peer) {
            let rest = match failure {
                Failure::Busy => REST_AFTER_BUSY,
                _ => REST_AFTER_FAILURE,
            };
            peer.resting_until = now + rest;
            let missing = flight
                .part
                .filter(|c| failure == Failure::Missing && peer.have[c.0 as usize]);
            if let Some(part) = missing {
                // the flight is over, so if nobody else sends it, it is wanted again
                let at = part.0 as usize;
                peer.have[at] = false;
                let wanted = !self.held[at] && !self.spared[at] && self.copies[at] == 0;
                peer.useful -= usize::from(wanted);
                if peer.kind == PeerKind::Receiver {
                    self.change_holders(part, -1);
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
            self.choose_again(now);
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

    fn hold(&mut self, now: Duration, part: PartId) {
        let Some(held) = self.held.get_mut(part.0 as usize) else {
            return;
        };
        if std::mem::replace(held, true) {
            return;
        }
        self.change_chunk(part, |chunk| chunk.held += 1);
        self.unwant(part);
        self.news.push(part);
        self.news_since.get_or_insert(now);
        if !self.spared[part.0 as usize] {
            self.missing -= 1;
            self.finish();
        }
    }

    /// Ends what is still in flight when nothing is missing.
    fn finish(&mut self) {
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
            let parts = std::mem::take(&mut self.news);
            self.actions.push_back(Action::Announce { parts });
        }
    }

    fn cancel_others(&mut self, part: PartId) {
        let losers: Vec<RequestId> = self
            .flights
            .iter()
            .filter(|(_, f)| f.part == Some(part))
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
        self.sources.remove(&id);
        let Some(peer) = self.peers.remove(&id) else {
            return;
        };
        if peer.kind == PeerKind::Receiver {
            for part in list(&peer.have) {
                self.change_holders(part, -1);
            }
        }
    }

    fn key(&self, part: PartId) -> (u16, u64, u32) {
        (
            self.holders[part.0 as usize],
            order(&self.table, part, self.salt),
            part.0,
        )
    }

    fn want(&mut self, part: PartId) {
        let at = part.0 as usize;
        if self.held[at] || self.spared[at] || self.copies[at] > 0 {
            return;
        }
        if self.wanted.insert(self.key(part)) {
            for peer in self.peers.values_mut() {
                peer.useful += usize::from(peer.have[part.0 as usize]);
            }
        }
    }

    fn unwant(&mut self, part: PartId) {
        if self.wanted.remove(&self.key(part)) {
            for peer in self.peers.values_mut() {
                peer.useful -= usize::from(peer.have[part.0 as usize]);
            }
        }
    }

    fn change_chunk(&mut self, part: PartId, change: impl FnOnce(&mut ChunkState)) {
        let Some((chunk, _)) = self.table.place_of(part) else {
            return;
        };
        let state = &mut self.chunks[chunk.0 as usize];
        change(state);
        match state.is_open() {
            true => self.open.insert(chunk.0),
            false => self.open.remove(&chunk.0),
        };
    }

    fn change_holders(&mut self, part: PartId, by: i16) {
        let key = self.key(part);
        let listed = self.wanted.remove(&key);
        let holders = &mut self.holders[part.0 as usize];
        *holders = holders.saturating_add_signed(by);
        if listed {
            self.wanted.insert(self.key(part));
        }
    }

    /// A copy is in flight.
    fn take_off(&mut self, part: PartId) {
        self.unwant(part);
        self.copies[part.0 as usize] += 1;
        self.change_chunk(part, |chunk| chunk.in_flight += 1);
    }

    fn drop_flight(&mut self, id: RequestId) -> Option<Flight> {
        let flight = self.flights.remove(&id)?;
        if let Some(part) = flight.part {
            let copies = &mut self.copies[part.0 as usize];
            *copies -= 1;
            let is_last = *copies == 0;
            self.change_chunk(part, |chunk| chunk.in_flight -= 1);
            if is_last {
                self.want(part);
            }
        }
        if let Some(peer) = self.peers.get_mut(&flight.peer) {
            peer.in_flight -= 1;
        }
        Some(flight)
    }
}

/// Parts of one chunk stand together: an object that is begun is finished first.
fn order(table: &PartTable, part: PartId, salt: u64) -> u64 {
    let chunk = table.place_of(part).map_or(0, |(chunk, _)| chunk.0);
    mix(u64::from(chunk), salt)
}

/// Moves towards the newest value by one part of so many.
fn mean(so_far: Option<Duration>, newest: Duration, of: u32) -> Duration {
    so_far.map_or(newest, |mean| (mean * (of - 1) + newest) / of)
}

fn list(have: &[bool]) -> Vec<PartId> {
    (0u32..)
        .zip(have)
        .filter(|(_, have)| **have)
        .map(|(c, _)| PartId(c))
        .collect()
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "small test inputs")]
mod tests;
