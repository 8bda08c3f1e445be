//! What a request brings, read so that every refusal is a sentence in JSON.

use std::collections::BTreeSet;

use axum::{
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    http::{StatusCode, request::Parts},
};
use bytes::Bytes;
use serde::de::DeserializeOwned;

use crate::error::Refusal;

const NAME_CHARS_MAX: usize = 64;
const TAG_CHARS_MAX: usize = 32;
/// The documents that carry names allow no more.
const NAME_BYTES_MAX: usize = 128;

/// A whole body, within its route's limit.
pub(crate) struct Raw(pub(crate) Bytes);

impl<S: Send + Sync> FromRequest<S> for Raw {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let body = Bytes::from_request(request, state).await;
        body.map(Self)
            .map_err(|rejection| match rejection.status() {
                StatusCode::PAYLOAD_TOO_LARGE => Refusal::new(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    "the request's body is larger than this route takes",
                ),
                _ => Refusal::bad("the request's body ended early"),
            })
    }
}

/// A body in JSON. Its content type is not looked at.
pub(crate) struct Input<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Input<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let Raw(body) = Raw::from_request(request, state).await?;
        json(&body).map(Self)
    }
}

/// A body in JSON, or none at all.
pub(crate) struct InputOrNothing<T>(pub(crate) T);

impl<T: DeserializeOwned + Default, S: Send + Sync> FromRequest<S> for InputOrNothing<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let Raw(body) = Raw::from_request(request, state).await?;
        match body.is_empty() {
            true => Ok(Self(T::default())),
            false => json(&body).map(Self),
        }
    }
}

/// A body in JSON.
fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    // the position, not the words: they could repeat a secret
    serde_json::from_slice(body).map_err(|e| {
        let (line, column) = (e.line(), e.column());
        let what = match e.classify() {
            serde_json::error::Category::Data => {
                "the request's JSON does not have the fields this route needs"
            }
            _ => "the request's body is not JSON",
        };
        Refusal::bad(format!("{what}: line {line}, column {column}"))
    })
}

/// The one variable part of a path.
pub(crate) struct Named(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        path.map(|Path(name)| Self(name))
            .map_err(|_| Refusal::bad("the request's path is not UTF-8"))
    }
}

impl Named {
    /// As what the route needs.
    pub(crate) fn parse<T: std::str::FromStr>(&self, what: &str) -> Result<T, Refusal> {
        let shown: String = self.0.chars().take(NAME_CHARS_MAX).collect();
        self.0
            .parse()
            .map_err(|_| Refusal::bad(format!("{shown:?} is no {what}")))
    }
}

/// What is asked for after a path's question mark.
pub(crate) struct Asked<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        let asked = Query::<T>::try_from_uri(&parts.uri);
        asked.map(|Query(asked)| Self(asked)).map_err(|_| {
            Refusal::bad(
                "what follows the question mark in the address is not what this route takes",
            )
        })
    }
}

/// Tags of one site or scope: each a word of 1 to 32 letters, digits, `-` or `_`. In order, and each once.
pub(crate) fn checked_tags(tags: &[String]) -> Result<Vec<String>, Refusal> {
    let fits = |tag: &&String| {
        (1..=TAG_CHARS_MAX).contains(&tag.chars().count())
            && tag.chars().all(|c| c.is_alphanumeric() || "-_".contains(c))
    };
    if let Some(tag) = tags.iter().find(|tag| !fits(tag)) {
        let shown: String = tag.chars().take(NAME_CHARS_MAX).collect();
        return Err(Refusal::bad(format!(
            "{shown:?} is no tag: 1 to {TAG_CHARS_MAX} letters, digits, - or _"
        )));
    }
    let sorted: BTreeSet<&String> = tags.iter().collect();
    Ok(sorted.into_iter().cloned().collect())
}

/// A name that people give: 1 to 64 characters that can be shown on one line. Anything else in it is text.
pub(crate) fn checked_name<'a>(name: &'a str, whose: &str) -> Result<&'a str, Refusal> {
    let name = name.trim();
    let fits = (1..=NAME_CHARS_MAX).contains(&name.chars().count()) && name.len() <= NAME_BYTES_MAX;
    if !fits || name.chars().any(char::is_control) {
        return Err(Refusal::bad(format!(
            "{whose} has 1 to {NAME_CHARS_MAX} characters, at most {NAME_BYTES_MAX} bytes, on one line"
        )));
    }
    Ok(name)
}

/// The first `max` characters of what a machine or node says.
pub(crate) fn clip(text: &mut String, max: usize) {
    if let Some((at, _)) = text.char_indices().nth(max) {
        text.truncate(at);
    }
}
