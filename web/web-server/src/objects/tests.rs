use futures_util::{StreamExt, stream};
use tempfile::TempDir;
use web_api::SiteUnknown;

use super::*;
use crate::{
    database::{DatabasePlace, listing::Turn, reach::Reach, sites},
    leases::activity::Activities,
    listed::Sort,
};

/// Loopback's buffers swallow a whole object; here the connection takes two frames of three and dies.
#[tokio::test]
async fn a_body_dropped_in_the_middle_counts_what_was_taken() {
    let folder = TempDir::new().unwrap();
    let database = Database::open(
        &DatabasePlace::file(folder.path().join("hq.sqlite")),
        Arc::default(),
    )
    .await
    .unwrap();
    let site = SiteId([1; 16]);
    let mut change = database.write().await.unwrap();
    sites::insert(&mut change, site, "north", SiteUnknown::Wait)
        .await
        .unwrap();
    change.commit().await.unwrap();
    let body = || Counted {
        bytes: Box::pin(stream::iter(
            [10, 200, 3000].map(|n| Ok(Bytes::from(vec![0; n]))),
        )),
        given: 0,
        account: Some(Account {
            database: database.clone(),
            site,
            version: Hex([2; 32]),
            kind: LeaseKind::Main,
            activity: Activities::default().of("token"),
        }),
    };
    drop(body());
    for expected in [210, 420] {
        let mut cut_off = body();
        cut_off.next().await.unwrap().unwrap();
        cut_off.next().await.unwrap().unwrap();
        drop(cut_off);
        let mut counted = 0;
        for _ in 0..100 {
            let filter = LedgerFilter::default();
            let turn = Turn::first(LedgerSort::default().order(), 1);
            let mut db = database.read().await.unwrap();
            let lines = lease_table::ledger(&mut db, Reach::ALL, &filter, &turn);
            let lines = lines.await.unwrap();
            counted = lines.rows.iter().map(|l| l.wan_bytes).sum();
            if counted == expected {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(counted, expected);
    }
}

/// Another node has the lease: what was asked for before is not given to the end.
#[tokio::test]
async fn a_body_ends_when_its_lease_is_lost() {
    let folder = TempDir::new().unwrap();
    let database = Database::open(
        &DatabasePlace::file(folder.path().join("hq.sqlite")),
        Arc::default(),
    )
    .await
    .unwrap();
    let activities = Activities::default();
    let mut body = Counted {
        bytes: Box::pin(stream::iter(
            [1000, 1000].map(|n| Ok(Bytes::from(vec![0; n]))),
        )),
        given: 0,
        account: Some(Account {
            database,
            site: SiteId([1; 16]),
            version: Hex([2; 32]),
            kind: LeaseKind::Main,
            activity: activities.of("token"),
        }),
    };
    assert!(body.next().await.unwrap().is_ok());
    activities.lose("token");
    assert!(body.next().await.unwrap().is_err());
    assert_eq!(body.given, 1000);
}

#[test]
fn a_range_is_understood_or_ignored() {
    let first = |text: &'static str| {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, HeaderValue::from_static(text));
        first_byte(&headers)
    };
    assert_eq!(first("bytes=0-"), Some(0));
    assert_eq!(first("bytes=18446744073709551615-"), Some(u64::MAX));
    for other in [
        "bytes=-",
        "bytes=+1-",
        "bytes=1-2",
        "bytes=1-,2-",
        "bytes=18446744073709551616-",
        "1-",
        "",
    ] {
        assert_eq!(first(other), None, "{other}");
    }
}
