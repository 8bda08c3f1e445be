//! The choice: whom to ask next, and for which part.

use super::*;

/// Requests in flight to one peer, where there are many.
const WINDOW_MIN: usize = 1;
/// Requests in flight that keep a link full, shared among the peers. What is beyond only queues at the link, and each part
/// that queues when the source has given out everything is part of the tail.
const FLIGHTS_ENOUGH: usize = 16;
/// Requests in flight to all peers together.
const FLIGHTS_MAX: usize = 48;
/// A part younger in flight than this is never asked for twice.
const SECOND_COPY_AFTER_MIN: Duration = Duration::from_millis(250);
/// For a peer whose speed is not known yet.
const SECOND_COPY_AFTER_UNKNOWN: Duration = Duration::from_secs(1);
/// How long parts that a source gave away may stay unannounced before they count as lost.
const GRACE: Duration = Duration::from_millis(500);

impl Peer {
    fn can_take(&self, now: Duration, window: usize) -> bool {
        self.in_flight < window && now >= self.resting_until
    }

    /// Whether it may have something to give.
    fn is_useful(&self) -> bool {
        self.kind == PeerKind::Source || self.useful > 0
    }

    /// Parts that several peers have are asked of the quick ones first. Only the magnitude counts, so that equals share.
    fn slowness(&self) -> u32 {
        self.part_time
            .map_or(0, |t| u32::try_from(t.as_millis()).unwrap_or(u32::MAX))
            .checked_ilog2()
            .unwrap_or(0)
    }
}

impl Swarm {
    /// Asks whoever has something of use.
    pub(super) fn choose(&mut self, now: Duration) {
        let useful = self.peers.iter().filter(|(_, peer)| peer.is_useful());
        let useful: Vec<PeerId> = useful.map(|(id, _)| *id).collect();
        self.choose_among(now, useful);
    }

    /// The same, and asks idle peers for what is overdue elsewhere. Time has passed.
    pub(super) fn choose_again(&mut self, now: Duration) {
        self.next_tick = now + TICK;
        self.choose(now);
        let window = self.window();
        let is_idle = |peer: &Peer| peer.in_flight == 0 && peer.can_take(now, window);
        let idle = self.peers.iter().filter(|(_, peer)| is_idle(peer));
        let idle: Vec<PeerId> = idle.map(|(id, _)| *id).collect();
        for id in idle {
            if self.flights.len() < FLIGHTS_MAX
                && let Some(want) = self.second_copy(now, id)
            {
                self.ask(now, id, want);
            }
        }
    }

    /// What this peer has changed: what the other receivers can give is what it was.
    pub(super) fn choose_with(&mut self, now: Duration, id: PeerId) {
        let mut changed: Vec<PeerId> = self.sources.iter().copied().collect();
        if !self.sources.contains(&id) {
            changed.push(id);
        }
        self.choose_among(now, changed);
    }

    /// One request per peer and round, so that no peer takes all that several could give.
    fn choose_among(&mut self, now: Duration, mut open: Vec<PeerId>) {
        if self.missing == 0 {
            return;
        }
        let window = self.window();
        let turn = mix(self.last_request, self.salt);
        open.retain(|id| self.peers.get(id).is_some_and(|p| p.can_take(now, window)));
        open.sort_by_cached_key(|id| {
            let peer = &self.peers[id];
            let is_receiver = peer.kind == PeerKind::Receiver;
            (is_receiver, peer.slowness(), mix(id.0, turn))
        });
        while !open.is_empty() {
            open.retain(|id| {
                if self.flights.len() >= FLIGHTS_MAX {
                    return false;
                }
                let want = self.want_of(now, *id);
                want.is_some_and(|want| {
                    self.ask(now, *id, want);
                    true
                })
            });
        }
    }

    fn ask(&mut self, now: Duration, peer: PeerId, want: Want) {
        self.last_request += 1;
        let id = RequestId(self.last_request);
        let part = match want {
            Want::Next => None,
            Want::Part(part) => Some(part),
        };
        if let Some(part) = part {
            self.take_off(part);
        }
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.in_flight += 1;
        }
        self.flights.insert(
            id,
            Flight {
                peer,
                want,
                part,
                since: now,
            },
        );
        self.actions.push_back(Action::Request { id, peer, want });
    }

    pub(super) fn window(&self) -> usize {
        (FLIGHTS_ENOUGH / self.peers.len().max(1)).clamp(WINDOW_MIN, WINDOW_MAX)
    }

    fn want_of(&self, now: Duration, id: PeerId) -> Option<Want> {
        let peer = self.peers.get(&id)?;
        if !peer.can_take(now, self.window()) {
            return None;
        }
        match (peer.kind, peer.exhausted) {
            (PeerKind::Receiver, _) => self.rarest_of(peer),
            (PeerKind::Source, None) => self.first_copy_of(peer),
            (PeerKind::Source, Some(since)) => {
                let nobody_announces = self.sources.len() == self.peers.len();
                self.helping(peer, nobody_announces || now.saturating_sub(since) >= GRACE)
            }
        }
    }

    fn first_copy_of(&self, peer: &Peer) -> Option<Want> {
        let asked = self.flights.values().filter(|f| f.part.is_none()).count();
        if self.open.len() + asked >= OPEN_CHUNKS_MAX + OPEN_CHUNKS_OF_SOURCES_MAX {
            return self.rarest_in_open_chunks(peer);
        }
        // no more first copies than there can be
        (self.wanted.len() > asked).then_some(Want::Next)
    }

    fn rarest_of(&self, peer: &Peer) -> Option<Want> {
        if self.open.len() >= OPEN_CHUNKS_MAX {
            return self.rarest_in_open_chunks(peer);
        }
        self.first_of(peer, self.wanted.iter())
    }

    fn rarest_in_open_chunks(&self, peer: &Peer) -> Option<Want> {
        let parts = self
            .open
            .iter()
            .flat_map(|c| self.table.parts_of(ChunkId(*c)));
        let mut keys: Vec<_> = parts
            .filter(|part| peer.have[part.0 as usize])
            .map(|part| self.key(part))
            .filter(|key| self.wanted.contains(key))
            .collect();
        keys.sort_unstable();
        self.first_of(peer, keys.iter())
    }

    /// First copies are all given: a source helps with the rest, but leaves what a receiver is about to announce alone.
    fn helping(&self, peer: &Peer, lost: bool) -> Option<Want> {
        if self.open.len() >= OPEN_CHUNKS_MAX {
            return self.rarest_in_open_chunks(peer);
        }
        self.first_of(peer, self.wanted.range((1, 0, 0)..))
            .or_else(|| {
                lost.then(|| self.first_of(peer, self.wanted.iter()))
                    .flatten()
            })
    }

    fn first_of<'a>(
        &self,
        peer: &Peer,
        mut keys: impl Iterator<Item = &'a (u16, u64, u32)>,
    ) -> Option<Want> {
        // most peers have nothing of use most of the time, and the list may be long
        if peer.useful == 0 {
            return None;
        }
        let (_, _, part) = keys.find(|(_, _, part)| peer.have[*part as usize])?;
        Some(Want::Part(PartId(*part)))
    }

    fn second_copy(&mut self, now: Duration, id: PeerId) -> Option<Want> {
        let peer = self.peers.get(&id)?;
        if peer.in_flight > 0 {
            return None;
        }
        // what the peer itself needs, but no less than what is usual: an idle peer is quick because it is idle
        let patience = peer
            .part_time
            .max(self.usual_part_time)
            .map_or(SECOND_COPY_AFTER_UNKNOWN, |t| t * 3)
            .max(SECOND_COPY_AFTER_MIN);
        let (_, part) = self
            .flights
            .values()
            .filter(|f| f.peer != id && now.saturating_sub(f.since) > patience)
            .filter_map(|f| f.part.map(|c| (f.since, c)))
            .filter(|(_, c)| self.copies[c.0 as usize] == 1 && peer.have[c.0 as usize])
            .min()?;
        self.counters.second_copies += 1;
        Some(Want::Part(part))
    }
}
