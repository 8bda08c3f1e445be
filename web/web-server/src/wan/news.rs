//! What a node is told: pure.

use std::collections::BTreeSet;

use web_api::{Hex, WAN_BYTES_PER_SECOND_MIN, WanNews, WanRules};

/// Versions of a site that somebody has a lease for.
#[derive(Debug, Default)]
pub(super) struct Leased {
    /// All whose holder has not finished.
    pub(super) open: BTreeSet<[u8; 32]>,
    /// Those of them under whose leases bytes go out.
    pub(super) fetched: BTreeSet<[u8; 32]>,
}

/// The news of a site at a moment of HQ's clock. `fetchers` nodes share the budget, the asking one among them.
pub(super) fn of(rules: &WanRules, unix_seconds: u64, fetchers: u64, leased: &Leased) -> WanNews {
    let rate = rules.budget.at(unix_seconds);
    let share = |all: u64| match all {
        0 => 0,
        all => (all / fetchers.max(1)).max(WAN_BYTES_PER_SECOND_MIN),
    };
    let mut news = WanNews {
        number: 0,
        bytes_per_second: rate.bytes_per_second.map(share),
        holds_seconds: rate.holds_seconds,
        paused: rules.paused,
        waiting: waiting(rules, leased),
    };
    news.number = number(&news);
    news
}

/// Versions that are paused, and those that wait for a higher one. One without a rule has priority 0, and is told to wait
/// when somebody has the lease for it.
fn waiting(rules: &WanRules, leased: &Leased) -> Vec<Hex<32>> {
    let paused: BTreeSet<_> = rules
        .versions
        .iter()
        .filter(|v| v.paused)
        .map(|v| v.version.0)
        .collect();
    let priority = |version: &[u8; 32]| {
        let rule = rules.versions.iter().find(|v| v.version.0 == *version);
        rule.map_or(0, |r| r.priority)
    };
    let highest = leased
        .fetched
        .iter()
        .filter(|v| !paused.contains(*v))
        .map(priority)
        .max()
        .unwrap_or(0);
    let known = rules.versions.iter().map(|v| v.version.0);
    let lower = known
        .chain(leased.open.iter().copied())
        .filter(|v| priority(v) < highest);
    let all: BTreeSet<_> = lower.chain(paused.iter().copied()).collect();
    all.into_iter().map(Hex).collect()
}

/// Names what is said, but not for how long it still holds: that alone is no news.
fn number(news: &WanNews) -> u64 {
    let mut hash = blake3::Hasher::new();
    let rate = news.bytes_per_second.unwrap_or(u64::MAX);
    hash.update(&rate.to_le_bytes());
    hash.update(&[u8::from(news.paused)]);
    for version in &news.waiting {
        hash.update(&version.0);
    }
    let bytes: [u8; 32] = *hash.finalize().as_bytes();
    // 52 bits: a number that every JSON reader holds exactly
    let [a, b, c, d, e, f, g, ..] = bytes;
    (u64::from_le_bytes([a, b, c, d, e, f, g, 0]) >> 4) | 1
}

#[cfg(test)]
mod tests {
    use web_api::{WanBudget, WanVersion};

    use super::*;

    fn rules(versions: &[(u8, bool, u8)]) -> WanRules {
        WanRules {
            budget: WanBudget {
                windows: vec!["00:00-00:00=8Mbit".parse().unwrap()],
                utc_offset_minutes: 0,
            },
            paused: false,
            versions: versions
                .iter()
                .map(|(n, paused, priority)| WanVersion {
                    version: Hex([*n; 32]),
                    paused: *paused,
                    priority: *priority,
                })
                .collect(),
        }
    }

    fn told(versions: &[(u8, bool, u8)], fetched: &[u8]) -> Vec<u8> {
        told_with(versions, fetched, fetched)
    }

    fn told_with(versions: &[(u8, bool, u8)], fetched: &[u8], open: &[u8]) -> Vec<u8> {
        let set = |of: &[u8]| of.iter().map(|n| [*n; 32]).collect();
        let leased = Leased {
            open: set(open),
            fetched: set(fetched),
        };
        let news = of(&rules(versions), 0, 1, &leased);
        news.waiting.iter().map(|v| v.0[0]).collect()
    }

    #[test]
    fn a_lower_version_waits_while_a_higher_one_is_fetched() {
        assert_eq!(told(&[(1, false, 5)], &[1, 2]), [2]);
        assert_eq!(told(&[(1, false, 5)], &[2]), [0u8; 0]);
        assert_eq!(told(&[(1, false, 5), (2, false, 6)], &[1, 2, 3]), [1, 3]);
        // it waits on, though no byte of it goes out
        assert_eq!(told_with(&[(1, false, 5)], &[1], &[1, 2]), [2]);
        assert_eq!(told_with(&[(1, false, 5)], &[2], &[1, 2]), [0u8; 0]);
        // equals do not wait for each other
        assert_eq!(told(&[(1, false, 5), (2, false, 5)], &[1, 2]), [0u8; 0]);
        assert_eq!(told(&[], &[1, 2]), [0u8; 0]);
    }

    #[test]
    fn a_paused_version_waits_and_nobody_waits_for_it() {
        assert_eq!(told(&[(1, true, 9)], &[1, 2]), [1]);
        assert_eq!(told(&[(1, true, 0)], &[]), [1]);
    }

    #[test]
    fn fetchers_share_the_budget() {
        let share = |fetchers| of(&rules(&[]), 0, fetchers, &Leased::default()).bytes_per_second;
        assert_eq!(share(1), Some(1_000_000));
        assert_eq!(share(2), Some(500_000));
        assert_eq!(share(1_000_000), Some(WAN_BYTES_PER_SECOND_MIN));
        let mut none = rules(&[]);
        none.budget.windows[0].bytes_per_second = Some(0);
        assert_eq!(
            of(&none, 0, 3, &Leased::default()).bytes_per_second,
            Some(0)
        );
    }

    #[test]
    fn only_what_differs_is_news() {
        let fetched = Leased::default();
        let first = of(&rules(&[]), 0, 1, &fetched);
        let later = of(&rules(&[]), 3600, 1, &fetched);
        assert_eq!(first.number, later.number);
        assert_ne!(first.number, 0);
        assert_ne!(first.number, of(&rules(&[]), 0, 2, &fetched).number);
        assert_ne!(
            first.number,
            of(&rules(&[(1, true, 0)]), 0, 1, &fetched).number
        );
        let paused = WanRules {
            paused: true,
            ..rules(&[])
        };
        assert_ne!(first.number, of(&paused, 0, 1, &fetched).number);
    }
}
