//! The agent booted in RAM: from drivers to reboot.

use std::{
    net::{Ipv4Addr, SocketAddr},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use imaging_plan::{ChooseDiskError, Disk, choose_disk};
use peer_cache_node::Site;
use peer_cache_proto::{machine::MachineFacts, voucher::stick, wire::PEER_PORT};
use trust_format::TrustedKeys;

use crate::{
    by_hand::resolve,
    init::{
        self, command_line, console, efi, inventory, modules, network,
        reboot::{self, End},
        stick::mount_stick,
        uevents::Uevents,
    },
    install::{InstallOptions, TargetChoice, install},
    lent::{self, LentNode},
    pins::PinSource,
    screen::say,
};

/// Where boot media carry the chain's root.
const ROOT: &str = "/etc/lamplighter/root";
const NETWORK_WITHIN: Duration = Duration::from_secs(60);
/// The agent's own modules: what no device asks for.
const MODULES: [&str; 2] = ["ext4", "efivarfs"];
/// Disks behind controllers that count their drives first, or behind USB, come up late.
const DISK_WITHIN: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A failed install is read from the screen before the machine tries again; doubled with each try of the same boot.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(60);

/// Process 1: sets up, starts the agent as a child, and ends the machine when the agent has ended.
pub(crate) fn first_process() -> ExitCode {
    if let Err(error) = init::set_up_system() {
        eprintln!("agent: failed: {error}");
    }
    match console::supervise(&["run"]) {
        Ok(console::AgentEnd::Exited(0)) => {}
        other => {
            eprintln!(
                "agent: ended with {other:?}; the machine restarts in {} s",
                PAUSE_AFTER_FAILURE.as_secs()
            );
            std::thread::sleep(PAUSE_AFTER_FAILURE);
        }
    }
    match reboot::end(End::Reboot) {
        Ok(never) => match never {},
        Err(_) => ExitCode::FAILURE,
    }
}

/// The child of process 1: images this machine.
pub(crate) async fn run() -> Result<()> {
    say("started");
    load_modules();
    let asked = command_line::read()?;
    let network = network::bring_up(asked.boot_interface, NETWORK_WITHIN).await?;
    for lease in network.leases() {
        say(&format!("address {} on {}", lease.address, lease.interface));
    }
    let stays = asked.others.contains_key(stick::STAY_WORD);
    let mut pins = PinSource::Consoles(console::active_paths());
    let mut lent = None;
    if asked.others.contains_key(stick::STICK_WORD) {
        match tokio::task::spawn_blocking(mount_stick).await? {
            Err(reason) if stays => bail!("{reason}"),
            Err(reason) => say(&reason),
            Ok(stick) => {
                let mut open = pins.open()?;
                let node = lent::start(&stick, &mut open, stays).await?;
                pins = open.into_source(node.as_ref().map(|node| node.pin.clone()));
                lent = Some((stick, node));
            }
        }
    }
    if stays {
        let node = lent.and_then(|(_, node)| node);
        say("this machine stays as it is until it is switched off");
        return node.context("no voucher was opened")?.stay().await;
    }
    let pin = asked.others.get("disk").map(String::as_str);
    let (found, disk) = wait_for_disk(pin).await?;
    say(&format!(
        "disk {} of {} MiB {}",
        disk.path,
        disk.bytes >> 20,
        disk.model
    ));
    if let Some(secure_boot) = efi::Variables::open().and_then(|v| v.secure_boot().ok()) {
        say(&format!("firmware UEFI, Secure Boot {secure_boot:?}"));
    }
    let root = std::fs::read(ROOT).context("this boot media carries no root document")?;
    let keys = TrustedKeys::pin(&root).context("the root document of this boot media")?;
    let with_own = lent.as_ref().is_some_and(|(_, node)| node.is_some());
    let options = InstallOptions {
        slab: None,
        nodes: nodes(asked.node.as_deref(), &network, with_own).await,
        discover: true,
        site: Site::new(keys),
        facts: facts(&found),
        version: None,
        with_node: true,
        uefi: Some(found.uefi),
        ram_bytes: Some(found.memory_bytes),
        target: TargetChoice::Disk(disk),
        wait: true,
        with_tpm: true,
        tpm: None,
        pins,
    };
    let (cache, _) = Box::pin(install(options)).await?;
    cache.close().await;
    if let Some((stick, node)) = lent {
        node.into_iter().for_each(LentNode::end);
        stick.unmount();
    }
    start_the_disk_next();
    say("restarting into the system on the disk");
    Ok(())
}

fn load_modules() {
    let mut all = match modules::Modules::open() {
        Err(error) => return say(&format!("no modules: {error}")),
        Ok(all) => all,
    };
    let uevents = Uevents::open();
    let plugged = all.coldplug();
    tracing::info!(loaded = plugged.loaded.len(), "drivers");
    for name in MODULES {
        if let Err(error) = all.load(name) {
            tracing::info!(%error, name, "module");
        }
    }
    // ends with this process
    std::thread::spawn(move || {
        let Err(error) = uevents.and_then(|uevents| all.keep_loading(&uevents));
        say(&format!(
            "devices that come up later get no driver: {error}"
        ));
    });
}

/// Hints: the voucher's node beside the agent, the node on the command line, and the boot servers that DHCP named. Beacons find
/// the others.
async fn nodes(asked: Option<&str>, network: &network::Network, with_own: bool) -> Vec<SocketAddr> {
    let mut nodes = Vec::new();
    if with_own {
        nodes.push(SocketAddr::from((Ipv4Addr::LOCALHOST, PEER_PORT)));
    }
    if let Some(asked) = asked {
        match resolve(asked).await {
            Ok(address) => nodes.push(address),
            Err(error) => say(&format!("the node on the command line: {error:#}")),
        }
    }
    for lease in network.leases() {
        nodes.extend(
            lease
                .siaddr
                .filter(|a| !a.is_unspecified())
                .map(|a| SocketAddr::from((a, PEER_PORT))),
        );
    }
    nodes
}

fn facts(found: &inventory::Inventory) -> MachineFacts {
    let macs: Vec<[u8; 6]> = found.interfaces.iter().map(|i| i.address).collect();
    let model = [found.vendor.as_deref(), found.product.as_deref()];
    let model: Vec<&str> = model.into_iter().flatten().collect();
    MachineFacts::new(
        found.uuid.as_deref().and_then(uuid_bytes),
        found.serial.as_deref(),
        &macs,
        &model.join(" "),
    )
}

fn uuid_bytes(text: &str) -> Option<[u8; 16]> {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    digits.parse::<web_api::Hex<16>>().ok().map(|h| h.0)
}

/// The disk to image and what else is there, as soon as there is one to choose. Several to choose from are not fewer later.
async fn wait_for_disk(pin: Option<&str>) -> Result<(inventory::Inventory, Disk)> {
    let started = Instant::now();
    loop {
        let found = inventory::read();
        match choose(&found, pin) {
            Ok(disk) => return Ok((found, disk)),
            Err(error @ ChooseDiskError::Ambiguous { .. }) => return Err(error.into()),
            Err(error) if started.elapsed() > DISK_WITHIN => return Err(error.into()),
            Err(_) => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}

fn choose(found: &inventory::Inventory, pin: Option<&str>) -> Result<Disk, ChooseDiskError> {
    let disks: Vec<Disk> = found
        .disks
        .iter()
        .map(|d| Disk {
            path: d.device.to_string_lossy().into_owned(),
            bytes: d.size_bytes,
            sector_bytes: d.logical_sector_bytes,
            removable: d.removable || d.usb,
            read_only: d.read_only,
            model: d.model.clone().unwrap_or_default(),
            serial: d.serial.clone().unwrap_or_default(),
        })
        .collect();
    choose_disk(&disks, pin).cloned()
}

/// A machine that boots from the network first goes to its disk once without asking anybody.
fn start_the_disk_next() {
    let Some(variables) = efi::Variables::open() else {
        return;
    };
    if let Err(error) = variables.set_boot_next_to_disk() {
        tracing::info!(%error, "the firmware keeps its boot order");
    }
}
