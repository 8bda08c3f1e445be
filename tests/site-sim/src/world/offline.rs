//! A store without its WAN: it is switched off every night, loses a node, and images machines that come one after the other
//! and restart into their own system.
//!
//! Who is imaged is decided by the product's own order book, and who is served by its tickets, out of documents that the nodes
//! had before the cut.

use peer_cache_proto::{
    admission::{Admission, Applicant, OrderBook},
    beacon::TicketLife,
    recognition::{Recognised, Recognition},
};
use trust_format::{
    Channel, Digest, HqContact, MachineId, Order, SiteId, Ticket, UnknownRule, ticket_life,
};

use super::*;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// From its start until the store has the version and its WAN is cut.
const ONLINE: Duration = HOUR;
const CLOSES_AT: u32 = 22;
const DARK: Duration = Duration::from_secs(9 * 3600);
/// A machine that is switched on in the middle of the day is imaged within this time, and restarts.
const IMAGED_WITHIN: Duration = Duration::from_secs(120);
/// Of the last day, when a node with a new disk has had an hour.
const ENDS_AT: u32 = 11;
const SITE: SiteId = SiteId([9; 16]);
const ORDER: u64 = 1;

/// What the store's nodes learned while they reached HQ.
#[derive(Debug)]
pub(crate) struct Documents {
    channel: Channel,
    book: OrderBook,
}

impl Documents {
    /// A standing order for any machine that somebody switches on.
    pub(crate) fn new() -> Self {
        let mut book = OrderBook::default();
        book.add_order(Order {
            site: SITE,
            number: ORDER,
            image: Digest([7; 32]),
            machine: None,
            erase: false,
        });
        let channel = Channel {
            site: SITE,
            site_name: String::new(),
            number: 1,
            image: None,
            bundle: None,
            release_floor: 0,
            revocation: 0,
            revoked: vec![],
            unknown: UnknownRule::Admit,
            provisional: true,
            hq: HqContact {
                urls: vec![],
                fingerprint: [0; 32],
            },
        };
        Self { channel, book }
    }
}

fn machine(member: usize) -> MachineId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&(member as u64).to_le_bytes());
    MachineId(id)
}

impl World {
    /// The nodes first, the machines on days between the second and the last, each in the middle of the day.
    pub(crate) fn begin_offline(&mut self, days: u32) {
        for node in 0..self.plan.nodes {
            self.at(Duration::ZERO, Event::Back { member: node });
        }
        self.at(ONLINE, Event::Fault(Fault::WanCut { time: DAY * days }));
        for day in 0..days {
            for member in 0..self.members.len() {
                let night = Fault::Crash {
                    member,
                    back_after: DARK,
                    keeps_disk: true,
                };
                self.at(DAY * day + HOUR * CLOSES_AT, Event::Fault(night));
            }
        }
        let machines = u32::try_from(self.plan.agents).unwrap_or(u32::MAX);
        for n in 0..machines {
            let day = 1 + n * days.saturating_sub(2) / machines;
            let comes = DAY * day + HOUR * 12 + self.random.millis(0, 3_600_000);
            let member = self.plan.nodes + n as usize;
            self.at(comes, Event::Back { member });
            self.at(comes + IMAGED_WITHIN, Event::IsImaged { member });
            // somebody starts it from the network again: its order is spent
            self.at(comes + HOUR, Event::Back { member });
            self.at(comes + HOUR + IMAGED_WITHIN, Event::IsImaged { member });
        }
        // one node breaks down early, and a new disk is put into it on the last morning
        let broken = Fault::Crash {
            member: 0,
            back_after: DAY * days.saturating_sub(6),
            keeps_disk: false,
        };
        self.at(DAY * 5 + HOUR * 10, Event::Fault(broken));
        self.faults_end = DAY * days.saturating_sub(1) + HOUR * ENDS_AT;
    }

    /// A machine meets a node: admitted under the standing order, unless that is spent. A node that admitted it gives it a ticket.
    pub(crate) fn ask_admission(&mut self, agent: usize, node: usize) {
        let now = self.now;
        let Some(documents) = &self.documents else {
            return;
        };
        let is_finished = self.members[agent].finished_at.is_some();
        let applicant = Applicant {
            // as its disk says
            finished: if is_finished { &[ORDER] } else { &[] },
            ..Applicant::plain(Recognised {
                machine: machine(agent),
                recognition: Recognition::Newcomer,
                approved: false,
            })
        };
        let decided = documents.book.admit(&applicant, &documents.channel);
        let issuer = &self.members[node];
        let ticket = match decided {
            Admission::Granted(_) if self.members[agent].finished_at.is_some() => {
                let what =
                    format!("invariant_an_order_is_spent_once: {agent} gets a second ticket");
                self.violation.get_or_insert(what);
                None
            }
            Admission::Granted(order) => Some(Ticket {
                issuer: issuer.key,
                issuer_boot: issuer.boot,
                issued: now.saturating_sub(issuer.started),
                life: ticket_life::GIVEN,
                agent: self.members[agent].key,
                machine: machine(agent),
                site: SITE,
                order: order.number,
            }),
            Admission::Done { .. } => None,
            _ => {
                let what = format!("invariant_standing_orders_stand: {agent} is told to wait");
                self.violation.get_or_insert(what);
                None
            }
        };
        self.members[agent].ticket = ticket;
    }

    /// Whether `member` gives objects to the other end of a connection: to nodes, and to agents whose ticket holds by the
    /// member's own count.
    pub(crate) fn may_be_served(&mut self, member: usize, link: PeerId) -> bool {
        if self.documents.is_none() {
            return true;
        }
        let now = self.now;
        let Some(other) = self.members[member].links.get(&link).map(|l| l.other) else {
            return false;
        };
        if self.members[other].is_node {
            return true;
        }
        let Some(ticket) = self.members[other].ticket.clone() else {
            return false;
        };
        let life = self.members[member].clocks.judge(now, &ticket);
        matches!(life, TicketLife::Left(_))
    }

    /// A machine that was switched on some time ago is imaged, and starts its own system.
    pub(crate) fn restart_imaged(&mut self, member: usize) {
        self.invariant_imaged_in_time(member);
        self.silence(member);
        self.members[member].stop(true);
        self.forget_links_of(member);
    }

    fn invariant_imaged_in_time(&mut self, member: usize) {
        if !self.members[member].is_done() {
            let what = format!(
                "invariant_imaged_in_time: {member} holds {} of {} chunks",
                self.members[member].whole_chunks().len(),
                self.plan.chunks
            );
            self.violation.get_or_insert(what);
        }
    }
}
