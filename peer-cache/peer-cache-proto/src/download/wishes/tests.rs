use std::sync::Arc;

use image_format::PartTable;
use trust_format::PublicKey;

use super::*;
use crate::{
    download::Action,
    election::{DEADLINE, Rank, SETTLE},
    swarm::{self, PeerKind, RequestId, Want},
};

const CHUNKS: u32 = 40;
const NODE: PeerId = PeerId(1);
const AGENT: PeerId = PeerId(2);

fn chunks(of: impl IntoIterator<Item = u32>) -> BTreeSet<ChunkId> {
    of.into_iter().map(ChunkId).collect()
}

fn wishes(mine: impl IntoIterator<Item = u32>, of_nodes: impl IntoIterator<Item = u32>) -> Wishes {
    Wishes {
        mine: chunks(mine),
        of_nodes: chunks(of_nodes),
        nodes: [NODE].into(),
        agents: false,
    }
}

/// A node that keeps its share, alone but for those whom the test names.
struct Node {
    now: Duration,
    download: Download,
    asked: Vec<(RequestId, PeerId, Want)>,
    fetches: Vec<Vec<ChunkId>>,
    released: Vec<ChunkId>,
}

impl Node {
    fn new(wishes: Wishes) -> Self {
        let rank = Rank {
            node: true,
            always_on: false,
            free_gib: 0,
            uptime_minutes: 0,
        };
        let table = Arc::new(PartTable::of_counts((0..CHUNKS).map(|_| 1)));
        let stands = Some((PublicKey([1; 32]), rank));
        let mut download = Download::new(Duration::ZERO, table, 1, stands);
        download.handle_wishes(Duration::ZERO, Some(wishes));
        Self {
            now: Duration::ZERO,
            download,
            asked: vec![],
            fetches: vec![],
            released: vec![],
        }
    }

    fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += Duration::from_millis(20);
            self.download.handle_timeout(self.now);
            self.act();
        }
    }

    fn act(&mut self) {
        while let Some(action) = self.download.poll_action() {
            match action {
                Action::Fetch { wanted, .. } => self.fetches.push(wanted),
                Action::Swarm(swarm::Action::Request { id, peer, want }) => {
                    self.asked.push((id, peer, want));
                }
                _ => {}
            }
        }
        self.released
            .extend(std::iter::from_fn(|| self.download.poll_release()));
    }

    fn peer(&mut self, id: PeerId, kind: PeerKind, parts: impl IntoIterator<Item = u32>) {
        let parts: Vec<PartId> = parts.into_iter().map(PartId).collect();
        self.download.handle_peer(self.now, id, kind);
        self.download.handle_have(self.now, id, &parts);
        self.act();
    }
}

#[test]
fn only_the_share_is_asked_for_and_by_name_of_sources_too() {
    for kind in [PeerKind::Source, PeerKind::Receiver] {
        let mut node = Node::new(wishes([1, 4], [2]));
        node.peer(NODE, kind, 0..CHUNKS);
        let mut answered = 0;
        while let Some((id, _, Want::Part(part))) = node.asked.get(answered).copied() {
            node.download.handle_arrived(node.now, id, part);
            node.act();
            answered += 1;
        }
        let mut parts: Vec<Want> = node.asked.iter().map(|(_, _, want)| *want).collect();
        parts.sort_by_key(|want| format!("{want:?}"));
        assert_eq!(parts, [Want::Part(PartId(1)), Want::Part(PartId(4))]);
        assert!(node.download.has_its_share() && !node.download.is_finished());
        node.run_for(SETTLE * 3);
        assert!(node.fetches.is_empty(), "a neighbour has what others want");
    }
}

#[test]
fn a_share_that_grows_or_shrinks_is_followed() {
    let mut node = Node::new(wishes([0], []));
    node.peer(NODE, PeerKind::Receiver, 0..CHUNKS);
    assert_eq!(node.asked.len(), 1);
    node.download
        .handle_wishes(node.now, Some(wishes([0, 3], [])));
    node.act();
    assert_eq!(node.asked.len(), 2);
    node.download.handle_wishes(node.now, Some(wishes([], [])));
    assert!(node.download.has_its_share());
    let (id, _, _) = node.asked[0];
    node.download.handle_arrived(node.now, id, PartId(0));
    node.download.handle_lost(node.now, ChunkId(0));
    assert!(node.download.has_its_share(), "lost, and not its own");
    node.download.handle_wishes(node.now, None);
    node.run_for(Duration::from_millis(100));
    assert!(
        !node.download.is_finished() && node.asked.len() > 2,
        "all of it now"
    );
}

#[test]
fn what_connected_nodes_want_is_fetched_for_them_and_what_absent_ones_want_is_not() {
    let mut node = Node::new(wishes([0], [0, 1, 2]));
    node.peer(NODE, PeerKind::Receiver, [2]);
    node.run_for(SETTLE * 2);
    assert_eq!(node.fetches, [vec![ChunkId(0), ChunkId(1)]]);
}

#[test]
fn an_agent_wants_everything() {
    let mut node = Node::new(Wishes {
        agents: true,
        ..wishes([0], [1])
    });
    node.run_for(SETTLE * 2);
    assert_eq!(node.fetches, [(0..CHUNKS).map(ChunkId).collect::<Vec<_>>()]);
}

#[test]
fn need_after_a_quiet_time_is_not_answered_by_everybody_at_once() {
    let mut node = Node::new(wishes([], []));
    let better = Rank {
        node: true,
        always_on: false,
        free_gib: 99,
        uptime_minutes: 0,
    };
    let nodes = [(PublicKey([2; 32]), better)].into();
    node.download.handle_nodes(node.now, &nodes);
    node.run_for(DEADLINE * 3);
    node.download.handle_wishes(node.now, Some(wishes([0], [])));
    node.run_for(DEADLINE / 2);
    assert!(node.fetches.is_empty(), "the better one has its time");
    node.run_for(DEADLINE);
    assert_eq!(node.fetches.len(), 1);
}

#[test]
fn a_chunk_for_others_waits_until_one_who_keeps_it_has_it() {
    let mut node = Node::new(wishes([], [1]));
    node.peer(NODE, PeerKind::Receiver, []);
    node.peer(AGENT, PeerKind::Receiver, []);
    node.download.handle_passing(node.now, ChunkId(1));
    node.download.handle_have(node.now, AGENT, &[PartId(1)]);
    node.run_for(PASS_ON_FOR / 2);
    assert!(node.released.is_empty(), "an agent keeps nothing for long");
    node.download.handle_have(node.now, NODE, &[PartId(1)]);
    node.run_for(Duration::from_secs(1));
    assert_eq!(node.released, [ChunkId(1)]);
}

#[test]
fn what_nobody_takes_makes_way_when_room_is_needed_and_is_not_fetched_at_once_again() {
    let mut node = Node::new(wishes([], 0..CHUNKS));
    node.peer(NODE, PeerKind::Receiver, []);
    node.run_for(SETTLE * 2);
    assert_eq!(node.fetches.len(), 1);
    let first = (0..).take(PASS_ON_MAX).map(ChunkId);
    for chunk in first.clone() {
        node.download.handle_passing(node.now, chunk);
    }
    node.download.handle_fetched();
    node.run_for(PASS_ON_FOR / 2);
    assert_eq!(node.released, []);
    node.run_for(PASS_ON_FOR);
    assert_eq!(node.released, first.clone().collect::<Vec<_>>());
    let again = |fetches: &[Vec<ChunkId>]| fetches.iter().flatten().filter(|c| c.0 == 0).count();
    node.run_for(PASS_ON_AGAIN_AFTER / 2);
    assert_eq!(again(&node.fetches), 1);
    node.run_for(PASS_ON_AGAIN_AFTER);
    assert!(again(&node.fetches) > 1);
}

#[test]
fn what_somebody_will_take_waits_for_as_long_as_there_is_room() {
    let mut node = Node::new(wishes([], [1]));
    node.peer(NODE, PeerKind::Receiver, []);
    node.download.handle_passing(node.now, ChunkId(1));
    node.run_for(PASS_ON_FOR * 5);
    assert_eq!(node.released, []);
    // who was to take it is gone for good
    node.download.handle_wishes(node.now, Some(wishes([], [])));
    node.run_for(Duration::from_secs(1));
    assert_eq!(node.released, [ChunkId(1)]);
}

#[test]
fn what_was_in_memory_for_others_comes_again_when_there_is_room_for_everything() {
    let mut node = Node::new(wishes([], [1]));
    node.peer(NODE, PeerKind::Receiver, []);
    for chunk in 0..CHUNKS {
        match chunk {
            1 => node.download.handle_passing(node.now, ChunkId(1)),
            _ => node.download.handle_local(node.now, ChunkId(chunk)),
        }
    }
    node.download.handle_wishes(node.now, None);
    node.run_for(Duration::from_millis(1));
    assert_eq!(node.released, [ChunkId(1)]);
    assert!(!node.download.is_finished());
    node.download.handle_local(node.now, ChunkId(1));
    assert!(node.download.is_finished());
}

#[test]
fn a_peer_that_gave_a_part_up_is_not_asked_for_it() {
    let mut node = Node::new(wishes([3], []));
    node.download
        .handle_peer(node.now, NODE, PeerKind::Receiver);
    node.download
        .handle_have(node.now, NODE, &[PartId(3), PartId(4)]);
    node.download
        .handle_have_not(NODE, &[PartId(3), PartId(4), PartId(4), PartId(99)]);
    node.download.handle_have_not(AGENT, &[PartId(3)]);
    node.asked.clear();
    let _ = std::iter::from_fn(|| node.download.poll_action()).count();
    node.run_for(SETTLE * 2);
    assert!(
        node.asked
            .iter()
            .all(|(_, _, want)| *want != Want::Part(PartId(4)))
    );
    assert_eq!(node.fetches.len(), 0, "the part is in flight still");
    node.download.handle_have(node.now, NODE, &[PartId(3)]);
    node.download.handle_peer_gone(node.now, NODE);
    node.run_for(SETTLE * 2);
    assert_eq!(node.fetches, [vec![ChunkId(3)]]);
}
