//! Everything at once: Redis, PostgreSQL, and replicas of each service.

mod replica;
mod services;
mod settings;

use std::path::Path;

use tempfile::TempDir;

use crate::cluster::RedisCluster;
use crate::folder::Ground;
use crate::postgres::Postgres;
use crate::programs::RedisProgram;
use crate::redis::{Node, Redis};
use crate::sentinel::RedisSentinel;
pub use replica::Replica;
use services::Services;
use settings::Peers;

/// From the first port to those of PostgreSQL and of the Redis nodes; replicas of services come before them.
const POSTGRES_PORT: u16 = 40;
const REDIS_PORT: u16 = 41;
/// Of the authentication service, the directory, the delivery service.
const DATABASES: [&str; 3] = ["authentication", "directory", "delivery"];

/// What a [`LocalStack`] consists of.
#[derive(Debug, Clone)]
pub struct StackOptions {
    /// Replicas of the authentication service; default 2.
    pub authentication_replicas: usize,
    /// Replicas of the key-package directory; default 2.
    pub directory_replicas: usize,
    /// Replicas of the delivery service; default 2.
    pub delivery_replicas: usize,
    /// The servers of the ordered log; by default a cluster of three primaries with a replica each.
    pub redis: RedisShape,
    /// The domain of all users; default `valise.example`.
    pub domain: String,
    /// More variables in the services' environment, which override their settings, such as
    /// `VALISE_DELIVERY_ARCHIVE__HOT_ENTRIES`.
    pub environment: Vec<(String, String)>,
}

impl Default for StackOptions {
    fn default() -> Self {
        Self {
            authentication_replicas: 2,
            directory_replicas: 2,
            delivery_replicas: 2,
            redis: RedisShape::Cluster {
                primaries: 3,
                replicas_each: 1,
            },
            domain: "valise.example".to_owned(),
            environment: Vec::new(),
        }
    }
}

/// How the Redis servers work together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedisShape {
    /// One server.
    Standalone,
    /// One primary, two replicas, three Sentinels.
    Sentinel,
    /// A cluster.
    Cluster {
        /// Nodes that share the slots.
        primaries: usize,
        /// Replicas of each of them.
        replicas_each: usize,
    },
}

/// The servers of the ordered log.
#[derive(Debug)]
enum Log {
    Standalone(Redis),
    Sentinel(RedisSentinel),
    Cluster(RedisCluster),
}

/// Running servers and replicas of each service, which are processes of their own.
#[derive(Debug)]
pub struct LocalStack {
    // In the order in which they are to be dropped: services before what they store in.
    services: Services,
    administrator_code: Option<String>,
    domain: String,
    log: Log,
    postgres: Postgres,
    _identities: Option<TempDir>,
}

impl LocalStack {
    /// Starts everything on free ports in temporary folders. All replicas serve when it returns.
    pub async fn start(options: StackOptions) -> Self {
        let folder = tempfile::Builder::new().prefix("valise-stack-").tempdir();
        let folder = folder.expect("cannot create a temporary folder");
        let identities = folder.path().to_owned();
        Self {
            _identities: Some(folder),
            ..Self::start_on(&Ground::Thrown, &identities, options).await
        }
    }

    /// The same, or starts again what is there; with the certificates of services in `identities`.
    pub(crate) async fn start_on(ground: &Ground, identities: &Path, options: StackOptions) -> Self {
        // Whatever is missing is found before anything has started.
        let services = Services::prepare(ground, &options);
        let (postgres, log) = tokio::join!(
            Postgres::start_on(ground, POSTGRES_PORT),
            start_log(ground, options.redis)
        );
        let [authentication, directory, delivery] = DATABASES;
        services.configure(&Peers {
            domain: &options.domain,
            databases: [
                postgres.database(authentication).await,
                postgres.database(directory).await,
                postgres.database(delivery).await,
            ],
            redis: log.settings(),
            identities,
        });
        let mut stack = Self {
            services,
            administrator_code: None,
            domain: options.domain,
            log,
            postgres,
            _identities: None,
        };
        let administrator = stack.administrator();
        stack.administrator_code = stack.services.set_up(&administrator, identities).await;
        stack.services.begin().await;
        stack
    }

    /// Who becomes the first administrator.
    pub fn administrator(&self) -> String {
        format!("admin@{}", self.domain)
    }

    /// With it the first administrator enrols; None once one has.
    pub fn administrator_code(&self) -> Option<&str> {
        self.administrator_code.as_deref()
    }

    /// The domain of all users.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// A replica of the authentication service.
    pub fn authentication(&self, index: usize) -> &Replica {
        &self.services.authentication[index]
    }

    /// A replica of the key-package directory.
    pub fn directory(&self, index: usize) -> &Replica {
        &self.services.directory[index]
    }

    /// A replica of the delivery service.
    pub fn delivery(&self, index: usize) -> &Replica {
        &self.services.delivery[index]
    }

    /// The URLs of all replicas: of the authentication service, the directory, the delivery service.
    pub fn service_urls(&self) -> [Vec<String>; 3] {
        let Services {
            authentication,
            directory,
            delivery,
        } = &self.services;
        [authentication, directory, delivery].map(|replicas| replicas.iter().map(Replica::url).collect())
    }

    /// The Redis cluster; panics where the log has another shape.
    pub fn redis(&self) -> &RedisCluster {
        match &self.log {
            Log::Cluster(cluster) => cluster,
            _ => panic!("this stack has no Redis cluster"),
        }
    }

    /// The Redis cluster, to kill and restart nodes of.
    pub fn redis_mut(&mut self) -> &mut RedisCluster {
        match &mut self.log {
            Log::Cluster(cluster) => cluster,
            _ => panic!("this stack has no Redis cluster"),
        }
    }

    /// The one Redis server; panics where the log has another shape.
    pub fn standalone_redis(&mut self) -> &mut Redis {
        match &mut self.log {
            Log::Standalone(server) => server,
            _ => panic!("this stack has no standalone Redis"),
        }
    }

    /// The servers under Sentinel; panics where the log has another shape.
    pub fn sentinel_redis(&mut self) -> &mut RedisSentinel {
        match &mut self.log {
            Log::Sentinel(servers) => servers,
            _ => panic!("this stack has no Redis Sentinel"),
        }
    }

    /// The ids of the processes of all running Redis servers.
    pub fn redis_ids(&self) -> Vec<u32> {
        match &self.log {
            Log::Standalone(server) => server.id().into_iter().collect(),
            Log::Sentinel(servers) => servers.ids(),
            Log::Cluster(cluster) => (0..cluster.len())
                .filter_map(|node| cluster.node(node).id())
                .collect(),
        }
    }

    /// The PostgreSQL server, with the databases `authentication`, `directory` and `delivery`.
    pub fn postgres(&self) -> &Postgres {
        &self.postgres
    }

    /// The PostgreSQL server, to stop and restart.
    pub fn postgres_mut(&mut self) -> &mut Postgres {
        &mut self.postgres
    }
}

impl Log {
    fn settings(&self) -> String {
        let (mode, urls) = match self {
            Self::Standalone(server) => ("mode = \"standalone\"", vec![server.url()]),
            Self::Sentinel(servers) => (
                "mode = \"sentinel\"\nsentinel_master = \"valise\"",
                servers.sentinel_urls(),
            ),
            Self::Cluster(cluster) => ("mode = \"cluster\"", cluster.urls()),
        };
        format!("{mode}\nurls = {urls:?}\n")
    }
}

async fn start_log(ground: &Ground, shape: RedisShape) -> Log {
    match shape {
        RedisShape::Standalone => {
            Log::Standalone(Redis::start_node(RedisProgram::Redis, &Node::plain(ground, REDIS_PORT)).await)
        }
        RedisShape::Sentinel => Log::Sentinel(RedisSentinel::start().await),
        RedisShape::Cluster {
            primaries,
            replicas_each,
        } => Log::Cluster(RedisCluster::start_on(ground, REDIS_PORT, primaries, replicas_each).await),
    }
}
