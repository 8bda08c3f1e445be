//! The pool against clients by RFC 2131, and against many of them at once.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::dhcp::{BootFields, Destination, DhcpMessage, DhcpReply, MacAddress, MessageType};

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

fn config() -> PoolConfig {
    PoolConfig {
        server: SERVER,
        first: Ipv4Addr::new(10, 0, 0, 1),
        last: Ipv4Addr::new(10, 0, 0, 5),
        subnet_mask: Ipv4Addr::new(255, 255, 255, 0),
        router: Some(Ipv4Addr::new(10, 0, 0, 2)),
        dns: vec![SERVER],
        lease_time: Duration::from_secs(3600),
    }
}

fn pool() -> LeasePool {
    LeasePool::new(config()).unwrap()
}

fn address(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, last)
}

/// A client's packet; `None` fields are left out.
#[derive(Default, Clone, Copy)]
struct Ask {
    client: u8,
    kind: u8,
    server: Option<Ipv4Addr>,
    requested: Option<Ipv4Addr>,
    ciaddr: Option<Ipv4Addr>,
}

fn message(ask: Ask) -> DhcpMessage {
    let mut bytes = vec![0; 240];
    bytes[0..3].copy_from_slice(&[1, 1, 6]);
    bytes[28..34].copy_from_slice(&[2, 0, 0, 0, 0, ask.client]);
    bytes[236..240].copy_from_slice(&[99, 130, 83, 99]);
    if let Some(ciaddr) = ask.ciaddr {
        bytes[12..16].copy_from_slice(&ciaddr.octets());
    }
    bytes.extend([53, 1, ask.kind, 61, 2, 9, ask.client]);
    for (code, value) in [(54, ask.server), (50, ask.requested)] {
        if let Some(value) = value {
            bytes.extend([code, 4]);
            bytes.extend(value.octets());
        }
    }
    DhcpMessage::parse(&bytes).unwrap()
}

fn mac(client: u8) -> MacAddress {
    MacAddress([2, 0, 0, 0, 0, client])
}

fn reply(pool: &mut LeasePool, seconds: u64, ask: Ask) -> Option<(DhcpReply, Destination)> {
    pool.handle_message(Duration::from_secs(seconds), &message(ask), None);
    let mut answer = None;
    while let Some(action) = pool.poll_action() {
        if let LeaseAction::Send { reply, to } = action {
            assert!(
                answer.replace((*reply, to)).is_none(),
                "two answers to one packet"
            );
        }
    }
    answer
}

fn discover(pool: &mut LeasePool, seconds: u64, client: u8) -> Option<Ipv4Addr> {
    reply(
        pool,
        seconds,
        Ask {
            client,
            kind: 1,
            ..Ask::default()
        },
    )
    .map(|(offer, _)| offer.yiaddr)
}

fn select(pool: &mut LeasePool, seconds: u64, client: u8, wanted: Ipv4Addr) -> Option<MessageType> {
    let ask = Ask {
        client,
        kind: 3,
        server: Some(SERVER),
        requested: Some(wanted),
        ..Ask::default()
    };
    reply(pool, seconds, ask).map(|(reply, _)| reply.message_type)
}

#[test]
fn configurations_that_cannot_work_are_refused() {
    let check = |change: &dyn Fn(&mut PoolConfig), expect: &str| {
        let mut config = config();
        change(&mut config);
        assert_eq!(LeasePool::new(config).unwrap_err().to_string(), expect);
    };
    check(
        &|c| c.last = Ipv4Addr::new(10, 0, 0, 0),
        "address pool 10.0.0.1 to 10.0.0.0 is empty",
    );
    check(
        &|c| c.last = Ipv4Addr::new(10, 0, 0, 255),
        "address 10.0.0.255 of the pool or router is no host address in the subnet of the server 10.0.0.1/255.255.255.0",
    );
    check(
        &|c| c.last = Ipv4Addr::new(10, 1, 0, 0),
        "address pool has 65536 addresses, and at most 4096 are served",
    );
    check(
        &|c| c.subnet_mask = Ipv4Addr::new(255, 0, 255, 0),
        "subnet mask 255.0.255.0 is not a row of ones followed by zeros, or leaves no hosts",
    );
    check(
        &|c| c.lease_time = Duration::from_secs(1),
        "lease time of 1 s is not between 120 s and 30 days",
    );
    check(
        &|c| c.dns = vec![SERVER; 9],
        "9 name servers configured, and at most 8 are given out",
    );
}

#[test]
fn discover_offer_request_ack() {
    let mut pool = pool();
    let ask = Ask {
        client: 1,
        kind: 1,
        requested: Some(address(4)),
        ..Ask::default()
    };
    let (offer, to) = reply(&mut pool, 0, ask).unwrap();
    assert_eq!(
        (offer.message_type, offer.yiaddr, to),
        (MessageType::Offer, address(4), Destination::Broadcast)
    );
    assert_eq!(offer.client_id.as_deref(), Some(&[9, 1][..]));
    assert_eq!(pool.leases(Duration::ZERO).count(), 0);
    assert_eq!(select(&mut pool, 1, 1, address(4)), Some(MessageType::Ack));
    let lease = pool.leases(Duration::from_secs(1)).next().unwrap();
    assert_eq!(
        (lease.mac, lease.address, lease.remaining.as_secs()),
        (mac(1), address(4), 3600)
    );
    assert_eq!(
        discover(&mut pool, 2, 1),
        Some(address(4)),
        "the same address again"
    );
    assert_eq!(
        pool.leases(Duration::from_secs(40)).count(),
        1,
        "and an offer does not shorten the lease"
    );
}

#[test]
fn an_offer_is_free_again_after_a_while_or_when_another_server_is_chosen() {
    let mut pool = pool();
    let offered = discover(&mut pool, 0, 1).unwrap();
    assert_eq!(pool.poll_timeout(), Some(Duration::from_secs(30)));
    pool.handle_timeout(Duration::from_secs(30));
    assert_eq!((pool.held(), pool.poll_timeout()), (0, None));
    discover(&mut pool, 31, 1);
    let elsewhere = Some(Ipv4Addr::new(10, 0, 0, 77));
    let ask = Ask {
        client: 1,
        kind: 3,
        server: elsewhere,
        requested: Some(offered),
        ..Ask::default()
    };
    assert!(reply(&mut pool, 32, ask).is_none());
    assert_eq!(pool.held(), 0);
}

#[test]
fn server_and_router_are_never_given_and_a_full_pool_says_so() {
    let mut pool = pool();
    let given: Vec<Ipv4Addr> = (1..=3)
        .filter_map(|client| discover(&mut pool, 0, client))
        .collect();
    let mut sorted = given.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, [address(3), address(4), address(5)]);
    pool.handle_message(
        Duration::ZERO,
        &message(Ask {
            client: 4,
            kind: 1,
            ..Ask::default()
        }),
        None,
    );
    assert_eq!(
        pool.poll_action(),
        Some(LeaseAction::Exhausted { mac: mac(4) })
    );
    assert_eq!(pool.poll_action(), None);
}

#[test]
fn renewing_extends_and_goes_back_by_unicast() {
    let mut pool = pool();
    let held = discover(&mut pool, 0, 1).unwrap();
    select(&mut pool, 0, 1, held);
    let ask = Ask {
        client: 1,
        kind: 3,
        ciaddr: Some(held),
        ..Ask::default()
    };
    let (ack, to) = reply(&mut pool, 1800, ask).unwrap();
    assert_eq!(
        (ack.message_type, ack.ciaddr, ack.yiaddr),
        (MessageType::Ack, held, held)
    );
    assert_eq!(
        to,
        Destination::Unicast(format!("{held}:68").parse().unwrap())
    );
    assert_eq!(pool.poll_timeout(), Some(Duration::from_secs(1800 + 3600)));
}

#[test]
fn a_rebooted_client_is_confirmed_refused_or_left_alone() {
    let check = |requested: Ipv4Addr, expect: Option<MessageType>| {
        let mut pool = pool();
        let taken = discover(&mut pool, 0, 1).unwrap();
        assert_eq!(select(&mut pool, 0, 1, taken), Some(MessageType::Ack));
        let requested = if requested == address(0) {
            taken
        } else {
            requested
        };
        let ask = Ask {
            client: 2,
            kind: 3,
            requested: Some(requested),
            ..Ask::default()
        };
        assert_eq!(
            reply(&mut pool, 1, ask).map(|(reply, _)| reply.message_type),
            expect,
            "{requested}"
        );
    };
    check(address(0), Some(MessageType::Nak));
    check(Ipv4Addr::new(192, 168, 1, 9), Some(MessageType::Nak));
    check(address(200), None);
    let mut pool = pool();
    let ask = Ask {
        client: 2,
        kind: 3,
        requested: Some(address(4)),
        ..Ask::default()
    };
    let (ack, _) = reply(&mut pool, 1, ask).unwrap();
    assert_eq!(
        ack.message_type,
        MessageType::Ack,
        "our leases were lost, the machine's was not"
    );
}

#[test]
fn a_declined_address_rests_and_only_its_holder_can_decline() {
    let mut pool = pool();
    let held = discover(&mut pool, 0, 1).unwrap();
    select(&mut pool, 0, 1, held);
    let decline = |client| Ask {
        client,
        kind: 4,
        server: Some(SERVER),
        requested: Some(held),
        ..Ask::default()
    };
    reply(&mut pool, 1, decline(2));
    assert_eq!(pool.leases(Duration::from_secs(1)).count(), 1);
    reply(&mut pool, 1, decline(1));
    assert_eq!(pool.leases(Duration::from_secs(1)).count(), 0);
    assert_ne!(discover(&mut pool, 2, 1), Some(held));
    pool.handle_timeout(Duration::from_secs(602));
    assert_eq!(pool.held(), 0);
}

#[test]
fn release_frees_and_inform_gives_no_address() {
    let mut pool = pool();
    let held = discover(&mut pool, 0, 1).unwrap();
    select(&mut pool, 0, 1, held);
    assert!(
        reply(
            &mut pool,
            1,
            Ask {
                client: 2,
                kind: 7,
                ciaddr: Some(held),
                ..Ask::default()
            }
        )
        .is_none()
    );
    assert_eq!(pool.held(), 1, "not by a stranger");
    assert!(
        reply(
            &mut pool,
            1,
            Ask {
                client: 1,
                kind: 7,
                ciaddr: Some(held),
                ..Ask::default()
            }
        )
        .is_none()
    );
    assert_eq!(pool.held(), 0);
    let inform = Ask {
        client: 1,
        kind: 8,
        ciaddr: Some(address(99)),
        ..Ask::default()
    };
    let (ack, to) = reply(&mut pool, 1, inform).unwrap();
    assert_eq!(
        (ack.yiaddr, ack.lease.unwrap().lease_seconds),
        (Ipv4Addr::UNSPECIFIED, None)
    );
    assert_eq!(to, Destination::Unicast("10.0.0.99:68".parse().unwrap()));
}

#[test]
fn boot_fields_go_into_offer_and_ack() {
    let mut pool = pool();
    let boot = BootFields {
        file: "lamplighter.efi".into(),
        vendor_class: None,
        vendor_options: None,
    };
    pool.handle_message(
        Duration::ZERO,
        &message(Ask {
            client: 1,
            kind: 1,
            ..Ask::default()
        }),
        Some(boot.clone()),
    );
    let Some(LeaseAction::Send { reply, .. }) = pool.poll_action() else {
        panic!("no offer")
    };
    let read = DhcpMessage::parse(&reply.encode().unwrap()).unwrap();
    assert_eq!(
        (read.boot_file().as_deref(), read.siaddr),
        (Some("lamplighter.efi"), SERVER)
    );
}

#[test]
fn leases_survive_a_restart_but_not_their_time() {
    let mut before = pool();
    for client in 1..=3 {
        let address = discover(&mut before, 0, client).unwrap();
        select(&mut before, u64::from(client) * 100, client, address);
    }
    let records: Vec<LeaseRecord> = before.leases(Duration::from_secs(3750)).collect();
    assert_eq!(records.len(), 2, "the first has run out");
    let mut after = pool();
    after.import(Duration::from_secs(5), records.clone());
    assert_eq!(
        after.leases(Duration::from_secs(5)).collect::<Vec<_>>(),
        records
    );
    let stranger = LeaseRecord {
        mac: mac(9),
        address: Ipv4Addr::new(9, 9, 9, 9),
        remaining: Duration::from_secs(9),
    };
    after.import(Duration::from_secs(5), [stranger, records[0]]);
    assert_eq!(after.held(), 2);
}

fn invariant_no_address_has_two_holders(pool: &LeasePool, now: Duration) {
    let mut holders = BTreeMap::new();
    for lease in pool.leases(now) {
        assert!(
            holders.insert(lease.mac, lease.address).is_none(),
            "{} has two addresses",
            lease.mac
        );
        assert!(lease.address != SERVER && lease.address != address(2));
    }
    assert!(pool.held() <= 5, "the table is bounded by the pool");
}

proptest! {
    #[test]
    fn no_sequence_of_packets_gives_an_address_twice(
        asks in proptest::collection::vec((0u8..8, 0u8..9, 0u8..4, 0u8..8, 0u8..8, 0u64..700), 1..120)
    ) {
        let mut pool = pool();
        let mut now = Duration::ZERO;
        for (client, kind, server, requested, ciaddr, pause) in asks {
            now += Duration::from_secs(pause);
            let ask = Ask {
                client,
                kind,
                server: match server { 0 => None, 1 => Some(address(77)), _ => Some(SERVER) },
                requested: (requested > 0).then(|| address(requested)),
                ciaddr: (ciaddr > 4).then(|| address(ciaddr)),
            };
            pool.handle_message(now, &message(ask), None);
            while let Some(action) = pool.poll_action() {
                let LeaseAction::Send { reply, .. } = action else { continue };
                if reply.message_type == MessageType::Ack && !reply.yiaddr.is_unspecified() {
                    let holder = pool.leases(now).find(|lease| lease.address == reply.yiaddr);
                    prop_assert_eq!(holder.map(|lease| lease.mac), Some(reply.mac));
                }
            }
            invariant_no_address_has_two_holders(&pool, now);
        }
    }
}
