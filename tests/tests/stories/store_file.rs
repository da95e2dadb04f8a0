//! A device's store as a file: one process has it at a time, and what was deleted does not stay beside it.

use valise_client_sdk::{Store, StoreKey};
use valise_tests::command::{Running, run};
use valise_tests::homes::Homes;
use valise_tests::people::{Town, options};
use valise_tests::service::Service;
use valise_tests::wait::{soon, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_is_refused_and_changes_nothing() {
    let service = Service::start().await;
    let homes = Homes::of(&service).await;
    homes.enrol("anna").await;
    let group = homes.new_group("anna", "Lunch").await;
    run(homes.command("anna", &["send", &group, "one"])).await.ok();
    let mut first = Running::start(homes.command("anna", &["listen", &group, "--json"]));
    first.line_that(|line| line.contains("\"one\"")).await;

    let id = group.as_str();
    let commands: [&[&str]; 3] = [&["send", id, "two"], &["group", "show", id], &["listen", id]];
    for second in commands {
        let refused = run(homes.command("anna", second)).await;
        assert_eq!(
            (refused.code, refused.out.as_str()),
            (Some(1), ""),
            "{second:?}: {refused:?}"
        );
        let line = "the store is in use: another valise uses this profile";
        assert_eq!(refused.err.trim_end().lines().count(), 1, "{}", refused.err);
        assert!(refused.err.contains(line), "{}", refused.err);
    }

    // The first one was not disturbed, and once it has ended another one may.
    first.terminate();
    let (_, code) = first.rest().await;
    assert_eq!(code, Some(0));
    run(homes.command("anna", &["send", &group, "three"])).await.ok();
    let next = run(homes.command("anna", &["listen", &group, "--json", "--count", "1"]))
        .await
        .ok();
    assert!(next.contains("\"three\""), "{next}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_write_ahead_log_is_emptied_soon_after_a_commit() {
    let service = Service::start().await;
    let town = Town::of(&service).await;
    let folder = tempfile::tempdir().unwrap();
    let store = Store::file(folder.path().join("anna.valise"), StoreKey::random());
    let anna = town.device_with("anna", store, options(1)).await;
    let group = anna.create_group("Lunch").await.unwrap();
    soon(anna.synced()).await.unwrap();
    // What is due at the start is over; the next time is a quarter of an hour away.
    anna.upkeep().await.unwrap();
    group.self_update().await.unwrap();
    let log = folder.path().join("anna.valise-wal");
    until("it is emptied", async || {
        (std::fs::metadata(&log).unwrap().len() == 0).then_some(())
    })
    .await;
    anna.close().await;
    assert!(!log.exists());
}
