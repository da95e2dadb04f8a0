//! A primary that sentinels replace.

use valise_local_stack::RedisSentinel;

use super::*;

#[tokio::test]
async fn a_killed_primary_is_replaced_by_the_sentinels() {
    let mut servers = RedisSentinel::start().await;
    let mut config = config(RedisMode::Sentinel, &servers.sentinel_urls());
    config.sentinel_master = Some("valise".to_owned());
    let links = open(&config).await;
    let mut heard = links.heard().unwrap();
    set(&links, partition(7), "key", "value").await;
    let first = servers.primary().await;
    servers.node_mut(first).kill().await;
    until("a call to get through", async || {
        links.call(partition(7), add(partition(7), "after")).await.is_ok()
    })
    .await;
    assert_ne!(servers.primary().await, first);
    assert_eq!(get(&links, partition(7), "key").await.as_deref(), Some("value"));
    hear_lost(&mut heard, Partition::all()).await;

    config.sentinel_master = Some("other".to_owned());
    assert_eq!(
        refused(&config).await,
        "the sentinels know no primary named \"other\" (setting redis.sentinel_master)"
    );
}
