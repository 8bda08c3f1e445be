//! From objects to the disk: a few threads that unpack, write and read back, as `Install` says.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use image_format::{CHUNK_BYTES, ChunkCodec, ChunkHash, ChunkId, Form, Manifest, VerifiedChunk};
use imaging_plan::{Action, Install, Phase, StepId};
use peer_cache_node::{
    Arrived, ChunkKeeper, Kept,
    slab::{KeepError, Slab},
};
use tokio::sync::{OwnedSemaphorePermit, watch};
use trust_format::{Digest, Verified};

use crate::{
    costs::{Costs, CpuSeconds},
    target::{AlignedBuffer, Target},
};

/// Threads that wait for the disk, beside one for each core that unpacks and hashes. A disk that stands still for a moment, and
/// each does, must not stop them all: with six of them the cores waited a third of the time.
const DISK_THREADS: usize = 22;
/// More only queue up in the disk, and each has a chunk in memory.
const THREADS_MAX: usize = 32;
/// zstd level of chunks that are read back for others.
const REBUILT_LEVEL: i32 = 1;

/// Customises the new system; runs once, on one of the writer's threads.
pub(crate) type Customise =
    Box<dyn FnOnce(&Target, &imaging_plan::Layout) -> anyhow::Result<()> + Send>;

struct Job {
    chunk: ChunkId,
    arrived: Arrived,
    slab: Option<Slab>,
    _permit: OwnedSemaphorePermit,
    kept: Kept,
}

struct State {
    install: Install,
    jobs: VecDeque<Job>,
    ready: VecDeque<Action>,
    customise: Option<Customise>,
    stopped: bool,
}

/// Writes one image. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Writer {
    shared: Arc<Shared>,
}

struct Shared {
    target: Target,
    state: Mutex<State>,
    news: Condvar,
    phase: watch::Sender<Phase>,
    started: Instant,
    costs: Costs,
}

impl Writer {
    /// Starts the threads; the old system becomes unbootable at once.
    pub(crate) fn start(target: Target, install: Install, customise: Option<Customise>) -> Self {
        let shared = Arc::new(Shared {
            phase: watch::Sender::new(install.phase()),
            target,
            state: Mutex::new(State {
                install,
                jobs: VecDeque::new(),
                ready: VecDeque::new(),
                customise,
                stopped: false,
            }),
            news: Condvar::new(),
            started: Instant::now(),
            costs: Costs::default(),
        });
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        for _ in 0..(cores + DISK_THREADS).min(THREADS_MAX) {
            let shared = shared.clone();
            std::thread::spawn(move || shared.work());
        }
        Self { shared }
    }

    /// Follows how far it is.
    pub(crate) fn phase(&self) -> watch::Receiver<Phase> {
        self.shared.phase.subscribe()
    }

    /// Looks at the install.
    pub(crate) fn look<R>(&self, look: impl FnOnce(&Install) -> R) -> R {
        look(&self.shared.lock().install)
    }

    /// What it has cost the processor so far.
    pub(crate) fn cpu_seconds(&self) -> CpuSeconds {
        self.shared.costs.seconds()
    }

    pub(crate) fn target(&self) -> &Target {
        &self.shared.target
    }

    /// Queues a chunk. The permits bound how many wait.
    fn push(&self, job: Job) {
        self.shared.lock().jobs.push_back(job);
        self.shared.news.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn work(&self) {
        let Ok(mut codec) = ChunkCodec::new(REBUILT_LEVEL) else {
            return;
        };
        let mut buffer = AlignedBuffer::new(CHUNK_BYTES);
        loop {
            match self.next() {
                Next::Act(action) => self.act(action, &mut buffer),
                Next::Write(job) => buffer = self.write(job, &mut codec, buffer),
                Next::Stop => return,
            }
        }
    }

    fn next(&self) -> Next {
        let mut state = self.lock();
        loop {
            while let Some(action) = state.install.poll_action() {
                state.ready.push_back(action);
            }
            if let Some(action) = state.ready.pop_front() {
                self.pass_on(&state);
                return Next::Act(action);
            }
            let phase = state.install.phase();
            if self
                .phase
                .send_if_modified(|p| std::mem::replace(p, phase) != phase)
            {
                let (read, all) = state.install.read_back_progress();
                tracing::debug!(?phase, read, all, "install");
            }
            if state.stopped || matches!(phase, Phase::Failed | Phase::Finished) {
                state.jobs.clear();
                self.news.notify_all();
                return Next::Stop;
            }
            if phase == Phase::Content
                && let Some(job) = state.jobs.pop_front()
            {
                self.pass_on(&state);
                return Next::Write(job);
            }
            state = self
                .news
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// One thread is woken at a time, and wakes the next if there is more to do.
    fn pass_on(&self, state: &State) {
        if !state.ready.is_empty() || !state.jobs.is_empty() {
            self.news.notify_one();
        }
    }

    fn done(&self, id: StepId, result: std::io::Result<()>) {
        let now = self.now();
        let mut state = self.lock();
        match result {
            Ok(()) => state.install.handle_done(now, id),
            Err(error) => state.install.handle_failed(now, id, &error.to_string()),
        }
        drop(state);
        self.news.notify_one();
    }

    fn act(&self, action: Action, buffer: &mut AlignedBuffer) {
        match action {
            Action::Zero(id, extent) => {
                self.done(id, self.target.zero(extent.offset, extent.bytes))
            }
            Action::Write(id, offset, bytes) => {
                let write = || self.target.write(&bytes, offset);
                self.done(id, self.costs.write.of(write));
            }
            Action::Flush(id) => self.done(id, self.target.flush()),
            Action::ReadBack(id, extent, hash) => {
                let read = || {
                    let bytes = usize::try_from(extent.bytes).map_err(std::io::Error::other)?;
                    let part = &mut buffer.as_mut()[..bytes];
                    self.target.read(part, extent.offset)?;
                    match ChunkHash::of(part) == hash {
                        true => Ok(()),
                        false => Err(std::io::Error::other(format!(
                            "the {bytes} bytes at {} are not what was written",
                            extent.offset
                        ))),
                    }
                };
                self.done(id, self.costs.read_back.of(read));
            }
            Action::Customise(id) => {
                let (customise, layout) = {
                    let mut state = self.lock();
                    (state.customise.take(), state.install.layout().clone())
                };
                let result = customise.map_or(Ok(()), |customise| customise(&self.target, &layout));
                self.done(
                    id,
                    result.map_err(|e| std::io::Error::other(format!("{e:#}"))),
                );
            }
            // a chunk's own action is taken by the thread that has the chunk
            Action::WriteChunk(id, chunk, _) => {
                self.done(
                    id,
                    Err(std::io::Error::other(format!("chunk {} was lost", chunk.0))),
                );
            }
            Action::Finished => self.news.notify_all(),
        }
    }

    /// Keeps a chunk for others, unpacks it and writes it to all its places.
    fn write(&self, job: Job, codec: &mut ChunkCodec, buffer: AlignedBuffer) -> AlignedBuffer {
        let keep = || keep_for_others(job.slab.as_ref(), &job.arrived);
        let result = self.costs.keep.of(keep);
        let is_kept = result.is_ok();
        // nobody waits for the word when the program ends
        let _ = job.kept.send(result);
        if !is_kept {
            return buffer;
        }
        match job.arrived {
            Arrived::Object(object) => {
                match self.costs.unpack.of(|| object.unpack(codec, buffer)) {
                    Ok(chunk) => {
                        self.write_pieces(job.chunk, &chunk);
                        chunk.into_buffer()
                    }
                    Err(error) => {
                        // the object is what was signed, so it is the publisher's: nobody else has a better one
                        tracing::error!(%error, "a published object does not unpack");
                        self.lock().stopped = true;
                        self.news.notify_all();
                        AlignedBuffer::new(CHUNK_BYTES)
                    }
                }
            }
            Arrived::Rebuilt(chunk) => {
                self.write_pieces(job.chunk, &chunk);
                buffer
            }
        }
    }

    fn write_pieces<B: AsMut<[u8]> + AsRef<[u8]>>(&self, id: ChunkId, chunk: &VerifiedChunk<B>) {
        let now = self.now();
        let own = {
            let mut state = self.lock();
            state.install.handle_chunk(now, id, chunk.plain());
            let mut own = None;
            while let Some(action) = state.install.poll_action() {
                match action {
                    Action::WriteChunk(step, of, pieces) if of == id => own = Some((step, pieces)),
                    other => state.ready.push_back(other),
                }
            }
            own
        };
        self.news.notify_one();
        let Some((step, pieces)) = own else { return };
        let write = || {
            pieces.iter().try_for_each(|piece| {
                let plain = &chunk.plain()[piece.from..piece.from + piece.bytes];
                self.target.write(plain, piece.offset)
            })
        };
        self.done(step, self.costs.write.of(write));
    }
}

/// A full slab costs the others a source, not this machine its image.
fn keep_for_others(slab: Option<&Slab>, arrived: &Arrived) -> Result<(), KeepError> {
    match (slab, arrived) {
        (Some(slab), Arrived::Object(object)) => match slab.keep(object) {
            Err(KeepError::Full { .. }) => Ok(()),
            result => result,
        },
        _ => Ok(()),
    }
}

enum Next {
    Act(Action),
    Write(Job),
    Stop,
}

/// Where an agent's chunks go: into its slab, if it has one, and onto the disk.
pub(crate) struct AgentKeeper {
    parts: Mutex<Parts>,
}

#[derive(Default)]
struct Parts {
    slab: Option<Slab>,
    image: Option<(Digest, Writer)>,
    /// Objects that have no slab to go to: those of the boot bundle.
    held: std::collections::BTreeMap<(Digest, ChunkId), Bytes>,
}

impl AgentKeeper {
    pub(crate) fn new() -> Self {
        Self {
            parts: Mutex::default(),
        }
    }

    fn parts(&self) -> MutexGuard<'_, Parts> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_slab(&self, slab: Slab) {
        self.parts().slab = Some(slab);
    }

    pub(crate) fn set_image(&self, digest: Digest, writer: Writer) {
        self.parts().image = Some((digest, writer));
    }

    fn writer(&self, digest: &Digest) -> Option<Writer> {
        self.parts()
            .image
            .as_ref()
            .filter(|(d, _)| d == digest)
            .map(|(_, w)| w.clone())
    }
}

impl ChunkKeeper for AgentKeeper {
    fn keep(
        &self,
        manifest: &Verified<Manifest>,
        chunk: ChunkId,
        arrived: Arrived,
        permit: OwnedSemaphorePermit,
        kept: Kept,
    ) {
        let digest = manifest.digest();
        let slab = self.parts().slab.clone();
        if let Some(writer) = self.writer(&digest) {
            writer.push(Job {
                chunk,
                arrived,
                slab,
                _permit: permit,
                kept,
            });
            return;
        }
        if slab.is_some() {
            tokio::task::spawn_blocking(move || {
                let _ = kept.send(keep_for_others(slab.as_ref(), &arrived));
                drop(permit);
            });
            return;
        }
        if let Arrived::Object(object) = &arrived {
            let bytes = object.to_bytes();
            self.parts().held.insert((digest, chunk), bytes);
        }
        let _ = kept.send(Ok(()));
    }

    fn holds(&self, manifest: &Verified<Manifest>, chunk: ChunkId) -> bool {
        match self.writer(&manifest.digest()) {
            Some(writer) => writer.look(|install| !install.needs(chunk)),
            None => {
                let slab = self.parts().slab.clone();
                slab.is_some_and(|s| {
                    manifest
                        .chunk(chunk)
                        .is_some_and(|c| s.holds(&c.hash, Form::Object))
                })
            }
        }
    }

    fn open(
        &self,
        manifest: &Verified<Manifest>,
        chunk: ChunkId,
        _: Form,
    ) -> Option<(Form, Bytes)> {
        let record = manifest.chunk(chunk)?;
        let (slab, held) = {
            let parts = self.parts();
            (
                parts.slab.clone(),
                parts.held.get(&(manifest.digest(), chunk)).cloned(),
            )
        };
        if let Some(object) = held.or_else(|| slab.and_then(|s| s.read(record))) {
            return Some((Form::Object, object));
        }
        let writer = self.writer(&manifest.digest())?;
        let place = manifest.layout.iter().find(|p| p.chunk == chunk)?;
        let mut buffer = AlignedBuffer::new(CHUNK_BYTES);
        let bytes = record.bytes as usize;
        writer
            .target()
            .read(
                &mut buffer.as_mut()[..bytes],
                u64::from(place.index) * CHUNK_BYTES as u64,
            )
            .ok()?;
        // not written yet, or an edge of the disk that comes last
        let plain = VerifiedChunk::check_plain(record, buffer).ok()?;
        let mut codec = ChunkCodec::new(REBUILT_LEVEL).ok()?;
        let frame = image_format::encode_object(plain.plain(), &mut codec).ok()?;
        Some((Form::Rebuilt, frame.bytes))
    }

    fn assign(&self, manifests: &[Verified<Manifest>]) {
        if let Some(slab) = self.parts().slab.clone() {
            ChunkKeeper::assign(&slab, manifests);
        }
    }

    fn sync(&self) -> std::io::Result<()> {
        self.parts().slab.clone().map_or(Ok(()), |slab| slab.sync())
    }

    fn free_bytes(&self) -> u64 {
        0
    }
}
