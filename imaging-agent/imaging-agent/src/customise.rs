//! Puts the node into the new root file system: program, identity, documents, unit.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::{OpenOptionsExt, PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use imaging_plan::Layout;
use nix::mount::{MsFlags, mount, umount};
use peer_cache_node::{
    Identity, KeyFile, Site,
    tpm::{OpenTpmError, Tpm},
};
use thiserror::Error;

use crate::{
    screen::say,
    target::{Target, resize_ext4},
};

const MOUNT_POINT: &str = "/mnt";
const PROGRAM: &str = "opt/lamplighter/lamplighter";
const STATE: &str = "var/lib/lamplighter";
const UNIT: &str = "etc/systemd/system/lamplighter-node.service";
const WANTED: &str = "etc/systemd/system/multi-user.target.wants/lamplighter-node.service";
const UDEV_RULE: &str = "etc/udev/rules.d/70-lamplighter.rules";
const USER: &str = "lamplighter";
/// To whom Debian's and Red Hat's TPM packages give the device.
const TPM_GROUP: &str = "tss";
/// The drivers of every TPM that a firmware announces. A system without them could not unseal the node's key.
const TPM_DRIVERS: [&str; 2] = ["/tpm_tis.ko", "/tpm_crb.ko"];
/// System users of Debian and Red Hat end here; ours is the highest that is free.
const USER_ID_MAX: u32 = 979;
const USER_ID_MIN: u32 = 500;
/// The kernel makes the device file at once; udev is not there to be slow.
const DEVICE_WITHIN: Duration = Duration::from_secs(5);

/// What is put into the new system.
pub(crate) struct NodeInstall {
    /// The node's program, static.
    pub(crate) program: Vec<u8>,
    /// Its key.
    pub(crate) identity: Identity,
    /// Its certificate, and its issuer's when it is provisional.
    pub(crate) certificate: Vec<u8>,
    pub(crate) issuer: Option<Vec<u8>>,
    /// Root, channel, orders and completions.
    pub(crate) site: Site,
    /// Manifests of what its slab holds, as signed, by digest.
    pub(crate) manifests: Vec<(String, Vec<u8>)>,
    /// Addresses of peers.
    pub(crate) peers: Vec<String>,
    /// Number of the root partition.
    pub(crate) root_number: u32,
    /// Whether the disk has a slab partition.
    pub(crate) has_slab: bool,
}

/// The unit of the node, as it is installed.
pub(crate) const NODE_UNIT: &str = include_str!("lamplighter-node.service");

impl NodeInstall {
    /// Mounts the root through a partition that only the kernel's memory knows, grows it and installs the node.
    pub(crate) fn run(mut self, target: &Target, layout: &Layout) -> Result<()> {
        let root = layout.root.context("the image has no root partition")?;
        let device = target
            .add_partition(self.root_number, root.offset, root.bytes)
            .context("making the root partition known to the kernel")?;
        wait_for(&device)?;
        mount(
            Some(&device),
            MOUNT_POINT,
            Some("ext4"),
            MsFlags::MS_NOATIME,
            None::<&str>,
        )
        .with_context(|| format!("mounting the new root {}", device.display()))?;
        let installed =
            self.install_into(Path::new(MOUNT_POINT), root.bytes, layout.grown.is_some());
        let unmounted = umount(MOUNT_POINT).context("unmounting the new root");
        installed?;
        unmounted?;
        target
            .delete_partition(self.root_number)
            .context("forgetting the root partition")
    }

    fn install_into(&mut self, root: &Path, bytes: u64, grow: bool) -> Result<()> {
        if grow {
            grow_ext4(root, bytes)?;
        }
        let user = add_user(root)?;
        let tpm_group = join(root, TPM_GROUP)?;
        let program = inside(root, PROGRAM)?;
        write(&program, &self.program, 0o755)?;
        let state = inside(root, STATE)?;
        fs::create_dir_all(&state)?;
        let key = key_file(&self.identity, root);
        match &key.plain_because {
            None => say("the node's key is sealed to this machine's TPM"),
            Some(why) => say(&format!("the node's key is not sealed: {why}")),
        }
        write(&state.join("identity"), &key.bytes, 0o600)?;
        write(&state.join("certificate"), &self.certificate, 0o644)?;
        if let Some(issuer) = &self.issuer {
            write(&state.join("issuer"), issuer, 0o644)?;
        }
        let manifests = state.join("manifests");
        fs::create_dir_all(&manifests)?;
        for (digest, bytes) in &self.manifests {
            write(&manifests.join(digest), bytes, 0o644)?;
        }
        write(
            &state.join("peers"),
            self.peers.join("\n").as_bytes(),
            0o644,
        )?;
        self.site
            .save_to(&state.join("site"))
            .context("saving the site's documents")?;
        let config = match self.has_slab {
            true => format!(
                "slab = \"/dev/disk/by-partlabel/{}\"\n",
                imaging_plan::SLAB_LABEL
            ),
            false => "slab = \"slab\"\n".into(),
        };
        write(&state.join("node.toml"), config.as_bytes(), 0o644)?;
        own(&state, user)?;
        fs::set_permissions(&state, fs::Permissions::from_mode(0o700))?;
        write(&inside(root, UNIT)?, NODE_UNIT.as_bytes(), 0o644)?;
        let rules = udev_rules(tpm_group);
        write(&inside(root, UDEV_RULE)?, rules.as_bytes(), 0o644)?;
        let wanted = inside(root, WANTED)?;
        if wanted.symlink_metadata().is_err() {
            symlink(format!("/{UNIT}"), &wanted)?;
        }
        Ok(())
    }
}

/// Why the key of the node is not sealed.
#[derive(Debug, Error)]
enum NotSealedError {
    /// The new system could not unseal it.
    #[error("the kernels of the image have no driver for TPMs")]
    NoDriver,
    /// There is none here.
    #[error(transparent)]
    Open(#[from] OpenTpmError),
}

/// The node's key, sealed to this machine's TPM if the new system will be able to use it.
fn key_file(identity: &Identity, root: &Path) -> KeyFile {
    let tpm = match has_tpm_driver(root) {
        true => Tpm::open().map_err(NotSealedError::Open),
        false => Err(NotSealedError::NoDriver),
    };
    identity.to_key_file(tpm)
}

/// Whether a kernel of the new system has a driver for TPMs, built in or as a module.
fn has_tpm_driver(root: &Path) -> bool {
    let folders = ["usr/lib/modules", "lib/modules"];
    let kernels = folders
        .iter()
        .filter_map(|folder| fs::read_dir(root.join(folder)).ok())
        .flat_map(|kernels| kernels.flatten());
    let lists = kernels.flat_map(|kernel| {
        ["modules.builtin", "modules.dep"].map(|list| fs::read_to_string(kernel.path().join(list)))
    });
    lists
        .flatten()
        .any(|list| TPM_DRIVERS.iter().any(|driver| list.contains(driver)))
}

/// Who may open the slab's partition and the TPM. Where a group for the TPM is there already, the node is in it.
fn udev_rules(has_tpm_group: bool) -> String {
    let slab = imaging_plan::SLAB_LABEL;
    let group = match has_tpm_group {
        true => TPM_GROUP,
        false => USER,
    };
    format!(
        "SUBSYSTEM==\"block\", ENV{{ID_PART_ENTRY_NAME}}==\"{slab}\", OWNER=\"{USER}\", MODE=\"0600\"\n\
         SUBSYSTEM==\"tpmrm\", GROUP=\"{group}\", MODE=\"0660\"\n"
    )
}

/// Makes the node's user a member of a group, if that is there.
fn join(root: &Path, group: &str) -> Result<bool> {
    let path = root.join("etc/group");
    let groups = fs::read_to_string(&path).context("the new root has no /etc/group")?;
    let Some(line) = groups.lines().find(|l| l.split(':').next() == Some(group)) else {
        return Ok(false);
    };
    let members = line.rsplit(':').next().unwrap_or_default();
    if !members.split(',').any(|member| member == USER) {
        let comma = if members.is_empty() { "" } else { "," };
        let joined = format!("{line}{comma}{USER}");
        // in place: its owner and mode stay as they are
        let groups: Vec<&str> = groups
            .lines()
            .map(|l| if l == line { joined.as_str() } else { l })
            .collect();
        fs::write(&path, groups.join("\n") + "\n").context("writing /etc/group")?;
    }
    Ok(true)
}

fn wait_for(device: &Path) -> Result<()> {
    let started = Instant::now();
    while !device.exists() {
        ensure!(
            started.elapsed() < DEVICE_WITHIN,
            "the kernel made no device {}",
            device.display()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// A path in the new root whose folders are there and are folders: a link in the image must not lead elsewhere.
fn inside(root: &Path, name: &str) -> Result<PathBuf> {
    let path = root.join(name);
    let mut folder = root.to_owned();
    let parent = Path::new(name).parent().unwrap_or(Path::new(""));
    for part in parent.components() {
        folder.push(part);
        match folder.symlink_metadata() {
            Ok(found) if found.is_dir() => {}
            Ok(_) => bail!(
                "{} in the image is not a folder",
                folder.strip_prefix(root)?.display()
            ),
            Err(_) => {
                fs::create_dir(&folder).with_context(|| format!("making /{}", parent.display()))?
            }
        }
    }
    Ok(path)
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let in_path = || format!("writing {}", path.display());
    // anew, whatever was there: a link is replaced and not followed
    let _ = fs::remove_file(path);
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .with_context(in_path)?;
    file.write_all(bytes).with_context(in_path)?;
    file.sync_all().with_context(in_path)
}

fn own(path: &Path, user: u32) -> Result<()> {
    chown(path, Some(user), Some(user))?;
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            own(&entry?.path(), user)?;
        }
    }
    Ok(())
}

/// Adds the node's own user and group, unless they are there.
fn add_user(root: &Path) -> Result<u32> {
    let passwd =
        fs::read_to_string(root.join("etc/passwd")).context("the new root has no /etc/passwd")?;
    let group =
        fs::read_to_string(root.join("etc/group")).context("the new root has no /etc/group")?;
    let number_of = |file: &str| {
        let line = file.lines().find(|l| l.split(':').next() == Some(USER));
        line.and_then(|l| l.split(':').nth(2))
            .and_then(|n| n.parse::<u32>().ok())
    };
    if let Some(user) = number_of(&passwd) {
        return Ok(user);
    }
    let taken = |id: u32| {
        let id = id.to_string();
        [&passwd, &group]
            .iter()
            .any(|f| f.lines().any(|l| l.split(':').nth(2) == Some(&id)))
    };
    let user = (USER_ID_MIN..=USER_ID_MAX)
        .rev()
        .find(|id| !taken(*id))
        .context("no user number is free")?;
    append(
        &root.join("etc/passwd"),
        &format!("{USER}:x:{user}:{user}::/{STATE}:/usr/sbin/nologin\n"),
    )?;
    append(&root.join("etc/group"), &format!("{USER}:x:{user}:\n"))?;
    for (name, line) in [
        ("etc/shadow", format!("{USER}:!:1::::::\n")),
        ("etc/gshadow", format!("{USER}:!::\n")),
    ] {
        if root.join(name).exists() {
            append(&root.join(name), &line)?;
        }
    }
    Ok(user)
}

fn append(path: &Path, line: &str) -> Result<()> {
    let mut file = File::options()
        .append(true)
        .open(path)
        .with_context(|| format!("opening {}", path.display()))?;
    file.write_all(line.as_bytes())?;
    Ok(())
}

/// Grows the mounted ext4 to its partition; the kernel does it while it is mounted.
fn grow_ext4(root: &Path, bytes: u64) -> Result<()> {
    let block_bytes = nix::sys::statvfs::statvfs(root)?.fragment_size();
    let folder = File::open(root)?;
    // a file system without reserved table blocks cannot grow that far; a smaller root is not a failed install
    if let Err(error) = resize_ext4(&folder, bytes / block_bytes) {
        tracing::warn!(%error, "the root keeps the image's size");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> tempfile::TempDir {
        let root = tempfile::TempDir::new().unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        fs::write(
            root.path().join("etc/passwd"),
            "root:x:0:0::/root:/bin/sh\nx:x:979:979::/:/\n",
        )
        .unwrap();
        fs::write(root.path().join("etc/group"), "root:x:0:\n").unwrap();
        root
    }

    #[test]
    fn the_user_gets_a_free_number_and_is_added_once() {
        let root = tree();
        assert_eq!(add_user(root.path()).unwrap(), 978);
        assert_eq!(add_user(root.path()).unwrap(), 978);
        let passwd = fs::read_to_string(root.path().join("etc/passwd")).unwrap();
        assert_eq!(
            passwd.matches("lamplighter").count(),
            2,
            "name and home, once each: {passwd}"
        );
    }

    #[test]
    fn the_node_joins_the_group_of_the_tpm_once() {
        let root = tree();
        assert!(!join(root.path(), TPM_GROUP).unwrap());
        assert!(udev_rules(false).contains("SUBSYSTEM==\"tpmrm\", GROUP=\"lamplighter\""));
        append(&root.path().join("etc/group"), "tss:x:110:\ntssx:x:9:a\n").unwrap();
        assert!(join(root.path(), TPM_GROUP).unwrap());
        assert!(join(root.path(), TPM_GROUP).unwrap());
        append(&root.path().join("etc/group"), "other:x:111:a,b\n").unwrap();
        assert!(join(root.path(), "other").unwrap());
        assert_eq!(
            fs::read_to_string(root.path().join("etc/group")).unwrap(),
            "root:x:0:\ntss:x:110:lamplighter\ntssx:x:9:a\nother:x:111:a,b,lamplighter\n"
        );
        assert!(udev_rules(true).contains("SUBSYSTEM==\"tpmrm\", GROUP=\"tss\""));
    }

    #[test]
    fn a_system_without_a_driver_gets_a_key_that_it_can_read() {
        let root = tree();
        let identity = Identity::generate().unwrap();
        assert!(!has_tpm_driver(root.path()));
        let key = key_file(&identity, root.path());
        assert_eq!(key.bytes.len(), 32);
        assert!(key.plain_because.unwrap().contains("no driver"));
        let kernel = root.path().join("usr/lib/modules/6.1.0-56-amd64");
        fs::create_dir_all(&kernel).unwrap();
        fs::write(
            kernel.join("modules.builtin"),
            "kernel/drivers/char/hpet.ko\n",
        )
        .unwrap();
        assert!(!has_tpm_driver(root.path()));
        let drivers = "kernel/drivers/char/tpm/tpm.ko\nkernel/drivers/char/tpm/tpm_tis.ko\n";
        fs::write(kernel.join("modules.builtin"), drivers).unwrap();
        assert!(has_tpm_driver(root.path()));
    }

    #[test]
    fn a_link_in_the_image_leads_nowhere() {
        let (root, outside) = (tree(), tempfile::TempDir::new().unwrap());
        symlink(outside.path(), root.path().join("opt")).unwrap();
        assert!(inside(root.path(), PROGRAM).is_err());
        fs::write(outside.path().join("victim"), "before").unwrap();
        symlink(outside.path().join("victim"), root.path().join("link")).unwrap();
        write(&root.path().join("link"), b"after", 0o644).unwrap();
        assert_eq!(fs::read(outside.path().join("victim")).unwrap(), b"before");
    }
}
