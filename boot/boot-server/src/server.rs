//! Opening all sockets, starting all tasks, stopping them.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use boot_proto::lease::{LeasePool, LeaseRecord, PoolConfig, PoolConfigError};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::booter::Booter;
use crate::config::{BootServerConfig, Mode, Ports};
use crate::dhcp::{Answered, DhcpServer, DhcpSockets, LeaseBook};
use crate::events::{BootCounts, Events};
use crate::http::{self, HttpContext};
use crate::interface::{self, Interface};
use crate::tftp::{self, TftpContext};
use crate::udp::UdpListener;

/// How long a shutdown waits for tasks to see it.
const SHUTDOWN_TIME_MAX: Duration = Duration::from_secs(5);
/// Connections that wait to be accepted; a full queue costs who boots a second.
const BACKLOG: i32 = 1024;

/// Why a boot server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The system does not list its interfaces.
    #[error("cannot list the network interfaces")]
    ReadInterfaces {
        /// What it says.
        source: io::Error,
    },
    /// The named interface is not there.
    #[error("there is no network interface {name:?}; there are {known:?}")]
    NoSuchInterface {
        /// As configured.
        name: String,
        /// Those that are there.
        known: Vec<String>,
    },
    /// The named interface has no IPv4 address.
    #[error("network interface {name} has no IPv4 address; network boot needs one")]
    NoAddress {
        /// As configured.
        name: String,
    },
    /// No interface to serve.
    #[error("no network interface is up with an IPv4 address")]
    NoInterface,
    /// A pool belongs to one interface.
    #[error("full DHCP serves one interface, and {found:?} would be served: name one")]
    PoolNeedsOneInterface {
        /// Those that are up.
        found: Vec<String>,
    },
    /// The pool's server address is not ours.
    #[error("the address pool names {pool} as its server, but {interface} has {address}")]
    PoolAddress {
        /// As configured.
        pool: Ipv4Addr,
        /// The interface.
        interface: String,
        /// Its address.
        address: Ipv4Addr,
    },
    /// The pool cannot be served as configured.
    #[error("the address pool cannot be served")]
    Pool(#[from] PoolConfigError),
    /// A port could not be opened: taken, or a right is missing (CAP_NET_BIND_SERVICE, CAP_NET_RAW).
    #[error("cannot open {what} port {port} on {interface}")]
    Bind {
        /// Its protocol.
        what: &'static str,
        /// Its number.
        port: u16,
        /// Where.
        interface: String,
        /// What the system says.
        source: io::Error,
    },
}

/// The boot server. Not started, it is nothing: see [`BootServer::start`].
pub struct BootServer;

/// Where an interface is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedInterface {
    /// Its name.
    pub name: String,
    /// Our address on it.
    pub address: Ipv4Addr,
    /// The UDP ports in use; `dhcp` and `pxe` are 0 in [`Mode::Off`].
    pub ports: Ports,
    /// The TCP port of HTTP.
    pub http_port: u16,
}

/// A running boot server. Dropping it stops it at once.
pub struct RunningBootServer {
    interfaces: Vec<ServedInterface>,
    events: Events,
    book: LeaseBook,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

/// The sockets of one interface, all open or none.
struct OpenInterface {
    interface: Interface,
    dhcp: Option<DhcpSockets>,
    tftp: UdpListener,
    http: TcpListener,
    served: ServedInterface,
}

impl BootServer {
    /// Opens all sockets and starts to serve. Must be called within a tokio runtime. Interfaces and addresses that come later are not
    /// seen: start anew.
    ///
    /// # Errors
    /// [`StartError`]; then nothing is left open.
    pub fn start(
        config: BootServerConfig,
        booter: Arc<dyn Booter>,
    ) -> Result<RunningBootServer, StartError> {
        let interfaces = interface::chosen(&config)?;
        let start = Instant::now();
        let mut pool = match &config.mode {
            Mode::Full(pool) => Some(open_pool(pool, &config.leases, &interfaces)?),
            Mode::Proxy | Mode::Off => None,
        };
        let opened: Vec<OpenInterface> = interfaces
            .into_iter()
            .map(|interface| open(interface, &config))
            .collect::<Result<_, _>>()?;

        let (stop, stopped) = watch::channel(false);
        let (events, deliver) = Events::new(Arc::clone(&booter));
        let first_leases = pool
            .iter()
            .flat_map(|pool| pool.leases(Duration::ZERO))
            .collect();
        let book: LeaseBook = Arc::new(Mutex::new((start, first_leases)));
        let mut tasks = JoinSet::new();
        tasks.spawn(deliver);
        let mut served = Vec::new();
        for OpenInterface {
            interface,
            dhcp,
            tftp,
            http,
            served: ports,
        } in opened
        {
            let tftp_context = TftpContext {
                interface: interface.clone(),
                booter: Arc::clone(&booter),
                events: events.clone(),
            };
            tasks.spawn(tftp::serve(tftp_context, tftp, stopped.clone()));
            let http_context = HttpContext {
                booter: Arc::clone(&booter),
                events: events.clone(),
            };
            tasks.spawn(http::serve(http_context, http, stopped.clone()));
            if let Some(sockets) = dhcp {
                let server = DhcpServer {
                    interface,
                    sockets,
                    pool: pool.take(),
                    book: Arc::clone(&book),
                    booter: Arc::clone(&booter),
                    events: events.clone(),
                    http_port: ports.http_port,
                    client_port: config.ports.dhcp_client,
                    start,
                    foreign: BTreeMap::new(),
                    answered: Answered::new(start),
                };
                tasks.spawn(server.serve(stopped.clone()));
            }
            tracing::info!(interface = ports.name, address = %ports.address, mode = mode_name(&config.mode), "boot server is up");
            served.push(ports);
        }
        Ok(RunningBootServer {
            interfaces: served,
            events,
            book,
            stop,
            tasks,
        })
    }
}

impl RunningBootServer {
    /// What is served where.
    pub fn interfaces(&self) -> &[ServedInterface] {
        &self.interfaces
    }

    /// How often what happened since the start.
    pub fn counts(&self) -> BootCounts {
        self.events.counts()
    }

    /// The leases granted now, to be stored and given back as [`BootServerConfig::leases`]. Changes come with
    /// [`BootEvent::Leased`](crate::BootEvent::Leased).
    pub fn leases(&self) -> Vec<LeaseRecord> {
        let (written, leases) = &*self.book.lock().unwrap_or_else(PoisonError::into_inner);
        let age = written.elapsed();
        leases
            .iter()
            .filter(|lease| lease.remaining > age)
            .map(|lease| LeaseRecord {
                remaining: lease.remaining - age,
                ..*lease
            })
            .collect()
    }

    /// Stops everything; running transfers are cut off. Events that are already queued are still delivered.
    pub async fn shutdown(self) {
        let Self {
            events,
            stop,
            mut tasks,
            ..
        } = self;
        // The delivering task ends when the last sender of events is gone.
        drop(events);
        let _ = stop.send(true);
        let all_ended = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(SHUTDOWN_TIME_MAX, all_ended)
            .await
            .is_err()
        {
            tracing::warn!("boot server tasks had to be cut off");
        }
    }
}

fn open_pool(
    config: &PoolConfig,
    leases: &[LeaseRecord],
    interfaces: &[Interface],
) -> Result<LeasePool, StartError> {
    let [interface] = interfaces else {
        let found = interfaces
            .iter()
            .map(|interface| interface.name.clone())
            .collect();
        return Err(StartError::PoolNeedsOneInterface { found });
    };
    if config.server != interface.address {
        return Err(StartError::PoolAddress {
            pool: config.server,
            interface: interface.name.clone(),
            address: interface.address,
        });
    }
    let mut pool = LeasePool::new(config.clone())?;
    pool.import(Duration::ZERO, leases.iter().copied());
    Ok(pool)
}

fn open(interface: Interface, config: &BootServerConfig) -> Result<OpenInterface, StartError> {
    let failed = |(what, port, source): (&'static str, u16, io::Error)| StartError::Bind {
        what,
        port,
        interface: interface.name.clone(),
        source,
    };
    let ports = config.ports;
    let dhcp = match config.mode {
        Mode::Off => None,
        Mode::Proxy | Mode::Full(_) => Some(DhcpSockets::bind(&interface, ports).map_err(failed)?),
    };
    let tftp = UdpListener::bind(&interface.name, ports.tftp)
        .map_err(|error| failed(("TFTP", ports.tftp, error)))?;
    let http = listen(interface.address, config.http_port)
        .map_err(|error| failed(("HTTP", config.http_port, error)))?;
    let port_of = |socket: Option<&UdpListener>| socket.map_or(Ok(0), UdpListener::port);
    let served = (|| {
        Ok(ServedInterface {
            name: interface.name.clone(),
            address: interface.address,
            ports: Ports {
                dhcp: port_of(dhcp.as_ref().map(|sockets| &sockets.dhcp))?,
                pxe: port_of(dhcp.as_ref().map(|sockets| &sockets.pxe))?,
                tftp: tftp.port()?,
                ..ports
            },
            http_port: http.local_addr()?.port(),
        })
    })()
    .map_err(|error| failed(("any", 0, error)))?;
    Ok(OpenInterface {
        interface,
        dhcp,
        tftp,
        http,
        served,
    })
}

fn listen(address: Ipv4Addr, port: u16) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddrV4::new(address, port).into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn mode_name(mode: &Mode) -> &'static str {
    match mode {
        Mode::Proxy => "proxy",
        Mode::Full(_) => "full",
        Mode::Off => "off",
    }
}
