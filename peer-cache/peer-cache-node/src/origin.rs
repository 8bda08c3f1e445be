//! What the peer cache wants of HQ. The appliance fills it in; an agent has none.

use std::{future::Future, io, pin::Pin};

use bytes::Bytes;
use image_format::ChunkRecord;
use thiserror::Error;
use trust_format::{Digest, MachineId, PublicKey};

/// A future that can be kept in a trait object.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The right to fetch one manifest's objects for the site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Opaque; goes with every request for an object.
    pub token: String,
    /// Grows with each lease that HQ gives out.
    pub fence: u64,
}

/// Why HQ gave no lease.
#[derive(Debug, Error)]
pub enum LeaseError {
    /// Another node of the site holds it.
    #[error("node {holder} fetches for this site already")]
    Held {
        /// Its name.
        holder: String,
    },
    /// HQ cannot be reached or failed.
    #[error("HQ")]
    Unreachable(#[source] io::Error),
}

/// HQ, seen from the peer cache.
pub trait Origin: Send + Sync + 'static {
    /// A manifest's bytes.
    ///
    /// # Errors
    /// When HQ cannot be reached or does not have it.
    fn manifest(&self, digest: Digest) -> BoxFuture<'_, io::Result<Bytes>>;

    /// Asks for the lease on a manifest, or renews it.
    ///
    /// # Errors
    /// [`LeaseError`].
    fn lease(&self, manifest: Digest) -> BoxFuture<'_, Result<Lease, LeaseError>>;

    /// The rest of an object from `first_byte` on, appended to `so_far`. What arrived before a failure stays there,
    /// and the next try goes on behind it.
    ///
    /// # Errors
    /// When the connection is cut or HQ refuses.
    fn object<'a>(
        &'a self,
        lease: &'a Lease,
        record: &'a ChunkRecord,
        so_far: &'a mut Vec<u8>,
    ) -> BoxFuture<'a, io::Result<()>>;

    /// Asks HQ to certify the node of a machine that is being imaged here; `None` when HQ cannot be asked in time.
    fn certify(
        &self,
        node: PublicKey,
        machine: MachineId,
        order: u64,
    ) -> BoxFuture<'_, Option<Vec<u8>>>;
}
