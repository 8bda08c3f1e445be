//! How much may be on its way to a neighbour: a congestion window (RFC 9002 section 7) for the wires of a store.
//!
//! CUBIC fills a queue until it overflows; here eight machines fill each other's queues at once, and what is lost is sent
//! twice over the links that decide.

use std::{any::Any, sync::Arc, time::Duration, time::Instant};

use quinn::congestion::{Controller, ControllerFactory};
use quinn_proto::RttEstimator;

/// What every neighbour gets while nothing is lost, whatever the round trip: the queues of a store's switch take it from several
/// at once, and with less a link stands still whenever an acknowledgement is late.
const USUAL_BYTES: u64 = 64 << 10;
/// Three milliseconds of ten gigabits.
const WINDOW_BYTES_MAX: u64 = 4 << 20;
/// Fast links get more than the usual, as long as what they have in their queues leaves within this time.
const QUEUE_MAX: Duration = Duration::from_millis(1);
/// What is left of a window after a loss, as a fraction (RFC 9438 section 4.6).
const KEPT_AFTER_LOSS: (u64, u64) = (7, 10);
/// A window changes by this part of what is acknowledged: back from a loss in six round trips.
const STEP: u64 = 16;

/// Makes a window for each path.
#[derive(Debug)]
pub(crate) struct StoreWindows;

impl ControllerFactory for StoreWindows {
    fn build(self: Arc<Self>, now: Instant, mtu: u16) -> Box<dyn Controller> {
        Box::new(StoreWindow {
            bytes: USUAL_BYTES,
            mtu: mtu.into(),
            reduced_at: now,
        })
    }
}

/// The window of one path.
#[derive(Debug, Clone)]
struct StoreWindow {
    bytes: u64,
    mtu: u64,
    /// What was sent before is of the time before the last reduction, and says nothing of the window since.
    reduced_at: Instant,
}

impl StoreWindow {
    /// RFC 9002 section 7.2.
    fn bytes_min(&self) -> u64 {
        2 * self.mtu
    }

    /// `queued` is how much longer than ever a round trip takes now.
    fn handle_acked(&mut self, acked: u64, queued: Duration, app_limited: bool) {
        let step = acked / STEP;
        self.bytes = if self.bytes < USUAL_BYTES {
            // also while there is little to send: a window that stayed small would leave the link idle when there is more
            (self.bytes + step).min(USUAL_BYTES)
        } else if queued > QUEUE_MAX {
            self.bytes.saturating_sub(step).max(USUAL_BYTES)
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
        _: Instant,
        sent: Instant,
        acked: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
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
        USUAL_BYTES
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

    fn window(now: Instant) -> StoreWindow {
        StoreWindow {
            bytes: USUAL_BYTES,
            mtu: MTU.into(),
            reduced_at: now,
        }
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
        assert_eq!(slow.window(), USUAL_BYTES);
        let mut fast = window(Instant::now());
        round_trips(&mut fast, 1000, IDLE, false);
        assert_eq!(fast.window(), WINDOW_BYTES_MAX);
        round_trips(&mut fast, 1000, FULL, false);
        assert_eq!(fast.window(), USUAL_BYTES);
    }

    #[test]
    fn a_window_that_is_not_used_does_not_grow() {
        let mut window = window(Instant::now());
        round_trips(&mut window, 1000, IDLE, true);
        assert_eq!(window.window(), USUAL_BYTES);
    }

    #[test]
    fn a_loss_counts_once_in_a_round_trip_and_is_made_good_in_six() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut window = window(start);
        window.on_congestion_event(at(10), at(5), false, 1472);
        let reduced = window.window();
        assert_eq!(reduced, USUAL_BYTES * 7 / 10);
        window.on_congestion_event(at(11), at(6), false, 1472);
        assert_eq!(window.window(), reduced, "sent before the reduction");
        round_trips(&mut window, 5, FULL, true);
        assert!(window.window() < USUAL_BYTES);
        round_trips(&mut window, 1, FULL, true);
        assert_eq!(window.window(), USUAL_BYTES);
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
        assert_eq!(window.window(), USUAL_BYTES);
        window.on_congestion_event(at(1000), at(999), true, 65_536);
        assert_eq!(window.window(), 2 * u64::from(MTU));
    }
}
