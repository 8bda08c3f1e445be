//! Signing by hand: what a root still needs, and one more signature on a document. No file and no HQ; whoever holds a key calls this.

use thiserror::Error;
use trust_format::{
    Digest, Document, Envelope, EnvelopeFullError, PublicKey, Root, Signature, TrustRootError,
    VerifyDocumentError, peek_envelope,
};

/// Something that signs with one secret key and does not give it out.
pub trait KeyHolder {
    /// Its public half.
    fn public(&self) -> PublicKey;

    /// Signs with Ed25519 (RFC 8032, pure).
    ///
    /// # Errors
    /// [`SignError`]; a key out of a file never fails.
    fn sign(&self, message: &[u8]) -> Result<Signature, SignError>;
}

/// Why no signature came.
#[derive(Debug, Error)]
pub enum SignError {
    /// The token refused.
    #[error("the token refuses to sign")]
    Token(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// What came is no true signature by the key that was asked for.
    #[error("what the token answered is no signature by key {key} over the document")]
    WrongSignature {
        /// The key.
        key: PublicKey,
    },
}

/// Why a signature was not added.
#[derive(Debug, Error)]
pub enum AddSignatureError {
    /// The bytes are no such document.
    #[error(transparent)]
    Document(#[from] VerifyDocumentError),
    /// No signature came.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// There is no room for it.
    #[error(transparent)]
    Full(#[from] EnvelopeFullError),
    /// Nobody counts signatures of this key.
    #[error("key {key} is no {role} key of {of}")]
    NoSuchKey {
        /// The key.
        key: PublicKey,
        /// What it should be.
        role: &'static str,
        /// Where it should be named.
        of: String,
    },
}

/// Puts a signature to a document, whoever the key is. One that is there and true already stays as it is.
///
/// # Errors
/// [`AddSignatureError`].
pub fn add_signature<T: Document>(
    document: &[u8],
    key: &dyn KeyHolder,
) -> Result<Vec<u8>, AddSignatureError> {
    let (envelope, _) = peek_envelope::<T>(document)?;
    if envelope.true_signers().contains(&key.public()) {
        return Ok(document.to_vec());
    }
    let signature = key.sign(envelope.as_message())?;
    if !key.public().verifies(envelope.as_message(), &signature) {
        return Err(SignError::WrongSignature { key: key.public() }.into());
    }
    Ok(envelope.with_signature(key.public(), signature)?.to_bytes())
}

/// Signatures that HQ keeps on a document that it signs anew or gets back. Orders and certificates have 1,024 bytes on the wire: their
/// content and four signatures fit, and a key that the root names no longer needs none.
pub const SIGNATURES_KEPT_MAX: usize = 4;

/// A document with the true signatures of these keys, in their order and at most [`SIGNATURES_KEPT_MAX`], wherever they are found: on the first
/// envelope, or on the second when that is of the same document.
///
/// # Errors
/// [`VerifyDocumentError`] when one is no such document.
pub fn merge_signatures<T: Document>(
    envelopes: [&[u8]; 2],
    keys: &[PublicKey],
) -> Result<Vec<u8>, VerifyDocumentError> {
    let [(first, _), (second, _)] = [
        peek_envelope::<T>(envelopes[0])?,
        peek_envelope::<T>(envelopes[1])?,
    ];
    let mut all = first.true_signatures();
    if second.digest() == first.digest() {
        all.extend(second.true_signatures());
    }
    Ok(first.with_signatures(kept(&all, keys)).to_bytes())
}

/// The signatures of these keys, in their order.
pub(super) fn kept(
    all: &[(PublicKey, Signature)],
    keys: &[PublicKey],
) -> Vec<(PublicKey, Signature)> {
    keys.iter()
        .filter_map(|key| all.iter().find(|(signer, _)| signer == key).copied())
        .take(SIGNATURES_KEPT_MAX)
        .collect()
}

/// A document before anybody signed it.
pub fn unsigned<T: Document>(document: &T) -> Vec<u8> {
    document
        .to_signed_bytes()
        .into_envelope(Vec::new())
        .to_bytes()
}

/// Signatures of one root's keys on a root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tally {
    /// How many it takes.
    pub needed: usize,
    /// Keys that signed.
    pub signed: Vec<PublicKey>,
    /// Keys that did not.
    pub absent: Vec<PublicKey>,
}

impl Tally {
    fn of(root: &Root, signers: &[PublicKey]) -> Self {
        let mut keys = root.root_keys.clone();
        keys.sort_unstable();
        keys.dedup();
        let (signed, absent) = keys.into_iter().partition(|k| signers.contains(k));
        Self {
            needed: usize::from(root.threshold),
            signed,
            absent,
        }
    }

    /// How many signatures are missing.
    pub fn lacks(&self) -> usize {
        self.needed.saturating_sub(self.signed.len())
    }
}

/// A root that goes from hand to hand until enough have signed it.
#[derive(Debug, Clone)]
pub struct RootDraft {
    root: Root,
    envelope: Envelope,
    before: Option<Root>,
}

/// Why a root cannot be drawn up.
#[derive(Debug, Error)]
pub enum DraftRootError {
    /// The bytes are no root.
    #[error(transparent)]
    Document(#[from] VerifyDocumentError),
    /// The root before it does not hold itself.
    #[error("the root before it")]
    Before(#[source] TrustRootError),
    /// It does not come after the root that is said to be before it.
    #[error("root {number} does not come after root {before}")]
    Order {
        /// Of the draft.
        number: u64,
        /// Of the root before it.
        before: u64,
    },
    /// A key stands twice in a list, so that the threshold would be less than it says.
    #[error("{key} is named twice as {role} key")]
    Twice {
        /// The key.
        key: PublicKey,
        /// The list.
        role: &'static str,
    },
    /// Nobody could sign under such a key.
    #[error("{key}, named as {role} key, is no Ed25519 public key")]
    NoKey {
        /// The bytes.
        key: PublicKey,
        /// The list.
        role: &'static str,
    },
    /// There is no number left.
    #[error("root {before} has the last number there is")]
    LastNumber {
        /// Of the root before it.
        before: u64,
    },
}

/// The lists of keys in a root, each with the word for it.
pub fn key_lists(root: &Root) -> [(&'static str, &[PublicKey]); 4] {
    [
        ("root", &root.root_keys),
        ("image", &root.image_keys),
        ("order", &root.order_keys),
        ("authority", &root.authority_keys),
    ]
}

impl RootDraft {
    /// Draws up a root. Its number is one more than that of the root before it, or 1.
    ///
    /// # Errors
    /// [`DraftRootError`]; a root that breaks a limit of its format is refused with the field's name.
    pub fn new(mut root: Root, before: Option<&[u8]>) -> Result<Self, DraftRootError> {
        let before = before.map(root_before).transpose()?;
        root.number = match &before {
            None => 1,
            Some(old) => old
                .number
                .checked_add(1)
                .ok_or(DraftRootError::LastNumber { before: old.number })?,
        };
        for (role, keys) in key_lists(&root) {
            for (n, key) in keys.iter().enumerate() {
                if keys[..n].contains(key) {
                    return Err(DraftRootError::Twice { key: *key, role });
                }
                if !key.is_strong() {
                    return Err(DraftRootError::NoKey { key: *key, role });
                }
            }
        }
        // what nobody could read back is refused here
        let (envelope, root) = peek_envelope::<Root>(&unsigned(&root))?;
        Ok(Self {
            root,
            envelope,
            before,
        })
    }

    /// Reads one, with the root before it if that is known.
    ///
    /// # Errors
    /// [`DraftRootError`]; the root before it must carry its own signatures.
    pub fn read(bytes: &[u8], before: Option<&[u8]>) -> Result<Self, DraftRootError> {
        let (envelope, root) = peek_envelope::<Root>(bytes)?;
        let before = before.map(root_before).transpose()?;
        if let Some(before) = before.as_ref().filter(|b| b.number >= root.number) {
            return Err(DraftRootError::Order {
                number: root.number,
                before: before.number,
            });
        }
        Ok(Self {
            root,
            envelope,
            before,
        })
    }

    /// What it says.
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// The root before it, if it is known.
    pub fn before(&self) -> Option<&Root> {
        self.before.as_ref()
    }

    /// The document's identity; what people compare before they sign.
    pub fn digest(&self) -> Digest {
        self.envelope.digest()
    }

    /// Who of its own keys signed.
    pub fn own_tally(&self) -> Tally {
        Tally::of(&self.root, &self.envelope.true_signers())
    }

    /// Who of the keys of the root before it signed, if that is known.
    pub fn tally_before(&self) -> Option<Tally> {
        let signers = self.envelope.true_signers();
        self.before.as_ref().map(|root| Tally::of(root, &signers))
    }

    /// Whether all signatures that are known to be needed are there.
    pub fn is_complete(&self) -> bool {
        self.own_tally().lacks() == 0 && self.tally_before().is_none_or(|t| t.lacks() == 0)
    }

    /// Signs it. A key that signed already changes nothing.
    ///
    /// # Errors
    /// [`AddSignatureError::NoSuchKey`] for a key that is a root key neither here nor in the root before.
    pub fn sign(&mut self, key: &dyn KeyHolder) -> Result<(), AddSignatureError> {
        let public = key.public();
        let counts = |root: &Root| root.root_keys.contains(&public);
        if !counts(&self.root) && !self.before.as_ref().is_some_and(counts) {
            let of = match &self.before {
                Some(before) => format!("root {} or root {}", self.root.number, before.number),
                None => format!("root {}", self.root.number),
            };
            return Err(AddSignatureError::NoSuchKey {
                key: public,
                role: "root",
                of,
            });
        }
        let signed = add_signature::<Root>(&self.envelope.to_bytes(), key)?;
        self.envelope = peek_envelope::<Root>(&signed)?.0;
        Ok(())
    }

    /// The bytes on disk.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.envelope.to_bytes()
    }
}

fn root_before(bytes: &[u8]) -> Result<Root, DraftRootError> {
    let keys = trust_format::TrustedKeys::pin(bytes).map_err(DraftRootError::Before)?;
    Ok((**keys.root()).clone())
}
