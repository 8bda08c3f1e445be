//! The session with a token.

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    error::{Error, RvError},
    mechanism::{
        Mechanism,
        eddsa::{EddsaParams, EddsaSignatureScheme},
    },
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::{Session, UserType},
    slot::Slot,
    types::AuthPin,
};
use trust_format::{PublicKey, Signature};

use super::{KeyHolder, OpenTokenError, TokenChoice};
use crate::signer::SignError;

/// Names of the curve, as DER: edwards25519 as a printable string (PKCS#11 3.0, which SoftHSM 2.6 takes), and its object identifier
/// (RFC 8410), which other tokens want.
const CURVE_NAMES: [&[u8]; 2] = [b"\x13\x0cedwards25519", b"\x06\x03\x2b\x65\x70"];

/// A key in a token with an open session.
pub(super) struct TokenKey {
    session: Session,
    private: ObjectHandle,
    public: PublicKey,
}

fn failed(choice: &TokenChoice, doing: &'static str) -> impl Fn(Error) -> OpenTokenError + use<> {
    let module = choice.module.clone();
    move |source| OpenTokenError::Module {
        module: module.clone(),
        doing,
        source: Box::new(source),
    }
}

impl TokenKey {
    pub(super) fn open(choice: &TokenChoice) -> Result<Self, OpenTokenError> {
        let session = log_in(choice, false)?;
        Self::find(session, choice)
    }

    pub(super) fn create(choice: &TokenChoice) -> Result<Self, OpenTokenError> {
        let session = log_in(choice, true)?;
        let label = || Attribute::Label(choice.key.as_bytes().to_vec());
        let there = session
            .find_objects(&[label()])
            .map_err(failed(choice, "looking for keys"))?;
        if !there.is_empty() {
            return Err(OpenTokenError::Taken {
                token: choice.token.clone(),
                key: choice.key.clone(),
            });
        }
        let id = || Attribute::Id(choice.key.as_bytes().to_vec());
        let private = [
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Sign(true),
            label(),
            id(),
        ];
        let make = |curve: &[u8]| {
            let public = [
                Attribute::Token(true),
                Attribute::Private(false),
                Attribute::Verify(true),
                Attribute::EcParams(curve.to_vec()),
                label(),
                id(),
            ];
            session.generate_key_pair(&Mechanism::EccEdwardsKeyPairGen, &public, &private)
        };
        make(CURVE_NAMES[0])
            .or_else(|_| make(CURVE_NAMES[1]))
            .map_err(failed(choice, "making an Ed25519 key"))?;
        let made = Self::find(session, choice)?;
        made.check_that_it_stays(choice)?;
        Ok(made)
    }

    /// Some tokens take the wish and ignore it.
    fn check_that_it_stays(&self, choice: &TokenChoice) -> Result<(), OpenTokenError> {
        let asked = [AttributeType::Sensitive, AttributeType::Extractable];
        let found = self
            .session
            .get_attributes(self.private, &asked)
            .map_err(failed(choice, "reading how the secret is kept"))?;
        let stays = found.contains(&Attribute::Sensitive(true))
            && found.contains(&Attribute::Extractable(false));
        match stays {
            true => Ok(()),
            false => Err(OpenTokenError::NotKept {
                token: choice.token.clone(),
                key: choice.key.clone(),
            }),
        }
    }

    fn find(session: Session, choice: &TokenChoice) -> Result<Self, OpenTokenError> {
        let private = one_key(&session, choice, ObjectClass::PRIVATE_KEY, "private")?;
        let public = one_key(&session, choice, ObjectClass::PUBLIC_KEY, "public")?;
        let attributes = session
            .get_attributes(public, &[AttributeType::EcPoint])
            .map_err(failed(choice, "reading the public half"))?;
        let point = attributes.into_iter().find_map(|a| match a {
            Attribute::EcPoint(point) => Some(point),
            _ => None,
        });
        let public = point.as_deref().and_then(point_bytes);
        let public = public.ok_or_else(|| OpenTokenError::NotEd25519 {
            token: choice.token.clone(),
            key: choice.key.clone(),
        })?;
        Ok(Self {
            session,
            private,
            public,
        })
    }
}

/// A public key out of an attribute: as a DER octet string (PKCS#11 2.40), or plain, as some tokens give it.
fn point_bytes(point: &[u8]) -> Option<PublicKey> {
    let plain = match point {
        [0x04, 0x20, plain @ ..] if plain.len() == 32 => plain,
        plain => plain,
    };
    plain.try_into().ok().map(PublicKey)
}

fn one_key(
    session: &Session,
    choice: &TokenChoice,
    class: ObjectClass,
    half: &'static str,
) -> Result<ObjectHandle, OpenTokenError> {
    let wanted = [
        Attribute::Class(class),
        Attribute::KeyType(KeyType::EC_EDWARDS),
        Attribute::Label(choice.key.as_bytes().to_vec()),
    ];
    let found = session
        .find_objects(&wanted)
        .map_err(failed(choice, "looking for the key"))?;
    match found[..] {
        [key] => Ok(key),
        _ => Err(OpenTokenError::Key {
            token: choice.token.clone(),
            key: choice.key.clone(),
            half,
            found: found.len(),
        }),
    }
}

/// A session with the token of the label, as its user.
fn log_in(choice: &TokenChoice, writing: bool) -> Result<Session, OpenTokenError> {
    let module = Pkcs11::new(&choice.module).map_err(failed(choice, "loading it"))?;
    match module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
        Err(error) => return Err(failed(choice, "starting it")(error)),
    }
    let slot = slot(&module, choice)?;
    let session = match writing {
        true => module.open_rw_session(slot),
        false => module.open_ro_session(slot),
    }
    .map_err(failed(choice, "opening a session"))?;
    let pin = AuthPin::from(choice.pin.as_str());
    match session.login(UserType::User, Some(&pin)) {
        Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(session),
        Err(error) => Err(failed(choice, "logging in with the PIN")(error)),
    }
}

fn slot(module: &Pkcs11, choice: &TokenChoice) -> Result<Slot, OpenTokenError> {
    let listing = failed(choice, "listing its tokens");
    let mut there = Vec::new();
    let mut fitting = Vec::new();
    for slot in module
        .get_slots_with_initialized_token()
        .map_err(&listing)?
    {
        let label = module.get_token_info(slot).map_err(&listing)?;
        let label = label.label().trim_end().to_owned();
        if label == choice.token {
            fitting.push(slot);
        }
        there.push(label);
    }
    match fitting[..] {
        [slot] => Ok(slot),
        _ => Err(OpenTokenError::Token {
            module: choice.module.clone(),
            token: choice.token.clone(),
            found: fitting.len(),
            there,
        }),
    }
}

impl KeyHolder for TokenKey {
    fn public(&self) -> PublicKey {
        self.public
    }

    fn sign(&self, message: &[u8]) -> Result<Signature, SignError> {
        let mechanism = Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Ed25519));
        let signature = self
            .session
            .sign(&mechanism, self.private, message)
            .map_err(|e| SignError::Token(Box::new(e)))?;
        let signature = signature.try_into().map(Signature);
        signature.map_err(|_| SignError::WrongSignature { key: self.public })
    }
}
