//! Where peers may be, as somebody named them or as they were heard: anybody on a store's network can be heard under any key.
//!
//! Who was only heard has few places of one address, so that who has many addresses takes them all the later; when none is left,
//! the one that was heard first and is not connected makes room. Nobody makes room for the heard whom a member, HQ or a person
//! named.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use trust_format::PublicKey;

use crate::door::{MEMBERS_MAX, OF_ADDRESS_MAX, is_own};

/// Peers that are known of. Bounded.
#[derive(Debug, Default)]
pub struct Acquaintances {
    next: u64,
    known: BTreeMap<PublicKey, Acquaintance>,
}

/// Where one may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acquaintance {
    /// Its address, as it was said last.
    pub address: SocketAddr,
    /// The how manieth to be heard it was; `None` if somebody named it.
    pub heard: Option<u64>,
}

/// Whether a peer is remembered now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remembered {
    /// It is, and was before.
    Still,
    /// It is new.
    News,
    /// There is no room for it.
    No,
}

impl Acquaintances {
    /// Somebody who is believed named a peer.
    pub fn handle_named(&mut self, key: PublicKey, address: SocketAddr) -> Remembered {
        self.remember(
            key,
            Acquaintance {
                address,
                heard: None,
            },
            &|_| false,
        )
    }

    /// A peer said itself where it is, which anybody can. Who `is_connected` has shown that it is there.
    pub fn handle_heard(
        &mut self,
        key: PublicKey,
        address: SocketAddr,
        is_connected: &dyn Fn(&PublicKey) -> bool,
    ) -> Remembered {
        if let Some(known) = self.known.get_mut(&key) {
            known.address = address;
            return Remembered::Still;
        }
        let ip = address.ip().to_canonical();
        let of_address =
            |a: &Acquaintance| a.heard.is_some() && a.address.ip().to_canonical() == ip;
        let count = self.known.values().filter(|a| of_address(a)).count();
        if !is_own(ip)
            && count >= OF_ADDRESS_MAX
            && !self.forget_first_heard(Some(ip), is_connected)
        {
            return Remembered::No;
        }
        self.next += 1;
        let heard = Some(self.next);
        self.remember(key, Acquaintance { address, heard }, is_connected)
    }

    fn remember(
        &mut self,
        key: PublicKey,
        who: Acquaintance,
        is_connected: &dyn Fn(&PublicKey) -> bool,
    ) -> Remembered {
        let is_known = self.known.contains_key(&key);
        let full = self.known.len() >= MEMBERS_MAX;
        if !is_known && full && !self.forget_first_heard(None, is_connected) {
            return Remembered::No;
        }
        self.known.insert(key, who);
        match is_known {
            true => Remembered::Still,
            false => Remembered::News,
        }
    }

    /// Makes room, of one address or at all. Whether there is any now.
    fn forget_first_heard(
        &mut self,
        of: Option<IpAddr>,
        is_connected: &dyn Fn(&PublicKey) -> bool,
    ) -> bool {
        let first = self
            .known
            .iter()
            .filter(|(_, a)| of.is_none_or(|ip| a.address.ip().to_canonical() == ip))
            .filter_map(|(key, a)| Some((a.heard?, *key)))
            .filter(|(_, key)| !is_connected(key))
            .min();
        first.is_some_and(|(_, key)| self.known.remove(&key).is_some())
    }

    /// Whether this one is remembered.
    pub fn contains(&self, key: &PublicKey) -> bool {
        self.known.contains_key(key)
    }

    /// All of them.
    pub fn all(&self) -> BTreeMap<PublicKey, Acquaintance> {
        self.known.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: usize) -> PublicKey {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&(n as u64).to_be_bytes());
        PublicKey(bytes)
    }

    fn at(ip: usize) -> SocketAddr {
        let ip = u32::try_from(ip).unwrap();
        SocketAddr::from((std::net::Ipv4Addr::from_bits(0x0a00_0000 + ip), 4433))
    }

    #[test]
    fn an_address_is_remembered_under_few_keys_and_its_newest() {
        let mut all = Acquaintances::default();
        let nobody = |_: &PublicKey| false;
        for n in 0..10 {
            assert_eq!(all.handle_heard(key(n), at(1), &nobody), Remembered::News);
        }
        let left: Vec<PublicKey> = all.all().into_keys().collect();
        assert_eq!(left, (6..10).map(key).collect::<Vec<_>>());
        assert_eq!(all.handle_heard(key(9), at(2), &nobody), Remembered::Still);
        assert_eq!(all.all()[&key(9)].address, at(2));
        // this computer's own may be many: a demo's
        let own = SocketAddr::from(([127, 0, 0, 1], 4433));
        for n in 20..40 {
            all.handle_heard(key(n), own, &nobody);
        }
        assert_eq!(all.all().len(), 24);
    }

    #[test]
    fn nobody_makes_room_for_the_heard_who_was_named_or_is_connected() {
        let mut all = Acquaintances::default();
        let connected = |k: &PublicKey| *k == key(1000);
        all.handle_heard(key(1000), at(1), &connected);
        all.handle_named(key(1001), at(2));
        for n in 0..2 * MEMBERS_MAX {
            all.handle_heard(key(n), at(10 + n), &connected);
        }
        assert_eq!(all.all().len(), MEMBERS_MAX);
        assert!(all.contains(&key(1000)) && all.contains(&key(1001)));
        // the named come in, whoever was heard
        for n in 2000..2000 + 2 * MEMBERS_MAX {
            all.handle_named(key(n), at(5));
        }
        assert_eq!(all.all().len(), MEMBERS_MAX);
        assert!(all.contains(&key(1001)) && all.contains(&key(2000)));
        assert_eq!(all.handle_heard(key(1), at(1), &connected), Remembered::No);
    }
}
