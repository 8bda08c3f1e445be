//! Between a node and HQ. The node's key is proved by the TLS handshake; no request carries a secret but the first.

use serde::{Deserialize, Serialize};

use crate::{
    report::{Facts, NumberedReport},
    text::{Base64, Hex},
};

/// `POST /api/v1/enrol`: a new node shows its token's secret.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrolRequest {
    /// From the token.
    pub secret: Hex<16>,
    /// The computer's name for people.
    pub name: String,
    /// A person chose the name. Without that a node that has another one's place has its name too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_named: bool,
    /// Which computer.
    pub machine: Hex<16>,
    /// What it says of itself.
    pub facts: Facts,
}

/// The answer: the node belongs to the site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enrolled {
    /// Its certificate.
    pub certificate: Base64,
    /// The site's documents.
    pub documents: NodeDocuments,
}

/// `GET /api/v1/node/documents`: what the site means now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NodeDocuments {
    /// Roots, oldest first, each signed by the keys of the one before.
    pub roots: Vec<Base64>,
    /// The channel.
    pub channel: Base64,
    /// The roster.
    pub roster: Base64,
    /// Orders, newest last.
    pub orders: Vec<Base64>,
    /// Completions.
    pub completions: Vec<Base64>,
    /// Where other nodes of the site were last heard of.
    pub peers: Vec<PeerAddress>,
}

/// Where a node was last heard of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct PeerAddress {
    /// Its key.
    pub key: Hex<32>,
    /// Address and port of its QUIC endpoint.
    pub address: String,
}

/// `POST /api/v1/node/confirm`: a provisional node, or one that was certified by a neighbour, asks for HQ's certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfirmRequest {
    /// The provisional certificate.
    pub certificate: Base64,
    /// The certificate of the node that signed it.
    pub issuer: Base64,
}

/// `POST /api/v1/node/certify`: a node asks for the certificate of a node on a machine that it admitted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertifyRequest {
    /// The new node's key.
    pub node: Hex<32>,
    /// Its machine.
    pub machine: Hex<16>,
    /// The order under which it is imaged.
    pub order: u64,
}

/// `POST /api/v1/agent/admit`: an agent shows the ticket that a node gave it. The key is proved by the TLS handshake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentTicket {
    /// The signed ticket.
    pub ticket: Base64,
    /// The certificate of the node that signed it.
    pub issuer: Base64,
    /// The certificate of that one's issuer, when it is provisional.
    pub issuers_issuer: Option<Base64>,
}

/// The answer: until then the agent may fetch for its site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentAdmitted {
    /// What is left of the ticket's life, which began when HQ saw it first.
    pub seconds: u64,
}

/// A certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certified {
    /// Signed by the chain's authority.
    pub certificate: Base64,
}

/// `POST /api/v1/node/leases`: asks for the right to fetch a version for the site, or renews it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaseRequest {
    /// Which manifest.
    pub manifest: Hex<32>,
    /// What the node sees of those for whom it was refused; at most [`crate::HOLDER_VIEWS_MAX`].
    #[serde(default)]
    pub holders: Vec<HolderView>,
}

/// A holder of a lease, as another node of its site sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HolderView {
    /// From [`LeaseHeld::key`].
    pub key: Hex<32>,
    /// Whether there is a live authenticated connection to it.
    pub live: bool,
}

/// For whom a lease is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum LeaseKind {
    /// The site's one fetcher.
    #[default]
    Main,
    /// A part of the site that cannot reach the fetcher.
    Island,
}

/// The lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaseAnswer {
    /// Goes into [`crate::LEASE_HEADER`].
    pub token: String,
    /// Grows with each lease for this site and version.
    pub fence: u64,
    /// How long it holds without a byte and without renewal.
    pub seconds: u64,
    /// Main or island.
    pub kind: LeaseKind,
}

/// Status 409: another node of the site, or an agent without one, holds the lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaseHeld {
    /// The same in a sentence.
    pub error: String,
    /// Its name; an agent's is `agent of machine` and the machine's identity.
    pub holder: String,
    /// Its key.
    pub key: Hex<32>,
    /// It has everything: who cannot reach it says so, who can and still lacks something may fetch.
    pub finished: bool,
}

/// `POST /api/v1/node/leases/end`: the holder needs its lease no longer. Status 204, also when it was lost already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaseEnd {
    /// The lease.
    pub token: String,
    /// Whether everything is there.
    pub finished: bool,
}

/// `POST /api/v1/node/reports`: reports in order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReportsRequest {
    /// Port of the node's QUIC endpoint; its address is seen on the connection.
    pub peer_port: u16,
    /// Ascending numbers. Those that HQ has already are skipped. May be empty: a sign of life.
    pub reports: Vec<NumberedReport>,
    /// What the node knows of its site. A sign of life with it is answered when something else is true, or after
    /// [`LIFE_HELD_SECONDS`].
    #[serde(default)]
    pub known: Option<SiteStanding>,
    /// Other nodes of the site that the node is connected to, at most [`BESIDE_MAX`]: HQ need not hear of them themselves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub beside: Vec<Hex<32>>,
}

/// Nodes that one node reports beside itself: as many as it can be connected to.
pub const BESIDE_MAX: usize = 256;

/// How long HQ holds a sign of life of a node that knows everything: so often it is heard of at least.
pub const LIFE_HELD_SECONDS: u64 = 10;

/// Where a site's documents stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SiteStanding {
    /// The number of the site's channel.
    pub channel: u64,
    /// The number of the site's roster.
    pub roster: u64,
    /// How many orders the site has.
    pub orders: u64,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReportsAnswer {
    /// The highest number that HQ has stored durably; the node forgets all up to it.
    pub stored: u64,
    /// When it is news, the node fetches the documents.
    pub standing: SiteStanding,
    /// HQ has another certificate for the node than it is known to have: it was renamed, or a new authority key signed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub certificate_waits: bool,
    /// Of the nodes beside it, those that HQ wants to hear themselves: it does not know them, or has something for them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wanted: Vec<Hex<32>>,
}
