use bytes::Bytes;
use ed25519_dalek::{Signer, SigningKey};
use proptest::prelude::*;
use trust_format::{Document, PublicKey, Root, Signature, TrustedKeys, Verified, codec::Reader};

use crate::*;

fn plain(seed: u8, bytes: usize) -> Vec<u8> {
    (0..bytes)
        .map(|i| ((i / 7) as u8).wrapping_mul(seed) ^ (i as u8 & seed))
        .collect()
}

/// Bytes that no codec makes shorter.
fn noise(bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    blake3::Hasher::new()
        .update(b"noise")
        .finalize_xof()
        .fill(&mut noise);
    noise
}

fn object(plain: &[u8]) -> (ChunkRecord, Bytes) {
    let object = encode_object(plain, &mut ChunkCodec::new(3).unwrap()).unwrap();
    (ChunkRecord::of(plain, &object), object.bytes)
}

fn manifest() -> Manifest {
    let disk_bytes = 2 * CHUNK_BYTES as u64 + 4096;
    let first = object(&plain(1, CHUNK_BYTES)).0;
    let mut last = object(&plain(2, 4096)).0;
    last.delta = Some(DeltaRecord {
        object_hash: ObjectHash([7; 32]),
        object_bytes: 100,
        references: vec![ChunkHash([1; 32]), ChunkHash([2; 32])],
    });
    Manifest {
        kind: ManifestKind::Image,
        name: "till".into(),
        release: 4,
        follows: None,
        disk_bytes,
        sector_bytes: 512,
        used_bytes: CHUNK_BYTES as u64 + 4096,
        needs: Needs {
            uefi: true,
            bios: false,
            architecture: Architecture::X86_64,
            ram_bytes_min: 1 << 30,
        },
        customisation: Customisation::Ext4 { partition: 2 },
        partitions: vec![PartitionSummary {
            number: 2,
            first_byte: 1 << 20,
            bytes: 1 << 20,
            type_guid: [3; 16],
            label: "root".into(),
            file_system: "ext4".into(),
        }],
        files: vec![],
        chunks: vec![first, last],
        layout: vec![
            Placement {
                index: 0,
                chunk: ChunkId(0),
            },
            Placement {
                index: 2,
                chunk: ChunkId(1),
            },
        ],
    }
}

fn payload(manifest: &Manifest) -> Vec<u8> {
    manifest.to_signed_bytes().as_message()[6..].to_vec()
}

fn decode(bytes: &[u8]) -> Result<Manifest, trust_format::codec::DecodeError> {
    let mut input = Reader::new(bytes);
    let manifest = Manifest::decode(&mut input)?;
    input.finish()?;
    Ok(manifest)
}

#[test]
fn a_chunk_survives_its_object() {
    for bytes in [1, 511, 4096, CHUNK_BYTES] {
        let plain = plain(5, bytes);
        let (record, object) = object(&plain);
        let verified = VerifiedObject::check(&record, object.clone()).unwrap();
        let chunk = verified
            .unpack(&mut ChunkCodec::new(3).unwrap(), vec![0; CHUNK_BYTES])
            .unwrap();
        assert_eq!(chunk.plain(), plain);
        assert_eq!(reference::unpack(&record, &object).unwrap(), plain);
    }
}

#[test]
fn a_flipped_bit_never_passes() {
    let (record, object) = object(&plain(5, 30_000));
    for at in (0..object.len()).step_by(7) {
        let mut bad = object.to_vec();
        bad[at] ^= 1;
        assert!(matches!(
            VerifiedObject::check(&record, bad.clone().into()),
            Err(InvalidChunkError::ObjectHash { .. })
        ));
        assert!(reference::unpack(&record, &bad).is_none());
        // the same bytes as a rebuilt chunk: the plain hash decides
        let rebuilt = VerifiedChunk::check_rebuilt(
            &record,
            &bad,
            &mut ChunkCodec::new(1).unwrap(),
            vec![0; CHUNK_BYTES],
        );
        if let Ok(chunk) = rebuilt {
            assert_eq!(ChunkHash::of(chunk.plain()), record.hash);
        }
    }
    assert!(matches!(
        VerifiedObject::check(&record, object.slice(1..)),
        Err(InvalidChunkError::Length { .. })
    ));
}

#[test]
fn what_does_not_compress_is_its_own_object() {
    for bytes in [1, 4096, CHUNK_BYTES] {
        let plain = noise(bytes);
        let (record, object) = object(&plain);
        assert_eq!(object, plain);
        assert_eq!(record.object_hash.0, record.hash.0);
        let verified = VerifiedObject::check(&record, object.clone()).unwrap();
        let mut codec = ChunkCodec::new(1).unwrap();
        let chunk = verified.unpack(&mut codec, vec![0; CHUNK_BYTES]).unwrap();
        assert_eq!(chunk.plain(), plain);
        let rebuilt =
            VerifiedChunk::check_rebuilt(&record, &object, &mut codec, vec![0; CHUNK_BYTES]);
        assert_eq!(rebuilt.unwrap().plain(), plain);
        let mut longer = plain.clone();
        longer.push(0);
        let refused =
            VerifiedChunk::check_rebuilt(&record, &longer, &mut codec, vec![0; CHUNK_BYTES]);
        assert!(matches!(refused, Err(InvalidChunkError::Length { .. })));
    }
}

#[test]
fn parts_make_the_object_and_its_hash() {
    for bytes in [
        1,
        1024,
        PART_BYTES - 1,
        PART_BYTES,
        PART_BYTES + 1,
        2 * PART_BYTES,
        3 * PART_BYTES - 5,
        3 * PART_BYTES + 1,
        CHUNK_BYTES,
    ] {
        let (record, object) = object(&noise(bytes));
        assert_eq!(record.object_hash, ObjectHash::of(&object), "of {bytes}");
        let mut assembly = Assembly::new(&record);
        // the last one first
        for index in (0..record.part_count()).rev() {
            assert!(assembly.object().is_none());
            let part = object.slice(record.part_range(index).unwrap());
            assembly.add(VerifiedPart::check(&record, index, part.clone()).unwrap());
            assert_eq!(assembly.part(index), Some(&part));
        }
        let whole = assembly.object().unwrap();
        assert_eq!(whole.to_bytes(), object);
        let mut codec = ChunkCodec::new(3).unwrap();
        let chunk = whole.unpack(&mut codec, vec![0; CHUNK_BYTES]).unwrap();
        assert_eq!(chunk.plain(), noise(bytes));
    }
}

#[test]
fn a_frame_in_parts_unpacks() {
    let mut codec = ChunkCodec::new(3).unwrap();
    for incompressible in [2 * PART_BYTES, PART_BYTES + 7] {
        let mut plain = noise(incompressible);
        plain.resize(CHUNK_BYTES, 0);
        let (record, object) = object(&plain);
        assert!(record.part_count() > 1 && record.object_bytes < record.bytes);
        let mut assembly = Assembly::new(&record);
        for index in 0..record.part_count() {
            let part = object.slice(record.part_range(index).unwrap());
            assembly.add(VerifiedPart::check(&record, index, part).unwrap());
        }
        let whole = assembly.object().unwrap();
        assert!(whole.pieces().len() > 1);
        // one codec for all: nothing of the frame before is left in it
        let chunk = whole.unpack(&mut codec, vec![0; CHUNK_BYTES]).unwrap();
        assert_eq!(chunk.plain(), plain);
    }
}

#[test]
fn a_part_in_the_wrong_place_or_with_a_wrong_byte_never_passes() {
    let (record, object) = object(&noise(2 * PART_BYTES + 100));
    let part = |index| object.slice(record.part_range(index).unwrap());
    let check = |index, bytes| VerifiedPart::check(&record, index, bytes).unwrap_err();
    assert!(matches!(
        check(1, part(0)),
        InvalidChunkError::PartHash { part: 1, .. }
    ));
    assert!(matches!(
        check(2, part(0)),
        InvalidChunkError::Length { expected: 100, .. }
    ));
    assert!(matches!(
        check(3, part(0)),
        InvalidChunkError::Length { expected: 0, .. }
    ));
    assert!(matches!(
        check(3, Bytes::new()),
        InvalidChunkError::Length { .. }
    ));
    for at in (0..100).step_by(9) {
        let mut bad = part(2).to_vec();
        bad[at] ^= 0x10;
        assert!(matches!(
            check(2, bad.into()),
            InvalidChunkError::PartHash { .. }
        ));
    }
}

#[test]
fn the_table_finds_parts_and_chunks() {
    let table = PartTable::of_counts([1, 3, 0, 2]);
    assert_eq!((table.part_count(), table.chunk_count()), (6, 4));
    let parts = |chunk| {
        table
            .parts_of(ChunkId(chunk))
            .map(|p| p.0)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        [0, 1, 2, 3, 4].map(parts),
        [vec![0], vec![1, 2, 3], vec![], vec![4, 5], vec![]]
    );
    assert_eq!(table.place_of(PartId(3)), Some((ChunkId(1), 2)));
    assert_eq!(table.place_of(PartId(6)), None);
    let chunks = table.chunks_of([5, 4, 0, 9].map(PartId));
    assert_eq!(chunks, [ChunkId(0), ChunkId(3)]);
}

#[test]
fn a_bomb_is_cut_at_the_chunk() {
    let (record, _) = object(&plain(5, 4096));
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 3).unwrap();
    let refused = VerifiedChunk::check_rebuilt(
        &record,
        &bomb,
        &mut ChunkCodec::new(1).unwrap(),
        vec![0; CHUNK_BYTES],
    );
    assert!(matches!(refused, Err(InvalidChunkError::Frame { .. })));
    let wrong = zstd::bulk::compress(&plain(6, 4096), 1).unwrap();
    let refused = VerifiedChunk::check_rebuilt(
        &record,
        &wrong,
        &mut ChunkCodec::new(1).unwrap(),
        vec![0; CHUNK_BYTES],
    );
    assert!(matches!(refused, Err(InvalidChunkError::ChunkHash { .. })));
}

#[test]
fn a_manifest_survives_the_wire_and_only_signed() {
    let key = SigningKey::from_bytes(&[1; 32]);
    let public = PublicKey(key.verifying_key().to_bytes());
    let root = Root {
        number: 1,
        threshold: 1,
        root_keys: vec![public],
        image_keys: vec![public],
        order_keys: vec![],
        authority_keys: vec![],
    };
    let sign = |bytes: trust_format::SignedBytes, key: &SigningKey| {
        let signature = Signature(key.sign(bytes.as_message()).to_bytes());
        bytes
            .into_envelope(vec![(PublicKey(key.verifying_key().to_bytes()), signature)])
            .to_bytes()
    };
    let keys = TrustedKeys::pin(&sign(root.to_signed_bytes(), &key)).unwrap();
    let signed = sign(manifest().to_signed_bytes(), &key);
    let back: Verified<Manifest> = Verified::check(&signed, &keys).unwrap();
    assert_eq!(*back, manifest());
    let stranger = SigningKey::from_bytes(&[2; 32]);
    let forged = sign(manifest().to_signed_bytes(), &stranger);
    assert!(Verified::<Manifest>::check(&forged, &keys).is_err());
}

#[test]
fn a_manifest_that_lies_about_places_is_refused() {
    let check = |change: &dyn Fn(&mut Manifest), field: &str| {
        let mut manifest = manifest();
        change(&mut manifest);
        let error = decode(&payload(&manifest)).unwrap_err().to_string();
        assert!(error.contains(field), "{error} should name {field}");
    };
    check(&|m| m.layout[1].index = 0, "place");
    check(&|m| m.layout[1].index = 3, "place");
    check(&|m| m.layout[0].chunk = ChunkId(1), "chunk of a place");
    check(&|m| m.layout[1].chunk = ChunkId(9), "chunk of a place");
    check(&|m| m.layout[1].chunk = ChunkId(0), "chunk of a place");
    check(&|m| m.layout.truncate(1), "layout");
    check(&|m| m.chunks[1].bytes = 4000, "chunk of a place");
    check(&|m| m.chunks[0].object_bytes = 2 << 20, "object length");
    check(&|m| m.chunks[1].object_bytes = 4097, "object length");
    // as long as the chunk, and not the chunk
    check(&|m| m.chunks[1].object_bytes = 4096, "object length");
    check(&|m| m.sector_bytes = 513, "sector size");
    check(&|m| m.disk_bytes = 1, "chunk of a place");
}

#[test]
fn every_cut_and_flip_is_survived() {
    let bytes = payload(&manifest());
    for at in 0..bytes.len() {
        assert!(decode(&bytes[..at]).is_err());
        for flip in [1, 0x55, 0xff] {
            let mut bad = bytes.clone();
            bad[at] ^= flip;
            let _ = decode(&bad);
        }
    }
}

#[test]
fn zero_is_seen_at_every_place() {
    let mut bytes = vec![0u8; 1000];
    assert!(is_zero(&bytes) && reference::is_zero(&bytes));
    for at in 0..bytes.len() {
        bytes[at] = 1;
        assert!(!is_zero(&bytes) && !is_zero(&bytes[at..]));
        bytes[at] = 0;
    }
    assert!(is_zero(&[]));
}

proptest! {
    #[test]
    fn fast_and_obvious_agree(bytes in proptest::collection::vec(any::<u8>(), 1..5000), flip: Option<(prop::sample::Index, u8)>) {
        let (record, object) = object(&bytes);
        let mut object = object.to_vec();
        if let Some((at, mask)) = flip {
            let at = at.index(object.len());
            object[at] ^= mask;
        }
        let slow = reference::unpack(&record, &object);
        let fast = VerifiedObject::check(&record, object.into())
            .and_then(|o| o.unpack(&mut ChunkCodec::new(3).unwrap(), vec![0; CHUNK_BYTES]))
            .ok()
            .map(|c| c.plain().to_vec());
        prop_assert_eq!(slow, fast);
    }
}
