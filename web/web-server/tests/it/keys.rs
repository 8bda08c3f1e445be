//! Keys that HQ does not hold, and roots that change.

use std::{fs, path::PathBuf};

use image_format::{Manifest, ManifestKind};
use image_store::{FileKey, KeyHolder, Parcel, RootDraft, add_signature, split_keys};
use reqwest::Method;
use serde_json::json;
use tempfile::TempDir;
use trust_format::{
    Channel, NodeCertificate, Order, PublicKey, Root, TrustRootError, TrustedKeys, Verified,
};
use web_api::*;

use crate::world::*;

/// A place without a network: HQ's first keys apart, and new ones.
struct Away(TempDir);

impl Away {
    /// Copies of HQ's keys; HQ still has them all.
    fn of(world: &World) -> Self {
        let folder = TempDir::new().unwrap();
        split_keys(&keys_folder(world).join("signing-keys"), folder.path()).unwrap();
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(format!("{name}.key"))
    }

    fn key(&self, name: &str) -> FileKey {
        match self.path(name).exists() {
            true => FileKey::open(&self.path(name)).unwrap(),
            false => FileKey::create(&self.path(name)).unwrap(),
        }
    }

    fn public(&self, name: &str) -> PublicKey {
        self.key(name).public()
    }

    /// Puts a key into HQ's folder.
    fn give(&self, world: &World, name: &str) {
        let to = keys_folder(world).join(format!("{name}.key"));
        fs::copy(self.path(name), to).unwrap();
    }

    /// A root after HQ's present one.
    async fn draft(
        &self,
        world: &World,
        threshold: u8,
        root: &[&str],
        others: [&[&str]; 3],
    ) -> RootDraft {
        let keys = |names: &[&str]| names.iter().map(|n| self.public(n)).collect();
        let wish = Root {
            number: 0,
            threshold,
            root_keys: keys(root),
            image_keys: keys(others[0]),
            order_keys: keys(others[1]),
            authority_keys: keys(others[2]),
        };
        let old = world.admin.get("/api/v1/root").await.body;
        RootDraft::new(wish, Some(&old)).unwrap()
    }

    /// The same, signed.
    async fn root(
        &self,
        world: &World,
        threshold: u8,
        root: &[&str],
        others: [&[&str]; 3],
        signers: &[&str],
    ) -> Vec<u8> {
        let mut draft = self.draft(world, threshold, root, others).await;
        for name in signers {
            draft.sign(&self.key(name)).unwrap();
        }
        draft.to_bytes()
    }
}

fn keys_folder(world: &World) -> PathBuf {
    world.folder.path().join("hq/keys")
}

async fn publish_root(world: &World, bytes: &[u8], query: &str) -> Answer {
    let path = format!("/api/v1/roots{query}");
    world.admin.raw(Method::POST, &path, bytes.to_vec()).await
}

/// An HQ that was started again with these of its keys in files of their own.
async fn with_keys(names: &[&str]) -> (World, Away) {
    let world = World::new().await;
    let away = Away::of(&world);
    let world = keep(world, &away, names).await;
    (world, away)
}

async fn keep(world: World, away: &Away, names: &[&str]) -> World {
    fs::remove_file(keys_folder(&world).join("signing-keys")).unwrap();
    for name in names {
        away.give(&world, name);
    }
    world.restart().await
}

async fn waiting(world: &World) -> Waiting {
    world.admin.get("/api/v1/waiting").await.json()
}

const ONLINE: [&[&str]; 3] = [&["image"], &["order"], &["authority"]];

#[tokio::test]
async fn a_rotated_root_holds_at_once_and_after_a_restart() {
    let world = World::new().await;
    let away = Away::of(&world);
    world.site("north", SiteUnknown::Wait).await;
    let node = world.node("north", "n").await;
    let image = world
        .publish("till", ManifestKind::Image, &[noise(1, 5000)])
        .await;
    world.order("north", "till").await;
    let old = world.keys().await;
    let before = node.channel(&old).await.number;

    // two of three people take over from HQ's own root key; image and order keys are new ones that HQ has
    away.give_new(&world, &["image-2", "order-2"]);
    let others: [&[&str]; 3] = [&["image-2"], &["order-2"], &["authority"]];
    let draft = |signers| away.root(&world, 2, &["a", "b", "c"], others, signers);
    let sentence = publish_root(&world, &draft(&["a"]).await, "")
        .await
        .refused(400);
    for part in [
        "1 more of root 2's keys must sign: ",
        "1 more of root 1's keys must sign: ",
        &away.public("b").to_string(),
        &away.public("root").to_string(),
    ] {
        assert!(sentence.contains(part), "{sentence} lacks {part}");
    }
    let sentence = publish_root(&world, &draft(&["a", "c"]).await, "")
        .await
        .refused(400);
    assert!(
        !sentence.contains("of root 2's keys must sign"),
        "{sentence}"
    );
    let sentence = publish_root(&world, &draft(&["root"]).await, "")
        .await
        .refused(400);
    assert!(sentence.contains("2 more of root 2's keys"), "{sentence}");
    assert_eq!(world.keys().await.root().number, 1);

    let bytes = draft(&["a", "c", "root"]).await;
    let done: RootPublished = publish_root(&world, &bytes, "").await.json();
    assert_eq!((done.keys.number, done.keys.threshold), (2, 2));
    assert!(done.keys.order[0].held && !done.keys.root[0].held);
    assert_eq!(done.notes, ["3 documents were signed anew"]);
    let world = check_rotated(world, &node, &old, before, &bytes, image.version).await;
    let world = world.restart().await;
    let again: RootPublished = publish_root(&world, &bytes, "").await.json();
    assert!(again.notes.is_empty(), "{:?}", again.notes);
    let node = Node {
        caller: world.with_key(&node.key),
        ..node
    };
    check_rotated(world, &node, &old, before, &bytes, image.version).await;
}

impl Away {
    fn give_new(&self, world: &World, names: &[&str]) {
        for name in names {
            self.key(name);
            self.give(world, name);
        }
    }
}

async fn check_rotated(
    world: World,
    node: &Node,
    old: &TrustedKeys,
    before: u64,
    bytes: &[u8],
    version: Hex<32>,
) -> World {
    assert_eq!(world.admin.get("/api/v1/root").await.body, bytes);
    let row: RootRow = world.admin.get("/api/v1/roots").await.json();
    assert_eq!(row.roots.len(), 2);
    let follow = row.roots[1..]
        .iter()
        .try_fold(old.clone(), |k, r| k.advance(&r.0));
    let new = follow.unwrap();
    assert_eq!(new.root().number, 2);
    assert_eq!(node.channel(&new).await.number, before + 1);
    // what was signed before the change is believed by those who know of it and by those who do not
    let documents = node.documents().await;
    let path = format!("/api/v1/manifests/{version}");
    let manifest = world.admin.get(&path).await.body;
    for keys in [old, &new] {
        Verified::<Order>::check(&documents.orders[0].0, keys).unwrap();
        Verified::<Manifest>::check(&manifest, keys).unwrap();
        Verified::<NodeCertificate>::check(&node.enrolled.certificate.0, keys).unwrap();
    }
    // a node that comes now, and an order
    let late = world.node("north", &format!("late-{before}")).await;
    Verified::<NodeCertificate>::check(&late.enrolled.certificate.0, &new).unwrap();
    world
}

#[tokio::test]
async fn there_is_no_way_back_to_an_older_root() {
    let world = World::new().await;
    let away = Away::of(&world);
    let first = world.admin.get("/api/v1/root").await.body;
    let second = away.root(&world, 1, &["root"], ONLINE, &["root"]).await;
    let other = away
        .root(&world, 1, &["root", "a"], ONLINE, &["root"])
        .await;
    publish_root(&world, &second, "")
        .await
        .json::<RootPublished>();
    let sentence = publish_root(&world, &first, "").await.refused(409);
    assert!(
        sentence.contains("number 1, and root 2 is trusted"),
        "{sentence}"
    );
    publish_root(&world, &other, "?force=true")
        .await
        .refused(409);
    for noise in [
        b"".to_vec(),
        b"noise".to_vec(),
        second[..second.len() - 1].to_vec(),
    ] {
        publish_root(&world, &noise, "").await.refused(400);
    }
    publish_root(&world, &second, "?force=maybe")
        .await
        .refused(400);
    // the third of a row is signed by the second, not the first
    let third = away.root(&world, 1, &["root"], ONLINE, &["root"]).await;
    publish_root(&world, &third, "")
        .await
        .json::<RootPublished>();
    let row: RootRow = world.admin.get("/api/v1/roots").await.json();
    let numbers = row
        .roots
        .iter()
        .map(|r| TrustedKeys::pin(&r.0).unwrap().root().number);
    assert_eq!(numbers.collect::<Vec<_>>(), [1, 2, 3]);
    assert!(matches!(
        TrustedKeys::pin(&third).unwrap().advance(&first),
        Err(TrustRootError::Older { .. })
    ));
}

#[tokio::test]
async fn a_key_stays_named_until_what_it_signed_is_signed_anew() {
    let world = World::new().await;
    let away = Away::of(&world);
    world.site("north", SiteUnknown::Wait).await;
    world.node("north", "n").await;
    world
        .publish("till", ManifestKind::Image, &[noise(1, 5000)])
        .await;
    world.order("north", "till").await;
    let root = |others| away.root(&world, 1, &["root"], others, &["root"]);

    let sentence = publish_root(
        &world,
        &root([&["image"], &["x"], &["authority"]]).await,
        "",
    )
    .await
    .refused(409);
    assert!(
        sentence.contains("the channels of north, 1 orders, and HQ cannot sign them"),
        "{sentence}"
    );
    let sentence = publish_root(
        &world,
        &root([&["x"], &["order"], &["authority"]]).await,
        "",
    )
    .await
    .refused(409);
    assert!(sentence.contains("the versions till "), "{sentence}");
    let sentence = publish_root(&world, &root([&["image"], &["order"], &["x"]]).await, "")
        .await
        .refused(409);
    assert!(
        sentence.contains("HQ holds no authority key that root 2 names"),
        "{sentence}"
    );
    away.give(&world, "x");
    let authority = root([&["image"], &["order"], &["x"]]).await;
    let sentence = publish_root(&world, &authority, "").await.refused(409);
    assert!(
        sentence.contains("the certificates of 1 nodes"),
        "{sentence}"
    );
    let none = root([&["image"], &[], &["authority"]]).await;
    let sentence = publish_root(&world, &none, "?force=true")
        .await
        .refused(400);
    assert!(sentence.contains("root 2 names no order key"), "{sentence}");
    assert_eq!(world.keys().await.root().number, 1);

    // both named is always right; by force everything is
    let both: [&[&str]; 3] = [&["image", "y"], &["order", "y"], &["authority", "x"]];
    let done: RootPublished = publish_root(&world, &root(both).await, "").await.json();
    assert!(done.notes.is_empty(), "{:?}", done.notes);
    let forced = away
        .root(
            &world,
            1,
            &["root"],
            [&["image"], &["order"], &["x"]],
            &["root"],
        )
        .await;
    publish_root(&world, &forced, "").await.refused(409);
    let done: RootPublished = publish_root(&world, &forced, "?force=true").await.json();
    assert!(
        done.notes
            .iter()
            .any(|n| n.contains("the certificates of 1 nodes")),
        "{:?}",
        done.notes
    );
}

#[tokio::test]
async fn a_version_waits_for_its_signature() {
    let (world, away) = with_keys(&["order", "authority"]).await;
    world.site("north", SiteUnknown::Wait).await;
    let image = world
        .publish("till", ManifestKind::Image, &[noise(1, 5000)])
        .await;
    assert!(image.waiting && image.release == 1);
    let next = world
        .publish("till", ManifestKind::Image, &[noise(2, 5000)])
        .await;
    assert_eq!(next.release, 2);
    assert_eq!(waiting(&world).await.images, [next.clone(), image.clone()]);
    assert!(
        world
            .admin
            .get("/api/v1/images")
            .await
            .json::<Vec<ImageVersion>>()
            .is_empty()
    );
    let path = format!("/api/v1/manifests/{}", image.version);
    world.admin.get(&path).await.refused(404);
    let wish = json!({"site": "north", "version": "till"});
    let sentence = world.admin.post("/api/v1/orders", &wish).await.refused(409);
    assert!(
        sentence.contains("waits for a signature by an image key"),
        "{sentence}"
    );

    world
        .admin
        .get("/api/v1/waiting/images/nothing")
        .await
        .refused(404);
    let sentence = world
        .admin
        .get("/api/v1/waiting/images/till")
        .await
        .refused(409);
    assert!(sentence.contains("2 versions"), "{sentence}");
    // HQ forgets nothing
    let world = world.restart().await;
    let path = format!("/api/v1/waiting/images/{}", image.version);
    let unsigned = world.admin.get(&path).await.body;
    let publish = async |bytes: Vec<u8>| {
        world
            .admin
            .raw(Method::POST, "/api/v1/signed/images", bytes)
            .await
    };
    let sentence = publish(unsigned.clone()).await.refused(400);
    assert!(
        sentence.contains(&away.public("image").to_string()),
        "{sentence}"
    );
    let wrong = add_signature::<Manifest>(&unsigned, &away.key("order")).unwrap();
    publish(wrong).await.refused(400);
    publish(b"noise".to_vec()).await.refused(400);
    let signed = add_signature::<Manifest>(&unsigned, &away.key("image")).unwrap();
    let published: ImageVersion = publish(signed.clone()).await.json();
    assert_eq!(
        (published.version, published.waiting),
        (image.version, false)
    );
    assert_eq!(waiting(&world).await.images, std::slice::from_ref(&next));
    assert_eq!(world.order("north", "till").await.version, image.version);
    // once more changes nothing
    assert_eq!(
        publish(signed.clone()).await.json::<ImageVersion>().release,
        1
    );

    let gone: ImageVersion = world
        .admin
        .raw(Method::DELETE, "/api/v1/waiting/images/till", vec![])
        .await
        .json();
    assert_eq!(gone.version, next.version);
    assert!(waiting(&world).await.images.is_empty());
    // somebody else's manifest with a true signature
    let foreign = manifest("till", ManifestKind::Image, &[noise(9, 5000)]);
    let foreign = add_signature::<Manifest>(&image_store::unsigned(&foreign), &away.key("image"));
    publish(foreign.unwrap()).await.refused(409);
    // a published one may have a further key's signature, and loses none
    let more = add_signature::<Manifest>(&signed, &away.key("image-2")).unwrap();
    publish(more.clone()).await.json::<ImageVersion>();
    let path = format!("/api/v1/manifests/{}", image.version);
    assert_eq!(world.admin.get(&path).await.body, more);
    let sentence = publish(signed).await.refused(409);
    assert!(
        sentence.contains(&away.public("image-2").to_string()),
        "{sentence}"
    );

    // the key comes back: what waits is signed at once
    world
        .publish("late", ManifestKind::Image, &[noise(3, 5000)])
        .await;
    away.give(&world, "image");
    let root = world.admin.get("/api/v1/root").await.body;
    publish_root(&world, &root, "")
        .await
        .json::<RootPublished>();
    assert_eq!(waiting(&world).await, Waiting::default());
    let late: ImageVersion = world.admin.get("/api/v1/images/late").await.json();
    assert_eq!((late.release, late.waiting), (2, false));
}

async fn take(world: &World, site: &str) -> Parcel {
    let path = format!("/api/v1/waiting/sites/{site}");
    let answer = world.admin.get(&path).await;
    assert_eq!(
        answer.status,
        200,
        "{}",
        String::from_utf8_lossy(&answer.body)
    );
    Parcel::from_bytes(&answer.body).unwrap()
}

async fn bring(world: &World, parcel: &Parcel) -> Answer {
    world
        .admin
        .raw(Method::POST, "/api/v1/signed/sites", parcel.to_bytes())
        .await
}

fn number(parcel: &Parcel) -> u64 {
    trust_format::peek::<Channel>(parcel.channel().unwrap())
        .unwrap()
        .number
}

#[tokio::test]
async fn a_change_of_a_site_waits_for_its_signature() {
    let world = World::new().await;
    let away = Away::of(&world);
    world.site("north", SiteUnknown::Wait).await;
    let node = world.node("north", "n").await;
    world
        .publish("till", ManifestKind::Image, &[noise(1, 5000)])
        .await;
    let world = keep(world, &away, &["image", "authority"]).await;
    let node = Node {
        caller: world.with_key(&node.key),
        ..node
    };
    let keys = world.keys().await;
    world
        .admin
        .get("/api/v1/waiting/sites/north")
        .await
        .refused(404);

    // only the newest waits; a number is never given twice
    let change = json!({"provisional": false});
    let site: SiteInfo = world
        .admin
        .send(Method::PATCH, "/api/v1/sites/north", &change)
        .await
        .json();
    assert_eq!((site.channel, node.channel(&keys).await.number), (1, 1));
    let mut early = take(&world, "north").await;
    assert_eq!(number(&early), 2);
    let order = world.order("north", "till").await;
    assert!(order.waiting && order.number == 1);
    assert!(node.documents().await.orders.is_empty());
    assert_eq!(world.order("north", "till").await.number, 2);
    let report = waiting(&world).await;
    let channel = WaitingChannel {
        site: "north".into(),
        number: 3,
        signed: 1,
    };
    assert_eq!((report.channels, report.orders.len()), (vec![channel], 2));
    assert_eq!(report.orders[0].name, "till");

    early.sign(&away.key("order")).unwrap();
    let sentence = bring(&world, &early).await.refused(409);
    assert!(sentence.contains("channel 3 waits"), "{sentence}");
    let world = world.restart().await;
    let mut parcel = take(&world, "north").await;
    assert_eq!((number(&parcel), parcel.orders().len()), (3, 2));
    let sentence = bring(&world, &parcel).await.refused(400);
    assert!(
        sentence.contains(&away.public("order").to_string()),
        "{sentence}"
    );
    let mut wrong = parcel.clone();
    wrong.sign(&away.key("image")).unwrap();
    bring(&world, &wrong).await.refused(400);
    parcel.sign(&away.key("order")).unwrap();
    let site: SiteInfo = bring(&world, &parcel).await.json();
    assert_eq!(site.channel, 3);
    assert_eq!(waiting(&world).await, Waiting::default());
    assert_eq!(bring(&world, &parcel).await.json::<SiteInfo>().channel, 3);
    let node = Node {
        caller: world.with_key(&node.key),
        ..node
    };
    let channel = node.channel(&keys).await;
    assert!(channel.number == 3 && !channel.provisional && channel.image.is_some());
    let orders = node.documents().await.orders;
    assert_eq!(orders.len(), 2);
    Verified::<Order>::check(&orders[1].0, &keys).unwrap();
    let empty = [b"LMPLPCL1".as_slice(), &[0; 5]].concat();
    for bytes in [b"".to_vec(), b"LMPLPCL1\x07".to_vec(), empty] {
        let answer = world
            .admin
            .raw(Method::POST, "/api/v1/signed/sites", bytes)
            .await;
        answer.refused(400);
    }
}

#[tokio::test]
async fn an_order_key_that_is_offline_is_changed_in_two_roots() {
    let (world, away) = with_keys(&["image", "authority"]).await;
    world.site("north", SiteUnknown::Wait).await;
    // a site whose first channel nobody signed yet has nothing to say to a node
    let token = world.token("north").await;
    let key = Key::new();
    let caller = world.with_key(&key);
    let wish = enrol(&token, "n");
    let sentence = caller.post("/api/v1/enrol", &wish).await.refused(409);
    assert!(sentence.contains("first channel waits"), "{sentence}");
    let mut parcel = take(&world, "north").await;
    parcel.sign(&away.key("order")).unwrap();
    bring(&world, &parcel).await.json::<SiteInfo>();
    let enrolled: Enrolled = caller.post("/api/v1/enrol", &wish).await.json();
    let node = Node {
        key,
        caller,
        enrolled,
    };
    world
        .publish("till", ManifestKind::Image, &[noise(1, 5000)])
        .await;
    world.order("north", "till").await;
    let mut parcel = take(&world, "north").await;
    parcel.sign(&away.key("order")).unwrap();
    bring(&world, &parcel).await.json::<SiteInfo>();

    // both keys are named, everything is signed by the new one, the old one goes
    let both = away
        .root(
            &world,
            1,
            &["root"],
            [&["image"], &["order", "order-2"], &["authority"]],
            &["root"],
        )
        .await;
    publish_root(&world, &both, "")
        .await
        .json::<RootPublished>();
    let path = "/api/v1/waiting/sites/north";
    let again = world.admin.raw(Method::POST, path, vec![]).await.body;
    let mut parcel = Parcel::from_bytes(&again).unwrap();
    assert_eq!((number(&parcel), parcel.orders().len()), (3, 1));
    let new = [&["image"][..], &["order-2"], &["authority"]];
    let new = away.root(&world, 1, &["root"], new, &["root"]).await;
    publish_root(&world, &new, "").await.refused(409);
    // a restart does not take it for out of date
    let world = world.restart().await;
    parcel.sign(&away.key("order-2")).unwrap();
    assert_eq!(parcel.signers().unwrap(), [away.public("order-2")]);
    bring(&world, &parcel).await.json::<SiteInfo>();
    let done: RootPublished = publish_root(&world, &new, "").await.json();
    assert_eq!(
        done.notes,
        ["the order key is offline: channels and orders wait for a signature"]
    );
    let keys = world.keys().await;
    let node = Node {
        caller: world.with_key(&node.key),
        ..node
    };
    assert_eq!(
        (keys.root().number, node.channel(&keys).await.number),
        (3, 3)
    );
    Verified::<Order>::check(&node.documents().await.orders[0].0, &keys).unwrap();

    // HQ may have it: then nothing waits
    away.give(&world, "order-2");
    let world = world.restart().await;
    world
        .admin
        .raw(Method::POST, path, vec![])
        .await
        .refused(409);
    assert!(!world.order("north", "till").await.waiting);
}

#[tokio::test]
async fn hq_says_which_keys_it_holds_and_needs_its_authority() {
    let (world, away) = with_keys(&[]).await;
    let keys: KeysInfo = world.admin.get("/api/v1/keys").await.json();
    assert_eq!((keys.number, keys.threshold), (1, 1));
    assert_eq!(keys.authority[0].key.0, away.public("authority").0);
    for named in [keys.root, keys.image, keys.order, keys.authority] {
        assert!(named.len() == 1 && !named[0].held);
    }
    world.site("north", SiteUnknown::Wait).await;
    let (key, token) = (Key::new(), world.token("north").await);
    let wish = enrol(&token, "n");
    let sentence = world
        .with_key(&key)
        .post("/api/v1/enrol", &wish)
        .await
        .refused(409);
    assert!(
        sentence.contains("no authority key that root 1 names"),
        "{sentence}"
    );
}
