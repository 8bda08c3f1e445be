//! Which node of a site keeps which chunks, when not every node can hold everything.
//!
//! Every node draws the same conclusion from the same inputs: who belongs to the site, how much room each has, and what
//! is assigned. Nothing is voted on. While views differ a chunk has more copies than it needs, never fewer, because
//! nothing goes before all agree ([`Spread::agrees`]). Why so: `docs/design/0010-spread-and-last-copy.md`.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use trust_format::MachineId;

mod place;

pub use place::{MayGo, Piece, Placement};

/// Copies of each chunk where there are nodes and room: any two may vanish.
pub const COPIES: usize = 3;
/// What a node keeps beyond its share goes freely when so many of those whose share it is hold it, or all if there are fewer.
pub const SAFE_COPIES: usize = 2;
/// Nodes of a site that take part; further ones keep what they like.
pub const MEMBERS_MAX: usize = 256;
/// How long the view of the site must hold before chunks move: a store that powers up finds itself first.
pub const SETTLE: Duration = Duration::from_secs(3);
/// A node that was not heard of for so long does not come back: longer than a long weekend.
pub const LEFT_AFTER: Duration = Duration::from_secs(72 * 3600);
/// How often nodes tell each other of everybody, beside at once when something changed.
pub const TELL_EVERY: Duration = Duration::from_secs(10);

/// What one node tells another of a third, or of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Word {
    /// The machine that the node runs on: a node that was imaged again is the same member.
    pub member: MachineId,
    /// Room for objects, in bytes of the slab.
    pub room_bytes: u64,
    /// For how long nobody was connected to it; zero of the speaker itself.
    pub unheard: Duration,
}

/// What the shell has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Compute the placement anew for [`Spread::members`].
    Place,
    /// Tell every connected node [`Spread::words`] and which placement is in force.
    Tell,
}

#[derive(Debug, Clone, Copy)]
struct Heard {
    room_bytes: u64,
    /// At `at`.
    unheard: Duration,
    at: Duration,
}

impl Heard {
    fn unheard(&self, now: Duration) -> Duration {
        self.unheard + now.saturating_sub(self.at)
    }
}

/// One node's view of who belongs to its site.
#[derive(Debug)]
pub struct Spread {
    me: MachineId,
    room_bytes: u64,
    others: BTreeMap<MachineId, Heard>,
    live: BTreeSet<MachineId>,
    /// The placement that each live node said it goes by.
    said: BTreeMap<MachineId, u64>,
    seen: BTreeMap<MachineId, u64>,
    changed: Duration,
    settled: Option<BTreeMap<MachineId, u64>>,
    next_tell: Duration,
    actions: VecDeque<Action>,
}

impl Spread {
    /// The view of a node that has met nobody yet.
    pub fn new(now: Duration, me: MachineId, room_bytes: u64) -> Self {
        Self {
            me,
            room_bytes,
            others: BTreeMap::new(),
            live: BTreeSet::new(),
            said: BTreeMap::new(),
            seen: BTreeMap::new(),
            changed: now,
            settled: None,
            next_tell: now,
            actions: VecDeque::new(),
        }
    }

    /// This node's room changed.
    pub fn handle_room(&mut self, room_bytes: u64) {
        self.room_bytes = room_bytes;
    }

    /// The nodes with a live authenticated connection that said how much room they have.
    pub fn handle_live(&mut self, now: Duration, live: &BTreeMap<MachineId, u64>) {
        for (member, room_bytes) in live {
            if *member != self.me && self.may_join(member) {
                let heard = Heard {
                    room_bytes: *room_bytes,
                    unheard: Duration::ZERO,
                    at: now,
                };
                self.others.insert(*member, heard);
            }
        }
        self.said.retain(|member, _| live.contains_key(member));
        self.live = live.keys().copied().filter(|m| *m != self.me).collect();
    }

    /// What another node said of the site, or what this one knew before it was started.
    pub fn handle_words(&mut self, now: Duration, words: &[Word]) {
        for word in words {
            let known = self.others.get(&word.member);
            let newer = known.is_none_or(|known| word.unheard < known.unheard(now));
            let apart = word.member != self.me && !self.live.contains(&word.member);
            if apart && newer && word.unheard < LEFT_AFTER && self.may_join(&word.member) {
                let heard = Heard {
                    room_bytes: word.room_bytes,
                    unheard: word.unheard,
                    at: now,
                };
                self.others.insert(word.member, heard);
            }
        }
    }

    /// A live node goes by this placement.
    pub fn handle_placement_of(&mut self, member: MachineId, digest: u64) {
        self.said.insert(member, digest);
    }

    /// A node lost its right to be here.
    pub fn handle_revoked(&mut self, member: &MachineId) {
        self.others.remove(member);
        self.live.remove(member);
        self.said.remove(member);
    }

    /// The assigned versions changed: what to place is not what it was.
    pub fn handle_versions(&mut self) {
        if self.settled.is_some() {
            self.actions.push_back(Action::Place);
            self.actions.push_back(Action::Tell);
        }
    }

    /// A deadline of [`Self::poll_timeout`] passed.
    pub fn handle_timeout(&mut self, now: Duration) {
        let live = &self.live;
        self.others
            .retain(|member, heard| live.contains(member) || heard.unheard(now) < LEFT_AFTER);
        let seen: BTreeMap<MachineId, u64> = self
            .others
            .iter()
            .map(|(member, heard)| (*member, heard.room_bytes))
            .chain([(self.me, self.room_bytes)])
            .collect();
        if seen != self.seen {
            self.seen = seen;
            self.changed = now;
            self.next_tell = now;
        }
        let settled = now >= self.changed + SETTLE;
        if settled && self.settled.as_ref() != Some(&self.seen) {
            self.settled = Some(self.seen.clone());
            self.actions.push_back(Action::Place);
            self.next_tell = now;
        }
        if now >= self.next_tell {
            self.next_tell = now + TELL_EVERY;
            self.actions.push_back(Action::Tell);
        }
    }

    /// When [`Self::handle_timeout`] wants to be called at the latest.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let place = (self.settled.as_ref() != Some(&self.seen)).then_some(self.changed + SETTLE);
        Some(place.map_or(self.next_tell, |place| place.min(self.next_tell)))
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Who shares the site's chunks, this node included, and how much room each has; `None` until that has settled.
    pub fn members(&self) -> Option<&BTreeMap<MachineId, u64>> {
        self.settled.as_ref()
    }

    /// Those that are connected.
    pub fn live(&self) -> &BTreeSet<MachineId> {
        &self.live
    }

    /// What to tell others, and to remember.
    pub fn words(&self, now: Duration) -> Vec<Word> {
        let others = self.others.iter().map(|(member, heard)| Word {
            member: *member,
            room_bytes: heard.room_bytes,
            unheard: match self.live.contains(member) {
                true => Duration::ZERO,
                false => heard.unheard(now),
            },
        });
        let me = Word {
            member: self.me,
            room_bytes: self.room_bytes,
            unheard: Duration::ZERO,
        };
        others.chain([me]).take(MEMBERS_MAX).collect()
    }

    /// Whether every live node goes by this placement. Before that nothing is given up.
    pub fn agrees(&self, digest: u64) -> bool {
        self.live
            .iter()
            .all(|member| self.said.get(member) == Some(&digest))
    }

    fn may_join(&self, member: &MachineId) -> bool {
        self.others.contains_key(member) || self.others.len() + 1 < MEMBERS_MAX
    }
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "small test inputs")]
mod tests;
