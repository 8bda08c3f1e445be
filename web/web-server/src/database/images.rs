//! Published versions.

use serde::Deserialize;
use trust_format::Digest;
use utoipa::{IntoParams, ToSchema};
use web_api::{Hex, ImageKind, ImageVersion, Page};

use super::{
    Connection, Result, big,
    listing::{Key, Listing, Order, Turn},
    number, parsed, parsed_option,
    search::Search,
    sql, undecodable,
};
use crate::listed::Sort;

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

fn word(kind: ImageKind) -> &'static str {
    match kind {
        ImageKind::Image => "image",
        ImageKind::BootBundle => "boot_bundle",
    }
}

/// Adds a version.
pub(crate) async fn insert(db: &mut Connection, image: &ImageVersion) -> Result<()> {
    sql::query(
        "INSERT INTO images (version, name, kind, release, disk_bytes, used_bytes, object_bytes, published)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(image.version.to_string())
    .bind(&image.name)
    .bind(word(image.kind))
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

/// By what versions are sorted.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ImageSort {
    /// The newest first.
    #[default]
    Release,
    /// By the image's name.
    Name,
}

impl Sort for ImageSort {
    fn order(self) -> Order {
        const RELEASE: Key = Key::Number("i.release");
        match self {
            Self::Release => Order {
                word: "release",
                keys: &[RELEASE],
                descending: true,
            },
            Self::Name => Order {
                word: "name",
                keys: &[Key::Text("i.name"), RELEASE],
                descending: false,
            },
        }
    }
}

/// Which versions.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct ImageFilter {
    /// Images, or boot bundles.
    #[param(inline, nullable = false)]
    pub(crate) kind: Option<ImageKind>,
    /// Of one image.
    #[param(nullable = false)]
    pub(crate) name: Option<String>,
    /// Words that are in name or digest, or parts of them.
    #[param(value_type = String, required = false)]
    pub(crate) search: Option<Search>,
}

/// Versions for people.
pub(crate) async fn page(
    db: &mut Connection,
    filter: &ImageFilter,
    turn: &Turn,
) -> Result<Page<ImageVersion>> {
    Listing::new("i.*", "images i")
        .when("i.kind = ", filter.kind.map(word))
        .when("i.name = ", filter.name.as_ref())
        .search("lower(i.name || ' ' || i.version)", filter.search.as_ref())
        .page(db, turn, version)
        .await
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
