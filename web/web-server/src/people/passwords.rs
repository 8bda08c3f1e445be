//! Passwords, kept as argon2id (RFC 9106) with OWASP's least parameters: 19 MiB, two passes, one lane.

use std::{sync::Arc, time::Duration};

use argon2::{
    Argon2,
    password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash},
};
use axum::http::StatusCode;
use tokio::{sync::Semaphore, time::timeout};
use zeroize::Zeroizing;

use crate::error::{Refusal, random};

/// Hashes that are computed at the same time: each takes a core and 19 MiB for some 30 ms.
const AT_ONCE: usize = 1;
/// How long somebody waits for a turn.
const TURN_WITHIN: Duration = Duration::from_secs(5);
const CHARS_MIN: usize = 10;
const BYTES_MAX: usize = 512;

/// Where passwords are hashed, one after the other.
#[derive(Debug)]
pub(crate) struct Passwords(Arc<Semaphore>);

impl Default for Passwords {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(AT_ONCE)))
    }
}

/// Refuses what is too short, or the account's own name.
pub(crate) fn check_form(password: &str, name: &str) -> Result<(), Refusal> {
    if password.chars().count() < CHARS_MIN || password.len() > BYTES_MAX {
        return Err(Refusal::bad(format!(
            "a password has at least {CHARS_MIN} characters and at most {BYTES_MAX} bytes"
        )));
    }
    match password.to_lowercase().contains(&name.to_lowercase()) {
        true => Err(Refusal::bad("the account's name is in the password")),
        false => Ok(()),
    }
}

impl Passwords {
    async fn in_turn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let Ok(Ok(turn)) = timeout(TURN_WITHIN, self.0.clone().acquire_owned()).await else {
            return Err(Refusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "many people sign in at once: try again in a while",
            ));
        };
        // the turn is over when the work is, also when nobody waits for it any more: who hangs up and asks again gains nothing
        let work = tokio::task::spawn_blocking(move || {
            let done = work();
            drop(turn);
            done
        });
        work.await.map_err(|e| Refusal::failed(&e))
    }

    /// As it is stored.
    pub(crate) async fn hash(&self, password: Zeroizing<String>) -> Result<String, Refusal> {
        let salt: [u8; 16] = random()?;
        let work = move || {
            Argon2::default()
                .hash_password_with_salt(password.as_bytes(), &salt)
                .map(|hash| hash.to_string())
        };
        self.in_turn(work)
            .await?
            .map_err(|e| Refusal::failed(&std::io::Error::other(e.to_string())))
    }

    /// Whether it is the one that is stored. Where nothing is stored it takes as long.
    pub(crate) async fn is(
        &self,
        password: Zeroizing<String>,
        stored: Option<String>,
    ) -> Result<bool, Refusal> {
        if password.len() > BYTES_MAX {
            return Ok(false);
        }
        let Some(stored) = stored else {
            self.hash(password).await?;
            return Ok(false);
        };
        self.in_turn(move || {
            PasswordHash::new(&stored).is_ok_and(|hash| {
                Argon2::default()
                    .verify_password(password.as_bytes(), &hash)
                    .is_ok()
            })
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_is_known_again_and_no_other() {
        let passwords = Passwords::default();
        let password = |text: &str| Zeroizing::new(text.to_owned());
        let stored = passwords.hash(password("lamps at dusk")).await.unwrap();
        assert!(
            stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"),
            "{stored}"
        );
        let other = passwords.hash(password("lamps at dusk")).await.unwrap();
        assert_ne!(stored, other, "each has a salt of its own");
        for (text, stored, expect) in [
            ("lamps at dusk", Some(stored.clone()), true),
            ("lamps at dawn", Some(stored.clone()), false),
            ("", Some(stored), false),
            ("lamps at dusk", None, false),
            ("lamps at dusk", Some("no hash".into()), false),
        ] {
            assert_eq!(passwords.is(password(text), stored).await.unwrap(), expect);
        }
    }

    /// Who hangs up and asks again has no second hash computed beside the first.
    #[tokio::test]
    async fn a_turn_lasts_as_long_as_its_work() {
        let passwords = Passwords::default();
        let (begun, begins) = std::sync::mpsc::channel();
        let (ends, end) = std::sync::mpsc::channel::<()>();
        let work = passwords.in_turn(move || {
            begun.send(()).unwrap();
            end.recv().unwrap();
        });
        tokio::select! {
            biased;
            _ = work => unreachable!("it goes on"),
            () = tokio::task::yield_now() => {}
        }
        begins.recv().unwrap();
        assert_eq!(passwords.0.available_permits(), 0);
        ends.send(()).unwrap();
        passwords.in_turn(|| ()).await.unwrap();
    }

    #[test]
    fn short_ones_and_names_are_refused() {
        for (password, is_fine) in [
            ("lamps at dusk", true),
            ("ten chars.", true),
            ("nine char", false),
            ("Ada Ada Ada Ada", false),
            (&"x".repeat(513), false),
        ] {
            assert_eq!(check_form(password, "ada").is_ok(), is_fine, "{password}");
        }
    }
}
