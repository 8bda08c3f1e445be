//! The slab: one preallocated file or partition that holds objects, mapped for reading and written with pwrite.
//!
//! It is its own index. Every record starts on a page with a header that says what follows and how long it is, so
//! opening a slab is one walk from header to header. A record counts only after its bytes were hashed, which happens
//! before it is first served; so a power cut at any write leaves the old content or the new, never half of one.
//! Why there is no separate index file: `docs/design/0003-slab-is-its-own-index.md`.

mod file;
mod frontier;
mod medium;
mod record;
mod state;

use std::{
    collections::BTreeSet,
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use image_format::{ChunkHash, ChunkRecord, Form, ObjectHash, VerifiedObject};
use thiserror::Error;

use file::{Room, made, map_whole};
use frontier::Frontier;
pub use medium::Medium;
use record::{HEADER_BYTES, Header, PAGE};
use state::{Entry, State};

/// The smallest useful slab: a few objects.
pub const SLAB_BYTES_MIN: u64 = 16 << 20;
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
    map: Bytes,
    medium: Box<dyn Medium>,
    capacity: u64,
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

impl Slab {
    /// Opens a slab file, making it with `bytes` preallocated if it is not there. An existing one keeps its size.
    ///
    /// # Errors
    /// [`OpenSlabError`].
    pub fn open_file(path: &Path, bytes: u64) -> Result<Self, OpenSlabError> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|source| OpenSlabError::Io {
                path: path.to_owned(),
                source,
            })?;
        }
        let file = made(path, bytes, Room::Ahead)?;
        let map = map_whole(path, &file)?;
        Self::open_medium(path, map, Box::new(file))
    }

    /// Opens a partition or any other file that has its final size. An all-zero first page becomes an empty slab.
    ///
    /// # Errors
    /// [`OpenSlabError`].
    pub fn open_device(path: &Path) -> Result<Self, OpenSlabError> {
        let file = File::options()
            .read(true)
            .write(true)
            .open(path)
            .map_err(|source| OpenSlabError::Io {
                path: path.to_owned(),
                source,
            })?;
        let map = map_whole(path, &file)?;
        Self::open_medium(path, map, Box::new(file))
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
        let state = State::empty(map.len() as u64);
        Ok(Self::new(map, Box::new(medium::Fleeting(file)), state))
    }

    fn open_medium(
        path: &Path,
        map: Bytes,
        medium: Box<dyn Medium>,
    ) -> Result<Self, OpenSlabError> {
        let io_error = |source| OpenSlabError::Io {
            path: path.to_owned(),
            source,
        };
        let first = &map[..record::page_usize()];
        if first.iter().all(|b| *b == 0) {
            let mut page = vec![0; record::page_usize()];
            page[..16].copy_from_slice(MAGIC_PAGE);
            page[16] = SLAB_VERSION;
            let frontier = Frontier::at(PAGE).to_bytes();
            page[Frontier::first_copy()..][..frontier.len()].copy_from_slice(&frontier);
            medium.write_all_at(&page, 0).map_err(io_error)?;
            medium.sync_data().map_err(io_error)?;
        } else if first[..16] != MAGIC_PAGE[..] || first[16] != SLAB_VERSION {
            return Err(OpenSlabError::Foreign {
                path: path.to_owned(),
            });
        }
        let state = State::scan(&map, map.len() as u64);
        let slab = Self::new(map, medium, state);
        slab.wipe_dead(&mut slab.state()).map_err(io_error)?;
        Ok(slab)
    }

    fn new(map: Bytes, medium: Box<dyn Medium>, state: State) -> Self {
        Self {
            inner: Arc::new(Inner {
                capacity: map.len() as u64,
                map,
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
        match state.frontier.cover(end, self.inner.capacity) {
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

    /// Size in bytes.
    pub fn capacity(&self) -> u64 {
        self.inner.capacity
    }

    /// Bytes that nothing occupies.
    pub fn free_bytes(&self) -> u64 {
        self.state().free.values().sum()
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
        self.write(header, object.bytes())
    }

    fn write(&self, mut header: Header, bytes: &[u8]) -> Result<(), KeepError> {
        let key = (header.chunk, header.form);
        let offset = {
            let mut state = self.state();
            if state.entries.contains_key(&key) {
                return Ok(());
            }
            state.generation += 1;
            header.generation = state.generation;
            let offset = state.allocate(header.extent()).ok_or(KeepError::Full {
                bytes: bytes.len(),
                capacity: self.inner.capacity,
            })?;
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
        let written = medium
            .write_all_at(bytes, offset + HEADER_BYTES as u64)
            .and_then(|()| medium.write_all_at(&header.to_bytes(), offset));
        let mut state = self.state();
        if let Err(error) = written {
            state.release(offset, header.extent());
            return Err(match error.kind() {
                io::ErrorKind::StorageFull => KeepError::Full {
                    bytes: bytes.len(),
                    capacity: self.inner.capacity,
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
        let (bytes, verified) = {
            let state = self.state();
            let entry = state.entries.get(&key)?;
            let first = usize::try_from(entry.offset).ok()? + HEADER_BYTES;
            let bytes = self
                .inner
                .map
                .slice(first..first + entry.header.bytes as usize);
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
            .field("capacity", &self.inner.capacity)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "small test inputs")]
mod tests;
