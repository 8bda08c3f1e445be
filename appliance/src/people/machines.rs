//! Commands about machines.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Subcommand, ValueEnum};
use web_api::{DemoteSign, Hex, Machine, SignKind};

use super::MACHINE_STATES;
use crate::{
    HqChoice, Output,
    client::{self, Rows, Search},
};

/// `lamplighter machine ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum MachineCommand {
    /// Lists machines and how far each is.
    List {
        /// Of one site.
        #[arg(long)]
        site: Option<String>,
        /// In one state.
        #[arg(long, value_parser = MACHINE_STATES)]
        state: Option<String>,
        #[command(flatten)]
        search: Search,
        #[command(flatten)]
        rows: Rows,
        #[command(flatten)]
        hq: HqChoice,
        #[command(flatten)]
        output: Output,
    },
    /// Writes all machines to a file for spreadsheets (CSV).
    Export {
        /// The file; it is new.
        file: PathBuf,
        #[command(flatten)]
        hq: HqChoice,
    },
    /// Lets a waiting machine be imaged.
    Approve {
        /// Its identity, from the list.
        machine: Hex<16>,
        /// What it shows on its screen, such as K7Q-2MX: only the machine with this code is approved.
        #[arg(long)]
        code: Option<String>,
        #[command(flatten)]
        hq: HqChoice,
        #[command(flatten)]
        output: Output,
    },
    /// Lets a UUID or serial that several machines of a site carry count for nobody there: each is known by its other signs from
    /// now on, and waits once more.
    Demote {
        /// One of the machines.
        machine: Hex<16>,
        /// The site's name.
        #[arg(long)]
        site: String,
        /// What they have in common.
        #[arg(long, value_enum)]
        sign: SharedSign,
        #[command(flatten)]
        hq: HqChoice,
        #[command(flatten)]
        output: Output,
    },
}

/// What machines may have in common that were to have none.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum SharedSign {
    /// SMBIOS UUID.
    Uuid,
    /// SMBIOS serial.
    Serial,
}

pub(crate) async fn machine(command: MachineCommand) -> Result<()> {
    match command {
        MachineCommand::List {
            site,
            state,
            search,
            rows,
            hq,
            output,
        } => {
            let fitting = [
                ("site", site.as_deref()),
                ("state", state.as_deref()),
                ("search", search.search.as_deref()),
            ];
            let client = client::for_people(&hq)?;
            let machines: Vec<Machine> =
                client::rows(&client, "/machines", &rows, &fitting).await?;
            output.print(&machines, |machines| {
                machines.iter().map(machine_line).collect()
            })
        }
        MachineCommand::Export { file, hq } => {
            client::download(&client::for_people(&hq)?, "/export/machines", &file).await
        }
        MachineCommand::Approve {
            machine,
            code,
            hq,
            output,
        } => {
            if let Some(code) = &code {
                let is_code = code.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
                anyhow::ensure!(is_code, "a code is like K7Q-2MX, not {code:?}");
            }
            let shown = code.map(|code| format!("?code={code}")).unwrap_or_default();
            let path = format!("/machines/{machine}/approve{shown}");
            let machine: Machine = client::for_people(&hq)?
                .post(&path, &serde_json::json!({}))
                .await?;
            output.print(&machine, |m| {
                format!("{} may be imaged in {}", m.id, m.site)
            })
        }
        MachineCommand::Demote {
            machine,
            site,
            sign,
            hq,
            output,
        } => {
            let sign = match sign {
                SharedSign::Uuid => SignKind::Uuid,
                SharedSign::Serial => SignKind::Serial,
            };
            let path = format!("/machines/{machine}/demote");
            let demoted: Machine = client::for_people(&hq)?
                .post(&path, &DemoteSign { site, sign })
                .await?;
            output.print(&demoted, |m| {
                let sign = sign.word();
                format!("the {sign} of {} counts for nobody in {}", m.id, m.site)
            })
        }
    }
}

fn machine_line(machine: &Machine) -> String {
    let doing = match &machine.install {
        None => {
            let admission = format!("{:?}", machine.admission).to_lowercase();
            let code = machine.facts.code.iter().map(|code| format!(" {code}"));
            admission + &code.collect::<String>()
        }
        Some(install) => {
            let percent = install.done_bytes * 100 / install.total_bytes.max(1);
            format!("{:?} {percent} % {}", install.state, install.message).to_lowercase()
        }
    };
    format!(
        "{} {:20} {:24} {doing}\n",
        machine.id, machine.site, machine.facts.model
    )
}
