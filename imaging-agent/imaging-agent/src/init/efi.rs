//! The firmware's variables (UEFI 2.10, chapters 3 and 8.2) as efivarfs shows them: boot entries, their order, Secure Boot.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where efivarfs is mounted.
pub(crate) const VARIABLES: &str = "/sys/firmware/efi/efivars";
/// The vendor of variables that the specification defines (`EFI_GLOBAL_VARIABLE`).
const GLOBAL: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";
/// Each file begins with 32 bits of attributes.
const ATTRIBUTES_BYTES: usize = 4;
/// Non-volatile, for boot services, at run time: what a boot variable must be.
const BOOT_ATTRIBUTES: u32 = 7;
/// Boot entries that are read; firmware has a few dozen at most.
const ENTRIES_MAX: usize = 256;

/// A variable that cannot be read or written, or that breaks its format.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VariableError {
    /// Reading failed for another cause than that it is not there.
    #[error("cannot read the firmware's variable {name}")]
    Read {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The firmware refuses to store it: full, locked, or mounted read-only.
    #[error("cannot write the firmware's variable {name}")]
    Write {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It breaks off or has an odd length.
    #[error("the firmware's variable {name} breaks its format: {what}")]
    Format {
        /// Its name.
        name: String,
        /// What is wrong.
        what: &'static str,
    },
}

/// What the firmware checks before it starts a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SecureBoot {
    /// Only signed programs start.
    On,
    /// Anything starts.
    Off,
    /// Off, and whoever comes first may put in keys of his own.
    SetupMode,
}

/// One entry of the firmware's boot menu.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BootEntry {
    /// As in `Boot0003`.
    pub(crate) number: u16,
    /// What the menu shows.
    pub(crate) description: String,
    /// Whether the firmware considers it at all.
    pub(crate) active: bool,
    /// The GPT partition that it starts from, in the byte order of a GPT; none for network entries and whole disks.
    pub(crate) partition: Option<[u8; 16]>,
}

/// The firmware's variables, or none on a BIOS machine.
#[derive(Debug)]
pub(crate) struct Variables {
    folder: PathBuf,
}

impl Variables {
    /// Those of this machine; nothing when it was not booted by UEFI.
    pub(crate) fn open() -> Option<Self> {
        let folder = PathBuf::from(VARIABLES);
        Path::new("/sys/firmware/efi")
            .exists()
            .then_some(Self { folder })
    }

    /// Whether Secure Boot is on.
    ///
    /// # Errors
    /// [`VariableError::Read`].
    pub(crate) fn secure_boot(&self) -> Result<SecureBoot, VariableError> {
        let flag = |name| {
            Ok(self
                .read(name)?
                .is_some_and(|value| value.first() == Some(&1)))
        };
        Ok(match (flag("SecureBoot")?, flag("SetupMode")?) {
            (true, _) => SecureBoot::On,
            (false, true) => SecureBoot::SetupMode,
            (false, false) => SecureBoot::Off,
        })
    }

    /// Makes the firmware start entry `number` once, at the next boot, whatever its order says.
    ///
    /// # Errors
    /// [`VariableError::Write`].
    pub(crate) fn set_boot_next(&self, number: u16) -> Result<(), VariableError> {
        let name = "BootNext";
        let mut content = BOOT_ATTRIBUTES.to_le_bytes().to_vec();
        content.extend_from_slice(&number.to_le_bytes());
        // One write: efivarfs takes each for a whole value.
        fs::write(self.path(name), content).map_err(|source| VariableError::Write {
            name: name.to_owned(),
            source,
        })
    }

    /// Makes the firmware start from a disk at the next boot, if it has an entry for one; says which. Most firmware makes
    /// entries for disks only as it starts, so for a disk just written there may be none.
    ///
    /// # Errors
    /// [`VariableError::Write`].
    pub(crate) fn set_boot_next_to_disk(&self) -> Result<Option<u16>, VariableError> {
        let entry = self
            .entries()
            .into_iter()
            .find(|entry| entry.active && entry.partition.is_some());
        entry
            .map(|entry| self.set_boot_next(entry.number).map(|()| entry.number))
            .transpose()
    }

    fn entries(&self) -> Vec<BootEntry> {
        let mut numbers: Vec<u16> = fs::read_dir(&self.folder)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|file| entry_number(file.file_name().to_str()?))
            .take(ENTRIES_MAX)
            .collect();
        numbers.sort_unstable();
        let read = |number| parse_entry(number, &self.read(&format!("Boot{number:04X}")).ok()??);
        numbers.into_iter().filter_map(read).collect()
    }

    /// A variable's value without its attributes; nothing when it is not there.
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, VariableError> {
        match fs::read(self.path(name)) {
            Ok(file) => match file.get(ATTRIBUTES_BYTES..) {
                Some(value) => Ok(Some(value.to_vec())),
                None => Err(VariableError::Format {
                    name: name.to_owned(),
                    what: "no attributes",
                }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(VariableError::Read {
                name: name.to_owned(),
                source,
            }),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}-{GLOBAL}"))
    }
}

/// `3` for `Boot0003-8be4df61-...`; nothing for `BootOrder` and the rest.
fn entry_number(file: &str) -> Option<u16> {
    let digits = file
        .strip_suffix(GLOBAL)?
        .strip_suffix('-')?
        .strip_prefix("Boot")?;
    if digits.len() != 4 {
        return None;
    }
    u16::from_str_radix(digits, 16).ok()
}

/// Reads an `EFI_LOAD_OPTION`: attributes, length of the device path, description, device path.
fn parse_entry(number: u16, value: &[u8]) -> Option<BootEntry> {
    const ACTIVE: u8 = 1;
    let path_bytes = usize::from(u16::from_le_bytes([*value.get(4)?, *value.get(5)?]));
    let (units, _) = value.get(6..)?.as_chunks::<2>();
    let letters: Vec<u16> = units
        .iter()
        .map(|unit| u16::from_le_bytes(*unit))
        .take_while(|letter| *letter != 0)
        .collect();
    let path_at = 6 + 2 * (letters.len() + 1);
    Some(BootEntry {
        number,
        description: String::from_utf16_lossy(&letters),
        active: value[0] & ACTIVE != 0,
        partition: partition(value.get(path_at..path_at + path_bytes)?),
    })
}

/// The GPT partition in a device path: a node "hard drive" (4, 1) whose signature is a GUID (type 2).
fn partition(mut path: &[u8]) -> Option<[u8; 16]> {
    loop {
        let node_bytes = usize::from(u16::from_le_bytes([*path.get(2)?, *path.get(3)?]));
        let node = path.get(..node_bytes.max(4))?;
        match (node[0], node[1]) {
            (4, 1) if node.get(41) == Some(&2) => return node.get(24..40)?.try_into().ok(),
            (0x7f, _) => return None,
            _ => path = &path[node.len()..],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(files: &[(&str, &[u8])]) -> (tempfile::TempDir, Variables) {
        let folder = tempfile::tempdir().unwrap();
        let variables = Variables {
            folder: folder.path().to_path_buf(),
        };
        for (name, value) in files {
            let content = [&BOOT_ATTRIBUTES.to_le_bytes()[..], value].concat();
            fs::write(variables.path(name), content).unwrap();
        }
        (folder, variables)
    }

    /// An entry for a partition: description "disk", one hard drive node, the end node.
    fn disk_entry(guid: [u8; 16]) -> Vec<u8> {
        let mut value = vec![1, 0, 0, 0, 46, 0];
        value.extend("disk\0".encode_utf16().flat_map(u16::to_le_bytes));
        value.extend([4, 1, 42, 0]);
        value.extend([0; 20]); // partition number, start, size
        value.extend(guid);
        value.extend([2, 2]); // GPT, signature is a GUID
        value.extend([0x7f, 0xff, 4, 0]);
        value
    }

    #[test]
    fn entries_and_secure_boot_are_read() {
        let guid = *b"0123456789abcdef";
        let (_folder, variables) = variables(&[
            ("Boot0000", &disk_entry(guid)),
            ("Boot0001", &[0, 0, 0]), // damaged: left out
            ("SecureBoot", &[0]),
            ("SetupMode", &[1]),
        ]);
        assert_eq!(variables.secure_boot().unwrap(), SecureBoot::SetupMode);
        let entry = BootEntry {
            number: 0,
            description: "disk".to_owned(),
            active: true,
            partition: Some(guid),
        };
        assert_eq!(variables.entries(), [entry]);
    }

    #[test]
    fn the_next_boot_is_set_where_an_entry_exists() {
        let guid = [7; 16];
        let (_folder, variables) = variables(&[("Boot00A1", &disk_entry(guid))]);
        assert_eq!(variables.set_boot_next_to_disk().unwrap(), Some(0xa1));
        assert_eq!(variables.read("BootNext").unwrap().unwrap(), [0xa1, 0]);
    }

    #[test]
    fn odd_values_are_refused_or_absent() {
        let (_folder, variables) = variables(&[]);
        assert_eq!(variables.secure_boot().unwrap(), SecureBoot::Off);
        for cut in 0..disk_entry([0; 16]).len() {
            let _ = parse_entry(0, &disk_entry([0; 16])[..cut]); // never panics
        }
    }
}
