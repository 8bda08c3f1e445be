//! Keeps the boot server on the addresses that this computer has now: cables are plugged in late, leases change.

use std::{collections::BTreeSet, net::Ipv4Addr, sync::Arc, time::Duration};

use boot_server::{BootServer, BootServerConfig, RunningBootServer};
use nix::net::if_::InterfaceFlags;
use web_api::NodeReport;

use super::{booter::CacheBooter, reports::Reports};

const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Starts the boot server, and again whenever addresses change, until it is dropped.
pub(crate) struct Wakefulness {
    config: BootServerConfig,
    booter: Arc<CacheBooter>,
    reports: Reports,
    running: Option<RunningBootServer>,
    addresses: BTreeSet<(String, Ipv4Addr)>,
    last_error: String,
}

impl Wakefulness {
    pub(crate) fn new(
        config: BootServerConfig,
        booter: Arc<CacheBooter>,
        reports: Reports,
    ) -> Self {
        Self {
            config,
            booter,
            reports,
            running: None,
            addresses: BTreeSet::new(),
            last_error: String::new(),
        }
    }

    /// For ever.
    pub(crate) async fn run(mut self) {
        loop {
            let addresses = self.addresses_now();
            if addresses != self.addresses || (self.running.is_none() && !addresses.is_empty()) {
                self.addresses = addresses;
                self.restart().await;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn addresses_now(&self) -> BTreeSet<(String, Ipv4Addr)> {
        let Ok(all) = nix::ifaddrs::getifaddrs() else {
            return BTreeSet::new();
        };
        let ours = |name: &str| {
            self.config
                .interface
                .as_deref()
                .is_none_or(|wanted| wanted == name)
        };
        all.filter(|i| {
            i.flags.contains(InterfaceFlags::IFF_UP)
                && !i.flags.contains(InterfaceFlags::IFF_LOOPBACK)
        })
        .filter(|i| ours(&i.interface_name))
        .filter_map(|i| Some((i.interface_name, i.address?.as_sockaddr_in()?.ip())))
        .collect()
    }

    async fn restart(&mut self) {
        if let Some(running) = self.running.take() {
            running.shutdown().await;
        }
        if self.addresses.is_empty() {
            return;
        }
        match BootServer::start(self.config.clone(), self.booter.clone()) {
            Ok(running) => {
                tracing::info!(interfaces = ?running.interfaces(), "answers network boot");
                self.last_error.clear();
                self.running = Some(running);
            }
            Err(error) => {
                let message = format!(
                    "does not answer network boot: {:#}",
                    anyhow::Error::new(error)
                );
                // said once, not every two seconds
                if message != self.last_error {
                    tracing::warn!(message);
                    self.reports.add(NodeReport::Trouble {
                        message: message.clone(),
                    });
                    self.last_error = message;
                }
            }
        }
    }
}
