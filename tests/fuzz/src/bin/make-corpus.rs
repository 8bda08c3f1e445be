//! Writes one valid input for each target that has none yet into `tests/fuzz/corpus`; run it after a format changed.

use std::{path::Path, time::Duration};

use image_format::{
    Architecture, ChunkHash, ChunkId, ChunkRecord, Customisation, DeltaRecord, Manifest,
    ManifestKind, Needs, ObjectHash, PART_BYTES, PartHash, PartId, PartitionSummary, Placement,
};
use imaging_plan::{InstallRecord, RecordState};
use peer_cache_proto::{
    beacon::Beacon,
    machine::MachineFacts,
    tpm::TpmProof,
    tpm::{PROOF_BYTES, SealedKey},
    voucher::{VoucherFile, VoucherLabel},
    wire::{
        AdmissionAnswer, Answer, Ask, Credentials, Documents, Frame, Hello, PartRanges, Request,
        TicketProof,
    },
};
use trust_format::{
    Channel, Completion, Digest, Document, Grade, HqContact, KnownMachine, MachineId,
    NodeCertificate, Order, PinRule, PublicKey, Root, Roster, Sign, Signature, SiteId, Ticket,
    TpmKey, UnknownRule,
};

const KEY: PublicKey = PublicKey([7; 32]);

/// Signed by nobody: the parsers are what is tested.
fn envelope<T: Document>(document: &T) -> Vec<u8> {
    document
        .to_signed_bytes()
        .into_envelope(vec![(KEY, Signature([9; 64]))])
        .to_bytes()
}

fn manifest() -> Manifest {
    let chunk = |n: u8, bytes, object_bytes: u32, delta| ChunkRecord {
        hash: ChunkHash([n; 32]),
        bytes,
        object_hash: ObjectHash([n + 1; 32]),
        object_bytes,
        parts: match object_bytes as usize > PART_BYTES {
            true => vec![PartHash([n + 2; 32]), PartHash([n + 3; 32])],
            false => Vec::new(),
        },
        delta,
    };
    let delta = DeltaRecord {
        object_hash: ObjectHash([5; 32]),
        object_bytes: 50,
        references: vec![ChunkHash([1; 32])],
    };
    Manifest {
        kind: ManifestKind::Image,
        name: "till".into(),
        release: 3,
        follows: Some(Digest([4; 32])),
        disk_bytes: (1 << 20) + 4096,
        sector_bytes: 512,
        used_bytes: 5,
        needs: Needs {
            uefi: true,
            bios: false,
            architecture: Architecture::X86_64,
            ram_bytes_min: 1 << 30,
        },
        customisation: Customisation::Ext4 { partition: 1 },
        partitions: vec![PartitionSummary {
            number: 1,
            first_byte: 4096,
            bytes: 8192,
            type_guid: [6; 16],
            label: "root".into(),
            file_system: "ext4".into(),
        }],
        files: vec![],
        chunks: vec![
            chunk(1, 1 << 20, 300_000, None),
            chunk(2, 4096, 1000, Some(delta)),
        ],
        layout: vec![
            Placement {
                index: 0,
                chunk: ChunkId(0),
            },
            Placement {
                index: 1,
                chunk: ChunkId(1),
            },
        ],
    }
}

fn frames() -> Vec<Frame> {
    let proof = TicketProof {
        ticket: vec![1; 20],
        issuer: vec![2; 20],
        issuers_issuer: Some(vec![3; 20]),
    };
    let hello = |credentials| {
        Frame::Hello(Hello {
            protocol: peer_cache_proto::wire::PROTOCOL_VERSION,
            credentials,
            rank: peer_cache_proto::election::Rank {
                node: true,
                always_on: false,
                free_gib: 1,
                uptime_minutes: 2,
            },
            port: 4433,
            boot: 1,
            uptime_ms: 2,
            root: 1,
            channel: 2,
        })
    };
    vec![
        hello(Credentials::Node {
            certificate: vec![1; 30],
            issuer: None,
        }),
        hello(Credentials::Agent {
            ticket: Some(proof.clone()),
        }),
        Frame::AdmitMe {
            facts: MachineFacts::new(Some([1; 16]), Some("SN"), &[[2; 6]], "x"),
            wish: None,
            finished: vec![4],
            pin: Some("471100".into()),
            tpm: Some(TpmProof {
                public: [1; 64],
                signature: [2; 64],
            }),
        },
        Frame::Admission(AdmissionAnswer::Granted {
            proof,
            order: vec![5; 30],
        }),
        Frame::Have {
            manifest: Digest([1; 32]),
            parts: PartRanges(vec![(0, 4), (9, 1)]),
        },
        Frame::Accused {
            peer: PublicKey([6; 32]),
            chunk: None,
        },
        Frame::Vouched(vec![Credentials::Node {
            certificate: vec![1; 30],
            issuer: Some(vec![2; 30]),
        }]),
        Frame::Reported { wanted: true },
        Frame::Documents(Documents {
            roots: vec![vec![1; 9]],
            channel: None,
            roster: Some(vec![3; 9]),
            orders: vec![vec![2; 9]],
            completions: vec![],
        }),
    ]
}

/// Beside these lie a proof and answers of an emulated TPM 2.0, recorded by `tests/tpm.rs` of `peer-cache-node`.
fn tpm_inputs() -> Vec<(&'static str, Vec<u8>)> {
    let sealed = SealedKey {
        parent: [3; 32],
        public: vec![4; 46],
        private: vec![5; 158],
    };
    let voucher = VoucherFile {
        tries: 1,
        salt: [6; 16],
        label: VoucherLabel {
            site: "Graz".into(),
            name: "van 3".into(),
            machines: 8,
        },
        sealed: vec![7; 99],
    };
    vec![
        ("tpm-proof", vec![7; PROOF_BYTES]),
        ("sealed-key", sealed.to_bytes()),
        ("voucher-file", voucher.to_bytes()),
        // it is to be asked again
        ("tpm-answer", vec![0x80, 1, 0, 0, 0, 10, 0, 0, 9, 0x22]),
    ]
}

fn main() -> std::io::Result<()> {
    let ticket = Ticket {
        issuer: KEY,
        issuer_boot: 1,
        issued: Duration::from_secs(5),
        life: Duration::from_secs(60),
        agent: KEY,
        machine: MachineId([1; 16]),
        site: SiteId([2; 16]),
        order: 3,
    };
    let root = Root {
        number: 1,
        threshold: 1,
        root_keys: vec![KEY],
        image_keys: vec![KEY],
        order_keys: vec![KEY],
        authority_keys: vec![],
    };
    let channel = Channel {
        site: SiteId([2; 16]),
        site_name: "Graz".into(),
        number: 4,
        image: Some(Digest([1; 32])),
        bundle: None,
        release_floor: 1,
        revocation: 1,
        revoked: vec![KEY],
        unknown: UnknownRule::Admit,
        provisional: true,
        hq: HqContact {
            urls: vec!["https://hq.example".into()],
            fingerprint: [8; 32],
        },
    };
    let certificate = NodeCertificate {
        node: KEY,
        site: SiteId([2; 16]),
        machine: MachineId([1; 16]),
        name: "till".into(),
        grade: Grade::Provisional {
            issuer: KEY,
            order: 3,
        },
    };
    let lent = NodeCertificate {
        grade: Grade::Voucher {
            machines: 8,
            order: Some(3),
        },
        ..certificate.clone()
    };
    let order = Order {
        site: SiteId([2; 16]),
        number: 3,
        image: Digest([1; 32]),
        machine: Some(MachineId([1; 16])),
        erase: true,
    };
    let completion = Completion {
        machine: MachineId([1; 16]),
        order: 3,
        image: Digest([1; 32]),
        node: Some(KEY),
        ticket: envelope(&ticket),
        issuer: envelope(&certificate),
        issuers_issuer: None,
    };
    let roster = Roster {
        site: SiteId([2; 16]),
        number: 1,
        machines: vec![KnownMachine {
            id: MachineId([1; 16]),
            approved: true,
            signs: vec![Sign::of_serial("SN"), Sign::of_mac(&[2; 6])],
            tpm: Some(TpmKey([7; 32])),
            code: Some(*b"K7Q-2MX"),
        }],
        shared: vec![Sign::of_uuid(&[1; 16])],
        pin: Some(PinRule {
            number: 1,
            uses: 3,
            life_hours: 24,
            salt: [1; 16],
            hash: [2; 32],
        }),
    };
    let beacon = Beacon {
        node: KEY,
        site: SiteId([2; 16]),
        boot: 1,
        uptime: Duration::from_secs(1),
        port: 4433,
        channel: 4,
        revocation: 1,
    };
    let record = InstallRecord {
        sequence: 1,
        order: 3,
        manifest: Digest([1; 32]),
        state: RecordState::Writing,
        written: vec![true; 9],
    };
    let request = Request {
        manifest: Digest([1; 32]),
        ask: Ask::Part {
            part: PartId(1),
            form: image_format::Form::Object,
        },
    };
    let found = Answer::Found {
        part: PartId(1),
        form: image_format::Form::Rebuilt,
        bytes: 99,
    };
    let mut inputs: Vec<(&str, Vec<u8>)> = vec![
        ("root", envelope(&root)),
        ("root-unsigned", envelope(&root)),
        ("manifest", envelope(&manifest())),
        ("channel", envelope(&channel)),
        ("roster", envelope(&roster)),
        ("order", envelope(&order)),
        ("certificate", envelope(&certificate)),
        ("certificate", envelope(&lent)),
        ("ticket", envelope(&ticket)),
        ("completion", envelope(&completion)),
        ("beacon", envelope(&beacon)),
        ("request", request.to_bytes().to_vec()),
        ("answer", found.to_bytes().to_vec()),
        // the beginning is enough: the rest is one bit per place and zeros
        ("install-record", record.to_copy().1[..256].to_vec()),
        (
            "tftp",
            b"\0\x01lamplighter.efi\0octet\0tsize\x000\0blksize\x001468\0windowsize\x004\0"
                .to_vec(),
        ),
    ];
    inputs.extend(frames().iter().map(|f| ("frame", f.to_bytes())));
    inputs.extend(tpm_inputs());
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (n, (target, bytes)) in inputs.iter().enumerate() {
        let folder = corpus.join(target);
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join(format!("valid-{n:02}")), bytes)?;
    }
    Ok(())
}
