//! The placement: rendezvous hashing with bounded load. A pure function of its inputs, in whole numbers, so that it is the
//! same on every node.

use std::collections::{BTreeMap, BTreeSet};

use image_format::ChunkHash;
use trust_format::MachineId;

use super::{COPIES, SAFE_COPIES};
use crate::mix;

/// Nobody is filled more than this part above everybody's mean: who is full early leaves chunks to those that have them.
const ABOVE_MEAN: u128 = 32;

/// Something to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Room that it takes in a slab.
    pub bytes: u64,
    /// Every node needs it, whatever its room: machines boot from any.
    pub everywhere: bool,
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

    /// Whether `me` may give up its copy of a chunk, when these live nodes hold one: it is not part of its share, and enough of
    /// those whose share it is have it. They do not give it up while this placement is in force.
    pub fn may_go(&self, me: &MachineId, chunk: &ChunkHash, holders: &BTreeSet<MachineId>) -> bool {
        let keepers: Vec<MachineId> = self.keepers(chunk).collect();
        let safe = keepers.iter().filter(|k| holders.contains(k)).count();
        !keepers.contains(me) && safe >= SAFE_COPIES.min(keepers.len().max(1))
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
    for _ in 0..copies {
        for (hash, bytes) in &pieces {
            let keepers = owners.entry(**hash).or_default();
            placed += u128::from(*bytes);
            // everybody's fair part of what is placed so far, a little more, and the one piece that does not fit evenly
            let bound = |bin: &Bin| {
                let mean = placed * u128::from(bin.room) / rooms.max(1);
                mean + mean / ABOVE_MEAN + u128::from(largest)
            };
            let chunk = number(&hash.0);
            let best = bins
                .iter_mut()
                .filter(|bin| bin.load + bytes <= bin.room && !keepers.contains(&bin.member))
                .max_by_key(|bin| {
                    let within = u128::from(bin.load + bytes) <= bound(bin);
                    (within, mix(bin.number, chunk), bin.member)
                });
            match best {
                Some(bin) => {
                    bin.load += bytes;
                    keepers.push(bin.member);
                }
                None => placed -= u128::from(*bytes),
            }
        }
    }
    owners
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
