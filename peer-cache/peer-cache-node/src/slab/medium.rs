//! What the slab is written on.

use std::{
    fs::File,
    io::{self, Seek, SeekFrom},
    os::unix::fs::FileExt,
};

use bytes::Bytes;

use super::file;

/// Takes the slab's writes. Tests put a power cut behind it.
pub trait Medium: Send + Sync {
    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// When the medium fails.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Fills `bytes` from `offset` on, from the medium and not from the map.
    ///
    /// # Errors
    /// When the medium fails.
    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()>;

    /// Takes room up to `bytes` and maps all of it.
    ///
    /// # Errors
    /// When there is no more, or this medium has one size.
    fn grow(&self, _bytes: u64) -> io::Result<Bytes> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Gives room back that nothing occupies; it reads as zeros from then on. A medium that cannot keeps it.
    fn give_back(&self, _offset: u64, _length: u64) {}

    /// Makes what was written survive a power cut.
    ///
    /// # Errors
    /// When the medium fails.
    fn sync_data(&self) -> io::Result<()>;
}

impl Medium for File {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, offset)
    }

    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, bytes, offset)
    }

    fn grow(&self, bytes: u64) -> io::Result<Bytes> {
        if !self.metadata()?.is_file() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        file::take_room(self, bytes)?;
        file::map_file(self, usize::try_from(bytes).map_err(io::Error::other)?)
    }

    fn give_back(&self, offset: u64, length: u64) {
        use nix::fcntl::{FallocateFlags, fallocate};
        let mode = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        if let (Ok(offset), Ok(length)) = (i64::try_from(offset), i64::try_from(length))
            && let Err(error) = fallocate(self, mode, offset, length)
        {
            tracing::debug!(%error, "the slab's room is not given back");
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }
}

/// A file that ends with the program: nothing of it has to survive.
pub(super) struct Fleeting(pub(super) File);

impl Medium for Fleeting {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(&self.0, bytes, offset)
    }

    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(&self.0, bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Length of a file or block device.
pub(super) fn length(mut file: &File) -> io::Result<u64> {
    file.seek(SeekFrom::End(0))
}
