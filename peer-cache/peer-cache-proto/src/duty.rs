//! The source's side of a swarm: each part is given out once before any is given out twice.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use image_format::PartId;

use crate::PeerId;

/// Answers that one program sends at once, at most and at least.
const UPLOADS_MAX: usize = 16;
const UPLOADS_MIN: usize = 6;
/// The same in a store of a certain size: what all peers may ask of one that they share their requests among.
const UPLOADS_SHARED: usize = 128;
/// Answers that are sent side by side, the others wait for their turn. What is sent alone arrives sooner, and is passed on
/// sooner; with too few the link stands still between them.
pub const TURNS: usize = 6;
/// An answer that takes longer, over a slow link, lets the next one begin.
pub const TURN_ENDS_AFTER: Duration = Duration::from_millis(60);
/// An answer that takes longer than this does not count any more: a slow asker keeps nobody waiting.
pub const UPLOAD_COUNTS_FOR: Duration = Duration::from_millis(250);

/// How many answers a program with so many peers sends at once. A further request for a part is told that it is busy, and
/// its asker turns to who has it meanwhile; a request for the next part waits for its turn. Without this a part that one
/// machine of a large store has is asked of it by all the others, and the last one gets it when all have had it from the
/// same link.
pub fn uploads_max(peers: usize) -> usize {
    (UPLOADS_SHARED / peers.max(1)).clamp(UPLOADS_MIN, UPLOADS_MAX)
}

/// Who was given which part to pass on. One for each manifest that a source serves.
#[derive(Debug)]
pub struct Duty {
    state: Vec<State>,
    /// Parts are given in this rotation, so that two full sources begin at different places.
    first: u32,
    /// Nothing before this step of the rotation is left to give, as far as is known.
    next: u32,
    held: usize,
    /// How many parts each peer was given and has not announced.
    outstanding: BTreeMap<PeerId, usize>,
    /// Who is accused of wrong bytes: what only they have nobody has.
    suspects: BTreeSet<PeerId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The source does not have it yet.
    Absent,
    /// To be given.
    Free,
    /// Given to a peer that has not announced it yet.
    Given(PeerId),
    /// Somebody else has it: this one, or several.
    Seen(Option<PeerId>),
}

/// The answer to "the next one that nobody has".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Give {
    /// This one.
    Part(PartId),
    /// All that are here were given, more will come: ask again when one did.
    Later,
    /// Every part was given once.
    Exhausted,
}

impl Duty {
    /// A duty over `parts` parts, none of which is here yet. `rotation` is any number that differs from source to source.
    pub fn new(parts: u32, rotation: u64) -> Self {
        let first = u32::try_from(rotation % u64::from(parts.max(1))).unwrap_or(0);
        Self {
            state: vec![State::Absent; parts as usize],
            first,
            next: 0,
            held: 0,
            outstanding: BTreeMap::new(),
            suspects: BTreeSet::new(),
        }
    }

    /// The source has this part now.
    pub fn handle_held(&mut self, part: PartId) {
        if let Some(state) = self.state.get_mut(part.0 as usize)
            && *state == State::Absent
        {
            *state = State::Free;
            self.held += 1;
            self.rewind(part);
        }
    }

    /// The source has this part no longer: it turned out damaged.
    pub fn handle_lost(&mut self, part: PartId) {
        if let Some(state) = self.state.get_mut(part.0 as usize)
            && *state != State::Absent
        {
            let before = std::mem::replace(state, State::Absent);
            self.held -= 1;
            self.settle(before);
        }
    }

    /// A peer asks for the next part.
    pub fn give(&mut self, to: PeerId) -> Give {
        if self.suspects.contains(&to) {
            return Give::Exhausted;
        }
        let count = u32::try_from(self.state.len()).unwrap_or(u32::MAX);
        while self.next < count {
            let part = (self.first + self.next) % count;
            let state = &mut self.state[part as usize];
            if *state == State::Free {
                *state = State::Given(to);
                *self.outstanding.entry(to).or_default() += 1;
                self.next += 1;
                return Give::Part(PartId(part));
            }
            self.next += 1;
        }
        match self.state.contains(&State::Absent) {
            true => Give::Later,
            false => Give::Exhausted,
        }
    }

    /// Another peer announced parts.
    pub fn handle_have(&mut self, from: PeerId, parts: &[PartId]) {
        if self.suspects.contains(&from) {
            return;
        }
        for part in parts {
            let Some(state) = self.state.get_mut(part.0 as usize) else {
                continue;
            };
            let seen = match *state {
                State::Absent => continue,
                State::Seen(by) if by != Some(from) => State::Seen(None),
                _ => State::Seen(Some(from)),
            };
            let before = std::mem::replace(state, seen);
            self.settle(before);
        }
    }

    /// A peer is gone: what it was given and never announced goes back on the list.
    pub fn handle_peer_gone(&mut self, peer: PeerId) {
        self.suspects.remove(&peer);
        if self.outstanding.contains_key(&peer) {
            self.take_back(peer, |state| state == State::Given(peer));
        }
    }

    /// A peer is accused of wrong bytes: as long as its connection lasts it is given no first copies, and what only it has goes
    /// back on the list.
    pub fn handle_suspect(&mut self, peer: PeerId) {
        if self.suspects.insert(peer) {
            self.take_back(
                peer,
                |state| matches!(state, State::Given(p) | State::Seen(Some(p)) if p == peer),
            );
        }
    }

    /// How many parts the source has.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Whether a peer was given parts that it has not announced.
    pub fn waits_for(&self, peer: PeerId) -> bool {
        self.outstanding.contains_key(&peer)
    }

    fn take_back(&mut self, peer: PeerId, is_its: impl Fn(State) -> bool) {
        self.outstanding.remove(&peer);
        for at in 0..self.state.len() {
            if is_its(self.state[at]) {
                self.state[at] = State::Free;
                self.rewind(PartId(u32::try_from(at).unwrap_or(u32::MAX)));
            }
        }
    }

    /// A part's state has changed from this one.
    fn settle(&mut self, before: State) {
        let State::Given(peer) = before else { return };
        if let Some(count) = self.outstanding.get_mut(&peer) {
            *count -= 1;
            if *count == 0 {
                self.outstanding.remove(&peer);
            }
        }
    }

    fn rewind(&mut self, part: PartId) {
        let count = u32::try_from(self.state.len()).unwrap_or(u32::MAX);
        let step = (part.0 + count - self.first) % count;
        self.next = self.next.min(step);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PeerId = PeerId(1);
    const B: PeerId = PeerId(2);

    fn full(parts: u32, rotation: u64) -> Duty {
        let mut duty = Duty::new(parts, rotation);
        (0..parts).for_each(|c| duty.handle_held(PartId(c)));
        duty
    }

    fn invariant_nothing_twice(duty: &mut Duty, peers: &[PeerId]) -> Vec<PartId> {
        let mut given = Vec::new();
        for turn in 0.. {
            match duty.give(peers[turn % peers.len()]) {
                Give::Part(part) => {
                    assert!(!given.contains(&part), "{part:?} given twice");
                    given.push(part);
                }
                _ => return given,
            }
        }
        unreachable!()
    }

    #[test]
    fn every_part_is_given_once_in_rotation() {
        let given = invariant_nothing_twice(&mut full(5, 7), &[A, B]);
        assert_eq!(
            given.iter().map(|c| c.0).collect::<Vec<_>>(),
            [2, 3, 4, 0, 1]
        );
    }

    #[test]
    fn what_a_lost_peer_had_not_announced_goes_back() {
        let mut duty = full(4, 0);
        assert_eq!(duty.give(A), Give::Part(PartId(0)));
        assert_eq!(duty.give(A), Give::Part(PartId(1)));
        duty.handle_have(A, &[PartId(0)]);
        assert!(duty.waits_for(A) && !duty.waits_for(B));
        duty.handle_peer_gone(A);
        assert!(!duty.waits_for(A));
        assert_eq!(
            invariant_nothing_twice(&mut duty, &[B]),
            [PartId(1), PartId(2), PartId(3)]
        );
        assert_eq!(duty.give(B), Give::Exhausted);
    }

    #[test]
    fn what_only_a_suspect_has_goes_back_and_it_is_given_no_more() {
        let mut duty = full(5, 0);
        for _ in 0..3 {
            duty.give(A);
        }
        assert_eq!(duty.give(B), Give::Part(PartId(3)));
        duty.handle_have(A, &[PartId(0), PartId(1), PartId(3)]);
        duty.handle_have(B, &[PartId(1), PartId(3)]);
        duty.handle_suspect(A);
        assert_eq!(duty.give(A), Give::Exhausted);
        // says that it has what it was given before, and more
        duty.handle_have(A, &[PartId(0), PartId(2), PartId(4)]);
        assert!(!duty.waits_for(A));
        assert_eq!(
            invariant_nothing_twice(&mut duty, &[B]),
            [PartId(0), PartId(2), PartId(4)]
        );
    }

    #[test]
    fn a_source_that_is_still_fetching_says_later() {
        let mut duty = Duty::new(2, 0);
        assert_eq!(duty.give(A), Give::Later);
        duty.handle_held(PartId(1));
        assert_eq!(duty.give(A), Give::Part(PartId(1)));
        assert_eq!(duty.give(A), Give::Later);
        duty.handle_held(PartId(0));
        assert_eq!(duty.give(B), Give::Part(PartId(0)));
        assert_eq!(duty.give(B), Give::Exhausted);
    }

    #[test]
    fn a_small_store_never_hears_busy_and_a_large_one_soon() {
        // at most four requests of each neighbour, and no more than 16 of all (`swarm`)
        assert!((1..=4).all(|peers| uploads_max(peers) >= 4 * peers));
        assert!((5..=8).all(|peers| uploads_max(peers) >= 2 * peers));
        assert_eq!((uploads_max(0), uploads_max(200)), (16, 6));
    }

    #[test]
    fn parts_out_of_range_are_ignored() {
        let mut duty = Duty::new(0, 3);
        duty.handle_held(PartId(9));
        duty.handle_have(B, &[PartId(9)]);
        assert_eq!(duty.give(A), Give::Exhausted);
    }
}
