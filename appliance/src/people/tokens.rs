//! Commands about enrolment tokens.

use std::time::UNIX_EPOCH;

use anyhow::{Result, ensure};
use peer_cache_origin::HqClient;
use reqwest::Method;
use web_api::{NewToken, TokenInfo, TokenMade};

use super::quoted;
use crate::Output;

pub(super) async fn make(
    client: &HqClient,
    site: &str,
    replaces: Option<String>,
    output: Output,
) -> Result<()> {
    let path = format!("/sites/{}/tokens", quoted(site));
    let token: TokenMade = client.post(&path, &NewToken { replaces }).await?;
    output.print(&token, |t| t.token.clone())
}

/// Newest first, after one was taken back.
pub(super) async fn list(
    client: &HqClient,
    site: &str,
    revoke: Option<u64>,
    output: Output,
) -> Result<()> {
    let path = format!("/sites/{}/tokens", quoted(site));
    let mut tokens: Vec<TokenInfo> = client.get(&path).await?;
    if let Some(id) = revoke {
        // numbers are HQ's, not the site's
        let is_here = tokens.iter().any(|t| t.id == id);
        ensure!(is_here, "site {site:?} has no token {id}");
        let token = client.request(Method::DELETE, &format!("/tokens/{id}"));
        client.send(token).await?;
        tokens = client.get(&path).await?;
    }
    let now = UNIX_EPOCH.elapsed()?.as_secs();
    output.print(&tokens, |tokens| {
        tokens.iter().map(|token| line(token, now)).collect()
    })
}

fn line(token: &TokenInfo, now: u64) -> String {
    let hours = token.expires_unix_seconds.saturating_sub(now) / 3600;
    let ends = match token.state.as_str() {
        "open" => format!(", {hours} h left"),
        _ => String::new(),
    };
    let replaces = token.replaces.map(|key| format!(", replaces {key}"));
    let replaces = replaces.unwrap_or_default();
    format!("{:>6} {}{ends}{replaces}\n", token.id, token.state)
}
