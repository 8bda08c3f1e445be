//! What this program believes about its site: keys, channel, orders, completions. Every document is verified on its way
//! in, and what only grows never goes back.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::durable::write_durably;
use image_format::Manifest;
use peer_cache_proto::{
    admission::OrderBook,
    machine::MachineFacts,
    pin::{PinCounter, PinGate, PinTally},
    recognition::{Recognised, recognise},
    voucher::VoucherBook,
    wire::Documents,
};
use thiserror::Error;
use trust_format::{
    Channel, CheckNodeError, CheckedNode, Completion, Digest, MachineId, Order, PinRule, PublicKey,
    Roster, SiteId, TpmKey, TrustedKeys, Verified, VerifyDocumentError, check_completion,
    codec::{Reader, Writer},
    peek,
};

mod roots;
mod vouched;

pub(crate) use vouched::VouchedNews;

/// Completions that are kept and passed on.
const COMPLETIONS_MAX: usize = 16_384;

/// The documents of one site, in memory and, for a node, in a folder.
#[derive(Debug)]
pub struct Site {
    keys: Option<TrustedKeys>,
    /// Roots before the trusted one, each leading to the next.
    older_roots: BTreeMap<u64, Vec<u8>>,
    channel: Option<Verified<Channel>>,
    roster: Option<Verified<Roster>>,
    orders: BTreeMap<u64, Verified<Order>>,
    completions: BTreeMap<(MachineId, u64), Vec<u8>>,
    book: OrderBook,
    pin: PinCounter,
    vouchers: VoucherBook,
    /// What machines showed whose rights come from a voucher.
    vouched: BTreeMap<(PublicKey, MachineId), Vec<u8>>,
    /// From here this program counts how long a PIN is there.
    opened: Instant,
    folder: Option<PathBuf>,
    /// Take the first root that a peer shows: for an agent that was started by hand and has no boot media.
    trust_first_root: bool,
}

/// What was new in some documents.
#[derive(Debug, Default, Clone)]
pub struct Learned {
    /// A newer root.
    pub root: bool,
    /// A newer channel.
    pub channel: bool,
    /// A newer roster.
    pub roster: bool,
    /// New orders.
    pub orders: Vec<u64>,
    /// New completions.
    pub completions: Vec<(MachineId, u64)>,
    /// All that as it was signed, to be passed on.
    pub fresh: Documents,
    /// What was refused, in words that name the document.
    pub refused: Vec<String>,
}

impl Learned {
    /// Whether there is anything to pass on.
    pub fn is_news(&self) -> bool {
        self.fresh != Documents::default()
    }
}

/// Why a manifest is not used.
#[derive(Debug, Error)]
pub enum AcceptManifestError {
    /// Nothing is trusted yet.
    #[error("no root is trusted yet")]
    NoRoot,
    /// The signature does not hold.
    #[error(transparent)]
    Document(#[from] VerifyDocumentError),
    /// It is another one than the one asked for.
    #[error("asked for manifest {asked}, got {got}")]
    Other {
        /// Asked for.
        asked: Digest,
        /// Received.
        got: Digest,
    },
    /// HQ withdrew it.
    #[error("manifest {digest} is release {release}, below the site's floor {floor}")]
    BelowFloor {
        /// Which.
        digest: Digest,
        /// Its release.
        release: u64,
        /// The site's floor.
        floor: u64,
    },
}

impl Site {
    /// An empty site under a root that came by a trusted way.
    pub fn new(keys: TrustedKeys) -> Self {
        Self {
            keys: Some(keys),
            trust_first_root: false,
            ..Self::trusting_the_first_root()
        }
    }

    /// A site that believes the first root that it is shown. Whoever uses this tells the user which root that was.
    pub fn trusting_the_first_root() -> Self {
        Self {
            keys: None,
            trust_first_root: true,
            older_roots: BTreeMap::new(),
            channel: None,
            roster: None,
            orders: BTreeMap::new(),
            completions: BTreeMap::new(),
            book: OrderBook::default(),
            pin: PinCounter::default(),
            vouchers: VoucherBook::default(),
            vouched: BTreeMap::new(),
            opened: Instant::now(),
            folder: None,
        }
    }

    /// Opens the documents that [`Site::save_to`] kept in a folder.
    ///
    /// # Errors
    /// When the root is missing or does not hold; other damaged documents are left out and come again from peers or HQ.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let root = fs::read(folder.join("root"))?;
        let keys = TrustedKeys::pin(&root).map_err(io::Error::other)?;
        let mut site = Self::new(keys);
        let list = |name: &str| -> io::Result<Vec<Vec<u8>>> {
            match fs::read_dir(folder.join(name)) {
                Ok(entries) => entries.map(|e| fs::read(e?.path())).collect(),
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
                Err(e) => Err(e),
            }
        };
        if let Some(tally) = fs::read(folder.join("pin-tally"))
            .ok()
            .and_then(|bytes| PinTally::decode(&mut Reader::new(&bytes)).ok())
        {
            site.pin = PinCounter::resume(tally, Duration::ZERO);
        }
        let documents = Documents {
            roots: list("roots")?,
            channel: fs::read(folder.join("channel")).ok(),
            roster: fs::read(folder.join("roster")).ok(),
            orders: list("orders")?,
            completions: list("completions")?,
        };
        let learned = site.learn(&documents);
        for refused in learned.refused {
            tracing::warn!(refused, "left out a document of this site");
        }
        site.resume_vouched(&list("vouched")?);
        site.folder = Some(folder.to_owned());
        Ok(site)
    }

    /// Keeps the documents in a folder from now on.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn save_to(&mut self, folder: &Path) -> io::Result<()> {
        self.folder = Some(folder.to_owned());
        for name in ["roots", "orders", "completions", "vouched"] {
            fs::create_dir_all(folder.join(name))?;
        }
        for (number, root) in &self.older_roots {
            write_durably(&folder.join("roots").join(number.to_string()), root)?;
        }
        if let Some(keys) = &self.keys {
            write_durably(&folder.join("root"), keys.root().as_bytes())?;
        }
        if let Some(channel) = &self.channel {
            write_durably(&folder.join("channel"), channel.as_bytes())?;
        }
        if let Some(roster) = &self.roster {
            write_durably(&folder.join("roster"), roster.as_bytes())?;
        }
        for (number, order) in &self.orders {
            write_durably(
                &folder.join("orders").join(number.to_string()),
                order.as_bytes(),
            )?;
        }
        for ((machine, order), bytes) in &self.completions {
            write_durably(
                &folder
                    .join("completions")
                    .join(format!("{machine}-{order}")),
                bytes,
            )?;
        }
        self.save_vouched();
        Ok(())
    }

    /// The keys, when a root is trusted.
    pub fn keys(&self) -> Option<&TrustedKeys> {
        self.keys.as_ref()
    }

    /// The channel, when there is one.
    pub fn channel(&self) -> Option<&Verified<Channel>> {
        self.channel.as_ref()
    }

    /// The site, when it is known.
    pub fn id(&self) -> Option<SiteId> {
        self.channel.as_ref().map(|c| c.site)
    }

    /// Orders and what became of them.
    pub fn book(&self) -> &OrderBook {
        &self.book
    }

    /// Which machines the site knows, when this program may know it.
    pub fn roster(&self) -> Option<&Verified<Roster>> {
        self.roster.as_ref()
    }

    /// Which machine an agent runs on; nothing of one that says nothing of itself.
    pub fn recognise(
        &self,
        facts: &MachineFacts,
        tpm: Option<&TpmKey>,
        agent: &PublicKey,
    ) -> Option<Recognised> {
        recognise(facts, tpm, agent, self.roster.as_deref())
    }

    /// The site's PIN, and whether a try of it is looked at.
    pub fn pin_gate(&self) -> (PinGate, Option<&PinRule>) {
        let rule = self.roster.as_ref().and_then(|r| r.pin.as_ref());
        (self.pin.gate(self.opened.elapsed(), rule), rule)
    }

    /// This node saw a try of the PIN of this number.
    pub(crate) fn pin_tried(&mut self, me: PublicKey, number: u64, is_right: bool) {
        self.pin.handle_try(me, number, is_right);
        self.keep_tally();
    }

    /// What another node saw of the PIN. Returns whether that is news.
    pub(crate) fn pin_heard(&mut self, tally: &PinTally) -> bool {
        let is_news = self.pin.handle_tally(tally);
        if is_news {
            self.keep_tally();
        }
        is_news
    }

    /// What is known of the PIN, to be told.
    pub(crate) fn pin_tally(&self) -> &PinTally {
        self.pin.tally()
    }

    fn keep_tally(&self) {
        let mut out = Writer::new();
        self.pin.tally().encode(&mut out);
        self.persist("pin-tally", &out.finish());
    }

    /// An order as it was signed.
    pub fn order(&self, number: u64) -> Option<&Verified<Order>> {
        self.orders.get(&number)
    }

    /// A completion as it was signed.
    pub fn completion(&self, machine: &MachineId, order: u64) -> Option<Vec<u8>> {
        self.completions.get(&(*machine, order)).cloned()
    }

    /// The channel's image and boot bundle, and the images of all orders.
    pub fn assigned(&self) -> Vec<Digest> {
        let of_channel = self
            .channel
            .iter()
            .flat_map(|c| [c.image, c.bundle])
            .flatten();
        let mut digests: Vec<Digest> = of_channel
            .chain(self.orders.values().map(|o| o.image))
            .collect();
        digests.sort_unstable();
        digests.dedup();
        digests
    }

    /// Roots and channel: what anybody may see.
    pub fn public_documents(&self) -> Documents {
        let newest = self.keys.iter().map(|k| k.root().as_bytes().to_vec());
        Documents {
            roots: self.older_roots.values().cloned().chain(newest).collect(),
            channel: self.channel.as_ref().map(|c| c.as_bytes().to_vec()),
            ..Documents::default()
        }
    }

    /// What an agent with a ticket may see as well: what the node that it puts on the disk needs to light the next machine.
    pub fn agents_documents(&self) -> Documents {
        Documents {
            roster: self.roster.as_ref().map(|r| r.as_bytes().to_vec()),
            orders: self
                .orders
                .values()
                .map(|o| o.as_bytes().to_vec())
                .collect(),
            ..self.public_documents()
        }
    }

    /// Everything: what certified nodes of the site tell each other.
    pub fn all_documents(&self) -> Documents {
        Documents {
            completions: self.completions.values().cloned().collect(),
            ..self.agents_documents()
        }
    }

    /// Takes what is true and new.
    pub fn learn(&mut self, documents: &Documents) -> Learned {
        let mut learned = Learned::default();
        self.learn_roots(&documents.roots, &mut learned);
        if let Some(channel) = &documents.channel {
            self.learn_channel(channel, &mut learned);
        }
        if let Some(roster) = &documents.roster {
            self.learn_roster(roster, &mut learned);
        }
        for order in &documents.orders {
            self.learn_order(order, &mut learned);
        }
        for completion in &documents.completions {
            self.learn_completion(completion, &mut learned);
        }
        learned
    }

    fn learn_channel(&mut self, bytes: &[u8], learned: &mut Learned) {
        let Some(keys) = &self.keys else { return };
        if self.channel.as_ref().is_some_and(|c| c.as_bytes() == bytes) {
            return;
        }
        let channel: Verified<Channel> = match Verified::check(bytes, keys) {
            Ok(channel) => channel,
            Err(error) => return learned.refused.push(error.to_string()),
        };
        if let Some(known) = &self.channel {
            if channel.site != known.site {
                let words = format!("channel of site {} in site {}", channel.site, known.site);
                return learned.refused.push(words);
            }
            if channel.number < known.number {
                let words = format!(
                    "channel {} is older than channel {}",
                    channel.number, known.number
                );
                return learned.refused.push(words);
            }
            if channel.number == known.number {
                return;
            }
        }
        self.persist("channel", bytes);
        self.channel = Some(channel);
        self.drop_revoked_vouched();
        learned.channel = true;
        learned.fresh.channel = Some(bytes.to_vec());
    }

    fn learn_roster(&mut self, bytes: &[u8], learned: &mut Learned) {
        let Some(keys) = &self.keys else { return };
        if self.roster.as_ref().is_some_and(|r| r.as_bytes() == bytes) {
            return;
        }
        let roster: Verified<Roster> = match Verified::check(bytes, keys) {
            Ok(roster) => roster,
            Err(error) => return learned.refused.push(error.to_string()),
        };
        // without a channel it is not known yet which site this is
        let Some(site) = self.id() else { return };
        if roster.site != site {
            let words = format!("roster of site {} in site {site}", roster.site);
            return learned.refused.push(words);
        }
        if let Some(known) = &self.roster {
            if roster.number < known.number {
                let (new, known) = (roster.number, known.number);
                let words = format!("roster {new} is older than roster {known}");
                return learned.refused.push(words);
            }
            if roster.number == known.number {
                return;
            }
        }
        self.pin
            .handle_rule(self.opened.elapsed(), roster.pin.as_ref());
        self.persist("roster", bytes);
        self.roster = Some(roster);
        learned.roster = true;
        learned.fresh.roster = Some(bytes.to_vec());
    }

    fn learn_order(&mut self, bytes: &[u8], learned: &mut Learned) {
        let Some(keys) = &self.keys else { return };
        // known ones cost no signature, unless another key signed what is said again
        let known = peek::<Order>(bytes)
            .ok()
            .and_then(|o| self.orders.get(&o.number));
        let holds = |known: &Verified<Order>| {
            known.as_bytes() == bytes || Verified::<Order>::check(known.as_bytes(), keys).is_ok()
        };
        if known.is_some_and(holds) {
            return;
        }
        match Verified::<Order>::check(bytes, keys) {
            Err(error) => learned.refused.push(error.to_string()),
            Ok(order) if self.id().is_some_and(|site| site != order.site) => {
                learned
                    .refused
                    .push(format!("order {} of site {}", order.number, order.site));
            }
            // a number is given once: this is the order that is known, or none
            Ok(order)
                if self
                    .orders
                    .get(&order.number)
                    .is_some_and(|known| known.digest() != order.digest()) => {}
            Ok(order) => {
                let number = order.number;
                let is_full = self.orders.len() >= peer_cache_proto::admission::ORDERS_MAX;
                if is_full
                    && self
                        .orders
                        .keys()
                        .next()
                        .is_some_and(|oldest| number < *oldest)
                {
                    // it would be forgotten at once, and be news again at the next telling
                    return;
                }
                self.book.add_order((*order).clone());
                self.persist(&format!("orders/{number}"), bytes);
                self.orders.insert(number, order);
                while self.orders.len() > peer_cache_proto::admission::ORDERS_MAX {
                    if let Some((old, _)) = self.orders.pop_first() {
                        self.unpersist(&format!("orders/{old}"));
                    }
                }
                learned.orders.push(number);
                learned.fresh.orders.push(bytes.to_vec());
            }
        }
    }

    fn learn_completion(&mut self, bytes: &[u8], learned: &mut Learned) {
        let (Some(site), Some(keys)) = (self.id(), &self.keys) else {
            return;
        };
        let is_known = |c: Completion| self.completions.contains_key(&(c.machine, c.order));
        if peek::<Completion>(bytes).is_ok_and(is_known) {
            return;
        }
        match check_completion(bytes, keys, site) {
            Err(error) => learned.refused.push(error.to_string()),
            Ok(completion) => {
                let key = (completion.machine, completion.order);
                if self.completions.len() >= COMPLETIONS_MAX {
                    return;
                }
                self.book.complete(completion.machine, completion.order);
                self.persist(&format!("completions/{}-{}", key.0, key.1), bytes);
                self.completions.insert(key, bytes.to_vec());
                learned.completions.push(key);
                learned.fresh.completions.push(bytes.to_vec());
            }
        }
    }

    /// Whether a node may be talked to.
    ///
    /// # Errors
    /// [`CheckNodeError`]; `None` inside when nothing is known yet that it could be checked against.
    pub fn check_node(
        &self,
        connected: &PublicKey,
        certificate: &[u8],
        issuer: Option<&[u8]>,
    ) -> Result<CheckedNode, Option<CheckNodeError>> {
        let (Some(keys), Some(channel)) = (&self.keys, &self.channel) else {
            return Err(None);
        };
        CheckedNode::check(connected, certificate, issuer, keys, channel).map_err(Some)
    }

    /// Believes a manifest that was asked for.
    ///
    /// # Errors
    /// [`AcceptManifestError`].
    pub fn accept_manifest(
        &self,
        asked: &Digest,
        bytes: &[u8],
    ) -> Result<Verified<Manifest>, AcceptManifestError> {
        let keys = self.keys.as_ref().ok_or(AcceptManifestError::NoRoot)?;
        let manifest: Verified<Manifest> = Verified::check(bytes, keys)?;
        if manifest.digest() != *asked {
            return Err(AcceptManifestError::Other {
                asked: *asked,
                got: manifest.digest(),
            });
        }
        let floor = self.channel.as_ref().map_or(0, |c| c.release_floor);
        if manifest.release < floor {
            return Err(AcceptManifestError::BelowFloor {
                digest: *asked,
                release: manifest.release,
                floor,
            });
        }
        Ok(manifest)
    }

    /// Who shares the site's chunks, as it was saved last.
    pub(crate) fn members(&self) -> Option<Vec<u8>> {
        fs::read(self.folder.as_ref()?.join("members")).ok()
    }

    /// Saves it for the next start.
    pub(crate) fn save_members(&self, members: &[u8]) {
        self.persist("members", members);
    }

    fn persist(&self, name: &str, bytes: &[u8]) {
        let Some(folder) = &self.folder else { return };
        if let Err(error) = write_durably(&folder.join(name), bytes) {
            tracing::error!(%error, name, "a document of this site could not be saved");
        }
    }

    fn unpersist(&self, name: &str) {
        let Some(folder) = &self.folder else { return };
        let _ = fs::remove_file(folder.join(name));
    }
}
