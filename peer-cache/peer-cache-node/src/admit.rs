//! Agents that ask to be imaged: the shell around `peer_cache_proto::{admission, recognition, pin, renewal}`.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use peer_cache_proto::{
    admission::{Admission, Applicant},
    machine::console_code,
    pin::PinGate,
    recognition::Recognised,
    voucher::{VoucherGate, spent_words},
    wire::{AdmissionAnswer, Credentials, Frame, TicketProof, VOUCHED_MAX},
};
use trust_format::{
    Channel, Grade, MachineId, NodeCertificate, Order, PublicKey, Ticket, UnknownRule, Verified,
    Voucher, peek, ticket_life,
};

use crate::{
    Event, Role,
    session::introduce,
    shared::{AdmittedAgent, Asking, Peer, Shared, Standing, lock},
    site::VouchedNews,
};

/// How long HQ has to certify a node before its neighbour does.
const CERTIFY_BY_HQ_WITHIN: Duration = Duration::from_secs(4);
/// An agent looks so often whether its ticket has to be renewed.
const RENEWAL_EVERY: Duration = Duration::from_secs(1);
/// What a disk said of itself is remembered for so long: until its machine has started again.
const DISK_SAYS_FOR: Duration = Duration::from_secs(300);
const DISKS_MAX: usize = 256;

/// Machines whose disks said a moment ago that there is nothing to do. For whoever answers their firmware, and for nothing
/// else: an agent can say it of any machine.
#[derive(Debug, Default)]
pub(crate) struct DisksSay(BTreeMap<MachineId, Instant>);

impl DisksSay {
    fn handle(&mut self, machine: MachineId) {
        self.0.retain(|_, since| since.elapsed() < DISK_SAYS_FOR);
        if self.0.len() < DISKS_MAX {
            self.0.insert(machine, Instant::now());
        }
    }

    pub(crate) fn done(&self, machine: &MachineId) -> bool {
        let since = self.0.get(machine);
        since.is_some_and(|since| since.elapsed() < DISK_SAYS_FOR)
    }
}

/// An agent asks: its PIN is checked, if it has one, and it is answered now and whenever the answer changes.
pub(crate) async fn handle_asking(
    shared: &Arc<Shared>,
    peer: &Arc<Peer>,
    mut asking: Asking,
    pin: Option<String>,
) {
    if let Some(pin) = pin {
        match check_pin(shared, peer, &asking, pin).await {
            Ok(()) => asking.pin = true,
            // it waits on, for another try or for a person at HQ
            Err(reason) => {
                *lock(&peer.waiting) = Some(asking);
                return peer.send(Frame::Admission(AdmissionAnswer::Pin { reason }));
            }
        }
    }
    *lock(&peer.waiting) = Some(asking);
    answer_waiting(shared, peer);
}

/// Whether this is the site's PIN. Each wrong try counts in the whole site.
async fn check_pin(
    shared: &Arc<Shared>,
    peer: &Peer,
    asking: &Asking,
    pin: String,
) -> Result<(), String> {
    if shared.role != Role::Node {
        return Err(PinGate::None.words().into());
    }
    // one after the other: each takes memory, and a try that is being checked may lock the next one out
    let checks = shared.pin_checks.clone();
    let Ok(turn) = checks.acquire_owned().await else {
        return Err(PinGate::None.words().into());
    };
    let rule = match shared.pin_gate() {
        (PinGate::Open, Some(rule)) => rule,
        (gate, _) => return Err(words_of(shared, gate).into()),
    };
    let number = rule.number;
    let checked = tokio::task::spawn_blocking(move || {
        let is_right = rule.is(&pin);
        drop(zeroize::Zeroizing::new(pin));
        is_right
    });
    let is_right = checked.await.unwrap_or(false);
    shared.pin_tried(number, is_right);
    drop(turn);
    tell_tally(shared, None);
    if is_right {
        return Ok(());
    }
    let gate = shared.pin_gate().0;
    let machine = lock(&shared.site).recognise(&asking.facts, asking.tpm.as_ref(), &peer.key);
    shared.emit(Event::WrongPin {
        machine: machine.map(|m| m.machine),
        is_locked: gate == PinGate::Locked,
    });
    Err(match gate {
        PinGate::Open if shared.has_voucher_pin() => {
            "this is not the voucher's PIN: try again".into()
        }
        PinGate::Open => "this is not the site's PIN: try again".into(),
        shut => words_of(shared, shut).into(),
    })
}

/// For the person at the machine: what is wrong with the PIN.
fn words_of(shared: &Shared, gate: PinGate) -> &'static str {
    match gate {
        PinGate::Locked if shared.has_voucher_pin() => {
            "too many wrong PINs: whoever opened the voucher opens it once more"
        }
        gate => gate.words(),
    }
}

/// Tells nodes which machines count under a voucher from now on, and the main which voucher is overused.
pub(crate) fn tell_vouched(shared: &Shared, news: VouchedNews, except: Option<&Peer>) {
    for (voucher, machines) in news.overused {
        shared.emit(Event::VoucherOverused {
            key: voucher.key,
            allowed: voucher.machines,
            machines,
        });
    }
    if news.fresh.is_empty() || shared.role != Role::Node {
        return;
    }
    for peer in shared.peers().iter().filter(|p| p.is_node()) {
        if except.is_none_or(|e| e.id != peer.id) {
            send_vouched(peer, &news.fresh);
        }
    }
}

/// In as many frames as it takes.
pub(crate) fn send_vouched(peer: &Peer, shown: &[Credentials]) {
    for some in shown.chunks(VOUCHED_MAX) {
        peer.send(Frame::Vouched(some.to_vec()));
    }
}

/// Tells nodes what is known of the PIN.
pub(crate) fn tell_tally(shared: &Shared, except: Option<&Peer>) {
    let tally = lock(&shared.site).pin_tally().clone();
    if tally.counts.is_empty() || shared.role != Role::Node {
        return;
    }
    for peer in shared.peers().iter().filter(|p| p.is_node()) {
        if except.is_none_or(|e| e.id != peer.id) {
            peer.send(Frame::PinTally(tally.clone()));
        }
    }
}

/// Answers an agent that asked to be admitted.
pub(crate) fn answer_waiting(shared: &Arc<Shared>, peer: &Arc<Peer>) {
    let Some(asking) = lock(&peer.waiting).clone() else {
        return;
    };
    let (answer, who) = shared.admit(peer, &asking);
    let machine = who.map(|who| who.machine);
    match &answer {
        AdmissionAnswer::Wait { .. } | AdmissionAnswer::NoOrder | AdmissionAnswer::Pin { .. } => {
            if let Some(machine) = machine {
                shared.emit(Event::Waiting {
                    machine,
                    code: console_code(&peer.key),
                    facts: asking.facts,
                    tpm: asking.tpm,
                });
            }
        }
        AdmissionAnswer::Granted { .. } => {
            *lock(&peer.waiting) = None;
            if let (Standing::Agent(agent), Some(machine)) = (peer.standing(), machine) {
                shared.emit(Event::Admitted {
                    machine,
                    facts: asking.facts,
                    order: agent.ticket.order,
                    by_pin: asking.pin,
                    tpm: asking.tpm,
                });
            }
        }
        AdmissionAnswer::Done { .. } => {
            *lock(&peer.waiting) = None;
            if let Some(machine) = machine.filter(|_| !asking.finished.is_empty()) {
                lock(&shared.disks_say).handle(machine);
            }
        }
        AdmissionAnswer::Refused { .. } | AdmissionAnswer::AskAgain { .. } => {
            *lock(&peer.waiting) = None;
        }
    }
    let granted = matches!(answer, AdmissionAnswer::Granted { .. });
    peer.send(Frame::Admission(answer));
    if granted {
        introduce(shared, peer);
    }
}

/// Keeps an agent's ticket alive.
pub(crate) async fn renew(shared: Arc<Shared>) {
    let mut every = tokio::time::interval(RENEWAL_EVERY);
    loop {
        every.tick().await;
        let nodes: Vec<_> = shared.peers().into_iter().filter(|p| p.is_node()).collect();
        let keys: Vec<PublicKey> = nodes.iter().map(|p| p.key).collect();
        let next = lock(&shared.renewal).handle_timeout(shared.now(), &keys);
        let asked = lock(&shared.asked).clone();
        if let (Some(key), Some(asked)) = (next, asked)
            && let Some(node) = nodes.iter().find(|p| p.key == key)
        {
            tracing::debug!(peer.id = %key.short(), "asks for its ticket to be renewed");
            node.send(asked.into_frame());
        }
    }
}

/// Whether a voucher is good for a machine under an order.
fn under(voucher: &Voucher, order: u64, gate: VoucherGate) -> Result<(), String> {
    match voucher.order {
        Some(allowed) if allowed != order => Err(format!(
            "voucher {} is for order {allowed}, and order {order} is the one that counts here: approve this machine at HQ",
            voucher.key.short()
        )),
        _ if gate == VoucherGate::Spent => Err(spent_words(voucher)),
        _ => Ok(()),
    }
}

fn wait(reason: String) -> AdmissionAnswer {
    AdmissionAnswer::Wait { reason }
}

/// What the person at the machine reads when it is not admitted.
fn in_words(admission: &Admission, machine: MachineId, channel: &Channel) -> AdmissionAnswer {
    let site = &channel.site_name;
    match admission {
        Admission::Wait => wait(format!(
            "machine {machine} is not known in {site}: approve it at HQ"
        )),
        Admission::Doubtful(doubt) => wait(format!(
            "machine {machine} of {site} is asked for, but {}: approve it at HQ by its code",
            doubt.words()
        )),
        Admission::EraseUnsure => wait(format!(
            "the order erases, and machine {machine} has too few signs to be sure of: approve it at HQ by its code"
        )),
        Admission::Pin => AdmissionAnswer::Pin {
            reason: format!(
                "machine {machine} is not known in {site}: type the site's PIN, or approve it at HQ"
            ),
        },
        Admission::Unknown => AdmissionAnswer::Refused {
            reason: format!(
                "{site} images machines that it knows, and machine {machine} is not among them"
            ),
        },
        Admission::NoOrder | Admission::Granted(_) => AdmissionAnswer::NoOrder,
        Admission::Done { order } => AdmissionAnswer::Done { order: *order },
    }
}

impl Shared {
    /// Answers an agent that asks to be imaged, and says which machine it is taken for.
    fn admit(&self, peer: &Peer, asking: &Asking) -> (AdmissionAnswer, Option<Recognised>) {
        let refused = |reason: &str| {
            let reason = reason.to_owned();
            (AdmissionAnswer::Refused { reason }, None)
        };
        let Credentials::Node {
            certificate,
            issuer,
        } = lock(&self.credentials).clone()
        else {
            return refused("an agent admits nobody");
        };
        let renewed = self.renewable(peer);
        let voucher = Voucher::behind(&certificate, issuer.as_deref());
        let site = lock(&self.site);
        let Some(who) = site.recognise(&asking.facts, asking.tpm.as_ref(), &peer.key) else {
            return refused("this machine has no UUID, no serial and no MAC address to know it by");
        };
        let Some(channel) = site.channel() else {
            return refused("this node has no channel yet");
        };
        let applicant = Applicant {
            who,
            pin: asking.pin,
            finished: &asking.finished,
            wish: asking.wish.as_ref(),
        };
        let admission = match renewed {
            Some((machine, order)) if machine == who.machine => Admission::Granted(order),
            _ => site.book().admit(&applicant, channel),
        };
        let Admission::Granted(order) = admission else {
            let by_person = matches!(admission, Admission::Doubtful(_) | Admission::EraseUnsure);
            let asks_for_pin = (by_person && channel.unknown == UnknownRule::Pin)
                || ((by_person || admission == Admission::Wait) && self.has_voucher_pin());
            let answer = match in_words(&admission, who.machine, channel) {
                AdmissionAnswer::Wait { reason } if asks_for_pin => {
                    let reason = match self.has_voucher_pin() {
                        true => format!("{reason}, or type the voucher's PIN"),
                        false => reason,
                    };
                    AdmissionAnswer::Pin { reason }
                }
                answer => answer,
            };
            return (answer, Some(who));
        };
        if let Some(voucher) = &voucher
            && let Err(reason) = under(
                voucher,
                order.number,
                site.voucher_gate(voucher, &who.machine),
            )
        {
            return (wait(reason), Some(who));
        }
        let Some(signed) = site.order(order.number).map(|o| o.as_bytes().to_vec()) else {
            return refused("the order is gone");
        };
        let ticket = Ticket {
            issuer: self.identity.public(),
            issuer_boot: self.boot,
            issued: self.now(),
            life: ticket_life::GIVEN,
            agent: peer.key,
            machine: who.machine,
            site: channel.site,
            order: order.number,
        };
        drop(site);
        let proof = TicketProof {
            ticket: self.identity.sign(&ticket),
            issuer: certificate,
            issuers_issuer: issuer,
        };
        if let Some(voucher) = &voucher {
            let shown = Credentials::Agent {
                ticket: Some(proof.clone()),
            };
            if let Err(reason) = self.count_machine(voucher, who.machine, &shown) {
                return (wait(reason), Some(who));
            }
        }
        (self.give(peer, proof, signed), Some(who))
    }

    /// The machine and order of a ticket that this agent had a moment ago, and that nothing speaks against.
    fn renewable(&self, peer: &Peer) -> Option<(MachineId, Order)> {
        let (Standing::Agent(agent) | Standing::Lapsed(agent)) = peer.standing() else {
            return None;
        };
        if self.is_revoked(&agent.right) {
            return None;
        }
        let (machine, number) = (agent.ticket.machine, agent.ticket.order);
        let site = lock(&self.site);
        let order = site.book().order(number)?.clone();
        let is_open = !site.book().completed(&machine).any(|n| n == number);
        is_open.then_some((machine, order))
    }

    fn give(&self, peer: &Peer, proof: TicketProof, order: Vec<u8>) -> AdmissionAnswer {
        let me = self.identity.public();
        let now = self.now();
        lock(&self.clocks).handle_reading(now, me, self.boot, now);
        if let Ok(ticket) = Verified::check_by(&proof.ticket, &me) {
            let issuers_issuer = proof
                .issuers_issuer
                .as_ref()
                .and_then(|bytes| peek::<NodeCertificate>(bytes).ok())
                .map(|certificate| certificate.node);
            let vouched_by = [Some(me), issuers_issuer].into_iter().flatten().collect();
            let agent = AdmittedAgent::new(ticket, vouched_by);
            self.set_standing(peer, Standing::Agent(Arc::new(agent)));
        }
        AdmissionAnswer::Granted { proof, order }
    }

    /// Certifies the node of a machine that an admitted agent images: HQ if it answers in time, else this node.
    pub(crate) async fn certify(&self, ticket: &Ticket, node: PublicKey) -> Frame {
        if let Some(origin) = &self.origin {
            let asked = origin.certify(node, ticket.machine, ticket.order);
            if let Ok(Some(certificate)) = tokio::time::timeout(CERTIFY_BY_HQ_WITHIN, asked).await {
                return Frame::Certificate {
                    certificate,
                    issuer: None,
                };
            }
        }
        let not = |reason: &str| Frame::NotCertified {
            reason: reason.into(),
        };
        let Credentials::Node {
            certificate,
            issuer: None,
        } = lock(&self.credentials).clone()
        else {
            return not("this node is certified provisionally itself and HQ cannot be reached");
        };
        let voucher = Voucher::behind(&certificate, None);
        let site = lock(&self.site);
        if let Some(voucher) = &voucher {
            let gate = site.voucher_gate(voucher, &ticket.machine);
            if let Err(reason) = under(voucher, ticket.order, gate) {
                return not(&reason);
            }
        }
        let Some(channel) = site.channel().filter(|c| c.provisional) else {
            return not("this site allows no provisional certificates and HQ cannot be reached");
        };
        let document = NodeCertificate {
            node,
            site: channel.site,
            machine: ticket.machine,
            name: format!("machine-{}", &ticket.machine.to_string()[..8]),
            grade: Grade::Provisional {
                issuer: self.identity.public(),
                order: ticket.order,
            },
        };
        drop(site);
        let (signed, issuer) = (self.identity.sign(&document), Some(certificate));
        if let Some(voucher) = &voucher {
            let shown = Credentials::Node {
                certificate: signed.clone(),
                issuer: issuer.clone(),
            };
            if let Err(reason) = self.count_machine(voucher, ticket.machine, &shown) {
                return not(&reason);
            }
        }
        Frame::Certificate {
            certificate: signed,
            issuer,
        }
    }
}
