//! Machines whose rights come from a voucher, each with what it showed: kept with the site's documents, and told to its nodes.

use peer_cache_proto::{
    voucher::{VoucherGate, VoucherNews},
    wire::{Credentials, TicketProof},
};
use trust_format::{MachineId, NodeCertificate, PublicKey, Ticket, Voucher, check_ticket, peek};

use super::Site;

/// What came of hearing what machines showed.
#[derive(Debug, Default)]
pub(crate) struct VouchedNews {
    /// What counts from now on, to be told.
    pub(crate) fresh: Vec<Credentials>,
    /// Vouchers that were used for more machines than they allow, and for how many.
    pub(crate) overused: Vec<(Voucher, usize)>,
}

impl Site {
    /// Whether a voucher admits a machine.
    pub(crate) fn voucher_gate(&self, voucher: &Voucher, machine: &MachineId) -> VoucherGate {
        self.vouchers.gate(voucher, machine)
    }

    /// Machines that were heard of under a voucher.
    pub(crate) fn machines_of_voucher(&self, voucher: &PublicKey) -> usize {
        self.vouchers.machines(voucher)
    }

    /// A machine showed this, which comes from a voucher. The caller has verified it.
    pub(crate) fn count_machine(
        &mut self,
        voucher: &Voucher,
        machine: MachineId,
        shown: &Credentials,
        is_vouched_for: bool,
    ) -> VouchedNews {
        let mut news = VouchedNews::default();
        let what = self
            .vouchers
            .handle_machine(voucher, machine, is_vouched_for);
        if what == VoucherNews::Counted {
            let bytes = shown.to_bytes();
            self.persist(&file_name(&voucher.key, &machine), &bytes);
            self.vouched.insert((voucher.key, machine), bytes);
            news.fresh.push(shown.clone());
        }
        let machines = self.vouchers.machines(&voucher.key);
        if what != VoucherNews::None && machines > usize::from(voucher.machines) {
            news.overused.push((*voucher, machines));
        }
        news
    }

    /// A node tells what machines showed it. `teller` is the voucher that its own right comes from, if it comes from one.
    pub(crate) fn learn_vouched(
        &mut self,
        shown: &[Credentials],
        teller: Option<&PublicKey>,
    ) -> VouchedNews {
        let mut news = VouchedNews::default();
        for one in shown {
            // known ones cost no signature
            if claimed(one).is_some_and(|claim| self.vouched.contains_key(&claim)) {
                continue;
            }
            let Some((voucher, machine)) = self.check_vouched(one) else {
                continue;
            };
            let is_vouched_for = teller != Some(&voucher.key);
            let more = self.count_machine(&voucher, machine, one, is_vouched_for);
            news.fresh.extend(more.fresh);
            news.overused.extend(more.overused);
        }
        news
    }

    /// What machines showed, to be told.
    pub(crate) fn vouched(&self) -> Vec<Credentials> {
        let all = self.vouched.values();
        all.filter_map(|bytes| Credentials::from_bytes(bytes).ok())
            .collect()
    }

    /// Takes up what was kept. It counted once, whatever is full.
    pub(super) fn resume_vouched(&mut self, kept: &[Vec<u8>]) {
        for bytes in kept {
            let shown = Credentials::from_bytes(bytes).ok();
            // of a voucher that was revoked since nothing holds
            if let Some(shown) = shown
                && let Some((voucher, machine)) = self.check_vouched(&shown)
            {
                self.count_machine(&voucher, machine, &shown, true);
            }
        }
    }

    /// Writes it beside the other documents.
    pub(super) fn save_vouched(&self) {
        for ((voucher, machine), bytes) in &self.vouched {
            self.persist(&file_name(voucher, machine), bytes);
        }
    }

    /// Forgets what came from vouchers that are revoked.
    pub(super) fn drop_revoked_vouched(&mut self) {
        let Some(channel) = &self.channel else { return };
        let revoked = |voucher: &PublicKey| channel.revoked.contains(voucher);
        let all = self.vouched.keys().copied();
        channel
            .revoked
            .iter()
            .for_each(|key| self.vouchers.forget(key));
        let gone: Vec<_> = all.filter(|(voucher, _)| revoked(voucher)).collect();
        for (voucher, machine) in gone {
            self.vouched.remove(&(voucher, machine));
            self.unpersist(&file_name(&voucher, &machine));
        }
    }

    /// The voucher that something comes from, and the machine: when it holds.
    fn check_vouched(&self, shown: &Credentials) -> Option<(Voucher, MachineId)> {
        match shown {
            Credentials::Agent {
                ticket: Some(proof),
            } => {
                let claimed: Ticket = peek(&proof.ticket).ok()?;
                let above = proof.issuers_issuer.as_deref();
                let issuer = self
                    .check_node(&claimed.issuer, &proof.issuer, above)
                    .ok()?;
                let ticket = check_ticket(&proof.ticket, &claimed.agent, &issuer, self.id()?);
                Some((issuer.voucher()?, ticket.ok()?.machine))
            }
            Credentials::Node {
                certificate,
                issuer: Some(issuer),
            } => {
                let claimed: NodeCertificate = peek(certificate).ok()?;
                let node = self.check_node(&claimed.node, certificate, Some(issuer));
                Some((node.ok()?.voucher()?, claimed.machine))
            }
            // a voucher's own certificate admits no machine
            Credentials::Agent { ticket: None } | Credentials::Node { issuer: None, .. } => None,
        }
    }
}

/// What is said to come from which voucher; nothing of it is verified.
fn claimed(shown: &Credentials) -> Option<(PublicKey, MachineId)> {
    let node = |bytes: &[u8]| peek::<NodeCertificate>(bytes).ok();
    match shown {
        Credentials::Agent {
            ticket:
                Some(TicketProof {
                    ticket,
                    issuer,
                    issuers_issuer,
                }),
        } => {
            let voucher = node(issuers_issuer.as_ref().unwrap_or(issuer))?.node;
            Some((voucher, peek::<Ticket>(ticket).ok()?.machine))
        }
        Credentials::Node {
            certificate,
            issuer: Some(issuer),
        } => Some((node(issuer)?.node, node(certificate)?.machine)),
        Credentials::Agent { ticket: None } | Credentials::Node { issuer: None, .. } => None,
    }
}

fn file_name(voucher: &PublicKey, machine: &MachineId) -> String {
    format!("vouched/{voucher}-{machine}")
}
