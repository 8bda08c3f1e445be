//! How far a slab was ever written: what lies beyond is neither read nor believed when it is opened.
//!
//! ```text
//! 0        8          16     24     28
//! | magic  | frontier | zero | crc |     in sector 1 and in sector 2 of the first page, written in turn
//! ```

/// Where the copies stand: each in a sector of its own, which a power cut leaves old or new.
const COPIES: [usize; 2] = [512, 1024];
const MAGIC: &[u8; 8] = b"frontier";
const BYTES: usize = 28;
/// It moves ahead by so much at a time.
const STEP: u64 = 64 << 20;

/// The end of what may hold records; it only grows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frontier {
    offset: u64,
    writes: usize,
}

impl Frontier {
    pub(super) fn at(offset: u64) -> Self {
        Self { offset, writes: 0 }
    }

    pub(super) fn offset(self) -> u64 {
        self.offset
    }

    /// The furthest of the copies in a slab's first page. Without one, everything may hold records.
    pub(super) fn from_page(page: &[u8], capacity: u64) -> Self {
        let read = |at: usize| {
            let (body, crc) = page.get(at..at + BYTES)?.split_last_chunk::<4>()?;
            if &body[..8] != MAGIC || crc32fast::hash(body) != u32::from_le_bytes(*crc) {
                return None;
            }
            let offset = u64::from_le_bytes(body[8..16].try_into().ok()?);
            (offset <= capacity).then_some(offset)
        };
        let furthest = COPIES.into_iter().filter_map(read).max();
        Self::at(furthest.unwrap_or(capacity))
    }

    /// Moves ahead so that a record may end at `end`: what has to be written, and where, unless it is far enough already.
    /// It need not be durable before the record is: a record beyond it that was not synced is one that was not kept.
    pub(super) fn cover(&mut self, end: u64, capacity: u64) -> Option<(u64, [u8; BYTES])> {
        if end <= self.offset {
            return None;
        }
        self.offset = end.next_multiple_of(STEP).min(capacity);
        let at = COPIES[self.writes % COPIES.len()];
        self.writes += 1;
        Some((at as u64, self.to_bytes()))
    }

    /// A copy of it.
    pub(super) fn to_bytes(self) -> [u8; BYTES] {
        let mut out = [0; BYTES];
        out[..8].copy_from_slice(MAGIC);
        out[8..16].copy_from_slice(&self.offset.to_le_bytes());
        let crc = crc32fast::hash(&out[..BYTES - 4]);
        out[BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Where the first copy of a new slab goes.
    pub(super) fn first_copy() -> usize {
        COPIES[1]
    }
}
