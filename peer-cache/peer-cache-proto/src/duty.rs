//! The source's side of a swarm: each chunk is given out once before any is given out twice.

use std::collections::BTreeMap;

use image_format::ChunkId;

use crate::PeerId;

/// Who was given which chunk to pass on. One for each manifest that a source serves.
#[derive(Debug)]
pub struct Duty {
    state: Vec<State>,
    /// Chunks are given in this rotation, so that two full sources begin at different places.
    first: u32,
    /// Nothing before this step of the rotation is left to give, as far as is known.
    next: u32,
    held: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The source does not have it yet.
    Absent,
    /// To be given.
    Free,
    /// Given to a peer that has not announced it yet.
    Given(PeerId),
    /// Somebody else has it.
    Seen,
}

/// The answer to "the next one that nobody has".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Give {
    /// This one.
    Chunk(ChunkId),
    /// All that are here were given, more will come: ask again when one did.
    Later,
    /// Every chunk was given once.
    Exhausted,
}

impl Duty {
    /// A duty over `chunks` chunks, none of which is here yet. `rotation` is any number that differs from source to source.
    pub fn new(chunks: u32, rotation: u64) -> Self {
        let first = u32::try_from(rotation % u64::from(chunks.max(1))).unwrap_or(0);
        Self {
            state: vec![State::Absent; chunks as usize],
            first,
            next: 0,
            held: 0,
        }
    }

    /// The source has this chunk now.
    pub fn handle_held(&mut self, chunk: ChunkId) {
        if let Some(state) = self.state.get_mut(chunk.0 as usize)
            && *state == State::Absent
        {
            *state = State::Free;
            self.held += 1;
            self.rewind(chunk);
        }
    }

    /// The source has this chunk no longer: it turned out damaged.
    pub fn handle_lost(&mut self, chunk: ChunkId) {
        if let Some(state) = self.state.get_mut(chunk.0 as usize)
            && *state != State::Absent
        {
            *state = State::Absent;
            self.held -= 1;
        }
    }

    /// A peer asks for the next chunk.
    pub fn give(&mut self, to: PeerId) -> Give {
        let count = u32::try_from(self.state.len()).unwrap_or(u32::MAX);
        while self.next < count {
            let chunk = (self.first + self.next) % count;
            let state = &mut self.state[chunk as usize];
            if *state == State::Free {
                *state = State::Given(to);
                self.next += 1;
                return Give::Chunk(ChunkId(chunk));
            }
            self.next += 1;
        }
        match self.state.contains(&State::Absent) {
            true => Give::Later,
            false => Give::Exhausted,
        }
    }

    /// Another peer announced chunks.
    pub fn handle_have(&mut self, chunks: &[ChunkId]) {
        for chunk in chunks {
            if let Some(state) = self.state.get_mut(chunk.0 as usize)
                && *state != State::Absent
            {
                *state = State::Seen;
            }
        }
    }

    /// A peer is gone: what it was given and never announced goes back on the list.
    pub fn handle_peer_gone(&mut self, peer: PeerId) {
        for at in 0..self.state.len() {
            if self.state[at] == State::Given(peer) {
                self.state[at] = State::Free;
                self.rewind(ChunkId(u32::try_from(at).unwrap_or(u32::MAX)));
            }
        }
    }

    /// How many chunks the source has.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Chunks out with each peer.
    pub fn given(&self) -> BTreeMap<PeerId, usize> {
        let mut given = BTreeMap::new();
        for state in &self.state {
            if let State::Given(peer) = state {
                *given.entry(*peer).or_default() += 1;
            }
        }
        given
    }

    fn rewind(&mut self, chunk: ChunkId) {
        let count = u32::try_from(self.state.len()).unwrap_or(u32::MAX);
        let step = (chunk.0 + count - self.first) % count;
        self.next = self.next.min(step);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PeerId = PeerId(1);
    const B: PeerId = PeerId(2);

    fn full(chunks: u32, rotation: u64) -> Duty {
        let mut duty = Duty::new(chunks, rotation);
        (0..chunks).for_each(|c| duty.handle_held(ChunkId(c)));
        duty
    }

    fn invariant_nothing_twice(duty: &mut Duty, peers: &[PeerId]) -> Vec<ChunkId> {
        let mut given = Vec::new();
        for turn in 0.. {
            match duty.give(peers[turn % peers.len()]) {
                Give::Chunk(chunk) => {
                    assert!(!given.contains(&chunk), "{chunk:?} given twice");
                    given.push(chunk);
                }
                _ => return given,
            }
        }
        unreachable!()
    }

    #[test]
    fn every_chunk_is_given_once_in_rotation() {
        let given = invariant_nothing_twice(&mut full(5, 7), &[A, B]);
        assert_eq!(
            given.iter().map(|c| c.0).collect::<Vec<_>>(),
            [2, 3, 4, 0, 1]
        );
    }

    #[test]
    fn what_a_lost_peer_had_not_announced_goes_back() {
        let mut duty = full(4, 0);
        assert_eq!(duty.give(A), Give::Chunk(ChunkId(0)));
        assert_eq!(duty.give(A), Give::Chunk(ChunkId(1)));
        duty.handle_have(&[ChunkId(0)]);
        duty.handle_peer_gone(A);
        assert_eq!(
            invariant_nothing_twice(&mut duty, &[B]),
            [ChunkId(1), ChunkId(2), ChunkId(3)]
        );
        assert_eq!(duty.give(B), Give::Exhausted);
    }

    #[test]
    fn a_source_that_is_still_fetching_says_later() {
        let mut duty = Duty::new(2, 0);
        assert_eq!(duty.give(A), Give::Later);
        duty.handle_held(ChunkId(1));
        assert_eq!(duty.give(A), Give::Chunk(ChunkId(1)));
        assert_eq!(duty.give(A), Give::Later);
        duty.handle_held(ChunkId(0));
        assert_eq!(duty.give(B), Give::Chunk(ChunkId(0)));
        assert_eq!(duty.give(B), Give::Exhausted);
    }

    #[test]
    fn chunks_out_of_range_are_ignored() {
        let mut duty = Duty::new(0, 3);
        duty.handle_held(ChunkId(9));
        duty.handle_have(&[ChunkId(9)]);
        assert_eq!(duty.give(A), Give::Exhausted);
    }
}
