//! Roots that change, and the keys that HQ holds.

use image_format::{Manifest, ManifestKind};
use trust_format::{Channel, NodeCertificate, Order, TrustRootError, TrustedKeys, Verified};
use web_api::*;

use crate::{away::*, world::*};

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
        sentence.contains("names: the channels of north, 1 orders. Name"),
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

/// A node's certificate goes over to a new authority key while the old one is still named.
#[tokio::test]
async fn an_authority_key_goes_when_every_node_has_its_new_certificate() {
    let world = World::new().await;
    let away = Away::of(&world);
    world.site("north", SiteUnknown::Wait).await;
    let node = world.node("north", "n").await;
    let first = world.keys().await;
    let number = node.channel(&first).await.number;
    away.give_new(&world, &["authority-2"]);
    let root = |authority| {
        let others: [&[&str]; 3] = [&["image"], &["order"], authority];
        away.root(&world, 1, &["root"], others, &["root"])
    };
    // named second, it signs nothing yet
    let both = root(&["authority", "authority-2"]).await;
    publish_root(&world, &both, "")
        .await
        .json::<RootPublished>();
    let ask = async |have: &[u8]| {
        let have = Hex(*blake3::hash(have).as_bytes());
        let path = format!("/api/v1/node/certificate?have={have}");
        node.caller
            .get(&path)
            .await
            .json::<Certified>()
            .certificate
            .0
    };
    let old = &node.enrolled.certificate.0;
    assert_eq!(ask(b"").await, *old);
    // a root that changes nothing of a site is told by its channel's number all the same
    assert_eq!(node.channel(&first).await.number, number + 1);

    let turned = root(&["authority-2", "authority"]).await;
    publish_root(&world, &turned, "")
        .await
        .json::<RootPublished>();
    let alone = root(&["authority-2"]).await;
    let sentence = publish_root(&world, &alone, "").await.refused(409);
    assert!(
        sentence.contains("the certificates of 1 nodes"),
        "{sentence}"
    );
    let new = ask(old).await;
    assert_ne!(new, *old);
    Verified::<NodeCertificate>::check(&new, &first).unwrap();
    // it was shown the new one and did not say that it has it
    publish_root(&world, &alone, "").await.refused(409);
    assert_eq!(ask(&new).await, new);
    publish_root(&world, &alone, "")
        .await
        .json::<RootPublished>();
    let keys = world.keys().await;
    assert_eq!(keys.root().number, 4);
    Verified::<NodeCertificate>::check(&new, &keys).unwrap();
    Verified::<NodeCertificate>::check(old, &keys).unwrap_err();
    for query in ["", "?have=", "?have=12", "?other=1"] {
        let path = format!("/api/v1/node/certificate{query}");
        node.caller.get(&path).await.refused(400);
    }
}

/// HQ ended after it had kept the root and before it told the sites.
#[tokio::test]
async fn a_root_that_was_kept_is_told_at_the_next_start() {
    let world = World::new().await;
    let away = Away::of(&world);
    world.site("north", SiteUnknown::Wait).await;
    let node = world.node("north", "n").await;
    let old = world.keys().await;
    let number = node.channel(&old).await.number;
    let bytes = away.root(&world, 1, &["root"], ONLINE, &["root"]).await;
    std::fs::write(keys_folder(&world).join("roots/2"), &bytes).unwrap();
    let mut world = world.restart().await;
    for _ in 0..2 {
        assert_eq!(world.admin.get("/api/v1/root").await.body, bytes);
        let caller = world.with_key(&node.key);
        let documents: NodeDocuments = caller.get("/api/v1/node/documents").await.json();
        let new = old.advance(&documents.roots.last().unwrap().0).unwrap();
        let channel: Verified<Channel> = Verified::check(&documents.channel.0, &new).unwrap();
        assert_eq!(channel.number, number + 1, "told once");
        world = world.restart().await;
    }
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
