//! The chain's own secret keys. Nothing outside this file sees them; they leave memory zeroed.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use ed25519_dalek::{Signer as _, SigningKey};
use image_format::Manifest;
use thiserror::Error;
use trust_format::{
    Channel, Document, NodeCertificate, Order, PublicKey, Root, Roster, Signature, TrustRootError,
    TrustedKeys, Verified, VerifyDocumentError,
};
use zeroize::Zeroizing;

const MAGIC: &[u8; 8] = b"LMPLKEY1";
const FILE_BYTES: usize = 8 + 4 * 32;

/// Signs for the chain: one key each for roots, images, channels and orders, and node certificates.
pub struct Signer {
    image: SigningKey,
    order: SigningKey,
    authority: SigningKey,
    trusted: TrustedKeys,
}

/// Why the keys could not be opened or made.
#[derive(Debug, Error)]
pub enum OpenSignerError {
    /// The file system refused.
    #[error("signing keys in {path}")]
    Io {
        /// The key file or root document.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The file is not a key file. It is left as it is.
    #[error("{path} is not a key file of this program; move it away or restore it from the backup")]
    NotKeys {
        /// The key file.
        path: PathBuf,
    },
    /// The root document beside the keys does not hold.
    #[error("root document in {path}")]
    Root {
        /// The document.
        path: PathBuf,
        /// The cause.
        #[source]
        source: TrustRootError,
    },
}

fn public(key: &SigningKey) -> PublicKey {
    PublicKey(key.verifying_key().to_bytes())
}

fn sign<T: Document>(document: &T, key: &SigningKey) -> Vec<u8> {
    let bytes = document.to_signed_bytes();
    let signature = Signature(key.sign(bytes.as_message()).to_bytes());
    bytes
        .into_envelope(vec![(public(key), signature)])
        .to_bytes()
}

impl Signer {
    /// Opens the keys in `folder`, or makes new ones and a first root, with mode 0600.
    ///
    /// # Errors
    /// [`OpenSignerError`]; an existing file is never overwritten.
    pub fn open_or_create(folder: &Path) -> Result<Self, OpenSignerError> {
        let keys_path = folder.join("signing-keys");
        let root_path = folder.join("root");
        let io_error = |path: &Path| {
            let path = path.to_owned();
            move |source| OpenSignerError::Io { path, source }
        };
        let bytes = match fs::read(&keys_path) {
            Ok(bytes) => Zeroizing::new(bytes),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let mut bytes = Zeroizing::new(vec![0; FILE_BYTES]);
                bytes[..8].copy_from_slice(MAGIC);
                getrandom::fill(&mut bytes[8..])
                    .map_err(|e| io_error(&keys_path)(io::Error::other(e.to_string())))?;
                write_durably(&keys_path, &bytes).map_err(io_error(&keys_path))?;
                bytes
            }
            Err(e) => return Err(io_error(&keys_path)(e)),
        };
        if bytes.len() != FILE_BYTES || bytes[..8] != MAGIC[..] {
            return Err(OpenSignerError::NotKeys { path: keys_path });
        }
        let key = |n: usize| {
            let mut seed = Zeroizing::new([0; 32]);
            seed.copy_from_slice(&bytes[8 + 32 * n..40 + 32 * n]);
            SigningKey::from_bytes(&seed)
        };
        let [root, image, order, authority] = [0, 1, 2, 3].map(key);
        let root_bytes = match fs::read(&root_path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let first = Root {
                    number: 1,
                    threshold: 1,
                    root_keys: vec![public(&root)],
                    image_keys: vec![public(&image)],
                    order_keys: vec![public(&order)],
                    authority_keys: vec![public(&authority)],
                };
                let bytes = sign(&first, &root);
                write_durably(&root_path, &bytes).map_err(io_error(&root_path))?;
                bytes
            }
            Err(e) => return Err(io_error(&root_path)(e)),
        };
        let trusted = TrustedKeys::pin(&root_bytes).map_err(|source| OpenSignerError::Root {
            path: root_path,
            source,
        })?;
        Ok(Self {
            image,
            order,
            authority,
            trusted,
        })
    }

    /// The keys that others are to trust.
    pub fn trusted(&self) -> &TrustedKeys {
        &self.trusted
    }

    /// Signs what an image is.
    ///
    /// # Errors
    /// When the manifest breaks a rule of its own format: what nobody could read back is not signed.
    pub fn sign_manifest(
        &self,
        manifest: &Manifest,
    ) -> Result<Verified<Manifest>, VerifyDocumentError> {
        Verified::check(&sign(manifest, &self.image), &self.trusted)
    }

    /// Signs what a site means now.
    ///
    /// # Errors
    /// When the channel is over a limit of its format.
    pub fn sign_channel(
        &self,
        channel: &Channel,
    ) -> Result<Verified<Channel>, VerifyDocumentError> {
        Verified::check(&sign(channel, &self.order), &self.trusted)
    }

    /// Signs which machines a site knows.
    ///
    /// # Errors
    /// When the roster is over a limit of its format.
    pub fn sign_roster(&self, roster: &Roster) -> Result<Verified<Roster>, VerifyDocumentError> {
        Verified::check(&sign(roster, &self.order), &self.trusted)
    }

    /// Signs an instruction to image machines.
    ///
    /// # Errors
    /// When the order is over a limit of its format.
    pub fn sign_order(&self, order: &Order) -> Result<Verified<Order>, VerifyDocumentError> {
        Verified::check(&sign(order, &self.order), &self.trusted)
    }

    /// Certifies a node.
    ///
    /// # Errors
    /// When the certificate is over a limit of its format.
    pub fn certify(
        &self,
        node: &NodeCertificate,
    ) -> Result<Verified<NodeCertificate>, VerifyDocumentError> {
        Verified::check(&sign(node, &self.authority), &self.trusted)
    }
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer")
            .field("root", self.trusted.root())
            .finish_non_exhaustive()
    }
}

/// Temporary file, sync, rename, sync of the folder.
fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let temporary = path.with_extension("new");
    let mut file = fs::File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    fs::File::open(folder)?.sync_all()
}
