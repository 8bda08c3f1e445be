//! What must never be, looked at while it could happen.

use super::*;

impl World {
    /// A fetcher asks HQ only for what no live peer of its has said that it holds.
    pub(crate) fn invariant_only_what_nobody_has(&mut self, member: usize, wanted: &[ChunkId]) {
        let announced: BTreeSet<PartId> = self.members[member]
            .links
            .values()
            .flat_map(|l| l.announced.iter().copied())
            .collect();
        let table = &self.members[member].table;
        let is_held =
            |chunk: &ChunkId| table.parts_of(*chunk).all(|part| announced.contains(&part));
        if let Some(chunk) = wanted.iter().find(|chunk| is_held(chunk)) {
            self.violation = Some(format!(
                "invariant_only_what_nobody_has: {member} fetches chunk {}, which a neighbour holds",
                chunk.0
            ));
        }
    }

    /// No part is asked for more than twice at once.
    pub(crate) fn invariant_copies(&mut self, member: usize) {
        let mut copies: BTreeMap<PartId, usize> = BTreeMap::new();
        for part in self.members[member].flights.values().flatten() {
            *copies.entry(*part).or_default() += 1;
        }
        if let Some((part, count)) = copies.into_iter().find(|(_, n)| *n > COPIES_MAX) {
            self.violation = Some(format!(
                "invariant_copies: {member} has asked for part {} {count} times at once",
                part.0
            ));
        }
    }

    /// A node asks the origin once at a time.
    pub(crate) fn invariant_one_fetch(&mut self, member: usize) {
        if self.members[member].fetch.is_some() {
            self.violation = Some(format!(
                "invariant_one_fetch: {member} begins to fetch while it fetches"
            ));
        }
    }

    /// Who was caught with wrong bytes is not asked again by the one who caught it.
    pub(crate) fn invariant_caught_once(&mut self, member: usize, peer: PeerId) {
        let me = &self.members[member];
        if let Some(end) = me.links.get(&peer)
            && me.caught.contains(&end.other)
        {
            self.violation = Some(format!(
                "invariant_caught_once: {member} asks {} again, which sent it wrong bytes",
                end.other
            ));
        }
    }
}
