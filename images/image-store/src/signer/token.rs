//! Keys that a PKCS#11 token keeps. They sign in there and never come out.
//!
//! Only programs that are built with the feature `pkcs11` can load a token's module: a static one cannot load anything.

use std::{fmt, path::PathBuf};

use thiserror::Error;
use zeroize::Zeroizing;

use super::KeyHolder;

#[cfg(feature = "pkcs11")]
mod session;

/// A key in a token.
#[derive(Clone)]
pub struct TokenChoice {
    /// The token's PKCS#11 module, a shared object.
    pub module: PathBuf,
    /// The token's label.
    pub token: String,
    /// The key's label, the same for both halves.
    pub key: String,
    /// The user's PIN.
    pub pin: Zeroizing<String>,
}

impl fmt::Debug for TokenChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenChoice")
            .field("module", &self.module)
            .field("token", &self.token)
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

/// Why a token's key cannot be used.
#[derive(Debug, Error)]
pub enum OpenTokenError {
    /// This program has no PKCS#11 in it.
    #[error(
        "this program cannot load PKCS#11 modules: it is static. Build one that can with `cargo build --release -p appliance --features pkcs11`"
    )]
    NotBuilt,
    /// The module failed.
    #[error("PKCS#11 module {module}: {doing}")]
    Module {
        /// The module.
        module: PathBuf,
        /// What it was asked to do.
        doing: &'static str,
        /// Its answer.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No token, or several, of this label.
    #[error("PKCS#11 module {module} has {found} tokens labelled {token:?}; its tokens: {there:?}")]
    Token {
        /// The module.
        module: PathBuf,
        /// The label.
        token: String,
        /// How many have it.
        found: usize,
        /// The labels that there are.
        there: Vec<String>,
    },
    /// No key, or several, of this label.
    #[error("token {token:?} has {found} Ed25519 {half} keys labelled {key:?}, it should have one")]
    Key {
        /// The token.
        token: String,
        /// The label.
        key: String,
        /// `private` or `public`.
        half: &'static str,
        /// How many there are.
        found: usize,
    },
    /// The label is taken.
    #[error("token {token:?} has a key labelled {key:?} already; it is left as it is")]
    Taken {
        /// The token.
        token: String,
        /// The label.
        key: String,
    },
    /// The token does not keep the secret as it was told to.
    #[error(
        "token {token:?} made key {key:?} such that its secret can be taken out: delete it and use another token"
    )]
    NotKept {
        /// The token.
        token: String,
        /// The label.
        key: String,
    },
    /// The public half is something else than 32 bytes.
    #[error("the public half of key {key:?} in token {token:?} is no Ed25519 key")]
    NotEd25519 {
        /// The token.
        token: String,
        /// The label.
        key: String,
    },
}

/// Opens a key in a token.
///
/// # Errors
/// [`OpenTokenError`].
pub fn open_token_key(choice: &TokenChoice) -> Result<Box<dyn KeyHolder>, OpenTokenError> {
    #[cfg(feature = "pkcs11")]
    return Ok(Box::new(session::TokenKey::open(choice)?));
    #[cfg(not(feature = "pkcs11"))]
    {
        let _ = choice;
        Err(OpenTokenError::NotBuilt)
    }
}

/// Makes a key inside a token, which cannot be taken out of it.
///
/// # Errors
/// [`OpenTokenError`]; a label that is taken is refused, and so is a token that would give the secret out.
pub fn create_token_key(choice: &TokenChoice) -> Result<Box<dyn KeyHolder>, OpenTokenError> {
    #[cfg(feature = "pkcs11")]
    return Ok(Box::new(session::TokenKey::create(choice)?));
    #[cfg(not(feature = "pkcs11"))]
    {
        let _ = choice;
        Err(OpenTokenError::NotBuilt)
    }
}
