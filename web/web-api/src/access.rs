//! People's accounts: roles, what they may do and where, how they sign in.

use serde::{Deserialize, Serialize};

/// What a person is to the chain. Each role is a fixed set of rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Everything, people and keys among it.
    Administrator,
    /// Makes and publishes images.
    ImageAuthor,
    /// Runs stores: sites, nodes, orders, budgets, vouchers.
    Operator,
    /// Stands in a store: looks, and approves machines.
    Technician,
    /// Looks.
    Viewer,
}

/// What a route asks of a person's role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Right {
    /// To use one's own account.
    Own,
    /// To see sites, machines, nodes, images, orders.
    Look,
    /// To approve machines.
    Attend,
    /// To change sites, enrol and revoke nodes, order.
    Operate,
    /// To upload, publish and discard images.
    Author,
    /// To manage people, keys and roots, and to read the audit log.
    Administer,
}

impl Role {
    /// All of them, the mightiest first.
    pub const ALL: [Self; 5] = [
        Self::Administrator,
        Self::ImageAuthor,
        Self::Operator,
        Self::Technician,
        Self::Viewer,
    ];

    /// What it may do.
    pub fn rights(self) -> &'static [Right] {
        use Right::{Administer, Attend, Author, Look, Operate, Own};
        match self {
            Self::Administrator => &[Own, Look, Attend, Operate, Author, Administer],
            Self::ImageAuthor => &[Own, Look, Author],
            Self::Operator => &[Own, Look, Attend, Operate],
            Self::Technician => &[Own, Look, Attend],
            Self::Viewer => &[Own, Look],
        }
    }

    /// Whether it may.
    pub fn has(self, right: Right) -> bool {
        self.rights().contains(&right)
    }

    /// As it is written in requests and stored.
    pub fn word(self) -> &'static str {
        match self {
            Self::Administrator => "administrator",
            Self::ImageAuthor => "image-author",
            Self::Operator => "operator",
            Self::Technician => "technician",
            Self::Viewer => "viewer",
        }
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.word())
    }
}

impl std::str::FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|role| role.word() == text);
        found.ok_or_else(|| {
            format!(
                "{text:?} is no role: {}",
                Self::ALL.map(Self::word).join(", ")
            )
        })
    }
}

/// Which sites a person's rights reach: all, or those that are named or carry one of the tags. Sites that come later and carry a tag
/// are in it too.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SiteScope {
    /// Every site of the chain; the lists are empty then.
    #[serde(default)]
    pub all: bool,
    /// Names of sites.
    #[serde(default)]
    pub sites: Vec<String>,
    /// Tags of sites.
    #[serde(default)]
    pub tags: Vec<String>,
}

impl SiteScope {
    /// Every site.
    pub fn all() -> Self {
        Self {
            all: true,
            ..Self::default()
        }
    }
}

impl std::fmt::Display for SiteScope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.all {
            return f.write_str("all sites");
        }
        let tags = self.tags.iter().map(|tag| format!("tag {tag}"));
        let parts: Vec<String> = self.sites.iter().cloned().chain(tags).collect();
        match parts.is_empty() {
            true => f.write_str("no site"),
            false => f.write_str(&parts.join(", ")),
        }
    }
}

/// An account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UserInfo {
    /// Unique.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// And where.
    pub scope: SiteScope,
    /// It cannot sign in, and its access tokens open nothing.
    pub disabled: bool,
    /// It has a password. One without is for scripts, with access tokens.
    pub has_password: bool,
    /// It has to show a code of its authenticator as well.
    pub has_authenticator: bool,
    /// Until when it is locked after wrong passwords, in seconds since 1970; 0 for not.
    pub locked_until_unix_seconds: u64,
    /// When it was made.
    pub made_unix_seconds: u64,
    /// When it last signed in; 0 for never.
    pub seen_unix_seconds: u64,
}

/// `POST /api/v1/users`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NewUser {
    /// 1 to 64 characters, of nobody else.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// And where.
    #[serde(default = "SiteScope::all")]
    pub scope: SiteScope,
    /// At least 10 characters. Without one the account cannot sign in and is for access tokens.
    #[serde(default)]
    pub password: Option<String>,
}

/// `PATCH /api/v1/users/{name}`: what is absent stays as it is.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct UserChange {
    /// Another role.
    pub role: Option<Role>,
    /// Another scope.
    pub scope: Option<SiteScope>,
    /// A new password. Its sessions end.
    pub password: Option<String>,
    /// True ends its sessions and lets it in no more. False lets it in again, and unlocks it.
    pub disabled: Option<bool>,
    /// True takes its authenticator away, for somebody who lost it.
    #[serde(default)]
    pub remove_authenticator: bool,
}

/// `POST /api/v1/session`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SignIn {
    /// Of the account.
    pub name: String,
    /// Its password.
    pub password: String,
    /// Six digits of its authenticator, if it has one.
    #[serde(default)]
    pub code: Option<String>,
}

/// `POST /api/v1/setup`: the first account, an administrator. The answer has its session.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Setup {
    /// What HQ printed at its start.
    pub code: String,
    /// The account's name.
    pub name: String,
    /// Its password.
    pub password: String,
}

/// `GET /api/v1/setup`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SetupState {
    /// Nobody has an account yet.
    pub needed: bool,
}

/// `GET /api/v1/me`: who asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Me {
    /// The account's name, or `the token file` of HQ's computer.
    pub name: String,
    /// Its role.
    pub role: Role,
    /// What it may do.
    pub rights: Vec<Right>,
    /// And where.
    pub scope: SiteScope,
    /// How it showed who it is.
    pub means: Means,
    /// It has to show a code when it signs in.
    pub has_authenticator: bool,
}

/// How somebody showed who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Means {
    /// A browser's session, after signing in.
    Session,
    /// An access token.
    AccessToken,
    /// The token file that HQ keeps in its folder.
    TokenFile,
}

impl Means {
    /// As it is stored.
    pub fn word(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::AccessToken => "access-token",
            Self::TokenFile => "token-file",
        }
    }
}

/// `PUT /api/v1/me/password`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct PasswordChange {
    /// The present one.
    pub old: String,
    /// From now on.
    pub new: String,
}

/// `POST /api/v1/me/authenticator`: a secret for an authenticator (RFC 6238: SHA-1, six digits, 30 s). It counts once a code of it was
/// shown to `PUT`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AuthenticatorOffer {
    /// In base32, to be typed.
    pub secret: String,
    /// `otpauth://`, to be scanned.
    pub url: String,
}

/// `PUT /api/v1/me/authenticator`, and `DELETE`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct AuthenticatorCode {
    /// Six digits.
    pub code: String,
}

/// A session of an account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SessionInfo {
    /// By which it is ended.
    pub id: u64,
    /// When somebody signed in.
    pub made_unix_seconds: u64,
    /// When it was last used, to a minute.
    pub seen_unix_seconds: u64,
    /// From where it was last used.
    pub address: String,
    /// What the browser calls itself.
    pub browser: String,
    /// It is the one that asks.
    pub current: bool,
}

/// `POST /api/v1/me/access-tokens`, and of an account by an administrator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NewAccessToken {
    /// What it is for.
    pub name: String,
    /// So many days it holds, 1 to 730.
    pub days: u16,
}

/// An access token: it may do what its account may.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AccessTokenInfo {
    /// By which it is revoked.
    pub id: u64,
    /// The account.
    pub user: String,
    /// What it is for.
    pub name: String,
    /// When it was made.
    pub made_unix_seconds: u64,
    /// When it ends.
    pub until_unix_seconds: u64,
    /// When it was last used, to a minute; 0 for never.
    pub seen_unix_seconds: u64,
}

/// The answer to a wish for one.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AccessTokenMade {
    /// Shown this once.
    pub token: String,
    /// The rest.
    pub info: AccessTokenInfo,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_has_one_word() {
        for role in Role::ALL {
            assert_eq!(role.word().parse(), Ok(role));
            let json = format!("\"{}\"", role.word());
            assert_eq!(serde_json::to_string(&role).unwrap(), json);
        }
        assert!("root".parse::<Role>().is_err());
    }

    #[test]
    fn a_scope_reads_as_a_person_would_say_it() {
        let scope = |sites: &[&str], tags: &[&str]| SiteScope {
            all: false,
            sites: sites.iter().map(ToString::to_string).collect(),
            tags: tags.iter().map(ToString::to_string).collect(),
        };
        assert_eq!(SiteScope::all().to_string(), "all sites");
        assert_eq!(scope(&[], &[]).to_string(), "no site");
        assert_eq!(scope(&["Graz"], &["pilot"]).to_string(), "Graz, tag pilot");
    }
}
