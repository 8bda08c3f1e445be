//! HQ, its lease, and the WAN.

use super::*;

impl World {
    pub(crate) fn start_fetch(&mut self, member: usize, wanted: Vec<ChunkId>) {
        self.invariant_only_what_nobody_has(member, &wanted);
        self.invariant_one_fetch(member);
        self.fetches += 1;
        let fetch = self.fetches;
        self.members[member].fetch = Some(Fetch {
            number: fetch,
            wanted,
            next: 0,
        });
        if !std::mem::replace(&mut self.members[member].is_source, true) {
            self.join_everywhere(member);
        }
        self.fetch_next(member);
    }

    /// Asks HQ for the next object under its lease.
    pub(crate) fn fetch_next(&mut self, member: usize) {
        let now = self.now;
        let boot = self.members[member].boot;
        let Some(fetch) = &mut self.members[member].fetch else {
            return;
        };
        let number = fetch.number;
        let failed = Event::FetchFailed {
            member,
            boot,
            fetch: number,
        };
        if self.wan_cut_until > now {
            return self.after(HQ_WITHIN, failed);
        }
        let refused = self
            .lease
            .is_some_and(|l| l.holder != member && now < l.renewed + DEADLINE);
        if refused {
            return self.after(Duration::from_millis(40), failed);
        }
        self.lease = Some(Lease {
            holder: member,
            renewed: now,
        });
        let me = &mut self.members[member];
        let whole = me.whole_chunks();
        let Some(fetch) = &mut me.fetch else {
            return;
        };
        while let Some(chunk) = fetch.wanted.get(fetch.next).copied() {
            fetch.next += 1;
            if whole.contains(&chunk) {
                continue;
            }
            let time =
                Duration::from_micros(u64::from(self.plan.object_bytes) * 8 / self.plan.wan_mbit);
            self.wan_objects += 1;
            self.after(
                time,
                Event::Fetched {
                    member,
                    boot,
                    fetch: number,
                    chunk,
                },
            );
            return;
        }
        self.members[member].fetch = None;
        // HQ is told that the version is here
        self.lease = None;
        if let Some(download) = &mut self.members[member].download {
            download.handle_fetched();
        }
    }

    pub(crate) fn fetched(&mut self, member: usize, boot: u64, fetch: u64, chunk: ChunkId) {
        let now = self.now;
        let me = &self.members[member];
        if me.boot != boot || me.fetch.as_ref().is_none_or(|f| f.number != fetch) {
            return;
        }
        if self.wan_cut_until > now {
            let failed = Event::FetchFailed {
                member,
                boot,
                fetch,
            };
            return self.after(HQ_WITHIN, failed);
        }
        let parts: Vec<PartId> = self.members[member].table.parts_of(chunk).collect();
        parts.into_iter().for_each(|part| self.hold(member, part));
        if let Some(download) = &mut self.members[member].download {
            download.handle_local(now, chunk);
        }
        self.fetch_next(member);
        self.act(member);
    }

    pub(crate) fn fetch_failed(&mut self, member: usize, boot: u64, fetch: u64) {
        let now = self.now;
        let me = &mut self.members[member];
        if me.boot == boot && me.fetch.as_ref().is_some_and(|f| f.number == fetch) {
            me.fetch = None;
            if let Some(download) = &mut me.download {
                download.handle_fetch_failed(now);
            }
            self.act(member);
        }
    }
}
