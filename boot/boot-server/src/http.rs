//! HTTP for firmware and loaders: GET and HEAD of `/boot/<name>`, ranges, nothing else.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{
    ACCEPT_RANGES, ALLOW, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderValue, RANGE,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle, JoinSet};

use crate::beginnings::Beginnings;
use crate::booter::{BootEvent, BootFile, Booter, TransferKind};
use crate::events::{Events, shown};
use crate::reader::{self, PIECE_BYTES};

/// Connections at once on one interface. Each holds up to two pieces of 32 KiB.
const CONNECTIONS_MAX: usize = 128;
/// Connections at once from one address. Firmware has one, curl and iPXE two at most.
const CONNECTIONS_PER_CLIENT_MAX: usize = 8;
/// A request line and headers must arrive within this.
const HEADER_TIME_MAX: Duration = Duration::from_secs(10);
/// Request line and headers together; firmware sends 150 bytes.
const HEADER_BYTES_MAX: usize = 8 * 1024;
/// Number of header lines.
const HEADERS_MAX: usize = 32;
/// A connection on which nothing moves for this long is closed.
const STALL_TIME_MAX: Duration = Duration::from_secs(60);
/// So long a connection may stand still though others wait for its place.
const STILL_IN_PEACE: Duration = Duration::from_secs(1);
/// Bytes that wait in a socket before the next piece goes into it: nothing is lost to a fast link, and a client that takes
/// nothing holds no more.
const UNSENT_BYTES_MAX: u32 = 128 * 1024;
/// Pause after a connection that is not taken: a thousand of them in a second cost little, and who boots waits in the system's queue.
const REFUSED_PAUSE: Duration = Duration::from_millis(1);
/// Pause after accepting failed (no file descriptors left), so that the loop does not spin.
const ACCEPT_ERROR_PAUSE: Duration = Duration::from_millis(200);
/// The folder that all names are in.
const FOLDER: &str = "/boot/";

type Answer = Response<Either<FileBody, Full<Bytes>>>;

/// What every connection needs.
#[derive(Clone)]
pub(crate) struct HttpContext {
    pub(crate) booter: Arc<dyn Booter>,
    pub(crate) events: Events,
}

/// Serves until told to stop; open connections end with it.
pub(crate) async fn serve(
    context: HttpContext,
    listener: TcpListener,
    mut stop: watch::Receiver<bool>,
) {
    let mut open = Open {
        tasks: JoinSet::new(),
        by_number: BTreeMap::new(),
        started: 0,
    };
    let mut beginnings = Beginnings::new(Instant::now());
    loop {
        tokio::select! {
            _ = stop.changed() => return,
            Some(ended) = open.tasks.join_next() => {
                if let Ok(number) = ended {
                    open.by_number.remove(&number);
                }
            }
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    if beginnings.allow(Instant::now(), peer.ip()) && open.has_room_for(peer.ip()) {
                        open.begin(&context, stream, peer);
                    } else {
                        context.events.count(|counts| counts.transfers_refused += 1);
                        drop(stream);
                        tokio::time::sleep(REFUSED_PAUSE).await;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "HTTP accept failed");
                    tokio::time::sleep(ACCEPT_ERROR_PAUSE).await;
                }
            },
        }
    }
}

/// The connections of one listener.
struct Open {
    tasks: JoinSet<u64>,
    /// By age.
    by_number: BTreeMap<u64, Connected>,
    started: u64,
}

/// A connection, as the listener knows it.
struct Connected {
    peer: IpAddr,
    progress: Arc<Progress>,
    task: AbortHandle,
}

impl Open {
    /// When all places are taken, a client that has none gets the place of the connection that has stood still longest.
    fn has_room_for(&mut self, peer: IpAddr) -> bool {
        let of_client = self.by_number.values().filter(|c| c.peer == peer).count();
        if self.by_number.len() < CONNECTIONS_MAX {
            return of_client < CONNECTIONS_PER_CLIENT_MAX;
        }
        let still = self
            .by_number
            .iter()
            .map(|(number, c)| (c.progress.still_for(), *number));
        match still.max() {
            Some((still_for, number)) if of_client == 0 && still_for > STILL_IN_PEACE => {
                if let Some(gone) = self.by_number.remove(&number) {
                    gone.task.abort();
                }
                true
            }
            _ => false,
        }
    }

    fn begin(&mut self, context: &HttpContext, stream: TcpStream, peer: SocketAddr) {
        self.started += 1;
        let (number, context) = (self.started, context.clone());
        let progress = Arc::new(Progress::new());
        let moved = progress.clone();
        let task = self.tasks.spawn(async move {
            connection(context, stream, peer, moved).await;
            number
        });
        let connected = Connected {
            peer: peer.ip(),
            progress,
            task,
        };
        self.by_number.insert(number, connected);
    }
}

/// How often a connection moved: with every piece that the network takes and every request that comes in.
struct Progress {
    begun: Instant,
    count: AtomicU64,
    last_millis: AtomicU64,
}

impl Progress {
    fn new() -> Self {
        Self {
            begun: Instant::now(),
            count: AtomicU64::new(0),
            last_millis: AtomicU64::new(0),
        }
    }

    fn moved(&self) {
        let millis = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_millis.store(millis, Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    fn still_for(&self) -> Duration {
        let last = Duration::from_millis(self.last_millis.load(Ordering::Relaxed));
        self.begun.elapsed().saturating_sub(last)
    }
}

/// One connection to its end.
async fn connection(
    context: HttpContext,
    stream: TcpStream,
    peer: SocketAddr,
    progress: Arc<Progress>,
) {
    let _ = stream.set_nodelay(true);
    // a figure of Linux; elsewhere the kernel keeps more for a client that takes nothing
    let _ = socket2::SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT_BYTES_MAX);
    let service = service_fn(|request| {
        progress.moved();
        let (context, progress) = (context.clone(), Arc::clone(&progress));
        async move { Ok::<_, Infallible>(respond(&context, &request, peer, progress).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME_MAX)
        .max_buf_size(HEADER_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let mut before = 0;
    loop {
        match tokio::time::timeout(STALL_TIME_MAX, connection.as_mut()).await {
            Ok(Ok(())) => break,
            Ok(Err(error)) => {
                tracing::debug!(%peer, %error, "HTTP connection ended");
                break;
            }
            Err(_) => {
                let now = progress.count();
                if now == before {
                    break;
                }
                before = now;
            }
        }
    }
}

async fn respond(
    context: &HttpContext,
    request: &Request<Incoming>,
    peer: SocketAddr,
    progress: Arc<Progress>,
) -> Answer {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        answer
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return answer;
    }
    let asked = request.uri().path();
    let name = asked.strip_prefix(FOLDER).and_then(reader::acceptable_name);
    let file = match name.clone() {
        Some(name) => reader::open(&context.booter, name).await,
        None => None,
    };
    let (Some(name), Some(file)) = (name, file) else {
        context.events.tell(BootEvent::TransferFailed {
            peer,
            file: shown(asked),
            kind: TransferKind::Http,
            size_bytes: 0,
            reason: "no such file".into(),
        });
        return text(StatusCode::NOT_FOUND, "no such file\n");
    };
    let len = file.len();
    let range = request
        .headers()
        .get(RANGE)
        .and_then(|value| value.to_str().ok());
    let (status, range) = match range.map_or(Asked::Whole, |range| asked_range(range, len)) {
        Asked::Whole => (StatusCode::OK, 0..len),
        Asked::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
        Asked::Outside => {
            let mut answer = text(
                StatusCode::RANGE_NOT_SATISFIABLE,
                "range outside the file\n",
            );
            header(&mut answer, CONTENT_RANGE, &format!("bytes */{len}"));
            return answer;
        }
    };
    let size = range.end - range.start;
    let body = if request.method() == Method::HEAD {
        Either::Right(Full::default())
    } else {
        let file_asked = BootEvent::FileAsked {
            peer,
            file: name.clone(),
            kind: TransferKind::Http,
        };
        context.events.tell(file_asked);
        let told = Told {
            events: context.events.clone(),
            peer,
            name,
            start: Instant::now(),
        };
        Either::Left(FileBody::new(file, range.clone(), progress, told))
    };
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    // Said outright, because UEFI firmware sizes its buffer by the answer to HEAD, which has no body to count.
    header(&mut answer, CONTENT_LENGTH, &size.to_string());
    header(&mut answer, CONTENT_TYPE, "application/octet-stream");
    header(&mut answer, ACCEPT_RANGES, "bytes");
    if status == StatusCode::PARTIAL_CONTENT {
        header(
            &mut answer,
            CONTENT_RANGE,
            &format!("bytes {}-{}/{len}", range.start, range.end - 1),
        );
    }
    answer
}

fn text(status: StatusCode, line: &'static str) -> Answer {
    let mut answer = Response::new(Either::Right(Full::from(line)));
    *answer.status_mut() = status;
    header(&mut answer, CONTENT_TYPE, "text/plain");
    answer
}

fn header(answer: &mut Answer, name: hyper::header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        answer.headers_mut().insert(name, value);
    }
}

/// What a `Range` header asks of a file.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Whole,
    Part(Range<u64>),
    Outside,
}

/// RFC 9110 section 14.2. Several ranges, other units and nonsense get the whole file, as the RFC allows.
fn asked_range(header: &str, len: u64) -> Asked {
    let Some((first, last)) = header
        .trim()
        .strip_prefix("bytes=")
        .and_then(|range| range.split_once('-'))
    else {
        return Asked::Whole;
    };
    let range = match (first.trim().parse::<u64>(), last.trim().parse::<u64>()) {
        (Ok(first), Ok(last)) if first <= last => first..last.saturating_add(1).min(len),
        (Ok(first), Err(_)) if last.trim().is_empty() => first..len,
        (Err(_), Ok(count)) if first.trim().is_empty() => len.saturating_sub(count)..len,
        _ => return Asked::Whole,
    };
    if range.start < range.end {
        Asked::Part(range)
    } else {
        Asked::Outside
    }
}

/// What the log needs when a body ends.
struct Told {
    events: Events,
    peer: SocketAddr,
    name: String,
    start: Instant,
}

/// A part of a file, read ahead by one piece.
struct FileBody {
    file: Arc<dyn BootFile>,
    /// What is not yet handed on.
    left: Range<u64>,
    size: u64,
    piece: Option<JoinHandle<io::Result<Bytes>>>,
    progress: Arc<Progress>,
    failure: Option<String>,
    told: Told,
}

impl FileBody {
    fn new(
        file: Arc<dyn BootFile>,
        range: Range<u64>,
        progress: Arc<Progress>,
        told: Told,
    ) -> Self {
        let size = range.end - range.start;
        let mut body = Self {
            file,
            left: range,
            size,
            piece: None,
            progress,
            failure: None,
            told,
        };
        body.read_ahead();
        body
    }

    fn read_ahead(&mut self) {
        let left = usize::try_from(self.left.end - self.left.start).unwrap_or(usize::MAX);
        self.piece =
            (left > 0).then(|| reader::read(&self.file, self.left.start, left.min(PIECE_BYTES)));
    }
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let Some(piece) = &mut self.piece else {
            return Poll::Ready(None);
        };
        let read = ready!(Pin::new(piece).poll(cx))
            .map_err(io::Error::other)
            .and_then(|read| read);
        self.piece = None;
        match read {
            Ok(bytes) => {
                self.left.start += bytes.len() as u64;
                self.progress.moved();
                self.read_ahead();
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Err(error) => {
                self.failure = Some(format!(
                    "the file could not be read: {}",
                    shown(&error.to_string())
                ));
                Poll::Ready(Some(Err(error)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left.end - self.left.start)
    }
}

impl Drop for FileBody {
    fn drop(&mut self) {
        let Told {
            events,
            peer,
            name,
            start,
        } = &self.told;
        let (peer, file, kind) = (*peer, name.clone(), TransferKind::Http);
        let sent = self.size - (self.left.end - self.left.start);
        events.tell(if self.left.is_empty() {
            BootEvent::TransferFinished {
                peer,
                file,
                kind,
                size_bytes: sent,
                took: start.elapsed(),
            }
        } else {
            let reason = self
                .failure
                .take()
                .unwrap_or_else(|| "the client closed the connection".into());
            BootEvent::TransferFailed {
                peer,
                file,
                kind,
                size_bytes: sent,
                reason,
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_the_rfc_has_them() {
        let check =
            |header: &str, expect: Asked| assert_eq!(asked_range(header, 1000), expect, "{header}");
        check("bytes=0-0", Asked::Part(0..1));
        check("bytes=10-", Asked::Part(10..1000));
        check("bytes=-10", Asked::Part(990..1000));
        check("bytes=-5000", Asked::Part(0..1000));
        check("bytes=990-5000", Asked::Part(990..1000));
        check("bytes=0-18446744073709551615", Asked::Part(0..1000));
        check("bytes=1000-", Asked::Outside);
        check("bytes=-0", Asked::Outside);
        for whole in [
            "bytes=5-4",
            "bytes=0-1,5-6",
            "chunks=1-2",
            "bytes=a-b",
            "bytes=-",
            "",
        ] {
            check(whole, Asked::Whole);
        }
        assert_eq!(asked_range("bytes=0-", 0), Asked::Outside);
    }
}
