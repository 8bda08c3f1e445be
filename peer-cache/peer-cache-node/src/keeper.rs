//! Where chunks go when they arrive and come from when they are served.

use std::collections::BTreeMap;

use bytes::Bytes;
use image_format::{
    ChunkHash, ChunkId, ChunkRecord, Form, Manifest, VerifiedChunk, VerifiedObject,
};
use peer_cache_proto::spread::MayGo;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use trust_format::Verified;

use crate::slab::{KeepError, Scrubbed, Slab};

/// A chunk as it arrived, checked.
#[derive(Debug)]
pub enum Arrived {
    /// As published.
    Object(VerifiedObject),
    /// Made by a peer from its plain bytes.
    Rebuilt(VerifiedChunk<Vec<u8>>),
}

impl Arrived {
    /// The manifest's record of the chunk.
    pub fn record(&self) -> &ChunkRecord {
        match self {
            Self::Object(object) => object.record(),
            Self::Rebuilt(chunk) => chunk.record(),
        }
    }
}

/// Takes the word that a chunk can be opened from now on, or that it could not be kept. Dropped, it says that the program
/// ends.
pub type Kept = oneshot::Sender<Result<(), KeepError>>;

/// Keeps what arrives and opens what is asked for: the slab of a node, slab and disk of an agent.
pub trait ChunkKeeper: Send + Sync + 'static {
    /// Takes a chunk, and says by `kept` when it can be opened. Does not wait for the medium: it is called where packets
    /// are read. The permit is one of a bounded number of chunks in memory: it is dropped when the chunk is where it belongs.
    fn keep(
        &self,
        manifest: &Verified<Manifest>,
        chunk: ChunkId,
        arrived: Arrived,
        permit: OwnedSemaphorePermit,
        kept: Kept,
    );

    /// Whether a chunk can be opened.
    fn holds(&self, manifest: &Verified<Manifest>, chunk: ChunkId) -> bool;

    /// The bytes of a chunk and their form; the one asked for if there is a choice. May block for a moment.
    fn open(
        &self,
        manifest: &Verified<Manifest>,
        chunk: ChunkId,
        form: Form,
    ) -> Option<(Form, Bytes)>;

    /// Names the chunks that must not be evicted.
    fn assign(&self, manifests: &[Verified<Manifest>]);

    /// Makes what was kept durable.
    ///
    /// # Errors
    /// When the medium fails.
    fn sync(&self) -> std::io::Result<()>;

    /// Room for further objects, in bytes.
    fn free_bytes(&self) -> u64;

    /// Room for objects altogether, as [`Self::bytes_of`] counts them; `None` when whatever is assigned has to be here.
    fn room_bytes(&self) -> Option<u64> {
        None
    }

    /// Room that an object takes.
    fn bytes_of(&self, record: &ChunkRecord) -> u64 {
        record.object_bytes.into()
    }

    /// Of the assigned chunks these may be evicted when room is needed: others hold them. Replaces what was said before.
    fn let_go(&self, _chunks: BTreeMap<ChunkHash, MayGo>) {}

    /// Assigned chunks that were evicted since this was asked last.
    fn evicted(&self) -> Vec<ChunkHash> {
        Vec::new()
    }

    /// Reads the next record behind `cursor` again; `None` behind the last one. May block.
    fn scrub(&self, _cursor: &mut u64) -> Option<Scrubbed> {
        None
    }
}

impl ChunkKeeper for Slab {
    fn keep(
        &self,
        _: &Verified<Manifest>,
        _: ChunkId,
        arrived: Arrived,
        permit: OwnedSemaphorePermit,
        kept: Kept,
    ) {
        let slab = self.clone();
        tokio::task::spawn_blocking(move || {
            let result = match arrived {
                Arrived::Object(object) => Self::keep(&slab, &object),
                // what a node has no object for it does not offer; the object comes from another peer or from HQ
                Arrived::Rebuilt(_) => Ok(()),
            };
            drop(permit);
            // who asked is gone when the program ends
            let _ = kept.send(result);
        });
    }

    fn holds(&self, manifest: &Verified<Manifest>, chunk: ChunkId) -> bool {
        manifest
            .chunk(chunk)
            .is_some_and(|record| Self::holds(self, &record.hash, Form::Object))
    }

    fn open(
        &self,
        manifest: &Verified<Manifest>,
        chunk: ChunkId,
        _: Form,
    ) -> Option<(Form, Bytes)> {
        let bytes = self.read(manifest.chunk(chunk)?)?;
        Some((Form::Object, bytes))
    }

    fn assign(&self, manifests: &[Verified<Manifest>]) {
        let chunks = manifests
            .iter()
            .flat_map(|m| m.chunks.iter().map(|c| c.hash))
            .collect();
        Self::assign(self, chunks);
    }

    fn sync(&self) -> std::io::Result<()> {
        Self::sync(self)
    }

    fn free_bytes(&self) -> u64 {
        Self::free_bytes(self)
    }

    fn room_bytes(&self) -> Option<u64> {
        Some(self.usable_bytes())
    }

    fn bytes_of(&self, record: &ChunkRecord) -> u64 {
        crate::slab::record_bytes(record.object_bytes)
    }

    fn let_go(&self, chunks: BTreeMap<ChunkHash, MayGo>) {
        Self::let_go(self, chunks);
    }

    fn evicted(&self) -> Vec<ChunkHash> {
        Self::evicted(self)
    }

    fn scrub(&self, cursor: &mut u64) -> Option<Scrubbed> {
        Self::scrub(self, cursor)
    }
}
