//! An attacker's connection to a node, frame by frame.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use peer_cache_node::Identity;
use peer_cache_proto::wire::{AdmissionAnswer, Credentials, Documents, Frame};
use quinn::{RecvStream, SendStream};
use tokio::time::timeout;

use crate::{
    attacker::{Attacker, hello, outside, write},
    chain::{Hq, PATIENCE, facts},
};

static BOOTS: AtomicU64 = AtomicU64::new(1);

/// An attacker's connection that has greeted with whatever it likes.
pub(crate) struct Raw {
    pub(crate) connection: quinn::Connection,
    send: SendStream,
    recv: RecvStream,
}

impl Raw {
    pub(crate) async fn greet(
        identity: &Identity,
        to: SocketAddr,
        credentials: Credentials,
    ) -> Self {
        let attacker = Attacker::with(identity, outside(7));
        let connection = attacker.connect(to).await.unwrap();
        let (mut send, recv) = connection.open_bi().await.unwrap();
        // as after a restart: the node may not have seen the end of an earlier connection of this key
        let boot = BOOTS.fetch_add(1, Ordering::Relaxed);
        let hello = Frame::Hello(hello(boot, credentials));
        for frame in [hello, Frame::Documents(Documents::default())] {
            write(&mut send, &frame).await.unwrap();
        }
        // the endpoint has to outlive the connection
        std::mem::forget(attacker);
        Self {
            connection,
            send,
            recv,
        }
    }

    pub(crate) async fn say(&mut self, frame: &Frame) {
        write(&mut self.send, frame).await.unwrap();
    }

    pub(crate) async fn ask(&mut self, n: u8, finished: Vec<u64>) {
        let asked = Frame::AdmitMe {
            facts: facts(n),
            wish: None,
            finished,
            pin: None,
            tpm: None,
        };
        self.say(&asked).await;
    }

    /// The next answer to a wish; nothing when the connection ends.
    pub(crate) async fn answer(&mut self) -> Option<AdmissionAnswer> {
        loop {
            let mut length = [0; 4];
            let read = timeout(PATIENCE, self.recv.read_exact(&mut length));
            read.await.expect("an answer in time").ok()?;
            let mut frame = vec![0; u32::from_le_bytes(length) as usize];
            self.recv.read_exact(&mut frame).await.ok()?;
            if let Ok(Frame::Admission(answer)) = Frame::from_bytes(&frame) {
                return Some(answer);
            }
        }
    }
}

/// Whether a connection is served.
pub(crate) async fn gets_manifest(raw: &Raw, hq: &Hq) -> bool {
    use peer_cache_proto::wire::{ANSWER_BYTES, Answer, Ask, Request};
    let request = Request {
        manifest: hq.manifest.digest(),
        ask: Ask::Manifest,
    };
    // a member's right may be a moment behind its greeting
    for _ in 0..20 {
        let Ok((mut send, mut recv)) = raw.connection.open_bi().await else {
            return false;
        };
        send.write_all(&request.to_bytes()).await.unwrap();
        send.finish().unwrap();
        let mut head = [0; ANSWER_BYTES];
        if recv.read_exact(&mut head).await.is_err() {
            return false;
        }
        if matches!(Answer::from_bytes(&head, 1 << 20), Ok(Answer::Found { .. })) {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    false
}
