//! The stick that this machine was started from.

use std::{
    fs,
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

use nix::mount::{MsFlags, mount, umount};
use peer_cache_proto::voucher::stick;

use super::modules::Modules;

const MOUNTED_AT: &str = "/run/stick";
/// Sticks come up some seconds after their driver; on a slow machine, or behind a hub, it takes many.
const STICK_WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// A stick whose first partition is mounted.
#[derive(Debug)]
pub(crate) struct Stick {
    /// Our folder on it.
    pub(crate) folder: PathBuf,
    /// The device of its slab.
    pub(crate) slab: Option<PathBuf>,
}

/// Waits for the stick, and mounts it.
///
/// # Errors
/// In words.
pub(crate) fn mount_stick() -> Result<Stick, String> {
    let started = Instant::now();
    let (disk, boot) = loop {
        match partition(Path::new("/sys/class/block"), None, stick::BOOT_PARTITION) {
            Some(found) => break found,
            None if started.elapsed() > STICK_WITHIN => {
                return Err(format!(
                    "no stick with a partition {} came up in {} s",
                    stick::BOOT_PARTITION,
                    STICK_WITHIN.as_secs()
                ));
            }
            None => sleep(LOOK_EVERY),
        }
    };
    let blocks = Path::new("/sys/class/block");
    let slab = partition(blocks, Some(&disk), stick::SLAB_PARTITION);
    if let Err(error) = Modules::open().and_then(|mut modules| modules.load("vfat")) {
        tracing::info!(%error, "no vfat module: trying without");
    }
    fs::create_dir_all(MOUNTED_AT).map_err(|e| format!("making {MOUNTED_AT}: {e}"))?;
    let device = Path::new("/dev").join(&boot);
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(
        Some(&device),
        MOUNTED_AT,
        Some("vfat"),
        flags,
        Some("umask=0077,flush"),
    )
    .map_err(|e| format!("mounting {}: {e}", device.display()))?;
    Ok(Stick {
        folder: Path::new(MOUNTED_AT).join(stick::FOLDER),
        slab: slab.map(|(_, name)| Path::new("/dev").join(name)),
    })
}

impl Stick {
    /// Writes out what waits, before the machine restarts.
    pub(crate) fn unmount(self) {
        if let Err(error) = umount(MOUNTED_AT) {
            tracing::info!(%error, "the stick stays mounted");
        }
    }
}

/// A partition by its name, and the disk it is on; on that disk only, if one is given.
fn partition(blocks: &Path, on: Option<&str>, wanted: &str) -> Option<(String, String)> {
    let entries = fs::read_dir(blocks).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names.into_iter().find_map(|name| {
        let facts = fs::read_to_string(blocks.join(&name).join("uevent")).ok()?;
        let is_it = facts
            .lines()
            .any(|line| line.strip_prefix("PARTNAME=") == Some(wanted));
        // `/sys/class/block/sda1` leads to `.../block/sda/sda1`
        let place = fs::canonicalize(blocks.join(&name)).ok()?;
        let disk = place.parent()?.file_name()?.to_str()?.to_owned();
        (is_it && on.is_none_or(|on| on == disk)).then_some((disk, name))
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_partition_is_found_by_its_name_on_its_disk() {
        let sys = tempfile::tempdir().unwrap();
        let blocks = sys.path().join("class");
        fs::create_dir(&blocks).unwrap();
        for (disk, name, label) in [
            ("sda", "sda2", "LAMPLIGHTER-SLAB"),
            ("sdb", "sdb1", "LAMPLIGHTER"),
            ("sdb", "sdb2", "LAMPLIGHTER-SLAB"),
        ] {
            let folder = sys.path().join(disk).join(name);
            fs::create_dir_all(&folder).unwrap();
            fs::write(
                folder.join("uevent"),
                format!("DEVTYPE=partition\nPARTNAME={label}\n"),
            )
            .unwrap();
            symlink(&folder, blocks.join(name)).unwrap();
        }
        let found = |on, name| partition(&blocks, on, name).map(|(_, name)| name);
        assert_eq!(found(None, stick::BOOT_PARTITION).as_deref(), Some("sdb1"));
        assert_eq!(
            found(Some("sdb"), stick::SLAB_PARTITION).as_deref(),
            Some("sdb2")
        );
        assert_eq!(found(Some("sdc"), stick::SLAB_PARTITION), None);
        assert_eq!(found(None, "other"), None);
    }
}
