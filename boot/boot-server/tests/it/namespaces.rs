//! DHCP between two network namespaces joined by a veth pair: packets of the captures, and busybox udhcpc.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use boot_proto::dhcp::{DhcpMessage, MessageType, options};
use boot_server::{
    BootAnswer, BootCounts, BootEvent, BootServer, BootServerConfig, Booter, LeaseRecord, Mode,
    PoolConfig, Transport,
};
use nix::sched::{CloneFlags, setns};

use crate::captures;
use crate::shelf::{Shelf, assert_is_the_large_file, run};

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 9);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 139);

/// Two namespaces with one cable between them, removed at the end.
struct Cable {
    server: String,
    client: String,
}

impl Cable {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = |side: &str| format!("lamp-{}-{number}-{side}", std::process::id());
        let cable = Self {
            server: name("s"),
            client: name("c"),
        };
        for namespace in [&cable.server, &cable.client] {
            run("ip", &["netns", "add", namespace]);
        }
        let ends = [
            "link",
            "add",
            "eth0",
            "netns",
            &cable.server,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            &cable.client,
        ];
        run("ip", &ends);
        for namespace in [&cable.server, &cable.client] {
            run("ip", &["-n", namespace, "link", "set", "lo", "up"]);
            run("ip", &["-n", namespace, "link", "set", "eth0", "up"]);
        }
        run(
            "ip",
            &[
                "-n",
                &cable.server,
                "address",
                "add",
                &format!("{SERVER}/24"),
                "dev",
                "eth0",
            ],
        );
        cable
    }

    fn give_client_its_address(&self) {
        run(
            "ip",
            &[
                "-n",
                &self.client,
                "address",
                "add",
                &format!("{CLIENT}/24"),
                "dev",
                "eth0",
            ],
        );
    }

    fn in_client(&self, program: &str, arguments: &[&str]) -> String {
        let all = [&["netns", "exec", &self.client, program], arguments].concat();
        String::from_utf8_lossy(&run("ip", &all).stdout).into_owned()
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for namespace in [&self.server, &self.client] {
            let _ = Command::new("ip")
                .args(["netns", "delete", namespace])
                .output();
        }
    }
}

fn enter(namespace: &str) {
    let file = File::open(format!("/run/netns/{namespace}")).unwrap();
    setns(file, CloneFlags::CLONE_NEWNET).unwrap();
}

/// What is left of a server when it has stopped.
type Remains = (Vec<LeaseRecord>, BootCounts);

/// A boot server on a thread of its own, in the server's namespace.
struct Server {
    shelf: Arc<Shelf>,
    stop: mpsc::Sender<()>,
    thread: JoinHandle<Remains>,
}

impl Server {
    fn start(cable: &Cable, answer: BootAnswer, config: BootServerConfig) -> Self {
        let shelf = Shelf::new(answer);
        let booter: Arc<dyn Booter> = Arc::clone(&shelf) as Arc<dyn Booter>;
        let (stop, stopped) = mpsc::channel();
        let (ready, is_ready) = mpsc::channel();
        let namespace = cable.server.clone();
        let thread = std::thread::spawn(move || {
            enter(&namespace);
            // Made here, so that its threads are born into the namespace.
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .unwrap();
            let guard = runtime.enter();
            let server = BootServer::start(config, booter).unwrap();
            drop(guard);
            ready.send(()).unwrap();
            let _ = stopped.recv();
            let remains = (server.leases(), server.counts());
            runtime.block_on(server.shutdown());
            remains
        });
        is_ready.recv().unwrap();
        Self {
            shelf,
            stop,
            thread,
        }
    }

    fn stop(self) -> Remains {
        let _ = self.stop.send(());
        self.thread.join().unwrap()
    }
}

/// A client's socket in the client's namespace.
fn client_socket(cable: &Cable, address: Ipv4Addr, port: u16) -> UdpSocket {
    let namespace = cable.client.clone();
    let open = move || {
        enter(&namespace);
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.set_broadcast(true).unwrap();
        socket.bind_device(Some(b"eth0")).unwrap();
        socket
            .bind(&SocketAddrV4::new(address, port).into())
            .unwrap();
        let socket: UdpSocket = socket.into();
        socket
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        socket
    };
    std::thread::spawn(open).join().unwrap()
}

fn broadcast(socket: &UdpSocket, bytes: &[u8]) {
    socket
        .send_to(bytes, SocketAddrV4::new(Ipv4Addr::BROADCAST, 67))
        .unwrap();
}

fn answer(socket: &UdpSocket) -> (DhcpMessage, std::net::SocketAddr) {
    let mut buffer = [0; 2048];
    let (len, from) = socket.recv_from(&mut buffer).unwrap();
    (DhcpMessage::parse(&buffer[..len]).unwrap(), from)
}

fn is_silent(socket: &UdpSocket) -> bool {
    socket
        .set_read_timeout(Some(Duration::from_millis(400)))
        .unwrap();
    let silent = socket.recv(&mut [0; 2048]).is_err();
    socket
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    silent
}

/// The payload of one frame of a capture.
fn frame(capture: &str, number: usize) -> Vec<u8> {
    captures::one(capture)
        .into_iter()
        .find(|datagram| datagram.frame == number)
        .unwrap()
        .payload
}

fn proxy() -> BootServerConfig {
    BootServerConfig::new(None, Mode::Proxy)
}

#[test]
fn a_captured_ovmf_discover_gets_the_proxy_offer_and_the_file_is_there() {
    let cable = Cable::new();
    cable.give_client_its_address();
    let server = Server::start(&cable, BootAnswer::Agent, proxy());
    let socket = client_socket(&cable, Ipv4Addr::UNSPECIFIED, 68);

    broadcast(&socket, &frame("uefi-pxe-uki", 1));
    let (offer, from) = answer(&socket);
    assert_eq!(from, SocketAddrV4::new(SERVER, 67).into());
    assert_eq!(offer.message_type(), Some(MessageType::Offer));
    assert_eq!(
        (offer.yiaddr, offer.siaddr, offer.server_id()),
        (Ipv4Addr::UNSPECIFIED, SERVER, Some(SERVER))
    );
    assert_eq!(offer.vendor_class(), "PXEClient");
    assert_eq!(offer.boot_file().as_deref(), Some("lamplighter.efi"));
    assert_eq!(offer.option(options::VENDOR), Some(&[6, 1, 8, 255][..]));
    assert!(offer.client_uuid().is_some());

    broadcast(&socket, &frame("uefi-pxe-uki", 3));
    assert!(
        is_silent(&socket),
        "the REQUEST is for the site's DHCP server"
    );

    broadcast(&socket, &frame("uefi-http-uki", 1));
    let (offer, _) = answer(&socket);
    let url = offer.boot_file().unwrap();
    assert_eq!(
        (offer.vendor_class().as_str(), url.as_str()),
        ("HTTPClient", "http://10.77.0.9:8080/boot/lamplighter.efi")
    );
    assert_eq!(offer.option(options::VENDOR), None);

    broadcast(&socket, &frame("bios-ipxerom-http", 1));
    assert!(is_silent(&socket), "BIOS is not served");

    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("fetched");
    cable.in_client("curl", &["-sSf", "-o", out.to_str().unwrap(), &url]);
    assert_is_the_large_file(&out);
    let tftp = format!("tftp://{SERVER}/lamplighter.efi");
    cable.in_client(
        "curl",
        &[
            "-sS",
            "--tftp-blksize",
            "1468",
            "-o",
            out.to_str().unwrap(),
            &tftp,
        ],
    );
    assert_is_the_large_file(&out);

    server.shelf.wait_for(
        "seen over HTTP",
        |event| matches!(event, BootEvent::Seen { client } if client.transport == Transport::Http),
    );
    let ignored = server
        .shelf
        .wait_for("BIOS", |event| matches!(event, BootEvent::Ignored { .. }));
    let BootEvent::Ignored { mac, reason } = ignored else {
        panic!("{ignored:?}")
    };
    assert_eq!(mac.unwrap().to_string(), "52:54:00:77:00:0a");
    assert!(reason.to_string().contains("BIOS on x86"), "{reason}");
    let (_, counts) = server.stop();
    assert_eq!(
        (
            counts.dhcp_packets,
            counts.offered,
            counts.transfers_finished
        ),
        (4, 2, 2)
    );
    assert_eq!(
        counts.ignored.into_iter().collect::<Vec<_>>(),
        [("architecture", 1), ("not_for_us", 1)]
    );
}

#[test]
fn port_4011_answers_the_port_that_asked() {
    let cable = Cable::new();
    cable.give_client_its_address();
    let server = Server::start(&cable, BootAnswer::LocalDisk, proxy());
    let socket = client_socket(&cable, CLIENT, 4011);
    socket
        .send_to(
            &frame("proxy-uefi-pxeservice", 6),
            SocketAddrV4::new(SERVER, 4011),
        )
        .unwrap();
    let (ack, from) = answer(&socket);
    assert_eq!(from, SocketAddrV4::new(SERVER, 4011).into());
    assert_eq!(
        (ack.message_type(), ack.yiaddr),
        (Some(MessageType::Ack), Ipv4Addr::UNSPECIFIED)
    );
    assert_eq!(
        (ack.ciaddr, ack.boot_file().as_deref()),
        (CLIENT, Some("local.efi"))
    );
    server.stop();
}

#[test]
fn the_owner_can_say_no_and_a_foreign_server_is_noticed() {
    let cable = Cable::new();
    cable.give_client_its_address();
    let server = Server::start(
        &cable,
        BootAnswer::Ignore("till 4 is open for business".into()),
        proxy(),
    );
    let socket = client_socket(&cable, Ipv4Addr::UNSPECIFIED, 68);
    broadcast(&socket, &frame("uefi-pxe-uki", 1));
    assert!(is_silent(&socket));
    server.shelf.wait_for("policy", |event| {
        matches!(event, BootEvent::Ignored { reason, .. } if reason.to_string() == "till 4 is open for business")
    });
    // Another machine's DHCP server offers a boot file, twice; a plain one offers none.
    let foreign = client_socket(&cable, CLIENT, 67);
    let offer = frame("myproxy-uefi-direct", 2);
    for bytes in [&offer, &offer, &frame("myproxy-uefi-direct", 3)] {
        foreign
            .send_to(bytes, SocketAddrV4::new(Ipv4Addr::BROADCAST, 68))
            .unwrap();
    }
    let event = server.shelf.wait_for("foreign", |event| {
        matches!(event, BootEvent::ForeignServer { .. })
    });
    let BootEvent::ForeignServer {
        interface,
        server: seen,
    } = event
    else {
        panic!("{event:?}")
    };
    assert_eq!(
        (interface.as_str(), seen.server, seen.is_proxy),
        ("eth0", Ipv4Addr::new(10, 77, 0, 1), true)
    );
    assert_eq!(seen.file.as_deref(), Some("agent.efi"));
    let events = server.shelf.events();
    assert_eq!(
        events
            .iter()
            .filter(|event| matches!(event, BootEvent::ForeignServer { .. }))
            .count(),
        1
    );
    server.stop();
}

fn pool(leases: Vec<LeaseRecord>) -> BootServerConfig {
    let address = |last| Ipv4Addr::new(10, 77, 0, last);
    let pool = PoolConfig {
        server: SERVER,
        first: address(100),
        last: address(120),
        subnet_mask: Ipv4Addr::new(255, 255, 255, 0),
        router: Some(address(1)),
        dns: vec![address(2), address(3)],
        lease_time: Duration::from_secs(3600),
    };
    BootServerConfig {
        leases,
        ..BootServerConfig::new(Some("eth0".into()), Mode::Full(pool))
    }
}

/// Runs udhcpc once and returns the variables that its script was given.
fn udhcpc(cable: &Cable, more: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let (script, said) = (folder.path().join("script"), folder.path().join("said"));
    let text = format!(
        "#!/bin/sh\n[ \"$1\" = bound ] && env > {}\nexit 0\n",
        said.display()
    );
    std::fs::write(&script, text).unwrap();
    run("chmod", &["+x", script.to_str().unwrap()]);
    let arguments = [
        "udhcpc",
        "-i",
        "eth0",
        "-f",
        "-n",
        "-q",
        "-s",
        script.to_str().unwrap(),
    ];
    cable.in_client("busybox", &[&arguments[..], more].concat());
    std::fs::read_to_string(said).unwrap()
}

fn value<'a>(variables: &'a str, name: &str) -> &'a str {
    variables
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
        .unwrap_or("")
}

#[test]
fn udhcpc_gets_an_address_and_keeps_it_over_a_restart() {
    let cable = Cable::new();
    let server = Server::start(&cable, BootAnswer::Agent, pool(Vec::new()));
    let first = udhcpc(&cable, &[]);
    let address: Ipv4Addr = value(&first, "ip").parse().unwrap();
    assert!((100..=120).contains(&address.octets()[3]), "{first}");
    assert_eq!(value(&first, "subnet"), "255.255.255.0");
    assert_eq!(value(&first, "router"), "10.77.0.1");
    assert_eq!(value(&first, "dns"), "10.77.0.2 10.77.0.3");
    assert_eq!(
        (value(&first, "lease"), value(&first, "serverid")),
        ("3600", "10.77.0.9")
    );
    assert_eq!(
        value(&first, "boot_file"),
        "",
        "an ordinary client is not told to boot"
    );
    server.shelf.wait_for(
        "leased",
        |event| matches!(event, BootEvent::Leased { address: given, .. } if *given == address),
    );

    // A second client of the same machine, with another client id and another wish.
    let wish = if address.octets()[3] == 101 {
        "10.77.0.102"
    } else {
        "10.77.0.101"
    };
    let again = udhcpc(&cable, &["-C", "-x", "0x3d:ff00", "-r", wish]);
    assert_eq!(
        value(&again, "ip"),
        address.to_string(),
        "one address for one machine"
    );

    let (leases, counts) = server.stop();
    assert_eq!(
        leases.iter().map(|lease| lease.address).collect::<Vec<_>>(),
        [address]
    );
    assert_eq!(counts.offered, 0);
    let server = Server::start(&cable, BootAnswer::Agent, pool(leases));
    assert_eq!(
        value(&udhcpc(&cable, &["-r", wish]), "ip"),
        address.to_string()
    );
    assert_eq!(server.stop().0.len(), 1);
}

#[test]
fn in_full_mode_firmware_gets_address_and_file_from_one_server() {
    let cable = Cable::new();
    let server = Server::start(&cable, BootAnswer::Agent, pool(Vec::new()));
    let socket = client_socket(&cable, Ipv4Addr::UNSPECIFIED, 68);
    broadcast(&socket, &frame("uefi-pxe-uki", 1));
    let (offer, _) = answer(&socket);
    assert!(
        (100..=120).contains(&offer.yiaddr.octets()[3]),
        "{}",
        offer.yiaddr
    );
    assert_eq!(
        (offer.siaddr, offer.boot_file().as_deref()),
        (SERVER, Some("lamplighter.efi"))
    );
    assert_eq!(
        (offer.option(options::VENDOR), offer.vendor_class().as_str()),
        (None, "")
    );

    // The captured REQUEST, for our offer instead of the captured server's.
    let mut request = frame("uefi-pxe-uki", 3);
    let replace = |packet: &mut Vec<u8>, code: u8, address: Ipv4Addr| {
        let at = packet
            .windows(2)
            .position(|window| window == [code, 4])
            .unwrap();
        packet[at + 2..at + 6].copy_from_slice(&address.octets());
    };
    replace(&mut request, options::SERVER_ID, SERVER);
    replace(&mut request, options::REQUESTED_ADDRESS, offer.yiaddr);
    broadcast(&socket, &request);
    let (ack, _) = answer(&socket);
    assert_eq!(
        (ack.message_type(), ack.yiaddr),
        (Some(MessageType::Ack), offer.yiaddr)
    );
    assert_eq!(ack.boot_file().as_deref(), Some("lamplighter.efi"));

    broadcast(&socket, &frame("uefi-http-uki", 1));
    let (offer, _) = answer(&socket);
    assert_eq!(offer.vendor_class(), "HTTPClient");
    assert_eq!(
        offer.yiaddr, ack.yiaddr,
        "the same machine by its Ethernet address"
    );
    let (leases, counts) = server.stop();
    assert_eq!((leases.len(), counts.offered), (1, 2));
}
