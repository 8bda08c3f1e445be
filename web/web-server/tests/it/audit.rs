//! The audit log: its chain, and what is done to it.

use reqwest::Method;
use serde_json::json;
use web_api::*;

use crate::world::*;

async fn check(world: &World) -> AuditCheck {
    world.admin.get("/api/v1/audit/check").await.json()
}

async fn acts(world: &World) {
    world.site("north", SiteUnknown::Wait).await;
    world.token("north").await;
    let user = world.user("ada", Role::Operator, &SiteScope::all()).await;
    let pin = json!({"pin": "13572468", "uses": 1, "hours": 1});
    let answer = user
        .send(Method::PUT, "/api/v1/sites/north/pin", &pin)
        .await;
    answer.json::<SitePin>();
    // what is refused changed nothing
    user.post("/api/v1/sites", &json!({"name": "north"}))
        .await
        .refused(409);
}

#[tokio::test]
async fn acts_are_said_with_who_and_without_secrets() {
    let world = World::new().await;
    let empty = check(&world).await;
    assert_eq!((empty.rows, empty.head), (0, AUDIT_BEGINNING));
    acts(&world).await;
    let page: AuditPage = world.admin.get("/api/v1/audit").await.json();
    let said: Vec<_> = page.rows.iter().rev().collect();
    let expect = [
        (
            "the token file",
            "token-file",
            "POST /api/v1/sites",
            "site \"north\" made, with a token",
        ),
        (
            "the token file",
            "token-file",
            "POST /api/v1/sites/{name}/tokens",
            "enrolment token of site \"north\" made",
        ),
        (
            "the token file",
            "token-file",
            "POST /api/v1/users",
            "account \"ada\" made: operator, all sites",
        ),
        ("ada", "password", "POST /api/v1/session", "signed in"),
        (
            "ada",
            "session",
            "PUT /api/v1/sites/{name}/pin",
            "PIN of site \"north\" set, for 1 machines and 1 hours",
        ),
    ];
    for (row, (who, means, operation, what)) in said.iter().zip(expect) {
        let found = (&*row.who, &*row.means, &*row.operation, &*row.what);
        assert_eq!(found, (who, means, operation, what));
        assert_eq!(row.address, "127.0.0.1");
    }
    assert_eq!(said.len(), expect.len());
    assert_eq!(said[1].target, "/api/v1/sites/north/tokens");
    let text = serde_json::to_string(&page).unwrap();
    assert!(!text.contains("13572468") && !text.contains(PASSWORD));
    // older pages
    let older: AuditPage = world.admin.get("/api/v1/audit?before=3").await.json();
    let numbers: Vec<_> = older.rows.iter().map(|row| row.number).collect();
    assert_eq!(numbers, [2, 1]);
    for query in ["before=x", "before=-1", "surprise=1"] {
        let path = format!("/api/v1/audit?{query}");
        world.admin.get(&path).await.refused(400);
    }
}

#[tokio::test]
async fn an_export_can_be_followed_by_anybody() {
    let world = World::new().await;
    acts(&world).await;
    let checked = check(&world).await;
    assert_eq!((checked.rows, &checked.fault), (5, &None));
    let export = world.admin.get("/api/v1/audit/export").await;
    assert_eq!(export.headers["content-type"], "application/jsonl");
    let text = String::from_utf8(export.body).unwrap();
    let mut chain = AuditChain::default();
    for line in text.lines() {
        chain.follow(&serde_json::from_str(line).unwrap()).unwrap();
    }
    assert_eq!((chain.rows(), chain.head()), (5, checked.head));
    // it goes on over restarts
    let world = world.restart().await;
    world.token("north").await;
    let after = check(&world).await;
    assert_eq!((after.rows, after.fault), (6, None));
}

#[tokio::test]
async fn a_row_that_was_changed_removed_or_moved_is_found() {
    for (statement, fault) in [
        ("UPDATE audit SET what = 'nothing' WHERE number = 3", "row 3 is not what was written"),
        ("UPDATE audit SET who = 'eve' WHERE number = 1", "row 1 is not what was written"),
        ("UPDATE audit SET unix_millis = 0 WHERE number = 5", "row 5 is not what was written"),
        ("DELETE FROM audit WHERE number = 2", "row 2 should come, and row 3 is there"),
        ("DELETE FROM audit WHERE number = 1", "row 1 should come, and row 2 is there"),
        (
            "UPDATE audit SET number = CASE number WHEN 2 THEN -3 ELSE -2 END WHERE number IN (2, 3);
             UPDATE audit SET number = -number WHERE number < 0",
            "row 2 is not what was written",
        ),
    ] {
        let world = World::new().await;
        acts(&world).await;
        let head = check(&world).await.head;
        world.sql(statement).await;
        let found = check(&world).await;
        assert!(found.fault.unwrap().contains(fault), "{statement}");
        assert_ne!(found.head, head);
    }
    // the last one taken away leaves a chain that holds: whoever kept its hash sees it
    let world = World::new().await;
    acts(&world).await;
    let before = check(&world).await;
    world.sql("DELETE FROM audit WHERE number = 5").await;
    let after = check(&world).await;
    assert_eq!((after.rows, &after.fault), (4, &None));
    assert_ne!(after.head, before.head);
}
