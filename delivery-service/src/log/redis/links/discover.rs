//! Asks sentinels, or nodes of a cluster, who has what.
//!
//! Around a failover some of them are behind the others: several are asked, and what most of them say is taken.

use std::time::Duration;

use futures::future::join_all;
use redis::{Cmd, Value};
use tokio::time::timeout;

use super::dial::{Address, Door, one_line, text};
use super::open_error::OpenError;
use super::topology::Topology;
use crate::log::redis::config::RedisMode;
use crate::log::redis::partition::Partition;

/// A server that does not answer by then is not asked.
const PATIENCE: Duration = Duration::from_secs(1);
/// Most servers that are asked at once.
const VOICES: usize = 5;

/// What one server says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct View {
    /// The owner of each partition.
    pub(super) owners: Vec<Option<Address>>,
    /// All nodes that it names.
    pub(super) known: Vec<Address>,
}

impl View {
    fn of_one(owner: &Address) -> Self {
        Self {
            owners: vec![Some(owner.clone()); usize::from(Partition::COUNT)],
            known: Vec::new(),
        }
    }
}

/// What the servers say. An error where none of them says anything.
pub(super) async fn ask(topology: &Topology, known: &[Address]) -> Result<Vec<View>, OpenError> {
    match (topology.mode, &topology.master) {
        (RedisMode::Standalone, _) | (RedisMode::Sentinel, None) => {
            let owners = topology.dialer.doors().iter().take(1);
            Ok(owners.map(|door| View::of_one(&door.address)).collect())
        }
        (RedisMode::Sentinel, Some(master)) => ask_sentinels(topology, master).await,
        (RedisMode::Cluster, _) => ask_cluster(topology, known).await,
    }
}

/// For each partition the owner that most of them name; where two are equal, the one of before.
pub(super) fn agree(views: &[View], before: impl Fn(Partition) -> Option<Address>) -> Vec<Option<Address>> {
    let agreed = Partition::all().map(|partition| {
        let named = || {
            views
                .iter()
                .filter_map(|view| view.owners[partition.index()].as_ref())
        };
        let before = before(partition);
        let votes = |address: &Address| {
            let votes = named().filter(|other| *other == address).count();
            (votes, before.as_ref() == Some(address))
        };
        named().max_by_key(|address| votes(address)).cloned()
    });
    agreed.collect()
}

async fn ask_sentinels(topology: &Topology, master: &str) -> Result<Vec<View>, OpenError> {
    let mut command = redis::cmd("SENTINEL");
    command.arg("GET-MASTER-ADDR-BY-NAME").arg(master);
    let answers = join_all(topology.dialer.doors().iter().map(|door| async {
        let answer = put(topology, door, &command).await?;
        match &answer {
            Value::Array(place) => read_place(&door.address, place).map_or_else(
                || Err(strange(&door.address, "SENTINEL")),
                |address| Ok(Some(View::of_one(&address))),
            ),
            Value::Nil => Ok(None),
            Value::ServerError(error) if error.code() == "NOPERM" => Err(OpenError::Forbidden {
                place: door.address.clone(),
                command: "SENTINEL GET-MASTER-ADDR-BY-NAME",
            }),
            Value::ServerError(_) => Err(OpenError::WrongMode {
                place: door.address.clone(),
                found: "no sentinel".to_owned(),
                mode: topology.mode.name(),
            }),
            _ => Err(strange(&door.address, "SENTINEL")),
        }
    }))
    .await;
    let unknown = answers.iter().any(|answer| matches!(answer, Ok(None)));
    let (views, error) = sort(answers.into_iter().filter_map(Result::transpose).collect());
    match (views.is_empty(), unknown, error) {
        (true, true, _) => Err(OpenError::UnknownMaster {
            master: master.to_owned(),
        }),
        (true, false, Some(error)) => Err(error),
        _ => Ok(views),
    }
}

async fn ask_cluster(topology: &Topology, known: &[Address]) -> Result<Vec<View>, OpenError> {
    let owners = topology.current().nodes();
    let up = owners.iter().filter(|node| node.up().is_some()).take(VOICES);
    let doors: Vec<_> = up.map(|node| topology.dialer.door(&node.address)).collect();
    let (views, _) = ask_nodes(topology, &doors).await;
    if !views.is_empty() {
        return Ok(views);
    }
    let named = topology.dialer.doors().to_vec();
    let others = known.iter().map(|address| topology.dialer.door(address));
    let mut error = None;
    let doors: Vec<_> = named.into_iter().chain(others).collect();
    for doors in doors.chunks(VOICES) {
        let (views, failed) = ask_nodes(topology, doors).await;
        if !views.is_empty() {
            return Ok(views);
        }
        error = error.or(failed);
    }
    error.map_or(Ok(Vec::new()), Err)
}

async fn ask_nodes(topology: &Topology, doors: &[Door]) -> (Vec<View>, Option<OpenError>) {
    let mut command = redis::cmd("CLUSTER");
    command.arg("SLOTS");
    let answers = join_all(doors.iter().map(|door| async {
        let answer = put(topology, door, &command).await?;
        match &answer {
            Value::Array(ranges) => {
                read_slots(&door.address, ranges).ok_or_else(|| strange(&door.address, "CLUSTER SLOTS"))
            }
            Value::ServerError(error) if error.code() == "NOPERM" => Err(OpenError::Forbidden {
                place: door.address.clone(),
                command: "CLUSTER SLOTS",
            }),
            Value::ServerError(error) if error.code() == "LOADING" => Err(OpenError::Loading {
                place: door.address.clone(),
            }),
            Value::ServerError(_) => Err(OpenError::WrongMode {
                place: door.address.clone(),
                found: "standalone".to_owned(),
                mode: topology.mode.name(),
            }),
            _ => Err(strange(&door.address, "CLUSTER SLOTS")),
        }
    }))
    .await;
    sort(answers)
}

/// What was said, and the first error.
fn sort(answers: Vec<Result<View, OpenError>>) -> (Vec<View>, Option<OpenError>) {
    let (mut views, mut first) = (Vec::new(), None);
    for answer in answers {
        match answer {
            Ok(view) => views.push(view),
            Err(error) => first = first.or(Some(error)),
        }
    }
    (views, first)
}

fn strange(place: &Address, command: &str) -> OpenError {
    OpenError::Unreachable {
        place: place.clone(),
        reason: format!("its answer to {command} is not understood"),
    }
}

/// Asks one server: over its session, or over a connection that is kept for the next time.
async fn put(topology: &Topology, door: &Door, command: &Cmd) -> Result<Value, OpenError> {
    let asking = async {
        if let Some(session) = topology.up(&door.address) {
            let mut pipeline = redis::pipe();
            pipeline.add_command(command.clone());
            if let Ok(mut answers) = session.send(&pipeline).await
                && let Some(answer) = answers.pop()
            {
                return Ok(answer);
            }
        }
        put_aside(topology, door, command).await
    };
    match timeout(PATIENCE, asking).await {
        Ok(answer) => answer,
        Err(_) => {
            topology.asked.lock().remove(&door.address);
            Err(OpenError::Unreachable {
                place: door.address.clone(),
                reason: format!("no answer within {} s", PATIENCE.as_secs()),
            })
        }
    }
}

async fn put_aside(topology: &Topology, door: &Door, command: &Cmd) -> Result<Value, OpenError> {
    let kept = topology.asked.lock().get(&door.address).cloned();
    let mut connection = match kept {
        Some(connection) => connection,
        None => topology.dialer.connect(door, PATIENCE).await?,
    };
    match connection.send_packed_command(command).await {
        Ok(answer) => {
            topology.asked.lock().insert(door.address.clone(), connection);
            Ok(answer)
        }
        Err(error) => {
            topology.asked.lock().remove(&door.address);
            Err(OpenError::Unreachable {
                place: door.address.clone(),
                reason: one_line(&error),
            })
        }
    }
}

/// Host and port, as a server names another one.
fn read_place(asked: &Address, place: &[Value]) -> Option<Address> {
    let host = match place.first()? {
        Value::Nil => "",
        host => text(host)?,
    };
    let port = match place.get(1)? {
        Value::Int(port) => u16::try_from(*port).ok()?,
        port => text(port)?.parse().ok()?,
    };
    Some(Address::named_by(asked, host, port))
}

/// An answer to `CLUSTER SLOTS`: ranges of slots (both ends inclusive), each with its primary and then its replicas.
fn read_slots(asked: &Address, ranges: &[Value]) -> Option<View> {
    let mut read = Vec::new();
    let mut known = Vec::new();
    for range in ranges {
        let Value::Array(range) = range else { return None };
        let [Value::Int(first), Value::Int(last), nodes @ ..] = range.as_slice() else {
            return None;
        };
        let mut owner = None;
        for node in nodes {
            let Value::Array(node) = node else { return None };
            let address = read_place(asked, node)?;
            owner.get_or_insert_with(|| address.clone());
            known.push(address);
        }
        read.push((*first..=*last, owner?));
    }
    let owners = Partition::all().map(|partition| {
        let slot = i64::from(partition.slot());
        read.iter()
            .find(|(range, _)| range.contains(&slot))
            .map(|(_, owner)| owner.clone())
    });
    Some(View {
        owners: owners.collect(),
        known,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> Address {
        Address::new("db", port)
    }

    #[test]
    fn cluster_slots_are_read() {
        let node = |host: Value, port| {
            Value::Array(vec![
                host,
                Value::Int(port),
                Value::SimpleString("id".into()),
                Value::Array(vec![]),
            ])
        };
        let named = |host: &str| Value::BulkString(host.as_bytes().to_vec());
        let ranges = [
            Value::Array(vec![
                Value::Int(0),
                Value::Int(8191),
                node(named("db"), 1),
                node(named("db"), 3),
            ]),
            Value::Array(vec![Value::Int(8192), Value::Int(16_383), node(Value::Nil, 2)]),
        ];
        let view = read_slots(&Address::new("asked", 9), &ranges).unwrap();
        assert_eq!(view.known, [address(1), address(3), Address::new("asked", 2)]);
        for partition in Partition::all() {
            let expected = if partition.slot() < 8192 {
                address(1)
            } else {
                Address::new("asked", 2)
            };
            assert_eq!(view.owners[partition.index()], Some(expected));
        }
        assert!(
            read_slots(&address(9), &ranges[..1])
                .unwrap()
                .owners
                .contains(&None)
        );
        assert_eq!(read_slots(&address(9), &[Value::Nil]), None);
    }

    #[test]
    fn most_voices_win_and_the_owner_of_before_among_equals() {
        let views =
            |ports: &[u16]| -> Vec<_> { ports.iter().map(|port| View::of_one(&address(*port))).collect() };
        let agreed =
            |ports: &[u16], before: Option<u16>| agree(&views(ports), |_| before.map(address))[7].clone();
        assert_eq!(agreed(&[1, 2, 2], Some(1)), Some(address(2)));
        assert_eq!(agreed(&[1, 2], Some(1)), Some(address(1)));
        assert_eq!(agreed(&[1, 2], Some(2)), Some(address(2)));
        assert_eq!(agreed(&[], Some(2)), None);
    }
}
