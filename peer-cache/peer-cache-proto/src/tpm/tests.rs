use proptest::prelude::*;
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};

use super::*;
use command::{ResponseError, response_bytes};

const AGENT: PublicKey = PublicKey([7; 32]);
/// By an emulated TPM 2.0 (libtpms) for [`AGENT`].
const PROOF: &str = "792183688b39a7eea8fea4bf440ef9a24984765588e235327a2e9eeae8e0451318d2c760f78839ca7524d4fff7113cefef44987422fa7cc696abbdf5f1496779\
                     b8ddeddf72985cf0a8291e7b32752b44bfcc9c3c43a8b8e3354b55f503250725e5ebe3755b02996765be46d62077c67a7b57e28cc310df9f40f5b935377aa198";
const KEY: &str = "2f3ba7401bdae480bdbc19b2965ef87f25263b776f905585e5b68cb82c277622";

fn hex(text: &str) -> Vec<u8> {
    (0..text.len() / 2)
        .map(|n| u8::from_str_radix(&text[2 * n..2 * n + 2], 16).unwrap())
        .collect()
}

fn decoded(bytes: &[u8]) -> Result<TpmProof, DecodeError> {
    let mut input = Reader::new(bytes);
    let proof = TpmProof::decode(&mut input)?;
    input.finish().map(|()| proof)
}

fn encoded(proof: &TpmProof) -> Vec<u8> {
    let mut out = Writer::new();
    proof.encode(&mut out);
    out.finish()
}

/// A proof by a key that is in no TPM.
fn signed(agent: &PublicKey) -> TpmProof {
    let random = SystemRandom::new();
    let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
    let key = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).unwrap();
    let signature = key.sign(&random, &TpmProof::message(agent)).unwrap();
    TpmProof {
        public: key.public_key().as_ref()[1..].try_into().unwrap(),
        signature: signature.as_ref().try_into().unwrap(),
    }
}

#[test]
fn a_real_tpms_proof_and_key_stay_what_they_are() {
    let bytes = hex(PROOF);
    assert_eq!(bytes.len(), PROOF_BYTES);
    let proof = decoded(&bytes).unwrap();
    assert_eq!(encoded(&proof), bytes);
    assert_eq!(proof.verify(&AGENT).unwrap().to_string(), KEY);
    let other = PublicKey([8; 32]);
    assert_eq!(proof.verify(&other), Err(VerifyProofError::Signature));
}

#[test]
fn a_message_says_what_it_is_for() {
    let message = TpmProof::message(&PublicKey([0xab; 32]));
    assert_eq!(&message[..20], b"lamplighter tpm 2026");
    assert_eq!(message[20..], [0xab; 32]);
}

/// Another template is another key in every TPM: machines would lose their names, and nodes their keys.
#[test]
fn templates_stay_what_they_are() {
    let digest = |command: &command::Command| blake3::hash(command.as_bytes()).to_string();
    assert_eq!(
        digest(&command::identity_primary()),
        "359f1626f59632b59f7c6c6f18fbc1efa2c3b36300132834666fc7062f671bed"
    );
    assert_eq!(
        digest(&command::storage_primary()),
        "b6d9dd3cb45774ecab0849df48dc1aac0943a0cb321dd862ba54d4bf3763c46f"
    );
}

#[test]
fn every_bit_of_a_proof_counts() {
    let bytes = hex(PROOF);
    for bit in 0..bytes.len() * 8 {
        let mut bad = bytes.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let proof = decoded(&bad).unwrap();
        assert_eq!(proof.verify(&AGENT), Err(VerifyProofError::Signature));
    }
    for end in 0..bytes.len() {
        assert!(decoded(&bytes[..end]).is_err());
    }
}

#[test]
fn what_is_no_point_or_number_proves_nothing() {
    let good = decoded(&hex(PROOF)).unwrap();
    for (public, signature) in [
        ([0; 64], good.signature),
        ([0xff; 64], good.signature),
        (good.public, [0; 64]),
        (good.public, [0xff; 64]),
        ([0; 64], [0; 64]),
    ] {
        let proof = TpmProof { public, signature };
        assert!(proof.verify(&AGENT).is_err());
    }
}

#[test]
fn a_sealed_key_is_told_from_a_plain_one() {
    let sealed = SealedKey {
        parent: [3; 32],
        public: Vec::new(),
        private: Vec::new(),
    };
    assert!(SealedKey::is_one(&sealed.to_bytes()));
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&sealed.to_bytes()[..8]);
    assert!(!SealedKey::is_one(&seed));
    assert!(!SealedKey::is_one(b""));
}

#[test]
fn a_sealed_keys_file_has_limits() {
    let sealed = |bytes| SealedKey {
        parent: [3; 32],
        public: vec![1; bytes],
        private: vec![2; 9],
    };
    let check = |bytes: Vec<u8>| SealedKey::from_bytes(&bytes).unwrap_err().to_string();
    assert!(SealedKey::from_bytes(&sealed(1024).to_bytes()).is_ok());
    assert!(check(sealed(1025).to_bytes()).starts_with("public part"));
    assert!(check([sealed(4).to_bytes(), vec![0]].concat()).contains("1 bytes follow"));
    let mut other = sealed(4).to_bytes();
    other[7] = b'2';
    assert!(check(other).starts_with("magic"));
}

#[test]
fn the_length_of_an_answer_is_known_early_and_limited() {
    let head = |size: u32| [&[0x80, 1][..], &size.to_be_bytes(), &[0; 4]].concat();
    assert_eq!(response_bytes(&head(10)), Ok(Some(10)));
    assert_eq!(response_bytes(&head(4096)), Ok(Some(4096)));
    assert_eq!(response_bytes(&head(10)[..9]), Ok(None));
    for bad in [0, 9, 4097, u32::MAX] {
        assert!(response_bytes(&head(bad)).is_err(), "{bad}");
    }
}

/// Any bytes as an answer to each command.
fn read_as_every_answer(bytes: &[u8]) -> [Result<(), ResponseError>; 6] {
    [
        command::created_identity(bytes).map(drop),
        command::created_storage(bytes).map(drop),
        command::signed(bytes).map(|_| ()),
        command::sealed(bytes, [0; 32]).map(drop),
        command::loaded(bytes).map(|_| ()),
        command::unsealed(bytes).map(drop),
    ]
}

/// An answer with sessions: header, size of the parameters, parameters, and the session's own part.
fn answer(parameters: &[u8]) -> Vec<u8> {
    let size = 14 + parameters.len() + 5;
    [
        &[0x80, 2][..],
        &u32::try_from(size).unwrap().to_be_bytes(),
        &[0; 4],
        &u32::try_from(parameters.len()).unwrap().to_be_bytes(),
        parameters,
        &[0, 0, 1, 0, 0],
    ]
    .concat()
}

#[test]
fn numbers_without_their_leading_zeros_are_understood() {
    let signature = |r: &[u8], s: &[u8]| {
        let sized = |n: &[u8]| [&[0, u8::try_from(n.len()).unwrap()][..], n].concat();
        answer(&[&[0, 0x18, 0, 0x0B][..], &sized(r), &sized(s)].concat())
    };
    let both = command::signed(&signature(&[5; 31], &[6; 32])).unwrap();
    assert_eq!((both[0], both[1], both[32]), (0, 5, 6));
    assert!(command::signed(&signature(&[5; 33], &[6; 32])).is_err());
    assert!(command::signed(&[signature(&[5; 32], &[6; 32]), vec![0]].concat()).is_err());
}

#[test]
fn a_secret_of_another_length_is_refused() {
    let secret = |bytes: u8| {
        let parameters = [&[0, bytes][..], &vec![9; bytes.into()]].concat();
        command::unsealed(&answer(&parameters))
    };
    assert_eq!(*secret(32).unwrap(), [9; 32]);
    for bytes in [0, 31, 33] {
        assert!(secret(bytes).is_err(), "{bytes}");
    }
}

proptest! {
    #[test]
    fn only_the_agent_it_is_about_is_proved(agent: [u8; 32], other: [u8; 32]) {
        let proof = signed(&PublicKey(agent));
        prop_assert!(proof.verify(&PublicKey(agent)).is_ok());
        prop_assert_eq!(decoded(&encoded(&proof)), Ok(proof));
        prop_assert_eq!(proof.verify(&PublicKey(other)).is_ok(), agent == other);
    }

    #[test]
    fn noise_proves_nothing(bytes in prop::collection::vec(any::<u8>(), PROOF_BYTES), agent: [u8; 32]) {
        prop_assert!(decoded(&bytes).unwrap().verify(&PublicKey(agent)).is_err());
    }

    #[test]
    fn a_sealed_key_comes_back(
        parent: [u8; 32],
        public in prop::collection::vec(any::<u8>(), 0..1025),
        private in prop::collection::vec(any::<u8>(), 0..1025),
    ) {
        let sealed = SealedKey { parent, public, private };
        let bytes = sealed.to_bytes();
        prop_assert_eq!(SealedKey::from_bytes(&bytes), Ok(sealed));
        prop_assert!(SealedKey::from_bytes(&bytes[..bytes.len() - 1]).is_err());
    }

    #[test]
    fn noise_is_no_answer(
        parameters in prop::collection::vec(any::<u8>(), 0..300),
        noise in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        for result in read_as_every_answer(&noise) {
            prop_assert!(result.is_err());
        }
        // behind a right header each reader decides for itself, and none panics
        let _ = read_as_every_answer(&answer(&parameters));
        let _ = SealedKey::from_bytes(&parameters);
    }
}
