//! Which chunks this node keeps when it cannot hold everything: the shell around `peer_cache_proto::spread`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use image_format::{ChunkHash, ChunkId, ManifestKind};
use peer_cache_proto::{
    PeerId,
    download::Wishes,
    spread::{Action, MayGo, Piece, Placement, Spread, Word},
    wire::{Credentials, Frame, HAVE_RANGES_MAX, Members, PartRanges},
};
use trust_format::{Digest, MachineId, NodeCertificate, peek};

use crate::{
    download,
    session::join_everywhere,
    share::{Share, SwarmEvent},
    shared::{Peer, Shared, Standing, lock},
};

/// How often the view of the site is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often what counts as held is compared with what is in the slab: what was evicted is told, but not without end.
const COMPARE_EVERY: Duration = Duration::from_secs(10);
/// How often it is written down although nobody came or went: how long somebody is away matters by the day.
const REMEMBER_EVERY: Duration = Duration::from_secs(3600);

/// Who keeps what, as this node sees it. Empty in an agent, which keeps what it installs.
#[derive(Default)]
pub(crate) struct Sharing {
    me: Option<MachineId>,
    view: Option<Spread>,
    /// What live nodes said of their own room.
    rooms: BTreeMap<MachineId, u64>,
    pieces: Arc<BTreeMap<ChunkHash, Piece>>,
    /// `None` before the view has settled.
    placement: Option<Arc<Placement>>,
    /// By manifest: chunks that may go.
    spare: BTreeMap<Digest, BTreeMap<ChunkHash, MayGo>>,
    remembered: Option<(Duration, Vec<(MachineId, u64)>)>,
}

impl Sharing {
    fn digest(&self) -> u64 {
        self.placement.as_ref().map_or(0, |p| p.digest())
    }

    /// Whether this node has no room for everything.
    fn is_partial(&self, room: Option<u64>) -> bool {
        let total: u64 = self.pieces.values().map(|p| p.bytes).sum();
        room.is_some_and(|room| room < total)
    }
}

/// The machine that a node runs on.
fn machine_of(peer: &Peer) -> Option<MachineId> {
    match peer.standing() {
        Standing::Node(member) => Some(member.node.certificate().machine),
        Standing::Agent(_) | Standing::Lapsed(_) | Standing::Stranger => None,
    }
}

/// Keeps the view of the site until the program ends.
pub(crate) async fn run(shared: Arc<Shared>) {
    let certificate = match &*lock(&shared.credentials) {
        Credentials::Node { certificate, .. } => certificate.clone(),
        Credentials::Agent { .. } => return,
    };
    let Ok(certificate) = peek::<NodeCertificate>(&certificate) else {
        return;
    };
    let Some(room) = shared.keeper.room_bytes() else {
        return;
    };
    let mut view = Spread::new(shared.now(), certificate.machine, room);
    let known = lock(&shared.site).members();
    if let Some(known) = known.and_then(|bytes| Members::from_bytes(&bytes).ok()) {
        view.handle_words(shared.now(), &known.words);
    }
    {
        let mut sharing = lock(&shared.sharing);
        (sharing.me, sharing.view) = (Some(certificate.machine), Some(view));
    }
    let mut every = tokio::time::interval(LOOK_EVERY);
    let mut compared = shared.now();
    loop {
        every.tick().await;
        look(&shared).await;
        if shared.now() >= compared + COMPARE_EVERY {
            compared = shared.now();
            let shared = shared.clone();
            // thousands of looks into the slab; without a thread for them there is another time
            let _ = tokio::task::spawn_blocking(move || compare_with_slab(&shared)).await;
        }
    }
}

async fn look(shared: &Arc<Shared>) {
    let (actions, words) = {
        let mut sharing = lock(&shared.sharing);
        let sharing = &mut *sharing;
        let Some(view) = &mut sharing.view else {
            return;
        };
        let now = shared.now();
        let live = live_rooms(shared, &sharing.rooms);
        view.handle_room(shared.keeper.room_bytes().unwrap_or(u64::MAX));
        view.handle_live(now, &live);
        view.handle_timeout(now);
        let actions: Vec<Action> = std::iter::from_fn(|| view.poll_action()).collect();
        (actions, view.words(now))
    };
    if actions.contains(&Action::Place) {
        place(shared).await;
    }
    if actions.contains(&Action::Tell) {
        for peer in shared.peers().iter().filter(|p| p.is_node()) {
            tell(shared, peer);
        }
        remember(shared, words);
    }
    take_back_what_was_evicted(shared);
    for share in shared.shares() {
        wish(shared, &share);
    }
}

fn live_rooms(shared: &Shared, rooms: &BTreeMap<MachineId, u64>) -> BTreeMap<MachineId, u64> {
    let peers = shared.peers();
    let members = peers
        .iter()
        .filter(|p| shared.may_be_served(p))
        .filter_map(|p| machine_of(p));
    members
        .filter_map(|member| Some((member, *rooms.get(&member)?)))
        .collect()
}

/// Computes the placement anew. Nothing may go until all go by the same one.
async fn place(shared: &Arc<Shared>) {
    let (members, pieces) = {
        let sharing = lock(&shared.sharing);
        let members = sharing.view.as_ref().and_then(|v| v.members().cloned());
        let Some(members) = members else { return };
        (members, sharing.pieces.clone())
    };
    let placed = tokio::task::spawn_blocking(move || Placement::of(&members, &pieces)).await;
    let Ok(placement) = placed else { return };
    let mut sharing = lock(&shared.sharing);
    tracing::debug!(digest = placement.digest(), "a placement");
    if placement.digest() != sharing.digest() {
        // before others hear of it: they count on what this node held under the old one
        sharing.spare.clear();
        shared.keeper.let_go(BTreeMap::new());
    }
    sharing.placement = Some(Arc::new(placement));
}

/// Room that everything takes which is assigned.
pub(crate) fn assigned_bytes(shared: &Shared) -> u64 {
    lock(&shared.sharing).pieces.values().map(|p| p.bytes).sum()
}

/// The assigned versions changed.
pub(crate) fn handle_versions(shared: &Arc<Shared>) {
    let mut pieces: BTreeMap<ChunkHash, Piece> = BTreeMap::new();
    let shares = shared.shares();
    for share in &shares {
        let everywhere = share.manifest.kind != ManifestKind::Image;
        for record in &share.manifest.chunks {
            let piece = pieces.entry(record.hash).or_insert(Piece {
                bytes: shared.keeper.bytes_of(record),
                everywhere: false,
            });
            piece.everywhere |= everywhere;
        }
    }
    {
        let mut sharing = lock(&shared.sharing);
        sharing.pieces = Arc::new(pieces);
        sharing.spare.clear();
        shared.keeper.let_go(BTreeMap::new());
        if let Some(view) = &mut sharing.view {
            view.handle_versions();
        }
    }
    for share in shares {
        wish(shared, &share);
    }
}

/// Tells a node who shares the site's chunks, and which placement this one goes by.
pub(crate) fn tell(shared: &Shared, peer: &Peer) {
    let members = {
        let sharing = lock(&shared.sharing);
        let Some(view) = &sharing.view else { return };
        Members {
            placement: sharing.digest(),
            words: view.words(shared.now()),
        }
    };
    peer.send(Frame::Members(members));
}

/// A node said who shares the site's chunks.
pub(crate) fn handle_members(shared: &Shared, peer: &Peer, members: &Members) {
    let Some(member) = machine_of(peer) else {
        return;
    };
    let mut sharing = lock(&shared.sharing);
    let sharing = &mut *sharing;
    let Some(view) = &mut sharing.view else {
        return;
    };
    if let Some(word) = members.words.iter().find(|word| word.member == member) {
        sharing.rooms.insert(member, word.room_bytes);
    }
    view.handle_words(shared.now(), &members.words);
    view.handle_placement_of(member, members.placement);
}

/// A connection ended: what was said on it counts no longer.
pub(crate) fn handle_gone(shared: &Shared, peer: &Peer) {
    let Some(member) = machine_of(peer) else {
        return;
    };
    let revoked = !shared.may_be_served(peer);
    let mut sharing = lock(&shared.sharing);
    sharing.rooms.remove(&member);
    if let Some(view) = sharing.view.as_mut().filter(|_| revoked) {
        view.handle_revoked(&member);
    }
}

fn remember(shared: &Shared, words: Vec<Word>) {
    let (now, who) = (
        shared.now(),
        words.iter().map(|w| (w.member, w.room_bytes)).collect(),
    );
    let fresh = |at: &Duration| now < *at + REMEMBER_EVERY;
    let mut sharing = lock(&shared.sharing);
    let remembered = &mut sharing.remembered;
    if remembered
        .as_ref()
        .is_some_and(|(at, known)| fresh(at) && *known == who)
    {
        return;
    }
    *remembered = Some((now, who));
    drop(sharing);
    let placement = 0;
    lock(&shared.site).save_members(&Members { placement, words }.to_bytes());
}

/// What is to be here of a manifest and what others want; sees to it that the download knows, and that it runs.
fn wish(shared: &Arc<Shared>, share: &Arc<Share>) {
    let wishes = wishes(shared, share);
    let partial = wishes.is_some();
    if share.set_wishes(wishes.clone()) {
        if let Some(events) = share.download() {
            // one that is too busy hears of it at the next look
            if events.try_send(SwarmEvent::Wishes(wishes)).is_err() {
                share.set_wishes(None);
            }
        }
        if partial && share.set_source(false) {
            join_everywhere(shared, share);
        }
    }
    if partial {
        download::start(shared, share);
    }
}

fn wishes(shared: &Shared, share: &Share) -> Option<Wishes> {
    let room = shared.keeper.room_bytes();
    let (me, placement, live) = {
        let sharing = lock(&shared.sharing);
        if !sharing.is_partial(room) {
            return None;
        }
        let live = sharing.view.as_ref().map(|view| view.live().clone());
        (
            sharing.me,
            sharing.placement.clone(),
            live.unwrap_or_default(),
        )
    };
    let (Some(me), Some(placement)) = (me, placement) else {
        return Some(Wishes::default());
    };
    let peers = shared.peers();
    let served = || peers.iter().filter(|p| shared.may_be_served(p));
    let chunks = || (0u32..).map(ChunkId).zip(&share.manifest.chunks);
    let kept_by = |member: &MachineId| {
        chunks()
            .filter(|(_, record)| placement.keeps(member, &record.hash))
            .map(|(chunk, _)| chunk)
            .collect::<BTreeSet<ChunkId>>()
    };
    Some(Wishes {
        mine: kept_by(&me),
        of_nodes: live.iter().flat_map(kept_by).collect(),
        nodes: served().filter(|p| p.is_node()).map(|p| p.id).collect(),
        agents: served().any(|p| !p.is_node() && share.has_joined(p.id)),
    })
}

/// Tells the keeper what of a manifest may go: what others keep, and have.
pub(crate) fn let_go(shared: &Shared, share: &Share, has: impl Fn(ChunkId, PeerId) -> bool) {
    let peers = shared.peers();
    let nodes: Vec<(MachineId, PeerId)> = peers
        .iter()
        .filter_map(|peer| Some((machine_of(peer)?, peer.id)))
        .collect();
    let held = share.held_chunks();
    let mut sharing = lock(&shared.sharing);
    let sharing = &mut *sharing;
    let agreed = sharing.placement.as_ref().filter(|placement| {
        let view = sharing.view.as_ref();
        view.is_some_and(|view| view.agrees(placement.digest()))
    });
    let spare: BTreeMap<ChunkHash, MayGo> = match (agreed, sharing.me) {
        (None, _) | (_, None) => BTreeMap::new(),
        (Some(placement), Some(me)) => held
            .into_iter()
            .filter_map(|chunk| Some((chunk, share.manifest.chunk(chunk)?.hash)))
            .filter(|(_, hash)| !placement.keeps(&me, hash))
            .map(|(chunk, hash)| {
                let holders = nodes.iter().filter(|(_, id)| has(chunk, *id));
                let holders = holders.map(|(member, _)| *member).collect();
                (hash, placement.may_go(&me, &hash, &holders))
            })
            .collect(),
    };
    let digest = share.digest();
    if sharing
        .spare
        .get(&digest)
        .is_some_and(|before| *before == spare)
    {
        return;
    }
    sharing.spare.insert(digest, spare);
    let all = sharing.spare.values().flatten();
    shared
        .keeper
        .let_go(all.map(|(hash, may)| (*hash, *may)).collect());
}

/// What was evicted is announced no longer.
fn take_back_what_was_evicted(shared: &Arc<Shared>) {
    let evicted: BTreeSet<ChunkHash> = shared.keeper.evicted().into_iter().collect();
    if evicted.is_empty() {
        return;
    }
    for share in shared.shares() {
        let chunks = (0u32..).map(ChunkId).zip(&share.manifest.chunks);
        let lost: Vec<ChunkId> = chunks
            .filter(|(chunk, record)| {
                evicted.contains(&record.hash)
                    && !shared.keeper.holds(&share.manifest, *chunk)
                    && !share.is_passing(*chunk)
                    && share.lose(*chunk)
            })
            .map(|(chunk, _)| chunk)
            .collect();
        tell_lost(shared, &share, &lost);
    }
}

/// What counts as held and is not in the slab is lost, and what is in the slab and does not count as held is here.
fn compare_with_slab(shared: &Arc<Shared>) {
    for share in shared.shares().iter().filter(|share| share.is_partial()) {
        let (mut lost, mut found) = (Vec::new(), Vec::new());
        for chunk in (0..share.chunk_count()).map(ChunkId) {
            let is_here = shared.keeper.holds(&share.manifest, chunk);
            match share.holds(chunk) {
                true if !is_here && !share.is_passing(chunk) && share.lose(chunk) => {
                    lost.push(chunk);
                }
                false if is_here => {
                    share.hold(chunk);
                    found.push(chunk);
                }
                _ => {}
            }
        }
        if !lost.is_empty() || !found.is_empty() {
            let (lost, found) = (lost.len(), found.len());
            tracing::warn!(
                lost,
                found,
                "what counted as held was not what the slab holds"
            );
        }
        tell_lost(shared, share, &lost);
        if let Some(events) = share.download() {
            for chunk in found {
                // the next comparison finds what is not told
                let _ = events.try_send(SwarmEvent::Local { chunk });
            }
        }
    }
}

fn tell_lost(shared: &Shared, share: &Share, lost: &[ChunkId]) {
    announce_lost(shared, share, lost);
    if let Some(events) = share.download() {
        for chunk in lost {
            // one that is too busy learns it when the chunk is asked for
            let _ = events.try_send(SwarmEvent::Lost { chunk: *chunk });
        }
    }
}

/// Chunks are here no longer.
pub(crate) fn announce_lost(shared: &Shared, share: &Share, chunks: &[ChunkId]) {
    if chunks.is_empty() {
        return;
    }
    let parts = chunks.iter().flat_map(|chunk| share.table.parts_of(*chunk));
    let ranges = PartRanges::of(&parts.collect::<Vec<_>>());
    for peer in shared.peers() {
        for some in ranges.0.chunks(HAVE_RANGES_MAX) {
            if shared.may_be_served(&peer) {
                peer.send(Frame::Lost {
                    manifest: share.digest(),
                    parts: PartRanges(some.to_vec()),
                });
            }
        }
    }
}
