//! The slab: one preallocated file or partition that holds objects, mapped for reading and written with pwrite.
//!
//! It is its own index. Every record starts on a page with a header that says what follows and how long it is, so
//! opening a slab is one walk from header to header. A record counts only after its bytes were hashed, which happens
//! before it is first served; so a power cut at any write leaves the old content or the new, never half of one.
//! Why there is no separate index file: `docs/design/0003-slab-is-its-own-index.md`.

mod fault;
mod file;
mod frontier;
mod medium;
mod quota;
mod record;
mod room;
mod scrub;
mod state;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use image_format::{ChunkHash, ChunkRecord, Form, ObjectHash, VerifiedObject};
use peer_cache_proto::spread::MayGo;
use thiserror::Error;

use fault::{Faults, Watch};
use file::{Room, made, map_whole, mapped_device, mapped_file};
use frontier::Frontier;
pub use medium::Medium;
pub use record::record_bytes;
use record::{HEADER_BYTES, Header, PAGE};
pub use scrub::Scrubbed;
use state::{Entry, State};

/// The smallest useful slab: a few objects.
pub const SLAB_BYTES_MIN: u64 = 16 << 20;
/// This part of a slab is nobody's share: records do not fill it to the last page, and what comes before something else may
/// go needs a place.
const RESERVE_PART: u64 = 16;
const MAGIC_PAGE: &[u8; 16] = b"lamplighter slab";
const SLAB_VERSION: u8 = 1;

/// Why a slab cannot be opened.
#[derive(Debug, Error)]
pub enum OpenSlabError {
    /// The file or device refused.
    #[error("slab {path}")]
    Io {
        /// Where it is.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Too small to be of use.
    #[error("slab {path} has {bytes} bytes; it needs at least {SLAB_BYTES_MIN}")]
    TooSmall {
        /// Where it is.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// Something else is in that place; it is left alone.
    #[error("{path} holds something that is not a slab; clear its first 4096 bytes to use it")]
    Foreign {
        /// Where it is.
        path: PathBuf,
    },
}

/// Why an object was not kept.
#[derive(Debug, Error)]
pub enum KeepError {
    /// No room, and nothing that may go.
    #[error(
        "the slab of {capacity} bytes has no room for {bytes} more: all it holds is assigned or being sent"
    )]
    Full {
        /// Bytes of the object.
        bytes: usize,
        /// The slab's size.
        capacity: u64,
    },
    /// The medium failed.
    #[error("writing to the slab")]
    Io(#[source] io::Error),
}

/// What one slab holds. Cheap to clone.
#[derive(Clone)]
pub struct Slab {
    inner: Arc<Inner>,
}

struct Inner {
    /// Where faults are noted.
    faults: Option<PathBuf>,
    /// The medium failed under the map often: it is read without it.
    without_map: bool,
    medium: Box<dyn Medium>,
    state: Mutex<State>,
}

/// Bytes of the map that keep their record from being overwritten.
struct Pinned {
    bytes: Bytes,
    _pin: Arc<()>,
}

impl AsRef<[u8]> for Pinned {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Where a slab lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A file, made with so many bytes if it is not there.
    File {
        /// Of a new file.
        bytes: u64,
    },
    /// A partition, or any other file that has its final size.
    Device,
}

impl Slab {
    /// Opens a slab whose medium may fail: what it refuses to give is noted in a file beside it and left out by the next start,
    /// and after three times in an hour it is read without the map.
    ///
    /// # Errors
    /// [`OpenSlabError`].
    pub fn open_watched(path: &Path, place: Place, faults: &Path) -> Result<Self, OpenSlabError> {
        let io_error = |source| OpenSlabError::Io {
            path: faults.to_owned(),
            source,
        };
        let known = Faults::read(faults).map_err(io_error)?;
        let (map, file) = match place {
            Place::File { bytes } => mapped_file(path, bytes)?,
            Place::Device => mapped_device(path)?,
        };
        if known.len() > 0 {
            let (count, without_map) = (known.len(), known.are_frequent());
            tracing::error!(count, without_map, "the slab's medium failed");
        }
        let watch = Watch::over(&map, faults).map_err(io_error)?;
        let mut slab = Self::open_medium(path, map, Box::new(file), &known)?;
        if let Some(inner) = Arc::get_mut(&mut slab.inner) {
            inner.faults = Some(faults.to_owned());
            inner.without_map = known.are_frequent();
        }
        slab.state().watches.push(watch);
        slab.note_generation(&slab.state());
        Ok(slab)
    }

    /// Whether the medium failed so often that the slab is read without the map.
    pub fn is_read_without_map(&self) -> bool {
        self.inner.without_map
    }

    fn note_generation(&self, state: &State) {
        for watch in &state.watches {
            watch.set_generation(state.generation);
        }
    }

    /// Opens a slab file, making it with `bytes` preallocated if it is not there. An existing one keeps its size.
    ///
    /// # Errors
    /// [`OpenSlabError`].
    pub fn open_file(path: &Path, bytes: u64) -> Result<Self, OpenSlabError> {
        let (map, file) = mapped_file(path, bytes)?;
        Self::open_medium(path, map, Box::new(file), &Faults::default())
    }

    /// Opens a partition or any other file that has its final size. An all-zero first page becomes an empty slab.
    ///
    /// # Errors
    /// [`OpenSlabError`].
    pub fn open_device(path: &Path) -> Result<Self, OpenSlabError> {
        let (map, file) = mapped_device(path)?;
        Self::open_medium(path, map, Box::new(file), &Faults::default())
    }

    /// An empty slab on a file that is removed at once and lives as long as the program. In memory its room is taken as it
    /// is needed, and may turn out not to be there: [`KeepError::Full`].
    ///
    /// # Errors
    /// [`OpenSlabError`].
    pub fn temporary(path: &Path, bytes: u64) -> Result<Self, OpenSlabError> {
        let _ = std::fs::remove_file(path);
        let file = made(path, bytes, Room::AsNeededInMemory)?;
        std::fs::remove_file(path).map_err(|source| OpenSlabError::Io {
            path: path.to_owned(),
            source,
        })?;
        let map = map_whole(path, &file)?;
        Ok(Self::new(
            Box::new(medium::Fleeting(file)),
            State::empty(map),
        ))
    }

    fn open_medium(
        path: &Path,
        map: Bytes,
        medium: Box<dyn Medium>,
        faults: &Faults,
    ) -> Result<Self, OpenSlabError> {
        let io_error = |source| OpenSlabError::Io {
            path: path.to_owned(),
            source,
        };
        let mut first = vec![0; record::page_usize()];
        medium.read_exact_at(&mut first, 0).map_err(io_error)?;
        let mut frontier = Frontier::from_page(&first, map.len() as u64);
        if first.iter().all(|b| *b == 0) {
            let mut page = vec![0; record::page_usize()];
            page[..16].copy_from_slice(MAGIC_PAGE);
            page[16] = SLAB_VERSION;
            frontier = Frontier::at(PAGE);
            let bytes = frontier.to_bytes();
            page[Frontier::first_copy()..][..bytes.len()].copy_from_slice(&bytes);
            medium.write_all_at(&page, 0).map_err(io_error)?;
            medium.sync_data().map_err(io_error)?;
        } else if first[..16] != MAGIC_PAGE[..] || first[16] != SLAB_VERSION {
            return Err(OpenSlabError::Foreign {
                path: path.to_owned(),
            });
        }
        let state = State::scan(&*medium, frontier, map, faults);
        let slab = Self::new(medium, state);
        slab.wipe_dead(&mut slab.state()).map_err(io_error)?;
        Ok(slab)
    }

    fn new(medium: Box<dyn Medium>, state: State) -> Self {
        Self {
            inner: Arc::new(Inner {
                faults: None,
                without_map: false,
                medium,
                state: Mutex::new(state),
            }),
        }
    }

    fn wipe_dead(&self, state: &mut State) -> io::Result<()> {
        while let Some(offset) = state.dead.last().copied() {
            self.inner.medium.write_all_at(&[0; HEADER_BYTES], offset)?;
            state.dead.pop();
        }
        Ok(())
    }

    fn move_frontier(&self, state: &mut State, end: u64) -> io::Result<()> {
        match state.frontier.cover(end, state.capacity()) {
            Some((offset, bytes)) => self.inner.medium.write_all_at(&bytes, offset),
            None => Ok(()),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.inner
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Size in bytes: its quota.
    pub fn capacity(&self) -> u64 {
        self.state().quota
    }

    /// Room that a share may count on, in the sizes of [`record_bytes`].
    pub fn usable_bytes(&self) -> u64 {
        let quota = self.capacity();
        quota - PAGE - quota / RESERVE_PART
    }

    /// Bytes that nothing occupies.
    pub fn free_bytes(&self) -> u64 {
        self.state().free_bytes()
    }

    /// How many records it holds.
    pub fn len(&self) -> usize {
        self.state().entries.len()
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a chunk is here in a form. It may still turn out damaged when it is first read.
    pub fn holds(&self, chunk: &ChunkHash, form: Form) -> bool {
        self.state().entries.contains_key(&(*chunk, form))
    }

    /// Names the chunks that are not evicted: those of the versions that the site is assigned.
    pub fn assign(&self, chunks: BTreeSet<ChunkHash>) {
        self.state().assigned = chunks;
    }

    /// Of the assigned chunks these may be evicted when room is needed. Replaces what was said before.
    pub fn let_go(&self, chunks: BTreeMap<ChunkHash, MayGo>) {
        let mut state = self.state();
        state.spare = chunks;
        self.trim(&mut state);
    }

    /// Assigned chunks that were evicted since this was asked last.
    pub fn evicted(&self) -> Vec<ChunkHash> {
        std::mem::take(&mut self.state().evicted)
    }

    /// Keeps an object. What is here already is left alone. Durable after the next [`Slab::sync`].
    ///
    /// # Errors
    /// [`KeepError`].
    pub fn keep(&self, object: &VerifiedObject) -> Result<(), KeepError> {
        let record = object.record();
        let header = Header {
            form: Form::Object,
            chunk: record.hash,
            object: record.object_hash,
            bytes: record.object_bytes,
            generation: 0,
        };
        self.write(header, object.pieces())
    }

    fn write(&self, mut header: Header, pieces: &[Bytes]) -> Result<(), KeepError> {
        let bytes = header.bytes as usize;
        let key = (header.chunk, header.form);
        let offset = {
            let mut state = self.state();
            if state.entries.contains_key(&key) {
                return Ok(());
            }
            let quota = state.quota;
            let full = || KeepError::Full {
                bytes,
                capacity: quota,
            };
            let offset = match state.allocate(header.extent()) {
                Some(offset) => offset,
                None => {
                    self.make_room(&mut state, header.extent())
                        .map_err(KeepError::Io)?;
                    state.allocate(header.extent()).ok_or_else(full)?
                }
            };
            // what made room may have taken a newer number
            state.generation += 1;
            header.generation = state.generation;
            self.note_generation(&state);
            if let Err(error) = self
                .wipe_dead(&mut state)
                .and_then(|()| self.move_frontier(&mut state, offset + header.extent()))
            {
                state.release(offset, header.extent());
                return Err(KeepError::Io(error));
            }
            offset
        };
        // the header last; a power cut may still tear it from its bytes, and then the hash says so
        let medium = &self.inner.medium;
        let mut at = offset + HEADER_BYTES as u64;
        let written = pieces
            .iter()
            .try_for_each(|piece| {
                medium.write_all_at(piece, at)?;
                at += piece.len() as u64;
                Ok(())
            })
            .and_then(|()| medium.write_all_at(&header.to_bytes(), offset));
        let mut state = self.state();
        if let Err(error) = written {
            state.release(offset, header.extent());
            return Err(match error.kind() {
                io::ErrorKind::StorageFull => KeepError::Full {
                    bytes,
                    capacity: state.quota,
                },
                _ => KeepError::Io(error),
            });
        }
        state.dirty = true;
        let entry = Entry {
            offset,
            header,
            verified: true,
            pin: Arc::new(()),
        };
        if let Some(twin) = state.entries.insert(key, entry) {
            // two threads kept the same object at once; both copies are good, one goes
            state.bury(&twin);
        }
        Ok(())
    }

    /// The bytes of a chunk's object, straight from the map. The first time since the slab was opened they are hashed;
    /// a damaged record is dropped and counts as missing.
    pub fn read(&self, record: &ChunkRecord) -> Option<Bytes> {
        let key = (record.hash, Form::Object);
        if self.inner.without_map {
            return self.read_without_map(key, record);
        }
        let (bytes, verified) = {
            let state = self.state();
            let entry = state.entries.get(&key)?;
            let first = usize::try_from(entry.offset).ok()? + HEADER_BYTES;
            let bytes = state.map.slice(first..first + entry.header.bytes as usize);
            let pinned = Pinned {
                bytes,
                _pin: entry.pin.clone(),
            };
            (Bytes::from_owner(pinned), entry.verified)
        };
        if verified {
            return Some(bytes);
        }
        let good = bytes.len() == record.object_bytes as usize
            && ObjectHash::of(&bytes) == record.object_hash;
        let mut state = self.state();
        if good {
            if let Some(entry) = state.entries.get_mut(&key) {
                entry.verified = true;
            }
            return Some(bytes);
        }
        tracing::warn!(chunk = %record.hash, "dropped a damaged object from the slab");
        drop(bytes);
        if let Some(entry) = state.entries.remove(&key) {
            state.bury(&entry);
        }
        None
    }

    /// Bytes of its own, hashed each time.
    fn read_without_map(&self, key: (ChunkHash, Form), record: &ChunkRecord) -> Option<Bytes> {
        let (offset, generation) = {
            let state = self.state();
            let entry = state.entries.get(&key)?;
            (entry.offset, entry.header.generation)
        };
        let mut bytes = vec![0; record.object_bytes as usize];
        let from = offset + HEADER_BYTES as u64;
        let read = self.inner.medium.read_exact_at(&mut bytes, from);
        if read.is_ok() && ObjectHash::of(&bytes) == record.object_hash {
            return Some(bytes.into());
        }
        tracing::warn!(chunk = %record.hash, error = ?read.err(), "dropped a damaged object from the slab");
        let mut state = self.state();
        // it may have been moved while it was read
        let same = |entry: &Entry| entry.header.generation == generation;
        if state.entries.get(&key).is_some_and(same)
            && let Some(entry) = state.entries.remove(&key)
        {
            state.bury(&entry);
        }
        None
    }

    /// Makes everything kept so far durable.
    ///
    /// # Errors
    /// When the medium fails.
    pub fn sync(&self) -> io::Result<()> {
        if !std::mem::take(&mut self.state().dirty) {
            return Ok(());
        }
        self.inner.medium.sync_data()
    }
}

impl std::fmt::Debug for Slab {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slab")
            .field("capacity", &self.capacity())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "small test inputs")]
mod tests;
