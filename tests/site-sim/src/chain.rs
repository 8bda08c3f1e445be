//! A whole chain against one HQ: thousands of sites that are told of a new version in the same second.
//!
//! HQ's side is the product's own: its rule for leases and its words about the budget. A site is not a swarm here but a line,
//! a fetcher with a successor, and a budget by time of day; time goes in steps of a second. What a node asks HQ, and how
//! often, is what the shells do.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use peer_cache_proto::reporter::OWN_CALL_EVERY;
use trust_format::PublicKey;
use web_api::{LIFE_HELD_SECONDS, WAN_NEWS_SECONDS, WanBudget, WanWindow};

use crate::{
    hq::{Answer, Hq},
    random::Random,
};

/// Nobody waits for longer.
const SECONDS_MAX: u64 = 48 * 3600;
const MBIT: u64 = 125_000;
/// Lines of stores, in Mbit/s; drawn alike often.
const LINES_MBIT: [u64; 5] = [4, 20, 50, 50, 100];
/// By day, of every second site.
const DAY_BYTES_PER_SECOND: u64 = 250_000;
const DAY: (u16, u16) = (8 * 60, 20 * 60);
/// One fetcher in so many dies on the way.
const DEATHS_ONE_IN: u64 = 50;
/// Until a successor fetches: a connection's end, the election's settling, and HQ's patience with one that nobody sees.
const TAKEOVER_SECONDS: u64 = 4;
/// The fetcher asks again for its lease after so many bytes.
const RENEW_EVERY_BYTES: u64 = 16 << 20;
/// Transfers at once: as many are lost with a fetcher.
const TRANSFERS: u64 = 4;
/// The node that reports for a site tells HQ so often that its nodes live: HQ holds it, and a second later it comes again.
const LIFE_EVERY_SECONDS: u64 = LIFE_HELD_SECONDS + 1;
/// A minute of HQ's day when the version is published: 18:00 UTC.
const PUBLISHED_AT: u64 = 18 * 60;

/// What is simulated.
#[derive(Debug, Clone, Copy)]
pub struct Chain {
    /// The run.
    pub seed: u64,
    /// Stores.
    pub sites: u32,
    /// Nodes in each.
    pub nodes: u32,
    /// Of the version.
    pub objects: u32,
    /// Of each.
    pub object_bytes: u32,
    /// Of HQ's own line.
    pub hq_bytes_per_second: u64,
}

/// How it went.
#[derive(Debug, Clone, Default)]
pub struct Rollout {
    /// Until half of the sites, until 99 of 100, and until the last had everything.
    pub seconds: [u64; 3],
    /// What HQ sent.
    pub wan_bytes: u64,
    /// By one copy for each site.
    pub wan_ratio: f64,
    /// By what they were for.
    pub requests: BTreeMap<&'static str, u64>,
    /// In the busiest second.
    pub requests_peak: u64,
    /// The same without signs of life.
    pub requests_peak_of_fetch: u64,
    /// Fetchers that died.
    pub takeovers: u64,
    /// What HQ's rule and its words cost in this run, each time.
    pub decision_nanos: u64,
}

struct Site {
    hq: Hq,
    nodes: [PublicKey; 2],
    fetcher: usize,
    fence: Option<u64>,
    line: u64,
    /// Where the fetcher dies, in bytes of the version.
    dies_at: Option<u64>,
    idle_until: u64,
    bytes: u64,
    renewed_at: u64,
    news_at: u64,
    limit: Option<u64>,
    finished: Option<u64>,
}

impl Site {
    fn new(random: &mut Random, number: u64, whole: u64) -> Self {
        let windows = match number.is_multiple_of(2) {
            true => vec![WanWindow {
                from_minute: DAY.0,
                to_minute: DAY.1,
                bytes_per_second: Some(DAY_BYTES_PER_SECOND),
            }],
            false => Vec::new(),
        };
        let budget = WanBudget {
            windows,
            // four time zones
            utc_offset_minutes: [0, 60, 120, -300][random.index(4)],
        };
        let key = |node: u8| {
            let mut bytes = [node; 32];
            bytes[..8].copy_from_slice(&number.to_le_bytes());
            PublicKey(bytes)
        };
        Self {
            hq: Hq::new(budget, PUBLISHED_AT),
            nodes: [key(1), key(2)],
            fetcher: 0,
            fence: None,
            line: LINES_MBIT[random.index(LINES_MBIT.len())] * MBIT,
            dies_at: random.one_in(DEATHS_ONE_IN).then(|| random.below(whole)),
            // HQ answers what it holds of the site's nodes; then read and elected
            idle_until: 2 + random.below(2),
            bytes: 0,
            renewed_at: 0,
            news_at: 0,
            limit: None,
            finished: None,
        }
    }

    /// What it would take in the next second, if HQ's line were free.
    fn wish(&self, second: u64) -> u64 {
        match self.finished.is_some() || second < self.idle_until {
            true => 0,
            false => self.line.min(self.limit.unwrap_or(u64::MAX)),
        }
    }
}

/// Counts and times.
struct Desk {
    requests: BTreeMap<&'static str, u64>,
    decisions: u64,
    spent: Duration,
}

impl Desk {
    fn count(&mut self, what: &'static str, times: u64) {
        *self.requests.entry(what).or_default() += times;
    }

    fn decide<T>(&mut self, decision: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let decided = decision();
        self.spent += started.elapsed();
        self.decisions += 1;
        decided
    }

    fn total(&self) -> u64 {
        self.requests.values().sum()
    }
}

/// Rolls a version out.
///
/// # Errors
/// What must not be: a site without its version, a lease refused to the only fetcher, or bytes beyond the budget.
pub fn roll_out(chain: Chain) -> Result<Rollout, String> {
    let whole = u64::from(chain.objects) * u64::from(chain.object_bytes);
    let mut random = Random::new(chain.seed);
    let mut sites: Vec<Site> = (0..u64::from(chain.sites))
        .map(|number| Site::new(&mut random, number, whole))
        .collect();
    let mut desk = Desk {
        requests: BTreeMap::new(),
        decisions: 0,
        spent: Duration::ZERO,
    };
    let mut rollout = Rollout::default();
    let mut second = 0;
    while sites.iter().any(|s| s.finished.is_none()) {
        second += 1;
        if second > SECONDS_MAX {
            let left = sites.iter().filter(|s| s.finished.is_none()).count();
            return Err(format!("invariant_every_site_finishes: {left} did not"));
        }
        let before = desk.total();
        for site in &mut sites {
            if site.finished.is_none() {
                ask(site, second, &mut desk)?;
            }
        }
        let wishes: Vec<u64> = sites.iter().map(|s| s.wish(second)).collect();
        let share = fair_share(&wishes, chain.hq_bytes_per_second);
        for (site, wish) in sites.iter_mut().zip(wishes) {
            let lost = fetch(site, second, wish.min(share), &chain, &mut desk);
            rollout.takeovers += u64::from(lost > 0);
        }
        let of_fetch = desk.total() - before;
        let sites = u64::from(chain.sites);
        let own_calls = sites * u64::from(chain.nodes) / OWN_CALL_EVERY.as_secs();
        let alive = sites / LIFE_EVERY_SECONDS + own_calls;
        desk.count("signs of life", alive);
        rollout.requests_peak_of_fetch = rollout.requests_peak_of_fetch.max(of_fetch);
        rollout.requests_peak = rollout.requests_peak.max(of_fetch + alive);
    }
    finish(rollout, &sites, desk, whole)
}

/// The account of a roll-out that is over.
#[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
fn finish(mut rollout: Rollout, sites: &[Site], desk: Desk, whole: u64) -> Result<Rollout, String> {
    let mut ends: Vec<u64> = sites.iter().filter_map(|s| s.finished).collect();
    ends.sort_unstable();
    let of = |part: usize| ends.get((ends.len() * part / 100).min(ends.len().saturating_sub(1)));
    rollout.seconds = [50, 99, 100].map(|part| of(part).copied().unwrap_or(0));
    let sent: u64 = sites.iter().map(|s| s.hq.account.bytes).sum();
    rollout.wan_bytes = sent;
    rollout.wan_ratio = sent as f64 / (whole as f64 * sites.len() as f64);
    let spent = u64::try_from(desk.spent.as_nanos()).unwrap_or(u64::MAX);
    rollout.decision_nanos = spent / desk.decisions.max(1);
    rollout.requests = desk.requests;
    let islands: u64 = sites.iter().map(|s| s.hq.account.islands).sum();
    match islands {
        0 => Ok(rollout),
        _ => Err(format!(
            "invariant_no_islands: {islands} objects went to some"
        )),
    }
}

/// News when they are due, and the lease when there is none or it is time.
fn ask(site: &mut Site, second: u64, desk: &mut Desk) -> Result<(), String> {
    if second < site.idle_until {
        return Ok(());
    }
    let now = Duration::from_secs(second);
    let me = site.nodes[site.fetcher];
    if second >= site.news_at {
        let news = desk.decide(|| site.hq.news(now, me));
        desk.count("news", 1);
        site.limit = news.bytes_per_second;
        site.news_at = second + WAN_NEWS_SECONDS.min(news.holds_seconds);
    }
    if site.fence.is_some() && site.bytes < site.renewed_at + RENEW_EVERY_BYTES {
        return Ok(());
    }
    let other = site.nodes[1 - site.fetcher];
    let views = [(other, false)];
    // whom it was refused for it has not seen for a while, when it is a successor
    let views = &views[..site.fetcher.min(1)];
    match desk.decide(|| site.hq.ask(now, (me, true), views)) {
        Answer::Lease { fence } => {
            site.fence = Some(fence);
            site.renewed_at = site.bytes;
            desk.count("leases", 1);
            Ok(())
        }
        Answer::Held { .. } | Answer::Crowded => Err(format!(
            "invariant_the_only_fetcher_has_the_lease: refused at {second} s"
        )),
    }
}

/// A second of bytes. Returns what was lost with a fetcher that died.
fn fetch(site: &mut Site, second: u64, bytes: u64, chain: &Chain, desk: &mut Desk) -> u64 {
    let (Some(fence), true) = (site.fence, bytes > 0) else {
        return 0;
    };
    let now = Duration::from_secs(second);
    let object = u64::from(chain.object_bytes);
    let whole = object * u64::from(chain.objects);
    let bytes = bytes.min(whole - site.bytes);
    let before = site.bytes / object;
    site.bytes += bytes;
    site.hq.account.bytes += bytes;
    site.hq.moved(now, fence);
    desk.count("objects", site.bytes / object - before);
    if site.dies_at.is_some_and(|at| site.bytes > at) && site.bytes < whole {
        // what was under way is lost, and those objects are asked for again
        site.dies_at = None;
        site.fetcher = 1;
        site.fence = None;
        site.idle_until = second + TAKEOVER_SECONDS;
        let lost = (TRANSFERS * object / 2).min(site.bytes);
        site.bytes -= lost;
        return lost;
    }
    if site.bytes == whole {
        site.finished = Some(second);
        site.hq.end(fence, true);
        desk.count("ends", 1);
    }
    0
}

/// So much each may take that HQ's line is full and nobody gets more than another who wants more.
fn fair_share(wishes: &[u64], all: u64) -> u64 {
    if wishes.iter().sum::<u64>() <= all {
        return u64::MAX;
    }
    let mut sorted: Vec<u64> = wishes.iter().copied().filter(|w| *w > 0).collect();
    sorted.sort_unstable();
    let mut left = all;
    for (n, wish) in sorted.iter().enumerate() {
        let share = left / (sorted.len() - n) as u64;
        if *wish > share {
            return share;
        }
        left -= wish;
    }
    u64::MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hqs_line_is_shared_by_those_who_want_more() {
        assert_eq!(fair_share(&[1, 2, 3], 6), u64::MAX);
        assert_eq!(fair_share(&[2, 10, 10], 10), 4);
        assert_eq!(fair_share(&[9, 0, 9], 10), 5);
    }

    #[test]
    fn every_site_gets_its_version_once() {
        let chain = Chain {
            seed: 1,
            sites: 60,
            nodes: 2,
            objects: 100,
            object_bytes: 1_000_000,
            hq_bytes_per_second: 1_250_000_000,
        };
        let rollout = roll_out(chain).unwrap();
        assert!((1.0..1.01).contains(&rollout.wan_ratio), "{rollout:?}");
        // a site by day has 20 times less than its line: the night does not come in time for all
        assert!(rollout.seconds[2] > 300, "{rollout:?}");
        assert_eq!(rollout.requests["ends"], 60);
        let thin = Chain {
            hq_bytes_per_second: 12_500_000,
            ..chain
        };
        let slower = roll_out(thin).unwrap();
        assert!(slower.seconds[0] > rollout.seconds[0], "{slower:?}");
    }
}
