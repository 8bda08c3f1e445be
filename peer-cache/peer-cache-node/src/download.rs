//! Brings one manifest's chunks here: the shell around `peer_cache_proto::download::Download`.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use image_format::{
    CHUNK_BYTES, ChunkCodec, ChunkId, ChunkRecord, Form, PartId, VerifiedChunk, VerifiedPart,
};
use peer_cache_proto::{
    download::{Action, Download, LOOK_EVERY},
    suspicion::ACCUSED_FOR,
    swarm::{self, Failure, PeerKind, RequestId, Want},
    wire::{ANSWER_BYTES, Answer, Ask, Frame, PART_ANSWER_BYTES_MAX, Request},
};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc, oneshot},
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep_until},
};

use crate::{
    Event, Role,
    fetch::fetch_from_origin,
    keeper::Arrived,
    senders::Senders,
    session::{announce, join_everywhere},
    share::{Added, SWARM_EVENTS_MAX, Share, SwarmEvent},
    shared::{Asked, Peer, Shared, lock},
    slab::KeepError,
    spread::{self, announce_lost},
};

const SYNC_EVERY: Duration = Duration::from_secs(1);
/// An object that could not be kept is not asked for again at once.
const REST_WITHOUT_ROOM: Duration = Duration::from_secs(2);
/// How often that is said.
const TROUBLE_EVERY: Duration = Duration::from_secs(60);
const REQUEST_PRIORITY: i32 = 50;

/// A chunk that a node is known for turned out damaged when it was asked for: it comes again, from a neighbour or from HQ.
pub(crate) fn repair(shared: &Arc<Shared>, share: &Arc<Share>, chunk: ChunkId) {
    // an agent's disk is read back by its own rules
    if shared.role != Role::Node || !share.lose(chunk) {
        return;
    }
    tracing::warn!(manifest = %share.digest(), chunk = chunk.0, "a chunk is lost and comes again");
    announce_lost(shared, share, &[chunk]);
    match share.download() {
        // one that is too busy to hear of it starts again when it ends
        Some(events) => drop(events.try_send(SwarmEvent::Lost { chunk })),
        None => start(shared, share),
    }
}

struct Running {
    shared: Arc<Shared>,
    share: Arc<Share>,
    download: Download,
    events: mpsc::Sender<SwarmEvent>,
    flights: BTreeMap<RequestId, AbortHandle>,
    requests: JoinSet<()>,
    fetch: Option<AbortHandle>,
    last_sync: Instant,
    /// All that is to be here is here, and was said so.
    had_its_share: bool,
    senders: Senders,
}

/// Starts to download, unless that is going on or nothing is missing.
pub(crate) fn start(shared: &Arc<Shared>, share: &Arc<Share>) {
    let wishes = share.wishes();
    if (share.is_complete() && wishes.is_none()) || share.download().is_some() {
        return;
    }
    let (events, inbox) = mpsc::channel(SWARM_EVENTS_MAX);
    share.set_download(Some(events.clone()));
    let key = shared.identity.public();
    let salt = u64::from_le_bytes([
        key.0[0], key.0[1], key.0[2], key.0[3], key.0[4], key.0[5], key.0[6], key.0[7],
    ]);
    let stands = shared.origin.is_some().then(|| (key, shared.rank()));
    let mut download = Download::new(shared.now(), share.table.clone(), salt, stands);
    download.handle_wishes(shared.now(), wishes);
    let running = Running {
        download,
        shared: shared.clone(),
        share: share.clone(),
        events,
        flights: BTreeMap::new(),
        requests: JoinSet::new(),
        fetch: None,
        last_sync: Instant::now(),
        had_its_share: false,
        senders: Senders::default(),
    };
    tokio::spawn(running.run(inbox));
}

impl Running {
    async fn run(mut self, mut inbox: mpsc::Receiver<SwarmEvent>) {
        for chunk in self.share.held_chunks() {
            let now = self.shared.now();
            match self.share.is_passing(chunk) {
                true => self.download.handle_passing(now, chunk),
                false => self.download.handle_local(now, chunk),
            }
        }
        // a peer says what it has when it meets us, and not again when something has to be repaired
        for (id, known) in self.share.known_peers() {
            let source = known.source;
            self.handle(SwarmEvent::Peer { id, source });
            let parts = known.parts();
            self.handle(SwarmEvent::Have { id, parts });
        }
        join_everywhere(&self.shared, &self.share);
        let mut look = tokio::time::interval(LOOK_EVERY);
        while !self.download.is_finished() {
            self.act();
            let now = self.shared.now();
            let deadline = self
                .download
                .poll_timeout()
                .map_or(LOOK_EVERY, |t| t.saturating_sub(now));
            tokio::select! {
                event = inbox.recv() => match event {
                    Some(event) => self.handle(event),
                    None => break,
                },
                () = sleep_until(Instant::now() + deadline) => self.download.handle_timeout(self.shared.now()),
                _ = look.tick() => self.look(),
                Some(_) = self.requests.join_next() => {}
            }
        }
        self.act();
        self.finish();
    }

    fn finish(mut self) {
        if let Some(fetch) = self.fetch.take() {
            fetch.abort();
        }
        self.share.set_download(None);
        self.shared.buffers.clear();
        if !self.share.is_complete() {
            // something was lost in the last moment
            start(&self.shared, &self.share);
        }
        if let Err(error) = self.shared.keeper.sync() {
            tracing::error!(%error, "making a version durable");
        }
        if self.shared.role == Role::Node {
            self.share.set_source(true);
        }
        join_everywhere(&self.shared, &self.share);
        let from = self.tell_senders();
        let counters = self.download.counters();
        tracing::info!(
            manifest = %self.share.digest(),
            duplicates = counters.duplicates,
            second_copies = counters.second_copies,
            failures = counters.failures,
            ?from,
            "everything is here"
        );
        self.shared.emit(Event::Complete {
            manifest: self.share.digest(),
            from,
        });
    }

    fn tell_senders(&mut self) -> Vec<(String, u64)> {
        let received = &self.download.counters().received;
        let from = self.senders.by_name(&self.shared, received);
        self.share.set_senders(from.clone());
        from
    }

    fn handle(&mut self, event: SwarmEvent) {
        let now = self.shared.now();
        match event {
            SwarmEvent::Peer { id, source } => {
                let kind = if source {
                    PeerKind::Source
                } else {
                    PeerKind::Receiver
                };
                self.download.handle_peer(now, id, kind);
            }
            SwarmEvent::Have { id, parts } => self.download.handle_have(now, id, &parts),
            SwarmEvent::HaveNot { id, parts } => self.download.handle_have_not(id, &parts),
            SwarmEvent::Gone { id } => self.download.handle_peer_gone(now, id),
            SwarmEvent::Assigned { request, part } => {
                self.download.handle_assigned(now, request, part);
            }
            SwarmEvent::Exhausted { request } => self.download.handle_exhausted(now, request),
            SwarmEvent::Arrived { request, part } => {
                self.flights.remove(&request);
                // it may be lost again by now, with the object that it made whole
                match self.share.has_part(part) {
                    true => self.download.handle_arrived(now, request, part),
                    false => self.download.handle_failed(now, request, Failure::Broken),
                }
            }
            SwarmEvent::Failed { request, failure } => {
                self.flights.remove(&request);
                self.download.handle_failed(now, request, failure);
            }
            // it may have made way by now
            SwarmEvent::Local { chunk } | SwarmEvent::Passing { chunk }
                if !self.share.holds(chunk) => {}
            SwarmEvent::Local { chunk } => self.download.handle_local(now, chunk),
            SwarmEvent::Lost { chunk } => self.download.handle_lost(now, chunk),
            SwarmEvent::Passing { chunk } => self.download.handle_passing(now, chunk),
            SwarmEvent::Wishes(wishes) => self.download.handle_wishes(now, wishes),
            SwarmEvent::Claim { by, term } => self.download.handle_claim(now, by, term),
            SwarmEvent::OriginGoesOn => self.download.handle_fetch_goes_on(now),
            SwarmEvent::OriginDone => {
                self.fetch = None;
                self.download.handle_fetched();
                // who keeps everything is done now and gives out first copies; who keeps a share does not
                if self.share.is_partial() && self.share.set_source(false) {
                    join_everywhere(&self.shared, &self.share);
                }
            }
            SwarmEvent::OriginFailed => {
                self.fetch = None;
                self.download.handle_fetch_failed(now);
            }
        }
    }

    fn look(&mut self) {
        if self.last_sync.elapsed() > SYNC_EVERY {
            self.last_sync = Instant::now();
            self.look_at_the_share();
            let keeper = self.shared.keeper.clone();
            tokio::task::spawn_blocking(move || keeper.sync());
            self.tell_senders();
        }
        let shared = &self.shared;
        let candidates = shared
            .peers()
            .iter()
            .filter(|p| shared.is_candidate(p))
            .map(|p| (p.key, shared.rank_of(p)))
            .collect();
        self.download.handle_nodes(shared.now(), &candidates);
        if shared.role == Role::Agent {
            let stands = shared.stands_for_nodes();
            self.download.handle_standing(shared.now(), stands);
        }
    }

    /// Says that the share is here, and what beyond it may go.
    fn look_at_the_share(&mut self) {
        let Some(wishes) = self.share.wishes() else {
            return;
        };
        let has = self.download.has_its_share() && !wishes.mine.is_empty();
        if has && !std::mem::replace(&mut self.had_its_share, has) {
            let manifest = self.share.digest();
            let (chunks, of) = (wishes.mine.len(), self.share.manifest.chunks.len());
            self.shared.emit(Event::ShareHere {
                manifest,
                chunks,
                of,
            });
        }
        self.had_its_share = has;
        spread::let_go(&self.shared, &self.share, |chunk, id| {
            self.download.is_whole_at(chunk, id)
        });
    }

    fn act(&mut self) {
        self.release();
        while let Some(action) = self.download.poll_action() {
            match action {
                Action::Swarm(action) => self.act_in_swarm(action),
                Action::Fetch { term, wanted } => self.start_fetch(term, wanted),
                Action::StopFetching => {
                    if let Some(fetch) = self.fetch.take() {
                        fetch.abort();
                    }
                    if self.share.set_source(false) {
                        join_everywhere(&self.shared, &self.share);
                    }
                }
                Action::Claim { term } => {
                    let manifest = self.share.digest();
                    let peers = self.shared.peers();
                    for peer in peers.iter().filter(|p| self.shared.is_candidate(p)) {
                        peer.send(Frame::Claim { manifest, term });
                    }
                }
            }
        }
    }

    fn release(&mut self) {
        let released: Vec<ChunkId> = std::iter::from_fn(|| self.download.poll_release()).collect();
        for chunk in &released {
            self.share.release(*chunk);
        }
        announce_lost(&self.shared, &self.share, &released);
    }

    fn act_in_swarm(&mut self, action: swarm::Action) {
        match action {
            swarm::Action::Request { id, peer, want } => self.request(id, peer, want),
            swarm::Action::Cancel { id } => {
                if let Some(flight) = self.flights.remove(&id) {
                    flight.abort();
                }
            }
            swarm::Action::Announce { parts } => {
                for peer in self.shared.peers() {
                    if self.shared.may_be_served(&peer) {
                        announce(&self.share, &peer, &parts);
                    }
                }
            }
            swarm::Action::Accuse { peer, part } => self.shared.accuse(peer, &self.share, part),
            swarm::Action::Finished => {}
        }
    }

    fn request(&mut self, id: RequestId, peer: peer_cache_proto::PeerId, want: Want) {
        let Some(peer) = self.shared.peer(peer) else {
            self.download
                .handle_failed(self.shared.now(), id, Failure::Broken);
            return;
        };
        let (shared, share, events) =
            (self.shared.clone(), self.share.clone(), self.events.clone());
        let asked = Asked::of(peer);
        let flight = self.requests.spawn(async move {
            let fetched = fetch(&shared, &share, &asked.0, id, want, &events).await;
            drop(asked);
            let event = match fetched {
                Ok(Some(part)) => SwarmEvent::Arrived { request: id, part },
                Ok(None) => SwarmEvent::Exhausted { request: id },
                Err(failure) => SwarmEvent::Failed {
                    request: id,
                    failure,
                },
            };
            // the download ended meanwhile: it needs no more events
            let _ = events.send(event).await;
        });
        self.flights.insert(id, flight);
    }

    fn start_fetch(&mut self, term: u64, wanted: Vec<ChunkId>) {
        let Some(origin) = self.shared.origin.clone() else {
            return;
        };
        if self.share.set_source(true) {
            join_everywhere(&self.shared, &self.share);
        }
        tracing::info!(term, manifest = %self.share.digest(), "this node fetches for the site");
        let (shared, share, events) =
            (self.shared.clone(), self.share.clone(), self.events.clone());
        let fetch = self.requests.spawn(async move {
            let event = match fetch_from_origin(&shared, &share, &origin, wanted, &events).await {
                Ok(()) => SwarmEvent::OriginDone,
                Err(error) => {
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::warn!(%error, cause, "fetching over the WAN");
                    SwarmEvent::OriginFailed
                }
            };
            let _ = events.send(event).await;
        });
        self.fetch = Some(fetch);
    }
}

/// One request to a peer: ask, read the answer to its end, check it, pass it on or keep it. `None` when a source has given
/// out everything once.
async fn fetch(
    shared: &Arc<Shared>,
    share: &Arc<Share>,
    peer: &Peer,
    id: RequestId,
    want: Want,
    events: &mpsc::Sender<SwarmEvent>,
) -> Result<Option<PartId>, Failure> {
    let (mut send, mut recv) = peer.connection.open_bi().await.map_err(broken)?;
    let ask = match want {
        Want::Next => Ask::Next,
        Want::Part(part) => Ask::Part {
            part,
            form: Form::Object,
        },
    };
    let request = Request {
        manifest: share.digest(),
        ask,
    };
    let _ = send.set_priority(REQUEST_PRIORITY);
    send.write_all(&request.to_bytes()).await.map_err(broken)?;
    send.finish().map_err(broken)?;
    let mut head = [0; ANSWER_BYTES];
    recv.read_exact(&mut head).await.map_err(broken)?;
    let answer = Answer::from_bytes(&head, PART_ANSWER_BYTES_MAX).map_err(|_| Failure::Invalid)?;
    let (part, form, bytes) = match answer {
        Answer::Found { part, form, bytes } => (part, form, bytes),
        Answer::Exhausted if want == Want::Next => return Ok(None),
        Answer::Busy if want != Want::Next => return Err(Failure::Busy),
        Answer::Exhausted | Answer::Missing | Answer::Refused | Answer::Busy => {
            return Err(Failure::Missing);
        }
    };
    let (chunk, index) = share.table.place_of(part).ok_or(Failure::Invalid)?;
    let record = share.manifest.chunk(chunk).ok_or(Failure::Invalid)?;
    match want {
        Want::Next => {
            let _ = events
                .send(SwarmEvent::Assigned { request: id, part })
                .await;
        }
        Want::Part(asked) if asked != part => return Err(Failure::Invalid),
        Want::Part(_) => {}
    }
    // what waits for room stays with the sender: nothing is read
    let room = room_for(share, chunk).await?;
    match form {
        Form::Object => {
            let fits = record.check_part_length(index, bytes as usize);
            fits.map_err(|e| invalid(peer, &e))?;
            let mut body = shared.buffers.take(bytes as usize);
            read_to_the_end(&mut recv, body.as_mut()).await?;
            let checked = VerifiedPart::check(record, index, body.freeze());
            let checked = checked.map_err(|e| invalid(peer, &e))?;
            take_part(shared, share, (chunk, record), (part, checked), room).await?;
        }
        // it answers with no other until it has a slab, and a node keeps nothing else
        Form::Rebuilt if shared.role == Role::Node => return Err(Failure::Missing),
        Form::Rebuilt => {
            let mut body = vec![0; bytes as usize];
            read_to_the_end(&mut recv, &mut body).await?;
            let mut codec = ChunkCodec::new(1).map_err(broken)?;
            let checked =
                VerifiedChunk::check_rebuilt(record, &body, &mut codec, vec![0; CHUNK_BYTES]);
            let rebuilt = Arrived::Rebuilt(checked.map_err(|e| invalid(peer, &e))?);
            let permit = match room {
                Some(permit) => permit,
                None => acquire(share).await?,
            };
            keep(shared, share, chunk, rebuilt, permit)
                .await
                .map_err(|()| Failure::Broken)?;
            let _ = events.send(SwarmEvent::Local { chunk }).await;
        }
        Form::Delta => return Err(Failure::Missing),
    }
    Ok(Some(part))
}

fn broken<E>(_: E) -> Failure {
    Failure::Broken
}

async fn acquire(share: &Share) -> Result<OwnedSemaphorePermit, Failure> {
    let intake = share.intake.clone();
    intake.acquire_owned().await.map_err(broken)
}

/// Room in memory for an object; none is needed where it arrives already.
async fn room_for(share: &Share, chunk: ChunkId) -> Result<Option<OwnedSemaphorePermit>, Failure> {
    match share.is_arriving(chunk) {
        true => Ok(None),
        false => acquire(share).await.map(Some),
    }
}

/// Reads all bytes and the end behind them: a stream dropped before its FIN looks like a cancellation to the sender.
async fn read_to_the_end(recv: &mut quinn::RecvStream, body: &mut [u8]) -> Result<(), Failure> {
    recv.read_exact(body).await.map_err(broken)?;
    match recv.read(&mut [0]).await.map_err(broken)? {
        None => Ok(()),
        Some(_) => Err(Failure::Invalid),
    }
}

/// A part can be passed on from now on; with the last one the object goes to the medium.
async fn take_part(
    shared: &Arc<Shared>,
    share: &Arc<Share>,
    (chunk, record): (ChunkId, &ChunkRecord),
    (id, part): (PartId, VerifiedPart),
    room: Option<OwnedSemaphorePermit>,
) -> Result<(), Failure> {
    let (mut part, mut room) = (part, room);
    loop {
        match share.add((chunk, record), (id, part), room.take()) {
            Added::Part => return Ok(()),
            Added::Whole(object, permit) => {
                let kept = keep(shared, share, chunk, Arrived::Object(object), permit).await;
                if kept.is_ok() {
                    return Ok(());
                }
                // it would only come again
                tokio::time::sleep(REST_WITHOUT_ROOM).await;
                return Err(Failure::Broken);
            }
            // it was whole and lost again since room was asked for
            Added::NoRoom(back) => {
                part = back;
                room = Some(acquire(share).await?);
            }
        }
    }
}

fn invalid(peer: &Peer, error: &image_format::InvalidChunkError) -> Failure {
    tracing::warn!(peer.id = %peer.key.short(), peer.address = %peer.address, %error, "a peer sent wrong bytes");
    Failure::Invalid
}

/// Hands a chunk to the keeper; when it can be opened, it is held. Goes to its end even if whoever asked is cancelled.
pub(crate) async fn keep(
    shared: &Arc<Shared>,
    share: &Arc<Share>,
    chunk: ChunkId,
    arrived: Arrived,
    permit: OwnedSemaphorePermit,
) -> Result<(), ()> {
    let (kept, word) = oneshot::channel();
    shared
        .keeper
        .keep(&share.manifest, chunk, arrived, permit, kept);
    let (shared, share) = (shared.clone(), share.clone());
    let end = tokio::spawn(async move {
        match word.await {
            Ok(Ok(())) => {
                share.hold(chunk);
                // where there is no room for everything it may have made way already
                if !share.is_partial() || shared.keeper.holds(&share.manifest, chunk) {
                    return Ok(());
                }
                share.lose(chunk);
            }
            Ok(Err(error)) => {
                shared.tell_that_it_cannot_keep(&error);
                share.drop_arriving(chunk);
            }
            // the program ends
            Err(_) => return Err(()),
        }
        // its parts were here a moment ago
        announce_lost(&shared, &share, &[chunk]);
        if let Some(events) = share.download() {
            let _ = events.try_send(SwarmEvent::Lost { chunk });
        }
        Err(())
    });
    end.await.unwrap_or(Err(()))
}

impl Shared {
    /// A peer sent bytes that are not what was signed: it is cut off, named, and not asked again.
    fn accuse(&self, id: peer_cache_proto::PeerId, share: &Share, part: Option<PartId>) {
        let Some(peer) = self.peer(id) else { return };
        let mut accused = lock(&self.accused);
        accused.retain(|_, since| since.elapsed() < ACCUSED_FOR);
        accused.insert(peer.key, std::time::Instant::now());
        drop(accused);
        peer.connection.close(4u32.into(), b"sent wrong bytes");
        let chunk = part
            .and_then(|part| share.table.place_of(part))
            .and_then(|(chunk, _)| share.manifest.chunk(chunk))
            .map(|record| record.hash);
        let word = Frame::Accused {
            peer: peer.key,
            chunk,
        };
        let mut others = self.peers();
        others.retain(|other| other.id != id && self.may_be_served(other));
        others.iter().for_each(|other| other.send(word.clone()));
        self.emit(Event::Accused {
            key: peer.key,
            address: peer.address,
            chunk,
        });
    }

    /// Once a minute: what has no room comes by the hundred.
    fn tell_that_it_cannot_keep(&self, error: &KeepError) {
        let mut last = lock(&self.keep_failed);
        if last.is_some_and(|at| at.elapsed() < TROUBLE_EVERY) {
            return;
        }
        *last = Some(std::time::Instant::now());
        let source = std::error::Error::source(error);
        let reason = source.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"));
        tracing::error!(reason, "an object could not be kept");
        self.emit(Event::KeepFailed { reason });
    }
}
