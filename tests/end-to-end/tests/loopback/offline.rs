//! A store whose line is down: it goes on by what it knows, and HQ hears of it later. Real programs on loopback.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Program, Site};

const MINUTES: Duration = Duration::from_secs(400);
const LOOK_EVERY: Duration = Duration::from_millis(100);
const MACHINES: [&str; 3] = ["a", "b", "c"];
/// The node looks at its settings every ten seconds.
const NOTICED_WITHIN: Duration = Duration::from_secs(15);

fn until(what: &str, program: &Program, mut is: impl FnMut() -> Result<bool>) -> Result<()> {
    let started = Instant::now();
    while !is()? {
        ensure!(started.elapsed() < MINUTES, "{what}:\n{}", program.log());
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

/// Something to report whose place among the reports is known.
fn misspell(site: &Site, word: &str, node: &Program) -> Result<()> {
    std::fs::write(site.path("node").join("node.toml"), format!("{word} = 1"))?;
    let started = Instant::now();
    while !node.log().contains(word) {
        ensure!(started.elapsed() < NOTICED_WITHIN, "{}", node.log());
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

/// What HQ has written down of troubles, oldest first.
fn troubles(site: &Site) -> Result<Vec<String>> {
    let token = std::fs::read_to_string(site.path("hq").join("admin-token"))?;
    let token = token.lines().next().context("a token")?;
    let out = Command::new("curl")
        .args([
            "--silent",
            "--show-error",
            "--fail",
            "--insecure",
            "--header",
        ])
        .arg(format!("authorization: Bearer {token}"))
        .arg(format!(
            "https://{}/api/v1/events?kind=trouble",
            site.hq_address
        ))
        .output()
        .context("curl")?;
    ensure!(
        out.status.success(),
        "curl: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    let page: Value = serde_json::from_slice(&out.stdout)?;
    let troubles = page["rows"].as_array().context("rows")?.iter().rev();
    let message = |event: &Value| event["message"].as_str().unwrap_or_default().to_owned();
    Ok(troubles.map(message).collect())
}

fn is_done(machine: &Value) -> bool {
    machine["install"]["state"] == "done" && machine["completed"] == serde_json::json!([1])
}

#[test]
fn what_happens_without_hq_is_told_later_in_order_and_once() -> Result<()> {
    let mut site = Site::start(24, "admit")?;
    site.order(&[])?;
    let (node, address) = site.start_node("node", None)?;
    until("the version is here", &node, || {
        Ok(node.log().contains("a version is complete"))
    })?;
    site.kill_hq();
    for name in &MACHINES[..2] {
        let mut machine = site.start_agent(name, address, &[])?;
        ensure!(machine.wait(MINUTES)?, "{}", machine.log());
    }
    misspell(&site, "first_word", &node)?;
    // what was not told yet is on the disk
    drop(node);
    std::fs::remove_file(site.path("node").join("node.toml"))?;
    let (node, _) = site.start_node("node", Some(address))?;
    let mut machine = site.start_agent(MACHINES[2], address, &[])?;
    ensure!(machine.wait(MINUTES)?, "{}", machine.log());
    misspell(&site, "second_word", &node)?;
    for name in MACHINES {
        ensure!(site.is_the_image(&site.path(&format!("{name}.raw")))?);
    }
    // HQ is back, and gone again while it is told
    for _ in 0..5 {
        site.start_hq()?;
        std::thread::sleep(Duration::from_millis(200));
        site.kill_hq();
    }
    site.start_hq()?;
    until("HQ knows of all machines", &node, || {
        let machines = site.ask(&["machine", "list", "--json"])?;
        let machines = machines.as_array().context("machines")?;
        Ok(machines.len() == MACHINES.len() && machines.iter().all(is_done))
    })?;
    until("HQ knows of the last trouble", &node, || {
        Ok(troubles(&site)?.len() >= 2)
    })?;
    // one more round of reports
    std::thread::sleep(Duration::from_secs(2));
    let troubles = troubles(&site)?;
    ensure!(
        troubles.len() == 2
            && troubles[0].contains("first_word")
            && troubles[1].contains("second_word"),
        "{troubles:?}"
    );
    Ok(())
}
