//! Single rules of the transfer and the packets, each by hand.

use std::time::Duration;

use proptest::prelude::*;

use super::{packet::ParseTftpError, *};

pub(super) const MTU: u16 = 1500;

pub(super) fn request(options: &[(&str, &str)]) -> Request {
    Request {
        file: "lamplighter.efi".into(),
        mode: "octet".into(),
        options: options
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()))
            .collect(),
    }
}

fn start(options: &[(&str, &str)], file_len: u64) -> Transfer {
    let config = TransferConfig {
        file_len,
        path_mtu: MTU,
        jitter_seed: 7,
    };
    Transfer::start(Duration::ZERO, request(options), &config)
}

fn drain(transfer: &mut Transfer) -> Vec<Action> {
    std::iter::from_fn(|| transfer.poll_action()).collect()
}

fn blocks(transfer: &mut Transfer) -> Vec<u16> {
    drain(transfer)
        .into_iter()
        .filter_map(|action| match action {
            Action::SendData { block, .. } => Some(block),
            _ => None,
        })
        .collect()
}

fn ack(transfer: &mut Transfer, seconds: u64, block: u16) {
    transfer.handle_packet(Duration::from_secs(seconds), &Packet::Ack(block).encode());
}

#[test]
fn only_what_was_asked_is_granted() {
    let check = |options: &[(&str, &str)], expect: &[(&str, &str)]| {
        let transfer = start(options, 5000);
        let expect: Vec<(String, String)> = expect
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()))
            .collect();
        assert_eq!(transfer.terms().granted, expect, "asked {options:?}");
    };
    check(&[], &[]);
    check(&[("tsize", "0")], &[("tsize", "5000")]);
    check(&[("blksize", "65464")], &[("blksize", "1468")]);
    check(&[("blksize", "7")], &[]);
    check(&[("blksize", "8")], &[("blksize", "8")]);
    check(&[("windowsize", "64")], &[("windowsize", "16")]);
    check(&[("windowsize", "0")], &[]);
    check(&[("timeout", "3"), ("multicast", "")], &[("timeout", "3")]);
    check(
        &[("timeout", "0"), ("blksize", "12,5"), ("tsize", "x")],
        &[],
    );
    check(
        &[("tsize", "0"), ("blksize", "1468"), ("windowsize", "4")],
        &[("tsize", "5000"), ("blksize", "1468"), ("windowsize", "4")],
    );
}

#[test]
fn without_options_the_first_block_is_the_answer() {
    let mut transfer = start(&[], 600);
    let first = Action::SendData {
        block: 1,
        offset: 0,
        len: 512,
    };
    assert_eq!(drain(&mut transfer), [first]);
    ack(&mut transfer, 0, 1);
    assert_eq!(
        drain(&mut transfer),
        [Action::SendData {
            block: 2,
            offset: 512,
            len: 88
        }]
    );
    ack(&mut transfer, 0, 2);
    assert_eq!(drain(&mut transfer), [Action::Finished(Outcome::Complete)]);
    assert_eq!(transfer.poll_timeout(), None);
}

#[test]
fn a_whole_number_of_blocks_ends_with_an_empty_one() {
    for (file_len, last) in [(0, 1), (511, 1), (512, 2), (1024, 3)] {
        let mut transfer = start(&[], file_len);
        let mut last_len = usize::MAX;
        for block in 1..=last {
            let actions = drain(&mut transfer);
            let [Action::SendData { len, .. }] = actions[..] else {
                panic!("{actions:?}")
            };
            last_len = len;
            ack(&mut transfer, 0, block);
        }
        assert_eq!(
            transfer.outcome(),
            Some(&Outcome::Complete),
            "file of {file_len}"
        );
        assert_eq!(last_len as u64, file_len % 512);
    }
}

#[test]
fn lockstep_never_repeats_on_a_repeated_ack() {
    let mut transfer = start(&[], 5000);
    blocks(&mut transfer);
    ack(&mut transfer, 0, 1);
    assert_eq!(blocks(&mut transfer), [2]);
    ack(&mut transfer, 0, 1);
    assert_eq!(blocks(&mut transfer), [0u16; 0]);
}

#[test]
fn a_window_restarts_once_and_the_next_one_not_at_all() {
    let mut transfer = start(&[("windowsize", "4")], 512 * 100);
    drain(&mut transfer);
    ack(&mut transfer, 0, 0);
    assert_eq!(blocks(&mut transfer), [1, 2, 3, 4]);
    ack(&mut transfer, 0, 0);
    assert_eq!(
        blocks(&mut transfer),
        [1, 2, 3, 4],
        "its first block was lost"
    );
    ack(&mut transfer, 0, 0);
    assert!(blocks(&mut transfer).is_empty(), "once per window");
    ack(&mut transfer, 0, 4);
    assert_eq!(blocks(&mut transfer), [5, 6, 7, 8]);
    ack(&mut transfer, 0, 4);
    assert!(
        blocks(&mut transfer).is_empty(),
        "that ACK came from our own repeat"
    );
    ack(&mut transfer, 0, 8);
    assert_eq!(blocks(&mut transfer), [9, 10, 11, 12]);
    ack(&mut transfer, 0, 8);
    assert_eq!(
        blocks(&mut transfer),
        [9, 10, 11, 12],
        "a new loss counts again"
    );
}

#[test]
fn a_gap_goes_on_behind_the_last_block_in_order() {
    let mut transfer = start(&[("windowsize", "4")], 512 * 100);
    drain(&mut transfer);
    ack(&mut transfer, 0, 0);
    blocks(&mut transfer);
    ack(&mut transfer, 0, 2);
    assert_eq!(blocks(&mut transfer), [3, 4, 5, 6]);
    ack(&mut transfer, 0, 2);
    assert!(
        blocks(&mut transfer).is_empty(),
        "one ACK for each block behind the gap is no new loss"
    );
}

#[test]
fn old_and_invented_acks_are_ignored() {
    let mut transfer = start(&[("windowsize", "4")], 512 * 100);
    drain(&mut transfer);
    ack(&mut transfer, 0, 3);
    assert!(drain(&mut transfer).is_empty(), "not before ACK 0");
    ack(&mut transfer, 0, 0);
    blocks(&mut transfer);
    ack(&mut transfer, 0, 4);
    blocks(&mut transfer);
    for invented in [9, 3, 0, 65535, 40000] {
        ack(&mut transfer, 0, invented);
        assert!(drain(&mut transfer).is_empty(), "ACK {invented}");
    }
}

#[test]
fn an_error_ends_it_and_a_size_probe_is_no_failure() {
    let error = |code, message: &str| {
        Packet::Error {
            code,
            message: message.into(),
        }
        .encode()
    };
    let mut probe = start(
        &[("tsize", "0"), ("blksize", "1468"), ("windowsize", "4")],
        5000,
    );
    drain(&mut probe);
    probe.handle_packet(
        Duration::ZERO,
        &error(ErrorCode::OPTION_REFUSED, "User aborted the transfer"),
    );
    assert_eq!(drain(&mut probe), [Action::Finished(Outcome::SizeProbe)]);
    assert_eq!(probe.poll_timeout(), None);

    let mut broken = start(&[("tsize", "0")], 5000);
    drain(&mut broken);
    ack(&mut broken, 0, 0);
    ack(&mut broken, 0, 1);
    broken.handle_packet(Duration::ZERO, &error(ErrorCode(3), "disk full"));
    let expect = Outcome::ClientError {
        code: ErrorCode(3),
        message: "disk full".into(),
        bytes_acked: 512,
    };
    assert_eq!(drain(&mut broken), [Action::Finished(expect)]);
}

#[test]
fn silence_is_answered_with_growing_waits_and_then_given_up() {
    let mut transfer = start(&[("tsize", "0")], 5000);
    let oack = drain(&mut transfer);
    let mut now = Duration::ZERO;
    let mut waits = Vec::new();
    while let Some(deadline) = transfer.poll_timeout() {
        waits.push((deadline - now).as_millis());
        now = deadline;
        transfer.handle_timeout(now);
        let actions = drain(&mut transfer);
        assert!(
            actions == oack || transfer.outcome().is_some(),
            "{actions:?}"
        );
    }
    assert_eq!(waits.len(), RETRIES_MAX as usize + 1);
    for (wait, least) in waits.iter().zip([1000, 2000, 4000, 8000, 8000, 8000, 8000]) {
        assert!(
            (least..=least + least / 8).contains(wait),
            "waits {waits:?}"
        );
    }
    assert_eq!(
        transfer.outcome(),
        Some(&Outcome::TimedOut { bytes_acked: 0 })
    );
}

#[test]
fn a_client_that_repeats_itself_does_not_hold_our_clock_back() {
    let mut transfer = start(&[], 5000);
    drain(&mut transfer);
    ack(&mut transfer, 0, 1);
    drain(&mut transfer);
    transfer.handle_sent(Duration::ZERO);
    // Block 2 is lost; the client says ACK 1 every 700 ms, sooner than we repeat the block.
    for beat in 1..=2 {
        let now = Duration::from_millis(700 * beat);
        transfer.handle_packet(now, &Packet::Ack(1).encode());
        transfer.handle_sent(now);
        transfer.handle_timeout(now);
    }
    assert_eq!(blocks(&mut transfer), [2]);
}

#[test]
fn a_repeated_request_replays_ignores_or_starts_over() {
    let again = request(&[("tsize", "0")]);
    let mut transfer = start(&[("tsize", "0")], 5000);
    let oack = drain(&mut transfer);
    transfer.handle_request(Duration::ZERO, &again);
    assert_eq!(drain(&mut transfer), oack);
    ack(&mut transfer, 1, 0);
    drain(&mut transfer);
    transfer.handle_request(Duration::from_secs(2), &again);
    assert!(drain(&mut transfer).is_empty(), "a late copy");
    transfer.handle_request(Duration::from_secs(4), &again);
    assert_eq!(
        drain(&mut transfer),
        [Action::Finished(Outcome::Superseded { size_probe: false })]
    );

    let mut other = start(&[("tsize", "0")], 5000);
    drain(&mut other);
    other.handle_request(Duration::ZERO, &request(&[]));
    let overtaken = Outcome::Superseded { size_probe: true };
    assert_eq!(
        other.outcome(),
        Some(&overtaken),
        "the new request overtook the ERROR that ends a size probe"
    );
}

#[test]
fn a_name_that_grows_as_text_is_still_bounded() {
    let mut bytes = vec![0, 1];
    bytes.extend([0x80; 200]);
    bytes.extend(b"\0octet\0");
    assert_eq!(Packet::parse(&bytes), Err(ParseTftpError::Text));
}

#[test]
fn a_closed_port_after_the_last_block_is_success() {
    let mut transfer = start(&[], 5000);
    transfer.handle_unreachable();
    assert_eq!(transfer.outcome(), Some(&Outcome::Gone { bytes_acked: 0 }));
    let mut short = start(&[], 100);
    short.handle_unreachable();
    assert_eq!(short.outcome(), Some(&Outcome::Complete));
}

#[test]
fn a_read_error_is_told_to_the_client() {
    let mut transfer = start(&[], 5000);
    transfer.handle_read_error("not here yet");
    let actions = drain(&mut transfer);
    let [Action::Send(bytes), Action::Finished(Outcome::ReadFailed)] = &actions[..] else {
        panic!("{actions:?}")
    };
    let told = Packet::parse(bytes).unwrap();
    assert_eq!(
        told,
        Packet::Error {
            code: ErrorCode::NOT_DEFINED,
            message: "not here yet".into()
        }
    );
}

fn text() -> impl Strategy<Value = String> {
    "[^\0]{1,40}"
}

fn packets() -> impl Strategy<Value = (Vec<u8>, u8)> {
    (proptest::collection::vec(any::<u8>(), 0..600), 0u8..7)
}

proptest! {
    #[test]
    fn parse_of_emit_is_identity(
        file in text(),
        options in proptest::collection::btree_map("[a-z]{1,12}", text(), 0..6),
        block: u16,
        payload in proptest::collection::vec(any::<u8>(), 0..64),
        code: u16,
    ) {
        let options: Vec<(String, String)> = options.into_iter().collect();
        let request = Request { file: file.clone(), mode: "octet".into(), options: options.clone() };
        for packet in [
            Packet::Read(request.clone()),
            Packet::Write(request),
            Packet::Data { block, payload: &payload },
            Packet::Ack(block),
            Packet::Error { code: ErrorCode(code), message: file },
            Packet::OptionAck(options),
        ] {
            let bytes = packet.encode();
            prop_assert_eq!(Packet::parse(&bytes), Ok(packet));
        }
    }

    #[test]
    fn emit_of_parse_is_stable((mut bytes, opcode) in packets()) {
        if bytes.len() > 1 {
            bytes[0] = 0;
            bytes[1] = opcode;
        }
        if let Ok(packet) = Packet::parse(&bytes) {
            let again = packet.encode();
            prop_assert_eq!(Packet::parse(&again), Ok(packet));
        }
    }
}
