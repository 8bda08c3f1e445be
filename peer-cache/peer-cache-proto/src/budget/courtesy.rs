//! Way for others: what the store does over the same line comes before an image.
//!
//! The rule: the *base* is the smallest round trip of the last five to ten minutes, and *now* the smallest of the last
//! [`SAMPLES`] (one may be slow by chance; a queue in the line makes all of them slow). When now is above
//! 2 x base + [`RISE`], the rate is halved, at most once in two seconds and not below [`RATE_MIN`], and measured anew. While
//! it is known not to be, the rate grows by an eighth each second, until it is twice what came before the first halving;
//! then there is no cap any more.

use std::{collections::VecDeque, time::Duration};

/// Round trips of which the smallest counts as today's. They come every 2 s.
pub const SAMPLES: usize = 2;
/// How much a round trip may grow beyond twice the base.
pub const RISE: Duration = Duration::from_millis(25);
/// Bytes per second below which no line is given way to: a version must come some day.
pub const RATE_MIN: u64 = 32 << 10;
/// The base is the smallest of this period and the one before: a line that was rerouted has a new one.
const BASE_PERIOD: Duration = Duration::from_secs(300);
/// A halving shows in the round trips a moment later.
const HALVE_EVERY: Duration = Duration::from_secs(2);
const GROW_EVERY: Duration = Duration::from_secs(1);
const GROW_BY: u64 = 8;
/// Over which the rate of arrival is measured.
const RATE_PERIOD: Duration = Duration::from_secs(1);

/// How much a node holds back for others on its line.
#[derive(Debug)]
pub struct Courtesy {
    base: Option<Duration>,
    base_before: Option<Duration>,
    base_since: Duration,
    last: VecDeque<Duration>,
    /// Bytes per second, and what came before the first halving.
    cap: Option<(u64, u64)>,
    halved: Duration,
    grown: Duration,
    came: u64,
    came_since: Duration,
    /// Bytes per second in the last period.
    rate: u64,
}

impl Courtesy {
    /// No cap, nothing known of the line.
    pub fn new(now: Duration) -> Self {
        Self {
            base: None,
            base_before: None,
            base_since: now,
            last: VecDeque::new(),
            cap: None,
            halved: Duration::ZERO,
            grown: now,
            came: 0,
            came_since: now,
            rate: 0,
        }
    }

    /// Bytes per second that are left to this node, if the line is full.
    pub fn cap(&self) -> Option<u64> {
        self.cap.map(|(cap, _)| cap)
    }

    /// HQ answered so long after it was asked.
    pub fn handle_round_trip(&mut self, now: Duration, round_trip: Duration) {
        if now >= self.base_since + BASE_PERIOD {
            self.base_before = self.base.take();
            self.base_since = now;
        }
        self.base = Some(self.base.map_or(round_trip, |b| b.min(round_trip)));
        if self.last.len() == SAMPLES {
            self.last.pop_front();
        }
        self.last.push_back(round_trip);
        if self.is_full() && now >= self.halved + HALVE_EVERY {
            self.halve(now);
        }
    }

    /// Time passes: the cap grows.
    pub fn handle_time(&mut self, now: Duration) {
        let period = now.saturating_sub(self.came_since);
        if period >= RATE_PERIOD {
            let millis = u64::try_from(period.as_millis()).unwrap_or(u64::MAX).max(1);
            self.rate = self.came.saturating_mul(1000) / millis;
            (self.came, self.came_since) = (0, now);
        }
        while let Some((cap, before)) = self.cap
            && now >= self.grown + GROW_EVERY
        {
            self.grown += GROW_EVERY;
            // what nobody measured yet does not count as free
            if self.last.len() < SAMPLES || self.is_full() {
                continue;
            }
            let grown = cap.saturating_add(cap / GROW_BY);
            self.cap = (grown < before.saturating_mul(2)).then_some((grown, before));
        }
    }

    /// Bytes came.
    pub(super) fn handle_received(&mut self, bytes: u32) {
        self.came = self.came.saturating_add(u64::from(bytes));
    }

    /// They did not after all.
    pub(super) fn take_back(&mut self, bytes: u32) {
        self.came = self.came.saturating_sub(u64::from(bytes));
    }

    fn is_full(&self) -> bool {
        let base = self.base.into_iter().chain(self.base_before).min();
        let now = self.last.iter().min();
        match (base, now) {
            (Some(base), Some(now)) if self.last.len() == SAMPLES => *now > base * 2 + RISE,
            _ => false,
        }
    }

    fn halve(&mut self, now: Duration) {
        let before = self.cap.map_or(self.rate, |(_, before)| before);
        let today = self
            .cap
            .map_or(self.rate, |(cap, _)| cap.min(self.rate.max(RATE_MIN)));
        self.cap = Some(((today / 2).max(RATE_MIN), before.max(RATE_MIN)));
        (self.halved, self.grown) = (now, now);
        // what was measured at the old rate says nothing about the new one
        self.last.clear();
    }
}
