//! A certificate that somebody else made, such as a public one for people's browsers. It is renewed while HQ runs.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use rustls::{
    ServerConfig,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

use super::TlsError;

/// Its files are looked at so often.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Certificate and key in PEM, and how they are now.
#[derive(Debug)]
pub(crate) struct GivenCertificate {
    certificate: PathBuf,
    key: PathBuf,
    provider: Arc<CryptoProvider>,
    now: RwLock<Arc<CertifiedKey>>,
}

impl GivenCertificate {
    /// Reads both files.
    pub(crate) fn open(certificate: &Path, key: &Path) -> Result<Arc<Self>, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let now = read(certificate, key, &provider)?;
        Ok(Arc::new(Self {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            provider,
            now: RwLock::new(Arc::new(now)),
        }))
    }

    /// Asks no client for a certificate: who comes here is a person.
    pub(crate) fn acceptor(self: &Arc<Self>) -> Result<TlsAcceptor, TlsError> {
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    /// Takes what is new in the files, for ever. Files that do not fit, or not yet, change nothing: whoever renews them writes one first.
    pub(crate) async fn keep_fresh(self: Arc<Self>) {
        let mut known = self.written();
        loop {
            sleep(LOOK_EVERY).await;
            let written = self.written();
            if written == known {
                continue;
            }
            known = written;
            match read(&self.certificate, &self.key, &self.provider) {
                Ok(now) => {
                    *self.now.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(now);
                    let path = self.certificate.display();
                    tracing::info!(%path, "the page's certificate is renewed");
                }
                Err(error) => {
                    let error: &dyn std::error::Error = &error;
                    tracing::warn!(error, "the page's certificate stays the old one");
                }
            }
        }
    }

    fn written(&self) -> [Option<SystemTime>; 2] {
        [&self.certificate, &self.key].map(|path| path.metadata().and_then(|m| m.modified()).ok())
    }
}

impl ResolvesServerCert for GivenCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let now = self.now.read().unwrap_or_else(PoisonError::into_inner);
        Some(now.clone())
    }
}

fn read(
    certificate: &Path,
    key: &Path,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, TlsError> {
    let of = |path: &Path| {
        let path = path.to_owned();
        move |source: pem::Error| TlsError::Pem { path, source }
    };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .map_err(of(certificate))?;
    if chain.is_empty() {
        return Err(of(certificate)(pem::Error::NoItemsFound));
    }
    let secret = PrivateKeyDer::from_pem_file(key).map_err(of(key))?;
    Ok(CertifiedKey::from_der(chain, secret, provider)?)
}
