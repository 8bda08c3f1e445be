//! Which machine it is that asks, and the PIN that somebody types at it.

use std::time::Duration;

use peer_cache_node::{AdmissionWish, Event, Identity, Role, Site};
use peer_cache_proto::{
    machine::MachineFacts,
    tpm::TpmProof,
    wire::{AdmissionAnswer, Documents},
};
use tokio::time::timeout;
use trust_format::{KnownMachine, PinRule, PublicKey, Ticket, UnknownRule};

use crate::chain::*;

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
