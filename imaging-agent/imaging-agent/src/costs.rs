//! What an install costs the processor, by what it is spent on: it shares the machine with serving its neighbours.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use nix::time::{ClockId, clock_gettime};
use serde::Serialize;

/// Counted by the threads that do the work. Beside it the network has its own threads.
#[derive(Debug, Default)]
pub(crate) struct Costs {
    pub(crate) keep: Cost,
    pub(crate) unpack: Cost,
    pub(crate) write: Cost,
    pub(crate) read_back: Cost,
}

/// Seconds of one core.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct CpuSeconds {
    /// Objects for neighbours, into the slab.
    keep: f64,
    /// Objects to plain bytes, with their hash.
    unpack: f64,
    /// Plain bytes to the disk.
    write: f64,
    /// From the disk again, with their hash.
    read_back: f64,
}

impl Costs {
    pub(crate) fn seconds(&self) -> CpuSeconds {
        CpuSeconds {
            keep: self.keep.seconds(),
            unpack: self.unpack.seconds(),
            write: self.write.seconds(),
            read_back: self.read_back.seconds(),
        }
    }
}

/// Nanoseconds of one kind of work, of all threads.
#[derive(Debug, Default)]
pub(crate) struct Cost(AtomicU64);

impl Cost {
    /// Does the work and counts what this thread used for it.
    pub(crate) fn of<R>(&self, work: impl FnOnce() -> R) -> R {
        let before = used();
        let result = work();
        let nanos = used().saturating_sub(before).as_nanos();
        self.0
            .fetch_add(u64::try_from(nanos).unwrap_or(0), Ordering::Relaxed);
        result
    }

    fn seconds(&self) -> f64 {
        Duration::from_nanos(self.0.load(Ordering::Relaxed)).as_secs_f64()
    }
}

fn used() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_counts_and_waiting_does_not() {
        let costs = Costs::default();
        costs
            .write
            .of(|| std::thread::sleep(Duration::from_millis(300)));
        assert!(costs.seconds().write < 0.2, "{costs:?}");
        let mut bytes = vec![1; 1 << 20];
        while costs.seconds().read_back == 0.0 {
            costs.read_back.of(|| bytes.fill(2));
        }
    }
}
