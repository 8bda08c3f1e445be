//! What a raw disk image contains: partitions, file systems, the root, and what stands in the way of customising it.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use ext4_view::{Ext4, Ext4Read};
use image_format::{Customisation, PartitionSummary};
use thiserror::Error;

const GPT_TYPE_ESP: [u8; 16] = [
    0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b,
];
const GPT_TYPE_BIOS_BOOT: [u8; 16] = *b"Hah!IdontNeedEFI";

/// What an import found.
#[derive(Debug, Clone, Default)]
pub struct DiskReport {
    /// Size of the disk.
    pub disk_bytes: u64,
    /// Logical sector size of its partition table; 512 without one.
    pub sector_bytes: u32,
    /// The partitions, by number.
    pub partitions: Vec<PartitionSummary>,
    /// The operating system's root, if one was recognised.
    pub root: Option<RootReport>,
    /// Has an EFI system partition.
    pub uefi: bool,
    /// Has boot code for BIOS.
    pub bios: bool,
    /// Why a node cannot be put into this image, in words; empty when it can.
    pub obstacles: Vec<String>,
    /// What is worth knowing and stands in nobody's way.
    pub notes: Vec<String>,
}

/// A root file system.
#[derive(Debug, Clone)]
pub struct RootReport {
    /// Number of its partition.
    pub partition: u32,
    /// `PRETTY_NAME` of its os-release.
    pub system: String,
}

impl DiskReport {
    /// Where a node goes in this image.
    pub fn customisation(&self) -> Customisation {
        match &self.root {
            Some(root) if self.obstacles.is_empty() => Customisation::Ext4 {
                partition: root.partition,
            },
            _ => Customisation::None,
        }
    }
}

/// Why a file is no disk image.
#[derive(Debug, Error)]
pub enum InspectError {
    /// The file cannot be read.
    #[error("{path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// There is nothing in it.
    #[error("{path} is empty")]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// Disks consist of whole sectors.
    #[error(
        "{path} has {bytes} bytes, which is no multiple of 512: not a raw disk image, or cut off"
    )]
    NotSectors {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
    },
    /// The partition table describes a larger disk.
    #[error(
        "{path} is cut off: its partition {partition} ends at byte {end}, the file at byte {bytes}"
    )]
    CutOff {
        /// The file.
        path: PathBuf,
        /// The partition's number.
        partition: u32,
        /// Where the partition ends.
        end: u64,
        /// Where the file ends.
        bytes: u64,
    },
    /// A format that has to be converted first.
    #[error("{path} is a {format} file; convert it first: qemu-img convert -O raw")]
    NotRaw {
        /// The file.
        path: PathBuf,
        /// What it looks like.
        format: &'static str,
    },
}

/// Looks into a raw disk image.
///
/// # Errors
/// [`InspectError`] when it is none.
pub fn inspect(path: &Path) -> Result<DiskReport, InspectError> {
    let io_error = |source| InspectError::Io {
        path: path.to_owned(),
        source,
    };
    let mut file = File::open(path).map_err(io_error)?;
    let bytes = file.seek(SeekFrom::End(0)).map_err(io_error)?;
    if bytes == 0 {
        return Err(InspectError::Empty {
            path: path.to_owned(),
        });
    }
    if let Some(format) = known_container(&file) {
        return Err(InspectError::NotRaw {
            path: path.to_owned(),
            format,
        });
    }
    if !bytes.is_multiple_of(512) {
        return Err(InspectError::NotSectors {
            path: path.to_owned(),
            bytes,
        });
    }
    let mut report = DiskReport {
        disk_bytes: bytes,
        sector_bytes: 512,
        ..DiskReport::default()
    };
    let mut first_sector = [0; 512];
    file.read_exact_at(&mut first_sector, 0).map_err(io_error)?;
    let Some((gpt, sector_bytes)) = read_gpt(&mut file) else {
        report.bios = first_sector[510..] == [0x55, 0xaa];
        report
            .obstacles
            .push("no GPT partition table was found".into());
        return Ok(report);
    };
    report.sector_bytes = sector_bytes;
    for (number, partition) in gpt.iter().filter(|(_, p)| p.is_used()) {
        let first_byte = partition.starting_lba * u64::from(sector_bytes);
        let end = (partition.ending_lba + 1).saturating_mul(u64::from(sector_bytes));
        if end > bytes || end <= first_byte {
            return Err(InspectError::CutOff {
                path: path.to_owned(),
                partition: number,
                end,
                bytes,
            });
        }
        report.partitions.push(PartitionSummary {
            number,
            first_byte,
            bytes: end - first_byte,
            type_guid: partition.partition_type_guid,
            label: partition.partition_name.to_string(),
            file_system: probe(&file, first_byte).into(),
        });
    }
    let has_type = |guid| report.partitions.iter().any(|p| p.type_guid == guid);
    report.uefi = has_type(GPT_TYPE_ESP);
    report.bios = has_type(GPT_TYPE_BIOS_BOOT);
    find_root(&file, &mut report);
    Ok(report)
}

/// GPT behind 512-byte or 4096-byte sectors; the backup is not asked, as a cut-off image has none.
fn read_gpt(file: &mut File) -> Option<(gptman::GPT, u32)> {
    for sector_bytes in [512, 4096] {
        let mut magic = [0; 8];
        if file.read_exact_at(&mut magic, sector_bytes.into()).is_ok() && &magic == b"EFI PART" {
            file.seek(SeekFrom::Start(0)).ok()?;
            return gptman::GPT::read_from(file, sector_bytes.into())
                .ok()
                .map(|g| (g, sector_bytes));
        }
    }
    None
}

fn known_container(file: &File) -> Option<&'static str> {
    const CONTAINERS: [(&[u8], &str); 8] = [
        (b"QFI\xfb", "qcow2"),
        (b"KDMV", "VMDK"),
        (b"# Disk DescriptorFile", "VMDK"),
        (b"vhdxfile", "VHDX"),
        (b"conectix", "VHD"),
        (b"\x1f\x8b", "gzip"),
        (b"\xfd7zXZ\0", "xz"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
    ];
    let mut head = [0; 32];
    let count = file.read_at(&mut head, 0).unwrap_or(0);
    CONTAINERS
        .iter()
        .find(|(magic, _)| head[..count].starts_with(magic))
        .map(|(_, format)| *format)
}

fn probe(file: &File, first_byte: u64) -> &'static str {
    const MAGICS: [(u64, &[u8], &str); 12] = [
        (1080, &[0x53, 0xef], "ext4"),
        (82, b"FAT32   ", "vfat"),
        (54, b"FAT16   ", "vfat"),
        (54, b"FAT12   ", "vfat"),
        (0, b"XFSB", "xfs"),
        (0x1_0040, b"_BHRfS_M", "btrfs"),
        (3, b"NTFS    ", "ntfs"),
        (3, b"-FVE-FS-", "BitLocker"),
        (0, b"LUKS\xba\xbe", "LUKS"),
        (512, b"LABELONE", "LVM"),
        (4086, b"SWAPSPACE2", "swap"),
        (4086, b"S1SUSPEND", "hibernated swap"),
    ];
    MAGICS
        .iter()
        .find(|(at, magic, _)| {
            let mut found = vec![0; magic.len()];
            file.read_exact_at(&mut found, first_byte + at).is_ok() && found == *magic
        })
        .map_or("", |(_, _, name)| name)
}

fn find_root(file: &File, report: &mut DiskReport) {
    for partition in &report.partitions {
        match partition.file_system.as_str() {
            "hibernated swap" => report.notes.push(format!(
                "partition {} holds a hibernated system: shut it down before capturing",
                partition.number
            )),
            "LUKS" | "LVM" | "BitLocker" => report.obstacles.push(format!(
                "partition {} is {}, which cannot be opened here",
                partition.number, partition.file_system
            )),
            _ => {}
        }
    }
    let ext4 = report.partitions.iter().filter(|p| p.file_system == "ext4");
    for partition in ext4 {
        let Ok(view) = file.try_clone() else { continue };
        let section = Section {
            file: view,
            first_byte: partition.first_byte,
        };
        let Ok(fs) = Ext4::load(Box::new(section)) else {
            report.notes.push(format!(
                "the ext4 of partition {} cannot be read",
                partition.number
            ));
            continue;
        };
        let release = ["/etc/os-release", "/usr/lib/os-release"]
            .iter()
            .find_map(|p| fs.read_to_string(*p).ok());
        let Some(release) = release else { continue };
        report.root = Some(RootReport {
            partition: partition.number,
            system: release
                .lines()
                .find_map(|l| l.strip_prefix("PRETTY_NAME="))
                .unwrap_or("unknown system")
                .trim_matches('"')
                .into(),
        });
        let has = |path: &str| fs.exists(path).unwrap_or(false);
        if !has("/usr/lib/systemd/systemd") && !has("/lib/systemd/systemd") {
            report
                .obstacles
                .push("the root has no systemd, which would start the node".into());
        }
        let enforcing = fs
            .read_to_string("/etc/selinux/config")
            .is_ok_and(|c| c.contains("\nSELINUX=enforcing"));
        if enforcing {
            report
                .obstacles
                .push("the root enforces SELinux; files put into it would have no labels".into());
        }
    }
    if report.root.is_none() {
        report
            .obstacles
            .push("no ext4 partition holds an operating system's root (no os-release)".into());
    }
}

struct Section {
    file: File,
    first_byte: u64,
}

impl Ext4Read for Section {
    fn read(
        &mut self,
        start_byte: u64,
        dst: &mut [u8],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync + 'static>> {
        self.file
            .seek(SeekFrom::Start(self.first_byte + start_byte))?;
        self.file.read_exact(dst)?;
        Ok(())
    }
}
