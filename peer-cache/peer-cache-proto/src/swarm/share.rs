//! A machine that keeps only its share, and what goes again: parts that others keep are not asked for.

use super::*;

impl Swarm {
    /// From now on only these chunks are to come here; `None` is all of them. What is here beyond them is passed on as before.
    pub fn handle_mine(&mut self, now: Duration, mine: Option<&BTreeSet<ChunkId>>) {
        let before = self.missing;
        for part in (0..self.table.part_count()).map(PartId) {
            let chunk = self.table.place_of(part).map(|(chunk, _)| chunk);
            let is_mine = |mine: &BTreeSet<ChunkId>| chunk.is_some_and(|c| mine.contains(&c));
            self.spare(part, !mine.is_none_or(is_mine));
        }
        // who chooses what comes next would choose for those that want everything
        for id in self.sources.clone() {
            self.handle_peer(now, id, PeerKind::Source);
        }
        if before > 0 {
            self.finish();
        }
        self.choose(now);
    }

    /// A part that was here is here no longer: it turned out damaged.
    pub fn handle_lost(&mut self, now: Duration, part: PartId) {
        let Some(held) = self.held.get_mut(part.0 as usize) else {
            return;
        };
        if std::mem::replace(held, false) {
            self.news.retain(|c| *c != part);
            self.change_chunk(part, |chunk| chunk.held -= 1);
            if !self.spared[part.0 as usize] {
                self.missing += 1;
                self.want(part);
            }
            self.choose(now);
        }
    }

    /// A peer no longer has parts that it announced.
    pub fn handle_have_not(&mut self, id: PeerId, parts: &[PartId]) {
        for part in parts {
            let at = part.0 as usize;
            let Some(peer) = self.peers.get_mut(&id) else {
                return;
            };
            let Some(true) = peer.have.get_mut(at).map(std::mem::take) else {
                continue;
            };
            let wanted = !self.held[at] && !self.spared[at] && self.copies[at] == 0;
            peer.useful -= usize::from(wanted);
            if peer.kind == PeerKind::Receiver {
                self.change_holders(*part, -1);
            }
        }
    }

    /// Missing parts that are not in flight and that no connected peer has announced: what only the origin can give.
    pub fn unavailable(&self) -> Vec<PartId> {
        let nobody_has = |part: u32| self.peers.values().all(|p| !p.have[part as usize]);
        let mut parts: Vec<PartId> = self
            .wanted
            .range(..(1, 0, 0))
            .filter(|(_, _, c)| nobody_has(*c))
            .map(|(_, _, c)| PartId(*c))
            .collect();
        parts.sort_unstable();
        parts
    }

    /// Whether all parts of a chunk are with one of these peers.
    pub fn is_whole_at(&self, chunk: ChunkId, among: impl Fn(&PeerId) -> bool) -> bool {
        let has = |peer: &Peer| {
            let mut parts = self.table.parts_of(chunk);
            parts.all(|part| peer.have[part.0 as usize])
        };
        let mut peers = self.peers.iter().filter(|(id, _)| among(id));
        peers.any(|(_, peer)| has(peer))
    }

    /// Whether a part of a chunk is neither here nor with any connected peer.
    pub fn is_nowhere(&self, chunk: ChunkId) -> bool {
        self.table.parts_of(chunk).any(|part| {
            let at = part.0 as usize;
            !self.held[at] && self.copies[at] == 0 && self.peers.values().all(|p| !p.have[at])
        })
    }

    /// A machine that wants only its share asks sources for parts, as it asks others.
    pub(super) fn kind_of(&self, kind: PeerKind) -> PeerKind {
        match self.spared.contains(&true) {
            true => PeerKind::Receiver,
            false => kind,
        }
    }

    fn spare(&mut self, part: PartId, spared: bool) {
        let at = part.0 as usize;
        if self.spared[at] == spared {
            return;
        }
        if spared {
            self.unwant(part);
            self.missing -= usize::from(!self.held[at]);
            self.spared[at] = true;
            self.cancel_others(part);
        } else {
            self.spared[at] = false;
            self.missing += usize::from(!self.held[at]);
            self.want(part);
        }
    }
}
