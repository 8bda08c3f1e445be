//! Answers requests: each on its own stream, straight from the map.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use image_format::{Form, PartId};
use peer_cache_proto::{
    duty::Give,
    wire::{Answer, Ask, REQUEST_BYTES, Request},
};
use tokio::time::timeout;

use crate::{
    download::repair,
    share::Share,
    shared::{Peer, Shared},
};

const REQUEST_WITHIN: Duration = Duration::from_secs(5);
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
    let (answer, body) = match shared.may_be_served(peer) {
        false => (Answer::Refused, Bytes::new()),
        true => answer(shared, peer, &request, &mut send).await,
    };
    let Some(_pinned) = peer.pin(body.len() as u64) else {
        peer.connection.close(6u32.into(), b"takes nothing off");
        return Ok(());
    };
    let sent = async {
        send.write_all(&answer.to_bytes()).await?;
        send.write_chunk(body).await?;
        send.finish()?;
        // until then the bytes are in a queue, and their place in the slab is not free
        let _ = send.stopped().await;
        Ok(())
    };
    timeout(PIN_FOR, sent).await.unwrap_or_else(|_| {
        peer.connection.close(6u32.into(), b"takes nothing off");
        Ok(())
    })
}

async fn answer(
    shared: &Arc<Shared>,
    peer: &Peer,
    request: &Request,
    send: &mut quinn::SendStream,
) -> (Answer, Bytes) {
    let nothing = |answer| (answer, Bytes::new());
    let Some(share) = shared.share(&request.manifest) else {
        return nothing(Answer::Missing);
    };
    match request.ask {
        Ask::Manifest => {
            let bytes = Bytes::copy_from_slice(share.manifest.as_bytes());
            found(PartId(0), Form::Object, bytes)
        }
        Ask::Part { part, form } => {
            open(shared, &share, part, form).unwrap_or(nothing(Answer::Missing))
        }
        Ask::Next => tokio::select! {
            next = next_part(shared, peer, &share) => next,
            // the asker has it from elsewhere: what is not given stays on the list
            _ = send.stopped() => nothing(Answer::Missing),
        },
    }
}

fn found(part: PartId, form: Form, body: Bytes) -> (Answer, Bytes) {
    let bytes = u32::try_from(body.len()).unwrap_or(u32::MAX);
    (Answer::Found { part, form, bytes }, body)
}

/// A part of an object, from memory or medium; or the whole chunk in the form that is here.
fn open(
    shared: &Arc<Shared>,
    share: &Arc<Share>,
    part: PartId,
    form: Form,
) -> Option<(Answer, Bytes)> {
    let (chunk, index) = share.table.place_of(part)?;
    if form == Form::Object
        && let Some(bytes) = share.part_in_memory(chunk, index)
    {
        return Some(found(part, Form::Object, bytes));
    }
    match shared.keeper.open(&share.manifest, chunk, form) {
        Some((Form::Object, object)) => {
            let range = share.manifest.chunk(chunk)?.part_range(index)?;
            let bytes = (range.end <= object.len()).then(|| object.slice(range))?;
            Some(found(part, Form::Object, bytes))
        }
        Some((form, bytes)) => Some(found(part, form, bytes)),
        None => {
            repair(shared, share, chunk);
            None
        }
    }
}

async fn next_part(shared: &Arc<Shared>, peer: &Peer, share: &Arc<Share>) -> (Answer, Bytes) {
    let wait = async {
        loop {
            // registered before the list is looked at, so that no arrival slips between
            let arrived = share.arrived.notified();
            match share.give(peer.id) {
                Give::Part(part) => {
                    if let Some(found) = open(shared, share, part, Form::Object) {
                        return found;
                    }
                }
                Give::Exhausted => return (Answer::Exhausted, Bytes::new()),
                Give::Later => arrived.await,
            }
        }
    };
    timeout(NEXT_WITHIN, wait)
        .await
        .unwrap_or((Answer::Missing, Bytes::new()))
}
