//! Requests that HQ holds until something changes.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use tokio::sync::watch;
use trust_format::SiteId;

/// Wakes those who wait for news of a site.
#[derive(Debug, Default)]
pub(crate) struct SiteBell(Mutex<BTreeMap<SiteId, watch::Sender<()>>>);

impl SiteBell {
    /// Something changed.
    pub(crate) fn tell(&self, site: SiteId) {
        let bells = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bell) = bells.get(&site) {
            bell.send_replace(());
        }
    }

    /// Told of changes from now on.
    pub(crate) fn listen(&self, site: SiteId) -> watch::Receiver<()> {
        let mut bells = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        bells.entry(site).or_default().subscribe()
    }
}
