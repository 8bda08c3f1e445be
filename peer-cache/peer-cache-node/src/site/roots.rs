//! Roots: from the one that is trusted to the next, and those before it for others whose boot media are older.

use peer_cache_proto::wire::ROOTS_MAX;
use trust_format::{Root, TrustedKeys, peek};

use super::{Learned, Site};

impl Site {
    /// Goes on from root to root, and keeps those on the way for others whose boot media are older.
    pub(super) fn learn_roots(&mut self, roots: &[Vec<u8>], learned: &mut Learned) {
        let before = self.public_documents().roots;
        let number = |root: &&Vec<u8>| peek::<Root>(root).map_or(0, |root| root.number);
        let mut roots: Vec<&Vec<u8>> = roots.iter().collect();
        roots.sort_by_key(number);
        for root in &roots {
            self.learn_root(root, learned);
        }
        for root in roots.iter().rev() {
            self.remember_root(root);
        }
        let after = self.public_documents().roots;
        if after != before {
            learned.fresh.roots = after;
        }
    }

    fn learn_root(&mut self, root: &[u8], learned: &mut Learned) {
        let advanced = match &self.keys {
            Some(keys) if keys.root().as_bytes() == root => return,
            Some(_) if self.older_roots.values().any(|known| known == root) => return,
            Some(keys) if keys.follows(root) => return,
            Some(keys) => keys.advance(root),
            None if self.trust_first_root => TrustedKeys::pin(root),
            None => return,
        };
        match advanced {
            Ok(keys) => {
                if let Some(old) = self.keys.replace(keys) {
                    self.keep_root(old.root().number, old.root().as_bytes());
                }
                learned.root = true;
                self.persist("root", root);
            }
            Err(error) => learned.refused.push(error.to_string()),
        }
    }

    /// Keeps a root that leads to the oldest one here.
    fn remember_root(&mut self, root: &[u8]) {
        let oldest = match self.older_roots.values().next() {
            Some(bytes) => TrustedKeys::pin(bytes).ok(),
            None => self.keys.clone(),
        };
        let claimed = peek::<Root>(root).map(|root| root.number);
        if let (Some(oldest), Ok(number)) = (oldest, claimed)
            && number < oldest.root().number
            && oldest.follows(root)
        {
            self.keep_root(number, root);
        }
    }

    fn keep_root(&mut self, number: u64, root: &[u8]) {
        self.older_roots.insert(number, root.to_vec());
        self.persist(&format!("roots/{number}"), root);
        // with the trusted one they are as many as may be shown
        while self.older_roots.len() >= ROOTS_MAX {
            if let Some((oldest, _)) = self.older_roots.pop_first() {
                self.unpersist(&format!("roots/{oldest}"));
            }
        }
    }
}
