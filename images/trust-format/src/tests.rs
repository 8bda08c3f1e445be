use std::time::Duration;

use ed25519_dalek::{Signer, SigningKey};
use proptest::prelude::*;

use crate::*;

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn public(key: &SigningKey) -> PublicKey {
    PublicKey(key.verifying_key().to_bytes())
}

fn sign<T: Document>(document: &T, signers: &[&SigningKey]) -> Vec<u8> {
    let bytes = document.to_signed_bytes();
    let signatures = signers
        .iter()
        .map(|k| (public(k), Signature(k.sign(bytes.as_message()).to_bytes())))
        .collect();
    bytes.into_envelope(signatures).to_bytes()
}

const ROOT: u8 = 1;
const IMAGE: u8 = 2;
const ORDER: u8 = 3;
const AUTHORITY: u8 = 4;
const NODE_A: u8 = 5;
const NODE_B: u8 = 6;
const AGENT: u8 = 7;
const SITE: SiteId = SiteId([9; 16]);
const GOLDEN_PIN: &str = "05270b367e0920a2";
const GOLDEN_DOCUMENTS: &str = "
root efd18ac130f2a1f6
channel 85302b43d1177be4
order b083cdff6d63a4ce
certified ef37c339703b53ab
provisional 5d40b37e3e9bca66
voucher 37aaceeb54dc8c59
ticket 774c893c48a4b1ff
completion f36a9fae7bb2fd2a
roster fa66334c4d7fb936";

fn root(number: u64) -> Root {
    Root {
        number,
        threshold: 1,
        root_keys: vec![public(&key(ROOT))],
        image_keys: vec![public(&key(IMAGE))],
        order_keys: vec![public(&key(ORDER))],
        authority_keys: vec![public(&key(AUTHORITY))],
    }
}

fn keys() -> TrustedKeys {
    TrustedKeys::pin(&sign(&root(1), &[&key(ROOT)])).unwrap()
}

fn channel() -> Channel {
    Channel {
        site: SITE,
        site_name: "Graz Süd".into(),
        number: 7,
        image: Some(Digest([1; 32])),
        bundle: None,
        release_floor: 3,
        revocation: 2,
        revoked: vec![public(&key(99))],
        unknown: UnknownRule::Admit,
        provisional: true,
        hq: HqContact {
            urls: vec!["https://hq.example:8443".into()],
            fingerprint: [8; 32],
        },
    }
}

fn certificate(node: u8, grade: Grade) -> NodeCertificate {
    NodeCertificate {
        node: public(&key(node)),
        site: SITE,
        machine: MachineId([node; 16]),
        name: format!("till-{node}"),
        grade,
    }
}

fn provisional(node: u8, issuer: u8) -> NodeCertificate {
    let issuer = public(&key(issuer));
    certificate(node, Grade::Provisional { issuer, order: 5 })
}

fn ticket(issuer: u8) -> Ticket {
    Ticket {
        issuer: public(&key(issuer)),
        issuer_boot: 3,
        issued: Duration::from_secs(100),
        life: ticket_life::GIVEN,
        agent: public(&key(AGENT)),
        machine: MachineId([7; 16]),
        site: SITE,
        order: 5,
    }
}

#[test]
fn a_document_survives_the_wire() {
    let bytes = sign(&channel(), &[&key(ORDER)]);
    let back: Verified<Channel> = Verified::check(&bytes, &keys()).unwrap();
    assert_eq!(*back, channel());
    assert_eq!(back.as_bytes(), bytes);
}

#[test]
fn only_the_right_role_signs() {
    for wrong in [ROOT, IMAGE, AUTHORITY, NODE_A, 200] {
        let bytes = sign(&channel(), &[&key(wrong)]);
        assert!(matches!(
            Verified::<Channel>::check(&bytes, &keys()),
            Err(VerifyDocumentError::NotSigned { .. })
        ));
    }
    // a wrong signature beside the right one does no harm
    let bytes = sign(&channel(), &[&key(200), &key(ORDER)]);
    assert!(Verified::<Channel>::check(&bytes, &keys()).is_ok());
}

#[test]
fn one_kind_never_passes_for_another() {
    let order = Order {
        site: SITE,
        number: 1,
        image: Digest([0; 32]),
        machine: None,
        erase: true,
    };
    let bytes = sign(&order, &[&key(ORDER)]);
    assert!(matches!(
        Verified::<Channel>::check(&bytes, &keys()),
        Err(VerifyDocumentError::WrongKind { .. })
    ));
}

#[test]
fn damaged_documents_are_refused_at_every_byte() {
    let bytes = sign(&channel(), &[&key(ORDER)]);
    for at in 0..bytes.len() {
        assert!(Verified::<Channel>::check(&bytes[..at], &keys()).is_err());
        for flip in [1u8, 0x80, 0xff] {
            let mut bad = bytes.clone();
            bad[at] ^= flip;
            assert!(
                Verified::<Channel>::check(&bad, &keys()).is_err(),
                "byte {at}"
            );
        }
    }
    let mut long = bytes.clone();
    long.push(0);
    assert!(Verified::<Channel>::check(&long, &keys()).is_err());
}

#[test]
fn roots_only_go_forward_and_by_both_keys() {
    let first = keys();
    let mut next = root(2);
    next.root_keys = vec![public(&key(50))];
    let by_new = sign(&next, &[&key(50)]);
    assert!(matches!(
        first.advance(&by_new),
        Err(TrustRootError::TooFewSignatures {
            whose: "the trusted root's",
            ..
        })
    ));
    let by_both = sign(&next, &[&key(50), &key(ROOT)]);
    let second = first.advance(&by_both).unwrap();
    assert_eq!(second.root().number, 2);
    // back to the first, with all its signatures
    assert!(
        second
            .advance(&sign(&root(1), &[&key(ROOT), &key(50)]))
            .is_err()
    );
    let older = sign(&root(1), &[&key(ROOT)]);
    let again = TrustedKeys::pin(&sign(&root(5), &[&key(ROOT)])).unwrap();
    assert_eq!(
        again.advance(&older).unwrap_err(),
        TrustRootError::Older {
            offered: 1,
            trusted: 5
        }
    );
}

#[test]
fn a_root_needs_its_threshold() {
    let mut two_of_two = root(1);
    two_of_two.root_keys.push(public(&key(51)));
    two_of_two.threshold = 2;
    assert!(TrustedKeys::pin(&sign(&two_of_two, &[&key(ROOT)])).is_err());
    // the same key twice is one signature
    assert!(TrustedKeys::pin(&sign(&two_of_two, &[&key(ROOT), &key(ROOT)])).is_err());
    assert!(TrustedKeys::pin(&sign(&two_of_two, &[&key(ROOT), &key(51)])).is_ok());
    let mut none = root(1);
    none.threshold = 0;
    assert!(TrustedKeys::pin(&sign(&none, &[&key(ROOT)])).is_err());
}

fn check(
    node: u8,
    document: &[u8],
    issuer: Option<&[u8]>,
    channel: &Channel,
) -> Result<CheckedNode, CheckNodeError> {
    CheckedNode::check(&public(&key(node)), document, issuer, &keys(), channel)
}

#[test]
fn nodes_are_believed_one_step_deep() {
    let a = sign(&certificate(NODE_A, Grade::Certified), &[&key(AUTHORITY)]);
    let b = sign(&provisional(NODE_B, NODE_A), &[&key(NODE_A)]);
    let c = sign(&provisional(20, NODE_B), &[&key(NODE_B)]);
    assert!(check(NODE_A, &a, None, &channel()).unwrap().may_certify());
    assert!(
        !check(NODE_B, &b, Some(&a), &channel())
            .unwrap()
            .may_certify()
    );
    assert!(check(NODE_B, &b, None, &channel()).is_err());
    assert!(check(20, &c, Some(&b), &channel()).is_err());
    // a stolen certificate on another key
    assert!(matches!(
        check(NODE_B, &a, None, &channel()),
        Err(CheckNodeError::OtherKey { .. })
    ));
    // signed by itself
    let forged = sign(&certificate(NODE_B, Grade::Certified), &[&key(NODE_B)]);
    assert!(check(NODE_B, &forged, None, &channel()).is_err());
}

#[test]
fn site_rule_and_revocation_hold() {
    let a = sign(&certificate(NODE_A, Grade::Certified), &[&key(AUTHORITY)]);
    let b = sign(&provisional(NODE_B, NODE_A), &[&key(NODE_A)]);
    let mut strict = channel();
    strict.provisional = false;
    assert!(matches!(
        check(NODE_B, &b, Some(&a), &strict),
        Err(CheckNodeError::ProvisionalForbidden(_))
    ));
    let mut revoked = channel();
    revoked.revoked.push(public(&key(NODE_A)));
    assert!(matches!(
        check(NODE_A, &a, None, &revoked),
        Err(CheckNodeError::Revoked(_))
    ));
    assert!(matches!(
        check(NODE_B, &b, Some(&a), &revoked),
        Err(CheckNodeError::Revoked(_))
    ));
    let mut elsewhere = channel();
    elsewhere.site = SiteId([1; 16]);
    assert!(matches!(
        check(NODE_A, &a, None, &elsewhere),
        Err(CheckNodeError::OtherSite { .. })
    ));
}

#[test]
fn tickets_hold_for_one_agent_of_one_site() {
    let a = sign(&certificate(NODE_A, Grade::Certified), &[&key(AUTHORITY)]);
    let issuer = check(NODE_A, &a, None, &channel()).unwrap();
    let bytes = sign(&ticket(NODE_A), &[&key(NODE_A)]);
    let agent = public(&key(AGENT));
    assert_eq!(
        *check_ticket(&bytes, &agent, &issuer, SITE).unwrap(),
        ticket(NODE_A)
    );
    assert!(check_ticket(&bytes, &public(&key(8)), &issuer, SITE).is_err());
    assert!(check_ticket(&bytes, &agent, &issuer, SiteId([0; 16])).is_err());
    let forged = sign(&ticket(NODE_A), &[&key(NODE_B)]);
    assert!(check_ticket(&forged, &agent, &issuer, SITE).is_err());
    let mut eternal = ticket(NODE_A);
    eternal.life = Duration::from_secs(u64::from(u32::MAX));
    let eternal = sign(&eternal, &[&key(NODE_A)]);
    assert!(check_ticket(&eternal, &agent, &issuer, SITE).is_err());
}

fn roster() -> Roster {
    let known = |id: u8| KnownMachine {
        id: MachineId([id; 16]),
        approved: id.is_multiple_of(2),
        signs: vec![Sign::of_serial("S1"), Sign::of_mac(&[id; 6])],
        tpm: (id > 1).then_some(TpmKey([id; 32])),
        code: (id > 2).then_some(*b"K7Q-2MX"),
    };
    Roster {
        site: SITE,
        number: 4,
        machines: (1..4).map(known).collect(),
        shared: vec![Sign::of_uuid(&[3; 16])],
        pin: Some(PinRule {
            number: 2,
            uses: 5,
            life_hours: 24,
            salt: [1; 16],
            hash: [2; 32],
        }),
    }
}

#[test]
fn a_roster_is_the_authoritys_and_lists_each_machine_once() {
    let bytes = sign(&roster(), &[&key(AUTHORITY)]);
    let back: Verified<Roster> = Verified::check(&bytes, &keys()).unwrap();
    assert_eq!(*back, roster());
    assert_eq!(
        back.machine(&MachineId([2; 16])),
        Some(&roster().machines[1])
    );
    assert_eq!(back.machine(&MachineId([9; 16])), None);
    assert!(Verified::<Roster>::check(&sign(&roster(), &[&key(ORDER)]), &keys()).is_err());
    let mut twice = roster();
    twice.machines[1].id = MachineId([1; 16]);
    assert!(Verified::<Roster>::check(&sign(&twice, &[&key(AUTHORITY)]), &keys()).is_err());
    let mut useless = roster();
    useless.pin.iter_mut().for_each(|pin| pin.uses = 0);
    assert!(Verified::<Roster>::check(&sign(&useless, &[&key(AUTHORITY)]), &keys()).is_err());
}

#[test]
fn the_largest_roster_fits_its_limit() {
    let machine = |n: usize| KnownMachine {
        id: MachineId((n as u128).to_be_bytes()),
        approved: true,
        signs: vec![Sign([7; 8]); MACHINE_SIGNS_MAX],
        tpm: Some(TpmKey([1; 32])),
        code: Some(*b"K7Q-2MX"),
    };
    let mut largest = roster();
    largest.machines = (0..ROSTER_MACHINES_MAX).map(machine).collect();
    largest.shared = vec![Sign([8; 8]); ROSTER_SHARED_SIGNS_MAX];
    let bytes = sign(&largest, &[&key(AUTHORITY)]);
    assert!(bytes.len() < 1 << 20, "{}", bytes.len());
    assert_eq!(
        *Verified::<Roster>::check(&bytes, &keys()).unwrap(),
        largest
    );
    largest.machines.push(machine(ROSTER_MACHINES_MAX));
    let more = sign(&largest, &[&key(AUTHORITY)]);
    assert!(Verified::<Roster>::check(&more, &keys()).is_err());
}

#[test]
fn a_pin_is_the_one_that_was_set() {
    let salt = [4; 16];
    let rule = PinRule {
        hash: PinRule::hash("Süd 4711", &salt).unwrap(),
        salt,
        ..roster().pin.unwrap()
    };
    assert!(rule.is("Süd 4711") && rule.is(" Süd 4711\n"));
    for wrong in ["Süd 4712", "süd 4711", "", "4711", &"9".repeat(33)] {
        assert!(!rule.is(wrong), "{wrong}");
    }
    // RFC 9106's function with our cost: a change would lock every store's PIN
    let golden = PinRule::hash("123456", &[0; 16]).unwrap();
    assert_eq!(blake3::hash(&golden).to_hex()[..16], *GOLDEN_PIN);
}

fn voucher(node: u8, machines: u16, order: Option<u64>) -> NodeCertificate {
    certificate(node, Grade::Voucher { machines, order })
}

#[test]
fn a_voucher_certifies_one_step_deep_and_under_its_order() {
    let check = |node: u8, certificate: &[u8], issuer: Option<&[u8]>| {
        CheckedNode::check(
            &public(&key(node)),
            certificate,
            issuer,
            &keys(),
            &channel(),
        )
    };
    let lent = sign(&voucher(NODE_A, 3, None), &[&key(AUTHORITY)]);
    let holder = check(NODE_A, &lent, None).unwrap();
    let what = Voucher {
        key: public(&key(NODE_A)),
        machines: 3,
        order: None,
    };
    assert!(holder.may_certify() && holder.voucher() == Some(what));
    let below = sign(&provisional(NODE_B, NODE_A), &[&key(NODE_A)]);
    let below_it = check(NODE_B, &below, Some(&lent)).unwrap();
    assert!(!below_it.may_certify() && below_it.voucher() == Some(what));
    assert_eq!(Voucher::behind(&below, Some(&lent)), Some(what));
    // one step deep
    let deeper = sign(&provisional(NODE_A, NODE_B), &[&key(NODE_B)]);
    assert!(check(NODE_A, &deeper, Some(&below)).is_err());
    // a node that HQ certified is none
    let plain = sign(&certificate(NODE_A, Grade::Certified), &[&key(AUTHORITY)]);
    assert_eq!(check(NODE_A, &plain, None).unwrap().voucher(), None);
    // for another order than 5, which the certificate and the ticket name
    let other = sign(&voucher(NODE_A, 3, Some(6)), &[&key(AUTHORITY)]);
    assert!(matches!(
        check(NODE_B, &below, Some(&other)),
        Err(CheckNodeError::OtherOrder {
            allowed: 6,
            order: 5,
            ..
        })
    ));
    let holder = check(NODE_A, &other, None).unwrap();
    let shown = sign(&ticket(NODE_A), &[&key(NODE_A)]);
    let agent = public(&key(AGENT));
    assert!(check_ticket(&shown, &agent, &holder, SITE).is_err());
    let this = sign(&voucher(NODE_A, 3, Some(5)), &[&key(AUTHORITY)]);
    let holder = check(NODE_A, &this, None).unwrap();
    assert!(check_ticket(&shown, &agent, &holder, SITE).is_ok());
    // made by its holder, for nobody, for a whole chain
    assert!(
        check(
            NODE_A,
            &sign(&voucher(NODE_A, 3, None), &[&key(NODE_A)]),
            None
        )
        .is_err()
    );
    for machines in [0, VOUCHER_MACHINES_MAX + 1] {
        let bytes = sign(&voucher(NODE_A, machines, None), &[&key(AUTHORITY)]);
        assert!(check(NODE_A, &bytes, None).is_err(), "{machines}");
    }
}

/// What is on disks, on sticks and on the wire of other programs: these bytes stay as they are, or the version changes.
#[test]
fn documents_are_written_as_they_always_were() {
    fn digest<T: Document>(document: &T) -> String {
        document.to_signed_bytes().digest().to_string()[..16].to_owned()
    }
    let order = Order {
        site: SITE,
        number: 5,
        image: Digest([1; 32]),
        machine: Some(MachineId([7; 16])),
        erase: true,
    };
    let completion: Completion = peek(&completion(NODE_A, (vec![1; 9], Some(vec![2; 9])))).unwrap();
    let roster = Roster {
        site: SITE,
        number: 2,
        machines: vec![KnownMachine {
            id: MachineId([7; 16]),
            approved: true,
            signs: vec![Sign::of_serial("S1"), Sign::of_mac(&[2; 6])],
            tpm: Some(TpmKey([3; 32])),
            code: Some(*b"K7Q-2MX"),
        }],
        shared: vec![Sign::of_uuid(&[1; 16])],
        pin: Some(PinRule {
            number: 1,
            uses: 3,
            life_hours: 24,
            salt: [1; 16],
            hash: [2; 32],
        }),
    };
    let written = [
        ("root", digest(&root(1))),
        ("channel", digest(&channel())),
        ("order", digest(&order)),
        ("certified", digest(&certificate(NODE_A, Grade::Certified))),
        ("provisional", digest(&provisional(NODE_B, NODE_A))),
        ("voucher", digest(&voucher(NODE_A, 3, Some(5)))),
        ("ticket", digest(&ticket(NODE_A))),
        ("completion", digest(&completion)),
        ("roster", digest(&roster)),
    ];
    let written: Vec<String> = written.iter().map(|(n, d)| format!("{n} {d}")).collect();
    assert_eq!(written.join("\n"), GOLDEN_DOCUMENTS.trim());
}

/// A completion of `issuer`'s ticket, signed by the agent.
fn completion(issuer: u8, certificates: (Vec<u8>, Option<Vec<u8>>)) -> Vec<u8> {
    let (issuer_certificate, issuers_issuer) = certificates;
    let done = Completion {
        machine: MachineId([7; 16]),
        order: 5,
        image: Digest([1; 32]),
        node: None,
        ticket: sign(&ticket(issuer), &[&key(issuer)]),
        issuer: issuer_certificate,
        issuers_issuer,
    };
    sign(&done, &[&key(AGENT)])
}

/// Whoever was admitted once could otherwise say of every machine that its order is spent.
#[test]
fn a_completion_is_witnessed_by_a_node_of_the_site() {
    let check = |bytes: &[u8]| check_completion(bytes, &keys(), SITE);
    let a = sign(&certificate(NODE_A, Grade::Certified), &[&key(AUTHORITY)]);
    let b = sign(&provisional(NODE_B, NODE_A), &[&key(NODE_A)]);
    assert!(check(&completion(NODE_A, (a.clone(), None))).is_ok());
    assert!(check(&completion(NODE_B, (b.clone(), Some(a.clone())))).is_ok());
    // a ticket that the agent gave itself
    let own = sign(&certificate(AGENT, Grade::Certified), &[&key(AGENT)]);
    assert!(check(&completion(AGENT, (own, None))).is_err());
    assert!(check(&completion(AGENT, (a.clone(), None))).is_err());
    assert!(check(&completion(NODE_B, (b, None))).is_err());
    let elsewhere = check_completion(
        &completion(NODE_A, (a.clone(), None)),
        &keys(),
        SiteId([1; 16]),
    );
    assert!(matches!(elsewhere, Err(CheckNodeError::OtherSite { .. })));
    // of another machine than the ticket's, or signed by another than the ticket's agent
    let honest = peek::<Completion>(&completion(NODE_A, (a, None))).unwrap();
    let other = Completion {
        machine: MachineId([8; 16]),
        ..honest.clone()
    };
    assert!(check(&sign(&other, &[&key(AGENT)])).is_err());
    assert!(check(&sign(&honest, &[&key(NODE_B)])).is_err());
}

/// An agent whose boot media are years old is shown every root since.
#[test]
fn each_root_leads_to_the_next() {
    let rooted = |number: u64, own: u8, before: u8| {
        let mut next = root(number);
        next.root_keys = vec![public(&key(own))];
        sign(&next, &[&key(own), &key(before)])
    };
    let (first, second, third) = (rooted(1, 50, 50), rooted(2, 51, 50), rooted(3, 52, 51));
    let media = TrustedKeys::pin(&first).unwrap();
    assert!(
        media.advance(&third).is_err(),
        "it does not know these keys"
    );
    let newest = media
        .advance(&second)
        .and_then(|k| k.advance(&third))
        .unwrap();
    assert_eq!(newest.root().number, 3);
    assert!(newest.follows(&second) && !newest.follows(&first));
    assert!(!newest.follows(&rooted(2, 90, 90)), "somebody's own");
    assert!(!newest.follows(&third));
}

#[test]
fn the_encoding_does_not_change() {
    let order = Order {
        site: SITE,
        number: 0x0102,
        image: Digest([0xab; 32]),
        machine: Some(MachineId([0xcd; 16])),
        erase: true,
    };
    let expect = [
        b"LMPL\x04\x01".to_vec(),
        vec![9; 16],
        vec![2, 1, 0, 0, 0, 0, 0, 0],
        vec![0xab; 32],
        vec![1],
        vec![0xcd; 16],
        vec![1],
    ]
    .concat();
    assert_eq!(order.to_signed_bytes().as_message(), expect);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn noise_is_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(Verified::<Channel>::check(&bytes, &keys()).is_err());
        prop_assert!(TrustedKeys::pin(&bytes).is_err());
    }

    #[test]
    fn orders_come_back_as_they_were(number: u64, site: [u8; 16], image: [u8; 32], machine: Option<[u8; 16]>, erase: bool) {
        let order = Order { site: SiteId(site), number, image: Digest(image), machine: machine.map(MachineId), erase };
        let bytes = sign(&order, &[&key(ORDER)]);
        let back: Verified<Order> = Verified::check(&bytes, &keys()).unwrap();
        prop_assert_eq!(&*back, &order);
    }
}

#[test]
fn a_signature_is_added_once_for_each_key() {
    let read = |bytes: &[u8]| peek_envelope::<Root>(bytes).unwrap().0;
    let (one, two) = (key(ROOT), key(9));
    let envelope = read(&sign(&root(1), &[&one]));
    let over = |key: &SigningKey| Signature(key.sign(envelope.as_message()).to_bytes());
    assert_eq!(envelope.digest(), root(1).to_signed_bytes().digest());

    let both = envelope.clone().with_signature(public(&two), over(&two));
    let both = both.unwrap();
    assert_eq!(both.true_signers(), [public(&one), public(&two)]);
    assert_eq!(both.to_bytes(), sign(&root(1), &[&one, &two]));
    assert_eq!(both.digest(), envelope.digest());
    // a false one is no signer, and makes way for a true one of the same key
    let false_one = both
        .clone()
        .with_signature(public(&two), Signature([7; 64]));
    let false_one = false_one.unwrap();
    assert_eq!(false_one.true_signers(), [public(&one)]);
    let again = false_one.with_signature(public(&two), over(&two)).unwrap();
    assert_eq!(again.to_bytes(), both.to_bytes());
    assert_eq!(
        both.clone().with_signatures(vec![]).to_bytes(),
        sign(&root(1), &[])
    );

    let many: Vec<SigningKey> = (20..36).map(key).collect();
    let full = read(&sign(&root(1), &many.iter().collect::<Vec<_>>()));
    assert_eq!(full.true_signers().len(), ENVELOPE_SIGNATURES_MAX);
    let more = full.clone().with_signature(public(&one), over(&one));
    assert_eq!(more.err(), Some(EnvelopeFullError));
    let same = full.with_signature(public(&many[3]), over(&many[3]));
    assert_eq!(same.unwrap().true_signers().len(), ENVELOPE_SIGNATURES_MAX);
}

#[test]
fn a_key_that_could_never_sign_is_not_strong() {
    assert!(public(&key(ROOT)).is_strong());
    let mut one = [0; 32];
    one[0] = 1;
    // the neutral element, and a point of order four
    for bytes in [one, [0; 32]] {
        assert!(!PublicKey(bytes).is_strong(), "{bytes:?}");
    }
}
