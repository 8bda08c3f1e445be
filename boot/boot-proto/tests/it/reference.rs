//! Our OFFERs against those of the captures that firmware followed, field by field.

use boot_proto::dhcp::{
    BootAnswer, BootPolicy, Decision, DhcpMessage, MessageType, decide, options,
};

use crate::captures::{self, Datagram};

/// The options of an answer but for the boot file, as (code, value).
fn options_but_file(message: &DhcpMessage) -> Vec<(u8, Vec<u8>)> {
    message
        .option_codes()
        .filter(|code| *code != options::BOOT_FILE)
        .map(|code| (code, message.option(code).unwrap().to_vec()))
        .collect()
}

fn parse(datagram: &Datagram) -> DhcpMessage {
    DhcpMessage::parse(&datagram.payload).unwrap()
}

/// Compares our answer to the capture's n-th DISCOVER with the proxy's answer to it.
fn check(capture: &str, xid_of: usize, file: &str) {
    let datagrams = captures::one(capture);
    let dhcp: Vec<&Datagram> = datagrams
        .iter()
        .filter(|datagram| datagram.is_dhcp())
        .collect();
    let discover = dhcp
        .iter()
        .filter(|datagram| parse(datagram).message_type() == Some(MessageType::Discover))
        .nth(xid_of)
        .unwrap();
    let reference = dhcp
        .iter()
        .map(|datagram| parse(datagram))
        .find(|reply| {
            reply.is_reply && reply.yiaddr.is_unspecified() && reply.xid == parse(discover).xid
        })
        .unwrap();
    let policy = BootPolicy {
        server: reference.server_id().unwrap(),
        http_port: 8080,
        answer: BootAnswer::Agent,
    };
    let Decision::Reply { reply, .. } = decide(&discover.request().unwrap(), &policy) else {
        panic!("{capture}: ignored")
    };
    let ours = DhcpMessage::parse(&reply.encode().unwrap()).unwrap();
    assert_eq!(
        options_but_file(&ours),
        options_but_file(&reference),
        "{capture}"
    );
    assert_eq!(
        (
            ours.xid,
            ours.flags,
            ours.ciaddr,
            ours.yiaddr,
            ours.siaddr,
            ours.giaddr,
            ours.mac()
        ),
        (
            reference.xid,
            reference.flags,
            reference.ciaddr,
            reference.yiaddr,
            reference.siaddr,
            reference.giaddr,
            reference.mac()
        ),
        "{capture}"
    );
    assert_eq!(ours.boot_file().as_deref(), Some(file), "{capture}");
    let bytes = reply.encode().unwrap();
    let field: Vec<u8> = bytes[108..236]
        .iter()
        .copied()
        .take_while(|byte| *byte != 0)
        .collect();
    assert_eq!(field, file.as_bytes(), "{capture}: the `file` field");
}

#[test]
fn our_offer_is_the_one_that_firmware_followed_but_for_the_name() {
    let url = "http://10.77.0.1:8080/boot/lamplighter.efi";
    check("myproxy-uefi-direct", 0, "lamplighter.efi");
    check("myproxy-uefi-http", 0, url);
    check("myproxy-uefi-snponly-direct", 0, "lamplighter.efi");
    check("myproxy-uefi-snponly-direct", 1, url);
}
