//! How many machines each voucher has admitted, as far as this program has heard; and the file that a voucher travels in.
//!
//! A voucher's holder has its key, and so can say of it what he likes. What counts is what others saw: a ticket or certificate that
//! was shown to them. Two parts of a store that cannot hear each other count apart: each gives a voucher's machines once.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use trust_format::{
    MachineId, PublicKey, Voucher,
    codec::{DecodeError, Reader, Writer},
};

/// Vouchers of one site whose machines are counted; one more admits nobody here. All that showed anything under all of them, and
/// beyond, fits what a connection may be behind with.
pub const VOUCHERS_MAX: usize = 64;
/// Machines beyond what a voucher allows that are told apart.
pub const BEYOND_MAX: usize = 256;

/// Whether a voucher admits a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VoucherGate {
    /// It did so already.
    Counted,
    /// There is room for one more.
    Free,
    /// It has admitted as many as it may.
    Spent,
}

/// Why a voucher that is spent admits nobody, for the person who reads it.
pub fn spent_words(voucher: &Voucher) -> String {
    format!(
        "voucher {} has admitted as many machines as it may, {}: a new one is made at HQ",
        voucher.key.short(),
        voucher.machines
    )
}

/// What came of one more machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VoucherNews {
    /// It was known.
    None,
    /// It counts, and its right holds here.
    Counted,
    /// It is one more than the voucher allows, and nobody vouches for it who does not depend on the voucher.
    Beyond,
}

#[derive(Debug, Clone, Default)]
struct Machines {
    counted: BTreeSet<MachineId>,
    beyond: BTreeSet<MachineId>,
}

/// The machines of each voucher.
#[derive(Debug, Clone, Default)]
pub struct VoucherBook(BTreeMap<PublicKey, Machines>);

impl VoucherBook {
    /// Whether a voucher admits a machine here.
    pub fn gate(&self, voucher: &Voucher, machine: &MachineId) -> VoucherGate {
        let room = usize::from(voucher.machines);
        match self.0.get(&voucher.key) {
            Some(known) if known.counted.contains(machine) => VoucherGate::Counted,
            Some(known) if known.counted.len() < room => VoucherGate::Free,
            None if self.0.len() < VOUCHERS_MAX => VoucherGate::Free,
            Some(_) | None => VoucherGate::Spent,
        }
    }

    /// A machine showed a ticket or certificate that comes from a voucher. `is_vouched_for` when one says so whose own right does
    /// not come from it: that one admitted the machine while there was room, in another part of the store.
    pub fn handle_machine(
        &mut self,
        voucher: &Voucher,
        machine: MachineId,
        is_vouched_for: bool,
    ) -> VoucherNews {
        let gate = self.gate(voucher, &machine);
        if gate == VoucherGate::Counted
            || (self.0.len() >= VOUCHERS_MAX && !self.0.contains_key(&voucher.key))
        {
            return VoucherNews::None;
        }
        let known = self.0.entry(voucher.key).or_default();
        let is_told_apart = known.counted.len() < usize::from(voucher.machines) + BEYOND_MAX;
        if gate == VoucherGate::Free || (is_vouched_for && is_told_apart) {
            known.counted.insert(machine);
            known.beyond.remove(&machine);
            return VoucherNews::Counted;
        }
        match known.beyond.len() < BEYOND_MAX && known.beyond.insert(machine) {
            true => VoucherNews::Beyond,
            false => VoucherNews::None,
        }
    }

    /// A voucher is revoked: nothing that comes from it holds.
    pub fn forget(&mut self, voucher: &PublicKey) {
        self.0.remove(voucher);
    }

    /// Machines that were heard of, those beyond what it allows included.
    pub fn machines(&self, voucher: &PublicKey) -> usize {
        let known = self.0.get(voucher);
        known.map_or(0, |known| known.counted.len() + known.beyond.len())
    }
}

/// What a stick with a voucher has on it, for who builds it and for the agent that it starts.
pub mod stick {
    /// Name of the partition that starts the agent: FAT32, with our folder in it.
    pub const BOOT_PARTITION: &str = "LAMPLIGHTER";
    /// Name of the partition that is the slab of the stick's node.
    pub const SLAB_PARTITION: &str = "LAMPLIGHTER-SLAB";
    /// Our folder on the first partition.
    pub const FOLDER: &str = "lamplighter";
    /// The voucher in it.
    pub const VOUCHER: &str = "voucher";
    /// The node's program in it.
    pub const PROGRAM: &str = "node";
    /// Word on the kernel's command line: the machine was started from a stick.
    pub const STICK_WORD: &str = "stick";
    /// Word on the kernel's command line: the machine is not imaged. It stays in RAM and lights the others.
    pub const STAY_WORD: &str = "stay";
}

const MAGIC: [u8; 8] = *b"LMPVOUCH";
const VERSION: u8 = 1;
const NAME_BYTES_MAX: usize = 128;
/// Longest sealed part: key, certificate, and the site's documents.
pub const VOUCHER_SEALED_BYTES_MAX: usize = 8 << 20;
/// Where the count of wrong tries is in the file.
pub const VOUCHER_TRIES_OFFSET: u64 = 9;
/// Wrong PINs after which a voucher's file opens no more.
pub const VOUCHER_TRIES_MAX: u8 = 5;

/// What a person may read of a voucher without its PIN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VoucherLabel {
    /// The site's name.
    pub site: String,
    /// Whose it is, or what for; at most 128 bytes each.
    pub name: String,
    /// So many machines.
    pub machines: u16,
}

impl fmt::Display for VoucherLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = if self.machines == 1 { "" } else { "s" };
        let Self {
            site,
            name,
            machines,
        } = self;
        write!(f, "{name:?} for {machines} machine{s} of {site:?}")
    }
}

/// A voucher as a file: magic, version, wrong tries so far (1 byte, at [`VOUCHER_TRIES_OFFSET`]), salt, label, and the sealed part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VoucherFile {
    /// Wrong PINs since the last right one. It is written in place before a PIN is looked at.
    pub tries: u8,
    /// Of the key that the PIN gives. Zeros when too many PINs were wrong: no PIN opens it then.
    pub salt: [u8; 16],
    /// For people.
    pub label: VoucherLabel,
    /// ChaCha20-Poly1305 (RFC 8439) under that key, with [`VoucherFile::bound`] as additional data.
    pub sealed: Vec<u8>,
}

impl VoucherFile {
    /// The file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.raw(&MAGIC).u8(VERSION).u8(self.tries).raw(&self.salt);
        self.put_label(&mut out);
        out.bytes(&self.sealed);
        out.finish()
    }

    /// What the sealed part is bound to: version, salt and label.
    pub fn bound(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.raw(&MAGIC).u8(VERSION).raw(&self.salt);
        self.put_label(&mut out);
        out.finish()
    }

    fn put_label(&self, out: &mut Writer) {
        let label = &self.label;
        out.bytes(label.site.as_bytes());
        out.bytes(label.name.as_bytes()).u16(label.machines);
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`DecodeError`] with field and offset.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut input = Reader::new(bytes);
        let magic: [u8; 8] = input.array("magic")?;
        if magic != MAGIC {
            return Err(input.bad("magic", 8, magic[0].into()));
        }
        let version = input.u8("version")?;
        if version != VERSION {
            return Err(input.bad("version", 1, version.into()));
        }
        let file = Self {
            tries: input.u8("wrong tries")?,
            salt: input.array("salt")?,
            label: VoucherLabel {
                site: input.text(NAME_BYTES_MAX, "site name")?,
                name: input.text(NAME_BYTES_MAX, "name")?,
                machines: input.u16("machines")?,
            },
            sealed: input
                .bytes(VOUCHER_SEALED_BYTES_MAX, "sealed part")?
                .to_vec(),
        };
        input.finish()?;
        Ok(file)
    }

    /// Whether any PIN can open it.
    pub fn is_destroyed(&self) -> bool {
        self.tries >= VOUCHER_TRIES_MAX || self.salt == [0; 16]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: PublicKey = PublicKey([1; 32]);

    fn voucher(machines: u16) -> Voucher {
        Voucher {
            key: KEY,
            machines,
            order: None,
        }
    }

    fn machine(n: u8) -> MachineId {
        MachineId([n; 16])
    }

    #[test]
    fn it_admits_so_many_machines_and_those_again() {
        let (mut book, three) = (VoucherBook::default(), voucher(3));
        for n in 0..3 {
            assert_eq!(book.gate(&three, &machine(n)), VoucherGate::Free);
            let news = book.handle_machine(&three, machine(n), false);
            assert_eq!(news, VoucherNews::Counted);
        }
        assert_eq!(book.gate(&three, &machine(9)), VoucherGate::Spent);
        assert_eq!(book.gate(&three, &machine(1)), VoucherGate::Counted);
        assert_eq!(
            book.handle_machine(&three, machine(1), false),
            VoucherNews::None
        );
        // another voucher has room of its own
        let other = Voucher {
            key: PublicKey([2; 32]),
            ..three
        };
        assert_eq!(book.gate(&other, &machine(9)), VoucherGate::Free);
    }

    /// Two parts of a store counted apart: each believes what the other's nodes admitted, and nothing more.
    #[test]
    fn two_halves_give_it_twice_and_say_so() {
        let two = voucher(2);
        let (mut left, mut right) = (VoucherBook::default(), VoucherBook::default());
        for n in 0..2 {
            left.handle_machine(&two, machine(n), false);
            right.handle_machine(&two, machine(10 + n), false);
        }
        // its holder is no witness for it
        let by_holder = left.handle_machine(&two, machine(20), false);
        assert_eq!(by_holder, VoucherNews::Beyond);
        assert_eq!(left.gate(&two, &machine(20)), VoucherGate::Spent);
        for n in 0..2 {
            let told = left.handle_machine(&two, machine(10 + n), true);
            assert_eq!(told, VoucherNews::Counted);
            right.handle_machine(&two, machine(n), true);
        }
        for half in [&left, &right] {
            for n in [0, 1, 10, 11] {
                assert_eq!(half.gate(&two, &machine(n)), VoucherGate::Counted);
            }
            assert_eq!(half.gate(&two, &machine(21)), VoucherGate::Spent);
        }
        assert_eq!((left.machines(&KEY), right.machines(&KEY)), (5, 4));
    }

    #[test]
    fn a_liar_takes_no_more_than_its_room() {
        let (mut book, one) = (VoucherBook::default(), voucher(1));
        for n in 0..2000u16 {
            let mut id = [0; 16];
            id[..2].copy_from_slice(&n.to_le_bytes());
            book.handle_machine(&one, MachineId(id), n % 2 == 0);
        }
        assert_eq!(book.machines(&KEY), 1 + 2 * BEYOND_MAX);
        for n in 0..1000u16 {
            let mut key = [3; 32];
            key[..2].copy_from_slice(&n.to_le_bytes());
            let voucher = Voucher {
                key: PublicKey(key),
                ..one
            };
            book.handle_machine(&voucher, machine(1), true);
        }
        assert_eq!(book.0.len(), VOUCHERS_MAX);
        let late = Voucher {
            key: PublicKey([9; 32]),
            ..one
        };
        assert_eq!(book.gate(&late, &machine(1)), VoucherGate::Spent);
    }

    #[test]
    fn a_file_survives_and_a_short_one_is_refused_everywhere() {
        let file = VoucherFile {
            tries: 2,
            salt: [7; 16],
            label: VoucherLabel {
                site: "Graz Süd".into(),
                name: "van 3".into(),
                machines: 8,
            },
            sealed: vec![5; 100],
        };
        let bytes = file.to_bytes();
        assert_eq!(bytes[usize::try_from(VOUCHER_TRIES_OFFSET).unwrap()], 2);
        assert_eq!(VoucherFile::from_bytes(&bytes), Ok(file.clone()));
        for at in 0..bytes.len() {
            assert!(VoucherFile::from_bytes(&bytes[..at]).is_err(), "{at}");
        }
        assert!(VoucherFile::from_bytes(&[bytes, vec![0]].concat()).is_err());
        assert!(!file.is_destroyed());
        let wiped = VoucherFile {
            salt: [0; 16],
            ..file
        };
        assert!(wiped.is_destroyed());
    }
}
