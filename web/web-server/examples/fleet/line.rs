//! A connection to HQ under a node's key, and HTTP/1.1 on it: requests with a JSON body, answers with a length.

use std::{io, sync::Arc};

use rcgen::{KeyPair, PublicKeyData};
use rustls::pki_types::{PrivatePkcs8KeyDer, ServerName};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{Headquarters, pinned::tls};

/// An Ed25519 key in PKCS #8 (RFC 8410, section 7), without the 32 bytes at its end.
const PKCS8: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// The key of a node, by its number: the same each time, and secret from nobody.
pub(crate) struct Secret(KeyPair);

impl Secret {
    pub(crate) fn of(number: u64) -> Self {
        let seed = blake3::hash(&number.to_le_bytes());
        let der = PrivatePkcs8KeyDer::from([&PKCS8[..], seed.as_bytes()].concat());
        Self(KeyPair::try_from(&der).unwrap())
    }
}

pub(crate) fn public_key(secret: &Secret) -> String {
    let digits = secret.0.der_bytes().iter();
    digits.map(|byte| format!("{byte:02x}")).collect()
}

/// A connection that is kept.
pub(crate) struct Line {
    stream: BufReader<TlsStream<TcpStream>>,
    head: String,
}

impl Line {
    /// Connects as a node, or as somebody who shows no key.
    pub(crate) async fn open(hq: &Headquarters, node: Option<u64>) -> io::Result<Self> {
        let secret = node.map(Secret::of);
        let config = tls(hq.fingerprint, secret.as_ref().map(|secret| &secret.0));
        let stream = TcpStream::connect(&hq.address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("hq").unwrap();
        let stream = TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await?;
        Ok(Self {
            stream: BufReader::with_capacity(4096, stream),
            head: String::new(),
        })
    }

    pub(crate) async fn post<T: DeserializeOwned>(
        &mut self,
        path: &str,
        body: &impl Serialize,
    ) -> io::Result<T> {
        let body = serde_json::to_vec(body)?;
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: hq\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        self.stream
            .get_mut()
            .write_all(&[head.as_bytes(), &body].concat())
            .await?;
        let length = self.read_head().await?;
        let mut answer = vec![0; length.filter(|l| *l <= ANSWER_BYTES_MAX).unwrap_or(0)];
        self.stream.read_exact(&mut answer).await?;
        Ok(serde_json::from_slice(&answer)?)
    }

    /// Asks for what has no end, and gives its lines one by one.
    pub(crate) async fn get_endless(&mut self, path: &str, token: &str) -> io::Result<()> {
        let head =
            format!("GET {path} HTTP/1.1\r\nhost: hq\r\nauthorization: Bearer {token}\r\n\r\n");
        self.stream.get_mut().write_all(head.as_bytes()).await?;
        self.read_head().await.map(drop)
    }

    pub(crate) async fn next_line(&mut self) -> io::Result<&str> {
        self.head.clear();
        if self.stream.read_line(&mut self.head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(self.head.trim_end())
    }

    /// The length of what follows, if it is said.
    async fn read_head(&mut self) -> io::Result<Option<usize>> {
        let status = self.next_line().await?.to_owned();
        let mut length = None;
        loop {
            let line = self.next_line().await?.to_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(digits) = line.strip_prefix("content-length: ") {
                length = digits.parse().ok();
            }
        }
        match status.starts_with("HTTP/1.1 200") {
            true => Ok(length),
            false => Err(io::Error::other(status)),
        }
    }
}
