//! What a person does with its own account.

use std::sync::Arc;

use axum::{Extension, Json, extract::State, http::StatusCode};
use web_api::{
    AccessTokenInfo, AccessTokenMade, AuthenticatorCode, AuthenticatorOffer, Me, NewAccessToken,
    PasswordChange, SessionInfo, SiteScope,
};
use zeroize::Zeroizing;

use super::{authenticator, passwords, sign_in, users};
use crate::{
    Hq,
    access::By,
    database::{
        Connection, access_tokens, reach, sessions, unix_seconds, users as table, users::UserRecord,
    },
    error::Refusal,
    input::{Input, Named},
};

/// How many access tokens one list has.
const TOKENS_LISTED_MAX: u32 = 1000;

pub(crate) async fn me(
    State(hq): State<Arc<Hq>>,
    Extension(by): Extension<By>,
) -> Result<Json<Me>, Refusal> {
    let scope = match &by.user {
        None => SiteScope::all(),
        Some(user) => {
            reach::scope(&mut *hq.database.read().await?, user.id, user.all_sites).await?
        }
    };
    Ok(Json(Me {
        has_authenticator: by.user.as_ref().is_some_and(|u| u.authenticator.is_some()),
        name: by.name,
        role: by.role,
        rights: by.role.rights().to_vec(),
        scope,
        means: by.means,
    }))
}

/// The account as it is within a transaction.
async fn again(db: &mut Connection, user: &UserRecord) -> Result<UserRecord, Refusal> {
    let now = table::by_name(db, &user.name).await?;
    now.filter(|now| now.id == user.id)
        .ok_or_else(|| Refusal::missing("this account"))
}

/// Who has somebody's session guesses no further than who has none.
fn check_may_try(user: &UserRecord) -> Result<(), Refusal> {
    match sign_in::may_try(user) {
        true => Ok(()),
        false => Err(Refusal::new(
            StatusCode::FORBIDDEN,
            "the account is locked after wrong tries: wait, or ask an administrator",
        )),
    }
}

pub(crate) async fn change_password(
    State(hq): State<Arc<Hq>>,
    Extension(by): Extension<By>,
    Input(wish): Input<PasswordChange>,
) -> Result<StatusCode, Refusal> {
    let user = by.signed_in()?;
    check_may_try(user)?;
    let (old, new) = (Zeroizing::new(wish.old), Zeroizing::new(wish.new));
    if !hq.passwords.is(old, user.password.clone()).await? {
        sign_in::count_wrong(&hq, &user.name, by.address.clone()).await?;
        return Err(Refusal::new(
            StatusCode::FORBIDDEN,
            "this is not the account's present password",
        ));
    }
    passwords::check_form(&new, &user.name)?;
    let hash = hq.passwords.hash(new).await?;
    let mut change = hq.database.write_by(&by).await?;
    let mut user = again(&mut change, user).await?;
    user.password = Some(hash);
    table::update(&mut change, &user).await?;
    let ended = sessions::end_all(&mut change, user.id, by.session).await?;
    change.says(format!(
        "own password changed, {ended} other sessions ended"
    ));
    change.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn offer_authenticator(
    State(hq): State<Arc<Hq>>,
    Extension(by): Extension<By>,
) -> Result<Json<AuthenticatorOffer>, Refusal> {
    let user = by.signed_in()?;
    let offer = authenticator::offer(&user.name)?;
    let mut change = hq.database.write_by(&by).await?;
    let mut user = again(&mut change, user).await?;
    if user.authenticator.is_some() {
        return Err(Refusal::conflict(
            "this account has an authenticator: take it away first, by a code of it",
        ));
    }
    user.authenticator_offer = Some(offer.secret.clone());
    table::update(&mut change, &user).await?;
    change.says("asked for an authenticator");
    change.commit().await?;
    Ok(Json(offer))
}

fn wrong_code() -> Refusal {
    Refusal::new(
        StatusCode::FORBIDDEN,
        "this is not the authenticator's code now: each is taken once, and the clocks of both have to agree to half a minute",
    )
}

/// The authenticator counts from now on.
pub(crate) async fn confirm_authenticator(
    State(hq): State<Arc<Hq>>,
    Extension(by): Extension<By>,
    Input(shown): Input<AuthenticatorCode>,
) -> Result<StatusCode, Refusal> {
    let user = by.signed_in()?;
    let mut change = hq.database.write_by(&by).await?;
    let mut user = again(&mut change, user).await?;
    let Some(secret) = user.authenticator_offer.take() else {
        return Err(Refusal::conflict("no authenticator was offered"));
    };
    let step = authenticator::check(&secret, &shown.code, unix_seconds(), 0)?;
    user.authenticator_step = step.ok_or_else(wrong_code)?;
    user.authenticator = Some(secret);
    table::update(&mut change, &user).await?;
    change.says("authenticator added");
    change.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn remove_authenticator(
    State(hq): State<Arc<Hq>>,
    Extension(by): Extension<By>,
    Input(shown): Input<AuthenticatorCode>,
) -> Result<StatusCode, Refusal> {
    let user = by.signed_in()?;
    check_may_try(user)?;
    let Some(secret) = &user.authenticator else {
        return Err(Refusal::conflict("this account has no authenticator"));
    };
    let last = user.authenticator_step;
    if authenticator::check(secret, &shown.code, unix_seconds(), last)?.is_none() {
        sign_in::count_wrong(&hq, &user.name, by.address.clone()).await?;
        return Err(wrong_code());
    }
    let mut change = hq.database.write_by(&by).await?;
    let mut user = again(&mut change, user).await?;
    user.authenticator = None;
    table::update(&mut change, &user).await?;
    change.says("authenticator taken away");
    change.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn sessions(
    State(hq): State<Arc<Hq>>,
    Extension(by): Extension<By>,
) -> Result<Json<Vec<SessionInfo>>, Refusal> {
    let user = by.signed_in()?;
    let mut db = hq.database.read().await?;
    Ok(Json(sessions::of_user(&mut db, user.id, by.session).await?))
}

pub(crate) async fn end_session(
    State(hq): State<Arc<Hq>>,
    Extension(by): Extension<By>,
    id: Named,
) -> Result<StatusCode, Refusal> {
    let user = by.signed_in()?;
    let id: u64 = id.parse("session's number")?;
    let mut change = hq.database.write_by(&by).await?;
    if !sessions::end(&mut change, user.id, id).await? {
        return Err(Refusal::missing(format!("session {id}")));
    }
    change.says(format!("own session {id} ended"));
    change.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn access_tokens(
    State(hq): State<Arc<Hq>>,
    Extension(by): Extension<By>,
) -> Result<Json<Vec<AccessTokenInfo>>, Refusal> {
    let user = by.signed_in()?;
    let mut db = hq.database.read().await?;
    Ok(Json(
        access_tokens::infos(&mut db, Some(user.id), TOKENS_LISTED_MAX).await?,
    ))
}

pub(crate) async fn new_access_token(
    State(hq): State<Arc<Hq>>,
    Extension(by): Extension<By>,
    Input(wish): Input<NewAccessToken>,
) -> Result<Json<AccessTokenMade>, Refusal> {
    let name = by.signed_in()?.name.clone();
    users::make_token(&hq, &by, &name, &wish).await.map(Json)
}

pub(crate) async fn remove_access_token(
    State(hq): State<Arc<Hq>>,
    Extension(by): Extension<By>,
    id: Named,
) -> Result<StatusCode, Refusal> {
    let user = by.signed_in()?;
    let id: u64 = id.parse("access token's number")?;
    let mut change = hq.database.write_by(&by).await?;
    if !access_tokens::remove(&mut change, Some(user.id), id).await? {
        return Err(Refusal::missing(format!("access token {id}")));
    }
    change.says(format!("own access token {id} taken back"));
    change.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
