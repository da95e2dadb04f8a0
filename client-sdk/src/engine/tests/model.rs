//! Devices that do things in any order, and a small model of what must come of it.
//!
//! The devices are real engines, the service is the real delivery service on SQLite ([`service`]); the test decides what reaches whom, and
//! when ([`machine`]). The model ([`reference`]) is one log, one commit an epoch, who may read which part of it, and roles. It foretells what
//! the service accepts; at the end all who are in touch must agree with it and with each other.
//!
//! With `VALISE_LONG=1` it is 1,000 cases, made by chance; otherwise a few dozen, which are always the same. `VALISE_SEED=7` makes others.

mod machine;
mod reference;
mod renewed_certificate;
mod service;
mod settle;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use self::machine::Machine;
use self::reference::{Device, OWNERS};
use self::service::Service;
use crate::Role;

/// What becomes of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    Arrives,
    /// It never reaches the service.
    RequestLost,
    /// It does, but the answer is lost: the same bytes leave again.
    AnswerLost,
    /// The answer comes later.
    AnswerHeld,
}

/// Something that happens. Devices by number: the first two are of one user.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Send(Device),
    /// By the first, of the second.
    Add(Device, Device),
    Remove(Device, Device),
    Leave(Device),
    SelfUpdate(Device),
    Rename(Device),
    SetRole(Device, Device, Role),
    /// By an administrator: the service proposes its removal.
    Revoke(Device),
    /// The next request leaves, or the answer to the last one comes.
    Upload(Device, Fate),
    /// The next entries of the log come.
    Read(Device, u8),
    /// Invitations come.
    Inbox(Device),
    /// It has waited long enough for others to commit what was proposed.
    CommitProposals(Device),
    Restart(Device),
    /// Retention: who has not read far enough is lost.
    Trim,
    /// It asks for the group's state and builds its external commit.
    Rejoin(Device),
}

fn op() -> impl Strategy<Value = Op> {
    let one = || 0..OWNERS.len();
    let two = || (0..OWNERS.len(), 0..OWNERS.len());
    let fate = prop_oneof![
        6 => Just(Fate::Arrives),
        1 => Just(Fate::RequestLost),
        2 => Just(Fate::AnswerLost),
        1 => Just(Fate::AnswerHeld),
    ];
    prop_oneof![
        8 => one().prop_map(Op::Send),
        6 => two().prop_map(|(by, whom)| Op::Add(by, whom)),
        2 => two().prop_map(|(by, whom)| Op::Remove(by, whom)),
        1 => one().prop_map(Op::Leave),
        3 => one().prop_map(Op::SelfUpdate),
        1 => one().prop_map(Op::Rename),
        2 => (one(), one(), prop::sample::select(Role::ALL.to_vec())).prop_map(|(by, whom, role)| Op::SetRole(by, whom, role)),
        1 => one().prop_map(Op::Revoke),
        16 => (one(), fate).prop_map(|(by, fate)| Op::Upload(by, fate)),
        12 => (one(), 1..6_u8).prop_map(|(by, count)| Op::Read(by, count)),
        5 => one().prop_map(Op::Inbox),
        2 => one().prop_map(Op::CommitProposals),
        3 => one().prop_map(Op::Restart),
        1 => Just(Op::Trim),
        3 => one().prop_map(Op::Rejoin),
    ]
}

/// Everybody who is asked in at the beginning is there: most of what happens later needs several.
fn beginning(count: usize) -> Vec<Op> {
    let others = 1..OWNERS.len().min(count + 1);
    others
        .flat_map(|whom| {
            let upload = || Op::Upload(0, Fate::Arrives);
            // The commit, then the message that tells the name.
            [
                Op::Add(0, whom),
                upload(),
                Op::Read(0, 9),
                Op::Inbox(whom),
                upload(),
                Op::Read(0, 9),
            ]
        })
        .collect()
}

fn run(service: &mut Service, members: usize, ops: &[Op]) -> Result<(), String> {
    let mut machine = Machine::new(service);
    for op in beginning(members).iter().chain(ops) {
        machine.apply(op).map_err(|wrong| format!("{op:?}: {wrong}"))?;
    }
    machine.finish()
}

#[test]
fn devices_do_anything_in_any_order_and_agree_with_the_model() {
    let long = std::env::var_os("VALISE_LONG").is_some();
    let seed = match std::env::var("VALISE_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) if long => rand::random(),
        Err(_) => 1_u64,
    };
    println!("VALISE_SEED={seed}");
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config {
        cases: if long { 1000 } else { 40 },
        failure_persistence: None,
        max_shrink_iters: 2000,
        ..Config::default()
    };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let service = std::cell::RefCell::new(Service::start());
    let cases = (0..OWNERS.len(), prop::collection::vec(op(), 10..80));
    let result = runner.run(&cases, |(members, ops)| {
        run(&mut service.borrow_mut(), members, &ops).map_err(TestCaseError::fail)
    });
    if let Err(wrong) = result {
        panic!("{wrong}");
    }
}
