//! Keys, roots, and what waits for a signature by a key that HQ does not hold.

use serde::{Deserialize, Serialize};

use crate::{
    people::{ImageVersion, OrderInfo},
    text::{Base64, Hex},
};

/// A key that the root names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NamedKey {
    /// The public key.
    pub key: Hex<32>,
    /// Whether HQ holds the secret one.
    pub held: bool,
}

/// `GET /api/v1/keys`: what the present root says, and which of its keys HQ holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct KeysInfo {
    /// The root's number.
    pub number: u64,
    /// How many root keys sign a root.
    pub threshold: u8,
    /// Sign roots.
    pub root: Vec<NamedKey>,
    /// Sign manifests. If HQ holds none, versions wait.
    pub image: Vec<NamedKey>,
    /// Sign channels and orders. If HQ holds none, they wait.
    pub order: Vec<NamedKey>,
    /// Certify nodes. If HQ holds none, no node comes in.
    pub authority: Vec<NamedKey>,
}

/// `GET /api/v1/roots`: every root, the present one last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RootRow {
    /// Signed documents; each is signed by the keys of the one before it too.
    pub roots: Vec<Base64>,
}

/// Answer to `POST /api/v1/roots`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RootPublished {
    /// What holds now.
    pub keys: KeysInfo,
    /// What follows from it, in sentences.
    pub notes: Vec<String>,
}

/// A site's channel that waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WaitingChannel {
    /// The site's name.
    pub site: String,
    /// The number that it will have.
    pub number: u64,
    /// The number of the channel that holds until then; 0 if there is none.
    pub signed: u64,
}

/// `GET /api/v1/waiting`: everything that waits for a signature.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Waiting {
    /// Versions, newest first.
    pub images: Vec<ImageVersion>,
    /// Channels: the newest of each site.
    pub channels: Vec<WaitingChannel>,
    /// Orders, which travel with their site's channel.
    pub orders: Vec<OrderInfo>,
}
