//! The signed documents of a chain of stores: root, channel, roster, order, node certificate, ticket and
//! completion.
//! Here they are encoded, decoded and verified. No secret key, clock, file or socket ever comes in: who signs, signs elsewhere.
//! Called by every other crate that has to decide whom to believe.
//!
//! The encoding is specified in `docs/protocol/trust.md`.

pub mod codec;
mod document;
mod documents;
mod keys;
mod roster;
mod trusted;

pub use document::{
    Digest, Document, DocumentKind, ENVELOPE_SIGNATURES_MAX, Envelope, EnvelopeFullError,
    SignedBytes, SignerRole, Verified, VerifyDocumentError, peek, peek_envelope,
};
pub use documents::{
    CERTIFICATE_BYTES_MAX, CHANNEL_REVOKED_MAX, Channel, Completion, Grade, HqContact, MachineId,
    NodeCertificate, Order, Root, SiteId, Ticket, UnknownRule, VOUCHER_MACHINES_MAX, ticket_life,
};
pub use keys::{PublicKey, Signature, TpmKey};
pub use roster::{
    CONSOLE_CODE_BYTES, KnownMachine, MACHINE_SIGNS_MAX, PinRule, ROSTER_MACHINES_MAX,
    ROSTER_SHARED_SIGNS_MAX, Roster, Sign,
};
pub use trusted::{
    CheckNodeError, CheckedNode, TrustRootError, TrustedKeys, Voucher, check_completion,
    check_ticket,
};

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "small test inputs")]
mod tests;
