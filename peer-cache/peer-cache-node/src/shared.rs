//! What all tasks of one peer cache share, and who may do what.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use image_format::ChunkHash;
use peer_cache_proto::{
    PeerId,
    acquaintances::Acquaintances,
    admission::Right,
    beacon::{IssuerClocks, TicketLife},
    door::{PlaceId, Stay},
    election::Rank,
    fallback::Fallback,
    machine::MachineFacts,
    pin::{CHECKS_AT_ONCE, PinCounter, PinGate},
    renewal::Renewal,
    reporter::Reporters,
    suspicion::{ACCUSED_FOR, Suspicions},
    voucher::{VoucherGate, spent_words},
    wire::{Credentials, Frame, Hello, PROTOCOL_VERSION, PeerHint, TicketProof},
};
use tokio::sync::{Notify, Semaphore, mpsc};
use trust_format::{
    CheckedNode, Digest, MachineId, PinRule, PublicKey, Ticket, TpmKey, Verified, Voucher,
    check_ticket, peek,
};

use crate::{
    AdmissionWish, Event, PeerCacheConfig, Role,
    admit::{DisksSay, tell_vouched},
    buffers::PartBuffers,
    door::Doorway,
    endpoint::widen,
    identity::Identity,
    keeper::ChunkKeeper,
    origin::Origin,
    serve::Uploads,
    share::Share,
    site::Site,
    spread::Sharing,
};

/// Frames that a connection may be behind with before it counts as stuck.
pub(crate) const OUTBOX_MAX: usize = 1024;
/// Bytes that are being sent to one peer at most.
const PIN_BYTES_MAX: u64 = 64 << 20;

/// What a connection may do.
#[derive(Debug, Clone)]
pub(crate) enum Standing {
    /// May ask to be admitted, and see root and channel.
    Stranger,
    /// A node of this site.
    Node(Arc<MemberNode>),
    /// An agent with a ticket.
    Agent(Arc<AdmittedAgent>),
    /// A stranger whose ticket was over not long ago: it is renewed when it asks.
    Lapsed(Arc<AdmittedAgent>),
}

impl Standing {
    /// Whether it has more rights than anybody on the network.
    pub(crate) fn is_member(&self) -> bool {
        matches!(self, Self::Node(_) | Self::Agent(_))
    }
}

/// What came of a hello.
pub(crate) struct Judged {
    pub(crate) standing: Standing,
    /// Why the ticket that was shown opens nothing.
    pub(crate) ask_again: Option<String>,
}

/// A node of the site.
#[derive(Debug)]
pub(crate) struct MemberNode {
    pub(crate) node: CheckedNode,
    pub(crate) right: Right,
}

/// An agent's ticket, and the right that it is.
#[derive(Debug)]
pub(crate) struct AdmittedAgent {
    pub(crate) ticket: Verified<Ticket>,
    pub(crate) right: Right,
}

impl AdmittedAgent {
    /// By the node that signed, and the one that certified that node.
    pub(crate) fn new(ticket: Verified<Ticket>, vouched_by: Vec<PublicKey>) -> Self {
        let right = Right::Agent {
            ticket: Box::new((*ticket).clone()),
            vouched_by,
        };
        Self { ticket, right }
    }
}

/// What an agent asks that waits for an answer.
#[derive(Debug, Clone)]
pub(crate) struct Asking {
    pub(crate) facts: MachineFacts,
    pub(crate) wish: Option<Digest>,
    /// Orders that its disk says are finished.
    pub(crate) finished: Vec<u64>,
    /// Whether the site's PIN was typed at it.
    pub(crate) pin: bool,
    /// The TPM that signed for it.
    pub(crate) tpm: Option<TpmKey>,
}

/// One live connection.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) id: PeerId,
    pub(crate) key: PublicKey,
    pub(crate) connection: quinn::Connection,
    pub(crate) address: SocketAddr,
    pub(crate) port: u16,
    pub(crate) boot: u64,
    pub(crate) rank: Rank,
    pub(crate) outbox: mpsc::Sender<Frame>,
    pub(crate) place: PlaceId,
    pub(crate) standing: Mutex<Standing>,
    /// Requests that it has not answered to the end.
    pub(crate) asked: AtomicUsize,
    /// Bytes on their way to it.
    pub(crate) pinned: AtomicU64,
    /// An agent that waits for an answer.
    pub(crate) waiting: Mutex<Option<Asking>>,
}

/// A request that a peer has not answered yet.
pub(crate) struct Asked(pub(crate) Arc<Peer>);

impl Asked {
    pub(crate) fn of(peer: Arc<Peer>) -> Self {
        peer.asked.fetch_add(1, Ordering::Relaxed);
        Self(peer)
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.0.asked.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Bytes that are being sent, whose place must not be used again.
pub(crate) struct PinnedBytes<'a>(&'a AtomicU64, u64);

impl Drop for PinnedBytes<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::Relaxed);
    }
}

impl Peer {
    /// Counts bytes as being sent; `None` when too many are.
    pub(crate) fn pin(&self, bytes: u64) -> Option<PinnedBytes<'_>> {
        let before = self.pinned.fetch_add(bytes, Ordering::Relaxed);
        let pinned = PinnedBytes(&self.pinned, bytes);
        (before + bytes <= PIN_BYTES_MAX).then_some(pinned)
    }

    pub(crate) fn standing(&self) -> Standing {
        lock(&self.standing).clone()
    }

    pub(crate) fn is_node(&self) -> bool {
        matches!(self.standing(), Standing::Node(_))
    }

    /// Whether it is a node that HQ itself certified, and not one that another node or a voucher speaks for.
    pub(crate) fn is_certified_by_hq(&self) -> bool {
        matches!(self.standing(), Standing::Node(member) if member.node.may_certify() && member.node.voucher().is_none())
    }

    /// Queues a frame. A peer that does not read is cut off.
    pub(crate) fn send(&self, frame: Frame) {
        if self.outbox.try_send(frame).is_err() {
            self.connection.close(3u32.into(), b"does not read");
        }
    }

    /// Where it takes connections.
    pub(crate) fn listens_at(&self) -> SocketAddr {
        SocketAddr::new(self.address.ip(), self.port)
    }
}

/// The PIN that opened this node's voucher, and how often it was tried at machines.
struct VoucherPin {
    rule: PinRule,
    counter: Mutex<PinCounter>,
}

impl VoucherPin {
    fn new(rule: PinRule) -> Self {
        let mut counter = PinCounter::default();
        counter.handle_rule(Duration::ZERO, Some(&rule));
        let counter = Mutex::new(counter);
        Self { rule, counter }
    }
}

pub(crate) struct Shared {
    pub(crate) identity: Identity,
    pub(crate) role: Role,
    pub(crate) started: Instant,
    pub(crate) always_on: bool,
    pub(crate) boot: u64,
    pub(crate) endpoint: quinn::Endpoint,
    pub(crate) doorway: Arc<Doorway>,
    pub(crate) keeper: Arc<dyn ChunkKeeper>,
    pub(crate) origin: Option<Arc<dyn Origin>>,
    pub(crate) site: Mutex<Site>,
    pub(crate) credentials: Mutex<Credentials>,
    pub(crate) shares: Mutex<BTreeMap<Digest, Arc<Share>>>,
    pub(crate) peers: Mutex<BTreeMap<PeerId, Arc<Peer>>>,
    pub(crate) known: Mutex<Acquaintances>,
    /// Whose beacons came since the last look; never more than are known.
    pub(crate) heard: Mutex<BTreeSet<PublicKey>>,
    /// Something new is in `known` or `heard`.
    pub(crate) heard_of_peers: Notify,
    pub(crate) clocks: Mutex<IssuerClocks>,
    /// Who sent wrong bytes to this program, and when.
    pub(crate) accused: Mutex<BTreeMap<PublicKey, Instant>>,
    /// Who sent them to whom, as neighbours say.
    suspicions: Mutex<Suspicions>,
    pub(crate) events: mpsc::Sender<Event>,
    /// Answers that are on their way.
    pub(crate) uploads: Arc<Uploads>,
    pub(crate) buffers: PartBuffers,
    pub(crate) origin_bytes: AtomicU64,
    pub(crate) sharing: Mutex<Sharing>,
    /// When it was said last that an object cannot be kept.
    pub(crate) keep_failed: Mutex<Option<Instant>>,
    /// Of an agent.
    pub(crate) fallback: Mutex<Fallback>,
    /// Of an agent: its ticket's life.
    pub(crate) renewal: Mutex<Renewal>,
    /// Of an agent: what it asked last.
    pub(crate) asked: Mutex<Option<AdmissionWish>>,
    /// A PIN is being checked.
    pub(crate) pin_checks: Arc<Semaphore>,
    pub(crate) disks_say: Mutex<DisksSay>,
    /// Of a node: who tells HQ that it is there.
    pub(crate) reporters: Mutex<Reporters>,
    pub(crate) reporters_changed: Notify,
    voucher_pin: Option<VoucherPin>,
    next_peer: AtomicU64,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(crate) fn new(
        config: PeerCacheConfig,
        endpoint: quinn::Endpoint,
        events: mpsc::Sender<Event>,
    ) -> Self {
        Self {
            reporters: Mutex::new(Reporters::new(config.identity.public())),
            reporters_changed: Notify::new(),
            identity: config.identity,
            role: config.role,
            always_on: config.always_on,
            started: Instant::now(),
            boot: config.boot,
            endpoint,
            doorway: Arc::default(),
            keeper: config.keeper,
            origin: config.origin,
            site: Mutex::new(config.site),
            credentials: Mutex::new(config.credentials),
            shares: Mutex::default(),
            peers: Mutex::default(),
            known: Mutex::default(),
            heard: Mutex::default(),
            heard_of_peers: Notify::new(),
            clocks: Mutex::default(),
            accused: Mutex::default(),
            suspicions: Mutex::default(),
            events,
            uploads: Arc::new(Uploads::new(config.uploads.bytes_per_second)),
            buffers: PartBuffers::default(),
            origin_bytes: AtomicU64::new(0),
            sharing: Mutex::default(),
            keep_failed: Mutex::default(),
            fallback: Mutex::new(Fallback::new(Duration::ZERO)),
            renewal: Mutex::default(),
            asked: Mutex::default(),
            pin_checks: Arc::new(Semaphore::new(CHECKS_AT_ONCE)),
            disks_say: Mutex::default(),
            voucher_pin: config.voucher_pin.map(VoucherPin::new),
            next_peer: AtomicU64::new(1),
        }
    }

    pub(crate) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    pub(crate) fn next_peer(&self) -> PeerId {
        PeerId(self.next_peer.fetch_add(1, Ordering::Relaxed))
    }

    /// Tells the main. News that nobody reads in time is dropped, and said so.
    pub(crate) fn emit(&self, event: Event) {
        if let Err(mpsc::error::TrySendError::Full(event)) = self.events.try_send(event) {
            tracing::warn!(?event, "dropped an event: nobody reads them");
        }
    }

    pub(crate) fn rank(&self) -> Rank {
        let minutes = self.now().as_secs() / 60;
        Rank {
            node: self.role == Role::Node,
            always_on: self.always_on,
            free_gib: u32::try_from(self.keeper.free_bytes() >> 30).unwrap_or(u32::MAX),
            uptime_minutes: u16::try_from(minutes.min(24 * 60)).unwrap_or(u16::MAX),
        }
    }

    pub(crate) fn hello(&self) -> Hello {
        let site = lock(&self.site);
        Hello {
            protocol: PROTOCOL_VERSION,
            credentials: lock(&self.credentials).clone(),
            rank: self.rank(),
            port: self.endpoint.local_addr().map_or(0, |a| a.port()),
            boot: self.boot,
            uptime_ms: u64::try_from(self.now().as_millis()).unwrap_or(u64::MAX),
            root: site.keys().map_or(0, |k| k.root().number),
            channel: site.channel().map_or(0, |c| c.number),
        }
    }

    /// The PIN that admits machines here, and whether a try of it is looked at: the voucher's, if this node's right is one, else
    /// the site's.
    pub(crate) fn pin_gate(&self) -> (PinGate, Option<PinRule>) {
        match &self.voucher_pin {
            Some(own) => {
                let gate = lock(&own.counter).gate(self.now(), Some(&own.rule));
                (gate, Some(own.rule.clone()))
            }
            None => {
                let site = lock(&self.site);
                let (gate, rule) = site.pin_gate();
                (gate, rule.cloned())
            }
        }
    }

    /// Somebody typed the PIN of this number at a machine.
    pub(crate) fn pin_tried(&self, number: u64, is_right: bool) {
        let me = self.identity.public();
        match &self.voucher_pin {
            Some(own) => lock(&own.counter).handle_try(me, number, is_right),
            None => lock(&self.site).pin_tried(me, number, is_right),
        }
    }

    /// Whether this node's own PIN admits machines, whatever the site's rule is.
    pub(crate) fn has_voucher_pin(&self) -> bool {
        self.voucher_pin.is_some()
    }

    pub(crate) fn share(&self, digest: &Digest) -> Option<Arc<Share>> {
        lock(&self.shares).get(digest).cloned()
    }

    pub(crate) fn shares(&self) -> Vec<Arc<Share>> {
        lock(&self.shares).values().cloned().collect()
    }

    pub(crate) fn peers(&self) -> Vec<Arc<Peer>> {
        lock(&self.peers).values().cloned().collect()
    }

    pub(crate) fn peer(&self, id: PeerId) -> Option<Arc<Peer>> {
        lock(&self.peers).get(&id).cloned()
    }

    /// Whether a connection may be given objects and told who holds what.
    pub(crate) fn may_be_served(&self, peer: &Peer) -> bool {
        let holds = |right: &Right| {
            let site = lock(&self.site);
            let channel = site.channel().map(|c| &**c);
            right.holds(self.now(), &mut lock(&self.clocks), channel)
        };
        match peer.standing() {
            Standing::Stranger | Standing::Lapsed(_) => false,
            Standing::Node(member) => holds(&member.right),
            Standing::Agent(agent) => holds(&agent.right),
        }
    }

    /// Whether the channel revokes a right.
    pub(crate) fn is_revoked(&self, right: &Right) -> bool {
        right.is_revoked(lock(&self.site).channel().map(|c| &**c))
    }

    pub(crate) fn is_accused(&self, key: &PublicKey) -> bool {
        lock(&self.accused)
            .get(key)
            .is_some_and(|since| since.elapsed() < ACCUSED_FOR)
    }

    /// Whether neighbours say of a peer that it sends wrong bytes, and are believed.
    pub(crate) fn is_suspect(&self, key: &PublicKey) -> bool {
        lock(&self.suspicions).is_suspect(self.now(), key)
    }

    /// A neighbour says that it received wrong bytes.
    pub(crate) fn hear_accusation(&self, by: &Peer, accused: PublicKey, chunk: Option<ChunkHash>) {
        let is_news = lock(&self.suspicions).handle_accusation(self.now(), by.key, accused);
        if !is_news {
            return;
        }
        for peer in self.peers().iter().filter(|p| self.is_suspect(&p.key)) {
            self.shares()
                .iter()
                .for_each(|share| share.suspect(peer.id));
        }
        self.emit(Event::AccusedToUs {
            by: by.key,
            key: accused,
            chunk,
        });
    }

    /// What a peer is from now on. With its first right it gets a member's place and a member's limits.
    pub(crate) fn set_standing(&self, peer: &Peer, standing: Standing) {
        let was = std::mem::replace(&mut *lock(&peer.standing), standing);
        if !was.is_member() && peer.standing().is_member() {
            match self.doorway.handle_admitted(peer.place) {
                Stay::Leaves => peer
                    .connection
                    .close(7u32.into(), b"there are enough peers here"),
                Stay::Stays | Stay::InsteadOf(_) => widen(&peer.connection),
            }
        }
    }

    /// Judges what a peer says of itself. A ticket that does not hold makes a stranger of its agent, which is told why: it
    /// may ask anew.
    ///
    /// # Errors
    /// Why a node is not believed, in words.
    pub(crate) fn judge(&self, key: &PublicKey, hello: &Hello) -> Result<Judged, String> {
        let plain = |standing| Judged {
            standing,
            ask_again: None,
        };
        match &hello.credentials {
            Credentials::Agent { ticket: None } => Ok(plain(Standing::Stranger)),
            Credentials::Agent {
                ticket: Some(proof),
            } => {
                let (standing, ask_again) = match self.judge_ticket(key, proof) {
                    Ok(agent) => {
                        let life = lock(&self.clocks).judge(self.now(), &agent.ticket);
                        let over = Some("its life is over".to_owned());
                        match life {
                            TicketLife::Left(_) => (Standing::Agent(Arc::new(agent)), None),
                            TicketLife::Lapsed => (Standing::Lapsed(Arc::new(agent)), over),
                            TicketLife::Over => (Standing::Stranger, over),
                        }
                    }
                    Err(reason) => (Standing::Stranger, Some(reason)),
                };
                Ok(Judged {
                    standing,
                    ask_again,
                })
            }
            Credentials::Node {
                certificate,
                issuer,
            } => {
                let checked = lock(&self.site).check_node(key, certificate, issuer.as_deref());
                match checked {
                    Ok(node) => {
                        if let Some(voucher) = node.voucher().filter(|_| issuer.is_some()) {
                            let machine = node.certificate().machine;
                            self.count_machine(&voucher, machine, &hello.credentials)?;
                        }
                        let uptime = Duration::from_millis(hello.uptime_ms);
                        lock(&self.clocks).handle_reading(self.now(), *key, hello.boot, uptime);
                        let right = Right::Node {
                            keys: node.keys().collect(),
                        };
                        Ok(plain(Standing::Node(Arc::new(MemberNode { node, right }))))
                    }
                    Err(Some(error)) => Err(error.to_string()),
                    Err(None) => Err(
                        "nothing is known here yet that a certificate could be checked against"
                            .into(),
                    ),
                }
            }
        }
    }

    fn judge_ticket(&self, key: &PublicKey, proof: &TicketProof) -> Result<AdmittedAgent, String> {
        let site = lock(&self.site);
        let claimed = peek::<Ticket>(&proof.ticket)
            .map_err(|e| e.to_string())?
            .issuer;
        let issuer = site
            .check_node(&claimed, &proof.issuer, proof.issuers_issuer.as_deref())
            .map_err(|e| e.map_or("no channel yet".into(), |e| e.to_string()))?;
        let id = site.id().ok_or("no site yet")?;
        let ticket = check_ticket(&proof.ticket, key, &issuer, id).map_err(|e| e.to_string())?;
        drop(site);
        if let Some(voucher) = issuer.voucher() {
            let shown = Credentials::Agent {
                ticket: Some(proof.clone()),
            };
            self.count_machine(&voucher, ticket.machine, &shown)?;
        }
        Ok(AdmittedAgent::new(ticket, issuer.keys().collect()))
    }

    /// A machine's right comes from a voucher.
    ///
    /// # Errors
    /// In words, when the voucher has admitted as many as it may.
    pub(crate) fn count_machine(
        &self,
        voucher: &Voucher,
        machine: MachineId,
        shown: &Credentials,
    ) -> Result<(), String> {
        let mut site = lock(&self.site);
        let is_spent = site.voucher_gate(voucher, &machine) == VoucherGate::Spent;
        let news = site.count_machine(voucher, machine, shown, false);
        drop(site);
        tell_vouched(self, news, None);
        match is_spent {
            false => Ok(()),
            true => Err(spent_words(voucher)),
        }
    }

    /// Hints about everybody else that listens.
    pub(crate) fn hints_for(&self, peer: &Peer) -> Vec<PeerHint> {
        self.peers()
            .iter()
            .filter(|other| other.key != peer.key && other.port != 0 && self.may_be_served(other))
            .map(|other| PeerHint {
                key: other.key,
                address: other.listens_at().to_string(),
            })
            .take(peer_cache_proto::wire::PEER_HINTS_MAX)
            .collect()
    }

    pub(crate) fn machine_of(&self, peer: &Peer) -> Option<MachineId> {
        match peer.standing() {
            Standing::Agent(agent) => Some(agent.ticket.machine),
            Standing::Node(member) => Some(member.node.certificate().machine),
            Standing::Stranger | Standing::Lapsed(_) => None,
        }
    }
}
