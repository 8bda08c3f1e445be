//! A record's header: what follows it, for how long, and a checksum over itself.

use image_format::{ChunkHash, Form, OBJECT_BYTES_MAX, ObjectHash};

/// Records begin on pages of this size.
pub(super) const PAGE: u64 = 4096;
/// The object's bytes begin this far into the record.
pub(super) const HEADER_BYTES: usize = 128;
const MAGIC: &[u8; 4] = b"LREC";

pub(super) fn page_usize() -> usize {
    usize::try_from(PAGE).unwrap_or(4096)
}

/// What an object takes of a slab, header and padding included.
pub fn record_bytes(object_bytes: u32) -> u64 {
    (HEADER_BYTES as u64 + u64::from(object_bytes)).next_multiple_of(PAGE)
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) form: Form,
    pub(super) chunk: ChunkHash,
    /// Of the bytes that follow.
    pub(super) object: ObjectHash,
    pub(super) bytes: u32,
    /// Grows with each record written; of two records of one chunk the newer counts.
    pub(super) generation: u64,
}

impl Header {
    /// Bytes on the medium, header and padding included.
    pub(super) fn extent(&self) -> u64 {
        record_bytes(self.bytes)
    }

    pub(super) fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[..4].copy_from_slice(MAGIC);
        out[4] = self.form as u8;
        out[8..40].copy_from_slice(&self.chunk.0);
        out[40..72].copy_from_slice(&self.object.0);
        out[72..76].copy_from_slice(&self.bytes.to_le_bytes());
        out[76..84].copy_from_slice(&self.generation.to_le_bytes());
        let crc = crc32fast::hash(&out[..HEADER_BYTES - 4]);
        out[HEADER_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (body, crc) = bytes.split_last_chunk::<4>()?;
        if bytes.len() != HEADER_BYTES
            || &body[..4] != MAGIC
            || crc32fast::hash(body) != u32::from_le_bytes(*crc)
        {
            return None;
        }
        let header = Self {
            form: Form::from_number(body[4])?,
            chunk: ChunkHash(body[8..40].try_into().ok()?),
            object: ObjectHash(body[40..72].try_into().ok()?),
            bytes: u32::from_le_bytes(body[72..76].try_into().ok()?),
            generation: u64::from_le_bytes(body[76..84].try_into().ok()?),
        };
        (header.bytes as usize <= OBJECT_BYTES_MAX).then_some(header)
    }
}
