//! One secret key and its file.

use std::{
    fmt, fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use ed25519_dalek::{Signer as _, SigningKey};
use thiserror::Error;
use trust_format::{PublicKey, Signature};
use zeroize::Zeroizing;

use super::{KeyHolder, SignError};

/// Of a file with one key: magic, the secret, and the public key, which shows whether the secret is whole.
const MAGIC: &[u8; 8] = b"LMPLONE1";
const FILE_BYTES: usize = 8 + 32 + 32;
/// Of the file that HQ makes at its first start: the keys of [`FOUR_ROLES`] in this order.
const FOUR_MAGIC: &[u8; 8] = b"LMPLKEY1";
const FOUR_FILE_BYTES: usize = 8 + 4 * 32;
/// What each key of HQ's first file is for; also the names of the files that it is split into.
pub const FOUR_ROLES: [&str; 4] = ["root", "image", "order", "authority"];

/// An Ed25519 key that came out of a file. It leaves memory zeroed.
pub struct FileKey(SigningKey);

/// Why a key file cannot be read or made.
#[derive(Debug, Error)]
pub enum KeyFileError {
    /// The file system refused.
    #[error("key file {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// There is a file of this name. It is left as it is.
    #[error("{path} exists; a key file is never overwritten")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// It is no file with one key. It is left as it is.
    #[error("{path} is not a key file of this program")]
    NotKey {
        /// The file.
        path: PathBuf,
    },
    /// Its secret key does not make the public key that stands beside it.
    #[error("key file {path} is damaged: restore it from the backup")]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// It is the file that HQ made for itself.
    #[error(
        "{path} holds the four keys of an HQ: take it apart first with `lamplighter key split`"
    )]
    FourKeys {
        /// The file.
        path: PathBuf,
    },
    /// It is not the file that HQ made for itself.
    #[error("{path} does not hold the four keys of an HQ: there is nothing to split")]
    NotFourKeys {
        /// The file.
        path: PathBuf,
    },
}

fn at(path: &Path) -> impl Fn(io::Error) -> KeyFileError {
    let path = path.to_owned();
    move |source| match source.kind() {
        io::ErrorKind::AlreadyExists => KeyFileError::Exists { path: path.clone() },
        _ => KeyFileError::Io {
            path: path.clone(),
            source,
        },
    }
}

/// Random bytes from the kernel.
pub(super) fn fill(bytes: &mut [u8]) -> io::Result<()> {
    getrandom::fill(bytes).map_err(|e| io::Error::other(e.to_string()))
}

impl FileKey {
    /// Makes a key and writes it with mode 0600.
    ///
    /// # Errors
    /// [`KeyFileError::Exists`] also where the file is no key.
    pub fn create(path: &Path) -> Result<Self, KeyFileError> {
        let mut secret = Zeroizing::new([0; 32]);
        fill(&mut *secret).map_err(at(path))?;
        let key = Self(SigningKey::from_bytes(&secret));
        key.write(path)?;
        Ok(key)
    }

    /// Reads a key.
    ///
    /// # Errors
    /// [`KeyFileError`]; a file with four keys is refused by name.
    pub fn open(path: &Path) -> Result<Self, KeyFileError> {
        let bytes = Zeroizing::new(fs::read(path).map_err(at(path))?);
        let path = || path.to_owned();
        if bytes.len() == FOUR_FILE_BYTES && bytes.starts_with(FOUR_MAGIC) {
            return Err(KeyFileError::FourKeys { path: path() });
        }
        if bytes.len() != FILE_BYTES || !bytes.starts_with(MAGIC) {
            return Err(KeyFileError::NotKey { path: path() });
        }
        let key = Self::from_secret(&bytes[8..40]);
        match key.public().0[..] == bytes[40..] {
            true => Ok(key),
            false => Err(KeyFileError::Damaged { path: path() }),
        }
    }

    pub(super) fn signature(&self, message: &[u8]) -> Signature {
        Signature(self.0.sign(message).to_bytes())
    }

    fn from_secret(bytes: &[u8]) -> Self {
        let mut secret = Zeroizing::new([0; 32]);
        secret.copy_from_slice(bytes);
        Self(SigningKey::from_bytes(&secret))
    }

    fn write(&self, path: &Path) -> Result<(), KeyFileError> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(FILE_BYTES));
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&*Zeroizing::new(self.0.to_bytes()));
        bytes.extend_from_slice(&self.public().0);
        write_new(path, &bytes).map_err(at(path))
    }
}

impl KeyHolder for FileKey {
    fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    fn sign(&self, message: &[u8]) -> Result<Signature, SignError> {
        Ok(self.signature(message))
    }
}

impl fmt::Debug for FileKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileKey({})", self.public().short())
    }
}

/// The keys of the file that HQ makes at its first start, in the order of [`FOUR_ROLES`].
pub(super) fn open_four(path: &Path) -> Result<[FileKey; 4], KeyFileError> {
    let bytes = Zeroizing::new(fs::read(path).map_err(at(path))?);
    if bytes.len() != FOUR_FILE_BYTES || !bytes.starts_with(FOUR_MAGIC) {
        return Err(KeyFileError::NotFourKeys {
            path: path.to_owned(),
        });
    }
    let key = |n: usize| FileKey::from_secret(&bytes[8 + 32 * n..40 + 32 * n]);
    Ok([0, 1, 2, 3].map(key))
}

/// Makes that file.
pub(super) fn create_four(path: &Path) -> Result<[FileKey; 4], KeyFileError> {
    let mut bytes = Zeroizing::new(vec![0; FOUR_FILE_BYTES]);
    bytes[..8].copy_from_slice(FOUR_MAGIC);
    fill(&mut bytes[8..]).map_err(at(path))?;
    write_durably(path, &bytes).map_err(at(path))?;
    open_four(path)
}

/// A key that was split off: its role, where it is now, and its public half.
#[derive(Debug, Clone)]
pub struct SplitKey {
    /// One of [`FOUR_ROLES`].
    pub role: &'static str,
    /// The new file.
    pub path: PathBuf,
    /// Its public key.
    pub public: PublicKey,
}

/// Takes the file with HQ's four keys apart: one file for each into `folder`, which is made, named after its role. Each is read back.
/// The old file stays, since only a person can know when the new ones are safe.
///
/// # Errors
/// [`KeyFileError`]; [`KeyFileError::Exists`] before anything is written.
pub fn split_keys(four: &Path, folder: &Path) -> Result<Vec<SplitKey>, KeyFileError> {
    let keys = open_four(four)?;
    fs::create_dir_all(folder).map_err(at(folder))?;
    let path_of = |role: &str| folder.join(format!("{role}.key"));
    if let Some(path) = FOUR_ROLES.map(path_of).into_iter().find(|p| p.exists()) {
        return Err(KeyFileError::Exists { path });
    }
    let split = |(role, key): (&'static str, &FileKey)| {
        let path = path_of(role);
        key.write(&path)?;
        let public = FileKey::open(&path)?.public();
        Ok(SplitKey { role, path, public })
    };
    FOUR_ROLES.into_iter().zip(&keys).map(split).collect()
}

/// A file that must not be there yet. A half-written one is taken away again.
fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    let written = file
        .write_all(bytes)
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::File::open(folder_of(path))?.sync_all());
    if written.is_err() {
        // the failure that counts is the first one
        let _ = fs::remove_file(path);
    }
    written
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Temporary file, sync, rename, sync of the folder.
pub(super) fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = folder_of(path);
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
