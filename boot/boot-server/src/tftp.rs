//! TFTP: one listening socket per interface, one socket and task per transfer, each driving a [`Transfer`].

use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use boot_proto::tftp::{Action, ErrorCode, Outcome, Packet, Request, Transfer, TransferConfig};
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};

use crate::beginnings::Beginnings;
use crate::booter::{BootEvent, BootFile, Booter, TransferKind};
use crate::events::{Events, shown};
use crate::interface::Interface;
use crate::reader::{self, PieceReader};
use crate::udp::{self, UdpListener};

/// Transfers at once on one interface. Each holds a socket and up to 32 KiB.
const TRANSFERS_MAX: usize = 128;
/// Transfers at once to one address. Firmware has one, or two while it starts over.
const TRANSFERS_PER_CLIENT_MAX: usize = 4;
/// Of these, transfers whose client has acknowledged nothing yet: as many windows may be on their way to somebody who only asks.
const UNANSWERED_MAX: usize = 32;
/// So long a client may take to acknowledge anything though others wait: firmware takes some milliseconds.
const UNANSWERED_IN_PEACE: Duration = Duration::from_secs(1);
/// Repeated requests that wait for a transfer's task.
const REPEATS_WAITING_MAX: usize = 4;
/// A request of RFC 1350 fits 512 bytes; ACKs and ERRORs are shorter.
const PACKET_BYTES_MAX: usize = 2048;
/// Pause after the socket itself failed (interface gone), so that the loop does not spin.
const SOCKET_ERROR_PAUSE: Duration = Duration::from_secs(1);

/// What every transfer needs.
#[derive(Clone)]
pub(crate) struct TftpContext {
    pub(crate) interface: Interface,
    pub(crate) booter: Arc<dyn Booter>,
    pub(crate) events: Events,
}

/// A request with its circumstances.
struct Asked {
    request: Request,
    peer: SocketAddrV4,
    /// The address of ours that was asked, and answers.
    local: Ipv4Addr,
}

/// A running transfer, as the listener knows it.
struct Running {
    /// Tells this transfer from a later one with the same peer.
    number: u64,
    /// Where repeated requests go.
    again: mpsc::Sender<Request>,
    since: Instant,
    /// The client has shown that it is there, and takes what it asked for.
    answered: Arc<AtomicBool>,
    task: AbortHandle,
}

impl Running {
    fn is_answered(&self) -> bool {
        self.answered.load(Ordering::Relaxed)
    }
}

/// The transfers of one listener.
struct Transfers {
    by_peer: BTreeMap<SocketAddrV4, Running>,
    tasks: JoinSet<Ended>,
    started: u64,
    beginnings: Beginnings,
}

/// A transfer's task has ended.
struct Ended {
    peer: SocketAddrV4,
    number: u64,
    /// The client has started over: serve this instead.
    next: Option<Asked>,
}

/// Serves the interface until told to stop; running transfers end with it.
pub(crate) async fn serve(
    context: TftpContext,
    listener: UdpListener,
    mut stop: watch::Receiver<bool>,
) {
    let mut transfers = Transfers {
        by_peer: BTreeMap::new(),
        tasks: JoinSet::new(),
        started: 0,
        beginnings: Beginnings::new(Instant::now()),
    };
    let mut buffer = vec![0; PACKET_BYTES_MAX];
    loop {
        tokio::select! {
            _ = stop.changed() => return,
            received = listener.receive(&mut buffer) => match received {
                Ok(received) => {
                    // RFC 1123 section 4.2.3.4: a request to a broadcast address is not answered.
                    let Some(local) = received.local else { continue };
                    match Packet::parse(&buffer[..received.len]) {
                        Ok(Packet::Read(request)) => {
                            let asked = Asked { request, peer: received.from, local };
                            transfers.begin(&context, asked);
                        }
                        Ok(Packet::Write(_)) => {
                            let refusal = error(ErrorCode::ACCESS, "this server takes no files");
                            let _ = listener.send(&refusal, local, received.from).await;
                        }
                        // Not an answer to each stray packet: that would help others to flood a third machine.
                        Ok(_) | Err(_) => {}
                    }
                }
                Err(error) => {
                    tracing::warn!(interface = context.interface.name, %error, "TFTP socket failed");
                    tokio::time::sleep(SOCKET_ERROR_PAUSE).await;
                }
            },
            Some(ended) = transfers.tasks.join_next() => {
                if let Ok(Ended { peer, number, next }) = ended {
                    if transfers.by_peer.get(&peer).is_some_and(|running| running.number == number) {
                        transfers.by_peer.remove(&peer);
                    }
                    if let Some(asked) = next {
                        transfers.begin(&context, asked);
                    }
                }
            }
        }
    }
}

impl Transfers {
    /// Starts a transfer, or hands a repeated request to the one that runs for this peer.
    fn begin(&mut self, context: &TftpContext, asked: Asked) {
        if let Some(running) = self.by_peer.get(&asked.peer) {
            match running.again.try_send(asked.request.clone()) {
                Ok(()) | Err(mpsc::error::TrySendError::Full(_)) => return,
                // Ended, and only not yet taken off the list. Clients that get an ERROR ask for the next file at once.
                Err(mpsc::error::TrySendError::Closed(_)) => {}
            }
        }
        let others = self.by_peer.keys().filter(|peer| **peer != asked.peer);
        let of_this_client = others
            .clone()
            .filter(|peer| peer.ip() == asked.peer.ip())
            .count();
        let unanswered = self.by_peer.values().filter(|r| !r.is_answered()).count();
        let full = others.count() >= TRANSFERS_MAX || unanswered >= UNANSWERED_MAX;
        let now = Instant::now();
        if of_this_client >= TRANSFERS_PER_CLIENT_MAX
            || !self.beginnings.allow(now, (*asked.peer.ip()).into())
            || (full && (of_this_client > 0 || !self.make_room(now)))
        {
            // No ERROR: firmware gives up on an ERROR, and asks again after silence.
            context.events.count(|counts| counts.transfers_refused += 1);
            return;
        }
        let (again, repeats) = mpsc::channel(REPEATS_WAITING_MAX);
        self.started += 1;
        let number = self.started;
        let peer = asked.peer;
        let answered = Arc::new(AtomicBool::new(false));
        let transfer = transfer(context.clone(), asked, number, repeats, answered.clone());
        let running = Running {
            number,
            again,
            since: now,
            answered,
            task: self.tasks.spawn(transfer),
        };
        self.by_peer.insert(peer, running);
    }

    /// For a client that has no transfer: the oldest one whose client has acknowledged nothing goes. Whether one did.
    fn make_room(&mut self, now: Instant) -> bool {
        let silent = self.by_peer.iter().filter(|(_, running)| {
            !running.is_answered() && now - running.since > UNANSWERED_IN_PEACE
        });
        let oldest = silent.min_by_key(|(_, running)| running.number);
        let Some(peer) = oldest.map(|(peer, _)| *peer) else {
            return false;
        };
        if let Some(gone) = self.by_peer.remove(&peer) {
            gone.task.abort();
        }
        true
    }
}

/// The task of one transfer.
async fn transfer(
    context: TftpContext,
    asked: Asked,
    number: u64,
    mut repeats: mpsc::Receiver<Request>,
    answered: Arc<AtomicBool>,
) -> Ended {
    let (peer, local) = (asked.peer, asked.local);
    let replaced_by = match udp::connected(&context.interface.name, local, peer) {
        Ok(socket) => answer(&context, &socket, asked, &mut repeats, &answered).await,
        Err(error) => {
            tracing::warn!(%peer, %error, "no socket for a TFTP transfer");
            None
        }
    };
    // Whoever asked between our last packet and now is served next; after `close` the listener starts a new transfer by itself.
    repeats.close();
    let next = replaced_by.or_else(|| repeats.try_recv().ok());
    Ended {
        peer,
        number,
        next: next.map(|request| Asked {
            request,
            peer,
            local,
        }),
    }
}

/// Answers one request to its end. Returns the request that the client replaced it with, if it did.
async fn answer(
    context: &TftpContext,
    socket: &UdpSocket,
    asked: Asked,
    repeats: &mut mpsc::Receiver<Request>,
    answered: &AtomicBool,
) -> Option<Request> {
    let peer = SocketAddr::V4(asked.peer);
    let kind = TransferKind::Tftp;
    let shown_name = shown(&asked.request.file);
    let failed = |size_bytes, reason: &str| BootEvent::TransferFailed {
        peer,
        file: shown_name.clone(),
        kind,
        size_bytes,
        reason: reason.to_owned(),
    };
    context.events.tell(BootEvent::FileAsked {
        peer,
        file: shown_name.clone(),
        kind,
    });
    if asked.request.mode != "octet" {
        let reason = "only octet (binary) mode is served";
        let _ = socket.send(&error(ErrorCode::ILLEGAL, reason)).await;
        context.events.tell(failed(0, reason));
        return None;
    }
    let file = match reader::acceptable_name(&asked.request.file) {
        Some(name) => reader::open(&context.booter, name).await,
        None => None,
    };
    let Some(file) = file else {
        let _ = socket
            .send(&error(ErrorCode::NOT_FOUND, "no such file"))
            .await;
        context.events.tell(failed(0, "no such file"));
        return None;
    };
    let size_bytes = file.len();
    let start = Instant::now();
    let mut driver = Driver::new(context, socket, asked.request, file, start, repeats);
    let outcome = driver.run(answered).await;
    let sent = driver.transfer.bytes_acked();
    match outcome {
        Outcome::Complete => context.events.tell(BootEvent::TransferFinished {
            peer,
            file: shown_name,
            kind,
            size_bytes,
            took: start.elapsed(),
        }),
        Outcome::SizeProbe | Outcome::Superseded { size_probe: true } => {}
        Outcome::ClientError { code, message, .. } => {
            let reason = format!(
                "the client stopped it: error {} {}",
                code.0,
                shown(&message)
            );
            context.events.tell(failed(sent, &reason));
        }
        Outcome::TimedOut { .. } => context.events.tell(failed(sent, "the client fell silent")),
        Outcome::Gone { .. } => context
            .events
            .tell(failed(sent, "nobody listens at the client's port any more")),
        Outcome::Superseded { size_probe: false } => {
            context.events.tell(failed(sent, "the client started over"))
        }
        Outcome::ReadFailed => {
            let reason = driver.read_error.take().unwrap_or_default();
            context.events.tell(failed(
                sent,
                &format!("the file could not be read: {reason}"),
            ));
        }
    }
    driver.next
}

/// Carries out what a [`Transfer`] says.
struct Driver<'a> {
    socket: &'a UdpSocket,
    transfer: Transfer,
    reader: PieceReader,
    start: Instant,
    repeats: &'a mut mpsc::Receiver<Request>,
    next: Option<Request>,
    read_error: Option<String>,
    packet: Vec<u8>,
}

impl<'a> Driver<'a> {
    fn new(
        context: &TftpContext,
        socket: &'a UdpSocket,
        request: Request,
        file: Arc<dyn BootFile>,
        start: Instant,
        repeats: &'a mut mpsc::Receiver<Request>,
    ) -> Self {
        let config = TransferConfig {
            file_len: file.len(),
            path_mtu: context.interface.mtu,
            jitter_seed: RandomState::new().build_hasher().finish(),
        };
        Self {
            socket,
            transfer: Transfer::start(start.elapsed(), request, &config),
            reader: PieceReader::new(file),
            start,
            repeats,
            next: None,
            read_error: None,
            packet: Vec::new(),
        }
    }

    async fn run(&mut self, answered: &AtomicBool) -> Outcome {
        let mut buffer = vec![0; PACKET_BYTES_MAX];
        loop {
            while let Some(action) = self.transfer.poll_action() {
                match action {
                    Action::Send(bytes) => self.send(&bytes).await,
                    Action::SendData { block, offset, len } => {
                        self.send_data(block, offset, len).await
                    }
                    Action::Finished(outcome) => return outcome,
                }
            }
            self.transfer.handle_sent(self.start.elapsed());
            let deadline = self.transfer.poll_timeout().unwrap_or_default();
            let wait = tokio::time::sleep_until((self.start + deadline).into());
            tokio::select! {
                received = self.socket.recv(&mut buffer) => match received {
                    Ok(len) => {
                        self.transfer.handle_packet(self.start.elapsed(), &buffer[..len]);
                        // it is there, at the port that only its own address was told of
                        if self.transfer.bytes_acked() > 0 {
                            answered.store(true, Ordering::Relaxed);
                        }
                    }
                    Err(error) => self.socket_error(&error),
                },
                Some(request) = self.repeats.recv() => {
                    self.transfer.handle_request(self.start.elapsed(), &request);
                    if matches!(self.transfer.outcome(), Some(Outcome::Superseded { .. })) {
                        self.next = Some(request);
                    }
                }
                () = wait => self.transfer.handle_timeout(self.start.elapsed()),
            }
        }
    }

    async fn send_data(&mut self, block: u16, offset: u64, len: usize) {
        match self.reader.get(offset, len).await {
            Ok(payload) => {
                let mut packet = std::mem::take(&mut self.packet);
                packet.clear();
                packet.extend(3u16.to_be_bytes());
                packet.extend(block.to_be_bytes());
                packet.extend_from_slice(&payload);
                self.send(&packet).await;
                self.packet = packet;
            }
            Err(error) => {
                let reason = shown(&error.to_string());
                self.transfer.handle_read_error(&reason);
                self.read_error = Some(reason);
            }
        }
    }

    async fn send(&mut self, bytes: &[u8]) {
        if let Err(error) = self.socket.send(bytes).await {
            self.socket_error(&error);
        }
    }

    /// A refused port ends the transfer; anything else counts as a lost packet, which the transfer's own clock repeats.
    fn socket_error(&mut self, error: &io::Error) {
        if error.kind() == io::ErrorKind::ConnectionRefused {
            self.transfer.handle_unreachable();
        } else {
            tracing::debug!(%error, "TFTP packet lost on our side");
        }
    }
}

fn error(code: ErrorCode, message: &str) -> Vec<u8> {
    Packet::Error {
        code,
        message: message.to_owned(),
    }
    .encode()
}
