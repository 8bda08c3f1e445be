//! The USB stick: a GPT disk image with one EFI system partition that starts the agent on any UEFI machine.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use gptman::{GPT, GPTPartitionEntry};

use crate::fat32::{self, Name, Node, Volume};
use crate::file::{self, FileError};
use crate::pe::{self, PeError};

const SECTOR_BYTES: u64 = 512;
/// The partition starts here, and the disk's end keeps as much for the second copy of the partition table.
const ALIGNMENT_BYTES: u64 = 1 << 20;
/// Room left on the stick for `/lamplighter/`: root document, voucher, log of a failed install.
const ROOM_BYTES: u64 = 64 << 20;
/// FAT32 begins at 65,525 clusters; with 512-byte clusters and the tables themselves that is below this.
const FAT32_BYTES_MIN: u64 = 40 << 20;
/// EFI system partition, C12A7328-F81F-11D2-BA4B-00A0C93EC93B, in the byte order of a GPT.
const ESP_TYPE: [u8; 16] = [
    0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b,
];
/// A slab's, as on machines' disks.
const DATA_TYPE: [u8; 16] = *b"LamplighterSlab1";
const VOLUME_LABEL: [u8; 11] = *b"LAMPLIGHTER";

/// The image of a USB stick, as built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsbReport {
    /// Where it was written.
    pub path: PathBuf,
    /// Its size; zeros are holes in the file.
    pub size_bytes: u64,
    /// What is free in its file system, for files under `/lamplighter/`.
    pub free_bytes: u64,
    /// BLAKE3 of the whole image, in hexadecimal.
    pub blake3: String,
}

/// A stick image that could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildUsbError {
    /// The UKI, another file, or the image's file.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file's name does not fit a folder of the first DOS.
    #[error("{name:?} is no name of at most 8 letters or digits")]
    Name {
        /// The name.
        name: String,
    },
    /// What should start is no EFI program.
    #[error("{} cannot start a machine from a stick", path.display())]
    Uki {
        /// The file given.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: PeError,
    },
    /// The partition table cannot be written.
    #[error("cannot write the partition table of {}", path.display())]
    PartitionTable {
        /// The image.
        path: PathBuf,
        /// The cause.
        #[source]
        source: Box<gptman::Error>,
    },
    /// The file system cannot be written.
    #[error("cannot write the file system of {}", path.display())]
    FileSystem {
        /// The image.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// What goes onto a stick.
#[derive(Debug, Clone, Default)]
pub struct UsbRequest {
    /// The file that starts the agent.
    pub uki: PathBuf,
    /// Files for the folder `/lamplighter`, by names of at most 8 lower-case letters or digits.
    pub files: Vec<(&'static str, PathBuf)>,
    /// One more partition after the first, blank: its name, and its bytes in whole MiB.
    pub data: Option<(&'static str, u64)>,
}

/// Writes `out`, the raw image of a USB stick that starts a UKI on UEFI machines, with a folder `/lamplighter` and 64 MiB of
/// room. The same files give the same bytes; identifiers derive from the UKI. Write the image to a stick as it is (`dd`, or
/// any imager).
///
/// # Errors
/// [`BuildUsbError`]. `out` is complete or not there.
pub fn build_usb(request: &UsbRequest, out: &Path) -> Result<UsbReport, BuildUsbError> {
    let program = file::read(&request.uki)?;
    pe::sections(&program).map_err(|source| BuildUsbError::Uki {
        path: request.uki.clone(),
        source,
    })?;
    let files: Vec<(Name, Vec<u8>)> = request
        .files
        .iter()
        .map(|(name, path)| Ok((short_name(name)?, file::read(path)?)))
        .collect::<Result<_, BuildUsbError>>()?;
    let content_bytes = files.iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
    let esp_bytes = ((program.len() + content_bytes) as u64 + ROOM_BYTES)
        .max(FAT32_BYTES_MIN)
        .next_multiple_of(ALIGNMENT_BYTES);
    let data = request.data.map(|(name, bytes)| Data {
        name,
        start: ALIGNMENT_BYTES + esp_bytes,
        bytes: bytes.next_multiple_of(ALIGNMENT_BYTES),
    });
    let data_bytes = data.as_ref().map_or(0, |data| data.bytes);
    let size_bytes = esp_bytes + data_bytes + 2 * ALIGNMENT_BYTES;
    let identity = *blake3::hash(&program).as_bytes();

    let part = out.with_extension("part");
    let disk = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(&part)
        .map_err(FileError::of("create", &part))?;
    disk.set_len(size_bytes)
        .map_err(FileError::of("set the size of", &part))?;
    write_partition_table(&disk, &identity, esp_bytes, data.as_ref()).map_err(|source| {
        BuildUsbError::PartitionTable {
            path: out.to_path_buf(),
            source: Box::new(source),
        }
    })?;
    let free_bytes =
        write_file_system(&disk, &identity, esp_bytes, &program, &files).map_err(|source| {
            BuildUsbError::FileSystem {
                path: out.to_path_buf(),
                source,
            }
        })?;
    disk.sync_all().map_err(FileError::of("sync", &part))?;
    let mut hasher = blake3::Hasher::new();
    hasher
        .update_reader(File::open(&part).map_err(FileError::of("open", &part))?)
        .map_err(FileError::of("read", &part))?;
    std::fs::rename(&part, out).map_err(FileError::of("rename a temporary file to", out))?;
    Ok(UsbReport {
        path: out.to_path_buf(),
        size_bytes,
        free_bytes,
        blake3: hasher.finalize().to_hex().to_string(),
    })
}

/// A blank partition.
struct Data {
    name: &'static str,
    start: u64,
    bytes: u64,
}

/// A name that needs no long one.
fn short_name(name: &str) -> Result<Name, BuildUsbError> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    if !(1..=8).contains(&name.len()) || !name.bytes().all(plain) {
        let name = name.to_owned();
        return Err(BuildUsbError::Name { name });
    }
    let mut short = [b' '; 11];
    short[..name.len()].copy_from_slice(name.to_ascii_uppercase().as_bytes());
    Ok(Name { short, long: None })
}

fn write_partition_table(
    mut disk: &File,
    identity: &[u8; 32],
    esp_bytes: u64,
    data: Option<&Data>,
) -> gptman::Result<()> {
    let mut gpt = GPT::new_from(&mut disk, SECTOR_BYTES, guid(&identity[..16]))?;
    gpt[1] = GPTPartitionEntry {
        partition_type_guid: ESP_TYPE,
        unique_partition_guid: guid(&identity[16..]),
        starting_lba: ALIGNMENT_BYTES / SECTOR_BYTES,
        ending_lba: (ALIGNMENT_BYTES + esp_bytes) / SECTOR_BYTES - 1,
        attribute_bits: 0,
        partition_name: "LAMPLIGHTER".into(),
    };
    if let Some(data) = data {
        let unique = blake3::hash(identity);
        gpt[2] = GPTPartitionEntry {
            partition_type_guid: DATA_TYPE,
            unique_partition_guid: guid(&unique.as_bytes()[..16]),
            starting_lba: data.start / SECTOR_BYTES,
            ending_lba: (data.start + data.bytes) / SECTOR_BYTES - 1,
            attribute_bits: 0,
            partition_name: data.name.into(),
        };
    }
    gpt.write_into(&mut disk)?;
    GPT::write_protective_mbr_into(&mut disk, SECTOR_BYTES)
}

/// Sixteen bytes as a GUID of version 4, in the byte order of a GPT.
fn guid(bytes: &[u8]) -> [u8; 16] {
    let mut guid = [0; 16];
    guid.copy_from_slice(bytes);
    guid[7] = guid[7] & 0x0f | 0x40;
    guid[8] = guid[8] & 0x3f | 0x80;
    guid
}

/// Makes the file system and its files; says how many bytes are free.
fn write_file_system(
    mut disk: &File,
    identity: &[u8; 32],
    esp_bytes: u64,
    program: &[u8],
    files: &[(Name, Vec<u8>)],
) -> io::Result<u64> {
    let volume = Volume {
        sectors: u32::try_from(esp_bytes / SECTOR_BYTES).map_err(io::Error::other)?,
        sectors_before: u32::try_from(ALIGNMENT_BYTES / SECTOR_BYTES).map_err(io::Error::other)?,
        id: u32::from_le_bytes([identity[0], identity[1], identity[2], identity[3]]),
        label: VOLUME_LABEL,
    };
    let short = |short| Name { short, long: None };
    let own_folder = Name {
        short: *b"LAMPLI~1   ",
        long: Some("lamplighter"),
    };
    // \EFI\BOOT\BOOTX64.EFI is where firmware looks on a removable disk (UEFI 2.10, 3.5.1.1).
    let start_file = Node::File(short(*b"BOOTX64 EFI"), program);
    let boot_folder = Node::Folder(short(*b"BOOT       "), vec![start_file]);
    let root = [
        Node::Folder(short(*b"EFI        "), vec![boot_folder]),
        Node::Folder(
            own_folder,
            files
                .iter()
                .map(|(name, bytes)| Node::File(*name, bytes))
                .collect(),
        ),
    ];
    fat32::write(&mut disk, ALIGNMENT_BYTES, &volume, &root)
}
