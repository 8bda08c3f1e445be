//! Who may call what. Every route says so in one table (`routes.rs`), and nothing is served without.

use std::{
    fs,
    io::{self, Write},
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::Arc,
    time::Duration,
};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use data_encoding::{BASE32_NOPAD, BASE64};
use subtle::ConstantTimeEq;
use trust_format::{PublicKey, SiteId};

use crate::{
    Hq,
    database::{agents, unix_seconds},
    door::Place,
    error::Refusal,
    rebuilt,
    tls::{ClientAddress, ClientKey},
};

const TOKEN_BYTES: usize = 20;
/// How long a stranger waits for a refusal.
const REFUSED_AFTER: Duration = Duration::from_millis(250);

/// What a route needs of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// The administrator's token, as bearer or as the password of basic authentication.
    Admin,
    /// A node of a site, by its client certificate.
    Node,
    /// A node of a site, or an agent that showed the ticket of one.
    Fetcher,
    /// A computer that proves a key and shows an enrolment token, a provisional certificate or a ticket in its request.
    Newcomer,
}

/// The administrator's token, stored as a hash in memory and as a file with mode 0600 for the command line.
#[derive(Debug)]
pub struct AdminToken {
    hash: [u8; 32],
}

impl AdminToken {
    /// Opens the token file, or writes a new one. It has three lines: token, address, certificate fingerprint.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn open_or_create(path: &Path, url: &str, fingerprint: &[u8; 32]) -> io::Result<Self> {
        let token = match fs::read_to_string(path) {
            Ok(text) => text.lines().next().unwrap_or_default().to_owned(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let mut bytes = [0; TOKEN_BYTES];
                getrandom::fill(&mut bytes).map_err(|e| io::Error::other(e.to_string()))?;
                BASE32_NOPAD.encode(&bytes).to_lowercase()
            }
            Err(e) => return Err(e),
        };
        if token.len() < TOKEN_BYTES {
            return Err(io::Error::other(
                "the token file holds no token; remove it to get a new one",
            ));
        }
        // rewritten at each start: the address may be another one
        let temporary = path.with_extension("new");
        let mut file = fs::File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        writeln!(file, "{token}\n{url}\n{}", web_api::Hex(*fingerprint))?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        Ok(Self {
            hash: *blake3::hash(token.as_bytes()).as_bytes(),
        })
    }

    fn matches(&self, token: &str) -> bool {
        blake3::hash(token.as_bytes())
            .as_bytes()
            .ct_eq(&self.hash)
            .into()
    }
}

fn shown_token(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    if let Some(token) = value.strip_prefix("Bearer ") {
        return Some(token.trim().to_owned());
    }
    let pair = BASE64
        .decode(value.strip_prefix("Basic ")?.trim().as_bytes())
        .ok()?;
    let pair = String::from_utf8(pair).ok()?;
    Some(pair.split_once(':')?.1.to_owned())
}

/// Browsers add a signed-in person's password to requests that foreign pages make; they also say whose page it is.
fn from_our_own_page(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else {
        return true;
    };
    let host = headers.get(header::HOST).and_then(|h| h.to_str().ok());
    let page = origin
        .to_str()
        .ok()
        .and_then(|o| o.strip_prefix("https://"));
    page.is_some() && page == host
}

pub(crate) async fn admin_only(
    State(hq): State<Arc<Hq>>,
    request: Request,
    next: Next,
) -> Response {
    if !from_our_own_page(request.headers()) {
        return Refusal::new(
            StatusCode::FORBIDDEN,
            "this request was made by another site's page",
        )
        .into_response();
    }
    if shown_token(request.headers()).is_some_and(|token| hq.admin.matches(&token)) {
        let_through(&request);
        return next.run(request).await;
    }
    let refusal = Refusal::new(
        StatusCode::UNAUTHORIZED,
        "this needs the administrator's token: the file admin-token in HQ's folder",
    );
    let mut response = refusal.into_response();
    let challenge = HeaderValue::from_static("Basic realm=\"Lamplighter\", charset=\"UTF-8\"");
    response
        .headers_mut()
        .insert(header::WWW_AUTHENTICATE, challenge);
    response
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
    match hq.database.node(&key).await {
        Ok(Some((node, false))) => {
            let_through(&request);
            if let Err(refusal) = heard(&hq, &node, client_address(&request)).await {
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
