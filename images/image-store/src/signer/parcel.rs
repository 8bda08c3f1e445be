//! What is signed for one site, in one file: its channel, and orders that travel with it.

use thiserror::Error;
use trust_format::{
    Channel, Document, Order, PublicKey, SiteId, VerifyDocumentError,
    codec::{DecodeError, Reader, Writer},
    peek, peek_envelope,
};

use super::{AddSignatureError, KeyHolder, add_signature};

const MAGIC: &[u8; 8] = b"LMPLPCL1";
/// Most orders that one parcel carries: as many as HQ gives a node.
pub const PARCEL_ORDERS_MAX: usize = 1024;
/// Room for the signatures of an envelope and the lengths in it.
const ENVELOPE_EXTRA_BYTES: usize = 4096;
const CHANNEL_BYTES_MAX: usize = Channel::PAYLOAD_BYTES_MAX + ENVELOPE_EXTRA_BYTES;
const ORDER_BYTES_MAX: usize = Order::PAYLOAD_BYTES_MAX + ENVELOPE_EXTRA_BYTES;
/// Longest parcel.
pub const PARCEL_BYTES_MAX: usize = CHANNEL_BYTES_MAX + PARCEL_ORDERS_MAX * ORDER_BYTES_MAX;

/// Documents of one site, signed or not. Nothing in it is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parcel {
    site: SiteId,
    channel: Option<Vec<u8>>,
    orders: Vec<Vec<u8>>,
}

/// Why bytes are no parcel.
#[derive(Debug, Error)]
pub enum ReadParcelError {
    /// They are something else.
    #[error("this is no file of a site's documents that wait for a signature")]
    NotParcel,
    /// They are damaged.
    #[error("the file of a site's documents is damaged")]
    Malformed(#[source] DecodeError),
    /// A document in it is damaged or another one.
    #[error(transparent)]
    Document(#[from] VerifyDocumentError),
    /// It mixes sites.
    #[error("the file has documents of site {one} and of site {other}")]
    Sites {
        /// The first one's.
        one: SiteId,
        /// Another one's.
        other: SiteId,
    },
    /// There is nothing in it.
    #[error("the file has no document in it")]
    Empty,
}

impl Parcel {
    /// Packs documents.
    ///
    /// # Errors
    /// [`ReadParcelError`] when they are of several sites, or none.
    pub fn new(channel: Option<Vec<u8>>, orders: Vec<Vec<u8>>) -> Result<Self, ReadParcelError> {
        let mut sites = Vec::new();
        if let Some(channel) = &channel {
            sites.push(peek::<Channel>(channel)?.site);
        }
        for order in &orders {
            sites.push(peek::<Order>(order)?.site);
        }
        let one = *sites.first().ok_or(ReadParcelError::Empty)?;
        if let Some(other) = sites.into_iter().find(|site| *site != one) {
            return Err(ReadParcelError::Sites { one, other });
        }
        Ok(Self {
            site: one,
            channel,
            orders,
        })
    }

    /// The bytes of a file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.raw(MAGIC).flag(self.channel.is_some());
        if let Some(channel) = &self.channel {
            out.bytes(channel);
        }
        out.count(self.orders.len());
        for order in &self.orders {
            out.bytes(order);
        }
        out.finish()
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`ReadParcelError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ReadParcelError> {
        let mut input = Reader::new(bytes);
        let magic = input.array::<8>("magic");
        if magic.ok().as_ref() != Some(MAGIC) {
            return Err(ReadParcelError::NotParcel);
        }
        let (channel, orders) = read(input).map_err(ReadParcelError::Malformed)?;
        Self::new(channel, orders)
    }

    /// Whose documents these are.
    pub fn site(&self) -> SiteId {
        self.site
    }

    /// The channel's bytes.
    pub fn channel(&self) -> Option<&[u8]> {
        self.channel.as_deref()
    }

    /// The orders' bytes.
    pub fn orders(&self) -> &[Vec<u8>] {
        &self.orders
    }

    /// Signs every document in it.
    ///
    /// # Errors
    /// [`AddSignatureError`]; the parcel is then as it was.
    pub fn sign(&mut self, key: &dyn KeyHolder) -> Result<(), AddSignatureError> {
        let channel = self.channel.as_ref();
        let channel = channel
            .map(|bytes| add_signature::<Channel>(bytes, key))
            .transpose()?;
        let orders = self.orders.iter();
        let orders = orders
            .map(|bytes| add_signature::<Order>(bytes, key))
            .collect::<Result<_, _>>()?;
        (self.channel, self.orders) = (channel, orders);
        Ok(())
    }

    /// The keys that signed everything in it.
    ///
    /// # Errors
    /// [`VerifyDocumentError`] when a document is damaged.
    pub fn signers(&self) -> Result<Vec<PublicKey>, VerifyDocumentError> {
        let mut each = Vec::new();
        if let Some(channel) = &self.channel {
            each.push(peek_envelope::<Channel>(channel)?.0.true_signers());
        }
        for order in &self.orders {
            each.push(peek_envelope::<Order>(order)?.0.true_signers());
        }
        let mut common = each.pop().unwrap_or_default();
        common.retain(|key| each.iter().all(|signers| signers.contains(key)));
        Ok(common)
    }
}

type Documents = (Option<Vec<u8>>, Vec<Vec<u8>>);

fn read(mut input: Reader<'_>) -> Result<Documents, DecodeError> {
    let channel = match input.flag("channel is there")? {
        true => Some(input.bytes(CHANNEL_BYTES_MAX, "channel")?.to_vec()),
        false => None,
    };
    let count = input.count(PARCEL_ORDERS_MAX, 4, "orders")?;
    let orders = (0..count)
        .map(|_| Ok(input.bytes(ORDER_BYTES_MAX, "order")?.to_vec()))
        .collect::<Result<_, _>>()?;
    input.finish()?;
    Ok((channel, orders))
}
