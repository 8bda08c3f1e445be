//! One program of the site: the cores, and what the shell keeps around them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use image_format::ChunkId;
use peer_cache_proto::{PeerId, download::Download, duty::Duty, election::Rank, swarm::RequestId};
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
    pub(crate) announced: BTreeSet<ChunkId>,
    /// Requests for the next chunk that wait for one to come.
    pub(crate) waiting: Vec<RequestId>,
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
    pub(crate) held: Vec<bool>,
    pub(crate) download: Option<Download>,
    pub(crate) duty: Duty,
    pub(crate) is_source: bool,
    pub(crate) fetch: Option<Fetch>,
    pub(crate) links: BTreeMap<PeerId, Link>,
    /// Whom the core named, and is not talked to.
    pub(crate) accused: BTreeSet<usize>,
    /// Who sent wrong bytes.
    pub(crate) caught: BTreeSet<usize>,
    /// Requests in flight, by chunk where it is known.
    pub(crate) flights: BTreeMap<RequestId, Option<ChunkId>>,
    pub(crate) bytes_per_second: u64,
    pub(crate) up_free_at: Duration,
    pub(crate) down_free_at: Duration,
    pub(crate) is_liar: bool,
    pub(crate) finished_at: Option<Duration>,
    pub(crate) sent_objects: u64,
    /// When its cores want to be woken.
    pub(crate) wake_at: Option<Duration>,
}

impl Member {
    pub(crate) fn new(number: u8, is_node: bool, chunks: u32, bytes_per_second: u64) -> Self {
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
            held: vec![false; chunks as usize],
            download: None,
            duty: Duty::new(chunks, u64::from(number)),
            is_source: false,
            fetch: None,
            links: BTreeMap::new(),
            accused: BTreeSet::new(),
            caught: BTreeSet::new(),
            flights: BTreeMap::new(),
            bytes_per_second,
            up_free_at: Duration::ZERO,
            down_free_at: Duration::ZERO,
            is_liar: false,
            finished_at: None,
            sent_objects: 0,
            wake_at: None,
        }
    }

    /// Starts as the shell does: what the disk holds counts, the rest is downloaded.
    pub(crate) fn start(&mut self, now: Duration, number: u64) {
        let chunks = u32::try_from(self.held.len()).unwrap_or(u32::MAX);
        self.boot += 1;
        self.is_alive = true;
        self.duty = Duty::new(chunks, number);
        for chunk in self.held_chunks() {
            self.duty.handle_held(chunk);
        }
        self.is_source = self.is_node && self.is_whole();
        self.download = None;
        if !self.is_whole() {
            let stands = self.is_node.then_some((self.key, self.rank));
            let mut download = Download::new(now, chunks, number, stands);
            for chunk in self.held_chunks() {
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
        self.flights.clear();
        self.accused.clear();
        self.caught.clear();
        self.wake_at = None;
        if !keeps_disk {
            self.held.fill(false);
            self.finished_at = None;
        }
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.held.iter().all(|h| *h)
    }

    pub(crate) fn holds(&self, chunk: ChunkId) -> bool {
        self.held.get(chunk.0 as usize) == Some(&true)
    }

    pub(crate) fn held_chunks(&self) -> Vec<ChunkId> {
        (0u32..)
            .zip(&self.held)
            .filter(|(_, held)| **held)
            .map(|(c, _)| ChunkId(c))
            .collect()
    }
}
