//! Which disk is imaged. Wrong is worse than not at all: what is not certain is refused.

use thiserror::Error;

/// A disk of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Such as `/dev/nvme0n1`.
    pub path: String,
    /// Size.
    pub bytes: u64,
    /// Logical sector size.
    pub sector_bytes: u32,
    /// The kernel calls it removable, or it hangs on USB.
    pub removable: bool,
    /// Cannot be written.
    pub read_only: bool,
    /// Maker and model.
    pub model: String,
    /// Serial number, where the disk tells one.
    pub serial: String,
}

/// Why no disk is chosen.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ChooseDiskError {
    /// There is none that could be imaged.
    #[error("no disk to image: {seen}")]
    None {
        /// What is there, and why each is out of the question.
        seen: String,
    },
    /// There are several and nobody said which.
    #[error("{count} disks could be imaged ({names}); pin one by its path or serial")]
    Ambiguous {
        /// How many.
        count: usize,
        /// Their paths, sizes and models.
        names: String,
    },
    /// The pinned one is not there or cannot be used.
    #[error("the pinned disk {pin} {reason}")]
    Pinned {
        /// Path or serial.
        pin: String,
        /// In words.
        reason: String,
    },
}

fn describe(disk: &Disk) -> String {
    format!("{} {} MiB {}", disk.path, disk.bytes >> 20, disk.model)
        .trim_end()
        .to_owned()
}

/// Why a disk is out of the question.
fn obstacle(disk: &Disk) -> Option<&'static str> {
    match disk {
        Disk { bytes: 0, .. } => Some("is empty (no medium)"),
        Disk {
            removable: true, ..
        } => Some("is removable"),
        Disk {
            read_only: true, ..
        } => Some("is read-only"),
        _ => None,
    }
}

/// Chooses: the pinned one, or the only one that is fixed and writable.
///
/// # Errors
/// [`ChooseDiskError`].
pub fn choose_disk<'a>(disks: &'a [Disk], pin: Option<&str>) -> Result<&'a Disk, ChooseDiskError> {
    if let Some(pin) = pin {
        let pinned = |reason: &str| ChooseDiskError::Pinned {
            pin: pin.into(),
            reason: reason.into(),
        };
        let mut matches = disks
            .iter()
            .filter(|d| d.path == pin || (!d.serial.is_empty() && d.serial == pin));
        let disk = matches.next().ok_or_else(|| pinned("is not there"))?;
        if matches.next().is_some() {
            return Err(pinned("is there more than once"));
        }
        // a person who pins a removable disk means it
        return match disk.read_only || disk.bytes == 0 {
            true => Err(pinned("cannot be written")),
            false => Ok(disk),
        };
    }
    let usable: Vec<&Disk> = disks.iter().filter(|d| obstacle(d).is_none()).collect();
    match usable.as_slice() {
        [disk] => Ok(disk),
        [] => {
            let why = |d: &Disk| format!("{} {}", describe(d), obstacle(d).unwrap_or_default());
            let seen: Vec<String> = disks.iter().map(why).collect();
            Err(ChooseDiskError::None {
                seen: if seen.is_empty() {
                    "none is there".into()
                } else {
                    seen.join(", ")
                },
            })
        }
        several => Err(ChooseDiskError::Ambiguous {
            count: several.len(),
            names: several
                .iter()
                .map(|d| describe(d))
                .collect::<Vec<_>>()
                .join(", "),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(path: &str) -> Disk {
        Disk {
            path: path.into(),
            bytes: 64 << 30,
            sector_bytes: 512,
            removable: false,
            read_only: false,
            model: "SSD".into(),
            serial: format!("S{path}"),
        }
    }

    #[test]
    fn the_only_fixed_disk_is_taken() {
        let mut stick = disk("/dev/sda");
        stick.removable = true;
        let disks = [stick.clone(), disk("/dev/nvme0n1")];
        assert_eq!(choose_disk(&disks, None).unwrap().path, "/dev/nvme0n1");
        let none = choose_disk(&[stick], None).unwrap_err().to_string();
        assert!(
            none.contains("/dev/sda") && none.contains("removable"),
            "{none}"
        );
        assert!(
            choose_disk(&[], None)
                .unwrap_err()
                .to_string()
                .contains("none is there")
        );
    }

    #[test]
    fn two_are_one_too_many_unless_pinned() {
        let disks = [disk("/dev/sda"), disk("/dev/sdb")];
        assert!(matches!(
            choose_disk(&disks, None),
            Err(ChooseDiskError::Ambiguous { count: 2, .. })
        ));
        assert_eq!(
            choose_disk(&disks, Some("/dev/sdb")).unwrap().path,
            "/dev/sdb"
        );
        assert_eq!(
            choose_disk(&disks, Some("S/dev/sda")).unwrap().path,
            "/dev/sda"
        );
        assert!(choose_disk(&disks, Some("/dev/sdc")).is_err());
        let twins = [
            disk("/dev/sda"),
            Disk {
                serial: "S/dev/sda".into(),
                ..disk("/dev/sdb")
            },
        ];
        assert!(choose_disk(&twins, Some("S/dev/sda")).is_err());
    }
}
