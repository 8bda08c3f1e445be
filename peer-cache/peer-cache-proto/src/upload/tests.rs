use super::*;

const PART: u64 = 256 << 10;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Sends parts as fast as the budget allows from `from` to `until`, asked for at `asked` bytes a second at most; the bytes that left.
fn send(budget: &mut UploadBudget, from: Duration, until: Duration, asked: u64) -> u64 {
    let (mut now, mut sent) = (from, 0);
    while now < until {
        match budget.grant(now, PART) {
            Ok(()) => {
                sent += PART;
                now += Duration::from_secs_f64(PART as f64 / asked as f64);
            }
            Err(wait) => now += wait,
        }
    }
    sent
}

/// `seconds` looks, one a second, at a machine in which somebody waits for `percent` of the time; what changed.
fn look(
    budget: &mut UploadBudget,
    now: &mut Duration,
    stalled: &mut Duration,
    (seconds, percent, asked): (u64, u64, u64),
) -> Vec<Change> {
    let mut changes = Vec::new();
    for _ in 0..seconds {
        send(budget, *now, *now + LOOK_EVERY, asked);
        *now += LOOK_EVERY;
        *stalled += LOOK_EVERY * u32::try_from(percent).unwrap() / 100;
        changes.extend(budget.handle_pressure(*now, *stalled));
    }
    changes
}

#[test]
fn without_a_budget_everything_leaves_at_once() {
    let mut budget = UploadBudget::new(ms(0), None);
    for _ in 0..1000 {
        assert_eq!(budget.grant(ms(5), PART), Ok(()));
    }
    assert_eq!(budget.rate(), None);
}

#[test]
fn a_limit_holds_over_any_time_but_for_a_burst_and_a_part() {
    for limit in [RATE_MIN, 3_000_000, 12_345_678, 1 << 30] {
        let mut budget = UploadBudget::new(ms(0), Some(limit));
        // silence saves up a burst and no more
        let start = Duration::from_secs(100);
        for seconds in [1, 10, 60] {
            let sent = send(
                &mut budget,
                start,
                start + Duration::from_secs(seconds),
                1 << 33,
            );
            let most = limit * seconds + limit / BURST_PER_SECOND + PART;
            assert!(sent <= most, "{sent} bytes in {seconds} s at {limit}");
            assert!(
                sent + PART >= limit * seconds,
                "{sent} bytes in {seconds} s at {limit}"
            );
            budget = UploadBudget::new(ms(0), Some(limit));
        }
    }
}

#[test]
fn a_limit_that_is_too_small_is_the_smallest() {
    assert_eq!(UploadBudget::new(ms(0), Some(1)).rate(), Some(RATE_MIN));
}

#[test]
fn a_busy_machine_gives_less_and_a_calm_one_all_again() {
    let mut budget = UploadBudget::new(ms(0), None);
    let (mut now, mut stalled) = (ms(0), ms(0));
    let asked = 100_000_000;
    assert!(look(&mut budget, &mut now, &mut stalled, (5, 5, asked)).is_empty());
    let changes = look(&mut budget, &mut now, &mut stalled, (1, 60, asked));
    assert!(
        matches!(changes[..], [Change::Busy(69_000_000..=71_000_000)]),
        "{changes:?}"
    );
    assert!(look(&mut budget, &mut now, &mut stalled, (20, 60, asked)).is_empty());
    assert_eq!(budget.rate(), Some(BUSY_RATE));
    // neither busy nor calm
    assert!(look(&mut budget, &mut now, &mut stalled, (10, 15, asked)).is_empty());
    assert_eq!(budget.rate(), Some(BUSY_RATE));
    let changes = look(&mut budget, &mut now, &mut stalled, (30, 2, asked));
    assert_eq!(changes, [Change::Free]);
    assert_eq!(budget.rate(), None);
}

#[test]
fn what_is_asked_of_a_busy_machine_leaves_at_its_rate() {
    let mut budget = UploadBudget::new(ms(0), Some(50_000_000));
    let (mut now, mut stalled) = (ms(0), ms(0));
    look(&mut budget, &mut now, &mut stalled, (30, 90, 1 << 30));
    assert_eq!(budget.rate(), Some(BUSY_RATE));
    let sent = send(&mut budget, now, now + Duration::from_secs(10), 1 << 30);
    let bound = BUSY_RATE * 10;
    assert!(
        (bound - PART..=bound + BUSY_RATE / BURST_PER_SECOND + PART).contains(&sent),
        "{sent}"
    );
    look(&mut budget, &mut now, &mut stalled, (60, 0, 1 << 30));
    assert_eq!(budget.rate(), Some(50_000_000), "the administrator's stays");
}

#[test]
fn a_counter_that_began_anew_and_a_look_twice_at_once_change_nothing() {
    let mut budget = UploadBudget::new(ms(0), None);
    assert_eq!(budget.handle_pressure(ms(1000), ms(900)), None);
    assert_eq!(budget.handle_pressure(ms(2000), ms(10)), None);
    assert_eq!(budget.handle_pressure(ms(2000), ms(900)), None);
    assert_eq!(budget.rate(), None);
    assert!(matches!(
        budget.handle_pressure(ms(3000), ms(1800)),
        Some(Change::Busy(BUSY_RATE))
    ));
}
