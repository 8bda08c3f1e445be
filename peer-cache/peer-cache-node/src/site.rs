//! What this program believes about its site: keys, channel, orders, completions. Every document is verified on its way
//! in, and what only grows never goes back.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use crate::durable::write_durably;
use image_format::Manifest;
use peer_cache_proto::{admission::OrderBook, wire::Documents};
use thiserror::Error;
use trust_format::{
    Channel, CheckNodeError, CheckedNode, Digest, MachineId, Order, PublicKey, SiteId, TrustedKeys,
    Verified, VerifyDocumentError, check_completion,
};

/// Completions that are kept and passed on.
const COMPLETIONS_MAX: usize = 16_384;

/// The documents of one site, in memory and, for a node, in a folder.
#[derive(Debug)]
pub struct Site {
    keys: Option<TrustedKeys>,
    channel: Option<Verified<Channel>>,
    orders: BTreeMap<u64, Verified<Order>>,
    completions: BTreeMap<(MachineId, u64), Vec<u8>>,
    book: OrderBook,
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
    /// New orders.
    pub orders: Vec<u64>,
    /// New completions.
    pub completions: Vec<(MachineId, u64)>,
    /// What was refused, in words that name the document.
    pub refused: Vec<String>,
}

impl Learned {
    /// Whether there is anything to pass on.
    pub fn is_news(&self) -> bool {
        self.root || self.channel || !self.orders.is_empty() || !self.completions.is_empty()
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
            channel: None,
            orders: BTreeMap::new(),
            completions: BTreeMap::new(),
            book: OrderBook::default(),
            folder: None,
            trust_first_root: false,
        }
    }

    /// A site that believes the first root that it is shown. Whoever uses this tells the user which root that was.
    pub fn trusting_the_first_root() -> Self {
        Self {
            keys: None,
            trust_first_root: true,
            channel: None,
            orders: BTreeMap::new(),
            completions: BTreeMap::new(),
            book: OrderBook::default(),
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
        let documents = Documents {
            root: None,
            channel: fs::read(folder.join("channel")).ok(),
            orders: list("orders")?,
            completions: list("completions")?,
        };
        let learned = site.learn(&documents);
        for refused in learned.refused {
            tracing::warn!(refused, "left out a document of this site");
        }
        site.folder = Some(folder.to_owned());
        Ok(site)
    }

    /// Keeps the documents in a folder from now on.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn save_to(&mut self, folder: &Path) -> io::Result<()> {
        self.folder = Some(folder.to_owned());
        for name in ["orders", "completions"] {
            fs::create_dir_all(folder.join(name))?;
        }
        if let Some(keys) = &self.keys {
            write_durably(&folder.join("root"), keys.root().as_bytes())?;
        }
        if let Some(channel) = &self.channel {
            write_durably(&folder.join("channel"), channel.as_bytes())?;
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

    /// A machine's own disk says that it finished orders.
    pub fn finished_by_its_disk(&mut self, machine: MachineId, orders: &[u64]) {
        for order in orders {
            self.book.complete(machine, *order);
        }
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

    /// Root and channel: what anybody may see.
    pub fn public_documents(&self) -> Documents {
        Documents {
            root: self.keys.as_ref().map(|k| k.root().as_bytes().to_vec()),
            channel: self.channel.as_ref().map(|c| c.as_bytes().to_vec()),
            ..Documents::default()
        }
    }

    /// Everything: what certified nodes of the site tell each other.
    pub fn all_documents(&self) -> Documents {
        let newest = |n: usize| n.saturating_sub(peer_cache_proto::wire::DOCUMENTS_MAX);
        Documents {
            orders: self
                .orders
                .values()
                .skip(newest(self.orders.len()))
                .map(|o| o.as_bytes().to_vec())
                .collect(),
            completions: self
                .completions
                .values()
                .skip(newest(self.completions.len()))
                .cloned()
                .collect(),
            ..self.public_documents()
        }
    }

    /// Takes what is true and new.
    pub fn learn(&mut self, documents: &Documents) -> Learned {
        let mut learned = Learned::default();
        if let Some(root) = &documents.root {
            self.learn_root(root, &mut learned);
        }
        if let Some(channel) = &documents.channel {
            self.learn_channel(channel, &mut learned);
        }
        for order in &documents.orders {
            self.learn_order(order, &mut learned);
        }
        for completion in &documents.completions {
            self.learn_completion(completion, &mut learned);
        }
        learned
    }

    fn learn_root(&mut self, root: &[u8], learned: &mut Learned) {
        let advanced = match &self.keys {
            Some(keys) => keys.advance(root),
            None if self.trust_first_root => TrustedKeys::pin(root),
            None => return,
        };
        match advanced {
            Ok(keys) => {
                let same = self
                    .keys
                    .as_ref()
                    .is_some_and(|k| k.root().digest() == keys.root().digest());
                self.keys = Some(keys);
                if !same {
                    learned.root = true;
                    self.persist("root", root);
                }
            }
            Err(error) => learned.refused.push(error.to_string()),
        }
    }

    fn learn_channel(&mut self, bytes: &[u8], learned: &mut Learned) {
        let Some(keys) = &self.keys else { return };
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
        learned.channel = true;
    }

    fn learn_order(&mut self, bytes: &[u8], learned: &mut Learned) {
        let Some(keys) = &self.keys else { return };
        match Verified::<Order>::check(bytes, keys) {
            Err(error) => learned.refused.push(error.to_string()),
            Ok(order) if self.id().is_some_and(|site| site != order.site) => {
                learned
                    .refused
                    .push(format!("order {} of site {}", order.number, order.site));
            }
            Ok(order) if self.orders.contains_key(&order.number) => {}
            Ok(order) => {
                let number = order.number;
                self.book.add_order((*order).clone());
                self.persist(&format!("orders/{number}"), bytes);
                self.orders.insert(number, order);
                while self.orders.len() > peer_cache_proto::admission::ORDERS_MAX {
                    if let Some((old, _)) = self.orders.pop_first() {
                        self.unpersist(&format!("orders/{old}"));
                    }
                }
                learned.orders.push(number);
            }
        }
    }

    fn learn_completion(&mut self, bytes: &[u8], learned: &mut Learned) {
        let Some(site) = self.id() else { return };
        match check_completion(bytes, site) {
            Err(error) => learned.refused.push(error.to_string()),
            Ok(completion) => {
                let key = (completion.machine, completion.order);
                if self.completions.contains_key(&key) || self.completions.len() >= COMPLETIONS_MAX
                {
                    return;
                }
                self.book.complete(completion.machine, completion.order);
                self.persist(&format!("completions/{}-{}", key.0, key.1), bytes);
                self.completions.insert(key, bytes.to_vec());
                learned.completions.push(key);
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
