//! Who may come in, and who makes room: anybody on a store's network can knock.
//!
//! A caller costs memory and time before it has shown who it is. So few greet at a time, and not all of them from one address;
//! where several do, a caller first shows that it receives what is sent to its address. When all places are taken, one that has
//! greeted for long makes room: an honest machine is done within milliseconds. Who has greeted and has no right here waits for
//! one, and the one that has waited longest goes when there are too many: one that a person has to approve comes back. Members
//! are never sent away for strangers.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

/// Callers whose hello is awaited.
pub const GREETING_MAX: usize = 64;
/// Bytes of longer documents that they may hold in all: a few of [`crate::wire::GREETING_BYTES_MAX`].
pub const GREETING_DOCUMENTS_BYTES_MAX: usize = 12 << 20;
/// With so many callers an address may have one: who has half as many addresses as there are places blocks nobody.
pub const ONE_OF_ADDRESS_FROM: usize = GREETING_MAX / 2;
/// So long a caller may greet though others wait: an honest machine is done in a few round trips, and comes back.
pub const GREETS_IN_PEACE: Duration = Duration::from_millis(150);
/// With so many callers the next ones must prove their address (RFC 9000 section 8.1.2).
pub const PROVE_FROM: usize = 4;
/// Peers that have greeted and have no right here.
pub const STRANGERS_MAX: usize = 128;
/// Callers and strangers of one address; programs of this computer itself are not counted.
pub const OF_ADDRESS_MAX: usize = 4;
/// Peers with a right: the nodes and agents of the largest site, and some to spare.
pub const MEMBERS_MAX: usize = 256;

/// One connection's place, never given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PlaceId(pub u64);

/// What becomes of a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// It may greet.
    In(PlaceId),
    /// It may greet, and another that has not come to an end goes.
    InsteadOf {
        /// Its own place.
        place: PlaceId,
        /// Who goes.
        gone: PlaceId,
    },
    /// It has to prove its address first.
    Prove,
    /// It may ask again when a place is free.
    Wait,
    /// There are enough of its address.
    Out,
}

/// What becomes of a peer that is known for a stranger or a member now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stay {
    /// It stays.
    Stays,
    /// It stays, and this stranger goes.
    InsteadOf(PlaceId),
    /// It goes.
    Leaves,
}

/// The door of one program.
#[derive(Debug, Default)]
pub struct Door {
    next: u64,
    /// Since when and from where; by age, as all here.
    greeting: BTreeMap<PlaceId, (Duration, IpAddr)>,
    /// Whom this program calls.
    called: BTreeMap<PlaceId, IpAddr>,
    strangers: BTreeMap<PlaceId, IpAddr>,
    members: BTreeSet<PlaceId>,
}

impl Door {
    /// Somebody calls. `proved`: it receives what is sent to its address.
    pub fn handle_caller(&mut self, now: Duration, from: IpAddr, proved: bool) -> Entry {
        let is_its = |address: &&IpAddr| !is_own(from) && **address == from;
        let greeting = self.greeting.values().map(|(_, address)| address);
        let greeting = greeting.filter(is_its).count();
        let strangers = self.strangers.values().filter(is_its).count();
        let is_contested = self.greeting.len() >= ONE_OF_ADDRESS_FROM;
        if self.greeting.len() >= PROVE_FROM && !proved {
            return Entry::Prove;
        }
        if greeting + strangers >= OF_ADDRESS_MAX || (is_contested && greeting > 0) {
            return Entry::Out;
        }
        if self.greeting.len() < GREETING_MAX {
            return Entry::In(self.begin(now, from));
        }
        match self.greeting.first_key_value() {
            Some((oldest, (since, _))) if now >= *since + GREETS_IN_PEACE => {
                let gone = *oldest;
                self.greeting.remove(&gone);
                let place = self.begin(now, from);
                Entry::InsteadOf { place, gone }
            }
            _ => Entry::Wait,
        }
    }

    /// This program calls somebody, which is its own choice and always has a place.
    pub fn handle_called(&mut self, address: IpAddr) -> PlaceId {
        let place = self.next();
        self.called.insert(place, address);
        place
    }

    fn next(&mut self) -> PlaceId {
        self.next += 1;
        PlaceId(self.next)
    }

    fn begin(&mut self, now: Duration, from: IpAddr) -> PlaceId {
        let place = self.next();
        self.greeting.insert(place, (now, from));
        place
    }

    /// The hello was read. A member has a right to be here.
    pub fn handle_greeted(&mut self, place: PlaceId, member: bool) -> Stay {
        let caller = self.greeting.remove(&place).map(|(_, address)| address);
        let Some(address) = caller.or_else(|| self.called.remove(&place)) else {
            return Stay::Leaves;
        };
        self.strangers.insert(place, address);
        if member {
            return self.handle_admitted(place);
        }
        match self.strangers.len() > STRANGERS_MAX {
            true => self
                .strangers
                .pop_first()
                .map_or(Stay::Stays, |(oldest, _)| Stay::InsteadOf(oldest)),
            false => Stay::Stays,
        }
    }

    /// A stranger has a right now.
    pub fn handle_admitted(&mut self, place: PlaceId) -> Stay {
        if self.strangers.remove(&place).is_none() {
            return match self.members.contains(&place) {
                true => Stay::Stays,
                false => Stay::Leaves,
            };
        }
        if self.members.len() >= MEMBERS_MAX {
            return Stay::Leaves;
        }
        self.members.insert(place);
        Stay::Stays
    }

    /// Peers with a right to be here.
    pub fn member_count(&self) -> usize {
        self.members.len()
    }

    /// A connection ended, at whatever point.
    pub fn handle_gone(&mut self, place: PlaceId) {
        self.greeting.remove(&place);
        self.called.remove(&place);
        self.strangers.remove(&place);
        self.members.remove(&place);
    }
}

/// Programs of this computer itself, such as a store in miniature.
pub fn is_own(address: IpAddr) -> bool {
    address == Ipv4Addr::LOCALHOST || address == Ipv6Addr::LOCALHOST
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "small test inputs")]
mod tests {
    use super::*;

    fn address(n: u8) -> IpAddr {
        Ipv4Addr::new(10, 0, 0, n).into()
    }

    const NOW: Duration = Duration::from_secs(100);

    fn enter(door: &mut Door, n: u8) -> PlaceId {
        match door.handle_caller(NOW, address(n), true) {
            Entry::In(place) => place,
            other => panic!("{other:?} for {n}"),
        }
    }

    #[test]
    fn a_flood_from_forged_addresses_gets_no_place_and_blocks_nobody() {
        let mut door = Door::default();
        for n in 0..200 {
            let entry = door.handle_caller(NOW, address(n), false);
            match usize::from(n) < PROVE_FROM {
                true => assert!(matches!(entry, Entry::In(_))),
                false => assert_eq!(entry, Entry::Prove),
            }
        }
        enter(&mut door, 250);
    }

    #[test]
    fn one_address_gets_few_places_and_gets_them_back() {
        let mut door = Door::default();
        let places: Vec<_> = (0..OF_ADDRESS_MAX).map(|_| enter(&mut door, 1)).collect();
        assert_eq!(door.handle_caller(NOW, address(1), true), Entry::Out);
        // as strangers they still count, as members no more
        for place in &places {
            assert_eq!(door.handle_greeted(*place, false), Stay::Stays);
        }
        assert_eq!(door.handle_caller(NOW, address(1), true), Entry::Out);
        assert_eq!(door.handle_admitted(places[0]), Stay::Stays);
        let again = enter(&mut door, 1);
        assert_eq!(door.handle_caller(NOW, address(1), true), Entry::Out);
        door.handle_gone(again);
        enter(&mut door, 1);
        enter(&mut door, 2);
    }

    #[test]
    fn programs_of_this_computer_are_many() {
        let mut door = Door::default();
        for _ in 0..GREETING_MAX {
            let entry = door.handle_caller(NOW, Ipv4Addr::LOCALHOST.into(), true);
            assert!(matches!(entry, Entry::In(_)));
        }
    }

    #[test]
    fn who_calls_when_all_greet_waits_for_a_place() {
        let mut door = Door::default();
        let places: Vec<_> = (0..GREETING_MAX)
            .map(|n| enter(&mut door, n as u8))
            .collect();
        assert_eq!(door.handle_caller(NOW, address(200), true), Entry::Wait);
        // whom this program calls itself has a place all the same
        let called = door.handle_called(address(201));
        door.handle_gone(called);
        door.handle_gone(places[3]);
        enter(&mut door, 200);
    }

    #[test]
    fn half_as_many_addresses_as_places_block_nobody() {
        let mut door = Door::default();
        let addresses = GREETING_MAX / 2;
        for _ in 0..OF_ADDRESS_MAX {
            for n in 0..addresses {
                let _ = door.handle_caller(NOW, address(n as u8), true);
            }
        }
        enter(&mut door, 200);
        assert_eq!(door.handle_caller(NOW, address(200), true), Entry::Out);
    }

    #[test]
    fn who_greets_for_long_makes_room_for_who_waits() {
        let mut door = Door::default();
        let places: Vec<_> = (0..GREETING_MAX)
            .map(|n| enter(&mut door, n as u8))
            .collect();
        let soon = NOW + GREETS_IN_PEACE - Duration::from_millis(1);
        assert_eq!(door.handle_caller(soon, address(200), true), Entry::Wait);
        let later = NOW + GREETS_IN_PEACE;
        let Entry::InsteadOf { place, gone } = door.handle_caller(later, address(200), true) else {
            panic!("nobody made room")
        };
        assert_eq!(gone, places[0]);
        assert_eq!(door.handle_greeted(gone, true), Stay::Leaves);
        assert_eq!(door.handle_greeted(place, true), Stay::Stays);
        assert_eq!(door.handle_greeted(places[1], true), Stay::Stays);
    }

    #[test]
    fn the_stranger_that_waited_longest_makes_room_and_members_never_do() {
        let mut door = Door::default();
        let wide = |n: usize| IpAddr::from(Ipv4Addr::from(0x0a01_0000 + n as u32));
        let greet = |door: &mut Door, n: usize, member| match door.handle_caller(NOW, wide(n), true)
        {
            Entry::In(place) => (place, door.handle_greeted(place, member)),
            other => panic!("{other:?}"),
        };
        for n in 0..MEMBERS_MAX {
            assert_eq!(greet(&mut door, n, true).1, Stay::Stays);
        }
        let strangers: Vec<_> = (0..STRANGERS_MAX)
            .map(|n| greet(&mut door, 1000 + n, false))
            .collect();
        assert!(strangers.iter().all(|(_, stay)| *stay == Stay::Stays));
        let (last, stay) = greet(&mut door, 9000, false);
        assert_eq!(stay, Stay::InsteadOf(strangers[0].0));
        let (_, stay) = greet(&mut door, 9001, false);
        assert_eq!(stay, Stay::InsteadOf(strangers[1].0));
        // one that was sent away is not admitted by a word that came too late, and no member makes room
        assert_eq!(door.handle_admitted(strangers[0].0), Stay::Leaves);
        assert_eq!(door.handle_admitted(last), Stay::Leaves);
        assert_eq!(door.members.len(), MEMBERS_MAX);
    }
}
