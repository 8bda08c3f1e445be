//! Channels, orders, machines, reports.

use std::time::{Duration, Instant};

use image_format::ManifestKind;
use reqwest::Method;
use serde_json::json;
use trust_format::{Completion, MachineId, Order, SiteId, Ticket, UnknownRule, Verified};
use web_api::*;

use crate::world::*;

#[tokio::test]
async fn channel_numbers_grow_with_every_change_and_only_then() {
    let world = World::new().await;
    world.site("north", SiteUnknown::Wait).await;
    world.site("south", SiteUnknown::Admit).await;
    let (north, south) = (
        world.node("north", "n").await,
        world.node("south", "s").await,
    );
    let keys = world.keys().await;
    let first = north.channel(&keys).await;
    assert_eq!((first.number, first.image, first.bundle), (1, None, None));
    assert_eq!(first.hq.urls, ["https://hq.example:8443"]);
    assert_eq!(first.hq.fingerprint, world.hq.fingerprint);
    assert_eq!(south.channel(&keys).await.unknown, UnknownRule::Admit);

    let one = world
        .publish("till", ManifestKind::Image, &[noise(1, 5000)])
        .await;
    assert_eq!((one.release, one.object_bytes), (1, 5000));
    assert_eq!(
        north.channel(&keys).await.number,
        1,
        "a version that nobody ordered changes no site"
    );
    let bundle = world
        .publish("boot", ManifestKind::BootBundle, &[noise(2, 5000)])
        .await;
    let two = world
        .publish("till", ManifestKind::Image, &[noise(3, 5000)])
        .await;
    assert_eq!((bundle.release, two.release), (2, 3));
    for node in [&north, &south] {
        let channel = node.channel(&keys).await;
        assert_eq!(
            (channel.number, channel.bundle),
            (2, Some(digest(bundle.version)))
        );
    }

    let order = world.order("north", &one.version.to_string()[..12]).await;
    assert_eq!((order.number, order.version), (1, one.version));
    let order = world.order("north", "till").await;
    assert_eq!((order.number, order.version), (2, two.version));
    assert_eq!(world.order("south", "till").await.number, 1);
    let channel = north.channel(&keys).await;
    assert_eq!(
        (channel.number, channel.image),
        (4, Some(digest(two.version)))
    );
    // the same image again: a new order, the same channel
    assert_eq!(world.order("north", "till").await.number, 3);
    assert_eq!(north.channel(&keys).await.number, 4);
    let numbers: Vec<u64> = north
        .documents()
        .await
        .orders
        .iter()
        .map(|o| {
            let order: Verified<Order> = Verified::check(&o.0, &keys).unwrap();
            assert_eq!(order.site, channel.site);
            order.number
        })
        .collect();
    assert_eq!(numbers, [1, 2, 3]);

    let nothing = SiteChange::default();
    world
        .admin
        .send(Method::PATCH, "/api/v1/sites/north", &nothing)
        .await
        .json::<SiteInfo>();
    assert_eq!(north.channel(&keys).await.number, 4);
    let floor = json!({"release_floor": 3, "unknown": "admit"});
    let site: SiteInfo = world
        .admin
        .send(Method::PATCH, "/api/v1/sites/north", &floor)
        .await
        .json();
    assert_eq!((site.channel, site.unknown), (5, SiteUnknown::Admit));
    assert_eq!(north.channel(&keys).await.release_floor, 3);
    let lower = json!({"release_floor": 2});
    world
        .admin
        .send(Method::PATCH, "/api/v1/sites/north", &lower)
        .await
        .refused(409);
    let old = json!({"site": "north", "version": one.version});
    world.admin.post("/api/v1/orders", &old).await.refused(409);
    for (version, status) in [
        ("nothing", 404),
        ("", 404),
        ("%", 404),
        (&bundle.version.to_string(), 400),
    ] {
        let wish = json!({"site": "north", "version": version});
        world
            .admin
            .post("/api/v1/orders", &wish)
            .await
            .refused(status);
    }
    let wish = json!({"site": "north", "version": "till", "machine": "12"});
    world.admin.post("/api/v1/orders", &wish).await.refused(400);
    let wish = json!({"site": "west", "version": "till"});
    world.admin.post("/api/v1/orders", &wish).await.refused(404);
}

#[tokio::test]
async fn a_waiting_machine_is_approved_into_the_roster() {
    let world = World::new().await;
    let site = world.site("north", SiteUnknown::Wait).await.site;
    let other = world.site("south", SiteUnknown::Wait).await.site;
    let (north, south) = (
        world.node("north", "n").await,
        world.node("south", "s").await,
    );
    let keys = world.keys().await;
    let machine = Hex([7; 16]);
    let waiting = |model: &str| NodeReport::Waiting {
        machine,
        facts: facts(model),
    };
    let path = format!("/api/v1/machines/{machine}/approve");
    world
        .admin
        .raw(Method::POST, &path, vec![])
        .await
        .refused(404);
    let answer = north.report(1, vec![waiting("Till <b>3000</b>")]).await;
    let standing = SiteStanding {
        channel: 1,
        roster: 1,
        orders: 0,
    };
    assert_eq!((answer.stored, answer.standing), (1, standing));
    let machines: Vec<Machine> = world.admin.get("/api/v1/machines").await.rows();
    assert_eq!(
        (machines.len(), machines[0].admission),
        (1, AdmissionState::Waiting)
    );
    assert_eq!(machines[0].facts.model, "Till <b>3000</b>");
    // a node of another site claims the same machine: a person has to say which is meant
    south.report(1, vec![waiting("other")]).await;
    let sentence = world
        .admin
        .raw(Method::POST, &path, vec![])
        .await
        .refused(409);
    assert!(sentence.contains(&other.id.to_string()), "{sentence}");
    // approved by its screen: another that says the same of itself shows another code
    let mut shows = facts("Till");
    shows.code = Some("K7Q-2MX".into());
    let waits = NodeReport::Waiting {
        machine,
        facts: shows,
    };
    north.report(2, vec![waits]).await;
    let exact = format!("{path}?site={}", site.id);
    for wrong in ["K7Q-2MY", "", "K7Q"] {
        let wrong = format!("{exact}&code={wrong}");
        let call = world.admin.raw(Method::POST, &wrong, vec![]).await;
        let sentence = call.refused(409);
        assert!(sentence.contains("K7Q-2MX"), "{sentence}");
    }
    assert!(north.roster(&keys).await.machines.is_empty());
    let exact = format!("{exact}&code=k7q-2mx");
    let approved: Machine = world.admin.raw(Method::POST, &exact, vec![]).await.json();
    assert_eq!(
        (approved.site.as_str(), approved.admission),
        ("north", AdmissionState::Admitted)
    );
    let roster = north.roster(&keys).await;
    let known = &roster.machines[0];
    assert_eq!((roster.number, roster.machines.len()), (2, 1));
    assert_eq!((known.id, known.approved), (MachineId(machine.0), true));
    assert_eq!(known.code, Some(*b"K7Q-2MX"));
    assert_eq!(known.signs.len(), 3, "UUID, serial and MAC");
    assert!(south.roster(&keys).await.machines.is_empty());
    // waiting again changes no admission
    let answer = north.report(3, vec![waiting("Till")]).await;
    assert_eq!((answer.standing.channel, answer.standing.roster), (1, 2));
    let machines: Vec<Machine> = world.admin.get("/api/v1/machines").await.rows();
    let mine = machines.iter().find(|m| m.site == "north").unwrap();
    assert_eq!(
        (mine.admission, mine.facts.model.as_str()),
        (AdmissionState::Admitted, "Till")
    );
}

#[tokio::test]
async fn reports_count_once_and_in_order() {
    let world = World::new().await;
    world.site("north", SiteUnknown::Wait).await;
    let (node, other) = (
        world.node("north", "till-1").await,
        world.node("north", "till-2").await,
    );
    let trouble = |text: &str| NodeReport::Trouble {
        message: text.into(),
    };
    assert_eq!(
        node.report(1, vec![trouble("a"), trouble("b")])
            .await
            .stored,
        2
    );
    // the answer got lost; two known, one new; then a gap
    assert_eq!(
        node.report(1, vec![trouble("a"), trouble("b"), trouble("c")])
            .await
            .stored,
        3
    );
    assert_eq!(node.report(2, vec![trouble("b")]).await.stored, 3);
    assert_eq!(node.report(9, vec![trouble("d\0")]).await.stored, 9);
    assert_eq!(node.report(10, vec![]).await.stored, 9);
    // numbers are each node's own
    let boot = NodeReport::Boot {
        mac: Hex([2; 6]),
        uuid: None,
        message: "<i>".into(),
    };
    let accused = NodeReport::Accused {
        peer: Hex([1; 32]),
        address: "10.0.0.1:1".into(),
        chunk: None,
        to: Some(Hex([7; 32])),
    };
    let holds = NodeReport::Holds {
        version: Hex([1; 32]),
        from: vec![("till-1".into(), 3)],
    };
    let share = NodeReport::HoldsShare {
        version: Hex([1; 32]),
        chunks: 39,
        of: 60,
    };
    let reports = vec![boot, accused, holds, share];
    assert_eq!(other.report(1, reports).await.stored, 4);
    let events: Vec<EventInfo> = world.admin.get("/api/v1/events").await.rows();
    let mut lines: Vec<_> = events
        .iter()
        .map(|e| (e.kind.as_str(), e.message.as_str()))
        .collect();
    lines.reverse();
    assert_eq!(
        lines[..4],
        [
            ("trouble", "a"),
            ("trouble", "b"),
            ("trouble", "c"),
            ("trouble", "d\u{FFFD}")
        ]
    );
    assert_eq!(lines[4], ("boot", "MAC 020202020202: <i>"));
    assert_eq!(
        (lines[5].0, lines[6].0, lines[7].0, lines.len()),
        ("accused", "holds", "holds", 8)
    );
    assert!(lines[7].1.ends_with(": 39 of 60 chunks"), "{}", lines[7].1);
    // both were heard of, and know each other's address
    let peers = node.documents().await.peers;
    assert_eq!(peers.len(), 1);
    assert_eq!(
        (peers[0].key.0, peers[0].address.as_str()),
        (other.key.public.0, "127.0.0.1:4433")
    );
    let reports = vec![
        NumberedReport {
            number: 1,
            unix_seconds: 0,
            report: trouble("x")
        };
        REPORTS_MAX + 1
    ];
    let request = ReportsRequest {
        peer_port: 1,
        reports,
        known: None,
        beside: vec![],
    };
    node.caller
        .post("/api/v1/node/reports", &request)
        .await
        .refused(400);
}

fn install(state: InstallState, order: u64) -> InstallReport {
    InstallReport {
        state,
        version: None,
        order: Some(order),
        done_bytes: 5,
        total_bytes: 10,
        received_bytes: 4,
        from: vec![("till-1".into(), 4)],
        peer: None,
        message: String::new(),
    }
}

#[tokio::test]
async fn an_install_is_followed_to_the_call_from_the_new_system() {
    let world = World::new().await;
    let site = SiteId(world.site("north", SiteUnknown::Admit).await.site.id.0);
    let node = world.node("north", "till-1").await;
    let image = world
        .publish("till", ManifestKind::Image, &[noise(1, 5000)])
        .await;
    let order = world.order("north", "till").await.number;
    let (machine, new, agent) = (Hex([7; 16]), Key::new(), Key::new());
    let completion = |order, version: Hex<32>| {
        let ticket = node.key.sign(&Ticket {
            issuer: node.key.public,
            issuer_boot: 1,
            issued: Duration::from_secs(1),
            life: Duration::from_secs(60),
            agent: agent.public,
            machine: MachineId(machine.0),
            site,
            order,
        });
        Base64(agent.sign(&Completion {
            machine: MachineId(machine.0),
            order,
            image: digest(version),
            node: Some(new.public),
            ticket,
            issuer: node.enrolled.certificate.0.clone(),
            issuers_issuer: None,
        }))
    };
    let report = |state| NodeReport::Install {
        machine,
        report: install(state, order),
    };
    let admitted = NodeReport::Admitted {
        machine,
        facts: facts("till"),
        order,
        by_pin: false,
    };
    node.report(
        1,
        vec![
            admitted,
            report(InstallState::Writing),
            report(InstallState::Rebooting),
        ],
    )
    .await;
    let machines: Vec<Machine> = world.admin.get("/api/v1/machines").await.rows();
    assert_eq!(
        machines[0].install.as_ref().unwrap().state,
        InstallState::Rebooting
    );
    assert_eq!(
        (machines[0].admission, machines[0].completed.len()),
        (AdmissionState::Admitted, 0)
    );

    // proofs that are none: no document, another image, no such order
    let bad = [
        Base64(vec![1, 2]),
        completion(order, Hex([1; 32])),
        completion(order + 1, image.version),
    ];
    node.report(
        4,
        bad.map(|document| NodeReport::Completion { document })
            .into(),
    )
    .await;
    assert!(node.documents().await.completions.is_empty());
    let good = completion(order, image.version);
    let twice = vec![
        NodeReport::Completion {
            document: good.clone()
        };
        2
    ];
    node.report(7, twice).await;
    assert_eq!(node.documents().await.completions, [good]);
    let orders: Vec<OrderInfo> = world.admin.get("/api/v1/orders").await.rows();
    assert_eq!(orders[0].completed, 1);

    // the neighbour's sign of life proves nothing; the new node's own does
    node.report(9, vec![]).await;
    let ask = CertifyRequest {
        node: Hex(new.public.0),
        machine,
        order,
    };
    node.caller
        .post("/api/v1/node/certify", &ask)
        .await
        .json::<Certified>();
    let machines: Vec<Machine> = world.admin.get("/api/v1/machines").await.rows();
    assert_eq!(
        (
            machines[0].install.as_ref().unwrap().state,
            machines[0].completed.as_slice()
        ),
        (InstallState::Rebooting, &[order][..])
    );
    let life = ReportsRequest {
        peer_port: 0,
        reports: vec![],
        known: None,
        beside: vec![],
    };
    world
        .with_key(&new)
        .post("/api/v1/node/reports", &life)
        .await
        .json::<ReportsAnswer>();
    let machines: Vec<Machine> = world.admin.get("/api/v1/machines").await.rows();
    assert_eq!(
        machines[0].install.as_ref().unwrap().state,
        InstallState::Done
    );
}

/// A node that knows everything is answered when something is new, and not before: thousands of quiet stores ask little.
#[tokio::test]
async fn a_sign_of_life_is_held_until_there_is_news() {
    let world = World::new().await;
    world.site("north", SiteUnknown::Wait).await;
    let node = world.node("north", "till-1").await;
    let known = node.report(1, vec![]).await.standing;
    let life = |known| ReportsRequest {
        peer_port: 4433,
        reports: vec![],
        known: Some(known),
        beside: vec![],
    };
    let path = "/api/v1/node/reports";
    // it knows something that is not so
    let wrong = SiteStanding { orders: 7, ..known };
    let asked = Instant::now();
    let answer: ReportsAnswer = node.caller.post(path, &life(wrong)).await.json();
    assert_eq!(answer.standing, known);
    assert!(asked.elapsed() < Duration::from_secs(LIFE_HELD_SECONDS));

    let asked = Instant::now();
    let question = life(known);
    let held = node.caller.post(path, &question);
    let change = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let admit = json!({"unknown": "admit"});
        let changed = world
            .admin
            .send(Method::PATCH, "/api/v1/sites/north", &admit);
        changed.await.json::<serde_json::Value>();
    };
    let (answer, ()) = tokio::join!(held, change);
    let answer: ReportsAnswer = answer.json();
    assert_eq!(answer.standing.channel, known.channel + 1);
    assert!(asked.elapsed() >= Duration::from_millis(500));
    assert!(asked.elapsed() < Duration::from_secs(LIFE_HELD_SECONDS));

    // nothing happens
    let asked = Instant::now();
    let known = answer.standing;
    let answer: ReportsAnswer = node.caller.post(path, &life(known)).await.json();
    assert_eq!(answer.standing, known);
    assert!(asked.elapsed() >= Duration::from_secs(LIFE_HELD_SECONDS));
}

#[tokio::test]
async fn a_restart_keeps_everything() {
    let world = World::new().await;
    world.site("north", SiteUnknown::Wait).await;
    let node = world.node("north", "till-1").await;
    let image = world
        .publish("till", ManifestKind::Image, &[noise(1, 5000)])
        .await;
    world.order("north", "till").await;
    node.report(
        1,
        vec![NodeReport::Waiting {
            machine: Hex([7; 16]),
            facts: facts("till"),
        }],
    )
    .await;
    let lease: LeaseAnswer = node.ask_lease(image.version).await.json();
    let documents = node.documents().await;
    let paths = [
        "sites",
        "images",
        "orders",
        "machines",
        "nodes",
        "ledger",
        "root",
        "sites/north/tokens",
    ];
    let mut before = vec![];
    for path in paths {
        before.push(world.admin.get(&format!("/api/v1/{path}")).await.body);
    }
    let token = world.admin_token.clone();
    let fingerprint = world.hq.fingerprint;

    let world = world.restart().await;
    assert_eq!(
        (&world.admin_token, world.hq.fingerprint),
        (&token, fingerprint)
    );
    for (path, before) in paths.iter().zip(before) {
        let after = world.admin.get(&format!("/api/v1/{path}")).await.body;
        assert_eq!(
            String::from_utf8_lossy(&after),
            String::from_utf8_lossy(&before),
            "{path}"
        );
    }
    let node = Node {
        caller: world.with_key(&node.key),
        ..node
    };
    assert_eq!(node.documents().await, documents);
    let renewed: LeaseAnswer = node.ask_lease(image.version).await.json();
    assert_eq!(renewed, lease);
    assert_eq!(node.report(1, vec![]).await.stored, 1);
}

/// Thousands of nodes say every ten seconds that they are there: a disk that were told of each at once would do nothing else.
#[tokio::test]
async fn a_sign_of_life_is_written_with_others() {
    let world = World::new().await;
    world.site("north", SiteUnknown::Wait).await;
    let node = world.node("north", "office").await;
    node.report(1, vec![]).await;
    let seen = async || {
        let nodes: Vec<NodeInfo> = world.admin.get("/api/v1/nodes").await.rows();
        nodes[0].seen_unix_seconds
    };
    assert_ne!(seen().await, 0, "the first time is written at once");
    world.sql("UPDATE nodes SET seen = 7").await;
    node.report(2, vec![]).await;
    assert_eq!(seen().await, 7);
    let began = std::time::Instant::now();
    while seen().await == 7 {
        assert!(began.elapsed().as_secs() < 60);
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    // one at another address is written at once: others are told of it
    world
        .sql("UPDATE nodes SET seen = 7, address = '192.0.2.1:4433'")
        .await;
    node.report(2, vec![]).await;
    assert_ne!(seen().await, 7);
    let nodes: Vec<NodeInfo> = world.admin.get("/api/v1/nodes").await.rows();
    assert_eq!(nodes[0].address.as_deref(), Some("127.0.0.1:4433"));
}

#[tokio::test]
async fn a_newer_database_is_left_alone() {
    let world = World::new().await;
    world.sql("PRAGMA user_version = 1000").await;
    world.hq.stop();
    let config = config(world.folder.path(), &world.backing);
    let error = web_server::RunningHq::start(config)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("schema 1000, this program knows up to"),
        "{error}"
    );
}
