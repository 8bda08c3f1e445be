//! Refusals as status and sentence.

use std::sync::atomic::{AtomicU64, Ordering};

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use web_api::ApiError;

use crate::database::{is_away, unix_seconds};

/// What a handler answers when it does not do what it was asked.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    sentence: String,
    needs_code: bool,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, sentence: impl Into<String>) -> Self {
        Self {
            status,
            sentence: sentence.into(),
            needs_code: false,
        }
    }

    /// A code of the account's authenticator would help.
    pub(crate) fn needing_code(mut self) -> Self {
        self.needs_code = true;
        self
    }

    pub(crate) fn bad(sentence: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, sentence)
    }

    pub(crate) fn missing(what: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("{what} is not known here"))
    }

    /// Our own failure.
    pub(crate) fn failed(error: &dyn std::error::Error) -> Self {
        internal(error)
    }

    pub(crate) fn conflict(sentence: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, sentence)
    }
}

/// Random bytes from the kernel.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], Refusal> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| internal(&std::io::Error::other(e.to_string())))?;
    Ok(bytes)
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.sentence)
    }
}

/// While the database is away every request fails alike: one line in so many seconds.
const AWAY_SAID_EVERY_SECONDS: u64 = 10;

fn is_time_to_say() -> bool {
    static SAID: AtomicU64 = AtomicU64::new(0);
    let (now, said) = (unix_seconds(), SAID.load(Ordering::Relaxed));
    let is_time = now.abs_diff(said) >= AWAY_SAID_EVERY_SECONDS;
    // of those who fail at once one says it
    is_time
        && SAID
            .compare_exchange(said, now, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
}

/// Our own failure: logged here, told without details.
fn internal(error: &dyn std::error::Error) -> Refusal {
    tracing::error!(%error, source = ?error.source(), "HQ failed to answer");
    Refusal::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "HQ failed; its log says why",
    )
}

impl From<sqlx::Error> for Refusal {
    fn from(error: sqlx::Error) -> Self {
        if !is_away(&error) {
            return internal(&error);
        }
        if is_time_to_say() {
            tracing::warn!(%error, "HQ's database is not there");
        }
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "HQ's database does not answer now: ask again in a while",
        )
    }
}

impl From<serde_json::Error> for Refusal {
    fn from(error: serde_json::Error) -> Self {
        internal(&error)
    }
}

impl From<image_store::StoreError> for Refusal {
    fn from(error: image_store::StoreError) -> Self {
        use image_store::StoreError as E;
        match error {
            E::Missing { .. } => Self::new(StatusCode::NOT_FOUND, error.to_string()),
            E::WrongHash { .. } | E::TooLarge { .. } => Self::bad(error.to_string()),
            E::Away { .. } => {
                tracing::warn!(%error, source = ?std::error::Error::source(&error), "HQ's objects are not there");
                Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "HQ's objects cannot be reached now: ask again in a while",
                )
            }
            error => internal(&error),
        }
    }
}

impl From<image_store::SignDocumentError> for Refusal {
    fn from(error: image_store::SignDocumentError) -> Self {
        match error {
            image_store::SignDocumentError::NotHeld { .. } => Self::conflict(error.to_string()),
            image_store::SignDocumentError::Document(error) => error.into(),
        }
    }
}

impl From<trust_format::VerifyDocumentError> for Refusal {
    fn from(error: trust_format::VerifyDocumentError) -> Self {
        Self::bad(error.to_string())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = Json(ApiError {
            error: self.sentence,
            needs_code: self.needs_code,
        });
        (self.status, body).into_response()
    }
}
