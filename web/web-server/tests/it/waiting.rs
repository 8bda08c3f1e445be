//! Versions, channels and orders whose key HQ does not hold.

use image_format::{Manifest, ManifestKind};
use image_store::{Parcel, add_signature};
use reqwest::Method;
use serde_json::json;
use trust_format::{Channel, Order, Verified};
use web_api::*;

use crate::{away::*, world::*};

async fn waiting(world: &World) -> Waiting {
    world.admin.get("/api/v1/waiting").await.json()
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
            .rows::<ImageVersion>()
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
    // a published one may have a further key's signature, and loses none; a key that the root does not name has none
    let others: [&[&str]; 3] = [&["image-2", "image"], &["order"], &["authority"]];
    let root = away.root(&world, 1, &["root"], others, &["root"]).await;
    publish_root(&world, &root, "")
        .await
        .json::<RootPublished>();
    let more = add_signature::<Manifest>(&unsigned, &away.key("image-2")).unwrap();
    let more = add_signature::<Manifest>(&more, &away.key("stranger")).unwrap();
    publish(more).await.json::<ImageVersion>();
    publish(signed).await.json::<ImageVersion>();
    let path = format!("/api/v1/manifests/{}", image.version);
    let bytes = world.admin.get(&path).await.body;
    let (envelope, _) = trust_format::peek_envelope::<Manifest>(&bytes).unwrap();
    assert_eq!(
        envelope.true_signers(),
        [away.public("image-2"), away.public("image")]
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
