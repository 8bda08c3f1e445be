//! A secret that one TPM can read, as it lies in a file.

use trust_format::codec::{DecodeError, Reader, Writer};

/// Begins every sealed key; the digit is the format's version.
const MAGIC: [u8; 8] = *b"LMPSEAL1";
/// A sealed key of 32 bytes has 48 bytes of public and about 160 of private part; TPMs with a larger digest have more.
const PART_BYTES_MAX: usize = 1024;

/// A secret, encrypted by a TPM under its own storage key. Nothing in it is secret, and nothing of it is believed: the TPM checks it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedKey {
    /// Which storage key it hangs under (BLAKE3 of its point): another one is another TPM, or the same one cleared.
    pub parent: [u8; 32],
    /// `TPMT_PUBLIC` of the sealed object, at most 1,024 bytes.
    pub public: Vec<u8>,
    /// `TPM2B_PRIVATE`'s buffer, at most 1,024 bytes.
    pub private: Vec<u8>,
}

impl SealedKey {
    /// Whether a file claims to hold one. A key that is not sealed has 32 bytes, fewer than any sealed one.
    pub fn is_one(bytes: &[u8]) -> bool {
        bytes.len() > 32 && bytes.starts_with(&MAGIC)
    }

    /// As it lies in a file: magic, parent, and both parts with their lengths.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.raw(&MAGIC)
            .raw(&self.parent)
            .bytes(&self.public)
            .bytes(&self.private);
        out.finish()
    }

    /// Out of a file.
    ///
    /// # Errors
    /// When it is cut off, longer than it says, too long, or no sealed key at all.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut input = Reader::new(bytes);
        let magic: [u8; 8] = input.array("magic of a sealed key")?;
        if magic != MAGIC {
            let found = u64::from_be_bytes(magic);
            return Err(input.bad("magic of a sealed key", MAGIC.len(), found));
        }
        let sealed = Self {
            parent: input.array("storage key of a sealed key")?,
            public: input.bytes(PART_BYTES_MAX, "public part")?.to_vec(),
            private: input.bytes(PART_BYTES_MAX, "private part")?.to_vec(),
        };
        input.finish()?;
        Ok(sealed)
    }
}
