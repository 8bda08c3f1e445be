//! The wired network: links up, an address by DHCP on every interface that has a cable, kept for as long as the agent runs.
//!
//! Every wired interface is used, because which one leads to a node is not known before: a till may have one in the
//! store's network and one to its card terminal. An interface that appears or gets its cable later joins.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use futures_util::TryStreamExt;
use mozim::{DhcpV4Client, DhcpV4Config, DhcpV4Lease, DhcpV4State};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

use super::inventory;

/// How often interfaces are looked at for a cable, or for new ones.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// One try to get a lease; a server that pings addresses before it offers them takes a few seconds.
const LEASE_TRY: Duration = Duration::from_secs(30);
/// Pauses between tries double from the first to the last, with up to as much again by chance: after a power cut a whole
/// store asks at once.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Interfaces served; a machine with more is a switch.
const INTERFACES_MAX: usize = 16;
/// Default routes of several interfaces differ in metric, by the interface's index from this on.
const ROUTE_METRIC: u32 = 100;
/// MTUs that a DHCP server may set (option 26): RFC 2132 allows 68, which IPv6 and we do not.
const MTU_RANGE: std::ops::RangeInclusive<u16> = 1280..=9216;
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// What a DHCP server gave to one interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lease {
    /// The interface's name.
    pub(crate) interface: String,
    /// Our address.
    pub(crate) address: Ipv4Addr,
    /// Length of the network's prefix.
    pub(crate) prefix_bits: u8,
    /// The default router (option 3, or 121's default route).
    pub(crate) router: Option<Ipv4Addr>,
    /// Name servers (option 6).
    pub(crate) dns: Vec<Ipv4Addr>,
    /// The server that gave it (option 54).
    pub(crate) server: Ipv4Addr,
    /// `siaddr`: the boot server, where one is named.
    pub(crate) siaddr: Option<Ipv4Addr>,
    /// `file`: the boot file, where one is named.
    pub(crate) boot_file: Option<String>,
    /// How long the address is ours.
    pub(crate) duration: Duration,
}

/// No address within the time given; what was seen says where to look.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BringUpError {
    /// The kernel's network interface cannot be used.
    #[error("cannot talk to the kernel about network interfaces")]
    Netlink(#[source] io::Error),
    /// No interface at all.
    #[error(
        "this machine has no wired network interface that the boot media know ({}): a driver may be missing",
        if without_driver.is_empty() { "and no network device on its PCI bus".to_owned() }
        else { format!("network devices without driver: {}", without_driver.join(", ")) }
    )]
    NoInterface {
        /// PCI identifiers of network devices that no driver has taken, such as `8086:15f9`.
        without_driver: Vec<String>,
    },
    /// No cable.
    #[error("no network cable with a live other end in {}", interfaces.join(", "))]
    NoCarrier {
        /// Those looked at.
        interfaces: Vec<String>,
    },
    /// Nobody answered, or with nothing usable.
    #[error("no address by DHCP on {}: no server answered within {} s", interfaces.join(", "), waited.as_secs())]
    NoLease {
        /// Those that have a cable.
        interfaces: Vec<String>,
        /// How long was waited.
        waited: Duration,
    },
}

/// The network, kept up by tasks in the background until this is dropped.
#[derive(Debug)]
pub(crate) struct Network {
    leases: watch::Receiver<BTreeMap<String, Lease>>,
    keeping: tokio::task::JoinHandle<()>,
}

impl Network {
    /// The leases held now, by interface name.
    pub(crate) fn leases(&self) -> Vec<Lease> {
        self.leases.borrow().values().cloned().collect()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.keeping.abort();
    }
}

/// Brings up the loopback and every wired interface (only the one with the address `only`, if given), and returns with the
/// first lease. Others join in the background, and every lease is renewed there.
///
/// # Errors
/// [`BringUpError`] after `wait` without any lease.
pub(crate) async fn bring_up(
    only: Option<[u8; 6]>,
    wait: Duration,
) -> Result<Network, BringUpError> {
    let (connection, handle, _) = rtnetlink::new_connection().map_err(BringUpError::Netlink)?;
    tokio::spawn(connection);
    if let Err(error) = set_up_link(&handle, "lo").await {
        tracing::warn!(%error, "cannot bring up the loopback interface");
    }
    let (sender, mut leases) = watch::channel(BTreeMap::new());
    let keeping = tokio::spawn(keep_interfaces(handle, sender, only));
    let network = Network {
        leases: leases.clone(),
        keeping,
    };
    let won = timeout_at(
        Instant::now() + wait,
        leases.wait_for(|leases| !leases.is_empty()),
    )
    .await;
    match won {
        Ok(Ok(_)) => Ok(network),
        _ => Err(explain(only, wait)),
    }
}

fn explain(only: Option<[u8; 6]>, waited: Duration) -> BringUpError {
    let found = wanted_interfaces(only);
    let names = |carrier: bool| -> Vec<String> {
        found
            .iter()
            .filter(|one| one.carrier || !carrier)
            .map(|one| one.name.clone())
            .collect()
    };
    if found.is_empty() {
        return BringUpError::NoInterface {
            without_driver: network_devices_without_driver(Path::new("/sys")),
        };
    }
    match names(true) {
        live if live.is_empty() => BringUpError::NoCarrier {
            interfaces: names(false),
        },
        interfaces => BringUpError::NoLease { interfaces, waited },
    }
}

fn wanted_interfaces(only: Option<[u8; 6]>) -> Vec<inventory::Interface> {
    let mut found = inventory::wired_interfaces();
    found.retain(|one| only.is_none_or(|address| address == one.address));
    found
}

/// Starts a task for each interface as it appears; they end with this one.
async fn keep_interfaces(
    handle: Handle,
    leases: watch::Sender<BTreeMap<String, Lease>>,
    only: Option<[u8; 6]>,
) {
    let mut tasks = tokio::task::JoinSet::new();
    let mut known = BTreeSet::new();
    loop {
        for interface in wanted_interfaces(only) {
            if known.len() < INTERFACES_MAX && known.insert(interface.name.clone()) {
                tasks.spawn(keep_interface(
                    handle.clone(),
                    interface.name,
                    leases.clone(),
                ));
            }
        }
        sleep(LOOK_EVERY).await;
    }
}

/// One interface for good: up, cable, lease, renewals, and from the cable again after a failure.
async fn keep_interface(
    handle: Handle,
    name: String,
    leases: watch::Sender<BTreeMap<String, Lease>>,
) {
    if let Err(error) = set_up_link(&handle, &name).await {
        tracing::warn!(interface = name, %error, "cannot bring up the interface");
    }
    let mut pause = PAUSE_FIRST;
    loop {
        while !inventory::wired_interfaces()
            .iter()
            .any(|one| one.name == name && one.carrier)
        {
            sleep(LOOK_EVERY).await;
        }
        let held =
            |leases: &watch::Sender<BTreeMap<String, Lease>>| leases.borrow().contains_key(&name);
        let error = keep_lease(&handle, &name, &leases).await;
        if held(&leases) {
            pause = PAUSE_FIRST; // it worked for a while
            leases.send_modify(|leases| {
                leases.remove(&name);
            });
        }
        let chance = pause.mul_f64(rand::random::<f64>());
        tracing::warn!(interface = name, error, again_in = ?(pause + chance), "no lease");
        sleep(pause + chance).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Gets a lease and renews it, until that fails; says why.
async fn keep_lease(
    handle: &Handle,
    name: &str,
    leases: &watch::Sender<BTreeMap<String, Lease>>,
) -> String {
    let mut client = match dhcp_client(handle, name).await {
        Ok(client) => client,
        Err(error) => return error,
    };
    let mut last: Option<Lease> = None;
    loop {
        match client.run().await {
            Ok(DhcpV4State::Done(given)) => {
                let lease = lease_of(name, &given);
                if last.as_ref() != Some(&lease) {
                    if let Err(error) = apply(handle, &lease, given.mtu, last.as_ref()).await {
                        return format!("cannot use the address {}: {error}", lease.address);
                    }
                    tracing::info!(interface = name, address = %lease.address, server = %lease.server, "lease");
                    last = Some(lease.clone());
                    leases.send_modify(|leases| {
                        leases.insert(name.to_owned(), lease);
                        write_resolv_conf(leases.values());
                    });
                }
            }
            Ok(state) => tracing::debug!(interface = name, %state, "DHCP"),
            Err(error) => return error.to_string(),
        }
    }
}

async fn dhcp_client(handle: &Handle, name: &str) -> Result<DhcpV4Client, String> {
    let index = link_index(handle, name)
        .await
        .map_err(|error| error.to_string())?;
    let found = inventory::wired_interfaces()
        .into_iter()
        .find(|one| one.name == name);
    let (Some(index), Some(interface)) = (index, found) else {
        return Err("the interface is gone".to_owned());
    };
    let mut config = DhcpV4Config::new(name);
    config.set_timeout_sec(u32::try_from(LEASE_TRY.as_secs()).unwrap_or(u32::MAX));
    config.set_iface_index(index);
    config
        .set_iface_mac_raw(&interface.address)
        .map_err(|error| error.to_string())?;
    DhcpV4Client::init(config, None)
        .await
        .map_err(|error| error.to_string())
}

fn lease_of(name: &str, given: &DhcpV4Lease) -> Lease {
    // RFC 3442: a server that sends option 121 means it instead of option 3.
    let router = match &given.classless_routes {
        Some(routes) => routes
            .iter()
            .find(|route| route.prefix_length == 0)
            .map(|route| route.router),
        None => given
            .gateways
            .as_ref()
            .and_then(|routers| routers.first().copied()),
    };
    Lease {
        interface: name.to_owned(),
        address: given.yiaddr,
        prefix_bits: given.prefix_length(),
        router: router.filter(|router| !router.is_unspecified()),
        dns: given.dns_srvs.clone().unwrap_or_default(),
        server: given.srv_id,
        siaddr: (!given.siaddr.is_unspecified()).then_some(given.siaddr),
        boot_file: given.file_str.clone(),
        duration: Duration::from_secs(given.lease_time_sec.into()),
    }
}

/// Gives the interface its address, MTU and default route, and takes away the address it had.
async fn apply(
    handle: &Handle,
    lease: &Lease,
    mtu: Option<u16>,
    last: Option<&Lease>,
) -> Result<(), rtnetlink::Error> {
    let Some(index) = link_index(handle, &lease.interface).await? else {
        return Ok(()); // unplugged meanwhile; the next renewal fails and says so
    };
    if let Some(last) = last.filter(|last| last.address != lease.address) {
        remove_address(handle, index, last.address).await?;
    }
    handle
        .address()
        .add(index, lease.address.into(), lease.prefix_bits)
        .replace()
        .execute()
        .await?;
    if let Some(mtu) = mtu.filter(|mtu| MTU_RANGE.contains(mtu)) {
        let change = LinkUnspec::new_with_index(index).mtu(mtu.into()).build();
        handle.link().set(change).execute().await?;
    }
    if let Some(router) = lease.router {
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .gateway(router)
            .output_interface(index)
            .priority(ROUTE_METRIC + index)
            .build();
        // A router outside the network (a careless server) costs the way out, not the way to the neighbours.
        if let Err(error) = handle.route().add(route).replace().execute().await {
            tracing::warn!(interface = lease.interface, %router, %error, "cannot use the router");
        }
    }
    Ok(())
}

async fn remove_address(
    handle: &Handle,
    index: u32,
    address: Ipv4Addr,
) -> Result<(), rtnetlink::Error> {
    let mut held = handle
        .address()
        .get()
        .set_link_index_filter(index)
        .execute();
    while let Some(message) = held.try_next().await? {
        let ours = message.header.family == AddressFamily::Inet
            && message
                .attributes
                .iter()
                .any(|one| matches!(one, AddressAttribute::Local(local) if *local == address));
        if ours {
            handle.address().del(message).execute().await?;
        }
    }
    Ok(())
}

async fn set_up_link(handle: &Handle, name: &str) -> Result<(), rtnetlink::Error> {
    if let Some(index) = link_index(handle, name).await? {
        handle
            .link()
            .set(LinkUnspec::new_with_index(index).up().build())
            .execute()
            .await?;
    }
    Ok(())
}

async fn link_index(handle: &Handle, name: &str) -> Result<Option<u32>, rtnetlink::Error> {
    let found = handle
        .link()
        .get()
        .match_name(name)
        .execute()
        .try_next()
        .await?;
    Ok(found.map(|link| link.header.index))
}

/// For programs and libraries that look up names.
fn write_resolv_conf<'a>(leases: impl Iterator<Item = &'a Lease>) {
    let lines: String = leases
        .flat_map(|lease| &lease.dns)
        .map(|server| format!("nameserver {server}\n"))
        .collect();
    if let Err(error) = fs::write(RESOLV_CONF, lines) {
        tracing::warn!(%error, RESOLV_CONF, "cannot write the name servers");
    }
}

/// PCI network devices (class 02) that no driver has taken, as `vendor:device`.
fn network_devices_without_driver(sys: &Path) -> Vec<String> {
    let read = |path: &Path| {
        fs::read_to_string(path)
            .unwrap_or_default()
            .trim()
            .trim_start_matches("0x")
            .to_owned()
    };
    let devices = fs::read_dir(sys.join("bus/pci/devices"))
        .into_iter()
        .flatten()
        .flatten();
    let mut found: Vec<String> = devices
        .map(|device| device.path())
        .filter(|path| read(&path.join("class")).starts_with("02") && !path.join("driver").exists())
        .map(|path| {
            format!(
                "{}:{}",
                read(&path.join("vendor")),
                read(&path.join("device"))
            )
        })
        .collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests;
