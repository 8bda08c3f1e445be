//! What goes wrong in a store.

use std::time::Duration;

use crate::random::Random;

/// Faults of one run.
const FAULTS_MAX: u64 = 8;
/// They begin within this time.
const BEGIN_WITHIN_MILLIS: u64 = 12_000;
/// HQ's clock is set by so many seconds at most, either way.
const JUMP_SECONDS_MAX: u64 = 26 * 3600;

/// One thing that goes wrong, for a while.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// A program dies and comes back, with its disk or with a blank one.
    Crash {
        member: usize,
        back_after: Duration,
        keeps_disk: bool,
    },
    /// Every node dies, and comes back with its disk: the machines that are being imaged are left alone.
    NodesGone { back_after: Duration },
    /// A program stands still: a suspended laptop, a machine that swaps.
    Pause { member: usize, time: Duration },
    /// The switch falls apart: members below the number do not hear those from it on. All still reach HQ.
    Partition { at: usize, time: Duration },
    /// HQ cannot be reached.
    WanCut { time: Duration },
    /// Somebody pauses the site at HQ.
    WanPause { time: Duration },
    /// A link at a twentieth of its rate, to the end.
    Slow { member: usize },
    /// A disk at a hundredth of its rate, to the end.
    SlowDisk { member: usize },
    /// A member whose bytes are wrong, to the end.
    Liar { member: usize },
    /// A member that says it is the best to fetch, and does not, to the end.
    LyingRank { member: usize },
    /// Datagrams and frames are lost more often, come twice, and overtake each other.
    Noise { time: Duration },
    /// Beacons that were heard before are sent again, from another address, and forged ones.
    Replay { time: Duration },
    /// HQ's wall clock is set.
    ClockJump { seconds: i64 },
}

impl Fault {
    pub(crate) fn lasts(self) -> Duration {
        match self {
            Self::Crash { back_after, .. } | Self::NodesGone { back_after } => back_after,
            Self::Pause { time, .. }
            | Self::Partition { time, .. }
            | Self::WanCut { time }
            | Self::WanPause { time }
            | Self::Noise { time }
            | Self::Replay { time } => time,
            Self::Slow { .. }
            | Self::SlowDisk { .. }
            | Self::Liar { .. }
            | Self::LyingRank { .. }
            | Self::ClockJump { .. } => Duration::ZERO,
        }
    }

    /// Whether a fetcher may be replaced or the store fall apart: then an object may come over the WAN again.
    pub(crate) fn may_repeat_objects(self) -> bool {
        match self {
            Self::Crash { .. }
            | Self::NodesGone { .. }
            | Self::Pause { .. }
            | Self::Partition { .. }
            | Self::WanCut { .. }
            | Self::Liar { .. } => true,
            Self::WanPause { .. }
            | Self::Slow { .. }
            | Self::SlowDisk { .. }
            | Self::LyingRank { .. }
            | Self::Noise { .. }
            | Self::Replay { .. }
            | Self::ClockJump { .. } => false,
        }
    }
}

/// Between none and eight faults in the first seconds of a run. Member 0 is always honest and keeps its disk: somebody has
/// to be able to finish.
pub(crate) fn draw(random: &mut Random, members: usize) -> Vec<(Duration, Fault)> {
    let count = random.below(FAULTS_MAX + 1);
    (0..count)
        .map(|_| {
            let member = 1 + random.index(members - 1);
            let time = random.millis(500, 15_000);
            let fault = match random.below(16) {
                0 => Fault::Crash {
                    member,
                    back_after: time,
                    keeps_disk: true,
                },
                1 => Fault::Crash {
                    member,
                    back_after: time,
                    keeps_disk: false,
                },
                // the one that must be able to finish dies and comes back as well
                2 => Fault::Crash {
                    member: 0,
                    back_after: time,
                    keeps_disk: true,
                },
                3 => Fault::Pause {
                    member: random.index(members),
                    time,
                },
                4 => Fault::Partition { at: member, time },
                5 => Fault::Partition {
                    at: member,
                    time: time * 4,
                },
                6 => Fault::WanCut { time },
                7 => Fault::WanPause { time },
                8 => Fault::Slow { member },
                9 => Fault::SlowDisk { member },
                10 => Fault::Liar { member },
                11 => Fault::LyingRank { member },
                12 => Fault::Noise { time },
                13 => Fault::Replay { time },
                // longer than an agent waits for a node, or not
                14 => Fault::NodesGone {
                    back_after: time * 6,
                },
                _ => Fault::ClockJump {
                    seconds: jump(random),
                },
            };
            (random.millis(0, BEGIN_WITHIN_MILLIS), fault)
        })
        .collect()
}

/// Half of them by seconds, where windows begin and end.
fn jump(random: &mut Random) -> i64 {
    let most = match random.one_in(2) {
        true => 60,
        false => JUMP_SECONDS_MAX,
    };
    let seconds = i64::try_from(random.below(2 * most + 1)).unwrap_or(0);
    seconds - i64::try_from(most).unwrap_or(0)
}
