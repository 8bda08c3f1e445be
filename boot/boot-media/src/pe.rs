//! EFI programs: reading the section table of a PE32+ file and adding sections to one (Microsoft's "PE Format").

/// Bytes of one entry of the section table.
const SECTION_HEADER_BYTES: usize = 40;
/// `IMAGE_SCN_CNT_INITIALIZED_DATA | IMAGE_SCN_MEM_READ`.
const READ_ONLY_DATA: u32 = 0x4000_0040;
const MACHINE_AMD64: u16 = 0x8664;
const MAGIC_PE32_PLUS: u16 = 0x20b;
/// From the start of the optional header.
const OPTIONAL_SECTION_ALIGNMENT: usize = 32;
const OPTIONAL_FILE_ALIGNMENT: usize = 36;
const OPTIONAL_IMAGE_BYTES: usize = 56;
const OPTIONAL_CHECKSUM: usize = 64;

/// Bytes that are no EFI program, or one that cannot take what it should.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PeError {
    /// The file breaks off or a signature is not where it must be.
    #[error("not an EFI program for x86-64: {what}")]
    NotAProgram {
        /// What is wrong.
        what: &'static str,
    },
    /// The space between section table and first section is used up.
    #[error(
        "the EFI program has room for {room} more sections in its table, and {wanted} are to be added"
    )]
    TableFull {
        /// Free entries.
        room: usize,
        /// Needed entries.
        wanted: usize,
    },
    /// The result passes the 4 GiB that the format can describe.
    #[error("the EFI program would be larger than 4 GiB")]
    TooLarge,
    /// Section names have at most eight bytes.
    #[error("'{0}' is too long for the name of a section")]
    LongName(&'static str),
}

/// One section of an EFI program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Such as `.text`.
    pub name: String,
    /// Bytes in memory.
    pub virtual_bytes: u32,
    /// Where in memory, from the start of the image.
    pub virtual_address: u32,
    /// Bytes in the file, padding included.
    pub file_bytes: u32,
    /// Where in the file.
    pub file_offset: u32,
}

/// Where the parts of a PE file lie.
struct Layout {
    count_at: usize,
    optional: usize,
    table: usize,
    section_alignment: u32,
    file_alignment: u32,
}

/// The section table of an EFI program.
///
/// # Errors
/// [`PeError::NotAProgram`].
pub fn sections(program: &[u8]) -> Result<Vec<Section>, PeError> {
    read_sections(program, &layout(program)?)
}

fn layout(program: &[u8]) -> Result<Layout, PeError> {
    if !program.starts_with(b"MZ") {
        return Err(PeError::NotAProgram {
            what: "it does not begin with MZ",
        });
    }
    let pe = usize_of(u32_at(program, 0x3c)?)?;
    if program
        .get(pe..)
        .is_none_or(|rest| !rest.starts_with(b"PE\0\0"))
    {
        return Err(PeError::NotAProgram {
            what: "no PE signature",
        });
    }
    if u16_at(program, pe + 4)? != MACHINE_AMD64 {
        return Err(PeError::NotAProgram {
            what: "made for another architecture",
        });
    }
    let optional = pe + 24;
    if u16_at(program, optional)? != MAGIC_PE32_PLUS {
        return Err(PeError::NotAProgram {
            what: "no PE32+ header",
        });
    }
    let layout = Layout {
        count_at: pe + 6,
        optional,
        table: optional + usize::from(u16_at(program, pe + 20)?),
        section_alignment: u32_at(program, optional + OPTIONAL_SECTION_ALIGNMENT)?,
        file_alignment: u32_at(program, optional + OPTIONAL_FILE_ALIGNMENT)?,
    };
    if !layout.section_alignment.is_power_of_two() || !layout.file_alignment.is_power_of_two() {
        return Err(PeError::NotAProgram {
            what: "an alignment is no power of two",
        });
    }
    Ok(layout)
}

fn read_sections(program: &[u8], layout: &Layout) -> Result<Vec<Section>, PeError> {
    let count = usize::from(u16_at(program, layout.count_at)?);
    (0..count)
        .map(|index| {
            let at = layout.table + index * SECTION_HEADER_BYTES;
            let name = program.get(at..at + 8).ok_or(BREAKS_OFF)?;
            let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
            Ok(Section {
                name: String::from_utf8_lossy(name).into_owned(),
                virtual_bytes: u32_at(program, at + 8)?,
                virtual_address: u32_at(program, at + 12)?,
                file_bytes: u32_at(program, at + 16)?,
                file_offset: u32_at(program, at + 20)?,
            })
        })
        .collect()
}

/// `program` with `added` (name, content) as further read-only sections, in memory behind those it has.
pub(crate) fn with_sections(
    program: &[u8],
    added: &[(&'static str, &[u8])],
) -> Result<Vec<u8>, PeError> {
    let layout = layout(program)?;
    let present = read_sections(program, &layout)?;
    let mut at = layout.table + present.len() * SECTION_HEADER_BYTES;
    let first_content = present
        .iter()
        .filter(|s| s.file_bytes > 0)
        .map(|s| s.file_offset)
        .min();
    let first_content = usize_of(first_content.unwrap_or_default())?;
    let room = first_content.saturating_sub(at) / SECTION_HEADER_BYTES;
    if room < added.len() {
        return Err(PeError::TableFull {
            room,
            wanted: added.len(),
        });
    }
    let mut address = 0;
    for section in &present {
        let end = section.virtual_address.checked_add(section.virtual_bytes);
        address = address.max(aligned(
            end.ok_or(PeError::TooLarge)?,
            layout.section_alignment,
        )?);
    }
    let mut out = program.to_vec();
    let file_alignment = usize_of(layout.file_alignment)?;
    for (name, content) in added {
        out.resize(out.len().next_multiple_of(file_alignment), 0);
        let bytes = u32::try_from(content.len()).map_err(|_| PeError::TooLarge)?;
        let offset = u32::try_from(out.len()).map_err(|_| PeError::TooLarge)?;
        let mut header = [0; SECTION_HEADER_BYTES];
        header
            .get_mut(..name.len())
            .filter(|_| name.len() <= 8)
            .ok_or(PeError::LongName(name))?
            .copy_from_slice(name.as_bytes());
        let in_file = aligned(bytes, layout.file_alignment)?;
        for (field, value) in [
            (8, bytes),
            (12, address),
            (16, in_file),
            (20, offset),
            (36, READ_ONLY_DATA),
        ] {
            put_u32(&mut header, field, value);
        }
        out[at..at + SECTION_HEADER_BYTES].copy_from_slice(&header);
        at += SECTION_HEADER_BYTES;
        out.extend_from_slice(content);
        address = aligned(
            address.checked_add(bytes).ok_or(PeError::TooLarge)?,
            layout.section_alignment,
        )?;
    }
    out.resize(out.len().next_multiple_of(file_alignment), 0);
    let count = u16::try_from(present.len() + added.len()).map_err(|_| PeError::TooLarge)?;
    out[layout.count_at..layout.count_at + 2].copy_from_slice(&count.to_le_bytes());
    put_u32(&mut out, layout.optional + OPTIONAL_IMAGE_BYTES, address);
    put_u32(&mut out, layout.optional + OPTIONAL_CHECKSUM, 0); // firmware does not look at it
    Ok(out)
}

const BREAKS_OFF: PeError = PeError::NotAProgram {
    what: "it breaks off",
};

fn aligned(value: u32, alignment: u32) -> Result<u32, PeError> {
    value
        .checked_next_multiple_of(alignment)
        .ok_or(PeError::TooLarge)
}

fn usize_of(value: u32) -> Result<usize, PeError> {
    usize::try_from(value).map_err(|_| PeError::TooLarge)
}

fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, PeError> {
    let field = bytes
        .get(at..at + 2)
        .and_then(|field| field.try_into().ok());
    Ok(u16::from_le_bytes(field.ok_or(BREAKS_OFF)?))
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, PeError> {
    let field = bytes
        .get(at..at + 4)
        .and_then(|field| field.try_into().ok());
    Ok(u32::from_le_bytes(field.ok_or(BREAKS_OFF)?))
}
