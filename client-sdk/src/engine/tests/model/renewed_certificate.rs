//! The service's certificate is renewed for the same key, while groups go on naming the former one.

use tokio::sync::oneshot;
use valise_clock::Clock;
use valise_proto::delivery::v1::GetParametersResponse;
use valise_proto::{GroupId, Position, Reason, Refusal};

use super::machine::Machine;
use super::service::Service;
use super::{Fate, Op, beginning};
use crate::engine::tests::people::{World, YEAR, encoded_sender};

/// A device makes one more group, and asks the service for it.
fn make_group(machine: &mut Machine<'_>, by: usize) -> Result<(), Refusal> {
    let actor = &mut machine.actors[by];
    let id = GroupId::random(&mut rand::rng());
    let (answer, _) = oneshot::channel();
    let suite = crate::CipherSuite::default().mls();
    let made = actor
        .person
        .engine
        .create_group(id, "", suite, tracing::Span::none(), answer);
    made.unwrap();
    let upload = actor.person.upload();
    machine.service.submit(&actor.peer, &upload, false)?;
    actor.person.accepted(&upload, Position::NONE);
    Ok(())
}

fn learn(machine: &mut Machine<'_>, device: usize, sender: Vec<u8>) {
    let parameters = GetParametersResponse {
        external_sender: sender.into(),
        ..GetParametersResponse::default()
    };
    let engine = &mut machine.actors[device].person.engine;
    engine.adopt_parameters(&parameters).unwrap();
}

#[test]
fn a_group_that_names_a_certificate_that_has_ended_goes_on_under_the_renewed_one() {
    let now = Clock::system().now();
    let mut service = Service::start_until(now - YEAR);
    let mut machine = Machine::new(&mut service);
    // The devices 0, 1 and 2, of two users.
    for op in beginning(2) {
        machine.apply(&op).unwrap();
    }
    let renewed = machine.service.renew_certificate(now + YEAR);
    // One that enrols now knows no other certificate.
    learn(&mut machine, 3, encoded_sender(&renewed));
    let upload = || Op::Upload(0, Fate::Arrives);
    for op in [Op::Add(0, 3), upload(), Op::Read(0, 9), Op::Inbox(3)] {
        machine.apply(&op).unwrap();
    }
    assert!(machine.model.views[3].inside, "it has joined");
    // The service proposes a removal with its key, and the next commit carries it out.
    machine.apply(&Op::Revoke(2)).unwrap();
    machine.finish().unwrap();
}

#[test]
fn new_groups_name_the_renewed_certificate_or_the_one_that_their_creator_still_knew() {
    let now = Clock::system().now();
    let mut service = Service::start_until(now - YEAR);
    let mut machine = Machine::new(&mut service);
    let renewed = machine.service.renew_certificate(now + YEAR);
    make_group(&mut machine, 0).unwrap();
    learn(&mut machine, 0, encoded_sender(&renewed));
    make_group(&mut machine, 0).unwrap();

    // The same key and name, but by an authority that nobody trusts.
    let forged = World::new().certify_service(machine.service.key(), now + YEAR);
    let forged = crate::mls::external_sender(&encoded_sender(&forged)).unwrap();
    machine.actors[1].person.engine.device.external_sender = forged;
    let refusal = make_group(&mut machine, 1).unwrap_err();
    assert_eq!(refusal.reason, Reason::InvalidGroupInfo);
    assert_eq!(refusal.metadata["rule"], "certificate_untrusted");
}
