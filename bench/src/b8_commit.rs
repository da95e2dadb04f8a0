//! B8: a self-update commit against openmls's `PublicGroup::process_message` alone: from the call to the answer, as a client sees it; and
//! the processor time that the server spends on it, in all, until it has nothing left to do for it.

use std::time::Instant;

use openmls::prelude::tls_codec::DeserializeBytes as _;
use openmls::prelude::{
    MlsMessageBodyIn, MlsMessageIn, OpenMlsProvider as _, ProcessedMessageContent, ProtocolMessage,
    PublicGroup,
};
use openmls_rust_crypto::OpenMlsRustCrypto;

use crate::b3_one_send::micros;
use crate::group::Member;
use crate::machine::own_thread_micros;
use crate::raw::Device;
use crate::report::{Goal, Line, Side, Spread, percentile};
use crate::server::Server;
use crate::{Bench, Result, say};

/// Commits in one round, by the size of the group.
const fn commits(members: usize) -> usize {
    if members < 1000 { 20 } else { 5 }
}

/// A group as the committer has it, and as somebody outside has it.
struct Watched {
    members: usize,
    device: Device,
    member: Member,
    outside: PublicGroup,
    provider: OpenMlsRustCrypto,
    commit_bytes: usize,
    calls: Vec<f64>,
    alone: Vec<f64>,
    /// Processor time: of the server, of Redis, and of openmls alone; and of the server for a message.
    server: Vec<f64>,
    redis: Vec<f64>,
    arithmetic: Vec<f64>,
    server_for_message: Vec<f64>,
    /// A message on the same connection: what every request pays, whatever is in it.
    sends: Vec<f64>,
}

pub(crate) async fn run(bench: &mut Bench) -> Result<Vec<Line>> {
    let mut groups = Vec::new();
    for members in bench.args.sizes() {
        let others = bench.administrator.identities(members - 1).await?;
        let mut device = bench
            .administrator
            .devices(&bench.server, 1)
            .await?
            .swap_remove(0);
        let others: Vec<_> = others.iter().collect();
        let member = Member::create_with(&mut device, &others).await?;
        groups.push(Watched {
            members,
            device,
            outside: member.outside()?,
            member,
            provider: OpenMlsRustCrypto::default(),
            commit_bytes: 0,
            calls: Vec::new(),
            alone: Vec::new(),
            server: Vec::new(),
            redis: Vec::new(),
            arithmetic: Vec::new(),
            server_for_message: Vec::new(),
            sends: Vec::new(),
        });
    }
    for round in 0..=bench.args.rounds {
        for group in &mut groups {
            bench.server.settle().await;
            let times = bench.args.times(commits(group.members));
            group.round(&bench.server, times).await?;
            // The first warms up.
            if round == 0 {
                group.forget();
            }
        }
    }
    Ok(groups.into_iter().flat_map(Watched::lines).collect())
}

impl Watched {
    fn forget(&mut self) {
        for values in [
            &mut self.calls,
            &mut self.alone,
            &mut self.server,
            &mut self.redis,
            &mut self.arithmetic,
            &mut self.server_for_message,
            &mut self.sends,
        ] {
            values.clear();
        }
    }

    async fn round(&mut self, server: &Server, commits: usize) -> Result<()> {
        self.device.renew().await?;
        let (mut calls, mut alone, mut sends) = (Vec::new(), Vec::new(), Vec::new());
        let (mut used, mut redis, mut arithmetic) = (Vec::new(), Vec::new(), Vec::new());
        let mut used_for_message = Vec::new();
        for _ in 0..commits {
            let built = self.member.build(&self.device.identity, Vec::new())?;
            self.commit_bytes = built.commit.len();
            let request = self.device.request(built.request());
            let mut client = self.device.delivery();
            let before = server.used_when_done().await;
            let began = Instant::now();
            let answer = client.submit_commit(request).await?;
            calls.push(micros(began));
            let spent = server.used_when_done().await.since(before, 1.0);
            used.push(spent.service);
            redis.push(spent.redis);
            self.member
                .accepted(answer.into_inner().accepted.ok_or("no position")?.position)?;
            let (took, spent) = self.process(&built.commit)?;
            alone.push(took);
            arithmetic.push(spent);
            let message = self.member.encrypt(&self.device.identity)?;
            let before = server.used_when_done().await;
            let began = Instant::now();
            self.device.send(message).await?;
            sends.push(micros(began));
            used_for_message.push(server.used_when_done().await.since(before, 1.0).service);
        }
        self.calls.push(percentile(&mut calls, 50));
        self.alone.push(percentile(&mut alone, 50));
        self.server.push(percentile(&mut used, 50));
        self.redis.push(percentile(&mut redis, 50));
        self.arithmetic.push(percentile(&mut arithmetic, 50));
        self.server_for_message
            .push(percentile(&mut used_for_message, 50));
        self.sends.push(percentile(&mut sends, 50));
        Ok(())
    }

    /// What the service cannot do without: how long it took, and the processor time.
    fn process(&mut self, commit: &[u8]) -> Result<(f64, f64)> {
        let MlsMessageBodyIn::PublicMessage(message) =
            MlsMessageIn::tls_deserialize_exact_bytes(commit)?.extract()
        else {
            return Err("not a commit".into());
        };
        let message = ProtocolMessage::from(message);
        let used = own_thread_micros();
        let began = Instant::now();
        let processed = self
            .outside
            .process_message(self.provider.crypto(), message)
            .map_err(say)?;
        let took = micros(began);
        let used = own_thread_micros() - used;
        let ProcessedMessageContent::StagedCommitMessage(staged) = processed.into_content() else {
            return Err("not a commit".into());
        };
        self.outside
            .merge_commit(self.provider.storage(), *staged)
            .map_err(say)?;
        Ok((took, used))
    }

    fn lines(self) -> [Line; 2] {
        let what = format!(
            "a self-update commit of {} bytes, {} members",
            self.commit_bytes, self.members
        );
        let send = Spread::of(self.sends).median;
        let beyond = (Spread::of(self.calls.clone()).median - send) / Spread::of(self.alone.clone()).median;
        let note =
            format!("a message on the same connection: {send:.0} us; the commit without that: {beyond:.2} x");
        let valise = Side::new(
            "SubmitCommit, call to answer, p50 of each round",
            "us",
            self.calls,
        );
        let reference = Side::new("PublicGroup::process_message alone", "us", self.alone);
        let called = Line::ratio("B8", what.clone(), valise, reference, Goal::AtMost(1.5)).note(note);

        let message = Spread::of(self.server_for_message).median;
        let redis = Spread::of(self.redis).median;
        let note = format!(
            "processor time of the server for a message: {message:.0} us; of Redis for the commit: {redis:.0} us"
        );
        let valise = Side::new(
            "processor time of the server for a commit, with transport, token, log, merge",
            "us",
            self.server,
        );
        let reference = Side::new(
            "that of PublicGroup::process_message alone",
            "us",
            self.arithmetic,
        );
        let spent = Line::ratio("B8", what, valise, reference, Goal::AtMost(1.5)).note(note);
        [called, spent]
    }
}
