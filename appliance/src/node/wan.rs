//! What HQ says of this site's WAN, and the budget that all transfers of this node share.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use peer_cache_proto::budget::{Budget, Grant};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use trust_format::Digest;
use web_api::{WAN_NEWS_SECONDS, WanNews};

use super::origin::HqOrigin;

/// How long a fetch waits for the first news. Without any the last budget holds.
const NEWS_WITHIN: Duration = Duration::from_secs(5);
/// HQ answers in time or not at all.
const ANSWER_WITHIN: Duration = Duration::from_secs(WAN_NEWS_SECONDS + 10);
/// Pauses double while HQ is away, with up to half as much again by chance.
const AWAY_MIN: Duration = Duration::from_millis(300);
const AWAY_MAX: Duration = Duration::from_secs(20);

/// Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Wan {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    started: Instant,
    budget: Mutex<Budget>,
    known: watch::Sender<Known>,
    /// How many fetch or want to.
    wanted: watch::Sender<usize>,
}

#[derive(Debug, Clone, Default)]
struct Known {
    news: Option<WanNews>,
    /// HQ is listened to.
    fresh: bool,
}

impl Known {
    fn allows(&self, manifest: &Digest) -> bool {
        let Some(news) = &self.news else { return true };
        let waits = news.waiting.iter().any(|v| v.0 == manifest.0);
        !news.paused && news.bytes_per_second != Some(0) && !waits
    }

    fn limit(&self) -> Option<u64> {
        self.news.as_ref().and_then(|n| n.bytes_per_second)
    }
}

/// While it lives, news are asked for.
#[derive(Debug)]
pub(super) struct Wanted(Wan);

impl Drop for Wanted {
    fn drop(&mut self) {
        self.0.shared.wanted.send_modify(|n| *n -= 1);
    }
}

impl Wan {
    pub(super) fn new() -> Self {
        Self {
            shared: Arc::new(Shared {
                started: Instant::now(),
                budget: Mutex::new(Budget::new(Duration::ZERO)),
                known: watch::Sender::default(),
                wanted: watch::Sender::default(),
            }),
        }
    }

    fn now(&self) -> Duration {
        self.shared.started.elapsed()
    }

    fn budget(&self) -> MutexGuard<'_, Budget> {
        let budget = self.shared.budget.lock();
        budget.unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody fetches, or wants to.
    pub(super) fn want(&self) -> Wanted {
        self.shared.wanted.send_modify(|n| *n += 1);
        Wanted(self.clone())
    }

    /// Bytes per second that HQ allows now.
    pub(super) fn limit(&self) -> Option<u64> {
        self.shared.known.borrow().limit()
    }

    /// Waits while HQ wants nothing of a manifest fetched.
    pub(super) async fn may_fetch(&self, manifest: Digest) {
        let _wanted = self.want();
        let mut known = self.shared.known.subscribe();
        // the sender lives as long as this
        let _ = timeout(NEWS_WITHIN, known.wait_for(|k| k.fresh)).await;
        let _ = known.wait_for(|k| k.allows(&manifest)).await;
    }

    /// Ends when a transfer that began under a limit has to end: nothing of its manifest is wanted now, or less at a time
    /// than its socket would take.
    pub(super) async fn halted(&self, manifest: Digest, began_under: Option<u64>) {
        let mut known = self.shared.known.subscribe();
        let lowered = |k: &Known| match (k.limit(), began_under) {
            (Some(now), Some(then)) => now < then,
            (Some(_), None) => true,
            (None, _) => false,
        };
        let _ = known.wait_for(|k| !k.allows(&manifest) || lowered(k)).await;
    }

    /// Asks for leave to read from a socket; a time is how long to wait.
    pub(super) fn grant(&self, wanted: u32) -> Result<u32, Duration> {
        let now = self.now();
        match self.budget().grant(now, wanted) {
            Grant::Now(bytes) => Ok(bytes),
            Grant::At(then) => Err(then.saturating_sub(now)),
            // the transfer is halted in a moment
            Grant::Never => Err(AWAY_MIN),
        }
    }

    pub(super) fn give_back(&self, bytes: u32) {
        self.budget().give_back(bytes);
    }

    pub(super) fn charge(&self, bytes: u32) {
        let now = self.now();
        self.budget().charge(now, bytes);
    }

    /// An answer's head came so long after the request.
    pub(super) fn round_trip(&self, took: Duration) {
        let now = self.now();
        let mut budget = self.budget();
        let before = budget.rate();
        budget.handle_round_trip(now, took);
        let rate = budget.rate();
        drop(budget);
        if rate < before || (rate.is_some() && before.is_none()) {
            tracing::info!(?rate, ?took, "the line is full: way for others");
        }
    }

    /// Listens to HQ for ever, while somebody fetches or wants to.
    pub(super) async fn listen(self, hq: HqOrigin) {
        let mut wanted = self.shared.wanted.subscribe();
        let mut away = AWAY_MIN;
        loop {
            if *wanted.borrow_and_update() == 0 {
                self.shared.known.send_modify(|k| k.fresh = false);
                // the sender lives as long as this
                let _ = wanted.wait_for(|n| *n > 0).await;
            }
            let known = self.shared.known.borrow().clone();
            let since = known.news.filter(|_| known.fresh);
            let number = since.as_ref().map_or(0, |n| n.number);
            // by our own clock, should HQ's answer get lost: the window that these news are of is over
            let holds = since.map_or(ANSWER_WITHIN, |n| Duration::from_secs(n.holds_seconds + 2));
            let path = format!("/node/wan?since={number}");
            let ask = hq.get::<WanNews>(&path);
            match timeout(ANSWER_WITHIN.min(holds), ask).await {
                Ok(Ok(news)) => {
                    away = AWAY_MIN;
                    self.learn(news);
                }
                Ok(Err(error)) => {
                    tracing::debug!(error = format!("{error:#}"), "no news of the WAN budget");
                    sleep(away.mul_f64(1.0 + rand::random::<f64>() / 2.0)).await;
                    away = (away * 2).min(AWAY_MAX);
                }
                Err(_) => {}
            }
        }
    }

    fn learn(&self, news: WanNews) {
        let before = self.shared.known.borrow().news.clone();
        if before.as_ref().is_none_or(|n| n.number != news.number) {
            let rate = news.bytes_per_second;
            let (paused, waiting) = (news.paused, news.waiting.len());
            tracing::info!(?rate, paused, waiting, "the site's WAN budget");
            let now = self.now();
            self.budget().handle_limit(now, rate);
        }
        self.shared.known.send_modify(|k| {
            k.news = Some(news);
            k.fresh = true;
        });
    }
}
