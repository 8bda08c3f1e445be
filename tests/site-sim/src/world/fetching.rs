//! The WAN leg, as the shell goes it: HQ's lease first, then one object after the other.

use peer_cache_proto::{
    budget::{GRANT_MAX, Grant},
    election::CLAIM_EVERY,
};
use trust_format::PublicKey;
use web_api::LIFE_HELD_SECONDS;

use super::*;

/// How long the fetcher waits for an HQ that cannot be reached.
const HQ_WITHIN: Duration = Duration::from_secs(1);
/// To HQ and back.
const HQ_ROUND_TRIP: Duration = Duration::from_millis(40);
/// How long a holder of the lease may take to connect before it counts as out of reach, as the shell's `UNSEEN_FOR`.
const UNSEEN_FOR: Duration = Duration::from_secs(3);
/// The lease is renewed when this much has come.
const RENEW_EVERY_BYTES: u64 = 16 << 20;
/// How often HQ is asked for one lease, as the shell's `LEASE_ASKS_MAX`.
const LEASE_ASKS_MAX: usize = 16;
/// A node tells HQ that it lives at least so often: each second while it has something to report.
const REPORT_EVERY: Duration = Duration::from_secs(LIFE_HELD_SECONDS + 1);
/// Something stands in the way of the next object: no room, or a pause.
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(200);

impl World {
    pub(crate) fn start_fetch(&mut self, member: usize, wanted: Vec<ChunkId>) {
        self.invariant_only_what_nobody_has(member, &wanted);
        self.invariant_one_fetch(member);
        self.fetches += 1;
        let number = self.fetches;
        self.members[member].fetch = Some(Fetch {
            number,
            wanted,
            next: 0,
            fence: None,
            bytes_since_renewal: 0,
            views: Vec::new(),
            asked_since: self.now,
            is_waiting: false,
            transfer: None,
        });
        if !std::mem::replace(&mut self.members[member].is_source, true) {
            self.join_everywhere(member);
        }
        self.in_wan(member, Duration::ZERO, Wan::Next);
        self.in_wan(member, CLAIM_EVERY, Wan::GoesOn);
    }

    /// Later in this fetch.
    fn in_wan(&mut self, member: usize, time: Duration, what: Wan) {
        let me = &self.members[member];
        let Some(fetch) = &me.fetch else {
            return;
        };
        let event = Event::Wan {
            member,
            boot: me.boot,
            fetch: fetch.number,
            what,
        };
        self.after(time, event);
    }

    pub(crate) fn wan(&mut self, member: usize, boot: u64, fetch: u64, what: Wan) {
        let is_this = |f: &Fetch| f.number == fetch;
        if !self.is_of_this_boot(member, boot)
            || !self.members[member].fetch.as_ref().is_some_and(is_this)
        {
            return;
        }
        match what {
            Wan::Next => self.next_object(member),
            Wan::Answered(answer) => self.answered(member, answer),
            Wan::Look {
                holder,
                finished,
                until,
            } => self.look_for_holder(member, holder, finished, until),
            Wan::Came(chunk) => self.came(member, chunk),
            Wan::Failed => self.fetch_failed(member),
            Wan::GoesOn => self.goes_on(member),
        }
        self.act(member);
    }

    fn next_object(&mut self, member: usize) {
        let now = self.now;
        if self.wan_cut_until > now {
            return self.in_wan(member, HQ_WITHIN, Wan::Failed);
        }
        let key = self.members[member].key;
        let news = self.hq.news(now, key);
        let me = &mut self.members[member];
        me.budget.handle_limit(now, news.bytes_per_second);
        let has_room = me.has_room();
        let Some(fetch) = &mut me.fetch else {
            return;
        };
        fetch.is_waiting = news.paused;
        if news.paused || !has_room {
            return self.in_wan(member, TRY_AGAIN_AFTER, Wan::Next);
        }
        if fetch.next == fetch.wanted.len() {
            return self.fetched_all(member);
        }
        match fetch.fence {
            Some(fence) if fetch.bytes_since_renewal < RENEW_EVERY_BYTES => {
                self.ask_for_object(member, fence);
            }
            _ => {
                fetch.fence = None;
                fetch.asked_since = now;
                self.ask_for_lease(member);
            }
        }
    }

    fn ask_for_lease(&mut self, member: usize) {
        let me = &self.members[member];
        let Some(fetch) = &me.fetch else {
            return;
        };
        let before = self.hq.working(self.now);
        let answer = self.hq.ask(self.now, (me.key, me.is_node), &fetch.views);
        if let Answer::Lease { fence } = answer {
            self.invariant_one_lease_in_an_island(member, fence, &before);
        }
        self.in_wan(member, HQ_ROUND_TRIP, Wan::Answered(answer));
    }

    fn answered(&mut self, member: usize, answer: Answer) {
        let until = self.now + UNSEEN_FOR;
        let Some(fetch) = &mut self.members[member].fetch else {
            return;
        };
        match answer {
            Answer::Lease { fence } => {
                fetch.fence = Some(fence);
                fetch.bytes_since_renewal = 0;
                fetch.views.clear();
                self.next_object(member);
            }
            Answer::Held { holder, finished } => {
                self.look_for_holder(member, holder, finished, until);
            }
            Answer::Crowded => self.fetch_failed(member),
        }
    }

    /// What the shell tells HQ of a holder for whom it was refused.
    fn look_for_holder(
        &mut self,
        member: usize,
        holder: PublicKey,
        finished: bool,
        until: Duration,
    ) {
        let me = &self.members[member];
        let is_live = me
            .links
            .values()
            .any(|link| self.members[link.other].key == holder);
        if !is_live && self.now < until {
            let look = Wan::Look {
                holder,
                finished,
                until,
            };
            return self.in_wan(member, TRY_AGAIN_AFTER, look);
        }
        let Some(fetch) = &mut self.members[member].fetch else {
            return;
        };
        let known = fetch.views.iter().position(|(key, _)| *key == holder);
        let is_said = known.is_some_and(|at| fetch.views[at].1 == is_live);
        if is_said || (is_live && !finished) || fetch.views.len() >= LEASE_ASKS_MAX {
            return self.fetch_failed(member);
        }
        if let Some(at) = known {
            fetch.views.remove(at);
        }
        fetch.views.push((holder, is_live));
        self.ask_for_lease(member);
    }

    fn ask_for_object(&mut self, member: usize, fence: u64) {
        let now = self.now;
        let me = &mut self.members[member];
        let Some(chunk) = me.fetch.as_ref().map(|f| f.wanted[f.next]) else {
            return;
        };
        let is_here = me.holds_whole(chunk);
        let Some(fetch) = &mut me.fetch else {
            return;
        };
        fetch.next += 1;
        if is_here {
            return self.in_wan(member, Duration::ZERO, Wan::Next);
        }
        if !self.hq.works(now, fence) {
            // HQ gave the lease to another: it is asked for anew
            fetch.next -= 1;
            fetch.fence = None;
            return self.in_wan(member, Duration::ZERO, Wan::Next);
        }
        fetch.transfer = Some(chunk);
        self.members[member].make_room(chunk);
        self.hq.moved(now, fence);
        let time = self.time_of_object(member);
        self.in_wan(member, time, Wan::Came(chunk));
    }

    /// The line's rate, and no more than the budget grants.
    fn time_of_object(&mut self, member: usize) -> Duration {
        let (mut at, mut left) = (self.now, self.plan.object_bytes);
        let rate = self.plan.wan_bytes_per_second;
        let budget = &mut self.members[member].budget;
        while left > 0 {
            match budget.grant(at, left.min(GRANT_MAX)) {
                Grant::Now(bytes) => {
                    left -= bytes;
                    at += Duration::from_nanos(u64::from(bytes) * 1_000_000_000 / rate);
                }
                Grant::At(later) => at = at.max(later),
                // the limit is never 0 here; a pause is seen before
                Grant::Never => break,
            }
        }
        at.saturating_sub(self.now)
    }

    fn came(&mut self, member: usize, chunk: ChunkId) {
        let now = self.now;
        let object_bytes = u64::from(self.plan.object_bytes);
        let Some(fetch) = &mut self.members[member].fetch else {
            return;
        };
        fetch.transfer = None;
        let fence = fetch.fence.unwrap_or(0);
        if self.wan_cut_until > now || !self.hq.works(now, fence) {
            // cut in the middle; what came of it is lost
            fetch.next -= 1;
            fetch.fence = None;
            self.hq.account.cut += 1;
            self.members[member].free_room_of_nothing(chunk);
            return self.in_wan(member, TRY_AGAIN_AFTER, Wan::Next);
        }
        fetch.bytes_since_renewal += object_bytes;
        self.hq.moved(now, fence);
        self.hq.count(fence);
        self.landings[chunk.0 as usize] += 1;
        let me = &mut self.members[member];
        let is_new = !me.holds_whole(chunk);
        let parts: Vec<PartId> = me.table.parts_of(chunk).collect();
        for part in parts {
            self.hold(member, part, true);
        }
        if is_new {
            self.land(member, chunk);
        }
        if let Some(download) = &mut self.members[member].download {
            download.handle_local(now, chunk);
        }
        self.next_object(member);
    }

    fn fetched_all(&mut self, member: usize) {
        let me = &mut self.members[member];
        let fence = me.fetch.take().and_then(|fetch| fetch.fence);
        if let Some(download) = &mut me.download {
            download.handle_fetched();
        }
        if let Some(fence) = fence {
            self.hq.end(fence, true);
        }
    }

    fn fetch_failed(&mut self, member: usize) {
        let now = self.now;
        self.end_fetch(member);
        if let Some(download) = &mut self.members[member].download {
            download.handle_fetch_failed(now);
        }
    }

    /// A fetch that does not come to its end; HQ hears of it if it can.
    pub(crate) fn end_fetch(&mut self, member: usize) {
        self.cut_transfer(member);
        let fence = self.members[member].fetch.take().and_then(|f| f.fence);
        if let Some(fence) = fence.filter(|_| self.wan_cut_until <= self.now) {
            self.hq.end(fence, false);
        }
    }

    /// An object that was on its way comes no more.
    pub(crate) fn cut_transfer(&mut self, member: usize) {
        let me = &mut self.members[member];
        if let Some(chunk) = me.fetch.as_mut().and_then(|f| f.transfer.take()) {
            self.hq.account.cut += 1;
            me.free_room_of_nothing(chunk);
        }
    }

    fn goes_on(&mut self, member: usize) {
        let now = self.now;
        let me = &mut self.members[member];
        let goes_on = |f: &Fetch| f.is_waiting || f.transfer.is_some();
        if me.fetch.as_ref().is_some_and(goes_on)
            && let Some(download) = &mut me.download
        {
            download.handle_fetch_goes_on(now);
        }
        self.in_wan(member, CLAIM_EVERY, Wan::GoesOn);
    }

    pub(crate) fn report(&mut self, member: usize, boot: u64) {
        if !self.is_of_this_boot(member, boot) {
            return;
        }
        if self.wan_cut_until <= self.now {
            self.hq.hear(self.now, self.members[member].key);
        }
        self.after(REPORT_EVERY, Event::Report { member, boot });
    }
}
