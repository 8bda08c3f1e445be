//! The audit log. Rows are appended with the change that they tell of, and never written again.

use web_api::{AUDIT_BEGINNING, AuditRow, Hex};

use super::{Connection, Result, big, number, parsed, sql, unix_millis};

/// Characters of each text of a row.
const TEXT_CHARS_MAX: usize = 1000;

/// What a person does.
#[derive(Debug, Clone)]
pub(crate) struct Act {
    pub(crate) who: String,
    pub(crate) means: &'static str,
    pub(crate) address: String,
    pub(crate) operation: String,
    pub(crate) target: String,
    pub(crate) what: String,
}

/// As it is stored: what is hashed must be what is read back.
fn stored(text: &str) -> String {
    let text: String = text.chars().take(TEXT_CHARS_MAX).collect();
    text.replace('\0', "\u{FFFD}")
}

/// Appends a row.
pub(super) async fn append(db: &mut Connection, act: Act) -> Result<()> {
    let last = sql::query("SELECT number, hash FROM audit ORDER BY number DESC LIMIT 1")
        .fetch_optional(db)
        .await?;
    let (before, last) = match &last {
        Some(row) => (parsed(row, "hash")?, number(row, "number")?),
        None => (AUDIT_BEGINNING, 0),
    };
    let mut row = AuditRow {
        number: last + 1,
        unix_millis: unix_millis(),
        who: stored(&act.who),
        means: stored(act.means),
        address: stored(&act.address),
        operation: stored(&act.operation),
        target: stored(&act.target),
        what: stored(&act.what),
        hash: AUDIT_BEGINNING,
    };
    row.hash = row.hash_after(&before);
    sql::query(
        "INSERT INTO audit (number, unix_millis, who, means, address, operation, target, what, hash)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(big(row.number))
    .bind(big(row.unix_millis))
    .bind(&row.who)
    .bind(&row.means)
    .bind(&row.address)
    .bind(&row.operation)
    .bind(&row.target)
    .bind(&row.what)
    .bind(row.hash.to_string())
    .execute(db)
    .await?;
    Ok(())
}

fn row_of(row: &sql::Row) -> Result<AuditRow> {
    Ok(AuditRow {
        number: number(row, "number")?,
        unix_millis: number(row, "unix_millis")?,
        who: row.try_get("who")?,
        means: row.try_get("means")?,
        address: row.try_get("address")?,
        operation: row.try_get("operation")?,
        target: row.try_get("target")?,
        what: row.try_get("what")?,
        hash: parsed::<Hex<32>>(row, "hash")?,
    })
}

/// Rows below a number, the newest first.
pub(crate) async fn before(db: &mut Connection, below: u64, limit: u32) -> Result<Vec<AuditRow>> {
    let rows = sql::query("SELECT * FROM audit WHERE number < $1 ORDER BY number DESC LIMIT $2")
        .bind(big(below))
        .bind(i64::from(limit))
        .fetch_all(db)
        .await?;
    rows.iter().map(row_of).collect()
}

/// Rows above a number, the oldest first.
pub(crate) async fn after(db: &mut Connection, above: u64, limit: u32) -> Result<Vec<AuditRow>> {
    let rows = sql::query("SELECT * FROM audit WHERE number > $1 ORDER BY number LIMIT $2")
        .bind(big(above))
        .bind(i64::from(limit))
        .fetch_all(db)
        .await?;
    rows.iter().map(row_of).collect()
}
