use super::*;
use crate::{
    election::{DEADLINE, SETTLE},
    swarm::Want,
};

const ME: PublicKey = PublicKey([1; 32]);
const CHUNKS: u32 = 12;
const MINUTE: Duration = Duration::from_secs(60);

fn rank(free_gib: u32) -> Rank {
    Rank {
        node: true,
        always_on: false,
        free_gib,
        uptime_minutes: 5,
    }
}

fn agent_rank(free_gib: u32) -> Rank {
    Rank {
        node: false,
        ..rank(free_gib)
    }
}

/// One node's download on a clock of its own; what the shell would do is written down.
struct Node {
    now: Duration,
    download: Download,
    fetches: Vec<Vec<ChunkId>>,
    stops: usize,
    requests: Vec<(RequestId, PeerId, Want)>,
}

impl Node {
    fn new(stands: bool) -> Self {
        let stands = stands.then_some((ME, rank(10)));
        Self {
            now: Duration::ZERO,
            download: Download::new(Duration::ZERO, table(), 1, stands),
            fetches: vec![],
            stops: 0,
            requests: vec![],
        }
    }

    /// An agent that can reach HQ.
    fn agent() -> Self {
        let stands = Some((ME, agent_rank(1)));
        Self {
            download: Download::new(Duration::ZERO, table(), 1, stands),
            ..Self::new(false)
        }
    }

    fn act(&mut self) {
        while let Some(action) = self.download.poll_action() {
            match action {
                Action::Fetch { wanted, .. } => self.fetches.push(wanted),
                Action::StopFetching => self.stops += 1,
                Action::Swarm(swarm::Action::Request { id, peer, want }) => {
                    self.requests.push((id, peer, want));
                }
                Action::Swarm(_) | Action::Claim { .. } => {}
            }
        }
    }

    fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.act();
            match self.download.poll_timeout() {
                Some(next) if next <= end => self.now = self.now.max(next),
                _ => break,
            }
            self.download.handle_timeout(self.now);
        }
        self.now = end;
        self.act();
    }

    fn receive_all(&mut self, chunks: &[ChunkId]) {
        for chunk in chunks {
            self.download.handle_local(self.now, *chunk);
        }
        self.download.handle_fetched();
    }
}

/// Of one part and of two, in turn.
fn table() -> Arc<PartTable> {
    Arc::new(PartTable::of_counts((0..CHUNKS).map(|c| 1 + c % 2)))
}

fn all_parts() -> Vec<PartId> {
    (0..table().part_count()).map(PartId).collect()
}

fn chunks(range: std::ops::Range<u32>) -> Vec<ChunkId> {
    range.map(ChunkId).collect()
}

#[test]
fn alone_it_fetches_everything_once() {
    let mut node = Node::new(true);
    node.run_for(SETTLE / 2);
    assert!(node.fetches.is_empty(), "neighbours may still turn up");
    node.run_for(SETTLE * 2);
    assert_eq!(node.fetches, [chunks(0..CHUNKS)]);
    node.receive_all(&chunks(0..CHUNKS));
    node.run_for(MINUTE);
    assert!(node.download.is_finished());
    assert_eq!(node.fetches.len(), 1);
}

/// The simulator's seed 1586: HQ gave the lease to a late comer in the moment in which it met the one that had everything,
/// and the whole version came over the WAN again.
#[test]
fn a_fetch_ends_when_a_neighbour_turns_up_with_everything() {
    let mut node = Node::new(true);
    node.run_for(SETTLE * 2);
    assert_eq!(node.fetches, [chunks(0..CHUNKS)]);
    node.download
        .handle_peer(node.now, PeerId(7), PeerKind::Receiver);
    node.download.handle_have(node.now, PeerId(7), &all_parts());
    node.run_for(LOOK_EVERY);
    assert_eq!(node.stops, 1);
    node.run_for(MINUTE);
    assert_eq!((node.fetches.len(), node.stops), (1, 1));
}

#[test]
fn a_fetch_is_shortened_by_what_a_neighbour_brings() {
    let mut node = Node::new(true);
    node.run_for(SETTLE * 2);
    let parts_of_nine: Vec<PartId> = (0..9).flat_map(|c| table().parts_of(ChunkId(c))).collect();
    node.download
        .handle_peer(node.now, PeerId(7), PeerKind::Receiver);
    // one or two are not worth a transfer that is cut
    node.download
        .handle_have(node.now, PeerId(7), &parts_of_nine[..3]);
    node.run_for(LOOK_EVERY);
    assert_eq!((node.fetches.len(), node.stops), (1, 0));
    node.download
        .handle_have(node.now, PeerId(7), &parts_of_nine);
    node.run_for(LOOK_EVERY);
    assert_eq!(node.stops, 1);
    assert_eq!(node.fetches[1..], [chunks(9..CHUNKS)]);
    // what arrives from the origin shortens it too, and is no reason to begin anew
    node.download.handle_local(node.now, ChunkId(9));
    node.run_for(LOOK_EVERY * 3);
    assert_eq!((node.fetches.len(), node.stops), (2, 1));
}

#[test]
fn nobody_fetches_what_a_neighbour_holds() {
    let mut node = Node::new(true);
    node.download
        .handle_peer(node.now, PeerId(7), PeerKind::Receiver);
    node.download.handle_have(node.now, PeerId(7), &all_parts());
    // the neighbour is slow: nothing arrives for a minute
    node.run_for(MINUTE);
    assert!(node.fetches.is_empty());
    assert!(!node.requests.is_empty());
}

#[test]
fn what_a_vanished_neighbour_did_not_give_is_fetched_and_no_more() {
    let mut node = Node::new(true);
    node.download
        .handle_peer(node.now, PeerId(7), PeerKind::Receiver);
    node.download.handle_have(node.now, PeerId(7), &all_parts());
    node.run_for(Duration::from_millis(50));
    let mut got = Vec::new();
    for (id, _, want) in node.requests.clone() {
        let Want::Part(part) = want else {
            panic!("a receiver gives no next one")
        };
        node.download.handle_arrived(node.now, id, part);
        got.push(part);
    }
    assert!(!got.is_empty() && got.len() < CHUNKS as usize);
    node.download.handle_peer_gone(node.now, PeerId(7));
    node.run_for(SETTLE * 2);
    let rest: Vec<ChunkId> = chunks(0..CHUNKS)
        .into_iter()
        .filter(|c| table().parts_of(*c).any(|part| !got.contains(&part)))
        .collect();
    assert_eq!(node.fetches, [rest]);
}

#[test]
fn a_refusal_ends_the_fetch_until_a_deadline_has_passed() {
    let mut node = Node::new(true);
    node.run_for(SETTLE * 2);
    node.download.handle_fetch_failed(node.now);
    node.run_for(DEADLINE / 2);
    assert_eq!((node.fetches.len(), node.stops), (1, 1));
    node.run_for(DEADLINE);
    assert_eq!(node.fetches.len(), 2, "it stands again");
}

#[test]
fn the_better_node_fetches_and_its_death_is_noticed() {
    let mut node = Node::new(true);
    let better = BTreeMap::from([(PublicKey([2; 32]), rank(500))]);
    node.download.handle_nodes(node.now, &better);
    node.download.handle_claim(node.now, PublicKey([2; 32]), 1);
    node.run_for(DEADLINE / 2);
    assert!(node.fetches.is_empty());
    node.download.handle_nodes(node.now, &BTreeMap::new());
    node.run_for(SETTLE * 2);
    assert_eq!(node.fetches.len(), 1);
}

#[test]
fn an_agent_never_fetches() {
    let mut node = Node::new(false);
    node.run_for(MINUTE);
    assert!(node.fetches.is_empty());
}

#[test]
fn an_agent_fetches_while_it_stands_and_stops_when_a_node_is_back() {
    let mut agent = Node::agent();
    agent.run_for(MINUTE);
    assert!(agent.fetches.is_empty(), "a node's turn");
    agent.download.handle_standing(agent.now, true);
    agent.run_for(SETTLE / 2);
    assert!(agent.fetches.is_empty(), "the others have just begun too");
    agent.run_for(SETTLE * 2);
    assert_eq!(agent.fetches, [chunks(0..CHUNKS)]);
    agent.download.handle_local(agent.now, ChunkId(0));
    agent.download.handle_standing(agent.now, false);
    agent.act();
    assert_eq!(agent.stops, 1);
    agent.run_for(MINUTE);
    assert_eq!((agent.fetches.len(), agent.stops), (1, 1));
    // it is gone again
    agent.download.handle_standing(agent.now, true);
    agent.run_for(SETTLE * 2);
    assert_eq!(agent.fetches[1..], [chunks(1..CHUNKS)]);
}

/// Both have had their view of each other for long, and begin to stand in the same moment.
#[test]
fn of_two_agents_that_stand_the_better_one_fetches() {
    let other = PublicKey([2; 32]);
    let mut agent = Node::agent();
    let better = BTreeMap::from([(other, agent_rank(500))]);
    agent.download.handle_nodes(agent.now, &better);
    agent.run_for(MINUTE);
    agent.download.handle_standing(agent.now, true);
    for _ in 0..20 {
        agent.run_for(election::CLAIM_EVERY);
        agent.download.handle_claim(agent.now, other, 1);
    }
    assert!(agent.fetches.is_empty());
    // it is gone too
    agent.download.handle_nodes(agent.now, &BTreeMap::new());
    agent.run_for(SETTLE * 2);
    assert_eq!(agent.fetches.len(), 1);

    // one that is better and does not stand, because it sees a node, is waited for no longer than a fetcher
    let mut agent = Node::agent();
    agent.download.handle_nodes(agent.now, &better);
    agent.run_for(MINUTE);
    agent.download.handle_standing(agent.now, true);
    agent.run_for(DEADLINE);
    assert!(agent.fetches.is_empty());
    agent.run_for(SETTLE * 2);
    assert_eq!(agent.fetches.len(), 1);
}

/// The fetch that was asked for is over and something is missing: its neighbour had it in flight and vanished.
#[test]
fn a_fetch_that_left_something_is_begun_again_under_the_same_term() {
    let mut node = Node::new(true);
    node.run_for(SETTLE * 2);
    node.receive_all(&chunks(0..CHUNKS - 2));
    node.run_for(LOOK_EVERY * 2);
    assert_eq!(node.fetches.len(), 2);
    assert_eq!(node.fetches[1], chunks(CHUNKS - 2..CHUNKS));
    assert_eq!(node.stops, 0);
}

#[test]
fn what_turns_out_damaged_is_fetched_again() {
    let mut node = Node::new(true);
    node.run_for(SETTLE * 2);
    for chunk in chunks(0..CHUNKS - 1) {
        node.download.handle_local(node.now, chunk);
    }
    node.download.handle_lost(node.now, ChunkId(3));
    node.download.handle_local(node.now, ChunkId(CHUNKS - 1));
    node.download.handle_fetched();
    assert!(!node.download.is_finished());
    node.run_for(LOOK_EVERY * 2);
    assert_eq!(node.fetches[1..], [vec![ChunkId(3)]]);
    node.receive_all(&[ChunkId(3)]);
    assert!(node.download.is_finished());
}
