//! Which options are granted.

use std::time::Duration;

use super::packet::Request;

/// Block size without an option (RFC 1350).
const BLKSIZE_DEFAULT: u16 = 512;
/// Bytes of IPv4, UDP and TFTP headers around a block.
const HEADER_BYTES: u16 = 20 + 8 + 4;
/// The largest window granted. More gains little on a LAN and overruns the receive ring of slow firmware.
pub const WINDOWSIZE_MAX: u16 = 16;
/// First wait for an ACK when the client did not ask for another.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(1);

/// What a transfer depends on besides the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransferConfig {
    /// Length of the file.
    pub file_len: u64,
    /// MTU of the path to the client: blocks never need IP fragments, which most firmware cannot join. 1500 gives 1468.
    pub path_mtu: u16,
    /// Seed of the jitter that keeps a store full of machines from knocking in step.
    pub jitter_seed: u64,
}

/// The terms of a transfer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Negotiated {
    /// Bytes per block.
    pub blksize: u16,
    /// Blocks per ACK.
    pub windowsize: u16,
    /// First wait for an ACK.
    pub timeout: Duration,
    /// The client asked for the file's size.
    pub asked_tsize: bool,
    /// The options to acknowledge, in the order asked; empty means no OACK at all.
    pub granted: Vec<(String, String)>,
}

impl Negotiated {
    /// Grants what was asked, as far as it goes; what is unknown or malformed is left out, as RFC 2347 wants it.
    pub fn new(request: &Request, config: &TransferConfig) -> Self {
        let mut terms = Self {
            blksize: BLKSIZE_DEFAULT,
            windowsize: 1,
            timeout: TIMEOUT_DEFAULT,
            asked_tsize: false,
            granted: Vec::new(),
        };
        let blksize_max = config
            .path_mtu
            .saturating_sub(HEADER_BYTES)
            .max(BLKSIZE_DEFAULT);
        for (name, value) in &request.options {
            let Ok(asked) = value.trim().parse::<u64>() else {
                continue;
            };
            let granted = match name.as_str() {
                "blksize" if (8..=65464).contains(&asked) => {
                    terms.blksize = clamp(asked, blksize_max);
                    u64::from(terms.blksize)
                }
                "windowsize" if (1..=65535).contains(&asked) => {
                    terms.windowsize = clamp(asked, WINDOWSIZE_MAX);
                    u64::from(terms.windowsize)
                }
                "timeout" if (1..=255).contains(&asked) => {
                    terms.timeout = Duration::from_secs(asked);
                    asked
                }
                "tsize" => {
                    terms.asked_tsize = true;
                    config.file_len
                }
                _ => continue,
            };
            terms.granted.push((name.clone(), granted.to_string()));
        }
        terms
    }
}

fn clamp(asked: u64, most: u16) -> u16 {
    u16::try_from(asked).unwrap_or(most).min(most)
}
