//! Two HQs on one database and one bucket are one. Without servers (`./dev servers`) there is nothing to share, and these tests end at once.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use image_format::{ManifestKind, ObjectHash};
use reqwest::Method;
use serde_json::json;
use tempfile::TempDir;
use tokio::{join, time::sleep};
use trust_format::{Channel, Order, Verified};
use web_api::*;
use web_server::{HqConfig, RunningHq};

use crate::{away::*, backing::Backing, world::*};

/// What is done through one HQ wakes who waits at the other within this.
const WOKEN_WITHIN: Duration = Duration::from_secs(1);
/// A little more than a lease holds without a byte, of which the other HQ hears within a second.
const DEADLINE: Duration = Duration::from_millis(11_500);

struct Pair {
    one: World,
    two: World,
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let there = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &there),
            false => drop(fs::copy(entry.path(), there).unwrap()),
        }
    }
}

/// A folder with the keys, the certificate and the administrator's token of another.
fn folder_like(world: &World) -> TempDir {
    let folder = TempDir::new().unwrap();
    copy(&world.folder.path().join("hq"), &folder.path().join("hq"));
    folder
}

async fn pair() -> Option<Pair> {
    let one = World::new().await;
    if !one.backing.is_shared() {
        return None;
    }
    let two = World::start(folder_like(&one), one.backing.clone()).await;
    Some(Pair { one, two })
}

impl Pair {
    async fn node(&self, name: &str) -> Node {
        let node = self.one.node("north", name).await;
        // a sign of life
        node.report(1, vec![]).await;
        node
    }

    /// The same node at the other HQ.
    fn at_two(&self, node: &Node) -> Caller {
        self.two.with_key(&node.key)
    }

    /// A version that the site is given.
    async fn ordered(&self, objects: &[Vec<u8>]) -> ImageVersion {
        let image = self.one.publish("till", ManifestKind::Image, objects).await;
        self.one.order("north", "till").await;
        image
    }
}

async fn ask_lease(caller: &Caller, image: &ImageVersion) -> Answer {
    let request = json!({"manifest": image.version});
    caller.post("/api/v1/node/leases", &request).await
}

async fn fetch(caller: &Caller, object: &[u8], lease: &LeaseAnswer) -> Answer {
    let path = format!("/api/v1/node/objects/{}", ObjectHash::of(object));
    let request = caller.request(Method::GET, &path);
    let sent = request.header(LEASE_HEADER, &lease.token).send().await;
    Answer::of(sent.unwrap()).await
}

#[tokio::test]
async fn a_token_is_used_once_when_both_are_asked_at_the_same_moment() {
    let Some(pair) = pair().await else { return };
    pair.one.site("north", SiteUnknown::Wait).await;
    for round in 0..8 {
        let token = pair.one.token("north").await;
        let (first, second) = (Key::new(), Key::new());
        let (at_one, at_two) = (pair.one.with_key(&first), pair.two.with_key(&second));
        let wish = enrol(&token, &format!("till-{round}"));
        let (a, b) = join!(
            at_one.post("/api/v1/enrol", &wish),
            at_two.post("/api/v1/enrol", &wish)
        );
        let taken = [&a, &b].map(|answer| answer.status.is_success());
        assert_ne!(taken[0], taken[1], "{a:?} {b:?}");
        let tokens: Vec<TokenInfo> = pair
            .two
            .admin
            .get("/api/v1/sites/north/tokens")
            .await
            .json();
        assert_eq!(tokens[0].state, "frozen");
    }
}

#[tokio::test]
async fn a_lease_is_given_once_and_its_fence_grows() {
    let Some(pair) = pair().await else { return };
    pair.one.site("north", SiteUnknown::Wait).await;
    let (first, second) = (pair.node("till-1").await, pair.node("till-2").await);
    let image = pair.ordered(&[noise(1, 5000)]).await;
    let second = pair.at_two(&second);
    for fence in 1..=8 {
        let (a, b) = join!(ask_lease(&first.caller, &image), ask_lease(&second, &image));
        let (holder, given, other) = match a.status.is_success() {
            true => (&first.caller, a, b),
            false => (&second, b, a),
        };
        let lease: LeaseAnswer = given.json();
        assert_eq!(lease.fence, fence);
        assert!(other.refused(409).contains("fetches this version"));
        let end = json!({"token": lease.token, "finished": false});
        holder.post("/api/v1/node/leases/end", &end).await;
    }
}

/// Bytes that one HQ writes keep the lease alive at the other; when they end, the other gives it away, and the first knows.
#[tokio::test]
async fn a_lease_lives_by_the_bytes_of_either_hq() {
    let Some(pair) = pair().await else { return };
    pair.one.site("north", SiteUnknown::Wait).await;
    let (first, second) = (pair.node("till-1").await, pair.node("till-2").await);
    let objects = [noise(1, 5000)];
    let image = pair.ordered(&objects).await;
    let lease: LeaseAnswer = ask_lease(&first.caller, &image).await.json();
    let second = pair.at_two(&second);
    let begin = Instant::now();
    while begin.elapsed() < DEADLINE + Duration::from_secs(2) {
        let got = fetch(&first.caller, &objects[0], &lease).await;
        assert_eq!(got.status, 200);
        let sentence = ask_lease(&second, &image).await.refused(409);
        assert!(sentence.contains("till-1 fetches"), "{sentence}");
        sleep(Duration::from_millis(300)).await;
    }
    sleep(DEADLINE).await;
    let next: LeaseAnswer = ask_lease(&second, &image).await.json();
    assert_eq!(next.fence, 2);
    let late = fetch(&first.caller, &objects[0], &lease).await;
    assert!(late.refused(409).contains("over"));
}

#[tokio::test]
async fn an_order_at_one_wakes_a_node_that_waits_at_the_other() {
    let Some(pair) = pair().await else { return };
    pair.one.site("north", SiteUnknown::Wait).await;
    let node = pair.node("till-1").await;
    pair.one
        .publish("till", ManifestKind::Image, &[noise(1, 5000)])
        .await;
    let at_two = pair.at_two(&node);
    let life = |known: Option<SiteStanding>| ReportsRequest {
        peer_port: 0,
        reports: vec![],
        known,
        beside: vec![],
    };
    let path = "/api/v1/node/reports";
    let now: ReportsAnswer = at_two.post(path, &life(None)).await.json();
    let known = life(Some(now.standing));
    let waits = at_two.post(path, &known);
    let order = async {
        sleep(Duration::from_millis(500)).await;
        pair.one.order("north", "till").await;
        Instant::now()
    };
    let (woken, ordered) = join!(
        async {
            let answer: ReportsAnswer = waits.await.json();
            (answer, Instant::now())
        },
        order
    );
    assert_eq!(woken.0.standing.orders, 1);
    assert!(woken.0.standing.channel > now.standing.channel);
    let took = woken.1.saturating_duration_since(ordered);
    assert!(took < WOKEN_WITHIN, "{took:?}");
}

#[tokio::test]
async fn rules_of_the_wan_reach_a_node_that_waits_at_the_other() {
    let Some(pair) = pair().await else { return };
    pair.one.site("north", SiteUnknown::Wait).await;
    let node = pair.node("till-1").await;
    let at_two = pair.at_two(&node);
    let news: WanNews = at_two.get("/api/v1/node/wan?since=0").await.json();
    let path = format!("/api/v1/node/wan?since={}", news.number);
    let pause = json!({"paused": true});
    let (told, changed) = join!(
        async {
            let told: WanNews = at_two.get(&path).await.json();
            (told, Instant::now())
        },
        async {
            sleep(Duration::from_millis(500)).await;
            let path = "/api/v1/sites/north/wan";
            let changed = pair.one.admin.send(Method::PATCH, path, &pause).await;
            assert_eq!(changed.status, 200);
            Instant::now()
        }
    );
    assert!(told.0.paused);
    let took = told.1.saturating_duration_since(changed);
    assert!(took < WOKEN_WITHIN, "{took:?}");
}

#[tokio::test]
async fn what_is_uploaded_at_one_is_served_at_the_other() {
    let Some(pair) = pair().await else { return };
    pair.one.site("north", SiteUnknown::Wait).await;
    let node = pair.node("till-1").await;
    let objects = [noise(1, 300_000), noise(2, 5000)];
    for (world, object) in [(&pair.one, &objects[0]), (&pair.two, &objects[1])] {
        let path = format!("/api/v1/objects/{}", ObjectHash::of(object));
        let put = world.admin.raw(Method::PUT, &path, object.clone()).await;
        assert_eq!(put.status, 204);
    }
    let asked = MissingObjects {
        objects: objects.iter().map(|o| Hex(ObjectHash::of(o).0)).collect(),
    };
    let missing: MissingObjects = pair
        .two
        .admin
        .post("/api/v1/objects/missing", &asked)
        .await
        .json();
    assert_eq!(missing.objects, []);
    let image = pair.ordered(&objects).await;
    let at_two = pair.at_two(&node);
    let lease: LeaseAnswer = ask_lease(&at_two, &image).await.json();
    assert_eq!(fetch(&at_two, &objects[0], &lease).await.body, objects[0]);
    assert_eq!(
        fetch(&node.caller, &objects[1], &lease).await.body,
        objects[1]
    );
    // the ledger is one
    let bytes = pair.one.ledger_becomes(|bytes| bytes >= 305_000).await;
    assert_eq!(bytes, 305_000);
}

#[tokio::test]
async fn versions_published_at_both_have_releases_of_their_own() {
    let Some(pair) = pair().await else { return };
    let (a, b) = ([noise(1, 5000)], [noise(2, 5000)]);
    let (a, b) = join!(
        pair.one.publish("till", ManifestKind::Image, &a),
        pair.two.publish("office", ManifestKind::Image, &b)
    );
    let mut releases = [a.release, b.release];
    releases.sort_unstable();
    assert_eq!(releases, [1, 2]);
}

#[tokio::test]
async fn both_bring_up_an_empty_database_at_once() {
    // it has the keys
    let first = World::new().await;
    if !first.backing.is_shared() {
        return;
    }
    let backing = Backing::new().await;
    let (one, two) = join!(
        World::start(folder_like(&first), backing.clone()),
        World::start(folder_like(&first), backing.clone())
    );
    one.site("north", SiteUnknown::Wait).await;
    let sites: Vec<SiteInfo> = two.admin.get("/api/v1/sites").await.rows();
    assert_eq!(sites.len(), 1);
}

#[tokio::test]
async fn a_database_that_goes_away_is_waited_for() {
    let backing = Backing::new().await;
    if !backing.is_shared() {
        return;
    }
    let mut line = backing.line().await;
    let folder = TempDir::new().unwrap();
    let hq = RunningHq::start(HqConfig {
        database: Some(line.database()),
        ..config(folder.path(), &backing)
    });
    let world = World::around(folder, hq.await.unwrap(), backing);
    world.site("north", SiteUnknown::Wait).await;
    let node = world.node("north", "till-1").await;
    let standing = node.report(1, vec![]).await.standing;

    line.cut().await;
    let begin = Instant::now();
    let (read, written) = join!(
        world.admin.get("/api/v1/sites"),
        world
            .admin
            .raw(Method::POST, "/api/v1/sites/north/tokens", vec![])
    );
    for answer in [read, written] {
        let sentence = answer.refused(503);
        assert!(sentence.contains("database does not answer"), "{sentence}");
    }
    assert!(begin.elapsed() < Duration::from_secs(15));

    line.mend().await;
    let sites: Vec<SiteInfo> = world.admin.get("/api/v1/sites").await.rows();
    assert_eq!(sites.len(), 1);
    // and it hears again: a node that waits is woken
    let life = json!({"peer_port": 0, "reports": [], "known": standing});
    let (answer, ()) = join!(node.caller.post("/api/v1/node/reports", &life), async {
        sleep(Duration::from_secs(2)).await;
        let wait = json!({"unknown": "admit"});
        let path = "/api/v1/sites/north";
        let changed = world.admin.send(Method::PATCH, path, &wait).await;
        assert_eq!(changed.status, 200);
    });
    let answer: ReportsAnswer = answer.json();
    assert!(answer.standing.channel > standing.channel);
}

#[tokio::test]
async fn an_hq_that_the_database_outgrew_writes_no_more() {
    let Some(pair) = pair().await else { return };
    pair.one.site("north", SiteUnknown::Wait).await;
    // as a later program does
    pair.one.sql("PRAGMA user_version = 99").await;
    let path = "/api/v1/sites/north/tokens";
    let refused = pair.two.admin.raw(Method::POST, path, vec![]).await;
    assert_eq!(refused.status, 500);
    let sites: Vec<SiteInfo> = pair.two.admin.get("/api/v1/sites").await.rows();
    assert_eq!(sites.len(), 1);
}

/// A wrong password is no reason to wait, and is not shown.
#[tokio::test]
async fn a_database_that_refuses_is_named_without_the_password() {
    let backing = Backing::new().await;
    if !backing.is_shared() {
        return;
    }
    let line = backing.line().await;
    let url = format!("postgres://lamplighter:hush@{}/{}", line.address(), "hq");
    let folder = TempDir::new().unwrap();
    let error = RunningHq::start(HqConfig {
        database: Some(url.parse().unwrap()),
        ..config(folder.path(), &backing)
    });
    let error = error.await.unwrap_err();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(source) = cause {
        text += &format!(": {source}");
        cause = source.source();
    }
    assert!(text.contains(&line.address()), "{text}");
    assert!(text.contains("password authentication failed"), "{text}");
    assert!(!text.contains("hush"), "{text}");
}

#[tokio::test]
async fn a_root_published_at_one_holds_at_the_other() {
    let Some(pair) = pair().await else { return };
    pair.one.site("north", SiteUnknown::Wait).await;
    let node = pair.node("till-1").await;
    let away = Away::of(&pair.one);
    away.give_new(&pair.one, &["order-2"]);
    // the other HQ has the key too, and nobody told it of the root
    let key = "hq/keys/order-2.key";
    let (from, to) = (
        pair.one.folder.path().join(key),
        pair.two.folder.path().join(key),
    );
    fs::copy(from, to).unwrap();
    let keys: [&[&str]; 3] = [&["image"], &["order-2"], &["authority"]];
    let root = away.root(&pair.one, 1, &["root"], keys, &["root"]).await;
    let _: RootPublished = publish_root(&pair.one, &root, "").await.json();
    // what it signs at once is signed under the new root already
    pair.two
        .publish("till", ManifestKind::Image, &[noise(1, 5000)])
        .await;
    pair.two.order("north", "till").await;
    assert_eq!(pair.two.admin.get("/api/v1/root").await.body, root);
    let documents = node.documents().await;
    let keys = pair.one.keys().await;
    let channel: Verified<Channel> = Verified::check(&documents.channel.0, &keys).unwrap();
    assert!(channel.image.is_some());
    Verified::<Order>::check(&documents.orders[0].0, &keys).unwrap();
    // and after a restart it has the row of all roots
    let two = pair.two.restart().await;
    let row: RootRow = two.admin.get("/api/v1/roots").await.json();
    assert_eq!(row.roots.len(), 2);
}

#[tokio::test]
async fn an_hq_of_another_chain_is_kept_out() {
    let world = World::new().await;
    if !world.backing.is_shared() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let started = RunningHq::start(config(folder.path(), &world.backing)).await;
    let error = started.unwrap_err().to_string();
    assert!(error.contains("another chain"), "{error}");
}

/// `cargo nextest run -p web-server --run-ignored only measure --no-capture`: signs of life in a second, at one HQ and at two.
#[tokio::test]
#[ignore = "a measurement"]
#[allow(clippy::print_stderr, reason = "it is what the measurement is for")]
async fn measure_signs_of_life() {
    const NODES: usize = 16;
    const FOR: Duration = Duration::from_secs(10);
    let one = World::new().await;
    let two = match one.backing.is_shared() {
        true => Some(World::start(folder_like(&one), one.backing.clone()).await),
        false => None,
    };
    one.site("north", SiteUnknown::Wait).await;
    let mut nodes = Vec::new();
    for n in 0..NODES {
        nodes.push(one.node("north", &format!("till-{n}")).await);
    }
    for hqs in 1..=1 + usize::from(two.is_some()) {
        let calls = nodes.iter().enumerate().map(async |(n, node)| {
            let at = if n % hqs == 0 {
                Some(&one)
            } else {
                two.as_ref()
            };
            let caller = at.unwrap().with_key(&node.key);
            let life = json!({"peer_port": 0, "reports": [], "known": null});
            let begin = Instant::now();
            let mut calls = 0u32;
            while begin.elapsed() < FOR {
                let answer = caller.post("/api/v1/node/reports", &life).await;
                assert_eq!(answer.status, 200);
                calls += 1;
            }
            calls
        });
        let calls: u32 = futures_util::future::join_all(calls).await.iter().sum();
        eprintln!(
            "{hqs} HQ: {} a second",
            f64::from(calls) / FOR.as_secs_f64()
        );
    }
}
