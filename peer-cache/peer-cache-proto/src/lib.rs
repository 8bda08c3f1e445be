//! Decisions of the peer cache: what to say, whom to ask, who fetches over the WAN, who is admitted.
//! Pure: time comes in as the program's own monotonic clock; no socket, file or task ever does.
//! Called by `peer-cache-node`, by the imaging agent and by the site simulator.
//!
//! The messages are specified in `docs/protocol/peer-cache.md`.

pub mod acquaintances;
pub mod admission;
pub mod beacon;
pub mod budget;
pub mod door;
pub mod download;
pub mod duty;
pub mod election;
pub mod fallback;
pub mod machine;
pub mod pin;
pub mod recognition;
pub mod renewal;
pub mod reporter;
pub mod spread;
pub mod suspicion;
pub mod swarm;
pub mod tpm;
pub mod upload;
pub mod voucher;
pub mod wire;

/// A connection's number, given by the shell and never reused while the program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u64);

/// Mixes two numbers into one that looks random and is the same everywhere (splitmix64's finaliser).
pub fn mix(a: u64, b: u64) -> u64 {
    let mut z = a.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ b.wrapping_add(0xD1B5_4A32_D192_ED03);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
