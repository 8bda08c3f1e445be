//! People: their accounts, signing in, sessions, access tokens.

pub(crate) mod authenticator;
pub(crate) mod me;
pub(crate) mod passwords;
pub(crate) mod setup;
pub(crate) mod sign_in;
pub(crate) mod tries;
pub(crate) mod users;

use data_encoding::BASE32_NOPAD;
use zeroize::Zeroizing;

use crate::error::{Refusal, random};

/// 160 random bits as text that can be typed.
fn secret_text(prefix: &str) -> Result<Zeroizing<String>, Refusal> {
    let bytes = Zeroizing::new(random::<20>()?);
    let text = BASE32_NOPAD.encode(bytes.as_slice()).to_lowercase();
    Ok(Zeroizing::new(format!("{prefix}{text}")))
}
