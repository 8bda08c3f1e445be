//! What an installed disk holds, compared with the image it came from before its system runs for the first time.

use std::{
    collections::BTreeMap,
    fs::File,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use gptman::{GPT, GPTPartitionEntry};

use crate::process::run;

const CHUNK_BYTES: u64 = 1 << 20;
const SECTOR_BYTES: u64 = 512;
/// Label of the partition that is customised.
const ROOT_LABEL: &str = "root";
const DEBUGFS_TIMEOUT: Duration = Duration::from_secs(120);
/// Chunks of the root that customising may touch: the node's program, documents and the file system's own tables.
const CUSTOMISED_CHUNKS_MAX: usize = 100;
/// What customising adds, with everything below it.
const ADDED: [&str; 5] = [
    "opt/lamplighter",
    "var/lib/lamplighter",
    "etc/systemd/system/lamplighter-node.service",
    "etc/systemd/system/multi-user.target.wants/lamplighter-node.service",
    "etc/udev/rules.d/70-lamplighter.rules",
];
/// Files that get a line at their end: the node's user.
const APPENDED: [&str; 4] = ["etc/passwd", "etc/group", "etc/shadow", "etc/gshadow"];

/// Every chunk of the disk is the image's, except where customising writes; and there every file of the image is as it was.
///
/// # Errors
/// With the first place or file that differs.
pub(crate) fn check_installed(image: &Path, disk: &Path) -> Result<String> {
    let (wanted, found) = (Disk::open(image)?, Disk::open(disk)?);
    for (number, partition) in wanted.table.iter().filter(|(_, p)| p.is_used()) {
        let same = found.table.iter().any(|(n, p)| {
            n == number
                && p.starting_lba == partition.starting_lba
                && p.unique_partition_guid == partition.unique_partition_guid
                && p.partition_type_guid == partition.partition_type_guid
                && p.ending_lba >= partition.ending_lba
        });
        ensure!(
            same,
            "partition {number} is not the image's: {:?}",
            found.table[number]
        );
    }
    let differing = compare_chunks(&wanted, &found)?;
    let files = compare_trees(&wanted, &found)?;
    Ok(format!(
        "{} chunks of {} differ, all in the root file system, where {files} files are the image's",
        differing,
        wanted.bytes.div_ceil(CHUNK_BYTES)
    ))
}

struct Disk {
    path: PathBuf,
    file: File,
    bytes: u64,
    table: GPT,
}

impl Disk {
    fn open(path: &Path) -> Result<Self> {
        let mut file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
        let table = GPT::find_from(&mut file)
            .with_context(|| format!("the partition table of {}", path.display()))?;
        Ok(Self {
            path: path.to_owned(),
            bytes: file.metadata()?.len(),
            file,
            table,
        })
    }

    fn root(&self) -> Result<&GPTPartitionEntry> {
        let root = self
            .table
            .iter()
            .find(|(_, p)| p.partition_name.as_str() == ROOT_LABEL);
        Ok(root.context("no root partition")?.1)
    }

    fn read(&self, offset: u64, bytes: u64) -> Result<Vec<u8>> {
        let mut buffer = vec![0; usize::try_from(bytes)?];
        self.file
            .read_exact_at(&mut buffer, offset)
            .with_context(|| format!("reading {} at {offset}", self.path.display()))?;
        Ok(buffer)
    }

    /// All files below the root of its root file system, in a folder.
    fn unpack_root(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir(folder)?;
        let offset = self.root()?.starting_lba * SECTOR_BYTES;
        let device = format!("{}?offset={offset}", self.path.display());
        let request = format!("rdump / {}", folder.display());
        run(
            None,
            DEBUGFS_TIMEOUT,
            Path::new("debugfs"),
            &["-R", &request, &device],
        )?;
        Ok(())
    }
}

/// How many chunks differ. Outside of the root none may; the table's own sectors are compared entry by entry instead.
fn compare_chunks(wanted: &Disk, found: &Disk) -> Result<usize> {
    let root = wanted.root()?;
    let root = root.starting_lba * SECTOR_BYTES..(root.ending_lba + 1) * SECTOR_BYTES;
    let table = wanted.table.header.first_usable_lba * SECTOR_BYTES;
    let end = (wanted.table.header.last_usable_lba + 1) * SECTOR_BYTES;
    ensure!(
        wanted.read(0, 440)? == found.read(0, 440)?,
        "the boot code is not the image's"
    );
    let mut differing = 0;
    let mut offset = table;
    while offset < end {
        let next = (offset - offset % CHUNK_BYTES + CHUNK_BYTES).min(end);
        if wanted.read(offset, next - offset)? != found.read(offset, next - offset)? {
            ensure!(
                root.contains(&offset) && root.contains(&(next - 1)),
                "the chunk at {offset} is not the image's"
            );
            differing += 1;
        }
        offset = next;
    }
    ensure!(
        (1..=CUSTOMISED_CHUNKS_MAX).contains(&differing),
        "{differing} chunks of the root differ"
    );
    Ok(differing)
}

/// How many files are the same on both sides.
fn compare_trees(wanted: &Disk, found: &Disk) -> Result<usize> {
    let scratch = tempfile::tempdir()?;
    let (image, disk) = (scratch.path().join("image"), scratch.path().join("disk"));
    wanted.unpack_root(&image)?;
    found.unpack_root(&disk)?;
    let (mut wanted, mut found) = (BTreeMap::new(), BTreeMap::new());
    list(&image, Path::new(""), &mut wanted)?;
    list(&disk, Path::new(""), &mut found)?;
    for name in found.keys().filter(|name| !wanted.contains_key(*name)) {
        ensure!(
            ADDED.iter().any(|added| name.starts_with(added)),
            "/{} is not in the image",
            name.display()
        );
    }
    let mut same = 0;
    for (name, entry) in &wanted {
        let other = found
            .get(name)
            .with_context(|| format!("/{} is missing", name.display()))?;
        let is_appended = APPENDED.iter().any(|appended| name == Path::new(appended));
        match (&entry.content, &other.content) {
            (Content::File(old), Content::File(new)) if is_appended => {
                ensure!(
                    new.starts_with(old) && new.len() < old.len() + 200,
                    "/{} lost something",
                    name.display()
                );
                ensure!(
                    entry.owner == other.owner,
                    "/{} changed hands",
                    name.display()
                );
            }
            _ if entry == other => same += 1,
            _ => bail!("/{} is not the image's", name.display()),
        }
    }
    Ok(same)
}

#[derive(PartialEq, Eq)]
struct Entry {
    /// Mode, user, group.
    owner: [u32; 3],
    content: Content,
}

#[derive(PartialEq, Eq)]
enum Content {
    Folder,
    Link(PathBuf),
    /// Of a file that is compared as a whole.
    File(Vec<u8>),
}

fn list(root: &Path, folder: &Path, into: &mut BTreeMap<PathBuf, Entry>) -> Result<()> {
    for entry in std::fs::read_dir(root.join(folder))? {
        let name = folder.join(entry?.file_name());
        let path = root.join(&name);
        let facts = path.symlink_metadata()?;
        let content = if facts.is_dir() {
            list(root, &name, into)?;
            Content::Folder
        } else if facts.is_symlink() {
            Content::Link(std::fs::read_link(&path)?)
        } else {
            Content::File(std::fs::read(&path)?)
        };
        let owner = [facts.mode(), facts.uid(), facts.gid()];
        into.insert(name, Entry { owner, content });
    }
    Ok(())
}
