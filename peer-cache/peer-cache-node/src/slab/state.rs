//! What is where in a slab, and what makes room.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use image_format::{ChunkHash, Form};
use peer_cache_proto::spread::MayGo;

use super::{
    fault::{Faults, Watch},
    frontier::Frontier,
    medium::Medium,
    record::{HEADER_BYTES, Header, PAGE},
};

/// Evicted chunks that nobody asked after yet; further ones are found missing when they are asked for.
const EVICTED_MAX: usize = 65_536;

pub(super) struct State {
    /// Of the whole medium. Older ones, from before it grew, live as long as somebody sends from them.
    pub(super) map: Bytes,
    /// Notes what the medium refuses to give under the maps.
    pub(super) watches: Vec<Watch>,
    /// No more than this is used; at most the medium's size.
    pub(super) quota: u64,
    pub(super) frontier: Frontier,
    pub(super) entries: BTreeMap<(ChunkHash, Form), Entry>,
    /// Free extents: offset to length.
    pub(super) free: BTreeMap<u64, u64>,
    /// Objects of assigned versions, which are not evicted.
    pub(super) assigned: BTreeSet<ChunkHash>,
    /// Those of the assigned that may be evicted all the same, after everything else.
    pub(super) spare: BTreeMap<ChunkHash, MayGo>,
    /// Assigned chunks that were evicted and not reported.
    pub(super) evicted: Vec<ChunkHash>,
    /// Records that are gone and whose headers still stand on the medium. They are wiped before their space is used
    /// again: a walk that met one would step over what was written inside it.
    pub(super) dead: Vec<u64>,
    /// Pages that the medium could not read; nothing is written there any more.
    pub(super) bad: BTreeSet<u64>,
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
    pub(super) fn empty(map: Bytes) -> Self {
        let mut state = Self::up_to(Frontier::at(PAGE), map);
        state.release(PAGE, state.capacity() - PAGE);
        state
    }

    /// Size of the medium.
    pub(super) fn capacity(&self) -> u64 {
        self.map.len() as u64
    }

    /// Bytes of the quota that nothing occupies.
    pub(super) fn free_bytes(&self) -> u64 {
        self.quota.saturating_sub(self.used_bytes())
    }

    /// Bytes that cannot be allocated.
    pub(super) fn used_bytes(&self) -> u64 {
        self.capacity() - self.free.values().sum::<u64>()
    }

    pub(super) fn up_to(frontier: Frontier, map: Bytes) -> Self {
        Self {
            quota: map.len() as u64,
            map,
            watches: Vec::new(),
            frontier,
            entries: BTreeMap::new(),
            free: BTreeMap::new(),
            assigned: BTreeSet::new(),
            spare: BTreeMap::new(),
            evicted: Vec::new(),
            dead: Vec::new(),
            bad: BTreeSet::new(),
            generation: 0,
            dirty: false,
        }
    }

    /// Walks from header to header, up to the frontier. A page without a true header is free space; of two records of one chunk
    /// the newer counts. Not over the map: a medium that refuses costs a page, not the program.
    pub(super) fn scan(
        medium: &dyn Medium,
        frontier: Frontier,
        map: Bytes,
        faults: &Faults,
    ) -> Self {
        let mut state = Self::up_to(frontier, map);
        let capacity = state.capacity();
        state.bad = faults.pages();
        let mut records: BTreeMap<u64, Header> = BTreeMap::new();
        let mut offset = PAGE;
        while offset < frontier.offset() {
            let mut bytes = [0; HEADER_BYTES];
            if !state.bad.contains(&offset) && medium.read_exact_at(&mut bytes, offset).is_err() {
                state.bad.insert(offset);
            }
            let header = Header::from_bytes(&bytes).filter(|h| offset + h.extent() <= capacity);
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
            let is_newest =
                newest.get(&(header.chunk, header.form)) == Some(&(header.generation, offset));
            if !is_newest || faults.concern(offset, header.extent(), header.generation) {
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
                .map(|(o, l)| (*o, *l))
                .filter(|_| self.free_bytes() >= bytes);
            if let Some((offset, length)) = fit {
                self.free.remove(&offset);
                if length > bytes {
                    self.free.insert(offset + bytes, length - bytes);
                }
                return Some(offset);
            }
            self.evict_one(MayGo::WhenNeeded)?;
        }
    }

    /// The oldest record that is neither assigned nor being sent makes room, then one that others have as well.
    pub(super) fn evict_one(&mut self, at_most: MayGo) -> Option<()> {
        let is_assigned = |key: &(ChunkHash, Form)| self.assigned.contains(&key.0);
        let may = |key: &(ChunkHash, Form)| match is_assigned(key) {
            true => self.spare.get(&key.0).copied().unwrap_or(MayGo::Stays),
            false => MayGo::Freely,
        };
        let victim = self
            .entries
            .iter()
            .filter(|(key, entry)| may(key) <= at_most && Arc::strong_count(&entry.pin) == 1)
            .min_by_key(|(key, entry)| (is_assigned(key), may(key), entry.header.generation))
            .map(|(key, _)| *key)?;
        if is_assigned(&victim) && self.evicted.len() < EVICTED_MAX {
            self.evicted.push(victim.0);
        }
        let entry = self.entries.remove(&victim)?;
        self.bury(&entry);
        Some(())
    }

    /// A record is gone.
    pub(super) fn bury(&mut self, entry: &Entry) {
        self.dead.push(entry.offset);
        self.release(entry.offset, entry.extent());
    }

    /// Gives an extent back, but for the pages that the medium could not read.
    pub(super) fn release(&mut self, offset: u64, length: u64) {
        let bad: Vec<u64> = self.bad.range(offset..offset + length).copied().collect();
        let mut next = offset;
        for page in bad {
            self.join(next, page - next);
            next = page + PAGE;
        }
        self.join(next, (offset + length).saturating_sub(next));
    }

    /// Joins a free extent with its free neighbours.
    fn join(&mut self, mut offset: u64, mut length: u64) {
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
