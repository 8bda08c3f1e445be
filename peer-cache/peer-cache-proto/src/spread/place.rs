//! The placement: rendezvous hashing with bounded load. A pure function of its inputs, in whole numbers, so that it is the
//! same on every node.

use std::collections::{BTreeMap, BTreeSet};

use image_format::ChunkHash;
use trust_format::MachineId;

use super::{COPIES, SAFE_COPIES};
use crate::mix;

/// Nobody is filled more than this part above everybody's mean: who is full early leaves chunks to those that have them.
const ABOVE_MEAN: u128 = 32;

/// How often a piece is made way for by moving others; each looks through all pieces.
const TRIES_MAX: usize = 512;

/// Something to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Room that it takes in a slab.
    pub bytes: u64,
    /// Every node needs it, whatever its room: machines boot from any.
    pub everywhere: bool,
}

/// Whether a copy may be given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum MayGo {
    /// It is safe with others.
    Freely,
    /// One of those whose share it is holds it, the others do not yet: only when a chunk of the own share has no room. Without
    /// this, nodes that are full of what the others are to take wait for each other.
    WhenNeeded,
    /// It may be the last one, or it is part of the share.
    Stays,
}

/// Who keeps what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placement {
    /// Who has room for everything and keeps it.
    whole: BTreeSet<MachineId>,
    /// For each chunk those of the others that keep it.
    owners: BTreeMap<ChunkHash, Vec<MachineId>>,
    others: BTreeSet<MachineId>,
    everywhere: BTreeSet<ChunkHash>,
    digest: u64,
}

struct Bin {
    member: MachineId,
    number: u64,
    room: u64,
    load: u64,
}

impl Placement {
    /// Places pieces on members by their room. Everybody's first copy comes before anybody's second.
    pub fn of(members: &BTreeMap<MachineId, u64>, pieces: &BTreeMap<ChunkHash, Piece>) -> Self {
        let total: u64 = pieces.values().map(|p| p.bytes).sum();
        let boot: u64 = pieces
            .values()
            .filter(|p| p.everywhere)
            .map(|p| p.bytes)
            .sum();
        let (whole, others): (BTreeMap<MachineId, u64>, BTreeMap<MachineId, u64>) =
            members.iter().partition(|(_, room)| **room >= total);
        let mut bins: Vec<Bin> = others
            .iter()
            .map(|(member, room)| Bin {
                member: *member,
                number: number(&member.0),
                room: room.saturating_sub(boot),
                load: 0,
            })
            .collect();
        // those that hold everything are copies already; one more is of use to whoever downloads
        let copies = COPIES.saturating_sub(whole.len()).max(1);
        Self {
            owners: spread(&mut bins, pieces, copies),
            whole: whole.into_keys().collect(),
            others: others.into_keys().collect(),
            everywhere: pieces
                .iter()
                .filter(|(_, piece)| piece.everywhere)
                .map(|(hash, _)| *hash)
                .collect(),
            digest: digest(members, pieces),
        }
    }

    /// Whether a member has room for everything.
    pub fn keeps_everything(&self, member: &MachineId) -> bool {
        self.whole.contains(member)
    }

    /// Whether a chunk is part of a member's share.
    pub fn keeps(&self, member: &MachineId, chunk: &ChunkHash) -> bool {
        self.whole.contains(member)
            || (self.others.contains(member) && self.everywhere.contains(chunk))
            || self
                .owners
                .get(chunk)
                .is_some_and(|owners| owners.contains(member))
    }

    /// Those whose share a chunk is part of.
    pub fn keepers<'a>(&'a self, chunk: &'a ChunkHash) -> impl Iterator<Item = MachineId> + 'a {
        let all = self.whole.iter().chain(&self.others);
        all.filter(|member| self.keeps(member, chunk)).copied()
    }

    /// Whether and when `me` may give up its copy of a chunk, when these live nodes hold one. Those whose share it is do not give it
    /// up while this placement is in force.
    pub fn may_go(
        &self,
        me: &MachineId,
        chunk: &ChunkHash,
        holders: &BTreeSet<MachineId>,
    ) -> MayGo {
        let keepers: Vec<MachineId> = self.keepers(chunk).collect();
        let safe = keepers.iter().filter(|k| holders.contains(k)).count();
        match safe {
            _ if keepers.contains(me) => MayGo::Stays,
            0 => MayGo::Stays,
            _ if safe >= SAFE_COPIES.min(keepers.len()) => MayGo::Freely,
            _ => MayGo::WhenNeeded,
        }
    }

    /// The same for all that were given the same.
    pub fn digest(&self) -> u64 {
        self.digest
    }
}

fn spread(
    bins: &mut [Bin],
    pieces: &BTreeMap<ChunkHash, Piece>,
    copies: usize,
) -> BTreeMap<ChunkHash, Vec<MachineId>> {
    let pieces: Vec<(&ChunkHash, u64)> = pieces
        .iter()
        .filter(|(_, piece)| !piece.everywhere)
        .map(|(hash, piece)| (hash, piece.bytes))
        .collect();
    let largest = pieces.iter().map(|(_, bytes)| *bytes).max().unwrap_or(0);
    let rooms: u128 = bins.iter().map(|bin| u128::from(bin.room)).sum();
    let mut owners: BTreeMap<ChunkHash, Vec<MachineId>> = BTreeMap::new();
    let mut placed: u128 = 0;
    let mut tries = 0;
    for _ in 0..copies {
        for (hash, bytes) in &pieces {
            let keepers = owners.get(*hash).cloned().unwrap_or_default();
            placed += u128::from(*bytes);
            // everybody's fair part of what is placed so far, a little more, and the one piece that does not fit evenly
            let bound = |bin: &Bin| {
                let mean = placed * u128::from(bin.room) / rooms.max(1);
                mean + mean / ABOVE_MEAN + u128::from(largest)
            };
            let chunk = number(&hash.0);
            let best = bins
                .iter()
                .enumerate()
                .filter(|(_, bin)| bin.load + bytes <= bin.room && !keepers.contains(&bin.member))
                .max_by_key(|(_, bin)| {
                    let within = u128::from(bin.load + bytes) <= bound(bin);
                    (within, mix(bin.number, chunk), bin.member)
                })
                .map(|(at, _)| at);
            if let Some(at) = best {
                bins[at].load += bytes;
                owners.entry(**hash).or_default().push(bins[at].member);
            } else if !make_way(bins, &pieces, &mut owners, (hash, *bytes), &mut tries) {
                placed -= u128::from(*bytes);
            }
        }
    }
    owners
}

/// Who has room has the piece already: somebody else's pieces go there, as few as make enough room, and this one in their stead.
fn make_way(
    bins: &mut [Bin],
    pieces: &[(&ChunkHash, u64)],
    owners: &mut BTreeMap<ChunkHash, Vec<MachineId>>,
    (hash, bytes): (&ChunkHash, u64),
    tries: &mut usize,
) -> bool {
    let keepers = owners.get(hash).cloned().unwrap_or_default();
    let (has, has_not): (Vec<usize>, Vec<usize>) =
        (0..bins.len()).partition(|at| keepers.contains(&bins[*at].member));
    let free = |bins: &[Bin], at: usize| bins[at].room - bins[at].load;
    for roomy in has {
        for full in &has_not {
            let least = bytes.saturating_sub(free(bins, *full));
            if free(bins, roomy) < least || *tries >= TRIES_MAX {
                continue;
            }
            *tries += 1;
            let (to, from) = (bins[roomy].member, bins[*full].member);
            let mut others: Vec<(&ChunkHash, u64)> = pieces
                .iter()
                .filter(|(other, _)| {
                    let of = owners.get(*other);
                    of.is_some_and(|of| of.contains(&from) && !of.contains(&to))
                })
                .copied()
                .collect();
            others.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
            let mut moved = 0;
            others.retain(|(_, bytes)| {
                let goes = moved < least && moved + bytes <= free(bins, roomy);
                moved += if goes { *bytes } else { 0 };
                goes
            });
            if moved < least {
                continue;
            }
            for (other, _) in others {
                for keeper in owners.get_mut(other).into_iter().flatten() {
                    if *keeper == from {
                        *keeper = to;
                    }
                }
            }
            owners.entry(*hash).or_default().push(from);
            bins[roomy].load += moved;
            bins[*full].load = bins[*full].load - moved + bytes;
            return true;
        }
    }
    false
}

fn number(bytes: &[u8]) -> u64 {
    bytes
        .chunks_exact(8)
        .fold(0, |so_far, eight| match eight.try_into() {
            Ok(eight) => mix(so_far, u64::from_le_bytes(eight)),
            Err(_) => so_far,
        })
}

fn digest(members: &BTreeMap<MachineId, u64>, pieces: &BTreeMap<ChunkHash, Piece>) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for (member, room) in members {
        hasher.update(&member.0).update(&room.to_le_bytes());
    }
    for (hash, piece) in pieces {
        hasher
            .update(&hash.0)
            .update(&piece.bytes.to_le_bytes())
            .update(&[u8::from(piece.everywhere)]);
    }
    number(&hasher.finalize().as_bytes()[..8])
}
