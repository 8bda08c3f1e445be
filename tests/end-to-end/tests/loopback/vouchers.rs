//! A technician's laptop with a voucher, in a store that HQ knows and cannot be reached from. Real programs on loopback.

use std::{
    fs::Permissions,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{Program, Site, free_port};

const MINUTES: Duration = Duration::from_secs(400);
const LOOK_EVERY: Duration = Duration::from_millis(100);
const MACHINES: u64 = 2;

fn until(what: &str, program: &Program, mut is: impl FnMut() -> Result<bool>) -> Result<()> {
    let started = Instant::now();
    while !is()? {
        ensure!(started.elapsed() < MINUTES, "{what}:\n{}", program.log());
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

struct Lent {
    site: Site,
    file: String,
    pin: String,
    pin_file: PathBuf,
}

impl Lent {
    fn new() -> Result<Self> {
        let site = Site::start(24, "wait")?;
        site.order(&[])?;
        let file = site.path("voucher").display().to_string();
        let machines = MACHINES.to_string();
        let words = ["voucher", "new", "--site", "store", "--json"];
        let more = ["--machines", &machines, "--name", "van 3", "--out", &file];
        let made = site.ask(&[&words[..], &more].concat())?;
        let pin = made["pin"].as_str().context("a PIN")?.to_owned();
        let pin_file = site.path("pin");
        std::fs::write(&pin_file, &pin)?;
        std::fs::set_permissions(&pin_file, Permissions::from_mode(0o600))?;
        Ok(Self {
            site,
            file,
            pin,
            pin_file,
        })
    }

    fn start_laptop(&self, pin_file: &std::path::Path) -> Result<(Program, std::net::SocketAddr)> {
        let address = free_port()?;
        let mut command = self.site.at("laptop", &end_to_end::program()?);
        let (listen, bytes) = (address.to_string(), self.site.slab_bytes.to_string());
        command
            .args(["node", "--boot", "off", "--no-beacons", "--listen", &listen])
            .args(["--slab-bytes", &bytes, "--voucher", &self.file, "--dir"])
            .arg(self.site.path("laptop"))
            .arg("--voucher-pin-file")
            .arg(pin_file);
        let log = self.site.path("laptop.log");
        Ok((Program::start(&mut command, &log)?, address))
    }

    fn listed(&self) -> Result<Value> {
        let all = self.site.ask(&["voucher", "list", "--json"])?;
        Ok(all[0].clone())
    }
}

/// Filled where HQ is in reach, the laptop images its two machines where it is not, and no third one, before and after it was switched
/// off; HQ hears of it later. Nothing that it wrote down tells the PIN.
#[test]
fn a_laptop_with_a_voucher_images_its_machines_without_hq() -> Result<()> {
    let mut lent = Lent::new()?;
    let wrong = lent.site.path("wrong-pin");
    std::fs::write(&wrong, "0000000000")?;
    let (mut refused, _) = lent.start_laptop(&wrong)?;
    ensure!(!refused.wait(MINUTES)?, "a wrong PIN opens it");
    ensure!(refused.log().contains("4 more tries"), "{}", refused.log());
    drop(refused);

    let (laptop, _) = lent.start_laptop(&lent.pin_file)?;
    until("the version is here", &laptop, || {
        Ok(laptop.log().contains("a version is complete"))
    })?;
    lent.site.kill_hq();
    drop(laptop);
    let (mut laptop, mut address) = lent.start_laptop(&lent.pin_file)?;
    let pin_file = lent.pin_file.display().to_string();
    let with_pin = ["--pin-file", &pin_file, "--no-wait"];
    let mut without = lent.site.start_agent("nobody", address, &["--no-wait"])?;
    ensure!(!without.wait(MINUTES)?, "it asks for no PIN");
    ensure!(without.log().contains("voucher's PIN"), "{}", without.log());
    for name in ["m1", "m2"] {
        let mut machine = lent.site.start_agent(name, address, &with_pin)?;
        ensure!(machine.wait(MINUTES)?, "{}", machine.log());
        ensure!(
            lent.site
                .is_the_image(&lent.site.path(&format!("{name}.raw")))?
        );
    }
    for _ in 0..2 {
        let mut third = lent.site.start_agent("m3", address, &with_pin)?;
        ensure!(!third.wait(MINUTES)?, "a third machine is admitted");
        let said = third.log();
        ensure!(said.contains("as many machines as it may"), "{said}");
        ensure!(!lent.site.path("m3.raw").exists(), "it was written to");
        drop(laptop);
        (laptop, address) = lent.start_laptop(&lent.pin_file)?;
    }

    lent.site.start_hq()?;
    until("HQ knows of both machines", &laptop, || {
        Ok(lent.listed()?["used"] == json!(MACHINES))
    })?;
    let listed = lent.listed()?;
    ensure!(
        listed["beyond"] == 0 && listed["seen_unix_seconds"] != 0,
        "{listed}"
    );
    let machines = lent.site.ask(&["machine", "list", "--json"])?;
    let machines = machines.as_array().context("machines")?;
    let done = machines.iter().filter(|m| m["completed"] == json!([1]));
    ensure!(done.count() == 2, "{machines:?}");
    // revoked at HQ, it ends
    let key = listed["key"].as_str().context("a key")?.to_owned();
    lent.site.command(&["nodes", "--revoke", &key])?;
    until("it hears of its end", &laptop, || {
        Ok(laptop.log().contains("revoked"))
    })?;
    for log in ["laptop.log", "hq.log", "m1.log", "m3.log"] {
        let text = std::fs::read_to_string(lent.site.path(log))?;
        ensure!(!text.contains(&lent.pin), "{log} tells the PIN");
    }
    Ok(())
}

/// A folder has one owner, and a voucher's file is written once.
#[test]
fn a_voucher_takes_nobodys_folder() -> Result<()> {
    let lent = Lent::new()?;
    let again = [
        "voucher",
        "new",
        "--site",
        "store",
        "--machines",
        "1",
        "--out",
    ];
    let (ok, said) = lent
        .site
        .try_command(&[&again[..], &[&lent.file]].concat())?;
    ensure!(!ok && said.contains("File exists"), "{said}");
    ensure!(
        lent.listed()?["machines"] == json!(MACHINES),
        "HQ made one all the same"
    );
    let (node, _) = lent.site.start_node("laptop", None)?;
    until("it is enrolled", &node, || {
        Ok(lent.site.path("laptop").join("certificate").exists())
    })?;
    drop(node);
    let (mut refused, _) = lent.start_laptop(&lent.pin_file)?;
    ensure!(!refused.wait(MINUTES)?, "it takes a node's folder");
    let said = refused.log();
    ensure!(said.contains("folder of an enrolled node"), "{said}");
    Ok(())
}
