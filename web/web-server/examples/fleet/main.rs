//! The nodes of a whole chain, as HQ hears them. Called by `./dev bench hq`.
//!
//!     fleet keys COUNT
//!     fleet run TOKEN-FILE PLAN SECONDS
//!
//! `keys` prints the public keys of nodes 0 to COUNT. `run` reads PLAN, a line of JSON for each site: the numbers of its nodes, the first of
//! which reports for all of them, and the ids of machines that it images. It connects every reporter, and then for so many seconds:
//!
//! - a reporter says that its nodes are there, HQ holds the question, and a second after the answer it asks again;
//! - a machine tells its reporter every second how far it is, each at a moment of its own; a reporter passes on what is new every 500 ms;
//! - every other node calls HQ itself once in ten minutes, over a connection of its own;
//! - one page watches the whole chain, by the token of HQ's own computer, whose file also says where HQ is.
//!
//! A machine's progress is the moment at which it was made, so the page knows how late it came. Prints a line `running` when all are
//! connected, and a line of JSON at the end.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a program for people"
)]

mod line;
mod page;
#[path = "../../tests/it/pinned.rs"]
mod pinned;
mod store;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use line::{Secret, public_key};
use serde::Deserialize;
use tokio::{task::JoinSet, time::sleep};

/// Reporters that connect at once; each costs both sides a handshake.
const CONNECTING: usize = 64;
/// Progress is watched when the first round is over.
const SETTLES: Duration = Duration::from_secs(15);

/// Where HQ is, how it is known, and what it gives a page.
#[derive(Debug, Clone)]
struct Headquarters {
    address: String,
    token: String,
    fingerprint: [u8; 32],
}

impl Headquarters {
    /// A file with three lines: token, address, fingerprint.
    fn read(token_file: &str) -> Self {
        let text = std::fs::read_to_string(token_file).expect("a token file");
        let [token, url, fingerprint] = text.lines().collect::<Vec<_>>()[..] else {
            panic!("{token_file} has not three lines");
        };
        let address = url.trim_start_matches("https://").to_owned();
        Self {
            address,
            token: token.to_owned(),
            fingerprint: fingerprint.parse::<web_api::Hex<32>>().unwrap().0,
        }
    }
}

/// One line of the plan.
#[derive(Debug, Clone, Deserialize)]
struct Site {
    nodes: Vec<u64>,
    imaged: Vec<String>,
}

/// What was done so far.
#[derive(Debug, Default)]
struct Counts {
    connected: AtomicU64,
    lives: AtomicU64,
    progress: AtomicU64,
    own_calls: AtomicU64,
    /// Answers other than 200, and lines that broke.
    failed: AtomicU64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["keys", count] => {
            let count: u64 = count.parse().expect("a count");
            (0..count).for_each(|n| println!("{}", public_key(&Secret::of(n))));
        }
        ["run", token_file, plan, seconds] => {
            let hq = Headquarters::read(token_file);
            let plan = std::fs::read_to_string(plan).expect("a plan");
            let sites = plan.lines().map(|line| serde_json::from_str(line).unwrap());
            let seconds = seconds.parse().expect("seconds");
            run(&hq, sites.collect(), Duration::from_secs(seconds)).await;
        }
        _ => panic!("fleet keys COUNT | fleet run TOKEN-FILE PLAN SECONDS"),
    }
}

async fn run(hq: &Headquarters, sites: Vec<Site>, time: Duration) {
    let counts = Arc::new(Counts::default());
    let all = u64::try_from(sites.len()).unwrap();
    let at_once = Arc::new(tokio::sync::Semaphore::new(CONNECTING));
    let mut tasks = JoinSet::new();
    for site in sites {
        let store = store::Store {
            hq: hq.clone(),
            site,
            counts: counts.clone(),
        };
        tasks.spawn(store.run(at_once.clone()));
    }
    while counts.connected.load(Relaxed) < all {
        sleep(Duration::from_millis(100)).await;
    }
    sleep(SETTLES).await;
    println!("running");
    let before: Vec<u64> = figures(&counts).collect();
    let delays = page::watch(hq, time).await;
    let done = figures(&counts)
        .zip(before)
        .map(|(now, before)| now - before);
    let done: Vec<u64> = done.collect();
    let at = |percent: usize| delays[(delays.len() - 1) * percent / 100];
    println!(
        "{}",
        serde_json::json!({
            "lives": done[0], "progress": done[1], "own_calls": done[2], "failed": done[3],
            "shown": delays.len(), "delay_ms_p50": at(50), "delay_ms_p99": at(99), "delay_ms_max": at(100),
        })
    );
}

fn figures(counts: &Counts) -> impl Iterator<Item = u64> {
    [
        &counts.lives,
        &counts.progress,
        &counts.own_calls,
        &counts.failed,
    ]
    .into_iter()
    .map(|count| count.load(Relaxed))
}
