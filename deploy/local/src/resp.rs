//! As much of the Redis protocol as it takes to look after a server.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Longer than a server may be paused by its own disk.
const ANSWER: Duration = Duration::from_secs(10);

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Text(String),
    /// Any bytes.
    Bytes(Vec<u8>),
    Error(String),
    Number(i64),
    Nothing,
    List(Vec<Answer>),
}

/// As `redis-cli` writes it to a file: an element a line, nothing for nothing.
impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) | Self::Error(text) => f.write_str(text),
            Self::Bytes(bytes) => f.write_str(&String::from_utf8_lossy(bytes)),
            Self::Number(number) => number.fmt(f),
            Self::Nothing => Ok(()),
            Self::List(answers) => {
                for (index, answer) in answers.iter().enumerate() {
                    if index > 0 {
                        f.write_str("\n")?;
                    }
                    answer.fmt(f)?;
                }
                Ok(())
            }
        }
    }
}

/// Sends one command on a connection of its own.
pub(crate) async fn ask(port: u16, password: Option<&str>, command: &[&str]) -> io::Result<Answer> {
    let command: Vec<&[u8]> = command.iter().map(|argument| argument.as_bytes()).collect();
    ask_bytes(port, password, &command).await
}

/// The same, with arguments that need not be text.
pub(crate) async fn ask_bytes(port: u16, password: Option<&str>, command: &[&[u8]]) -> io::Result<Answer> {
    timeout(ANSWER, async {
        let mut stream = BufReader::new(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?);
        if let Some(password) = password {
            send(&mut stream, &[b"AUTH".as_slice(), password.as_bytes()]).await?;
            receive(&mut stream).await?;
        }
        send(&mut stream, command).await?;
        receive(&mut stream).await
    })
    .await
    .map_err(|_| io::Error::from(ErrorKind::TimedOut))?
}

async fn send(stream: &mut BufReader<TcpStream>, command: &[&[u8]]) -> io::Result<()> {
    let mut bytes = format!("*{}\r\n", command.len()).into_bytes();
    for argument in command {
        bytes.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        bytes.extend_from_slice(argument);
        bytes.extend_from_slice(b"\r\n");
    }
    stream.write_all(&bytes).await
}

async fn receive(stream: &mut BufReader<TcpStream>) -> io::Result<Answer> {
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let line = line.trim_end();
    let (Some(kind), Some(rest)) = (line.get(..1), line.get(1..)) else {
        return Err(ErrorKind::UnexpectedEof.into());
    };
    let number = || {
        rest.parse::<i64>()
            .map_err(|_| io::Error::from(ErrorKind::InvalidData))
    };
    Ok(match kind {
        "+" => Answer::Text(rest.to_owned()),
        "-" => Answer::Error(rest.to_owned()),
        ":" => Answer::Number(number()?),
        "$" => match usize::try_from(number()?) {
            Ok(length) => {
                let mut bytes = vec![0; length + 2];
                stream.read_exact(&mut bytes).await?;
                bytes.truncate(length);
                Answer::Bytes(bytes)
            }
            Err(_) => Answer::Nothing,
        },
        "*" => match usize::try_from(number()?) {
            Ok(length) => {
                let mut answers = Vec::with_capacity(length);
                for _ in 0..length {
                    answers.push(Box::pin(receive(stream)).await?);
                }
                Answer::List(answers)
            }
            Err(_) => Answer::Nothing,
        },
        _ => return Err(ErrorKind::InvalidData.into()),
    })
}
