//! Key files, HQ's folder through rotations and crashes, and roots that go from hand to hand.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use tempfile::TempDir;
use trust_format::{
    Channel, HqContact, Order, PublicKey, Root, Signature, SignerRole, SiteId, TrustRootError,
    TrustedKeys, UnknownRule, Verified, peek_envelope,
};

use super::*;

fn key(folder: &TempDir, name: &str) -> FileKey {
    FileKey::create(&folder.path().join(name)).unwrap()
}

fn root_of(threshold: u8, root: &[&FileKey], others: [&FileKey; 3]) -> Root {
    Root {
        number: 0,
        threshold,
        root_keys: root.iter().map(|k| k.public()).collect(),
        image_keys: vec![others[0].public()],
        order_keys: vec![others[1].public()],
        authority_keys: vec![others[2].public()],
    }
}

fn channel(number: u64) -> Channel {
    Channel {
        site: SiteId([1; 16]),
        site_name: "north".into(),
        number,
        image: None,
        bundle: None,
        release_floor: 0,
        revocation: 0,
        revoked: vec![],
        unknown: UnknownRule::Wait,
        provisional: true,
        hq: HqContact {
            urls: vec![],
            fingerprint: [0; 32],
        },
    }
}

fn order() -> Order {
    Order {
        site: SiteId([1; 16]),
        number: 1,
        image: trust_format::Digest([2; 32]),
        machine: None,
        erase: false,
    }
}

/// A new HQ's folder, its keys split off, and what they are called.
struct Hq {
    folder: TempDir,
    apart: TempDir,
}

impl Hq {
    fn new() -> Self {
        let (folder, apart) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        Signer::open_or_create(folder.path()).unwrap();
        split_keys(&folder.path().join("signing-keys"), apart.path()).unwrap();
        Self { folder, apart }
    }

    fn open(&self) -> Signer {
        Signer::open_or_create(self.folder.path()).unwrap()
    }

    fn key(&self, role: &str) -> FileKey {
        FileKey::open(&self.apart.path().join(format!("{role}.key"))).unwrap()
    }

    fn root(&self, number: u64) -> Vec<u8> {
        fs::read(self.folder.path().join(format!("roots/{number}"))).unwrap()
    }

    /// Leaves HQ these keys alone.
    fn keep(&self, roles: &[&str]) {
        fs::remove_file(self.folder.path().join("signing-keys")).unwrap();
        for role in roles {
            let name = format!("{role}.key");
            fs::copy(
                self.apart.path().join(&name),
                self.folder.path().join(&name),
            )
            .unwrap();
        }
    }
}

#[test]
fn a_key_file_is_made_once_and_read_back() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.key");
    let made = FileKey::create(&path).unwrap();
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert_eq!(FileKey::open(&path).unwrap().public(), made.public());
    let error = FileKey::create(&path).unwrap_err();
    assert!(matches!(error, KeyFileError::Exists { .. }), "{error}");

    let bytes = fs::read(&path).unwrap();
    let mut flipped = bytes.clone();
    flipped[20] ^= 1;
    fs::write(&path, flipped).unwrap();
    let error = FileKey::open(&path).unwrap_err();
    assert!(matches!(error, KeyFileError::Damaged { .. }), "{error}");
    fs::write(&path, &bytes[..71]).unwrap();
    let error = FileKey::open(&path).unwrap_err();
    assert!(
        error.to_string().contains("a.key is not a key file"),
        "{error}"
    );
    assert!(!format!("{made:?}").contains("SigningKey"));
    let error = FileKey::open(&folder.path().join("b.key")).unwrap_err();
    assert!(matches!(error, KeyFileError::Io { .. }), "{error}");
}

#[test]
fn an_hqs_keys_are_split_into_files_and_stay_the_same() {
    let hq = Hq::new();
    let trusted = hq.open().trusted();
    for (role, of) in FOUR_ROLES.into_iter().zip([
        SignerRole::Root,
        SignerRole::Image,
        SignerRole::Order,
        SignerRole::Authority,
    ]) {
        assert_eq!(trusted.of_role(of), [hq.key(role).public()]);
        assert_eq!(role_word(of), role);
    }
    let four = hq.folder.path().join("signing-keys");
    let error = split_keys(&four, hq.apart.path()).unwrap_err();
    assert!(matches!(error, KeyFileError::Exists { .. }), "{error}");
    let error = FileKey::open(&four).unwrap_err();
    assert!(matches!(error, KeyFileError::FourKeys { .. }), "{error}");
    let error = split_keys(&hq.apart.path().join("root.key"), hq.folder.path()).unwrap_err();
    assert!(matches!(error, KeyFileError::NotFourKeys { .. }), "{error}");
}

#[test]
fn hq_signs_with_the_keys_that_are_in_its_folder() {
    let hq = Hq::new();
    hq.keep(&["order", "authority"]);
    let signer = hq.open();
    assert!(!hq.folder.path().join("signing-keys").exists());
    assert!(signer.can_sign(SignerRole::Order) && signer.can_sign(SignerRole::Authority));
    assert!(!signer.can_sign(SignerRole::Root) && !signer.can_sign(SignerRole::Image));
    signer.sign_channel(&channel(1)).unwrap();
    fs::remove_file(hq.folder.path().join("order.key")).unwrap();
    let error = hq.open().sign_channel(&channel(1)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "HQ holds no order key that root 1 names: one of them has to sign this by hand"
    );
    fs::write(hq.folder.path().join("mine.key"), b"poem").unwrap();
    let error = Signer::open_or_create(hq.folder.path()).unwrap_err();
    assert!(error.to_string().contains("mine.key"), "{error}");
}

#[test]
fn no_keys_are_made_where_others_are_somewhere_else() {
    let hq = Hq::new();
    hq.keep(&[]);
    hq.open();
    let names = fs::read_dir(hq.folder.path()).unwrap();
    assert_eq!(names.count(), 2, "root and roots");
    let folder = TempDir::new().unwrap();
    key(&folder, "order.key");
    let error = Signer::open_or_create(folder.path()).unwrap_err();
    assert!(matches!(error, OpenSignerError::NoRoot { .. }), "{error}");
}

#[test]
fn a_first_root_can_be_made_before_hq() {
    let folder = TempDir::new().unwrap();
    let away = TempDir::new().unwrap();
    let (a, b, image) = (key(&away, "a"), key(&away, "b"), key(&away, "image"));
    let (order, authority) = (key(&folder, "order.key"), key(&folder, "authority.key"));
    let wish = root_of(2, &[&a, &b], [&image, &order, &authority]);
    let mut draft = RootDraft::new(wish, None).unwrap();
    assert_eq!((draft.root().number, draft.own_tally().lacks()), (1, 2));
    draft.sign(&a).unwrap();
    assert!(!draft.is_complete());
    draft.sign(&b).unwrap();
    assert!(draft.is_complete());
    fs::write(folder.path().join("root"), draft.to_bytes()).unwrap();
    let signer = Signer::open_or_create(folder.path()).unwrap();
    assert_eq!(signer.roots(), [draft.to_bytes()]);
    assert!(signer.can_sign(SignerRole::Order) && !signer.can_sign(SignerRole::Image));
}

/// Two of three people's keys take over from HQ's own root key; the order key becomes another one.
fn rotated(hq: &Hq, away: &TempDir) -> (RootDraft, [FileKey; 3], FileKey) {
    let people = ["a", "b", "c"].map(|name| key(away, name));
    let order = key(away, "new-order");
    let wish = root_of(
        2,
        &people.each_ref(),
        [&hq.key("image"), &order, &hq.key("authority")],
    );
    let draft = RootDraft::new(wish, Some(&hq.root(1))).unwrap();
    (draft, people, order)
}

#[test]
fn a_root_is_taken_when_old_and_new_keys_signed_and_signs_at_once() {
    let (hq, away) = (Hq::new(), TempDir::new().unwrap());
    let signer = hq.open();
    let signed_before = signer.sign_order(&order()).unwrap();
    let (mut draft, [a, _, c], new_order) = rotated(&hq, &away);
    assert_eq!(draft.root().number, 2);

    draft.sign(&a).unwrap();
    let twice = draft.to_bytes();
    draft.sign(&a).unwrap();
    assert_eq!(draft.to_bytes(), twice, "signing again changes nothing");
    draft.sign(&c).unwrap();
    let tally = draft.tally_before().unwrap();
    assert_eq!(
        (tally.lacks(), tally.absent),
        (1, vec![hq.key("root").public()])
    );
    assert!(matches!(
        signer.next(&draft.to_bytes()).unwrap_err(),
        AdvanceRootError::Trust(TrustRootError::TooFewSignatures {
            whose: "the trusted root's",
            ..
        })
    ));
    let error = draft.sign(&new_order).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("is no root key of root 2 or root 1"),
        "{error}"
    );
    draft.sign(&hq.key("root")).unwrap();
    assert!(draft.is_complete());

    // the new order key is put there while HQ runs
    let next = signer.next(&draft.to_bytes()).unwrap();
    assert!(!next.can_sign(SignerRole::Order) && next.can_sign(SignerRole::Image));
    fs::copy(
        away.path().join("new-order"),
        hq.folder.path().join("new.key"),
    )
    .unwrap();
    let next = signer.next(&draft.to_bytes()).unwrap();
    assert!(next.can_sign(SignerRole::Order));
    assert_eq!(signer.trusted().root().number, 1, "nothing changed yet");
    // what the old key signed is believed under both roots once the new one signs it too
    let again = next.sign_again::<Order>(signed_before.as_bytes()).unwrap();
    signer.advance(next).unwrap();
    assert_eq!(signer.trusted().root().number, 2);
    assert_eq!(signer.roots(), [hq.root(1), draft.to_bytes()]);
    let signed = signer.sign_channel(&channel(7)).unwrap();
    Verified::<Channel>::check_by(signed.as_bytes(), &new_order.public()).unwrap();

    let old = TrustedKeys::pin(&hq.root(1)).unwrap();
    assert_eq!(again.digest(), signed_before.digest());
    Verified::<Order>::check(again.as_bytes(), &old).unwrap();
    Verified::<Order>::check(again.as_bytes(), &signer.trusted()).unwrap();

    // the same after a restart; an agent of root 1 follows the row of roots
    let reopened = hq.open();
    assert_eq!(reopened.roots(), signer.roots());
    let follower = reopened.roots()[1..]
        .iter()
        .try_fold(old, |keys, root| keys.advance(root));
    assert_eq!(follower.unwrap().root().number, 2);
    let error = signer.next(&hq.root(1)).unwrap_err();
    assert!(matches!(error, AdvanceRootError::Trust(_)), "{error}");
    // the same root again changes nothing
    signer
        .advance(signer.next(&draft.to_bytes()).unwrap())
        .unwrap();
    assert_eq!(signer.roots().len(), 2);
}

#[test]
fn an_older_folder_and_a_crash_between_two_files_are_brought_up() {
    let (hq, away) = (Hq::new(), TempDir::new().unwrap());
    let (mut draft, [a, b, _], _) = rotated(&hq, &away);
    for key in [&a, &b, &hq.key("root")] {
        draft.sign(key).unwrap();
    }
    let path = |name: &str| hq.folder.path().join(name);
    let first = hq.root(1);
    // an older program knew one file
    fs::remove_dir_all(path("roots")).unwrap();
    assert_eq!(hq.open().roots(), std::slice::from_ref(&first));
    assert_eq!(hq.root(1), first);
    // the crash: in the row, not yet the newest
    fs::write(path("roots/2"), draft.to_bytes()).unwrap();
    fs::write(path("roots/3.new"), b"half").unwrap();
    assert_eq!(hq.open().trusted().root().number, 2);
    assert_eq!(fs::read(path("root")).unwrap(), draft.to_bytes());
    // a row that was lost in part comes back from the newest
    fs::remove_file(path("roots/2")).unwrap();
    assert_eq!(hq.open().roots(), [first.clone(), draft.to_bytes()]);

    for (name, bytes, words) in [
        ("roots/2", b"noise".to_vec(), "roots/2"),
        ("roots/5", draft.to_bytes(), "is root 2"),
        ("roots/3", first, "roots/3"),
    ] {
        let before = fs::read(path(name)).ok();
        fs::remove_file(path("roots/2")).unwrap();
        fs::write(path(name), bytes).unwrap();
        let error = Signer::open_or_create(hq.folder.path()).unwrap_err();
        assert!(error.to_string().contains(words), "{name}: {error}");
        match before {
            Some(bytes) => fs::write(path(name), bytes).unwrap(),
            None => fs::remove_file(path(name)).unwrap(),
        }
        fs::write(path("roots/2"), draft.to_bytes()).unwrap();
    }
}

#[test]
fn a_root_that_could_never_hold_is_not_drawn_up() {
    let away = TempDir::new().unwrap();
    let (a, b) = (key(&away, "a"), key(&away, "b"));
    let good = root_of(1, &[&a], [&a, &a, &a]);
    let check = |change: &dyn Fn(&mut Root), words: &str| {
        let mut root = good.clone();
        change(&mut root);
        let error = RootDraft::new(root, None).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    };
    check(&|r| r.threshold = 0, "threshold");
    check(&|r| r.threshold = 2, "threshold");
    check(&|r| r.root_keys.push(a.public()), "named twice as root key");
    check(
        &|r| r.order_keys = vec![PublicKey([0; 32])],
        "named as order key",
    );
    check(
        &|r| {
            r.image_keys = (0..17)
                .map(|_| {
                    FileKey::create(&away.path().join(rand_name()))
                        .unwrap()
                        .public()
                })
                .collect()
        },
        "image keys",
    );
    let mut old = RootDraft::new(good.clone(), None).unwrap();
    assert!(matches!(
        RootDraft::new(good.clone(), Some(&old.to_bytes())),
        Err(DraftRootError::Before(_))
    ));
    old.sign(&a).unwrap();
    let next = RootDraft::new(root_of(1, &[&b], [&a, &a, &a]), Some(&old.to_bytes())).unwrap();
    assert_eq!(next.root().number, 2);
    assert!(matches!(
        RootDraft::read(&old.to_bytes(), Some(&old.to_bytes())),
        Err(DraftRootError::Order {
            number: 1,
            before: 1
        })
    ));
    assert!(RootDraft::read(b"noise", None).is_err());
}

fn rand_name() -> String {
    let mut bytes = [0; 8];
    key::fill(&mut bytes).unwrap();
    format!("{:x}", u64::from_le_bytes(bytes))
}

/// Says that it signed, and lies.
struct Liar(PublicKey);

impl KeyHolder for Liar {
    fn public(&self) -> PublicKey {
        self.0
    }

    fn sign(&self, _: &[u8]) -> Result<Signature, SignError> {
        Ok(Signature([7; 64]))
    }
}

#[test]
fn a_signature_is_checked_before_it_is_added() {
    let away = TempDir::new().unwrap();
    let a = key(&away, "a");
    let bytes = unsigned(&order());
    let error = add_signature::<Order>(&bytes, &Liar(a.public())).unwrap_err();
    assert!(
        matches!(
            error,
            AddSignatureError::Sign(SignError::WrongSignature { .. })
        ),
        "{error}"
    );
    assert!(add_signature::<Channel>(&bytes, &a).is_err());
    // a false signature of the same key makes way
    let (envelope, _) = peek_envelope::<Order>(&bytes).unwrap();
    let forged = envelope
        .with_signature(a.public(), Signature([7; 64]))
        .unwrap()
        .to_bytes();
    let signed = add_signature::<Order>(&forged, &a).unwrap();
    Verified::<Order>::check_by(&signed, &a.public()).unwrap();
    assert_eq!(signed.len(), forged.len());
}

#[test]
fn a_seventeenth_signature_has_no_room_in_a_root() {
    let away = TempDir::new().unwrap();
    let mut bytes = unsigned(&order());
    for n in 0..16 {
        bytes = add_signature::<Order>(&bytes, &key(&away, &n.to_string())).unwrap();
    }
    let last = key(&away, "last");
    assert!(matches!(
        add_signature::<Order>(&bytes, &last),
        Err(AddSignatureError::Full(_))
    ));
}

#[test]
fn signatures_of_two_copies_come_together() {
    let away = TempDir::new().unwrap();
    let keys = ["a", "b", "c", "d", "e"].map(|name| key(&away, name));
    let [a, b, c, d, e] = keys.each_ref().map(|k| k.public());
    let sign = |signers: &[usize]| {
        let sign = |bytes: Vec<u8>, n: &usize| add_signature::<Order>(&bytes, &keys[*n]).unwrap();
        signers.iter().fold(unsigned(&order()), sign)
    };
    let check = |one: &[usize], other: &[usize], of: &[PublicKey], expect: &[PublicKey]| {
        let merged = merge_signatures::<Order>([&sign(one), &sign(other)], of).unwrap();
        let (envelope, document) = peek_envelope::<Order>(&merged).unwrap();
        assert_eq!(envelope.true_signers(), expect);
        assert_eq!(document, order());
    };
    check(&[0], &[1], &[a, b], &[a, b]);
    check(&[0], &[1], &[b, a], &[b, a]);
    check(&[0, 1], &[1, 2], &[c], &[c]);
    check(&[0, 1], &[1, 2], &[d], &[]);
    check(&[0, 1, 2], &[3, 4], &[e, d, c, b, a], &[e, d, c, b]);
    let other = unsigned(&Order {
        number: 2,
        ..order()
    });
    let other = add_signature::<Order>(&other, &keys[1]).unwrap();
    let merged = merge_signatures::<Order>([&sign(&[0]), &other], &[a, b]).unwrap();
    assert_eq!(merged, sign(&[0]));
    assert!(merge_signatures::<Order>([&other, b"noise"], &[a]).is_err());
}

#[test]
fn a_document_outlives_many_rotations_and_stays_small() {
    let hq = Hq::new();
    let signer = hq.open();
    let mut bytes = signer.sign_order(&order()).unwrap().as_bytes().to_vec();
    let mut lengths = Vec::new();
    for number in 1..=12 {
        let name = format!("order-{number}.key");
        let new = FileKey::create(&hq.folder.path().join(&name)).unwrap();
        let root = hq.key("root");
        let wish = root_of(1, &[&root], [&hq.key("image"), &new, &hq.key("authority")]);
        let mut draft = RootDraft::new(wish, Some(&hq.root(number))).unwrap();
        draft.sign(&root).unwrap();
        let next = signer.next(&draft.to_bytes()).unwrap();
        let before = signer.trusted();
        bytes = next
            .sign_again::<Order>(&bytes)
            .unwrap()
            .as_bytes()
            .to_vec();
        Verified::<Order>::check(&bytes, &before).unwrap();
        signer.advance(next).unwrap();
        Verified::<Order>::check(&bytes, &signer.trusted()).unwrap();
        lengths.push(bytes.len());
    }
    assert!(lengths.iter().all(|n| *n == lengths[0]), "{lengths:?}");
    assert_eq!(signer.roots().len(), 13);
}

#[test]
fn a_parcel_is_read_as_it_was_packed_or_refused() {
    let away = TempDir::new().unwrap();
    let (a, b) = (key(&away, "a"), key(&away, "b"));
    let mut parcel = Parcel::new(Some(unsigned(&channel(3))), vec![unsigned(&order())]).unwrap();
    assert_eq!(Parcel::from_bytes(&parcel.to_bytes()).unwrap(), parcel);
    assert!(parcel.signers().unwrap().is_empty());
    parcel.sign(&a).unwrap();
    let once = parcel.clone();
    parcel.sign(&a).unwrap();
    assert_eq!(
        (&parcel, parcel.signers().unwrap()),
        (&once, vec![a.public()])
    );
    parcel.sign(&b).unwrap();
    assert_eq!(parcel.signers().unwrap(), [a.public(), b.public()]);
    // who signed only a part signed nothing
    let apart = add_signature::<Order>(&unsigned(&order()), &a).unwrap();
    let apart = Parcel::new(Some(unsigned(&channel(3))), vec![apart]).unwrap();
    assert!(apart.signers().unwrap().is_empty());

    assert!(matches!(
        Parcel::new(None, vec![]),
        Err(ReadParcelError::Empty)
    ));
    let elsewhere = unsigned(&Order {
        site: SiteId([7; 16]),
        ..order()
    });
    assert!(matches!(
        Parcel::new(Some(unsigned(&channel(3))), vec![elsewhere]),
        Err(ReadParcelError::Sites { .. })
    ));
    let swapped = Parcel::new(Some(unsigned(&order())), vec![]);
    assert!(matches!(swapped, Err(ReadParcelError::Document(_))));

    let bytes = parcel.to_bytes();
    for cut in 0..bytes.len() {
        assert!(Parcel::from_bytes(&bytes[..cut]).is_err(), "cut at {cut}");
    }
    assert!(Parcel::from_bytes(&[&bytes[..], &[0]].concat()).is_err());
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x10;
        // what is still a parcel has other content or lost a signature
        if let Ok(read) = Parcel::from_bytes(&flipped) {
            let signers = read.signers().unwrap_or_default();
            assert!(signers.len() < 2, "flipped at {at}");
        }
    }
}

#[cfg(not(feature = "pkcs11"))]
#[test]
fn a_static_program_says_why_it_has_no_tokens() {
    let choice = TokenChoice {
        module: Path::new("/nowhere.so").into(),
        token: "t".into(),
        key: "k".into(),
        pin: zeroize::Zeroizing::new("1234".into()),
    };
    for error in [
        open_token_key(&choice).err(),
        create_token_key(&choice).err(),
    ] {
        assert!(error.unwrap().to_string().contains("--features pkcs11"));
    }
    assert!(!format!("{choice:?}").contains("1234"));
}

#[cfg(feature = "pkcs11")]
#[test]
fn a_module_that_is_not_there_is_named() {
    let choice = TokenChoice {
        module: Path::new("/nowhere.so").into(),
        token: "t".into(),
        key: "k".into(),
        pin: zeroize::Zeroizing::new("1234".into()),
    };
    let error = open_token_key(&choice).err().unwrap();
    assert_eq!(error.to_string(), "PKCS#11 module /nowhere.so: loading it");
    assert!(!format!("{choice:?}").contains("1234"));
}
