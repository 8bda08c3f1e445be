//! A voucher's file: made at HQ's side for a PIN, opened in the store by whoever knows it.
//!
//! The PIN is all that keeps a copy of the file shut, and nothing counts the tries of whoever has a copy. So a try is dear, a
//! PIN is long, and a voucher is good for few machines and is revoked like a node.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use argon2::{Algorithm, Argon2, Params, Version};
use peer_cache_proto::{
    voucher::{
        VOUCHER_SEALED_BYTES_MAX, VOUCHER_TRIES_MAX, VOUCHER_TRIES_OFFSET, VoucherFile,
        VoucherLabel,
    },
    wire::{Documents, FRAME_BYTES_MAX, Frame},
};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use thiserror::Error;
use trust_format::{
    CERTIFICATE_BYTES_MAX, PinRule,
    codec::{DecodeError, Reader, Writer},
};
use zeroize::Zeroizing;

use super::Identity;

/// Memory of one try: what RFC 9106 (section 4) gives to machines with little of it.
const MEMORY_KIB: u32 = 64 * 1024;
const PASSES: u32 = 3;
/// A longer file is none: the longest sealed part, and what stands before it.
const FILE_BYTES_MAX: u64 = 9 << 20;
const FRAMES_MAX: usize = 64;
/// Letters of a voucher's PIN: longer than a site's, because a copy of the file can be tried in peace.
pub const VOUCHER_PIN_LETTERS: std::ops::RangeInclusive<usize> = 8..=32;

/// A voucher that was opened.
pub struct OpenedVoucher {
    /// Its key.
    pub identity: Identity,
    /// Its certificate.
    pub certificate: Vec<u8>,
    /// What the site meant when it was made.
    pub documents: Documents,
    /// The PIN that opened it, to be typed at the machines as well.
    pub pin: PinRule,
    /// What everybody may read of it.
    pub label: VoucherLabel,
}

/// Why a voucher does not open.
#[derive(Debug, Error)]
pub enum OpenVoucherError {
    /// The file system refused.
    #[error("voucher {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Wrong tries cannot be counted.
    #[error("voucher {path} lies where nothing can be written: wrong PINs could not be counted")]
    ReadOnly {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// It is no voucher.
    #[error("{path} is no voucher, or a damaged one")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where.
        #[source]
        source: DecodeError,
    },
    /// The PIN is wrong.
    #[error("this is not the voucher's PIN: {left} more tries")]
    WrongPin {
        /// Tries that are left.
        left: u8,
    },
    /// Too many PINs were wrong.
    #[error(
        "too many wrong PINs were typed, and voucher {path} was destroyed: a new one is made at HQ"
    )]
    Destroyed {
        /// The file.
        path: PathBuf,
    },
    /// The system has no randomness.
    #[error("no randomness: {0}")]
    Random(String),
}

/// The PIN is too short or too long, or there is no randomness.
#[derive(Debug, Error)]
pub enum SealVoucherError {
    /// The PIN.
    #[error("a voucher's PIN has {} to {} letters or digits", VOUCHER_PIN_LETTERS.start(), VOUCHER_PIN_LETTERS.end())]
    Pin,
    /// The documents.
    #[error("the site's documents are too long for a voucher")]
    TooLong,
    /// The system.
    #[error("no randomness: {0}")]
    Random(String),
}

fn random<const N: usize>() -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| e.to_string())?;
    Ok(bytes)
}

fn has_right_length(pin: &str) -> bool {
    VOUCHER_PIN_LETTERS.contains(&pin.trim().chars().count())
}

/// The key that a PIN gives. It seals one file, so its nonce may be fixed.
fn key_of(pin: &str, salt: &[u8; 16]) -> Option<LessSafeKey> {
    if !has_right_length(pin) {
        return None;
    }
    let params = Params::new(MEMORY_KIB, PASSES, 1, Some(32)).ok()?;
    let mut key = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(pin.trim().as_bytes(), salt, &mut *key)
        .ok()?;
    let key = UnboundKey::new(&CHACHA20_POLY1305, &*key).ok()?;
    Some(LessSafeKey::new(key))
}

fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

/// The file of a voucher. Takes 64 MiB for some tenths of a second.
///
/// # Errors
/// [`SealVoucherError`].
pub fn seal_voucher(
    identity: &Identity,
    certificate: &[u8],
    documents: Documents,
    label: VoucherLabel,
    pin: &str,
) -> Result<Vec<u8>, SealVoucherError> {
    let frames = documents.into_frames();
    if frames.len() > FRAMES_MAX {
        return Err(SealVoucherError::TooLong);
    }
    let mut inner = Writer::new();
    inner.raw(&*identity.seed()).bytes(certificate);
    inner.count(frames.len());
    for frame in frames {
        inner.bytes(&frame.to_bytes());
    }
    let mut sealed = Zeroizing::new(inner.finish());
    let mut file = VoucherFile {
        tries: 0,
        salt: random().map_err(SealVoucherError::Random)?,
        label,
        sealed: Vec::new(),
    };
    let key = key_of(pin, &file.salt).ok_or(SealVoucherError::Pin)?;
    key.seal_in_place_append_tag(nonce(), Aad::from(file.bound()), &mut *sealed)
        .map_err(|_| SealVoucherError::TooLong)?;
    file.sealed.clone_from(&sealed);
    match file.sealed.len() > VOUCHER_SEALED_BYTES_MAX {
        true => Err(SealVoucherError::TooLong),
        false => Ok(file.to_bytes()),
    }
}

fn read(path: &Path) -> Result<VoucherFile, OpenVoucherError> {
    let io_error = |source| OpenVoucherError::Io {
        path: path.to_owned(),
        source,
    };
    let bytes = fs::metadata(path).map_err(io_error)?.len();
    if bytes > FILE_BYTES_MAX {
        let source = io::Error::other(format!("{bytes} bytes are too many for a voucher"));
        return Err(io_error(source));
    }
    let bytes = fs::read(path).map_err(io_error)?;
    VoucherFile::from_bytes(&bytes).map_err(|source| OpenVoucherError::Damaged {
        path: path.to_owned(),
        source,
    })
}

/// What everybody may read of a voucher.
///
/// # Errors
/// [`OpenVoucherError`]; also when no PIN opens it any more.
pub fn read_voucher_label(path: &Path) -> Result<VoucherLabel, OpenVoucherError> {
    let file = read(path)?;
    match file.is_destroyed() {
        true => Err(OpenVoucherError::Destroyed {
            path: path.to_owned(),
        }),
        false => Ok(file.label),
    }
}

/// Opens a voucher. A try is counted in the file before it is looked at; the last wrong one destroys it. Takes 64 MiB for some
/// tenths of a second.
///
/// # Errors
/// [`OpenVoucherError`].
pub fn open_voucher(path: &Path, pin: &str) -> Result<OpenedVoucher, OpenVoucherError> {
    let file = read(path)?;
    let destroyed = || OpenVoucherError::Destroyed {
        path: path.to_owned(),
    };
    if file.is_destroyed() {
        return Err(destroyed());
    }
    let read_only = |source| OpenVoucherError::ReadOnly {
        path: path.to_owned(),
        source,
    };
    // what cannot be the PIN costs no try: a key that was hit by mistake destroys nothing
    if !has_right_length(pin) {
        let left = VOUCHER_TRIES_MAX - file.tries;
        return Err(OpenVoucherError::WrongPin { left });
    }
    let on_disk = File::options().write(true).open(path).map_err(read_only)?;
    let note = |tries: u8| {
        on_disk
            .write_all_at(&[tries], VOUCHER_TRIES_OFFSET)
            .and_then(|()| on_disk.sync_data())
            .map_err(read_only)
    };
    let tries = file.tries + 1;
    note(tries)?;
    let Some(inner) = unseal(&file, pin) else {
        let left = VOUCHER_TRIES_MAX.saturating_sub(tries);
        if left > 0 {
            return Err(OpenVoucherError::WrongPin { left });
        }
        // the salt follows the tries
        on_disk
            .write_all_at(&[0; 16], VOUCHER_TRIES_OFFSET + 1)
            .and_then(|()| on_disk.sync_data())
            .map_err(read_only)?;
        return Err(destroyed());
    };
    note(0)?;
    let (identity, certificate, documents) =
        read_inner(&inner).map_err(|source| OpenVoucherError::Damaged {
            path: path.to_owned(),
            source,
        })?;
    let salt = random().map_err(OpenVoucherError::Random)?;
    let hash = PinRule::hash(pin, &salt).unwrap_or_default();
    Ok(OpenedVoucher {
        identity,
        certificate,
        documents,
        pin: PinRule {
            number: 1,
            // what is counted is machines: one may have to ask again
            uses: u16::MAX,
            life_hours: 0,
            salt,
            hash,
        },
        label: file.label,
    })
}

fn unseal(file: &VoucherFile, pin: &str) -> Option<Zeroizing<Vec<u8>>> {
    let key = key_of(pin, &file.salt)?;
    let mut sealed = Zeroizing::new(file.sealed.clone());
    let length = key
        .open_in_place(nonce(), Aad::from(file.bound()), &mut sealed)
        .ok()?
        .len();
    sealed.truncate(length);
    Some(sealed)
}

fn read_inner(bytes: &[u8]) -> Result<(Identity, Vec<u8>, Documents), DecodeError> {
    let mut input = Reader::new(bytes);
    let seed = Zeroizing::new(input.array("key")?);
    let certificate = input.bytes(CERTIFICATE_BYTES_MAX, "certificate")?.to_vec();
    let count = input.count(FRAMES_MAX, 4, "documents")?;
    let mut all = Documents::default();
    for _ in 0..count {
        let frame = Frame::from_bytes(input.bytes(FRAME_BYTES_MAX, "documents")?)?;
        let Frame::Documents(some) = frame else {
            return Err(input.bad("documents", 1, 0));
        };
        all.roots.extend(some.roots);
        all.channel = all.channel.or(some.channel);
        all.roster = all.roster.or(some.roster);
        all.orders.extend(some.orders);
        all.completions.extend(some.completions);
    }
    input.finish()?;
    Ok((Identity::of_seed(&seed), certificate, all))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIN: &str = "0123456789";

    fn voucher(folder: &Path) -> (PathBuf, Identity) {
        let identity = Identity::generate().unwrap();
        let documents = Documents {
            roots: vec![vec![1; 300]],
            channel: Some(vec![2; 200]),
            orders: vec![vec![3; 100]; 200],
            ..Documents::default()
        };
        let label = VoucherLabel {
            site: "Graz".into(),
            name: "van 3".into(),
            machines: 8,
        };
        let bytes = seal_voucher(&identity, &[4; 200], documents, label, PIN).unwrap();
        let path = folder.join("voucher");
        fs::write(&path, bytes).unwrap();
        (path, identity)
    }

    #[test]
    fn the_pin_opens_it_and_five_wrong_ones_destroy_it() {
        let folder = tempfile::tempdir().unwrap();
        let (path, identity) = voucher(folder.path());
        assert_eq!(read_voucher_label(&path).unwrap().name, "van 3");
        let left = |pin: &str| match open_voucher(&path, pin) {
            Err(OpenVoucherError::WrongPin { left }) => Some(left),
            Err(OpenVoucherError::Destroyed { .. }) => None,
            other => panic!("{:?}", other.map(|v| v.label)),
        };
        assert_eq!(left("0123456780"), Some(4));
        assert_eq!(left("short"), Some(4), "it is no try");
        assert_eq!(left("0123456781"), Some(3));
        let opened = open_voucher(&path, &format!(" {PIN}\n")).unwrap();
        assert_eq!(opened.identity.public(), identity.public());
        assert_eq!(opened.certificate, [4; 200]);
        assert_eq!(opened.documents.orders.len(), 200);
        assert!(opened.pin.is(PIN) && !opened.pin.is("0123456780"));
        // a right one counts anew
        for expected in [Some(4), Some(3), Some(2), Some(1), None] {
            assert_eq!(left("9999999999"), expected);
        }
        assert!(matches!(
            open_voucher(&path, PIN),
            Err(OpenVoucherError::Destroyed { .. })
        ));
        assert!(read_voucher_label(&path).is_err());
        let bytes = fs::read(&path).unwrap();
        let file = VoucherFile::from_bytes(&bytes).unwrap();
        assert_eq!(file.salt, [0; 16], "nor when the count is set back");
    }

    #[test]
    fn what_is_written_on_it_is_part_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let (path, _) = voucher(folder.path());
        let mut file = VoucherFile::from_bytes(&fs::read(&path).unwrap()).unwrap();
        file.label.machines = 200;
        fs::write(&path, file.to_bytes()).unwrap();
        assert!(matches!(
            open_voucher(&path, PIN),
            Err(OpenVoucherError::WrongPin { .. })
        ));
        assert!(matches!(
            open_voucher(Path::new("/nowhere/voucher"), PIN),
            Err(OpenVoucherError::Io { .. })
        ));
        fs::write(&path, b"LMPVOUCH").unwrap();
        assert!(matches!(
            open_voucher(&path, PIN),
            Err(OpenVoucherError::Damaged { .. })
        ));
    }

    #[test]
    fn a_short_pin_seals_nothing() {
        let identity = Identity::generate().unwrap();
        let label = VoucherLabel {
            site: "Graz".into(),
            name: String::new(),
            machines: 1,
        };
        let sealed = seal_voucher(&identity, &[], Documents::default(), label, "1234567");
        assert!(matches!(sealed, Err(SealVoucherError::Pin)));
    }
}
