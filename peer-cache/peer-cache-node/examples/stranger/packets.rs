//! Sending packets at a rate, or as fast as a core does.

use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use crate::{Attack, Failure};

/// So many packets go out in one go: a clock that ticks for each of them would be the attacker's limit.
const BURST: u32 = 20;

/// Sends what `next` gives, from one socket after the other, on a thread of its own.
pub(crate) async fn send(
    attack: Attack,
    sockets: Vec<UdpSocket>,
    mut next: impl FnMut(u64) -> (Vec<u8>, SocketAddrV4) + Send + 'static,
) -> Result<(), Failure> {
    let sending = move || {
        let begun = Instant::now();
        for (n, socket) in (0u64..).zip(sockets.iter().cycle()) {
            if let Some(rate) = attack.rate
                && n.is_multiple_of(u64::from(BURST))
            {
                let due = Duration::from_secs(n) / rate;
                thread::sleep(due.saturating_sub(begun.elapsed()));
            }
            let (bytes, to) = next(n);
            // nobody may be there to take it, and full queues drop it
            if socket.send_to(&bytes, to).is_ok() {
                attack.got_through();
            }
        }
    };
    tokio::task::spawn_blocking(sending).await?;
    Ok(())
}

/// A socket of each address; port 0 lets the system choose.
pub(crate) fn sockets(addresses: &[Ipv4Addr], port: u16) -> io::Result<Vec<UdpSocket>> {
    addresses
        .iter()
        .map(|address| {
            let socket = UdpSocket::bind((*address, port))?;
            socket.set_broadcast(true)?;
            // a full queue drops the packet, and a slow attacker is none
            socket.set_nonblocking(true)?;
            Ok(socket)
        })
        .collect()
}

/// Everybody on the target's network, which has 24 bits as all of the bench's have.
pub(crate) fn broadcast(target: SocketAddrV4) -> SocketAddrV4 {
    let [a, b, c, _] = target.ip().octets();
    SocketAddrV4::new(Ipv4Addr::new(a, b, c, 255), target.port())
}

/// A number that nobody expects, the same in each run.
pub(crate) fn noise(n: u64) -> u64 {
    let mixed = n
        .wrapping_add(0x9e37_79b9_7f4a_7c15)
        .wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed ^ (mixed >> 31)).wrapping_mul(0x94d0_49bb_1331_11eb) ^ (mixed >> 17)
}

pub(crate) fn noise_bytes(seed: u64, count: usize) -> Vec<u8> {
    (0..count as u64)
        .map(|n| noise(seed.wrapping_mul(65_537) + n) as u8)
        .collect()
}
