//! One connection, from hello to end: reads frames and hands each to the place that decides about it.

use std::{
    collections::BTreeSet,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use peer_cache_proto::{
    door::Stay,
    wire::{
        AdmissionAnswer, Credentials, Documents, FRAME_BYTES_MAX, Frame, GREETING_BYTES_MAX,
        HAVE_RANGES_MAX, Hello, PROTOCOL_VERSION, PartRanges, STRANGER_FRAME_BYTES_MAX,
    },
};
use thiserror::Error;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};

use crate::{
    Event, Role,
    admit::{answer_waiting, handle_asking, send_vouched, tell_tally, tell_vouched},
    door::Place,
    endpoint,
    frames::{FrameReader, write_frame, write_frames},
    serve::serve_requests,
    share::{Share, SwarmEvent},
    shared::{Asking, Judged, OUTBOX_MAX, Peer, Shared, Standing, lock},
    spread,
};

const HELLO_WITHIN: Duration = Duration::from_secs(5);
pub(crate) const DIAL_WITHIN: Duration = Duration::from_secs(3);
/// A peer that owes something and sends not a single packet for this long is taken for dead. One that is alive
/// acknowledges at once, whatever it is busy with.
const SILENT_AFTER: Duration = Duration::from_secs(1);
const LISTEN_EVERY: Duration = Duration::from_millis(200);
/// A stranger's frames are looked at so far apart: each may cost a signature, and an honest machine asks once or types a PIN.
const STRANGER_FRAME_EVERY: Duration = Duration::from_millis(250);
/// Frames of control have the right of way over chunks.
const CONTROL_PRIORITY: i32 = 100;

/// Why a connection came to nothing. The words name the peer's fault where it is one.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// No such address, or no answer.
    #[error("connecting to {address}: {reason}")]
    Dial {
        /// Where to.
        address: SocketAddr,
        /// What the transport said.
        reason: String,
    },
    /// The stream broke.
    #[error("connection to {address}")]
    Broken {
        /// Where to.
        address: SocketAddr,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// It does not speak this protocol, or not in this version.
    #[error("{address} {reason}")]
    Protocol {
        /// Who.
        address: SocketAddr,
        /// What it did.
        reason: String,
    },
    /// It is not believed.
    #[error("{address} is refused: {reason}")]
    Refused {
        /// Who.
        address: SocketAddr,
        /// Why.
        reason: String,
    },
    /// There is a connection to this peer already.
    #[error("{address} is connected already")]
    Twice {
        /// Who.
        address: SocketAddr,
    },
}

/// An IPv4 address as such, also where the socket speaks IPv6.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        std::net::IpAddr::V4(v4) => SocketAddr::from((v4, address.port())),
        std::net::IpAddr::V6(_) => address,
    }
}

/// Connects to a peer and keeps the connection alive in a task.
pub(crate) async fn dial(
    shared: &Arc<Shared>,
    address: SocketAddr,
) -> Result<Arc<Peer>, ConnectError> {
    let failed = |reason: String| ConnectError::Dial { address, reason };
    let place = shared.doorway.call(address);
    let connecting = shared
        .endpoint
        .connect(address, "peer")
        .map_err(|e| failed(e.to_string()))?;
    let connection = timeout(DIAL_WITHIN, connecting)
        .await
        .map_err(|_| failed("no answer".into()))?
        .map_err(|e| failed(e.to_string()))?;
    open_session(shared, connection, true, place).await
}

pub(crate) async fn open_session(
    shared: &Arc<Shared>,
    connection: quinn::Connection,
    dialled: bool,
    place: Place,
) -> Result<Arc<Peer>, ConnectError> {
    let result = timeout(HELLO_WITHIN, greet(shared, &connection, dialled, &place)).await;
    let address = canonical(connection.remote_address());
    let result = result.unwrap_or_else(|_| {
        Err(ConnectError::Protocol {
            address,
            reason: "sent no hello in time".into(),
        })
    });
    match result {
        Ok((peer, frames)) => {
            let (shared, kept) = (shared.clone(), peer.clone());
            tokio::spawn(run(shared, kept, frames, place));
            Ok(peer)
        }
        Err(error) => {
            connection.close(1u32.into(), error.to_string().as_bytes());
            Err(error)
        }
    }
}

async fn greet(
    shared: &Arc<Shared>,
    connection: &quinn::Connection,
    dialled: bool,
    place: &Place,
) -> Result<(Arc<Peer>, FrameReader), ConnectError> {
    let address = canonical(connection.remote_address());
    let broken = |source| ConnectError::Broken { address, source };
    let protocol = |reason: String| ConnectError::Protocol { address, reason };
    let key =
        endpoint::peer_key(connection).ok_or_else(|| protocol("has no Ed25519 key".into()))?;
    let refused = |reason: String| ConnectError::Refused { address, reason };
    if shared.is_accused(&key) {
        return Err(refused("it sent wrong bytes".into()));
    }
    let (mut send, recv) = match dialled {
        true => connection.open_bi().await,
        false => connection.accept_bi().await,
    }
    .map_err(|e| broken(e.into()))?;
    // priorities order the streams of one connection; a closed stream has none to set
    let _ = send.set_priority(CONTROL_PRIORITY);
    let mut frames = FrameReader::of(recv);
    let said = shared.hello();
    let credentials = said.credentials.clone();
    write_frame(&mut send, &Frame::Hello(said))
        .await
        .map_err(broken)?;
    let documents = lock(&shared.site).public_documents();
    write_frame(&mut send, &Frame::Documents(documents))
        .await
        .map_err(broken)?;

    let hello = frames.next(STRANGER_FRAME_BYTES_MAX).await;
    let Frame::Hello(hello) = hello.map_err(broken)? else {
        return Err(protocol("did not begin with a hello".into()));
    };
    if hello.protocol != PROTOCOL_VERSION {
        return Err(protocol(format!(
            "speaks protocol {}, this is {PROTOCOL_VERSION}",
            hello.protocol
        )));
    }
    let length = frames.length(GREETING_BYTES_MAX).await.map_err(broken)?;
    let room = shared.doorway.room_for(length).await;
    let documents = frames.body(length).await;
    let Frame::Documents(documents) = documents.map_err(broken)? else {
        return Err(protocol("did not show its documents".into()));
    };
    // signed, so it matters not who shows them; without a channel there is nothing to judge the peer by
    if matches!(hello.credentials, Credentials::Node { .. }) {
        // orders and completions are for members, and each costs a signature
        let public = Documents {
            roots: documents.roots,
            channel: documents.channel,
            ..Documents::default()
        };
        let learned = lock(&shared.site).learn(&public);
        pass_on(shared, &learned, None);
    }
    drop(room);
    let judged = shared.judge(&key, &hello).map_err(refused)?;
    let (outbox, queue) = mpsc::channel(OUTBOX_MAX);
    let peer = Arc::new(Peer {
        id: shared.next_peer(),
        key,
        connection: connection.clone(),
        address,
        port: hello.port,
        boot: hello.boot,
        rank: hello.rank,
        outbox,
        place: place.id(),
        standing: Mutex::new(Standing::Stranger),
        asked: AtomicUsize::new(0),
        pinned: AtomicU64::new(0),
        waiting: Mutex::new(None),
    });
    register(shared, &peer)?;
    let member = judged.standing.is_member();
    match place.handle_greeted(member) {
        Stay::Stays => {}
        Stay::InsteadOf(other) => {
            let other = shared.peers().into_iter().find(|p| p.place == other);
            other.inspect(|p| p.connection.close(7u32.into(), b"others wait"));
        }
        Stay::Leaves => {
            lock(&shared.peers).remove(&peer.id);
            return Err(refused("there are enough peers here".into()));
        }
    }
    settle(shared, &peer, judged);
    // a ticket that came meanwhile was shown to those who were registered
    if *lock(&shared.credentials) != credentials {
        peer.send(Frame::Hello(shared.hello()));
    }
    tokio::spawn(write_frames(send, queue));
    Ok((peer, frames))
}

/// A peer is from now on what its hello made it.
fn settle(shared: &Shared, peer: &Peer, judged: Judged) {
    shared.set_standing(peer, judged.standing);
    if let Some(reason) = judged.ask_again {
        let reason = format!("the ticket does not hold: {reason}");
        peer.send(Frame::Admission(AdmissionAnswer::AskAgain { reason }));
    }
}

/// One connection per peer: the one that is there stays, unless the peer has restarted since.
fn register(shared: &Shared, peer: &Arc<Peer>) -> Result<(), ConnectError> {
    let mut peers = lock(&shared.peers);
    let twin = peers.values().find(|p| p.key == peer.key).cloned();
    if let Some(twin) = twin {
        if twin.boot == peer.boot && twin.connection.close_reason().is_none() {
            return Err(ConnectError::Twice {
                address: peer.address,
            });
        }
        twin.connection
            .close(2u32.into(), b"replaced by a newer connection");
    }
    peers.insert(peer.id, peer.clone());
    Ok(())
}

async fn run(shared: Arc<Shared>, peer: Arc<Peer>, mut frames: FrameReader, _place: Place) {
    shared.emit(Event::PeerUp {
        key: peer.key,
        address: peer.address,
        node: peer.is_node(),
    });
    introduce(&shared, &peer);
    let requests = tokio::spawn(serve_requests(shared.clone(), peer.clone()));
    let listening = tokio::spawn(listen(shared.clone(), peer.clone()));
    let ended = loop {
        let longest = match peer.standing() {
            Standing::Stranger | Standing::Lapsed(_) => STRANGER_FRAME_BYTES_MAX,
            Standing::Node(_) | Standing::Agent(_) => FRAME_BYTES_MAX,
        };
        match frames.next(longest).await {
            Ok(frame) => {
                handle(&shared, &peer, frame).await;
                // the frame may have made it one
                if !peer.standing().is_member() {
                    // what it sends meanwhile waits at its end
                    tokio::time::sleep(STRANGER_FRAME_EVERY).await;
                }
            }
            Err(error) => break error,
        }
    };
    tracing::debug!(peer.id = %peer.key.short(), %ended, "a connection ended");
    listening.abort();
    requests.abort();
    peer.connection.close(0u32.into(), b"");
    lock(&shared.peers).remove(&peer.id);
    for share in shared.shares() {
        share.tell(SwarmEvent::Gone { id: peer.id }).await;
    }
    spread::handle_gone(&shared, &peer);
    lock(&shared.reporters).handle_gone(shared.now(), &peer.key);
    shared.reporters_changed.notify_one();
    shared.emit(Event::PeerGone { key: peer.key });
}

/// Ends the connection of a peer that fell silent while it owes an answer, or the announcement of what it was given first.
async fn listen(shared: Arc<Shared>, peer: Arc<Peer>) {
    let (mut heard, mut since) = (0, Instant::now());
    loop {
        let asleep = Instant::now();
        tokio::time::sleep(LISTEN_EVERY).await;
        if asleep.elapsed() > LISTEN_EVERY * 2 {
            // it was this program that stood still
            since = Instant::now();
        }
        let packets = peer.connection.stats().udp_rx.datagrams;
        let owes = peer.asked.load(Ordering::Relaxed) > 0
            || shared.shares().iter().any(|s| s.waits_for(peer.id));
        if packets != heard || !owes {
            (heard, since) = (packets, Instant::now());
        } else if since.elapsed() >= SILENT_AFTER - LISTEN_EVERY {
            tracing::info!(peer.id = %peer.key.short(), peer.address = %peer.address, "a peer fell silent");
            peer.connection.close(5u32.into(), b"silent");
            return;
        }
    }
}

/// Both may talk about chunks now: say what is here, and where others are.
pub(crate) fn introduce(shared: &Arc<Shared>, peer: &Arc<Peer>) {
    if !shared.may_be_served(peer) {
        return;
    }
    for share in shared.shares() {
        join(&share, peer);
    }
    if shared.role == Role::Node {
        tell_documents(shared, peer);
    }
    let hints = shared.hints_for(peer);
    if !hints.is_empty() {
        peer.send(Frame::Peers(hints));
    }
    for other in shared.peers() {
        if other.id != peer.id && peer.port != 0 && shared.may_be_served(&other) {
            let hint = peer_cache_proto::wire::PeerHint {
                key: peer.key,
                address: peer.listens_at().to_string(),
            };
            other.send(Frame::Peers(vec![hint]));
        }
    }
}

/// Tells a member what a node of the site knows.
fn tell_documents(shared: &Arc<Shared>, peer: &Arc<Peer>) {
    let documents = match peer.is_node() {
        true => lock(&shared.site).all_documents(),
        false => lock(&shared.site).agents_documents(),
    };
    documents
        .into_frames()
        .into_iter()
        .for_each(|frame| peer.send(frame));
    if peer.is_node() {
        let tally = lock(&shared.site).pin_tally().clone();
        peer.send(Frame::PinTally(tally));
        let vouched = lock(&shared.site).vouched();
        send_vouched(peer, &vouched);
        spread::tell(shared, peer);
    }
}

/// Says that we take part in a swarm, and what we have of it.
pub(crate) fn join(share: &Share, peer: &Peer) {
    let manifest = share.digest();
    peer.send(Frame::Join {
        manifest,
        source: share.is_source(),
    });
    announce(share, peer, &share.held_parts());
}

pub(crate) fn announce(share: &Share, peer: &Peer, parts: &[image_format::PartId]) {
    let ranges = PartRanges::of(parts);
    for some in ranges.0.chunks(HAVE_RANGES_MAX) {
        peer.send(Frame::Have {
            manifest: share.digest(),
            parts: PartRanges(some.to_vec()),
        });
    }
}

async fn handle(shared: &Arc<Shared>, peer: &Arc<Peer>, frame: Frame) {
    let served = shared.may_be_served(peer);
    match frame {
        Frame::Hello(hello) => handle_hello(shared, peer, &hello),
        Frame::AdmitMe {
            facts,
            wish,
            finished,
            pin,
            tpm,
        } => {
            let tpm = tpm.and_then(|proof| match proof.verify(&peer.key) {
                Ok(key) => Some(key),
                Err(error) => {
                    tracing::warn!(peer.id = %peer.key.short(), %error, "a proof that is none");
                    None
                }
            });
            let asking = Asking {
                facts,
                wish,
                finished,
                pin: false,
                tpm,
            };
            handle_asking(shared, peer, asking, pin).await;
        }
        Frame::Documents(documents) => handle_documents(shared, peer, documents),
        Frame::Admission(answer) if peer.is_node() => {
            if matches!(answer, AdmissionAnswer::AskAgain { .. }) {
                lock(&shared.renewal).handle_void();
            }
            shared.emit(Event::Admission {
                by: peer.key,
                answer,
            });
        }
        Frame::PinTally(tally) if peer.is_node() && shared.role == Role::Node => {
            if lock(&shared.site).pin_heard(&tally) {
                tell_tally(shared, Some(peer));
            }
        }
        Frame::Vouched(shown) if peer.is_node() && shared.role == Role::Node => {
            let teller = match peer.standing() {
                Standing::Node(member) => member.node.voucher().map(|v| v.key),
                _ => None,
            };
            let news = lock(&shared.site).learn_vouched(&shown, teller.as_ref());
            tell_vouched(shared, news, Some(peer));
        }
        Frame::Reported { wanted } if served && shared.role == Role::Node => {
            if peer.is_certified_by_hq() {
                let (now, by) = (shared.now(), peer.key);
                lock(&shared.reporters).handle_reported(now, by, wanted);
                shared.reporters_changed.notify_one();
            }
        }
        Frame::Certificate {
            certificate,
            issuer,
        } if peer.is_node() => {
            shared.emit(Event::Certificate {
                certificate,
                issuer,
            });
        }
        Frame::NotCertified { reason } if peer.is_node() => {
            let by = peer.key;
            shared.emit(Event::NotCertified { by, reason });
        }
        Frame::CertifyMe { node } => {
            if let Standing::Agent(agent) = peer.standing()
                && served
                && shared.role == Role::Node
            {
                let (shared, peer) = (shared.clone(), peer.clone());
                tokio::spawn(async move { peer.send(shared.certify(&agent.ticket, node).await) });
            }
        }
        Frame::Report(report) => {
            if let Some(machine) = shared.machine_of(peer).filter(|_| served) {
                shared.emit(Event::Report { machine, report });
            }
        }
        Frame::Peers(hints) if served => {
            for hint in hints {
                if let Ok(address) = hint.address.parse() {
                    shared.know(hint.key, address);
                }
            }
        }
        Frame::Join { manifest, source } if served => {
            if let Some(share) = shared.share(&manifest) {
                if share.joined(peer.id) {
                    join(&share, peer);
                }
                if shared.is_suspect(&peer.key) {
                    share.suspect(peer.id);
                }
                share
                    .tell(SwarmEvent::Peer {
                        id: peer.id,
                        source,
                    })
                    .await;
            }
        }
        Frame::Have { manifest, parts } if served => {
            if let Some(share) = shared.share(&manifest) {
                let parts = parts.parts(share.table.part_count());
                share.tell(SwarmEvent::Have { id: peer.id, parts }).await;
            }
        }
        Frame::Lost { manifest, parts } if served => {
            if let Some(share) = shared.share(&manifest) {
                let parts = parts.parts(share.table.part_count());
                let id = peer.id;
                share.tell(SwarmEvent::HaveNot { id, parts }).await;
            }
        }
        Frame::Members(members) if served && peer.is_node() => {
            spread::handle_members(shared, peer, &members);
        }
        Frame::Claim { manifest, term } if shared.is_candidate(peer) => {
            if let Some(share) = shared.share(&manifest) {
                share.tell(SwarmEvent::Claim { by: peer.key, term }).await;
            }
        }
        Frame::Accused { peer: key, chunk } if served => shared.hear_accusation(peer, key, chunk),
        other => {
            tracing::debug!(peer.id = %peer.key.short(), ?other, "ignored a frame that this peer has no right to");
        }
    }
}

fn handle_hello(shared: &Arc<Shared>, peer: &Arc<Peer>, hello: &Hello) {
    match shared.judge(&peer.key, hello) {
        Ok(judged) => {
            let was_served = shared.may_be_served(peer);
            settle(shared, peer, judged);
            if !was_served {
                introduce(shared, peer);
            }
        }
        Err(reason) => peer.connection.close(1u32.into(), reason.as_bytes()),
    }
}

fn handle_documents(shared: &Arc<Shared>, peer: &Arc<Peer>, documents: Documents) {
    let documents = match peer.standing() {
        Standing::Node(_) => documents,
        Standing::Agent(_) => Documents {
            completions: documents.completions,
            ..Documents::default()
        },
        Standing::Stranger | Standing::Lapsed(_) => return,
    };
    let learned = lock(&shared.site).learn(&documents);
    pass_on(shared, &learned, Some(peer));
}

/// Acts on what was learned: passes it on, answers those who waited, and cuts off who lost their right.
pub(crate) fn pass_on(
    shared: &Arc<Shared>,
    learned: &crate::site::Learned,
    from: Option<&Arc<Peer>>,
) {
    for refused in &learned.refused {
        let peer = from.map_or_else(String::new, |p| p.key.short());
        tracing::warn!(peer.id = peer, refused, "refused a document");
    }
    if !learned.is_news() {
        return;
    }
    let for_agents = Documents {
        completions: Vec::new(),
        ..learned.fresh.clone()
    };
    for peer in shared.peers() {
        let is_revoked = match peer.standing() {
            Standing::Node(member) => shared.is_revoked(&member.right),
            Standing::Agent(agent) | Standing::Lapsed(agent) => shared.is_revoked(&agent.right),
            Standing::Stranger => false,
        };
        if is_revoked {
            peer.connection.close(1u32.into(), b"revoked");
            continue;
        }
        let is_told = shared.role == Role::Node && from.is_none_or(|f| f.id != peer.id);
        let documents = match peer.standing() {
            Standing::Node(_) if is_told => learned.fresh.clone(),
            Standing::Agent(_) if is_told => for_agents.clone(),
            _ => Documents::default(),
        };
        if documents != Documents::default() {
            let frames = documents.into_frames();
            frames.into_iter().for_each(|frame| peer.send(frame));
        }
        answer_waiting(shared, &peer);
    }
    shared.emit(Event::Learned(Box::new(learned.clone())));
}

/// Every share's peers hear that we hold or seek something new.
pub(crate) fn join_everywhere(shared: &Shared, share: &Share) {
    for peer in shared.peers() {
        if shared.may_be_served(&peer) {
            join(share, &peer);
        }
    }
}

/// Peers with whom a share was exchanged.
pub(crate) type Joined = Mutex<BTreeSet<peer_cache_proto::PeerId>>;
