//! The quota, which may change while the slab is in use. A file that is mapped only grows; room above the quota is given back as
//! holes.

use std::io;

use peer_cache_proto::spread::MayGo;

use super::{PAGE, SLAB_BYTES_MIN, Slab, Watch, state::State};

impl Slab {
    /// Uses no more than so many bytes from now on; at least [`SLAB_BYTES_MIN`]. A file grows where there is room, a partition keeps
    /// its size. What may not go yet stays, and goes later: [`Slab::over_bytes`].
    ///
    /// # Errors
    /// When there is not so much room; the quota is then what it was.
    pub fn set_quota(&self, bytes: u64) -> io::Result<()> {
        let bytes = bytes.max(SLAB_BYTES_MIN);
        let bytes = bytes - bytes % PAGE;
        let mut state = self.state();
        if bytes > state.capacity() {
            let map = self.inner.medium.grow(bytes)?;
            if let Some(faults) = &self.inner.faults {
                state.watches.push(Watch::over(&map, faults)?);
            }
            let before = state.capacity();
            state.map = map;
            state.release(before, bytes - before);
            self.note_generation(&state);
        }
        state.quota = bytes;
        self.trim(&mut state);
        Ok(())
    }

    /// What is here beyond the quota because it may not go.
    pub fn over_bytes(&self) -> u64 {
        let state = self.state();
        state.used_bytes().saturating_sub(state.quota)
    }

    /// Evicts what is beyond the quota and may go, and gives its room back.
    pub(super) fn trim(&self, state: &mut State) {
        if state.quota >= state.capacity() {
            return;
        }
        while state.used_bytes() > state.quota && state.evict_one(MayGo::Freely).is_some() {}
        // a header that still stood there would be believed by the next start
        if let Err(error) = self.wipe_dead(state) {
            tracing::warn!(%error, "what was evicted keeps its room");
            return;
        }
        for (offset, length) in &state.free {
            self.inner.medium.give_back(*offset, *length);
        }
    }
}
