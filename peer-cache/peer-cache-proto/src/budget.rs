//! How fast a node may fetch over the WAN: the site's budget, and way for others when the line is full.
//!
//! A token bucket with an eighth of a second's bytes in it: in no 10 s does more come than the budget and 1.25 %. Who reads
//! from a socket asks for a grant first and gives back what did not come, so that the delay of the next read makes TCP's
//! flow control slow the sender. One budget serves all versions and connections of a node.
//!
//! The budget is of what the line carries: each segment's headers count with its bytes.

mod courtesy;

use std::time::Duration;

pub use courtesy::{Courtesy, RATE_MIN, RISE, SAMPLES};

/// What may come at once after silence, as a part of a second's bytes.
const BURST_PER_SECOND: u64 = 8;
/// Nothing smaller is granted, or a thin line would be read byte by byte.
pub const GRANT_MIN: u32 = 2 << 10;
/// Nothing larger is granted, so that all connections get on.
pub const GRANT_MAX: u32 = 16 << 10;
/// Bytes of a full segment, and those of its Ethernet, IP and TCP headers beside them.
const SEGMENT_BYTES: u64 = 1448;
const HEADER_BYTES: u64 = 66;

/// What a reader may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    /// Read so many bytes now, and give back with [`Budget::give_back`] what did not come.
    Now(u32),
    /// Ask again then.
    At(Duration),
    /// Nothing is to come until the budget changes.
    Never,
}

/// The budget of one node's WAN reading. Times are the program's own monotonic clock.
#[derive(Debug)]
pub struct Budget {
    /// Of the line, in bytes per second; `None` is without a limit.
    limit: Option<u64>,
    courtesy: Courtesy,
    /// Bytes that may come; below zero after bytes that nobody had to ask for.
    balance: i64,
    /// Up to when the balance was filled.
    filled: Duration,
}

impl Budget {
    /// A budget without a limit.
    pub fn new(now: Duration) -> Self {
        Self {
            limit: None,
            courtesy: Courtesy::new(now),
            balance: 0,
            filled: now,
        }
    }

    /// The limit from now on, in bytes per second of the line; 0 lets nothing through.
    pub fn handle_limit(&mut self, now: Duration, limit: Option<u64>) {
        self.fill(now);
        self.limit = limit;
    }

    /// HQ answered so long after it was asked.
    pub fn handle_round_trip(&mut self, now: Duration, round_trip: Duration) {
        self.fill(now);
        self.courtesy.handle_round_trip(now, round_trip);
    }

    /// What holds now, in bytes per second: the limit, or less while others need the line.
    pub fn rate(&self) -> Option<u64> {
        match (self.limit, self.courtesy.cap()) {
            (Some(limit), Some(cap)) => Some(limit.min(cap)),
            (limit, cap) => limit.or(cap),
        }
    }

    /// A reader would take `wanted` bytes of a socket.
    pub fn grant(&mut self, now: Duration, wanted: u32) -> Grant {
        self.fill(now);
        let wanted = wanted.clamp(1, GRANT_MAX);
        let Some(rate) = self.rate() else {
            self.take(wanted);
            return Grant::Now(wanted);
        };
        if rate == 0 {
            return Grant::Never;
        }
        let least = on_the_line(wanted.min(GRANT_MIN));
        if self.balance >= least {
            let affordable = self.balance * i64::from(GRANT_MIN) / on_the_line(GRANT_MIN);
            let granted = u32::try_from(affordable)
                .unwrap_or(GRANT_MAX)
                .clamp(1, wanted);
            self.take(granted);
            return Grant::Now(granted);
        }
        let lacking = u128::from((least - self.balance).unsigned_abs());
        let nanos = (lacking * 1_000_000_000).div_ceil(u128::from(rate));
        Grant::At(self.filled + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }

    /// Of a grant, so much did not come.
    pub fn give_back(&mut self, bytes: u32) {
        self.balance += on_the_line(bytes);
        self.courtesy.take_back(bytes);
    }

    /// Bytes that come without a grant: an answer's head, or what a new connection's receive buffer takes unread.
    pub fn charge(&mut self, now: Duration, bytes: u32) {
        self.fill(now);
        self.take(bytes);
    }

    fn take(&mut self, bytes: u32) {
        self.balance -= on_the_line(bytes);
        self.courtesy.handle_received(bytes);
    }

    fn fill(&mut self, now: Duration) {
        self.courtesy.handle_time(now);
        let Some(rate) = self.rate().filter(|r| *r > 0) else {
            // without a limit no debt is left, and no credit is saved up for the limit that comes
            self.balance = 0;
            self.filled = self.filled.max(now);
            return;
        };
        let nanos = now.saturating_sub(self.filled).as_nanos();
        let bytes = nanos * u128::from(rate) / 1_000_000_000;
        let used = (bytes * 1_000_000_000).div_ceil(u128::from(rate));
        self.filled += Duration::from_nanos(u64::try_from(used).unwrap_or(u64::MAX));
        let burst = i64::try_from(rate / BURST_PER_SECOND).unwrap_or(i64::MAX);
        let burst = burst.max(on_the_line(GRANT_MIN));
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.balance = self.balance.saturating_add(bytes).min(burst);
    }
}

/// What the line carries for so many bytes of a socket.
fn on_the_line(bytes: u32) -> i64 {
    let bytes = u64::from(bytes);
    i64::try_from(bytes + (bytes * HEADER_BYTES).div_ceil(SEGMENT_BYTES)).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "small test inputs")]
mod tests;
