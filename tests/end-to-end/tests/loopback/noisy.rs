//! A wire that flips bits: everything between two programs goes through it.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Result;

/// One packet in so many has a bit flipped.
const FLIP_EVERY: u64 = 40;
/// QUIC's shortest handshake packets are larger; what is smaller says nothing.
const PACKET_BYTES_MAX: usize = 2048;

/// Forwards packets of one client to a server and back until it is dropped.
pub struct NoisyWire {
    pub address: SocketAddr,
    flipped: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl NoisyWire {
    pub fn to(server: SocketAddr) -> Result<Self> {
        let near = UdpSocket::bind("127.0.0.1:0")?;
        let far = UdpSocket::bind("127.0.0.1:0")?;
        far.connect(server)?;
        let wire = Self {
            address: near.local_addr()?,
            flipped: Arc::default(),
            stop: Arc::default(),
        };
        for socket in [&near, &far] {
            socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        }
        let client = Arc::new(std::sync::Mutex::new(None));
        let (flipped, stop, from) = (wire.flipped.clone(), wire.stop.clone(), client.clone());
        let (near_in, far_out) = (near.try_clone()?, far.try_clone()?);
        std::thread::spawn(move || {
            let mut packets = Noise::new(flipped, stop);
            while let Some((packet, sender)) = packets.next(&near_in) {
                *from.lock().unwrap() = Some(sender);
                let _ = far_out.send(packet);
            }
        });
        let (flipped, stop) = (wire.flipped.clone(), wire.stop.clone());
        std::thread::spawn(move || {
            let mut packets = Noise::new(flipped, stop);
            while let Some((packet, _)) = packets.next(&far) {
                let to = *client.lock().unwrap();
                if let Some(to) = to {
                    let _ = near.send_to(packet, to);
                }
            }
        });
        Ok(wire)
    }

    /// Packets that were changed on their way.
    pub fn flipped(&self) -> u64 {
        self.flipped.load(Ordering::Relaxed)
    }
}

impl Drop for NoisyWire {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

struct Noise {
    buffer: [u8; PACKET_BYTES_MAX],
    seen: u64,
    flipped: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Noise {
    fn new(flipped: Arc<AtomicU64>, stop: Arc<AtomicBool>) -> Self {
        Self {
            buffer: [0; PACKET_BYTES_MAX],
            seen: 0,
            flipped,
            stop,
        }
    }

    fn next(&mut self, socket: &UdpSocket) -> Option<(&[u8], SocketAddr)> {
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return None;
            }
            let Ok((len, sender)) = socket.recv_from(&mut self.buffer) else {
                continue;
            };
            self.seen += 1;
            if self.seen.is_multiple_of(FLIP_EVERY) && len > 0 {
                let bit = usize::try_from(self.seen * 7919).unwrap_or(0) % (len * 8);
                self.buffer[bit / 8] ^= 1 << (bit % 8);
                self.flipped.fetch_add(1, Ordering::Relaxed);
            }
            return Some((&self.buffer[..len], sender));
        }
    }
}
