//! Agents that fetch without a node: whose ticket HQ believes, for how long, and what it opens.

use std::time::Duration;

use image_format::ManifestKind;
use reqwest::Method;
use serde_json::json;
use trust_format::{Completion, MachineId, SiteId, Ticket, ticket_life};
use web_api::*;

use crate::world::*;

const MACHINE: [u8; 16] = [7; 16];
const LIFE: Duration = Duration::from_secs(1000);

struct Store {
    world: World,
    node: Node,
    site: SiteId,
    objects: Vec<Vec<u8>>,
    image: ImageVersion,
    order: u64,
}

/// Somebody with the key of an agent that a node of `north` admitted. The site gets an order for it.
pub(crate) async fn admitted(world: &World, node: &Node) -> Caller {
    let objects = vec![noise(1, 1000)];
    world.publish("till", ManifestKind::Image, &objects).await;
    let order = world.order("north", "till").await.number;
    let site = node.channel(&world.keys().await).await.site;
    let key = Key::new();
    let ticket = ticket(site, order, &node.key, &key);
    let shown = shown(node, &ticket);
    let caller = world.with_key(&key);
    let _: AgentAdmitted = caller.post("/api/v1/agent/admit", &shown).await.json();
    caller
}

fn ticket(site: SiteId, order: u64, issuer: &Key, agent: &Key) -> Ticket {
    Ticket {
        issuer: issuer.public,
        issuer_boot: 1,
        issued: Duration::from_secs(1),
        life: LIFE,
        agent: agent.public,
        machine: MachineId(MACHINE),
        site,
        order,
    }
}

/// What an agent shows of a ticket that a node signed.
fn shown(node: &Node, ticket: &Ticket) -> AgentTicket {
    AgentTicket {
        ticket: Base64(node.key.sign(ticket)),
        issuer: node.enrolled.certificate.clone(),
        issuers_issuer: None,
    }
}

async fn store() -> Store {
    let world = World::new().await;
    world.site("north", SiteUnknown::Admit).await;
    let objects = vec![noise(1, 300_000), noise(2, 200_000)];
    let image = world.publish("till", ManifestKind::Image, &objects).await;
    let order = world.order("north", "till").await.number;
    let node = world.node("north", "till-1").await;
    let site = node.channel(&world.keys().await).await.site;
    Store {
        world,
        node,
        site,
        objects,
        image,
        order,
    }
}

impl Store {
    fn ticket(&self, issuer: &Key, agent: &Key) -> Ticket {
        ticket(self.site, self.order, issuer, agent)
    }

    fn shown(&self, ticket: &Ticket) -> AgentTicket {
        shown(&self.node, ticket)
    }

    async fn show(&self, key: &Key, shown: &AgentTicket) -> Answer {
        let caller = self.world.with_key(key);
        caller.post("/api/v1/agent/admit", shown).await
    }

    /// A new agent that HQ admitted.
    async fn agent(&self) -> Node {
        let key = Key::new();
        let shown = self.shown(&self.ticket(&self.node.key, &key));
        let admitted: AgentAdmitted = self.show(&key, &shown).await.json();
        assert!(admitted.seconds <= LIFE.as_secs() && admitted.seconds + 5 > LIFE.as_secs());
        self.as_caller(key)
    }

    /// Whoever asks as a node does; it need not be one.
    fn as_caller(&self, key: Key) -> Node {
        Node {
            caller: self.world.with_key(&key),
            key,
            enrolled: self.node.enrolled.clone(),
        }
    }

    /// What HQ says to a ticket that is wrong in some way.
    async fn refusal(&self, wrong: impl FnOnce(&mut Ticket)) -> String {
        let key = Key::new();
        let mut ticket = self.ticket(&self.node.key, &key);
        wrong(&mut ticket);
        self.show(&key, &self.shown(&ticket)).await.refused(403)
    }
}

#[tokio::test]
async fn an_admitted_agent_fetches_as_a_node_does_and_may_nothing_else() {
    let store = store().await;
    let stranger = store.as_caller(Key::new());
    stranger.ask_lease(store.image.version).await.refused(403);
    let agent = store.agent().await;
    let manifest = format!("/api/v1/node/manifests/{}", store.image.version);
    assert_eq!(agent.caller.get(&manifest).await.status, 200);
    let news: WanNews = agent.caller.get("/api/v1/node/wan?since=0").await.json();
    assert!(!news.paused);
    let lease: LeaseAnswer = agent.ask_lease(store.image.version).await.json();
    for object in &store.objects {
        let came = agent.fetch(object, &lease.token, None).await;
        assert_eq!(came.body, *object);
    }
    let all: u64 = store.objects.iter().map(|o| o.len() as u64).sum();
    store.world.ledger_becomes(|bytes| bytes == all).await;
    agent.end_lease(&lease.token, true).await;

    let certify = CertifyRequest {
        node: Hex([5; 32]),
        machine: Hex(MACHINE),
        order: store.order,
    };
    let documents = agent.caller.get("/api/v1/node/documents").await;
    documents.refused(403);
    let certified = agent.caller.post("/api/v1/node/certify", &certify).await;
    certified.refused(403);
    let reports = json!({"peer_port": 1, "reports": []});
    let reported = agent.caller.post("/api/v1/node/reports", &reports).await;
    reported.refused(403);
}

#[tokio::test]
async fn only_a_ticket_of_the_sites_own_node_for_this_agent_and_an_open_order_is_believed() {
    let store = store().await;
    let (key, other) = (Key::new(), Key::new());
    let shown = store.shown(&store.ticket(&store.node.key, &key));
    let sentence = store.show(&other, &shown).await.refused(403);
    assert!(sentence.contains(&other.public.short()), "{sentence}");

    // signed by somebody, with the node's certificate beside it
    let forged = AgentTicket {
        ticket: Base64(other.sign(&store.ticket(&store.node.key, &key))),
        ..shown.clone()
    };
    let answer = store.show(&key, &forged).await;
    assert!([400, 403].contains(&answer.status.as_u16()), "{answer:?}");
    let stranger = AgentTicket {
        ticket: Base64(other.sign(&store.ticket(&other, &key))),
        ..shown.clone()
    };
    let answer = store.show(&key, &stranger).await;
    assert!([400, 403].contains(&answer.status.as_u16()), "{answer:?}");

    store.world.site("south", SiteUnknown::Admit).await;
    let south = store.world.node("south", "till-9").await;
    let south = south.channel(&store.world.keys().await).await.site;
    let sentence = store.refusal(|t| t.site = south).await;
    assert!(sentence.contains("site"), "{sentence}");
    let sentence = store.refusal(|t| t.site = SiteId([9; 16])).await;
    assert!(sentence.contains("no site of this HQ"), "{sentence}");

    let sentence = store.refusal(|t| t.order += 1).await;
    assert!(sentence.contains("has no order"), "{sentence}");
    let ticket = store.ticket(&store.node.key, &key);
    let document = Base64(key.sign(&Completion {
        machine: ticket.machine,
        order: store.order,
        image: digest(store.image.version),
        node: None,
        ticket: store.node.key.sign(&ticket),
        issuer: store.node.enrolled.certificate.0.clone(),
        issuers_issuer: None,
    }));
    let done = NodeReport::Completion { document };
    store.node.report(1, vec![done]).await;
    let sentence = store.refusal(|_| {}).await;
    assert!(sentence.contains("is spent"), "{sentence}");
    // for that machine only
    let machine = Key::new();
    let mut ticket = store.ticket(&store.node.key, &machine);
    ticket.machine = MachineId([8; 16]);
    let _: AgentAdmitted = store.show(&machine, &store.shown(&ticket)).await.json();
}

#[tokio::test]
async fn a_revoked_issuer_takes_its_agents_with_it() {
    let store = store().await;
    let agent = store.agent().await;
    let lease: LeaseAnswer = agent.ask_lease(store.image.version).await.json();
    agent.fetch(&store.objects[0], &lease.token, None).await;
    let path = format!("/api/v1/nodes/{}/revoke", store.node.key.public);
    let _: NodeInfo = store
        .world
        .admin
        .raw(Method::POST, &path, vec![])
        .await
        .json();
    let object = agent.fetch(&store.objects[1], &lease.token, None).await;
    object.refused(403);
    agent.ask_lease(store.image.version).await.refused(403);
    let sentence = store.refusal(|_| {}).await;
    assert!(sentence.contains("revoked"), "{sentence}");
    // and its lease keeps nobody waiting
    let next = store.world.node("north", "till-2").await;
    let given: LeaseAnswer = next.ask_lease(store.image.version).await.json();
    assert!(given.fence > lease.fence);
}

#[tokio::test]
async fn a_ticket_lives_from_its_first_sight_and_only_another_one_lives_longer() {
    let store = store().await;
    let key = Key::new();
    let ticket = store.ticket(&store.node.key, &key);
    let shown = store.shown(&ticket);
    let first: AgentAdmitted = store.show(&key, &shown).await.json();
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let again: AgentAdmitted = store.show(&key, &shown).await.json();
    assert!(again.seconds + 2 <= first.seconds, "{first:?}, {again:?}");
    let agent = store.as_caller(key);
    let _: LeaseAnswer = agent.ask_lease(store.image.version).await.json();
    store
        .world
        .sql("UPDATE agents SET until = until - 1000")
        .await;
    let over = agent.ask_lease(store.image.version).await.refused(403);
    assert!(over.contains("over"), "{over}");
    let over = store.show(&agent.key, &shown).await.refused(403);
    assert!(over.contains("over"), "{over}");
    // renewed by a node
    let renewed = Ticket {
        issued: ticket.issued + Duration::from_secs(900),
        life: ticket_life::MAX,
        ..ticket
    };
    let renewed = store.shown(&renewed);
    let renewed: AgentAdmitted = store.show(&agent.key, &renewed).await.json();
    assert!(renewed.seconds <= ticket_life::MAX.as_secs());
    let _: LeaseAnswer = agent.ask_lease(store.image.version).await.json();
    // the old one is still over
    store.show(&agent.key, &shown).await.refused(403);
}

#[tokio::test]
async fn a_provisional_node_vouches_one_step_deep() {
    let store = store().await;
    let (issuer, key) = (Key::new(), Key::new());
    let machine = MachineId([8; 16]);
    let certificate = store
        .node
        .provisional(store.site, &issuer, machine, store.order);
    let shown = AgentTicket {
        ticket: Base64(issuer.sign(&store.ticket(&issuer, &key))),
        issuer: Base64(certificate),
        issuers_issuer: Some(store.node.enrolled.certificate.clone()),
    };
    let alone = AgentTicket {
        issuers_issuer: None,
        ..shown.clone()
    };
    store.show(&key, &alone).await.refused(403);
    let _: AgentAdmitted = store.show(&key, &shown).await.json();
    let agent = store.as_caller(key);
    let _: LeaseAnswer = agent.ask_lease(store.image.version).await.json();
    let path = format!("/api/v1/nodes/{}/revoke", store.node.key.public);
    let _: NodeInfo = store
        .world
        .admin
        .raw(Method::POST, &path, vec![])
        .await
        .json();
    agent.ask_lease(store.image.version).await.refused(403);
}

#[tokio::test]
async fn one_agent_fetches_and_is_named_to_the_others() {
    let store = store().await;
    let (first, second) = (store.agent().await, store.agent().await);
    let lease: LeaseAnswer = first.ask_lease(store.image.version).await.json();
    first.fetch(&store.objects[0], &lease.token, None).await;
    let sees = [(&first, true)];
    let answer = second.ask_lease_seeing(store.image.version, &sees).await;
    let sentence = answer.refused(409);
    let held: LeaseHeld = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(held.holder, format!("agent of machine {}", Hex(MACHINE)));
    assert!(sentence.starts_with(&held.holder), "{sentence}");
    assert_eq!((held.key.0, held.finished), (first.key.public.0, false));
    // it is heard of in no other way: when it has finished and is gone nobody waits for it
    first.end_lease(&lease.token, true).await;
    let sees = [(&first, false)];
    let given: LeaseAnswer = second
        .ask_lease_seeing(store.image.version, &sees)
        .await
        .json();
    assert_eq!(given.kind, LeaseKind::Main);
}

/// A node that had everything and died is not on the other side of a wall, though HQ heard of it a moment ago.
#[tokio::test]
async fn an_agent_beside_a_dead_node_is_no_island() {
    let store = store().await;
    let lease: LeaseAnswer = store.node.ask_lease(store.image.version).await.json();
    store.node.end_lease(&lease.token, true).await;
    store.node.report(1, vec![]).await;
    let gone = [(&store.node, false)];
    let (first, second) = (store.agent().await, store.agent().await);
    let alive: LeaseAnswer = first
        .ask_lease_seeing(store.image.version, &gone)
        .await
        .json();
    assert_eq!(alive.kind, LeaseKind::Island, "HQ hears of the node now");
    first.end_lease(&alive.token, false).await;
    store.world.sql("UPDATE nodes SET seen = seen - 16").await;
    let dead: LeaseAnswer = second
        .ask_lease_seeing(store.image.version, &gone)
        .await
        .json();
    assert_eq!(dead.kind, LeaseKind::Main);
}

#[tokio::test]
async fn the_list_of_tickets_has_an_end() {
    let store = store().await;
    store
        .world
        .sql(
            "INSERT INTO agents (ticket, agent_key, site, machine, order_number, issuer, certified, until)
             WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 4096)
             SELECT printf('%064x', i), printf('%064x', i), (SELECT id FROM sites), printf('%032x', i), 1,
             printf('%064x', 0), printf('%064x', 0), 99999999999 FROM n",
        )
        .await;
    let key = Key::new();
    let shown = store.shown(&store.ticket(&store.node.key, &key));
    let sentence = store.show(&key, &shown).await.refused(409);
    assert!(sentence.contains("4096"), "{sentence}");
    // one that is over makes room, though not before it has to
    store
        .world
        .sql("UPDATE agents SET until = unixepoch() - 10 WHERE ticket = printf('%064x', 1)")
        .await;
    let _: AgentAdmitted = store.show(&key, &shown).await.json();
}
