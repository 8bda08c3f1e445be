//! A peer that was admitted, says that it has everything, and answers requests with no good intent: one test for each way.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use image_format::{CHUNK_BYTES, Form, PART_BYTES, PartId, PartTable};
use peer_cache_node::{Event, Identity, Role, Site};
use peer_cache_proto::wire::{
    Answer, Ask, Credentials, Documents, Frame, PartRanges, REQUEST_BYTES, Request,
};
use tokio::time::timeout;

use crate::{
    attacker::{Attacker, hello, outside, write},
    chain::*,
};

/// What the honest node gives a second: with an image of six megabytes there is time to ask another.
const NODE_GIVES: u64 = 2_000_000;
const CHUNKS: usize = 12;
/// The hostile peer comes in when the download has begun.
const BEGUN: Duration = Duration::from_millis(300);
const ATTACKERS_MACHINE: u8 = 99;

/// How a request for a part is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trick {
    WrongBytes,
    WrongLength,
    AnotherPart,
    TooShort,
    Endless,
    OneByteASecond,
    Silence,
    ZipBomb,
    ForeignDelta,
}

impl Trick {
    /// Whether it proves that the peer means no good; a network can be slow or break as well.
    fn is_a_lie(self) -> bool {
        matches!(
            self,
            Self::WrongBytes
                | Self::WrongLength
                | Self::AnotherPart
                | Self::Endless
                | Self::ZipBomb
        )
    }

    async fn answer(self, part: PartId, bytes: usize, send: &mut quinn::SendStream) {
        let found = |part, form, bytes: usize| Answer::Found {
            part,
            form,
            bytes: bytes as u32,
        };
        let object = found(part, Form::Object, bytes);
        let (head, body) = match self {
            Self::WrongBytes | Self::Endless => (object, vec![7; bytes]),
            Self::WrongLength => (found(part, Form::Object, bytes + 1), vec![7; bytes + 1]),
            Self::AnotherPart => (
                found(PartId(part.0 ^ 1), Form::Object, bytes),
                vec![7; bytes],
            ),
            Self::TooShort => (object, vec![7; bytes / 2]),
            Self::OneByteASecond => (object, Vec::new()),
            Self::Silence => {
                std::future::pending::<()>().await;
                return;
            }
            Self::ZipBomb => {
                let bomb = zip_bomb();
                (found(part, Form::Rebuilt, bomb.len()), bomb)
            }
            Self::ForeignDelta => (found(part, Form::Delta, bytes), vec![7; bytes]),
        };
        // who is cut off meanwhile has been found out
        let _ = send.write_all(&head.to_bytes()).await;
        let _ = send.write_all(&body).await;
        match self {
            Self::Endless => while send.write_all(&[7; 65_536]).await.is_ok() {},
            Self::OneByteASecond => {
                while send.write_all(&[7]).await.is_ok() {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
            _ => {
                let _ = send.finish();
                let _ = send.stopped().await;
            }
        }
    }
}

/// A zstd frame of a gigabyte in 32 KiB: RFC 8878, RLE blocks of 128 KiB each.
fn zip_bomb() -> Vec<u8> {
    const BLOCK: u32 = 128 << 10;
    const BLOCKS: u32 = 8192;
    // magic, a single segment with a content size of four bytes
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0xa0];
    frame.extend((BLOCK * BLOCKS).to_le_bytes());
    for n in 0..BLOCKS {
        let header = u32::from(n == BLOCKS - 1) | 1 << 1 | BLOCK << 3;
        frame.extend(&header.to_le_bytes()[..3]);
        frame.push(0);
    }
    frame
}

/// An honest machine downloads from an honest node and a hostile peer.
async fn the_image_arrives_whole_in_spite_of(trick: Trick) {
    let hq = Hq::new(CHUNKS, None);
    let node = node_giving(&hq, NODE_GIVES);
    let identity = Identity::generate().unwrap();
    let nobody = Site::new(hq.keys());
    let mut admitted = start_as(&hq, Role::Agent, false, nobody, false, identity.clone());
    let proof = admitted.be_admitted(&node, ATTACKERS_MACHINE).await;
    admitted.cache.close().await;

    let mut agent = agent(&hq);
    agent.be_admitted(&node, 7).await;
    let manifest = agent.cache.manifest(hq.manifest.digest()).await.unwrap();
    let mut complete = agent.cache.share(manifest);
    tokio::time::sleep(BEGUN).await;

    let attacker = Attacker::with(&identity, outside(9));
    let to = agent.cache.local_addr().unwrap();
    let connection = attacker.connect(to).await.unwrap();
    let (mut frames, _recv) = connection.open_bi().await.unwrap();
    let table = Arc::new(PartTable::of(&hq.manifest));
    let all: Vec<PartId> = (0..table.part_count()).map(PartId).collect();
    let manifest = hq.manifest.digest();
    for frame in [
        Frame::Hello(hello(
            1,
            Credentials::Agent {
                ticket: Some(proof),
            },
        )),
        Frame::Documents(Documents::default()),
        Frame::Join {
            manifest,
            source: false,
        },
        Frame::Have {
            manifest,
            parts: PartRanges::of(&all),
        },
    ] {
        write(&mut frames, &frame).await.unwrap();
    }
    let asked = Arc::new(AtomicUsize::new(0));
    let (count, records) = (asked.clone(), hq.manifest.chunks.clone());
    let answers = tokio::spawn(async move {
        while let Ok((mut send, mut recv)) = connection.accept_bi().await {
            let mut request = [0; REQUEST_BYTES];
            if recv.read_exact(&mut request).await.is_err() {
                continue;
            }
            let Ok(Request {
                ask: Ask::Part { part, .. },
                ..
            }) = Request::from_bytes(&request)
            else {
                continue;
            };
            count.fetch_add(1, Ordering::SeqCst);
            let (chunk, index) = table.place_of(part).unwrap();
            let record = &records[chunk.0 as usize];
            let bytes = record.part_range(index).unwrap().len();
            tokio::spawn(async move { trick.answer(part, bytes, &mut send).await });
        }
    });
    timeout(PATIENCE, complete.wait_for(|c| *c))
        .await
        .unwrap_or_else(|_| panic!("{trick:?} stopped the download"))
        .unwrap();
    agent.check(&hq);
    assert!(asked.load(Ordering::SeqCst) > 0, "it was never asked");
    let mut accused = None;
    while let Ok(event) = agent.events.try_recv() {
        if let Event::Accused { key, .. } = event {
            accused = Some(key);
        }
    }
    let expected = trick.is_a_lie().then(|| identity.public());
    assert_eq!(accused, expected, "{trick:?}");
    answers.abort();
}

macro_rules! tricks {
    ($($name:ident: $trick:ident,)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            the_image_arrives_whole_in_spite_of(Trick::$trick).await;
        }
    )*};
}

tricks! {
    wrong_bytes: WrongBytes,
    a_wrong_length: WrongLength,
    another_part: AnotherPart,
    an_answer_that_ends_early: TooShort,
    an_endless_answer: Endless,
    one_byte_a_second: OneByteASecond,
    silence: Silence,
    a_zip_bomb: ZipBomb,
    a_delta_with_foreign_references: ForeignDelta,
}

#[test]
fn the_bomb_is_small_and_a_chunk_is_not() {
    let bomb = zip_bomb();
    assert!(bomb.len() < PART_BYTES && bomb.len() < CHUNK_BYTES / 16);
}
