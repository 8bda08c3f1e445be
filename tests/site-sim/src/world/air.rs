//! Beacons: datagrams that get lost, come twice, late and in another order, and that anybody may send again.

use ed25519_dalek::{Signer, SigningKey};
use peer_cache_proto::beacon::{BEACON_EVERY, Beacon};
use trust_format::{Document, PublicKey, Signature, SiteId, Verified};

use super::*;
use crate::member::key_of;

/// Beacons that somebody keeps to send again.
const RECORDED_MAX: usize = 64;
/// A node that was in the store once, and is no more. The number is no member's.
const GHOST: usize = usize::MAX;
/// How late a datagram comes while there is noise.
const LATE_MILLIS_MAX: u64 = 4_000;
const SITE: SiteId = SiteId([9; 16]);
const PORT: u16 = 4433;

/// A beacon on its way, as its receiver reads it.
#[derive(Debug)]
pub(crate) struct Sent {
    claimed: usize,
    /// Where it comes from; nobody is there at `None`.
    from: Option<usize>,
    bytes: Vec<u8>,
    /// What its bytes say, if the signature is true.
    beacon: Option<Beacon>,
}

impl Sent {
    fn new(claimed: usize, from: Option<usize>, bytes: Vec<u8>) -> Self {
        let beacon = Beacon::node_of(&bytes)
            .and_then(|key| Verified::<Beacon>::check_by(&bytes, &key))
            .map(|verified| (*verified).clone())
            .ok();
        Self {
            claimed,
            from,
            bytes,
            beacon,
        }
    }
}

/// What was in the air.
#[derive(Debug)]
pub(crate) struct Air {
    recorded: Vec<Arc<Sent>>,
}

impl Air {
    pub(crate) fn new() -> Self {
        Self {
            recorded: Vec::new(),
        }
    }
}

fn beacon_of(node: PublicKey, boot: u64, uptime: Duration) -> Beacon {
    Beacon {
        node,
        site: SITE,
        boot,
        // as it is written
        uptime: Duration::from_millis(u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX)),
        port: PORT,
        channel: 1,
        revocation: 1,
    }
}

fn sign(key: &SigningKey, boot: u64, uptime: Duration) -> Vec<u8> {
    let node = PublicKey(key.verifying_key().to_bytes());
    let bytes = beacon_of(node, boot, uptime).to_signed_bytes();
    let signature = Signature(key.sign(bytes.as_message()).to_bytes());
    bytes.into_envelope(vec![(node, signature)]).to_bytes()
}

impl World {
    pub(crate) fn send_beacon(&mut self, member: usize, boot: u64) {
        if !self.is_of_this_boot(member, boot) {
            return;
        }
        let me = &self.members[member];
        let uptime = self.now.saturating_sub(me.started);
        let sent = if self.air.recorded.len() < RECORDED_MAX {
            let bytes = sign(&me.signing, boot, uptime);
            let sent = Arc::new(Sent::new(member, Some(member), bytes));
            self.air.recorded.push(sent.clone());
            sent
        } else {
            // nobody sends it again: what its signature would say is known
            Arc::new(Sent {
                claimed: member,
                from: Some(member),
                bytes: Vec::new(),
                beacon: Some(beacon_of(me.key, boot, uptime)),
            })
        };
        self.cast(&sent);
        self.after(BEACON_EVERY, Event::Beacon { member, boot });
    }

    fn cast(&mut self, sent: &Arc<Sent>) {
        let is_noisy = self.noise_until > self.now;
        for member in 0..self.members.len() {
            let hears = |from| self.hear_each_other(from, member);
            if sent.from == Some(member) || !sent.from.is_none_or(hears) {
                continue;
            }
            let (lost, late) = match is_noisy {
                true => (3, LATE_MILLIS_MAX),
                false => (50, 2),
            };
            let copies = 1 + u32::from(is_noisy && self.random.one_in(3));
            for _ in 0..copies {
                let at = self.random.millis(0, late);
                if !self.random.one_in(lost) {
                    let beacon = sent.clone();
                    self.after(at, Event::Heard { member, beacon });
                }
            }
        }
    }

    /// Somebody sends what was in the air before, or what a ghost said last week, or what nobody signed.
    pub(crate) fn replay(&mut self) {
        let (claimed, mut bytes) = match self.random.one_in(4) {
            false if !self.air.recorded.is_empty() => {
                let at = self.random.index(self.air.recorded.len());
                let old = &self.air.recorded[at];
                (old.claimed, old.bytes.clone())
            }
            _ => (GHOST, sign(&key_of(GHOST), 1, Duration::from_secs(600_000))),
        };
        let is_forged = self.random.one_in(3);
        if is_forged {
            let at = self.random.index(bytes.len());
            bytes[at] ^= 1 << self.random.below(8);
        }
        let sent = Sent::new(claimed, None, bytes);
        if is_forged && sent.beacon.is_some() {
            self.violation = Some("invariant_forged_beacons_are_refused".to_owned());
        }
        self.cast(&Arc::new(sent));
    }

    /// As the shell does: a hint where somebody may be, and of those that are connected, their clocks.
    pub(crate) fn hear(&mut self, member: usize, sent: &Sent) {
        let now = self.now;
        let claimed = sent.claimed;
        let me = &mut self.members[member];
        let Some(beacon) = &sent.beacon else {
            return;
        };
        if !me.is_alive || claimed == member || me.accused.contains(&claimed) {
            return;
        }
        if me.link_to(claimed).is_none() {
            me.known.insert(claimed, sent.from);
        } else if self.members[claimed].is_node {
            let me = &mut self.members[member];
            me.clocks
                .handle_reading(now, beacon.node, beacon.boot, beacon.uptime);
            self.invariant_tickets_end(member, claimed, beacon.boot, beacon.uptime);
        }
    }
}
