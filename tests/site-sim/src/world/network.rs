//! Connections, and how long things take on their way.

use super::*;

impl World {
    /// Nothing comes from it any more: the others notice after a while.
    pub(crate) fn silence(&mut self, member: usize) {
        let links: Vec<PeerId> = self.members[member].links.keys().copied().collect();
        for link in links {
            self.after(IDLE_TIMEOUT, Event::GiveUp { link });
        }
    }

    pub(crate) fn dial(&mut self) {
        for a in 0..self.members.len() {
            for b in a + 1..self.members.len() {
                let (one, other) = (&self.members[a], &self.members[b]);
                let known = one.links.values().any(|l| l.other == b);
                let accused = one.accused.contains(&b) || other.accused.contains(&a);
                if one.is_alive
                    && other.is_alive
                    && !known
                    && !accused
                    && self.hear_each_other(a, b)
                {
                    self.connect(a, b);
                }
            }
        }
        self.after(DIAL_EVERY, Event::Dial);
    }

    pub(crate) fn connect(&mut self, a: usize, b: usize) {
        let link = PeerId(self.next_link);
        self.next_link += 1;
        self.ends.insert(link, (a, b));
        for (me, other) in [(a, b), (b, a)] {
            let end = Link {
                other,
                ..Link::default()
            };
            self.members[me].links.insert(link, end);
        }
        for me in [a, b] {
            self.tell_nodes(me);
            self.join(me, link);
        }
    }

    pub(crate) fn join(&mut self, member: usize, link: PeerId) {
        let is_source = self.members[member].is_source;
        let held = self.members[member].held_parts();
        self.send(member, link, Message::Joined { is_source });
        self.send(member, link, Message::Have(held));
    }

    pub(crate) fn join_everywhere(&mut self, member: usize) {
        let links: Vec<PeerId> = self.members[member].links.keys().copied().collect();
        for link in links {
            self.join(member, link);
        }
    }

    pub(crate) fn tell_nodes(&mut self, member: usize) {
        let nodes = self.members[member]
            .links
            .values()
            .map(|l| &self.members[l.other])
            .filter(|m| m.is_node)
            .map(|m| (m.key, m.rank))
            .collect();
        let now = self.now;
        if let Some(download) = &mut self.members[member].download {
            download.handle_nodes(now, &nodes);
        }
    }

    pub(crate) fn give_up(&mut self, link: PeerId) {
        let Some((a, b)) = self.ends.remove(&link) else {
            return;
        };
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
        let Some((a, b)) = self.ends.get(&link).copied() else {
            return;
        };
        let to = if a == from { b } else { a };
        let mut latency = self.random.millis(0, 2);
        while self.random.one_in(50) {
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
            Message::Joined { .. } | Message::Have(_) | Message::Claim(_)
        ) {
            let last = self.last_frame.entry((link, to)).or_default();
            at = at.max(*last);
            *last = at;
        }
        self.at(at, Event::Deliver { to, link, message });
    }

    pub(crate) fn bytes_of(&self, part: PartId) -> u64 {
        let index = self.members[0].table.place_of(part).map_or(0, |(_, n)| n);
        let object = u64::from(self.plan.object_bytes);
        (object - u64::from(index) * PART_BYTES as u64).min(PART_BYTES as u64)
    }

    /// When so many bytes have left the sender.
    fn take_up(&mut self, from: usize, bytes: u64) -> Duration {
        let now = self.now;
        let sender = &mut self.members[from];
        let free = now.max(sender.up_free_at);
        sender.up_free_at =
            free + Duration::from_micros(bytes * 1_000_000 / sender.bytes_per_second);
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
        let time = Duration::from_micros(bytes * 1_000_000 / receiver.bytes_per_second);
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
        let me = &mut self.members[to];
        match message {
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
                me.duty.handle_have(&parts);
                if let Some(download) = &mut me.download {
                    download.handle_have(now, link, &parts);
                }
                if let Some(end) = me.links.get_mut(&link) {
                    end.announced.extend(parts);
                }
            }
            Message::Ask(request, want) => self.serve(to, link, request, want),
            Message::Assigned(request, part) => {
                if let Some(flight) = me.flights.get_mut(&request) {
                    *flight = Some(part);
                    if let Some(download) = &mut me.download {
                        download.handle_assigned(now, request, part);
                    }
                }
            }
            Message::Object {
                request,
                part,
                is_true,
            } => self.object(from, to, request, part, is_true),
            Message::Exhausted(request) => {
                if me.flights.remove(&request).is_some()
                    && let Some(download) = &mut me.download
                {
                    download.handle_exhausted(now, request);
                }
            }
            Message::Missing(request) => {
                if me.flights.remove(&request).is_some()
                    && let Some(download) = &mut me.download
                {
                    download.handle_failed(now, request, Failure::Missing);
                }
            }
            Message::Busy(request) => {
                if me.flights.remove(&request).is_some()
                    && let Some(download) = &mut me.download
                {
                    download.handle_failed(now, request, Failure::Busy);
                }
            }
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
            .cut_at
            .filter(|_| self.partition_until > self.now)
            .is_some_and(|at| (a < at) != (b < at));
        let stands = |m: usize| self.members[m].paused_until > self.now;
        !split && !stands(a) && !stands(b)
    }
}
