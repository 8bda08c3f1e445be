//! Who is admitted, who stays it, and what ends a right: one test for each way to get more than one has.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ed25519_dalek::{Signer as _, SigningKey};
use peer_cache_node::{AdmissionWish, Event, Identity, Role, Site};
use peer_cache_proto::{
    tpm::TpmProof,
    wire::{AdmissionAnswer, Credentials, Documents, Frame, TicketProof},
};
use quinn::{RecvStream, SendStream};
use tokio::time::timeout;
use trust_format::{
    Completion, Document, Grade, KnownMachine, MachineId, NodeCertificate, PinRule, PublicKey,
    Root, Signature, SiteId, Ticket, TrustedKeys, UnknownRule,
};

use crate::{
    attacker::{Attacker, hello, outside, write},
    chain::*,
};

const BEACON_SECONDS: u64 = 2;
static BOOTS: AtomicU64 = AtomicU64::new(1);

/// An attacker's connection that has greeted with whatever it likes.
pub(crate) struct Raw {
    pub(crate) connection: quinn::Connection,
    send: SendStream,
    recv: RecvStream,
}

impl Raw {
    pub(crate) async fn greet(
        identity: &Identity,
        to: SocketAddr,
        credentials: Credentials,
    ) -> Self {
        let attacker = Attacker::with(identity, outside(7));
        let connection = attacker.connect(to).await.unwrap();
        let (mut send, recv) = connection.open_bi().await.unwrap();
        // as after a restart: the node may not have seen the end of an earlier connection of this key
        let boot = BOOTS.fetch_add(1, Ordering::Relaxed);
        let hello = Frame::Hello(hello(boot, credentials));
        for frame in [hello, Frame::Documents(Documents::default())] {
            write(&mut send, &frame).await.unwrap();
        }
        // the endpoint has to outlive the connection
        std::mem::forget(attacker);
        Self {
            connection,
            send,
            recv,
        }
    }

    pub(crate) async fn say(&mut self, frame: &Frame) {
        write(&mut self.send, frame).await.unwrap();
    }

    async fn ask(&mut self, n: u8, finished: Vec<u64>) {
        let asked = Frame::AdmitMe {
            facts: facts(n),
            wish: None,
            finished,
            pin: None,
            tpm: None,
        };
        self.say(&asked).await;
    }

    /// The next answer to a wish; nothing when the connection ends.
    pub(crate) async fn answer(&mut self) -> Option<AdmissionAnswer> {
        loop {
            let mut length = [0; 4];
            let read = timeout(PATIENCE, self.recv.read_exact(&mut length));
            read.await.expect("an answer in time").ok()?;
            let mut frame = vec![0; u32::from_le_bytes(length) as usize];
            self.recv.read_exact(&mut frame).await.ok()?;
            if let Ok(Frame::Admission(answer)) = Frame::from_bytes(&frame) {
                return Some(answer);
            }
        }
    }
}

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

pub(crate) async fn gets_manifest(raw: &Raw, hq: &Hq) -> bool {
    use peer_cache_proto::wire::{ANSWER_BYTES, Answer, Ask, Request};
    let request = Request {
        manifest: hq.manifest.digest(),
        ask: Ask::Manifest,
    };
    // a member's right may be a moment behind its greeting
    for _ in 0..20 {
        let Ok((mut send, mut recv)) = raw.connection.open_bi().await else {
            return false;
        };
        send.write_all(&request.to_bytes()).await.unwrap();
        send.finish().unwrap();
        let mut head = [0; ANSWER_BYTES];
        if recv.read_exact(&mut head).await.is_err() {
            return false;
        }
        if matches!(Answer::from_bytes(&head, 1 << 20), Ok(Answer::Found { .. })) {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    false
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

fn pin_site(hq: &Hq, pin: &str, number: u64, uses: u16) -> Documents {
    let salt = [3; 16];
    let rule = PinRule {
        number,
        uses,
        life_hours: 24,
        salt,
        hash: PinRule::hash(pin, &salt).unwrap(),
    };
    Documents {
        channel: Some(hq.channel(2, |c| c.unknown = UnknownRule::Pin)),
        roster: Some(hq.roster_of(number, vec![], Some(rule))),
        ..Documents::default()
    }
}

async fn typed(agent: &mut Member, at: &Member, n: u8, pin: Option<&str>) -> AdmissionAnswer {
    let address = at.cache.local_addr().unwrap();
    // connected already, or now
    let _ = agent.cache.dial(address).await;
    let wish = AdmissionWish {
        pin: pin.map(str::to_owned),
        ..wish(n)
    };
    agent.cache.ask_admission(&at.cache.key(), wish);
    agent.admission().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_pin_admits_as_often_as_it_may() {
    let hq = Hq::new(2, None);
    let (a, b) = (node(&hq, true), node(&hq, true));
    a.cache.dial(b.cache.local_addr().unwrap()).await.unwrap();
    a.cache.learn(&pin_site(&hq, "471147", 1, 2));
    let known = async {
        while b.cache.site(|s| s.roster().is_none()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, known).await.unwrap();
    let mut first = agent(&hq);
    let asked = typed(&mut first, &a, 1, None).await;
    assert!(matches!(asked, AdmissionAnswer::Pin { .. }), "{asked:?}");
    let AdmissionAnswer::Granted { proof, .. } = typed(&mut first, &a, 1, Some("471147")).await
    else {
        panic!("the PIN admits")
    };
    first.cache.set_ticket(proof);
    first.download(&hq).await;
    let mut second = agent(&hq);
    let granted = typed(&mut second, &b, 2, Some("471147")).await;
    assert!(matches!(granted, AdmissionAnswer::Granted { .. }));
    // used at two nodes, it is used up at both
    tokio::time::sleep(Duration::from_millis(300)).await;
    for node in [&a, &b] {
        let mut third = agent(&hq);
        let AdmissionAnswer::Pin { reason } = typed(&mut third, node, 3, Some("471147")).await
        else {
            panic!("it admits nobody more")
        };
        assert!(reason.contains("as many machines"), "{reason}");
    }
}

/// Whoever tries at one node after the other, and after a restart, has five tries in all.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_pin_is_not_guessed() {
    let hq = Hq::new(1, None);
    let folder = tempfile::TempDir::new().unwrap();
    let mut site = hq.site();
    site.save_to(folder.path()).unwrap();
    let a = start(&hq, Role::Node, false, site, true);
    let mut b = node(&hq, true);
    a.cache.dial(b.cache.local_addr().unwrap()).await.unwrap();
    a.cache.learn(&pin_site(&hq, "471147", 1, 9));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut guesser = agent(&hq);
    for n in 0..5 {
        let at = if n % 2 == 0 { &a } else { &b };
        let guess = format!("{n}00000");
        let answer = typed(&mut guesser, at, 3, Some(&guess)).await;
        assert!(matches!(answer, AdmissionAnswer::Pin { .. }), "{answer:?}");
        // the other node has to have heard
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    for node in [&a, &b] {
        let mut honest = agent(&hq);
        let AdmissionAnswer::Pin { reason } = typed(&mut honest, node, 4, Some("471147")).await
        else {
            panic!("it is locked")
        };
        assert!(reason.contains("locked"), "{reason}");
    }
    let told = async {
        loop {
            if let Event::WrongPin { is_locked, .. } = b.events.recv().await.unwrap() {
                return is_locked;
            }
        }
    };
    timeout(PATIENCE, told).await.expect("people are told");
    // a restart forgets no try
    a.cache.close().await;
    let again = start(
        &hq,
        Role::Node,
        false,
        Site::open(folder.path()).unwrap(),
        true,
    );
    let mut honest = agent(&hq);
    let answer = typed(&mut honest, &again, 4, Some("471147")).await;
    assert!(matches!(answer, AdmissionAnswer::Pin { .. }), "{answer:?}");
    // a person sets a new one: whoever waits is asked again
    again.cache.learn(&pin_site(&hq, "998877", 2, 9));
    let asked = honest.admission().await;
    assert!(matches!(asked, AdmissionAnswer::Pin { .. }), "{asked:?}");
    let answer = typed(&mut honest, &again, 4, Some("998877")).await;
    assert!(
        matches!(answer, AdmissionAnswer::Granted { .. }),
        "{answer:?}"
    );
}

/// A UUID is printed on boxes and copied by boards. Who has nothing else in common with the machine waits for a person.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copied_uuid_is_not_the_machine() {
    use peer_cache_proto::machine::MachineFacts;
    let hq = Hq::new(1, None);
    let node = node(&hq, true);
    let till = MachineFacts::new(Some([9; 16]), Some("S1"), &[[2, 0, 0, 0, 0, 9]], "till");
    let clone = MachineFacts::new(Some([9; 16]), Some("S2"), &[[2, 0, 0, 0, 0, 8]], "till");
    node.cache.learn(&Documents {
        roster: Some(hq.roster(1, std::slice::from_ref(&till))),
        ..Documents::default()
    });
    for (facts, is_till) in [(clone, false), (till, true)] {
        let mut agent = agent(&hq);
        let key = agent.cache.dial(node.cache.local_addr().unwrap()).await;
        let wish = AdmissionWish {
            facts,
            ..AdmissionWish::default()
        };
        agent.cache.ask_admission(&key.unwrap(), wish);
        match agent.admission().await {
            AdmissionAnswer::Granted { .. } => assert!(is_till),
            AdmissionAnswer::Wait { reason } => {
                assert!(!is_till && reason.contains("other signs"), "{reason}");
            }
            other => panic!("{other:?}"),
        }
    }
}

/// A TPM's key; its signatures are those of any other holder of it.
struct Chip(ring::signature::EcdsaKeyPair);

impl Chip {
    fn new() -> Self {
        use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
        let random = ring::rand::SystemRandom::new();
        let kind = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(kind, &random).unwrap();
        Self(EcdsaKeyPair::from_pkcs8(kind, pkcs8.as_ref(), &random).unwrap())
    }

    fn prove(&self, agent: &PublicKey) -> TpmProof {
        use ring::signature::KeyPair;
        let random = ring::rand::SystemRandom::new();
        let signature = self.0.sign(&random, &TpmProof::message(agent)).unwrap();
        TpmProof {
            public: self.0.public_key().as_ref()[1..].try_into().unwrap(),
            signature: signature.as_ref().try_into().unwrap(),
        }
    }
}

/// UUID, serial and MAC are copied. The TPM is not, and a proof of it is one agent's alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_known_tpm_outweighs_every_other_sign() {
    use peer_cache_proto::machine::MachineFacts;
    let hq = Hq::new(1, None);
    let node = node(&hq, true);
    let till = MachineFacts::new(Some([9; 16]), Some("S1"), &[[2, 0, 0, 0, 0, 9]], "till");
    let new_board = MachineFacts::new(Some([8; 16]), Some("S7"), &[[2, 0, 0, 0, 0, 7]], "till");
    let (chip, other) = (Chip::new(), Chip::new());
    let somebody = Identity::generate().unwrap().public();
    let known = KnownMachine {
        id: till.id().unwrap(),
        approved: true,
        signs: [till.strong_signs(), till.mac_signs()].concat(),
        tpm: chip.prove(&somebody).verify(&somebody).ok(),
        code: None,
    };
    let documents = Documents {
        roster: Some(hq.roster_of(1, vec![known], None)),
        ..Documents::default()
    };
    node.cache.learn(&documents);
    let mut waiting = 0;
    for n in 0..5 {
        let mut agent = agent(&hq);
        let key = agent.cache.dial(node.cache.local_addr().unwrap()).await;
        let me = agent.cache.key();
        let (facts, tpm) = match n {
            0 => (&till, None),
            1 => (&till, Some(other.prove(&me))),
            // overheard from another agent of the machine
            2 => (&till, Some(chip.prove(&somebody))),
            3 => (&till, Some(chip.prove(&me))),
            _ => (&new_board, Some(chip.prove(&me))),
        };
        let wish = AdmissionWish {
            facts: facts.clone(),
            tpm,
            ..AdmissionWish::default()
        };
        agent.cache.ask_admission(&key.unwrap(), wish);
        match agent.admission().await {
            AdmissionAnswer::Granted { proof, .. } => {
                assert!(n > 2, "row {n}");
                let ticket: Ticket = trust_format::peek(&proof.ticket).unwrap();
                assert_eq!(ticket.machine, till.id().unwrap());
            }
            AdmissionAnswer::Wait { reason } => {
                assert!(reason.contains("TPM"), "{reason}");
                waiting += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(waiting, 3);
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
