//! What a kernel module says about itself: the `.modinfo` section of its ELF file.

/// The parts of `.modinfo` that decide what travels with a module. `depends` is written by the kernel's own build and
/// is exact, so `depmod` is not needed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ModInfo {
    /// Modules that must be loaded before, by name.
    pub(crate) depends: Vec<String>,
    /// Devices and requests that this module answers, as patterns.
    pub(crate) aliases: Vec<String>,
    /// Modules to load before, if they exist.
    pub(crate) soft_before: Vec<String>,
    /// Modules to load after, if they exist.
    pub(crate) soft_after: Vec<String>,
    /// Firmware files that its devices may ask for.
    pub(crate) firmware: Vec<String>,
}

/// Reads `.modinfo` of a 64-bit little-endian ELF file; nothing if this is none or has no such section.
pub(crate) fn parse(elf: &[u8]) -> Option<ModInfo> {
    Some(parse_section(section(elf, b".modinfo")?))
}

/// A module's name as the kernel writes it: `r8169` for `kernel/drivers/net/r8169.ko`, `_` for each `-`.
pub(crate) fn module_name(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    Some(canonical(file.strip_suffix(".ko")?))
}

/// Module names may be written with `-` or `_`; the kernel means the same.
pub(crate) fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

/// Whether an ELF program asks for a dynamic loader (has a `PT_INTERP` segment); nothing if it is no 64-bit x86 program.
pub(crate) fn needs_loader(elf: &[u8]) -> Option<bool> {
    const PT_INTERP: u32 = 3;
    const MACHINE_X86_64: u16 = 62;
    if !is_elf64(elf) || u16_at(elf, 18)? != MACHINE_X86_64 {
        return None;
    }
    let table = usize::try_from(u64_at(elf, 32)?).ok()?;
    let (entry_bytes, count) = (usize::from(u16_at(elf, 54)?), usize::from(u16_at(elf, 56)?));
    for index in 0..count {
        let entry = table.checked_add(index.checked_mul(entry_bytes)?)?;
        if u32_at(elf, entry)? == PT_INTERP {
            return Some(true);
        }
    }
    Some(false)
}

fn parse_section(section: &[u8]) -> ModInfo {
    let mut info = ModInfo::default();
    for entry in section.split(|byte| *byte == 0) {
        let Some((key, value)) = std::str::from_utf8(entry)
            .ok()
            .and_then(|text| text.split_once('='))
        else {
            continue;
        };
        match key {
            "depends" => info.depends.extend(
                value
                    .split(',')
                    .filter(|name| !name.is_empty())
                    .map(canonical),
            ),
            "alias" => info.aliases.push(value.to_owned()),
            "firmware" => info.firmware.push(value.to_owned()),
            "softdep" => {
                let mut after = false;
                for word in value.split_whitespace() {
                    match word {
                        "pre:" => after = false,
                        "post:" => after = true,
                        name if after => info.soft_after.push(name.to_owned()),
                        name => info.soft_before.push(name.to_owned()),
                    }
                }
            }
            _ => {}
        }
    }
    info
}

/// The bytes of the section called `wanted`.
fn section<'a>(elf: &'a [u8], wanted: &[u8]) -> Option<&'a [u8]> {
    if !is_elf64(elf) {
        return None;
    }
    let table = usize::try_from(u64_at(elf, 0x28)?).ok()?;
    let entry_bytes = usize::from(u16_at(elf, 0x3a)?);
    let count = usize::from(u16_at(elf, 0x3c)?);
    let names_index = usize::from(u16_at(elf, 0x3e)?);
    let content = |index: usize| -> Option<&'a [u8]> {
        let entry = table.checked_add(index.checked_mul(entry_bytes)?)?;
        let start = usize::try_from(u64_at(elf, entry.checked_add(0x18)?)?).ok()?;
        let size = usize::try_from(u64_at(elf, entry.checked_add(0x20)?)?).ok()?;
        elf.get(start..start.checked_add(size)?)
    };
    let names = content(names_index)?;
    (0..count).find_map(|index| {
        let entry = table.checked_add(index.checked_mul(entry_bytes)?)?;
        let name = names.get(usize::try_from(u32_at(elf, entry)?).ok()?..)?;
        let name = name.split(|byte| *byte == 0).next()?;
        (name == wanted).then(|| content(index))?
    })
}

fn is_elf64(elf: &[u8]) -> bool {
    // Magic, 64-bit class, little-endian.
    elf.starts_with(b"\x7fELF\x02\x01")
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(
        bytes.get(at..at.checked_add(2)?)?.try_into().ok()?,
    ))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(
        bytes.get(at..at.checked_add(4)?)?.try_into().ok()?,
    ))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(
        bytes.get(at..at.checked_add(8)?)?.try_into().ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modinfo_is_read_by_key() {
        let info = parse_section(
            b"license=GPL\0alias=pci:v00008086d*\0depends=mii,usb-core\0softdep=pre: crc32c post: x y\0\
              firmware=a/b.bin\0depends=\0junk",
        );
        assert_eq!(info.depends, ["mii", "usb_core"]);
        assert_eq!(info.aliases, ["pci:v00008086d*"]);
        assert_eq!(info.soft_before, ["crc32c"]);
        assert_eq!(info.soft_after, ["x", "y"]);
        assert_eq!(info.firmware, ["a/b.bin"]);
    }

    #[test]
    fn damaged_files_are_nothing() {
        let this_program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(parse(&this_program), None); // an ELF file without .modinfo
        assert_eq!(needs_loader(&this_program), Some(true));
        for cut in [0, 3, 16, 60, 64, 1000] {
            assert_eq!(parse(&this_program[..cut]), None);
        }
        assert_eq!(needs_loader(b"#!/bin/sh\n"), None);
    }
}
