//! The target's partition table, made out of the image's own.

use std::io::{self, Cursor, Read, Seek, SeekFrom, Write};

use crate::layout::{Layout, SLAB_LABEL, SLAB_TYPE_GUID, backup_table_bytes};

/// What is written at the end of an install.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tables {
    /// Backup entries and header, and where they go.
    pub(crate) backup: (u64, Vec<u8>),
    /// Everything before the content.
    pub(crate) head: Vec<u8>,
}

/// Bytes that are written to a disk which is not there.
struct Recorder {
    disk: Cursor<Vec<u8>>,
    written: Vec<(u64, Vec<u8>)>,
    at: u64,
    end: u64,
}

impl Read for Recorder {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.disk.set_position(self.at);
        let count = self.disk.read(buffer)?;
        self.at += count as u64;
        Ok(count)
    }
}

impl Write for Recorder {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.written.push((self.at, bytes.to_vec()));
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Recorder {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let base = |base: u64, by: i64| {
            base.checked_add_signed(by)
                .ok_or(io::ErrorKind::InvalidInput)
        };
        self.at = match to {
            SeekFrom::Start(at) => at,
            SeekFrom::End(by) => base(self.end, by)?,
            SeekFrom::Current(by) => base(self.at, by)?,
        };
        Ok(self.at)
    }
}

/// The tables for a target: the image's bytes as they are where nothing changes, else grown, extended and moved to the true end.
///
/// `head` is the image's first chunk, `tail` its bytes from [`Layout::content_end`] on.
pub(crate) fn tables(
    layout: &Layout,
    head: &[u8],
    tail: &[u8],
    slab_guid: [u8; 16],
) -> Result<Tables, String> {
    let head_bytes = usize::try_from(layout.head_bytes).map_err(|e| e.to_string())?;
    let image_bytes = layout.content_end + tail.len() as u64;
    if image_bytes == layout.target_bytes {
        return Ok(Tables {
            backup: (layout.content_end, tail.to_vec()),
            head: head[..head_bytes].to_vec(),
        });
    }
    let sector = u64::from(layout.sector_bytes);
    let mut disk = Recorder {
        disk: Cursor::new(head.to_vec()),
        written: Vec::new(),
        at: 0,
        end: layout.target_bytes,
    };
    let mut gpt = gptman::GPT::read_from(&mut disk, sector)
        .map_err(|e| format!("the image's partition table: {e}"))?;
    let last_sector = layout.target_bytes / sector - 1;
    gpt.header.backup_lba = last_sector;
    let backup_bytes = backup_table_bytes(sector);
    gpt.header.last_usable_lba = last_sector - backup_bytes / sector;
    if let Some((number, extent)) = layout.grown {
        gpt[number].ending_lba = extent.end() / sector - 1;
    }
    if let Some(slab) = layout.slab {
        let number = (1..=gpt.header.number_of_partition_entries)
            .find(|n| gpt[*n].is_unused())
            .ok_or("the image's partition table has no free entry for the slab")?;
        gpt[number] = gptman::GPTPartitionEntry {
            partition_type_guid: SLAB_TYPE_GUID,
            unique_partition_guid: slab_guid,
            starting_lba: slab.offset / sector,
            ending_lba: slab.end() / sector - 1,
            attribute_bits: 0,
            partition_name: SLAB_LABEL.into(),
        };
    }
    gpt.write_into(&mut disk)
        .map_err(|e| format!("the new partition table: {e}"))?;
    let mut tables = Tables {
        backup: (
            layout.target_bytes - 33 * sector,
            vec![0; usize::try_from(33 * sector).unwrap_or(0)],
        ),
        head: head[..head_bytes].to_vec(),
    };
    for (at, bytes) in disk.written {
        let (start, place) = match at >= tables.backup.0 {
            true => (at - tables.backup.0, &mut tables.backup.1),
            false => (at, &mut tables.head),
        };
        let start = usize::try_from(start).map_err(|e| e.to_string())?;
        place
            .get_mut(start..start + bytes.len())
            .ok_or("the new partition table is longer than its place")?
            .copy_from_slice(&bytes);
    }
    protect_whole_disk(&mut tables.head, last_sector);
    Ok(tables)
}

/// The protective MBR's one entry covers the disk, or as much as it can say (UEFI 2.10, section 5.2.3).
fn protect_whole_disk(head: &mut [u8], last_sector: u64) {
    let sectors = u32::try_from(last_sector).unwrap_or(u32::MAX);
    if head[446 + 4] == 0xee {
        head[446 + 12..446 + 16].copy_from_slice(&sectors.to_le_bytes());
    }
}
