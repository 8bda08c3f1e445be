//! HQ as the peer cache's origin.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result};
use bytes::Bytes;
use futures_util::StreamExt;
use image_format::ChunkRecord;
use peer_cache_node::{BoxFuture, Identity, Lease, LeaseError, Origin};
use reqwest::{Method, Response, StatusCode, header};
use serde::{Serialize, de::DeserializeOwned};
use trust_format::{Digest, HqContact, MachineId, PublicKey};
use web_api::{Certified, CertifyRequest, Hex, LEASE_HEADER, LeaseAnswer, LeaseHeld, LeaseRequest};

use crate::client::{HqClient, Refused};

/// The way to HQ, as the channel names it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct HqOrigin {
    shared: Arc<Shared>,
}

struct Shared {
    identity: Identity,
    clients: Mutex<(Option<HqContact>, Vec<HqClient>)>,
}

impl HqOrigin {
    pub(crate) fn new(identity: Identity) -> Self {
        Self {
            shared: Arc::new(Shared {
                identity,
                clients: Mutex::default(),
            }),
        }
    }

    /// Takes the addresses of a channel.
    pub(crate) fn set_contact(&self, contact: HqContact) {
        let mut clients = self
            .shared
            .clients
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if clients.0.as_ref() == Some(&contact) {
            return;
        }
        let make = |url: &String| match HqClient::for_node(
            url,
            contact.fingerprint,
            &self.shared.identity,
        ) {
            Ok(client) => Some(client),
            Err(error) => {
                tracing::warn!(%error, url, "HQ's address");
                None
            }
        };
        clients.1 = contact.urls.iter().filter_map(make).collect();
        clients.0 = Some(contact);
    }

    /// HQ's addresses, the one that worked last first.
    fn clients(&self) -> Vec<HqClient> {
        self.shared
            .clients
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .1
            .clone()
    }

    fn prefer(&self, base: &str) {
        let mut clients = self
            .shared
            .clients
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        clients.1.sort_by_key(|c| c.base() != base);
    }

    /// Asks HQ at one address after the other; a refusal is an answer.
    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&serde_json::Value>,
    ) -> Result<Response> {
        let mut failure = anyhow::anyhow!("no address of HQ is known");
        for client in self.clients() {
            let request = client.request(method.clone(), path);
            let request = match body {
                Some(body) => request.json(body),
                None => request,
            };
            match client.send(request).await {
                Ok(answer) => {
                    self.prefer(client.base());
                    return Ok(answer);
                }
                Err(error) if error.downcast_ref::<Refused>().is_some() => return Err(error),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.ask(Method::GET, path, None)
            .await?
            .json()
            .await
            .context("HQ's answer")
    }

    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &(impl Serialize + Sync),
    ) -> Result<T> {
        let body = serde_json::to_value(body)?;
        self.ask(Method::POST, path, Some(&body))
            .await?
            .json()
            .await
            .context("HQ's answer")
    }
}

fn to_io(error: &anyhow::Error) -> io::Error {
    io::Error::other(format!("{error:#}"))
}

impl Origin for HqOrigin {
    fn manifest(&self, digest: Digest) -> BoxFuture<'_, io::Result<Bytes>> {
        Box::pin(async move {
            let path = format!("/node/manifests/{digest}");
            let answer = self
                .ask(Method::GET, &path, None)
                .await
                .map_err(|e| to_io(&e))?;
            answer.bytes().await.map_err(io::Error::other)
        })
    }

    fn lease(&self, manifest: Digest) -> BoxFuture<'_, Result<Lease, LeaseError>> {
        Box::pin(async move {
            let request = LeaseRequest {
                manifest: Hex(manifest.0),
            };
            let answer: Result<LeaseAnswer> = self.post("/node/leases", &request).await;
            match answer {
                Ok(lease) => Ok(Lease {
                    token: lease.token,
                    fence: lease.fence,
                }),
                Err(error) => {
                    let held = error
                        .downcast_ref::<Refused>()
                        .filter(|r| r.status == StatusCode::CONFLICT)
                        .and_then(|r| serde_json::from_slice::<LeaseHeld>(&r.body).ok());
                    Err(match held {
                        Some(held) => LeaseError::Held {
                            holder: held.holder,
                        },
                        None => LeaseError::Unreachable(to_io(&error)),
                    })
                }
            }
        })
    }

    fn object<'a>(
        &'a self,
        lease: &'a Lease,
        record: &'a ChunkRecord,
        so_far: &'a mut Vec<u8>,
    ) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move {
            let hq = self
                .clients()
                .into_iter()
                .next()
                .ok_or(io::ErrorKind::NotConnected)?;
            let mut request = hq
                .request(
                    Method::GET,
                    &format!("/node/objects/{}", record.object_hash),
                )
                .header(LEASE_HEADER, &lease.token);
            if !so_far.is_empty() {
                request = request.header(header::RANGE, format!("bytes={}-", so_far.len()));
            }
            let response = hq.send(request).await.map_err(|e| to_io(&e))?;
            let resumed = response.status() == StatusCode::PARTIAL_CONTENT;
            if !resumed {
                so_far.clear();
            }
            let mut body = response.bytes_stream();
            while let Some(part) = body.next().await {
                let part = part.map_err(io::Error::other)?;
                // what is longer than the object is no object; the hash would say so too, after more bytes
                if so_far.len() + part.len() > record.object_bytes as usize {
                    return Err(io::Error::other("HQ sent more than the object"));
                }
                so_far.extend_from_slice(&part);
            }
            match so_far.len() == record.object_bytes as usize {
                true => Ok(()),
                false => Err(io::ErrorKind::UnexpectedEof.into()),
            }
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
                    tracing::info!(error = format!("{error:#}"), "HQ does not certify now");
                    None
                }
            }
        })
    }
}
