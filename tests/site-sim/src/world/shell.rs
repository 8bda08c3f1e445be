//! What a member's shell does around the cores.

use super::*;

impl World {
    pub(crate) fn serve(&mut self, member: usize, link: PeerId, request: RequestId, want: Want) {
        let now = self.now;
        match want {
            Want::Part(part) if !self.members[member].holds(part) => {
                self.send(member, link, Message::Missing(request));
            }
            Want::Part(_) if !self.members[member].has_upload(now) => {
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

    pub(crate) fn send_object(
        &mut self,
        member: usize,
        link: PeerId,
        request: RequestId,
        part: PartId,
    ) {
        let is_true = !self.members[member].is_liar;
        self.members[member].sent_bytes += self.bytes_of(part);
        let object = Message::Object {
            request,
            part,
            is_true,
        };
        self.send(member, link, object);
    }

    /// Bytes came: what the shell's hash says decides.
    pub(crate) fn object(
        &mut self,
        from: usize,
        to: usize,
        request: RequestId,
        part: PartId,
        is_true: bool,
    ) {
        let now = self.now;
        let me = &mut self.members[to];
        if me.flights.remove(&request).is_none() {
            return;
        }
        if is_true {
            self.hold(to, part);
            if let Some(download) = &mut self.members[to].download {
                download.handle_arrived(now, request, part);
            }
        } else if let Some(download) = &mut me.download {
            me.caught.insert(from);
            download.handle_failed(now, request, Failure::Invalid);
        }
    }

    pub(crate) fn hold(&mut self, member: usize, part: PartId) {
        let me = &mut self.members[member];
        me.held[part.0 as usize] = true;
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
                Action::Fetch { wanted, .. } => self.start_fetch(member, wanted),
                Action::StopFetching => {
                    self.members[member].fetch = None;
                    if std::mem::take(&mut self.members[member].is_source) {
                        self.join_everywhere(member);
                    }
                }
                Action::Claim { term } => {
                    let links: Vec<PeerId> = self.members[member]
                        .links
                        .iter()
                        .filter(|(_, l)| self.members[l.other].is_node)
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
        self.invariant_copies(member);
    }

    fn act_in_swarm(&mut self, member: usize, action: swarm::Action) {
        match action {
            swarm::Action::Request { id, peer, want } => self.request(member, id, peer, want),
            swarm::Action::Cancel { id } => {
                self.members[member].flights.remove(&id);
            }
            swarm::Action::Announce { parts } => {
                let links: Vec<PeerId> = self.members[member].links.keys().copied().collect();
                for link in links {
                    self.send(member, link, Message::Have(parts.clone()));
                }
            }
            swarm::Action::Accuse { peer, .. } => self.accuse(member, peer),
            swarm::Action::Finished => {}
        }
    }

    pub(crate) fn finish_if_whole(&mut self, member: usize) {
        let now = self.now;
        let me = &mut self.members[member];
        if me.download.as_ref().is_some_and(|d| d.is_finished()) {
            me.download = None;
            me.fetch = None;
            me.flights.clear();
            me.wake_at = None;
            me.finished_at.get_or_insert(now);
            if me.is_node {
                me.is_source = true;
            }
            self.join_everywhere(member);
        }
    }

    pub(crate) fn plan_wake(&mut self, member: usize) {
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

    pub(crate) fn request(&mut self, member: usize, id: RequestId, peer: PeerId, want: Want) {
        let now = self.now;
        let me = &mut self.members[member];
        if !me.links.contains_key(&peer) {
            if let Some(download) = &mut me.download {
                download.handle_failed(now, id, Failure::Broken);
            }
            return;
        }
        let part = match want {
            Want::Next => None,
            Want::Part(part) => Some(part),
        };
        me.flights.insert(id, part);
        self.invariant_caught_once(member, peer);
        self.send(member, peer, Message::Ask(id, want));
    }

    pub(crate) fn accuse(&mut self, member: usize, peer: PeerId) {
        let Some(end) = self.members[member].links.get(&peer) else {
            return;
        };
        let culprit = end.other;
        if !self.members[culprit].is_liar {
            self.violation = Some(format!("invariant_no_honest_peer_is_accused: {culprit}"));
        }
        self.members[member].accused.insert(culprit);
        self.give_up(peer);
    }
}
