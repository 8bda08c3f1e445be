//! Rosters: which machines a site knows and by what, and its PIN.

use std::sync::Arc;

use axum::{Extension, Json, extract::State, http::StatusCode};
use trust_format::{
    MachineId, PinRule, ROSTER_SHARED_SIGNS_MAX, Roster, Sign, SignerRole, Verified,
};
use web_api::{DemoteSign, Hex, Machine, NewPin, SignKind, SitePin};
use zeroize::Zeroizing;

use crate::{
    Hq,
    access::By,
    database::{
        Connection, machines, rosters, rosters::StoredPin, sites::SiteRecord, unix_seconds,
    },
    error::{Refusal, random},
    input::{Input, Named},
    sites,
};

/// Digits of a PIN that HQ makes.
const PIN_DIGITS: usize = 8;
/// A PIN holds no longer.
const LIFE_HOURS_MAX: u16 = 24 * 90;

/// Signs a roster of the next number when anything in it changed. Without an authority key it stays as it was, and what would
/// change it by a person's wish is refused: see [`check_authority`].
pub(crate) async fn refresh(
    db: &mut Connection,
    hq: &Hq,
    site: &mut SiteRecord,
) -> Result<(), Refusal> {
    let (number, pin) = rosters::pin(db, site.id).await?;
    let is_over = |pin: &StoredPin| pin.until != 0 && pin.until <= unix_seconds();
    let mut roster = Roster {
        site: site.id,
        number: site.roster_number,
        machines: rosters::machines(db, site.id).await?,
        shared: rosters::shared(db, site.id).await?,
        pin: pin.filter(|pin| !is_over(pin)).map(|pin| PinRule {
            number,
            uses: pin.uses,
            life_hours: pin.life_hours,
            salt: pin.salt.0,
            hash: pin.hash.0,
        }),
    };
    let signed = Verified::<Roster>::check(&site.roster, &hq.signer.trusted());
    if !signed.is_ok_and(|old| *old == roster) {
        if let Err(error) = check_authority(hq) {
            tracing::warn!(site = site.name, %error, "a roster stays as it was");
            return Ok(());
        }
        roster.number += 1;
        site.roster_number = roster.number;
        site.roster = hq.signer.sign_roster(&roster)?.as_bytes().to_vec();
    }
    Ok(())
}

/// Whether HQ can sign rosters.
pub(crate) fn check_authority(hq: &Hq) -> Result<(), Refusal> {
    match hq.signer.can_sign(SignerRole::Authority) {
        true => Ok(()),
        false => Err(Refusal::conflict(
            "HQ holds no authority key that the root names: which machines a site knows stays as it is",
        )),
    }
}

/// A new PIN for a site. It is shown this once, and kept as a hash.
pub(crate) async fn set_pin(
    State(hq): State<Arc<Hq>>,
    Extension(by): Extension<By>,
    Named(name): Named,
    Input(new): Input<NewPin>,
) -> Result<Json<SitePin>, Refusal> {
    check_authority(&hq)?;
    if new.uses == 0 {
        return Err(Refusal::bad("a PIN admits at least one machine"));
    }
    if new.hours > LIFE_HOURS_MAX {
        return Err(Refusal::bad(format!(
            "a PIN holds at most {LIFE_HOURS_MAX} hours"
        )));
    }
    let pin = Zeroizing::new(match new.pin {
        Some(pin) => pin,
        None => random_digits()?,
    });
    let salt: [u8; 16] = random()?;
    let hashed = {
        let pin = pin.clone();
        tokio::task::spawn_blocking(move || PinRule::hash(&pin, &salt)).await
    };
    let Some(hash) = hashed.ok().flatten() else {
        let (least, most) = (PinRule::LETTERS.start(), PinRule::LETTERS.end());
        return Err(Refusal::bad(format!(
            "a PIN has {least} to {most} letters or digits"
        )));
    };
    let until = match new.hours {
        0 => 0,
        hours => unix_seconds() + u64::from(hours) * 3600,
    };
    let stored = StoredPin {
        uses: new.uses,
        life_hours: new.hours,
        salt: Hex(salt),
        hash: Hex(hash),
        until,
    };
    let mut change = hq.database.write_by(&by).await?;
    let mut site = sites::named(&mut change, by.reach, &name).await?;
    rosters::set_pin(&mut change, site.id, Some(&stored)).await?;
    sites::refresh(&mut change, &hq, &mut site).await?;
    change.says(format!(
        "PIN of site {name:?} set, for {} machines and {} hours",
        new.uses, new.hours
    ));
    change.commit().await?;
    tracing::info!(site = name, uses = new.uses, "PIN set");
    Ok(Json(SitePin {
        pin: pin.to_string(),
        uses: new.uses,
        until_unix_seconds: until,
    }))
}

fn random_digits() -> Result<String, Refusal> {
    // 64 random bits over 10^8: no digit is likelier than another by more than one in 10^11
    let number = u64::from_le_bytes(random::<8>()?) % 10u64.pow(8);
    Ok(format!("{number:0PIN_DIGITS$}"))
}

/// The site has no PIN from now on.
pub(crate) async fn remove_pin(
    State(hq): State<Arc<Hq>>,
    Extension(by): Extension<By>,
    Named(name): Named,
) -> Result<StatusCode, Refusal> {
    check_authority(&hq)?;
    let mut change = hq.database.write_by(&by).await?;
    let mut site = sites::named(&mut change, by.reach, &name).await?;
    rosters::set_pin(&mut change, site.id, None).await?;
    sites::refresh(&mut change, &hq, &mut site).await?;
    change.says(format!("PIN of site {name:?} removed"));
    change.commit().await?;
    tracing::info!(site = name, "PIN removed");
    Ok(StatusCode::NO_CONTENT)
}

/// A UUID or serial that several machines carry counts as absent in the site: each is known by its other signs, and waits
/// once more under its new identity.
pub(crate) async fn demote(
    State(hq): State<Arc<Hq>>,
    Extension(by): Extension<By>,
    id: Named,
    Input(wish): Input<DemoteSign>,
) -> Result<Json<Machine>, Refusal> {
    check_authority(&hq)?;
    let id: MachineId = id.parse("machine (32 hexadecimal digits)")?;
    let mut change = hq.database.write_by(&by).await?;
    let mut seen = machines::of_identity(&mut change, by.reach, id, 64).await?;
    seen.retain(|(_, machine)| machine.site == wish.site);
    let Some((site, machine)) = seen.pop() else {
        return Err(Refusal::missing(format!(
            "machine {id} in site {:?}",
            wish.site
        )));
    };
    let (sign, what) = match wish.sign {
        SignKind::Uuid => (
            machine.facts.uuid.map(|u| Sign::of_uuid(&u.0)),
            machine.facts.uuid.map(|u| format!("UUID {u}")),
        ),
        SignKind::Serial => (
            machine.facts.serial.as_deref().map(Sign::of_serial),
            machine.facts.serial.as_ref().map(|s| format!("serial {s}")),
        ),
    };
    let (Some(sign), Some(what)) = (sign, what) else {
        return Err(Refusal::conflict(format!(
            "machine {id} has no {}",
            wish.sign.word()
        )));
    };
    if rosters::shared(&mut change, site).await?.len() >= ROSTER_SHARED_SIGNS_MAX {
        return Err(Refusal::conflict(format!(
            "the site's list of shared signs is full: {ROSTER_SHARED_SIGNS_MAX}"
        )));
    }
    rosters::share(&mut change, site, sign, &what).await?;
    let mut record = sites::of(&mut change, site).await?;
    sites::refresh(&mut change, &hq, &mut record).await?;
    change.says(format!("{what} counts as absent in site {:?}", record.name));
    change.commit().await?;
    tracing::info!(site = record.name, what, "counts as absent from now on");
    Ok(Json(machine))
}
