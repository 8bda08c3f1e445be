//! What a pool gives out, checked once.

use std::net::Ipv4Addr;
use std::time::Duration;

/// No pool is larger: a store's network is a /24, seldom a /20.
pub const POOL_ADDRESSES_MAX: u32 = 4096;
/// Shorter leases would make every machine renew all the time.
const LEASE_TIME_MIN: Duration = Duration::from_secs(120);
/// Longer ones would outlive the pool's configuration; also keeps the seconds within the option's 32 bits.
const LEASE_TIME_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// More name servers than any resolver uses.
const DNS_SERVERS_MAX: usize = 8;

/// The addresses of a pool and the configuration that goes with them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolConfig {
    /// Our own address: server id, and never given out.
    pub server: Ipv4Addr,
    /// First address of the pool.
    pub first: Ipv4Addr,
    /// Last address of the pool, included.
    pub last: Ipv4Addr,
    /// Subnet mask; the pool and the server must lie in one subnet.
    pub subnet_mask: Ipv4Addr,
    /// Default gateway, if there is one.
    pub router: Option<Ipv4Addr>,
    /// Name servers, at most 8.
    pub dns: Vec<Ipv4Addr>,
    /// How long an address is given for: two minutes to thirty days.
    pub lease_time: Duration,
}

/// Why a pool cannot be served as configured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PoolConfigError {
    /// First after last.
    #[error("address pool {first} to {last} is empty")]
    Empty {
        /// As configured.
        first: Ipv4Addr,
        /// As configured.
        last: Ipv4Addr,
    },
    /// Too many addresses.
    #[error("address pool has {size} addresses, and at most {POOL_ADDRESSES_MAX} are served")]
    TooLarge {
        /// Addresses configured.
        size: u64,
    },
    /// Not a mask of ones followed by zeros.
    #[error("subnet mask {mask} is not a row of ones followed by zeros, or leaves no hosts")]
    Mask {
        /// As configured.
        mask: Ipv4Addr,
    },
    /// The pool leaves the server's subnet or takes its network or broadcast address.
    #[error(
        "address {address} of the pool or router is no host address in the subnet of the server {server}/{mask}"
    )]
    OutsideSubnet {
        /// The address that lies outside.
        address: Ipv4Addr,
        /// The server.
        server: Ipv4Addr,
        /// The mask.
        mask: Ipv4Addr,
    },
    /// Lease time out of range.
    #[error("lease time of {seconds} s is not between 120 s and 30 days")]
    LeaseTime {
        /// As configured.
        seconds: u64,
    },
    /// Too many name servers.
    #[error("{count} name servers configured, and at most {DNS_SERVERS_MAX} are given out")]
    TooManyDns {
        /// As configured.
        count: usize,
    },
}

impl PoolConfig {
    /// Checks everything that the pool relies on.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), PoolConfigError> {
        let mask = u32::from(self.subnet_mask);
        if mask.leading_ones() + mask.trailing_zeros() != 32 || mask.leading_ones() > 30 {
            return Err(PoolConfigError::Mask {
                mask: self.subnet_mask,
            });
        }
        if self.first > self.last {
            return Err(PoolConfigError::Empty {
                first: self.first,
                last: self.last,
            });
        }
        let size = u64::from(u32::from(self.last) - u32::from(self.first)) + 1;
        if size > u64::from(POOL_ADDRESSES_MAX) {
            return Err(PoolConfigError::TooLarge { size });
        }
        for address in [self.server, self.first, self.last]
            .into_iter()
            .chain(self.router)
        {
            if !self.is_host_here(address) {
                return Err(PoolConfigError::OutsideSubnet {
                    address,
                    server: self.server,
                    mask: self.subnet_mask,
                });
            }
        }
        if self.lease_time < LEASE_TIME_MIN || self.lease_time > LEASE_TIME_MAX {
            return Err(PoolConfigError::LeaseTime {
                seconds: self.lease_time.as_secs(),
            });
        }
        if self.dns.len() > DNS_SERVERS_MAX {
            return Err(PoolConfigError::TooManyDns {
                count: self.dns.len(),
            });
        }
        Ok(())
    }

    /// Whether an address is a host address of the server's subnet.
    pub(super) fn is_host_here(&self, address: Ipv4Addr) -> bool {
        let mask = u32::from(self.subnet_mask);
        let (address, server) = (u32::from(address), u32::from(self.server));
        address & mask == server & mask && address & !mask != 0 && address & !mask != !mask
    }

    /// Whether the pool may ever give this address out.
    pub(super) fn is_in_pool(&self, address: Ipv4Addr) -> bool {
        (self.first..=self.last).contains(&address)
            && address != self.server
            && Some(address) != self.router
    }

    /// Addresses between first and last, the server's included if it lies there.
    pub(super) fn size(&self) -> u32 {
        u32::from(self.last) - u32::from(self.first) + 1
    }

    /// Lease time in the option's unit.
    pub(super) fn lease_seconds(&self) -> u32 {
        u32::try_from(self.lease_time.as_secs()).unwrap_or(u32::MAX)
    }
}
