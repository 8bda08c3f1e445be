//! A page that watches the whole chain.

use std::{collections::HashMap, time::Duration};

use serde::Deserialize;
use tokio::time::{Instant, timeout_at};

use crate::{Headquarters, line::Line, store::unix_millis};

#[derive(Deserialize)]
struct Machine {
    id: String,
    install: Option<Install>,
}

#[derive(Deserialize)]
struct Install {
    done_bytes: u64,
}

/// What is no moment of this time: progress that a table came with.
const MOMENT_MIN: u64 = 1_700_000_000_000;
/// Machines make progress so often, in milliseconds.
const STEP: u64 = 1000;

/// For each progress that a machine made, how many milliseconds later it was shown, or a newer one. Sorted.
pub(crate) async fn watch(hq: &Headquarters, time: Duration) -> Vec<u64> {
    let until = Instant::now() + time;
    let mut delays = Vec::new();
    let mut shown: HashMap<String, u64> = HashMap::new();
    let mut line = Line::open(hq, None).await.expect("HQ");
    let path = "/api/v1/live?seconds=300";
    line.get_endless(path, &hq.token).await.expect("a stream");
    while let Ok(read) = timeout_at(until, line.next_line()).await {
        let Some(json) = read.expect("a line").strip_prefix("data: ") else {
            continue;
        };
        let Ok(machine) = serde_json::from_str::<Machine>(json) else {
            continue;
        };
        let now = unix_millis();
        let made = machine.install.map_or(0, |install| install.done_bytes);
        if made < MOMENT_MIN {
            continue;
        }
        let before = shown.insert(machine.id, made);
        // what was made between the two was on no screen before this
        let mut at = before.map_or(made, |before| (before + STEP).min(made));
        while at < made {
            delays.push(now.saturating_sub(at));
            at += STEP;
        }
        if before != Some(made) {
            delays.push(now.saturating_sub(made));
        }
    }
    assert!(!delays.is_empty(), "nothing was shown");
    delays.sort_unstable();
    delays
}
