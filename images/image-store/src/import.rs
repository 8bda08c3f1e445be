//! A raw disk image into chunks and objects: every core reads, hashes and compresses one chunk at a time, and a few more threads
//! wait for objects to be stored.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    num::NonZeroUsize,
    os::{fd::AsFd, unix::fs::FileExt},
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use image_format::{
    Architecture, BundleFile, CHUNK_BYTES, ChunkCodec, ChunkHash, ChunkId, ChunkRecord,
    Customisation, InvalidChunkError, MANIFEST_CHUNKS_MAX, Manifest, ManifestKind, Needs,
    ObjectHash, Placement, encode_object, is_zero,
};
use thiserror::Error;

use crate::inspect::{DiskReport, InspectError, inspect};

/// zstd's default: half the size of level 1 at a third of the speed would be 19's bargain, 3 is the knee.
const LEVEL_DEFAULT: i32 = 3;
const RAM_BYTES_MIN_DEFAULT: u64 = 1 << 30;
/// Threads beside one per core: a thread whose object is being stored leaves its core to another. Without them a quarter of
/// the cores' time was lost.
const STORING_THREADS: usize = 4;

/// Takes the objects of an import. Called from several threads; may block, which slows the import down to its pace.
pub trait ObjectSink: Sync {
    /// Stores an object durably enough that a manifest may name it once `put` of all has returned.
    ///
    /// # Errors
    /// Any failure ends the import.
    fn put(&self, hash: ObjectHash, bytes: Bytes) -> io::Result<()>;
}

/// Told how far an import or export is. Called from several threads.
pub trait Progress: Sync {
    /// `done` of `total` bytes of the disk.
    fn advance(&self, done: u64, total: u64);
}

impl Progress for () {
    fn advance(&self, _: u64, _: u64) {}
}

/// How to import.
#[derive(Debug, Clone)]
pub struct ImportOptions {
    /// The image's name.
    pub name: String,
    /// zstd level, 1 to 22.
    pub level: i32,
    /// Threads; by default one per core and a few that wait for the store.
    pub threads: NonZeroUsize,
}

impl ImportOptions {
    /// The defaults for an image of this name.
    pub fn named(name: &str) -> Self {
        Self {
            name: name.into(),
            level: LEVEL_DEFAULT,
            threads: std::thread::available_parallelism()
                .unwrap_or(NonZeroUsize::MIN)
                .saturating_add(STORING_THREADS),
        }
    }
}

/// Why an import ended.
#[derive(Debug, Error)]
pub enum ImportError {
    /// It is no disk image.
    #[error(transparent)]
    Inspect(#[from] InspectError),
    /// It cannot be read.
    #[error("reading {path} at byte {at}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The chunk's first byte.
        at: u64,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// It became shorter or longer meanwhile.
    #[error("{path} changed from {before} to {after} bytes during the import")]
    Changed {
        /// The file.
        path: PathBuf,
        /// At the beginning.
        before: u64,
        /// At the end.
        after: u64,
    },
    /// It has more content than a manifest can list.
    #[error("{path} has more than {MANIFEST_CHUNKS_MAX} MiB of content")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// Compression failed.
    #[error(transparent)]
    Encode(#[from] InvalidChunkError),
    /// An object could not be stored.
    #[error("storing object {hash}")]
    Store {
        /// The object.
        hash: ObjectHash,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// No memory for a compressor.
    #[error("starting a compressor")]
    Codec(#[source] io::Error),
}

/// Imports a raw disk image. The manifest has release 0 until HQ numbers and signs it.
///
/// Memory: one chunk and one compressor per thread, and 90 bytes per chunk of content.
///
/// # Errors
/// [`ImportError`]; objects stored so far stay and are used by the next try.
pub fn import(
    path: &Path,
    options: &ImportOptions,
    sink: &dyn ObjectSink,
    progress: &dyn Progress,
) -> Result<(Manifest, DiskReport), ImportError> {
    let report = inspect(path)?;
    let content = cut(path, report.disk_bytes, options, sink, progress)?;
    let manifest = Manifest {
        kind: ManifestKind::Image,
        name: options.name.clone(),
        release: 0,
        follows: None,
        disk_bytes: report.disk_bytes,
        sector_bytes: report.sector_bytes,
        used_bytes: content.used_bytes,
        needs: Needs {
            uefi: report.uefi,
            bios: report.bios,
            architecture: Architecture::X86_64,
            ram_bytes_min: RAM_BYTES_MIN_DEFAULT,
        },
        customisation: report.customisation(),
        partitions: report.partitions.clone(),
        files: Vec::new(),
        chunks: content.chunks,
        layout: content.layout,
    };
    Ok((manifest, report))
}

/// Imports files as a boot bundle, each from a chunk border.
///
/// # Errors
/// [`ImportError`].
pub fn import_files(
    files: &[(String, PathBuf)],
    options: &ImportOptions,
    sink: &dyn ObjectSink,
) -> Result<Manifest, ImportError> {
    let mut manifest = Manifest {
        kind: ManifestKind::BootBundle,
        name: options.name.clone(),
        release: 0,
        follows: None,
        disk_bytes: 0,
        sector_bytes: 512,
        used_bytes: 0,
        needs: Needs {
            uefi: true,
            bios: false,
            architecture: Architecture::X86_64,
            ram_bytes_min: RAM_BYTES_MIN_DEFAULT,
        },
        customisation: Customisation::None,
        partitions: Vec::new(),
        files: Vec::new(),
        chunks: Vec::new(),
        layout: Vec::new(),
    };
    let mut known = BTreeMap::new();
    for (name, path) in files {
        let bytes = file_bytes(path)?;
        let content = cut(path, bytes, options, sink, &())?;
        let first_index = u32::try_from(manifest.chunk_count())
            .map_err(|_| ImportError::TooLarge { path: path.clone() })?;
        manifest.files.push(BundleFile {
            name: name.clone(),
            offset: manifest.disk_bytes,
            bytes,
        });
        for place in content.layout {
            let record = &content.chunks[place.chunk.0 as usize];
            let next = ChunkId(u32::try_from(manifest.chunks.len()).unwrap_or(u32::MAX));
            let chunk = *known.entry(record.hash).or_insert(next);
            if chunk == next {
                manifest.chunks.push(record.clone());
            }
            manifest.layout.push(Placement {
                index: first_index + place.index,
                chunk,
            });
        }
        manifest.used_bytes += content.used_bytes;
        let end = manifest.disk_bytes + bytes;
        manifest.disk_bytes = end.next_multiple_of(CHUNK_BYTES as u64);
    }
    Ok(manifest)
}

struct Content {
    chunks: Vec<ChunkRecord>,
    layout: Vec<Placement>,
    used_bytes: u64,
}

fn file_bytes(path: &Path) -> Result<u64, ImportError> {
    std::fs::metadata(path).map(|m| m.len()).map_err(|source| {
        InspectError::Io {
            path: path.to_owned(),
            source,
        }
        .into()
    })
}

/// What the threads of one import share.
struct Cutter<'a> {
    path: &'a Path,
    file: File,
    bytes: u64,
    level: i32,
    sink: &'a dyn ObjectSink,
    progress: &'a dyn Progress,
    next_chunk: AtomicU64,
    done_bytes: AtomicU64,
    failed: AtomicBool,
    /// Filled by whoever is first with a chunk; a second one waits for nothing, it only names the hash.
    known: Mutex<BTreeMap<ChunkHash, Option<ChunkRecord>>>,
}

fn cut(
    path: &Path,
    bytes: u64,
    options: &ImportOptions,
    sink: &dyn ObjectSink,
    progress: &dyn Progress,
) -> Result<Content, ImportError> {
    let file = File::open(path).map_err(|source| InspectError::Io {
        path: path.to_owned(),
        source,
    })?;
    let cutter = Cutter {
        path,
        file,
        bytes,
        level: options.level,
        sink,
        progress,
        next_chunk: AtomicU64::new(0),
        done_bytes: AtomicU64::new(0),
        failed: AtomicBool::new(false),
        known: Mutex::default(),
    };
    let parts = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..options.threads.get())
            .map(|_| scope.spawn(|| cutter.run()))
            .collect();
        threads
            .into_iter()
            .map(|t| {
                t.join()
                    .unwrap_or_else(|payload| std::panic::resume_unwind(payload))
            })
            .collect::<Result<Vec<_>, _>>()
    })?;
    let after = cutter.file.metadata().map_or(0, |m| m.len());
    if after != bytes && cutter.file.metadata().is_ok_and(|m| m.is_file()) {
        return Err(ImportError::Changed {
            path: path.to_owned(),
            before: bytes,
            after,
        });
    }
    let mut places: Vec<(u32, ChunkHash)> = parts.into_iter().flatten().collect();
    places.sort_unstable();
    cutter.assemble(places)
}

impl Cutter<'_> {
    fn run(&self) -> Result<Vec<(u32, ChunkHash)>, ImportError> {
        let mut codec = ChunkCodec::new(self.level).map_err(ImportError::Codec)?;
        let mut buffer = vec![0; CHUNK_BYTES];
        let mut places = Vec::new();
        while !self.failed.load(Ordering::Relaxed) {
            let at = self.next_chunk.fetch_add(1, Ordering::Relaxed) * CHUNK_BYTES as u64;
            if at >= self.bytes {
                break;
            }
            let result = self.cut_one(at, &mut buffer, &mut codec);
            self.failed.fetch_or(result.is_err(), Ordering::Relaxed);
            places.extend(result?);
        }
        Ok(places)
    }

    fn cut_one(
        &self,
        at: u64,
        buffer: &mut [u8],
        codec: &mut ChunkCodec,
    ) -> Result<Option<(u32, ChunkHash)>, ImportError> {
        let length =
            usize::try_from((self.bytes - at).min(CHUNK_BYTES as u64)).unwrap_or(CHUNK_BYTES);
        let plain = &mut buffer[..length];
        let found = if self.is_hole(at, length) {
            None
        } else {
            self.file
                .read_exact_at(plain, at)
                .map_err(|source| ImportError::Read {
                    path: self.path.to_owned(),
                    at,
                    source,
                })?;
            (!is_zero(plain)).then(|| ChunkHash::of(plain))
        };
        if let Some(hash) = found {
            self.encode(hash, plain, codec)?;
        }
        let done = self.done_bytes.fetch_add(length as u64, Ordering::Relaxed) + length as u64;
        self.progress.advance(done, self.bytes);
        let index = u32::try_from(at / CHUNK_BYTES as u64).map_err(|_| ImportError::TooLarge {
            path: self.path.to_owned(),
        })?;
        Ok(found.map(|hash| (index, hash)))
    }

    /// Whether the file system stores nothing for these bytes.
    fn is_hole(&self, at: u64, length: usize) -> bool {
        let Ok(offset) = i64::try_from(at) else {
            return false;
        };
        let next_data =
            nix::unistd::lseek(self.file.as_fd(), offset, nix::unistd::Whence::SeekData);
        match next_data {
            Ok(next) => next >= offset.saturating_add(i64::try_from(length).unwrap_or(i64::MAX)),
            Err(error) => error == nix::errno::Errno::ENXIO,
        }
    }

    fn encode(
        &self,
        hash: ChunkHash,
        plain: &[u8],
        codec: &mut ChunkCodec,
    ) -> Result<(), ImportError> {
        {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            if known.contains_key(&hash) {
                return Ok(());
            }
            if known.len() >= MANIFEST_CHUNKS_MAX {
                return Err(ImportError::TooLarge {
                    path: self.path.to_owned(),
                });
            }
            known.insert(hash, None);
        }
        let object = encode_object(plain, codec)?;
        let record = ChunkRecord::of(plain, &object);
        self.sink
            .put(object.hash, object.bytes)
            .map_err(|source| ImportError::Store {
                hash: record.object_hash,
                source,
            })?;
        self.known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(hash, Some(record));
        Ok(())
    }

    fn assemble(self, places: Vec<(u32, ChunkHash)>) -> Result<Content, ImportError> {
        let mut known = self
            .known
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        let mut ids: BTreeMap<ChunkHash, ChunkId> = BTreeMap::new();
        let mut content = Content {
            chunks: Vec::with_capacity(known.len()),
            layout: Vec::with_capacity(places.len()),
            used_bytes: 0,
        };
        for (index, hash) in places {
            let next = ChunkId(u32::try_from(content.chunks.len()).unwrap_or(u32::MAX));
            let chunk = *ids.entry(hash).or_insert(next);
            if chunk == next {
                content.chunks.extend(known.remove(&hash).flatten());
            }
            content.used_bytes += content
                .chunks
                .get(chunk.0 as usize)
                .map_or(0, |c| u64::from(c.bytes));
            content.layout.push(Placement { index, chunk });
        }
        Ok(content)
    }
}
