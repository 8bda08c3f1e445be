//! The shell of `peer_cache_proto::door`: takes connections, and gives each its place.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use peer_cache_proto::door::{
    Door, Entry, GREETING_DOCUMENTS_BYTES_MAX, GREETING_MAX, MEMBERS_MAX, PlaceId, STRANGERS_MAX,
    Stay, is_own,
};
use tokio::{
    sync::{Notify, Semaphore, SemaphorePermit},
    task::AbortHandle,
    time::{MissedTickBehavior, timeout},
};

use crate::{
    session::{DIAL_WITHIN, open_session},
    shared::{Shared, lock},
};

/// All that may be open, with as many again for those whom this program calls.
const CONNECTIONS_MAX: usize = MEMBERS_MAX + STRANGERS_MAX + 2 * GREETING_MAX;
/// Callers that wait for a place to greet.
const WAITING_MAX: usize = 256;
/// Documents shorter than this are taken without asking for room.
const DOCUMENTS_UNIT_BYTES: usize = 16 << 10;
/// How long one waits: then it has given up itself.
const WAITS_FOR: Duration = Duration::from_secs(2);
/// How often it is looked whether somebody has to make room for them.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Where connections get their places.
#[derive(Debug)]
pub(crate) struct Doorway {
    door: Mutex<Door>,
    /// Who has not greeted yet, to be ended.
    callers: Mutex<BTreeMap<PlaceId, AbortHandle>>,
    /// Room for documents of those who greet, in [`DOCUMENTS_UNIT_BYTES`].
    documents: Semaphore,
    /// A place is free.
    left: Notify,
}

impl Default for Doorway {
    fn default() -> Self {
        Self {
            door: Mutex::default(),
            callers: Mutex::default(),
            documents: Semaphore::new(GREETING_DOCUMENTS_BYTES_MAX / DOCUMENTS_UNIT_BYTES),
            left: Notify::new(),
        }
    }
}

impl Doorway {
    /// Waits for room for a caller's documents; short ones need none. It is given back when the result is dropped.
    pub(crate) async fn room_for(&self, bytes: usize) -> Option<SemaphorePermit<'_>> {
        let units = u32::try_from(bytes / DOCUMENTS_UNIT_BYTES).ok()?;
        match units {
            0 => None,
            units => self.documents.acquire_many(units).await.ok(),
        }
    }

    /// A place for somebody whom this program calls.
    pub(crate) fn call(self: &Arc<Self>, address: SocketAddr) -> Place {
        let id = lock(&self.door).handle_called(address.ip().to_canonical());
        Place {
            id,
            doorway: self.clone(),
        }
    }

    /// Peers with a right to be here.
    pub(crate) fn member_count(&self) -> usize {
        lock(&self.door).member_count()
    }

    pub(crate) fn handle_admitted(&self, place: PlaceId) -> Stay {
        lock(&self.door).handle_admitted(place)
    }
}

/// The place of one connection; it is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    id: PlaceId,
    doorway: Arc<Doorway>,
}

impl Place {
    pub(crate) fn id(&self) -> PlaceId {
        self.id
    }

    pub(crate) fn handle_greeted(&self, member: bool) -> Stay {
        let stay = lock(&self.doorway.door).handle_greeted(self.id, member);
        lock(&self.doorway.callers).remove(&self.id);
        self.doorway.left.notify_one();
        stay
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.doorway.door).handle_gone(self.id);
        lock(&self.doorway.callers).remove(&self.id);
        self.doorway.left.notify_one();
    }
}

/// A caller that waits for a place.
struct Waiting {
    incoming: quinn::Incoming,
    since: Instant,
}

impl Waiting {
    fn address(&self) -> IpAddr {
        self.incoming.remote_address().ip().to_canonical()
    }
}

/// Takes connections until the endpoint closes.
pub(crate) async fn accept(shared: Arc<Shared>) {
    let mut waiting: VecDeque<Waiting> = VecDeque::new();
    let mut look = tokio::time::interval(LOOK_EVERY);
    // nobody waits for hours
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            incoming = shared.endpoint.accept() => match incoming {
                Some(incoming) => {
                    let caller = Waiting { incoming, since: Instant::now() };
                    if let Some(caller) = let_in(&shared, caller) {
                        let from = caller.address();
                        // who has many addresses waits with each of them once
                        let is_new = is_own(from) || waiting.iter().all(|w| w.address() != from);
                        if is_new && waiting.len() < WAITING_MAX {
                            waiting.push_back(caller);
                        }
                    }
                }
                None => return,
            },
            () = shared.doorway.left.notified(), if !waiting.is_empty() => {}
            _ = look.tick(), if !waiting.is_empty() => {}
        }
        while let Some(caller) = waiting.pop_front() {
            if caller.since.elapsed() > WAITS_FOR {
                caller.incoming.ignore();
            } else if let Some(caller) = let_in(&shared, caller) {
                waiting.push_front(caller);
                break;
            }
        }
    }
}

/// Gives a caller back that has to wait.
fn let_in(shared: &Arc<Shared>, caller: Waiting) -> Option<Waiting> {
    if shared.endpoint.open_connections() > CONNECTIONS_MAX {
        caller.incoming.refuse();
        return None;
    }
    let from = caller.address();
    let proved = caller.incoming.remote_address_validated();
    let entry = lock(&shared.doorway.door).handle_caller(shared.now(), from, proved);
    let id = match entry {
        Entry::In(id) => id,
        Entry::InsteadOf { place, gone } => {
            if let Some(slow) = lock(&shared.doorway.callers).remove(&gone) {
                slow.abort();
            }
            place
        }
        Entry::Wait => return Some(caller),
        Entry::Prove => {
            // one that proved it already is not asked again
            let _ = caller.incoming.retry();
            return None;
        }
        Entry::Out => {
            // without a word: it calls again the later
            tracing::debug!(address = %from, "ignored a caller: there are enough of its address");
            caller.incoming.ignore();
            return None;
        }
    };
    let place = Place {
        id,
        doorway: shared.doorway.clone(),
    };
    let mut callers = lock(&shared.doorway.callers);
    let greeting = tokio::spawn(greet(shared.clone(), caller.incoming, place));
    callers.insert(id, greeting.abort_handle());
    None
}

async fn greet(shared: Arc<Shared>, incoming: quinn::Incoming, place: Place) {
    let Ok(Ok(connection)) = timeout(DIAL_WITHIN, incoming).await else {
        return;
    };
    if let Err(error) = open_session(&shared, connection, false, place).await {
        tracing::debug!(%error, "a connection came to nothing");
    }
}
