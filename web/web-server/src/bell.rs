//! What a process of HQ tells itself and the others on its database when something is true, and who waits for it.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use tokio::sync::{Notify, watch};
use trust_format::SiteId;

use crate::leases::activity::Activities;

/// Tokens of leases in one line: PostgreSQL takes 8,000 bytes, and a token has 32.
const TOKENS_MAX: usize = 200;

/// Wakes those who wait for news of a site.
#[derive(Debug, Default)]
pub(crate) struct SiteBell(Mutex<BTreeMap<SiteId, watch::Sender<()>>>);

impl SiteBell {
    /// Something changed.
    fn ring(&self, site: SiteId) {
        let bells = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bell) = bells.get(&site) {
            bell.send_replace(());
        }
    }

    /// Anything may have changed.
    fn ring_all(&self) {
        let bells = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for bell in bells.values() {
            bell.send_replace(());
        }
    }

    /// Told of changes from now on.
    pub(crate) fn listen(&self, site: SiteId) -> watch::Receiver<()> {
        let mut bells = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        bells.entry(site).or_default().subscribe()
    }
}

/// One thing that is true from now on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum News {
    /// A site's channel, roster or orders changed, or a certificate of one of its nodes.
    Documents(SiteId),
    /// A site's rules of the WAN or its leases changed.
    Wan(SiteId),
    /// A lease went to another node: transfers under its token end.
    LeaseLost(String),
    /// Bytes went out under the leases of these tokens.
    LeasesMoved(Vec<String>),
    /// Documents are signed under the root of this number.
    Root(u64),
    /// Machines changed, or something happened.
    Changes,
}

impl News {
    /// As a line for other processes.
    pub(crate) fn to_line(&self) -> String {
        match self {
            Self::Documents(site) => format!("documents {site}"),
            Self::Wan(site) => format!("wan {site}"),
            Self::LeaseLost(token) => format!("lost {token}"),
            Self::LeasesMoved(tokens) => format!("moved {}", tokens.join(" ")),
            Self::Root(number) => format!("root {number}"),
            Self::Changes => "changes".into(),
        }
    }

    /// A line of another process; nothing of one that a later program wrote.
    pub(crate) fn from_line(line: &str) -> Option<Self> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        Some(match word {
            "documents" => Self::Documents(rest.parse().ok()?),
            "wan" => Self::Wan(rest.parse().ok()?),
            "lost" => Self::LeaseLost(rest.to_owned()),
            "moved" => Self::LeasesMoved(rest.split(' ').map(str::to_owned).collect()),
            "root" => Self::Root(rest.parse().ok()?),
            "changes" => Self::Changes,
            _ => return None,
        })
    }

    /// What to say of leases under which bytes went out.
    pub(crate) fn of_moved(tokens: &[String]) -> impl Iterator<Item = Self> {
        let lines = tokens.chunks(TOKENS_MAX);
        lines.map(|tokens| Self::LeasesMoved(tokens.to_vec()))
    }
}

/// Everything in this process that waits for news.
#[derive(Debug, Default)]
pub(crate) struct Bells {
    /// Of channel, roster, orders and certificates.
    pub(crate) documents: SiteBell,
    /// Of the WAN's rules and leases.
    pub(crate) wan: SiteBell,
    pub(crate) activities: Activities,
    /// Of roots that another process published.
    pub(crate) root: Notify,
    /// Of machines, and of what happened.
    pub(crate) changes: watch::Sender<()>,
}

impl Bells {
    /// Something is true from now on.
    pub(crate) fn hear(&self, news: &News) {
        match news {
            News::Documents(site) => self.documents.ring(*site),
            News::Wan(site) => self.wan.ring(*site),
            News::LeaseLost(token) => self.activities.lose(token),
            News::LeasesMoved(tokens) => tokens.iter().for_each(|t| self.activities.heard(t)),
            News::Root(_) => self.root.notify_one(),
            News::Changes => {
                self.changes.send_replace(());
            }
        }
    }

    /// Nothing was heard for a while: everybody looks, and no lease counts as one that stands still.
    pub(crate) fn hear_again(&self) {
        self.documents.ring_all();
        self.wan.ring_all();
        self.activities.heard_all();
        self.root.notify_one();
        self.changes.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_come_back_from_their_line() {
        let site = SiteId([7; 16]);
        let tokens: Vec<_> = (0..450u32).map(|n| format!("{n:032x}")).collect();
        let mut all = vec![
            News::Documents(site),
            News::Wan(site),
            News::LeaseLost(tokens[0].clone()),
            News::Root(3),
            News::Changes,
        ];
        all.extend(News::of_moved(&tokens));
        assert_eq!(all.len(), 8);
        for news in all {
            let line = news.to_line();
            // what NOTIFY takes
            assert!(line.len() < 8000, "{}", line.len());
            assert_eq!(News::from_line(&line), Some(news));
        }
        for line in ["", "documents", "documents x", "weather fine"] {
            assert_eq!(News::from_line(line), None, "{line}");
        }
    }
}
