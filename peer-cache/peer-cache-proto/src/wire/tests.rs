use proptest::prelude::*;

use image_format::Form;

use super::{
    documents::{COMPLETION_BYTES_MAX, DOCUMENT_BYTES_MAX, ROOT_BYTES_MAX},
    *,
};
use crate::{election::Rank, pin::PinCount};

fn proof() -> TicketProof {
    TicketProof {
        ticket: vec![1; 200],
        issuer: vec![2; 180],
        issuers_issuer: Some(vec![3; 190]),
    }
}

fn hello(credentials: Credentials) -> Frame {
    Frame::Hello(Hello {
        protocol: PROTOCOL_VERSION,
        credentials,
        rank: Rank {
            node: true,
            always_on: false,
            free_gib: 3,
            uptime_minutes: 9,
        },
        port: PEER_PORT,
        boot: 7,
        uptime_ms: 1234,
        root: 1,
        channel: 8,
    })
}

fn every_frame() -> Vec<Frame> {
    let manifest = Digest([9; 32]);
    vec![
        hello(Credentials::Node {
            certificate: vec![1; 99],
            issuer: Some(vec![2; 98]),
        }),
        hello(Credentials::Agent { ticket: None }),
        hello(Credentials::Agent {
            ticket: Some(proof()),
        }),
        Frame::AdmitMe {
            facts: MachineFacts::new(Some([5; 16]), Some("SN-1"), &[[2; 6], [3; 6]], "Till 9000"),
            wish: Some(manifest),
            finished: vec![1, 5],
            pin: Some("Süd-4711".into()),
            tpm: Some(TpmProof {
                public: [1; 64],
                signature: [2; 64],
            }),
        },
        Frame::Admission(AdmissionAnswer::Granted {
            proof: proof(),
            order: vec![4; 100],
        }),
        Frame::Admission(AdmissionAnswer::Wait {
            reason: "wartet auf Graz Süd".into(),
        }),
        Frame::Admission(AdmissionAnswer::NoOrder),
        Frame::Admission(AdmissionAnswer::Done { order: 3 }),
        Frame::Admission(AdmissionAnswer::Refused {
            reason: "no".into(),
        }),
        Frame::Admission(AdmissionAnswer::Pin {
            reason: "type it".into(),
        }),
        Frame::Admission(AdmissionAnswer::AskAgain {
            reason: "revoked".into(),
        }),
        Frame::CertifyMe {
            node: PublicKey([1; 32]),
        },
        Frame::Certificate {
            certificate: vec![1; 9],
            issuer: None,
        },
        Frame::NotCertified {
            reason: "one step deep".into(),
        },
        Frame::Join {
            manifest,
            source: true,
        },
        Frame::Have {
            manifest,
            parts: PartRanges(vec![(0, 5), (9, 1)]),
        },
        Frame::Claim { manifest, term: 4 },
        Frame::Documents(Documents {
            roots: vec![vec![1; 50], vec![5; 60]],
            channel: None,
            roster: Some(vec![6; 70]),
            orders: vec![vec![2; 20], vec![3; 30]],
            completions: vec![vec![4; 40]],
        }),
        Frame::Report(b"{}".to_vec()),
        Frame::Peers(vec![PeerHint {
            key: PublicKey([7; 32]),
            address: "10.0.0.1:4433".into(),
        }]),
        Frame::Lost {
            manifest: Digest([8; 32]),
            parts: PartRanges(vec![(0, 4), (9, 1)]),
        },
        Frame::Accused {
            peer: PublicKey([9; 32]),
            chunk: Some(ChunkHash([5; 32])),
        },
        Frame::Accused {
            peer: PublicKey([9; 32]),
            chunk: None,
        },
        Frame::PinTally(PinTally {
            number: 3,
            counts: [(PublicKey([8; 32]), PinCount { wrong: 2, used: 1 })].into(),
        }),
        Frame::Members(Members {
            placement: 7,
            words: vec![crate::spread::Word {
                member: trust_format::MachineId([3; 16]),
                room_bytes: 1 << 34,
                unheard: std::time::Duration::from_secs(90),
            }],
        }),
    ]
}

#[test]
fn frames_survive_the_wire() {
    for frame in every_frame() {
        assert_eq!(Frame::from_bytes(&frame.to_bytes()).unwrap(), frame);
    }
}

/// Every document of a store that has been there for years, in frames that fit.
#[test]
fn many_documents_go_in_frames_of_their_own() {
    let all = Documents {
        roots: vec![vec![1; ROOT_BYTES_MAX]; ROOTS_MAX],
        channel: Some(vec![2; DOCUMENT_BYTES_MAX / 2]),
        roster: Some(vec![3; DOCUMENT_BYTES_MAX / 2]),
        orders: (0..1024u32).map(|n| n.to_le_bytes().to_vec()).collect(),
        completions: vec![vec![4; COMPLETION_BYTES_MAX]; 300],
    };
    let mut again = Documents::default();
    for frame in all.clone().into_frames() {
        let bytes = frame.to_bytes();
        assert!(bytes.len() <= FRAME_BYTES_MAX);
        let Frame::Documents(some) = Frame::from_bytes(&bytes).unwrap() else {
            panic!("another frame")
        };
        again.roots.extend(some.roots);
        again.channel = again.channel.or(some.channel);
        again.roster = again.roster.or(some.roster);
        again.orders.extend(some.orders);
        again.completions.extend(some.completions);
    }
    assert_eq!(again, all);
    assert_eq!(Documents::default().into_frames().len(), 1);
}

#[test]
fn frames_cut_and_flipped_are_survived() {
    for frame in every_frame() {
        let bytes = frame.to_bytes();
        for at in 0..bytes.len() {
            assert!(
                Frame::from_bytes(&bytes[..at]).is_err(),
                "{frame:?} cut at {at}"
            );
            for flip in 1..=255u8 {
                let mut bad = bytes.clone();
                bad[at] ^= flip;
                let _ = Frame::from_bytes(&bad);
            }
        }
    }
}

#[test]
fn requests_and_answers_survive_the_wire() {
    let part = Ask::Part {
        part: PartId(7),
        form: Form::Rebuilt,
    };
    for ask in [Ask::Manifest, Ask::Next, part] {
        let request = Request {
            manifest: Digest([3; 32]),
            ask,
        };
        assert_eq!(Request::from_bytes(&request.to_bytes()).unwrap(), request);
    }
    let found = Answer::Found {
        part: PartId(7),
        form: Form::Delta,
        bytes: 1000,
    };
    let heads = [
        Answer::Exhausted,
        Answer::Missing,
        Answer::Refused,
        Answer::Busy,
    ];
    for answer in heads.into_iter().chain([found]) {
        assert_eq!(
            Answer::from_bytes(&answer.to_bytes(), 1000).unwrap(),
            answer
        );
    }
    assert!(
        Answer::from_bytes(&found.to_bytes(), 999).is_err(),
        "an endless answer is refused"
    );
}

#[test]
fn ranges_are_bounded_by_the_manifest() {
    let lie = PartRanges(vec![(0, u32::MAX); 100]);
    assert!(lie.parts(10).len() <= 20);
    assert_eq!(PartRanges(vec![(u32::MAX, u32::MAX)]).parts(10), []);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100_000))]

    #[test]
    fn noise_is_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
        let _ = Frame::from_bytes(&bytes);
    }
}

proptest! {
    #[test]
    fn ranges_hold_what_they_were_made_of(parts in proptest::collection::btree_set(0u32..500, 0..200)) {
        let parts: Vec<PartId> = parts.into_iter().map(PartId).collect();
        prop_assert_eq!(PartRanges::of(&parts).parts(500), parts);
    }
}
