//! How much may begin in a second: what anybody can ask for costs a task, a socket and a look at a file.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Transfers or connections that begin in a second.
const BEGIN_MAX: u32 = 500;
/// Of one address. pxelinux asks for twenty files that are not there, one after the other.
const OF_ADDRESS_MAX: u32 = 32;

/// What has begun in this second. What is too much is dropped without a word, as a full network would: whoever boots asks again.
#[derive(Debug)]
pub(crate) struct Beginnings {
    second: Instant,
    count: u32,
    by_address: BTreeMap<IpAddr, u32>,
}

impl Beginnings {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            second: now,
            count: 0,
            by_address: BTreeMap::new(),
        }
    }

    /// Whether this address may begin another.
    pub(crate) fn allow(&mut self, now: Instant, from: IpAddr) -> bool {
        if now - self.second >= Duration::from_secs(1) {
            *self = Self::new(now);
        }
        if self.count >= BEGIN_MAX {
            return false;
        }
        let of_address = self.by_address.entry(from).or_default();
        if *of_address >= OF_ADDRESS_MAX {
            return false;
        }
        *of_address += 1;
        self.count += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn an_address_begins_few_in_a_second_and_all_of_them_more() {
        let begun = Instant::now();
        let mut beginnings = Beginnings::new(begun);
        let at = |n: u32| IpAddr::from(Ipv4Addr::from_bits(0x0a00_0000 + n));
        let mut allowed = |address, now| {
            (0..1000)
                .filter(|_| beginnings.allow(now, at(address)))
                .count()
        };
        assert_eq!(allowed(1, begun), 32);
        assert_eq!(allowed(2, begun), 32);
        let by_others: usize = (3..100).map(|n| allowed(n, begun)).sum();
        assert_eq!(by_others, 500 - 64);
        assert_eq!(allowed(1, begun + Duration::from_millis(999)), 0);
        assert_eq!(allowed(1, begun + Duration::from_secs(1)), 32);
    }
}
