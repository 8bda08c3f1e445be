//! Requests and answers: a stream each.

use image_format::{Form, OBJECT_BYTES_MAX, PartId};
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
    /// The next part that nobody has, of an object.
    Next,
    /// A part of a chunk's object; in the other forms, the whole chunk that the part belongs to.
    Part {
        /// Which.
        part: PartId,
        /// As what.
        form: Form,
    },
}

/// Length of a request.
pub const REQUEST_BYTES: usize = 32 + 1 + 4 + 1;
/// Length of an answer's head.
pub const ANSWER_BYTES: usize = 1 + 4 + 1 + 4;

impl Request {
    /// The bytes on the stream.
    pub fn to_bytes(&self) -> [u8; REQUEST_BYTES] {
        let (kind, part, form) = match self.ask {
            Ask::Manifest => (0, 0, 0),
            Ask::Next => (1, 0, 0),
            Ask::Part { part, form } => (2, part.0, form as u8),
        };
        let mut out = Writer::new();
        out.raw(&self.manifest.0).u8(kind).u32(part).u8(form);
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
        let part = PartId(input.u32("part")?);
        let form = input.u8("form")?;
        let form = Form::from_number(form).ok_or_else(|| input.bad("form", 1, form.into()))?;
        let ask = match kind {
            0 => Ask::Manifest,
            1 => Ask::Next,
            2 => Ask::Part { part, form },
            other => return Err(input.bad("request", 6, other.into())),
        };
        Ok(Self { manifest, ask })
    }
}

/// The head of an answer; the bytes follow on the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Here it is.
    Found {
        /// Which part it is; for [`Ask::Next`] the source's choice.
        part: PartId,
        /// As what.
        form: Form,
        /// How many bytes follow.
        bytes: u32,
    },
    /// Every part was given out once.
    Exhausted,
    /// It is not here.
    Missing,
    /// The asker has no right to it.
    Refused,
    /// It is here, and others have asked before: ask somebody else, or again in a moment.
    Busy,
}

impl Answer {
    /// The bytes on the stream.
    pub fn to_bytes(&self) -> [u8; ANSWER_BYTES] {
        let (kind, part, form, bytes) = match self {
            Self::Found { part, form, bytes } => (0, part.0, *form as u8, *bytes),
            Self::Exhausted => (1, 0, 0, 0),
            Self::Missing => (2, 0, 0, 0),
            Self::Refused => (3, 0, 0, 0),
            Self::Busy => (4, 0, 0, 0),
        };
        let mut out = Writer::new();
        out.u8(kind).u32(part).u8(form).u32(bytes);
        let mut array = [0; ANSWER_BYTES];
        array.copy_from_slice(&out.finish());
        array
    }

    /// Reads an answer. `bytes_max` caps what may follow.
    ///
    /// # Errors
    /// [`DecodeError`]: the sender broke the protocol.
    pub fn from_bytes(bytes: &[u8; ANSWER_BYTES], bytes_max: usize) -> Result<Self, DecodeError> {
        let mut input = Reader::new(bytes);
        let kind = input.u8("answer")?;
        let part = PartId(input.u32("part")?);
        let form = input.u8("form")?;
        let form = Form::from_number(form).ok_or_else(|| input.bad("form", 1, form.into()))?;
        let bytes = input.u32("length")?;
        match kind {
            0 if bytes as usize > bytes_max => Err(input.bad("length", 4, bytes.into())),
            0 => Ok(Self::Found { part, form, bytes }),
            1 => Ok(Self::Exhausted),
            2 => Ok(Self::Missing),
            3 => Ok(Self::Refused),
            4 => Ok(Self::Busy),
            other => Err(input.bad("answer", 10, other.into())),
        }
    }
}

/// The longest answer to a request for a part: a whole chunk in a form that has no parts.
pub const PART_ANSWER_BYTES_MAX: usize = OBJECT_BYTES_MAX;
