//! Many sites, and what must hold in each.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "tests")]

use site_sim::{Plan, run};

/// `./dev sim --seeds 10000` runs more, on all cores.
const SEEDS: u64 = 200;

/// A store where nothing goes wrong.
fn quiet(nodes: usize, agents: usize, chunks: u32) -> Plan {
    Plan {
        nodes,
        is_seeded: false,
        ..Plan::of_machines(agents, chunks)
    }
}

#[test]
fn whatever_goes_wrong_everybody_finishes() {
    for seed in 0..SEEDS {
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
    let plan = quiet(1, 4, 400);
    let summary = run(plan, false).unwrap();
    assert_eq!(summary.wan_objects, 400);
    assert_eq!(
        summary.lan_bytes,
        400 * 4 * 300_000,
        "no object is sent twice to one"
    );
    let bound_millis = 400 * 300_000 * 1000 / plan.wan_bytes_per_second;
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
    let summary = run(quiet(3, 37, 60), false).unwrap();
    assert_eq!((summary.wan_objects, summary.island_objects), (60, 0));
}

/// Two halves of a store that both reach HQ and not each other: each fetches once, and the second is counted apart.
#[test]
fn two_islands_fetch_once_each() {
    let plan = Plan {
        // the first node and nothing else is on this side
        wall: Some(1),
        ..quiet(2, 4, 60)
    };
    let summary = run(plan, false).unwrap();
    assert_eq!((summary.wan_objects, summary.island_objects), (60, 60));
}

/// The nodes are off at night, one breaks down and comes back with an empty disk, machines come and are admitted by whom is there.
/// A month takes a while: `./dev sim --offline 30`.
#[test]
fn days_without_a_wan_change_nothing() {
    let summary = run(Plan::offline(9), false).unwrap();
    assert_eq!(summary.wan_objects, u64::from(summary.chunks));
}

/// What a liar was given first reaches nobody; as soon as one neighbour has said so it is given nothing more before others.
#[test]
fn a_liar_costs_the_others_next_to_nothing() {
    let honest = run(Plan::of_machines(4, 200), false).unwrap();
    let lying = Plan {
        liars: 1,
        ..Plan::of_machines(4, 200)
    };
    let with_a_liar = run(lying, false).unwrap();
    assert!(
        with_a_liar.millis * 100 <= honest.millis * 105,
        "{} ms instead of {}",
        with_a_liar.millis,
        honest.millis
    );
    assert!(with_a_liar.source_copies < 1.1, "{with_a_liar:?}");
}
