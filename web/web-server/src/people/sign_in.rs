//! Signing in and out.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use axum::{
    Extension,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use web_api::SignIn;
use zeroize::Zeroizing;

use super::{authenticator, secret_text};
use crate::{
    Hq,
    access::{By, SESSION_COOKIE, SESSION_LIFE_SECONDS, secret_of},
    database::{Change, audit::Act, sessions, unix_seconds, users, users::UserRecord},
    door::household,
    error::Refusal,
    input::{Input, clip},
    tls::ClientAddress,
};

/// Wrong passwords and codes in a row after which an account is locked,
const WRONG_MAX: u64 = 5;
/// and for how long.
const LOCK_SECONDS: u64 = 15 * 60;
const BROWSER_CHARS_MAX: usize = 200;

/// The same words for every cause: who guesses learns of no account whether it is there or locked.
fn wrong() -> Refusal {
    Refusal::new(
        StatusCode::UNAUTHORIZED,
        "no account has this name, password and code, or it is locked after wrong tries: an administrator can let it in again",
    )
}

pub(crate) async fn sign_in(
    State(hq): State<Arc<Hq>>,
    Extension(ClientAddress(client)): Extension<ClientAddress>,
    headers: HeaderMap,
    Input(wish): Input<SignIn>,
) -> Result<Cookie, Refusal> {
    let password = Zeroizing::new(wish.password);
    let from = household(client.ip());
    if let Some(wait) = hq.tries.held(Instant::now(), from) {
        return Err(Refusal::new(
            StatusCode::TOO_MANY_REQUESTS,
            format!(
                "many wrong tries came from this address: wait {} s",
                wait.as_secs() + 1
            ),
        ));
    }
    let found = users::by_name(&mut *hq.database.read().await?, &wish.name).await?;
    let found = found.filter(may_try);
    let stored = found.as_ref().and_then(|user| user.password.clone());
    let is_right = hq.passwords.is(password, stored).await?;
    let Some(user) = found.filter(|_| is_right) else {
        hq.tries.was_wrong(Instant::now(), from);
        count_wrong(&hq, &wish.name, client.ip().to_string()).await?;
        return Err(wrong());
    };
    let step = match (&user.authenticator, &wish.code) {
        (None, _) => Some(user.authenticator_step),
        (Some(_), None) => {
            return Err(Refusal::new(
                StatusCode::UNAUTHORIZED,
                "this account has an authenticator: its code is needed too",
            )
            .needing_code());
        }
        (Some(secret), Some(code)) => {
            authenticator::check(secret, code, unix_seconds(), user.authenticator_step)?
        }
    };
    let Some(step) = step else {
        hq.tries.was_wrong(Instant::now(), from);
        count_wrong(&hq, &wish.name, client.ip().to_string()).await?;
        return Err(wrong());
    };
    let mut change = hq
        .database
        .write_act(act(&user.name, client.ip().to_string()))
        .await?;
    // what was checked may have changed meanwhile, and of two who show one code the first is in
    let now = users::by_name(&mut change, &user.name).await?;
    let still = |now: &UserRecord| {
        now.id == user.id
            && now.password == user.password
            && now.authenticator == user.authenticator
            && now.authenticator_step == user.authenticator_step
    };
    let Some(mut user) = now.filter(may_try).filter(still) else {
        return Err(wrong());
    };
    user.wrong = 0;
    user.authenticator_step = step;
    users::update(&mut change, &user).await?;
    let secret = begin_session(&mut change, user.id, client, &headers).await?;
    change.says("signed in");
    change.commit().await?;
    with_cookie(&secret)
}

/// Whether a password or a code of the account is looked at now.
pub(super) fn may_try(user: &UserRecord) -> bool {
    !user.disabled && user.locked_until <= unix_seconds()
}

fn act(name: &str, address: String) -> Act {
    Act {
        who: name.to_owned(),
        means: "password",
        address,
        operation: "POST /api/v1/session".into(),
        target: "/api/v1/session".into(),
        what: String::new(),
    }
}

/// An account that is guessed at is locked; that is in the audit log, single wrong tries are not.
pub(super) async fn count_wrong(hq: &Hq, name: &str, address: String) -> Result<(), Refusal> {
    let known = users::by_name(&mut *hq.database.read().await?, name).await?;
    if !known.is_some_and(|user| may_try(&user)) {
        return Ok(());
    }
    let mut change = hq.database.write().await?;
    let Some(mut user) = users::by_name(&mut change, name).await?.filter(may_try) else {
        return Ok(());
    };
    user.wrong += 1;
    if user.wrong >= WRONG_MAX {
        user.wrong = 0;
        user.locked_until = unix_seconds() + LOCK_SECONDS;
        change.act_of(Act {
            what: format!("locked for {LOCK_SECONDS} s after {WRONG_MAX} wrong tries"),
            ..act(name, address)
        });
        tracing::warn!(user = name, "an account is locked after wrong tries");
    }
    users::update(&mut change, &user).await?;
    change.commit().await?;
    Ok(())
}

/// Begins a session of an account. Returns its secret.
pub(super) async fn begin_session(
    change: &mut Change,
    user: i64,
    client: SocketAddr,
    headers: &HeaderMap,
) -> Result<Zeroizing<String>, Refusal> {
    let secret = secret_text("")?;
    let browser = headers.get(header::USER_AGENT);
    let mut browser = browser.map_or_else(String::new, |b| {
        String::from_utf8_lossy(b.as_bytes()).into_owned()
    });
    clip(&mut browser, BROWSER_CHARS_MAX);
    let now = unix_seconds();
    let address = client.ip().to_string();
    sessions::insert(change, user, &secret_of(&secret), now, &address, &browser).await?;
    users::signed_in(change, user, now).await?;
    Ok(secret)
}

fn cookie(value: &str, seconds: u64) -> Result<Cookie, Refusal> {
    let text = format!(
        "{SESSION_COOKIE}={value}; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age={seconds}"
    );
    let mut value = HeaderValue::try_from(text).map_err(|e| Refusal::failed(&e))?;
    value.set_sensitive(true);
    Ok(Cookie(value))
}

/// 204, and the browser keeps the secret where no script reads it.
pub(crate) struct Cookie(HeaderValue);

impl IntoResponse for Cookie {
    fn into_response(self) -> Response {
        (StatusCode::NO_CONTENT, [(header::SET_COOKIE, self.0)]).into_response()
    }
}

/// The cookie of a session that begins.
pub(super) fn with_cookie(secret: &str) -> Result<Cookie, Refusal> {
    cookie(secret, SESSION_LIFE_SECONDS)
}

pub(crate) async fn sign_out(
    State(hq): State<Arc<Hq>>,
    Extension(by): Extension<By>,
) -> Result<Cookie, Refusal> {
    let user = by.signed_in()?;
    if let Some(session) = by.session {
        let mut change = hq.database.write_by(&by).await?;
        sessions::end(&mut change, user.id, session).await?;
        change.says("signed out");
        change.commit().await?;
    }
    cookie("", 0)
}
