//! Parts: what one answer of a peer carries. Each is checked by itself, so it can be passed on before its object is whole.
//!
//! An object's hash is BLAKE3, a tree; a part's hash is the chaining value of the subtree over the part's bytes. So the
//! hashes of an object's parts make the object's hash, and bytes are hashed once.

use std::{collections::BTreeSet, ops::Range};

use blake3::hazmat::{self, HasherExt, Mode};
use bytes::Bytes;

use crate::{
    chunk::{InvalidChunkError, ObjectHash, PartHash, VerifiedObject},
    manifest::{ChunkId, ChunkRecord, Manifest},
};

/// Length of a part; the last one of an object may be shorter. A subtree of BLAKE3, so a power of two of its 1 KiB chunks.
pub const PART_BYTES: usize = 256 << 10;

/// Index of a part, counted through all objects of a manifest in the order of their chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartId(pub u32);

/// How many parts an object of this length has.
pub fn part_count(object_bytes: u32) -> u32 {
    object_bytes.div_ceil(1 << PART_BYTES.trailing_zeros())
}

fn range(object_bytes: u32, index: u32) -> Option<Range<usize>> {
    let first = index as usize * PART_BYTES;
    let end = (first + PART_BYTES).min(object_bytes as usize);
    (first < end).then_some(first..end)
}

/// The hashes of an object's parts. One part needs none: the object's hash is its own.
pub(crate) fn hashes_of(object: &[u8]) -> (ObjectHash, Vec<PartHash>) {
    if object.len() <= PART_BYTES {
        return (ObjectHash::of(object), Vec::new());
    }
    let parts: Vec<PartHash> = object
        .chunks(PART_BYTES)
        .enumerate()
        .map(|(n, part)| hash_of_one(n * PART_BYTES, part))
        .collect();
    (root(&parts), parts)
}

fn hash_of_one(offset: usize, part: &[u8]) -> PartHash {
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(offset as u64);
    PartHash(hasher.update(part).finalize_non_root())
}

/// The object's hash, of at least two parts.
pub(crate) fn root(parts: &[PartHash]) -> ObjectHash {
    let (left, right) = parts.split_at(left_parts(parts.len()));
    let hash = hazmat::merge_subtrees_root(&subtree(left), &subtree(right), Mode::Hash);
    ObjectHash(*hash.as_bytes())
}

fn subtree(parts: &[PartHash]) -> [u8; 32] {
    match parts {
        [] => [0; 32],
        [one] => one.0,
        several => {
            let (left, right) = several.split_at(left_parts(several.len()));
            hazmat::merge_subtrees_non_root(&subtree(left), &subtree(right), Mode::Hash)
        }
    }
}

/// The left subtree is the largest power of two that leaves something for the right one.
fn left_parts(parts: usize) -> usize {
    parts.div_ceil(2).next_power_of_two()
}

impl ChunkRecord {
    /// How many parts the object has.
    pub fn part_count(&self) -> u32 {
        part_count(self.object_bytes)
    }

    /// Where a part stands in its object; `None` behind the end.
    pub fn part_range(&self, index: u32) -> Option<Range<usize>> {
        range(self.object_bytes, index)
    }

    /// Whether a part of this length can be what is listed, before a byte of it is read.
    ///
    /// # Errors
    /// [`InvalidChunkError::Length`], the sender's fault.
    pub fn check_part_length(&self, index: u32, bytes: usize) -> Result<(), InvalidChunkError> {
        let expected = self.part_range(index).map_or(0, |r| r.len());
        match bytes == expected && expected > 0 {
            true => Ok(()),
            false => Err(InvalidChunkError::Length {
                chunk: self.hash,
                expected,
                found: bytes,
            }),
        }
    }
}

/// An object of which some parts are here. Every part in it was checked.
#[derive(Debug)]
pub struct Assembly {
    record: ChunkRecord,
    parts: Vec<Option<Bytes>>,
}

/// Bytes of a part whose hash is the manifest's. An [`Assembly`] takes nothing else.
#[derive(Debug)]
pub struct VerifiedPart {
    object: ObjectHash,
    index: u32,
    bytes: Bytes,
}

impl VerifiedPart {
    /// Checks a part against the manifest's record of its chunk. `index` counts the object's parts.
    ///
    /// # Errors
    /// [`InvalidChunkError`], the sender's fault.
    pub fn check(
        record: &ChunkRecord,
        index: u32,
        bytes: Bytes,
    ) -> Result<Self, InvalidChunkError> {
        record.check_part_length(index, bytes.len())?;
        let (expected, found) = match record.parts.get(index as usize) {
            Some(hash) => (*hash, hash_of_one(index as usize * PART_BYTES, &bytes)),
            None => (
                PartHash(record.object_hash.0),
                PartHash(ObjectHash::of(&bytes).0),
            ),
        };
        if expected != found {
            return Err(InvalidChunkError::PartHash {
                chunk: record.hash,
                part: index,
                expected,
                found,
            });
        }
        Ok(Self {
            object: record.object_hash,
            index,
            bytes,
        })
    }
}

impl Assembly {
    /// Of an object of which nothing is here.
    pub fn new(record: &ChunkRecord) -> Self {
        Self {
            parts: vec![None; record.part_count() as usize],
            record: record.clone(),
        }
    }

    /// Takes a part. One of another object is ignored.
    pub fn add(&mut self, part: VerifiedPart) {
        if part.object == self.record.object_hash
            && let Some(place) = self.parts.get_mut(part.index as usize)
        {
            *place = Some(part.bytes);
        }
    }

    /// A part that is here, to pass on.
    pub fn part(&self, index: u32) -> Option<&Bytes> {
        self.parts.get(index as usize)?.as_ref()
    }

    /// The object, once every part is here. Its bytes were hashed part by part, and stay where they are.
    pub fn object(&self) -> Option<VerifiedObject> {
        let parts: Vec<Bytes> = self.parts.iter().cloned().collect::<Option<_>>()?;
        Some(VerifiedObject::of_checked_parts(self.record.clone(), parts))
    }
}

/// Which parts belong to which chunk, for a whole manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartTable {
    /// The first part of each chunk, and behind the last chunk the number of parts.
    first: Vec<u32>,
    /// The chunk of each part.
    chunk: Vec<u32>,
}

impl PartTable {
    /// Of a manifest's objects.
    pub fn of(manifest: &Manifest) -> Self {
        Self::of_counts(manifest.chunks.iter().map(ChunkRecord::part_count))
    }

    /// Of chunks with these numbers of parts.
    pub fn of_counts(counts: impl IntoIterator<Item = u32>) -> Self {
        let (mut first, mut chunk) = (vec![0], Vec::new());
        for (n, count) in (0u32..).zip(counts) {
            chunk.extend(std::iter::repeat_n(n, count as usize));
            first.push(u32::try_from(chunk.len()).unwrap_or(u32::MAX));
        }
        Self { first, chunk }
    }

    /// How many parts there are.
    pub fn part_count(&self) -> u32 {
        self.first.last().copied().unwrap_or(0)
    }

    /// How many chunks there are.
    pub fn chunk_count(&self) -> u32 {
        u32::try_from(self.first.len() - 1).unwrap_or(u32::MAX)
    }

    /// A chunk's parts; none for a chunk that does not exist.
    pub fn parts_of(&self, chunk: ChunkId) -> impl Iterator<Item = PartId> + use<> {
        let at = chunk.0 as usize;
        let range = match (self.first.get(at), self.first.get(at + 1)) {
            (Some(first), Some(end)) => *first..*end,
            _ => 0..0,
        };
        range.map(PartId)
    }

    /// The chunk that a part belongs to, and which of its parts it is.
    pub fn place_of(&self, part: PartId) -> Option<(ChunkId, u32)> {
        let chunk = *self.chunk.get(part.0 as usize)?;
        Some((ChunkId(chunk), part.0 - self.first[chunk as usize]))
    }

    /// The chunks that these parts belong to, each once, in order.
    pub fn chunks_of(&self, parts: impl IntoIterator<Item = PartId>) -> Vec<ChunkId> {
        let chunks: BTreeSet<ChunkId> = parts
            .into_iter()
            .filter_map(|part| self.place_of(part))
            .map(|(chunk, _)| chunk)
            .collect();
        chunks.into_iter().collect()
    }
}
