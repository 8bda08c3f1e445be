//! Who is admitted, who stays it, and what ends a right: one test for each way to get more than one has.

use std::{sync::Arc, time::Duration};

use ed25519_dalek::{Signer as _, SigningKey};
use peer_cache_node::{Identity, Role, Site};
use peer_cache_proto::wire::{AdmissionAnswer, Credentials, Documents, TicketProof};
use tokio::time::timeout;
use trust_format::{
    Completion, Document, Grade, MachineId, NodeCertificate, PublicKey, Root, Signature, SiteId,
    Ticket, TrustedKeys, UnknownRule,
};

use crate::{
    chain::*,
    raw::{Raw, gets_manifest},
};

const BEACON_SECONDS: u64 = 2;

fn ticket(
    issuer: &Member,
    identity: &Identity,
    agent: PublicKey,
    change: impl FnOnce(&mut Ticket),
) -> Vec<u8> {
    assert_eq!(issuer.cache.key(), identity.public());
    let mut ticket = Ticket {
        issuer: identity.public(),
        issuer_boot: 99,
        issued: Duration::ZERO,
        life: Duration::from_secs(600),
        agent,
        machine: facts(7).id().unwrap(),
        site: SITE,
        order: 1,
    };
    change(&mut ticket);
    identity.sign(&ticket)
}

fn shown(ticket: Vec<u8>, issuer: Vec<u8>, issuers_issuer: Option<Vec<u8>>) -> Credentials {
    Credentials::Agent {
        ticket: Some(TicketProof {
            ticket,
            issuer,
            issuers_issuer,
        }),
    }
}

/// A node whose key the test has, in a site that admits whom it knows.
fn strict_node(hq: &Arc<Hq>) -> (Member, Identity) {
    let identity = Identity::generate().unwrap();
    let node = start_as(hq, Role::Node, false, strict(hq), true, identity.clone());
    node.cache.share(hq.manifest.clone());
    (node, identity)
}

fn strict(hq: &Hq) -> Site {
    let mut site = Site::new(hq.keys());
    site.learn(&Documents {
        channel: Some(hq.channel(1, |c| c.unknown = UnknownRule::Wait)),
        orders: vec![hq.order(1, false)],
        ..Documents::default()
    });
    site
}

fn is_known_to_be_done(node: &Member, n: u8) -> bool {
    let machine = facts(n).id().unwrap();
    node.cache
        .site(|s| s.book().completed(&machine).count() > 0)
}

/// An agent with a ticket of its own could say of every till that its order is spent, with a ticket that it signed itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_admitted_agent_witnesses_for_no_other_machine() {
    let hq = Hq::new(1, None);
    let node = node(&hq, true);
    let mut agent = agent(&hq);
    let proof = agent.be_admitted(&node, 1).await;
    let me = agent.cache.identity();
    let own = NodeCertificate {
        node: me.public(),
        site: SITE,
        machine: facts(2).id().unwrap(),
        name: String::new(),
        grade: Grade::Certified,
    };
    let of_its_own = Ticket {
        issuer: me.public(),
        issuer_boot: 1,
        issued: Duration::ZERO,
        life: Duration::from_secs(60),
        agent: me.public(),
        machine: facts(2).id().unwrap(),
        site: SITE,
        order: 1,
    };
    let done = |n: u8, ticket: Vec<u8>, issuer: Vec<u8>| {
        me.sign(&Completion {
            machine: facts(n).id().unwrap(),
            order: 1,
            image: hq.manifest.digest(),
            node: None,
            ticket,
            issuer,
            issuers_issuer: None,
        })
    };
    let forged = [
        done(2, me.sign(&of_its_own), me.sign(&own)),
        done(2, me.sign(&of_its_own), proof.issuer.clone()),
        done(2, proof.ticket.clone(), proof.issuer.clone()),
    ];
    for completion in forged {
        agent.cache.tell_completion(&completion);
    }
    let honest = done(1, proof.ticket.clone(), proof.issuer.clone());
    agent.cache.tell_completion(&honest);
    let heard = async {
        while !is_known_to_be_done(&node, 1) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, heard).await.unwrap();
    assert!(!is_known_to_be_done(&node, 2), "told before the honest one");
}

/// Anybody may say that a disk has finished everything. It is believed for the one that says it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_strangers_word_about_a_disk_spends_nothing() {
    let hq = Hq::new(1, None);
    let node = node(&hq, true);
    let stranger = Identity::generate().unwrap();
    let nobody = Credentials::Agent { ticket: None };
    let mut raw = Raw::greet(&stranger, node.cache.local_addr().unwrap(), nobody).await;
    raw.ask(3, (1..500).collect()).await;
    assert_eq!(raw.answer().await, Some(AdmissionAnswer::Done { order: 1 }));
    assert!(!is_known_to_be_done(&node, 3));
    let mut till = agent(&hq);
    till.be_admitted(&node, 3).await;
}

/// One row of the table: credentials, and whether objects are served for them.
struct Row {
    name: &'static str,
    credentials: Credentials,
    served: bool,
}

/// Every ticket that is not what it says is no ticket, and the agent is told to ask anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ticket_that_does_not_hold_opens_nothing() {
    let hq = Hq::new(1, None);
    let (node, identity) = strict_node(&hq);
    let certificate = hq.certificate(identity.public());
    let agent = Identity::generate().unwrap();
    let key = agent.public();
    let stranger = Identity::generate().unwrap();
    let of = |change: &dyn Fn(&mut Ticket)| ticket(&node, &identity, key, change);
    let elsewhere = {
        let certificate = NodeCertificate {
            node: stranger.public(),
            site: SiteId([9; 16]),
            machine: MachineId([9; 16]),
            name: String::new(),
            grade: Grade::Certified,
        };
        hq.signer.certify(&certificate).unwrap().as_bytes().to_vec()
    };
    let by_stranger = stranger.sign(&Ticket {
        issuer: stranger.public(),
        issuer_boot: 1,
        issued: Duration::ZERO,
        life: Duration::from_secs(60),
        agent: key,
        machine: facts(7).id().unwrap(),
        site: SITE,
        order: 1,
    });
    let provisional = identity.sign(&NodeCertificate {
        node: stranger.public(),
        site: SITE,
        machine: MachineId([4; 16]),
        name: String::new(),
        grade: Grade::Provisional {
            issuer: identity.public(),
            order: 1,
        },
    });
    let mut flipped = of(&|_| {});
    let last = flipped.len() - 1;
    flipped[last] ^= 1;
    let plain = |ticket| shown(ticket, certificate.clone(), None);
    let rows = [
        Row {
            name: "honest",
            credentials: plain(of(&|_| {})),
            served: true,
        },
        Row {
            name: "of a provisional node",
            credentials: shown(
                by_stranger.clone(),
                provisional.clone(),
                Some(certificate.clone()),
            ),
            served: true,
        },
        Row {
            name: "none",
            credentials: Credentials::Agent { ticket: None },
            served: false,
        },
        Row {
            name: "flipped",
            credentials: plain(flipped),
            served: false,
        },
        Row {
            name: "another agent's",
            credentials: plain(of(&|t| t.agent = stranger.public())),
            served: false,
        },
        Row {
            name: "another site's",
            credentials: plain(of(&|t| t.site = SiteId([9; 16]))),
            served: false,
        },
        Row {
            name: "of a node of another site",
            credentials: shown(by_stranger.clone(), elsewhere, None),
            served: false,
        },
        Row {
            name: "of nobody",
            credentials: shown(by_stranger.clone(), certificate.clone(), None),
            served: false,
        },
        Row {
            name: "of a provisional node without its issuer",
            credentials: shown(by_stranger, provisional, None),
            served: false,
        },
        Row {
            name: "over",
            credentials: plain(of(&|t| t.life = Duration::ZERO)),
            served: false,
        },
        Row {
            name: "noise",
            credentials: plain(vec![7; 200]),
            served: false,
        },
    ];
    let address = node.cache.local_addr().unwrap();
    for row in rows {
        let mut raw = Raw::greet(&agent, address, row.credentials.clone()).await;
        let is_told =
            !row.served && !matches!(row.credentials, Credentials::Agent { ticket: None });
        if is_told {
            let answer = raw.answer().await;
            let again = matches!(answer, Some(AdmissionAnswer::AskAgain { .. }));
            assert!(again, "{}: {answer:?}", row.name);
        }
        assert_eq!(gets_manifest(&raw, &hq).await, row.served, "{}", row.name);
        raw.connection.close(0u32.into(), b"");
    }
}

/// The site admits nobody by itself here: what renews the ticket is the ticket.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ticket_that_lapsed_is_renewed_without_a_human_and_one_that_is_long_over_is_not() {
    let hq = Hq::new(1, None);
    let (node, identity) = strict_node(&hq);
    let certificate = hq.certificate(identity.public());
    let agent = Identity::generate().unwrap();
    let address = node.cache.local_addr().unwrap();
    let life = Duration::from_millis(600);
    let short = ticket(&node, &identity, agent.public(), |t| t.life = life);
    let credentials = shown(short, certificate.clone(), None);
    let first = Raw::greet(&agent, address, credentials.clone()).await;
    assert!(gets_manifest(&first, &hq).await);
    first.connection.close(0u32.into(), b"");
    tokio::time::sleep(life + Duration::from_millis(50)).await;
    let mut lapsed = Raw::greet(&agent, address, credentials.clone()).await;
    assert!(matches!(
        lapsed.answer().await,
        Some(AdmissionAnswer::AskAgain { .. })
    ));
    assert!(!gets_manifest(&lapsed, &hq).await);
    // as another machine it is nobody
    lapsed.ask(8, vec![]).await;
    assert!(matches!(
        lapsed.answer().await,
        Some(AdmissionAnswer::Wait { .. })
    ));
    lapsed.ask(7, vec![]).await;
    assert!(matches!(
        lapsed.answer().await,
        Some(AdmissionAnswer::Granted { .. })
    ));
    assert!(gets_manifest(&lapsed, &hq).await);
    lapsed.connection.close(0u32.into(), b"");
    tokio::time::sleep(life * 2).await;
    let mut over = Raw::greet(&agent, address, credentials).await;
    assert!(matches!(
        over.answer().await,
        Some(AdmissionAnswer::AskAgain { .. })
    ));
    over.ask(7, vec![]).await;
    assert!(matches!(
        over.answer().await,
        Some(AdmissionAnswer::Wait { .. })
    ));
}

/// A node that is revoked takes the tickets along that it gave, and those of the nodes that it certified; none is renewed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_issuers_tickets_end_with_it() {
    let hq = Hq::new(1, None);
    let (node, _) = strict_node(&hq);
    let address = node.cache.local_addr().unwrap();
    let (revoked, below) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let certificate = hq.certificate(revoked.public());
    let provisional = revoked.sign(&NodeCertificate {
        node: below.public(),
        site: SITE,
        machine: MachineId([4; 16]),
        name: String::new(),
        grade: Grade::Provisional {
            issuer: revoked.public(),
            order: 1,
        },
    });
    let agents = [Identity::generate().unwrap(), Identity::generate().unwrap()];
    let given = |by: &Identity, agent: &Identity| {
        by.sign(&Ticket {
            issuer: by.public(),
            issuer_boot: 1,
            issued: Duration::ZERO,
            life: Duration::from_secs(600),
            agent: agent.public(),
            machine: facts(7).id().unwrap(),
            site: SITE,
            order: 1,
        })
    };
    let credentials = [
        shown(given(&revoked, &agents[0]), certificate.clone(), None),
        shown(given(&below, &agents[1]), provisional, Some(certificate)),
    ];
    let mut raws = Vec::new();
    for (agent, shown) in agents.iter().zip(&credentials) {
        let raw = Raw::greet(agent, address, shown.clone()).await;
        assert!(gets_manifest(&raw, &hq).await);
        raws.push(raw);
    }
    let revoke = hq.channel(2, |c| {
        c.unknown = UnknownRule::Wait;
        (c.revoked, c.revocation) = (vec![revoked.public()], 1);
    });
    node.cache.learn(&Documents {
        channel: Some(revoke),
        ..Documents::default()
    });
    for raw in raws {
        let ended = timeout(Duration::from_secs(1), raw.connection.closed()).await;
        assert!(ended.is_ok(), "its connection ends at once");
    }
    for (agent, shown) in agents.iter().zip(credentials) {
        let mut raw = Raw::greet(agent, address, shown).await;
        let Some(AdmissionAnswer::AskAgain { reason }) = raw.answer().await else {
            panic!("it is told")
        };
        assert!(reason.contains("revoked"), "{reason}");
        raw.ask(7, vec![]).await;
        assert!(matches!(
            raw.answer().await,
            Some(AdmissionAnswer::Wait { .. })
        ));
        assert!(!gets_manifest(&raw, &hq).await);
    }
}

/// HQ tells one node of five: within one beacon all know, nobody talks to the revoked one, and it gets no byte.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_of_five_hears_of_a_revocation_and_all_act_on_it() {
    let hq = Hq::new(1, None);
    let nodes: Vec<Member> = (0..5).map(|_| node(&hq, true)).collect();
    // with nothing, and nobody but these to have it from
    let revoked = start(&hq, Role::Node, false, hq.site(), false);
    for (n, a) in nodes.iter().enumerate() {
        for b in nodes[n + 1..].iter().chain([&revoked]) {
            // they hear of each other, and may be quicker
            let _ = a.cache.dial(b.cache.local_addr().unwrap()).await;
        }
    }
    let met = async {
        while nodes.iter().any(|m| m.cache.peers().len() < 5) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, met).await.unwrap();
    let channel = hq.channel(2, |c| {
        (c.revoked, c.revocation) = (vec![revoked.cache.key()], 1)
    });
    nodes[3].cache.learn(&Documents {
        channel: Some(channel),
        ..Documents::default()
    });
    let all_act = async {
        let acts = |m: &Member| {
            let knows = m.cache.site(|s| s.channel().unwrap().revocation) == 1;
            knows && m.cache.peers().iter().all(|p| p.key != revoked.cache.key())
        };
        while !nodes.iter().all(acts) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let within = timeout(Duration::from_secs(BEACON_SECONDS), all_act);
    within.await.expect("within one beacon");
    for node in &nodes {
        let dialled = revoked.cache.dial(node.cache.local_addr().unwrap()).await;
        // it may believe for a moment that it was let in
        drop(dialled);
    }
    let alone = async {
        while !revoked.cache.peers().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, alone).await.expect("nobody keeps it");
    let mut complete = revoked.cache.share(hq.manifest.clone());
    let never = timeout(Duration::from_secs(1), complete.wait_for(|c| *c)).await;
    assert!(never.is_err());
    assert_eq!(revoked.cache.held(&hq.manifest.digest()), Some((0, 1)));
}

/// The halves of a store heard different things; when they meet the higher number holds, whoever dials.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_halves_heal_to_the_higher_number() {
    let hq = Hq::new(1, None);
    let nodes: Vec<Member> = (0..4).map(|_| node(&hq, true)).collect();
    let dial = async |a: usize, b: usize| {
        let to = nodes[b].cache.local_addr().unwrap();
        nodes[a].cache.dial(to).await.unwrap();
    };
    dial(0, 1).await;
    dial(2, 3).await;
    let revoking = |number, n: u8| {
        let keys = (0..n).map(|k| PublicKey([k; 32])).collect();
        hq.channel(number, |c| (c.revoked, c.revocation) = (keys, n.into()))
    };
    for (n, number) in [(0, 2), (2, 3)] {
        nodes[n].cache.learn(&Documents {
            channel: Some(revoking(number, n as u8 + 1)),
            roster: Some(hq.roster(number, &[facts(number as u8)])),
            ..Documents::default()
        });
    }
    dial(1, 3).await;
    let healed = async {
        let knows = |m: &Member| {
            let of = |s: &Site| (s.channel().unwrap().number, s.channel().unwrap().revocation);
            let roster = m.cache.site(|s| s.roster().map_or(0, |r| r.number));
            m.cache.site(of) == (3, 3) && roster == 3
        };
        while !nodes.iter().all(knows) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let within = timeout(Duration::from_secs(BEACON_SECONDS), healed);
    within.await.expect("within one beacon");
}

fn root(number: u64, own: &SigningKey, before: &SigningKey, of: &TrustedKeys) -> Vec<u8> {
    let public = |key: &SigningKey| PublicKey(key.verifying_key().to_bytes());
    let root = Root {
        number,
        root_keys: vec![public(own)],
        ..(**of.root()).clone()
    };
    let bytes = root.to_signed_bytes();
    let signed = |key: &SigningKey| {
        let signature = Signature(key.sign(bytes.as_message()).to_bytes());
        (public(key), signature)
    };
    let signatures = vec![signed(own), signed(before)];
    bytes.clone().into_envelope(signatures).to_bytes()
}

/// Boot media carry the root of the year in which they were made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_boot_media_follow_two_rotations() {
    let hq = Hq::new(2, None);
    let keys: Vec<SigningKey> = (1..4).map(|n| SigningKey::from_bytes(&[n; 32])).collect();
    let [first, second, third] = [(1, 0, 0), (2, 1, 0), (3, 2, 1)]
        .map(|(number, own, before)| root(number, &keys[own], &keys[before], &hq.keys()));
    let folder = tempfile::TempDir::new().unwrap();
    let mut site = Site::new(TrustedKeys::pin(&first).unwrap());
    site.save_to(folder.path()).unwrap();
    let learned = site.learn(&Documents {
        roots: vec![first.clone(), second.clone(), third.clone()],
        channel: Some(hq.channel(1, |_| {})),
        orders: vec![hq.order(1, false)],
        ..Documents::default()
    });
    assert!(learned.refused.is_empty(), "{:?}", learned.refused);
    // what it followed is there after a restart
    let again = Site::open(folder.path()).unwrap();
    assert_eq!(
        again.public_documents().roots,
        [first.clone(), second.clone(), third.clone()]
    );
    let node = start(&hq, Role::Node, false, again, true);
    node.cache.share(hq.manifest.clone());
    // enrolled after the second rotation, it learned the way there from HQ
    let mut late = Site::new(TrustedKeys::pin(&third).unwrap());
    late.learn(&Documents {
        roots: vec![first.clone(), second.clone(), third.clone()],
        ..Documents::default()
    });
    assert_eq!(late.public_documents().roots.len(), 3);
    for media in [&first, &second, &third] {
        let media = Site::new(TrustedKeys::pin(media).unwrap());
        let mut agent = start(&hq, Role::Agent, false, media, false);
        agent.be_admitted(&node, 1).await;
        assert_eq!(agent.cache.site(|s| s.keys().unwrap().root().number), 3);
        agent.download(&hq).await;
        agent.check(&hq);
    }
    // back to an older one leads no way, nor does one that somebody made himself
    let mut newest = Site::new(TrustedKeys::pin(&third).unwrap());
    let forged = root(
        4,
        &SigningKey::from_bytes(&[66; 32]),
        &SigningKey::from_bytes(&[66; 32]),
        &hq.keys(),
    );
    let lone = root(
        2,
        &SigningKey::from_bytes(&[67; 32]),
        &SigningKey::from_bytes(&[67; 32]),
        &hq.keys(),
    );
    let learned = newest.learn(&Documents {
        roots: vec![lone, second, forged],
        ..Documents::default()
    });
    assert_eq!(newest.keys().unwrap().root().number, 3);
    assert_eq!(learned.refused.len(), 2, "{:?}", learned.refused);
    assert_eq!(
        newest.public_documents().roots.len(),
        2,
        "the true second one is kept"
    );
}
