//! Accounts of people and of scripts.

use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use web_api::{Page, Role, UserInfo};

use super::{
    Connection, Result, big, flag,
    listing::{Key, Listing, Order, Turn},
    number, reach,
    reach::Reach,
    search::Search,
    sql, undecodable,
};
use crate::listed::Sort;

/// An account as stored.
#[derive(Debug, Clone)]
pub(crate) struct UserRecord {
    pub(crate) id: i64,
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) all_sites: bool,
    /// In the form of PHC strings; one without cannot sign in.
    pub(crate) password: Option<String>,
    /// The secret in base32 of an authenticator that was confirmed.
    pub(crate) authenticator: Option<String>,
    /// The same of one that was offered.
    pub(crate) authenticator_offer: Option<String>,
    /// The step of the last code that was shown: it is taken once.
    pub(crate) authenticator_step: u64,
    /// Wrong passwords and codes since the last right ones.
    pub(crate) wrong: u64,
    pub(crate) locked_until: u64,
    pub(crate) disabled: bool,
    made: u64,
    seen: u64,
}

impl UserRecord {
    /// Which sites it reaches.
    pub(crate) fn reach(&self) -> Reach {
        match self.all_sites {
            true => Reach::ALL,
            false => Reach::of(self.id),
        }
    }

    /// For people.
    pub(crate) async fn info(&self, db: &mut Connection) -> Result<UserInfo> {
        Ok(UserInfo {
            name: self.name.clone(),
            role: self.role,
            scope: reach::scope(db, self.id, self.all_sites).await?,
            disabled: self.disabled,
            has_password: self.password.is_some(),
            has_authenticator: self.authenticator.is_some(),
            locked_until_unix_seconds: self.locked_until,
            made_unix_seconds: self.made,
            seen_unix_seconds: self.seen,
        })
    }
}

/// An account in a row that has all columns of the table, the identity as `user_id`.
pub(super) fn record(row: &sql::Row) -> Result<UserRecord> {
    let role: &str = row.try_get("role")?;
    Ok(UserRecord {
        id: row.try_get("user_id")?,
        name: row.try_get("user_name")?,
        role: role.parse().map_err(|_| undecodable("role"))?,
        all_sites: flag(row, "all_sites")?,
        password: row.try_get("password")?,
        authenticator: row.try_get("authenticator")?,
        authenticator_offer: row.try_get("authenticator_offer")?,
        authenticator_step: number(row, "authenticator_step")?,
        wrong: number(row, "wrong")?,
        locked_until: number(row, "locked_until")?,
        disabled: flag(row, "disabled")?,
        made: number(row, "user_made")?,
        seen: number(row, "user_seen")?,
    })
}

/// How many there are.
pub(crate) async fn count(db: &mut Connection) -> Result<u64> {
    let row = sql::query("SELECT COUNT(*) AS users FROM users")
        .fetch_one(db)
        .await?;
    number(&row, "users")
}

/// The account of a name.
pub(crate) async fn by_name(db: &mut Connection, name: &str) -> Result<Option<UserRecord>> {
    let row = sql::query(
        "SELECT u.*, u.id AS user_id, u.name AS user_name, u.made AS user_made, u.seen AS user_seen FROM users u WHERE u.name = $1",
    )
    .bind(name)
    .fetch_optional(db)
    .await?;
    row.as_ref().map(record).transpose()
}

/// By what accounts are sorted.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum UserSort {
    /// By name.
    #[default]
    Name,
    /// Who was here last first.
    Seen,
}

impl Sort for UserSort {
    fn order(self) -> Order {
        const NAME: Key = Key::Text("u.name");
        match self {
            Self::Name => Order {
                word: "name",
                keys: &[NAME],
                descending: false,
            },
            Self::Seen => Order {
                word: "seen",
                keys: &[Key::Number("u.seen"), NAME],
                descending: true,
            },
        }
    }
}

/// Which accounts.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct UserFilter {
    /// With a role.
    #[param(inline, nullable = false)]
    pub(crate) role: Option<Role>,
    /// Words that are in the name, or parts of them.
    #[param(value_type = String, required = false)]
    pub(crate) search: Option<Search>,
}

/// Accounts for people.
pub(crate) async fn page(
    db: &mut Connection,
    filter: &UserFilter,
    turn: &Turn,
) -> Result<Page<UserRecord>> {
    let columns =
        "u.*, u.id AS user_id, u.name AS user_name, u.made AS user_made, u.seen AS user_seen";
    Listing::new(columns, "users u")
        .when("u.role = ", filter.role.map(|role| role.to_string()))
        .search("lower(u.name)", filter.search.as_ref())
        .page(db, turn, record)
        .await
}

/// Adds one that reaches no site yet. Returns its identity.
pub(crate) async fn insert(
    db: &mut Connection,
    name: &str,
    role: Role,
    password: Option<&str>,
    made: u64,
) -> Result<i64> {
    let row = sql::query(
        "INSERT INTO users (name, role, all_sites, password, made) VALUES ($1, $2, 0, $3, $4) RETURNING id",
    )
    .bind(name)
    .bind(role.word())
    .bind(password)
    .bind(big(made))
    .fetch_one(db)
    .await?;
    row.try_get("id")
}

/// Writes what administrators may change of it.
pub(crate) async fn update(db: &mut Connection, user: &UserRecord) -> Result<()> {
    sql::query(
        "UPDATE users SET role = $2, password = $3, authenticator = $4, authenticator_offer = $5, authenticator_step = $6,
         wrong = $7, locked_until = $8, disabled = $9 WHERE id = $1",
    )
    .bind(user.id)
    .bind(user.role.word())
    .bind(user.password.as_deref())
    .bind(user.authenticator.as_deref())
    .bind(user.authenticator_offer.as_deref())
    .bind(big(user.authenticator_step))
    .bind(big(user.wrong))
    .bind(big(user.locked_until))
    .bind(i64::from(user.disabled))
    .execute(db)
    .await?;
    Ok(())
}

/// It has signed in.
pub(crate) async fn signed_in(db: &mut Connection, id: i64, now: u64) -> Result<()> {
    sql::query("UPDATE users SET seen = $2 WHERE id = $1")
        .bind(id)
        .bind(big(now))
        .execute(db)
        .await?;
    Ok(())
}

/// Removes it, with its sessions and access tokens.
pub(crate) async fn remove(db: &mut Connection, id: i64) -> Result<()> {
    reach::forget(db, id).await?;
    for statement in [
        "DELETE FROM sessions WHERE user_id = $1",
        "DELETE FROM access_tokens WHERE user_id = $1",
        "DELETE FROM users WHERE id = $1",
    ] {
        sql::query(statement).bind(id).execute(db).await?;
    }
    Ok(())
}
