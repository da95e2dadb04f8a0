//! Nothing is shown that a failover could take back.

use std::sync::Arc;

use valise_local_stack::RedisProgram;

use super::*;

#[tokio::test]
async fn a_write_is_answered_and_heard_only_when_a_replica_has_it() {
    for program in [RedisProgram::Redis, RedisProgram::Valkey] {
        let server = Redis::start_with(program, &[]).await;
        let replica = replica_of(&server, program).await;
        let unfenced = open(&standalone(&server, 0)).await;
        let mut heard_unfenced = unfenced.heard().unwrap();
        let links = Arc::new(open(&standalone(&server, 1)).await);
        let mut heard = links.heard().unwrap();
        set(&links, partition(7), "key", "before").await;

        replica.pause();
        let waits = calls_of(&server, "wait").await;
        let writing = tokio::spawn({
            let links = Arc::clone(&links);
            async move { links.call(partition(7), add(partition(7), "late")).await }
        });
        // It is written, and everybody who waits for no replica knows.
        hear(&mut heard_unfenced, &message(partition(7), "late")).await;
        assert_eq!(members(&unfenced, partition(7)).await.len(), 1);
        // A read of what might be taken back waits as well.
        let reading = tokio::spawn({
            let links = Arc::clone(&links);
            async move { members(&links, partition(7)).await }
        });
        // Fences have come and gone without the replica.
        until("fences", async || calls_of(&server, "wait").await >= waits + 3).await;
        assert!(!writing.is_finished() && !reading.is_finished());
        assert!(heard.try_recv().is_err());
        assert!(links.unusable().await > 0);
        assert!(unfenced.unusable().await == 0);

        replica.resume();
        assert_eq!(
            within("the write", writing).await.unwrap().unwrap(),
            Value::Int(1)
        );
        assert_eq!(within("the read", reading).await.unwrap().len(), 1);
        assert!(hear(&mut heard, &message(partition(7), "late")).await.is_empty());
        assert!(links.unusable().await == 0);
    }
}

#[tokio::test]
async fn a_write_is_answered_only_when_as_many_replicas_have_it_as_are_asked_for() {
    let server = Redis::start().await;
    let _quick = replica_of(&server, RedisProgram::Redis).await;
    let slow = replica_of(&server, RedisProgram::Redis).await;
    until("both replicas to follow", async || {
        let info = server.command(&["INFO", "replication"]).await;
        info.matches("state=online").count() == 2
    })
    .await;
    let links = Arc::new(open(&standalone(&server, 2)).await);
    set(&links, partition(7), "key", "before").await;

    slow.pause();
    let waits = calls_of(&server, "wait").await;
    let writing = tokio::spawn({
        let links = Arc::clone(&links);
        async move { links.call(partition(7), add(partition(7), "late")).await }
    });
    until("fences, or an answer", async || {
        writing.is_finished() || calls_of(&server, "wait").await >= waits + 3
    })
    .await;
    assert!(!writing.is_finished(), "one replica alone has it");
    slow.resume();
    let written = within("the write", writing).await.unwrap();
    assert_eq!(written.unwrap(), Value::Int(1));
}

#[tokio::test]
async fn too_few_replicas_are_an_unknown_outcome() {
    let server = Redis::start().await;
    let links = open(&standalone(&server, 1)).await;
    let error = links
        .call(partition(7), add(partition(7), "one"))
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "log store: outcome unknown, repeat with the same key: too few replicas have it"
    );
}

#[tokio::test]
async fn a_fence_of_a_node_that_was_demoted_meanwhile_fails() {
    for program in [RedisProgram::Redis, RedisProgram::Valkey] {
        let server = Redis::start_with(program, &[]).await;
        let other = replica_of(&server, program).await;
        let links = open(&standalone(&server, 1)).await;
        let owner = links.topology.current().owner(partition(7)).cloned().unwrap();
        let session = owner.up().unwrap();
        session.fence(partition(7)).await.unwrap();
        // The other one goes its own way, the server writes alone, follows it, and is promoted again.
        assert_eq!(other.command(&["REPLICAOF", "NO", "ONE"]).await, "OK");
        let mut pipeline = redis::pipe();
        pipeline.cmd("SET").arg(key(partition(7), "key")).arg("lost");
        session.send(&pipeline).await.unwrap();
        follow(&server, &other).await;
        assert_eq!(server.command(&["REPLICAOF", "NO", "ONE"]).await, "OK");
        follow(&other, &server).await;
        assert_eq!(server.command(&["GET", &key(partition(7), "key")]).await, "");
        // `WAIT` alone would be content.
        assert_eq!(
            server
                .command(&["INFO", "replication"])
                .await
                .matches("state=online")
                .count(),
            1
        );
        session.fence(partition(7)).await.unwrap_err();
        // A call of its own is made anew.
        set(&links, partition(7), "key", "kept").await;
        assert_eq!(server.command(&["GET", &key(partition(7), "key")]).await, "kept");
    }
}

async fn follow(replica: &Redis, primary: &Redis) {
    let port = primary.port().to_string();
    assert_eq!(replica.command(&["REPLICAOF", "127.0.0.1", &port]).await, "OK");
    until("the replica to follow", async || {
        primary
            .command(&["INFO", "replication"])
            .await
            .contains("state=online")
    })
    .await;
}

#[tokio::test]
async fn a_full_server_is_still_read() {
    let server = Redis::start().await;
    let _replica = replica_of(&server, RedisProgram::Redis).await;
    let links = open(&standalone(&server, 1)).await;
    set(&links, partition(7), "key", "value").await;
    assert_eq!(server.command(&["CONFIG", "SET", "maxmemory", "1"]).await, "OK");
    assert_eq!(get(&links, partition(7), "key").await.as_deref(), Some("value"));
    let error = links
        .call(partition(7), command("SET", partition(7), "key", &["more"]))
        .await;
    assert_eq!(error.unwrap_err().to_string(), "log store: Redis answers OOM");
}

#[tokio::test]
async fn a_fence_leaves_nothing_in_the_append_only_file() {
    let server = Redis::start().await;
    let _replica = replica_of(&server, RedisProgram::Redis).await;
    let links = open(&standalone(&server, 1)).await;
    set(&links, partition(7), "key", "value").await;
    let folder = server.folder().join("appendonlydir");
    let mut written = Vec::new();
    for file in std::fs::read_dir(folder).unwrap() {
        written.extend(std::fs::read(file.unwrap().path()).unwrap());
    }
    let written = String::from_utf8_lossy(&written);
    assert!(written.contains("{p0007}key") && !written.contains("{p0007}fence"));
}

#[tokio::test]
async fn a_number_of_replicas_that_is_not_waited_for_is_said() {
    let server = Redis::start().await;
    let _first = replica_of(&server, RedisProgram::Redis).await;
    let links = open(&standalone(&server, 1)).await;
    let concern = || links.topology.current().nodes()[0].up()?.concern();
    assert_eq!(concern(), None);
    let mut second = replica_of(&server, RedisProgram::Redis).await;
    until("one too many", async || {
        concern().is_some_and(|said| said.starts_with("more replicas than redis.wait_replicas"))
    })
    .await;
    second.kill().await;
    until("as many as are waited for", async || concern().is_none()).await;
}
