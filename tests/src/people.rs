//! People with devices that use the SDK.

use std::time::Duration;

use valise_client_sdk::{
    Client, Event, EventKind, Events, Group, GroupId, KeyPackageOptions, Options, Position, Servers, Store,
    UserId, UserKind,
};

use crate::service::Service;
use crate::wait::soon;

/// Whose domain everybody in tests belongs to: that of the service's first user.
pub struct Town {
    servers: Servers,
    domain: String,
    administrator: Client,
}

impl Town {
    /// Enrols the administrator of a service that was just started.
    pub async fn of(service: &Service) -> Self {
        let (user, _) = service.first_user();
        let domain = user.split_once('@').unwrap().1;
        Self::at(Servers::one(service.url()), service.administrator_code(), domain).await
    }

    /// Enrols the administrator of services that were just started.
    pub async fn at(servers: Servers, administrator_code: &str, domain: &str) -> Self {
        Self::at_with(servers, administrator_code, domain, options(1)).await
    }

    /// The same, with these options.
    pub async fn at_with(servers: Servers, administrator_code: &str, domain: &str, options: Options) -> Self {
        let administrator = Client::enrol_with(
            servers.clone(),
            administrator_code,
            "administrator's",
            Store::memory(),
            options,
        );
        let administrator = soon(administrator).await.unwrap();
        Self {
            servers,
            domain: domain.to_owned(),
            administrator,
        }
    }

    /// The administrator's device.
    pub fn administrator(&self) -> &Client {
        &self.administrator
    }

    /// The user of that name.
    pub fn user(&self, name: &str) -> UserId {
        format!("{name}@{}", self.domain).parse().unwrap()
    }

    /// A code for a device of that user.
    pub async fn code(&self, name: &str) -> String {
        let (user, administration) = (self.user(name), self.administrator.administration());
        let code = administration.create_enrolment_code(&user, UserKind::Device, Duration::from_secs(3600));
        code.await.unwrap().code
    }

    /// A new device of that user, with its store in memory.
    pub async fn device(&self, name: &str) -> Client {
        self.device_with(name, Store::memory(), options(20)).await
    }

    /// A new device with that store and those options.
    pub async fn device_with(&self, name: &str, store: Store, options: Options) -> Client {
        self.device_at(self.servers.clone(), name, store, options).await
    }

    /// A new device that uses these replicas of the services.
    pub async fn device_at(&self, servers: Servers, name: &str, store: Store, options: Options) -> Client {
        let code = self.code(name).await;
        Client::enrol_with(servers, &code, "a device", store, options)
            .await
            .unwrap()
    }
}

/// Options with so many one-time key packages in stock: each costs two key pairs and a signature.
pub fn options(one_time: usize) -> Options {
    let mut options = Options::default();
    options.key_packages = KeyPackageOptions {
        one_time,
        ..KeyPackageOptions::default()
    };
    options
}

/// The next event for which that yields something. Events are confirmed on the way.
pub async fn event<T>(client: &Client, events: &mut Events, wanted: impl Fn(&Event) -> Option<T>) -> T {
    let found = async {
        loop {
            let event = events.next().await.expect("the client is open");
            client.confirm(event.id).await.unwrap();
            if let Some(found) = wanted(&event) {
                return found;
            }
        }
    };
    soon(found).await
}

/// The text of a message.
pub fn text(event: &Event) -> Option<String> {
    match &event.kind {
        EventKind::Message { content, .. } => content.as_text().map(str::to_owned),
        _ => None,
    }
}

/// Waits until the device has heard that text. Events are confirmed on the way.
pub async fn hears(client: &Client, expected: &str) {
    let mut events = client.events();
    event(client, &mut events, |event| {
        (text(event).as_deref() == Some(expected)).then_some(())
    })
    .await;
}

/// The group, once this device is in it.
pub async fn joined(client: &Client, group: GroupId) -> Group {
    let mut events = client.events();
    event(client, &mut events, |event| {
        (event.group == group && matches!(event.kind, EventKind::Joined { .. })).then_some(())
    })
    .await;
    client.group(group).await.unwrap().unwrap()
}

/// The next so many messages with their positions. Events are confirmed as they come.
pub async fn messages(client: &Client, events: &mut Events, count: usize) -> Vec<(Position, String)> {
    let mut messages = Vec::with_capacity(count);
    while messages.len() < count {
        let event = events.next().await.expect("the client is open");
        if let Some(text) = text(&event) {
            messages.push((event.position, text));
        }
        if messages.len() % 256 == 0 || messages.len() == count {
            client.confirm(event.id).await.unwrap();
        }
    }
    messages
}
