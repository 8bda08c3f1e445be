//! Devices that come up, as the kernel announces them: uevents over netlink(7), `NETLINK_KOBJECT_UEVENT`. They are what udev
//! listens to; this initramfs has no udev.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvfrom, socket,
};

/// The kernel's own announcements (udev sends its on another group).
const KERNEL_GROUP: u32 = 1;
/// The kernel makes none that is longer: 2,048 bytes of variables (`UEVENT_BUFFER_SIZE`) behind a line with the device's path.
const UEVENT_BYTES_MAX: usize = 8192;

/// An open ear. What comes up from its opening on is heard; the kernel keeps what nobody reads until its buffer is full.
#[derive(Debug)]
pub(crate) struct Uevents {
    socket: OwnedFd,
}

/// What was heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Heard {
    /// A device asks for a driver by this modalias.
    Alias(String),
    /// So much came that some of it is lost: all devices have to be looked at again.
    Lost,
    /// Something else: a device that goes, or asks for nothing.
    Other,
}

impl Uevents {
    /// Starts to listen.
    ///
    /// # Errors
    /// Of socket(2) and bind(2).
    pub(crate) fn open() -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkKObjectUEvent,
        )?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, KERNEL_GROUP))?;
        Ok(Self { socket })
    }

    /// Waits for the next announcement.
    ///
    /// # Errors
    /// Of recvfrom(2).
    pub(crate) fn next(&self) -> io::Result<Heard> {
        let mut message = [0; UEVENT_BYTES_MAX];
        match recvfrom::<NetlinkAddr>(self.socket.as_raw_fd(), &mut message) {
            // a program can send on this group as well; the kernel's own number is 0
            Ok((length, Some(sender))) if sender.pid() == 0 => Ok(read(&message[..length])),
            Ok(_) | Err(Errno::EINTR) => Ok(Heard::Other),
            Err(Errno::ENOBUFS) => Ok(Heard::Lost),
            Err(error) => Err(error.into()),
        }
    }
}

/// Reads an announcement: `add@/devices/...` and variables, each ended by a zero (`kobject_uevent_env`).
fn read(message: &[u8]) -> Heard {
    let mut parts = message
        .split(|byte| *byte == 0)
        .filter_map(|part| std::str::from_utf8(part).ok());
    let is_new = parts
        .next()
        .and_then(|line| line.split_once('@'))
        .is_some_and(|(action, _)| matches!(action, "add" | "change" | "bind"));
    let alias = parts.find_map(|part| part.strip_prefix("MODALIAS="));
    match alias {
        Some(alias) if is_new && !alias.is_empty() => Heard::Alias(alias.to_owned()),
        _ => Heard::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_comes_up_names_what_drives_it() {
        let disk = b"add@/devices/pci0000:00/0000:00:04.0/usb2/2-1/2-1:1.0/host7/target7:0:0/7:0:0:0\0ACTION=add\0\
            DEVPATH=/devices/pci0000:00/0000:00:04.0/usb2/2-1/2-1:1.0/host7/target7:0:0/7:0:0:0\0SUBSYSTEM=scsi\0\
            DEVTYPE=scsi_device\0MODALIAS=scsi:t-0x00\0SEQNUM=1811\0";
        assert_eq!(read(disk), Heard::Alias("scsi:t-0x00".into()));
        let gone = b"remove@/devices/a\0ACTION=remove\0MODALIAS=scsi:t-0x00\0";
        assert_eq!(read(gone), Heard::Other);
        let plain = b"add@/devices/virtual/block/loop0\0ACTION=add\0SUBSYSTEM=block\0";
        assert_eq!(read(plain), Heard::Other);
        for odd in [
            &b""[..],
            b"\0\0",
            b"libudev\0\xfe\xed",
            b"add@\0MODALIAS=\0",
        ] {
            assert_eq!(read(odd), Heard::Other);
        }
    }
}
