//! Who speaks: the first frame in each direction, and what proves it.

use trust_format::codec::{DecodeError, Reader, Writer};

use super::{CERTIFICATE_BYTES_MAX, put_optional, read_optional};
use crate::election::Rank;

/// Why a node or agent is worth talking to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    /// Certified for the site.
    Node {
        /// A node certificate.
        certificate: Vec<u8>,
        /// Its issuer's, when it is provisional.
        issuer: Option<Vec<u8>>,
    },
    /// Admitted to one install.
    Agent {
        /// A ticket; none yet when the agent begins.
        ticket: Option<TicketProof>,
    },
}

/// A ticket and the certificates that prove its issuer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TicketProof {
    /// The ticket.
    pub ticket: Vec<u8>,
    /// Of the node that signed it.
    pub issuer: Vec<u8>,
    /// Of the node that certified that node, when that is provisional.
    pub issuers_issuer: Option<Vec<u8>>,
}

/// The first frame in each direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// [`super::PROTOCOL_VERSION`].
    pub protocol: u16,
    /// Who speaks.
    pub credentials: Credentials,
    /// How well it could fetch for the site.
    pub rank: Rank,
    /// The port on which it takes connections.
    pub port: u16,
    /// Its boot number.
    pub boot: u64,
    /// Time since that boot, in milliseconds.
    pub uptime_ms: u64,
    /// Number of its root.
    pub root: u64,
    /// Number of its channel; 0 without one.
    pub channel: u64,
}

impl Credentials {
    pub(super) fn encode(&self, out: &mut Writer) {
        match self {
            Self::Node {
                certificate,
                issuer,
            } => {
                out.u8(0).bytes(certificate);
                put_optional(out, issuer.as_deref());
            }
            Self::Agent { ticket } => {
                out.u8(1).flag(ticket.is_some());
                if let Some(proof) = ticket {
                    proof.encode(out);
                }
            }
        }
    }

    pub(super) fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match input.u8("credentials")? {
            0 => Self::Node {
                certificate: input.bytes(CERTIFICATE_BYTES_MAX, "certificate")?.to_vec(),
                issuer: read_optional(input, CERTIFICATE_BYTES_MAX, "issuer")?,
            },
            1 => Self::Agent {
                ticket: match input.flag("ticket")? {
                    true => Some(TicketProof::decode(input)?),
                    false => None,
                },
            },
            other => return Err(input.bad("credentials", 1, other.into())),
        })
    }

    /// As a program keeps them in a file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::new();
        self.encode(&mut out);
        out.finish()
    }

    /// Reads what [`Credentials::to_bytes`] wrote.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut input = Reader::new(bytes);
        let credentials = Self::decode(&mut input)?;
        input.finish()?;
        Ok(credentials)
    }
}

impl Hello {
    pub(super) fn encode(&self, out: &mut Writer) {
        out.u16(self.protocol);
        self.credentials.encode(out);
        out.flag(self.rank.node)
            .flag(self.rank.always_on)
            .u32(self.rank.free_gib)
            .u16(self.rank.uptime_minutes);
        out.u16(self.port)
            .u64(self.boot)
            .u64(self.uptime_ms)
            .u64(self.root)
            .u64(self.channel);
    }

    pub(super) fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            protocol: input.u16("protocol")?,
            credentials: Credentials::decode(input)?,
            rank: Rank {
                node: input.flag("rank")?,
                always_on: input.flag("rank")?,
                free_gib: input.u32("free space")?,
                uptime_minutes: input.u16("uptime")?,
            },
            port: input.u16("port")?,
            boot: input.u64("boot number")?,
            uptime_ms: input.u64("uptime")?,
            root: input.u64("root number")?,
            channel: input.u64("channel number")?,
        })
    }
}

impl TicketProof {
    pub(super) fn encode(&self, out: &mut Writer) {
        out.bytes(&self.ticket).bytes(&self.issuer);
        put_optional(out, self.issuers_issuer.as_deref());
    }

    pub(super) fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            ticket: input.bytes(CERTIFICATE_BYTES_MAX, "ticket")?.to_vec(),
            issuer: input.bytes(CERTIFICATE_BYTES_MAX, "issuer")?.to_vec(),
            issuers_issuer: read_optional(input, CERTIFICATE_BYTES_MAX, "issuer's issuer")?,
        })
    }
}
