//! How a computer becomes a node, and how it stops being one.

use image_format::ManifestKind;
use reqwest::Method;
use trust_format::{Grade, MachineId, NodeCertificate, SiteId, Verified};
use web_api::*;

use crate::world::*;

#[tokio::test]
async fn a_token_makes_one_node() {
    let world = World::new().await;
    let created = world.site("north", SiteUnknown::Wait).await;
    let token: EnrolmentToken = created.token.parse().unwrap();
    assert_eq!(
        (token.url.as_str(), token.fingerprint),
        ("https://hq.example:8443", world.hq.fingerprint)
    );
    let key = Key::new();
    let caller = world.with_key(&key);
    let enrolled: Enrolled = caller
        .post("/api/v1/enrol", &enrol(&token, "till-1"))
        .await
        .json();
    let keys = world.keys().await;
    let certificate: Verified<NodeCertificate> =
        Verified::check(&enrolled.certificate.0, &keys).unwrap();
    assert_eq!(
        (certificate.node, certificate.site),
        (key.public, SiteId(created.site.id.0))
    );
    assert_eq!(
        (certificate.name.as_str(), &certificate.grade),
        ("till-1", &Grade::Certified)
    );
    // the answer got lost
    let again: Enrolled = caller
        .post("/api/v1/enrol", &enrol(&token, "till-1"))
        .await
        .json();
    assert_eq!(again, enrolled);
    let documents: NodeDocuments = caller.get("/api/v1/node/documents").await.json();
    assert_eq!(documents, enrolled.documents);

    let tokens: Vec<TokenInfo> = world.admin.get("/api/v1/sites/north/tokens").await.json();
    assert_eq!((tokens.len(), tokens[0].state.as_str()), (1, "used"));
    let path = format!("/api/v1/tokens/{}", tokens[0].id);
    world
        .admin
        .raw(Method::DELETE, &path, vec![])
        .await
        .refused(409);
    // the same key with another token spends nothing
    let second = world.token("north").await;
    caller
        .post("/api/v1/enrol", &enrol(&second, "till-1"))
        .await
        .refused(409);
    let tokens: Vec<TokenInfo> = world.admin.get("/api/v1/sites/north/tokens").await.json();
    assert_eq!(tokens[0].state, "open");
}

#[tokio::test]
async fn a_second_use_freezes_the_first() {
    let world = World::new().await;
    let created = world.site("north", SiteUnknown::Wait).await;
    let (token, first) = (world.token("north").await, Key::new());
    let caller = world.with_key(&first);
    caller
        .post("/api/v1/enrol", &enrol(&token, "till-1"))
        .await
        .json::<Enrolled>();
    let witness = world.node("north", "till-2").await;
    let keys = world.keys().await;
    let before = witness.channel(&keys).await;

    let thief = world.with_key(&Key::new());
    let sentence = thief
        .post("/api/v1/enrol", &enrol(&token, "till-9"))
        .await
        .refused(403);
    assert!(sentence.contains("frozen"), "{sentence}");
    thief.get("/api/v1/node/documents").await.refused(403);
    caller.get("/api/v1/node/documents").await.refused(403);
    caller
        .post("/api/v1/enrol", &enrol(&token, "till-1"))
        .await
        .refused(403);
    let after = witness.channel(&keys).await;
    assert_eq!(after.revoked, [first.public]);
    assert_eq!(
        (after.number, after.revocation),
        (before.number + 1, before.revocation + 1)
    );
    let tokens: Vec<TokenInfo> = world.admin.get("/api/v1/sites/north/tokens").await.json();
    assert_eq!(tokens.iter().filter(|t| t.state == "frozen").count(), 1);
    let events: Vec<EventInfo> = world.admin.get("/api/v1/events").await.rows();
    assert_eq!(events[0].kind, "trouble");
    // a third use changes nothing more
    world
        .with_key(&Key::new())
        .post("/api/v1/enrol", &enrol(&token, "x"))
        .await
        .refused(403);
    assert_eq!(witness.channel(&keys).await.number, after.number);
    assert_eq!(created.site.nodes, 0);
}

#[tokio::test]
async fn tokens_end() {
    let world = World::new().await;
    world.site("north", SiteUnknown::Wait).await;
    let caller = world.with_key(&Key::new());
    let unknown = EnrolmentToken {
        secret: [5; 16],
        ..world.token("north").await
    };
    caller
        .post("/api/v1/enrol", &enrol(&unknown, "till-1"))
        .await
        .refused(403);

    let taken_back = world.token("north").await;
    let tokens: Vec<TokenInfo> = world.admin.get("/api/v1/sites/north/tokens").await.json();
    let path = format!("/api/v1/tokens/{}", tokens[0].id);
    let revoked: TokenInfo = world.admin.raw(Method::DELETE, &path, vec![]).await.json();
    assert_eq!(revoked.state, "revoked");
    let sentence = caller
        .post("/api/v1/enrol", &enrol(&taken_back, "till-1"))
        .await
        .refused(403);
    assert!(sentence.contains("revoked"));

    let late = world.token("north").await;
    let tokens: Vec<TokenInfo> = world.admin.get("/api/v1/sites/north/tokens").await.json();
    let hours = 72 * 3600;
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    assert!((now + hours - 60..=now + hours).contains(&tokens[0].expires_unix_seconds));
    world
        .sql("UPDATE tokens SET expires = expires - 72 * 3600 - 1")
        .await;
    let sentence = caller
        .post("/api/v1/enrol", &enrol(&late, "till-1"))
        .await
        .refused(403);
    assert!(sentence.contains("over"), "{sentence}");
    let tokens: Vec<TokenInfo> = world.admin.get("/api/v1/sites/north/tokens").await.json();
    assert_eq!(tokens[0].state, "expired");
}

#[tokio::test]
async fn hq_confirms_what_a_node_certified() {
    let world = World::new().await;
    let site = SiteId(world.site("north", SiteUnknown::Wait).await.site.id.0);
    world.site("south", SiteUnknown::Wait).await;
    let issuer = world.node("north", "till-1").await;
    world
        .publish("till", ManifestKind::Image, &[noise(1, 5000)])
        .await;
    let order = world.order("north", "till").await.number;
    let keys = world.keys().await;
    let (new, machine) = (Key::new(), MachineId([7; 16]));
    let request = |certificate: Vec<u8>| ConfirmRequest {
        certificate: Base64(certificate),
        issuer: issuer.enrolled.certificate.clone(),
    };
    let good = request(issuer.provisional(site, &new, machine, order));
    // another key shows it
    world
        .with_key(&Key::new())
        .post("/api/v1/node/confirm", &good)
        .await
        .refused(403);
    let caller = world.with_key(&new);
    for bad in [
        request(issuer.provisional(site, &new, machine, order + 1)),
        request(issuer.provisional(SiteId([3; 16]), &new, machine, order)),
        request(issuer.enrolled.certificate.0.clone()),
        ConfirmRequest {
            issuer: good.certificate.clone(),
            ..good.clone()
        },
    ] {
        caller.post("/api/v1/node/confirm", &bad).await.refused(403);
    }
    caller
        .post("/api/v1/node/confirm", &request(vec![1, 2, 3]))
        .await
        .refused(400);
    // a site may forbid it
    let path = "/api/v1/sites/north";
    let forbid = SiteChange {
        provisional: Some(false),
        ..SiteChange::default()
    };
    world
        .admin
        .send(Method::PATCH, path, &forbid)
        .await
        .json::<SiteInfo>();
    caller
        .post("/api/v1/node/confirm", &good)
        .await
        .refused(403);
    let allow = SiteChange {
        provisional: Some(true),
        ..SiteChange::default()
    };
    world
        .admin
        .send(Method::PATCH, path, &allow)
        .await
        .json::<SiteInfo>();

    let certified: Certified = caller.post("/api/v1/node/confirm", &good).await.json();
    let certificate: Verified<NodeCertificate> =
        Verified::check(&certified.certificate.0, &keys).unwrap();
    assert_eq!(
        (certificate.node, certificate.machine),
        (new.public, machine)
    );
    assert_eq!(
        (certificate.site, certificate.name.as_str()),
        (site, "till-2")
    );
    assert_eq!(certificate.grade, Grade::Certified);
    let again: Certified = caller.post("/api/v1/node/confirm", &good).await.json();
    assert_eq!(again, certified);
    let nodes: Vec<NodeInfo> = world.admin.get("/api/v1/nodes").await.rows();
    assert!(
        nodes
            .iter()
            .any(|n| n.key.0 == new.public.0 && n.origin == "confirmed")
    );

    // the issuer is revoked: what it signed before counts no more
    let next = Key::new();
    let late = request(issuer.provisional(site, &next, MachineId([8; 16]), order));
    let path = format!("/api/v1/nodes/{}/revoke", issuer.key.public);
    let info: NodeInfo = world.admin.raw(Method::POST, &path, vec![]).await.json();
    assert!(info.revoked);
    let sentence = world
        .with_key(&next)
        .post("/api/v1/node/confirm", &late)
        .await
        .refused(403);
    assert!(sentence.contains("revoked"), "{sentence}");
    issuer
        .caller
        .get("/api/v1/node/documents")
        .await
        .refused(403);
    // and a revoked node gets no new certificate
    let path = format!("/api/v1/nodes/{}/revoke", new.public);
    world
        .admin
        .raw(Method::POST, &path, vec![])
        .await
        .json::<NodeInfo>();
    caller
        .post("/api/v1/node/confirm", &good)
        .await
        .refused(403);
}

#[tokio::test]
async fn hq_certifies_for_admitted_machines_only() {
    let world = World::new().await;
    world.site("north", SiteUnknown::Wait).await;
    let node = world.node("north", "till-1").await;
    world
        .publish("till", ManifestKind::Image, &[noise(1, 5000)])
        .await;
    let order = world.order("north", "till").await.number;
    let (new, machine) = (Key::new(), Hex([7; 16]));
    let ask = |order| CertifyRequest {
        node: Hex(new.public.0),
        machine,
        order,
    };
    let path = "/api/v1/node/certify";
    node.caller.post(path, &ask(order + 1)).await.refused(403);
    node.caller.post(path, &ask(order)).await.refused(403);
    let waits = NodeReport::Waiting {
        machine,
        facts: facts("till"),
    };
    node.report(1, vec![waits]).await;
    node.caller.post(path, &ask(order)).await.refused(403);
    let approve = format!("/api/v1/machines/{machine}/approve");
    world
        .admin
        .raw(Method::POST, &approve, vec![])
        .await
        .json::<Machine>();
    let certified: Certified = node.caller.post(path, &ask(order)).await.json();
    assert_eq!(
        node.caller
            .post(path, &ask(order))
            .await
            .json::<Certified>(),
        certified
    );
    let keys = world.keys().await;
    let certificate: Verified<NodeCertificate> =
        Verified::check(&certified.certificate.0, &keys).unwrap();
    assert_eq!(
        (certificate.node, certificate.machine),
        (new.public, MachineId(machine.0))
    );
    // it is a node now
    world
        .with_key(&new)
        .get("/api/v1/node/documents")
        .await
        .json::<NodeDocuments>();
    // a key cannot be moved to another machine
    let moved = CertifyRequest {
        machine: Hex([8; 16]),
        ..ask(order)
    };
    node.caller.post(path, &moved).await.refused(409);
}
