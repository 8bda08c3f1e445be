//! A whole site under a virtual clock: the cores of the peer cache as they run in a store, over a seeded network that loses,
//! cuts and lies. No socket, thread or real clock; a seed is a run, and the same seed is the same run.
//! Called by its tests and by the program `site-sim`, which replays a seed.

mod faults;
mod member;
mod random;
mod world;

pub use world::{Plan, Summary, Violation, run};
