//! A device on a bad network, and what it does.

use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use valise_client_sdk::{Client, Error, Group, GroupId, GroupStatus, Reason, Store, StoreKey, UserId};
use valise_tests::embedded::Services;
use valise_tests::lossy_proxy::LossyProxy;
use valise_tests::people::{Town, options};
use valise_tests::wait::soon;

use crate::lossy_network::book::{Book, Window};

/// Nobody removes anybody or leaves where fewer are in the group.
const FEW: usize = 4;

/// A device with its store, and its way to the services.
pub(crate) struct Phone {
    pub(crate) proxy: LossyProxy,
    pub(crate) user: UserId,
    pub(crate) group: OnceLock<GroupId>,
    pub(crate) book: Arc<Mutex<Book>>,
    number: usize,
    store: Store,
    _folder: TempDir,
    open: Option<Open>,
}

/// The client, and who writes down what it is shown.
struct Open {
    client: Arc<Client>,
    listening: JoinHandle<()>,
}

impl Phone {
    /// Enrolled on the bad network, once; after that nothing gets lost until it is told so.
    pub(crate) async fn new(services: &Services, town: &Town, seed: u64, number: usize) -> Self {
        let proxy = LossyProxy::to(&services.url(), seed.wrapping_mul(1000) + number as u64).await;
        let folder = tempfile::tempdir().unwrap();
        let store = Store::file(folder.path().join("phone.valise"), StoreKey::random());
        let name = format!("user{seed}-{number}");
        proxy.lose(true);
        let client = town
            .device_at(proxy.url().into(), &name, store.clone(), options(3))
            .await;
        proxy.lose(false);
        let devices = client.devices().await.unwrap();
        assert_eq!(devices.len(), 1, "{devices:?}");
        let mut book = Book::default();
        if number == 0 {
            // It makes the group.
            book.windows.push(Window {
                after: valise_client_sdk::Position::NONE,
                to: None,
            });
        }
        let mut phone = Self {
            proxy,
            user: client.user().clone(),
            group: OnceLock::new(),
            book: Arc::new(Mutex::new(book)),
            number,
            store,
            _folder: folder,
            open: None,
        };
        phone.listen(client);
        phone
    }

    pub(crate) fn client(&self) -> &Client {
        &self.open.as_ref().expect("it is open").client
    }

    fn listen(&mut self, client: Client) {
        let client = Arc::new(client);
        let listening = tokio::spawn(listen(Arc::clone(&client), Arc::clone(&self.book)));
        self.open = Some(Open { client, listening });
    }

    async fn shut(&mut self) {
        if let Some(Open { client, listening }) = self.open.take() {
            listening.abort();
            // Cancelled: that is what was wanted.
            let _ = listening.await;
            Arc::into_inner(client).expect("nobody else has it").close().await;
        }
    }

    pub(crate) async fn close(mut self) {
        self.shut().await;
    }

    /// The group, where this device is in it as far as it knows.
    pub(crate) async fn member(&self) -> Option<Group> {
        let group = self.client().group(*self.group.get()?).await.unwrap()?;
        let state = group.info().await.unwrap();
        (state.status == GroupStatus::Active).then_some(group)
    }

    /// A text that nobody else sends.
    fn text(&self, number: usize) -> String {
        format!("{} says {number}", self.user)
    }

    /// Which of its own texts it is, counted in the order in which it was to send them.
    pub(crate) fn number_of(&self, text: &str) -> Option<usize> {
        let number = text.strip_prefix(self.user.as_str())?.strip_prefix(" says ")?;
        number.parse().ok()
    }

    pub(crate) async fn send(&self, number: usize) {
        let Some(group) = self.member().await else { return };
        let text = self.text(number);
        match group.send(text.as_str()).await {
            Ok(sent) => drop(self.book.lock().acknowledged.insert(text, sent.position)),
            Err(error) => {
                self.book.lock().failed.push(text);
                self.judge("send", &error);
            }
        }
    }

    pub(crate) async fn queue(&self, number: usize) {
        let Some(group) = self.member().await else { return };
        let text = self.text(number);
        match group.queue(text.as_str()).await {
            Ok(_) => self.book.lock().queued.push(text),
            Err(error) => {
                self.book.lock().failed.push(text);
                self.judge("queue", &error);
            }
        }
    }

    pub(crate) async fn rename(&self, number: usize) {
        if let Some(group) = self.member().await {
            let name = format!("as {} calls it, {number}", self.number);
            self.done("rename", group.rename(&name).await);
        }
    }

    pub(crate) async fn self_update(&self) {
        if let Some(group) = self.member().await {
            self.done("self-update", group.self_update().await);
        }
    }

    pub(crate) async fn add(&self, whom: &UserId) {
        let Some(group) = self.member().await else { return };
        let members = group.members().await.unwrap();
        if members.iter().all(|member| member.user != *whom) {
            self.done("add", group.add(std::slice::from_ref(whom)).await.map(drop));
        }
    }

    /// The first device's user is the owner, whom the others do not remove.
    pub(crate) async fn remove(&self, whom: &UserId) {
        let Some(group) = self.member().await else { return };
        let members = group.members().await.unwrap();
        let there = members.iter().any(|member| member.user == *whom);
        if there && *whom != self.user && !whom.as_str().contains("-0@") && members.len() >= FEW {
            self.done("remove", group.remove(std::slice::from_ref(whom)).await.map(drop));
        }
    }

    pub(crate) async fn leave(&self) {
        let Some(group) = self.member().await else { return };
        if self.number > 0 && group.members().await.unwrap().len() >= FEW {
            self.done("leave", group.leave().await);
        }
    }

    /// With things under way.
    pub(crate) async fn restart(&mut self) {
        self.book.lock().count("restarts");
        if let Some(group) = self.member().await {
            // Nobody waits for it.
            tokio::spawn(async move { group.self_update().await });
            tokio::task::yield_now().await;
        }
        self.shut().await;
        let client = Client::open_with(self.store.clone(), options(3)).await.unwrap();
        self.listen(client);
    }

    /// Everything that the services have is applied, and all that was asked for is done.
    pub(crate) async fn settled(&self) {
        soon(self.client().synced()).await.unwrap();
    }

    fn done(&self, what: &str, result: Result<(), Error>) {
        match result {
            Ok(()) => self.book.lock().count(what),
            Err(error) => self.judge(what, &error),
        }
    }

    /// An operation may fail because the device is not in the group any more, because others were faster, or because it gave up.
    fn judge(&self, what: &str, error: &Error) {
        let mut book = self.book.lock();
        match error {
            Error::GroupNotActive(_) | Error::UnknownGroup(_) | Error::Unreachable => {
                book.count(&format!("{what} failed"));
            }
            // The service knows already that it is not.
            error if error.reason() == Some(Reason::NotAMember) => book.count(&format!("{what} refused")),
            error => book.troubles.push(format!("{what}: {error:?}")),
        }
    }
}

/// Writes down what the device is shown, and confirms it then.
async fn listen(client: Arc<Client>, book: Arc<Mutex<Book>>) {
    let mut events = client.events();
    while let Some(event) = events.next().await {
        book.lock().note(&event);
        if let Err(error) = client.confirm(event.id).await {
            book.lock().troubles.push(format!("confirming: {error:?}"));
        }
    }
}
