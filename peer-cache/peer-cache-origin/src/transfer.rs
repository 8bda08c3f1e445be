//! Objects from HQ within the site's budget: HTTPS over sockets that are read no faster than it allows.
//!
//! Everything else of HQ's API goes through `reqwest`. This does not: the budget holds for bytes as they come to the socket,
//! so the socket's receive buffer is small and each read of it asks for leave.

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use hyper::{
    Request, Response, StatusCode,
    body::{Body, Incoming},
    client::conn::http1::SendRequest,
    header,
};
use hyper_util::rt::TokioIo;
use image_format::ChunkRecord;
use peer_cache_node::{FetchObjectError, Lease};
use peer_cache_proto::budget::{GRANT_MAX, GRANT_MIN};
use reqwest::Url;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpSocket, TcpStream},
    sync::Semaphore,
    task::JoinHandle,
    time::{Sleep, sleep, timeout},
};
use tokio_rustls::TlsConnector;
use web_api::{ApiError, LEASE_HEADER};

use crate::wan::{BUFFERS_PER_SECOND, Wan};

const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// How often the line is measured. A connection costs HQ next to nothing; a request would.
const MEASURE_EVERY: Duration = Duration::from_secs(2);
/// Silence in the middle of an answer.
const READ_WITHIN: Duration = Duration::from_secs(30);
/// Transfers at a time. A thin budget has fewer, because each takes a receive buffer of it.
const TRANSFERS_MAX: u32 = 4;
/// Bytes per second of a budget that one transfer is worth.
const TRANSFER_BYTES_PER_SECOND: u64 = 64 << 10;
const RECEIVE_BUFFER_BYTES_MIN: u32 = 4 << 10;
const RECEIVE_BUFFER_BYTES_MAX: u32 = 1 << 20;
/// A refusal's sentence.
const REFUSAL_BYTES_MAX: usize = 4096;

/// How many transfers a budget has, and the receive buffer of each; `None` leaves that to the kernel.
fn shape(limit: Option<u64>) -> (u32, Option<u32>) {
    let Some(limit) = limit else {
        return (TRANSFERS_MAX, None);
    };
    let worth = u32::try_from(limit / TRANSFER_BYTES_PER_SECOND).unwrap_or(TRANSFERS_MAX);
    // a power of two, so that permits come out even
    let transfers = match worth {
        0..2 => 1,
        2..4 => 2,
        _ => TRANSFERS_MAX,
    };
    let each = limit / BUFFERS_PER_SECOND / u64::from(transfers);
    let each = u32::try_from(each).unwrap_or(RECEIVE_BUFFER_BYTES_MAX);
    let buffer = each.clamp(RECEIVE_BUFFER_BYTES_MIN, RECEIVE_BUFFER_BYTES_MAX);
    (transfers, Some(buffer))
}

/// Where objects come from: HQ's address as the channel names it, and where that is.
#[derive(Clone)]
pub(crate) struct Source {
    pub(crate) base: String,
    pub(crate) address: SocketAddr,
    pub(crate) tls: Arc<ClientConfig>,
}

/// All transfers of a node.
pub(crate) struct Transfers {
    wan: Wan,
    slots: Semaphore,
    idle: Mutex<Vec<Line>>,
}

/// A connection to HQ. Dropped, it is closed at once.
struct Line {
    base: String,
    limit: Option<u64>,
    requests: SendRequest<String>,
    /// An answer's head is waited for: it is short, and read without leave.
    head: Arc<AtomicBool>,
    driver: JoinHandle<()>,
}

impl Drop for Line {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

fn broken(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> FetchObjectError {
    FetchObjectError::Broken(io::Error::other(error))
}

impl Transfers {
    pub(crate) fn new(wan: Wan) -> Self {
        Self {
            wan,
            slots: Semaphore::new(TRANSFERS_MAX as usize),
            idle: Mutex::default(),
        }
    }

    /// Appends the rest of an object. Ends early when the site's budget says so.
    ///
    /// # Errors
    /// [`FetchObjectError`].
    pub(crate) async fn object(
        &self,
        source: &Source,
        lease: &Lease,
        record: &ChunkRecord,
        so_far: &mut Vec<u8>,
        received: &AtomicU64,
    ) -> Result<(), FetchObjectError> {
        let _wanted = self.wan.want();
        let (transfers, _) = shape(self.wan.socket_limit());
        let slots = self.slots.acquire_many(TRANSFERS_MAX / transfers);
        let _slot = slots.await.map_err(broken)?;
        // it may be another one when a slot is free
        let (began_under, limit) = (self.wan.limit(), self.wan.socket_limit());
        tokio::select! {
            biased;
            () = self.wan.halted(lease.manifest, began_under) => Err(FetchObjectError::Halted),
            result = self.take(source, limit, lease, record, so_far, received) => result,
        }
    }

    async fn take(
        &self,
        source: &Source,
        limit: Option<u64>,
        lease: &Lease,
        record: &ChunkRecord,
        so_far: &mut Vec<u8>,
        received: &AtomicU64,
    ) -> Result<(), FetchObjectError> {
        let (line, response) = loop {
            let idle = self.idle_line(source, limit);
            let reused = idle.is_some();
            let mut line = match idle {
                Some(line) => line,
                None => connect(&self.wan, source, limit).await.map_err(broken)?,
            };
            match self.ask(&mut line, lease, record, so_far.len()).await {
                Ok(response) => break (line, response),
                // HQ closes what is idle for long
                Err(error) if reused => tracing::debug!(%error, "an idle connection to HQ ended"),
                Err(error) => return Err(broken(error)),
            }
        };
        if !response.status().is_success() {
            return Err(refusal(response).await);
        }
        if response.status() != StatusCode::PARTIAL_CONTENT {
            so_far.clear();
        }
        let mut body = response.into_body();
        while let Some(part) = next_part(&mut body).await? {
            received.fetch_add(part.len() as u64, Ordering::Relaxed);
            // what is longer than the object is no object; the hash would say so too, after more bytes
            if so_far.len() + part.len() > record.object_bytes as usize {
                return Err(broken("HQ sent more than the object"));
            }
            so_far.extend_from_slice(&part);
        }
        if so_far.len() < record.object_bytes as usize {
            return Err(FetchObjectError::Broken(
                io::ErrorKind::UnexpectedEof.into(),
            ));
        }
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.push(line);
        idle.truncate(TRANSFERS_MAX as usize);
        Ok(())
    }

    /// Measures the line while something is under way, for ever: how long a connection takes to stand. That is the kernels'
    /// own affair, so neither HQ's load nor our own slow reading is in it.
    pub(crate) async fn measure(&self, address: impl Fn() -> Option<SocketAddr>) {
        loop {
            sleep(MEASURE_EVERY).await;
            let is_busy = self.slots.available_permits() < TRANSFERS_MAX as usize;
            if let Some(address) = address().filter(|_| is_busy) {
                let asked = Instant::now();
                // one that does not come is a very slow one
                let _ = timeout(CONNECT_WITHIN, TcpStream::connect(address)).await;
                self.wan.round_trip(asked.elapsed());
            }
        }
    }

    fn idle_line(&self, source: &Source, limit: Option<u64>) -> Option<Line> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        // a socket that was made for another budget has another buffer
        idle.retain(|l| !l.requests.is_closed() && l.base == source.base && l.limit == limit);
        idle.pop()
    }

    async fn ask(
        &self,
        line: &mut Line,
        lease: &Lease,
        record: &ChunkRecord,
        first_byte: usize,
    ) -> Result<Response<Incoming>, hyper::Error> {
        let url = Url::parse(&line.base).ok();
        let host = url.as_ref().map_or("", |u| u.authority());
        let prefix = url.as_ref().map_or("", |u| u.path().trim_end_matches('/'));
        let mut request = Request::new(String::new());
        let path = format!("{prefix}/api/v1/node/objects/{}", record.object_hash);
        if let Ok(path) = path.parse() {
            *request.uri_mut() = path;
        }
        let range = (first_byte > 0).then(|| format!("bytes={first_byte}-"));
        let headers = [
            (header::HOST, Some(host.to_owned())),
            (header::RANGE, range),
            (
                header::HeaderName::from_static(LEASE_HEADER),
                Some(lease.token.clone()),
            ),
        ];
        for (name, value) in headers {
            if let Some(value) = value.and_then(|v| v.try_into().ok()) {
                request.headers_mut().insert(name, value);
            }
        }
        line.requests.ready().await?;
        line.head.store(true, Ordering::Relaxed);
        let answer = line.requests.send_request(request).await;
        line.head.store(false, Ordering::Relaxed);
        answer
    }
}

async fn next_part(body: &mut Incoming) -> Result<Option<bytes::Bytes>, FetchObjectError> {
    loop {
        let frame = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx));
        let frame = timeout(READ_WITHIN, frame).await.map_err(broken)?;
        match frame {
            None => return Ok(None),
            Some(Err(error)) => return Err(broken(error)),
            // trailers are no bytes of an object
            Some(Ok(frame)) => match frame.into_data() {
                Ok(part) => return Ok(Some(part)),
                Err(_) => continue,
            },
        }
    }
}

async fn refusal(response: Response<Incoming>) -> FetchObjectError {
    let status = response.status();
    if status == StatusCode::CONFLICT {
        return FetchObjectError::LeaseOver;
    }
    let mut body = response.into_body();
    let mut text = Vec::new();
    while let Ok(Some(part)) = next_part(&mut body).await {
        text.extend_from_slice(&part);
        if text.len() > REFUSAL_BYTES_MAX {
            break;
        }
    }
    let sentence = serde_json::from_slice::<ApiError>(&text);
    broken(sentence.map_or_else(|_| status.to_string(), |e| e.error))
}

async fn connect(wan: &Wan, source: &Source, limit: Option<u64>) -> io::Result<Line> {
    let url = Url::parse(&source.base).map_err(io::Error::other)?;
    let no_host = || io::Error::other("HQ's address names no host");
    let host = url.host_str().ok_or_else(no_host)?;
    let host = host.trim_matches(['[', ']']).to_owned();
    let (_, buffer) = shape(limit);
    let socket = match source.address.is_ipv4() {
        true => TcpSocket::new_v4()?,
        false => TcpSocket::new_v6()?,
    };
    if let Some(buffer) = buffer {
        // the kernel doubles it for what it keeps beside the bytes
        socket.set_recv_buffer_size(buffer / 2)?;
    }
    let stream = timeout(CONNECT_WITHIN, socket.connect(source.address)).await??;
    stream.set_nodelay(true)?;
    // it fills unread
    wan.charge(buffer.unwrap_or(0));
    let head = Arc::new(AtomicBool::new(true));
    let metered = Metered {
        stream,
        wan: wan.clone(),
        head: head.clone(),
        pause: None,
        space: vec![0; GRANT_MAX as usize],
    };
    let name = ServerName::try_from(host).map_err(io::Error::other)?;
    let tls = TlsConnector::from(source.tls.clone()).connect(name, metered);
    let tls = timeout(CONNECT_WITHIN, tls).await??;
    let (requests, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls))
        .await
        .map_err(io::Error::other)?;
    let driver = tokio::spawn(async move {
        // how it ended, the transfer says
        let _ = connection.await;
    });
    Ok(Line {
        base: source.base.clone(),
        limit,
        requests,
        head,
        driver,
    })
}

/// A socket that is read no faster than the budget allows.
struct Metered {
    stream: TcpStream,
    wan: Wan,
    head: Arc<AtomicBool>,
    pause: Option<Pin<Box<Sleep>>>,
    space: Vec<u8>,
}

impl Metered {
    /// How much may be read now, and whether it was granted.
    fn leave(&mut self, context: &mut Context<'_>, wanted: usize) -> Poll<(u32, bool)> {
        let wanted = u32::try_from(wanted).unwrap_or(GRANT_MAX).min(GRANT_MAX);
        if self.head.load(Ordering::Relaxed) {
            return Poll::Ready((wanted.min(GRANT_MIN), false));
        }
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(context));
                self.pause = None;
            }
            match self.wan.grant(wanted) {
                Ok(bytes) => return Poll::Ready((bytes, true)),
                Err(wait) => self.pause = Some(Box::pin(sleep(wait))),
            }
        }
    }
}

impl AsyncRead for Metered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let (leave, granted) = ready!(this.leave(context, buffer.remaining()));
        let mut space = ReadBuf::new(&mut this.space[..leave as usize]);
        let result = Pin::new(&mut this.stream).poll_read(context, &mut space);
        let came = u32::try_from(space.filled().len()).unwrap_or(leave);
        match granted {
            true => this.wan.give_back(leave - came),
            false if came > 0 => this.wan.charge(came),
            false => {}
        }
        buffer.put_slice(space.filled());
        result
    }
}

impl AsyncWrite for Metered {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thin_budget_has_few_transfers_and_small_buffers() {
        assert_eq!(shape(None), (4, None));
        assert_eq!(shape(Some(16_000)), (1, Some(4096)));
        assert_eq!(shape(Some(150_000)), (2, Some(18_750)));
        assert_eq!(shape(Some(1_000_000)), (4, Some(62_500)));
        assert_eq!(shape(Some(1 << 40)), (4, Some(RECEIVE_BUFFER_BYTES_MAX)));
    }
}
