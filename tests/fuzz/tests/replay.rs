//! Replays every corpus: as it is, cut at each length, each byte flipped, and mutated at random from a fixed seed.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

use std::path::{Path, PathBuf};

use fuzz_targets::TARGETS;

/// Random mutations of all inputs of a target together; more with LAMPLIGHTER_LONG.
const MUTATIONS: usize = 20_000;
const MUTATIONS_LONG: usize = 2_000_000;

fn inputs(target: &str) -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<PathBuf> = std::fs::read_dir(root.join("corpus").join(target))
        .into_iter()
        .flatten()
        .map(|e| e.unwrap().path())
        .collect();
    files.sort();
    files.iter().map(|f| std::fs::read(f).unwrap()).collect()
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit.max(1)
    }

    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len());
            match self.below(5) {
                0 => bytes.truncate(at),
                1 => bytes.insert(at.min(bytes.len()), self.below(256) as u8),
                2 if at < bytes.len() => bytes[at] = self.below(256) as u8,
                // lengths and counts are what parsers stumble over
                3 if at + 4 <= bytes.len() => {
                    bytes[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes())
                }
                _ if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                _ => {}
            }
        }
    }
}

#[test]
fn every_corpus_is_survived() {
    let mutations = if std::env::var_os("LAMPLIGHTER_LONG").is_some() {
        MUTATIONS_LONG
    } else {
        MUTATIONS
    };
    for (name, target) in TARGETS {
        let inputs = inputs(name);
        assert!(!inputs.is_empty(), "{name} has no corpus");
        for input in &inputs {
            target(input);
            for at in 0..input.len() {
                target(&input[..at]);
                let mut bad = input.clone();
                for flip in [1, 0x80, 0xff] {
                    bad[at] = input[at] ^ flip;
                    target(&bad);
                }
            }
        }
        let mut random = Random(7);
        for n in 0..mutations {
            let mut bytes = inputs[n % inputs.len()].clone();
            random.mutate(&mut bytes);
            target(&bytes);
        }
    }
}
