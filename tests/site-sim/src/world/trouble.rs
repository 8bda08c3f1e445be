//! What goes wrong, and how it ends.

use super::*;

/// A slow link has this fraction of the rate.
const SLOWER: u64 = 20;
/// How often old beacons are sent, when somebody sends them.
const REPLAY_EVERY: Duration = Duration::from_millis(400);

impl World {
    pub(crate) fn fault(&mut self, fault: Fault) {
        let now = self.now;
        self.may_repeat_objects |= fault.may_repeat_objects();
        match fault {
            Fault::Crash {
                member,
                back_after,
                keeps_disk,
            } => {
                if self.members[member].is_alive {
                    self.silence(member);
                    self.cut_transfer(member);
                    self.members[member].stop(keeps_disk);
                    self.forget_links_of(member);
                    self.after(back_after, Event::Back { member });
                }
            }
            Fault::NodesGone { back_after } => {
                for member in 0..self.plan.nodes {
                    self.fault(Fault::Crash {
                        member,
                        back_after,
                        keeps_disk: true,
                    });
                }
            }
            Fault::Pause { member, time } => {
                let me = &mut self.members[member];
                me.paused_until = me.paused_until.max(now + time);
                if time > IDLE_TIMEOUT {
                    self.silence(member);
                }
            }
            Fault::Partition { at, time } => self.part(at, time),
            Fault::WanCut { time } => self.wan_cut_until = self.wan_cut_until.max(now + time),
            Fault::WanPause { time } => {
                self.wan_paused_until = self.wan_paused_until.max(now + time);
                self.hq.pause(true);
                self.after(time, Event::Unpause);
            }
            Fault::Slow { member } => {
                self.members[member].bytes_per_second = self.plan.link_bytes_per_second / SLOWER;
            }
            Fault::SlowDisk { member } => self.members[member].has_slow_disk = true,
            Fault::Liar { member } => {
                self.members[member].is_liar = true;
                self.accuse_falsely(member);
            }
            Fault::LyingRank { member } => self.lie_about_rank(member),
            Fault::Noise { time } => self.noise_until = self.noise_until.max(now + time),
            Fault::Replay { time } => {
                let count = time.as_millis() / REPLAY_EVERY.as_millis();
                let count = u32::try_from(count).unwrap_or(0);
                (0..count).for_each(|n| self.after(REPLAY_EVERY * n, Event::Replay));
            }
            Fault::ClockJump { seconds } => self.hq.jump(seconds),
        }
    }

    fn part(&mut self, at: usize, time: Duration) {
        self.walls.push((at, self.now + time));
        if time <= IDLE_TIMEOUT {
            return;
        }
        for link in 1..self.ends.len() {
            if let Some((a, b)) = self.ends[link]
                && (a < at) != (b < at)
            {
                let link = PeerId(link as u64);
                self.after(IDLE_TIMEOUT, Event::GiveUp { link });
            }
        }
    }

    /// Only nodes fetch; what an agent says of its rank is not asked. The program starts again with its lie.
    fn lie_about_rank(&mut self, member: usize) {
        let me = &mut self.members[member];
        if !me.is_node || me.lies_about_rank {
            return;
        }
        me.lies_about_rank = true;
        // who fetched till now just stops
        self.may_repeat_objects |= me.fetch.is_some();
        if self.members[member].is_alive {
            let links: Vec<PeerId> = self.members[member].links.keys().copied().collect();
            links.into_iter().for_each(|link| self.give_up(link));
            self.cut_transfer(member);
            self.members[member].stop(true);
            self.back(member);
        }
    }

    pub(crate) fn back(&mut self, member: usize) {
        if self.members[member].is_alive {
            return;
        }
        let now = self.now;
        self.members[member].start(now, member as u64);
        self.greet(member);
        self.act(member);
    }

    /// What a program does when it starts, beside its download.
    fn greet(&mut self, member: usize) {
        let boot = self.members[member].boot;
        match self.members[member].is_node {
            true => self.report(member, boot),
            false => self.look_for_nodes(member, boot),
        }
        if self.plan.faults {
            // who was booted knows by whom; everybody else is found by beacons
            if !self.members[member].is_node {
                self.members[member].known.insert(0, Some(0));
            }
            self.send_beacon(member, boot);
        }
    }

    pub(crate) fn unpause(&mut self) {
        if self.now >= self.wan_paused_until {
            self.hq.pause(false);
        }
    }

    pub(crate) fn heal(&mut self) {
        let now = self.now;
        self.walls.retain(|(_, until)| *until == Duration::MAX);
        self.wan_cut_until = now;
        self.wan_paused_until = now;
        self.noise_until = now;
        self.hq.pause(false);
    }
}
