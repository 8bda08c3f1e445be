//! What goes where on the target, and whether it fits. Decided before anything is touched.
//!
//! ```text
//! | head | content of the image ......... | grown | slab partition | install record | backup table |
//! 0      first usable sector         image end                      -2 MiB           -1 MiB        end
//! ```

use image_format::{CHUNK_BYTES, Customisation, Manifest, PartitionSummary};
use thiserror::Error;

use crate::record::RECORD_BYTES;

/// GPT type of the slab partition, as stored.
pub const SLAB_TYPE_GUID: [u8; 16] = *b"LamplighterSlab1";
/// GPT label of the slab partition.
pub const SLAB_LABEL: &str = "lamplighter-slab";
const MIB: u64 = 1 << 20;
/// Bytes of a table's entries: 128 of 128 bytes (UEFI 2.10, section 5.3.3, the least that is allowed).
const ENTRIES_BYTES: u64 = 128 * 128;
/// A smaller slab would hold no version.
const SLAB_BYTES_MIN: u64 = 64 * MIB;
/// What a slab gets beyond twice the objects of one version: room for the next one while this one is kept.
const SLAB_SPARE_BYTES: u64 = 256 * MIB;

/// Part of the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// First byte.
    pub offset: u64,
    /// How many.
    pub bytes: u64,
}

impl Extent {
    /// The byte behind the last one.
    pub fn end(&self) -> u64 {
        self.offset + self.bytes
    }
}

/// What the target is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TargetFacts {
    /// Its size.
    pub bytes: u64,
    /// Its logical sector size; for a file the image's own is as good as any.
    pub sector_bytes: u32,
    /// RAM of the machine, when it is to boot the image.
    pub ram_bytes: Option<u64>,
    /// Whether the machine boots by UEFI, when it is to boot the image.
    pub uefi: Option<bool>,
    /// Whether a node is put on it, with its slab.
    pub with_node: bool,
    /// Bytes of all objects that the node is to keep.
    pub object_bytes: u64,
}

/// Where everything goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The whole target.
    pub target_bytes: u64,
    /// Logical sector size.
    pub sector_bytes: u32,
    /// Whether the image has a partition table of its own.
    pub has_table: bool,
    /// Bytes before the content, written last of all: with a table everything up to the first usable sector, else one sector.
    pub head_bytes: u64,
    /// Where the content ends: before the image's own backup table.
    pub content_end: u64,
    /// The install record, where there is room.
    pub record: Option<Extent>,
    /// The slab partition, where there is room.
    pub slab: Option<Extent>,
    /// Number of the partition that is grown, and its new extent.
    pub grown: Option<(u32, Extent)>,
    /// The root partition, as it will be.
    pub root: Option<Extent>,
}

/// Why this image does not go on this target. Nothing was touched.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PlanError {
    /// Too small.
    #[error("the target has {target_bytes} bytes, the image needs {image_bytes}")]
    TooSmall {
        /// The target.
        target_bytes: u64,
        /// The image.
        image_bytes: u64,
    },
    /// The table counts in other sectors.
    #[error("the target has sectors of {target} bytes, the image is made for {image}")]
    Sectors {
        /// The target.
        target: u32,
        /// The image.
        image: u32,
    },
    /// Not enough memory.
    #[error("the machine has {found} MiB of RAM, the image needs {needed}")]
    Ram {
        /// The machine.
        found: u64,
        /// The image.
        needed: u64,
    },
    /// The machine could not start it.
    #[error("the machine boots by {machine}, the image does not")]
    Firmware {
        /// The machine.
        machine: &'static str,
    },
    /// No node can be put into it.
    #[error("no node can be put into this image: its root cannot be customised")]
    NotCustomisable,
}

/// RAM that the kernel keeps for itself before it counts: a machine of 1 GiB shows less.
const RAM_TOLERANCE_BYTES: u64 = 160 * MIB;

/// Plans, or says why not.
///
/// # Errors
/// [`PlanError`].
pub fn plan(manifest: &Manifest, target: &TargetFacts) -> Result<Layout, PlanError> {
    check(manifest, target)?;
    let sector = u64::from(manifest.sector_bytes);
    let has_table = !manifest.partitions.is_empty();
    let content_end = match has_table {
        // a partition that reaches into the backup table's place is content all the same
        true => manifest
            .partitions
            .iter()
            .map(|p| p.first_byte + p.bytes)
            .fold(
                manifest
                    .disk_bytes
                    .saturating_sub(backup_table_bytes(sector)),
                u64::max,
            ),
        false => manifest.disk_bytes,
    };
    let mut layout = Layout {
        target_bytes: target.bytes,
        sector_bytes: manifest.sector_bytes,
        has_table,
        head_bytes: if has_table {
            head_bytes(manifest)
        } else {
            sector
        },
        content_end,
        record: None,
        slab: None,
        grown: None,
        root: root_of(manifest).map(extent_of),
    };
    place_tail(manifest, target, &mut layout);
    Ok(layout)
}

fn check(manifest: &Manifest, target: &TargetFacts) -> Result<(), PlanError> {
    if target.bytes < manifest.disk_bytes {
        return Err(PlanError::TooSmall {
            target_bytes: target.bytes,
            image_bytes: manifest.disk_bytes,
        });
    }
    if target.sector_bytes != manifest.sector_bytes {
        return Err(PlanError::Sectors {
            target: target.sector_bytes,
            image: manifest.sector_bytes,
        });
    }
    if let Some(ram) = target.ram_bytes
        && ram + RAM_TOLERANCE_BYTES < manifest.needs.ram_bytes_min
    {
        return Err(PlanError::Ram {
            found: ram >> 20,
            needed: manifest.needs.ram_bytes_min >> 20,
        });
    }
    match target.uefi {
        Some(true) if !manifest.needs.uefi => return Err(PlanError::Firmware { machine: "UEFI" }),
        Some(false) if !manifest.needs.bios => return Err(PlanError::Firmware { machine: "BIOS" }),
        _ => {}
    }
    if target.with_node && manifest.customisation == Customisation::None {
        return Err(PlanError::NotCustomisable);
    }
    Ok(())
}

/// Up to the first partition or the first usable sector, whichever comes first; inside the first chunk.
fn head_bytes(manifest: &Manifest) -> u64 {
    let usable = 2 * u64::from(manifest.sector_bytes) + ENTRIES_BYTES;
    let first = manifest
        .partitions
        .iter()
        .map(|p| p.first_byte)
        .min()
        .unwrap_or(usable);
    usable.min(first).min(CHUNK_BYTES as u64)
}

/// Entries and header at the end of a disk.
pub(crate) fn backup_table_bytes(sector_bytes: u64) -> u64 {
    ENTRIES_BYTES + sector_bytes
}

fn root_of(manifest: &Manifest) -> Option<&PartitionSummary> {
    let Customisation::Ext4 { partition } = manifest.customisation else {
        return None;
    };
    manifest.partitions.iter().find(|p| p.number == partition)
}

fn extent_of(partition: &PartitionSummary) -> Extent {
    Extent {
        offset: partition.first_byte,
        bytes: partition.bytes,
    }
}

/// Record, slab and growth share what the target has beyond the image, from the end.
fn place_tail(manifest: &Manifest, target: &TargetFacts, layout: &mut Layout) {
    let image_end = manifest.disk_bytes.next_multiple_of(MIB);
    // the last MiB is the backup table's
    let Some(mut end) = (target.bytes - target.bytes % MIB).checked_sub(MIB) else {
        return;
    };
    if end < image_end + RECORD_BYTES {
        return;
    }
    end -= RECORD_BYTES;
    layout.record = Some(Extent {
        offset: end,
        bytes: RECORD_BYTES,
    });
    if !layout.has_table || !target.with_node {
        return;
    }
    let room = end - image_end;
    let wanted = (2 * target.object_bytes + SLAB_SPARE_BYTES).next_multiple_of(MIB);
    let bytes = wanted.max(SLAB_BYTES_MIN).min(room);
    if bytes >= SLAB_BYTES_MIN {
        end -= bytes;
        layout.slab = Some(Extent { offset: end, bytes });
    }
    let last = manifest.partitions.iter().max_by_key(|p| p.first_byte);
    if let (Some(last), Some(root)) = (last, root_of(manifest))
        && last.number == root.number
        && end > root.first_byte + root.bytes
    {
        let extent = Extent {
            offset: root.first_byte,
            bytes: end - root.first_byte,
        };
        layout.grown = Some((root.number, extent));
        layout.root = Some(extent);
    }
}
