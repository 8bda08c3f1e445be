//! Wrong tries by address: who guesses at many accounts is held, whichever accounts they are.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Wrong tries of one address at once, and how often one more.
const WRONG_MAX: u32 = 10;
const ONE_MORE_EVERY: Duration = Duration::from_secs(30);
/// Addresses that are remembered; when there are more, all are forgiven.
const ADDRESSES_MAX: usize = 4096;

/// When all that an address tried wrongly will be forgiven.
#[derive(Debug, Default)]
pub(crate) struct Tries(Mutex<BTreeMap<IpAddr, Instant>>);

impl Tries {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<IpAddr, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long an address has to wait before it may try again. This computer's own is a proxy's and never held.
    pub(crate) fn held(&self, now: Instant, address: IpAddr) -> Option<Duration> {
        let until = *self.lock().get(&address)?;
        let free = until.checked_sub(ONE_MORE_EVERY * (WRONG_MAX - 1))?;
        free.checked_duration_since(now)
            .filter(|wait| !wait.is_zero())
    }

    /// An address tried wrongly.
    pub(crate) fn was_wrong(&self, now: Instant, address: IpAddr) {
        if address.is_loopback() {
            return;
        }
        let mut tries = self.lock();
        if tries.len() >= ADDRESSES_MAX {
            tries.retain(|_, until| *until > now);
        }
        if tries.len() >= ADDRESSES_MAX {
            tries.clear();
        }
        let until = tries.entry(address).or_insert(now);
        *until = (*until).max(now) + ONE_MORE_EVERY;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_wrong_tries_and_then_one_each_half_minute() {
        let (tries, now) = (Tries::default(), Instant::now());
        let (one, other) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        for _ in 0..WRONG_MAX {
            assert_eq!(tries.held(now, one), None);
            tries.was_wrong(now, one);
        }
        assert_eq!(tries.held(now, one), Some(ONE_MORE_EVERY));
        assert_eq!(tries.held(now, other), None);
        let later = now + ONE_MORE_EVERY;
        assert_eq!(tries.held(later, one), None);
        tries.was_wrong(later, one);
        assert_eq!(tries.held(later, one), Some(ONE_MORE_EVERY));
        assert_eq!(tries.held(later + ONE_MORE_EVERY * WRONG_MAX, one), None);
    }

    #[test]
    fn addresses_have_a_limit() {
        let (tries, now) = (Tries::default(), Instant::now());
        for number in 0..2 * u32::try_from(ADDRESSES_MAX).unwrap() {
            tries.was_wrong(now, IpAddr::from((1 << 24 | number).to_be_bytes()));
        }
        assert!(tries.lock().len() <= ADDRESSES_MAX);
    }
}
