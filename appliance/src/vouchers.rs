//! `lamplighter voucher ...`: a file with which a technician's laptop, a stick or a spare machine admits so many machines where HQ
//! cannot be reached.

use std::{
    fs::File,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use clap::Subcommand;
use peer_cache_node::{Identity, read_voucher_label, seal_voucher};
use peer_cache_proto::{voucher::VoucherLabel, wire::Documents};
use web_api::{Hex, NewVoucher, VoucherInfo, VoucherMade};
use zeroize::Zeroizing;

use crate::{
    HqChoice, Output,
    client::{self, Rows},
    node::to_documents,
};

/// Digits of a PIN that nobody chose: digits are where they are on every keyboard.
const PIN_DIGITS: usize = 10;

/// `lamplighter voucher ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum VoucherCommand {
    /// Makes one, for one site and so many machines. It is revoked like a node: `lamplighter nodes --revoke KEY`.
    New {
        /// The site's name.
        #[arg(long)]
        site: String,
        /// So many machines, at most 256.
        #[arg(long)]
        machines: u16,
        /// Under this order only; by default under any of the site's.
        #[arg(long)]
        order: Option<u64>,
        /// Whose it is, or what for.
        #[arg(long, default_value = "voucher")]
        name: String,
        /// The file. One that is there is not replaced.
        #[arg(long)]
        out: PathBuf,
        /// A file with its PIN, 8 to 32 letters or digits. Without it ten digits are drawn and shown once.
        #[arg(long)]
        pin_file: Option<PathBuf>,
        #[command(flatten)]
        hq: HqChoice,
        #[command(flatten)]
        output: Output,
    },
    /// Lists them: how many machines HQ has seen under each.
    List {
        /// Of one site.
        #[arg(long)]
        site: Option<String>,
        #[command(flatten)]
        rows: Rows,
        #[command(flatten)]
        hq: HqChoice,
        #[command(flatten)]
        output: Output,
    },
    /// What everybody may read of a voucher's file.
    Show {
        /// The file.
        file: PathBuf,
    },
}

/// A voucher's file that was made.
#[derive(Debug, serde::Serialize)]
struct Made {
    path: PathBuf,
    key: Hex<32>,
    site: String,
    machines: u16,
    #[serde(skip)]
    label: VoucherLabel,
    /// When nobody chose it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pin: Option<String>,
}

pub(crate) async fn run(command: VoucherCommand) -> Result<()> {
    match command {
        VoucherCommand::New {
            site,
            machines,
            order,
            name,
            out,
            pin_file,
            hq,
            output,
        } => {
            let pin = match &pin_file {
                Some(file) => read_pin(file)?,
                None => draw_pin()?,
            };
            // nothing is asked of HQ for a file that cannot be written
            let file = new_file(&out)?;
            let made = make(&hq, &site, machines, order, &name, &pin).await;
            let (key, made, bytes) = match made {
                Ok(made) => made,
                Err(error) => {
                    // empty, it would be in the way of the next try
                    let _ = std::fs::remove_file(&out);
                    return Err(error);
                }
            };
            write(file, &bytes).with_context(|| format!("writing {}", out.display()))?;
            let made = Made {
                path: out,
                key,
                label: VoucherLabel {
                    site: made.site.clone(),
                    name,
                    machines,
                },
                site: made.site,
                machines,
                pin: pin_file.is_none().then(|| pin.to_string()),
            };
            output.print(&made, |made| {
                let pin = made.pin.as_deref().map_or_else(String::new, |pin| {
                    format!("PIN {pin}: it is shown this once\n")
                });
                format!(
                    "{}: voucher {}\n{pin}key {}: with it the voucher is revoked",
                    made.path.display(),
                    made.label,
                    made.key
                )
            })
        }
        VoucherCommand::List {
            site,
            rows,
            hq,
            output,
        } => {
            let fitting = [("site", site.as_deref())];
            let client = client::for_people(&hq)?;
            let all: Vec<VoucherInfo> = client::rows(&client, "/vouchers", &rows, &fitting).await?;
            output.print(&all, |all| list(all))
        }
        VoucherCommand::Show { file } => {
            let label = read_voucher_label(&file)?;
            writeln!(std::io::stdout(), "voucher {label}")?;
            Ok(())
        }
    }
}

async fn make(
    hq: &HqChoice,
    site: &str,
    machines: u16,
    order: Option<u64>,
    name: &str,
    pin: &str,
) -> Result<(Hex<32>, VoucherMade, Vec<u8>)> {
    let identity = Identity::generate()?;
    let new = NewVoucher {
        key: Hex(identity.public().0),
        name: name.to_owned(),
        machines,
        order,
    };
    let path = format!("/sites/{}/vouchers", crate::people::quoted(site));
    let made: VoucherMade = client::for_people(hq)?.post(&path, &new).await?;
    // what machines have finished, their disks say
    let documents = Documents {
        completions: Vec::new(),
        ..to_documents(&made.documents)
    };
    let label = VoucherLabel {
        site: made.site.clone(),
        name: name.to_owned(),
        machines,
    };
    let bytes = seal_voucher(&identity, &made.certificate.0, documents, label, pin)?;
    Ok((new.key, made, bytes))
}

pub(crate) fn new_file(path: &Path) -> Result<File> {
    File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("making {}", path.display()))
}

pub(crate) fn write(mut file: File, bytes: &[u8]) -> std::io::Result<()> {
    file.write_all(bytes)?;
    file.sync_all()
}

pub(crate) fn read_pin(file: &Path) -> Result<Zeroizing<String>> {
    let text = Zeroizing::new(
        std::fs::read_to_string(file)
            .with_context(|| format!("reading the PIN in {}", file.display()))?,
    );
    Ok(Zeroizing::new(text.trim().to_owned()))
}

fn draw_pin() -> Result<Zeroizing<String>> {
    let mut pin = Zeroizing::new(String::with_capacity(PIN_DIGITS));
    while pin.len() < PIN_DIGITS {
        let byte = rand::random::<u8>();
        // every digit as often as every other
        if byte < 250 {
            pin.push(char::from(b'0' + byte % 10));
        }
    }
    Ok(pin)
}

fn list(all: &[VoucherInfo]) -> String {
    let mut text = format!(
        "{:<20} {:<20} {:>8} {:>5} {:>6}  {:<9} KEY\n",
        "SITE", "NAME", "MACHINES", "USED", "BEYOND", "STATE"
    );
    for voucher in all {
        let state = match (voucher.revoked, voucher.seen_unix_seconds) {
            (true, _) => "revoked",
            (false, 0) => "unused",
            (false, _) => "in use",
        };
        text += &format!(
            "{:<20} {:<20} {:>8} {:>5} {:>6}  {state:<9} {}\n",
            voucher.site, voucher.name, voucher.machines, voucher.used, voucher.beyond, voucher.key
        );
    }
    text
}
