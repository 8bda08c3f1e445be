//! The fixtures: classic pcap files of Ethernet, IPv4, UDP.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;

use boot_proto::dhcp::{DhcpMessage, DhcpRequest, ServerPort};

pub(crate) struct Datagram {
    /// Position among the frames of its file, from 1.
    pub(crate) frame: usize,
    pub(crate) from: SocketAddrV4,
    pub(crate) to: SocketAddrV4,
    pub(crate) payload: Vec<u8>,
}

impl Datagram {
    pub(crate) fn is_dhcp(&self) -> bool {
        [67, 68, 4011].contains(&self.to.port())
    }

    /// The request as a server would see it, if it was sent to one.
    pub(crate) fn request(&self) -> Option<DhcpRequest> {
        let port = match self.to.port() {
            67 => ServerPort::Dhcp,
            4011 if self.from.port() != 67 => ServerPort::Pxe,
            _ => return None,
        };
        let message = DhcpMessage::parse(&self.payload).ok()?;
        (!message.is_reply).then_some(DhcpRequest {
            message,
            port,
            from: self.from,
        })
    }
}

/// All captures by name, in order.
pub(crate) fn all() -> Vec<(String, Vec<Datagram>)> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures"));
    let mut captures: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "pcap")
        })
        .map(|path| {
            (
                path.file_stem().unwrap().to_str().unwrap().to_owned(),
                read(&path),
            )
        })
        .collect();
    captures.sort_by(|(left, _), (right, _)| left.cmp(right));
    assert!(
        captures.len() >= 18,
        "only {} captures in {}",
        captures.len(),
        folder.display()
    );
    captures
}

pub(crate) fn one(name: &str) -> Vec<Datagram> {
    all()
        .into_iter()
        .find(|(known, _)| known == name)
        .unwrap()
        .1
}

fn read(path: &Path) -> Vec<Datagram> {
    let bytes = std::fs::read(path).unwrap();
    assert_eq!(
        bytes[..4],
        [0xd4, 0xc3, 0xb2, 0xa1],
        "classic little-endian pcap"
    );
    assert_eq!(bytes[20], 1, "Ethernet");
    let mut rest = &bytes[24..];
    let mut datagrams = Vec::new();
    for frame in 1.. {
        if rest.is_empty() {
            break;
        }
        let len = u32::from_le_bytes(rest[8..12].try_into().unwrap()) as usize;
        datagrams.extend(udp(frame, &rest[16..16 + len]));
        rest = &rest[16 + len..];
    }
    datagrams
}

fn udp(frame: usize, ethernet: &[u8]) -> Option<Datagram> {
    let ip = ethernet.get(14..).filter(|_| ethernet[12..14] == [8, 0])?;
    let header = usize::from(ip[0] & 15) * 4;
    let udp = ip.get(header..).filter(|_| ip[9] == 17)?;
    let address = |at: usize| Ipv4Addr::from(<[u8; 4]>::try_from(&ip[at..at + 4]).unwrap());
    let number = |at: usize| u16::from_be_bytes([udp[at], udp[at + 1]]);
    Some(Datagram {
        frame,
        from: SocketAddrV4::new(address(12), number(0)),
        to: SocketAddrV4::new(address(16), number(2)),
        payload: udp[8..usize::from(number(4))].to_vec(),
    })
}
