//! The peer cache at work: QUIC endpoint, discovery, slab, and the client of the origin.
//! Decides nothing: every choice is a core's in `peer-cache-proto`.
//! Called by the appliance's node and by the imaging agent.

pub mod slab;
