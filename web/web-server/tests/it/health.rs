//! Health, numbers, and a way in for browsers with a given certificate.

use std::{path::Path, time::Duration};

use rcgen::{CertificateParams, KeyPair};
use reqwest::Client;
use serde_json::{Value, json};
use web_api::*;
use web_server::{PageDoor, RunningHq};

use crate::{
    backing::Backing,
    pinned::tls,
    world::{World, config, facts},
};

#[tokio::test]
async fn hq_says_how_it_is() {
    let world = World::new().await;
    let health: Value = world.nobody().get("/healthz").await.json();
    assert_eq!(health["healthy"], true);
    world.site("north", SiteUnknown::Wait).await;
    let node = world.node("north", "office").await;
    let (machine, facts) = (Hex([1; 16]), facts("model"));
    node.report(1, vec![NodeReport::Waiting { machine, facts }])
        .await;
    let answer = world.admin.get("/metrics").await;
    let kind = answer.headers["content-type"].to_str().unwrap();
    assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
    let text = String::from_utf8(answer.body).unwrap();
    for line in [
        "# TYPE lamplighter_sites gauge",
        "lamplighter_sites 1",
        "lamplighter_machines{state=\"waiting\"} 1",
        "lamplighter_nodes 1",
        "lamplighter_nodes_there 1",
        "lamplighter_wan_bytes_total 0",
        "lamplighter_watchers 0",
        "lamplighter_answers_total{status=\"200\"} ",
    ] {
        assert!(
            text.lines().any(|l| l.starts_with(line)),
            "{line} is not in {text}"
        );
    }
    assert!(text.ends_with("# EOF\n"));
    // numbers of the whole chain are for those who reach all of it
    world.nobody().get("/metrics").await.refused(401);
    let scope = SiteScope {
        sites: vec!["north".into()],
        ..SiteScope::default()
    };
    let bob = world.user("bob", Role::Viewer, &scope).await;
    bob.get("/metrics").await.refused(403);
}

#[tokio::test]
async fn a_summary_counts_what_its_reader_reaches() {
    let world = World::new().await;
    let empty: Summary = world.admin.get("/api/v1/summary").await.json();
    assert_eq!(empty, Summary::default());
    for (site, machines) in [("north", 3_u8), ("south", 2)] {
        world.site(site, SiteUnknown::Admit).await;
        let node = world.node(site, &format!("{site}-node")).await;
        let mut reports = Vec::new();
        for n in 0..machines {
            let (machine, facts) = (Hex([n + machines; 16]), facts("till"));
            match n {
                0 => reports.push(NodeReport::Waiting { machine, facts }),
                _ => reports.push(NodeReport::Admitted {
                    machine,
                    facts,
                    order: 1,
                    by_pin: false,
                }),
            }
            if n == 2 {
                let report = InstallReport {
                    state: InstallState::Failed,
                    version: None,
                    order: Some(1),
                    done_bytes: 0,
                    total_bytes: 0,
                    received_bytes: 0,
                    from: vec![],
                    peer: None,
                    message: "the disk is too small".into(),
                };
                reports.push(NodeReport::Install { machine, report });
            }
        }
        node.report(1, reports).await;
    }
    // one that was never heard of
    world.site("east", SiteUnknown::Admit).await;
    world.node("east", "east-node").await;
    let all: Summary = world.admin.get("/api/v1/summary").await.json();
    let machines = |waiting, ready, failed| MachineCounts {
        waiting,
        ready,
        failed,
        ..MachineCounts::default()
    };
    assert_eq!((all.sites, all.wan_bytes), (3, 0));
    assert_eq!(all.machines, machines(2, 2, 1));
    assert_eq!(
        all.nodes,
        NodeCounts {
            there: 2,
            silent: 1
        }
    );
    let scope = SiteScope {
        sites: vec!["south".into()],
        ..SiteScope::default()
    };
    let bob = world.user("bob", Role::Viewer, &scope).await;
    let some: Summary = bob.get("/api/v1/summary").await.json();
    assert_eq!(some.sites, 1);
    assert_eq!(some.machines, machines(1, 1, 0));
    assert_eq!(some.nodes.there, 1);
    // nor are bytes of others counted
    let none = SiteScope::default();
    let eve = world.user("eve", Role::Viewer, &none).await;
    let nothing: Summary = eve.get("/api/v1/summary").await.json();
    assert_eq!(nothing, Summary::default());
    world.nobody().get("/api/v1/summary").await.refused(401);
}

/// Files as whoever renews certificates leaves them. Returns the certificate's fingerprint.
fn renew(folder: &Path) -> [u8; 32] {
    let pair = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".into()]).unwrap();
    let made = params.self_signed(&pair).unwrap();
    std::fs::write(folder.join("key.pem"), pair.serialize_pem()).unwrap();
    std::fs::write(folder.join("certificate.pem"), made.pem()).unwrap();
    certificate_fingerprint(made.der())
}

/// A browser that believes one certificate.
fn believing(fingerprint: [u8; 32]) -> Client {
    let client = Client::builder().tls_backend_preconfigured(tls(fingerprint, None));
    client.no_proxy().build().unwrap()
}

#[tokio::test]
async fn browsers_come_in_by_a_certificate_that_they_believe() {
    let (folder, backing) = (tempfile::tempdir().unwrap(), Backing::new().await);
    let door = PageDoor {
        listen: "127.0.0.1:0".parse().unwrap(),
        certificate: folder.path().join("certificate.pem"),
        key: folder.path().join("key.pem"),
    };
    let start = async || {
        RunningHq::start(web_server::HqConfig {
            page: Some(door.clone()),
            ..config(folder.path(), &backing)
        })
        .await
    };
    let error = start().await.unwrap_err().to_string();
    assert!(error.contains("certificate.pem"), "{error}");
    let first = renew(folder.path());
    let hq = start().await.unwrap();
    let url = format!("https://localhost:{}", hq.page_address.unwrap().port());
    let browser = believing(first);
    let answer = browser.get(format!("{url}/healthz")).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    // who has no key of a node is none, here as elsewhere
    let asked = browser.get(format!("{url}/api/v1/node/documents"));
    assert_eq!(asked.send().await.unwrap().status(), 401);
    let asked = browser.post(format!("{url}/api/v1/session"));
    let asked = asked.json(&json!({"name": "x", "password": "y"}));
    assert_eq!(asked.send().await.unwrap().status(), 401);
    // HQ's own certificate is not changed by it
    assert!(
        believing(first)
            .get(format!("https://localhost:{}/healthz", hq.address.port()))
            .send()
            .await
            .is_err()
    );
    // half of a renewal changes nothing
    std::fs::write(&door.certificate, "-----BEGIN CERTIFICATE-----\n").unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let again = believing(first);
    again.get(format!("{url}/healthz")).send().await.unwrap();
    let second = renew(folder.path());
    let mut is_taken = false;
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let browser = believing(second);
        is_taken = browser.get(format!("{url}/healthz")).send().await.is_ok();
        if is_taken {
            break;
        }
    }
    assert!(is_taken, "the renewed certificate is not used");
    hq.stop();
}
