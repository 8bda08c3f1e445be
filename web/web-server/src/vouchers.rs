//! Vouchers: the right of a node for a stick, a laptop or a spare machine, for so many machines.
//!
//! HQ sees a voucher's machines when they fetch, are confirmed, or have finished; how often a copy of it was used where HQ cannot
//! look, it learns then.

use std::sync::Arc;

use axum::{Extension, Json, extract::State, http::StatusCode};
use trust_format::{
    Grade, MachineId, NodeCertificate, PublicKey, SiteId, VOUCHER_MACHINES_MAX, Verified, Voucher,
};
use web_api::{Base64, NewVoucher, Page, VoucherInfo, VoucherMade};

use crate::{
    Hq,
    access::By,
    database::{
        Connection,
        events::{self, EventKind},
        machines, nodes,
        nodes::{NodeLife, NodeRecord, Origin},
        orders, unix_seconds, vouchers,
        vouchers::{VoucherFilter, VoucherSort},
    },
    error::{Refusal, random},
    input::{Input, Named, checked_name},
    listed::Listed,
    nodes::documents,
    sites,
};

/// Vouchers of one site that are not revoked; its nodes count no more.
const VOUCHERS_PER_SITE_MAX: u64 = 64;
/// Machines beyond what a voucher allows that are told apart.
const BEYOND_TOLD_MAX: u64 = 256;

pub(crate) async fn list(
    State(hq): State<Arc<Hq>>,
    Extension(by): Extension<By>,
    asked: Listed<VoucherSort, VoucherFilter>,
) -> Result<Json<Page<VoucherInfo>>, Refusal> {
    let mut db = hq.database.read().await?;
    let page = vouchers::page(&mut db, by.reach, &asked.filter, &asked.turn).await?;
    Ok(Json(page))
}

pub(crate) async fn create(
    State(hq): State<Arc<Hq>>,
    Extension(by): Extension<By>,
    Named(site): Named,
    Input(new): Input<NewVoucher>,
) -> Result<Json<VoucherMade>, Refusal> {
    let name = checked_name(&new.name, "a voucher's name")?.to_owned();
    if !(1..=VOUCHER_MACHINES_MAX).contains(&new.machines) {
        return Err(Refusal::bad(format!(
            "a voucher is for 1 to {VOUCHER_MACHINES_MAX} machines, not for {}",
            new.machines
        )));
    }
    let key = PublicKey(new.key.0);
    let mut change = hq.database.write_by(&by).await?;
    let site = sites::named(&mut change, by.reach, &site).await?;
    if nodes::find(&mut change, &key).await?.is_some() {
        return Err(Refusal::conflict("this key is a node's already"));
    }
    if vouchers::living(&mut change, site.id).await? >= VOUCHERS_PER_SITE_MAX {
        return Err(Refusal::conflict(format!(
            "the site has {VOUCHERS_PER_SITE_MAX} vouchers: revoke those that are used"
        )));
    }
    if let Some(order) = new.order
        && orders::find(&mut change, site.id, order).await?.is_none()
    {
        return Err(Refusal::missing(format!("order {order} of this site")));
    }
    let certificate = NodeCertificate {
        node: key,
        site: site.id,
        // whatever it is used on; no machine has this identity
        machine: MachineId(random()?),
        name,
        grade: Grade::Voucher {
            machines: new.machines,
            order: new.order,
        },
    };
    let signed: Verified<NodeCertificate> = hq.signer.certify(&certificate)?;
    let record = NodeRecord {
        key,
        site: site.id,
        name: certificate.name.clone(),
        machine: certificate.machine,
        certificate: signed.as_bytes().to_vec(),
        revoked: false,
        reports: 0,
        life: NodeLife::default(),
    };
    nodes::insert(&mut change, &record, Origin::Voucher, None).await?;
    vouchers::insert(&mut change, &key, new.machines, new.order, unix_seconds()).await?;
    let documents = documents(&mut change, hq.signer.roots(), site.id, &key).await?;
    let message = format!(
        "voucher {:?} ({}) was made for {} machines",
        record.name,
        key.short(),
        new.machines
    );
    events::add(&mut change, site.id, "HQ", EventKind::Node, &message).await?;
    change.says(format!("{message}, site {:?}", site.name));
    change.commit().await?;
    tracing::info!(
        site = site.name,
        voucher = key.short(),
        machines = new.machines,
        "voucher made"
    );
    Ok(Json(VoucherMade {
        site: site.name,
        certificate: Base64(record.certificate),
        documents,
    }))
}

/// A machine's right comes from a voucher. Returns whether it is one of those that the voucher allows; of one beyond, people are
/// told once.
pub(crate) async fn count(
    db: &mut Connection,
    site: SiteId,
    voucher: &Voucher,
    machine: MachineId,
) -> Result<bool, Refusal> {
    if let Some(beyond) = vouchers::is_beyond(db, &voucher.key, machine).await? {
        return Ok(!beyond);
    }
    let used = vouchers::count(db, &voucher.key, false).await?;
    let beyond = used >= u64::from(voucher.machines);
    if beyond {
        if vouchers::count(db, &voucher.key, true).await? >= BEYOND_TOLD_MAX {
            return Ok(false);
        }
        let message = format!(
            "voucher {} is for {} machines, and machine {machine} came with it as well: a copy of it may be in other hands; revoke it (nodes --revoke), or approve the machine if it is yours",
            voucher.key, voucher.machines
        );
        events::add(db, site, "HQ", EventKind::Trouble, &message).await?;
        tracing::warn!(voucher = voucher.key.short(), machine.id = %machine, "a voucher is overused");
    }
    vouchers::saw(db, &voucher.key, machine, beyond, unix_seconds()).await?;
    Ok(!beyond)
}

/// Refuses a machine that is beyond what its voucher allows, unless a person approved it. The refusal is `Ok`, because what was
/// counted is to be kept.
pub(crate) async fn admits(
    db: &mut Connection,
    site: SiteId,
    voucher: Option<Voucher>,
    machine: MachineId,
) -> Result<Option<Refusal>, Refusal> {
    let Some(voucher) = voucher else {
        return Ok(None);
    };
    if count(db, site, &voucher, machine).await? {
        return Ok(None);
    }
    let known = machines::find(db, site, machine).await?;
    if known.is_some_and(|m| m.approved) {
        return Ok(None);
    }
    Ok(Some(Refusal::new(
        StatusCode::FORBIDDEN,
        format!(
            "voucher {} has admitted as many machines as it may, {}; machine {machine} waits for a person",
            voucher.key.short(),
            voucher.machines
        ),
    )))
}
