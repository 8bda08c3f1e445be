//! Lists: pages, orders, filters, searches, and what a scope leaves of them.

use std::collections::BTreeSet;

use serde_json::json;
use web_api::*;

use crate::world::{Caller, Node, World, facts};

/// All rows of a list, in pages of so many.
async fn walk<T: serde::de::DeserializeOwned>(caller: &Caller, list: &str, limit: u32) -> Vec<T> {
    let join = if list.contains('?') { '&' } else { '?' };
    let mut rows = Vec::new();
    let mut after = String::new();
    loop {
        let path = format!("/api/v1/{list}{join}limit={limit}{after}");
        let page: Page<T> = caller.get(&path).await.json();
        assert_eq!(page.total.is_some(), after.is_empty(), "{path}");
        assert!(page.rows.len() <= limit as usize, "{path}");
        rows.extend(page.rows);
        match page.next {
            Some(next) => after = format!("&after={next}"),
            None => return rows,
        }
    }
}

fn names(sites: &[SiteInfo]) -> Vec<&str> {
    sites.iter().map(|site| site.name.as_str()).collect()
}

fn facts_of(model: &str, serial: &str) -> Facts {
    Facts {
        serial: Some(serial.into()),
        ..facts(model)
    }
}

/// A node reports a machine, which waits.
async fn see(node: &Node, number: u64, machine: u8, facts: &Facts) {
    let machine = Hex([machine; 16]);
    let facts = facts.clone();
    let report = NodeReport::Waiting { machine, facts };
    node.report(number, vec![report]).await;
}

#[tokio::test]
async fn pages_follow_each_other_in_every_order() {
    let world = World::new().await;
    for name in ["east", "north", "south", "west", "up", "down"] {
        world.site(name, SiteUnknown::Wait).await;
    }
    for sort in ["name", "machines", "failed", "wan"] {
        for reverse in [false, true] {
            let list = format!("sites?sort={sort}&reverse={reverse}");
            let all: Vec<SiteInfo> = walk(&world.admin, &list, 500).await;
            assert_eq!(all.len(), 6);
            for limit in [1, 2, 3, 6] {
                let rows: Vec<SiteInfo> = walk(&world.admin, &list, limit).await;
                assert_eq!(rows, all, "{list} by {limit}");
            }
        }
    }
    let all: Vec<SiteInfo> = walk(&world.admin, "sites", 4).await;
    assert_eq!(
        names(&all),
        ["down", "east", "north", "south", "up", "west"]
    );
    // a row that comes before the place moves nobody, one behind it is given
    let first: Page<SiteInfo> = world.admin.get("/api/v1/sites?limit=3").await.json();
    assert_eq!(first.total, Some(6));
    world.site("above", SiteUnknown::Wait).await;
    world.site("sky", SiteUnknown::Wait).await;
    let path = format!("/api/v1/sites?limit=3&after={}", first.next.unwrap());
    let second: Page<SiteInfo> = world.admin.get(&path).await.json();
    assert_eq!(names(&second.rows), ["sky", "south", "up"]);
}

#[tokio::test]
async fn what_a_list_does_not_take_is_said() {
    let world = World::new().await;
    world.site("east", SiteUnknown::Wait).await;
    world.site("north", SiteUnknown::Wait).await;
    let page: Page<SiteInfo> = world.admin.get("/api/v1/sites?limit=1").await.json();
    let next = page.next.unwrap();
    let words = "a ".repeat(9).replace(' ', "+");
    for (asked, says) in [
        ("sites?limit=0", "1 to 500 rows, not 0"),
        ("sites?limit=501", "1 to 500 rows, not 501"),
        ("sites?limit=many", "asked for: limit: "),
        ("sites?sort=size", "unknown variant `size`"),
        ("sites?page=2", "unknown field `page`"),
        ("sites?has=fun", "unknown variant `fun`"),
        ("sites?after=x", "no place in this list"),
        (
            &format!("sites?after={next}&reverse=true"),
            "no place in this list",
        ),
        (
            &format!("sites?after={next}&sort=wan"),
            "no place in this list",
        ),
        (&format!("nodes?after={next}"), "no place in this list"),
        (&format!("sites?search={words}"), "at most 8 words"),
        ("machines?site=a&site=b", "duplicate field"),
    ] {
        let sentence = world
            .admin
            .get(&format!("/api/v1/{asked}"))
            .await
            .refused(400);
        assert!(sentence.contains(says), "{asked}: {sentence}");
    }
}

#[tokio::test]
async fn machines_are_found_by_what_is_on_their_stickers() {
    let world = World::new().await;
    world.site("north", SiteUnknown::Wait).await;
    world.site("south", SiteUnknown::Admit).await;
    let north = world.node("north", "office").await;
    let south = world.node("south", "till").await;
    let mut facts = facts_of("Dell Inc. OptiPlex 7090", "ABC-100%");
    facts.macs = vec!["525400aabb01".parse().unwrap()];
    see(&north, 1, 1, &facts).await;
    facts.serial = Some("ABC-100x".into());
    facts.macs = vec!["525400aabb02".parse().unwrap()];
    see(&north, 2, 2, &facts).await;
    let mut other = facts_of("LENOVO ThinkCentre M70q", "PF3ÄÖ9");
    other.uuid = Some("4c4c4544004210368051b4c04f4a3132".parse().unwrap());
    see(&south, 1, 3, &other).await;
    let found = async |asked: &str| {
        let rows: Vec<Machine> = walk(&world.admin, &format!("machines?{asked}"), 2).await;
        rows.iter()
            .map(|machine| machine.id.0[0])
            .collect::<BTreeSet<_>>()
    };
    for (asked, machines) in [
        ("", &[1, 2, 3][..]),
        ("search=optiplex", &[1, 2]),
        ("search=OPTI+dell", &[1, 2]),
        ("search=aabb02", &[2]),
        ("search=52:54:00:aa:bb:01", &[1]),
        ("search=AA-BB-01", &[1]),
        // signs of patterns are none
        ("search=100%25", &[1]),
        ("search=abc-100_", &[]),
        ("search=4c4c4544-0042-1036-8051-b4c04f4a3132", &[3]),
        ("search=%C3%A4%C3%B6", &[3]),
        ("search=dell+thinkcentre", &[]),
        ("search=%27+OR+1%3D1+--", &[]),
        ("site=north", &[1, 2]),
        ("site=nowhere", &[]),
        ("site=south&state=waiting", &[3]),
        ("state=failed", &[]),
        ("sort=site", &[1, 2, 3]),
    ] {
        assert_eq!(
            found(asked).await,
            machines.iter().copied().collect(),
            "{asked}"
        );
    }
    // what is known of a machine changes
    facts.serial = Some("XYZ".into());
    see(&north, 3, 2, &facts).await;
    assert_eq!(found("search=xyz").await, [2].into());
    assert_eq!(found("search=abc-100x").await, [].into());
    // a search within a site, and one of somebody who reaches another
    assert_eq!(found("site=north&search=dell").await, [1, 2].into());
    assert_eq!(found("site=south&search=dell").await, [].into());
    // a site's reach goes for rows and for their number
    let scope = SiteScope {
        sites: vec!["north".into()],
        ..SiteScope::default()
    };
    let bob = world.user("bob", Role::Viewer, &scope).await;
    let page: Page<Machine> = bob.get("/api/v1/machines?limit=1").await.json();
    assert_eq!((page.rows.len(), page.total), (1, Some(2)));
    for (search, rows) in [("dell", 2), ("lenovo", 0), ("e", 2)] {
        let path = format!("/api/v1/machines?search={search}");
        assert_eq!(bob.get(&path).await.rows::<Machine>().len(), rows);
        let path = format!("/api/v1/nodes?search={search}");
        bob.get(&path).await.rows::<NodeInfo>();
    }
    let nodes: Vec<NodeInfo> = bob.get("/api/v1/nodes?search=till").await.rows();
    assert!(nodes.is_empty());
    let sites: Page<SiteInfo> = bob.get("/api/v1/sites?sort=machines").await.json();
    assert_eq!((names(&sites.rows), sites.total), (vec!["north"], Some(1)));
}

#[tokio::test]
async fn a_machines_state_is_what_people_have_to_know() {
    let world = World::new().await;
    world.site("north", SiteUnknown::Wait).await;
    let node = world.node("north", "office").await;
    let facts = facts_of("model", "1");
    see(&node, 1, 1, &facts).await;
    see(&node, 2, 2, &facts_of("model", "2")).await;
    let state = async || {
        let path = format!("/api/v1/machines?id={}", Hex([1; 16]));
        let rows: Vec<Machine> = world.admin.get(&path).await.rows();
        let path = format!("{path}&state={}", rows[0].state.word());
        assert_eq!(world.admin.get(&path).await.rows::<Machine>(), rows);
        rows[0].state
    };
    let site = async || {
        let site: SiteInfo = world.admin.get("/api/v1/sites/north").await.json();
        (site.machines, site.waiting, site.imaging, site.failed)
    };
    assert_eq!(state().await, MachineState::Waiting);
    assert_eq!(site().await, (2, 2, 0, 0));
    let machine = Hex([1; 16]);
    let path = format!("/api/v1/machines/{machine}/approve");
    let approved: Machine = world.admin.post(&path, &json!({})).await.json();
    assert_eq!(approved.state, MachineState::Ready);
    assert_eq!(state().await, MachineState::Ready);
    for (number, (said, expect)) in (3..).zip([
        (InstallState::Waiting, MachineState::Ready),
        (InstallState::Writing, MachineState::Imaging),
        (InstallState::Rebooting, MachineState::Imaging),
        (InstallState::Failed, MachineState::Failed),
    ]) {
        let report = InstallReport {
            state: said,
            version: None,
            order: None,
            done_bytes: 0,
            total_bytes: 0,
            received_bytes: 0,
            from: vec![],
            peer: None,
            message: String::new(),
        };
        node.report(number, vec![NodeReport::Install { machine, report }])
            .await;
        assert_eq!(state().await, expect, "{said:?}");
    }
    assert_eq!(site().await, (2, 1, 0, 1));
    let sites: Vec<SiteInfo> = world.admin.get("/api/v1/sites?has=failed").await.rows();
    assert_eq!(names(&sites), ["north"]);
    let sites: Vec<SiteInfo> = world.admin.get("/api/v1/sites?has=done").await.rows();
    assert!(sites.is_empty());
}

/// More lines than one search looks at.
#[tokio::test]
async fn a_search_in_what_happened_goes_on_where_a_page_ends() {
    let world = World::new().await;
    world.site("north", SiteUnknown::Wait).await;
    world
        .sql(
            "INSERT INTO events (site, source, kind, message, happened)
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 45000)
             SELECT (SELECT id FROM sites), 'office',
                CASE WHEN i % 9 = 0 THEN 'boot' ELSE 'trouble' END, 'line ' || i || '.', i FROM n",
        )
        .await;
    let page: Page<EventInfo> = world.admin.get("/api/v1/events?limit=2").await.json();
    assert_eq!(page.rows[0].message, "line 45000.");
    assert_eq!(page.total, Some(10_001), "more than are counted");
    let mut asked = 0;
    let mut after = String::new();
    let mut found = Vec::new();
    loop {
        let path = format!("/api/v1/events?search=+7000.{after}");
        let page: Page<EventInfo> = world.admin.get(&path).await.json();
        found.extend(page.rows.into_iter().map(|event| event.message));
        asked += 1;
        match page.next {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!(
        found,
        ["line 37000.", "line 27000.", "line 17000.", "line 7000."]
    );
    assert_eq!(asked, 3, "each looks at 20,000 lines");
    let path = "/api/v1/events?search=line&kind=boot&site=north&limit=3";
    let page: Page<EventInfo> = world.admin.get(path).await.json();
    let messages: Vec<_> = page
        .rows
        .iter()
        .map(|event| event.message.as_str())
        .collect();
    assert_eq!(messages, ["line 45000.", "line 44991.", "line 44982."]);
    let path = format!("{path}&after={}", page.next.unwrap());
    let page: Page<EventInfo> = world.admin.get(&path).await.json();
    assert_eq!(page.rows[0].message, "line 44973.");
    let path = "/api/v1/events?site=south";
    assert!(world.admin.get(path).await.rows::<EventInfo>().is_empty());
}

/// What an older HQ knows is listed, filtered and found.
#[tokio::test]
async fn an_older_database_gets_what_lists_need() {
    let world = World::new().await;
    world.site("North", SiteUnknown::Admit).await;
    let node = world.node("North", "Office").await;
    see(&node, 1, 1, &facts_of("Dell Inc. OptiPlex", "S/N 7")).await;
    let mut machines: Vec<Machine> = world.admin.get("/api/v1/machines").await.rows();
    machines[0].change = 0;
    world.forget_lists().await;
    world.sql("PRAGMA user_version = 9").await;
    let world = world.restart().await;
    for asked in [
        "",
        "?search=optiplex+s/n",
        "?state=waiting",
        "?search=010101",
    ] {
        let path = format!("/api/v1/machines{asked}");
        assert_eq!(
            world.admin.get(&path).await.rows::<Machine>(),
            machines,
            "{asked}"
        );
    }
    let path = "/api/v1/machines?search=serial";
    assert!(world.admin.get(path).await.rows::<Machine>().is_empty());
    let sites: Vec<SiteInfo> = world.admin.get("/api/v1/sites?search=north").await.rows();
    assert_eq!(names(&sites), ["North"]);
    let nodes: Vec<NodeInfo> = world.admin.get("/api/v1/nodes?search=office").await.rows();
    assert_eq!(nodes.len(), 1);
}

#[tokio::test]
async fn nodes_and_accounts_are_found_by_name() {
    let world = World::new().await;
    world.site("north", SiteUnknown::Wait).await;
    let node = world.node("north", "office").await;
    let found = async |asked: &str| {
        let path = format!("/api/v1/nodes?{asked}");
        world.admin.get(&path).await.rows::<NodeInfo>().len()
    };
    assert_eq!(found("search=OFFICE&state=living&site=north").await, 1);
    let path = format!("/api/v1/nodes/{}/rename", node.key.public);
    world
        .admin
        .post(&path, &json!({"name": "Back room"}))
        .await
        .json::<NodeInfo>();
    assert_eq!(found("search=office").await, 0);
    assert_eq!(found("search=back+room").await, 1);
    let path = format!("/api/v1/nodes/{}/revoke", node.key.public);
    world.admin.post(&path, &json!({})).await.json::<NodeInfo>();
    assert_eq!(found("state=living").await, 0);
    assert_eq!(found("state=revoked&sort=name").await, 1);
    for name in ["anna", "bob"] {
        world.user(name, Role::Viewer, &SiteScope::all()).await;
    }
    let users: Vec<UserInfo> = walk(&world.admin, "users?role=viewer", 1).await;
    let names: Vec<_> = users.iter().map(|user| user.name.as_str()).collect();
    assert_eq!(names, ["anna", "bob"]);
    let users: Vec<UserInfo> = world.admin.get("/api/v1/users?search=AN").await.rows();
    assert_eq!(users.len(), 1);
}

/// A search that finds very many rows walks the list instead, and does not count them.
#[tokio::test]
async fn a_search_that_finds_much_gives_the_same_rows() {
    let world = World::new().await;
    world.site("north", SiteUnknown::Wait).await;
    world
        .sql(
            "INSERT INTO machines (site, id, admitted, approved, facts, seen, state)
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1200)
             SELECT (SELECT id FROM sites), substr('00000000000000000000000000000000', 1, 32 - length(CAST(i AS TEXT))) || i, 0, 0,
                '{\"uuid\":null,\"serial\":null,\"macs\":[],\"model\":\"m\"}', i * 7 % 100, 'waiting' FROM n",
        )
        .await;
    world
        .sql("INSERT INTO machine_words SELECT site, id, CASE WHEN seen < 90 THEN 'till often' ELSE 'till seldom' END FROM machines")
        .await;
    let all: Vec<Machine> = walk(&world.admin, "machines", 500).await;
    assert_eq!(all.len(), 1200);
    for (search, fits) in [("till", 0..100), ("often", 0..90), ("seldom", 90..100)] {
        let mut after = String::new();
        let mut rows = Vec::new();
        loop {
            let path = format!("/api/v1/machines?search={search}&limit=350{after}");
            let page: Page<Machine> = world.admin.get(&path).await.json();
            if after.is_empty() {
                let counted = if search == "seldom" { Some(120) } else { None };
                assert_eq!(page.total, counted, "{search}");
            }
            rows.extend(page.rows);
            match page.next {
                Some(next) => after = format!("&after={next}"),
                None => break,
            }
        }
        let expect = all.iter().filter(|m| fits.contains(&m.seen_unix_seconds));
        assert!(rows.iter().eq(expect), "{search}: {} rows", rows.len());
    }
}
