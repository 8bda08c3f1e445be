//! The messages between two programs of a site: control frames on one stream, requests on a stream each.
//!
//! The first thing on a connection is a [`Frame::Hello`] from either side; nothing is served before both are read.

use image_format::{ChunkHash, PartId};
use trust_format::{
    Digest, PinRule, PublicKey,
    codec::{DecodeError, Reader, Writer},
};

use crate::{machine::MachineFacts, pin::PinTally, tpm::TpmProof};

mod documents;
mod hello;
mod members;
mod request;

pub use documents::{DOCUMENTS_MAX, Documents, ROOTS_MAX};
pub use hello::{Credentials, Hello, TicketProof};
pub use members::Members;
pub use request::*;

/// Version of everything in this module. Programs of different versions do not talk.
pub const PROTOCOL_VERSION: u16 = 5;
/// Application protocol of the QUIC handshake (RFC 7301).
pub const ALPN: &[u8] = b"lamplighter/1";
/// UDP port of a node's QUIC endpoint.
pub const PEER_PORT: u16 = 4433;
/// Longest control frame.
pub const FRAME_BYTES_MAX: usize = 2 << 20;
/// Longest frame before the hello is believed: the largest root and channel, which are shown then.
pub const GREETING_BYTES_MAX: usize = 1 << 20;
/// Longest frame of a peer that has no right here: a hello with a ticket, or a machine's facts and finished orders.
pub const STRANGER_FRAME_BYTES_MAX: usize = 32 << 10;
/// Ranges of parts in one [`Frame::Have`]; more are sent as several frames.
pub const HAVE_RANGES_MAX: usize = 16_384;
/// Longest report of an agent that a node takes.
pub const REPORT_BYTES_MAX: usize = 16 << 10;
/// Peers named in one [`Frame::Peers`].
pub const PEER_HINTS_MAX: usize = 256;
/// Machines in one [`Frame::Vouched`]; more are sent as several frames.
pub const VOUCHED_MAX: usize = 64;
const CERTIFICATE_BYTES_MAX: usize = 1024;
const TEXT_BYTES_MAX: usize = 512;
const NUMBERS_MAX: usize = 1024;

/// A node's answer to [`Frame::AdmitMe`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdmissionAnswer {
    /// Served from now on.
    Granted {
        /// The right to be served, also by others.
        proof: TicketProof,
        /// The order, as signed.
        order: Vec<u8>,
    },
    /// A person has to decide; the answer is sent again when it changes.
    Wait {
        /// What the person at the machine reads.
        reason: String,
    },
    /// Nothing is ordered.
    NoOrder,
    /// The machine's order was carried out.
    Done {
        /// The order's number.
        order: u64,
    },
    /// Something is wrong with the request.
    Refused {
        /// In words.
        reason: String,
    },
    /// The site's PIN has to be typed at the machine; it goes into the next [`Frame::AdmitMe`].
    Pin {
        /// What the person at the machine reads.
        reason: String,
    },
    /// The ticket that was shown opens nothing (any more): the agent asks anew.
    AskAgain {
        /// In words.
        reason: String,
    },
}

/// Where another peer may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerHint {
    /// Its key.
    pub key: PublicKey,
    /// Its address and port as text, with a scope where IPv6 needs one.
    pub address: String,
}

/// Parts as ranges: first and count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PartRanges(pub Vec<(u32, u32)>);

impl PartRanges {
    /// Ranges over parts in any order.
    pub fn of(parts: &[PartId]) -> Self {
        let mut sorted: Vec<u32> = parts.iter().map(|c| c.0).collect();
        sorted.sort_unstable();
        sorted.dedup();
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        for part in sorted {
            match ranges.last_mut() {
                Some((first, count)) if *first + *count == part => *count += 1,
                _ => ranges.push((part, 1)),
            }
        }
        Self(ranges)
    }

    /// The parts below `limit`; a lying range costs no more than that.
    pub fn parts(&self, limit: u32) -> Vec<PartId> {
        let clip = |(first, count): &(u32, u32)| {
            (*first).min(limit)..first.saturating_add(*count).min(limit)
        };
        let mut parts: Vec<PartId> = Vec::new();
        for range in &self.0 {
            if parts.len() > limit as usize {
                break;
            }
            parts.extend(clip(range).map(PartId));
        }
        parts
    }

    fn encode(&self, out: &mut Writer) {
        out.count(self.0.len());
        for (first, count) in &self.0 {
            out.u32(*first).u32(*count);
        }
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let count = input.count(HAVE_RANGES_MAX, 8, "ranges")?;
        let ranges = (0..count).map(|_| Ok((input.u32("first")?, input.u32("count")?)));
        Ok(Self(ranges.collect::<Result<_, DecodeError>>()?))
    }
}

/// A control frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Who speaks.
    Hello(Hello),
    /// An agent asks to be imaged.
    AdmitMe {
        /// Which machine it runs on.
        facts: MachineFacts,
        /// Only this version.
        wish: Option<Digest>,
        /// Orders that the machine's own disk says are finished.
        finished: Vec<u64>,
        /// The site's PIN, as it was typed at the machine.
        pin: Option<String>,
        /// That the agent runs on the computer of a TPM.
        tpm: Option<TpmProof>,
    },
    /// The answer.
    Admission(AdmissionAnswer),
    /// An admitted agent asks for a certificate for the node that it puts on the disk.
    CertifyMe {
        /// The new node's key.
        node: PublicKey,
    },
    /// The answer.
    Certificate {
        /// Of the new node.
        certificate: Vec<u8>,
        /// Of its issuer, when it is provisional.
        issuer: Option<Vec<u8>>,
    },
    /// The answer when it cannot be given.
    NotCertified {
        /// In words.
        reason: String,
    },
    /// The speaker takes part in a swarm.
    Join {
        /// Of this manifest.
        manifest: Digest,
        /// Whether it gives out first copies.
        source: bool,
    },
    /// The speaker has these parts.
    Have {
        /// Of this manifest.
        manifest: Digest,
        /// Which.
        parts: PartRanges,
    },
    /// The speaker fetches over the WAN.
    Claim {
        /// This manifest.
        manifest: Digest,
        /// Its term.
        term: u64,
    },
    /// Signed documents of the site.
    Documents(Documents),
    /// An agent's report on its install, for HQ and people; opaque here.
    Report(Vec<u8>),
    /// Where others may be.
    Peers(Vec<PeerHint>),
    /// The speaker no longer has these parts.
    Lost {
        /// Of this manifest.
        manifest: Digest,
        /// Which.
        parts: PartRanges,
    },
    /// Who shares the site's chunks.
    Members(Members),
    /// The speaker received wrong bytes.
    Accused {
        /// From whom.
        peer: PublicKey,
        /// For which chunk, if it is known.
        chunk: Option<ChunkHash>,
    },
    /// How often the site's PIN was tried and used.
    PinTally(PinTally),
    /// What machines showed whose rights come from a voucher: it admits so many and no more.
    Vouched(Vec<Credentials>),
    /// HQ took a report of the speaker in which the listener is named among those that are there.
    Reported {
        /// HQ wants to hear the listener itself.
        wanted: bool,
    },
}

impl Frame {
    /// The frame's bytes, without their length.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::new();
        match self {
            Self::Hello(hello) => hello.encode(out.u8(0)),
            Self::AdmitMe {
                facts,
                wish,
                finished,
                pin,
                tpm,
            } => {
                facts.encode(out.u8(1));
                put_optional(&mut out, wish.as_ref().map(|d| &d.0[..]));
                out.count(finished.len());
                finished.iter().for_each(|n| {
                    out.u64(*n);
                });
                put_optional(&mut out, pin.as_ref().map(|pin| pin.as_bytes()));
                out.flag(tpm.is_some());
                if let Some(proof) = tpm {
                    proof.encode(&mut out);
                }
            }
            Self::Admission(answer) => answer.encode(out.u8(2)),
            Self::CertifyMe { node } => {
                out.u8(3).raw(&node.0);
            }
            Self::Certificate {
                certificate,
                issuer,
            } => {
                out.u8(4).bytes(certificate);
                put_optional(&mut out, issuer.as_deref());
            }
            Self::NotCertified { reason } => {
                out.u8(5).bytes(clip(reason));
            }
            Self::Join { manifest, source } => {
                out.u8(6).raw(&manifest.0).flag(*source);
            }
            Self::Have { manifest, parts } => parts.encode(out.u8(7).raw(&manifest.0)),
            Self::Claim { manifest, term } => {
                out.u8(8).raw(&manifest.0).u64(*term);
            }
            Self::Documents(documents) => documents.encode(out.u8(9)),
            Self::Report(report) => {
                out.u8(10).bytes(report);
            }
            Self::Peers(peers) => {
                out.u8(11).count(peers.len());
                for peer in peers {
                    out.raw(&peer.key.0).bytes(clip(&peer.address));
                }
            }
            Self::Lost { manifest, parts } => parts.encode(out.u8(12).raw(&manifest.0)),
            Self::Members(members) => members.encode(out.u8(13)),
            Self::Accused { peer, chunk } => {
                out.u8(14).raw(&peer.0).flag(chunk.is_some());
                if let Some(chunk) = chunk {
                    out.raw(&chunk.0);
                }
            }
            Self::PinTally(tally) => tally.encode(out.u8(15)),
            Self::Vouched(shown) => {
                out.u8(16).count(shown.len());
                shown.iter().for_each(|one| one.encode(&mut out));
            }
            Self::Reported { wanted } => {
                out.u8(17).flag(*wanted);
            }
        }
        out.finish()
    }

    /// Reads a frame.
    ///
    /// # Errors
    /// [`DecodeError`]: the sender broke the protocol.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut input = Reader::new(bytes);
        let frame = match input.u8("frame type")? {
            0 => Self::Hello(Hello::decode(&mut input)?),
            1 => decode_admit_me(&mut input)?,
            2 => Self::Admission(AdmissionAnswer::decode(&mut input)?),
            3 => Self::CertifyMe {
                node: PublicKey(input.array("node")?),
            },
            4 => Self::Certificate {
                certificate: input.bytes(CERTIFICATE_BYTES_MAX, "certificate")?.to_vec(),
                issuer: read_optional(&mut input, CERTIFICATE_BYTES_MAX, "issuer")?,
            },
            5 => Self::NotCertified {
                reason: input.text(TEXT_BYTES_MAX, "reason")?,
            },
            6 => Self::Join {
                manifest: Digest(input.array("manifest")?),
                source: input.flag("source")?,
            },
            7 => Self::Have {
                manifest: Digest(input.array("manifest")?),
                parts: PartRanges::decode(&mut input)?,
            },
            8 => Self::Claim {
                manifest: Digest(input.array("manifest")?),
                term: input.u64("term")?,
            },
            9 => Self::Documents(Documents::decode(&mut input)?),
            10 => Self::Report(input.bytes(REPORT_BYTES_MAX, "report")?.to_vec()),
            11 => {
                let count = input.count(PEER_HINTS_MAX, 36, "peers")?;
                let hints = (0..count).map(|_| {
                    Ok(PeerHint {
                        key: PublicKey(input.array("peer")?),
                        address: input.text(TEXT_BYTES_MAX, "address")?,
                    })
                });
                Self::Peers(hints.collect::<Result<_, DecodeError>>()?)
            }
            12 => Self::Lost {
                manifest: Digest(input.array("manifest")?),
                parts: PartRanges::decode(&mut input)?,
            },
            13 => Self::Members(Members::decode(&mut input)?),
            14 => Self::Accused {
                peer: PublicKey(input.array("peer")?),
                chunk: match input.flag("whether the chunk is known")? {
                    true => Some(ChunkHash(input.array("chunk")?)),
                    false => None,
                },
            },
            15 => Self::PinTally(PinTally::decode(&mut input)?),
            16 => {
                let count = input.count(VOUCHED_MAX, 2, "machines")?;
                let shown = (0..count).map(|_| Credentials::decode(&mut input));
                Self::Vouched(shown.collect::<Result<_, DecodeError>>()?)
            }
            17 => Self::Reported {
                wanted: input.flag("whether HQ wants it")?,
            },
            other => return Err(input.bad("frame type", 1, other.into())),
        };
        input.finish()?;
        Ok(frame)
    }
}

fn clip(text: &str) -> &[u8] {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text.as_bytes()[..end]
}

fn put_optional(out: &mut Writer, bytes: Option<&[u8]>) {
    out.flag(bytes.is_some());
    if let Some(bytes) = bytes {
        out.bytes(bytes);
    }
}

fn read_optional(
    input: &mut Reader<'_>,
    max: usize,
    field: &'static str,
) -> Result<Option<Vec<u8>>, DecodeError> {
    match input.flag(field)? {
        true => Ok(Some(input.bytes(max, field)?.to_vec())),
        false => Ok(None),
    }
}

fn decode_admit_me(input: &mut Reader<'_>) -> Result<Frame, DecodeError> {
    let facts = MachineFacts::decode(input)?;
    let wish = match read_optional(input, 32, "wish")? {
        None => None,
        Some(bytes) => {
            Some(Digest(bytes.as_slice().try_into().map_err(|_| {
                input.bad("wish", bytes.len(), bytes.len() as u64)
            })?))
        }
    };
    let count = input.count(NUMBERS_MAX, 8, "finished orders")?;
    let finished = (0..count)
        .map(|_| input.u64("finished order"))
        .collect::<Result<_, _>>()?;
    let pin = match input.flag("pin")? {
        true => Some(input.text(*PinRule::LETTERS.end() * 4, "pin")?),
        false => None,
    };
    Ok(Frame::AdmitMe {
        facts,
        wish,
        finished,
        pin,
        tpm: match input.flag("TPM proof")? {
            true => Some(TpmProof::decode(input)?),
            false => None,
        },
    })
}

impl AdmissionAnswer {
    fn encode(&self, out: &mut Writer) {
        match self {
            Self::Granted { proof, order } => {
                proof.encode(out.u8(0));
                out.bytes(order);
            }
            Self::Wait { reason } => {
                out.u8(1).bytes(clip(reason));
            }
            Self::NoOrder => {
                out.u8(2);
            }
            Self::Done { order } => {
                out.u8(3).u64(*order);
            }
            Self::Refused { reason } => {
                out.u8(4).bytes(clip(reason));
            }
            Self::Pin { reason } => {
                out.u8(5).bytes(clip(reason));
            }
            Self::AskAgain { reason } => {
                out.u8(6).bytes(clip(reason));
            }
        }
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match input.u8("answer")? {
            0 => Self::Granted {
                proof: TicketProof::decode(input)?,
                order: input.bytes(CERTIFICATE_BYTES_MAX, "order")?.to_vec(),
            },
            1 => Self::Wait {
                reason: input.text(TEXT_BYTES_MAX, "reason")?,
            },
            2 => Self::NoOrder,
            3 => Self::Done {
                order: input.u64("order number")?,
            },
            4 => Self::Refused {
                reason: input.text(TEXT_BYTES_MAX, "reason")?,
            },
            5 => Self::Pin {
                reason: input.text(TEXT_BYTES_MAX, "reason")?,
            },
            6 => Self::AskAgain {
                reason: input.text(TEXT_BYTES_MAX, "reason")?,
            },
            other => return Err(input.bad("answer", 1, other.into())),
        })
    }
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "small test inputs")]
mod tests;
