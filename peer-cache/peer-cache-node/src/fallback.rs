//! An agent's view of the store's nodes: the shell around `peer_cache_proto::fallback`.

use std::sync::Arc;

use peer_cache_proto::{download::LOOK_EVERY, election::Rank};
use tokio::time::interval;

use crate::{
    Event, Role,
    shared::{Peer, Shared, lock},
};

/// Looks for nodes, for ever.
pub(crate) async fn watch(shared: Arc<Shared>) {
    let mut look = interval(LOOK_EVERY);
    loop {
        look.tick().await;
        let stood = shared.stands_for_nodes();
        let node = shared.peers().into_iter().find(|p| p.is_node());
        lock(&shared.fallback).handle_view(shared.now(), node.is_some());
        if let Some(node) = node.filter(|_| stood) {
            shared.emit(Event::NodeIsBack { key: node.key });
        }
    }
}

impl Shared {
    /// Whether this is an agent that has found no node for so long that it may fetch itself.
    pub(crate) fn stands_for_nodes(&self) -> bool {
        self.role == Role::Agent
            && self.origin.is_some()
            && lock(&self.fallback).is_without_node(self.now())
    }

    /// Whether this peer may fetch where this program may: the election is among them. What a peer says of itself does not
    /// make it a node.
    pub(crate) fn is_candidate(&self, peer: &Peer) -> bool {
        match self.role {
            Role::Node => peer.is_node(),
            Role::Agent => self.may_be_served(peer),
        }
    }

    /// The rank by which a peer stands.
    pub(crate) fn rank_of(&self, peer: &Peer) -> Rank {
        match self.role {
            Role::Node => peer.rank,
            Role::Agent => Rank {
                node: peer.is_node(),
                ..peer.rank
            },
        }
    }
}
