//! One node of a store tells HQ that all of them are there. Real programs on loopback.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};

use super::{Program, Site};

const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A node that is there was heard of within this time: it is written each minute of one that another names.
const HEARD_WITHIN_SECONDS: u64 = 80;
/// Longer than a node rests that nobody reports.
const WATCHED_FOR: Duration = Duration::from_secs(40);
const RESTS: &str = "a neighbour tells HQ that this node is there";
const SPEAKS: &str = "this node tells HQ itself that it is there";

struct Store {
    site: Site,
    /// By their keys, the lowest first.
    nodes: Vec<(String, Program)>,
}

impl Store {
    fn open() -> Result<Self> {
        let site = Site::start(4, "admit")?;
        let nodes = Vec::new();
        let mut store = Self { site, nodes };
        for (before, name) in ["a", "b", "c"].into_iter().enumerate() {
            let (node, _) = store.site.start_node(name, None)?;
            store.nodes.push((name.to_owned(), node));
            // HQ tells the next one where it is
            store.until("a node calls", |s| Ok(s.ages()?.len() > before))?;
        }
        let by_key = store.keys()?;
        store
            .nodes
            .sort_by_key(|(name, _)| by_key.iter().position(|n| n == name));
        Ok(store)
    }

    fn until(&self, what: &str, is: impl Fn(&Self) -> Result<bool>) -> Result<()> {
        let started = Instant::now();
        while !is(self)? {
            let logs: Vec<String> = self.nodes.iter().map(|(_, node)| node.log()).collect();
            ensure!(started.elapsed() < PATIENCE, "{what}:\n{}", logs.join("\n"));
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// Names of nodes, the lowest key first. A node is called as its computer, so its folder says which it is.
    fn keys(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for (name, _) in &self.nodes {
            let certificate = std::fs::read(self.site.path(name).join("certificate"))?;
            for listed in self.listed()? {
                let key = listed["key"].as_str().context("key")?.to_owned();
                let bytes = hex(&key)?;
                if certificate.windows(32).any(|part| part == bytes) {
                    found.push((key, name.clone()));
                }
            }
        }
        found.sort();
        Ok(found.into_iter().map(|(_, name)| name).collect())
    }

    fn listed(&self) -> Result<Vec<serde_json::Value>> {
        let nodes = self.site.ask(&["nodes", "--json"])?;
        Ok(nodes.as_array().context("nodes")?.clone())
    }

    /// For how many seconds HQ has not heard of each node that it has ever heard of.
    fn ages(&self) -> Result<Vec<u64>> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let nodes = self.listed()?;
        let seen = nodes.iter().filter_map(|n| n["seen_unix_seconds"].as_u64());
        Ok(seen
            .filter(|s| *s > 0)
            .map(|s| now.saturating_sub(s))
            .collect())
    }

    fn count(&self, words: &str) -> Vec<usize> {
        let logs = self.nodes.iter().map(|(_, node)| node.log());
        logs.map(|log| log.matches(words).count()).collect()
    }
}

fn hex(text: &str) -> Result<Vec<u8>> {
    let digit = |at| {
        Ok(u8::from_str_radix(
            text.get(at..at + 2).context("odd")?,
            16,
        )?)
    };
    (0..text.len()).step_by(2).map(digit).collect()
}

#[test]
fn one_node_reports_for_its_neighbours_and_the_next_one_when_it_is_gone() -> Result<()> {
    let mut store = Store::open()?;
    store.until("the second and third rest", |s| {
        Ok(s.count(RESTS)[1..].iter().all(|n| *n > 0))
    })?;
    let (rested, spoke) = (store.count(RESTS), store.count(SPEAKS));
    ensure!(rested[0] == 0, "the first waits for nobody");
    let started = Instant::now();
    while started.elapsed() < WATCHED_FOR {
        let ages = store.ages()?;
        let all = ages.len() == 3 && ages.iter().all(|a| *a < HEARD_WITHIN_SECONDS);
        ensure!(all, "HQ heard of them {ages:?} s ago");
        std::thread::sleep(LOOK_EVERY);
    }
    ensure!(
        (&rested, &spoke) == (&store.count(RESTS), &store.count(SPEAKS)),
        "they did not rest"
    );

    // what is new at HQ reaches those that rest through the one that speaks
    store.site.order(&[])?;
    let complete = |s: &Store| s.count("a version is complete") == [1, 1, 1];
    store.until("all have the version", |s| Ok(complete(s)))?;

    // it is gone without a word
    let (_, first) = store.nodes.remove(0);
    drop(first);
    store.until("the second speaks", |s| Ok(s.count(SPEAKS)[0] > spoke[1]))?;
    let (rested, spoke) = (store.count(RESTS), store.count(SPEAKS));
    std::thread::sleep(WATCHED_FOR);
    ensure!(
        (&rested, &spoke) == (&store.count(RESTS), &store.count(SPEAKS)),
        "the third did not go on resting"
    );
    let mut ages = store.ages()?;
    ages.sort_unstable();
    let both = ages[..2].iter().all(|a| *a < HEARD_WITHIN_SECONDS);
    ensure!(both, "HQ heard of them {ages:?} s ago");
    Ok(())
}
