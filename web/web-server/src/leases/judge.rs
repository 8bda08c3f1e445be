//! Who may fetch: the rule, without clock or database.
//!
//! A site has one main lease for a version. A node that cannot reach its holder gets a lease of an island, named by the
//! island's first holder; one that cannot reach that one either gets another, up to [`ISLANDS_MAX`] in a site. A holder under
//! whose lease no byte went out for [`LEASE_DEADLINE`] gives way to whoever asks, and after [`UNSEEN_DEADLINE`] to a node that
//! says that the holder is not there: a node that was killed is replaced while the site's election still settles. A lease that is
//! free goes to nobody who may see the holder of another one that works.

use std::time::Duration;

use trust_format::PublicKey;

/// How long a lease holds without a byte that HQ wrote to a socket under it.
pub(crate) const LEASE_DEADLINE: Duration = Duration::from_secs(10);
/// The same when another node of the site has no connection to the holder. Longer than a transfer's pauses between objects.
pub(crate) const UNSEEN_DEADLINE: Duration = Duration::from_secs(3);
/// Islands of one site that fetch a version at the same time. More of them are no site.
pub(crate) const ISLANDS_MAX: usize = 8;

/// One lease of a site and version, as it stands.
#[derive(Debug, Clone)]
pub(crate) struct Slot {
    /// The first holder of an island; the main lease has none.
    pub(crate) island: Option<PublicKey>,
    pub(crate) holder: PublicKey,
    /// Since it was given, or the last byte.
    pub(crate) idle: Duration,
    /// The holder said that it has everything.
    pub(crate) finished: bool,
    /// HQ heard of the holder lately, and did not revoke it.
    pub(crate) heard: bool,
}

/// What is answered to a node that asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It goes on with the lease that it has.
    Renew { island: Option<PublicKey> },
    /// It gets a new lease, in place of the one that was there.
    Give { island: Option<PublicKey> },
    /// Another fetches, or has everything.
    Held { holder: PublicKey, finished: bool },
    /// There are too many islands.
    Crowded,
}

impl Slot {
    fn works(&self, within: Duration) -> bool {
        !self.finished && self.idle < within
    }
}

/// What a node sees of a holder: `None` when it did not say.
pub(crate) type View<'a> = &'a dyn Fn(&PublicKey) -> Option<bool>;

/// Judges a wish. `slots` has the main lease first, if there was one, then islands, the oldest first.
pub(crate) fn judge(asker: PublicKey, slots: &[Slot], view: View<'_>) -> Verdict {
    let own = slots.iter().find(|s| s.holder == asker);
    if let Some(own) = own.filter(|own| own.works(LEASE_DEADLINE)) {
        return Verdict::Renew { island: own.island };
    }
    let mut free = own.map(|own| own.island);
    for slot in slots {
        let held = Verdict::Held {
            holder: slot.holder,
            finished: slot.finished,
        };
        match (view(&slot.holder), slot.finished) {
            (Some(true) | None, false) if slot.works(LEASE_DEADLINE) => return held,
            // its own lease or the first that is free; whom else it could ask for the version matters no more
            _ if free.is_some() => {}
            // it sees one who has everything, and still lacks something
            (Some(true), true) => free = Some(slot.island),
            (None, true) if slot.heard => return held,
            // another part of the site is busy, or served, and is no help here
            (Some(false), false) if slot.works(UNSEEN_DEADLINE) => {}
            (Some(false), true) if slot.heard => {}
            _ => free = Some(slot.island),
        }
    }
    if let Some(island) = free {
        return Verdict::Give { island };
    }
    let islands = slots
        .iter()
        .filter(|s| s.island.is_some() && s.works(LEASE_DEADLINE));
    match (slots.is_empty(), islands.count() >= ISLANDS_MAX) {
        (true, _) => Verdict::Give { island: None },
        (false, true) => Verdict::Crowded,
        (false, false) => Verdict::Give {
            island: Some(asker),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> PublicKey {
        PublicKey([n; 32])
    }

    fn slot(island: Option<u8>, holder: u8, idle: u64) -> Slot {
        Slot {
            island: island.map(key),
            holder: key(holder),
            idle: Duration::from_secs(idle),
            finished: false,
            heard: true,
        }
    }

    fn finished(slot: Slot, heard: bool) -> Slot {
        Slot {
            finished: true,
            heard,
            ..slot
        }
    }

    /// The verdict on node 9, who sees the holders of the first list and not those of the second.
    fn check(slots: &[Slot], live: &[u8], gone: &[u8], expect: Verdict) {
        let view = |k: &PublicKey| match (live.contains(&k.0[0]), gone.contains(&k.0[0])) {
            (true, _) => Some(true),
            (_, true) => Some(false),
            _ => None,
        };
        let found = judge(key(9), slots, &view);
        assert_eq!(found, expect, "{slots:?}, sees {live:?}, not {gone:?}");
    }

    fn held(holder: u8, finished: bool) -> Verdict {
        Verdict::Held {
            holder: key(holder),
            finished,
        }
    }

    fn give(island: Option<u8>) -> Verdict {
        Verdict::Give {
            island: island.map(key),
        }
    }

    #[test]
    fn one_fetches_while_bytes_go_out() {
        check(&[], &[], &[], give(None));
        check(&[slot(None, 1, 9)], &[], &[], held(1, false));
        check(&[slot(None, 1, 9)], &[1], &[], held(1, false));
        check(&[slot(None, 1, 10)], &[1], &[], give(None));
        check(
            &[slot(None, 9, 9)],
            &[],
            &[],
            Verdict::Renew { island: None },
        );
        // no renewal makes up for bytes
        check(&[slot(None, 9, 10)], &[], &[], give(None));
    }

    #[test]
    fn a_holder_that_is_gone_is_replaced_sooner() {
        check(&[slot(None, 1, 3)], &[], &[1], give(None));
        check(&[slot(None, 1, 3)], &[], &[], held(1, false));
    }

    #[test]
    fn who_cannot_reach_a_working_holder_is_an_island() {
        check(&[slot(None, 1, 2)], &[], &[1], give(Some(9)));
        let two = [slot(None, 1, 0), slot(Some(2), 2, 0)];
        check(&two, &[], &[1], held(2, false));
        check(&two, &[2], &[1], held(2, false));
        check(&two, &[], &[1, 2], give(Some(9)));
        // the island's holder died: the island goes on under its name
        let died = [slot(None, 1, 0), slot(Some(2), 2, 5)];
        check(&died, &[], &[1, 2], give(Some(2)));
        let own = [slot(None, 1, 0), slot(Some(2), 9, 0)];
        let island = Some(key(2));
        check(&own, &[], &[], Verdict::Renew { island });
    }

    /// The simulator's seeds 399 and 3568: the main lease was free, an island that the asking node had just joined was busy.
    #[test]
    fn a_free_lease_makes_no_second_fetcher_in_an_island() {
        for main in [
            finished(slot(None, 1, 50), false),
            slot(None, 1, 50),
            slot(None, 1, 10),
        ] {
            let slots = [main, slot(Some(2), 2, 0)];
            check(&slots, &[], &[], held(2, false));
            check(&slots, &[2], &[1], held(2, false));
            check(&slots, &[1, 2], &[], held(2, false));
            check(&slots, &[], &[1, 2], give(None));
        }
        // its own, from before it lost what it had
        let own = [finished(slot(None, 9, 50), true), slot(Some(2), 2, 0)];
        check(&own, &[], &[], held(2, false));
        check(&own, &[], &[2], give(None));
        // one that stands still does not matter
        let still = [finished(slot(None, 1, 50), false), slot(Some(2), 2, 10)];
        check(&still, &[2], &[], give(None));
    }

    #[test]
    fn islands_have_an_end() {
        let mut slots = vec![slot(None, 1, 0)];
        let islands = (20u8..).take(ISLANDS_MAX);
        slots.extend(islands.clone().map(|n| slot(Some(n), n, 0)));
        let gone: Vec<u8> = islands.chain([1]).collect();
        check(&slots, &[], &gone, Verdict::Crowded);
        slots[3].idle = UNSEEN_DEADLINE;
        check(&slots, &[], &gone, give(Some(22)));
    }

    #[test]
    fn one_that_has_everything_is_asked_for_first() {
        let done = [finished(slot(None, 1, 5000), true)];
        check(&done, &[], &[], held(1, true));
        check(&done, &[1], &[], give(None));
        // counted apart: the site has it, behind a wall
        check(&done, &[], &[1], give(Some(9)));
        let dead = [finished(slot(None, 1, 5000), false)];
        check(&dead, &[], &[], give(None));
        check(&dead, &[], &[1], give(None));
    }
}
