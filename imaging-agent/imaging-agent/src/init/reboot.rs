//! How a machine that runs from RAM ends.

use std::convert::Infallible;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::reboot::{RebootMode, reboot};
use nix::unistd::sync;

use crate::screen::say;

/// How long the kernel may take to write out what is in memory. The system on the disk was flushed before sector 0 was
/// written, so what a medium that hangs loses is at most objects of the slab, which are hashed before they are served.
const SYNC_WITHIN: Duration = Duration::from_secs(30);

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

/// Writes out what is in memory for any disk, for at most half a minute, then ends the machine at once. Nothing is
/// unmounted and no process is asked: close what matters before. Says each step, so that a machine that stays shows where.
///
/// # Errors
/// [`EndError`] when this process may not (it is not root).
pub(crate) fn end(end: End) -> Result<Infallible, EndError> {
    say("writing out what is in memory");
    let (done, written) = channel();
    thread::spawn(move || {
        sync();
        let _ = done.send(());
    });
    if written.recv_timeout(SYNC_WITHIN).is_err() {
        say("a disk does not take what is in memory: restarting all the same");
    }
    say("restarting");
    let mode = match end {
        End::Reboot => RebootMode::RB_AUTOBOOT,
    };
    reboot(mode).map_err(|source| EndError { end, source })
}
