//! From a root to the keys, from the keys to a node, from a node to an agent.

use std::sync::Arc;

use thiserror::Error;

use crate::{
    document::{SignerRole, Verified, VerifyDocumentError, decode_unverified, peek},
    documents::{Channel, Completion, Grade, NodeCertificate, Root, SiteId, Ticket},
    keys::PublicKey,
};

/// The keys that a verified root names. There is no other way to get them.
#[derive(Debug, Clone)]
pub struct TrustedKeys {
    root: Arc<Verified<Root>>,
}

/// Why a root is not taken.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TrustRootError {
    /// The bytes are no root.
    #[error(transparent)]
    Document(#[from] VerifyDocumentError),
    /// Too few of the keys that must sign did.
    #[error("root {number} carries {found} of the {needed} signatures it needs by {whose} keys")]
    TooFewSignatures {
        /// The root's number.
        number: u64,
        /// Which root's keys.
        whose: &'static str,
        /// Valid ones.
        found: usize,
        /// How many it takes.
        needed: usize,
    },
    /// It is older than the one already trusted.
    #[error("root {offered} is older than root {trusted}, which is already trusted")]
    Older {
        /// The number offered.
        offered: u64,
        /// The number trusted.
        trusted: u64,
    },
}

fn signed_by_threshold(
    signers: &[PublicKey],
    of: &Root,
    number: u64,
    whose: &'static str,
) -> Result<(), TrustRootError> {
    let found = signers.iter().filter(|k| of.root_keys.contains(k)).count();
    let needed = usize::from(of.threshold);
    if found < needed {
        return Err(TrustRootError::TooFewSignatures {
            number,
            whose,
            found,
            needed,
        });
    }
    Ok(())
}

impl TrustedKeys {
    /// Trusts a root that came by a trusted way: HQ's own folder, boot media, or an enrolment over pinned TLS.
    /// It must still carry its own keys' signatures.
    ///
    /// # Errors
    /// [`TrustRootError`].
    pub fn pin(root_bytes: &[u8]) -> Result<Self, TrustRootError> {
        let (envelope, root) = decode_unverified::<Root>(root_bytes)?;
        signed_by_threshold(&envelope.true_signers(), &root, root.number, "its own")?;
        Ok(Self {
            root: Arc::new(Verified::believe(envelope, root, root_bytes)),
        })
    }

    /// Goes on to a newer root that the keys of both sign. The same root again changes nothing.
    ///
    /// # Errors
    /// [`TrustRootError::Older`] for a lower number, also when it is validly signed.
    pub fn advance(&self, root_bytes: &[u8]) -> Result<Self, TrustRootError> {
        let (envelope, root) = decode_unverified::<Root>(root_bytes)?;
        if root_bytes == self.root.as_bytes() {
            return Ok(self.clone());
        }
        let signers = envelope.true_signers();
        signed_by_threshold(&signers, &root, root.number, "its own")?;
        signed_by_threshold(&signers, &self.root, root.number, "the trusted root's")?;
        if root.number <= self.root.number {
            return Err(TrustRootError::Older {
                offered: root.number,
                trusted: self.root.number,
            });
        }
        Ok(Self {
            root: Arc::new(Verified::believe(envelope, root, root_bytes)),
        })
    }

    /// Whether `older` is a root before this one: it holds by its own keys, and its keys signed this one. Who trusts it can go
    /// on from it to this one.
    pub fn follows(&self, older: &[u8]) -> bool {
        let is_led_on = |keys: Self| {
            keys.root.number < self.root.number && keys.advance(self.root.as_bytes()).is_ok()
        };
        Self::pin(older).is_ok_and(is_led_on)
    }

    /// The root they come from.
    pub fn root(&self) -> &Verified<Root> {
        &self.root
    }

    /// The keys that sign for a role; none for [`SignerRole::Peer`].
    pub fn of_role(&self, role: SignerRole) -> &[PublicKey] {
        match role {
            SignerRole::Root => &self.root.root_keys,
            SignerRole::Image => &self.root.image_keys,
            SignerRole::Order => &self.root.order_keys,
            SignerRole::Authority => &self.root.authority_keys,
            SignerRole::Peer => &[],
        }
    }
}

/// A node whose certificate holds, together with the chain that proves it to others.
#[derive(Debug, Clone)]
pub struct CheckedNode {
    certificate: Verified<NodeCertificate>,
    issuer: Option<Verified<NodeCertificate>>,
}

/// Why a node is not believed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CheckNodeError {
    /// No certificate, or a forged one.
    #[error(transparent)]
    Document(#[from] VerifyDocumentError),
    /// The certificate is another key's.
    #[error("the certificate belongs to peer {certified}, the connection to peer {connected}")]
    OtherKey {
        /// In the certificate.
        certified: String,
        /// On the connection.
        connected: String,
    },
    /// The certificate is another site's.
    #[error("the certificate is for site {certified}, this is site {here}")]
    OtherSite {
        /// In the certificate.
        certified: SiteId,
        /// Ours.
        here: SiteId,
    },
    /// HQ revoked the node or the one that certified it.
    #[error("peer {0} is revoked")]
    Revoked(String),
    /// A provisional certificate without its issuer's, or more than one step deep.
    #[error("the provisional certificate of peer {0} comes without a certified issuer")]
    NoIssuer(String),
    /// The site's rule forbids provisional certificates.
    #[error("peer {0} has a provisional certificate, which this site does not allow")]
    ProvisionalForbidden(String),
    /// Under a voucher that is for another order.
    #[error("voucher {voucher} is for order {allowed}, not for order {order}")]
    OtherOrder {
        /// The voucher.
        voucher: String,
        /// The order that it is for.
        allowed: u64,
        /// The order named.
        order: u64,
    },
}

impl CheckedNode {
    /// Believes a node: `certificate` is signed by the chain's authority, or by the node of `issuer`'s certificate,
    /// which is; both for this site and neither revoked.
    ///
    /// # Errors
    /// [`CheckNodeError`], naming the peer.
    pub fn check(
        connected: &PublicKey,
        certificate: &[u8],
        issuer: Option<&[u8]>,
        keys: &TrustedKeys,
        channel: &Channel,
    ) -> Result<Self, CheckNodeError> {
        let node = Self::check_signatures(connected, certificate, issuer, keys, channel.site)?;
        let short = || node.certificate.node.short();
        if node.issuer.is_some() && !channel.provisional {
            return Err(CheckNodeError::ProvisionalForbidden(short()));
        }
        if let Some(revoked) = node.keys().find(|key| channel.revoked.contains(key)) {
            return Err(CheckNodeError::Revoked(revoked.short()));
        }
        Ok(node)
    }

    /// Whether a node was certified for the site, whatever has become of it since.
    fn check_signatures(
        connected: &PublicKey,
        certificate: &[u8],
        issuer: Option<&[u8]>,
        keys: &TrustedKeys,
        site: SiteId,
    ) -> Result<Self, CheckNodeError> {
        let (_, unverified) = decode_unverified::<NodeCertificate>(certificate)?;
        let node = match &unverified.grade {
            Grade::Certified | Grade::Voucher { .. } => Self {
                certificate: Verified::check(certificate, keys)?,
                issuer: None,
            },
            Grade::Provisional { issuer: key, order } => {
                let no_issuer = || CheckNodeError::NoIssuer(unverified.node.short());
                let issuer: Verified<NodeCertificate> =
                    Verified::check(issuer.ok_or_else(no_issuer)?, keys)?;
                if issuer.node != *key || matches!(issuer.grade, Grade::Provisional { .. }) {
                    return Err(no_issuer());
                }
                is_for_order(&issuer, *order)?;
                Self {
                    certificate: Verified::check_by(certificate, key)?,
                    issuer: Some(issuer),
                }
            }
        };
        let documents = [Some(&node.certificate), node.issuer.as_ref()];
        if let Some(other) = documents.into_iter().flatten().find(|d| d.site != site) {
            return Err(CheckNodeError::OtherSite {
                certified: other.site,
                here: site,
            });
        }
        if node.certificate.node != *connected {
            return Err(CheckNodeError::OtherKey {
                certified: node.certificate.node.short(),
                connected: connected.short(),
            });
        }
        Ok(node)
    }

    /// Its own key, and its issuer's when it is provisional: a node is revoked with either.
    pub fn keys(&self) -> impl Iterator<Item = PublicKey> {
        let issuer = self.issuer.as_ref().map(|issuer| issuer.node);
        [Some(self.certificate.node), issuer].into_iter().flatten()
    }

    /// Its certificate.
    pub fn certificate(&self) -> &Verified<NodeCertificate> {
        &self.certificate
    }

    /// Its issuer's certificate, when it is provisional.
    pub fn issuer(&self) -> Option<&Verified<NodeCertificate>> {
        self.issuer.as_ref()
    }

    /// Whether it may certify the nodes of machines that it admitted.
    pub fn may_certify(&self) -> bool {
        self.issuer.is_none()
    }

    /// The voucher that it is, or that certified it: its machines count.
    pub fn voucher(&self) -> Option<Voucher> {
        let of = |certificate: &Verified<NodeCertificate>| Voucher::of(certificate);
        of(&self.certificate).or_else(|| self.issuer.as_ref().and_then(of))
    }
}

/// A voucher by its key, and what it allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Voucher {
    /// Its key.
    pub key: PublicKey,
    /// So many machines.
    pub machines: u16,
    /// Under this order only, if there is one.
    pub order: Option<u64>,
}

impl Voucher {
    /// What a certificate says, if it is a voucher's.
    pub fn of(certificate: &NodeCertificate) -> Option<Self> {
        match certificate.grade {
            Grade::Voucher { machines, order } => Some(Self {
                key: certificate.node,
                machines,
                order,
            }),
            Grade::Certified | Grade::Provisional { .. } => None,
        }
    }

    /// The voucher that a node's right is, or comes from, by its certificate and its issuer's. The caller has believed both.
    pub fn behind(certificate: &[u8], issuer: Option<&[u8]>) -> Option<Self> {
        let certificate = peek::<NodeCertificate>(issuer.unwrap_or(certificate)).ok()?;
        Self::of(&certificate)
    }
}

/// Refuses what a voucher signed under another order than its own.
fn is_for_order(signer: &NodeCertificate, order: u64) -> Result<(), CheckNodeError> {
    match Voucher::of(signer).and_then(|voucher| voucher.order) {
        Some(allowed) if allowed != order => Err(CheckNodeError::OtherOrder {
            voucher: signer.node.short(),
            allowed,
            order,
        }),
        _ => Ok(()),
    }
}

/// Believes an agent's ticket: signed by `issuer`, for this agent and this site. Whether its life is over is for the
/// clock of the caller to say.
///
/// # Errors
/// [`CheckNodeError`], naming the peer.
pub fn check_ticket(
    ticket: &[u8],
    connected: &PublicKey,
    issuer: &CheckedNode,
    site: SiteId,
) -> Result<Verified<Ticket>, CheckNodeError> {
    let ticket: Verified<Ticket> = Verified::check_by(ticket, &issuer.certificate.node)?;
    if ticket.agent != *connected || ticket.issuer != issuer.certificate.node {
        return Err(CheckNodeError::OtherKey {
            certified: ticket.agent.short(),
            connected: connected.short(),
        });
    }
    if ticket.site != site {
        return Err(CheckNodeError::OtherSite {
            certified: ticket.site,
            here: site,
        });
    }
    let vouchers = [Some(&issuer.certificate), issuer.issuer.as_ref()];
    for signer in vouchers.into_iter().flatten() {
        is_for_order(signer, ticket.order)?;
    }
    Ok(ticket)
}

/// Believes a completion: signed by the agent that its ticket names, for the ticket's machine, order and site; the ticket by
/// a node that was certified for the site. A node that was revoked since had the right then: forgetting what it witnessed
/// would have its machines imaged once more.
///
/// # Errors
/// [`CheckNodeError`].
pub fn check_completion(
    bytes: &[u8],
    keys: &TrustedKeys,
    site: SiteId,
) -> Result<Verified<Completion>, CheckNodeError> {
    let claimed: Completion = peek(bytes)?;
    let unverified: Ticket = peek(&claimed.ticket)?;
    let issuer = CheckedNode::check_signatures(
        &unverified.issuer,
        &claimed.issuer,
        claimed.issuers_issuer.as_deref(),
        keys,
        site,
    )?;
    let ticket = check_ticket(&claimed.ticket, &unverified.agent, &issuer, site)?;
    let completion: Verified<Completion> = Verified::check_by(bytes, &ticket.agent)?;
    if completion.machine != ticket.machine || completion.order != ticket.order {
        return Err(CheckNodeError::OtherKey {
            certified: format!("machine {} under order {}", ticket.machine, ticket.order),
            connected: format!(
                "machine {} under order {}",
                completion.machine, completion.order
            ),
        });
    }
    Ok(completion)
}
