//! The TPM at work: against a real emulator (Debian package `swtpm`), and against one that lies.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

use std::{
    fs,
    io::{Read, Write},
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use peer_cache_node::{
    Identity, OpenIdentityError,
    tpm::{
        AskTpmError, COMMAND_WITHIN, OpenTpmError, ProveError, SealError, Tpm, TransmitError,
        UnsealError,
    },
};
use peer_cache_proto::tpm::{SealedKey, TpmKey, TpmProof, command::ResponseError};
use tempfile::TempDir;
use trust_format::PublicKey;

const AGENT: PublicKey = PublicKey([7; 32]);
const SECRET: [u8; 32] = *b"a seed that nobody may ever read";
/// For a TPM that will not answer at all.
const SOON: Duration = Duration::from_millis(60);

/// A TPM of its own; its seeds lie in `state`.
struct Emulator {
    state: TempDir,
    process: Child,
}

impl Emulator {
    fn new() -> Self {
        let state = TempDir::new().unwrap();
        let process = Self::start(state.path());
        Self { state, process }
    }

    fn start(state: &Path) -> Child {
        // the socket of an earlier one is not taken again
        let _ = fs::remove_file(state.join("socket"));
        Command::new("swtpm")
            .args(["socket", "--tpm2", "--flags", "startup-clear,not-need-init"])
            .arg("--tpmstate")
            .arg(format!("dir={}", state.display()))
            .arg("--server")
            .arg(format!(
                "type=unixio,path={}",
                state.join("socket").display()
            ))
            .stderr(Stdio::null())
            .spawn()
            .expect("Debian package swtpm")
    }

    fn restart(&mut self) {
        self.stop();
        self.process = Self::start(self.state.path());
    }

    fn stop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    fn connect(&self) -> UnixStream {
        let started = Instant::now();
        loop {
            match UnixStream::connect(self.state.path().join("socket")) {
                Ok(stream) => return stream,
                Err(error) => assert!(started.elapsed() < Duration::from_secs(10), "{error}"),
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn tpm(&self) -> Tpm {
        Tpm::on(self.connect().into(), COMMAND_WITHIN).unwrap()
    }

    /// A command about `handle` with an empty password; panics unless the TPM obeys.
    fn command(&self, code: u32, handle: u32, parameters: &[u8]) {
        let password = [0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0];
        let size = 10 + 4 + password.len() + parameters.len();
        let command = [
            &0x8002_u16.to_be_bytes()[..],
            &(size as u32).to_be_bytes(),
            &code.to_be_bytes(),
            &handle.to_be_bytes(),
            &password,
            parameters,
        ]
        .concat();
        let mut stream = self.connect();
        stream.write_all(&command).unwrap();
        let mut answer = [0; 10];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer[6..], [0; 4], "command {code:#x}");
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.stop();
    }
}

// Part 2 and 3 of the TCG's specification
const LOCKOUT: u32 = 0x4000_000A;
const ENDORSEMENT: u32 = 0x4000_000B;
const CLEAR: u32 = 0x126;
const HIERARCHY_CHANGE_AUTH: u32 = 0x129;
const DICTIONARY_ATTACK_PARAMETERS: u32 = 0x13A;

fn key(tpm: &mut Tpm) -> TpmKey {
    tpm.prove(&AGENT).unwrap().verify(&AGENT).unwrap()
}

#[test]
fn a_machine_keeps_its_key_and_shares_it_with_nobody() {
    let (mut one, other) = (Emulator::new(), Emulator::new());
    let first = key(&mut one.tpm());
    assert_eq!(key(&mut one.tpm()), first);
    one.restart();
    assert_eq!(key(&mut one.tpm()), first, "after a restart");
    one.command(CLEAR, LOCKOUT, &[]);
    assert_eq!(key(&mut one.tpm()), first, "after it was cleared");
    assert_ne!(key(&mut other.tpm()), first);
}

#[test]
fn a_proof_is_about_one_agent() {
    let emulator = Emulator::new();
    let proof = emulator.tpm().prove(&AGENT).unwrap();
    assert!(proof.verify(&AGENT).is_ok());
    assert!(proof.verify(&PublicKey([8; 32])).is_err());
}

#[test]
fn a_secret_comes_back_from_its_own_tpm_only() {
    let (mut one, other) = (Emulator::new(), Emulator::new());
    let sealed = one.tpm().seal(&SECRET).unwrap();
    let lies_open = sealed
        .to_bytes()
        .windows(8)
        .any(|bytes| SECRET.windows(8).any(|secret| secret == bytes));
    assert!(!lies_open, "the secret is in the file");
    assert_eq!(*one.tpm().unseal(&sealed).unwrap(), SECRET);
    one.restart();
    assert_eq!(*one.tpm().unseal(&sealed).unwrap(), SECRET);
    let error = other.tpm().unseal(&sealed).unwrap_err();
    assert!(matches!(error, UnsealError::AnotherTpm), "{error:?}");
    // the TPM itself says no, too: the digest beside it is for the message only
    let digest = other.tpm().seal(&SECRET).unwrap().parent;
    let relabelled = SealedKey {
        parent: digest,
        ..sealed.clone()
    };
    let error = other.tpm().unseal(&relabelled).unwrap_err();
    assert!(matches!(error, UnsealError::Damaged(_)), "{error:?}");
    one.command(CLEAR, LOCKOUT, &[]);
    let error = one.tpm().unseal(&sealed).unwrap_err();
    assert!(matches!(error, UnsealError::AnotherTpm), "{error:?}");
}

#[test]
fn a_damaged_secret_is_refused() {
    let emulator = Emulator::new();
    let mut tpm = emulator.tpm();
    let sealed = tpm.seal(&SECRET).unwrap();
    for at in 0..sealed.private.len() {
        let mut bad = sealed.clone();
        bad.private[at] ^= 1;
        let error = tpm.unseal(&bad).unwrap_err();
        assert!(
            matches!(error, UnsealError::Damaged(_)),
            "byte {at}: {error:?}"
        );
    }
    for at in 0..sealed.public.len() {
        let mut bad = sealed.clone();
        bad.public[at] ^= 1;
        assert!(tpm.unseal(&bad).is_err(), "byte {at}");
    }
    assert_eq!(*tpm.unseal(&sealed).unwrap(), SECRET);
}

/// The emulator has no resource manager: what is not flushed stays, and three objects fill it.
#[test]
fn nothing_is_left_in_the_tpms_memory() {
    let (emulator, other) = (Emulator::new(), Emulator::new());
    let foreign = other.tpm().seal(&SECRET).unwrap();
    let mut tpm = emulator.tpm();
    for _ in 0..5 {
        let mut sealed = tpm.seal(&SECRET).unwrap();
        assert!(tpm.unseal(&foreign).is_err());
        sealed.private[20] ^= 1;
        assert!(tpm.unseal(&sealed).is_err());
        tpm.prove(&AGENT).unwrap();
    }
}

#[test]
fn a_tpm_that_is_locked_by_wrong_passwords_still_serves_us() {
    let emulator = Emulator::new();
    let first = key(&mut emulator.tpm());
    let sealed = emulator.tpm().seal(&SECRET).unwrap();
    // no tries at all: locked at once, for an hour
    let never = [0, 0, 0, 0, 0, 0, 14, 16, 0, 0, 14, 16];
    emulator.command(DICTIONARY_ATTACK_PARAMETERS, LOCKOUT, &never);
    assert_eq!(key(&mut emulator.tpm()), first);
    assert_eq!(*emulator.tpm().unseal(&sealed).unwrap(), SECRET);
}

#[test]
fn a_password_that_somebody_set_is_named() {
    let emulator = Emulator::new();
    emulator.command(HIERARCHY_CHANGE_AUTH, ENDORSEMENT, b"\0\x03abc");
    let error = emulator.tpm().prove(&AGENT).unwrap_err();
    assert!(error.to_string().contains("password"), "{error}");
    // the owner's hierarchy is another
    assert!(emulator.tpm().seal(&SECRET).is_ok());
}

fn missing() -> Result<Tpm, OpenTpmError> {
    Err(OpenTpmError::Missing)
}

#[test]
fn an_identity_is_sealed_and_stays_with_its_machine() {
    let (mut one, other) = (Emulator::new(), Emulator::new());
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("identity");
    let open = |emulator: &Emulator| Identity::open_or_create_with(&path, || Ok(emulator.tpm()));
    let identity = open(&one).unwrap();
    let file = fs::read(&path).unwrap();
    assert!(SealedKey::is_one(&file));
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    one.restart();
    assert_eq!(open(&one).unwrap().public(), identity.public());

    let name = path.display().to_string();
    let error = open(&other).unwrap_err();
    assert!(
        matches!(error, OpenIdentityError::AnotherTpm { .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains(&name), "{error}");
    assert!(
        error.to_string().contains("enrol the node again"),
        "{error}"
    );
    let error = Identity::open_or_create_with(&path, missing).unwrap_err();
    assert!(
        matches!(error, OpenIdentityError::NoTpm { .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains(&name), "{error}");
    one.stop();
    let gone = UnixStream::pair().unwrap().0;
    let error =
        Identity::open_or_create_with(&path, || Ok(Tpm::on(gone.into(), COMMAND_WITHIN).unwrap()))
            .unwrap_err();
    assert!(
        matches!(error, OpenIdentityError::Unseal { .. }),
        "{error:?}"
    );
    one.restart();

    for end in [33, 60, file.len() - 1] {
        fs::write(&path, &file[..end]).unwrap();
        let error = open(&one).unwrap_err();
        assert!(
            matches!(error, OpenIdentityError::Damaged { .. }),
            "{end}: {error:?}"
        );
    }
    fs::write(&path, file).unwrap();
    assert_eq!(open(&one).unwrap().public(), identity.public());
}

#[test]
fn without_a_tpm_an_identity_is_plain_and_stays_so() {
    let emulator = Emulator::new();
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("identity");
    let identity = Identity::open_or_create_with(&path, missing).unwrap();
    let file = fs::read(&path).unwrap();
    assert_eq!(file.len(), 32);
    let again = Identity::open_or_create_with(&path, || Ok(emulator.tpm())).unwrap();
    assert_eq!(again.public(), identity.public());
    assert_eq!(fs::read(&path).unwrap(), file);
}

#[test]
fn a_tpm_that_fails_does_not_cost_the_node_its_key() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("identity");
    let broken = || Ok(fake(vec![refusal(0x101)], COMMAND_WITHIN));
    let identity = Identity::open_or_create_with(&path, broken).unwrap();
    assert_eq!(fs::read(&path).unwrap().len(), 32);
    let again = Identity::open_or_create_with(&path, missing).unwrap();
    assert_eq!(again.public(), identity.public());
}

/// Says these answers, one for each command, and then nothing. An answer that is cut off is followed by the end.
fn fake(answers: Vec<Vec<u8>>, within: Duration) -> Tpm {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    std::thread::spawn(move || {
        let mut answers = answers.into_iter();
        while let Some(command) = read_message(&mut theirs) {
            assert!(command.len() >= 10);
            let Some(answer) = answers.next() else {
                // until the other side has waited long enough
                let _ = theirs.read(&mut [0]);
                return;
            };
            let whole = answer.len() >= 10 && size(&answer) <= answer.len();
            if theirs.write_all(&answer).is_err() || !whole {
                return;
            }
        }
    });
    Tpm::on(ours.into(), within).unwrap()
}

fn size(message: &[u8]) -> usize {
    u32::from_be_bytes(message[2..6].try_into().unwrap()) as usize
}

fn read_message(stream: &mut UnixStream) -> Option<Vec<u8>> {
    let mut message = vec![0; 10];
    stream.read_exact(&mut message).ok()?;
    message.resize(size(&message), 0);
    stream.read_exact(&mut message[10..]).ok()?;
    Some(message)
}

fn refusal(code: u32) -> Vec<u8> {
    [&[0x80, 1, 0, 0, 0, 10][..], &code.to_be_bytes()].concat()
}

/// What a real TPM answered while `work` was done.
fn recorded(emulator: &Emulator, work: impl FnOnce(&mut Tpm)) -> Vec<Vec<u8>> {
    let folder = TempDir::new().unwrap();
    let listener = UnixListener::bind(folder.path().join("socket")).unwrap();
    let ours = UnixStream::connect(folder.path().join("socket")).unwrap();
    let (mut theirs, mut real) = (listener.accept().unwrap().0, emulator.connect());
    let answers = Arc::new(Mutex::new(Vec::new()));
    let heard = answers.clone();
    let recorder = std::thread::spawn(move || {
        while let Some(command) = read_message(&mut theirs) {
            real.write_all(&command).unwrap();
            let answer = read_message(&mut real).unwrap();
            heard.lock().unwrap().push(answer.clone());
            theirs.write_all(&answer).unwrap();
        }
    });
    let mut tpm = Tpm::on(ours.into(), COMMAND_WITHIN).unwrap();
    work(&mut tpm);
    drop(tpm);
    recorder.join().unwrap();
    let answers = answers.lock().unwrap();
    answers.clone()
}

/// Answers with one of them spoilt: cut at each length, too long, and each byte turned over.
fn spoilt(answers: &[Vec<u8>]) -> impl Iterator<Item = (String, Vec<Vec<u8>>)> + '_ {
    let with = |n: usize, bad: Vec<u8>| {
        let mut answers = answers.to_vec();
        answers[n] = bad;
        answers
    };
    (0..answers.len()).flat_map(move |n| {
        let answer = &answers[n];
        let cut = (0..answer.len()).map(move |at| {
            let what = format!("answer {n} cut at {at}");
            (what, with(n, answer[..at].to_vec()))
        });
        let longer = (
            format!("answer {n} too long"),
            with(n, [&answer[..], &[0; 5000]].concat()),
        );
        let flipped = (0..answer.len()).map(move |at| {
            let mut bad = answer.clone();
            bad[at] ^= 0xff;
            (format!("answer {n} flipped at {at}"), with(n, bad))
        });
        cut.chain([longer]).chain(flipped)
    })
}

#[test]
fn spoilt_answers_to_a_proof_are_errors() {
    let emulator = Emulator::new();
    let mut proof = None;
    let answers = recorded(&emulator, |tpm| proof = Some(tpm.prove(&AGENT).unwrap()));
    assert_eq!(answers.len(), 3, "make, sign, forget");
    let good = fake(answers.clone(), SOON).prove(&AGENT).unwrap();
    assert_eq!(Some(good), proof);
    let (mut refused, mut unharmed) = (0, 0);
    for (what, answers) in spoilt(&answers) {
        match fake(answers, SOON).prove(&AGENT) {
            // creation data, names and the answer to the flush are not looked at
            Ok(same) => {
                assert_eq!(same, good, "{what}");
                unharmed += 1;
            }
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 500 && unharmed > 100, "{refused}, {unharmed}");
}

#[test]
fn spoilt_answers_to_an_unsealing_are_errors() {
    let emulator = Emulator::new();
    let sealed = emulator.tpm().seal(&SECRET).unwrap();
    let answers = recorded(&emulator, |tpm| drop(tpm.unseal(&sealed).unwrap()));
    assert_eq!(answers.len(), 5, "make, load, unseal, forget, forget");
    for (what, answers) in spoilt(&answers) {
        let wrong_byte = what.starts_with("answer 2 flipped");
        match fake(answers, SOON).unseal(&sealed) {
            // what a TPM says of its secret is believed: it could seal another one just as well
            Ok(secret) => assert!(wrong_byte || *secret == SECRET, "{what}"),
            Err(error) => assert!(
                !error.to_string().contains("a seed that"),
                "{what}: {error}"
            ),
        }
    }
}

#[test]
fn spoilt_answers_to_a_sealing_lose_nothing() {
    let emulator = Emulator::new();
    let mut sealed = None;
    let answers = recorded(&emulator, |tpm| sealed = Some(tpm.seal(&SECRET).unwrap()));
    assert_eq!(answers.len(), 6, "make, seal, load, unseal, forget, forget");
    assert_eq!(fake(answers.clone(), SOON).seal(&SECRET).ok(), sealed);
    let mut other_secret = answers.clone();
    let at = other_secret[3].len() - 20;
    other_secret[3][at] ^= 1;
    let error = fake(other_secret, SOON).seal(&SECRET).unwrap_err();
    assert!(matches!(error, SealError::Lost(None)), "{error:?}");
    for (_, answers) in spoilt(&answers) {
        let _ = fake(answers, SOON).seal(&SECRET);
    }
}

#[test]
fn a_tpm_that_says_no_is_heard() {
    let check = |code: u32, words: &str| {
        let error = fake(vec![refusal(code)], SOON).prove(&AGENT).unwrap_err();
        assert!(error.to_string().contains(words), "{code:#x}: {error}");
        assert!(
            matches!(error, ProveError::Ask(AskTpmError::Response(ResponseError::Refused { code: told, .. })) if told == code),
            "{error:?}"
        );
    };
    check(0x185, "switched off in the firmware");
    check(0x9a2, "password");
    check(0x101, "self-test");
    check(0x902, "memory is full");
    check(0x921, "locked");
    check(0xffff_ffff, "0xffffffff");
    check(0x2c3, "does not know such keys");
    let old = vec![0, 0xC4, 0, 0, 0, 10, 0, 0, 0, 30];
    let error = fake(vec![old], SOON).prove(&AGENT).unwrap_err();
    assert!(error.to_string().contains("TPM 1.2"), "{error}");
}

#[test]
fn a_busy_tpm_is_asked_again_but_not_for_ever() {
    let emulator = Emulator::new();
    let answers = recorded(&emulator, |tpm| {
        tpm.prove(&AGENT).unwrap();
    });
    let busy = [refusal(0x922), refusal(0x90A), refusal(0x908)];
    let mut tpm = fake([&busy[..], &answers].concat(), SOON);
    assert!(tpm.prove(&AGENT).is_ok());
    let error = fake(vec![refusal(0x922); 20], SOON).prove(&AGENT);
    let error = error.unwrap_err();
    assert!(
        matches!(
            error,
            ProveError::Ask(AskTpmError::Transmit(TransmitError::Busy { .. }))
        ),
        "{error:?}"
    );
}

#[test]
fn a_silent_tpm_is_given_up() {
    let mut tpm = fake(Vec::new(), SOON);
    let started = Instant::now();
    let error = tpm.prove(&AGENT).unwrap_err();
    assert!(started.elapsed() >= SOON && started.elapsed() < Duration::from_secs(5));
    assert!(
        matches!(
            error,
            ProveError::Ask(AskTpmError::Transmit(TransmitError::Silent { .. }))
        ),
        "{error:?}"
    );
    // its late answer would be taken for another's
    let error = tpm.prove(&AGENT).unwrap_err();
    assert!(
        matches!(
            error,
            ProveError::Ask(AskTpmError::Transmit(TransmitError::GivenUp { .. }))
        ),
        "{error:?}"
    );
}

#[test]
fn a_device_that_is_none_is_named() {
    let error = Tpm::open_at(Path::new("/dev/nothing-here")).unwrap_err();
    assert!(error.to_string().contains("/dev/nothing-here"), "{error}");
    // opens, and answers nothing
    let mut null = Tpm::open_at(Path::new("/dev/null")).unwrap();
    assert!(null.prove(&AGENT).is_err());
}

#[test]
#[ignore = "records answers for the corpora of fuzz-targets"]
fn record_for_the_corpora() {
    let emulator = Emulator::new();
    let mut answers = recorded(&emulator, |tpm| {
        tpm.prove(&AGENT).unwrap();
    });
    answers.extend(recorded(&emulator, |tpm| {
        tpm.seal(&SECRET).unwrap();
    }));
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus");
    for (n, answer) in answers.iter().enumerate() {
        fs::write(corpus.join(format!("tpm-answer/recorded-{n:02}")), answer).unwrap();
    }
    let TpmProof { public, signature } = emulator.tpm().prove(&AGENT).unwrap();
    let proof = [public, signature].concat();
    fs::write(corpus.join("tpm-proof/recorded"), proof).unwrap();
}
