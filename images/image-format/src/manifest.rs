//! The signed list of an image version's or a boot bundle's chunks.

use trust_format::{
    Digest, Document, DocumentKind, SignerRole,
    codec::{DecodeError, Reader, Writer},
};

use crate::{
    chunk::{CHUNK_BYTES, ChunkHash, EncodedObject, OBJECT_BYTES_MAX, ObjectHash, PartHash},
    part,
};

/// Most chunks that one manifest lists: 1 TiB of content without a repetition.
pub const MANIFEST_CHUNKS_MAX: usize = 1 << 20;
/// Most chunks of the earlier version that one delta refers to.
pub const MANIFEST_DELTA_REFERENCES_MAX: usize = 8;
const PARTITIONS_MAX: usize = 128;
const FILES_MAX: usize = 64;
const NAME_BYTES_MAX: usize = 128;
const SECTOR_BYTES_ALLOWED: [u32; 2] = [512, 4096];

/// What a manifest describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ManifestKind {
    /// The content of a disk.
    Image,
    /// Kernel, initramfs, UKI and node: files one after the other, each from a chunk border.
    BootBundle,
}

/// The processor that an image is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// 64-bit x86.
    X86_64,
    /// 64-bit ARM.
    Aarch64,
}

/// What a machine must have to be given this image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    /// Boots by UEFI.
    pub uefi: bool,
    /// Boots by BIOS.
    pub bios: bool,
    /// The processor.
    pub architecture: Architecture,
    /// RAM in bytes.
    pub ram_bytes_min: u64,
}

/// Where the root file system is, so that a node can be put into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Customisation {
    /// Into the ext4 of this partition.
    Ext4 {
        /// Its number in the partition table.
        partition: u32,
    },
    /// Nothing can be put into this image; the import says why.
    None,
}

/// One partition, as the import found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionSummary {
    /// Its number in the table.
    pub number: u32,
    /// Where it begins on the disk.
    pub first_byte: u64,
    /// How long it is.
    pub bytes: u64,
    /// The GPT type, as stored.
    pub type_guid: [u8; 16],
    /// The GPT label.
    pub label: String,
    /// `ext4`, `vfat`, `xfs` ... or empty when nothing was recognised.
    pub file_system: String,
}

/// A file of a boot bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleFile {
    /// Its name, such as `lamplighter.efi`.
    pub name: String,
    /// The content's first byte, at a chunk border.
    pub offset: u64,
    /// How long it is.
    pub bytes: u64,
}

/// Index of a chunk in [`Manifest::chunks`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkId(pub u32);

/// One distinct chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkRecord {
    /// Of its plain bytes.
    pub hash: ChunkHash,
    /// Plain length: [`CHUNK_BYTES`], less for the last chunk of a disk or file.
    pub bytes: u32,
    /// Of its object.
    pub object_hash: ObjectHash,
    /// The object's length.
    pub object_bytes: u32,
    /// Of the object's parts, which make its hash; none where it has only one.
    pub parts: Vec<PartHash>,
    /// A smaller object for those who have the earlier version.
    pub delta: Option<DeltaRecord>,
}

/// A chunk as a difference to chunks of the version that this one follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeltaRecord {
    /// Of the delta object.
    pub object_hash: ObjectHash,
    /// Its length.
    pub object_bytes: u32,
    /// The chunks whose plain bytes, one after the other, are the prefix.
    pub references: Vec<ChunkHash>,
}

/// A chunk's place in the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placement {
    /// In units of [`CHUNK_BYTES`].
    pub index: u32,
    /// Which chunk stands there.
    pub chunk: ChunkId,
}

/// What an image version or a boot bundle is. Believed only as `Verified<Manifest>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Image or boot bundle.
    pub kind: ManifestKind,
    /// The image's name.
    pub name: String,
    /// Grows with each manifest that HQ makes; a site's floor is compared with it.
    pub release: u64,
    /// The version that this one's deltas refer to.
    pub follows: Option<Digest>,
    /// Size of the disk or of the content.
    pub disk_bytes: u64,
    /// The logical sector size that the partition table is made for.
    pub sector_bytes: u32,
    /// Bytes in chunks that are stored.
    pub used_bytes: u64,
    /// What it needs of a machine.
    pub needs: Needs,
    /// Where a node goes.
    pub customisation: Customisation,
    /// The partition table.
    pub partitions: Vec<PartitionSummary>,
    /// Files of a boot bundle; none in an image.
    pub files: Vec<BundleFile>,
    /// Each distinct chunk once, in the order in which it first stands in the content.
    pub chunks: Vec<ChunkRecord>,
    /// Every chunk of the content that is not all zero, by ascending index.
    pub layout: Vec<Placement>,
}

impl Manifest {
    /// The record of a chunk.
    pub fn chunk(&self, id: ChunkId) -> Option<&ChunkRecord> {
        self.chunks.get(id.0 as usize)
    }

    /// How many chunks long the content is, zero chunks included.
    pub fn chunk_count(&self) -> u64 {
        self.disk_bytes.div_ceil(CHUNK_BYTES as u64)
    }

    /// Bytes of all objects: what a site fetches over its WAN link.
    pub fn object_bytes(&self) -> u64 {
        self.chunks.iter().map(|c| u64::from(c.object_bytes)).sum()
    }

    /// A file of a boot bundle.
    pub fn file(&self, name: &str) -> Option<&BundleFile> {
        self.files.iter().find(|f| f.name == name)
    }

    /// Length of the chunk at an index: [`CHUNK_BYTES`], or what is left of the disk.
    pub fn bytes_at(&self, index: u32) -> u64 {
        let first = u64::from(index) * CHUNK_BYTES as u64;
        self.disk_bytes
            .saturating_sub(first)
            .min(CHUNK_BYTES as u64)
    }
}

impl Document for Manifest {
    const KIND: DocumentKind = DocumentKind::Manifest;
    const VERSION: u8 = 2;
    /// Both tables at their fullest, with objects of two parts each, without deltas.
    const PAYLOAD_BYTES_MAX: usize = MANIFEST_CHUNKS_MAX * (73 + 32 + 8) + (1 << 16);
    const SIGNER: SignerRole = SignerRole::Image;

    fn encode(&self, out: &mut Writer) {
        out.u8(match self.kind {
            ManifestKind::Image => 0,
            ManifestKind::BootBundle => 1,
        });
        out.bytes(self.name.as_bytes()).u64(self.release);
        out.flag(self.follows.is_some());
        if let Some(digest) = &self.follows {
            out.raw(&digest.0);
        }
        out.u64(self.disk_bytes)
            .u32(self.sector_bytes)
            .u64(self.used_bytes);
        out.flag(self.needs.uefi).flag(self.needs.bios);
        out.u8(match self.needs.architecture {
            Architecture::X86_64 => 0,
            Architecture::Aarch64 => 1,
        });
        out.u64(self.needs.ram_bytes_min);
        match self.customisation {
            Customisation::None => out.u8(0),
            Customisation::Ext4 { partition } => out.u8(1).u32(partition),
        };
        out.count(self.partitions.len());
        for p in &self.partitions {
            out.u32(p.number)
                .u64(p.first_byte)
                .u64(p.bytes)
                .raw(&p.type_guid);
            out.bytes(p.label.as_bytes())
                .bytes(p.file_system.as_bytes());
        }
        out.count(self.files.len());
        for f in &self.files {
            out.bytes(f.name.as_bytes()).u64(f.offset).u64(f.bytes);
        }
        out.count(self.chunks.len());
        for c in &self.chunks {
            c.encode(out);
        }
        out.count(self.layout.len());
        for p in &self.layout {
            out.u32(p.index).u32(p.chunk.0);
        }
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let kind = match input.u8("manifest kind")? {
            0 => ManifestKind::Image,
            1 => ManifestKind::BootBundle,
            other => return Err(input.bad("manifest kind", 1, other.into())),
        };
        let mut manifest = Self {
            kind,
            name: input.text(NAME_BYTES_MAX, "name")?,
            release: input.u64("release")?,
            follows: match input.flag("follows")? {
                true => Some(Digest(input.array("follows")?)),
                false => None,
            },
            disk_bytes: input.u64("disk size")?,
            sector_bytes: input.u32("sector size")?,
            used_bytes: input.u64("used bytes")?,
            needs: decode_needs(input)?,
            customisation: decode_customisation(input)?,
            partitions: Vec::new(),
            files: Vec::new(),
            chunks: Vec::new(),
            layout: Vec::new(),
        };
        if !SECTOR_BYTES_ALLOWED.contains(&manifest.sector_bytes) {
            return Err(input.bad("sector size", 4, manifest.sector_bytes.into()));
        }
        for _ in 0..input.count(PARTITIONS_MAX, 44, "partitions")? {
            manifest.partitions.push(decode_partition(input)?);
        }
        for _ in 0..input.count(FILES_MAX, 20, "files")? {
            manifest
                .files
                .push(decode_file(input, manifest.disk_bytes)?);
        }
        for _ in 0..input.count(MANIFEST_CHUNKS_MAX, 73, "chunks")? {
            manifest.chunks.push(ChunkRecord::decode(input)?);
        }
        decode_layout(input, &mut manifest)?;
        Ok(manifest)
    }
}

impl ChunkRecord {
    /// Of a chunk and the object that was made of it.
    pub fn of(plain: &[u8], object: &EncodedObject) -> Self {
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        Self {
            hash: ChunkHash::of(plain),
            bytes: length(plain),
            object_hash: object.hash,
            object_bytes: length(&object.bytes),
            parts: object.parts.clone(),
            delta: None,
        }
    }

    fn encode(&self, out: &mut Writer) {
        out.raw(&self.hash.0).u32(self.bytes);
        out.u32(self.object_bytes);
        match self.parts.is_empty() {
            true => {
                out.raw(&self.object_hash.0);
            }
            false => self.parts.iter().for_each(|part| {
                out.raw(&part.0);
            }),
        }
        out.flag(self.delta.is_some());
        if let Some(delta) = &self.delta {
            out.raw(&delta.object_hash.0)
                .u32(delta.object_bytes)
                .count(delta.references.len());
            for reference in &delta.references {
                out.raw(&reference.0);
            }
        }
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let hash = ChunkHash(input.array("chunk hash")?);
        let bytes = input.u32("chunk length")?;
        if bytes == 0 || bytes as usize > CHUNK_BYTES {
            return Err(input.bad("chunk length", 4, bytes.into()));
        }
        let object_bytes = decode_object_bytes(input, "object length", bytes)?;
        let (object_hash, parts) = decode_object_hash(input, object_bytes)?;
        if object_bytes == bytes && object_hash.0 != hash.0 {
            return Err(input.bad("object length", 4, object_bytes.into()));
        }
        let delta = match input.flag("delta")? {
            false => None,
            true => {
                let object_hash = ObjectHash(input.array("delta hash")?);
                let object_bytes = decode_object_bytes(input, "delta length", bytes)?;
                let count = input.count(MANIFEST_DELTA_REFERENCES_MAX, 32, "references")?;
                let references = (0..count)
                    .map(|_| Ok(ChunkHash(input.array("reference")?)))
                    .collect::<Result<_, _>>()?;
                Some(DeltaRecord {
                    object_hash,
                    object_bytes,
                    references,
                })
            }
        };
        Ok(Self {
            hash,
            bytes,
            object_hash,
            object_bytes,
            parts,
            delta,
        })
    }
}

/// An object is at most as long as its chunk.
fn decode_object_bytes(
    input: &mut Reader<'_>,
    field: &'static str,
    chunk_bytes: u32,
) -> Result<u32, DecodeError> {
    let bytes = input.u32(field)?;
    if bytes == 0 || bytes > chunk_bytes || bytes as usize > OBJECT_BYTES_MAX {
        return Err(input.bad(field, 4, bytes.into()));
    }
    Ok(bytes)
}

/// The hash of an object of one part, or the hashes of the parts that make it.
fn decode_object_hash(
    input: &mut Reader<'_>,
    object_bytes: u32,
) -> Result<(ObjectHash, Vec<PartHash>), DecodeError> {
    match part::part_count(object_bytes) {
        1 => Ok((ObjectHash(input.array("object hash")?), Vec::new())),
        several => {
            let parts = (0..several)
                .map(|_| Ok(PartHash(input.array("part hash")?)))
                .collect::<Result<Vec<_>, DecodeError>>()?;
            Ok((part::root(&parts), parts))
        }
    }
}

fn decode_needs(input: &mut Reader<'_>) -> Result<Needs, DecodeError> {
    Ok(Needs {
        uefi: input.flag("needs UEFI")?,
        bios: input.flag("needs BIOS")?,
        architecture: match input.u8("architecture")? {
            0 => Architecture::X86_64,
            1 => Architecture::Aarch64,
            other => return Err(input.bad("architecture", 1, other.into())),
        },
        ram_bytes_min: input.u64("least RAM")?,
    })
}

fn decode_customisation(input: &mut Reader<'_>) -> Result<Customisation, DecodeError> {
    match input.u8("customisation")? {
        0 => Ok(Customisation::None),
        1 => Ok(Customisation::Ext4 {
            partition: input.u32("root partition")?,
        }),
        other => Err(input.bad("customisation", 1, other.into())),
    }
}

fn decode_partition(input: &mut Reader<'_>) -> Result<PartitionSummary, DecodeError> {
    Ok(PartitionSummary {
        number: input.u32("partition number")?,
        first_byte: input.u64("partition start")?,
        bytes: input.u64("partition size")?,
        type_guid: input.array("partition type")?,
        label: input.text(NAME_BYTES_MAX, "partition label")?,
        file_system: input.text(NAME_BYTES_MAX, "file system")?,
    })
}

fn decode_file(input: &mut Reader<'_>, content_bytes: u64) -> Result<BundleFile, DecodeError> {
    let file = BundleFile {
        name: input.text(NAME_BYTES_MAX, "file name")?,
        offset: input.u64("file offset")?,
        bytes: input.u64("file length")?,
    };
    let fits = file
        .offset
        .checked_add(file.bytes)
        .is_some_and(|end| end <= content_bytes);
    if !fits || !file.offset.is_multiple_of(CHUNK_BYTES as u64) {
        return Err(input.bad("file offset", 16, file.offset));
    }
    Ok(file)
}

/// Places ascend, lie inside the disk, and name chunks that exist and have the length of their place; and the chunks
/// are first named in their own order, so none is unused or listed out of turn.
fn decode_layout(input: &mut Reader<'_>, manifest: &mut Manifest) -> Result<(), DecodeError> {
    let count = input.count(MANIFEST_CHUNKS_MAX, 8, "layout")?;
    let mut next_index = 0u64;
    let mut next_chunk = 0u32;
    for _ in 0..count {
        let index = input.u32("place")?;
        if u64::from(index) < next_index || u64::from(index) >= manifest.chunk_count() {
            return Err(input.bad("place", 4, index.into()));
        }
        next_index = u64::from(index) + 1;
        let chunk = input.u32("chunk of a place")?;
        let bytes = manifest.chunk(ChunkId(chunk)).map(|c| u64::from(c.bytes));
        if chunk > next_chunk || bytes.is_none_or(|b| b > manifest.bytes_at(index)) {
            return Err(input.bad("chunk of a place", 4, chunk.into()));
        }
        // only a bundle's file may end inside a place
        if manifest.kind == ManifestKind::Image && bytes != Some(manifest.bytes_at(index)) {
            return Err(input.bad("chunk of a place", 4, chunk.into()));
        }
        next_chunk = next_chunk.max(chunk + 1);
        manifest.layout.push(Placement {
            index,
            chunk: ChunkId(chunk),
        });
    }
    if next_chunk as usize != manifest.chunks.len() {
        return Err(input.bad("layout", 0, next_chunk.into()));
    }
    Ok(())
}
