//! `lamplighter hq`.

use std::{
    convert::Infallible, io::Write, net::SocketAddr, os::unix::fs::DirBuilderExt, path::PathBuf,
};

use anyhow::{Context, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use web_api::HQ_PORT;
use web_server::{
    Bucket, CONNECTIONS_MAX, DatabasePlace, HqConfig, PageDoor, ParseDatabasePlaceError, RunningHq,
    back_up, restore,
};

use crate::client::word_of_local_hq;

/// How to run HQ.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct HqArguments {
    #[command(subcommand)]
    command: Option<HqCommand>,
    /// Where HQ keeps keys, database and objects; made at the first start.
    #[arg(long, required = true)]
    dir: Option<PathBuf>,
    /// Where to listen. Loopback unless told otherwise: then nobody else reaches it.
    #[arg(long, default_value_t = SocketAddr::from(([127, 0, 0, 1], HQ_PORT)))]
    listen: SocketAddr,
    /// An address under which stores reach this HQ, such as https://hq.example:8443; may be given several times.
    #[arg(long = "url")]
    urls: Vec<String>,
    /// Its database: sqlite:PATH, or postgres://USER@HOST/DATABASE, which several HQs may share; a file in --dir unless told otherwise.
    /// A password is better kept out of the command line: in PGPASSWORD, in the file that PGPASSFILE names, or in this variable.
    #[arg(
        long,
        env = "LAMPLIGHTER_DATABASE",
        hide_env_values = true,
        value_name = "URL",
        value_parser = database_place
    )]
    database: Option<ParsedPlace>,
    /// Where its objects are: s3://BUCKET or s3://BUCKET/PREFIX; a folder in --dir unless told otherwise. Endpoint, region and credentials
    /// come from AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and their kin.
    #[arg(long, env = "LAMPLIGHTER_OBJECTS", value_name = "URL")]
    objects: Option<Bucket>,
    /// Where people's browsers come in, beside --listen: with a certificate that they believe. Nodes go on pinning HQ's own.
    #[arg(long, value_name = "ADDRESS", requires_all = ["page_certificate", "page_key"])]
    page_listen: Option<SocketAddr>,
    /// Its certificate and those that it leans on, in PEM. A renewed one is taken within seconds.
    #[arg(long, value_name = "FILE", requires = "page_listen")]
    page_certificate: Option<PathBuf>,
    /// Its key, in PEM.
    #[arg(long, value_name = "FILE", requires = "page_listen")]
    page_key: Option<PathBuf>,
    /// Under which address people know the page, such as https://lamplighter.example.
    #[arg(long, value_name = "URL", requires = "page_listen")]
    page_url: Option<String>,
}

/// Backups.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum HqCommand {
    /// Makes a backup of an HQ that may be running: keys, certificate, token, database, and objects. Into a folder with an earlier backup
    /// only new objects are copied.
    Backup {
        /// HQ's folder.
        #[arg(long)]
        dir: PathBuf,
        /// Where the backup goes: whoever reads it can sign as HQ does.
        #[arg(long)]
        to: PathBuf,
        /// HQ's database, if it is another one than the file in its folder. A PostgreSQL server's is left to pg_dump.
        #[arg(long, env = "LAMPLIGHTER_DATABASE", hide_env_values = true, value_name = "URL", value_parser = database_place)]
        database: Option<ParsedPlace>,
        /// Leave the objects out: something else copies them.
        #[arg(long)]
        without_objects: bool,
    },
    /// Makes HQ's folder out of a backup. Numbers go on above whatever was given since, so that every node follows.
    Restore {
        /// The backup.
        #[arg(long)]
        from: PathBuf,
        /// HQ's folder; it is new.
        #[arg(long)]
        dir: PathBuf,
        /// A PostgreSQL database that pg_restore has filled; it counts on.
        #[arg(long, env = "LAMPLIGHTER_DATABASE", hide_env_values = true, value_name = "URL", value_parser = database_place)]
        database: Option<ParsedPlace>,
    },
}

#[allow(clippy::print_stdout, reason = "what the user waits for")]
async fn keep(command: HqCommand) -> Result<()> {
    match command {
        HqCommand::Backup {
            dir,
            to,
            database,
            without_objects,
        } => {
            let database = database.transpose().context("--database")?;
            let copied = back_up(&dir, database.as_ref(), &to, !without_objects)
                .await
                .with_context(|| format!("making a backup of {}", dir.display()))?;
            let without = match copied.database {
                true => "",
                false => " The database is not in it: pg_dump makes that.",
            };
            let (to, objects) = (to.display(), copied.objects);
            println!("backup in {to}: {objects} objects are new.{without}");
        }
        HqCommand::Restore {
            from,
            dir,
            database,
        } => {
            let database = database.transpose().context("--database")?;
            restore(&from, &dir, database.as_ref())
                .await
                .with_context(|| format!("restoring {}", dir.display()))?;
            println!(
                "HQ of {} is in {}. Nobody is signed in.\nWhat was done since the backup has to be done again: nodes, vouchers and access tokens that were revoked, a root that was published.",
                from.display(),
                dir.display()
            );
        }
    }
    Ok(())
}

/// A place or why it is none. Not an error yet: the one that a wrong argument makes would show the whole of it, and a password is in it.
type ParsedPlace = Result<DatabasePlace, ParseDatabasePlaceError>;

fn database_place(text: &str) -> Result<ParsedPlace, Infallible> {
    Ok(text.parse())
}

/// Files that HQ has open beside its connections: its database, objects, libraries.
const OTHER_FILES: u64 = 512;

/// A connection is a file, and a program begins with leave to open 1,024.
fn allow_connections() {
    let wanted = CONNECTIONS_MAX as u64 + OTHER_FILES;
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        let most = wanted.max(soft).min(hard);
        setrlimit(Resource::RLIMIT_NOFILE, most, hard).map(|()| most)
    });
    match raised {
        Ok(most) if most >= wanted => {}
        Ok(most) => tracing::warn!(
            most,
            wanted,
            "HQ may open fewer files than it needs for as many stores as it takes: raise LimitNOFILE of its service"
        ),
        Err(error) => tracing::warn!(%error, "how many files HQ may open"),
    }
}

/// Runs until SIGTERM or Ctrl-C.
#[allow(
    clippy::print_stdout,
    reason = "the address is what the user waits for"
)]
pub(crate) async fn run(arguments: HqArguments) -> Result<()> {
    if let Some(command) = arguments.command {
        return keep(command).await;
    }
    let dir = arguments.dir.context("--dir names HQ's folder")?;
    let page = match (
        arguments.page_listen,
        arguments.page_certificate,
        arguments.page_key,
    ) {
        (Some(listen), Some(certificate), Some(key)) => Some(PageDoor {
            listen,
            certificate,
            key,
        }),
        _ => None,
    };
    allow_connections();
    let hq = RunningHq::start(HqConfig {
        folder: dir.clone(),
        listen: arguments.listen,
        urls: arguments.urls,
        database: arguments.database.transpose().context("--database")?,
        objects: arguments.objects,
        page,
    })
    .await
    .with_context(|| format!("starting HQ in {}", dir.display()))?;
    let token_file = std::path::absolute(&hq.admin_token_file)?;
    if let Err(error) = leave_word(&token_file) {
        tracing::warn!(%error, "commands on this computer need --token-file");
    }
    let page_url = match (&arguments.page_url, hq.page_address) {
        (Some(url), _) => url.trim_end_matches('/').to_owned(),
        (None, Some(address)) => format!("https://{address}"),
        (None, None) => hq.url.clone(),
    };
    let page = match &hq.setup_code {
        // after the number sign: a browser keeps it to itself
        Some(code) => format!("make the first account: {page_url}/#setup={code}"),
        None => format!("page: {page_url}"),
    };
    let words = format!(
        "HQ is listening on {} as {}\n{page}\ncommands on this computer use {}\n",
        hq.address,
        hq.url,
        token_file.display()
    );
    // HQ runs on when nobody reads this
    let _ = std::io::stdout().write_all(words.as_bytes());
    // systemd may not be there
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        () = hq.wait() => anyhow::bail!("HQ's server ended"),
        result = tokio::signal::ctrl_c() => result?,
        _ = term.recv() => {}
    }
    Ok(())
}

/// Commands on this computer find HQ without being told.
fn leave_word(token_file: &std::path::Path) -> Result<()> {
    let word = word_of_local_hq();
    if let Some(folder) = word.parent() {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
    }
    std::fs::write(&word, token_file.as_os_str().as_encoded_bytes())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        hq: HqArguments,
    }

    #[test]
    fn no_password_of_a_database_is_shown() {
        for (url, is_fine) in [
            ("postgres://hq:hush@db.example/hq", true),
            ("postgres://hq:hush@db.example/hq?pasword=hush", false),
            ("postgre://hq:hush@db.example/hq", false),
        ] {
            let line = Line::try_parse_from(["hq", "--dir", "d", "--database", url]).unwrap();
            assert!(!format!("{line:?}").contains("hush"));
            let place = line.hq.database.unwrap();
            assert_eq!(place.is_ok(), is_fine, "{url}");
        }
    }
}
