//! Who is not let through: few places, slow refusals, short bodies, and nobody else's time.

use std::time::{Duration, Instant};

use reqwest::Method;
use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};
use web_api::SiteUnknown;

use crate::world::{Key, World, enrol};

/// As many as there are places, and more.
const SILENT: usize = 300;
const PLACES: usize = 256;

#[tokio::test]
async fn the_silent_make_room_and_members_do_not() {
    let world = World::new().await;
    world.site("north", SiteUnknown::Wait).await;
    let node = world.node("north", "till-1").await;
    node.documents().await;
    let mut silent = Vec::new();
    for _ in 0..SILENT {
        silent.push(TcpStream::connect(world.hq.address).await.unwrap());
    }
    // a newcomer gets in, and a member was never out
    world.nobody().get("/api/v1/summary").await.refused(401);
    node.documents().await;
    let mut sent_away = 0;
    for stream in &mut silent {
        let ended = timeout(Duration::from_millis(20), stream.read(&mut [0])).await;
        sent_away += usize::from(ended.is_ok());
    }
    assert!(sent_away >= SILENT - PLACES, "{sent_away} were sent away");
    assert!(sent_away < SILENT / 2, "{sent_away} were sent away");
}

#[tokio::test]
async fn refusals_are_slow_for_strangers_and_for_nobody_else() {
    let world = World::new().await;
    let took = async |caller: &crate::world::Caller| {
        let begun = Instant::now();
        caller.get("/api/v1/nothing").await.refused(404);
        begun.elapsed()
    };
    assert!(took(&world.nobody()).await >= Duration::from_millis(250));
    world.admin.get("/api/v1/summary").await;
    assert!(took(&world.admin).await < Duration::from_millis(250));
}

#[tokio::test]
async fn a_newcomer_brings_little() {
    let world = World::new().await;
    let newcomer = world.with_key(&Key::new());
    for path in [
        "/api/v1/enrol",
        "/api/v1/node/confirm",
        "/api/v1/agent/admit",
    ] {
        let much = vec![b' '; (16 << 10) + 1];
        let answer = newcomer.raw(Method::POST, path, much).await;
        answer.refused(413);
    }
    // what one needs to say fits, with a name as long as a name may be
    world.site("north", SiteUnknown::Wait).await;
    let token = world.token("north").await;
    let answer = newcomer
        .post("/api/v1/enrol", &enrol(&token, &"n".repeat(64)))
        .await;
    assert_eq!(answer.status, 200, "{answer:?}");
}
