//! A store whose nodes have less room than the image needs: real programs on loopback.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{Program, Site, free_port};

const MINUTES: Duration = Duration::from_secs(400);
const LOOK_EVERY: Duration = Duration::from_millis(200);
const NODES: usize = 5;
const COPIES: u64 = 3;
const SLAB_PERCENT: u64 = 66;

/// Chunks that a node said last it keeps and has, and chunks of the image.
fn share(node: &Program) -> Option<(u64, u64)> {
    let log = node.log();
    let line = log
        .lines()
        .rfind(|l| l.contains("this node's share of a version is here"))?;
    let number = |name: &str| {
        let rest = &line[line.find(name)? + name.len()..];
        rest.split(' ').next()?.parse().ok()
    };
    Some((number(" chunks=")?, number(" of=")?))
}

#[test]
fn two_of_five_small_nodes_and_hq_vanish_and_a_machine_is_imaged() -> Result<()> {
    let mut site = Site::start(96, "admit")?;
    site.slab_bytes = site.object_bytes * SLAB_PERCENT / 100;
    site.order(&[])?;
    let addresses = (0..NODES)
        .map(|_| free_port())
        .collect::<Result<Vec<_>>>()?;
    let mut nodes = Vec::new();
    for (n, address) in addresses.iter().enumerate() {
        let name = format!("n{n}");
        std::fs::create_dir_all(site.path(&name))?;
        let others = addresses.iter().filter(|other| *other != address);
        let others: Vec<String> = others.map(ToString::to_string).collect();
        std::fs::write(site.path(&name).join("peers"), others.join("\n"))?;
        nodes.push(site.start_node(&name, Some(*address))?.0);
    }
    let started = Instant::now();
    loop {
        let shares: Vec<(u64, u64)> = nodes.iter().filter_map(share).collect();
        let kept: u64 = shares.iter().map(|(kept, _)| kept).sum();
        if shares.len() == NODES && kept == COPIES * shares[0].1 {
            break;
        }
        ensure!(
            started.elapsed() < MINUTES,
            "not spread: {shares:?}\n{}",
            nodes[0].log()
        );
        std::thread::sleep(LOOK_EVERY);
    }
    let wan = site.wan_bytes_at_rest()? as f64 / site.object_bytes as f64;
    ensure!((1.0..=1.02).contains(&wan), "{wan:.3} times over the WAN");
    site.kill_hq();
    nodes.drain(..2);
    let address = addresses.get(2).context("a node is left")?;
    let mut agent = site.start_agent("a", *address, &[])?;
    ensure!(agent.wait(MINUTES)?, "{}", agent.log());
    ensure!(site.is_the_image(&site.path("a.raw"))?);
    Ok(())
}
