//! HQ over HTTPS, its certificate pinned: for people with a token, for nodes with a key.

use std::{sync::Arc, time::Duration};

use peer_cache_node::{Identity, crypto_provider};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as RustlsError, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
};
use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;
use web_api::ApiError;

const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// Silence in the middle of an answer.
const READ_WITHIN: Duration = Duration::from_secs(30);

/// Why no client can be made.
#[derive(Debug, Error)]
pub enum MakeClientError {
    /// TLS cannot be set up with this key.
    #[error("TLS with this program's key")]
    Tls(#[from] RustlsError),
    /// The certificate that shows this program's key cannot be made.
    #[error("a certificate for this program's key")]
    Certificate(#[from] rcgen::Error),
    /// The HTTP client cannot be made.
    #[error("the HTTP client")]
    Http(#[from] reqwest::Error),
}

/// Why HQ did not do what it was asked.
#[derive(Debug, Error)]
pub enum AskHqError {
    /// The channel names no address, or it is not known yet.
    #[error("no address of HQ is known")]
    NoAddress,
    /// No answer: ask again later.
    #[error("HQ at {base} cannot be reached")]
    Unreachable {
        /// Its address.
        base: String,
        /// The cause.
        #[source]
        source: reqwest::Error,
    },
    /// HQ said no. To ask the same again is of no use.
    #[error("{sentence}")]
    Refused {
        /// HQ's words.
        sentence: String,
        /// Of the answer.
        status: StatusCode,
        /// Mostly a [`web_api::ApiError`]; it may say more than the sentence.
        body: Vec<u8>,
    },
    /// The answer was cut off, or it is not what was asked for.
    #[error("HQ's answer")]
    Answer(#[source] reqwest::Error),
    /// The request cannot be written down.
    #[error("a request to HQ")]
    Request(#[from] serde_json::Error),
}

impl AskHqError {
    /// Whether HQ said no, and would say so again: not when it lacks its database or its objects now.
    pub fn is_answer(&self) -> bool {
        matches!(self, Self::Refused { status, .. } if *status != StatusCode::SERVICE_UNAVAILABLE)
    }
}

/// Of one question.
pub(crate) type Result<T, E = AskHqError> = std::result::Result<T, E>;

/// A connection to one HQ.
#[derive(Debug, Clone)]
pub struct HqClient {
    http: reqwest::Client,
    base: String,
    token: Option<String>,
}

impl HqClient {
    /// For people: with the administrator's token.
    ///
    /// # Errors
    /// [`MakeClientError`].
    pub fn with_token(
        base: String,
        fingerprint: [u8; 32],
        token: String,
    ) -> Result<Self, MakeClientError> {
        Self::new(base, fingerprint, Some(token), None)
    }

    /// For a node: its key is its right.
    ///
    /// # Errors
    /// [`MakeClientError`].
    pub fn for_node(
        base: &str,
        fingerprint: [u8; 32],
        identity: &Identity,
    ) -> Result<Self, MakeClientError> {
        Self::new(base.to_owned(), fingerprint, None, Some(identity))
    }

    fn new(
        base: String,
        fingerprint: [u8; 32],
        token: Option<String>,
        identity: Option<&Identity>,
    ) -> Result<Self, MakeClientError> {
        let tls = tls_config(fingerprint, identity)?;
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .https_only(true)
            .http1_only()
            .no_proxy()
            .connect_timeout(CONNECT_WITHIN)
            .read_timeout(READ_WITHIN)
            .tcp_nodelay(true)
            .build()?;
        Ok(Self {
            http,
            base: base.trim_end_matches('/').to_owned(),
            token,
        })
    }

    /// Its address, without a slash at the end.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// A request to a path of the API, such as `/images`.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self
            .http
            .request(method, format!("{}/api/v1{path}", self.base));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// Sends a request; a refusal becomes its sentence.
    ///
    /// # Errors
    /// [`AskHqError`].
    pub async fn send(&self, request: RequestBuilder) -> Result<Response> {
        let response = request
            .send()
            .await
            .map_err(|source| AskHqError::Unreachable {
                base: self.base.clone(),
                source,
            })?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = response.bytes().await.unwrap_or_default();
        let sentence = serde_json::from_slice::<ApiError>(&body)
            .map_or_else(|_| status.to_string(), |e| e.error);
        Err(AskHqError::Refused {
            sentence,
            status,
            body: body.to_vec(),
        })
    }

    /// Asks for JSON.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let response = self.send(self.request(Method::GET, path)).await?;
        response.json().await.map_err(AskHqError::Answer)
    }

    /// Asks for bytes.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn get_bytes(&self, path: &str) -> Result<bytes::Bytes> {
        let response = self.send(self.request(Method::GET, path)).await?;
        response.bytes().await.map_err(AskHqError::Answer)
    }

    /// Sends JSON and takes JSON.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        let response = self
            .send(self.request(Method::POST, path).json(body))
            .await?;
        response.json().await.map_err(AskHqError::Answer)
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn send_bytes(
        &self,
        method: Method,
        path: &str,
        body: bytes::Bytes,
    ) -> Result<Response> {
        self.send(self.request(method, path).body(body)).await
    }
}

/// TLS that believes one certificate, and proves a node's key.
///
/// # Errors
/// [`MakeClientError`].
pub(crate) fn tls_config(
    fingerprint: [u8; 32],
    identity: Option<&Identity>,
) -> Result<ClientConfig, MakeClientError> {
    let provider = crypto_provider();
    let algorithms = provider.signature_verification_algorithms;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned {
            fingerprint,
            algorithms,
        }));
    let Some(identity) = identity else {
        return Ok(builder.with_no_client_auth());
    };
    let pkcs8 = identity.to_pkcs8();
    let key = rcgen::KeyPair::try_from(&PrivatePkcs8KeyDer::from(pkcs8.to_vec()))?;
    let certificate = rcgen::CertificateParams::new(vec!["node".into()])?.self_signed(&key)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8.to_vec()));
    Ok(builder.with_client_auth_cert(vec![certificate.der().clone()], key)?)
}

/// Takes one certificate and no other. Names and dates play no part: HQ made it itself.
#[derive(Debug)]
struct Pinned {
    fingerprint: [u8; 32],
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, RustlsError> {
        match web_api::certificate_fingerprint(end_entity) == self.fingerprint {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, RustlsError> {
        Err(RustlsError::General("TLS 1.3 only".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, RustlsError> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
