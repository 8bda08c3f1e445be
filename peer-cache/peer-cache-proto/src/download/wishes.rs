//! What a node keeps of a manifest when it cannot hold all of it, and what it fetches for others and passes on.

use std::{collections::BTreeSet, time::Duration};

use image_format::{ChunkId, PartId};

use super::Download;
use crate::PeerId;

/// Chunks that others keep and that wait in memory for them.
pub const PASS_ON_MAX: usize = 32;
/// How long such a chunk waits for one of them to take it when another needs its room.
pub const PASS_ON_FOR: Duration = Duration::from_secs(30);
/// A chunk that nobody took is not fetched for others again for so long.
pub const PASS_ON_AGAIN_AFTER: Duration = Duration::from_secs(600);

/// Whose chunks are whose, as far as this node is concerned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wishes {
    /// To be kept here.
    pub mine: BTreeSet<ChunkId>,
    /// To be kept by a node that is connected.
    pub of_nodes: BTreeSet<ChunkId>,
    /// The connections of these nodes.
    pub nodes: BTreeSet<PeerId>,
    /// Somebody is here who wants everything and keeps it for a while only.
    pub agents: bool,
}

impl Download {
    /// Only a share is to be here; `None` is everything.
    pub fn handle_wishes(&mut self, now: Duration, wishes: Option<Wishes>) {
        let mine = wishes.as_ref().map(|w| &w.mine);
        if mine != self.wishes.as_ref().map(|w| &w.mine) {
            self.swarm.handle_mine(now, mine);
        }
        self.wishes = wishes;
        if self.wishes.is_none() {
            // all is to be kept here now, and memory keeps nothing
            for chunk in std::mem::take(&mut self.passing).into_keys() {
                self.let_go(now, chunk);
            }
        }
    }

    /// Whether all that is to be kept here is here.
    pub fn has_its_share(&self) -> bool {
        self.swarm.is_finished()
    }

    /// Whether a peer announced all parts of a chunk.
    pub fn is_whole_at(&self, chunk: ChunkId, id: PeerId) -> bool {
        self.swarm.is_whole_at(chunk, |other| *other == id)
    }

    /// A peer no longer has parts that it announced.
    pub fn handle_have_not(&mut self, id: PeerId, parts: &[PartId]) {
        self.swarm.handle_have_not(id, parts);
    }

    /// A chunk that others keep came over the WAN and is in memory until [`Self::poll_release`] says otherwise.
    pub fn handle_passing(&mut self, now: Duration, chunk: ChunkId) {
        self.passing.insert(chunk, now);
        self.handle_local(now, chunk);
    }

    /// The next chunk that need not be in memory any longer. [`Self::handle_lost`] was called for it.
    pub fn poll_release(&mut self) -> Option<ChunkId> {
        self.released.pop_front()
    }

    /// Chunks that are wanted here or by somebody who is connected and that no live peer has, in their order.
    pub(super) fn nowhere(&self) -> Vec<ChunkId> {
        let mut chunks: BTreeSet<ChunkId> = self
            .table
            .chunks_of(self.swarm.unavailable())
            .into_iter()
            .collect();
        if let Some(wishes) = &self.wishes {
            let of_others = (0..self.table.chunk_count())
                .map(ChunkId)
                .filter(|chunk| self.others_want(*chunk))
                .filter(|chunk| !wishes.mine.contains(chunk) && !self.left_over.contains_key(chunk))
                .filter(|chunk| self.swarm.is_nowhere(*chunk));
            chunks.extend(of_others);
        }
        chunks.into_iter().collect()
    }

    fn others_want(&self, chunk: ChunkId) -> bool {
        let wishes = self.wishes.as_ref();
        wishes.is_some_and(|wishes| wishes.agents || wishes.of_nodes.contains(&chunk))
    }

    /// Lets go of what those have who keep it, of what somebody has where nobody keeps it, and of what nobody takes.
    pub(super) fn release(&mut self, now: Duration) {
        let again = |since: &Duration| now >= *since + PASS_ON_AGAIN_AFTER;
        self.left_over.retain(|_, since| !again(since));
        let (mut taken, mut left) = (Vec::new(), Vec::new());
        for (chunk, since) in &self.passing {
            let is_taken = self.wishes.as_ref().is_some_and(|wishes| {
                let keeps =
                    |id: &PeerId| !wishes.of_nodes.contains(chunk) || wishes.nodes.contains(id);
                self.swarm.is_whole_at(*chunk, keeps)
            });
            let is_wanted = self.passing.len() < PASS_ON_MAX && self.others_want(*chunk);
            if is_taken {
                taken.push(*chunk);
            } else if now >= *since + PASS_ON_FOR && !is_wanted {
                left.push(*chunk);
            }
        }
        self.left_over
            .extend(left.iter().map(|chunk| (*chunk, now)));
        for chunk in taken.into_iter().chain(left) {
            self.passing.remove(&chunk);
            self.let_go(now, chunk);
        }
    }

    fn let_go(&mut self, now: Duration, chunk: ChunkId) {
        self.handle_lost(now, chunk);
        self.released.push_back(chunk);
    }
}

#[cfg(test)]
mod tests;
