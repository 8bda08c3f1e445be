//! What an image is: chunks, objects, and the manifest that lists them.
//! Pure: bytes in, bytes or verified types out; no file, socket or clock.
//! Called by whoever stores, moves or writes images.
//!
//! The format is specified in `docs/protocol/image-format.md`.

mod chunk;
mod manifest;
mod part;

pub use chunk::{
    CHUNK_BYTES, ChunkCodec, ChunkHash, EncodedObject, Form, InvalidChunkError, OBJECT_BYTES_MAX,
    ObjectHash, PartHash, VerifiedChunk, VerifiedObject, encode_object, is_zero, reference,
};
pub use manifest::{
    Architecture, BundleFile, ChunkId, ChunkRecord, Customisation, DeltaRecord,
    MANIFEST_CHUNKS_MAX, MANIFEST_DELTA_REFERENCES_MAX, Manifest, ManifestKind, Needs,
    PartitionSummary, Placement,
};
pub use part::{Assembly, PART_BYTES, PartId, PartTable, VerifiedPart, part_count};

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "small test inputs")]
mod tests;
