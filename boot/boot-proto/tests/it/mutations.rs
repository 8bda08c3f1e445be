//! Broken copies of every captured packet: nothing panics, and no broken packet ever makes a proxy give an address.

use std::net::Ipv4Addr;
use std::time::Duration;

use boot_proto::dhcp::{
    BootAnswer, BootPolicy, Decision, DhcpMessage, DhcpRequest, ServerPort, boot_fields, decide,
    foreign_boot_server, identify,
};
use boot_proto::lease::{LeasePool, PoolConfig};
use boot_proto::quirks;
use boot_proto::tftp::{Packet, RETRIES_MAX, Transfer, TransferConfig};

use crate::captures;

const RANDOM_CASES: usize = 100_000;

/// Splitmix64: the same cases on every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) >> 8).unwrap() % bound.max(1)
    }

    fn mutate(&mut self, packet: &[u8]) -> Vec<u8> {
        let mut bytes = packet.to_vec();
        for _ in 0..=self.below(8) {
            let at = self.below(bytes.len());
            match self.below(6) {
                0 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
                1 if !bytes.is_empty() => bytes[at] = [0, 1, 255, 52, 43, 82][self.below(6)],
                2 if !bytes.is_empty() => drop(bytes.remove(at)),
                3 => bytes.insert(at, u8::try_from(self.below(256)).unwrap()),
                4 => bytes.truncate(at),
                _ => {
                    let end = (at + self.below(64)).min(bytes.len());
                    let piece = bytes[at..end].to_vec();
                    bytes.extend(piece);
                }
            }
        }
        bytes
    }
}

struct Servers {
    pool: LeasePool,
    now: Duration,
}

impl Servers {
    fn new() -> Self {
        let address = |last| Ipv4Addr::new(10, 77, 0, last);
        let config = PoolConfig {
            server: address(1),
            first: address(100),
            last: address(200),
            subnet_mask: Ipv4Addr::new(255, 255, 255, 0),
            router: None,
            dns: Vec::new(),
            lease_time: Duration::from_secs(600),
        };
        Self {
            pool: LeasePool::new(config).unwrap(),
            now: Duration::ZERO,
        }
    }

    /// All that a server does with a packet.
    fn receive(&mut self, bytes: &[u8]) {
        let Ok(message) = DhcpMessage::parse(bytes) else {
            return;
        };
        let policy = BootPolicy {
            server: Ipv4Addr::new(10, 77, 0, 1),
            http_port: 8080,
            answer: BootAnswer::Agent,
        };
        for port in [ServerPort::Dhcp, ServerPort::Pxe] {
            let request = DhcpRequest {
                message: message.clone(),
                port,
                from: "10.77.0.9:68".parse().unwrap(),
            };
            if let Decision::Reply { reply, .. } = decide(&request, &policy) {
                invariant_a_proxy_never_gives_an_address(&message, &reply.encode().unwrap());
            }
        }
        let _ = foreign_boot_server(&message, &[]);
        let boot = identify(&message)
            .ok()
            .and_then(|client| boot_fields(&client, &policy).ok());
        self.now += Duration::from_secs(1);
        self.pool.handle_message(self.now, &message, boot);
        while let Some(action) = self.pool.poll_action() {
            if let boot_proto::lease::LeaseAction::Send { reply, .. } = action {
                let sent = DhcpMessage::parse(&reply.encode().unwrap()).unwrap();
                assert_eq!(sent.xid, message.xid);
            }
        }
        assert!(self.pool.held() <= 101);
    }
}

fn invariant_a_proxy_never_gives_an_address(request: &DhcpMessage, reply: &[u8]) {
    let sent = DhcpMessage::parse(reply).unwrap();
    assert!(sent.yiaddr.is_unspecified());
    // Lease time, mask, router, T1, T2.
    assert!(
        [51, 1, 3, 58, 59]
            .iter()
            .all(|code| sent.option(*code).is_none())
    );
    let class = request.vendor_class();
    assert!(class.starts_with(quirks::PXE_CLASS) || class.starts_with(quirks::HTTP_BOOT_CLASS));
    assert!(!request.is_reply);
}

fn receive_tftp(bytes: &[u8]) {
    let mut fresh = None;
    if let Ok(packet) = Packet::parse(bytes) {
        assert_eq!(Packet::parse(&packet.encode()), Ok(packet.clone()));
        if let Packet::Read(request) = packet {
            let config = TransferConfig {
                file_len: 100_000,
                path_mtu: 1500,
                jitter_seed: 1,
            };
            fresh = Some(Transfer::start(Duration::ZERO, request, &config));
        }
    }
    let running = "\0\u{1}f\0octet\0windowsize\08\0";
    let Ok(Packet::Read(request)) = Packet::parse(running.as_bytes()) else {
        panic!("bad request")
    };
    let config = TransferConfig {
        file_len: 9_000,
        path_mtu: 576,
        jitter_seed: 1,
    };
    let mut transfer = fresh.unwrap_or_else(|| Transfer::start(Duration::ZERO, request, &config));
    transfer.handle_packet(Duration::ZERO, &[0, 4, 0, 0]);
    transfer.handle_packet(Duration::ZERO, bytes);
    while let Some(action) = transfer.poll_action() {
        if let boot_proto::tftp::Action::SendData { offset, len, .. } = action {
            assert!(offset + len as u64 <= 100_000 && len <= 1468);
        }
    }
    assert!(transfer.blocks_in_flight() <= 16 && transfer.retries() <= RETRIES_MAX);
}

fn packets(dhcp: bool) -> Vec<Vec<u8>> {
    captures::all()
        .into_iter()
        .flat_map(|(_, datagrams)| datagrams)
        .filter(|datagram| datagram.is_dhcp() == dhcp)
        .map(|datagram| datagram.payload)
        .collect()
}

/// Each packet cut at each length, and each byte of it changed.
fn broken_in_every_place(packet: &[u8], mut receive: impl FnMut(&[u8])) {
    for len in 0..=packet.len() {
        receive(&packet[..len]);
    }
    for at in 0..packet.len() {
        for mask in [0xff, 0x01, 0x80] {
            let mut bytes = packet.to_vec();
            bytes[at] ^= mask;
            receive(&bytes);
        }
    }
}

#[test]
fn no_broken_dhcp_packet_panics() {
    let packets = packets(true);
    let mut servers = Servers::new();
    for packet in &packets {
        broken_in_every_place(packet, |bytes| servers.receive(bytes));
    }
    let mut random = Random(1);
    for _ in 0..RANDOM_CASES {
        let packet = &packets[random.below(packets.len())];
        servers.receive(&random.mutate(packet));
    }
}

#[test]
fn no_broken_tftp_packet_panics() {
    let packets = packets(false);
    assert!(packets.len() > 50);
    for packet in &packets {
        broken_in_every_place(packet, receive_tftp);
    }
    let mut random = Random(2);
    for _ in 0..RANDOM_CASES {
        let packet = &packets[random.below(packets.len())];
        receive_tftp(&random.mutate(packet));
    }
}
