//! One WAN fetch per site, whoever dies, and within the site's budget: real programs in network namespaces.
//!
//! ```text
//!  hq 10.79.0.1 ---- 10.79.0.2 n0 10.80.0.10 --+
//!     10.79.1.1 ---- 10.79.1.2 n1 10.80.0.11 --+-- br0 in sw, unless they are islands
//!     10.79.2.1 ---- 10.79.2.2 n2 10.80.0.12 --+
//! ```

use std::{
    net::SocketAddr,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{
    Network, Program, Site,
    shaped::{counter, run},
};

const MINUTES: Duration = Duration::from_secs(400);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// What a dead fetcher may cost.
const EXTRA_BYTES_MAX: u64 = 16 << 20;

/// Nodes with a WAN link each, and a LAN between them or none.
struct Lines {
    prefix: String,
    nodes: usize,
}

impl Lines {
    fn new(name: &str, nodes: usize, lan: bool) -> Result<Self> {
        let lines = Self {
            prefix: format!("lampvm-{}-{name}", std::process::id()),
            nodes,
        };
        for role in lines.roles() {
            let name = lines.namespace(&role);
            run("ip", &format!("netns add {name}"))?;
            run("ip", &format!("-n {name} link set lo up"))?;
        }
        let switch = lines.namespace("sw");
        run(
            "ip",
            &format!("-n {switch} link add br0 type bridge forward_delay 0 stp_state 0"),
        )?;
        run("ip", &format!("-n {switch} link set br0 up"))?;
        for n in 0..nodes {
            lines.wire(n, lan)?;
        }
        Ok(lines)
    }

    fn wire(&self, n: usize, lan: bool) -> Result<()> {
        let (hq, node, switch) = (
            self.namespace("hq"),
            self.namespace(&format!("n{n}")),
            self.namespace("sw"),
        );
        run(
            "ip",
            &format!("link add wan{n} netns {hq} type veth peer name wan netns {node}"),
        )?;
        for (at, device, address) in [(&hq, format!("wan{n}"), 1), (&node, "wan".into(), 2)] {
            run(
                "ip",
                &format!("-n {at} address add 10.79.{n}.{address}/24 dev {device}"),
            )?;
            run("ip", &format!("-n {at} link set {device} up"))?;
            // packets as they are on a wire, so that their headers count
            run(
                "ip",
                &format!("-n {at} link set dev {device} gso_max_segs 1"),
            )?;
        }
        run(
            "ip",
            &format!("-n {node} route add default via 10.79.{n}.1"),
        )?;
        if lan {
            run(
                "ip",
                &format!("link add e0 netns {node} type veth peer name p{n} netns {switch}"),
            )?;
            run("ip", &format!("-n {switch} link set p{n} master br0 up"))?;
            run(
                "ip",
                &format!("-n {node} address add 10.80.0.{}/24 dev e0", 10 + n),
            )?;
            run("ip", &format!("-n {node} link set e0 up"))?;
        }
        Ok(())
    }

    fn roles(&self) -> Vec<String> {
        let nodes = (0..self.nodes).map(|n| format!("n{n}"));
        ["hq", "sw"]
            .map(str::to_owned)
            .into_iter()
            .chain(nodes)
            .collect()
    }

    fn namespace(&self, role: &str) -> String {
        format!("{}-{role}", self.prefix)
    }
}

impl Network for Lines {
    fn command(&self, role: &str, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.namespace(role)])
            .arg(program);
        command
    }

    fn counter(&self, role: &str, device: &str, counter_name: &str) -> Result<u64> {
        counter(&self.namespace(role), device, counter_name)
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        for role in self.roles() {
            let _ = run("ip", &format!("netns delete {}", self.namespace(&role)));
        }
    }
}

/// Nodes `n0`, `n1` and so on of a site, each knowing the others of its LAN.
fn start_nodes(site: &Site, count: usize, lan: bool) -> Result<Vec<Program>> {
    let address = |n: usize| -> Result<SocketAddr> {
        let text = match lan {
            true => format!("10.80.0.{}:4433", 10 + n),
            false => format!("10.79.{n}.2:4433"),
        };
        Ok(text.parse()?)
    };
    let mut nodes = Vec::new();
    for n in 0..count {
        let name = format!("n{n}");
        std::fs::create_dir_all(site.path(&name))?;
        let others = (0..count).filter(|o| *o != n && lan);
        let others: Vec<String> = others
            .map(|o| Ok(address(o)?.to_string()))
            .collect::<Result<_>>()?;
        std::fs::write(site.path(&name).join("peers"), others.join("\n"))?;
        nodes.push(site.start_node_at(&name, &name, Some(address(n)?))?.0);
    }
    Ok(nodes)
}

fn wait_until(what: &str, site: &Site, mut is: impl FnMut() -> Result<bool>) -> Result<()> {
    let started = Instant::now();
    while !is()? {
        ensure!(
            started.elapsed() < MINUTES,
            "{what} did not happen; HQ:\n{}",
            site.hq()?.log()
        );
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

fn is_complete(node: &Program) -> bool {
    node.log().contains("everything is here")
}

fn fetches(node: &Program) -> bool {
    node.log().contains("this node fetches for the site")
}

pub(super) fn wan_of_kind(site: &Site, kind: &str) -> Result<u64> {
    let lines = site.ask(&["ledger", "--json"])?;
    let lines = lines.as_array().context("ledger")?;
    let of = lines.iter().filter(|l| l["kind"] == kind);
    Ok(of.filter_map(|l| l["wan_bytes"].as_u64()).sum())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Killed,
    /// For so long.
    Paused(Duration),
}

/// The fetcher meets its fate at a share of the version; returns what came beyond the objects, and when another fetched.
fn lose_the_fetcher(name: &str, fate: Fate, percent: u64) -> Result<(u64, Duration)> {
    let site = Site::start_in(Some(Lines::new(name, 3, true)?), 128, "admit")?;
    // a store's line: the swarm keeps up with it
    site.command(&["site", "set", "store", "--wan", "00:00-00:00=80Mbit"])?;
    let mut nodes = start_nodes(&site, 3, true)?;
    wait_until("connecting", &site, || {
        Ok(nodes
            .iter()
            .all(|n| n.log().matches("connected").count() >= 2))
    })?;
    site.order(&[])?;
    wait_until("a share of the version", &site, || {
        Ok(site.wan_bytes()? >= site.object_bytes * percent / 100)
    })?;
    let at = nodes.iter().position(fetches).context("nobody fetches")?;
    let fetcher = nodes.remove(at);
    let since = Instant::now();
    let fetcher = match fate {
        Fate::Killed => {
            drop(fetcher);
            None
        }
        Fate::Paused(_) => {
            fetcher.signal(Signal::SIGSTOP)?;
            Some(fetcher)
        }
    };
    wait_until("another fetcher", &site, || Ok(nodes.iter().any(fetches)))?;
    let replaced = since.elapsed();
    wait_until("the rest", &site, || Ok(nodes.iter().all(is_complete)))?;
    if let (Some(fetcher), Fate::Paused(pause)) = (&fetcher, fate) {
        std::thread::sleep(pause.saturating_sub(since.elapsed()));
        fetcher.signal(Signal::SIGCONT)?;
        wait_until("the paused one's end", &site, || Ok(is_complete(fetcher)))?;
    }
    let wan = site.wan_bytes_at_rest()?;
    ensure!(wan >= site.object_bytes, "the ledger lacks bytes: {wan}");
    ensure!(wan_of_kind(&site, "island")? == 0, "an island on one LAN");
    let extra = wan - site.object_bytes;
    ensure!(
        replaced < Duration::from_secs(15),
        "replaced after {replaced:?}: {}",
        nodes.iter().map(Program::log).collect::<String>()
    );
    Ok((extra, replaced))
}

#[test]
fn a_fetcher_that_is_killed_at_half_costs_little() -> Result<()> {
    let (extra, replaced) = lose_the_fetcher("killed", Fate::Killed, 50)?;
    println!("replaced after {replaced:?}, {extra} bytes beyond the objects");
    ensure!(extra <= EXTRA_BYTES_MAX, "{extra} bytes more");
    Ok(())
}

#[test]
fn a_fetcher_that_is_paused_at_half_costs_little_and_stops_when_it_is_back() -> Result<()> {
    let (extra, replaced) = lose_the_fetcher("paused", Fate::Paused(Duration::from_secs(60)), 50)?;
    println!("replaced after {replaced:?}, {extra} bytes beyond the objects");
    ensure!(extra <= EXTRA_BYTES_MAX, "{extra} bytes more");
    Ok(())
}

#[test]
fn two_parts_that_cannot_talk_fetch_once_each_and_are_shown_apart() -> Result<()> {
    let site = Site::start_in(Some(Lines::new("islands", 2, false)?), 64, "admit")?;
    // longer than a node takes to find that it does not see the other
    site.command(&["site", "set", "store", "--wan", "00:00-00:00=40Mbit"])?;
    site.order(&[])?;
    let nodes = start_nodes(&site, 2, false)?;
    wait_until("both", &site, || Ok(nodes.iter().all(is_complete)))?;
    site.wan_bytes_at_rest()?;
    for kind in ["main", "island"] {
        let share = wan_of_kind(&site, kind)? as f64 / site.object_bytes as f64;
        ensure!((1.0..=1.02).contains(&share), "{kind}: {share:.3}");
    }
    let text = site.command(&["ledger"])?;
    ensure!(
        text.contains(" main ") && text.contains(" island "),
        "{text}"
    );
    Ok(())
}

/// What came over the WAN link, as it was looked at.
struct Watch {
    seen: Vec<(Instant, u64)>,
}

impl Watch {
    fn look(&mut self, site: &Site) -> Result<u64> {
        let bytes = site.network()?.counter("n0", "wan", "rx_bytes")?;
        self.seen.push((Instant::now(), bytes));
        Ok(bytes)
    }

    fn for_a_while(&mut self, site: &Site, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.look(site)?;
            std::thread::sleep(LOOK_EVERY / 2);
        }
        Ok(())
    }

    /// The highest rate of any window, in bytes per second.
    fn highest(&self, window: Duration) -> f64 {
        let rates = self.seen.iter().filter_map(|(begin, before)| {
            let (end, after) = self.seen.iter().find(|(t, _)| *t >= *begin + window)?;
            Some((after - before) as f64 / (*end - *begin).as_secs_f64())
        });
        rates.fold(0.0, f64::max)
    }
}

/// Seconds until the link's rate is on the other side of a twentieth of the budget, looked at over half a second.
fn until_rate(site: &Site, budget: f64, flows: bool) -> Result<Duration> {
    let begun = Instant::now();
    loop {
        let mut watch = Watch { seen: vec![] };
        let before = begun.elapsed();
        watch.for_a_while(site, Duration::from_millis(500))?;
        let (first, last) = (watch.seen.first(), watch.seen.last());
        let (first, last) = (first.context("a look")?, last.context("a look")?);
        let rate = (last.1 - first.1) as f64 / (last.0 - first.0).as_secs_f64();
        if (rate > budget / 20.0) == flows {
            return Ok(before);
        }
        ensure!(
            begun.elapsed() < MINUTES,
            "{rate} bytes per second, flows: {flows}"
        );
    }
}

#[test]
fn a_budget_is_kept_and_pause_and_resume_take_effect_in_two_seconds() -> Result<()> {
    const BUDGET: f64 = 1_000_000.0;
    let site = Site::start_in(Some(Lines::new("budget", 1, false)?), 96, "admit")?;
    site.command(&[
        "site",
        "set",
        "store",
        "--wan",
        "00:00-00:00=8Mbit",
        "--utc-offset",
        "+01:00",
    ])?;
    site.order(&[])?;
    let mut watch = Watch { seen: vec![] };
    let before = watch.look(&site)?;
    let nodes = start_nodes(&site, 1, false)?;
    wait_until("bytes", &site, || {
        Ok(watch.look(&site)? > before + (1 << 20))
    })?;
    watch.for_a_while(&site, Duration::from_secs(12))?;
    let most = watch.highest(Duration::from_secs(10)) / BUDGET;
    let last = watch.seen.len() - 1;
    let used = (watch.seen[last].1 - before) as f64;
    println!("{most:.3} of the budget in the fullest 10 s; {used} bytes");
    ensure!(
        (0.9..=1.05).contains(&most),
        "{most:.3} of the budget: {}",
        nodes[0].log()
    );

    let paused: Value = site.ask(&["site", "wan", "store", "--pause", "--json"])?;
    ensure!(paused["paused"] == true);
    let took = until_rate(&site, BUDGET, false)?;
    println!("paused after {took:?}");
    ensure!(took <= Duration::from_secs(2), "paused after {took:?}");
    // longer than a lease holds: it waits, and nobody takes it for dead
    std::thread::sleep(Duration::from_secs(13));
    let still = until_rate(&site, BUDGET, false)?;
    ensure!(
        still < LOOK_EVERY && !is_complete(&nodes[0]),
        "it did not wait"
    );
    site.ask(&["site", "wan", "store", "--resume", "--json"])?;
    let took = until_rate(&site, BUDGET, true)?;
    println!("resumed after {took:?}");
    ensure!(took <= Duration::from_secs(2), "resumed after {took:?}");

    // one version alone, and then as fast as it goes
    site.ask(&[
        "site",
        "wan",
        "store",
        "--version",
        "till",
        "--pause",
        "--json",
    ])?;
    ensure!(until_rate(&site, BUDGET, false)? <= Duration::from_secs(2));
    site.command(&["site", "set", "store", "--wan", "00:00-00:00=unlimited"])?;
    site.ask(&[
        "site",
        "wan",
        "store",
        "--version",
        "till",
        "--resume",
        "--json",
    ])?;
    wait_until("the rest", &site, || Ok(is_complete(&nodes[0])))?;
    // pauses cut transfers, which go on where they were: what was under way is all that comes twice
    let wan = site.wan_bytes_at_rest()? as f64 / site.object_bytes as f64;
    ensure!((1.0..=1.02).contains(&wan), "WAN {wan:.3}");
    Ok(())
}
