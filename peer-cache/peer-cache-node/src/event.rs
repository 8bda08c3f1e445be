//! What a peer cache tells its main.

use std::net::SocketAddr;

use image_format::ChunkHash;
use peer_cache_proto::{machine::MachineFacts, wire::AdmissionAnswer};
use trust_format::{Digest, MachineId, PublicKey, TpmKey};

use crate::Learned;

/// What happened, for the main to act on, show and report.
#[derive(Debug)]
pub enum Event {
    /// A connection is up.
    PeerUp {
        /// Who.
        key: PublicKey,
        /// Where.
        address: SocketAddr,
        /// Whether it is a certified node.
        node: bool,
    },
    /// A connection ended.
    PeerGone {
        /// Who.
        key: PublicKey,
    },
    /// A node answered our wish to be admitted.
    Admission {
        /// Who.
        by: PublicKey,
        /// What.
        answer: AdmissionAnswer,
    },
    /// A node certified the node that this agent puts on the disk.
    Certificate {
        /// Of the new node.
        certificate: Vec<u8>,
        /// Of its issuer, when it is provisional.
        issuer: Option<Vec<u8>>,
    },
    /// A node could not: it is provisional itself, or its site forbids it. Another one may.
    NotCertified {
        /// Who.
        by: PublicKey,
        /// In words.
        reason: String,
    },
    /// A machine waits for a person's yes, or for an order.
    Waiting {
        /// Which.
        machine: MachineId,
        /// On its screen, see [`peer_cache_proto::machine::console_code`].
        code: String,
        /// What it says of itself.
        facts: MachineFacts,
        /// The TPM that signed for it.
        tpm: Option<TpmKey>,
    },
    /// A machine was admitted.
    Admitted {
        /// Which.
        machine: MachineId,
        /// What it says of itself.
        facts: MachineFacts,
        /// Under which order.
        order: u64,
        /// Whether somebody typed the site's PIN at it.
        by_pin: bool,
        /// The TPM that signed for it.
        tpm: Option<TpmKey>,
    },
    /// Somebody typed a wrong PIN.
    WrongPin {
        /// At which machine, as it says of itself.
        machine: Option<MachineId>,
        /// Whether the PIN is locked now.
        is_locked: bool,
    },
    /// A voucher was used for more machines than it allows: a copy of it is in other hands.
    VoucherOverused {
        /// Which.
        key: PublicKey,
        /// Machines that it allows.
        allowed: u16,
        /// Machines that were heard of.
        machines: usize,
    },
    /// An agent reported on its install.
    Report {
        /// Its machine.
        machine: MachineId,
        /// As the agent wrote it.
        report: Vec<u8>,
    },
    /// New documents were learned.
    Learned(Box<Learned>),
    /// Every chunk of a manifest is here.
    Complete {
        /// Which.
        manifest: Digest,
        /// How many parts came from whom.
        from: Vec<(String, u64)>,
    },
    /// What this node keeps of a manifest is here; others keep the rest.
    ShareHere {
        /// Which.
        manifest: Digest,
        /// Chunks that it keeps.
        chunks: usize,
        /// Chunks of the manifest.
        of: usize,
    },
    /// A peer sent bytes that are not what was signed, and was cut off.
    Accused {
        /// Who.
        key: PublicKey,
        /// Where.
        address: SocketAddr,
        /// What it was asked for.
        chunk: Option<ChunkHash>,
    },
    /// A neighbour says that a peer sent it bytes that are not what was signed.
    AccusedToUs {
        /// Who says so.
        by: PublicKey,
        /// Of whom.
        key: PublicKey,
        /// What it had asked for.
        chunk: Option<ChunkHash>,
    },
    /// This agent has found no node for [`peer_cache_proto::fallback::NO_NODE_DEADLINE`], and HQ gave it the lease: it
    /// fetches what is missing itself.
    FetchesItself {
        /// Of which manifest.
        manifest: Digest,
    },
    /// A node is connected again, after this agent had found none for so long that it could fetch itself.
    NodeIsBack {
        /// Who.
        key: PublicKey,
    },
    /// HQ sent bytes that are not what was signed, twice.
    OriginWrong {
        /// In words.
        reason: String,
    },
    /// A chunk could not be kept.
    KeepFailed {
        /// In words.
        reason: String,
    },
}
