//! What is behind the network: checking, unpacking, and the disk. An object keeps its room in memory until the disk has it,
//! and bytes for which there is no room stay with their sender.

use super::*;

/// A slow disk has this fraction of the rate.
const SLOWER_DISK: u64 = 100;

impl World {
    /// A chunk is whole in memory.
    pub(crate) fn land(&mut self, member: usize, chunk: ChunkId) {
        let now = self.now;
        let me = &mut self.members[member];
        let boot = me.boot;
        let Some(landing) = self.plan.landing else {
            return self.landed(member, boot, chunk);
        };
        let rate = match me.has_slow_disk {
            true => landing.disk_bytes_per_second / SLOWER_DISK,
            false => landing.disk_bytes_per_second,
        };
        me.cpu_free_at = me.cpu_free_at.max(now) + landing.cpu;
        let bytes = u64::from(landing.chunk_bytes) * u64::from(landing.passes);
        let time = Duration::from_nanos(bytes * 1_000_000_000 / rate) + landing.seeks;
        me.disk_free_at = me.disk_free_at.max(me.cpu_free_at) + time;
        let at = me.disk_free_at;
        self.at(
            at,
            Event::Landed {
                member,
                boot,
                chunk,
            },
        );
    }

    /// The disk has it.
    pub(crate) fn landed(&mut self, member: usize, boot: u64, chunk: ChunkId) {
        let now = self.now;
        if !self.is_of_this_boot(member, boot) {
            return;
        }
        let me = &mut self.members[member];
        me.written[chunk.0 as usize] = true;
        me.arriving.remove(&chunk);
        if me.is_done() {
            me.finished_at = Some(now);
        }
        while let Some(stalled) = self.members[member].stalled.pop_front() {
            if !self.object(member, stalled) {
                return;
            }
        }
    }
}
