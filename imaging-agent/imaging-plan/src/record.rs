//! The install record on the target: which order, which version, how far. It proposes; hashes decide.

use trust_format::{
    Digest,
    codec::{Reader, Writer},
};

/// Room for the record on the target: two copies, written in turn.
pub const RECORD_BYTES: u64 = 1 << 20;
/// Bytes of one copy.
const COPY_BYTES: usize = 1 << 19;
const MAGIC: &[u8; 8] = b"LMPLINST";
const VERSION: u8 = 1;
/// Places that a bitmap has room for: 3.5 TiB of content.
const PLACES_MAX: usize = (COPY_BYTES - 256) * 8;

/// How far an install was when its record was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordState {
    /// Content is being written.
    Writing,
    /// The system on this disk is whole.
    Done,
}

/// What the record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstallRecord {
    /// Grows with each writing; of two copies the higher one counts.
    pub sequence: u64,
    /// The order.
    pub order: u64,
    /// The version.
    pub manifest: Digest,
    /// How far.
    pub state: RecordState,
    /// For each place of the manifest's layout whether it was written and flushed.
    pub written: Vec<bool>,
}

impl InstallRecord {
    /// The copy's bytes, and where they go inside the record's extent. Odd and even sequences take turns, so that a
    /// torn write leaves the other copy.
    pub fn to_copy(&self) -> (u64, Vec<u8>) {
        let mut out = Writer::new();
        out.raw(MAGIC)
            .u8(VERSION)
            .u64(self.sequence)
            .u64(self.order)
            .raw(&self.manifest.0);
        out.u8(match self.state {
            RecordState::Writing => 0,
            RecordState::Done => 1,
        });
        let places = &self.written[..self.written.len().min(PLACES_MAX)];
        out.count(places.len());
        for byte in places.chunks(8) {
            let bits = byte
                .iter()
                .enumerate()
                .fold(0u8, |bits, (n, set)| bits | (u8::from(*set) << n));
            out.u8(bits);
        }
        let mut bytes = out.finish();
        bytes.resize(COPY_BYTES - 4, 0);
        let crc = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        (self.sequence % 2 * COPY_BYTES as u64, bytes)
    }

    /// The newer true copy of a record's extent, if there is one.
    pub fn from_extent(bytes: &[u8]) -> Option<Self> {
        bytes
            .chunks_exact(COPY_BYTES)
            .filter_map(Self::from_copy)
            .max_by_key(|r| r.sequence)
    }

    fn from_copy(bytes: &[u8]) -> Option<Self> {
        let (body, crc) = bytes.split_last_chunk::<4>()?;
        if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
            return None;
        }
        let mut input = Reader::new(body);
        let read = |input: &mut Reader<'_>| {
            let magic: [u8; 8] = input.array("magic")?;
            let version = input.u8("version")?;
            let record = Self {
                sequence: input.u64("sequence")?,
                order: input.u64("order")?,
                manifest: Digest(input.array("manifest")?),
                state: match input.u8("state")? {
                    0 => RecordState::Writing,
                    _ => RecordState::Done,
                },
                written: Vec::new(),
            };
            let places = input.u32("places")? as usize;
            let bitmap = input.take(places.div_ceil(8), "bitmap")?;
            let written = (0..places)
                .map(|n| bitmap[n / 8] >> (n % 8) & 1 == 1)
                .collect();
            Ok::<_, trust_format::codec::DecodeError>((magic, version, Self { written, ..record }))
        };
        match read(&mut input) {
            Ok((magic, VERSION, record)) if &magic == MAGIC => Some(record),
            _ => None,
        }
    }
}
