//! What a member's shell does around the cores.

use super::*;

impl World {
    pub(crate) fn serve(&mut self, member: usize, link: PeerId, request: RequestId, want: Want) {
        if !self.may_be_served(member, link) || !self.has_right(member, link) {
            return self.send(member, link, Message::Missing(request));
        }
        match want {
            Want::Part(part) if !self.members[member].holds(part) => {
                self.send(member, link, Message::Missing(request));
            }
            Want::Part(_) if !self.has_upload_for(member, link) => {
                self.send(member, link, Message::Busy(request));
            }
            Want::Part(part) => self.send_object(member, link, request, part),
            Want::Next => {
                self.members[member].waiting.push_back((link, request));
                self.serve_waiting(member);
            }
        }
    }

    pub(crate) fn serve_waiting(&mut self, member: usize) {
        let now = self.now;
        for _ in 0..self.members[member].waiting.len() {
            let me = &mut self.members[member];
            if !me.has_upload(now) {
                return;
            }
            let Some((link, request)) = me.waiting.pop_front() else {
                return;
            };
            if !self.has_right(member, link) {
                self.send(member, link, Message::Missing(request));
                continue;
            }
            let me = &mut self.members[member];
            match me.duty.give(link) {
                Give::Part(part) => {
                    self.send(member, link, Message::Assigned(request, part));
                    self.send_object(member, link, request, part);
                }
                Give::Exhausted => self.send(member, link, Message::Exhausted(request)),
                Give::Later => {
                    me.waiting.push_front((link, request));
                    return;
                }
            }
        }
    }

    fn send_object(&mut self, member: usize, link: PeerId, request: RequestId, part: PartId) {
        let is_true = !self.members[member].is_liar;
        self.members[member].sent_bytes += self.bytes_of(part);
        let object = Message::Object {
            request,
            part,
            is_true,
        };
        self.send(member, link, object);
    }

    /// Bytes came: what the shell's hash says decides. Without room they stay with their sender, and nothing more is read.
    pub(crate) fn object(&mut self, to: usize, arrived: Stalled) -> bool {
        let now = self.now;
        let Stalled {
            from,
            request,
            part,
            is_true,
        } = arrived;
        let me = &mut self.members[to];
        if !me.is_in_flight(request) {
            return true;
        }
        let Some((chunk, _)) = me.table.place_of(part) else {
            return true;
        };
        if is_true && !me.holds(part) && !me.make_room(chunk) {
            me.stalled.push_back(arrived);
            return false;
        }
        me.end_flight(request);
        if is_true {
            let is_new = !me.holds_whole(chunk);
            self.hold(to, part, is_true);
            if is_new && self.members[to].holds_whole(chunk) {
                self.land(to, chunk);
            }
            if let Some(download) = &mut self.members[to].download {
                download.handle_arrived(now, request, part);
            }
        } else if let Some(download) = &mut me.download {
            me.caught.insert(from);
            download.handle_failed(now, request, Failure::Invalid);
        }
        self.act(to);
        true
    }

    pub(crate) fn hold(&mut self, member: usize, part: PartId, is_true: bool) {
        self.invariant_only_true_bytes(member, part, is_true);
        let me = &mut self.members[member];
        me.take(part);
        me.duty.handle_held(part);
        self.serve_waiting(member);
    }

    pub(crate) fn wake(&mut self, member: usize, boot: u64) {
        let now = self.now;
        let me = &mut self.members[member];
        if me.boot != boot || me.wake_at.is_none_or(|t| t > now) {
            return;
        }
        me.wake_at = None;
        if let Some(download) = &mut me.download {
            download.handle_timeout(now);
        }
        self.act(member);
    }

    /// Carries out what the core says, as the shell does.
    pub(crate) fn act(&mut self, member: usize) {
        while let Some(action) = self.members[member]
            .download
            .as_mut()
            .and_then(peer_cache_proto::download::Download::poll_action)
        {
            if self.verbose {
                eprintln!("          {member}: {action:?}");
            }
            match action {
                Action::Swarm(action) => self.act_in_swarm(member, action),
                // HQ gives it nothing
                Action::Fetch { .. }
                    if self.members[member].is_outcast || self.is_stranger(member) => {}
                Action::Fetch { wanted, .. } => self.start_fetch(member, wanted),
                // an agent gives its lease back: a node is to have it
                Action::StopFetching if !self.members[member].is_node => {
                    self.end_fetch(member);
                    self.members[member].is_source = false;
                    self.join_everywhere(member);
                }
                Action::StopFetching => {
                    self.cut_transfer(member);
                    self.members[member].fetch = None;
                    if std::mem::take(&mut self.members[member].is_source) {
                        self.join_everywhere(member);
                    }
                }
                Action::Claim { term } => {
                    let links: Vec<PeerId> = self.members[member]
                        .links
                        .iter()
                        .filter(|(_, l)| {
                            network::is_candidate(&self.members[member], &self.members[l.other])
                        })
                        .map(|(link, _)| *link)
                        .collect();
                    for link in links {
                        self.send(member, link, Message::Claim(term));
                    }
                }
            }
        }
        self.finish_if_whole(member);
        self.plan_wake(member);
    }

    fn act_in_swarm(&mut self, member: usize, action: swarm::Action) {
        match action {
            swarm::Action::Request { id, peer, want } => self.request(member, id, peer, want),
            swarm::Action::Cancel { id } => {
                self.members[member].end_flight(id);
            }
            swarm::Action::Announce { parts } => {
                let parts: Arc<[PartId]> = parts.into();
                let links: Vec<PeerId> = self.members[member].links.keys().copied().collect();
                for link in links {
                    self.send(member, link, Message::Have(parts.clone()));
                }
            }
            swarm::Action::Accuse { peer, .. } => self.accuse(member, peer),
            swarm::Action::Finished => {}
        }
    }

    fn finish_if_whole(&mut self, member: usize) {
        let me = &mut self.members[member];
        if !me.download.as_ref().is_some_and(|d| d.is_finished()) {
            return;
        }
        self.cut_transfer(member);
        let now = self.now;
        let me = &mut self.members[member];
        me.download = None;
        me.fetch = None;
        me.end_flights();
        me.stalled.clear();
        me.wake_at = None;
        if me.is_done() {
            me.finished_at.get_or_insert(now);
        }
        if me.is_node {
            me.is_source = true;
        }
        self.join_everywhere(member);
    }

    fn plan_wake(&mut self, member: usize) {
        let now = self.now;
        let me = &mut self.members[member];
        let Some(download) = &me.download else {
            return;
        };
        let next = download.poll_timeout().unwrap_or(now + LOOK_EVERY);
        // never twice in the same instant: a deadline that has passed is looked at a moment later
        let next = next.max(now + Duration::from_millis(1));
        if me.wake_at.is_none_or(|t| next < t) {
            me.wake_at = Some(next);
            let boot = me.boot;
            self.at(next, Event::Wake { member, boot });
        }
    }

    fn request(&mut self, member: usize, id: RequestId, peer: PeerId, want: Want) {
        let now = self.now;
        let me = &mut self.members[member];
        if !me.links.contains_key(&peer) {
            if let Some(download) = &mut me.download {
                download.handle_failed(now, id, Failure::Broken);
            }
            return;
        }
        match want {
            Want::Next => me.begin_flight(id, None),
            Want::Part(part) => {
                me.begin_flight(id, Some(part));
                self.invariant_copies(member, part);
            }
        }
        self.invariant_caught_once(member, peer);
        self.send(member, peer, Message::Ask(id, want));
    }

    fn accuse(&mut self, member: usize, peer: PeerId) {
        let Some(end) = self.members[member].links.get(&peer) else {
            return;
        };
        let culprit = end.other;
        let key = self.members[culprit].key;
        let others: Vec<PeerId> = self.members[member].links.keys().copied().collect();
        for other in others.into_iter().filter(|other| *other != peer) {
            self.send(member, other, Message::Accused(key));
        }
        if !self.members[culprit].is_liar {
            let what = format!("invariant_no_honest_peer_is_accused: {culprit}");
            self.violation.get_or_insert(what);
        }
        self.members[member].accused.insert(culprit);
        self.give_up(peer);
    }

    /// One more answer; for who is accused of wrong bytes only when nothing else is being sent.
    fn has_upload_for(&mut self, member: usize, link: PeerId) -> bool {
        let now = self.now;
        let end = self.members[member].links.get(&link);
        let key = end.map(|end| self.members[end.other].key);
        let me = &mut self.members[member];
        let is_last = key.is_some_and(|key| me.suspicions.is_suspect(now, &key));
        me.has_upload(now) && (!is_last || me.uploads.is_empty())
    }

    pub(crate) fn hear_accusation(
        &mut self,
        member: usize,
        by: usize,
        accused: trust_format::PublicKey,
    ) {
        let (now, by) = (self.now, self.members[by].key);
        let suspicions = &mut self.members[member].suspicions;
        if suspicions.handle_accusation(now, by, accused) {
            self.suspect(member);
            self.serve_waiting(member);
        }
    }

    /// Those who are accused and believed to lie get no first copies.
    pub(crate) fn suspect(&mut self, member: usize) {
        let now = self.now;
        let links: Vec<(PeerId, usize)> = self.members[member]
            .links
            .iter()
            .map(|(link, end)| (*link, end.other))
            .collect();
        for (link, other) in links {
            let key = self.members[other].key;
            let me = &mut self.members[member];
            if me.suspicions.is_suspect(now, &key) {
                me.duty.handle_suspect(link);
            }
        }
    }

    /// A liar says of others what they say of it.
    pub(crate) fn accuse_falsely(&mut self, member: usize) {
        let links: Vec<(PeerId, usize)> = self.members[member]
            .links
            .iter()
            .map(|(link, end)| (*link, end.other))
            .collect();
        for (_, accused) in &links {
            let key = self.members[*accused].key;
            for (link, _) in &links {
                self.send(member, *link, Message::Accused(key));
            }
        }
    }
}
