//! A store in network namespaces: HQ behind a WAN link, a node, and machines behind links of a set rate.
//!
//! ```text
//!  hq 10.79.0.1 ---- wan 10.79.0.2  node 10.80.0.1 ---+
//!                                   m0   10.80.0.10 --+-- br0 in sw
//!                                   m1   10.80.0.11 --+
//! ```

use std::{path::Path, process::Command};

use anyhow::{Context, Result, ensure};

use super::Network;

/// Where HQ is.
pub const HQ: &str = "10.79.0.1";
/// Where the node is, in the store.
pub const NODE: &str = "10.80.0.1";

/// Namespaces that go with this value.
pub struct Shaped {
    /// Begins like those of a lab, which takes away what a killed run left behind.
    prefix: String,
    machines: usize,
}

impl Shaped {
    /// `machines` machines and a node, each with `mbit` Mbit/s to the store's switch and from it.
    pub fn new(machines: usize, mbit: u32) -> Result<Self> {
        let shaped = Self {
            prefix: format!("lampvm-{}-shaped", std::process::id()),
            machines,
        };
        for role in shaped.roles() {
            let name = shaped.namespace(&role);
            run("ip", &format!("netns add {name}"))?;
            run("ip", &format!("-n {name} link set lo up"))?;
        }
        shaped.wire_the_wan()?;
        shaped.wire_the_store(mbit)?;
        Ok(shaped)
    }

    fn roles(&self) -> Vec<String> {
        let machines = (0..self.machines).map(|n| format!("m{n}"));
        ["hq", "sw", "node"]
            .map(str::to_owned)
            .into_iter()
            .chain(machines)
            .collect()
    }

    fn namespace(&self, role: &str) -> String {
        format!("{}-{role}", self.prefix)
    }

    fn wire_the_wan(&self) -> Result<()> {
        let (hq, node) = (self.namespace("hq"), self.namespace("node"));
        run(
            "ip",
            &format!("link add wan netns {hq} type veth peer name wan netns {node}"),
        )?;
        for (name, address) in [(&hq, "10.79.0.1/24"), (&node, "10.79.0.2/24")] {
            run("ip", &format!("-n {name} address add {address} dev wan"))?;
            run("ip", &format!("-n {name} link set wan up"))?;
            // packets as they are on a wire, so that their headers count
            run(
                "ip",
                &format!("netns exec {name} ethtool -K wan tso off gso off gro off"),
            )?;
        }
        Ok(())
    }

    fn wire_the_store(&self, mbit: u32) -> Result<()> {
        let switch = self.namespace("sw");
        run(
            "ip",
            &format!(
                "-n {switch} link add br0 type bridge forward_delay 0 stp_state 0 mcast_snooping 0"
            ),
        )?;
        run("ip", &format!("-n {switch} link set br0 up"))?;
        for role in self.roles().iter().skip(2) {
            let (name, port) = (self.namespace(role), format!("p-{role}"));
            let address = match role.strip_prefix('m') {
                Some(number) => format!("10.80.0.{}/24", 10 + number.parse::<u8>()?),
                None => format!("{NODE}/24"),
            };
            run(
                "ip",
                &format!("link add e0 netns {name} type veth peer name {port} netns {switch}"),
            )?;
            run("ip", &format!("-n {switch} link set {port} master br0 up"))?;
            run("ip", &format!("-n {name} address add {address} dev e0"))?;
            run("ip", &format!("-n {name} link set e0 up"))?;
            for (at, device) in [(&name, "e0"), (&switch, port.as_str())] {
                run(
                    "tc",
                    &format!(
                        "-n {at} qdisc add dev {device} root tbf rate {mbit}mbit burst 64kb limit 512kb"
                    ),
                )?;
            }
        }
        Ok(())
    }
}

impl Network for Shaped {
    fn command(&self, role: &str, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.namespace(role)])
            .arg(program);
        command
    }

    fn counter(&self, role: &str, device: &str, name: &str) -> Result<u64> {
        counter(&self.namespace(role), device, name)
    }
}

impl Drop for Shaped {
    fn drop(&mut self) {
        for role in self.roles() {
            let _ = run("ip", &format!("netns delete {}", self.namespace(&role)));
        }
    }
}

/// A counter of an interface in a namespace: `rx_bytes`, `tx_bytes`.
pub fn counter(namespace: &str, device: &str, name: &str) -> Result<u64> {
    let text = run(
        "ip",
        &format!("netns exec {namespace} cat /sys/class/net/{device}/statistics/{name}"),
    )?;
    Ok(text.trim().parse()?)
}

/// Runs a program that does not take long, and what it printed.
pub fn run(program: &str, arguments: &str) -> Result<String> {
    let out = Command::new(program)
        .args(arguments.split_whitespace())
        .output()
        .with_context(|| format!("starting {program}"))?;
    ensure!(
        out.status.success(),
        "{program} {arguments}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}
