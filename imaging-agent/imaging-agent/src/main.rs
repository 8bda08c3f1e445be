//! The program that images one machine: booted in RAM as `/init`, or run by hand against a file or disk.
//! Introduces the peer cache, the plan and the disk to each other; decides nothing that a core can decide.
//! Called by firmware, by a technician, or by `lamplighter demo`.

mod admission;
mod by_hand;
mod certificate;
mod costs;
mod customise;
mod init;
mod install;
mod lent;
mod pins;
mod ram;
mod resume;
mod screen;
mod slab;
mod target;
mod writer;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{Parser, Subcommand};

/// How long the end waits for a task that is in the middle of a call to the kernel: a medium that hangs must not keep a
/// finished machine from its restart.
const LAST_CALLS_WITHIN: Duration = Duration::from_secs(5);

/// Images a machine from its neighbours.
#[derive(Parser)]
#[command(name = "lamplighter-agent", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Writes the version that the site orders to a disk or file.
    Image(ImageArguments),
    /// What the program does after it was booted in RAM.
    #[command(hide = true)]
    Run,
}

/// How to image by hand.
#[derive(clap::Args)]
pub(crate) struct ImageArguments {
    /// The disk or file to write. A file that is not there is made as large as the image.
    #[arg(long)]
    to: PathBuf,
    /// Address of a node of the site, with its port unless it is 4433.
    #[arg(long)]
    node: String,
    /// Only this version: its digest or the beginning of it.
    #[arg(long)]
    version: Option<String>,
    /// Keep the objects that are served to others in this file or partition, made when it is not there. By default they
    /// are in a file beside the target that is gone at the end.
    #[arg(long)]
    slab: Option<PathBuf>,
    /// Serve what was received until the program is ended.
    #[arg(long)]
    stay: bool,
    /// Write the outcome to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// The root document to trust. Without it the first root that the node shows is trusted, and said so.
    #[arg(long)]
    root: Option<PathBuf>,
    /// A file with the site's PIN, for a site that asks for one. Without it the PIN is asked for on the terminal.
    #[arg(long)]
    pin_file: Option<PathBuf>,
    /// Ends instead of waiting when the machine is not admitted at once.
    #[arg(long)]
    no_wait: bool,
}

fn main() -> ExitCode {
    if let Some(name) = init::modules::requested_by_kernel(std::env::args()) {
        return match init::modules::load_for_kernel(&name) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    if init::is_pid_one() {
        return ram::first_process();
    }
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("LAMPLIGHTER_LOG")
                .unwrap_or_else(|_| "warn".into()),
        )
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(peer_cache_node::network_threads())
        .enable_all()
        .build();
    let outcome = match runtime {
        Err(error) => Err(error.into()),
        Ok(runtime) => {
            let outcome = match arguments.command {
                Command::Image(arguments) => {
                    runtime.block_on(Box::pin(by_hand::by_hand(arguments)))
                }
                Command::Run => runtime.block_on(Box::pin(ram::run())),
            };
            runtime.shutdown_timeout(LAST_CALLS_WITHIN);
            outcome
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            screen::say(&format!("failed: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
