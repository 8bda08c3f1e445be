//! A site's WAN budget: bytes per second by time of day, pauses, and which version comes first.
//!
//! Store machines have dead clocks: HQ reads its own, says what holds now, and tells again when that changes.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::text::Hex;

/// Windows of one site.
pub const WAN_WINDOWS_MAX: usize = 16;
/// The thinnest budget, in bytes per second (128 kbit/s): below it a fetch looks like one that stands still. 0 is none at all.
pub const WAN_BYTES_PER_SECOND_MIN: u64 = 16_000;
/// Clocks on Earth are at most so far from UTC, in minutes.
pub const UTC_OFFSET_MINUTES_MAX: i16 = 14 * 60;
/// The highest priority of a version.
pub const WAN_PRIORITY_MAX: u8 = 9;
/// How long HQ keeps a request for news waiting, in seconds.
pub const WAN_NEWS_SECONDS: u64 = 25;
const DAY_MINUTES: u16 = 24 * 60;

/// A part of the day and what may come in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct WanWindow {
    /// Its first minute, 0 to 1439, by the site's clock.
    pub from_minute: u16,
    /// The first minute after it; at or below the first one it ends on the next day.
    pub to_minute: u16,
    /// Bytes per second; absent is without a limit, 0 is nothing.
    pub bytes_per_second: Option<u64>,
}

/// The budget of a site.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct WanBudget {
    /// The first that covers a minute holds; a minute that none covers has no limit. At most [`WAN_WINDOWS_MAX`].
    pub windows: Vec<WanWindow>,
    /// The site's clock minus UTC.
    pub utc_offset_minutes: i16,
}

/// What a budget says of a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WanRate {
    /// As in [`WanWindow::bytes_per_second`].
    pub bytes_per_second: Option<u64>,
    /// For how many seconds, at least 1 and at most a day.
    pub holds_seconds: u64,
}

/// One version in a site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct WanVersion {
    /// Which.
    pub version: Hex<32>,
    /// Whether nothing of it is to come.
    pub paused: bool,
    /// 0, the default, to [`WAN_PRIORITY_MAX`]: a lower one waits while a higher one is fetched.
    pub priority: u8,
}

/// `GET /api/v1/sites/{name}/wan`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct WanRules {
    /// By time of day.
    pub budget: WanBudget,
    /// Whether nothing at all is to come.
    pub paused: bool,
    /// Versions with a rule of their own.
    pub versions: Vec<WanVersion>,
}

/// `PATCH /api/v1/sites/{name}/wan`: what is absent stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct WanChange {
    /// All windows.
    pub windows: Option<Vec<WanWindow>>,
    /// The site's clock minus UTC.
    pub utc_offset_minutes: Option<i16>,
    /// Pause or resume of the site, or of the version if one is named.
    pub paused: Option<bool>,
    /// A digest, a beginning that fits one, or an image's name for its newest.
    pub version: Option<String>,
    /// Of that version.
    pub priority: Option<u8>,
}

/// `GET /api/v1/node/wan?since=NUMBER`: answered when it differs from what had the number, or after [`WAN_NEWS_SECONDS`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct WanNews {
    /// Names this content; not an order. Never 0.
    pub number: u64,
    /// Of the asking node: the site's budget, shared equally among the nodes that fetch. Absent is without a limit.
    pub bytes_per_second: Option<u64>,
    /// For how long, by the node's own monotonic clock. HQ tells again then; without news the last budget holds.
    pub holds_seconds: u64,
    /// Whether the whole site is paused.
    pub paused: bool,
    /// Versions that are paused, or wait for one of a higher priority.
    pub waiting: Vec<Hex<32>>,
}

/// What is wrong with a budget.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum WanBudgetError {
    /// Too many windows.
    #[error("a site has at most {WAN_WINDOWS_MAX} windows, not {count}")]
    Windows {
        /// As many were given.
        count: usize,
    },
    /// A minute that no day has.
    #[error("a day has no minute {minute}: 0 to 1439")]
    Minute {
        /// That one.
        minute: u16,
    },
    /// So thin that a fetch looks like one that stands still.
    #[error(
        "{bytes_per_second} bytes per second are too few: at least {WAN_BYTES_PER_SECOND_MIN}, or none"
    )]
    Rate {
        /// As given.
        bytes_per_second: u64,
    },
    /// No place on Earth has it.
    #[error("a clock is at most 14:00 from UTC, not {minutes} minutes")]
    Offset {
        /// As given.
        minutes: i16,
    },
    /// Text that is no window.
    #[error(
        "{text:?} is no window: write it as 08:00-20:00=2Mbit, with kbit, Mbit, Gbit, unlimited or none"
    )]
    Text {
        /// As given.
        text: String,
    },
}

impl WanBudget {
    /// Checks every limit.
    ///
    /// # Errors
    /// [`WanBudgetError`] with the first thing that is wrong.
    pub fn check(&self) -> Result<(), WanBudgetError> {
        if self.windows.len() > WAN_WINDOWS_MAX {
            let count = self.windows.len();
            return Err(WanBudgetError::Windows { count });
        }
        if self.utc_offset_minutes.unsigned_abs() > UTC_OFFSET_MINUTES_MAX.unsigned_abs() {
            let minutes = self.utc_offset_minutes;
            return Err(WanBudgetError::Offset { minutes });
        }
        for window in &self.windows {
            if let Some(minute) = [window.from_minute, window.to_minute]
                .into_iter()
                .find(|m| *m >= DAY_MINUTES)
            {
                return Err(WanBudgetError::Minute { minute });
            }
            if let Some(bytes_per_second @ 1..WAN_BYTES_PER_SECOND_MIN) = window.bytes_per_second {
                return Err(WanBudgetError::Rate { bytes_per_second });
            }
        }
        Ok(())
    }

    /// What holds at a moment of HQ's clock, and until when.
    pub fn at(&self, unix_seconds: u64) -> WanRate {
        const DAY_SECONDS: u64 = 24 * 3600;
        let offset = i64::from(self.utc_offset_minutes) * 60;
        // a day more, so that no offset reaches below zero
        let local = (unix_seconds + DAY_SECONDS).saturating_add_signed(offset);
        let second = local % DAY_SECONDS;
        let minute = u16::try_from(second / 60).unwrap_or(0);
        let rate = self.rate_in(minute);
        let holds = (1..DAY_MINUTES)
            .find(|later| self.rate_in((minute + later) % DAY_MINUTES) != rate)
            .unwrap_or(DAY_MINUTES);
        WanRate {
            bytes_per_second: rate,
            holds_seconds: (u64::from(holds) * 60).saturating_sub(second % 60).max(1),
        }
    }

    fn rate_in(&self, minute: u16) -> Option<u64> {
        let covers = |w: &&WanWindow| match w.from_minute < w.to_minute {
            true => (w.from_minute..w.to_minute).contains(&minute),
            false => minute >= w.from_minute || minute < w.to_minute,
        };
        self.windows.iter().find(covers)?.bytes_per_second
    }
}

fn clock(text: &str) -> Option<u16> {
    let (hours, minutes) = text.trim().split_once(':')?;
    let (hours, minutes): (u16, u16) = (hours.parse().ok()?, minutes.parse().ok()?);
    // 24:00 is how people write the end of a day
    let minute = hours.checked_mul(60)?.checked_add(minutes)?;
    (minutes < 60 && minute <= DAY_MINUTES).then_some(minute % DAY_MINUTES)
}

fn rate(text: &str) -> Option<Option<u64>> {
    let text = text.trim().to_lowercase();
    match text.as_str() {
        "unlimited" => return Some(None),
        "none" => return Some(Some(0)),
        _ => {}
    }
    let (number, bits) = [
        ("kbit", 1_000),
        ("mbit", 1_000_000),
        ("gbit", 1_000_000_000),
    ]
    .into_iter()
    .find_map(|(unit, bits)| Some((text.strip_suffix(unit)?, bits)))?;
    let number: u64 = number.trim().parse().ok()?;
    Some(Some(number.checked_mul(bits)? / 8))
}

impl FromStr for WanWindow {
    type Err = WanBudgetError;

    /// From `08:00-20:00=2Mbit`.
    fn from_str(text: &str) -> Result<Self, WanBudgetError> {
        let parsed = || {
            let (span, bytes) = text.split_once('=')?;
            let (from, to) = span.split_once('-')?;
            Some(Self {
                from_minute: clock(from)?,
                to_minute: clock(to)?,
                bytes_per_second: rate(bytes)?,
            })
        };
        parsed().ok_or_else(|| WanBudgetError::Text {
            text: text.chars().take(64).collect(),
        })
    }
}

impl fmt::Display for WanWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let clock = |m: u16| format!("{:02}:{:02}", m / 60, m % 60);
        write!(f, "{}-{}=", clock(self.from_minute), clock(self.to_minute))?;
        match self.bytes_per_second.map(|b| b.saturating_mul(8)) {
            None => f.write_str("unlimited"),
            Some(0) => f.write_str("none"),
            Some(bits) if bits % 1_000_000 == 0 => write!(f, "{}Mbit", bits / 1_000_000),
            Some(bits) => write!(f, "{}kbit", bits / 1000),
        }
    }
}

/// Reads an offset from UTC such as `+01:00` or `-03:30`, in minutes.
///
/// # Errors
/// When it is none, or none on Earth.
pub fn parse_utc_offset(text: &str) -> Result<i16, String> {
    let parsed = || {
        let (sign, rest) = match text.strip_prefix('-') {
            Some(rest) => (-1, rest),
            None => (1, text.strip_prefix('+').unwrap_or(text)),
        };
        let (hours, minutes) = rest.split_once(':')?;
        let (hours, minutes): (u8, u8) = (hours.parse().ok()?, minutes.parse().ok()?);
        let offset = i16::from(hours) * 60 + i16::from(minutes);
        (minutes < 60 && offset <= UTC_OFFSET_MINUTES_MAX).then_some(sign * offset)
    };
    parsed().ok_or_else(|| format!("{text:?} is no offset from UTC: write it as +01:00"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(windows: &str, utc_offset_minutes: i16) -> WanBudget {
        let budget = WanBudget {
            windows: windows
                .split(',')
                .filter(|w| !w.is_empty())
                .map(|w| w.parse().unwrap())
                .collect(),
            utc_offset_minutes,
        };
        budget.check().unwrap();
        budget
    }

    /// Unix time of a clock in UTC.
    fn utc(hours: u64, minutes: u64, seconds: u64) -> u64 {
        1_700_006_400 + hours * 3600 + minutes * 60 + seconds
    }

    #[test]
    fn windows_hold_by_the_sites_clock() {
        const DAY: &str = "08:00-20:00=2Mbit,20:00-08:00=unlimited";
        let check = |windows, offset, at: (u64, u64, u64), bytes_per_second, holds_seconds| {
            let expect = WanRate {
                bytes_per_second,
                holds_seconds,
            };
            let found = budget(windows, offset).at(utc(at.0, at.1, at.2));
            assert_eq!(found, expect, "{windows} {offset} {at:?}");
        };
        let (two_mbit, hour) = (Some(250_000), 3600);
        check("", 0, (0, 0, 0), None, 24 * hour);
        check(DAY, 0, (7, 59, 59), None, 1);
        check(DAY, 0, (8, 0, 0), two_mbit, 12 * hour);
        check(DAY, 0, (19, 59, 30), two_mbit, 30);
        // over midnight
        check(DAY, 0, (20, 0, 0), None, 12 * hour);
        check(DAY, 0, (23, 30, 0), None, 8 * hour + 1800);
        check(DAY, 0, (0, 30, 0), None, 7 * hour + 1800);
        // east and west of Greenwich
        check(DAY, 60, (7, 0, 0), two_mbit, 12 * hour);
        check(DAY, -210, (11, 0, 0), None, 1800);
        check(DAY, 14 * 60, (18, 0, 0), two_mbit, 12 * hour);
        check(DAY, -14 * 60, (21, 59, 0), None, 60);
        // what no window covers has no limit; a window of a whole day; the first one holds
        check("22:00-24:00=none", 0, (21, 0, 0), None, hour);
        check("22:00-24:00=none", 0, (22, 0, 0), Some(0), 2 * hour);
        check(
            "03:00-03:00=512kbit",
            0,
            (12, 0, 0),
            Some(64_000),
            24 * hour,
        );
        check(
            "10:00-11:00=none,09:00-12:00=1Mbit",
            0,
            (10, 15, 0),
            Some(0),
            2700,
        );
        // two windows of one rate are one
        check(
            "08:00-12:00=1Mbit,12:00-20:00=1Mbit",
            0,
            (9, 0, 0),
            Some(125_000),
            11 * hour,
        );
    }

    #[test]
    fn windows_are_read_as_they_are_written() {
        for text in [
            "08:00-20:00=2Mbit",
            "20:00-08:00=unlimited",
            "00:00-06:30=none",
            "06:30-07:00=512kbit",
        ] {
            assert_eq!(text.parse::<WanWindow>().unwrap().to_string(), text);
        }
        let gigabit: WanWindow = "08:00-24:00=1 Gbit".parse().unwrap();
        assert_eq!(gigabit.to_string(), "08:00-00:00=1000Mbit");
        for text in [
            "",
            "08:00=2Mbit",
            "8-9=2Mbit",
            "25:00-26:00=none",
            "08:60-09:00=none",
            "08:00-09:00=2",
            "08:00-09:00=2MB",
        ] {
            let error = text.parse::<WanWindow>().unwrap_err().to_string();
            assert!(error.contains("no window"), "{error}");
        }
        assert_eq!(parse_utc_offset("+01:00"), Ok(60));
        assert_eq!(parse_utc_offset("-03:30"), Ok(-210));
        for text in ["", "1", "+15:00", "-1:75", "+x:00"] {
            assert!(parse_utc_offset(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_out_of_bounds_is_named() {
        let window = |from_minute, to_minute, bytes_per_second| WanWindow {
            from_minute,
            to_minute,
            bytes_per_second,
        };
        let check = |windows, utc_offset_minutes| {
            let budget = WanBudget {
                windows,
                utc_offset_minutes,
            };
            budget.check().unwrap_err().to_string()
        };
        assert!(check(vec![window(0, 1, None); 17], 0).contains("at most 16"));
        assert!(check(vec![window(0, 1440, None)], 0).contains("minute 1440"));
        assert!(check(vec![window(0, 1, Some(15_999))], 0).contains("too few"));
        assert!(check(vec![], 841).contains("14:00"));
        assert!(check(vec![], i16::MIN).contains("14:00"));
    }
}
