//! B10: claims of key packages from 8 requesters through the directory on PostgreSQL, against pgbench with 8 clients that
//! run one `DELETE … FOR UPDATE SKIP LOCKED … RETURNING` on the same table.

use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use rand::RngExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::task::JoinSet;
use tonic::transport::Channel;
use valise_local_stack::Postgres;
use valise_proto::directory::v1::key_package_directory_service_client::KeyPackageDirectoryServiceClient;
use valise_proto::directory::v1::{ClaimKeyPackagesRequest, claim};

use crate::raw::Device;
use crate::report::{Goal, Line, Side, Spread};
use crate::server::{Server, connect};
use crate::{Bench, Result, machine};

const REQUESTERS: usize = 8;
/// Of one requester in one round.
const CLAIMS: usize = 500;
/// Devices whose packages are claimed, at random.
const TARGETS: usize = 1000;
/// One-time packages of each that are never claimed: more than a low stock.
const RESERVE: usize = 60;
/// As long as a real one with a certificate.
const PACKAGE_BYTES: usize = 800;
/// The first of the cipher suites.
const SUITE: u32 = 1;

/// A device with a connection to the directory.
struct Requester {
    device: Device,
    client: KeyPackageDirectoryServiceClient<Channel>,
}

/// The directory and its database.
struct Directory {
    url: String,
    process: u32,
    database: String,
}

impl Directory {
    async fn of(server: &mut Server) -> Result<Self> {
        let stack = server.stack()?;
        let directory = stack.directory(0);
        Ok(Self {
            url: directory.url(),
            process: directory.id().await.ok_or("the directory does not run")?,
            database: stack.postgres().url("directory"),
        })
    }

    fn processor_micros(&self) -> f64 {
        machine::processor_micros(self.process)
    }

    /// Runs statements.
    async fn sql(&self, statements: &str) -> Result<()> {
        let mut child = Command::new(Postgres::program("psql"))
            .args(["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1"])
            .arg(&self.database)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()?;
        let mut input = child.stdin.take().ok_or("no input")?;
        input.write_all(statements.as_bytes()).await?;
        drop(input);
        if child.wait().await?.success() {
            Ok(())
        } else {
            Err("psql failed".into())
        }
    }
}

pub(crate) async fn run(bench: &mut Bench) -> Result<Vec<Line>> {
    let domain = bench.administrator.domain().to_owned();
    let directory = Directory::of(&mut bench.server).await?;
    let claims = bench.args.times(CLAIMS);
    // Twice as many as both sides take on average.
    let rounds = bench.args.rounds as usize + 1;
    let stock = RESERVE + 4 * rounds * claims * REQUESTERS / TARGETS;
    fill(&directory, &domain, stock).await?;
    let script = bench.data.path().join("claim.sql");
    std::fs::write(&script, reference())?;
    let mut requesters = Vec::new();
    for device in bench.administrator.devices(&bench.server, REQUESTERS).await? {
        let client = KeyPackageDirectoryServiceClient::new(connect(&directory.url).await?);
        requesters.push(Requester { device, client });
    }

    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let (mut server_micros, mut own_micros) = (Vec::new(), Vec::new());
    let mut postgres_micros = Vec::new();
    for round in 0..rounds {
        bench.server.settle().await;
        let total = (REQUESTERS * claims) as f64;
        let (before, used) = (directory.processor_micros(), bench.server.used().await);
        ours.push(total / claim_all(&mut requesters, claims).await?);
        server_micros.push((directory.processor_micros() - before) / total);
        let of_claims = bench.server.used().await.since(used, total);
        own_micros.push(of_claims.own);
        postgres_micros.push(of_claims.postgres);
        bench.server.settle().await;
        theirs.push(pgbench(&directory, &script, claims).await?);
        if round == 0 {
            // Not counted: connections and caches get warm.
            for values in [
                &mut ours,
                &mut theirs,
                &mut server_micros,
                &mut own_micros,
                &mut postgres_micros,
            ] {
                values.clear();
            }
        }
    }
    let note = format!(
        "processor time a claim: directory {:.0} us, PostgreSQL {:.0} us, load generator {:.0} us",
        Spread::of(server_micros).median,
        Spread::of(postgres_micros).median,
        Spread::of(own_micros).median,
    );
    let valise = Side::new("claims through the directory, each of one device", "1/s", ours);
    let reference = Side::new(
        "DELETE … FOR UPDATE SKIP LOCKED … RETURNING by pgbench",
        "1/s",
        theirs,
    );
    let what = format!("claims, {REQUESTERS} requesters, PostgreSQL, {TARGETS} devices");
    Ok(vec![
        Line::ratio("B10", what, valise, reference, Goal::AtLeast(0.8)).note(note),
    ])
}

/// The id of a target as the directory's database has it: these bytes, then the target's number in six more.
const PREFIX: &str = "00000000000040008000";

fn target(number: usize) -> String {
    format!("00000000-0000-4000-8000-{number:012x}")
}

async fn fill(directory: &Directory, domain: &str, stock: usize) -> Result<()> {
    let statements = format!(
        "INSERT INTO device (id, user_id, signature_key)
         SELECT decode('{PREFIX}' || lpad(to_hex(target), 12, '0'), 'hex'), 'target' || target || '@{domain}', '\\x00'
         FROM generate_series(1, {TARGETS}) AS target;
         INSERT INTO published_suite (device, suite) SELECT id, {SUITE} FROM device;
         INSERT INTO key_package (device, suite, last_resort, not_after, certificate_not_after, message)
         SELECT id, {SUITE}, false, extract(epoch FROM now())::bigint + 7000000,
                extract(epoch FROM now())::bigint + 30000000,
                decode(repeat(md5(number::text || id::text), {PACKAGE_BYTES} / 16), 'hex')
         FROM device CROSS JOIN generate_series(1, {stock}) AS number;
         VACUUM ANALYZE;
         CHECKPOINT;"
    );
    directory.sql(&statements).await
}

fn reference() -> String {
    format!(
        "\\set target random(1, {TARGETS})\n\
         DELETE FROM key_package WHERE number = (SELECT number FROM key_package \
         WHERE device = decode('{PREFIX}' || lpad(to_hex(:target::integer), 12, '0'), 'hex') AND suite = {SUITE} \
         AND NOT last_resort AND not_after >= 1700000000 AND certificate_not_after >= 1700000000 \
         ORDER BY not_after, certificate_not_after LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING message;\n"
    )
}

/// All requesters at once, each one claim after the other. Returns the seconds.
async fn claim_all(requesters: &mut [Requester], claims: usize) -> Result<f64> {
    for requester in &mut *requesters {
        requester.device.renew().await?;
    }
    let began = Instant::now();
    let mut claiming = JoinSet::new();
    for requester in requesters {
        let wanted = |_| ClaimKeyPackagesRequest {
            user_ids: Vec::new(),
            device_ids: vec![target(rand::rng().random_range(1..=TARGETS))],
            cipher_suite: SUITE,
        };
        let requests: Vec<_> = (0..claims)
            .map(wanted)
            .map(|wanted| requester.device.request(wanted))
            .collect();
        let mut client = requester.client.clone();
        claiming.spawn(async move {
            for request in requests {
                let answer = client.claim_key_packages(request).await?.into_inner();
                let is_one_time = answer.claims.iter().all(|claim| {
                    !claim.last_resort && matches!(claim.result, Some(claim::Result::KeyPackage(_)))
                });
                if !is_one_time {
                    return Err("a claim gave no one-time package".into());
                }
            }
            Result::Ok(())
        });
    }
    while let Some(claimed) = claiming.join_next().await {
        claimed??;
    }
    Ok(began.elapsed().as_secs_f64())
}

/// As many claims by pgbench. Returns the rate, without the time to connect.
async fn pgbench(directory: &Directory, script: &Path, claims: usize) -> Result<f64> {
    let output = Command::new(Postgres::program("pgbench"))
        .args(["--no-vacuum", "--protocol=prepared", "--jobs=1"])
        .args([
            format!("--client={REQUESTERS}"),
            format!("--transactions={claims}"),
        ])
        .arg("--file")
        .arg(script)
        .arg(&directory.database)
        .output()
        .await?;
    let text = String::from_utf8_lossy(&output.stdout);
    let rate = text.lines().find_map(|line| line.strip_prefix("tps = "));
    let rate = rate.and_then(|rate| rate.split_whitespace().next()?.parse().ok());
    rate.filter(|_| output.status.success())
        .ok_or_else(|| format!("pgbench failed: {}", String::from_utf8_lossy(&output.stderr)).into())
}
