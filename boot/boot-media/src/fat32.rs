//! Writing a FAT32 file system whose content is known beforehand (Microsoft's "FAT File System Specification" 1.03): the
//! same bytes for the same content, every file in one piece. (The crate `fatfs` 0.3 writes long-name entries for `.` and
//! `..`, which fsck.vfat takes for damage.)

use std::io::{self, Seek, SeekFrom, Write};

const SECTOR_BYTES: u32 = 512;
/// Before the first file allocation table: boot sector, FSInfo, their copies.
const RESERVED_SECTORS: u32 = 32;
/// Copies of the file allocation table.
const TABLES: u32 = 2;
const BOOT_COPY_SECTOR: u32 = 6;
/// The root folder; data clusters are numbered from here.
const FIRST_CLUSTER: u32 = 2;
/// With fewer clusters, drivers take a file system for FAT16.
const CLUSTERS_MIN: u32 = 65_525;
const CLUSTERS_MAX: u32 = 0x0fff_fff5;
const END_OF_CHAIN: u32 = 0x0fff_ffff;
const ENTRY_BYTES: usize = 32;
/// 2026-01-01 in the format of a folder entry: years from 1980, month, day.
const DATE: u16 = (46 << 9) | (1 << 5) | 1;

const ATTRIBUTE_VOLUME_LABEL: u8 = 0x08;
const ATTRIBUTE_FOLDER: u8 = 0x10;
const ATTRIBUTE_FILE: u8 = 0x20;
const ATTRIBUTE_LONG_NAME: u8 = 0x0f;

/// A name in a folder.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Name {
    /// Eight and three bytes, upper case, padded by spaces.
    pub(crate) short: [u8; 11],
    /// The real name where it does not fit the short one: at most 13 ASCII letters.
    pub(crate) long: Option<&'static str>,
}

/// What a folder holds.
#[derive(Debug)]
pub(crate) enum Node<'a> {
    Folder(Name, Vec<Node<'a>>),
    File(Name, &'a [u8]),
}

/// The file system's surroundings and identity.
#[derive(Debug)]
pub(crate) struct Volume {
    /// Its size, in sectors of 512 bytes; a cluster is one sector.
    pub(crate) sectors: u32,
    /// Sectors of the disk before the partition.
    pub(crate) sectors_before: u32,
    pub(crate) id: u32,
    pub(crate) label: [u8; 11],
}

/// Table and folder entries, collected before anything is written.
struct Plan<'a> {
    /// One entry per cluster used.
    table: Vec<u32>,
    /// First cluster and content.
    content: Vec<(u32, Content<'a>)>,
}

enum Content<'a> {
    Folder(Vec<u8>),
    File(&'a [u8]),
}

/// Writes the file system to `out`, whose position 0 is the partition's first byte `start`, and says how many bytes stay
/// free. What it does not write must read as zeros: give it a new sparse file.
pub(crate) fn write<W: Write + Seek>(
    out: &mut W,
    start: u64,
    volume: &Volume,
    root: &[Node<'_>],
) -> io::Result<u64> {
    // Tables of F sectors describe 128 F clusters, two of which do not exist; the rest of the sectors are data.
    let table_sectors = (volume
        .sectors
        .saturating_sub(RESERVED_SECTORS - FIRST_CLUSTER))
    .div_ceil(128 + TABLES);
    let clusters = volume
        .sectors
        .saturating_sub(RESERVED_SECTORS + TABLES * table_sectors);
    if !(CLUSTERS_MIN..=CLUSTERS_MAX).contains(&clusters) {
        return Err(io::Error::other(format!(
            "{clusters} clusters: FAT32 has at least {CLUSTERS_MIN}"
        )));
    }
    let mut plan = Plan {
        table: vec![0x0fff_fff8, END_OF_CHAIN],
        content: Vec::new(),
    };
    plan.root(volume, root)?;
    let used = u32_of(plan.table.len())? - FIRST_CLUSTER;
    let free = clusters.checked_sub(used).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::StorageFull,
            format!("content needs {used} clusters of {clusters}"),
        )
    })?;

    let boot = boot_sector(volume, table_sectors);
    let info = info_sector(free, u32_of(plan.table.len())?);
    let mut put = |sector: u32, bytes: &[u8]| {
        out.seek(SeekFrom::Start(
            start + u64::from(sector) * u64::from(SECTOR_BYTES),
        ))?;
        out.write_all(bytes)
    };
    for copy in [0, BOOT_COPY_SECTOR] {
        put(copy, &boot)?;
        put(copy + 1, &info)?;
    }
    let table: Vec<u8> = plan
        .table
        .iter()
        .flat_map(|entry| entry.to_le_bytes())
        .collect();
    for copy in 0..TABLES {
        put(RESERVED_SECTORS + copy * table_sectors, &table)?;
    }
    let data = RESERVED_SECTORS + TABLES * table_sectors;
    for (cluster, content) in &plan.content {
        let bytes = match content {
            Content::Folder(bytes) => bytes.as_slice(),
            Content::File(bytes) => bytes,
        };
        put(data + cluster - FIRST_CLUSTER, bytes)?;
    }
    Ok(u64::from(free) * u64::from(SECTOR_BYTES))
}

impl<'a> Plan<'a> {
    fn root(&mut self, volume: &Volume, nodes: &[Node<'a>]) -> io::Result<()> {
        let mut entries = Vec::new();
        entry(&mut entries, volume.label, ATTRIBUTE_VOLUME_LABEL, 0, 0);
        // A child of the root says 0 where another says its parent's cluster.
        self.folder(0, entries, nodes).map(|_| ())
    }

    /// Places a folder and what is in it; `entries` are those that come first. Its cluster.
    fn folder(
        &mut self,
        as_parent: u32,
        mut entries: Vec<u8>,
        nodes: &[Node<'a>],
    ) -> io::Result<u32> {
        let count = nodes
            .iter()
            .map(|node| 1 + usize::from(node.name().long.is_some()))
            .sum::<usize>();
        let bytes = entries.len() + count * ENTRY_BYTES;
        let cluster = self.chain(bytes.max(1))?;
        if let Some(own) = entries.get_mut(..ENTRY_BYTES).filter(|own| own[0] == b'.') {
            put_cluster(own, cluster);
        }
        let as_parent = if cluster == FIRST_CLUSTER {
            as_parent
        } else {
            cluster
        };
        for node in nodes {
            let name = node.name();
            if let Some(long) = name.long {
                long_name_entry(&mut entries, long, name.short)?;
            }
            match node {
                Node::Folder(_, nodes) => {
                    let mut first = Vec::new();
                    entry(&mut first, *b".          ", ATTRIBUTE_FOLDER, 0, 0); // `folder` fills in its cluster
                    entry(&mut first, *b"..         ", ATTRIBUTE_FOLDER, as_parent, 0);
                    let child = self.folder(as_parent, first, nodes)?;
                    entry(&mut entries, name.short, ATTRIBUTE_FOLDER, child, 0);
                }
                Node::File(_, content) => {
                    let cluster = if content.is_empty() {
                        0
                    } else {
                        self.chain(content.len())?
                    };
                    entry(
                        &mut entries,
                        name.short,
                        ATTRIBUTE_FILE,
                        cluster,
                        u32_of(content.len())?,
                    );
                    self.content.push((cluster, Content::File(content)));
                }
            }
        }
        self.content.push((cluster, Content::Folder(entries)));
        Ok(cluster)
    }

    /// Reserves clusters for `bytes`, one after the other; the first one.
    fn chain(&mut self, bytes: usize) -> io::Result<u32> {
        let first = u32_of(self.table.len())?;
        let count = u32_of(bytes)?.div_ceil(SECTOR_BYTES);
        self.table.extend((1..count).map(|next| first + next));
        self.table.push(END_OF_CHAIN);
        Ok(first)
    }
}

impl Node<'_> {
    fn name(&self) -> Name {
        match self {
            Self::Folder(name, _) | Self::File(name, _) => *name,
        }
    }
}

fn entry(entries: &mut Vec<u8>, name: [u8; 11], attribute: u8, cluster: u32, bytes: u32) {
    let mut entry = [0; ENTRY_BYTES];
    entry[..11].copy_from_slice(&name);
    entry[11] = attribute;
    for date in [16, 18, 24] {
        // Created, last accessed, last written; midnight is zero.
        entry[date..date + 2].copy_from_slice(&DATE.to_le_bytes());
    }
    put_cluster(&mut entry, cluster);
    entry[28..].copy_from_slice(&bytes.to_le_bytes());
    entries.extend_from_slice(&entry);
}

fn put_cluster(entry: &mut [u8], cluster: u32) {
    let bytes = cluster.to_le_bytes();
    entry[20..22].copy_from_slice(&bytes[2..]);
    entry[26..28].copy_from_slice(&bytes[..2]);
}

/// The one entry before the short one that carries a name of at most 13 letters.
fn long_name_entry(entries: &mut Vec<u8>, long: &str, short: [u8; 11]) -> io::Result<()> {
    /// Where in the entry each letter (16 bits) has its place.
    const LETTERS: [usize; 13] = [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30];
    if !long.is_ascii() || long.len() > LETTERS.len() {
        return Err(io::Error::other(format!(
            "'{long}' does not fit one long-name entry"
        )));
    }
    let mut entry = [0xff; ENTRY_BYTES]; // what follows the name's end is 0xffff
    entry[0] = 0x41; // the last (0x40) and first part
    entry[11] = ATTRIBUTE_LONG_NAME;
    entry[12] = 0;
    entry[13] = short
        .iter()
        .fold(0u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte));
    entry[26..28].fill(0);
    for (at, letter) in LETTERS.into_iter().zip(long.bytes().chain([0])) {
        entry[at..at + 2].copy_from_slice(&[letter, 0]);
    }
    entries.extend_from_slice(&entry);
    Ok(())
}

fn boot_sector(volume: &Volume, table_sectors: u32) -> [u8; 512] {
    let mut sector = [0; 512];
    let mut put = |at: usize, bytes: &[u8]| sector[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &[0xeb, 0x58, 0x90]); // jump over this table, as the format asks
    put(3, b"MSWIN4.1"); // the name that the specification advises
    put(11, &512u16.to_le_bytes()); // bytes per sector
    put(13, &[1]); // sectors per cluster
    put(14, &32u16.to_le_bytes()); // RESERVED_SECTORS
    put(16, &[2]); // TABLES
    put(21, &[0xf8]); // medium: fixed
    put(24, &63u16.to_le_bytes()); // sectors per track
    put(26, &255u16.to_le_bytes()); // heads
    put(28, &volume.sectors_before.to_le_bytes());
    put(32, &volume.sectors.to_le_bytes());
    put(36, &table_sectors.to_le_bytes());
    put(44, &FIRST_CLUSTER.to_le_bytes());
    put(48, &1u16.to_le_bytes()); // FSInfo
    put(50, &6u16.to_le_bytes()); // BOOT_COPY_SECTOR
    put(64, &[0x80, 0, 0x29]); // drive; reserved; id, label and type follow
    put(67, &volume.id.to_le_bytes());
    put(71, &volume.label);
    put(82, b"FAT32   ");
    put(510, &[0x55, 0xaa]);
    sector
}

fn info_sector(free: u32, next_free: u32) -> [u8; 512] {
    let mut sector = [0; 512];
    for (at, value) in [
        (0, 0x4161_5252),
        (484, 0x6141_7272),
        (488, free),
        (492, next_free),
        (508, 0xaa55_0000),
    ] {
        sector[at..at + 4].copy_from_slice(&u32::to_le_bytes(value));
    }
    sector
}

fn u32_of(value: usize) -> io::Result<u32> {
    u32::try_from(value).map_err(|_| io::Error::other("more than 4 GiB do not fit FAT32"))
}
