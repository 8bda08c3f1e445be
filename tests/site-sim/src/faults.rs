//! What goes wrong in a store.

use std::time::Duration;

use crate::random::Random;

/// One thing that goes wrong, for a while.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// A program dies and comes back, with its disk or with a blank one.
    Crash {
        member: usize,
        back_after: Duration,
        keeps_disk: bool,
    },
    /// A program stands still: a suspended laptop, a machine that swaps.
    Pause { member: usize, time: Duration },
    /// The switch falls apart: members below the number do not hear those from it on.
    Partition { at: usize, time: Duration },
    /// HQ cannot be reached.
    WanCut { time: Duration },
    /// A link at a twentieth of its rate, to the end.
    Slow { member: usize },
    /// A member whose bytes are wrong, to the end.
    Liar { member: usize },
}

/// Between none and eight faults in the first seconds of a run. Member 0 is always honest and keeps its disk: somebody has
/// to be able to finish.
pub(crate) fn draw(random: &mut Random, members: usize) -> Vec<(Duration, Fault)> {
    let count = random.below(9);
    (0..count)
        .map(|_| {
            let member = 1 + random.index(members - 1);
            let time = random.millis(500, 15_000);
            let fault = match random.below(7) {
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
                2 => Fault::Pause { member, time },
                3 => Fault::Partition { at: member, time },
                4 => Fault::WanCut { time },
                5 => Fault::Slow { member },
                _ => Fault::Liar { member },
            };
            (random.millis(0, 12_000), fault)
        })
        .collect()
}
