//! Who sent how many parts of a download, by names that people can read.

use std::collections::BTreeMap;

use peer_cache_proto::PeerId;

use crate::shared::Shared;

/// Names of those who sent something: they may be gone when people read it.
#[derive(Debug, Default)]
pub(crate) struct Senders {
    names: BTreeMap<PeerId, String>,
}

impl Senders {
    /// `1f2e3d4c at 10.4.2.17` and how many parts came from there. Who came back on another connection is one.
    pub(crate) fn by_name(
        &mut self,
        shared: &Shared,
        received: &BTreeMap<PeerId, u64>,
    ) -> Vec<(String, u64)> {
        let mut senders = BTreeMap::<String, u64>::new();
        for (id, parts) in received {
            if let Some(peer) = shared.peer(*id) {
                let name = || format!("{} at {}", peer.key.short(), peer.address.ip());
                self.names.entry(*id).or_insert_with(name);
            }
            let name = self.names.get(id).cloned();
            let name = name.unwrap_or_else(|| format!("peer {}", id.0));
            *senders.entry(name).or_default() += parts;
        }
        senders.into_iter().collect()
    }
}
