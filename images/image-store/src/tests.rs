use std::{
    collections::BTreeMap,
    fs::File,
    io,
    os::unix::fs::{FileExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
};

use bytes::Bytes;
use image_format::{CHUNK_BYTES, ChunkRecord, Customisation, Manifest, ObjectHash};
use tempfile::TempDir;

use crate::*;

/// Objects in memory: what an import and an export need of a store, without its speed.
#[derive(Default)]
struct Objects(Mutex<BTreeMap<ObjectHash, Bytes>>);

impl ObjectSink for Objects {
    fn put(&self, hash: ObjectHash, bytes: Bytes) -> io::Result<()> {
        assert_eq!(ObjectHash::of(&bytes), hash);
        self.0.lock().unwrap().insert(hash, bytes);
        Ok(())
    }
}

impl ObjectSource for Objects {
    fn get(&self, record: &ChunkRecord) -> io::Result<Bytes> {
        self.0
            .lock()
            .unwrap()
            .get(&record.object_hash)
            .cloned()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed;
    let mut out = vec![0; bytes];
    for word in out.chunks_mut(8) {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        word.copy_from_slice(&(state ^ (state >> 29)).to_le_bytes()[..word.len()]);
    }
    out
}

/// 20 MiB and a bit: noise, text, a repeated chunk, holes, written zeros, an end inside a chunk.
fn mixed_file(folder: &Path) -> PathBuf {
    let path = folder.join("mixed.raw");
    let file = File::create(&path).unwrap();
    file.set_len(20 * CHUNK_BYTES as u64 + 7 * 512).unwrap();
    let mib = |n: u64| n * CHUNK_BYTES as u64;
    file.write_all_at(&noise(1, CHUNK_BYTES), mib(0)).unwrap();
    file.write_all_at(&b"till ".repeat(400_000), mib(2) + 100)
        .unwrap();
    file.write_all_at(&noise(1, CHUNK_BYTES), mib(9)).unwrap();
    file.write_all_at(&vec![0; 3 * CHUNK_BYTES], mib(12))
        .unwrap();
    file.write_all_at(&noise(2, 512), mib(20) + 6 * 512)
        .unwrap();
    path
}

fn import_quietly(path: &Path) -> Result<(Manifest, DiskReport, Objects), ImportError> {
    let objects = Objects::default();
    let (manifest, report) = import(path, &ImportOptions::named("till"), &objects, &())?;
    Ok((manifest, report, objects))
}

#[test]
fn an_export_equals_its_source() {
    let folder = TempDir::new().unwrap();
    let source = mixed_file(folder.path());
    let (manifest, _, objects) = import_quietly(&source).unwrap();
    assert_eq!(manifest.layout.len(), 5, "0, 2, 3, 9 and the tail");
    assert_eq!(manifest.chunks.len(), 4, "chunk 9 is chunk 0 again");
    let copy = folder.path().join("copy.raw");
    export(&manifest, &objects, &copy, &()).unwrap();
    assert!(std::fs::read(&source).unwrap() == std::fs::read(&copy).unwrap());
}

#[test]
fn the_same_file_gives_the_same_manifest() {
    let folder = TempDir::new().unwrap();
    let source = mixed_file(folder.path());
    let first = import_quietly(&source).unwrap().0;
    assert_eq!(first, import_quietly(&source).unwrap().0);
}

#[test]
fn a_flipped_bit_in_the_store_is_named() {
    let folder = TempDir::new().unwrap();
    let (manifest, _, objects) = import_quietly(&mixed_file(folder.path())).unwrap();
    let victim = &manifest.chunks[1];
    {
        let mut map = objects.0.lock().unwrap();
        let mut bytes = map[&victim.object_hash].to_vec();
        bytes[10] ^= 4;
        map.insert(victim.object_hash, bytes.into());
    }
    let report = verify(&manifest, &objects, &()).unwrap();
    assert_eq!((report.good, report.bad.len()), (3, 1));
    assert_eq!(report.bad[0].0, victim.hash);
    let target = folder.path().join("copy.raw");
    std::fs::write(&target, b"what was there").unwrap();
    assert!(matches!(
        export(&manifest, &objects, &target, &()),
        Err(ExportError::Invalid(_))
    ));
    assert_eq!(std::fs::read(&target).unwrap(), b"what was there");
}

#[test]
fn what_is_no_disk_image_is_refused_by_name() {
    let folder = TempDir::new().unwrap();
    let refuse = |name: &str, bytes: &[u8], words: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let error = import_quietly(&path).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(words) && error.contains(name), "{error}");
    };
    refuse("empty.raw", b"", "is empty");
    refuse("odd.raw", &[1; 1000], "no multiple of 512");
    refuse("disk.qcow2", b"QFI\xfb and more", "qcow2");
    let missing = import_quietly(&folder.path().join("missing.raw"))
        .map(|_| ())
        .unwrap_err();
    assert!(missing.to_string().contains("missing.raw"));
}

fn run(program: &str, arguments: &[&str]) {
    let out = Command::new(program).args(arguments).output().unwrap();
    assert!(
        out.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
}

/// A GPT disk with an ESP and an ext4 root that holds `files`.
fn debian_like_disk(folder: &Path, files: &[(&str, &str)]) -> PathBuf {
    let tree = folder.join("tree");
    for (name, content) in files {
        let path = tree.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    let root = folder.join("root.ext4");
    run(
        "mke2fs",
        &[
            "-q",
            "-t",
            "ext4",
            "-d",
            tree.to_str().unwrap(),
            root.to_str().unwrap(),
            "16M",
        ],
    );
    let disk = folder.join("disk.raw");
    File::create(&disk).unwrap().set_len(24 << 20).unwrap();
    let name = disk.to_str().unwrap();
    run(
        "sgdisk",
        &[
            "-n1:2048:+4M",
            "-t1:ef00",
            "-c1:ESP",
            "-n2:0:+16M",
            "-t2:8304",
            "-c2:root",
            name,
        ],
    );
    let file = File::options().write(true).open(&disk).unwrap();
    file.write_all_at(&std::fs::read(&root).unwrap(), 5 << 20)
        .unwrap();
    disk
}

const OS_RELEASE: (&str, &str) = (
    "etc/os-release",
    "NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n",
);
const SYSTEMD: (&str, &str) = ("usr/lib/systemd/systemd", "");

#[test]
fn an_import_says_what_it_found() {
    let folder = TempDir::new().unwrap();
    let disk = debian_like_disk(folder.path(), &[OS_RELEASE, SYSTEMD]);
    let (manifest, report, _) = import_quietly(&disk).unwrap();
    assert_eq!(report.obstacles, Vec::<String>::new());
    let root = report.root.unwrap();
    assert_eq!(
        (root.partition, root.system.as_str()),
        (2, "Debian GNU/Linux 12")
    );
    assert!(report.uefi && !report.bios);
    assert_eq!(manifest.customisation, Customisation::Ext4 { partition: 2 });
    let summary: Vec<_> = manifest
        .partitions
        .iter()
        .map(|p| (p.number, p.label.as_str(), p.file_system.as_str()))
        .collect();
    assert_eq!(summary, [(1, "ESP", ""), (2, "root", "ext4")]);
}

#[test]
fn an_import_says_why_an_image_cannot_be_customised() {
    let check = |files: &[(&str, &str)], words: &str| {
        let folder = TempDir::new().unwrap();
        let (manifest, report, _) =
            import_quietly(&debian_like_disk(folder.path(), files)).unwrap();
        assert_eq!(manifest.customisation, Customisation::None);
        assert!(
            report.obstacles.iter().any(|o| o.contains(words)),
            "{:?}",
            report.obstacles
        );
    };
    check(&[OS_RELEASE], "systemd");
    check(&[SYSTEMD], "os-release");
    check(
        &[
            OS_RELEASE,
            SYSTEMD,
            ("etc/selinux/config", "#\nSELINUX=enforcing\n"),
        ],
        "SELinux",
    );
}

#[test]
fn a_cut_off_disk_is_refused() {
    let folder = TempDir::new().unwrap();
    let disk = debian_like_disk(folder.path(), &[OS_RELEASE]);
    File::options()
        .write(true)
        .open(&disk)
        .unwrap()
        .set_len(10 << 20)
        .unwrap();
    let error = import_quietly(&disk).map(|_| ()).unwrap_err().to_string();
    assert!(
        error.contains("cut off") && error.contains("partition 2"),
        "{error}"
    );
}

#[test]
fn a_boot_bundle_finds_its_files_again() {
    let folder = TempDir::new().unwrap();
    let content: [(&str, Vec<u8>); 3] = [
        ("kernel", noise(3, 1_500_000)),
        ("small", noise(4, 10)),
        ("again", noise(3, 1_500_000)),
    ];
    let files: Vec<_> = content
        .iter()
        .map(|(name, bytes)| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            ((*name).to_owned(), path)
        })
        .collect();
    let objects = Objects::default();
    let manifest = import_files(&files, &ImportOptions::named("bundle"), &objects).unwrap();
    assert_eq!(manifest.chunks.len(), 3);
    let whole = folder.path().join("whole");
    export(&manifest, &objects, &whole, &()).unwrap();
    let whole = std::fs::read(whole).unwrap();
    for (name, bytes) in content {
        let file = manifest.file(name).unwrap();
        assert!(
            whole[file.offset as usize..][..file.bytes as usize] == bytes,
            "{name}"
        );
    }
    let signer = Signer::open_or_create(folder.path()).unwrap();
    assert_eq!(*signer.sign_manifest(&manifest).unwrap(), manifest);
}

#[test]
fn keys_are_made_once_and_are_private() {
    let folder = TempDir::new().unwrap();
    let first = Signer::open_or_create(folder.path()).unwrap();
    let again = Signer::open_or_create(folder.path()).unwrap();
    assert_eq!(
        first.trusted().root().as_bytes(),
        again.trusted().root().as_bytes()
    );
    let path = folder.path().join("signing-keys");
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    std::fs::write(&path, b"something else").unwrap();
    assert!(matches!(
        Signer::open_or_create(folder.path()),
        Err(OpenSignerError::NotKeys { .. })
    ));
    assert_eq!(std::fs::read(&path).unwrap(), b"something else");
}

/// A bucket of this test alone, where `./dev servers` started a server for it.
async fn bucket() -> Option<Bucket> {
    let server = std::env::var("AWS_ENDPOINT_URL").ok()?;
    std::env::var_os("LAMPLIGHTER_TEST_POSTGRES")?;
    let name = format!("b{:016x}", getrandom::u64().unwrap());
    let client = crate::bucket::client().unwrap();
    let made = client.put(format!("{server}/{name}")).send().await.unwrap();
    assert_eq!(made.status(), 200);
    Some(format!("s3://{name}/some/where").parse().unwrap())
}

#[tokio::test]
async fn a_bucket_that_is_not_there_is_named() {
    if bucket().await.is_none() {
        return;
    }
    let wrong: Bucket = "s3://not-there".parse().unwrap();
    let error = Store::in_bucket(&wrong).await.unwrap_err();
    assert!(matches!(error, StoreError::Bucket { .. }), "{error:?}");
    assert_eq!(error.to_string(), "bucket s3://not-there");
}

#[tokio::test]
async fn the_store_keeps_what_its_names_say() {
    use futures_util::TryStreamExt;
    let folder = TempDir::new().unwrap();
    let store = match bucket().await {
        Some(bucket) => Store::in_bucket(&bucket).await.unwrap(),
        None => Store::in_folder(&folder.path().join("store")).unwrap(),
    };
    let bytes = Bytes::from(noise(5, 10_000));
    let hash = ObjectHash::of(&bytes);
    assert!(!store.has_object(&hash).await.unwrap());
    assert!(matches!(
        store.put_object(hash, Bytes::from_static(b"other")).await,
        Err(StoreError::WrongHash { .. })
    ));
    assert!(!store.has_object(&hash).await.unwrap());
    store.put_object(hash, bytes.clone()).await.unwrap();
    // again: it is there
    store.put_object(hash, bytes.clone()).await.unwrap();
    let other = ObjectHash::of(b"other");
    let missing = store.missing_of(vec![other, hash, other]).await.unwrap();
    assert_eq!(missing, [other, other]);
    assert_eq!(store.object(&hash).await.unwrap(), bytes);
    let (whole, rest) = store.read_object(&hash, 9_000).await.unwrap();
    let rest: Vec<Bytes> = rest.try_collect().await.unwrap();
    assert_eq!((whole, rest.concat()), (10_000, bytes[9_000..].to_vec()));

    let (mut manifest, _, objects) = import_quietly(&mixed_file(folder.path())).unwrap();
    manifest.release = 1;
    let signer = Signer::open_or_create(folder.path()).unwrap();
    let signed = signer.sign_manifest(&manifest).unwrap();
    assert!(matches!(
        store.put_manifest(&signed).await,
        Err(StoreError::Missing { .. })
    ));
    let all: Vec<_> = objects.0.lock().unwrap().clone().into_iter().collect();
    for (hash, bytes) in all {
        store.put_object(hash, bytes).await.unwrap();
    }
    store.put_manifest(&signed).await.unwrap();
    assert_eq!(
        store.manifest(&signed.digest()).await.unwrap(),
        signed.as_bytes()
    );
}
