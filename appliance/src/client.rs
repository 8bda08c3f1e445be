//! People's way to HQ: with a token out of a file.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use peer_cache_origin::HqClient;
use web_api::Hex;

use crate::HqChoice;

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
