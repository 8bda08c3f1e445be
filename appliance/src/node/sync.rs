//! Talks to HQ when HQ can be reached: delivers reports, fetches documents, is confirmed.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use peer_cache_node::{PeerCache, write_durably};
use peer_cache_origin::HqOrigin;
use peer_cache_proto::wire::{Credentials, Documents};
use trust_format::PublicKey;
use web_api::{
    Base64, Certified, ConfirmRequest, Hex, LIFE_HELD_SECONDS, NodeDocuments, ReportsAnswer,
    ReportsRequest, SiteStanding,
};

use super::{reports::Reports, versions::Versions};

const EVERY: Duration = Duration::from_secs(1);
/// Without a report for so long, HQ is asked to answer when there is something new.
const QUIET_AFTER: Duration = Duration::from_secs(5);
/// While there is something to report each second, HQ hears so often which nodes are connected.
const BESIDE_EVERY: Duration = Duration::from_secs(LIFE_HELD_SECONDS);
/// Pauses double while HQ is away, with up to half as much again by chance: after an outage all stores knock at once.
const AWAY_MAX: Duration = Duration::from_secs(20);
/// Once for a new certificate, once to say that it is here, and once more if it changed meanwhile.
const CERTIFICATE_ASKED_MAX: u32 = 3;
const ASK_WITHIN: Duration = Duration::from_secs(LIFE_HELD_SECONDS + 10);

pub(crate) struct Sync {
    cache: PeerCache,
    origin: HqOrigin,
    reports: Reports,
    versions: Versions,
    dir: PathBuf,
    /// How many orders HQ had when its documents were fetched last. Each start begins with a look: HQ says where the neighbours were.
    seen_orders: Option<u64>,
    /// When something was reported last.
    reported: Instant,
    /// When HQ heard last which nodes are connected.
    told_beside: Option<Instant>,
    /// A neighbour tells HQ that this node is there.
    rests: bool,
}

/// Documents from HQ, as peers would send them.
pub(crate) fn to_documents(documents: &NodeDocuments) -> Documents {
    let some = |b: &Base64| Some(b.0.clone()).filter(|b| !b.is_empty());
    let list = |l: &[Base64]| l.iter().map(|b| b.0.clone()).collect();
    Documents {
        roots: list(&documents.roots),
        channel: some(&documents.channel),
        roster: some(&documents.roster),
        orders: list(&documents.orders),
        completions: list(&documents.completions),
    }
}

impl Sync {
    pub(crate) fn new(
        cache: PeerCache,
        origin: HqOrigin,
        reports: Reports,
        versions: Versions,
        dir: PathBuf,
    ) -> Self {
        Self {
            cache,
            origin,
            reports,
            versions,
            dir,
            seen_orders: None,
            reported: Instant::now(),
            told_beside: None,
            rests: false,
        }
    }

    /// For ever.
    pub(crate) async fn run(mut self) {
        let mut pause = EVERY;
        let mut reachable = None;
        loop {
            self.wait_until_due().await;
            let round = tokio::time::timeout(ASK_WITHIN, self.round())
                .await
                .context("HQ does not answer")
                .flatten();
            let ok = round.is_ok();
            if reachable != Some(ok) {
                match &round {
                    Ok(()) => tracing::info!("HQ can be reached"),
                    Err(error) => {
                        tracing::warn!(error = format!("{error:#}"), "HQ cannot be reached")
                    }
                }
                reachable = Some(ok);
            }
            pause = if ok { EVERY } else { (pause * 2).min(AWAY_MAX) };
            let jitter = if ok { 0.0 } else { rand::random::<f64>() / 2.0 };
            tokio::time::sleep(pause.mul_f64(1.0 + jitter)).await;
        }
    }

    /// Another node may report this one; what is news here nobody else tells.
    async fn wait_until_due(&mut self) {
        if !self.is_quiet() || self.reports.waits() {
            return;
        }
        let rests = !self.cache.is_due_at_hq();
        match (self.rests, rests) {
            (false, true) => tracing::info!("a neighbour tells HQ that this node is there"),
            (true, false) => tracing::info!("this node tells HQ itself that it is there"),
            _ => {}
        }
        self.rests = rests;
        if rests {
            tokio::select! {
                () = self.cache.due_at_hq() => {}
                () = self.reports.news() => {}
            }
        }
    }

    fn is_quiet(&self) -> bool {
        self.reported.elapsed() >= QUIET_AFTER
    }

    async fn round(&mut self) -> Result<()> {
        self.be_confirmed().await?;
        let known = SiteStanding {
            channel: self.cache.site(|s| s.channel().map_or(0, |c| c.number)),
            roster: self.cache.site(|s| s.roster().map_or(0, |r| r.number)),
            orders: self.seen_orders.unwrap_or(0),
        };
        let reports = self.reports.to_send();
        if !reports.is_empty() {
            self.reported = Instant::now();
        }
        let is_quiet = self.is_quiet();
        let told = self.told_beside.map(|at| at.elapsed());
        let beside = match is_quiet || told.is_none_or(|ago| ago >= BESIDE_EVERY) {
            true => self.cache.neighbours(),
            false => Vec::new(),
        };
        let request = ReportsRequest {
            peer_port: self.cache.local_addr().map_or(0, |a| a.port()),
            reports,
            known: is_quiet.then_some(known),
            beside: beside.iter().map(|key| Hex(key.0)).collect(),
        };
        let asked = self.origin.post("/node/reports", &request);
        let answer: ReportsAnswer = tokio::select! {
            answer = asked => answer?,
            // HQ holds the question, and nothing of it is lost
            () = self.reports.news(), if is_quiet => return Ok(()),
        };
        self.reports.forget(answer.stored);
        if !beside.is_empty() || is_quiet {
            self.told_beside = Some(Instant::now());
        }
        let wanted: Vec<PublicKey> = answer.wanted.iter().map(|key| PublicKey(key.0)).collect();
        self.cache.tell_reported(&beside, &wanted);
        if answer.standing != known || self.seen_orders.is_none() {
            self.fetch_documents().await?;
            self.seen_orders = Some(answer.standing.orders);
        } else if answer.certificate_waits {
            self.take_certificate()
                .await
                .context("taking this node's certificate")?;
        }
        Ok(())
    }

    async fn fetch_documents(&self) -> Result<()> {
        let documents: NodeDocuments = self.origin.get("/node/documents").await?;
        let learned = self.cache.learn(&to_documents(&documents));
        for refused in learned.refused {
            tracing::warn!(refused, "a document from HQ is refused");
        }
        if let Some(contact) = self.cache.site(|s| s.channel().map(|c| c.hq.clone())) {
            self.origin.set_contact(contact);
        }
        self.versions.refresh();
        // the documents are news all the same
        if let Err(error) = self.take_certificate().await {
            tracing::warn!(
                error = format!("{error:#}"),
                "HQ does not show this node's certificate"
            );
        }
        for peer in &documents.peers {
            if let Ok(address) = peer.address.parse() {
                self.cache
                    .hint(trust_format::PublicKey(peer.key.0), address);
            }
        }
        Ok(())
    }

    /// HQ may have signed this node's certificate anew: with another name, or by another authority key under a new root. Asked once more, HQ sees
    /// that the node has it.
    async fn take_certificate(&self) -> Result<()> {
        let path = self.dir.join("certificate");
        let mut mine = std::fs::read(&path)?;
        for _ in 0..CERTIFICATE_ASKED_MAX {
            let have = Hex(*blake3::hash(&mine).as_bytes());
            let ask = format!("/node/certificate?have={have}");
            let theirs: Certified = self.origin.get(&ask).await?;
            if theirs.certificate.0 == mine {
                return Ok(());
            }
            mine = theirs.certificate.0;
            write_durably(&path, &mine)?;
            self.cache.set_credentials(Credentials::Node {
                certificate: mine.clone(),
                issuer: None,
            });
            tracing::info!("HQ signed this node's certificate anew");
        }
        anyhow::bail!("it is another one each time")
    }

    /// A provisional certificate is exchanged for HQ's own.
    async fn be_confirmed(&self) -> Result<()> {
        let issuer_path = self.dir.join("issuer");
        let Ok(issuer) = std::fs::read(&issuer_path) else {
            return Ok(());
        };
        let certificate = std::fs::read(self.dir.join("certificate"))?;
        let request = ConfirmRequest {
            certificate: Base64(certificate),
            issuer: Base64(issuer),
        };
        let confirmed: Certified = self.origin.post("/node/confirm", &request).await?;
        let certificate = confirmed.certificate.0;
        write_durably(&self.dir.join("certificate"), &certificate)?;
        std::fs::remove_file(&issuer_path)?;
        self.cache.set_credentials(Credentials::Node {
            certificate,
            issuer: None,
        });
        tracing::info!("confirmed by HQ");
        Ok(())
    }
}
