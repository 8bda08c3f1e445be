use proptest::prelude::*;

use super::*;

const MBIT: u64 = 125_000;

fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Several readers that always want more, in virtual time. Returns when how many bytes came over the line.
fn read(
    budget: &mut Budget,
    from: Duration,
    until: Duration,
    readers: usize,
) -> Vec<(Duration, u64)> {
    let mut came = Vec::new();
    let mut next = vec![from; readers];
    while let Some(at) = next.iter().copied().min().filter(|t| *t < until) {
        for slot in next.iter_mut().filter(|t| **t == at) {
            match budget.grant(at, 64 << 10) {
                Grant::Now(bytes) => came.push((at, on_the_line(bytes).unsigned_abs())),
                Grant::At(then) => {
                    assert!(then > at, "asked again at once");
                    *slot = then;
                }
                Grant::Never => *slot = until,
            }
        }
    }
    came
}

/// The most that came in any 10 s, as a part of what the rate allows.
fn worst(came: &[(Duration, u64)], rate: u64) -> f64 {
    let (mut first, mut sum, mut most) = (0, 0, 0);
    for (at, bytes) in came {
        sum += bytes;
        while came[first].0 + Duration::from_secs(10) <= *at {
            sum -= came[first].1;
            first += 1;
        }
        most = most.max(sum);
    }
    most as f64 / (rate * 10) as f64
}

#[test]
fn in_no_ten_seconds_comes_more_than_the_budget_and_a_twentieth() {
    for rate in [16 << 10, MBIT / 2, 2 * MBIT, 100 * MBIT] {
        for readers in [1, 4] {
            let mut budget = Budget::new(Duration::ZERO);
            budget.handle_limit(Duration::ZERO, Some(rate));
            // a pause first: no credit is saved up
            let seconds = if rate > MBIT * 10 { 12 } else { 25 };
            let came = read(
                &mut budget,
                millis(60_000),
                millis(60_000 + seconds * 1000),
                readers,
            );
            let total: u64 = came.iter().map(|(_, bytes)| bytes).sum();
            let share = worst(&came, rate);
            assert!(share <= 1.05, "{readers} readers at {rate}: {share}");
            let used = total as f64 / (rate * seconds) as f64;
            assert!(used >= 0.98, "{readers} readers at {rate} use {used} of it");
        }
    }
}

#[test]
fn without_a_limit_all_is_granted_and_zero_grants_nothing() {
    let mut budget = Budget::new(Duration::ZERO);
    assert_eq!(budget.grant(millis(1), 5), Grant::Now(5));
    assert_eq!(budget.grant(millis(1), 1 << 20), Grant::Now(GRANT_MAX));
    budget.handle_limit(millis(2), Some(0));
    assert_eq!(budget.grant(millis(500_000), 5), Grant::Never);
    budget.handle_limit(millis(500_000), None);
    assert_eq!(budget.grant(millis(500_000), 5), Grant::Now(5));
}

#[test]
fn bytes_that_nobody_asked_for_are_paid_back() {
    let mut budget = Budget::new(Duration::ZERO);
    budget.handle_limit(Duration::ZERO, Some(MBIT));
    budget.charge(Duration::ZERO, 125_000);
    let Grant::At(then) = budget.grant(Duration::ZERO, 1000) else {
        panic!("granted in debt")
    };
    assert!((millis(1000)..millis(1100)).contains(&then), "{then:?}");
    assert!(matches!(budget.grant(then, 1000), Grant::Now(_)));
}

#[test]
fn what_did_not_come_is_given_back() {
    let mut budget = Budget::new(Duration::ZERO);
    budget.handle_limit(Duration::ZERO, Some(MBIT));
    let Grant::Now(bytes) = budget.grant(millis(1000), 8000) else {
        panic!("not granted")
    };
    budget.give_back(bytes);
    assert_eq!(budget.grant(millis(1000), 8000), Grant::Now(bytes));
}

/// A line whose queue grows while more than its rate is sent.
struct Line {
    budget: Budget,
    now: Duration,
}

impl Line {
    /// `seconds` of reading while requests take so long; returns bytes per second.
    fn run(&mut self, seconds: u64, round_trip: Duration, line_rate: u64) -> u64 {
        let (begin, mut came) = (self.now, 0u64);
        while self.now < begin + Duration::from_secs(seconds) {
            let slot = line_rate / 20;
            let mut left = u32::try_from(slot).unwrap();
            while left > 0 {
                let Grant::Now(bytes) = self.budget.grant(self.now, left) else {
                    break;
                };
                left -= bytes;
                came += u64::from(bytes);
            }
            self.budget.handle_round_trip(self.now, round_trip);
            self.now += millis(50);
        }
        came / seconds
    }
}

#[test]
fn a_full_line_is_given_way_to_and_an_idle_one_taken_again() {
    let mut line = Line {
        budget: Budget::new(Duration::ZERO),
        now: Duration::ZERO,
    };
    let rate = 10 * MBIT;
    let before = line.run(5, millis(20), rate);
    assert_eq!(
        line.budget.rate(),
        None,
        "below the threshold nothing is held back"
    );
    line.run(5, millis(64), rate);
    assert_eq!(line.budget.rate(), None, "2 x 20 + 25 ms");
    line.run(2, millis(90), rate);
    let cap = line.budget.rate().expect("the line is full");
    assert!(cap <= before * 6 / 10, "halved: {cap} of {before}");
    line.run(30, millis(200), rate);
    assert_eq!(
        line.budget.rate(),
        Some(RATE_MIN),
        "and not below the least"
    );
    line.run(3, millis(20), rate);
    let slow = line.budget.rate().expect("it recovers slowly");
    assert!(slow < before / 4, "{slow}");
    line.run(60, millis(20), rate);
    assert_eq!(line.budget.rate(), None);
    assert!(line.run(2, millis(20), rate) >= before * 9 / 10);
}

#[test]
fn one_slow_answer_is_no_full_line() {
    let mut line = Line {
        budget: Budget::new(Duration::ZERO),
        now: Duration::ZERO,
    };
    for _ in 0..50 {
        line.run(1, millis(20), MBIT);
        line.budget.handle_round_trip(line.now, millis(900));
    }
    assert_eq!(line.budget.rate(), None);
}

#[test]
fn a_line_that_was_rerouted_has_a_new_base() {
    let mut line = Line {
        budget: Budget::new(Duration::ZERO),
        now: Duration::ZERO,
    };
    line.run(10, millis(10), MBIT);
    line.run(700, millis(80), MBIT);
    assert_eq!(line.budget.rate(), None);
}

#[test]
fn courtesy_never_lifts_the_limit() {
    let mut line = Line {
        budget: Budget::new(Duration::ZERO),
        now: Duration::ZERO,
    };
    line.budget.handle_limit(Duration::ZERO, Some(2 * MBIT));
    line.run(5, millis(10), 10 * MBIT);
    line.run(3, millis(300), 10 * MBIT);
    assert!(line.budget.rate().is_some_and(|r| r < 2 * MBIT));
    line.run(60, millis(10), 10 * MBIT);
    assert_eq!(line.budget.rate(), Some(2 * MBIT));
}

proptest! {
    /// Whatever is asked, charged, given back and limited: no grant is larger than asked for, and no time lies in the past.
    #[test]
    fn grants_are_within_reason(steps in prop::collection::vec((0u64..2_000, 0u32..200_000, 0u8..5, 0u64..3_000_000), 1..200)) {
        let mut budget = Budget::new(Duration::ZERO);
        let mut now = Duration::ZERO;
        for (pause, bytes, what, rate) in steps {
            now += millis(pause);
            match what {
                0 => budget.handle_limit(now, Some(rate)),
                1 => budget.handle_limit(now, None),
                2 => budget.charge(now, bytes),
                3 => budget.handle_round_trip(now, millis(pause)),
                _ => match budget.grant(now, bytes) {
                    Grant::Now(granted) => {
                        prop_assert!((1..=bytes.clamp(1, GRANT_MAX)).contains(&granted));
                        budget.give_back(granted / 2);
                    }
                    Grant::At(then) => prop_assert!(then > now),
                    Grant::Never => prop_assert_eq!(budget.rate(), Some(0)),
                },
            }
        }
    }
}
