//! Who sent what, told while it is sent.

use peer_cache_node::Role;
use tokio::time::timeout;

use crate::chain::*;

const CHUNKS: usize = 24;
/// Slow enough for somebody to watch.
const BYTES_PER_SECOND: u64 = 3 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_tells_who_sends_it_as_it_goes() {
    let hq = Hq::new(CHUNKS, None);
    let source = node_giving(&hq, BYTES_PER_SECOND);
    let receiver = start(&hq, Role::Node, false, hq.site(), false);
    let digest = hq.manifest.digest();
    let at = source.cache.local_addr().unwrap();
    receiver.cache.dial(at).await.unwrap();
    let mut complete = receiver.cache.share(hq.manifest.clone());
    assert_eq!(receiver.cache.senders(&digest), []);
    let started = std::time::Instant::now();
    let early = loop {
        let senders = receiver.cache.senders(&digest);
        if !senders.is_empty() {
            break senders;
        }
        assert!(started.elapsed() < PATIENCE, "nobody is named");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    assert!(!*complete.borrow(), "only when it was over");
    let name = format!("{} at {}", source.cache.key().short(), at.ip());
    assert_eq!(early[0].0, name);
    timeout(PATIENCE, complete.wait_for(|c| *c))
        .await
        .expect("in time")
        .unwrap();
    // told a moment later than the last part came
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    let last = receiver.cache.senders(&digest);
    assert!(last[0].0 == name && last[0].1 > early[0].1, "{last:?}");
}
