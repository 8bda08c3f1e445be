//! DHCP as a boot server sees it: a tolerant reader, the pure decision, and the encoder of answers.
//!
//! [`DhcpMessage`] reads what firmware sends, [`decide`] says what a proxyDHCP server answers, [`DhcpReply`] goes back on the wire.
//! A server that also owns the addresses ([`crate::lease`]) takes only the [`BootFields`] from here.

mod client;
mod decide;
mod foreign;
mod message;
mod reply;

pub use client::{BootClient, ClientUuid, MacAddress, Transport};
pub use decide::{
    AGENT_FILE, BootAnswer, BootPolicy, Decision, Destination, DhcpRequest, IgnoreReason,
    LOCAL_DISK_FILE, ServerPort, boot_fields, decide, identify, identify_for_proxy,
};
pub use foreign::{ForeignBootServer, foreign_boot_server};
pub use message::{DhcpMessage, MessageType, ParseDhcpError, options};
pub use reply::{BootFields, DhcpReply, EncodeDhcpError, LeaseFields};

#[cfg(test)]
mod tests;
