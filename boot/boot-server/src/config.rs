//! What a boot server is told at its start.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use boot_proto::lease::{LeaseRecord, PoolConfig};

/// How DHCP is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// Beside the site's own DHCP server: boot files only, never an address.
    Proxy,
    /// As the site's only DHCP server. Needs one interface whose address is the pool's `server`.
    Full(PoolConfig),
    /// Not at all: the site's DHCP server names us (options 66 and 67). TFTP and HTTP are served.
    Off,
}

/// The ports. Tests choose their own, 0 lets the system choose; firmware knows only the defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// DHCP server, 67.
    pub dhcp: u16,
    /// DHCP client, 68: where broadcast answers go, and where other servers' answers are seen.
    pub dhcp_client: u16,
    /// PXE boot server, 4011.
    pub pxe: u16,
    /// TFTP, 69.
    pub tftp: u16,
}

impl Default for Ports {
    fn default() -> Self {
        Self {
            dhcp: 67,
            dhcp_client: 68,
            pxe: 4011,
            tftp: 69,
        }
    }
}

/// A boot server's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootServerConfig {
    /// The interface to serve; `None` serves every interface that is up, is no loopback and has an IPv4 address.
    pub interface: Option<String>,
    /// How DHCP is answered.
    pub mode: Mode,
    /// The address to give as ours, by interface; an interface that is not named here uses its first address.
    pub addresses: BTreeMap<String, Ipv4Addr>,
    /// TCP port of the HTTP server; 0 lets the system choose.
    pub http_port: u16,
    /// UDP ports.
    pub ports: Ports,
    /// Leases of an earlier run, for [`Mode::Full`].
    pub leases: Vec<LeaseRecord>,
}

impl BootServerConfig {
    /// The usual ports, HTTP on 8080, no earlier leases.
    pub fn new(interface: Option<String>, mode: Mode) -> Self {
        Self {
            interface,
            mode,
            addresses: BTreeMap::new(),
            http_port: 8080,
            ports: Ports::default(),
            leases: Vec::new(),
        }
    }
}
