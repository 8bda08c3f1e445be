//! HTTP as firmware, iPXE and curl use it, and as an attacker would.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use boot_server::{BootEvent, TransferKind};

use crate::shelf::{Loopback, assert_is_the_large_file, large_file, run};

fn connect(loopback: &Loopback) -> TcpStream {
    let address = loopback.url("").replace("http://", "");
    let stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    stream
}

/// From an address of this computer.
fn connect_from(from: Ipv4Addr, loopback: &Loopback) -> TcpStream {
    let to: SocketAddr = loopback.url("").replace("http://", "").parse().unwrap();
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
    socket.connect(&to.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    stream
}

fn raw_answer_to(loopback: &Loopback, request: &str) -> Vec<u8> {
    let mut stream = connect(loopback);
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}

fn answer_to(loopback: &Loopback, request: &str) -> String {
    String::from_utf8_lossy(&raw_answer_to(loopback, request)).to_lowercase()
}

/// Reads up to the empty line that ends the headers.
fn read_headers(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap().to_lowercase()
}

#[test]
fn uefi_asks_head_and_then_get_on_one_connection() {
    let loopback = Loopback::start();
    let mut stream = connect(&loopback);
    // As in uefi-http-uki.pcap.
    let request = |method: &str| {
        format!(
            "{method} /boot/lamplighter.efi HTTP/1.1\r\nHost: 10.77.0.1\r\nAccept: */*\r\nUser-Agent: UefiHttpBoot/1.0\r\n\r\n"
        )
    };
    stream.write_all(request("HEAD").as_bytes()).unwrap();
    let head = read_headers(&mut stream);
    assert!(head.starts_with("http/1.1 200"), "{head}");
    assert!(
        head.contains(&format!("content-length: {}\r\n", large_file().len())),
        "{head}"
    );
    stream.write_all(request("GET").as_bytes()).unwrap();
    assert_eq!(
        read_headers(&mut stream).lines().next(),
        head.lines().next()
    );
    let mut body = vec![0; large_file().len()];
    stream.read_exact(&mut body).unwrap();
    assert!(body == *large_file(), "GET body differs");
}

#[test]
fn curl_fetches_the_whole_and_resumes_a_part() {
    let loopback = Loopback::start();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("fetched");
    let url = loopback.url("/boot/lamplighter.efi");
    run("curl", &["-sSf", "-o", out.to_str().unwrap(), &url]);
    assert_is_the_large_file(&out);
    std::fs::write(&out, &large_file()[..12_345_678]).unwrap();
    run(
        "curl",
        &["-sSf", "-C", "-", "-o", out.to_str().unwrap(), &url],
    );
    assert_is_the_large_file(&out);
    let finished: Vec<_> = [large_file().len() as u64, (large_file().len() - 12_345_678) as u64]
        .into_iter()
        .map(|bytes| {
            loopback.shelf.wait_for("finished", |event| {
                matches!(event, BootEvent::TransferFinished { kind: TransferKind::Http, size_bytes, .. } if *size_bytes == bytes)
            })
        })
        .collect();
    assert_eq!(finished.len(), 2);
    loopback.runtime.block_on(loopback.server.shutdown());
}

#[test]
fn statuses_are_what_the_rfc_says() {
    let loopback = Loopback::start();
    let check = |request: &str, expect: &[&str]| {
        let answer = answer_to(
            &loopback,
            &format!("{request}\r\nConnection: close\r\n\r\n"),
        );
        for part in expect {
            assert!(
                answer.contains(part),
                "{request:?} without {part:?}: {answer}"
            );
        }
    };
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x");
    check(
        &get("/boot/local.efi"),
        &["200 ok", "content-length: 24", "mz this returns an error"],
    );
    check(
        &format!("{}\r\nRange: bytes=3-6", get("/boot/local.efi")),
        &[
            "206 partial content",
            "content-range: bytes 3-6/24",
            "content-length: 4",
            "\r\n\r\nthis",
        ],
    );
    check(
        &format!("{}\r\nRange: bytes=24-", get("/boot/local.efi")),
        &["416", "content-range: bytes */24"],
    );
    check(
        "HEAD /boot/local.efi HTTP/1.1\r\nHost: x\r\nRange: bytes=0-9",
        &["206", "content-length: 10"],
    );
    check("HEAD /boot/none.efi HTTP/1.1\r\nHost: x", &["404"]);
    for path in [
        "/",
        "/boot/",
        "/local.efi",
        "/boot/../local.efi",
        "/boot/none.efi",
        "/boot/%2e%2e/x",
        "/boot//local.efi",
    ] {
        let expect: &[&str] = if path == "/boot//local.efi" {
            &["200 ok"]
        } else {
            &["404 not found"]
        };
        check(&get(path), expect);
    }
    check(
        "POST /boot/local.efi HTTP/1.1\r\nHost: x\r\nContent-Length: 0",
        &["405", "allow: get, head"],
    );
    check(
        &format!("{}\r\nX: {}", get("/boot/local.efi"), "y".repeat(20_000)),
        &["431"],
    );
    check(
        &format!("{}{}", get("/boot/local.efi"), "\r\nX: y".repeat(40)),
        &["431"],
    );
}

#[test]
fn a_file_that_breaks_off_closes_the_connection_short() {
    let loopback = Loopback::start();
    let answer = raw_answer_to(
        &loopback,
        "GET /boot/broken.efi HTTP/1.1\r\nHost: x\r\n\r\n",
    );
    assert!(answer.len() < 3_100_000, "{} bytes", answer.len());
    let event = loopback.shelf.wait_for("failed", |event| {
        matches!(event, BootEvent::TransferFailed { .. })
    });
    let BootEvent::TransferFailed { reason, .. } = event else {
        panic!("{event:?}")
    };
    assert_eq!(reason, "the file could not be read: chunk 7 is not here");
}

#[test]
fn a_client_that_goes_away_is_named() {
    let loopback = Loopback::start();
    let mut stream = connect(&loopback);
    stream
        .write_all(b"GET /boot/lamplighter.efi HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    stream.read_exact(&mut [0; 1000]).unwrap();
    drop(stream);
    let event = loopback.shelf.wait_for("failed", |event| {
        matches!(event, BootEvent::TransferFailed { .. })
    });
    let BootEvent::TransferFailed { reason, .. } = event else {
        panic!("{event:?}")
    };
    assert_eq!(reason, "the client closed the connection");
}

#[test]
fn connections_of_one_client_are_bounded_and_headers_have_a_deadline() {
    let loopback = Loopback::start();
    let start = Instant::now();
    let mut idle: Vec<TcpStream> = (0..8).map(|_| connect(&loopback)).collect();
    for stream in &mut idle {
        stream.write_all(b"GET /boot/lo").unwrap();
    }
    let mut ninth = connect(&loopback);
    let _ = ninth.write_all(b"GET /boot/local.efi HTTP/1.1\r\nHost: x\r\n\r\n");
    let mut answer = Vec::new();
    let _ = ninth.read_to_end(&mut answer);
    assert!(answer.is_empty(), "{answer:?}");
    for stream in &mut idle {
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
    }
    assert!(
        (8..20).contains(&start.elapsed().as_secs()),
        "closed after {:?}",
        start.elapsed()
    );
    let answer = answer_to(
        &loopback,
        "GET /boot/local.efi HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    );
    assert!(
        answer.contains("200 ok"),
        "and then there is room again: {answer}"
    );
}

/// Whoever has enough addresses takes all places; a machine that comes with one connection gets one of them.
#[test]
fn a_connection_that_stands_still_makes_room() {
    let loopback = Loopback::start();
    let mut taken: Vec<TcpStream> = (0..128)
        .map(|n| {
            let mut stream = connect_from(Ipv4Addr::new(127, 66, 2, 1 + n / 8), &loopback);
            stream.write_all(b"GET /boot/lo").unwrap();
            stream
        })
        .collect();
    std::thread::sleep(Duration::from_millis(1200));
    let ask = |from| {
        let mut stream = connect_from(from, &loopback);
        let _ = stream
            .write_all(b"GET /boot/local.efi HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    };
    assert_eq!(ask(Ipv4Addr::new(127, 66, 2, 3)), "", "it has eight");
    assert!(ask(Ipv4Addr::new(127, 66, 3, 1)).starts_with("HTTP/1.1 200"));
    // the one that stood still longest is gone
    assert!(matches!(taken[0].read(&mut [0]), Ok(0) | Err(_)));
    taken[127].set_nonblocking(true).unwrap();
    let last = taken[127].read(&mut [0]);
    assert_eq!(last.unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}
