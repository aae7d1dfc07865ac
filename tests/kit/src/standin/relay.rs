//! The way to a server, which may be slow, cut or silent.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::{
    fault::Fault,
    port::{Conditions, Serve, Wire},
    process::Standin,
};

/// Settings of a relay: a port that passes on, byte by byte, what comes in.
///
/// Its faults are those of a network: [`Fault::Refuse`] and [`Fault::Absent`] cut connections and refuse new ones,
/// [`Fault::Reset`] ends them with a reset, [`Fault::Hang`] swallows everything, also on connections that are open, and
/// [`Fault::Slow`] lets every byte of an answer arrive that much later: a TLS connection needs one answer more than the
/// request does. A relay cannot have other faults.
#[derive(Clone, Debug)]
pub struct Relay {
    serving: SocketAddr,
    target: Target,
}

#[derive(Clone, Copy, Debug)]
enum Target {
    /// The same for all.
    Fixed(SocketAddr),
    /// Named by each client in a `CONNECT` request of HTTP/1.1.
    Asked,
}

/// What is longer than this is no `CONNECT` request.
const LONGEST_HEAD: usize = 4096;

// === impl Relay ===

impl Relay {
    /// A relay to the server at this address. It listens on the same address, on any free port: a certificate for the
    /// one is for the other too.
    pub fn to(server: SocketAddr) -> Self {
        Self { serving: SocketAddr::new(server.ip(), 0), target: Target::Fixed(server) }
    }

    /// A relay to where its clients ask for: an HTTP proxy that knows `CONNECT`. It listens on 127.0.0.1.
    pub fn to_anywhere() -> Self {
        Self { serving: (Ipv4Addr::LOCALHOST, 0).into(), target: Target::Asked }
    }

    /// Listens there instead.
    #[must_use]
    pub fn serving_on(mut self, address: SocketAddr) -> Self {
        self.serving = address;
        self
    }

    /// Starts it, healthy.
    pub async fn start(self) -> Result<Standin> {
        let target = self.target;
        let serve: Serve = Arc::new(move |wire, conditions| {
            Box::pin(async move {
                // Whatever ends it, both ends see their connection end.
                let _ = relay(wire, conditions, target).await;
            })
        });
        Standin::start("a relay", None, (self.serving, serve), Fault::is_of_the_way)
            .await
            .context("the relay does not start")
    }
}

async fn relay(mut near: Wire, conditions: Conditions, target: Target) -> io::Result<()> {
    let far = match target {
        Target::Fixed(address) => TcpStream::connect(address).await?,
        Target::Asked => answer_connect(&mut near).await?,
    };
    far.set_nodelay(true)?;
    let (near_reads, near_writes) = tokio::io::split(near);
    let (far_reads, far_writes) = far.into_split();
    tokio::try_join!(pass(near_reads, far_writes), pass_late(far_reads, near_writes, &conditions)).map(drop)
}

/// Connects to where the client asks for, and tells it.
async fn answer_connect(near: &mut Wire) -> io::Result<TcpStream> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() == LONGEST_HEAD {
            return Err(io::ErrorKind::InvalidData.into());
        }
        head.push(near.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head);
    let mut words = head.split(' ');
    let (status, far) = match (words.next(), words.next()) {
        (Some("CONNECT"), Some(server)) => match TcpStream::connect(server).await {
            Ok(far) => ("200 Connection established", Ok(far)),
            Err(error) => ("502 Bad Gateway", Err(error)),
        },
        _ => ("405 Method Not Allowed", Err(io::ErrorKind::InvalidData.into())),
    };
    near.write_all(format!("HTTP/1.1 {status}\r\n\r\n").as_bytes()).await?;
    far
}

async fn pass(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
    tokio::io::copy(&mut from, &mut to).await?;
    to.shutdown().await
}

/// Passes on what comes, each part as late as the fault says when it comes.
async fn pass_late(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    conditions: &Conditions,
) -> io::Result<()> {
    // Unbounded: reading on while parts are held back is what makes them late and not slow.
    let (sender, mut parts) = mpsc::unbounded_channel::<(Instant, Bytes)>();
    let read = async move {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let length = from.read(&mut buffer).await?;
            let delay = match conditions.now() {
                Some(Fault::Slow(delay)) => delay,
                _ => Duration::ZERO,
            };
            // The end is late too. An error would mean that the other half is gone, and this one with it.
            let _ = sender.send((Instant::now() + delay, Bytes::copy_from_slice(&buffer[..length])));
            if length == 0 {
                return io::Result::Ok(());
            }
        }
    };
    let write = async move {
        while let Some((due, part)) = parts.recv().await {
            sleep_until(due).await;
            to.write_all(&part).await?;
        }
        to.shutdown().await
    };
    tokio::try_join!(read, write).map(drop)
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncBufReadExt as _, BufReader},
        net::TcpListener,
        time::timeout,
    };

    use super::*;

    /// Longer than any answer here takes.
    const A_WHILE: Duration = Duration::from_millis(300);

    /// A server that says every line back.
    async fn echo() -> Result<SocketAddr> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut reads, mut writes) = stream.split();
                    tokio::io::copy(&mut reads, &mut writes).await
                });
            }
        });
        Ok(address)
    }

    /// Says something and waits for the echo.
    async fn exchange(stream: &mut BufReader<TcpStream>) -> io::Result<String> {
        stream.write_all(b"hello\n").await?;
        let mut line = String::new();
        match stream.read_line(&mut line).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(line),
        }
    }

    #[tokio::test]
    async fn it_passes_on_what_is_said_until_it_is_cut() -> Result<()> {
        let relay = Relay::to(echo().await?).start().await?;
        let mut stream = BufReader::new(TcpStream::connect(relay.address()).await?);
        assert_eq!(exchange(&mut stream).await?, "hello\n");
        relay.suffer(Fault::Refuse).await?;
        assert!(exchange(&mut stream).await.is_err(), "an open connection lives on");
        assert!(TcpStream::connect(relay.address()).await.is_err(), "a new one is not refused");
        relay.recover().await?;
        let mut stream = BufReader::new(TcpStream::connect(relay.address()).await?);
        assert_eq!(exchange(&mut stream).await?, "hello\n");
        Ok(())
    }

    #[tokio::test]
    async fn what_is_swallowed_comes_when_it_thaws() -> Result<()> {
        let relay = Relay::to(echo().await?).start().await?;
        let mut stream = BufReader::new(TcpStream::connect(relay.address()).await?);
        assert_eq!(exchange(&mut stream).await?, "hello\n");
        relay.suffer(Fault::Hang).await?;
        let mut answer = Box::pin(exchange(&mut stream));
        assert!(timeout(A_WHILE, &mut answer).await.is_err(), "it was answered");
        relay.recover().await?;
        assert_eq!(answer.await?, "hello\n");
        Ok(())
    }

    #[tokio::test]
    async fn every_answer_is_late_until_the_fault_ends() -> Result<()> {
        let relay = Relay::to(echo().await?).start().await?;
        let mut stream = BufReader::new(TcpStream::connect(relay.address()).await?);
        relay.suffer(Fault::Slow(A_WHILE)).await?;
        for _ in 0..2 {
            let asked = Instant::now();
            assert_eq!(exchange(&mut stream).await?, "hello\n");
            assert!(asked.elapsed() >= A_WHILE, "early, after {:?}", asked.elapsed());
        }
        relay.suffer(Fault::Slow(Duration::from_mins(10))).await?;
        relay.recover().await?;
        assert_eq!(exchange(&mut stream).await?, "hello\n");
        Ok(())
    }

    #[tokio::test]
    async fn a_client_may_say_where_to() -> Result<()> {
        let (server, relay) = (echo().await?, Relay::to_anywhere().start().await?);
        let mut stream = BufReader::new(TcpStream::connect(relay.address()).await?);
        stream.write_all(format!("CONNECT {server} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        while !answer.ends_with("\r\n\r\n") {
            stream.read_line(&mut answer).await?;
        }
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert_eq!(exchange(&mut stream).await?, "hello\n");
        Ok(())
    }

    #[tokio::test]
    async fn a_fault_that_would_not_show_is_refused() -> Result<()> {
        let relay = Relay::to_anywhere().start().await?;
        let error = relay.suffer(Fault::Status(500)).await.expect_err("bytes have no status");
        assert!(error.to_string().contains("status=500"), "{error}");
        Ok(())
    }
}
