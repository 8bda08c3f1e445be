//! The WAN leg: objects from HQ under its lease.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use image_format::{ChunkId, ChunkRecord, VerifiedObject};
use peer_cache_proto::election::CLAIM_EVERY;
use tokio::{
    sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use trust_format::PublicKey;

use crate::{
    Event, Role,
    download::keep,
    keeper::Arrived,
    origin::{FetchObjectError, HolderView, Lease, LeaseError, Origin},
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
/// The first pause after a cut; each further one in a row is twice as long, and half as much again by chance.
const ORIGIN_RESUME_AFTER: Duration = Duration::from_millis(300);
/// How long a holder of the lease may take to connect before it counts as out of reach.
const UNSEEN_FOR: Duration = Duration::from_secs(3);
/// How long the end of a fetch waits for HQ to hear of it.
const END_WITHIN: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How often HQ is asked for one lease: each refusal names another holder, first the site's and then its islands'.
const LEASE_ASKS_MAX: usize = 16;

/// Brings the wanted chunks over the WAN, in their order, under HQ's lease. Ends when all are here.
///
/// # Errors
/// HQ refuses the lease, or the origin cannot be reached.
pub(crate) async fn fetch_from_origin(
    shared: &Arc<Shared>,
    share: &Arc<Share>,
    origin: &Arc<dyn Origin>,
    wanted: Vec<ChunkId>,
    events: &mpsc::Sender<SwarmEvent>,
) -> Result<(), LeaseError> {
    let leg = Arc::new(Leg {
        shared: shared.clone(),
        share: share.clone(),
        origin: origin.clone(),
        right: Mutex::default(),
        received: AtomicU64::new(0),
        waits: AtomicBool::new(false),
        said: AtomicBool::new(false),
    });
    let result = tokio::select! {
        result = leg.run(wanted, events) => result,
        () = leg.tell_that_it_goes_on(events) => Ok(()),
    };
    if let Some(lease) = leg.right.lock().await.lease.take() {
        // a lease that nobody ends is over in a few seconds
        let _ = timeout(END_WITHIN, origin.end_lease(&lease, result.is_ok())).await;
    }
    result
}

/// One fetch, shared by its transfers.
struct Leg {
    shared: Arc<Shared>,
    share: Arc<Share>,
    origin: Arc<dyn Origin>,
    right: Mutex<Right>,
    /// Bytes from the origin, whole objects or not.
    received: AtomicU64,
    /// HQ wants nothing fetched now.
    waits: AtomicBool,
    /// Of an agent: the main was told that it fetches itself.
    said: AtomicBool,
}

impl Drop for Leg {
    /// An agent that is stopped because a node is back gives its lease back at once: the node is to have it.
    fn drop(&mut self) {
        let lease = self.right.get_mut().lease.take();
        if let (Some(lease), Role::Agent) = (lease, self.shared.role)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let origin = self.origin.clone();
            runtime.spawn(async move {
                // a lease that nobody ends is over in a few seconds
                let _ = timeout(END_WITHIN, origin.end_lease(&lease, false)).await;
            });
        }
    }
}

#[derive(Default)]
struct Right {
    lease: Option<Lease>,
    /// Bytes received when HQ said yes last.
    renewed_at: u64,
}

impl Leg {
    async fn run(
        self: &Arc<Self>,
        wanted: Vec<ChunkId>,
        events: &mpsc::Sender<SwarmEvent>,
    ) -> Result<(), LeaseError> {
        let mut wanted = wanted.into_iter();
        let mut transfers = JoinSet::new();
        loop {
            while transfers.len() < ORIGIN_REQUESTS_MAX
                && let Some(chunk) = wanted.next()
            {
                // a neighbour may have brought it meanwhile
                if !self.share.holds(chunk) {
                    let leg = self.clone();
                    transfers.spawn(async move { leg.bring(chunk).await });
                }
            }
            let Some(done) = transfers.join_next().await else {
                return Ok(());
            };
            let came = done.map_err(|e| LeaseError::Unreachable(std::io::Error::other(e)))??;
            if let Some(came) = came {
                let _ = events.send(came).await;
            }
        }
    }

    /// Says now and then that this node still has a right to fetch: a thin line may take longer for an object than a fetcher
    /// may stand still. Does not end.
    async fn tell_that_it_goes_on(&self, events: &mpsc::Sender<SwarmEvent>) {
        let mut before = 0;
        loop {
            sleep(CLAIM_EVERY).await;
            let now = self.received.load(Ordering::Relaxed);
            if now != before || self.waits.load(Ordering::Relaxed) {
                before = now;
                let _ = events.send(SwarmEvent::OriginGoesOn).await;
            }
        }
    }

    /// Until HQ wants this manifest fetched.
    async fn wait(&self) {
        let wait = self.origin.may_fetch(self.share.digest());
        self.waits.store(true, Ordering::Relaxed);
        wait.await;
        self.waits.store(false, Ordering::Relaxed);
    }

    /// The lease to ask under, renewed when it is time. `over` is the token that HQ takes no longer.
    async fn lease(&self, over: Option<&str>) -> Result<Lease, LeaseError> {
        let mut right = self.right.lock().await;
        let received = self.received.load(Ordering::Relaxed);
        if let Some(lease) = &right.lease
            && Some(lease.token.as_str()) != over
            && received < right.renewed_at + RENEW_EVERY_BYTES
        {
            return Ok(lease.clone());
        }
        // without HQ's yes there is none
        right.lease = None;
        let lease = self.ask_for_lease().await?;
        right.renewed_at = received;
        if self.shared.role == Role::Agent && !self.said.swap(true, Ordering::Relaxed) {
            self.shared.emit(Event::FetchesItself {
                manifest: self.share.digest(),
            });
        }
        Ok(right.lease.insert(lease).clone())
    }

    /// Asks HQ. A holder that this node does not see is named to HQ, which gives an island's lease then.
    async fn ask_for_lease(&self) -> Result<Lease, LeaseError> {
        let mut holders: Vec<HolderView> = Vec::new();
        loop {
            let answer = self.origin.lease(self.share.digest(), &holders).await;
            let Err(LeaseError::Held { key, finished, .. }) = &answer else {
                return answer;
            };
            let (key, finished) = (*key, *finished);
            let known = holders.iter().position(|v| v.key == key);
            let live = self.sees(&key).await;
            let said = known.is_some_and(|at| holders[at].live == live);
            if said || (live && !finished) || holders.len() >= LEASE_ASKS_MAX {
                return answer;
            }
            tracing::info!(peer.id = %key.short(), live, finished, "HQ gave the lease to this node");
            if let Some(at) = known {
                holders.remove(at);
            }
            holders.push(HolderView { key, live });
        }
    }

    /// Whether a holder is connected, or will be in a moment.
    async fn sees(&self, key: &PublicKey) -> bool {
        let until = Instant::now() + UNSEEN_FOR;
        loop {
            let peers = self.shared.peers();
            // a node, or an agent that fetches because it found none
            if peers
                .iter()
                .any(|p| p.key == *key && self.shared.may_be_served(p))
            {
                return true;
            }
            if Instant::now() >= until {
                return false;
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// One object over the WAN, kept or passed on. A wrong one is asked for once more, then HQ is the culprit.
    async fn bring(&self, chunk: ChunkId) -> Result<Option<SwarmEvent>, LeaseError> {
        let unreachable = |e: std::io::Error| LeaseError::Unreachable(e);
        let record = self.share.manifest.chunk(chunk);
        let record = record.ok_or_else(|| unreachable(std::io::ErrorKind::NotFound.into()))?;
        let mut wrong = String::new();
        let for_others = match self.share.is_mine(chunk) {
            true => None,
            // before anything is fetched: what they do not take in time is not fetched ahead of them
            false => Some(acquire(&self.share.passing).await?),
        };
        for _ in 0..ORIGIN_TRIES {
            let permit = acquire(&self.share.intake).await?;
            let body = self.object(record).await?;
            let came = body.len() as u64;
            self.shared.origin_bytes.fetch_add(came, Ordering::Relaxed);
            match VerifiedObject::check(record, Bytes::from(body)) {
                Ok(object) => {
                    if let Some(room) = for_others {
                        self.share.pass_on(chunk, object.to_bytes(), room);
                        return Ok(None);
                    }
                    let arrived = Arrived::Object(object);
                    return keep(&self.shared, &self.share, chunk, arrived, permit)
                        .await
                        .map(|()| Some(SwarmEvent::Local { chunk }))
                        .map_err(|()| unreachable(std::io::ErrorKind::StorageFull.into()));
                }
                Err(error) => wrong = error.to_string(),
            }
        }
        self.shared.emit(Event::OriginWrong {
            reason: wrong.clone(),
        });
        Err(unreachable(std::io::Error::other(wrong)))
    }

    /// The bytes of an object, resumed where a cut left them.
    async fn object(&self, record: &ChunkRecord) -> Result<Vec<u8>, LeaseError> {
        let mut body = Vec::with_capacity(record.object_bytes as usize);
        let mut over = None;
        let (mut resumes, mut before) = (0u32, 0);
        loop {
            self.wait().await;
            let lease = self.lease(over.as_deref()).await?;
            let came = self
                .origin
                .object(&lease, record, &mut body, &self.received)
                .await;
            let error = match came {
                Ok(()) => return Ok(body),
                Err(FetchObjectError::Halted) => continue,
                Err(FetchObjectError::LeaseOver) => {
                    over = Some(lease.token);
                    std::io::Error::other("HQ gives leases and takes none")
                }
                Err(FetchObjectError::Broken(error)) => error,
            };
            // a line that is cut often still brings the object; one that brings nothing does not
            resumes = if body.len() > before { 0 } else { resumes + 1 };
            before = body.len();
            if resumes > ORIGIN_RESUMES_MAX {
                return Err(LeaseError::Unreachable(error));
            }
            if let Some(doublings) = resumes.checked_sub(1) {
                sleep(with_jitter(ORIGIN_RESUME_AFTER * 2u32.pow(doublings))).await;
            }
        }
    }
}

async fn acquire(room: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, LeaseError> {
    let room = room.clone().acquire_owned().await;
    room.map_err(|e| LeaseError::Unreachable(std::io::Error::other(e)))
}

/// Up to half as much again: what cut one store's transfers cut those of all.
fn with_jitter(pause: Duration) -> Duration {
    let chance = getrandom::u32().unwrap_or(0);
    pause + pause.mul_f64(f64::from(chance) / f64::from(u32::MAX) / 2.0)
}
