//! HQ's keys apart from HQ: where people sign.

use std::{fs, path::PathBuf};

use image_store::{FileKey, KeyHolder, RootDraft, split_keys};
use reqwest::Method;
use tempfile::TempDir;
use trust_format::{PublicKey, Root};

use crate::world::*;

/// A place without a network: HQ's first keys apart, and new ones.
pub(crate) struct Away(TempDir);

impl Away {
    /// Copies of HQ's keys; HQ still has them all.
    pub(crate) fn of(world: &World) -> Self {
        let folder = TempDir::new().unwrap();
        split_keys(&keys_folder(world).join("signing-keys"), folder.path()).unwrap();
        Self(folder)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(format!("{name}.key"))
    }

    pub(crate) fn key(&self, name: &str) -> FileKey {
        match self.path(name).exists() {
            true => FileKey::open(&self.path(name)).unwrap(),
            false => FileKey::create(&self.path(name)).unwrap(),
        }
    }

    pub(crate) fn public(&self, name: &str) -> PublicKey {
        self.key(name).public()
    }

    /// Puts a key into HQ's folder.
    pub(crate) fn give(&self, world: &World, name: &str) {
        let to = keys_folder(world).join(format!("{name}.key"));
        fs::copy(self.path(name), to).unwrap();
    }

    pub(crate) fn give_new(&self, world: &World, names: &[&str]) {
        for name in names {
            self.key(name);
            self.give(world, name);
        }
    }

    /// A root after HQ's present one.
    pub(crate) async fn draft(
        &self,
        world: &World,
        threshold: u8,
        root: &[&str],
        others: [&[&str]; 3],
    ) -> RootDraft {
        let keys = |names: &[&str]| names.iter().map(|n| self.public(n)).collect();
        let wish = Root {
            number: 0,
            threshold,
            root_keys: keys(root),
            image_keys: keys(others[0]),
            order_keys: keys(others[1]),
            authority_keys: keys(others[2]),
        };
        let old = world.admin.get("/api/v1/root").await.body;
        RootDraft::new(wish, Some(&old)).unwrap()
    }

    /// The same, signed.
    pub(crate) async fn root(
        &self,
        world: &World,
        threshold: u8,
        root: &[&str],
        others: [&[&str]; 3],
        signers: &[&str],
    ) -> Vec<u8> {
        let mut draft = self.draft(world, threshold, root, others).await;
        for name in signers {
            draft.sign(&self.key(name)).unwrap();
        }
        draft.to_bytes()
    }
}

pub(crate) fn keys_folder(world: &World) -> PathBuf {
    world.folder.path().join("hq/keys")
}

pub(crate) async fn publish_root(world: &World, bytes: &[u8], query: &str) -> Answer {
    let path = format!("/api/v1/roots{query}");
    world.admin.raw(Method::POST, &path, bytes.to_vec()).await
}

/// An HQ that was started again with these of its keys in files of their own.
pub(crate) async fn with_keys(names: &[&str]) -> (World, Away) {
    let world = World::new().await;
    let away = Away::of(&world);
    let world = keep(world, &away, names).await;
    (world, away)
}

pub(crate) async fn keep(world: World, away: &Away, names: &[&str]) -> World {
    fs::remove_file(keys_folder(&world).join("signing-keys")).unwrap();
    for name in names {
        away.give(&world, name);
    }
    world.restart().await
}
