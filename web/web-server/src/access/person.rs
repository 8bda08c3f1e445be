//! Who a person is, and what may be done by it.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use trust_format::SiteId;
use web_api::{Hex, Means, Right, Role};

use super::{Bounds, client_address, let_through};
use crate::{
    Hq,
    database::{
        Connection, access_tokens, audit::Act, reach, reach::Reach, sessions, unix_seconds,
        users::UserRecord,
    },
    error::Refusal,
};

/// The cookie of a session. Its prefix makes browsers take it from this host alone, over TLS alone (RFC 6265bis, section 4.1.3.2).
pub(crate) const SESSION_COOKIE: &str = "__Host-lamplighter";
/// A session ends so long after somebody signed in,
pub(crate) const SESSION_LIFE_SECONDS: u64 = 7 * 24 * 3600;
/// or so long after it was used.
const SESSION_IDLE_SECONDS: u64 = 12 * 3600;
/// Uses are written down no more often.
const SEEN_EVERY_SECONDS: u64 = 60;

/// What a route asks of a person.
#[derive(Clone)]
pub(crate) struct Gate {
    pub(crate) hq: Arc<Hq>,
    /// Method and route.
    pub(crate) operation: Arc<str>,
    pub(crate) right: Right,
    pub(crate) bounds: Bounds,
}

/// A person who was let through, and what it asks.
#[derive(Debug, Clone)]
pub(crate) struct By {
    pub(crate) name: String,
    /// The account; none for the token file.
    pub(crate) user: Option<UserRecord>,
    /// The session's number.
    pub(crate) session: Option<u64>,
    pub(crate) role: Role,
    pub(crate) reach: Reach,
    pub(crate) means: Means,
    pub(crate) address: String,
    operation: Arc<str>,
    target: String,
}

impl By {
    /// For the audit log.
    pub(crate) fn act(&self) -> Act {
        Act {
            who: self.name.clone(),
            means: self.means.word(),
            address: self.address.clone(),
            operation: self.operation.to_string(),
            target: self.target.clone(),
            what: String::new(),
        }
    }

    /// The account of somebody who signed in: neither a script with a token nor the token file changes how an account is entered.
    pub(crate) fn signed_in(&self) -> Result<&UserRecord, Refusal> {
        match (&self.user, self.means) {
            (Some(user), Means::Session) => Ok(user),
            _ => Err(Refusal::new(
                StatusCode::FORBIDDEN,
                "this is for somebody who signed in, not for tokens",
            )),
        }
    }

    /// Refuses what concerns a site that is out of reach, as if it were not there.
    pub(crate) async fn check_site(
        &self,
        db: &mut Connection,
        site: SiteId,
        what: impl std::fmt::Display,
    ) -> Result<(), Refusal> {
        match self.reach.is_all() || reach::reaches(db, self.reach, site).await? {
            true => Ok(()),
            false => Err(Refusal::missing(what)),
        }
    }
}

/// Who shows what.
struct Shown {
    user: Option<UserRecord>,
    session: Option<u64>,
    means: Means,
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    value.strip_prefix("Bearer ").map(str::trim)
}

/// The secret of a session, if a browser shows one.
fn cookie(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(header::COOKIE).iter();
    cookies
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(name, _)| *name == SESSION_COOKIE)
        .map(|(_, value)| value)
}

/// What is stored of a secret that HQ made: 160 random bits need no slow hash.
pub(crate) fn secret_of(text: &str) -> Hex<32> {
    Hex(*blake3::hash(text.as_bytes()).as_bytes())
}

/// Browsers show a session's cookie also when they are made to ask; they say whose page does.
fn from_our_own_page(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else {
        return headers
            .get("sec-fetch-site")
            .is_none_or(|site| matches!(site.as_bytes(), b"same-origin" | b"none"));
    };
    let host = headers.get(header::HOST).and_then(|h| h.to_str().ok());
    let page = origin
        .to_str()
        .ok()
        .and_then(|o| o.strip_prefix("https://"));
    page.is_some() && page == host
}

/// What a browser sends along when it changes something, and no foreign page can: an origin.
fn says_its_page(headers: &HeaderMap) -> bool {
    headers.contains_key(header::ORIGIN) || headers.contains_key("sec-fetch-site")
}

fn foreign() -> Refusal {
    Refusal::new(
        StatusCode::FORBIDDEN,
        "this request was made by another site's page",
    )
}

fn unknown() -> Refusal {
    Refusal::new(
        StatusCode::UNAUTHORIZED,
        "sign in, or show an access token as bearer, or the token of the file admin-token in HQ's folder",
    )
}

async fn shown(
    hq: &Hq,
    method: &Method,
    headers: &HeaderMap,
    address: &str,
) -> Result<Shown, Refusal> {
    if !from_our_own_page(headers) {
        return Err(foreign());
    }
    if let Some(token) = bearer(headers) {
        return by_token(hq, token).await;
    }
    let Some(secret) = cookie(headers) else {
        return Err(unknown());
    };
    if method != Method::GET && !says_its_page(headers) {
        return Err(foreign());
    }
    by_session(hq, secret, address).await
}

async fn by_token(hq: &Hq, token: &str) -> Result<Shown, Refusal> {
    if hq.admin.matches(token) {
        return Ok(Shown {
            user: None,
            session: None,
            means: Means::TokenFile,
        });
    }
    let found = access_tokens::by_hash(&mut *hq.database.read().await?, &secret_of(token)).await?;
    let now = unix_seconds();
    let Some(token) = found.filter(|t| !t.user.disabled && t.until > now) else {
        return Err(unknown());
    };
    if token.seen + SEEN_EVERY_SECONDS <= now {
        let mut change = hq.database.write().await?;
        access_tokens::used(&mut change, token.id, now).await?;
        change.commit().await?;
    }
    Ok(Shown {
        user: Some(token.user),
        session: None,
        means: Means::AccessToken,
    })
}

async fn by_session(hq: &Hq, secret: &str, address: &str) -> Result<Shown, Refusal> {
    let found = sessions::by_hash(&mut *hq.database.read().await?, &secret_of(secret)).await?;
    let now = unix_seconds();
    let holds = |s: &sessions::SessionRecord| {
        !s.user.disabled
            && s.made + SESSION_LIFE_SECONDS > now
            && s.seen + SESSION_IDLE_SECONDS > now
    };
    let Some(session) = found.filter(holds) else {
        return Err(unknown());
    };
    if session.seen + SEEN_EVERY_SECONDS <= now {
        let mut change = hq.database.write().await?;
        sessions::used(&mut change, session.id, now, address).await?;
        change.commit().await?;
    }
    Ok(Shown {
        user: Some(session.user),
        session: Some(session.id),
        means: Means::Session,
    })
}

/// Whether a person of this role and reach passes.
fn passes(by: &By, right: Right, bounds: Bounds) -> Result<(), Refusal> {
    let refuse = |sentence| Err(Refusal::new(StatusCode::FORBIDDEN, sentence));
    if !by.role.has(right) {
        let right = format!("{right:?}").to_lowercase();
        return refuse(format!(
            "{} is {} here, and this needs the right to {right}",
            by.name, by.role
        ));
    }
    if bounds == Bounds::Chain && !by.reach.is_all() {
        return refuse(format!(
            "this concerns the whole chain, and {} reaches some of its sites only",
            by.name
        ));
    }
    Ok(())
}

pub(crate) async fn person_only(
    State(gate): State<Gate>,
    mut request: Request,
    next: Next,
) -> Response {
    let address = client_address(&request).map_or_else(String::new, |a| a.ip().to_string());
    let shown = match shown(&gate.hq, request.method(), request.headers(), &address).await {
        Ok(shown) => shown,
        Err(refusal) => return refusal.into_response(),
    };
    let_through(&request);
    let user = shown.user.as_ref();
    let by = By {
        name: user.map_or_else(|| "the token file".to_owned(), |u| u.name.clone()),
        role: user.map_or(Role::Administrator, |u| u.role),
        reach: user.map_or(Reach::ALL, UserRecord::reach),
        user: shown.user,
        session: shown.session,
        means: shown.means,
        address,
        operation: gate.operation.clone(),
        target: request.uri().path().to_owned(),
    };
    if let Err(refusal) = passes(&by, gate.right, gate.bounds) {
        return refusal.into_response();
    }
    request.extensions_mut().insert(by);
    next.run(request).await
}
