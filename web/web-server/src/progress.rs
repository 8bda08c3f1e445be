//! How far machines are that are being imaged, written together a few times a second.
//!
//! A machine tells twice a second how far it is, and a rollout has thousands of them. What it tells within one state is worth nothing a moment
//! later, so it is kept here and written with that of others. A new state, an end and whatever else a node reports is written before it is
//! answered.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::time::{MissedTickBehavior, interval};
use trust_format::{MachineId, PublicKey, SiteId};
use web_api::{Hex, InstallReport, InstallState, NodeReport, NumberedReport};

use crate::{
    Hq,
    access::Node,
    database::{machines, unix_seconds},
    reports::clip_install,
};

/// So much later at most those who watch are told.
const WRITTEN_EVERY: Duration = Duration::from_millis(200);
/// Machines that are written in one statement.
const WRITTEN_AT_ONCE: usize = 200;
/// A machine that says nothing for so long tells its state anew.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(30);
/// Machines that are followed here; the progress of others is written like everything else.
const FOLLOWED_MAX: usize = 16_384;

type Place = (SiteId, MachineId);

/// Machines whose state is written.
#[derive(Debug, Default)]
pub(crate) struct Progress(Mutex<Followed>);

#[derive(Debug, Default)]
struct Followed {
    machines: BTreeMap<Place, Machine>,
    /// What is newer than in the database.
    news: BTreeMap<Place, InstallReport>,
}

/// As the database has it.
#[derive(Debug)]
struct Machine {
    by: PublicKey,
    /// Of its last report.
    number: u64,
    stage: Stage,
    heard: Instant,
}

/// What is the same in two reports that differ in progress alone.
type Stage = (InstallState, Option<Hex<32>>, Option<u64>);

/// Nothing for a state that does not last, or that an install ends with.
fn stage(report: &InstallReport) -> Option<Stage> {
    let moves = matches!(
        report.state,
        InstallState::Writing | InstallState::Verifying
    );
    moves.then_some((report.state, report.version, report.order))
}

fn installs<'a>(
    node: &'a Node,
    reports: &'a [NumberedReport],
) -> impl Iterator<Item = (Place, u64, &'a InstallReport)> {
    reports
        .iter()
        .filter_map(|numbered| match &numbered.report {
            NodeReport::Install { machine, report } => {
                Some(((node.site, MachineId(machine.0)), numbered.number, report))
            }
            _ => None,
        })
}

impl Progress {
    fn lock(&self) -> MutexGuard<'_, Followed> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports of a node are in a transaction: what waits of its machines is older, and is not written over it.
    pub(crate) fn handle_writing(&self, node: &Node, reports: &[NumberedReport]) {
        let mut followed = self.lock();
        for (place, _, _) in installs(node, reports) {
            followed.news.remove(&place);
            followed.machines.remove(&place);
        }
    }

    /// They are written.
    pub(crate) fn handle_written(&self, node: &Node, reports: &[NumberedReport]) {
        let mut followed = self.lock();
        for (place, number, report) in installs(node, reports) {
            match stage(report) {
                Some(stage) => followed.follow(place, node.key, number, stage),
                None => {
                    followed.machines.remove(&place);
                }
            }
        }
    }

    /// Takes reports of a node if all of them tell of progress within states that are written. Says whether it did.
    pub(crate) fn take(&self, node: &Node, reports: &[NumberedReport]) -> bool {
        let mut followed = self.lock();
        let mut taken = Vec::with_capacity(reports.len());
        for numbered in reports {
            let NodeReport::Install { machine, report } = &numbered.report else {
                return false;
            };
            let place = (node.site, MachineId(machine.0));
            let is_within = followed.machines.get(&place).is_some_and(|known| {
                known.by == node.key
                    && known.number < numbered.number
                    && Some(known.stage) == stage(report)
                    && known.heard.elapsed() < FORGOTTEN_AFTER
            });
            if !is_within {
                return false;
            }
            let mut report = report.clone();
            clip_install(&mut report);
            taken.push((place, numbered.number, report));
        }
        let now = Instant::now();
        for (place, number, report) in taken {
            if let Some(known) = followed.machines.get_mut(&place) {
                (known.number, known.heard) = (number, now);
            }
            followed.news.insert(place, report);
        }
        true
    }

    fn has_news(&self) -> bool {
        !self.lock().news.is_empty()
    }

    fn take_news(&self) -> Vec<(Place, InstallReport)> {
        let mut followed = self.lock();
        let now = Instant::now();
        followed
            .machines
            .retain(|_, m| now.duration_since(m.heard) < FORGOTTEN_AFTER);
        std::mem::take(&mut followed.news).into_iter().collect()
    }
}

impl Followed {
    fn follow(&mut self, place: Place, by: PublicKey, number: u64, stage: Stage) {
        if self.machines.len() < FOLLOWED_MAX || self.machines.contains_key(&place) {
            let heard = Instant::now();
            let machine = Machine {
                by,
                number,
                stage,
                heard,
            };
            self.machines.insert(place, machine);
        }
    }
}

/// Writes it, for ever. What cannot be written is old when it could be.
pub(crate) async fn keep_writing(hq: Arc<Hq>) {
    let mut beat = interval(WRITTEN_EVERY);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        beat.tick().await;
        if !hq.progress.has_news() {
            continue;
        }
        let written = async {
            // only who may write takes them: what another transaction makes old it has taken away by then
            let mut change = hq.database.write().await?;
            let news = hq.progress.take_news();
            for some in news.chunks(WRITTEN_AT_ONCE) {
                machines::put_progress(&mut change, some, unix_seconds()).await?;
            }
            change.commit().await
        };
        if let Err(error) = written.await {
            tracing::debug!(%error, "how far machines are is not written");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: Node = Node {
        key: PublicKey([1; 32]),
        site: SiteId([2; 16]),
        is_replaced: false,
    };

    fn report(number: u64, machine: u8, state: InstallState, done_bytes: u64) -> NumberedReport {
        let report = InstallReport {
            state,
            version: None,
            order: Some(3),
            done_bytes,
            total_bytes: 100,
            received_bytes: 0,
            from: vec![],
            peer: None,
            message: String::new(),
        };
        NumberedReport {
            number,
            unix_seconds: 1,
            report: NodeReport::Install {
                machine: Hex([machine; 16]),
                report,
            },
        }
    }

    #[test]
    fn only_progress_within_a_written_state_waits() {
        use InstallState::{Done, Failed, Verifying, Writing};
        let progress = Progress::default();
        let first = [report(1, 1, Writing, 0)];
        assert!(!progress.take(&NODE, &first), "its state is new");
        progress.handle_written(&NODE, &first);
        assert!(progress.take(&NODE, &[report(2, 1, Writing, 10)]));
        assert!(progress.take(&NODE, &[report(3, 1, Writing, 20)]));
        let news = progress.take_news();
        assert!(news.len() == 1 && news[0].1.done_bytes == 20, "{news:?}");
        for refused in [
            report(3, 1, Writing, 20),
            report(4, 1, Verifying, 0),
            report(4, 2, Writing, 0),
            report(4, 1, Failed, 0),
        ] {
            assert!(
                !progress.take(&NODE, std::slice::from_ref(&refused)),
                "{refused:?}"
            );
        }
        // one of several is enough
        let mixed = [report(4, 1, Writing, 30), report(5, 2, Writing, 0)];
        assert!(!progress.take(&NODE, &mixed));
        assert!(progress.take_news().is_empty());
        let other = Node {
            key: PublicKey([9; 32]),
            ..NODE
        };
        assert!(!progress.take(&other, &[report(9, 1, Writing, 30)]));
        // what waits when it ends is not written over the end
        assert!(progress.take(&NODE, &[report(6, 1, Writing, 90)]));
        let end = [report(7, 1, Done, 100)];
        progress.handle_writing(&NODE, &end);
        assert!(progress.take_news().is_empty());
        progress.handle_written(&NODE, &end);
        assert!(!progress.take(&NODE, &[report(8, 1, Writing, 10)]));
    }

    #[test]
    fn what_waits_is_as_short_as_what_is_written() {
        let progress = Progress::default();
        let long = |number| {
            let mut report = report(number, 1, InstallState::Writing, number);
            if let NodeReport::Install { report, .. } = &mut report.report {
                report.message = "x".repeat(1 << 20);
                report.from = vec![("y".repeat(1 << 20), 1); 1000];
            }
            [report]
        };
        progress.handle_written(&NODE, &long(1));
        assert!(progress.take(&NODE, &long(2)));
        let (_, report) = &progress.take_news()[0];
        assert!(serde_json::to_string(report).unwrap().len() < 64 << 10);
    }

    #[test]
    fn no_more_machines_are_followed_than_there_is_room_for() {
        let progress = Progress::default();
        let mut followed = progress.lock();
        let stage = (InstallState::Writing, None, None);
        for n in 0..FOLLOWED_MAX + 10 {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&n.to_le_bytes());
            followed.follow((NODE.site, MachineId(id)), NODE.key, 1, stage);
        }
        assert_eq!(followed.machines.len(), FOLLOWED_MAX);
    }
}
