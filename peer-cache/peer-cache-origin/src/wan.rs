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

use crate::origin::HqOrigin;

/// How long a fetch waits for the first news. Without any the last budget holds.
const NEWS_WITHIN: Duration = Duration::from_secs(5);
/// HQ answers in time or not at all.
const ANSWER_WITHIN: Duration = Duration::from_secs(WAN_NEWS_SECONDS + 10);
/// All receive buffers together take so much of a second's budget, which is as long a round trip as they carry it over.
pub(crate) const BUFFERS_PER_SECOND: u64 = 4;
/// A limit that falls to less than this part of what it was cuts transfers.
const LIMIT_STEP_MAX: u64 = 4;
/// Pauses double while HQ is away, with up to half as much again by chance.
const AWAY_MIN: Duration = Duration::from_millis(300);
const AWAY_MAX: Duration = Duration::from_secs(20);

/// Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Wan {
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
pub(crate) struct Wanted(Wan);

impl Drop for Wanted {
    fn drop(&mut self) {
        self.0.shared.wanted.send_modify(|n| *n -= 1);
    }
}

/// Whether sockets that were made under one limit would take too much at a time for another. A cut costs the bytes that are
/// under way, so a smaller step is made without: two nodes that begin to share, and the hour that ends.
fn is_too_large(made_under: Option<u64>, limit: Option<u64>) -> bool {
    match (made_under, limit) {
        (Some(then), Some(now)) => now < then / LIMIT_STEP_MAX,
        (None, Some(_)) => true,
        (_, None) => false,
    }
}

impl Wan {
    pub(crate) fn new() -> Self {
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
    pub(crate) fn want(&self) -> Wanted {
        self.shared.wanted.send_modify(|n| *n += 1);
        Wanted(self.clone())
    }

    /// Bytes per second that HQ allows now.
    pub(crate) fn limit(&self) -> Option<u64> {
        self.shared.known.borrow().limit()
    }

    /// What sockets are made for: the limit, or less while others need the line. A slow reader alone is no courtesy: HQ
    /// would fill a large buffer in a burst. In powers of two, so that not each step has sockets of its own.
    pub(crate) fn socket_limit(&self) -> Option<u64> {
        let (limit, rate) = (self.limit(), self.budget().rate());
        match rate.filter(|_| rate != limit) {
            Some(rate) => rate.checked_ilog2().map(|bits| 1 << bits).or(Some(0)),
            None => limit,
        }
    }

    /// Waits while HQ wants nothing of a manifest fetched.
    pub(crate) async fn may_fetch(&self, manifest: Digest) {
        let _wanted = self.want();
        let mut known = self.shared.known.subscribe();
        // the sender lives as long as this
        let _ = timeout(NEWS_WITHIN, known.wait_for(|k| k.fresh)).await;
        let _ = known.wait_for(|k| k.allows(&manifest)).await;
    }

    /// Ends when a transfer that began under a limit has to end: nothing of its manifest is wanted now, or far less at a
    /// time than its socket would take.
    pub(crate) async fn halted(&self, manifest: Digest, began_under: Option<u64>) {
        let mut known = self.shared.known.subscribe();
        let _ = known
            .wait_for(|k| !k.allows(&manifest) || is_too_large(began_under, k.limit()))
            .await;
    }

    /// Asks for leave to read from a socket; a time is how long to wait.
    pub(crate) fn grant(&self, wanted: u32) -> Result<u32, Duration> {
        let now = self.now();
        match self.budget().grant(now, wanted) {
            Grant::Now(bytes) => Ok(bytes),
            Grant::At(then) => Err(then.saturating_sub(now)),
            // the transfer is halted in a moment
            Grant::Never => Err(AWAY_MIN),
        }
    }

    pub(crate) fn give_back(&self, bytes: u32) {
        self.budget().give_back(bytes);
    }

    pub(crate) fn charge(&self, bytes: u32) {
        let now = self.now();
        self.budget().charge(now, bytes);
    }

    /// A connection to HQ took so long to stand.
    pub(crate) fn round_trip(&self, took: Duration) {
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
    pub(crate) async fn listen(self, hq: HqOrigin) {
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
                    tracing::debug!(
                        error = crate::origin::in_words(&error),
                        "no news of the WAN budget"
                    );
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
            let mut budget = self.budget();
            budget.handle_limit(now, rate);
            if let Some(then) = before.and_then(|n| n.bytes_per_second)
                && rate.is_some_and(|now| now < then)
            {
                // the sockets that stay were made for more, and may fill with it unread
                let unread = u32::try_from(then / BUFFERS_PER_SECOND).unwrap_or(u32::MAX);
                budget.charge(now, unread);
            }
        }
        self.shared.known.send_modify(|k| {
            k.news = Some(news);
            k.fresh = true;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_down_cuts_only_what_would_take_too_much() {
        assert!(!is_too_large(Some(1000), Some(500)));
        assert!(is_too_large(Some(1000), Some(100)));
        assert!(is_too_large(None, Some(1_000_000)));
        assert!(!is_too_large(Some(1000), None) && !is_too_large(None, None));
    }

    fn news(paused: bool, waiting: &[u8], bytes_per_second: Option<u64>) -> Known {
        Known {
            news: Some(WanNews {
                number: 1,
                bytes_per_second,
                holds_seconds: 60,
                paused,
                waiting: waiting.iter().map(|n| web_api::Hex([*n; 32])).collect(),
            }),
            fresh: true,
        }
    }

    #[test]
    fn without_news_all_is_allowed_and_with_them_what_they_say() {
        let (one, two) = (Digest([1; 32]), Digest([2; 32]));
        assert!(Known::default().allows(&one));
        assert!(news(false, &[], Some(5)).allows(&one));
        assert!(!news(true, &[], None).allows(&one));
        assert!(!news(false, &[], Some(0)).allows(&one));
        assert!(!news(false, &[1], None).allows(&one));
        assert!(news(false, &[1], None).allows(&two));
    }
}
