//! `lamplighter`: HQ, node and command line in one program. Introduces the rooms to each other and configures them.
//! Decides nothing that a core can decide.
//! Called by people, by systemd and by `./dev`.

mod accounts;
mod client;
mod demo;
mod hq;
mod image;
mod keys;
mod media;
mod node;
mod people;
mod roots;
mod signing;
mod terminal;
mod vouchers;

use std::{io::Write, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

/// Images the computers of a chain of stores; every imaged machine lights the next.
#[derive(Parser)]
#[command(name = "lamplighter", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs HQ: catalogue, sites, origin of objects, page and API.
    Hq(hq::HqArguments),
    /// Runs a node: wakes, feeds and admits the machines of its store.
    Node(node::NodeArguments),
    /// Images and their versions.
    #[command(subcommand)]
    Image(image::ImageCommand),
    /// Keys that sign for the chain.
    #[command(subcommand)]
    Key(keys::KeyCommand),
    /// Which keys the chain trusts: drawn up and signed by people.
    #[command(subcommand)]
    Root(roots::RootCommand),
    /// What sites mean, where HQ does not hold the key that signs it.
    #[command(subcommand)]
    Channel(signing::ChannelCommand),
    /// Stores' networks.
    #[command(subcommand)]
    Site(people::SiteCommand),
    /// Instructions to image machines.
    #[command(subcommand)]
    Order(people::OrderCommand),
    /// Computers that are imaged.
    #[command(subcommand)]
    Machine(people::MachineCommand),
    /// Files with which a laptop, a stick or a spare machine admits machines where HQ cannot be reached.
    #[command(subcommand)]
    Voucher(vouchers::VoucherCommand),
    /// People's accounts: roles, and which sites they reach.
    #[command(subcommand)]
    User(accounts::UserCommand),
    /// What scripts show instead of a password.
    #[command(subcommand)]
    AccessToken(accounts::AccessTokenCommand),
    /// What people changed.
    #[command(subcommand)]
    Audit(accounts::AuditCommand),
    /// Lists nodes, or revokes one.
    Nodes(people::NodesArguments),
    /// WAN bytes by site and version.
    Ledger(people::LedgerArguments),
    /// What happened, the newest first.
    Events(people::EventsArguments),
    /// Prints what makes a shell complete these commands: put it where the shell looks for such files.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// What machines boot to be imaged.
    #[command(subcommand)]
    Media(media::MediaCommand),
    /// A whole chain in miniature on this computer: HQ, a site, a node, and machines imaged at once to files.
    Demo(demo::DemoArguments),
}

/// Which HQ a command talks to: the one of this computer unless told otherwise.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct HqChoice {
    /// HQ's address, such as https://hq.example:8443. By default the one in the token file.
    #[arg(long, env = "LAMPLIGHTER_HQ")]
    hq: Option<String>,
    /// A file with a token: the one that HQ writes into its folder, or an access token's. By default that of the HQ of this computer.
    #[arg(long, env = "LAMPLIGHTER_TOKEN_FILE")]
    token_file: Option<PathBuf>,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(crate) struct Output {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Output {
    /// Prints a result as JSON or as text.
    pub(crate) fn print<T: serde::Serialize>(
        self,
        value: &T,
        text: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<()> {
        let text = match self.json {
            true => serde_json::to_string_pretty(value)?,
            false => text(value),
        };
        writeln!(std::io::stdout(), "{}", text.trim_end())?;
        Ok(())
    }
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("LAMPLIGHTER_LOG")
                .unwrap_or_else(|_| "info".into()),
        )
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let arguments = Arguments::parse();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if matches!(arguments.command, Command::Node(_)) {
        runtime.worker_threads(peer_cache_node::network_threads());
    }
    let runtime = match runtime.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into()),
    };
    match runtime.block_on(Box::pin(run(arguments.command))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Hq(arguments) => hq::run(arguments).await,
        Command::Node(arguments) => Box::pin(node::run(arguments)).await,
        Command::Image(command) => image::run(command).await,
        Command::Key(command) => keys::run(command).await,
        Command::Root(command) => roots::run(command).await,
        Command::Channel(command) => signing::channel(command).await,
        Command::Site(command) => people::site(command).await,
        Command::Order(command) => people::order(command).await,
        Command::Machine(command) => people::machine(command).await,
        Command::Voucher(command) => vouchers::run(command).await,
        Command::User(command) => accounts::user(command).await,
        Command::AccessToken(command) => accounts::access_token(command).await,
        Command::Audit(command) => accounts::audit(command).await,
        Command::Nodes(arguments) => people::nodes(arguments).await,
        Command::Ledger(arguments) => people::ledger(arguments).await,
        Command::Events(arguments) => people::events(arguments).await,
        Command::Completions { shell } => completions(shell, &mut std::io::stdout()),
        Command::Media(command) => media::run(command).await,
        Command::Demo(arguments) => Box::pin(demo::run(arguments)).await,
    }
}

/// A file that makes a shell complete the commands.
fn completions(shell: clap_complete::Shell, out: &mut impl std::io::Write) -> anyhow::Result<()> {
    let mut file = Vec::new();
    let mut command = <Arguments as clap::CommandFactory>::command();
    clap_complete::generate(shell, &mut command, "lamplighter", &mut file);
    Ok(out.write_all(&file)?)
}

#[allow(
    clippy::print_stderr,
    reason = "an error of a command goes to standard error"
)]
fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("lamplighter: {error:#}");
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, ValueEnum};

    use super::*;

    #[test]
    fn commands_fit_together_and_every_shell_completes_them() {
        Arguments::command().debug_assert();
        for shell in clap_complete::Shell::value_variants() {
            let mut file = Vec::new();
            completions(*shell, &mut file).unwrap();
            let file = String::from_utf8(file).unwrap();
            for word in ["restore", "access-token", "--dry-run", "imaging"] {
                let word = word.trim_start_matches('-');
                assert!(file.contains(word), "{shell}: {word}");
            }
        }
    }
}
