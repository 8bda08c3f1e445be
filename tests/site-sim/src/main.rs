//! Replays a seed, or runs many: `./dev sim --seed 7 --verbose`, `./dev sim --seeds 10000`.

use std::{
    num::NonZeroUsize,
    panic,
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use clap::Parser;
use site_sim::{
    Plan, Summary, Violation,
    chain::{Chain, Rollout, roll_out},
    ezio, run,
};

/// Of an object that a chain's sites fetch: what a chunk of an operating system is by zstd.
const OBJECT_BYTES: u32 = 311_000;

#[derive(Parser)]
struct Arguments {
    /// One run.
    #[arg(long)]
    seed: Option<u64>,
    /// The runs from 0 to here, on all cores.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// Ends at the first run that fails.
    #[arg(long)]
    first: bool,
    /// Prints every event.
    #[arg(long)]
    verbose: bool,
    /// No faults: a node that has everything and so many machines that want it at once, against the bound.
    #[arg(long)]
    machines: Option<usize>,
    /// A line of EZIO's table: so many machines with hard disks.
    #[arg(long)]
    ezio: Option<usize>,
    /// Their disks' rate, in MB/s.
    #[arg(long, default_value_t = ezio::DISK_BYTES_PER_SECOND / 1_000_000)]
    disk: u64,
    /// A chain of so many stores that get a new version at once.
    #[arg(long)]
    sites: Option<u32>,
    /// A store without its WAN for so many days, in which machines come and are imaged.
    #[arg(long)]
    offline: Option<u32>,
    /// Nodes in each store.
    #[arg(long, default_value_t = 2)]
    nodes: u32,
    /// Of HQ's line, in Gbit/s.
    #[arg(long, default_value_t = 10)]
    hq_gbit: u64,
    /// Chunks of the version.
    #[arg(long, default_value_t = 600)]
    chunks: u32,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(machines) = arguments.machines {
        return of_machines(Plan::of_machines(machines, arguments.chunks));
    }
    if let Some(machines) = arguments.ezio {
        return of_ezio(machines, arguments.chunks, arguments.disk * 1_000_000);
    }
    if let Some(days) = arguments.offline {
        return of_days(days);
    }
    if let Some(sites) = arguments.sites {
        return of_chain(Chain {
            seed: 1,
            sites,
            nodes: arguments.nodes,
            objects: arguments.chunks,
            object_bytes: OBJECT_BYTES,
            hq_bytes_per_second: arguments.hq_gbit * 125_000_000,
        });
    }
    match arguments.seed {
        Some(seed) => one(seed, arguments.verbose),
        None => many(arguments.seeds, arguments.first),
    }
}

#[allow(clippy::print_stdout, reason = "a program for people")]
fn one(seed: u64, verbose: bool) -> ExitCode {
    match run(Plan::of_seed(seed), verbose) {
        Ok(summary) => {
            println!("{summary:?}");
            ExitCode::SUCCESS
        }
        Err(violation) => {
            println!("{violation}");
            ExitCode::FAILURE
        }
    }
}

/// Seeds are independent of each other: each core takes the next one.
#[allow(clippy::print_stdout, reason = "a program for people")]
fn many(seeds: u64, first: bool) -> ExitCode {
    let started = Instant::now();
    let next = AtomicU64::new(0);
    let work = || -> Vec<Violation> {
        let mut found = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                return found;
            }
            let ended = panic::catch_unwind(|| run(Plan::of_seed(seed), false));
            let ended = ended.unwrap_or_else(|_| {
                Err(Violation {
                    what: "a panic".to_owned(),
                    at: Duration::ZERO,
                    seed,
                })
            });
            if let Err(violation) = ended {
                found.push(violation);
                if first {
                    next.store(seeds, Ordering::Relaxed);
                }
            }
        }
    };
    let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let mut found: Vec<Violation> = thread::scope(|scope| {
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        let joined = workers.into_iter().filter_map(|worker| worker.join().ok());
        joined.flatten().collect()
    });
    found.sort_by_key(|violation| violation.seed);
    found.iter().for_each(|violation| println!("{violation}"));
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{} failed of {seeds}, {seconds:.1} s on {cores} cores",
        found.len()
    );
    ExitCode::from(u8::from(!found.is_empty()))
}

#[allow(clippy::print_stdout, reason = "a program for people")]
fn of_machines(plan: Plan) -> ExitCode {
    match run(plan, false) {
        Ok(summary) => {
            println!("{}", line_of_machines(&plan, &summary));
            ExitCode::SUCCESS
        }
        Err(violation) => {
            println!("{violation}");
            ExitCode::FAILURE
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
fn line_of_machines(plan: &Plan, summary: &Summary) -> String {
    let seconds = summary.millis as f64 / 1000.0;
    let bound = plan.bound_seconds();
    format!(
        "{{\"machines\": {}, \"seconds\": {seconds:.3}, \"bound_seconds\": {bound:.3}, \"ratio\": {:.4}, \"sent_bytes\": {}, \"source_copies\": {:.4}, \"events\": {}}}",
        plan.agents,
        seconds / bound,
        summary.lan_bytes,
        summary.source_copies,
        summary.events
    )
}

/// A store that lost its WAN.
#[allow(clippy::print_stdout, reason = "a program for people")]
fn of_days(days: u32) -> ExitCode {
    let plan = Plan::offline(days);
    let started = Instant::now();
    match run(plan, false) {
        Ok(summary) => {
            println!(
                "{{\"days\": {days}, \"nodes\": {}, \"machines\": {}, \"wan_objects\": {}, \"chunks\": {}, \"events\": {}, \"cpu_seconds\": {:.1}}}",
                plan.nodes,
                plan.agents,
                summary.wan_objects,
                summary.chunks,
                summary.events,
                started.elapsed().as_secs_f64()
            );
            ExitCode::from(u8::from(summary.wan_objects != u64::from(summary.chunks)))
        }
        Err(violation) => {
            println!("{violation}");
            ExitCode::FAILURE
        }
    }
}

/// One line of EZIO's table, with what is written read back and without.
#[allow(clippy::print_stdout, reason = "a program for people")]
fn of_ezio(machines: usize, chunks: u32, disk: u64) -> ExitCode {
    let both = [2, 1].map(|passes| ezio::line(machines, chunks, disk, passes));
    let [Ok(read_back), Ok(written)] = both else {
        let violations = both.into_iter().filter_map(Result::err);
        violations.for_each(|violation| println!("{violation}"));
        return ExitCode::FAILURE;
    };
    println!(
        "{{\"machines\": {machines}, \"seconds\": {:.1}, \"seconds_without_reading_back\": {:.1}, \"lan_bytes\": {:.0}, \"source_copies\": {:.4}, \"disk_bytes_per_second\": {disk}, \"chunks\": {}, \"of_chunks\": {}, \"events\": {}}}",
        read_back.seconds,
        written.seconds,
        read_back.lan_bytes,
        read_back.source_copies,
        read_back.chunks,
        ezio::CHUNKS,
        read_back.events + written.events
    );
    ExitCode::SUCCESS
}

#[allow(clippy::print_stdout, reason = "a program for people")]
fn of_chain(chain: Chain) -> ExitCode {
    match roll_out(chain) {
        Ok(rollout) => {
            println!("{}", line_of_chain(&chain, &rollout));
            ExitCode::SUCCESS
        }
        Err(what) => {
            println!("{what}");
            ExitCode::FAILURE
        }
    }
}

fn line_of_chain(chain: &Chain, rollout: &Rollout) -> String {
    let [half, most, all] = rollout.seconds;
    let requests: Vec<String> = rollout
        .requests
        .iter()
        .map(|(what, count)| format!("\"{what}\": {count}"))
        .collect();
    format!(
        "{{\"sites\": {}, \"seconds_half\": {half}, \"seconds_99\": {most}, \"seconds\": {all}, \"wan_bytes\": {}, \"wan_ratio\": {:.5}, \"takeovers\": {}, \"requests\": {{{}}}, \"requests_peak\": {}, \"requests_peak_of_fetch\": {}, \"decision_nanos\": {}}}",
        chain.sites,
        rollout.wan_bytes,
        rollout.wan_ratio,
        rollout.takeovers,
        requests.join(", "),
        rollout.requests_peak,
        rollout.requests_peak_of_fetch,
        rollout.decision_nanos
    )
}
