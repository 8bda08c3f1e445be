//! A DHCP packet as it was sent, read without trusting any of it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use dhcproto::v4::borrowed::{DhcpOptionIterator, Message};
use dhcproto::v4::{MAGIC, Opcode};

use super::client::{ClientUuid, MacAddress};
use crate::quirks;

/// Option codes that this crate reads or writes (RFC 2132, 3004, 4578).
pub mod options {
    /// Vendor-specific information; for PXE a list of suboptions.
    pub const VENDOR: u8 = 43;
    /// Requested IP address.
    pub const REQUESTED_ADDRESS: u8 = 50;
    /// Address lease time.
    pub const LEASE_TIME: u8 = 51;
    /// Option overload: `file` and/or `sname` carry options.
    pub const OVERLOAD: u8 = 52;
    /// DHCP message type.
    pub const MESSAGE_TYPE: u8 = 53;
    /// Server identifier.
    pub const SERVER_ID: u8 = 54;
    /// Vendor class: `PXEClient:...` or `HTTPClient:...`.
    pub const VENDOR_CLASS: u8 = 60;
    /// Client identifier.
    pub const CLIENT_ID: u8 = 61;
    /// TFTP server name.
    pub const TFTP_SERVER: u8 = 66;
    /// Boot file name or URL.
    pub const BOOT_FILE: u8 = 67;
    /// User class; iPXE says so here.
    pub const USER_CLASS: u8 = 77;
    /// Client system architectures, a list of 16-bit numbers.
    pub const ARCHITECTURES: u8 = 93;
    /// Client machine identifier: a type byte and a UUID.
    pub const CLIENT_UUID: u8 = 97;
}

/// The fixed part of a BOOTP packet with its magic cookie.
const HEADER_BYTES: usize = 240;
/// No option is longer than this once joined; what comes beyond is cut (a UDP packet could repeat one option 250 times).
const OPTION_BYTES_MAX: usize = 1024;

/// Message types of RFC 2131.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum MessageType {
    /// A client looks for servers.
    Discover = 1,
    /// A server offers.
    Offer = 2,
    /// A client asks for what was offered, or to renew it.
    Request = 3,
    /// A client found the address in use.
    Decline = 4,
    /// A server grants.
    Ack = 5,
    /// A server refuses.
    Nak = 6,
    /// A client gives its address back.
    Release = 7,
    /// A client with an address asks for the rest.
    Inform = 8,
}

impl MessageType {
    /// The type with this number, if RFC 2131 has it.
    pub fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Discover,
            2 => Self::Offer,
            3 => Self::Request,
            4 => Self::Decline,
            5 => Self::Ack,
            6 => Self::Nak,
            7 => Self::Release,
            8 => Self::Inform,
            _ => return None,
        })
    }
}

/// Why a packet is not DHCP at all. One bad option is no such reason: it is skipped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseDhcpError {
    /// Shorter than the fixed header.
    #[error("DHCP packet of {len} bytes is shorter than its {HEADER_BYTES}-byte header")]
    TooShort {
        /// Bytes received.
        len: usize,
    },
    /// The options do not start with the cookie of RFC 2131 section 3.
    #[error("DHCP packet starts its options with {found:02x?}, not with the DHCP cookie")]
    BadMagic {
        /// The four bytes found.
        found: [u8; 4],
    },
    /// `op` is neither request nor reply.
    #[error("DHCP packet has op {op}, neither request (1) nor reply (2)")]
    BadOp {
        /// The byte found.
        op: u8,
    },
}

/// A DHCP packet with all its options, split ones joined (RFC 3396) and overloaded fields read (option 52).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DhcpMessage {
    /// `op` is 2: a server sent it.
    pub is_reply: bool,
    /// Transaction number, chosen by the client.
    pub xid: u32,
    /// The flags field as sent; bit 15 asks for a broadcast answer.
    pub flags: u16,
    /// The address the client says it has.
    pub ciaddr: Ipv4Addr,
    /// The address a server gives.
    pub yiaddr: Ipv4Addr,
    /// The next server.
    pub siaddr: Ipv4Addr,
    /// The relay that passed it on, or 0.0.0.0.
    pub giaddr: Ipv4Addr,
    hardware_type: u8,
    hardware: Vec<u8>,
    file_field: Vec<u8>,
    options: BTreeMap<u8, Vec<u8>>,
}

impl DhcpMessage {
    /// Reads a packet. Options that are cut off or malformed are left out; everything before them counts.
    ///
    /// # Errors
    /// [`ParseDhcpError`] if it is not DHCP at all.
    pub fn parse(packet: &[u8]) -> Result<Self, ParseDhcpError> {
        let too_short = ParseDhcpError::TooShort { len: packet.len() };
        let message = Message::new(packet).map_err(|_| too_short.clone())?;
        let found: [u8; 4] = packet
            .get(HEADER_BYTES - 4..HEADER_BYTES)
            .and_then(|cookie| cookie.try_into().ok())
            .ok_or(too_short)?;
        if found != MAGIC {
            return Err(ParseDhcpError::BadMagic { found });
        }
        let is_reply = match message.opcode() {
            Opcode::BootRequest => false,
            Opcode::BootReply => true,
            other => return Err(ParseDhcpError::BadOp { op: other.into() }),
        };
        // `Message::chaddr` slices by the packet's own `hlen` and would run off a short packet: clamp to the field.
        let hardware_len = usize::from(message.hlen()).min(16);
        let hardware = packet[28..28 + hardware_len].to_vec();
        let (sname, file) = (&packet[44..108], &packet[108..236]);

        let mut options = BTreeMap::new();
        collect(message.opts(), &mut options);
        let overload = options
            .get(&options::OVERLOAD)
            .and_then(|value: &Vec<u8>| value.first().copied())
            .unwrap_or(0);
        // RFC 3396 section 5: the options field, then `file`, then `sname`.
        if overload & 1 != 0 {
            collect(DhcpOptionIterator::new(file), &mut options);
        }
        if overload & 2 != 0 {
            collect(DhcpOptionIterator::new(sname), &mut options);
        }
        let file_field = if overload & 1 == 0 {
            until_nul(file).to_vec()
        } else {
            Vec::new()
        };
        Ok(Self {
            is_reply,
            xid: message.xid(),
            flags: message.flags().into(),
            ciaddr: message.ciaddr(),
            yiaddr: message.yiaddr(),
            siaddr: message.siaddr(),
            giaddr: message.giaddr(),
            hardware_type: packet[1],
            hardware,
            file_field,
            options,
        })
    }

    /// The raw bytes of an option, joined if it was split.
    pub fn option(&self, code: u8) -> Option<&[u8]> {
        self.options.get(&code).map(Vec::as_slice)
    }

    /// The codes of all options in the packet, ascending.
    pub fn option_codes(&self) -> impl Iterator<Item = u8> + '_ {
        self.options.keys().copied()
    }

    /// Option 53, if it is there and known.
    pub fn message_type(&self) -> Option<MessageType> {
        match self.option(options::MESSAGE_TYPE)? {
            [code] => MessageType::from_code(*code),
            _ => None,
        }
    }

    /// The sender's Ethernet address; `None` for any other kind of hardware.
    pub fn mac(&self) -> Option<MacAddress> {
        let bytes: [u8; 6] = self.hardware.as_slice().try_into().ok()?;
        (self.hardware_type == 1).then_some(MacAddress(bytes))
    }

    /// Option 54.
    pub fn server_id(&self) -> Option<Ipv4Addr> {
        self.address_option(options::SERVER_ID)
    }

    /// Option 50.
    pub fn requested_address(&self) -> Option<Ipv4Addr> {
        self.address_option(options::REQUESTED_ADDRESS)
    }

    /// Option 60 as text, lossy; empty if absent.
    pub fn vendor_class(&self) -> String {
        self.text_option(options::VENDOR_CLASS)
    }

    /// Option 77 as raw bytes; empty if absent. Firmware does not keep to RFC 3004 here, see [`quirks::is_ipxe`].
    pub fn user_class(&self) -> &[u8] {
        self.option(options::USER_CLASS).unwrap_or_default()
    }

    /// Option 93: all architectures that the client claims, in its order. Falls back to the vendor class, see
    /// [`quirks::architecture_from_class`].
    pub fn architectures(&self) -> Vec<u16> {
        let listed: Vec<u16> = self
            .option(options::ARCHITECTURES)
            .unwrap_or_default()
            .chunks_exact(2)
            .map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
            .collect();
        if listed.is_empty() {
            quirks::architecture_from_class(&self.vendor_class())
                .into_iter()
                .collect()
        } else {
            listed
        }
    }

    /// Option 97, if it is a type 0 byte and 16 bytes.
    pub fn client_uuid(&self) -> Option<ClientUuid> {
        match self.option(options::CLIENT_UUID)? {
            [0, uuid @ ..] => uuid.try_into().ok().map(ClientUuid::from_wire),
            _ => None,
        }
    }

    /// The boot file a server names: option 67 or else the `file` field; `None` if neither says anything.
    pub fn boot_file(&self) -> Option<String> {
        let option = self.text_option(options::BOOT_FILE);
        let name = if option.is_empty() {
            String::from_utf8_lossy(&self.file_field).into_owned()
        } else {
            option
        };
        (!name.is_empty()).then_some(name)
    }

    fn address_option(&self, code: u8) -> Option<Ipv4Addr> {
        let bytes: [u8; 4] = self.option(code)?.try_into().ok()?;
        Some(Ipv4Addr::from(bytes))
    }

    fn text_option(&self, code: u8) -> String {
        let value = self.option(code).unwrap_or_default();
        String::from_utf8_lossy(quirks::without_trailing_nul(value)).into_owned()
    }
}

/// Adds options to the map, joining those already there (RFC 3396 also allows parts that do not follow each other).
fn collect(iterator: DhcpOptionIterator<'_>, options: &mut BTreeMap<u8, Vec<u8>>) {
    for option in iterator {
        let joined = options.entry(option.code().into()).or_default();
        let room = OPTION_BYTES_MAX.saturating_sub(joined.len());
        joined.extend(option.data().iter().take(room));
    }
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}
