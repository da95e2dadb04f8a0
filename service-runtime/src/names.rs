//! The names of metrics, attributes and log fields. Dashboards and alerts depend on them: they do not change.
//!
//! What begins with `rpc.` or `error.` is OpenTelemetry's: the stable semantic conventions for RPC, version 1.45. The name of a request's
//! span is its [`METHOD`].

/// Counter: finished requests, with the attributes of [`DURATION`].
pub const REQUESTS: &str = "valise.rpc.server.requests";
/// Histogram, seconds: from a request's arrival to the end of its answer (for a stream: to its end), by [`SYSTEM`], [`METHOD`],
/// [`STATUS`], [`ERROR_TYPE`] and [`REASON`].
pub const DURATION: &str = "rpc.server.call.duration";
/// Up-down counter: requests and streams that have not ended, by [`METHOD`].
pub const IN_FLIGHT: &str = "valise.rpc.server.in_flight";
/// Up-down counter: open connections.
pub const CONNECTIONS: &str = "valise.server.connections";

/// Gauge: changes of this replica's part of the ordered log that are not archived yet.
pub const ARCHIVE_LAG_CHANGES: &str = "valise.archive.lag.changes";
/// Gauge, seconds: the age of the oldest one of them; 0 where there is none.
pub const ARCHIVE_LAG_SECONDS: &str = "valise.archive.lag.seconds";
/// Counter: entries that were archived.
pub const ARCHIVED: &str = "valise.archive.archived";
/// Counter: archived entries that have left Redis.
pub const TRIMMED: &str = "valise.archive.trimmed";
/// Counter: entries that have left the archive, as nobody needs them any more.
pub const DELETED: &str = "valise.archive.deleted";
/// Counter: groups whose log was found to have gone back in time, or to be damaged.
pub const REGRESSED: &str = "valise.log.regressed";
/// Gauge: groups that are frozen until somebody repairs them.
pub const FROZEN: &str = "valise.log.frozen_groups";
/// Gauge: changes of the whole ordered log that are not archived yet, as far as this replica knows.
pub const UNARCHIVED: &str = "valise.log.unarchived";
/// Gauge: of the 1,024 partitions of the ordered log, those that this replica cannot use now. The groups of the others go on.
pub const UNUSABLE: &str = "valise.log.unusable_partitions";
/// Counter: reports of members that an accepted commit cannot be processed, by [`FAULT`]; each device counts once for each commit.
pub const COMMIT_REPORTS: &str = "valise.log.commit_reports";
/// Counter: entries that a device was sent again and again, on one stream after the other, without an acknowledgement; each once.
pub const STUCK_ENTRIES: &str = "valise.stream.stuck_entries";
/// Counter: groups that an administrator has ended, to go on under a new id.
pub const RESETS: &str = "valise.log.resets";
/// Gauge, seconds: how long a certificate that the authentication service issued to this one is still valid, by [`KEY_KIND`]; 0 once it has ended.
pub const CERTIFICATE_REMAINING: &str = "valise.certificate.remaining.seconds";

/// `Ed25519` or `P-256`.
pub const KEY_KIND: &str = "valise.key_kind";
/// What a member found wrong with a commit, for example `COMMIT_FAULT_PATH_SECRET`.
pub const FAULT: &str = "valise.fault";
/// Always `grpc`.
pub const SYSTEM: &str = "rpc.system.name";
/// The RPC with its service, for example `valise.delivery.v1.DeliveryService/SendMessage`; [`UNKNOWN`] for one that is not in the
/// contract.
pub const METHOD: &str = "rpc.method";
/// The gRPC status, for example `OK`, `ABORTED`.
pub const STATUS: &str = "rpc.response.status_code";
/// Of a fault of the service, its [`STATUS`] once more; absent where there is none, as where a request is refused.
pub const ERROR_TYPE: &str = "error.type";
/// The reason of a refusal, for example `EPOCH_CONFLICT`; empty if there is none.
pub const REASON: &str = "valise.reason";

/// The [`METHOD`] of a request for what does not exist: what a client makes up becomes no name.
pub const UNKNOWN: &str = "_OTHER";

/// Name of the meter and of the tracer.
pub const SCOPE: &str = "valise";
