//! Replays a seed, or runs many: `cargo run -p site-sim -- --seed 7 --verbose`, `--seeds 1000`.

use std::process::ExitCode;

use clap::Parser;
use site_sim::{Plan, run};

#[derive(Parser)]
struct Arguments {
    /// One run.
    #[arg(long)]
    seed: Option<u64>,
    /// The runs from 0 to here.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// Prints every event.
    #[arg(long)]
    verbose: bool,
    /// No faults: a node that has everything and so many machines that want it at once, against the bound.
    #[arg(long)]
    machines: Option<usize>,
    /// Chunks of the version that these machines want.
    #[arg(long, default_value_t = 600)]
    chunks: u32,
}

#[allow(clippy::print_stdout, reason = "a program for people")]
fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(machines) = arguments.machines {
        return of_machines(Plan::of_machines(machines, arguments.chunks));
    }
    let seeds = match arguments.seed {
        Some(seed) => seed..seed + 1,
        None => 0..arguments.seeds,
    };
    let mut failed = 0;
    for seed in seeds {
        match run(Plan::of_seed(seed), arguments.verbose) {
            Ok(summary) if arguments.seed.is_some() => println!("{summary:?}"),
            Ok(_) => {}
            Err(violation) => {
                println!("{violation}");
                failed += 1;
            }
        }
    }
    println!("{failed} failed");
    ExitCode::from(u8::from(failed > 0))
}

#[allow(
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a program for people"
)]
fn of_machines(plan: Plan) -> ExitCode {
    match run(plan, false) {
        Ok(summary) => {
            let seconds = summary.millis as f64 / 1000.0;
            let bound = plan.bound_seconds();
            println!(
                "{{\"machines\": {}, \"seconds\": {seconds:.3}, \"bound_seconds\": {bound:.3}, \"ratio\": {:.4}, \"sent_bytes\": {}, \"source_copies\": {:.4}, \"events\": {}}}",
                plan.agents,
                seconds / bound,
                summary.lan_bytes,
                summary.source_copies,
                summary.events
            );
            ExitCode::SUCCESS
        }
        Err(violation) => {
            println!("{violation}");
            ExitCode::FAILURE
        }
    }
}
