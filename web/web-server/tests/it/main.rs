//! A real HQ on loopback over TLS, asked by people, nodes and strangers.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod access;
mod agents;
mod audit;
mod away;
mod backing;
mod backup;
mod beside;
mod distribution;
mod enrolment;
mod health;
mod lists;
mod live;
mod matrix;
mod names;
mod openapi;
mod people;
mod pinned;
mod rebuilt;
mod roots;
mod rosters;
mod shared;
mod sheets;
mod site;
mod strangers;
mod vouchers;
mod waiting;
mod wan;
mod world;
