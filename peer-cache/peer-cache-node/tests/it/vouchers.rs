//! What a voucher opens, how often, and what ends it.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use peer_cache_node::{AdmissionWish, Event, Identity, Role, Site};
use peer_cache_proto::wire::{AdmissionAnswer, Credentials, Documents, Frame, TicketProof};
use tokio::time::timeout;
use trust_format::{
    Grade, MachineId, NodeCertificate, PinRule, PublicKey, SiteId, Ticket, UnknownRule,
};

use crate::{
    chain::*,
    raw::{Raw, gets_manifest},
};

const PIN: &str = "0123456789";

fn voucher_of(key: PublicKey, machines: u16, order: Option<u64>) -> NodeCertificate {
    NodeCertificate {
        node: key,
        site: SITE,
        machine: MachineId([77; 16]),
        name: "van 3".into(),
        grade: Grade::Voucher { machines, order },
    }
}

fn certified(hq: &Hq, certificate: &NodeCertificate) -> Vec<u8> {
    hq.signer.certify(certificate).unwrap().as_bytes().to_vec()
}

fn pin() -> PinRule {
    let salt = [5; 16];
    PinRule {
        number: 1,
        uses: 9,
        life_hours: 0,
        salt,
        hash: PinRule::hash(PIN, &salt).unwrap(),
    }
}

/// A site where everybody waits for HQ.
fn waiting(hq: &Hq) -> Site {
    let mut site = Site::new(hq.keys());
    site.learn(&waiting_documents(hq));
    site
}

fn waiting_documents(hq: &Hq) -> Documents {
    Documents {
        channel: Some(hq.channel(1, |c| c.unknown = UnknownRule::Wait)),
        orders: vec![hq.order(1, false)],
        ..Documents::default()
    }
}

/// A laptop whose right is a voucher; it holds nothing of the image.
fn laptop(hq: &Arc<Hq>, identity: &Identity, certificate: Vec<u8>, site: Site) -> Member {
    let credentials = Credentials::Node {
        certificate,
        issuer: None,
    };
    node_like(hq, site, identity.clone(), |config| {
        config.credentials = credentials;
        config.voucher_pin = Some(pin());
    })
}

async fn asked(agent: &mut Member, at: &Member, n: u8, pin: Option<&str>) -> AdmissionAnswer {
    let _ = agent.cache.dial(at.cache.local_addr().unwrap()).await;
    let wish = AdmissionWish {
        pin: pin.map(str::to_owned),
        ..wish(n)
    };
    agent.cache.ask_admission(&at.cache.key(), wish);
    agent.admission().await
}

async fn admitted(agent: &mut Member, at: &Member, n: u8) -> TicketProof {
    match asked(agent, at, n, Some(PIN)).await {
        AdmissionAnswer::Granted { proof, .. } => proof,
        other => panic!("{n}: {other:?}"),
    }
}

/// By hand: a ticket of whoever has the key.
fn ticket(by: &Identity, agent: PublicKey, n: u8) -> Vec<u8> {
    by.sign(&Ticket {
        issuer: by.public(),
        issuer_boot: 99,
        issued: Duration::ZERO,
        life: Duration::from_secs(600),
        agent,
        machine: facts(n).id().unwrap(),
        site: SITE,
        order: 1,
    })
}

/// What a node says to an agent that shows a ticket; nothing when it holds.
async fn refusal(to: SocketAddr, proof: TicketProof, agent: &Identity) -> Option<String> {
    let credentials = Credentials::Agent {
        ticket: Some(proof),
    };
    let mut raw = Raw::greet(agent, to, credentials).await;
    let answer = timeout(Duration::from_millis(500), raw.answer()).await;
    raw.connection.close(0u32.into(), b"");
    match answer {
        Ok(Some(AdmissionAnswer::AskAgain { reason })) => Some(reason),
        Ok(other) => panic!("{other:?}"),
        Err(_) => None,
    }
}

/// Told of each other, two may dial at the same moment.
async fn be_connected(a: &Member, b: &Member) {
    let connected = || a.cache.peers().iter().any(|p| p.key == b.cache.key());
    if !connected() {
        let _ = a.cache.dial(b.cache.local_addr().unwrap()).await;
    }
    until(connected).await;
}

/// Its ticket opens what a node has: a moment after it was shown.
async fn be_served(agent: &Member, by: &Member, hq: &Hq) {
    be_connected(agent, by).await;
    let digest = hq.manifest.digest();
    let served = async {
        while agent.cache.manifest(digest).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, served).await.expect("a manifest");
    agent.download(hq).await;
    agent.check(hq);
}

async fn until(what: impl Fn() -> bool) {
    let happens = async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, happens).await.unwrap();
}

/// HQ is away, and the site's rule is to wait for it. Two machines get in by the PIN of the voucher, and one of them lights a third,
/// which counts as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_voucher_admits_its_machines_and_those_that_they_admit() {
    let hq = Hq::new(2, None);
    let till = start(&hq, Role::Node, false, waiting(&hq), true);
    till.cache.share(hq.manifest.clone());
    let identity = Identity::generate().unwrap();
    let certificate = certified(&hq, &voucher_of(identity.public(), 2, None));
    let van = laptop(&hq, &identity, certificate, waiting(&hq));
    let here = till.cache.local_addr().unwrap();
    van.cache.dial(here).await.unwrap();

    let mut first = agent(&hq);
    let AdmissionAnswer::Pin { reason } = asked(&mut first, &van, 1, None).await else {
        panic!("it asks for a PIN")
    };
    assert!(reason.contains("voucher's PIN"), "{reason}");
    let wrong = asked(&mut first, &van, 1, Some("9999999999")).await;
    assert!(matches!(wrong, AdmissionAnswer::Pin { .. }), "{wrong:?}");
    let proof = admitted(&mut first, &van, 1).await;
    first.cache.set_ticket(proof);
    be_served(&first, &till, &hq).await;

    let key = Identity::generate().unwrap();
    first.cache.ask_certificate(&van.cache.key(), key.public());
    let (certificate, issuer) = loop {
        let event = timeout(PATIENCE, first.events.recv()).await.unwrap();
        if let Event::Certificate {
            certificate,
            issuer,
        } = event.unwrap()
        {
            break (certificate, issuer);
        }
    };
    let lit = node_like(&hq, hq.site(), key, |config| {
        config.credentials = Credentials::Node {
            certificate,
            issuer,
        };
    });
    be_connected(&lit, &till).await;
    // the site that it was told of admits by itself: its ticket counts under the voucher all the same
    let mut second = agent(&hq);
    let proof = second.be_admitted(&lit, 2).await;
    be_served(&second, &till, &hq).await;
    assert!(proof.issuers_issuer.is_some());

    until(|| van.cache.machines_of_voucher(&identity.public()) == 2).await;
    let mut third = agent(&hq);
    let AdmissionAnswer::Wait { reason } = asked(&mut third, &van, 3, Some(PIN)).await else {
        panic!("it admits no third")
    };
    assert!(reason.contains("as many machines as it may, 2"), "{reason}");
    // those that it admitted are admitted again
    let mut again = agent(&hq);
    admitted(&mut again, &van, 1).await;
    // and whoever has the key and signs by himself gets nothing from others
    let thief = Identity::generate().unwrap();
    let proof = TicketProof {
        ticket: ticket(&identity, thief.public(), 9),
        issuer: certified(&hq, &voucher_of(identity.public(), 2, None)),
        issuers_issuer: None,
    };
    let reason = refusal(here, proof, &thief).await.expect("refused");
    assert!(reason.contains("as many machines as it may"), "{reason}");
}

/// A stick was copied. In each half of a store that is cut in two it admits its machines; when the halves meet, both know, people are
/// told, and neither copy admits anybody more.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_voucher_on_two_cut_off_halves_is_bounded_and_reported() {
    let hq = Hq::new(1, None);
    let identity = Identity::generate().unwrap();
    let certificate = certified(&hq, &voucher_of(identity.public(), 2, None));
    let mut halves = Vec::new();
    for half in 0..2u8 {
        let node = start(&hq, Role::Node, false, waiting(&hq), true);
        node.cache.share(hq.manifest.clone());
        let van = laptop(&hq, &identity, certificate.clone(), waiting(&hq));
        van.cache
            .dial(node.cache.local_addr().unwrap())
            .await
            .unwrap();
        for n in 1..3 {
            let mut agent = agent(&hq);
            admitted(&mut agent, &van, 10 * half + n).await;
        }
        until(|| node.cache.machines_of_voucher(&identity.public()) == 2).await;
        halves.push((node, van));
    }
    let [(mut a, van_a), (b, van_b)] = halves.try_into().ok().unwrap();
    a.cache.dial(b.cache.local_addr().unwrap()).await.unwrap();
    for node in [&a, &b] {
        until(|| node.cache.machines_of_voucher(&identity.public()) == 4).await;
    }
    let told = async {
        loop {
            if let Event::VoucherOverused {
                key,
                allowed,
                machines,
            } = a.events.recv().await.unwrap()
                && machines == 4
            {
                return (key, allowed);
            }
        }
    };
    let told = timeout(PATIENCE, told).await.expect("people are told");
    assert_eq!(told, (identity.public(), 2));
    // nor does its holder vouch for one more
    let here = a.cache.local_addr().unwrap();
    let accomplice = Identity::generate().unwrap();
    let proof = TicketProof {
        ticket: ticket(&identity, accomplice.public(), 40),
        issuer: certificate.clone(),
        issuers_issuer: None,
    };
    van_a.cache.close().await;
    let holder = Credentials::Node {
        certificate: certificate.clone(),
        issuer: None,
    };
    let mut holder = Raw::greet(&identity, here, holder).await;
    assert!(gets_manifest(&holder, &hq).await, "it is a node");
    let shown = Credentials::Agent {
        ticket: Some(proof.clone()),
    };
    holder.say(&Frame::Vouched(vec![shown])).await;
    until(|| a.cache.machines_of_voucher(&identity.public()) == 5).await;
    assert!(refusal(here, proof, &accomplice).await.is_some());
    for (node, van) in [(&a, None), (&b, Some(&van_b))] {
        if let Some(van) = van {
            let mut late = agent(&hq);
            let answer = asked(&mut late, van, 30, Some(PIN)).await;
            assert!(!matches!(answer, AdmissionAnswer::Granted { .. }));
        }
        let agent = Identity::generate().unwrap();
        for (n, holds) in [(1, true), (12, true), (31, false)] {
            let proof = TicketProof {
                ticket: ticket(&identity, agent.public(), n),
                issuer: certificate.clone(),
                issuers_issuer: None,
            };
            let refused = refusal(node.cache.local_addr().unwrap(), proof, &agent).await;
            assert_eq!(refused.is_none(), holds, "machine {n}: {refused:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_voucher_that_is_stale_or_not_for_this_opens_nothing() {
    let hq = Hq::new(1, None);
    let other_chain = Hq::new(1, None);
    let node = start(&hq, Role::Node, false, waiting(&hq), true);
    node.cache.share(hq.manifest.clone());
    let here = node.cache.local_addr().unwrap();
    let identity = Identity::generate().unwrap();
    let key = identity.public();
    let good = voucher_of(key, 4, Some(1));
    let elsewhere = NodeCertificate {
        site: SiteId([9; 16]),
        ..good.clone()
    };
    let below = Identity::generate().unwrap();
    let provisional = |order| {
        let grade = Grade::Provisional { issuer: key, order };
        identity.sign(&NodeCertificate {
            node: below.public(),
            grade,
            ..good.clone()
        })
    };
    let agent = Identity::generate().unwrap();
    let by = |signer: &Identity, issuer: Vec<u8>, issuers_issuer: Option<Vec<u8>>| TicketProof {
        ticket: ticket(signer, agent.public(), 1),
        issuer,
        issuers_issuer,
    };
    let holds = certified(&hq, &good);
    let rows = [
        ("honest", by(&identity, holds.clone(), None), ""),
        (
            "by a node that it certified",
            by(&below, provisional(1), Some(holds.clone())),
            "",
        ),
        (
            "of another site",
            by(&identity, certified(&hq, &elsewhere), None),
            "site",
        ),
        (
            "of another chain",
            by(&identity, certified(&other_chain, &good), None),
            "not signed",
        ),
        (
            "that its holder made himself",
            by(&identity, identity.sign(&good), None),
            "not signed",
        ),
        (
            "for another order",
            by(
                &identity,
                certified(&hq, &voucher_of(key, 4, Some(2))),
                None,
            ),
            "is for order 2",
        ),
        (
            "for another order, by a node that it certified",
            by(&below, provisional(2), Some(holds.clone())),
            "is for order 1",
        ),
    ];
    for (name, proof, reason) in rows {
        let refused = refusal(here, proof, &agent).await;
        match reason {
            "" => assert_eq!(refused, None, "{name}"),
            reason => {
                let refused = refused.unwrap_or_else(|| panic!("{name} is believed"));
                assert!(refused.contains(reason), "{name}: {refused}");
            }
        }
    }
    // revoked, it is void at once with all that came from it
    let credentials = Credentials::Agent {
        ticket: Some(by(&below, provisional(1), Some(holds.clone()))),
    };
    let served = Raw::greet(&agent, here, credentials).await;
    assert!(gets_manifest(&served, &hq).await);
    node.cache.learn(&Documents {
        channel: Some(hq.channel(2, |c| (c.revoked, c.revocation) = (vec![key], 1))),
        ..Documents::default()
    });
    let ended = timeout(Duration::from_secs(1), served.connection.closed()).await;
    assert!(ended.is_ok(), "its connection ends at once");
    let refused = refusal(here, by(&identity, holds, None), &agent).await;
    assert!(refused.is_some_and(|r| r.contains("revoked")));
    assert_eq!(node.cache.machines_of_voucher(&key), 0, "nobody is counted");
}

/// A laptop that is started again, a node that was away: neither forgets whom a voucher admitted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_forgets_no_machine() {
    let hq = Hq::new(1, None);
    let folder = tempfile::tempdir().unwrap();
    let identity = Identity::generate().unwrap();
    let certificate = certified(&hq, &voucher_of(identity.public(), 1, None));
    let mut site = waiting(&hq);
    site.save_to(folder.path()).unwrap();
    let van = laptop(&hq, &identity, certificate.clone(), site);
    admitted(&mut agent(&hq), &van, 1).await;
    van.cache.close().await;
    let again = |path: &Path| {
        laptop(
            &hq,
            &identity,
            certificate.clone(),
            Site::open(path).unwrap(),
        )
    };
    let van = again(folder.path());
    assert_eq!(van.cache.machines_of_voucher(&identity.public()), 1);
    let refused = asked(&mut agent(&hq), &van, 2, Some(PIN)).await;
    assert!(
        matches!(refused, AdmissionAnswer::Wait { .. }),
        "{refused:?}"
    );
    admitted(&mut agent(&hq), &van, 1).await;
}
