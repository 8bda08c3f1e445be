//! The signed documents of a chain of stores: root, channel, order, node certificate, ticket and completion.
//! Here they are encoded, decoded and verified. No secret key, clock, file or socket ever comes in: who signs, signs elsewhere.
//! Called by every other crate that has to decide whom to believe.
//!
//! The encoding is specified in `docs/protocol/trust.md`.

pub mod codec;
mod document;
mod documents;
mod keys;
mod trusted;

pub use document::{
    Digest, Document, DocumentKind, ENVELOPE_SIGNATURES_MAX, Envelope, EnvelopeFullError,
    SignedBytes, SignerRole, Verified, VerifyDocumentError, peek, peek_envelope,
};
pub use documents::{
    CHANNEL_ADMITTED_MAX, CHANNEL_REVOKED_MAX, Channel, Completion, Grade, HqContact, MachineId,
    NodeCertificate, Order, Root, SiteId, Ticket, UnknownRule, ticket_life,
};
pub use keys::{PublicKey, Signature};
pub use trusted::{
    CheckNodeError, CheckedNode, TrustRootError, TrustedKeys, check_completion, check_ticket,
};

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "small test inputs")]
mod tests;
