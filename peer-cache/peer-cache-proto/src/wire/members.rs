//! Who shares the site's chunks, as one node tells another.

use std::time::Duration;

use trust_format::{
    MachineId,
    codec::{DecodeError, Reader, Writer},
};

use crate::spread::{MEMBERS_MAX, Word};

/// A node's view of its site.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Members {
    /// Of the placement that the speaker goes by ([`crate::spread::Placement::digest`]); 0 before it has one.
    pub placement: u64,
    /// Everybody, the speaker included.
    pub words: Vec<Word>,
}

impl Members {
    /// The bytes, also as a node keeps them for its next start.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::new();
        self.encode(&mut out);
        out.finish()
    }

    /// Reads what [`Self::to_bytes`] wrote.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut input = Reader::new(bytes);
        let members = Self::decode(&mut input)?;
        input.finish()?;
        Ok(members)
    }

    pub(super) fn encode(&self, out: &mut Writer) {
        out.u64(self.placement).count(self.words.len());
        for word in &self.words {
            let unheard = u32::try_from(word.unheard.as_secs()).unwrap_or(u32::MAX);
            out.raw(&word.member.0).u64(word.room_bytes).u32(unheard);
        }
    }

    pub(super) fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let placement = input.u64("placement")?;
        let count = input.count(MEMBERS_MAX, 28, "members")?;
        let words = (0..count).map(|_| {
            Ok(Word {
                member: MachineId(input.array("member")?),
                room_bytes: input.u64("room")?,
                unheard: Duration::from_secs(input.u32("unheard")?.into()),
            })
        });
        Ok(Self {
            placement,
            words: words.collect::<Result<_, DecodeError>>()?,
        })
    }
}
