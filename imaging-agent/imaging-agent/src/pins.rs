//! The site's PIN, typed at the machine: from whichever console somebody types it at.

use std::{
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use anyhow::{Context, Result};
use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use crate::screen::say;

/// Longer lines are no PIN.
const LINE_BYTES_MAX: u64 = 256;
/// Lines that wait while a node looks at one.
const LINES_MAX: usize = 4;

/// Where a PIN comes from.
#[derive(Debug, Clone)]
pub(crate) enum PinSource {
    /// Nobody is asked.
    Nobody,
    /// It is read once.
    File(PathBuf),
    /// A person types it, without an echo.
    Consoles(Vec<PathBuf>),
    /// Consoles that are listened to already; whoever asks first has them.
    Open(Arc<Mutex<Option<Pins>>>),
}

/// PINs that were typed.
pub(crate) struct Pins {
    typed: mpsc::Receiver<Zeroizing<String>>,
    /// One that is right, as far as is known.
    first: Option<Zeroizing<String>>,
}

impl std::fmt::Debug for Pins {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pins")
    }
}

impl Pins {
    /// The next one; never, when nobody is asked or the file was read.
    pub(crate) async fn next(&mut self) -> Zeroizing<String> {
        if let Some(first) = self.first.take() {
            return first;
        }
        match self.typed.recv().await {
            Some(pin) => pin,
            None => std::future::pending().await,
        }
    }
}

impl Pins {
    /// For whoever asks next: this one first, if there is one, then what is typed.
    pub(crate) fn into_source(self, first: Option<Zeroizing<String>>) -> PinSource {
        PinSource::Open(Arc::new(Mutex::new(Some(Self { first, ..self }))))
    }
}

impl PinSource {
    /// Whether a person or a file will answer. A file says it once.
    pub(crate) fn will_answer(&self, is_asked_again: bool) -> bool {
        match self {
            Self::Nobody => false,
            Self::File(_) => !is_asked_again,
            Self::Consoles(_) | Self::Open(_) => true,
        }
    }

    /// Begins to listen. The threads end with the program: nothing ends a read of a console.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn open(&self) -> Result<Pins> {
        let (sender, typed) = mpsc::channel(LINES_MAX);
        match self {
            Self::Nobody => {}
            Self::Open(pins) => {
                let mut pins = pins.lock().unwrap_or_else(PoisonError::into_inner);
                return pins.take().context("the consoles are listened to already");
            }
            Self::File(path) => {
                let text = Zeroizing::new(
                    std::fs::read_to_string(path)
                        .with_context(|| format!("reading the PIN in {}", path.display()))?,
                );
                // room for one is there
                let _ = sender.try_send(Zeroizing::new(text.trim().to_owned()));
            }
            Self::Consoles(paths) => {
                for path in paths {
                    let (path, sender) = (path.clone(), sender.clone());
                    thread::spawn(move || {
                        if let Err(error) = read_console(&path, &sender) {
                            tracing::info!(%error, path = %path.display(), "no PIN from this console");
                        }
                    });
                }
            }
        }
        Ok(Pins { typed, first: None })
    }
}

fn read_console(path: &Path, sender: &mpsc::Sender<Zeroizing<String>>) -> Result<()> {
    let console = OpenOptions::new().read(true).open(path)?;
    hide_what_is_typed(&console);
    let mut console = BufReader::new(console);
    loop {
        let mut line = Zeroizing::new(Vec::new());
        let read = console
            .by_ref()
            .take(LINE_BYTES_MAX)
            .read_until(b'\n', &mut line)?;
        anyhow::ensure!(read > 0, "it is closed");
        let Ok(text) = std::str::from_utf8(&line) else {
            say("that was no text: type the PIN again");
            continue;
        };
        let pin = Zeroizing::new(text.trim().to_owned());
        if !pin.is_empty() && sender.blocking_send(pin).is_err() {
            return Ok(());
        }
    }
}

/// Whoever stands behind does not read along. What is no terminal has no echo.
fn hide_what_is_typed(console: &File) {
    if let Ok(mut settings) = tcgetattr(console) {
        settings.local_flags.remove(LocalFlags::ECHO);
        settings
            .local_flags
            .insert(LocalFlags::ICANON | LocalFlags::ECHONL);
        if let Err(error) = tcsetattr(console, SetArg::TCSANOW, &settings) {
            tracing::info!(%error, "the console shows what is typed");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[tokio::test]
    async fn a_file_is_read_once_and_a_console_line_by_line() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b" 4711-4711 \n").unwrap();
        let mut pins = PinSource::File(file.path().into()).open().unwrap();
        assert_eq!(pins.next().await.as_str(), "4711-4711");
        let console = nix::pty::openpty(None, None).unwrap();
        let path = nix::unistd::ttyname(&console.slave).unwrap();
        let mut pins = PinSource::Consoles(vec![path]).open().unwrap();
        let mut keyboard = File::from(console.master);
        keyboard.write_all(b"\n123456\nabcdef\n").unwrap();
        assert_eq!(pins.next().await.as_str(), "123456");
        assert_eq!(pins.next().await.as_str(), "abcdef");
        let missing = PinSource::File("/nowhere/pin".into()).open();
        assert!(missing.is_err_and(|e| e.to_string().contains("/nowhere/pin")));
    }
}
