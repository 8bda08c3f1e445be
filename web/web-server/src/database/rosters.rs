//! What a site's roster is made of: signs of machines, signs that several carry, and the PIN.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use trust_format::{
    CONSOLE_CODE_BYTES, KnownMachine, MACHINE_SIGNS_MAX, MachineId, ROSTER_MACHINES_MAX,
    ROSTER_SHARED_SIGNS_MAX, Sign, SiteId, TpmKey,
};
use web_api::{Facts, Hex};

use super::{
    Connection, Result, big, flag, json, parsed, parsed_option, sql, to_json, undecodable,
    unix_seconds,
};

/// A site's PIN, without the PIN.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredPin {
    pub(crate) uses: u16,
    pub(crate) life_hours: u16,
    pub(crate) salt: Hex<16>,
    pub(crate) hash: Hex<32>,
    /// By HQ's clock; 0 for never.
    pub(crate) until: u64,
}

/// What a machine says of itself, as signs.
pub(crate) fn signs_of(facts: &Facts) -> Vec<Sign> {
    let uuid = facts.uuid.iter().map(|u| Sign::of_uuid(&u.0));
    let serial = facts.serial.iter().map(|s| Sign::of_serial(s));
    let macs = facts.macs.iter().map(|m| Sign::of_mac(&m.0));
    uuid.chain(serial).chain(macs).collect()
}

/// Keeps the signs and the TPM that a machine was seen with. Returns whether the roster has to change.
pub(crate) async fn saw(
    db: &mut Connection,
    site: SiteId,
    machine: MachineId,
    facts: &Facts,
) -> Result<bool> {
    let mut is_news = false;
    for sign in signs_of(facts) {
        let known = sql::query(
            "UPDATE machine_signs SET seen = $4 WHERE site = $1 AND machine = $2 AND sign = $3",
        )
        .bind(site.to_string())
        .bind(machine.to_string())
        .bind(Hex(sign.0).to_string())
        .bind(big(unix_seconds()))
        .execute(&mut *db)
        .await?;
        if known == 0 {
            is_news = true;
            sql::query(
                "INSERT INTO machine_signs (site, machine, sign, seen) VALUES ($1, $2, $3, $4)",
            )
            .bind(site.to_string())
            .bind(machine.to_string())
            .bind(Hex(sign.0).to_string())
            .bind(big(unix_seconds()))
            .execute(&mut *db)
            .await?;
        }
    }
    if let Some(tpm) = &facts.tpm {
        let changed = sql::query(
            "UPDATE machines SET tpm = $3 WHERE site = $1 AND id = $2 AND (tpm IS NULL OR tpm <> $3)",
        )
        .bind(site.to_string())
        .bind(machine.to_string())
        .bind(tpm.to_string())
        .execute(db)
        .await?;
        is_news |= changed > 0;
    }
    Ok(is_news)
}

/// A person looked at the agent with this code: it is the machine.
pub(crate) async fn set_code(
    db: &mut Connection,
    site: SiteId,
    machine: MachineId,
    code: &str,
) -> Result<()> {
    sql::query("UPDATE machines SET code = $3 WHERE site = $1 AND id = $2")
        .bind(site.to_string())
        .bind(machine.to_string())
        .bind(code)
        .execute(db)
        .await?;
    Ok(())
}

/// Machines that were approved or admitted, ascending; those that were approved and heard of last, if there are too many.
pub(crate) async fn machines(db: &mut Connection, site: SiteId) -> Result<Vec<KnownMachine>> {
    let mut signs = all_signs(db, site).await?;
    let rows = sql::query(
        "SELECT id, approved, facts, tpm, code FROM machines WHERE site = $1 AND (approved = 1 OR admitted = 1)
         ORDER BY approved DESC, seen DESC, id LIMIT $2",
    )
    .bind(site.to_string())
    .bind(i64::try_from(ROSTER_MACHINES_MAX).unwrap_or(i64::MAX))
    .fetch_all(db)
    .await?;
    let mut machines = Vec::with_capacity(rows.len());
    for row in &rows {
        let id: MachineId = parsed(row, "id")?;
        let tpm: Option<Hex<32>> = parsed_option(row, "tpm")?;
        let code: Option<String> = row.try_get("code")?;
        let code = code.map(|c| <[u8; CONSOLE_CODE_BYTES]>::try_from(c.as_bytes()));
        // one that an older program stored has its facts alone
        let signs = match signs.remove(&id) {
            Some(signs) => signs,
            None => {
                let mut signs = signs_of(&json(row, "facts")?);
                signs.truncate(MACHINE_SIGNS_MAX);
                signs
            }
        };
        machines.push(KnownMachine {
            id,
            approved: flag(row, "approved")?,
            signs,
            tpm: tpm.map(|t| TpmKey(t.0)),
            code: code.transpose().map_err(|_| undecodable("code"))?,
        });
    }
    machines.sort_unstable_by_key(|m| m.id);
    Ok(machines)
}

async fn all_signs(db: &mut Connection, site: SiteId) -> Result<BTreeMap<MachineId, Vec<Sign>>> {
    let rows = sql::query(
        "SELECT machine, sign FROM machine_signs WHERE site = $1 ORDER BY seen DESC, sign",
    )
    .bind(site.to_string())
    .fetch_all(db)
    .await?;
    let mut signs: BTreeMap<MachineId, Vec<Sign>> = BTreeMap::new();
    for row in &rows {
        let sign: Hex<8> = parsed(row, "sign")?;
        let of_machine = signs.entry(parsed(row, "machine")?).or_default();
        if of_machine.len() < MACHINE_SIGNS_MAX {
            of_machine.push(Sign(sign.0));
        }
    }
    Ok(signs)
}

/// Signs that count for nobody in the site.
pub(crate) async fn shared(db: &mut Connection, site: SiteId) -> Result<Vec<Sign>> {
    let rows = sql::query("SELECT sign FROM shared_signs WHERE site = $1 ORDER BY sign LIMIT $2")
        .bind(site.to_string())
        .bind(i64::try_from(ROSTER_SHARED_SIGNS_MAX).unwrap_or(i64::MAX))
        .fetch_all(db)
        .await?;
    rows.iter()
        .map(|row| Ok(Sign(parsed::<Hex<8>>(row, "sign")?.0)))
        .collect()
}

/// Several machines carry this sign.
pub(crate) async fn share(db: &mut Connection, site: SiteId, sign: Sign, what: &str) -> Result<()> {
    sql::query(
        "INSERT INTO shared_signs (site, sign, what) VALUES ($1, $2, $3) ON CONFLICT (site, sign) DO NOTHING",
    )
    .bind(site.to_string())
    .bind(Hex(sign.0).to_string())
    .bind(what)
    .execute(db)
    .await?;
    Ok(())
}

/// The PIN of a site, and its number.
pub(crate) async fn pin(db: &mut Connection, site: SiteId) -> Result<(u64, Option<StoredPin>)> {
    let row = sql::query("SELECT pin_number, pin FROM sites WHERE id = $1")
        .bind(site.to_string())
        .fetch_one(db)
        .await?;
    let text: Option<String> = row.try_get("pin")?;
    let pin = text.map(|t| serde_json::from_str(&t).map_err(|_| undecodable("pin")));
    Ok((super::number(&row, "pin_number")?, pin.transpose()?))
}

/// Sets another PIN under the next number, or none.
pub(crate) async fn set_pin(
    db: &mut Connection,
    site: SiteId,
    pin: Option<&StoredPin>,
) -> Result<()> {
    sql::query("UPDATE sites SET pin = $2, pin_number = pin_number + 1 WHERE id = $1")
        .bind(site.to_string())
        .bind(pin.map(to_json).transpose()?)
        .execute(db)
        .await?;
    Ok(())
}
