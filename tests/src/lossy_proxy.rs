//! A way between a device and the services on which things get lost: requests, answers, streams, connections. It knows HTTP/2, so it can
//! lose an answer whose request the service has done. What becomes of a call follows from the seed, the call's name, and how many
//! calls of that name there were before: not from the time.

use std::collections::{BTreeMap, HashMap};
use std::future::poll_fn;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::body::Body;
use tonic::client::GrpcService as _;
use tonic::transport::{Channel, Endpoint};

/// The call that is a stream.
const STREAM: &str = "/valise.delivery.v1.DeliveryService/Subscribe";

type HandedOn = Pin<Box<dyn Future<Output = io::Result<Response<Body>>> + Send>>;

/// What becomes of a call.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Pass,
    /// The service never hears of it.
    LoseRequest,
    /// The service does it, and nobody hears of that.
    LoseAnswer,
    /// It comes later: when others have been faster.
    DelayRequest(Duration),
    /// The service does it, and it is heard of later.
    DelayAnswer(Duration),
    /// The service gets it, and all connections of the device end.
    CutConnections,
    /// A stream ends after so many messages of the service.
    EndStream(usize),
    /// A stream ends after that time.
    EndStreamAfter(Duration),
}

impl Fate {
    fn name(self) -> &'static str {
        match self {
            Self::Pass => "passed",
            Self::LoseRequest => "requests lost",
            Self::LoseAnswer => "answers lost",
            Self::DelayRequest(_) => "requests delayed",
            Self::DelayAnswer(_) => "answers delayed",
            Self::CutConnections => "connections cut",
            Self::EndStream(_) | Self::EndStreamAfter(_) => "streams reset",
        }
    }

    fn of_call(random: &mut StdRng) -> Self {
        let delay = |random: &mut StdRng| Duration::from_millis(random.random_range(2..120));
        match random.random_range(0..100) {
            0..10 => Self::LoseRequest,
            10..22 => Self::LoseAnswer,
            22..30 => Self::DelayRequest(delay(random)),
            30..38 => Self::DelayAnswer(delay(random)),
            38..41 => Self::CutConnections,
            _ => Self::Pass,
        }
    }

    fn of_stream(random: &mut StdRng) -> Self {
        match random.random_range(0..100) {
            0..8 => Self::LoseRequest,
            8..45 => Self::EndStream(random.random_range(0..14)),
            45..75 => Self::EndStreamAfter(Duration::from_millis(random.random_range(20..900))),
            _ => Self::Pass,
        }
    }
}

struct Way {
    server: Channel,
    seed: u64,
    lossy: AtomicBool,
    cuts: watch::Sender<u64>,
    calls: Mutex<HashMap<String, u64>>,
    counted: Mutex<BTreeMap<&'static str, usize>>,
}

/// The way of one device.
pub struct LossyProxy {
    port: u16,
    way: Arc<Way>,
    accepting: JoinHandle<()>,
}

impl LossyProxy {
    /// On a free port of 127.0.0.1, to the server at that URL. Nothing gets lost until it is told so.
    pub async fn to(server: &str, seed: u64) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let way = Arc::new(Way {
            server: Endpoint::from_shared(server.to_owned())
                .unwrap()
                .tcp_nodelay(true)
                .connect_lazy(),
            seed,
            lossy: AtomicBool::new(false),
            cuts: watch::Sender::new(0),
            calls: Mutex::default(),
            counted: Mutex::default(),
        });
        let accepted = Arc::clone(&way);
        let accepting = tokio::spawn(async move {
            while let Ok((device, _)) = listener.accept().await {
                tokio::spawn(serve(Arc::clone(&accepted), device));
            }
        });
        Self { port, way, accepting }
    }

    /// Its URL, for the device.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// From now on things get lost, or none do any more.
    pub fn lose(&self, lossy: bool) {
        self.way.lossy.store(lossy, Ordering::SeqCst);
    }

    /// Ends all connections that there are now.
    pub fn cut(&self) {
        self.way.cut();
    }

    /// What was lost so far, and how often.
    pub fn counted(&self) -> BTreeMap<&'static str, usize> {
        self.way.counted.lock().clone()
    }
}

impl Drop for LossyProxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn serve(way: Arc<Way>, device: TcpStream) {
    // Only slower without.
    let _ = device.set_nodelay(true);
    let mut cut = way.cuts.subscribe();
    let handle = service_fn(move |request| {
        let way = Arc::clone(&way);
        let handed_on: HandedOn = Box::pin(way.hand_on(request));
        handed_on
    });
    let connection = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(device), handle);
    tokio::select! {
        _ = connection => {}
        // Changed, or the proxy is gone.
        _ = cut.changed() => {}
    }
}

impl Way {
    fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    fn fate(&self, call: &str) -> Fate {
        if !self.lossy.load(Ordering::SeqCst) {
            return Fate::Pass;
        }
        let mut calls = self.calls.lock();
        let number = calls.entry(call.to_owned()).or_default();
        *number += 1;
        let mut hasher = DefaultHasher::new();
        (self.seed, call, *number).hash(&mut hasher);
        let mut random = StdRng::seed_from_u64(hasher.finish());
        let fate = if call == STREAM {
            Fate::of_stream(&mut random)
        } else {
            Fate::of_call(&mut random)
        };
        *self.counted.lock().entry(fate.name()).or_default() += 1;
        fate
    }

    /// An error resets the device's stream.
    async fn hand_on(self: Arc<Self>, request: Request<Incoming>) -> io::Result<Response<Body>> {
        let fate = self.fate(request.uri().path());
        match fate {
            Fate::Pass => self.ask(request.map(Body::new)).await,
            Fate::LoseRequest => Err(lost()),
            Fate::DelayRequest(by) => {
                tokio::time::sleep(by).await;
                self.ask(request.map(Body::new)).await
            }
            Fate::DelayAnswer(by) => {
                let answer = self.ask_all(request).await?;
                tokio::time::sleep(by).await;
                Ok(answer)
            }
            Fate::LoseAnswer => {
                self.ask_all(request).await?;
                Err(lost())
            }
            Fate::CutConnections => {
                let way = Arc::clone(&self);
                let (head, body) = request.into_parts();
                let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
                // The service goes on with it when the connection has ended.
                tokio::spawn(async move { way.ask(whole(head, body)).await.map(drop) });
                tokio::task::yield_now().await;
                self.cut();
                Err(lost())
            }
            Fate::EndStream(after) => {
                let answer = self.ask(request.map(Body::new)).await?;
                Ok(answer.map(|body| Body::new(Ending::new(body, Some(after), None))))
            }
            Fate::EndStreamAfter(time) => {
                let answer = self.ask(request.map(Body::new)).await?;
                Ok(answer.map(|body| Body::new(Ending::new(body, None, Some(time)))))
            }
        }
    }

    async fn ask(&self, request: Request<Body>) -> io::Result<Response<Body>> {
        let mut server = self.server.clone();
        poll_fn(|context| server.poll_ready(context))
            .await
            .map_err(io::Error::other)?;
        server.call(request).await.map_err(io::Error::other)
    }

    /// Until the service has said all of its answer, whether or not the device still waits for it.
    async fn ask_all(self: Arc<Self>, request: Request<Incoming>) -> io::Result<Response<Body>> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        let asking = tokio::spawn(async move {
            let (head, body) = self.ask(whole(head, body)).await?.into_parts();
            let body = body.collect().await.map_err(io::Error::other)?;
            Ok(Response::from_parts(head, Body::new(body)))
        });
        asking.await.map_err(io::Error::other)?
    }
}

fn lost() -> io::Error {
    io::Error::other("lost")
}

fn whole(head: http::request::Parts, body: Bytes) -> Request<Body> {
    Request::from_parts(head, Body::new(Full::new(body)))
}

/// A body that breaks off.
struct Ending {
    body: Body,
    frames: Option<usize>,
    time: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl Ending {
    fn new(body: Body, frames: Option<usize>, time: Option<Duration>) -> Self {
        Self {
            body,
            frames,
            time: time.map(|time| Box::pin(tokio::time::sleep(time))),
        }
    }
}

impl http_body::Body for Ending {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let over = match &mut self.time {
            Some(time) => time.as_mut().poll(context).is_ready(),
            None => self.frames == Some(0),
        };
        if over {
            return Poll::Ready(Some(Err(lost())));
        }
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if frame.is_ready() {
            self.frames = self.frames.map(|left| left - 1);
        }
        frame.map(|frame| frame.map(|frame| frame.map_err(io::Error::other)))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
