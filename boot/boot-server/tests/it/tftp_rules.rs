//! What no well-behaved client shows: packets sent by hand, as firmware was captured sending them.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use boot_proto::tftp::{ErrorCode, Packet, Request};
use boot_server::BootEvent;

use crate::shelf::Loopback;

struct Firmware {
    socket: UdpSocket,
    server: SocketAddr,
}

impl Firmware {
    fn new(server: SocketAddr) -> Self {
        Self::at(Ipv4Addr::LOCALHOST, server)
    }

    fn at(address: Ipv4Addr, server: SocketAddr) -> Self {
        let socket = UdpSocket::bind((address, 0)).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        Self { socket, server }
    }

    fn ask(&self, file: &str, options: &[(&str, &str)]) {
        let options = options
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()))
            .collect();
        let request = Request {
            file: file.into(),
            mode: "octet".into(),
            options,
        };
        self.socket
            .send_to(&Packet::Read(request).encode(), self.server)
            .unwrap();
    }

    fn receive(&self) -> (Vec<u8>, SocketAddr) {
        let mut buffer = [0; 2048];
        let (len, from) = self.socket.recv_from(&mut buffer).unwrap();
        (buffer[..len].to_vec(), from)
    }

    fn send(&self, packet: &Packet<'_>, to: SocketAddr) {
        self.socket.send_to(&packet.encode(), to).unwrap();
    }

    fn is_silent(&self, wait: Duration) -> bool {
        self.socket.set_read_timeout(Some(wait)).unwrap();
        self.socket.recv(&mut [0; 2048]).is_err()
    }
}

fn error_of(bytes: &[u8]) -> (ErrorCode, String) {
    match Packet::parse(bytes).unwrap() {
        Packet::Error { code, message } => (code, message),
        other => panic!("{other:?}"),
    }
}

#[test]
fn edk2_probes_the_size_and_asks_again_at_once() {
    let loopback = Loopback::start();
    let firmware = Firmware::new(loopback.tftp());
    firmware.ask(
        "lamplighter.efi",
        &[("tsize", "0"), ("blksize", "1468"), ("windowsize", "4")],
    );
    let (oack, transfer) = firmware.receive();
    let Packet::OptionAck(granted) = Packet::parse(&oack).unwrap() else {
        panic!("{oack:?}")
    };
    assert_eq!(
        granted[0],
        ("tsize".into(), (40 * 1024 * 1024 + 77).to_string())
    );
    assert_ne!(
        transfer.port(),
        loopback.tftp().port(),
        "a port for each transfer"
    );
    let abort = Packet::Error {
        code: ErrorCode::OPTION_REFUSED,
        message: "User aborted the transfer".into(),
    };
    firmware.send(&abort, transfer);
    // From the same port, which is the harder case: OVMF takes the next one.
    let start = Instant::now();
    firmware.ask(
        "lamplighter.efi",
        &[("blksize", "1468"), ("windowsize", "4")],
    );
    let (oack, transfer) = firmware.receive();
    assert!(matches!(
        Packet::parse(&oack).unwrap(),
        Packet::OptionAck(_)
    ));
    assert!(
        start.elapsed() < Duration::from_millis(500),
        "took {:?}",
        start.elapsed()
    );
    firmware.send(&Packet::Ack(0), transfer);
    for expect in 1..=4 {
        let (bytes, _) = firmware.receive();
        let Packet::Data { block, payload } = Packet::parse(&bytes).unwrap() else {
            panic!("{bytes:?}")
        };
        assert_eq!((block, payload.len()), (expect, 1468));
    }
    assert!(
        firmware.is_silent(Duration::from_millis(300)),
        "never more than a window in flight"
    );
    assert_eq!(
        loopback.server.counts().transfers_failed,
        0,
        "a size probe is no failure"
    );
}

#[test]
fn a_lost_first_block_costs_no_timeout() {
    let loopback = Loopback::start();
    let firmware = Firmware::new(loopback.tftp());
    firmware.ask("lamplighter.efi", &[("windowsize", "4")]);
    let (_, transfer) = firmware.receive();
    firmware.send(&Packet::Ack(0), transfer);
    let first: Vec<_> = (0..4).map(|_| firmware.receive().0).collect();
    let start = Instant::now();
    firmware.send(&Packet::Ack(0), transfer);
    let again: Vec<_> = (0..4).map(|_| firmware.receive().0).collect();
    assert_eq!(first, again);
    assert!(
        start.elapsed() < Duration::from_millis(500),
        "took {:?}",
        start.elapsed()
    );
}

#[test]
fn pxelinux_asks_for_many_missing_files_from_one_port() {
    let loopback = Loopback::start();
    let firmware = Firmware::new(loopback.tftp());
    let start = Instant::now();
    for name in [
        "01-52-54-00-77-00-0a",
        "0A4D008B",
        "0A4D008",
        "0A4D00",
        "0A4D0",
        "0A4D",
        "0A4",
        "0A",
        "0",
        "default",
    ] {
        firmware.ask(
            &format!("pxelinux.cfg/{name}"),
            &[("tsize", "0"), ("blksize", "1408")],
        );
        assert_eq!(
            error_of(&firmware.receive().0),
            (ErrorCode::NOT_FOUND, "no such file".into())
        );
    }
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "took {:?}",
        start.elapsed()
    );
    firmware.ask("/local.efi", &[]);
    let (bytes, _) = firmware.receive();
    let expect = Packet::Data {
        block: 1,
        payload: b"MZ this returns an error",
    };
    assert_eq!(
        Packet::parse(&bytes),
        Ok(expect),
        "a leading slash is no other file"
    );
}

#[test]
fn a_repeated_request_gets_the_same_answer_from_the_same_port() {
    let loopback = Loopback::start();
    let firmware = Firmware::new(loopback.tftp());
    firmware.ask("lamplighter.efi", &[("blksize", "1468")]);
    let first = firmware.receive();
    firmware.ask("lamplighter.efi", &[("blksize", "1468")]);
    assert_eq!(firmware.receive(), first);
    firmware.ask("local.efi", &[]);
    let (bytes, from) = firmware.receive();
    assert!(
        matches!(Packet::parse(&bytes), Ok(Packet::Data { block: 1, .. })),
        "another file starts over"
    );
    assert_ne!(from, first.1);
}

#[test]
fn the_answer_comes_from_the_address_that_was_asked() {
    let loopback = Loopback::start();
    let asked: SocketAddr = SocketAddr::new("127.0.0.2".parse().unwrap(), loopback.tftp().port());
    let firmware = Firmware::new(asked);
    firmware.ask("local.efi", &[]);
    assert_eq!(firmware.receive().1.ip(), asked.ip());
}

#[test]
fn writing_climbing_and_text_mode_are_refused() {
    let loopback = Loopback::start();
    let request = |file: &str, mode: &str| Request {
        file: file.into(),
        mode: mode.into(),
        options: Vec::new(),
    };
    let check = |packet: Packet<'_>, expect: ErrorCode| {
        let firmware = Firmware::new(loopback.tftp());
        firmware.send(&packet, firmware.server);
        assert_eq!(error_of(&firmware.receive().0).0, expect, "{packet:?}");
    };
    check(
        Packet::Write(request("local.efi", "octet")),
        ErrorCode::ACCESS,
    );
    check(
        Packet::Read(request("local.efi", "netascii")),
        ErrorCode::ILLEGAL,
    );
    for name in [
        "../local.efi",
        "a/../local.efi",
        ".hidden",
        "",
        "a//b",
        "local efi",
        &"a".repeat(200),
    ] {
        check(Packet::Read(request(name, "octet")), ErrorCode::NOT_FOUND);
    }
    check(
        Packet::Read(request("\\local.efi\\x", "octet")),
        ErrorCode::NOT_FOUND,
    );
}

#[test]
fn a_file_that_breaks_off_is_an_error_with_its_reason() {
    let loopback = Loopback::start();
    let firmware = Firmware::new(loopback.tftp());
    firmware.ask("broken.efi", &[("blksize", "1468"), ("windowsize", "16")]);
    let (_, transfer) = firmware.receive();
    firmware.send(&Packet::Ack(0), transfer);
    let mut since_ack = 0;
    let told = loop {
        let (bytes, _) = firmware.receive();
        match Packet::parse(&bytes).unwrap() {
            Packet::Data { block, .. } => {
                since_ack += 1;
                if since_ack == 16 {
                    since_ack = 0;
                    firmware.send(&Packet::Ack(block), transfer);
                }
            }
            Packet::Error { message, .. } => break message,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(told, "chunk 7 is not here");
    let event = loopback.shelf.wait_for("failed", |event| {
        matches!(event, BootEvent::TransferFailed { .. })
    });
    let BootEvent::TransferFailed {
        reason, size_bytes, ..
    } = event
    else {
        panic!("{event:?}")
    };
    assert_eq!(reason, "the file could not be read: chunk 7 is not here");
    assert!(size_bytes > 2_000_000, "{size_bytes}");
}

#[test]
fn transfers_of_one_client_are_bounded() {
    let loopback = Loopback::start();
    let clients: Vec<Firmware> = (0..5).map(|_| Firmware::new(loopback.tftp())).collect();
    for firmware in &clients[..4] {
        firmware.ask("lamplighter.efi", &[("tsize", "0")]);
        firmware.receive();
    }
    clients[4].ask("lamplighter.efi", &[("tsize", "0")]);
    assert!(
        clients[4].is_silent(Duration::from_millis(300)),
        "silence, so that it asks again later"
    );
    assert_eq!(loopback.server.counts().transfers_refused, 1);
}

/// Whoever has enough addresses takes all places; they are not its own for as long as it likes.
#[test]
fn a_transfer_that_acknowledges_nothing_makes_room() {
    let loopback = Loopback::start();
    let long = &[("timeout", "255")];
    let begun = Instant::now();
    let mut taken: Vec<Firmware> = Vec::new();
    let take = |n: u8| {
        let firmware = Firmware::at(Ipv4Addr::new(127, 66, 0, 1 + n / 4), loopback.tftp());
        firmware.ask("lamplighter.efi", long);
        firmware.receive();
        firmware
    };
    taken.extend((0..32).map(take));
    // one of them takes what it asked for
    let (_, from) = {
        taken[0].ask("lamplighter.efi", long);
        taken[0].receive()
    };
    taken[0].send(&Packet::Ack(0), from);
    assert!(matches!(
        Packet::parse(&taken[0].receive().0),
        Ok(Packet::Data { block: 1, .. })
    ));
    taken[0].send(&Packet::Ack(1), from);
    taken[0].receive();
    // its place among those that wait is somebody else's now
    taken.push(take(32));
    let newcomer = Firmware::at(Ipv4Addr::new(127, 66, 1, 1), loopback.tftp());
    newcomer.ask("lamplighter.efi", &[]);
    // in peace, unless this computer is so busy that it is over
    let is_silent = newcomer.is_silent(Duration::from_millis(100));
    assert!(is_silent || begun.elapsed() > Duration::from_secs(1));
    std::thread::sleep(Duration::from_secs(1));
    // who has some already gets no more
    let more = Firmware::at(Ipv4Addr::new(127, 66, 0, 2), loopback.tftp());
    more.ask("lamplighter.efi", &[]);
    assert!(more.is_silent(Duration::from_millis(100)));
    newcomer.ask("lamplighter.efi", &[]);
    assert!(!newcomer.is_silent(Duration::from_secs(2)));
    // the one that acknowledged goes on
    taken[0].send(&Packet::Ack(2), from);
    assert!(!taken[0].is_silent(Duration::from_secs(2)));
}

#[test]
fn a_client_begins_few_transfers_in_a_second() {
    let loopback = Loopback::start();
    let firmware = Firmware::new(loopback.tftp());
    let begun = Instant::now();
    let mut answered = 0;
    while begun.elapsed() < Duration::from_millis(900) {
        firmware.ask("grub/none.cfg", &[]);
        if !firmware.is_silent(Duration::from_millis(5)) {
            answered += 1;
        }
    }
    assert!((20..=64).contains(&answered), "{answered}");
}
