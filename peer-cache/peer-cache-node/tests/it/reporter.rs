//! Who tells HQ that a site's nodes are there.

use std::{sync::Arc, time::Duration};

use peer_cache_node::Identity;
use peer_cache_proto::{
    reporter::OWN_CALL_EVERY,
    wire::{Credentials, Frame},
};
use tokio::time::timeout;
use trust_format::{Grade, MachineId, NodeCertificate};

use crate::{chain::*, raw::Raw};

/// Two nodes that see each other; the one that comes first is the first.
async fn pair(hq: &Arc<Hq>) -> [Member; 2] {
    let mut identities = [Identity::generate().unwrap(), Identity::generate().unwrap()];
    identities.sort_by_key(|i| i.public());
    let [first, second] = identities.map(|i| node_like(hq, hq.site(), i, |_| ()));
    second
        .cache
        .dial(first.cache.local_addr().unwrap())
        .await
        .unwrap();
    until(|| first.cache.neighbours() == [second.cache.key()]).await;
    until(|| second.cache.neighbours() == [first.cache.key()]).await;
    [first, second]
}

async fn until(is: impl Fn() -> bool) {
    let wait = async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, wait).await.expect("in time");
}

#[tokio::test]
async fn the_second_rests_while_the_first_reports_it_and_calls_when_it_goes() {
    let hq = Hq::new(1, None);
    let [first, second] = pair(&hq).await;
    let keys = [first.cache.key(), second.cache.key()];
    first.cache.tell_reported(&keys[1..], &[]);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(second.cache.is_due_at_hq(), "HQ has never heard of it");
    second.cache.tell_reported(&keys[..1], &[]);
    until(|| !second.cache.is_due_at_hq()).await;
    assert!(first.cache.is_due_at_hq(), "the first waits for nobody");
    // HQ has something for the second
    first.cache.tell_reported(&keys[1..], &keys[1..]);
    timeout(PATIENCE, second.cache.due_at_hq()).await.unwrap();
    second.cache.tell_reported(&[], &[]);
    assert!(!second.cache.is_due_at_hq());
    first.cache.close().await;
    timeout(PATIENCE, second.cache.due_at_hq()).await.unwrap();
    assert!(PATIENCE < OWN_CALL_EVERY);
}

/// Whoever a node certified, or a voucher, does not stand between HQ and a node of its site.
#[tokio::test]
async fn only_who_hq_itself_certified_reports_others() {
    let hq = Hq::new(1, None);
    let [first, second] = pair(&hq).await;
    second.cache.tell_reported(&[], &[]);
    let to = second.cache.local_addr().unwrap();
    let lowest = || {
        // its key comes before the second's
        loop {
            let identity = Identity::generate().unwrap();
            if identity.public() < second.cache.key() {
                return identity;
            }
        }
    };
    let (voucher, provisional, certified) = (lowest(), lowest(), lowest());
    let of_voucher = NodeCertificate {
        node: voucher.public(),
        site: SITE,
        machine: MachineId([7; 16]),
        name: "van".into(),
        grade: Grade::Voucher {
            machines: 3,
            order: None,
        },
    };
    let by_first = NodeCertificate {
        node: provisional.public(),
        machine: MachineId([8; 16]),
        grade: Grade::Provisional {
            issuer: first.cache.key(),
            order: 1,
        },
        ..of_voucher.clone()
    };
    let shown = [
        (
            &voucher,
            hq.signer.certify(&of_voucher).unwrap().as_bytes().to_vec(),
            None,
        ),
        (
            &provisional,
            first.cache.identity().sign(&by_first),
            Some(hq.certificate(first.cache.key())),
        ),
    ];
    for (identity, certificate, issuer) in shown {
        let mut raw = Raw::greet(
            identity,
            to,
            Credentials::Node {
                certificate,
                issuer,
            },
        )
        .await;
        raw.say(&Frame::Reported { wanted: false }).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let peers = second.cache.peers();
        assert!(
            peers.iter().any(|p| p.key == identity.public() && p.node),
            "it is believed otherwise"
        );
        assert!(second.cache.is_due_at_hq());
    }
    let certificate = hq.certificate(certified.public());
    let mut raw = Raw::greet(
        &certified,
        to,
        Credentials::Node {
            certificate,
            issuer: None,
        },
    )
    .await;
    raw.say(&Frame::Reported { wanted: false }).await;
    until(|| !second.cache.is_due_at_hq()).await;
}
