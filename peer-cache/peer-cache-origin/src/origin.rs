//! HQ as the peer cache's origin.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
};

use bytes::Bytes;
use image_format::ChunkRecord;
use peer_cache_node::{
    BoxFuture, FetchObjectError, HolderView, Identity, Lease, LeaseError, Origin,
};
use reqwest::{Method, Response, StatusCode};
use rustls::ClientConfig;
use serde::{Serialize, de::DeserializeOwned};
use trust_format::{Digest, HqContact, MachineId, PublicKey};
use web_api::{
    AgentAdmitted, AgentTicket, Certified, CertifyRequest, Hex, LeaseAnswer, LeaseEnd, LeaseHeld,
    LeaseKind, LeaseRequest,
};

use crate::{
    client::{AskHqError, HqClient, Result, tls_config},
    transfer::{Source, Transfers},
    wan::Wan,
};

/// The way to HQ, as the channel names it. Cheap to clone.
#[derive(Clone)]
pub struct HqOrigin {
    shared: Arc<Shared>,
}

struct Shared {
    identity: Identity,
    ways: Mutex<Ways>,
    wan: Wan,
    transfers: Transfers,
    /// Of an agent: the ticket that HQ has to see before it answers, until it has.
    unseen: Mutex<Option<AgentTicket>>,
    showing: tokio::sync::Mutex<()>,
}

/// How HQ is reached, as the channel says.
#[derive(Default)]
struct Ways {
    contact: Option<HqContact>,
    clients: Vec<HqClient>,
    /// For objects: where an answer came from last, under which of HQ's addresses. Names were looked up for it.
    reached: Option<(String, SocketAddr)>,
    tls: Option<Arc<ClientConfig>>,
}

impl HqOrigin {
    /// For a program with this key; [`Self::set_contact`] says where HQ is.
    pub fn new(identity: Identity) -> Self {
        let wan = Wan::new();
        Self {
            shared: Arc::new(Shared {
                identity,
                ways: Mutex::default(),
                transfers: Transfers::new(wan.clone()),
                wan,
                unseen: Mutex::default(),
                showing: tokio::sync::Mutex::default(),
            }),
        }
    }

    /// Listens for news of the site's WAN budget and watches its line, for ever.
    pub async fn watch_the_wan(self) {
        let shared = self.shared.clone();
        let address = || self.ways().reached.as_ref().map(|(_, address)| *address);
        let listen = shared.wan.clone().listen(self.clone());
        tokio::join!(listen, shared.transfers.measure(address));
    }

    fn ways(&self) -> MutexGuard<'_, Ways> {
        let ways = self.shared.ways.lock();
        ways.unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the addresses of a channel.
    pub fn set_contact(&self, contact: HqContact) {
        let mut ways = self.ways();
        if ways.contact.as_ref() == Some(&contact) {
            return;
        }
        let identity = &self.shared.identity;
        let make = |url: &String| match HqClient::for_node(url, contact.fingerprint, identity) {
            Ok(client) => Some(client),
            Err(error) => {
                tracing::warn!(%error, url, "HQ's address");
                None
            }
        };
        ways.clients = contact.urls.iter().filter_map(make).collect();
        ways.tls = match tls_config(contact.fingerprint, Some(identity)) {
            Ok(tls) => Some(Arc::new(tls)),
            Err(error) => {
                tracing::error!(%error, "this node's key is of no use with HQ");
                None
            }
        };
        ways.reached = None;
        ways.contact = Some(contact);
    }

    /// Takes the ticket of an agent. HQ sees it before the next question; a renewed one lives longer.
    pub fn set_ticket(&self, ticket: AgentTicket) {
        *self.unseen() = Some(ticket);
    }

    fn unseen(&self) -> MutexGuard<'_, Option<AgentTicket>> {
        let unseen = self.shared.unseen.lock();
        unseen.unwrap_or_else(PoisonError::into_inner)
    }

    async fn show_ticket(&self) -> Result<()> {
        // what is asked at the same time waits until HQ knows whose question it is
        let _showing = self.shared.showing.lock().await;
        let Some(ticket) = self.unseen().clone() else {
            return Ok(());
        };
        let body = serde_json::to_value(&ticket)?;
        let path = "/agent/admit";
        let answer = self.ask_any(Method::POST, path, Some(&body)).await?;
        let admitted: AgentAdmitted = answer.json().await.map_err(AskHqError::Answer)?;
        let seconds = admitted.seconds;
        tracing::info!(seconds, "HQ lets this agent fetch by its ticket");
        // unless it was renewed meanwhile
        self.unseen().take_if(|t| *t == ticket);
        Ok(())
    }

    /// HQ's addresses, the one that worked last first.
    fn clients(&self) -> Vec<HqClient> {
        self.ways().clients.clone()
    }

    fn source(&self) -> Option<Source> {
        let ways = self.ways();
        let (base, address) = ways.reached.clone()?;
        let tls = ways.tls.clone()?;
        Some(Source { base, address, tls })
    }

    fn prefer(&self, base: &str, address: Option<SocketAddr>) {
        let mut ways = self.ways();
        ways.clients.sort_by_key(|c| c.base() != base);
        ways.reached = address.map(|a| (base.to_owned(), a));
    }

    /// Asks HQ, which knows an agent by its ticket.
    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&serde_json::Value>,
    ) -> Result<Response> {
        self.show_ticket().await?;
        self.ask_any(method, path, body).await
    }

    /// Asks at one address after the other. A refusal is an answer, but for that of an HQ whose database is not there: another may reach it.
    async fn ask_any(
        &self,
        method: Method,
        path: &str,
        body: Option<&serde_json::Value>,
    ) -> Result<Response> {
        let mut failure = AskHqError::NoAddress;
        for client in self.clients() {
            let request = client.request(method.clone(), path);
            let request = match body {
                Some(body) => request.json(body),
                None => request,
            };
            match client.send(request).await {
                Ok(answer) => {
                    self.prefer(client.base(), answer.remote_addr());
                    return Ok(answer);
                }
                Err(error) if error.is_answer() => return Err(error),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// Asks for JSON.
    ///
    /// # Errors
    /// [`AskHqError`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.ask(Method::GET, path, None)
            .await?
            .json()
            .await
            .map_err(AskHqError::Answer)
    }

    /// Sends JSON and takes JSON.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &(impl Serialize + Sync),
    ) -> Result<T> {
        let body = serde_json::to_value(body)?;
        self.ask(Method::POST, path, Some(&body))
            .await?
            .json()
            .await
            .map_err(AskHqError::Answer)
    }
}

fn to_io(error: AskHqError) -> io::Error {
    io::Error::other(in_words(&error))
}

/// An error and its causes, for a line of the log.
pub(crate) fn in_words(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        words = format!("{words}: {error}");
        cause = error.source();
    }
    words
}

/// Held by another, or not to be had now.
fn not_leased(error: AskHqError) -> LeaseError {
    let held = match &error {
        AskHqError::Refused { status, body, .. } if *status == StatusCode::CONFLICT => {
            serde_json::from_slice::<LeaseHeld>(body).ok()
        }
        _ => None,
    };
    match held {
        Some(held) => LeaseError::Held {
            holder: held.holder,
            key: PublicKey(held.key.0),
            finished: held.finished,
        },
        None => LeaseError::Unreachable(to_io(error)),
    }
}

impl Origin for HqOrigin {
    fn manifest(&self, digest: Digest) -> BoxFuture<'_, io::Result<Bytes>> {
        Box::pin(async move {
            let path = format!("/node/manifests/{digest}");
            let answer = self.ask(Method::GET, &path, None).await.map_err(to_io)?;
            answer.bytes().await.map_err(io::Error::other)
        })
    }

    fn may_fetch(&self, manifest: Digest) -> BoxFuture<'_, ()> {
        Box::pin(self.shared.wan.may_fetch(manifest))
    }

    fn lease<'a>(
        &'a self,
        manifest: Digest,
        holders: &'a [HolderView],
    ) -> BoxFuture<'a, Result<Lease, LeaseError>> {
        Box::pin(async move {
            let view = |view: &HolderView| web_api::HolderView {
                key: Hex(view.key.0),
                live: view.live,
            };
            let request = LeaseRequest {
                manifest: Hex(manifest.0),
                holders: holders.iter().map(view).collect(),
            };
            let answer: Result<LeaseAnswer> = self.post("/node/leases", &request).await;
            answer.map_or_else(
                |error| Err(not_leased(error)),
                |lease| {
                    Ok(Lease {
                        manifest,
                        token: lease.token,
                        fence: lease.fence,
                        island: lease.kind == LeaseKind::Island,
                    })
                },
            )
        })
    }

    fn end_lease<'a>(&'a self, lease: &'a Lease, finished: bool) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let end = LeaseEnd {
                token: lease.token.clone(),
                finished,
            };
            let end = serde_json::to_value(end).unwrap_or_default();
            if let Err(error) = self.ask(Method::POST, "/node/leases/end", Some(&end)).await {
                // it is over in a few seconds anyway
                tracing::debug!(error = in_words(&error), "HQ heard of no lease's end");
            }
        })
    }

    fn object<'a>(
        &'a self,
        lease: &'a Lease,
        record: &'a ChunkRecord,
        so_far: &'a mut Vec<u8>,
        received: &'a AtomicU64,
    ) -> BoxFuture<'a, Result<(), FetchObjectError>> {
        Box::pin(async move {
            let nowhere = || FetchObjectError::Broken(io::ErrorKind::NotConnected.into());
            let source = self.source().ok_or_else(nowhere)?;
            let transfers = &self.shared.transfers;
            transfers
                .object(&source, lease, record, so_far, received)
                .await
        })
    }

    fn certify(
        &self,
        node: PublicKey,
        machine: MachineId,
        order: u64,
    ) -> BoxFuture<'_, Option<Vec<u8>>> {
        Box::pin(async move {
            let request = CertifyRequest {
                node: Hex(node.0),
                machine: Hex(machine.0),
                order,
            };
            let answer: Result<Certified> = self.post("/node/certify", &request).await;
            match answer {
                Ok(certified) => Some(certified.certificate.0),
                Err(error) => {
                    tracing::info!(error = in_words(&error), "HQ does not certify now");
                    None
                }
            }
        })
    }
}
