//! The agent as the first process of a machine that runs from RAM: file systems, consoles, drivers, network, firmware
//! variables, what the machine is, and how it ends. Decides nothing about images; takes what is there and says so.
//! Called by `main` only.
//!
//! The order that `main` keeps:
//! ```text
//! modules::requested_by_kernel(args)?  -> load_for_kernel, exit     (the kernel called us as /sbin/modprobe)
//! is_pid_one()? -> set_up_system, then console::supervise           (process 1: reaps, copies output to all consoles)
//! otherwise     -> Modules::open, coldplug, network::bring_up, ...  (the agent itself, a child of process 1)
//! ```

pub(crate) mod command_line;
pub(crate) mod console;
pub(crate) mod efi;
pub(crate) mod inventory;
pub(crate) mod modules;
pub(crate) mod network;
pub(crate) mod reboot;
pub(crate) mod stick;
pub(crate) mod uevents;

use std::fs;
use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

/// The file systems that every program expects: kind, where, options. `efivarfs` comes later, from a module.
const MOUNTS: [(&str, &str, MsFlags, &str); 5] = [
    ("proc", "/proc", RESTRICTED, ""),
    ("sysfs", "/sys", RESTRICTED, ""),
    ("devtmpfs", "/dev", MsFlags::MS_NOSUID, "mode=0755"),
    (
        "tmpfs",
        "/run",
        MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV),
        "mode=0755,size=16m",
    ),
    (
        "tmpfs",
        "/tmp",
        MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV),
        "mode=1777,size=16m",
    ),
];
const RESTRICTED: MsFlags = MsFlags::MS_NOSUID
    .union(MsFlags::MS_NODEV)
    .union(MsFlags::MS_NOEXEC);

/// A machine that cannot be made ready for any program.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SetUpSystemError {
    /// A folder to mount on cannot be made.
    #[error("cannot make the folder {folder}")]
    Folder {
        /// Which.
        folder: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel refuses a file system.
    #[error("cannot mount {kind} on {folder}")]
    Mount {
        /// The file system.
        kind: &'static str,
        /// Where.
        folder: &'static str,
        /// Why.
        #[source]
        source: Errno,
    },
}

/// Whether this process is the first one, which the kernel started as `/init`.
pub(crate) fn is_pid_one() -> bool {
    std::process::id() == 1
}

/// Mounts what programs expect: `/proc`, `/sys`, `/dev`, `/run`, `/tmp`, and the firmware's variables on UEFI machines
/// (their absence is a warning: a machine can be imaged without). What is mounted already stays.
///
/// # Errors
/// [`SetUpSystemError`]: nothing can work then.
pub(crate) fn set_up_system() -> Result<(), SetUpSystemError> {
    for (kind, folder, flags, options) in MOUNTS {
        fs::create_dir_all(folder).map_err(|source| SetUpSystemError::Folder { folder, source })?;
        match mount(Some(kind), folder, Some(kind), flags, Some(options)) {
            Ok(()) | Err(Errno::EBUSY) => {}
            Err(source) => {
                return Err(SetUpSystemError::Mount {
                    kind,
                    folder,
                    source,
                });
            }
        }
    }
    if Path::new("/sys/firmware/efi").exists() {
        mount_firmware_variables();
    }
    Ok(())
}

fn mount_firmware_variables() {
    let folder = efi::VARIABLES;
    if let Err(error) = modules::Modules::open().and_then(|mut modules| modules.load("efivarfs")) {
        tracing::warn!(%error, "no efivarfs module: trying without");
    }
    match mount(
        Some("efivarfs"),
        folder,
        Some("efivarfs"),
        RESTRICTED,
        None::<&str>,
    ) {
        Ok(()) | Err(Errno::EBUSY) => {}
        Err(error) => tracing::warn!(%error, folder, "cannot mount the firmware's variables"),
    }
}
