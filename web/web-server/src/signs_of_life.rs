//! When nodes were last heard of, written together every few seconds.
//!
//! A chain has more nodes than a disk can be told of one by one: of each HQ hears every ten seconds that it is there, and to write that is to
//! wait for the disk. Whatever else a node says is written before it is answered.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{MissedTickBehavior, interval};
use trust_format::PublicKey;

use crate::{
    Hq,
    database::{nodes, nodes::RollCall, unix_seconds},
};

/// By so much may be old when a node was last heard of; who decides by it allows for many times more.
const WRITTEN_EVERY: Duration = Duration::from_secs(2);
/// Nodes that are written in one transaction.
const WRITTEN_AT_ONCE: usize = 500;

/// Nodes that were heard of since the last writing. Each is known: there are no more than the database has.
#[derive(Debug, Default)]
pub(crate) struct SignsOfLife(Mutex<Heard>);

#[derive(Debug, Default)]
struct Heard {
    nodes: BTreeSet<PublicKey>,
    /// When the first of them was, in seconds since 1970.
    since: u64,
    /// Whom each reporter named last.
    named: BTreeMap<PublicKey, RollCall>,
}

impl SignsOfLife {
    /// Nodes that are known were heard of.
    pub(crate) fn heard(&self, nodes: impl IntoIterator<Item = PublicKey>) {
        let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if heard.nodes.is_empty() {
            heard.since = unix_seconds();
        }
        heard.nodes.extend(nodes);
    }

    /// A node named others of its site.
    pub(crate) fn named(&self, by: PublicKey, call: RollCall) {
        let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        heard.named.insert(by, call);
    }

    fn take(&self) -> Heard {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Writes them, for ever. What cannot be written is said again by the nodes themselves.
pub(crate) async fn keep_writing(hq: Arc<Hq>) {
    let mut beat = interval(WRITTEN_EVERY);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        beat.tick().await;
        let heard = hq.signs_of_life.take();
        if let Err(error) = write(&hq, heard).await {
            tracing::debug!(%error, "when nodes were heard of is not written");
        }
    }
}

async fn write(hq: &Hq, heard: Heard) -> Result<(), sqlx::Error> {
    let nodes: Vec<PublicKey> = heard.nodes.into_iter().collect();
    for some in nodes.chunks(WRITTEN_AT_ONCE) {
        let mut change = hq.database.write().await?;
        nodes::heard_at(&mut change, some, heard.since).await?;
        change.commit().await?;
    }
    let named: Vec<_> = heard.named.into_iter().collect();
    for some in named.chunks(WRITTEN_AT_ONCE) {
        let mut change = hq.database.write().await?;
        nodes::put_roll_calls(&mut change, some).await?;
        change.commit().await?;
    }
    Ok(())
}
