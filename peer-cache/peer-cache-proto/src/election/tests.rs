use super::*;

fn key(n: u8) -> PublicKey {
    PublicKey([n; 32])
}

fn rank(free_gib: u32) -> Rank {
    Rank {
        node: true,
        always_on: false,
        free_gib,
        uptime_minutes: 5,
    }
}

#[test]
fn a_pinned_node_comes_before_one_with_more_room_and_an_agent_never() {
    let pinned = |rank| Rank {
        always_on: true,
        ..rank
    };
    assert!(pinned(rank(0)) > rank(u32::MAX));
    assert!(pinned(rank(1)) > pinned(rank(0)));
    let agent = Rank {
        node: false,
        ..pinned(rank(9))
    };
    assert!(agent < rank(0));
}

/// Nodes that all see each other at once.
struct Site {
    now: Duration,
    nodes: Vec<(PublicKey, Rank, Option<Election>)>,
    started: Vec<(PublicKey, Duration)>,
}

impl Site {
    fn new(ranks: &[u32]) -> Self {
        let mut site = Self {
            now: Duration::ZERO,
            nodes: Vec::new(),
            started: Vec::new(),
        };
        for (n, free) in (1u8..).zip(ranks) {
            let election = Election::new(Duration::ZERO, key(n), rank(*free));
            site.nodes.push((key(n), rank(*free), Some(election)));
        }
        for i in 0..site.nodes.len() {
            site.introduce(i);
        }
        site
    }

    fn introduce(&mut self, i: usize) {
        for j in 0..self.nodes.len() {
            let (key, rank) = (self.nodes[j].0, self.nodes[j].1);
            if i != j
                && let Some(election) = &mut self.nodes[i].2
            {
                election.handle_peer(self.now, key, rank);
            }
        }
    }

    fn kill(&mut self, i: usize) {
        self.nodes[i].2 = None;
        let gone = self.nodes[i].0;
        for (_, _, election) in &mut self.nodes {
            if let Some(election) = election {
                election.handle_peer_gone(self.now, &gone);
            }
        }
    }

    fn fetchers(&self) -> Vec<PublicKey> {
        let fetching = |e: &Option<Election>| e.as_ref().is_some_and(|e| e.fetching().is_some());
        self.nodes
            .iter()
            .filter(|(_, _, e)| fetching(e))
            .map(|(k, _, _)| *k)
            .collect()
    }

    /// `progress`: whether the fetcher's origin delivers.
    fn run(&mut self, until: Duration, progress: bool) {
        while self.now < until {
            self.now += Duration::from_millis(50);
            let mut claims = Vec::new();
            for (key, _, election) in &mut self.nodes {
                let Some(election) = election else { continue };
                if progress && election.fetching().is_some() {
                    election.handle_progress(self.now);
                }
                if election.poll_timeout().is_some_and(|t| t <= self.now) {
                    election.handle_timeout(self.now);
                }
                while let Some(action) = election.poll_action() {
                    match action {
                        Action::Start { .. } => self.started.push((*key, self.now)),
                        Action::Claim { term } => claims.push((*key, term)),
                        Action::Stop => {}
                    }
                }
            }
            for (by, term) in claims {
                for (key, _, election) in &mut self.nodes {
                    if let Some(election) = election
                        && *key != by
                    {
                        election.handle_claim(self.now, by, term);
                    }
                }
            }
        }
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn in_a_stable_view_exactly_one_fetches() {
    let mut site = Site::new(&[10, 30, 20, 30]);
    site.run(60 * SECOND, true);
    assert_eq!(
        site.fetchers(),
        [key(2)],
        "the highest rank, and the lower key of two"
    );
    assert_eq!(site.started.len(), 1);
}

#[test]
fn a_dead_fetcher_is_replaced_within_a_deadline() {
    let mut site = Site::new(&[10, 30, 20]);
    site.run(5 * SECOND, true);
    site.kill(1);
    let died = site.now;
    site.run(died + DEADLINE, true);
    assert_eq!(site.fetchers(), [key(3)]);
    assert!(site.started[1].1 - died < DEADLINE);
}

#[test]
fn a_fetcher_without_progress_gives_way() {
    let mut site = Site::new(&[10, 30]);
    site.run(5 * SECOND, false);
    assert_eq!(site.fetchers(), [key(2)]);
    site.run(40 * SECOND, false);
    assert!(
        site.started.iter().any(|(k, _)| *k == key(1)),
        "{:?}",
        site.started
    );
    assert!(site.fetchers().len() <= 1);
}

/// The laptop's lid is opened again: it has the lower key, and its right is over.
#[test]
fn one_that_was_paused_does_not_displace_its_successor() {
    let mut site = Site::new(&[30, 10]);
    site.run(5 * SECOND, true);
    assert_eq!(site.fetchers(), [key(1)]);
    let paused = site.nodes[0].2.take().unwrap();
    if let Some(successor) = &mut site.nodes[1].2 {
        successor.handle_peer_gone(site.now, &key(1));
    }
    site.run(65 * SECOND, true);
    assert_eq!(site.fetchers(), [key(2)]);
    site.nodes[0].2 = Some(paused);
    // bytes that waited in its sockets look like progress
    let now = site.now;
    if let Some(back) = &mut site.nodes[0].2 {
        back.handle_progress(now);
    }
    site.introduce(0);
    site.introduce(1);
    site.run(now + 10 * SECOND, true);
    assert_eq!(site.fetchers(), [key(2)]);
    assert_eq!(site.started.len(), 2, "{:?}", site.started);
}

#[test]
fn who_is_refused_again_and_again_steps_back_for_longer_and_not_in_step() {
    let pauses = |me: u8| {
        let mut election = Election::new(Duration::ZERO, key(me), rank(1));
        let mut now = SETTLE;
        let mut pauses = Vec::new();
        for _ in 0..4 {
            election.handle_timeout(now);
            assert!(election.fetching().is_some());
            election.handle_refused(now);
            let next = election.poll_timeout().unwrap();
            pauses.push(next - now);
            now = next;
        }
        pauses
    };
    let (a, b) = (pauses(1), pauses(2));
    assert_ne!(a, b);
    for pauses in [a, b] {
        assert!(
            (DEADLINE..DEADLINE * 3 / 2).contains(&pauses[0]),
            "{pauses:?}"
        );
        for pause in &pauses[1..] {
            assert!(
                (DEADLINE * 2..DEADLINE * 5 / 2).contains(pause),
                "{pauses:?}"
            );
        }
    }
}

#[test]
fn a_better_one_that_never_starts_is_passed_over() {
    let mut election = Election::new(Duration::ZERO, key(5), rank(1));
    election.handle_peer(Duration::ZERO, key(1), rank(99));
    election.handle_timeout(SETTLE);
    assert_eq!(election.fetching(), None);
    election.handle_timeout(SETTLE + DEADLINE);
    assert!(election.fetching().is_some());
}

#[test]
fn of_two_fetchers_one_stops() {
    let mut a = Election::new(Duration::ZERO, key(1), rank(1));
    let mut b = Election::new(Duration::ZERO, key(2), rank(9));
    for e in [&mut a, &mut b] {
        e.handle_timeout(SETTLE);
        assert!(e.fetching().is_some());
    }
    let now = SETTLE + SECOND;
    a.handle_peer(now, key(2), rank(9));
    b.handle_peer(now, key(1), rank(1));
    a.handle_claim(now, key(2), 1);
    b.handle_claim(now, key(1), 1);
    assert_eq!(
        (a.fetching().is_some(), b.fetching().is_some()),
        (true, false)
    );
}

#[test]
fn strangers_elect_nobody() {
    let mut election = Election::new(Duration::ZERO, key(5), rank(1));
    election.handle_claim(Duration::ZERO, key(9), 1000);
    election.handle_timeout(SETTLE);
    assert!(election.fetching().is_some());
}

/// A node that has a certificate and means no good, or whose origin client hangs.
#[test]
fn who_claims_for_ever_and_brings_nothing_is_passed_over() {
    let mut election = Election::new(Duration::ZERO, key(5), rank(1));
    let mut now = Duration::ZERO;
    election.handle_peer(now, key(1), rank(99));
    let mut claims_until = |election: &mut Election, until: Duration, term: u64| {
        while now < until {
            now += CLAIM_EVERY;
            election.handle_claim(now, key(1), term);
            if election.poll_timeout().is_some_and(|t| t <= now) {
                election.handle_timeout(now);
            }
        }
    };
    claims_until(&mut election, IDLE_CLAIM_MAX / 2, 1);
    // something came: it has its time again
    election.handle_brought(IDLE_CLAIM_MAX / 2);
    claims_until(&mut election, IDLE_CLAIM_MAX * 3 / 2 - DEADLINE, 1);
    assert_eq!(election.fetching(), None);
    claims_until(&mut election, IDLE_CLAIM_MAX * 3 / 2 + CLAIM_EVERY, 1);
    assert!(election.fetching().is_some());
    // a higher term and a new connection help it no further
    let later = IDLE_CLAIM_MAX * 3 / 2 + DEADLINE / 2;
    election.handle_peer_gone(later, &key(1));
    election.handle_peer(later, key(1), rank(99));
    election.handle_progress(later);
    claims_until(&mut election, later + CLAIM_EVERY, 99);
    assert!(election.fetching().is_some());
}
