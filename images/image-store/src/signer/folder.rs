//! HQ's folder of keys: the secret keys that it holds, and every root that it ever trusted.
//!
//! `signing-keys` is the file with four keys that a first start makes; `*.key` are files with one. `roots/NUMBER` are all roots, and `root` is the
//! newest, as it was when there was only one.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use thiserror::Error;
use trust_format::{PublicKey, Root, TrustRootError, TrustedKeys, peek};

use super::{
    KeyHolder,
    ceremony::unsigned,
    key::{FileKey, KeyFileError, create_four, open_four, write_durably},
};

const FOUR_KEYS: &str = "signing-keys";
const NEWEST_ROOT: &str = "root";
const ROOTS: &str = "roots";
const KEY_EXTENSION: &str = "key";

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
    /// A file with one key does not hold one.
    #[error(transparent)]
    Key(KeyFileError),
    /// There are keys and no root that says what for.
    #[error(
        "there are keys in {folder} but no root document: put the signed root there as {folder}/root"
    )]
    NoRoot {
        /// The folder.
        folder: PathBuf,
    },
    /// A root document beside the keys does not hold.
    #[error("root document in {path}")]
    Root {
        /// The document.
        path: PathBuf,
        /// The cause.
        #[source]
        source: TrustRootError,
    },
    /// A root document is another one than its name says.
    #[error("{path} is root {number}")]
    OtherNumber {
        /// The document.
        path: PathBuf,
        /// Its number.
        number: u64,
    },
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> OpenSignerError {
    let path = path.to_owned();
    move |source| OpenSignerError::Io { path, source }
}

fn key_error(error: KeyFileError) -> OpenSignerError {
    match error {
        KeyFileError::NotFourKeys { path } => OpenSignerError::NotKeys { path },
        KeyFileError::Io { path, source } => OpenSignerError::Io { path, source },
        error => OpenSignerError::Key(error),
    }
}

fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, OpenSignerError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(io_error(path)(e)),
    }
}

/// Names in a folder that may not be there, in order.
fn names(folder: &Path) -> Result<Vec<PathBuf>, OpenSignerError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(io_error(folder)(e)),
    };
    let mut paths = entries
        .map(|entry| entry.map(|e| e.path()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(io_error(folder))?;
    paths.sort_unstable();
    Ok(paths)
}

/// The folder.
#[derive(Debug)]
pub(super) struct KeyFolder(PathBuf);

impl KeyFolder {
    pub(super) fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Makes four keys and a first root where there is nothing yet, and only there: in a folder with a root, keys that are not there are
    /// somewhere else.
    pub(super) fn make_if_new(&self) -> Result<(), OpenSignerError> {
        let (keys, newest) = (self.0.join(FOUR_KEYS), self.0.join(NEWEST_ROOT));
        let exists = |path: &Path| path.try_exists().map_err(io_error(path));
        if exists(&newest)? || !self.root_paths()?.is_empty() {
            return Ok(());
        }
        let four = match exists(&keys)? {
            true => open_four(&keys),
            false if self.one_key_paths()?.is_empty() => create_four(&keys),
            false => {
                let folder = self.0.clone();
                return Err(OpenSignerError::NoRoot { folder });
            }
        };
        let four = four.map_err(key_error)?;
        let [root, image, order, authority] = four.each_ref().map(|key| vec![key.public()]);
        let first = Root {
            number: 1,
            threshold: 1,
            root_keys: root,
            image_keys: image,
            order_keys: order,
            authority_keys: authority,
        };
        let io = || io_error(&newest);
        let signed = super::add_signature::<Root>(&unsigned(&first), &four[0])
            .map_err(|e| io()(io::Error::other(e)))?;
        write_durably(&newest, &signed).map_err(io())
    }

    fn one_key_paths(&self) -> Result<Vec<PathBuf>, OpenSignerError> {
        let mut paths = names(&self.0)?;
        paths.retain(|p| p.extension().is_some_and(|e| e == KEY_EXTENSION));
        Ok(paths)
    }

    /// Every secret key that is here, each once.
    pub(super) fn keys(&self) -> Result<Vec<FileKey>, OpenSignerError> {
        let four = self.0.join(FOUR_KEYS);
        let mut keys = Vec::new();
        if four.try_exists().map_err(io_error(&four))? {
            warn_if_open(&four);
            keys.extend(open_four(&four).map_err(key_error)?);
        }
        for path in self.one_key_paths()? {
            warn_if_open(&path);
            keys.push(FileKey::open(&path).map_err(key_error)?);
        }
        let mut known: Vec<PublicKey> = Vec::new();
        keys.retain(|key| {
            let new = !known.contains(&key.public());
            known.push(key.public());
            new
        });
        Ok(keys)
    }

    /// Files under `roots` by number. Others, such as one that was being written, are nobody's.
    fn root_paths(&self) -> Result<Vec<(u64, PathBuf)>, OpenSignerError> {
        let number = |path: &PathBuf| path.file_name()?.to_str()?.parse().ok();
        let mut paths: Vec<(u64, PathBuf)> = names(&self.0.join(ROOTS))?
            .into_iter()
            .filter_map(|path| Some((number(&path)?, path)))
            .collect();
        paths.sort_unstable();
        Ok(paths)
    }

    fn root_path(&self, number: u64) -> PathBuf {
        self.0.join(ROOTS).join(number.to_string())
    }

    /// All roots in order, each signed by the one before it, and the trust that they end in. What an older program or a crash left out is
    /// written now.
    pub(super) fn roots(&self) -> Result<(TrustedKeys, Vec<Vec<u8>>), OpenSignerError> {
        let newest_path = self.0.join(NEWEST_ROOT);
        let mut trusted: Option<TrustedKeys> = None;
        let mut roots = Vec::new();
        for (number, path) in self.root_paths()? {
            let bytes = fs::read(&path).map_err(io_error(&path))?;
            let next = advanced(trusted.as_ref(), &bytes, &path)?;
            let found = next.root().number;
            if found != number {
                let number = found;
                return Err(OpenSignerError::OtherNumber { path, number });
            }
            trusted = Some(next);
            roots.push(bytes);
        }
        let newest = read_if_there(&newest_path)?;
        // an older one is what a crash between the two files leaves, and no way back
        let is_new = match (&trusted, &newest) {
            (None, Some(_)) => true,
            (Some(keys), Some(bytes)) => {
                let claimed: Root = peek(bytes).map_err(|source| OpenSignerError::Root {
                    path: newest_path.clone(),
                    source: source.into(),
                })?;
                claimed.number > keys.root().number
            }
            (_, None) => false,
        };
        if let (true, Some(bytes)) = (is_new, newest.clone()) {
            let next = advanced(trusted.as_ref(), &bytes, &newest_path)?;
            let path = self.root_path(next.root().number);
            write_durably(&path, &bytes).map_err(io_error(&path))?;
            trusted = Some(next);
            roots.push(bytes);
        }
        let trusted = trusted.ok_or_else(|| OpenSignerError::NoRoot {
            folder: self.0.clone(),
        })?;
        if newest.as_deref() != Some(trusted.root().as_bytes()) {
            write_durably(&newest_path, trusted.root().as_bytes())
                .map_err(io_error(&newest_path))?;
        }
        Ok((trusted, roots))
    }

    /// Keeps a new root: first in the row of all, then as the newest.
    pub(super) fn keep(&self, trusted: &TrustedKeys) -> Result<(), OpenSignerError> {
        let bytes = trusted.root().as_bytes();
        let newest = self.0.join(NEWEST_ROOT);
        for path in [self.root_path(trusted.root().number), newest] {
            write_durably(&path, bytes).map_err(io_error(&path))?;
        }
        Ok(())
    }
}

fn advanced(
    trusted: Option<&TrustedKeys>,
    bytes: &[u8],
    path: &Path,
) -> Result<TrustedKeys, OpenSignerError> {
    let next = match trusted {
        None => TrustedKeys::pin(bytes),
        Some(keys) => keys.advance(bytes),
    };
    next.map_err(|source| OpenSignerError::Root {
        path: path.to_owned(),
        source,
    })
}

/// A secret that others on this computer can read is worth a word.
fn warn_if_open(path: &Path) {
    if let Ok(found) = fs::metadata(path)
        && found.permissions().mode() & 0o077 != 0
    {
        tracing::warn!(path = %path.display(), "other users of this computer can open this key file: chmod 600 it");
    }
}
