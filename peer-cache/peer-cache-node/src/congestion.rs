//! How much may be on its way to a neighbour: a congestion window (RFC 9002 section 7) for the wires of a store.
//!
//! CUBIC fills a queue until it overflows; here eight machines fill each other's queues at once, and what is lost is sent
//! twice over the links that decide.

use std::{
    any::Any,
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use quinn::congestion::{Controller, ControllerFactory};
use quinn_proto::RttEstimator;

use crate::shared::lock;

/// What the queue of a plain switch's port takes. As many machines send to each as each sends to, so it is divided among the
/// paths that are busy.
const QUEUE_BYTES: u64 = 512 << 10;
/// What every neighbour gets at least while nothing is lost, whatever the round trip: with less a link stands still whenever
/// an acknowledgement is late.
const USUAL_BYTES_MIN: u64 = 64 << 10;
/// And at most. With two receivers the first copies of the source fill half of a receiver's queue, and what the other passes on
/// must keep up: with 64 KiB it falls behind, and the source sends the rest twice.
const USUAL_BYTES_MAX: u64 = 128 << 10;
/// How often a path looks at what it sent.
const BUSY_EVERY: Duration = Duration::from_millis(250);
/// A path that gets so much acknowledged meanwhile is busy; what is announced and asked for is less.
const BUSY_BYTES: u64 = 64 << 10;
/// Three milliseconds of ten gigabits.
const WINDOW_BYTES_MAX: u64 = 4 << 20;
/// Fast links get more than the usual, as long as what they have in their queues leaves within this time.
const QUEUE_MAX: Duration = Duration::from_millis(1);
/// What is left of a window after a loss, as a fraction (RFC 9438 section 4.6).
const KEPT_AFTER_LOSS: (u64, u64) = (7, 10);
/// A window changes by this part of what is acknowledged: back from a loss in six round trips.
const STEP: u64 = 16;

/// Makes a window for each path, and divides a queue among those that are busy.
#[derive(Debug, Default)]
pub(crate) struct StoreWindows {
    made: AtomicU64,
    /// When each was busy last. No more than there are paths, and old ones go.
    busy: Mutex<BTreeMap<u64, Instant>>,
}

impl StoreWindows {
    /// What each path may have on its way usually, now that this one was busy or not.
    fn usual_bytes(&self, now: Instant, path: u64, is_busy: bool) -> u64 {
        let mut busy = lock(&self.busy);
        busy.retain(|_, at| now.saturating_duration_since(*at) < 2 * BUSY_EVERY);
        if is_busy {
            busy.insert(path, now);
        }
        let share = QUEUE_BYTES / (busy.len() as u64).max(1);
        share.clamp(USUAL_BYTES_MIN, USUAL_BYTES_MAX)
    }
}

impl ControllerFactory for StoreWindows {
    fn build(self: Arc<Self>, now: Instant, mtu: u16) -> Box<dyn Controller> {
        Box::new(StoreWindow {
            path: self.made.fetch_add(1, Ordering::Relaxed),
            all: self,
            bytes: USUAL_BYTES_MIN,
            usual_bytes: USUAL_BYTES_MIN,
            mtu: mtu.into(),
            reduced_at: now,
            acked: 0,
            looked_at: now,
        })
    }
}

/// The window of one path.
#[derive(Debug, Clone)]
struct StoreWindow {
    all: Arc<StoreWindows>,
    path: u64,
    bytes: u64,
    usual_bytes: u64,
    mtu: u64,
    /// What was sent before is of the time before the last reduction, and says nothing of the window since.
    reduced_at: Instant,
    /// Bytes that were acknowledged since [`Self::looked_at`].
    acked: u64,
    looked_at: Instant,
}

impl StoreWindow {
    fn look(&mut self, now: Instant, acked: u64) {
        self.acked += acked;
        if now.saturating_duration_since(self.looked_at) >= BUSY_EVERY {
            self.looked_at = now;
            let is_busy = std::mem::take(&mut self.acked) >= BUSY_BYTES;
            self.usual_bytes = self.all.usual_bytes(now, self.path, is_busy);
        }
    }

    /// RFC 9002 section 7.2.
    fn bytes_min(&self) -> u64 {
        2 * self.mtu
    }

    /// `queued` is how much longer than ever a round trip takes now.
    fn handle_acked(&mut self, acked: u64, queued: Duration, app_limited: bool) {
        let step = acked / STEP;
        self.bytes = if self.bytes < self.usual_bytes {
            // also while there is little to send: a window that stayed small would leave the link idle when there is more
            (self.bytes + step).min(self.usual_bytes)
        } else if queued > QUEUE_MAX {
            self.bytes.saturating_sub(step).max(self.usual_bytes)
        } else if app_limited {
            self.bytes
        } else {
            (self.bytes + step).min(WINDOW_BYTES_MAX)
        };
    }
}

impl Controller for StoreWindow {
    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        acked: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        self.look(now, acked);
        if sent > self.reduced_at {
            let queued = rtt.get().saturating_sub(rtt.min());
            self.handle_acked(acked, queued, app_limited);
        }
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, is_persistent: bool, _: u64) {
        if sent <= self.reduced_at {
            return;
        }
        self.reduced_at = now;
        let (kept, of) = KEPT_AFTER_LOSS;
        let bytes = if is_persistent {
            0
        } else {
            self.bytes * kept / of
        };
        self.bytes = bytes.max(self.bytes_min());
    }

    fn on_mtu_update(&mut self, mtu: u16) {
        self.mtu = mtu.into();
        self.bytes = self.bytes.max(self.bytes_min());
    }

    fn window(&self) -> u64 {
        self.bytes
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        USUAL_BYTES_MIN
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MTU: u16 = 1472;
    const IDLE: Duration = Duration::ZERO;
    const FULL: Duration = Duration::from_millis(8);

    fn window_of(all: &Arc<StoreWindows>, now: Instant) -> StoreWindow {
        let window = all.clone().build(now, MTU).into_any();
        *window.downcast().unwrap()
    }

    fn window(now: Instant) -> StoreWindow {
        window_of(&Arc::default(), now)
    }

    /// Windows of bytes that were acknowledged.
    fn round_trips(window: &mut StoreWindow, count: usize, queued: Duration, app_limited: bool) {
        for _ in 0..count {
            window.handle_acked(window.bytes, queued, app_limited);
        }
    }

    #[test]
    fn a_link_with_a_queue_gets_the_usual_and_a_fast_one_more() {
        let mut slow = window(Instant::now());
        round_trips(&mut slow, 1000, FULL, false);
        assert_eq!(slow.window(), USUAL_BYTES_MIN);
        let mut fast = window(Instant::now());
        round_trips(&mut fast, 1000, IDLE, false);
        assert_eq!(fast.window(), WINDOW_BYTES_MAX);
        round_trips(&mut fast, 1000, FULL, false);
        assert_eq!(fast.window(), USUAL_BYTES_MIN);
    }

    #[test]
    fn a_window_that_is_not_used_does_not_grow() {
        let mut window = window(Instant::now());
        round_trips(&mut window, 1000, IDLE, true);
        assert_eq!(window.window(), USUAL_BYTES_MIN);
    }

    #[test]
    fn a_loss_counts_once_in_a_round_trip_and_is_made_good_in_six() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut window = window(start);
        window.on_congestion_event(at(10), at(5), false, 1472);
        let reduced = window.window();
        assert_eq!(reduced, USUAL_BYTES_MIN * 7 / 10);
        window.on_congestion_event(at(11), at(6), false, 1472);
        assert_eq!(window.window(), reduced, "sent before the reduction");
        round_trips(&mut window, 5, FULL, true);
        assert!(window.window() < USUAL_BYTES_MIN);
        round_trips(&mut window, 1, FULL, true);
        assert_eq!(window.window(), USUAL_BYTES_MIN);
    }

    #[test]
    fn what_loses_everything_sends_two_packets() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut window = window(start);
        for n in 1..100 {
            window.on_congestion_event(at(2 * n), at(2 * n - 1), false, 1472);
        }
        assert_eq!(window.window(), 2 * u64::from(MTU));
        round_trips(&mut window, 100, FULL, false);
        assert_eq!(window.window(), USUAL_BYTES_MIN);
        window.on_congestion_event(at(1000), at(999), true, 65_536);
        assert_eq!(window.window(), 2 * u64::from(MTU));
    }

    #[test]
    fn busy_paths_divide_a_queue_and_idle_ones_do_not_count() {
        let start = Instant::now();
        let all = Arc::default();
        let mut paths: Vec<_> = (0..20).map(|_| window_of(&all, start)).collect();
        // so many send as fast as they can, the others announce what they have
        let mut usual_with = |busy: usize, from: Duration| {
            for turn in 0..8u32 {
                let now = start + from + BUSY_EVERY * turn;
                for (n, path) in paths.iter_mut().enumerate() {
                    path.look(now, if n < busy { BUSY_BYTES } else { 2000 });
                }
            }
            paths[0].usual_bytes
        };
        for (turn, (busy, usual)) in [
            (1, USUAL_BYTES_MAX),
            (2, USUAL_BYTES_MAX),
            (4, USUAL_BYTES_MAX),
            (5, QUEUE_BYTES / 5),
            (8, USUAL_BYTES_MIN),
            (20, USUAL_BYTES_MIN),
            (2, USUAL_BYTES_MAX),
        ]
        .into_iter()
        .enumerate()
        {
            let from = Duration::from_secs(10) * u32::try_from(turn).unwrap();
            assert_eq!(usual_with(busy, from), usual, "{busy} busy paths");
        }
    }

    #[test]
    fn a_window_follows_its_share_of_the_queue() {
        let mut window = window(Instant::now());
        window.usual_bytes = USUAL_BYTES_MAX;
        round_trips(&mut window, 20, FULL, false);
        assert_eq!(window.window(), USUAL_BYTES_MAX);
        window.usual_bytes = USUAL_BYTES_MIN;
        round_trips(&mut window, 20, FULL, false);
        assert_eq!(window.window(), USUAL_BYTES_MIN);
    }
}
