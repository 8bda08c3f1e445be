//! Who may fetch when somebody dies or is cut off, and how fast.

use std::time::{Duration, Instant};

use image_format::ManifestKind;
use reqwest::Method;
use serde_json::json;
use web_api::*;

use crate::world::*;

/// A little more than a lease holds without a byte.
const DEADLINE: Duration = Duration::from_millis(10_200);
/// The same for one whose holder is not there.
const UNSEEN: Duration = Duration::from_millis(3_200);

struct Store {
    world: World,
    nodes: Vec<Node>,
    objects: Vec<Vec<u8>>,
    image: ImageVersion,
}

async fn store(nodes: usize) -> Store {
    let world = World::new().await;
    world.site("north", SiteUnknown::Wait).await;
    let objects = vec![noise(1, 300_000), noise(2, 200_000)];
    let image = world.publish("till", ManifestKind::Image, &objects).await;
    world.order("north", "till").await;
    let mut all = Vec::new();
    for n in 0..nodes {
        let node = world.node("north", &format!("till-{n}")).await;
        // a sign of life
        node.report(1, vec![]).await;
        all.push(node);
    }
    Store {
        world,
        nodes: all,
        objects,
        image,
    }
}

impl Store {
    async fn lease(&self, node: usize, sees: &[(usize, bool)]) -> Answer {
        let sees: Vec<_> = sees
            .iter()
            .map(|(n, live)| (&self.nodes[*n], *live))
            .collect();
        self.nodes[node]
            .ask_lease_seeing(self.image.version, &sees)
            .await
    }

    async fn given(&self, node: usize, sees: &[(usize, bool)]) -> LeaseAnswer {
        self.lease(node, sees).await.json()
    }

    async fn held_by(&self, node: usize, sees: &[(usize, bool)]) -> (usize, bool) {
        let answer = self.lease(node, sees).await;
        answer.refused(409);
        let held: LeaseHeld = serde_json::from_slice(&answer.body).unwrap();
        let holder = self.nodes.iter().position(|n| n.key.public.0 == held.key.0);
        (holder.unwrap(), held.finished)
    }

    async fn change(&self, change: serde_json::Value) -> WanRules {
        let path = "/api/v1/sites/north/wan";
        self.world
            .admin
            .send(Method::PATCH, path, &change)
            .await
            .json()
    }

    async fn news(&self, node: usize, since: u64) -> WanNews {
        let path = format!("/api/v1/node/wan?since={since}");
        self.nodes[node].caller.get(&path).await.json()
    }

    async fn ledger(&self) -> Vec<LedgerLine> {
        self.world.admin.get("/api/v1/ledger").await.rows()
    }
}

#[tokio::test]
async fn a_holder_without_progress_loses_its_lease_and_its_token() {
    let store = store(2).await;
    let lease = store.given(0, &[]).await;
    let (first, second) = (&store.nodes[0], &store.nodes[1]);
    first.fetch(&store.objects[0], &lease.token, None).await;
    assert_eq!(store.held_by(1, &[]).await, (0, false));
    // renewals are no progress
    let until = Instant::now() + DEADLINE;
    while Instant::now() < until {
        assert_eq!(store.given(0, &[]).await.fence, 1);
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    let taken = store.given(1, &[(0, true)]).await;
    assert_eq!((taken.fence, taken.kind), (2, LeaseKind::Main));
    let stale = first.fetch(&store.objects[1], &lease.token, None).await;
    assert!(stale.refused(409).contains("over"));
    assert_eq!(store.held_by(0, &[]).await, (1, false));
    // and bytes are: the same time again, with an object now and then
    for _ in 0..4 {
        tokio::time::sleep(DEADLINE / 4).await;
        second.fetch(&store.objects[1], &taken.token, None).await;
    }
    assert_eq!(store.held_by(0, &[(1, true)]).await, (1, false));
    assert_eq!(store.given(1, &[]).await, taken);
}

#[tokio::test]
async fn a_lease_without_a_byte_opens_nothing_until_it_is_asked_for_again() {
    let store = store(1).await;
    let lease = store.given(0, &[]).await;
    tokio::time::sleep(DEADLINE).await;
    let node = &store.nodes[0];
    node.fetch(&store.objects[0], &lease.token, None)
        .await
        .refused(409);
    let again = store.given(0, &[]).await;
    assert_eq!(again.fence, 2);
    node.fetch(&store.objects[0], &lease.token, None)
        .await
        .refused(409);
    let whole = node.fetch(&store.objects[0], &again.token, None).await;
    assert_eq!(whole.body, store.objects[0]);
}

#[tokio::test]
async fn one_that_is_not_there_is_replaced_before_the_deadline() {
    let store = store(2).await;
    let lease = store.given(0, &[]).await;
    assert_eq!(store.held_by(1, &[]).await, (0, false));
    tokio::time::sleep(UNSEEN).await;
    assert_eq!(store.held_by(1, &[(0, true)]).await, (0, false));
    let taken = store.given(1, &[(0, false)]).await;
    assert_eq!((taken.fence, taken.kind), (2, LeaseKind::Main));
    let stale = store.nodes[0]
        .fetch(&store.objects[0], &lease.token, None)
        .await;
    stale.refused(409);
    assert!(
        store.ledger().await.is_empty(),
        "no byte under an older fence"
    );
}

#[tokio::test]
async fn islands_fetch_for_themselves_and_are_counted_apart() {
    let store = store(4).await;
    let main = store.given(0, &[]).await;
    let island = store.given(1, &[(0, false)]).await;
    assert_eq!((island.kind, island.fence), (LeaseKind::Island, 2));
    // who sees the island's holder takes from it; who does not is another island
    assert_eq!(store.held_by(2, &[(0, false)]).await, (1, false));
    assert_eq!(store.held_by(2, &[(0, false), (1, true)]).await, (1, false));
    let other = store.given(3, &[(0, false), (1, false)]).await;
    assert_eq!((other.kind, other.fence), (LeaseKind::Island, 3));
    for (node, lease) in [(0, &main), (1, &island), (3, &other)] {
        let got = store.nodes[node]
            .fetch(&store.objects[0], &lease.token, None)
            .await;
        assert_eq!(got.body, store.objects[0]);
    }
    store.world.ledger_becomes(|bytes| bytes == 900_000).await;
    let lines = store.ledger().await;
    let mut lines: Vec<_> = lines.iter().map(|l| (l.kind, l.wan_bytes)).collect();
    lines.sort_by_key(|(kind, _)| *kind == LeaseKind::Island);
    assert_eq!(
        lines,
        [(LeaseKind::Main, 300_000), (LeaseKind::Island, 600_000)]
    );
    // one that comes when the fetcher has finished is no less an island
    store.nodes[0].end_lease(&main.token, true).await;
    store.nodes[1].end_lease(&island.token, true).await;
    store.nodes[3].end_lease(&other.token, true).await;
    assert_eq!(store.held_by(2, &[]).await, (0, true));
    assert_eq!(store.held_by(2, &[(0, false)]).await, (1, true));
    let late = store.given(2, &[(0, false), (1, false), (3, false)]).await;
    assert_eq!(late.kind, LeaseKind::Island);
}

#[tokio::test]
async fn what_a_finished_holder_lacks_is_fetched_by_who_asks() {
    let store = store(2).await;
    let lease = store.given(0, &[]).await;
    store.nodes[0].end_lease(&lease.token, true).await;
    assert_eq!(store.held_by(1, &[]).await, (0, true));
    let taken = store.given(1, &[(0, true)]).await;
    assert_eq!((taken.kind, taken.fence), (LeaseKind::Main, 2));
    // given up is free at once, and another's end ends nothing
    store.nodes[0].end_lease(&taken.token, false).await;
    assert_eq!(store.held_by(0, &[]).await, (1, false));
    store.nodes[1].end_lease(&taken.token, false).await;
    assert_eq!(store.given(0, &[]).await.fence, 3);
}

#[tokio::test]
async fn a_node_speaks_of_few_holders() {
    let store = store(1).await;
    let view = json!({"key": "ab".repeat(32), "live": false});
    let request = json!({"manifest": store.image.version, "holders": vec![view; 17]});
    let answer = store.nodes[0]
        .caller
        .post("/api/v1/node/leases", &request)
        .await;
    assert!(answer.refused(400).contains("at most 16"));
}

/// Minutes of the day by HQ's clock.
fn minute_of_the_day() -> u16 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    u16::try_from(now.unwrap().as_secs() / 60 % 1440).unwrap()
}

#[tokio::test]
async fn the_budget_of_this_hour_is_told_at_a_change() {
    let store = store(2).await;
    let none = store.news(0, 0).await;
    assert_eq!((none.bytes_per_second, none.paused), (None, false));
    // a window that began an hour ago by the site's clock, which is five hours ahead, and ends in about two
    let minute = minute_of_the_day();
    let at = |hours: u16| (minute + hours * 60) % 1440;
    let windows = json!([{"from_minute": at(4), "to_minute": at(7), "bytes_per_second": 250_000}]);
    let change = json!({"windows": windows, "utc_offset_minutes": 300});
    let begun = Instant::now();
    let (news, rules) = tokio::join!(store.news(0, none.number), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        store.change(change).await
    });
    assert!(begun.elapsed() < Duration::from_secs(2));
    assert_eq!(rules.budget.utc_offset_minutes, 300);
    assert_eq!(news.bytes_per_second, Some(250_000));
    assert!(
        (118 * 60..=121 * 60).contains(&news.holds_seconds),
        "{news:?}"
    );
    // two that fetch share it
    store.given(1, &[]).await;
    let shared = store.news(0, news.number).await;
    assert_eq!(shared.bytes_per_second, Some(125_000));
    assert_eq!(store.news(1, 0).await.bytes_per_second, Some(250_000));
}

#[tokio::test]
async fn pause_and_resume_are_told_at_once() {
    let store = store(1).await;
    let mut last = store.news(0, 0).await;
    for paused in [true, false, true] {
        let begun = Instant::now();
        let (news, _) = tokio::join!(store.news(0, last.number), async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            store.change(json!({"paused": paused})).await
        });
        assert!(begun.elapsed() < Duration::from_secs(1));
        assert_eq!(news.paused, paused);
        last = news;
    }
    let rules: WanRules = store
        .world
        .admin
        .get("/api/v1/sites/north/wan")
        .await
        .json();
    assert!(rules.paused);
}

#[tokio::test]
async fn one_version_is_paused_and_a_higher_one_comes_first() {
    let store = store(1).await;
    let other = store
        .world
        .publish("kiosk", ManifestKind::Image, &[noise(7, 5000)])
        .await;
    store.world.order("north", "kiosk").await;
    store.given(0, &[]).await;
    let waiting = async |store: &Store| store.news(0, 0).await.waiting;
    assert!(waiting(&store).await.is_empty());
    store
        .change(json!({"version": "till", "paused": true}))
        .await;
    assert_eq!(waiting(&store).await, [store.image.version]);
    store
        .change(json!({"version": "till", "paused": false}))
        .await;
    store
        .change(json!({"version": "kiosk", "priority": 3}))
        .await;
    assert!(
        waiting(&store).await.is_empty(),
        "nobody fetches the higher one"
    );
    let before = store.news(0, 0).await.number;
    let (news, lease) = tokio::join!(
        store.news(0, before),
        store.nodes[0].ask_lease(other.version)
    );
    assert_eq!(news.waiting, [store.image.version]);
    let lease: LeaseAnswer = lease.json();
    store.nodes[0].end_lease(&lease.token, true).await;
    assert!(waiting(&store).await.is_empty());
}

#[tokio::test]
async fn wrong_rules_are_refused_in_words() {
    let store = store(1).await;
    let window = json!({"from_minute": 0, "to_minute": 60, "bytes_per_second": 15_999});
    for (wish, words) in [
        (json!({"windows": [window]}), "too few"),
        (
            json!({"windows": [{"from_minute": 1440, "to_minute": 0}]}),
            "minute 1440",
        ),
        (json!({"utc_offset_minutes": 900}), "14:00"),
        (json!({"priority": 1}), "name one"),
        (json!({"version": "till", "priority": 10}), "0 to 9"),
        (json!({"rate": 1}), "fields"),
    ] {
        let path = "/api/v1/sites/north/wan";
        let answer = store.world.admin.send(Method::PATCH, path, &wish).await;
        let sentence = answer.refused(400);
        assert!(sentence.contains(words), "{sentence}");
    }
    let answer = store.nodes[0].caller.get("/api/v1/node/wan?since=x").await;
    answer.refused(400);
    assert_eq!(store.change(json!({})).await, WanRules::default());
}

/// A chain that began with the first schema keeps its ledger.
#[tokio::test]
async fn an_older_database_is_brought_up() {
    let store = store(1).await;
    let lease = store.given(0, &[]).await;
    store.nodes[0]
        .fetch(&store.objects[0], &lease.token, None)
        .await;
    store.world.ledger_becomes(|bytes| bytes == 300_000).await;
    store.world.forget_people().await;
    for statement in [
        "DROP TABLE machine_signs",
        "DROP TABLE shared_signs",
        "ALTER TABLE machines DROP COLUMN tpm",
        "ALTER TABLE machines DROP COLUMN code",
        "ALTER TABLE sites DROP COLUMN pin",
        "ALTER TABLE sites DROP COLUMN pin_number",
        "ALTER TABLE sites DROP COLUMN roster",
        "ALTER TABLE sites DROP COLUMN roster_number",
        "ALTER TABLE sites DROP COLUMN wan_budget",
        "ALTER TABLE sites DROP COLUMN wan_paused",
        "DROP TABLE wan_versions",
        "DROP TABLE agents",
        "ALTER TABLE sites DROP COLUMN channel_given",
        "ALTER TABLE nodes DROP COLUMN certificate_taken",
        "DROP TABLE waiting_images",
        "DROP TABLE waiting_channels",
        "DROP TABLE waiting_orders",
        "DROP TABLE told_root",
        "DROP TABLE voucher_machines",
        "DROP TABLE vouchers",
        "DROP TABLE roots",
        "DROP INDEX nodes_of_machine",
        "ALTER TABLE nodes DROP COLUMN order_number",
        "ALTER TABLE nodes DROP COLUMN replaced_by",
        "ALTER TABLE nodes DROP COLUMN replaced",
        "ALTER TABLE nodes DROP COLUMN heard_again",
        "ALTER TABLE tokens DROP COLUMN replaces",
        "CREATE TABLE ledger_0 (site TEXT NOT NULL REFERENCES sites (id), version TEXT NOT NULL, wan_bytes BIGINT NOT NULL, PRIMARY KEY (site, version))",
        "INSERT INTO ledger_0 SELECT site, version, wan_bytes FROM ledger",
        "DROP TABLE ledger",
        "ALTER TABLE ledger_0 RENAME TO ledger",
        "CREATE TABLE leases_0 (site TEXT NOT NULL REFERENCES sites (id), manifest TEXT NOT NULL, holder TEXT NOT NULL, token TEXT NOT NULL UNIQUE, fence BIGINT NOT NULL, renewed_millis BIGINT NOT NULL, PRIMARY KEY (site, manifest))",
        "INSERT INTO leases_0 SELECT site, manifest, holder, token, fence + 6, 0 FROM leases",
        "DROP TABLE leases",
        "ALTER TABLE leases_0 RENAME TO leases",
        "PRAGMA user_version = 1",
    ] {
        store.world.sql(statement).await;
    }
    let world = store.world.restart().await;
    let lines: Vec<LedgerLine> = world.admin.get("/api/v1/ledger").await.rows();
    assert_eq!(
        (lines[0].kind, lines[0].wan_bytes),
        (LeaseKind::Main, 300_000)
    );
    let caller = world.with_key(&store.nodes[0].key);
    let request = json!({"manifest": store.image.version});
    let again: LeaseAnswer = caller.post("/api/v1/node/leases", &request).await.json();
    assert_eq!(
        (again.token, again.fence),
        (lease.token, 7),
        "the lease goes on"
    );
    let rules: WanRules = world.admin.get("/api/v1/sites/north/wan").await.json();
    assert_eq!(rules, WanRules::default());
}
