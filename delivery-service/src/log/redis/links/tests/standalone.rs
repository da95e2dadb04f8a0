//! One server.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use valise_local_stack::RedisProgram;

use super::*;

const BOTH: [RedisProgram; 2] = [RedisProgram::Redis, RedisProgram::Valkey];

#[tokio::test]
async fn commands_and_scripts_are_answered_and_messages_heard() {
    for program in BOTH {
        let server = Redis::start_with(program, &[]).await;
        let links = open(&standalone(&server, 0)).await;
        let mut heard = links.heard().unwrap();
        assert!(links.heard().is_none());
        set(&links, partition(7), "key", "value").await;
        assert_eq!(get(&links, partition(7), "key").await.as_deref(), Some("value"));
        assert_eq!(get(&links, partition(8), "key").await, None);
        // The server knows no script yet, and forgets it later.
        for round in ["one", "two"] {
            let added = links.call(partition(1023), add(partition(1023), round)).await;
            assert_eq!(added.unwrap(), Value::Int(1));
            let lost = hear(&mut heard, &message(partition(1023), round)).await;
            assert!(lost.is_empty(), "{lost:?}");
            assert_eq!(server.command(&["SCRIPT", "FLUSH"]).await, "OK");
        }
        let answers = links
            .calls(
                partition(7),
                vec![
                    command("GET", partition(7), "key", &[]),
                    add(partition(7), "three"),
                    command("GET", partition(7), "none", &[]),
                ],
            )
            .await;
        let expected = [Value::BulkString(b"value".to_vec()), Value::Int(1), Value::Nil];
        assert_eq!(answers.unwrap(), expected);
        links.publish(partition(3), Bytes::from_static(b"typing"));
        hear(&mut heard, &message(partition(3), "typing")).await;
        assert!(links.unusable().await == 0);
        links.close().await;
        assert!(links.unusable().await > 0);
        let error = links
            .call(partition(7), command("GET", partition(7), "key", &[]))
            .await;
        assert!(error.is_err());
        assert_eq!(server.command(&["PUBSUB", "SHARDCHANNELS", "*7}ch"]).await, "");
    }
}

#[tokio::test]
async fn what_does_not_pass_is_not_repeated() {
    let server = Redis::start().await;
    let links = open(&standalone(&server, 0)).await;
    set(&links, partition(7), "key", "value").await;
    let error = links
        .call(partition(7), command("SADD", partition(7), "key", &["x"]))
        .await;
    assert_eq!(
        error.unwrap_err().to_string(),
        "log store: Redis answers WRONGTYPE"
    );
    assert_eq!(calls_of(&server, "sadd").await, 1);
}

/// Adds members until told to stop; returns those whose adding was answered.
fn adding(links: &Arc<Links>, stop: &Arc<AtomicBool>, number: u16) -> tokio::task::JoinHandle<Vec<String>> {
    let (links, stop) = (Arc::clone(links), Arc::clone(stop));
    tokio::spawn(async move {
        let mut answered = Vec::new();
        for round in 0.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let what = format!("{number}-{round}");
            links
                .call(partition(number), add(partition(number), &what))
                .await
                .expect("a call did not get through");
            answered.push(what);
        }
        answered
    })
}

#[tokio::test]
async fn calls_get_through_while_the_server_is_killed_and_restarted() {
    for program in BOTH {
        let mut server = Redis::start_with(program, &[]).await;
        let links = Arc::new(open(&standalone(&server, 0)).await);
        let mut heard = links.heard().unwrap();
        let mut changed = links.run_ids_changed();
        let stop = Arc::new(AtomicBool::new(false));
        let tasks: Vec<_> = (0..8).map(|number| adding(&links, &stop, number)).collect();
        hear(&mut heard, &message(partition(7), "7-20")).await;
        server.kill().await;
        until("it to be noticed", async || links.unusable().await > 0).await;
        server.restart().await;
        hear_lost(&mut heard, Partition::all()).await;
        until("the server to be in use", async || links.unusable().await == 0).await;
        let partitions = within("a change of identity", changed.recv()).await.unwrap();
        assert_eq!(partitions.len(), 1024);
        let added = links.call(partition(9), add(partition(9), "after")).await;
        assert_eq!(added.unwrap(), Value::Int(1));
        hear(&mut heard, &message(partition(9), "after")).await;
        stop.store(true, Ordering::Relaxed);
        for (number, task) in (0..).zip(tasks) {
            let answered = task.await.unwrap();
            let there = members(&links, partition(number)).await;
            assert!(answered.iter().all(|what| there.contains(what)));
        }
    }
}

#[tokio::test]
async fn a_server_that_hangs_is_noticed_and_one_that_is_gone_is_said_to_be() {
    let mut server = Redis::start().await;
    let links = open(&standalone(&server, 0)).await;
    server.pause();
    until("it to be noticed", async || links.unusable().await > 0).await;
    let calling = links.call(partition(7), add(partition(7), "one"));
    tokio::pin!(calling);
    until("a new connection to be tried", async || {
        let call = timeout(Duration::from_millis(10), &mut calling).await;
        assert!(call.is_err(), "{call:?}");
        links
            .topology
            .current()
            .owner(partition(7))
            .unwrap()
            .down()
            .is_some()
    })
    .await;
    server.resume();
    assert_eq!(within("the call", calling).await.unwrap(), Value::Int(1));
    server.kill().await;
    let error = links
        .call(partition(7), add(partition(7), "two"))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("log store: outcome unknown, repeat with the same key: Redis at 127.0.0.1:"),
        "{error}"
    );
}

#[tokio::test]
async fn pushes_that_are_cut_off_are_told_as_lost_and_heard_again() {
    for program in BOTH {
        let server = Redis::start_with(program, &[]).await;
        let links = open(&standalone(&server, 0)).await;
        let mut heard = links.heard().unwrap();
        for round in ["one", "two"] {
            assert_eq!(server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await, "1");
            hear_lost(&mut heard, Partition::all()).await;
            let added = links.call(partition(9), add(partition(9), round)).await;
            assert_eq!(added.unwrap(), Value::Int(1));
            hear(&mut heard, &message(partition(9), round)).await;
        }
    }
}
