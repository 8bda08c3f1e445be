//! Nodes of which HQ hears from a neighbour.
//!
//! One node of a site names the others that it is connected to. Its word is enough for those of its site of which HQ has nothing to find out
//! and that have nothing to get; the others are named back, and call themselves. A roll call in the database says whom each reporter named
//! last and when, which is what leases go by; of each node it is written now and then, for people to read.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::watch;
use trust_format::{PublicKey, SiteId};
use web_api::Hex;

use crate::{
    Hq,
    access::Node,
    database::{nodes, nodes::RollCall, unix_seconds},
    error::Refusal,
};

/// For so long what is known of a site's nodes is not read again, unless its documents change.
const KNOWN_FOR: Duration = Duration::from_secs(60);
/// The same when a node is named that is not among them.
const READ_AGAIN_AFTER: Duration = Duration::from_secs(5);
/// People see when a node was heard of that others name; this much later at most.
const SEEN_EVERY_SECONDS: u64 = 60;

/// Of each site the nodes that may be reported by others. There are no more than the database has.
#[derive(Debug, Default)]
pub(crate) struct Settled(Mutex<BTreeMap<SiteId, SettledNodes>>);

#[derive(Debug)]
struct SettledNodes {
    /// With the seconds since 1970 at which each was heard of, as the database has it.
    nodes: BTreeMap<PublicKey, u64>,
    read: Instant,
    /// Rings when a node is revoked, certified or renamed.
    documents: watch::Receiver<()>,
}

/// What becomes of those who were named, and of who named them.
#[derive(Debug, Default, PartialEq, Eq)]
struct Heard {
    there: Vec<PublicKey>,
    /// Of these it is written when they were heard of.
    to_write: Vec<PublicKey>,
    wanted: Vec<Hex<32>>,
}

impl Settled {
    /// `None` when the site's nodes have to be read first.
    fn hear(&self, node: &Node, named: &[Hex<32>], now: u64) -> Option<Heard> {
        let mut sites = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let settled = sites.get_mut(&node.site)?;
        let age = settled.read.elapsed();
        if age > KNOWN_FOR || settled.documents.has_changed().unwrap_or(true) {
            return None;
        }
        let own = Hex(node.key.0);
        let mut heard = Heard::default();
        for name in named.iter().chain([&own]) {
            let key = PublicKey(name.0);
            match settled.nodes.get_mut(&key) {
                Some(seen) => {
                    heard.there.push(key);
                    if *seen + SEEN_EVERY_SECONDS <= now {
                        *seen = now;
                        heard.to_write.push(key);
                    }
                }
                // it calls at this moment
                None if *name == own => heard.to_write.push(key),
                None => heard.wanted.push(*name),
            }
        }
        (heard.wanted.is_empty() || age < READ_AGAIN_AFTER).then_some(heard)
    }

    fn put(&self, site: SiteId, nodes: SettledNodes) {
        let mut sites = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sites.insert(site, nodes);
    }
}

/// Takes a node's word for it that others are there. Those that HQ has to hear itself come back.
pub(crate) async fn hear(hq: &Hq, node: &Node, named: &[Hex<32>]) -> Result<Vec<Hex<32>>, Refusal> {
    let now = unix_seconds();
    let heard = match hq.settled.hear(node, named, now) {
        Some(heard) => heard,
        None => {
            // before the look, so that no change falls between
            let documents = hq.bells.documents.listen(node.site);
            let nodes = nodes::settled_of_site(&mut *hq.database.read().await?, node.site).await?;
            let read = Instant::now();
            hq.settled.put(
                node.site,
                SettledNodes {
                    nodes,
                    read,
                    documents,
                },
            );
            hq.settled
                .hear(node, named, now)
                // they changed in this moment: the next call looks again
                .unwrap_or_else(|| Heard {
                    wanted: named.to_vec(),
                    ..Heard::default()
                })
        }
    };
    hq.signs_of_life.heard(heard.to_write);
    let call = RollCall {
        site: node.site,
        there: heard.there,
        seen: now,
    };
    hq.signs_of_life.named(node.key, call);
    Ok(heard.wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SITE: SiteId = SiteId([1; 16]);
    const NODE: Node = Node {
        key: PublicKey([2; 32]),
        site: SITE,
        is_replaced: false,
    };

    fn name(n: u8) -> Hex<32> {
        Hex([n; 32])
    }

    fn known(settled: &Settled, age: Duration) -> watch::Sender<()> {
        let (bell, documents) = watch::channel(());
        let nodes = [(PublicKey([1; 32]), 100), (PublicKey([2; 32]), 130)];
        let read = Instant::now().checked_sub(age).unwrap();
        let nodes = SettledNodes {
            nodes: nodes.into(),
            read,
            documents,
        };
        settled.put(SITE, nodes);
        bell
    }

    #[test]
    fn who_is_settled_is_there_and_is_written_now_and_then() {
        let settled = Settled::default();
        assert_eq!(settled.hear(&NODE, &[], 0), None, "nothing is known");
        let _bell = known(&settled, Duration::ZERO);
        let named = [name(1), name(3)];
        let hear = |now| settled.hear(&NODE, &named, now).unwrap();
        let first = hear(160);
        assert_eq!(first.there, [PublicKey([1; 32]), NODE.key]);
        assert_eq!(first.to_write, [PublicKey([1; 32])]);
        assert_eq!(first.wanted, [name(3)]);
        assert_eq!(hear(189).to_write, []);
        assert_eq!(hear(190).to_write, [NODE.key]);
        // one of which something else is new is no help for others, and was heard of all the same
        let new = Node {
            key: PublicKey([9; 32]),
            ..NODE
        };
        let heard = settled.hear(&new, &[name(1)], 190).unwrap();
        assert_eq!((heard.wanted, heard.to_write), (vec![], vec![new.key]));
    }

    #[test]
    fn what_may_have_changed_is_read_again() {
        let settled = Settled::default();
        let bell = known(&settled, READ_AGAIN_AFTER);
        assert!(settled.hear(&NODE, &[name(1)], 0).is_some());
        assert_eq!(settled.hear(&NODE, &[name(3)], 0), None, "it may be new");
        bell.send_replace(());
        assert_eq!(settled.hear(&NODE, &[name(1)], 0), None);
        let _bell = known(&settled, KNOWN_FOR + READ_AGAIN_AFTER);
        assert_eq!(settled.hear(&NODE, &[name(1)], 0), None);
    }
}
