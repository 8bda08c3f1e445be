//! The disk or file that is imaged: aligned writes past the page cache, zeroing, flushing, reading back.

use std::{
    alloc::Layout,
    fs::{File, OpenOptions},
    io::{self, Seek, SeekFrom},
    os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use imaging_plan::Extent;
use nix::sys::statfs::TMPFS_MAGIC;
use thiserror::Error;

/// What O_DIRECT wants of memory, offsets and lengths; every logical sector size divides it.
const ALIGNMENT: usize = 4096;

/// Memory that O_DIRECT takes.
pub(crate) struct AlignedBuffer {
    start: std::ptr::NonNull<u8>,
    layout: Layout,
}

#[allow(unsafe_code, reason = "aligned memory is not to be had from Vec")]
mod aligned {
    use super::{ALIGNMENT, AlignedBuffer, Layout};

    // SAFETY: the buffer owns its memory alone, like a Box<[u8]>.
    unsafe impl Send for AlignedBuffer {}

    impl AlignedBuffer {
        /// `bytes` zero bytes; at least one page.
        pub(crate) fn new(bytes: usize) -> Self {
            let bytes = bytes.next_multiple_of(ALIGNMENT).max(ALIGNMENT);
            let Ok(layout) = Layout::from_size_align(bytes, ALIGNMENT) else {
                std::alloc::handle_alloc_error(Layout::new::<u8>());
            };
            // SAFETY: the layout has a size above zero.
            let start = unsafe { std::alloc::alloc_zeroed(layout) };
            match std::ptr::NonNull::new(start) {
                Some(start) => Self { start, layout },
                None => std::alloc::handle_alloc_error(layout),
            }
        }
    }

    impl AsRef<[u8]> for AlignedBuffer {
        fn as_ref(&self) -> &[u8] {
            // SAFETY: `start` points to `layout.size()` initialised bytes that this value owns.
            unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.layout.size()) }
        }
    }

    impl AsMut<[u8]> for AlignedBuffer {
        fn as_mut(&mut self) -> &mut [u8] {
            // SAFETY: as above, and `&mut self` makes the access exclusive.
            unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.layout.size()) }
        }
    }

    impl Drop for AlignedBuffer {
        fn drop(&mut self) {
            // SAFETY: allocated in `new` with this layout, freed once.
            unsafe { std::alloc::dealloc(self.start.as_ptr(), self.layout) };
        }
    }
}

/// An open target.
#[derive(Debug)]
pub(crate) struct Target {
    path: PathBuf,
    /// For what is not aligned: tables, records, edges.
    buffered: File,
    /// For the bulk; none where the file system cannot do it.
    direct: Option<File>,
    bytes: u64,
    sector_bytes: u32,
    is_device: bool,
    /// It was made by us just now and reads as zero.
    blank: bool,
}

/// Why a target cannot be used. Nothing was written.
#[derive(Debug, Error)]
pub(crate) enum OpenTargetError {
    /// The system refused.
    #[error("target {path}")]
    Io {
        /// Which.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Neither a file nor a block device.
    #[error("target {path} is neither a file nor a block device")]
    NotADisk {
        /// Which.
        path: PathBuf,
    },
}

mod ioctl {
    #![allow(unsafe_code, reason = "the agent's one module of ioctl calls")]

    use std::{fs::File, io, os::fd::AsRawFd};

    nix::ioctl_read_bad!(blksszget, libc::BLKSSZGET, libc::c_int);
    nix::ioctl_write_ptr_bad!(blkzeroout, nix::request_code_none!(0x12, 127), [u64; 2]);
    nix::ioctl_write_ptr_bad!(blkpg, nix::request_code_none!(0x12, 105), BlkpgArgument);
    nix::ioctl_write_ptr!(ext4_resize, b'f', 16, u64);

    /// `struct blkpg_ioctl_arg` of linux/blkpg.h.
    #[repr(C)]
    pub(super) struct BlkpgArgument {
        operation: libc::c_int,
        flags: libc::c_int,
        length: libc::c_int,
        partition: *const BlkpgPartition,
    }

    /// `struct blkpg_partition` of linux/blkpg.h.
    #[repr(C)]
    struct BlkpgPartition {
        start: libc::c_longlong,
        length: libc::c_longlong,
        number: libc::c_int,
        names: [u8; 128],
    }

    const ADD: libc::c_int = 1;
    const DELETE: libc::c_int = 2;

    pub(super) fn sector_bytes(file: &File) -> io::Result<u32> {
        let mut bytes = 0;
        // SAFETY: BLKSSZGET writes one int.
        unsafe { blksszget(file.as_raw_fd(), &raw mut bytes) }?;
        u32::try_from(bytes).map_err(io::Error::other)
    }

    pub(super) fn zero(file: &File, offset: u64, bytes: u64) -> io::Result<()> {
        let range = [offset, bytes];
        // SAFETY: BLKZEROOUT reads two 64-bit numbers.
        unsafe { blkzeroout(file.as_raw_fd(), &raw const range) }?;
        Ok(())
    }

    fn partition(
        file: &File,
        operation: libc::c_int,
        number: u32,
        start: u64,
        bytes: u64,
    ) -> io::Result<()> {
        let signed = |n: u64| i64::try_from(n).map_err(io::Error::other);
        let partition = BlkpgPartition {
            start: signed(start)?,
            length: signed(bytes)?,
            number: i32::try_from(number).map_err(io::Error::other)?,
            names: [0; 128],
        };
        let argument = BlkpgArgument {
            operation,
            flags: 0,
            length: i32::try_from(size_of::<BlkpgPartition>()).map_err(io::Error::other)?,
            partition: &raw const partition,
        };
        // SAFETY: the argument points to a partition of the stated length that lives until the call returns.
        unsafe { blkpg(file.as_raw_fd(), &raw const argument) }?;
        Ok(())
    }

    pub(super) fn add_partition(
        file: &File,
        number: u32,
        start: u64,
        bytes: u64,
    ) -> io::Result<()> {
        partition(file, ADD, number, start, bytes)
    }

    pub(super) fn delete_partition(file: &File, number: u32) -> io::Result<()> {
        partition(file, DELETE, number, 0, 0)
    }

    pub(crate) fn resize_ext4(folder: &File, blocks: u64) -> io::Result<()> {
        // SAFETY: EXT4_IOC_RESIZE_FS reads one 64-bit number.
        unsafe { ext4_resize(folder.as_raw_fd(), &raw const blocks) }?;
        Ok(())
    }
}

pub(crate) use ioctl::resize_ext4;

impl Target {
    /// Opens a disk, or a file that is made with `new_bytes` if it is not there.
    ///
    /// # Errors
    /// [`OpenTargetError`].
    pub(crate) fn open(
        path: &Path,
        new_bytes: u64,
        sector_bytes: u32,
    ) -> Result<Self, OpenTargetError> {
        let io_error = |source| OpenTargetError::Io {
            path: path.to_owned(),
            source,
        };
        let is_new = !path.exists();
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let mut buffered = options
            .clone()
            .create(is_new)
            .open(path)
            .map_err(io_error)?;
        let kind = buffered.metadata().map_err(io_error)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(OpenTargetError::NotADisk {
                path: path.to_owned(),
            });
        }
        if is_new {
            buffered.set_len(new_bytes).map_err(io_error)?;
        }
        let is_device = kind.is_block_device();
        // a file system without O_DIRECT costs speed only
        let direct = options.custom_flags(libc::O_DIRECT).open(path).ok();
        let bytes = buffered.seek(SeekFrom::End(0)).map_err(io_error)?;
        let sector_bytes = match is_device {
            true => ioctl::sector_bytes(&buffered).map_err(io_error)?,
            false => sector_bytes,
        };
        Ok(Self {
            path: path.to_owned(),
            buffered,
            direct,
            bytes,
            sector_bytes,
            is_device,
            blank: is_new,
        })
    }

    /// Opens what is there, for a look.
    ///
    /// # Errors
    /// [`OpenTargetError`].
    pub(crate) fn open_existing(path: &Path) -> Result<Self, OpenTargetError> {
        if !path.exists() {
            return Err(OpenTargetError::Io {
                path: path.to_owned(),
                source: io::ErrorKind::NotFound.into(),
            });
        }
        Self::open(path, 0, 512)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn sector_bytes(&self) -> u32 {
        self.sector_bytes
    }

    pub(crate) fn is_device(&self) -> bool {
        self.is_device
    }

    /// Made by us and still empty.
    pub(crate) fn is_blank(&self) -> bool {
        self.blank
    }

    /// Takes the room that content at these places needs, where that is a file's: what does not fit is found out before
    /// anything is written, and writes go side by side instead of waiting for each other to find room.
    ///
    /// # Errors
    /// When there is not enough; a file that was made for this is removed.
    pub(crate) fn reserve(&self, places: impl Iterator<Item = Extent>) -> io::Result<()> {
        if self.is_device {
            return Ok(());
        }
        let mut runs: Vec<Extent> = Vec::new();
        for place in places {
            match runs.last_mut() {
                Some(run) if run.end() == place.offset => run.bytes += place.bytes,
                _ => runs.push(place),
            }
        }
        if nix::sys::statfs::fstatfs(&self.buffered)?.filesystem_type() == TMPFS_MAGIC {
            // memory is taken page by page in any case: ahead would only be before the first byte is asked for
            return self.check_room(runs.iter().map(|run| run.bytes).sum());
        }
        for run in runs {
            let mode = nix::fcntl::FallocateFlags::FALLOC_FL_KEEP_SIZE;
            let (offset, bytes) = (offset_of(run.offset)?, offset_of(run.bytes)?);
            match nix::fcntl::fallocate(&self.buffered, mode, offset, bytes) {
                // a file system that cannot take room ahead takes it as it goes
                Ok(()) | Err(nix::errno::Errno::EOPNOTSUPP) => {}
                Err(error) => return Err(self.no_room(error)),
            }
        }
        Ok(())
    }

    fn check_room(&self, bytes: u64) -> io::Result<()> {
        let room = nix::sys::statvfs::fstatvfs(&self.buffered)?;
        let taken = self.buffered.metadata()?.blocks() * 512;
        match room.blocks_available() * room.fragment_size() + taken >= bytes {
            true => Ok(()),
            false => Err(self.no_room(nix::errno::Errno::ENOSPC)),
        }
    }

    /// Nothing was written: a file that was made for this goes.
    fn no_room(&self, error: nix::errno::Errno) -> io::Error {
        if self.blank {
            let _ = std::fs::remove_file(&self.path);
        }
        error.into()
    }

    /// Writes bytes that come from an [`AlignedBuffer`]'s beginning or from anywhere; what is aligned goes past the page cache.
    pub(crate) fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if self.is_aligned(bytes.as_ptr(), bytes.len(), offset)
            && let Some(direct) = &self.direct
        {
            return direct.write_all_at(bytes, offset);
        }
        self.buffered.write_all_at(bytes, offset)
    }

    /// Fills the front of `buffer` from the medium, not from the page cache.
    pub(crate) fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        if self.is_aligned(buffer.as_ptr(), buffer.len(), offset)
            && let Some(direct) = &self.direct
        {
            return direct.read_exact_at(buffer, offset);
        }
        let (at, length) = (offset_of(offset)?, offset_of(buffer.len() as u64)?);
        // a hint; a page that stays is one that was not written by us
        let _ = nix::fcntl::posix_fadvise(
            &self.buffered,
            at,
            length,
            nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED,
        );
        self.buffered.read_exact_at(buffer, offset)
    }

    fn is_aligned(&self, start: *const u8, bytes: usize, offset: u64) -> bool {
        start.addr().is_multiple_of(ALIGNMENT)
            && bytes.is_multiple_of(ALIGNMENT)
            && offset.is_multiple_of(ALIGNMENT as u64)
    }

    /// Makes bytes zero.
    pub(crate) fn zero(&self, offset: u64, bytes: u64) -> io::Result<()> {
        if self.is_device {
            return ioctl::zero(&self.buffered, offset, bytes);
        }
        let mode = nix::fcntl::FallocateFlags::FALLOC_FL_PUNCH_HOLE
            | nix::fcntl::FallocateFlags::FALLOC_FL_KEEP_SIZE;
        match nix::fcntl::fallocate(&self.buffered, mode, offset_of(offset)?, offset_of(bytes)?) {
            Ok(()) => Ok(()),
            // a file system without holes
            Err(nix::errno::Errno::EOPNOTSUPP) => self.write_zeros(offset, bytes),
            Err(error) => Err(error.into()),
        }
    }

    fn write_zeros(&self, mut offset: u64, mut bytes: u64) -> io::Result<()> {
        let zeros = vec![0; 1 << 20];
        while bytes > 0 {
            let part = bytes.min(zeros.len() as u64);
            self.buffered
                .write_all_at(&zeros[..usize::try_from(part).unwrap_or(0)], offset)?;
            offset += part;
            bytes -= part;
        }
        Ok(())
    }

    /// Makes everything survive a power cut.
    pub(crate) fn flush(&self) -> io::Result<()> {
        self.buffered.sync_data()
    }

    /// Makes a partition known to the kernel that is in no table yet; returns its device file.
    pub(crate) fn add_partition(
        &self,
        number: u32,
        offset: u64,
        bytes: u64,
    ) -> io::Result<PathBuf> {
        // one of the old table's may be in the way
        let _ = ioctl::delete_partition(&self.buffered, number);
        ioctl::add_partition(&self.buffered, number, offset, bytes)?;
        let disk = self.path.to_string_lossy();
        let infix = if disk.ends_with(|c: char| c.is_ascii_digit()) {
            "p"
        } else {
            ""
        };
        Ok(PathBuf::from(format!("{disk}{infix}{number}")))
    }

    /// Takes it back.
    pub(crate) fn delete_partition(&self, number: u32) -> io::Result<()> {
        ioctl::delete_partition(&self.buffered, number)
    }

    /// Forgets the partitions of the old system, so that nothing reads them while they are overwritten.
    pub(crate) fn forget_partitions_if_device(&self) {
        if !self.is_device {
            return;
        }
        for number in 1..=128 {
            let _ = ioctl::delete_partition(&self.buffered, number);
        }
    }
}

fn offset_of(bytes: u64) -> io::Result<i64> {
    i64::try_from(bytes).map_err(io::Error::other)
}
