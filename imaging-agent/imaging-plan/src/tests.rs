//! Whole installs on a disk in memory, with the power cut behind every write.

use std::{io::Cursor, time::Duration};

use gptman::{GPT, GPTPartitionEntry};
use image_format::{
    Architecture, CHUNK_BYTES, ChunkHash, ChunkId, ChunkRecord, Customisation, Manifest,
    ManifestKind, Needs, ObjectHash, PartitionSummary, Placement, is_zero,
};
use trust_format::Digest;

use super::*;

const NOW: Duration = Duration::ZERO;
const DIGEST: Digest = Digest([5; 32]);
const MIB: usize = CHUNK_BYTES;

/// 6 MiB: GPT, a partition at 1 MiB, the root from 3 MiB to the end; chunk 2 is empty.
fn image() -> Vec<u8> {
    let mut disk = Cursor::new(vec![0u8; 6 * MIB]);
    let mut gpt = GPT::new_from(&mut disk, 512, [9; 16]).unwrap();
    for (number, first, last, name) in [(1, 2048, 4095, "ESP"), (2, 6144, 12_254, "root")] {
        gpt[number] = GPTPartitionEntry {
            partition_type_guid: [number as u8; 16],
            unique_partition_guid: [number as u8 + 7; 16],
            starting_lba: first,
            ending_lba: last,
            attribute_bits: 0,
            partition_name: name.into(),
        };
    }
    GPT::write_protective_mbr_into(&mut disk, 512).unwrap();
    gpt.write_into(&mut disk).unwrap();
    let mut disk = disk.into_inner();
    for at in [MIB + 5, 3 * MIB, 4 * MIB + 99, 5 * MIB + 1000] {
        disk[at..at + 3000].copy_from_slice(&vec![(at % 251) as u8 + 1; 3000]);
    }
    disk[440] = 7;
    disk
}

fn manifest(image: &[u8], table: bool) -> Manifest {
    let mut chunks: Vec<ChunkRecord> = Vec::new();
    let mut layout = Vec::new();
    for (index, plain) in (0u32..).zip(image.chunks(CHUNK_BYTES)) {
        if is_zero(plain) {
            continue;
        }
        let hash = ChunkHash::of(plain);
        let id = chunks
            .iter()
            .position(|c| c.hash == hash)
            .unwrap_or_else(|| {
                chunks.push(ChunkRecord {
                    hash,
                    bytes: plain.len() as u32,
                    object_hash: ObjectHash([1; 32]),
                    object_bytes: 1,
                    parts: Vec::new(),
                    delta: None,
                });
                chunks.len() - 1
            });
        layout.push(Placement {
            index,
            chunk: ChunkId(id as u32),
        });
    }
    let partition = |number, first: u64, sectors: u64, file_system: &str| PartitionSummary {
        number,
        first_byte: first * 512,
        bytes: sectors * 512,
        type_guid: [number as u8; 16],
        label: String::new(),
        file_system: file_system.into(),
    };
    Manifest {
        kind: ManifestKind::Image,
        name: "till".into(),
        release: 1,
        follows: None,
        disk_bytes: image.len() as u64,
        sector_bytes: 512,
        used_bytes: 0,
        needs: Needs {
            uefi: true,
            bios: false,
            architecture: Architecture::X86_64,
            ram_bytes_min: 1 << 30,
        },
        customisation: if table {
            Customisation::Ext4 { partition: 2 }
        } else {
            Customisation::None
        },
        partitions: if table {
            vec![
                partition(1, 2048, 2048, "vfat"),
                partition(2, 6144, 6111, "ext4"),
            ]
        } else {
            vec![]
        },
        files: vec![],
        chunks,
        layout,
    }
}

fn target(bytes: usize, with_node: bool) -> TargetFacts {
    TargetFacts {
        bytes: bytes as u64,
        sector_bytes: 512,
        ram_bytes: None,
        uefi: None,
        with_node,
        object_bytes: 10 << 20,
    }
}

#[derive(Clone)]
enum Event {
    Write(u64, Vec<u8>),
    Flush,
}

/// A disk that remembers, so that its power can be cut behind any event.
struct Disk {
    bytes: Vec<u8>,
    events: Vec<Event>,
    customised: bool,
}

impl Disk {
    fn write(&mut self, offset: u64, bytes: &[u8]) {
        let first = offset as usize;
        assert!(first + bytes.len() <= self.bytes.len(), "outside the disk");
        self.bytes[first..first + bytes.len()].copy_from_slice(bytes);
        self.events.push(Event::Write(offset, bytes.to_vec()));
    }
}

fn hand_in(install: &mut Install, image: &[u8], manifest: &Manifest) {
    for (id, _) in (0u32..).zip(&manifest.chunks) {
        let place = manifest
            .layout
            .iter()
            .find(|p| p.chunk == ChunkId(id))
            .unwrap();
        let plain = image.chunks(CHUNK_BYTES).nth(place.index as usize).unwrap();
        if install.needs(ChunkId(id)) {
            install.handle_chunk(NOW, ChunkId(id), plain);
        }
    }
}

/// Does what the agent does, in the order the machine asks for it.
fn run(install: &mut Install, image: &[u8], manifest: &Manifest, disk: &mut Disk) {
    let mut handed_in = false;
    loop {
        while let Some(action) = install.poll_action() {
            match action {
                Action::Zero(id, e) => {
                    disk.write(e.offset, &vec![0; e.bytes as usize]);
                    install.handle_done(NOW, id);
                }
                Action::Write(id, offset, bytes) => {
                    disk.write(offset, &bytes);
                    install.handle_done(NOW, id);
                }
                Action::WriteChunk(id, chunk, pieces) => {
                    let place = manifest.layout.iter().find(|p| p.chunk == chunk).unwrap();
                    let plain = image.chunks(CHUNK_BYTES).nth(place.index as usize).unwrap();
                    for p in pieces {
                        disk.write(p.offset, &plain[p.from..p.from + p.bytes]);
                    }
                    install.handle_done(NOW, id);
                }
                Action::Flush(id) => {
                    disk.events.push(Event::Flush);
                    install.handle_done(NOW, id);
                }
                Action::ReadBack(id, e, hash) => {
                    let found = ChunkHash::of(&disk.bytes[e.offset as usize..e.end() as usize]);
                    match found == hash {
                        true => install.handle_done(NOW, id),
                        false => install.handle_failed(NOW, id, "differs"),
                    }
                }
                Action::Customise(id) => {
                    disk.customised = true;
                    install.handle_done(NOW, id);
                }
                Action::Finished => return,
            }
        }
        assert!(
            !handed_in || install.phase() == Phase::Failed,
            "stuck in {:?}",
            install.phase()
        );
        if install.phase() == Phase::Failed {
            return;
        }
        assert_eq!(install.phase(), Phase::Content);
        handed_in = true;
        hand_in(install, image, manifest);
    }
}

fn fresh(layout: &Layout, manifest: &Manifest, found: Found<'_>) -> Install {
    Install::new(layout.clone(), manifest, DIGEST, 3, [0xaa; 16], found)
}

/// Filled with an old system.
fn old_disk(bytes: usize) -> Disk {
    Disk {
        bytes: vec![0xee; bytes],
        events: vec![],
        customised: false,
    }
}

fn install_on(bytes: usize, with_node: bool, table: bool) -> (Vec<u8>, Manifest, Layout, Disk) {
    let image = image();
    let manifest = manifest(&image, table);
    let layout = plan(&manifest, &target(bytes, with_node)).unwrap();
    let mut disk = old_disk(bytes);
    let mut install = fresh(&layout, &manifest, Found::default());
    run(&mut install, &image, &manifest, &mut disk);
    assert_eq!(install.phase(), Phase::Finished, "{:?}", install.failure());
    (image, manifest, layout, disk)
}

#[test]
fn a_target_of_the_same_size_becomes_the_image_bit_for_bit() {
    for table in [true, false] {
        let (image, _, layout, disk) = install_on(6 * MIB, false, table);
        assert!(image == disk.bytes, "table: {table}");
        assert_eq!((layout.record, layout.slab), (None, None));
    }
}

#[test]
fn a_larger_disk_gets_a_grown_root_a_slab_and_a_true_table() {
    let (image, _, layout, disk) = install_on(600 * MIB, true, true);
    let gpt = GPT::find_from(&mut Cursor::new(&disk.bytes)).unwrap();
    assert_eq!(gpt.header.backup_lba, 600 * 2048 - 1);
    let slab = layout.slab.unwrap();
    assert_eq!(
        (gpt[3].starting_lba * 512, gpt[3].partition_name.as_str()),
        (slab.offset, SLAB_LABEL)
    );
    assert_eq!(
        (gpt[2].ending_lba + 1) * 512,
        slab.offset,
        "the root grows up to the slab"
    );
    assert_eq!(layout.root.unwrap().end(), slab.offset);
    assert_eq!(
        gpt[1].unique_partition_guid, [8; 16],
        "what was there stays"
    );
    // both copies of the table are true
    let mut without_primary = disk.bytes.clone();
    without_primary[512..1024].fill(0);
    assert_eq!(
        GPT::find_from(&mut Cursor::new(&without_primary))
            .unwrap()
            .header
            .disk_guid,
        [9; 16]
    );
    assert!(disk.bytes[MIB..5 * MIB] == image[MIB..5 * MIB]);
    let record = layout.record.unwrap();
    let record =
        InstallRecord::from_extent(&disk.bytes[record.offset as usize..record.end() as usize])
            .unwrap();
    assert_eq!(
        (record.order, record.manifest, record.state),
        (3, DIGEST, RecordState::Done)
    );
    assert!(disk.customised);
}

#[test]
fn what_does_not_fit_is_refused_before_anything_is_touched() {
    let manifest = manifest(&image(), true);
    let refuse = |facts: TargetFacts, words: &str| {
        let error = plan(&manifest, &facts).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    };
    refuse(target(6 * MIB - 512, false), "needs 6291456");
    refuse(
        TargetFacts {
            sector_bytes: 4096,
            ..target(9 * MIB, false)
        },
        "sectors of 4096",
    );
    refuse(
        TargetFacts {
            ram_bytes: Some(512 << 20),
            ..target(9 * MIB, false)
        },
        "512 MiB of RAM",
    );
    refuse(
        TargetFacts {
            uefi: Some(false),
            ..target(9 * MIB, false)
        },
        "BIOS",
    );
    let mut closed = manifest.clone();
    closed.customisation = Customisation::None;
    assert_eq!(
        plan(&closed, &target(9 * MIB, true)),
        Err(PlanError::NotCustomisable)
    );
    // a machine of 1 GiB shows a little less
    assert!(
        plan(
            &manifest,
            &TargetFacts {
                ram_bytes: Some(950 << 20),
                uefi: Some(true),
                ..target(9 * MIB, false)
            }
        )
        .is_ok()
    );
}

fn invariant_boot_area_last_and_once(events: &[Event], layout: &Layout) {
    let touches = |e: &Event, first: u64, end: u64| matches!(e, Event::Write(at, b) if *at < end && at + b.len() as u64 > first);
    let boots: Vec<usize> = (0..events.len())
        .filter(|n| matches!(&events[*n], Event::Write(0, b) if !is_zero(b)))
        .collect();
    assert_eq!(boots.len(), 1, "sector 0 gets its content once");
    let Event::Write(_, sector) = &events[boots[0]] else {
        unreachable!()
    };
    assert_eq!(sector.len(), 512, "alone");
    let record = layout.record.map_or(u64::MAX, |r| r.offset);
    for event in &events[boots[0] + 1..] {
        assert!(!touches(event, 0, record), "nothing but the record follows");
    }
    assert!(
        matches!(events[boots[0] - 1], Event::Flush),
        "everything before it is on the medium"
    );
}

/// The disk after a power cut: what was flushed is there, of the rest any sectors.
fn after_cut(old: &[u8], events: &[Event], cut: usize, seed: u64) -> Vec<u8> {
    let mut bytes = old.to_vec();
    let flushed = events[..cut]
        .iter()
        .rposition(|e| matches!(e, Event::Flush))
        .unwrap_or(0);
    let mut state = seed;
    for (n, event) in events[..cut].iter().enumerate() {
        let Event::Write(at, written) = event else {
            continue;
        };
        for (sector, piece) in written.chunks(512).enumerate() {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            if n < flushed || state >> 63 == 1 {
                let first = *at as usize + sector * 512;
                bytes[first..first + piece.len()].copy_from_slice(piece);
            }
        }
    }
    bytes
}

#[test]
fn a_power_cut_at_any_write_leaves_old_or_nothing_or_new_and_can_be_resumed() {
    every_cut(80 * MIB, true);
}

#[test]
fn a_power_cut_is_survived_by_an_image_without_a_table() {
    every_cut(9 * MIB, false);
}

fn every_cut(bytes: usize, table: bool) {
    let (image, manifest, layout, whole) = install_on(bytes, table, table);
    invariant_boot_area_last_and_once(&whole.events, &layout);
    let old = old_disk(bytes).bytes;
    for cut in 0..=whole.events.len() {
        let bytes = after_cut(&old, &whole.events, cut, cut as u64);
        let boots = bytes[..512] == whole.bytes[..512];
        if boots {
            let end = layout.record.unwrap().offset as usize;
            assert!(
                bytes[..end] == whole.bytes[..end],
                "a disk that boots is whole (cut {cut})"
            );
        } else if bytes[..512] != old[..512] {
            assert!(
                is_zero(&bytes[..512]),
                "neither old nor new: it must not boot (cut {cut})"
            );
        }
        let resumed = resume(&image, &manifest, &layout, bytes);
        let end = layout.record.unwrap().offset as usize;
        assert!(resumed[..end] == whole.bytes[..end], "cut {cut}");
    }
}

#[test]
fn a_new_file_has_nothing_to_clear() {
    for (bytes, table) in [(6 * MIB, true), (6 * MIB, false), (80 * MIB, true)] {
        let image = image();
        let manifest = manifest(&image, table);
        let layout = plan(&manifest, &target(bytes, false)).unwrap();
        let mut disk = Disk {
            bytes: vec![0; bytes],
            events: vec![],
            customised: false,
        };
        let found = Found {
            places: &[],
            sequence: 0,
            blank: true,
        };
        let mut install = fresh(&layout, &manifest, found);
        run(&mut install, &image, &manifest, &mut disk);
        assert_eq!(install.phase(), Phase::Finished, "{:?}", install.failure());
        assert!(disk.bytes[..5 * MIB] == image[..5 * MIB] || bytes > 6 * MIB);
        invariant_boot_area_last_and_once(&disk.events, &layout);
    }
}

#[test]
fn what_is_made_zero_at_the_start_is_written_again() {
    // every place is there, as on a disk that is imaged again with the same version
    let (image, manifest, layout, whole) = install_on(6 * MIB, false, false);
    let places: Vec<usize> = (0..manifest.layout.len()).collect();
    let mut disk = Disk {
        bytes: whole.bytes,
        events: vec![],
        customised: false,
    };
    let found = Found {
        places: &places,
        sequence: 0,
        blank: false,
    };
    let mut install = fresh(&layout, &manifest, found);
    run(&mut install, &image, &manifest, &mut disk);
    assert_eq!(install.phase(), Phase::Finished, "{:?}", install.failure());
    assert!(disk.bytes == image);
}

fn resume(image: &[u8], manifest: &Manifest, layout: &Layout, bytes: Vec<u8>) -> Vec<u8> {
    let extent = layout.record.unwrap();
    let record = InstallRecord::from_extent(&bytes[extent.offset as usize..extent.end() as usize]);
    let mut found = Vec::new();
    let mut sequence = 0;
    if let Some(record) = record {
        sequence = record.sequence;
        for (place, p) in manifest.layout.iter().enumerate() {
            let first = p.index as usize * MIB;
            let plain = &bytes[first..(first + MIB).min(bytes.len())];
            let claimed = record.written.get(place) == Some(&true);
            let record = &manifest.chunks[p.chunk.0 as usize];
            if claimed && ChunkHash::of(&plain[..record.bytes as usize]) == record.hash {
                found.push(place);
            }
        }
    }
    let mut disk = Disk {
        bytes,
        events: vec![],
        customised: false,
    };
    let mut install = fresh(
        layout,
        manifest,
        Found {
            places: &found,
            sequence,
            blank: false,
        },
    );
    run(&mut install, image, manifest, &mut disk);
    assert_eq!(install.phase(), Phase::Finished);
    disk.bytes
}

#[test]
fn a_lying_medium_ends_the_install_unbootable() {
    let image = image();
    let manifest = manifest(&image, true);
    let layout = plan(&manifest, &target(6 * MIB, false)).unwrap();
    let mut disk = old_disk(6 * MIB);
    let mut install = fresh(&layout, &manifest, Found::default());
    let mut handed_in = false;
    while install.phase() != Phase::Failed {
        let Some(action) = install.poll_action() else {
            assert!(!handed_in);
            handed_in = true;
            hand_in(&mut install, &image, &manifest);
            continue;
        };
        match action {
            Action::Write(id, at, bytes) => {
                disk.write(at, &bytes);
                install.handle_done(NOW, id);
            }
            Action::Zero(id, e) => {
                disk.write(e.offset, &vec![0; e.bytes as usize]);
                install.handle_done(NOW, id);
            }
            Action::WriteChunk(id, ..) | Action::Flush(id) | Action::Customise(id) => {
                install.handle_done(NOW, id)
            }
            Action::ReadBack(id, ..) => install.handle_failed(NOW, id, "differs"),
            Action::Finished => panic!("finished"),
        }
    }
    assert!(is_zero(&disk.bytes[..512]));
    assert!(
        install
            .failure()
            .unwrap()
            .to_string()
            .contains("reading back")
    );
    assert_eq!(install.poll_action(), None);
}

#[test]
fn of_two_copies_of_the_record_the_newer_true_one_counts() {
    let record = |sequence| InstallRecord {
        sequence,
        order: 9,
        manifest: DIGEST,
        state: RecordState::Writing,
        written: (0..1000).map(|n| n % 3 == 0).collect(),
    };
    let mut extent = vec![0; RECORD_BYTES as usize];
    assert_eq!(InstallRecord::from_extent(&extent), None);
    for sequence in [4, 5] {
        let (at, bytes) = record(sequence).to_copy();
        extent[at as usize..at as usize + bytes.len()].copy_from_slice(&bytes);
    }
    assert_eq!(InstallRecord::from_extent(&extent), Some(record(5)));
    let newer = extent.len() / 2 + 100;
    extent[newer] ^= 1;
    assert_eq!(InstallRecord::from_extent(&extent), Some(record(4)));
}

/// Reading back must not wait for the last write, or their times add up.
#[test]
fn what_is_flushed_is_read_back_while_more_arrives() {
    let chunks = 70;
    let mut image = vec![0; chunks * MIB];
    for (n, chunk) in image.chunks_mut(CHUNK_BYTES).enumerate() {
        chunk.fill(n as u8 + 1);
    }
    let manifest = manifest(&image, false);
    let layout = plan(&manifest, &target(chunks * MIB, false)).unwrap();
    let found = Found {
        blank: true,
        ..Found::default()
    };
    let mut install = fresh(&layout, &manifest, found);
    let mut disk = old_disk(chunks * MIB);
    let (mut flushed, mut reads) = (Vec::new(), Vec::new());
    for (n, plain) in image.chunks(CHUNK_BYTES).enumerate() {
        install.handle_chunk(NOW, ChunkId(n as u32), plain);
        while let Some(action) = install.poll_action() {
            match action {
                Action::WriteChunk(id, ..) => {
                    disk.write((n * MIB) as u64, plain);
                    install.handle_done(NOW, id);
                }
                Action::Flush(id) => {
                    flushed.extend(0..=n);
                    install.handle_done(NOW, id);
                }
                Action::ReadBack(id, extent, hash) => {
                    let place = extent.offset as usize / MIB;
                    assert!(flushed.contains(&place), "{place} was not flushed");
                    reads.push((id, extent, hash));
                }
                other => panic!("{other:?}"),
            }
        }
        if n + 1 < chunks {
            assert_eq!(install.phase(), Phase::Content);
            assert!(reads.len() <= 4, "writes keep their share of the disk");
            assert_eq!(n < 63, reads.is_empty(), "after chunk {n}");
        }
    }
    for (id, extent, hash) in reads {
        let found = ChunkHash::of(&disk.bytes[extent.offset as usize..extent.end() as usize]);
        assert_eq!(found, hash);
        install.handle_done(NOW, id);
    }
    run(&mut install, &image, &manifest, &mut disk);
    assert_eq!(install.phase(), Phase::Finished, "{:?}", install.failure());
    let (read, all) = install.read_back_progress();
    assert_eq!(read, all);
    assert_eq!(disk.bytes, image);
}
