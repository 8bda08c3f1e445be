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
}

#[allow(clippy::print_stdout, reason = "a program for people")]
fn main() -> ExitCode {
    let arguments = Arguments::parse();
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
