//! Vouchers at HQ: made for a key that HQ never sees, counted by what comes back, revoked like a node.

use std::time::Duration;

use image_format::ManifestKind;
use reqwest::Method;
use trust_format::{
    Completion, Digest, Grade, MachineId, NodeCertificate, SiteId, Ticket, Verified,
};
use web_api::*;

use crate::world::*;

struct Lent {
    world: World,
    site: SiteId,
    version: Hex<32>,
    order: u64,
    key: Key,
    certificate: Vec<u8>,
}

async fn lent(machines: u16) -> Lent {
    let world = World::new().await;
    world.site("north", SiteUnknown::Wait).await;
    let image = world
        .publish("till", ManifestKind::Image, &[noise(1, 1000)])
        .await;
    let order = world.order("north", "till").await.number;
    let key = Key::new();
    let made: VoucherMade = world
        .admin
        .post("/api/v1/sites/north/vouchers", &wish(&key, machines))
        .await
        .json();
    let certificate: Verified<NodeCertificate> =
        Verified::check(&made.certificate.0, &world.keys().await).unwrap();
    let order_of_it = None;
    assert_eq!(
        certificate.grade,
        Grade::Voucher {
            machines,
            order: order_of_it
        }
    );
    assert!(!made.documents.channel.0.is_empty() && made.documents.orders.len() == 1);
    Lent {
        site: certificate.site,
        world,
        version: image.version,
        order,
        key,
        certificate: made.certificate.0,
    }
}

fn wish(key: &Key, machines: u16) -> NewVoucher {
    NewVoucher {
        key: Hex(key.public.0),
        name: "van 3".into(),
        machines,
        order: None,
    }
}

impl Lent {
    fn machine(n: u8) -> MachineId {
        MachineId([n; 16])
    }

    /// The certificate of the node on a machine's disk.
    fn provisional(&self, n: u8, node: &Key) -> ConfirmRequest {
        let certificate = self.key.sign(&NodeCertificate {
            node: node.public,
            site: self.site,
            machine: Self::machine(n),
            name: format!("till-{n}"),
            grade: Grade::Provisional {
                issuer: self.key.public,
                order: self.order,
            },
        });
        ConfirmRequest {
            certificate: Base64(certificate),
            issuer: Base64(self.certificate.clone()),
        }
    }

    fn ticket(&self, n: u8, agent: &Key) -> Vec<u8> {
        self.key.sign(&Ticket {
            issuer: self.key.public,
            issuer_boot: 1,
            issued: Duration::ZERO,
            life: Duration::from_secs(600),
            agent: agent.public,
            machine: Self::machine(n),
            site: self.site,
            order: self.order,
        })
    }

    fn shown(&self, n: u8, agent: &Key) -> AgentTicket {
        AgentTicket {
            ticket: Base64(self.ticket(n, agent)),
            issuer: Base64(self.certificate.clone()),
            issuers_issuer: None,
        }
    }

    async fn info(&self) -> VoucherInfo {
        let mut all: Vec<VoucherInfo> = self.world.admin.get("/api/v1/vouchers").await.rows();
        assert_eq!(all.len(), 1);
        all.remove(0)
    }

    async fn troubles(&self) -> Vec<String> {
        let events = self.world.admin.get("/api/v1/events").await;
        let text = String::from_utf8(events.body).unwrap();
        text.match_indices("came with it as well")
            .map(|(at, _)| text[at.saturating_sub(120)..at].to_owned())
            .collect()
    }
}

/// What machines do under a voucher is confirmed as far as it goes. One more waits for a person, who is told.
#[tokio::test]
async fn hq_confirms_as_many_as_the_voucher_allows() {
    let lent = lent(2).await;
    let world = &lent.world;
    let nodes: Vec<Key> = (0..4).map(|_| Key::new()).collect();
    // the first is seen by its fetch, and by its node: one machine
    let agent = Key::new();
    let path = "/api/v1/agent/admit";
    let caller = world.with_key(&agent);
    let _: AgentAdmitted = caller.post(path, &lent.shown(1, &agent)).await.json();
    for n in [1, 2, 1] {
        let node = &nodes[usize::from(n)];
        let confirm = lent.provisional(n, node);
        let certified: Certified = world
            .with_key(node)
            .post("/api/v1/node/confirm", &confirm)
            .await
            .json();
        let certificate: Verified<NodeCertificate> =
            Verified::check(&certified.certificate.0, &world.keys().await).unwrap();
        assert_eq!(certificate.grade, Grade::Certified);
    }
    assert_eq!((lent.info().await.used, lent.info().await.beyond), (2, 0));
    assert!(lent.troubles().await.is_empty());

    let third = lent.provisional(3, &nodes[3]);
    let caller = world.with_key(&nodes[3]);
    for _ in 0..2 {
        let sentence = caller
            .post("/api/v1/node/confirm", &third)
            .await
            .refused(403);
        assert!(sentence.contains("waits for a person"), "{sentence}");
    }
    let thief = Key::new();
    let shown = lent.shown(4, &thief);
    world.with_key(&thief).post(path, &shown).await.refused(403);
    assert_eq!((lent.info().await.used, lent.info().await.beyond), (2, 2));
    assert_eq!(lent.troubles().await.len(), 2, "each is told once");
    // a person knows it
    let node = world.node("north", "till-9").await;
    let waits = NodeReport::Waiting {
        machine: Hex(Lent::machine(3).0),
        facts: facts("till"),
    };
    node.report(1, vec![waits]).await;
    let approve = format!("/api/v1/machines/{}/approve", Lent::machine(3));
    let approved = world.admin.raw(Method::POST, &approve, vec![]).await;
    approved.json::<Machine>();
    let _: Certified = caller.post("/api/v1/node/confirm", &third).await.json();
}

/// A stick was used on two islands. What was finished there counts when HQ hears of it, and stays finished.
#[tokio::test]
async fn completions_under_a_voucher_are_counted_and_kept() {
    let lent = lent(1).await;
    let node = lent.world.node("north", "till-9").await;
    let done = |n: u8| {
        let agent = Key::new();
        let completion = agent.sign(&Completion {
            machine: Lent::machine(n),
            order: lent.order,
            image: Digest(lent.version.0),
            node: None,
            ticket: lent.ticket(n, &agent),
            issuer: lent.certificate.clone(),
            issuers_issuer: None,
        });
        NodeReport::Completion {
            document: Base64(completion),
        }
    };
    node.report(1, vec![done(1), done(2), done(3)]).await;
    assert_eq!((lent.info().await.used, lent.info().await.beyond), (1, 2));
    assert_eq!(lent.troubles().await.len(), 2);
    let machines: Vec<Machine> = lent.world.admin.get("/api/v1/machines").await.rows();
    assert_eq!(machines.iter().filter(|m| m.completed == [1]).count(), 3);
}

/// Its holder speaks to HQ like a node, and certifies nobody in HQ's name. Revoked, neither it nor what it signed opens anything.
#[tokio::test]
async fn a_voucher_is_a_node_that_is_revoked_like_one() {
    let lent = lent(8).await;
    let world = &lent.world;
    let holder = world.with_key(&lent.key);
    let documents: NodeDocuments = holder.get("/api/v1/node/documents").await.json();
    assert!(!documents.channel.0.is_empty());
    let new = Key::new();
    let certify = CertifyRequest {
        node: Hex(new.public.0),
        machine: Hex([7; 16]),
        order: lent.order,
    };
    let sentence = holder
        .post("/api/v1/node/certify", &certify)
        .await
        .refused(403);
    assert!(sentence.contains("voucher"), "{sentence}");
    let path = format!("/api/v1/nodes/{}/revoke", lent.key.public);
    let info: NodeInfo = world.admin.raw(Method::POST, &path, vec![]).await.json();
    assert_eq!((info.revoked, info.origin.as_str()), (true, "voucher"));
    assert!(lent.info().await.revoked);
    holder.get("/api/v1/node/documents").await.refused(403);
    let confirm = lent.provisional(1, &new);
    let caller = world.with_key(&new);
    caller
        .post("/api/v1/node/confirm", &confirm)
        .await
        .refused(403);
    let agent = Key::new();
    let shown = lent.shown(1, &agent);
    let caller = world.with_key(&agent);
    caller
        .post("/api/v1/agent/admit", &shown)
        .await
        .refused(403);
    assert_eq!(lent.info().await.used, 0);
}

#[tokio::test]
async fn a_wish_for_a_voucher_that_makes_no_sense_is_refused() {
    let lent = lent(1).await;
    let path = "/api/v1/sites/north/vouchers";
    let world = &lent.world;
    let key = Key::new();
    for machines in [0, 257] {
        let sentence = world
            .admin
            .post(path, &wish(&key, machines))
            .await
            .refused(400);
        assert!(sentence.contains("1 to 256"), "{sentence}");
    }
    let nameless = NewVoucher {
        name: String::new(),
        ..wish(&key, 1)
    };
    world.admin.post(path, &nameless).await.refused(400);
    let of_no_order = NewVoucher {
        order: Some(99),
        ..wish(&key, 1)
    };
    world.admin.post(path, &of_no_order).await.refused(404);
    world
        .admin
        .post(path, &wish(&lent.key, 1))
        .await
        .refused(409);
    let nowhere = "/api/v1/sites/south/vouchers";
    world.admin.post(nowhere, &wish(&key, 1)).await.refused(404);
    // whoever opens it is no node that is counted, nor one whose place another may have
    let site: SiteInfo = world.admin.get("/api/v1/sites/north").await.json();
    assert_eq!(site.nodes, 0);
    let token = NewToken {
        replaces: Some(lent.key.public.to_string()),
    };
    let tokens = "/api/v1/sites/north/tokens";
    let sentence = world.admin.post(tokens, &token).await.refused(409);
    assert!(sentence.contains("is a voucher"), "{sentence}");
    // by nobody but the administrator
    let node = world.node("north", "till-9").await;
    node.caller.post(path, &wish(&key, 1)).await.refused(401);
}
