//! B8: a self-update commit, from the call to the answer, against openmls's `PublicGroup::process_message` alone.

use std::time::Instant;

use openmls::prelude::tls_codec::DeserializeBytes as _;
use openmls::prelude::{
    MlsMessageBodyIn, MlsMessageIn, OpenMlsProvider as _, ProcessedMessageContent, ProtocolMessage,
    PublicGroup,
};
use openmls_rust_crypto::OpenMlsRustCrypto;

use crate::b3_one_send::micros;
use crate::group::Member;
use crate::raw::Device;
use crate::report::{Goal, Line, Side, Spread, percentile};
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
            sends: Vec::new(),
        });
    }
    for round in 0..=bench.args.rounds {
        for group in &mut groups {
            bench.server.settle().await;
            group.round(bench.args.times(commits(group.members))).await?;
            // The first warms up.
            if round == 0 {
                group.calls.clear();
                group.alone.clear();
                group.sends.clear();
            }
        }
    }
    Ok(groups.into_iter().map(Watched::line).collect())
}

impl Watched {
    async fn round(&mut self, commits: usize) -> Result<()> {
        self.device.renew().await?;
        let (mut calls, mut alone, mut sends) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..commits {
            let built = self.member.build(&self.device.identity, Vec::new())?;
            self.commit_bytes = built.commit.len();
            let request = self.device.request(built.request());
            let mut client = self.device.delivery();
            let began = Instant::now();
            let answer = client.submit_commit(request).await?;
            calls.push(micros(began));
            self.member
                .accepted(answer.into_inner().accepted.ok_or("no position")?.position)?;
            alone.push(self.process(&built.commit)?);
            // The first of an epoch may have to wait until the service has merged the commit.
            let message = self.member.encrypt(&self.device.identity)?;
            self.device.send(message).await?;
            let message = self.member.encrypt(&self.device.identity)?;
            let began = Instant::now();
            self.device.send(message).await?;
            sends.push(micros(began));
        }
        self.calls.push(percentile(&mut calls, 50));
        self.alone.push(percentile(&mut alone, 50));
        self.sends.push(percentile(&mut sends, 50));
        Ok(())
    }

    /// What the service cannot do without.
    fn process(&mut self, commit: &[u8]) -> Result<f64> {
        let MlsMessageBodyIn::PublicMessage(message) =
            MlsMessageIn::tls_deserialize_exact_bytes(commit)?.extract()
        else {
            return Err("not a commit".into());
        };
        let message = ProtocolMessage::from(message);
        let began = Instant::now();
        let processed = self
            .outside
            .process_message(self.provider.crypto(), message)
            .map_err(say)?;
        let took = micros(began);
        let ProcessedMessageContent::StagedCommitMessage(staged) = processed.into_content() else {
            return Err("not a commit".into());
        };
        self.outside
            .merge_commit(self.provider.storage(), *staged)
            .map_err(say)?;
        Ok(took)
    }

    fn line(self) -> Line {
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
        Line::ratio("B8", what, valise, reference, Goal::AtMost(1.5)).note(note)
    }
}
