//! Boot files out of the cache, and who may have them.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
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

/// Answers firmware on behalf of the peer cache.
pub(crate) struct CacheBooter {
    cache: PeerCache,
    reports: Reports,
}

impl CacheBooter {
    pub(crate) fn new(cache: PeerCache, reports: Reports) -> Self {
        Self { cache, reports }
    }

    /// The site's boot bundle, when all of it is here.
    fn bundle(&self) -> Option<Digest> {
        let digest = self.cache.site(|s| s.channel().and_then(|c| c.bundle))?;
        let (held, all) = self.cache.held(&digest)?;
        (held == all).then_some(digest)
    }

    fn told(&self, client: &BootClient, message: String) {
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
            last: Mutex::default(),
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

/// A file of the boot bundle, unpacked chunk by chunk as it is read.
struct CachedFile {
    cache: PeerCache,
    manifest: Arc<Verified<Manifest>>,
    file: BundleFile,
    /// The chunk that was read last: firmware reads in small steps.
    last: Mutex<Option<(u64, Vec<u8>)>>,
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
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.as_ref().is_none_or(|(at, _)| *at != index) {
            *last = Some((index, self.chunk(index)?));
        }
        if let Some((_, plain)) = &*last {
            buffer[..count].copy_from_slice(&plain[within..within + count]);
        }
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
