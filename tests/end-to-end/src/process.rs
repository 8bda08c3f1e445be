//! Programs in network namespaces, each in a session of its own, none of which outlives the test.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

use crate::console::Console;

/// How long a program may take to end by itself after it was asked to.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(50);

/// A program that runs beside the test, with its output in a file.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    console: Console,
}

/// `program` in `namespace`, or where we are, in a session of its own and killed by the kernel when this thread ends:
/// also a test that is itself killed leaves nothing behind.
fn command(namespace: Option<&str>, program: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("setsid");
    command.args(["setpriv", "--pdeathsig", "KILL", "--"]);
    if let Some(namespace) = namespace {
        command.args(["ip", "netns", "exec", namespace]);
    }
    command.arg(program).args(arguments).stdin(Stdio::null());
    command
}

impl Process {
    /// Starts `program` with its output in `log`.
    ///
    /// # Errors
    /// When the log cannot be made or the program not be started.
    pub fn start(
        namespace: &str,
        name: &str,
        log: PathBuf,
        program: &Path,
        arguments: &[&str],
    ) -> Result<Self> {
        let file = File::create(&log).with_context(|| format!("cannot make {}", log.display()))?;
        let child = command(Some(namespace), program, arguments)
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            console: Console::new(log),
        })
    }

    /// What it prints.
    #[must_use]
    pub fn console(&self) -> &Console {
        &self.console
    }

    /// Waits for a line with `what` in its output, and answers it from `what` on.
    ///
    /// # Errors
    /// When it ends first, when the time is over, or when it prints a failure.
    pub fn wait_for(&mut self, what: &str, timeout: Duration) -> Result<String> {
        let Self {
            name,
            child,
            console,
        } = self;
        console.wait_for(what, timeout, || is_running(name, child))
    }

    /// Fails when it has ended.
    ///
    /// # Errors
    /// With its name and how it ended.
    pub fn check(&mut self) -> Result<()> {
        is_running(&self.name, &mut self.child)
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    /// When the time is over.
    pub fn wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if started.elapsed() > timeout {
                let tail = self.console.tail();
                bail!(
                    "{} still runs after {} s\n{tail}",
                    self.name,
                    timeout.as_secs()
                );
            }
            std::thread::sleep(POLL);
        }
    }

    /// Takes it away without a warning, as a power cut does.
    pub fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        let _ = self.child.wait();
    }

    fn signal(&self, signal: Signal) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _ = killpg(Pid::from_raw(pid), signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        self.signal(Signal::SIGTERM);
        if self.wait(STOP_TIMEOUT).is_err() {
            self.kill();
        }
    }
}

fn is_running(name: &str, child: &mut Child) -> Result<()> {
    match child.try_wait()? {
        None => Ok(()),
        Some(status) => bail!("{name} ended: {status}"),
    }
}

/// Runs a program to its end, in `namespace` or where we are, and answers what it printed.
///
/// # Errors
/// When it fails or takes longer than `timeout`: with what it complained about.
pub fn run(
    namespace: Option<&str>,
    timeout: Duration,
    program: &Path,
    arguments: &[&str],
) -> Result<String> {
    // In files, so that nobody waits for a pipe to be read.
    let (mut out, mut err) = (
        tempfile::NamedTempFile::new()?,
        tempfile::NamedTempFile::new()?,
    );
    let what = format!("{} {}", program.display(), arguments.join(" "));
    let child = command(namespace, program, arguments)
        .stdout(out.reopen()?)
        .stderr(err.reopen()?)
        .spawn()
        .with_context(|| format!("cannot start {what}"))?;
    let mut process = Process {
        name: what.clone(),
        child,
        console: Console::new(err.path().to_owned()),
    };
    let status = process.wait(timeout)?;
    let text = |file: &mut tempfile::NamedTempFile| -> Result<String> {
        Ok(String::from_utf8_lossy(&std::fs::read(file.path())?).into_owned())
    };
    let (printed, complaint) = (text(&mut out)?, text(&mut err)?);
    ensure!(status.success(), "{what}: {status}\n{printed}{complaint}");
    Ok(printed)
}
