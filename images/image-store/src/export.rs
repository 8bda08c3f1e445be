//! From objects back to a disk image, and the check that all of them are still what the manifest says.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use image_format::{
    CHUNK_BYTES, ChunkCodec, ChunkHash, ChunkId, ChunkRecord, InvalidChunkError, Manifest,
    ObjectHash, VerifiedObject,
};
use thiserror::Error;

use crate::import::Progress;

/// More would only queue up at the disk.
const THREADS: usize = 4;

/// Where objects come from. Called from several threads; may block.
pub trait ObjectSource: Sync {
    /// The object of a chunk; it is checked by the caller.
    ///
    /// # Errors
    /// When it cannot be had.
    fn get(&self, record: &ChunkRecord) -> io::Result<Bytes>;
}

/// Why an export ended.
#[derive(Debug, Error)]
pub enum ExportError {
    /// The target cannot be written.
    #[error("writing {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// An object cannot be had.
    #[error("object {hash}")]
    Missing {
        /// The object.
        hash: ObjectHash,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// An object is damaged.
    #[error(transparent)]
    Invalid(#[from] InvalidChunkError),
    /// No memory for a decompressor.
    #[error("starting a decompressor")]
    Codec(#[source] io::Error),
}

/// What a verification found.
#[derive(Debug, Default)]
pub struct VerifyReport {
    /// Chunks whose object and content are what the manifest says.
    pub good: usize,
    /// The others, and why.
    pub bad: Vec<(ChunkHash, ExportError)>,
}

/// Writes the disk image of a manifest to `path`: a temporary file beside it, renamed when it is whole and durable.
///
/// # Errors
/// [`ExportError`]; `path` is then as it was.
pub fn export(
    manifest: &Manifest,
    source: &dyn ObjectSource,
    path: &Path,
    progress: &dyn Progress,
) -> Result<(), ExportError> {
    let write = |source| ExportError::Write {
        path: path.to_owned(),
        source,
    };
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    let temporary = path.with_file_name(name);
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .open(&temporary)
        .map_err(write)?;
    file.set_len(manifest.disk_bytes).map_err(write)?;
    let mut places: Vec<Vec<u64>> = vec![Vec::new(); manifest.chunks.len()];
    for place in &manifest.layout {
        places[place.chunk.0 as usize].push(u64::from(place.index) * CHUNK_BYTES as u64);
    }
    let outcome = for_each_chunk(manifest, source, progress, &|id, result| {
        let chunk = result?;
        for at in &places[id.0 as usize] {
            file.write_all_at(chunk, *at).map_err(write)?;
        }
        Ok(())
    });
    let finish = || {
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    match outcome {
        Ok(()) => finish().map_err(write),
        Err(error) => {
            // the failure that counts is the first one; a leftover temporary file is overwritten next time
            let _ = std::fs::remove_file(&temporary);
            Err(error)
        }
    }
}

/// Checks every object of a manifest.
///
/// # Errors
/// [`ExportError::Codec`] only; what is wrong with objects is in the report.
pub fn verify(
    manifest: &Manifest,
    source: &dyn ObjectSource,
    progress: &dyn Progress,
) -> Result<VerifyReport, ExportError> {
    let good = AtomicUsize::new(0);
    let bad = Mutex::new(Vec::new());
    for_each_chunk(manifest, source, progress, &|id, result| {
        match result {
            Ok(_) => {
                good.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => bad
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push((manifest.chunks[id.0 as usize].hash, error)),
        }
        Ok(())
    })?;
    Ok(VerifyReport {
        good: good.into_inner(),
        bad: bad.into_inner().unwrap_or_else(PoisonError::into_inner),
    })
}

type Visit<'a> = dyn Fn(ChunkId, Result<&[u8], ExportError>) -> Result<(), ExportError> + Sync + 'a;

fn for_each_chunk(
    manifest: &Manifest,
    source: &dyn ObjectSource,
    progress: &dyn Progress,
    visit: &Visit<'_>,
) -> Result<(), ExportError> {
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let done = AtomicU64::new(0);
    let total: u64 = manifest.chunks.iter().map(|c| u64::from(c.bytes)).sum();
    let run = || {
        let mut codec = ChunkCodec::new(1).map_err(ExportError::Codec)?;
        let mut buffer = vec![0; CHUNK_BYTES];
        while !failed.load(Ordering::Relaxed) {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(record) = manifest.chunks.get(at) else {
                break;
            };
            let id = ChunkId(u32::try_from(at).unwrap_or(u32::MAX));
            let chunk = fetch(record, source, &mut codec, &mut buffer);
            let visited = visit(id, chunk.map(|()| &buffer[..record.bytes as usize]));
            failed.fetch_or(visited.is_err(), Ordering::Relaxed);
            visited?;
            let bytes = u64::from(record.bytes);
            progress.advance(done.fetch_add(bytes, Ordering::Relaxed) + bytes, total);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(run)).collect();
        threads.into_iter().try_for_each(|t| {
            t.join()
                .unwrap_or_else(|payload| std::panic::resume_unwind(payload))
        })
    })
}

fn fetch(
    record: &ChunkRecord,
    source: &dyn ObjectSource,
    codec: &mut ChunkCodec,
    buffer: &mut [u8],
) -> Result<(), ExportError> {
    let bytes = source.get(record).map_err(|source| ExportError::Missing {
        hash: record.object_hash,
        source,
    })?;
    VerifiedObject::check(record, bytes)?.unpack(codec, buffer)?;
    Ok(())
}
