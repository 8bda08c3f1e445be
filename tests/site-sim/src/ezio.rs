//! EZIO's published table with this project's cores: 50 GB of used blocks on 1 GbE, one source, N machines with hard disks.
//!
//! The costs are measured ones, each with where it comes from. What a machine does with its disk besides, such as reading
//! objects again for its neighbours, is not in it: they ask within seconds for what has just come, and it is in memory then.

use std::time::Duration;

use crate::{
    plan::{Landing, Plan, Violation},
    world::run,
};

/// EZIO's README: 50 GB of used blocks.
pub const USED_BYTES: u64 = 50_000_000_000;
/// Of content in one chunk.
const CHUNK_BYTES: u32 = 1 << 20;
/// Of the version.
pub const CHUNKS: u32 = 47_684;
/// A chunk by its object: zstd -3 at 1 MiB over a Debian of 1.78 GB, by `zstd` itself, was 3.37.
const COMPRESSION_HUNDREDTHS: u32 = 337;
/// 1 GbE.
const WIRE_BYTES_PER_SECOND: u64 = 125_000_000;
/// Of ours in a full frame, seen in `./dev bench site`: QUIC's, UDP's and IP's headers and acknowledgements are beside it.
const PAYLOAD_IN_FRAME: u64 = 1441;
/// A full frame with preamble, checksum and gap (IEEE 802.3): 1,514 and 24.
const FRAME_ON_WIRE: u64 = 1538;
/// CPU seconds of a receiver for 1 GB of used blocks, measured on one server core with AVX-512: QUIC 0.38, BLAKE3 0.24,
/// zstd 1.2, writing 0.06 and as much to read back.
const CPU_MILLIS_PER_GB: u64 = 1_940;
/// And to pass one object on to one neighbour on average: 0.3 GB at 0.9 CPU seconds each GB.
const CPU_MILLIS_PER_GB_SERVED: u64 = 270;
/// Cores that a till of EZIO's time has for it.
const CORES: u64 = 2;
/// EZIO's machines have hard disks. Multicast wrote 50 GB in 390 s to one client of that table: no disk there is slower.
pub const DISK_BYTES_PER_SECOND: u64 = 128_000_000;
/// From one end of what is written to what is read back, and from there on; both ways once for each flush.
const SEEK: Duration = Duration::from_millis(12);
/// The install core flushes, and reads back, so much at a time.
const CHUNKS_PER_FLUSH: u32 = 64;
/// Before the first object: DHCP and boot are not in EZIO's figures; ours is hello, manifest and partition table.
const START: Duration = Duration::from_secs(2);

/// One line of the table.
#[derive(Debug, Clone, Copy)]
pub struct Line {
    /// Clients.
    pub machines: usize,
    /// Chunks that were simulated; fewer than [`CHUNKS`] are extended by the rate of the second half.
    pub chunks: u32,
    /// Until the last machine has everything on its disk, read back if asked for.
    pub seconds: f64,
    /// What all sent to each other, at full size.
    pub lan_bytes: f64,
    /// Of them the source, as copies of the version.
    pub source_copies: f64,
    /// Events of the runs.
    pub events: u64,
}

fn plan(machines: usize, chunks: u32, disk: u64, passes: u32) -> Plan {
    let object_bytes = CHUNK_BYTES * 100 / COMPRESSION_HUNDREDTHS;
    let cpu_micros =
        u64::from(CHUNK_BYTES) * (CPU_MILLIS_PER_GB + CPU_MILLIS_PER_GB_SERVED) / CORES / 1_000_000;
    Plan {
        object_bytes,
        link_bytes_per_second: WIRE_BYTES_PER_SECOND * PAYLOAD_IN_FRAME / FRAME_ON_WIRE,
        landing: Some(Landing {
            chunk_bytes: CHUNK_BYTES,
            cpu: Duration::from_micros(cpu_micros),
            disk_bytes_per_second: disk,
            passes,
            seeks: match passes {
                1 => Duration::ZERO,
                _ => SEEK * 2 / CHUNKS_PER_FLUSH,
            },
        }),
        ..Plan::of_machines(machines, chunks)
    }
}

/// Simulates a line. `passes` is 2 when what was written is read back, which this project does and EZIO does not.
///
/// # Errors
/// An invariant that did not hold.
#[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
pub fn line(machines: usize, chunks: u32, disk: u64, passes: u32) -> Result<Line, Violation> {
    let chunks = chunks.min(CHUNKS);
    let whole = run(plan(machines, chunks, disk, passes), false)?;
    let mut seconds = whole.millis as f64 / 1000.0;
    let mut events = whole.events;
    if chunks < CHUNKS {
        let half = run(plan(machines, chunks / 2, disk, passes), false)?;
        let per_chunk = (seconds - half.millis as f64 / 1000.0) / f64::from(chunks - chunks / 2);
        seconds += per_chunk * f64::from(CHUNKS - chunks);
        events += half.events;
    }
    Ok(Line {
        machines,
        chunks,
        seconds: seconds + START.as_secs_f64(),
        lan_bytes: whole.lan_bytes as f64 * f64::from(CHUNKS) / f64::from(chunks),
        source_copies: whole.source_copies,
        events,
    })
}
