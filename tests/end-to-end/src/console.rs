//! Reading a console or a log that grows while it is read.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// What ends a wait at once, whatever is waited for.
const FAILURES: [&str; 4] = [
    "Kernel panic",
    "agent: failed:",
    "agent: ended with",
    "panicked at",
];
/// How much is shown of a console when a wait fails.
const TAIL_LINES: usize = 60;
const POLL: Duration = Duration::from_millis(100);

/// A file of lines that another program writes.
#[derive(Debug)]
pub struct Console {
    path: PathBuf,
    mark: usize,
}

impl Console {
    /// Reads `path` from its beginning; it need not be there yet.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path, mark: 0 }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// From now on only what comes later counts: what an earlier start of the machine said is no answer.
    pub fn forget(&mut self) {
        self.mark = self.bytes().len();
    }

    /// The rest of each finished line that contains `what`, from `what` on.
    #[must_use]
    pub fn all(&self, what: &str) -> Vec<String> {
        let bytes = self.bytes();
        let text = String::from_utf8_lossy(bytes.get(self.mark..).unwrap_or_default());
        // A line that is still being written could be cut in the middle of an address.
        let finished = text.rfind(['\n', '\r']).map_or("", |end| &text[..end]);
        finished
            .split(['\n', '\r'])
            .filter_map(|line| {
                line.find(what)
                    .map(|start| line[start..].trim_end().to_owned())
            })
            .collect()
    }

    /// The first finished line with `what`, from `what` on.
    #[must_use]
    pub fn first(&self, what: &str) -> Option<String> {
        self.all(what).into_iter().next()
    }

    /// Waits for a line with `what` and answers it from `what` on. `alive` fails when the writer is gone for good.
    ///
    /// # Errors
    /// When the time is over, `alive` fails, or the console shows a failure: with the last lines of the console.
    pub fn wait_for(
        &self,
        what: &str,
        timeout: Duration,
        mut alive: impl FnMut() -> Result<()>,
    ) -> Result<String> {
        let started = Instant::now();
        loop {
            // Asked before the file is read: what a program wrote before its end counts.
            let life = alive();
            if let Some(line) = self.first(what) {
                return Ok(line);
            }
            let failure = FAILURES.iter().find_map(|failure| self.first(failure));
            let reason = match (failure, life) {
                (Some(failure), _) => failure,
                (None, Err(gone)) => gone.to_string(),
                (None, Ok(())) if started.elapsed() > timeout => {
                    format!("nothing in {} s", timeout.as_secs())
                }
                (None, Ok(())) => {
                    std::thread::sleep(POLL);
                    continue;
                }
            };
            bail!(
                "{}: waiting for {what:?}: {reason}\n{}",
                self.path.display(),
                self.tail()
            );
        }
    }

    /// The last lines, for people.
    #[must_use]
    pub fn tail(&self) -> String {
        let bytes = self.bytes();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.split(['\n', '\r']).filter(|l| !l.is_empty()).collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(&self.path).unwrap_or_default()
    }
}
