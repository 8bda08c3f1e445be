//! Nodes of which HQ hears from a neighbour.

use std::time::Duration;

use serde_json::json;
use web_api::*;

use crate::world::*;

/// Signs of life are written together, two seconds later at the latest.
const WRITTEN_WITHIN: Duration = Duration::from_secs(20);

fn key_of(node: &Node) -> Hex<32> {
    Hex(node.key.public.0)
}

async fn beside(by: &Node, others: Vec<Hex<32>>) -> Answer {
    let request = ReportsRequest {
        peer_port: 4433,
        reports: vec![],
        known: None,
        beside: others,
    };
    by.caller.post("/api/v1/node/reports", &request).await
}

async fn wanted(by: &Node, others: Vec<Hex<32>>) -> Vec<Hex<32>> {
    beside(by, others).await.json::<ReportsAnswer>().wanted
}

/// Who was heard of lately.
async fn there(world: &World) -> Vec<String> {
    let nodes: Vec<NodeInfo> = world.admin.get("/api/v1/nodes").await.rows();
    let there = nodes.iter().filter(|n| n.seen_unix_seconds > 1_000_000);
    let mut names: Vec<String> = there.map(|n| n.name.clone()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_node_speaks_for_those_of_its_site_that_hq_knows() {
    let world = World::new().await;
    for site in ["north", "south"] {
        world.site(site, SiteUnknown::Admit).await;
    }
    let mut nodes = Vec::new();
    for (site, name) in [
        ("north", "speaks"),
        ("north", "rests"),
        ("north", "silent"),
        ("south", "elsewhere"),
    ] {
        let node = world.node(site, name).await;
        node.report(1, vec![]).await;
        nodes.push(node);
    }
    let never = world.node("north", "never heard").await;
    let unknown = Hex([9; 32]);
    world
        .sql("UPDATE nodes SET seen = 1000 WHERE seen > 0")
        .await;
    let named = vec![
        key_of(&nodes[1]),
        key_of(&nodes[3]),
        key_of(&never),
        unknown,
    ];
    // of another site, not heard yet, unknown: HQ takes nobody's word for them
    let refused = wanted(&nodes[0], named.clone()).await;
    assert_eq!(refused, named[1..]);
    let started = std::time::Instant::now();
    while there(&world).await != ["rests", "speaks"] {
        assert!(
            started.elapsed() < WRITTEN_WITHIN,
            "{:?}",
            there(&world).await
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    // what waits for a node it has to fetch itself
    let key = nodes[1].key.public.to_string();
    let path = format!("/api/v1/nodes/{key}/rename");
    let renamed = world.admin.post(&path, &json!({"name": "Kasse 3"})).await;
    renamed.json::<NodeInfo>();
    assert_eq!(wanted(&nodes[0], named[..1].to_vec()).await, named[..1]);
    // and one that is revoked is not there, whoever says so
    let path = format!("/api/v1/nodes/{}/revoke", nodes[2].key.public);
    world.admin.post(&path, &json!({})).await.json::<NodeInfo>();
    let silent = vec![key_of(&nodes[2])];
    assert_eq!(wanted(&nodes[0], silent.clone()).await, silent);
}

#[tokio::test]
async fn a_node_is_beside_no_more_than_it_can_be_connected_to() {
    let world = World::new().await;
    world.site("north", SiteUnknown::Admit).await;
    let node = world.node("north", "speaks").await;
    let many = |n: usize| vec![Hex([9; 32]); n];
    let sentence = beside(&node, many(BESIDE_MAX + 1)).await.refused(400);
    assert!(sentence.contains("256"), "{sentence}");
    assert_eq!(wanted(&node, many(BESIDE_MAX)).await.len(), BESIDE_MAX);
}
