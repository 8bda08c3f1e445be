//! A chunk's plain bytes, the object it travels as, and the two checks between them.

use std::fmt;

use bytes::Bytes;
use thiserror::Error;

use crate::{manifest::ChunkRecord, part};

/// Size of a chunk, and the alignment of its place on the disk. The last chunk of a disk may be shorter.
pub const CHUNK_BYTES: usize = 1 << 20;
/// Longest object: no object is longer than its chunk.
pub const OBJECT_BYTES_MAX: usize = CHUNK_BYTES;

macro_rules! hash {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 32]);

        impl $name {
            /// The hash of `bytes`.
            pub fn of(bytes: &[u8]) -> Self {
                Self(*blake3::hash(bytes).as_bytes())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0[..6].iter().try_for_each(|b| write!(f, "{b:02x}"))
            }
        }
    };
}

hash!(
    /// BLAKE3 of a chunk's plain bytes: the chunk's identity.
    ChunkHash
);
hash!(
    /// BLAKE3 of an object's bytes as they travel.
    ObjectHash
);

hash!(
    /// BLAKE3's chaining value of a part of an object that has several; see [`crate::VerifiedPart`].
    PartHash
);

/// In which form a chunk travels. The number is on the wire and in the slab's index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Form {
    /// As published: a zstd frame with a hash of its own in the manifest, or the plain bytes where no frame is shorter.
    Object = 0,
    /// As published, compressed against chunks of an earlier version.
    Delta = 1,
    /// From a peer that has only the plain bytes: made by itself as an object is, known by the plain hash alone.
    Rebuilt = 2,
}

impl Form {
    /// The form with this number.
    pub fn from_number(number: u8) -> Option<Self> {
        [Self::Object, Self::Delta, Self::Rebuilt]
            .into_iter()
            .find(|f| *f as u8 == number)
    }
}

/// Why bytes are not the chunk they were sent as. It is always the sender's fault, and asking somebody else helps.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidChunkError {
    /// The object's length differs from the manifest's.
    #[error("object of chunk {chunk} has {found} bytes instead of {expected}")]
    Length {
        /// The chunk asked for.
        chunk: ChunkHash,
        /// In the manifest.
        expected: usize,
        /// Received.
        found: usize,
    },
    /// The object's hash differs from the manifest's.
    #[error("object of chunk {chunk} has hash {found} instead of {expected}")]
    ObjectHash {
        /// The chunk asked for.
        chunk: ChunkHash,
        /// In the manifest.
        expected: ObjectHash,
        /// Received.
        found: ObjectHash,
    },
    /// A part's hash differs from the manifest's.
    #[error("part {part} of the object of chunk {chunk} has hash {found} instead of {expected}")]
    PartHash {
        /// The chunk asked for.
        chunk: ChunkHash,
        /// Which part of its object.
        part: u32,
        /// In the manifest.
        expected: PartHash,
        /// Received.
        found: PartHash,
    },
    /// The frame does not unpack to the chunk's length.
    #[error("object of chunk {chunk} does not unpack: {reason}")]
    Frame {
        /// The chunk asked for.
        chunk: ChunkHash,
        /// What the decompressor said.
        reason: String,
    },
    /// The plain bytes have another hash.
    #[error("chunk {expected} unpacked to {found}")]
    ChunkHash {
        /// In the manifest.
        expected: ChunkHash,
        /// Received.
        found: ChunkHash,
    },
}

/// An object and its hashes, as made at publish time.
#[derive(Debug, Clone)]
pub struct EncodedObject {
    /// Of `bytes`.
    pub hash: ObjectHash,
    /// Of its parts, where it has more than one.
    pub parts: Vec<PartHash>,
    /// A zstd frame, or the plain bytes where the frame would not be shorter.
    pub bytes: Bytes,
}

impl EncodedObject {
    /// Hashes an object's bytes.
    pub fn of(bytes: Bytes) -> Self {
        let (hash, parts) = part::hashes_of(&bytes);
        Self { hash, parts, bytes }
    }
}

/// Compresses a chunk. What does not compress stays as it is, which also saves every receiver the unpacking.
///
/// # Errors
/// [`InvalidChunkError::Frame`] when zstd fails, which it does for lack of memory only.
pub fn encode_object(
    plain: &[u8],
    codec: &mut ChunkCodec,
) -> Result<EncodedObject, InvalidChunkError> {
    let frame = |e: std::io::Error| InvalidChunkError::Frame {
        chunk: ChunkHash::of(plain),
        reason: e.to_string(),
    };
    let packed = codec.compressor.compress(plain).map_err(frame)?;
    Ok(EncodedObject::of(match packed.len() < plain.len() {
        true => packed.into(),
        false => Bytes::copy_from_slice(plain),
    }))
}

/// Compression contexts of one thread, reused from chunk to chunk.
pub struct ChunkCodec {
    compressor: zstd::bulk::Compressor<'static>,
    decompressor: zstd::bulk::Decompressor<'static>,
    /// A frame that came in several pieces.
    frame: Vec<u8>,
}

impl ChunkCodec {
    /// Contexts that compress at `level` (zstd's 1 to 22).
    ///
    /// # Errors
    /// When zstd cannot be given memory.
    pub fn new(level: i32) -> std::io::Result<Self> {
        let mut compressor = zstd::bulk::Compressor::new(level)?;
        compressor.set_parameter(zstd::zstd_safe::CParameter::ContentSizeFlag(true))?;
        Ok(Self {
            compressor,
            decompressor: zstd::bulk::Decompressor::new()?,
            frame: Vec::new(),
        })
    }
}

impl fmt::Debug for ChunkCodec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChunkCodec")
    }
}

/// Object bytes whose length and hash are the manifest's. Only such bytes reach the decompressor, the slab and other peers.
#[derive(Debug, Clone)]
pub struct VerifiedObject {
    record: ChunkRecord,
    /// In order; as they came, because joining them costs a copy.
    pieces: Vec<Bytes>,
}

impl VerifiedObject {
    /// Checks an object against the manifest's record of its chunk.
    ///
    /// # Errors
    /// [`InvalidChunkError`].
    pub fn check(record: &ChunkRecord, bytes: Bytes) -> Result<Self, InvalidChunkError> {
        let expected = record.object_bytes as usize;
        if bytes.len() != expected {
            return Err(InvalidChunkError::Length {
                chunk: record.hash,
                expected,
                found: bytes.len(),
            });
        }
        let found = ObjectHash::of(&bytes);
        if found != record.object_hash {
            return Err(InvalidChunkError::ObjectHash {
                chunk: record.hash,
                expected: record.object_hash,
                found,
            });
        }
        Ok(Self {
            record: record.clone(),
            pieces: vec![bytes],
        })
    }

    /// Of all parts of this record, each checked against it.
    pub(crate) fn of_checked_parts(record: ChunkRecord, parts: Vec<Bytes>) -> Self {
        Self {
            record,
            pieces: parts,
        }
    }

    /// The manifest's record of the chunk.
    pub fn record(&self) -> &ChunkRecord {
        &self.record
    }

    /// The bytes to store or pass on, piece after piece.
    pub fn pieces(&self) -> &[Bytes] {
        &self.pieces
    }

    /// The same in one; a copy, if they came in several.
    pub fn to_bytes(&self) -> Bytes {
        match &self.pieces[..] {
            [whole] => whole.clone(),
            several => several.concat().into(),
        }
    }

    /// Unpacks into `buffer`, which needs room for the chunk, and checks the plain hash.
    ///
    /// # Errors
    /// [`InvalidChunkError`]: then the publisher made a wrong object.
    pub fn unpack<B: AsMut<[u8]> + AsRef<[u8]>>(
        &self,
        codec: &mut ChunkCodec,
        buffer: B,
    ) -> Result<VerifiedChunk<B>, InvalidChunkError> {
        if self.record.object_hash.0 != self.record.hash.0 {
            return match &self.pieces[..] {
                [whole] => unpack(&self.record, whole, codec, buffer),
                several => {
                    let mut frame = std::mem::take(&mut codec.frame);
                    frame.clear();
                    several.iter().for_each(|p| frame.extend_from_slice(p));
                    let unpacked = unpack(&self.record, &frame, codec, buffer);
                    codec.frame = frame;
                    unpacked
                }
            };
        }
        // the plain bytes themselves, whose hash was checked
        let mut buffer = buffer;
        place(&self.record, &self.pieces, &mut buffer)?;
        Ok(VerifiedChunk {
            record: self.record.clone(),
            buffer,
        })
    }
}

/// Plain bytes whose hash is the manifest's. The disk writer takes nothing else.
#[derive(Debug)]
pub struct VerifiedChunk<B> {
    record: ChunkRecord,
    buffer: B,
}

impl<B: AsMut<[u8]> + AsRef<[u8]>> VerifiedChunk<B> {
    /// Checks what a peer made of its plain bytes ([`Form::Rebuilt`]).
    ///
    /// # Errors
    /// [`InvalidChunkError`], the sender's fault.
    pub fn check_rebuilt(
        record: &ChunkRecord,
        frame: &[u8],
        codec: &mut ChunkCodec,
        buffer: B,
    ) -> Result<Self, InvalidChunkError> {
        unpack(record, frame, codec, buffer)
    }

    /// Checks plain bytes, such as those read back from a disk.
    ///
    /// # Errors
    /// [`InvalidChunkError`].
    pub fn check_plain(record: &ChunkRecord, buffer: B) -> Result<Self, InvalidChunkError> {
        let length = record.bytes as usize;
        let plain = buffer
            .as_ref()
            .get(..length)
            .ok_or(InvalidChunkError::Length {
                chunk: record.hash,
                expected: length,
                found: buffer.as_ref().len(),
            })?;
        let found = ChunkHash::of(plain);
        if found != record.hash {
            return Err(InvalidChunkError::ChunkHash {
                expected: record.hash,
                found,
            });
        }
        Ok(Self {
            record: record.clone(),
            buffer,
        })
    }

    /// The manifest's record of the chunk.
    pub fn record(&self) -> &ChunkRecord {
        &self.record
    }

    /// The plain bytes.
    pub fn plain(&self) -> &[u8] {
        &self.buffer.as_ref()[..self.record.bytes as usize]
    }

    /// The buffer, for the next chunk.
    pub fn into_buffer(self) -> B {
        self.buffer
    }
}

fn unpack<B: AsMut<[u8]> + AsRef<[u8]>>(
    record: &ChunkRecord,
    frame: &[u8],
    codec: &mut ChunkCodec,
    mut buffer: B,
) -> Result<VerifiedChunk<B>, InvalidChunkError> {
    let length = record.bytes as usize;
    if frame.len() >= length {
        place(record, &[frame], &mut buffer)?;
        return VerifiedChunk::check_plain(record, buffer);
    }
    let bad = |reason: String| InvalidChunkError::Frame {
        chunk: record.hash,
        reason,
    };
    // the output is capped at the chunk's length, so a frame that claims more cannot cost more
    let out = buffer
        .as_mut()
        .get_mut(..length)
        .ok_or_else(|| bad("the buffer is shorter than the chunk".into()))?;
    let unpacked = codec
        .decompressor
        .decompress_to_buffer(frame, out)
        .map_err(|e| bad(e.to_string()))?;
    if unpacked != length {
        return Err(bad(format!("{unpacked} bytes instead of {length}")));
    }
    VerifiedChunk::check_plain(record, buffer)
}

/// An object as long as its chunk is the chunk's plain bytes; none is longer.
fn place<B: AsMut<[u8]>>(
    record: &ChunkRecord,
    plain: &[impl AsRef<[u8]>],
    buffer: &mut B,
) -> Result<(), InvalidChunkError> {
    let expected = record.bytes as usize;
    let found = plain.iter().map(|piece| piece.as_ref().len()).sum();
    let out = buffer.as_mut().get_mut(..expected);
    let Some(mut out) = out.filter(|_| found == expected) else {
        return Err(InvalidChunkError::Length {
            chunk: record.hash,
            expected,
            found,
        });
    };
    for piece in plain {
        let (here, rest) = out.split_at_mut(piece.as_ref().len());
        here.copy_from_slice(piece.as_ref());
        out = rest;
    }
    Ok(())
}

/// Whether all bytes are zero; such a chunk is not stored.
pub fn is_zero(bytes: &[u8]) -> bool {
    let (blocks, rest) = bytes.as_chunks::<64>();
    blocks.iter().all(|b| *b == [0; 64]) && rest.iter().all(|b| *b == 0)
}

/// The slow and obvious way, for tests to compare the fast one with.
pub mod reference {
    use super::{ChunkHash, ObjectHash};
    use crate::manifest::ChunkRecord;

    /// Checks and unpacks an object in one go; `None` when anything is wrong.
    pub fn unpack(record: &ChunkRecord, object: &[u8]) -> Option<Vec<u8>> {
        if ObjectHash::of(object) != record.object_hash {
            return None;
        }
        let plain = match object.len() == record.bytes as usize {
            true => object.to_vec(),
            false => zstd::decode_all(object).ok()?,
        };
        (ChunkHash::of(&plain) == record.hash && plain.len() == record.bytes as usize)
            .then_some(plain)
    }

    /// Whether every byte is zero.
    pub fn is_zero(bytes: &[u8]) -> bool {
        bytes.iter().all(|b| *b == 0)
    }
}
