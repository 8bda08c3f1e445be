//! Finding each other: signed beacons by multicast and broadcast, and addresses that somebody named. Any one way is enough.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    sync::Arc,
    time::Duration,
};

use peer_cache_proto::{
    acquaintances::{Acquaintance, Remembered},
    beacon::{BEACON_BYTES_MAX, BEACON_EVERY, BEACON_PORT, Beacon, BeaconPatience},
    mix,
    wire::Credentials,
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{net::UdpSocket, sync::Semaphore, time::Instant};
use trust_format::{PublicKey, Verified, peek};

use crate::{
    session::{ConnectError, dial},
    shared::{Shared, lock},
};

/// In the local network control block (RFC 5771, section 4), which switches do not prune; not assigned to anybody.
const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 184);
/// Link-local scope (RFC 4291, section 2.7).
const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0x4c, 0x4d50);
const DIAL_EVERY: Duration = Duration::from_millis(500);
/// A pair is joined by the one with the lower key; if that does not happen, the other one tries as well.
const DIAL_ANYWAY_AFTER: Duration = Duration::from_secs(2);
const BACK_OFF_MIN: Duration = Duration::from_millis(500);
const BACK_OFF_MAX: Duration = Duration::from_secs(30);
/// Peers that are only heard of, and that are dialled at the same time. Each that is not there costs four packets of 1,200 bytes
/// in three seconds, to an address that anybody may have written on a beacon.
const HEARSAY_DIALS_MAX: usize = 16;

/// Sends beacons and listens for them until the program ends.
///
/// # Errors
/// When no socket can be opened.
pub(crate) fn start(shared: &Arc<Shared>) -> io::Result<()> {
    let v4 = Arc::new(socket_v4()?);
    tokio::spawn(listen(shared.clone(), v4.clone()));
    // a machine without IPv6 has no such socket, and needs none
    let v6 = socket_v6().ok().map(Arc::new);
    if let Some(v6) = v6.clone() {
        tokio::spawn(listen(shared.clone(), v6));
    }
    tokio::spawn(send(shared.clone(), v4, v6));
    Ok(())
}

fn reusable(domain: Domain) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn socket_v4() -> io::Result<UdpSocket> {
    let socket = reusable(Domain::IPV4)?;
    socket.set_broadcast(true)?;
    socket.set_multicast_ttl_v4(1)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, BEACON_PORT)).into())?;
    UdpSocket::from_std(socket.into())
}

fn socket_v6() -> io::Result<UdpSocket> {
    let socket = reusable(Domain::IPV6)?;
    socket.set_only_v6(true)?;
    socket.set_multicast_hops_v6(1)?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, BEACON_PORT)).into())?;
    UdpSocket::from_std(socket.into())
}

struct Interface {
    index: u32,
    address: Option<Ipv4Addr>,
    broadcast: Option<Ipv4Addr>,
}

fn interfaces() -> BTreeMap<String, Interface> {
    use nix::net::if_::{InterfaceFlags, if_nametoindex};
    let mut found: BTreeMap<String, Interface> = BTreeMap::new();
    let Ok(all) = nix::ifaddrs::getifaddrs() else {
        return found;
    };
    for entry in all {
        let up = entry.flags.contains(InterfaceFlags::IFF_UP)
            && !entry.flags.contains(InterfaceFlags::IFF_LOOPBACK);
        let Ok(index) = if_nametoindex(entry.interface_name.as_str()) else {
            continue;
        };
        if !up {
            continue;
        }
        let interface = found.entry(entry.interface_name).or_insert(Interface {
            index,
            address: None,
            broadcast: None,
        });
        let v4 = |a: Option<nix::sys::socket::SockaddrStorage>| {
            a.and_then(|a| a.as_sockaddr_in().map(nix::sys::socket::SockaddrIn::ip))
        };
        interface.address = v4(entry.address).or(interface.address);
        interface.broadcast = v4(entry.broadcast).or(interface.broadcast);
    }
    found
}

fn beacon(shared: &Shared) -> Option<Vec<u8>> {
    let site = lock(&shared.site);
    let channel = site.channel()?;
    let beacon = Beacon {
        node: shared.identity.public(),
        site: channel.site,
        boot: shared.boot,
        uptime: shared.now(),
        port: shared.endpoint.local_addr().ok()?.port(),
        channel: channel.number,
        revocation: channel.revocation,
    };
    drop(site);
    Some(shared.identity.sign(&beacon))
}

async fn send(shared: Arc<Shared>, v4: Arc<UdpSocket>, v6: Option<Arc<UdpSocket>>) {
    let mut every = tokio::time::interval(BEACON_EVERY);
    loop {
        every.tick().await;
        let interfaces = interfaces();
        for interface in interfaces.values() {
            // joined again each time: interfaces come and go, and a second join of the same group is refused harmlessly
            if let Some(address) = interface.address {
                let _ = v4.join_multicast_v4(GROUP_V4, address);
            }
            if let Some(v6) = &v6 {
                let _ = v6.join_multicast_v6(&GROUP_V6, interface.index);
            }
        }
        let Some(bytes) = beacon(&shared) else {
            continue;
        };
        for interface in interfaces.values() {
            send_on(interface, &bytes, &v4, v6.as_deref()).await;
        }
    }
}

/// An interface on which one way is closed has the others.
async fn send_on(interface: &Interface, bytes: &[u8], v4: &UdpSocket, v6: Option<&UdpSocket>) {
    if let Some(address) = interface.address
        && socket2::SockRef::from(v4)
            .set_multicast_if_v4(&address)
            .is_ok()
    {
        let _ = v4.send_to(bytes, (GROUP_V4, BEACON_PORT)).await;
    }
    if let Some(broadcast) = interface.broadcast {
        let _ = v4.send_to(bytes, (broadcast, BEACON_PORT)).await;
    }
    if let Some(v6) = v6 {
        let target = SocketAddrV6::new(GROUP_V6, BEACON_PORT, 0, interface.index);
        let _ = v6.send_to(bytes, target).await;
    }
}

async fn listen(shared: Arc<Shared>, socket: Arc<UdpSocket>) {
    let mut buffer = [0; BEACON_BYTES_MAX];
    let mut patience = BeaconPatience::default();
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        let Some(claimed) = worth_checking(&shared, &buffer[..length]) else {
            continue;
        };
        if patience.is_left(shared.now(), from.ip()) {
            hear(&shared, &buffer[..length], claimed, from);
        }
    }
}

/// Who a beacon claims to be from, if it is one that says anything here. Costs no signature check.
fn worth_checking(shared: &Shared, bytes: &[u8]) -> Option<PublicKey> {
    let claims = peek::<Beacon>(bytes).ok()?;
    let claimed = claims.node;
    if claimed == shared.identity.public() || shared.is_accused(&claimed) {
        return None;
    }
    lock(&shared.site)
        .channel()
        .is_none_or(|c| c.site == claims.site && !c.revoked.contains(&claimed))
        .then_some(claimed)
}

/// A beacon is a hint where somebody may be; who it is shows when it is connected.
fn hear(shared: &Shared, bytes: &[u8], claimed: PublicKey, from: SocketAddr) {
    let Ok(beacon) = Verified::<Beacon>::check_by(bytes, &claimed) else {
        return;
    };
    let connected = shared.peers().into_iter().find(|p| p.key == claimed);
    if connected.is_some_and(|p| p.is_node()) {
        lock(&shared.clocks).handle_reading(shared.now(), claimed, beacon.boot, beacon.uptime);
        return;
    }
    let address = match from {
        SocketAddr::V4(v4) => SocketAddr::from((*v4.ip(), beacon.port)),
        SocketAddr::V6(v6) => SocketAddrV6::new(*v6.ip(), beacon.port, 0, v6.scope_id()).into(),
    };
    let peers = shared.peers();
    let is_connected = |key: &PublicKey| peers.iter().any(|p| p.key == *key);
    let remembered = lock(&shared.known).handle_heard(claimed, address, &is_connected);
    if remembered == Remembered::No {
        return;
    }
    // whoever is heard can be reached again, however long it could not
    lock(&shared.heard).insert(claimed);
    shared.heard_of_peers.notify_one();
}

impl Shared {
    /// Remembers where a peer is, as somebody who is believed says. A new one is dialled at once.
    pub(crate) fn know(&self, key: PublicKey, address: SocketAddr) {
        let remembered = lock(&self.known).handle_named(key, address);
        if remembered == Remembered::News {
            self.heard_of_peers.notify_one();
        }
    }
}

struct Attempt {
    first_seen: Instant,
    next: Instant,
    last: Instant,
    back_off: Duration,
}

/// Connects to every known peer that is not connected, with back-off and jitter.
pub(crate) async fn dial_known(shared: Arc<Shared>) {
    let mut attempts: BTreeMap<PublicKey, Attempt> = BTreeMap::new();
    let mut every = tokio::time::interval(DIAL_EVERY);
    let hearsay = Arc::new(Semaphore::new(HEARSAY_DIALS_MAX));
    let me = shared.identity.public();
    loop {
        tokio::select! {
            _ = every.tick() => {}
            () = shared.heard_of_peers.notified() => {}
        }
        let connected: Vec<PublicKey> = shared.peers().iter().map(|p| p.key).collect();
        let known = lock(&shared.known).all();
        let heard = std::mem::take(&mut *lock(&shared.heard));
        attempts.retain(|key, _| known.contains_key(key) && !connected.contains(key));
        let now = Instant::now();
        // who waits longest comes first: others may be heard over and over
        let mut known: Vec<(PublicKey, Acquaintance)> = known.into_iter().collect();
        known.sort_by_key(|(key, _)| attempts.get(key).map_or(now, |a| a.next));
        for (
            key,
            Acquaintance {
                address,
                heard: hearsay_of,
            },
        ) in known
        {
            if key == me || connected.contains(&key) || shared.is_accused(&key) {
                continue;
            }
            let attempt = attempts.entry(key).or_insert(Attempt {
                first_seen: now,
                next: now,
                last: now,
                back_off: BACK_OFF_MIN,
            });
            if heard.contains(&key) {
                attempt.next = attempt.next.min(attempt.last + BEACON_EVERY);
            }
            let ours =
                me < key || attempt.first_seen.elapsed() > DIAL_ANYWAY_AFTER || no_ticket(&shared);
            if !ours || now < attempt.next {
                continue;
            }
            let turn = hearsay_of.map(|_| hearsay.clone().try_acquire_owned());
            let Ok(turn) = turn.transpose() else {
                continue;
            };
            let jitter = mix(
                u64::from(me.0[0]) << 8 | u64::from(me.0[1]),
                u64::try_from(attempt.back_off.as_millis()).unwrap_or(0),
            ) % 300;
            attempt.last = now;
            attempt.next = now + attempt.back_off + Duration::from_millis(jitter);
            attempt.back_off = (attempt.back_off * 2).min(BACK_OFF_MAX);
            let shared = shared.clone();
            tokio::spawn(async move {
                let _turn = turn;
                match dial(&shared, address).await {
                    Ok(_) | Err(ConnectError::Twice { .. }) => {}
                    Err(error) => tracing::debug!(%error, "dialling"),
                }
            });
        }
    }
}

/// An agent that is not admitted yet has nobody who would dial it.
fn no_ticket(shared: &Shared) -> bool {
    matches!(
        &*lock(&shared.credentials),
        Credentials::Agent { ticket: None }
    )
}
