//! Whether a machine is imaged, and under which order.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use trust_format::{Channel, Digest, MachineId, Order, PublicKey, Ticket, UnknownRule};

use crate::{
    beacon::{IssuerClocks, TicketLife},
    recognition::{Doubt, Recognised, Recognition},
};

/// Orders of one site that a node keeps; the highest numbers stay.
pub const ORDERS_MAX: usize = 1024;
/// Machines of one site whose completions a node keeps.
pub const COMPLETED_MACHINES_MAX: usize = 16_384;

/// The right of a peer, as its documents proved it when it greeted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Right {
    /// A node of the site.
    Node {
        /// Its own key, and that of the node that certified it.
        keys: Vec<PublicKey>,
    },
    /// An agent with a ticket.
    Agent {
        /// The ticket.
        ticket: Box<Ticket>,
        /// The node that signed it, and the one that certified that node.
        vouched_by: Vec<PublicKey>,
    },
}

impl Right {
    /// Whether the channel revokes one of those on whom it depends.
    pub fn is_revoked(&self, channel: Option<&Channel>) -> bool {
        let (Self::Node { keys }
        | Self::Agent {
            vouched_by: keys, ..
        }) = self;
        channel.is_some_and(|c| keys.iter().any(|key| c.revoked.contains(key)))
    }

    /// Whether bytes of objects may go to this peer, and its word on who holds what be believed. Asked anew each time: a
    /// ticket ends, and a key is revoked.
    pub fn holds(
        &self,
        now: Duration,
        clocks: &mut IssuerClocks,
        channel: Option<&Channel>,
    ) -> bool {
        let is_alive = match self {
            Self::Node { .. } => true,
            Self::Agent { ticket, .. } => {
                matches!(clocks.judge(now, ticket), TicketLife::Left(_))
            }
        };
        is_alive && !self.is_revoked(channel)
    }
}

/// What a node knows about its site's orders.
#[derive(Debug, Clone, Default)]
pub struct OrderBook {
    orders: BTreeMap<u64, Order>,
    completed: BTreeMap<MachineId, BTreeSet<u64>>,
}

/// An agent that asks to be imaged.
#[derive(Debug, Clone, Copy)]
pub struct Applicant<'a> {
    /// Which machine it runs on.
    pub who: Recognised,
    /// Whether the site's PIN was typed at it.
    pub pin: bool,
    /// Orders that the machine's own disk says are finished. It is believed for this agent and for no other: anybody can say
    /// so of any machine.
    pub finished: &'a [u64],
    /// Only this version.
    pub wish: Option<&'a Digest>,
}

impl Applicant<'_> {
    /// A machine of which nobody asks for more than what the site means for it.
    pub fn plain(who: Recognised) -> Self {
        Self {
            who,
            pin: false,
            finished: &[],
            wish: None,
        }
    }
}

/// The answer to a machine that asks to be imaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// It is imaged under this order.
    Granted(Order),
    /// It waits until a person decides.
    Wait,
    /// It waits until a person has looked at it: it may not be the machine that it names.
    Doubtful(Doubt),
    /// It waits until a person has looked at it: the order erases, and the machine has too few signs of its own.
    EraseUnsure,
    /// It waits until somebody types the site's PIN at it.
    Pin,
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

    /// Decides.
    ///
    /// The order with the highest number that applies counts. It is spent when this machine finished it; one that does
    /// not say *erase* is also spent by any finished version on the machine. An order that names the machine admits it, if
    /// it is that machine.
    pub fn admit(&self, applicant: &Applicant<'_>, channel: &Channel) -> Admission {
        let machine = &applicant.who.machine;
        let applies = |order: &&Order| {
            order.site == channel.site
                && order.machine.is_none_or(|m| m == *machine)
                && applicant.wish.is_none_or(|w| *w == order.image)
        };
        let may_enter =
            applicant.who.approved || applicant.pin || channel.unknown == UnknownRule::Admit;
        let Some(order) = self.orders.values().rev().find(applies) else {
            return match may_enter {
                true => Admission::NoOrder,
                false => Self::of_unknown(channel),
            };
        };
        if self.is_spent(order, applicant) {
            return Admission::Done {
                order: order.number,
            };
        }
        // who types the PIN stands before the machine
        if let Recognition::Doubtful(doubt) = applicant.who.recognition
            && !applicant.pin
        {
            return Admission::Doubtful(doubt);
        }
        if order.machine.is_none() && !may_enter {
            return Self::of_unknown(channel);
        }
        match order.erase && !applicant.pin && !applicant.who.recognition.may_erase() {
            true => Admission::EraseUnsure,
            false => Admission::Granted(order.clone()),
        }
    }

    fn is_spent(&self, order: &Order, applicant: &Applicant<'_>) -> bool {
        let done = self.completed.get(&applicant.who.machine);
        let all = || done.into_iter().flatten().chain(applicant.finished);
        match order.erase {
            true => all().any(|n| *n == order.number),
            false => all().next().is_some(),
        }
    }

    /// Whether orders or completions name a machine.
    pub fn has_heard_of(&self, machine: &MachineId) -> bool {
        self.completed.contains_key(machine)
            || self.orders.values().any(|o| o.machine == Some(*machine))
    }

    fn of_unknown(channel: &Channel) -> Admission {
        match channel.unknown {
            UnknownRule::Refuse => Admission::Unknown,
            UnknownRule::Pin => Admission::Pin,
            UnknownRule::Wait | UnknownRule::Admit => Admission::Wait,
        }
    }
}

#[cfg(test)]
mod tests;
