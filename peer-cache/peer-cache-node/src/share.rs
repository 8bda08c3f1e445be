//! One manifest that this program serves or downloads.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use image_format::{
    Assembly, ChunkId, ChunkRecord, Manifest, PartId, PartTable, VerifiedObject, VerifiedPart,
};
use peer_cache_proto::{
    PeerId,
    download::{PASS_ON_MAX, Wishes},
    duty::{Duty, Give},
    swarm::{Failure, OPEN_CHUNKS_BOUND, PEERS_MAX, RequestId},
};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch};
use trust_format::{Digest, PublicKey, Verified};

use crate::session::Joined;

/// Events that a download may be behind with.
pub(crate) const SWARM_EVENTS_MAX: usize = 4096;
/// Objects of one download in memory, whole or in parts: those that the swarm has begun, and those on their way to the
/// medium. Each open one gets its room sooner or later, because the medium gives back what it has taken.
const INTAKE_MAX: usize = OPEN_CHUNKS_BOUND + 32;

/// What a download is told.
#[derive(Debug)]
pub(crate) enum SwarmEvent {
    Peer {
        id: PeerId,
        source: bool,
    },
    Have {
        id: PeerId,
        parts: Vec<PartId>,
    },
    HaveNot {
        id: PeerId,
        parts: Vec<PartId>,
    },
    Gone {
        id: PeerId,
    },
    Assigned {
        request: RequestId,
        part: PartId,
    },
    Exhausted {
        request: RequestId,
    },
    Arrived {
        request: RequestId,
        part: PartId,
    },
    Failed {
        request: RequestId,
        failure: Failure,
    },
    Local {
        chunk: ChunkId,
    },
    Lost {
        chunk: ChunkId,
    },
    /// A chunk that others keep came over the WAN.
    Passing {
        chunk: ChunkId,
    },
    /// What is to be here, and what others want.
    Wishes(Option<Wishes>),
    Claim {
        by: PublicKey,
        term: u64,
    },
    /// Bytes come, or HQ said to wait.
    OriginGoesOn,
    OriginDone,
    OriginFailed,
}

/// An object that arrives in parts, and its room in memory.
#[derive(Debug)]
struct Arriving {
    assembly: Assembly,
    permit: Option<OwnedSemaphorePermit>,
}

/// What became of a part.
#[derive(Debug)]
pub(crate) enum Added {
    /// It can be passed on.
    Part,
    /// It was the last one: the object is to be kept, and [`Share::hold`] to be called.
    Whole(VerifiedObject, OwnedSemaphorePermit),
    /// Its object has no room in memory yet.
    NoRoom(VerifiedPart),
}

/// A manifest, which of its chunks are here, and who was given what.
#[derive(Debug)]
pub(crate) struct Share {
    pub(crate) manifest: Verified<Manifest>,
    pub(crate) table: Arc<PartTable>,
    /// Room for objects in memory.
    pub(crate) intake: Arc<Semaphore>,
    /// Room for objects that others keep.
    pub(crate) passing: Arc<Semaphore>,
    state: Mutex<State>,
    /// Gives out first copies: holds everything or fetches it over the WAN.
    source: AtomicBool,
    /// A chunk came, for those who wait for the next one.
    pub(crate) arrived: Notify,
    pub(crate) complete: watch::Sender<bool>,
    joined: Joined,
}

/// What a peer said of itself in this swarm.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) source: bool,
    /// By part.
    have: Vec<bool>,
}

impl Known {
    pub(crate) fn parts(&self) -> Vec<PartId> {
        let parts = (0u32..).zip(&self.have).filter(|(_, have)| **have);
        parts.map(|(part, _)| PartId(part)).collect()
    }

    fn set(&mut self, parts: &[PartId], to: bool) {
        for part in parts {
            if let Some(have) = self.have.get_mut(part.0 as usize) {
                *have = to;
            }
        }
    }
}

#[derive(Debug)]
struct State {
    /// By chunk.
    held: Vec<bool>,
    /// Chunks in `held`.
    held_count: usize,
    arriving: BTreeMap<ChunkId, Arriving>,
    /// Objects that others keep, until they have them.
    passing: BTreeMap<ChunkId, (Bytes, OwnedSemaphorePermit)>,
    /// What is to be here and what others want; `None` where everything is to be here.
    wishes: Option<Wishes>,
    duty: Duty,
    /// What each peer said of itself, for a download that begins later.
    peers: BTreeMap<PeerId, Known>,
    download: Option<mpsc::Sender<SwarmEvent>>,
    /// Who sent how many parts of what is here.
    senders: Vec<(String, u64)>,
}

impl Share {
    pub(crate) fn new(manifest: Verified<Manifest>, rotation: u64) -> Self {
        let table = Arc::new(PartTable::of(&manifest));
        Self {
            state: Mutex::new(State {
                held: vec![false; manifest.chunks.len()],
                held_count: 0,
                arriving: BTreeMap::new(),
                passing: BTreeMap::new(),
                wishes: None,
                duty: Duty::new(table.part_count(), rotation),
                peers: BTreeMap::new(),
                download: None,
                senders: Vec::new(),
            }),
            intake: Arc::new(Semaphore::new(INTAKE_MAX)),
            passing: Arc::new(Semaphore::new(PASS_ON_MAX)),
            table,
            source: AtomicBool::new(false),
            joined: Joined::default(),
            arrived: Notify::new(),
            complete: watch::Sender::new(manifest.chunks.is_empty()),
            manifest,
        }
    }

    pub(crate) fn set_senders(&self, senders: Vec<(String, u64)>) {
        self.state().senders = senders;
    }

    pub(crate) fn senders(&self) -> Vec<(String, u64)> {
        self.state().senders.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn digest(&self) -> Digest {
        self.manifest.digest()
    }

    pub(crate) fn chunk_count(&self) -> u32 {
        u32::try_from(self.manifest.chunks.len()).unwrap_or(u32::MAX)
    }

    /// A chunk can be served from now on.
    pub(crate) fn hold(&self, chunk: ChunkId) {
        let complete = {
            let mut state = self.state();
            let Some(held) = state.held.get_mut(chunk.0 as usize) else {
                return;
            };
            if !std::mem::replace(held, true) {
                state.held_count += 1;
            }
            state.arriving.remove(&chunk);
            for part in self.table.parts_of(chunk) {
                state.duty.handle_held(part);
            }
            state.held_count == state.held.len()
        };
        self.arrived.notify_waiters();
        if complete {
            self.complete.send_replace(true);
        }
    }

    /// A chunk cannot be served after all; whether that is news.
    pub(crate) fn lose(&self, chunk: ChunkId) -> bool {
        let mut state = self.state();
        let Some(held) = state.held.get_mut(chunk.0 as usize) else {
            return false;
        };
        let was_held = std::mem::replace(held, false);
        if was_held {
            state.held_count -= 1;
            for part in self.table.parts_of(chunk) {
                state.duty.handle_lost(part);
            }
            self.complete.send_replace(false);
        }
        was_held
    }

    /// Whether an object arrives already, which has its room then.
    pub(crate) fn is_arriving(&self, chunk: ChunkId) -> bool {
        self.state().arriving.contains_key(&chunk)
    }

    /// Takes a part that was checked. `permit` is the object's room in memory, which whoever brings its first part must have.
    pub(crate) fn add(
        &self,
        (chunk, record): (ChunkId, &ChunkRecord),
        (id, part): (PartId, VerifiedPart),
        permit: Option<OwnedSemaphorePermit>,
    ) -> Added {
        let added = {
            let mut state = self.state();
            if state.held.get(chunk.0 as usize) == Some(&true) {
                return Added::Part;
            }
            let arriving = match (state.arriving.entry(chunk), permit) {
                (Entry::Occupied(entry), _) => entry.into_mut(),
                (Entry::Vacant(_), None) => return Added::NoRoom(part),
                (Entry::Vacant(entry), permit) => entry.insert(Arriving {
                    assembly: Assembly::new(record),
                    permit,
                }),
            };
            arriving.assembly.add(part);
            let added = match arriving.assembly.object() {
                // without a permit the object is on its way to the medium already
                Some(object) => match arriving.permit.take() {
                    Some(permit) => Added::Whole(object, permit),
                    None => Added::Part,
                },
                None => Added::Part,
            };
            state.duty.handle_held(id);
            added
        };
        self.arrived.notify_waiters();
        added
    }

    /// What of a chunk was here is given up.
    pub(crate) fn drop_arriving(&self, chunk: ChunkId) {
        let mut state = self.state();
        state.arriving.remove(&chunk);
        for part in self.table.parts_of(chunk) {
            state.duty.handle_lost(part);
        }
    }

    /// A part of an object that is in memory: it is not whole yet, or it is passed on and not kept.
    pub(crate) fn part_in_memory(&self, chunk: ChunkId, index: u32) -> Option<Bytes> {
        let state = self.state();
        if let Some((object, _)) = state.passing.get(&chunk) {
            return Some(object.slice(self.manifest.chunk(chunk)?.part_range(index)?));
        }
        state.arriving.get(&chunk)?.assembly.part(index).cloned()
    }

    /// Whether a part can be served.
    pub(crate) fn has_part(&self, part: PartId) -> bool {
        let place = self.table.place_of(part);
        place.is_some_and(|(chunk, index)| {
            self.holds(chunk) || self.part_in_memory(chunk, index).is_some()
        })
    }

    /// An object that others keep is in memory and can be served from now on, until the download lets go of it. One that
    /// does not hear of it would never do so.
    pub(crate) fn pass_on(&self, chunk: ChunkId, object: Bytes, room: OwnedSemaphorePermit) {
        self.state().passing.insert(chunk, (object, room));
        self.hold(chunk);
        let passing = SwarmEvent::Passing { chunk };
        let download = self.download();
        if download.is_none_or(|download| download.try_send(passing).is_err()) {
            self.release(chunk);
        }
    }

    /// Whether a chunk is here only to be passed on.
    pub(crate) fn is_passing(&self, chunk: ChunkId) -> bool {
        self.state().passing.contains_key(&chunk)
    }

    /// An object that was passed on is in memory no longer.
    pub(crate) fn release(&self, chunk: ChunkId) {
        if self.state().passing.remove(&chunk).is_some() {
            self.lose(chunk);
        }
    }

    /// Whether a chunk is to be kept here.
    pub(crate) fn is_mine(&self, chunk: ChunkId) -> bool {
        let state = self.state();
        state
            .wishes
            .as_ref()
            .is_none_or(|w| w.mine.contains(&chunk))
    }

    /// Whether there is no room for everything.
    pub(crate) fn is_partial(&self) -> bool {
        self.state().wishes.is_some()
    }

    pub(crate) fn wishes(&self) -> Option<Wishes> {
        self.state().wishes.clone()
    }

    /// Whether that was news.
    pub(crate) fn set_wishes(&self, wishes: Option<Wishes>) -> bool {
        let mut state = self.state();
        let news = state.wishes != wishes;
        state.wishes = wishes;
        news
    }

    /// Whether a peer takes part.
    pub(crate) fn has_joined(&self, id: PeerId) -> bool {
        self.joined
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(&id)
    }

    /// Chunks that are here.
    pub(crate) fn held_chunks(&self) -> Vec<ChunkId> {
        (0u32..)
            .zip(&self.state().held)
            .filter(|(_, held)| **held)
            .map(|(c, _)| ChunkId(c))
            .collect()
    }

    /// Parts that can be served.
    pub(crate) fn held_parts(&self) -> Vec<PartId> {
        let whole = self.held_chunks();
        let mut parts: Vec<PartId> = whole
            .into_iter()
            .flat_map(|chunk| self.table.parts_of(chunk))
            .collect();
        let state = self.state();
        for (chunk, arriving) in &state.arriving {
            let here = (0u32..).zip(self.table.parts_of(*chunk));
            let here = here.filter(|(index, _)| arriving.assembly.part(*index).is_some());
            parts.extend(here.map(|(_, part)| part));
        }
        parts
    }

    pub(crate) fn holds(&self, chunk: ChunkId) -> bool {
        self.state()
            .held
            .get(chunk.0 as usize)
            .copied()
            .unwrap_or(false)
    }

    pub(crate) fn is_complete(&self) -> bool {
        *self.complete.borrow()
    }

    pub(crate) fn is_source(&self) -> bool {
        self.source.load(Ordering::Relaxed)
    }

    pub(crate) fn set_source(&self, source: bool) -> bool {
        self.source.swap(source, Ordering::Relaxed) != source
    }

    /// A peer joined; returns whether it is the first time on its connection.
    pub(crate) fn joined(&self, id: PeerId) -> bool {
        self.joined
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id)
    }

    pub(crate) fn give(&self, to: PeerId) -> Give {
        self.state().duty.give(to)
    }

    /// A peer is accused of wrong bytes: it is given no first copies.
    pub(crate) fn suspect(&self, peer: PeerId) {
        self.state().duty.handle_suspect(peer);
        // what only it has may go to others
        self.arrived.notify_waiters();
    }

    /// Whether a peer was given parts that it has not announced.
    pub(crate) fn waits_for(&self, peer: PeerId) -> bool {
        self.state().duty.waits_for(peer)
    }

    pub(crate) fn set_download(&self, events: Option<mpsc::Sender<SwarmEvent>>) {
        self.state().download = events;
    }

    /// What peers said before the download began.
    pub(crate) fn known_peers(&self) -> BTreeMap<PeerId, Known> {
        self.state().peers.clone()
    }

    /// Where the download that is going on takes its events.
    pub(crate) fn download(&self) -> Option<mpsc::Sender<SwarmEvent>> {
        self.state().download.clone()
    }

    /// What a peer announced, or that it is gone, for duty and download alike.
    pub(crate) async fn tell(&self, event: SwarmEvent) {
        let download = {
            let mut state = self.state();
            match &event {
                SwarmEvent::Peer { id, source } => {
                    let unknown = || Known {
                        source: *source,
                        have: vec![false; self.table.part_count() as usize],
                    };
                    if state.peers.len() < PEERS_MAX || state.peers.contains_key(id) {
                        state.peers.entry(*id).or_insert_with(unknown).source = *source;
                    }
                }
                SwarmEvent::Have { id, parts } => {
                    state.duty.handle_have(*id, parts);
                    if let Some(known) = state.peers.get_mut(id) {
                        known.set(parts, true);
                    }
                }
                SwarmEvent::HaveNot { id, parts } => {
                    if let Some(known) = state.peers.get_mut(id) {
                        known.set(parts, false);
                    }
                }
                SwarmEvent::Gone { id } => {
                    state.peers.remove(id);
                    state.duty.handle_peer_gone(*id);
                    self.arrived.notify_waiters();
                }
                _ => {}
            }
            state.download.clone()
        };
        if let Some(download) = download {
            // a download that ended takes no more events, and needs none
            let _ = download.send(event).await;
        }
    }
}
