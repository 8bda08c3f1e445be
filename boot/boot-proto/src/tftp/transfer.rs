//! One file to one client: a machine that says what to send when, and never reads or sends itself.

use std::collections::VecDeque;
use std::time::Duration;

use super::negotiate::{Negotiated, TransferConfig};
use super::packet::{ErrorCode, Packet, Request};
use crate::quirks::{self, RepeatedRequest};

/// Silence is answered this often before a transfer is given up.
pub const RETRIES_MAX: u32 = 6;
/// Waits double up to this, or up to the client's own `timeout` if that is longer.
const TIMEOUT_MAX: Duration = Duration::from_secs(8);
/// Text of a client's ERROR is cut here.
const MESSAGE_CHARS_MAX: usize = 128;

/// What the caller must do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send these bytes to the client.
    Send(Vec<u8>),
    /// Read `len` bytes of the file at `offset` and send them as DATA with this block number. `len` may be 0.
    SendData {
        /// Block number on the wire.
        block: u16,
        /// Where its bytes start in the file.
        offset: u64,
        /// How many there are.
        len: usize,
    },
    /// The transfer is over; nothing follows.
    Finished(Outcome),
}

/// How a transfer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The client has acknowledged the last block, or closed its port after that block was sent.
    Complete,
    /// The client only wanted to know the size ([`quirks::is_size_probe`]).
    SizeProbe,
    /// The client sent an ERROR.
    ClientError {
        /// Its number.
        code: ErrorCode,
        /// Its text.
        message: String,
        /// Bytes acknowledged before.
        bytes_acked: u64,
    },
    /// The client fell silent.
    TimedOut {
        /// Bytes acknowledged before.
        bytes_acked: u64,
    },
    /// Nobody listens at the client's port any more.
    Gone {
        /// Bytes acknowledged before.
        bytes_acked: u64,
    },
    /// The client started over from the same port, with this or another file.
    Superseded {
        /// All it had asked of this transfer was the size: its ERROR goes to the transfer's port and the new request to
        /// port 69, so either may come first.
        size_probe: bool,
    },
    /// The file could not be read; the client was told.
    ReadFailed,
}

/// A read transfer. Times are since any fixed moment of the caller's choice.
#[derive(Debug)]
pub struct Transfer {
    request: Request,
    terms: Negotiated,
    file_len: u64,
    /// Number of the last block: a file whose length is a multiple of the block size ends with an empty one.
    last_block: u64,
    /// Blocks up to this one are acknowledged; counted from 1, without the wrap of the wire.
    acked: u64,
    /// Blocks up to this one are sent or about to be.
    sent: u64,
    /// The OACK waits for its ACK 0.
    negotiating: bool,
    /// A repeated ACK restarts no window until this many windows have been acknowledged in full, see [`Self::handle_repeated_ack`].
    windows_until_restart: u8,
    retries: u32,
    deadline: Option<Duration>,
    /// Something was queued to be sent since the last [`Self::handle_sent`].
    unconfirmed: bool,
    /// When the client last moved the transfer on.
    heard: Duration,
    jitter: u64,
    actions: VecDeque<Action>,
    outcome: Option<Outcome>,
}

impl Transfer {
    /// Starts the transfer that a client asked for: with an OACK if it asked for options, with the first block otherwise.
    pub fn start(now: Duration, request: Request, config: &TransferConfig) -> Self {
        let terms = Negotiated::new(&request, config);
        let mut transfer = Self {
            last_block: config.file_len / u64::from(terms.blksize) + 1,
            file_len: config.file_len,
            negotiating: !terms.granted.is_empty(),
            request,
            terms,
            acked: 0,
            sent: 0,
            windows_until_restart: 0,
            retries: 0,
            deadline: None,
            unconfirmed: false,
            heard: now,
            jitter: config.jitter_seed,
            actions: VecDeque::new(),
            outcome: None,
        };
        transfer.send_window(now);
        transfer
    }

    /// Takes a packet from the client's address and port. What does not belong here is ignored.
    pub fn handle_packet(&mut self, now: Duration, bytes: &[u8]) {
        if self.outcome.is_some() {
            return;
        }
        match Packet::parse(bytes) {
            Ok(Packet::Ack(block)) => self.handle_ack(now, block),
            Ok(Packet::Error { code, message }) => self.handle_error(code, &message),
            Ok(Packet::Read(request)) => self.handle_request(now, &request),
            Ok(Packet::Write(_) | Packet::Data { .. } | Packet::OptionAck(_)) | Err(_) => {}
        }
    }

    /// Takes another RRQ from the client's address and port: replays the first answer, ignores a late copy, or ends as
    /// [`Outcome::Superseded`] ([`quirks::repeated_request`]).
    pub fn handle_request(&mut self, now: Duration, request: &Request) {
        if self.outcome.is_some() {
            return;
        }
        let got_oack = !self.negotiating && !self.terms.granted.is_empty();
        let silent_for = now.saturating_sub(self.heard);
        match quirks::repeated_request(
            *request == self.request,
            self.acked > 0 || got_oack,
            silent_for,
        ) {
            RepeatedRequest::Replay => {
                self.windows_until_restart = 2;
                self.send_window(now);
            }
            RepeatedRequest::Ignore => {}
            RepeatedRequest::StartOver => {
                let size_probe = self.terms.asked_tsize && self.negotiating;
                self.finish(Outcome::Superseded { size_probe });
            }
        }
    }

    /// The caller has carried out all actions. Reading may have taken long: the wait for an ACK counts from here.
    pub fn handle_sent(&mut self, now: Duration) {
        // Only after a send of ours: a client that repeats its ACK sooner than we repeat the block must not hold our clock back.
        if self.unconfirmed && self.deadline.is_some() {
            self.arm(now);
            self.unconfirmed = false;
        }
    }

    /// The network says that nobody listens at the client's port (ICMP port unreachable). Once the last block is out this means that
    /// only the last ACK was lost.
    pub fn handle_unreachable(&mut self) {
        if self.outcome.is_none() {
            let bytes_acked = self.bytes_acked();
            self.finish(if self.sent == self.last_block {
                Outcome::Complete
            } else {
                Outcome::Gone { bytes_acked }
            });
        }
    }

    /// The caller could not read the file. Tells the client and ends.
    pub fn handle_read_error(&mut self, reason: &str) {
        if self.outcome.is_none() {
            self.actions.clear();
            let code = ErrorCode::NOT_DEFINED;
            self.actions.push_back(Action::Send(
                Packet::Error {
                    code,
                    message: reason.to_owned(),
                }
                .encode(),
            ));
            self.outcome = Some(Outcome::ReadFailed);
            self.deadline = None;
            self.actions
                .push_back(Action::Finished(Outcome::ReadFailed));
        }
    }

    /// The client was silent until [`Self::poll_timeout`]: sends the OACK or the window again, at most [`RETRIES_MAX`] times in a row.
    pub fn handle_timeout(&mut self, now: Duration) {
        if self.outcome.is_some() || self.deadline.is_none_or(|deadline| now < deadline) {
            return;
        }
        if self.retries == RETRIES_MAX {
            let bytes_acked = self.bytes_acked();
            self.finish(Outcome::TimedOut { bytes_acked });
            return;
        }
        self.retries += 1;
        self.windows_until_restart = 2;
        self.send_window(now);
    }

    /// When to call [`Self::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.deadline
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The terms agreed.
    pub fn terms(&self) -> &Negotiated {
        &self.terms
    }

    /// Bytes that the client has acknowledged.
    pub fn bytes_acked(&self) -> u64 {
        (self.acked * u64::from(self.terms.blksize)).min(self.file_len)
    }

    /// Blocks sent and not acknowledged; never more than the window.
    pub fn blocks_in_flight(&self) -> u64 {
        self.sent - self.acked
    }

    /// Times in a row that silence was answered; never more than [`RETRIES_MAX`].
    pub fn retries(&self) -> u32 {
        self.retries
    }

    /// How it ended, once it has.
    pub fn outcome(&self) -> Option<&Outcome> {
        self.outcome.as_ref()
    }

    fn handle_ack(&mut self, now: Duration, wire: u16) {
        if self.negotiating {
            if wire == 0 {
                self.negotiating = false;
                self.heard = now;
                self.retries = 0;
                self.send_window(now);
            }
            return;
        }
        let Some(block) = self.unwrap_block(wire) else {
            return;
        };
        if block == self.acked {
            self.handle_repeated_ack(now);
            return;
        }
        let whole_window = block == self.sent;
        self.acked = block;
        self.heard = now;
        self.retries = 0;
        if block == self.last_block {
            self.finish(Outcome::Complete);
            return;
        }
        if whole_window {
            self.windows_until_restart = self.windows_until_restart.saturating_sub(1);
        } else {
            // A gap (RFC 7440 section 3): go on behind the last block that arrived in order. A client may say so once for each
            // block behind the gap; those repeats must not restart the new window.
            self.windows_until_restart = self.windows_until_restart.max(1);
        }
        self.send_window(now);
    }

    /// ACK n-1 again, while the window from n on is in flight: its first block was lost, and the client says so at once instead of
    /// waiting. The window is sent again, once.
    ///
    /// Not in lockstep, where RFC 1123 section 4.2.3.1 forbids it (the Sorcerer's Apprentice: every block would go out twice from then
    /// on). With windows the same could happen through the repeats that our own repeat causes, and those arrive while the *next*
    /// window is in flight: so that one is not restarted either.
    fn handle_repeated_ack(&mut self, now: Duration) {
        if self.terms.windowsize > 1 && self.windows_until_restart == 0 && self.sent > self.acked {
            self.windows_until_restart = 2;
            self.send_window(now);
        }
    }

    fn handle_error(&mut self, code: ErrorCode, message: &str) {
        let outcome = if quirks::is_size_probe(code, self.terms.asked_tsize, self.negotiating) {
            Outcome::SizeProbe
        } else {
            Outcome::ClientError {
                code,
                message: message.chars().take(MESSAGE_CHARS_MAX).collect(),
                bytes_acked: self.bytes_acked(),
            }
        };
        self.finish(outcome);
    }

    /// The block that a 16-bit number means: the one in flight or just acknowledged. `None` for an old or invented one.
    fn unwrap_block(&self, wire: u16) -> Option<u64> {
        let acked_on_wire = wire_number(self.acked);
        let block = self.acked + u64::from(wire.wrapping_sub(acked_on_wire));
        (block <= self.sent).then_some(block)
    }

    /// Queues the OACK or all blocks of the window behind the last acknowledged one. What was still queued is replaced: it is part
    /// of the same window, or acknowledged already.
    fn send_window(&mut self, now: Duration) {
        self.actions.clear();
        if self.negotiating {
            let granted = self.terms.granted.clone();
            self.actions
                .push_back(Action::Send(Packet::OptionAck(granted).encode()));
        } else {
            self.sent = (self.acked + u64::from(self.terms.windowsize)).min(self.last_block);
            for block in self.acked + 1..=self.sent {
                let offset = (block - 1) * u64::from(self.terms.blksize);
                let left = self.file_len.saturating_sub(offset);
                let len = usize::try_from(left)
                    .unwrap_or(usize::MAX)
                    .min(usize::from(self.terms.blksize));
                self.actions.push_back(Action::SendData {
                    block: wire_number(block),
                    offset,
                    len,
                });
            }
        }
        self.unconfirmed = true;
        self.arm(now);
    }

    fn arm(&mut self, now: Duration) {
        let most = TIMEOUT_MAX.max(self.terms.timeout);
        let wait = self
            .terms
            .timeout
            .saturating_mul(1 << self.retries.min(8))
            .min(most);
        // Up to an eighth longer, in small steps that differ from transfer to transfer.
        self.jitter = self
            .jitter
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let eighths = u32::try_from(self.jitter >> 56).unwrap_or(0);
        self.deadline = Some(now + wait + wait / 8 * eighths / 256);
    }

    fn finish(&mut self, outcome: Outcome) {
        self.actions.clear();
        self.deadline = None;
        self.outcome = Some(outcome.clone());
        self.actions.push_back(Action::Finished(outcome));
    }
}

/// The number of a block on the wire: 65535 is followed by 0.
fn wire_number(block: u64) -> u16 {
    (block & 0xffff) as u16
}
