//! Every root that this chain ever trusted, for all processes of HQ.

use super::{Connection, Result, big, number, sql};

/// All of them with their numbers, the newest last.
pub(crate) async fn all(db: &mut Connection) -> Result<Vec<(u64, Vec<u8>)>> {
    let rows = sql::query("SELECT number, document FROM roots ORDER BY number")
        .fetch_all(db)
        .await?;
    rows.iter()
        .map(|row| Ok((number(row, "number")?, row.try_get("document")?)))
        .collect()
}

/// Adds one that may be there already.
pub(crate) async fn insert(db: &mut Connection, number: u64, document: &[u8]) -> Result<()> {
    sql::query(
        "INSERT INTO roots (number, document) VALUES ($1, $2) ON CONFLICT (number) DO NOTHING",
    )
    .bind(big(number))
    .bind(document)
    .execute(db)
    .await?;
    Ok(())
}
