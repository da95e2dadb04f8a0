//! B9: a device that was away catches up with 200 groups and 20,000 messages, from opening its store to having all of them in it;
//! against the same bytes read straight from the log and decrypted by openmls alone, on groups that are loaded already.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use openmls::prelude::tls_codec::DeserializeBytes as _;
use openmls::prelude::{MlsGroup, MlsMessageIn, ProcessedMessageContent};
use openmls_rust_crypto::OpenMlsRustCrypto;
use openmls_sqlite_storage::{Codec, SqliteStorageProvider};
use redis::aio::MultiplexedConnection;
use redis::streams::StreamRangeReply;
use rusqlite::Connection;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;
use valise_client_sdk::{
    Client, EventKind, Group, GroupId, GroupStatus, KeyPackageOptions, Options, Position, Store, StoreKey,
};

use crate::report::{Goal, Line, Side};
use crate::server::Server;
use crate::{Bench, Result, say};

/// Groups of the device, at the scale of 1.
const GROUPS: usize = 200;
/// Messages in each, in each round.
const MESSAGES: usize = 100;
/// Who makes the groups and talks: nobody may claim more than 60 key packages of one device in an hour.
const SENDERS: usize = 4;
/// Text that makes a message of 1 KiB, padding and all, within a block.
const TEXT: usize = 800;
/// What a round costs besides what is measured: sending all that.
const MOST_ROUNDS: u32 = 5;

/// The device that was away.
struct Away {
    folder: PathBuf,
    key: StoreKey,
}

impl Away {
    fn file(&self) -> PathBuf {
        self.folder.join("device.db")
    }

    fn store(&self) -> Store {
        Store::file(self.file(), self.key.clone())
    }

    /// The store as it is now, for the reference.
    fn copy(&self) -> Result<PathBuf> {
        let copy = self.folder.join("reference.db");
        std::fs::copy(self.file(), &copy)?;
        Ok(copy)
    }
}

pub(crate) async fn run(bench: &mut Bench) -> Result<Vec<Line>> {
    let servers = bench.server.client_urls();
    let folder = tempfile::tempdir_in(bench.data.path())?;
    let away = Away {
        folder: folder.path().to_owned(),
        key: StoreKey::random(),
    };
    let (receiver, code) = bench.administrator.code().await?;
    let client = Client::enrol_with(servers.clone(), &code, "", away.store(), options(GROUPS)).await?;
    let mut senders = Vec::new();
    for _ in 0..SENDERS {
        let (_, code) = bench.administrator.code().await?;
        senders.push(Client::enrol_with(servers.clone(), &code, "", Store::memory(), options(1)).await?);
    }
    let mut groups = Vec::new();
    for sender in &senders {
        for _ in 0..GROUPS / SENDERS {
            let group = sender.create_group("").await?;
            let added = group.add(std::slice::from_ref(&receiver)).await?;
            if let Some((_, _, failure)) = added.failed.first() {
                return Err(format!("not added: {failure:?}").into());
            }
            groups.push(group);
        }
    }
    leave(client).await?;

    let (mut ours, mut alone) = (Vec::new(), Vec::new());
    let mut log = RawLog::open(bench).await?;
    for round in 0..=bench.args.rounds.min(MOST_ROUNDS) {
        let copy = away.copy()?;
        let messages = bench.args.times(MESSAGES);
        talk(&groups, messages).await?;
        bench.server.settle().await;
        let total = (messages * GROUPS) as f64;
        // They take turns in who goes first, too.
        let (mine, theirs) = if round % 2 == 0 {
            let mine = catch_up(&away, messages * GROUPS).await?;
            (
                mine,
                reference(&copy, &away.key, &groups, &mut log, messages).await?,
            )
        } else {
            let theirs = reference(&copy, &away.key, &groups, &mut log, messages).await?;
            (catch_up(&away, messages * GROUPS).await?, theirs)
        };
        // The first warms up.
        if round > 0 {
            ours.push(mine / total * 1e6);
            alone.push(theirs / total * 1e6);
        }
    }
    let what = format!(
        "catching up with {} messages of about 1 KiB in {GROUPS} groups, for each message",
        bench.args.times(MESSAGES) * GROUPS
    );
    let valise = Side::new("from opening the encrypted store to having all in it", "us", ours);
    let reference = Side::new(log.what(), "us", alone);
    Ok(vec![Line::ratio(
        "B9",
        what,
        valise,
        reference,
        Goal::AtMost(1.3),
    )])
}

/// With so many key packages: each of them is added with another one.
fn options(one_time: usize) -> Options {
    let mut options = Options::default();
    options.key_packages = KeyPackageOptions {
        one_time,
        ..KeyPackageOptions::default()
    };
    options
}

/// Waits until the device is in all groups and has nothing left to do, and ends it.
async fn leave(client: Client) -> Result<()> {
    loop {
        client.synced().await?;
        let groups = client.groups().await?;
        let mut active = 0;
        for group in &groups {
            active += usize::from(group.info().await?.status == GroupStatus::Active);
        }
        if active == GROUPS {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    confirm_all(&client, 0).await?;
    client.close().await;
    Ok(())
}

/// Confirms what the app has not looked at, which must hold so many messages.
async fn confirm_all(client: &Client, expected: usize) -> Result<()> {
    let mut events = client.events();
    let (mut messages, mut last) = (0, None);
    while let Ok(Some(event)) = tokio::time::timeout(std::time::Duration::from_secs(1), events.next()).await {
        messages += usize::from(matches!(event.kind, EventKind::Message { .. }));
        last = Some(event.id);
    }
    if messages != expected {
        return Err(format!("{messages} of {expected} messages").into());
    }
    if let Some(last) = last {
        client.confirm(last).await?;
    }
    Ok(())
}

async fn talk(groups: &[Group], messages: usize) -> Result<()> {
    let mut talking = JoinSet::new();
    for group in groups {
        let group = group.clone();
        talking.spawn(async move {
            let text = "x".repeat(TEXT);
            for _ in 0..messages {
                group.send(text.as_str()).await?;
            }
            Result::Ok(())
        });
    }
    while let Some(talked) = talking.join_next().await {
        talked??;
    }
    Ok(())
}

/// Seconds.
async fn catch_up(away: &Away, expected: usize) -> Result<f64> {
    let began = Instant::now();
    let client = Client::open_with(away.store(), options(1)).await?;
    client.synced().await?;
    let took = began.elapsed().as_secs_f64();
    confirm_all(&client, expected).await?;
    client.close().await;
    Ok(took)
}

/// Seconds for reading and decrypting; not for opening the store and loading the groups.
async fn reference(
    store: &Path,
    key: &StoreKey,
    groups: &[Group],
    log: &mut RawLog,
    messages: usize,
) -> Result<f64> {
    let connection = Connection::open(store)?;
    let hex = key.as_bytes().iter().fold(String::new(), |mut hex, byte| {
        // Writing to a string does not fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    });
    connection.execute_batch(&format!("PRAGMA key = \"x'{hex}'\""))?;
    let storage = SqliteStorageProvider::<Json, _>::new(&connection);
    let provider = OpenMlsRustCrypto::default();
    let mut loaded = Vec::with_capacity(groups.len());
    for group in groups {
        let id = openmls::prelude::GroupId::from_slice(group.id().as_bytes());
        let mls = MlsGroup::load(&storage, &id).map_err(say)?.ok_or("no group")?;
        let position: i64 = connection.query_row(
            "SELECT position FROM groups WHERE group_id = ?1",
            [group.id().as_bytes()],
            |row| row.get(0),
        )?;
        loaded.push((group.id(), mls, Position(position.cast_unsigned())));
    }
    let began = Instant::now();
    let mut decrypted = 0;
    for (id, mls, after) in &mut loaded {
        for bytes in log.read(*id, *after).await? {
            let message = MlsMessageIn::tls_deserialize_exact_bytes(&bytes)?;
            let message = message.try_into_protocol_message().map_err(say)?;
            let processed = mls.process_message(&provider, message).map_err(say)?;
            if let ProcessedMessageContent::ApplicationMessage(message) = processed.into_content() {
                decrypted += usize::from(!message.into_bytes().is_empty());
            }
        }
    }
    let took = began.elapsed().as_secs_f64();
    if decrypted != messages * groups.len() {
        return Err(format!("{decrypted} messages decrypted").into());
    }
    Ok(took)
}

/// The codec of the SDK's rows of openmls.
#[derive(Default)]
struct Json;

impl Codec for Json {
    type Error = serde_json::Error;

    fn to_vec<T: Serialize>(value: &T) -> std::result::Result<Vec<u8>, Self::Error> {
        serde_json::to_vec(value)
    }

    fn from_slice<T: DeserializeOwned>(slice: &[u8]) -> std::result::Result<T, Self::Error> {
        serde_json::from_slice(slice)
    }
}

/// The log, read without the service.
enum RawLog {
    Table(Connection),
    /// With the key of each group's stream.
    Streams(MultiplexedConnection, Vec<Vec<u8>>),
}

impl RawLog {
    async fn open(bench: &mut Bench) -> Result<Self> {
        if let Server::Embedded(_) = &bench.server {
            let file = bench.data.path().join("server").join("delivery.db");
            return Ok(Self::Table(Connection::open(file)?));
        }
        let url = bench.server.redis()?.url();
        let mut connection = redis::Client::open(url)?
            .get_multiplexed_async_connection()
            .await?;
        let keys: Vec<Vec<u8>> = redis::cmd("KEYS")
            .arg("*}s:*")
            .query_async(&mut connection)
            .await?;
        Ok(Self::Streams(connection, keys))
    }

    fn what(&self) -> &'static str {
        match self {
            Self::Table(_) => "SELECT from the log's table, and openmls",
            Self::Streams(..) => "raw XRANGE of each group, and openmls",
        }
    }

    /// The messages of a group after that position.
    async fn read(&mut self, group: GroupId, after: Position) -> Result<Vec<Vec<u8>>> {
        match self {
            Self::Table(connection) => {
                let mut statement = connection.prepare_cached(
                    "SELECT bytes FROM entries WHERE position > ?2
                     AND group_number = (SELECT number FROM groups WHERE group_id = ?1) ORDER BY position",
                )?;
                let after = after.0.cast_signed();
                let rows =
                    statement.query_map(rusqlite::params![group.as_bytes(), after], |row| row.get(0))?;
                Ok(rows.collect::<std::result::Result<_, _>>()?)
            }
            Self::Streams(connection, keys) => {
                let key = keys
                    .iter()
                    .find(|key| key.ends_with(group.as_bytes()))
                    .ok_or("no stream")?;
                let read: StreamRangeReply = redis::cmd("XRANGE")
                    .arg(key)
                    .arg(format!("({}-0", after.0))
                    .arg("+")
                    .query_async(connection)
                    .await?;
                let bytes =
                    |entry: &redis::streams::StreamId| entry.get::<Vec<u8>>("b").ok_or("no bytes".into());
                read.ids.iter().map(bytes).collect()
            }
        }
    }
}
