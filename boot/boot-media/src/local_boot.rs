//! `local.efi`, the answer for a UEFI machine that is not to be imaged: an EFI program of two kilobytes that starts the
//! operating system on the machine's own disk, and when there is none returns an error, which sends the firmware to the
//! next entry of its boot order. What it does and why an error alone is not enough stands in `local_boot.S`.

/// Size of the headers and of each section in the file.
const FILE_ALIGNMENT: usize = 0x200;
/// Where the code lands in memory, from the start of the image.
const CODE_ADDRESS: u32 = 0x1000;
/// Where the relocation table lands.
const RELOCATION_ADDRESS: u32 = 0x2000;

/// `local_boot.S`, assembled.
const CODE: &[u8] = include_bytes!("local_boot.bin");
const CODE_BYTES: u32 = 0x300;
const CODE_FILE_BYTES: u32 = 0x400;
const _: () = assert!(
    CODE.len() == CODE_BYTES as usize,
    "CODE_BYTES follows local_boot.bin"
);

/// One block of base relocations that relocates nothing: page, size of the block, two entries of type 0 (padding). Some
/// firmware refuses a program that has no relocation table, because it could not move it.
const RELOCATIONS: [u8; 12] = [0x00, 0x10, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0];

/// The program (PE32+, x86-64). With Secure Boot its being unsigned has nearly the same outcome: the firmware refuses it
/// and goes on to the next boot entry; sign it to have the disk at once.
#[must_use]
pub fn local_boot_program() -> Vec<u8> {
    let mut out = Vec::with_capacity(4 * FILE_ALIGNMENT);

    // DOS header: "MZ", and at 0x3c where the PE header starts.
    out.extend_from_slice(b"MZ");
    out.resize(0x3c, 0);
    put32(&mut out, 0x40);

    // COFF header.
    out.extend_from_slice(b"PE\0\0");
    put16(&mut out, 0x8664); // Machine: AMD64
    put16(&mut out, 2); // NumberOfSections
    put32(&mut out, 0); // TimeDateStamp
    put32(&mut out, 0); // PointerToSymbolTable
    put32(&mut out, 0); // NumberOfSymbols
    put16(&mut out, 112 + 16 * 8); // SizeOfOptionalHeader
    put16(&mut out, 0x022e); // executable; line numbers, symbols and debug stripped; large addresses

    // Optional header, PE32+.
    put16(&mut out, 0x20b); // Magic
    put16(&mut out, 0); // linker version
    put32(&mut out, CODE_FILE_BYTES); // SizeOfCode
    put32(&mut out, 0x200); // SizeOfInitializedData
    put32(&mut out, 0); // SizeOfUninitializedData
    put32(&mut out, CODE_ADDRESS); // AddressOfEntryPoint
    put32(&mut out, CODE_ADDRESS); // BaseOfCode
    put64(&mut out, 0); // ImageBase
    put32(&mut out, 0x1000); // SectionAlignment
    put32(&mut out, 0x200); // FileAlignment
    put64(&mut out, 0); // operating system and image version
    put64(&mut out, 0); // subsystem version, Win32VersionValue
    put32(&mut out, 0x3000); // SizeOfImage
    put32(&mut out, 0x200); // SizeOfHeaders
    put32(&mut out, 0); // CheckSum
    put16(&mut out, 10); // Subsystem: EFI application
    put16(&mut out, 0x0140); // DllCharacteristics: may be moved, needs no executable data
    for _ in [
        "stack reserve",
        "stack commit",
        "heap reserve",
        "heap commit",
    ] {
        put64(&mut out, 0);
    }
    put32(&mut out, 0); // LoaderFlags
    put32(&mut out, 16); // NumberOfRvaAndSizes
    for directory in 0..16 {
        // 5 is the table of base relocations; the others are empty.
        let (address, bytes) = if directory == 5 {
            (RELOCATION_ADDRESS, 12)
        } else {
            (0, 0)
        };
        put32(&mut out, address);
        put32(&mut out, bytes);
    }

    // Section table: code that may run and be read; relocations that may be read and discarded.
    let relocation_offset = 0x200 + CODE_FILE_BYTES;
    let code = [CODE_BYTES, CODE_ADDRESS, CODE_FILE_BYTES, 0x200];
    section(&mut out, b".text\0\0\0", code, 0x6000_0020);
    let relocations = [12, RELOCATION_ADDRESS, 0x200, relocation_offset];
    section(&mut out, b".reloc\0\0", relocations, 0x4200_0040);

    for content in [CODE, &RELOCATIONS] {
        out.resize(out.len().next_multiple_of(FILE_ALIGNMENT), 0);
        out.extend_from_slice(content);
    }
    out.resize(out.len().next_multiple_of(FILE_ALIGNMENT), 0);
    out
}

/// `place`: bytes in memory, address in memory, bytes in the file, offset in the file.
fn section(out: &mut Vec<u8>, name: &[u8; 8], place: [u32; 4], characteristics: u32) {
    out.extend_from_slice(name);
    for field in place {
        put32(out, field);
    }
    for _ in ["relocations", "line numbers", "their counts"] {
        put32(out, 0); // of object files only
    }
    put32(out, characteristics);
}

fn put16(out: &mut Vec<u8>, value: u16) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn put32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn put64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}
