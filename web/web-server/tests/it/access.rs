//! Who gets in, and what hostile input meets.

use std::{
    io::Write,
    os::unix::fs::PermissionsExt,
    sync::{Arc, Mutex},
};

use futures_util::{StreamExt, stream};
use image_format::ManifestKind;
use reqwest::Method;
use serde_json::json;
use web_api::*;
use web_server::{Access, route_table};

use crate::world::*;

fn filled(path: &str) -> String {
    path.replace("{hash}", &"ab".repeat(32))
        .replace("{digest}", &"ab".repeat(32))
        .replace("{key}", &"ab".repeat(32))
        .replace("{name}", "north")
        .replace("{version}", "till")
        .replace("{id}", &"1".repeat(32))
}

#[tokio::test]
async fn no_route_answers_without_credentials() {
    let world = World::new().await;
    world.site("north", SiteUnknown::Wait).await;
    let node = world.node("north", "till-1").await;
    let stranger = world.with_key(&Key::new());
    let agent = crate::agents::admitted(&world, &node).await;
    let nobody = world.nobody();
    // strangers are answered slowly: many ask at once
    stream::iter(route_table())
        .for_each_concurrent(16, async |(method, path, access)| {
            let method: Method = method.parse().unwrap();
            let path = filled(path);
            let at = format!("{method} {path}");
            let body = || b"{}".to_vec();
            let status = nobody.raw(method.clone(), &path, body()).await.status;
            match access {
                Access::Public => assert_ne!(status, 401, "{at} is for anybody"),
                _ => assert_eq!(status, 401, "{at} without anything"),
            }
            // an administrator is no node, a node no administrator, a stranger neither
            let wrong = match access {
                Access::Public => vec![],
                Access::Person(..) => vec![&stranger, &agent, &node.caller],
                Access::Node => vec![&stranger, &agent, &world.admin],
                Access::Fetcher => vec![&stranger, &world.admin],
                Access::Newcomer => vec![&world.admin],
            };
            for caller in wrong {
                let answer = caller.raw(method.clone(), &path, body()).await;
                assert!(
                    [401, 403].contains(&answer.status.as_u16()),
                    "{at}: {answer:?}"
                );
                assert!(
                    serde_json::from_slice::<ApiError>(&answer.body).is_ok(),
                    "{at}"
                );
            }
        })
        .await;
    for (method, path) in [
        ("GET", "/api/v1"),
        ("POST", "/nothing"),
        ("GET", "/api/v2/sites"),
        ("GET", "/assets/"),
        ("DELETE", "/api/v1/sites"),
        ("TRACE", "/"),
    ] {
        let answer = nobody.raw(method.parse().unwrap(), path, vec![]).await;
        assert!(
            [401, 404, 405].contains(&answer.status.as_u16()),
            "{method} {path}: {answer:?}"
        );
        assert!(serde_json::from_slice::<ApiError>(&answer.body).is_ok());
    }
}

#[test]
fn every_route_is_documented() {
    let text = include_str!("../../../../docs/protocol/hq-api.md");
    for (method, path, access) in route_table() {
        let line = format!("| `{method} {path}` | {access} |");
        assert!(text.contains(&line), "docs/protocol/hq-api.md lacks {line}");
    }
}

#[tokio::test]
async fn the_page_says_nothing_by_itself_and_runs_no_foreign_script() {
    let world = World::new().await;
    let nobody = world.nobody();
    let index = String::from_utf8(nobody.get("/").await.body).unwrap();
    let mut paths = vec!["/", "/sites/0042%20Graz?row=1", "/nothing/of/that/kind"];
    let quoted = index.split('"');
    paths.extend(quoted.filter(|text| text.starts_with("/assets/")));
    assert!(paths.len() > 4, "a script and a style: {index}");
    for path in paths {
        let answer = nobody.get(path).await;
        assert_eq!(answer.status, 200, "{path}");
        let header = |name: &str| answer.headers[name].to_str().unwrap().to_owned();
        let policy = header("content-security-policy");
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"));
        let kind = header("content-type");
        let kept = header("cache-control");
        match path.starts_with("/assets/") {
            true => {
                assert!(
                    kind.starts_with("text/javascript") || kind.starts_with("text/css"),
                    "{path}: {kind}"
                );
                assert!(kept.contains("immutable"), "{path}: {kept}");
            }
            false => {
                assert!(kind.starts_with("text/html"), "{path}: {kind}");
                assert_eq!(kept, "no-cache", "{path}");
                assert_eq!(answer.body, index.as_bytes(), "{path}");
            }
        }
    }
    // nothing in it is the browser's to take for a script or a style
    assert!(!index.contains("<style") && !index.contains("style=") && !index.contains("onload"));
    assert!(!index.contains("<script>"), "{index}");
    nobody.get("/assets/nothing.js").await.refused(404);
    // a browser that has it already is told so
    let tag = nobody.get("/").await.headers["etag"].clone();
    let asked = nobody.request(Method::GET, "/");
    let asked = asked.header("if-none-match", tag).send().await.unwrap();
    assert_eq!(asked.status(), 304);
}

#[tokio::test]
async fn long_answers_travel_packed_and_what_is_counted_does_not() {
    let world = World::new().await;
    let packed = async |path: &str| {
        let asked = world.admin.request(Method::GET, path);
        let answer = asked.header("accept-encoding", "gzip").send().await;
        let answer = answer.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        let encoding = answer.headers().get("content-encoding").cloned();
        (encoding, answer.bytes().await.unwrap())
    };
    let (encoding, bytes) = packed("/api/v1/openapi.json").await;
    assert_eq!(encoding.unwrap(), "gzip");
    let plain = world.admin.get("/api/v1/openapi.json").await;
    assert!(!plain.headers.contains_key("content-encoding"));
    assert!(bytes.len() * 4 < plain.body.len(), "{} bytes", bytes.len());
    let (encoding, _) = packed("/").await;
    assert!(encoding.is_some());
    // short ones, what is watched, and files are as they are
    for path in [
        "/api/v1/me",
        "/api/v1/live?seconds=1",
        "/api/v1/export/sites",
        "/api/v1/root",
    ] {
        assert_eq!(packed(path).await.0, None, "{path}");
    }
}

#[tokio::test]
async fn hostile_input_is_refused_in_words() {
    let world = World::new().await;
    world.site("north", SiteUnknown::Wait).await;
    let node = world.node("north", "<img src=x onerror=alert(1)>").await;
    // markup is text, kept as it is
    let html = "<script>alert('x')</script>";
    let created = world.site(html, SiteUnknown::Wait).await;
    assert_eq!(created.site.name, html);
    let nodes: Vec<NodeInfo> = world.admin.get("/api/v1/nodes").await.rows();
    assert_eq!(nodes[0].name, "<img src=x onerror=alert(1)>");

    let long = "x".repeat(65);
    for name in [
        "",
        "   ",
        "two\nlines",
        "nul\0",
        long.as_str(),
        "\u{1F56F}".repeat(33).as_str(),
    ] {
        world
            .admin
            .post("/api/v1/sites", &json!({"name": name}))
            .await
            .refused(400);
    }
    world
        .admin
        .post("/api/v1/sites", &json!({"name": "north"}))
        .await
        .refused(409);
    let deep = "[".repeat(100_000).into_bytes();
    let bodies = [
        b"".to_vec(),
        b"{".to_vec(),
        b"null".to_vec(),
        b"\xff\xfe".to_vec(),
        b"{\"name\":1}".to_vec(),
        deep,
    ];
    for (method, path, access) in route_table() {
        let (method, mut path): (Method, _) = (method.parse().unwrap(), filled(path));
        if path == "/api/v1/live" {
            // else it goes on
            path += "?seconds=1";
        }
        let caller = match access {
            Access::Person(..) => &world.admin,
            _ => &node.caller,
        };
        for body in &bodies {
            let answer = caller.raw(method.clone(), &path, body.clone()).await;
            assert!(answer.status.as_u16() < 500, "{method} {path}: {answer:?}");
        }
        if method == Method::POST && !path.ends_with("manifests") {
            let answer = caller
                .raw(method.clone(), &path, vec![b' '; (1 << 20) + 1])
                .await;
            assert!(
                answer.status.is_client_error()
                    || path.contains("tokens")
                    || path.contains("authenticator")
                    || path.contains("revoke")
            );
        }
    }
    let too_large = vec![0; (1 << 20) + 64 * 1024];
    let path = format!("/api/v1/objects/{}", "ab".repeat(32));
    world
        .admin
        .raw(Method::PUT, &path, too_large)
        .await
        .refused(413);
    world
        .admin
        .raw(Method::PUT, &path, vec![0; (1 << 20) + 1])
        .await
        .refused(400);
    world
        .admin
        .raw(Method::PUT, &path, b"other bytes".to_vec())
        .await
        .refused(400);
    for path in [
        "/api/v1/objects/xyz",
        "/api/v1/images/%ff",
        "/api/v1/images/..%2f..%2fetc",
        "/api/v1/sites/%00",
    ] {
        let answer = world.admin.get(path).await;
        assert!(answer.status.is_client_error(), "{path}: {answer:?}");
    }
    let object = vec![noise(1, 100)];
    let mut wrong = payload(&manifest("till", ManifestKind::Image, &object));
    assert!(
        world
            .admin
            .raw(Method::POST, "/api/v1/manifests", wrong.clone())
            .await
            .refused(409)
            .contains("object")
    );
    wrong.push(0);
    world
        .admin
        .raw(Method::POST, "/api/v1/manifests", wrong)
        .await
        .refused(400);
    let number = json!({"peer_port": 1, "reports": [
        {"number": u64::MAX, "unix_seconds": 0, "report": {"kind": "trouble", "message": ""}}]});
    node.caller
        .post("/api/v1/node/reports", &number)
        .await
        .refused(400);
    let floor = json!({"release_floor": u64::MAX});
    world
        .admin
        .send(Method::PATCH, "/api/v1/sites/north", &floor)
        .await
        .refused(400);
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn secrets_stay_out_of_logs_and_open_files() {
    let log = Log::default();
    let writer = log.clone();
    // the other tests of this process write into it too, with secrets of their own
    let _ = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(move || writer.clone())
        .try_init();
    let world = World::new().await;
    world.site("north", SiteUnknown::Wait).await;
    let token = world.token("north").await;
    let node = world.node("north", "till-1").await;
    let image = world
        .publish("till", ManifestKind::Image, &[noise(1, 5000)])
        .await;
    world.order("north", "till").await;
    let lease: LeaseAnswer = node.ask_lease(image.version).await.json();
    let wrong = json!({"secret": Hex(token.secret), "surprise": true});
    world
        .with_key(&Key::new())
        .post("/api/v1/enrol", &wrong)
        .await
        .refused(400);

    let user = world.user("ada", Role::Viewer, &SiteScope::all()).await;
    let wish = json!({"name": "script", "days": 1});
    let made: AccessTokenMade = user.post("/api/v1/me/access-tokens", &wish).await.json();
    let path = "/api/v1/me/authenticator";
    let offer: AuthenticatorOffer = user.raw(Method::POST, path, vec![]).await.json();
    let (_, session) = user.cookie().split_once('=').unwrap();
    let typed = json!({"name": "ada", "password": "not this one", "surprise": true});
    world
        .nobody()
        .post("/api/v1/session", &typed)
        .await
        .refused(400);

    let log = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    assert!(log.contains("published"), "the log is caught");
    let secret = Hex(token.secret).to_string();
    for secret in [
        &world.admin_token,
        &token.to_string(),
        &secret,
        &lease.token,
        &PASSWORD.to_owned(),
        &"not this one".to_owned(),
        &session.to_owned(),
        &made.token,
        &offer.secret,
        world.hq.setup_code.as_ref().unwrap(),
    ] {
        assert!(!log.contains(secret.as_str()));
    }
    let folder = world.folder.path().join("hq");
    for name in ["admin-token", "tls-key.der", "keys/signing-keys"] {
        let mode = std::fs::metadata(folder.join(name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    assert_eq!(
        std::fs::metadata(&folder).unwrap().permissions().mode() & 0o777,
        0o700
    );
    if let Some(password) = world.backing.password() {
        assert!(
            !log.contains(password),
            "the database's password is in the log"
        );
        return;
    }
    for file in ["hq.sqlite", "hq.sqlite-wal"] {
        let bytes = std::fs::read(folder.join(file)).unwrap();
        assert!(
            !bytes.windows(32).any(|w| w == secret.as_bytes()),
            "{file} holds a token's secret"
        );
    }
}
