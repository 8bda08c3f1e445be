//! The right of a node out of a voucher's file.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use peer_cache_node::{
    OpenVoucherError, OpenedVoucher, Site, open_voucher, read_voucher_label, write_durably,
};
use peer_cache_proto::wire::Credentials;
use trust_format::{NodeCertificate, TrustedKeys, peek};

use super::NodeRight;
use crate::{terminal, vouchers::read_pin};

/// Marks a node's folder as a voucher's, and says which.
const MARK: &str = "voucher";

/// A folder in which a voucher was used is no enrolled node's.
pub(super) fn refuse_its_folder(dir: &Path) -> Result<()> {
    ensure!(
        !dir.join(MARK).exists(),
        "{} is a voucher's folder: start it with --voucher FILE",
        dir.display()
    );
    Ok(())
}

/// Opens a voucher. What was learned under it earlier is in the folder; its key is not.
pub(super) fn open(dir: &Path, file: &Path, pin_file: Option<&Path>) -> Result<NodeRight> {
    let mark = dir.join(MARK);
    ensure!(
        mark.exists() || !dir.join("certificate").exists(),
        "{} is the folder of an enrolled node: a voucher takes one of its own",
        dir.display()
    );
    let opened = match pin_file {
        Some(pin) => open_voucher(file, &read_pin(pin)?)?,
        None => ask_and_open(file)?,
    };
    let key = opened.identity.public();
    match std::fs::read_to_string(&mark) {
        Ok(other) => ensure!(
            other.trim() == key.to_string(),
            "{} is the folder of another voucher, {}",
            dir.display(),
            other.trim()
        ),
        Err(_) => write_durably(&mark, key.to_string().as_bytes())?,
    }
    tracing::info!(
        voucher = key.short(),
        machines = opened.label.machines,
        site = opened.label.site,
        "opened a voucher"
    );
    let site = site(dir, &opened)?;
    let path = dir.join("certificate");
    // HQ may have signed it anew since
    let kept = std::fs::read(&path).ok();
    let kept = kept.filter(|c| peek::<NodeCertificate>(c).is_ok_and(|c| c.node == key));
    let certificate = match kept {
        Some(certificate) => certificate,
        None => {
            write_durably(&path, &opened.certificate)?;
            opened.certificate
        }
    };
    Ok(NodeRight {
        identity: opened.identity,
        site,
        credentials: Credentials::Node {
            certificate,
            issuer: None,
        },
        voucher_pin: Some(opened.pin),
    })
}

/// The site as the folder knows it, or as the voucher does.
fn site(dir: &Path, opened: &OpenedVoucher) -> Result<Site> {
    let folder = dir.join("site");
    let mut site = match folder.join("root").exists() {
        true => Site::open(&folder)?,
        false => {
            let newest = opened.documents.roots.last();
            let root = newest.context("the voucher carries no root")?;
            // it came through HQ's own hands, under the PIN
            Site::new(TrustedKeys::pin(root).context("the voucher's root")?)
        }
    };
    site.learn(&opened.documents);
    ensure!(
        site.channel().is_some(),
        "the voucher carries no channel that its root vouches for"
    );
    site.save_to(&folder)?;
    Ok(site)
}

#[allow(
    clippy::print_stderr,
    reason = "an answer to the person at the terminal"
)]
fn ask_and_open(file: &Path) -> Result<OpenedVoucher> {
    let label = read_voucher_label(file)?;
    if !terminal::is_there() {
        bail!("a voucher needs its PIN: start this on a terminal, or name a --voucher-pin-file");
    }
    loop {
        let pin = terminal::ask_hidden(&format!("PIN of voucher {label}"))?;
        match open_voucher(file, &pin) {
            Err(OpenVoucherError::WrongPin { left }) => {
                eprintln!("this is not the PIN: {left} more tries");
            }
            other => return Ok(other?),
        }
    }
}
