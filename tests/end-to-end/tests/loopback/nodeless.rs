//! A store whose last node dies in the middle of an install: its agents go to HQ themselves, one of them for all. Real
//! programs on loopback.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use super::{Program, Site, wan::wan_of_kind};

const MINUTES: Duration = Duration::from_secs(400);
const LOOK_EVERY: Duration = Duration::from_millis(100);
const IMAGE_MIB: u64 = 192;
/// A store's line: the swarm keeps up with it, and a fetch of everything takes longer than the deadline.
const LINE: &str = "00:00-00:00=32Mbit";
/// Of the version, when the node dies.
const KILLED_AT_PERCENT: u64 = 30;
const AGENTS: [&str; 2] = ["a", "b"];
/// What an agent says when HQ has given it the lease.
const FETCHES: &str = "no node within 20 s: fetches from HQ itself";
const STOPS: &str = "is here: it fetches";
/// Shorter than the agents' deadline, with all that a node needs to start and to be found.
const AWAY: Duration = Duration::from_secs(4);
/// The whole version and 5 %: what was on its way to the node comes twice.
const WAN_SHARE_MAX: f64 = 1.05;

struct Store {
    site: Site,
    node: Option<Program>,
    address: SocketAddr,
    agents: Vec<Program>,
}

/// Two agents in the middle of an install, and the node that fetches for them killed.
fn in_the_middle() -> Result<Store> {
    let site = Site::start(IMAGE_MIB, "admit")?;
    site.command(&["site", "set", "store", "--wan", LINE])?;
    site.order(&[])?;
    let (node, address) = site.start_node("node", None)?;
    let agents = AGENTS.map(|name| site.start_agent(name, address, &["--stay"]));
    let agents = agents.into_iter().collect::<Result<Vec<_>>>()?;
    let mut store = Store {
        site,
        node: Some(node),
        address,
        agents,
    };
    store.wait_until("a share of the version", |store| {
        let site = &store.site;
        Ok(site.wan_bytes()? >= site.object_bytes * KILLED_AT_PERCENT / 100)
    })?;
    store.node = None;
    for agent in &store.agents {
        ensure!(agent.log().contains("admitted by"), "{}", agent.log());
    }
    Ok(store)
}

impl Store {
    fn wait_until(&self, what: &str, mut is: impl FnMut(&Self) -> Result<bool>) -> Result<()> {
        let started = Instant::now();
        while !is(self)? {
            ensure!(
                started.elapsed() < MINUTES,
                "{what} did not happen:\n{}{}",
                self.logs(),
                self.site.hq()?.log()
            );
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    fn logs(&self) -> String {
        self.agents.iter().map(Program::log).collect()
    }

    /// How many agents said something.
    fn said(&self, words: &str) -> usize {
        let said = |agent: &&Program| agent.log().contains(words);
        self.agents.iter().filter(said).count()
    }

    /// Of the version, by HQ's ledger. What was on its way to the node when it died counts as fetched.
    fn missing_bytes(&self) -> Result<f64> {
        Ok(self.site.object_bytes as f64 - self.site.wan_bytes_at_rest()? as f64)
    }

    fn check_disks(&self) -> Result<()> {
        for name in AGENTS {
            let outcome = self.site.wait_for_outcome(name)?;
            ensure!(outcome["verified"] == true, "{outcome}");
            let disk = self.site.path(&format!("{name}.raw"));
            ensure!(self.site.is_the_image(&disk)?, "{name} differs");
        }
        Ok(())
    }

    /// Both disks are the image, and the version came over the WAN once.
    fn check(&self) -> Result<()> {
        self.check_disks()?;
        let share = self.site.wan_bytes_at_rest()? as f64 / self.site.object_bytes as f64;
        ensure!(
            (1.0..=WAN_SHARE_MAX).contains(&share),
            "WAN {share:.3}\n{}",
            self.logs()
        );
        ensure!(wan_of_kind(&self.site, "island")? == 0, "an island");
        Ok(())
    }
}

#[test]
fn agents_whose_last_node_dies_finish_from_hq_and_one_of_them_fetches() -> Result<()> {
    let store = in_the_middle()?;
    let died = Instant::now();
    let missing = store.missing_bytes()?;
    store.wait_until("an agent's fetch", |store| Ok(store.said(FETCHES) > 0))?;
    println!(
        "an agent fetches {:?} after the node's death",
        died.elapsed()
    );
    ensure!(
        died.elapsed() > Duration::from_secs(15),
        "too soon:\n{}",
        store.logs()
    );
    store.check()?;
    ensure!(store.said(FETCHES) == 1, "{}", store.logs());
    ensure!(store.said(STOPS) == 0, "{}", store.logs());
    let fetched = missing - store.missing_bytes()?;
    let share = fetched / missing;
    println!("the agent fetched {share:.3} of what was missing");
    ensure!(share <= WAN_SHARE_MAX, "{}", store.logs());
    Ok(())
}

/// The node had everything and was all that HQ heard of the site.
#[test]
fn agents_whose_node_had_everything_fetch_what_it_did_not_give() -> Result<()> {
    let site = Site::start(IMAGE_MIB, "admit")?;
    site.order(&[])?;
    let (node, address) = site.start_node("node", None)?;
    let mut store = Store {
        site,
        node: Some(node),
        address,
        agents: vec![],
    };
    store.wait_until("the version", |store| {
        let log = store.node.as_ref().map_or_else(String::new, Program::log);
        Ok(log.contains("a version is complete"))
    })?;
    let before = store.site.wan_bytes_at_rest()?;
    for name in AGENTS {
        let agent = store.site.start_agent(name, address, &["--stay"])?;
        store.agents.push(agent);
    }
    store.site.wait_for_written(&store.agents[0], 20)?;
    store.node = None;
    store.check_disks()?;
    let fetched = store.site.wan_bytes_at_rest()? - before;
    println!("{fetched} of {} bytes again", store.site.object_bytes);
    ensure!(store.said(FETCHES) == 1, "{}", store.logs());
    ensure!(fetched > 0 && fetched < store.site.object_bytes);
    ensure!(wan_of_kind(&store.site, "island")? == 0, "an island");
    Ok(())
}

#[test]
fn an_agent_whose_node_comes_back_in_time_does_not_fetch() -> Result<()> {
    let mut store = in_the_middle()?;
    std::thread::sleep(AWAY);
    let (node, _) = store.site.start_node("node", Some(store.address))?;
    store.node = Some(node);
    store.check()?;
    ensure!(store.said(FETCHES) == 0, "{}", store.logs());
    Ok(())
}

#[test]
fn an_agent_that_fetches_stops_when_a_node_is_back() -> Result<()> {
    let mut store = in_the_middle()?;
    store.wait_until("an agent's fetch", |store| Ok(store.said(FETCHES) > 0))?;
    let (node, _) = store.site.start_node("node", Some(store.address))?;
    store.node = Some(node);
    store.wait_until("the agents' word", |store| {
        Ok(store.said(STOPS) == AGENTS.len())
    })?;
    let node_fetches = |store: &Store| {
        let log = store.node.as_ref().map_or_else(String::new, Program::log);
        Ok(log.matches("this node fetches for the site").count() == 2)
    };
    store.wait_until("the node's fetch", node_fetches)?;
    store.check()?;
    ensure!(store.said(FETCHES) == 1, "{}", store.logs());
    Ok(())
}
