//! Every route of people, for every role, with every kind of scope. A route that is added has to say here how it is asked.

use image_format::{ManifestKind, ObjectHash};
use reqwest::Method;
use serde_json::{Value, json};
use web_api::*;
use web_server::{Access, Bounds, route_table};

use crate::world::*;

/// What somebody does to one of two sites.
struct Place {
    site: &'static str,
    id: Hex<16>,
    node: String,
    machine: String,
    token: u64,
    version: String,
}

/// How a route is asked.
enum Sample {
    /// About a site, which the path or the body names or belongs to: out of reach it is not known.
    Site(String, Value),
    /// A list: of sites out of reach it says nothing.
    List,
    /// About nothing of a site.
    Free(String, Value),
}

fn sample(operation: &str, place: &Place) -> Sample {
    use Sample::{Free, List, Site};
    let site = format!("/api/v1/sites/{}", place.site);
    let (node, machine) = (&place.node, &place.machine);
    let none = Value::Null;
    let hash = "ab".repeat(32);
    let (_, path) = operation.split_once(' ').unwrap();
    let free = |body: Value| Free(path.to_owned(), body);
    match operation {
        "GET /api/v1/summary"
        | "GET /api/v1/sites"
        | "GET /api/v1/machines"
        | "GET /api/v1/orders"
        | "GET /api/v1/nodes"
        | "GET /api/v1/events"
        | "GET /api/v1/export/sites"
        | "GET /api/v1/export/machines"
        | "GET /api/v1/ledger"
        | "GET /api/v1/vouchers" => List,
        "GET /api/v1/sites/{name}" => Site(site, none),
        "PATCH /api/v1/sites/{name}" => Site(site, json!({"unknown": "wait"})),
        "GET /api/v1/sites/{name}/wan" => Site(site + "/wan", none),
        "PATCH /api/v1/sites/{name}/wan" => Site(site + "/wan", json!({"paused": false})),
        "GET /api/v1/sites/{name}/tokens" => Site(site + "/tokens", none),
        "POST /api/v1/sites/{name}/tokens" => Site(site + "/tokens", json!({})),
        "DELETE /api/v1/tokens/{id}" => Site(format!("/api/v1/tokens/{}", place.token), none),
        "POST /api/v1/sites/{name}/vouchers" => {
            let key = Hex(Key::new().public.0);
            let wish = json!({"name": "stick", "machines": 1, "order": null, "key": key});
            Site(site + "/vouchers", wish)
        }
        "PUT /api/v1/sites/{name}/pin" => Site(
            site + "/pin",
            json!({"pin": "24681357", "uses": 1, "hours": 1}),
        ),
        "DELETE /api/v1/sites/{name}/pin" => Site(site + "/pin", none),
        "POST /api/v1/machines/{id}/approve" => {
            let path = format!("/api/v1/machines/{machine}/approve?site={}", place.id);
            Site(path, none)
        }
        "POST /api/v1/machines/{id}/demote" => {
            let path = format!("/api/v1/machines/{machine}/demote");
            Site(path, json!({"site": place.site, "sign": "serial"}))
        }
        "POST /api/v1/orders" => Site(
            "/api/v1/orders".into(),
            json!({"site": place.site, "version": place.version}),
        ),
        "POST /api/v1/nodes/{key}/rename" => {
            let path = format!("/api/v1/nodes/{node}/rename");
            Site(path, json!({"name": format!("till of {}", place.site)}))
        }
        "POST /api/v1/nodes/{key}/revoke" => Site(format!("/api/v1/nodes/{node}/revoke"), none),
        "GET /metrics" => free(none),
        // else it goes on
        "GET /api/v1/live" => Free("/api/v1/live?seconds=1".into(), none),
        "GET /api/v1/images" | "GET /api/v1/root" => free(none),
        "GET /api/v1/images/{version}" => Free("/api/v1/images/till".into(), none),
        "POST /api/v1/import/sites" => free(none),
        "POST /api/v1/sites" => free(json!({"name": "east"})),
        "POST /api/v1/objects/missing" => free(json!({"objects": [hash]})),
        "PUT /api/v1/objects/{hash}" | "GET /api/v1/objects/{hash}" => {
            Free(format!("/api/v1/objects/{}", ObjectHash::of(b"null")), none)
        }
        "POST /api/v1/manifests" | "POST /api/v1/signed/images" | "POST /api/v1/signed/sites" => {
            free(json!("no document"))
        }
        "GET /api/v1/manifests/{digest}" => Free(format!("/api/v1/manifests/{hash}"), none),
        "GET /api/v1/waiting/images/{version}" | "DELETE /api/v1/waiting/images/{version}" => {
            Free("/api/v1/waiting/images/none".into(), none)
        }
        "GET /api/v1/waiting/sites/{name}" | "POST /api/v1/waiting/sites/{name}" => {
            Free(format!("/api/v1/waiting/sites/{}", place.site), none)
        }
        "GET /api/v1/keys"
        | "GET /api/v1/roots"
        | "GET /api/v1/waiting"
        | "GET /api/v1/users"
        | "GET /api/v1/access-tokens"
        | "GET /api/v1/audit"
        | "GET /api/v1/audit/check"
        | "GET /api/v1/audit/export"
        | "GET /api/v1/me"
        | "GET /api/v1/openapi.json"
        | "GET /api/v1/me/sessions"
        | "GET /api/v1/me/access-tokens" => free(none),
        "POST /api/v1/roots" => free(json!("no root")),
        "POST /api/v1/users" => free(json!({"name": "eve", "role": "viewer"})),
        "PATCH /api/v1/users/{name}" => Free("/api/v1/users/other".into(), json!({})),
        "DELETE /api/v1/users/{name}" => Free("/api/v1/users/nobody".into(), none),
        "GET /api/v1/users/{name}/sessions" | "DELETE /api/v1/users/{name}/sessions" => {
            Free("/api/v1/users/other/sessions".into(), none)
        }
        "POST /api/v1/users/{name}/access-tokens" => Free(
            "/api/v1/users/other/access-tokens".into(),
            json!({"name": "script", "days": 1}),
        ),
        "DELETE /api/v1/access-tokens/{id}" => Free("/api/v1/access-tokens/999".into(), none),
        "PUT /api/v1/me/password" => free(json!({"old": "wrong", "new": PASSWORD})),
        "POST /api/v1/me/authenticator" => free(none),
        "PUT /api/v1/me/authenticator" | "DELETE /api/v1/me/authenticator" => {
            free(json!({"code": "000000"}))
        }
        "DELETE /api/v1/me/sessions/{id}" => Free("/api/v1/me/sessions/999".into(), none),
        "POST /api/v1/me/access-tokens" => free(json!({"name": "script", "days": 1})),
        "DELETE /api/v1/me/access-tokens/{id}" => Free("/api/v1/me/access-tokens/999".into(), none),
        "DELETE /api/v1/session" => free(none),
        _ => panic!("{operation} is new: how is it asked, and what does a scope do to it?"),
    }
}

/// What changes nothing that people would ask of afterwards.
const NO_ACTS: [&str; 2] = ["POST /api/v1/objects/missing", "PUT /api/v1/objects/{hash}"];

async fn place(world: &World, site: &'static str, serial: &str) -> Place {
    let created = world.site(site, SiteUnknown::Wait).await;
    let node = world.node(site, &format!("{site}-node")).await;
    let machine = Hex(*blake3::hash(site.as_bytes())
        .as_bytes()
        .first_chunk::<16>()
        .unwrap());
    let facts = Facts {
        serial: Some(serial.into()),
        uuid: None,
        ..facts("till")
    };
    node.report(1, vec![NodeReport::Waiting { machine, facts }])
        .await;
    world.order(site, "till").await;
    world.token(site).await;
    let tokens: Vec<TokenInfo> = world
        .admin
        .get(&format!("/api/v1/sites/{site}/tokens"))
        .await
        .json();
    Place {
        site,
        id: created.site.id,
        node: node.key.public.to_string(),
        machine: machine.to_string(),
        token: tokens[0].id,
        version: "till".into(),
    }
}

/// Whether the gate or a right refused, not what came after.
fn is_refused_at_the_gate(answer: &Answer) -> bool {
    let sentence = serde_json::from_slice::<ApiError>(&answer.body).map(|e| e.error);
    answer.status == 403
        && sentence.is_ok_and(|s| s.contains("needs the right to") || s.contains("sites only"))
}

async fn ask(caller: &Caller, method: &str, path: &str, body: &Value) -> Answer {
    let body = match body {
        Value::Null if method == "PUT" => b"null".to_vec(),
        Value::Null => vec![],
        body => body.to_string().into_bytes(),
    };
    caller.raw(method.parse().unwrap(), path, body).await
}

#[tokio::test]
async fn every_role_with_every_scope_on_every_route() {
    let world = World::new().await;
    world
        .publish("till", ManifestKind::Image, &[noise(1, 5000)])
        .await;
    let near = place(&world, "near", "S-near").await;
    let far = place(&world, "far", "S-far").await;
    let tagged = json!({"tags": ["pilot"]});
    let answer = world
        .admin
        .send(Method::PATCH, "/api/v1/sites/near", &tagged)
        .await;
    answer.json::<SiteInfo>();
    world.user("other", Role::Viewer, &SiteScope::all()).await;
    let scopes = [
        SiteScope {
            sites: vec!["near".into()],
            ..SiteScope::default()
        },
        SiteScope {
            tags: vec!["pilot".into()],
            ..SiteScope::default()
        },
        SiteScope::all(),
    ];
    let mut routes = route_table();
    // who signs out asks nothing more
    routes.sort_by_key(|(method, path, _)| method == "DELETE" && *path == "/api/v1/session");
    let mut asked = 0;
    for role in Role::ALL {
        for scope in &scopes {
            let whole = matches!(role, Role::Administrator | Role::ImageAuthor);
            if whole && !scope.all {
                continue;
            }
            let name = format!("{role} of {scope}");
            let caller = world.user(&name, role, scope).await;
            for (method, path, access) in &routes {
                let Access::Person(right, bounds) = *access else {
                    continue;
                };
                let operation = format!("{method} {path}");
                let at = format!("{name}: {operation}");
                let may = role.has(right) && (scope.all || bounds == Bounds::Sites);
                let rows = world.audit_rows().await;
                let answer = match sample(&operation, &near) {
                    Sample::List => {
                        let answer = ask(&caller, method, path, &Value::Null).await;
                        let text = String::from_utf8_lossy(&answer.body);
                        for word in ["\"far\"", "far-node", &far.node, &far.machine] {
                            assert!(scope.all || !text.contains(word), "{at} tells of {word}");
                        }
                        answer
                    }
                    Sample::Free(path, body) => ask(&caller, method, &path, &body).await,
                    Sample::Site(path, body) => {
                        if may && !scope.all {
                            let Sample::Site(path, body) = sample(&operation, &far) else {
                                unreachable!("it is about a site")
                            };
                            let answer = ask(&caller, method, &path, &body).await;
                            assert_eq!(answer.status, 404, "{at} out of reach: {answer:?}");
                        }
                        ask(&caller, method, &path, &body).await
                    }
                };
                asked += 1;
                assert_ne!(answer.status, 401, "{at}");
                assert_eq!(!is_refused_at_the_gate(&answer), may, "{at}: {answer:?}");
                assert!(answer.status.as_u16() < 500, "{at}: {answer:?}");
                let is_act = method != "GET" && !NO_ACTS.contains(&operation.as_str());
                let changed = answer.status.is_success() && is_act;
                let more = world.audit_rows().await - rows;
                assert_eq!(more, u64::from(changed), "{at} in the audit log");
            }
        }
    }
    assert!(asked > 500, "{asked}");
    // what was out of reach is there
    for (method, path, access) in &routes {
        let operation = format!("{method} {path}");
        if !matches!(access, Access::Person(..)) {
            continue;
        }
        if let Sample::Site(path, body) = sample(&operation, &far) {
            let answer = ask(&world.admin, method, &path, &body).await;
            assert!(answer.status.is_success(), "{operation}: {answer:?}");
        }
    }
    let check: AuditCheck = world.admin.get("/api/v1/audit/check").await.json();
    assert_eq!(check.fault, None);
}
