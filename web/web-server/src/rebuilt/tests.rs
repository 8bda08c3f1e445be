use trust_format::PublicKey;

use super::*;

#[test]
fn a_late_word_is_no_alarm_and_a_steady_caller_is_one_a_day() {
    let check = |now, since, heard_again, expect| {
        let replaced = Replaced {
            by: PublicKey([1; 32]),
            since,
            heard_again,
        };
        assert_eq!(
            is_alarm(now, &replaced),
            expect,
            "{now} {since} {heard_again}"
        );
    };
    const DAY: u64 = TOLD_EVERY_SECONDS;
    check(1000, 1000, 0, false);
    check(1059, 1000, 0, false);
    check(1060, 1000, 0, true);
    check(1060, 1000, 1060, false);
    check(1060 + DAY - 1, 1000, 1060, false);
    check(1060 + DAY, 1000, 1060, true);
    // HQ's clock was set back
    check(900, 1000, 0, false);
    check(1200, 1000, 5000, false);
    // replaced before HQ took note of it
    check(1000, 0, 0, true);
}
