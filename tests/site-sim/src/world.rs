//! The clock, the members, and what happens to them.

mod air;
mod fetching;
mod invariants;
mod landing;
mod network;
mod offline;
mod shell;
mod strangers;
mod trouble;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use image_format::{ChunkId, PartId, PartTable, part_count};
use peer_cache_proto::{
    PeerId,
    download::{Action, LOOK_EVERY},
    duty::{Give, UPLOAD_COUNTS_FOR},
    swarm::{self, Failure, PeerKind, RequestId, Want},
};

use web_api::{WanBudget, WanWindow};

use crate::{
    faults::{self, Fault},
    hq::{Answer, Hq},
    member::{Fetch, Link, Member, Stalled},
    plan::{Plan, Summary, Violation},
    queue::Queue,
    random::Random,
};
use air::Air;

/// A connection whose other end says nothing is given up after this long.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3);
/// A lost packet is sent again after about this long.
const RESEND_AFTER: Duration = Duration::from_millis(30);
/// Between two members that can hear each other and have no connection.
const DIAL_EVERY: Duration = Duration::from_millis(500);
/// When all faults are over, everybody has this long to finish.
const FINISH_WITHIN: Duration = Duration::from_secs(240);
/// A node is revoked within this time, where one is.
const REVOKED_WITHIN_MILLIS: u64 = 15_000;
/// One store in so many has a budget by time of day.
const BUDGET_ONE_IN: u64 = 3;

#[derive(Debug, Clone)]
enum Message {
    Joined {
        is_source: bool,
    },
    Have(Arc<[PartId]>),
    Ask(RequestId, Want),
    /// The head of an answer to [`Want::Next`], ahead of its bytes.
    Assigned(RequestId, PartId),
    Object {
        request: RequestId,
        part: PartId,
        is_true: bool,
    },
    Exhausted(RequestId),
    Missing(RequestId),
    Busy(RequestId),
    Claim(u64),
    Accused(trust_format::PublicKey),
    /// The site's channel has this number.
    Channel(usize),
}

#[derive(Debug)]
enum Event {
    Deliver {
        to: usize,
        link: PeerId,
        message: Message,
    },
    /// The last byte of an object has left its sender.
    Sent {
        to: usize,
        link: PeerId,
        message: Message,
    },
    /// An answer of this member does not count any more.
    Uploaded {
        member: usize,
    },
    Wake {
        member: usize,
        boot: u64,
    },
    Dial,
    GiveUp {
        link: PeerId,
    },
    Landed {
        member: usize,
        boot: u64,
        chunk: ChunkId,
    },
    /// Something about a fetch over the WAN.
    Wan {
        member: usize,
        boot: u64,
        fetch: u64,
        what: Wan,
    },
    /// A node tells HQ that it lives.
    Report {
        member: usize,
        boot: u64,
    },
    /// An agent looks for nodes.
    LookForNodes {
        member: usize,
        boot: u64,
    },
    /// A member's beacon is due.
    Beacon {
        member: usize,
        boot: u64,
    },
    /// A beacon arrives.
    Heard {
        member: usize,
        beacon: Arc<air::Sent>,
    },
    /// Somebody sends old beacons.
    Replay,
    /// HQ revokes a node.
    Revoke {
        member: usize,
    },
    TellOfRevocation,
    Fault(Fault),
    Back {
        member: usize,
    },
    Unpause,
    Heal,
    /// A machine that was switched on without a WAN should be imaged by now.
    IsImaged {
        member: usize,
    },
}

#[derive(Debug, Clone, Copy)]
enum Wan {
    Answered(Answer),
    /// Is the holder connected by now?
    Look {
        holder: trust_format::PublicKey,
        finished: bool,
        until: Duration,
    },
    /// On with it.
    Next,
    Came(ChunkId),
    Failed,
    /// The fetcher says now and then that it goes on.
    GoesOn,
}

/// Runs a plan to its end.
///
/// # Errors
/// The first invariant that did not hold.
pub fn run(plan: Plan, verbose: bool) -> Result<Summary, Violation> {
    let mut world = World::new(plan, verbose);
    world.begin();
    world.run()
}

/// Those who belong to the store.
fn honest_members(plan: &Plan) -> usize {
    plan.nodes + plan.agents
}

struct World {
    plan: Plan,
    verbose: bool,
    random: Random,
    now: Duration,
    events: u64,
    queue: Queue<Event>,
    members: Vec<Member>,
    /// Both ends of each connection, by its number.
    ends: Vec<Option<(usize, usize)>>,
    /// When the last frame of a connection comes to its first and to its second end.
    last_frame: Vec<[Duration; 2]>,
    /// Whether two members are connected, by both numbers.
    linked: Vec<bool>,
    air: Air,
    /// Members below do not hear those from it on, until then.
    walls: Vec<(usize, Duration)>,
    noise_until: Duration,
    wan_cut_until: Duration,
    wan_paused_until: Duration,
    hq: Hq,
    fetches: u64,
    /// How often each chunk came over the WAN.
    landings: Vec<u32>,
    /// Whether something happened after which an object may come over the WAN again.
    may_repeat_objects: bool,
    /// Since when two members fetch side by side although they are connected.
    rivals: BTreeMap<(usize, usize), Duration>,
    faults_end: Duration,
    /// Where admission is simulated.
    documents: Option<offline::Documents>,
    /// Where a stranger is about.
    papers: Option<strangers::Papers>,
    /// A ticket that a stranger saw.
    stolen: Option<peer_cache_proto::wire::Credentials>,
    violation: Option<String>,
}

impl World {
    fn new(plan: Plan, verbose: bool) -> Self {
        let counts = (0..plan.chunks).map(|_| part_count(plan.object_bytes));
        let table = Arc::new(PartTable::of_counts(counts));
        let count = plan.members();
        let members: Vec<Member> = (0..count)
            .map(|at| Member::new(at, at < plan.nodes, &table, plan.link_bytes_per_second))
            .collect();
        let mut random = Random::new(plan.seed);
        let has_budget = plan.faults && random.one_in(BUDGET_ONE_IN);
        let papers = match plan.has_stranger {
            true => strangers::Papers::new(plan.nodes, &mut random),
            false => None,
        };
        let mut half_a_day = |from_minute, to_minute| WanWindow {
            from_minute,
            to_minute,
            bytes_per_second: Some(1_000_000 * (1 + random.below(4))),
        };
        let windows = match has_budget {
            true => vec![half_a_day(0, 720), half_a_day(720, 0)],
            false => Vec::new(),
        };
        let budget = WanBudget {
            windows,
            utc_offset_minutes: 0,
        };
        // half of them begin a minute or less before a window ends
        let minute = [719, 1439, 100, 900][random.index(4)];
        Self {
            plan,
            verbose,
            random,
            now: Duration::ZERO,
            events: 0,
            queue: Queue::new(),
            air: Air::new(),
            members,
            ends: vec![None],
            last_frame: vec![[Duration::ZERO; 2]],
            linked: vec![false; count * count],
            walls: plan
                .wall
                .map(|at| (at, Duration::MAX))
                .into_iter()
                .collect(),
            noise_until: Duration::ZERO,
            wan_cut_until: Duration::ZERO,
            wan_paused_until: Duration::ZERO,
            hq: Hq::new(budget, minute),
            fetches: 0,
            landings: vec![0; plan.chunks as usize],
            may_repeat_objects: plan.wall.is_some(),
            rivals: BTreeMap::new(),
            faults_end: Duration::ZERO,
            documents: plan.days_offline.map(|_| offline::Documents::new(&plan)),
            papers,
            stolen: None,
            violation: None,
        }
    }

    fn begin(&mut self) {
        match self.plan.days_offline {
            Some(days) => self.begin_offline(days),
            None => self.begin_together(),
        }
        self.at(self.faults_end, Event::Heal);
        self.at(Duration::ZERO, Event::Dial);
    }

    fn begin_together(&mut self) {
        if self.plan.is_seeded {
            self.members[0].fill();
        }
        let honest = self.members.len().saturating_sub(self.plan.liars);
        self.members[honest..]
            .iter_mut()
            .for_each(|m| m.is_liar = true);
        for member in 0..self.members.len() {
            // most in the same second, some late
            let late = match self.random.one_in(5) {
                _ if self.plan.is_seeded => 0,
                true => 8_000,
                false => 400,
            };
            let at = self.random.millis(0, late);
            self.at(at, Event::Back { member });
        }
        if self.plan.has_stranger {
            for stranger in honest_members(&self.plan)..self.members.len() {
                self.members[stranger].is_liar = true;
            }
            if self.plan.nodes > 1 && self.random.one_in(2) {
                let member = 1 + self.random.index(self.plan.nodes - 1);
                let at = self.random.millis(0, REVOKED_WITHIN_MILLIS);
                self.at(at, Event::Revoke { member });
                self.faults_end = self.faults_end.max(at);
            }
        }
        if self.plan.faults {
            for (at, fault) in faults::draw(&mut self.random, self.members.len()) {
                self.at(at, Event::Fault(fault));
                self.faults_end = self.faults_end.max(at + fault.lasts());
            }
        }
    }

    fn at(&mut self, at: Duration, event: Event) {
        self.queue.plan(at.max(self.now), event);
    }

    fn after(&mut self, time: Duration, event: Event) {
        self.at(self.now + time, event);
    }

    fn violate(&self, what: impl Into<String>) -> Violation {
        Violation {
            what: what.into(),
            at: self.now,
            seed: self.plan.seed,
        }
    }

    fn run(mut self) -> Result<Summary, Violation> {
        let events_max = self.plan.events_max();
        while let Some((at, event)) = self.queue.next() {
            self.now = at;
            self.events += 1;
            if self.events > events_max {
                return Err(self.violate("no end: too many events"));
            }
            if let Some(later) = self.paused(&event) {
                self.at(later, event);
                continue;
            }
            if self.verbose {
                eprintln!("{:9.3} {event:?}", self.now.as_secs_f64());
            }
            self.handle(event);
            self.invariant_one_fetcher();
            if let Some(what) = self.violation.take() {
                return Err(self.violate(what));
            }
            if self.is_done() {
                self.invariant_wan_bill();
                self.invariant_the_pin_is_used_up();
                return match self.violation.take() {
                    Some(what) => Err(self.violate(what)),
                    None => Ok(self.summary()),
                };
            }
            if self.now > self.faults_end + self.finish_within() {
                return Err(self.violate(self.who_is_missing()));
            }
        }
        Err(self.violate("the world stood still"))
    }

    /// What is large takes its time when nothing goes wrong, too.
    fn finish_within(&self) -> Duration {
        let bytes = u64::from(self.plan.chunks) * u64::from(self.plan.object_bytes);
        let rate = self
            .plan
            .link_bytes_per_second
            .min(self.plan.wan_bytes_per_second);
        let on_disk = self.plan.landing.map_or(0, |l| {
            u64::from(self.plan.chunks) * u64::from(l.chunk_bytes) * u64::from(l.passes)
                / l.disk_bytes_per_second
        });
        FINISH_WITHIN + Duration::from_secs(4 * (bytes / rate + on_disk))
    }

    fn is_done(&self) -> bool {
        let has_restarted = |m: &Member| self.documents.is_some() && m.finished_at.is_some();
        let done = |m: &Member| m.is_done() || m.is_liar || m.is_outcast || has_restarted(m);
        self.now >= self.faults_end && self.members.iter().rev().all(done)
    }

    fn who_is_missing(&self) -> String {
        let missing: Vec<String> = (0..self.members.len())
            .filter(|m| !self.members[*m].is_done())
            .map(|m| format!("{m} holds {}", self.members[m].whole_chunks().len()))
            .collect();
        format!(
            "invariant_everyone_finishes: of {} chunks {}",
            self.plan.chunks,
            missing.join(", ")
        )
    }

    fn summary(&self) -> Summary {
        let end = self.members.iter().filter_map(|m| m.finished_at).max();
        let object_bytes = f64::from(self.plan.object_bytes);
        Summary {
            millis: u64::try_from(end.unwrap_or_default().as_millis()).unwrap_or(0),
            wan_objects: self.hq.account.main,
            island_objects: self.hq.account.islands,
            wan_cut: self.hq.account.cut,
            source_copies: self.members[0].sent_bytes as f64
                / f64::from(self.plan.chunks)
                / object_bytes,
            lan_bytes: self.members.iter().map(|m| m.sent_bytes).sum(),
            chunks: self.plan.chunks,
            events: self.events,
        }
    }

    /// When a member that stands still takes its event.
    fn paused(&self, event: &Event) -> Option<Duration> {
        let member = match event {
            Event::Deliver { to, .. } => *to,
            Event::Wake { member, .. }
            | Event::Wan { member, .. }
            | Event::Landed { member, .. }
            | Event::Report { member, .. }
            | Event::LookForNodes { member, .. }
            | Event::Beacon { member, .. }
            | Event::Heard { member, .. } => *member,
            Event::Sent { .. }
            | Event::Uploaded { .. }
            | Event::Dial
            | Event::GiveUp { .. }
            | Event::Replay
            | Event::Revoke { .. }
            | Event::TellOfRevocation
            | Event::Fault(_)
            | Event::Back { .. }
            | Event::Unpause
            | Event::Heal
            | Event::IsImaged { .. } => return None,
        };
        let until = self.members[member].paused_until;
        (until > self.now).then_some(until)
    }

    fn is_of_this_boot(&self, member: usize, boot: u64) -> bool {
        let me = &self.members[member];
        me.is_alive && me.boot == boot
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Deliver { to, link, message } => self.deliver(to, link, message),
            Event::Sent { to, link, message } => self.sent(to, link, message),
            Event::Uploaded { member } => self.serve_waiting(member),
            Event::Wake { member, boot } => self.wake(member, boot),
            Event::Dial => self.dial(),
            Event::GiveUp { link } => self.give_up(link),
            Event::Landed {
                member,
                boot,
                chunk,
            } => self.landed(member, boot, chunk),
            Event::Wan {
                member,
                boot,
                fetch,
                what,
            } => self.wan(member, boot, fetch, what),
            Event::Report { member, boot } => self.report(member, boot),
            Event::LookForNodes { member, boot } => self.look_for_nodes(member, boot),
            Event::Beacon { member, boot } => self.send_beacon(member, boot),
            Event::Heard { member, beacon } => self.hear(member, &beacon),
            Event::Replay => self.replay(),
            Event::Revoke { member } => self.revoke(member),
            Event::TellOfRevocation => self.tell_of_revocation(),
            Event::Fault(fault) => self.fault(fault),
            Event::Back { member } => self.back(member),
            Event::Unpause => self.unpause(),
            Event::Heal => self.heal(),
            Event::IsImaged { member } => self.restart_imaged(member),
        }
    }
}
