//! What is simulated, and how it ended.

use std::{fmt, time::Duration};

use image_format::part_count;

use crate::random::Random;

/// No run of a small store does more: a loop without progress is found here.
const EVENTS_MAX: u64 = 3_000_000;
/// Beacons and signs of life of a day.
const EVENTS_IDLE_DAY_MAX: u64 = 2_000_000;
const BYTES_PER_MBIT: u64 = 125_000;
/// One store in so many has a stranger in it.
const STRANGER_ONE_IN: u64 = 3;
/// One store in so many has a version that does not fit into a machine's memory.
const LARGE_ONE_IN: u64 = 25;

/// What a chunk costs where it lands, behind the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Landing {
    /// Of a chunk on the disk.
    pub chunk_bytes: u32,
    /// To check and unpack one, divided by the cores that do it.
    pub cpu: Duration,
    /// Of the disk.
    pub disk_bytes_per_second: u64,
    /// How often the disk moves each byte: 2 when all is read back.
    pub passes: u32,
    /// What its heads need for one beside that.
    pub seeks: Duration,
}

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
    /// Of each member's link, each way.
    pub link_bytes_per_second: u64,
    /// Of the WAN.
    pub wan_bytes_per_second: u64,
    /// Whether anything goes wrong.
    pub faults: bool,
    /// Whether the first node has everything from the start, and all start in the same moment.
    pub is_seeded: bool,
    /// The last so many machines send wrong bytes.
    pub liars: usize,
    /// Members below never hear those from it on; all reach HQ.
    pub wall: Option<usize>,
    /// For so many days without its WAN, after an hour with it; its machines come one after the other.
    pub days_offline: Option<u32>,
    /// One more member, which nobody admitted and which tries to get and give bytes all the same; and a node may be revoked.
    pub has_stranger: bool,
    /// `None`: an object is on the disk when its last byte has come.
    pub landing: Option<Landing>,
}

impl Plan {
    /// A store of a few machines whose sizes follow from the seed.
    #[must_use]
    pub fn of_seed(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x5e_ed);
        let (nodes, agents) = (1 + random.index(3), 1 + random.index(5));
        let chunks = 20 + random.below(60) + 120 * u64::from(random.one_in(LARGE_ONE_IN));
        Self {
            seed,
            nodes,
            agents,
            chunks: u32::try_from(chunks).unwrap_or(0),
            faults: true,
            is_seeded: false,
            has_stranger: seed.is_multiple_of(STRANGER_ONE_IN),
            landing: Some(Landing {
                chunk_bytes: 1 << 20,
                cpu: Duration::from_millis(1),
                disk_bytes_per_second: 200_000_000,
                passes: 1,
                seeks: Duration::ZERO,
            }),
            ..Self::of_machines(0, 0)
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
            link_bytes_per_second: 200 * BYTES_PER_MBIT,
            wan_bytes_per_second: 50 * BYTES_PER_MBIT,
            faults: false,
            is_seeded: true,
            liars: 0,
            wall: None,
            days_offline: None,
            has_stranger: false,
            landing: None,
        }
    }

    /// A store of three nodes without its WAN, where ten machines come and everybody is off at night.
    #[must_use]
    pub fn offline(days: u32) -> Self {
        Self {
            nodes: 3,
            faults: true,
            is_seeded: false,
            days_offline: Some(days),
            ..Self::of_machines(10, 60)
        }
    }

    /// The version's bytes at the rate of a link: nobody is done sooner.
    #[must_use]
    pub fn bound_seconds(&self) -> f64 {
        f64::from(self.chunks) * f64::from(self.object_bytes) / self.link_bytes_per_second as f64
    }

    pub(crate) fn members(&self) -> usize {
        self.nodes + self.agents + usize::from(self.has_stranger)
    }

    /// A loop without progress does more; so does a store of hundreds, where each part is announced to all.
    pub(crate) fn events_max(&self) -> u64 {
        let members = self.members() as u64;
        let parts = u64::from(self.chunks) * u64::from(part_count(self.object_bytes));
        let idle = u64::from(self.days_offline.unwrap_or(0)) * EVENTS_IDLE_DAY_MAX;
        EVENTS_MAX.max(parts * members * members.max(8) * 2) + idle
    }
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// When the last member was whole, in milliseconds.
    pub millis: u64,
    /// Objects that HQ sent under main leases, whole ones.
    pub wan_objects: u64,
    /// The same under leases of islands.
    pub island_objects: u64,
    /// Objects of which HQ sent a part only.
    pub wan_cut: u64,
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
            "{} at {:.3} s; again: ./dev sim --seed {} --verbose",
            self.what,
            self.at.as_secs_f64(),
            self.seed
        )
    }
}
