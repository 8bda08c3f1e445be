//! A computer becomes a node: token in, certificate and documents out.

use std::path::Path;

use anyhow::{Context, Result};
use peer_cache_node::{Identity, Site, write_durably};
use peer_cache_origin::HqClient;
use peer_cache_proto::machine::MachineFacts;
use trust_format::TrustedKeys;
use web_api::{EnrolRequest, Enrolled, EnrolmentToken, Facts, Hex};

use super::sync::to_documents;

/// Enrols and keeps everything in the node's folder; the certificate last, which marks the node as enrolled.
pub(crate) async fn enrol(
    dir: &Path,
    identity: &Identity,
    token: &EnrolmentToken,
    name: Option<&str>,
) -> Result<()> {
    let facts = this_computer(identity);
    let machine = facts.id().context("this computer has no identity")?;
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let request = EnrolRequest {
        secret: Hex(token.secret),
        name: name.unwrap_or(host.trim()).chars().take(64).collect(),
        is_named: name.is_some(),
        machine: Hex(machine.0),
        facts: to_facts(&facts),
    };
    let client = HqClient::for_node(&token.url, token.fingerprint, identity)?;
    let enrolled: Enrolled = client.post("/enrol", &request).await.context("enrolling")?;
    // the root came over TLS to the certificate that the token pins
    let newest = enrolled.documents.roots.last();
    let root = newest.context("HQ showed no root")?;
    let keys = TrustedKeys::pin(&root.0).context("HQ's root")?;
    let mut site = Site::new(keys);
    let learned = site.learn(&to_documents(&enrolled.documents));
    anyhow::ensure!(
        learned.channel,
        "HQ's documents are refused: {}",
        learned.refused.join("; ")
    );
    site.save_to(&dir.join("site"))?;
    write_durably(&dir.join("certificate"), &enrolled.certificate.0)?;
    tracing::info!("enrolled");
    Ok(())
}

/// A node by hand may share its computer with others: its key is part of its identity.
fn this_computer(identity: &Identity) -> MachineFacts {
    let read = |name: &str| {
        std::fs::read_to_string(format!("/sys/class/dmi/id/{name}")).unwrap_or_default()
    };
    let model = format!(
        "{} {}",
        read("sys_vendor").trim(),
        read("product_name").trim()
    );
    MachineFacts::new(
        None,
        Some(&format!("node-{}", identity.public())),
        &[],
        model.trim(),
    )
}

/// As JSON.
pub(crate) fn to_facts(facts: &MachineFacts) -> Facts {
    Facts {
        uuid: facts.uuid.map(Hex),
        serial: facts.serial.clone(),
        macs: facts.macs.iter().copied().map(Hex).collect(),
        model: facts.model.clone(),
        code: None,
        tpm: None,
    }
}
