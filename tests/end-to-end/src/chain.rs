//! The story the project exists for: a laptop images machine A, A images machine B.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::{
    console::Console,
    disk::check_installed,
    headquarters::install_state,
    lab::Lab,
    process::run,
    store::Store,
    vm::{Boot, Machine, Vm},
};

// How long a story waits before it gives up: five times what each step takes where two stories share two cores, since nobody
// promises that a computer is as quick tomorrow. What a step may take is no matter of these tests.

/// Power to the agent's first line: firmware, network boot, kernel.
pub const AGENT_TIMEOUT: Duration = Duration::from_secs(400);
/// The agent's first line to its last.
pub const INSTALL_TIMEOUT: Duration = Duration::from_secs(600);
/// The agent's last line to the reset.
const RESET_TIMEOUT: Duration = Duration::from_secs(120);
/// Power to the system that was installed.
pub const OS_TIMEOUT: Duration = Duration::from_secs(400);
/// The system is up to its node called home.
pub const HOME_TIMEOUT: Duration = Duration::from_secs(240);
/// Where the root file system is in the image and so on each disk.
const ROOT_OFFSET: u64 = 97 << 20;
const DEBUGFS_TIMEOUT: Duration = Duration::from_secs(120);

/// The first machine of a chain, which starts by PXE.
pub const A: Machine = Machine {
    name: "A",
    number: 0,
    boot: Boot::DiskThenPxe,
    clock: None,
    tpm: None,
};
/// The second, which starts by HTTP.
pub const B: Machine = Machine {
    name: "B",
    number: 1,
    boot: Boot::DiskThenHttp,
    clock: None,
    tpm: None,
};

/// A machine that was imaged.
#[derive(Debug)]
pub struct Imaged {
    /// The address of the installed system.
    pub address: String,
    /// From power to the installed system.
    pub seconds: f64,
}

/// A machine that is switched on, and when that was.
#[derive(Debug)]
pub struct Started {
    /// The machine.
    pub vm: Vm,
    at: Instant,
}

/// Switches a new machine on.
///
/// # Errors
/// When QEMU does not start.
pub fn switch_on(lab: &Lab, machine: Machine) -> Result<Started> {
    lab.say(&format!("{}: power on", machine.name));
    let at = Instant::now();
    let vm = Vm::new(lab, machine)?;
    Ok(Started { vm, at })
}

impl Started {
    /// Waits until its disk is finished, takes its power away before the new system runs, and compares the disk with the
    /// image.
    ///
    /// # Errors
    /// With the step that failed.
    pub fn wait_for_disk(&mut self, store: &Store<'_>) -> Result<()> {
        let lab = store.lab;
        let vm = &mut self.vm;
        let name = vm.machine().name;
        vm.wait_for("agent: started", AGENT_TIMEOUT)?;
        lab.say(&format!("{name}: the agent runs"));
        let admitted = vm.wait_for("agent: admitted by", INSTALL_TIMEOUT)?;
        lab.say(&format!("{name}: {admitted}"));
        vm.stop_at_reset()?;
        vm.wait_for("agent: finished", INSTALL_TIMEOUT)?;
        vm.wait_until_stopped(RESET_TIMEOUT)?;
        vm.switch_off()?;
        let disk = check_installed(&store.image_file, &vm.disk())
            .with_context(|| format!("the disk of machine {name}"))?;
        lab.say(&format!("{name}: the disk is finished: {disk}"));
        Ok(())
    }

    /// Every chunk came from neighbours with these addresses.
    ///
    /// # Errors
    /// With what the agent says.
    pub fn check_senders(&self, sources: &[String]) -> Result<()> {
        check_senders(self.vm.console(), sources)
            .with_context(|| format!("machine {}", self.vm.machine().name))
    }

    /// Where neighbours meet its agent.
    ///
    /// # Errors
    /// When the agent has no address yet.
    pub fn agent_addresses(&self) -> Result<Vec<String>> {
        let line = self.vm.console().first("agent: address ");
        let line = line.context("the agent has no address")?;
        let address = line.split(' ').nth(2).context("a line without address")?;
        Ok(self.vm.machine().addresses(address))
    }

    /// Switches it on again and waits until its installed system is up.
    ///
    /// # Errors
    /// When it does not come, or comes without an address.
    pub fn wait_for_system(&mut self, store: &Store<'_>) -> Result<Imaged> {
        self.vm.switch_on(store.lab)?;
        let line = self.vm.wait_for("OS-UP ", OS_TIMEOUT)?;
        let name = self.vm.machine().name;
        store.lab.say(&format!("{name}: {line}"));
        let address = line
            .split(' ')
            .find_map(|word| word.strip_prefix("ip="))
            .filter(|address| !address.is_empty())
            .with_context(|| format!("{name} has no address: {line}"))?
            .to_owned();
        Ok(Imaged {
            address,
            seconds: self.at.elapsed().as_secs_f64(),
        })
    }
}

/// Every chunk that the agent on this console received came from neighbours with the addresses `sources`.
///
/// # Errors
/// With what the agent says.
pub fn check_senders(console: &Console, sources: &[String]) -> Result<()> {
    let senders = console.all("agent: parts from");
    let is_source = |line: &String| {
        let at = line
            .split(" at ")
            .nth(1)
            .and_then(|rest| rest.rsplit_once(": "));
        at.is_some_and(|(address, _)| sources.iter().any(|known| known == address))
    };
    ensure!(
        !senders.is_empty() && senders.iter().all(is_source),
        "every chunk was to come from {sources:?}; the agent says {senders:?}"
    );
    Ok(())
}

fn debugfs(disk: &Path, request: &str) -> Result<String> {
    let disk = format!("{}?offset={ROOT_OFFSET}", disk.display());
    let arguments = ["-R", request, &disk];
    run(None, DEBUGFS_TIMEOUT, Path::new("debugfs"), &arguments)
}

/// Copies a folder of the root file system on a machine's disk into `to`, which is there.
///
/// # Errors
/// When it cannot be read.
pub fn copy_from_disk(disk: &Path, folder: &str, to: &Path) -> Result<()> {
    debugfs(disk, &format!("rdump {folder} {}", to.display())).map(drop)
}

/// What is installed is an ordinary system: nothing in it is ours before the agent puts it there.
///
/// # Errors
/// With the first path that looks like ours.
pub fn check_that_the_image_is_not_ours(image: &Path) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let root = scratch.path().join("root");
    std::fs::create_dir(&root)?;
    debugfs(image, &format!("rdump / {}", root.display()))?;
    let mut folders = vec![root];
    let mut files = 0_u32;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().to_lowercase();
            ensure!(
                !name.contains("lamplighter"),
                "the image has {} before anything was installed",
                entry.path().display()
            );
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else {
                files += 1;
            }
        }
    }
    ensure!(files > 1000, "only {files} files were found in the image");
    Ok(())
}

/// Waits until HQ says that the machine's node called home from the installed system.
///
/// # Errors
/// When it does not in time.
pub fn wait_until_home(store: &mut Store<'_>, machine: &Machine, origin: &str) -> Result<Value> {
    let what = format!("finished machine {}", machine.name);
    let hq = &mut store.hq;
    let done = hq.wait_for_machine(&what, HOME_TIMEOUT, |listed| {
        machine.is(listed) && install_state(listed) == "done"
    })?;
    ensure!(
        done["completed"]
            .as_array()
            .is_some_and(|orders| orders.len() == 1),
        "machine {} should have finished one order: {done}",
        machine.name
    );
    let id = crate::headquarters::text(&done, "id")?;
    let what = format!("{origin} node of machine {}", machine.name);
    store.hq.wait_for_node(&what, HOME_TIMEOUT, |node| {
        node["machine"] == id && node["origin"] == origin
    })?;
    store.lab.say(&format!("{}: HQ says done", machine.name));
    Ok(done)
}

/// What the demo shows of a chain.
#[derive(Debug)]
pub struct ChainReport {
    machines: Vec<Value>,
    wan_bytes: u64,
    wan_bytes_while_second: u64,
    object_bytes: u64,
    seconds: f64,
}

impl ChainReport {
    /// As JSON.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "machines": self.machines,
            "wan_bytes": self.wan_bytes,
            "wan_bytes_while_second": self.wan_bytes_while_second,
            "object_bytes": self.object_bytes,
            "seconds": self.seconds,
        })
    }
}

/// The whole story with the WAN up: A from the laptop, which fetched from HQ; then the laptop is gone, and B from A.
///
/// # Errors
/// With the step that failed.
pub fn with_the_wan_up(store: &mut Store<'_>) -> Result<ChainReport> {
    let lab = store.lab;
    let story = Instant::now();
    let mut machine_a = switch_on(lab, A)?;
    machine_a.wait_for_disk(store)?;
    machine_a.check_senders(&lab.laptop_addresses()?)?;
    let a = machine_a.wait_for_system(store)?;
    let a_done = wait_until_home(store, &A, "certified")?;
    store.kill_laptop();
    store.wait_for_boot_files(&a.address)?;
    lab.say(&format!("A at {} offers the boot files", a.address));

    let wan_before = store.hq.ledger_bytes()?;
    lab.say(&format!(
        "WAN so far: {wan_before} bytes by HQ's ledger, {:?} on the wire",
        lab.wan_packet_bytes()?
    ));
    let mut machine_b = switch_on(lab, B)?;
    machine_b.wait_for_disk(store)?;
    machine_b.check_senders(&A.addresses(&a.address))?;
    let b = machine_b.wait_for_system(store)?;
    let b_done = wait_until_home(store, &B, "certified")?;
    let wan_after = store.hq.ledger_bytes()?;
    lab.say(&format!(
        "WAN at the end: {wan_after} bytes by HQ's ledger, {:?} on the wire",
        lab.wan_packet_bytes()?
    ));
    ensure!(
        wan_before >= store.image.object_bytes,
        "the ledger says {wan_before} bytes, and the image alone has {}",
        store.image.object_bytes
    );
    ensure!(
        wan_after == wan_before,
        "HQ sent {} bytes while B was imaged",
        wan_after - wan_before
    );
    // Long after: what was done stays done.
    wait_until_home(store, &A, "certified")?;
    let row = |name: &str, imaged: &Imaged, done: &Value| {
        json!({
            "name": name,
            "disk_bytes": store.image.disk_bytes,
            "received_bytes": done["install"]["received_bytes"],
            "seconds": imaged.seconds,
            "verified": true,
        })
    };
    Ok(ChainReport {
        machines: vec![row("A", &a, &a_done), row("B", &b, &b_done)],
        wan_bytes: wan_after,
        wan_bytes_while_second: wan_after - wan_before,
        object_bytes: store.image.object_bytes,
        seconds: story.elapsed().as_secs_f64(),
    })
}
