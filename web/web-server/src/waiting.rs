//! What waits for a signature by a key that HQ does not hold: versions, channels, orders. It is taken away, signed, and brought back.
//!
//! Until it comes back, nothing of it counts: no node is told, and what was signed before holds on.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use image_format::Manifest;
use image_store::{Parcel, ReadParcelError, SignDocumentError, merge_signatures, unsigned};
use trust_format::{
    Channel, Digest, Order, PublicKey, SignerRole, SiteId, Verified, peek, peek_envelope,
};
use web_api::{Hex, ImageVersion, OrderInfo, SiteInfo, Waiting};

use crate::{
    Hq,
    access::By,
    bell::News,
    database::{
        Connection, living, orders, sites as site_table, sites::SiteRecord, waiting as table,
    },
    error::Refusal,
    images,
    input::{Named, Raw},
    roots, rosters, sites,
};

/// Orders of a site that are signed anew: as many as a node is given.
const ORDERS_AGAIN_MAX: u32 = 1024;

pub(crate) use table::{highest_order, highest_release};

/// Signs a site's new channel, or lets it wait under the next number. `holds` says that the signed one says the same already.
pub(crate) async fn sign_channel(
    db: &mut Connection,
    hq: &Hq,
    site: &mut SiteRecord,
    mut channel: Channel,
    holds: bool,
) -> Result<(), Refusal> {
    let waiting = table::channel(db, site.id).await?;
    let waiting: Option<Channel> = waiting.as_deref().map(peek).transpose()?;
    let number = |n| Channel {
        number: n,
        ..channel.clone()
    };
    let waits_already = waiting.is_some_and(|old| number(old.number) == old);
    if holds && !waits_already {
        // one that waits says what the site does not mean any more
        table::forget_channel(db, site.id).await?;
        return Ok(());
    }
    if waits_already && !hq.signer.can_sign(SignerRole::Order) {
        return Ok(());
    }
    let given = table::channel_given(db, site.id).await?;
    channel.number = given.max(site.channel_number) + 1;
    match hq.signer.sign_channel(&channel) {
        Ok(signed) => {
            table::forget_channel(db, site.id).await?;
            site.channel_number = channel.number;
            site.channel = signed.as_bytes().to_vec();
        }
        Err(SignDocumentError::NotHeld { .. }) => {
            table::put_channel(db, site.id, channel.number, &readable(&channel)?).await?;
            tracing::info!(
                site = site.name,
                number = channel.number,
                "a channel waits for a signature"
            );
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// Every site's channel gets its next number though it says the same: nodes that hear of a higher number ask for all documents, and the
/// new root is among them. Once for each root, also when HQ ended in between.
async fn tell_sites(db: &mut Connection, hq: &Hq) -> Result<(), Refusal> {
    let present = hq.signer.trusted().root().digest();
    let told = table::replace_told_root(db, &present).await?;
    if told.is_none_or(|told| told == present.to_string()) {
        return Ok(());
    }
    for id in site_table::ids(db).await? {
        let mut site = sites::of(db, id).await?;
        // a site whose first channel waits has no node yet; where one waits, the next number comes with it
        let waits = table::channel(db, id).await?.is_some();
        if site.channel.is_empty() || waits && !hq.signer.can_sign(SignerRole::Order) {
            continue;
        }
        let channel: Channel = peek(&site.channel)?;
        sign_channel(db, hq, &mut site, channel, false).await?;
        rosters::refresh(db, hq, &mut site).await?;
        site_table::update(db, &site).await?;
    }
    Ok(())
}

/// An envelope without a signature, of a document that others can read.
fn readable<T: trust_format::Document>(document: &T) -> Result<Vec<u8>, Refusal> {
    let bytes = unsigned(document);
    peek::<T>(&bytes)?;
    Ok(bytes)
}

/// Signs an order and gives it out, or lets it wait. Returns whether it waits.
pub(crate) async fn sign_order(
    db: &mut Connection,
    hq: &Hq,
    order: &Order,
) -> Result<bool, Refusal> {
    match hq.signer.sign_order(order) {
        Ok(signed) => {
            orders::insert(db, order, signed.as_bytes()).await?;
            Ok(false)
        }
        Err(SignDocumentError::NotHeld { .. }) => {
            table::insert_order(db, order, &readable(order)?).await?;
            Ok(true)
        }
        Err(error) => Err(error.into()),
    }
}

/// Keeps a version that waits.
pub(crate) async fn keep_image(
    hq: &Hq,
    by: &By,
    manifest: Manifest,
) -> Result<ImageVersion, Refusal> {
    // what nobody could read back is refused now, not when it comes back signed
    let (manifest, checked) = tokio::task::spawn_blocking(move || {
        let checked = readable(&manifest);
        (manifest, checked)
    })
    .await
    .map_err(|e| Refusal::failed(&e))?;
    checked?;
    let digest = hq
        .store
        .put_unsigned(&manifest)
        .await
        .map_err(images::put_first)?;
    let image = ImageVersion {
        waiting: true,
        ..images::version_of(&manifest, digest)
    };
    let mut change = hq.database.write_by(by).await?;
    change.says(format!(
        "version {} of {:?} waits for a signature, release {}",
        image.version, image.name, image.release
    ));
    table::insert_image(&mut change, &image).await?;
    change.commit().await?;
    tracing::info!(name = image.name, image.release, version = %image.version, "a version waits for a signature");
    Ok(image)
}

async fn sign_image(hq: &Arc<Hq>, image: &ImageVersion) -> Result<(), Refusal> {
    let digest = Digest(image.version.0);
    let bytes = hq.store.unsigned(&digest).await?;
    let signer = hq.clone();
    let work = tokio::task::spawn_blocking(move || {
        Ok::<_, Refusal>(signer.signer.sign_manifest(&peek(&bytes)?)?)
    });
    let signed = work.await.map_err(|e| Refusal::failed(&e))??;
    images::list_signed(hq, None, &signed).await?;
    hq.store.forget_unsigned(&digest).await?;
    Ok(())
}

/// Signs what waits and can be signed with the keys that are here now; then every channel says what its site means.
pub(crate) async fn catch_up(hq: &Arc<Hq>) -> Result<(), Refusal> {
    if hq.signer.can_sign(SignerRole::Image) {
        let waiting = table::images(&mut *hq.database.read().await?).await?;
        for image in waiting.into_iter().rev() {
            // one that cannot be published must not keep HQ from starting
            if let Err(error) = sign_image(hq, &image).await {
                tracing::error!(%error, version = %image.version, "a version that waited cannot be published");
            }
        }
    }
    let mut change = hq.database.write().await?;
    if hq.signer.can_sign(SignerRole::Order) {
        for document in table::orders(&mut change, None).await? {
            let order: Order = peek(&document)?;
            sign_order(&mut change, hq, &order).await?;
            table::forget_order(&mut change, &order).await?;
        }
    }
    tell_sites(&mut change, hq).await?;
    change.commit().await?;
    sites::refresh_all(hq).await
}

/// The same while no other HQ does it.
pub(crate) async fn catch_up_alone(hq: &Arc<Hq>) -> Result<(), Refusal> {
    let _alone = roots::alone(hq).await?;
    catch_up(hq).await
}

/// Why a version is not there: it may wait.
pub(crate) async fn missing_version(db: &mut Connection, text: &str) -> Result<Refusal, Refusal> {
    let digits = text.to_ascii_lowercase();
    let waiting = table::images(db).await?;
    let found = waiting.iter().find(|image| {
        image.name == text || !digits.is_empty() && image.version.to_string().starts_with(&digits)
    });
    Ok(match found {
        None => Refusal::missing(format!("version {text:?}")),
        Some(image) => Refusal::conflict(format!(
            "version {} of {:?} waits for a signature by an image key",
            image.version, image.name
        )),
    })
}

pub(crate) async fn list(State(hq): State<Arc<Hq>>) -> Result<Json<Waiting>, Refusal> {
    let mut db = hq.database.read().await?;
    let mut waiting = Waiting {
        images: table::images(&mut db).await?,
        channels: table::channels(&mut db).await?,
        orders: Vec::new(),
    };
    for document in table::orders(&mut db, None).await? {
        let order: Order = peek(&document)?;
        let version = Hex(order.image.0);
        let name = table::name_of_version(&mut db, &version).await?;
        waiting.orders.push(OrderInfo {
            site: sites::of(&mut db, order.site).await?.name,
            number: order.number,
            version,
            name: name.unwrap_or_default(),
            machine: order.machine.map(|m| Hex(m.0)),
            erase: order.erase,
            completed: 0,
            waiting: true,
        });
    }
    Ok(Json(waiting))
}

fn file(bytes: impl Into<axum::body::Body>) -> Response {
    let kind = HeaderValue::from_static("application/octet-stream");
    ([(header::CONTENT_TYPE, kind)], bytes.into()).into_response()
}

/// A waiting version: its digest, or a beginning or name that fits one.
async fn find_image(hq: &Hq, text: &str) -> Result<ImageVersion, Refusal> {
    let digits = text.to_ascii_lowercase();
    let mut waiting = table::images(&mut *hq.database.read().await?).await?;
    waiting.retain(|i| i.name == text || i.version.to_string().starts_with(&digits));
    match waiting.len() {
        0 => Err(Refusal::missing(format!("a version {text:?} that waits"))),
        1 => Ok(waiting.remove(0)),
        several => Err(Refusal::conflict(format!(
            "{several} versions that wait fit {text:?}: give its digest"
        ))),
    }
}

pub(crate) async fn image(
    State(hq): State<Arc<Hq>>,
    Named(text): Named,
) -> Result<Response, Refusal> {
    let image = find_image(&hq, &text).await?;
    Ok(file(hq.store.unsigned(&Digest(image.version.0)).await?))
}

pub(crate) async fn discard_image(
    State(hq): State<Arc<Hq>>,
    Extension(by): Extension<By>,
    Named(text): Named,
) -> Result<Json<ImageVersion>, Refusal> {
    let image = find_image(&hq, &text).await?;
    let mut change = hq.database.write_by(&by).await?;
    change.says(format!(
        "version {} of {:?} discarded, which waited for a signature",
        image.version, image.name
    ));
    table::forget_image(&mut change, &image.version).await?;
    change.commit().await?;
    hq.store.forget_unsigned(&Digest(image.version.0)).await?;
    Ok(Json(image))
}

/// A signed manifest comes back: one that waited is published, one that is published already may have another key's signature now.
pub(crate) async fn publish_image(
    State(hq): State<Arc<Hq>>,
    Extension(by): Extension<By>,
    Raw(body): Raw,
) -> Result<Json<ImageVersion>, Refusal> {
    let _alone = roots::alone(&hq).await?;
    let keys = hq.signer.trusted();
    let work = tokio::task::spawn_blocking(move || {
        Verified::<Manifest>::check(&body, &keys)
            .map_err(|error| unsigned_by(&error, &keys, SignerRole::Image))?;
        merged::<Manifest>(&keys, &body, &body)
    });
    let signed = work.await.map_err(|e| Refusal::failed(&e))??;
    let digest = signed.digest();
    let version = Hex(digest.0);
    let mut db = hq.database.read().await?;
    let waits = table::images(&mut db)
        .await?
        .iter()
        .any(|i| i.version == version);
    let published = table::name_of_version(&mut db, &version).await?.is_some();
    drop(db);
    if waits {
        let image = images::list_signed(&hq, Some(&by), &signed).await?;
        hq.store.forget_unsigned(&digest).await?;
        return Ok(Json(image));
    }
    if !published {
        return Err(Refusal::conflict(format!(
            "version {version} of {:?} does not wait for a signature here: import the image first",
            signed.name
        )));
    }
    let known = hq.store.manifest(&digest).await?;
    let keys = hq.signer.trusted();
    let work =
        tokio::task::spawn_blocking(move || merged::<Manifest>(&keys, &known, signed.as_bytes()));
    let signed = work.await.map_err(|e| Refusal::failed(&e))??;
    hq.store.put_manifest(&signed).await?;
    let mut change = hq.database.write_by(&by).await?;
    change.says(format!(
        "version {version} of {:?} has another key's signature too",
        signed.name
    ));
    let image = images::resolve(&mut change, &version.to_string()).await?;
    change.commit().await?;
    Ok(Json(image))
}

/// Who should have signed, when nobody of them did.
fn unsigned_by(
    error: &trust_format::VerifyDocumentError,
    keys: &trust_format::TrustedKeys,
    role: SignerRole,
) -> Refusal {
    let mut sentence = error.to_string();
    if let trust_format::VerifyDocumentError::NotSigned { .. } = error {
        let named: Vec<String> = keys
            .of_role(role)
            .iter()
            .map(PublicKey::to_string)
            .collect();
        sentence += &format!("; root {} names {}", keys.root().number, named.join(", "));
    }
    Refusal::bad(sentence)
}

/// What comes back, with the signatures that HQ has on the same document already: of keys that the root names, no others.
fn merged<T: trust_format::Document>(
    keys: &trust_format::TrustedKeys,
    known: &[u8],
    new: &[u8],
) -> Result<Verified<T>, Refusal> {
    let bytes = merge_signatures::<T>([new, known], keys.of_role(T::SIGNER))?;
    Ok(Verified::check(&bytes, keys)?)
}

/// What waits of a site, as a parcel.
async fn parcel(
    db: &mut Connection,
    site: &SiteRecord,
    orders: Vec<Vec<u8>>,
) -> Result<Response, Refusal> {
    let channel = table::channel(db, site.id).await?;
    match Parcel::new(channel, orders) {
        Ok(parcel) => Ok(file(parcel.to_bytes())),
        Err(ReadParcelError::Empty) => Err(Refusal::new(
            StatusCode::NOT_FOUND,
            format!("nothing of site {:?} waits for a signature", site.name),
        )),
        Err(error) => Err(Refusal::failed(&error)),
    }
}

pub(crate) async fn site(
    State(hq): State<Arc<Hq>>,
    Extension(by): Extension<By>,
    Named(name): Named,
) -> Result<Response, Refusal> {
    let mut db = hq.database.read().await?;
    let site = sites::named(&mut db, by.reach, &name).await?;
    let mut orders = table::orders(&mut db, Some(site.id)).await?;
    orders.truncate(image_store::PARCEL_ORDERS_MAX);
    parcel(&mut db, &site, orders).await
}

/// The same with everything that the site is told already, to be signed by another key: the channel under its next number.
pub(crate) async fn site_again(
    State(hq): State<Arc<Hq>>,
    Extension(by): Extension<By>,
    Named(name): Named,
) -> Result<Response, Refusal> {
    let mut change = hq.database.write_by(&by).await?;
    change.says(format!(
        "documents of site {name:?} taken, to be signed by another key"
    ));
    let site = sites::named(&mut change, by.reach, &name).await?;
    if hq.signer.can_sign(SignerRole::Order) {
        return Err(Refusal::conflict(
            "HQ holds an order key that the root names and signs channels itself",
        ));
    }
    if table::channel(&mut change, site.id).await?.is_none() {
        let signed: Channel = peek(&site.channel)?;
        let given = table::channel_given(&mut change, site.id).await?;
        let channel = Channel {
            number: given.max(signed.number) + 1,
            ..signed
        };
        table::put_channel(&mut change, site.id, channel.number, &readable(&channel)?).await?;
    }
    let mut all = table::orders(&mut change, Some(site.id)).await?;
    all.truncate(image_store::PARCEL_ORDERS_MAX);
    let given = orders::documents(&mut change, site.id, ORDERS_AGAIN_MAX).await?;
    let room = image_store::PARCEL_ORDERS_MAX - all.len();
    all.extend(given.into_iter().rev().take(room));
    let answer = parcel(&mut change, &site, all).await?;
    change.commit().await?;
    Ok(answer)
}

/// A site's signed documents come back. All of them count, or none.
pub(crate) async fn publish_site(
    State(hq): State<Arc<Hq>>,
    Extension(by): Extension<By>,
    Raw(body): Raw,
) -> Result<Json<SiteInfo>, Refusal> {
    let parcel = Parcel::from_bytes(&body).map_err(|e| Refusal::bad(e.to_string()))?;
    let mut change = hq.database.write_by(&by).await?;
    let site = sites::of(&mut change, parcel.site()).await?;
    change.says(format!(
        "signed documents of site {:?} came back: {} orders{}",
        site.name,
        parcel.orders().len(),
        if parcel.channel().is_some() {
            " and a channel"
        } else {
            ""
        }
    ));
    for order in parcel.orders() {
        take_order(&mut change, &hq, order).await?;
    }
    if let Some(channel) = parcel.channel() {
        take_channel(&mut change, &hq, site.clone(), channel).await?;
    }
    let info = site_table::info_of(&mut change, by.reach, &site.name).await?;
    change.tell(News::Documents(site.id));
    change.commit().await?;
    info.map(Json).ok_or_else(|| gone(site.id))
}

fn gone(site: SiteId) -> Refusal {
    Refusal::missing(format!("site {site}"))
}

async fn take_channel(
    db: &mut Connection,
    hq: &Hq,
    mut site: SiteRecord,
    bytes: &[u8],
) -> Result<(), Refusal> {
    let keys = hq.signer.trusted();
    let signed: Verified<Channel> =
        Verified::check(bytes, &keys).map_err(|e| unsigned_by(&e, &keys, SignerRole::Order))?;
    if site.channel == bytes {
        return Ok(());
    }
    let digest = |bytes: &[u8]| Some(peek_envelope::<Channel>(bytes).ok()?.0.digest());
    let waiting = table::channel(db, site.id).await?;
    if waiting.as_deref().and_then(digest) != Some(signed.digest()) {
        let waits = match waiting.as_deref().map(peek::<Channel>).transpose()? {
            Some(channel) => format!("channel {} waits", channel.number),
            None => "no channel waits".into(),
        };
        return Err(Refusal::conflict(format!(
            "channel {} of site {:?} is not what HQ wants signed: {waits}. Take it again",
            signed.number, site.name
        )));
    }
    site.channel_number = signed.number;
    site.channel = bytes.to_vec();
    site_table::update(db, &site).await?;
    table::forget_channel(db, site.id).await?;
    tracing::info!(
        site = site.name,
        number = signed.number,
        "a channel came back signed"
    );
    Ok(())
}

async fn take_order(db: &mut Connection, hq: &Hq, bytes: &[u8]) -> Result<(), Refusal> {
    let keys = hq.signer.trusted();
    let signed: Verified<Order> =
        Verified::check(bytes, &keys).map_err(|e| unsigned_by(&e, &keys, SignerRole::Order))?;
    let same = |known: &[u8]| {
        let known = peek_envelope::<Order>(known);
        known.is_ok_and(|(envelope, _)| envelope.digest() == signed.digest())
    };
    if let Some(known) = table::signed_order(db, &signed).await? {
        if !same(&known) {
            return Err(other_order(&signed));
        }
        let both = merged::<Order>(&keys, &known, bytes)?;
        living::update_order(db, signed.site, signed.number, both.as_bytes()).await?;
        return Ok(());
    }
    let waiting = table::orders(db, Some(signed.site)).await?;
    if !waiting.iter().any(|known| same(known)) {
        return Err(other_order(&signed));
    }
    let alone = merged::<Order>(&keys, bytes, bytes)?;
    orders::insert(db, &signed, alone.as_bytes()).await?;
    table::forget_order(db, &signed).await?;
    Ok(())
}

fn other_order(order: &Order) -> Refusal {
    Refusal::conflict(format!(
        "order {} is not what HQ wants signed: take the site's documents again",
        order.number
    ))
}
