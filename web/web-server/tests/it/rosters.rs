//! Which machines a site knows, by what, and its PIN.

use reqwest::Method;
use trust_format::{MachineId, Sign, TpmKey, UnknownRule};
use web_api::{
    DemoteSign, EventInfo, Facts, Hex, Machine, NewPin, NodeInfo, NodeReport, SignKind, SitePin,
    SiteUnknown,
};

use crate::world::{Key, World, facts};

const MACHINE: Hex<16> = Hex([7; 16]);

fn admitted(facts: Facts, by_pin: bool) -> NodeReport {
    NodeReport::Admitted {
        machine: MACHINE,
        facts,
        order: 1,
        by_pin,
    }
}

fn waiting(facts: Facts, code: &str) -> NodeReport {
    let code = Some(code.to_owned());
    NodeReport::Waiting {
        machine: MACHINE,
        facts: Facts { code, ..facts },
    }
}

impl World {
    /// What people are told, newest first.
    async fn events(&self) -> Vec<String> {
        let events: Vec<EventInfo> = self.admin.get("/api/v1/events").await.rows();
        events.into_iter().map(|e| e.message).collect()
    }
}

#[tokio::test]
async fn a_machine_is_known_by_all_that_it_was_admitted_with() {
    let world = World::new().await;
    world.site("north", SiteUnknown::Admit).await;
    let node = world.node("north", "till-1").await;
    let keys = world.keys().await;
    node.report(1, vec![admitted(facts("till"), false)]).await;
    let first = node.roster(&keys).await;
    assert_eq!(first.machines[0].signs.len(), 3);
    assert!(!first.machines[0].approved);
    // the same again is no news; a new adapter and a TPM are
    node.report(2, vec![admitted(facts("till"), false)]).await;
    assert_eq!(node.roster(&keys).await.number, first.number);
    let adapter = [2, 0, 0, 0, 0, 9];
    let grown = Facts {
        macs: vec![Hex(adapter)],
        tpm: Some(Hex([5; 32])),
        ..facts("till")
    };
    node.report(3, vec![admitted(grown, false)]).await;
    let roster = node.roster(&keys).await;
    let known = roster.machine(&MachineId(MACHINE.0)).unwrap();
    assert_eq!((known.signs.len(), known.tpm), (4, Some(TpmKey([5; 32]))));
    assert!(known.signs.contains(&Sign::of_mac(&adapter)));
    assert_eq!(roster.number, first.number + 1);
}

/// What waits has been admitted by nobody: whatever it says adds nothing to the machine that it names.
#[tokio::test]
async fn a_machine_that_names_itself_another_adds_nothing_to_it_until_a_person_looked() {
    let world = World::new().await;
    world.site("north", SiteUnknown::Admit).await;
    let node = world.node("north", "till-1").await;
    let keys = world.keys().await;
    node.report(1, vec![admitted(facts("till"), false)]).await;
    let before = node.roster(&keys).await;
    let other = Facts {
        serial: Some("S2".into()),
        macs: vec![Hex([2, 9, 9, 9, 9, 9])],
        ..facts("till")
    };
    node.report(2, vec![waiting(other.clone(), "AAA-AAA")])
        .await;
    assert_eq!(*node.roster(&keys).await, *before);
    let told = world.events().await;
    assert!(
        told[0].contains("AAA-AAA") && told[0].contains(&MACHINE.to_string()),
        "{told:?}"
    );
    // once for each screen
    node.report(3, vec![waiting(other, "AAA-AAA")]).await;
    assert_eq!(world.events().await, told);
    let path = format!("/api/v1/machines/{MACHINE}/approve");
    let refused = world.admin.raw(Method::POST, &path, vec![]).await;
    let sentence = refused.refused(409);
    assert!(sentence.contains("code"), "{sentence}");
    let with_code = format!("{path}?code=AAA-AAA");
    let approved = world.admin.raw(Method::POST, &with_code, vec![]).await;
    approved.json::<Machine>();
    let roster = node.roster(&keys).await;
    let known = &roster.machines[0];
    assert!(known.approved && known.signs.contains(&Sign::of_serial("S2")));
    assert_eq!(known.code, Some(*b"AAA-AAA"));
}

#[tokio::test]
async fn a_uuid_of_two_boards_counts_for_nobody() {
    let world = World::new().await;
    world.site("north", SiteUnknown::Admit).await;
    let node = world.node("north", "till-1").await;
    let keys = world.keys().await;
    node.report(1, vec![admitted(facts("till"), false)]).await;
    let path = format!("/api/v1/machines/{MACHINE}/demote");
    let demote = |site: &str, sign| DemoteSign {
        site: site.into(),
        sign,
    };
    let elsewhere = world
        .admin
        .post(&path, &demote("south", SignKind::Uuid))
        .await;
    elsewhere.refused(404);
    let here = world
        .admin
        .post(&path, &demote("north", SignKind::Uuid))
        .await;
    here.json::<Machine>();
    let roster = node.roster(&keys).await;
    assert_eq!(roster.shared, [Sign::of_uuid(&[1; 16])]);
    let without = Facts {
        serial: None,
        ..facts("till")
    };
    node.report(2, vec![admitted(without, false)]).await;
    let none = world
        .admin
        .post(&path, &demote("north", SignKind::Serial))
        .await;
    none.refused(409);
}

#[tokio::test]
async fn a_pin_is_shown_once_and_kept_as_a_hash() {
    let world = World::new().await;
    world.site("north", SiteUnknown::Pin).await;
    let node = world.node("north", "till-1").await;
    let keys = world.keys().await;
    assert_eq!(node.channel(&keys).await.unknown, UnknownRule::Pin);
    assert_eq!(node.roster(&keys).await.pin, None);
    let path = "/api/v1/sites/north/pin";
    let new = |pin: Option<&str>, uses, hours| NewPin {
        pin: pin.map(str::to_owned),
        uses,
        hours,
    };
    let set = async |pin: NewPin| world.admin.send(Method::PUT, path, &pin).await;
    let made: SitePin = set(new(None, 5, 24)).await.json();
    assert!(made.pin.len() == 8 && made.pin.bytes().all(|b| b.is_ascii_digit()));
    let first = node.roster(&keys).await.pin.clone().unwrap();
    assert!(first.is(&made.pin) && !first.is("00000000"));
    assert_eq!((first.uses, first.life_hours), (5, 24));
    let chosen: SitePin = set(new(Some("Süd-4711"), 1, 0)).await.json();
    assert_eq!(
        (chosen.pin.as_str(), chosen.until_unix_seconds),
        ("Süd-4711", 0)
    );
    let second = node.roster(&keys).await.pin.clone().unwrap();
    assert!(second.number > first.number && second.is("Süd-4711"));
    for bad in [
        new(Some("123"), 1, 1),
        new(Some(&"9".repeat(40)), 1, 1),
        new(None, 0, 1),
        new(None, 1, 60_000),
    ] {
        set(bad).await.refused(400);
    }
    assert_eq!(node.roster(&keys).await.pin.clone().unwrap(), second);
    node.report(1, vec![admitted(facts("till"), true)]).await;
    let told = world.events().await;
    assert!(told[0].contains("by the PIN"), "{told:?}");
    let removed = world.admin.raw(Method::DELETE, path, vec![]).await;
    assert_eq!(removed.status, 204);
    assert_eq!(node.roster(&keys).await.pin, None);
    // by HQ's own clock
    set(new(None, 5, 24)).await.json::<SitePin>();
    world
        .sql("UPDATE sites SET pin = json_set(pin, '$.until', 1)")
        .await;
    node.report(2, vec![waiting(facts("till"), "AAA-AAA")])
        .await;
    let path = format!("/api/v1/machines/{MACHINE}/approve?code=AAA-AAA");
    world
        .admin
        .raw(Method::POST, &path, vec![])
        .await
        .json::<Machine>();
    assert_eq!(node.roster(&keys).await.pin, None);
}

/// A neighbour certified it while HQ was away, and it was stolen before HQ met it.
#[tokio::test]
async fn a_node_is_revoked_before_it_calls() {
    let world = World::new().await;
    let site = world.site("north", SiteUnknown::Admit).await.site;
    let node = world.node("north", "till-1").await;
    let keys = world.keys().await;
    let stolen = Key::new();
    let path = format!("/api/v1/nodes/{}/revoke", stolen.public);
    world
        .admin
        .raw(Method::POST, &path, vec![])
        .await
        .refused(404);
    let nowhere = format!("{path}?site={}", Hex([3; 16]));
    world
        .admin
        .raw(Method::POST, &nowhere, vec![])
        .await
        .refused(404);
    let path = format!("{path}?site={}", site.id);
    let revoked: NodeInfo = world.admin.raw(Method::POST, &path, vec![]).await.json();
    assert!(revoked.revoked && revoked.origin == "forestalled");
    let channel = node.channel(&keys).await;
    assert_eq!(
        (channel.revoked.as_slice(), channel.revocation),
        (&[stolen.public][..], 1)
    );
}
