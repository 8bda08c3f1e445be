//! A medium that fails under the map: a file in a FUSE file system that answers some reads with EIO. Needs root.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

use std::{
    ffi::OsStr,
    fs::File,
    os::unix::{fs::FileExt, process::ExitStatusExt},
    path::Path,
    process::{Command, Output},
    sync::{Arc, Mutex},
    time::{Duration, UNIX_EPOCH},
};

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, LockOwner,
    OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyWrite, Request, WriteFlags,
};
use image_format::{ChunkCodec, ChunkRecord, VerifiedObject, encode_object};
use peer_cache_node::slab::{Place, SLAB_BYTES_MIN, Slab, record_bytes};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tempfile::TempDir;

const CHILD: &str = "LAMPLIGHTER_TEST_SLAB";
const OBJECTS: u64 = 8;
const FILE: INodeNo = INodeNo(2);
const TTL: Duration = Duration::from_secs(60);
const SIGBUS: i32 = 7;

fn object(n: u64) -> (ChunkRecord, VerifiedObject) {
    let mut plain = vec![0; 600_000];
    StdRng::seed_from_u64(n).fill(&mut plain[..]);
    let object = encode_object(&plain, &mut ChunkCodec::new(1).unwrap()).unwrap();
    let record = ChunkRecord::of(&plain, &object);
    let verified = VerifiedObject::check(&record, object.bytes).unwrap();
    (record, verified)
}

/// One file, backed by another; the pages named by `bad` cannot be read.
struct Failing {
    backing: File,
    bad: Arc<Mutex<Vec<u64>>>,
}

fn attributes(ino: INodeNo, size: u64) -> FileAttr {
    let is_file = ino == FILE;
    FileAttr {
        ino,
        size,
        blocks: size / 512,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: match is_file {
            true => FileType::RegularFile,
            false => FileType::Directory,
        },
        perm: 0o700,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        flags: 0,
        blksize: 4096,
    }
}

impl Filesystem for Failing {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match name.to_str() {
            Some("slab") => {
                let size = self.backing.metadata().unwrap().len();
                reply.entry(&TTL, &attributes(FILE, size), Generation(0));
            }
            _ => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let size = self.backing.metadata().unwrap().len();
        reply.attr(&TTL, &attributes(ino, size));
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let range = offset..offset + u64::from(size);
        if self.bad.lock().unwrap().iter().any(|p| range.contains(p)) {
            return reply.error(Errno::EIO);
        }
        let mut bytes = vec![0; size as usize];
        let read = self.backing.read_at(&mut bytes, offset).unwrap();
        reply.data(&bytes[..read]);
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        bytes: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.backing.write_all_at(bytes, offset).unwrap();
        reply.written(u32::try_from(bytes.len()).unwrap());
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }
}

/// Not a test of its own: the program that dies. Opens the slab, says what is missing, and keeps it again.
#[test]
fn child() {
    let Some(path) = std::env::var_os(CHILD) else {
        return;
    };
    let path = Path::new(&path);
    let faults = path.parent().unwrap().with_extension("faults");
    let slab = Slab::open_watched(path, Place::Device, &faults).unwrap();
    let way = if slab.is_read_without_map() {
        "read"
    } else {
        "map"
    };
    let mut missing = Vec::new();
    for n in 0..OBJECTS {
        let (record, object) = object(n);
        match slab.read(&record) {
            Some(bytes) => assert_eq!(bytes, object.to_bytes()),
            None => missing.push(n),
        }
    }
    for n in &missing {
        let (record, object) = object(*n);
        slab.keep(&object).unwrap();
        assert_eq!(slab.read(&record).unwrap(), object.to_bytes());
    }
    slab.sync().unwrap();
    std::fs::write(
        path.parent().unwrap().with_extension("said"),
        format!("{way} {missing:?}"),
    )
    .unwrap();
}

fn run_child(slab: &Path) -> (Output, String) {
    let said = slab.parent().unwrap().with_extension("said");
    let _ = std::fs::remove_file(&said);
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(CHILD, slab)
        .output()
        .unwrap();
    (output, std::fs::read_to_string(said).unwrap_or_default())
}

fn dies(slab: &Path) {
    let (output, said) = run_child(slab);
    assert_eq!(output.status.signal(), Some(SIGBUS), "{said}: {output:?}");
}

fn says(slab: &Path, expected: &str) {
    let (output, said) = run_child(slab);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(said, expected);
}

#[test]
fn a_medium_error_under_the_map_costs_one_object_and_after_three_the_map() {
    let folder = TempDir::new().unwrap();
    let backing = folder.path().join("backing");
    {
        let slab = Slab::open_file(&backing, SLAB_BYTES_MIN).unwrap();
        (0..OBJECTS).for_each(|n| slab.keep(&object(n).1).unwrap());
        slab.sync().unwrap();
    }
    // a page in the middle of each object, and one that is an object's first
    let extent = record_bytes(object(0).0.object_bytes);
    let page = |n: u64, of_record: u64| 4096 + n * extent + of_record * 4096;
    let mount = folder.path().join("mount");
    std::fs::create_dir(&mount).unwrap();
    let bad = Arc::new(Mutex::new(Vec::new()));
    let failing = Failing {
        backing: File::options()
            .read(true)
            .write(true)
            .open(&backing)
            .unwrap(),
        bad: bad.clone(),
    };
    let _mounted = fuser::spawn_mount(failing, &mount, &Config::default()).unwrap();
    let slab = mount.join("slab");
    let fail = |pages: &[u64]| *bad.lock().unwrap() = pages.to_vec();

    says(&slab, "map []");
    fail(&[page(3, 40)]);
    dies(&slab);
    // what was read is left out, its place is not used again, and the rest is there
    says(&slab, "map [3]");
    says(&slab, "map []");
    // a header that cannot be read: not even a signal
    fail(&[page(3, 40), page(5, 0)]);
    says(&slab, "map [5]");
    fail(&[page(3, 40), page(5, 0), page(1, 70)]);
    dies(&slab);
    says(&slab, "map [1]");
    fail(&[page(3, 40), page(5, 0), page(1, 70), page(6, 9)]);
    dies(&slab);
    // three in an hour
    fail(&[
        page(3, 40),
        page(5, 0),
        page(1, 70),
        page(6, 9),
        page(7, 100),
    ]);
    says(&slab, "read [6, 7]");
    says(&slab, "read []");
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {output:?}"
    );
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Undoes what a test did to this computer, also when it fails.
struct Undo<'a>(&'a str, Vec<String>);

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        let _ = Command::new(self.0).args(&self.1).output();
    }
}

#[test]
fn a_partition_is_a_slab_too() {
    let folder = TempDir::new().unwrap();
    let disk = folder.path().join("disk");
    File::create(&disk)
        .unwrap()
        .set_len(SLAB_BYTES_MIN + 512)
        .unwrap();
    let device = run("losetup", &["--find", "--show", disk.to_str().unwrap()]);
    let _undo = Undo("losetup", vec!["--detach".into(), device.clone()]);
    let faults = folder.path().join("faults");
    let open = || Slab::open_watched(Path::new(&device), Place::Device, &faults).unwrap();
    {
        let slab = open();
        assert_eq!(slab.capacity(), SLAB_BYTES_MIN);
        (0..OBJECTS).for_each(|n| slab.keep(&object(n).1).unwrap());
        slab.sync().unwrap();
    }
    let slab = open();
    for n in 0..OBJECTS {
        let (record, object) = object(n);
        assert_eq!(slab.read(&record).unwrap(), object.to_bytes());
    }
}

/// A file whose room was never taken, on a file system that has less.
#[test]
fn a_full_disk_is_an_error_in_words() {
    let folder = TempDir::new().unwrap();
    let mount = folder.path().to_str().unwrap().to_owned();
    run(
        "mount",
        &["-t", "tmpfs", "-o", "size=3m", "lamplighter-test", &mount],
    );
    let _undo = Undo("umount", vec!["--lazy".into(), mount]);
    let path = folder.path().join("slab");
    File::create(&path)
        .unwrap()
        .set_len(SLAB_BYTES_MIN)
        .unwrap();
    let slab = Slab::open_device(&path).unwrap();
    let refused = (0..OBJECTS).find_map(|n| slab.keep(&object(n).1).err());
    let words = refused.unwrap().to_string();
    assert!(words.contains("has no room for"), "{words}");
    let (record, first) = object(0);
    assert_eq!(
        slab.read(&record).unwrap(),
        first.to_bytes(),
        "what is there stays"
    );
}
