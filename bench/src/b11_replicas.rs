//! B11: processor time of a send through one, two and three replicas of the delivery service on one Redis.

use std::time::Duration;

use valise_local_stack::RedisShape;

use crate::raw::Administrator;
use crate::report::{Goal, Line, Side, Spread};
use crate::senders::{SENDS, Senders};
use crate::server::{Server, Used};
use crate::{Bench, Result};

const REPLICAS: usize = 3;
/// How long idle replicas are watched, in seconds.
const IDLE: f64 = 2.0;

/// What was used with so many replicas.
#[derive(Default)]
struct Measured {
    total: Vec<f64>,
    service: Vec<f64>,
    redis: Vec<f64>,
    rates: Vec<f64>,
    /// Of each replica in a second, when nobody sends.
    idle: Vec<f64>,
}

pub(crate) async fn run(bench: &mut Bench) -> Result<Vec<Line>> {
    bench.server.stack()?;
    let mut server = Server::production(RedisShape::Standalone, REPLICAS, &[]).await;
    let mut administrator = Administrator::enrol(&server).await?;
    let mut all = [
        Senders::one_group(&mut administrator, &server).await?,
        Senders::many_groups(&mut administrator, &server).await?,
    ];
    // First by who sends, then by the number of replicas.
    let mut measured: [[Measured; REPLICAS]; 2] = Default::default();
    for round in 0..=bench.args.rounds {
        for replicas in (1..=REPLICAS).rev() {
            if replicas < REPLICAS {
                server.stack()?.delivery(replicas).terminate().await;
            }
            for (senders, measured) in all.iter_mut().zip(&mut measured) {
                senders.spread(&server, replicas).await?;
                // A replica that has just started does not know the groups yet.
                senders.round(&server, 2).await?;
                server.settle().await;
                let idle = idle(&server).await / replicas as f64;
                senders.forget();
                senders.round(&server, bench.args.times(SENDS)).await?;
                // The first warms up.
                if round > 0 {
                    measured[replicas - 1].add(senders, idle);
                }
            }
        }
        for replica in 1..REPLICAS {
            server.stack()?.delivery(replica).restart().await;
        }
    }
    let mut lines = Vec::new();
    for (senders, measured) in all.iter().zip(&measured) {
        let (first, more) = measured.split_first().ok_or("no replicas")?;
        for (index, more) in more.iter().enumerate() {
            let (what, count) = (senders.what, index + 2);
            let what = format!("processor time of a send through {count} replicas and Redis, {what}");
            let valise = Side::new(format!("{count} replicas and Redis"), "us", more.total.clone());
            let reference = Side::new("one replica and Redis", "us", first.total.clone());
            lines.push(
                Line::ratio("B11", what, valise, reference, Goal::AtMost(1.15))
                    .note(format!("{count} replicas: {}", more.words()))
                    .note(format!("one: {}", first.words())),
            );
        }
    }
    server.stop().await?;
    Ok(lines)
}

async fn idle(server: &Server) -> f64 {
    let before = server.used().await;
    tokio::time::sleep(Duration::from_secs_f64(IDLE)).await;
    server.used().await.since(before, IDLE).service
}

impl Measured {
    fn add(&mut self, senders: &Senders, idle: f64) {
        for Used { service, redis, .. } in &senders.used {
            self.total.push(service + redis);
            self.service.push(*service);
            self.redis.push(*redis);
        }
        self.rates.extend(&senders.rates);
        self.idle.push(idle / 1e3);
    }

    fn words(&self) -> String {
        let median = |values: &Vec<f64>| Spread::of(values.clone()).median;
        format!(
            "service {:.0} us, Redis {:.0} us, {:.0} sends/s; an idle replica uses {:.0} ms a second",
            median(&self.service),
            median(&self.redis),
            median(&self.rates),
            median(&self.idle),
        )
    }
}
