//! One line per captured packet that a server sees, with what we answer; compared with `tests/golden/decisions.txt`.

use std::fmt::Write;
use std::net::Ipv4Addr;
use std::time::Duration;

use boot_proto::dhcp::{
    BootAnswer, BootPolicy, Decision, DhcpMessage, decide, foreign_boot_server, identify,
};
use boot_proto::tftp::{ErrorCode, Packet, Transfer, TransferConfig};

use crate::captures::{self, Datagram};

/// Not the address of any server in the captures, so that all of those are foreign.
const US: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 3);

fn policy(answer: BootAnswer) -> BootPolicy {
    BootPolicy {
        server: US,
        http_port: 8080,
        answer,
    }
}

fn dhcp_line(datagram: &Datagram) -> Option<String> {
    let message = DhcpMessage::parse(&datagram.payload).unwrap();
    let kind = format!("{:?}", message.message_type().unwrap()).to_uppercase();
    if message.is_reply {
        let foreign = foreign_boot_server(&message, &[US])?;
        let file = foreign.file.unwrap_or("no file".into());
        let role = if foreign.is_proxy {
            "proxy"
        } else {
            "DHCP server"
        };
        return Some(format!(
            "{kind} => foreign boot server {} ({role}): {file}",
            foreign.server
        ));
    }
    let request = datagram.request().unwrap();
    let mut line = format!("{kind} from {} on {}", datagram.from, request.port);
    if let Ok(client) = identify(&message) {
        write!(
            line,
            ", {} {} architecture {} by {:?}",
            client.mac,
            client.uuid.unwrap(),
            client.architecture,
            client.transport
        )
        .unwrap();
    }
    for answer in [BootAnswer::Agent, BootAnswer::LocalDisk] {
        match decide(&request, &policy(answer)) {
            Decision::Ignore(reason) => {
                write!(line, " => ignored: {reason}").unwrap();
                break;
            }
            Decision::Reply { reply, to } => {
                assert!(reply.yiaddr.is_unspecified() && reply.lease.is_none());
                assert_eq!(
                    reply.encode().unwrap().len().max(300),
                    reply.encode().unwrap().len()
                );
                let boot = reply.boot.unwrap();
                write!(
                    line,
                    " => {:?} to {to}: {} {} {:02x?}",
                    reply.message_type,
                    boot.vendor_class.unwrap(),
                    boot.file,
                    boot.vendor_options.unwrap_or_default()
                )
                .unwrap();
            }
        }
    }
    Some(line)
}

fn tftp_line(datagram: &Datagram) -> Option<String> {
    match Packet::parse(&datagram.payload).unwrap() {
        Packet::Read(request) => {
            let mut line = format!("RRQ {request}");
            let config = TransferConfig {
                file_len: 15_523_328,
                path_mtu: 1500,
                jitter_seed: 0,
            };
            let mut transfer = Transfer::start(Duration::ZERO, request, &config);
            if let Some(boot_proto::tftp::Action::Send(bytes)) = transfer.poll_action() {
                write!(line, " => {:?}", Packet::parse(&bytes).unwrap()).unwrap();
            }
            Some(line)
        }
        // A client's; the captured servers' refusals are no concern of ours.
        Packet::Error { code, message } if code == ErrorCode::OPTION_REFUSED => {
            Some(format!("ERROR {} {message}", code.0))
        }
        _ => None,
    }
}

#[test]
fn every_captured_packet_has_its_expected_decision() {
    let mut actual = String::new();
    for (name, datagrams) in captures::all() {
        writeln!(actual, "{name}").unwrap();
        for datagram in &datagrams {
            let line = if datagram.is_dhcp() {
                dhcp_line(datagram)
            } else {
                tftp_line(datagram)
            };
            if let Some(line) = line {
                writeln!(actual, "  {:3} {line}", datagram.frame).unwrap();
            }
        }
    }
    let written = concat!(env!("CARGO_TARGET_TMPDIR"), "/decisions.txt");
    std::fs::write(written, &actual).unwrap();
    let expect = include_str!("../golden/decisions.txt");
    for (line, (actual, expect)) in actual.lines().zip(expect.lines()).enumerate() {
        assert_eq!(
            actual,
            expect,
            "line {}; the decisions of this run are in {written}",
            line + 1
        );
    }
    assert_eq!(
        actual.lines().count(),
        expect.lines().count(),
        "the decisions of this run are in {written}"
    );
}
