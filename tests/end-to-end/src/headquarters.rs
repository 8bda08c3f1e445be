//! HQ, and a person with its command line.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{
    lab::{Lab, Namespace},
    paths,
    process::Process,
};

const LISTEN: &str = "10.78.0.1:8443";
const START_TIMEOUT: Duration = Duration::from_secs(120);
const COMMAND_TIMEOUT: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(500);

/// An image that was published.
#[derive(Debug, Clone)]
pub struct Image {
    /// Its manifest's digest.
    pub version: String,
    /// Bytes of all its objects.
    pub object_bytes: u64,
    /// Size of its disk.
    pub disk_bytes: u64,
}

/// A running HQ.
#[derive(Debug)]
pub struct Headquarters<'lab> {
    lab: &'lab Lab,
    process: Process,
    program: PathBuf,
    token_file: String,
}

impl<'lab> Headquarters<'lab> {
    /// Starts it in a new folder and waits until it listens.
    ///
    /// # Errors
    /// When it does not.
    pub fn start(lab: &'lab Lab) -> Result<Self> {
        let program = paths::program()?;
        let folder = lab.scratch().join("hq");
        let dir = folder.display().to_string();
        let url = format!("https://{LISTEN}");
        let arguments = ["hq", "--dir", &dir, "--listen", LISTEN, "--url", &url];
        let mut process = lab.start(Namespace::Headquarters, "hq", &program, &arguments)?;
        process.wait_for("listening", START_TIMEOUT)?;
        Ok(Self {
            lab,
            process,
            program,
            token_file: folder.join("admin-token").display().to_string(),
        })
    }

    /// Runs `lamplighter` with the administrator's token and answers what it printed.
    ///
    /// # Errors
    /// When the command, or HQ before it, fails.
    pub fn command(&mut self, arguments: &[&str]) -> Result<String> {
        self.process.check()?;
        let all = [arguments, &["--token-file", &self.token_file]].concat();
        let at = Namespace::Headquarters;
        self.lab.run(at, COMMAND_TIMEOUT, &self.program, &all)
    }

    /// The same, with `--json`.
    ///
    /// # Errors
    /// When the command fails or prints anything else.
    pub fn ask(&mut self, arguments: &[&str]) -> Result<Value> {
        let all = [arguments, &["--json"]].concat();
        let text = self.command(&all)?;
        serde_json::from_str(&text)
            .with_context(|| format!("{} prints no JSON: {text}", all.join(" ")))
    }

    /// Makes a site and answers its first enrolment token.
    ///
    /// # Errors
    /// When HQ refuses.
    pub fn add_site(&mut self, name: &str, unknown: &str) -> Result<String> {
        let created = self.ask(&["site", "add", name, "--unknown", unknown])?;
        text(&created, "token")
    }

    /// Imports and publishes a disk image.
    ///
    /// # Errors
    /// When HQ refuses.
    pub fn import(&mut self, file: &Path, name: &str) -> Result<Image> {
        let file = file.display().to_string();
        let version = self.ask(&["image", "import", &file, "--name", name])?;
        Ok(Image {
            version: text(&version, "version")?,
            object_bytes: number(&version, "object_bytes")?,
            disk_bytes: number(&version, "disk_bytes")?,
        })
    }

    /// Body bytes that HQ wrote to the store's sockets, of all versions.
    ///
    /// # Errors
    /// When HQ refuses.
    pub fn ledger_bytes(&mut self) -> Result<u64> {
        let lines = self.ask(&["ledger"])?;
        lines
            .as_array()
            .context("the ledger is no list")?
            .iter()
            .map(|line| number(line, "wan_bytes"))
            .sum()
    }

    /// Waits until every byte of an image went over the WAN.
    ///
    /// # Errors
    /// When the time is over.
    pub fn wait_for_ledger(&mut self, image: &Image, timeout: Duration) -> Result<Value> {
        let what = format!("ledger of version {}", image.version);
        self.poll(&what, timeout, |hq| {
            let lines = hq.ask(&["ledger"])?;
            let lines = lines.as_array().context("the ledger is no list")?;
            let whole = |line: &&Value| {
                line["version"] == *image.version
                    && line["wan_bytes"].as_u64() >= Some(image.object_bytes)
            };
            Ok(lines.iter().find(whole).cloned())
        })
    }

    /// Waits until a machine passes `test`, and answers it. `what` says for people which one is wanted.
    ///
    /// # Errors
    /// When the time is over.
    pub fn wait_for_machine(
        &mut self,
        what: &str,
        timeout: Duration,
        test: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        self.poll(what, timeout, |hq| {
            let machines = hq.ask(&["machine", "list"])?;
            let machines = machines.as_array().context("the machines are no list")?;
            Ok(machines.iter().find(|machine| test(machine)).cloned())
        })
    }

    /// Waits until a node passes `test`, and answers it. `what` says for people which one is wanted.
    ///
    /// # Errors
    /// When the time is over.
    pub fn wait_for_node(
        &mut self,
        what: &str,
        timeout: Duration,
        test: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        self.poll(what, timeout, |hq| {
            let nodes = hq.ask(&["nodes"])?;
            let nodes = nodes.as_array().context("the nodes are no list")?;
            Ok(nodes.iter().find(|node| test(node)).cloned())
        })
    }

    fn poll(
        &mut self,
        what: &str,
        timeout: Duration,
        mut question: impl FnMut(&mut Self) -> Result<Option<Value>>,
    ) -> Result<Value> {
        let started = Instant::now();
        loop {
            if let Some(answer) = question(self)? {
                return Ok(answer);
            }
            if started.elapsed() > timeout {
                let (machines, nodes) = (self.ask(&["machine", "list"])?, self.ask(&["nodes"])?);
                bail!(
                    "HQ has no {what} after {} s\nmachines: {machines:#}\nnodes: {nodes:#}",
                    timeout.as_secs()
                );
            }
            std::thread::sleep(POLL);
        }
    }
}

/// The state of a machine's install, or nothing.
#[must_use]
pub fn install_state(machine: &Value) -> &str {
    machine["install"]["state"].as_str().unwrap_or_default()
}

pub(crate) fn text(value: &Value, name: &str) -> Result<String> {
    let found = value[name].as_str();
    Ok(found
        .with_context(|| format!("no text {name:?} in {value}"))?
        .to_owned())
}

pub(crate) fn number(value: &Value, name: &str) -> Result<u64> {
    value[name]
        .as_u64()
        .with_context(|| format!("no number {name:?} in {value}"))
}
