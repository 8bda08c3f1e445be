//! What happens in the peer cache, in the log and on its way to HQ.

use std::time::{Duration, Instant};

use peer_cache_node::{Event, PeerCache};
use peer_cache_origin::HqOrigin;
use tokio::sync::mpsc;
use trust_format::MachineId;
use web_api::{Base64, Hex, InstallReport, NodeReport};

use super::{enrol::to_facts, reports::Reports, versions::Versions};

/// A machine that waits is reported again after this long, and not each time it asks.
const WAITING_AGAIN_AFTER: Duration = Duration::from_secs(30);
/// Waiting machines that are remembered.
const WAITING_MAX: usize = 1024;

pub(crate) struct Journal {
    cache: PeerCache,
    reports: Reports,
    versions: Versions,
    origin: HqOrigin,
    /// By machine and the code on its screen.
    waiting: std::collections::BTreeMap<(MachineId, String), Instant>,
}

impl Journal {
    pub(crate) fn new(
        cache: PeerCache,
        reports: Reports,
        versions: Versions,
        origin: HqOrigin,
    ) -> Self {
        Self {
            cache,
            reports,
            versions,
            origin,
            waiting: std::collections::BTreeMap::new(),
        }
    }

    pub(crate) async fn run(mut self, mut events: mpsc::Receiver<Event>) {
        while let Some(event) = events.recv().await {
            self.handle(event);
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::PeerUp { key, address, node } => {
                tracing::info!(peer.id = %key.short(), %address, node, "connected")
            }
            Event::PeerGone { key } => tracing::info!(peer.id = %key.short(), "disconnected"),
            Event::Waiting {
                machine,
                code,
                facts,
                tpm,
            } => {
                let now = Instant::now();
                self.waiting
                    .retain(|_, since| now.duration_since(*since) < WAITING_AGAIN_AFTER);
                // started again it shows another code
                let screen = (machine, code.clone());
                if self.waiting.len() < WAITING_MAX && !self.waiting.contains_key(&screen) {
                    self.waiting.insert(screen, now);
                    tracing::info!(machine.id = %machine, code, "waits for approval");
                    let (machine, mut facts) = (Hex(machine.0), to_facts(&facts));
                    facts.code = Some(code);
                    facts.tpm = tpm.map(|tpm| Hex(tpm.0));
                    self.reports.add(NodeReport::Waiting { machine, facts });
                }
            }
            Event::Admitted {
                machine,
                facts,
                order,
                by_pin,
                tpm,
            } => {
                tracing::info!(machine.id = %machine, order, by_pin, "admitted");
                let (machine, mut facts) = (Hex(machine.0), to_facts(&facts));
                facts.tpm = tpm.map(|tpm| Hex(tpm.0));
                self.reports.add(NodeReport::Admitted {
                    machine,
                    facts,
                    order,
                    by_pin,
                });
            }
            Event::WrongPin { machine, is_locked } => {
                let at = machine.map_or_else(|| "a machine".into(), |m| format!("machine {m}"));
                let then = match is_locked {
                    true => "the PIN is locked: set a new one",
                    false => "it can be tried again",
                };
                tracing::warn!(is_locked, "wrong PIN at {at}");
                let message = format!("a wrong PIN was typed at {at}: {then}");
                self.reports.add(NodeReport::Trouble { message });
            }
            Event::VoucherOverused {
                key,
                allowed,
                machines,
            } => {
                let message = format!(
                    "voucher {key} is for {allowed} machines and was used for {machines}: a copy of it may be in other hands; revoke it (nodes --revoke) and see which machines are yours"
                );
                tracing::warn!(voucher = %key.short(), allowed, machines, "a voucher is overused");
                self.reports.add(NodeReport::Trouble { message });
            }
            Event::Report { machine, report } => {
                match serde_json::from_slice::<InstallReport>(&report) {
                    Ok(report) => self.reports.progress(Hex(machine.0), report),
                    Err(error) => {
                        tracing::info!(machine.id = %machine, %error, "a report that is none")
                    }
                }
            }
            Event::Learned(learned) => {
                for (machine, order) in &learned.completions {
                    tracing::info!(machine.id = %machine, order, "finished an order");
                    if let Some(document) = self.cache.site(|s| s.completion(machine, *order)) {
                        let document = Base64(document);
                        self.reports.add(NodeReport::Completion { document });
                    }
                }
                let contact = self.cache.site(|s| s.channel().map(|c| c.hq.clone()));
                if let Some(contact) = contact.filter(|_| learned.channel) {
                    self.origin.set_contact(contact);
                }
                self.versions.refresh();
            }
            Event::Complete { manifest, from } => {
                tracing::info!(image.version = %manifest, ?from, "a version is complete");
                self.reports.add(NodeReport::Holds {
                    version: Hex(manifest.0),
                    from,
                });
            }
            Event::ShareHere {
                manifest,
                chunks,
                of,
            } => {
                tracing::info!(image.version = %manifest, chunks, of, "this node's share of a version is here");
                let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
                self.reports.add(NodeReport::HoldsShare {
                    version: Hex(manifest.0),
                    chunks: count(chunks),
                    of: count(of),
                });
            }
            Event::Accused {
                key,
                address,
                chunk,
            } => {
                let chunk = chunk.map(|c| Hex(c.0));
                let (peer, address) = (Hex(key.0), address.to_string());
                self.reports.add(NodeReport::Accused {
                    peer,
                    address,
                    chunk,
                    to: None,
                });
            }
            Event::AccusedToUs { by, key, chunk } => {
                tracing::warn!(peer.id = %key.short(), by = %by.short(), "a neighbour says that it received wrong bytes");
                let peers = self.cache.peers();
                let peer = peers.iter().find(|p| p.key == key);
                let address = peer.map_or_else(
                    || "no address that is known here".into(),
                    |p| p.address.to_string(),
                );
                self.reports.add(NodeReport::Accused {
                    peer: Hex(key.0),
                    address,
                    chunk: chunk.map(|c| Hex(c.0)),
                    to: Some(Hex(by.0)),
                });
            }
            Event::OriginWrong { reason } => {
                let message =
                    format!("HQ sent an object that is not what was signed, twice: {reason}");
                self.reports.add(NodeReport::Trouble { message });
            }
            Event::KeepFailed { reason } => {
                self.reports.add(NodeReport::Trouble { message: reason });
            }
            // answers to an agent's questions; a node asks none
            Event::Admission { .. }
            | Event::Certificate { .. }
            | Event::NotCertified { .. }
            | Event::FetchesItself { .. }
            | Event::NodeIsBack { .. } => {}
        }
    }
}
