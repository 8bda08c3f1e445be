//! What to answer to whom: pure, complete, and silent unless asked for network boot.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};

use super::client::{BootClient, Transport};
use super::message::{DhcpMessage, MessageType, options};
use super::reply::{BootFields, DhcpReply};
use crate::quirks;

/// The agent's UKI, as boot file and as the last part of its URL.
pub const AGENT_FILE: &str = "lamplighter.efi";
/// A tiny EFI program that returns an error to the firmware, which then goes on to its next boot entry: the disk.
pub const LOCAL_DISK_FILE: &str = "local.efi";

/// Text taken over from a packet is cut here.
const TEXT_CHARS_MAX: usize = 128;

/// The server port a packet came in on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerPort {
    /// 67, where all DHCP clients ask.
    Dhcp,
    /// 4011, where PXE clients ask a boot server that they already know.
    Pxe,
}

impl fmt::Display for ServerPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dhcp => "67",
            Self::Pxe => "4011",
        })
    }
}

/// A packet with the circumstances that the answer depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DhcpRequest {
    /// The packet.
    pub message: DhcpMessage,
    /// The port it came in on.
    pub port: ServerPort,
    /// Address and port of its sender.
    pub from: SocketAddrV4,
}

/// What one machine is to boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BootAnswer {
    /// The agent.
    Agent,
    /// Its own disk, at once: [`LOCAL_DISK_FILE`].
    LocalDisk,
    /// Nothing from us, for this reason in plain words.
    Ignore(String),
}

/// Who we are, and what the asking machine is to boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootPolicy {
    /// Our address as the client reaches it: server id, `siaddr` and the host of the URL.
    pub server: Ipv4Addr,
    /// TCP port of our HTTP server.
    pub http_port: u16,
    /// What this machine is to boot.
    pub answer: BootAnswer,
}

/// Where an answer is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// 255.255.255.255, client port 68.
    Broadcast,
    /// This address and port.
    Unicast(SocketAddrV4),
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broadcast => f.write_str("broadcast"),
            Self::Unicast(to) => write!(f, "{to}"),
        }
    }
}

/// The outcome of [`decide`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Send this there.
    Reply {
        /// The answer.
        reply: Box<DhcpReply>,
        /// Where it goes.
        to: Destination,
    },
    /// Say nothing, for this reason. An answer like any other: counted, never an error.
    Ignore(IgnoreReason),
}

/// Why nothing is answered. `Display` is the sentence that the boot doctor shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IgnoreReason {
    /// A server's packet.
    ServerPacket,
    /// No message type that clients send to this port.
    NotForUs {
        /// Where it came in.
        port: ServerPort,
        /// What it was, if known.
        message_type: Option<MessageType>,
    },
    /// Option 60 is neither `PXEClient` nor `HTTPClient`: an ordinary DHCP client.
    NotNetworkBoot,
    /// Passed on by a DHCP relay, from another network.
    Relayed {
        /// The relay.
        relay: Ipv4Addr,
    },
    /// No Ethernet address to know the machine by.
    NotEthernet,
    /// Asked for network boot without saying which architecture.
    NoArchitecture,
    /// An architecture that we have nothing for.
    Architecture {
        /// IANA number.
        code: u16,
        /// `HTTPClient` rather than `PXEClient`.
        http: bool,
    },
    /// The site's rule for this machine.
    Policy(String),
}

impl IgnoreReason {
    /// A short fixed name, for counting.
    pub fn label(&self) -> &'static str {
        match self {
            Self::ServerPacket => "server_packet",
            Self::NotForUs { .. } => "not_for_us",
            Self::NotNetworkBoot => "not_network_boot",
            Self::Relayed { .. } => "relayed",
            Self::NotEthernet => "not_ethernet",
            Self::NoArchitecture => "no_architecture",
            Self::Architecture { .. } => "architecture",
            Self::Policy(_) => "policy",
        }
    }
}

impl fmt::Display for IgnoreReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ServerPacket => {
                f.write_str("this packet comes from a DHCP server, not from a client")
            }
            Self::NotForUs { port, message_type } => match message_type {
                Some(message_type) => write!(
                    f,
                    "a {message_type:?} on port {port} is meant for the site's own DHCP server"
                ),
                None => write!(
                    f,
                    "a packet without a known DHCP message type on port {port}"
                ),
            },
            Self::NotNetworkBoot => {
                f.write_str("an ordinary DHCP client that did not ask for network boot")
            }
            Self::Relayed { relay } => write!(
                f,
                "it came through the DHCP relay {relay}; a node boots only machines of its own network"
            ),
            Self::NotEthernet => f.write_str("it has no Ethernet address"),
            Self::NoArchitecture => {
                f.write_str("its firmware does not say which architecture it is (option 93)")
            }
            Self::Architecture { code, http } => write!(
                f,
                "its firmware asks for {} ({}, number {code}), and only UEFI on x64 is served",
                architecture_name(*code),
                if *http { "HTTP boot" } else { "PXE" },
            ),
            Self::Policy(reason) => f.write_str(reason),
        }
    }
}

fn architecture_name(code: u16) -> &'static str {
    match code {
        0 => "BIOS on x86",
        6 => "UEFI on 32-bit x86",
        7 | 9 => "UEFI on x64",
        10 => "UEFI on 32-bit ARM",
        11 => "UEFI on 64-bit ARM",
        15 => "UEFI on 32-bit x86 over HTTP",
        16 => "UEFI on x64 over HTTP",
        18 => "UEFI on 32-bit ARM over HTTP",
        19 => "UEFI on 64-bit ARM over HTTP",
        20 => "BIOS on x86 over HTTP",
        25 | 27 | 29 => "UEFI on RISC-V",
        _ => "an architecture unknown to us",
    }
}

/// The proxyDHCP answer (RFC 4578 and the PXE 2.1 specification, as real firmware takes them; see [`quirks`]).
///
/// Never offers an address, never answers who did not ask for PXE or HTTP boot, never answers a REQUEST on port 67.
pub fn decide(request: &DhcpRequest, policy: &BootPolicy) -> Decision {
    let client = match identify_for_proxy(request) {
        Ok(client) => client,
        Err(reason) => return Decision::Ignore(reason),
    };
    let mut boot = match boot_fields(&client, policy) {
        Ok(boot) => boot,
        Err(reason) => return Decision::Ignore(reason),
    };
    let message = &request.message;
    if client.transport != Transport::Http {
        boot.vendor_class = Some(quirks::PXE_CLASS);
        boot.vendor_options = pxe_vendor_options(request);
    }
    let (message_type, to, ciaddr) = match request.port {
        ServerPort::Dhcp => (
            MessageType::Offer,
            Destination::Broadcast,
            Ipv4Addr::UNSPECIFIED,
        ),
        ServerPort::Pxe => (
            MessageType::Ack,
            quirks::pxe_port_answer_goes_to(request.from),
            message.ciaddr,
        ),
    };
    let reply = DhcpReply {
        message_type,
        xid: message.xid,
        flags: message.flags,
        ciaddr,
        yiaddr: Ipv4Addr::UNSPECIFIED,
        mac: client.mac,
        server: policy.server,
        lease: None,
        boot: Some(boot),
        client_id: None,
        client_uuid: message.option(options::CLIENT_UUID).map(<[u8]>::to_vec),
        refusal: None,
    };
    Decision::Reply {
        reply: Box::new(reply),
        to,
    }
}

/// The client of a request that a proxy may answer at all.
///
/// # Errors
/// The reason for silence.
pub fn identify_for_proxy(request: &DhcpRequest) -> Result<BootClient, IgnoreReason> {
    let client = identify(&request.message);
    // An ordinary client, a relay or a server is named as such whatever the message type; a BIOS client's REQUEST on 67 is not news.
    if let Err(
        reason @ (IgnoreReason::ServerPacket
        | IgnoreReason::NotNetworkBoot
        | IgnoreReason::Relayed { .. }),
    ) = client
    {
        return Err(reason);
    }
    let message_type = request.message.message_type();
    match message_type {
        Some(known) if quirks::proxy_may_answer(request.port, known) => client,
        _ => Err(IgnoreReason::NotForUs {
            port: request.port,
            message_type,
        }),
    }
}

/// Who asks for network boot, whatever the message type.
///
/// # Errors
/// The reason why we cannot or must not serve it.
pub fn identify(message: &DhcpMessage) -> Result<BootClient, IgnoreReason> {
    if message.is_reply {
        return Err(IgnoreReason::ServerPacket);
    }
    let vendor_class = message.vendor_class();
    let http = vendor_class.starts_with(quirks::HTTP_BOOT_CLASS);
    if !http && !vendor_class.starts_with(quirks::PXE_CLASS) {
        return Err(IgnoreReason::NotNetworkBoot);
    }
    if !message.giaddr.is_unspecified() {
        return Err(IgnoreReason::Relayed {
            relay: message.giaddr,
        });
    }
    let mac = message.mac().ok_or(IgnoreReason::NotEthernet)?;
    let architectures = message.architectures();
    let served = |architecture: &u16| {
        if http {
            *architecture == 16
        } else {
            quirks::is_x64_uefi_pxe(*architecture)
        }
    };
    let architecture = match architectures.iter().copied().find(served) {
        Some(architecture) => architecture,
        None => {
            return Err(architectures
                .first()
                .map_or(IgnoreReason::NoArchitecture, |code| {
                    IgnoreReason::Architecture { code: *code, http }
                }));
        }
    };
    let transport = if http {
        Transport::Http
    } else if quirks::is_ipxe(message.user_class()) {
        Transport::Ipxe
    } else {
        Transport::Tftp
    };
    Ok(BootClient {
        mac,
        uuid: message.client_uuid(),
        architecture,
        transport,
        vendor_class: cut(&vendor_class),
        user_class: cut(&String::from_utf8_lossy(message.user_class())),
    })
}

/// What a client is told to boot, in the form that it needs when the same server also gives the address.
///
/// `uefi-pxe-uki.pcap`: a full DHCP OFFER carries no option 60 or 43 for PXE. `uefi-http-uki.pcap`: HTTP boot needs option 60.
///
/// # Errors
/// [`IgnoreReason::Policy`] if the site's rule is to say nothing.
pub fn boot_fields(client: &BootClient, policy: &BootPolicy) -> Result<BootFields, IgnoreReason> {
    let name = match &policy.answer {
        BootAnswer::Agent => AGENT_FILE,
        BootAnswer::LocalDisk => LOCAL_DISK_FILE,
        BootAnswer::Ignore(reason) => return Err(IgnoreReason::Policy(cut(reason))),
    };
    let file = match client.transport {
        Transport::Tftp => name.to_owned(),
        Transport::Http | Transport::Ipxe => {
            format!("http://{}:{}/boot/{name}", policy.server, policy.http_port)
        }
    };
    Ok(BootFields {
        file,
        vendor_class: (client.transport == Transport::Http).then_some(quirks::HTTP_BOOT_CLASS),
        vendor_options: None,
    })
}

/// Option 43 of a proxy's PXE answer: on 67 "boot this file", on 4011 the boot item that was asked for, if one was.
fn pxe_vendor_options(request: &DhcpRequest) -> Option<Vec<u8>> {
    match request.port {
        ServerPort::Dhcp => Some(quirks::direct_boot_vendor_options()),
        ServerPort::Pxe => quirks::boot_item_echo(&request.message),
    }
}

fn cut(text: &str) -> String {
    text.chars().take(TEXT_CHARS_MAX).collect()
}
