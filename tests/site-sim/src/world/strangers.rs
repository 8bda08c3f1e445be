//! A store with a stranger in it, and a node that is revoked: who is served and believed is decided by the product's own
//! documents and rules, and looked at from outside.
//!
//! The stranger connects to everybody, says that it holds everything and fetches, asks for all parts, and shows whatever
//! it can get hold of. What it may not have is anything.

use ed25519_dalek::{Signer, SigningKey};
use peer_cache_proto::{
    admission::Right,
    wire::{Credentials, TicketProof},
};
use trust_format::{
    Channel, CheckedNode, Document, Grade, HqContact, MachineId, NodeCertificate, PublicKey, Root,
    Signature, SiteId, Ticket, TrustedKeys, UnknownRule, Verified, check_ticket, peek, ticket_life,
};

use super::*;
use crate::member::key_of;

const SITE: SiteId = SiteId([9; 16]);
const OTHER_SITE: SiteId = SiteId([8; 16]);
const HQ_KEY: usize = usize::MAX - 1;
const ACCOMPLICE: usize = usize::MAX - 2;
/// HQ tells somebody in the store so often until somebody hears it.
const TELL_EVERY: Duration = Duration::from_secs(1);
const ORDER: u64 = 1;

/// What the chain signed.
pub(crate) struct Papers {
    keys: TrustedKeys,
    /// By number, from 1 on.
    channels: Vec<Verified<Channel>>,
    /// By node.
    certificates: Vec<Vec<u8>>,
    trick: Trick,
}

/// What the stranger shows.
#[derive(Debug, Clone, Copy)]
enum Trick {
    Nothing,
    /// A ticket that it signed itself, with a certificate that it signed itself.
    OwnTicket,
    /// The ticket of the last agent that was admitted.
    StolenTicket,
    /// A ticket of another site's node, for that site.
    OtherSitesTicket,
    /// A ticket of the first node that was over when it was signed.
    OldTicket,
    /// It is a node of another site.
    OtherSitesNode,
    /// It is a node by the word of a node that is provisional itself.
    TwoStepsDeep,
    /// The certificate of the first node.
    StolenCertificate,
}

const TRICKS: [Trick; 8] = [
    Trick::Nothing,
    Trick::OwnTicket,
    Trick::StolenTicket,
    Trick::OtherSitesTicket,
    Trick::OldTicket,
    Trick::OtherSitesNode,
    Trick::TwoStepsDeep,
    Trick::StolenCertificate,
];

fn public(key: &SigningKey) -> PublicKey {
    PublicKey(key.verifying_key().to_bytes())
}

fn sign<T: Document>(document: &T, key: &SigningKey) -> Vec<u8> {
    let bytes = document.to_signed_bytes();
    let signature = Signature(key.sign(bytes.as_message()).to_bytes());
    bytes
        .into_envelope(vec![(public(key), signature)])
        .to_bytes()
}

fn certificate(node: PublicKey, site: SiteId, grade: Grade) -> NodeCertificate {
    NodeCertificate {
        node,
        site,
        machine: MachineId([7; 16]),
        name: String::new(),
        grade,
    }
}

fn ticket(issuer: &SigningKey, agent: PublicKey, site: SiteId, life: Duration) -> Ticket {
    Ticket {
        issuer: public(issuer),
        issuer_boot: 1,
        issued: Duration::ZERO,
        life,
        agent,
        machine: MachineId([7; 16]),
        site,
        order: ORDER,
    }
}

fn shown(ticket: Vec<u8>, issuer: Vec<u8>) -> Credentials {
    Credentials::Agent {
        ticket: Some(TicketProof {
            ticket,
            issuer,
            issuers_issuer: None,
        }),
    }
}

impl Papers {
    /// Of nothing else than the number of nodes, but for what the stranger tries.
    pub(crate) fn new(nodes: usize, random: &mut Random) -> Option<Self> {
        let hq = key_of(HQ_KEY);
        let root = Root {
            number: 1,
            threshold: 1,
            root_keys: vec![public(&hq)],
            image_keys: vec![],
            order_keys: vec![public(&hq)],
            authority_keys: vec![public(&hq)],
        };
        let keys = TrustedKeys::pin(&sign(&root, &hq)).ok()?;
        let certified = |node| {
            sign(
                &certificate(public(&key_of(node)), SITE, Grade::Certified),
                &hq,
            )
        };
        let mut papers = Self {
            keys,
            channels: Vec::new(),
            certificates: (0..nodes).map(certified).collect(),
            trick: TRICKS[random.index(TRICKS.len())],
        };
        papers.publish(Vec::new());
        Some(papers)
    }

    /// HQ says something new.
    fn publish(&mut self, revoked: Vec<PublicKey>) {
        let channel = Channel {
            site: SITE,
            site_name: String::new(),
            number: self.channels.len() as u64 + 1,
            image: None,
            bundle: None,
            release_floor: 0,
            revocation: revoked.len() as u64,
            revoked,
            unknown: UnknownRule::Admit,
            provisional: true,
            hq: HqContact {
                urls: vec![],
                fingerprint: [0; 32],
            },
        };
        let bytes = sign(&channel, &key_of(HQ_KEY));
        if let Ok(channel) = Verified::check(&bytes, &self.keys) {
            self.channels.push(channel);
        }
    }

    /// As a member knows it.
    fn channel(&self, number: usize) -> &Channel {
        &self.channels[number.clamp(1, self.channels.len()) - 1]
    }

    fn credentials_of(&self, member: usize) -> Credentials {
        match self.certificates.get(member) {
            Some(certificate) => Credentials::Node {
                certificate: certificate.clone(),
                issuer: None,
            },
            None => Credentials::Agent { ticket: None },
        }
    }

    /// What the stranger shows; `stolen` is a ticket that it saw.
    fn tricked(
        &self,
        stranger: PublicKey,
        key: &SigningKey,
        stolen: Option<Credentials>,
    ) -> Credentials {
        let (hq, accomplice) = (key_of(HQ_KEY), key_of(ACCOMPLICE));
        let node = |certificate, issuer| Credentials::Node {
            certificate,
            issuer,
        };
        let life = ticket_life::GIVEN;
        match self.trick {
            Trick::Nothing => Credentials::Agent { ticket: None },
            Trick::OwnTicket => {
                let own = sign(&certificate(stranger, SITE, Grade::Certified), key);
                shown(sign(&ticket(key, stranger, SITE, life), key), own)
            }
            Trick::StolenTicket => stolen.unwrap_or(Credentials::Agent { ticket: None }),
            Trick::OtherSitesTicket => {
                let elsewhere = certificate(public(&accomplice), OTHER_SITE, Grade::Certified);
                let ticket = ticket(&accomplice, stranger, OTHER_SITE, life);
                shown(sign(&ticket, &accomplice), sign(&elsewhere, &hq))
            }
            Trick::OldTicket => {
                let first = key_of(0);
                let over = ticket(&first, stranger, SITE, Duration::ZERO);
                shown(sign(&over, &first), self.certificates[0].clone())
            }
            Trick::OtherSitesNode => {
                let elsewhere = certificate(stranger, OTHER_SITE, Grade::Certified);
                node(sign(&elsewhere, &hq), None)
            }
            Trick::TwoStepsDeep => {
                let by = |issuer| Grade::Provisional {
                    issuer,
                    order: ORDER,
                };
                let between = certificate(public(&accomplice), SITE, by(public(&key_of(0))));
                let mine = certificate(stranger, SITE, by(public(&accomplice)));
                let between = sign(&between, &key_of(0));
                node(sign(&mine, &accomplice), Some(between))
            }
            Trick::StolenCertificate => node(self.certificates[0].clone(), None),
        }
    }

    /// As the shell judges a hello: the right of a peer, if it has one. A node that is not believed is not talked to.
    fn judge(
        &self,
        number: usize,
        key: &PublicKey,
        credentials: &Credentials,
    ) -> Result<Option<Right>, ()> {
        let channel = self.channel(number);
        let check = |key: &PublicKey, certificate: &[u8], issuer: Option<&[u8]>| {
            CheckedNode::check(key, certificate, issuer, &self.keys, channel)
        };
        match credentials {
            Credentials::Agent { ticket: None } => Ok(None),
            Credentials::Agent {
                ticket: Some(proof),
            } => Ok(peek::<Ticket>(&proof.ticket).ok().and_then(|claimed| {
                let issuer = check(
                    &claimed.issuer,
                    &proof.issuer,
                    proof.issuers_issuer.as_deref(),
                );
                let issuer = issuer.ok()?;
                let ticket = check_ticket(&proof.ticket, key, &issuer, SITE).ok()?;
                Some(Right::Agent {
                    ticket: Box::new((*ticket).clone()),
                    vouched_by: issuer.keys().collect(),
                })
            })),
            Credentials::Node {
                certificate,
                issuer,
            } => {
                let node = check(key, certificate, issuer.as_deref()).map_err(|_| ())?;
                Ok(Some(Right::Node {
                    keys: node.keys().collect(),
                }))
            }
        }
    }
}

impl World {
    /// Two members greet. Returns whether they stay connected.
    pub(crate) fn greet_by_papers(&mut self, a: usize, b: usize) -> Option<[Option<Right>; 2]> {
        let Some(papers) = &self.papers else {
            return Some([None, None]);
        };
        // documents come before credentials are looked at; they are signed, so anybody may show them
        let newest = self.members[a].channel.max(self.members[b].channel);
        for member in [a, b] {
            if let Some(key) = self.stranger_key(member) {
                let stolen = self.stolen.clone();
                let shown = papers.tricked(self.members[member].key, &key, stolen);
                self.members[member].credentials = Some(shown);
            } else if self.members[member].credentials.is_none() {
                self.members[member].credentials = Some(papers.credentials_of(member));
            }
        }
        for member in [a, b] {
            self.learn_channel(member, newest);
        }
        let papers = self.papers.as_ref()?;
        let judge = |me: usize, other: usize| {
            let (me, other) = (&self.members[me], &self.members[other]);
            let shown = other.credentials.as_ref().ok_or(())?;
            papers.judge(me.channel, &other.key, shown)
        };
        // a stranger does not care whom it talks to
        let of = |me, other| match self.stranger_key(me) {
            Some(_) => Ok(None),
            None => judge(me, other),
        };
        Some([of(a, b).ok()?, of(b, a).ok()?])
    }

    fn stranger_key(&self, member: usize) -> Option<SigningKey> {
        self.is_stranger(member)
            .then(|| self.members[member].signing.clone())
    }

    pub(crate) fn is_stranger(&self, member: usize) -> bool {
        self.papers.is_some() && member >= self.plan.nodes + self.plan.agents
    }

    /// A stranger says at once all that could bring it something.
    pub(crate) fn boast(&mut self, member: usize, link: PeerId) {
        if !self.is_stranger(member) {
            return;
        }
        let all: Arc<[PartId]> = (0..self.members[member].table.part_count())
            .map(PartId)
            .collect();
        self.send(member, link, Message::Joined { is_source: true });
        self.send(member, link, Message::Have(all));
        self.send(member, link, Message::Claim(99));
    }

    /// Whether `member` gives objects to the other end of a connection, and believes what it says of them.
    pub(crate) fn has_right(&mut self, member: usize, link: PeerId) -> bool {
        let Some(papers) = &self.papers else {
            return true;
        };
        if self.is_stranger(member) {
            return true;
        }
        let now = self.now;
        let me = &mut self.members[member];
        let Some(right) = me.links.get(&link).and_then(|l| l.right.as_ref()) else {
            return false;
        };
        right.holds(now, &mut me.clocks, Some(papers.channel(me.channel)))
    }

    /// Whether an agent was admitted once since it started.
    pub(crate) fn has_ticket(&self, agent: usize) -> bool {
        let shown = self.members[agent].credentials.as_ref();
        matches!(shown, Some(Credentials::Agent { ticket: Some(_) })) && !self.is_stranger(agent)
    }

    /// An agent asks a node to be admitted, unless its ticket still holds there.
    pub(crate) fn ask_for_ticket(&mut self, agent: usize, node: usize) {
        if self.papers.is_none() || self.is_stranger(agent) || self.members[agent].is_node {
            return;
        }
        let mut links = self.members[node].links.iter();
        let link = links
            .find(|(_, end)| end.other == agent)
            .map(|(link, _)| *link);
        let has_right = match link {
            Some(link) => self.has_right(node, link),
            None => false,
        };
        let Some(papers) = self.papers.as_ref().filter(|_| !has_right) else {
            return;
        };
        let channel = papers.channel(self.members[node].channel);
        let issuer = &self.members[node];
        if channel.revoked.contains(&issuer.key) {
            return;
        }
        let given = Ticket {
            issuer: issuer.key,
            issuer_boot: issuer.boot,
            issued: self.now.saturating_sub(issuer.started),
            ..ticket(
                &issuer.signing,
                self.members[agent].key,
                SITE,
                ticket_life::GIVEN,
            )
        };
        let proof = shown(
            sign(&given, &issuer.signing),
            papers.certificates[node].clone(),
        );
        self.stolen = Some(proof.clone());
        self.members[agent].credentials = Some(proof);
        self.show_credentials(agent);
    }

    /// Shown on connections that are up: each of the others judges anew, and both say what they hold.
    fn show_credentials(&mut self, member: usize) {
        let links: Vec<(PeerId, usize)> = self.members[member]
            .links
            .iter()
            .map(|(link, end)| (*link, end.other))
            .collect();
        for (link, other) in links {
            let Some(papers) = &self.papers else { return };
            let (key, shown) = (self.members[member].key, &self.members[member].credentials);
            let number = self.members[other].channel;
            let right = shown
                .as_ref()
                .and_then(|shown| papers.judge(number, &key, shown).ok())
                .flatten();
            if let Some(end) = self.members[other].links.get_mut(&link) {
                end.right = right;
            }
            self.join(member, link);
            self.join(other, link);
        }
    }

    /// HQ revokes a node, and tells the store as soon as somebody there can hear it.
    pub(crate) fn revoke(&mut self, member: usize) {
        let key = self.members[member].key;
        self.members[member].is_outcast = true;
        // who fetched till now stops in the middle
        self.may_repeat_objects = true;
        self.cut_transfer(member);
        self.members[member].fetch = None;
        if let Some(papers) = &mut self.papers {
            papers.publish(vec![key]);
        }
        self.tell_of_revocation();
    }

    pub(crate) fn tell_of_revocation(&mut self) {
        let Some(newest) = self.papers.as_ref().map(|p| p.channels.len()) else {
            return;
        };
        let hears = |m: &Member| m.is_alive && m.is_node && !m.is_outcast;
        let nodes: Vec<usize> = (0..self.plan.nodes)
            .filter(|n| hears(&self.members[*n]))
            .collect();
        if nodes.is_empty() || self.wan_cut_until > self.now {
            return self.after(TELL_EVERY, Event::TellOfRevocation);
        }
        let one = nodes[self.random.index(nodes.len())];
        self.learn_channel(one, newest);
    }

    /// Acts on a newer channel as the shell does: ends what is revoked, and passes it on.
    pub(crate) fn learn_channel(&mut self, member: usize, number: usize) {
        let me = &mut self.members[member];
        if number <= me.channel || self.papers.is_none() {
            return;
        }
        me.channel = number;
        if self.is_stranger(member) {
            return;
        }
        let Some(papers) = &self.papers else { return };
        let channel = papers.channel(number);
        let is_revoked = |end: &Link| {
            end.right
                .as_ref()
                .is_some_and(|r| r.is_revoked(Some(channel)))
        };
        let links = self.members[member].links.iter();
        let (ended, left): (Vec<_>, Vec<_>) = links.partition(|(_, end)| is_revoked(end));
        let ended: Vec<PeerId> = ended.into_iter().map(|(link, _)| *link).collect();
        let left: Vec<(PeerId, usize)> = left.into_iter().map(|(l, e)| (*l, e.other)).collect();
        // its own ticket may have been given by the one that is revoked
        let own = self.members[member].credentials.clone();
        let own_is_void = own.is_some_and(|own| {
            let right = papers.judge(number, &self.members[member].key, &own);
            !self.members[member].is_node && matches!(right, Ok(None))
        });
        ended.into_iter().for_each(|link| self.give_up(link));
        for (link, other) in left {
            self.send(member, link, Message::Channel(number));
            if own_is_void && self.members[other].is_node {
                self.ask_for_ticket(member, other);
            }
        }
    }

    /// Looked at from outside, where it is known who is who: no byte goes to or comes from anybody who is not admitted.
    pub(crate) fn invariant_no_byte_without_a_right(&mut self, from: usize, to: usize) {
        let Some(papers) = &self.papers else {
            return;
        };
        let knows = |me: usize, other: usize| {
            let (me, other) = (&self.members[me], &self.members[other]);
            papers.channel(me.channel).revoked.contains(&other.key)
        };
        let is_stranger = self.is_stranger(from) || self.is_stranger(to);
        // a revoked node may believe in itself
        let is_revoked = !self.members[from].is_outcast && knows(from, to)
            || !self.members[to].is_outcast && knows(to, from);
        if is_stranger || is_revoked {
            let what = format!("invariant_no_byte_without_a_right: from {from} to {to}");
            self.violation.get_or_insert(what);
        }
    }
}
