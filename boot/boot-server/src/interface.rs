//! The network interfaces of this machine.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

use crate::config::BootServerConfig;
use crate::server::StartError;

/// Used where the system does not tell.
const MTU_DEFAULT: u16 = 1500;

/// An interface to serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) name: String,
    /// Our address on it, as clients are told.
    pub(crate) address: Ipv4Addr,
    pub(crate) mtu: u16,
}

/// The interfaces that the configuration asks for.
pub(crate) fn chosen(config: &BootServerConfig) -> Result<Vec<Interface>, StartError> {
    let addresses = getifaddrs().map_err(|source| StartError::ReadInterfaces {
        source: source.into(),
    })?;
    let mut known: BTreeMap<String, (InterfaceFlags, Option<Ipv4Addr>)> = BTreeMap::new();
    for entry in addresses {
        let address = entry
            .address
            .as_ref()
            .and_then(|address| address.as_sockaddr_in())
            .map(|v4| v4.ip());
        let (_, first) = known
            .entry(entry.interface_name)
            .or_insert((entry.flags, None));
        *first = first.or(address);
    }
    let serve = |name: &str, first: Option<Ipv4Addr>| {
        let address = config.addresses.get(name).copied().or(first)?;
        Some(Interface {
            name: name.to_owned(),
            address,
            mtu: mtu(name),
        })
    };
    match &config.interface {
        Some(name) => {
            let (_, first) = known.get(name).ok_or_else(|| StartError::NoSuchInterface {
                name: name.clone(),
                known: known.keys().cloned().collect(),
            })?;
            let interface =
                serve(name, *first).ok_or_else(|| StartError::NoAddress { name: name.clone() })?;
            Ok(vec![interface])
        }
        None => {
            let served: Vec<Interface> = known
                .iter()
                .filter(|(_, (flags, _))| {
                    flags.contains(InterfaceFlags::IFF_UP)
                        && !flags.contains(InterfaceFlags::IFF_LOOPBACK)
                })
                .filter_map(|(name, (_, first))| serve(name, *first))
                .collect();
            if served.is_empty() {
                Err(StartError::NoInterface)
            } else {
                Ok(served)
            }
        }
    }
}

fn mtu(name: &str) -> u16 {
    std::fs::read_to_string(format!("/sys/class/net/{name}/mtu"))
        .ok()
        .and_then(|text| text.trim().parse::<u64>().ok())
        .map_or(MTU_DEFAULT, |mtu| u16::try_from(mtu).unwrap_or(u16::MAX))
        // Loopback says 65536; what leaves this machine is never larger than an Ethernet frame that every switch passes.
        .min(MTU_DEFAULT)
}
