//! Objects in a bucket that speaks S3. Requests go through this program's own HTTPS client: one crypto provider, HTTP/1.1, and limits in time.

use std::{error::Error, fmt, future::Future, pin::Pin, str::FromStr, sync::Arc, time::Duration};

use http_body_util::BodyExt;
use object_store::{
    ClientOptions, ObjectStore, RetryConfig,
    aws::AmazonS3Builder,
    client::{
        HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse,
        HttpResponseBody, HttpService,
    },
    prefix::PrefixStore,
};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use thiserror::Error;

const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// Without a byte of an answer.
const SILENT_FOR_MAX: Duration = Duration::from_secs(20);
/// A request is repeated so often, and not after this time; then whoever asked is told.
const RETRIES_MAX: usize = 3;
const RETRY_WITHIN: Duration = Duration::from_secs(15);

/// A bucket, and what the names of objects in it begin with. As text: `s3://BUCKET` or `s3://BUCKET/PREFIX`. Endpoint, region and credentials
/// come from the environment: `AWS_ENDPOINT_URL`, `AWS_REGION`, `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and their kin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    name: String,
    prefix: String,
}

/// Why a text names no bucket.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("a bucket is s3://BUCKET or s3://BUCKET/PREFIX")]
pub struct ParseBucketError;

impl FromStr for Bucket {
    type Err = ParseBucketError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let rest = text.strip_prefix("s3://").ok_or(ParseBucketError)?;
        let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_end_matches('/');
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if name.is_empty() || !name.chars().all(is_name) || prefix.contains(['?', '#']) {
            return Err(ParseBucketError);
        }
        Ok(Self {
            name: name.to_owned(),
            prefix: prefix.to_owned(),
        })
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}", self.name)?;
        match self.prefix.as_str() {
            "" => Ok(()),
            prefix => write!(f, "/{prefix}"),
        }
    }
}

impl Bucket {
    /// Opens it. Nothing is asked yet.
    pub(crate) fn open(&self) -> object_store::Result<Arc<dyn ObjectStore>> {
        let retry = RetryConfig {
            max_retries: RETRIES_MAX,
            retry_timeout: RETRY_WITHIN,
            ..RetryConfig::default()
        };
        let store = AmazonS3Builder::from_env()
            .with_bucket_name(&self.name)
            .with_retry(retry)
            .with_http_connector(OwnClient)
            .build()?;
        Ok(match self.prefix.as_str() {
            "" => Arc::new(store),
            prefix => Arc::new(PrefixStore::new(store, prefix)),
        })
    }
}

/// Makes the HTTPS client. An endpoint with `http://` is taken at its word: who names one means it.
#[derive(Debug)]
struct OwnClient;

impl HttpConnector for OwnClient {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = client().map_err(|source| object_store::Error::Generic {
            store: "S3",
            source,
        })?;
        Ok(HttpClient::new(Client(client)))
    }
}

pub(crate) fn client() -> Result<reqwest::Client, Box<dyn Error + Send + Sync>> {
    let mut roots = RootCertStore::empty();
    // the system's certificates, or those of the file that SSL_CERT_FILE names; some of them may be of no use
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .connect_timeout(CONNECT_WITHIN)
        .read_timeout(SILENT_FOR_MAX)
        .build()?)
}

#[derive(Debug)]
struct Client(reqwest::Client);

/// What an `async fn` of a boxed trait returns.
type Answer<'a> = Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'a>>;

impl HttpService for Client {
    fn call<'life0, 'async_trait>(&'life0 self, request: HttpRequest) -> Answer<'async_trait>
    where
        'life0: 'async_trait,
    {
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let url = parts.uri.to_string().parse();
            let url = url.map_err(|e| HttpError::new(HttpErrorKind::Unknown, e))?;
            let mut request = reqwest::Request::new(parts.method, url);
            *request.headers_mut() = parts.headers;
            *request.body_mut() = Some(match body.as_bytes() {
                Some(bytes) => bytes.clone().into(),
                None => reqwest::Body::wrap(body),
            });
            let answer = self.0.execute(request).await.map_err(failed)?;
            let (parts, body) = http::Response::<reqwest::Body>::from(answer).into_parts();
            let body = HttpResponseBody::new(body.map_err(failed));
            Ok(HttpResponse::from_parts(parts, body))
        })
    }
}

/// What went wrong decides whether a request is repeated.
fn failed(error: reqwest::Error) -> HttpError {
    let kind = match &error {
        e if e.is_timeout() => HttpErrorKind::Timeout,
        e if e.is_connect() => HttpErrorKind::Connect,
        e if e.is_decode() => HttpErrorKind::Decode,
        e if e.is_request() || e.is_body() => HttpErrorKind::Interrupted,
        _ => HttpErrorKind::Unknown,
    };
    // who asks adds the address where it matters
    HttpError::new(kind, error.without_url())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_named_by_a_url() {
        for text in ["s3://chain", "s3://chain.example-1/hq/objects"] {
            assert_eq!(text.parse::<Bucket>().unwrap().to_string(), text);
        }
        let slash: Bucket = "s3://chain/hq/".parse().unwrap();
        assert_eq!(slash.to_string(), "s3://chain/hq");
        for text in [
            "",
            "chain",
            "s3://",
            "s3:///hq",
            "s3://a b",
            "s3://a/b?c",
            "https://a",
        ] {
            assert_eq!(text.parse::<Bucket>(), Err(ParseBucketError), "{text}");
        }
    }
}
