//! What goes out under each lease, by the monotonic clock of this process. In memory: after a restart every lease begins anew. Other
//! processes on the same database say every second under which leases bytes went out there.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// The bytes of one lease.
#[derive(Debug)]
pub(crate) struct Activity {
    started: Instant,
    /// Of the last byte, or of the lease itself, since HQ's start.
    moved_millis: AtomicU64,
    /// Bytes went out here that the other processes were not told of.
    is_news: AtomicBool,
    lost: AtomicBool,
}

impl Activity {
    fn new(started: Instant) -> Self {
        let activity = Self {
            started,
            moved_millis: AtomicU64::new(0),
            is_news: AtomicBool::new(false),
            lost: AtomicBool::new(false),
        };
        activity.heard();
        activity
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// A connection took bytes.
    pub(crate) fn moved(&self) {
        self.heard();
        self.is_news.store(true, Ordering::Relaxed);
    }

    /// The same at another process.
    fn heard(&self) {
        self.moved_millis.store(self.millis(), Ordering::Relaxed);
    }

    /// Since then no byte went out.
    pub(crate) fn idle(&self) -> Duration {
        let moved = self.moved_millis.load(Ordering::Relaxed);
        Duration::from_millis(self.millis().saturating_sub(moved))
    }

    /// The lease went to another: transfers that run under it end.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }
}

/// Of all leases that somebody asked about since HQ's start, by token.
#[derive(Debug)]
pub(crate) struct Activities {
    started: Instant,
    by_token: Mutex<BTreeMap<String, Arc<Activity>>>,
}

impl Default for Activities {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            by_token: Mutex::default(),
        }
    }
}

impl Activities {
    /// Of a lease that the database holds. One that was given before HQ's start counts as given now.
    pub(crate) fn of(&self, token: &str) -> Arc<Activity> {
        let mut all = self.by_token.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = all.get(token) {
            return found.clone();
        }
        let new = Arc::new(Activity::new(self.started));
        all.insert(token.to_owned(), new.clone());
        new
    }

    /// Another process wrote bytes under this token. One that nobody asked about here needs no account.
    pub(crate) fn heard(&self, token: &str) {
        let all = self.by_token.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = all.get(token) {
            found.heard();
        }
    }

    /// What other processes said was missed: no lease counts as one that stood still meanwhile.
    pub(crate) fn heard_all(&self) {
        let all = self.by_token.lock().unwrap_or_else(PoisonError::into_inner);
        all.values().for_each(|activity| activity.heard());
    }

    /// Tokens under which bytes went out here since this was asked last.
    pub(crate) fn take_moved(&self) -> Vec<String> {
        let all = self.by_token.lock().unwrap_or_else(PoisonError::into_inner);
        let moved = all
            .iter()
            .filter(|(_, activity)| activity.is_news.swap(false, Ordering::Relaxed));
        moved.map(|(token, _)| token.clone()).collect()
    }

    /// A lease's token is another one from now on.
    pub(crate) fn lose(&self, token: &str) {
        let mut all = self.by_token.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lost) = all.remove(token) {
            lost.lost.store(true, Ordering::Relaxed);
        }
    }
}
