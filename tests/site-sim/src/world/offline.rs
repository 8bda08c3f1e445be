//! A store without its WAN: it is switched off every night, loses a node, and images machines that come one after the other
//! and restart into their own system.
//!
//! Who is imaged is decided by the product's own order book, roster and PIN, and who is served by its tickets, out of documents that
//! the nodes had before the cut: half of the machines are known, and at the others somebody types the site's PIN.

use peer_cache_proto::{
    admission::{Admission, Applicant, OrderBook},
    beacon::TicketLife,
    machine::MachineFacts,
    pin::{PinCounter, PinGate, PinTally},
    recognition::{Recognised, recognise},
};
use trust_format::{
    Channel, Digest, HqContact, KnownMachine, Order, PinRule, Roster, SiteId, Ticket, UnknownRule,
    ticket_life,
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
/// One fewer than what locks the PIN: each is at another machine.
const WRONG_TRIES: u32 = PinRule::WRONG_TRIES_MAX - 1;

/// What the store's nodes learned while they reached HQ.
#[derive(Debug)]
pub(crate) struct Documents {
    channel: Channel,
    book: OrderBook,
    roster: Roster,
    rule: PinRule,
    /// What each node counted of the PIN, and which start of it that was.
    counted: BTreeMap<usize, (u64, PinCounter)>,
    wrong_tries: u32,
}

impl Documents {
    /// A standing order, half of the machines known, and a PIN for as many as the others are.
    pub(crate) fn new(plan: &Plan) -> Self {
        let machines = plan.nodes..plan.nodes + plan.agents;
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
            unknown: UnknownRule::Pin,
            provisional: true,
            hq: HqContact {
                urls: vec![],
                fingerprint: [0; 32],
            },
        };
        let known = machines.clone().filter(|member| is_known(*member));
        let mut known: Vec<KnownMachine> = known.filter_map(known_machine).collect();
        known.sort_unstable_by_key(|machine| machine.id);
        let unknown = machines.filter(|member| !is_known(*member)).count();
        let rule = PinRule {
            number: 1,
            uses: u16::try_from(unknown).unwrap_or(u16::MAX),
            life_hours: 0,
            salt: [0; 16],
            hash: [0; 32],
        };
        let roster = Roster {
            site: SITE,
            number: 1,
            machines: known,
            shared: vec![],
            pin: Some(rule.clone()),
        };
        Self {
            channel,
            book,
            roster,
            rule,
            counted: BTreeMap::new(),
            wrong_tries: 0,
        }
    }

    /// What a node knows of the PIN at this moment: what it kept over its last start, and what the others that are up told it.
    fn counter(&mut self, now: Duration, node: usize, up: &[(usize, u64)]) -> &mut PinCounter {
        let others: Vec<PinTally> = up
            .iter()
            .filter(|(other, _)| *other != node)
            .filter_map(|(other, _)| self.counted.get(other))
            .map(|(_, counter)| counter.tally().clone())
            .collect();
        let boot = up.iter().find(|(it, _)| *it == node).map_or(0, |(_, b)| *b);
        let kept = self.counted.remove(&node);
        let mut counter = match kept {
            Some((of, counter)) if of == boot => counter,
            Some((_, counter)) => PinCounter::resume(counter.tally().clone(), now),
            None => PinCounter::default(),
        };
        counter.handle_rule(now, Some(&self.rule));
        others.iter().for_each(|tally| {
            counter.handle_tally(tally);
        });
        &mut self.counted.entry(node).or_insert((boot, counter)).1
    }
}

fn is_known(member: usize) -> bool {
    member.is_multiple_of(2)
}

fn known_machine(member: usize) -> Option<KnownMachine> {
    let facts = facts(member);
    Some(KnownMachine {
        id: facts.id()?,
        approved: true,
        signs: [facts.strong_signs(), facts.mac_signs()].concat(),
        tpm: None,
        code: None,
    })
}

fn facts(member: usize) -> MachineFacts {
    let [a, b, ..] = (member as u64).to_le_bytes();
    let mut uuid = [0x5a; 16];
    uuid[..2].copy_from_slice(&[a, b]);
    let serial = format!("till-{member}");
    MachineFacts::new(Some(uuid), Some(&serial), &[[2, 0, 0, 0, a, b]], "till")
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
        let key = self.members[agent].key;
        let Some(who) = recognise(&facts(agent), None, &key, Some(&documents.roster)) else {
            return;
        };
        let decided = match self.decide(agent, who, false) {
            // another node has let it in
            Admission::Pin if self.members[agent].ticket.is_some() => return,
            Admission::Pin if self.is_right_pin(agent, node) => self.decide(agent, who, true),
            decided => decided,
        };
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
                machine: who.machine,
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

    fn decide(&self, agent: usize, who: Recognised, pin: bool) -> Admission {
        let Some(documents) = &self.documents else {
            return Admission::NoOrder;
        };
        let is_finished = self.members[agent].finished_at.is_some();
        let applicant = Applicant {
            pin,
            // as its disk says
            finished: if is_finished { &[ORDER] } else { &[] },
            ..Applicant::plain(who)
        };
        documents.book.admit(&applicant, &documents.channel)
    }

    /// Somebody types the PIN at a machine, wrong at first at some of them. Once it has admitted as many as it may, no node takes it.
    fn is_right_pin(&mut self, agent: usize, node: usize) -> bool {
        let (now, me) = (self.now, self.members[node].key);
        let is_up = |n: &usize| self.members[*n].is_alive;
        let up = (0..self.plan.nodes).filter(is_up);
        let up: Vec<(usize, u64)> = up.map(|n| (n, self.members[n].boot)).collect();
        let Some(documents) = &mut self.documents else {
            return false;
        };
        let rule = documents.rule.clone();
        let is_wrong = documents.wrong_tries < WRONG_TRIES;
        documents.wrong_tries += u32::from(is_wrong);
        let counter = documents.counter(now, node, &up);
        if is_wrong {
            counter.handle_try(me, rule.number, false);
        }
        let gate = counter.gate(now, Some(&rule));
        if gate != PinGate::Open {
            let what =
                format!("invariant_a_pin_admits_as_many_as_it_may: {agent} finds it {gate:?}");
            self.violation.get_or_insert(what);
            return false;
        }
        counter.handle_try(me, rule.number, true);
        let told = counter.tally().clone();
        for (other, _) in &up {
            documents.counter(now, *other, &up).handle_tally(&told);
        }
        true
    }

    /// At the end every node knows that the PIN is used up, whoever counted.
    pub(crate) fn invariant_the_pin_is_used_up(&mut self) {
        let now = self.now;
        let up: Vec<(usize, u64)> = (0..self.plan.nodes)
            .map(|n| (n, self.members[n].boot))
            .collect();
        let Some(documents) = &mut self.documents else {
            return;
        };
        let rule = documents.rule.clone();
        for (node, _) in &up {
            let gate = documents.counter(now, *node, &up).gate(now, Some(&rule));
            if gate != PinGate::UsedUp {
                let what = format!("invariant_the_pin_is_used_up: node {node} finds it {gate:?}");
                self.violation.get_or_insert(what);
            }
        }
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
