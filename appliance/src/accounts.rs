//! Commands about people's accounts, access tokens and the audit log.

mod audit;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Subcommand;
use peer_cache_origin::HqClient;
use reqwest::Method;
use serde::{Serialize, de::DeserializeOwned};
use web_api::{
    AccessTokenInfo, AccessTokenMade, NewAccessToken, NewUser, Role, SiteScope, UserChange,
    UserInfo,
};
use zeroize::Zeroizing;

use crate::{
    HqChoice, Output,
    client::{self, Rows, Search},
    people::quoted,
    terminal,
};

pub(crate) use audit::{AuditCommand, run as audit, utc};

/// `lamplighter user ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum UserCommand {
    /// Lists accounts.
    List {
        #[command(flatten)]
        search: Search,
        #[command(flatten)]
        rows: Rows,
        #[command(flatten)]
        hq: HqChoice,
        #[command(flatten)]
        output: Output,
    },
    /// Makes an account. Its password is asked for on the terminal.
    Add {
        /// Its name.
        name: String,
        /// administrator, image-author, operator, technician or viewer.
        #[arg(long)]
        role: Role,
        #[command(flatten)]
        scope: ScopeArguments,
        #[command(flatten)]
        password: PasswordArguments,
        #[command(flatten)]
        hq: HqChoice,
        #[command(flatten)]
        output: Output,
    },
    /// Changes an account.
    Set {
        /// Its name.
        name: String,
        /// administrator, image-author, operator, technician or viewer.
        #[arg(long)]
        role: Option<Role>,
        #[command(flatten)]
        scope: ScopeArguments,
        /// Every site.
        #[arg(long, conflicts_with_all = ["sites", "tags"])]
        all_sites: bool,
        /// Ask for a new password on the terminal. Its sessions end.
        #[arg(long, conflicts_with = "password_file")]
        new_password: bool,
        /// The new password is in this file.
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
        /// It signs in no more, and its access tokens open nothing.
        #[arg(long, conflicts_with = "enable")]
        disable: bool,
        /// It signs in again, also if it was locked after wrong passwords.
        #[arg(long)]
        enable: bool,
        /// Take its authenticator away.
        #[arg(long)]
        remove_authenticator: bool,
        #[command(flatten)]
        hq: HqChoice,
        #[command(flatten)]
        output: Output,
    },
    /// Removes an account, its sessions and its access tokens.
    Remove {
        /// Its name.
        name: String,
        #[command(flatten)]
        hq: HqChoice,
    },
}

/// Which sites; all of them when none is named.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ScopeArguments {
    /// Only these sites.
    #[arg(long, value_delimiter = ',')]
    sites: Vec<String>,
    /// Only sites with one of these tags.
    #[arg(long, value_delimiter = ',')]
    tags: Vec<String>,
}

impl ScopeArguments {
    fn named(self) -> Option<SiteScope> {
        let is_named = !(self.sites.is_empty() && self.tags.is_empty());
        is_named.then_some(SiteScope {
            all: false,
            sites: self.sites,
            tags: self.tags,
        })
    }
}

/// Where a password comes from.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct PasswordArguments {
    /// The password is in this file.
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// An account for scripts: it signs in never and has access tokens only.
    #[arg(long, conflicts_with = "password_file")]
    no_password: bool,
}

/// `lamplighter access-token ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum AccessTokenCommand {
    /// Lists access tokens.
    List {
        #[command(flatten)]
        hq: HqChoice,
        #[command(flatten)]
        output: Output,
    },
    /// Makes an access token of an account and writes it to a file for --token-file.
    Add {
        /// The account.
        user: String,
        /// What it is for.
        name: String,
        /// So many days it holds.
        #[arg(long, default_value_t = 90)]
        days: u16,
        /// A new file, which has the token, HQ's address and the hash of its certificate.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        #[command(flatten)]
        hq: HqChoice,
        #[command(flatten)]
        output: Output,
    },
    /// Takes an access token back.
    Revoke {
        /// Its number.
        id: u64,
        #[command(flatten)]
        hq: HqChoice,
    },
}

fn password(file: Option<&Path>) -> Result<Zeroizing<String>> {
    if let Some(file) = file {
        let text = Zeroizing::new(
            std::fs::read_to_string(file)
                .with_context(|| format!("reading the password in {}", file.display()))?,
        );
        return Ok(Zeroizing::new(
            text.trim_end_matches(['\r', '\n']).to_owned(),
        ));
    }
    if !terminal::is_there() {
        bail!("an account needs a password: start this on a terminal, or name a --password-file");
    }
    let password = terminal::ask_hidden("Password")?;
    let again = terminal::ask_hidden("The same again")?;
    ensure!(password == again, "these are two passwords");
    Ok(password)
}

async fn send<T: DeserializeOwned>(
    client: &HqClient,
    method: Method,
    path: &str,
    body: &impl Serialize,
) -> Result<T> {
    let request = client.request(method, path).json(body);
    Ok(client.send(request).await?.json().await?)
}

async fn delete(client: &HqClient, path: &str) -> Result<()> {
    client.send(client.request(Method::DELETE, path)).await?;
    Ok(())
}

/// Runs one.
pub(crate) async fn user(command: UserCommand) -> Result<()> {
    match command {
        UserCommand::List {
            search,
            rows,
            hq,
            output,
        } => {
            let fitting = [("search", search.search.as_deref())];
            let client = client::for_people(&hq)?;
            let users: Vec<UserInfo> = client::rows(&client, "/users", &rows, &fitting).await?;
            output.print(&users, |users| users_text(users))
        }
        UserCommand::Add {
            name,
            role,
            scope,
            password: from,
            hq,
            output,
        } => {
            let client = client::for_people(&hq)?;
            let password = match from.no_password {
                true => None,
                false => Some(password(from.password_file.as_deref())?.to_string()),
            };
            let new = NewUser {
                name,
                role,
                scope: scope.named().unwrap_or_else(SiteScope::all),
                password,
            };
            let made: UserInfo = client.post("/users", &new).await?;
            output.print(&made, line)
        }
        UserCommand::Set {
            name,
            role,
            scope,
            all_sites,
            new_password,
            password_file,
            disable,
            enable,
            remove_authenticator,
            hq,
            output,
        } => {
            let client = client::for_people(&hq)?;
            let has_new = new_password || password_file.is_some();
            let change = UserChange {
                role,
                scope: scope.named().or(all_sites.then(SiteScope::all)),
                password: match has_new {
                    true => Some(password(password_file.as_deref())?.to_string()),
                    false => None,
                },
                disabled: (disable || enable).then_some(disable),
                remove_authenticator,
            };
            let path = format!("/users/{}", quoted(&name));
            let user: UserInfo = send(&client, Method::PATCH, &path, &change).await?;
            output.print(&user, line)
        }
        UserCommand::Remove { name, hq } => {
            let path = format!("/users/{}", quoted(&name));
            delete(&client::for_people(&hq)?, &path).await
        }
    }
}

fn users_text(users: &[UserInfo]) -> String {
    match users.is_empty() {
        true => "nobody has an account yet: lamplighter user add NAME --role administrator".into(),
        false => users.iter().map(|user| line(user) + "\n").collect(),
    }
}

fn line(user: &UserInfo) -> String {
    let mut notes = Vec::new();
    if user.disabled {
        notes.push("disabled");
    }
    if user.locked_until_unix_seconds > 0 && !user.disabled {
        notes.push("was locked after wrong passwords");
    }
    if !user.has_password {
        notes.push("for access tokens");
    }
    if user.has_authenticator {
        notes.push("with authenticator");
    }
    let notes: String = notes.iter().map(|note| format!("  {note}")).collect();
    format!(
        "{:24} {:14} {}{notes}",
        user.name,
        user.role.word(),
        user.scope
    )
}

/// Runs one.
pub(crate) async fn access_token(command: AccessTokenCommand) -> Result<()> {
    match command {
        AccessTokenCommand::List { hq, output } => {
            let tokens: Vec<AccessTokenInfo> =
                client::for_people(&hq)?.get("/access-tokens").await?;
            let now = std::time::UNIX_EPOCH.elapsed()?.as_secs();
            output.print(&tokens, |tokens| {
                tokens.iter().map(|token| token_line(token, now)).collect()
            })
        }
        AccessTokenCommand::Add {
            user,
            name,
            days,
            out,
            hq,
            output,
        } => {
            let (client, pin) = client::with_pin(&hq)?;
            // before the token is made: nothing is lost when there is no room for it
            let file = crate::vouchers::new_file(&out)?;
            let path = format!("/users/{}/access-tokens", quoted(&user));
            let made: AccessTokenMade =
                match client.post(&path, &NewAccessToken { name, days }).await {
                    Ok(made) => made,
                    Err(error) => {
                        // it is empty
                        let _ = std::fs::remove_file(&out);
                        return Err(error.into());
                    }
                };
            let token = Zeroizing::new(made.token);
            let text = Zeroizing::new(format!("{}\n{}\n{pin}\n", *token, client.base()));
            crate::vouchers::write(file, text.as_bytes())
                .with_context(|| format!("writing {}", out.display()))?;
            output.print(&out.display().to_string(), |path| {
                format!("written to {path}: use it by --token-file or LAMPLIGHTER_TOKEN_FILE")
            })
        }
        AccessTokenCommand::Revoke { id, hq } => {
            delete(&client::for_people(&hq)?, &format!("/access-tokens/{id}")).await
        }
    }
}

fn token_line(token: &AccessTokenInfo, now: u64) -> String {
    let days = token.until_unix_seconds.saturating_sub(now) / (24 * 3600);
    let ends = match token.until_unix_seconds > now {
        true => format!("{days} days left"),
        false => "over".into(),
    };
    let used = match token.seen_unix_seconds {
        0 => ", never used".into(),
        seen => format!(", used {} days ago", now.saturating_sub(seen) / (24 * 3600)),
    };
    format!(
        "{:>6} {:24} {}: {ends}{used}\n",
        token.id, token.user, token.name
    )
}
