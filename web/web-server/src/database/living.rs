//! Signed documents that somebody still relies on, to be signed anew when the root changes.

use trust_format::{PublicKey, SiteId};
use web_api::Hex;

use super::{Connection, Result, big, flag, key, number, parsed, sql};

/// Sites by name with their signed channels; empty before the first.
pub(crate) async fn channels(db: &mut Connection) -> Result<Vec<(String, Vec<u8>)>> {
    let rows = sql::query("SELECT name, channel FROM sites ORDER BY name")
        .fetch_all(db)
        .await?;
    rows.iter()
        .map(|row| Ok((row.try_get("name")?, row.try_get("channel")?)))
        .collect()
}

/// Every signed order with its site and number.
pub(crate) async fn orders(db: &mut Connection) -> Result<Vec<(SiteId, u64, Vec<u8>)>> {
    let rows = sql::query("SELECT site, number, document FROM orders ORDER BY site, number")
        .fetch_all(db)
        .await?;
    rows.iter()
        .map(|row| {
            Ok((
                parsed(row, "site")?,
                number(row, "number")?,
                row.try_get("document")?,
            ))
        })
        .collect()
}

/// Writes an order's document, which says the same under another signature.
pub(crate) async fn update_order(
    db: &mut Connection,
    site: SiteId,
    number: u64,
    document: &[u8],
) -> Result<()> {
    sql::query("UPDATE orders SET document = $3 WHERE site = $1 AND number = $2")
        .bind(site.to_string())
        .bind(big(number))
        .bind(document)
        .execute(db)
        .await?;
    Ok(())
}

/// Every published version, its name, and whether a site, an order or the newest boot bundle makes it one that machines are given.
pub(crate) async fn versions(db: &mut Connection) -> Result<Vec<(Hex<32>, String, bool)>> {
    let rows = sql::query(
        "SELECT i.version, i.name,
            CAST(CASE WHEN EXISTS (SELECT 1 FROM sites s WHERE s.image = i.version)
                OR EXISTS (SELECT 1 FROM orders o WHERE o.version = i.version)
                OR (i.kind = 'boot_bundle'
                    AND i.release = (SELECT MAX(b.release) FROM images b WHERE b.kind = 'boot_bundle'))
                THEN 1 ELSE 0 END AS BIGINT) AS used
         FROM images i ORDER BY i.release",
    )
    .fetch_all(db)
    .await?;
    rows.iter()
        .map(|row| {
            Ok((
                parsed(row, "version")?,
                row.try_get("name")?,
                row.try_get::<i64>("used")? != 0,
            ))
        })
        .collect()
}

/// A node that is not revoked.
#[derive(Debug)]
pub(crate) struct NodeHas {
    pub(crate) node: PublicKey,
    pub(crate) certificate: Vec<u8>,
    /// Whether the node has it, and not one with fewer signatures.
    pub(crate) taken: bool,
    /// Another has its place, and it was not heard of since: it will take none.
    pub(crate) is_gone: bool,
}

/// Certificates of nodes that are not revoked.
pub(crate) async fn certificates(db: &mut Connection) -> Result<Vec<NodeHas>> {
    let rows = sql::query(
        "SELECT node_key, certificate, certificate_taken,
            CAST(CASE WHEN replaced_by IS NOT NULL AND heard_again = 0 THEN 1 ELSE 0 END AS BIGINT) AS gone
         FROM nodes WHERE revoked = 0",
    )
    .fetch_all(db)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(NodeHas {
                node: key(row, "node_key")?,
                certificate: row.try_get("certificate")?,
                taken: flag(row, "certificate_taken")?,
                is_gone: flag(row, "gone")?,
            })
        })
        .collect()
}

/// Writes a node's certificate, which says the same under one more signature, for the node to take.
pub(crate) async fn update_certificate(
    db: &mut Connection,
    node: &PublicKey,
    certificate: &[u8],
) -> Result<()> {
    sql::query("UPDATE nodes SET certificate = $2, certificate_taken = 0 WHERE node_key = $1")
        .bind(node.to_string())
        .bind(certificate)
        .execute(db)
        .await?;
    Ok(())
}

/// The node showed that it has its certificate as it is here.
pub(crate) async fn certificate_taken(db: &mut Connection, node: &PublicKey) -> Result<()> {
    sql::query("UPDATE nodes SET certificate_taken = 1 WHERE node_key = $1")
        .bind(node.to_string())
        .execute(db)
        .await?;
    Ok(())
}
