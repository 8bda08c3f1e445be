//! Connections, and how long things take on their way.

use super::*;

/// How much later a packet comes while there is noise.
const LATE_MILLIS_MAX: u64 = 300;

impl World {
    /// Nothing comes from it any more: the others notice after a while.
    pub(crate) fn silence(&mut self, member: usize) {
        let links: Vec<PeerId> = self.members[member].links.keys().copied().collect();
        for link in links {
            self.after(IDLE_TIMEOUT, Event::GiveUp { link });
        }
    }

    fn set_linked(&mut self, a: usize, b: usize, linked: bool) {
        let count = self.members.len();
        self.linked[a * count + b] = linked;
        self.linked[b * count + a] = linked;
    }

    /// A program that starts again has no connections; the others notice later.
    pub(crate) fn forget_links_of(&mut self, member: usize) {
        (0..self.members.len()).for_each(|other| self.set_linked(member, other, false));
    }

    pub(crate) fn dial(&mut self) {
        let count = self.members.len();
        for a in 0..count {
            for b in a + 1..count {
                let (one, other) = (&self.members[a], &self.members[b]);
                if self.linked[a * count + b] || !one.is_alive || !other.is_alive {
                    continue;
                }
                let accused = one.accused.contains(&b) || other.accused.contains(&a);
                let is_known = !self.plan.faults
                    || one.known.get(&b) == Some(&Some(b))
                    || other.known.get(&a) == Some(&Some(a));
                if !accused && is_known && self.hear_each_other(a, b) {
                    self.connect(a, b);
                }
            }
        }
        self.after(DIAL_EVERY, Event::Dial);
    }

    fn connect(&mut self, a: usize, b: usize) {
        // one end may not know yet that the last connection is over
        for (me, other) in [(a, b), (b, a)] {
            let links = self.members[me].links.iter();
            let old = links.filter(|(_, l)| l.other == other);
            let old: Vec<PeerId> = old.map(|(link, _)| *link).collect();
            old.into_iter().for_each(|link| self.give_up(link));
        }
        let Some([of_b, of_a]) = self.greet_by_papers(a, b) else {
            return;
        };
        let link = PeerId(self.ends.len() as u64);
        self.ends.push(Some((a, b)));
        self.last_frame.push([Duration::ZERO; 2]);
        self.set_linked(a, b, true);
        for (me, other, right) in [(a, b, of_b), (b, a, of_a)] {
            let me = &mut self.members[me];
            let parts = match me.is_node || self.plan.faults {
                true => me.held.len(),
                false => 0,
            };
            let end = Link {
                other,
                since: self.now,
                announced: vec![false; parts],
                right,
            };
            me.links.insert(link, end);
        }
        for (agent, node) in [(a, b), (b, a)] {
            if self.members[node].is_node && !self.members[agent].is_node {
                self.ask_admission(agent, node);
                self.ask_for_ticket(agent, node);
            }
        }
        for me in [a, b] {
            self.suspect(me);
            self.tell_nodes(me);
            self.join(me, link);
            self.boast(me, link);
        }
    }

    pub(crate) fn join(&mut self, member: usize, link: PeerId) {
        let is_source = self.members[member].is_source;
        let held = self.members[member].held_parts();
        self.send(member, link, Message::Joined { is_source });
        self.send(member, link, Message::Have(held.into()));
    }

    pub(crate) fn join_everywhere(&mut self, member: usize) {
        let links: Vec<PeerId> = self.members[member].links.keys().copied().collect();
        for link in links {
            self.join(member, link);
        }
    }

    pub(crate) fn tell_nodes(&mut self, member: usize) {
        let me = &self.members[member];
        if me.download.is_none() {
            return;
        }
        let nodes = me
            .links
            .values()
            .map(|l| &self.members[l.other])
            .filter(|m| is_candidate(me, m))
            .map(|m| (m.key, m.told_rank()))
            .collect();
        let now = self.now;
        if let Some(download) = &mut self.members[member].download {
            download.handle_nodes(now, &nodes);
        }
    }

    /// An agent that finds no node for long stands for election, until one is back.
    pub(crate) fn look_for_nodes(&mut self, member: usize, boot: u64) {
        let now = self.now;
        if !self.is_of_this_boot(member, boot) || self.members[member].download.is_none() {
            return;
        }
        self.tell_nodes(member);
        let mut links = self.members[member].links.values();
        let is_node_in_view = links.any(|l| self.members[l.other].is_node);
        // nobody is asked for the image, and least of all HQ, by an agent that was not admitted
        let has_ticket = self.papers.is_none() || self.has_ticket(member);
        let me = &mut self.members[member];
        me.fallback.handle_view(now, is_node_in_view);
        let stands = me.fallback.is_without_node(now) && has_ticket;
        if let Some(download) = &mut me.download {
            download.handle_standing(now, stands);
        }
        self.act(member);
        if is_node_in_view && self.members[member].fetch.is_some() {
            let what = format!("invariant_agents_wait_for_nodes: {member} fetches beside a node");
            self.violation.get_or_insert(what);
        }
        self.after(LOOK_EVERY, Event::LookForNodes { member, boot });
    }

    fn ends_of(&self, link: PeerId) -> Option<(usize, usize)> {
        let at = usize::try_from(link.0).ok()?;
        self.ends.get(at).copied().flatten()
    }

    pub(crate) fn give_up(&mut self, link: PeerId) {
        let Some((a, b)) = self.ends_of(link) else {
            return;
        };
        self.ends[usize::try_from(link.0).unwrap_or(0)] = None;
        self.set_linked(a, b, false);
        let now = self.now;
        for me in [a, b] {
            let member = &mut self.members[me];
            if member.links.remove(&link).is_none() {
                continue;
            }
            member.duty.handle_peer_gone(link);
            member.waiting.retain(|(other, _)| *other != link);
            if let Some(download) = &mut member.download {
                download.handle_peer_gone(now, link);
            }
            self.tell_nodes(me);
            self.serve_waiting(me);
            self.act(me);
        }
    }

    /// A message that is lost is sent again by QUIC: it comes later, and in order.
    pub(crate) fn send(&mut self, from: usize, link: PeerId, message: Message) {
        let Some((a, b)) = self.ends_of(link) else {
            return;
        };
        let to = if a == from { b } else { a };
        if let Message::Object { .. } = message {
            self.invariant_no_byte_without_a_right(from, to);
        }
        let is_noisy = self.noise_until > self.now;
        let (late, lost) = match is_noisy {
            true => (LATE_MILLIS_MAX, 4),
            false => (2, 50),
        };
        let mut latency = self.random.millis(0, late);
        while self.random.one_in(lost) {
            latency += RESEND_AFTER;
        }
        if let Message::Object { part, .. } = message {
            let sent = self.take_up(from, self.bytes_of(part)) + latency;
            let counts_until = sent.min(self.now + UPLOAD_COUNTS_FOR);
            self.members[from].uploads.push(counts_until);
            self.at(counts_until, Event::Uploaded { member: from });
            return self.at(sent, Event::Sent { to, link, message });
        }
        // frames and requests go before objects, whatever is queued
        let mut at = self.now + latency;
        // frames share one stream, which keeps their order; requests and objects have a stream each
        if matches!(
            message,
            Message::Joined { .. }
                | Message::Have(_)
                | Message::Claim(_)
                | Message::Accused(_)
                | Message::Channel(_)
        ) {
            let ends = self
                .last_frame
                .get_mut(usize::try_from(link.0).unwrap_or(0));
            if let Some(ends) = ends {
                let last = &mut ends[usize::from(to == b)];
                at = at.max(*last);
                *last = at;
            }
            // what a shell says twice means no more than once
            if is_noisy && self.random.one_in(4) {
                let message = message.clone();
                self.at(at, Event::Deliver { to, link, message });
            }
        }
        self.at(at, Event::Deliver { to, link, message });
    }

    pub(crate) fn bytes_of(&self, part: PartId) -> u64 {
        let index = self.members[0].table.place_of(part).map_or(0, |(_, n)| n);
        let part_bytes = image_format::PART_BYTES as u64;
        (u64::from(self.plan.object_bytes) - u64::from(index) * part_bytes).min(part_bytes)
    }

    /// When so many bytes have left the sender.
    fn take_up(&mut self, from: usize, bytes: u64) -> Duration {
        let now = self.now;
        let sender = &mut self.members[from];
        let free = now.max(sender.up_free_at);
        sender.up_free_at = free + time_of(bytes, sender.bytes_per_second);
        sender.up_free_at
    }

    /// An object's last byte has left its sender: the receiver's link took the bytes as they came, unless it was busy with
    /// others'.
    pub(crate) fn sent(&mut self, to: usize, link: PeerId, message: Message) {
        let Message::Object { part, .. } = message else {
            return;
        };
        let bytes = self.bytes_of(part);
        let now = self.now;
        let receiver = &mut self.members[to];
        let time = time_of(bytes, receiver.bytes_per_second);
        receiver.down_free_at = now.max(receiver.down_free_at + time);
        let came = receiver.down_free_at;
        self.at(came, Event::Deliver { to, link, message });
    }

    pub(crate) fn deliver(&mut self, to: usize, link: PeerId, message: Message) {
        let Some(end) = self.members[to].links.get(&link) else {
            return;
        };
        let from = end.other;
        if !self.hear_each_other(from, to) {
            // sent again until the partition ends or the connection does
            self.after(RESEND_AFTER * 10, Event::Deliver { to, link, message });
            return;
        }
        let now = self.now;
        let is_word_of_member = matches!(
            message,
            Message::Joined { .. } | Message::Have(_) | Message::Claim(_) | Message::Accused(_)
        );
        if is_word_of_member && !self.has_right(to, link) {
            return;
        }
        if let Message::Object { .. } = message {
            self.invariant_no_byte_without_a_right(from, to);
        }
        let me = &mut self.members[to];
        match message {
            Message::Channel(number) => self.learn_channel(to, number),
            Message::Joined { is_source } => {
                let kind = match is_source {
                    true => PeerKind::Source,
                    false => PeerKind::Receiver,
                };
                if let Some(download) = &mut me.download {
                    download.handle_peer(now, link, kind);
                }
            }
            Message::Have(parts) => {
                me.duty.handle_have(link, &parts);
                if let Some(download) = &mut me.download {
                    download.handle_have(now, link, &parts);
                }
                if let Some(end) = me.links.get_mut(&link)
                    && !end.announced.is_empty()
                {
                    let announced = &mut end.announced;
                    parts.iter().for_each(|p| announced[p.0 as usize] = true);
                }
            }
            Message::Ask(request, want) => self.serve(to, link, request, want),
            Message::Assigned(request, part) => {
                if me.assign_flight(request, part)
                    && let Some(download) = &mut me.download
                {
                    download.handle_assigned(now, request, part);
                    // a core that has no use for it cancels
                    self.act(to);
                    self.invariant_copies(to, part);
                }
            }
            Message::Object {
                request,
                part,
                is_true,
            } => {
                let arrived = Stalled {
                    from,
                    request,
                    part,
                    is_true,
                };
                self.object(to, arrived);
            }
            Message::Exhausted(request) => {
                if me.end_flight(request)
                    && let Some(download) = &mut me.download
                {
                    download.handle_exhausted(now, request);
                }
            }
            Message::Missing(request) => {
                if me.end_flight(request)
                    && let Some(download) = &mut me.download
                {
                    download.handle_failed(now, request, Failure::Missing);
                }
            }
            Message::Busy(request) => {
                if me.end_flight(request)
                    && let Some(download) = &mut me.download
                {
                    download.handle_failed(now, request, Failure::Busy);
                }
            }
            Message::Accused(accused) => self.hear_accusation(to, from, accused),
            Message::Claim(_) if !is_candidate(&self.members[to], &self.members[from]) => {}
            Message::Claim(term) => {
                let by = self.members[from].key;
                if let Some(download) = &mut self.members[to].download {
                    download.handle_claim(now, by, term);
                }
            }
        }
        self.act(to);
    }

    pub(crate) fn hear_each_other(&self, a: usize, b: usize) -> bool {
        let split = self
            .walls
            .iter()
            .any(|(at, until)| *until > self.now && (a < *at) != (b < *at));
        let stands = |m: usize| self.members[m].paused_until > self.now;
        !split && !stands(a) && !stands(b)
    }
}

/// Whether `other` may fetch where `me` may: a node sees nodes only.
pub(crate) fn is_candidate(me: &Member, other: &Member) -> bool {
    other.is_node || !me.is_node
}

fn time_of(bytes: u64, bytes_per_second: u64) -> Duration {
    Duration::from_nanos(bytes * 1_000_000_000 / bytes_per_second)
}
