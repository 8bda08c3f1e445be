//! Many sites, and what must hold in each.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "tests")]

use site_sim::{Plan, run};

/// A store where nothing goes wrong.
const QUIET: Plan = Plan {
    seed: 1,
    nodes: 1,
    agents: 4,
    chunks: 400,
    object_bytes: 300_000,
    mbit: 200,
    wan_mbit: 50,
    faults: false,
    is_seeded: false,
};

#[test]
fn whatever_goes_wrong_everybody_finishes() {
    let seeds = match std::env::var_os("LAMPLIGHTER_LONG") {
        Some(_) => 5_000,
        None => 500,
    };
    for seed in 0..seeds {
        if let Err(violation) = run(Plan::of_seed(seed), false) {
            panic!("{violation}");
        }
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 0..20 {
        assert_eq!(
            run(Plan::of_seed(seed), false),
            run(Plan::of_seed(seed), false)
        );
    }
}

#[test]
fn a_quiet_store_fetches_once_and_keeps_up_with_its_wan() {
    let summary = run(QUIET, false).unwrap();
    assert_eq!(summary.wan_objects, 400);
    assert_eq!(
        summary.lan_bytes,
        400 * 4 * 300_000,
        "no object is sent twice to one"
    );
    let bound_millis = 400 * 300_000 * 8 / 50_000;
    assert!(
        summary.millis < bound_millis * 115 / 100 + 9_000,
        "{summary:?}, the WAN alone takes {bound_millis} ms"
    );
}

/// Framing is not in the simulator; what is above 1 is the tail and what two peers sent to one.
#[test]
fn a_store_of_twenty_is_as_fast_as_its_link() {
    let plan = Plan::of_machines(20, 200);
    let summary = run(plan, false).unwrap();
    let ratio = f64::from(u32::try_from(summary.millis).unwrap()) / 1000.0 / plan.bound_seconds();
    assert!(ratio < 1.2, "{ratio:.3} of the bound, {summary:?}");
    assert!(summary.source_copies < 1.2, "{summary:?}");
}

#[test]
fn forty_machines_fetch_once() {
    let plan = Plan {
        nodes: 3,
        agents: 37,
        chunks: 60,
        ..QUIET
    };
    let summary = run(plan, false).unwrap();
    assert_eq!(summary.wan_objects, 60);
}
