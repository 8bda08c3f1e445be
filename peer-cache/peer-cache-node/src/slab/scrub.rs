//! Reading the slab again, record by record: what a medium loses shows before somebody needs it.

use image_format::{ChunkHash, ObjectHash};

use super::{HEADER_BYTES, Slab};

/// One record that was read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scrubbed {
    /// How much was read.
    pub bytes: u64,
    /// Its chunk, when it was damaged; the record is gone then.
    pub damaged: Option<ChunkHash>,
}

impl Slab {
    /// Reads the first record at or behind `cursor` from the medium and moves the cursor behind it; `None` behind the last one.
    /// A medium that refuses is a damaged record, and no signal: this does not go through the map.
    pub fn scrub(&self, cursor: &mut u64) -> Option<Scrubbed> {
        let (key, offset, header) = {
            let state = self.state();
            let behind = state.entries.iter().filter(|(_, e)| e.offset >= *cursor);
            let (key, entry) = behind.min_by_key(|(_, entry)| entry.offset)?;
            (*key, entry.offset, entry.header.clone())
        };
        *cursor = offset + header.extent();
        let mut bytes = vec![0; header.bytes as usize];
        let read = self
            .inner
            .medium
            .read_exact_at(&mut bytes, offset + HEADER_BYTES as u64);
        let is_good = read.is_ok() && ObjectHash::of(&bytes) == header.object;
        let mut state = self.state();
        // it may have been moved or replaced while it was read
        let same = |e: &super::Entry| e.header.generation == header.generation;
        let is_same = state.entries.get(&key).is_some_and(same);
        let damaged = (!is_good && is_same).then_some(key.0);
        if damaged.is_some()
            && let Some(entry) = state.entries.remove(&key)
        {
            tracing::warn!(chunk = %key.0, error = ?read.err(), "dropped a damaged object from the slab");
            state.bury(&entry);
        }
        Some(Scrubbed {
            bytes: header.extent(),
            damaged,
        })
    }
}
