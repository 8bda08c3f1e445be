//! The pool itself.

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use super::config::{PoolConfig, PoolConfigError};
use crate::dhcp::{
    BootFields, Destination, DhcpMessage, DhcpReply, LeaseFields, MacAddress, MessageType, options,
};
use crate::quirks;

/// An offer that nobody takes up is free again after this; OVMF collects offers for 4 s, iPXE for 2 s.
const OFFER_HOLD: Duration = Duration::from_secs(30);
/// An address that a client found in use by a stranger rests this long.
const DECLINE_HOLD: Duration = Duration::from_secs(600);
/// Answers waiting to be taken; a caller that never drains them gets no more.
const ACTIONS_MAX: usize = 64;
/// The port clients listen on.
const CLIENT_PORT: u16 = 68;

/// What the caller must do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseAction {
    /// Send this there.
    Send {
        /// The answer.
        reply: Box<DhcpReply>,
        /// Where it goes.
        to: Destination,
    },
    /// The set of leases changed: store [`LeasePool::leases`].
    Changed,
    /// No address is free for this machine. Tell someone.
    Exhausted {
        /// Who asked.
        mac: MacAddress,
    },
}

/// One lease, as stored over a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseRecord {
    /// Who has it.
    pub mac: MacAddress,
    /// The address.
    pub address: Ipv4Addr,
    /// For how much longer.
    pub remaining: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hold {
    Offered(MacAddress),
    Bound(MacAddress),
    Declined,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    hold: Hold,
    until: Duration,
}

impl Entry {
    fn owner(&self) -> Option<MacAddress> {
        match self.hold {
            Hold::Offered(mac) | Hold::Bound(mac) => Some(mac),
            Hold::Declined => None,
        }
    }
}

/// The pool: at most one entry per address, at most one address per machine.
#[derive(Debug)]
pub struct LeasePool {
    config: PoolConfig,
    entries: BTreeMap<Ipv4Addr, Entry>,
    addresses: BTreeMap<MacAddress, Ipv4Addr>,
    actions: VecDeque<LeaseAction>,
}

impl LeasePool {
    /// An empty pool.
    ///
    /// # Errors
    /// [`PoolConfigError`] names what is wrong with the configuration.
    pub fn new(config: PoolConfig) -> Result<Self, PoolConfigError> {
        config.check()?;
        Ok(Self {
            config,
            entries: BTreeMap::new(),
            addresses: BTreeMap::new(),
            actions: VecDeque::new(),
        })
    }

    /// Takes back leases of an earlier run. Those outside the pool, run out, or in conflict with what is held are left out.
    pub fn import(&mut self, now: Duration, records: impl IntoIterator<Item = LeaseRecord>) {
        for record in records {
            let free = !self.entries.contains_key(&record.address)
                && !self.addresses.contains_key(&record.mac);
            if free && self.config.is_in_pool(record.address) && !record.remaining.is_zero() {
                let until = now + record.remaining.min(self.config.lease_time);
                self.hold(record.address, Hold::Bound(record.mac), until);
            }
        }
    }

    /// All leases now granted, by address.
    pub fn leases(&self, now: Duration) -> impl Iterator<Item = LeaseRecord> + '_ {
        self.entries
            .iter()
            .filter_map(move |(address, entry)| match entry.hold {
                Hold::Bound(mac) if entry.until > now => Some(LeaseRecord {
                    mac,
                    address: *address,
                    remaining: entry.until - now,
                }),
                _ => None,
            })
    }

    /// Takes a client's packet from port 67. `boot` is added to what is answered, for machines that asked for it.
    pub fn handle_message(
        &mut self,
        now: Duration,
        message: &DhcpMessage,
        boot: Option<BootFields>,
    ) {
        self.handle_timeout(now);
        let Some(mac) = quirks::lease_owner(message) else {
            return;
        };
        if message.is_reply || !message.giaddr.is_unspecified() || self.actions.len() >= ACTIONS_MAX
        {
            return;
        }
        match message.message_type() {
            Some(MessageType::Discover) => self.discover(now, mac, message, boot),
            Some(MessageType::Request) => self.request(now, mac, message, boot),
            Some(MessageType::Decline) => self.decline(now, mac, message),
            Some(MessageType::Release) => self.release(mac, message),
            Some(MessageType::Inform) => self.inform(mac, message, boot),
            Some(MessageType::Offer | MessageType::Ack | MessageType::Nak) | None => {}
        }
    }

    /// Frees what has run out.
    pub fn handle_timeout(&mut self, now: Duration) {
        let run_out: Vec<Ipv4Addr> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.until <= now)
            .map(|(address, _)| *address)
            .collect();
        let mut lease_ended = false;
        for address in run_out {
            lease_ended |= matches!(self.free(address), Some(Hold::Bound(_)));
        }
        if lease_ended {
            self.changed();
        }
    }

    /// When the next offer, lease or rest period ends.
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.entries.values().map(|entry| entry.until).min()
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<LeaseAction> {
        self.actions.pop_front()
    }

    /// Addresses that are offered, leased or resting.
    pub fn held(&self) -> usize {
        self.entries.len()
    }

    fn discover(
        &mut self,
        now: Duration,
        mac: MacAddress,
        message: &DhcpMessage,
        boot: Option<BootFields>,
    ) {
        let Some(address) = self.choose(mac, message.requested_address()) else {
            self.actions.push_back(LeaseAction::Exhausted { mac });
            return;
        };
        let is_bound = self
            .entries
            .get(&address)
            .is_some_and(|entry| entry.hold == Hold::Bound(mac));
        // Who has a lease and asks anew (a machine that rebooted) keeps it; the offer must not shorten it.
        if !is_bound {
            self.hold(address, Hold::Offered(mac), now + OFFER_HOLD);
        }
        let reply = self.grant(MessageType::Offer, mac, message, address, boot);
        self.send(reply, Destination::Broadcast);
    }

    fn request(
        &mut self,
        now: Duration,
        mac: MacAddress,
        message: &DhcpMessage,
        boot: Option<BootFields>,
    ) {
        let held = self.addresses.get(&mac).copied();
        let wanted = match message.server_id() {
            // SELECTING another server: our offer is free again.
            Some(server) if server != self.config.server => {
                if let Some(address) = held
                    && self
                        .entries
                        .get(&address)
                        .is_some_and(|entry| entry.hold == Hold::Offered(mac))
                {
                    self.free(address);
                }
                return;
            }
            Some(_) => message.requested_address(),
            // INIT-REBOOT names the address in option 50, RENEWING and REBINDING in `ciaddr`.
            None => message
                .requested_address()
                .or(Some(message.ciaddr).filter(|address| !address.is_unspecified())),
        };
        let Some(wanted) = wanted else { return };
        let to = if message.ciaddr.is_unspecified() {
            Destination::Broadcast
        } else {
            Destination::Unicast(SocketAddrV4::new(message.ciaddr, CLIENT_PORT))
        };
        let is_free = self.config.is_in_pool(wanted) && !self.entries.contains_key(&wanted);
        if held == Some(wanted) || (held.is_none() && is_free) {
            // An address that is free and within the pool is granted even without an offer: after a restart that lost its
            // leases, the machines keep what they have.
            self.hold(wanted, Hold::Bound(mac), now + self.config.lease_time);
            let reply = self.grant(MessageType::Ack, mac, message, wanted, boot);
            self.send(reply, to);
            self.changed();
        } else if message.server_id().is_some() || held.is_some() || self.is_wrong_here(wanted) {
            self.refuse(mac, message, wanted);
        }
        // Else RFC 2131 section 4.3.2: of a client that we know nothing about we say nothing.
    }

    /// An address that no client may keep: outside this subnet, or someone else's in our pool.
    fn is_wrong_here(&self, wanted: Ipv4Addr) -> bool {
        !self.config.is_host_here(wanted) || self.entries.contains_key(&wanted)
    }

    fn refuse(&mut self, mac: MacAddress, message: &DhcpMessage, wanted: Ipv4Addr) {
        let reply = DhcpReply {
            message_type: MessageType::Nak,
            refusal: Some(format!("{wanted} is not yours on this network")),
            ..self.blank(mac, message)
        };
        self.send(reply, Destination::Broadcast);
    }

    fn decline(&mut self, now: Duration, mac: MacAddress, message: &DhcpMessage) {
        let held = self.addresses.get(&mac).copied();
        // Only who holds an address can put it to rest, or one packet could empty the pool.
        if let Some(address) = held
            && message.requested_address() == held
            && message
                .server_id()
                .is_none_or(|server| server == self.config.server)
        {
            self.free(address);
            self.hold(address, Hold::Declined, now + DECLINE_HOLD);
            self.changed();
        }
    }

    fn release(&mut self, mac: MacAddress, message: &DhcpMessage) {
        let held = self.addresses.get(&mac).copied();
        if held == Some(message.ciaddr) {
            self.free(message.ciaddr);
            self.changed();
        }
    }

    fn inform(&mut self, mac: MacAddress, message: &DhcpMessage, boot: Option<BootFields>) {
        if !self.config.is_host_here(message.ciaddr) {
            return;
        }
        let mut lease = self.lease_fields();
        lease.lease_seconds = None;
        let reply = DhcpReply {
            message_type: MessageType::Ack,
            ciaddr: message.ciaddr,
            lease: Some(lease),
            boot,
            ..self.blank(mac, message)
        };
        self.send(
            reply,
            Destination::Unicast(SocketAddrV4::new(message.ciaddr, CLIENT_PORT)),
        );
    }

    /// The address that a machine has, or wishes for if free, or a free one, the same each time while it stays free.
    fn choose(&self, mac: MacAddress, wish: Option<Ipv4Addr>) -> Option<Ipv4Addr> {
        let is_free = |address: Ipv4Addr| {
            self.config.is_in_pool(address) && !self.entries.contains_key(&address)
        };
        if let Some(held) = self.addresses.get(&mac) {
            return Some(*held);
        }
        if let Some(wish) = wish.filter(|wish| is_free(*wish)) {
            return Some(wish);
        }
        let size = self.config.size();
        let first = u32::from(self.config.first);
        let start = spread(mac) % size;
        (0..size)
            .map(|step| Ipv4Addr::from(first + (start + step) % size))
            .find(|address| is_free(*address))
    }

    fn hold(&mut self, address: Ipv4Addr, hold: Hold, until: Duration) {
        let entry = Entry { hold, until };
        if let Some(mac) = entry.owner() {
            self.addresses.insert(mac, address);
        }
        self.entries.insert(address, entry);
    }

    fn free(&mut self, address: Ipv4Addr) -> Option<Hold> {
        let entry = self.entries.remove(&address)?;
        if let Some(mac) = entry.owner() {
            self.addresses.remove(&mac);
        }
        Some(entry.hold)
    }

    fn grant(
        &self,
        message_type: MessageType,
        mac: MacAddress,
        message: &DhcpMessage,
        address: Ipv4Addr,
        boot: Option<BootFields>,
    ) -> DhcpReply {
        DhcpReply {
            message_type,
            ciaddr: if message_type == MessageType::Ack {
                message.ciaddr
            } else {
                Ipv4Addr::UNSPECIFIED
            },
            yiaddr: address,
            lease: Some(self.lease_fields()),
            boot,
            ..self.blank(mac, message)
        }
    }

    fn blank(&self, mac: MacAddress, message: &DhcpMessage) -> DhcpReply {
        DhcpReply {
            message_type: MessageType::Nak,
            xid: message.xid,
            flags: message.flags,
            ciaddr: Ipv4Addr::UNSPECIFIED,
            yiaddr: Ipv4Addr::UNSPECIFIED,
            mac,
            server: self.config.server,
            lease: None,
            boot: None,
            client_id: message.option(options::CLIENT_ID).map(<[u8]>::to_vec),
            client_uuid: None,
            refusal: None,
        }
    }

    fn lease_fields(&self) -> LeaseFields {
        LeaseFields {
            lease_seconds: Some(self.config.lease_seconds()),
            subnet_mask: self.config.subnet_mask,
            router: self.config.router,
            dns: self.config.dns.clone(),
        }
    }

    fn send(&mut self, reply: DhcpReply, to: Destination) {
        self.actions.push_back(LeaseAction::Send {
            reply: Box::new(reply),
            to,
        });
    }

    fn changed(&mut self) {
        if self.actions.back() != Some(&LeaseAction::Changed) {
            self.actions.push_back(LeaseAction::Changed);
        }
    }
}

/// FNV-1a: spreads neighbours' addresses over the pool; no secret, no collision matters.
fn spread(mac: MacAddress) -> u32 {
    mac.0.iter().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}
