//! A whole swarm under a virtual clock: every link carries one part at a time, at its own rate.

use super::*;
use crate::duty::{Duty, Give};

/// Objects of one part each.
fn single(parts: u32) -> Arc<PartTable> {
    Arc::new(PartTable::of_counts((0..parts).map(|_| 1)))
}

const STEP: Duration = Duration::from_millis(1);

struct Transfer {
    from: usize,
    to: usize,
    id: RequestId,
    part: PartId,
    ready: Duration,
}

/// Machine 0 is the source; each machine's uplink sends one part per `up_ms`.
struct Site {
    now: Duration,
    duty: Duty,
    swarms: Vec<Swarm>,
    up_ms: Vec<u64>,
    busy_until: Vec<Duration>,
    transfers: Vec<Transfer>,
    parked: Vec<(usize, RequestId)>,
    cancelled: Vec<(usize, RequestId)>,
    sent: Vec<u64>,
    alive: Vec<bool>,
    accused: Vec<(usize, PeerId)>,
    liar: Option<usize>,
    parts: u32,
}

impl Site {
    fn new(receivers: usize, parts: u32) -> Self {
        let mut duty = Duty::new(parts, 0);
        (0..parts).for_each(|c| duty.handle_held(PartId(c)));
        let mut site = Self {
            now: Duration::ZERO,
            duty,
            swarms: (0..=receivers)
                .map(|i| Swarm::new(single(parts), i as u64))
                .collect(),
            up_ms: vec![10; receivers + 1],
            busy_until: vec![Duration::ZERO; receivers + 1],
            transfers: Vec::new(),
            parked: Vec::new(),
            cancelled: Vec::new(),
            sent: vec![0; receivers + 1],
            alive: vec![true; receivers + 1],
            accused: Vec::new(),
            liar: None,
            parts,
        };
        (0..parts).for_each(|c| site.swarms[0].handle_local(Duration::ZERO, PartId(c)));
        (1..=receivers).for_each(|i| site.connect(i));
        site
    }

    fn connect(&mut self, i: usize) {
        for j in 0..self.swarms.len() {
            if i == j || !self.alive[j] {
                continue;
            }
            let kind = if j == 0 {
                PeerKind::Source
            } else {
                PeerKind::Receiver
            };
            let (held_j, held_i) = (self.swarms[j].held(), self.swarms[i].held());
            self.swarms[i].handle_peer(self.now, PeerId(j as u64), kind);
            self.swarms[i].handle_have(self.now, PeerId(j as u64), &held_j);
            if j > 0 {
                self.swarms[j].handle_peer(self.now, PeerId(i as u64), PeerKind::Receiver);
                self.swarms[j].handle_have(self.now, PeerId(i as u64), &held_i);
            }
        }
    }

    fn kill(&mut self, i: usize) {
        self.alive[i] = false;
        self.duty.handle_peer_gone(PeerId(i as u64));
        self.transfers.retain(|t| t.from != i && t.to != i);
        for j in 1..self.swarms.len() {
            if j != i {
                self.swarms[j].handle_peer_gone(self.now, PeerId(i as u64));
            }
        }
    }

    fn send(&mut self, from: usize, to: usize, id: RequestId, part: PartId) {
        let start = self.busy_until[from].max(self.now);
        let ready = start + Duration::from_millis(self.up_ms[from]);
        self.busy_until[from] = ready;
        self.transfers.push(Transfer {
            from,
            to,
            id,
            part,
            ready,
        });
    }

    fn step(&mut self) {
        self.now += STEP;
        let (now, mut arrived) = (self.now, Vec::new());
        self.transfers.retain(|t| {
            let done = t.ready <= now;
            if done {
                arrived.push((t.from, t.to, t.id, t.part));
            }
            !done
        });
        for (from, to, id, part) in arrived {
            self.sent[from] += 1;
            if self.cancelled.contains(&(to, id)) {
                continue;
            }
            match self.liar == Some(from) {
                true => self.swarms[to].handle_failed(now, id, Failure::Invalid),
                false => self.swarms[to].handle_arrived(now, id, part),
            }
        }
        for i in 1..self.swarms.len() {
            if self.alive[i] {
                if self.swarms[i].poll_timeout().is_some_and(|t| t <= now) {
                    self.swarms[i].handle_timeout(now);
                }
                self.drain(i);
                if self.now.as_millis().is_multiple_of(7) {
                    self.invariant_one_request_per_part(i);
                }
            }
        }
    }

    fn drain(&mut self, i: usize) {
        while let Some(action) = self.swarms[i].poll_action() {
            match action {
                Action::Request { id, peer, want } => self.answer(i, id, peer, want),
                Action::Cancel { id } => self.cancelled.push((i, id)),
                Action::Announce { parts } => {
                    self.duty.handle_have(PeerId(i as u64), &parts);
                    for j in 1..self.swarms.len() {
                        if j != i && self.alive[j] {
                            self.swarms[j].handle_have(self.now, PeerId(i as u64), &parts);
                        }
                    }
                }
                Action::Accuse { peer, .. } => self.accused.push((i, peer)),
                Action::Finished => {}
            }
        }
    }

    fn answer(&mut self, to: usize, id: RequestId, peer: PeerId, want: Want) {
        let from = peer.0 as usize;
        assert!(self.alive[from], "asked a peer that is gone");
        match want {
            Want::Part(part) => {
                assert!(
                    self.swarms[from].holds(part),
                    "asked for what the peer never announced"
                );
                self.send(from, to, id, part);
            }
            Want::Next => match self.duty.give(PeerId(to as u64)) {
                Give::Part(part) => {
                    self.swarms[to].handle_assigned(self.now, id, part);
                    self.send(from, to, id, part);
                }
                Give::Exhausted => self.swarms[to].handle_exhausted(self.now, id),
                Give::Later => self.parked.push((to, id)),
            },
        }
    }

    fn invariant_one_request_per_part(&self, i: usize) {
        let swarm = &self.swarms[i];
        for part in 0..self.parts {
            let flights = swarm
                .flights
                .values()
                .filter(|f| f.part == Some(PartId(part)))
                .count();
            assert!(flights <= 2, "a third copy of part {part}");
            assert_eq!(flights, usize::from(swarm.copies[part as usize]));
            let wanted = swarm.wanted.contains(&swarm.key(PartId(part)));
            assert_eq!(wanted, flights == 0 && !swarm.holds(PartId(part)));
        }
        for (id, peer) in &swarm.peers {
            assert!(peer.in_flight <= WINDOW_MAX);
            let useful = swarm
                .wanted
                .iter()
                .filter(|(_, _, p)| peer.have[*p as usize]);
            assert_eq!(peer.useful, useful.count());
            assert_eq!(
                peer.in_flight,
                swarm.flights.values().filter(|f| f.peer == *id).count()
            );
        }
    }

    fn all_done(&self) -> bool {
        (1..self.swarms.len()).all(|i| !self.alive[i] || self.swarms[i].is_finished())
    }

    /// Runs until everybody has everything; the answer is the time in units of "the source sends it all once".
    fn run(&mut self) -> f64 {
        let bound = f64::from(self.parts) * self.up_ms[0] as f64 / 1000.0;
        while !self.all_done() {
            assert!(self.now.as_secs_f64() < 20.0 * bound + 20.0, "no progress");
            self.step();
        }
        self.now.as_secs_f64() / bound
    }
}

#[test]
fn a_swarm_is_as_fast_as_the_sources_link() {
    for receivers in [1, 2, 4, 8] {
        let mut site = Site::new(receivers, 300);
        let ratio = site.run();
        assert!(
            ratio < 1.15,
            "{receivers} receivers took {ratio:.3} of the bound"
        );
        let copies = site.sent[0] as f64 / 300.0;
        assert!(
            copies < 1.15,
            "{receivers} receivers: the source sent {copies:.2} copies"
        );
        for i in 1..=receivers {
            let shared = site.sent[i] as f64 / 300.0;
            assert!(
                receivers == 1 || shared > 0.1,
                "receiver {i} passed on {shared:.2}"
            );
        }
    }
}

#[test]
fn a_lost_receiver_costs_little() {
    let mut site = Site::new(4, 300);
    while site.now < Duration::from_secs(1) {
        site.step();
    }
    site.kill(3);
    let ratio = site.run();
    assert!(ratio < 1.35, "took {ratio:.3} of the bound");
}

#[test]
fn a_late_joiner_gets_everything_and_slows_nobody() {
    let mut site = Site::new(4, 300);
    site.alive[4] = false;
    site.kill(4);
    while site.now < Duration::from_millis(1500) {
        site.step();
    }
    site.alive[4] = true;
    site.swarms[4] = Swarm::new(single(300), 4);
    site.connect(4);
    let joined = site.now;
    site.run();
    let took = (site.now - joined).as_secs_f64() / 3.0;
    assert!(took < 1.25, "the late one took {took:.3} of the bound");
}

#[test]
fn a_slow_peer_holds_nobody_up() {
    let mut site = Site::new(4, 300);
    site.up_ms[2] = 1000;
    let ratio = site.run();
    assert!(ratio < 1.6, "took {ratio:.3} of the bound");
}

#[test]
fn a_liar_is_dropped_and_everybody_finishes() {
    let mut site = Site::new(4, 200);
    site.liar = Some(2);
    site.run();
    assert!(site.accused.iter().all(|(_, peer)| *peer == PeerId(2)));
    assert_eq!(site.accused.len(), 3, "each of the others says so once");
}

#[test]
fn an_accused_peer_never_comes_back() {
    let mut swarm = Swarm::new(single(1), 0);
    swarm.handle_peer(STEP, PeerId(7), PeerKind::Source);
    let Some(Action::Request { id, .. }) = swarm.poll_action() else {
        panic!("no request")
    };
    swarm.handle_failed(STEP, id, Failure::Invalid);
    assert!(matches!(
        swarm.poll_action(),
        Some(Action::Accuse {
            peer: PeerId(7),
            ..
        })
    ));
    swarm.handle_peer(STEP * 2, PeerId(7), PeerKind::Source);
    assert_eq!(swarm.poll_action(), None);
}

#[test]
fn a_busy_peer_is_left_alone_and_another_one_asked() {
    let mut swarm = Swarm::new(single(1), 0);
    for peer in [1, 2] {
        swarm.handle_peer(STEP, PeerId(peer), PeerKind::Receiver);
    }
    let asked = |swarm: &mut Swarm| match swarm.poll_action() {
        Some(Action::Request { id, peer, .. }) => Some((id, peer)),
        _ => None,
    };
    swarm.handle_have(STEP, PeerId(1), &[PartId(0)]);
    let (id, first) = asked(&mut swarm).unwrap();
    assert_eq!(first, PeerId(1));
    swarm.handle_failed(STEP, id, Failure::Busy);
    assert_eq!(asked(&mut swarm), None, "it has enough to do");
    swarm.handle_have(STEP * 2, PeerId(2), &[PartId(0)]);
    let (id, second) = asked(&mut swarm).unwrap();
    assert_eq!(second, PeerId(2));
    swarm.handle_failed(STEP * 2, id, Failure::Busy);
    let later = STEP * 2 + REST_AFTER_BUSY;
    swarm.handle_timeout(later);
    assert!(asked(&mut swarm).is_some(), "it still has the part");
    assert_eq!((swarm.counters().busy, swarm.counters().failures), (2, 0));
}

#[test]
fn nonsense_from_peers_is_ignored() {
    let mut swarm = Swarm::new(single(2), 0);
    swarm.handle_have(STEP, PeerId(1), &[PartId(0)]);
    swarm.handle_peer(STEP, PeerId(1), PeerKind::Receiver);
    swarm.handle_have(STEP, PeerId(1), &[PartId(99)]);
    swarm.handle_assigned(STEP, RequestId(5), PartId(0));
    swarm.handle_exhausted(STEP, RequestId(6));
    swarm.handle_failed(STEP, RequestId(7), Failure::Broken);
    swarm.handle_arrived(STEP, RequestId(8), PartId(99));
    assert_eq!(swarm.poll_action(), None);
    assert_eq!(swarm.missing(), 2);
}
