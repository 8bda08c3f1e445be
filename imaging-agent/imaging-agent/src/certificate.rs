//! Who certifies the node that this agent puts on the disk.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, bail};
use peer_cache_node::{Event, Identity, PeerCache};
use peer_cache_origin::HqOrigin;
use peer_cache_proto::wire::AdmissionAnswer;
use tokio::sync::mpsc;
use trust_format::PublicKey;

use crate::{admission::take_ticket, install::NODE_WITHIN, screen::say};

/// A node that was asked asks HQ first; then the next one is asked.
const CERTIFICATE_WITHIN: Duration = Duration::from_secs(6);

/// The key and certificate of the node that goes onto the disk. HQ certifies it, or a certified node does; the one that
/// admitted this machine may be provisional itself, so each node that is there is asked.
pub(crate) async fn be_certified(
    cache: &PeerCache,
    origin: &HqOrigin,
    events: &mut mpsc::Receiver<Event>,
    admitted_by: PublicKey,
) -> Result<(Identity, Vec<u8>, Option<Vec<u8>>)> {
    let identity = Identity::generate()?;
    // by it the node is revoked at HQ, should HQ never have met it
    say(&format!("node key {}", identity.public()));
    let mut turn = Turn::new(admitted_by);
    let mut every = tokio::time::interval(CERTIFICATE_WITHIN);
    let deadline = tokio::time::sleep(NODE_WITHIN);
    tokio::pin!(deadline);
    loop {
        let event = tokio::select! {
            _ = every.tick() => None,
            event = events.recv() => Some(event.context("the peer cache ended")?),
            () = &mut deadline => bail!("no certificate for this machine's node: {}", turn.reasons()),
        };
        // the one that was asked last takes too long
        let is_late = event.is_none();
        match event {
            None => {}
            Some(Event::Certificate {
                certificate,
                issuer,
            }) => return Ok((identity, certificate, issuer)),
            Some(Event::NotCertified { by, reason }) => turn.refused(by, reason),
            Some(Event::Admission {
                answer: AdmissionAnswer::Granted { proof, .. },
                ..
            }) => {
                take_ticket(cache, origin, proof);
                continue;
            }
            Some(Event::PeerUp { node: true, .. }) => {}
            Some(_) => continue,
        }
        let peers = cache.peers();
        let nodes = peers.iter().filter(|p| p.node).map(|p| p.key).collect();
        if let Some(next) = turn.next(nodes, is_late) {
            cache.ask_certificate(&next, identity.public());
        }
    }
}

/// Asks the nodes that are there in turn, one of them first.
struct Turn {
    first: PublicKey,
    last: Option<PublicKey>,
    refused: BTreeMap<PublicKey, String>,
}

impl Turn {
    fn new(first: PublicKey) -> Self {
        Self {
            first,
            last: None,
            refused: BTreeMap::new(),
        }
    }

    /// One said no, and why.
    fn refused(&mut self, by: PublicKey, reason: String) {
        self.refused.insert(by, reason);
    }

    /// The one after that which was asked last. `again`, those that said no come round too: what they lacked may be there by
    /// then.
    fn next(&mut self, mut nodes: Vec<PublicKey>, again: bool) -> Option<PublicKey> {
        nodes.retain(|node| again || !self.refused.contains_key(node));
        nodes.sort_unstable();
        let next = match self.last {
            None => nodes.iter().find(|node| **node == self.first),
            Some(last) => nodes.iter().find(|node| **node > last),
        };
        let next = *next.or(nodes.first())?;
        self.last = Some(next);
        Some(next)
    }

    /// What each of them said.
    fn reasons(&self) -> String {
        let all: Vec<String> = self
            .refused
            .iter()
            .map(|(by, reason)| format!("{}: {reason}", by.short()))
            .collect();
        match all.is_empty() {
            true => "no node answered".into(),
            false => all.join("; "),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PublicKey = PublicKey([1; 32]);
    const B: PublicKey = PublicKey([2; 32]);
    const C: PublicKey = PublicKey([3; 32]);

    #[test]
    fn each_is_asked_and_the_admitting_one_first() {
        let mut turn = Turn::new(B);
        assert_eq!(turn.next(vec![], true), None);
        let mut asked = Vec::new();
        for _ in 0..4 {
            asked.push(turn.next(vec![C, A, B], false));
        }
        assert_eq!(asked, [B, C, A, B].map(Some));
        assert_eq!(turn.reasons(), "no node answered");
        turn.refused(B, "provisional".into());
        assert!(turn.reasons().ends_with(": provisional"));
        assert_eq!(turn.next(vec![B], false), None);
        assert_eq!(turn.next(vec![B], true), Some(B));
        // it is gone: whoever is there
        assert_eq!(Turn::new(B).next(vec![C], false), Some(C));
    }
}
