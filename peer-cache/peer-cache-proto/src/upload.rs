//! How much a machine gives to its neighbours: its upload budget, and less while its own people need it.
//!
//! A token bucket whose rate follows the machine's CPU pressure as TCP follows loss: down by three tenths with each second in which
//! the machine was busy, up by a quarter with each in which it was not. The kernel's figure counts everybody who waited for a
//! core, also this program itself: a machine that is busy with nothing but its neighbours gives less as well, and never less than
//! [`BUSY_RATE`].

use std::time::Duration;

/// What a busy machine gives, in bytes per second: a tenth of a gigabit line costs it about two hundredths of a core.
pub const BUSY_RATE: u64 = 12_500_000;
/// The smallest budget, in bytes per second: with less, what waits for its turn would be taken for a peer that takes nothing.
pub const RATE_MIN: u64 = 1_000_000;
/// How often the machine's pressure is to be told.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A machine is busy when somebody waited for a core for this part of the time, in thousandths.
const BUSY_FROM: u128 = 250;
/// Below this part it is calm; between the two nothing changes.
const CALM_BELOW: u128 = 100;
/// Of a rate, after a busy second.
const DOWN: (u64, u64) = (7, 10);
/// Of a rate, after a calm one.
const UP: (u64, u64) = (5, 4);
/// A rate that is this many times what is asked for binds nobody: the machine is free again.
const FREE_ABOVE: u64 = 4;
/// What may leave at once after silence, as a part of a second's bytes.
const BURST_PER_SECOND: u64 = 8;

/// What changed with a look at the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is busy, and gives so many bytes per second at most.
    Busy(u64),
    /// It is busy no longer.
    Free,
}

/// The upload budget of one machine. Times are the program's own monotonic clock.
#[derive(Debug)]
pub struct UploadBudget {
    /// The administrator's, in bytes per second.
    limit: Option<u64>,
    /// The machine's own, while it is busy or was lately.
    cap: Option<u64>,
    /// Bytes that may leave; below zero after more than was there.
    balance: i64,
    /// Up to when the balance was filled.
    filled: Duration,
    /// Bytes that left since the last look.
    sent: u64,
    looked: Option<Look>,
}

/// One reading of the kernel's counter.
#[derive(Debug, Clone, Copy)]
struct Look {
    at: Duration,
    stalled: Duration,
}

impl UploadBudget {
    /// A budget of so many bytes per second, at least [`RATE_MIN`]; without one a machine gives all it can.
    pub fn new(now: Duration, limit: Option<u64>) -> Self {
        Self {
            limit: limit.map(|limit| limit.max(RATE_MIN)),
            cap: None,
            balance: 0,
            filled: now,
            sent: 0,
            looked: None,
        }
    }

    /// What holds now, in bytes per second; `None` is without a limit.
    pub fn rate(&self) -> Option<u64> {
        self.limit.into_iter().chain(self.cap).min()
    }

    /// The kernel's count of the time in which some task waited for a core (`total` of `some` in `/proc/pressure/cpu`).
    pub fn handle_pressure(&mut self, now: Duration, stalled: Duration) -> Option<Change> {
        self.fill(now);
        let look = Look { at: now, stalled };
        let before = self.looked.replace(look)?;
        let sent = std::mem::take(&mut self.sent);
        let passed = now.saturating_sub(before.at);
        // a counter that began anew says nothing
        let waited = stalled.checked_sub(before.stalled)?;
        if passed.is_zero() {
            return None;
        }
        let thousandths = waited.as_micros() * 1000 / passed.as_micros().max(1);
        let per_second = u128::from(sent) * 1_000_000 / passed.as_micros().max(1);
        let per_second = u64::try_from(per_second).unwrap_or(u64::MAX);
        if thousandths >= BUSY_FROM {
            return self.slow_down(per_second);
        }
        if thousandths < CALM_BELOW {
            return self.speed_up(per_second);
        }
        None
    }

    /// Bytes are to leave now. An error says how long to wait before asking again.
    ///
    /// # Errors
    /// The wait.
    pub fn grant(&mut self, now: Duration, bytes: u64) -> Result<(), Duration> {
        self.fill(now);
        if let Some(rate) = self.rate()
            && self.balance < 0
        {
            let lacking = u128::from(self.balance.unsigned_abs());
            let nanos = (lacking * 1_000_000_000).div_ceil(u128::from(rate));
            return Err(Duration::from_nanos(
                u64::try_from(nanos).unwrap_or(u64::MAX),
            ));
        }
        self.sent = self.sent.saturating_add(bytes);
        if self.rate().is_some() {
            let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
            self.balance = self.balance.saturating_sub(bytes);
        }
        Ok(())
    }

    fn slow_down(&mut self, sent_per_second: u64) -> Option<Change> {
        let now = self.cap.unwrap_or(u64::MAX).min(sent_per_second);
        let (down, of) = DOWN;
        let cap = (now / of * down).max(BUSY_RATE);
        let news = self.cap.is_none();
        self.cap = Some(cap);
        news.then_some(Change::Busy(cap))
    }

    fn speed_up(&mut self, sent_per_second: u64) -> Option<Change> {
        let (up, of) = UP;
        let cap = self.cap?.saturating_mul(up) / of;
        let binds = sent_per_second.saturating_mul(FREE_ABOVE) >= cap;
        let binds = binds || cap < BUSY_RATE * FREE_ABOVE;
        self.cap = binds.then_some(cap);
        (!binds).then_some(Change::Free)
    }

    fn fill(&mut self, now: Duration) {
        let Some(rate) = self.rate() else {
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
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.balance = self.balance.saturating_add(bytes).min(burst);
    }
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "small test inputs")]
mod tests;
