//! Watching: what changed is told at once, once, and only to those who may see it.

use std::time::{Duration, Instant};

use reqwest::{Method, Response};
use serde_json::{Value, json};
use web_api::*;

use crate::world::{Caller, Node, World, facts};

/// Watched for so long where nothing else ends it.
const SECONDS: u64 = 20;

struct Told {
    word: String,
    id: String,
    data: Value,
}

struct Watcher {
    answer: Response,
    text: String,
}

impl Watcher {
    async fn of(caller: &Caller, query: &str, last: Option<&str>) -> Self {
        let path = format!("/api/v1/live{query}");
        let mut request = caller.request(Method::GET, &path);
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        let text = String::new();
        Self { answer, text }
    }

    /// The next event; none at the end. Comments are left out.
    async fn next(&mut self) -> Option<Told> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| {
                    let lines = event.lines();
                    let line = lines.filter_map(|l| l.strip_prefix(name)).next();
                    line.map(|l| l.trim_start().to_owned())
                };
                let told = field("event:").map(|word| Told {
                    word,
                    id: field("id:").unwrap(),
                    data: serde_json::from_str(&field("data:").unwrap()).unwrap(),
                });
                self.text = rest.to_owned();
                match told {
                    Some(told) => return Some(told),
                    None => continue,
                }
            }
            let chunk = self.answer.chunk().await.unwrap()?;
            self.text += str::from_utf8(&chunk).unwrap();
        }
    }

    async fn machine(&mut self) -> (Machine, String) {
        let told = self.next().await.unwrap();
        assert_eq!(told.word, "machine", "{}", told.data);
        (serde_json::from_value(told.data).unwrap(), told.id)
    }
}

/// A node reports how far a machine is.
async fn writes(node: &Node, number: u64, machine: u8, done_bytes: u64) {
    let report = InstallReport {
        state: InstallState::Writing,
        version: None,
        order: None,
        done_bytes,
        total_bytes: 100,
        received_bytes: 0,
        from: vec![],
        peer: None,
        message: String::new(),
    };
    let machine = Hex([machine; 16]);
    node.report(number, vec![NodeReport::Install { machine, report }])
        .await;
}

async fn waits(node: &Node, number: u64, machine: u8) {
    let (machine, facts) = (Hex([machine; 16]), facts("model"));
    node.report(number, vec![NodeReport::Waiting { machine, facts }])
        .await;
}

#[tokio::test]
async fn changes_are_told_as_they_happen() {
    let world = World::new().await;
    world.site("north", SiteUnknown::Admit).await;
    let node = world.node("north", "office").await;
    waits(&node, 1, 1).await;
    let mut page = Watcher::of(&world.admin, "", None).await;
    let ready = page.next().await.unwrap();
    assert_eq!(ready.word, "ready");
    // a first page of the list, and then what changed since
    let list: Vec<Machine> = world.admin.get("/api/v1/machines").await.rows();
    let began = Instant::now();
    waits(&node, 2, 2).await;
    let (machine, _) = page.machine().await;
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(machine.id, Hex([2; 16]));
    assert!(machine.change > list[0].change);
    for number in 3..40 {
        writes(&node, number, 1, number).await;
    }
    // a watcher is given the last state of it, not each
    let mut told = 0;
    let last = loop {
        let (machine, id) = page.machine().await;
        told += 1;
        let done = machine.install.as_ref().map(|install| install.done_bytes);
        if done == Some(39) {
            break id;
        }
    };
    assert!(told < 37, "{told} of 37 states");
    drop(page);
    // who comes back is given what was missed, and nothing else
    writes(&node, 40, 1, 40).await;
    writes(&node, 41, 2, 41).await;
    let mut page = Watcher::of(&world.admin, "", Some(&last)).await;
    assert_eq!(page.next().await.unwrap().id, last);
    let missed = [page.machine().await.0, page.machine().await.0];
    let mut missed = missed.map(|machine| (machine.id.0[0], machine.install.unwrap().done_bytes));
    // progress is written a moment later, with that of others
    missed.sort_unstable();
    assert_eq!(missed, [(1, 40), (2, 41)]);
    // what happened is told as well
    let path = format!("/api/v1/nodes/{}/rename", node.key.public);
    let wish = json!({"name": "till"});
    world.admin.post(&path, &wish).await.json::<NodeInfo>();
    let told = page.next().await.unwrap();
    let event: EventInfo = serde_json::from_value(told.data).unwrap();
    let list: Vec<EventInfo> = world.admin.get("/api/v1/events").await.rows();
    assert_eq!((told.word.as_str(), &event), ("event", &list[0]));
}

#[tokio::test]
async fn a_watcher_sees_what_its_scope_and_its_wish_reach() {
    let world = World::new().await;
    for site in ["north", "south"] {
        world.site(site, SiteUnknown::Admit).await;
    }
    let north = world.node("north", "office").await;
    let south = world.node("south", "office").await;
    let scope = SiteScope {
        sites: vec!["north".into()],
        ..SiteScope::default()
    };
    let bob = world.user("bob", Role::Viewer, &scope).await;
    let mut bobs = Watcher::of(&bob, "", None).await;
    let mut souths = Watcher::of(&world.admin, "?site=south", None).await;
    for page in [&mut bobs, &mut souths] {
        assert_eq!(page.next().await.unwrap().word, "ready");
    }
    for number in 1..4 {
        waits(&south, number, 2).await;
        waits(&north, number, 1).await;
    }
    for (mut page, site) in [(bobs, "north"), (souths, "south")] {
        let (machine, id) = page.machine().await;
        assert_eq!(machine.site, site);
        // and nothing of the other's is missed by one who comes back
        drop(page);
        let caller = if site == "north" { &bob } else { &world.admin };
        let mut again = Watcher::of(caller, &format!("?site={site}&seconds=2"), Some(&id)).await;
        again.next().await.unwrap();
        while let Some(told) = again.next().await {
            assert_eq!(told.data["site"], site);
        }
    }
    bob.get("/api/v1/live?site=south").await.refused(404);
}

#[tokio::test]
async fn a_watch_has_an_end_and_a_beginning_that_hq_gave() {
    let world = World::new().await;
    let began = Instant::now();
    let mut page = Watcher::of(&world.admin, "?seconds=1", None).await;
    assert_eq!(page.next().await.unwrap().word, "ready");
    assert!(page.next().await.is_none());
    assert!(began.elapsed() < Duration::from_secs(SECONDS));
    for query in ["?seconds=0", "?seconds=301", "?seconds=x", "?place=north"] {
        let path = format!("/api/v1/live{query}");
        world.admin.get(&path).await.refused(400);
    }
    // one of an HQ that was restored, and none at all
    let mut page = Watcher::of(&world.admin, "?seconds=1", Some("7.7")).await;
    let told = page.next().await.unwrap();
    assert_eq!((told.word.as_str(), told.id.as_str()), ("behind", "0.0"));
    for wrong in ["7", "x.1", "-1.0", ""] {
        let request = world.admin.request(Method::GET, "/api/v1/live");
        let answer = request.header("last-event-id", wrong).send().await.unwrap();
        assert_eq!(answer.status(), 400, "{wrong}");
    }
}
