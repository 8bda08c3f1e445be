//! Documents on the wire, and in how many frames they go.

use trust_format::codec::{DecodeError, Reader, Writer};

use super::{CERTIFICATE_BYTES_MAX, Frame, put_optional, read_optional};

pub(super) const DOCUMENT_BYTES_MAX: usize = 1 << 20;
/// Orders, and completions, in one [`Frame::Documents`]; more are sent as several frames.
pub const DOCUMENTS_MAX: usize = 128;
/// Roots that are shown in a row: who has an older one than the oldest needs new boot media.
pub const ROOTS_MAX: usize = 32;
/// Longest root on the wire, with every signature that it may carry.
pub(super) const ROOT_BYTES_MAX: usize = 4096;
/// Longest completion on the wire: it carries the certificates that prove it.
pub(super) const COMPLETION_BYTES_MAX: usize = 2560;

/// Signed documents that nodes hand to each other and to agents. The reader verifies each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Documents {
    /// Roots, oldest first, each signed by the keys of the one before: who trusts any of them goes on to the newest.
    pub roots: Vec<Vec<u8>>,
    /// The channel.
    pub channel: Option<Vec<u8>>,
    /// The roster; for members only.
    pub roster: Option<Vec<u8>>,
    /// Orders.
    pub orders: Vec<Vec<u8>>,
    /// Completions.
    pub completions: Vec<Vec<u8>>,
}

impl Documents {
    pub(super) fn encode(&self, out: &mut Writer) {
        put_list(out, &self.roots);
        put_optional(out, self.channel.as_deref());
        put_optional(out, self.roster.as_deref());
        put_list(out, &self.orders);
        put_list(out, &self.completions);
    }

    pub(super) fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            roots: read_list(input, ROOTS_MAX, ROOT_BYTES_MAX, "root")?,
            channel: read_optional(input, DOCUMENT_BYTES_MAX, "channel")?,
            roster: read_optional(input, DOCUMENT_BYTES_MAX, "roster")?,
            orders: read_list(input, DOCUMENTS_MAX, CERTIFICATE_BYTES_MAX, "order")?,
            completions: read_list(input, DOCUMENTS_MAX, COMPLETION_BYTES_MAX, "completion")?,
        })
    }

    /// The same in as many frames as it takes: root, channel and roster in the first.
    pub fn into_frames(self) -> Vec<Frame> {
        let Self {
            roots,
            channel,
            roster,
            orders,
            completions,
        } = self;
        let mut orders = orders.chunks(DOCUMENTS_MAX);
        let mut completions = completions.chunks(DOCUMENTS_MAX);
        let some = |list: Option<&[Vec<u8>]>| list.unwrap_or_default().to_vec();
        let mut frames = vec![Frame::Documents(Self {
            roots,
            channel,
            roster,
            orders: some(orders.next()),
            completions: some(completions.next()),
        })];
        loop {
            let more = Self {
                orders: some(orders.next()),
                completions: some(completions.next()),
                ..Self::default()
            };
            if more == Self::default() {
                return frames;
            }
            frames.push(Frame::Documents(more));
        }
    }
}

fn put_list(out: &mut Writer, documents: &[Vec<u8>]) {
    out.count(documents.len());
    for document in documents {
        out.bytes(document);
    }
}

fn read_list(
    input: &mut Reader<'_>,
    count_max: usize,
    bytes_max: usize,
    field: &'static str,
) -> Result<Vec<Vec<u8>>, DecodeError> {
    let count = input.count(count_max, 4, field)?;
    (0..count)
        .map(|_| Ok(input.bytes(bytes_max, field)?.to_vec()))
        .collect()
}
