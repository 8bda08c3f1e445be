//! What the programs write down: nothing that opens anything.

use std::{
    collections::HashMap,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use anyhow::{Result, ensure};

use super::Site;
use crate::MINUTES;

/// Keys and tokens are short; a database that only its owner may read is not one.
const SECRET_BYTES_MAX: u64 = 4096;
/// Whoever has so much of a key in a log has been told too much.
const PIECE_BYTES: usize = 12;
const START_BYTES: usize = 8;

/// All files of a folder and those in it.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        match path.is_dir() {
            true => found.extend(files(&path)?),
            false => found.push(path),
        }
    }
    Ok(found)
}

/// The ways in which bytes come into a log: as they are, in hexadecimal digits, and as Rust lists them. What of a secret is
/// public, such as the public half of a key beside the private one, may be there.
fn ways_to_write(secret: &[u8], public: &[u8]) -> Vec<Vec<u8>> {
    let mut ways = Vec::new();
    for piece in secret.windows(PIECE_BYTES.min(secret.len())) {
        if public.windows(piece.len()).any(|window| window == piece) {
            continue;
        }
        let hex: String = piece.iter().map(|byte| format!("{byte:02x}")).collect();
        let list = format!("{piece:?}");
        ways.push(piece.to_vec());
        ways.push(hex.to_uppercase().into_bytes());
        ways.push(hex.into_bytes());
        ways.push(list.trim_matches(['[', ']']).as_bytes().to_vec());
    }
    ways
}

/// What is looked for in logs of many megabytes: by how it begins.
struct Wanted(HashMap<[u8; START_BYTES], Vec<Vec<u8>>>);

impl Wanted {
    fn of(secret: &[u8], public: &[u8]) -> Self {
        let mut by_start: HashMap<_, Vec<_>> = HashMap::new();
        for way in ways_to_write(secret, public) {
            if let Some(start) = way.first_chunk() {
                by_start.entry(*start).or_default().push(way);
            }
        }
        Self(by_start)
    }

    fn find_in<'a>(&'a self, log: &[u8]) -> Option<&'a [u8]> {
        (0..log.len()).find_map(|at| {
            let rest = &log[at..];
            let ways = self.0.get(rest.first_chunk::<START_BYTES>()?)?;
            ways.iter()
                .find(|way| rest.starts_with(way))
                .map(Vec::as_slice)
        })
    }
}

#[test]
fn a_search_for_secrets_finds_them() {
    let secret: Vec<u8> = (100..132).collect();
    let logs: [String; 3] = [
        "key 6465666768696a6b6c6d6e6f70717273 used".into(),
        format!("Seed({:?})", &secret[3..]),
        format!("token {}", String::from_utf8_lossy(&secret[4..20])),
    ];
    for log in logs {
        assert!(
            Wanted::of(&secret, &[]).find_in(log.as_bytes()).is_some(),
            "{log}"
        );
    }
    assert!(
        Wanted::of(&secret, &[])
            .find_in(b"key 00000000000000000000")
            .is_none()
    );
}

/// Everything on trace: HQ, a node that enrols, an agent that is admitted and images; then each secret that they made is looked
/// for in each log.
#[test]
fn no_log_has_a_secret_in_it() -> Result<()> {
    let mut site = Site::start(3, "admit")?;
    site.kill_hq();
    site.is_talkative = true;
    site.start_hq()?;
    site.order(&[])?;
    let (node, address) = site.start_node("node", None)?;
    let mut agent = site.start_agent("a", address, &[])?;
    ensure!(agent.wait(MINUTES)?, "{}", agent.log());
    ensure!(site.is_the_image(&site.path("a.raw"))?);
    let logs = ["hq.log", "node.log", "a.log"];
    for name in logs {
        let log = std::fs::read_to_string(site.path(name))?;
        ensure!(log.contains("TRACE"), "{name} is quiet");
    }
    drop((agent, node));
    site.kill_hq();

    // every client sees it
    let certificate = std::fs::read(site.path("hq/tls-certificate.der"))?;
    let mut secrets: Vec<(String, Vec<u8>)> = Vec::new();
    for file in files(site.folder.path())? {
        let facts = file.metadata()?;
        if facts.mode() & 0o777 == 0o600 && (16..=SECRET_BYTES_MAX).contains(&facts.len()) {
            let mut secret = std::fs::read(&file)?;
            if file.ends_with("admin-token") {
                // what follows is where HQ is
                secret.truncate(secret.iter().position(|b| *b == b'\n').unwrap_or(0));
                ensure!(secret.len() >= 16, "the token is HQ's first line");
            }
            secrets.push((file.display().to_string(), secret));
        }
    }
    let names: Vec<&String> = secrets.iter().map(|(name, _)| name).collect();
    for name in ["admin-token", "tls-key.der", "signing-keys", "identity"] {
        let is_there = names.iter().any(|found| found.ends_with(name));
        ensure!(is_there, "{name} is not among the secrets: {names:?}");
    }
    for token in site.tokens.borrow().iter() {
        secrets.push(("an enrolment token".into(), token.clone().into_bytes()));
    }
    ensure!(site.tokens.borrow().len() == 1);
    for name in logs {
        let log = std::fs::read(site.path(name))?;
        for (whose, secret) in &secrets {
            let wanted = Wanted::of(secret, &certificate);
            let told = wanted.find_in(&log).map(String::from_utf8_lossy);
            ensure!(told.is_none(), "{name} tells of {whose}: {told:?}");
        }
    }
    Ok(())
}
