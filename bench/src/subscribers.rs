//! Plain subscribers of other servers, on a connection each, which read and count and do nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use valise_local_stack::Port;

use crate::Result;
use crate::server::PATIENCE;

const SUBJECT: &str = "bench";
/// Between two looks at whether everything has arrived.
const LOOK: Duration = Duration::from_millis(1);

/// Whose protocol is spoken.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Redis,
    Nats,
}

/// Counts what arrives, at all who listen together.
#[derive(Clone, Default)]
pub(crate) struct Count(Arc<AtomicUsize>);

impl Count {
    pub(crate) fn add(&self, count: usize) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn now(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Waits until so many have arrived.
    pub(crate) async fn reaches(&self, count: usize) -> Result<()> {
        let began = Instant::now();
        while self.now() < count {
            if began.elapsed() > 2 * PATIENCE {
                return Err(format!("only {} of {count} were delivered", self.now()).into());
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }
}

/// Subscribers and a publisher.
pub(crate) struct Subscribers {
    kind: Kind,
    number: usize,
    publisher: TcpStream,
    arrived: Count,
    /// They end with it.
    _listening: JoinSet<()>,
}

impl Subscribers {
    /// Connects them.
    pub(crate) async fn open(kind: Kind, port: u16, number: usize) -> Result<Self> {
        let arrived = Count::default();
        let mut listening = JoinSet::new();
        for _ in 0..number {
            let mut socket = connect(kind, port).await?;
            socket.write_all(kind.subscribe().as_bytes()).await?;
            // What is answered to it shows that the server has taken it.
            let mut answer = vec![0; 4096];
            let mut said = String::new();
            while !said.contains(kind.subscribed()) {
                let read = socket.read(&mut answer).await?;
                if read == 0 {
                    return Err("a subscription was refused".into());
                }
                said.push_str(&String::from_utf8_lossy(&answer[..read]));
            }
            let arrived = arrived.clone();
            listening.spawn(async move {
                // An error shows in that not all arrives.
                let _ = listen(kind, socket, &arrived).await;
            });
        }
        let publisher = connect(kind, port).await?;
        Ok(Self {
            kind,
            number,
            publisher,
            arrived,
            _listening: listening,
        })
    }

    /// Publishes the message so often, and waits for all deliveries. Returns deliveries a second.
    pub(crate) async fn rate(&mut self, message: &[u8], count: usize) -> Result<f64> {
        let one = self.kind.publish(message);
        let (before, total) = (self.arrived.now(), count * self.number);
        let all = one.repeat(count);
        let began = Instant::now();
        self.publisher.write_all(&all).await?;
        self.arrived.reaches(before + total).await?;
        let seconds = began.elapsed().as_secs_f64();
        self.drain();
        Ok(total as f64 / seconds)
    }

    /// What the publisher was answered.
    fn drain(&self) {
        let mut answers = vec![0; 64 * 1024];
        while matches!(self.publisher.try_read(&mut answers), Ok(read) if read > 0) {}
    }
}

async fn connect(kind: Kind, port: u16) -> Result<TcpStream> {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).await?;
    socket.set_nodelay(true)?;
    if matches!(kind, Kind::Nats) {
        socket
            .write_all(b"CONNECT {\"verbose\":false,\"pedantic\":false}\r\n")
            .await?;
    }
    Ok(socket)
}

async fn listen(kind: Kind, mut socket: TcpStream, arrived: &Count) -> Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    let mut filled = 0;
    loop {
        let read = socket.read(&mut buffer[filled..]).await?;
        if read == 0 {
            return Ok(());
        }
        filled += read;
        let (mut taken, mut messages) = (0, 0);
        while let Some((length, what)) = kind.next(&buffer[taken..filled]) {
            taken += length;
            match what {
                What::Message => messages += 1,
                What::Ping => socket.write_all(b"PONG\r\n").await?,
                What::Other => {}
            }
        }
        buffer.copy_within(taken..filled, 0);
        filled -= taken;
        arrived.add(messages);
    }
}

/// What a server says.
enum What {
    Message,
    Ping,
    Other,
}

impl Kind {
    fn subscribe(self) -> String {
        match self {
            Self::Redis => format!("SUBSCRIBE {SUBJECT}\r\n"),
            Self::Nats => format!("SUB {SUBJECT} 1\r\nPING\r\n"),
        }
    }

    fn subscribed(self) -> &'static str {
        match self {
            Self::Redis => ":1\r\n",
            Self::Nats => "PONG\r\n",
        }
    }

    fn publish(self, message: &[u8]) -> Vec<u8> {
        let size = message.len();
        let begin = match self {
            Self::Redis => format!("*3\r\n$7\r\nPUBLISH\r\n$5\r\n{SUBJECT}\r\n${size}\r\n"),
            Self::Nats => format!("PUB {SUBJECT} {size}\r\n"),
        };
        [begin.as_bytes(), message, b"\r\n"].concat()
    }

    /// What comes first, and how long it is; none if it is not there as a whole.
    fn next(self, bytes: &[u8]) -> Option<(usize, What)> {
        match self {
            // *3, $7, message, $5, bench, $1024, and then the message.
            Self::Redis => {
                let mut at = 0;
                for _ in 0..5 {
                    at += line(bytes.get(at..)?)?.len() + 2;
                }
                let size = line(bytes.get(at..)?)?;
                let end = at + size.len() + 2 + number(size.get(1..)?)? + 2;
                (bytes.len() >= end).then_some((end, What::Message))
            }
            Self::Nats => {
                let first = line(bytes)?;
                if first.starts_with(b"MSG ") {
                    let size = first.rsplit(|byte| *byte == b' ').next()?;
                    let end = first.len() + 2 + number(size)? + 2;
                    return (bytes.len() >= end).then_some((end, What::Message));
                }
                let what = if first == b"PING" { What::Ping } else { What::Other };
                Some((first.len() + 2, what))
            }
        }
    }
}

fn line(bytes: &[u8]) -> Option<&[u8]> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    bytes.get(..end)
}

fn number(text: &[u8]) -> Option<usize> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// A NATS server: core, without streams.
pub(crate) struct Nats {
    pub(crate) port: Port,
    _child: Child,
}

impl Nats {
    /// The program's name.
    pub(crate) const PROGRAM: &str = "nats-server";

    /// Starts it, if it is on this machine.
    pub(crate) async fn start() -> Result<Option<Self>> {
        let port = Port::free();
        let mut command = Command::new(Self::PROGRAM);
        command
            .args(["--addr", "127.0.0.1", "--port", &port.number().to_string()])
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .kill_on_drop(true);
        let Ok(child) = command.spawn() else {
            return Ok(None);
        };
        let began = Instant::now();
        while let Err(error) = TcpStream::connect(("127.0.0.1", port.number())).await {
            if began.elapsed() > PATIENCE {
                return Err(error.into());
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(Some(Self { port, _child: child }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(kind: Kind, mut bytes: &[u8]) -> usize {
        let mut count = 0;
        while let Some((length, what)) = kind.next(bytes) {
            count += usize::from(matches!(what, What::Message));
            bytes = &bytes[length..];
        }
        count
    }

    #[test]
    fn only_whole_messages_count() {
        let redis = b"*3\r\n$7\r\nmessage\r\n$5\r\nbench\r\n$4\r\n\r\n\r\n\r\n";
        let nats = b"PING\r\nMSG bench 1 4\r\n\r\n\r\n\r\nPONG\r\n";
        assert_eq!(messages(Kind::Redis, &redis.repeat(3)), 3);
        assert_eq!(messages(Kind::Nats, &nats.repeat(3)), 3);
        for cut in 1..redis.len() {
            assert_eq!(messages(Kind::Redis, &redis[..cut]), 0);
        }
        assert_eq!(messages(Kind::Nats, &nats[..nats.len() - 7]), 0);
    }
}
