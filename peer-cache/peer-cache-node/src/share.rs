//! One manifest that this program serves or downloads.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use image_format::{ChunkId, Manifest};
use peer_cache_proto::{
    PeerId,
    duty::{Duty, Give},
    swarm::{Failure, RequestId},
};
use tokio::sync::{Notify, mpsc, watch};
use trust_format::{Digest, PublicKey, Verified};

use crate::session::Joined;

/// Events that a download may be behind with.
pub(crate) const SWARM_EVENTS_MAX: usize = 4096;

/// What a download is told.
#[derive(Debug)]
pub(crate) enum SwarmEvent {
    Peer {
        id: PeerId,
        source: bool,
    },
    Have {
        id: PeerId,
        chunks: Vec<ChunkId>,
    },
    Gone {
        id: PeerId,
    },
    Assigned {
        request: RequestId,
        chunk: ChunkId,
    },
    Exhausted {
        request: RequestId,
    },
    Arrived {
        request: RequestId,
        chunk: ChunkId,
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
    Claim {
        by: PublicKey,
        term: u64,
    },
    /// Bytes come, or HQ said to wait.
    OriginGoesOn,
    OriginDone,
    OriginFailed,
}

/// A manifest, which of its chunks are here, and who was given what.
#[derive(Debug)]
pub(crate) struct Share {
    pub(crate) manifest: Verified<Manifest>,
    state: Mutex<State>,
    /// Gives out first copies: holds everything or fetches it over the WAN.
    source: AtomicBool,
    /// A chunk came, for those who wait for the next one.
    pub(crate) arrived: Notify,
    pub(crate) complete: watch::Sender<bool>,
    joined: Joined,
}

#[derive(Debug)]
struct State {
    held: Vec<bool>,
    duty: Duty,
    download: Option<mpsc::Sender<SwarmEvent>>,
}

impl Share {
    pub(crate) fn new(manifest: Verified<Manifest>, rotation: u64) -> Self {
        let chunks = u32::try_from(manifest.chunks.len()).unwrap_or(u32::MAX);
        Self {
            state: Mutex::new(State {
                held: vec![false; manifest.chunks.len()],
                duty: Duty::new(chunks, rotation),
                download: None,
            }),
            source: AtomicBool::new(false),
            joined: Joined::default(),
            arrived: Notify::new(),
            complete: watch::Sender::new(manifest.chunks.is_empty()),
            manifest,
        }
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
            if let Some(held) = state.held.get_mut(chunk.0 as usize) {
                *held = true;
            }
            state.duty.handle_held(chunk);
            state.duty.held() == state.held.len()
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
            state.duty.handle_lost(chunk);
            self.complete.send_replace(false);
        }
        was_held
    }

    pub(crate) fn held(&self) -> Vec<ChunkId> {
        (0u32..)
            .zip(&self.state().held)
            .filter(|(_, held)| **held)
            .map(|(c, _)| ChunkId(c))
            .collect()
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

    pub(crate) fn set_download(&self, events: Option<mpsc::Sender<SwarmEvent>>) {
        self.state().download = events;
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
                SwarmEvent::Have { chunks, .. } => state.duty.handle_have(chunks),
                SwarmEvent::Gone { id } => {
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
