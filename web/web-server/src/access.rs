//! Who may call what. Every route says so in one table (`routes/table.rs`), and nothing is served without.

mod admin_token;
mod person;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    extract::{Request, State},
    http::StatusCode,
    middleware::Next,
    response::{IntoResponse, Response},
};
use trust_format::{PublicKey, SiteId};
use web_api::Right;

use crate::{
    Hq,
    database::{agents, unix_seconds},
    door::Place,
    error::Refusal,
    rebuilt,
    tls::{ClientAddress, ClientKey},
};

pub use admin_token::AdminToken;
pub(crate) use person::{By, Gate, SESSION_COOKIE, SESSION_LIFE_SECONDS, person_only, secret_of};

/// How long a stranger waits for a refusal.
const REFUSED_AFTER: Duration = Duration::from_millis(250);

/// What a route needs of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nothing: the page, and the way in.
    Public,
    /// A person whose role has the right.
    Person(Right, Bounds),
    /// A node of a site, by its client certificate.
    Node,
    /// A node of a site, or an agent that showed the ticket of one.
    Fetcher,
    /// A computer that proves a key and shows an enrolment token, a provisional certificate or a ticket in its request.
    Newcomer,
}

/// How far a person's right has to reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bounds {
    /// The sites within the person's scope: what is of others is not known there.
    Sites,
    /// The whole chain: nobody whose scope is smaller.
    Chain,
}

impl std::fmt::Display for Access {
    /// As the table of routes in the documents says it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Public => f.write_str("anybody"),
            Self::Person(right, bounds) => {
                let right = format!("{right:?}").to_lowercase();
                match bounds {
                    Bounds::Sites => f.write_str(&right),
                    Bounds::Chain => write!(f, "{right}, all sites"),
                }
            }
            Self::Node => f.write_str("node"),
            Self::Fetcher => f.write_str("fetcher"),
            Self::Newcomer => f.write_str("newcomer"),
        }
    }
}

/// A node that the database knows and that is not revoked.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) key: PublicKey,
    pub(crate) site: SiteId,
    /// Another has its place.
    pub(crate) is_replaced: bool,
}

/// A node calls, whatever it asks.
async fn heard(hq: &Hq, node: &Node, address: Option<SocketAddr>) -> Result<(), Refusal> {
    match node.is_replaced {
        true => rebuilt::heard(hq, node, address).await,
        false => Ok(()),
    }
}

fn client_address(request: &Request) -> Option<SocketAddr> {
    request.extensions().get::<ClientAddress>().map(|a| a.0)
}

pub(crate) async fn node_only(
    State(hq): State<Arc<Hq>>,
    mut request: Request,
    next: Next,
) -> Response {
    let refuse = |status, words: &str| Refusal::new(status, words).into_response();
    let Some(key) = client_key(&request) else {
        return refuse(
            StatusCode::UNAUTHORIZED,
            "this needs a node's client certificate",
        );
    };
    match Box::pin(hq.database.node(&key)).await {
        Ok(Some((node, false))) => {
            let_through(&request);
            if let Err(refusal) = Box::pin(heard(&hq, &node, client_address(&request))).await {
                return refusal.into_response();
            }
            request.extensions_mut().insert(node);
            next.run(request).await
        }
        Ok(Some((_, true))) => refuse(StatusCode::FORBIDDEN, "this node is revoked"),
        Ok(None) => refuse(StatusCode::FORBIDDEN, "this key is no node of this HQ"),
        Err(error) => Refusal::from(error).into_response(),
    }
}

/// Whoever may fetch for a site: a node, or an agent whose ticket holds.
#[derive(Debug, Clone)]
pub(crate) struct Fetcher {
    pub(crate) key: PublicKey,
    pub(crate) site: SiteId,
    pub(crate) is_agent: bool,
}

pub(crate) async fn fetcher_only(
    State(hq): State<Arc<Hq>>,
    mut request: Request,
    next: Next,
) -> Response {
    let Some(key) = client_key(&request) else {
        return Refusal::new(
            StatusCode::UNAUTHORIZED,
            "this needs the client certificate of a node or of an admitted agent",
        )
        .into_response();
    };
    match fetcher(&hq, key, client_address(&request)).await {
        Ok(fetcher) => {
            let_through(&request);
            request.extensions_mut().insert(fetcher);
            next.run(request).await
        }
        Err(refusal) => refusal.into_response(),
    }
}

async fn fetcher(hq: &Hq, key: PublicKey, address: Option<SocketAddr>) -> Result<Fetcher, Refusal> {
    let refuse = |words: &str| Err(Refusal::new(StatusCode::FORBIDDEN, words));
    match hq.database.node(&key).await? {
        Some((node, false)) => {
            heard(hq, &node, address).await?;
            return Ok(Fetcher {
                key,
                site: node.site,
                is_agent: false,
            });
        }
        Some((_, true)) => return refuse("this node is revoked"),
        None => {}
    }
    let agent = agents::find(&mut *hq.database.read().await?, &key).await?;
    match agent {
        Some(agent) if agent.until > unix_seconds() => Ok(Fetcher {
            key,
            site: agent.site,
            is_agent: true,
        }),
        Some(_) => refuse("this agent's ticket is over: a node has to renew it"),
        None => refuse("this key is no node of this HQ, and no agent that a node of it admitted"),
    }
}

pub(crate) async fn newcomer_only(mut request: Request, next: Next) -> Response {
    match client_key(&request) {
        Some(key) => {
            request.extensions_mut().insert(key);
            next.run(request).await
        }
        None => Refusal::new(
            StatusCode::UNAUTHORIZED,
            "this needs a client certificate with an Ed25519 key",
        )
        .into_response(),
    }
}

/// The connection is no stranger's from now on.
fn let_through(request: &Request) {
    if let Some(place) = request.extensions().get::<Arc<Place>>() {
        place.admit();
    }
}

/// Strangers are refused slowly: each has few connections, and asks again when it was answered.
pub(crate) async fn strangers_wait(request: Request, next: Next) -> Response {
    let place = request.extensions().get::<Arc<Place>>().cloned();
    let response = next.run(request).await;
    if !response.status().is_success() && place.is_some_and(|place| place.is_strangers()) {
        tokio::time::sleep(REFUSED_AFTER).await;
    }
    response
}

fn client_key(request: &Request) -> Option<PublicKey> {
    request.extensions().get::<ClientKey>().and_then(|k| k.0)
}
