//! What is not let in, and what operators are told.

use valise_local_stack::{Port, RedisProgram};

use super::*;

#[tokio::test]
async fn a_server_that_may_lose_what_it_answered_is_refused() {
    for (setting, value, needed) in [
        ("appendonly", "no", "yes"),
        ("appendfsync", "everysec", "always"),
        ("no-appendfsync-on-rewrite", "yes", "no"),
        ("maxmemory-policy", "allkeys-lru", "noeviction"),
    ] {
        for program in [RedisProgram::Redis, RedisProgram::Valkey] {
            let server = Redis::start_with(program, &[&format!("--{setting}"), value]).await;
            let mut config = standalone(&server, 0);
            assert_eq!(
                refused(&config).await,
                format!(
                    "Redis at 127.0.0.1:{} has {setting} {value}: an answered append may be lost; it must be {needed}",
                    server.port()
                )
            );
            config.allow_unsafe_persistence = true;
            set(&open(&config).await, partition(7), "key", "value").await;
        }
    }
}

#[tokio::test]
async fn a_server_that_becomes_unsafe_is_not_used_until_it_is_safe_again() {
    let server = Redis::start().await;
    let links = open(&standalone(&server, 0)).await;
    assert!(links.unusable().await == 0);
    assert_eq!(
        server
            .command(&["CONFIG", "SET", "appendfsync", "everysec"])
            .await,
        "OK"
    );
    until("it to be noticed", async || links.unusable().await > 0).await;
    let error = links
        .call(partition(7), add(partition(7), "one"))
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("has appendfsync everysec"), "{error}");
    assert_eq!(
        server.command(&["CONFIG", "SET", "appendfsync", "always"]).await,
        "OK"
    );
    until("it to be used again", async || links.unusable().await == 0).await;
    set(&links, partition(7), "key", "value").await;
}

#[tokio::test]
async fn what_is_not_the_server_that_the_settings_mean_is_refused() {
    let server = Redis::start().await;
    let replica = replica_of(&server, RedisProgram::Redis).await;
    let place = |server: &Redis| format!("Redis at 127.0.0.1:{}", server.port());
    assert_eq!(
        refused(&standalone(&replica, 0)).await,
        format!(
            "{} is a replica: name the primary in the setting redis.urls",
            place(&replica)
        )
    );
    assert_eq!(
        refused(&config(RedisMode::Cluster, &[server.url()])).await,
        format!(
            "{} runs as standalone, and the setting redis.mode is cluster",
            place(&server)
        )
    );
    let mut sentinel = config(RedisMode::Sentinel, &[server.url()]);
    sentinel.sentinel_master = Some("valise".to_owned());
    assert_eq!(
        refused(&sentinel).await,
        format!(
            "{} runs as no sentinel, and the setting redis.mode is sentinel",
            place(&server)
        )
    );
    let node = Redis::start_with(RedisProgram::Redis, &["--cluster-enabled", "yes"]).await;
    assert_eq!(
        refused(&standalone(&node, 0)).await,
        format!(
            "{} runs as cluster, and the setting redis.mode is standalone",
            place(&node)
        )
    );
    let port = Port::free().number();
    for mode in [RedisMode::Standalone, RedisMode::Cluster] {
        let error = refused(&config(mode, &[format!("redis://127.0.0.1:{port}")])).await;
        let start = format!("Redis at 127.0.0.1:{port} cannot be reached (setting redis.urls): ");
        assert!(error.starts_with(&start), "{error}");
    }
}

#[tokio::test]
async fn wrong_passwords_and_forbidden_commands_are_named() {
    let server = Redis::start_with(RedisProgram::Redis, &["--requirepass", "hush"]).await;
    let with = |login: &str| {
        let url = format!("redis://{login}127.0.0.1:{}", server.port());
        config(RedisMode::Standalone, &[url])
    };
    set(&open(&with(":hush@")).await, partition(7), "key", "value").await;
    for login in ["", ":wrong-secret@", "nobody:wrong-secret@"] {
        let error = refused(&with(login)).await;
        let start = format!(
            "Redis at 127.0.0.1:{} refuses the connection (setting redis.urls): ",
            server.port()
        );
        assert!(error.starts_with(&start) && !error.contains("secret"), "{error}");
    }
    let user = ["ACL", "SETUSER", "valise", "on", ">hush", "~*", "&*", "+@all"];
    assert_eq!(server.command(&user).await, "OK");
    set(&open(&with("valise:hush@")).await, partition(7), "key", "value").await;
    for (rules, command) in [
        (["-config|get", "+info"], "CONFIG GET"),
        (["+config|get", "-info"], "INFO"),
    ] {
        let user = ["ACL", "SETUSER", "valise", rules[0], rules[1]];
        assert_eq!(server.command(&user).await, "OK");
        assert_eq!(
            refused(&with("valise:hush@")).await,
            format!(
                "Redis at 127.0.0.1:{} does not permit {command} (setting redis.urls): the user must be allowed to run it",
                server.port()
            )
        );
    }
    let user = [
        "ACL",
        "SETUSER",
        "valise",
        "+info",
        "+config|get",
        "resetchannels",
    ];
    assert_eq!(server.command(&user).await, "OK");
    let error = refused(&with("valise:hush@")).await;
    assert!(error.contains("does not permit SSUBSCRIBE"), "{error}");
}

#[tokio::test]
async fn a_cluster_without_slots_is_refused_after_a_while() {
    let node = Redis::start_with(RedisProgram::Redis, &["--cluster-enabled", "yes"]).await;
    assert_eq!(
        refused(&config(RedisMode::Cluster, &[node.url()])).await,
        "1024 of the log's 1024 partitions belong to no node of the cluster (setting redis.urls)"
    );
}

#[tokio::test]
async fn settings_that_contradict_each_other_are_named() {
    let url = |text: &str| vec![text.to_owned()];
    let (plain, tls) = ("redis://127.0.0.1:1", "rediss://127.0.0.1:1");
    let mut sentinel = config(RedisMode::Sentinel, &url(plain));
    assert_eq!(
        refused(&sentinel).await,
        "setting redis.sentinel_master: needed with redis.mode sentinel, and with no other"
    );
    sentinel.mode = RedisMode::Cluster;
    sentinel.sentinel_master = Some("valise".to_owned());
    assert!(
        refused(&sentinel)
            .await
            .starts_with("setting redis.sentinel_master: ")
    );
    assert_eq!(
        refused(&config(RedisMode::Cluster, &[])).await,
        "setting redis.urls: at least one is needed"
    );
    let two = [plain.to_owned(), plain.to_owned()];
    assert!(
        refused(&config(RedisMode::Standalone, &two))
            .await
            .starts_with("setting redis.urls: ")
    );
    let mixed = [plain.to_owned(), tls.to_owned()];
    assert!(
        refused(&config(RedisMode::Cluster, &mixed))
            .await
            .starts_with("setting redis.urls: ")
    );
    let mut password = config(RedisMode::Standalone, &url(plain));
    password.password = Some("hush".to_owned().into());
    assert!(
        refused(&password)
            .await
            .starts_with("setting redis.username, redis.password: ")
    );
    let mut authority = config(RedisMode::Standalone, &url(plain));
    authority.ca_certificate = Some("/dev/null".into());
    assert!(
        refused(&authority)
            .await
            .starts_with("setting redis.ca_certificate: ")
    );
    let mut authority = config(RedisMode::Standalone, &url(tls));
    authority.ca_certificate = Some("/nowhere".into());
    assert!(
        refused(&authority)
            .await
            .starts_with("setting redis.ca_certificate: ")
    );
}
