//! Where an agent keeps the objects that it serves to others.

use std::path::Path;

use anyhow::Result;
use image_format::Manifest;
use imaging_plan::Layout;
use peer_cache_node::slab::Slab;

use crate::target::{AlignedBuffer, Target};

/// A slab beside a target file holds every object of the version, and what its records' ends leave unused.
const SLAB_SPARE_BYTES: u64 = 32 << 20;
const SLAB_BYTES_PER_CHUNK: u64 = 8192;

/// Where objects go so that others can have them: the place that somebody named, the partition on the disk, or a file
/// that nobody sees.
pub(crate) fn open_slab(
    named: Option<&Path>,
    target: &Target,
    layout: &Layout,
    object_bytes: u64,
    manifest: &Manifest,
) -> Result<Option<Slab>> {
    let bytes =
        object_bytes + manifest.chunks.len() as u64 * SLAB_BYTES_PER_CHUNK + SLAB_SPARE_BYTES;
    if let Some(path) = named {
        let slab = match path.exists() {
            true => Slab::open_device(path)?,
            false => Slab::open_file(path, bytes)?,
        };
        return Ok(Some(slab));
    }
    if let Some(extent) = layout.slab {
        // the old content of that place is no slab of ours, whatever it looks like
        target.write(AlignedBuffer::new(4096).as_ref(), extent.offset)?;
        target.flush()?;
        let number = free_number(manifest);
        let device = target.add_partition(number, extent.offset, extent.bytes)?;
        return Ok(Some(Slab::open_device(&device)?));
    }
    if target.is_device() {
        return Ok(None);
    }
    let mut name = std::ffi::OsString::from(".");
    name.push(target.path().file_name().unwrap_or_default());
    name.push(".slab");
    let path = target.path().with_file_name(name);
    match Slab::temporary(&path, bytes) {
        Ok(slab) => Ok(Some(slab)),
        Err(error) => {
            tracing::warn!(%error, "no room for objects beside the target: chunks are read back for others");
            Ok(None)
        }
    }
}

/// The first number that the image's own table leaves free, as the new table will.
fn free_number(manifest: &Manifest) -> u32 {
    (1..)
        .find(|n| manifest.partitions.iter().all(|p| p.number != *n))
        .unwrap_or(1)
}
