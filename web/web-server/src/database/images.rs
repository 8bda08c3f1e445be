//! Published versions.

use trust_format::Digest;
use web_api::{Hex, ImageKind, ImageVersion};

use super::{Connection, Result, big, number, parsed, parsed_option, sql, undecodable};

pub(super) fn version(row: &sql::Row) -> Result<ImageVersion> {
    Ok(ImageVersion {
        version: parsed(row, "version")?,
        name: row.try_get("name")?,
        kind: match row.try_get("kind")? {
            "image" => ImageKind::Image,
            "boot_bundle" => ImageKind::BootBundle,
            _ => return Err(undecodable("kind")),
        },
        release: number(row, "release")?,
        disk_bytes: number(row, "disk_bytes")?,
        used_bytes: number(row, "used_bytes")?,
        object_bytes: number(row, "object_bytes")?,
        unix_seconds: number(row, "published")?,
        waiting: false,
    })
}

/// Adds a version.
pub(crate) async fn insert(db: &mut Connection, image: &ImageVersion) -> Result<()> {
    sql::query(
        "INSERT INTO images (version, name, kind, release, disk_bytes, used_bytes, object_bytes, published)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(image.version.to_string())
    .bind(&image.name)
    .bind(match image.kind {
        ImageKind::Image => "image",
        ImageKind::BootBundle => "boot_bundle",
    })
    .bind(big(image.release))
    .bind(big(image.disk_bytes))
    .bind(big(image.used_bytes))
    .bind(big(image.object_bytes))
    .bind(big(image.unix_seconds))
    .execute(db)
    .await?;
    Ok(())
}

/// The highest release, 0 before the first.
pub(crate) async fn highest_release(db: &mut Connection) -> Result<u64> {
    let row = sql::query("SELECT COALESCE(MAX(release), 0) AS release FROM images")
        .fetch_one(db)
        .await?;
    number(&row, "release")
}

/// All versions, newest first.
pub(crate) async fn all(db: &mut Connection) -> Result<Vec<ImageVersion>> {
    let rows = sql::query("SELECT * FROM images ORDER BY release DESC")
        .fetch_all(db)
        .await?;
    rows.iter().map(version).collect()
}

/// The newest image of a name.
pub(crate) async fn newest_of_name(
    db: &mut Connection,
    name: &str,
) -> Result<Option<ImageVersion>> {
    let row = sql::query(
        "SELECT * FROM images WHERE kind = 'image' AND name = $1 ORDER BY release DESC LIMIT 1",
    )
    .bind(name)
    .fetch_optional(db)
    .await?;
    row.as_ref().map(version).transpose()
}

/// Up to two versions whose digest begins so. The caller checks that it is hexadecimal.
pub(crate) async fn beginning_with(db: &mut Connection, digits: &str) -> Result<Vec<ImageVersion>> {
    let rows =
        sql::query("SELECT * FROM images WHERE version LIKE $1 ORDER BY release DESC LIMIT 2")
            .bind(format!("{digits}%"))
            .fetch_all(db)
            .await?;
    rows.iter().map(version).collect()
}

/// The newest boot bundle: every site's.
pub(crate) async fn bundle(db: &mut Connection) -> Result<Option<Digest>> {
    let row = sql::query(
        "SELECT version FROM images WHERE kind = 'boot_bundle' ORDER BY release DESC LIMIT 1",
    )
    .fetch_optional(db)
    .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(parsed_option::<Hex<32>>(&row, "version")?.map(|d| Digest(d.0)))
}
