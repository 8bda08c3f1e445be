//! Answers requests: each on its own stream, straight from the map.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use image_format::{Form, PartId};
use peer_cache_proto::{
    duty::{Give, TURN_ENDS_AFTER, TURNS, UPLOAD_COUNTS_FOR, uploads_max},
    upload::{Change, UploadBudget},
    wire::{Answer, Ask, REQUEST_BYTES, Request},
};
use tokio::{
    sync::{Notify, Semaphore, SemaphorePermit},
    time::{Instant, sleep, timeout, timeout_at},
};

use crate::{
    download::repair,
    share::Share,
    shared::{Peer, Shared, lock},
};

const REQUEST_WITHIN: Duration = Duration::from_secs(5);
/// Who has no right here is told so after this time, or has one by then: a hundred strangers that ask as fast as they can would
/// take a twentieth of the line from the others.
const REFUSED_AFTER: Duration = Duration::from_millis(100);
/// How long a request for the next part waits for one to come over the WAN.
const NEXT_WITHIN: Duration = Duration::from_secs(20);
/// How long what is being sent may keep its place in the slab; then the connection ends.
const PIN_FOR: Duration = Duration::from_secs(30);
const ANSWER_PRIORITY: i32 = 0;

/// Takes request streams until the connection ends. QUIC's limit on open streams bounds how many are served at once.
pub(crate) async fn serve_requests(shared: Arc<Shared>, peer: Arc<Peer>) {
    while let Ok((send, recv)) = peer.connection.accept_bi().await {
        let (shared, peer) = (shared.clone(), peer.clone());
        tokio::spawn(async move {
            // a broken stream is the asker's to notice
            let _ = serve(&shared, &peer, send, recv).await;
        });
    }
}

async fn serve(
    shared: &Arc<Shared>,
    peer: &Peer,
    mut send: quinn::SendStream,
    mut recv: quinn::RecvStream,
) -> std::io::Result<()> {
    let mut bytes = [0; REQUEST_BYTES];
    timeout(REQUEST_WITHIN, recv.read_exact(&mut bytes))
        .await?
        .map_err(std::io::Error::other)?;
    let request = Request::from_bytes(&bytes).map_err(std::io::Error::other)?;
    send.set_priority(ANSWER_PRIORITY)?;
    if !peer.standing().is_member() {
        sleep(REFUSED_AFTER).await;
    }
    let answered = match shared.may_be_served(peer) {
        false => Answered::nothing(Answer::Refused),
        true => answer(shared, peer, &request, &mut send).await,
    };
    let Answered { head, body, upload } = answered;
    let Some(_pinned) = peer.pin(body.len() as u64) else {
        peer.connection.close(6u32.into(), b"takes nothing off");
        return Ok(());
    };
    let sent = async {
        let since = Instant::now();
        let turn = match &upload {
            Some(_) => shared.uploads.turn().await,
            None => None,
        };
        shared.uploads.leave(body.len() as u64).await;
        send.write_all(&head.to_bytes()).await?;
        send.write_chunk(body).await?;
        send.finish()?;
        // it is sent when it is acknowledged: until then the bytes are in a queue, and their place in the slab is not free
        let stopped = send.stopped();
        tokio::pin!(stopped);
        if timeout(TURN_ENDS_AFTER, &mut stopped).await.is_ok() {
            return Ok(());
        }
        drop(turn);
        if timeout_at(since + UPLOAD_COUNTS_FOR, &mut stopped)
            .await
            .is_err()
        {
            drop(upload);
            let _ = stopped.await;
        }
        Ok(())
    };
    timeout(PIN_FOR, sent).await.unwrap_or_else(|_| {
        peer.connection.close(6u32.into(), b"takes nothing off");
        Ok(())
    })
}

/// Counts the answers that are on their way, and lets them go as fast as the machine may send.
#[derive(Debug)]
pub(crate) struct Uploads {
    count: Mutex<usize>,
    ended: Notify,
    turns: Semaphore,
    budget: Mutex<UploadBudget>,
    started: Instant,
}

impl Uploads {
    pub(crate) fn new(bytes_per_second: Option<u64>) -> Self {
        Self {
            count: Mutex::default(),
            ended: Notify::new(),
            turns: Semaphore::new(TURNS),
            budget: Mutex::new(UploadBudget::new(Duration::ZERO, bytes_per_second)),
            started: Instant::now(),
        }
    }

    /// For how long some task of this machine waited for a core, since its kernel started.
    pub(crate) fn handle_pressure(&self, stalled: Duration) -> Option<Change> {
        lock(&self.budget).handle_pressure(self.started.elapsed(), stalled)
    }

    /// Waits until the budget lets so many bytes go. Who holds a turn meanwhile keeps its place.
    async fn leave(&self, bytes: u64) {
        loop {
            let granted = lock(&self.budget).grant(self.started.elapsed(), bytes);
            match granted {
                Ok(()) => return,
                Err(wait) => sleep(wait).await,
            }
        }
    }

    /// `is_last`: only when nothing else is being sent.
    fn try_begin(self: &Arc<Self>, peers: usize, is_last: bool) -> Option<Upload> {
        let mut count = lock(&self.count);
        let most = if is_last { 1 } else { uploads_max(peers) };
        (*count < most).then(|| {
            *count += 1;
            Upload(self.clone())
        })
    }

    /// Waits until few enough are being sent.
    async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        self.turns.acquire().await.ok()
    }

    /// Waits until one more may be on its way.
    async fn begin(self: &Arc<Self>, peers: impl Fn() -> usize) -> Upload {
        loop {
            let ended = self.ended.notified();
            if let Some(upload) = self.try_begin(peers(), false) {
                return upload;
            }
            ended.await;
        }
    }
}

/// One answer on its way.
struct Upload(Arc<Uploads>);

impl Drop for Upload {
    fn drop(&mut self) {
        *lock(&self.0.count) -= 1;
        self.0.ended.notify_one();
    }
}

/// What goes back on the stream.
struct Answered {
    head: Answer,
    body: Bytes,
    /// Its place among the answers that are on their way.
    upload: Option<Upload>,
}

impl Answered {
    fn nothing(head: Answer) -> Self {
        Self {
            head,
            body: Bytes::new(),
            upload: None,
        }
    }

    fn found(part: PartId, form: Form, body: Bytes) -> Self {
        let bytes = u32::try_from(body.len()).unwrap_or(u32::MAX);
        Self {
            head: Answer::Found { part, form, bytes },
            body,
            upload: None,
        }
    }
}

async fn answer(
    shared: &Arc<Shared>,
    peer: &Peer,
    request: &Request,
    send: &mut quinn::SendStream,
) -> Answered {
    let Some(share) = shared.share(&request.manifest) else {
        return Answered::nothing(Answer::Missing);
    };
    match request.ask {
        Ask::Manifest => {
            let bytes = Bytes::copy_from_slice(share.manifest.as_bytes());
            Answered::found(PartId(0), Form::Object, bytes)
        }
        Ask::Part { part, form } => {
            let peers = shared.doorway.member_count();
            let is_last = shared.is_suspect(&peer.key);
            let Some(upload) = shared.uploads.try_begin(peers, is_last) else {
                return Answered::nothing(Answer::Busy);
            };
            match open(shared, &share, part, form) {
                Some(found) => Answered {
                    upload: Some(upload),
                    ..found
                },
                None => Answered::nothing(Answer::Missing),
            }
        }
        Ask::Next => tokio::select! {
            next = next_part(shared, peer, &share) => next,
            // the asker has it from elsewhere: what is not given stays on the list
            _ = send.stopped() => Answered::nothing(Answer::Missing),
        },
    }
}

/// A part of an object, from memory or medium; or the whole chunk in the form that is here.
fn open(shared: &Arc<Shared>, share: &Arc<Share>, part: PartId, form: Form) -> Option<Answered> {
    let (chunk, index) = share.table.place_of(part)?;
    if form == Form::Object
        && let Some(bytes) = share.part_in_memory(chunk, index)
    {
        return Some(Answered::found(part, Form::Object, bytes));
    }
    match shared.keeper.open(&share.manifest, chunk, form) {
        Some((Form::Object, object)) => {
            let range = share.manifest.chunk(chunk)?.part_range(index)?;
            let bytes = (range.end <= object.len()).then(|| object.slice(range))?;
            Some(Answered::found(part, Form::Object, bytes))
        }
        Some((form, bytes)) => Some(Answered::found(part, form, bytes)),
        None => {
            repair(shared, share, chunk);
            None
        }
    }
}

async fn next_part(shared: &Arc<Shared>, peer: &Peer, share: &Arc<Share>) -> Answered {
    let wait = async {
        loop {
            // first come, first served: what is given leaves soon
            let upload = shared.uploads.begin(|| shared.doorway.member_count()).await;
            // registered before the list is looked at, so that no arrival slips between
            let arrived = share.arrived.notified();
            match share.give(peer.id) {
                Give::Part(part) => {
                    if let Some(found) = open(shared, share, part, Form::Object) {
                        return Answered {
                            upload: Some(upload),
                            ..found
                        };
                    }
                }
                Give::Exhausted => return Answered::nothing(Answer::Exhausted),
                Give::Later => {
                    drop(upload);
                    arrived.await;
                }
            }
        }
    };
    timeout(NEXT_WITHIN, wait)
        .await
        .unwrap_or(Answered::nothing(Answer::Missing))
}
