//! The DHCP sockets of one interface: 67, 4011, and a watch on 68 for other servers' answers. No rule is made here.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use boot_proto::dhcp::{
    BootAnswer, BootClient, BootFields, BootPolicy, Decision, Destination, DhcpMessage, DhcpReply,
    DhcpRequest, IgnoreReason, MessageType, ServerPort, boot_fields, decide, foreign_boot_server,
    identify, identify_for_proxy,
};
use boot_proto::lease::{LeaseAction, LeasePool, LeaseRecord};
use tokio::sync::watch;

use crate::booter::{BootEvent, Booter};
use crate::config::Ports;
use crate::events::Events;
use crate::interface::Interface;
use crate::udp::{Received, UdpListener};

/// Larger than any DHCP packet that is not fragmented.
const PACKET_BYTES_MAX: usize = 2048;
/// Requests that are answered in a second; a store full of machines asks less often, and a machine that gets no answer asks again.
/// Each costs a look at the site, and a packet to everybody on the network.
const ANSWERS_PER_SECOND_MAX: u32 = 500;
/// The same foreign server is told of again after this.
const FOREIGN_SERVER_PAUSE: Duration = Duration::from_secs(60);
/// Foreign servers that are told apart; further ones are not told of.
const FOREIGN_SERVERS_MAX: usize = 64;
/// Silence because of it, as it is counted.
const TOO_MANY: &str = "too_many";
/// Pause after the socket itself failed (interface gone), so that the loop does not spin.
const SOCKET_ERROR_PAUSE: Duration = Duration::from_secs(1);
/// Longest sleep when no lease runs out sooner.
const IDLE: Duration = Duration::from_secs(3600);

/// The leases as of some moment, for the owner to store.
pub(crate) type LeaseBook = Arc<Mutex<(Instant, Vec<LeaseRecord>)>>;

/// The three sockets.
pub(crate) struct DhcpSockets {
    pub(crate) dhcp: UdpListener,
    pub(crate) pxe: UdpListener,
    /// `None` where the port could not be had: then other boot servers go unnoticed.
    pub(crate) watch: Option<UdpListener>,
}

impl DhcpSockets {
    pub(crate) fn bind(
        interface: &Interface,
        ports: Ports,
    ) -> Result<Self, (&'static str, u16, io::Error)> {
        let bind = |what, address, port| {
            UdpListener::bind_shared(&interface.name, address, port)
                .map_err(|error| (what, port, error))
        };
        let any = Ipv4Addr::UNSPECIFIED;
        // Bound to the broadcast address, it never takes a packet away from this machine's own DHCP client.
        let watch = bind("DHCP client", Ipv4Addr::BROADCAST, ports.dhcp_client)
            .inspect_err(
                |(.., error)| tracing::warn!(%error, "other boot servers will go unnoticed"),
            )
            .ok();
        Ok(Self {
            dhcp: bind("DHCP", any, ports.dhcp)?,
            pxe: bind("PXE", any, ports.pxe)?,
            watch,
        })
    }
}

/// The DHCP server of one interface.
pub(crate) struct DhcpServer {
    pub(crate) interface: Interface,
    pub(crate) sockets: DhcpSockets,
    /// The pool in full mode; `None` is a proxy.
    pub(crate) pool: Option<LeasePool>,
    pub(crate) book: LeaseBook,
    pub(crate) booter: Arc<dyn Booter>,
    pub(crate) events: Events,
    pub(crate) http_port: u16,
    pub(crate) client_port: u16,
    pub(crate) start: Instant,
    pub(crate) foreign: BTreeMap<Ipv4Addr, Instant>,
    pub(crate) answered: Answered,
}

/// What was answered in this second.
#[derive(Debug)]
pub(crate) struct Answered {
    second: Instant,
    count: u32,
}

impl Answered {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            second: now,
            count: 0,
        }
    }

    fn may_be_more(&mut self, now: Instant) -> bool {
        if now - self.second >= Duration::from_secs(1) {
            *self = Self::new(now);
        }
        self.count += 1;
        self.count <= ANSWERS_PER_SECOND_MAX
    }
}

impl DhcpServer {
    /// Serves until told to stop.
    pub(crate) async fn serve(mut self, mut stop: watch::Receiver<bool>) {
        let mut on_dhcp = vec![0; PACKET_BYTES_MAX];
        let mut on_pxe = vec![0; PACKET_BYTES_MAX];
        let mut on_watch = vec![0; PACKET_BYTES_MAX];
        loop {
            let lease_ends = self.pool.as_ref().and_then(LeasePool::poll_timeout);
            let wake = lease_ends.map_or_else(|| Instant::now() + IDLE, |at| self.start + at);
            let received = tokio::select! {
                _ = stop.changed() => return,
                received = self.sockets.dhcp.receive(&mut on_dhcp) => match received {
                    Ok(received) => {
                        self.client_packet(&on_dhcp[..received.len], received, ServerPort::Dhcp).await;
                        Ok(())
                    }
                    Err(error) => Err(error),
                },
                received = self.sockets.pxe.receive(&mut on_pxe) => match received {
                    Ok(received) => {
                        self.client_packet(&on_pxe[..received.len], received, ServerPort::Pxe).await;
                        Ok(())
                    }
                    Err(error) => Err(error),
                },
                received = watch_receive(self.sockets.watch.as_ref(), &mut on_watch) => {
                    received.map(|received| self.server_packet(&on_watch[..received.len]))
                }
                () = tokio::time::sleep_until(wake.into()) => {
                    self.leases_ran_out().await;
                    Ok(())
                }
            };
            if let Err(error) = received {
                tracing::warn!(interface = self.interface.name, %error, "DHCP socket failed");
                tokio::time::sleep(SOCKET_ERROR_PAUSE).await;
            }
        }
    }

    async fn client_packet(&mut self, bytes: &[u8], received: Received, port: ServerPort) {
        let Ok(message) = DhcpMessage::parse(bytes) else {
            self.events.count(|counts| counts.dhcp_malformed += 1);
            return;
        };
        self.events.count(|counts| counts.dhcp_packets += 1);
        // A client that asked one of our addresses gets its answer from that one.
        let server = received.local.unwrap_or(self.interface.address);
        let request = DhcpRequest {
            message,
            port,
            from: received.from,
        };
        // The pool owns port 67 alone; on 4011 both modes are the same boot server.
        if self.pool.is_some() && port == ServerPort::Dhcp {
            if self.answered.may_be_more(Instant::now()) {
                self.full(request).await;
            } else {
                self.count_ignored(TOO_MANY);
            }
            return;
        }
        let client = match identify_for_proxy(&request) {
            Ok(client) => client,
            Err(reason) => {
                self.ignored(&request.message, reason);
                return;
            }
        };
        if !self.answered.may_be_more(Instant::now()) {
            return self.count_ignored(TOO_MANY);
        }
        let policy = self.policy(server, self.seen(&client));
        match decide(&request, &policy) {
            Decision::Reply { reply, to } => {
                let sent = self.send(&reply, to, server, port).await;
                if let (true, Some(boot)) = (sent, reply.boot) {
                    self.events.tell(BootEvent::Offered {
                        client,
                        file: boot.file,
                    });
                }
            }
            Decision::Ignore(reason) => {
                self.ignored(&request.message, reason);
            }
        }
    }

    /// Full mode: the pool answers everyone, with boot fields for those who asked and may.
    async fn full(&mut self, request: DhcpRequest) {
        let message = request.message;
        let boot = identify(&message).and_then(|client| {
            let policy = self.policy(self.interface.address, self.seen(&client));
            boot_fields(&client, &policy).map(|boot| (client, boot))
        });
        let boot = match boot {
            Ok(boot) => Some(boot),
            Err(reason) => {
                self.ignored(&message, reason);
                None
            }
        };
        let now = self.start.elapsed();
        if let Some(pool) = &mut self.pool {
            pool.handle_message(now, &message, boot.as_ref().map(|(_, boot)| boot.clone()));
        }
        self.carry_out(boot).await;
    }

    async fn leases_ran_out(&mut self) {
        let now = self.start.elapsed();
        if let Some(pool) = &mut self.pool {
            pool.handle_timeout(now);
        }
        self.carry_out(None).await;
    }

    /// Drains the pool's actions.
    async fn carry_out(&mut self, boot: Option<(BootClient, BootFields)>) {
        while let Some(action) = self.pool.as_mut().and_then(LeasePool::poll_action) {
            match action {
                LeaseAction::Send { reply, to } => {
                    if self
                        .send(&reply, to, self.interface.address, ServerPort::Dhcp)
                        .await
                    {
                        self.tell_of_reply(&reply, boot.as_ref());
                    }
                }
                LeaseAction::Changed => self.write_book(),
                LeaseAction::Exhausted { mac } => {
                    self.events.tell(BootEvent::PoolExhausted { mac })
                }
            }
        }
    }

    fn tell_of_reply(&self, reply: &DhcpReply, boot: Option<&(BootClient, BootFields)>) {
        match (reply.message_type, boot) {
            (MessageType::Ack, _) if !reply.yiaddr.is_unspecified() => {
                self.events.tell(BootEvent::Leased {
                    mac: reply.mac,
                    address: reply.yiaddr,
                });
            }
            (MessageType::Offer, Some((client, boot))) => {
                self.events.tell(BootEvent::Offered {
                    client: client.clone(),
                    file: boot.file.clone(),
                });
            }
            _ => {}
        }
    }

    fn write_book(&self) {
        if let Some(pool) = &self.pool {
            let leases = pool.leases(self.start.elapsed()).collect();
            *self.book.lock().unwrap_or_else(PoisonError::into_inner) = (Instant::now(), leases);
        }
    }

    /// Asks the owner what this machine boots.
    fn seen(&self, client: &BootClient) -> BootAnswer {
        self.events.tell(BootEvent::Seen {
            client: client.clone(),
        });
        self.booter.answer(client)
    }

    fn policy(&self, server: Ipv4Addr, answer: BootAnswer) -> BootPolicy {
        BootPolicy {
            server,
            http_port: self.http_port,
            answer,
        }
    }

    fn count_ignored(&self, label: &'static str) {
        self.events
            .count(|counts| *counts.ignored.entry(label).or_default() += 1);
    }

    fn ignored(&self, message: &DhcpMessage, reason: IgnoreReason) {
        self.count_ignored(reason.label());
        // What is no network boot, or belongs to the site's DHCP server, is everyday life and no news.
        if !matches!(
            reason,
            IgnoreReason::NotNetworkBoot
                | IgnoreReason::NotForUs { .. }
                | IgnoreReason::ServerPacket
        ) {
            self.events.tell(BootEvent::Ignored {
                mac: message.mac(),
                reason,
            });
        }
    }

    /// Whether it went out. A sender may have forged an address that cannot be reached, so a failure stops nothing.
    async fn send(
        &self,
        reply: &DhcpReply,
        to: Destination,
        from: Ipv4Addr,
        port: ServerPort,
    ) -> bool {
        let to = match to {
            Destination::Broadcast => SocketAddrV4::new(Ipv4Addr::BROADCAST, self.client_port),
            Destination::Unicast(to) => to,
        };
        let socket = match port {
            ServerPort::Dhcp => &self.sockets.dhcp,
            ServerPort::Pxe => &self.sockets.pxe,
        };
        let sent = match reply.encode() {
            Ok(packet) => socket.send(&packet, from, to).await,
            Err(error) => Err(io::Error::other(error)),
        };
        if let Err(error) = &sent {
            tracing::warn!(machine.mac = %reply.mac, %to, %error, "DHCP answer not sent");
        }
        sent.is_ok()
    }

    /// A packet to DHCP clients, ours included: another server's answer?
    fn server_packet(&mut self, bytes: &[u8]) {
        let Ok(message) = DhcpMessage::parse(bytes) else {
            return;
        };
        let Some(server) = foreign_boot_server(&message, &[self.interface.address]) else {
            return;
        };
        let now = Instant::now();
        let known = self.foreign.get(&server.server);
        let told_lately = known.is_some_and(|told| now - *told < FOREIGN_SERVER_PAUSE);
        if told_lately || (known.is_none() && self.foreign.len() >= FOREIGN_SERVERS_MAX) {
            return;
        }
        self.foreign.insert(server.server, now);
        self.events.tell(BootEvent::ForeignServer {
            interface: self.interface.name.clone(),
            server,
        });
    }
}

async fn watch_receive(watch: Option<&UdpListener>, buffer: &mut [u8]) -> io::Result<Received> {
    match watch {
        Some(socket) => socket.receive(buffer).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_are_answered_in_a_second() {
        let begun = Instant::now();
        let mut answered = Answered::new(begun);
        let mut of = |now| (0..2000).filter(|_| answered.may_be_more(now)).count();
        assert_eq!(of(begun), 500);
        assert_eq!(of(begun + Duration::from_millis(999)), 0);
        assert_eq!(of(begun + Duration::from_secs(1)), 500);
    }
}
