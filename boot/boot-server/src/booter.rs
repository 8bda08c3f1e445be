//! The seam: what the sockets ask their owner, and what they tell it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use boot_proto::dhcp::{BootAnswer, BootClient, ForeignBootServer, IgnoreReason, MacAddress};

/// Who decides what machines boot and where the files come from. Owned by this crate, filled in by a `main`.
pub trait Booter: Send + Sync + 'static {
    /// What this machine is to boot. Called between receiving a packet and answering it, so it must not block.
    fn answer(&self, client: &BootClient) -> BootAnswer;

    /// The file of this name, or `None` if there is none. May block: it is called on a thread for that.
    fn open(&self, name: &str) -> Option<Arc<dyn BootFile>>;

    /// Something happened. For a live log; must return soon, because while it runs further events wait in a bounded queue and are
    /// then dropped ([`BootEvent::Dropped`]).
    fn event(&self, event: BootEvent);
}

/// A file of fixed length that may be read from several threads at once.
pub trait BootFile: Send + Sync + 'static {
    /// Its length in bytes; never changes.
    fn len(&self) -> u64;

    /// Whether it has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads at most `buf.len()` bytes at `offset` and returns how many. May block. 0 before the end counts as an error.
    ///
    /// # Errors
    /// Whatever keeps the bytes from being read; its text is shown to the client and in the log.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;
}

/// How a file is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransferKind {
    /// TFTP.
    Tftp,
    /// HTTP.
    Http,
}

/// What happened. Texts that come from the network are cut to 128 characters.
#[derive(Debug, Clone, PartialEq)]
pub enum BootEvent {
    /// A machine asked for network boot, and is one that we can serve.
    Seen {
        /// Who.
        client: BootClient,
    },
    /// It was told what to boot.
    Offered {
        /// Who.
        client: BootClient,
        /// File name or URL.
        file: String,
    },
    /// It was not answered. Ordinary DHCP clients are counted and raise no event.
    Ignored {
        /// Who, if it has an Ethernet address.
        mac: Option<MacAddress>,
        /// Why.
        reason: IgnoreReason,
    },
    /// Full DHCP mode: an address was granted or extended.
    Leased {
        /// To whom.
        mac: MacAddress,
        /// The address.
        address: Ipv4Addr,
    },
    /// Full DHCP mode: no address is free.
    PoolExhausted {
        /// Who asked.
        mac: MacAddress,
    },
    /// A client asked for a file.
    FileAsked {
        /// Its address and port.
        peer: SocketAddr,
        /// The file's name.
        file: String,
        /// How.
        kind: TransferKind,
    },
    /// A file was sent: its last byte is acknowledged (TFTP) or handed to the network (HTTP).
    TransferFinished {
        /// To whom.
        peer: SocketAddr,
        /// The file's name.
        file: String,
        /// How.
        kind: TransferKind,
        /// Bytes of it.
        size_bytes: u64,
        /// How long it took.
        took: Duration,
    },
    /// A file was not sent, or not to its end.
    TransferFailed {
        /// To whom.
        peer: SocketAddr,
        /// The file's name.
        file: String,
        /// How.
        kind: TransferKind,
        /// Bytes sent before.
        size_bytes: u64,
        /// Why, in plain words.
        reason: String,
    },
    /// Another server on this network tells machines what to boot. At most once a minute for each.
    ForeignServer {
        /// Seen on this interface.
        interface: String,
        /// Who.
        server: ForeignBootServer,
    },
    /// This many events were lost because [`Booter::event`] was too slow.
    Dropped {
        /// How many since the last one that was delivered.
        count: u64,
    },
}
