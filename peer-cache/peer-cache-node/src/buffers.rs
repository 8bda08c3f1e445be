//! Buffers that parts are received into, used again and again.
//!
//! Memory that the system hands out for the first time costs several times what a copy into it costs; a seventh of the
//! time that receiving took was that.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use image_format::PART_BYTES;

use crate::shared::lock;

/// Buffers that wait for their next use: what a gigabit brings while an object is written.
const FREE_MAX: usize = 64;

/// Hands out buffers and takes them back. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct PartBuffers {
    free: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl PartBuffers {
    /// A buffer of at most [`PART_BYTES`], with whatever was in it before. How many there are at once is the caller's to
    /// bound.
    pub(crate) fn take(&self, bytes: usize) -> PartBuffer {
        let used = lock(&self.free).pop();
        PartBuffer {
            whole: used.unwrap_or_else(|| vec![0; PART_BYTES]),
            bytes: bytes.min(PART_BYTES),
            home: self.clone(),
        }
    }

    /// Gives back to the system what waits.
    pub(crate) fn clear(&self) {
        *lock(&self.free) = Vec::new();
    }
}

/// A buffer of one part, which goes back when nobody needs its bytes any more.
#[derive(Debug)]
pub(crate) struct PartBuffer {
    whole: Vec<u8>,
    bytes: usize,
    home: PartBuffers,
}

impl PartBuffer {
    /// Its bytes, to be passed on and kept.
    pub(crate) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for PartBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.whole[..self.bytes]
    }
}

impl AsMut<[u8]> for PartBuffer {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.whole[..self.bytes]
    }
}

impl Drop for PartBuffer {
    fn drop(&mut self) {
        let mut free = lock(&self.home.free);
        if free.len() < FREE_MAX {
            free.push(std::mem::take(&mut self.whole));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_when_nobody_needs_it() {
        let buffers = PartBuffers::default();
        let mut first = buffers.take(3);
        first.as_mut().copy_from_slice(b"abc");
        let part = first.freeze();
        let passed_on = part.slice(1..);
        drop(part);
        assert!(lock(&buffers.free).is_empty(), "it is being sent");
        assert_eq!(passed_on, "bc");
        drop(passed_on);
        assert_eq!(lock(&buffers.free).len(), 1);
        assert_eq!(buffers.take(PART_BYTES).as_ref().len(), PART_BYTES);
    }

    #[test]
    fn no_more_than_the_limit_wait() {
        let buffers = PartBuffers::default();
        let all: Vec<_> = (0..FREE_MAX + 5).map(|_| buffers.take(1)).collect();
        drop(all);
        assert_eq!(lock(&buffers.free).len(), FREE_MAX);
        buffers.clear();
        assert!(lock(&buffers.free).is_empty());
    }
}
