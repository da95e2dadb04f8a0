//! A device that opens a stream at one replica of the delivery service while it has one at another.

#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

use valise_proto::Reason;
use valise_proto::delivery::v1 as wire;
use valise_proto::delivery::v1::subscribe_request::Message as Out;
use valise_tests::crowd::door;
use valise_tests::raw::Door;
use valise_tests::raw::stream::Stream;
use valise_tests::replicas::Replicas;

/// A stream that has answered, which the service has heard.
async fn open(door: &Door) -> Stream {
    let mut stream = Stream::open(door, Vec::new(), 0).await.unwrap();
    stream.caught_up().await;
    answer(&mut stream).await;
    stream
}

/// Says something that is answered in turn.
async fn answer(stream: &mut Stream) {
    let nothing = wire::ChangeGroups {
        add: Vec::new(),
        drop_group_ids: Vec::new(),
    };
    stream.say(Out::ChangeGroups(nothing)).await;
    stream.caught_up().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_stream_displaces_those_at_other_replicas() {
    let replicas = Replicas::start().await;
    let alice = replicas.device(0, "alice").await;
    let bob = replicas.device(0, "bob").await;
    let elsewhere = door(&replicas.stack, 1).await;
    let elsewhere = elsewhere.with_token(&alice.new_token_at(&elsewhere).await.unwrap());
    let mut bobs = open(&bob.door).await;

    let mut streams = vec![open(&alice.door).await];
    for door in [&elsewhere, &alice.door, &elsewhere] {
        let newest = open(door).await;
        let ended = streams.pop().unwrap().next().await.unwrap_err();
        assert_eq!(ended.reason, Reason::Displaced);
        streams.push(newest);
    }
    answer(&mut streams[0]).await;
    answer(&mut bobs).await;
}
