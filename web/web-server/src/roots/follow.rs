//! Roots that another HQ on the same database published. What this one signs is signed under the newest, whoever published it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use image_store::{AdvanceRootError, Signer};
use thiserror::Error;
use trust_format::{Digest, Root, peek, peek_envelope};

use crate::{
    Hq,
    bell::News,
    database::{Alone, roots as table},
    error::Refusal,
};

/// Before the next attempt to follow a root.
const FOLLOW_PAUSE: Duration = Duration::from_secs(5);

/// Why a root of the database is none of this HQ's.
#[derive(Debug, Error)]
pub enum FollowRootsError {
    /// It cannot be read or written.
    #[error("roots of the chain in the database")]
    Database(#[from] sqlx::Error),
    /// The keys in this HQ's folder are others.
    #[error(
        "the database belongs to another chain: its root {number} is not one that the keys of this HQ's folder know. Every HQ on a database needs a copy of the first one's folder"
    )]
    OtherChain {
        /// The root's number.
        number: u64,
    },
    /// It does not follow from the one that this HQ trusts, or cannot be kept.
    #[error("root {number} of the database")]
    Advance {
        /// The root's number.
        number: u64,
        /// The cause.
        #[source]
        source: AdvanceRootError,
    },
}

impl From<FollowRootsError> for Refusal {
    fn from(error: FollowRootsError) -> Self {
        match error {
            FollowRootsError::Database(error) => error.into(),
            error => Self::failed(&error),
        }
    }
}

/// Nobody else publishes meanwhile, at whichever HQ, and what is signed is signed under the present root.
pub(crate) async fn alone(hq: &Hq) -> Result<Alone, Refusal> {
    let alone = hq.database.alone().await?;
    follow(hq).await?;
    Ok(alone)
}

/// Takes the roots that another HQ published on the same database.
pub(crate) async fn follow(hq: &Hq) -> Result<(), FollowRootsError> {
    let known = table::all(&mut *hq.database.read().await?).await?;
    follow_known(hq, &known)?;
    hq.database.signs_under(hq.signer.trusted().root().number);
    Ok(())
}

fn follow_known(hq: &Hq, known: &[(u64, Vec<u8>)]) -> Result<(), FollowRootsError> {
    let own = own_roots(&hq.signer);
    for (number, document) in known {
        let number = *number;
        match own.get(&number) {
            Some(mine) if digest(mine) == digest(document) => {}
            Some(_) => return Err(FollowRootsError::OtherChain { number }),
            None if number > hq.signer.trusted().root().number => {
                let next = hq.signer.next(document);
                let taken = next.and_then(|next| hq.signer.advance(next));
                taken.map_err(|source| FollowRootsError::Advance { number, source })?;
                tracing::warn!(root = number, "a root was published at another HQ");
            }
            // older than the first in this HQ's folder
            None => {}
        }
    }
    Ok(())
}

fn digest(root: &[u8]) -> Option<Digest> {
    Some(peek_envelope::<Root>(root).ok()?.0.digest())
}

fn own_roots(signer: &Signer) -> BTreeMap<u64, Vec<u8>> {
    let numbered = signer.roots().into_iter().filter_map(|document| {
        let root: Root = peek(&document).ok()?;
        Some((root.number, document))
    });
    numbered.collect()
}

/// Brings this HQ's folder and the database to the same row of roots. Called once at the start, before anything is signed.
pub(crate) async fn join(hq: &Hq) -> Result<(), FollowRootsError> {
    let mut change = hq.database.write().await?;
    let known = table::all(&mut change).await?;
    follow_known(hq, &known)?;
    for (number, document) in own_roots(&hq.signer) {
        table::insert(&mut change, number, &document).await?;
    }
    let present = hq.signer.trusted().root().number;
    change.tell(News::Root(present));
    change.commit().await?;
    hq.database.signs_under(present);
    Ok(())
}

/// Follows roots that are published elsewhere, until it is ended.
pub(crate) async fn keep_following(hq: Arc<Hq>) {
    loop {
        hq.bells.root.notified().await;
        while let Err(error) = follow(&hq).await {
            tracing::error!(%error, source = ?std::error::Error::source(&error), "HQ cannot follow a root that was published elsewhere; it changes nothing until it can");
            tokio::time::sleep(FOLLOW_PAUSE).await;
        }
    }
}
