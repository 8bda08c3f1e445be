//! Which machine this is, from what its firmware says.

use trust_format::{
    MachineId, PublicKey, Sign,
    codec::{DecodeError, Reader, Writer},
};

/// More MAC addresses than this are not listed.
pub const MACS_MAX: usize = 16;
const TEXT_BYTES_MAX: usize = 256;

/// UUIDs that boards carry when nobody set one.
const PLACEHOLDER_UUIDS: [[u8; 16]; 4] = [
    [0; 16],
    [0xff; 16],
    [
        0x03, 0x00, 0x02, 0x00, 0x04, 0x00, 0x05, 0x00, 0x00, 0x06, 0x00, 0x07, 0x00, 0x08, 0x00,
        0x09,
    ],
    [
        0x12, 0x34, 0x56, 0x78, 0x12, 0x34, 0x56, 0x78, 0x90, 0xab, 0xcd, 0xde, 0xef, 0xaa, 0xbb,
        0xcc,
    ],
];

/// Serials that boards carry when nobody set one, in lower case.
const PLACEHOLDER_SERIALS: [&str; 9] = [
    "",
    "0",
    "none",
    "default string",
    "not specified",
    "to be filled by o.e.m.",
    "system serial number",
    "123456789",
    "0123456789",
];

/// Letters of a console code: Crockford's, without those that are taken for others.
const CODE_LETTERS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// Letters on each side of the hyphen.
const CODE_HALF: usize = 3;

/// What an agent shows on its screen while it waits, and HQ beside the machine: `K7Q-2MX`. Made of the agent's key, so whoever
/// approves the machine that he stands at approves this agent and not another that says the same of itself. Thirty bits: who
/// wants to show the same code makes a thousand million keys first, and the code changes with each start.
pub fn console_code(agent: &PublicKey) -> String {
    let hash =
        *blake3::hash(&[b"lamplighter console code".as_slice(), &agent.0].concat()).as_bytes();
    let letter = |n: &u8| char::from(CODE_LETTERS[usize::from(*n) % CODE_LETTERS.len()]);
    let (first, second) = hash[..2 * CODE_HALF].split_at(CODE_HALF);
    let half = |bytes: &[u8]| bytes.iter().map(letter).collect::<String>();
    format!("{}-{}", half(first), half(second))
}

/// What a machine says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MachineFacts {
    /// SMBIOS UUID in the order in which it is printed (RFC 9562); placeholders are left out.
    pub uuid: Option<[u8; 16]>,
    /// SMBIOS serial; placeholders are left out.
    pub serial: Option<String>,
    /// MAC addresses of wired interfaces.
    pub macs: Vec<[u8; 6]>,
    /// Maker and model.
    pub model: String,
}

impl MachineFacts {
    /// Facts without placeholders and within limits.
    pub fn new(
        uuid: Option<[u8; 16]>,
        serial: Option<&str>,
        macs: &[[u8; 6]],
        model: &str,
    ) -> Self {
        let serial = serial.map(str::trim).filter(|s| {
            s.len() <= TEXT_BYTES_MAX && !PLACEHOLDER_SERIALS.contains(&s.to_lowercase().as_str())
        });
        let mut macs = macs.to_vec();
        macs.sort_unstable();
        macs.dedup();
        macs.truncate(MACS_MAX);
        Self {
            uuid: uuid.filter(|u| !PLACEHOLDER_UUIDS.contains(u)),
            serial: serial.map(str::to_owned),
            macs,
            model: model.chars().take(TEXT_BYTES_MAX / 4).collect(),
        }
    }

    /// The machine's identity: by UUID, else by serial, else by its lowest MAC address; none of a machine that says nothing.
    pub fn id(&self) -> Option<MachineId> {
        self.id_beside(&[])
    }

    /// The same where some signs count as absent, because several machines carry them.
    pub fn id_beside(&self, shared: &[Sign]) -> Option<MachineId> {
        let uuid = self.uuid.iter().map(|u| ("uuid", &u[..], Sign::of_uuid(u)));
        let serial = self.serial.iter();
        let serial = serial.map(|s| ("serial", s.as_bytes(), Sign::of_serial(s)));
        let macs = self.macs.iter().map(|m| ("mac", &m[..], Sign::of_mac(m)));
        let mut signs = uuid.chain(serial).chain(macs);
        let (kind, value, _) = signs.find(|(_, _, sign)| !shared.contains(sign))?;
        let mut hasher = blake3::Hasher::new_derive_key("lamplighter machine 2026");
        hasher.update(kind.as_bytes()).update(&[0]).update(value);
        let mut id = [0; 16];
        id.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        Some(MachineId(id))
    }

    /// Signs that one machine carries for its life, unless its maker was careless: UUID and serial.
    pub fn strong_signs(&self) -> Vec<Sign> {
        let uuid = self.uuid.iter().map(Sign::of_uuid);
        let serial = self.serial.iter().map(|s| Sign::of_serial(s));
        uuid.chain(serial).collect()
    }

    /// Signs that move from machine to machine with an adapter.
    pub fn mac_signs(&self) -> Vec<Sign> {
        self.macs.iter().map(Sign::of_mac).collect()
    }

    pub(crate) fn encode(&self, out: &mut Writer) {
        out.flag(self.uuid.is_some());
        if let Some(uuid) = &self.uuid {
            out.raw(uuid);
        }
        out.flag(self.serial.is_some());
        if let Some(serial) = &self.serial {
            out.bytes(serial.as_bytes());
        }
        out.count(self.macs.len());
        for mac in &self.macs {
            out.raw(mac);
        }
        out.bytes(self.model.as_bytes());
    }

    pub(crate) fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let uuid = match input.flag("uuid")? {
            true => Some(input.array("uuid")?),
            false => None,
        };
        let serial = match input.flag("serial")? {
            true => Some(input.text(TEXT_BYTES_MAX, "serial")?),
            false => None,
        };
        let count = input.count(MACS_MAX, 6, "macs")?;
        let macs = (0..count)
            .map(|_| input.array("mac"))
            .collect::<Result<Vec<_>, _>>()?;
        let model = input.text(TEXT_BYTES_MAX, "model")?;
        Ok(Self::new(uuid, serial.as_deref(), &macs, &model))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_count_as_absent() {
        let mac = [2, 0, 0, 0, 0, 1];
        let facts = MachineFacts::new(Some([0xff; 16]), Some(" Default String "), &[mac], "x");
        assert_eq!((facts.uuid, &facts.serial), (None, &None));
        assert_eq!(facts.id(), MachineFacts::new(None, None, &[mac], "y").id());
        assert_eq!(
            MachineFacts::new(Some([0; 16]), Some("0"), &[], "").id(),
            None
        );
    }

    #[test]
    fn the_strongest_sign_decides() {
        let by_uuid = MachineFacts::new(Some([7; 16]), Some("S1"), &[[2; 6]], "");
        let dongle = MachineFacts::new(Some([7; 16]), Some("S1"), &[[1; 6], [2; 6]], "");
        assert_eq!(by_uuid.id(), dongle.id());
        let by_serial = MachineFacts::new(None, Some("S1"), &[[2; 6]], "");
        assert_ne!(by_uuid.id(), by_serial.id());
    }

    #[test]
    fn a_console_code_is_the_agents_alone() {
        let code = console_code(&PublicKey([1; 32]));
        assert_eq!(code, console_code(&PublicKey([1; 32])));
        assert_ne!(code, console_code(&PublicKey([2; 32])));
        let letters: Vec<char> = code.chars().collect();
        assert_eq!((letters.len(), letters[CODE_HALF]), (7, '-'));
        let all: std::collections::BTreeSet<String> = (0..=u8::MAX)
            .map(|n| console_code(&PublicKey([n; 32])))
            .collect();
        assert_eq!(all.len(), 256);
        for confusing in ['I', 'L', 'O', 'U'] {
            assert!(all.iter().all(|code| !code.contains(confusing)));
        }
    }
}
