//! A group that a bad commit has stopped for everybody: its members report it, an administrator ends it, and all devices go on by themselves
//! in its successor, as what they were.

#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

use std::time::Duration;

use openmls::prelude::MlsGroup;
use rusqlite::Connection;
use serde_json::Value;
use valise_client_sdk::{
    Client, CommitFault, Event, EventKind, Group, GroupId, GroupStatus, Reason, ReportedCommit, Role, Store,
    StoreKey,
};
use valise_group_rules::{Roles, successor_config, suites};
use valise_proto::delivery::v1 as wire;
use valise_proto::delivery::v1::inbox_item::Item;
use valise_tests::command::{Running, run};
use valise_tests::homes::Homes;
use valise_tests::people::{Town, event, hears, joined, options};
use valise_tests::raw::stream::Stream;
use valise_tests::raw::{DAY, Device, Plan, lifetime};
use valise_tests::service::Service;
use valise_tests::wait::{soon, until};

async fn status(group: &Group) -> GroupStatus {
    group.info().await.unwrap().status
}

/// The successor, once a device hears that a group was reset; then the group, once the device is in it.
async fn follows(client: &Client, old: GroupId) -> Group {
    let mut events = client.events();
    let successor = event(client, &mut events, |event| match event.kind {
        EventKind::GroupReset { successor } if event.group == old => Some(successor),
        _ => None,
    })
    .await;
    event(client, &mut events, |event| {
        (event.group == successor && matches!(event.kind, EventKind::Joined { .. })).then_some(())
    })
    .await;
    client.group(successor).await.unwrap().unwrap()
}

fn held(event: &Event) -> Option<()> {
    matches!(event.kind, EventKind::HeldByBadCommit { .. }).then_some(())
}

async fn devices(group: &Group, count: usize) {
    until("all are in it", async || {
        (group.members().await.unwrap().len() == count).then_some(())
    })
    .await;
}

/// A group with that id and those roles, of one device alone.
async fn makes(device: &Device, id: GroupId, roles: &Roles) -> Result<(), valise_client_sdk::Refusal> {
    let sender = device.external_sender.clone();
    let config = successor_config(suites()[0], sender, roles, lifetime(84 * DAY)).unwrap();
    let id = openmls::prelude::GroupId::from_slice(id.as_bytes());
    let group =
        MlsGroup::new_with_group_id(&device.provider, &device.signer, &config, id, device.credential())
            .unwrap();
    device.register(&group).await
}

/// Anna made it, Ben moderates, Carol is a member; Mallory has stopped it for all of them.
struct Scene {
    service: Service,
    town: Town,
    anna: Client,
    ben: Client,
    bens_store: Store,
    carol: Client,
    old: Group,
    mallory: Device,
    mallorys: MlsGroup,
    mallorys_inbox: Stream,
    bad: u64,
    _folder: tempfile::TempDir,
}

impl Scene {
    async fn new() -> Self {
        let service = Service::start().await;
        let town = Town::of(&service).await;
        let folder = tempfile::tempdir().unwrap();
        let bens_store = Store::file(folder.path().join("ben.valise"), StoreKey::random());
        let (anna, carol) = (town.device("anna").await, town.device("carol").await);
        let ben = town.device_with("ben", bens_store.clone(), options(5)).await;
        let mallory = Device::enrol(&service, &town.code("mallory").await).await;
        mallory.publish(5).await;
        let old = anna.create_group("Budget").await.unwrap();
        old.add(&[ben.user(), carol.user()]).await.unwrap();
        old.set_role(ben.user(), Role::Moderator).await.unwrap();
        old.add(&[&mallory.user]).await.unwrap();
        let (mut mallorys, mallorys_inbox) = mallory.invited().await;
        old.send("before").await.unwrap();
        for client in [&ben, &carol] {
            joined(client, old.id()).await;
            hears(client, "before").await;
        }

        // Its membership tag, which the service cannot check, is wrong.
        let mut bundle = mallory.commit(&mut mallorys, Plan::self_update());
        *bundle.commit.last_mut().unwrap() ^= 1;
        let bad = mallory.submit(&bundle).await.unwrap().position;
        mallorys.merge_pending_commit(&mallory.provider).unwrap();
        for client in [&anna, &ben, &carol] {
            let mut events = client.events();
            event(client, &mut events, held).await;
        }
        Self {
            service,
            town,
            anna,
            ben,
            bens_store,
            carol,
            old,
            mallory,
            mallorys,
            mallorys_inbox,
            bad,
            _folder: folder,
        }
    }

    async fn reports(&self, count: u32) -> ReportedCommit {
        let administration = self.town.administrator().administration();
        until("all have reported it", async || {
            let mut reports = administration.commit_reports(Some(self.old.id())).await.unwrap();
            let devices = reports
                .first()?
                .faults
                .iter()
                .map(|(_, devices)| devices)
                .sum::<u32>();
            (devices == count).then(|| reports.remove(0))
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_go_on_in_the_successor_as_what_they_were() {
    let mut scene = Scene::new().await;
    let old = scene.old.id();
    let administrator = scene.town.administrator();
    let administration = administrator.administration();

    // What an administrator decides on.
    let report = scene.reports(3).await;
    assert_eq!(
        (report.position.0, report.sender),
        (scene.bad, Some(scene.mallory.id))
    );
    assert_eq!(report.faults, [(CommitFault::Other, 3)]);
    let standing = administration.describe_group(old).await.unwrap();
    assert_eq!((standing.members, standing.position.0), (4, scene.bad));
    assert_eq!((standing.successor, standing.frozen), (None, false));

    // One device is away when it happens.
    scene.ben.close().await;
    let successor = administration.reset_group(old).await.unwrap();
    assert_eq!(administration.reset_group(old).await.unwrap(), successor, "once");
    let standing = administration.describe_group(old).await.unwrap();
    assert_eq!(standing.successor, Some(successor));
    let by = administrator.device().to_string();
    let audit = administration.audit(0).await.unwrap();
    let lines: Vec<_> = audit.iter().filter(|line| line.action == "group.reset").collect();
    assert_eq!(lines.len(), 1);
    assert_eq!(
        (&lines[0].actor, &lines[0].subject),
        (&by, &format!("{old} {successor}"))
    );

    // The old group takes nothing more, from nobody.
    let refused = scene
        .mallory
        .send(&mut scene.mallorys, b"late")
        .await
        .unwrap_err();
    assert_eq!(refused.reason, Reason::GroupReset);
    assert_eq!(refused.metadata["successor_group_id"], successor.to_string());
    let passing = wire::SendEphemeralRequest {
        mls_message: scene.mallory.encrypt(&mut scene.mallorys, b"typing").into(),
    };
    let refused = scene.mallory.door.delivery().send_ephemeral(passing).await;
    let refused = valise_client_sdk::Refusal::from_status(&refused.unwrap_err()).unwrap();
    assert_eq!(refused.reason, Reason::GroupReset);
    assert_eq!(refused.metadata["successor_group_id"], successor.to_string());
    let bundle = scene.mallory.commit(&mut scene.mallorys, Plan::self_update());
    let refused = scene.mallory.submit(&bundle).await.unwrap_err();
    assert_eq!(refused.reason, Reason::GroupReset);
    assert_eq!(refused.metadata["successor_group_id"], successor.to_string());
    // Nobody takes the new id who was not in the old group, and nobody becomes an owner by taking it.
    let dora = Device::enrol(&scene.service, &scene.town.code("dora").await).await;
    let refused = makes(&dora, successor, &Roles::owned_by(dora.user.clone())).await;
    assert_eq!(refused.unwrap_err().reason, Reason::NotAMember);
    let refused = makes(
        &scene.mallory,
        successor,
        &Roles::owned_by(scene.mallory.user.clone()),
    )
    .await;
    let refused = refused.unwrap_err();
    assert_eq!(
        (refused.reason, refused.metadata["rule"].as_str()),
        (Reason::InvalidGroupInfo, "successor_roles")
    );

    // The others go on by themselves, one of them after a restart.
    let annas = follows(&scene.anna, old).await;
    let carols = follows(&scene.carol, old).await;
    let ben = Client::open_with(scene.bens_store.clone(), options(5))
        .await
        .unwrap();
    let bens = follows(&ben, old).await;
    for group in [&annas, &bens, &carols] {
        assert_eq!((group.id(), group.name().await.as_str()), (successor, "Budget"));
        devices(group, 4).await;
        let members = group.members().await.unwrap();
        let role = |client: &Client| {
            members
                .iter()
                .find(|member| member.user == *client.user())
                .unwrap()
                .role
        };
        assert_eq!(
            (role(&scene.anna), role(&ben), role(&scene.carol)),
            (Role::Owner, Role::Moderator, Role::Member)
        );
    }
    annas.send("after").await.unwrap();
    hears(&ben, "after").await;
    hears(&scene.carol, "after").await;
    carols.send("well then").await.unwrap();
    hears(&scene.anna, "well then").await;
    soon(ben.synced()).await.unwrap();
    let authenticator = annas.info().await.unwrap().epoch_authenticator;
    for group in [&bens, &carols] {
        assert_eq!(group.info().await.unwrap().epoch_authenticator, authenticator);
    }
    // So does Mallory's device, as a member; what to do with it is for the people to decide.
    let reset = scene.mallorys_inbox.invitation_or_news().await;
    assert!(matches!(reset, Item::GroupReset(_)), "{reset:?}");
    let invitation = scene.mallorys_inbox.invitation_or_news().await;
    assert!(matches!(invitation, Item::Welcome(_)), "{invitation:?}");

    // Of the old group what was said is left, and nothing else.
    let state = scene.old.info().await.unwrap();
    assert_eq!(
        (state.status, state.successor),
        (GroupStatus::Reset, Some(successor))
    );
    assert!(state.epoch_authenticator.is_empty());
    assert!(scene.old.send("late").await.is_err());
    let found = scene.anna.search("before", 9).await.unwrap();
    assert_eq!(found.len(), 1);
    assert!(ben.groups_elsewhere().await.unwrap().is_empty());
}

/// The first in line is away: the next one makes the successor, without becoming an owner by that.
#[tokio::test(flavor = "multi_thread")]
async fn the_next_in_line_makes_it_where_the_owner_is_away() {
    let scene = Scene::new().await;
    let old = scene.old.id();
    scene.anna.close().await;
    let administration = scene.town.administrator().administration();
    let successor = administration.reset_group(old).await.unwrap();
    let bens = follows(&scene.ben, old).await;
    let carols = follows(&scene.carol, old).await;
    assert_eq!(bens.id(), successor);
    devices(&carols, 4).await;
    let members = carols.members().await.unwrap();
    let roles: Vec<_> = ["anna", "ben", "carol", "mallory"]
        .iter()
        .map(|name| {
            members
                .iter()
                .find(|member| member.user == scene.town.user(name))
                .unwrap()
                .role
        })
        .collect();
    assert_eq!(roles, [Role::Owner, Role::Moderator, Role::Member, Role::Member]);
    carols.send("after").await.unwrap();
    hears(&scene.ben, "after").await;
    assert_eq!(status(&bens).await, GroupStatus::Active);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_written_down_is_not_done() {
    let service = Service::start().await;
    let town = Town::of(&service).await;
    let anna = town.device("anna").await;
    let group = anna.create_group("Budget").await.unwrap();
    let administration = town.administrator().administration();
    let database = Connection::open(service.data().join("authentication.db")).unwrap();
    database.busy_timeout(Duration::from_secs(10)).unwrap();
    database
        .execute_batch(
            "CREATE TRIGGER audit_events_are_full BEFORE INSERT ON audit_events
             BEGIN SELECT RAISE(ABORT, 'full'); END",
        )
        .unwrap();
    let refused = soon(administration.reset_group(group.id())).await.unwrap_err();
    assert_eq!(refused.reason(), Some(Reason::Internal));
    let standing = administration.describe_group(group.id()).await.unwrap();
    assert_eq!(standing.successor, None);
    group.send("nothing has happened").await.unwrap();

    database
        .execute_batch("DROP TRIGGER audit_events_are_full")
        .unwrap();
    let successor = administration.reset_group(group.id()).await.unwrap();
    assert_eq!(follows(&anna, group.id()).await.id(), successor);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_on_the_command_line() {
    let service = Service::start().await;
    let homes = Homes::of(&service).await;
    for name in ["anna", "ben"] {
        homes.enrol(name).await;
    }
    let old = homes.new_group("anna", "Lunch").await;
    homes.add("anna", &old, &["ben"]).await;
    let admin = async |arguments: &[&str]| {
        let arguments = [&["admin", "group"], arguments].concat();
        run(homes.command("admin", &arguments)).await
    };
    let reports = admin(&["reports"]).await.ok();
    assert!(reports.is_empty(), "{reports}");
    let refused = run(homes.command("ben", &["admin", "group", "reset", &old])).await;
    assert_eq!(refused.code, Some(1));

    let reset = admin(&["reset", &old, "--json"]).await.ok();
    let reset: Value = serde_json::from_str(&reset).unwrap();
    let successor = reset["successor"].as_str().unwrap();
    // Whoever makes the successor has to be there until the other one is in it.
    let mut both = Vec::new();
    for name in ["anna", "ben"] {
        let listening = Running::start(homes.command(name, &["listen", "--json"]));
        both.push(listening);
    }
    // Who is invited before it has read the old group to its end hears of that first.
    let reset =
        |line: &str| line.contains("\"group_reset\"") && line.contains(&old) && line.contains(successor);
    let joined = |line: &str| line.contains("\"joined\"") && line.contains(successor);
    for listening in &mut both {
        let first = listening.line_that(|line| reset(line) || joined(line)).await;
        listening
            .line_that(|line| if reset(&first) { joined(line) } else { reset(line) })
            .await;
    }
    for listening in both {
        listening.terminate();
        listening.rest().await;
    }
    let shown = admin(&["show", &old, "--json"]).await.ok();
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(
        (&shown["successor"], &shown["frozen"]),
        (&successor.into(), &false.into())
    );
    let shown = admin(&["show", successor]).await.ok();
    assert!(shown.contains(&format!("goes on for {old}")), "{shown}");
    // The name leads to the group that goes on.
    let shown = run(homes.command("ben", &["group", "show", "Lunch", "--json"]))
        .await
        .ok();
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["group"], successor);
    let audit = run(homes.command("admin", &["admin", "audit"])).await.ok();
    assert!(
        audit.contains(&format!("group.reset  {old} {successor}")),
        "{audit}"
    );
}
