//! The envelope around every signed document, and the type that only a verified one has.

use std::{fmt, ops::Deref, sync::Arc};

use thiserror::Error;

use crate::{
    codec::{DecodeError, Reader, Writer},
    keys::{PublicKey, Signature},
    trusted::TrustedKeys,
};

const MAGIC: [u8; 4] = *b"LMPL";
/// Bytes of magic, kind and version, which a signature covers together with the payload.
const HEADER_BYTES: usize = 6;
/// More signatures than this on one document are refused.
pub const ENVELOPE_SIGNATURES_MAX: usize = 16;

/// What a document is. The number is on the wire and never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum DocumentKind {
    /// Which keys speak for what.
    Root = 1,
    /// What an image or a boot bundle is.
    Manifest = 2,
    /// What a site means now.
    Channel = 3,
    /// An instruction to image machines.
    Order = 4,
    /// Who may serve in a site.
    NodeCertificate = 5,
    /// Who may be served for one install.
    Ticket = 6,
    /// That a machine finished an order.
    Completion = 7,
    /// A node's sign of life.
    Beacon = 8,
    /// Which machines a site knows.
    Roster = 9,
}

/// Whose signature a document needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignerRole {
    /// A threshold of the root keys.
    Root,
    /// One of the keys that sign images.
    Image,
    /// One of the keys that sign channels and orders.
    Order,
    /// One of the keys that certify nodes and sign rosters.
    Authority,
    /// A key that is no chain-wide one: a node's or an agent's. The caller names it.
    Peer,
}

/// A document that travels in an [`Envelope`].
pub trait Document: Sized {
    /// Its number on the wire.
    const KIND: DocumentKind;
    /// Version of its payload's format.
    const VERSION: u8;
    /// Longest payload that is read, in bytes.
    const PAYLOAD_BYTES_MAX: usize;
    /// Whose signature makes it true.
    const SIGNER: SignerRole;

    /// Appends the payload.
    fn encode(&self, out: &mut Writer);

    /// Reads a payload; every limit of the format is checked here.
    ///
    /// # Errors
    /// [`DecodeError`] with the field and its offset.
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError>;

    /// The bytes that a signer signs.
    fn to_signed_bytes(&self) -> SignedBytes {
        let mut out = Writer::new();
        out.raw(&MAGIC).u8(Self::KIND as u8).u8(Self::VERSION);
        self.encode(&mut out);
        SignedBytes(out.finish())
    }
}

/// Header and payload of a document: what is signed, and what its digest is taken over.
#[derive(Clone, PartialEq, Eq)]
pub struct SignedBytes(Vec<u8>);

impl SignedBytes {
    /// The message for the signature algorithm.
    pub fn as_message(&self) -> &[u8] {
        &self.0
    }

    /// The document's identity.
    pub fn digest(&self) -> Digest {
        Digest(*blake3::hash(&self.0).as_bytes())
    }

    /// Puts signatures to it.
    pub fn into_envelope(self, signatures: Vec<(PublicKey, Signature)>) -> Envelope {
        Envelope {
            signed: self.0,
            signatures,
        }
    }
}

/// BLAKE3 over a document's signed bytes: its name everywhere.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..6].iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// A document as it travels: payload length, header, payload, signatures. Nothing in it is believed yet.
#[derive(Clone, PartialEq, Eq)]
pub struct Envelope {
    signed: Vec<u8>,
    signatures: Vec<(PublicKey, Signature)>,
}

impl Envelope {
    /// The bytes on disk and wire.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.bytes(&self.signed).count(self.signatures.len());
        for (key, signature) in &self.signatures {
            out.raw(&key.0).raw(&signature.0);
        }
        out.finish()
    }

    /// Reads an envelope whose signed part has at most `signed_bytes_max` bytes.
    ///
    /// # Errors
    /// [`DecodeError`] with field and offset.
    pub fn from_bytes(bytes: &[u8], signed_bytes_max: usize) -> Result<Self, DecodeError> {
        let mut input = Reader::new(bytes);
        let signed = input.bytes(signed_bytes_max, "signed bytes")?.to_vec();
        let count = input.count(ENVELOPE_SIGNATURES_MAX, 96, "signature count")?;
        let signatures = (0..count)
            .map(|_| {
                Ok((
                    PublicKey(input.array("signer")?),
                    Signature(input.array("signature")?),
                ))
            })
            .collect::<Result<_, _>>()?;
        input.finish()?;
        Ok(Self { signed, signatures })
    }

    /// What a signer signs.
    pub fn as_message(&self) -> &[u8] {
        &self.signed
    }

    /// The document's identity: signatures are no part of it.
    pub fn digest(&self) -> Digest {
        Digest(*blake3::hash(&self.signed).as_bytes())
    }

    /// The same with one more signature. What stood there under the same key makes way for it.
    ///
    /// # Errors
    /// [`EnvelopeFullError`] when [`ENVELOPE_SIGNATURES_MAX`] others have signed.
    pub fn with_signature(
        mut self,
        key: PublicKey,
        signature: Signature,
    ) -> Result<Self, EnvelopeFullError> {
        self.signatures.retain(|(signer, _)| *signer != key);
        if self.signatures.len() >= ENVELOPE_SIGNATURES_MAX {
            return Err(EnvelopeFullError);
        }
        self.signatures.push((key, signature));
        Ok(self)
    }

    /// The same with these signatures and no others.
    pub fn with_signatures(self, signatures: Vec<(PublicKey, Signature)>) -> Self {
        Self { signatures, ..self }
    }

    /// The signatures that are true, each key once.
    pub fn true_signatures(&self) -> Vec<(PublicKey, Signature)> {
        let mut found: Vec<(PublicKey, Signature)> = Vec::new();
        for (key, signature) in &self.signatures {
            let is_new = found.iter().all(|(known, _)| known != key);
            if is_new && key.verifies(&self.signed, signature) {
                found.push((*key, *signature));
            }
        }
        found
    }

    /// The keys whose signatures are on it and true, each once.
    pub fn true_signers(&self) -> Vec<PublicKey> {
        self.true_signatures()
            .into_iter()
            .map(|(key, _)| key)
            .collect()
    }
}

impl fmt::Debug for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (digest, signatures) = (self.digest(), self.signatures.len());
        write!(f, "Envelope({digest:?}, {signatures} signatures)")
    }
}

/// A document has as many signatures as it can carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the document carries {ENVELOPE_SIGNATURES_MAX} signatures already")]
pub struct EnvelopeFullError;

/// Why a document is not believed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum VerifyDocumentError {
    /// The bytes are no such document.
    #[error("not a {kind:?} document: {source}")]
    Malformed {
        /// What was expected.
        kind: DocumentKind,
        /// What is wrong with the bytes.
        source: DecodeError,
    },
    /// A document of another kind or version.
    #[error(
        "expected a {expected:?} document of version {version}, found kind {found} version {found_version}"
    )]
    WrongKind {
        /// What was expected.
        expected: DocumentKind,
        /// The version this program reads.
        version: u8,
        /// The kind's number in the bytes.
        found: u8,
        /// The version in the bytes.
        found_version: u8,
    },
    /// No signature that counts is on it and true.
    #[error("the {kind:?} document is not signed by {role}")]
    NotSigned {
        /// What it is.
        kind: DocumentKind,
        /// Who should have signed.
        role: String,
    },
}

/// A document whose signature was checked. There is no other way to make one than [`Verified::check`] and
/// [`Verified::check_by`], so a function that takes it cannot be given an unchecked document.
#[derive(Clone)]
pub struct Verified<T> {
    document: T,
    bytes: Arc<[u8]>,
    digest: Digest,
}

impl<T: Document> Verified<T> {
    /// Believes a document that carries a signature of the role it needs.
    ///
    /// # Errors
    /// [`VerifyDocumentError`]; the reader can tell forged from damaged bytes.
    pub fn check(bytes: &[u8], keys: &TrustedKeys) -> Result<Self, VerifyDocumentError> {
        let allowed = keys.of_role(T::SIGNER);
        Self::check_against(bytes, allowed, || {
            format!("the chain's {:?} key", T::SIGNER).to_lowercase()
        })
    }

    /// Believes a document that `signer`, a node or an agent, signed.
    ///
    /// # Errors
    /// [`VerifyDocumentError`].
    pub fn check_by(bytes: &[u8], signer: &PublicKey) -> Result<Self, VerifyDocumentError> {
        Self::check_against(bytes, &[*signer], || format!("peer {}", signer.short()))
    }

    pub(crate) fn check_against(
        bytes: &[u8],
        allowed: &[PublicKey],
        role: impl Fn() -> String,
    ) -> Result<Self, VerifyDocumentError> {
        let (envelope, document) = decode_unverified::<T>(bytes)?;
        if !envelope.true_signers().iter().any(|k| allowed.contains(k)) {
            return Err(VerifyDocumentError::NotSigned {
                kind: T::KIND,
                role: role(),
            });
        }
        Ok(Self::believe(envelope, document, bytes))
    }

    pub(crate) fn believe(envelope: Envelope, document: T, bytes: &[u8]) -> Self {
        Self {
            digest: SignedBytes(envelope.signed).digest(),
            document,
            bytes: bytes.into(),
        }
    }

    /// The bytes it came from, to be stored or passed on.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Its identity.
    pub fn digest(&self) -> Digest {
        self.digest
    }
}

/// What a document claims, before anything is verified. For finding the key that must have signed it, and for nothing else.
///
/// # Errors
/// When the bytes are no such document.
pub fn peek<T: Document>(bytes: &[u8]) -> Result<T, VerifyDocumentError> {
    Ok(decode_unverified(bytes)?.1)
}

/// The same with its envelope: for those who show it and add a signature, and for nothing else.
///
/// # Errors
/// When the bytes are no such document.
pub fn peek_envelope<T: Document>(bytes: &[u8]) -> Result<(Envelope, T), VerifyDocumentError> {
    decode_unverified(bytes)
}

/// Reads a document without believing it.
pub(crate) fn decode_unverified<T: Document>(
    bytes: &[u8],
) -> Result<(Envelope, T), VerifyDocumentError> {
    let malformed = |source| VerifyDocumentError::Malformed {
        kind: T::KIND,
        source,
    };
    let envelope =
        Envelope::from_bytes(bytes, T::PAYLOAD_BYTES_MAX + HEADER_BYTES).map_err(malformed)?;
    let mut input = Reader::new(&envelope.signed);
    let magic: [u8; 4] = input.array("magic").map_err(malformed)?;
    let kind = input.u8("kind").map_err(malformed)?;
    let version = input.u8("version").map_err(malformed)?;
    if magic != MAGIC || kind != T::KIND as u8 || version != T::VERSION {
        return Err(VerifyDocumentError::WrongKind {
            expected: T::KIND,
            version: T::VERSION,
            found: kind,
            found_version: version,
        });
    }
    let document = T::decode(&mut input).map_err(malformed)?;
    input.finish().map_err(malformed)?;
    Ok((envelope, document))
}

impl<T> Deref for Verified<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.document
    }
}

impl<T: fmt::Debug> fmt::Debug for Verified<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Verified").field(&self.document).finish()
    }
}
