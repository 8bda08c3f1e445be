//! The order in which a disk is written.
//!
//! The record; sector 0 zeroed, flush. Both headers of the old table zeroed, flush. Content without head and backup
//! table, flushed now and then and at the end. All of it read back, each part behind its flush. The caller customises,
//! flush. Backup table, then the head from sector 1 on, flush. Sector 0 alone, flush: the commit. The record says done.

mod read_back;

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use image_format::{CHUNK_BYTES, ChunkHash, ChunkId, Manifest};
use thiserror::Error;
use trust_format::Digest;

use self::read_back::ReadBack;
use crate::{
    layout::{Extent, Layout},
    record::{InstallRecord, RecordState},
    table::{Tables, tables},
};

/// After this much content it is flushed, the record brought up to date, and what was flushed is read back.
const FLUSH_EVERY_BYTES: u64 = 64 << 20;

/// An action's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct StepId(pub u64);

/// Part of a chunk and where it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// First byte on the target.
    pub offset: u64,
    /// First byte in the chunk.
    pub from: usize,
    /// How many.
    pub bytes: usize,
}

/// What the shell has to do. It says when each is done or has failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Make these bytes zero.
    Zero(StepId, Extent),
    /// Write these bytes.
    Write(StepId, u64, Vec<u8>),
    /// Write pieces of the chunk that was just handed in.
    WriteChunk(StepId, ChunkId, Vec<Piece>),
    /// Make everything that is done so far survive a power cut.
    Flush(StepId),
    /// Read these bytes from the medium and compare their hash.
    ReadBack(StepId, Extent, ChunkHash),
    /// Grow, customise and install the node, through the table in memory.
    Customise(StepId),
    /// The disk is whole.
    Finished,
}

/// How far the install is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The record is written and the old system made unbootable.
    Clearing,
    /// Content arrives.
    Content,
    /// Everything is written; the rest of it is read back.
    ReadBack,
    /// The new system is customised.
    Customising,
    /// Tables and first sector.
    Committing,
    /// Everything is on the disk.
    Finished,
    /// It ended; the disk does not boot.
    Failed,
}

/// Why an install ended.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InstallFailure {
    /// The medium refused.
    #[error("{what}: {reason}")]
    Medium {
        /// What was being done, and where.
        what: String,
        /// What the shell said.
        reason: String,
    },
    /// The partition table cannot be made.
    #[error("{0}")]
    Table(String),
}

/// What an earlier try left on the target.
#[derive(Debug, Clone, Copy, Default)]
pub struct Found<'a> {
    /// Places of the manifest's layout whose bytes are there already. Every one was hashed from the medium.
    pub places: &'a [usize],
    /// The install record's sequence.
    pub sequence: u64,
    /// The target is new and reads as zero everywhere.
    pub blank: bool,
}

#[derive(Debug)]
enum Step {
    Serial(&'static str),
    Chunk(Vec<usize>),
    ContentFlush(Vec<bool>),
    Record,
    ReadBack(u64),
}

/// One install on one target.
#[derive(Debug)]
pub struct Install {
    layout: Layout,
    manifest: Digest,
    order: u64,
    slab_guid: [u8; 16],
    /// Place by place: first byte and chunk.
    places: Vec<(u64, ChunkId)>,
    by_chunk: BTreeMap<ChunkId, Vec<usize>>,
    hashes: Vec<ChunkHash>,
    chunk_bytes: Vec<usize>,
    disk_bytes: u64,
    written: Vec<bool>,
    flushed: Vec<bool>,
    since_flush: u64,
    flushing: bool,
    /// The first and the last chunk of the content: head and tail come from them.
    edges: BTreeMap<u64, Vec<u8>>,
    sequence: u64,
    phase: Phase,
    steps: BTreeMap<StepId, Step>,
    last_step: u64,
    script: VecDeque<Action>,
    read_back: ReadBack,
    actions: VecDeque<Action>,
    failure: Option<InstallFailure>,
}

impl Install {
    /// An install of `manifest` under an order, on a target on which something was found.
    pub fn new(
        layout: Layout,
        manifest: &Manifest,
        digest: Digest,
        order: u64,
        slab_guid: [u8; 16],
        found: Found<'_>,
    ) -> Self {
        let places: Vec<(u64, ChunkId)> = manifest
            .layout
            .iter()
            .map(|p| (u64::from(p.index) * CHUNK_BYTES as u64, p.chunk))
            .collect();
        let mut by_chunk: BTreeMap<ChunkId, Vec<usize>> = BTreeMap::new();
        for (at, (_, chunk)) in places.iter().enumerate() {
            by_chunk.entry(*chunk).or_default().push(at);
        }
        let written = vec![false; places.len()];
        let mut install = Self {
            layout,
            manifest: digest,
            order,
            slab_guid,
            by_chunk,
            hashes: manifest.chunks.iter().map(|c| c.hash).collect(),
            chunk_bytes: manifest.chunks.iter().map(|c| c.bytes as usize).collect(),
            disk_bytes: manifest.disk_bytes,
            flushed: written.clone(),
            read_back: ReadBack::new(written.len()),
            written,
            places,
            since_flush: 0,
            flushing: false,
            edges: BTreeMap::new(),
            sequence: found.sequence,
            phase: Phase::Clearing,
            steps: BTreeMap::new(),
            last_step: 0,
            script: VecDeque::new(),
            actions: VecDeque::new(),
            failure: None,
        };
        for place in found.places {
            install.believe(*place);
        }
        install.flushed = install.written.clone();
        install.clear(found.blank);
        install
    }

    /// A place was found written. It is not believed where the old tables are about to be made zero: without a table of
    /// its own an image has content there.
    fn believe(&mut self, place: usize) {
        let Some((offset, chunk)) = self.places.get(place).copied() else {
            return;
        };
        let Some(piece) = self.clip(offset, self.chunk_bytes[chunk.0 as usize]) else {
            return;
        };
        let end = piece.offset + piece.bytes as u64;
        let cleared = self.old_headers().into_iter().flatten();
        if cleared
            .into_iter()
            .all(|e| e.end() <= piece.offset || e.offset >= end)
        {
            self.written[place] = true;
            self.read_back.was_read(place, piece.bytes as u64);
        }
    }

    /// Where the headers of an old partition table may stand: the second and the last sector.
    fn old_headers(&self) -> Option<[Extent; 2]> {
        let sector = u64::from(self.layout.sector_bytes);
        let last = self.layout.target_bytes / sector * sector - sector;
        let extent = |offset| Extent {
            offset,
            bytes: sector,
        };
        (last >= 2 * sector).then(|| [extent(sector), extent(last)])
    }

    /// How far it is.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Why it ended.
    pub fn failure(&self) -> Option<&InstallFailure> {
        self.failure.as_ref()
    }

    /// Where everything goes.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Whether a chunk has to come from somewhere: it is missing on the disk, or head or tail are made of it.
    pub fn needs(&self, chunk: ChunkId) -> bool {
        let places = self.by_chunk.get(&chunk);
        places.is_some_and(|p| {
            p.iter()
                .any(|at| !self.written[*at] || self.is_edge(self.places[*at].0))
        })
    }

    /// Places written, and all of them.
    pub fn progress(&self) -> (usize, usize) {
        (
            self.written.iter().filter(|w| **w).count(),
            self.written.len(),
        )
    }

    /// Bytes read back, and all of them.
    pub fn read_back_progress(&self) -> (u64, u64) {
        let total = self
            .places
            .iter()
            .filter_map(|(at, c)| self.clip(*at, self.chunk_bytes[c.0 as usize]))
            .map(|piece| piece.bytes as u64)
            .sum();
        (self.read_back.bytes(), total)
    }

    /// The extents of the content that no chunk covers.
    fn zero_extents(&self) -> Vec<Extent> {
        let mut extents = Vec::new();
        let mut next = self.layout.head_bytes;
        let covered = self
            .places
            .iter()
            .map(|(at, c)| (*at, at + self.chunk_bytes[c.0 as usize] as u64));
        for (first, end) in covered.chain([(self.layout.content_end, u64::MAX)]) {
            let first = first.min(self.layout.content_end);
            if first > next {
                extents.push(Extent {
                    offset: next,
                    bytes: first - next,
                });
            }
            next = next.max(end);
        }
        extents
    }

    /// A verified chunk is in the shell's hands. Before [`Phase::Content`] none is taken: the old system is still there.
    pub fn handle_chunk(&mut self, _now: Duration, chunk: ChunkId, plain: &[u8]) {
        if self.phase != Phase::Content {
            return;
        }
        let Some(places) = self.by_chunk.get(&chunk).cloned() else {
            return;
        };
        let mut pieces = Vec::new();
        let mut open = Vec::new();
        for at in places {
            let offset = self.places[at].0;
            if self.is_edge(offset) {
                self.edges.insert(offset, plain.to_vec());
            }
            if !self.written[at] {
                open.push(at);
                pieces.extend(self.clip(offset, plain.len()));
            }
        }
        if open.is_empty() {
            self.go_on();
            return;
        }
        let id = self.step(Step::Chunk(open));
        self.actions
            .push_back(Action::WriteChunk(id, chunk, pieces));
    }

    /// An action is done.
    pub fn handle_done(&mut self, _now: Duration, id: StepId) {
        match self.steps.remove(&id) {
            None => return,
            Some(Step::Chunk(places)) => {
                for at in places {
                    self.written[at] = true;
                    self.since_flush += self.chunk_bytes[self.places[at].1.0 as usize] as u64;
                }
                self.flush_now_and_then();
            }
            Some(Step::ContentFlush(flushed)) => self.content_is_flushed(flushed),
            Some(Step::ReadBack(bytes)) => self.read_back.done(bytes),
            Some(Step::Serial(_) | Step::Record) => {}
        }
        self.go_on();
    }

    /// An action failed: the install ends, and the disk does not boot.
    pub fn handle_failed(&mut self, _now: Duration, id: StepId, reason: &str) {
        let what = match self.steps.remove(&id) {
            None => return,
            Some(Step::Serial(what)) => what.into(),
            Some(Step::Record) => "writing the install record".into(),
            Some(Step::ContentFlush(_)) => "flushing the disk".into(),
            Some(Step::ReadBack(_)) => "reading back what was written".into(),
            Some(Step::Chunk(places)) => {
                let offset = places.first().map_or(0, |at| self.places[*at].0);
                format!("writing at byte {offset}")
            }
        };
        self.fail(InstallFailure::Medium {
            what,
            reason: reason.into(),
        });
    }

    /// The next thing to do. Actions of one phase may run side by side; the next phase waits for all of them.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    fn fail(&mut self, failure: InstallFailure) {
        self.phase = Phase::Failed;
        self.actions.clear();
        self.script.clear();
        self.failure.get_or_insert(failure);
    }

    fn step(&mut self, step: Step) -> StepId {
        self.last_step += 1;
        let id = StepId(self.last_step);
        self.steps.insert(id, step);
        id
    }

    fn is_edge(&self, offset: u64) -> bool {
        offset < self.layout.head_bytes || offset + CHUNK_BYTES as u64 > self.layout.content_end
    }

    /// What of a place belongs to the content: neither head nor backup table.
    fn clip(&self, offset: u64, bytes: usize) -> Option<Piece> {
        let first = offset.max(self.layout.head_bytes);
        let end = (offset + bytes as u64).min(self.layout.content_end);
        let bytes = usize::try_from(end.checked_sub(first)?)
            .ok()
            .filter(|b| *b > 0)?;
        Some(Piece {
            offset: first,
            from: usize::try_from(first - offset).ok()?,
            bytes,
        })
    }

    fn clear(&mut self, blank: bool) {
        self.write_record(RecordState::Writing);
        let first = Extent {
            offset: 0,
            bytes: self.layout.sector_bytes.into(),
        };
        if self.layout.record.is_some() {
            self.serial("flushing the install record", Action::Flush);
        }
        // a target that was made a moment ago holds no system that could start
        if blank {
            return self.go_on();
        }
        self.serial("zeroing the first sector", |id| Action::Zero(id, first));
        self.serial("flushing the disk", Action::Flush);
        if let Some(headers) = self.old_headers() {
            for header in headers {
                self.serial("zeroing the old partition tables", |id| {
                    Action::Zero(id, header)
                });
            }
            self.serial("flushing the disk", Action::Flush);
        }
        for extent in self.zero_extents() {
            self.serial("zeroing what the image leaves empty", |id| {
                Action::Zero(id, extent)
            });
        }
        self.go_on();
    }

    fn serial(&mut self, what: &'static str, action: impl FnOnce(StepId) -> Action) {
        let id = self.step(Step::Serial(what));
        self.script.push_back(action(id));
    }

    fn write_record(&mut self, state: RecordState) {
        let Some(extent) = self.layout.record else {
            return;
        };
        self.sequence += 1;
        let record = InstallRecord {
            sequence: self.sequence,
            order: self.order,
            manifest: self.manifest,
            state,
            written: if state == RecordState::Done {
                Vec::new()
            } else {
                self.flushed.clone()
            },
        };
        let (at, bytes) = record.to_copy();
        let id = self.step(Step::Record);
        let action = Action::Write(id, extent.offset + at, bytes);
        match self.phase {
            Phase::Content => self.actions.push_back(action),
            _ => self.script.push_back(action),
        }
    }

    fn flush_now_and_then(&mut self) {
        if self.phase == Phase::Content && !self.flushing && self.since_flush >= FLUSH_EVERY_BYTES {
            self.flush_content();
        }
    }

    fn flush_content(&mut self) {
        self.since_flush = 0;
        self.flushing = true;
        let id = self.step(Step::ContentFlush(self.written.clone()));
        self.actions.push_back(Action::Flush(id));
    }

    /// A bit of the record is set, and a place read back, only when a flush that began after its write has ended.
    fn content_is_flushed(&mut self, flushed: Vec<bool>) {
        self.flushing = false;
        for (place, _) in flushed.iter().enumerate().filter(|(_, f)| **f) {
            // what is expected of an edge is known when its chunk is here
            if self.phase == Phase::ReadBack || !self.is_edge(self.places[place].0) {
                self.read_back.flushed(place);
            }
        }
        self.flushed = flushed;
        if self.phase == Phase::Content {
            self.write_record(RecordState::Writing);
        }
    }

    fn edges_are_here(&self) -> bool {
        self.places
            .iter()
            .filter(|(at, _)| self.is_edge(*at))
            .all(|(at, _)| self.edges.contains_key(at))
    }

    /// Hands out the script one by one; when it is empty and nothing is in flight, the next phase begins. Reading back goes
    /// on beside all that.
    fn go_on(&mut self) {
        if self.phase == Phase::Failed {
            return;
        }
        self.read_back_some();
        if self.steps.len() - self.script.len() > self.read_back.in_flight() {
            return;
        }
        if let Some(action) = self.script.pop_front() {
            self.actions.push_back(action);
            return;
        }
        match self.phase {
            Phase::Clearing => {
                self.phase = Phase::Content;
                self.go_on();
            }
            Phase::Content if self.written.iter().all(|w| *w) && self.edges_are_here() => {
                self.phase = Phase::ReadBack;
                self.flush_content();
            }
            Phase::ReadBack if self.read_back.in_flight() == 0 => {
                self.phase = Phase::Customising;
                self.serial("customising the new system", Action::Customise);
                self.serial("flushing the disk", Action::Flush);
                self.go_on();
            }
            Phase::Customising => {
                self.phase = Phase::Committing;
                self.commit();
                self.go_on();
            }
            Phase::Committing => {
                self.phase = Phase::Finished;
                self.actions.push_back(Action::Finished);
            }
            Phase::Content | Phase::ReadBack | Phase::Finished | Phase::Failed => {}
        }
    }

    fn read_back_some(&mut self) {
        let writing = self.phase < Phase::ReadBack;
        while let Some(place) = self.read_back.poll(writing) {
            let Some((extent, hash)) = self.expected_at(place) else {
                self.read_back.done(0);
                continue;
            };
            let id = self.step(Step::ReadBack(extent.bytes));
            self.actions.push_back(Action::ReadBack(id, extent, hash));
        }
    }

    /// What the medium must hold at a place; nothing where it belongs to head or tail.
    fn expected_at(&self, place: usize) -> Option<(Extent, ChunkHash)> {
        let (offset, chunk) = self.places[place];
        let bytes = self.chunk_bytes[chunk.0 as usize];
        let piece = self.clip(offset, bytes)?;
        let hash = match self.edges.get(&offset) {
            Some(plain) if piece.bytes < bytes => {
                ChunkHash::of(&plain[piece.from..piece.from + piece.bytes])
            }
            _ => self.hashes[chunk.0 as usize],
        };
        let extent = Extent {
            offset: piece.offset,
            bytes: piece.bytes as u64,
        };
        Some((extent, hash))
    }

    fn commit(&mut self) {
        let tables = match self.tables() {
            Ok(tables) => tables,
            Err(error) => return self.fail(InstallFailure::Table(error)),
        };
        let sector = self.layout.sector_bytes as usize;
        let (first, rest) = tables.head.split_at(sector.min(tables.head.len()));
        let (first, rest) = (first.to_vec(), rest.to_vec());
        if !tables.backup.1.is_empty() {
            self.serial("writing the backup table", |id| {
                Action::Write(id, tables.backup.0, tables.backup.1)
            });
        }
        if !rest.is_empty() {
            self.serial("writing the partition table", |id| {
                Action::Write(id, sector as u64, rest)
            });
        }
        self.serial("flushing the disk", Action::Flush);
        self.serial("writing the first sector", |id| Action::Write(id, 0, first));
        self.serial("flushing the disk", Action::Flush);
        self.write_record(RecordState::Done);
        self.serial("flushing the install record", Action::Flush);
    }

    fn tables(&self) -> Result<Tables, String> {
        let bytes_of = |from: u64, end: u64| {
            let mut bytes = vec![0; usize::try_from(end - from).unwrap_or(0)];
            for (offset, plain) in &self.edges {
                let first = from.max(*offset);
                let last = end.min(offset + plain.len() as u64);
                if first < last
                    && let (Ok(to), Ok(at), Ok(count)) = (
                        usize::try_from(first - from),
                        usize::try_from(first - offset),
                        usize::try_from(last - first),
                    )
                {
                    bytes[to..to + count].copy_from_slice(&plain[at..at + count]);
                }
            }
            bytes
        };
        let head = bytes_of(0, self.disk_bytes.min(CHUNK_BYTES as u64));
        let tail = bytes_of(self.layout.content_end, self.disk_bytes);
        if !self.layout.has_table {
            let head_bytes = usize::try_from(self.layout.head_bytes)
                .unwrap_or(0)
                .min(head.len());
            return Ok(Tables {
                backup: (self.layout.content_end, Vec::new()),
                head: head[..head_bytes].to_vec(),
            });
        }
        tables(&self.layout, &head, &tail, self.slab_guid)
    }
}
