//! Noticing another boot server on the same network, for the boot doctor.

use std::net::Ipv4Addr;

use super::message::{DhcpMessage, MessageType, options};
use crate::quirks;

/// Another server that tells machines what to boot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ForeignBootServer {
    /// Its server id.
    pub server: Ipv4Addr,
    /// The file it names, if any; at most 128 characters.
    pub file: Option<String>,
    /// It is a proxy: it gives no lease. (dnsmasq sets `yiaddr` in its answers on 4011, `proxy-bios-pxeservice.pcap`.)
    pub is_proxy: bool,
}

/// Whether an OFFER or ACK comes from a boot server that is not ours.
///
/// `siaddr` alone means nothing: the plain DHCP server of `myproxy-uefi-direct.pcap` sets it without serving any file.
pub fn foreign_boot_server(message: &DhcpMessage, ours: &[Ipv4Addr]) -> Option<ForeignBootServer> {
    let answers = matches!(
        message.message_type(),
        Some(MessageType::Offer | MessageType::Ack)
    );
    let server = message.server_id()?;
    if !message.is_reply || !answers || ours.contains(&server) {
        return None;
    }
    let class = message.vendor_class();
    let is_boot_class =
        class.starts_with(quirks::PXE_CLASS) || class.starts_with(quirks::HTTP_BOOT_CLASS);
    let file = message
        .boot_file()
        .map(|name| name.chars().take(128).collect());
    (file.is_some() || is_boot_class).then_some(ForeignBootServer {
        server,
        file,
        is_proxy: message.option(options::LEASE_TIME).is_none(),
    })
}
