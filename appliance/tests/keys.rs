//! Keys that are kept offline, as people do it: with the program, from file to file.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use image_store::{FileKey, KeyHolder};
use tempfile::TempDir;
use trust_format::{Channel, TrustedKeys, Verified};
use web_server::{HqConfig, RunningHq};

/// A folder in which people hand files to each other, and commands that run there.
struct Desk {
    folder: TempDir,
    token: Option<PathBuf>,
}

impl Desk {
    fn new() -> Self {
        Self {
            folder: TempDir::new().unwrap(),
            token: None,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lamplighter"));
        command
            .current_dir(self.folder.path())
            .args(line.split(' '));
        if let Some(token) = &self.token {
            command.env("LAMPLIGHTER_TOKEN_FILE", token);
        }
        command
    }

    /// What a command prints.
    fn run(&self, line: &str) -> String {
        let Output {
            status,
            stdout,
            stderr,
        } = self.command(line).output().unwrap();
        let stderr = String::from_utf8(stderr).unwrap();
        assert!(status.success(), "{line}: {stderr}");
        String::from_utf8(stdout).unwrap()
    }

    /// Why a command does nothing.
    fn refused(&self, line: &str) -> String {
        let output = self.command(line).output().unwrap();
        assert!(!output.status.success(), "{line}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// Makes a key and returns its public half.
    fn key(&self, name: &str) -> String {
        self.run(&format!("key new {name}.key")).trim().to_owned()
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }
}

fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

async fn hq(folder: &Path) -> RunningHq {
    let config = HqConfig {
        folder: folder.to_owned(),
        listen: "127.0.0.1:0".parse().unwrap(),
        urls: vec![],
        database: None,
        objects: None,
        page: None,
    };
    RunningHq::start(config).await.unwrap()
}

#[test]
fn a_key_is_made_once_and_a_root_that_cannot_hold_not_at_all() {
    let desk = Desk::new();
    let public = desk.key("a");
    assert_eq!(desk.run("key show a.key").trim(), public);
    assert_says(
        &desk.refused("key new a.key"),
        &["a.key exists; a key file is never overwritten"],
    );
    assert_says(
        &desk.refused("key show b.key"),
        &["key file b.key", "No such file"],
    );
    std::fs::write(desk.path("poem"), b"no key").unwrap();
    assert_says(&desk.refused("key show poem"), &["poem is not a key file"]);
    assert_says(
        &desk.refused("key split . --out out"),
        &["keys/signing-keys"],
    );
    assert_says(
        &desk.refused("root show poem"),
        &["poem: not a Root document"],
    );

    let first =
        format!("--image-key {public} --order-key {public} --authority-key {public} --out root");
    let line = format!("root new --first --threshold 2 --root-key {public} {first}");
    assert_says(&desk.refused(&line), &["threshold", "2"]);
    let line = format!("root new --first --threshold 1 {first}");
    assert_says(&desk.refused(&line), &["--root-key"]);
    let line = format!("root new --first --threshold 1 --root-key abc {first}");
    assert_says(&desk.refused(&line), &["--root-key"]);
    let line = format!("root new --threshold 1 --root-key {public} {first}");
    assert_says(&desk.refused(&line), &["--after", "--first"]);
    let line = format!("root new --first --threshold 1 --root-key {public} {first}");
    assert_says(
        &desk.run(&line),
        &["0 of the 1 signatures", "has not signed"],
    );
    assert_says(
        &desk.refused(&line),
        &["writing root, which must not be there yet"],
    );
    let other = desk.key("other");
    assert_says(
        &desk.refused("root sign root --key other.key"),
        &[
            "signing root",
            &other,
            "is no root key of root 1",
            "--after",
        ],
    );
    let next = format!("root new --after root --root-key {other} --out next");
    assert_says(
        &desk.refused(&next),
        &["the root before it, root", "0 of the 1 signatures"],
    );
    desk.run("root sign root --key a.key");
    assert_says(
        &desk.run(&next),
        &[
            "root 2",
            "new",
            "is dropped",
            "0 of the 1 signatures it needs by root 1's keys",
        ],
    );
    let once = desk.read("root");
    desk.run("root sign root --key a.key");
    assert_eq!(desk.read("root"), once);
}

/// An HQ as it was made, whose owners take its keys offline.
#[tokio::test(flavor = "multi_thread")]
async fn a_chain_takes_its_keys_offline() {
    let mut desk = Desk::new();
    let running = hq(&desk.path("hq")).await;
    desk.token = Some(running.admin_token_file.clone());
    assert_says(
        &desk.run("key split hq --out safe"),
        &["root ", "safe/image.key", "hq/keys/signing-keys away"],
    );
    running.stop();
    for name in ["order.key", "authority.key"] {
        std::fs::copy(
            desk.path("safe").join(name),
            desk.path("hq/keys").join(name),
        )
        .unwrap();
    }
    std::fs::remove_file(desk.path("hq/keys/signing-keys")).unwrap();
    let running = hq(&desk.path("hq")).await;
    let list = desk.run("key list");
    assert_says(&list, &["root 1: 1 of 1 root keys"]);
    assert_eq!(
        (
            list.matches("offline").count(),
            list.matches("HQ holds it").count()
        ),
        (2, 2),
        "{list}"
    );

    let [a, b, c] = ["a", "b", "c"].map(|name| desk.key(name));
    desk.run("root take --out old");
    desk.run(&format!(
        "root new --after old --threshold 2 --root-key {a} --root-key {b} --root-key {c} --out next"
    ));
    desk.run("root sign next --key a.key");
    assert_says(
        &desk.refused("root publish next"),
        &["1 more of root 2's keys must sign", &b, &c],
    );
    desk.run("root sign next --key c.key");
    assert_says(
        &desk.refused("root sign next --key safe/root.key"),
        &["give that with --after"],
    );
    let shown = desk.run("root show next --after old");
    assert_says(
        &shown,
        &[
            "2 of the 2 signatures it needs by root 2's keys",
            "0 of the 1",
            "has not signed",
        ],
    );
    assert_says(
        &desk.refused("root publish next"),
        &["1 more of root 1's keys must sign"],
    );
    let shown = desk.run("root sign next --after old --key safe/root.key");
    assert!(!shown.contains("has not signed"), "{shown}");
    assert_says(
        &desk.run("root publish next"),
        &["root 2: 2 of 3 root keys", "note: the image key is offline"],
    );
    assert_says(
        &desk.refused("root publish old"),
        &["publishing old", "number 1, and root 2 is trusted already"],
    );
    assert_says(
        &desk.refused("image publish old"),
        &["publishing old", "Manifest document"],
    );

    image_by_hand(&desk);
    std::fs::remove_file(desk.path("hq/keys/order.key")).unwrap();
    // the present root again: HQ looks at its folder
    assert_says(
        &desk.run("root publish next"),
        &["note: the order key is offline"],
    );
    channel_by_hand(&desk);
    running.stop();

    // an agent of the first root follows
    let keys = TrustedKeys::pin(&desk.read("old")).unwrap();
    let keys = keys.advance(&desk.read("next")).unwrap();
    let running = hq(&desk.path("hq")).await;
    desk.run("root take --out present");
    assert_eq!(desk.read("present"), keys.root().as_bytes());
    running.stop();
}

fn image_by_hand(desk: &Desk) {
    let bytes: Vec<u8> = (0..3_145_728_u32)
        .map(|n| n.to_le_bytes()[n as usize % 3])
        .collect();
    std::fs::write(desk.path("disk"), bytes).unwrap();
    assert_says(
        &desk.run("image import disk --name till"),
        &["release    1", "waits for a signature"],
    );
    assert_eq!(desk.run("image list").trim(), "");
    let version = desk
        .run("image waiting")
        .split(' ')
        .next()
        .unwrap()
        .to_owned();
    desk.run("image take till --out till.image");
    assert_says(
        &desk.refused("image publish till.image"),
        &["not signed by the chain's image key", "root 2 names"],
    );
    assert_says(
        &desk.refused("image sign old --key safe/image.key"),
        &["old: expected a Manifest document"],
    );
    assert_says(
        &desk.run("image sign till.image --key safe/image.key"),
        &[
            "image \"till\", release 1",
            &version,
            "3145728 bytes",
            "signed it",
        ],
    );
    assert_says(&desk.run("image publish till.image"), &[&version]);
    assert!(!desk.run("image list").contains("waits"));
    assert_eq!(desk.run("image waiting").trim(), "");
    // a published one can be taken for another key
    desk.run("image take till --out again.image");
    assert_eq!(desk.read("again.image"), desk.read("till.image"));
}

fn channel_by_hand(desk: &Desk) {
    desk.run("site add north");
    assert_says(
        &desk.run("channel waiting"),
        &["north", "channel     1, none holds yet"],
    );
    desk.run("channel take north --out 1.channel");
    assert_says(
        &desk.refused("channel sign 1.channel --before 1.channel --key safe/order.key"),
        &["nobody signed the channel in 1.channel"],
    );
    assert_says(
        &desk.run("channel sign 1.channel --key safe/order.key"),
        &[
            "channel 1 of site \"north\"",
            "unknown machines  wait",
            "revoked           0 keys",
            "signed it",
        ],
    );
    assert_says(
        &desk.run("channel publish 1.channel"),
        &["north is at channel 1"],
    );
    assert_says(
        &desk.run("order add --site north --version till --erase"),
        &["order 1 of north", "waits for a signature"],
    );
    desk.run("site set north --unknown admit");
    desk.run("channel take north --out 3.channel");
    assert_says(
        &desk.run("channel sign 3.channel --before 1.channel --key safe/order.key"),
        &[
            "number: 1 -> 3",
            "image: none -> ",
            "unknown machines: wait -> are imaged",
            "order 1: version ",
            "also over a finished version",
        ],
    );
    assert_says(
        &desk.run("channel publish 3.channel"),
        &["north is at channel 3"],
    );
    assert_says(
        &desk.refused("channel publish 1.channel"),
        &["channel 1 of site \"north\"", "no channel waits"],
    );
    assert_says(
        &desk.refused("channel take north --out 4.channel"),
        &["nothing of site \"north\" waits"],
    );
    assert_says(
        &desk.run("channel take north --again --out 4.channel"),
        &["channel 4", "order 1"],
    );
    let parcel = image_store::Parcel::from_bytes(&desk.read("3.channel")).unwrap();
    let order = FileKey::open(&desk.path("safe/order.key"))
        .unwrap()
        .public();
    let channel: Verified<Channel> = Verified::check_by(parcel.channel().unwrap(), &order).unwrap();
    assert_eq!(channel.number, 3);
}

#[cfg(not(feature = "pkcs11"))]
#[test]
fn a_static_program_says_why_it_has_no_tokens() {
    let desk = Desk::new();
    std::fs::write(desk.path("pin"), b"1234\n").unwrap();
    let line = "key show --pkcs11-module m.so --token t --key-label k --pin-file pin";
    assert_says(
        &desk.refused(line),
        &[
            "cannot load PKCS#11 modules: it is static",
            "--features pkcs11",
        ],
    );
    assert_says(
        &desk.refused("key show --pkcs11-module m.so --token t"),
        &["--key-label"],
    );
}

#[cfg(feature = "pkcs11")]
mod token {
    //! With SoftHSM, a token in software: Debian's package softhsm2.

    use image_format::{Architecture, Customisation, Manifest, ManifestKind, Needs};
    use image_store::{Parcel, RootDraft, unsigned};
    use trust_format::{HqContact, Order, PublicKey, SiteId, UnknownRule};

    use super::*;

    const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";

    /// A token of its own, with nothing in it.
    struct Token(Desk);

    impl Token {
        fn new() -> Self {
            let desk = Desk::new();
            std::fs::create_dir(desk.path("tokens")).unwrap();
            let tokens = desk.path("tokens");
            let text = format!(
                "directories.tokendir = {}\nlog.level = ERROR\n",
                tokens.display()
            );
            std::fs::write(desk.path("softhsm2.conf"), text).unwrap();
            std::fs::write(desk.path("pin"), b"2468\n").unwrap();
            let line = "--init-token --free --label people --so-pin 1357 --pin 2468";
            let output = Command::new("softhsm2-util")
                .args(line.split(' '))
                .env("SOFTHSM2_CONF", desk.path("softhsm2.conf"))
                .output()
                .unwrap();
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
            Self(desk)
        }

        fn command(&self, line: &str, label: &str) -> Command {
            let token = format!(
                "--pkcs11-module {MODULE} --token people --key-label {label} --pin-file pin"
            );
            let mut command = self.0.command(&format!("{line} {token}"));
            command.env("SOFTHSM2_CONF", self.0.path("softhsm2.conf"));
            command
        }

        fn run(&self, line: &str, label: &str) -> String {
            let output = self.command(line, label).output().unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{line}: {stderr}");
            String::from_utf8(output.stdout).unwrap()
        }

        fn refused(&self, line: &str, label: &str) -> String {
            let output = self.command(line, label).output().unwrap();
            assert!(!output.status.success(), "{line}");
            String::from_utf8(output.stderr).unwrap()
        }
    }

    fn public(text: &str) -> PublicKey {
        let key: web_api::Hex<32> = text.trim().parse().unwrap();
        PublicKey(key.0)
    }

    fn manifest() -> Manifest {
        Manifest {
            kind: ManifestKind::Image,
            name: "till".into(),
            release: 1,
            follows: None,
            disk_bytes: 1 << 20,
            sector_bytes: 512,
            used_bytes: 0,
            needs: Needs {
                uefi: true,
                bios: false,
                architecture: Architecture::X86_64,
                ram_bytes_min: 0,
            },
            customisation: Customisation::None,
            partitions: vec![],
            files: vec![],
            chunks: vec![],
            layout: vec![],
        }
    }

    fn parcel() -> Parcel {
        let site = SiteId([1; 16]);
        let channel = Channel {
            site,
            site_name: "north".into(),
            number: 1,
            image: None,
            bundle: None,
            release_floor: 0,
            revocation: 0,
            revoked: vec![],
            unknown: UnknownRule::Wait,
            provisional: true,
            hq: HqContact {
                urls: vec!["https://hq.example:8443".into()],
                fingerprint: [0; 32],
            },
        };
        let order = Order {
            site,
            number: 1,
            image: trust_format::Digest([2; 32]),
            machine: None,
            erase: false,
        };
        Parcel::new(Some(unsigned(&channel)), vec![unsigned(&order)]).unwrap()
    }

    #[test]
    fn a_key_in_a_token_signs_roots_versions_and_channels() {
        let token = Token::new();
        let desk = &token.0;
        let key = token.run("key new", "signer");
        let key = key.trim();
        assert_eq!(token.run("key show", "signer").trim(), key);
        let line = format!(
            "root new --first --threshold 1 --root-key {key} --image-key {key} --order-key {key} --authority-key {key} --out root"
        );
        desk.run(&line);
        assert_says(
            &token.run("root sign root", "signer"),
            &["1 of the 1 signatures"],
        );
        let keys = TrustedKeys::pin(&desk.read("root")).unwrap();
        assert!(
            RootDraft::read(&desk.read("root"), None)
                .unwrap()
                .is_complete()
        );

        std::fs::write(desk.path("image"), unsigned(&manifest())).unwrap();
        assert_says(
            &token.run("image sign image", "signer"),
            &[&format!("{key} signed it")],
        );
        assert_eq!(
            *Verified::<Manifest>::check(&desk.read("image"), &keys).unwrap(),
            manifest()
        );

        std::fs::write(desk.path("channel"), parcel().to_bytes()).unwrap();
        assert_says(
            &token.run("channel sign channel", "signer"),
            &[&format!("{key} signed it")],
        );
        let signed = Parcel::from_bytes(&desk.read("channel")).unwrap();
        Verified::<Channel>::check(signed.channel().unwrap(), &keys).unwrap();
        Verified::<Order>::check(&signed.orders()[0], &keys).unwrap();
        assert_eq!(signed.signers().unwrap(), [public(key)]);
    }

    #[test]
    fn what_is_wrong_with_a_token_is_said() {
        let token = Token::new();
        token.run("key new", "one");
        assert_says(
            &token.refused("key new", "one"),
            &["has a key labelled \"one\" already"],
        );
        assert_says(
            &token.refused("key show", "two"),
            &["token \"people\" has 0 Ed25519 private keys labelled \"two\""],
        );
        let desk = &token.0;
        let with = |line: &str| {
            let mut command = desk.command(line);
            command.env("SOFTHSM2_CONF", desk.path("softhsm2.conf"));
            let output = command.output().unwrap();
            assert!(!output.status.success(), "{line}");
            String::from_utf8(output.stderr).unwrap()
        };
        std::fs::write(desk.path("wrong"), b"9999\n").unwrap();
        std::fs::write(desk.path("empty"), b"\n2468").unwrap();
        let rest = format!("--pkcs11-module {MODULE} --key-label one");
        let text = with(&format!("key show {rest} --token people --pin-file wrong"));
        assert_says(&text, &[MODULE, "logging in with the PIN"]);
        assert!(!text.contains("9999"), "{text}");
        let text = with(&format!("key show {rest} --token people --pin-file empty"));
        assert_says(&text, &["empty has no PIN in its first line"]);
        let text = with(&format!("key show {rest} --token others --pin-file pin"));
        assert_says(&text, &["0 tokens labelled \"others\"", "people"]);
        let text =
            with("key show --pkcs11-module pin --token people --key-label one --pin-file pin");
        assert_says(&text, &["PKCS#11 module pin: loading it"]);
        let text = with(&format!(
            "key show pin {rest} --token people --pin-file pin"
        ));
        assert_says(&text, &["cannot be used with"]);
    }
}
