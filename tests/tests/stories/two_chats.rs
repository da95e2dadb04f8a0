//! Two people talk with `valise chat`, line by line through pipes.

use valise_tests::command::Running;
use valise_tests::homes::Homes;
use valise_tests::service::Service;
use valise_tests::wait::soon;

#[tokio::test(flavor = "multi_thread")]
async fn two_people_talk() {
    let service = Service::start().await;
    let homes = Homes::of(&service).await;
    homes.enrol("anna").await;
    homes.enrol("ben").await;
    let group = homes.new_group("anna", "Lunch").await;
    homes.add("anna", &group, &["ben"]).await;

    let mut anna = Running::start(homes.command("anna", &["chat", "Lunch"]));
    let mut ben = Running::start(homes.command("ben", &["chat", &group]));
    anna.write("On mange où ?\n").await;
    ben.line_that(|line| line.contains(&homes.user("anna")) && line.contains("On mange où ?"))
        .await;
    ben.write("Chez Marcel\n").await;
    anna.line_that(|line| line.contains(&homes.user("ben")) && line.contains("Chez Marcel"))
        .await;
    for turn in 0..20 {
        anna.write(&format!("ping {turn}\n")).await;
        ben.line_that(|line| line.contains(&format!("ping {turn}"))).await;
        ben.write(&format!("pong {turn}\n")).await;
        anna.line_that(|line| line.contains(&format!("pong {turn}")))
            .await;
    }
    anna.write("/who\n").await;
    anna.line_that(|line| line.contains(&homes.user("anna")) && line.contains(&homes.user("ben")))
        .await;

    // The end of the input is the end of the conversation; and so is /quit.
    anna.close_input();
    ben.write("/quit\n").await;
    let ((_, annas), (_, bens)) = soon(async { tokio::join!(anna.rest(), ben.rest()) }).await;
    assert_eq!((annas, bens), (Some(0), Some(0)));
}
