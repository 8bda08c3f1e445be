//! The audit log: reading it, keeping it, following its chain.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use clap::Subcommand;
use time::OffsetDateTime;
use web_api::{AuditChain, AuditCheck, AuditPage, AuditRow, Hex};

use crate::{HqChoice, Output, client};

/// A row of an export is no longer.
const LINE_BYTES_MAX: usize = 64 << 10;

/// `lamplighter audit ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Shows the newest rows.
    List {
        /// Rows below this number.
        #[arg(long)]
        before: Option<u64>,
        #[command(flatten)]
        hq: HqChoice,
        #[command(flatten)]
        output: Output,
    },
    /// Follows the chain at HQ, and prints its length and the hash of its last row: keep it where HQ cannot reach.
    Check {
        #[command(flatten)]
        hq: HqChoice,
        #[command(flatten)]
        output: Output,
    },
    /// Writes all rows to a file, a line of JSON each.
    Export {
        /// A new file.
        file: PathBuf,
        #[command(flatten)]
        hq: HqChoice,
    },
    /// Follows the chain of an exported file; needs no HQ.
    Verify {
        /// Written by `export`.
        file: PathBuf,
        /// The hash that an earlier check or export had as its last: one of the rows has to have it.
        #[arg(long, value_name = "HASH")]
        after: Option<Hex<32>>,
        #[command(flatten)]
        output: Output,
    },
}

/// Runs one.
pub(crate) async fn run(command: AuditCommand) -> Result<()> {
    match command {
        AuditCommand::List { before, hq, output } => {
            let path = match before {
                Some(number) => format!("/audit?before={number}"),
                None => "/audit".into(),
            };
            let page: AuditPage = client::for_people(&hq)?.get(&path).await?;
            output.print(&page.rows, |rows| rows.iter().map(line).collect())
        }
        AuditCommand::Check { hq, output } => {
            let check: AuditCheck = client::for_people(&hq)?.get("/audit/check").await?;
            output.print(&check, |check| {
                format!("{} rows hold; the last has hash {}", check.rows, check.head)
            })?;
            match check.fault {
                Some(fault) => bail!("the audit log's chain does not hold: {fault}"),
                None => Ok(()),
            }
        }
        AuditCommand::Export { file, hq } => export(&file, &hq).await,
        AuditCommand::Verify {
            file,
            after,
            output,
        } => {
            let check = verify(&file, after)?;
            output.print(&check, |check| {
                format!("{} rows hold; the last has hash {}", check.rows, check.head)
            })
        }
    }
}

/// Date and time of a moment in seconds since 1970.
pub(crate) fn utc(seconds: u64) -> String {
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    match OffsetDateTime::from_unix_timestamp(seconds) {
        Ok(when) => {
            let (hours, minutes, seconds) = when.to_hms();
            format!("{} {hours:02}:{minutes:02}:{seconds:02} UTC", when.date())
        }
        Err(_) => "when?".into(),
    }
}

fn line(row: &AuditRow) -> String {
    let when = utc(row.unix_millis / 1000);
    format!(
        "{:>6} {when} {} ({} from {}): {}\n",
        row.number, row.who, row.means, row.address, row.what
    )
}

async fn export(file: &Path, hq: &HqChoice) -> Result<()> {
    client::download(&client::for_people(hq)?, "/audit/export", file).await
}

fn verify(file: &Path, after: Option<Hex<32>>) -> Result<AuditCheck> {
    let name = file.display();
    let input = File::open(file).with_context(|| format!("opening {name}"))?;
    let mut input = BufReader::new(input);
    let mut chain = AuditChain::default();
    let mut is_found = after.is_none();
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut limited = std::io::Read::take(&mut input, LINE_BYTES_MAX as u64);
        limited
            .read_until(b'\n', &mut line)
            .with_context(|| format!("reading {name}"))?;
        if line.is_empty() {
            break;
        }
        let number = chain.rows() + 1;
        ensure!(
            line.ends_with(b"\n"),
            "{name}, line {number}: it is cut off, or longer than {LINE_BYTES_MAX} bytes"
        );
        let row: AuditRow = serde_json::from_slice(&line)
            .with_context(|| format!("{name}, line {number}: no row of an audit log"))?;
        chain
            .follow(&row)
            .with_context(|| format!("{name}, line {number}"))?;
        is_found |= after == Some(chain.head());
    }
    if let (false, Some(hash)) = (is_found, after) {
        bail!("{name}: no row has hash {hash}: what was there before was rewritten or cut off");
    }
    Ok(AuditCheck {
        rows: chain.rows(),
        head: chain.head(),
        fault: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_one_line() {
        let row = AuditRow {
            number: 7,
            unix_millis: 1_795_759_301_999,
            who: "ada".into(),
            means: "session".into(),
            address: "192.0.2.1".into(),
            operation: "POST /api/v1/sites".into(),
            target: "/api/v1/sites".into(),
            what: "site \"north\" made".into(),
            hash: Hex([0; 32]),
        };
        let expect =
            "     7 2026-11-27 06:01:41 UTC ada (session from 192.0.2.1): site \"north\" made\n";
        assert_eq!(line(&row), expect);
    }
}
