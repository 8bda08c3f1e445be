//! TFTP, the sending side: the five packets and one transfer (RFC 1350, 2347, 2348, 2349, 7440).
//!
//! Why not a crate: none of those published restarts a window on a repeated ACK, ends on the ERROR that UEFI firmware sends in the
//! course of every boot, and answers from the address that was asked, all at once.

mod negotiate;
mod packet;
mod transfer;

pub use negotiate::{Negotiated, TransferConfig, WINDOWSIZE_MAX};
pub use packet::{ErrorCode, Packet, ParseTftpError, Request};
pub use transfer::{Action, Outcome, RETRIES_MAX, Transfer};

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
