//! The few commands of a TPM 2.0 that are needed, and what it answers. Every length of an answer is checked; no answer panics.
//!
//! Numbers and structures are those of the TCG's *TPM 2.0 Library*, Part 2 (structures) and Part 3 (commands), revision 1.59;
//! all integers are big-endian. Authorisation is always by an empty password, as hierarchies have it unless somebody set one.

use thiserror::Error;
use trust_format::codec::{DecodeError, Reader};
use zeroize::Zeroizing;

use super::SealedKey;

/// What can be sealed: as many bytes as a seed has.
pub const SECRET_BYTES: usize = 32;
/// No TPM answers with more (`TPM_PT_MAX_RESPONSE_SIZE` of those that are sold).
pub const RESPONSE_BYTES_MAX: usize = 4096;
/// Tag, size and code.
pub const HEADER_BYTES: usize = 10;
/// More than any command here has, so that a secret is never left behind by a buffer that grew.
const COMMAND_BYTES_MAX: usize = 2304;
/// A key's digest, coordinate or policy is no longer than this (SHA-512, P-521).
const VALUE_BYTES_MAX: usize = 66;
/// Structures that are passed on unread: creation data, tickets, names.
const STRUCTURE_BYTES_MAX: usize = 1024;
/// A coordinate of P-256.
const COORDINATE_BYTES: usize = 32;

// TPM_ST, Part 2 section 6.9
const NO_SESSIONS: u16 = 0x8001;
const SESSIONS: u16 = 0x8002;
const HASHCHECK: u16 = 0x8024;
/// What a TPM 1.2 answers to a command that it does not know.
const RSP_COMMAND: u16 = 0x00C4;
// TPM_CC, section 6.5.2
const CREATE_PRIMARY: u32 = 0x131;
const CREATE: u32 = 0x153;
const LOAD: u32 = 0x157;
const SIGN: u32 = 0x15D;
const UNSEAL: u32 = 0x15E;
const FLUSH_CONTEXT: u32 = 0x165;
// TPM_ALG_ID, section 6.3
const AES: u16 = 0x0006;
const KEYEDHASH: u16 = 0x0008;
const SHA256: u16 = 0x000B;
const NULL: u16 = 0x0010;
const ECDSA: u16 = 0x0018;
const ECC: u16 = 0x0023;
const CFB: u16 = 0x0043;
/// TPM_ECC_CURVE, section 6.4.
const NIST_P256: u16 = 0x0003;
// TPM_RH, section 7.4
const OWNER: u32 = 0x4000_0001;
const RH_NULL: u32 = 0x4000_0007;
const PASSWORD: u32 = 0x4000_0009;
const ENDORSEMENT: u32 = 0x4000_000B;
// TPMA_OBJECT, section 8.3
const FIXED_TPM: u32 = 1 << 1;
const FIXED_PARENT: u32 = 1 << 4;
const SENSITIVE_DATA_ORIGIN: u32 = 1 << 5;
const USER_WITH_AUTH: u32 = 1 << 6;
/// Nobody's wrong passwords lock it: a TPM in lockout refuses every object without this, also to who knows its password.
const NO_DA: u32 = 1 << 10;
const RESTRICTED: u32 = 1 << 16;
const DECRYPT: u32 = 1 << 17;
const SIGNS: u32 = 1 << 18;
// TPM_RC, section 6.6.3
const RC_SUCCESS: u32 = 0;
const RC_YIELDED: u32 = 0x908;
const RC_TESTING: u32 = 0x90A;
const RC_RETRY: u32 = 0x922;
/// Marks codes of format one, whose bits 6 and 8 to 11 name a parameter, handle or session.
const RC_FMT1: u32 = 0x080;
const RC_FMT1_CODE: u32 = 0x0BF;

/// Of the identity key: it is made of the endorsement seed and of this. Another text would make another key of every TPM.
const IDENTITY_UNIQUE: &[u8; COORDINATE_BYTES] = b"lamplighter machine identity 001";

/// A command, ready to be written to a TPM. Its bytes are wiped when it is dropped: one of them has a secret in it.
pub struct Command {
    name: &'static str,
    bytes: Zeroizing<Vec<u8>>,
}

/// An object in a TPM's memory, until it is flushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handle(u32);

/// Why an answer is not what was asked for. None of these goes away by asking again; busy TPMs are told by [`is_busy`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ResponseError {
    /// It is a TPM 1.2.
    #[error("this is a TPM 1.2")]
    NotTpm2,
    /// The TPM said no.
    #[error("{command}: the TPM refuses with code {code:#05x} ({})", meaning(*code))]
    Refused {
        /// What it was asked.
        command: &'static str,
        /// TPM_RC.
        code: u32,
    },
    /// What came is no answer to this command.
    #[error("{command}: what the TPM answers is malformed")]
    Malformed {
        /// What it was asked.
        command: &'static str,
        /// Where.
        #[source]
        source: DecodeError,
    },
    /// It made another kind of key than it was asked for.
    #[error("{command}: the TPM made another kind of key")]
    OtherKey {
        /// What it was asked.
        command: &'static str,
    },
}

impl ResponseError {
    /// Whether it refused what it was given: a sealed object of another TPM, or one that was changed. All else is about
    /// the TPM's own state.
    pub fn is_about_the_object(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if code & RC_FMT1 != 0)
    }
}

fn base(code: u32) -> u32 {
    match code & RC_FMT1 {
        0 => code,
        _ => code & RC_FMT1_CODE,
    }
}

/// What the codes mean that are met in the field.
fn meaning(code: u32) -> &'static str {
    match base(code) {
        0x081 | 0x083 | 0x087 | 0x092 | 0x0A6 => "it does not know such keys",
        0x085 => "this hierarchy is switched off in the firmware",
        0x08B => "no such object",
        0x08E | 0x0A2 => "somebody set a password for this hierarchy",
        0x09F => "the object is another TPM's, or damaged",
        0x100 => "it was not started by the firmware",
        0x101 => "it has failed its self-test",
        0x902 | 0x903 => "its memory is full",
        0x921 => "it is locked after wrong passwords",
        _ => "see TPM_RC in the TCG's specification",
    }
}

impl Command {
    /// For messages.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// What is written to the TPM.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn new(name: &'static str, tag: u16, code: u32) -> Self {
        let mut command = Self {
            name,
            bytes: Zeroizing::new(Vec::with_capacity(COMMAND_BYTES_MAX)),
        };
        // the size is known at the end
        command.u16(tag).u32(0).u32(code);
        command
    }

    /// A command about one object or hierarchy, with an empty password (TPMS_AUTH_COMMAND, Part 2 section 10.13.2).
    fn authorised(name: &'static str, code: u32, handle: u32) -> Self {
        let mut command = Self::new(name, SESSIONS, code);
        command.u32(handle);
        command.u32(9).u32(PASSWORD).sized(&[]).raw(&[0]).sized(&[]);
        command
    }

    fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    fn u16(&mut self, value: u16) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    /// A TPM2B. What is put into one here is at most 1,024 bytes long, by type or by [`SealedKey`]'s limits.
    fn sized(&mut self, bytes: &[u8]) -> &mut Self {
        self.u16(u16::try_from(bytes.len()).unwrap_or(u16::MAX));
        self.raw(bytes)
    }

    /// TPM2B_SENSITIVE_CREATE with an empty password, Part 2 section 11.1.16.
    fn sensitive(&mut self, secret: &[u8]) -> &mut Self {
        self.u16(u16::try_from(4 + secret.len()).unwrap_or(u16::MAX));
        self.sized(&[]).sized(secret)
    }

    fn finish(mut self) -> Self {
        let bytes = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.bytes[2..6].copy_from_slice(&bytes.to_be_bytes());
        self
    }
}

/// TPMT_PUBLIC (Part 2 section 12.2.4) of a key of P-256, without `unique`.
fn ecc_template(attributes: u32, symmetric_and_scheme: &[u16]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(ECC.to_be_bytes());
    out.extend(SHA256.to_be_bytes());
    out.extend((attributes | FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN).to_be_bytes());
    // no policy
    out.extend(0_u16.to_be_bytes());
    for number in symmetric_and_scheme.iter().chain(&[NIST_P256, NULL]) {
        out.extend(number.to_be_bytes());
    }
    out
}

/// Signs, and what it signs is not restricted to what the TPM made: the message here is made outside of it.
fn identity_template() -> Vec<u8> {
    ecc_template(USER_WITH_AUTH | NO_DA | SIGNS, &[NULL, ECDSA, SHA256])
}

/// As storage root keys usually are: AES-128 in CFB mode, and no scheme.
fn storage_template() -> Vec<u8> {
    ecc_template(
        USER_WITH_AUTH | NO_DA | RESTRICTED | DECRYPT,
        &[AES, 128, CFB, NULL],
    )
}

fn create_primary(
    name: &'static str,
    hierarchy: u32,
    template: &[u8],
    unique_x: &[u8; COORDINATE_BYTES],
) -> Command {
    let mut command = Command::authorised(name, CREATE_PRIMARY, hierarchy);
    command.sensitive(&[]);
    let unique_bytes = 2 * (2 + COORDINATE_BYTES);
    command.u16(u16::try_from(template.len() + unique_bytes).unwrap_or(u16::MAX));
    command.raw(template);
    command.sized(unique_x).sized(&[0; COORDINATE_BYTES]);
    // neither outside information nor PCRs
    command.sized(&[]).u32(0);
    command.finish()
}

const IDENTITY: &str = "making the machine's key";
const STORAGE: &str = "making the storage key";
const SIGNING: &str = "signing";
const SEALING: &str = "sealing";
const LOADING: &str = "loading a sealed key";
const UNSEALING: &str = "unsealing";
const FLUSHING: &str = "forgetting a key";

/// TPM2_CreatePrimary in the endorsement hierarchy: the key whose digest is a [`TpmKey`](super::TpmKey).
pub fn identity_primary() -> Command {
    create_primary(IDENTITY, ENDORSEMENT, &identity_template(), IDENTITY_UNIQUE)
}

/// TPM2_CreatePrimary in the owner's hierarchy: the key under which secrets are sealed. Clearing the TPM makes another one of it.
pub fn storage_primary() -> Command {
    create_primary(STORAGE, OWNER, &storage_template(), &[0; COORDINATE_BYTES])
}

/// TPM2_Sign with the identity key over a SHA-256 digest.
pub fn sign(key: Handle, digest: &[u8; 32]) -> Command {
    let mut command = Command::authorised(SIGNING, SIGN, key.0);
    command.sized(digest).u16(ECDSA).u16(SHA256);
    // the ticket that restricted keys want is empty for others
    command.u16(HASHCHECK).u32(RH_NULL).sized(&[]);
    command.finish()
}

/// TPM2_Create of a sealed object under the storage key: no policy, no password, never locked.
pub fn seal(parent: Handle, secret: &[u8; SECRET_BYTES]) -> Command {
    let mut command = Command::authorised(SEALING, CREATE, parent.0);
    command.sensitive(secret);
    // TPMT_PUBLIC: type, digest, attributes, no policy, no scheme, and `unique` is the TPM's to fill
    command.u16(14).u16(KEYEDHASH).u16(SHA256);
    command.u32(FIXED_TPM | FIXED_PARENT | USER_WITH_AUTH | NO_DA);
    command.sized(&[]).u16(NULL).sized(&[]);
    command.sized(&[]).u32(0);
    command.finish()
}

/// TPM2_Load of a sealed object.
pub fn load(parent: Handle, sealed: &SealedKey) -> Command {
    let mut command = Command::authorised(LOADING, LOAD, parent.0);
    command.sized(&sealed.private).sized(&sealed.public);
    command.finish()
}

/// TPM2_Unseal of a loaded object.
pub fn unseal(object: Handle) -> Command {
    Command::authorised(UNSEALING, UNSEAL, object.0).finish()
}

/// TPM2_FlushContext: a TPM has room for three objects.
pub fn flush(object: Handle) -> Command {
    let mut command = Command::new(FLUSHING, NO_SESSIONS, FLUSH_CONTEXT);
    command.u32(object.0);
    command.finish()
}

/// How long the answer is that begins with `head`; nothing while that cannot be told.
///
/// # Errors
/// When it claims to be shorter than a header or longer than [`RESPONSE_BYTES_MAX`].
pub fn response_bytes(head: &[u8]) -> Result<Option<usize>, DecodeError> {
    if head.len() < HEADER_BYTES {
        return Ok(None);
    }
    let mut input = Reader::new(head);
    input.take(2, "tag")?;
    let size = be32(&mut input, "size")?;
    let bytes = size as usize;
    match (HEADER_BYTES..=RESPONSE_BYTES_MAX).contains(&bytes) {
        true => Ok(Some(bytes)),
        false => Err(input.bad("size", 4, size.into())),
    }
}

/// Whether the TPM asks for the same command again in a moment.
pub fn is_busy(response: &[u8]) -> bool {
    let code = response.get(6..HEADER_BYTES);
    [RC_YIELDED, RC_TESTING, RC_RETRY]
        .iter()
        .any(|busy| code == Some(&busy.to_be_bytes()))
}

fn be16(input: &mut Reader<'_>, field: &'static str) -> Result<u16, DecodeError> {
    Ok(u16::from_be_bytes(input.array(field)?))
}

fn be32(input: &mut Reader<'_>, field: &'static str) -> Result<u32, DecodeError> {
    Ok(u32::from_be_bytes(input.array(field)?))
}

/// A TPM2B's bytes.
fn sized<'a>(
    input: &mut Reader<'a>,
    max: usize,
    field: &'static str,
) -> Result<&'a [u8], DecodeError> {
    let count = be16(input, field)?;
    match usize::from(count) {
        bytes if bytes <= max => input.take(bytes, field),
        _ => Err(input.bad(field, 2, count.into())),
    }
}

/// A number of 32 bytes; TPMs may leave its leading zeros out.
fn number(input: &mut Reader<'_>, field: &'static str) -> Result<[u8; 32], DecodeError> {
    let bytes = sized(input, COORDINATE_BYTES, field)?;
    let mut out = [0; COORDINATE_BYTES];
    out[COORDINATE_BYTES - bytes.len()..].copy_from_slice(bytes);
    Ok(out)
}

fn pair(first: [u8; 32], second: [u8; 32]) -> [u8; 64] {
    let mut out = [0; 64];
    out[..32].copy_from_slice(&first);
    out[32..].copy_from_slice(&second);
    out
}

fn expect(
    input: &Reader<'_>,
    field: &'static str,
    found: u16,
    wanted: u16,
) -> Result<(), DecodeError> {
    match found == wanted {
        true => Ok(()),
        false => Err(input.bad(field, 2, found.into())),
    }
}

/// Checks the header and hands the rest to `read`.
fn answer<'a, T>(
    command: &'static str,
    bytes: &'a [u8],
    read: impl FnOnce(u16, &mut Reader<'a>) -> Result<T, DecodeError>,
) -> Result<T, ResponseError> {
    let malformed = |source| ResponseError::Malformed { command, source };
    let mut input = Reader::new(bytes);
    let tag = be16(&mut input, "tag").map_err(malformed)?;
    if tag == RSP_COMMAND {
        return Err(ResponseError::NotTpm2);
    }
    let size = be32(&mut input, "size").map_err(malformed)?;
    if size as usize != bytes.len() {
        return Err(malformed(input.bad("size", 4, size.into())));
    }
    let code = be32(&mut input, "code").map_err(malformed)?;
    if code != RC_SUCCESS {
        return Err(ResponseError::Refused { command, code });
    }
    read(tag, &mut input).map_err(malformed)
}

/// The parameters of an answer with a session. What follows them, the session's own answer, says nothing under a password.
fn parameters<'a>(tag: u16, input: &mut Reader<'a>) -> Result<Reader<'a>, DecodeError> {
    expect(input, "tag", tag, SESSIONS)?;
    let bytes = be32(input, "parameters")?;
    Ok(Reader::new(input.take(bytes as usize, "parameters")?))
}

/// What TPM2_CreatePrimary made: where it is, and its point.
fn created_primary(
    command: &'static str,
    template: &[u8],
    bytes: &[u8],
) -> Result<(Handle, [u8; 64]), ResponseError> {
    let (handle, public) = answer(command, bytes, |tag, input| {
        let handle = Handle(be32(input, "handle")?);
        let mut input = parameters(tag, input)?;
        // creation data, its hash and ticket, and the name follow: of no use here
        Ok((
            handle,
            sized(&mut input, STRUCTURE_BYTES_MAX, "public part")?,
        ))
    })?;
    let unique = public
        .strip_prefix(template)
        .ok_or(ResponseError::OtherKey { command })?;
    let mut input = Reader::new(unique);
    let point = (|| {
        let point = pair(number(&mut input, "x")?, number(&mut input, "y")?);
        input.finish().map(|()| point)
    })();
    let point = point.map_err(|source| ResponseError::Malformed { command, source })?;
    Ok((handle, point))
}

/// The answer to [`identity_primary`]: the key, and its point as in a [`TpmProof`](super::TpmProof).
///
/// # Errors
/// [`ResponseError`].
pub fn created_identity(bytes: &[u8]) -> Result<(Handle, [u8; 64]), ResponseError> {
    created_primary(IDENTITY, &identity_template(), bytes)
}

/// The answer to [`storage_primary`]: the key, and its digest as in a [`SealedKey`].
///
/// # Errors
/// [`ResponseError`].
pub fn created_storage(bytes: &[u8]) -> Result<(Handle, [u8; 32]), ResponseError> {
    let (handle, point) = created_primary(STORAGE, &storage_template(), bytes)?;
    let digest = blake3::derive_key("lamplighter tpm storage key 2026", &point);
    Ok((handle, digest))
}

/// The answer to [`sign`]: r and s, from TPMT_SIGNATURE (Part 2 section 11.3.4).
///
/// # Errors
/// [`ResponseError`].
pub fn signed(bytes: &[u8]) -> Result<[u8; 64], ResponseError> {
    answer(SIGNING, bytes, |tag, input| {
        let mut input = parameters(tag, input)?;
        for (field, wanted) in [
            ("algorithm of the signature", ECDSA),
            ("digest of the signature", SHA256),
        ] {
            let found = be16(&mut input, field)?;
            expect(&input, field, found, wanted)?;
        }
        let signature = pair(number(&mut input, "r")?, number(&mut input, "s")?);
        input.finish().map(|()| signature)
    })
}

/// The answer to [`seal`] under the storage key with the digest `parent`.
///
/// # Errors
/// [`ResponseError`].
pub fn sealed(bytes: &[u8], parent: [u8; 32]) -> Result<SealedKey, ResponseError> {
    answer(SEALING, bytes, |tag, input| {
        let mut input = parameters(tag, input)?;
        let private = sized(&mut input, STRUCTURE_BYTES_MAX, "private part")?.to_vec();
        let public = sized(&mut input, STRUCTURE_BYTES_MAX, "public part")?.to_vec();
        Ok(SealedKey {
            parent,
            public,
            private,
        })
    })
}

/// The answer to [`load`].
///
/// # Errors
/// [`ResponseError`]; one with [`ResponseError::is_about_the_object`] for what is not this TPM's.
pub fn loaded(bytes: &[u8]) -> Result<Handle, ResponseError> {
    answer(LOADING, bytes, |tag, input| {
        let handle = Handle(be32(input, "handle")?);
        let mut input = parameters(tag, input)?;
        sized(&mut input, VALUE_BYTES_MAX, "name")?;
        input.finish().map(|()| handle)
    })
}

/// The answer to [`unseal`].
///
/// # Errors
/// [`ResponseError`], also when what was sealed has another length.
pub fn unsealed(bytes: &[u8]) -> Result<Zeroizing<[u8; SECRET_BYTES]>, ResponseError> {
    answer(UNSEALING, bytes, |tag, input| {
        let mut input = parameters(tag, input)?;
        let secret = sized(&mut input, SECRET_BYTES, "secret")?;
        if secret.len() != SECRET_BYTES {
            return Err(input.bad("secret", secret.len(), secret.len() as u64));
        }
        let mut out = Zeroizing::new([0; SECRET_BYTES]);
        out.copy_from_slice(secret);
        input.finish().map(|()| out)
    })
}

/// The answer to [`flush`].
///
/// # Errors
/// [`ResponseError`].
pub fn flushed(bytes: &[u8]) -> Result<(), ResponseError> {
    answer(FLUSHING, bytes, |tag, input| {
        expect(input, "tag", tag, NO_SESSIONS)
    })
}
