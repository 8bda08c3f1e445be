//! Codes of authenticators: TOTP (RFC 6238) as every app knows it, SHA-1, six digits, 30 s.

use data_encoding::BASE32_NOPAD;
use totp_rs::{Algorithm, Builder, Totp};
use web_api::AuthenticatorOffer;
use zeroize::Zeroizing;

use crate::error::{Refusal, random};

/// Steps of 30 s before and after HQ's clock whose codes are taken too.
const SKEW_STEPS: u16 = 1;
const ISSUER: &str = "Lamplighter";

fn failed(error: impl std::fmt::Display) -> Refusal {
    Refusal::failed(&std::io::Error::other(error.to_string()))
}

fn totp(secret: &str, account: &str) -> Result<Totp, Refusal> {
    let bytes = BASE32_NOPAD.decode(secret.as_bytes()).map_err(failed)?;
    // a colon would end the name in the URL
    let account = account.replace(':', " ");
    Builder::new()
        .with_algorithm(Algorithm::SHA1)
        .with_digits(6)
        .with_step_duration(30)
        .with_skew(SKEW_STEPS)
        .with_secret(bytes)
        .with_account_name(account)
        .with_issuer(Some(ISSUER))
        .build()
        .map_err(failed)
}

/// A new secret in base32, and how an app is told.
pub(crate) fn offer(account: &str) -> Result<AuthenticatorOffer, Refusal> {
    let bytes = Zeroizing::new(random::<20>()?);
    let secret = BASE32_NOPAD.encode(bytes.as_slice());
    let url = totp(&secret, account)?.to_url().map_err(failed)?;
    Ok(AuthenticatorOffer { secret, url })
}

/// The step of a code that holds now and was not shown yet: each is taken once (RFC 6238, section 5.2).
pub(crate) fn check(
    secret: &str,
    code: &str,
    now: u64,
    last_step: u64,
) -> Result<Option<u64>, Refusal> {
    let step = totp(secret, "")?.check(code.trim(), now);
    Ok(step.filter(|step| *step > last_step))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6238, appendix B: the secret is `12345678901234567890`; the last six of its eight digits.
    #[test]
    fn codes_of_the_standard_hold_once() {
        let secret = BASE32_NOPAD.encode(b"12345678901234567890");
        for (now, code) in [
            (59, "287082"),
            (1_111_111_109, "081804"),
            (1_234_567_890, "005924"),
            (20_000_000_000, "353130"),
        ] {
            let step = now / 30;
            assert_eq!(check(&secret, code, now, 0).unwrap(), Some(step));
            assert_eq!(check(&secret, code, now + 30, 0).unwrap(), Some(step));
            assert_eq!(check(&secret, code, now + 60, 0).unwrap(), None);
            assert_eq!(check(&secret, code, now, step).unwrap(), None, "again");
        }
        for code in ["", "28708", "287083", "2870820", "abcdef"] {
            assert_eq!(check(&secret, code, 59, 0).unwrap(), None, "{code}");
        }
    }

    #[test]
    fn an_offer_says_for_whom_it_is() {
        let offer = offer("ada: night shift").unwrap();
        assert!(
            offer.url.starts_with("otpauth://totp/Lamplighter:ada"),
            "{}",
            offer.url
        );
        assert!(offer.url.contains(&offer.secret));
        assert_eq!(offer.secret.len(), 32);
    }
}
