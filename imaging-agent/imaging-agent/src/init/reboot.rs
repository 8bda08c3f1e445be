//! How a machine that runs from RAM ends.

use std::convert::Infallible;

use nix::errno::Errno;
use nix::sys::reboot::{RebootMode, reboot};
use nix::unistd::sync;

/// What comes after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Start again, from what the firmware's boot order names first (or `BootNext`).
    Reboot,
}

/// The kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("the kernel refuses to end the machine ({end:?})")]
pub(crate) struct EndError {
    end: End,
    #[source]
    source: Errno,
}

/// Writes out what is in memory for any disk, then ends the machine at once. Nothing is unmounted and no process is
/// asked: close what matters before.
///
/// # Errors
/// [`EndError`] when this process may not (it is not root).
pub(crate) fn end(end: End) -> Result<Infallible, EndError> {
    sync();
    let mode = match end {
        End::Reboot => RebootMode::RB_AUTOBOOT,
    };
    reboot(mode).map_err(|source| EndError { end, source })
}
