//! Who may hold a connection before HQ knows who it is: anybody can reach its port.
//!
//! A connection belongs to a stranger until a request on it was let through. Strangers have few places, and few of one address.
//! When all are taken, the address that has most of them gives one back, the one that it has had longest, and one with a member gives
//! none while another can: who comes with one connection, and says soon who it is, is never sent away for those who come with
//! many. Members never make room for strangers.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::Notify;

/// Connections of strangers. Each may hold some 80 KiB: a TLS session, plain and encrypted bytes, a newcomer's body.
const STRANGERS_MAX: usize = 256;
/// Connections of one address that begin at once, and how often one more: each costs a handshake. Those of members do not count.
const BEGUN_MAX: u32 = 32;
const BEGINS_EVERY: Duration = Duration::from_millis(250);
/// Addresses whose beginnings are counted; when there are more, all are forgiven.
const BEGINNERS_MAX: usize = 4096;
/// Of one address, this computer's own excepted: a store's nodes and agents come from one when they enrol.
const OF_ADDRESS_MAX: usize = 32;

/// Where connections get their places. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Door(Arc<Mutex<Strangers>>);

#[derive(Debug, Default)]
struct Strangers {
    next: u64,
    /// By age.
    places: BTreeMap<u64, Stranger>,
    /// Connections of members, by address.
    members: BTreeMap<IpAddr, usize>,
    /// When all that an address began will be forgiven.
    begun: BTreeMap<IpAddr, Instant>,
}

#[derive(Debug)]
struct Stranger {
    address: IpAddr,
    sent_away: Arc<Notify>,
}

/// One connection's place. It is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    door: Door,
    id: u64,
    address: IpAddr,
    is_member: AtomicBool,
    sent_away: Arc<Notify>,
}

impl Door {
    fn lock(&self) -> MutexGuard<'_, Strangers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for somebody who calls; `None` when there are enough of its address.
    pub(crate) fn enter(&self, now: Instant, from: IpAddr) -> Option<Place> {
        let address = household(from);
        let mut strangers = self.lock();
        if !address.is_loopback()
            && (strangers.of(address) >= OF_ADDRESS_MAX || !strangers.begins(now, address))
        {
            return None;
        }
        if strangers.places.len() >= STRANGERS_MAX {
            strangers.make_room();
        }
        let sent_away = Arc::new(Notify::new());
        let id = strangers.next;
        strangers.next += 1;
        let stranger = Stranger {
            address,
            sent_away: sent_away.clone(),
        };
        strangers.places.insert(id, stranger);
        drop(strangers);
        Some(Place {
            door: self.clone(),
            id,
            address,
            is_member: AtomicBool::new(false),
            sent_away,
        })
    }
}

impl Strangers {
    fn of(&self, address: IpAddr) -> usize {
        let of_it = self.places.values().filter(|s| s.address == address);
        of_it.count()
    }

    /// Counts a beginning, if the address may have it.
    fn begins(&mut self, now: Instant, address: IpAddr) -> bool {
        if self.begun.len() >= BEGINNERS_MAX {
            self.begun.retain(|_, until| *until > now);
        }
        if self.begun.len() >= BEGINNERS_MAX {
            self.begun.clear();
        }
        let until = self.begun.entry(address).or_insert(now);
        let after = (*until).max(now) + BEGINS_EVERY;
        let may = after <= now + BEGINS_EVERY * BEGUN_MAX;
        if may {
            *until = after;
        }
        may
    }

    /// A beginning was a member's: stores behind one address that all come back after an outage are not held up.
    fn forgive(&mut self, address: IpAddr) {
        if let Some(until) = self.begun.get_mut(&address)
            && let Some(earlier) = until.checked_sub(BEGINS_EVERY)
        {
            *until = earlier;
        }
    }

    fn make_room(&mut self) {
        // who comes from where a member is may be the member, which opens several at once
        let spared = |address: &IpAddr| self.members.contains_key(address);
        let mut by_address: BTreeMap<IpAddr, usize> = BTreeMap::new();
        for stranger in self.places.values() {
            *by_address.entry(stranger.address).or_default() += 1;
        }
        let rank = |address: &IpAddr| (!spared(address), by_address.get(address).copied());
        let most = by_address.keys().map(rank).max();
        let oldest = self
            .places
            .iter()
            .find(|(_, s)| Some(rank(&s.address)) == most)
            .map(|(id, _)| *id);
        if let Some(gone) = oldest.and_then(|id| self.places.remove(&id)) {
            gone.sent_away.notify_one();
        }
    }
}

impl Place {
    /// A request was let through: nobody sends this connection away.
    pub(crate) fn admit(&self) {
        if !self.is_member.swap(true, Ordering::Relaxed) {
            let mut strangers = self.door.lock();
            strangers.places.remove(&self.id);
            *strangers.members.entry(self.address).or_default() += 1;
            strangers.forgive(self.address);
        }
    }

    /// Whether none was yet.
    pub(crate) fn is_strangers(&self) -> bool {
        !self.is_member.load(Ordering::Relaxed)
    }

    /// Waits until this place is given to somebody else.
    pub(crate) async fn sent_away(&self) {
        self.sent_away.notified().await;
        // it may have been let through in the same moment
        if !self.is_strangers() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut strangers = self.door.lock();
        if self.is_strangers() {
            strangers.places.remove(&self.id);
        } else if let Some(count) = strangers.members.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                strangers.members.remove(&self.address);
            }
        }
    }
}

/// Who has one IPv6 address has the 2^64 of its network.
pub(crate) fn household(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) if !v6.is_loopback() => {
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64))
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn address(n: usize) -> IpAddr {
        Ipv4Addr::from_bits(0x0a00_0000 + u32::try_from(n).unwrap()).into()
    }

    fn is_sent_away(place: &Place) -> bool {
        !place.door.lock().places.contains_key(&place.id) && place.is_strangers()
    }

    #[test]
    fn an_address_has_few_places_and_this_computer_as_many_as_there_are() {
        let door = Door::default();
        let mut places: Vec<Place> = (0..OF_ADDRESS_MAX)
            .map(|_| door.enter(Instant::now(), address(1)).unwrap())
            .collect();
        let later = Instant::now() + Duration::from_secs(1);
        assert!(door.enter(later, address(1)).is_none());
        assert!(door.enter(later, address(2)).is_some());
        // who was let through is no stranger
        places[0].admit();
        let later = Instant::now() + Duration::from_secs(1);
        assert!(door.enter(later, address(1)).is_some());
        places.clear();
        assert!(door.lock().places.is_empty());
        let own: Vec<_> = (0..STRANGERS_MAX)
            .map(|_| door.enter(Instant::now(), Ipv4Addr::LOCALHOST.into()))
            .collect();
        assert!(own.iter().all(Option::is_some));
    }

    #[test]
    fn an_address_begins_few_in_a_second() {
        let door = Door::default();
        let begun = Instant::now();
        let count = |now, n| {
            let begins = |_: &usize| door.enter(now, address(n)).is_some();
            (0..1000).filter(begins).count()
        };
        assert_eq!(count(begun, 1), 32);
        assert_eq!(count(begun, 2), 32);
        assert_eq!(count(begun + Duration::from_secs(1), 1), 4);
        assert_eq!(count(begun + Duration::from_secs(60), 1), 32);
        // who has very many addresses does not make this grow
        (10..10 + 2 * BEGINNERS_MAX).for_each(|n| drop(door.enter(begun, address(n))));
        assert!(door.lock().begun.len() <= BEGINNERS_MAX);
    }

    #[test]
    fn stores_behind_one_address_all_come_back_at_once() {
        let door = Door::default();
        let now = Instant::now();
        let back: Vec<Place> = (0..3000)
            .filter_map(|_| door.enter(now, address(1)))
            .inspect(Place::admit)
            .collect();
        assert_eq!(back.len(), 3000);
        // and who is no member is held up there as elsewhere
        let strangers = (0..100).filter_map(|_| door.enter(now, address(1)));
        assert_eq!(strangers.collect::<Vec<_>>().len(), 32);
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one_address() {
        let door = Door::default();
        let of = |n: u128| IpAddr::V6(Ipv6Addr::from_bits((0x2001_0db8 << 96) + n));
        let places: Vec<_> = (0..OF_ADDRESS_MAX as u128)
            .map(|n| door.enter(Instant::now(), of(n)))
            .collect();
        assert!(places.iter().all(Option::is_some));
        assert!(door.enter(Instant::now(), of(1 << 63)).is_none());
        assert!(door.enter(Instant::now(), of(1 << 64)).is_some());
    }

    #[test]
    fn who_comes_with_many_makes_room_and_who_was_let_through_never_does() {
        let door = Door::default();
        let member = door.enter(Instant::now(), address(0)).unwrap();
        member.admit();
        let honest = door.enter(Instant::now(), address(1)).unwrap();
        let attackers: Vec<Place> = (0..STRANGERS_MAX - 1)
            .map(|n| door.enter(Instant::now(), address(10 + n % 32)).unwrap())
            .collect();
        // each newcomer takes the place of an attacker's oldest, and the attackers' own newcomers do as well
        let newcomer = door.enter(Instant::now(), address(2)).unwrap();
        assert!(is_sent_away(&attackers[0]));
        let more: Vec<_> = (0..200)
            .filter_map(|n| door.enter(Instant::now(), address(10 + n % 32)))
            .collect();
        assert_eq!(more.len(), 200);
        assert_eq!(door.lock().places.len(), STRANGERS_MAX);
        assert!(!is_sent_away(&honest) && !is_sent_away(&newcomer) && !is_sent_away(&member));
        // a member opens several at once
        let own: Vec<_> = (0..20)
            .filter_map(|_| door.enter(Instant::now(), address(0)))
            .collect();
        for n in 0..100 {
            drop(door.enter(Instant::now(), address(100 + n)));
        }
        let last: Vec<_> = (0..40)
            .map(|n| door.enter(Instant::now(), address(300 + n)))
            .collect();
        assert_eq!((own.len(), last.len()), (20, 40));
        assert!(own.iter().all(|place| !is_sent_away(place)));
        drop((member, own));
        assert!(door.lock().members.is_empty());
    }
}
