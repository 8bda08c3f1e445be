//! A medium that fails under the map. The kernel says so by SIGBUS, which ends the program; what was read is noted before that,
//! in a file that is open already, and the next start leaves it out.
//!
//! ```text
//! 0        8            16      24
//! | offset | generation | time |     one after the other; unix seconds
//! ```

use std::{
    collections::BTreeSet,
    ffi::c_void,
    fs::File,
    io::{self, Read},
    os::fd::AsRawFd,
    path::Path,
    sync::{
        Once,
        atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use nix::{
    libc,
    sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction},
};

use super::record::PAGE;
use crate::durable::write_durably;

/// Slabs of one program that are watched.
const REGIONS_MAX: usize = 8;
/// Faults that are remembered; older ones are forgotten.
const FAULTS_MAX: usize = 1024;
/// So many within [`OFTEN_WITHIN`], and the slab is read without the map.
const OFTEN: usize = 3;
const OFTEN_WITHIN: Duration = Duration::from_secs(3600);
const BYTES: usize = 24;

/// One read that the medium refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fault {
    /// In the slab, in bytes.
    offset: u64,
    /// The newest record when it happened: what was written later is not concerned.
    generation: u64,
    /// Unix seconds, by a clock that may be wrong; only differences matter.
    time: u64,
}

impl Fault {
    fn to_bytes(self) -> [u8; BYTES] {
        let mut out = [0; BYTES];
        out[..8].copy_from_slice(&self.offset.to_le_bytes());
        out[8..16].copy_from_slice(&self.generation.to_le_bytes());
        out[16..].copy_from_slice(&self.time.to_le_bytes());
        out
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let number = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        Some(Self {
            offset: number(0)?,
            generation: number(8)?,
            time: number(16)?,
        })
    }
}

/// What was noted before this start.
#[derive(Debug, Default)]
pub(super) struct Faults(Vec<Fault>);

impl Faults {
    /// Reads the file; a last entry that a power cut tore is left out.
    pub(super) fn read(path: &Path) -> io::Result<Self> {
        let mut bytes = Vec::new();
        match File::open(path) {
            Ok(mut file) => file.read_to_end(&mut bytes).map(drop)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let all: Vec<Fault> = bytes
            .chunks_exact(BYTES)
            .filter_map(Fault::from_bytes)
            .collect();
        let newest = all[all.len().saturating_sub(FAULTS_MAX)..].to_vec();
        if newest.len() * BYTES != bytes.len() {
            let bytes: Vec<u8> = newest.iter().flat_map(|fault| fault.to_bytes()).collect();
            write_durably(path, &bytes)?;
        }
        Ok(Self(newest))
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The pages that were read, which nothing is written to any more.
    pub(super) fn pages(&self) -> BTreeSet<u64> {
        self.0
            .iter()
            .map(|fault| fault.offset - fault.offset % PAGE)
            .collect()
    }

    /// Whether a record was being read when the medium failed.
    pub(super) fn concern(&self, offset: u64, extent: u64, generation: u64) -> bool {
        self.0.iter().any(|fault| {
            (offset..offset + extent).contains(&fault.offset) && generation <= fault.generation
        })
    }

    /// Whether the map costs more than it brings.
    pub(super) fn are_frequent(&self) -> bool {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.map_or(0, |since| since.as_secs());
        let recent = |fault: &&Fault| now.abs_diff(fault.time) < OFTEN_WITHIN.as_secs();
        self.0.iter().filter(recent).count() >= OFTEN
    }
}

struct Region {
    /// Zero when it is not in use.
    start: AtomicUsize,
    length: AtomicUsize,
    generation: AtomicU64,
    log: AtomicI32,
}

static REGIONS: [Region; REGIONS_MAX] = [const {
    Region {
        start: AtomicUsize::new(0),
        length: AtomicUsize::new(0),
        generation: AtomicU64::new(0),
        log: AtomicI32::new(-1),
    }
}; REGIONS_MAX];

/// While it lives, faults under one map are noted.
pub(super) struct Watch {
    region: &'static Region,
    _log: File,
}

impl Watch {
    /// Watches a map and notes its faults in a file.
    ///
    /// # Errors
    /// When the file cannot be opened, or too many slabs are watched.
    pub(super) fn over(map: &[u8], log: &Path) -> io::Result<Self> {
        static INSTALLED: Once = Once::new();
        let log = File::options().create(true).append(true).open(log)?;
        let start = map.as_ptr().addr();
        let take = |region: &&Region| {
            let taken =
                region
                    .start
                    .compare_exchange(0, start, Ordering::AcqRel, Ordering::Acquire);
            taken.is_ok()
        };
        let region = REGIONS.iter().find(take);
        let region = region.ok_or_else(|| io::Error::other("too many slabs"))?;
        region.log.store(log.as_raw_fd(), Ordering::Release);
        region.length.store(map.len(), Ordering::Release);
        INSTALLED.call_once(install);
        Ok(Self { region, _log: log })
    }

    /// Records up to this one have been written.
    pub(super) fn set_generation(&self, generation: u64) {
        self.region.generation.store(generation, Ordering::Release);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.region.length.store(0, Ordering::Release);
        self.region.log.store(-1, Ordering::Release);
        self.region.start.store(0, Ordering::Release);
    }
}

#[allow(unsafe_code, reason = "a signal handler")]
fn install() {
    // the second SIGBUS, when the read is tried again, ends the program
    let flags = SaFlags::SA_SIGINFO | SaFlags::SA_RESETHAND;
    let action = SigAction::new(SigHandler::SigAction(note), flags, SigSet::empty());
    // SAFETY: the handler reads atomics and makes two system calls, all of which may be done in a signal handler
    // (signal-safety(7)).
    if let Err(error) = unsafe { sigaction(Signal::SIGBUS, &action) } {
        tracing::error!(%error, "a medium error will end this program unnoted");
    }
}

#[allow(unsafe_code, reason = "a signal handler")]
extern "C" fn note(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    // SAFETY: with SA_SIGINFO the kernel passes a valid pointer, and SIGBUS has an address.
    let at = unsafe { (*info).si_addr() }.addr();
    for region in &REGIONS {
        let start = region.start.load(Ordering::Acquire);
        let length = region.length.load(Ordering::Acquire);
        let Some(offset) = at.checked_sub(start).filter(|offset| *offset < length) else {
            continue;
        };
        // SAFETY: with a null pointer it only returns the time.
        let time = unsafe { libc::time(std::ptr::null_mut()) };
        let bytes = Fault {
            offset: offset as u64,
            generation: region.generation.load(Ordering::Acquire),
            time: time.unsigned_abs(),
        }
        .to_bytes();
        let log = region.log.load(Ordering::Acquire);
        // SAFETY: the buffer lives on this stack; a descriptor that is closed by now makes the call fail, nothing else.
        unsafe { libc::write(log, bytes.as_ptr().cast(), BYTES) };
        return;
    }
}
