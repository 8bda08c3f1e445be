//! Counting everything, and handing on what a live log wants to know, without ever waiting for it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::booter::{BootEvent, Booter};

/// Events that wait while [`Booter::event`] runs.
const EVENTS_WAITING_MAX: usize = 512;
/// Events that are handed on in a second: a store full of machines says less, and who floods a port must not keep the owner busy.
const EVENTS_PER_SECOND_MAX: u32 = 200;
/// Longest text taken over from a packet.
const TEXT_CHARS_MAX: usize = 128;

/// How often what happened since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BootCounts {
    /// Packets on ports 67 and 4011 that were DHCP at all.
    pub dhcp_packets: u64,
    /// Packets on those ports that were not.
    pub dhcp_malformed: u64,
    /// Answers that told a machine what to boot.
    pub offered: u64,
    /// Silence, by `IgnoreReason::label`.
    pub ignored: BTreeMap<&'static str, u64>,
    /// Files sent to the end.
    pub transfers_finished: u64,
    /// Files not sent, or not to the end. Firmware and boot loaders ask for many files that need not exist.
    pub transfers_failed: u64,
    /// Requests dropped because too many transfers were running.
    pub transfers_refused: u64,
    /// Bytes of the files sent, to the end or not.
    pub sent_bytes: u64,
    /// Events that the owner was too slow to take.
    pub events_dropped: u64,
}

/// The way from the sockets to the owner's log. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Events {
    sender: mpsc::Sender<BootEvent>,
    lost: Arc<AtomicU64>,
    counts: Arc<Mutex<BootCounts>>,
}

impl Events {
    /// The sending side, and the task that delivers to `booter` until all senders are gone.
    pub(crate) fn new(booter: Arc<dyn Booter>) -> (Self, impl Future<Output = ()> + Send) {
        let (sender, mut receiver) = mpsc::channel(EVENTS_WAITING_MAX);
        let lost = Arc::new(AtomicU64::new(0));
        let events = Self {
            sender,
            lost: Arc::clone(&lost),
            counts: Arc::default(),
        };
        let deliver = async move {
            let (mut second, mut delivered) = (Instant::now(), 0);
            while let Some(event) = receiver.recv().await {
                if delivered >= EVENTS_PER_SECOND_MAX {
                    tokio::time::sleep_until((second + Duration::from_secs(1)).into()).await;
                }
                if second.elapsed() >= Duration::from_secs(1) {
                    (second, delivered) = (Instant::now(), 0);
                }
                delivered += 1;
                let count = lost.swap(0, Ordering::Relaxed);
                if count > 0 {
                    booter.event(BootEvent::Dropped { count });
                }
                booter.event(event);
            }
        };
        (events, deliver)
    }

    /// Hands an event on, or counts it as lost.
    pub(crate) fn tell(&self, event: BootEvent) {
        self.count(|counts| match &event {
            BootEvent::Offered { .. } => counts.offered += 1,
            BootEvent::TransferFinished { size_bytes, .. } => {
                counts.transfers_finished += 1;
                counts.sent_bytes += size_bytes;
            }
            BootEvent::TransferFailed { size_bytes, .. } => {
                counts.transfers_failed += 1;
                counts.sent_bytes += size_bytes;
            }
            _ => {}
        });
        if self.sender.try_send(event).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
            self.count(|counts| counts.events_dropped += 1);
        }
    }

    pub(crate) fn count(&self, change: impl FnOnce(&mut BootCounts)) {
        change(&mut self.counts.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn counts(&self) -> BootCounts {
        self.counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// A text from the network as it may stand in a log.
pub(crate) fn shown(text: &str) -> String {
    text.chars()
        .take(TEXT_CHARS_MAX)
        .map(|char| if char.is_control() { '?' } else { char })
        .collect()
}
