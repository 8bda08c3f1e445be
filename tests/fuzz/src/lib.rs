//! Every parser of bytes that come from a network or a disk, as a function that must return whatever it is given.
//! Decides nothing and keeps nothing. Called by the replay test, and by a coverage-guided fuzzer:
//! `fuzz_target!(|data: &[u8]| fuzz_targets::run("frame", data))`.

use image_format::Manifest;
use peer_cache_proto::{
    beacon::Beacon,
    tpm::{SealedKey, TpmProof, command},
    voucher::VoucherFile,
    wire::{ANSWER_BYTES, Answer, Frame, REQUEST_BYTES, Request},
};
use trust_format::{
    Channel, Completion, NodeCertificate, Order, PublicKey, Root, Roster, Ticket, TrustedKeys,
    codec::{Reader, Writer},
    peek,
};

/// A target: takes any bytes and returns.
pub type Target = fn(&[u8]);

/// All targets by the name of their corpus.
pub const TARGETS: [(&str, Target); 20] = [
    ("root", |b| ignore(TrustedKeys::pin(b))),
    ("root-unsigned", |b| ignore(peek::<Root>(b))),
    ("manifest", |b| ignore(peek::<Manifest>(b))),
    ("channel", |b| ignore(peek::<Channel>(b))),
    ("roster", |b| ignore(peek::<Roster>(b))),
    ("order", |b| ignore(peek::<Order>(b))),
    ("certificate", |b| ignore(peek::<NodeCertificate>(b))),
    ("ticket", |b| ignore(peek::<Ticket>(b))),
    ("completion", |b| ignore(peek::<Completion>(b))),
    ("beacon", |b| ignore(peek::<Beacon>(b))),
    ("frame", frame),
    ("request", request),
    ("answer", answer),
    ("install-record", |b| {
        ignore(imaging_plan::InstallRecord::from_extent(b))
    }),
    ("dhcp", dhcp),
    ("tpm-proof", tpm_proof),
    ("tpm-answer", tpm_answer),
    ("sealed-key", sealed_key),
    ("voucher-file", voucher_file),
    ("tftp", |b| ignore(boot_proto::tftp::Packet::parse(b))),
];

fn ignore<T>(_: T) {}

/// What decodes must encode to what decodes to the same.
fn frame(bytes: &[u8]) {
    if let Ok(frame) = Frame::from_bytes(bytes) {
        assert!(Frame::from_bytes(&frame.to_bytes()).is_ok_and(|again| again == frame));
    }
}

fn request(bytes: &[u8]) {
    let Some(bytes) = bytes.first_chunk::<REQUEST_BYTES>() else {
        return;
    };
    if let Ok(request) = Request::from_bytes(bytes) {
        assert!(Request::from_bytes(&request.to_bytes()).is_ok_and(|again| again == request));
    }
}

fn answer(bytes: &[u8]) {
    let Some(bytes) = bytes.first_chunk::<ANSWER_BYTES>() else {
        return;
    };
    if let Ok(answer) = Answer::from_bytes(bytes, 1 << 20) {
        assert!(Answer::from_bytes(&answer.to_bytes(), 1 << 20).is_ok_and(|again| again == answer));
    }
}

fn tpm_proof(bytes: &[u8]) {
    if let Ok(proof) = TpmProof::decode(&mut Reader::new(bytes)) {
        let mut out = Writer::new();
        proof.encode(&mut out);
        assert!(bytes.starts_with(&out.finish()));
        ignore(proof.verify(&PublicKey([7; 32])));
    }
}

/// Whatever a TPM was asked.
fn tpm_answer(bytes: &[u8]) {
    ignore(command::response_bytes(bytes));
    ignore(command::is_busy(bytes));
    ignore(command::created_identity(bytes));
    ignore(command::created_storage(bytes));
    ignore(command::signed(bytes));
    ignore(command::sealed(bytes, [0; 32]));
    ignore(command::loaded(bytes));
    ignore(command::unsealed(bytes));
    ignore(command::flushed(bytes));
}

fn sealed_key(bytes: &[u8]) {
    if let Ok(sealed) = SealedKey::from_bytes(bytes) {
        assert_eq!(sealed.to_bytes(), bytes);
        assert!(SealedKey::is_one(bytes));
    }
}

fn voucher_file(bytes: &[u8]) {
    if let Ok(file) = VoucherFile::from_bytes(bytes) {
        assert_eq!(file.to_bytes(), bytes);
    }
}

fn dhcp(bytes: &[u8]) {
    if let Ok(message) = boot_proto::dhcp::DhcpMessage::parse(bytes) {
        ignore(boot_proto::dhcp::identify(&message));
        ignore((
            message.option_codes(),
            message.architectures(),
            message.client_uuid(),
            message.boot_file(),
        ));
    }
}

/// Runs one target.
///
/// # Panics
/// When the target finds a fault, or there is none of that name.
pub fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS
        .iter()
        .find(|(n, _)| *n == name)
        .map(|(_, target)| target);
    target.expect("a target of that name")(bytes);
}
