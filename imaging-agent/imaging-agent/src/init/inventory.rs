//! What this machine is: its identity by SMBIOS, its wired interfaces, its disks; as sysfs shows them.

use std::fs;
use std::path::{Path, PathBuf};

/// Sysfs counts disk sizes in these, whatever the disk's sectors are.
const SIZE_UNIT_BYTES: u64 = 512;
/// Block devices that are never a machine's disk: made by the kernel or stacked on others, floppies, optical drives.
const NOT_DISKS: [&str; 9] = ["loop", "ram", "zram", "dm-", "md", "nbd", "fd", "sr", "mtd"];

/// A machine as found. Fields that the firmware leaves empty are `None`; placeholders ("To be filled by O.E.M.") are
/// passed on as they are, to be judged by who compares machines.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Inventory {
    /// SMBIOS type 1 UUID, as text in lower case.
    pub(crate) uuid: Option<String>,
    /// SMBIOS serial number of the system.
    pub(crate) serial: Option<String>,
    /// Serial number of the mainboard.
    pub(crate) board_serial: Option<String>,
    /// Who made it.
    pub(crate) vendor: Option<String>,
    /// Which model.
    pub(crate) product: Option<String>,
    /// Memory that the kernel has.
    pub(crate) memory_bytes: u64,
    /// Whether it was booted by UEFI.
    pub(crate) uefi: bool,
    /// Wired network interfaces, by name.
    pub(crate) interfaces: Vec<Interface>,
    /// Disks, by name, removable ones included.
    pub(crate) disks: Vec<Disk>,
}

/// A wired network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Interface {
    /// As the kernel names it.
    pub(crate) name: String,
    /// Its Ethernet address.
    pub(crate) address: [u8; 6],
    /// The driver's name, such as `r8169`.
    pub(crate) driver: Option<String>,
    /// Whether a cable with a live other end is in it.
    pub(crate) carrier: bool,
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Disk {
    /// As the kernel names it: `sda`, `nvme0n1`.
    pub(crate) name: String,
    /// Its device file.
    pub(crate) device: PathBuf,
    /// Its size.
    pub(crate) size_bytes: u64,
    /// The unit of its addresses; a write is at least this long.
    pub(crate) logical_sector_bytes: u32,
    /// Whether its medium can be taken out, or it hangs on USB: never a target unless pinned.
    pub(crate) removable: bool,
    /// Whether it hangs on USB.
    pub(crate) usb: bool,
    /// Whether it is write-protected.
    pub(crate) read_only: bool,
    /// Whether it has platters.
    pub(crate) rotational: bool,
    /// Model, as the disk says.
    pub(crate) model: Option<String>,
    /// Serial number, as the disk says.
    pub(crate) serial: Option<String>,
    /// World-wide identifier (`eui.`, `naa.`, `t10.`): the same in every machine and slot.
    pub(crate) wwid: Option<String>,
}

/// This machine.
pub(crate) fn read() -> Inventory {
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    Inventory {
        memory_bytes: memory_bytes(&memory),
        ..read_sysfs(Path::new("/sys"))
    }
}

/// Names of the wired interfaces below `/sys/class/net`: Ethernet, with hardware behind, not wireless.
pub(crate) fn wired_interfaces() -> Vec<Interface> {
    interfaces(Path::new("/sys"))
}

fn read_sysfs(sys: &Path) -> Inventory {
    let dmi = |name: &str| text(&sys.join("class/dmi/id").join(name));
    Inventory {
        uuid: dmi("product_uuid").map(|uuid| uuid.to_lowercase()),
        serial: dmi("product_serial"),
        board_serial: dmi("board_serial"),
        vendor: dmi("sys_vendor"),
        product: dmi("product_name"),
        memory_bytes: 0,
        uefi: sys.join("firmware/efi").exists(),
        interfaces: interfaces(sys),
        disks: disks(sys),
    }
}

fn interfaces(sys: &Path) -> Vec<Interface> {
    const ETHERNET: &str = "1"; // ARPHRD_ETHER
    names(&sys.join("class/net"))
        .into_iter()
        .filter_map(|name| {
            let folder = sys.join("class/net").join(&name);
            let wired = folder.join("device").exists()
                && !folder.join("wireless").exists()
                && !folder.join("phy80211").exists();
            if !wired || text(&folder.join("type"))? != ETHERNET {
                return None;
            }
            Some(Interface {
                address: ethernet_address(&text(&folder.join("address"))?)?,
                driver: link_name(&folder.join("device/driver")),
                // Reading it fails while the interface is down.
                carrier: text(&folder.join("carrier")).as_deref() == Some("1"),
                name,
            })
        })
        .collect()
}

fn disks(sys: &Path) -> Vec<Disk> {
    names(&sys.join("block"))
        .into_iter()
        .filter_map(|name| disk(sys, name))
        .collect()
}

fn disk(sys: &Path, name: String) -> Option<Disk> {
    if NOT_DISKS.iter().any(|prefix| name.starts_with(prefix)) {
        return None;
    }
    let folder = sys.join("block").join(&name);
    let attribute = |path: &str| text(&folder.join(path));
    let is = |path: &str| attribute(path).as_deref() == Some("1");
    // Boot areas of eMMC chips and hidden paths of NVMe controllers are block devices too.
    if name.contains("boot") || name.contains("rpmb") || is("hidden") {
        return None;
    }
    let size_bytes = attribute("size")?
        .parse::<u64>()
        .ok()?
        .checked_mul(SIZE_UNIT_BYTES)?;
    if size_bytes == 0 {
        return None; // a card reader without a card
    }
    let place = fs::canonicalize(&folder).unwrap_or_default();
    let usb = place
        .components()
        .any(|part| part.as_os_str().to_string_lossy().starts_with("usb"));
    Some(Disk {
        device: Path::new("/dev").join(name.replace('!', "/")),
        size_bytes,
        logical_sector_bytes: attribute("queue/logical_block_size")?.parse().ok()?,
        removable: usb || is("removable"),
        usb,
        read_only: is("ro"),
        rotational: is("queue/rotational"),
        model: attribute("device/model").or_else(|| attribute("device/name")),
        serial: attribute("serial")
            .or_else(|| attribute("device/serial"))
            .or_else(|| unit_serial(&folder)),
        wwid: attribute("wwid").or_else(|| attribute("device/wwid")),
        name,
    })
}

/// The serial number of a SCSI or SATA disk: vital product data page 0x80, as the disk sent it (SPC-4, 7.8.15).
fn unit_serial(folder: &Path) -> Option<String> {
    let page = fs::read(folder.join("device/vpd_pg80")).ok()?;
    let length = usize::from(u16::from_be_bytes([*page.get(2)?, *page.get(3)?]));
    let serial = String::from_utf8_lossy(page.get(4..4 + length)?);
    clean(&serial)
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

fn text(path: &Path) -> Option<String> {
    clean(&String::from_utf8_lossy(&fs::read(path).ok()?))
}

/// Without blanks and zeros around; nothing when empty.
fn clean(text: &str) -> Option<String> {
    let text = text.trim_matches(|letter: char| letter.is_whitespace() || letter == '\0');
    (!text.is_empty()).then(|| text.to_owned())
}

fn link_name(path: &Path) -> Option<String> {
    Some(fs::read_link(path).ok()?.file_name()?.to_str()?.to_owned())
}

fn ethernet_address(text: &str) -> Option<[u8; 6]> {
    let bytes: Vec<u8> = text
        .split(':')
        .map(|part| u8::from_str_radix(part, 16).ok())
        .collect::<Option<_>>()?;
    bytes.try_into().ok()
}

/// `MemTotal:        1006452 kB`.
fn memory_bytes(meminfo: &str) -> u64 {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes.unwrap_or_default().saturating_mul(1024)
}

#[cfg(test)]
mod tests;
