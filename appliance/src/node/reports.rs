//! Reports for HQ: numbered, kept on disk while HQ is away, delivered in order, each once.

use std::{
    collections::{BTreeMap, VecDeque},
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use peer_cache_node::write_durably;
use tokio::sync::Notify;
use web_api::{Hex, InstallReport, NodeReport, NumberedReport, REPORTS_MAX};

/// Reports that wait for HQ. When there are more, the oldest that tell of an offer make room, which anybody can ask for; then those
/// that only tell of progress; then the oldest of all.
const WAITING_MAX: usize = 20_000;

/// The queue. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Reports {
    shared: Arc<Mutex<Queue>>,
    news: Arc<Notify>,
}

struct Queue {
    folder: PathBuf,
    waiting: VecDeque<NumberedReport>,
    last: u64,
    /// Progress that is replaced by newer progress until it is sent: it is worth nothing later.
    progress: BTreeMap<Hex<16>, InstallReport>,
}

impl Reports {
    /// Opens the queue's folder.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let mut waiting: Vec<NumberedReport> = Vec::new();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            // a file that was being written when the power went is not a report yet
            if let Ok(report) = serde_json::from_slice(&fs::read(&path)?) {
                waiting.push(report);
            }
        }
        waiting.sort_by_key(|r| r.number);
        let counted = fs::read_to_string(folder.with_extension("last"))
            .ok()
            .and_then(|t| t.trim().parse().ok());
        let last = waiting
            .last()
            .map_or(0, |r| r.number)
            .max(counted.unwrap_or(0));
        Ok(Self {
            shared: Arc::new(Mutex::new(Queue {
                folder: folder.to_owned(),
                waiting: waiting.into(),
                last,
                progress: BTreeMap::new(),
            })),
            news: Arc::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a report durably.
    pub(crate) fn add(&self, report: NodeReport) {
        self.lock().add(report);
        self.news.notify_one();
    }

    /// Whether something waits to be sent.
    pub(crate) fn waits(&self) -> bool {
        let queue = self.lock();
        !queue.waiting.is_empty() || !queue.progress.is_empty()
    }

    /// Waits for something to report. What was reported before may end the wait once.
    pub(crate) async fn news(&self) {
        self.news.notified().await;
    }

    /// Tells how far an install is; a new state is kept, progress within one is replaced by newer progress.
    pub(crate) fn progress(&self, machine: Hex<16>, report: InstallReport) {
        let mut queue = self.lock();
        let before = queue.progress.insert(machine, report.clone());
        if before.is_none_or(|b| b.state != report.state) {
            queue.add(NodeReport::Install { machine, report });
        }
        drop(queue);
        self.news.notify_one();
    }

    /// What to send now: the oldest that wait, or the newest progress when nothing waits.
    pub(crate) fn to_send(&self) -> Vec<NumberedReport> {
        let mut queue = self.lock();
        if queue.waiting.is_empty() {
            let news: Vec<_> = std::mem::take(&mut queue.progress)
                .into_iter()
                .take(REPORTS_MAX)
                .collect();
            let unix_seconds = unix_seconds();
            // live progress is numbered like the rest, and never stored: if it is lost, the next one says more
            for (machine, report) in news {
                queue.last += 1;
                let number = queue.last;
                queue.progress.insert(machine, report.clone());
                queue.waiting.push_back(NumberedReport {
                    number,
                    unix_seconds,
                    report: NodeReport::Install { machine, report },
                });
            }
            queue.save_last();
        }
        queue.waiting.iter().take(REPORTS_MAX).cloned().collect()
    }

    /// HQ has stored everything up to this number.
    pub(crate) fn forget(&self, stored: u64) {
        let mut queue = self.lock();
        while queue.waiting.front().is_some_and(|r| r.number <= stored) {
            if let Some(report) = queue.waiting.pop_front() {
                // live progress has no file
                let _ = fs::remove_file(queue.folder.join(report.number.to_string()));
                if let NodeReport::Install { machine, report } = report.report
                    && queue.progress.get(&machine) == Some(&report)
                {
                    queue.progress.remove(&machine);
                }
            }
        }
    }
}

impl Queue {
    fn add(&mut self, report: NodeReport) {
        self.last += 1;
        let report = NumberedReport {
            number: self.last,
            unix_seconds: unix_seconds(),
            report,
        };
        let path = self.folder.join(report.number.to_string());
        let saved = serde_json::to_vec(&report)
            .map_err(io::Error::other)
            .and_then(|bytes| write_durably(&path, &bytes));
        if let Err(error) = saved {
            tracing::error!(%error, "a report is kept in memory only");
        }
        self.save_last();
        self.waiting.push_back(report);
        while self.waiting.len() > WAITING_MAX {
            let is_offer = |r: &NumberedReport| matches!(r.report, NodeReport::Boot { .. });
            let is_progress = |r: &NumberedReport| matches!(r.report, NodeReport::Install { .. });
            let offer = self.waiting.iter().position(is_offer);
            let victim = offer.or_else(|| self.waiting.iter().position(is_progress));
            let victim = victim.unwrap_or(0);
            if let Some(dropped) = self.waiting.remove(victim) {
                tracing::warn!(
                    number = dropped.number,
                    "too many reports wait for HQ: dropped one"
                );
                let _ = fs::remove_file(self.folder.join(dropped.number.to_string()));
            }
        }
    }

    /// Numbers are never used twice, also when every report was delivered before a restart.
    fn save_last(&self) {
        if let Err(error) = write_durably(
            &self.folder.with_extension("last"),
            self.last.to_string().as_bytes(),
        ) {
            tracing::error!(%error, "the number of the last report");
        }
    }
}

fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trouble(n: u64) -> NodeReport {
        NodeReport::Trouble {
            message: n.to_string(),
        }
    }

    #[test]
    fn reports_survive_a_restart_in_order_and_numbers_never_return() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("reports");
        let reports = Reports::open(&path).unwrap();
        (1..=12).for_each(|n| reports.add(trouble(n)));
        reports.forget(3);
        drop(reports);
        let reports = Reports::open(&path).unwrap();
        let waiting: Vec<u64> = reports.to_send().iter().map(|r| r.number).collect();
        assert_eq!(waiting, (4..=12).collect::<Vec<_>>());
        reports.forget(12);
        drop(reports);
        let reports = Reports::open(&path).unwrap();
        reports.add(trouble(13));
        assert_eq!(reports.to_send()[0].number, 13);
    }

    #[test]
    fn progress_is_sent_live_and_states_are_kept() {
        let folder = tempfile::TempDir::new().unwrap();
        let reports = Reports::open(&folder.path().join("reports")).unwrap();
        let report = |state, done_bytes| InstallReport {
            state,
            version: None,
            order: None,
            done_bytes,
            total_bytes: 100,
            received_bytes: 0,
            from: vec![],
            peer: None,
            message: String::new(),
        };
        use web_api::InstallState::{Verifying, Writing};
        for done in 0..50 {
            reports.progress(Hex([1; 16]), report(Writing, done));
        }
        reports.progress(Hex([1; 16]), report(Verifying, 0));
        assert_eq!(reports.to_send().len(), 2, "two states");
        reports.forget(2);
        reports.progress(Hex([1; 16]), report(Verifying, 60));
        let live = reports.to_send();
        assert!(
            matches!(&live[..], [NumberedReport { report: NodeReport::Install { report, .. }, .. }] if report.done_bytes == 60)
        );
    }
}
