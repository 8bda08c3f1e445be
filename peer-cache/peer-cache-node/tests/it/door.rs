//! What a stranger on the store's network can do at the door of a node: one test for each way to try.

use std::{
    net::{SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use peer_cache_node::{Identity, Role, Site};
use peer_cache_proto::{
    door::{OF_ADDRESS_MAX, PROVE_FROM},
    wire::{Answer, Ask, Credentials, Documents, FRAME_BYTES_MAX, Frame, Request},
};
use tokio::time::timeout;

use crate::{
    attacker::{Attacker, hello, outside, write},
    chain::*,
};

/// A hello is awaited for five seconds.
const SHOWN_OUT_WITHIN: Duration = Duration::from_secs(8);

fn address(node: &Member) -> SocketAddr {
    node.cache.local_addr().unwrap()
}

/// An agent that is admitted and gets its image, whatever else goes on.
async fn an_honest_machine_is_imaged(hq: &std::sync::Arc<Hq>, node: &Member) {
    let mut agent = agent(hq);
    agent.be_admitted(node, 7).await;
    agent.download(hq).await;
    agent.check(hq);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_strangers_requests_get_no_byte_and_hold_up_nobody() {
    let hq = Hq::new(3, None);
    let node = node(&hq, true);
    let attacker = Attacker::at(outside(1));
    let (connection, _send, _recv) = attacker.greet(address(&node)).await.unwrap();
    let attack = tokio::spawn(async move {
        let request = Request {
            manifest: trust_format::Digest([7; 32]),
            ask: Ask::Next,
        };
        for _ in 0..20 {
            let (mut send, mut recv) = connection.open_bi().await.unwrap();
            send.write_all(&request.to_bytes()).await.unwrap();
            send.finish().unwrap();
            let answer = recv.read_to_end(1000).await.unwrap();
            let answer = Answer::from_bytes(answer[..].try_into().unwrap(), 0).unwrap();
            assert_eq!(answer, Answer::Refused);
        }
    });
    an_honest_machine_is_imaged(&hq, &node).await;
    attack.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_streams_of_a_member_are_sixty_four() {
    let hq = Hq::new(3, None);
    let node = node(&hq, true);
    let identity = Identity::generate().unwrap();
    let site = Site::new(hq.keys());
    let mut admitted = start_as(&hq, Role::Agent, false, site, false, identity.clone());
    let proof = admitted.be_admitted(&node, 99).await;
    admitted.cache.close().await;
    let connection = Attacker::with(&identity, outside(9))
        .connect(address(&node))
        .await
        .unwrap();
    let (mut frames, _recv) = connection.open_bi().await.unwrap();
    let ticket = Credentials::Agent {
        ticket: Some(proof),
    };
    for frame in [
        Frame::Hello(hello(1, ticket)),
        Frame::Documents(Documents::default()),
    ] {
        write(&mut frames, &frame).await.unwrap();
    }
    let request = Request {
        manifest: hq.manifest.digest(),
        ask: Ask::Next,
    };
    // asks for more than there is, and takes none of it off
    let mut held = Vec::new();
    while let Ok(Ok((mut send, recv))) =
        timeout(Duration::from_millis(500), connection.open_bi()).await
    {
        // all but the last byte: the node waits for the rest
        let request = request.to_bytes();
        send.write_all(&request[..request.len() - 1]).await.unwrap();
        held.push((send, recv));
        assert!(held.len() < 10_000);
    }
    assert_eq!(held.len(), 63, "beside the one for frames");
    an_honest_machine_is_imaged(&hq, &node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_has_two_streams_at_a_time() {
    let hq = Hq::new(1, None);
    let node = node(&hq, true);
    let attacker = Attacker::at(outside(1));
    let (connection, _send, _recv) = attacker.greet(address(&node)).await.unwrap();
    let mut held = Vec::new();
    // each has begun a request and does not end it
    while let Ok(Ok((mut send, recv))) =
        timeout(Duration::from_millis(500), connection.open_bi()).await
    {
        send.write_all(&[1]).await.unwrap();
        held.push((send, recv));
        assert!(held.len() < 5, "{} streams are open", held.len());
    }
    assert_eq!(held.len(), 1, "beside the one for frames");
    an_honest_machine_is_imaged(&hq, &node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_greet_is_shown_out() {
    let hq = Hq::new(1, None);
    let node = node(&hq, true);
    let (silent, slow) = (Attacker::at(outside(1)), Attacker::at(outside(2)));
    let silent = silent.connect(address(&node)).await.unwrap();
    // one byte a second of a hello
    let slow = slow.connect(address(&node)).await.unwrap();
    let (mut send, _recv) = slow.open_bi().await.unwrap();
    let dribble = tokio::spawn(async move {
        for byte in [100, 0, 0, 0].into_iter().chain(std::iter::repeat(0)) {
            if send.write_all(&[byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    an_honest_machine_is_imaged(&hq, &node).await;
    let shown_out = async { (silent.closed().await, slow.closed().await) };
    let (silent, slow) = timeout(SHOWN_OUT_WITHIN, shown_out).await.unwrap();
    for closed in [silent, slow] {
        assert!(closed.to_string().contains("no hello in time"), "{closed}");
    }
    timeout(SHOWN_OUT_WITHIN, dribble).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_that_is_longer_than_a_stranger_may_send_ends_it() {
    let hq = Hq::new(1, None);
    let node = node(&hq, true);
    let attacker = Attacker::at(outside(1));
    for claimed in [FRAME_BYTES_MAX as u32, 33 << 10, u32::MAX] {
        let (connection, mut send, _recv) = attacker.greet(address(&node)).await.unwrap();
        send.write_all(&claimed.to_le_bytes()).await.unwrap();
        let closed = timeout(SHOWN_OUT_WITHIN, connection.closed()).await;
        assert!(closed.is_ok(), "{claimed} bytes are waited for");
    }
    // frames that only members may send are ignored
    let (connection, mut send, _recv) = attacker.greet(address(&node)).await.unwrap();
    for _ in 0..100 {
        let report = Frame::Report(vec![0; 1000]);
        write(&mut send, &report).await.unwrap();
    }
    an_honest_machine_is_imaged(&hq, &node).await;
    assert!(connection.close_reason().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_address_gets_few_connections_and_others_do_not_feel_it() {
    let hq = Hq::new(3, None);
    let node = node(&hq, true);
    let mut held = Vec::new();
    for _ in 0..20 {
        // each with a key of its own: the same key twice is one peer
        let attacker = Attacker::at(outside(1));
        // more are not even answered
        let greeted = timeout(Duration::from_millis(300), attacker.greet(address(&node)));
        if let Ok(Ok(greeted)) = greeted.await {
            held.push((attacker, greeted));
        }
    }
    held.retain(|(_, (connection, ..))| connection.close_reason().is_none());
    assert_eq!(held.len(), OF_ADDRESS_MAX);
    let neighbour = Attacker::at(outside(2));
    neighbour.greet(address(&node)).await.unwrap();
    an_honest_machine_is_imaged(&hq, &node).await;
    // who goes makes room
    let (attacker, (connection, ..)) = held.pop().unwrap();
    connection.close(0u32.into(), b"");
    let again = async {
        while !matches!(
            timeout(Duration::from_secs(1), attacker.greet(address(&node))).await,
            Ok(Ok(_))
        ) {}
    };
    timeout(SHOWN_OUT_WITHIN, again).await.unwrap();
}

/// First packets of handshakes, each of another connection.
async fn first_packets(count: usize) -> Vec<Vec<u8>> {
    let nobody = UdpSocket::bind((outside(200), 0)).unwrap();
    nobody
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    let attacker = Attacker::at(outside(201));
    let (mut packets, mut begun) = (Vec::new(), Vec::new());
    for _ in 0..count {
        begun.push(attacker.knock(nobody.local_addr().unwrap()));
        let mut packet = vec![0; 2000];
        let socket = nobody.try_clone().unwrap();
        let read = tokio::task::spawn_blocking(move || {
            let bytes = socket.recv(&mut packet).unwrap();
            packet.truncate(bytes);
            packet
        });
        packets.push(read.await.unwrap());
    }
    packets
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_from_forged_addresses_is_answered_with_less_than_it_sent() {
    let hq = Hq::new(3, None);
    let node = node(&hq, true);
    let packets = first_packets(80).await;
    let sockets: Vec<UdpSocket> = (1..=80)
        .map(|n| UdpSocket::bind((outside(n), 0)).unwrap())
        .collect();
    let started = Instant::now();
    for (socket, packet) in sockets.iter().zip(&packets) {
        socket.send_to(packet, address(&node)).unwrap();
    }
    // while it lasts: a machine proves its address and is let in
    an_honest_machine_is_imaged(&hq, &node).await;
    assert!(started.elapsed() < Duration::from_secs(10));
    let (mut asked_to_prove, mut sent) = (0, 0);
    for socket in &sockets {
        socket.set_nonblocking(true).unwrap();
        let mut answer = [0; 2000];
        let mut is_retry = false;
        while let Ok(bytes) = socket.recv(&mut answer) {
            sent += bytes;
            // a long header of type 3 (RFC 9000 section 17.2.5)
            is_retry |= answer[0] & 0xf0 == 0xf0;
        }
        asked_to_prove += usize::from(is_retry);
    }
    assert!(asked_to_prove >= 80 - PROVE_FROM - 4, "{asked_to_prove}");
    let received: usize = packets.iter().map(Vec::len).sum();
    assert!(sent < received, "{sent} bytes for {received}");
}
