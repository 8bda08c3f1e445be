//! The page, built into the program: what `web/web-ui` was built to. Its script asks the API for everything that it shows.

use std::{collections::BTreeMap, io::Write, sync::LazyLock};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use data_encoding::HEXLOWER;
use flate2::{Compression, write::GzEncoder};
use rust_embed::RustEmbed;

use crate::{error::Refusal, input::Named};

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const INDEX: &str = "index.html";
/// Its name has a hash of what is in it, so it never changes.
const FOR_EVER: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");
const ASK_AGAIN: HeaderValue = HeaderValue::from_static("no-cache");

#[derive(RustEmbed)]
#[folder = "../web-ui/dist"]
struct Built;

struct File {
    kind: &'static str,
    tag: HeaderValue,
    plain: Bytes,
    packed: Bytes,
}

/// All of them, packed once, so that whoever asks again and again costs HQ no more than sending.
static FILES: LazyLock<BTreeMap<String, File>> = LazyLock::new(|| {
    let file = |path: std::borrow::Cow<'static, str>| {
        let built = Built::get(&path)?;
        let plain = Bytes::from(built.data.into_owned());
        let mut packer = GzEncoder::new(Vec::new(), Compression::best());
        packer.write_all(&plain).ok()?;
        let hash = HEXLOWER.encode(&built.metadata.sha256_hash()[..16]);
        let kind = match path.rsplit('.').next() {
            Some("html") => "text/html; charset=utf-8",
            Some("js") => "text/javascript; charset=utf-8",
            Some("css") => "text/css; charset=utf-8",
            _ => "application/octet-stream",
        };
        let file = File {
            kind,
            tag: HeaderValue::try_from(format!("\"{hash}\"")).ok()?,
            plain,
            packed: packer.finish().ok()?.into(),
        };
        Some((path.into_owned(), file))
    };
    Built::iter().filter_map(file).collect()
});

fn takes_gzip(headers: &HeaderMap) -> bool {
    let wished = headers.get(header::ACCEPT_ENCODING);
    let wished = wished.and_then(|wished| wished.to_str().ok());
    let is_gzip = |wish: &str| {
        let (name, weight) = wish.split_once(';').unwrap_or((wish, ""));
        name.trim() == "gzip" && !matches!(weight.trim(), "q=0" | "q=0.0")
    };
    wished.is_some_and(|wished| wished.split(',').any(is_gzip))
}

fn answer(path: &str, headers: &HeaderMap, keep: HeaderValue) -> Result<Response, Refusal> {
    let file = FILES
        .get(path)
        .ok_or_else(|| Refusal::missing("this file"))?;
    let mut answer: Vec<(HeaderName, HeaderValue)> = vec![
        (header::CACHE_CONTROL, keep),
        (header::ETAG, file.tag.clone()),
        (
            header::VARY,
            HeaderValue::from_name(header::ACCEPT_ENCODING),
        ),
        (header::CONTENT_TYPE, HeaderValue::from_static(file.kind)),
        (
            header::CONTENT_SECURITY_POLICY,
            HeaderValue::from_static(POLICY),
        ),
        (
            header::REFERRER_POLICY,
            HeaderValue::from_static("no-referrer"),
        ),
    ];
    let (status, body) = if headers.get(header::IF_NONE_MATCH) == Some(&file.tag) {
        (StatusCode::NOT_MODIFIED, Bytes::new())
    } else if takes_gzip(headers) {
        answer.push((header::CONTENT_ENCODING, HeaderValue::from_static("gzip")));
        (StatusCode::OK, file.packed.clone())
    } else {
        (StatusCode::OK, file.plain.clone())
    };
    let mut response = (status, Body::from(body)).into_response();
    response.headers_mut().extend(answer);
    Ok(response)
}

pub(crate) async fn index(headers: HeaderMap) -> Result<Response, Refusal> {
    answer(INDEX, &headers, ASK_AGAIN)
}

pub(crate) async fn asset(Named(file): Named, headers: HeaderMap) -> Result<Response, Refusal> {
    answer(&format!("assets/{file}"), &headers, FOR_EVER)
}

/// What no route is for: an address of one of the page's views, which its script reads, or nothing.
pub(crate) async fn elsewhere(
    method: Method,
    address: Uri,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let path = address.path();
    let is_api = path == "/api" || path.starts_with("/api/");
    let is_looked_at = matches!(method, Method::GET | Method::HEAD);
    if is_api || path.starts_with("/assets/") || !is_looked_at {
        return Err(Refusal::missing("this path"));
    }
    index(headers).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_for_those_who_take_it() {
        for (wished, takes) in [
            ("gzip", true),
            ("br, gzip;q=0.8", true),
            ("gzip;q=0", false),
            ("identity", false),
            ("xgzip", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(wished));
            assert_eq!(takes_gzip(&headers), takes, "{wished}");
        }
    }

    #[test]
    fn everything_that_was_built_has_a_kind() {
        assert!(FILES.contains_key(INDEX));
        for (path, file) in FILES.iter() {
            assert_ne!(file.kind, "application/octet-stream", "{path}");
            assert!(file.packed.len() < file.plain.len(), "{path}");
        }
    }
}
