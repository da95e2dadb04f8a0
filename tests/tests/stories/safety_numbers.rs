//! Two people compare safety numbers; a new device changes them, and is told to everybody.

#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

use serde_json::Value;
use valise_tests::command::run;
use valise_tests::homes::Homes;
use valise_tests::service::Service;

async fn number(homes: &Homes, profile: &str, other: &str) -> Value {
    let told = run(homes.command(profile, &["safety-number", &homes.user(other), "--json"]))
        .await
        .ok();
    serde_json::from_str(&told).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_device_changes_the_number_and_is_told() {
    let service = Service::start().await;
    let homes = Homes::of(&service).await;
    homes.enrol("anna").await;
    homes.enrol("ben").await;
    let stranger = run(homes.command("anna", &["safety-number", &homes.user("ben")])).await;
    assert_eq!(stranger.code, Some(1));
    assert!(stranger.err.contains("there is no group"), "{}", stranger.err);
    let group = homes.new_group("anna", "Lunch").await;
    homes.add("anna", &group, &["ben"]).await;

    let (hers, his) = (
        number(&homes, "anna", "ben").await,
        number(&homes, "ben", "anna").await,
    );
    assert_eq!(hers["safety_number"], his["safety_number"]);
    assert_eq!(hers["devices"].as_array().unwrap().len(), 2);
    let drawn = run(homes.command("ben", &["safety-number", &homes.user("anna"), "--qr"]))
        .await
        .ok();
    let digits: String = drawn
        .lines()
        .filter(|line| line.starts_with("    "))
        .take(3)
        .flat_map(|line| line.chars().filter(char::is_ascii_digit))
        .collect();
    assert_eq!(digits, his["safety_number"].as_str().unwrap());
    assert!(drawn.contains('\u{2588}') && !drawn.contains('\x1b'));

    // Somebody enrols another device as ben; anna adds it.
    let code = run(homes.command("admin", &["admin", "code", &homes.user("ben"), "--json"]))
        .await
        .ok();
    let code: Value = serde_json::from_str(&code).unwrap();
    let code = code["code"].as_str().unwrap();
    let enrol = ["enrol", "--server", service.url(), "--code", code, "--json"];
    let phone: Value = serde_json::from_str(&run(homes.command("bens-phone", &enrol)).await.ok()).unwrap();
    homes.add("anna", &group, &["ben"]).await;

    let (after, his) = (
        number(&homes, "anna", "ben").await,
        number(&homes, "ben", "anna").await,
    );
    assert_ne!(after["safety_number"], hers["safety_number"]);
    assert_eq!(after["safety_number"], his["safety_number"]);
    assert_eq!(
        after["safety_number"],
        number(&homes, "bens-phone", "anna").await["safety_number"]
    );

    // Before anything else that the new device can read.
    run(homes.command("anna", &["send", &group, "to three devices"]))
        .await
        .ok();
    let heard = run(homes.command("ben", &["listen", "--json", "--count", "1"]))
        .await
        .ok();
    let heard: Vec<Value> = heard
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let place = |kind: &str| heard.iter().rposition(|event| event["kind"] == kind).unwrap();
    let told = &heard[place("device_added")];
    assert_eq!(told["device"], phone["device"]);
    assert_eq!(told["user"], homes.user("ben"));
    assert_eq!(told["sender"]["user"], homes.user("anna"));
    assert!(place("device_added") < place("members_changed"));
    assert!(place("members_changed") < place("message"));
}
