//! TLS: a self-made certificate that nodes pin, and client certificates that prove a node's key.

mod given;

use std::{
    fs,
    io::{self, Write},
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use axum::Router;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error as RustlsError, ServerConfig,
    SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime},
    server::{
        ParsedCertificate,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use thiserror::Error;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;
use trust_format::PublicKey;

use crate::door::{Door, Place};
pub(crate) use given::GivenCertificate;

const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
const HEADERS_WITHIN: Duration = Duration::from_secs(20);
/// Open connections; further ones wait. Each store keeps one, and more while it images. Of strangers there are fewer ([`Door`]).
pub const CONNECTIONS_MAX: usize = 16_384;
/// Bytes that wait in a socket before the next are taken from a body: the ledger and the leases count what went out, not
/// what the kernel was glad to keep, and a transfer that is cut off costs little.
const UNSENT_BYTES_MAX: u32 = 32 << 10;
/// The same before the socket: plain and encrypted.
const PLAIN_BYTES_MAX: usize = 32 << 10;
const ENCRYPTED_BYTES_MAX: usize = 16 << 10;
const ED25519_SPKI_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// HQ's certificate and its key.
pub struct ServerIdentity {
    certificate: CertificateDer<'static>,
    key: zeroize::Zeroizing<Vec<u8>>,
}

/// Why the certificate cannot be used.
#[derive(Debug, Error)]
pub enum TlsError {
    /// The file system refused.
    #[error("certificate {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// It cannot be made.
    #[error("making a certificate")]
    Make(#[from] rcgen::Error),
    /// A file has no certificate, or no key.
    #[error("reading {path}")]
    Pem {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// The files are no certificate and key, or not of each other.
    #[error("using the certificate")]
    Use(#[from] RustlsError),
}

impl ServerIdentity {
    /// Opens the certificate in HQ's folder, or makes one that does not end.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn open_or_create(folder: &Path, urls: &[String]) -> Result<Self, TlsError> {
        let (certificate, key) = (
            folder.join("tls-certificate.der"),
            folder.join("tls-key.der"),
        );
        let io_error = |path: &Path| {
            let path = path.to_owned();
            move |source| TlsError::Io { path, source }
        };
        if !key.exists() {
            let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
            names.extend(urls.iter().filter_map(|u| host_of(u)));
            let made = rcgen::generate_simple_self_signed(names)?;
            write_private(&certificate, made.cert.der()).map_err(io_error(&certificate))?;
            write_private(&key, made.signing_key.serialized_der()).map_err(io_error(&key))?;
        }
        Ok(Self {
            certificate: fs::read(&certificate)
                .map_err(io_error(&certificate))?
                .into(),
            key: fs::read(&key).map_err(io_error(&key))?.into(),
        })
    }

    /// What nodes pin.
    pub fn fingerprint(&self) -> [u8; 32] {
        web_api::certificate_fingerprint(&self.certificate)
    }

    pub(crate) fn acceptor(&self) -> Result<TlsAcceptor, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let algorithms = provider.signature_verification_algorithms;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.to_vec()));
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::new(AnyEd25519(algorithms)))
            .with_single_cert(vec![self.certificate.clone()], key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

fn host_of(url: &str) -> Option<String> {
    let rest = url.strip_prefix("https://")?;
    let host = rest.split('/').next()?;
    let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
    Some(host.trim_matches(['[', ']']).to_owned())
}

fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = fs::File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}

/// The key that a connection's client certificate proved, if it showed one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClientKey(pub(crate) Option<PublicKey>);

/// Where a connection comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClientAddress(pub(crate) SocketAddr);

/// Takes connections for ever.
pub(crate) async fn serve(listener: TcpListener, acceptor: TlsAcceptor, router: Router) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let door = Door::default();
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else {
            return;
        };
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "taking a connection");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        // programs of this computer may call it by its own address
        let is_own = stream
            .local_addr()
            .is_ok_and(|own| own.ip() == address.ip());
        let from = match is_own {
            true => Ipv4Addr::LOCALHOST.into(),
            false => address.ip(),
        };
        let Some(place) = door.enter(Instant::now(), from) else {
            tracing::debug!(%address, "hung up: there are enough of its address");
            continue;
        };
        let place = Arc::new(place);
        let (acceptor, router) = (acceptor.clone(), router.clone());
        tokio::spawn(async move {
            let _slot = slot;
            tokio::select! {
                () = connection(stream, address, acceptor, router, place.clone()) => {}
                () = place.sent_away() => tracing::debug!(%address, "made room for another stranger"),
            }
        });
    }
}

/// One connection to its end.
async fn connection(
    stream: TcpStream,
    address: SocketAddr,
    acceptor: TlsAcceptor,
    router: Router,
    place: Arc<Place>,
) {
    let _ = stream.set_nodelay(true);
    // a figure of Linux; elsewhere more is on its way when a transfer is cut off
    let _ = socket2::SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT_BYTES_MAX);
    let Ok(Ok(mut stream)) = timeout(HANDSHAKE_WITHIN, acceptor.accept(stream)).await else {
        return;
    };
    let session = stream.get_mut().1;
    session.set_buffer_limit(Some(ENCRYPTED_BYTES_MAX));
    let certificate = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|c| c.first());
    let key = ClientKey(certificate.and_then(key_of));
    let service = router.map_request(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(key);
        request.extensions_mut().insert(ClientAddress(address));
        request.extensions_mut().insert(place.clone());
        request
    });
    let mut server = auto::Builder::new(TokioExecutor::new()).http1_only();
    server
        .http1()
        .timer(TokioTimer::new())
        .max_buf_size(PLAIN_BYTES_MAX)
        .header_read_timeout(HEADERS_WITHIN);
    // how a connection ends is the client's affair
    let _ = server
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
        .await;
}

fn key_of(certificate: &CertificateDer<'_>) -> Option<PublicKey> {
    let parsed = ParsedCertificate::try_from(certificate).ok()?;
    let spki = parsed.subject_public_key_info();
    let key = spki.as_ref().strip_prefix(&ED25519_SPKI_PREFIX[..])?;
    Some(PublicKey(key.try_into().ok()?))
}

/// Takes any Ed25519 certificate whose holder signed the handshake. Which node that is, the database knows.
#[derive(Debug)]
struct AnyEd25519(WebPkiSupportedAlgorithms);

impl ClientCertVerifier for AnyEd25519 {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, RustlsError> {
        match key_of(end_entity) {
            Some(_) => Ok(ClientCertVerified::assertion()),
            None => Err(CertificateError::BadEncoding.into()),
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
        verify_tls13_signature(message, cert, dss, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}
