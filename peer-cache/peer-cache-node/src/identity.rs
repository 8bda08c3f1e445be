//! The key of a node or an agent, and what it signs. The chain's own keys are elsewhere and never here.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use ed25519_dalek::{Signer, SigningKey};
use thiserror::Error;
use trust_format::{Document, PublicKey, Signature, SignerRole};
use zeroize::Zeroizing;

/// PKCS#8 (RFC 8410) around an Ed25519 seed.
const PKCS8_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];
/// SubjectPublicKeyInfo (RFC 8410) around an Ed25519 key.
const SPKI_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// An Ed25519 key of this program's own.
#[derive(Clone)]
pub struct Identity {
    key: SigningKey,
}

/// Why a key file cannot be used.
#[derive(Debug, Error)]
pub enum OpenIdentityError {
    /// The file system refused.
    #[error("identity {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// It is not a key.
    #[error("identity {path} has {bytes} bytes instead of 32; move it away to get a new one")]
    NotAKey {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: usize,
    },
}

impl Identity {
    /// A fresh key that lives in memory only.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn generate() -> io::Result<Self> {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *seed).map_err(|e| io::Error::other(e.to_string()))?;
        Ok(Self {
            key: SigningKey::from_bytes(&seed),
        })
    }

    /// The key in a file, which is made with mode 0600 if it is not there.
    ///
    /// # Errors
    /// [`OpenIdentityError`].
    pub fn open_or_create(path: &Path) -> Result<Self, OpenIdentityError> {
        let io_error = |source| OpenIdentityError::Io {
            path: path.to_owned(),
            source,
        };
        match fs::read(path) {
            Ok(bytes) => {
                let bytes = Zeroizing::new(bytes);
                let seed: Zeroizing<[u8; 32]> =
                    Zeroizing::new(bytes.as_slice().try_into().map_err(|_| {
                        OpenIdentityError::NotAKey {
                            path: path.to_owned(),
                            bytes: bytes.len(),
                        }
                    })?);
                Ok(Self {
                    key: SigningKey::from_bytes(&seed),
                })
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let identity = Self::generate().map_err(io_error)?;
                identity.save(path).map_err(io_error)?;
                Ok(identity)
            }
            Err(e) => Err(io_error(e)),
        }
    }

    /// Writes the seed to a new file with mode 0600.
    ///
    /// # Errors
    /// When the file is there already or cannot be written.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let mut file = fs::File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(&*self.seed())?;
        file.sync_all()
    }

    /// The secret seed, to be put on the disk of the machine that will be this node.
    pub fn seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.key.to_bytes())
    }

    /// The public key: the name of this program.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.key.verifying_key().to_bytes())
    }

    /// Signs a document that peers sign: a ticket, a provisional certificate, a beacon, a completion.
    pub fn sign<T: Document>(&self, document: &T) -> Vec<u8> {
        debug_assert!(matches!(
            T::SIGNER,
            SignerRole::Peer | SignerRole::Authority
        ));
        let bytes = document.to_signed_bytes();
        let signature = Signature(self.key.sign(bytes.as_message()).to_bytes());
        bytes
            .into_envelope(vec![(self.public(), signature)])
            .to_bytes()
    }

    /// The key as PKCS#8, for TLS.
    pub fn to_pkcs8(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new([&PKCS8_PREFIX[..], &self.key.to_bytes()].concat())
    }

    /// The public key as SubjectPublicKeyInfo, for TLS.
    pub fn to_spki(&self) -> Vec<u8> {
        [&SPKI_PREFIX[..], &self.public().0].concat()
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({})", self.public().short())
    }
}

/// The key in a SubjectPublicKeyInfo, if it is an Ed25519 one.
pub fn key_of_spki(spki: &[u8]) -> Option<PublicKey> {
    let key = spki.strip_prefix(&SPKI_PREFIX[..])?;
    Some(PublicKey(key.try_into().ok()?))
}
