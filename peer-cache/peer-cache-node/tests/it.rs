//! Nodes and agents over real QUIC on loopback, with HQ's part played by a store in memory that counts its bytes.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::FileExt,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use image_format::{CHUNK_BYTES, ChunkCodec, ChunkRecord, Manifest, ObjectHash, VerifiedObject};
use image_store::{ImportOptions, ObjectSink, Signer, import};
use peer_cache_node::{
    BoxFuture, Event, Identity, Lease, LeaseError, Origin, PeerCache, PeerCacheConfig, Role, Site,
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
    Channel, Completion, Digest, Grade, HqContact, MachineId, NodeCertificate, Order, PublicKey,
    SiteId, TrustedKeys, UnknownRule, Verified,
};

const SITE: SiteId = SiteId([1; 16]);
const PATIENCE: Duration = Duration::from_secs(60);

/// A chain's keys, one image, and objects with a counter.
struct Hq {
    signer: Signer,
    manifest: Verified<Manifest>,
    objects: Mutex<BTreeMap<ObjectHash, Bytes>>,
    sent: AtomicU64,
    leases: AtomicUsize,
    /// Cut each transfer off after this many bytes.
    cut: Option<usize>,
    _folder: TempDir,
}

struct Sink<'a>(&'a Mutex<BTreeMap<ObjectHash, Bytes>>);

impl ObjectSink for Sink<'_> {
    fn put(&self, hash: ObjectHash, bytes: Bytes) -> io::Result<()> {
        self.0.lock().unwrap().insert(hash, bytes);
        Ok(())
    }
}

impl Hq {
    fn new(chunks: usize, cut: Option<usize>) -> Arc<Self> {
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
            cut,
            _folder: folder,
        })
    }

    fn keys(&self) -> TrustedKeys {
        self.signer.trusted().clone()
    }

    fn channel(&self, number: u64, change: impl FnOnce(&mut Channel)) -> Vec<u8> {
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
            admitted: vec![],
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

    fn order(&self, number: u64, erase: bool) -> Vec<u8> {
        let order = Order {
            site: SITE,
            number,
            image: self.manifest.digest(),
            machine: None,
            erase,
        };
        self.signer.sign_order(&order).unwrap().as_bytes().to_vec()
    }

    fn site(&self) -> Site {
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

    fn certificate(&self, node: PublicKey) -> Vec<u8> {
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

struct Wan(Arc<Hq>);

impl Origin for Wan {
    fn manifest(&self, digest: Digest) -> BoxFuture<'_, io::Result<Bytes>> {
        Box::pin(async move {
            assert_eq!(digest, self.0.manifest.digest());
            Ok(Bytes::copy_from_slice(self.0.manifest.as_bytes()))
        })
    }

    fn lease(&self, _: Digest) -> BoxFuture<'_, Result<Lease, LeaseError>> {
        let fence = self.0.leases.fetch_add(1, Ordering::SeqCst) as u64;
        Box::pin(async move {
            Ok(Lease {
                token: String::new(),
                fence,
            })
        })
    }

    fn object<'a>(
        &'a self,
        _: &'a Lease,
        record: &'a ChunkRecord,
        so_far: &'a mut Vec<u8>,
    ) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move {
            let bytes = self.0.objects.lock().unwrap()[&record.object_hash].clone();
            let rest = &bytes[so_far.len()..];
            let part = self.0.cut.map_or(rest, |n| &rest[..n.min(rest.len())]);
            // a thin line, so that receivers are there while it comes
            tokio::time::sleep(Duration::from_millis(5)).await;
            self.0.sent.fetch_add(part.len() as u64, Ordering::SeqCst);
            so_far.extend_from_slice(part);
            match so_far.len() == bytes.len() {
                true => Ok(()),
                false => Err(io::ErrorKind::ConnectionReset.into()),
            }
        })
    }

    fn certify(&self, _: PublicKey, _: MachineId, _: u64) -> BoxFuture<'_, Option<Vec<u8>>> {
        Box::pin(async { None })
    }
}

struct Member {
    cache: PeerCache,
    events: mpsc::Receiver<Event>,
    slab: Slab,
    folder: TempDir,
}

fn listen() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

fn start(hq: &Arc<Hq>, role: Role, origin: bool, site: Site, fill: bool) -> Member {
    start_as(hq, role, origin, site, fill, Identity::generate().unwrap())
}

fn start_as(
    hq: &Arc<Hq>,
    role: Role,
    origin: bool,
    site: Site,
    fill: bool,
    identity: Identity,
) -> Member {
    let folder = TempDir::new().unwrap();
    let slab = Slab::open_file(&folder.path().join("slab"), SLAB_BYTES_MIN.max(64 << 20)).unwrap();
    if fill {
        for chunk in &hq.manifest.chunks {
            let bytes = hq.objects.lock().unwrap()[&chunk.object_hash].clone();
            slab.keep(&VerifiedObject::check(chunk, bytes).unwrap())
                .unwrap();
        }
    }
    let credentials = match role {
        Role::Node => Credentials::Node {
            certificate: hq.certificate(identity.public()),
            issuer: None,
        },
        Role::Agent => Credentials::Agent { ticket: None },
    };
    let config = PeerCacheConfig {
        identity,
        role,
        boot: rand::rng().random(),
        listen: listen(),
        discover: false,
        site,
        credentials,
        keeper: Arc::new(slab.clone()),
        origin: origin.then(|| Arc::new(Wan(hq.clone())) as Arc<dyn Origin>),
    };
    let (cache, events) = PeerCache::start(config).unwrap();
    Member {
        cache,
        events,
        slab,
        folder,
    }
}

fn node(hq: &Arc<Hq>, fill: bool) -> Member {
    let node = start(hq, Role::Node, !fill, hq.site(), fill);
    node.cache.share(hq.manifest.clone());
    node
}

fn agent(hq: &Arc<Hq>) -> Member {
    start(hq, Role::Agent, false, Site::new(hq.keys()), false)
}

/// For tests whose first agent has the name.
fn another_agent(hq: &Arc<Hq>) -> Member {
    agent(hq)
}

fn facts(n: u8) -> MachineFacts {
    MachineFacts::new(Some([n; 16]), None, &[], "test")
}

impl Member {
    async fn admission(&mut self) -> AdmissionAnswer {
        let answer = async {
            loop {
                if let Event::Admission { answer, .. } = self.events.recv().await.unwrap() {
                    return answer;
                }
            }
        };
        timeout(PATIENCE, answer).await.unwrap()
    }

    async fn be_admitted(&mut self, by: &Member, n: u8) -> TicketProof {
        let node = self
            .cache
            .dial(by.cache.local_addr().unwrap())
            .await
            .unwrap();
        self.cache.ask_admission(&node, facts(n), None, vec![]);
        let AdmissionAnswer::Granted { proof, order } = self.admission().await else {
            panic!("not granted")
        };
        let learned = self.cache.learn(&Documents {
            orders: vec![order],
            ..Documents::default()
        });
        assert_eq!(learned.orders, [1]);
        self.cache.set_ticket(proof.clone());
        proof
    }

    async fn download(&self, hq: &Hq) {
        let manifest = self.cache.manifest(hq.manifest.digest()).await.unwrap();
        let mut complete = self.cache.share(manifest);
        timeout(PATIENCE, complete.wait_for(|c| *c))
            .await
            .expect("downloads in time")
            .unwrap();
    }

    fn check(&self, hq: &Hq) {
        let mut codec = ChunkCodec::new(1).unwrap();
        for record in &hq.manifest.chunks {
            let object = VerifiedObject::check(record, self.slab.read(record).unwrap()).unwrap();
            object.unpack(&mut codec, vec![0; CHUNK_BYTES]).unwrap();
        }
    }

    fn sent_bytes(&self) -> u64 {
        self.cache.peers().iter().map(|p| p.sent_bytes).sum()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_site_of_five_fetches_once_and_shares() {
    let hq = Hq::new(60, Some(100_000));
    let node = node(&hq, false);
    let mut agents: Vec<Member> = (0..4).map(|_| agent(&hq)).collect();
    for (n, agent) in (1..).zip(&mut agents) {
        agent.be_admitted(&node, n).await;
    }
    let all = agents.iter().map(|a| a.download(&hq));
    futures_join(all).await;
    for agent in &agents {
        agent.check(&hq);
    }
    assert_eq!(
        hq.sent.load(Ordering::SeqCst),
        hq.manifest.object_bytes(),
        "once over the WAN, cut or not"
    );
    assert_eq!(node.cache.origin_bytes(), hq.manifest.object_bytes());
    let copies = node.sent_bytes() as f64 / hq.manifest.object_bytes() as f64;
    assert!(copies < 2.5, "the node sent {copies:.2} copies to 4");
    for agent in &agents {
        assert!(
            agent.sent_bytes() > hq.manifest.object_bytes() / 10,
            "every receiver passes on"
        );
    }
}

async fn futures_join(futures: impl Iterator<Item = impl Future<Output = ()>>) {
    let mut all: Vec<_> = futures.map(Box::pin).collect();
    std::future::poll_fn(|cx| {
        all.retain_mut(|f| f.as_mut().poll(cx).is_pending());
        if all.is_empty() {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_admission_no_byte() {
    let hq = Hq::new(3, None);
    let node = node(&hq, true);
    let agent = agent(&hq);
    agent
        .cache
        .dial(node.cache.local_addr().unwrap())
        .await
        .unwrap();
    let refused = agent
        .cache
        .manifest(hq.manifest.digest())
        .await
        .unwrap_err()
        .to_string();
    assert!(refused.contains("nowhere"), "{refused}");
    // it has the manifest by other means, and still gets nothing
    let mut complete = agent.cache.share(hq.manifest.clone());
    assert!(
        timeout(Duration::from_secs(3), complete.wait_for(|c| *c))
            .await
            .is_err()
    );
    assert_eq!(agent.cache.held(&hq.manifest.digest()), Some((0, 3)));
    assert!(node.sent_bytes() < 20_000, "{}", node.sent_bytes());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_wait_until_somebody_says_yes() {
    let hq = Hq::new(3, None);
    let mut site = Site::new(hq.keys());
    let wait = hq.channel(1, |c| c.unknown = UnknownRule::Wait);
    site.learn(&Documents {
        channel: Some(wait),
        orders: vec![hq.order(1, false)],
        ..Documents::default()
    });
    let node = start(&hq, Role::Node, false, site, true);
    node.cache.share(hq.manifest.clone());
    let mut agent = agent(&hq);
    let key = agent
        .cache
        .dial(node.cache.local_addr().unwrap())
        .await
        .unwrap();
    agent.cache.ask_admission(&key, facts(9), None, vec![]);
    assert!(matches!(
        agent.admission().await,
        AdmissionAnswer::Wait { .. }
    ));
    let yes = hq.channel(2, |c| {
        c.unknown = UnknownRule::Wait;
        c.admitted = vec![facts(9).id().unwrap()];
    });
    node.cache.learn(&Documents {
        channel: Some(yes),
        ..Documents::default()
    });
    let AdmissionAnswer::Granted { proof, .. } = agent.admission().await else {
        panic!("not granted")
    };
    agent.cache.set_ticket(proof);
    agent.download(&hq).await;
    agent.check(&hq);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_with_a_flipped_bit_is_cut_off_and_named() {
    let hq = Hq::new(8, None);
    let mut liar = node(&hq, true);
    // behind the slab's back, after the slab has hashed the records: in every one, since nobody knows which is asked for
    for record in &hq.manifest.chunks {
        liar.slab.read(record).unwrap();
    }
    let file = File::options()
        .write(true)
        .open(liar.folder.path().join("slab"))
        .unwrap();
    for page in 1..file.metadata().unwrap().len() / 4096 {
        file.write_all_at(&[0xff; 9], page * 4096 + 128 + 1000)
            .unwrap();
    }
    let honest = node(&hq, true);
    let mut agent = agent(&hq);
    let proof = agent.be_admitted(&liar, 1).await;
    agent
        .cache
        .dial(honest.cache.local_addr().unwrap())
        .await
        .unwrap();
    agent.cache.set_ticket(proof);
    agent.download(&hq).await;
    agent.check(&hq);
    let accused = async {
        loop {
            if let Event::Accused { key, chunk, .. } = agent.events.recv().await.unwrap() {
                return (key, chunk);
            }
        }
    };
    let (key, chunk) = timeout(PATIENCE, accused).await.unwrap();
    assert_eq!((key, chunk.is_some()), (liar.cache.key(), true));
    let again = agent.cache.dial(liar.cache.local_addr().unwrap()).await;
    assert!(again.is_err(), "it is not talked to again");
    liar.events.close();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_death_of_the_admitting_node_ends_nothing() {
    let hq = Hq::new(40, None);
    let first = node(&hq, true);
    let second = node(&hq, true);
    second
        .cache
        .dial(first.cache.local_addr().unwrap())
        .await
        .unwrap();
    let mut agent = agent(&hq);
    agent.be_admitted(&first, 1).await;
    let manifest = agent.cache.manifest(hq.manifest.digest()).await.unwrap();
    let mut complete = agent.cache.share(manifest);
    while agent.cache.held(&hq.manifest.digest()).unwrap().0 < 5 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    first.cache.close().await;
    drop(first);
    timeout(PATIENCE, complete.wait_for(|c| *c))
        .await
        .expect("goes on from the other")
        .unwrap();
    agent.check(&hq);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_another_chain_or_site_is_refused() {
    let (hq, other) = (Hq::new(1, None), Hq::new(1, None));
    let (ours, theirs) = (node(&hq, true), node(&other, true));
    // whoever notices first closes, and says why
    let error = ours
        .cache
        .dial(theirs.cache.local_addr().unwrap())
        .await
        .unwrap_err();
    assert!(format!("{error:?}").contains("not signed"), "{error:?}");
    assert!(ours.cache.peers().is_empty() && theirs.cache.peers().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_node_is_cut_off() {
    let hq = Hq::new(1, None);
    let (a, b) = (node(&hq, true), node(&hq, true));
    a.cache.dial(b.cache.local_addr().unwrap()).await.unwrap();
    let revoke = hq.channel(2, |c| {
        c.revoked = vec![b.cache.key()];
        c.revocation = 1;
    });
    a.cache.learn(&Documents {
        channel: Some(revoke),
        ..Documents::default()
    });
    let gone = async {
        while !a.cache.peers().is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, gone).await.unwrap();
    let error = a
        .cache
        .dial(b.cache.local_addr().unwrap())
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("revoked"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_is_spent_and_all_nodes_hear_of_it() {
    let hq = Hq::new(1, None);
    let (a, b) = (node(&hq, true), node(&hq, true));
    a.cache.dial(b.cache.local_addr().unwrap()).await.unwrap();
    let mut agent = agent(&hq);
    let proof = agent.be_admitted(&a, 7).await;
    let completion = Completion {
        machine: facts(7).id().unwrap(),
        order: 1,
        image: hq.manifest.digest(),
        node: None,
        ticket: proof.ticket,
    };
    agent
        .cache
        .tell_completion(&agent.cache.identity().sign(&completion));
    let heard = async {
        while b
            .cache
            .site(|s| s.book().completed(&facts(7).id().unwrap()).count())
            == 0
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, heard).await.unwrap();
    let mut replay = another_agent(&hq);
    let key = replay
        .cache
        .dial(b.cache.local_addr().unwrap())
        .await
        .unwrap();
    replay.cache.ask_admission(&key, facts(7), None, vec![]);
    assert_eq!(replay.admission().await, AdmissionAnswer::Done { order: 1 });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provisional_node_admits_and_certifies_nobody() {
    let hq = Hq::new(2, None);
    let a = node(&hq, true);
    let mut agent = agent(&hq);
    agent.be_admitted(&a, 1).await;
    let b_key = Identity::generate().unwrap();
    agent.cache.ask_certificate(&a.cache.key(), b_key.public());
    let (certificate, issuer) = loop {
        let event = timeout(PATIENCE, agent.events.recv()).await.unwrap();
        if let Event::Certificate {
            certificate,
            issuer,
        } = event.unwrap()
        {
            break (certificate, issuer);
        }
    };
    let b = start_as(&hq, Role::Node, false, hq.site(), true, b_key);
    b.cache.set_credentials(Credentials::Node {
        certificate,
        issuer,
    });
    b.cache.share(hq.manifest.clone());
    let mut next = another_agent(&hq);
    next.be_admitted(&b, 2).await;
    next.download(&hq).await;
    next.check(&hq);
    next.cache
        .ask_certificate(&b.cache.key(), PublicKey([5; 32]));
    loop {
        match timeout(PATIENCE, next.events.recv())
            .await
            .unwrap()
            .unwrap()
        {
            Event::NotCertified { reason } => {
                assert!(reason.contains("provisionally"), "{reason}");
                break;
            }
            Event::Certificate { .. } => panic!("one step deep"),
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_documents_and_withdrawn_manifests_are_refused() {
    let hq = Hq::new(1, None);
    let mut site = hq.site();
    let newer = site.learn(&Documents {
        channel: Some(hq.channel(3, |c| c.release_floor = 6)),
        ..Documents::default()
    });
    assert!(newer.channel);
    let older = site.learn(&Documents {
        channel: Some(hq.channel(2, |_| {})),
        ..Documents::default()
    });
    assert!(
        !older.channel && older.refused[0].contains("older"),
        "{:?}",
        older.refused
    );
    let error = site
        .accept_manifest(&hq.manifest.digest(), hq.manifest.as_bytes())
        .unwrap_err()
        .to_string();
    assert!(error.contains("below the site's floor 6"), "{error}");
    let elsewhere = site.learn(&Documents {
        channel: Some(hq.channel(9, |c| c.site = SiteId([9; 16]))),
        ..Documents::default()
    });
    assert!(!elsewhere.channel);
    let stranger = Hq::new(1, None);
    let forged = site.learn(&Documents {
        channel: Some(stranger.channel(10, |_| {})),
        orders: vec![stranger.order(5, true)],
        ..Documents::default()
    });
    assert!(!forged.is_news() && forged.refused.len() == 2);
}

#[test]
fn documents_are_there_after_a_restart() {
    let hq = Hq::new(1, None);
    let folder = TempDir::new().unwrap();
    let mut site = hq.site();
    site.save_to(folder.path()).unwrap();
    site.learn(&Documents {
        orders: vec![hq.order(2, true)],
        ..Documents::default()
    });
    let again = Site::open(folder.path()).unwrap();
    assert_eq!(
        again.book().orders().map(|o| o.number).collect::<Vec<_>>(),
        [1, 2]
    );
    assert_eq!(again.channel().unwrap().number, 1);
    assert!(Site::open(Path::new("/nonexistent")).is_err());
    assert!(again.assigned().contains(&hq.manifest.digest()));
}
