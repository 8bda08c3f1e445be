//! Whole stories with real firmware in QEMU. They take minutes and need root: see the crate's header.
//!
//! Each has a lab of its own, and two are run at a time (`.config/nextest.toml`): `./dev test --all boot`.

use std::{io::Read, os::unix::fs::FileExt, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use end_to_end::{
    Boot, CLIENT, Console, LAPTOP, Lab, Machine, Namespace, Process, SITE, Store, UnknownMachines,
    Vm, agent_program,
    chain::{self, A, AGENT_TIMEOUT, B, HOME_TIMEOUT, INSTALL_TIMEOUT, OS_TIMEOUT},
    program,
};
use serde_json::Value;

/// More than a node says to a computer that it only asks to wait, much less than an image.
const WAITING_BYTES_MAX: u64 = 300_000;
/// How long nobody may see a node that must not run: so long at least, and three times what the node needs that may.
const NO_NODE_FOR: Duration = Duration::from_secs(40);
/// Beacons, and handshakes that come to nothing; less than a twentieth of the smaller image.
const REVOKED_BYTES_MAX: u64 = 1_500_000;
const SECOND_BYTES: usize = 32 << 20;
/// Image and boot bundle, with room to spare.
const STICK_SLAB_BYTES: &str = "1073741824";
/// A stick's disk comes up long after the stick, when the first look at what is plugged in has ended.
const SLOW_STICK: &str = "usb-storage.delay_use=8";
/// The stick's node fetches the image.
const FILL_TIMEOUT: Duration = Duration::from_secs(400);
const COMMAND_TIMEOUT: Duration = Duration::from_secs(240);

#[test]
fn chain_with_the_wan_up() -> Result<()> {
    let lab = Lab::new("chain_with_the_wan_up")?;
    let mut store = Store::open(&lab, UnknownMachines::Admit)?;
    chain::check_that_the_image_is_not_ours(&store.image_file)?;
    let report = chain::with_the_wan_up(&mut store)?;
    lab.say(&report.to_json().to_string());
    Ok(())
}

#[test]
fn chain_with_the_wan_down() -> Result<()> {
    let lab = Lab::new("chain_with_the_wan_down")?;
    let mut store = Store::open(&lab, UnknownMachines::Admit)?;
    let mut machine_a = chain::switch_on(&lab, A)?;
    machine_a.wait_for_disk(&store)?;
    machine_a.check_senders(&lab.laptop_addresses()?)?;
    lab.cut_the_wan()?;
    store.kill_laptop();
    let a = machine_a.wait_for_system(&store)?;
    store.wait_for_boot_files(&a.address)?;
    lab.say(&format!("A at {} offers the boot files", a.address));
    let mut machine_b = chain::switch_on(&lab, B)?;
    machine_b.wait_for_disk(&store)?;
    machine_b.check_senders(&A.addresses(&a.address))?;
    let b = machine_b.wait_for_system(&store)?;
    store.wait_for_boot_files(&b.address)?;
    lab.say(&format!("B at {} offers the boot files", b.address));

    // The third link: only B is left.
    machine_a.vm.switch_off()?;
    let mut client = start_client(&lab, &b.address)?;
    wait_for_client(&mut client)?;
    chain::check_senders(client.console(), &B.addresses(&b.address))?;
    check_client_file(&store)?;
    lab.say("the client has its image from B");

    lab.mend_the_wan()?;
    let at_b = format!("{}:", b.address);
    let address = |node: &Value| node["address"].as_str().unwrap_or_default().to_owned();
    let hq = &mut store.hq;
    hq.wait_for_node("confirmed node B", HOME_TIMEOUT, |node| {
        node["origin"] == "confirmed" && address(node).starts_with(&at_b)
    })?;
    lab.say("HQ confirmed B's node");

    // What A kept to tell about B is delivered when A is back.
    machine_a.vm.switch_on(&lab)?;
    machine_a.vm.wait_for("OS-UP ", OS_TIMEOUT)?;
    chain::wait_until_home(&mut store, &B, "confirmed")?;
    chain::wait_until_home(&mut store, &A, "certified")?;
    Ok(())
}

/// A machine that always tries the network first lights one that has no network boot; then each start of the first is
/// answered by the second, and the order still stands.
#[test]
fn usb_stick_and_power_cycles() -> Result<()> {
    let lab = Lab::new("usb_stick_and_power_cycles")?;
    let mut store = Store::open(&lab, UnknownMachines::Admit)?;
    let a = Machine {
        name: "A",
        number: 3,
        boot: Boot::PxeFirst,
        clock: None,
        tpm: None,
    };
    let u = Machine {
        name: "U",
        number: 2,
        boot: Boot::DiskThenStick(store.build_stick()?),
        clock: None,
        tpm: None,
    };
    let mut cycled = chain::switch_on(&lab, a.clone())?;
    cycled.wait_for_disk(&store)?;
    cycled.check_senders(&lab.laptop_addresses()?)?;
    let at = cycled.wait_for_system(&store)?.address;
    chain::wait_until_home(&mut store, &a, "certified")?;
    store.kill_laptop();

    let mut with_stick = chain::switch_on(&lab, u.clone())?;
    with_stick.wait_for_disk(&store)?;
    with_stick.check_senders(&a.addresses(&at))?;
    let at = with_stick.wait_for_system(&store)?.address;
    chain::wait_until_home(&mut store, &u, "certified")?;
    ensure!(
        Console::new(with_stick.vm.console().path().to_owned())
            .first(">>Start PXE")
            .is_none(),
        "the machine with the stick booted from the network"
    );
    store.wait_for_boot_files(&at)?;
    let cycles = if is_long() { 5 } else { 1 };
    for cycle in 1..=cycles {
        cycled.vm.power_cycle(&lab)?;
        check_that_it_starts_its_own_disk(&lab, &mut cycled.vm)
            .with_context(|| format!("power cycle {cycle} of {cycles}"))?;
    }
    let whole = Console::new(cycled.vm.console().path().to_owned());
    let installs = whole.all("agent: finished").len();
    ensure!(installs == 1, "the machine was imaged {installs} times");
    chain::wait_until_home(&mut store, &a, "certified")?;
    Ok(())
}

/// The agent seals the new node's key: the node runs on its own board, and neither without a TPM nor with another's.
#[test]
fn a_node_stays_with_its_tpm() -> Result<()> {
    let lab = Lab::new("a_node_stays_with_its_tpm")?;
    let mut store = Store::open(&lab, UnknownMachines::Admit)?;
    let machine = Machine {
        tpm: Some("own"),
        ..A
    };
    let mut machine = chain::switch_on(&lab, machine)?;
    machine.wait_for_disk(&store)?;
    check_that_the_key_is_sealed(&lab, &machine.vm)?;
    let at = machine.wait_for_system(&store)?.address;
    chain::wait_until_home(&mut store, &A, "certified")?;
    store.wait_for_boot_files(&at)?;
    lab.say("its node runs with its own TPM");
    // a start of the whole system is what the node's start with another TPM is compared with
    machine.vm.switch_off()?;
    let at = machine.wait_for_system(&store)?.address;
    let started = std::time::Instant::now();
    store.wait_for_boot_files(&at)?;
    let node = started.elapsed();
    let none_for = NO_NODE_FOR.max(3 * node);
    lab.say(&format!("it needs {node:?} after its system is up"));
    for (tpm, what) in [(None, "without a TPM"), (Some("other"), "with another TPM")] {
        machine.vm.switch_off()?;
        machine.vm.change_tpm(tpm);
        let at = machine.wait_for_system(&store)?.address;
        store.check_no_boot_files(&at, none_for)?;
        lab.say(&format!("its node does not run {what} for {none_for:?}"));
    }
    machine.vm.switch_off()?;
    machine.vm.change_tpm(Some("own"));
    let at = machine.wait_for_system(&store)?.address;
    let started = std::time::Instant::now();
    store.wait_for_boot_files(&at)?;
    let node = started.elapsed();
    lab.say(&format!("with its own again the node needs {node:?}"));
    // else the time above said nothing
    ensure!(
        node < none_for,
        "the node took {node:?} after its system was up"
    );
    Ok(())
}

/// On the disk, and by what the node's program says of it on a computer that is not this machine.
fn check_that_the_key_is_sealed(lab: &Lab, vm: &Vm) -> Result<()> {
    let said = vm.console().first("agent: the node's key is");
    ensure!(
        said.as_deref() == Some("agent: the node's key is sealed to this machine's TPM"),
        "the agent says {said:?}"
    );
    chain::copy_from_disk(&vm.disk(), "/var/lib/lamplighter", lab.scratch())?;
    let dir = lab.scratch().join("lamplighter");
    let identity = std::fs::read(dir.join("identity"))?;
    ensure!(
        identity.starts_with(b"LMPSEAL1"),
        "the key on the disk is not sealed: {} bytes",
        identity.len()
    );
    let dir = dir.display().to_string();
    let arguments = ["node", "--dir", &dir, "--boot", "off", "--no-beacons"];
    let mut moved = lab.start(Namespace::Client, "moved-node", &program()?, &arguments)?;
    let status = moved.wait(COMMAND_TIMEOUT)?;
    ensure!(
        !status.success(),
        "the node runs with its disk's files alone"
    );
    // to a TPM that is not there, or to another one than this computer's
    let said = moved.console().first("is sealed to");
    lab.say(&said.context("the node does not say that its key is sealed")?);
    Ok(())
}

/// HQ is out of reach from the second machine's first boot on, and two clocks are wrong by decades. Machines 2 to 5 (2 and 3 but
/// in the long list) are imaged, certified by the first and serve; when HQ is back it confirms them, but for the last one, which
/// was revoked before HQ met it.
#[test]
fn five_machines_without_hq() -> Result<()> {
    let lab = Lab::new("five_machines_without_hq")?;
    let mut store = Store::open(&lab, UnknownMachines::Admit)?;
    let mut first = chain::switch_on(&lab, A)?;
    first.wait_for_disk(&store)?;
    let at = first.wait_for_system(&store)?.address;
    chain::wait_until_home(&mut store, &A, "certified")?;
    store.wait_for_boot_files(&at)?;
    lab.cut_the_wan()?;
    store.kill_laptop();

    let machine = |name, number, clock| Machine {
        name,
        number,
        boot: Boot::DiskThenPxe,
        clock,
        tpm: None,
    };
    let mut others = vec![
        machine("B", 1, Some("2009-01-01")),
        machine("C", 2, Some("2040-01-01")),
        machine("D", 3, None),
        machine("E", 4, None),
    ];
    others.truncate(if is_long() { 4 } else { 2 });
    let mut sources = A.addresses(&at);
    let (mut running, mut addresses) = (Vec::new(), Vec::new());
    for machine in &others {
        let mut started = chain::switch_on(&lab, machine.clone())?;
        started.wait_for_disk(&store)?;
        started.check_senders(&sources)?;
        let address = started.wait_for_system(&store)?.address;
        store.wait_for_boot_files(&address)?;
        sources.extend(machine.addresses(&address));
        addresses.push(address);
        running.push(started);
    }
    let (stolen, honest) = others.split_last().context("no machines")?;
    let last = &running[honest.len()].vm;
    check_that_provisional_nodes_served(last, &A.addresses(&at))?;
    let key = Console::new(last.console().path().to_owned())
        .first("agent: node key ")
        .context("the last machine shows no key of its node")?;
    let key = key.rsplit(' ').next().unwrap_or_default().to_owned();
    store
        .hq
        .command(&["nodes", "--revoke", &key, "--site", SITE])?;
    lab.say(&format!(
        "{}'s node is revoked, and no machine of the store knows",
        stolen.name
    ));
    lab.mend_the_wan()?;
    for machine in honest {
        chain::wait_until_home(&mut store, machine, "confirmed")?;
    }
    store
        .hq
        .wait_for_node("revoked node", HOME_TIMEOUT, |node| {
            node["key"] == *key && node["revoked"] == true && node["origin"] == "forestalled"
        })?;
    let revoked = (stolen.number, addresses[honest.len()].as_str());
    check_that_it_neither_gets_nor_gives(&lab, &mut store, revoked, &at)
}

/// Not everything came from the machine that HQ had certified.
fn check_that_provisional_nodes_served(vm: &Vm, certified: &[String]) -> Result<()> {
    // from before the machine's restart
    let console = Console::new(vm.console().path().to_owned());
    let senders = console.all("agent: parts from");
    let of_others = senders
        .iter()
        .filter(|line| !certified.iter().any(|address| line.contains(address)))
        .count();
    ensure!(of_others > 0, "only the first machine served: {senders:?}");
    Ok(())
}

/// A client has the image from the others, and the store a second version; the revoked node has no part in either.
fn check_that_it_neither_gets_nor_gives(
    lab: &Lab,
    store: &mut Store<'_>,
    (revoked, its_address): (usize, &str),
    node: &str,
) -> Result<()> {
    lab.count_at_client(its_address)?;
    let before = lab.cable_bytes(revoked)?;
    let second = lab.scratch().join("second.raw");
    let mut bytes = vec![0; SECOND_BYTES];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    std::fs::write(&second, &bytes)?;
    let second = store.hq.import(&second, "second")?;
    let order = [
        "order",
        "add",
        "--site",
        SITE,
        "--version",
        &second.version,
        "--machine",
        "00000000000000000000000000000001",
    ];
    store.hq.ask(&order)?;
    let mut client = start_client(lab, node)?;
    wait_for_client(&mut client)?;
    check_client_file(store)?;
    store.hq.wait_for_ledger(&second, HOME_TIMEOUT)?;
    // the fetcher's neighbours have it a moment later
    std::thread::sleep(Duration::from_secs(15));
    let after = lab.cable_bytes(revoked)?;
    let (to, from) = (after.0 - before.0, after.1 - before.1);
    let heard = lab.client_bytes()?;
    lab.say(&format!(
        "while a client and a second version came, {to} bytes went to the revoked node and {from} from it, {heard} of them to the client"
    ));
    ensure!(
        to < REVOKED_BYTES_MAX && from < REVOKED_BYTES_MAX && heard < WAITING_BYTES_MAX,
        "a revoked node has a part in what goes on"
    );
    Ok(())
}

/// In a store without a node the first machine is imaged from a stick whose voucher a technician opens (in the long list only). HQ is out
/// of reach, and another stick's machine stays in RAM and lights one more: as many as its voucher allows, each by the PIN.
#[test]
fn sticks_with_vouchers() -> Result<()> {
    let lab = Lab::new("sticks_with_vouchers")?;
    let mut store = Store::open(&lab, UnknownMachines::ByDefault)?;
    store.kill_laptop();
    if is_long() {
        image_from_a_voucher(&mut store)?;
    }
    let (file, pin) = store.make_voucher("second", "1")?;
    let lent = [
        "--voucher",
        &file,
        "--slab-bytes",
        STICK_SLAB_BYTES,
        "--stay",
        "--append",
        SLOW_STICK,
    ];
    let spare = Machine {
        name: "S",
        number: 3,
        boot: Boot::DiskThenStick(store.build_stick_with("second.img", &lent)?),
        clock: None,
        tpm: None,
    };
    let before = store.hq.ledger_bytes()?;
    let mut spare = chain::switch_on(&lab, spare)?;
    open_voucher(&mut spare.vm, &pin)?;
    let addresses = spare.agent_addresses()?;
    store.wait_for_boot_files(&addresses[0])?;
    wait_for_wan_bytes(&mut store, before)?;
    lab.cut_the_wan()?;
    lab.say("the stick has all it needs, and HQ is out of reach");
    let mut lit = chain::switch_on(&lab, A)?;
    lit.vm
        .wait_for("or type the voucher's PIN", AGENT_TIMEOUT)?;
    lit.vm.type_line("0000000000")?;
    lit.vm
        .wait_for("this is not the voucher's PIN", COMMAND_TIMEOUT)?;
    lit.vm.type_line(&pin)?;
    lit.wait_for_disk(&store)?;
    lit.check_senders(&addresses)?;
    let at = lit.wait_for_system(&store)?.address;
    store.wait_for_boot_files(&at)?;
    lab.say(&format!("A at {at} offers the boot files"));
    check_that_it_admits_nobody_more(&lab, &addresses[0], &pin)?;
    lab.mend_the_wan()?;
    chain::wait_until_home(&mut store, &A, "confirmed")?;
    check_voucher(&mut store, "second", 1)
}

/// The stick's own machine is imaged by the node beside its agent.
fn image_from_a_voucher(store: &mut Store<'_>) -> Result<()> {
    let lab = store.lab;
    let (file, pin) = store.make_voucher("first", "1")?;
    let lent = ["--voucher", &file, "--slab-bytes", STICK_SLAB_BYTES];
    let first = Machine {
        name: "U",
        number: 2,
        boot: Boot::DiskThenStick(store.build_stick_with("first.img", &lent)?),
        clock: None,
        tpm: None,
    };
    let mut imaged = chain::switch_on(lab, first.clone())?;
    open_voucher(&mut imaged.vm, &pin)?;
    imaged.wait_for_disk(store)?;
    let u = imaged.wait_for_system(store)?.address;
    chain::wait_until_home(store, &first, "confirmed")?;
    check_voucher(store, "first", 1)?;
    imaged.vm.switch_off()?;
    lab.say(&format!(
        "the machine at {u} is switched off: no node is left"
    ));
    Ok(())
}

/// The image has come over the WAN once more.
fn wait_for_wan_bytes(store: &mut Store<'_>, before: u64) -> Result<()> {
    let started = std::time::Instant::now();
    while store.hq.ledger_bytes()? < before + store.image.object_bytes {
        ensure!(
            started.elapsed() < FILL_TIMEOUT,
            "the stick's node fetches no image"
        );
        std::thread::sleep(Duration::from_millis(500));
    }
    // written a moment after the last byte came
    std::thread::sleep(Duration::from_secs(3));
    Ok(())
}

/// Types the PIN at the machine that was started from the stick.
fn open_voucher(vm: &mut Vm, pin: &str) -> Result<()> {
    vm.wait_for("agent: type the voucher's PIN", AGENT_TIMEOUT)?;
    vm.type_line(pin)?;
    vm.wait_for("agent: this machine lights others", COMMAND_TIMEOUT)?;
    Ok(())
}

fn check_voucher(store: &mut Store<'_>, name: &str, used: u64) -> Result<()> {
    let all = store.hq.ask(&["voucher", "list"])?;
    let all = all.as_array().context("vouchers")?;
    let listed = all
        .iter()
        .find(|v| v["name"] == name)
        .context("no voucher")?;
    ensure!(listed["used"] == used && listed["beyond"] == 0, "{listed}");
    Ok(())
}

fn check_that_it_admits_nobody_more(lab: &Lab, node: &str, pin: &str) -> Result<()> {
    let file = lab.scratch().join("pin");
    std::fs::write(&file, pin)?;
    let disk = lab.scratch().join("client.disk").display().to_string();
    let (pin, words) = (file.display().to_string(), ["--no-wait"]);
    let arguments = ["image", "--to", &disk, "--node", node, "--pin-file", &pin];
    let arguments = [&arguments[..], &words].concat();
    let mut client = lab.start(Namespace::Client, "client", &agent_program()?, &arguments)?;
    let status = client.wait(COMMAND_TIMEOUT)?;
    let said = client.console().first("as many machines as it may");
    ensure!(
        !status.success() && said.is_some(),
        "the voucher admits one more"
    );
    Ok(())
}

#[test]
fn strangers_wait() -> Result<()> {
    let lab = Lab::new("strangers_wait")?;
    let mut store = Store::open(&lab, UnknownMachines::ByDefault)?;
    lab.count_at_client(LAPTOP)?;
    let mut client = start_client(&lab, LAPTOP)?;
    client.wait_for("agent: waiting", COMMAND_TIMEOUT)?;
    let machine = store
        .hq
        .wait_for_machine("waiting machine", HOME_TIMEOUT, |machine| {
            machine["admission"] == "waiting"
        })?;
    lab.say("HQ shows that it waits");
    std::thread::sleep(Duration::from_secs(10));
    client.check()?;
    let heard = lab.client_bytes()?;
    ensure!(
        heard < WAITING_BYTES_MAX,
        "the laptop sent {heard} bytes to a computer that nobody approved"
    );
    ensure!(
        client.console().first("agent: admitted").is_none(),
        "nobody approved it"
    );
    lab.say(&format!("it was told to wait in {heard} bytes"));
    let id = machine["id"].as_str().context("a machine without id")?;
    store.hq.command(&["machine", "approve", id])?;
    client.wait_for("agent: admitted by", COMMAND_TIMEOUT)?;
    wait_for_client(&mut client)?;
    check_client_file(&store)
}

fn is_long() -> bool {
    std::env::var("LAMPLIGHTER_LONG").is_ok_and(|long| long == "1")
}

fn check_that_it_starts_its_own_disk(lab: &Lab, vm: &mut Vm) -> Result<()> {
    vm.wait_for("Lamplighter: nothing to install", AGENT_TIMEOUT)?;
    let line = vm.wait_for("OS-UP ", OS_TIMEOUT)?;
    lab.say(&format!("{}: {line}", vm.machine().name));
    ensure!(
        vm.console().first("agent: admitted").is_none(),
        "the agent was admitted again"
    );
    Ok(())
}

/// The agent as an ordinary program on one more computer, with a file for a disk.
fn start_client(lab: &Lab, node: &str) -> Result<Process> {
    let disk = lab.scratch().join("client.disk").display().to_string();
    let report = lab.artefact("client.json").display().to_string();
    let arguments = ["image", "--to", &disk, "--node", node, "--json", &report];
    lab.say(&format!("a client at {CLIENT} asks {node}"));
    lab.start(Namespace::Client, "client", &agent_program()?, &arguments)
}

fn wait_for_client(client: &mut Process) -> Result<()> {
    client.wait_for("agent: finished", INSTALL_TIMEOUT)?;
    let status = client.wait(COMMAND_TIMEOUT)?;
    ensure!(status.success(), "the client ended with {status}");
    Ok(())
}

/// The ESP is what the image has: nothing is changed there. (Around it the table and the root file system are.)
fn check_client_file(store: &Store<'_>) -> Result<()> {
    const ESP_START: u64 = 1 << 20;
    const ESP_LEN: usize = 96 << 20;
    let read = |path: &Path| -> Result<Vec<u8>> {
        let mut esp = vec![0; ESP_LEN];
        let file = std::fs::File::open(path)?;
        file.read_exact_at(&mut esp, ESP_START)
            .with_context(|| format!("cannot read the ESP on {}", path.display()))?;
        Ok(esp)
    };
    let disk = store.lab.scratch().join("client.disk");
    ensure!(
        read(&disk)? == read(&store.image_file)?,
        "the ESP on the client's disk is not the image's"
    );
    Ok(())
}
