//! The computer's own TPM 2.0: it proves which machine this is, and keeps a key that only this machine can read.
//!
//! Everything here blocks, up to [`COMMAND_WITHIN`] a command (a discrete TPM takes some tenths of a second to make a key);
//! an async caller goes through `spawn_blocking`. The bytes of commands and answers are `peer_cache_proto::tpm::command`'s.

mod device;

use std::{
    fs::File,
    io,
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::fcntl::OFlag;
use peer_cache_proto::tpm::{
    SealedKey, TpmProof, VerifyProofError,
    command::{self, Command, Handle, ResponseError, SECRET_BYTES},
};
use thiserror::Error;
use trust_format::PublicKey;
use zeroize::Zeroizing;

use device::Device;
pub use device::TransmitError;

/// What a command may take. The slowest TPMs in the field need about a second for a key of P-256.
pub const COMMAND_WITHIN: Duration = Duration::from_secs(30);
/// The kernel's devices, best first: the resource manager's can be open several times, the bare one once.
const DEVICES: [&str; 2] = ["/dev/tpmrm0", "/dev/tpm0"];

/// A TPM that answers.
#[derive(Debug)]
pub struct Tpm {
    device: Device,
}

/// Why there is no TPM to talk to.
#[derive(Debug, Error)]
pub enum OpenTpmError {
    /// The computer has none, or the kernel no driver for it.
    #[error("this computer shows no TPM (neither /dev/tpmrm0 nor /dev/tpm0)")]
    Missing,
    /// There is one and it cannot be opened: no right to it, or somebody else has it.
    #[error("opening the TPM {path}")]
    Io {
        /// Its device.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// Why a TPM did not do what it was asked.
#[derive(Debug, Error)]
pub enum AskTpmError {
    /// No answer came.
    #[error(transparent)]
    Transmit(#[from] TransmitError),
    /// The answer is no, or none.
    #[error(transparent)]
    Response(#[from] ResponseError),
}

/// Why a TPM proves nothing.
#[derive(Debug, Error)]
pub enum ProveError {
    /// It did not sign.
    #[error(transparent)]
    Ask(#[from] AskTpmError),
    /// It signed wrongly: it is broken.
    #[error("the TPM made a proof that does not hold")]
    Wrong(#[source] VerifyProofError),
}

/// Why a secret cannot be sealed.
#[derive(Debug, Error)]
pub enum SealError {
    /// The TPM did not do it.
    #[error(transparent)]
    Ask(#[from] AskTpmError),
    /// What it sealed it could not unseal at once: it is broken.
    #[error("the TPM does not give back what it sealed")]
    Lost(#[source] Option<UnsealError>),
}

/// Why a sealed secret cannot be had.
#[derive(Debug, Error)]
pub enum UnsealError {
    /// The TPM did not do it. Another try may help.
    #[error(transparent)]
    Ask(#[from] AskTpmError),
    /// It was sealed by another TPM, or by this one before it was cleared. It is lost here.
    #[error("it is sealed to another TPM, or this one was cleared since")]
    AnotherTpm,
    /// It hangs under this TPM's key and was changed since.
    #[error("it is damaged")]
    Damaged(#[source] ResponseError),
}

impl Tpm {
    /// The computer's first TPM.
    ///
    /// # Errors
    /// [`OpenTpmError`].
    pub fn open() -> Result<Self, OpenTpmError> {
        let found = DEVICES.iter().map(Path::new).find(|path| path.exists());
        Self::open_at(found.ok_or(OpenTpmError::Missing)?)
    }

    /// The TPM behind a device file of the kernel.
    ///
    /// # Errors
    /// [`OpenTpmError::Io`].
    pub fn open_at(path: &Path) -> Result<Self, OpenTpmError> {
        File::options()
            .read(true)
            .write(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(path)
            .and_then(|file| Self::on(file.into(), COMMAND_WITHIN))
            .map_err(|source| OpenTpmError::Io {
                path: path.to_owned(),
                source,
            })
    }

    /// A TPM at the other end of a file or socket on which commands and answers travel as they are, as an emulator's may.
    /// A command has the time `within`. The TPM must have been started; firmware and kernel do so for devices.
    ///
    /// # Errors
    /// When its flags cannot be set.
    pub fn on(file: OwnedFd, within: Duration) -> io::Result<Self> {
        Ok(Self {
            device: Device::new(file, within)?,
        })
    }

    /// Has the TPM sign that `agent` runs on its computer. The proof is checked before it is given out.
    ///
    /// # Errors
    /// [`ProveError`].
    pub fn prove(&mut self, agent: &PublicKey) -> Result<TpmProof, ProveError> {
        let (key, public) = self.ask(&command::identity_primary(), command::created_identity)?;
        let signed = self.ask(
            &command::sign(key, &TpmProof::digest(agent)),
            command::signed,
        );
        self.flush(key);
        let proof = TpmProof {
            public,
            signature: signed?,
        };
        proof.verify(agent).map_err(ProveError::Wrong)?;
        Ok(proof)
    }

    /// Seals a secret to this TPM, and has it unsealed once: what cannot be read again is no key to put on a disk.
    ///
    /// # Errors
    /// [`SealError`].
    pub fn seal(&mut self, secret: &[u8; SECRET_BYTES]) -> Result<SealedKey, SealError> {
        let (parent, digest) = self.ask(&command::storage_primary(), command::created_storage)?;
        let sealed = self.ask(&command::seal(parent, secret), |answer| {
            command::sealed(answer, digest)
        });
        let again = match &sealed {
            Ok(sealed) => Some(self.unseal_under(parent, sealed)),
            Err(_) => None,
        };
        self.flush(parent);
        let sealed = sealed?;
        match again {
            Some(Ok(same)) if *same == *secret => Ok(sealed),
            Some(Err(error)) => Err(SealError::Lost(Some(error))),
            _ => Err(SealError::Lost(None)),
        }
    }

    /// The secret that this TPM sealed.
    ///
    /// # Errors
    /// [`UnsealError`].
    pub fn unseal(
        &mut self,
        sealed: &SealedKey,
    ) -> Result<Zeroizing<[u8; SECRET_BYTES]>, UnsealError> {
        let (parent, digest) = self.ask(&command::storage_primary(), command::created_storage)?;
        let secret = match digest == sealed.parent {
            true => self.unseal_under(parent, sealed),
            false => Err(UnsealError::AnotherTpm),
        };
        self.flush(parent);
        secret
    }

    fn unseal_under(
        &mut self,
        parent: Handle,
        sealed: &SealedKey,
    ) -> Result<Zeroizing<[u8; SECRET_BYTES]>, UnsealError> {
        let object = match self.ask(&command::load(parent, sealed), command::loaded) {
            Err(AskTpmError::Response(error)) if error.is_about_the_object() => {
                return Err(UnsealError::Damaged(error));
            }
            object => object?,
        };
        let secret = self.ask(&command::unseal(object), command::unsealed);
        self.flush(object);
        Ok(secret?)
    }

    fn ask<T>(
        &mut self,
        command: &Command,
        read: impl FnOnce(&[u8]) -> Result<T, ResponseError>,
    ) -> Result<T, AskTpmError> {
        let answer = self.device.transmit(command)?;
        Ok(read(&answer)?)
    }

    /// Makes room for others; who has the device to himself would fill the TPM's three places otherwise. Nothing depends on it:
    /// the kernel's resource manager forgets everything when the device is closed.
    fn flush(&mut self, object: Handle) {
        if let Err(error) = self.ask(&command::flush(object), command::flushed) {
            tracing::debug!(%error, "a key stays in the TPM's memory");
        }
    }
}
