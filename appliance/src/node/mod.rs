//! `lamplighter node`: peer cache, boot server and HQ's client, introduced to each other.

mod booter;
mod config;
mod enrol;
mod journal;
mod quota;
mod reports;
mod sync;
mod versions;
mod voucher;
mod wakefulness;

use std::{
    net::{Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result};
use boot_proto::lease::PoolConfig;
use boot_server::{BootServerConfig, Mode};
use clap::ValueEnum;
use peer_cache_node::{
    Identity, PeerCache, PeerCacheConfig, Role, Site,
    slab::{Place, SLAB_BYTES_MIN, Slab},
};
use peer_cache_origin::HqOrigin;
use peer_cache_proto::wire::{Credentials, PEER_PORT};
use trust_format::PinRule;
use web_api::EnrolmentToken;

use config::NodeConfig;
use journal::Journal;
use sync::Sync;
pub(crate) use sync::to_documents;
use versions::Versions;
use wakefulness::Wakefulness;

/// How a node answers machines that boot from the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BootMode {
    /// Beside the store's own DHCP server.
    Proxy,
    /// As the store's only DHCP server.
    Full,
    /// Not at all.
    Off,
}

/// How to run a node.
#[derive(Debug, clap::Args)]
pub(crate) struct NodeArguments {
    /// Where the node keeps key, documents and slab; made at the first start.
    #[arg(long)]
    dir: PathBuf,
    /// The token of `lamplighter site add`, at the first start.
    #[arg(long)]
    enrol: Option<EnrolmentToken>,
    /// A voucher's file: this computer admits machines as far as the voucher goes, and is no node of the site otherwise. Its PIN is
    /// asked for at each start, and at each machine.
    #[arg(long, conflicts_with = "enrol")]
    voucher: Option<PathBuf>,
    /// A file with the voucher's PIN. Without it the PIN is asked for on the terminal.
    #[arg(long, requires = "voucher")]
    voucher_pin_file: Option<PathBuf>,
    /// The network interface for boot requests; by default every wired one that is up.
    #[arg(long)]
    interface: Option<String>,
    /// How to answer machines that boot from the network.
    #[arg(long, value_enum)]
    boot: Option<BootMode>,
    /// Size of the slab when it is made.
    #[arg(long)]
    slab_bytes: Option<u64>,
    /// Where peers reach this node.
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// Neither send beacons nor listen for them.
    #[arg(long)]
    no_beacons: bool,
    /// Serve boot files on this port.
    #[arg(long, default_value_t = 8080)]
    http_port: u16,
    /// This computer's name for people; by default its host name.
    #[arg(long)]
    name: Option<String>,
}

/// What makes this program a node, and of which site.
struct NodeRight {
    identity: Identity,
    site: Site,
    credentials: Credentials,
    voucher_pin: Option<PinRule>,
}

/// Room that is left to others on the file system of a slab file.
const FREE_BYTES_MIN: u64 = 1 << 30;
const SLAB_BYTES_DEFAULT: u64 = 16 << 30;

pub(crate) async fn run(arguments: NodeArguments) -> Result<()> {
    let dir = &arguments.dir;
    make_private(dir)?;
    let config = NodeConfig::read(&dir.join("node.toml"))?;
    let right = match &arguments.voucher {
        Some(file) => voucher::open(dir, file, arguments.voucher_pin_file.as_deref())?,
        None => enrolled(&arguments).await?,
    };
    let slab = open_slab(dir, &config, arguments.slab_bytes.or(config.slab_bytes))?;
    tracing::info!(
        size_bytes = slab.capacity(),
        free_bytes = slab.free_bytes(),
        "slab"
    );
    let origin = HqOrigin::new(right.identity.clone());
    if let Some(channel) = right.site.channel() {
        origin.set_contact(channel.hq.clone());
    }
    let (cache, events) = PeerCache::start(PeerCacheConfig {
        identity: right.identity,
        role: Role::Node,
        boot: next_boot_number(dir)?,
        listen: arguments
            .listen
            .unwrap_or(SocketAddr::from((Ipv6Addr::UNSPECIFIED, PEER_PORT))),
        discover: !arguments.no_beacons,
        site: right.site,
        credentials: right.credentials,
        keeper: Arc::new(slab.clone()),
        origin: Some(Arc::new(origin.clone())),
        always_on: config.always_on,
        uploads: config.uploads()?,
        voucher_pin: right.voucher_pin,
    })
    .context("opening the network")?;
    for peer in config::peers(dir) {
        cache.keep_dialling(peer);
    }
    let versions = Versions::new(cache.clone(), dir);
    versions.refresh();
    let reports =
        reports::Reports::open(&dir.join("reports")).context("the reports that wait for HQ")?;
    tell_completions_once(dir, &cache, &reports)?;
    let node_toml = dir.join("node.toml");
    tokio::spawn(quota::follow(
        node_toml,
        slab,
        cache.clone(),
        reports.clone(),
    ));
    let booter = Arc::new(booter::CacheBooter::new(cache.clone(), reports.clone()));
    if let Some(boot) = boot_server_config(&arguments, &config)? {
        tokio::spawn(Wakefulness::new(boot, booter, reports.clone()).run());
    }
    let journal = Journal::new(
        cache.clone(),
        reports.clone(),
        versions.clone(),
        origin.clone(),
    );
    tokio::spawn(journal.run(events));
    tokio::spawn(origin.clone().watch_the_wan());
    tokio::spawn(Sync::new(cache.clone(), origin, reports, versions, dir.clone()).run());
    tracing::info!(peer.id = %cache.key().short(), address = ?cache.local_addr().ok(), "node is up");
    // systemd may not be there
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    wait_for_the_end().await?;
    cache.close().await;
    Ok(())
}

async fn wait_for_the_end() -> Result<()> {
    let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        result = tokio::signal::ctrl_c() => result?,
        _ = term.recv() => {}
    }
    Ok(())
}

/// The right of a node that was enrolled, now or earlier, or that an agent put here.
async fn enrolled(arguments: &NodeArguments) -> Result<NodeRight> {
    let dir = &arguments.dir;
    voucher::refuse_its_folder(dir)?;
    let identity = Identity::open_or_create(&dir.join("identity"))?;
    if let Some(token) = &arguments.enrol
        && !dir.join("certificate").exists()
    {
        enrol::enrol(dir, &identity, token, arguments.name.as_deref()).await?;
    }
    let site = Site::open(&dir.join("site")).with_context(|| {
        format!(
            "{} belongs to no site yet: start the node once with --enrol TOKEN",
            dir.display()
        )
    })?;
    Ok(NodeRight {
        identity,
        site,
        credentials: read_credentials(dir)?,
        voucher_pin: None,
    })
}

fn make_private(dir: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("making {}", dir.display()))
}

fn read_credentials(dir: &Path) -> Result<Credentials> {
    let path = dir.join("certificate");
    let certificate =
        std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    // only a provisional certificate has one
    let issuer = std::fs::read(dir.join("issuer")).ok();
    Ok(Credentials::Node {
        certificate,
        issuer,
    })
}

fn open_slab(dir: &Path, config: &NodeConfig, bytes: Option<u64>) -> Result<Slab> {
    let configured = config.slab.as_deref();
    let faults = dir.join("slab-faults");
    // the folder itself may be in /dev/shm
    if let Some(device) = configured.filter(|path| path.starts_with("/dev")) {
        return Ok(Slab::open_watched(device, Place::Device, &faults)?);
    }
    let path = dir.join(configured.unwrap_or(Path::new("slab")));
    let bytes = match bytes {
        Some(bytes) => bytes,
        None => {
            let volume = nix::sys::statvfs::statvfs(dir)?;
            let free = volume.blocks_available() * volume.fragment_size();
            SLAB_BYTES_DEFAULT
                .min(free.saturating_sub(FREE_BYTES_MIN) / 2)
                .max(SLAB_BYTES_MIN)
        }
    };
    Ok(Slab::open_watched(&path, Place::File { bytes }, &faults)?)
}

/// At its first start a node tells HQ of the completions that the agent left on the disk: the node that the agent told
/// them to may be gone.
fn tell_completions_once(dir: &Path, cache: &PeerCache, reports: &reports::Reports) -> Result<()> {
    let told = dir.join("completions-told");
    if told.exists() {
        return Ok(());
    }
    for document in cache.site(Site::all_documents).completions {
        let document = web_api::Base64(document);
        reports.add(web_api::NodeReport::Completion { document });
    }
    Ok(peer_cache_node::write_durably(&told, b"")?)
}

/// Tickets count by boot: each start of the node is one.
fn next_boot_number(dir: &Path) -> Result<u64> {
    let path = dir.join("boot-number");
    let last = std::fs::read_to_string(&path)
        .ok()
        .and_then(|t| t.trim().parse::<u64>().ok())
        .unwrap_or(0);
    peer_cache_node::write_durably(&path, (last + 1).to_string().as_bytes())?;
    Ok(last + 1)
}

/// How to answer network boot; nothing when it is off.
fn boot_server_config(
    arguments: &NodeArguments,
    config: &NodeConfig,
) -> Result<Option<BootServerConfig>> {
    let mode = match (
        arguments.boot.or(config.boot).unwrap_or(BootMode::Proxy),
        &config.pool,
    ) {
        (BootMode::Off, _) => return Ok(None),
        (BootMode::Proxy, _) => Mode::Proxy,
        (BootMode::Full, Some(pool)) => {
            let pool = PoolConfig::from(pool);
            pool.check().context("the [pool] in node.toml")?;
            Mode::Full(pool)
        }
        (BootMode::Full, None) => {
            anyhow::bail!("--boot full needs a [pool] in node.toml: server, first, last, mask")
        }
    };
    let mut server = BootServerConfig::new(
        arguments.interface.clone().or(config.interface.clone()),
        mode,
    );
    server.http_port = arguments.http_port;
    Ok(Some(server))
}
