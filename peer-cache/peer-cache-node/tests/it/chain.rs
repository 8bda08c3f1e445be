//! A chain in miniature: HQ's part played by a store in memory that counts its bytes, nodes and agents on loopback.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::FileExt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use image_format::{CHUNK_BYTES, ChunkCodec, ChunkRecord, Manifest, ObjectHash, VerifiedObject};
use image_store::{ImportOptions, ObjectSink, Signer, import};
use peer_cache_node::{
    AdmissionWish, BoxFuture, ChunkKeeper, Event, FetchObjectError, HolderView, Identity, Lease,
    LeaseError, Origin, PeerCache, PeerCacheConfig, Role, Site, UploadRules,
    slab::{SLAB_BYTES_MIN, Slab},
};
use peer_cache_proto::{
    machine::MachineFacts,
    wire::{AdmissionAnswer, Credentials, Documents, TicketProof},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tempfile::TempDir;
use tokio::{sync::mpsc, time::timeout};
use trust_format::{
    Channel, Digest, Grade, HqContact, KnownMachine, MachineId, NodeCertificate, Order, PinRule,
    PublicKey, Roster, SiteId, TrustedKeys, UnknownRule, Verified,
};

pub(crate) const SITE: SiteId = SiteId([1; 16]);
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A chain's keys, one image, and objects with a counter.
pub(crate) struct Hq {
    pub(crate) signer: Signer,
    pub(crate) manifest: Verified<Manifest>,
    pub(crate) objects: Mutex<BTreeMap<ObjectHash, Bytes>>,
    pub(crate) sent: AtomicU64,
    pub(crate) leases: AtomicUsize,
    /// A node that holds the lease already; who does not see it gets an island's.
    pub(crate) holder: Mutex<Option<PublicKey>>,
    /// Tokens of an older fence open nothing.
    pub(crate) fence_min: AtomicU64,
    /// After so many bytes every lease is over, and this node has the next.
    pub(crate) over_after: Mutex<Option<(u64, PublicKey)>>,
    /// Nothing may be fetched.
    pub(crate) waits: AtomicBool,
    /// The holder said that it has everything.
    pub(crate) finished: AtomicBool,
    /// Cut each transfer off after this many bytes.
    pub(crate) cut: Option<usize>,
    _folder: TempDir,
}

pub(crate) struct Sink<'a>(&'a Mutex<BTreeMap<ObjectHash, Bytes>>);

impl ObjectSink for Sink<'_> {
    fn put(&self, hash: ObjectHash, bytes: Bytes) -> io::Result<()> {
        self.0.lock().unwrap().insert(hash, bytes);
        Ok(())
    }
}

impl Hq {
    pub(crate) fn new(chunks: usize, cut: Option<usize>) -> Arc<Self> {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("image.raw");
        let file = File::create(&path).unwrap();
        let mut rng = StdRng::seed_from_u64(3);
        let mut chunk = vec![0; CHUNK_BYTES];
        for n in 0..chunks as u64 {
            rng.fill(&mut chunk[..CHUNK_BYTES / 2]);
            file.write_all_at(&chunk, n * CHUNK_BYTES as u64).unwrap();
        }
        let signer = Signer::open_or_create(folder.path()).unwrap();
        let objects = Mutex::default();
        let (mut manifest, _) =
            import(&path, &ImportOptions::named("till"), &Sink(&objects), &()).unwrap();
        manifest.release = 5;
        let manifest = signer.sign_manifest(&manifest).unwrap();
        Arc::new(Self {
            signer,
            manifest,
            objects,
            sent: AtomicU64::new(0),
            leases: AtomicUsize::new(0),
            holder: Mutex::default(),
            fence_min: AtomicU64::new(0),
            over_after: Mutex::default(),
            waits: AtomicBool::new(false),
            finished: AtomicBool::new(false),
            cut,
            _folder: folder,
        })
    }

    pub(crate) fn keys(&self) -> TrustedKeys {
        self.signer.trusted().clone()
    }

    pub(crate) fn channel(&self, number: u64, change: impl FnOnce(&mut Channel)) -> Vec<u8> {
        let mut channel = Channel {
            site: SITE,
            site_name: "Graz".into(),
            number,
            image: Some(self.manifest.digest()),
            bundle: None,
            release_floor: 0,
            revocation: 0,
            revoked: vec![],
            unknown: UnknownRule::Admit,
            provisional: true,
            hq: HqContact {
                urls: vec![],
                fingerprint: [0; 32],
            },
        };
        change(&mut channel);
        self.signer
            .sign_channel(&channel)
            .unwrap()
            .as_bytes()
            .to_vec()
    }

    /// Machines by their facts, all approved.
    pub(crate) fn roster(&self, number: u64, known: &[MachineFacts]) -> Vec<u8> {
        let machine = |facts: &MachineFacts| KnownMachine {
            id: facts.id().unwrap(),
            approved: true,
            signs: [facts.strong_signs(), facts.mac_signs()].concat(),
            tpm: None,
            code: None,
        };
        self.roster_of(number, known.iter().map(machine).collect(), None)
    }

    pub(crate) fn roster_of(
        &self,
        number: u64,
        mut machines: Vec<KnownMachine>,
        pin: Option<PinRule>,
    ) -> Vec<u8> {
        machines.sort_unstable_by_key(|m| m.id);
        let roster = Roster {
            site: SITE,
            number,
            machines,
            shared: vec![],
            pin,
        };
        let signed = self.signer.sign_roster(&roster).unwrap();
        signed.as_bytes().to_vec()
    }

    pub(crate) fn order(&self, number: u64, erase: bool) -> Vec<u8> {
        let order = Order {
            site: SITE,
            number,
            image: self.manifest.digest(),
            machine: None,
            erase,
        };
        self.signer.sign_order(&order).unwrap().as_bytes().to_vec()
    }

    pub(crate) fn site(&self) -> Site {
        let mut site = Site::new(self.keys());
        let documents = Documents {
            channel: Some(self.channel(1, |_| {})),
            orders: vec![self.order(1, false)],
            ..Documents::default()
        };
        let learned = site.learn(&documents);
        assert!(learned.refused.is_empty(), "{:?}", learned.refused);
        site
    }

    pub(crate) fn certificate(&self, node: PublicKey) -> Vec<u8> {
        let certificate = NodeCertificate {
            node,
            site: SITE,
            machine: MachineId(node.0[..16].try_into().unwrap()),
            name: "node".into(),
            grade: Grade::Certified,
        };
        self.signer
            .certify(&certificate)
            .unwrap()
            .as_bytes()
            .to_vec()
    }
}

pub(crate) struct Wan(Arc<Hq>);

impl Origin for Wan {
    fn manifest(&self, digest: Digest) -> BoxFuture<'_, io::Result<Bytes>> {
        Box::pin(async move {
            assert_eq!(digest, self.0.manifest.digest());
            Ok(Bytes::copy_from_slice(self.0.manifest.as_bytes()))
        })
    }

    fn may_fetch(&self, _: Digest) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            while self.0.waits.load(Ordering::SeqCst) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
    }

    fn lease<'a>(
        &'a self,
        manifest: Digest,
        holders: &'a [HolderView],
    ) -> BoxFuture<'a, Result<Lease, LeaseError>> {
        Box::pin(async move {
            let fence = self.0.leases.fetch_add(1, Ordering::SeqCst) as u64;
            let holder = *self.0.holder.lock().unwrap();
            if let Some(key) = holder
                && !holders.contains(&HolderView { key, live: false })
            {
                let (holder, finished) = ("another".into(), false);
                return Err(LeaseError::Held {
                    holder,
                    key,
                    finished,
                });
            }
            Ok(Lease {
                manifest,
                token: fence.to_string(),
                fence,
                island: holder.is_some(),
            })
        })
    }

    fn end_lease<'a>(&'a self, _: &'a Lease, finished: bool) -> BoxFuture<'a, ()> {
        self.0.finished.store(finished, Ordering::SeqCst);
        Box::pin(async {})
    }

    fn object<'a>(
        &'a self,
        lease: &'a Lease,
        record: &'a ChunkRecord,
        so_far: &'a mut Vec<u8>,
        received: &'a AtomicU64,
    ) -> BoxFuture<'a, Result<(), FetchObjectError>> {
        Box::pin(async move {
            let over = *self.0.over_after.lock().unwrap();
            if let Some((_, key)) = over.filter(|o| self.0.sent.load(Ordering::SeqCst) >= o.0) {
                *self.0.holder.lock().unwrap() = Some(key);
                self.0.fence_min.store(u64::MAX, Ordering::SeqCst);
            }
            if lease.fence < self.0.fence_min.load(Ordering::SeqCst) {
                return Err(FetchObjectError::LeaseOver);
            }
            let bytes = self.0.objects.lock().unwrap()[&record.object_hash].clone();
            let rest = &bytes[so_far.len()..];
            let part = self.0.cut.map_or(rest, |n| &rest[..n.min(rest.len())]);
            // a thin line, so that receivers are there while it comes
            tokio::time::sleep(Duration::from_millis(5)).await;
            self.0.sent.fetch_add(part.len() as u64, Ordering::SeqCst);
            received.fetch_add(part.len() as u64, Ordering::SeqCst);
            so_far.extend_from_slice(part);
            match so_far.len() == bytes.len() {
                true => Ok(()),
                false => Err(FetchObjectError::Broken(
                    io::ErrorKind::ConnectionReset.into(),
                )),
            }
        })
    }

    fn certify(&self, _: PublicKey, _: MachineId, _: u64) -> BoxFuture<'_, Option<Vec<u8>>> {
        Box::pin(async { None })
    }
}

pub(crate) struct Member {
    pub(crate) cache: PeerCache,
    pub(crate) events: mpsc::Receiver<Event>,
    pub(crate) slab: Slab,
    pub(crate) folder: TempDir,
}

pub(crate) fn listen() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

pub(crate) fn start(hq: &Arc<Hq>, role: Role, origin: bool, site: Site, fill: bool) -> Member {
    start_as(hq, role, origin, site, fill, Identity::generate().unwrap())
}

pub(crate) fn start_as(
    hq: &Arc<Hq>,
    role: Role,
    origin: bool,
    site: Site,
    fill: bool,
    identity: Identity,
) -> Member {
    start_on(
        TempDir::new().unwrap(),
        hq,
        role,
        origin,
        site,
        fill,
        identity,
    )
}

/// On what an earlier start left in its folder.
pub(crate) fn start_on(
    folder: TempDir,
    hq: &Arc<Hq>,
    role: Role,
    origin: bool,
    site: Site,
    fill: bool,
    identity: Identity,
) -> Member {
    let path = folder.path().join("slab");
    let slab = Slab::open_file(&path, SLAB_BYTES_MIN.max(64 << 20)).unwrap();
    start_with((folder, slab), hq, role, origin, site, fill, identity)
}

/// With a slab of any size.
pub(crate) fn start_with(
    (folder, slab): (TempDir, Slab),
    hq: &Arc<Hq>,
    role: Role,
    origin: bool,
    site: Site,
    filled: bool,
    identity: Identity,
) -> Member {
    if filled {
        fill(&slab, hq);
    }
    let keeper = Arc::new(slab.clone());
    start_keeping(keeper, (folder, slab), hq, role, origin, site, identity)
}

pub(crate) fn start_keeping(
    keeper: Arc<dyn ChunkKeeper>,
    (folder, slab): (TempDir, Slab),
    hq: &Arc<Hq>,
    role: Role,
    origin: bool,
    site: Site,
    identity: Identity,
) -> Member {
    let config = config(keeper, hq, role, origin, site, identity);
    start_configured(config, (folder, slab))
}

/// A node that gives no more than so many bytes per second, with everything in its slab.
pub(crate) fn node_giving(hq: &Arc<Hq>, bytes_per_second: u64) -> Member {
    let folder = TempDir::new().unwrap();
    let slab = Slab::open_file(&folder.path().join("slab"), 64 << 20).unwrap();
    fill(&slab, hq);
    let identity = Identity::generate().unwrap();
    let keeper = Arc::new(slab.clone());
    let mut config = config(keeper, hq, Role::Node, false, hq.site(), identity);
    config.uploads.bytes_per_second = Some(bytes_per_second);
    let node = start_configured(config, (folder, slab));
    node.cache.share(hq.manifest.clone());
    node
}

/// A node with an empty slab that is whatever the caller makes of it.
pub(crate) fn node_like(
    hq: &Arc<Hq>,
    site: Site,
    identity: Identity,
    change: impl FnOnce(&mut PeerCacheConfig),
) -> Member {
    let folder = TempDir::new().unwrap();
    let slab = Slab::open_file(&folder.path().join("slab"), SLAB_BYTES_MIN.max(64 << 20)).unwrap();
    let keeper = Arc::new(slab.clone());
    let mut config = config(keeper, hq, Role::Node, false, site, identity);
    change(&mut config);
    start_configured(config, (folder, slab))
}

fn fill(slab: &Slab, hq: &Hq) {
    for chunk in &hq.manifest.chunks {
        let bytes = hq.objects.lock().unwrap()[&chunk.object_hash].clone();
        slab.keep(&VerifiedObject::check(chunk, bytes).unwrap())
            .unwrap();
    }
}

fn config(
    keeper: Arc<dyn ChunkKeeper>,
    hq: &Arc<Hq>,
    role: Role,
    origin: bool,
    site: Site,
    identity: Identity,
) -> PeerCacheConfig {
    let credentials = match role {
        Role::Node => Credentials::Node {
            certificate: hq.certificate(identity.public()),
            issuer: None,
        },
        Role::Agent => Credentials::Agent { ticket: None },
    };
    PeerCacheConfig {
        identity,
        role,
        boot: rand::rng().random(),
        listen: listen(),
        discover: false,
        site,
        credentials,
        keeper,
        origin: origin.then(|| Arc::new(Wan(hq.clone())) as Arc<dyn Origin>),
        always_on: false,
        uploads: UploadRules::default(),
        voucher_pin: None,
    }
}

fn start_configured(config: PeerCacheConfig, (folder, slab): (TempDir, Slab)) -> Member {
    let (cache, events) = PeerCache::start(config).unwrap();
    Member {
        cache,
        events,
        slab,
        folder,
    }
}

pub(crate) fn node(hq: &Arc<Hq>, fill: bool) -> Member {
    let node = start(hq, Role::Node, !fill, hq.site(), fill);
    node.cache.share(hq.manifest.clone());
    node
}

pub(crate) fn agent(hq: &Arc<Hq>) -> Member {
    start(hq, Role::Agent, false, Site::new(hq.keys()), false)
}

/// For tests whose first agent has the name.
pub(crate) fn another_agent(hq: &Arc<Hq>) -> Member {
    agent(hq)
}

pub(crate) fn wish(n: u8) -> AdmissionWish {
    AdmissionWish {
        facts: facts(n),
        ..AdmissionWish::default()
    }
}

pub(crate) fn facts(n: u8) -> MachineFacts {
    MachineFacts::new(Some([n; 16]), None, &[], "test")
}

impl Member {
    pub(crate) async fn admission(&mut self) -> AdmissionAnswer {
        let answer = async {
            loop {
                if let Event::Admission { answer, .. } = self.events.recv().await.unwrap() {
                    return answer;
                }
            }
        };
        timeout(PATIENCE, answer).await.unwrap()
    }

    pub(crate) async fn be_admitted(&mut self, by: &Member, n: u8) -> TicketProof {
        let node = self
            .cache
            .dial(by.cache.local_addr().unwrap())
            .await
            .unwrap();
        self.cache.ask_admission(&node, wish(n));
        let AdmissionAnswer::Granted { proof, order } = self.admission().await else {
            panic!("not granted")
        };
        self.cache.learn(&Documents {
            orders: vec![order],
            ..Documents::default()
        });
        assert!(self.cache.site(|s| s.order(1).is_some()));
        self.cache.set_ticket(proof.clone());
        proof
    }

    pub(crate) async fn download(&self, hq: &Hq) {
        let manifest = self.cache.manifest(hq.manifest.digest()).await.unwrap();
        let mut complete = self.cache.share(manifest);
        timeout(PATIENCE, complete.wait_for(|c| *c))
            .await
            .expect("downloads in time")
            .unwrap();
    }

    pub(crate) fn check(&self, hq: &Hq) {
        let mut codec = ChunkCodec::new(1).unwrap();
        for record in &hq.manifest.chunks {
            let object = VerifiedObject::check(record, self.slab.read(record).unwrap()).unwrap();
            object.unpack(&mut codec, vec![0; CHUNK_BYTES]).unwrap();
        }
    }

    pub(crate) fn sent_bytes(&self) -> u64 {
        self.cache.peers().iter().map(|p| p.sent_bytes).sum()
    }
}
