//! What agents and nodes report.

use serde::{Deserialize, Serialize};

use crate::text::{Base64, Hex};

/// What a machine says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Facts {
    /// SMBIOS UUID.
    pub uuid: Option<Hex<16>>,
    /// SMBIOS serial.
    pub serial: Option<String>,
    /// MAC addresses of wired interfaces.
    pub macs: Vec<Hex<6>>,
    /// Maker and model.
    pub model: String,
    /// What it shows on its screen while it waits, such as `K7Q-2MX`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The key of its TPM, proved to the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpm: Option<Hex<32>>,
}

/// How far an install is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum InstallState {
    /// Waits to be approved.
    Waiting,
    /// Checks the machine before anything is touched.
    Preflight,
    /// Writes the disk.
    Writing,
    /// Reads the disk back.
    Verifying,
    /// Puts the node and the machine's own settings into the new system.
    Customising,
    /// Everything is written but the first sector.
    Committing,
    /// The disk is whole; the machine starts its new system.
    Rebooting,
    /// The machine's node called home from the new system, or the target was a file.
    Done,
    /// Ended with a reason.
    Failed,
}

/// An agent's report on its install.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct InstallReport {
    /// What it is doing.
    pub state: InstallState,
    /// The image version.
    pub version: Option<Hex<32>>,
    /// The order's number.
    pub order: Option<u64>,
    /// Bytes of the disk that are done in this state.
    pub done_bytes: u64,
    /// Of how many.
    pub total_bytes: u64,
    /// Object bytes received so far.
    pub received_bytes: u64,
    /// Who sent how many parts of objects so far: the first eight digits of a peer's key, and where it is (`1f2e3d4c at 10.4.2.17`).
    pub from: Vec<(String, u64)>,
    /// The agent's own key: as a sender it is this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<Hex<32>>,
    /// One sentence for people: the reason of a failure, what happens next.
    pub message: String,
}

/// What a node reports to HQ.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum NodeReport {
    /// A machine waits for approval or an order.
    Waiting {
        /// Which.
        machine: Hex<16>,
        /// What it says of itself.
        facts: Facts,
    },
    /// The node admitted a machine.
    Admitted {
        /// Which.
        machine: Hex<16>,
        /// What it says of itself.
        facts: Facts,
        /// Under which order.
        order: u64,
        /// Whether somebody typed the site's PIN at it.
        #[serde(default)]
        by_pin: bool,
    },
    /// An install goes on.
    Install {
        /// Which machine.
        machine: Hex<16>,
        /// How far it is.
        report: InstallReport,
    },
    /// Signed proof that a machine finished an order.
    Completion {
        /// The document.
        document: Base64,
    },
    /// A version is complete on this node.
    Holds {
        /// Which.
        version: Hex<32>,
        /// Who sent how many parts of objects.
        from: Vec<(String, u64)>,
    },
    /// A node without room for everything has what it is to keep of a version.
    HoldsShare {
        /// Which.
        version: Hex<32>,
        /// Chunks that it keeps.
        chunks: u64,
        /// Chunks of the version.
        of: u64,
    },
    /// A peer sent wrong bytes.
    Accused {
        /// Its key.
        peer: Hex<32>,
        /// Where it was.
        address: String,
        /// The chunk, if it is known.
        chunk: Option<Hex<32>>,
        /// The key of the neighbour that received them, if that was not the node itself.
        #[serde(default)]
        to: Option<Hex<32>>,
    },
    /// A machine asked for a boot file, or did not get it.
    Boot {
        /// Its MAC address.
        mac: Hex<6>,
        /// Its UUID as the firmware sent it.
        uuid: Option<Hex<16>>,
        /// What happened, in words.
        message: String,
    },
    /// Something went wrong on the node itself.
    Trouble {
        /// In words: what, where, and what happens next.
        message: String,
    },
}

/// A report with its number, which grows by one with each report of a node, so that each arrives once and in order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NumberedReport {
    /// 1 for a node's first report.
    pub number: u64,
    /// The node's clock when it was written, in seconds since 1970; a hint, clocks are wrong.
    pub unix_seconds: u64,
    /// What.
    pub report: NodeReport,
}
