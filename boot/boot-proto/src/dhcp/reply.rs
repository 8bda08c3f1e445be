//! The answers that we send, and their bytes.

use std::net::Ipv4Addr;

use dhcproto::v4::{self, DhcpOption, Flags, Message, Opcode};
use dhcproto::{Encodable, Encoder};

use super::client::MacAddress;
use super::message::MessageType;

/// RFC 951 packets have 300 bytes, and some clients drop shorter ones.
const REPLY_BYTES_MIN: usize = 300;
/// The `file` field, with room for the NUL that ends it. A longer name goes out in option 67 alone.
const FILE_FIELD_BYTES: usize = 127;
/// Option 67 must fit one option: no firmware is known to join split ones.
const FILE_BYTES_MAX: usize = 255;

/// Why an answer could not be encoded.
#[derive(Debug, thiserror::Error)]
pub enum EncodeDhcpError {
    /// The boot file or URL does not fit option 67.
    #[error("boot file name of {len} bytes does not fit DHCP option 67 ({FILE_BYTES_MAX} bytes)")]
    FileTooLong {
        /// Its length.
        len: usize,
    },
    /// The encoder refused.
    #[error("DHCP answer cannot be encoded")]
    Encode(#[from] dhcproto::error::EncodeError),
}

/// What to boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootFields {
    /// File name or URL: `file` (if it fits) and option 67.
    pub file: String,
    /// Option 60 of the answer.
    pub vendor_class: Option<&'static str>,
    /// Option 43 of the answer.
    pub vendor_options: Option<Vec<u8>>,
}

/// The network configuration that goes with an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseFields {
    /// Seconds for which the address is given; `None` answers an INFORM, which has its address already.
    pub lease_seconds: Option<u32>,
    /// Subnet mask.
    pub subnet_mask: Ipv4Addr,
    /// Default gateway.
    pub router: Option<Ipv4Addr>,
    /// Name servers.
    pub dns: Vec<Ipv4Addr>,
}

/// One answer: OFFER, ACK or NAK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DhcpReply {
    /// OFFER, ACK or NAK.
    pub message_type: MessageType,
    /// The client's transaction number.
    pub xid: u32,
    /// The client's flags, repeated.
    pub flags: u16,
    /// The client's own address, where it has one.
    pub ciaddr: Ipv4Addr,
    /// The address given; 0.0.0.0 from a proxy, always.
    pub yiaddr: Ipv4Addr,
    /// The client's Ethernet address.
    pub mac: MacAddress,
    /// Server id; with boot fields also `siaddr` and option 66.
    pub server: Ipv4Addr,
    /// Network configuration, in full DHCP mode.
    pub lease: Option<LeaseFields>,
    /// What to boot, if anything.
    pub boot: Option<BootFields>,
    /// Option 61, repeated (RFC 6842).
    pub client_id: Option<Vec<u8>>,
    /// Option 97, repeated byte for byte.
    pub client_uuid: Option<Vec<u8>>,
    /// Option 56: why a NAK says no.
    pub refusal: Option<String>,
}

impl DhcpReply {
    /// The packet, padded to 300 bytes.
    ///
    /// # Errors
    /// [`EncodeDhcpError::FileTooLong`] if the boot file does not fit.
    pub fn encode(&self) -> Result<Vec<u8>, EncodeDhcpError> {
        let mut message = Message::new_with_id(
            self.xid,
            self.ciaddr,
            self.yiaddr,
            if self.boot.is_some() {
                self.server
            } else {
                Ipv4Addr::UNSPECIFIED
            },
            Ipv4Addr::UNSPECIFIED,
            &self.mac.0,
        );
        message
            .set_opcode(Opcode::BootReply)
            .set_flags(Flags::from(self.flags));
        let options = message.opts_mut();
        options.insert(DhcpOption::MessageType(v4::MessageType::from(
            self.message_type as u8,
        )));
        options.insert(DhcpOption::ServerIdentifier(self.server));
        if let Some(lease) = &self.lease {
            insert_lease(options, lease);
        }
        if let Some(id) = &self.client_id {
            options.insert(DhcpOption::ClientIdentifier(id.clone()));
        }
        if let Some(uuid) = &self.client_uuid {
            options.insert(DhcpOption::ClientMachineIdentifier(uuid.clone()));
        }
        if let Some(refusal) = &self.refusal {
            options.insert(DhcpOption::Message(refusal.clone()));
        }
        if let Some(boot) = &self.boot {
            let file = boot.file.as_bytes();
            if file.len() > FILE_BYTES_MAX {
                return Err(EncodeDhcpError::FileTooLong { len: file.len() });
            }
            insert_boot(options, boot, self.server);
            if file.len() <= FILE_FIELD_BYTES {
                message.set_fname(file);
            }
        }
        let mut packet = Vec::with_capacity(REPLY_BYTES_MIN);
        message.encode(&mut Encoder::new(&mut packet))?;
        if packet.len() < REPLY_BYTES_MIN {
            packet.resize(REPLY_BYTES_MIN, 0);
        }
        Ok(packet)
    }
}

fn insert_lease(options: &mut v4::DhcpOptions, lease: &LeaseFields) {
    if let Some(seconds) = lease.lease_seconds {
        options.insert(DhcpOption::AddressLeaseTime(seconds));
        // RFC 2131 section 4.4.5: T1 at half, T2 at seven eighths.
        options.insert(DhcpOption::Renewal(seconds / 2));
        options.insert(DhcpOption::Rebinding(seconds - seconds / 8));
    }
    options.insert(DhcpOption::SubnetMask(lease.subnet_mask));
    if let Some(router) = lease.router {
        options.insert(DhcpOption::Router(vec![router]));
    }
    if !lease.dns.is_empty() {
        options.insert(DhcpOption::DomainNameServer(lease.dns.clone()));
    }
}

fn insert_boot(options: &mut v4::DhcpOptions, boot: &BootFields, server: Ipv4Addr) {
    options.insert(DhcpOption::TFTPServerName(server.to_string().into_bytes()));
    options.insert(DhcpOption::BootfileName(boot.file.clone().into_bytes()));
    if let Some(class) = boot.vendor_class {
        options.insert(DhcpOption::ClassIdentifier(class.as_bytes().to_vec()));
    }
    if let Some(vendor) = &boot.vendor_options {
        options.insert(DhcpOption::VendorExtensions(vendor.clone()));
    }
}
