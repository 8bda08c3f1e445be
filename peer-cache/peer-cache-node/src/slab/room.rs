//! Room in one piece: records move aside when what is free lies in pieces that are too small.

use std::{io, sync::Arc};

use super::{
    HEADER_BYTES, Slab,
    state::{Entry, State},
};

/// Records that are moved for one object at most; each is a read and a write.
const MOVES_MAX: usize = 16;

impl Slab {
    /// Moves records until an extent of this length is free, and makes the moved ones durable before what they leave is used.
    /// Whether it is there.
    pub(super) fn make_room(&self, state: &mut State, bytes: u64) -> io::Result<bool> {
        let is_there = |state: &State| state.free.values().any(|length| *length >= bytes);
        if state.free_bytes() < bytes {
            return Ok(false);
        }
        let mut moved = false;
        for _ in 0..MOVES_MAX {
            if is_there(state) || !self.move_one(state)? {
                break;
            }
            moved = true;
        }
        if moved {
            self.inner.medium.sync_data()?;
        }
        Ok(is_there(state))
    }

    /// Moves the record behind the longest free extent that can go elsewhere, without touching what it leaves.
    fn move_one(&self, state: &mut State) -> io::Result<bool> {
        let mut holes: Vec<(u64, u64)> = state.free.iter().map(|(o, l)| (*o, *l)).collect();
        holes.sort_unstable_by_key(|(_, length)| std::cmp::Reverse(*length));
        for (hole, length) in &holes {
            let behind = state
                .entries
                .iter()
                .find(|(_, e)| e.offset == hole + length);
            let Some((key, extent)) = behind
                .filter(|(_, entry)| Arc::strong_count(&entry.pin) == 1)
                .map(|(key, entry)| (*key, entry.extent()))
            else {
                continue;
            };
            let places = holes.iter().filter(|(o, l)| o != hole && *l >= extent);
            let Some((to, _)) = places.min_by_key(|(_, length)| *length).copied() else {
                continue;
            };
            let Some(entry) = state.entries.remove(&key) else {
                continue;
            };
            let moved = self.copy(state, &entry, to);
            if let Err(error) = moved {
                state.entries.insert(key, entry);
                return Err(error);
            }
            let rest = state.free.remove(&to).unwrap_or(extent) - extent;
            state.release(to + extent, rest);
            state.bury(&entry);
            let mut header = entry.header;
            header.generation = state.generation;
            let entry = Entry {
                offset: to,
                header,
                ..entry
            };
            state.entries.insert(key, entry);
            return Ok(true);
        }
        Ok(false)
    }

    /// Writes a record once more, as a newer one.
    fn copy(&self, state: &mut State, entry: &Entry, to: u64) -> io::Result<()> {
        state.generation += 1;
        let mut header = entry.header.clone();
        header.generation = state.generation;
        let medium = &self.inner.medium;
        let mut bytes = vec![0; header.bytes as usize];
        medium.read_exact_at(&mut bytes, entry.offset + HEADER_BYTES as u64)?;
        self.wipe_dead(state)?;
        self.move_frontier(state, to + entry.extent())?;
        medium.write_all_at(&bytes, to + HEADER_BYTES as u64)?;
        medium.write_all_at(&header.to_bytes(), to)
    }
}
