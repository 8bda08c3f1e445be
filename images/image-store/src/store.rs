//! Objects and manifests by their hash, in a folder or an object store.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt};
use image_format::{Manifest, OBJECT_BYTES_MAX, ObjectHash};
use object_store::{
    GetOptions, GetRange, ObjectStore, ObjectStoreExt, local::LocalFileSystem, path::Path as Key,
};
use thiserror::Error;
use trust_format::{Digest, Document, Verified};

use crate::signer::unsigned;

/// The record of everything that HQ may hand out. Immutable: a key is the hash of its content.
#[derive(Debug, Clone)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    /// To make what was written durable before a manifest names it.
    folder: Option<Arc<std::fs::File>>,
}

/// Why the store could not answer.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The folder cannot be used.
    #[error("store folder {path}")]
    Folder {
        /// The folder.
        path: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The object is not there.
    #[error("{key} is not in the store")]
    Missing {
        /// What was asked for.
        key: String,
    },
    /// What was to be stored is not what its name says.
    #[error("object {expected} was sent with bytes of hash {found}")]
    WrongHash {
        /// The name.
        expected: ObjectHash,
        /// Of the bytes.
        found: ObjectHash,
    },
    /// Too large to be an object.
    #[error("object {hash} has {bytes} bytes; at most {OBJECT_BYTES_MAX} are allowed")]
    TooLarge {
        /// The name.
        hash: ObjectHash,
        /// Its length.
        bytes: usize,
    },
    /// The store failed.
    #[error("store: {key}")]
    Backend {
        /// What was asked for.
        key: String,
        /// The cause.
        #[source]
        source: object_store::Error,
    },
    /// What was written could not be made durable.
    #[error("store: making objects durable")]
    Sync(#[source] std::io::Error),
}

fn object_key(hash: &ObjectHash) -> Key {
    let hex = hash.to_string();
    Key::from(format!("objects/{}/{hex}", &hex[..2]))
}

fn manifest_key(digest: &Digest) -> Key {
    Key::from(format!("manifests/{digest}"))
}

fn unsigned_key(digest: &Digest) -> Key {
    Key::from(format!("unsigned/{digest}"))
}

fn backend(key: &Key) -> impl FnOnce(object_store::Error) -> StoreError {
    let key = key.to_string();
    move |source| match source {
        object_store::Error::NotFound { .. } => StoreError::Missing { key },
        source => StoreError::Backend { key, source },
    }
}

impl Store {
    /// A store in a folder, which is made if it is not there.
    ///
    /// # Errors
    /// [`StoreError::Folder`].
    pub fn in_folder(path: &Path) -> Result<Self, StoreError> {
        let folder_error = |source| StoreError::Folder {
            path: path.display().to_string(),
            source,
        };
        std::fs::create_dir_all(path).map_err(folder_error)?;
        let folder = std::fs::File::open(path).map_err(folder_error)?;
        let objects = LocalFileSystem::new_with_prefix(path)
            .map_err(|e| folder_error(std::io::Error::other(e)))?;
        Ok(Self {
            objects: Arc::new(objects),
            folder: Some(Arc::new(folder)),
        })
    }

    /// Whether an object is there.
    ///
    /// # Errors
    /// [`StoreError::Backend`].
    pub async fn has_object(&self, hash: &ObjectHash) -> Result<bool, StoreError> {
        match self.object_bytes(hash).await {
            Ok(_) => Ok(true),
            Err(StoreError::Missing { .. }) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// An object's length.
    ///
    /// # Errors
    /// [`StoreError::Missing`].
    pub async fn object_bytes(&self, hash: &ObjectHash) -> Result<u64, StoreError> {
        let key = object_key(hash);
        Ok(self.objects.head(&key).await.map_err(backend(&key))?.size)
    }

    /// Stores an object after checking its name. An object that is there already is left alone.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn put_object(&self, hash: ObjectHash, bytes: Bytes) -> Result<(), StoreError> {
        if bytes.len() > OBJECT_BYTES_MAX {
            return Err(StoreError::TooLarge {
                hash,
                bytes: bytes.len(),
            });
        }
        let found = ObjectHash::of(&bytes);
        if found != hash {
            return Err(StoreError::WrongHash {
                expected: hash,
                found,
            });
        }
        if self.has_object(&hash).await? {
            return Ok(());
        }
        let key = object_key(&hash);
        self.objects
            .put(&key, bytes.into())
            .await
            .map_err(backend(&key))?;
        Ok(())
    }

    /// Part of an object as a stream, and the object's whole length.
    ///
    /// # Errors
    /// [`StoreError::Missing`]; a read error inside the stream ends it.
    pub async fn read_object(
        &self,
        hash: &ObjectHash,
        first_byte: u64,
    ) -> Result<
        (
            u64,
            impl Stream<Item = std::io::Result<Bytes>> + Send + use<>,
        ),
        StoreError,
    > {
        let key = object_key(hash);
        let options = GetOptions {
            range: (first_byte > 0).then_some(GetRange::Offset(first_byte)),
            ..GetOptions::default()
        };
        let found = self
            .objects
            .get_opts(&key, options)
            .await
            .map_err(backend(&key))?;
        let whole = found.meta.size;
        Ok((
            whole,
            found.into_stream().map_err(std::io::Error::other).boxed(),
        ))
    }

    /// A whole object.
    ///
    /// # Errors
    /// [`StoreError::Missing`].
    pub async fn object(&self, hash: &ObjectHash) -> Result<Bytes, StoreError> {
        let key = object_key(hash);
        let found = self.objects.get(&key).await.map_err(backend(&key))?;
        found.bytes().await.map_err(backend(&key))
    }

    /// Publishes a manifest: first everything it names is made durable, then the manifest appears.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when an object that it names is not there.
    pub async fn put_manifest(&self, manifest: &Verified<Manifest>) -> Result<(), StoreError> {
        let key = manifest_key(&manifest.digest());
        self.put_after_its_objects(key, manifest, manifest.as_bytes())
            .await
    }

    /// Keeps a manifest that waits for a signature, with the same care for its objects. It is in no list of what may be handed out.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when an object that it names is not there.
    pub async fn put_unsigned(&self, manifest: &Manifest) -> Result<Digest, StoreError> {
        let digest = manifest.to_signed_bytes().digest();
        self.put_after_its_objects(unsigned_key(&digest), manifest, &unsigned(manifest))
            .await?;
        Ok(digest)
    }

    /// A manifest that waits, as an envelope that nobody signed.
    ///
    /// # Errors
    /// [`StoreError::Missing`].
    pub async fn unsigned(&self, digest: &Digest) -> Result<Bytes, StoreError> {
        let key = unsigned_key(digest);
        let found = self.objects.get(&key).await.map_err(backend(&key))?;
        found.bytes().await.map_err(backend(&key))
    }

    /// Lets go of a manifest that waited. One that is not there is none.
    ///
    /// # Errors
    /// [`StoreError::Backend`].
    pub async fn forget_unsigned(&self, digest: &Digest) -> Result<(), StoreError> {
        let key = unsigned_key(digest);
        match self.objects.delete(&key).await.map_err(backend(&key)) {
            Ok(()) | Err(StoreError::Missing { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn put_after_its_objects(
        &self,
        key: Key,
        manifest: &Manifest,
        bytes: &[u8],
    ) -> Result<(), StoreError> {
        for chunk in &manifest.chunks {
            if !self.has_object(&chunk.object_hash).await? {
                return Err(StoreError::Missing {
                    key: format!("object {} of chunk {}", chunk.object_hash, chunk.hash),
                });
            }
        }
        self.make_durable().await?;
        let bytes = Bytes::copy_from_slice(bytes);
        self.objects
            .put(&key, bytes.into())
            .await
            .map_err(backend(&key))?;
        self.make_durable().await
    }

    /// A manifest's bytes, to be verified by whoever reads them.
    ///
    /// # Errors
    /// [`StoreError::Missing`].
    pub async fn manifest(&self, digest: &Digest) -> Result<Bytes, StoreError> {
        let key = manifest_key(digest);
        let found = self.objects.get(&key).await.map_err(backend(&key))?;
        found.bytes().await.map_err(backend(&key))
    }

    /// One syncfs for thousands of objects; an fsync each would cost more than compressing them.
    async fn make_durable(&self) -> Result<(), StoreError> {
        let Some(folder) = self.folder.clone() else {
            return Ok(());
        };
        tokio::task::spawn_blocking(move || nix::unistd::syncfs(&*folder))
            .await
            .map_err(|e| StoreError::Sync(std::io::Error::other(e)))?
            .map_err(|e| StoreError::Sync(e.into()))
    }
}
