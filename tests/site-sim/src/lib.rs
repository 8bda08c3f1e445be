//! A whole site under a virtual clock: the cores of the peer cache as they run in a store, over a seeded network that loses,
//! cuts and lies. No socket, thread or real clock; a seed is a run, and the same seed is the same run.
//! Called by its tests and by the program `site-sim`, which replays a seed.

pub mod chain;
pub mod ezio;
mod faults;
mod hq;
/// HQ's own rule. The file is compiled here, because its crate brings a database and a web server.
#[path = "../../../web/web-server/src/leases/judge.rs"]
mod judge;
mod member;
mod plan;
mod queue;
mod random;
mod world;

pub use plan::{Landing, Plan, Summary, Violation};
pub use world::run;
