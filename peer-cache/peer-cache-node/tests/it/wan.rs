//! The WAN leg: leases that are lost, holders out of reach, and waiting.

use std::sync::atomic::Ordering;

use super::*;

/// More chunks than are asked for at once, so that a lease is shown several times.
const CHUNKS: usize = 30;

async fn complete(node: &Member, hq: &Hq) {
    let mut complete = node.cache.share(hq.manifest.clone());
    timeout(PATIENCE, complete.wait_for(|c| *c))
        .await
        .expect("fetches in time")
        .unwrap();
    node.check(hq);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_is_over_is_asked_for_again_and_no_byte_twice() {
    let hq = Hq::new(CHUNKS, Some(100_000));
    let node = node(&hq, false);
    while node.cache.held(&hq.manifest.digest()).unwrap().0 < 5 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let fence = hq.leases.load(Ordering::SeqCst) as u64;
    hq.fence_min.store(fence, Ordering::SeqCst);
    complete(&node, &hq).await;
    assert_eq!(hq.sent.load(Ordering::SeqCst), hq.manifest.object_bytes());
    assert!(hq.leases.load(Ordering::SeqCst) as u64 > fence);
    assert!(hq.finished.load(Ordering::SeqCst), "HQ is told of the end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_hqs_yes_nothing_more_is_fetched() {
    let hq = Hq::new(CHUNKS, None);
    // another has it from then on, and is here
    let other = start(&hq, Role::Node, false, hq.site(), false);
    let some = hq.manifest.object_bytes() / 6;
    *hq.over_after.lock().unwrap() = Some((some, other.cache.key()));
    let node = start(&hq, Role::Node, true, hq.site(), false);
    node.cache
        .dial(other.cache.local_addr().unwrap())
        .await
        .unwrap();
    node.cache.share(hq.manifest.clone());
    while node.cache.held(&hq.manifest.digest()).unwrap().0 < 5 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let sent = hq.sent.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(hq.sent.load(Ordering::SeqCst), sent);
    assert!(node.cache.held(&hq.manifest.digest()).unwrap().0 < CHUNKS);
    assert!(!hq.finished.load(Ordering::SeqCst));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_out_of_reach_is_named_to_hq() {
    let hq = Hq::new(5, None);
    *hq.holder.lock().unwrap() = Some(PublicKey([7; 32]));
    let node = node(&hq, false);
    complete(&node, &hq).await;
    assert_eq!(
        hq.leases.load(Ordering::SeqCst),
        2,
        "refused, then an island"
    );
}

/// Longer than a fetcher may stand still: a pause takes nobody's right, and its end takes effect at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_is_waited_for() {
    let hq = Hq::new(5, None);
    hq.waits.store(true, Ordering::SeqCst);
    let node = node(&hq, false);
    tokio::time::sleep(Duration::from_secs(13)).await;
    assert_eq!(
        hq.leases.load(Ordering::SeqCst),
        0,
        "nor a lease that others may use"
    );
    hq.waits.store(false, Ordering::SeqCst);
    let begun = std::time::Instant::now();
    complete(&node, &hq).await;
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
}
