//! Which machines a site knows and by what it knows them again. For members only: nodes, and agents with a ticket.

use std::fmt;

use argon2::{Algorithm, Argon2, Params, Version};
use subtle::ConstantTimeEq;

use crate::{
    codec::{DecodeError, Reader, Writer},
    document::{Document, DocumentKind, SignerRole},
    documents::{MachineId, SiteId},
    keys::TpmKey,
};

/// Most machines in one roster.
pub const ROSTER_MACHINES_MAX: usize = 4096;
/// Most signs of one machine; HQ keeps those that were seen last.
pub const MACHINE_SIGNS_MAX: usize = 12;
/// Most signs that count for nobody.
pub const ROSTER_SHARED_SIGNS_MAX: usize = 1024;
/// Bytes of a console code: three letters, a hyphen, three letters.
pub const CONSOLE_CODE_BYTES: usize = 7;

/// Something by which a machine is known again: the first bytes of a hash over its kind and value, so that a roster lists
/// no serials.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sign(pub [u8; 8]);

impl Sign {
    fn of(kind: &str, value: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("lamplighter machine sign 2026");
        hasher.update(kind.as_bytes()).update(&[0]).update(value);
        let mut sign = [0; 8];
        sign.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        Self(sign)
    }

    /// Of an SMBIOS UUID, in the order in which it is printed.
    pub fn of_uuid(uuid: &[u8; 16]) -> Self {
        Self::of("uuid", uuid)
    }

    /// Of an SMBIOS serial.
    pub fn of_serial(serial: &str) -> Self {
        Self::of("serial", serial.as_bytes())
    }

    /// Of a MAC address.
    pub fn of_mac(mac: &[u8; 6]) -> Self {
        Self::of("mac", mac)
    }
}

impl fmt::Display for Sign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Sign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sign({self})")
    }
}

/// A machine of the site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownMachine {
    /// Its identity.
    pub id: MachineId,
    /// Whether it may be imaged without anybody being asked.
    pub approved: bool,
    /// What it was seen with; at most [`MACHINE_SIGNS_MAX`].
    pub signs: Vec<Sign>,
    /// Its TPM, once it has shown one: it outweighs every other sign.
    pub tpm: Option<TpmKey>,
    /// The console code of the agent that a person looked at when he approved it: this agent is the machine, whatever its
    /// signs say.
    pub code: Option<[u8; CONSOLE_CODE_BYTES]>,
}

/// The PIN that admits machines at a site's consoles, as argon2id (RFC 9106) keeps it.
#[derive(Clone, PartialEq, Eq)]
pub struct PinRule {
    /// Each new PIN has a higher number; wrong tries and uses are counted by it.
    pub number: u64,
    /// So many machines it admits, at least 1.
    pub uses: u16,
    /// So long after a node heard of it first; 0 for no end but its uses.
    pub life_hours: u16,
    /// Of the hash.
    pub salt: [u8; 16],
    /// The hash, under [`PinRule::MEMORY_KIB`] and [`PinRule::PASSES`].
    pub hash: [u8; 32],
}

impl PinRule {
    /// Memory of one hash. Small, because a stranger's try costs it: OWASP's second choice, with as many passes.
    pub const MEMORY_KIB: u32 = 7 * 1024;
    /// Passes over the memory.
    pub const PASSES: u32 = 5;
    /// After so many wrong tries in the whole site it is locked.
    pub const WRONG_TRIES_MAX: u32 = 5;
    /// Letters of a PIN: fewer are guessed, more are not typed.
    pub const LETTERS: std::ops::RangeInclusive<usize> = 6..=32;

    /// The hash of a PIN; nothing of one that is too short or too long. Takes [`PinRule::MEMORY_KIB`] of memory, and some tens
    /// of milliseconds of a core.
    pub fn hash(pin: &str, salt: &[u8; 16]) -> Option<[u8; 32]> {
        let pin = pin.trim();
        if !Self::LETTERS.contains(&pin.chars().count()) {
            return None;
        }
        let params = Params::new(Self::MEMORY_KIB, Self::PASSES, 1, Some(32)).ok()?;
        let mut hash = [0; 32];
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(pin.as_bytes(), salt, &mut hash)
            .ok()?;
        Some(hash)
    }

    /// Whether this is the PIN. Costs what [`PinRule::hash`] costs.
    pub fn is(&self, pin: &str) -> bool {
        Self::hash(pin, &self.salt).is_some_and(|hash| hash.ct_eq(&self.hash).into())
    }
}

impl fmt::Debug for PinRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PinRule")
            .field("number", &self.number)
            .field("uses", &self.uses)
            .finish_non_exhaustive()
    }
}

/// Which machines a site knows. Its number only grows. The keys that say who is a node say who is a machine: they are at HQ where
/// others are kept offline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roster {
    /// For this site alone.
    pub site: SiteId,
    /// Only grows.
    pub number: u64,
    /// The machines, ascending by identity, each once; at most [`ROSTER_MACHINES_MAX`].
    pub machines: Vec<KnownMachine>,
    /// Signs that several machines carry: they count as absent; at most [`ROSTER_SHARED_SIGNS_MAX`].
    pub shared: Vec<Sign>,
    /// The site's PIN, if it has one.
    pub pin: Option<PinRule>,
}

impl Roster {
    /// A machine.
    pub fn machine(&self, id: &MachineId) -> Option<&KnownMachine> {
        let at = self.machines.binary_search_by(|m| m.id.cmp(id)).ok()?;
        self.machines.get(at)
    }
}

impl Document for Roster {
    const KIND: DocumentKind = DocumentKind::Roster;
    const VERSION: u8 = 1;
    const PAYLOAD_BYTES_MAX: usize = ROSTER_MACHINES_MAX
        * (16 + 1 + 4 + MACHINE_SIGNS_MAX * 8 + 33 + 1 + CONSOLE_CODE_BYTES)
        + ROSTER_SHARED_SIGNS_MAX * 8
        + 256;
    const SIGNER: SignerRole = SignerRole::Authority;

    fn encode(&self, out: &mut Writer) {
        out.raw(&self.site.0)
            .u64(self.number)
            .count(self.machines.len());
        for machine in &self.machines {
            out.raw(&machine.id.0).flag(machine.approved);
            put_signs(out, &machine.signs);
            out.flag(machine.tpm.is_some());
            out.raw(machine.tpm.as_ref().map_or(&[], |key| &key.0[..]));
            out.flag(machine.code.is_some());
            out.raw(machine.code.as_ref().map_or(&[], |code| &code[..]));
        }
        put_signs(out, &self.shared);
        out.flag(self.pin.is_some());
        if let Some(pin) = &self.pin {
            out.u64(pin.number).u16(pin.uses).u16(pin.life_hours);
            out.raw(&pin.salt).raw(&pin.hash);
        }
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let site = SiteId(input.array("site")?);
        let number = input.u64("roster number")?;
        let count = input.count(ROSTER_MACHINES_MAX, 16 + 1 + 4 + 2, "machines")?;
        let mut machines: Vec<KnownMachine> = Vec::with_capacity(count);
        for _ in 0..count {
            let machine = read_machine(input)?;
            if machines.last().is_some_and(|last| last.id >= machine.id) {
                return Err(input.bad("order of machines", 1, 0));
            }
            machines.push(machine);
        }
        Ok(Self {
            site,
            number,
            machines,
            shared: read_signs(input, ROSTER_SHARED_SIGNS_MAX)?,
            pin: match input.flag("pin")? {
                true => Some(read_pin(input)?),
                false => None,
            },
        })
    }
}

fn put_signs(out: &mut Writer, signs: &[Sign]) {
    out.count(signs.len());
    for sign in signs {
        out.raw(&sign.0);
    }
}

fn read_signs(input: &mut Reader<'_>, max: usize) -> Result<Vec<Sign>, DecodeError> {
    let count = input.count(max, 8, "signs")?;
    (0..count).map(|_| Ok(Sign(input.array("sign")?))).collect()
}

fn read_machine(input: &mut Reader<'_>) -> Result<KnownMachine, DecodeError> {
    Ok(KnownMachine {
        id: MachineId(input.array("machine")?),
        approved: input.flag("approval")?,
        signs: read_signs(input, MACHINE_SIGNS_MAX)?,
        tpm: match input.flag("TPM")? {
            true => Some(TpmKey(input.array("TPM")?)),
            false => None,
        },
        code: match input.flag("console code")? {
            true => Some(input.array("console code")?),
            false => None,
        },
    })
}

fn read_pin(input: &mut Reader<'_>) -> Result<PinRule, DecodeError> {
    let number = input.u64("PIN number")?;
    let uses = input.u16("PIN uses")?;
    if uses == 0 {
        return Err(input.bad("PIN uses", 2, 0));
    }
    Ok(PinRule {
        number,
        uses,
        life_hours: input.u16("PIN life")?,
        salt: input.array("PIN salt")?,
        hash: input.array("PIN hash")?,
    })
}
