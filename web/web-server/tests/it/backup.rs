//! Backups while HQ runs, and a chain that goes on after one was restored.

use std::{os::unix::fs::PermissionsExt, path::Path};

use image_format::ManifestKind;
use serde_json::json;
use web_api::*;
use web_server::{BackupError, RunningHq, back_up, restore};

use crate::world::{Node, World, config, facts, noise};

/// A day after the backup the computer is lost.
#[tokio::test]
async fn a_chain_goes_on_after_its_hq_was_restored() {
    let world = World::new().await;
    world.site("north", SiteUnknown::Wait).await;
    let node = world.node("north", "office").await;
    let objects = [noise(1, 300_000)];
    let image = world.publish("till", ManifestKind::Image, &objects).await;
    let first = world.order("north", "till").await;
    let bob = world.user("bob", Role::Viewer, &SiteScope::all()).await;
    let keys = world.keys().await;
    let (hq, saved) = (
        world.folder.path().join("hq"),
        world.folder.path().join("saved"),
    );
    let database = world.backing.database();
    let is_file = database.is_none();
    let copied = back_up(&hq, database.as_ref(), &saved, true).await.unwrap();
    assert_eq!(copied.database, is_file);
    assert_eq!(copied.objects > 0, is_file);
    // what is there already is not copied again
    let copied = back_up(&hq, database.as_ref(), &saved, true).await.unwrap();
    assert_eq!(copied.objects, 0);

    // the day that is lost
    let lost = [noise(2, 200_000)];
    let lost = world.publish("till", ManifestKind::Image, &lost).await;
    let second = world.order("north", "till").await;
    let machine = Hex([1; 16]);
    let waiting = NodeReport::Waiting {
        machine,
        facts: facts("model"),
    };
    node.report(1, vec![waiting]).await;
    let path = format!("/api/v1/machines/{machine}/approve");
    world.admin.post(&path, &json!({})).await.json::<Machine>();
    let (channel, roster) = (node.channel(&keys).await, node.roster(&keys).await);
    assert!(second.number > first.number && lost.release > image.release);
    world.hq.stop();

    let (folder, backing) = (world.folder, world.backing);
    std::fs::rename(&hq, folder.path().join("lost")).unwrap();
    // as shells complete a folder's name
    let named = folder.path().join("hq/");
    restore(&saved, &named, database.as_ref()).await.unwrap();
    let hq = RunningHq::start(config(folder.path(), &backing)).await;
    let world = World::around(folder, hq.unwrap(), backing);
    let node = Node {
        caller: world.with_key(&node.key),
        ..node
    };
    // every node follows: what it is told has higher numbers than what it has, signed by the same keys
    let told = node.channel(&keys).await;
    assert!(told.number > channel.number && told.revocation > channel.revocation);
    assert!(node.roster(&keys).await.number > roster.number);
    let third = world.order("north", "till").await;
    assert!(third.number > second.number, "{}", third.number);
    let published = [noise(3, 200_000)];
    let published = world.publish("till", ManifestKind::Image, &published).await;
    assert!(published.release > lost.release, "{}", published.release);
    let standing = node.report(2, vec![]).await.standing;
    assert!(standing.channel > channel.number);
    // what is in the backup is given as before
    let lease: LeaseAnswer = node.ask_lease(image.version).await.json();
    let given = node.fetch(&objects[0], &lease.token, None).await;
    assert_eq!(given.body, objects[0]);
    // nobody is signed in, accounts are there, and the audit log says what happened
    bob.at(&world).get("/api/v1/me").await.refused(401);
    let bob = world.sign_in("bob").await;
    bob.get("/api/v1/me").await.json::<Me>();
    let check: AuditCheck = world.admin.get("/api/v1/audit/check").await.json();
    assert_eq!(check.fault, None);
    let page: AuditPage = world.admin.get("/api/v1/audit").await.json();
    assert!(page.rows.iter().any(|row| row.operation == "restore"));
}

#[tokio::test]
async fn nothing_is_written_over() {
    let world = World::new().await;
    let (folder, database) = (world.folder.path(), world.backing.database());
    let database = database.as_ref();
    let at = |name: &str| folder.join(name);
    std::fs::create_dir(at("full")).unwrap();
    std::fs::write(at("full/letter"), "dear").unwrap();
    let refused = |error: BackupError| {
        let expect = matches!(
            error,
            BackupError::Foreign { .. } | BackupError::Missing { .. }
        );
        assert!(expect, "{error}");
    };
    refused(
        back_up(&at("hq"), database, &at("full"), true)
            .await
            .unwrap_err(),
    );
    back_up(&at("hq"), database, &at("saved"), false)
        .await
        .unwrap();
    for (from, to) in [
        ("saved", "hq"),
        ("saved", "full"),
        ("full", "new"),
        ("none", "new"),
    ] {
        refused(restore(&at(from), &at(to), database).await.unwrap_err());
    }
    refused(
        back_up(&at("full"), database, &at("new"), true)
            .await
            .unwrap_err(),
    );
    for inside in ["hq", "hq/saved"] {
        let error = back_up(&at("hq"), database, &at(inside), true).await;
        let error = error.unwrap_err();
        assert!(
            matches!(
                error,
                BackupError::Inside { .. } | BackupError::Foreign { .. }
            ),
            "{error}"
        );
    }
    assert!(!at("hq/saved").exists());
    assert_eq!(std::fs::read(at("full/letter")).unwrap(), b"dear");
    assert!(!at("new").exists());
    // whoever reads a backup can sign as HQ does
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&at("saved")), 0o700);
    for file in ["admin-token", "tls-key.der"] {
        assert_eq!(mode(&at("saved").join(file)), 0o600, "{file}");
    }
    if database.is_none() {
        assert_eq!(mode(&at("saved/hq.sqlite")), 0o600);
    }
}
