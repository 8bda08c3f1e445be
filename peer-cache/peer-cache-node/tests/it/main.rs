//! Nodes and agents over real QUIC on loopback, with HQ's part played by a store in memory that counts its bytes.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

mod attacker;
mod chain;
mod door;
mod fallback;
mod hostile;
mod machines;
mod raw;
mod reporter;
mod senders;
mod spread;
mod trust;
mod vouchers;
mod wan;

use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::Path,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use image_format::PART_BYTES;
use peer_cache_node::{Event, Identity, Role, Site};
use peer_cache_proto::wire::{AdmissionAnswer, Credentials, Documents};
use tempfile::TempDir;
use tokio::time::timeout;
use trust_format::{Completion, PublicKey, SiteId, UnknownRule};

use chain::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_site_of_five_fetches_once_and_shares() {
    let hq = Hq::new(60, Some(100_000));
    let node = node(&hq, false);
    let mut agents: Vec<Member> = (0..4).map(|_| agent(&hq)).collect();
    for (n, agent) in (1..).zip(&mut agents) {
        agent.be_admitted(&node, n).await;
    }
    let all = agents.iter().map(|a| a.download(&hq));
    futures_join(all).await;
    for agent in &agents {
        agent.check(&hq);
    }
    assert_eq!(
        hq.sent.load(Ordering::SeqCst),
        hq.manifest.object_bytes(),
        "once over the WAN, cut or not"
    );
    assert_eq!(node.cache.origin_bytes(), hq.manifest.object_bytes());
    let copies = node.sent_bytes() as f64 / hq.manifest.object_bytes() as f64;
    assert!(copies < 2.5, "the node sent {copies:.2} copies to 4");
    for agent in &agents {
        assert!(
            agent.sent_bytes() > hq.manifest.object_bytes() / 10,
            "every receiver passes on"
        );
    }
}

/// The other way round nothing is held: whoever is slow takes longer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_gives_no_more_than_its_budget() {
    let (hq, budget) = (Hq::new(12, None), 4_000_000);
    let node = node_giving(&hq, budget);
    let mut agents: Vec<Member> = (0..2).map(|_| agent(&hq)).collect();
    for (n, agent) in (1..).zip(&mut agents) {
        agent.be_admitted(&node, n).await;
    }
    let started = Instant::now();
    futures_join(agents.iter().map(|a| a.download(&hq))).await;
    // an eighth of a second's bytes and one part may leave at once
    let at_once = budget / 8 + PART_BYTES as u64;
    let least = hq.manifest.object_bytes().saturating_sub(at_once) as f64 / budget as f64;
    assert!(least > 1.0, "the image is too small to tell");
    assert!(started.elapsed().as_secs_f64() >= least);
    for agent in &agents {
        agent.check(&hq);
    }
}

async fn futures_join(futures: impl Iterator<Item = impl Future<Output = ()>>) {
    let mut all: Vec<_> = futures.map(Box::pin).collect();
    std::future::poll_fn(|cx| {
        all.retain_mut(|f| f.as_mut().poll(cx).is_pending());
        if all.is_empty() {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_admission_no_byte() {
    let hq = Hq::new(3, None);
    let node = node(&hq, true);
    let agent = agent(&hq);
    agent
        .cache
        .dial(node.cache.local_addr().unwrap())
        .await
        .unwrap();
    let refused = agent
        .cache
        .manifest(hq.manifest.digest())
        .await
        .unwrap_err()
        .to_string();
    assert!(refused.contains("nowhere"), "{refused}");
    // it has the manifest by other means, and still gets nothing
    let mut complete = agent.cache.share(hq.manifest.clone());
    assert!(
        timeout(Duration::from_secs(3), complete.wait_for(|c| *c))
            .await
            .is_err()
    );
    assert_eq!(agent.cache.held(&hq.manifest.digest()), Some((0, 3)));
    assert!(node.sent_bytes() < 20_000, "{}", node.sent_bytes());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_wait_until_somebody_says_yes() {
    let hq = Hq::new(3, None);
    let mut site = Site::new(hq.keys());
    let wait = hq.channel(1, |c| c.unknown = UnknownRule::Wait);
    site.learn(&Documents {
        channel: Some(wait),
        orders: vec![hq.order(1, false)],
        ..Documents::default()
    });
    let node = start(&hq, Role::Node, false, site, true);
    node.cache.share(hq.manifest.clone());
    let mut agent = agent(&hq);
    let key = agent
        .cache
        .dial(node.cache.local_addr().unwrap())
        .await
        .unwrap();
    agent.cache.ask_admission(&key, wish(9));
    assert!(matches!(
        agent.admission().await,
        AdmissionAnswer::Wait { .. }
    ));
    node.cache.learn(&Documents {
        roster: Some(hq.roster(1, &[facts(9)])),
        ..Documents::default()
    });
    let AdmissionAnswer::Granted { proof, .. } = agent.admission().await else {
        panic!("not granted")
    };
    agent.cache.set_ticket(proof);
    agent.download(&hq).await;
    agent.check(&hq);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_with_a_flipped_bit_is_cut_off_and_named() {
    let hq = Hq::new(8, None);
    let mut liar = node(&hq, true);
    // behind the slab's back, after the slab has hashed the records: in every one, since nobody knows which is asked for
    for record in &hq.manifest.chunks {
        liar.slab.read(record).unwrap();
    }
    let file = File::options()
        .write(true)
        .open(liar.folder.path().join("slab"))
        .unwrap();
    for page in 1..file.metadata().unwrap().len() / 4096 {
        file.write_all_at(&[0xff; 9], page * 4096 + 128 + 1000)
            .unwrap();
    }
    // so slow that the liar is asked too, however busy this computer is
    let honest = node_giving(&hq, 1 << 20);
    let mut agent = agent(&hq);
    let proof = agent.be_admitted(&liar, 1).await;
    agent
        .cache
        .dial(honest.cache.local_addr().unwrap())
        .await
        .unwrap();
    agent.cache.set_ticket(proof);
    agent.download(&hq).await;
    agent.check(&hq);
    let accused = async {
        loop {
            if let Event::Accused { key, chunk, .. } = agent.events.recv().await.unwrap() {
                return (key, chunk);
            }
        }
    };
    let (key, chunk) = timeout(PATIENCE, accused).await.unwrap();
    assert_eq!((key, chunk.is_some()), (liar.cache.key(), true));
    let again = agent.cache.dial(liar.cache.local_addr().unwrap()).await;
    assert!(again.is_err(), "it is not talked to again");
    liar.events.close();
}

/// A node that is killed in the middle of a write finds out when somebody asks for the chunk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_kill_left_half_written_is_fetched_again() {
    let hq = Hq::new(8, None);
    let folder = {
        let whole = node(&hq, true);
        whole.slab.sync().unwrap();
        whole.cache.close().await;
        whole.folder
    };
    let file = File::options()
        .write(true)
        .open(folder.path().join("slab"))
        .unwrap();
    file.write_all_at(&[0; 2000], 4096 + 128 + 500).unwrap();
    let identity = Identity::generate().unwrap();
    let again = start_on(folder, &hq, Role::Node, true, hq.site(), false, identity);
    again.cache.share(hq.manifest.clone());
    let mut agent = agent(&hq);
    agent.be_admitted(&again, 1).await;
    agent.download(&hq).await;
    agent.check(&hq);
    let damaged = u64::from(hq.manifest.chunks[0].object_bytes);
    assert_eq!(hq.sent.load(Ordering::Relaxed), damaged, "and nothing else");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_death_of_the_admitting_node_ends_nothing() {
    let hq = Hq::new(40, None);
    let first = node(&hq, true);
    let second = node(&hq, true);
    second
        .cache
        .dial(first.cache.local_addr().unwrap())
        .await
        .unwrap();
    let mut agent = agent(&hq);
    agent.be_admitted(&first, 1).await;
    let manifest = agent.cache.manifest(hq.manifest.digest()).await.unwrap();
    let mut complete = agent.cache.share(manifest);
    while agent.cache.held(&hq.manifest.digest()).unwrap().0 < 5 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    first.cache.close().await;
    drop(first);
    timeout(PATIENCE, complete.wait_for(|c| *c))
        .await
        .expect("goes on from the other")
        .unwrap();
    agent.check(&hq);
}

/// Admitted by one node while it was being greeted by another, an agent was a stranger to that one for good.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ticket_that_comes_in_the_middle_of_a_greeting_is_shown() {
    let hq = Hq::new(1, None);
    // it admits, and has nothing to give
    let first = start(&hq, Role::Node, false, hq.site(), false);
    let second = node(&hq, true);
    let digest = hq.manifest.digest();
    for n in 0..40 {
        let mut agent = agent(&hq);
        let admitting = agent.cache.dial(first.cache.local_addr().unwrap());
        let admitting = admitting.await.unwrap();
        agent.cache.ask_admission(&admitting, wish(1));
        let AdmissionAnswer::Granted { proof, .. } = agent.admission().await else {
            panic!("not granted")
        };
        let granted = async {
            tokio::time::sleep(Duration::from_micros(100 * n)).await;
            agent.cache.set_ticket(proof);
        };
        let address = second.cache.local_addr().unwrap();
        tokio::join!(agent.cache.dial(address), granted).0.ok();
        let served = async {
            loop {
                if let Ok(manifest) = agent.cache.manifest(digest).await {
                    break agent.cache.share(manifest);
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let mut complete = timeout(PATIENCE, served).await.expect("a manifest");
        let complete = timeout(PATIENCE, complete.wait_for(|c| *c)).await;
        complete.expect("the second knows of its ticket").unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_another_chain_or_site_is_refused() {
    let (hq, other) = (Hq::new(1, None), Hq::new(1, None));
    let (ours, theirs) = (node(&hq, true), node(&other, true));
    // whoever notices first closes, and says why
    let error = ours
        .cache
        .dial(theirs.cache.local_addr().unwrap())
        .await
        .unwrap_err();
    assert!(format!("{error:?}").contains("not signed"), "{error:?}");
    assert!(ours.cache.peers().is_empty() && theirs.cache.peers().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_node_is_cut_off() {
    let hq = Hq::new(1, None);
    let (a, b) = (node(&hq, true), node(&hq, true));
    a.cache.dial(b.cache.local_addr().unwrap()).await.unwrap();
    let revoke = hq.channel(2, |c| {
        c.revoked = vec![b.cache.key()];
        c.revocation = 1;
    });
    a.cache.learn(&Documents {
        channel: Some(revoke),
        ..Documents::default()
    });
    let gone = async {
        while !a.cache.peers().is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, gone).await.unwrap();
    let error = a
        .cache
        .dial(b.cache.local_addr().unwrap())
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("revoked"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_is_spent_and_all_nodes_hear_of_it() {
    let hq = Hq::new(1, None);
    let (a, b) = (node(&hq, true), node(&hq, true));
    a.cache.dial(b.cache.local_addr().unwrap()).await.unwrap();
    let mut agent = agent(&hq);
    let proof = agent.be_admitted(&a, 7).await;
    let completion = Completion {
        machine: facts(7).id().unwrap(),
        order: 1,
        image: hq.manifest.digest(),
        node: None,
        ticket: proof.ticket,
        issuer: proof.issuer,
        issuers_issuer: proof.issuers_issuer,
    };
    agent
        .cache
        .tell_completion(&agent.cache.identity().sign(&completion));
    let heard = async {
        while b
            .cache
            .site(|s| s.book().completed(&facts(7).id().unwrap()).count())
            == 0
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, heard).await.unwrap();
    let mut replay = another_agent(&hq);
    let key = replay
        .cache
        .dial(b.cache.local_addr().unwrap())
        .await
        .unwrap();
    replay.cache.ask_admission(&key, wish(7));
    assert_eq!(replay.admission().await, AdmissionAnswer::Done { order: 1 });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provisional_node_admits_and_certifies_nobody() {
    let hq = Hq::new(2, None);
    let a = node(&hq, true);
    let mut agent = agent(&hq);
    agent.be_admitted(&a, 1).await;
    let b_key = Identity::generate().unwrap();
    agent.cache.ask_certificate(&a.cache.key(), b_key.public());
    let (certificate, issuer) = loop {
        let event = timeout(PATIENCE, agent.events.recv()).await.unwrap();
        if let Event::Certificate {
            certificate,
            issuer,
        } = event.unwrap()
        {
            break (certificate, issuer);
        }
    };
    let b = start_as(&hq, Role::Node, false, hq.site(), true, b_key);
    b.cache.set_credentials(Credentials::Node {
        certificate,
        issuer,
    });
    b.cache.share(hq.manifest.clone());
    let mut next = another_agent(&hq);
    next.be_admitted(&b, 2).await;
    next.download(&hq).await;
    next.check(&hq);
    next.cache
        .ask_certificate(&b.cache.key(), PublicKey([5; 32]));
    loop {
        match timeout(PATIENCE, next.events.recv())
            .await
            .unwrap()
            .unwrap()
        {
            Event::NotCertified { reason, .. } => {
                assert!(reason.contains("provisionally"), "{reason}");
                break;
            }
            Event::Certificate { .. } => panic!("one step deep"),
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_documents_and_withdrawn_manifests_are_refused() {
    let hq = Hq::new(1, None);
    let mut site = hq.site();
    let newer = site.learn(&Documents {
        channel: Some(hq.channel(3, |c| c.release_floor = 6)),
        ..Documents::default()
    });
    assert!(newer.channel);
    let older = site.learn(&Documents {
        channel: Some(hq.channel(2, |_| {})),
        ..Documents::default()
    });
    assert!(
        !older.channel && older.refused[0].contains("older"),
        "{:?}",
        older.refused
    );
    let error = site
        .accept_manifest(&hq.manifest.digest(), hq.manifest.as_bytes())
        .unwrap_err()
        .to_string();
    assert!(error.contains("below the site's floor 6"), "{error}");
    let elsewhere = site.learn(&Documents {
        channel: Some(hq.channel(9, |c| c.site = SiteId([9; 16]))),
        ..Documents::default()
    });
    assert!(!elsewhere.channel);
    let stranger = Hq::new(1, None);
    let forged = site.learn(&Documents {
        channel: Some(stranger.channel(10, |_| {})),
        orders: vec![stranger.order(5, true)],
        ..Documents::default()
    });
    assert!(!forged.is_news() && forged.refused.len() == 2);
}

#[test]
fn documents_are_there_after_a_restart() {
    let hq = Hq::new(1, None);
    let folder = TempDir::new().unwrap();
    let mut site = hq.site();
    site.save_to(folder.path()).unwrap();
    site.learn(&Documents {
        orders: vec![hq.order(2, true)],
        ..Documents::default()
    });
    let again = Site::open(folder.path()).unwrap();
    assert_eq!(
        again.book().orders().map(|o| o.number).collect::<Vec<_>>(),
        [1, 2]
    );
    assert_eq!(again.channel().unwrap().number, 1);
    assert!(Site::open(Path::new("/nonexistent")).is_err());
    assert!(again.assigned().contains(&hq.manifest.digest()));
}
