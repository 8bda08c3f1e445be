//! A UDP socket on one interface that knows to which of our addresses a packet was sent, and answers from that one.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsRawFd;

use nix::cmsg_space;
use nix::libc;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, sendmsg, setsockopt,
    sockopt,
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// A received packet's circumstances.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Received {
    pub(crate) len: usize,
    pub(crate) from: SocketAddrV4,
    /// The address of ours that it was sent to; `None` for a broadcast.
    pub(crate) local: Option<Ipv4Addr>,
}

/// The listening sockets: 67, 4011, 69, and the watch on 68.
pub(crate) struct UdpListener {
    socket: UdpSocket,
}

impl UdpListener {
    /// Listens on one interface, alone: a port that is taken is an error.
    pub(crate) fn bind(interface: &str, port: u16) -> io::Result<Self> {
        Self::from_socket(open(interface)?, Ipv4Addr::UNSPECIFIED, port)
    }

    /// Listens on one interface beside others that share the port, such as a DHCP server on this machine. Each gets every broadcast.
    /// `address` is the unspecified one, or the broadcast address to get nothing else.
    pub(crate) fn bind_shared(interface: &str, address: Ipv4Addr, port: u16) -> io::Result<Self> {
        let socket = open(interface)?;
        socket.set_reuse_address(true)?;
        Self::from_socket(socket, address, port)
    }

    fn from_socket(socket: Socket, address: Ipv4Addr, port: u16) -> io::Result<Self> {
        socket.set_broadcast(true)?;
        setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
        socket.bind(&SocketAddrV4::new(address, port).into())?;
        Ok(Self {
            socket: UdpSocket::from_std(socket.into())?,
        })
    }

    pub(crate) fn port(&self) -> io::Result<u16> {
        Ok(self.socket.local_addr()?.port())
    }

    pub(crate) async fn receive(&self, buffer: &mut [u8]) -> io::Result<Received> {
        self.socket
            .async_io(Interest::READABLE, || receive(&self.socket, buffer))
            .await
    }

    /// Sends from one of our addresses.
    pub(crate) async fn send(
        &self,
        bytes: &[u8],
        from: Ipv4Addr,
        to: SocketAddrV4,
    ) -> io::Result<()> {
        self.socket
            .async_io(Interest::WRITABLE, || send(&self.socket, bytes, from, to))
            .await
    }
}

/// A socket for one peer, on a port that the system chooses.
pub(crate) fn connected(
    interface: &str,
    from: Ipv4Addr,
    peer: SocketAddrV4,
) -> io::Result<UdpSocket> {
    let socket = open(interface)?;
    socket.bind(&SocketAddrV4::new(from, 0).into())?;
    socket.connect(&peer.into())?;
    UdpSocket::from_std(socket.into())
}

fn open(interface: &str) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.bind_device(Some(interface.as_bytes()))?;
    Ok(socket)
}

fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<Received> {
    let mut control = cmsg_space!(libc::in_pktinfo);
    let mut slices = [IoSliceMut::new(buffer)];
    let message = recvmsg::<SockaddrIn>(
        socket.as_raw_fd(),
        &mut slices,
        Some(&mut control),
        MsgFlags::empty(),
    )?;
    let from = message
        .address
        .ok_or_else(|| io::Error::other("packet without a sender"))?;
    let address = |raw: libc::in_addr| Ipv4Addr::from(u32::from_be(raw.s_addr));
    let info = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::Ipv4PacketInfo(info) => Some(info),
        _ => None,
    });
    let info = info.ok_or_else(|| io::Error::other("packet without its destination"))?;
    // The header's destination is the local address only where it is no broadcast, limited or directed.
    let (to, local) = (address(info.ipi_addr), address(info.ipi_spec_dst));
    Ok(Received {
        len: message.bytes,
        from: SocketAddrV4::new(from.ip(), from.port()),
        local: (to == local).then_some(local),
    })
}

fn send(socket: &UdpSocket, bytes: &[u8], from: Ipv4Addr, to: SocketAddrV4) -> io::Result<()> {
    let info = libc::in_pktinfo {
        ipi_ifindex: 0,
        ipi_spec_dst: libc::in_addr {
            s_addr: u32::from(from).to_be(),
        },
        ipi_addr: libc::in_addr { s_addr: 0 },
    };
    sendmsg(
        socket.as_raw_fd(),
        &[IoSlice::new(bytes)],
        &[ControlMessage::Ipv4PacketInfo(&info)],
        MsgFlags::empty(),
        Some(&SockaddrIn::from(to)),
    )?;
    Ok(())
}
