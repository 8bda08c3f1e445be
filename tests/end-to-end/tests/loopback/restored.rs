//! HQ's computer is lost, and a day-old backup is all there is. Real programs on loopback.

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use end_to_end::program;

use super::{Program, Site, make_image};

const MINUTES: Duration = Duration::from_secs(400);
const LOOK_EVERY: Duration = Duration::from_millis(50);
const IMAGE_MIB: u64 = 8;

fn keep(words: &[&str], paths: [(&str, &Path); 2]) -> Result<()> {
    let mut command = Command::new(program()?);
    command.arg("hq").args(words);
    for (option, path) in paths {
        command.arg(option).arg(path);
    }
    let out = command.output()?;
    let said = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success(), "{words:?}: {said}");
    Ok(())
}

/// Imports an image of its own, and orders it. Returns its version.
fn publish(site: &Site, name: &str, seed: u64) -> Result<String> {
    let file = site.path(&format!("{name}.image"));
    make_image(&file, IMAGE_MIB, seed)?;
    let file = file.display().to_string();
    let imported = site.ask(&["image", "import", &file, "--name", name, "--json"])?;
    let version = imported["version"].as_str().context("version")?.to_owned();
    site.ask(&[
        "order",
        "add",
        "--site",
        "store",
        "--version",
        &version,
        "--json",
    ])?;
    Ok(version)
}

fn wait_until_complete(node: &Program, versions: usize) -> Result<()> {
    let started = std::time::Instant::now();
    while node.log().matches("a version is complete").count() < versions {
        ensure!(started.elapsed() < MINUTES, "{versions}: {}", node.log());
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

#[test]
fn a_store_follows_an_hq_that_was_restored_from_a_backup() -> Result<()> {
    let mut site = Site::start(IMAGE_MIB, "admit")?;
    site.order(&[])?;
    let (node, address) = site.start_node("node", None)?;
    wait_until_complete(&node, 1)?;
    let (hq, saved) = (site.path("hq"), site.path("saved"));
    keep(&["backup"], [("--dir", &hq), ("--to", &saved)])?;

    // what is done after it is lost with the computer, and the store has it
    publish(&site, "lost", 77)?;
    wait_until_complete(&node, 2)?;
    let orders = site.ask(&["order", "list", "--json"])?;
    let lost = orders[0]["number"].as_u64().context("number")?;
    site.kill_hq();
    std::fs::rename(&hq, site.path("broken"))?;

    keep(&["restore"], [("--from", &saved), ("--dir", &hq)])?;
    site.start_hq()?;
    publish(&site, "new", 78)?;
    let orders = site.ask(&["order", "list", "--json"])?;
    ensure!(orders[0]["number"].as_u64() > Some(lost), "{orders}");
    wait_until_complete(&node, 3)?;
    ensure!(
        !node.log().contains("is refused"),
        "the node refuses what HQ says:\n{}",
        node.log()
    );
    let mut agent = site.start_agent("a", address, &[])?;
    ensure!(agent.wait(MINUTES)?, "{}", agent.log());
    let (disk, image) = (site.path("a.raw"), site.path("new.image"));
    ensure!(
        std::fs::read(disk)? == std::fs::read(image)?,
        "the machine has another image:\n{}",
        agent.log()
    );
    Ok(())
}
