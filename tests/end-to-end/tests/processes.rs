//! HQ, nodes and agents as programs on loopback: what a site does when parts of it start at once, stop, lie or are refused.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, reason = "tests")]

mod loopback;

use std::{
    fs::File,
    net::SocketAddr,
    os::unix::fs::FileExt,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use loopback::{
    Site,
    noisy::NoisyWire,
    shaped::{self, Shaped},
};
use nix::sys::signal::Signal;

const MINUTES: Duration = Duration::from_secs(400);

fn long() -> bool {
    std::env::var_os("LAMPLIGHTER_LONG").is_some()
}

/// The source's uplink is what a swarm has to live with: what leaves it more than once is lost to all.
#[test]
fn four_machines_share_and_the_store_fetches_once() -> Result<()> {
    let names = ["m0", "m1", "m2", "m3"];
    let site = Site::start_in(Some(Shaped::new(names.len(), 200)?), 256, "admit")?;
    site.order(&[])?;
    let network = site.network()?;
    let (wan_before, out_before) = (
        network.counter("node", "wan", "rx_bytes")?,
        network.counter("node", "e0", "tx_bytes")?,
    );
    // all in the same second
    let address = SocketAddr::new(shaped::NODE.parse()?, 4433);
    let (node, _) = site.start_node("node", Some(address))?;
    let agents = names.map(|name| site.start_agent(name, address, &["--stay"]));
    for agent in &agents {
        ensure!(agent.is_ok());
    }
    for name in names {
        let outcome = site.wait_for_outcome(name)?;
        println!("{name}: {outcome}");
        ensure!(outcome["verified"] == true);
        ensure!(
            site.is_the_image(&site.path(&format!("{name}.raw")))?,
            "{name} differs"
        );
        let bytes = |key: &str| outcome[key].as_u64().context(key.to_owned());
        ensure!(
            bytes("sent_bytes")? * 10 >= bytes("received_bytes")?,
            "{name} passes on less than a tenth: {outcome}"
        );
    }
    let share = |bytes: u64| bytes as f64 / site.object_bytes as f64;
    let copies = share(network.counter("node", "e0", "tx_bytes")? - out_before);
    let ledger = share(site.wan_bytes_at_rest()?);
    let wire = share(network.counter("node", "wan", "rx_bytes")? - wan_before);
    println!(
        "of the objects' bytes: the node sent {copies:.3}, WAN {ledger:.3} by the ledger, {wire:.3} by its interface"
    );
    ensure!(
        copies <= 1.5,
        "the node sent {copies:.3} copies\n{}",
        node.log()
    );
    ensure!(ledger <= 1.02, "WAN {ledger:.3}\n{}", node.log());
    ensure!(
        wire <= 1.08,
        "WAN {wire:.3} by its interface\n{}",
        node.log()
    );
    Ok(())
}

#[test]
fn an_export_equals_its_source_and_a_flipped_bit_is_found() -> Result<()> {
    let site = Site::start(12, "admit")?;
    let copy = site.path("copy.raw");
    site.command(&["image", "export", "till", "--to", copy.to_str().unwrap()])?;
    ensure!(site.is_the_image(&copy)?);
    site.command(&["image", "verify", "till"])?;
    let mut objects = Vec::new();
    for folder in std::fs::read_dir(site.path("hq/store/objects"))? {
        for object in std::fs::read_dir(folder?.path())? {
            objects.push(object?.path());
        }
    }
    objects.sort();
    let victim = File::options().read(true).write(true).open(&objects[3])?;
    let mut byte = [0];
    victim.read_exact_at(&mut byte, 100)?;
    victim.write_all_at(&[byte[0] ^ 1], 100)?;
    let (ok, text) = site.try_command(&["image", "verify", "till"])?;
    ensure!(!ok && text.contains("hash"), "{text}");
    // and no machine gets it: the fetch stops with HQ's name
    site.order(&[])?;
    let (_node, address) = site.start_node("node", None)?;
    let mut agent = site.start_agent("a", address, &[])?;
    std::thread::sleep(Duration::from_secs(6));
    ensure!(
        !site.path("a.json").exists(),
        "imaged from a damaged object"
    );
    agent.signal(Signal::SIGTERM)?;
    agent.wait(MINUTES)?;
    let overview = site.command(&["machine", "list"])?;
    println!("{overview}");
    Ok(())
}

/// QUIC's seal finds a changed packet, which is dropped like a lost one and sent again.
#[test]
fn bits_that_flip_on_the_wire_cost_packets_and_nothing_else() -> Result<()> {
    let site = Site::start(48, "admit")?;
    site.order(&[])?;
    let (node, address) = site.start_node("node", None)?;
    let wire = NoisyWire::to(address)?;
    let mut agent = site.start_agent("a", wire.address, &[])?;
    ensure!(agent.wait(MINUTES)?, "{}", agent.log());
    ensure!(site.is_the_image(&site.path("a.raw"))?);
    println!("{} packets were changed", wire.flipped());
    ensure!(wire.flipped() > 100, "the wire was too good");
    for log in [agent.log(), node.log()] {
        ensure!(!log.contains("wrong bytes"), "nobody is to blame: {log}");
    }
    Ok(())
}

#[test]
fn strangers_get_nothing_until_somebody_says_yes() -> Result<()> {
    let site = Site::start(8, "wait")?;
    site.order(&[])?;
    let (_node, address) = site.start_node("node", None)?;
    let mut agent = site.start_agent("a", address, &[])?;
    let machine = loop {
        let machines = site.ask(&["machine", "list", "--json"])?;
        if let Some(machine) = machines[0]["id"].as_str() {
            ensure!(machines[0]["admission"] == "waiting");
            break machine.to_owned();
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    std::thread::sleep(Duration::from_secs(1));
    ensure!(
        !site.path("a.raw").exists(),
        "nothing is touched while it waits"
    );
    // by what is on its screen, and not by what is on another's
    let log = agent.log();
    let (_, code) = log.split_once("agent: code ").context("no code")?;
    let code = code.lines().next().context("no code")?;
    let machines = site.ask(&["machine", "list", "--json"])?;
    ensure!(machines[0]["facts"]["code"] == code, "{machines} {code}");
    let approve = ["machine", "approve", &machine, "--code"];
    ensure!(
        site.command(&[&approve[..], &["000-000"]].concat())
            .is_err()
    );
    site.command(&[&approve[..], &[code]].concat())?;
    ensure!(agent.wait(MINUTES)?, "{}", agent.log());
    ensure!(site.is_the_image(&site.path("a.raw"))?);
    Ok(())
}

/// A technician types what HQ made; it admits one machine, and a wrong one none.
#[test]
fn a_pin_admits_the_machine_at_which_it_is_typed() -> Result<()> {
    let site = Site::start(8, "pin")?;
    site.order(&[])?;
    let set = site.ask(&["site", "pin", "store", "--uses", "1", "--json"])?;
    let pin = set["pin"].as_str().context("no PIN")?;
    let (_node, address) = site.start_node("node", None)?;
    let image = |name: &str, pin: Option<&str>| -> Result<(bool, String)> {
        let file = site.path(&format!("{name}.pin"));
        std::fs::write(&file, pin.unwrap_or_default())?;
        let with_file = ["--no-wait", "--pin-file", file.to_str().unwrap()];
        let arguments = &with_file[..if pin.is_some() { 3 } else { 1 }];
        let mut agent = site.start_agent(name, address, arguments)?;
        Ok((agent.wait(MINUTES)?, agent.log()))
    };
    let wrong = if pin == "00000000" {
        "11111111"
    } else {
        "00000000"
    };
    for (name, pin, words) in [
        ("none", None, "type the site's PIN"),
        ("wrong", Some(wrong), "this is not the site's PIN"),
    ] {
        let (is_imaged, log) = image(name, pin)?;
        ensure!(!is_imaged && log.contains(words), "{log}");
        ensure!(!site.path(&format!("{name}.raw")).exists());
    }
    let (is_imaged, log) = image("right", Some(pin))?;
    ensure!(is_imaged && !log.contains(pin), "{log}");
    ensure!(site.is_the_image(&site.path("right.raw"))?);
    let (is_imaged, log) = image("next", Some(pin))?;
    ensure!(!is_imaged && log.contains("as many machines"), "{log}");
    Ok(())
}

#[test]
fn an_order_is_spent_once_and_erase_replaces() -> Result<()> {
    let site = Site::start(8, "admit")?;
    site.order(&[])?;
    let (_node, address) = site.start_node("node", None)?;
    ensure!(site.start_agent("a", address, &[])?.wait(MINUTES)?);
    let again = |words: &str| -> Result<()> {
        let mut agent = site.start_agent("a", address, &[])?;
        ensure!(agent.wait(MINUTES)?, "{}", agent.log());
        ensure!(
            agent
                .log()
                .lines()
                .last()
                .unwrap_or_default()
                .contains(words),
            "{}",
            agent.log()
        );
        Ok(())
    };
    again("is spent")?;
    site.order(&[])?;
    std::thread::sleep(Duration::from_secs(3));
    again("is spent")?;
    site.order(&["--erase"])?;
    std::thread::sleep(Duration::from_secs(3));
    again("finished")?;
    ensure!(site.is_the_image(&site.path("a.raw"))?);
    Ok(())
}

#[test]
fn a_target_that_is_too_small_is_not_touched() -> Result<()> {
    let site = Site::start(8, "admit")?;
    site.order(&[])?;
    let (_node, address) = site.start_node("node", None)?;
    let disk = site.path("small.raw");
    std::fs::write(&disk, vec![7; 4 << 20])?;
    let mut agent = site.start_agent_on(&disk, "small", address, &[])?;
    ensure!(!agent.wait(MINUTES)?);
    ensure!(agent.log().contains("the image needs"), "{}", agent.log());
    ensure!(
        std::fs::read(&disk)?.iter().all(|b| *b == 7),
        "something was written"
    );
    Ok(())
}

#[test]
fn bad_images_are_refused_by_name() -> Result<()> {
    let site = Site::start(4, "admit")?;
    for (name, bytes, words) in [
        ("empty.raw", vec![], "is empty"),
        ("odd.raw", vec![1; 777], "no multiple of 512"),
    ] {
        let path = site.path(name);
        std::fs::write(&path, bytes)?;
        let (ok, text) =
            site.try_command(&["image", "import", path.to_str().unwrap(), "--name", "x"])?;
        ensure!(!ok && text.contains(words) && text.contains(name), "{text}");
    }
    Ok(())
}

/// Where in an install something stops: a seeded share of the bytes.
fn moments() -> Vec<u64> {
    let count = if long() { 20 } else { 3 };
    (0..count).map(|n| 2 + (n * 7919 + 13) % 88).collect()
}

const KILL_MIB: u64 = 160;

#[test]
fn kill_hq_at_any_moment_and_it_goes_on() -> Result<()> {
    for percent in moments() {
        let mut site = Site::start(KILL_MIB, "admit")?;
        site.order(&[])?;
        let (_node, address) = site.start_node("node", None)?;
        let mut agent = site.start_agent("a", address, &[])?;
        site.wait_for_written(&agent, percent)?;
        site.kill_hq();
        std::thread::sleep(Duration::from_millis(500));
        site.start_hq()?;
        ensure!(agent.wait(MINUTES)?, "at {percent} %: {}", agent.log());
        ensure!(site.is_the_image(&site.path("a.raw"))?);
    }
    Ok(())
}

#[test]
fn kill_the_node_at_any_moment_and_it_goes_on() -> Result<()> {
    for percent in moments() {
        let site = Site::start(KILL_MIB, "admit")?;
        site.order(&[])?;
        let (node, address) = site.start_node("node", None)?;
        let mut agent = site.start_agent("a", address, &[])?;
        site.wait_for_written(&agent, percent)?;
        drop(node);
        let (node, _) = site.start_node("node", Some(address))?;
        let ended = agent.wait(MINUTES).with_context(|| node.log());
        ensure!(ended?, "at {percent} %: {}", agent.log());
        ensure!(site.is_the_image(&site.path("a.raw"))?);
    }
    Ok(())
}

#[test]
fn kill_a_machine_at_any_moment_and_it_resumes_and_the_other_goes_on() -> Result<()> {
    for percent in moments() {
        let site = Site::start(KILL_MIB, "admit")?;
        site.order(&[])?;
        let (_node, address) = site.start_node("node", None)?;
        let victim = site.start_agent("a", address, &[])?;
        let mut other = site.start_agent("b", address, &[])?;
        site.wait_for_written(&victim, percent)?;
        drop(victim);
        let disk = std::fs::read(site.path("a.raw"))?;
        ensure!(
            disk[..512].iter().all(|b| *b == 0),
            "half an image must not boot"
        );
        let mut again = site.start_agent("a", address, &[])?;
        ensure!(other.wait(MINUTES)?, "{}", other.log());
        ensure!(again.wait(MINUTES)?, "at {percent} %: {}", again.log());
        ensure!(site.is_the_image(&site.path("a.raw"))? && site.is_the_image(&site.path("b.raw"))?);
    }
    Ok(())
}

/// As long as a laptop whose lid was closed for a moment.
const PAUSE: Duration = Duration::from_secs(30);
/// Sites at a time: while they are paused they cost nothing, but each is filled before.
const PAUSED_AT_ONCE: usize = 5;

/// Who is paused.
#[derive(Debug, Clone, Copy)]
enum Paused {
    Hq,
    Node,
    Machine,
}

#[test]
fn pause_anybody_for_long_and_it_goes_on() -> Result<()> {
    let runs: Vec<(Paused, u64)> = [Paused::Hq, Paused::Node, Paused::Machine]
        .into_iter()
        .flat_map(|who| moments().into_iter().map(move |percent| (who, percent)))
        .collect();
    for batch in runs.chunks(PAUSED_AT_ONCE) {
        std::thread::scope(|scope| {
            let running: Vec<_> = batch
                .iter()
                .map(|(who, percent)| {
                    scope.spawn(move || {
                        pause(*who, *percent).with_context(|| format!("{who:?} at {percent} %"))
                    })
                })
                .collect();
            running.into_iter().try_for_each(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|_| Err(anyhow::anyhow!("panicked")))
            })
        })?;
    }
    Ok(())
}

fn pause(who: Paused, percent: u64) -> Result<()> {
    let site = Site::start(KILL_MIB, "admit")?;
    site.order(&[])?;
    let (node, address) = site.start_node("node", None)?;
    let mut agent = site.start_agent("a", address, &[])?;
    let mut other = match who {
        Paused::Machine => Some(site.start_agent("b", address, &[])?),
        Paused::Hq | Paused::Node => None,
    };
    site.wait_for_written(&agent, percent)?;
    let paused = match who {
        Paused::Hq => site.hq()?,
        Paused::Node => &node,
        Paused::Machine => &agent,
    };
    paused.signal(Signal::SIGSTOP)?;
    let since = Instant::now();
    if let Some(other) = &mut other {
        ensure!(other.wait(PAUSE)?, "{}", other.log());
        ensure!(site.is_the_image(&site.path("b.raw"))?);
    }
    std::thread::sleep(PAUSE.saturating_sub(since.elapsed()));
    match who {
        Paused::Hq => site.hq()?,
        Paused::Node => &node,
        Paused::Machine => &agent,
    }
    .signal(Signal::SIGCONT)?;
    ensure!(agent.wait(MINUTES)?, "{}", agent.log());
    ensure!(site.is_the_image(&site.path("a.raw"))?);
    Ok(())
}

#[test]
fn the_admitting_node_is_killed_for_good_and_nobody_is_asked_again() -> Result<()> {
    let site = Site::start(KILL_MIB, "wait")?;
    site.order(&[])?;
    let (first, first_at) = site.start_node("first", None)?;
    let (second, _) = site.start_node("second", None)?;
    // both hold everything and know each other through HQ
    for node in [&first, &second] {
        let started = std::time::Instant::now();
        while !node.log().contains("a version is complete") || !node.log().contains("connected") {
            ensure!(started.elapsed() < MINUTES, "{}", node.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    let mut agent = site.start_agent("a", first_at, &[])?;
    let machine = loop {
        let machines = site.ask(&["machine", "list", "--json"])?;
        if let Some(machine) = machines[0]["id"].as_str() {
            break machine.to_owned();
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    site.command(&["machine", "approve", &machine])?;
    site.wait_for_written(&agent, 50)?;
    drop(first);
    ensure!(agent.wait(MINUTES)?, "{}", agent.log());
    ensure!(site.is_the_image(&site.path("a.raw"))?);
    ensure!(
        agent.log().matches("waiting:").count() == 1,
        "asked again:\n{}",
        agent.log()
    );
    Ok(())
}

#[test]
fn the_nodes_unit_is_confined() -> Result<()> {
    let unit = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../imaging-agent/imaging-agent/src/lamplighter-node.service");
    // the threshold is in tenths: an exposure of 3.0 at most
    let out = std::process::Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--no-pager", "--threshold=30"])
        .arg(unit)
        .output()?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    ensure!(
        out.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(())
}
