//! Vouchers: the right of a node for a stick, a laptop or a spare machine.

use serde::{Deserialize, Serialize};

use crate::{Base64, Hex, NodeDocuments};

/// `POST /api/v1/sites/{name}/vouchers`. Whoever asks made the key, and keeps it: HQ sees neither it nor the PIN.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NewVoucher {
    /// Its public key.
    pub key: Hex<32>,
    /// Whose it is, or what for.
    pub name: String,
    /// For so many machines, 1 to 256.
    pub machines: u16,
    /// Under this order only.
    pub order: Option<u64>,
}

/// The answer: what goes into the voucher's file beside the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VoucherMade {
    /// The site's name.
    pub site: String,
    /// The voucher as HQ signed it.
    pub certificate: Base64,
    /// What the site means now.
    pub documents: NodeDocuments,
}

/// A voucher. It is revoked like a node, by its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VoucherInfo {
    /// Its public key.
    pub key: Hex<32>,
    /// The site's name.
    pub site: String,
    /// Whose it is, or what for.
    pub name: String,
    /// For so many machines.
    pub machines: u16,
    /// Under this order only.
    pub order: Option<u64>,
    /// Machines that HQ has seen under it, as many as it allows at most.
    pub used: u64,
    /// Machines beyond that: a copy of it may be in other hands.
    pub beyond: u64,
    /// Whether it is revoked.
    pub revoked: bool,
    /// When it was made, in seconds since 1970 by HQ's clock.
    pub made_unix_seconds: u64,
    /// When whoever holds it was last heard of; 0 if never.
    pub seen_unix_seconds: u64,
}
