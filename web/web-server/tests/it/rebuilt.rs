//! Machines that are built anew, without leaving a ghost.

use std::time::Duration;

use image_format::ManifestKind;
use reqwest::Method;
use serde_json::json;
use trust_format::{Completion, MachineId, NodeCertificate, SiteId, Ticket, Verified};
use web_api::*;

use crate::{away::*, world::*};

const MACHINE: Hex<16> = Hex([7; 16]);

/// A site with a node that admits, and an image.
pub(crate) struct Store {
    pub(crate) world: World,
    pub(crate) site: SiteId,
    pub(crate) witness: Node,
    version: Hex<32>,
}

impl Store {
    pub(crate) async fn new() -> Self {
        let world = World::new().await;
        let site = SiteId(world.site("north", SiteUnknown::Admit).await.site.id.0);
        let witness = world.node("north", "till-1").await;
        let image = world
            .publish("till", ManifestKind::Image, &[noise(1, 5000)])
            .await;
        Self {
            world,
            site,
            witness,
            version: image.version,
        }
    }

    async fn order(&self) -> u64 {
        let wish = json!({"site": "north", "version": "till", "erase": true});
        let order: OrderInfo = self.world.admin.post("/api/v1/orders", &wish).await.json();
        order.number
    }

    /// HQ certifies a node for the machine, which is being imaged.
    async fn certified(&self, order: u64) -> Node {
        let key = Key::new();
        let ask = CertifyRequest {
            node: Hex(key.public.0),
            machine: MACHINE,
            order,
        };
        let path = "/api/v1/node/certify";
        let certified: Certified = self.witness.caller.post(path, &ask).await.json();
        Node {
            caller: self.world.with_key(&key),
            key,
            enrolled: Enrolled {
                certificate: certified.certificate,
                documents: NodeDocuments::default(),
            },
        }
    }

    /// What an agent signs when the machine's disk is whole.
    fn completion(&self, order: u64, new: &Node) -> NodeReport {
        let agent = Key::new();
        let machine = MachineId(MACHINE.0);
        let ticket = self.witness.key.sign(&Ticket {
            issuer: self.witness.key.public,
            issuer_boot: 1,
            issued: Duration::from_secs(1),
            life: Duration::from_secs(60),
            agent: agent.public,
            machine,
            site: self.site,
            order,
        });
        let document = Base64(agent.sign(&Completion {
            machine,
            order,
            image: digest(self.version),
            node: Some(new.key.public),
            ticket,
            issuer: self.witness.enrolled.certificate.0.clone(),
            issuers_issuer: None,
        }));
        NodeReport::Completion { document }
    }

    /// The machine is imaged, and its node called home.
    async fn imaged(&self, report: u64) -> (u64, Node) {
        let order = self.order().await;
        let node = self.certified(order).await;
        let done = self.completion(order, &node);
        self.witness.report(report, vec![done]).await;
        node.report(1, vec![]).await;
        (order, node)
    }

    async fn info(&self, node: &Node) -> NodeInfo {
        let nodes: Vec<NodeInfo> = self.world.admin.get("/api/v1/nodes").await.rows();
        let key = node.key.public.0;
        nodes.into_iter().find(|n| n.key.0 == key).unwrap()
    }

    async fn is_replaced_by(&self, old: &Node, new: &Node) -> bool {
        self.info(old).await.replaced_by == Some(Hex(new.key.public.0))
    }

    async fn living(&self) -> u64 {
        let site: SiteInfo = self.world.admin.get("/api/v1/sites/north").await.json();
        site.nodes
    }

    async fn is_a_peer(&self, node: &Node) -> bool {
        let peers = self.witness.documents().await.peers;
        peers.iter().any(|p| p.key.0 == node.key.public.0)
    }

    pub(crate) async fn lines(&self, kind: &str) -> Vec<String> {
        let path = format!("/api/v1/events?kind={kind}");
        let events: Vec<EventInfo> = self.world.admin.get(&path).await.rows();
        events.into_iter().map(|e| e.message).collect()
    }

    async fn alarms(&self) -> Vec<String> {
        self.lines("trouble").await
    }

    async fn a_minute_later(&self) {
        self.world
            .sql("UPDATE nodes SET replaced = replaced - 61 WHERE replaced > 0")
            .await;
    }

    pub(crate) async fn rename(&self, key: &str, name: &str) -> Answer {
        let path = format!("/api/v1/nodes/{key}/rename");
        self.world.admin.post(&path, &json!({"name": name})).await
    }

    pub(crate) async fn revoke(&self, node: &Node) -> NodeInfo {
        let path = format!("/api/v1/nodes/{}/revoke", node.key.public);
        let answer = self.world.admin.raw(Method::POST, &path, vec![]).await;
        answer.json()
    }

    async fn wish_token(&self, site: &str, replaces: &str) -> Answer {
        let path = format!("/api/v1/sites/{site}/tokens");
        let wish = json!({"replaces": replaces});
        self.world.admin.post(&path, &wish).await
    }

    async fn token_for(&self, old: &Node) -> EnrolmentToken {
        let digits = &old.key.public.to_string()[..12];
        let answer: serde_json::Value = self.wish_token("north", digits).await.json();
        answer["token"].as_str().unwrap().parse().unwrap()
    }

    async fn enrol(&self, wish: &EnrolRequest) -> Node {
        let key = Key::new();
        let caller = self.world.with_key(&key);
        let enrolled = caller.post("/api/v1/enrol", wish).await.json();
        Node {
            key,
            caller,
            enrolled,
        }
    }
}

/// What HQ has for a node that has this one.
pub(crate) async fn take_certificate(node: &Node, have: &[u8]) -> Vec<u8> {
    let have = Hex(*blake3::hash(have).as_bytes());
    let path = format!("/api/v1/node/certificate?have={have}");
    let certified: Certified = node.caller.get(&path).await.json();
    certified.certificate.0
}

#[tokio::test]
async fn a_machine_that_is_imaged_again_leaves_no_ghost() {
    let store = Store::new().await;
    let (_, old) = store.imaged(1).await;
    store.witness.report(2, vec![]).await;
    let key = old.key.public.to_string();
    store.rename(&key, "Kasse 3").await.json::<NodeInfo>();
    assert_eq!(
        (store.living().await, store.is_a_peer(&old).await),
        (2, true)
    );

    let order = store.order().await;
    let new = store.certified(order).await;
    assert_eq!(store.info(&new).await.name, "Kasse 3", "its name stays");
    assert!(
        !store.info(&old).await.is_gone(),
        "nothing is on its disk yet"
    );
    store
        .witness
        .report(2, vec![store.completion(order, &new)])
        .await;
    assert!(store.is_replaced_by(&old, &new).await);
    let info = store.info(&old).await;
    assert!(info.is_gone() && !info.revoked && info.replaced_unix_seconds > 0);
    assert_eq!(
        (store.living().await, store.is_a_peer(&old).await),
        (2, false)
    );
    assert_eq!(store.lines("node").await.len(), 2, "renamed, replaced");
    // its last word lay somewhere
    old.report(1, vec![]).await;
    new.report(1, vec![]).await;
    old.report(1, vec![]).await;
    assert!(store.info(&old).await.is_gone());
    assert_eq!(store.alarms().await, [""; 0]);
    assert!(store.is_a_peer(&new).await);
    let sentence = store.rename(&key, "x").await.refused(409);
    assert!(sentence.contains(&new.key.public.short()), "{sentence}");
    // and once more
    let (_, newest) = store.imaged(3).await;
    assert!(store.is_replaced_by(&new, &newest).await && store.is_replaced_by(&old, &new).await);
    assert_eq!((store.living().await, store.alarms().await.len()), (2, 0));
    assert_eq!(store.info(&newest).await.name, "Kasse 3");
}

#[tokio::test]
async fn a_replaced_node_that_lives_is_an_alarm() {
    let store = Store::new().await;
    let (_, old) = store.imaged(1).await;
    let (_, new) = store.imaged(2).await;
    store.a_minute_later().await;
    // whatever it asks
    old.documents().await;
    let alarms = store.alarms().await;
    assert_eq!(alarms.len(), 1, "{alarms:?}");
    for part in [
        old.key.public.to_string(),
        new.key.public.short(),
        store.witness.key.public.short(),
        "127.0.0.1".into(),
        MACHINE.to_string(),
        "revoke".into(),
    ] {
        assert!(alarms[0].contains(&part), "{} lacks {part}", alarms[0]);
    }
    let info = store.info(&old).await;
    assert!(!info.is_gone() && !info.revoked);
    assert_eq!(info.state(), "replaced, but heard");
    old.report(1, vec![]).await;
    assert!(store.is_a_peer(&old).await);
    assert_eq!((store.living().await, store.alarms().await.len()), (3, 1));
    store
        .world
        .sql("UPDATE nodes SET heard_again = heard_again - 86400 WHERE heard_again > 0")
        .await;
    old.ask_lease(store.version).await;
    assert_eq!(store.alarms().await.len(), 2, "once a day");

    // it was a lie: who has its place is revoked, and it has it again
    store.revoke(&new).await;
    let info = store.info(&old).await;
    assert_eq!((info.replaced_by, info.state()), (None, "certified"));
    // and what was said of the revoked one before counts for nothing
    let late = store.completion(2, &new);
    store.witness.report(3, vec![late]).await;
    assert_eq!(store.info(&old).await.replaced_by, None);
}

/// Whoever never sees its own node call: it is an alarm all the same when the old one goes on.
#[tokio::test]
async fn a_completion_that_names_a_node_nobody_ever_hears_hides_nobody_for_long() {
    let store = Store::new().await;
    let (_, old) = store.imaged(1).await;
    let order = store.order().await;
    let never = Node {
        key: Key::new(),
        caller: store.world.nobody(),
        enrolled: store.witness.enrolled.clone(),
    };
    store
        .witness
        .report(2, vec![store.completion(order, &never)])
        .await;
    old.report(1, vec![]).await;
    assert!(store.info(&old).await.is_gone());
    store.a_minute_later().await;
    old.report(1, vec![]).await;
    assert_eq!(store.info(&old).await.state(), "replaced, but heard");
    assert_eq!(store.alarms().await.len(), 1);
}

#[tokio::test]
async fn news_that_come_in_any_order_say_the_same() {
    let store = Store::new().await;
    let first = store.order().await;
    let old = store.certified(first).await;
    old.report(1, vec![]).await;
    let second = store.order().await;
    // an install that was broken off, and the one that went through
    let (broken, new) = (store.certified(second).await, store.certified(second).await);
    new.report(1, vec![]).await;
    for gone in [&old, &broken] {
        assert!(store.is_replaced_by(gone, &new).await);
    }
    let late = vec![
        store.completion(second, &new),
        store.completion(first, &old),
    ];
    store.witness.report(1, late).await;
    // another proof of the same order is none
    let other = store.completion(second, &broken);
    store.witness.report(3, vec![other]).await;
    for gone in [&old, &broken] {
        assert!(store.is_replaced_by(gone, &new).await);
    }
    assert_eq!(store.info(&new).await.replaced_by, None);
    assert_eq!((store.alarms().await.len(), store.living().await), (0, 2));

    // an earlier node that HQ meets last
    let third = store.order().await;
    let (late, newest) = (store.certified(second).await, store.certified(third).await);
    store
        .witness
        .report(4, vec![store.completion(third, &newest)])
        .await;
    late.report(1, vec![]).await;
    assert!(store.is_replaced_by(&late, &newest).await);
    assert!(store.is_replaced_by(&new, &newest).await);
    assert_eq!(store.info(&newest).await.replaced_by, None);
}

/// Two nodes on one machine under one order: the one that a completion names stays.
#[tokio::test]
async fn a_completion_outweighs_a_call() {
    let store = Store::new().await;
    let order = store.order().await;
    let (a, b) = (store.certified(order).await, store.certified(order).await);
    a.report(1, vec![]).await;
    b.report(1, vec![]).await;
    assert!(store.is_replaced_by(&a, &b).await);
    store
        .witness
        .report(1, vec![store.completion(order, &a)])
        .await;
    assert!(store.is_replaced_by(&b, &a).await);
    assert_eq!(store.info(&a).await.replaced_by, None);
    let c = store.certified(order).await;
    c.report(1, vec![]).await;
    assert!(store.is_replaced_by(&c, &a).await);
    assert_eq!(store.living().await, 2);
}

#[tokio::test]
async fn who_is_revoked_has_nobodys_place() {
    let store = Store::new().await;
    let (first, second) = (store.order().await, store.order().await);
    let old = store.certified(first).await;
    old.report(1, vec![]).await;
    let liar = store.certified(second).await;
    store.revoke(&liar).await;
    let late = store.completion(second, &liar);
    store.witness.report(1, vec![late]).await;
    assert_eq!(store.info(&old).await.replaced_by, None);
    // its completion has the higher order
    let new = store.certified(first).await;
    new.report(1, vec![]).await;
    assert_eq!(store.info(&new).await.replaced_by, None);
    assert!(store.is_replaced_by(&old, &new).await);
}

#[tokio::test]
async fn a_ghost_holds_no_lease_and_no_key() {
    let store = Store::new().await;
    let (_, old) = store.imaged(1).await;
    let lease: LeaseAnswer = old.ask_lease(store.version).await.json();
    old.end_lease(&lease.token, true).await;
    old.report(1, vec![]).await;
    store.witness.ask_lease(store.version).await.refused(409);
    let (_, new) = store.imaged(2).await;
    let next: LeaseAnswer = store.witness.ask_lease(store.version).await.json();
    assert!(next.fence > lease.fence);

    let away = Away::of(&store.world);
    away.give_new(&store.world, &["authority-2"]);
    let root = |authority| {
        let others: [&[&str]; 3] = [&["image"], &["order"], authority];
        away.root(&store.world, 1, &["root"], others, &["root"])
    };
    let turned = root(&["authority-2", "authority"]).await;
    publish_root(&store.world, &turned, "")
        .await
        .json::<RootPublished>();
    for node in [&store.witness, &new] {
        let certificate = take_certificate(node, b"").await;
        take_certificate(node, &certificate).await;
    }
    let alone = root(&["authority-2"]).await;
    publish_root(&store.world, &alone, "")
        .await
        .json::<RootPublished>();
    // in case it was no ghost
    let certificate = take_certificate(&old, b"").await;
    Verified::<NodeCertificate>::check(&certificate, &store.world.keys().await).unwrap();
}

#[tokio::test]
async fn a_token_gives_the_place_of_a_node_that_is_built_anew() {
    let store = Store::new().await;
    let old = store.world.node("north", "office").await;
    let token = store.token_for(&old).await;
    let tokens: Vec<TokenInfo> = store
        .world
        .admin
        .get("/api/v1/sites/north/tokens")
        .await
        .json();
    assert_eq!(tokens[0].replaces, Some(Hex(old.key.public.0)));
    assert_eq!(
        (tokens[0].state.as_str(), tokens[1].replaces),
        ("open", None)
    );
    old.documents().await;

    let wish = EnrolRequest {
        machine: Hex([8; 16]),
        ..enrol(&token, "localhost")
    };
    let new = store.enrol(&wish).await;
    let keys = store.world.keys().await;
    let certificate: Verified<NodeCertificate> =
        Verified::check(&new.enrolled.certificate.0, &keys).unwrap();
    assert_eq!(
        (certificate.name.as_str(), certificate.machine),
        ("office", MachineId([9; 16]))
    );
    let sentence = old.caller.get("/api/v1/node/documents").await.refused(403);
    assert!(sentence.contains("revoked"), "{sentence}");
    let info = store.info(&old).await;
    assert!(info.revoked && info.is_gone() && store.is_replaced_by(&old, &new).await);
    assert_eq!(new.channel(&keys).await.revoked, [old.key.public]);
    let told = store.lines("node").await;
    assert!(told.len() == 1 && told[0].contains("office"), "{told:?}");
    // the answer got lost
    let again: Enrolled = new.caller.post("/api/v1/enrol", &wish).await.json();
    assert_eq!(again.certificate, new.enrolled.certificate);
    assert_eq!(
        (store.lines("node").await, store.alarms().await.len()),
        (told, 0)
    );

    // a name that a person chose
    let token = store.token_for(&new).await;
    let named = EnrolRequest {
        is_named: true,
        ..enrol(&token, "Büro 2")
    };
    let third = store.enrol(&named).await;
    assert_eq!(store.info(&third).await.name, "Büro 2");
    assert_eq!(store.living().await, 2);
}

#[tokio::test]
async fn a_token_replaces_one_node_of_its_site_and_once() {
    let store = Store::new().await;
    store.world.site("south", SiteUnknown::Wait).await;
    let old = store.world.node("north", "office").await;
    let key = old.key.public.to_string();
    let sentence = store.wish_token("south", &key).await.refused(409);
    assert!(sentence.contains("north"), "{sentence}");
    store.wish_token("north", "00000000").await.refused(404);
    store.wish_token("north", &key[..7]).await.refused(400);
    let path = "/api/v1/sites/north/tokens";
    let unknown = json!({"replace": key});
    store.world.admin.post(path, &unknown).await.refused(400);
    let (first, second) = (store.token_for(&old).await, store.token_for(&old).await);
    // revoked since is no reason against it
    store.revoke(&old).await;
    let third = store.token_for(&old).await;
    let new = store.enrol(&enrol(&first, "x")).await;
    assert!(store.is_replaced_by(&old, &new).await);
    for token in [second, third] {
        let late = store.world.with_key(&Key::new());
        let sentence = late
            .post("/api/v1/enrol", &enrol(&token, "x"))
            .await
            .refused(409);
        assert!(sentence.contains(&new.key.public.short()), "{sentence}");
    }
    let sentence = store.wish_token("north", &key).await.refused(409);
    assert!(sentence.contains("already"), "{sentence}");
    // a thief who shows the token too freezes the one that used it, whose place can be given again
    let thief = store.world.with_key(&Key::new());
    thief
        .post("/api/v1/enrol", &enrol(&first, "x"))
        .await
        .refused(403);
    let token = store.token_for(&new).await;
    let newest = store.enrol(&enrol(&token, "x")).await;
    assert_eq!(store.info(&newest).await.name, "office");
    assert_eq!(store.living().await, 2);
}

/// What an older HQ knows of machines that were imaged twice is enough to find their ghosts.
#[tokio::test]
async fn an_older_database_has_its_ghosts_marked() {
    let store = Store::new().await;
    let (first, old) = store.imaged(1).await;
    let (second, new) = store.imaged(2).await;
    assert_eq!((first, second), (1, 2));
    let enrolled = store.world.node("north", "office").await;
    store.world.forget_people().await;
    for statement in [
        "DROP TABLE roots",
        "DROP INDEX nodes_of_machine",
        "ALTER TABLE nodes DROP COLUMN order_number",
        "ALTER TABLE nodes DROP COLUMN replaced_by",
        "ALTER TABLE nodes DROP COLUMN replaced",
        "ALTER TABLE nodes DROP COLUMN heard_again",
        "ALTER TABLE tokens DROP COLUMN replaces",
        "PRAGMA user_version = 6",
    ] {
        store.world.sql(statement).await;
    }
    let world = store.world.restart().await;
    let store = Store {
        witness: Node {
            caller: world.with_key(&store.witness.key),
            ..store.witness
        },
        world,
        ..store
    };
    assert!(store.is_replaced_by(&old, &new).await);
    for here in [&new, &enrolled, &store.witness] {
        assert_eq!(store.info(here).await.replaced_by, None);
    }
    assert_eq!(store.living().await, 3);
    // it knows under which order the node came
    let (_, newest) = store.imaged(3).await;
    assert!(store.is_replaced_by(&new, &newest).await);
}
