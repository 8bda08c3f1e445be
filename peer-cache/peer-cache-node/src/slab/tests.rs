use std::{fs::File, sync::Mutex as StdMutex};

use image_format::{ChunkCodec, encode_object};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tempfile::TempDir;

use super::*;

fn object(seed: u64, bytes: usize) -> (ChunkRecord, VerifiedObject) {
    let mut plain = vec![0; bytes];
    StdRng::seed_from_u64(seed).fill(&mut plain[..]);
    let object = encode_object(&plain, &mut ChunkCodec::new(1).unwrap()).unwrap();
    let record = ChunkRecord::of(&plain, &object);
    (
        record.clone(),
        VerifiedObject::check(&record, object.bytes).unwrap(),
    )
}

#[test]
fn what_is_kept_is_there_after_a_restart() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("slab");
    let objects: Vec<_> = (0..20)
        .map(|n| object(n, 100_000 + n as usize * 1000))
        .collect();
    let slab = Slab::open_file(&path, SLAB_BYTES_MIN).unwrap();
    for (_, object) in &objects {
        slab.keep(object).unwrap();
    }
    let free = slab.free_bytes();
    slab.sync().unwrap();
    drop(slab);
    let slab = Slab::open_file(&path, SLAB_BYTES_MIN).unwrap();
    assert_eq!((slab.len(), slab.free_bytes()), (20, free));
    for (record, object) in &objects {
        assert_eq!(slab.read(record).unwrap(), object.to_bytes());
    }
}

#[test]
fn a_damaged_record_is_missing_not_served() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("slab");
    let (record, kept) = object(1, 50_000);
    let slab = Slab::open_file(&path, SLAB_BYTES_MIN).unwrap();
    slab.keep(&kept).unwrap();
    drop(slab);
    let file = File::options().write(true).open(&path).unwrap();
    Medium::write_all_at(&file, &[0xff], PAGE + HEADER_BYTES as u64 + 77).unwrap();
    let slab = Slab::open_file(&path, SLAB_BYTES_MIN).unwrap();
    assert!(slab.holds(&record.hash, Form::Object));
    assert_eq!(slab.read(&record), None);
    assert!(!slab.holds(&record.hash, Form::Object));
    slab.keep(&kept).unwrap();
    assert!(slab.read(&record).is_some());
}

#[test]
fn the_oldest_goes_first_but_nothing_assigned_or_in_use() {
    let folder = TempDir::new().unwrap();
    let slab = Slab::open_file(&folder.path().join("slab"), SLAB_BYTES_MIN).unwrap();
    let objects: Vec<_> = (0..18).map(|n| object(n, 1 << 20)).collect();
    let mut held = 0;
    for (_, object) in &objects {
        held += 1;
        slab.keep(object).unwrap();
        if slab.len() < held {
            break;
        }
    }
    assert!(slab.read(&objects[0].0).is_none(), "the oldest made room");
    let in_use = slab.read(&objects[1].0).unwrap();
    slab.assign([objects[2].0.hash].into());
    slab.keep(&object(100, 1 << 20).1).unwrap();
    assert!(slab.read(&objects[1].0).is_some(), "it is being sent");
    assert!(slab.read(&objects[2].0).is_some(), "it is assigned");
    assert!(slab.read(&objects[3].0).is_none());
    assert_eq!(in_use, objects[1].1.to_bytes());
}

#[test]
fn a_full_slab_is_an_error_not_a_loss() {
    let folder = TempDir::new().unwrap();
    let slab = Slab::open_file(&folder.path().join("slab"), SLAB_BYTES_MIN).unwrap();
    let objects: Vec<_> = (0..18).map(|n| object(n, 1 << 20)).collect();
    slab.assign(objects.iter().map(|(r, _)| r.hash).collect());
    let refused = objects
        .iter()
        .map(|(_, o)| slab.keep(o))
        .find(Result::is_err)
        .unwrap();
    assert!(matches!(refused, Err(KeepError::Full { .. })));
    assert!(slab.read(&objects[0].0).is_some());
}

#[test]
fn what_others_have_goes_last_and_is_reported() {
    let folder = TempDir::new().unwrap();
    let slab = Slab::open_file(&folder.path().join("slab"), SLAB_BYTES_MIN).unwrap();
    let objects: Vec<_> = (0..16).map(|n| object(n, 1 << 20)).collect();
    let assigned: BTreeSet<ChunkHash> = objects[..14].iter().map(|(r, _)| r.hash).collect();
    slab.assign(assigned);
    let mut kept = objects.iter().take_while(|(_, o)| slab.keep(o).is_ok());
    let count = kept.by_ref().count();
    assert!(count >= 14, "{count}");
    slab.let_go(
        [
            (objects[3].0.hash, MayGo::WhenNeeded),
            (objects[4].0.hash, MayGo::Stays),
            (objects[5].0.hash, MayGo::Freely),
        ]
        .into(),
    );
    // first what is not assigned, then what may go freely, then what may go when needed, then nothing
    let mut gone = Vec::new();
    for n in 100..110 {
        if slab.keep(&object(n, 1 << 20).1).is_err() {
            break;
        }
        // the newcomer is not assigned either; it would go next
        let newcomer = object(n, 1 << 20).0.hash;
        let mut state = slab.state();
        state.assigned.insert(newcomer);
        gone.append(&mut state.evicted);
    }
    assert_eq!(gone, [objects[5].0.hash, objects[3].0.hash]);
    assert!(slab.evicted().is_empty());
    for (n, (record, _)) in objects[..14].iter().enumerate() {
        assert_eq!(slab.read(record).is_some(), n != 3 && n != 5, "{n}");
    }
}

/// Holes of one size, and an object of twice that: records move aside, and a power cut finds all of them.
#[test]
fn holes_that_are_too_small_become_one() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("slab");
    let slab = Slab::open_file(&path, SLAB_BYTES_MIN).unwrap();
    let mut objects: Vec<_> = (0..80).map(|n| object(n, 200_000)).collect();
    objects.retain(|(_, o)| slab.free_bytes() > 250_000 && slab.keep(o).is_ok());
    slab.assign(objects.iter().map(|(r, _)| r.hash).collect());
    let odd = |n: usize| n % 2 == 1 && n < 20;
    let going = objects.iter().enumerate().filter(|(n, _)| odd(*n));
    let going: BTreeSet<ChunkHash> = going.map(|(_, (record, _))| record.hash).collect();
    {
        let mut state = slab.state();
        for hash in &going {
            let entry = state.entries.remove(&(*hash, Form::Object)).unwrap();
            state.bury(&entry);
        }
    }
    let (large, kept) = object(1000, 700_000);
    slab.keep(&kept).unwrap();
    slab.sync().unwrap();
    let check = |slab: &Slab| {
        assert_eq!(slab.read(&large).unwrap(), kept.to_bytes());
        for (record, object) in objects.iter().filter(|(r, _)| !going.contains(&r.hash)) {
            assert_eq!(slab.read(record).unwrap(), object.to_bytes());
        }
    };
    check(&slab);
    let free = slab.free_bytes();
    drop(slab);
    let slab = Slab::open_file(&path, SLAB_BYTES_MIN).unwrap();
    assert_eq!(slab.free_bytes(), free);
    check(&slab);
    // more than is free altogether is refused as before
    slab.assign(
        objects
            .iter()
            .map(|(r, _)| r.hash)
            .chain([large.hash])
            .collect(),
    );
    let mut refused = (2000..2040).map(|n| slab.keep(&object(n, 900_000).1));
    assert!(refused.any(|kept| matches!(kept, Err(KeepError::Full { .. }))) || slab.len() > 60);
}

#[test]
fn a_quota_that_shrinks_keeps_what_nobody_else_has_and_gives_room_back() {
    use std::os::unix::fs::MetadataExt;
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("slab");
    let objects: Vec<_> = (0..40).map(|n| object(n, 1 << 20)).collect();
    let slab = Slab::open_file(&path, SLAB_BYTES_MIN * 3).unwrap();
    for (_, object) in &objects {
        slab.keep(object).unwrap();
    }
    slab.assign(objects[10..].iter().map(|(r, _)| r.hash).collect());
    let in_use = slab.read(&objects[0].0).unwrap();
    slab.set_quota(SLAB_BYTES_MIN).unwrap();
    let is_here = |n: usize| slab.holds(&objects[n].0.hash, Form::Object);
    assert!(is_here(0) && !is_here(1) && (10..40).all(is_here));
    assert!(slab.over_bytes() > 10 << 20, "{}", slab.over_bytes());
    assert!(slab.keep(&object(100, 1 << 20).1).is_err());
    // others have them now
    let freely = |(r, _): &(ChunkRecord, _)| (r.hash, MayGo::Freely);
    slab.let_go(objects[10..35].iter().map(freely).collect());
    assert_eq!(slab.over_bytes(), 0);
    assert!((35..40).all(is_here));
    assert_eq!(in_use, objects[0].1.to_bytes(), "it is being sent");
    let metadata = std::fs::metadata(&path).unwrap();
    assert_eq!(metadata.len(), SLAB_BYTES_MIN * 3, "it is mapped");
    assert!(
        metadata.blocks() * 512 <= SLAB_BYTES_MIN + (2 << 20),
        "{}",
        metadata.blocks()
    );
    slab.sync().unwrap();
    drop(in_use);
    let held = slab.len();
    drop(slab);
    let slab = Slab::open_file(&path, 0).unwrap();
    assert_eq!(slab.len(), held);
    for (record, object) in &objects[35..] {
        assert_eq!(slab.read(record).unwrap(), object.to_bytes());
    }
}

#[test]
fn a_quota_that_grows_is_there_at_once_and_after_a_restart() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("slab");
    let objects: Vec<_> = (0..40).map(|n| object(n, 1 << 20)).collect();
    let slab = Slab::open_file(&path, SLAB_BYTES_MIN).unwrap();
    slab.assign(objects.iter().map(|(r, _)| r.hash).collect());
    slab.keep(&objects[0].1).unwrap();
    let before = slab.read(&objects[0].0).unwrap();
    assert!(objects.iter().any(|(_, o)| slab.keep(o).is_err()));
    slab.set_quota(SLAB_BYTES_MIN * 3).unwrap();
    for (_, object) in &objects {
        slab.keep(object).unwrap();
    }
    assert_eq!(before, objects[0].1.to_bytes(), "from the map that was");
    slab.sync().unwrap();
    drop(slab);
    let slab = Slab::open_file(&path, 0).unwrap();
    assert_eq!(slab.capacity(), SLAB_BYTES_MIN * 3);
    for (record, object) in &objects {
        assert_eq!(slab.read(record).unwrap(), object.to_bytes());
    }
    assert!(slab.set_quota(1 << 60).is_err(), "there is no such disk");
    assert_eq!(slab.capacity(), SLAB_BYTES_MIN * 3);
}

#[test]
fn the_scrub_reads_each_record_once_and_drops_what_is_damaged() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("slab");
    let slab = Slab::open_file(&path, SLAB_BYTES_MIN).unwrap();
    let objects: Vec<_> = (0..10).map(|n| object(n, 100_000)).collect();
    for (_, object) in &objects {
        slab.keep(object).unwrap();
    }
    let scrub = || {
        let mut cursor = 0;
        std::iter::from_fn(|| slab.scrub(&mut cursor)).collect::<Vec<Scrubbed>>()
    };
    let read = scrub();
    assert_eq!(read.len(), 10);
    assert!(read.iter().all(|s| s.damaged.is_none()));
    let bytes: u64 = read.iter().map(|s| s.bytes).sum();
    assert_eq!(bytes, slab.capacity() - PAGE - slab.free_bytes());
    // behind the slab's back: it was verified when it was written, so nobody else would notice
    let record = &objects[4].0;
    let at = slab.state().entries[&(record.hash, Form::Object)].offset;
    let file = File::options().write(true).open(&path).unwrap();
    Medium::write_all_at(&file, &[0xff; 9], at + HEADER_BYTES as u64 + 5000).unwrap();
    let damaged: Vec<ChunkHash> = scrub().iter().filter_map(|s| s.damaged).collect();
    assert_eq!(damaged, [record.hash]);
    assert_eq!((slab.read(record), scrub().len()), (None, 9));
}

#[test]
fn foreign_content_is_not_overwritten() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("disk");
    std::fs::write(&path, vec![7; SLAB_BYTES_MIN as usize]).unwrap();
    assert!(matches!(
        Slab::open_device(&path),
        Err(OpenSlabError::Foreign { .. })
    ));
    assert!(std::fs::read(&path).unwrap().iter().all(|b| *b == 7));
    std::fs::write(&path, vec![0; 100]).unwrap();
    assert!(matches!(
        Slab::open_device(&path),
        Err(OpenSlabError::TooSmall { .. })
    ));
}

/// A disk whose power can be cut: it remembers each write and each sync.
#[derive(Default)]
struct Journal {
    events: StdMutex<Vec<Event>>,
}

enum Event {
    Write(u64, Vec<u8>),
    Sync,
}

/// Writes go to the file that is mapped, so the slab reads its own, and into the journal.
struct Journaled(Arc<Journal>, File);

impl Medium for Journaled {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0
            .events
            .lock()
            .unwrap()
            .push(Event::Write(offset, bytes.to_vec()));
        Medium::write_all_at(&self.1, bytes, offset)
    }

    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        Medium::read_exact_at(&self.1, bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.events.lock().unwrap().push(Event::Sync);
        Ok(())
    }
}

const SECTOR: usize = 512;

/// The medium after a power cut behind event `cut`: what was synced is there; of what was written since then any
/// sectors are, and the others are as they were.
fn after_power_cut(events: &[Event], cut: usize, rng: &mut StdRng) -> Vec<u8> {
    let mut medium = vec![0; SLAB_BYTES_MIN as usize];
    let synced = events[..cut]
        .iter()
        .rposition(|e| matches!(e, Event::Sync))
        .unwrap_or(0);
    for (at, event) in events[..cut].iter().enumerate() {
        let Event::Write(offset, bytes) = event else {
            continue;
        };
        for (sector, piece) in bytes.chunks(SECTOR).enumerate() {
            if at < synced || rng.random_bool(0.5) {
                let first = *offset as usize + sector * SECTOR;
                medium[first..first + piece.len()].copy_from_slice(piece);
            }
        }
    }
    medium
}

#[test]
fn a_power_cut_at_any_write_leaves_old_or_new_never_half() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("slab");
    // sizes differ, so that new records begin inside old ones
    let objects: Vec<_> = (0..60)
        .map(|n| object(n, 300_000 + (n as usize * 7919 % 13) * 50_000))
        .collect();
    let journal = Arc::new(Journal::default());
    let mut durable: Vec<(usize, Vec<ChunkHash>)> = Vec::new();
    {
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .unwrap();
        file.set_len(SLAB_BYTES_MIN).unwrap();
        let map = map_whole(&path, &file).unwrap();
        let medium = Box::new(Journaled(journal.clone(), file));
        let slab = Slab::open_medium(&path, map, medium, &Faults::default()).unwrap();
        for (n, (_, object)) in objects.iter().enumerate() {
            slab.keep(object).unwrap();
            if n % 3 == 0 || n + 1 == objects.len() {
                slab.sync().unwrap();
                let held = slab.state().entries.keys().map(|(c, _)| *c).collect();
                durable.push((journal.events.lock().unwrap().len(), held));
            }
        }
    }
    let events = journal.events.lock().unwrap();
    let mut rng = StdRng::seed_from_u64(7);
    for cut in 1..=events.len() {
        let path = folder.path().join("cut");
        std::fs::write(&path, after_power_cut(&events, cut, &mut rng)).unwrap();
        let Ok(slab) = Slab::open_device(&path) else {
            assert!(
                cut <= 2,
                "only the very first page may be lost, and with it nothing that was synced"
            );
            continue;
        };
        for (record, object) in &objects {
            if let Some(bytes) = slab.read(record) {
                assert!(bytes == object.to_bytes(), "a record is whole or absent");
            }
        }
        // what was synced and not replaced since is still there
        let (at, synced) = durable
            .iter()
            .rfind(|(at, _)| *at <= cut)
            .cloned()
            .unwrap_or_default();
        let overwritten = |hash: &ChunkHash| {
            let later = durable.iter().find(|(next, _)| *next > cut.max(at));
            later.is_some_and(|(_, held)| !held.contains(hash))
        };
        for (record, _) in objects.iter().filter(|(r, _)| synced.contains(&r.hash)) {
            assert!(
                slab.read(record).is_some() || overwritten(&record.hash),
                "lost a synced record at cut {cut}"
            );
        }
        // and it goes on working
        slab.keep(&object(1000, 600_000).1).unwrap();
        assert!(slab.read(&object(1000, 600_000).0).is_some());
    }
}

#[test]
fn what_lies_beyond_the_frontier_is_neither_read_nor_believed() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("slab");
    let (record, old) = object(1, 100_000);
    {
        let slab = Slab::open_file(&path, SLAB_BYTES_MIN * 8).unwrap();
        slab.keep(&old).unwrap();
        slab.sync().unwrap();
    }
    // a record of a slab that was here before, far behind what this one has used
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let mut bytes = vec![0; 200_000];
    Medium::read_exact_at(&file, &mut bytes, PAGE).unwrap();
    let beyond = 100 << 20;
    Medium::write_all_at(&file, &bytes, beyond).unwrap();
    Medium::write_all_at(&file, &[0; HEADER_BYTES], PAGE).unwrap();
    let slab = Slab::open_file(&path, 0).unwrap();
    assert!(slab.is_empty() && slab.read(&record).is_none());
    drop(slab);
    // without a frontier that can be read, everything may hold records
    for at in [512, 1024] {
        Medium::write_all_at(&file, &[0xff; 8], at).unwrap();
    }
    let slab = Slab::open_file(&path, 0).unwrap();
    assert_eq!(slab.read(&record).unwrap(), old.to_bytes());
}
