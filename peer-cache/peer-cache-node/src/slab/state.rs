//! What is where in a slab, and what makes room.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use image_format::{ChunkHash, Form};

use super::{
    frontier::Frontier,
    record::{self, HEADER_BYTES, Header, PAGE},
};

pub(super) struct State {
    pub(super) frontier: Frontier,
    pub(super) entries: BTreeMap<(ChunkHash, Form), Entry>,
    /// Free extents: offset to length.
    pub(super) free: BTreeMap<u64, u64>,
    /// Objects of assigned versions, which are not evicted.
    pub(super) assigned: BTreeSet<ChunkHash>,
    /// Records that are gone and whose headers still stand on the medium. They are wiped before their space is used
    /// again: a walk that met one would step over what was written inside it.
    pub(super) dead: Vec<u64>,
    pub(super) generation: u64,
    pub(super) dirty: bool,
}

pub(super) struct Entry {
    pub(super) offset: u64,
    pub(super) header: Header,
    /// Its bytes were hashed since the slab was opened, or written by us.
    pub(super) verified: bool,
    /// Alive as long as somebody sends from it.
    pub(super) pin: Arc<()>,
}

impl Entry {
    pub(super) fn extent(&self) -> u64 {
        self.header.extent()
    }
}

impl State {
    /// Of a medium without a single record.
    pub(super) fn empty(capacity: u64) -> Self {
        let mut state = Self::up_to(Frontier::at(PAGE));
        state.release(PAGE, capacity - PAGE);
        state
    }

    pub(super) fn up_to(frontier: Frontier) -> Self {
        Self {
            frontier,
            entries: BTreeMap::new(),
            free: BTreeMap::new(),
            assigned: BTreeSet::new(),
            dead: Vec::new(),
            generation: 0,
            dirty: false,
        }
    }

    /// Walks from header to header, up to the frontier. A page without a true header is free space; of two records of one chunk the newer counts.
    pub(super) fn scan(map: &[u8], capacity: u64) -> Self {
        let frontier = Frontier::from_page(&map[..record::page_usize()], capacity);
        let mut state = Self::up_to(frontier);
        let mut records: BTreeMap<u64, Header> = BTreeMap::new();
        let mut offset = PAGE;
        while offset < frontier.offset() {
            let at = usize::try_from(offset).unwrap_or(usize::MAX);
            let header = map
                .get(at..at + HEADER_BYTES)
                .and_then(Header::from_bytes)
                .filter(|h| offset + h.extent() <= capacity);
            match header {
                None => offset += PAGE,
                Some(header) => {
                    state.generation = state.generation.max(header.generation);
                    let step = header.extent();
                    records.insert(offset, header);
                    offset += step;
                }
            }
        }
        let mut newest: BTreeMap<(ChunkHash, Form), (u64, u64)> = BTreeMap::new();
        for (offset, header) in &records {
            let best = newest
                .entry((header.chunk, header.form))
                .or_insert((header.generation, *offset));
            *best = (*best).max((header.generation, *offset));
        }
        let mut next = PAGE;
        for (offset, header) in records {
            if newest.get(&(header.chunk, header.form)) != Some(&(header.generation, offset)) {
                state.dead.push(offset);
                continue;
            }
            state.release(next, offset - next);
            next = offset + header.extent();
            let entry = Entry {
                offset,
                header,
                verified: false,
                pin: Arc::new(()),
            };
            state
                .entries
                .insert((entry.header.chunk, entry.header.form), entry);
        }
        state.release(next, capacity - next);
        state
    }

    pub(super) fn allocate(&mut self, bytes: u64) -> Option<u64> {
        loop {
            let fit = self
                .free
                .iter()
                .find(|(_, length)| **length >= bytes)
                .map(|(o, l)| (*o, *l));
            if let Some((offset, length)) = fit {
                self.free.remove(&offset);
                if length > bytes {
                    self.free.insert(offset + bytes, length - bytes);
                }
                return Some(offset);
            }
            // the oldest record that is neither assigned nor being sent makes room
            let victim = self
                .entries
                .iter()
                .filter(|(key, entry)| {
                    !self.assigned.contains(&key.0) && Arc::strong_count(&entry.pin) == 1
                })
                .min_by_key(|(_, entry)| entry.header.generation)
                .map(|(key, _)| *key)?;
            let entry = self.entries.remove(&victim)?;
            self.bury(&entry);
        }
    }

    /// A record is gone.
    pub(super) fn bury(&mut self, entry: &Entry) {
        self.dead.push(entry.offset);
        self.release(entry.offset, entry.extent());
    }

    /// Gives an extent back, joined with its free neighbours.
    pub(super) fn release(&mut self, mut offset: u64, mut length: u64) {
        if length == 0 {
            return;
        }
        if let Some(after) = self.free.remove(&(offset + length)) {
            length += after;
        }
        let before = self.free.range(..offset).next_back().map(|(o, l)| (*o, *l));
        if let Some((before, before_length)) = before
            && before + before_length == offset
        {
            offset = before;
            length += before_length;
        }
        self.free.insert(offset, length);
    }
}
