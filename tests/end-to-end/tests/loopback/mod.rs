//! A site on loopback: HQ, nodes and agents as processes of this computer, for what needs no firmware.

mod nodeless;
pub mod noisy;
mod offline;
mod rebuilt;
mod reporter;
mod restored;
mod secrets;
pub mod shaped;
mod spread;
mod vouchers;
mod wan;

use std::{
    cell::RefCell,
    fs::File,
    io::{BufRead, BufReader},
    net::{SocketAddr, UdpSocket},
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use end_to_end::{agent_program, program};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use shaped::Shaped;
use tempfile::TempDir;

/// Any single program is waited for no longer than this.
const PATIENCE: Duration = Duration::from_secs(300);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A program that does not outlive the test.
pub struct Program {
    child: Child,
    log: PathBuf,
}

impl Program {
    fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(log)?;
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file);
        let child = command
            .spawn()
            .with_context(|| format!("starting {:?}", command.get_program()))?;
        Ok(Self {
            child,
            log: log.to_owned(),
        })
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(
            Pid::from_raw(i32::try_from(self.child.id())?),
            signal,
        )?)
    }

    /// Bytes that it has sent on their way to a disk (proc(5), `write_bytes`).
    fn written_bytes(&self) -> Result<u64> {
        let facts = std::fs::read_to_string(format!("/proc/{}/io", self.child.id()))?;
        let line = facts.lines().find_map(|l| l.strip_prefix("write_bytes: "));
        Ok(line.context("no write_bytes")?.parse()?)
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits for its end; whether it ended well.
    pub fn wait(&mut self, patience: Duration) -> Result<bool> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status.success());
            }
            ensure!(
                started.elapsed() < patience,
                "it goes on after {patience:?}:\n{}",
                self.log()
            );
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub struct Site {
    pub folder: TempDir,
    pub image: PathBuf,
    pub version: String,
    pub object_bytes: u64,
    /// Of nodes that are started from now on.
    pub slab_bytes: u64,
    /// Programs that are started from now on write all they can into their logs.
    pub is_talkative: bool,
    /// Enrolment tokens that were used.
    pub tokens: RefCell<Vec<String>>,
    hq: Option<Program>,
    hq_address: SocketAddr,
    /// Where its programs run, unless that is this computer's loopback. Last: programs end before their network.
    network: Option<Box<dyn Network>>,
}

/// Where the programs of a site run.
pub trait Network {
    /// A program as it is started at a place: `hq`, `node`, `m0` and so on.
    fn command(&self, role: &str, program: &Path) -> Command;

    /// A counter of an interface: `rx_bytes`, `tx_bytes`.
    ///
    /// # Errors
    /// When the place has no such interface.
    fn counter(&self, role: &str, device: &str, name: &str) -> Result<u64>;
}

/// A port that was free a moment ago.
fn free_port() -> Result<SocketAddr> {
    Ok(UdpSocket::bind("127.0.0.1:0")?.local_addr()?)
}

/// `mib` MiB that compress to about half: noise and text in turn, with a hole at the end.
pub fn make_image(path: &Path, mib: u64, seed: u64) -> Result<()> {
    let file = File::create(path)?;
    file.set_len((mib + 2) << 20)?;
    let mut state = seed | 1;
    let mut chunk = vec![0u8; 1 << 20];
    for n in 0..mib {
        for word in chunk[..1 << 19].chunks_mut(8) {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            word.copy_from_slice(&(state ^ (state >> 31)).to_le_bytes());
        }
        chunk[1 << 19..].fill(u8::try_from(n % 251)? + 1);
        file.write_all_at(&chunk, n << 20)?;
    }
    Ok(())
}

impl Site {
    /// HQ with an image of `mib` MiB and one site.
    pub fn start(mib: u64, unknown: &str) -> Result<Self> {
        Self::start_in(None::<Shaped>, mib, unknown)
    }

    /// The same in a network of its own.
    pub fn start_in(
        network: Option<impl Network + 'static>,
        mib: u64,
        unknown: &str,
    ) -> Result<Self> {
        let hq_address = match network {
            Some(_) => format!("{}:8443", shaped::HQ),
            None => "127.0.0.1:0".into(),
        };
        let folder = TempDir::new()?;
        let image = folder.path().join("image.raw");
        make_image(&image, mib, mib)?;
        let mut site = Self {
            image,
            version: String::new(),
            object_bytes: 0,
            slab_bytes: 1 << 30,
            is_talkative: false,
            tokens: RefCell::default(),
            hq: None,
            hq_address: hq_address.parse()?,
            folder,
            network: network.map(|n| Box::new(n) as Box<dyn Network>),
        };
        site.start_hq()?;
        site.ask(&["site", "add", "store", "--unknown", unknown, "--json"])?;
        let file = site.image.display().to_string();
        let imported = site.ask(&["image", "import", &file, "--name", "till", "--json"])?;
        site.version = imported["version"].as_str().context("version")?.to_owned();
        site.object_bytes = imported["object_bytes"].as_u64().context("object_bytes")?;
        Ok(site)
    }

    /// A program at its place.
    fn at(&self, role: &str, program: &Path) -> Command {
        let mut command = match &self.network {
            Some(network) => network.command(role, program),
            None => Command::new(program),
        };
        if self.is_talkative {
            command.env("LAMPLIGHTER_LOG", "trace");
        }
        command
    }

    pub fn network(&self) -> Result<&dyn Network> {
        let network = self.network.as_deref();
        network.context("this site is on loopback")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts HQ, at the address that it had before if it ran before.
    pub fn start_hq(&mut self) -> Result<()> {
        let (dir, log) = (self.path("hq"), self.path("hq.log"));
        let mut command = self.at("hq", &program()?);
        command
            .args(["hq", "--listen", &self.hq_address.to_string(), "--dir"])
            .arg(dir);
        command.env("XDG_RUNTIME_DIR", self.folder.path());
        // of earlier starts
        let lines = std::fs::read_to_string(&log).map_or(0, |text| text.lines().count());
        let hq = Program::start(&mut command, &log)?;
        let started = Instant::now();
        let address = loop {
            let text = BufReader::new(File::open(&log)?)
                .lines()
                .collect::<Result<Vec<_>, _>>()?;
            let line = text
                .iter()
                .skip(lines)
                .find_map(|l| l.strip_prefix("HQ is listening on "));
            if let Some(address) = line.and_then(|l| l.split(' ').next()) {
                break address.parse()?;
            }
            ensure!(
                started.elapsed() < PATIENCE,
                "HQ did not start: {}",
                hq.log()
            );
            std::thread::sleep(LOOK_EVERY);
        };
        self.hq_address = address;
        self.hq = Some(hq);
        Ok(())
    }

    pub fn hq(&self) -> Result<&Program> {
        self.hq.as_ref().context("HQ runs")
    }

    pub fn kill_hq(&mut self) {
        self.hq = None;
    }

    /// Runs a command against HQ, and what it printed.
    pub fn try_command(&self, arguments: &[&str]) -> Result<(bool, String)> {
        let out = self
            .at("hq", &program()?)
            .args(arguments)
            .arg("--token-file")
            .arg(self.path("hq").join("admin-token"))
            .env("LAMPLIGHTER_LOG", "error")
            .output()?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned()
            + &String::from_utf8_lossy(&out.stderr);
        Ok((out.status.success(), text))
    }

    pub fn command(&self, arguments: &[&str]) -> Result<String> {
        let (ok, text) = self.try_command(arguments)?;
        ensure!(ok, "{arguments:?}: {text}");
        Ok(text)
    }

    pub fn ask(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.command(arguments)?;
        serde_json::from_str(&text).with_context(|| format!("{arguments:?} printed {text}"))
    }

    pub fn order(&self, more: &[&str]) -> Result<Value> {
        let base = [
            "order",
            "add",
            "--site",
            "store",
            "--version",
            &self.version,
            "--json",
        ];
        self.ask(&[&base[..], more].concat())
    }

    pub fn wan_bytes(&self) -> Result<u64> {
        let lines = self.ask(&["ledger", "--json"])?;
        Ok(lines
            .as_array()
            .context("ledger")?
            .iter()
            .filter_map(|l| l["wan_bytes"].as_u64())
            .sum())
    }

    /// The ledger is written a moment after the last byte: the figure once it no longer grows.
    pub fn wan_bytes_at_rest(&self) -> Result<u64> {
        let mut last = self.wan_bytes()?;
        loop {
            std::thread::sleep(Duration::from_millis(500));
            let now = self.wan_bytes()?;
            if now == last {
                return Ok(now);
            }
            last = now;
        }
    }

    /// Starts a node with a token of its own; the same name again is the same node after a restart.
    pub fn start_node(
        &self,
        name: &str,
        address: Option<SocketAddr>,
    ) -> Result<(Program, SocketAddr)> {
        self.start_node_at("node", name, address)
    }

    /// The same at another place.
    pub fn start_node_at(
        &self,
        role: &str,
        name: &str,
        address: Option<SocketAddr>,
    ) -> Result<(Program, SocketAddr)> {
        self.start_node_by(&[], role, name, address)
    }

    /// The same by a token that is asked for with these words.
    fn start_node_by(
        &self,
        token_words: &[&str],
        role: &str,
        name: &str,
        address: Option<SocketAddr>,
    ) -> Result<(Program, SocketAddr)> {
        let address = address.map_or_else(free_port, Ok)?;
        let dir = self.path(name);
        let mut command = self.at(role, &program()?);
        command.args([
            "node",
            "--boot",
            "off",
            "--no-beacons",
            "--listen",
            &address.to_string(),
            "--slab-bytes",
            &self.slab_bytes.to_string(),
        ]);
        if !dir.join("certificate").exists() {
            let base = ["site", "token", "store", "--json"];
            let token = self.ask(&[&base[..], token_words].concat())?;
            let token = token["token"].as_str().context("token")?;
            command.args(["--enrol", token]);
            self.tokens.borrow_mut().push(token.to_owned());
        }
        command.arg("--dir").arg(dir);
        Ok((
            Program::start(&mut command, &self.path(&format!("{name}.log")))?,
            address,
        ))
    }

    pub fn start_agent(&self, name: &str, node: SocketAddr, more: &[&str]) -> Result<Program> {
        let disk = self.path(&format!("{name}.raw"));
        self.start_agent_on(&disk, name, node, more)
    }

    pub fn start_agent_on(
        &self,
        disk: &Path,
        name: &str,
        node: SocketAddr,
        more: &[&str],
    ) -> Result<Program> {
        let mut command = self.at(name, &agent_program()?);
        command
            .arg("image")
            .arg("--to")
            .arg(disk)
            .args(["--node", &node.to_string()]);
        command
            .arg("--json")
            .arg(self.path(&format!("{name}.json")))
            .args(more);
        Program::start(&mut command, &self.path(&format!("{name}.log")))
    }

    pub fn wait_for_outcome(&self, name: &str) -> Result<Value> {
        let path = self.path(&format!("{name}.json"));
        let started = Instant::now();
        loop {
            if let Some(outcome) = std::fs::read(&path)
                .ok()
                .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            {
                return Ok(outcome);
            }
            if started.elapsed() > PATIENCE {
                let log =
                    std::fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default();
                bail!("{name} did not finish:\n{log}");
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Waits until an agent has written at least this share of what it writes: the image, and its objects for others.
    pub fn wait_for_written(&self, agent: &Program, percent: u64) -> Result<()> {
        let all = self.image.metadata()?.blocks() * 512 + self.object_bytes;
        let started = Instant::now();
        while agent.written_bytes()? < all * percent / 100 {
            ensure!(
                started.elapsed() < PATIENCE,
                "it does not write:\n{}",
                agent.log()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    pub fn is_the_image(&self, disk: &Path) -> Result<bool> {
        Ok(std::fs::read(disk)? == std::fs::read(&self.image)?)
    }
}
