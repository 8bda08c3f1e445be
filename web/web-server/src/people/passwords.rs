//! Passwords, kept as argon2id (RFC 9106) with one of the least settings that OWASP gives: 12 MiB, three passes, one lane.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use argon2::{Algorithm, Argon2, Block, Params, Version, password_hash::phc::PasswordHash};
use axum::http::StatusCode;
use data_encoding::BASE64_NOPAD;
use subtle::ConstantTimeEq;
use tokio::{sync::Semaphore, time::timeout};
use zeroize::Zeroizing;

use crate::error::{Refusal, random};

/// Memory and passes of new hashes.
const MEMORY_KIB: u32 = 12 << 10;
const PASSES: u32 = 3;
/// Of a stored one, whoever wrote it.
const MEMORY_KIB_MAX: u32 = 64 << 10;
/// Hashes that are computed at the same time: each takes a core for some 20 ms.
const AT_ONCE: usize = 1;
/// How long somebody waits for a turn.
const TURN_WITHIN: Duration = Duration::from_secs(5);
const CHARS_MIN: usize = 10;
const BYTES_MAX: usize = 512;

/// Where passwords are hashed, one after the other and in the same memory: what is allocated for each hash anew stays with whichever
/// thread computed it, and strangers may ask for as many as they like.
#[derive(Debug)]
pub(crate) struct Passwords {
    turns: Arc<Semaphore>,
    memory: Arc<Mutex<Vec<Block>>>,
}

impl Default for Passwords {
    fn default() -> Self {
        Self {
            turns: Arc::new(Semaphore::new(AT_ONCE)),
            memory: Arc::default(),
        }
    }
}

type Hash = [u8; 32];

fn compute(
    memory: &mut Vec<Block>,
    password: &[u8],
    salt: &[u8],
    params: Params,
) -> Result<Hash, argon2::Error> {
    memory.resize(params.block_count(), Block::default());
    let mut hash = Hash::default();
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params).hash_password_into_with_memory(
        password,
        salt,
        &mut hash,
        &mut memory[..],
    )?;
    Ok(hash)
}

/// As it is stored: a PHC string.
fn written(
    memory: &mut Vec<Block>,
    password: &[u8],
    salt: &[u8; 16],
) -> Result<String, argon2::Error> {
    let params = Params::new(MEMORY_KIB, PASSES, 1, Some(size_of::<Hash>()))?;
    let hash = compute(memory, password, salt, params)?;
    let (salt, hash) = (BASE64_NOPAD.encode(salt), BASE64_NOPAD.encode(&hash));
    Ok(format!(
        "$argon2id$v=19$m={MEMORY_KIB},t={PASSES},p=1${salt}${hash}"
    ))
}

/// Whether a password is the stored one. What this program does not write is nobody's.
fn is_stored(memory: &mut Vec<Block>, password: &[u8], stored: &str) -> bool {
    let Ok(stored) = PasswordHash::new(stored) else {
        return false;
    };
    let (Some(salt), Some(hash), Ok(params)) =
        (&stored.salt, &stored.hash, Params::try_from(&stored))
    else {
        return false;
    };
    if stored.algorithm != Algorithm::Argon2id.ident() || params.m_cost() > MEMORY_KIB_MAX {
        return false;
    }
    compute(memory, password, salt.as_ref(), params)
        .is_ok_and(|found| found.ct_eq(hash.as_bytes()).into())
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
        work: impl FnOnce(&mut Vec<Block>) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let Ok(Ok(turn)) = timeout(TURN_WITHIN, self.turns.clone().acquire_owned()).await else {
            return Err(Refusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "many people sign in at once: try again in a while",
            ));
        };
        let memory = self.memory.clone();
        // the turn is over when the work is, also when nobody waits for it any more: who hangs up and asks again gains nothing
        let work = tokio::task::spawn_blocking(move || {
            let done = work(&mut memory.lock().unwrap_or_else(PoisonError::into_inner));
            drop(turn);
            done
        });
        work.await.map_err(|e| Refusal::failed(&e))
    }

    /// As it is stored.
    pub(crate) async fn hash(&self, password: Zeroizing<String>) -> Result<String, Refusal> {
        let salt = random()?;
        let work = move |memory: &mut Vec<Block>| written(memory, password.as_bytes(), &salt);
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
        self.in_turn(move |memory| is_stored(memory, password.as_bytes(), &stored))
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
            stored.starts_with("$argon2id$v=19$m=12288,t=3,p=1$"),
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
            // of the argon2 program: other settings are known again too, and no more memory is taken than there is for it
            (
                "password",
                Some("$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc".into()),
                true,
            ),
            (
                "password",
                Some("$argon2id$v=19$m=262144,t=2,p=1$c29tZXNhbHQ$eP4eyR+zqlZX1y5xCFTkw9m5GYx0L5YWwvCFvtlbLow".into()),
                false,
            ),
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
        let work = passwords.in_turn(move |_| {
            begun.send(()).unwrap();
            end.recv().unwrap();
        });
        tokio::select! {
            biased;
            _ = work => unreachable!("it goes on"),
            () = tokio::task::yield_now() => {}
        }
        begins.recv().unwrap();
        assert_eq!(passwords.turns.available_permits(), 0);
        ends.send(()).unwrap();
        passwords.in_turn(|_| ()).await.unwrap();
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
