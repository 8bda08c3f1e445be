//! Agents whose nodes are gone: one of them fetches for all, after a deadline, and none beside a node.

use std::{net::SocketAddr, sync::Arc, sync::atomic::Ordering};

use peer_cache_proto::fallback::NO_NODE_DEADLINE;
use tokio::time::{Instant, sleep};

use super::*;

const CHUNKS: usize = 30;
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// An agent that can reach HQ.
fn agent_with_hq(hq: &Arc<Hq>) -> Member {
    start(hq, Role::Agent, true, Site::new(hq.keys()), false)
}

/// A node that admits and has nothing.
fn admitting(hq: &Arc<Hq>) -> Member {
    start(hq, Role::Node, false, hq.site(), false)
}

async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < PATIENCE + NO_NODE_DEADLINE, "{what}");
        sleep(LOOK_EVERY).await;
    }
}

/// Agents that a node has admitted and introduced to each other, and that have lost it.
async fn left_alone(hq: &Arc<Hq>, agents: &mut [Member]) {
    let node = admitting(hq);
    for (n, agent) in (1..).zip(&mut *agents) {
        agent.be_admitted(&node, n).await;
    }
    let others = agents.len() - 1;
    let acquainted = |a: &Member| a.cache.peers().iter().filter(|p| !p.node).count() == others;
    until("they meet", || agents.iter().all(acquainted)).await;
    node.cache.close().await;
    until("it is gone", || {
        agents
            .iter()
            .all(|a| a.cache.peers().iter().all(|p| !p.node))
    })
    .await;
}

fn fetches(agent: &mut Member) -> usize {
    let mut count = 0;
    while let Ok(event) = agent.events.try_recv() {
        count += usize::from(matches!(event, Event::FetchesItself { .. }));
    }
    count
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_without_a_node_ask_hq_after_the_deadline_and_one_fetches() {
    let hq = Hq::new(CHUNKS, Some(100_000));
    let mut agents = [agent_with_hq(&hq), agent_with_hq(&hq), agent_with_hq(&hq)];
    left_alone(&hq, &mut agents).await;
    let alone = Instant::now();
    for agent in &agents {
        let digest = hq.manifest.digest();
        let manifest = loop {
            match agent.cache.manifest(digest).await {
                Ok(manifest) => break manifest,
                Err(_) => sleep(LOOK_EVERY).await,
            }
            assert!(alone.elapsed() < PATIENCE + NO_NODE_DEADLINE);
        };
        // a moment passed before the node was seen to be gone
        assert!(alone.elapsed() + Duration::from_secs(2) > NO_NODE_DEADLINE);
        agent.cache.share(manifest);
    }
    for agent in &agents {
        agent.download(&hq).await;
        agent.check(&hq);
    }
    assert_eq!(hq.sent.load(Ordering::SeqCst), hq.manifest.object_bytes());
    let fetched = agents.iter().filter(|a| a.cache.origin_bytes() > 0);
    assert_eq!(fetched.count(), 1);
    let told: Vec<usize> = agents.iter_mut().map(fetches).collect();
    assert_eq!(told.iter().sum::<usize>(), 1, "{told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_is_an_agent_is_seen_and_waited_for() {
    let hq = Hq::new(CHUNKS, None);
    let mut agents = [agent_with_hq(&hq), agent(&hq)];
    left_alone(&hq, &mut agents).await;
    *hq.holder.lock().unwrap() = Some(agents[1].cache.key());
    agents[0].cache.share(hq.manifest.clone());
    let asked = || hq.leases.load(Ordering::SeqCst) > 0;
    until("it asks for the lease", asked).await;
    sleep(Duration::from_secs(5)).await;
    assert_eq!(hq.sent.load(Ordering::SeqCst), 0);
    assert_eq!(fetches(&mut agents[0]), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_fetches_nothing_beside_a_node_and_stops_when_one_is_back() {
    let hq = Hq::new(CHUNKS, Some(1000));
    let mut agents = [agent_with_hq(&hq)];
    left_alone(&hq, &mut agents).await;
    let [agent] = &mut agents;
    agent.cache.share(hq.manifest.clone());
    let sent = || hq.sent.load(Ordering::SeqCst);
    until("it fetches", || sent() > 0).await;
    let node = admitting(&hq);
    let address: SocketAddr = node.cache.local_addr().unwrap();
    let key = agent.cache.dial(address).await.unwrap();
    let back = async {
        loop {
            let event = agent.events.recv().await.unwrap();
            if matches!(event, Event::NodeIsBack { key: k } if k == key) {
                return;
            }
        }
    };
    timeout(PATIENCE, back).await.expect("it says so");
    sleep(Duration::from_secs(1)).await;
    let before = sent();
    assert!(before < hq.manifest.object_bytes());
    sleep(NO_NODE_DEADLINE + Duration::from_secs(5)).await;
    assert_eq!(
        sent(),
        before,
        "the node's turn, for as long as it is there"
    );
    assert!(!hq.finished.load(Ordering::SeqCst));
}
