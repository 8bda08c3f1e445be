//! Whom neighbours accuse of wrong bytes, and what that is worth.
//!
//! Who received wrong bytes has nothing to show: what a connection carried is signed by nobody. So an accusation takes nothing away
//! but precedence: a suspect is given no first copies, because what only a liar has reaches nobody, and is served when nothing else
//! is to be sent. An honest machine that is accused falsely is slower and no more.

use std::{collections::BTreeMap, time::Duration};

use trust_format::PublicKey;

/// How long an accusation counts.
pub const ACCUSED_FOR: Duration = Duration::from_secs(600);
/// How many one peer may accuse at a time: a liar cannot slow a whole store.
const ACCUSED_BY_ONE_MAX: usize = 4;
/// Accusations in all.
const ACCUSATIONS_MAX: usize = 1024;

/// What was heard of wrong bytes.
#[derive(Debug, Default)]
pub struct Suspicions {
    /// When, by accused and accuser.
    accusations: BTreeMap<(PublicKey, PublicKey), Duration>,
}

impl Suspicions {
    /// A peer says that another sent it wrong bytes. Whether that is news and counts.
    pub fn handle_accusation(&mut self, now: Duration, by: PublicKey, accused: PublicKey) -> bool {
        self.accusations
            .retain(|_, since| now < *since + ACCUSED_FOR);
        let by_it = self.accusations.keys().filter(|(_, b)| *b == by).count();
        let is_too_much = by_it >= ACCUSED_BY_ONE_MAX || self.accusations.len() >= ACCUSATIONS_MAX;
        if by == accused || is_too_much || self.accusations.contains_key(&(accused, by)) {
            return false;
        }
        self.accusations.insert((accused, by), now);
        true
    }

    /// Whether somebody accuses a peer whose own word is worth no less: one that more accuse than it counts for nothing.
    pub fn is_suspect(&self, now: Duration, peer: &PublicKey) -> bool {
        let count = self.accusers(now, peer).count();
        self.accusers(now, peer)
            .any(|by| self.accusers(now, &by).count() <= count)
    }

    fn accusers(&self, now: Duration, peer: &PublicKey) -> impl Iterator<Item = PublicKey> + '_ {
        let first = (*peer, PublicKey([0; 32]));
        let last = (*peer, PublicKey([u8::MAX; 32]));
        let counts = move |since: &Duration| now < *since + ACCUSED_FOR;
        let all = self.accusations.range(first..=last);
        all.filter(move |(_, since)| counts(since))
            .map(|((_, by), _)| *by)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> PublicKey {
        PublicKey([n; 32])
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Who of 1 to 9 is suspected after these accusations.
    fn suspects(accusations: &[(u8, u8)], now: Duration) -> Vec<u8> {
        let mut suspicions = Suspicions::default();
        for (by, accused) in accusations {
            suspicions.handle_accusation(at(0), key(*by), key(*accused));
        }
        let all = 1..10;
        all.filter(|n| suspicions.is_suspect(now, &key(*n)))
            .collect()
    }

    #[test]
    fn one_accuser_is_enough_for_a_while() {
        assert_eq!(suspects(&[(1, 2)], at(1)), [2]);
        assert_eq!(suspects(&[(1, 2)], at(599)), [2]);
        assert_eq!(suspects(&[(1, 2)], at(600)), [0; 0]);
    }

    #[test]
    fn a_liar_that_accuses_back_is_believed_less() {
        assert_eq!(
            suspects(&[(4, 1), (4, 2), (1, 4), (2, 4), (3, 4)], at(1)),
            [4]
        );
        // word against word
        assert_eq!(suspects(&[(1, 2), (2, 1)], at(1)), [1, 2]);
    }

    #[test]
    fn nobody_accuses_everybody_nor_itself() {
        let all: Vec<(u8, u8)> = (2..10).map(|n| (1, n)).collect();
        assert_eq!(suspects(&all, at(1)), [2, 3, 4, 5]);
        assert_eq!(suspects(&[(1, 1)], at(1)), [0; 0]);
    }

    #[test]
    fn what_is_said_twice_is_no_news_and_what_is_over_makes_room() {
        let mut suspicions = Suspicions::default();
        assert!(suspicions.handle_accusation(at(0), key(1), key(2)));
        assert!(!suspicions.handle_accusation(at(1), key(1), key(2)));
        for n in 3..6 {
            assert!(suspicions.handle_accusation(at(1), key(1), key(n)));
        }
        assert!(!suspicions.handle_accusation(at(2), key(1), key(6)));
        assert!(suspicions.handle_accusation(at(600), key(1), key(6)));
    }
}
