//! One program of the site: the cores, and what the shell keeps around them.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use ed25519_dalek::SigningKey;
use image_format::{ChunkId, PartId, PartTable};
use peer_cache_proto::{
    PeerId,
    admission::Right,
    beacon::IssuerClocks,
    budget::Budget,
    download::Download,
    duty::{Duty, uploads_max},
    election::Rank,
    fallback::Fallback,
    suspicion::Suspicions,
    swarm::{OPEN_CHUNKS_BOUND, RequestId},
    wire::Credentials,
};
use trust_format::{PublicKey, Ticket};

/// Objects that a machine has room for in memory, as the shell's `INTAKE_MAX`.
const INTAKE_MAX: usize = OPEN_CHUNKS_BOUND + 32;
/// What a liar says of itself.
const BEST_RANK: Rank = Rank {
    node: true,
    always_on: true,
    free_gib: u32::MAX,
    uptime_minutes: 1440,
};

/// What a fetch over the WAN still has to bring, and by which right.
#[derive(Debug)]
pub(crate) struct Fetch {
    /// Tells this fetch from an earlier one, whose chunks may still be on their way.
    pub(crate) number: u64,
    pub(crate) wanted: Vec<ChunkId>,
    pub(crate) next: usize,
    /// Of HQ's lease.
    pub(crate) fence: Option<u64>,
    pub(crate) bytes_since_renewal: u64,
    /// What was said of holders for whom it was refused.
    pub(crate) views: Vec<(PublicKey, bool)>,
    /// When the first of these asks was made.
    pub(crate) asked_since: Duration,
    /// Nothing comes, because HQ wants nothing fetched.
    pub(crate) is_waiting: bool,
    /// What is on its way.
    pub(crate) transfer: Option<ChunkId>,
}

/// A live connection, seen from one end.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) other: usize,
    pub(crate) since: Duration,
    /// What the other one said that it has; kept by nodes, by part.
    pub(crate) announced: Vec<bool>,
    /// What it may do here, where that is simulated.
    pub(crate) right: Option<Right>,
}

/// Bytes that came and for which there is no room yet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stalled {
    pub(crate) from: usize,
    pub(crate) request: RequestId,
    pub(crate) part: PartId,
    pub(crate) is_true: bool,
}

#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) signing: SigningKey,
    pub(crate) key: PublicKey,
    pub(crate) is_node: bool,
    pub(crate) rank: Rank,
    pub(crate) is_alive: bool,
    pub(crate) started: Duration,
    pub(crate) paused_until: Duration,
    /// Counts its starts: what was meant for an earlier one is lost.
    pub(crate) boot: u64,
    pub(crate) table: Arc<PartTable>,
    /// By part.
    pub(crate) held: Vec<bool>,
    held_count: usize,
    /// By chunk.
    pub(crate) written: Vec<bool>,
    /// Objects with room in memory: some parts are here, or the disk has not taken it yet.
    pub(crate) arriving: BTreeSet<ChunkId>,
    pub(crate) stalled: VecDeque<Stalled>,
    pub(crate) cpu_free_at: Duration,
    pub(crate) disk_free_at: Duration,
    pub(crate) has_slow_disk: bool,
    pub(crate) download: Option<Download>,
    pub(crate) duty: Duty,
    pub(crate) budget: Budget,
    /// Of an agent.
    pub(crate) fallback: Fallback,
    pub(crate) is_source: bool,
    pub(crate) fetch: Option<Fetch>,
    pub(crate) links: BTreeMap<PeerId, Link>,
    /// Requests for the next part that wait for their turn, or for one to come.
    pub(crate) waiting: VecDeque<(PeerId, RequestId)>,
    /// When the answers that are being sent stop counting.
    pub(crate) uploads: Vec<Duration>,
    /// Whom a beacon or a hint named, and where it may be; at `None` nobody is.
    pub(crate) known: BTreeMap<usize, Option<usize>>,
    pub(crate) clocks: IssuerClocks,
    /// An agent's right to be served, where admission is simulated.
    pub(crate) ticket: Option<Ticket>,
    /// What it shows of itself, where a stranger is about.
    pub(crate) credentials: Option<Credentials>,
    /// Number of the channel that it knows.
    pub(crate) channel: usize,
    /// HQ revoked it.
    pub(crate) is_outcast: bool,
    /// How far the freshest reading of a node's clock was behind, and of which of its starts.
    pub(crate) behind: BTreeMap<usize, (u64, Duration)>,
    /// Whom the core named, and is not talked to.
    pub(crate) accused: BTreeSet<usize>,
    pub(crate) suspicions: Suspicions,
    /// Who sent wrong bytes.
    pub(crate) caught: BTreeSet<usize>,
    /// Requests in flight, by part where it is known.
    flights: BTreeMap<RequestId, Option<PartId>>,
    /// Of each part in flight.
    copies: Vec<u8>,
    pub(crate) bytes_per_second: u64,
    pub(crate) up_free_at: Duration,
    pub(crate) down_free_at: Duration,
    pub(crate) is_liar: bool,
    pub(crate) lies_about_rank: bool,
    pub(crate) finished_at: Option<Duration>,
    pub(crate) sent_bytes: u64,
    /// When its cores want to be woken.
    pub(crate) wake_at: Option<Duration>,
}

/// Keys that differ from member to member, and are the same in every run.
pub(crate) fn key_of(number: usize) -> SigningKey {
    let mut seed = [1; 32];
    seed[..8].copy_from_slice(&(number as u64).to_le_bytes());
    SigningKey::from_bytes(&seed)
}

impl Member {
    pub(crate) fn new(
        number: usize,
        is_node: bool,
        table: &Arc<PartTable>,
        bytes_per_second: u64,
    ) -> Self {
        let parts = table.part_count();
        let signing = key_of(number);
        Self {
            key: PublicKey(signing.verifying_key().to_bytes()),
            signing,
            is_node,
            rank: Rank {
                node: is_node,
                always_on: false,
                free_gib: u32::try_from(number % 3).unwrap_or(0),
                uptime_minutes: 5,
            },
            is_alive: false,
            started: Duration::ZERO,
            paused_until: Duration::ZERO,
            boot: 0,
            table: table.clone(),
            held: vec![false; parts as usize],
            held_count: 0,
            written: vec![false; table.chunk_count() as usize],
            arriving: BTreeSet::new(),
            stalled: VecDeque::new(),
            cpu_free_at: Duration::ZERO,
            disk_free_at: Duration::ZERO,
            has_slow_disk: false,
            download: None,
            duty: Duty::new(parts, number as u64),
            budget: Budget::new(Duration::ZERO),
            fallback: Fallback::new(Duration::ZERO),
            is_source: false,
            fetch: None,
            links: BTreeMap::new(),
            waiting: VecDeque::new(),
            uploads: Vec::new(),
            known: BTreeMap::new(),
            clocks: IssuerClocks::default(),
            ticket: None,
            credentials: None,
            channel: 1,
            is_outcast: false,
            behind: BTreeMap::new(),
            accused: BTreeSet::new(),
            suspicions: Suspicions::default(),
            caught: BTreeSet::new(),
            flights: BTreeMap::new(),
            copies: vec![0; parts as usize],
            bytes_per_second,
            up_free_at: Duration::ZERO,
            down_free_at: Duration::ZERO,
            is_liar: false,
            lies_about_rank: false,
            finished_at: None,
            sent_bytes: 0,
            wake_at: None,
        }
    }

    /// Starts as the shell does: what the disk holds counts, the rest is downloaded.
    pub(crate) fn start(&mut self, now: Duration, number: u64) {
        self.boot += 1;
        self.is_alive = true;
        self.started = now;
        self.duty = Duty::new(self.table.part_count(), number);
        self.budget = Budget::new(now);
        self.fallback = Fallback::new(now);
        for part in self.held_parts() {
            self.duty.handle_held(part);
        }
        self.is_source = self.is_node && self.is_whole();
        self.download = None;
        if !self.is_whole() {
            // an agent stands when it has found no node for long
            let stands = (!self.lies_about_rank).then_some((self.key, self.rank));
            let mut download = Download::new(now, self.table.clone(), number, stands);
            for chunk in self.whole_chunks() {
                download.handle_local(now, chunk);
            }
            self.download = Some(download);
        }
    }

    pub(crate) fn stop(&mut self, keeps_disk: bool) {
        self.is_alive = false;
        self.boot += 1;
        self.download = None;
        self.fetch = None;
        self.links.clear();
        self.waiting.clear();
        self.uploads.clear();
        self.known.clear();
        self.clocks = IssuerClocks::default();
        self.ticket = None;
        self.credentials = None;
        // a node keeps its documents, an agent comes with those of its boot media
        if !self.is_node {
            self.channel = 1;
        }
        self.behind.clear();
        self.end_flights();
        self.accused.clear();
        self.suspicions = Suspicions::default();
        self.caught.clear();
        self.wake_at = None;
        self.arriving.clear();
        self.stalled.clear();
        self.held.fill(false);
        self.held_count = 0;
        if !keeps_disk {
            self.written.fill(false);
            self.finished_at = None;
        }
        // objects that were not on the disk were in memory
        for chunk in (0..self.table.chunk_count()).map(ChunkId) {
            if self.written[chunk.0 as usize] {
                let parts = self.table.parts_of(chunk);
                parts.for_each(|part| self.take(part));
            }
        }
        if !self.is_whole() {
            self.finished_at = None;
        }
    }

    /// Whether one more answer can be sent now.
    pub(crate) fn has_upload(&mut self, now: Duration) -> bool {
        self.uploads.retain(|until| *until > now);
        self.uploads.len() < uploads_max(self.links.len())
    }

    /// What it tells others of its right to fetch.
    pub(crate) fn told_rank(&self) -> Rank {
        match self.lies_about_rank {
            true => BEST_RANK,
            false => self.rank,
        }
    }

    pub(crate) fn fill(&mut self) {
        (0..self.table.part_count()).for_each(|part| self.take(PartId(part)));
        self.written.fill(true);
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.held_count == self.held.len()
    }

    /// Everything is here, and on the disk.
    pub(crate) fn is_done(&self) -> bool {
        self.is_alive && self.is_whole() && self.arriving.is_empty()
    }

    pub(crate) fn holds(&self, part: PartId) -> bool {
        self.held.get(part.0 as usize) == Some(&true)
    }

    pub(crate) fn holds_whole(&self, chunk: ChunkId) -> bool {
        self.table.parts_of(chunk).all(|part| self.holds(part))
    }

    /// A part is here and can be served.
    pub(crate) fn take(&mut self, part: PartId) {
        if let Some(held) = self.held.get_mut(part.0 as usize)
            && !std::mem::replace(held, true)
        {
            self.held_count += 1;
        }
    }

    /// Whether there is room for a chunk's object, which it has from then on.
    pub(crate) fn make_room(&mut self, chunk: ChunkId) -> bool {
        if self.arriving.contains(&chunk) {
            return true;
        }
        let is_room = self.arriving.len() < INTAKE_MAX;
        if is_room {
            self.arriving.insert(chunk);
        }
        is_room
    }

    /// The object comes no more; if neighbours bring it, its room stays.
    pub(crate) fn free_room_of_nothing(&mut self, chunk: ChunkId) {
        if !self.table.parts_of(chunk).any(|part| self.holds(part)) {
            self.arriving.remove(&chunk);
        }
    }

    pub(crate) fn has_room(&self) -> bool {
        self.arriving.len() < INTAKE_MAX
    }

    pub(crate) fn whole_chunks(&self) -> Vec<ChunkId> {
        (0..self.table.chunk_count())
            .map(ChunkId)
            .filter(|chunk| self.holds_whole(*chunk))
            .collect()
    }

    pub(crate) fn held_parts(&self) -> Vec<PartId> {
        (0u32..)
            .zip(&self.held)
            .filter(|(_, held)| **held)
            .map(|(part, _)| PartId(part))
            .collect()
    }

    pub(crate) fn link_to(&self, other: usize) -> Option<&Link> {
        self.links.values().find(|link| link.other == other)
    }

    pub(crate) fn copies_of(&self, part: PartId) -> u8 {
        self.copies.get(part.0 as usize).copied().unwrap_or(0)
    }

    pub(crate) fn begin_flight(&mut self, id: RequestId, part: Option<PartId>) {
        self.flights.insert(id, part);
        if let Some(part) = part {
            self.copies[part.0 as usize] += 1;
        }
    }

    /// The part is known from now on; false when nothing is in flight.
    pub(crate) fn assign_flight(&mut self, id: RequestId, part: PartId) -> bool {
        let Some(known) = self.flights.get_mut(&id) else {
            return false;
        };
        if known.replace(part).is_none() {
            self.copies[part.0 as usize] += 1;
        }
        true
    }

    /// Whether it was in flight.
    pub(crate) fn end_flight(&mut self, id: RequestId) -> bool {
        let Some(part) = self.flights.remove(&id) else {
            return false;
        };
        if let Some(part) = part {
            self.copies[part.0 as usize] -= 1;
        }
        true
    }

    pub(crate) fn is_in_flight(&self, id: RequestId) -> bool {
        self.flights.contains_key(&id)
    }

    pub(crate) fn end_flights(&mut self) {
        self.flights.clear();
        self.copies.fill(0);
    }
}
