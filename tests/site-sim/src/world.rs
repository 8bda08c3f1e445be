//! The clock, the network, HQ, and the members' shells.

mod hq;
mod invariants;
mod network;
mod shell;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use image_format::{ChunkId, PART_BYTES, PartId, PartTable, part_count};
use peer_cache_proto::{
    PeerId,
    download::{Action, LOOK_EVERY},
    duty::{Give, UPLOAD_COUNTS_FOR},
    election::DEADLINE,
    swarm::{self, Failure, PeerKind, RequestId, Want},
};

use crate::{
    faults::{self, Fault},
    member::{Fetch, Link, Member},
    random::Random,
};

/// A connection whose other end says nothing is given up after this long.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3);
/// A lost packet is sent again after about this long.
const RESEND_AFTER: Duration = Duration::from_millis(30);
/// How long the fetcher waits for an HQ that cannot be reached.
const HQ_WITHIN: Duration = Duration::from_secs(1);
/// Between two members that can hear each other and have no connection.
const DIAL_EVERY: Duration = Duration::from_millis(500);
/// When all faults are over, everybody has this long to finish.
const FINISH_WITHIN: Duration = Duration::from_secs(180);
/// A slow link has this fraction of the rate.
const SLOWER: u64 = 20;
/// No run of a small store does more: a loop without progress is found here.
const EVENTS_MAX: u64 = 3_000_000;
/// Copies of a part that a member may have asked for at once.
const COPIES_MAX: usize = 2;

/// What is simulated.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// The run.
    pub seed: u64,
    /// Nodes, which may fetch over the WAN.
    pub nodes: usize,
    /// Agents, which may not.
    pub agents: usize,
    /// Chunks of the version.
    pub chunks: u32,
    /// Of each chunk's object.
    pub object_bytes: u32,
    /// Of each member's link, both ways.
    pub mbit: u64,
    /// Of the WAN.
    pub wan_mbit: u64,
    /// Whether anything goes wrong.
    pub faults: bool,
    /// Whether the first node has everything from the start, and all start in the same moment.
    pub is_seeded: bool,
}

impl Plan {
    /// A store of a few machines whose sizes follow from the seed.
    #[must_use]
    pub fn of_seed(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x5e_ed);
        Self {
            seed,
            nodes: 1 + random.index(3),
            agents: 1 + random.index(5),
            chunks: 20 + u32::try_from(random.below(60)).unwrap_or(0),
            object_bytes: 300_000,
            mbit: 200,
            wan_mbit: 50,
            faults: true,
            is_seeded: false,
        }
    }

    /// A store of one node that has a version and machines that all want it at once, on links of 200 Mbit/s.
    #[must_use]
    pub fn of_machines(machines: usize, chunks: u32) -> Self {
        Self {
            seed: 1,
            nodes: 1,
            agents: machines,
            chunks,
            object_bytes: 300_000,
            mbit: 200,
            wan_mbit: 50,
            faults: false,
            is_seeded: true,
        }
    }

    /// The version's bytes at the rate of a link: nobody is done sooner.
    #[must_use]
    pub fn bound_seconds(&self) -> f64 {
        f64::from(self.chunks) * f64::from(self.object_bytes) / (self.mbit as f64 * 125_000.0)
    }

    /// A loop without progress does more; so does a store of hundreds, where each part is announced to all.
    fn events_max(&self) -> u64 {
        let members = (self.nodes + self.agents) as u64;
        let parts = u64::from(self.chunks) * u64::from(part_count(self.object_bytes));
        EVENTS_MAX.max(parts * members * members * 2)
    }
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// When the last member was whole.
    pub seconds: u64,
    /// Milliseconds of the same.
    pub millis: u64,
    /// Objects that HQ sent.
    pub wan_objects: u64,
    /// Bytes of objects that the members sent to each other.
    pub lan_bytes: u64,
    /// What the first node sent, as copies of the version.
    pub source_copies: f64,
    /// Chunks of the version.
    pub chunks: u32,
    /// Events of the run.
    pub events: u64,
}

/// What must not be, and when it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The invariant.
    pub what: String,
    /// By the virtual clock.
    pub at: Duration,
    /// The run.
    pub seed: u64,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} at {:.3} s; again: cargo run -p site-sim -- --seed {} --verbose",
            self.what,
            self.at.as_secs_f64(),
            self.seed
        )
    }
}

#[derive(Debug)]
enum Message {
    Joined {
        is_source: bool,
    },
    Have(Vec<PartId>),
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
    Fetched {
        member: usize,
        boot: u64,
        fetch: u64,
        chunk: ChunkId,
    },
    FetchFailed {
        member: usize,
        boot: u64,
        fetch: u64,
    },
    Fault(Fault),
    Back {
        member: usize,
    },
    Heal,
}

#[derive(Debug, Clone, Copy)]
struct Lease {
    holder: usize,
    renewed: Duration,
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

struct World {
    plan: Plan,
    verbose: bool,
    random: Random,
    now: Duration,
    events: u64,
    queue: BTreeMap<(Duration, u64), Event>,
    queued: u64,
    members: Vec<Member>,
    /// Both ends of each connection.
    ends: BTreeMap<PeerId, (usize, usize)>,
    next_link: u64,
    /// When the last frame of a connection comes to an end of it.
    last_frame: BTreeMap<(PeerId, usize), Duration>,
    /// Members below do not hear those from it on.
    cut_at: Option<usize>,
    partition_until: Duration,
    wan_cut_until: Duration,
    lease: Option<Lease>,
    fetches: u64,
    wan_objects: u64,
    faults_end: Duration,
    violation: Option<String>,
}

impl World {
    fn new(plan: Plan, verbose: bool) -> Self {
        let rate = plan.mbit * 125_000;
        let counts = (0..plan.chunks).map(|_| part_count(plan.object_bytes));
        let table = Arc::new(PartTable::of_counts(counts));
        let members = (0u8..)
            .zip(0..plan.nodes + plan.agents)
            .map(|(number, at)| Member::new(number, at < plan.nodes, &table, rate))
            .collect();
        Self {
            plan,
            verbose,
            random: Random::new(plan.seed),
            now: Duration::ZERO,
            events: 0,
            queue: BTreeMap::new(),
            queued: 0,
            members,
            ends: BTreeMap::new(),
            next_link: 1,
            last_frame: BTreeMap::new(),
            cut_at: None,
            partition_until: Duration::ZERO,
            wan_cut_until: Duration::ZERO,
            lease: None,
            fetches: 0,
            wan_objects: 0,
            faults_end: Duration::ZERO,
            violation: None,
        }
    }

    fn begin(&mut self) {
        if self.plan.is_seeded {
            self.members[0].held.fill(true);
        }
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
        if self.plan.faults {
            for (at, fault) in faults::draw(&mut self.random, self.members.len()) {
                self.at(at, Event::Fault(fault));
                let lasts = match fault {
                    Fault::Crash { back_after, .. } => back_after,
                    Fault::Pause { time, .. }
                    | Fault::Partition { time, .. }
                    | Fault::WanCut { time } => time,
                    Fault::Slow { .. } | Fault::Liar { .. } => Duration::ZERO,
                };
                self.faults_end = self.faults_end.max(at + lasts);
            }
        }
        self.at(self.faults_end, Event::Heal);
        self.at(Duration::ZERO, Event::Dial);
    }

    fn at(&mut self, at: Duration, event: Event) {
        self.queued += 1;
        self.queue.insert((at.max(self.now), self.queued), event);
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
        while let Some(((at, _), event)) = self.queue.pop_first() {
            self.now = at;
            self.events += 1;
            if self.events > self.plan.events_max() {
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
            if let Some(what) = self.violation.take() {
                return Err(self.violate(what));
            }
            if self.is_done() {
                return Ok(self.summary());
            }
            if self.now > self.faults_end + FINISH_WITHIN {
                return Err(self.violate(self.who_is_missing()));
            }
        }
        Err(self.violate("the world stood still"))
    }

    fn is_done(&self) -> bool {
        let whole = |m: &Member| m.is_alive && m.is_whole() || m.is_liar;
        self.now >= self.faults_end && self.members.iter().all(whole)
    }

    fn who_is_missing(&self) -> String {
        let missing: Vec<String> = (0..self.members.len())
            .filter(|m| !self.members[*m].is_whole())
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
        let millis = u64::try_from(end.unwrap_or_default().as_millis()).unwrap_or(0);
        Summary {
            seconds: millis / 1000,
            millis,
            wan_objects: self.wan_objects,
            source_copies: self.members[0].sent_bytes as f64
                / f64::from(self.plan.chunks)
                / f64::from(self.plan.object_bytes),
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
            | Event::Fetched { member, .. }
            | Event::FetchFailed { member, .. } => *member,
            Event::Sent { .. }
            | Event::Uploaded { .. }
            | Event::Dial
            | Event::GiveUp { .. }
            | Event::Fault(_)
            | Event::Back { .. }
            | Event::Heal => return None,
        };
        let until = self.members[member].paused_until;
        (until > self.now).then_some(until)
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Deliver { to, link, message } => self.deliver(to, link, message),
            Event::Sent { to, link, message } => self.sent(to, link, message),
            Event::Uploaded { member } => self.serve_waiting(member),
            Event::Wake { member, boot } => self.wake(member, boot),
            Event::Dial => self.dial(),
            Event::GiveUp { link } => self.give_up(link),
            Event::Fetched {
                member,
                boot,
                fetch,
                chunk,
            } => self.fetched(member, boot, fetch, chunk),
            Event::FetchFailed {
                member,
                boot,
                fetch,
            } => self.fetch_failed(member, boot, fetch),
            Event::Fault(fault) => self.fault(fault),
            Event::Back { member } => {
                if !self.members[member].is_alive {
                    let now = self.now;
                    self.members[member].start(now, member as u64);
                    self.act(member);
                }
            }
            Event::Heal => {
                self.cut_at = None;
                self.wan_cut_until = Duration::ZERO;
            }
        }
    }

    fn fault(&mut self, fault: Fault) {
        let now = self.now;
        match fault {
            Fault::Crash {
                member,
                back_after,
                keeps_disk,
            } => {
                if self.members[member].is_alive {
                    self.silence(member);
                    self.members[member].stop(keeps_disk);
                    self.after(back_after, Event::Back { member });
                }
            }
            Fault::Pause { member, time } => {
                self.members[member].paused_until = now + time;
                if time > IDLE_TIMEOUT {
                    self.silence(member);
                }
            }
            Fault::Partition { at, time } => {
                self.cut_at = Some(at);
                self.partition_until = now + time;
                let split: Vec<PeerId> = self
                    .ends
                    .iter()
                    .filter(|(_, (a, b))| (*a < at) != (*b < at))
                    .map(|(link, _)| *link)
                    .collect();
                if time > IDLE_TIMEOUT {
                    for link in split {
                        self.after(IDLE_TIMEOUT, Event::GiveUp { link });
                    }
                }
            }
            Fault::WanCut { time } => self.wan_cut_until = now + time,
            Fault::Slow { member } => {
                self.members[member].bytes_per_second = self.plan.mbit * 125_000 / SLOWER;
            }
            Fault::Liar { member } => self.members[member].is_liar = true,
        }
    }
}
