//! The port of peers: who greets, asks and floods there, and an agent that has a right to an answer.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use image_format::{Form, PartId};
use peer_cache_node::{
    AdmissionWish, Event, Identity, PeerCache, PeerCacheConfig, Role, Site, UploadRules, slab::Slab,
};
use peer_cache_proto::{
    machine::MachineFacts,
    tpm::TpmProof,
    wire::{
        ANSWER_BYTES, AdmissionAnswer, Ask, Credentials, Documents, Frame, GREETING_BYTES_MAX,
        Request, STRANGER_FRAME_BYTES_MAX, TicketProof,
    },
};
use tokio::time::{sleep, timeout};
use trust_format::{Digest, Order, peek};

use crate::{
    Attack, Failure,
    attacker::{Attacker, hello, write},
};

/// Attacks of one address at a time; a node lets in fewer.
const AT_ONCE: usize = 8;
const PAUSE: Duration = Duration::from_millis(5);
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
const SLAB_BYTES: u64 = 16 << 20;
/// x and y of P-256's generator (SP 800-186, section 3.2.1.3).
const GENERATOR: [u8; 64] = [
    0x6b, 0x17, 0xd1, 0xf2, 0xe1, 0x2c, 0x42, 0x47, 0xf8, 0xbc, 0xe6, 0xe5, 0x63, 0xa4, 0x40, 0xf2,
    0x77, 0x03, 0x7d, 0x81, 0x2d, 0xeb, 0x33, 0xa0, 0xf4, 0xa1, 0x39, 0x45, 0xd8, 0x98, 0xc2, 0x96,
    0x4f, 0xe3, 0x42, 0xe2, 0xfe, 0x1a, 0x7f, 0x9b, 0x8e, 0xe7, 0xeb, 0x4a, 0x7c, 0x0f, 0x9e, 0x16,
    0x2b, 0xce, 0x33, 0x57, 0x6b, 0x31, 0x5e, 0xce, 0xcb, 0xb6, 0x40, 0x68, 0x37, 0xbf, 0x51, 0xf5,
];

pub(crate) async fn attack(mode: &str, attack: Attack) -> Result<(), Failure> {
    let node = SocketAddr::V4(attack.target);
    match mode {
        "handshakes" => {
            let address = *attack.addresses.first().ok_or("no address")?;
            handshakes(node, address, &attack.through).await
        }
        "flood" => flood(node, &attack.addresses, &attack.through).await,
        _ => {
            let mut all = tokio::task::JoinSet::new();
            for address in attack.addresses(AT_ONCE) {
                all.spawn(again_and_again(
                    mode.to_owned(),
                    node,
                    address,
                    attack.through.clone(),
                ));
            }
            all.join_all().await.into_iter().collect()
        }
    }
}

async fn again_and_again(
    mode: String,
    node: SocketAddr,
    address: Ipv4Addr,
    through: Arc<AtomicU64>,
) -> Result<(), Failure> {
    loop {
        let attacker = Attacker::at(address);
        let got_through = match mode.as_str() {
            "silent" => silent(&attacker, node).await,
            "greeters" => greet_endlessly(&attacker, node).await,
            "strangers" => wait_endlessly(&attacker, node).await,
            "asks" => ask_to_be_admitted(&attacker, node, &through).await,
            "requests" => ask_endlessly(&attacker, node, &through).await,
            other => return Err(format!("no mode {other}").into()),
        };
        if got_through.is_ok() {
            through.fetch_add(1, Ordering::Relaxed);
        }
        sleep(PAUSE).await;
    }
}

/// A handshake, and then nothing.
async fn silent(attacker: &Attacker, node: SocketAddr) -> Result<(), Failure> {
    attacker.connect(node).await?.closed().await;
    Ok(())
}

/// The longest documents that are waited for, all but the last byte.
async fn greet_endlessly(attacker: &Attacker, node: SocketAddr) -> Result<(), Failure> {
    let connection = attacker.connect(node).await?;
    let (mut send, _recv) = connection.open_bi().await?;
    let first = hello(1, Credentials::Agent { ticket: None });
    write(&mut send, &Frame::Hello(first)).await?;
    send.write_all(&(GREETING_BYTES_MAX as u32).to_le_bytes())
        .await?;
    send.write_all(&vec![1; GREETING_BYTES_MAX - 1]).await?;
    connection.closed().await;
    Ok(())
}

/// Greets as a stranger, sends as much of a frame and of a request as is taken, and stays.
async fn wait_endlessly(attacker: &Attacker, node: SocketAddr) -> Result<(), Failure> {
    let (connection, mut send, _recv) = attacker.greet(node).await?;
    send.write_all(&(STRANGER_FRAME_BYTES_MAX as u32).to_le_bytes())
        .await?;
    send.write_all(&vec![1; STRANGER_FRAME_BYTES_MAX - 1])
        .await?;
    let (mut request, _answer) = connection.open_bi().await?;
    let unread = vec![1; 1 << 20];
    tokio::select! {
        _ = request.write_all(&unread) => {}
        _ = connection.closed() => {}
    }
    connection.closed().await;
    Ok(())
}

/// Requests without a right to an answer.
async fn ask_endlessly(
    attacker: &Attacker,
    node: SocketAddr,
    through: &AtomicU64,
) -> Result<(), Failure> {
    let (connection, _send, _recv) = attacker.greet(node).await?;
    let request = Request {
        manifest: Digest([7; 32]),
        ask: Ask::Next,
    };
    loop {
        let (mut send, mut recv) = connection.open_bi().await?;
        send.write_all(&request.to_bytes()).await?;
        send.finish()?;
        recv.read_to_end(ANSWER_BYTES).await?;
        through.fetch_add(1, Ordering::Relaxed);
    }
}

/// Asks to be admitted, each time as another machine, with a PIN and a proof that has to be checked.
async fn ask_to_be_admitted(
    attacker: &Attacker,
    node: SocketAddr,
    through: &AtomicU64,
) -> Result<(), Failure> {
    let (_connection, mut send, mut recv) = attacker.greet(node).await?;
    let answers = async {
        let mut sink = [0; 4096];
        while recv.read(&mut sink).await?.is_some() {}
        Ok::<(), Failure>(())
    };
    let asks = async {
        for n in 0u64.. {
            let frame = Frame::AdmitMe {
                facts: MachineFacts::new(None, Some(&format!("{node}-{n}")), &[], "stranger"),
                wish: None,
                finished: vec![n; 1000],
                pin: Some(format!("{n:08}")),
                // a point of the curve: P-256's generator
                tpm: Some(TpmProof {
                    public: GENERATOR,
                    signature: [1; 64],
                }),
            };
            write(&mut send, &frame).await?;
            through.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    };
    tokio::select! {
        ended = answers => ended,
        ended = asks => ended,
    }
}

/// First packets of handshakes that nobody goes on with.
async fn flood(
    node: SocketAddr,
    addresses: &[Ipv4Addr],
    through: &AtomicU64,
) -> Result<(), Failure> {
    let sockets: Vec<UdpSocket> = addresses
        .iter()
        .map(|address| UdpSocket::bind((*address, 0)))
        .collect::<Result<_, _>>()?;
    let nobody = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    nobody.set_read_timeout(Some(Duration::from_millis(100)))?;
    let maker = Attacker::at(Ipv4Addr::LOCALHOST);
    let mut packet = [0; 2000];
    for socket in sockets.iter().cycle() {
        let begun = maker.knock(nobody.local_addr()?);
        // the connection's task sends it
        tokio::task::yield_now().await;
        if let Ok(bytes) = nobody.recv(&mut packet) {
            socket.send_to(&packet[..bytes], node)?;
            through.fetch_add(1, Ordering::Relaxed);
        }
        drop(begun);
    }
    Ok(())
}

/// Whole handshakes, one after the other: keys of both sides, hello, a ticket that is checked, and an answer to a request.
async fn handshakes(
    node: SocketAddr,
    address: Ipv4Addr,
    through: &Arc<AtomicU64>,
) -> Result<(), Failure> {
    let identity = Identity::generate()?;
    let (proof, image) = be_admitted(node, &identity).await?;
    let ticket = Credentials::Agent {
        ticket: Some(proof),
    };
    let attacker = Attacker::with(&identity, address);
    let request = Request {
        manifest: image,
        ask: Ask::Part {
            part: PartId(u32::MAX),
            form: Form::Object,
        },
    };
    println!("stranger: admitted");
    for boot in 100.. {
        let whole = async {
            let connection = attacker.connect(node).await?;
            let (mut frames, _recv) = connection.open_bi().await?;
            write(&mut frames, &Frame::Hello(hello(boot, ticket.clone()))).await?;
            write(&mut frames, &Frame::Documents(Documents::default())).await?;
            // refused until the ticket is believed, missing from then on
            loop {
                let (mut send, mut recv) = connection.open_bi().await?;
                send.write_all(&request.to_bytes()).await?;
                send.finish()?;
                let answer = recv.read_to_end(ANSWER_BYTES).await?;
                if answer.first() == Some(&MISSING) {
                    connection.close(0u32.into(), b"");
                    return Ok::<(), Failure>(());
                }
            }
        };
        timeout(ANSWER_WITHIN, whole).await??;
        through.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// The answer's first byte when an agent has a right to it and it is not there.
const MISSING: u8 = 2;

/// As any agent is admitted.
async fn be_admitted(
    node: SocketAddr,
    identity: &Identity,
) -> Result<(TicketProof, Digest), Failure> {
    let slab = std::env::temp_dir().join(format!("stranger-{}", std::process::id()));
    let (cache, mut events) = PeerCache::start(PeerCacheConfig {
        identity: identity.clone(),
        role: Role::Agent,
        boot: 1,
        listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        discover: false,
        site: Site::trusting_the_first_root(),
        credentials: Credentials::Agent { ticket: None },
        keeper: Arc::new(Slab::temporary(&slab, SLAB_BYTES)?),
        origin: None,
        always_on: false,
        uploads: UploadRules::default(),
        voucher_pin: None,
    })?;
    let key = cache.dial(node).await?;
    let serial = format!("STRANGER{}", std::process::id());
    let facts = MachineFacts::new(None, Some(&serial), &[], "stranger");
    cache.ask_admission(
        &key,
        AdmissionWish {
            facts,
            ..AdmissionWish::default()
        },
    );
    let admitted = async {
        while let Some(event) = events.recv().await {
            if let Event::Admission { answer, .. } = event {
                return match answer {
                    AdmissionAnswer::Granted { proof, order } => {
                        Ok((proof, peek::<Order>(&order)?.image))
                    }
                    other => Err(format!("{other:?}").into()),
                };
            }
        }
        Err("no answer".into())
    };
    let granted: Result<_, Failure> = timeout(ANSWER_WITHIN, admitted).await?;
    cache.close().await;
    granted
}
