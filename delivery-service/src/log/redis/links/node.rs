//! A node that is connected to for as long as it is needed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::dial::Address;
use super::open_error::OpenError;
use super::retry::Backoff;
use super::session::Session;
use super::topology::Topology;

#[derive(Clone, Debug)]
pub(super) enum State {
    /// Being connected to for the first time.
    New,
    Up(Arc<Session>),
    Down(Arc<OpenError>),
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) address: Address,
    state: watch::Sender<State>,
    /// Ends it.
    stop: CancellationToken,
    /// When a call was last sent here because of a slot on the move.
    asked: Mutex<Option<Instant>>,
}

impl Node {
    pub(super) fn new(address: Address) -> Self {
        Self {
            address,
            state: watch::Sender::new(State::New),
            stop: CancellationToken::new(),
            asked: Mutex::new(None),
        }
    }

    /// Connects again and again, until it is not needed any more.
    pub(super) async fn run(self: Arc<Self>, topology: Arc<Topology>) {
        let stop = self.stop.clone();
        stop.run_until_cancelled(self.stay_connected(&topology)).await;
        self.state.send_replace(State::New);
    }

    async fn stay_connected(&self, topology: &Arc<Topology>) {
        let mut backoff = Backoff::new();
        loop {
            let reason = match Session::open(topology, &self.address).await {
                Ok(session) => {
                    backoff = Backoff::new();
                    tracing::info!(server = %self.address, "redis server in use");
                    self.state.send_replace(State::Up(Arc::clone(&session)));
                    topology.note_identities();
                    let _end = EndOnDrop(&session);
                    session.watch(topology).await
                }
                Err(reason) => reason,
            };
            self.fall(&reason);
            topology.nudge();
            tokio::time::sleep(backoff.pause()).await;
        }
    }

    fn fall(&self, reason: &OpenError) {
        let before = self.state.send_replace(State::Down(Arc::new(reason.clone())));
        if !matches!(before, State::Down(before) if *before == *reason) {
            tracing::warn!(%reason, "redis server not in use");
        }
    }

    /// Ends it.
    pub(super) fn stop(&self) {
        self.stop.cancel();
    }

    /// Keeps it for a while, without a slot.
    pub(super) fn ask(&self) {
        *self.asked.lock() = Some(Instant::now());
    }

    /// Was it asked so recently?
    pub(super) fn asked_within(&self, time: Duration) -> bool {
        self.asked.lock().is_some_and(|at| at.elapsed() < time)
    }

    /// The session, if there is one.
    pub(super) fn up(&self) -> Option<Arc<Session>> {
        match &*self.state.borrow() {
            State::Up(session) if !session.is_over() => Some(Arc::clone(session)),
            _ => None,
        }
    }

    /// Why there is no session.
    pub(super) fn down(&self) -> Option<Arc<OpenError>> {
        match &*self.state.borrow() {
            State::Down(reason) => Some(Arc::clone(reason)),
            _ => None,
        }
    }

    /// The session, as soon as there is one. Else says why there was none in time.
    pub(super) async fn session(&self, patience: Duration) -> Result<Arc<Session>, String> {
        let mut state = self.state.subscribe();
        let up = state.wait_for(|state| matches!(state, State::Up(session) if !session.is_over()));
        let up = tokio::time::timeout(patience, up).await;
        if let Ok(Ok(state)) = up
            && let State::Up(session) = &*state
        {
            return Ok(Arc::clone(session));
        }
        Err(self.down().map_or_else(
            || format!("no connection to Redis at {}", self.address),
            |reason| reason.to_string(),
        ))
    }
}

/// So that a node that is dropped leaves no session that works.
struct EndOnDrop<'a>(&'a Session);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.end("the node is not needed any more");
    }
}
