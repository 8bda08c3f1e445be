//! A real HQ on loopback over TLS, asked by people, nodes and strangers.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod access;
mod agents;
mod distribution;
mod enrolment;
mod keys;
mod site;
mod wan;
mod world;
