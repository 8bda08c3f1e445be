//! What waits for a signature by a key that HQ does not hold. Documents here are envelopes that nobody signed.

use trust_format::{Digest, Order, SiteId};
use web_api::{Hex, ImageKind, ImageVersion, WaitingChannel};

use super::{Connection, Result, big, images, number, sql};

/// Adds a version that waits.
pub(crate) async fn insert_image(db: &mut Connection, image: &ImageVersion) -> Result<()> {
    sql::query(
        "INSERT INTO waiting_images (version, name, kind, release, disk_bytes, used_bytes, object_bytes, published)
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

/// Versions that wait, newest first.
pub(crate) async fn images(db: &mut Connection) -> Result<Vec<ImageVersion>> {
    let rows = sql::query("SELECT * FROM waiting_images ORDER BY release DESC")
        .fetch_all(db)
        .await?;
    let waiting = |row| {
        let version = images::version(row)?;
        Ok(ImageVersion {
            waiting: true,
            ..version
        })
    };
    rows.iter().map(waiting).collect()
}

/// A version waits no longer. Returns whether it did.
pub(crate) async fn forget_image(db: &mut Connection, version: &Hex<32>) -> Result<bool> {
    let done = sql::query("DELETE FROM waiting_images WHERE version = $1")
        .bind(version.to_string())
        .execute(db)
        .await?;
    Ok(done > 0)
}

/// The highest release that was ever given and is still known, 0 before the first.
pub(crate) async fn highest_release(db: &mut Connection) -> Result<u64> {
    let row = sql::query(
        "SELECT COALESCE(MAX(release), 0) AS release FROM
            (SELECT release FROM images UNION ALL SELECT release FROM waiting_images
             UNION ALL SELECT release FROM given) AS known",
    )
    .fetch_one(db)
    .await?;
    number(&row, "release")
}

/// The highest number that a channel of the site was given, also one that nobody signed.
pub(crate) async fn channel_given(db: &mut Connection, site: SiteId) -> Result<u64> {
    let row = sql::query("SELECT channel_given FROM sites WHERE id = $1")
        .bind(site.to_string())
        .fetch_one(db)
        .await?;
    number(&row, "channel_given")
}

/// The site's channel that waits.
pub(crate) async fn channel(db: &mut Connection, site: SiteId) -> Result<Option<Vec<u8>>> {
    sql::query("SELECT document FROM waiting_channels WHERE site = $1")
        .bind(site.to_string())
        .fetch_value(db, "document")
        .await
}

/// The site's channel of this number waits, instead of one that did.
pub(crate) async fn put_channel(
    db: &mut Connection,
    site: SiteId,
    number: u64,
    document: &[u8],
) -> Result<()> {
    forget_channel(db, site).await?;
    sql::query("INSERT INTO waiting_channels (site, document) VALUES ($1, $2)")
        .bind(site.to_string())
        .bind(document)
        .execute(&mut *db)
        .await?;
    sql::query("UPDATE sites SET channel_given = $2 WHERE id = $1")
        .bind(site.to_string())
        .bind(big(number))
        .execute(db)
        .await?;
    Ok(())
}

/// No channel of the site waits any more.
pub(crate) async fn forget_channel(db: &mut Connection, site: SiteId) -> Result<()> {
    sql::query("DELETE FROM waiting_channels WHERE site = $1")
        .bind(site.to_string())
        .execute(db)
        .await?;
    Ok(())
}

/// Channels that wait, by site. A waiting channel always has the highest number that was given.
pub(crate) async fn channels(db: &mut Connection) -> Result<Vec<WaitingChannel>> {
    let rows = sql::query(
        "SELECT s.name, s.channel_given, s.channel_number FROM waiting_channels w
         JOIN sites s ON s.id = w.site ORDER BY s.name",
    )
    .fetch_all(db)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(WaitingChannel {
                site: row.try_get("name")?,
                number: number(row, "channel_given")?,
                signed: number(row, "channel_number")?,
            })
        })
        .collect()
}

/// Adds an order that waits.
pub(crate) async fn insert_order(
    db: &mut Connection,
    order: &Order,
    document: &[u8],
) -> Result<()> {
    sql::query("INSERT INTO waiting_orders (site, number, document) VALUES ($1, $2, $3)")
        .bind(order.site.to_string())
        .bind(big(order.number))
        .bind(document)
        .execute(db)
        .await?;
    Ok(())
}

/// An order waits no longer.
pub(crate) async fn forget_order(db: &mut Connection, order: &Order) -> Result<()> {
    sql::query("DELETE FROM waiting_orders WHERE site = $1 AND number = $2")
        .bind(order.site.to_string())
        .bind(big(order.number))
        .execute(db)
        .await?;
    Ok(())
}

/// Orders that wait: of one site or of all, oldest first.
pub(crate) async fn orders(db: &mut Connection, site: Option<SiteId>) -> Result<Vec<Vec<u8>>> {
    sql::query(
        "SELECT document FROM waiting_orders WHERE $1 IS NULL OR site = $1 ORDER BY site, number",
    )
    .bind(site.map(|s| s.to_string()))
    .fetch_values(db, "document")
    .await
}

/// The highest number of an order in a site, waiting or not; 0 before the first.
pub(crate) async fn highest_order(db: &mut Connection, site: SiteId) -> Result<u64> {
    let row = sql::query(
        "SELECT COALESCE(MAX(number), 0) AS number FROM
            (SELECT number FROM orders WHERE site = $1
             UNION ALL SELECT number FROM waiting_orders WHERE site = $1
             UNION ALL SELECT order_given AS number FROM sites WHERE id = $1) AS known",
    )
    .bind(site.to_string())
    .fetch_one(db)
    .await?;
    number(&row, "number")
}

/// The signed document of an order.
pub(crate) async fn signed_order(db: &mut Connection, order: &Order) -> Result<Option<Vec<u8>>> {
    sql::query("SELECT document FROM orders WHERE site = $1 AND number = $2")
        .bind(order.site.to_string())
        .bind(big(order.number))
        .fetch_value(db, "document")
        .await
}

/// The name of a published version.
pub(crate) async fn name_of_version(
    db: &mut Connection,
    version: &Hex<32>,
) -> Result<Option<String>> {
    sql::query("SELECT name FROM images WHERE version = $1")
        .bind(version.to_string())
        .fetch_value(db, "name")
        .await
}

/// The root of which the sites were told, for the first time or instead of another. Returns which one that was.
pub(crate) async fn replace_told_root(
    db: &mut Connection,
    digest: &Digest,
) -> Result<Option<String>> {
    let before = sql::query("SELECT digest FROM told_root")
        .fetch_value(&mut *db, "digest")
        .await?;
    sql::query("DELETE FROM told_root")
        .execute(&mut *db)
        .await?;
    sql::query("INSERT INTO told_root (digest) VALUES ($1)")
        .bind(digest.to_string())
        .execute(db)
        .await?;
    Ok(before)
}
