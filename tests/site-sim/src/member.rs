//! One program of the site: the cores, and what the shell keeps around them.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use image_format::{ChunkId, PartId, PartTable};
use peer_cache_proto::{
    PeerId,
    download::Download,
    duty::{Duty, uploads_max},
    election::Rank,
    swarm::RequestId,
};
use trust_format::PublicKey;

/// What a fetch over the WAN still has to bring.
#[derive(Debug)]
pub(crate) struct Fetch {
    /// Tells this fetch from an earlier one, whose chunks may still be on their way.
    pub(crate) number: u64,
    pub(crate) wanted: Vec<ChunkId>,
    pub(crate) next: usize,
}

/// A live connection, seen from one end.
#[derive(Debug, Default)]
pub(crate) struct Link {
    pub(crate) other: usize,
    /// What the other one said that it has.
    pub(crate) announced: BTreeSet<PartId>,
}

#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) key: PublicKey,
    pub(crate) is_node: bool,
    pub(crate) rank: Rank,
    pub(crate) is_alive: bool,
    pub(crate) paused_until: Duration,
    /// Counts its starts: what was meant for an earlier one is lost.
    pub(crate) boot: u64,
    pub(crate) table: Arc<PartTable>,
    /// By part.
    pub(crate) held: Vec<bool>,
    pub(crate) download: Option<Download>,
    pub(crate) duty: Duty,
    pub(crate) is_source: bool,
    pub(crate) fetch: Option<Fetch>,
    pub(crate) links: BTreeMap<PeerId, Link>,
    /// Requests for the next part that wait for their turn, or for one to come.
    pub(crate) waiting: VecDeque<(PeerId, RequestId)>,
    /// When the answers that are being sent stop counting.
    pub(crate) uploads: Vec<Duration>,
    /// Whom the core named, and is not talked to.
    pub(crate) accused: BTreeSet<usize>,
    /// Who sent wrong bytes.
    pub(crate) caught: BTreeSet<usize>,
    /// Requests in flight, by part where it is known.
    pub(crate) flights: BTreeMap<RequestId, Option<PartId>>,
    pub(crate) bytes_per_second: u64,
    pub(crate) up_free_at: Duration,
    pub(crate) down_free_at: Duration,
    pub(crate) is_liar: bool,
    pub(crate) finished_at: Option<Duration>,
    pub(crate) sent_bytes: u64,
    /// When its cores want to be woken.
    pub(crate) wake_at: Option<Duration>,
}

impl Member {
    pub(crate) fn new(
        number: u8,
        is_node: bool,
        table: &Arc<PartTable>,
        bytes_per_second: u64,
    ) -> Self {
        let parts = table.part_count();
        Self {
            key: PublicKey([number + 1; 32]),
            is_node,
            rank: Rank {
                node: is_node,
                free_gib: u32::from(number % 3),
                uptime_minutes: 5,
            },
            is_alive: false,
            paused_until: Duration::ZERO,
            boot: 0,
            table: table.clone(),
            held: vec![false; parts as usize],
            download: None,
            duty: Duty::new(parts, u64::from(number)),
            is_source: false,
            fetch: None,
            links: BTreeMap::new(),
            waiting: VecDeque::new(),
            uploads: Vec::new(),
            accused: BTreeSet::new(),
            caught: BTreeSet::new(),
            flights: BTreeMap::new(),
            bytes_per_second,
            up_free_at: Duration::ZERO,
            down_free_at: Duration::ZERO,
            is_liar: false,
            finished_at: None,
            sent_bytes: 0,
            wake_at: None,
        }
    }

    /// Starts as the shell does: what the disk holds counts, the rest is downloaded.
    pub(crate) fn start(&mut self, now: Duration, number: u64) {
        self.boot += 1;
        self.is_alive = true;
        self.duty = Duty::new(self.table.part_count(), number);
        for part in self.held_parts() {
            self.duty.handle_held(part);
        }
        self.is_source = self.is_node && self.is_whole();
        self.download = None;
        if !self.is_whole() {
            let stands = self.is_node.then_some((self.key, self.rank));
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
        self.flights.clear();
        self.accused.clear();
        self.caught.clear();
        self.wake_at = None;
        let whole = self.whole_chunks();
        self.held.fill(false);
        match keeps_disk {
            // objects that were not whole were in memory
            true => whole.into_iter().for_each(|chunk| self.hold(chunk)),
            false => self.finished_at = None,
        }
    }

    /// Whether one more answer can be sent now.
    pub(crate) fn has_upload(&mut self, now: Duration) -> bool {
        self.uploads.retain(|until| *until > now);
        self.uploads.len() < uploads_max(self.links.len())
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.held.iter().all(|h| *h)
    }

    pub(crate) fn holds(&self, part: PartId) -> bool {
        self.held.get(part.0 as usize) == Some(&true)
    }

    pub(crate) fn holds_whole(&self, chunk: ChunkId) -> bool {
        self.table.parts_of(chunk).all(|part| self.holds(part))
    }

    pub(crate) fn hold(&mut self, chunk: ChunkId) {
        for part in self.table.parts_of(chunk) {
            self.held[part.0 as usize] = true;
        }
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
}
