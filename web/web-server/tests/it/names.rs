//! Nodes with another name.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;
use trust_format::{NodeCertificate, Verified};
use web_api::*;

use crate::{
    away::*,
    rebuilt::{Store, take_certificate},
    world::*,
};

#[tokio::test]
async fn a_renamed_node_gets_a_certificate_that_says_so() {
    let store = Store::new().await;
    let node = store.world.node("north", "till-2").await;
    let keys = store.world.keys().await;
    let standing = node.report(1, vec![]).await.standing;
    // it knows everything, and HQ holds its question
    let life = ReportsRequest {
        peer_port: 4433,
        reports: vec![],
        known: Some(standing),
        beside: vec![],
    };
    let asked = Instant::now();
    let digits = node.key.public.to_string()[..8].to_uppercase();
    let held = node.caller.post("/api/v1/node/reports", &life);
    let change = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        store.rename(&digits, " Kasse 3 ").await
    };
    let (answer, renamed) = tokio::join!(held, change);
    let (answer, renamed): (ReportsAnswer, NodeInfo) = (answer.json(), renamed.json());
    assert!(asked.elapsed() < Duration::from_secs(LIFE_HELD_SECONDS));
    assert_eq!(renamed.name, "Kasse 3");
    assert!(answer.certificate_waits);
    assert_eq!(answer.standing, standing, "the others need not ask");

    let old = &node.enrolled.certificate.0;
    let new = take_certificate(&node, old).await;
    let certificate: Verified<NodeCertificate> = Verified::check(&new, &keys).unwrap();
    let before: Verified<NodeCertificate> = Verified::check(old, &keys).unwrap();
    let expected = NodeCertificate {
        name: "Kasse 3".into(),
        ..(*before).clone()
    };
    assert_eq!(*certificate, expected);
    assert!(node.report(2, vec![]).await.certificate_waits);
    assert_eq!(take_certificate(&node, &new).await, new);
    assert!(!node.report(2, vec![]).await.certificate_waits);
    let told = store.lines("node").await;
    assert!(
        told.len() == 1 && told[0].contains("Kasse 3") && told[0].contains("till-2"),
        "{told:?}"
    );
    // the same again is nothing
    store.rename(&digits, "Kasse 3").await.json::<NodeInfo>();
    assert!(!node.report(2, vec![]).await.certificate_waits);
    assert_eq!(store.lines("node").await, told);
}

#[tokio::test]
async fn a_name_is_for_one_living_node_and_a_key_fits_one() {
    let store = Store::new().await;
    let node = store.world.node("north", "till-2").await;
    let key = node.key.public.to_string();
    let sentence = store.rename(&key, "till-1").await.refused(409);
    let witness = store.witness.key.public.short();
    assert!(sentence.contains(&witness), "{sentence}");
    let long = "x".repeat(65);
    for name in ["", " ", "a\nb", &long] {
        store.rename(&key, name).await.refused(400);
    }
    for text in [
        &key[..7],
        "zzzzzzzz",
        &format!("{key}0"),
        "%25%25%25%25%25%25%25%25",
    ] {
        store.rename(text, "a").await.refused(400);
    }
    store.rename("00000000", "a").await.refused(404);
    // in another site the name is free
    store.world.site("south", SiteUnknown::Wait).await;
    let south = store.world.node("south", "till-9").await;
    let key_there = south.key.public.to_string();
    store.rename(&key_there, "till-2").await.json::<NodeInfo>();
    // two keys that begin alike: both were revoked before HQ met them
    for last in ["00", "11"] {
        let path = format!(
            "/api/v1/nodes/{}{last}/revoke?site={}",
            "ab".repeat(31),
            store.site
        );
        store
            .world
            .admin
            .raw(Method::POST, &path, vec![])
            .await
            .json::<NodeInfo>();
    }
    let sentence = store.rename("abababab", "a").await.refused(409);
    assert!(sentence.contains("several"), "{sentence}");
    let sentence = store
        .rename(&format!("{}11", "ab".repeat(31)), "a")
        .await
        .refused(409);
    assert!(sentence.contains("revoked"), "{sentence}");
    // who is revoked needs no name
    store.revoke(&store.witness).await;
    let renamed: NodeInfo = store.rename(&key, "till-1").await.json();
    assert_eq!(renamed.name, "till-1");
}

#[tokio::test]
async fn without_the_authority_key_nobody_is_renamed() {
    let world = World::new().await;
    world.site("north", SiteUnknown::Wait).await;
    let node = world.node("north", "till-1").await;
    let away = Away::of(&world);
    let world = keep(world, &away, &["image", "order"]).await;
    let path = format!("/api/v1/nodes/{}/rename", node.key.public);
    let answer = world.admin.post(&path, &json!({"name": "Kasse 3"})).await;
    let sentence = answer.refused(409);
    assert!(sentence.contains("authority key"), "{sentence}");
    let nodes: Vec<NodeInfo> = world.admin.get("/api/v1/nodes").await.rows();
    assert_eq!(nodes[0].name, "till-1");
}
