//! Boot media out of real Debian packages, checked by other people's tools: GNU cpio, mtools, fsck.vfat, sgdisk.
//! Packages are kept in `$LAMPLIGHTER_CACHE` (default: `.cache` at the top of the repository).

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a test may stop at once"
)]

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use boot_media::{
    Archive, KernelChoice, MediaReport, MediaRequest, PackageSources, UkiParts, UsbRequest,
    build_media, build_uki, build_usb, local_boot_program, sections,
};

fn cache() -> PathBuf {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../.cache");
    let cache =
        std::env::var_os("LAMPLIGHTER_CACHE").map_or_else(|| PathBuf::from(default), PathBuf::from);
    fs::create_dir_all(&cache).unwrap();
    cache.canonicalize().unwrap().join("boot-media")
}

/// Runs a tool with `input`; its output, or a panic with what it complained about.
fn run(program: &str, arguments: &[&str], input: &[u8]) -> String {
    let path = format!(
        "{}:/usr/sbin:/sbin",
        std::env::var("PATH").unwrap_or_default()
    );
    let mut child = Command::new(program)
        .args(arguments)
        .env("PATH", path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program} is needed for this test: {error}"));
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || {
        let _ = stdin.write_all(&input); // the tool may stop reading before the end
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}\n{text}\n{complaint}",
        output.status
    );
    text + &complaint
}

/// The smallest static program: an ELF header, one segment, and `exit(0)`.
fn static_program() -> Vec<u8> {
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let put = |elf: &mut Vec<u8>, value: u64, bytes: usize| {
        elf.extend_from_slice(&value.to_le_bytes()[..bytes])
    };
    // Type, machine, version, entry, program headers, section headers, flags, six sizes and counts.
    for (value, bytes) in [
        (2, 2),
        (62, 2),
        (1, 4),
        (0x40_0078, 8),
        (64, 8),
        (0, 8),
        (0, 4),
    ] {
        put(&mut elf, value, bytes);
    }
    for value in [64, 56, 1, 0, 0, 0] {
        put(&mut elf, value, 2);
    }
    // PT_LOAD, read and execute: offset, address twice, size twice, alignment.
    for (value, bytes) in [
        (1, 4),
        (5, 4),
        (0, 8),
        (0x40_0000, 8),
        (0x40_0000, 8),
        (0x81, 8),
        (0x81, 8),
        (0x1000, 8),
    ] {
        put(&mut elf, value, bytes);
    }
    elf.extend_from_slice(&[0x6a, 0x3c, 0x58, 0x31, 0xff, 0x0f, 0x05, 0x90, 0x90]); // push 60; pop rax; xor edi, edi; syscall
    elf
}

fn build(cache_dir: &Path, out_dir: &Path, agent: &Path) -> MediaReport {
    build_media(&MediaRequest {
        agent,
        files: vec![(
            "etc/lamplighter/root.doc".to_owned(),
            b"root document".to_vec(),
        )],
        command_line: "console=ttyS0 lamplighter.node=192.0.2.1".to_owned(),
        cache_dir,
        out_dir,
        kernel: KernelChoice::Generic,
        sources: PackageSources::Host,
    })
    .unwrap()
}

/// The names that GNU cpio reads out of each frame of an initramfs.
fn cpio_names(initramfs: &[u8]) -> Vec<Vec<String>> {
    let mut rest = initramfs;
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let size = zstd::zstd_safe::find_frame_compressed_size(rest).unwrap();
        let cpio = zstd::stream::decode_all(&rest[..size]).unwrap();
        let listing = run("cpio", &["-t", "--quiet"], &cpio);
        frames.push(listing.lines().map(str::to_owned).collect());
        rest = &rest[size..];
    }
    frames
}

#[test]
fn media_from_debian_are_complete_and_the_same_twice() {
    let work = tempfile::tempdir().unwrap();
    let agent = work.path().join("agent");
    fs::write(&agent, static_program()).unwrap();
    let shared = cache();
    let first_dir = work.path().join("first");
    let report = build(&shared, &first_dir, &agent);

    // A second build in another folder with nothing in common but the downloads.
    let other_cache = work.path().join("elsewhere/cache");
    fs::create_dir_all(&other_cache).unwrap();
    for downloads in ["apt", "packages"] {
        std::os::unix::fs::symlink(shared.join(downloads), other_cache.join(downloads)).unwrap();
    }
    let second_dir = work.path().join("second");
    assert_eq!(build(&other_cache, &second_dir, &agent), report);
    for built in [
        &report.kernel,
        &report.initramfs,
        &report.uki,
        &report.local,
    ] {
        let content = fs::read(first_dir.join(&built.name)).unwrap();
        assert_eq!(content.len() as u64, built.size_bytes);
        assert!(
            content == fs::read(second_dir.join(&built.name)).unwrap(),
            "{} differs",
            built.name
        );
    }

    assert!(report.modules.len() > 100, "{:?}", report.modules);
    for module in [
        "virtio_net",
        "e1000e",
        "r8169",
        "nvme",
        "ahci",
        "usb_storage",
        "ext4",
        "crc32c_generic",
    ] {
        assert!(
            report.modules.iter().any(|name| name == module),
            "{module} is missing"
        );
    }
    let frames = cpio_names(&fs::read(first_dir.join("initramfs.cpio.zst")).unwrap());
    assert_eq!(frames.len(), 2);
    let base: BTreeSet<_> = frames[0].iter().map(String::as_str).collect();
    let index = format!("lib/modules/{}/modules.alias", report.kernel_release);
    for path in ["dev/console", "proc", "sbin/modprobe", &index] {
        assert!(base.contains(path), "{path} is missing");
    }
    assert_eq!(
        frames[1],
        ["etc", "etc/lamplighter", "etc/lamplighter/root.doc", "init"]
    );

    let uki = fs::read(first_dir.join("lamplighter.efi")).unwrap();
    let sections = sections(&uki).unwrap();
    let content = |name: &str| {
        let section = sections
            .iter()
            .find(|section| section.name == name)
            .unwrap();
        let start = section.file_offset as usize;
        &uki[start..start + section.virtual_bytes as usize]
    };
    assert_eq!(
        content(".cmdline"),
        b"console=ttyS0 lamplighter.node=192.0.2.1"
    );
    assert_eq!(content(".uname"), report.kernel_release.as_bytes());
    assert!(content(".linux") == fs::read(first_dir.join("vmlinuz")).unwrap());
    assert!(content(".initrd") == fs::read(first_dir.join("initramfs.cpio.zst")).unwrap());
    for pair in sections.windows(2) {
        assert!(
            pair[0].virtual_address + pair[0].virtual_bytes <= pair[1].virtual_address,
            "{pair:?} overlap"
        );
    }

    stick_holds(&first_dir.join("lamplighter.efi"), work.path());
}

/// A stick made twice from `uki` has the same bytes, and the usual tools find nothing wrong with it.
fn stick_holds(uki: &Path, work: &Path) {
    let (image, again) = (work.join("stick.img"), work.join("again.img"));
    let voucher = work.join("a-voucher");
    fs::write(&voucher, b"LMPVOUCH").unwrap();
    let request = UsbRequest {
        uki: uki.to_owned(),
        files: vec![("voucher", voucher.clone())],
        data: Some(("LAMPLIGHTER-SLAB", 5 << 20)),
    };
    let report = build_usb(&request, &image).unwrap();
    assert_eq!(report.blake3, build_usb(&request, &again).unwrap().blake3);
    for name in ["", "too-long-a-name", "a.b"] {
        let request = UsbRequest {
            files: vec![(name, voucher.clone())],
            ..request.clone()
        };
        assert!(build_usb(&request, &again).is_err(), "{name}");
    }
    assert!(report.free_bytes > 32 << 20, "{report:?}");
    assert_eq!(fs::metadata(&image).unwrap().len(), report.size_bytes);
    let path = image.to_str().unwrap();
    let verified = run("sgdisk", &["-v", path], b"");
    assert!(verified.contains("No problems found"), "{verified}");
    let table = run("sgdisk", &["-p", path], b"");
    assert!(
        table.contains("EF00") && table.contains("LAMPLIGHTER-SLAB"),
        "{table}"
    );
    let esp = work.join("esp");
    fs::write(
        &esp,
        &fs::read(&image).unwrap()[1 << 20..(report.size_bytes - (6 << 20)) as usize],
    )
    .unwrap();
    let esp = esp.to_str().unwrap();
    let checked = run("fsck.vfat", &["-n", "-v", esp], b"");
    assert!(checked.contains("32 bit entries"), "{checked}");
    let taken = work.join("taken.efi");
    run(
        "mcopy",
        &[
            "-i",
            esp,
            "::/EFI/BOOT/BOOTX64.EFI",
            taken.to_str().unwrap(),
        ],
        b"",
    );
    assert!(fs::read(&taken).unwrap() == fs::read(uki).unwrap());
    assert!(run("mdir", &["-i", esp, "-b", "::/"], b"").contains("lamplighter"));
    let held = run("mtype", &["-i", esp, "::/lamplighter/voucher"], b"");
    assert_eq!(held, "LMPVOUCH");
}

#[test]
fn gnu_cpio_reads_every_kind_of_entry() {
    let mut archive = Archive::default();
    archive.folder("dev").unwrap();
    archive.character_device("dev/console", 5, 1).unwrap();
    archive.file("bin/tool", true, b"content".to_vec()).unwrap();
    archive.link("bin/alias", "tool").unwrap();
    let listing = run(
        "cpio",
        &["-tv", "--quiet", "--numeric-uid-gid"],
        &archive.to_cpio(),
    );
    let lines: Vec<Vec<&str>> = listing
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    let starts: Vec<&str> = lines.iter().map(|words| words[0]).collect();
    assert_eq!(
        starts,
        [
            "drwxr-xr-x",
            "lrwxrwxrwx",
            "-rwxr-xr-x",
            "drwxr-xr-x",
            "crw-------"
        ]
    );
    assert!(
        listing.contains("alias -> tool") && listing.contains("5,   1"),
        "{listing}"
    );
}

#[test]
fn the_local_boot_program_is_a_program_with_code_and_relocations() {
    let program = local_boot_program();
    let sections = sections(&program).unwrap();
    let names: Vec<&str> = sections
        .iter()
        .map(|section| section.name.as_str())
        .collect();
    assert_eq!(names, [".text", ".reloc"]);
    let last = sections.last().unwrap();
    assert_eq!((last.file_offset + last.file_bytes) as usize, program.len());
}

#[test]
fn the_assembled_code_is_its_source() {
    let work = tempfile::tempdir().unwrap();
    let (object, code) = (work.path().join("o"), work.path().join("code"));
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/local_boot.S");
    let (object, code_path) = (object.to_str().unwrap(), code.to_str().unwrap());
    run("as", &["--64", source, "-o", object], b"");
    run(
        "objcopy",
        &["-O", "binary", "-j", ".text", object, code_path],
        b"",
    );
    assert_eq!(
        fs::read(&code).unwrap(),
        include_bytes!("../src/local_boot.bin")
    );
}

#[test]
fn what_is_no_stub_is_refused() {
    let parts = |stub| UkiParts {
        stub,
        os_release: "",
        command_line: "",
        kernel_release: "",
        kernel: b"",
        initramfs: b"",
    };
    let local = local_boot_program();
    for (stub, expect) in [
        (&b"#!/bin/sh"[..], "MZ"),
        (&local[..0x80], "breaks off"),
        // 0x68 bytes are left in its headers: two entries, not five.
        (&local[..], "room for 2 more sections"),
    ] {
        let error = build_uki(&parts(stub)).unwrap_err();
        assert!(error.to_string().contains(expect), "{error}");
    }
}

#[test]
fn a_dynamic_agent_and_an_odd_command_line_are_refused() {
    let work = tempfile::tempdir().unwrap();
    let this_test = std::env::current_exe().unwrap();
    let request = |agent, command_line: &str| MediaRequest {
        agent,
        files: Vec::new(),
        command_line: command_line.to_owned(),
        cache_dir: work.path(),
        out_dir: work.path(),
        kernel: KernelChoice::Generic,
        sources: PackageSources::Host,
    };
    let error = build_media(&request(&this_test, "quiet")).unwrap_err();
    assert!(error.to_string().contains("crt-static"), "{error}");
    let agent = work.path().join("agent");
    fs::write(&agent, static_program()).unwrap();
    let error = build_media(&request(&agent, "a\nb")).unwrap_err();
    assert!(error.to_string().contains("printable"), "{error}");
}
