//! Keeps what the site is assigned: fetches manifests, shares them, and remembers them for the next start.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use image_format::Manifest;
use peer_cache_node::{AcceptManifestError, PeerCache, write_durably};
use trust_format::{Digest, Verified};

/// Pauses double, with up to half as much again by chance.
const RETRY_MIN: Duration = Duration::from_millis(300);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// The versions that this node serves. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Versions {
    cache: PeerCache,
    folder: Arc<PathBuf>,
    wanted: Arc<Mutex<BTreeSet<Digest>>>,
    /// The root under which the manifests were looked at last.
    root: Arc<Mutex<Option<Digest>>>,
}

impl Versions {
    pub(crate) fn new(cache: PeerCache, dir: &Path) -> Self {
        Self {
            cache,
            folder: Arc::new(dir.join("manifests")),
            wanted: Arc::default(),
            root: Arc::default(),
        }
    }

    /// Looks at what the site is assigned now, and begins and ends accordingly.
    pub(crate) fn refresh(&self) {
        let assigned: BTreeSet<Digest> = self
            .cache
            .site(peer_cache_node::Site::assigned)
            .into_iter()
            .collect();
        let (new, gone) = {
            let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
            let new: Vec<Digest> = assigned.difference(&wanted).copied().collect();
            let gone: Vec<Digest> = wanted.difference(&assigned).copied().collect();
            *wanted = assigned;
            (new, gone)
        };
        for digest in gone {
            self.cache.unshare(&digest);
            // a leftover is fetched from nobody and costs a few kilobytes
            let _ = std::fs::remove_file(self.path(&digest));
        }
        for digest in new {
            tokio::spawn(self.clone().take(digest));
        }
        self.renew();
    }

    /// Under a new root a manifest may be believed no longer by those to whom it is shown; HQ has it with another signature. Its objects stay where
    /// they are.
    fn renew(&self) {
        let present = self.cache.site(|s| s.keys().map(|k| k.root().digest()));
        let before = {
            let mut root = self.root.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *root, present)
        };
        if before.is_none() || before == present {
            return;
        }
        let wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        for digest in wanted.clone() {
            let Some(manifest) = self.cache.shared_manifest(&digest) else {
                continue;
            };
            let bytes = manifest.as_bytes();
            let accepted = self.cache.site(|s| s.accept_manifest(&digest, bytes));
            if matches!(accepted, Err(AcceptManifestError::Document(_))) {
                tracing::info!(image.version = %digest, "taken anew: no key of the new root signed it");
                self.cache.unshare(&digest);
                tokio::spawn(self.clone().take(digest));
            }
        }
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.folder.join(digest.to_string())
    }

    fn is_wanted(&self, digest: &Digest) -> bool {
        self.wanted
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(digest)
    }

    async fn take(self, digest: Digest) {
        let mut pause = RETRY_MIN;
        while self.is_wanted(&digest) {
            if let Some(manifest) = self.manifest(digest).await {
                tracing::info!(image.version = %digest, name = manifest.name, "serves a version");
                self.cache.share(manifest);
                return;
            }
            tokio::time::sleep(pause.mul_f64(1.0 + rand::random::<f64>() / 2.0)).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    async fn manifest(&self, digest: Digest) -> Option<Verified<Manifest>> {
        let path = self.path(&digest);
        if let Ok(bytes) = std::fs::read(&path)
            && let Ok(manifest) = self.cache.site(|s| s.accept_manifest(&digest, &bytes))
        {
            return Some(manifest);
        }
        match self.cache.manifest(digest).await {
            Ok(manifest) => {
                if let Err(error) = write_durably(&path, manifest.as_bytes()) {
                    tracing::warn!(%error, "a manifest is not kept for the next start");
                }
                Some(manifest)
            }
            Err(error) => {
                tracing::info!(%error, "a version is assigned and cannot be had yet");
                None
            }
        }
    }
}
