//! Nodes with less room than the image needs: each keeps its share, and any two may vanish.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use image_format::{ChunkHash, ChunkId, ChunkRecord, Form, Manifest, VerifiedObject};
use peer_cache_node::{
    Arrived, ChunkKeeper, Kept,
    slab::{Slab, record_bytes},
};
use peer_cache_proto::spread::{Piece, Placement};
use tokio::sync::OwnedSemaphorePermit;
use trust_format::{MachineId, Verified};

use super::*;

const CHUNKS: usize = 60;
/// Chunks that make way at once in a crowded slab.
const FIRST_MAKE_WAY: usize = 6;
/// Of the image's objects, in percent: 62 are usable, and three copies need 60 of each of five.
const SLAB_PERCENT: u64 = 66;

fn small(hq: &Arc<Hq>, percent: u64) -> Member {
    small_keeping(hq, percent, |slab| Arc::new(slab))
}

fn small_keeping(
    hq: &Arc<Hq>,
    percent: u64,
    keeper: impl FnOnce(Slab) -> Arc<dyn ChunkKeeper>,
) -> Member {
    let folder = TempDir::new().unwrap();
    let bytes = hq.manifest.object_bytes() * percent / 100;
    let slab = Slab::open_file(&folder.path().join("slab"), bytes).unwrap();
    let identity = Identity::generate().unwrap();
    let member = start_keeping(
        keeper(slab.clone()),
        (folder, slab),
        hq,
        Role::Node,
        true,
        hq.site(),
        identity,
    );
    member.cache.share(hq.manifest.clone());
    member
}

/// A slab where the first chunks make way before anybody knows that they are here, and others later without a word.
struct Crowded {
    slab: Slab,
    first: Mutex<BTreeSet<ChunkId>>,
    gone: Mutex<BTreeSet<ChunkId>>,
}

impl Crowded {
    fn new(slab: Slab) -> Self {
        Self {
            slab,
            first: Mutex::default(),
            gone: Mutex::default(),
        }
    }
}

impl ChunkKeeper for Crowded {
    fn keep(
        &self,
        manifest: &Verified<Manifest>,
        chunk: ChunkId,
        arrived: Arrived,
        permit: OwnedSemaphorePermit,
        kept: Kept,
    ) {
        self.gone.lock().unwrap().remove(&chunk);
        let mut first = self.first.lock().unwrap();
        if first.len() < FIRST_MAKE_WAY && first.insert(chunk) {
            let _ = kept.send(Ok(()));
        } else {
            ChunkKeeper::keep(&self.slab, manifest, chunk, arrived, permit, kept);
        }
    }

    fn holds(&self, manifest: &Verified<Manifest>, chunk: ChunkId) -> bool {
        let gone = self.gone.lock().unwrap().contains(&chunk);
        !gone && ChunkKeeper::holds(&self.slab, manifest, chunk)
    }

    fn open(
        &self,
        manifest: &Verified<Manifest>,
        chunk: ChunkId,
        form: Form,
    ) -> Option<(Form, Bytes)> {
        self.slab.open(manifest, chunk, form)
    }

    fn assign(&self, manifests: &[Verified<Manifest>]) {
        ChunkKeeper::assign(&self.slab, manifests);
    }

    fn sync(&self) -> std::io::Result<()> {
        self.slab.sync()
    }

    fn free_bytes(&self) -> u64 {
        self.slab.free_bytes()
    }

    fn room_bytes(&self) -> Option<u64> {
        self.slab.room_bytes()
    }

    fn bytes_of(&self, record: &ChunkRecord) -> u64 {
        self.slab.bytes_of(record)
    }
}

async fn meet(nodes: &[Member]) {
    for (n, node) in nodes.iter().enumerate() {
        for other in &nodes[..n] {
            // they may have heard of each other already
            let _ = node.cache.dial(other.cache.local_addr().unwrap()).await;
        }
    }
}

fn held(node: &Member, hq: &Hq) -> BTreeSet<ChunkHash> {
    let hashes = hq.manifest.chunks.iter().map(|record| record.hash);
    hashes
        .filter(|hash| node.slab.holds(hash, Form::Object))
        .collect()
}

fn all_held(nodes: &[Member], hq: &Hq) -> BTreeSet<ChunkHash> {
    nodes.iter().flat_map(|node| held(node, hq)).collect()
}

/// Pairs of nodes that may vanish.
fn pairs(nodes: &[Member], hq: &Hq) -> usize {
    let each: Vec<BTreeSet<ChunkHash>> = nodes.iter().map(|node| held(node, hq)).collect();
    let survives = |a: usize, b: usize| {
        let rest = each.iter().enumerate().filter(|(n, _)| *n != a && *n != b);
        let rest: BTreeSet<ChunkHash> = rest.flat_map(|(_, held)| held.clone()).collect();
        rest.len() == hq.manifest.chunks.len()
    };
    let all = (0..nodes.len()).flat_map(|a| (0..a).map(move |b| (a, b)));
    all.filter(|(a, b)| survives(*a, *b)).count()
}

async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !is() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// In words: what each node lacks of its share and has beyond it.
fn state(nodes: &[Member], hq: &Hq) -> String {
    let id = |node: &Member| MachineId(node.cache.key().0[..16].try_into().unwrap());
    let members = nodes.iter().map(|n| (id(n), n.slab.usable_bytes()));
    let pieces = hq.manifest.chunks.iter().map(|record| {
        let bytes = record_bytes(record.object_bytes);
        let everywhere = false;
        (record.hash, Piece { bytes, everywhere })
    });
    let placement = Placement::of(&members.collect(), &pieces.collect());
    let each: Vec<BTreeSet<ChunkHash>> = nodes.iter().map(|node| held(node, hq)).collect();
    let mut words = String::new();
    for (node, held) in nodes.iter().zip(&each) {
        let chunks = || (0..).zip(hq.manifest.chunks.iter().map(|c| c.hash));
        let keeps = |hash: &ChunkHash| placement.keeps(&id(node), hash);
        let lacks: Vec<i32> = chunks()
            .filter(|(_, h)| keeps(h) && !held.contains(h))
            .map(|(n, _)| n)
            .collect();
        let beyond: Vec<(i32, usize)> = chunks()
            .filter(|(_, h)| !keeps(h) && held.contains(h))
            .map(|(n, h)| {
                let has = nodes
                    .iter()
                    .zip(&each)
                    .filter(|(k, has)| placement.keeps(&id(k), &h) && has.contains(&h));
                (n, has.count())
            })
            .collect();
        let (of, free) = (held.len(), node.slab.free_bytes());
        words += &format!("\nholds {of}, {free} free, lacks {lacks:?}, beyond {beyond:?}");
    }
    words
}

async fn until_every_pair_may_vanish(nodes: &[Member], hq: &Hq) {
    let begun = std::time::Instant::now();
    while pairs(nodes, hq) < 10 {
        assert!(begun.elapsed() < PATIENCE, "{}", state(nodes, hq));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn any_two_of_five_may_vanish_and_the_image_came_once() {
    let hq = Hq::new(CHUNKS, None);
    let mut nodes: Vec<Member> = (0..5).map(|_| small(&hq, SLAB_PERCENT)).collect();
    meet(&nodes).await;
    until_every_pair_may_vanish(&nodes, &hq).await;
    let sent = hq.sent.load(Ordering::SeqCst);
    assert_eq!(sent, hq.manifest.object_bytes(), "once over the WAN");
    for node in &nodes {
        let part = held(node, &hq).len() * 100 / hq.manifest.chunks.len();
        assert!((40..80).contains(&part), "a node holds {part} %");
    }
    // two are gone, and so is the WAN
    hq.waits.store(true, Ordering::SeqCst);
    for node in nodes.drain(..2) {
        node.cache.close().await;
    }
    let mut agent = agent(&hq);
    let proof = agent.be_admitted(&nodes[0], 1).await;
    for node in &nodes[1..] {
        let _ = agent.cache.dial(node.cache.local_addr().unwrap()).await;
    }
    agent.cache.set_ticket(proof);
    agent.download(&hq).await;
    agent.check(&hq);
    assert_eq!(hq.sent.load(Ordering::SeqCst), sent, "nothing over the WAN");
}

/// The first fills its slab; those that come later take over what is theirs, and nothing is lost on the way.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_comes_later_takes_its_share_and_no_last_copy_goes() {
    let hq = Hq::new(CHUNKS, None);
    let mut nodes = vec![small(&hq, SLAB_PERCENT)];
    until("the first is full", || {
        held(&nodes[0], &hq).len() * 100 > 55 * CHUNKS
    })
    .await;
    let mut before = all_held(&nodes, &hq);
    for _ in 1..5 {
        nodes.push(small(&hq, SLAB_PERCENT));
        meet(&nodes).await;
        let begun = std::time::Instant::now();
        while begun.elapsed() < Duration::from_secs(5) {
            let now = all_held(&nodes, &hq);
            assert!(now.is_superset(&before), "a last copy went");
            before = now;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    until_every_pair_may_vanish(&nodes, &hq).await;
    // what is passed on while whoever is to take it is still full comes twice
    let sent = hq.sent.load(Ordering::SeqCst) as f64 / hq.manifest.object_bytes() as f64;
    assert!((1.0..1.1).contains(&sent), "{sent} times over the WAN");
}

/// A node whose slab is crowded, beside one that has everything, once its share is here.
async fn crowded(hq: &Arc<Hq>) -> (Member, Member, Arc<Crowded>) {
    let neighbour = node(hq, true);
    let mut keeper = None;
    let small = small_keeping(hq, SLAB_PERCENT, |slab| {
        keeper.insert(Arc::new(Crowded::new(slab))).clone()
    });
    let _ = small
        .cache
        .dial(neighbour.cache.local_addr().unwrap())
        .await;
    until("the share is here", || {
        held(&small, hq).len() * 100 > 55 * CHUNKS
    })
    .await;
    (neighbour, small, keeper.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_makes_way_before_anybody_knows_of_it_comes_again() {
    let hq = Hq::new(CHUNKS, None);
    let (_neighbour, _small, keeper) = crowded(&hq).await;
    assert_eq!(keeper.first.lock().unwrap().len(), FIRST_MAKE_WAY);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_gone_without_a_word_comes_again() {
    let hq = Hq::new(CHUNKS, None);
    let (_neighbour, small, keeper) = crowded(&hq).await;
    let some = {
        let chunks = (0u32..).map(ChunkId).zip(&hq.manifest.chunks);
        let here = held(&small, &hq);
        chunks
            .filter(|(_, record)| here.contains(&record.hash))
            .map(|(chunk, _)| chunk)
            .take(3)
            .collect::<BTreeSet<ChunkId>>()
    };
    *keeper.gone.lock().unwrap() = some;
    until("what is gone comes again", || {
        keeper.gone.lock().unwrap().is_empty()
    })
    .await;
}

/// Nobody asks for it, and it was verified when it came: only reading again finds it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_medium_lost_is_found_and_comes_from_a_neighbour() {
    let hq = Hq::new(8, None);
    let (node, neighbour) = (node(&hq, true), node(&hq, true));
    node.cache
        .dial(neighbour.cache.local_addr().unwrap())
        .await
        .unwrap();
    let (last, before) = hq.manifest.chunks.split_last().unwrap();
    let offset: u64 = before.iter().map(|r| record_bytes(r.object_bytes)).sum();
    let path = node.folder.path().join("slab");
    let file = File::options().write(true).open(path).unwrap();
    file.write_all_at(&[0xff; 9], 4096 + offset + 128 + 1000)
        .unwrap();
    let is_good = || {
        let bytes = node.slab.read(last);
        bytes.is_some_and(|bytes| VerifiedObject::check(last, bytes).is_ok())
    };
    assert!(!is_good());
    until("it is found and comes again", is_good).await;
    assert_eq!(hq.sent.load(Ordering::SeqCst), 0, "from the neighbour");
}
