//! The network of a store and the way to HQ, in network namespaces.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    paths,
    process::{Process, run},
};

/// Machines a lab has cables for.
const MACHINES: usize = 5;
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);
/// Beginning of the names of our namespaces; then come our process, the lab's number and the role.
const PREFIX: &str = "lampvm";
/// The address of [`Namespace::Client`].
pub const CLIENT: &str = "10.77.0.50";

/// Who is at which end of the cables.
///
/// ```text
///  hq 10.78.0.1 ---- wan 10.78.0.2  store 10.77.0.2 ---+
///                                   laptop 10.77.0.1 --+-- br0 in switch -- tap0..4 -- QEMU
///                                   client 10.77.0.50 -+
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Namespace {
    /// The switch; QEMU runs here, beside its taps.
    Switch,
    /// A technician's laptop.
    Laptop,
    /// The store's router and DHCP server, which knows nothing of network boot.
    Router,
    /// One more computer in the store.
    Client,
    /// HQ, behind the WAN link.
    Headquarters,
}

impl Namespace {
    const ALL: [Self; 5] = [
        Self::Switch,
        Self::Laptop,
        Self::Router,
        Self::Client,
        Self::Headquarters,
    ];

    fn role(self) -> &'static str {
        match self {
            Self::Switch => "sw",
            Self::Laptop => "lap",
            Self::Router => "dhc",
            Self::Client => "cli",
            Self::Headquarters => "hq",
        }
    }
}

/// One lab at a time in one process. nextest gives each test a process, and says how many there are at once.
static TURN: Mutex<()> = Mutex::new(());

/// Namespaces, the store's DHCP server, a folder for logs, and a folder for disks that goes with it.
#[derive(Debug)]
pub struct Lab {
    // Dropped in this order: programs before the namespaces they run in.
    router: Option<Process>,
    namespaces: Namespaces,
    scratch: tempfile::TempDir,
    artefacts: PathBuf,
    started: Instant,
    _turn: MutexGuard<'static, ()>,
}

#[derive(Debug)]
struct Namespaces {
    prefix: String,
}

impl Namespaces {
    fn name(&self, namespace: Namespace) -> String {
        format!("{}-{}", self.prefix, namespace.role())
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for namespace in Namespace::ALL {
            delete(&self.name(namespace));
        }
    }
}

fn delete(namespace: &str) {
    let _ = Command::new("ip")
        .args(["netns", "delete", namespace])
        .output();
}

/// Takes away what a run left that was killed outright: its namespaces, and programs in them that gave up the right to
/// die with it (dnsmasq does, by changing its own rights).
fn delete_namespaces_of_the_dead() -> Result<()> {
    let Ok(entries) = std::fs::read_dir("/run/netns") else {
        return Ok(());
    };
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let mut parts = name.split('-');
        if parts.next() != Some(PREFIX) {
            continue;
        }
        let owner = parts.next().and_then(|pid| pid.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let pids = run(
                None,
                COMMAND_TIMEOUT,
                Path::new("ip"),
                &["netns", "pids", &name],
            )?;
            for pid in pids.lines().filter_map(|pid| pid.trim().parse().ok()) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            delete(&name);
        }
    }
    Ok(())
}

impl Lab {
    /// Builds the network and starts the store's DHCP server. Waits while another lab of this process is in use.
    ///
    /// # Errors
    /// When a namespace cannot be made (it needs root) or the DHCP server does not start.
    pub fn new(test: &str) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(
            nix::unistd::geteuid().is_root(),
            "network namespaces and taps need root"
        );
        delete_namespaces_of_the_dead()?;
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let mut lab = Self {
            router: None,
            namespaces: Namespaces {
                prefix: format!("{PREFIX}-{}-{number}", std::process::id()),
            },
            scratch: tempfile::Builder::new()
                .prefix("lamplighter-vm-")
                .tempdir()?,
            artefacts: paths::artefacts(test)?,
            started: Instant::now(),
            _turn: turn,
        };
        lab.wire()?;
        lab.count_the_wan()?;
        lab.router = Some(lab.start_dhcp()?);
        Ok(lab)
    }

    /// Prints a line with the seconds since the lab was made.
    pub fn say(&self, line: &str) {
        eprintln!("[{:6.1}] {line}", self.started.elapsed().as_secs_f64());
    }

    /// Since the lab was made.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// A folder for disks and programs' files, removed with the lab.
    #[must_use]
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// A file among the artefacts.
    #[must_use]
    pub fn artefact(&self, name: &str) -> PathBuf {
        self.artefacts.join(name)
    }

    /// Starts a program that stays.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(
        &self,
        at: Namespace,
        name: &str,
        program: &Path,
        arguments: &[&str],
    ) -> Result<Process> {
        let log = self.artefact(&format!("{name}.txt"));
        Process::start(&self.namespaces.name(at), name, log, program, arguments)
    }

    /// Runs a program to its end and answers what it printed.
    ///
    /// # Errors
    /// When it fails or takes too long.
    pub fn run(
        &self,
        at: Namespace,
        timeout: Duration,
        program: &Path,
        arguments: &[&str],
    ) -> Result<String> {
        run(Some(&self.namespaces.name(at)), timeout, program, arguments)
    }

    /// Pulls the plug of the WAN link.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub fn cut_the_wan(&self) -> Result<()> {
        self.say("the WAN is cut");
        self.ip(Namespace::Router, "link set wan down")
    }

    /// Puts the plug back.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub fn mend_the_wan(&self) -> Result<()> {
        self.say("the WAN is back");
        self.ip(Namespace::Router, "link set wan up")
    }

    /// IP bytes that went over the WAN link, to the store and from it. HQ's ledger counts bodies; this counts everything.
    ///
    /// # Errors
    /// When nftables does not answer.
    pub fn wan_packet_bytes(&self) -> Result<(u64, u64)> {
        let text = self.nft(Namespace::Router, &["-j", "list", "counters"])?;
        let value: serde_json::Value = serde_json::from_str(&text)?;
        let bytes = |name: &str| {
            let counters = value["nftables"].as_array()?;
            counters
                .iter()
                .find(|c| c["counter"]["name"] == name)
                .and_then(|c| c["counter"]["bytes"].as_u64())
        };
        bytes("down")
            .zip(bytes("up"))
            .context("nftables lists no counters of the WAN")
    }

    /// Counts IP bytes that `from` sends to [`Namespace::Client`]; read them by [`Self::client_bytes`].
    ///
    /// # Errors
    /// When nftables refuses.
    pub fn count_at_client(&self, from: &str) -> Result<()> {
        let rules = format!(
            "add table ip heard; add counter ip heard sum;
             add chain ip heard input {{ type filter hook input priority 0; }};
             add rule ip heard input ip saddr {from} counter name sum"
        );
        self.nft(Namespace::Client, &[&rules]).map(drop)
    }

    /// What [`Self::count_at_client`] counted.
    ///
    /// # Errors
    /// When nftables does not answer.
    pub fn client_bytes(&self) -> Result<u64> {
        let text = self.nft(Namespace::Client, &["-j", "list", "counters"])?;
        let value: serde_json::Value = serde_json::from_str(&text)?;
        let mut counters = value["nftables"].as_array().into_iter().flatten();
        counters
            .find_map(|c| c["counter"]["bytes"].as_u64())
            .context("nftables lists no counter at the client")
    }

    /// Where its neighbours meet the laptop: beacons also come over IPv6.
    ///
    /// # Errors
    /// When `ip` does not answer.
    pub fn laptop_addresses(&self) -> Result<Vec<String>> {
        let arguments = ["-json", "address", "show", "dev", "e0"];
        let at = Namespace::Laptop;
        let text = self.run(at, COMMAND_TIMEOUT, Path::new("ip"), &arguments)?;
        let value: serde_json::Value = serde_json::from_str(&text)?;
        let addresses = value[0]["addr_info"].as_array().into_iter().flatten();
        Ok(addresses
            .filter_map(|address| address["local"].as_str().map(str::to_owned))
            .collect())
    }

    /// Bytes on the cable of a machine: to it and from it.
    ///
    /// # Errors
    /// When `ip` does not answer.
    pub fn cable_bytes(&self, machine: usize) -> Result<(u64, u64)> {
        let tap = Self::tap(machine);
        let arguments = ["-json", "-statistics", "link", "show", "dev", &tap];
        let at = Namespace::Switch;
        let text = self.run(at, COMMAND_TIMEOUT, Path::new("ip"), &arguments)?;
        let value: serde_json::Value = serde_json::from_str(&text)?;
        // what the switch sends is what the machine gets
        let of = |way: &str| value[0]["stats64"][way]["bytes"].as_u64();
        of("tx").zip(of("rx")).context("ip counts nothing")
    }

    /// The tap of machine number `machine`.
    pub(crate) fn tap(machine: usize) -> String {
        format!("tap{machine}")
    }

    fn wire(&self) -> Result<()> {
        let name = |namespace| self.namespaces.name(namespace);
        for namespace in Namespace::ALL {
            ip(&format!("netns add {}", name(namespace)))?;
            self.ip(namespace, "link set lo up")?;
        }
        let switch = Namespace::Switch;
        self.ip(
            switch,
            "link add br0 type bridge forward_delay 0 stp_state 0 mcast_snooping 0",
        )?;
        self.ip(switch, "link set br0 up")?;
        for (namespace, address) in [
            (Namespace::Laptop, "10.77.0.1/24"),
            (Namespace::Router, "10.77.0.2/24"),
            (Namespace::Client, "10.77.0.50/24"),
        ] {
            let port = format!("p-{}", namespace.role());
            ip(&format!(
                "link add e0 netns {} type veth peer name {port} netns {}",
                name(namespace),
                name(switch)
            ))?;
            self.ip(switch, &format!("link set {port} master br0 up"))?;
            self.ip(namespace, "link set e0 up")?;
            self.ip(namespace, &format!("address add {address} dev e0"))?;
        }
        for machine in 0..MACHINES {
            let tap = Self::tap(machine);
            self.ip(switch, &format!("tuntap add {tap} mode tap"))?;
            self.ip(switch, &format!("link set {tap} master br0 up"))?;
        }
        let (router, hq) = (Namespace::Router, Namespace::Headquarters);
        ip(&format!(
            "link add wan netns {} type veth peer name e0 netns {}",
            name(router),
            name(hq)
        ))?;
        self.ip(router, "address add 10.78.0.2/24 dev wan")?;
        self.ip(hq, "address add 10.78.0.1/24 dev e0")?;
        self.ip(router, "link set wan up")?;
        self.ip(hq, "link set e0 up")?;
        self.ip(hq, "route add default via 10.78.0.2")?;
        for inside in [Namespace::Laptop, Namespace::Client] {
            self.ip(inside, "route add default via 10.77.0.2")?;
        }
        let forward = ["-qw", "net.ipv4.ip_forward=1"];
        self.run(router, COMMAND_TIMEOUT, Path::new("sysctl"), &forward)?;
        Ok(())
    }

    fn count_the_wan(&self) -> Result<()> {
        let rules = "add table ip wan; add counter ip wan down; add counter ip wan up;
            add chain ip wan forward { type filter hook forward priority 0; };
            add rule ip wan forward iifname wan counter name down;
            add rule ip wan forward oifname wan counter name up";
        self.nft(Namespace::Router, &[rules]).map(drop)
    }

    fn start_dhcp(&self) -> Result<Process> {
        let leases = format!(
            "--dhcp-leasefile={}",
            self.scratch().join("leases").display()
        );
        let arguments = [
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            // none: two that start at once would make the same one
            "--pid-file",
            "--user=root",
            "--port=0",
            "--no-ping",
            "--log-dhcp",
            "--log-facility=-",
            "--interface=e0",
            "--bind-dynamic",
            "--dhcp-range=10.77.0.100,10.77.0.199,255.255.255.0,1h",
            "--dhcp-option=option:router,10.77.0.2",
            &leases,
        ];
        let mut dhcp = self.start(
            Namespace::Router,
            "dnsmasq",
            Path::new("dnsmasq"),
            &arguments,
        )?;
        dhcp.wait_for("DHCP, IP range", COMMAND_TIMEOUT)?;
        Ok(dhcp)
    }

    fn ip(&self, namespace: Namespace, arguments: &str) -> Result<()> {
        ip(&format!(
            "-n {} {arguments}",
            self.namespaces.name(namespace)
        ))
    }

    fn nft(&self, namespace: Namespace, arguments: &[&str]) -> Result<String> {
        self.run(namespace, COMMAND_TIMEOUT, Path::new("nft"), arguments)
    }
}

fn ip(arguments: &str) -> Result<()> {
    let arguments: Vec<&str> = arguments.split_whitespace().collect();
    run(None, COMMAND_TIMEOUT, Path::new("ip"), &arguments).map(drop)
}
