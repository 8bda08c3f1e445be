//! What firmware does that no RFC says, one named function each, with the capture (`tests/fixtures/`) that showed it.

use std::net::SocketAddrV4;
use std::time::Duration;

use crate::dhcp::{Destination, DhcpMessage, MacAddress, MessageType, ServerPort, options};
use crate::tftp::ErrorCode;

/// Discovery control 8: "use the boot file in this answer, ask nobody else". As PXE suboption 6, closed by 255.
///
/// `myproxy-uefi-direct.pcap`: OVMF and iPXE take the file from the proxy OFFER at once and never go to port 4011.
/// `myproxy-uefi-4011.pcap`: discovery control 0 without a boot menu makes OVMF stop without a word after the ACK.
pub fn direct_boot_vendor_options() -> Vec<u8> {
    vec![6, 1, 8, 255]
}

/// Option 43 of an answer on port 4011: PXE suboption 71 (boot item) as it was asked for, or no option 43 at all.
///
/// `proxy-bios-pxeservice.pcap`: iPXE asks with `47 04 80 00 00 00` and takes an ACK that repeats it. `proxy-uefi-pxeservice.pcap`:
/// OVMF asks without option 43 and takes an ACK without it.
pub fn boot_item_echo(request: &DhcpMessage) -> Option<Vec<u8>> {
    let mut rest = request.option(options::VENDOR)?;
    while let [code, after @ ..] = rest {
        match (*code, after) {
            (0, _) => rest = after,
            (71, [4, a, b, c, d, ..]) => return Some(vec![71, 4, *a, *b, *c, *d, 255]),
            (255, _) | (_, []) => return None,
            (_, [len, value @ ..]) => rest = value.get(usize::from(*len)..)?,
        }
    }
    None
}

/// Architecture 9 is x64, as 7 is.
///
/// RFC 4578 lists 9 as "EFI x86-64" and 7 as "EFI BC"; its erratum and every firmware in the field swap them, so both mean x64. Our
/// captures (`uefi-pxe-uki.pcap`) show 7 only.
pub fn is_x64_uefi_pxe(architecture: u16) -> bool {
    matches!(architecture, 7 | 9)
}

/// The architecture from a class such as `PXEClient:Arch:00007:UNDI:003000`, for firmware whose option 93 is absent or cut.
///
/// All captures carry both, and they agree (`uefi-pxe-uki.pcap`, `uefi-http-uki.pcap`); iPXE on port 4011 sends the bare `PXEClient`
/// (`proxy-bios-pxeservice.pcap`), so the class alone is never required.
pub fn architecture_from_class(vendor_class: &str) -> Option<u16> {
    let mut parts = vendor_class.split(':');
    parts.find(|part| *part == "Arch")?;
    parts.next()?.parse().ok()
}

/// iPXE names itself in option 77 as the bare text `iPXE`, without the length bytes of RFC 3004.
///
/// `uefi-snponly.pcap`, second DISCOVER. The RFC's form is accepted too, for builds that send it.
pub fn is_ipxe(user_class: &[u8]) -> bool {
    user_class == b"iPXE" || user_class == b"\x04iPXE"
}

/// The vendor class that the answer must carry, or UEFI HTTP boot ignores it.
///
/// `uefi-http-uki.pcap`, `myproxy-uefi-http.pcap`: OFFERs with option 60 `HTTPClient` and a full URL are followed by HEAD and GET.
pub const HTTP_BOOT_CLASS: &str = "HTTPClient";

/// The vendor class of a PXE answer; a proxy OFFER without it is no PXE answer (`myproxy-uefi-direct.pcap`).
pub const PXE_CLASS: &str = "PXEClient";

/// What a proxy may answer: a DISCOVER on port 67, a REQUEST or INFORM on port 4011, nothing else.
///
/// `myproxy-uefi-direct.pcap`: the REQUEST on 67 repeats option 60 `PXEClient`, but is meant for the site's DHCP server (option 54):
/// an answer from us would tear that exchange apart. `proxy-uefi-pxeservice.pcap`: the exchange on 4011 starts with a REQUEST.
pub fn proxy_may_answer(port: ServerPort, message_type: MessageType) -> bool {
    match port {
        ServerPort::Dhcp => message_type == MessageType::Discover,
        ServerPort::Pxe => matches!(message_type, MessageType::Request | MessageType::Inform),
    }
}

/// Where an answer on port 4011 goes: back to the address and port that asked.
///
/// `proxy-uefi-pxeservice.pcap`: OVMF asks from port 4011. `proxy-bios-pxeservice.pcap`: iPXE asks from port 68. A client without an
/// address yet can only be reached by broadcast.
pub fn pxe_port_answer_goes_to(from: SocketAddrV4) -> Destination {
    if from.ip().is_unspecified() {
        Destination::Broadcast
    } else {
        Destination::Unicast(from)
    }
}

/// Text options may end in a NUL that is no part of the text.
///
/// `uefi-pxe-uki.pcap`: the DHCP server sends option 67 as `agent.efi\0`.
pub fn without_trailing_nul(value: &[u8]) -> &[u8] {
    let end = value
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last + 1);
    &value[..end]
}

/// The lease belongs to the Ethernet address, not to the client identifier.
///
/// `uefi-snponly.pcap`: in one boot OVMF asks without option 61, then iPXE with `01` + MAC; the OS that follows has a third one. By
/// RFC 2131 that would be three addresses for one machine.
pub fn lease_owner(request: &DhcpMessage) -> Option<MacAddress> {
    request.mac()
}

/// ERROR 8 right after our OACK is how EDK2 asks for a file's size: success, not failure.
///
/// `uefi-pxe-uki.pcap`: RRQ with `tsize`, OACK, ERROR 8 "User aborted the transfer", then a second RRQ from the next port.
/// EDK2 uses code 8 (RFC 2347: option negotiation) although it liked the options; code 0 is what other clients use to abort.
pub fn is_size_probe(code: ErrorCode, asked_tsize: bool, nothing_sent: bool) -> bool {
    nothing_sent
        && asked_tsize
        && matches!(code, ErrorCode::OPTION_REFUSED | ErrorCode::NOT_DEFINED)
}

/// The file name as our own names are written: no leading slash, forward slashes only.
///
/// `sb-ms-shim.pcap`: grub asks `/grub/grub.cfg` where shim asks `grubx64.efi`; both mean the same root.
pub fn plain_file_name(asked: &str) -> String {
    asked.replace('\\', "/").trim_start_matches('/').to_owned()
}

/// What a new RRQ from the address and port of a running transfer means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepeatedRequest {
    /// Our first answer was lost: send it again.
    Replay,
    /// A late copy of the request that is being served: nothing to do.
    Ignore,
    /// The client has dropped the old transfer without a word and starts over.
    StartOver,
}

/// Tells the three meanings of a new RRQ apart.
///
/// `bios-virtio-pxelinux.pcap`: pxelinux asks for all its files from one port, 49153, so the port alone says nothing: another file
/// is a new start. So is the same file after a silence, when the machine was reset in the middle and pxelinux came up again.
pub fn repeated_request(
    same_request: bool,
    anything_acknowledged: bool,
    silent_for: Duration,
) -> RepeatedRequest {
    const SILENCE_OF_A_DEAD_CLIENT: Duration = Duration::from_secs(2);
    match (same_request, anything_acknowledged) {
        (true, false) => RepeatedRequest::Replay,
        (true, true) if silent_for < SILENCE_OF_A_DEAD_CLIENT => RepeatedRequest::Ignore,
        (true, true) | (false, _) => RepeatedRequest::StartOver,
    }
}
