//! A node's sign of life on its network, and the clocks of ticket issuers that can be read off it.
//!
//! A beacon is a hint where somebody may be, never a vote.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use trust_format::{
    Document, DocumentKind, PublicKey, SignerRole, SiteId, Ticket, VerifyDocumentError,
    codec::{DecodeError, Reader, Writer},
};

/// UDP port of beacons.
pub const BEACON_PORT: u16 = 4434;
/// Longest beacon on the wire; well below one packet.
pub const BEACON_BYTES_MAX: usize = 512;
/// How often a beacon is sent.
pub const BEACON_EVERY: Duration = Duration::from_secs(2);
/// Issuers whose clocks are remembered.
const CLOCKS_MAX: usize = 1024;
/// Tickets without a clock whose first sight is remembered.
const SIGHTINGS_MAX: usize = 4096;

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beacon {
    /// Who; the signature is this key's.
    pub node: PublicKey,
    /// Its site.
    pub site: SiteId,
    /// Grows with each start of the node.
    pub boot: u64,
    /// Time since that start.
    pub uptime: Duration,
    /// UDP port of its QUIC endpoint, at the address that the beacon came from.
    pub port: u16,
    /// Its channel's number.
    pub channel: u64,
    /// Its revocation list's number.
    pub revocation: u64,
}

impl Document for Beacon {
    const KIND: DocumentKind = DocumentKind::Beacon;
    const VERSION: u8 = 1;
    const PAYLOAD_BYTES_MAX: usize = 128;
    const SIGNER: SignerRole = SignerRole::Peer;

    fn encode(&self, out: &mut Writer) {
        out.raw(&self.node.0).raw(&self.site.0).u64(self.boot);
        out.u64(u64::try_from(self.uptime.as_millis()).unwrap_or(u64::MAX));
        out.u16(self.port).u64(self.channel).u64(self.revocation);
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            node: PublicKey(input.array("node")?),
            site: SiteId(input.array("site")?),
            boot: input.u64("boot number")?,
            uptime: Duration::from_millis(input.u64("uptime")?),
            port: input.u16("port")?,
            channel: input.u64("channel number")?,
            revocation: input.u64("revocation number")?,
        })
    }
}

impl Beacon {
    /// The key that a beacon claims, before anything is verified.
    ///
    /// # Errors
    /// When it is no beacon.
    pub fn node_of(bytes: &[u8]) -> Result<PublicKey, VerifyDocumentError> {
        Ok(trust_format::peek::<Self>(bytes)?.node)
    }
}

/// Whether a ticket still holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TicketLife {
    /// It does, for this long.
    Left(Duration),
    /// Its life is over, by less than a life: it opens nothing, and any certified node may renew it.
    Lapsed,
    /// It is over for good.
    Over,
}

/// How far along the clocks of ticket issuers are, counted on with our own.
#[derive(Debug, Default)]
pub struct IssuerClocks {
    readings: BTreeMap<PublicKey, Reading>,
    sightings: BTreeMap<(PublicKey, u64, Duration, PublicKey), Duration>,
}

#[derive(Debug, Clone, Copy)]
struct Reading {
    boot: u64,
    uptime: Duration,
    at: Duration,
}

impl IssuerClocks {
    /// Takes a signed reading of a node's clock. One that would turn it back is a replay and is ignored.
    pub fn handle_reading(&mut self, now: Duration, node: PublicKey, boot: u64, uptime: Duration) {
        if let Some(known) = self.readings.get(&node) {
            let expected = known.uptime + now.saturating_sub(known.at);
            if (boot, uptime) < (known.boot, expected) {
                return;
            }
        } else if self.readings.len() >= CLOCKS_MAX {
            return;
        }
        self.readings.insert(
            node,
            Reading {
                boot,
                uptime,
                at: now,
            },
        );
    }

    /// Judges a verified ticket. Within the boot in which it was issued the issuer's clock decides; after the issuer
    /// rebooted, or before it was ever heard, the ticket holds for its life from our first sight of it.
    pub fn judge(&mut self, now: Duration, ticket: &Ticket) -> TicketLife {
        let same_boot = self
            .readings
            .get(&ticket.issuer)
            .filter(|r| r.boot == ticket.issuer_boot);
        let age = match same_boot {
            Some(reading) => {
                (reading.uptime + now.saturating_sub(reading.at)).saturating_sub(ticket.issued)
            }
            None => now.saturating_sub(self.first_sight(now, ticket)),
        };
        match ticket.life.checked_sub(age) {
            Some(left) if !left.is_zero() => TicketLife::Left(left),
            _ if age < ticket.life * 2 => TicketLife::Lapsed,
            _ => TicketLife::Over,
        }
    }

    fn first_sight(&mut self, now: Duration, ticket: &Ticket) -> Duration {
        let key = (
            ticket.issuer,
            ticket.issuer_boot,
            ticket.issued,
            ticket.agent,
        );
        if let Some(seen) = self.sightings.get(&key) {
            return *seen;
        }
        if self.sightings.len() >= SIGHTINGS_MAX {
            // the oldest makes room: its life is over or it was never used again
            let oldest = self
                .sightings
                .iter()
                .min_by_key(|(_, seen)| **seen)
                .map(|(key, _)| *key);
            oldest.map(|key| self.sightings.remove(&key));
        }
        self.sightings.insert(key, now);
        now
    }
}

/// Beacons that are verified per second; more is noise.
const BEACONS_PER_SECOND_MAX: u32 = 200;
/// And of one address: a node sends one in two seconds, by each of three ways.
const BEACONS_OF_ADDRESS_MAX: u32 = 4;

/// How many more signatures of beacons are checked in this second.
#[derive(Debug, Default)]
pub struct BeaconPatience {
    second: Duration,
    seen: u32,
    by_address: BTreeMap<IpAddr, u32>,
}

impl BeaconPatience {
    /// Whether one of this address is, which counts it.
    pub fn is_left(&mut self, now: Duration, from: IpAddr) -> bool {
        if now.saturating_sub(self.second) > Duration::from_secs(1) {
            *self = Self {
                second: now,
                ..Self::default()
            };
        }
        if self.seen >= BEACONS_PER_SECOND_MAX {
            return false;
        }
        let of_address = self.by_address.entry(from).or_default();
        if *of_address >= BEACONS_OF_ADDRESS_MAX {
            return false;
        }
        *of_address += 1;
        self.seen += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use trust_format::MachineId;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const NODE: PublicKey = PublicKey([1; 32]);

    fn ticket() -> Ticket {
        Ticket {
            issuer: NODE,
            issuer_boot: 4,
            issued: 100 * SECOND,
            life: 60 * SECOND,
            agent: PublicKey([2; 32]),
            machine: MachineId([3; 16]),
            site: SiteId([4; 16]),
            order: 5,
        }
    }

    #[test]
    fn an_address_has_few_beacons_looked_at_and_all_of_them_more() {
        let mut patience = BeaconPatience::default();
        let mut looked_at = |address: u32, now| {
            let from = std::net::Ipv4Addr::from_bits(0x0a00_0000 + address).into();
            (0..100).filter(|_| patience.is_left(now, from)).count()
        };
        let now = 100 * SECOND;
        assert_eq!(looked_at(1, now), 4);
        assert_eq!((2..100).map(|n| looked_at(n, now)).sum::<usize>(), 196);
        assert_eq!(looked_at(1, now + SECOND / 2), 0);
        assert_eq!(looked_at(1, now + 2 * SECOND), 4);
    }

    #[test]
    fn the_issuers_clock_decides() {
        let mut clocks = IssuerClocks::default();
        clocks.handle_reading(1000 * SECOND, NODE, 4, 110 * SECOND);
        assert_eq!(
            clocks.judge(1000 * SECOND, &ticket()),
            TicketLife::Left(50 * SECOND)
        );
        assert_eq!(
            clocks.judge(1049 * SECOND, &ticket()),
            TicketLife::Left(SECOND)
        );
        assert_eq!(clocks.judge(1050 * SECOND, &ticket()), TicketLife::Lapsed);
        assert_eq!(clocks.judge(1109 * SECOND, &ticket()), TicketLife::Lapsed);
        assert_eq!(clocks.judge(1110 * SECOND, &ticket()), TicketLife::Over);
    }

    #[test]
    fn a_replayed_beacon_does_not_turn_the_clock_back() {
        let mut clocks = IssuerClocks::default();
        clocks.handle_reading(1000 * SECOND, NODE, 4, 110 * SECOND);
        clocks.handle_reading(1100 * SECOND, NODE, 4, 110 * SECOND);
        clocks.handle_reading(1100 * SECOND, NODE, 3, 999 * SECOND);
        assert_eq!(clocks.judge(1100 * SECOND, &ticket()), TicketLife::Lapsed);
        assert_eq!(clocks.judge(1110 * SECOND, &ticket()), TicketLife::Over);
    }

    #[test]
    fn a_reboot_of_the_issuer_does_not_end_an_install() {
        let mut clocks = IssuerClocks::default();
        clocks.handle_reading(1000 * SECOND, NODE, 4, 110 * SECOND);
        clocks.handle_reading(1010 * SECOND, NODE, 5, SECOND);
        assert_eq!(
            clocks.judge(1010 * SECOND, &ticket()),
            TicketLife::Left(60 * SECOND)
        );
        assert_eq!(
            clocks.judge(1069 * SECOND, &ticket()),
            TicketLife::Left(SECOND)
        );
        assert_eq!(clocks.judge(1070 * SECOND, &ticket()), TicketLife::Lapsed);
    }
}
