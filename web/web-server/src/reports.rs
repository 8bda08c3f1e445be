//! What nodes report, stored once and in order.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{Extension, Json, extract::State};
use tokio::time::{Instant, timeout_at};
use trust_format::{MachineId, SiteId, Voucher, check_completion};
use web_api::{
    BESIDE_MAX, Facts, InstallReport, InstallState, LIFE_HELD_SECONDS, NodeReport, NumberedReport,
    REPORTS_MAX, ReportsAnswer, ReportsRequest,
};

use crate::{
    Hq,
    access::Node,
    beside,
    database::{
        Connection,
        events::{self, EventKind},
        machines,
        machines::MachineRecord,
        nodes,
        nodes::NodeRecord,
        orders,
        replaced::Arrival,
        rosters, unix_seconds,
    },
    error::Refusal,
    input::{Input, clip},
    rebuilt, sites,
    tls::ClientAddress,
    vouchers,
};

/// More machines of one site are not remembered: a node could invent them.
const MACHINES_PER_SITE_MAX: u64 = 32_768;
const TEXT_CHARS_MAX: usize = 256;
const MESSAGE_CHARS_MAX: usize = 1000;
const MACS_MAX: usize = 32;
const CODE_CHARS_MAX: usize = 16;
const SENDERS_MAX: usize = 64;

/// Keeps what a machine says of itself within bounds: refusing it would stop the node's reports for ever.
pub(crate) fn clip_facts(facts: &mut Facts) {
    clip(&mut facts.model, TEXT_CHARS_MAX);
    if let Some(serial) = &mut facts.serial {
        clip(serial, TEXT_CHARS_MAX);
    }
    if let Some(code) = &mut facts.code {
        clip(code, CODE_CHARS_MAX);
    }
    facts.macs.truncate(MACS_MAX);
}

/// The same for its install.
pub(crate) fn clip_install(report: &mut InstallReport) {
    clip(&mut report.message, MESSAGE_CHARS_MAX);
    clip_senders(&mut report.from);
}

fn clip_senders(from: &mut Vec<(String, u64)>) {
    from.truncate(SENDERS_MAX);
    for (name, _) in from {
        clip(name, TEXT_CHARS_MAX);
    }
}

pub(crate) async fn take(
    State(hq): State<Arc<Hq>>,
    Extension(node): Extension<Node>,
    Extension(ClientAddress(client)): Extension<ClientAddress>,
    Input(request): Input<ReportsRequest>,
) -> Result<Json<ReportsAnswer>, Refusal> {
    if request.reports.len() > REPORTS_MAX {
        return Err(Refusal::bad(format!(
            "more than {REPORTS_MAX} reports in one request"
        )));
    }
    if request.beside.len() > BESIDE_MAX {
        return Err(Refusal::bad(format!(
            "more than {BESIDE_MAX} nodes beside one"
        )));
    }
    if request
        .reports
        .iter()
        .any(|r| i64::try_from(r.number).is_err())
    {
        return Err(Refusal::bad(
            "a report's number is not one that a node counts up to",
        ));
    }
    let is_life = request.reports.is_empty();
    let is_progress = !is_life && hq.progress.take(&node, &request.reports);
    // before the first look, so that no change falls between
    let mut bell = hq.bells.documents.listen(node.site);
    let address = (request.peer_port != 0)
        .then(|| SocketAddr::new(client.ip().to_canonical(), request.peer_port).to_string());
    let address = address.as_deref();
    let last = request.reports.last().map(|report| report.number);
    // what is in boxes takes no room in a request that is held, of which there are as many as stores
    let quiet = match is_life || is_progress {
        true => Box::pin(hear(&hq, &node, address, last, !request.beside.is_empty())).await?,
        false => None,
    };
    let (stored, mut answer) = match quiet {
        Some(answer) => (answer.stored, answer),
        None => Box::pin(write(&hq, &node, address, &request.reports)).await?,
    };
    if !request.beside.is_empty() {
        answer.wanted = Box::pin(beside::hear(&hq, &node, &request.beside)).await?;
    }
    let until = Instant::now() + Duration::from_secs(LIFE_HELD_SECONDS);
    while is_life
        && request.known == Some(answer.standing)
        && !answer.certificate_waits
        && Instant::now() < until
    {
        if timeout_at(until, bell.changed()).await.is_ok() {
            let again = async { news(&mut *hq.database.read().await?, &node, stored).await };
            let wanted = answer.wanted;
            answer = ReportsAnswer {
                wanted,
                ..Box::pin(again).await?
            };
        }
    }
    Ok(Json(answer))
}

/// What a node is told of which nothing is to be written now but that it is there; its reports up to the last one are in good hands.
async fn hear(
    hq: &Hq,
    node: &Node,
    address: Option<&str>,
    last: Option<u64>,
    names_others: bool,
) -> Result<Option<ReportsAnswer>, Refusal> {
    let mut db = hq.database.read().await?;
    let call = nodes::call(&mut db, &node.key, address).await?;
    let Some(call) = call.filter(|call| call.is_settled) else {
        return Ok(None);
    };
    if !names_others {
        hq.signs_of_life.heard([node.key]);
    }
    let stored = last.unwrap_or(call.reports);
    Ok(Some(told(stored, &call)))
}

fn told(stored: u64, call: &nodes::Call) -> ReportsAnswer {
    ReportsAnswer {
        stored,
        standing: call.standing,
        certificate_waits: !call.certificate_taken,
        wanted: Vec::new(),
    }
}

/// Stores what is new of a node. Returns the number of its last stored report, and what it is told.
async fn write(
    hq: &Hq,
    node: &Node,
    address: Option<&str>,
    reports: &[NumberedReport],
) -> Result<(u64, ReportsAnswer), Refusal> {
    let mut change = hq.database.write().await?;
    let known = nodes::find(&mut change, &node.key).await?;
    let known = known.ok_or_else(|| Refusal::missing("this node"))?;
    let mut stored = known.reports;
    for numbered in reports {
        if numbered.number <= stored {
            continue;
        }
        stored = numbered.number;
        store(&mut change, hq, &known, numbered.report.clone()).await?;
    }
    called_home(&mut change, &known).await?;
    if known.life.seen == 0 && known.life.order > 0 {
        let arrival = Arrival {
            site: known.site,
            machine: known.machine,
            order: known.life.order,
            node: known.key,
            proven: false,
        };
        rebuilt::arrived(&mut change, &arrival).await?;
    }
    nodes::heard(&mut change, &node.key, unix_seconds(), address, stored).await?;
    let answer = news(&mut change, node, stored).await?;
    hq.progress.handle_writing(node, reports);
    change.commit().await?;
    hq.progress.handle_written(node, reports);
    Ok((stored, answer))
}

/// What a node is told.
async fn news(db: &mut Connection, node: &Node, stored: u64) -> Result<ReportsAnswer, Refusal> {
    let call = nodes::call(db, &node.key, None).await?;
    let call = call.ok_or_else(|| Refusal::missing("this node"))?;
    Ok(told(stored, &call))
}

async fn store(
    db: &mut Connection,
    hq: &Hq,
    node: &NodeRecord,
    report: NodeReport,
) -> Result<(), Refusal> {
    let site = node.site;
    match report {
        NodeReport::Waiting { machine, mut facts } => {
            clip_facts(&mut facts);
            waits(db, node, MachineId(machine.0), facts).await
        }
        NodeReport::Admitted {
            machine,
            mut facts,
            order,
            by_pin,
        } => {
            clip_facts(&mut facts);
            let id = MachineId(machine.0);
            if by_pin {
                let message = format!("machine {id} was admitted under order {order} by the PIN");
                events::add(db, site, &node.name, EventKind::Boot, &message).await?;
            }
            touch(db, site, id, |m| {
                m.facts = facts.clone();
                m.admitted = true;
            })
            .await?;
            if rosters::saw(db, site, id, &facts).await? {
                let mut record = sites::of(db, site).await?;
                sites::refresh(db, hq, &mut record).await?;
            }
            Ok(())
        }
        NodeReport::Install {
            machine,
            mut report,
        } => {
            clip_install(&mut report);
            touch(db, site, MachineId(machine.0), |m| m.install = Some(report)).await
        }
        NodeReport::Completion { document } => complete(db, hq, node, &document.0).await,
        NodeReport::Holds { version, mut from } => {
            clip_senders(&mut from);
            let from: Vec<_> = from
                .iter()
                .map(|(who, chunks)| format!("{chunks} from {who}"))
                .collect();
            let message = format!("holds version {version}: {} chunks", from.join(", "));
            Ok(events::add(db, site, &node.name, EventKind::Holds, &message).await?)
        }
        NodeReport::HoldsShare {
            version,
            chunks,
            of,
        } => {
            let message = format!("holds its share of version {version}: {chunks} of {of} chunks");
            Ok(events::add(db, site, &node.name, EventKind::Holds, &message).await?)
        }
        NodeReport::Accused {
            peer,
            address,
            chunk,
            to,
        } => {
            let chunk = chunk.map_or_else(|| "a chunk".to_owned(), |c| format!("chunk {c}"));
            let to = to.map_or_else(String::new, |to| format!(" to {to}, which says so,"));
            let message = format!("peer {peer} at {address} sent wrong bytes{to} for {chunk}");
            Ok(events::add(db, site, &node.name, EventKind::Accused, &message).await?)
        }
        NodeReport::Boot { mac, uuid, message } => {
            let uuid = uuid.map(|u| format!(", UUID {u}")).unwrap_or_default();
            let message = format!("MAC {mac}{uuid}: {message}");
            Ok(events::add(db, site, &node.name, EventKind::Boot, &message).await?)
        }
        NodeReport::Trouble { message } => {
            Ok(events::add(db, site, &node.name, EventKind::Trouble, &message).await?)
        }
    }
}

/// A machine that the site knows waits for a person only when it may be another one: people are told, once for each screen.
async fn waits(
    db: &mut Connection,
    node: &NodeRecord,
    id: MachineId,
    facts: Facts,
) -> Result<(), Refusal> {
    let known = machines::find(db, node.site, id).await?;
    let is_other = known.is_some_and(|m| {
        (m.approved || m.admitted) && m.facts.code != facts.code && !are_alike(&m.facts, &facts)
    });
    if is_other {
        let code = facts.code.as_deref().unwrap_or("none");
        let message = format!(
            "a machine with code {code} names itself {id}, and other signs of it are different: a new board, a copy, or two boards with one UUID; look at it, then approve it by its code, or let the UUID count for nobody (machine demote)"
        );
        events::add(db, node.site, &node.name, EventKind::Trouble, &message).await?;
    }
    touch(db, node.site, id, |m| m.facts = facts).await
}

/// Whether two sets of facts have two signs in common.
fn are_alike(a: &Facts, b: &Facts) -> bool {
    let (a, b) = (rosters::signs_of(a), rosters::signs_of(b));
    a.iter().filter(|sign| b.contains(sign)).count() > 1
}

/// Writes what is news of a machine, known or not.
async fn touch(
    db: &mut Connection,
    site: SiteId,
    id: MachineId,
    news: impl FnOnce(&mut MachineRecord) + Send,
) -> Result<(), Refusal> {
    let known = machines::find(db, site, id).await?;
    if known.is_none() && machines::count(db, site).await? >= MACHINES_PER_SITE_MAX {
        let message = format!(
            "machine {id} is not remembered: the site has {MACHINES_PER_SITE_MAX} machines already"
        );
        return Ok(events::add(db, site, "HQ", EventKind::Trouble, &message).await?);
    }
    let mut machine = known.unwrap_or_default();
    news(&mut machine);
    Ok(machines::put(db, site, id, &machine, unix_seconds()).await?)
}

/// Stores a proof that holds; of one that does not, people are told.
async fn complete(
    db: &mut Connection,
    hq: &Hq,
    node: &NodeRecord,
    document: &[u8],
) -> Result<(), Refusal> {
    let completion = match check_completion(document, &hq.signer.trusted(), node.site) {
        Ok(completion) => completion,
        Err(error) => {
            let message = format!("sent a completion that does not hold: {error}");
            return Ok(events::add(db, node.site, &node.name, EventKind::Trouble, &message).await?);
        }
    };
    let (machine, number) = (completion.machine, completion.order);
    let order = orders::find(db, node.site, number).await?;
    let fits = order
        .is_some_and(|o| o.image.0 == completion.image.0 && o.machine.is_none_or(|m| m == machine));
    if !fits {
        let message = format!("sent a completion of machine {machine} that fits no order {number}");
        return Ok(events::add(db, node.site, &node.name, EventKind::Trouble, &message).await?);
    }
    let above = completion.issuers_issuer.as_deref();
    if let Some(voucher) = Voucher::behind(&completion.issuer, above) {
        vouchers::count(db, node.site, &voucher, machine).await?;
    }
    touch(db, node.site, machine, |_| ()).await?;
    let is_news = machines::complete(db, node.site, &completion, document).await?;
    if let (true, Some(new)) = (is_news, completion.node) {
        let arrival = Arrival {
            site: node.site,
            machine,
            order: number,
            node: new,
            proven: true,
        };
        rebuilt::arrived(db, &arrival).await?;
    }
    Ok(())
}

/// The proof that an install worked: the node that was put on the disk calls from the machine's new system. The proof
/// of the order names that node, and is signed after the commit: it counts whatever the last report was, which may have
/// died with the node that had it.
async fn called_home(db: &mut Connection, node: &NodeRecord) -> Result<(), Refusal> {
    let Some(mut machine) = machines::find(db, node.site, node.machine).await? else {
        return Ok(());
    };
    let install = &mut machine.install;
    if install
        .as_ref()
        .is_some_and(|i| i.state == InstallState::Done)
    {
        return Ok(());
    }
    let Some(order) = machines::order_that_put(db, node.site, node.machine, node.key).await? else {
        return Ok(());
    };
    if install
        .as_ref()
        .and_then(|i| i.order)
        .is_some_and(|newer| newer > order)
    {
        return Ok(());
    }
    let install = install.get_or_insert_with(|| InstallReport {
        state: InstallState::Done,
        version: None,
        order: None,
        done_bytes: 0,
        total_bytes: 0,
        received_bytes: 0,
        from: Vec::new(),
        peer: None,
        message: String::new(),
    });
    install.order = Some(order);
    install.state = InstallState::Done;
    install.message = "the machine's node called home from its new system".to_owned();
    Ok(machines::put(db, node.site, node.machine, &machine, unix_seconds()).await?)
}
