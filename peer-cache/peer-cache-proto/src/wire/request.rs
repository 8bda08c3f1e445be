//! Requests and answers: a stream each.

use image_format::{ChunkId, Form, OBJECT_BYTES_MAX};
use trust_format::{
    Digest,
    codec::{DecodeError, Reader, Writer},
};

/// What a request stream asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Of this manifest.
    pub manifest: Digest,
    /// What of it.
    pub ask: Ask,
}

/// Part of a [`Request`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// The manifest itself.
    Manifest,
    /// The next chunk that nobody has, as object.
    Next,
    /// A chunk in one form; `offset` and `bytes` for a part of it, 0 and [`WHOLE`] for all.
    Chunk {
        /// Which.
        chunk: ChunkId,
        /// As what.
        form: Form,
        /// First byte.
        offset: u32,
        /// How many.
        bytes: u32,
    },
}

/// "To the end" in [`Ask::Chunk`].
pub const WHOLE: u32 = u32::MAX;
/// Length of a request.
pub const REQUEST_BYTES: usize = 32 + 1 + 4 + 1 + 4 + 4;
/// Length of an answer's head.
pub const ANSWER_BYTES: usize = 1 + 4 + 1 + 4;

impl Request {
    /// The bytes on the stream.
    pub fn to_bytes(&self) -> [u8; REQUEST_BYTES] {
        let (kind, chunk, form, offset, bytes) = match self.ask {
            Ask::Manifest => (0, 0, 0, 0, 0),
            Ask::Next => (1, 0, 0, 0, 0),
            Ask::Chunk {
                chunk,
                form,
                offset,
                bytes,
            } => (2, chunk.0, form as u8, offset, bytes),
        };
        let mut out = Writer::new();
        out.raw(&self.manifest.0)
            .u8(kind)
            .u32(chunk)
            .u8(form)
            .u32(offset)
            .u32(bytes);
        let mut array = [0; REQUEST_BYTES];
        array.copy_from_slice(&out.finish());
        array
    }

    /// Reads a request.
    ///
    /// # Errors
    /// [`DecodeError`]: the sender broke the protocol.
    pub fn from_bytes(bytes: &[u8; REQUEST_BYTES]) -> Result<Self, DecodeError> {
        let mut input = Reader::new(bytes);
        let manifest = Digest(input.array("manifest")?);
        let kind = input.u8("request")?;
        let chunk = ChunkId(input.u32("chunk")?);
        let form = input.u8("form")?;
        let form = Form::from_number(form).ok_or_else(|| input.bad("form", 1, form.into()))?;
        let (offset, bytes) = (input.u32("offset")?, input.u32("length")?);
        let ask = match kind {
            0 => Ask::Manifest,
            1 => Ask::Next,
            2 => Ask::Chunk {
                chunk,
                form,
                offset,
                bytes,
            },
            other => return Err(input.bad("request", 14, other.into())),
        };
        Ok(Self { manifest, ask })
    }
}

/// The head of an answer; the bytes follow on the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Here it is.
    Found {
        /// Which chunk it is; for [`Ask::Next`] the source's choice.
        chunk: ChunkId,
        /// As what.
        form: Form,
        /// How many bytes follow.
        bytes: u32,
    },
    /// Every chunk was given out once.
    Exhausted,
    /// It is not here.
    Missing,
    /// The asker has no right to it.
    Refused,
}

impl Answer {
    /// The bytes on the stream.
    pub fn to_bytes(&self) -> [u8; ANSWER_BYTES] {
        let (kind, chunk, form, bytes) = match self {
            Self::Found { chunk, form, bytes } => (0, chunk.0, *form as u8, *bytes),
            Self::Exhausted => (1, 0, 0, 0),
            Self::Missing => (2, 0, 0, 0),
            Self::Refused => (3, 0, 0, 0),
        };
        let mut out = Writer::new();
        out.u8(kind).u32(chunk).u8(form).u32(bytes);
        let mut array = [0; ANSWER_BYTES];
        array.copy_from_slice(&out.finish());
        array
    }

    /// Reads an answer about a chunk. `bytes_max` caps what may follow.
    ///
    /// # Errors
    /// [`DecodeError`]: the sender broke the protocol.
    pub fn from_bytes(bytes: &[u8; ANSWER_BYTES], bytes_max: usize) -> Result<Self, DecodeError> {
        let mut input = Reader::new(bytes);
        let kind = input.u8("answer")?;
        let chunk = ChunkId(input.u32("chunk")?);
        let form = input.u8("form")?;
        let form = Form::from_number(form).ok_or_else(|| input.bad("form", 1, form.into()))?;
        let bytes = input.u32("length")?;
        match kind {
            0 if bytes as usize > bytes_max => Err(input.bad("length", 4, bytes.into())),
            0 => Ok(Self::Found { chunk, form, bytes }),
            1 => Ok(Self::Exhausted),
            2 => Ok(Self::Missing),
            3 => Ok(Self::Refused),
            other => Err(input.bad("answer", 10, other.into())),
        }
    }
}

/// The longest answer to a request for a chunk.
pub const CHUNK_ANSWER_BYTES_MAX: usize = OBJECT_BYTES_MAX;
