//! People's way to HQ: with a token out of a file.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use peer_cache_origin::HqClient;
use reqwest::Method;
use serde::de::DeserializeOwned;
use web_api::{Hex, PAGE_ROWS_MAX, Page};

use crate::{HqChoice, people::quoted};

/// Which rows of a list are shown.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Rows {
    /// So many rows at most; all without.
    #[arg(long, value_name = "ROWS")]
    limit: Option<usize>,
    /// By what they are sorted; HQ's API has the words.
    #[arg(long, value_name = "WORD")]
    sort: Option<String>,
    /// The other way round.
    #[arg(long)]
    reverse: bool,
}

impl Rows {
    /// The first so many.
    pub(crate) fn first(limit: usize) -> Self {
        Self {
            limit: Some(limit),
            ..Self::default()
        }
    }
}

/// Words by which rows are found.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Search {
    /// Words that are all in the row, or parts of them.
    #[arg(long, value_name = "WORDS")]
    pub(crate) search: Option<String>,
}

/// Rows of a list, which HQ gives in pages: those that fit, as many as are wanted.
///
/// # Errors
/// When HQ cannot be asked, or refuses.
pub(crate) async fn rows<T: DeserializeOwned>(
    client: &HqClient,
    list: &str,
    wanted: &Rows,
    fitting: &[(&str, Option<&str>)],
) -> Result<Vec<T>> {
    let mut asked = String::new();
    for (word, value) in fitting.iter().chain(&[("sort", wanted.sort.as_deref())]) {
        if let Some(value) = value {
            asked += &format!("&{word}={}", quoted(value));
        }
    }
    if wanted.reverse {
        asked += "&reverse=true";
    }
    let limit = wanted.limit.unwrap_or(usize::MAX);
    let mut rows = Vec::new();
    let mut after = String::new();
    while rows.len() < limit {
        let size = (limit - rows.len()).min(PAGE_ROWS_MAX as usize);
        let page: Page<T> = client
            .get(&format!("{list}?limit={size}{asked}{after}"))
            .await?;
        rows.extend(page.rows);
        match page.next {
            Some(next) => after = format!("&after={}", quoted(&next)),
            None => break,
        }
    }
    Ok(rows)
}

/// Writes what HQ gives to a new file.
///
/// # Errors
/// When there is such a file, when it cannot be written, or when HQ refuses or breaks off.
pub(crate) async fn download(client: &HqClient, path: &str, file: &Path) -> Result<()> {
    let mut out = crate::vouchers::new_file(file)?;
    let writing = || format!("writing {}", file.display());
    let mut response = client.send(client.request(Method::GET, path)).await?;
    while let Some(bytes) = response.chunk().await.context("HQ's answer broke off")? {
        out.write_all(&bytes).with_context(writing)?;
    }
    out.sync_all().with_context(writing)
}

/// All of them.
///
/// # Errors
/// As [`rows`].
pub(crate) async fn all_rows<T: DeserializeOwned>(client: &HqClient, list: &str) -> Result<Vec<T>> {
    rows(client, list, &Rows::default(), &[]).await
}

/// Where an HQ that runs on this computer leaves word of itself. Only its own user may write there.
pub(crate) fn word_of_local_hq() -> PathBuf {
    let user = nix::unistd::geteuid();
    let folder = match (user.is_root(), std::env::var_os("XDG_RUNTIME_DIR")) {
        (true, _) => PathBuf::from("/run/lamplighter"),
        (false, Some(folder)) => PathBuf::from(folder).join("lamplighter"),
        (false, None) => std::env::temp_dir().join(format!("lamplighter-{user}")),
    };
    folder.join("hq")
}

/// For people: with the token of a file.
///
/// # Errors
/// When no HQ is named and none runs here, or the token file cannot be read.
pub(crate) fn for_people(choice: &HqChoice) -> Result<HqClient> {
    Ok(with_pin(choice)?.0)
}

/// The same, and the hash of HQ's certificate.
///
/// # Errors
/// As [`for_people`].
pub(crate) fn with_pin(choice: &HqChoice) -> Result<(HqClient, Hex<32>)> {
    let path = match &choice.token_file {
        Some(path) => path.clone(),
        None => local_token_file()?,
    };
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("reading the token file {}", path.display()))?;
    let mut lines = text.lines();
    let (Some(token), Some(url), Some(fingerprint)) = (lines.next(), lines.next(), lines.next())
    else {
        bail!(
            "{} is no token file: it should have three lines",
            path.display()
        );
    };
    let fingerprint: Hex<32> = fingerprint
        .parse()
        .map_err(anyhow::Error::msg)
        .context("the token file's third line")?;
    let base = choice.hq.clone().unwrap_or_else(|| url.to_owned());
    let client = HqClient::with_token(base, fingerprint.0, token.to_owned())?;
    Ok((client, fingerprint))
}

fn local_token_file() -> Result<PathBuf> {
    let word = word_of_local_hq();
    let path = std::fs::read_to_string(&word).with_context(|| {
        "no HQ of yours runs on this computer (start one with `lamplighter hq --dir DIR`, or name its --token-file)"
    })?;
    Ok(Path::new(path.trim()).to_owned())
}
