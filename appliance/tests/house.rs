//! The house's rules as a test: who may import whom, and what cores never touch.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

/// The project's crates, and what each one builds on (tests aside): own crates and others.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let out = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--locked"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    let metadata: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let name = |v: &serde_json::Value| v["name"].as_str().unwrap().to_owned();
    let packages = metadata["packages"].as_array().unwrap();
    packages
        .iter()
        .map(|p| {
            let of = p["dependencies"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|d| d["kind"].is_null());
            (name(p), of.map(name).collect())
        })
        .collect()
}

/// Which of the project's crates each may build on. A new crate has to find its room here.
const MAY_IMPORT: [(&str, &[&str]); 17] = [
    ("trust-format", &[]),
    ("boot-proto", &[]),
    ("image-format", &["trust-format"]),
    ("peer-cache-proto", &["image-format", "trust-format"]),
    ("imaging-plan", &["image-format", "trust-format"]),
    ("web-api", &["image-format", "trust-format"]),
    ("image-store", &["image-format", "trust-format"]),
    ("boot-server", &["boot-proto", "image-format"]),
    ("boot-media", &[]),
    (
        "peer-cache-node",
        &["peer-cache-proto", "image-format", "trust-format"],
    ),
    (
        "peer-cache-origin",
        &[
            "peer-cache-node",
            "peer-cache-proto",
            "web-api",
            "image-format",
            "trust-format",
        ],
    ),
    (
        "web-server",
        &["web-api", "image-store", "image-format", "trust-format"],
    ),
    (
        "imaging-agent",
        &[
            "imaging-plan",
            "peer-cache-node",
            "peer-cache-origin",
            "peer-cache-proto",
            "boot-server",
            "web-api",
            "image-format",
            "trust-format",
        ],
    ),
    (
        "appliance",
        &[
            "boot-media",
            "boot-proto",
            "boot-server",
            "image-format",
            "image-store",
            "peer-cache-node",
            "peer-cache-origin",
            "peer-cache-proto",
            "trust-format",
            "web-api",
            "web-server",
        ],
    ),
    ("end-to-end", &["boot-media"]),
    (
        "site-sim",
        // HQ's rules for leases and budgets speak in its words
        &[
            "image-format",
            "peer-cache-proto",
            "trust-format",
            "web-api",
        ],
    ),
    (
        "fuzz-targets",
        &[
            "boot-proto",
            "image-format",
            "imaging-plan",
            "peer-cache-proto",
            "trust-format",
            "web-api",
        ],
    ),
];

const CORES: [&str; 6] = [
    "trust-format",
    "image-format",
    "boot-proto",
    "peer-cache-proto",
    "imaging-plan",
    "web-api",
];

/// What a core must not reach, also not through others.
const NOT_IN_CORES: [&str; 10] = [
    "tokio", "quinn", "axum", "socket2", "memmap2", "nix", "reqwest", "hyper", "sqlx", "rustls",
];

#[test]
fn arrows_go_down_only() {
    let rooms: BTreeMap<&str, &[&str]> = MAY_IMPORT.into_iter().collect();
    for (name, dependencies) in dependencies() {
        let allowed = rooms
            .get(name.as_str())
            .unwrap_or_else(|| panic!("{name} has no room in the house"));
        for dependency in dependencies
            .iter()
            .filter(|d| rooms.contains_key(d.as_str()))
        {
            assert!(
                allowed.contains(&dependency.as_str()),
                "{name} must not import {dependency}"
            );
        }
    }
}

#[test]
fn cores_do_no_io() {
    for (name, dependencies) in dependencies() {
        if CORES.contains(&name.as_str()) {
            for forbidden in NOT_IN_CORES {
                assert!(
                    !dependencies.contains(forbidden),
                    "the core {name} must not import {forbidden}"
                );
            }
        }
    }
}

#[test]
fn every_core_links_the_rules_of_cores() {
    let rules = root().join("clippy.sans-io.toml").canonicalize().unwrap();
    for entry in [
        "images/trust-format",
        "images/image-format",
        "boot/boot-proto",
        "peer-cache/peer-cache-proto",
        "imaging-agent/imaging-plan",
        "web/web-api",
    ] {
        let link = root().join(entry).join("clippy.toml");
        assert_eq!(link.canonicalize().unwrap(), rules, "{entry}/clippy.toml");
    }
}

#[test]
fn what_boots_in_ram_cannot_sign_for_the_chain() {
    let all = dependencies();
    let mut reached = BTreeSet::new();
    let mut open = vec!["imaging-agent".to_owned()];
    while let Some(name) = open.pop() {
        for dependency in all.get(&name).into_iter().flatten() {
            if all.contains_key(dependency) && reached.insert(dependency.clone()) {
                open.push(dependency.clone());
            }
        }
    }
    for forbidden in ["image-store", "web-server"] {
        assert!(!reached.contains(forbidden), "{forbidden} in {reached:?}");
    }
}

#[test]
fn one_crypto_provider_and_no_c_tls() {
    let lock = std::fs::read_to_string(root().join("Cargo.lock")).unwrap();
    for forbidden in ["aws-lc-rs", "aws-lc-sys", "openssl-sys", "native-tls"] {
        assert!(
            !lock.contains(&format!("name = \"{forbidden}\"")),
            "{forbidden} is in Cargo.lock"
        );
    }
}
