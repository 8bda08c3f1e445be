//! The sockets that wake machines: DHCP and proxyDHCP, port 4011, TFTP, HTTP; and the [`Booter`] seam for whoever fills them.
//! Never here: which machine boots what, where files come from, what firmware needs (that is `boot-proto`); no disk, no peer, no HQ.
//! Called by `appliance`: a store's node, also the one that an agent starts from a stick with a voucher.

mod beginnings;
mod booter;
mod config;
mod dhcp;
mod events;
mod http;
mod interface;
mod reader;
mod server;
mod tftp;
mod udp;

pub use boot_proto::dhcp::{
    AGENT_FILE, BootAnswer, BootClient, ClientUuid, ForeignBootServer, IgnoreReason,
    LOCAL_DISK_FILE, MacAddress, Transport,
};
pub use boot_proto::lease::{LeaseRecord, PoolConfig, PoolConfigError};
pub use booter::{BootEvent, BootFile, Booter, TransferKind};
pub use config::{BootServerConfig, Mode, Ports};
pub use events::BootCounts;
pub use server::{BootServer, RunningBootServer, ServedInterface, StartError};
