//! Objects: what is missing, putting, and giving with every byte counted.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Extension, Json,
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::Stream;
use image_format::{Manifest, ObjectHash};
use tokio::{sync::Mutex, time::sleep};
use trust_format::{Digest, SiteId, Verified};
use web_api::{Hex, LeaseKind, LedgerLine, MISSING_OBJECTS_MAX, MissingObjects, Page};

use crate::{
    Hq,
    access::{By, Fetcher},
    database::{
        Database, is_away, leases as lease_table,
        leases::{LedgerFilter, LedgerSort},
    },
    error::Refusal,
    input::{Input, Named, Raw},
    leases,
    leases::activity::Activity,
    listed::Listed,
};

/// Manifests whose object lists stay in memory; at the most chunks a list takes 32 MiB.
const LISTS_MAX: usize = 4;

/// A count is kept for so long while the database is away. Few wait: a transfer begins only when the database says that its lease holds.
const COUNT_AGAIN_AFTER: [Duration; 5] = [
    Duration::from_secs(5),
    Duration::from_secs(15),
    Duration::from_secs(60),
    Duration::from_secs(300),
    Duration::from_secs(900),
];

pub(crate) async fn missing(
    State(hq): State<Arc<Hq>>,
    Input(asked): Input<MissingObjects>,
) -> Result<Json<MissingObjects>, Refusal> {
    if asked.objects.len() > MISSING_OBJECTS_MAX {
        return Err(Refusal::bad(format!(
            "at most {MISSING_OBJECTS_MAX} objects are asked for at once"
        )));
    }
    let asked = asked.objects.iter().map(|hash| ObjectHash(hash.0));
    let missing = hq.store.missing_of(asked.collect()).await?;
    Ok(Json(MissingObjects {
        objects: missing.iter().map(|hash| Hex(hash.0)).collect(),
    }))
}

fn hash_of(name: &Named) -> Result<ObjectHash, Refusal> {
    let hash: Hex<32> = name.parse("object's hash (64 hexadecimal digits)")?;
    Ok(ObjectHash(hash.0))
}

pub(crate) async fn put(
    State(hq): State<Arc<Hq>>,
    name: Named,
    Raw(body): Raw,
) -> Result<StatusCode, Refusal> {
    hq.store.put_object(hash_of(&name)?, body).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn get(
    State(hq): State<Arc<Hq>>,
    name: Named,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    give(&hq, &hash_of(&name)?, &headers, None).await
}

pub(crate) async fn get_for_site(
    State(hq): State<Arc<Hq>>,
    Extension(fetcher): Extension<Fetcher>,
    name: Named,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let hash = hash_of(&name)?;
    let (lease, activity) = leases::shown(&hq, &fetcher, &headers).await?;
    let list = hq.object_lists.of(&hq, Digest(lease.manifest.0)).await?;
    if list.binary_search(&hash).is_err() {
        let sentence = format!("object {hash} is not part of version {}", lease.manifest);
        return Err(Refusal::new(StatusCode::FORBIDDEN, sentence));
    }
    let account = Account {
        database: hq.database.clone(),
        site: lease.site,
        version: lease.manifest,
        kind: lease.kind(),
        activity,
    };
    give(&hq, &hash, &headers, Some(account)).await
}

/// The first byte that a `Range` header asks for. Any other form of it may be ignored (RFC 9110, section 14.2).
fn first_byte(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get(header::RANGE)?.to_str().ok()?;
    let digits = range.strip_prefix("bytes=")?.strip_suffix('-')?;
    match digits.bytes().all(|b| b.is_ascii_digit()) {
        true => digits.parse().ok(),
        false => None,
    }
}

async fn give(
    hq: &Hq,
    hash: &ObjectHash,
    headers: &HeaderMap,
    account: Option<Account>,
) -> Result<Response, Refusal> {
    let first = first_byte(headers);
    let begin = first.unwrap_or(0);
    // one round trip to a bucket, but for a part of an object, whose end is looked for first
    let (size, stream) = match begin {
        0 => {
            let (size, stream) = hq.store.read_object(hash, 0).await?;
            (size, Some(stream))
        }
        _ => (hq.store.object_bytes(hash).await?, None),
    };
    if first.is_some_and(|first| first >= size) {
        let sentence = format!("object {hash} has {size} bytes");
        let refusal = Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, sentence);
        return Ok((
            [(header::CONTENT_RANGE, format!("bytes */{size}"))],
            refusal,
        )
            .into_response());
    }
    let stream = match stream {
        Some(stream) => stream,
        None => hq.store.read_object(hash, begin).await?.1,
    };
    let counted = Counted {
        bytes: Box::pin(stream),
        given: 0,
        account,
    };
    let mut response = Body::from_stream(counted).into_response();
    let out = response.headers_mut();
    out.insert(header::CONTENT_LENGTH, HeaderValue::from(size - begin));
    out.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    out.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("public, immutable, max-age=31536000"),
    );
    out.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if let Some(first) = first {
        let range = format!("bytes {first}-{}/{size}", size - 1);
        if let Ok(value) = HeaderValue::try_from(range) {
            out.insert(header::CONTENT_RANGE, value);
        }
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    Ok(response)
}

/// Whose account bytes are put on.
struct Account {
    database: Database,
    site: SiteId,
    version: Hex<32>,
    kind: LeaseKind,
    /// Of the lease under which they go out.
    activity: Arc<Activity>,
}

impl Account {
    async fn put(self, bytes: u64) {
        let write = async || {
            let mut change = self.database.write().await?;
            lease_table::count_bytes(&mut change, self.site, &self.version, self.kind, bytes)
                .await?;
            change.commit().await
        };
        let mut written = write().await;
        for pause in COUNT_AGAIN_AFTER {
            if !written.as_ref().is_err_and(is_away) {
                break;
            }
            sleep(pause).await;
            written = write().await;
        }
        if let Err(error) = written {
            tracing::error!(%error, site = %self.site, version = %self.version, size_bytes = bytes, "WAN bytes are not in the ledger");
        }
    }
}

/// A body that counts what the connection takes from it, whether the transfer ends or is cut off.
struct Counted {
    bytes: Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>,
    given: u64,
    account: Option<Account>,
}

impl Stream for Counted {
    type Item = io::Result<Bytes>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Bytes>>> {
        let lost = self.account.as_ref().is_some_and(|a| a.activity.is_lost());
        if lost {
            // an older fence gets no further byte, not even the rest of an object
            return Poll::Ready(Some(Err(io::Error::other(
                "the lease went to another node",
            ))));
        }
        let next = self.bytes.as_mut().poll_next(context);
        match &next {
            Poll::Ready(Some(Ok(frame))) => {
                self.given += frame.len() as u64;
                if let Some(account) = &self.account {
                    account.activity.moved();
                }
            }
            Poll::Ready(Some(Err(error))) => {
                tracing::error!(%error, "reading an object; the transfer is cut off")
            }
            _ => (),
        }
        next
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        // at the end of the process there is no runtime left; the count of a running transfer is lost then
        if let (Some(account), Ok(runtime), true) = (
            self.account.take(),
            tokio::runtime::Handle::try_current(),
            self.given > 0,
        ) {
            runtime.spawn(account.put(self.given));
        }
    }
}

/// The objects of the manifests that were asked for last, sorted.
#[derive(Debug, Default)]
pub(crate) struct ObjectLists(Mutex<VecDeque<(Digest, Arc<[ObjectHash]>)>>);

impl ObjectLists {
    async fn of(&self, hq: &Hq, manifest: Digest) -> Result<Arc<[ObjectHash]>, Refusal> {
        // held while a list is made: a second request for it waits instead of making it again
        let mut lists = self.0.lock().await;
        if let Some(at) = lists.iter().position(|(digest, _)| *digest == manifest)
            && let Some(found) = lists.remove(at)
        {
            let list = found.1.clone();
            lists.push_front(found);
            return Ok(list);
        }
        let (bytes, keys) = (hq.store.manifest(&manifest).await?, hq.signer.trusted());
        let work = tokio::task::spawn_blocking(move || {
            let manifest = Verified::<Manifest>::check(&bytes, &keys)?;
            let deltas = manifest.chunks.iter().filter_map(|c| c.delta.as_ref());
            let mut list: Vec<_> = deltas.map(|d| d.object_hash).collect();
            list.extend(manifest.chunks.iter().map(|c| c.object_hash));
            list.sort_unstable();
            Ok::<Arc<[ObjectHash]>, Refusal>(list.into())
        });
        let list = work.await.map_err(|e| Refusal::failed(&e))??;
        lists.push_front((manifest, list.clone()));
        lists.truncate(LISTS_MAX);
        Ok(list)
    }
}

pub(crate) async fn ledger(
    State(hq): State<Arc<Hq>>,
    Extension(by): Extension<By>,
    asked: Listed<LedgerSort, LedgerFilter>,
) -> Result<Json<Page<LedgerLine>>, Refusal> {
    let mut db = hq.database.read().await?;
    let page = lease_table::ledger(&mut db, by.reach, &asked.filter, &asked.turn).await?;
    Ok(Json(page))
}

#[cfg(test)]
mod tests;
