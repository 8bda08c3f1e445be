//! A voucher on the stick: whoever knows its PIN makes this machine light others, with the node's own program beside the agent.

use std::{
    fs,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    process::{Child, Command},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use peer_cache_node::{OpenVoucherError, open_voucher, read_voucher_label};
use peer_cache_proto::voucher::stick;
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::{init::stick::Stick, pins::Pins, screen::say};

/// So long a person may think about it; then the machine is imaged without the voucher, as from any other stick.
const PIN_WITHIN: Duration = Duration::from_secs(60);
/// On a file system in RAM, for the node's program alone.
const PIN_FILE: &str = "/run/voucher-pin";
const END_WITHIN: Duration = Duration::from_secs(5);

/// The node that runs beside the agent.
pub(crate) struct LentNode {
    child: Child,
    /// What was typed: it admits this machine as well.
    pub(crate) pin: Zeroizing<String>,
}

/// Asks for the PIN, if the stick carries a voucher, and starts its node. Nothing when there is none, or nobody typed it.
pub(crate) async fn start(stick: &Stick, pins: &mut Pins, stays: bool) -> Result<Option<LentNode>> {
    let file = stick.folder.join(stick::VOUCHER);
    if !file.exists() {
        ensure!(!stays, "this stick carries no voucher to stay for");
        return Ok(None);
    }
    let label = match read_voucher_label(&file) {
        Ok(label) => label,
        Err(error) if !stays => {
            say(&format!("the stick's voucher is of no use: {error}"));
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    say(&format!("the stick carries voucher {label}"));
    let pin = loop {
        say("type the voucher's PIN");
        let typed = match stays {
            true => pins.next().await,
            false => match timeout(PIN_WITHIN, pins.next()).await {
                Ok(typed) => typed,
                Err(_) => {
                    say("nobody typed it: going on without the voucher");
                    return Ok(None);
                }
            },
        };
        let (path, tried) = (file.clone(), typed.clone());
        let opened = tokio::task::spawn_blocking(move || open_voucher(&path, &tried).map(drop));
        match opened.await.context("opening the voucher")? {
            Ok(()) => break typed,
            Err(OpenVoucherError::WrongPin { left }) => {
                say(&format!("this is not the PIN: {left} more tries"));
            }
            Err(error) if stays => return Err(error.into()),
            Err(error) => {
                say(&format!("{error}; going on without it"));
                return Ok(None);
            }
        }
    };
    let child = run(stick, &pin)?;
    say(&format!(
        "this machine lights others of {:?}; the PIN is typed at each of them",
        label.site
    ));
    Ok(Some(LentNode { child, pin }))
}

/// The node's folder is on the stick: whom it admitted, and what HQ has not heard yet, outlives this machine.
fn run(stick: &Stick, pin: &str) -> Result<Child> {
    write_private(Path::new(PIN_FILE), pin)?;
    let dir = stick.folder.join("state");
    fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    let slab = stick.slab.as_ref();
    let slab = slab.context("the stick has no partition for images")?;
    let settings = format!("slab = {:?}\n", slab.display().to_string());
    fs::write(dir.join("node.toml"), settings).context("writing the node's settings")?;
    let program = stick.folder.join(stick::PROGRAM);
    Command::new(&program)
        .arg("node")
        .arg("--dir")
        .arg(&dir)
        .arg("--voucher")
        .arg(stick.folder.join(stick::VOUCHER))
        .args(["--voucher-pin-file", PIN_FILE])
        .env("LAMPLIGHTER_LOG", "warn")
        .spawn()
        .with_context(|| format!("starting {}", program.display()))
}

fn write_private(path: &Path, text: &str) -> Result<()> {
    // of an earlier try
    let _ = fs::remove_file(path);
    let mut file = fs::File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("making {}", path.display()))?;
    std::io::Write::write_all(&mut file, text.as_bytes())
        .with_context(|| format!("writing {}", path.display()))
}

impl LentNode {
    /// Until it ends, which it does not by itself.
    pub(crate) async fn stay(mut self) -> Result<()> {
        let ended = tokio::task::spawn_blocking(move || self.child.wait());
        bail!("the voucher's node ended: {:?}", ended.await??)
    }

    /// Ends it before the machine restarts.
    pub(crate) fn end(mut self) {
        let pid = i32::try_from(self.child.id()).unwrap_or_default();
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        let started = std::time::Instant::now();
        while started.elapsed() < END_WITHIN {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = self.child.kill();
    }
}
