//! The peer cache at work: QUIC endpoint, discovery, slab, the client of the origin; and the computer's TPM, which keeps its key.
//! Decides nothing: every choice is a core's in `peer-cache-proto`.
//! Called by the appliance's node and by the imaging agent.

mod admit;
mod buffers;
mod congestion;
mod discovery;
mod door;
mod download;
mod durable;
mod endpoint;
mod event;
mod fallback;
mod fetch;
mod frames;
mod identity;
mod keeper;
mod origin;
mod pressure;
mod scrub;
mod senders;
mod serve;
mod session;
mod share;
mod shared;
mod site;
pub mod slab;
mod spread;
pub mod tpm;

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use image_format::{Form, Manifest};
use peer_cache_proto::{
    machine::MachineFacts,
    tpm::TpmProof,
    wire::{ANSWER_BYTES, Answer, Ask, Credentials, Documents, Frame, Request, TicketProof},
};
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use trust_format::{Digest, Document, MachineId, PinRule, PublicKey, Ticket, Verified, peek};

pub use durable::write_durably;
pub use endpoint::{crypto_provider, network_threads};
pub use event::Event;
pub use identity::{
    Identity, KeyFile, OpenIdentityError, OpenVoucherError, OpenedVoucher, SealVoucherError,
    VOUCHER_PIN_LETTERS, key_of_spki, open_voucher, read_voucher_label, seal_voucher,
};
pub use keeper::{Arrived, ChunkKeeper, Kept};
pub use origin::{BoxFuture, FetchObjectError, HolderView, Lease, LeaseError, Origin};
pub use session::ConnectError;
pub use site::{AcceptManifestError, Learned, Site};

use share::Share;
use shared::{Shared, lock};

/// Events that the main may be behind with; further ones are dropped with a warning.
const EVENTS_MAX: usize = 4096;
const MANIFEST_WITHIN: Duration = Duration::from_secs(20);
const HINT_RETRY_MIN: Duration = Duration::from_millis(300);
const HINT_RETRY_MAX: Duration = Duration::from_secs(10);

/// What a program is in its site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Stays, serves, admits.
    Node,
    /// Images one machine.
    Agent,
}

/// How to start a peer cache.
pub struct PeerCacheConfig {
    /// The key of this program.
    pub identity: Identity,
    /// Node or agent.
    pub role: Role,
    /// Grows with each start of a node; random for an agent.
    pub boot: u64,
    /// Where it takes connections; with a port that is taken it uses any.
    pub listen: SocketAddr,
    /// Whether to send beacons and to listen for them.
    pub discover: bool,
    /// The site's documents.
    pub site: Site,
    /// What it shows of itself.
    pub credentials: Credentials,
    /// Where chunks go.
    pub keeper: Arc<dyn ChunkKeeper>,
    /// HQ. An agent asks it while no node is in its reach, see [`peer_cache_proto::fallback`].
    pub origin: Option<Arc<dyn Origin>>,
    /// A node that is pinned as always on: it comes first where one has to fetch.
    pub always_on: bool,
    /// How much it gives to its neighbours.
    pub uploads: UploadRules,
    /// Of a node whose right is a voucher: the PIN that opened it. Typed at a machine it admits it, as a site's does.
    pub voucher_pin: Option<PinRule>,
}

/// What an agent asks of a node.
#[derive(Debug, Clone, Default)]
pub struct AdmissionWish {
    /// Which machine it runs on.
    pub facts: MachineFacts,
    /// Only this version.
    pub version: Option<Digest>,
    /// Orders that the machine's own disk says are finished.
    pub finished: Vec<u64>,
    /// The site's PIN, as it was typed at the machine.
    pub pin: Option<String>,
    /// That this program runs on the computer of a TPM, by [`tpm::Tpm::prove`].
    pub tpm: Option<TpmProof>,
}

impl AdmissionWish {
    fn into_frame(self) -> Frame {
        Frame::AdmitMe {
            facts: self.facts,
            wish: self.version,
            finished: self.finished,
            pin: self.pin,
            tpm: self.tpm,
        }
    }
}

/// How much a machine gives to its neighbours; by default all it can.
#[derive(Debug, Clone, Copy, Default)]
pub struct UploadRules {
    /// At most so many bytes per second, objects only; fewer than [`peer_cache_proto::upload::RATE_MIN`] count as that.
    pub bytes_per_second: Option<u64>,
    /// Less while this machine is busy with other work.
    pub give_way: bool,
}

/// Why a manifest cannot be had.
#[derive(Debug, Error)]
pub enum FetchManifestError {
    /// Nobody who is connected has it, nor can HQ be reached.
    #[error("manifest {digest} is nowhere to be had: {tried}")]
    Nowhere {
        /// Which.
        digest: Digest,
        /// Who was asked, and what they said.
        tried: String,
    },
}

/// A connected peer.
#[derive(Debug, Clone)]
pub struct PeerInfo {
    /// Who.
    pub key: PublicKey,
    /// Where.
    pub address: SocketAddr,
    /// Whether it is a certified node.
    pub node: bool,
    /// UDP bytes sent to it.
    pub sent_bytes: u64,
    /// UDP bytes received from it.
    pub received_bytes: u64,
}

/// A running peer cache. Cheap to clone; it ends with [`PeerCache::close`].
#[derive(Clone)]
pub struct PeerCache {
    shared: Arc<Shared>,
}

impl PeerCache {
    /// Starts it.
    ///
    /// # Errors
    /// When no socket can be opened.
    pub fn start(config: PeerCacheConfig) -> io::Result<(Self, mpsc::Receiver<Event>)> {
        let endpoint = endpoint::open(&config.identity, config.listen)?;
        let (events, inbox) = mpsc::channel(EVENTS_MAX);
        let discover = config.discover;
        let uploads = config.uploads;
        let shared = Arc::new(Shared::new(config, endpoint, events));
        tokio::spawn(door::accept(shared.clone()));
        tokio::spawn(discovery::dial_known(shared.clone()));
        if shared.role == Role::Node {
            tokio::spawn(spread::run(shared.clone()));
            tokio::spawn(scrub::run(shared.clone()));
        }
        if uploads.give_way {
            tokio::spawn(pressure::follow(shared.uploads.clone()));
        }
        if shared.role == Role::Agent {
            tokio::spawn(admit::renew(shared.clone()));
        }
        if shared.role == Role::Agent && shared.origin.is_some() {
            tokio::spawn(fallback::watch(shared.clone()));
        }
        if discover && let Err(error) = discovery::start(&shared) {
            // hints still work
            tracing::warn!(%error, "beacons are off");
        }
        Ok((Self { shared }, inbox))
    }

    /// Room that everything takes which this node is to share, as its slab counts it.
    pub fn assigned_bytes(&self) -> u64 {
        spread::assigned_bytes(&self.shared)
    }

    /// The key of this program.
    pub fn key(&self) -> PublicKey {
        self.shared.identity.public()
    }

    /// The key of this program, to sign with.
    pub fn identity(&self) -> &Identity {
        &self.shared.identity
    }

    /// Where it takes connections.
    ///
    /// # Errors
    /// When the socket is gone.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.shared.endpoint.local_addr()
    }

    /// Connects to an address and stays connected.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn dial(&self, address: SocketAddr) -> Result<PublicKey, ConnectError> {
        session::dial(&self.shared, address).await.map(|p| p.key)
    }

    /// Keeps trying to be connected to an address, with back-off.
    pub fn keep_dialling(&self, address: SocketAddr) {
        let shared = self.shared.clone();
        tokio::spawn(async move {
            let mut pause = HINT_RETRY_MIN;
            loop {
                let connected = |s: &Shared| {
                    s.peers()
                        .iter()
                        .any(|p| p.listens_at() == address || p.address == address)
                };
                if connected(&shared) {
                    pause = HINT_RETRY_MIN;
                } else {
                    match session::dial(&shared, address).await {
                        Ok(_) | Err(ConnectError::Twice { .. }) => pause = HINT_RETRY_MIN,
                        Err(error) => {
                            tracing::debug!(%error, "dialling a hint");
                            pause = (pause * 2).min(HINT_RETRY_MAX);
                        }
                    }
                }
                tokio::time::sleep(pause).await;
            }
        });
    }

    /// Tries to be connected to a peer that somebody named, with back-off.
    pub fn hint(&self, key: PublicKey, address: SocketAddr) {
        self.shared.know(key, address);
    }

    /// A manifest that is shared here.
    pub fn shared_manifest(&self, digest: &Digest) -> Option<Arc<Verified<Manifest>>> {
        self.shared
            .share(digest)
            .map(|s| Arc::new(s.manifest.clone()))
    }

    /// Looks at the site's documents.
    pub fn site<R>(&self, look: impl FnOnce(&Site) -> R) -> R {
        look(&lock(&self.shared.site))
    }

    /// Machines that were heard of under a voucher, those beyond what it allows included.
    pub fn machines_of_voucher(&self, voucher: &PublicKey) -> usize {
        lock(&self.shared.site).machines_of_voucher(voucher)
    }

    /// Takes documents from a place other than a peer: HQ, or this agent's own completion.
    pub fn learn(&self, documents: &Documents) -> Learned {
        let learned = lock(&self.shared.site).learn(documents);
        session::pass_on(&self.shared, &learned, None);
        learned
    }

    /// Shows something else of itself from now on, also on connections that are up.
    pub fn set_credentials(&self, credentials: Credentials) {
        *lock(&self.shared.credentials) = credentials;
        for peer in self.shared.peers() {
            peer.send(Frame::Hello(self.shared.hello()));
        }
    }

    /// Takes a ticket that a node gave, and shows it to everybody. It is renewed in good time; each new one comes as an
    /// [`Event::Admission`] and is to be taken like the first.
    pub fn set_ticket(&self, proof: TicketProof) {
        let life = peek::<Ticket>(&proof.ticket).map_or(Duration::ZERO, |ticket| ticket.life);
        lock(&self.shared.renewal).handle_ticket(self.shared.now(), life);
        self.set_credentials(Credentials::Agent {
            ticket: Some(proof),
        });
        for peer in self.shared.peers() {
            session::introduce(&self.shared, &peer);
        }
    }

    /// Asks a node to be admitted. The answer is an [`Event::Admission`]; there may be several.
    pub fn ask_admission(&self, node: &PublicKey, wish: AdmissionWish) {
        // a renewal says nothing of disks, and a PIN is used once
        let plain = AdmissionWish {
            finished: Vec::new(),
            pin: None,
            ..wish.clone()
        };
        *lock(&self.shared.asked) = Some(plain);
        self.send_to(node, wish.into_frame());
    }

    /// Whether a machine's disk said a moment ago that there is nothing to do. Anybody can say so of any machine: good for
    /// answering its firmware, and for nothing else.
    pub fn disk_says_done(&self, machine: &MachineId) -> bool {
        lock(&self.shared.disks_say).done(machine)
    }

    /// Asks a node for a certificate. The answer is an [`Event::Certificate`] or [`Event::NotCertified`].
    pub fn ask_certificate(&self, node: &PublicKey, certified: PublicKey) {
        self.send_to(node, Frame::CertifyMe { node: certified });
    }

    /// Reports to a node, which passes it on.
    pub fn report(&self, node: &PublicKey, report: Vec<u8>) {
        self.send_to(node, Frame::Report(report));
    }

    /// Passes a completion on to every connected node.
    pub fn tell_completion(&self, completion: &[u8]) {
        let documents = Documents {
            completions: vec![completion.to_vec()],
            ..Documents::default()
        };
        for peer in self.shared.peers().iter().filter(|p| p.is_node()) {
            peer.send(Frame::Documents(documents.clone()));
        }
    }

    fn send_to(&self, key: &PublicKey, frame: Frame) {
        if let Some(peer) = self.shared.peers().into_iter().find(|p| p.key == *key) {
            peer.send(frame);
        }
    }

    /// Everybody who is connected.
    pub fn peers(&self) -> Vec<PeerInfo> {
        self.shared
            .peers()
            .iter()
            .map(|p| {
                let stats = p.connection.stats();
                PeerInfo {
                    key: p.key,
                    address: p.address,
                    node: p.is_node(),
                    sent_bytes: stats.udp_tx.bytes,
                    received_bytes: stats.udp_rx.bytes,
                }
            })
            .collect()
    }

    /// Nodes that are connected and that HQ itself certified: this node can report them.
    pub fn neighbours(&self) -> Vec<PublicKey> {
        let peers = self.shared.peers().into_iter();
        let certified = peers.filter(|p| p.is_certified_by_hq() && self.shared.may_be_served(p));
        certified.map(|p| p.key).collect()
    }

    /// HQ answered a call of this node in which these neighbours were named as being there. Some of them it wants to hear itself.
    pub fn tell_reported(&self, neighbours: &[PublicKey], wanted: &[PublicKey]) {
        lock(&self.shared.reporters).handle_called(self.shared.now());
        for peer in self.shared.peers() {
            if neighbours.contains(&peer.key) {
                let wanted = wanted.contains(&peer.key);
                peer.send(Frame::Reported { wanted });
            }
        }
    }

    /// Whether this node is due to call HQ: unless another reports it.
    pub fn is_due_at_hq(&self) -> bool {
        self.rests_for().is_none()
    }

    /// Returns when it is.
    pub async fn due_at_hq(&self) {
        while let Some(rest) = self.rests_for() {
            // what changes meanwhile is looked at
            let changed = self.shared.reporters_changed.notified();
            let _ = tokio::time::timeout(rest, changed).await;
        }
    }

    fn rests_for(&self) -> Option<Duration> {
        let neighbours = self.neighbours();
        let before = neighbours.iter().filter(|key| **key < self.key()).count();
        let now = self.shared.now();
        let until = lock(&self.shared.reporters).rests_until(now, before)?;
        Some(until.saturating_sub(now))
    }

    /// Object bytes that came from the origin.
    pub fn origin_bytes(&self) -> u64 {
        self.shared.origin_bytes.load(Ordering::Relaxed)
    }

    /// A manifest, from a connected peer or from HQ. An agent asks HQ only while no node is in its reach.
    ///
    /// # Errors
    /// [`FetchManifestError`].
    pub async fn manifest(&self, digest: Digest) -> Result<Verified<Manifest>, FetchManifestError> {
        if let Some(share) = self.shared.share(&digest) {
            return Ok(share.manifest.clone());
        }
        let mut tried = Vec::new();
        let mut peers = self.shared.peers();
        peers.sort_by_key(|p| !p.is_node());
        for peer in peers {
            let asked =
                tokio::time::timeout(MANIFEST_WITHIN, ask_manifest(&peer.connection, digest)).await;
            let bytes = match asked {
                Ok(Ok(bytes)) => bytes,
                Ok(Err(error)) => {
                    tried.push(format!("{}: {error}", peer.address));
                    continue;
                }
                Err(_) => {
                    tried.push(format!("{}: no answer", peer.address));
                    continue;
                }
            };
            match lock(&self.shared.site).accept_manifest(&digest, &bytes) {
                Ok(manifest) => return Ok(manifest),
                Err(error) => tried.push(format!("{}: {error}", peer.address)),
            }
        }
        let may_ask = self.shared.role == Role::Node || self.shared.stands_for_nodes();
        if let Some(origin) = self.shared.origin.as_ref().filter(|_| may_ask) {
            match origin.manifest(digest).await {
                Ok(bytes) => match lock(&self.shared.site).accept_manifest(&digest, &bytes) {
                    Ok(manifest) => return Ok(manifest),
                    Err(error) => tried.push(format!("HQ: {error}")),
                },
                Err(error) => tried.push(format!("HQ: {error}")),
            }
        }
        Err(FetchManifestError::Nowhere {
            digest,
            tried: if tried.is_empty() {
                "nobody is connected".into()
            } else {
                tried.join("; ")
            },
        })
    }

    /// Serves a manifest's chunks from now on, and brings here what is missing. The answer turns true when all is here.
    pub fn share(&self, manifest: Verified<Manifest>) -> watch::Receiver<bool> {
        let digest = manifest.digest();
        let (share, new) = {
            let mut shares = lock(&self.shared.shares);
            match shares.get(&digest) {
                Some(share) => (share.clone(), false),
                None => {
                    let key = self.key().0;
                    let rotation = u64::from_le_bytes([
                        key[8], key[9], key[10], key[11], key[12], key[13], key[14], key[15],
                    ]);
                    let share = Arc::new(Share::new(manifest, rotation));
                    shares.insert(digest, share.clone());
                    (share, true)
                }
            }
        };
        if new {
            self.take_in(&share);
        }
        share.complete.subscribe()
    }

    fn assign(&self) {
        let shares = self.shared.shares();
        let manifests: Vec<Verified<Manifest>> =
            shares.iter().map(|s| s.manifest.clone()).collect();
        self.shared.keeper.assign(&manifests);
        spread::handle_versions(&self.shared);
    }

    fn take_in(&self, share: &Arc<Share>) {
        self.assign();
        for chunk in (0..share.chunk_count()).map(image_format::ChunkId) {
            if self.shared.keeper.holds(&share.manifest, chunk) {
                share.hold(chunk);
            }
        }
        if share.is_complete() && share.wishes().is_none() {
            if self.shared.role == Role::Node {
                share.set_source(true);
            }
            session::join_everywhere(&self.shared, share);
        } else {
            download::start(&self.shared, share);
        }
    }

    /// Stops serving a manifest.
    pub fn unshare(&self, digest: &Digest) {
        let gone = lock(&self.shared.shares).remove(digest);
        if gone.is_some() {
            self.assign();
        }
    }

    /// How many of a manifest's chunks are here.
    pub fn held(&self, digest: &Digest) -> Option<(usize, usize)> {
        let share = self.shared.share(digest)?;
        Some((share.held_chunks().len(), share.manifest.chunks.len()))
    }

    /// Who sent how many parts of a manifest's objects so far; a second old at most.
    pub fn senders(&self, digest: &Digest) -> Vec<(String, u64)> {
        self.shared
            .share(digest)
            .map(|share| share.senders())
            .unwrap_or_default()
    }

    /// The object of a chunk that is here.
    pub fn object(
        &self,
        manifest: &Verified<Manifest>,
        chunk: image_format::ChunkId,
    ) -> Option<Bytes> {
        match self.shared.keeper.open(manifest, chunk, Form::Object) {
            Some((Form::Object, bytes)) => Some(bytes),
            Some(_) => None,
            None => {
                if let Some(share) = self.shared.share(&manifest.digest()) {
                    download::repair(&self.shared, &share, chunk);
                }
                None
            }
        }
    }

    /// Ends every connection.
    pub async fn close(&self) {
        if let Err(error) = self.shared.keeper.sync() {
            tracing::error!(%error, "making the cache durable");
        }
        self.shared.endpoint.close(0u32.into(), b"closing");
        // a peer that does not answer is not waited for
        let _ =
            tokio::time::timeout(Duration::from_secs(1), self.shared.endpoint.wait_idle()).await;
    }
}

async fn ask_manifest(connection: &quinn::Connection, digest: Digest) -> io::Result<Vec<u8>> {
    let (mut send, mut recv) = connection.open_bi().await?;
    let request = Request {
        manifest: digest,
        ask: Ask::Manifest,
    };
    send.write_all(&request.to_bytes()).await?;
    send.finish()?;
    let mut head = [0; ANSWER_BYTES];
    recv.read_exact(&mut head).await.map_err(io::Error::other)?;
    match Answer::from_bytes(&head, Manifest::PAYLOAD_BYTES_MAX).map_err(io::Error::other)? {
        Answer::Found { bytes, .. } => recv
            .read_to_end(bytes as usize)
            .await
            .map_err(io::Error::other),
        _ => Err(io::ErrorKind::NotFound.into()),
    }
}
