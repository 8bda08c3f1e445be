//! What each document says.

use std::{fmt, time::Duration};

use crate::{
    codec::{DecodeError, Reader, Writer},
    document::{Digest, Document, DocumentKind, SignerRole},
    keys::PublicKey,
};

const KEYS_MAX: usize = 16;
const NAME_BYTES_MAX: usize = 128;
const HQ_URLS_MAX: usize = 4;
const URL_BYTES_MAX: usize = 512;
const TICKET_BYTES_MAX: usize = 512;
/// Longest node certificate with its signature.
pub const CERTIFICATE_BYTES_MAX: usize = 768;
/// Most machines that one voucher admits.
pub const VOUCHER_MACHINES_MAX: u16 = 256;
/// Most keys that one channel names as revoked.
pub const CHANNEL_REVOKED_MAX: usize = 16_384;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl std::str::FromStr for $name {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                let bad = || format!("{text:?} is not 32 hexadecimal digits");
                if text.len() != 32 || !text.is_ascii() {
                    return Err(bad());
                }
                let mut out = [0; 16];
                for (i, byte) in out.iter_mut().enumerate() {
                    *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).map_err(|_| bad())?;
                }
                Ok(Self(out))
            }
        }
    };
}

id!(
    /// A store's network, named by HQ at random.
    SiteId
);
id!(
    /// A machine to be imaged, derived from what its firmware says of itself.
    MachineId
);

/// The document that names every other key. Signed by `threshold` of `root_keys`, and by as many of the root before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// Only grows.
    pub number: u64,
    /// How many of `root_keys` must sign, at least 1.
    pub threshold: u8,
    /// Sign roots.
    pub root_keys: Vec<PublicKey>,
    /// Sign manifests.
    pub image_keys: Vec<PublicKey>,
    /// Sign channels and orders.
    pub order_keys: Vec<PublicKey>,
    /// Certify nodes.
    pub authority_keys: Vec<PublicKey>,
}

fn put_keys(out: &mut Writer, keys: &[PublicKey]) {
    out.count(keys.len());
    for key in keys {
        out.raw(&key.0);
    }
}

fn read_keys(
    input: &mut Reader<'_>,
    max: usize,
    field: &'static str,
) -> Result<Vec<PublicKey>, DecodeError> {
    let count = input.count(max, 32, field)?;
    (0..count)
        .map(|_| Ok(PublicKey(input.array(field)?)))
        .collect()
}

fn put_digest(out: &mut Writer, digest: Option<Digest>) {
    out.flag(digest.is_some());
    if let Some(digest) = digest {
        out.raw(&digest.0);
    }
}

fn read_digest(input: &mut Reader<'_>, field: &'static str) -> Result<Option<Digest>, DecodeError> {
    Ok(match input.flag(field)? {
        true => Some(Digest(input.array(field)?)),
        false => None,
    })
}

impl Document for Root {
    const KIND: DocumentKind = DocumentKind::Root;
    const VERSION: u8 = 1;
    const PAYLOAD_BYTES_MAX: usize = 4 * KEYS_MAX * 32 + 64;
    const SIGNER: SignerRole = SignerRole::Root;

    fn encode(&self, out: &mut Writer) {
        out.u64(self.number).u8(self.threshold);
        put_keys(out, &self.root_keys);
        put_keys(out, &self.image_keys);
        put_keys(out, &self.order_keys);
        put_keys(out, &self.authority_keys);
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let number = input.u64("root number")?;
        let threshold = input.u8("threshold")?;
        let root_keys = read_keys(input, KEYS_MAX, "root keys")?;
        if threshold == 0 || usize::from(threshold) > root_keys.len() {
            return Err(input.bad("threshold", 1, threshold.into()));
        }
        Ok(Self {
            number,
            threshold,
            root_keys,
            image_keys: read_keys(input, KEYS_MAX, "image keys")?,
            order_keys: read_keys(input, KEYS_MAX, "order keys")?,
            authority_keys: read_keys(input, KEYS_MAX, "authority keys")?,
        })
    }
}

/// What happens to a machine that the site does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownRule {
    /// It waits until a person approves it. The default.
    Wait,
    /// It is imaged under the site's standing order.
    Admit,
    /// It is imaged when somebody types the site's PIN at it, and else waits.
    Pin,
    /// It is sent to its own disk.
    Refuse,
}

/// Where a site's nodes find HQ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HqContact {
    /// Base addresses such as `https://hq.example:8443`, tried in order; at most 4.
    pub urls: Vec<String>,
    /// BLAKE3 of HQ's certificate in DER.
    pub fingerprint: [u8; 32],
}

/// What a site means now. Its number only grows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Channel {
    /// For this site alone.
    pub site: SiteId,
    /// The site's name for people.
    pub site_name: String,
    /// Only grows.
    pub number: u64,
    /// The image version of the site, if it has one.
    pub image: Option<Digest>,
    /// The boot bundle of the site, if it has one.
    pub bundle: Option<Digest>,
    /// Manifests with a lower release are refused, whoever orders them.
    pub release_floor: u64,
    /// Number of the revocation list; only grows.
    pub revocation: u64,
    /// Keys of nodes that are no longer believed.
    pub revoked: Vec<PublicKey>,
    /// What happens to machines that the roster does not approve.
    pub unknown: UnknownRule,
    /// Whether nodes may certify the machines that they admitted while HQ is away.
    pub provisional: bool,
    /// Where HQ is.
    pub hq: HqContact,
}

impl Document for Channel {
    const KIND: DocumentKind = DocumentKind::Channel;
    const VERSION: u8 = 2;
    const PAYLOAD_BYTES_MAX: usize = CHANNEL_REVOKED_MAX * 32 + HQ_URLS_MAX * URL_BYTES_MAX + 1024;
    const SIGNER: SignerRole = SignerRole::Order;

    fn encode(&self, out: &mut Writer) {
        out.raw(&self.site.0)
            .bytes(self.site_name.as_bytes())
            .u64(self.number);
        put_digest(out, self.image);
        put_digest(out, self.bundle);
        out.u64(self.release_floor).u64(self.revocation);
        put_keys(out, &self.revoked);
        out.u8(match self.unknown {
            UnknownRule::Wait => 0,
            UnknownRule::Admit => 1,
            UnknownRule::Pin => 2,
            UnknownRule::Refuse => 3,
        });
        out.flag(self.provisional).count(self.hq.urls.len());
        for url in &self.hq.urls {
            out.bytes(url.as_bytes());
        }
        out.raw(&self.hq.fingerprint);
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let site = SiteId(input.array("site")?);
        let site_name = input.text(NAME_BYTES_MAX, "site name")?;
        let number = input.u64("channel number")?;
        let image = read_digest(input, "image")?;
        let bundle = read_digest(input, "boot bundle")?;
        let release_floor = input.u64("release floor")?;
        let revocation = input.u64("revocation number")?;
        let revoked = read_keys(input, CHANNEL_REVOKED_MAX, "revoked keys")?;
        let unknown = match input.u8("rule for unknown machines")? {
            0 => UnknownRule::Wait,
            1 => UnknownRule::Admit,
            2 => UnknownRule::Pin,
            3 => UnknownRule::Refuse,
            other => return Err(input.bad("rule for unknown machines", 1, other.into())),
        };
        let provisional = input.flag("provisional certificates")?;
        let count = input.count(HQ_URLS_MAX, 4, "HQ addresses")?;
        let urls = (0..count)
            .map(|_| input.text(URL_BYTES_MAX, "HQ address"))
            .collect::<Result<_, _>>()?;
        let fingerprint = input.array("HQ fingerprint")?;
        Ok(Self {
            site,
            site_name,
            number,
            image,
            bundle,
            release_floor,
            revocation,
            revoked,
            unknown,
            provisional,
            hq: HqContact { urls, fingerprint },
        })
    }
}

/// An instruction to image machines of a site; spent once per machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// For this site alone.
    pub site: SiteId,
    /// Unique in the site; a later order has a higher one.
    pub number: u64,
    /// The image version to write.
    pub image: Digest,
    /// The one machine meant, or every machine of the site.
    pub machine: Option<MachineId>,
    /// Whether a finished version on the machine may be replaced.
    pub erase: bool,
}

impl Document for Order {
    const KIND: DocumentKind = DocumentKind::Order;
    const VERSION: u8 = 1;
    const PAYLOAD_BYTES_MAX: usize = 128;
    const SIGNER: SignerRole = SignerRole::Order;

    fn encode(&self, out: &mut Writer) {
        out.raw(&self.site.0).u64(self.number).raw(&self.image.0);
        out.flag(self.machine.is_some());
        if let Some(machine) = &self.machine {
            out.raw(&machine.0);
        }
        out.flag(self.erase);
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            site: SiteId(input.array("site")?),
            number: input.u64("order number")?,
            image: Digest(input.array("image")?),
            machine: match input.flag("scope")? {
                true => Some(MachineId(input.array("machine")?)),
                false => None,
            },
            erase: input.flag("erase")?,
        })
    }
}

/// How much a node is trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grade {
    /// HQ certified it. It may admit machines and certify the nodes on them provisionally.
    Certified,
    /// A certified node admitted its machine while HQ was away. It serves and admits, and certifies nobody.
    Provisional {
        /// The certified node that signed.
        issuer: PublicKey,
        /// The order under which the machine was imaged.
        order: u64,
    },
    /// HQ lends the right of a certified node to whoever opens the voucher: a technician's laptop, a stick, a spare machine.
    /// Every machine whose right comes from it counts, also one that a node which it certified admitted.
    Voucher {
        /// So many machines, at least 1 and at most [`VOUCHER_MACHINES_MAX`].
        machines: u16,
        /// Under this order only; under any of the site's when there is none.
        order: Option<u64>,
    },
}

/// That a key belongs to a node of a site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeCertificate {
    /// The node.
    pub node: PublicKey,
    /// The only site where it holds.
    pub site: SiteId,
    /// The machine it runs on.
    pub machine: MachineId,
    /// The machine's name for people.
    pub name: String,
    /// Who vouches for it.
    pub grade: Grade,
}

impl Document for NodeCertificate {
    const KIND: DocumentKind = DocumentKind::NodeCertificate;
    const VERSION: u8 = 1;
    const PAYLOAD_BYTES_MAX: usize = 512;
    const SIGNER: SignerRole = SignerRole::Authority;

    fn encode(&self, out: &mut Writer) {
        out.raw(&self.node.0).raw(&self.site.0).raw(&self.machine.0);
        out.bytes(self.name.as_bytes());
        match &self.grade {
            Grade::Certified => out.u8(0),
            Grade::Provisional { issuer, order } => out.u8(1).raw(&issuer.0).u64(*order),
            Grade::Voucher { machines, order } => {
                out.u8(2).u16(*machines).flag(order.is_some());
                match order {
                    Some(order) => out.u64(*order),
                    None => out,
                }
            }
        };
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            node: PublicKey(input.array("node")?),
            site: SiteId(input.array("site")?),
            machine: MachineId(input.array("machine")?),
            name: input.text(NAME_BYTES_MAX, "name")?,
            grade: match input.u8("grade")? {
                0 => Grade::Certified,
                1 => Grade::Provisional {
                    issuer: PublicKey(input.array("issuer")?),
                    order: input.u64("order number")?,
                },
                2 => read_voucher(input)?,
                other => return Err(input.bad("grade", 1, other.into())),
            },
        })
    }
}

fn read_voucher(input: &mut Reader<'_>) -> Result<Grade, DecodeError> {
    let machines = input.u16("machines of a voucher")?;
    if !(1..=VOUCHER_MACHINES_MAX).contains(&machines) {
        return Err(input.bad("machines of a voucher", 2, machines.into()));
    }
    let order = match input.flag("order of a voucher")? {
        true => Some(input.u64("order of a voucher")?),
        false => None,
    };
    Ok(Grade::Voucher { machines, order })
}

/// That a node admitted an agent: the right to be served for one install.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    /// The node that signed.
    pub issuer: PublicKey,
    /// The issuer's boot number: its uptime counts within one boot only.
    pub issuer_boot: u64,
    /// The issuer's uptime when it signed.
    pub issued: Duration,
    /// How long it holds from then on; at most [`ticket_life`]'s maximum.
    pub life: Duration,
    /// The agent's key of this install.
    pub agent: PublicKey,
    /// The machine that is being imaged.
    pub machine: MachineId,
    /// The site.
    pub site: SiteId,
    /// The order it is imaged under.
    pub order: u64,
}

/// Lives of tickets.
pub mod ticket_life {
    use std::time::Duration;
    /// What a node gives.
    pub const GIVEN: Duration = Duration::from_secs(30 * 60);
    /// What is believed at most.
    pub const MAX: Duration = Duration::from_secs(4 * 3600);
}

impl Document for Ticket {
    const KIND: DocumentKind = DocumentKind::Ticket;
    const VERSION: u8 = 1;
    const PAYLOAD_BYTES_MAX: usize = 256;
    const SIGNER: SignerRole = SignerRole::Peer;

    fn encode(&self, out: &mut Writer) {
        out.raw(&self.issuer.0).u64(self.issuer_boot);
        out.u64(millis(self.issued)).u64(millis(self.life));
        out.raw(&self.agent.0)
            .raw(&self.machine.0)
            .raw(&self.site.0)
            .u64(self.order);
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let issuer = PublicKey(input.array("issuer")?);
        let issuer_boot = input.u64("issuer's boot number")?;
        let issued = Duration::from_millis(input.u64("issuer's uptime")?);
        let life_ms = input.u64("life")?;
        if Duration::from_millis(life_ms) > ticket_life::MAX {
            return Err(input.bad("life", 8, life_ms));
        }
        Ok(Self {
            issuer,
            issuer_boot,
            issued,
            life: Duration::from_millis(life_ms),
            agent: PublicKey(input.array("agent")?),
            machine: MachineId(input.array("machine")?),
            site: SiteId(input.array("site")?),
            order: input.u64("order number")?,
        })
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// That a machine finished an order, signed by the agent that its ticket names. Nodes pass it on to each other and to HQ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completion {
    /// The machine.
    pub machine: MachineId,
    /// The order that is now spent for it.
    pub order: u64,
    /// What was written.
    pub image: Digest,
    /// The key of the node that was put on the disk, if one was.
    pub node: Option<PublicKey>,
    /// The ticket of the install, which carries the agent's key and its issuer's.
    pub ticket: Vec<u8>,
    /// The certificate of the node that signed the ticket.
    pub issuer: Vec<u8>,
    /// Of the node that certified that node, when that is provisional.
    pub issuers_issuer: Option<Vec<u8>>,
}

impl Document for Completion {
    const KIND: DocumentKind = DocumentKind::Completion;
    const VERSION: u8 = 2;
    const PAYLOAD_BYTES_MAX: usize = TICKET_BYTES_MAX + 2 * CERTIFICATE_BYTES_MAX + 128;
    const SIGNER: SignerRole = SignerRole::Peer;

    fn encode(&self, out: &mut Writer) {
        out.raw(&self.machine.0).u64(self.order).raw(&self.image.0);
        out.flag(self.node.is_some());
        if let Some(node) = &self.node {
            out.raw(&node.0);
        }
        out.bytes(&self.ticket).bytes(&self.issuer);
        out.flag(self.issuers_issuer.is_some());
        if let Some(certificate) = &self.issuers_issuer {
            out.bytes(certificate);
        }
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            machine: MachineId(input.array("machine")?),
            order: input.u64("order number")?,
            image: Digest(input.array("image")?),
            node: match input.flag("node key")? {
                true => Some(PublicKey(input.array("node key")?)),
                false => None,
            },
            ticket: input.bytes(TICKET_BYTES_MAX, "ticket")?.to_vec(),
            issuer: input.bytes(CERTIFICATE_BYTES_MAX, "issuer")?.to_vec(),
            issuers_issuer: match input.flag("issuer's issuer")? {
                true => Some(
                    input
                        .bytes(CERTIFICATE_BYTES_MAX, "issuer's issuer")?
                        .to_vec(),
                ),
                false => None,
            },
        })
    }
}
