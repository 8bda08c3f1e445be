//! What a machine's TPM proves, and how it is spoken to: proofs, sealed keys and the few commands, as bytes.
//!
//! A TPM 2.0 makes a signing key out of its endorsement seed and a fixed template ([`command::identity_primary`]). The key is
//! the same whenever it is made, also after the TPM was cleared, and never leaves it: so its digest, a [`TpmKey`], is a name
//! that a machine cannot take off another one's label, unlike a UUID or a serial.

pub mod command;
mod sealed;

use ring::{
    digest::{SHA256, digest},
    signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey},
};
use thiserror::Error;
use trust_format::{
    PublicKey,
    codec::{DecodeError, Reader, Writer},
};

pub use sealed::SealedKey;
pub use trust_format::TpmKey;

/// Length of a proof, encoded.
pub const PROOF_BYTES: usize = 128;
/// What a proof signs begins with this, so that it can be mistaken for nothing else.
const DOMAIN: &[u8; 20] = b"lamplighter tpm 2026";
/// Context of the digest that makes a [`TpmKey`].
const KEY_CONTEXT: &str = "lamplighter tpm key 2026";
/// First byte of an uncompressed point (SEC 1, section 2.3.3).
const UNCOMPRESSED: u8 = 4;

/// A TPM's word that an agent or a node runs on its computer: ECDSA over P-256 with SHA-256 (FIPS 186-5). Whoever copies it
/// gains nothing, since it is about one agent's key, and the connection on which it is shown proves that one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TpmProof {
    /// The TPM's key: x and y of a point of P-256, big-endian.
    pub public: [u8; 64],
    /// r and s, big-endian.
    pub signature: [u8; 64],
}

/// Why a proof proves nothing. Whose proof it is has shown a wrong one: asking again does not help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum VerifyProofError {
    /// The signature is not of this key over this agent, or the key is no point of the curve.
    #[error("the TPM's signature is not over the key of this agent")]
    Signature,
}

impl TpmProof {
    /// What a TPM signs for an agent.
    pub fn message(agent: &PublicKey) -> [u8; 52] {
        let mut message = [0; 52];
        message[..DOMAIN.len()].copy_from_slice(DOMAIN);
        message[DOMAIN.len()..].copy_from_slice(&agent.0);
        message
    }

    /// SHA-256 of [`TpmProof::message`], which is what the TPM is given.
    pub fn digest(agent: &PublicKey) -> [u8; 32] {
        let mut out = [0; 32];
        out.copy_from_slice(digest(&SHA256, &Self::message(agent)).as_ref());
        out
    }

    /// Which TPM says that `agent` runs on its computer.
    ///
    /// # Errors
    /// [`VerifyProofError`].
    pub fn verify(&self, agent: &PublicKey) -> Result<TpmKey, VerifyProofError> {
        let mut point = [UNCOMPRESSED; 65];
        point[1..].copy_from_slice(&self.public);
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
            .verify(&Self::message(agent), &self.signature)
            .map_err(|_| VerifyProofError::Signature)?;
        Ok(TpmKey(blake3::derive_key(KEY_CONTEXT, &self.public)))
    }

    /// Appends it: [`PROOF_BYTES`], key and signature.
    pub fn encode(&self, out: &mut Writer) {
        out.raw(&self.public).raw(&self.signature);
    }

    /// Reads it. Any bytes are a proof until they are verified.
    ///
    /// # Errors
    /// When the input ends in it.
    pub fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            public: input.array("TPM key")?,
            signature: input.array("TPM signature")?,
        })
    }
}

impl std::fmt::Debug for TpmProof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TpmProof(..)")
    }
}

#[cfg(test)]
mod tests;
