//! The scenes of the demo. Each does what it tells, and notes what must be true.

use std::path::{Path, PathBuf};

use futures::future::try_join_all;
use valise_client_sdk::{AddFailure, DeviceId, Group, GroupId, Position, UserId};

use super::DOMAIN;
use super::checks::{Check, Entitlement, Secrets, entitlements};
use super::people::{Device, Heard, Person, within};
use super::report::{Report, same_authenticator, settled};
use crate::error::CliError;
use crate::out::Out;
use crate::up::Embedded;

/// What everybody's devices are called.
const DEVICE_NAMES: [&str; 2] = ["laptop", "phone"];

/// Who tells it, and where it plays.
pub(super) struct Story<'a> {
    silent: bool,
    directory: PathBuf,
    embedded: &'a Embedded,
    secrets: Secrets,
    checks: Vec<Check>,
}

/// The group, and all that was said in it.
pub(super) struct Talk {
    id: GroupId,
    said: Vec<Heard>,
    entitlements: Vec<Entitlement>,
    /// Of the conversation before.
    rounds: usize,
}

impl<'a> Story<'a> {
    pub(super) fn new(silent: bool, directory: &Path, embedded: &'a Embedded) -> Self {
        let secrets = Secrets::new();
        Self {
            silent,
            directory: directory.to_owned(),
            embedded,
            secrets,
            checks: Vec::new(),
        }
    }

    fn tell(&self, text: &str) -> Result<(), CliError> {
        if self.silent {
            Ok(())
        } else {
            Out::stdout().line(text)
        }
    }

    fn check(&mut self, name: &'static str, ok: bool, detail: impl Into<String>) -> Result<(), CliError> {
        let check = Check::new(name, ok, detail);
        self.tell(&check.line())?;
        self.checks.push(check);
        Ok(())
    }

    pub(super) fn opening(&self) -> Result<(), CliError> {
        let url = self.embedded.url();
        self.tell(&format!(
            "The three services answer at {url}, on a real socket. People are of {DOMAIN}."
        ))
    }

    /// Each person gets two devices, each with its own code, key pair, certificate and encrypted store file.
    pub(super) async fn enrol(&mut self, users: &[UserId]) -> Result<Vec<Person>, CliError> {
        let directory = self.directory.join("devices");
        std::fs::create_dir_all(&directory).map_err(CliError::io("cannot make a directory"))?;
        let url = self.embedded.url();
        let mut people = Vec::with_capacity(users.len());
        for user in users {
            let enrol = DEVICE_NAMES.map(|name| {
                let (directory, url, embedded) = (&directory, &url, self.embedded);
                async move {
                    let code = embedded.enrolment_code(user).await?;
                    let what = format!("{name} of {user} enrols");
                    within(&what, Device::enrol(url, &code, user, name, directory)).await
                }
            });
            let devices = try_join_all(enrol).await?;
            people.push(Person {
                user: user.clone(),
                devices,
            });
        }
        let names: Vec<&str> = people
            .iter()
            .flat_map(|person| &person.devices)
            .map(|device| device.label.as_str())
            .collect();
        self.tell(&format!("\nEnrolled: {}.", names.join(", ")))?;
        Ok(people)
    }

    /// The first device makes the group and adds everybody, its own user's phone too.
    pub(super) async fn found_group(&mut self, people: &mut [Person]) -> Result<Talk, CliError> {
        let name = self.secrets.group_name();
        let laptop = founder(people)?;
        let founder_id = laptop.id;
        let group = within("the group is made", laptop.client()?.create_group(&name)).await?;
        let id = group.id();
        let users: Vec<UserId> = people.iter().map(|person| person.user.clone()).collect();
        let added = within("everybody is added", group.add(&users)).await?;
        let all = people.len() * DEVICE_NAMES.len();
        // The founder's laptop is a member already.
        let unexpected = added
            .failed
            .iter()
            .filter(|(_, _, failure)| *failure != AddFailure::AlreadyMember)
            .count();
        self.tell(&format!(
            "\n{} makes the group {name:?} and adds everybody, {} devices with one commit and one Welcome.",
            laptop.label,
            added.devices.len()
        ))?;
        self.check(
            "every device was added",
            added.devices.len() + 1 == all && unexpected == 0,
            format!("{} of {all} devices are members", added.devices.len() + 1),
        )?;
        let invited = devices(people).filter(|device| device.id != founder_id);
        try_join_all(invited.map(Device::hear_invitation)).await?;
        let entitlements = devices(people)
            .map(|device| Entitlement::since(device.id, Position::NONE))
            .collect();
        Ok(Talk {
            id,
            said: Vec::new(),
            entitlements,
            rounds: 0,
        })
    }

    /// All members who are on talk at the same time; then everybody who is on listens.
    pub(super) async fn converse(
        &mut self,
        talk: &mut Talk,
        people: &mut [Person],
        count: usize,
    ) -> Result<(), CliError> {
        talk.rounds += 1;
        let mut speakers: Vec<(DeviceId, String, Group)> = Vec::new();
        for device in devices(people).filter(|device| device.is_on() && !device.removed) {
            speakers.push((device.id, device.label.clone(), device.group(talk.id).await?));
        }
        let sends = (0..count)
            .zip(speakers.iter().cycle())
            .map(|(number, (sender, label, group))| {
                let text = self.secrets.message(talk.rounds, number + 1, label);
                async move {
                    let what = format!("a message of {label} is accepted");
                    let sent = within(&what, group.send(text.clone())).await?;
                    Ok::<_, CliError>(Heard {
                        position: sent.position,
                        sender: *sender,
                        text,
                    })
                }
            });
        talk.said.extend(try_join_all(sends).await?);
        talk.said.sort_by_key(|said| said.position);
        let (first, last) = (talk.said.len() - count, talk.said.len() - 1);
        let (first, last) = (&talk.said[first], &talk.said[last]);
        self.tell(&format!(
            "\n{} devices talk at the same time: {count} messages, put in order by the service at positions {} to {}, for example",
            speakers.len(),
            first.position,
            last.position
        ))?;
        self.tell(&format!("  {}  {:?}", first.position, first.text))?;
        self.tell(&format!("  {}  {:?}", last.position, last.text))?;
        let until = last.position;
        try_join_all(
            devices(people)
                .filter(|device| device.is_on() && !device.removed)
                .map(|device| device.hear_until(until)),
        )
        .await?;
        Ok(())
    }

    /// The phones of these people: their stores are closed.
    pub(super) async fn switch_off(&mut self, people: &mut [Person], of: &[usize]) -> Result<(), CliError> {
        for &person in of {
            let Some(phone) = people[person].devices.last_mut() else {
                continue;
            };
            phone.switch_off().await;
            self.tell(&format!("\n{} is switched off. It keeps its keys.", phone.label))?;
        }
        Ok(())
    }

    pub(super) async fn switch_on(&mut self, people: &mut [Person], of: &[usize]) -> Result<(), CliError> {
        for &person in of {
            let Some(phone) = people[person].devices.last_mut() else {
                continue;
            };
            phone.switch_on().await?;
            self.tell(&format!(
                "\n{} is switched on: its store file is opened again.",
                phone.label
            ))?;
        }
        Ok(())
    }

    /// Both devices of a person lose their membership, the phone while it is off.
    pub(super) async fn remove(
        &mut self,
        talk: &mut Talk,
        people: &mut [Person],
        person: usize,
    ) -> Result<(), CliError> {
        let user = people[person].user.clone();
        let group = founder(people)?.group(talk.id).await?;
        let removed = within("the removal is accepted", group.remove(&[&user])).await?;
        let position = group.info().await?.position;
        for entitlement in &mut talk.entitlements {
            if people[person]
                .devices
                .iter()
                .any(|device| device.id == entitlement.device)
            {
                entitlement.until = Some(position);
            }
        }
        self.tell(&format!(
            "\n{} removes {user}: {} devices, with the commit at position {position}.",
            founder(people)?.label,
            removed.devices.len()
        ))?;
        let laptop = people[person].devices.iter_mut().filter(|device| device.is_on());
        try_join_all(laptop.map(Device::hear_removal)).await?;
        self.check(
            "all devices of the removed person were removed",
            removed.devices.len() == DEVICE_NAMES.len(),
            format!("{} devices", removed.devices.len()),
        )
    }

    /// Those who were off hear what they missed; who was removed meanwhile hears that, and no more.
    pub(super) async fn catch_up(&mut self, talk: &Talk, people: &mut [Person]) -> Result<(), CliError> {
        let last = talk.said.last().map_or(Position::NONE, |said| said.position);
        try_join_all(devices(people).map(|device| device.hear_until(last))).await?;
        for device in devices(people).filter(|device| device.removed) {
            let silent = device.hears_nothing_more().await?;
            let group = device.group(talk.id).await?;
            let refused = within("an answer", async {
                Ok::<_, CliError>(group.send("me too").await.is_err())
            })
            .await?;
            let detail = format!(
                "{} heard {} messages, that it was removed, and nothing after it",
                device.label,
                device.heard.len()
            );
            self.check("a removed device cannot read on", silent, detail)?;
            let detail = format!("{} tried", device.label);
            self.check("a removed device cannot send", refused, detail)?;
        }
        Ok(())
    }

    /// The last person joins late.
    pub(super) async fn add_newcomer(
        &mut self,
        talk: &mut Talk,
        people: &mut [Person],
    ) -> Result<(), CliError> {
        let group = founder(people)?.group(talk.id).await?;
        let Some(newcomer) = people.last_mut() else {
            return Ok(());
        };
        let added = within("the newcomer is added", group.add(&[&newcomer.user])).await?;
        let position = group.info().await?.position;
        try_join_all(newcomer.devices.iter_mut().map(Device::hear_invitation)).await?;
        let since = newcomer
            .devices
            .iter()
            .map(|device| Entitlement::since(device.id, position));
        talk.entitlements.extend(since);
        let (user, count) = (newcomer.user.clone(), added.devices.len());
        self.tell(&format!(
            "\n{} adds {user}, {count} devices. Later messages only are for them.",
            founder(people)?.label
        ))?;
        self.check(
            "the newcomer was added",
            count == DEVICE_NAMES.len(),
            format!("{count} devices"),
        )
    }

    /// Everything is compared; all devices are closed.
    pub(super) async fn end(mut self, talk: Talk, mut people: Vec<Person>) -> Result<Report, CliError> {
        let all: Vec<&Device> = people.iter().flat_map(|person| &person.devices).collect();
        let reports = settled(&all, talk.id).await?;
        let heard = all.iter().map(|device| (device.id, device.heard.as_slice()));
        let mut checks = entitlements(&talk.entitlements, &talk.said, heard);
        let members = talk
            .entitlements
            .iter()
            .filter(|entitlement| entitlement.until.is_none())
            .count();
        checks.push(same_authenticator(&reports, members));
        self.tell("\nIn the end:")?;
        for check in checks {
            self.tell(&check.line())?;
            self.checks.push(check);
        }
        for device in devices(&mut people) {
            device.switch_off().await;
        }
        let sample = talk
            .said
            .first()
            .cloned()
            .ok_or_else(|| CliError::failed("nothing was said"))?;
        let Self { secrets, checks, .. } = self;
        Ok(Report {
            group: talk.id.to_string(),
            messages: talk.said.len(),
            devices: reports,
            group_id: talk.id,
            sample,
            secrets,
            checks,
        })
    }
}

/// Who makes the group, and adds and removes.
fn founder(people: &[Person]) -> Result<&Device, CliError> {
    let founder = people.first().and_then(|person| person.devices.first());
    founder.ok_or_else(|| CliError::failed("nobody is there"))
}

/// Everybody's devices.
fn devices(people: &mut [Person]) -> impl Iterator<Item = &mut Device> {
    people.iter_mut().flat_map(|person| person.devices.iter_mut())
}
