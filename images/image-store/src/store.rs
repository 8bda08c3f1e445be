//! Objects and manifests by their hash, in a folder or an object store.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use image_format::{Manifest, OBJECT_BYTES_MAX, ObjectHash};
use object_store::{
    GetOptions, GetRange, ObjectStore, ObjectStoreExt, local::LocalFileSystem, path::Path as Key,
};
use thiserror::Error;
use trust_format::{Digest, Document, Verified};

use crate::{bucket::Bucket, signer::unsigned};

/// Objects that are asked about at the same time: in a bucket each costs a round trip.
const CHECKS_AT_ONCE: usize = 32;

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
    /// The bucket cannot be used as it is named.
    #[error("bucket {bucket}")]
    Bucket {
        /// Which.
        bucket: Bucket,
        /// The cause.
        #[source]
        source: object_store::Error,
    },
    /// The bucket does not answer.
    #[error("the bucket of objects does not answer: {key}")]
    Away {
        /// What was asked for.
        key: String,
        /// The cause.
        #[source]
        source: object_store::Error,
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

    /// A store in a bucket. It is asked once, so that a wrong name or key shows at the start.
    ///
    /// # Errors
    /// [`StoreError::Bucket`].
    pub async fn in_bucket(bucket: &Bucket) -> Result<Self, StoreError> {
        let error = |source| StoreError::Bucket {
            bucket: bucket.clone(),
            source,
        };
        let objects = bucket.open().map_err(error)?;
        let first = objects.list(None).next().await;
        first.transpose().map_err(error)?;
        Ok(Self {
            objects,
            folder: None,
        })
    }

    fn backend(&self, key: &Key) -> impl FnOnce(object_store::Error) -> StoreError + use<> {
        use object_store::Error as E;
        let (key, is_bucket) = (key.to_string(), self.folder.is_none());
        move |source| match source {
            E::NotFound { .. } => StoreError::Missing { key },
            E::Generic { .. } if is_bucket => StoreError::Away { key, source },
            source => StoreError::Backend { key, source },
        }
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

    /// Which of these objects are not there, in the order in which they are given.
    ///
    /// # Errors
    /// [`StoreError::Backend`], [`StoreError::Away`].
    pub async fn missing_of(
        &self,
        objects: Vec<ObjectHash>,
    ) -> Result<Vec<ObjectHash>, StoreError> {
        let store = self.clone();
        let checks = stream::iter(objects).map(move |hash| {
            let store = store.clone();
            async move {
                let is_there = store.has_object(&hash).await?;
                Ok::<_, StoreError>((!is_there).then_some(hash))
            }
        });
        let checked = checks.buffered(CHECKS_AT_ONCE);
        checked
            .try_filter_map(async |hash| Ok(hash))
            .try_collect()
            .await
    }

    /// An object's length.
    ///
    /// # Errors
    /// [`StoreError::Missing`].
    pub async fn object_bytes(&self, hash: &ObjectHash) -> Result<u64, StoreError> {
        let key = object_key(hash);
        Ok(self
            .objects
            .head(&key)
            .await
            .map_err(self.backend(&key))?
            .size)
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
            .map_err(self.backend(&key))?;
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
            .map_err(self.backend(&key))?;
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
        let found = self.objects.get(&key).await.map_err(self.backend(&key))?;
        found.bytes().await.map_err(self.backend(&key))
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
        let found = self.objects.get(&key).await.map_err(self.backend(&key))?;
        found.bytes().await.map_err(self.backend(&key))
    }

    /// Lets go of a manifest that waited. One that is not there is none.
    ///
    /// # Errors
    /// [`StoreError::Backend`].
    pub async fn forget_unsigned(&self, digest: &Digest) -> Result<(), StoreError> {
        let key = unsigned_key(digest);
        match self.objects.delete(&key).await.map_err(self.backend(&key)) {
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
        let objects: Vec<_> = manifest.chunks.iter().map(|c| c.object_hash).collect();
        if let Some(object) = self.missing_of(objects).await?.first() {
            let chunk = manifest.chunks.iter().find(|c| c.object_hash == *object);
            let chunk = chunk.map(|c| format!(" of chunk {}", c.hash));
            return Err(StoreError::Missing {
                key: format!("object {object}{}", chunk.unwrap_or_default()),
            });
        }
        self.make_durable().await?;
        let bytes = Bytes::copy_from_slice(bytes);
        self.objects
            .put(&key, bytes.into())
            .await
            .map_err(self.backend(&key))?;
        self.make_durable().await
    }

    /// A manifest's bytes, to be verified by whoever reads them.
    ///
    /// # Errors
    /// [`StoreError::Missing`].
    pub async fn manifest(&self, digest: &Digest) -> Result<Bytes, StoreError> {
        let key = manifest_key(digest);
        let found = self.objects.get(&key).await.map_err(self.backend(&key))?;
        found.bytes().await.map_err(self.backend(&key))
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
