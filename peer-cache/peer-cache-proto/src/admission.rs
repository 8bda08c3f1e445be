//! Whether a machine is imaged, and under which order.

use std::collections::{BTreeMap, BTreeSet};

use trust_format::{Channel, Digest, MachineId, Order, UnknownRule};

/// Orders of one site that a node keeps; the highest numbers stay.
pub const ORDERS_MAX: usize = 1024;
/// Machines of one site whose completions a node keeps.
pub const COMPLETED_MACHINES_MAX: usize = 16_384;

/// What a node knows about its site's orders.
#[derive(Debug, Clone, Default)]
pub struct OrderBook {
    orders: BTreeMap<u64, Order>,
    completed: BTreeMap<MachineId, BTreeSet<u64>>,
}

/// The answer to a machine that asks to be imaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// It is imaged under this order.
    Granted(Order),
    /// It waits until a person decides.
    Wait,
    /// The site images known machines only, and does not know this one.
    Unknown,
    /// Nothing is ordered for it.
    NoOrder,
    /// The order that applies was carried out on it: it is sent to its own disk.
    Done {
        /// The order's number.
        order: u64,
    },
}

impl OrderBook {
    /// Takes a verified order. The oldest makes room for the newest.
    pub fn add_order(&mut self, order: Order) {
        self.orders.insert(order.number, order);
        while self.orders.len() > ORDERS_MAX {
            self.orders.pop_first();
        }
    }

    /// A machine finished an order, or its disk says so. Returns whether that is news.
    pub fn complete(&mut self, machine: MachineId, order: u64) -> bool {
        if self.completed.len() >= COMPLETED_MACHINES_MAX && !self.completed.contains_key(&machine)
        {
            return false;
        }
        let done = self.completed.entry(machine).or_default();
        let news = done.insert(order);
        while done.len() > ORDERS_MAX {
            done.pop_first();
        }
        news
    }

    /// Orders by number.
    pub fn orders(&self) -> impl Iterator<Item = &Order> {
        self.orders.values()
    }

    /// An order.
    pub fn order(&self, number: u64) -> Option<&Order> {
        self.orders.get(&number)
    }

    /// Orders that a machine finished.
    pub fn completed(&self, machine: &MachineId) -> impl Iterator<Item = u64> {
        self.completed.get(machine).into_iter().flatten().copied()
    }

    /// Decides. `wish` restricts the orders to one version.
    ///
    /// The order with the highest number that applies counts. It is spent when this machine finished it; one that does
    /// not say *erase* is also spent by any finished version on the machine.
    pub fn admit(
        &self,
        machine: &MachineId,
        wish: Option<&Digest>,
        channel: &Channel,
    ) -> Admission {
        let applies = |order: &&Order| {
            order.site == channel.site
                && order.machine.is_none_or(|m| m == *machine)
                && wish.is_none_or(|w| *w == order.image)
        };
        let Some(order) = self.orders.values().rev().find(applies) else {
            return match self.knows(machine, channel) {
                true => Admission::NoOrder,
                false => Self::of_unknown(channel),
            };
        };
        let done = self.completed.get(machine);
        let spent = done.is_some_and(|d| match order.erase {
            true => d.contains(&order.number),
            false => !d.is_empty(),
        });
        if spent {
            return Admission::Done {
                order: order.number,
            };
        }
        match order.machine.is_some() || self.knows(machine, channel) {
            true => Admission::Granted(order.clone()),
            false => Self::of_unknown(channel),
        }
    }

    fn of_unknown(channel: &Channel) -> Admission {
        match channel.unknown {
            UnknownRule::Refuse => Admission::Unknown,
            UnknownRule::Wait | UnknownRule::Admit => Admission::Wait,
        }
    }

    fn knows(&self, machine: &MachineId, channel: &Channel) -> bool {
        channel.unknown == UnknownRule::Admit || channel.admitted.contains(machine)
    }
}

#[cfg(test)]
mod tests {
    use trust_format::{HqContact, SiteId};

    use super::*;

    const SITE: SiteId = SiteId([1; 16]);
    const TILL: MachineId = MachineId([2; 16]);
    const OTHER: MachineId = MachineId([3; 16]);
    const V1: Digest = Digest([1; 32]);
    const V2: Digest = Digest([2; 32]);

    fn channel(unknown: UnknownRule, admitted: &[MachineId]) -> Channel {
        Channel {
            site: SITE,
            site_name: String::new(),
            number: 1,
            image: None,
            bundle: None,
            release_floor: 0,
            revocation: 0,
            revoked: vec![],
            unknown,
            provisional: true,
            admitted: admitted.to_vec(),
            hq: HqContact {
                urls: vec![],
                fingerprint: [0; 32],
            },
        }
    }

    fn order(number: u64, image: Digest, machine: Option<MachineId>, erase: bool) -> Order {
        Order {
            site: SITE,
            number,
            image,
            machine,
            erase,
        }
    }

    fn book(orders: &[Order]) -> OrderBook {
        let mut book = OrderBook::default();
        orders.iter().for_each(|o| book.add_order(o.clone()));
        book
    }

    fn granted(admission: Admission) -> Option<u64> {
        match admission {
            Admission::Granted(order) => Some(order.number),
            _ => None,
        }
    }

    #[test]
    fn strangers_wait_unless_the_site_says_otherwise() {
        let book = book(&[order(1, V1, None, false)]);
        assert_eq!(
            book.admit(&TILL, None, &channel(UnknownRule::Wait, &[OTHER])),
            Admission::Wait
        );
        assert_eq!(
            granted(book.admit(&TILL, None, &channel(UnknownRule::Wait, &[TILL]))),
            Some(1)
        );
        assert_eq!(
            granted(book.admit(&TILL, None, &channel(UnknownRule::Admit, &[]))),
            Some(1)
        );
        assert_eq!(
            OrderBook::default().admit(&TILL, None, &channel(UnknownRule::Admit, &[])),
            Admission::NoOrder
        );
    }

    #[test]
    fn where_known_machines_only_are_imaged_others_are_sent_away() {
        let refuse = |admitted: &[MachineId]| channel(UnknownRule::Refuse, admitted);
        let all = book(&[order(1, V1, None, false)]);
        assert_eq!(
            all.admit(&TILL, None, &refuse(&[OTHER])),
            Admission::Unknown
        );
        assert_eq!(granted(all.admit(&TILL, None, &refuse(&[TILL]))), Some(1));
        let none = OrderBook::default();
        assert_eq!(none.admit(&TILL, None, &refuse(&[])), Admission::Unknown);
        // an order that names it makes it known
        let its = book(&[order(1, V1, Some(TILL), false)]);
        assert_eq!(granted(its.admit(&TILL, None, &refuse(&[]))), Some(1));
    }

    #[test]
    fn an_order_for_a_machine_is_its_admission() {
        let book = book(&[order(1, V1, Some(TILL), false)]);
        let wait = channel(UnknownRule::Wait, &[]);
        assert_eq!(granted(book.admit(&TILL, None, &wait)), Some(1));
        assert_eq!(book.admit(&OTHER, None, &wait), Admission::Wait);
    }

    #[test]
    fn an_order_is_spent_once_per_machine() {
        let mut book = book(&[order(1, V1, None, true)]);
        let admit = channel(UnknownRule::Admit, &[]);
        assert!(book.complete(TILL, 1) && !book.complete(TILL, 1));
        assert_eq!(
            book.admit(&TILL, None, &admit),
            Admission::Done { order: 1 }
        );
        assert_eq!(granted(book.admit(&OTHER, None, &admit)), Some(1));
        // replayed
        book.add_order(order(1, V1, None, true));
        assert_eq!(
            book.admit(&TILL, None, &admit),
            Admission::Done { order: 1 }
        );
    }

    #[test]
    fn a_finished_version_is_replaced_by_erase_alone() {
        let mut book = book(&[order(1, V1, None, false), order(2, V2, None, false)]);
        let admit = channel(UnknownRule::Admit, &[]);
        book.complete(TILL, 1);
        assert_eq!(
            book.admit(&TILL, None, &admit),
            Admission::Done { order: 2 }
        );
        book.add_order(order(3, V2, None, true));
        assert_eq!(granted(book.admit(&TILL, None, &admit)), Some(3));
        book.complete(TILL, 3);
        assert_eq!(
            book.admit(&TILL, None, &admit),
            Admission::Done { order: 3 }
        );
    }

    #[test]
    fn a_wish_restricts_and_another_sites_order_means_nothing() {
        let mut foreign = order(9, V1, None, true);
        foreign.site = SiteId([8; 16]);
        let book = book(&[
            order(1, V1, None, false),
            order(2, V2, None, false),
            foreign,
        ]);
        let admit = channel(UnknownRule::Admit, &[]);
        assert_eq!(granted(book.admit(&TILL, None, &admit)), Some(2));
        assert_eq!(granted(book.admit(&TILL, Some(&V1), &admit)), Some(1));
        assert_eq!(
            book.admit(&TILL, Some(&Digest([7; 32])), &admit),
            Admission::NoOrder
        );
    }
}
