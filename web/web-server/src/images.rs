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
use sqlx::SqliteConnection;
use trust_format::{Digest, Document, Verified, codec::Reader};
use web_api::{Hex, ImageKind, ImageVersion};

use crate::{
    Hq,
    access::Fetcher,
    database::{images, unix_seconds},
    error::Refusal,
    input::{Named, Raw, checked_name},
    leases, sites,
};

pub(crate) async fn list(State(hq): State<Arc<Hq>>) -> Result<Json<Vec<ImageVersion>>, Refusal> {
    Ok(Json(images::all(&mut *hq.database.read().await?).await?))
}

pub(crate) async fn show(
    State(hq): State<Arc<Hq>>,
    Named(text): Named,
) -> Result<Json<ImageVersion>, Refusal> {
    Ok(Json(resolve(&mut *hq.database.read().await?, &text).await?))
}

/// The version that a text means: an image's name means its newest; else digits are a digest or a beginning that fits one.
pub(crate) async fn resolve(
    db: &mut SqliteConnection,
    text: &str,
) -> Result<ImageVersion, Refusal> {
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
    fitting
        .pop()
        .ok_or_else(|| Refusal::missing(format!("version {text:?}")))
}

/// Signs what was imported and lists it. The objects were put before.
pub(crate) async fn publish(
    State(hq): State<Arc<Hq>>,
    Raw(payload): Raw,
) -> Result<Json<ImageVersion>, Refusal> {
    // the release is read, signed and stored as one step
    let _alone = hq.changes.lock().await;
    let release = images::highest_release(&mut *hq.database.read().await?).await? + 1;
    let signed = sign(hq.clone(), payload, release).await?;
    hq.store
        .put_manifest(&signed)
        .await
        .map_err(|error| match error {
            StoreError::Missing { .. } => Refusal::conflict(format!("{error}; put it first")),
            error => error.into(),
        })?;
    let image = ImageVersion {
        version: Hex(signed.digest().0),
        name: signed.name.clone(),
        kind: match signed.kind {
            ManifestKind::Image => ImageKind::Image,
            ManifestKind::BootBundle => ImageKind::BootBundle,
        },
        release,
        disk_bytes: signed.disk_bytes,
        used_bytes: signed.used_bytes,
        object_bytes: signed.object_bytes(),
        unix_seconds: unix_seconds(),
    };
    let mut change = hq.database.write().await?;
    images::insert(&mut change, &image).await?;
    if image.kind == ImageKind::BootBundle {
        sites::refresh_all_in(&mut change, &hq).await?;
    }
    change.commit().await?;
    tracing::info!(name = image.name, release, version = %image.version, "published");
    Ok(Json(image))
}

async fn sign(hq: Arc<Hq>, payload: Bytes, release: u64) -> Result<Verified<Manifest>, Refusal> {
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
        Ok(hq.signer.sign_manifest(&manifest)?)
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
