//! The address pool of a site without a DHCP server of its own: who has which address until when (RFC 2131 section 4.3).
//!
//! A machine with the house's five verbs. `now` is the time since the owner started; leases leave and enter through
//! [`LeasePool::leases`] and [`LeasePool::import`] with the time that *remains*, so no clock is compared across a restart.
//! One lease per Ethernet address ([`quirks::lease_owner`]). Addresses in use by strangers are found by the clients' own ARP
//! probe and DECLINE; the pool does not ping.

mod config;
mod pool;

pub use config::{POOL_ADDRESSES_MAX, PoolConfig, PoolConfigError};
pub use pool::{LeaseAction, LeasePool, LeaseRecord};

#[cfg(test)]
mod tests;

#[cfg(doc)]
use crate::quirks;
