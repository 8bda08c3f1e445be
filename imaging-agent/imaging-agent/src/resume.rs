//! What an earlier try left on the target.

use std::path::Path;

use image_format::{CHUNK_BYTES, ChunkHash, Manifest};
use imaging_plan::{InstallRecord, Layout, RecordState};
use trust_format::Digest;

use crate::{
    install::TargetChoice,
    target::{AlignedBuffer, Target},
};

/// Orders that the disk itself says are finished.
pub(crate) fn finished_orders(target: &TargetChoice) -> Vec<u64> {
    let path = match target {
        TargetChoice::Path(path) => path,
        TargetChoice::Disk(disk) => Path::new(&disk.path),
    };
    let Ok(target) = Target::open_existing(path) else {
        return Vec::new();
    };
    let Some(record) = read_record(&target) else {
        return Vec::new();
    };
    match record.state {
        RecordState::Done => vec![record.order],
        RecordState::Writing => Vec::new(),
    }
}

/// The record stands at the same place from the end on every target that has room for one.
fn read_record(target: &Target) -> Option<InstallRecord> {
    let end = target.bytes() - target.bytes() % (1 << 20);
    let offset = end.checked_sub((1 << 20) + imaging_plan::RECORD_BYTES)?;
    let mut buffer = AlignedBuffer::new(usize::try_from(imaging_plan::RECORD_BYTES).ok()?);
    target.read(buffer.as_mut(), offset).ok()?;
    InstallRecord::from_extent(buffer.as_ref())
}

/// Places whose bytes are on the target already. The record proposes; where there is no room for one, every place is
/// looked at. The hash decides.
pub(crate) fn find_places(
    target: &Target,
    manifest: &Manifest,
    layout: &Layout,
    digest: Digest,
) -> (Vec<usize>, u64) {
    let record = layout.record.and_then(|_| read_record(target));
    let sequence = record.as_ref().map_or(0, |r| r.sequence);
    let claims: Vec<usize> = match (&record, layout.record) {
        (Some(r), _) if r.manifest == digest && r.state == RecordState::Writing => {
            (0..manifest.layout.len())
                .filter(|n| r.written.get(*n) == Some(&true))
                .collect()
        }
        (None, None) if !target.is_blank() => (0..manifest.layout.len()).collect(),
        _ => Vec::new(),
    };
    let mut buffer = AlignedBuffer::new(CHUNK_BYTES);
    let mut is_there = |place: &usize| {
        let placed = manifest.layout[*place];
        let Some(record) = manifest.chunk(placed.chunk) else {
            return false;
        };
        let part = &mut buffer.as_mut()[..record.bytes as usize];
        target
            .read(part, u64::from(placed.index) * CHUNK_BYTES as u64)
            .is_ok()
            && ChunkHash::of(part) == record.hash
    };
    (
        claims.into_iter().filter(|n| is_there(n)).collect(),
        sequence,
    )
}
