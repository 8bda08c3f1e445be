//! HQ as the sites see it: leases by the product's own rule, news of the budget, and an account of what it sent.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use trust_format::PublicKey;
use web_api::{WanBudget, WanNews, WanRules};

use crate::judge::{LEASE_DEADLINE, Slot, Verdict, judge};

/// What nodes are told of the budget: HQ's own words, compiled here for the same reason as [`crate::judge`].
#[path = "../../../web/web-server/src/wan/news.rs"]
mod news;

/// A node of which HQ did not hear for so long by its wall clock is no help to its neighbours.
const HEARD_SECONDS: u64 = 30;
/// The same when an agent asks, which has been without a node for longer.
const HEARD_BESIDE_AGENTS_SECONDS: u64 = 15;
/// HQ's wall clock when a run begins, before the minutes that a plan adds: a midnight in UTC.
const MIDNIGHT: u64 = 1_790_000_000 / 86_400 * 86_400;
const VERSION: [u8; 32] = [7; 32];

/// The lease of a site, or of one of its islands.
#[derive(Debug)]
struct Lease {
    island: Option<PublicKey>,
    holder: PublicKey,
    fence: u64,
    /// The last byte, or when it was given.
    moved: Duration,
    is_finished: bool,
}

/// What a node is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It may ask for objects under this fence.
    Lease { fence: u64 },
    /// Another fetches, or has everything.
    Held { holder: PublicKey, finished: bool },
    /// There are too many islands.
    Crowded,
}

/// What HQ sent: objects of the site's main leases and of its islands', or bytes where they are not told apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) main: u64,
    pub(crate) islands: u64,
    /// Begun and not finished.
    pub(crate) cut: u64,
    pub(crate) bytes: u64,
}

/// HQ for one site and version.
#[derive(Debug)]
pub(crate) struct Hq {
    leases: Vec<Lease>,
    fences: u64,
    rules: WanRules,
    /// Of the wall clock at the start of the run.
    wall_at_start: u64,
    seen: BTreeMap<PublicKey, u64>,
    pub(crate) account: Account,
}

impl Hq {
    /// `minute` is HQ's time of day at the start.
    pub(crate) fn new(budget: WanBudget, minute: u64) -> Self {
        Self {
            leases: Vec::new(),
            fences: 0,
            rules: WanRules {
                budget,
                ..WanRules::default()
            },
            wall_at_start: MIDNIGHT + minute * 60,
            seen: BTreeMap::new(),
            account: Account::default(),
        }
    }

    fn wall(&self, now: Duration) -> u64 {
        self.wall_at_start + now.as_secs()
    }

    pub(crate) fn jump(&mut self, seconds: i64) {
        self.wall_at_start = self.wall_at_start.saturating_add_signed(seconds);
    }

    pub(crate) fn pause(&mut self, paused: bool) {
        self.rules.paused = paused;
    }

    /// A node told that it lives.
    pub(crate) fn hear(&mut self, now: Duration, node: PublicKey) {
        let wall = self.wall(now);
        self.seen.insert(node, wall);
    }

    /// A node, or an agent that found none, asks for the lease and says what it sees of holders.
    pub(crate) fn ask(
        &mut self,
        now: Duration,
        (asker, is_node): (PublicKey, bool),
        views: &[(PublicKey, bool)],
    ) -> Answer {
        self.leases.sort_by_key(|l| (l.island.is_some(), l.fence));
        let wall = self.wall(now);
        let heard_within = match is_node {
            true => HEARD_SECONDS,
            false => HEARD_BESIDE_AGENTS_SECONDS,
        };
        let slots: Vec<Slot> = self
            .leases
            .iter()
            .map(|lease| Slot {
                island: lease.island,
                holder: lease.holder,
                idle: now.saturating_sub(lease.moved),
                finished: lease.is_finished,
                heard: self
                    .seen
                    .get(&lease.holder)
                    .is_some_and(|s| wall.abs_diff(*s) < heard_within),
            })
            .collect();
        let view = |key: &PublicKey| views.iter().find(|(k, _)| k == key).map(|(_, live)| *live);
        let island = match judge(asker, &slots, &view) {
            Verdict::Held { holder, finished } => return Answer::Held { holder, finished },
            Verdict::Crowded => return Answer::Crowded,
            Verdict::Renew { island } => {
                let own = self.leases.iter().find(|l| l.island == island);
                return own.map_or(Answer::Crowded, |l| Answer::Lease { fence: l.fence });
            }
            Verdict::Give { island } => island,
        };
        self.fences += 1;
        self.leases.retain(|l| l.island != island);
        self.leases.push(Lease {
            island,
            holder: asker,
            fence: self.fences,
            moved: now,
            is_finished: false,
        });
        Answer::Lease { fence: self.fences }
    }

    fn lease(&mut self, fence: u64) -> Option<&mut Lease> {
        self.leases.iter_mut().find(|l| l.fence == fence)
    }

    /// Bytes went out under a lease.
    pub(crate) fn moved(&mut self, now: Duration, fence: u64) {
        if let Some(lease) = self.lease(fence) {
            lease.moved = now;
        }
    }

    /// A whole object went out.
    pub(crate) fn count(&mut self, fence: u64) {
        match self.lease(fence).is_some_and(|l| l.island.is_some()) {
            true => self.account.islands += 1,
            false => self.account.main += 1,
        }
    }

    /// The holder stops. Whoever did not finish holds it no more.
    pub(crate) fn end(&mut self, fence: u64, finished: bool) {
        if let Some(lease) = self.lease(fence) {
            lease.is_finished = true;
            if !finished {
                lease.holder = PublicKey([0; 32]);
            }
        }
    }

    /// Whether objects are given under it.
    pub(crate) fn works(&self, now: Duration, fence: u64) -> bool {
        let works = |l: &Lease| !l.is_finished && now.saturating_sub(l.moved) < LEASE_DEADLINE;
        self.leases.iter().any(|l| l.fence == fence && works(l))
    }

    /// Those whose leases work, and their fences.
    pub(crate) fn working(&self, now: Duration) -> Vec<(PublicKey, u64)> {
        let all = self.leases.iter().map(|l| (l.holder, l.fence));
        all.filter(|(_, fence)| self.works(now, *fence)).collect()
    }

    /// What a node that fetches is told.
    pub(crate) fn news(&self, now: Duration, node: PublicKey) -> WanNews {
        let working = self.working(now);
        let mut fetchers: BTreeSet<PublicKey> = working.iter().map(|(holder, _)| *holder).collect();
        fetchers.insert(node);
        let open = self.leases.iter().any(|l| !l.is_finished);
        let set = |is: bool| is.then_some(VERSION).into_iter().collect();
        let leased = news::Leased {
            open: set(open),
            fetched: set(!working.is_empty()),
        };
        news::of(&self.rules, self.wall(now), fetchers.len() as u64, &leased)
    }
}
