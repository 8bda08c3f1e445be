//! Somebody on the store's network who speaks QUIC, has a key that nobody knows, and means no good.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::Arc,
};

use peer_cache_node::Identity;
use peer_cache_proto::wire::{ALPN, Credentials, Documents, Frame, Hello, PROTOCOL_VERSION};
use quinn::{ClientConfig, Connection, Endpoint, EndpointConfig, TokioRuntime, TransportConfig};
use rustls::{
    DigitallySignedStruct, Error, SignatureScheme,
    client::{
        AlwaysResolvesClientRawPublicKeys,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
    sign::CertifiedKey,
};

/// Where attackers sit: not on the address of the others.
pub(crate) fn outside(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 66, 0, n)
}

pub(crate) struct Attacker {
    endpoint: Endpoint,
}

impl Attacker {
    /// With an address and a key of its own.
    pub(crate) fn at(address: Ipv4Addr) -> Self {
        Self::with(&Identity::generate().unwrap(), address)
    }

    pub(crate) fn with(identity: &Identity, address: Ipv4Addr) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = PrivatePkcs8KeyDer::from(identity.to_pkcs8().to_vec());
        let signing = rustls::crypto::ring::sign::any_eddsa_type(&key).unwrap();
        let spki = CertificateDer::from(identity.to_spki());
        let certified = Arc::new(CertifiedKey::new(vec![spki], signing));
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody))
            .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(certified)));
        tls.alpn_protocols = vec![ALPN.to_vec()];
        let tls = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
        let mut config = ClientConfig::new(Arc::new(tls));
        let mut transport = TransportConfig::default();
        // whatever it is sent, it takes
        transport.max_concurrent_bidi_streams(10_000u32.into());
        config.transport_config(Arc::new(transport));
        let socket = UdpSocket::bind((address, 0)).unwrap();
        let runtime = Arc::new(TokioRuntime);
        let mut endpoint = Endpoint::new(EndpointConfig::default(), None, socket, runtime).unwrap();
        endpoint.set_default_client_config(config);
        Self { endpoint }
    }

    /// The handshake; that alone opens nothing.
    pub(crate) async fn connect(&self, to: SocketAddr) -> io::Result<Connection> {
        let connecting = self.endpoint.connect(to, "peer");
        let connection = connecting.map_err(io::Error::other)?.await;
        connection.map_err(io::Error::other)
    }

    /// Begins a handshake; the first packet leaves whether anybody waits or not.
    pub(crate) fn knock(&self, at: SocketAddr) -> quinn::Connecting {
        self.endpoint.connect(at, "peer").unwrap()
    }

    /// A connection that has greeted as an agent without a ticket.
    pub(crate) async fn greet(
        &self,
        to: SocketAddr,
    ) -> io::Result<(Connection, quinn::SendStream, quinn::RecvStream)> {
        let connection = self.connect(to).await?;
        let (mut send, recv) = connection.open_bi().await?;
        let hello = hello(1, Credentials::Agent { ticket: None });
        for frame in [Frame::Hello(hello), Frame::Documents(Documents::default())] {
            write(&mut send, &frame).await?;
        }
        Ok((connection, send, recv))
    }
}

pub(crate) fn hello(boot: u64, credentials: Credentials) -> Hello {
    Hello {
        protocol: PROTOCOL_VERSION,
        credentials,
        rank: peer_cache_proto::election::Rank {
            node: false,
            always_on: false,
            free_gib: 0,
            uptime_minutes: 0,
        },
        port: 0,
        boot,
        uptime_ms: 0,
        root: 0,
        channel: 0,
    }
}

pub(crate) async fn write(send: &mut quinn::SendStream, frame: &Frame) -> io::Result<()> {
    let bytes = frame.to_bytes();
    send.write_all(&(bytes.len() as u32).to_le_bytes()).await?;
    send.write_all(&bytes).await?;
    Ok(())
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
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
