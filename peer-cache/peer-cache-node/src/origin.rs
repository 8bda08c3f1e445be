//! What the peer cache wants of HQ. `peer-cache-origin` fills it in, for a node and for an agent that finds none.

use std::{future::Future, io, pin::Pin, sync::atomic::AtomicU64};

use bytes::Bytes;
use image_format::ChunkRecord;
use thiserror::Error;
use trust_format::{Digest, MachineId, PublicKey};

/// A future that can be kept in a trait object.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The right to fetch one manifest's objects for the site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Which manifest.
    pub manifest: Digest,
    /// Opaque; goes with every request for an object.
    pub token: String,
    /// Grows with each lease that HQ gives out.
    pub fence: u64,
    /// It is for a part of the site that cannot reach the site's fetcher.
    pub island: bool,
}

/// What this node sees of one for whom HQ refused it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HolderView {
    /// Who holds a lease.
    pub key: PublicKey,
    /// Whether there is a live authenticated connection to it.
    pub live: bool,
}

/// Why HQ gave no lease.
#[derive(Debug, Error)]
pub enum LeaseError {
    /// Another node of the site holds it, or an agent that found no node.
    #[error("{holder} fetches for this site already")]
    Held {
        /// Its name; an agent's says that it is one.
        holder: String,
        /// Its key.
        key: PublicKey,
        /// It has everything.
        finished: bool,
    },
    /// HQ cannot be reached or failed.
    #[error("HQ")]
    Unreachable(#[source] io::Error),
}

/// Why an object did not come to its end.
#[derive(Debug, Error)]
pub enum FetchObjectError {
    /// The token opens nothing any more: ask for the lease again.
    #[error("HQ says that the lease is over")]
    LeaseOver,
    /// The site's budget changed: ask [`Origin::may_fetch`] and go on.
    #[error("the site's WAN budget changed")]
    Halted,
    /// The connection was cut, or HQ refused.
    #[error("HQ")]
    Broken(#[source] io::Error),
}

/// HQ, seen from the peer cache.
pub trait Origin: Send + Sync + 'static {
    /// A manifest's bytes.
    ///
    /// # Errors
    /// When HQ cannot be reached or does not have it.
    fn manifest(&self, digest: Digest) -> BoxFuture<'_, io::Result<Bytes>>;

    /// Waits while HQ wants nothing of this manifest fetched: a pause, an hour without budget, a version that comes first.
    fn may_fetch(&self, manifest: Digest) -> BoxFuture<'_, ()>;

    /// Asks for the lease on a manifest, or renews it. `holders` is what this node sees of those it was refused for.
    ///
    /// # Errors
    /// [`LeaseError`].
    fn lease<'a>(
        &'a self,
        manifest: Digest,
        holders: &'a [HolderView],
    ) -> BoxFuture<'a, Result<Lease, LeaseError>>;

    /// The lease is needed no longer; `finished` says whether everything is here. What HQ does not hear of ends by itself.
    fn end_lease<'a>(&'a self, lease: &'a Lease, finished: bool) -> BoxFuture<'a, ()>;

    /// The rest of an object behind what is in `so_far`, appended to it, as fast as the site's budget allows. What arrived
    /// before a failure stays there, and the next try goes on behind it. Every byte is added to `received` as it comes.
    ///
    /// # Errors
    /// [`FetchObjectError`].
    fn object<'a>(
        &'a self,
        lease: &'a Lease,
        record: &'a ChunkRecord,
        so_far: &'a mut Vec<u8>,
        received: &'a AtomicU64,
    ) -> BoxFuture<'a, Result<(), FetchObjectError>>;

    /// Asks HQ to certify the node of a machine that is being imaged here; `None` when HQ cannot be asked in time.
    fn certify(
        &self,
        node: PublicKey,
        machine: MachineId,
        order: u64,
    ) -> BoxFuture<'_, Option<Vec<u8>>>;
}
