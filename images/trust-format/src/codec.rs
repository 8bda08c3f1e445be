//! The byte codec under every document and wire message: little-endian integers and length-prefixed bytes.
//!
//! Reading never panics and never allocates more than the limit that the caller names.

use thiserror::Error;

/// Why bytes are not what they claim to be: which field, and at which offset.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The input ends inside a field.
    #[error("{field} is cut off at byte {at}")]
    CutOff {
        /// The field that was being read.
        field: &'static str,
        /// Offset in the input at which it begins.
        at: usize,
    },
    /// A value or a length is outside what the format allows.
    #[error("{field} at byte {at} has the value {value}, which is not allowed")]
    OutOfRange {
        /// The field that was being read.
        field: &'static str,
        /// Offset in the input at which it begins.
        at: usize,
        /// What stood there.
        value: u64,
    },
    /// A text is not UTF-8.
    #[error("{field} at byte {at} is not UTF-8")]
    NotText {
        /// The field that was being read.
        field: &'static str,
        /// Offset in the input at which it begins.
        at: usize,
    },
    /// Bytes follow the end of the format.
    #[error("{count} bytes follow the end at byte {at}")]
    Trailing {
        /// Offset in the input at which the format ends.
        at: usize,
        /// How many bytes are left over.
        count: usize,
    },
}

/// Reads fields from the front of a slice.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    input: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// A reader at the first byte of `input`.
    pub fn new(input: &'a [u8]) -> Self {
        Self { input, at: 0 }
    }

    /// Offset of the next byte.
    pub fn position(&self) -> usize {
        self.at
    }

    /// Bytes not read yet.
    pub fn remaining(&self) -> usize {
        self.input.len() - self.at
    }

    /// The next `count` bytes.
    ///
    /// # Errors
    /// [`DecodeError::CutOff`] when there are fewer.
    pub fn take(&mut self, count: usize, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let cut_off = DecodeError::CutOff { field, at: self.at };
        let end = self.at.checked_add(count).ok_or(cut_off.clone())?;
        let bytes = self.input.get(self.at..end).ok_or(cut_off)?;
        self.at = end;
        Ok(bytes)
    }

    /// The next `N` bytes as an array.
    ///
    /// # Errors
    /// [`DecodeError::CutOff`] when there are fewer.
    pub fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], DecodeError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N, field)?);
        Ok(out)
    }

    /// One byte.
    ///
    /// # Errors
    /// [`DecodeError::CutOff`] at the end of the input.
    pub fn u8(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        Ok(self.array::<1>(field)?[0])
    }

    /// A 16-bit integer.
    ///
    /// # Errors
    /// [`DecodeError::CutOff`] when the input ends in it.
    pub fn u16(&mut self, field: &'static str) -> Result<u16, DecodeError> {
        Ok(u16::from_le_bytes(self.array(field)?))
    }

    /// A 32-bit integer.
    ///
    /// # Errors
    /// [`DecodeError::CutOff`] when the input ends in it.
    pub fn u32(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }

    /// A 64-bit integer.
    ///
    /// # Errors
    /// [`DecodeError::CutOff`] when the input ends in it.
    pub fn u64(&mut self, field: &'static str) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array(field)?))
    }

    /// A byte that is 0 or 1.
    ///
    /// # Errors
    /// [`DecodeError::OutOfRange`] for any other value.
    pub fn flag(&mut self, field: &'static str) -> Result<bool, DecodeError> {
        match self.u8(field)? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(self.bad(field, 1, other.into())),
        }
    }

    /// A 32-bit count that is at most `max`, and for which at least `item_bytes_min` bytes each are left:
    /// a short input cannot ask for a large allocation.
    ///
    /// # Errors
    /// [`DecodeError::OutOfRange`] when it is more.
    pub fn count(
        &mut self,
        max: usize,
        item_bytes_min: usize,
        field: &'static str,
    ) -> Result<usize, DecodeError> {
        let value = self.u32(field)?;
        let count = value as usize;
        if count > max || count.saturating_mul(item_bytes_min) > self.remaining() {
            return Err(self.bad(field, 4, value.into()));
        }
        Ok(count)
    }

    /// Bytes with a 32-bit length of at most `max`.
    ///
    /// # Errors
    /// [`DecodeError::OutOfRange`] when the length is more.
    pub fn bytes(&mut self, max: usize, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let count = self.count(max, 1, field)?;
        self.take(count, field)
    }

    /// UTF-8 text with a 32-bit length of at most `max` bytes.
    ///
    /// # Errors
    /// [`DecodeError::NotText`] when it is not UTF-8.
    pub fn text(&mut self, max: usize, field: &'static str) -> Result<String, DecodeError> {
        let at = self.at;
        let bytes = self.bytes(max, field)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| DecodeError::NotText { field, at })
    }

    /// An error about a value of `width` bytes that was just read.
    pub fn bad(&self, field: &'static str, width: usize, value: u64) -> DecodeError {
        DecodeError::OutOfRange {
            field,
            at: self.at.saturating_sub(width),
            value,
        }
    }

    /// Ends the input.
    ///
    /// # Errors
    /// [`DecodeError::Trailing`] when bytes are left.
    pub fn finish(self) -> Result<(), DecodeError> {
        match self.remaining() {
            0 => Ok(()),
            count => Err(DecodeError::Trailing { at: self.at, count }),
        }
    }
}

/// Appends fields to a byte vector; the mirror of [`Reader`].
#[derive(Debug, Default)]
pub struct Writer {
    out: Vec<u8>,
}

impl Writer {
    /// An empty writer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes without a length.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.out.extend_from_slice(bytes);
        self
    }

    /// One byte.
    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.raw(&[value])
    }

    /// A 16-bit integer.
    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    /// A 32-bit integer.
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    /// A 64-bit integer.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    /// A byte that is 0 or 1.
    pub fn flag(&mut self, value: bool) -> &mut Self {
        self.u8(value.into())
    }

    /// A 32-bit count. Lists in memory are far below its range; one that is not would be refused by every reader.
    pub fn count(&mut self, value: usize) -> &mut Self {
        self.u32(u32::try_from(value).unwrap_or(u32::MAX))
    }

    /// Bytes with a 32-bit length.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.count(bytes.len()).raw(bytes)
    }

    /// The bytes written.
    pub fn finish(self) -> Vec<u8> {
        self.out
    }
}
