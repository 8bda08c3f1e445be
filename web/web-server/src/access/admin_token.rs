//! The token of HQ's own computer, in a file: whoever may read it is an administrator, also when nobody has an account yet.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use data_encoding::BASE32_NOPAD;
use subtle::ConstantTimeEq;

const TOKEN_BYTES: usize = 20;

/// The administrator's token, stored as a hash in memory and as a file with mode 0600 for the command line.
#[derive(Debug)]
pub struct AdminToken {
    hash: [u8; 32],
}

impl AdminToken {
    /// Opens the token file, or writes a new one. It has three lines: token, address, certificate fingerprint.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn open_or_create(path: &Path, url: &str, fingerprint: &[u8; 32]) -> io::Result<Self> {
        let token = match fs::read_to_string(path) {
            Ok(text) => text.lines().next().unwrap_or_default().to_owned(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let mut bytes = [0; TOKEN_BYTES];
                getrandom::fill(&mut bytes).map_err(|e| io::Error::other(e.to_string()))?;
                BASE32_NOPAD.encode(&bytes).to_lowercase()
            }
            Err(e) => return Err(e),
        };
        if token.len() < TOKEN_BYTES {
            return Err(io::Error::other(
                "the token file holds no token; remove it to get a new one",
            ));
        }
        // rewritten at each start: the address may be another one
        let temporary = path.with_extension("new");
        let mut file = fs::File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        writeln!(file, "{token}\n{url}\n{}", web_api::Hex(*fingerprint))?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        Ok(Self {
            hash: *blake3::hash(token.as_bytes()).as_bytes(),
        })
    }

    pub(crate) fn matches(&self, token: &str) -> bool {
        blake3::hash(token.as_bytes())
            .as_bytes()
            .ct_eq(&self.hash)
            .into()
    }
}
