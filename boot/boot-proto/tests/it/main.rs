//! Captures of real firmware: the decision for each packet, the reference answers, and what is left of them when broken.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod captures;
mod golden;
mod mutations;
mod reference;
