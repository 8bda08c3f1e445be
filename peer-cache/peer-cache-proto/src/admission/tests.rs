use trust_format::{HqContact, SiteId};

use super::*;

const SITE: SiteId = SiteId([1; 16]);
const TILL: MachineId = MachineId([2; 16]);
const OTHER: MachineId = MachineId([3; 16]);
const V1: Digest = Digest([1; 32]);
const V2: Digest = Digest([2; 32]);

fn channel(unknown: UnknownRule) -> Channel {
    Channel {
        site: SITE,
        site_name: String::new(),
        number: 1,
        image: None,
        bundle: None,
        release_floor: 0,
        revocation: 0,
        revoked: vec![],
        unknown,
        provisional: true,
        hq: HqContact {
            urls: vec![],
            fingerprint: [0; 32],
        },
    }
}

fn order(number: u64, image: Digest, machine: Option<MachineId>, erase: bool) -> Order {
    Order {
        site: SITE,
        number,
        image,
        machine,
        erase,
    }
}

fn book(orders: &[Order]) -> OrderBook {
    let mut book = OrderBook::default();
    orders.iter().for_each(|o| book.add_order(o.clone()));
    book
}

fn granted(admission: Admission) -> Option<u64> {
    match admission {
        Admission::Granted(order) => Some(order.number),
        _ => None,
    }
}

fn machine(machine: MachineId, recognition: Recognition, approved: bool) -> Applicant<'static> {
    Applicant::plain(Recognised {
        machine,
        recognition,
        approved,
    })
}

fn stranger(id: MachineId) -> Applicant<'static> {
    machine(id, Recognition::Newcomer, false)
}

fn approved(id: MachineId) -> Applicant<'static> {
    machine(id, Recognition::Signs, true)
}

#[test]
fn strangers_wait_unless_the_site_says_otherwise() {
    let book = book(&[order(1, V1, None, false)]);
    let wait = channel(UnknownRule::Wait);
    assert_eq!(book.admit(&stranger(TILL), &wait), Admission::Wait);
    assert_eq!(granted(book.admit(&approved(TILL), &wait)), Some(1));
    let admit = channel(UnknownRule::Admit);
    assert_eq!(granted(book.admit(&stranger(TILL), &admit)), Some(1));
    let nothing = OrderBook::default().admit(&stranger(TILL), &admit);
    assert_eq!(nothing, Admission::NoOrder);
}

#[test]
fn where_known_machines_only_are_imaged_others_are_sent_away() {
    let refuse = channel(UnknownRule::Refuse);
    let all = book(&[order(1, V1, None, false)]);
    assert_eq!(all.admit(&stranger(TILL), &refuse), Admission::Unknown);
    assert_eq!(granted(all.admit(&approved(TILL), &refuse)), Some(1));
    let none = OrderBook::default();
    assert_eq!(none.admit(&stranger(TILL), &refuse), Admission::Unknown);
    // an order that names it makes it known
    let its = book(&[order(1, V1, Some(TILL), false)]);
    assert_eq!(granted(its.admit(&stranger(TILL), &refuse)), Some(1));
}

#[test]
fn where_a_pin_admits_it_is_typed() {
    let pin = channel(UnknownRule::Pin);
    let book = book(&[order(1, V1, None, false)]);
    assert_eq!(book.admit(&stranger(TILL), &pin), Admission::Pin);
    let typed = Applicant {
        pin: true,
        ..stranger(TILL)
    };
    assert_eq!(granted(book.admit(&typed, &pin)), Some(1));
    assert_eq!(granted(book.admit(&approved(TILL), &pin)), Some(1));
}

#[test]
fn an_order_for_a_machine_is_its_admission() {
    let book = book(&[order(1, V1, Some(TILL), false)]);
    let wait = channel(UnknownRule::Wait);
    assert_eq!(granted(book.admit(&stranger(TILL), &wait)), Some(1));
    assert_eq!(book.admit(&stranger(OTHER), &wait), Admission::Wait);
}

/// Whatever the rule and the order, a machine that may be another one waits for a person.
#[test]
fn who_may_be_another_machine_waits() {
    for doubt in [Doubt::OtherTpm, Doubt::OtherSigns] {
        let clone = machine(TILL, Recognition::Doubtful(doubt), true);
        for rule in [UnknownRule::Wait, UnknownRule::Admit, UnknownRule::Refuse] {
            for its in [None, Some(TILL)] {
                let book = book(&[order(1, V1, its, false)]);
                let answer = book.admit(&clone, &channel(rule));
                assert_eq!(answer, Admission::Doubtful(doubt));
            }
        }
    }
}

#[test]
fn erasing_needs_more_than_one_sign_or_a_person() {
    let admit = channel(UnknownRule::Admit);
    let erase = book(&[order(1, V1, None, true)]);
    for unsure in [Recognition::OneSign, Recognition::Unknown] {
        let by_mac = machine(TILL, unsure, true);
        assert_eq!(erase.admit(&by_mac, &admit), Admission::EraseUnsure);
        let keep = book(&[order(1, V1, None, false)]);
        assert_eq!(granted(keep.admit(&by_mac, &admit)), Some(1));
        let typed = Applicant {
            pin: true,
            ..by_mac
        };
        assert_eq!(granted(erase.admit(&typed, &admit)), Some(1));
    }
    for sure in [
        Recognition::Tpm,
        Recognition::Seen,
        Recognition::Signs,
        Recognition::Newcomer,
    ] {
        let answer = erase.admit(&machine(TILL, sure, true), &admit);
        assert_eq!(granted(answer), Some(1));
    }
}

#[test]
fn an_order_is_spent_once_per_machine() {
    let mut book = book(&[order(1, V1, None, true)]);
    let admit = channel(UnknownRule::Admit);
    assert!(book.complete(TILL, 1) && !book.complete(TILL, 1));
    let done = Admission::Done { order: 1 };
    assert_eq!(book.admit(&stranger(TILL), &admit), done);
    assert_eq!(granted(book.admit(&stranger(OTHER), &admit)), Some(1));
    // replayed
    book.add_order(order(1, V1, None, true));
    assert_eq!(book.admit(&stranger(TILL), &admit), done);
}

/// What a disk says spends the order for the agent that read it. Anybody can say it of any machine.
#[test]
fn a_disks_word_counts_for_its_agent_alone() {
    let book = book(&[order(1, V1, None, false)]);
    let admit = channel(UnknownRule::Admit);
    let on_it = Applicant {
        finished: &[1],
        ..stranger(TILL)
    };
    let done = Admission::Done { order: 1 };
    assert_eq!(book.admit(&on_it, &admit), done);
    assert_eq!(granted(book.admit(&stranger(TILL), &admit)), Some(1));
}

#[test]
fn a_finished_version_is_replaced_by_erase_alone() {
    let mut book = book(&[order(1, V1, None, false), order(2, V2, None, false)]);
    let admit = channel(UnknownRule::Admit);
    book.complete(TILL, 1);
    let done = |order| Admission::Done { order };
    assert_eq!(book.admit(&stranger(TILL), &admit), done(2));
    book.add_order(order(3, V2, None, true));
    assert_eq!(granted(book.admit(&stranger(TILL), &admit)), Some(3));
    book.complete(TILL, 3);
    assert_eq!(book.admit(&stranger(TILL), &admit), done(3));
}

#[test]
fn a_wish_restricts_and_another_sites_order_means_nothing() {
    let mut foreign = order(9, V1, None, true);
    foreign.site = SiteId([8; 16]);
    let book = book(&[
        order(1, V1, None, false),
        order(2, V2, None, false),
        foreign,
    ]);
    let admit = channel(UnknownRule::Admit);
    let wishing = |wish| Applicant {
        wish,
        ..stranger(TILL)
    };
    assert_eq!(granted(book.admit(&wishing(None), &admit)), Some(2));
    assert_eq!(granted(book.admit(&wishing(Some(&V1)), &admit)), Some(1));
    let none = book.admit(&wishing(Some(&Digest([7; 32]))), &admit);
    assert_eq!(none, Admission::NoOrder);
}
