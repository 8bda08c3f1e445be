//! Leases, objects, and the ledger.

use std::{sync::Arc, time::Duration};

use image_format::{ManifestKind, ObjectHash};
use reqwest::Method;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
};
use tokio_rustls::TlsConnector;
use web_api::*;

use crate::{pinned::tls, world::*};

#[tokio::test]
async fn one_node_of_a_site_holds_the_lease() {
    let world = World::new().await;
    for site in ["north", "south"] {
        world.site(site, SiteUnknown::Wait).await;
    }
    let (first, second) = (
        world.node("north", "till-1").await,
        world.node("north", "till-2").await,
    );
    let abroad = world.node("south", "till-3").await;
    let image = world
        .publish("till", ManifestKind::Image, &[noise(1, 5000)])
        .await;
    let bundle = world
        .publish("boot", ManifestKind::BootBundle, &[noise(2, 5000)])
        .await;
    first.ask_lease(image.version).await.refused(403);
    first.ask_lease(Hex([1; 32])).await.refused(403);
    world.order("north", "till").await;
    abroad.ask_lease(image.version).await.refused(403);
    abroad.ask_lease(bundle.version).await.json::<LeaseAnswer>();

    let lease: LeaseAnswer = first.ask_lease(image.version).await.json();
    assert_eq!((lease.fence, lease.seconds), (1, 10));
    assert_eq!(lease.kind, LeaseKind::Main);
    assert_eq!(
        first.ask_lease(image.version).await.json::<LeaseAnswer>(),
        lease
    );
    let held = second.ask_lease(image.version).await;
    assert!(held.refused(409).contains("till-1 fetches"));
    let held: LeaseHeld = serde_json::from_slice(&held.body).unwrap();
    assert_eq!(
        (held.holder.as_str(), held.key.0, held.finished),
        ("till-1", first.key.public.0, false)
    );
    second.ask_lease(bundle.version).await.json::<LeaseAnswer>();
    // a revoked holder gives way at once
    let path = format!("/api/v1/nodes/{}/revoke", first.key.public);
    world
        .admin
        .raw(Method::POST, &path, vec![])
        .await
        .json::<NodeInfo>();
    let taken: LeaseAnswer = second.ask_lease(image.version).await.json();
    assert_eq!(taken.fence, 2);
    assert_ne!(taken.token, lease.token);
}

#[tokio::test]
async fn the_ledger_counts_every_body_byte() {
    let world = World::new().await;
    world.site("north", SiteUnknown::Wait).await;
    let (node, other) = (
        world.node("north", "till-1").await,
        world.node("north", "till-2").await,
    );
    let objects = [noise(1, 300_000), noise(2, 1 << 20)];
    let stranger = noise(3, 1000);
    let image = world.publish("till", ManifestKind::Image, &objects).await;
    world
        .publish(
            "secret",
            ManifestKind::Image,
            std::slice::from_ref(&stranger),
        )
        .await;
    world.order("north", "till").await;
    let lease: LeaseAnswer = node.ask_lease(image.version).await.json();
    let token = lease.token.as_str();

    let path = format!("/api/v1/node/objects/{}", ObjectHash::of(&objects[0]));
    node.caller.get(&path).await.refused(403);
    node.fetch(&objects[0], "", None).await.refused(403);
    other.fetch(&objects[0], token, None).await.refused(403);
    node.fetch(&stranger, token, None).await.refused(403);
    assert_eq!(world.ledger_bytes().await, 0);

    let whole = node.fetch(&objects[0], token, None).await;
    assert_eq!((whole.status.as_u16(), &whole.body), (200, &objects[0]));
    assert_eq!(whole.headers["content-length"], "300000");
    assert!(
        whole.headers["cache-control"]
            .to_str()
            .unwrap()
            .starts_with("public, immutable")
    );
    world.ledger_becomes(|bytes| bytes == 300_000).await;

    let rest = node.fetch(&objects[0], token, Some("bytes=299000-")).await;
    assert_eq!(
        (rest.status.as_u16(), rest.body.as_slice()),
        (206, &objects[0][299_000..])
    );
    assert_eq!(rest.headers["content-range"], "bytes 299000-299999/300000");
    world.ledger_becomes(|bytes| bytes == 301_000).await;
    assert_eq!(
        node.fetch(&objects[0], token, Some("bytes=0-"))
            .await
            .status,
        206
    );
    world.ledger_becomes(|bytes| bytes == 601_000).await;
    let beyond = node.fetch(&objects[0], token, Some("bytes=300000-")).await;
    assert_eq!(beyond.headers["content-range"], "bytes */300000");
    beyond.refused(416);
    // forms that HQ does not know mean the whole
    for range in [
        "bytes=1-2",
        "bytes=-5",
        "bytes=1-,3-",
        "lines=1-",
        "bytes=99999999999999999999999-",
    ] {
        assert_eq!(
            node.fetch(&objects[0], token, Some(range)).await.status,
            200,
            "{range}"
        );
    }
    let five = world
        .ledger_becomes(|bytes| bytes == 601_000 + 5 * 300_000)
        .await;
    let head = node
        .caller
        .request(Method::HEAD, &path)
        .header(LEASE_HEADER, token);
    assert_eq!(Answer::of(head.send().await.unwrap()).await.body.len(), 0);

    // people's own reading is no WAN traffic of a site
    let admin = world
        .admin
        .get(&format!("/api/v1/objects/{}", ObjectHash::of(&objects[0])))
        .await;
    assert_eq!(admin.body, objects[0]);
    assert_eq!(world.ledger_bytes().await, five);
    let manifest = node
        .caller
        .get(&format!("/api/v1/node/manifests/{}", image.version))
        .await;
    assert_eq!(
        manifest.body,
        world
            .admin
            .get(&format!("/api/v1/manifests/{}", image.version))
            .await
            .body
    );
    let lines: Vec<LedgerLine> = world.admin.get("/api/v1/ledger").await.rows();
    assert_eq!(
        (lines[0].version, lines[0].object_bytes),
        (image.version, 300_000 + (1 << 20))
    );
}

/// Reads some of an object through a narrow receive buffer and hangs up. Returns how much of the body arrived.
async fn hang_up(world: &World, node: &Node, object: &[u8], lease: &str) -> u64 {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let stream = socket.connect(world.hq.address).await.unwrap();
    let config = Arc::new(tls(world.hq.fingerprint, Some(&node.key.pair)));
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(config)
        .connect(name, stream)
        .await
        .unwrap();
    let request = format!(
        "GET /api/v1/node/objects/{} HTTP/1.1\r\nhost: hq\r\n{LEASE_HEADER}: {lease}\r\n\r\n",
        ObjectHash::of(object)
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut read = Vec::new();
    while read.len() < 50_000 {
        stream.read_buf(&mut read).await.unwrap();
    }
    // let HQ fill what buffers there are, then vanish
    tokio::time::sleep(Duration::from_millis(200)).await;
    let head = read.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    (read.len() - head) as u64
}

#[tokio::test]
async fn an_aborted_transfer_is_in_the_ledger() {
    let world = World::new().await;
    world.site("north", SiteUnknown::Wait).await;
    let node = world.node("north", "till-1").await;
    let object = noise(1, 1 << 20);
    let image = world
        .publish("till", ManifestKind::Image, std::slice::from_ref(&object))
        .await;
    world.order("north", "till").await;
    let lease: LeaseAnswer = node.ask_lease(image.version).await.json();
    let mut counted = 0;
    for _ in 0..3 {
        let arrived = hang_up(&world, &node, &object, &lease.token).await;
        let now = world.ledger_becomes(|bytes| bytes > counted).await;
        assert!(
            (arrived..=1 << 20).contains(&(now - counted)),
            "{arrived} bytes arrived, {now} counted"
        );
        counted = now;
    }
    // and the repetition is counted on top
    node.fetch(&object, &lease.token, None).await;
    world
        .ledger_becomes(|bytes| bytes == counted + (1 << 20))
        .await;
}
