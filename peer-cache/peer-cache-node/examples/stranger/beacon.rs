//! Beacons of nodes that are not there, by multicast and to the target itself in turns.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use peer_cache_node::Identity;
use peer_cache_proto::beacon::{BEACON_PORT, Beacon};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use trust_format::{SiteId, peek};

use super::packets::{noise_bytes, send, sockets};
use crate::{Attack, Failure};

const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 184);
/// Keys of nodes that nobody knows, used in turns: more than are remembered anywhere.
const KEYS: usize = 4096;
const OVERHEARD_WITHIN: Duration = Duration::from_secs(10);

pub(crate) async fn attack(how: &str, attack: Attack) -> Result<(), Failure> {
    let true_one = tokio::task::spawn_blocking({
        let address = attack.addresses[0];
        move || overhear(address)
    })
    .await??;
    let site = peek::<Beacon>(&true_one)?.site;
    let beacons = match how {
        "strangers" => invented(site)?,
        "forged" => invented(site)?
            .into_iter()
            .map(|mut bytes| {
                *bytes.last_mut().unwrap() ^= 1;
                bytes
            })
            .collect(),
        "malformed" => malformed(&true_one),
        "replayed" => vec![true_one],
        other => return Err(format!("no mode beacon-{other}").into()),
    };
    let sockets = sockets(&attack.addresses, 0)?;
    for (socket, address) in sockets.iter().zip(&attack.addresses) {
        SockRef::from(socket).set_multicast_if_v4(address)?;
    }
    let (target, group) = (
        attack.target,
        SocketAddrV4::new(GROUP, attack.target.port()),
    );
    send(attack, sockets, move |n| {
        let bytes = beacons[n as usize % beacons.len()].clone();
        (bytes, if n.is_multiple_of(2) { group } else { target })
    })
    .await
}

/// Anybody hears which site this is.
fn overhear(address: Ipv4Addr) -> Result<Vec<u8>, Failure> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, BEACON_PORT).into())?;
    socket.join_multicast_v4(&GROUP, &address)?;
    socket.set_read_timeout(Some(OVERHEARD_WITHIN))?;
    let socket = std::net::UdpSocket::from(socket);
    let mut buffer = [0; 2048];
    loop {
        let length = socket.recv(&mut buffer)?;
        if peek::<Beacon>(&buffer[..length]).is_ok() {
            return Ok(buffer[..length].to_vec());
        }
    }
}

/// Well-formed, signed by their own keys, for the site.
fn invented(site: SiteId) -> Result<Vec<Vec<u8>>, Failure> {
    (0..KEYS)
        .map(|n| {
            let identity = Identity::generate()?;
            Ok(identity.sign(&Beacon {
                node: identity.public(),
                site,
                boot: 1,
                uptime: Duration::from_secs(n as u64),
                port: 10_000 + n as u16,
                channel: 1,
                revocation: 0,
            }))
        })
        .collect()
}

/// Cut off, too long, each byte flipped, noise.
fn malformed(true_one: &[u8]) -> Vec<Vec<u8>> {
    let cut = (0..true_one.len()).map(|n| true_one[..n].to_vec());
    let flipped = (0..true_one.len()).map(|n| {
        let mut bytes = true_one.to_vec();
        bytes[n] ^= 0xff;
        bytes
    });
    let noise = (0..100).map(|n| noise_bytes(n, 1400));
    cut.chain(flipped).chain(noise).collect()
}
