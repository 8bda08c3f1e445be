//! What the boot media or a boot script tells the agent: the kernel's command line.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;

const COMMAND_LINE: &str = "/proc/cmdline";
/// What our own keys begin with.
const PREFIX: &str = "lamplighter.";
/// How PXE loaders (pxelinux, iPXE, grub) name the interface that they booted from: `01-` and its address.
const BOOT_INTERFACE: &str = "BOOTIF";

/// The command line's words that concern the agent. A key given twice: the later one counts, as a boot loader appends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct CommandLine {
    /// `lamplighter.node=ADDR`: the node that served this boot, by address and optional port.
    pub(crate) node: Option<String>,
    /// `BOOTIF=01-52-54-00-...`: the Ethernet address of the interface to use.
    pub(crate) boot_interface: Option<[u8; 6]>,
    /// All other `lamplighter.KEY=VALUE`, by KEY; a word without `=` has an empty value.
    pub(crate) others: BTreeMap<String, String>,
}

/// What a technician says of kernel modules on the command line, as modprobe(8) takes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ForModules {
    /// `MODULE.PARAMETER=VALUE`: what a module is given as it is loaded, by its name.
    pub(crate) parameters: BTreeMap<String, String>,
    /// `modprobe.blacklist=MODULE,...`: what no device gets, though another module may.
    pub(crate) blacklist: BTreeSet<String>,
}

/// A command line that says something the agent cannot take.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadCommandLineError {
    /// `/proc/cmdline` cannot be read.
    #[error("cannot read {COMMAND_LINE}")]
    Read(#[source] io::Error),
    /// The address of the interface is not one.
    #[error(
        "{BOOT_INTERFACE}='{value}' on the kernel's command line is no Ethernet address like 01-52-54-00-12-34-56"
    )]
    BootInterface {
        /// As given.
        value: String,
    },
}

/// The command line that this kernel was started with.
///
/// # Errors
/// [`ReadCommandLineError`].
pub(crate) fn read() -> Result<CommandLine, ReadCommandLineError> {
    let line = fs::read_to_string(COMMAND_LINE).map_err(ReadCommandLineError::Read)?;
    parse(&line)
}

/// What this kernel's command line says of modules; nothing when it cannot be read.
pub(crate) fn for_modules() -> ForModules {
    parse_for_modules(&fs::read_to_string(COMMAND_LINE).unwrap_or_default())
}

fn parse_for_modules(line: &str) -> ForModules {
    let mut found = ForModules::default();
    for word in words(line) {
        let (key, value) = word.split_once('=').unwrap_or((&word, ""));
        let Some((module, parameter)) = key.split_once('.') else {
            continue;
        };
        let module = module.replace('-', "_");
        if (module.as_str(), parameter) == ("modprobe", "blacklist") {
            let names = value.split(',').map(|name| name.replace('-', "_"));
            found.blacklist.extend(names);
            continue;
        }
        let quote = if value.contains(char::is_whitespace) {
            "\""
        } else {
            ""
        };
        let given = found.parameters.entry(module).or_default();
        let blank = if given.is_empty() { "" } else { " " };
        let equals = if word.contains('=') { "=" } else { "" };
        *given += &format!("{blank}{parameter}{equals}{quote}{value}{quote}");
    }
    found
}

/// Reads words as the kernel does: separated by blanks, a part in double quotes may hold blanks.
///
/// # Errors
/// [`ReadCommandLineError::BootInterface`].
pub(crate) fn parse(line: &str) -> Result<CommandLine, ReadCommandLineError> {
    let mut found = CommandLine::default();
    for word in words(line) {
        let (key, value) = word.split_once('=').unwrap_or((&word, ""));
        if let Some(key) = key.strip_prefix(PREFIX) {
            if key == "node" {
                found.node = Some(value.to_owned());
            } else {
                found.others.insert(key.to_owned(), value.to_owned());
            }
        } else if key == BOOT_INTERFACE {
            let address = ethernet_address(value);
            let value = value.to_owned();
            found.boot_interface =
                Some(address.ok_or(ReadCommandLineError::BootInterface { value })?);
        }
    }
    Ok(found)
}

fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quoted = false;
    for letter in line.chars() {
        match letter {
            '"' => quoted = !quoted,
            letter if letter.is_whitespace() && !quoted => words.push(std::mem::take(&mut word)),
            letter => word.push(letter),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

/// `01-52-54-00-12-34-56` (hardware type 1, Ethernet, first) or `52:54:00:12:34:56`.
fn ethernet_address(text: &str) -> Option<[u8; 6]> {
    let bytes: Vec<u8> = text
        .split(['-', ':'])
        .map(|part| u8::from_str_radix(part, 16).ok())
        .collect::<Option<_>>()?;
    match bytes.as_slice() {
        [1, address @ ..] if address.len() == 6 => address.try_into().ok(),
        address => address.try_into().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_keys_are_taken_and_the_later_one_counts() {
        let line = "BOOT_IMAGE=x quiet lamplighter.node=192.0.2.1 console=ttyS0 lamplighter.stay \
            lamplighter.note=\"two words\" lamplighter.node=[fe80::1%2]:8080\n";
        let found = parse(line).unwrap();
        assert_eq!(found.node.as_deref(), Some("[fe80::1%2]:8080"));
        assert_eq!(found.others["note"], "two words");
        assert_eq!(found.others["stay"], "");
        assert_eq!(found.boot_interface, None);
    }

    #[test]
    fn modules_are_given_what_a_technician_says() {
        let line = "quiet usb-storage.delay_use=20 modprobe.blacklist=nouveau,snd-hda usb_storage.quirks=0bda:0309:u \
            a.words=\"two words\" b.flag console=ttyS0 lamplighter.stick";
        let found = parse_for_modules(line);
        let given = |module: &str| found.parameters.get(module).map(String::as_str);
        let usb = "delay_use=20 quirks=0bda:0309:u";
        assert_eq!(given("usb_storage"), Some(usb));
        assert_eq!(given("a"), Some("words=\"two words\""));
        assert_eq!(given("b"), Some("flag"));
        let expect = ["nouveau", "snd_hda"].map(str::to_owned);
        assert_eq!(found.blacklist, BTreeSet::from(expect));
    }

    #[test]
    fn the_boot_interface_is_an_ethernet_address() {
        let check = |value: &str, expect: Option<[u8; 6]>| {
            let parsed = parse(&format!("BOOTIF={value}"));
            assert_eq!(
                parsed.ok().and_then(|line| line.boot_interface),
                expect,
                "{value}"
            );
        };
        let address = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
        check("01-52-54-00-12-34-56", Some(address));
        check("52:54:00:12:34:56", Some(address));
        check("52:54:00:12:34", None);
        check("", None);
        assert!(
            parse("BOOTIF=eth0")
                .unwrap_err()
                .to_string()
                .contains("'eth0'")
        );
    }
}
