//! The key of a node or an agent, and what it signs. The chain's own keys are elsewhere and never here.

use std::{
    error::Error,
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use ed25519_dalek::{Signer, SigningKey};
use peer_cache_proto::tpm::SealedKey;
use thiserror::Error;
use trust_format::{Document, PublicKey, Signature, SignerRole, codec::DecodeError};
use zeroize::Zeroizing;

use crate::tpm::{OpenTpmError, Tpm, UnsealError};

mod voucher;

pub use voucher::{
    OpenVoucherError, OpenedVoucher, SealVoucherError, VOUCHER_PIN_LETTERS, open_voucher,
    read_voucher_label, seal_voucher,
};

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

/// What is to be written to a key file, readable by its owner only; wiped when it is dropped.
pub struct KeyFile {
    /// The whole file.
    pub bytes: Zeroizing<Vec<u8>>,
    /// Why the key is not sealed, in one line; nothing when it is.
    pub plain_because: Option<String>,
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
    /// It begins as a sealed key, and is none.
    #[error("identity {path} is damaged; move it away and enrol the node again")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where.
        #[source]
        source: DecodeError,
    },
    /// It is sealed, and there is no TPM to unseal it.
    #[error("identity {path} is sealed to a TPM, and none can be used here")]
    NoTpm {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: OpenTpmError,
    },
    /// It is sealed to another TPM.
    #[error(
        "identity {path} is sealed to another TPM: this disk was moved, or the TPM was cleared; move the file away and enrol the node again"
    )]
    AnotherTpm {
        /// The file.
        path: PathBuf,
    },
    /// The TPM does not unseal it.
    #[error("identity {path} is sealed, and the TPM does not unseal it")]
    Unseal {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: UnsealError,
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
        Ok(Self::of_seed(&seed))
    }

    /// The key in a file. One that is not there is made, with mode 0600, and sealed to this computer's TPM if that works; one
    /// that is there is taken as it is, sealed or plain. Blocks on the TPM.
    ///
    /// # Errors
    /// [`OpenIdentityError`].
    pub fn open_or_create(path: &Path) -> Result<Self, OpenIdentityError> {
        Self::open_or_create_with(path, Tpm::open)
    }

    /// [`Identity::open_or_create`] with another TPM than the computer's first. It is not asked for a key that is there and plain.
    ///
    /// # Errors
    /// [`OpenIdentityError`].
    pub fn open_or_create_with(
        path: &Path,
        tpm: impl FnOnce() -> Result<Tpm, OpenTpmError>,
    ) -> Result<Self, OpenIdentityError> {
        let io_error = |source| OpenIdentityError::Io {
            path: path.to_owned(),
            source,
        };
        match fs::read(path).map(Zeroizing::new) {
            Ok(bytes) if SealedKey::is_one(&bytes) => Self::unseal(path, &bytes, tpm),
            Ok(bytes) => {
                let seed: &[u8; 32] =
                    bytes
                        .as_slice()
                        .try_into()
                        .map_err(|_| OpenIdentityError::NotAKey {
                            path: path.to_owned(),
                            bytes: bytes.len(),
                        })?;
                Ok(Self::of_seed(seed))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let identity = Self::generate().map_err(io_error)?;
                let file = identity.to_key_file(tpm());
                write_private(path, &file.bytes).map_err(io_error)?;
                match &file.plain_because {
                    None => tracing::info!("the node's key is sealed to this computer's TPM"),
                    Some(why) => tracing::info!(why, "the node's key lies unsealed"),
                }
                Ok(identity)
            }
            Err(e) => Err(io_error(e)),
        }
    }

    fn unseal(
        path: &Path,
        bytes: &[u8],
        tpm: impl FnOnce() -> Result<Tpm, OpenTpmError>,
    ) -> Result<Self, OpenIdentityError> {
        let path = || path.to_owned();
        let sealed = SealedKey::from_bytes(bytes).map_err(|source| OpenIdentityError::Damaged {
            path: path(),
            source,
        })?;
        let mut tpm = tpm().map_err(|source| OpenIdentityError::NoTpm {
            path: path(),
            source,
        })?;
        match tpm.unseal(&sealed) {
            Ok(seed) => Ok(Self::of_seed(&seed)),
            Err(UnsealError::AnotherTpm) => Err(OpenIdentityError::AnotherTpm { path: path() }),
            Err(source) => Err(OpenIdentityError::Unseal {
                path: path(),
                source,
            }),
        }
    }

    /// What goes into the key file of this identity: sealed if there is a TPM and it gives back what it sealed, else plain.
    /// Blocks on the TPM. Who writes it says which of both it is, once.
    pub fn to_key_file<E: Error>(&self, tpm: Result<Tpm, E>) -> KeyFile {
        let seed = self.seed();
        let plain = |error: &dyn Error| KeyFile {
            bytes: Zeroizing::new(seed.to_vec()),
            plain_because: Some(with_causes(error)),
        };
        match tpm.map(|mut tpm| tpm.seal(&seed)) {
            Ok(Ok(sealed)) => KeyFile {
                bytes: Zeroizing::new(sealed.to_bytes()),
                plain_because: None,
            },
            Ok(Err(error)) => plain(&error),
            Err(error) => plain(&error),
        }
    }

    fn of_seed(seed: &[u8; 32]) -> Self {
        Self {
            key: SigningKey::from_bytes(seed),
        }
    }

    /// The secret seed. It leaves this module in [`Identity::to_key_file`] and in [`seal_voucher`], and nowhere else.
    fn seed(&self) -> Zeroizing<[u8; 32]> {
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

/// A new file with mode 0600.
fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// An error and all that caused it, for one line of a log.
fn with_causes(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |&e| e.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// The key in a SubjectPublicKeyInfo, if it is an Ed25519 one.
pub fn key_of_spki(spki: &[u8]) -> Option<PublicKey> {
    let key = spki.strip_prefix(&SPKI_PREFIX[..])?;
    Some(PublicKey(key.try_into().ok()?))
}
