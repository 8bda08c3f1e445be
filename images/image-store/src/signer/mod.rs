//! The chain's own secret keys. Nothing outside this folder sees them; they leave memory zeroed.
//!
//! HQ signs with those that are in its folder ([`Signer`]); people sign with those that are not, on a computer without a network
//! ([`RootDraft`], [`add_signature`]).

mod ceremony;
mod folder;
mod key;
mod parcel;
mod token;

use std::{
    path::Path,
    sync::{Arc, PoisonError, RwLock},
};

use image_format::Manifest;
use thiserror::Error;
use trust_format::{
    Channel, Document, NodeCertificate, Order, PublicKey, Roster, SignerRole, TrustRootError,
    TrustedKeys, Verified, VerifyDocumentError, peek_envelope,
};

pub use ceremony::{
    AddSignatureError, DraftRootError, KeyHolder, RootDraft, SIGNATURES_KEPT_MAX, SignError, Tally,
    add_signature, key_lists, merge_signatures, unsigned,
};
use folder::KeyFolder;
pub use folder::OpenSignerError;
pub use key::{FOUR_ROLES, FileKey, KeyFileError, SplitKey, split_keys};
pub use parcel::{PARCEL_BYTES_MAX, PARCEL_ORDERS_MAX, Parcel, ReadParcelError};
pub use token::{OpenTokenError, TokenChoice, create_token_key, open_token_key};

/// Signs for the chain with the keys that HQ holds: whatever the present root names for a role and is in the folder.
pub struct Signer {
    folder: KeyFolder,
    state: RwLock<Arc<State>>,
}

/// What changes together when a root does.
#[derive(Debug)]
struct State {
    trusted: TrustedKeys,
    /// All roots, the newest last.
    roots: Vec<Vec<u8>>,
    held: Vec<FileKey>,
}

/// Why HQ did not sign.
#[derive(Debug, Error)]
pub enum SignDocumentError {
    /// The key is somewhere else.
    #[error("HQ holds no {role} key that root {root} names: one of them has to sign this by hand")]
    NotHeld {
        /// Which key.
        role: &'static str,
        /// The root's number.
        root: u64,
    },
    /// The document breaks a rule of its own format: what nobody could read back is not signed.
    #[error(transparent)]
    Document(#[from] VerifyDocumentError),
}

/// Why a root was not taken.
#[derive(Debug, Error)]
pub enum AdvanceRootError {
    /// It does not follow from the present one.
    #[error(transparent)]
    Trust(#[from] TrustRootError),
    /// It could not be kept, or the folder of keys cannot be read.
    #[error(transparent)]
    Folder(#[from] OpenSignerError),
}

/// A role's word.
pub fn role_word(role: SignerRole) -> &'static str {
    match role {
        SignerRole::Root => "root",
        SignerRole::Image => "image",
        SignerRole::Order => "order",
        SignerRole::Authority => "authority",
        SignerRole::Peer => "peer",
    }
}

/// A root that follows from the present one and is not taken yet, together with the keys that are in the folder now.
#[derive(Debug)]
pub struct NextRoot {
    state: State,
    /// What holds until this root is taken.
    before: TrustedKeys,
}

impl NextRoot {
    /// The keys that it names.
    pub fn trusted(&self) -> &TrustedKeys {
        &self.state.trusted
    }

    /// Whether HQ could sign for a role under it.
    pub fn can_sign(&self, role: SignerRole) -> bool {
        self.state.key_of(role).is_some()
    }

    /// The key with which HQ would sign for a role under it.
    pub fn signer(&self, role: SignerRole) -> Option<PublicKey> {
        self.state.key_of(role).map(KeyHolder::public)
    }

    /// Puts the signature of the key that will hold to a document. It counts under both roots, so it can be stored before the root is taken.
    ///
    /// # Errors
    /// [`SignDocumentError`].
    pub fn sign_again<T: Document>(&self, bytes: &[u8]) -> Result<Verified<T>, SignDocumentError> {
        self.state.sign_again(bytes, &self.before)
    }
}

impl State {
    /// The first key that the root names for a role and that is held.
    fn key_of(&self, role: SignerRole) -> Option<&FileKey> {
        let named = self.trusted.of_role(role);
        named
            .iter()
            .find_map(|key| self.held.iter().find(|held| held.public() == *key))
    }

    fn key<T: Document>(&self) -> Result<&FileKey, SignDocumentError> {
        self.key_of(T::SIGNER).ok_or(SignDocumentError::NotHeld {
            role: role_word(T::SIGNER),
            root: self.trusted.root().number,
        })
    }

    fn sign<T: Document>(&self, document: &T) -> Result<Verified<T>, SignDocumentError> {
        let key = self.key::<T>()?;
        let bytes = document.to_signed_bytes();
        let signature = key.signature(bytes.as_message());
        let signed = bytes.into_envelope(vec![(key.public(), signature)]);
        Ok(Verified::check(&signed.to_bytes(), &self.trusted)?)
    }

    /// Beside the new signature stay those of keys that the root before names: nobody needs others.
    fn sign_again<T: Document>(
        &self,
        bytes: &[u8],
        before: &TrustedKeys,
    ) -> Result<Verified<T>, SignDocumentError> {
        let key = self.key::<T>()?;
        let (envelope, _) = peek_envelope::<T>(bytes)?;
        let mut all = envelope.true_signatures();
        all.push((key.public(), key.signature(envelope.as_message())));
        let mut keys = vec![key.public()];
        let others = before.of_role(T::SIGNER).iter();
        keys.extend(others.filter(|other| **other != key.public()));
        let signed = envelope.with_signatures(ceremony::kept(&all, &keys));
        Ok(Verified::check(&signed.to_bytes(), &self.trusted)?)
    }
}

impl Signer {
    /// Opens the keys and roots in `folder`. In a folder without a root it makes four keys and a first root, with mode 0600. Keys that are
    /// not there are kept offline, which is no error: what they sign waits.
    ///
    /// # Errors
    /// [`OpenSignerError`]; an existing file is never overwritten.
    pub fn open_or_create(folder: &Path) -> Result<Self, OpenSignerError> {
        let folder = KeyFolder::new(folder);
        folder.make_if_new()?;
        let held = folder.keys()?;
        let (trusted, roots) = folder.roots()?;
        let state = State {
            trusted,
            roots,
            held,
        };
        Ok(Self {
            folder,
            state: RwLock::new(Arc::new(state)),
        })
    }

    fn state(&self) -> Arc<State> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&state)
    }

    /// The keys that others are to trust.
    pub fn trusted(&self) -> TrustedKeys {
        self.state().trusted.clone()
    }

    /// All roots in order, the present one last.
    pub fn roots(&self) -> Vec<Vec<u8>> {
        self.state().roots.clone()
    }

    /// Whether a key that the present root names for a role is here.
    pub fn can_sign(&self, role: SignerRole) -> bool {
        self.state().key_of(role).is_some()
    }

    /// Whether a secret key is here.
    pub fn holds(&self, key: &PublicKey) -> bool {
        self.state().held.iter().any(|held| held.public() == *key)
    }

    /// Checks a root against the present one, and reads the folder's keys anew, so that a key that was put there counts without a restart.
    /// Nothing changes until [`Self::advance`].
    ///
    /// # Errors
    /// [`AdvanceRootError`]; the present root again is none.
    pub fn next(&self, root_bytes: &[u8]) -> Result<NextRoot, AdvanceRootError> {
        let state = self.state();
        let trusted = state.trusted.advance(root_bytes)?;
        let mut roots = state.roots.clone();
        if trusted.root().digest() != state.trusted.root().digest() {
            roots.push(root_bytes.to_vec());
        }
        let held = self.folder.keys()?;
        Ok(NextRoot {
            before: state.trusted.clone(),
            state: State {
                trusted,
                roots,
                held,
            },
        })
    }

    /// Keeps a root and signs under it from now on.
    ///
    /// # Errors
    /// [`AdvanceRootError`]; nothing changed then, but for a root that may already be kept and counts at the next start.
    pub fn advance(&self, next: NextRoot) -> Result<(), AdvanceRootError> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        // somebody else may have been quicker
        state
            .trusted
            .advance(next.state.trusted.root().as_bytes())?;
        self.folder.keep(&next.state.trusted)?;
        *state = Arc::new(next.state);
        Ok(())
    }

    /// Signs what an image is.
    ///
    /// # Errors
    /// [`SignDocumentError`].
    pub fn sign_manifest(
        &self,
        manifest: &Manifest,
    ) -> Result<Verified<Manifest>, SignDocumentError> {
        self.state().sign(manifest)
    }

    /// Signs what a site means now.
    ///
    /// # Errors
    /// [`SignDocumentError`].
    pub fn sign_channel(&self, channel: &Channel) -> Result<Verified<Channel>, SignDocumentError> {
        self.state().sign(channel)
    }

    /// Signs an instruction to image machines.
    ///
    /// # Errors
    /// [`SignDocumentError`].
    pub fn sign_order(&self, order: &Order) -> Result<Verified<Order>, SignDocumentError> {
        self.state().sign(order)
    }

    /// Signs which machines a site knows.
    ///
    /// # Errors
    /// [`SignDocumentError`].
    pub fn sign_roster(&self, roster: &Roster) -> Result<Verified<Roster>, SignDocumentError> {
        self.state().sign(roster)
    }

    /// Certifies a node.
    ///
    /// # Errors
    /// [`SignDocumentError`].
    pub fn certify(
        &self,
        node: &NodeCertificate,
    ) -> Result<Verified<NodeCertificate>, SignDocumentError> {
        self.state().sign(node)
    }
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer")
            .field("root", self.trusted().root())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
