//! `node.toml`, and files that must survive a power cut.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use boot_proto::lease::PoolConfig;
use peer_cache_node::UploadRules;
use peer_cache_proto::{upload::RATE_MIN, wire::PEER_PORT};
use serde::Deserialize;

use super::BootMode;

/// The node's configuration; every field may be absent.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NodeConfig {
    /// The slab: a file, relative to the node's folder, or a device.
    pub(crate) slab: Option<PathBuf>,
    /// The slab's size in bytes; followed while the node runs.
    pub(crate) slab_bytes: Option<u64>,
    /// This node is always on: it comes first where one has to fetch, and is to have room for everything.
    #[serde(default)]
    pub(crate) always_on: bool,
    /// What this node gives to its neighbours at most, in bytes per second.
    pub(crate) upload_bytes_per_second: Option<u64>,
    /// Whether it gives less while this computer is busy; it does unless told otherwise.
    pub(crate) uploads_give_way: Option<bool>,
    /// As `--boot`.
    pub(crate) boot: Option<BootMode>,
    /// As `--interface`.
    pub(crate) interface: Option<String>,
    /// Addresses to give out, for `boot = "full"`.
    pub(crate) pool: Option<Pool>,
}

impl<'de> Deserialize<'de> for BootMode {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        <Self as clap::ValueEnum>::from_str(&text, false).map_err(serde::de::Error::custom)
    }
}

/// Addresses to give out.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pool {
    /// This node's own address.
    server: Ipv4Addr,
    /// The first one.
    first: Ipv4Addr,
    /// The last one.
    last: Ipv4Addr,
    /// The network's mask.
    mask: Ipv4Addr,
    /// The router, if there is one.
    router: Option<Ipv4Addr>,
    /// Name servers.
    #[serde(default)]
    dns: Vec<Ipv4Addr>,
    /// How long an address is lent, in seconds.
    #[serde(default = "lease_seconds")]
    lease_seconds: u32,
}

fn lease_seconds() -> u32 {
    8 * 3600
}

impl NodeConfig {
    /// Reads the file; one that is not there is an empty one.
    ///
    /// # Errors
    /// With the line that is wrong.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        match fs::read_to_string(path) {
            Ok(text) => {
                toml::from_str(&text).with_context(|| format!("reading {}", path.display()))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(e) => Err(e).with_context(|| format!("reading {}", path.display())),
        }
    }
}

impl NodeConfig {
    /// How much the node gives to its neighbours.
    ///
    /// # Errors
    /// When the limit is too small to work with.
    pub(crate) fn uploads(&self) -> Result<UploadRules> {
        if let Some(limit) = self.upload_bytes_per_second.filter(|l| *l < RATE_MIN) {
            bail!(
                "upload_bytes_per_second in node.toml is {limit}, at least {RATE_MIN} are needed"
            );
        }
        Ok(UploadRules {
            bytes_per_second: self.upload_bytes_per_second,
            give_way: self.uploads_give_way.unwrap_or(true),
        })
    }
}

impl From<&Pool> for PoolConfig {
    fn from(pool: &Pool) -> Self {
        Self {
            server: pool.server,
            first: pool.first,
            last: pool.last,
            subnet_mask: pool.mask,
            router: pool.router,
            dns: pool.dns.clone(),
            lease_time: Duration::from_secs(pool.lease_seconds.into()),
        }
    }
}

/// Addresses of peers: those that the agent left, one a line.
pub(crate) fn peers(dir: &Path) -> Vec<SocketAddr> {
    let text = fs::read_to_string(dir.join("peers")).unwrap_or_default();
    let parse = |line: &str| {
        let ip = || line.parse().ok().map(|ip| SocketAddr::new(ip, PEER_PORT));
        line.parse::<SocketAddr>().ok().or_else(ip)
    };
    text.lines().filter_map(parse).collect()
}
