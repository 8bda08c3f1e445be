//! The reader against packets built by hand, the encoder against the reader.

use std::net::{Ipv4Addr, SocketAddrV4};

use proptest::prelude::*;

use super::*;

const MAC: MacAddress = MacAddress([0x52, 0x54, 0, 0x77, 0, 0x0a]);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// A request header with our MAC, the cookie, and these raw option bytes.
pub(crate) fn packet(options: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 240];
    bytes[0..3].copy_from_slice(&[1, 1, 6]);
    bytes[28..34].copy_from_slice(&MAC.0);
    bytes[236..240].copy_from_slice(&[99, 130, 83, 99]);
    bytes.extend_from_slice(options);
    bytes
}

fn option(code: u8, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![code, u8::try_from(value.len()).unwrap()];
    bytes.extend_from_slice(value);
    bytes
}

fn parse(options: &[Vec<u8>]) -> DhcpMessage {
    DhcpMessage::parse(&packet(&options.concat())).unwrap()
}

fn request(message: DhcpMessage, port: ServerPort) -> DhcpRequest {
    DhcpRequest {
        message,
        port,
        from: SocketAddrV4::new(Ipv4Addr::new(10, 77, 0, 139), 4011),
    }
}

fn agent() -> BootPolicy {
    BootPolicy {
        server: SERVER,
        http_port: 8080,
        answer: BootAnswer::Agent,
    }
}

fn pxe_discover(architecture: &[u8]) -> DhcpMessage {
    parse(&[
        option(53, &[1]),
        option(60, b"PXEClient"),
        option(93, architecture),
    ])
}

#[test]
fn what_is_not_dhcp_is_named() {
    assert_eq!(
        DhcpMessage::parse(&[1; 239]),
        Err(ParseDhcpError::TooShort { len: 239 })
    );
    let mut bad = packet(&[]);
    bad[236] = 0;
    assert_eq!(
        DhcpMessage::parse(&bad),
        Err(ParseDhcpError::BadMagic {
            found: [0, 130, 83, 99]
        })
    );
    let mut bad = packet(&[]);
    bad[0] = 3;
    assert_eq!(
        DhcpMessage::parse(&bad),
        Err(ParseDhcpError::BadOp { op: 3 })
    );
}

#[test]
fn one_bad_option_hides_no_other() {
    let check = |options: &[Vec<u8>]| {
        let message = parse(options);
        assert_eq!(
            message.message_type(),
            Some(MessageType::Discover),
            "{options:?}"
        );
        assert_eq!(message.vendor_class(), "PXEClient", "{options:?}");
    };
    let good = [option(53, &[1]), option(60, b"PXEClient")];
    // A crate's strict decoder drops all options behind the first two, or panics on the third.
    check(&[option(93, &[7]), good.concat()]);
    check(&[option(93, &[]), good.concat()]);
    check(&[option(94, &[1, 3]), good.concat()]);
    check(&[good.concat(), vec![93, 200, 0]]);
    check(&[vec![0, 0, 0], good.concat(), vec![255, 53, 1, 2]]);
}

#[test]
fn a_hardware_length_beyond_the_packet_is_clamped() {
    let mut bytes = packet(&[]);
    bytes[2] = 255;
    assert_eq!(DhcpMessage::parse(&bytes).unwrap().mac(), None);
}

#[test]
fn split_options_are_joined_even_apart() {
    let message = parse(&[
        option(60, b"PXEC"),
        option(53, &[1]),
        option(60, b"lient"),
        option(60, b":x"),
    ]);
    assert_eq!(message.vendor_class(), "PXEClient:x");
}

#[test]
fn one_option_repeated_for_ever_is_cut() {
    let message = parse(&vec![option(60, &[b'a'; 255]); 40]);
    assert_eq!(message.option(60).map(<[u8]>::len), Some(1024));
}

#[test]
fn overloaded_fields_carry_options() {
    let overloaded = |bits: u8| {
        let mut bytes = packet(&option(options::OVERLOAD, &[bits]));
        let class = option(60, b"HTTPClient");
        let kind = option(53, &[1]);
        bytes[44..44 + class.len()].copy_from_slice(&class);
        bytes[108..108 + kind.len()].copy_from_slice(&kind);
        DhcpMessage::parse(&bytes).unwrap()
    };
    let both = overloaded(3);
    assert_eq!(both.message_type(), Some(MessageType::Discover));
    assert_eq!(both.vendor_class(), "HTTPClient");
    assert_eq!(both.boot_file(), None, "`file` holds options, not a name");
    assert_eq!(overloaded(1).vendor_class(), "");
    assert_eq!(overloaded(2).message_type(), None);
    assert!(overloaded(0).boot_file().is_some());
}

#[test]
fn all_architectures_are_read() {
    let check =
        |value: &[u8], expect: &[u16]| assert_eq!(pxe_discover(value).architectures(), expect);
    check(&[0, 7], &[7]);
    check(&[0, 6, 0, 7], &[6, 7]);
    check(&[0, 7, 9], &[7]);
    check(&[7], &[]);
    let from_class = parse(&[
        option(60, b"PXEClient:Arch:00007:UNDI:003000"),
        option(93, &[0]),
    ]);
    assert_eq!(from_class.architectures(), [7]);
}

#[test]
fn a_uuid_reads_in_both_orders() {
    let wire = [
        0x44, 0x33, 0x22, 0x11, 0x66, 0x55, 0x88, 0x77, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff, 0,
    ];
    let mut value = vec![0];
    value.extend(wire);
    let uuid = parse(&[option(97, &value)]).client_uuid().unwrap();
    assert_eq!(uuid.to_string(), "11223344-5566-7788-99aa-bbccddeeff00");
    assert_eq!(uuid.wire_text(), "44332211-6655-8877-99aa-bbccddeeff00");
    assert_eq!(
        ClientUuid::from_wire(uuid.smbios_order()).smbios_order(),
        wire
    );
    for bad in [&value[..16], &[1; 17], &[]] {
        assert_eq!(parse(&[option(97, bad)]).client_uuid(), None);
    }
}

#[test]
fn only_x64_uefi_is_served_and_the_rest_is_told_why() {
    let check = |class: &[u8], architecture: &[u8], expect: &str| {
        let message = parse(&[
            option(53, &[1]),
            option(60, class),
            option(93, architecture),
        ]);
        let text = match decide(&request(message, ServerPort::Dhcp), &agent()) {
            Decision::Reply { reply, .. } => reply.boot.unwrap().file,
            Decision::Ignore(reason) => reason.to_string(),
        };
        assert_eq!(text, expect);
    };
    let url = "http://10.77.0.1:8080/boot/lamplighter.efi";
    check(b"PXEClient", &[0, 7], "lamplighter.efi");
    check(b"PXEClient", &[0, 9], "lamplighter.efi");
    check(b"PXEClient", &[0, 0, 0, 7], "lamplighter.efi");
    check(b"HTTPClient", &[0, 16], url);
    let refused =
        |what: &str| format!("its firmware asks for {what}, and only UEFI on x64 is served");
    check(
        b"PXEClient",
        &[0, 0],
        &refused("BIOS on x86 (PXE, number 0)"),
    );
    check(
        b"PXEClient",
        &[0, 6],
        &refused("UEFI on 32-bit x86 (PXE, number 6)"),
    );
    check(
        b"PXEClient",
        &[0, 11],
        &refused("UEFI on 64-bit ARM (PXE, number 11)"),
    );
    check(
        b"HTTPClient",
        &[0, 19],
        &refused("UEFI on 64-bit ARM over HTTP (HTTP boot, number 19)"),
    );
    check(
        b"PXEClient",
        &[],
        "its firmware does not say which architecture it is (option 93)",
    );
    check(
        b"MSFT 5.0",
        &[0, 7],
        "an ordinary DHCP client that did not ask for network boot",
    );
}

#[test]
fn each_machine_gets_its_own_answer() {
    let message = pxe_discover(&[0, 7]);
    let policy = BootPolicy {
        answer: BootAnswer::LocalDisk,
        ..agent()
    };
    let Decision::Reply { reply, to } =
        decide(&request(message.clone(), ServerPort::Dhcp), &policy)
    else {
        panic!("ignored")
    };
    assert_eq!(
        (reply.boot.unwrap().file.as_str(), to),
        (LOCAL_DISK_FILE, Destination::Broadcast)
    );
    let policy = BootPolicy {
        answer: BootAnswer::Ignore("another node answers".into()),
        ..agent()
    };
    assert_eq!(
        decide(&request(message, ServerPort::Dhcp), &policy),
        Decision::Ignore(IgnoreReason::Policy("another node answers".into())),
    );
}

#[test]
fn only_discover_on_67_and_only_request_or_inform_on_4011() {
    for code in 0..=9u8 {
        for port in [ServerPort::Dhcp, ServerPort::Pxe] {
            let message = parse(&[
                option(53, &[code]),
                option(60, b"PXEClient"),
                option(93, &[0, 7]),
            ]);
            let answered = matches!(
                decide(&request(message, port), &agent()),
                Decision::Reply { .. }
            );
            let expect = match port {
                ServerPort::Dhcp => code == 1,
                ServerPort::Pxe => code == 3 || code == 8,
            };
            assert_eq!(answered, expect, "message type {code} on {port}");
        }
    }
}

#[test]
fn a_relayed_request_and_a_server_stay_unanswered() {
    let mut relayed = pxe_discover(&[0, 7]);
    relayed.giaddr = Ipv4Addr::new(10, 9, 0, 1);
    let decision = decide(&request(relayed, ServerPort::Dhcp), &agent());
    assert_eq!(
        decision,
        Decision::Ignore(IgnoreReason::Relayed {
            relay: Ipv4Addr::new(10, 9, 0, 1)
        })
    );
    let mut reply = pxe_discover(&[0, 7]);
    reply.is_reply = true;
    let decision = decide(&request(reply, ServerPort::Dhcp), &agent());
    assert_eq!(decision, Decision::Ignore(IgnoreReason::ServerPacket));
}

#[test]
fn a_boot_item_is_echoed_on_4011_only() {
    let message = parse(&[
        option(53, &[3]),
        option(60, b"PXEClient"),
        option(93, &[0, 7]),
        option(43, &[9, 1, 0, 71, 4, 0x80, 0, 0, 0, 255]),
    ]);
    let Decision::Reply { reply, to } = decide(&request(message, ServerPort::Pxe), &agent()) else {
        panic!("ignored")
    };
    assert_eq!(
        reply.boot.unwrap().vendor_options.unwrap(),
        [71, 4, 0x80, 0, 0, 0, 255]
    );
    assert_eq!(
        to,
        Destination::Unicast("10.77.0.139:4011".parse().unwrap())
    );
}

#[test]
fn a_file_name_that_does_not_fit_is_an_error() {
    let reply = |file: String| DhcpReply {
        boot: Some(BootFields {
            file,
            vendor_class: None,
            vendor_options: None,
        }),
        ..bare_reply()
    };
    let long = DhcpMessage::parse(&reply("a".repeat(200)).encode().unwrap()).unwrap();
    assert_eq!(long.boot_file(), Some("a".repeat(200)));
    assert!(matches!(
        reply("a".repeat(256)).encode(),
        Err(EncodeDhcpError::FileTooLong { len: 256 })
    ));
}

fn bare_reply() -> DhcpReply {
    DhcpReply {
        message_type: MessageType::Offer,
        xid: 1,
        flags: 0,
        ciaddr: Ipv4Addr::UNSPECIFIED,
        yiaddr: Ipv4Addr::UNSPECIFIED,
        mac: MAC,
        server: SERVER,
        lease: None,
        boot: None,
        client_id: None,
        client_uuid: None,
        refusal: None,
    }
}

proptest! {
    #[test]
    fn parse_of_emit_is_identity(
        xid: u32, flags: u16, ciaddr: u32, yiaddr: u32, mac: [u8; 6],
        file in "[a-z/:.0-9]{1,255}",
        uuid in proptest::option::of(proptest::collection::vec(any::<u8>(), 1..40)),
        id in proptest::option::of(proptest::collection::vec(any::<u8>(), 1..60)),
        vendor in proptest::option::of(proptest::collection::vec(any::<u8>(), 1..60)),
        seconds: u32,
    ) {
        let reply = DhcpReply {
            xid,
            flags,
            ciaddr: ciaddr.into(),
            yiaddr: yiaddr.into(),
            mac: MacAddress(mac),
            lease: Some(LeaseFields {
                lease_seconds: Some(seconds),
                subnet_mask: Ipv4Addr::new(255, 255, 255, 0),
                router: Some(SERVER),
                dns: vec![SERVER, SERVER],
            }),
            boot: Some(BootFields { file: file.clone(), vendor_class: Some("HTTPClient"), vendor_options: vendor.clone() }),
            client_id: id.clone(),
            client_uuid: uuid.clone(),
            refusal: Some("no".into()),
            ..bare_reply()
        };
        let bytes = reply.encode().unwrap();
        prop_assert!(bytes.len() >= 300);
        let read = DhcpMessage::parse(&bytes).unwrap();
        prop_assert!(read.is_reply);
        prop_assert_eq!((read.xid, read.flags), (xid, flags));
        prop_assert_eq!((read.ciaddr, read.yiaddr, read.siaddr), (reply.ciaddr, reply.yiaddr, SERVER));
        prop_assert_eq!(read.mac(), Some(MacAddress(mac)));
        prop_assert_eq!(read.message_type(), Some(MessageType::Offer));
        prop_assert_eq!(read.server_id(), Some(SERVER));
        prop_assert_eq!(read.boot_file(), Some(file));
        prop_assert_eq!(read.vendor_class(), "HTTPClient");
        prop_assert_eq!(read.option(options::CLIENT_ID), id.as_deref());
        prop_assert_eq!(read.option(options::CLIENT_UUID), uuid.as_deref());
        prop_assert_eq!(read.option(options::VENDOR), vendor.as_deref());
        prop_assert_eq!(read.option(options::TFTP_SERVER), Some(&b"10.77.0.1"[..]));
        prop_assert_eq!(read.option(51), Some(&seconds.to_be_bytes()[..]));
        prop_assert_eq!(read.option(6).map(<[u8]>::len), Some(8));
    }
}
