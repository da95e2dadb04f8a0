//! A device's stream, as it is on the wire: cursors, acknowledgements, windows, ends.

#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

use openmls::prelude::MlsGroup;
use valise_proto::Reason;
use valise_proto::authentication::v1::RevokeDeviceRequest;
use valise_proto::delivery::v1 as wire;
use valise_proto::delivery::v1::inbox_item::Item;
use valise_proto::delivery::v1::subscribe_request::Message as Out;
use valise_proto::delivery::v1::subscribe_response::Message as In;
use valise_tests::people::Town;
use valise_tests::raw::stream::{Stream, after, cursor};
use valise_tests::raw::{Device, Plan, refusal};
use valise_tests::service::Service;
use valise_tests::wait::{soon, until};

struct Scene {
    service: Service,
    town: Town,
    alice: Device,
    bob: Device,
    group: MlsGroup,
    id: Vec<u8>,
}

impl Scene {
    /// Position 1 added Bob.
    async fn new() -> Self {
        let service = Service::start().await;
        let town = Town::of(&service).await;
        let alice = Device::enrol(&service, &town.code("alice").await).await;
        let bob = Device::enrol(&service, &town.code("bob").await).await;
        let (group, _) = alice.group_with(&[&bob]).await;
        let id = group.group_id().as_slice().to_vec();
        Self {
            service,
            town,
            alice,
            bob,
            group,
            id,
        }
    }

    async fn say(&mut self, text: &str) -> wire::Accepted {
        self.alice.send(&mut self.group, text.as_bytes()).await.unwrap()
    }

    /// Alice's stream; she has no inbox items.
    async fn alices(&self, from: u64) -> Stream {
        Stream::open(&self.alice.door, vec![cursor(&self.id, from, &[])], 0)
            .await
            .unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn caught_up_is_said_after_the_acknowledgement() {
    let mut scene = Scene::new().await;
    for text in ["one", "two", "three"] {
        scene.say(text).await;
    }
    let mut stream = scene.alices(0).await;
    let mut entries = Vec::new();
    for position in 1..=4 {
        let entry = stream.entry().await;
        assert_eq!((entry.position, &entry.group_id[..]), (position, &scene.id[..]));
        assert_eq!(entry.sender_device_id, scene.alice.id.to_string());
        assert!(entry.accepted_at.is_some() && entry.entry_id.len() == 8);
        entries.push(entry);
    }
    assert_eq!(entries[0].kind(), wire::EntryKind::Commit);
    assert_eq!((entries[0].epoch, entries[1].epoch), (0, 1));
    // Not before all of it is acknowledged: what comes next is another message.
    stream.ack(vec![after(&entries[2])]).await;
    scene.say("four").await;
    assert_eq!(stream.entry().await.position, 5);
    stream.ack(vec![after(&entries[3])]).await;
    stream.caught_up().await;
    // Once: the next thing is an entry again.
    scene.say("five").await;
    assert_eq!(stream.entry().await.position, 6);

    // What was acknowledged is not sent again to a stream that says so.
    let mut next = Stream::open(&scene.alice.door, vec![after(&entries[3])], 0)
        .await
        .unwrap();
    assert_eq!(next.entry().await.position, 5);
    assert_eq!(next.entry().await.position, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_missed_is_caught_up_at_once() {
    let scene = Scene::new().await;
    let mut stream = Stream::open(&scene.alice.door, Vec::new(), 0).await.unwrap();
    stream.caught_up().await;
    // A group that is added later is caught up with by itself.
    let change = wire::ChangeGroups {
        add: vec![cursor(&scene.id, 0, &[])],
        drop_group_ids: Vec::new(),
    };
    stream.say(Out::ChangeGroups(change)).await;
    let entry = stream.entry().await;
    stream.ack(vec![after(&entry)]).await;
    stream.caught_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_group_is_quiet() {
    let mut scene = Scene::new().await;
    let (mut other, _) = scene.alice.group_with(&[]).await;
    let other_id = other.group_id().as_slice().to_vec();
    let both = vec![cursor(&scene.id, 1, &[]), cursor(&other_id, 0, &[])];
    let mut stream = Stream::open(&scene.alice.door, both, 0).await.unwrap();
    stream.caught_up().await;
    let change = wire::ChangeGroups {
        add: Vec::new(),
        drop_group_ids: vec![scene.id.clone().into()],
    };
    stream.say(Out::ChangeGroups(change)).await;
    // With nothing new to catch up with, that is the answer.
    stream.caught_up().await;
    scene.say("unheard").await;
    scene.alice.send(&mut other, b"heard").await.unwrap();
    assert_eq!(stream.entry().await.group_id, other_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_stream_displaces_the_first() {
    let scene = Scene::new().await;
    let mut first = scene.alices(1).await;
    first.caught_up().await;
    let mut second = scene.alices(1).await;
    second.caught_up().await;
    assert_eq!(first.next().await.unwrap_err().reason, Reason::Displaced);
    // Bob's is another device's.
    let mut bobs = Stream::open(&scene.bob.door, vec![cursor(&scene.id, 1, &[])], 0)
        .await
        .unwrap();
    assert!(matches!(bobs.inbox_item().await.item, Some(Item::Welcome(_))));
    let mut scene = scene;
    scene.say("to both").await;
    assert_eq!(
        (second.entry().await.position, bobs.entry().await.position),
        (2, 2)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_inbox_brings_welcomes_until_they_are_acknowledged() {
    let scene = Scene::new().await;
    let (second, _) = scene.alice.group_with(&[&scene.bob]).await;
    let mut stream = Stream::open(&scene.bob.door, Vec::new(), 0).await.unwrap();
    let (mut groups, mut numbers) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        let item = stream.inbox_item().await;
        numbers.push(item.number);
        let Some(Item::Welcome(welcome)) = item.item else {
            panic!("not a Welcome")
        };
        let commit = welcome.commit.unwrap();
        assert_eq!((welcome.epoch, commit.position, commit.entry_id.len()), (1, 1, 8));
        groups.push(welcome.group_id.to_vec());
    }
    assert_eq!(groups, [scene.id.clone(), second.group_id().as_slice().to_vec()]);
    assert!(numbers[0] < numbers[1]);
    stream.ack_inbox(numbers[0]).await;
    stream.ack_inbox(numbers[1]).await;
    stream.caught_up().await;
    // A stream that has applied all gets what comes.
    let mut again = Stream::open(&scene.bob.door, Vec::new(), numbers[1])
        .await
        .unwrap();
    again.caught_up().await;
    scene.alice.group_with(&[&scene.bob]).await;
    assert!(again.inbox_item().await.number > numbers[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_acknowledged_is_bounded_and_nothing_is_skipped() {
    let mut scene = Scene::new().await;
    let parameters = scene
        .alice
        .door
        .delivery()
        .get_parameters(wire::GetParametersRequest {})
        .await
        .unwrap();
    let window = u64::from(parameters.into_inner().limits.unwrap().max_unacknowledged_entries);
    let total = window + 300;
    for number in 0..total {
        scene.say(&format!("message {number}")).await;
    }
    let mut stream = scene.alices(1).await;
    let mut entries = Vec::new();
    for position in 2..window + 2 {
        entries.push(stream.entry().await);
        assert_eq!(entries.last().unwrap().position, position);
    }
    // The window is full. Another group's news come through all the same after an acknowledgement, and before it nothing does:
    // the answer to a change is the next message, not an entry.
    let change = wire::ChangeGroups {
        add: vec![cursor(&[9; 16], 0, &[])],
        drop_group_ids: Vec::new(),
    };
    stream.say(Out::ChangeGroups(change)).await;
    assert_eq!(stream.group_ended().await.reason, "GROUP_NOT_FOUND");
    let change = wire::ChangeGroups {
        add: vec![cursor(&[8; 16], 0, &[])],
        drop_group_ids: Vec::new(),
    };
    stream.say(Out::ChangeGroups(change)).await;
    assert_eq!(stream.group_ended().await.reason, "GROUP_NOT_FOUND");
    // One acknowledged is one more that may come.
    stream.ack(vec![after(&entries[0])]).await;
    assert_eq!(stream.entry().await.position, window + 2);
    stream.ack(vec![after(&entries[entries.len() - 1])]).await;
    for position in window + 3..total + 2 {
        assert_eq!(stream.entry().await.position, position);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_live_while_the_window_is_full_comes_later() {
    let mut scene = Scene::new().await;
    let parameters = scene
        .alice
        .door
        .delivery()
        .get_parameters(wire::GetParametersRequest {})
        .await
        .unwrap();
    let window = u64::from(parameters.into_inner().limits.unwrap().max_unacknowledged_entries);
    let mut stream = scene.alices(1).await;
    stream.caught_up().await;
    let mut last = None;
    // Each is sent on while it is news, until the window is full; what follows is news that the stream cannot send on.
    for position in 2..window + 2 {
        scene.say(&format!("message {position}")).await;
        let entry = stream.entry().await;
        assert_eq!(entry.position, position);
        last = Some(entry);
    }
    for position in window + 2..window + 12 {
        scene.say(&format!("message {position}")).await;
    }
    stream.ack(vec![after(&last.unwrap())]).await;
    for position in window + 2..window + 12 {
        assert_eq!(stream.entry().await.position, position);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cursors_that_cannot_be_are_refused_one_by_one() {
    let mut scene = Scene::new().await;
    let second = scene.say("hello").await;
    let (foreign, _) = scene.bob.group_with(&[]).await;
    let foreign = foreign.group_id().as_slice().to_vec();
    let cases = [
        ("no such group", cursor(&[7; 16], 0, &[]), "GROUP_NOT_FOUND"),
        ("not a member", cursor(&foreign, 0, &[]), "NOT_A_MEMBER"),
        (
            "another entry took its place",
            cursor(&scene.id, second.position, &[1; 8]),
            "LOG_REGRESSED",
        ),
        (
            "further than the log",
            cursor(&scene.id, second.position + 1, &[1; 8]),
            "LOG_REGRESSED",
        ),
    ];
    for (what, start, reason) in cases {
        let id = start.group_id.clone();
        let mut stream = Stream::open(&scene.alice.door, vec![start], 0).await.unwrap();
        let ended = stream.group_ended().await;
        assert_eq!((ended.reason.as_str(), ended.group_id), (reason, id), "{what}");
        // The stream goes on.
        stream.caught_up().await;
        let change = wire::ChangeGroups {
            add: vec![cursor(&scene.id, 1, &[])],
            drop_group_ids: Vec::new(),
        };
        stream.say(Out::ChangeGroups(change)).await;
        assert_eq!(stream.entry().await.position, 2, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_say_what_makes_no_sense_end() {
    let scene = Scene::new().await;
    let door = &scene.alice.door;
    let start = || {
        Out::Start(wire::Start {
            groups: vec![cursor(&scene.id, 1, &[])],
            inbox_cursor: 0,
        })
    };
    let bad_cursor = |group: &[u8], id: &[u8]| {
        vec![Out::Start(wire::Start {
            groups: vec![cursor(group, 1, id)],
            inbox_cursor: 0,
        })]
    };
    let none = wire::GroupCursor {
        group_id: scene.id.clone().into(),
        cursor: None,
    };
    let ack = |position| {
        let groups = vec![cursor(&scene.id, position, &[])];
        Out::Ack(wire::Ack {
            groups,
            inbox_number: 0,
        })
    };
    let cases = [
        ("nothing like a start", vec![Out::Heartbeat(wire::Heartbeat {})]),
        ("a group that is no id", bad_cursor(&[7; 15], &[])),
        ("an entry id that is none", bad_cursor(&scene.id, &[7; 7])),
        (
            "no cursor",
            vec![Out::Start(wire::Start {
                groups: vec![none],
                inbox_cursor: 0,
            })],
        ),
        ("two starts", vec![start(), start()]),
        ("an acknowledgement of what was not sent", vec![start(), ack(99)]),
        (
            "an inbox item that was not sent",
            vec![
                start(),
                Out::Ack(wire::Ack {
                    groups: vec![],
                    inbox_number: 7,
                }),
            ],
        ),
    ];
    for (what, says) in cases {
        let ended = match Stream::open_with(door, says).await {
            Err(refusal) => refusal,
            Ok(mut stream) => end_of(&mut stream).await,
        };
        assert_eq!(ended.reason, Reason::Malformed, "{what}");
    }
    let foreign = scene.bob.new_token().await.unwrap();
    for token in ["rubbish".to_owned(), foreign] {
        let refresh = Out::RefreshToken(wire::RefreshToken { access_token: token });
        let mut stream = Stream::open_with(door, vec![start(), refresh]).await.unwrap();
        assert_eq!(end_of(&mut stream).await.reason, Reason::TokenInvalid);
    }
    let mut stream = Stream::open_with(door, vec![start()]).await.unwrap();
    stream.caught_up().await;
    stream.say_nothing().await;
    assert_eq!(end_of(&mut stream).await.reason, Reason::Malformed);
    // A good new token changes nothing for the moment.
    let token = scene.alice.new_token().await.unwrap();
    let refresh = Out::RefreshToken(wire::RefreshToken { access_token: token });
    let mut stream = Stream::open_with(door, vec![start(), refresh]).await.unwrap();
    stream.caught_up().await;
    let mut scene = scene;
    scene.say("still here").await;
    assert_eq!(stream.entry().await.position, 2);
}

async fn end_of(stream: &mut Stream) -> valise_proto::Refusal {
    loop {
        if let Err(refusal) = stream.next().await {
            return refusal;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_shows_signs_of_life() {
    let scene = Scene::new().await;
    let mut stream = scene.alices(1).await;
    stream.caught_up().await;
    match stream.next_of_any_kind().await.unwrap() {
        In::Heartbeat(_) => {}
        other => panic!("not a heartbeat: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn passing_messages_reach_who_is_there_and_are_kept_nowhere() {
    let mut scene = Scene::new().await;
    let mut bobs = Stream::open(&scene.bob.door, vec![cursor(&scene.id, 1, &[])], 0)
        .await
        .unwrap();
    let item = bobs.inbox_item().await;
    bobs.ack_inbox(item.number).await;
    bobs.caught_up().await;
    let mut alices = scene.alices(1).await;
    alices.caught_up().await;
    let message = scene.alice.encrypt(&mut scene.group, b"typing");
    let request = wire::SendEphemeralRequest {
        mls_message: message.clone().into(),
    };
    scene.alice.door.delivery().send_ephemeral(request).await.unwrap();
    match bobs.next().await.unwrap() {
        In::Ephemeral(ephemeral) => {
            assert_eq!(
                (ephemeral.group_id.to_vec(), ephemeral.epoch),
                (scene.id.clone(), 1)
            );
            assert_eq!(ephemeral.mls_message, message);
        }
        other => panic!("not ephemeral: {other:?}"),
    }
    // Not to its sender, and not into the log: the next entry is the next message.
    scene.say("typed").await;
    assert_eq!(alices.entry().await.position, 2);
    assert_eq!(bobs.entry().await.position, 2);
    let large = wire::SendEphemeralRequest {
        mls_message: vec![0; 16 * 1024 + 1].into(),
    };
    let status = scene
        .alice
        .door
        .delivery()
        .send_ephemeral(large)
        .await
        .unwrap_err();
    assert_eq!(refusal(&status).reason, Reason::MessageTooLarge);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_device_is_out_at_once() {
    let mut scene = Scene::new().await;
    let carol = Device::enrol(&scene.service, &scene.town.code("carol").await).await;
    carol.publish(1).await;
    let bundle = scene
        .alice
        .commit(&mut scene.group, Plan::add(vec![carol.key_package()]));
    scene.alice.submit(&bundle).await.unwrap();
    scene.group.merge_pending_commit(&scene.alice.provider).unwrap();
    let mut stream = Stream::open(&carol.door, vec![cursor(&scene.id, 2, &[])], 0)
        .await
        .unwrap();
    stream.inbox_item().await;

    scene.town.administrator().revoke_device(carol.id).await.unwrap();
    let ended = soon(end_of(&mut stream)).await;
    assert_eq!(ended.reason, Reason::DeviceRevoked);
    // Its token was good for ten minutes.
    let status = carol
        .door
        .delivery()
        .list_groups(wire::ListGroupsRequest::default())
        .await
        .unwrap_err();
    assert_eq!(refusal(&status).reason, Reason::DeviceRevoked);
    assert_eq!(carol.new_token().await.unwrap_err().reason, Reason::DeviceRevoked);
    assert_eq!(
        Stream::open(&carol.door, Vec::new(), 0)
            .await
            .err()
            .unwrap()
            .reason,
        Reason::DeviceRevoked
    );
    // Nobody can invite it any more.
    let claim = valise_proto::directory::v1::ClaimKeyPackagesRequest {
        user_ids: vec![carol.user.to_string()],
        device_ids: Vec::new(),
        cipher_suite: 1,
    };
    until("its key packages are gone", async || {
        let claims = scene
            .alice
            .door
            .directory()
            .claim_key_packages(claim.clone())
            .await
            .unwrap()
            .into_inner()
            .claims;
        let revoked = valise_proto::directory::v1::ClaimFailure::DeviceRevoked;
        let failure = valise_proto::directory::v1::claim::Result::Failure(revoked.into());
        (claims[0].result == Some(failure)).then_some(())
    })
    .await;
    // Nobody but its own user and administrators can do that.
    let request = RevokeDeviceRequest {
        device_id: scene.bob.id.to_string(),
    };
    let status = scene
        .alice
        .door
        .authentication()
        .revoke_device(request)
        .await
        .unwrap_err();
    assert_eq!(refusal(&status).reason, Reason::UnknownDevice);
}
