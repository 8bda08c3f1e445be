//! Roots: which keys hold, and the change to a new root.
//!
//! A key that signed a document which somebody still relies on stays named until a key of the new root has signed that document too. What HQ can sign, it
//! signs here and at once; for the rest it refuses the root, unless it is told to take it all the same.

mod follow;

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{RawQuery, State},
};
use image_format::Manifest;
use image_store::{AdvanceRootError, NextRoot, RootDraft, Signer, Tally, key_lists};
use serde::Deserialize;
use trust_format::{
    Channel, Digest, Document, NodeCertificate, Order, PublicKey, Root, SignerRole, TrustRootError,
    TrustedKeys, Verified, peek_envelope,
};
use utoipa::IntoParams;
use web_api::{Base64, Certified, Hex, KeysInfo, NamedKey, RootPublished, RootRow};

use crate::{
    Hq,
    access::{By, Node},
    bell::News,
    database::{Connection, living, nodes, roots as table},
    error::Refusal,
    input::{Asked, Raw},
    waiting,
};

pub use follow::FollowRootsError;
pub(crate) use follow::{alone, join, keep_following};

/// Names in a sentence; more are counted.
const NAMES_SAID_MAX: usize = 5;

pub(crate) async fn list(State(hq): State<Arc<Hq>>) -> Json<RootRow> {
    Json(RootRow {
        roots: hq.signer.roots().into_iter().map(Base64).collect(),
    })
}

pub(crate) async fn keys(State(hq): State<Arc<Hq>>) -> Json<KeysInfo> {
    Json(info(&hq.signer))
}

fn info(signer: &Signer) -> KeysInfo {
    let trusted = signer.trusted();
    let named = |role| {
        let keys = trusted.of_role(role).iter();
        keys.map(|key| NamedKey {
            key: Hex(key.0),
            held: signer.holds(key),
        })
        .collect()
    };
    KeysInfo {
        number: trusted.root().number,
        threshold: trusted.root().threshold,
        root: named(SignerRole::Root),
        image: named(SignerRole::Image),
        order: named(SignerRole::Order),
        authority: named(SignerRole::Authority),
    }
}

/// What HQ says of itself when it starts.
pub(crate) fn log_keys(signer: &Signer) {
    let root = signer.trusted().root().number;
    for note in offline_notes(|role| signer.can_sign(role)) {
        tracing::info!(root, "{note}");
    }
    if !signer.can_sign(SignerRole::Authority) {
        tracing::warn!(
            root,
            "HQ holds no authority key: no node can enrol, be certified or be confirmed until one is in its folder of keys"
        );
    }
}

fn offline_notes(can_sign: impl Fn(SignerRole) -> bool) -> Vec<String> {
    [
        (
            SignerRole::Image,
            "image key is offline: versions wait for a signature",
        ),
        (
            SignerRole::Order,
            "order key is offline: channels and orders wait for a signature",
        ),
    ]
    .into_iter()
    .filter(|(role, _)| !can_sign(*role))
    .map(|(_, note)| format!("the {note}"))
    .collect()
}

/// A node asks for its certificate, which a new authority key may have signed too. By `have` it shows which one it has.
pub(crate) async fn my_certificate(
    State(hq): State<Arc<Hq>>,
    Extension(node): Extension<Node>,
    RawQuery(query): RawQuery,
) -> Result<Json<Certified>, Refusal> {
    let query = query.unwrap_or_default();
    let have = query.strip_prefix("have=").map(str::parse::<Hex<32>>);
    let Some(Ok(have)) = have else {
        return Err(Refusal::bad(
            "this route takes ?have= and the BLAKE3 hash of the node's certificate (64 hexadecimal digits)",
        ));
    };
    let mut change = hq.database.write().await?;
    let known = nodes::find(&mut change, &node.key).await?;
    let known = known.ok_or_else(|| Refusal::missing("this node"))?;
    if *blake3::hash(&known.certificate).as_bytes() == have.0 {
        living::certificate_taken(&mut change, &node.key).await?;
        change.commit().await?;
    }
    Ok(Json(Certified {
        certificate: Base64(known.certificate),
    }))
}

/// How a root is taken.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct Publication {
    /// True takes one that lets living documents die.
    force: Option<bool>,
}

/// Takes a new root. The present one again makes HQ read its folder of keys anew.
pub(crate) async fn publish(
    State(hq): State<Arc<Hq>>,
    Extension(by): Extension<By>,
    Asked(asked): Asked<Publication>,
    Raw(body): Raw,
) -> Result<Json<RootPublished>, Refusal> {
    let force = asked.force.unwrap_or(false);
    let _alone = alone(&hq).await?;
    let bytes = the_present_one(&hq, &body)?.unwrap_or_else(|| body.to_vec());
    let next = hq
        .signer
        .next(&bytes)
        .map_err(|e| refused(&hq, &bytes, e))?;
    complete(next.trusted().root())?;
    if !next.can_sign(SignerRole::Authority) && !force {
        return Err(Refusal::conflict(format!(
            "HQ holds no authority key that root {} names: no node could enrol any more. Put one into its folder of keys, or use force",
            next.trusted().root().number
        )));
    }
    let mut change = hq.database.write().await?;
    let mut renewal = Renewal::new(&hq, &next);
    renewal.run(&mut change).await?;
    if let (Some(sentence), false) = (renewal.dead_sentence(), force) {
        return Err(Refusal::conflict(format!(
            "what is relied on has no signature by a key that root {} names: {sentence}. Name the old keys beside the new ones until all of it is signed anew, or use force",
            next.trusted().root().number
        )));
    }
    let notes = renewal.notes(&next);
    // these signatures hold under both roots: whatever happens next, nothing is lost
    change.commit().await?;
    // what was signed since then, and nothing more while the keys change
    let mut change = hq.database.write_by(&by).await?;
    Renewal::new(&hq, &next).run(&mut change).await?;
    let number = next.trusted().root().number;
    change.says(format!(
        "root {number} published{}",
        if force { ", by force" } else { "" }
    ));
    table::insert(&mut change, number, &bytes).await?;
    change.tell(News::Root(number));
    hq.signer
        .advance(next)
        .map_err(|e| refused(&hq, &bytes, e))?;
    hq.database.signs_under(number);
    change.commit().await?;
    waiting::catch_up(&hq).await?;
    let keys = info(&hq.signer);
    tracing::warn!(root = keys.number, force, "a root was published");
    Ok(Json(RootPublished { keys, notes }))
}

/// The root that is trusted already, when the body says the same under other signatures. There is no way back to an older one.
fn the_present_one(hq: &Hq, body: &[u8]) -> Result<Option<Vec<u8>>, Refusal> {
    let (envelope, root) = peek_envelope::<Root>(body)?;
    let trusted = hq.signer.trusted();
    let present = trusted.root();
    if envelope.digest() == present.digest() {
        return Ok(Some(present.as_bytes().to_vec()));
    }
    match root.number > present.number {
        true => Ok(None),
        false => Err(Refusal::conflict(format!(
            "this root has number {}, and root {} is trusted already: a new one needs a higher number",
            root.number, present.number
        ))),
    }
}

/// Why a root does not follow, with who is missing.
fn refused(hq: &Hq, bytes: &[u8], error: AdvanceRootError) -> Refusal {
    let error = match error {
        AdvanceRootError::Folder(error) => return Refusal::failed(&error),
        AdvanceRootError::Trust(error) => error,
    };
    let mut sentence = error.to_string();
    if let TrustRootError::TooFewSignatures { .. } = error
        && let Ok(draft) = RootDraft::read(bytes, Some(hq.signer.trusted().root().as_bytes()))
    {
        let before = hq.signer.trusted().root().number;
        let tallies = [
            (Some(draft.own_tally()), draft.root().number),
            (draft.tally_before(), before),
        ];
        for (tally, number) in tallies {
            if let Some(tally) = tally.filter(|t| t.lacks() > 0) {
                sentence += &format!("; {}", missing(&tally, number));
            }
        }
    }
    match error {
        TrustRootError::Older { .. } => Refusal::conflict(sentence),
        _ => Refusal::bad(sentence),
    }
}

fn missing(tally: &Tally, root: u64) -> String {
    let keys: Vec<String> = tally.absent.iter().map(PublicKey::to_string).collect();
    format!(
        "{} more of root {root}'s keys must sign: {}",
        tally.lacks(),
        keys.join(", ")
    )
}

/// Nobody means a chain in which nobody can do a thing.
fn complete(root: &Root) -> Result<(), Refusal> {
    match key_lists(root)
        .into_iter()
        .find(|(_, keys)| keys.is_empty())
    {
        None => Ok(()),
        Some((role, _)) => Err(Refusal::bad(format!(
            "root {} names no {role} key: a key that is kept offline is named all the same",
            root.number
        ))),
    }
}

/// Documents that are signed anew for a root, and those that nobody could sign.
struct Renewal<'a> {
    hq: &'a Hq,
    next: &'a NextRoot,
    renewed: usize,
    channels: Vec<String>,
    orders: usize,
    versions: Vec<String>,
    certificates: usize,
    unused_versions: usize,
}

/// What became of one document.
enum Renewed {
    Holds,
    Signed(Vec<u8>),
    Dead,
}

impl<'a> Renewal<'a> {
    fn new(hq: &'a Hq, next: &'a NextRoot) -> Self {
        Self {
            hq,
            next,
            renewed: 0,
            channels: Vec::new(),
            orders: 0,
            versions: Vec::new(),
            certificates: 0,
            unused_versions: 0,
        }
    }

    /// Only a document that holds today can be lost.
    fn renew<T: Document>(
        &mut self,
        bytes: &[u8],
        today: &TrustedKeys,
    ) -> Result<Renewed, Refusal> {
        if Verified::<T>::check(bytes, self.next.trusted()).is_ok() {
            return Ok(Renewed::Holds);
        }
        if Verified::<T>::check(bytes, today).is_err() && !self.next.can_sign(T::SIGNER) {
            return Ok(Renewed::Holds);
        }
        if !self.next.can_sign(T::SIGNER) {
            return Ok(Renewed::Dead);
        }
        let signed = self.next.sign_again::<T>(bytes)?;
        self.renewed += 1;
        Ok(Renewed::Signed(signed.as_bytes().to_vec()))
    }

    async fn run(&mut self, db: &mut Connection) -> Result<(), Refusal> {
        let today = self.hq.signer.trusted();
        self.run_channels(db, &today).await?;
        for (site, number, document) in living::orders(db).await? {
            match self.renew::<Order>(&document, &today)? {
                Renewed::Holds => {}
                Renewed::Dead => self.orders += 1,
                Renewed::Signed(bytes) => living::update_order(db, site, number, &bytes).await?,
            }
        }
        for (version, name, used) in living::versions(db).await? {
            let bytes = self.hq.store.manifest(&Digest(version.0)).await?;
            match self.renew::<Manifest>(&bytes, &today)? {
                Renewed::Holds => {}
                Renewed::Dead if used => self.versions.push(format!("{name} {version}")),
                Renewed::Dead => self.unused_versions += 1,
                Renewed::Signed(bytes) => {
                    let signed = Verified::check(&bytes, self.next.trusted())?;
                    self.hq.store.put_manifest(&signed).await?;
                }
            }
        }
        self.run_certificates(db, &today).await
    }

    /// A channel that HQ can sign gets its next number after the change.
    async fn run_channels(
        &mut self,
        db: &mut Connection,
        today: &TrustedKeys,
    ) -> Result<(), Refusal> {
        for (name, channel) in living::channels(db).await? {
            let holds = |keys| Verified::<Channel>::check(&channel, keys).is_ok();
            if holds(self.next.trusted()) {
                continue;
            }
            match self.next.can_sign(SignerRole::Order) {
                true => self.renewed += 1,
                false if holds(today) => self.channels.push(name),
                false => {}
            }
        }
        Ok(())
    }

    /// What counts is the certificate that the node has: it is lost when no key of the new root signed it. One that HQ signs anew here is for the
    /// node to take, which it does when it hears of the root; so a new authority key comes first, and the old one goes later. Nobody waits for a node
    /// whose place another has; its certificate is signed all the same, in case it is heard of.
    async fn run_certificates(
        &mut self,
        db: &mut Connection,
        today: &TrustedKeys,
    ) -> Result<(), Refusal> {
        let role = SignerRole::Authority;
        let next = self.next.trusted().of_role(role);
        let today = today.of_role(role);
        let drops = today.iter().any(|key| !next.contains(key));
        let signer = self.next.signer(role);
        for found in living::certificates(db).await? {
            let (envelope, _) = peek_envelope::<NodeCertificate>(&found.certificate)?;
            let signers = envelope.true_signers();
            let holds = |keys: &[PublicKey]| signers.iter().any(|key| keys.contains(key));
            let lost = if found.taken { !holds(next) } else { drops };
            self.certificates += usize::from(lost && holds(today) && !found.is_gone);
            if signer.is_some_and(|key| !signers.contains(&key)) {
                let signed = self
                    .next
                    .sign_again::<NodeCertificate>(&found.certificate)?;
                living::update_certificate(db, &found.node, signed.as_bytes()).await?;
            }
        }
        Ok(())
    }

    /// What the old keys alone hold up.
    fn dead_sentence(&self) -> Option<String> {
        let mut parts = Vec::new();
        if !self.channels.is_empty() {
            parts.push(format!("the channels of {}", names(&self.channels)));
        }
        if self.orders > 0 {
            parts.push(format!("{} orders", self.orders));
        }
        if !self.versions.is_empty() {
            parts.push(format!("the versions {}", names(&self.versions)));
        }
        if self.certificates > 0 {
            parts.push(format!("the certificates of {} nodes", self.certificates));
        }
        (!parts.is_empty()).then(|| parts.join(", "))
    }

    fn notes(&self, next: &NextRoot) -> Vec<String> {
        let mut notes = offline_notes(|role| next.can_sign(role));
        if !next.can_sign(SignerRole::Authority) {
            notes.push("HQ holds no authority key: no node can enrol".into());
        }
        if self.renewed > 0 {
            notes.push(format!("{} documents were signed anew", self.renewed));
        }
        if let Some(sentence) = self.dead_sentence() {
            notes.push(format!(
                "no key of this root signed what is relied on: {sentence}"
            ));
        }
        if self.unused_versions > 0 {
            notes.push(format!(
                "{} versions that no site is given have no signature by a key of this root: they cannot be ordered until they are signed anew",
                self.unused_versions
            ));
        }
        notes
    }
}

fn names(all: &[String]) -> String {
    let said = all.len().min(NAMES_SAID_MAX);
    let mut sentence = all[..said].join(", ");
    if all.len() > said {
        sentence += &format!(" and {} more", all.len() - said);
    }
    sentence
}
