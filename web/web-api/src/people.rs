//! Between people, by page or command line, and HQ.

use serde::{Deserialize, Serialize};

use crate::{
    node::LeaseKind,
    report::{Facts, InstallReport, InstallState},
    text::Hex,
};

/// Any refusal, with status 4xx or 5xx.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ApiError {
    /// One sentence: what is wrong, with what, and what to do.
    pub error: String,
    /// The same with a code of the account's authenticator would be let through.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub needs_code: bool,
}

/// What happens to a machine that a site does not know.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum SiteUnknown {
    /// It waits for approval.
    #[default]
    Wait,
    /// It is imaged under the site's standing order.
    Admit,
    /// It is imaged when somebody types the site's PIN at it, and else waits for approval.
    Pin,
    /// It is sent to its own disk.
    Refuse,
}

/// `PUT /api/v1/sites/{name}/pin`: a new PIN; the old one ends, and with it its wrong tries and uses.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NewPin {
    /// 6 to 32 letters or digits; without one HQ makes eight digits.
    #[serde(default)]
    pub pin: Option<String>,
    /// So many machines it admits.
    pub uses: u16,
    /// So long it holds; 0 for no end but its uses.
    pub hours: u16,
}

/// The answer.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SitePin {
    /// Shown this once.
    pub pin: String,
    /// So many machines it admits.
    pub uses: u16,
    /// When it ends, in seconds since 1970 by HQ's clock; 0 for no end.
    pub until_unix_seconds: u64,
}

/// A sign of a machine that others may carry as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum SignKind {
    /// SMBIOS UUID.
    Uuid,
    /// SMBIOS serial.
    Serial,
}

impl SignKind {
    /// For people.
    pub fn word(self) -> &'static str {
        match self {
            Self::Uuid => "UUID",
            Self::Serial => "serial",
        }
    }
}

/// `POST /api/v1/machines/{id}/demote`: this sign of the machine counts for nobody in the site from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct DemoteSign {
    /// The site's name.
    pub site: String,
    /// Which.
    pub sign: SignKind,
}

/// `POST /api/v1/sites`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NewSite {
    /// Unique; 1 to 64 characters.
    pub name: String,
    /// The rule for unknown machines.
    #[serde(default)]
    pub unknown: SiteUnknown,
}

/// `PATCH /api/v1/sites/{name}`: what is absent stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SiteChange {
    /// The rule for unknown machines.
    pub unknown: Option<SiteUnknown>,
    /// Whether nodes may certify while HQ is away.
    pub provisional: Option<bool>,
    /// Manifests below this release are refused in the site from now on.
    pub release_floor: Option<u64>,
    /// Its tags from now on. Whose scope has a tag reaches the site, so this needs a scope of all sites.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<Vec<String>>,
}

/// A site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SiteInfo {
    /// Its identity.
    pub id: Hex<16>,
    /// Its name.
    pub name: String,
    /// The rule for unknown machines.
    pub unknown: SiteUnknown,
    /// The number of its channel.
    pub channel: u64,
    /// Its image version.
    pub image: Option<Hex<32>>,
    /// Living nodes: not revoked, and no other has their place.
    pub nodes: u64,
    /// Machines that were seen.
    pub machines: u64,
    /// Machines that wait for approval.
    pub waiting: u64,
    /// Machines whose install goes on.
    pub imaging: u64,
    /// Machines whose newest install failed.
    pub failed: u64,
    /// WAN bytes of all versions.
    pub wan_bytes: u64,
    /// Words by which sites are put together.
    #[serde(default)]
    pub tags: Vec<String>,
}

/// A site and the first enrolment token for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SiteCreated {
    /// The site.
    pub site: SiteInfo,
    /// Shown this once.
    pub token: String,
}

/// `POST /api/v1/sites/{name}/tokens`: a further enrolment token. The body may be empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// The node that is built anew: its key, or a beginning of it that fits one. When the token is used, it is revoked, and the new node
    /// has its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<String>,
}

/// A new enrolment token.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TokenMade {
    /// Shown this once.
    pub token: String,
}

/// An enrolment token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TokenInfo {
    /// Its number, to revoke it by.
    pub id: u64,
    /// For which site.
    pub site: String,
    /// `open`, `used`, `expired`, `revoked` or `frozen` (it was used twice).
    pub state: String,
    /// When it ends, in seconds since 1970 by HQ's clock.
    pub expires_unix_seconds: u64,
    /// The key of the node whose place its user gets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<Hex<32>>,
}

/// What a manifest describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ImageKind {
    /// A disk.
    Image,
    /// What machines boot to be imaged.
    BootBundle,
}

/// A published version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ImageVersion {
    /// Its manifest's digest.
    pub version: Hex<32>,
    /// The image's name.
    pub name: String,
    /// Image or boot bundle.
    pub kind: ImageKind,
    /// Grows with each published version.
    pub release: u64,
    /// Size of the disk.
    pub disk_bytes: u64,
    /// Bytes in stored chunks.
    pub used_bytes: u64,
    /// Bytes of all objects.
    pub object_bytes: u64,
    /// When it was published, or began to wait.
    pub unix_seconds: u64,
    /// Whether it still waits for a signature by a key that HQ does not hold: then no site can be given it.
    #[serde(default)]
    pub waiting: bool,
}

/// `POST /api/v1/objects/missing`, question and answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct MissingObjects {
    /// Object hashes; at most [`crate::MISSING_OBJECTS_MAX`].
    pub objects: Vec<Hex<32>>,
}

/// `POST /api/v1/orders`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NewOrder {
    /// The site's name.
    pub site: String,
    /// A version: its digest, a beginning of it that fits one, or `NAME` for the newest of an image.
    pub version: String,
    /// One machine, or all of the site.
    pub machine: Option<Hex<16>>,
    /// Whether a finished version may be replaced.
    #[serde(default)]
    pub erase: bool,
}

/// An order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct OrderInfo {
    /// The site's name.
    pub site: String,
    /// Its number in the site.
    pub number: u64,
    /// The version.
    pub version: Hex<32>,
    /// The image's name.
    pub name: String,
    /// One machine, or all.
    pub machine: Option<Hex<16>>,
    /// Whether a finished version may be replaced.
    pub erase: bool,
    /// Machines that finished it.
    pub completed: u64,
    /// Whether it still waits for a signature by a key that HQ does not hold: then no node knows it.
    #[serde(default)]
    pub waiting: bool,
}

/// Whether a machine may be imaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum AdmissionState {
    /// It waits for approval.
    Waiting,
    /// A person approved it, or its site's rule did.
    Admitted,
}

/// What a machine needs of people, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum MachineState {
    /// It waits for approval.
    Waiting,
    /// It may be imaged, and nothing was heard of an install.
    Ready,
    /// An install goes on.
    Imaging,
    /// The newest install ended well.
    Done,
    /// The newest install ended with a reason.
    Failed,
}

impl MachineState {
    /// Of a machine by its admission and the newest report on its install.
    pub fn of(admission: AdmissionState, install: Option<&InstallReport>) -> Self {
        let install = match admission {
            AdmissionState::Waiting => return Self::Waiting,
            AdmissionState::Admitted => install.map(|report| report.state),
        };
        match install {
            None | Some(InstallState::Waiting) => Self::Ready,
            Some(InstallState::Done) => Self::Done,
            Some(InstallState::Failed) => Self::Failed,
            Some(_) => Self::Imaging,
        }
    }

    /// As in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Ready => "ready",
            Self::Imaging => "imaging",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }
}

/// A machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Machine {
    /// Its identity.
    pub id: Hex<16>,
    /// The site's name.
    pub site: String,
    /// Whether it may be imaged.
    pub admission: AdmissionState,
    /// The same and its newest install in one word.
    pub state: MachineState,
    /// What it says of itself.
    pub facts: Facts,
    /// The newest report on its install.
    pub install: Option<InstallReport>,
    /// Orders that it finished.
    pub completed: Vec<u64>,
    /// When it was last heard of, by HQ's clock.
    pub seen_unix_seconds: u64,
    /// The number of its last change: of two states of a machine the one with the higher is newer.
    pub change: u64,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NodeInfo {
    /// Its key.
    pub key: Hex<32>,
    /// The site's name.
    pub site: String,
    /// Its name.
    pub name: String,
    /// Its machine.
    pub machine: Hex<16>,
    /// How it came: `enrolled` by a token, `certified` by HQ while its machine was imaged, `confirmed` after a neighbour certified it,
    /// `voucher` for whoever opens one, `forestalled` when it was revoked before HQ met it.
    pub origin: String,
    /// Whether it is revoked.
    pub revoked: bool,
    /// When it was last heard of, by HQ's clock; 0 if never.
    pub seen_unix_seconds: u64,
    /// Where it was last heard of.
    pub address: Option<String>,
    /// The key of the node that has its place: its machine was imaged again, or a token said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced_by: Option<Hex<32>>,
    /// Since when, by HQ's clock; 0 when HQ took no note of it.
    #[serde(default)]
    pub replaced_unix_seconds: u64,
    /// When people were told that it was heard of all the same; 0 if never.
    #[serde(default)]
    pub heard_again_unix_seconds: u64,
}

impl NodeInfo {
    /// Another node has its place, and it was not heard of since.
    pub fn is_gone(&self) -> bool {
        self.replaced_by.is_some() && self.heard_again_unix_seconds == 0
    }

    /// For people: what is wrong with it, or how it came.
    pub fn state(&self) -> &str {
        match self.replaced_by {
            _ if self.revoked => "revoked",
            None => &self.origin,
            Some(_) if self.is_gone() => "replaced",
            Some(_) => "replaced, but heard",
        }
    }
}

/// `POST /api/v1/nodes/{key}/rename`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NodeRename {
    /// 1 to 64 characters; no other living node of the site has it.
    pub name: String,
}

/// A line of what happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EventInfo {
    /// Grows with each line.
    pub id: u64,
    /// The site's name.
    pub site: String,
    /// The node that told it, by its name.
    pub source: String,
    /// What it is about: `holds`, `accused`, `boot`, `node` or `trouble`.
    pub kind: String,
    /// One sentence.
    pub message: String,
    /// When it was heard, by HQ's clock.
    pub unix_seconds: u64,
}

/// WAN bytes of one version in one site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LedgerLine {
    /// The site's name.
    pub site: String,
    /// The version.
    pub version: Hex<32>,
    /// Fetched by the site's one fetcher, or by islands that could not reach it.
    pub kind: LeaseKind,
    /// Body bytes that HQ wrote to sockets of the site.
    pub wan_bytes: u64,
    /// Bytes of all objects of the version.
    pub object_bytes: u64,
}
