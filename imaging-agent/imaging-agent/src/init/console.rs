//! Process 1: starts the agent as a child, reaps every orphan, and copies the agent's output to all consoles. A child,
//! so that an agent that dies is an event with a message and not a kernel panic.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use nix::errno::Errno;
use nix::sys::wait::{WaitStatus, wait};

/// Pieces of output that wait for one console. A slow serial line loses what is beyond, the agent never waits for it.
const PIECES_MAX: usize = 512;
const PIECE_BYTES_MAX: usize = 4096;
/// Where the kernel names the consoles it writes to, such as `tty0 ttyS0`.
const ACTIVE_CONSOLES: &str = "/sys/class/tty/console/active";

/// The agent could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start the agent as a child of process 1")]
pub(crate) struct SuperviseError(#[source] io::Error);

/// How the agent ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AgentEnd {
    /// It returned from `main` with this code.
    Exited(i32),
    /// A signal ended it; `SIGABRT` after a panic with `panic = "abort"`, `SIGKILL` when memory ran out.
    Killed(nix::sys::signal::Signal),
}

/// Starts this same program again with `arguments` and stays with it until it ends, reaping whatever other process ends
/// meanwhile. Its output goes to every console of the kernel: a till with a serial port shows it on its screen as well.
/// Returns how it ended; what then happens (a message, a pause, a reboot) is the caller's affair.
///
/// # Errors
/// [`SuperviseError`] when the child cannot be started.
pub(crate) fn supervise(arguments: &[&str]) -> Result<AgentEnd, SuperviseError> {
    let (reader, writer) = io::pipe().map_err(SuperviseError)?;
    let child = Command::new("/proc/self/exe")
        .args(arguments)
        .stdin(Stdio::inherit())
        .stdout(writer.try_clone().map_err(SuperviseError)?)
        .stderr(writer)
        .spawn()
        .map_err(SuperviseError)?;
    let copying = thread::spawn(move || copy_to_consoles(reader));
    let end = reap_until(child.id());
    // The pipe ends with its last writer, which an orphan of the agent's may still be: give the last words a moment.
    for _ in 0..20 {
        if copying.is_finished() {
            break;
        }
        thread::sleep(std::time::Duration::from_millis(50));
    }
    Ok(end)
}

fn reap_until(agent: u32) -> AgentEnd {
    let is_agent =
        |pid: nix::unistd::Pid| u32::try_from(pid.as_raw()).is_ok_and(|pid| pid == agent);
    loop {
        match wait() {
            Ok(WaitStatus::Exited(pid, code)) if is_agent(pid) => return AgentEnd::Exited(code),
            Ok(WaitStatus::Signaled(pid, signal, _)) if is_agent(pid) => {
                return AgentEnd::Killed(signal);
            }
            // No child at all: somebody else has taken the agent's status. It is gone, which is what counts.
            Err(Errno::ECHILD) => return AgentEnd::Exited(-1),
            _ => {}
        }
    }
}

/// Copies until the last writer is gone.
fn copy_to_consoles(mut reader: impl Read) {
    let consoles: Vec<SyncSender<Vec<u8>>> = active_consoles()
        .iter()
        .filter_map(|name| open_console(name))
        .collect();
    let mut piece = vec![0; PIECE_BYTES_MAX];
    loop {
        match reader.read(&mut piece) {
            Ok(0) => return,
            Ok(size) => {
                for console in &consoles {
                    let _ = console.try_send(piece[..size].to_vec()); // full: that console loses this piece
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// Where somebody may type.
pub(crate) fn active_paths() -> Vec<std::path::PathBuf> {
    let dev = |name: &String| std::path::Path::new("/dev").join(name);
    active_consoles().iter().map(dev).collect()
}

fn active_consoles() -> Vec<String> {
    let names = fs::read_to_string(ACTIVE_CONSOLES).unwrap_or_default();
    let names: Vec<String> = names.split_whitespace().map(str::to_owned).collect();
    if names.is_empty() {
        vec!["console".to_owned()]
    } else {
        names
    }
}

/// A thread that writes to one console, and the way to it.
fn open_console(name: &str) -> Option<SyncSender<Vec<u8>>> {
    let mut device = OpenOptions::new()
        .write(true)
        .open(format!("/dev/{name}"))
        .ok()?;
    let (sender, receiver) = sync_channel::<Vec<u8>>(PIECES_MAX);
    thread::spawn(move || {
        for piece in receiver {
            // A console that fails (an unplugged USB serial line) is left alone; the others go on.
            if device.write_all(&piece).is_err() {
                return;
            }
        }
    });
    Some(sender)
}
