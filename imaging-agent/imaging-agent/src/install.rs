//! One install from the first connection to the last sector.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use image_format::{CHUNK_BYTES, Manifest};
use imaging_plan::{Extent, Found, Install, Phase, TargetFacts, plan};
use peer_cache_node::{Event, Identity, PeerCache, PeerCacheConfig, Role, Site, UploadRules};
use peer_cache_origin::HqOrigin;
use peer_cache_proto::{
    fallback::NO_NODE_DEADLINE,
    machine::MachineFacts,
    tpm::TpmProof,
    wire::{AdmissionAnswer, Credentials, Documents, PEER_PORT, TicketProof},
};
use serde::Serialize;
use tokio::sync::{mpsc, watch};
use trust_format::{Completion, Digest, MachineId, Order, PublicKey, Verified};
use web_api::{Hex, InstallReport, InstallState};

use crate::{
    admission::{be_admitted, know_hq, prove, send_reports, take_ticket},
    certificate::be_certified,
    costs::CpuSeconds,
    customise::NodeInstall,
    pins::PinSource,
    resume::{find_places, finished_orders},
    screen::{Bar, say},
    slab::open_slab,
    target::Target,
    writer::{AgentKeeper, Writer},
};

const MANIFEST_RETRY: Duration = Duration::from_millis(500);
/// How long a node may need to have the manifest of a version that was ordered a moment ago.
const MANIFEST_WITHIN: Duration = Duration::from_secs(120);
/// A machine that finds no node for so long says so and ends.
pub(crate) const NODE_WITHIN: Duration = Duration::from_secs(120);
/// Name of the node's program in a boot bundle.
const NODE_PROGRAM: &str = "lamplighter";
/// Between the last sector and the news of who sent what.
const LAST_NEWS_WITHIN: Duration = Duration::from_secs(10);
/// Last words get this long to leave.
const FAREWELL: Duration = Duration::from_millis(700);

/// What kind of install this is.
pub(crate) struct InstallOptions {
    pub(crate) target: TargetChoice,
    /// Where objects go, if somebody named a place.
    pub(crate) slab: Option<PathBuf>,
    pub(crate) nodes: Vec<SocketAddr>,
    pub(crate) discover: bool,
    pub(crate) site: Site,
    pub(crate) facts: MachineFacts,
    pub(crate) version: Option<String>,
    pub(crate) with_node: bool,
    pub(crate) uefi: Option<bool>,
    pub(crate) ram_bytes: Option<u64>,
    pub(crate) wait: bool,
    pub(crate) pins: PinSource,
    /// Whether the machine's TPM is to vouch for it.
    pub(crate) with_tpm: bool,
    /// Its proof, once it is made.
    pub(crate) tpm: Option<TpmProof>,
}

/// Where the image goes.
pub(crate) enum TargetChoice {
    /// A file or disk that somebody named.
    Path(PathBuf),
    /// The machine's own disk, chosen by rule.
    Disk(imaging_plan::Disk),
}

/// How it ended.
#[derive(Debug, Serialize)]
pub(crate) struct Outcome {
    /// `installed`, or `spent` when there was nothing to do.
    pub(crate) result: &'static str,
    pub(crate) version: Option<String>,
    pub(crate) order: u64,
    pub(crate) disk_bytes: u64,
    pub(crate) received_bytes: u64,
    pub(crate) sent_bytes: u64,
    pub(crate) seconds: f64,
    pub(crate) verified: bool,
    /// Of the threads that write; the network's come on top.
    pub(crate) cpu_seconds: CpuSeconds,
    pub(crate) from: BTreeMap<String, u64>,
}

struct Running {
    cache: PeerCache,
    origin: HqOrigin,
    events: mpsc::Receiver<Event>,
    keeper: Arc<AgentKeeper>,
    options: InstallOptions,
    /// The node that admitted us.
    node: PublicKey,
    order: Order,
    /// The first ticket, which says what this install is; later ones only make it last.
    proof: TicketProof,
    machine: MachineId,
    started: Instant,
    report: watch::Sender<InstallReport>,
    /// The node that is put on the disk: with it in the proof, HQ knows whose call from the new system to wait for.
    new_node: Option<PublicKey>,
}

fn empty_report() -> InstallReport {
    InstallReport {
        state: InstallState::Waiting,
        version: None,
        order: None,
        done_bytes: 0,
        total_bytes: 0,
        received_bytes: 0,
        from: Vec::new(),
        peer: None,
        message: String::new(),
    }
}

/// Installs, or finds that there is nothing to do. The cache goes on serving until it is closed.
pub(crate) async fn install(options: InstallOptions) -> Result<(PeerCache, Outcome)> {
    let started = Instant::now();
    let machine = options
        .facts
        .id()
        .context("this machine has no UUID, no serial and no MAC address")?;
    let keeper = Arc::new(AgentKeeper::new());
    let mut options = options;
    let site = std::mem::replace(&mut options.site, Site::trusting_the_first_root());
    let had_root = site.keys().is_some();
    let identity = Identity::generate()?;
    if options.with_tpm {
        options.tpm = prove(identity.public()).await;
    }
    let origin = HqOrigin::new(identity.clone());
    let (cache, mut events) = PeerCache::start(PeerCacheConfig {
        identity,
        role: Role::Agent,
        boot: rand::random(),
        listen: SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, PEER_PORT)),
        discover: options.discover,
        site,
        credentials: Credentials::Agent { ticket: None },
        keeper: keeper.clone(),
        origin: Some(Arc::new(origin.clone())),
        always_on: false,
        uploads: UploadRules::default(),
        voucher_pin: None,
    })
    .context("opening the network")?;
    tokio::spawn(origin.clone().watch_the_wan());
    for node in &options.nodes {
        cache.keep_dialling(*node);
    }
    say(&format!("machine {machine}, looking for a node"));
    let finished = finished_orders(&options.target);
    let admitted = be_admitted(&cache, &origin, &mut events, &options, finished, had_root);
    let Some(admitted) = admitted.await? else {
        let outcome = Outcome {
            result: "spent",
            version: None,
            order: 0,
            disk_bytes: 0,
            received_bytes: 0,
            sent_bytes: 0,
            seconds: started.elapsed().as_secs_f64(),
            verified: false,
            cpu_seconds: CpuSeconds::default(),
            from: BTreeMap::new(),
        };
        return Ok((cache, outcome));
    };
    let report = watch::Sender::new(InstallReport {
        version: Some(Hex(admitted.order.image.0)),
        order: Some(admitted.order.number),
        peer: Some(Hex(cache.key().0)),
        ..empty_report()
    });
    tokio::spawn(send_reports(
        cache.clone(),
        admitted.node,
        report.subscribe(),
    ));
    let running = Running {
        cache: cache.clone(),
        origin,
        events,
        keeper,
        options,
        node: admitted.node,
        order: admitted.order,
        proof: admitted.proof,
        machine: admitted.machine,
        started,
        report,
        new_node: None,
    };
    let report = running.report.clone();
    match Box::pin(running.run()).await {
        Ok(outcome) => Ok((cache, outcome)),
        Err(error) => {
            report.send_modify(|r| {
                r.state = InstallState::Failed;
                r.message = format!("{error:#}");
            });
            tokio::time::sleep(FAREWELL).await;
            cache.close().await;
            Err(error)
        }
    }
}

impl Running {
    async fn run(mut self) -> Result<Outcome> {
        let manifest = self.manifest(self.order.image).await?;
        let bundle = match self.options.with_node {
            true => Some(self.bundle().await?),
            false => None,
        };
        self.set_state(InstallState::Preflight, "checking the machine");
        let object_bytes =
            manifest.object_bytes() + bundle.as_ref().map_or(0, |b| b.object_bytes());
        let target = self.open_target(&manifest)?;
        let facts = TargetFacts {
            bytes: target.bytes(),
            sector_bytes: target.sector_bytes(),
            ram_bytes: self.options.ram_bytes,
            uefi: self.options.uefi,
            with_node: self.options.with_node,
            object_bytes,
        };
        let layout = plan(&manifest, &facts)
            .with_context(|| format!("preflight of {}", target.path().display()))?;
        let placed = manifest.layout.iter().map(|place| Extent {
            offset: u64::from(place.index) * CHUNK_BYTES as u64,
            bytes: manifest.chunk(place.chunk).map_or(0, |c| c.bytes.into()),
        });
        target.reserve(placed).with_context(|| {
            let (path, bytes) = (target.path().display(), manifest.used_bytes);
            format!("no room for the {bytes} bytes of the image on the file system of {path}")
        })?;
        let node = match self.options.with_node {
            true => {
                Some(be_certified(&self.cache, &self.origin, &mut self.events, self.node).await?)
            }
            false => None,
        };
        self.new_node = node.as_ref().map(|(identity, ..)| identity.public());
        // nothing was touched up to here
        let (places, sequence) = find_places(&target, &manifest, &layout, self.order.image);
        if !places.is_empty() {
            say(&format!(
                "{} of {} chunks are on the disk already",
                places.len(),
                manifest.layout.len()
            ));
        }
        target.forget_partitions_if_device();
        let named = self.options.slab.as_deref();
        let slab = open_slab(named, &target, &layout, object_bytes, &manifest)?;
        let found = Found {
            places: &places,
            sequence,
            blank: target.is_blank(),
        };
        let slab_guid = rand::random();
        let install = Install::new(
            layout.clone(),
            &manifest,
            self.order.image,
            self.order.number,
            slab_guid,
            found,
        );
        if let Some(slab) = slab {
            self.keeper.set_slab(slab);
        }
        let bundle_here = bundle.clone().map(|b| self.cache.share(b));
        let customise = node
            .zip(bundle)
            .zip(bundle_here)
            .map(|((node, bundle), here)| {
                self.customisation(node, bundle, here, &manifest, layout.slab.is_some())
            });
        let writer = Writer::start(target, install, customise);
        self.write(&manifest, &writer).await
    }

    async fn manifest(&self, digest: Digest) -> Result<Verified<Manifest>> {
        let deadline = Instant::now() + MANIFEST_WITHIN;
        loop {
            match self.cache.manifest(digest).await {
                Ok(manifest) => return Ok(manifest),
                Err(error) if Instant::now() > deadline => return Err(error.into()),
                Err(error) => {
                    tracing::debug!(%error, "no manifest yet");
                    tokio::time::sleep(MANIFEST_RETRY).await;
                }
            }
        }
    }

    async fn bundle(&self) -> Result<Verified<Manifest>> {
        let digest = self.cache.site(|s| s.channel().and_then(|c| c.bundle));
        let digest =
            digest.context("the site has no boot bundle: run `lamplighter media build` at HQ")?;
        let bundle = self.manifest(digest).await?;
        bundle
            .file(NODE_PROGRAM)
            .context("the boot bundle has no node program")?;
        Ok(bundle)
    }

    fn open_target(&self, manifest: &Manifest) -> Result<Target> {
        let path = match &self.options.target {
            TargetChoice::Path(path) => path.clone(),
            TargetChoice::Disk(disk) => PathBuf::from(&disk.path),
        };
        Ok(Target::open(
            &path,
            manifest.disk_bytes,
            manifest.sector_bytes,
        )?)
    }

    fn customisation(
        &self,
        (identity, certificate, issuer): (Identity, Vec<u8>, Option<Vec<u8>>),
        bundle: Verified<Manifest>,
        mut here: watch::Receiver<bool>,
        manifest: &Verified<Manifest>,
        has_slab: bool,
    ) -> crate::writer::Customise {
        let cache = self.cache.clone();
        let runtime = tokio::runtime::Handle::current();
        let completion = self.completion(Some(identity.public()));
        let manifests = [manifest, &bundle]
            .map(|m| (m.digest().to_string(), m.as_bytes().to_vec()))
            .to_vec();
        let root_number = match manifest.customisation {
            image_format::Customisation::Ext4 { partition } => partition,
            image_format::Customisation::None => 0,
        };
        Box::new(move |target, layout| {
            runtime
                .block_on(here.wait_for(|complete| *complete))
                .context("the boot bundle")?;
            let program = read_file(&cache, &bundle, NODE_PROGRAM)?;
            let keys = cache.site(|s| s.keys().cloned()).context("no root")?;
            let mut site = Site::new(keys);
            let mut documents = cache.site(Site::all_documents);
            documents.completions.push(completion);
            let learned = site.learn(&documents);
            anyhow::ensure!(
                learned.channel,
                "the channel for the node: {}",
                learned.refused.join("; ")
            );
            let peers = cache
                .peers()
                .iter()
                .filter(|p| p.node)
                .map(|p| p.address.to_string())
                .collect();
            NodeInstall {
                program,
                identity,
                certificate,
                issuer,
                site,
                manifests,
                peers,
                root_number,
                has_slab,
            }
            .run(target, layout)
        })
    }

    fn completion(&self, node: Option<PublicKey>) -> Vec<u8> {
        self.cache.identity().sign(&Completion {
            machine: self.machine,
            order: self.order.number,
            image: self.order.image,
            node,
            ticket: self.proof.ticket.clone(),
            issuer: self.proof.issuer.clone(),
            issuers_issuer: self.proof.issuers_issuer.clone(),
        })
    }

    fn set_state(&self, state: InstallState, message: &str) {
        self.report.send_modify(|r| {
            r.state = state;
            r.message = message.into();
        });
    }

    /// From the first chunk to the last sector.
    async fn write(mut self, manifest: &Verified<Manifest>, writer: &Writer) -> Result<Outcome> {
        let mut phase = writer.phase();
        phase
            .wait_for(|p| *p >= Phase::Content)
            .await
            .context("the writer ended")?;
        self.keeper.set_image(manifest.digest(), writer.clone());
        // nothing to download, nothing to be told
        let mut told = *self.cache.share(manifest.clone()).borrow();
        let mut bar = Bar::new("writing", manifest.used_bytes);
        let mut every = tokio::time::interval(Duration::from_millis(200));
        let mut from: BTreeMap<String, u64> = BTreeMap::new();
        loop {
            tokio::select! {
                event = self.events.recv() => told |= self.handle(event, manifest.digest(), &mut from)?,
                _ = every.tick() => self.show(manifest, writer, &mut bar),
                changed = phase.changed() => {
                    changed.context("the writer ended")?;
                    if *phase.borrow() >= Phase::Finished {
                        break;
                    }
                }
            }
        }
        bar.finish();
        if let Some(failure) = writer.look(|i| i.failure().cloned()) {
            return Err(anyhow::Error::new(failure)
                .context(format!("imaging {}", writer.target().path().display())));
        }
        // who sent what is told when the download ends, which is no later than the disk but for a moment
        while !told {
            let event = tokio::time::timeout(LAST_NEWS_WITHIN, self.events.recv())
                .await
                .context("the disk is whole and the download is not")?;
            told = self.handle(event, manifest.digest(), &mut from)?;
        }
        self.farewell(manifest, from, writer.cpu_seconds()).await
    }

    /// Whether this was the end of the download.
    fn handle(
        &self,
        event: Option<Event>,
        digest: Digest,
        from: &mut BTreeMap<String, u64>,
    ) -> Result<bool> {
        match event.context("the peer cache ended")? {
            Event::Complete {
                manifest,
                from: senders,
            } if manifest == digest => {
                from.extend(senders);
                return Ok(true);
            }
            Event::Accused {
                key,
                address,
                chunk,
            } => {
                let chunk = chunk.map_or_else(String::new, |c| format!(" for chunk {c:?}"));
                say(&format!(
                    "peer {} at {} sent wrong bytes{chunk} and is not asked again",
                    key.short(),
                    address.ip()
                ));
            }
            Event::KeepFailed { reason } => bail!("{reason}"),
            Event::FetchesItself { .. } => say(&format!(
                "no node within {} s: fetches from HQ itself",
                NO_NODE_DEADLINE.as_secs()
            )),
            Event::OriginWrong { reason } => {
                say(&format!(
                    "HQ sent wrong bytes, also when asked again: {reason}"
                ));
            }
            Event::NodeIsBack { key } => {
                say(&format!("node {} is here: it fetches", key.short()));
            }
            Event::Admission {
                answer: AdmissionAnswer::Granted { proof, .. },
                ..
            } => take_ticket(&self.cache, &self.origin, proof),
            Event::Learned(learned) if learned.channel => know_hq(&self.cache, &self.origin),
            _ => {}
        }
        Ok(false)
    }

    fn show(&self, manifest: &Verified<Manifest>, writer: &Writer, bar: &mut Bar) {
        let (phase, (written, places), (read, _)) =
            writer.look(|i| (i.phase(), i.progress(), i.read_back_progress()));
        let done = manifest.used_bytes * written as u64 / (places as u64).max(1);
        bar.set(done);
        let (state, done_bytes) = match phase {
            Phase::ReadBack => (InstallState::Verifying, read),
            Phase::Customising => (InstallState::Customising, manifest.used_bytes),
            Phase::Committing => (InstallState::Committing, manifest.used_bytes),
            _ => (InstallState::Writing, done),
        };
        let received: u64 = self.cache.peers().iter().map(|p| p.received_bytes).sum();
        let from = self.cache.senders(&manifest.digest());
        self.report.send_modify(|r| {
            r.state = state;
            r.done_bytes = done_bytes;
            r.total_bytes = manifest.used_bytes;
            r.received_bytes = received;
            r.from = from;
            r.message = String::new();
        });
    }

    async fn farewell(
        self,
        manifest: &Verified<Manifest>,
        from: BTreeMap<String, u64>,
        cpu_seconds: CpuSeconds,
    ) -> Result<Outcome> {
        for (peer, parts) in &from {
            say(&format!("parts from {peer}: {parts}"));
        }
        let completion = self.completion(self.new_node);
        self.cache.learn(&Documents {
            completions: vec![completion.clone()],
            ..Documents::default()
        });
        self.cache.tell_completion(&completion);
        let peers = self.cache.peers();
        let outcome = Outcome {
            result: "installed",
            version: Some(manifest.digest().to_string()),
            order: self.order.number,
            disk_bytes: manifest.disk_bytes,
            received_bytes: peers.iter().map(|p| p.received_bytes).sum(),
            sent_bytes: peers.iter().map(|p| p.sent_bytes).sum(),
            seconds: self.started.elapsed().as_secs_f64(),
            verified: true,
            cpu_seconds,
            from: from.clone(),
        };
        self.report.send_modify(|r| {
            r.state = if self.options.with_node {
                InstallState::Rebooting
            } else {
                InstallState::Done
            };
            r.done_bytes = manifest.used_bytes;
            r.from = from.into_iter().collect();
            r.message = format!("{:.1} s", outcome.seconds);
        });
        tokio::time::sleep(FAREWELL).await;
        say("finished");
        Ok(outcome)
    }
}

/// A file out of the boot bundle, whose chunks are all here.
fn read_file(cache: &PeerCache, bundle: &Verified<Manifest>, name: &str) -> Result<Vec<u8>> {
    let file = bundle
        .file(name)
        .with_context(|| format!("{name} is not in the boot bundle"))?;
    let mut codec = image_format::ChunkCodec::new(1)?;
    let mut bytes = vec![0; usize::try_from(file.bytes)?];
    for (n, part) in bytes.chunks_mut(CHUNK_BYTES).enumerate() {
        let index = u32::try_from(file.offset / CHUNK_BYTES as u64 + n as u64)?;
        let Some(place) = bundle.layout.iter().find(|p| p.index == index) else {
            continue;
        };
        let record = bundle
            .chunk(place.chunk)
            .context("the boot bundle's layout")?;
        let object = cache
            .object(bundle, place.chunk)
            .with_context(|| format!("chunk {} of {name}", record.hash))?;
        let object = image_format::VerifiedObject::check(record, object)?;
        let chunk = object.unpack(&mut codec, vec![0; CHUNK_BYTES])?;
        part[..chunk.plain().len()].copy_from_slice(chunk.plain());
    }
    Ok(bytes)
}
