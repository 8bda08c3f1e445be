//! Who lets this machine in, and who hears how it fares.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use peer_cache_node::{AdmissionWish, Event, PeerCache, tpm::Tpm};
use peer_cache_origin::HqOrigin;
use peer_cache_proto::{
    machine::console_code,
    tpm::TpmProof,
    wire::{AdmissionAnswer, Documents, TicketProof},
};
use tokio::sync::{mpsc, watch};
use trust_format::{Digest, MachineId, Order, PublicKey, Ticket, peek};
use web_api::{AgentTicket, Base64, Hex, InstallReport};

use crate::{
    install::{InstallOptions, NODE_WITHIN},
    pins::Pins,
    screen::say,
};

const REPORT_EVERY: Duration = Duration::from_millis(500);

/// A node said yes.
pub(crate) struct Admitted {
    pub(crate) node: PublicKey,
    pub(crate) order: Order,
    /// As the node knows this machine.
    pub(crate) machine: MachineId,
    pub(crate) proof: TicketProof,
}

/// The TPM's word that this agent runs on its machine. A machine without one is known by its other signs.
pub(crate) async fn prove(agent: PublicKey) -> Option<TpmProof> {
    let proved = tokio::task::spawn_blocking(move || {
        let mut tpm = Tpm::open().map_err(anyhow::Error::from)?;
        tpm.prove(&agent).map_err(anyhow::Error::from)
    });
    match proved.await {
        Ok(Ok(proof)) => {
            say("the TPM vouches for this machine");
            Some(proof)
        }
        Ok(Err(error)) => {
            tracing::info!(
                error = format!("{error:#}"),
                "no TPM vouches for this machine"
            );
            None
        }
        Err(_) => None,
    }
}

/// Asks every node that comes up until one admits this machine; nothing when its order is spent.
pub(crate) async fn be_admitted(
    cache: &PeerCache,
    origin: &HqOrigin,
    events: &mut mpsc::Receiver<Event>,
    options: &InstallOptions,
    finished: Vec<u64>,
    had_root: bool,
) -> Result<Option<Admitted>> {
    let wish = options
        .version
        .as_deref()
        .and_then(|v| v.parse::<Hex<32>>().ok())
        .map(|h| Digest(h.0));
    let ask = AdmissionWish {
        facts: options.facts.clone(),
        version: wish,
        finished,
        pin: None,
        tpm: options.tpm,
    };
    let deadline = tokio::time::sleep(NODE_WITHIN);
    tokio::pin!(deadline);
    let mut found = false;
    let mut asked_for_pin: Option<(PublicKey, Pins)> = None;
    loop {
        let event = tokio::select! {
            event = events.recv() => event.context("the peer cache ended")?,
            (by, pin) = typed(&mut asked_for_pin) => {
                say("the PIN is looked at");
                let pin = Some(pin.to_string());
                cache.ask_admission(&by, AdmissionWish { pin, ..ask.clone() });
                continue;
            }
            () = &mut deadline, if !found => bail!("no node was found within {} s: is one running here, and does the switch let beacons pass?", NODE_WITHIN.as_secs()),
        };
        match event {
            Event::PeerUp {
                key,
                address,
                node: true,
            } => {
                found = true;
                say(&format!("node {} at {}", key.short(), address.ip()));
                if !had_root {
                    let root = cache
                        .site(|s| s.keys().map(|k| k.root().digest().to_string()))
                        .unwrap_or_default();
                    say(&format!(
                        "trusts root {root} because this node showed it (no --root was given)"
                    ));
                }
                cache.ask_admission(&key, ask.clone());
            }
            Event::Admission { by, answer } => match answer {
                AdmissionAnswer::Granted { proof, order } => {
                    let learned = cache.learn(&Documents {
                        orders: vec![order.clone()],
                        ..Documents::default()
                    });
                    let document: Order = peek(&order).context("the order")?;
                    // learn() verified it, or has it already
                    if cache.site(|s| s.order(document.number).map(|o| (**o).clone()))
                        != Some(document.clone())
                    {
                        bail!("the order is refused: {}", learned.refused.join("; "));
                    }
                    check_wish(options.version.as_deref(), &document)?;
                    let machine = peek::<Ticket>(&proof.ticket).context("the ticket")?.machine;
                    take_ticket(cache, origin, proof.clone());
                    let at = cache
                        .peers()
                        .into_iter()
                        .find(|p| p.key == by)
                        .map(|p| p.address.ip().to_string());
                    say(&format!(
                        "admitted by {} at {} under order {}",
                        by.short(),
                        at.unwrap_or_default(),
                        document.number
                    ));
                    return Ok(Some(Admitted {
                        node: by,
                        order: document,
                        machine,
                        proof,
                    }));
                }
                AdmissionAnswer::Done { order } => {
                    say(&format!("nothing to do: order {order} is spent"));
                    return Ok(None);
                }
                AdmissionAnswer::Wait { reason } => {
                    anyhow::ensure!(options.wait, "not admitted: {reason}");
                    say(&format!("waiting: {reason}"));
                    say(&format!("code {}", console_code(&cache.key())));
                }
                AdmissionAnswer::NoOrder => {
                    anyhow::ensure!(options.wait, "nothing is ordered for this machine");
                    say("waiting: nothing is ordered for this machine yet");
                }
                AdmissionAnswer::Pin { reason } => {
                    anyhow::ensure!(
                        options.wait || options.pins.will_answer(asked_for_pin.is_some()),
                        "not admitted: {reason}"
                    );
                    say(&format!("waiting: {reason}"));
                    say(&format!("code {}", console_code(&cache.key())));
                    asked_for_pin = Some(match asked_for_pin {
                        Some((_, pins)) => (by, pins),
                        None => (by, options.pins.open()?),
                    });
                }
                // without a ticket there is none that could be void
                AdmissionAnswer::AskAgain { .. } => {}
                AdmissionAnswer::Refused { reason } => bail!("refused by the node: {reason}"),
            },
            _ => {}
        }
    }
}

/// The node that asked for the PIN last, and what was typed; never, while nobody asks.
async fn typed(asked: &mut Option<(PublicKey, Pins)>) -> (PublicKey, zeroize::Zeroizing<String>) {
    match asked {
        Some((by, pins)) => (*by, pins.next().await),
        None => std::future::pending().await,
    }
}

/// Shows a ticket to peers from now on, and to HQ when it is asked for something.
pub(crate) fn take_ticket(cache: &PeerCache, origin: &HqOrigin, proof: TicketProof) {
    know_hq(cache, origin);
    let shown = AgentTicket {
        ticket: Base64(proof.ticket.clone()),
        issuer: Base64(proof.issuer.clone()),
        issuers_issuer: proof.issuers_issuer.clone().map(Base64),
    };
    origin.set_ticket(shown);
    cache.set_ticket(proof);
}

/// HQ is where the channel says.
pub(crate) fn know_hq(cache: &PeerCache, origin: &HqOrigin) {
    if let Some(contact) = cache.site(|s| s.channel().map(|c| c.hq.clone())) {
        origin.set_contact(contact);
    }
}

fn check_wish(wish: Option<&str>, order: &Order) -> Result<()> {
    match wish {
        Some(wish) if !order.image.to_string().starts_with(&wish.to_lowercase()) => {
            bail!(
                "order {} is for version {}, not for {wish}",
                order.number,
                order.image
            )
        }
        _ => Ok(()),
    }
}

/// Tells the node, which tells HQ. The newest counts; what lies between is not news.
pub(crate) async fn send_reports(
    cache: PeerCache,
    node: PublicKey,
    mut reports: watch::Receiver<InstallReport>,
) {
    let mut every = tokio::time::interval(REPORT_EVERY);
    loop {
        every.tick().await;
        if reports.changed().await.is_err() {
            return;
        }
        let bytes = serde_json::to_vec(&*reports.borrow_and_update()).unwrap_or_default();
        let peers = cache.peers();
        // the node that admitted us, or any other when it is gone
        let to = peers
            .iter()
            .find(|p| p.key == node)
            .or_else(|| peers.iter().find(|p| p.node));
        if let Some(peer) = to {
            cache.report(&peer.key, bytes);
        }
    }
}
