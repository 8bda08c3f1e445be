//! Who asks: the identity of a machine as its firmware tells it.

use std::fmt;

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddress(pub [u8; 6]);

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// The SMBIOS UUID of a machine (option 97).
///
/// The same 16 bytes are read in two ways: SMBIOS 2.6 stores the first three fields little-endian, so `44332211-6655-...` on the
/// wire is `11223344-5566-...` in `dmidecode`, in Linux and on the vendor's label. Old firmware and some tools take the wire order
/// as it is. A registry of machines should look for both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientUuid([u8; 16]);

impl ClientUuid {
    /// Takes the 16 bytes as they stand in option 97.
    pub fn from_wire(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The bytes as they stand in option 97.
    pub fn wire_order(&self) -> [u8; 16] {
        self.0
    }

    /// The bytes with the first three fields swapped: what `dmidecode` shows. [`fmt::Display`] prints this form.
    pub fn smbios_order(&self) -> [u8; 16] {
        let mut bytes = self.0;
        bytes[0..4].reverse();
        bytes[4..6].reverse();
        bytes[6..8].reverse();
        bytes
    }

    /// The wire order as text, for looking up machines that were registered that way.
    pub fn wire_text(&self) -> String {
        hyphenated(&self.wire_order())
    }
}

impl fmt::Display for ClientUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hyphenated(&self.smbios_order()))
    }
}

fn hyphenated(bytes: &[u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// How the firmware wants to fetch its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// UEFI PXE: a file name, fetched by TFTP.
    Tftp,
    /// UEFI HTTP boot: a URL, fetched by HTTP.
    Http,
    /// iPXE, already running: a URL, fetched by HTTP, asked for in the PXE way.
    Ipxe,
}

/// A machine that asked to boot from the network, and that we can serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootClient {
    /// The address of the network card that asks.
    pub mac: MacAddress,
    /// The machine's UUID, if its firmware tells one.
    pub uuid: Option<ClientUuid>,
    /// The architecture that was chosen from option 93 (IANA "Processor Architecture Types"): 7, 9 or 16.
    pub architecture: u16,
    /// How it will fetch the file.
    pub transport: Transport,
    /// Option 60, at most 255 bytes of text.
    pub vendor_class: String,
    /// Option 77 as text; empty if absent.
    pub user_class: String,
}
