//! Published versions: listing, naming, publishing.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::State,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use image_format::{Manifest, ManifestKind};
use image_store::StoreError;
use trust_format::{Digest, Document, SignerRole, Verified, codec::Reader};
use web_api::{Hex, ImageKind, ImageVersion, Page};

use crate::{
    Hq,
    access::{By, Fetcher},
    database::{
        Connection, images,
        images::{ImageFilter, ImageSort},
        unix_seconds, waiting as table,
    },
    error::Refusal,
    input::{Named, Raw, checked_name},
    leases,
    listed::Listed,
    roots, sites, waiting,
};

pub(crate) async fn list(
    State(hq): State<Arc<Hq>>,
    asked: Listed<ImageSort, ImageFilter>,
) -> Result<Json<Page<ImageVersion>>, Refusal> {
    let mut db = hq.database.read().await?;
    Ok(Json(
        images::page(&mut db, &asked.filter, &asked.turn).await?,
    ))
}

pub(crate) async fn show(
    State(hq): State<Arc<Hq>>,
    Named(text): Named,
) -> Result<Json<ImageVersion>, Refusal> {
    Ok(Json(resolve(&mut *hq.database.read().await?, &text).await?))
}

/// The version that a text means: an image's name means its newest; else digits are a digest or a beginning that fits one.
pub(crate) async fn resolve(db: &mut Connection, text: &str) -> Result<ImageVersion, Refusal> {
    if let Some(newest) = images::newest_of_name(db, text).await? {
        return Ok(newest);
    }
    let digits = text.to_ascii_lowercase();
    let is_digits =
        (1..=64).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
    let mut fitting = match is_digits {
        true => images::beginning_with(db, &digits).await?,
        false => Vec::new(),
    };
    if fitting.len() > 1 {
        return Err(Refusal::conflict(format!(
            "several versions begin with {digits}: give more digits"
        )));
    }
    match fitting.pop() {
        Some(version) => Ok(version),
        None => Err(waiting::missing_version(db, text).await?),
    }
}

/// Signs what was imported and lists it. The objects were put before.
pub(crate) async fn publish(
    State(hq): State<Arc<Hq>>,
    Extension(by): Extension<By>,
    Raw(payload): Raw,
) -> Result<Json<ImageVersion>, Refusal> {
    // the release is read, signed and stored as one step
    let _alone = roots::alone(&hq).await?;
    let release = waiting::highest_release(&mut *hq.database.read().await?).await? + 1;
    let manifest = read(payload, release).await?;
    if !hq.signer.can_sign(SignerRole::Image) {
        return Ok(Json(waiting::keep_image(&hq, &by, manifest).await?));
    }
    let signer = hq.clone();
    let work = tokio::task::spawn_blocking(move || signer.signer.sign_manifest(&manifest));
    let signed = work.await.map_err(|e| Refusal::failed(&e))??;
    Ok(Json(list_signed(&hq, Some(&by), &signed).await?))
}

/// A missing object is what the caller has to put first.
pub(crate) fn put_first(error: StoreError) -> Refusal {
    match error {
        StoreError::Missing { .. } => Refusal::conflict(format!("{error}; put it first")),
        error => error.into(),
    }
}

/// What lists say of a manifest.
pub(crate) fn version_of(manifest: &Manifest, digest: Digest) -> ImageVersion {
    ImageVersion {
        version: Hex(digest.0),
        name: manifest.name.clone(),
        kind: match manifest.kind {
            ManifestKind::Image => ImageKind::Image,
            ManifestKind::BootBundle => ImageKind::BootBundle,
        },
        release: manifest.release,
        disk_bytes: manifest.disk_bytes,
        used_bytes: manifest.used_bytes,
        object_bytes: manifest.object_bytes(),
        unix_seconds: unix_seconds(),
        waiting: false,
    }
}

/// Stores and lists a signed version. Nobody does it when a key has come for which it waited.
pub(crate) async fn list_signed(
    hq: &Arc<Hq>,
    by: Option<&By>,
    signed: &Verified<Manifest>,
) -> Result<ImageVersion, Refusal> {
    hq.store.put_manifest(signed).await.map_err(put_first)?;
    let image = version_of(signed, signed.digest());
    let mut change = match by {
        Some(by) => hq.database.write_by(by).await?,
        None => hq.database.write().await?,
    };
    change.says(format!(
        "version {} of {:?} published, release {}",
        image.version, image.name, image.release
    ));
    images::insert(&mut change, &image).await?;
    table::forget_image(&mut change, &image.version).await?;
    if image.kind == ImageKind::BootBundle {
        sites::refresh_all_in(&mut change, hq).await?;
    }
    change.commit().await?;
    tracing::info!(name = image.name, image.release, version = %image.version, "published");
    Ok(image)
}

/// Only a version that a key of the present root signed can be given to anybody.
pub(crate) async fn check_signature(hq: &Hq, image: &ImageVersion) -> Result<(), Refusal> {
    let bytes = hq.store.manifest(&Digest(image.version.0)).await?;
    let keys = hq.signer.trusted();
    let check = move || Verified::<Manifest>::check(&bytes, &keys).map(|_| ());
    let work = tokio::task::spawn_blocking(check).await;
    work.map_err(|e| Refusal::failed(&e))?.map_err(|error| {
        Refusal::conflict(format!(
            "version {} of {:?}: {error}; sign it with a key that the root names",
            image.version, image.name
        ))
    })
}

async fn read(payload: Bytes, release: u64) -> Result<Manifest, Refusal> {
    let work = tokio::task::spawn_blocking(move || {
        let mut input = Reader::new(&payload);
        let decoded = Manifest::decode(&mut input).and_then(|m| input.finish().map(|()| m));
        let mut manifest =
            decoded.map_err(|e| Refusal::bad(format!("this is no manifest: {e}")))?;
        checked_name(&manifest.name, "an image's name")?;
        if [manifest.disk_bytes, manifest.used_bytes]
            .iter()
            .any(|b| i64::try_from(*b).is_err())
        {
            return Err(Refusal::bad("no disk is that large"));
        }
        manifest.release = release;
        Ok(manifest)
    });
    work.await.map_err(|e| Refusal::failed(&e))?
}

fn document(bytes: Bytes) -> Response {
    let kind = [(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    )];
    (kind, bytes).into_response()
}

pub(crate) async fn root(State(hq): State<Arc<Hq>>) -> Response {
    document(Bytes::copy_from_slice(
        hq.signer.trusted().root().as_bytes(),
    ))
}

pub(crate) async fn manifest(
    State(hq): State<Arc<Hq>>,
    digest: Named,
) -> Result<Response, Refusal> {
    let digest: Hex<32> = digest.parse("manifest's digest (64 hexadecimal digits)")?;
    Ok(document(hq.store.manifest(&Digest(digest.0)).await?))
}

pub(crate) async fn my_manifest(
    State(hq): State<Arc<Hq>>,
    Extension(fetcher): Extension<Fetcher>,
    digest: Named,
) -> Result<Response, Refusal> {
    let digest: Hex<32> = digest.parse("manifest's digest (64 hexadecimal digits)")?;
    leases::may_read(&mut *hq.database.read().await?, fetcher.site, &digest).await?;
    Ok(document(hq.store.manifest(&Digest(digest.0)).await?))
}
