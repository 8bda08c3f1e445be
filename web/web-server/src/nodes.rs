//! Nodes: enrolment, certificates, documents, revocation.

use std::sync::Arc;

use axum::{Extension, Json, extract::State, http::StatusCode};
use serde::Deserialize;
use trust_format::{
    CheckedNode, Grade, MachineId, NodeCertificate, PublicKey, SiteId, Verified, Voucher, peek,
};
use utoipa::IntoParams;
use web_api::{
    Base64, Certified, CertifyRequest, ConfirmRequest, EnrolRequest, Enrolled, Hex, NodeDocuments,
    NodeInfo, Page, SiteUnknown,
};

use crate::{
    Hq,
    access::{By, Node},
    database::{
        Connection,
        events::{self, EventKind},
        machines, nodes,
        nodes::{NodeFilter, NodeLife, NodeRecord, NodeSort, Origin},
        orders, replaced, tokens, unix_seconds,
    },
    error::Refusal,
    input::{Asked, Input, Named, checked_name},
    listed::Listed,
    rebuilt,
    reports::clip_facts,
    sites, vouchers,
};

const ORDERS_GIVEN_MAX: u32 = 1024;
const COMPLETIONS_GIVEN_MAX: u32 = 4096;
const PEERS_GIVEN_MAX: u32 = 256;

fn refused(sentence: impl Into<String>) -> Refusal {
    Refusal::new(StatusCode::FORBIDDEN, sentence)
}

pub(crate) async fn list(
    State(hq): State<Arc<Hq>>,
    Extension(by): Extension<By>,
    asked: Listed<NodeSort, NodeFilter>,
) -> Result<Json<Page<NodeInfo>>, Refusal> {
    let mut db = hq.database.read().await?;
    let page = nodes::page(&mut db, by.reach, &asked.filter, &asked.turn).await?;
    Ok(Json(page))
}

/// Of a node that HQ has not met.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct Revocation {
    /// Its site's identity, 32 hexadecimal digits.
    site: Option<String>,
}

pub(crate) async fn revoke(
    State(hq): State<Arc<Hq>>,
    Extension(by): Extension<By>,
    key: Named,
    Asked(asked): Asked<Revocation>,
) -> Result<Json<NodeInfo>, Refusal> {
    let key = PublicKey(
        key.parse::<Hex<32>>("node's key (64 hexadecimal digits)")?
            .0,
    );
    let mut change = hq.database.write_by(&by).await?;
    let what = format!("node {}", key.short());
    match (asked.site, nodes::find(&mut change, &key).await?) {
        (_, Some(node)) => by.check_site(&mut change, node.site, &what).await?,
        (Some(site), None) => {
            let site: SiteId = site.parse().map_err(Refusal::bad)?;
            by.check_site(&mut change, site, format!("site {site}"))
                .await?;
            let site = sites::of(&mut change, site).await?;
            forestall(&mut change, site.id, key).await?;
        }
        (None, None) => return Err(Refusal::missing(what)),
    }
    sites::revoke_node(&mut change, &hq, &key).await?;
    let info = nodes::info_of(&mut change, &key).await?;
    change.says(format!(
        "{what} revoked{}",
        info.as_ref().map_or_else(String::new, |i| format!(
            ", {:?} of site {:?}",
            i.name, i.site
        ))
    ));
    change.commit().await?;
    info.map(Json).ok_or_else(|| Refusal::missing(what))
}

/// A node that a neighbour certified while HQ was away, and that HQ has not met, is put down to be revoked.
async fn forestall(db: &mut Connection, site: SiteId, key: PublicKey) -> Result<(), Refusal> {
    let record = NodeRecord {
        key,
        site,
        name: format!("never met: {}", key.short()),
        machine: MachineId([0; 16]),
        certificate: Vec::new(),
        revoked: false,
        reports: 0,
        life: NodeLife::default(),
    };
    Ok(nodes::insert(db, &record, Origin::Forestalled, None).await?)
}

/// Everything that a node needs to know of its site.
pub(crate) async fn documents(
    db: &mut Connection,
    roots: Vec<Vec<u8>>,
    site: SiteId,
    node: &PublicKey,
) -> Result<NodeDocuments, Refusal> {
    let wrap = |documents: Vec<Vec<u8>>| documents.into_iter().map(Base64).collect();
    let record = sites::of(db, site).await?;
    if record.channel.is_empty() {
        return Err(Refusal::conflict(
            "the site's first channel waits for a signature: nobody can be told what the site means",
        ));
    }
    Ok(NodeDocuments {
        roots: wrap(roots),
        channel: Base64(record.channel),
        roster: Base64(record.roster),
        orders: wrap(orders::documents(db, site, ORDERS_GIVEN_MAX).await?),
        completions: wrap(machines::completions(db, site, COMPLETIONS_GIVEN_MAX).await?),
        peers: nodes::peers(db, site, node, PEERS_GIVEN_MAX).await?,
    })
}

pub(crate) async fn my_documents(
    State(hq): State<Arc<Hq>>,
    Extension(node): Extension<Node>,
) -> Result<Json<NodeDocuments>, Refusal> {
    let mut db = hq.database.read().await?;
    Ok(Json(
        documents(&mut db, hq.signer.roots(), node.site, &node.key).await?,
    ))
}

/// Certifies a key and remembers it.
async fn admit(
    db: &mut Connection,
    hq: &Hq,
    certificate: &NodeCertificate,
    origin: Origin,
    facts: Option<&web_api::Facts>,
) -> Result<Vec<u8>, Refusal> {
    let signed: Verified<NodeCertificate> = hq.signer.certify(certificate)?;
    let record = NodeRecord {
        key: certificate.node,
        site: certificate.site,
        name: certificate.name.clone(),
        machine: certificate.machine,
        certificate: signed.as_bytes().to_vec(),
        revoked: false,
        reports: 0,
        life: NodeLife::default(),
    };
    nodes::insert(db, &record, origin, facts).await?;
    tracing::info!(site = %record.site, node = record.key.short(), ?origin, "new node");
    Ok(record.certificate)
}

pub(crate) async fn enrol(
    State(hq): State<Arc<Hq>>,
    Extension(key): Extension<PublicKey>,
    Input(mut request): Input<EnrolRequest>,
) -> Result<Json<Enrolled>, Refusal> {
    let name = checked_name(&request.name, "a node's name")?.to_owned();
    clip_facts(&mut request.facts);
    let mut change = hq.database.write().await?;
    let token = tokens::by_hash(&mut change, &sites::secret_hash(&request.secret.0)).await?;
    let Some(token) = token else {
        return Err(refused(
            "this enrolment token is not known to this HQ; ask for a new one",
        ));
    };
    let known = nodes::find(&mut change, &key).await?;
    let certificate = match (token.used_by, &known) {
        (_, Some(node)) if node.revoked => return Err(refused("this node is revoked")),
        // the answer got lost: the same again
        (Some(by), Some(node)) if by == key => node.certificate.clone(),
        (Some(by), _) => {
            let refusal = second_use(&mut change, &hq, token.id, token.site, &by, &key).await?;
            change.commit().await?;
            return Err(refusal);
        }
        (None, Some(_)) => {
            return Err(Refusal::conflict(
                "this key is a node already; the token was not used",
            ));
        }
        (None, None) if token.revoked => {
            return Err(refused(
                "this enrolment token was revoked; ask for a new one",
            ));
        }
        (None, None) if token.expires <= unix_seconds() => {
            return Err(refused("this enrolment token is over; ask for a new one"));
        }
        (None, None) => {
            let old = rebuilt::given_up(&mut change, &token).await?;
            let machine = MachineId(request.machine.0);
            let name_before = old.as_ref().map(|o| o.name.clone());
            let certificate = NodeCertificate {
                node: key,
                site: token.site,
                machine: old.as_ref().map_or(machine, |o| o.machine),
                name: name_before.filter(|_| !request.is_named).unwrap_or(name),
                grade: Grade::Certified,
            };
            tokens::spend(&mut change, token.id, &key).await?;
            let facts = Some(&request.facts);
            let signed = admit(&mut change, &hq, &certificate, Origin::Enrolled, facts).await?;
            if let Some(old) = old {
                rebuilt::replace(&mut change, &hq, &old, &key).await?;
            }
            signed
        }
    };
    let documents = documents(&mut change, hq.signer.roots(), token.site, &key).await?;
    change.commit().await?;
    Ok(Json(Enrolled {
        certificate: Base64(certificate),
        documents,
    }))
}

/// Somebody has a copy of a token. Which of the two is the thief, HQ cannot know: neither is a node until a person decides.
async fn second_use(
    db: &mut Connection,
    hq: &Hq,
    token: u64,
    site: SiteId,
    first: &PublicKey,
    second: &PublicKey,
) -> Result<Refusal, Refusal> {
    tokens::freeze(db, token).await?;
    sites::revoke_node(db, hq, first).await?;
    let (first, second) = (first.short(), second.short());
    let message = format!(
        "enrolment token {token} was used by node {first} and again by key {second}: node {first} is frozen; find out who copied the token"
    );
    events::add(db, site, "HQ", EventKind::Trouble, &message).await?;
    tracing::warn!(token, first, second, "an enrolment token was used twice");
    Ok(refused(
        "this enrolment token was used before; the node that used it is frozen, and HQ's people are told",
    ))
}

/// The certificate of a node that HQ knows already.
fn again(node: &NodeRecord, site: SiteId, machine: MachineId) -> Result<Json<Certified>, Refusal> {
    if node.revoked {
        return Err(refused(format!("node {} is revoked", node.key.short())));
    }
    if node.site != site || node.machine != machine {
        let sentence = format!("key {} is a node on another machine", node.key.short());
        return Err(Refusal::conflict(sentence));
    }
    Ok(Json(Certified {
        certificate: Base64(node.certificate.clone()),
    }))
}

pub(crate) async fn confirm(
    State(hq): State<Arc<Hq>>,
    Extension(key): Extension<PublicKey>,
    Input(request): Input<ConfirmRequest>,
) -> Result<Json<Certified>, Refusal> {
    let claimed: NodeCertificate = peek(&request.certificate.0)?;
    let mut change = hq.database.write().await?;
    if let Some(node) = nodes::find(&mut change, &key).await? {
        return again(&node, claimed.site, claimed.machine);
    }
    let keys = &hq.signer.trusted();
    let site = sites::of(&mut change, claimed.site)
        .await
        .map_err(|_| refused("this certificate is for no site of this HQ"))?;
    let channel = Verified::check(&site.channel, keys)?;
    let checked = CheckedNode::check(
        &key,
        &request.certificate.0,
        Some(&request.issuer.0),
        keys,
        &channel,
    )
    .map_err(|e| refused(e.to_string()))?;
    let (Some(issuer), Grade::Provisional { order, .. }) =
        (checked.issuer(), &checked.certificate().grade)
    else {
        return Err(refused(
            "HQ signed this certificate and does not know the node any more; enrol it again",
        ));
    };
    let known = nodes::find(&mut change, &issuer.node).await?;
    if !known.is_some_and(|n| !n.revoked && n.site == site.id) {
        return Err(refused(format!(
            "node {}, which certified this one, is no node of the site",
            issuer.node.short()
        )));
    }
    let order = *order;
    applies(&mut change, site.id, order, claimed.machine).await?;
    let admits = vouchers::admits(&mut change, site.id, checked.voucher(), claimed.machine).await?;
    if let Some(refusal) = admits {
        change.commit().await?;
        return Err(refusal);
    }
    let before = replaced::name_on(&mut change, site.id, claimed.machine).await?;
    let certificate = NodeCertificate {
        grade: Grade::Certified,
        name: match before {
            Some(name) => name,
            None => checked_name(&claimed.name, "a node's name")?.to_owned(),
        },
        ..claimed
    };
    let origin = Origin::Confirmed { order };
    let signed = admit(&mut change, &hq, &certificate, origin, None).await?;
    change.commit().await?;
    Ok(Json(Certified {
        certificate: Base64(signed),
    }))
}

/// The machine that an order names, if it is an order of the site that may be carried out on this one.
pub(crate) async fn applies(
    db: &mut Connection,
    site: SiteId,
    order: u64,
    machine: MachineId,
) -> Result<Option<MachineId>, Refusal> {
    let found = orders::find(db, site, order).await?;
    match found {
        Some(order) if order.machine.is_none_or(|m| m == machine) => Ok(order.machine),
        Some(_) => Err(refused(format!("order {order} is for another machine"))),
        None => Err(refused(format!("the site has no order {order}"))),
    }
}

pub(crate) async fn certify(
    State(hq): State<Arc<Hq>>,
    Extension(node): Extension<Node>,
    Input(request): Input<CertifyRequest>,
) -> Result<Json<Certified>, Refusal> {
    let (new, machine) = (PublicKey(request.node.0), MachineId(request.machine.0));
    let mut change = hq.database.write().await?;
    if let Some(known) = nodes::find(&mut change, &new).await? {
        return again(&known, node.site, machine);
    }
    let asks = nodes::find(&mut change, &node.key).await?;
    if asks.is_some_and(|n| Voucher::behind(&n.certificate, None).is_some()) {
        return Err(refused(
            "a voucher certifies by itself; HQ confirms the node when it calls",
        ));
    }
    // the same rule by which a node admits; an order that names the machine admits it
    let named = applies(&mut change, node.site, request.order, machine).await?;
    let site = sites::of(&mut change, node.site).await?;
    // where a PIN admits, the node saw it typed
    let by_rule = matches!(site.unknown, SiteUnknown::Admit | SiteUnknown::Pin);
    if named.is_none() && !by_rule {
        let known = machines::find(&mut change, node.site, machine).await?;
        if !known.is_some_and(|m| m.approved) {
            return Err(refused(format!("machine {machine} is not approved")));
        }
    }
    // what people called it before it was imaged
    let before = replaced::name_on(&mut change, node.site, machine).await?;
    let certificate = NodeCertificate {
        node: new,
        site: node.site,
        machine,
        name: before.unwrap_or_else(|| format!("machine-{}", &machine.to_string()[..8])),
        grade: Grade::Certified,
    };
    let origin = Origin::Certified {
        order: request.order,
    };
    let signed = admit(&mut change, &hq, &certificate, origin, None).await?;
    change.commit().await?;
    Ok(Json(Certified {
        certificate: Base64(signed),
    }))
}
