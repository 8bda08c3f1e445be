//! Accounts, and the ways in.

use reqwest::Method;
use serde_json::json;
use totp_rs::{Algorithm, Builder};
use web_api::*;

use crate::world::*;

fn near() -> SiteScope {
    SiteScope {
        all: false,
        sites: vec!["near".into()],
        tags: vec![],
    }
}

fn wish(name: &str, password: &str) -> serde_json::Value {
    json!({"name": name, "password": password})
}

async fn needs_setup(caller: &Caller) -> bool {
    let state: SetupState = caller.get("/api/v1/setup").await.json();
    state.needed
}

#[tokio::test]
async fn whoever_started_hq_makes_the_first_account() {
    let world = World::new().await;
    let nobody = world.nobody();
    let code = world.hq.setup_code.clone().unwrap();
    assert!(needs_setup(&nobody).await);
    let setup =
        |code: &str, password: &str| json!({"code": code, "name": "ada", "password": password});
    for (wish, status) in [
        (setup("", PASSWORD), 403),
        (setup(&code[1..], PASSWORD), 403),
        (setup(&code, "short"), 400),
        (setup(&code, "Ada likes lamps"), 400),
    ] {
        nobody.post("/api/v1/setup", &wish).await.refused(status);
    }
    assert!(needs_setup(&nobody).await);
    let made = nobody.post("/api/v1/setup", &setup(&code, PASSWORD)).await;
    assert_eq!(made.status, 204, "{made:?}");
    let cookie = made.headers["set-cookie"].to_str().unwrap();
    assert!(cookie.starts_with("__Host-lamplighter="), "{cookie}");
    for part in ["; Secure", "; HttpOnly", "; SameSite=Strict", "; Path=/"] {
        assert!(cookie.contains(part), "{cookie} without {part}");
    }
    assert!(!cookie.contains("Domain"));
    let me: Me = nobody.with_session(&made).get("/api/v1/me").await.json();
    assert_eq!((me.name.as_str(), me.role), ("ada", Role::Administrator));
    assert_eq!((me.means, me.scope), (Means::Session, SiteScope::all()));
    // once
    assert!(!needs_setup(&nobody).await);
    let again = nobody.post("/api/v1/setup", &setup(&code, PASSWORD)).await;
    again.refused(403);
    let world = world.restart().await;
    assert_eq!(world.hq.setup_code, None);
    assert!(!needs_setup(&world.nobody()).await);
    world.sign_in("ada").await;
}

#[tokio::test]
async fn wrong_passwords_lock_an_account_and_tell_nothing() {
    let world = World::new().await;
    let nobody = world.nobody();
    world.user("ada", Role::Viewer, &SiteScope::all()).await;
    let sign_in = async |name: &str, password: &str| {
        nobody.post("/api/v1/session", &wish(name, password)).await
    };
    let unknown = sign_in("eve", PASSWORD).await.refused(401);
    for _ in 0..4 {
        let wrong = sign_in("ada", "lamps at dawn").await;
        assert_eq!(
            wrong.refused(401),
            unknown,
            "the same words for every cause"
        );
    }
    // the right one forgets the wrong ones
    assert_eq!(sign_in("ada", PASSWORD).await.status, 204);
    let rows = world.audit_rows().await;
    for _ in 0..5 {
        sign_in("ada", "lamps at dawn").await.refused(401);
    }
    assert_eq!(sign_in("ada", PASSWORD).await.refused(401), unknown);
    let page: AuditPage = world.admin.get("/api/v1/audit").await.json();
    assert_eq!(page.rows[0].number, rows + 1);
    assert!(page.rows[0].what.contains("locked"), "{:?}", page.rows[0]);
    let users: Vec<UserInfo> = world.admin.get("/api/v1/users").await.rows();
    assert!(users[0].locked_until_unix_seconds > 0);
    // time, or an administrator
    world.sql("UPDATE users SET locked_until = 1").await;
    assert_eq!(sign_in("ada", PASSWORD).await.status, 204);
    for _ in 0..5 {
        sign_in("ada", "lamps at dawn").await.refused(401);
    }
    sign_in("ada", PASSWORD).await.refused(401);
    let let_in = json!({"disabled": false});
    let user = world
        .admin
        .send(Method::PATCH, "/api/v1/users/ada", &let_in)
        .await;
    assert_eq!(user.json::<UserInfo>().locked_until_unix_seconds, 0);
    assert_eq!(sign_in("ada", PASSWORD).await.status, 204);
    let disabled = json!({"disabled": true});
    let user = world
        .admin
        .send(Method::PATCH, "/api/v1/users/ada", &disabled)
        .await;
    assert!(user.json::<UserInfo>().disabled);
    assert_eq!(sign_in("ada", PASSWORD).await.refused(401), unknown);
}

#[tokio::test]
async fn sessions_are_seen_and_end() {
    let world = World::new().await;
    let first = world.user("ada", Role::Viewer, &SiteScope::all()).await;
    let second = world.sign_in("ada").await;
    let third = world.sign_in("ada").await;
    let list: Vec<SessionInfo> = first.get("/api/v1/me/sessions").await.json();
    assert_eq!(list.len(), 3);
    assert_eq!(list.iter().filter(|s| s.current).count(), 1);
    assert!(list.iter().all(|s| s.address == "127.0.0.1"));
    let own = list.iter().find(|s| s.current).unwrap();
    let newest = list.iter().map(|s| s.id).max().unwrap();
    let path = format!("/api/v1/me/sessions/{newest}");
    assert_eq!(first.delete(&path).await.status, 204);
    third.get("/api/v1/me").await.refused(401);
    first.delete(&path).await.refused(404);
    // nobody ends another's by its number
    let bob = world.user("bob", Role::Viewer, &SiteScope::all()).await;
    let path = format!("/api/v1/me/sessions/{}", own.id);
    bob.delete(&path).await.refused(404);
    // another password ends the others
    let change = |old: &str, new: &str| json!({"old": old, "new": new});
    let put = async |body| first.send(Method::PUT, "/api/v1/me/password", &body).await;
    put(change("lamps at dawn", "lamps at noon"))
        .await
        .refused(403);
    put(change(PASSWORD, "short")).await.refused(400);
    second.get("/api/v1/me").await.json::<Me>();
    assert_eq!(put(change(PASSWORD, "lamps at noon")).await.status, 204);
    second.get("/api/v1/me").await.refused(401);
    first.get("/api/v1/me").await.json::<Me>();
    // who has a session and not the password guesses no further than who has none
    for _ in 0..5 {
        put(change("lamps at dawn", "lamps at dusk"))
            .await
            .refused(403);
    }
    let locked = put(change("lamps at noon", "lamps at dusk"))
        .await
        .refused(403);
    assert!(locked.contains("locked"), "{locked}");
    // an administrator ends them too, and signing out does
    let path = "/api/v1/users/bob/sessions";
    let list: Vec<SessionInfo> = world.admin.get(path).await.json();
    assert_eq!((list.len(), list[0].current), (1, false));
    assert_eq!(world.admin.delete(path).await.status, 204);
    bob.get("/api/v1/me").await.refused(401);
    let out = first.delete("/api/v1/session").await;
    assert!(
        out.headers["set-cookie"]
            .to_str()
            .unwrap()
            .contains("Max-Age=0")
    );
    first.get("/api/v1/me").await.refused(401);
}

#[tokio::test]
async fn sessions_end_by_themselves() {
    let world = World::new().await;
    for (statement, ends) in [
        ("UPDATE sessions SET seen = seen - 43100", false),
        ("UPDATE sessions SET seen = seen - 43300", true),
        ("UPDATE sessions SET made = made - 604700", false),
        ("UPDATE sessions SET made = made - 604900", true),
        ("UPDATE users SET disabled = 1", true),
        ("DELETE FROM sessions", true),
    ] {
        let name = format!("user {}", statement.len());
        let name = format!("{name} {}", statement.split(' ').next_back().unwrap());
        let user = world.user(&name, Role::Viewer, &SiteScope::all()).await;
        user.get("/api/v1/me").await.json::<Me>();
        world.sql(statement).await;
        let status = user.get("/api/v1/me").await.status;
        assert_eq!(status == 401, ends, "{statement}");
    }
}

#[tokio::test]
async fn a_foreign_page_does_nothing_with_a_session() {
    let world = World::new().await;
    let user = world.user("ada", Role::Operator, &SiteScope::all()).await;
    let cookie = user.cookie().to_owned();
    let own = format!("https://{}", world.hq.address);
    let ask = async |method: Method, headers: &[(&str, &str)]| {
        let path = match method {
            Method::GET => "/api/v1/sites",
            _ => "/api/v1/session",
        };
        let mut request = world.nobody().request(method, path);
        request = request.header("cookie", &cookie);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Answer::of(request.send().await.unwrap())
            .await
            .status
            .as_u16()
    };
    for (method, headers, status) in [
        (
            Method::DELETE,
            &[("origin", "https://evil.example")][..],
            403,
        ),
        (Method::DELETE, &[("origin", "null")], 403),
        (Method::DELETE, &[("sec-fetch-site", "cross-site")], 403),
        (Method::DELETE, &[("sec-fetch-site", "same-site")], 403),
        (Method::DELETE, &[], 403),
        (Method::GET, &[("origin", "https://evil.example")], 403),
        (Method::GET, &[("sec-fetch-site", "cross-site")], 403),
        (Method::GET, &[("sec-fetch-site", "none")], 200),
        (Method::GET, &[], 200),
        (Method::DELETE, &[("origin", &own)], 204),
    ] {
        let at = format!("{method} {headers:?}");
        assert_eq!(ask(method, headers).await, status, "{at}");
    }
}

/// The code that an authenticator shows so many steps from now.
fn code(secret: &str, steps: u64) -> String {
    let secret = totp_rs::Secret::try_from_base32(secret).unwrap();
    let totp = Builder::new()
        .with_algorithm(Algorithm::SHA1)
        .with_secret(secret)
        .build_noncompliant();
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    totp.generate(now + 30 * steps).to_string()
}

#[tokio::test]
async fn an_authenticator_is_asked_for_its_code_and_each_is_taken_once() {
    let world = World::new().await;
    let nobody = world.nobody();
    let user = world.user("ada", Role::Viewer, &SiteScope::all()).await;
    let path = "/api/v1/me/authenticator";
    user.send(Method::PUT, path, &json!({"code": "123456"}))
        .await
        .refused(409);
    let offer: AuthenticatorOffer = user.raw(Method::POST, path, vec![]).await.json();
    assert!(offer.url.starts_with("otpauth://totp/Lamplighter:ada?"));
    let show = |code: String| json!({"code": code});
    user.send(Method::PUT, path, &show("000000".into()))
        .await
        .refused(403);
    // an offer counts for nothing
    world.sign_in("ada").await;
    let first = code(&offer.secret, 0);
    let answer = user.send(Method::PUT, path, &show(first.clone())).await;
    assert_eq!(answer.status, 204, "{answer:?}");
    let sign_in = async |code: Option<&str>| {
        let wish = json!({"name": "ada", "password": PASSWORD, "code": code});
        nobody.post("/api/v1/session", &wish).await
    };
    let without = sign_in(None).await;
    assert!(without.refused(401).contains("authenticator"));
    let body: ApiError = serde_json::from_slice(&without.body).unwrap();
    assert!(body.needs_code);
    // a wrong password asks for no code
    let wrong = nobody
        .post("/api/v1/session", &wish("ada", "lamps at dawn"))
        .await;
    let body: ApiError = serde_json::from_slice(&wrong.body).unwrap();
    assert!(!body.needs_code);
    sign_in(Some(&first)).await.refused(401);
    sign_in(Some("000000")).await.refused(401);
    let second = code(&offer.secret, 1);
    let answer = sign_in(Some(&second)).await;
    assert_eq!(answer.status, 204, "{answer:?}");
    sign_in(Some(&second)).await.refused(401);
    // it cannot be replaced behind its owner's back, and an administrator helps who lost it
    user.raw(Method::POST, path, vec![]).await.refused(409);
    user.send(Method::DELETE, path, &show(second))
        .await
        .refused(403);
    let help = json!({"remove_authenticator": true});
    let info = world
        .admin
        .send(Method::PATCH, "/api/v1/users/ada", &help)
        .await;
    assert!(!info.json::<UserInfo>().has_authenticator);
    world.sign_in("ada").await;
}

#[tokio::test]
async fn access_tokens_are_for_scripts() {
    let world = World::new().await;
    world.site("near", SiteUnknown::Wait).await;
    world.site("far", SiteUnknown::Wait).await;
    let script = json!({"name": "script", "role": "operator", "scope": near()});
    let made: UserInfo = world.admin.post("/api/v1/users", &script).await.json();
    assert!(!made.has_password);
    let nobody = world.nobody();
    for password in ["", PASSWORD] {
        let wish = wish("script", password);
        nobody.post("/api/v1/session", &wish).await.refused(401);
    }
    let path = "/api/v1/users/script/access-tokens";
    for days in [0, 731] {
        let wish = json!({"name": "nightly", "days": days});
        world.admin.post(path, &wish).await.refused(400);
    }
    let wish = json!({"name": "nightly", "days": 30});
    let made: AccessTokenMade = world.admin.post(path, &wish).await.json();
    assert!(made.token.starts_with("lampa1"));
    let bearer = nobody.with_token(&made.token);
    let me: Me = bearer.get("/api/v1/me").await.json();
    assert_eq!((me.name.as_str(), me.means), ("script", Means::AccessToken));
    let sites: Vec<SiteInfo> = bearer.get("/api/v1/sites").await.rows();
    assert_eq!(sites.len(), 1);
    // how an account is entered is changed by who signs in
    bearer
        .post("/api/v1/me/access-tokens", &wish)
        .await
        .refused(403);
    let list: Vec<AccessTokenInfo> = world.admin.get("/api/v1/access-tokens").await.json();
    assert_eq!((list.len(), list[0].id), (1, made.info.id));
    assert!(list[0].seen_unix_seconds > 0);
    for (statement, status) in [
        ("UPDATE access_tokens SET until = 1", 401),
        ("UPDATE access_tokens SET until = 9000000000", 200),
        ("UPDATE users SET disabled = 1", 401),
        ("UPDATE users SET disabled = 0", 200),
    ] {
        world.sql(statement).await;
        let answer = bearer.get("/api/v1/me").await;
        assert_eq!(answer.status.as_u16(), status, "{statement}");
    }
    let path = format!("/api/v1/access-tokens/{}", made.info.id);
    assert_eq!(world.admin.delete(&path).await.status, 204);
    world.admin.delete(&path).await.refused(404);
    bearer.get("/api/v1/me").await.refused(401);
    // one's own
    let user = world.user("ada", Role::Viewer, &SiteScope::all()).await;
    let made: AccessTokenMade = user.post("/api/v1/me/access-tokens", &wish).await.json();
    let bearer = nobody.with_token(&made.token);
    bearer.get("/api/v1/sites").await.rows::<SiteInfo>();
    let path = format!("/api/v1/me/access-tokens/{}", made.info.id);
    let bob = world.user("bob", Role::Viewer, &SiteScope::all()).await;
    bob.delete(&path).await.refused(404);
    assert_eq!(user.delete(&path).await.status, 204);
    bearer.get("/api/v1/sites").await.refused(401);
}

#[tokio::test]
async fn accounts_are_made_changed_and_removed() {
    let world = World::new().await;
    world.site("near", SiteUnknown::Wait).await;
    world.site("far", SiteUnknown::Wait).await;
    let create = async |wish: serde_json::Value| world.admin.post("/api/v1/users", &wish).await;
    let scope = |sites: &[&str], tags: &[&str]| json!({"sites": sites, "tags": tags});
    for (wish, status) in [
        (json!({"name": "", "role": "viewer"}), 400),
        (json!({"name": "ada", "role": "root"}), 400),
        (
            json!({"name": "ada", "role": "viewer", "password": "short"}),
            400,
        ),
        (
            json!({"name": "ada", "role": "viewer", "scope": scope(&["south"], &[])}),
            404,
        ),
        (
            json!({"name": "ada", "role": "viewer", "scope": scope(&[], &["two words"])}),
            400,
        ),
        (
            json!({"name": "ada", "role": "viewer", "scope": {"all": true, "tags": ["pilot"]}}),
            400,
        ),
        (
            json!({"name": "ada", "role": "administrator", "scope": scope(&["near"], &[])}),
            400,
        ),
        (
            json!({"name": "ada", "role": "image-author", "scope": scope(&["near"], &[])}),
            400,
        ),
    ] {
        let at = wish.to_string();
        let answer = create(wish).await;
        assert_eq!(answer.status.as_u16(), status, "{at}: {answer:?}");
    }
    let user = world.user("ada", Role::Technician, &near()).await;
    create(json!({"name": "ada", "role": "viewer"}))
        .await
        .refused(409);
    let names = async |user: &Caller| -> Vec<String> {
        let sites: Vec<SiteInfo> = user.get("/api/v1/sites").await.rows();
        sites.into_iter().map(|s| s.name).collect()
    };
    assert_eq!(names(&user).await, ["near"]);
    let patch = async |wish: serde_json::Value| {
        world
            .admin
            .send(Method::PATCH, "/api/v1/users/ada", &wish)
            .await
    };
    patch(json!({"role": "administrator"})).await.refused(400);
    patch(json!({"surprise": 1})).await.refused(400);
    // a tag reaches sites that get it later, and no longer than they have it
    patch(json!({"scope": scope(&[], &["pilot"])}))
        .await
        .json::<UserInfo>();
    assert!(names(&user).await.is_empty());
    let tag = async |site: &str, tags: &[&str]| {
        let path = format!("/api/v1/sites/{site}");
        let change = json!({"tags": tags});
        world.admin.send(Method::PATCH, &path, &change).await
    };
    let far: SiteInfo = tag("far", &["pilot", "north", "pilot"]).await.json();
    assert_eq!(far.tags, ["north", "pilot"]);
    assert_eq!(names(&user).await, ["far"]);
    tag("far", &["north"]).await.json::<SiteInfo>();
    assert!(names(&user).await.is_empty());
    tag("far", &["a b"]).await.refused(400);
    // all at once
    let both = json!({"role": "operator", "scope": {"all": true}});
    let info: UserInfo = patch(both).await.json();
    assert_eq!((info.role, info.scope), (Role::Operator, SiteScope::all()));
    assert_eq!(names(&user).await, ["far", "near"]);
    // who reaches some sites gives them to nobody else
    let op = world.user("op", Role::Operator, &near()).await;
    let change = json!({"tags": ["mine"]});
    op.send(Method::PATCH, "/api/v1/sites/near", &change)
        .await
        .refused(403);
    // a password by an administrator ends what was open
    patch(json!({"password": "lamps at noon"}))
        .await
        .json::<UserInfo>();
    user.get("/api/v1/me").await.refused(401);
    assert_eq!(world.admin.delete("/api/v1/users/op").await.status, 204);
    op.get("/api/v1/me").await.refused(401);
    world.admin.delete("/api/v1/users/op").await.refused(404);
    let users: Vec<UserInfo> = world.admin.get("/api/v1/users").await.rows();
    let users: Vec<_> = users.iter().map(|u| u.name.as_str()).collect();
    assert_eq!(users, ["ada"]);
}

/// No secret of an account is stored, but for authenticators', which have to be.
#[tokio::test]
async fn secrets_of_accounts_are_stored_as_hashes() {
    let world = World::new().await;
    if world.backing.password().is_some() {
        return;
    }
    let user = world.user("ada", Role::Viewer, &SiteScope::all()).await;
    let wish = json!({"name": "script", "days": 1});
    let made: AccessTokenMade = user.post("/api/v1/me/access-tokens", &wish).await.json();
    let (_, session) = user.cookie().split_once('=').unwrap();
    for file in ["hq.sqlite", "hq.sqlite-wal"] {
        let bytes = std::fs::read(world.folder.path().join("hq").join(file)).unwrap();
        for secret in [PASSWORD, session, &made.token] {
            let found = bytes.windows(secret.len()).any(|w| w == secret.as_bytes());
            assert!(!found, "{file} holds a secret");
        }
    }
}
