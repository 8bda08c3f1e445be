//! Frames on the control stream: a length and its bytes, never longer than the reader allows.

use std::io;

use peer_cache_proto::wire::Frame;
use tokio::sync::mpsc;

/// Reads the frames of a peer.
pub(crate) struct FrameReader(quinn::RecvStream);

impl FrameReader {
    pub(crate) fn of(stream: quinn::RecvStream) -> Self {
        Self(stream)
    }

    /// The next frame, if it is no longer than this.
    pub(crate) async fn next(&mut self, longest: usize) -> io::Result<Frame> {
        let length = self.length(longest).await?;
        self.body(length).await
    }

    /// How long the next frame is.
    pub(crate) async fn length(&mut self, longest: usize) -> io::Result<usize> {
        let mut length = [0; 4];
        self.0
            .read_exact(&mut length)
            .await
            .map_err(io::Error::other)?;
        let length = u32::from_le_bytes(length) as usize;
        if length > longest {
            return Err(io::Error::other(format!(
                "a frame of {length} bytes, at most {longest} are allowed"
            )));
        }
        Ok(length)
    }

    /// The next frame, of which the length was read.
    pub(crate) async fn body(&mut self, length: usize) -> io::Result<Frame> {
        let mut bytes = vec![0; length];
        self.0
            .read_exact(&mut bytes)
            .await
            .map_err(io::Error::other)?;
        Frame::from_bytes(&bytes).map_err(io::Error::other)
    }
}

pub(crate) async fn write_frame(send: &mut quinn::SendStream, frame: &Frame) -> io::Result<()> {
    let bytes = frame.to_bytes();
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    let mut out = Vec::with_capacity(4 + bytes.len());
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&bytes);
    send.write_all(&out).await.map_err(io::Error::other)
}

/// Writes what is queued until the stream or the queue ends.
pub(crate) async fn write_frames(mut send: quinn::SendStream, mut queue: mpsc::Receiver<Frame>) {
    while let Some(frame) = queue.recv().await {
        if write_frame(&mut send, &frame).await.is_err() {
            break;
        }
    }
}
