//! Which places were read back: rolling behind each flush, so that reading and writing share the time and do not add up.

use std::collections::VecDeque;

/// Reads beside writes.
const BESIDE_WRITES_MAX: usize = 4;
/// Reads when everything is written.
const ALONE_MAX: usize = 8;

#[derive(Debug)]
pub(super) struct ReadBack {
    /// Flushed and not read yet.
    queue: VecDeque<usize>,
    /// By place: queued, in flight or read.
    taken: Vec<bool>,
    in_flight: usize,
    bytes: u64,
}

impl ReadBack {
    pub(super) fn new(places: usize) -> Self {
        Self {
            queue: VecDeque::new(),
            taken: vec![false; places],
            in_flight: 0,
            bytes: 0,
        }
    }

    /// Places of an earlier try: each was hashed from the medium before it was believed.
    pub(super) fn was_read(&mut self, place: usize, bytes: u64) {
        self.taken[place] = true;
        self.bytes += bytes;
    }

    /// A place survives a power cut: it can be read.
    pub(super) fn flushed(&mut self, place: usize) {
        if !std::mem::replace(&mut self.taken[place], true) {
            self.queue.push_back(place);
        }
    }

    /// The next place to read.
    pub(super) fn poll(&mut self, writing: bool) -> Option<usize> {
        let limit = if writing {
            BESIDE_WRITES_MAX
        } else {
            ALONE_MAX
        };
        if self.in_flight >= limit {
            return None;
        }
        let place = self.queue.pop_front()?;
        self.in_flight += 1;
        Some(place)
    }

    pub(super) fn done(&mut self, bytes: u64) {
        self.in_flight -= 1;
        self.bytes += bytes;
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Bytes read so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}
