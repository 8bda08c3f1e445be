//! One site: its reporter, the machines that it images, and its other nodes.

use std::{
    io,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{
    sync::Semaphore,
    time::{Instant, MissedTickBehavior, interval_at, sleep},
};
use web_api::{
    Hex, InstallReport, InstallState, NodeReport, NumberedReport, ReportsAnswer, ReportsRequest,
    SiteStanding,
};

use crate::{
    Counts, Headquarters, Site,
    line::{Line, Secret, public_key},
};

const PATH: &str = "/api/v1/node/reports";
/// A node asks again so long after an answer.
const PAUSE: Duration = Duration::from_secs(1);
/// What is new goes to HQ so often at most.
const PACE: Duration = Duration::from_millis(500);
/// Machines make progress so often.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);
/// While it passes on progress, a reporter says so often who is there.
const BESIDE_EVERY: Duration = Duration::from_secs(10);
const OWN_CALL_EVERY: Duration = Duration::from_secs(600);

pub(crate) struct Store {
    pub(crate) hq: Headquarters,
    pub(crate) site: Site,
    pub(crate) counts: Arc<Counts>,
}

impl Store {
    /// For ever.
    pub(crate) async fn run(self, at_once: Arc<Semaphore>) {
        let reporter = self.site.nodes[0];
        let mut line = {
            // HQ has few places for those of whom it does not know yet who they are
            let _place = at_once.acquire().await;
            loop {
                match self.greet(reporter).await {
                    Ok(line) => break line,
                    Err(_) => sleep(PAUSE).await,
                }
            }
        };
        self.counts.connected.fetch_add(1, Relaxed);
        let others = self.site.nodes[1..].iter();
        let beside: Vec<Hex<32>> = others
            .map(|n| public_key(&Secret::of(*n)).parse().unwrap())
            .collect();
        let own_calls = self.own_calls();
        let reports = async {
            loop {
                let done = match self.site.imaged.is_empty() {
                    true => self.live(&mut line, &beside).await,
                    false => self.image(&mut line, &beside).await,
                };
                if let Err(error) = done {
                    eprintln!("node {reporter}: {error}");
                    self.counts.failed.fetch_add(1, Relaxed);
                    sleep(PAUSE).await;
                    if let Ok(new) = self.greet(reporter).await {
                        line = new;
                    }
                }
            }
        };
        tokio::join!(own_calls, reports);
    }

    /// Connects, and says for the first time that the node is there.
    async fn greet(&self, node: u64) -> io::Result<Line> {
        let mut line = Line::open(&self.hq, Some(node)).await?;
        line.post::<ReportsAnswer>(PATH, &request(Vec::new(), None, &[]))
            .await?;
        Ok(line)
    }

    /// Every other node calls once in ten minutes, one after the other.
    async fn own_calls(&self) {
        let others = &self.site.nodes[1..];
        let Ok(count) = u32::try_from(others.len()) else {
            return;
        };
        let every = OWN_CALL_EVERY / count.max(1);
        sleep(self.part_of(every)).await;
        for node in others.iter().cycle() {
            match self.greet(*node).await {
                Ok(_) => self.counts.own_calls.fetch_add(1, Relaxed),
                Err(error) => {
                    eprintln!("node {node}: {error}");
                    self.counts.failed.fetch_add(1, Relaxed)
                }
            };
            sleep(every).await;
        }
    }

    /// A part of a time that differs from site to site, so that not all do the same at once.
    fn part_of(&self, time: Duration) -> Duration {
        let part = u32::try_from(self.site.nodes[0] * 7919 % 1000).unwrap_or(0);
        time * part / 1000
    }

    async fn live(&self, line: &mut Line, beside: &[Hex<32>]) -> io::Result<()> {
        let mut known = None;
        loop {
            let request = request(Vec::new(), known, beside);
            let answer: ReportsAnswer = line.post(PATH, &request).await?;
            known = Some(answer.standing);
            self.counts.lives.fetch_add(1, Relaxed);
            sleep(PAUSE).await;
        }
    }

    async fn image(&self, line: &mut Line, beside: &[Hex<32>]) -> io::Result<()> {
        let machines: Vec<Hex<16>> = self
            .site
            .imaged
            .iter()
            .map(|m| m.parse().unwrap())
            .collect();
        let begun = Instant::now() + self.part_of(PACE);
        let mut turns = interval_at(begun, PACE);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let started = unix_millis();
        let (mut last, mut told) = (started, begun - BESIDE_EVERY);
        loop {
            turns.tick().await;
            let (now, step) = (unix_millis(), millis(PROGRESS_EVERY));
            let count = u64::try_from(machines.len()).unwrap();
            // each machine makes progress at a moment of its own
            let made = (0..count).zip(&machines).filter_map(|(n, machine)| {
                let offset = step * n / count + started % step;
                let at = (now - offset % step) / step * step + offset % step;
                (at > last && at <= now).then_some((*machine, at))
            });
            let made: Vec<_> = made.collect();
            last = now;
            let reports = (now..)
                .zip(made)
                .map(|(number, (machine, at))| NumberedReport {
                    number,
                    unix_seconds: now / 1000,
                    report: NodeReport::Install {
                        machine,
                        report: progress(at),
                    },
                });
            let reports: Vec<_> = reports.collect();
            let sent = u64::try_from(reports.len()).unwrap();
            let is_told = told.elapsed() >= BESIDE_EVERY;
            if is_told {
                told = Instant::now();
            }
            let request = request(reports, None, if is_told { beside } else { &[] });
            let _: ReportsAnswer = line.post(PATH, &request).await?;
            self.counts.progress.fetch_add(sent, Relaxed);
        }
    }
}

fn request(
    reports: Vec<NumberedReport>,
    known: Option<SiteStanding>,
    beside: &[Hex<32>],
) -> ReportsRequest {
    ReportsRequest {
        peer_port: 4433,
        reports,
        known,
        beside: beside.to_vec(),
    }
}

/// Bytes that are the moment itself.
fn progress(at: u64) -> InstallReport {
    InstallReport {
        state: InstallState::Writing,
        version: None,
        order: Some(1),
        done_bytes: at,
        total_bytes: at * 2,
        received_bytes: at,
        from: vec![("till-1".into(), 400), ("till-2".into(), 300)],
        peer: None,
        message: String::new(),
    }
}

pub(crate) fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    millis(since)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap()
}
