//! Connections to port 8080 that dawdle, that take nothing, and that say what is no request.

use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::{sleep, timeout},
};

use crate::{Attack, Failure};

/// Connections of one address; a node takes fewer.
const AT_ONCE: usize = 12;
const PAUSE: Duration = Duration::from_millis(50);
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// The least that a kernel gives: what is sent waits at the sender.
const UNREAD_BYTES: u32 = 2048;
const REQUEST: &[u8] =
    b"GET /boot/lamplighter.efi HTTP/1.1\r\nHost: boot\r\nUser-Agent: stranger\r\n\r\n";

pub(crate) async fn attack(how: &str, attack: Attack) -> Result<(), Failure> {
    let mut all = tokio::task::JoinSet::new();
    for address in attack.addresses(AT_ONCE) {
        all.spawn(again_and_again(how.to_owned(), attack.clone(), address));
    }
    all.join_all().await.into_iter().collect()
}

/// From this address.
pub(crate) async fn connect(
    from: Ipv4Addr,
    to: SocketAddrV4,
    unread_bytes: Option<u32>,
) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    if let Some(bytes) = unread_bytes {
        socket.set_recv_buffer_size(bytes)?;
    }
    socket.bind((from, 0).into())?;
    socket.connect(to.into()).await
}

async fn again_and_again(how: String, attack: Attack, from: Ipv4Addr) -> Result<(), Failure> {
    for n in 0usize.. {
        let done = match how.as_str() {
            "slow" => slow(&attack, from).await,
            "unread" => unread(&attack, from).await,
            "malformed" => malformed(&attack, from, n).await,
            other => return Err(format!("no mode http-{other}").into()),
        };
        // what is refused comes again a little later
        if done.is_err() {
            sleep(PAUSE).await;
        }
    }
    Ok(())
}

/// A byte of its header in a second.
async fn slow(attack: &Attack, from: Ipv4Addr) -> io::Result<()> {
    let mut stream = connect(from, attack.target, None).await?;
    for byte in REQUEST {
        stream.write_all(&[*byte]).await?;
        attack.got_through();
        sleep(Duration::from_secs(1)).await;
    }
    Ok(())
}

/// Asks for the largest file and takes none of it.
async fn unread(attack: &Attack, from: Ipv4Addr) -> io::Result<()> {
    let mut stream = connect(from, attack.target, Some(UNREAD_BYTES)).await?;
    stream.write_all(REQUEST).await?;
    attack.got_through();
    // a connection that has ended says so, unread bytes or not
    loop {
        sleep(Duration::from_secs(1)).await;
        stream.write_all(b"GET").await?;
    }
}

/// In turns: a method that is not served, a name that climbs, a range that is none, headers without an end, two lengths, noise.
async fn malformed(attack: &Attack, from: Ipv4Addr, n: usize) -> io::Result<()> {
    let headers = format!(
        "GET /boot/local.efi HTTP/1.1\r\n{}\r\n",
        "X-A: b\r\n".repeat(2000)
    );
    let noise = super::packets::noise_bytes(n as u64, 4096);
    let requests: [&[u8]; 6] = [
        b"POST /boot/local.efi HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nx",
        b"GET /boot/../../etc/shadow HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /boot/none HTTP/1.1\r\nHost: a\r\nRange: bytes=99999999999999999999-0\r\n\r\n",
        headers.as_bytes(),
        b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        &noise,
    ];
    let mut stream = connect(from, attack.target, None).await?;
    stream.write_all(requests[n % requests.len()]).await?;
    attack.got_through();
    let mut answer = [0; 4096];
    let _ = timeout(ANSWER_WITHIN, stream.read(&mut answer)).await;
    Ok(())
}
