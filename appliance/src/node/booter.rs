//! Boot files out of the cache, and who may have them.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use boot_proto::dhcp::{BootAnswer, BootClient};
use boot_server::{BootEvent, BootFile, Booter};
use image_format::{BundleFile, CHUNK_BYTES, ChunkCodec, Manifest, VerifiedObject};
use peer_cache_node::{PeerCache, Site};
use peer_cache_proto::{
    admission::{Admission, Applicant},
    machine::MachineFacts,
    recognition::{Recognised, Recognition},
};
use trust_format::{Digest, PublicKey, Verified};
use web_api::{Hex, NodeReport};

use super::reports::Reports;

/// Unpacked chunks of boot files that are kept, 1 MiB each: machines that boot at the same time read the same ones.
const CHUNKS_MAX: usize = 8;
/// Offers that HQ is told of at once, and how often one more: each is written to the disk, and anybody can ask for an offer.
const OFFERS_TOLD_MAX: u32 = 64;
const OFFER_TOLD_EVERY: Duration = Duration::from_secs(10);

/// Answers firmware on behalf of the peer cache.
pub(crate) struct CacheBooter {
    cache: PeerCache,
    reports: Reports,
    chunks: Arc<Chunks>,
    offers: Mutex<Offers>,
}

impl CacheBooter {
    pub(crate) fn new(cache: PeerCache, reports: Reports) -> Self {
        Self {
            cache,
            reports,
            chunks: Arc::default(),
            offers: Mutex::new(Offers::new(Instant::now())),
        }
    }

    /// The site's boot bundle, when all of it is here.
    fn bundle(&self) -> Option<Digest> {
        let digest = self.cache.site(|s| s.channel().and_then(|c| c.bundle))?;
        let (held, all) = self.cache.held(&digest)?;
        (held == all).then_some(digest)
    }

    fn told(&self, client: &BootClient, message: String) {
        let mut offers = self.offers.lock().unwrap_or_else(PoisonError::into_inner);
        if !offers.is_told(Instant::now()) {
            return;
        }
        drop(offers);
        self.reports.add(NodeReport::Boot {
            mac: Hex(client.mac.0),
            uuid: client.uuid.map(|u| Hex(u.smbios_order())),
            message,
        });
    }
}

impl Booter for CacheBooter {
    fn answer(&self, client: &BootClient) -> BootAnswer {
        if self.bundle().is_none() {
            return BootAnswer::Ignore("this node has no complete boot bundle yet".into());
        }
        let Some(who) = self.cache.site(|site| recognise(site, client)) else {
            return BootAnswer::Ignore("the machine says nothing of itself".into());
        };
        let applicant = Applicant::plain(who);
        let admission = self
            .cache
            .site(|s| s.channel().map(|c| s.book().admit(&applicant, c)));
        match admission {
            // it has just said so itself, and starts again
            Some(_) if self.cache.disk_says_done(&who.machine) => BootAnswer::LocalDisk,
            // a machine that waits does so in the agent, where a person can read why
            Some(
                Admission::Granted(_)
                | Admission::Wait
                | Admission::Pin
                | Admission::Doubtful(_)
                | Admission::EraseUnsure,
            ) => BootAnswer::Agent,
            Some(Admission::Done { .. } | Admission::NoOrder | Admission::Unknown) => {
                BootAnswer::LocalDisk
            }
            None => BootAnswer::Ignore("this node has no channel yet".into()),
        }
    }

    fn open(&self, name: &str) -> Option<Arc<dyn BootFile>> {
        let manifest = self.cache.shared_manifest(&self.bundle()?)?;
        let file = manifest.file(name)?.clone();
        Some(Arc::new(CachedFile {
            cache: self.cache.clone(),
            manifest,
            file,
            chunks: self.chunks.clone(),
        }))
    }

    fn event(&self, event: BootEvent) {
        match event {
            BootEvent::Offered { client, file } => {
                tracing::info!(mac = %client.mac, file, "offered a boot file");
                self.told(
                    &client,
                    format!("asked for a boot file and was offered {file}"),
                );
            }
            BootEvent::TransferFinished {
                peer,
                file,
                size_bytes,
                took,
                ..
            } => {
                tracing::info!(%peer, file, size_bytes, seconds = took.as_secs_f64(), "sent a boot file");
            }
            BootEvent::TransferFailed {
                peer, file, reason, ..
            } => {
                tracing::info!(%peer, file, reason, "a boot file was not sent to its end");
            }
            BootEvent::ForeignServer { interface, server } => {
                let ours = self
                    .cache
                    .peers()
                    .iter()
                    .any(|p| p.address.ip() == std::net::IpAddr::V4(server.server));
                if !ours {
                    tracing::warn!(interface, ?server, "another boot server answers here");
                }
            }
            other => tracing::debug!(?other, "boot"),
        }
    }
}

/// Which machine a firmware's request comes from. The UUID in option 97 is in the order of SMBIOS or in that of the wire, as the
/// firmware's maker read RFC 4578: the one that the site knows counts.
fn recognise(site: &Site, client: &BootClient) -> Option<Recognised> {
    let of = |uuid: Option<[u8; 16]>| {
        let facts = MachineFacts::new(uuid, None, &[client.mac.0], "");
        // firmware has no key: nobody's code is its
        site.recognise(&facts, None, &PublicKey([0; 32]))
    };
    let is_known = |who: &Recognised| {
        !matches!(
            who.recognition,
            Recognition::Newcomer | Recognition::Unknown
        ) || site.book().has_heard_of(&who.machine)
    };
    let Some(uuid) = client.uuid else {
        return of(None);
    };
    let printed = of(Some(uuid.smbios_order()));
    let swapped = of(Some(uuid.wire_order())).filter(is_known);
    match printed {
        Some(printed) if is_known(&printed) => Some(printed),
        printed => swapped.or(printed),
    }
}

/// How many offers may still be told of.
struct Offers {
    left: u32,
    since: Instant,
}

impl Offers {
    fn new(now: Instant) -> Self {
        Self {
            left: OFFERS_TOLD_MAX,
            since: now,
        }
    }

    fn is_told(&mut self, now: Instant) -> bool {
        while self.left < OFFERS_TOLD_MAX && now - self.since >= OFFER_TOLD_EVERY {
            self.left += 1;
            self.since += OFFER_TOLD_EVERY;
        }
        if self.left == OFFERS_TOLD_MAX {
            self.since = now;
        }
        let told = self.left > 0;
        self.left = self.left.saturating_sub(1);
        told
    }
}

/// Chunks of one bundle that were read last, by manifest and index. One is unpacked at a time, however many ask.
#[derive(Default)]
struct Chunks(Mutex<VecDeque<UnpackedChunk>>);

struct UnpackedChunk {
    of: (Digest, u64),
    plain: Vec<u8>,
}

impl Chunks {
    /// Calls `read` with the chunk; `unpack` makes it if it is not here.
    fn with(
        &self,
        of: (Digest, u64),
        unpack: impl FnOnce() -> io::Result<Vec<u8>>,
        read: impl FnOnce(&[u8]),
    ) -> io::Result<()> {
        let mut chunks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let chunk = match chunks.iter().position(|c| c.of == of) {
            Some(at) => chunks.remove(at),
            None => None,
        };
        let chunk = match chunk {
            Some(chunk) => chunk,
            None => UnpackedChunk {
                of,
                plain: unpack()?,
            },
        };
        read(&chunk.plain);
        // the one that was not read for longest goes
        chunks.push_back(chunk);
        if chunks.len() > CHUNKS_MAX {
            chunks.pop_front();
        }
        Ok(())
    }
}

/// A file of the boot bundle, unpacked chunk by chunk as it is read.
struct CachedFile {
    cache: PeerCache,
    manifest: Arc<Verified<Manifest>>,
    file: BundleFile,
    chunks: Arc<Chunks>,
}

impl BootFile for CachedFile {
    fn len(&self) -> u64 {
        self.file.bytes
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.file.bytes.saturating_sub(offset)).unwrap_or(usize::MAX);
        let within = usize::try_from(offset % CHUNK_BYTES as u64).map_err(io::Error::other)?;
        let count = buffer.len().min(left).min(CHUNK_BYTES - within);
        let index = (self.file.offset + offset) / CHUNK_BYTES as u64;
        self.chunks.with(
            (self.manifest.digest(), index),
            || self.chunk(index),
            |plain| buffer[..count].copy_from_slice(&plain[within..within + count]),
        )?;
        Ok(count)
    }
}

impl CachedFile {
    /// A chunk's plain bytes, zeros behind its end.
    fn chunk(&self, index: u64) -> io::Result<Vec<u8>> {
        let place = self
            .manifest
            .layout
            .iter()
            .find(|p| u64::from(p.index) == index);
        let Some(place) = place else {
            return Ok(vec![0; CHUNK_BYTES]);
        };
        let record = self
            .manifest
            .chunk(place.chunk)
            .ok_or(io::ErrorKind::InvalidData)?;
        let object = self
            .cache
            .object(&self.manifest, place.chunk)
            .ok_or(io::ErrorKind::NotFound)?;
        let object = VerifiedObject::check(record, object).map_err(io::Error::other)?;
        let mut codec = ChunkCodec::new(1)?;
        let chunk = object
            .unpack(&mut codec, vec![0; CHUNK_BYTES])
            .map_err(io::Error::other)?;
        Ok(chunk.into_buffer())
    }
}

#[cfg(test)]
mod tests {
    use boot_proto::dhcp::{ClientUuid, MacAddress, Transport};
    use image_store::Signer;
    use peer_cache_proto::wire::Documents;
    use trust_format::{Channel, HqContact, KnownMachine, Roster, SiteId, UnknownRule};

    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const PRINTED: [u8; 16] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];

    fn site_that_knows(uuid: [u8; 16]) -> Site {
        let folder = tempfile::TempDir::new().unwrap();
        let signer = Signer::open_or_create(folder.path()).unwrap();
        let facts = MachineFacts::new(Some(uuid), None, &[MAC], "");
        let id = SiteId([1; 16]);
        let channel = Channel {
            site: id,
            site_name: String::new(),
            number: 1,
            image: None,
            bundle: None,
            release_floor: 0,
            revocation: 0,
            revoked: vec![],
            unknown: UnknownRule::Refuse,
            provisional: true,
            hq: HqContact {
                urls: vec![],
                fingerprint: [0; 32],
            },
        };
        let roster = Roster {
            site: id,
            number: 1,
            machines: vec![KnownMachine {
                id: facts.id().unwrap(),
                approved: true,
                signs: [facts.strong_signs(), facts.mac_signs()].concat(),
                tpm: None,
                code: None,
            }],
            shared: vec![],
            pin: None,
        };
        let mut site = Site::new(signer.trusted());
        site.learn(&Documents {
            channel: Some(signer.sign_channel(&channel).unwrap().as_bytes().to_vec()),
            roster: Some(signer.sign_roster(&roster).unwrap().as_bytes().to_vec()),
            ..Documents::default()
        });
        site
    }

    fn firmware(uuid: ClientUuid) -> BootClient {
        BootClient {
            mac: MacAddress(MAC),
            uuid: Some(uuid),
            architecture: 7,
            transport: Transport::Tftp,
            vendor_class: String::new(),
            user_class: String::new(),
        }
    }

    #[test]
    fn a_few_offers_are_told_at_once_and_then_one_now_and_then() {
        let begun = Instant::now();
        let mut offers = Offers::new(begun);
        let mut told = |now| (0..1000).filter(|_| offers.is_told(now)).count();
        assert_eq!(told(begun), 64);
        assert_eq!(told(begun + Duration::from_secs(9)), 0);
        assert_eq!(told(begun + Duration::from_secs(35)), 3);
        assert_eq!(told(begun + Duration::from_secs(7200)), 64);
    }

    #[test]
    fn chunks_are_unpacked_once_and_few_are_kept() {
        let chunks = Chunks::default();
        let mut unpacked = 0;
        let mut read = |n: u64| {
            let mut seen = Vec::new();
            let unpack = || {
                unpacked += 1;
                Ok(n.to_be_bytes().to_vec())
            };
            chunks
                .with((Digest([1; 32]), n), unpack, |plain| seen = plain.to_vec())
                .unwrap();
            assert_eq!(seen, n.to_be_bytes());
        };
        (0..8).chain(0..8).for_each(&mut read);
        read(8);
        // the first was read longest ago
        (1..8).for_each(&mut read);
        read(0);
        assert_eq!(unpacked, 10);
        assert_eq!(chunks.0.lock().unwrap().len(), CHUNKS_MAX);
        // one that cannot be unpacked leaves nothing behind
        let broken = || Err(io::ErrorKind::NotFound.into());
        assert!(chunks.with((Digest([2; 32]), 0), broken, |_| ()).is_err());
    }

    /// Makers read RFC 4578 both ways, and some boards differ from what they print.
    #[test]
    fn a_machine_is_known_by_its_uuid_in_either_order() {
        let site = site_that_knows(PRINTED);
        let as_it_should_be = ClientUuid::from_wire(ClientUuid::from_wire(PRINTED).smbios_order());
        let swapped = ClientUuid::from_wire(PRINTED);
        for uuid in [as_it_should_be, swapped] {
            let who = recognise(&site, &firmware(uuid)).unwrap();
            assert_eq!(who.recognition, Recognition::Signs, "{uuid:?}");
            assert!(who.approved);
        }
        // neither is known: as it is printed, which is what the agent will say
        let other = ClientUuid::from_wire([9; 16]);
        let who = recognise(&site, &firmware(other)).unwrap();
        let agents = MachineFacts::new(Some(other.smbios_order()), None, &[MAC], "");
        assert_eq!(Some(who.machine), agents.id());
        assert!(!who.approved);
    }
}
