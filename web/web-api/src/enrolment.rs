//! The one string that turns a computer into a node of a site.

use std::{fmt, str::FromStr};

use data_encoding::BASE32_NOPAD;
use thiserror::Error;
use trust_format::codec::{Reader, Writer};

const PREFIX: &str = "lamp1";
const URL_BYTES_MAX: usize = 512;
const TOKEN_CHARS_MAX: usize = 1024;

/// What a certificate of HQ is pinned by: BLAKE3 of it in DER.
pub fn certificate_fingerprint(certificate: &[u8]) -> [u8; 32] {
    *blake3::hash(certificate).as_bytes()
}

/// Where HQ is, how to know it, and the secret that it knows us by: everything that a new node needs.
#[derive(Clone, PartialEq, Eq)]
pub struct EnrolmentToken {
    /// HQ's base address, such as `https://hq.example:8443`.
    pub url: String,
    /// BLAKE3 of HQ's certificate in DER.
    pub fingerprint: [u8; 32],
    /// Single use.
    pub secret: [u8; 16],
}

/// Why a string is no enrolment token. It never repeats the string.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ParseTokenError {
    /// It does not look like one.
    #[error("an enrolment token begins with {PREFIX}")]
    Prefix,
    /// It is damaged or cut off.
    #[error("the enrolment token is damaged; copy it again, all of it")]
    Damaged,
}

impl fmt::Display for EnrolmentToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = Writer::new();
        out.raw(&self.secret)
            .raw(&self.fingerprint)
            .bytes(self.url.as_bytes());
        let mut bytes = out.finish();
        let check = checksum(&bytes);
        bytes.extend_from_slice(&check);
        write!(f, "{PREFIX}{}", BASE32_NOPAD.encode(&bytes).to_lowercase())
    }
}

/// Tells a typing error from a wrong token; not a secret.
fn checksum(bytes: &[u8]) -> [u8; 4] {
    let mut sum = 0x811c_9dc5_u32;
    for byte in bytes {
        sum = (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    }
    sum.to_le_bytes()
}

impl FromStr for EnrolmentToken {
    type Err = ParseTokenError;

    fn from_str(text: &str) -> Result<Self, ParseTokenError> {
        let text = text.trim();
        let rest = text.strip_prefix(PREFIX).ok_or(ParseTokenError::Prefix)?;
        if rest.len() > TOKEN_CHARS_MAX {
            return Err(ParseTokenError::Damaged);
        }
        let bytes = BASE32_NOPAD
            .decode(rest.to_uppercase().as_bytes())
            .map_err(|_| ParseTokenError::Damaged)?;
        let (body, check) = bytes
            .split_last_chunk::<4>()
            .ok_or(ParseTokenError::Damaged)?;
        if checksum(body) != *check {
            return Err(ParseTokenError::Damaged);
        }
        let mut input = Reader::new(body);
        let mut read = || {
            let secret = input.array("secret")?;
            let fingerprint = input.array("fingerprint")?;
            let url = input.text(URL_BYTES_MAX, "address")?;
            Ok::<_, trust_format::codec::DecodeError>(Self {
                url,
                fingerprint,
                secret,
            })
        };
        let token = read().map_err(|_| ParseTokenError::Damaged)?;
        input.finish().map_err(|_| ParseTokenError::Damaged)?;
        Ok(token)
    }
}

impl fmt::Debug for EnrolmentToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnrolmentToken")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_a_terminal() {
        let token = EnrolmentToken {
            url: "https://hq.example:8443".into(),
            fingerprint: [7; 32],
            secret: [9; 16],
        };
        let text = token.to_string();
        assert_eq!(
            format!(" {}\n", text.to_lowercase())
                .parse::<EnrolmentToken>()
                .unwrap(),
            token
        );
        for at in 0..text.len() {
            assert!(text[..at].parse::<EnrolmentToken>().is_err());
        }
        let mut swapped: Vec<char> = text.chars().collect();
        let last = swapped.len() - 1;
        swapped[last - 3] = if swapped[last - 3] == 'a' { 'b' } else { 'a' };
        assert!(
            swapped
                .into_iter()
                .collect::<String>()
                .parse::<EnrolmentToken>()
                .is_err()
        );
        assert!(!format!("{token:?}").contains("09, 09"));
    }
}
