//! 40 MiB through every TFTP client that Debian has, compared byte for byte.

use boot_server::{BootEvent, TransferKind};

use crate::shelf::{Loopback, assert_is_the_large_file, large_file, run};

/// Fetches `lamplighter.efi`; `arguments` may say HOST, PORT and OUT.
fn fetch(program: &str, arguments: &[&str]) {
    let loopback = Loopback::start();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("fetched");
    let address = loopback.tftp();
    let arguments: Vec<String> = arguments
        .iter()
        .map(|argument| {
            argument
                .replace("HOST", &address.ip().to_string())
                .replace("PORT", &address.port().to_string())
                .replace("OUT", out.to_str().unwrap())
        })
        .collect();
    run(
        program,
        &arguments.iter().map(String::as_str).collect::<Vec<_>>(),
    );
    assert_is_the_large_file(&out);
    let finished = loopback.shelf.wait_for("finished", |event| {
        matches!(event, BootEvent::TransferFinished { .. })
    });
    let BootEvent::TransferFinished {
        file,
        kind,
        size_bytes,
        ..
    } = finished
    else {
        panic!("{finished:?}")
    };
    assert_eq!(
        (file.as_str(), kind, size_bytes),
        (
            "lamplighter.efi",
            TransferKind::Tftp,
            large_file().len() as u64
        )
    );
    let counts = loopback.server.counts();
    assert_eq!((counts.transfers_finished, counts.transfers_failed), (1, 0));
    loopback.runtime.block_on(loopback.server.shutdown());
}

#[test]
fn curl_with_large_blocks() {
    fetch(
        "curl",
        &[
            "-sS",
            "--tftp-blksize",
            "1468",
            "-o",
            "OUT",
            "tftp://HOST:PORT/lamplighter.efi",
        ],
    );
}

#[test]
fn curl_with_small_blocks_past_the_wrap() {
    fetch(
        "curl",
        &["-sS", "-o", "OUT", "tftp://HOST:PORT/lamplighter.efi"],
    );
}

#[test]
fn curl_without_options() {
    fetch(
        "curl",
        &[
            "-sS",
            "--tftp-no-options",
            "-o",
            "OUT",
            "tftp://HOST:PORT/lamplighter.efi",
        ],
    );
}

#[test]
fn atftp_with_a_window() {
    let options = ["--option", "windowsize 8", "--option", "blksize 1468"];
    let get = ["-g", "-r", "lamplighter.efi", "-l", "OUT", "HOST", "PORT"];
    fetch("atftp", &[&options[..], &get[..]].concat());
}

#[test]
fn atftp_in_lockstep() {
    fetch(
        "atftp",
        &[
            "--option",
            "blksize 1428",
            "-g",
            "-r",
            "lamplighter.efi",
            "-l",
            "OUT",
            "HOST",
            "PORT",
        ],
    );
}

#[test]
fn tftp_hpa() {
    fetch(
        "tftp",
        &[
            "-m",
            "binary",
            "HOST",
            "PORT",
            "-c",
            "get",
            "lamplighter.efi",
            "OUT",
        ],
    );
}

#[test]
fn busybox() {
    fetch(
        "busybox",
        &[
            "tftp",
            "-g",
            "-b",
            "1468",
            "-r",
            "lamplighter.efi",
            "-l",
            "OUT",
            "HOST",
            "PORT",
        ],
    );
}
