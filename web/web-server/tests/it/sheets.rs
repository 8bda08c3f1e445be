//! Sites from files and to them, and machines.

use reqwest::Method;
use web_api::*;

use crate::world::{Answer, Caller, World, facts};

async fn import(caller: &Caller, file: &str, dry_run: bool) -> Answer {
    let path = format!("/api/v1/import/sites?dry_run={dry_run}");
    caller.raw(Method::POST, &path, file.into()).await
}

async fn sites(world: &World) -> Vec<SiteInfo> {
    world.admin.get("/api/v1/sites").await.rows()
}

#[tokio::test]
async fn a_chain_comes_from_a_file_and_goes_back_to_one() {
    let world = World::new().await;
    world.site("north", SiteUnknown::Wait).await;
    let mut file = String::from("name;tags;unknown;wan;utc_offset\n");
    for n in 0..120 {
        file += &format!(
            "store {n:03};region-{} small;admit;08:00-20:00=2Mbit;+01:00\n",
            n % 3
        );
    }
    file += "north;;;;\n";
    let planned: ImportReport = import(&world.admin, &file, true).await.json();
    assert_eq!((planned.made, planned.changed, planned.same), (120, 0, 1));
    assert!(!planned.done && sites(&world).await.len() == 1);
    let rows = world.audit_rows().await;
    let report: ImportReport = import(&world.admin, &file, false).await.json();
    assert!(report.done);
    assert_eq!((report.made, report.changed, report.same), (120, 0, 1));
    assert_eq!(world.audit_rows().await - rows, 3, "50 at a time");
    let path = "/api/v1/sites?tag=region-1&limit=500";
    let some: Vec<SiteInfo> = world.admin.get(path).await.rows();
    assert_eq!(some.len(), 40);
    assert!(
        some.iter()
            .all(|s| s.unknown == SiteUnknown::Admit && s.channel == 1)
    );
    let rules: WanRules = world
        .admin
        .get("/api/v1/sites/store%20007/wan")
        .await
        .json();
    assert_eq!(rules.budget.utc_offset_minutes, 60);
    assert_eq!(rules.budget.windows.len(), 1);
    // what comes out goes in again, and is nothing new
    let answer = world.admin.get("/api/v1/export/sites").await;
    assert_eq!(answer.headers["content-type"], "text/csv; charset=utf-8");
    let exported = String::from_utf8(answer.body).unwrap();
    assert_eq!(exported.lines().count(), 122);
    let again: ImportReport = import(&world.admin, &exported, false).await.json();
    assert_eq!((again.made, again.changed, again.same), (0, 0, 121));
    // one cell of it
    let file = exported.replace("region-1 small", "region-1 large");
    let report: ImportReport = import(&world.admin, &file, false).await.json();
    assert_eq!((report.made, report.changed, report.same), (0, 40, 81));
    // a node's documents say what the file said
    let node = world.node("store 001", "office").await;
    let keys = world.keys().await;
    assert_eq!(node.channel(&keys).await.site_name, "store 001");
}

#[tokio::test]
async fn a_file_with_a_fault_changes_nothing() {
    let world = World::new().await;
    let file = "name,unknown\nnorth,admit\nsouth,perhaps\n,wait\n";
    let planned: ImportReport = import(&world.admin, file, true).await.json();
    assert_eq!((planned.made, planned.faults.len()), (1, 2));
    let told = planned.faults[0].to_string();
    assert_eq!(
        told,
        "line 3, unknown: \"perhaps\" is none of wait, admit, pin, refuse"
    );
    let refused = import(&world.admin, file, false).await.refused(400);
    assert!(
        refused.contains(&told) && refused.contains("and 1 more"),
        "{refused}"
    );
    assert!(sites(&world).await.is_empty());
    let large = "x".repeat((4 << 20) + 1);
    import(&world.admin, &large, false).await.refused(413);
    import(&world.admin, "", true).await.refused(400);
    for hostile in [
        "\0",
        "name\n\"",
        "<script>",
        "name\n'; DROP TABLE sites; --\n\n\"\"\"\n",
    ] {
        let answer = import(&world.admin, hostile, true).await;
        answer.json::<ImportReport>();
    }
    assert!(sites(&world).await.is_empty());
}

#[tokio::test]
async fn machines_are_exported_and_none_of_their_words_is_a_formula() {
    let world = World::new().await;
    for site in ["north", "south"] {
        world.site(site, SiteUnknown::Wait).await;
        let node = world.node(site, "office").await;
        let facts = Facts {
            serial: Some("=HYPERLINK(\"x\")".into()),
            ..facts("Dell, Inc.")
        };
        let machine = Hex([1; 16]);
        node.report(1, vec![NodeReport::Waiting { machine, facts }])
            .await;
    }
    let scope = SiteScope {
        sites: vec!["south".into()],
        ..SiteScope::default()
    };
    let bob = world.user("bob", Role::Viewer, &scope).await;
    for (caller, lines) in [(&world.admin, 3), (&bob, 2)] {
        let file = caller.get("/api/v1/export/machines").await.body;
        let file = String::from_utf8(file).unwrap();
        assert_eq!(file.lines().count(), lines, "{file}");
        let machine = file.lines().last().unwrap();
        assert!(machine.starts_with("south,01010101"), "{machine}");
        assert!(
            machine.contains("\"Dell, Inc.\",\"'=HYPERLINK(\"\"x\"\")\""),
            "{machine}"
        );
    }
    let file = bob.get("/api/v1/export/sites").await.body;
    assert_eq!(String::from_utf8(file).unwrap().lines().count(), 2);
    import(&bob, "name\nwest\n", true).await.refused(403);
}
