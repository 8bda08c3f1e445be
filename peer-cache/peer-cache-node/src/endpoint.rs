//! The QUIC endpoint: raw public keys (RFC 7250), one crypto provider, and the settings that were measured.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use peer_cache_proto::wire::ALPN;
use quinn::{AckFrequencyConfig, EndpointConfig, MtuDiscoveryConfig, TransportConfig, VarInt};
use rustls::{
    CertificateError, CipherSuite, ClientConfig, DigitallySignedStruct, DistinguishedName, Error,
    ServerConfig, SignatureScheme,
    client::{
        AlwaysResolvesClientRawPublicKeys,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key},
    pki_types::{
        CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
    },
    server::{
        AlwaysResolvesServerRawPublicKeys,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
};
use socket2::{Domain, Socket, Type};
use trust_format::PublicKey;

use crate::{
    congestion::StoreWindows,
    identity::{Identity, key_of_spki},
};

/// A peer that says nothing for this long is gone.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(3);
const KEEP_ALIVE: Duration = Duration::from_millis(750);
/// Longest UDP payload of an Ethernet frame over IPv4.
const MTU: u16 = 1472;
/// Longest UDP payload where frames are longer. The transport sends ten datagrams in one call to the kernel, which takes
/// 65,507 bytes; with 8,952 the call fails, counts as loss, and the path falls to 1,200 bytes (quinn issue 1457).
const JUMBO_MTU: u16 = 6500;
/// An interface with at least this MTU may lead to such a path; discovery finds out what each path takes.
const JUMBO_INTERFACE_MTU: u32 = 6600;
const ACK_EVERY_PACKETS: u32 = 20;
const ACK_DELAY_MAX: Duration = Duration::from_millis(5);
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
/// What a peer may have unread here before it has shown a right to be here.
const STRANGER_WINDOW_BYTES: u32 = 16 << 10;
const SEND_WINDOW_BYTES: u64 = 8 << 20;
const SOCKET_BUFFER_BYTES: usize = 4 << 20;
/// Request streams that a peer may have open.
const STREAMS_MAX: u32 = 64;
/// Before it has shown a right to be here: the one for frames, and one to be told so.
const STRANGER_STREAMS_MAX: u32 = 2;
/// Packets that wait for the handshake to be begun, and their bytes (quinn: 65,536 and 100 MiB).
const INCOMING_MAX: usize = 256;
const INCOMING_BYTES_MAX: u64 = 1 << 20;
const CONNECTION_ID_BYTES: usize = 4;
/// Ten gigabits each way.
const NETWORK_THREADS_MAX: usize = 4;

/// How many threads a program gives to its network: half of the cores, because the others unpack, hash and write, and
/// because packets that change threads cost more than one thread has to do on any line of a store (eight agents of two
/// threads each took 13.7 CPU seconds for a gigabyte, of one 11.1).
pub fn network_threads() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (cores / 2).clamp(1, NETWORK_THREADS_MAX)
}

/// The provider for everything: `ring`, AES-128 first because it is the cheapest with hardware support.
pub fn crypto_provider() -> Arc<CryptoProvider> {
    let mut provider = rustls::crypto::ring::default_provider();
    provider
        .cipher_suites
        .sort_by_key(|s| s.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
}

/// The longest UDP payload that any interface of this computer takes.
fn longest_payload() -> u16 {
    let interfaces = std::fs::read_dir("/sys/class/net").into_iter().flatten();
    let mtu = |path: std::path::PathBuf| -> Option<u32> {
        // packets to this computer itself go no faster
        let is_loopback = path.ends_with("lo");
        let text = std::fs::read_to_string(path.join("mtu")).ok()?;
        text.trim().parse().ok().filter(|_| !is_loopback)
    };
    let longest = interfaces.flatten().filter_map(|i| mtu(i.path())).max();
    match longest.is_some_and(|mtu| mtu >= JUMBO_INTERFACE_MTU) {
        true => JUMBO_MTU,
        false => MTU,
    }
}

fn transport(payload_max: u16, windows: Arc<StoreWindows>) -> Arc<TransportConfig> {
    let mut config = TransportConfig::default();
    config
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(STRANGER_WINDOW_BYTES))
        .send_window(SEND_WINDOW_BYTES)
        .max_concurrent_bidi_streams(VarInt::from_u32(STRANGER_STREAMS_MAX))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .initial_rtt(Duration::from_millis(5))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(IDLE_TIMEOUT.try_into().ok())
        .initial_mtu(MTU)
        .congestion_controller_factory(windows)
        // first come, first served: chunk after chunk leaves whole, instead of all at the end
        .send_fairness(false);
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(payload_max);
    config.mtu_discovery_config(Some(discovery));
    let mut acks = AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(VarInt::from_u32(ACK_EVERY_PACKETS))
        .max_ack_delay(Some(ACK_DELAY_MAX));
    config.ack_frequency_config(Some(acks));
    Arc::new(config)
}

/// A peer has a right to be here: it may have as much on its way as a line carries.
pub(crate) fn widen(connection: &quinn::Connection) {
    connection.set_receive_window(VarInt::from_u32(CONNECTION_WINDOW_BYTES));
    connection.set_max_concurrent_bi_streams(VarInt::from_u32(STREAMS_MAX));
}

/// An endpoint that dials and is dialled. Without a right to the port it takes any.
pub(crate) fn open(identity: &Identity, listen: SocketAddr) -> io::Result<quinn::Endpoint> {
    let provider = crypto_provider();
    let algorithms = provider.signature_verification_algorithms;
    let key = PrivatePkcs8KeyDer::from(identity.to_pkcs8().to_vec());
    let signing = rustls::crypto::ring::sign::any_eddsa_type(&key).map_err(io::Error::other)?;
    let certified = Arc::new(CertifiedKey::new(
        vec![CertificateDer::from(identity.to_spki())],
        signing,
    ));
    let verifier = Arc::new(AnyRawKey(algorithms));
    let mut server = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(io::Error::other)?
        .with_client_cert_verifier(verifier.clone())
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(
            certified.clone(),
        )));
    server.alpn_protocols = vec![ALPN.to_vec()];
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(certified)));
    client.alpn_protocols = vec![ALPN.to_vec()];
    // a store's DHCP hands addresses around: no session outlives its connection
    client.resumption = rustls::client::Resumption::disabled();

    let server =
        quinn::crypto::rustls::QuicServerConfig::try_from(server).map_err(io::Error::other)?;
    let mut server = quinn::ServerConfig::with_crypto(Arc::new(server));
    let payload_max = longest_payload();
    let windows = Arc::<StoreWindows>::default();
    server
        .transport_config(transport(payload_max, windows.clone()))
        .max_incoming(INCOMING_MAX)
        .incoming_buffer_size(INCOMING_BYTES_MAX)
        .incoming_buffer_size_total(INCOMING_BYTES_MAX);
    let client =
        quinn::crypto::rustls::QuicClientConfig::try_from(client).map_err(io::Error::other)?;
    let mut client = quinn::ClientConfig::new(Arc::new(client));
    client.transport_config(transport(payload_max, windows));

    let mut config = EndpointConfig::default();
    config
        .max_udp_payload_size(payload_max)
        .map_err(io::Error::other)?
        .cid_generator(|| {
            Box::new(quinn_proto::RandomConnectionIdGenerator::new(
                CONNECTION_ID_BYTES,
            ))
        });
    let socket = bind(listen)?;
    let runtime = Arc::new(quinn::TokioRuntime);
    let mut endpoint = quinn::Endpoint::new(config, Some(server), socket, runtime)?;
    endpoint.set_default_client_config(client);
    Ok(endpoint)
}

fn bind(listen: SocketAddr) -> io::Result<UdpSocket> {
    let bind = |address: SocketAddr| {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
        if address.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        // as large as the system allows; a refusal costs speed, not correctness
        let _ = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
        let _ = socket.set_send_buffer_size(SOCKET_BUFFER_BYTES);
        socket.bind(&address.into())?;
        Ok::<_, io::Error>(UdpSocket::from(socket))
    };
    let bind_any_port = |address: SocketAddr| match bind(address) {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => bind(SocketAddr::new(address.ip(), 0)),
        other => other,
    };
    match bind_any_port(listen) {
        // a kernel without IPv6
        Err(_) if listen.ip() == Ipv6Addr::UNSPECIFIED => {
            bind_any_port(SocketAddr::from((Ipv4Addr::UNSPECIFIED, listen.port())))
        }
        other => other,
    }
}

/// The key of the peer at the other end. The handshake proved that the peer holds it.
pub(crate) fn peer_key(connection: &quinn::Connection) -> Option<PublicKey> {
    let identity = connection
        .peer_identity()?
        .downcast::<Vec<CertificateDer<'static>>>()
        .ok()?;
    key_of_spki(identity.first()?)
}

/// Takes any Ed25519 key whose holder signed the handshake: who it is and what it may do is decided on its hello.
#[derive(Debug)]
struct AnyRawKey(WebPkiSupportedAlgorithms);

impl AnyRawKey {
    fn check_key(spki: &CertificateDer<'_>) -> Result<(), Error> {
        match key_of_spki(spki) {
            Some(_) => Ok(()),
            None => Err(CertificateError::BadEncoding.into()),
        }
    }

    fn check_signature(
        &self,
        message: &[u8],
        spki: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Self::check_key(spki)?;
        verify_tls13_signature_with_raw_key(
            message,
            &SubjectPublicKeyInfoDer::from(spki.as_ref()),
            signature,
            &self.0,
        )
    }
}

/// TLS 1.2 has no raw public keys; it is not offered.
fn no_tls12() -> Result<HandshakeSignatureValid, Error> {
    Err(Error::General("TLS 1.3 only".into()))
}

impl ServerCertVerifier for AnyRawKey {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Self::check_key(end_entity).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for AnyRawKey {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Self::check_key(end_entity).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
