//! Somebody who attacks a node, a boot server or HQ as fast as it can, and an agent that connects as often as it can. Called by
//! `./dev bench trust`.
//!
//!     stranger MODE[@RATE] TARGET SECONDS ADDRESS...
//!
//! The addresses are this computer's, to come from in turn. RATE is packets in a second, for what is sent in packets; without
//! one they go as fast as a core sends. At the end it says how often it got through.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a program for people; it shares the attacker of the tests"
)]

#[path = "../../tests/it/attacker.rs"]
#[allow(dead_code, reason = "the tests use all of it")]
mod attacker;
mod beacon;
mod dhcp;
mod hq;
mod http;
mod packets;
mod peer;
mod tftp;

use std::{
    error::Error,
    net::{Ipv4Addr, SocketAddrV4},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::time::timeout;

type Failure = Box<dyn Error + Send + Sync>;

/// What is attacked, by whom, and how often it got through.
#[derive(Clone)]
struct Attack {
    target: SocketAddrV4,
    addresses: Vec<Ipv4Addr>,
    /// Packets in a second.
    rate: Option<u32>,
    through: Arc<AtomicU64>,
}

impl Attack {
    fn got_through(&self) {
        self.through.fetch_add(1, Ordering::Relaxed);
    }

    /// Each address so often.
    fn addresses(&self, at_once: usize) -> impl Iterator<Item = Ipv4Addr> {
        let count = self.addresses.len() * at_once;
        self.addresses.iter().cycle().take(count).copied()
    }
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [mode, target, seconds, addresses @ ..] = &arguments[..] else {
        return Err("stranger MODE[@RATE] TARGET SECONDS ADDRESS...".into());
    };
    let (mode, rate) = match mode.split_once('@') {
        Some((mode, rate)) => (mode, Some(rate.parse()?)),
        None => (mode.as_str(), None),
    };
    let lasts = Duration::from_secs(seconds.parse()?);
    // thousands of connections are part of it
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let attack = Attack {
        target: target.parse()?,
        addresses: addresses
            .iter()
            .map(|a| a.parse())
            .collect::<Result<_, _>>()?,
        rate,
        through: Arc::default(),
    };
    // it goes on until its time is over
    if let Ok(ended) = timeout(lasts, run(mode, attack.clone())).await {
        ended?;
    }
    println!(
        "{{\"through\": {}}}",
        attack.through.load(Ordering::Relaxed)
    );
    // threads that send packets never end by themselves
    std::process::exit(0);
}

async fn run(mode: &str, attack: Attack) -> Result<(), Failure> {
    match mode.split_once('-') {
        Some(("dhcp", how)) => dhcp::attack(how, attack).await,
        Some(("tftp", how)) => tftp::attack(how, attack).await,
        Some(("http", how)) => http::attack(how, attack).await,
        Some(("beacon", how)) => beacon::attack(how, attack).await,
        Some(("hq", how)) => hq::attack(how, attack).await,
        _ => peer::attack(mode, attack).await,
    }
}
