//! Connections that a test can cut.

use std::net::Ipv4Addr;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Hands TCP connections on to a server, until they are cut.
pub struct Proxy {
    port: u16,
    cuts: watch::Sender<u64>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// On a free port of 127.0.0.1, to that port.
    pub async fn to(server: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let cuts = watch::Sender::new(0);
        let cut = cuts.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(hand_on(client, server, cut.subscribe()));
            }
        });
        Self {
            port,
            cuts,
            accepting,
        }
    }

    /// Its URL, for clients of the server.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Cuts all connections that there are now. Says how many.
    pub fn cut(&self) -> usize {
        let connections = self.cuts.receiver_count();
        self.cuts.send_modify(|cuts| *cuts += 1);
        connections
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// A server that does not answer is a connection that ends.
async fn hand_on(mut client: TcpStream, server: u16, mut cut: watch::Receiver<u64>) {
    let Ok(mut server) = TcpStream::connect((Ipv4Addr::LOCALHOST, server)).await else {
        return;
    };
    for side in [&client, &server] {
        // Only slower without.
        let _ = side.set_nodelay(true);
    }
    tokio::select! {
        _ = copy_bidirectional(&mut client, &mut server) => {}
        // Changed, or the proxy is gone.
        _ = cut.changed() => {}
    }
}
