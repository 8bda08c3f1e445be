//! The WAN leg: objects from HQ under its lease.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use image_format::{ChunkId, VerifiedObject};
use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    Event,
    download::keep,
    keeper::Arrived,
    origin::{Lease, LeaseError, Origin},
    share::{Share, SwarmEvent},
    shared::Shared,
};

/// Objects asked of the origin at once: enough to hide its round-trip time.
const ORIGIN_REQUESTS_MAX: usize = 4;
/// The lease is renewed when this much has come.
const RENEW_EVERY_BYTES: u64 = 16 << 20;
/// A wrong object from the origin is asked for once more, past caches.
const ORIGIN_TRIES: usize = 2;
/// How often in a row a transfer from the origin may be cut without a byte before the fetcher steps back.
const ORIGIN_RESUMES_MAX: u32 = 5;
const ORIGIN_RESUME_AFTER: Duration = Duration::from_millis(300);

/// Brings the wanted chunks over the WAN, in their order, under HQ's lease. Ends when all are here.
///
/// # Errors
/// HQ refuses the lease, or the origin cannot be reached.
pub(crate) async fn fetch_from_origin(
    shared: &Arc<Shared>,
    share: &Arc<Share>,
    origin: &dyn Origin,
    wanted: Vec<ChunkId>,
    events: &mpsc::Sender<SwarmEvent>,
) -> Result<(), LeaseError> {
    let mut lease = origin.lease(share.digest()).await?;
    let mut since_renewal = 0;
    for batch in wanted.chunks(ORIGIN_REQUESTS_MAX) {
        let mut objects = JoinSet::new();
        for chunk in batch.iter().copied().filter(|c| !share.holds(*c)) {
            let (shared, share, lease) = (shared.clone(), share.clone(), lease.clone());
            objects.spawn(async move {
                origin_object(&shared, &share, &lease, chunk)
                    .await
                    .map(|n| (chunk, n))
            });
        }
        while let Some(done) = objects.join_next().await {
            let done = done.map_err(|e| LeaseError::Unreachable(std::io::Error::other(e)))?;
            let (chunk, bytes) = done.map_err(LeaseError::Unreachable)?;
            since_renewal += bytes;
            let _ = events.send(SwarmEvent::Local { chunk }).await;
        }
        if since_renewal >= RENEW_EVERY_BYTES {
            since_renewal = 0;
            lease = origin.lease(share.digest()).await?;
        }
    }
    Ok(())
}

/// One object over the WAN, resumed where a cut left it. A wrong one is asked for once more, then HQ is the culprit.
async fn origin_object(
    shared: &Shared,
    share: &Share,
    lease: &Lease,
    chunk: ChunkId,
) -> std::io::Result<u64> {
    let origin = shared
        .origin
        .as_ref()
        .ok_or(std::io::ErrorKind::NotConnected)?;
    let record = share
        .manifest
        .chunk(chunk)
        .ok_or(std::io::ErrorKind::NotFound)?;
    let mut wrong = String::new();
    for _ in 0..ORIGIN_TRIES {
        let permit = share
            .intake
            .clone()
            .acquire_owned()
            .await
            .map_err(std::io::Error::other)?;
        let mut body = Vec::with_capacity(record.object_bytes as usize);
        let (mut resumes, mut before) = (0u32, 0);
        while let Err(error) = origin.object(lease, record, &mut body).await {
            // a line that is cut often still brings the object; one that brings nothing does not
            resumes = if body.len() > before { 0 } else { resumes + 1 };
            before = body.len();
            if resumes > ORIGIN_RESUMES_MAX {
                return Err(error);
            }
            tokio::time::sleep(ORIGIN_RESUME_AFTER * resumes).await;
        }
        let bytes = body.len() as u64;
        shared.origin_bytes.fetch_add(bytes, Ordering::Relaxed);
        match VerifiedObject::check(record, Bytes::from(body)) {
            Ok(object) => {
                return keep(shared, share, chunk, Arrived::Object(object), permit)
                    .map(|()| bytes)
                    .map_err(|()| std::io::ErrorKind::StorageFull.into());
            }
            Err(error) => wrong = error.to_string(),
        }
    }
    shared.emit(Event::OriginWrong {
        reason: wrong.clone(),
    });
    Err(std::io::Error::other(wrong))
}
