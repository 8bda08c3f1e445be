//! The file or partition that a slab lives on, and its map.

use std::{fs::File, io, path::Path};

use bytes::Bytes;
use memmap2::{Mmap, MmapOptions};

use super::{OpenSlabError, SLAB_BYTES_MIN, medium, record::PAGE};

/// When a file's room is taken.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// Before anything is written: what is promised is there.
    Ahead,
    /// The same, but in memory page by page: taking it costs as much as writing.
    AsNeededInMemory,
}

/// A slab file, made with `bytes` if it is not there.
pub(super) fn made(path: &Path, bytes: u64, room: Room) -> Result<File, OpenSlabError> {
    let io_error = |source| OpenSlabError::Io {
        path: path.to_owned(),
        source,
    };
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(io_error)?;
    if file.metadata().map_err(io_error)?.len() < SLAB_BYTES_MIN {
        let kind = nix::sys::statfs::fstatfs(&file).map_err(|e| io_error(e.into()))?;
        let in_memory = kind.filesystem_type() == nix::sys::statfs::TMPFS_MAGIC;
        if room == Room::AsNeededInMemory && in_memory {
            file.set_len(bytes).map_err(io_error)?;
        } else {
            take_room(&file, bytes).map_err(io_error)?;
        }
    }
    Ok(file)
}

/// A slab file and its map; the file is made with `bytes` if it is not there.
pub(super) fn mapped_file(path: &Path, bytes: u64) -> Result<(Bytes, File), OpenSlabError> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|source| OpenSlabError::Io {
            path: path.to_owned(),
            source,
        })?;
    }
    let file = made(path, bytes, Room::Ahead)?;
    Ok((map_whole(path, &file)?, file))
}

/// A partition, or a file that has its final size, and its map.
pub(super) fn mapped_device(path: &Path) -> Result<(Bytes, File), OpenSlabError> {
    let opened = File::options().read(true).write(true).open(path);
    let file = opened.map_err(|source| OpenSlabError::Io {
        path: path.to_owned(),
        source,
    })?;
    Ok((map_whole(path, &file)?, file))
}

/// Room for the first `bytes` of a file; holes in it are filled.
pub(super) fn take_room(file: &File, bytes: u64) -> io::Result<()> {
    let length = i64::try_from(bytes).map_err(io::Error::other)?;
    let mode = nix::fcntl::FallocateFlags::empty();
    Ok(nix::fcntl::fallocate(file, mode, 0, length)?)
}

/// Maps whole pages of a file or block device.
pub(super) fn map_whole(path: &Path, file: &File) -> Result<Bytes, OpenSlabError> {
    let io_error = |source| OpenSlabError::Io {
        path: path.to_owned(),
        source,
    };
    // said outright: a block device has no length of its own in its metadata
    let bytes = medium::length(file).map_err(io_error)?;
    let capacity = bytes - bytes % PAGE;
    if capacity < SLAB_BYTES_MIN {
        return Err(OpenSlabError::TooSmall {
            path: path.to_owned(),
            bytes,
        });
    }
    let length = usize::try_from(capacity).map_err(|e| io_error(io::Error::other(e)))?;
    map_file(file, length).map_err(io_error)
}

#[allow(unsafe_code, reason = "the one map of this program")]
pub(super) fn map_file(file: &File, length: usize) -> io::Result<Bytes> {
    // SAFETY: the file is never shortened while it is mapped: this type owns it and has no call that does; other
    // programs are kept out by its folder's mode. Bytes under the map change only in free records, and every record is
    // hashed after it was written and before it is served.
    let map: Mmap = unsafe { MmapOptions::new().len(length).map(file)? };
    Ok(Bytes::from_owner(map))
}
