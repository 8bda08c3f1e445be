//! One command at a time to a TPM, within a time.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::{read, write},
};
use peer_cache_proto::tpm::command::{Command, RESPONSE_BYTES_MAX, is_busy, response_bytes};
use thiserror::Error;
use trust_format::codec::DecodeError;
use zeroize::Zeroizing;

/// A TPM that tests itself, or that gave way, is asked so often.
const TRIES_MAX: u32 = 8;
/// Before the second try; each further one waits twice as long, 2.5 s in all.
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// Why a TPM gave no answer to a command. After any of these it is asked nothing more: a late answer would be taken for another's.
#[derive(Debug, Error)]
pub enum TransmitError {
    /// The kernel refused to write or read.
    #[error("{command}: talking to the TPM")]
    Io {
        /// What it was asked.
        command: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// It is silent.
    #[error("{command}: the TPM did not answer within {} s", within.as_secs_f32())]
    Silent {
        /// What it was asked.
        command: &'static str,
        /// How long it had.
        within: Duration,
    },
    /// The answer ended before its own length.
    #[error("{command}: the TPM's answer ends after {bytes} bytes")]
    CutOff {
        /// What it was asked.
        command: &'static str,
        /// How much came.
        bytes: usize,
    },
    /// The answer claims an impossible length, or is longer than it says.
    #[error("{command}: the TPM's answer has no right length")]
    Length {
        /// What it was asked.
        command: &'static str,
        /// What is wrong.
        #[source]
        source: DecodeError,
    },
    /// It was busy at every try.
    #[error("{command}: the TPM is busy")]
    Busy {
        /// What it was asked.
        command: &'static str,
    },
    /// An earlier command went wrong.
    #[error("{command}: the TPM gave no answer before and is asked no more")]
    GivenUp {
        /// What it was to be asked.
        command: &'static str,
    },
}

/// Where a TPM's commands go and answers come from: its device, or a socket on which the same bytes travel.
#[derive(Debug)]
pub(super) struct Device {
    file: OwnedFd,
    within: Duration,
    given_up: bool,
}

impl Device {
    /// `within` is what each command may take.
    pub(super) fn new(file: OwnedFd, within: Duration) -> io::Result<Self> {
        // the kernel's TPM device then works while we wait with a limit of our own; it would block for minutes
        let flags = OFlag::from_bits_retain(fcntl(&file, FcntlArg::F_GETFL)?);
        fcntl(&file, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        Ok(Self {
            file,
            within,
            given_up: false,
        })
    }

    /// The answer to a command, as long as it says it is, and wiped when it is dropped. Blocks.
    pub(super) fn transmit(
        &mut self,
        command: &Command,
    ) -> Result<Zeroizing<Vec<u8>>, TransmitError> {
        let name = command.name();
        if self.given_up {
            return Err(TransmitError::GivenUp { command: name });
        }
        for try_number in 0..TRIES_MAX {
            if try_number > 0 {
                std::thread::sleep(BUSY_PAUSE * 2_u32.pow(try_number - 1));
            }
            match self.once(command) {
                Ok(answer) if is_busy(&answer) => {}
                Ok(answer) => return Ok(answer),
                Err(error) => {
                    self.given_up = true;
                    return Err(error);
                }
            }
        }
        Err(TransmitError::Busy { command: name })
    }

    fn once(&self, command: &Command) -> Result<Zeroizing<Vec<u8>>, TransmitError> {
        let name = command.name();
        let deadline = Instant::now() + self.within;
        let failed = |errno: Errno| TransmitError::Io {
            command: name,
            source: errno.into(),
        };
        let mut rest = command.as_bytes();
        while !rest.is_empty() {
            self.wait(PollFlags::POLLOUT, deadline, name)?;
            match write(&self.file, rest) {
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                Err(errno) => return Err(failed(errno)),
            }
        }
        // one byte more than any answer has: what is too long is seen. Old kernels drop what one read leaves.
        let mut answer = Zeroizing::new(vec![0; RESPONSE_BYTES_MAX + 1]);
        let mut filled = 0;
        loop {
            self.wait(PollFlags::POLLIN, deadline, name)?;
            match read(&self.file, answer.get_mut(filled..).unwrap_or_default()) {
                Ok(0) => {
                    return Err(TransmitError::CutOff {
                        command: name,
                        bytes: filled,
                    });
                }
                Ok(more) => filled += more,
                Err(Errno::EINTR | Errno::EAGAIN) => continue,
                Err(errno) => return Err(failed(errno)),
            }
            let length = |source| TransmitError::Length {
                command: name,
                source,
            };
            match response_bytes(&answer[..filled]).map_err(length)? {
                Some(bytes) if bytes < filled => {
                    let count = filled - bytes;
                    return Err(length(DecodeError::Trailing { at: bytes, count }));
                }
                Some(bytes) if bytes == filled => {
                    answer.truncate(filled);
                    return Ok(answer);
                }
                _ => {}
            }
        }
    }

    fn wait(
        &self,
        what: PollFlags,
        deadline: Instant,
        command: &'static str,
    ) -> Result<(), TransmitError> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.file.as_fd(), what)], timeout) {
                Ok(0) if left.is_zero() => {
                    return Err(TransmitError::Silent {
                        command,
                        within: self.within,
                    });
                }
                // the time is counted in whole milliseconds: what is left of it is looked at again
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return Ok(()),
                Err(errno) => {
                    return Err(TransmitError::Io {
                        command,
                        source: errno.into(),
                    });
                }
            }
        }
    }
}
