//! A node with another name, and one that is built anew. Real programs on loopback.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Program, Site};

const PATIENCE: Duration = Duration::from_secs(240);
const LOOK_EVERY: Duration = Duration::from_millis(50);

fn until(what: &str, program: &Program, mut is: impl FnMut() -> Result<bool>) -> Result<()> {
    let started = Instant::now();
    while !is()? {
        ensure!(started.elapsed() < PATIENCE, "{what}:\n{}", program.log());
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

/// Whether the certificate in a node's folder has a name in it.
fn is_called(site: &Site, node: &str, name: &str) -> bool {
    let certificate = std::fs::read(site.path(node).join("certificate")).unwrap_or_default();
    let name = name.as_bytes();
    certificate.windows(name.len()).any(|part| part == name)
}

fn nodes(site: &Site) -> Result<Vec<Value>> {
    let nodes = site.ask(&["nodes", "--json"])?;
    Ok(nodes.as_array().context("nodes")?.clone())
}

#[test]
fn a_node_takes_its_new_name_and_who_is_built_anew_has_its_place() -> Result<()> {
    let site = Site::start(4, "admit")?;
    let (node, _) = site.start_node("old", None)?;
    until("the node calls", &node, || {
        let nodes = nodes(&site)?;
        Ok(nodes.len() == 1 && nodes[0]["seen_unix_seconds"] != 0)
    })?;
    let key = nodes(&site)?[0]["key"].as_str().context("key")?.to_owned();
    let said = site.command(&["nodes", "--rename", &key[..8], "Kasse 3"])?;
    ensure!(said.contains("Kasse 3"), "{said}");
    until("the node takes its name", &node, || {
        let says_so = node.log().contains("signed this node's certificate anew");
        Ok(says_so && is_called(&site, "old", "Kasse 3"))
    })?;

    // its disk is lost
    drop(node);
    let replaces = ["--replaces", &key[..8]];
    let (new, _) = site.start_node_by(&replaces, "node", "new", None)?;
    until("the new node enrols", &new, || {
        Ok(is_called(&site, "new", "Kasse 3"))
    })?;
    let tokens = site.command(&["site", "tokens", "store"])?;
    ensure!(
        tokens.contains(&format!("used, replaces {key}")),
        "{tokens}"
    );
    let listed = site.command(&["nodes"])?;
    ensure!(
        listed.lines().count() == 2
            && !listed.contains(&key)
            && listed.contains("1 replaced, not shown"),
        "{listed}"
    );
    let all = site.command(&["nodes", "--all"])?;
    ensure!(all.contains(&key) && all.contains("revoked, by "), "{all}");
    // one that nobody used is taken back, and no other site's
    site.command(&["site", "token", "store"])?;
    let tokens = site.ask(&["site", "tokens", "store", "--json"])?;
    let number = tokens[0]["id"].to_string();
    site.command(&["site", "add", "other"])?;
    let (ok, said) = site.try_command(&["site", "tokens", "other", "--revoke", &number])?;
    ensure!(!ok && said.contains("has no token"), "{said}");
    let said = site.command(&["site", "tokens", "store", "--revoke", &number])?;
    ensure!(said.contains(&format!("{number} revoked")), "{said}");
    Ok(())
}
