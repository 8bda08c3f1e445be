//! Accounts, for administrators.

use std::sync::Arc;

use axum::{Extension, Json, extract::State, http::StatusCode};
use web_api::{
    AccessTokenInfo, AccessTokenMade, NewAccessToken, NewUser, Page, Role, SessionInfo, SiteScope,
    UserChange, UserInfo,
};
use zeroize::Zeroizing;

use super::{passwords, secret_text};
use crate::{
    Hq,
    access::{By, secret_of},
    database::{
        Connection, access_tokens, reach,
        reach::Reach,
        sessions, unix_seconds, users,
        users::{UserFilter, UserRecord, UserSort},
    },
    error::Refusal,
    input::{Input, Named, checked_name, checked_tags},
    listed::Listed,
    sites,
};

/// Accounts of one HQ.
const USERS_MAX: u32 = 4096;
/// Sites and tags that are granted to one account.
const GRANTS_MAX: usize = 1024;
/// Access tokens of one account that are not over.
const TOKENS_PER_USER_MAX: u64 = 64;
const TOKENS_LISTED_MAX: u32 = 32_768;
const TOKEN_DAYS_MAX: u16 = 730;
/// By which an access token is known wherever it turns up.
const TOKEN_PREFIX: &str = "lampa1";

pub(crate) async fn list(
    State(hq): State<Arc<Hq>>,
    asked: Listed<UserSort, UserFilter>,
) -> Result<Json<Page<UserInfo>>, Refusal> {
    let mut db = hq.database.read().await?;
    let page = users::page(&mut db, &asked.filter, &asked.turn).await?;
    let mut rows = Vec::new();
    for user in page.rows {
        rows.push(user.info(&mut db).await?);
    }
    Ok(Json(Page {
        rows,
        total: page.total,
        next: page.next,
    }))
}

async fn named(db: &mut Connection, name: &str) -> Result<UserRecord, Refusal> {
    let found = users::by_name(db, name).await?;
    found.ok_or_else(|| Refusal::missing(format!("account {name:?}")))
}

/// Grants a scope to an account.
async fn grant(db: &mut Connection, id: i64, role: Role, scope: &SiteScope) -> Result<(), Refusal> {
    if scope.all && !(scope.sites.is_empty() && scope.tags.is_empty()) {
        return Err(Refusal::bad("a scope has all sites, or some: not both"));
    }
    if scope.sites.len() + scope.tags.len() > GRANTS_MAX {
        return Err(Refusal::bad(format!(
            "a scope names at most {GRANTS_MAX} sites and tags: give the sites a tag"
        )));
    }
    check_scope(role, scope.all)?;
    let mut ids = Vec::new();
    for name in &scope.sites {
        ids.push(sites::named(db, Reach::ALL, name).await?.id);
    }
    ids.sort_unstable();
    ids.dedup();
    let tags = checked_tags(&scope.tags)?;
    Ok(reach::grant(db, id, scope.all, &ids, &tags).await?)
}

/// Roles whose rights are of the whole chain.
fn check_scope(role: Role, all_sites: bool) -> Result<(), Refusal> {
    match role {
        Role::Administrator | Role::ImageAuthor if !all_sites => Err(Refusal::bad(format!(
            "what {role} may do concerns the whole chain: its scope is all sites"
        ))),
        _ => Ok(()),
    }
}

async fn hashed(hq: &Hq, password: Option<String>, name: &str) -> Result<Option<String>, Refusal> {
    let Some(password) = password.map(Zeroizing::new) else {
        return Ok(None);
    };
    passwords::check_form(&password, name)?;
    hq.passwords.hash(password).await.map(Some)
}

pub(crate) async fn create(
    State(hq): State<Arc<Hq>>,
    Extension(by): Extension<By>,
    Input(new): Input<NewUser>,
) -> Result<Json<UserInfo>, Refusal> {
    let name = checked_name(&new.name, "an account's name")?;
    let password = hashed(&hq, new.password, name).await?;
    let mut change = hq.database.write_by(&by).await?;
    if users::by_name(&mut change, name).await?.is_some() {
        return Err(Refusal::conflict(format!(
            "there is an account {name:?} already"
        )));
    }
    if users::count(&mut change).await? >= u64::from(USERS_MAX) {
        return Err(Refusal::conflict(format!(
            "there are {USERS_MAX} accounts: remove those that nobody uses"
        )));
    }
    let now = unix_seconds();
    let id = users::insert(&mut change, name, new.role, password.as_deref(), now).await?;
    grant(&mut change, id, new.role, &new.scope).await?;
    let info = named(&mut change, name).await?.info(&mut change).await?;
    change.says(format!(
        "account {name:?} made: {}, {}{}",
        new.role,
        info.scope,
        if info.has_password {
            ""
        } else {
            ", without a password"
        }
    ));
    change.commit().await?;
    Ok(Json(info))
}

pub(crate) async fn change(
    State(hq): State<Arc<Hq>>,
    Extension(by): Extension<By>,
    Named(name): Named,
    Input(wish): Input<UserChange>,
) -> Result<Json<UserInfo>, Refusal> {
    let password = hashed(&hq, wish.password, &name).await?;
    let mut change = hq.database.write_by(&by).await?;
    let mut user = named(&mut change, &name).await?;
    let mut said = Vec::new();
    let mut ends = false;
    if let Some(role) = wish.role {
        user.role = role;
        said.push(format!("role {role}"));
    }
    if password.is_some() {
        user.password = password;
        ends = true;
        said.push("new password".into());
    }
    match wish.disabled {
        Some(true) => {
            user.disabled = true;
            ends = true;
            said.push("disabled".into());
        }
        Some(false) => {
            user.disabled = false;
            (user.wrong, user.locked_until) = (0, 0);
            said.push("let in again".into());
        }
        None => {}
    }
    if wish.remove_authenticator {
        (user.authenticator, user.authenticator_offer) = (None, None);
        said.push("authenticator taken away".into());
    }
    users::update(&mut change, &user).await?;
    match &wish.scope {
        Some(scope) => {
            grant(&mut change, user.id, user.role, scope).await?;
            said.push(format!("scope {scope}"));
        }
        None => check_scope(user.role, user.all_sites)?,
    }
    if ends {
        // whoever changes its own password this way signs in again as well
        sessions::end_all(&mut change, user.id, None).await?;
    }
    let info = named(&mut change, &name).await?.info(&mut change).await?;
    let said = match said.is_empty() {
        true => "unchanged".to_owned(),
        false => said.join(", "),
    };
    change.says(format!("account {name:?}: {said}"));
    change.commit().await?;
    Ok(Json(info))
}

pub(crate) async fn remove(
    State(hq): State<Arc<Hq>>,
    Extension(by): Extension<By>,
    Named(name): Named,
) -> Result<StatusCode, Refusal> {
    let mut change = hq.database.write_by(&by).await?;
    let user = named(&mut change, &name).await?;
    users::remove(&mut change, user.id).await?;
    change.says(format!("account {name:?} removed: it was {}", user.role));
    change.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn sessions_of(
    State(hq): State<Arc<Hq>>,
    Extension(by): Extension<By>,
    Named(name): Named,
) -> Result<Json<Vec<SessionInfo>>, Refusal> {
    let mut db = hq.database.read().await?;
    let user = named(&mut db, &name).await?;
    let own = by.user.as_ref().is_some_and(|u| u.id == user.id);
    let current = by.session.filter(|_| own);
    Ok(Json(sessions::of_user(&mut db, user.id, current).await?))
}

pub(crate) async fn end_sessions(
    State(hq): State<Arc<Hq>>,
    Extension(by): Extension<By>,
    Named(name): Named,
) -> Result<StatusCode, Refusal> {
    let mut change = hq.database.write_by(&by).await?;
    let user = named(&mut change, &name).await?;
    let ended = sessions::end_all(&mut change, user.id, None).await?;
    change.says(format!("{ended} sessions of account {name:?} ended"));
    change.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn tokens(
    State(hq): State<Arc<Hq>>,
) -> Result<Json<Vec<AccessTokenInfo>>, Refusal> {
    let mut db = hq.database.read().await?;
    Ok(Json(
        access_tokens::infos(&mut db, None, TOKENS_LISTED_MAX).await?,
    ))
}

pub(crate) async fn new_token(
    State(hq): State<Arc<Hq>>,
    Extension(by): Extension<By>,
    Named(name): Named,
    Input(wish): Input<NewAccessToken>,
) -> Result<Json<AccessTokenMade>, Refusal> {
    make_token(&hq, &by, &name, &wish).await.map(Json)
}

/// Makes an access token of an account.
pub(super) async fn make_token(
    hq: &Hq,
    by: &By,
    user: &str,
    wish: &NewAccessToken,
) -> Result<AccessTokenMade, Refusal> {
    let name = checked_name(&wish.name, "an access token's name")?;
    if !(1..=TOKEN_DAYS_MAX).contains(&wish.days) {
        return Err(Refusal::bad(format!(
            "an access token holds 1 to {TOKEN_DAYS_MAX} days"
        )));
    }
    let now = unix_seconds();
    let mut change = hq.database.write_by(by).await?;
    let user = named(&mut change, user).await?;
    if access_tokens::count(&mut change, user.id, now).await? >= TOKENS_PER_USER_MAX {
        return Err(Refusal::conflict(format!(
            "the account has {TOKENS_PER_USER_MAX} access tokens: take back those that nothing uses"
        )));
    }
    let token = secret_text(TOKEN_PREFIX)?;
    let until = now + u64::from(wish.days) * 24 * 3600;
    let hash = secret_of(&token);
    let id = access_tokens::insert(&mut change, user.id, name, &hash, now, until).await?;
    change.says(format!(
        "access token {id} {name:?} of account {:?} made, for {} days",
        user.name, wish.days
    ));
    change.commit().await?;
    Ok(AccessTokenMade {
        token: token.to_string(),
        info: AccessTokenInfo {
            id,
            user: user.name,
            name: name.to_owned(),
            made_unix_seconds: now,
            until_unix_seconds: until,
            seen_unix_seconds: 0,
        },
    })
}

pub(crate) async fn remove_token(
    State(hq): State<Arc<Hq>>,
    Extension(by): Extension<By>,
    id: Named,
) -> Result<StatusCode, Refusal> {
    let id: u64 = id.parse("access token's number")?;
    let mut change = hq.database.write_by(&by).await?;
    if !access_tokens::remove(&mut change, None, id).await? {
        return Err(Refusal::missing(format!("access token {id}")));
    }
    change.says(format!("access token {id} taken back"));
    change.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
