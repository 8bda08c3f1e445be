//! A chain in a few numbers.

use serde::{Deserialize, Serialize};

/// `GET /api/v1/summary`: what there is within the caller's scope.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Summary {
    /// Sites.
    pub sites: u64,
    /// Machines by what they need of people.
    pub machines: MachineCounts,
    /// Living nodes; who opens a voucher is none.
    pub nodes: NodeCounts,
    /// Body bytes that HQ wrote to sockets of these sites.
    pub wan_bytes: u64,
}

/// Machines by [`crate::MachineState`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MachineCounts {
    /// Wait for approval.
    pub waiting: u64,
    /// May be imaged.
    pub ready: u64,
    /// Are being imaged.
    pub imaging: u64,
    /// Ended well.
    pub done: u64,
    /// Ended with a reason.
    pub failed: u64,
}

/// Living nodes by whether they are there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NodeCounts {
    /// Heard of within two minutes.
    pub there: u64,
    /// Not heard of since.
    pub silent: u64,
}
