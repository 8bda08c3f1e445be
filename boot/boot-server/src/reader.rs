//! Reading boot files, which may block, from tasks, which may not.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio::task::JoinHandle;

use crate::booter::{BootFile, Booter};

/// What is read ahead at once, for each transfer. A hop to a blocking thread takes a tenth of the time that a gigabit link takes
/// for it, and the most transfers that there may be, which anybody can ask for, hold 12 MiB.
pub(crate) const PIECE_BYTES: usize = 32 * 1024;
/// Longest file name that is looked up.
const NAME_BYTES_MAX: usize = 128;

/// A name as it may be given to [`Booter::open`]: relative, printable, without `..`.
pub(crate) fn acceptable_name(asked: &str) -> Option<String> {
    let name = boot_proto::quirks::plain_file_name(asked);
    let printable = name.bytes().all(|byte| byte.is_ascii_graphic());
    let climbs = name
        .split('/')
        .any(|part| part.is_empty() || part.starts_with('.'));
    (name.len() <= NAME_BYTES_MAX && printable && !climbs).then_some(name)
}

/// Opens a file on a thread that may block.
pub(crate) async fn open(booter: &Arc<dyn Booter>, name: String) -> Option<Arc<dyn BootFile>> {
    let booter = Arc::clone(booter);
    tokio::task::spawn_blocking(move || booter.open(&name))
        .await
        .ok()
        .flatten()
}

/// Starts to read `len` bytes at `offset`, all of them or an error.
pub(crate) fn read(
    file: &Arc<dyn BootFile>,
    offset: u64,
    len: usize,
) -> JoinHandle<io::Result<Bytes>> {
    let file = Arc::clone(file);
    tokio::task::spawn_blocking(move || {
        let mut buffer = vec![0; len];
        let mut filled = 0;
        while filled < len {
            let at = offset + filled as u64;
            match file.read_at(at, &mut buffer[filled..]) {
                Ok(0) => {
                    let text = format!("file ends at byte {at} of {}", file.len());
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
                }
                Ok(count) => filled += count.min(len - filled),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Bytes::from(buffer))
    })
}

/// A file read front to back in small parts, a piece at a time.
pub(crate) struct PieceReader {
    file: Arc<dyn BootFile>,
    piece: Bytes,
    start: u64,
}

impl PieceReader {
    pub(crate) fn new(file: Arc<dyn BootFile>) -> Self {
        Self {
            file,
            piece: Bytes::new(),
            start: 0,
        }
    }

    /// The bytes at `offset`; at most a piece of them.
    pub(crate) async fn get(&mut self, offset: u64, len: usize) -> io::Result<Bytes> {
        if let Some(part) = self.part(offset, len) {
            return Ok(part);
        }
        let left = usize::try_from(self.file.len().saturating_sub(offset)).unwrap_or(usize::MAX);
        self.piece = read(&self.file, offset, PIECE_BYTES.min(left))
            .await
            .map_err(io::Error::other)??;
        self.start = offset;
        self.part(offset, len)
            .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    fn part(&self, offset: u64, len: usize) -> Option<Bytes> {
        let from = usize::try_from(offset.checked_sub(self.start)?).ok()?;
        let to = from.checked_add(len)?;
        (to <= self.piece.len()).then(|| self.piece.slice(from..to))
    }
}
