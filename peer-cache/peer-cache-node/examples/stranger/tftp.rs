//! Requests on port 69 from ports that never acknowledge, for files that are not there, and what is no request.

use std::{net::UdpSocket, time::Duration};

use super::packets::{noise, noise_bytes, send, sockets};
use crate::{Attack, Failure};

/// The largest file of the bundle, and its UKI.
const LARGEST: &str = "lamplighter.efi";
/// Ports of each address, which stay open: a closed one would say that nobody is there.
const PORTS: usize = 24;

pub(crate) async fn attack(how: &str, attack: Attack) -> Result<(), Failure> {
    let mut ports: Vec<UdpSocket> = Vec::new();
    for _ in 0..PORTS {
        ports.extend(sockets(&attack.addresses, 0)?);
    }
    let target = attack.target;
    match how {
        "silent" => {
            send(attack, ports, move |_| {
                (read(LARGEST, "octet", &[]), target)
            })
            .await
        }
        "patient" => {
            let options = &[
                ("blksize", "1468"),
                ("windowsize", "16"),
                ("timeout", "255"),
            ];
            send(attack, ports, move |_| {
                (read(LARGEST, "octet", options), target)
            })
            .await
        }
        "greedy" => greedy(attack, ports).await,
        "missing" => {
            send(attack, ports, move |n| {
                (
                    read(&format!("grub/{:x}.cfg", noise(n)), "octet", &[]),
                    target,
                )
            })
            .await
        }
        "malformed" => send(attack, ports, move |n| (malformed(n), target)).await,
        "once" => once(attack, ports).await,
        other => Err(format!("no mode tftp-{other}").into()),
    }
}

/// Takes what it is offered, the largest window of it, and says nothing more.
async fn greedy(attack: Attack, ports: Vec<UdpSocket>) -> Result<(), Failure> {
    let options = [("blksize", "1468"), ("windowsize", "16")];
    let target = attack.target;
    let listening: Vec<UdpSocket> = ports
        .iter()
        .map(UdpSocket::try_clone)
        .collect::<Result<_, _>>()?;
    tokio::task::spawn_blocking(move || {
        let mut answer = [0; 2048];
        loop {
            for socket in &listening {
                if let Ok((_, from)) = socket.recv_from(&mut answer)
                    && answer[..2] == [0, 6]
                {
                    let _ = socket.send_to(&[0, 4, 0, 0], from);
                }
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    let attack = Attack {
        rate: attack.rate.or(Some(2000)),
        ..attack
    };
    send(attack, ports, move |_| {
        (read(LARGEST, "octet", &options), target)
    })
    .await
}

/// One request of each address, and then silence: what is sent to somebody who never answers.
async fn once(attack: Attack, ports: Vec<UdpSocket>) -> Result<(), Failure> {
    for socket in &ports[..attack.addresses.len()] {
        socket.send_to(&read(LARGEST, "octet", &[]), attack.target)?;
        attack.got_through();
    }
    std::future::pending().await
}

fn read(file: &str, mode: &str, options: &[(&str, &str)]) -> Vec<u8> {
    let mut packet = vec![0, 1];
    let options = options.iter().flat_map(|(name, value)| [*name, *value]);
    for text in [file, mode].into_iter().chain(options) {
        packet.extend(text.as_bytes());
        packet.push(0);
    }
    packet
}

/// In turns: a write, a mode that is not served, a name that climbs, options without an end, a request that is cut off, an
/// acknowledgement and data of no transfer, noise.
fn malformed(n: u64) -> Vec<u8> {
    match n % 8 {
        0 => {
            let mut write = read(LARGEST, "octet", &[]);
            write[1] = 2;
            write
        }
        1 => read(LARGEST, "netascii", &[]),
        2 => read("../../../etc/shadow", "octet", &[]),
        3 => read(LARGEST, "octet", &[("blksize", "0"); 100]),
        4 => vec![0, 1, b'l', b'a'],
        5 => vec![0, 4, 0, n as u8],
        6 => [vec![0, 3, 0, 1], noise_bytes(n, 512)].concat(),
        _ => noise_bytes(n, 512),
    }
}
