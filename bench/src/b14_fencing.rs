//! B14: durable sends of 50 devices where a replica of Redis must have each of them, against those where none must.

use valise_local_stack::RedisShape;

use crate::raw::Administrator;
use crate::report::{Goal, Line};
use crate::senders::{SENDS, Senders};
use crate::server::Server;
use crate::{Bench, Result};

const PAIR: RedisShape = RedisShape::Cluster {
    primaries: 1,
    replicas_each: 1,
};

pub(crate) async fn run(bench: &mut Bench) -> Result<Vec<Line>> {
    bench.server.stack()?;
    let fenced_server = Server::production(PAIR, 1, &[]).await;
    let unfenced_server = Server::production(PAIR, 1, &[("VALISE_DELIVERY_REDIS__WAIT_REPLICAS", "0")]).await;
    let mut fenced = senders(&fenced_server).await?;
    let mut unfenced = senders(&unfenced_server).await?;
    let mut alone = Senders::one_group(&mut bench.administrator, &bench.server).await?;
    let sends = bench.args.times(SENDS);
    for round in 0..=bench.args.rounds {
        for (senders, server) in [
            (&mut fenced, &fenced_server),
            (&mut unfenced, &unfenced_server),
            (&mut alone, &bench.server),
        ] {
            for other in [&fenced_server, &unfenced_server, &bench.server] {
                other.settle().await;
            }
            senders.round(server, sends).await?;
            // The first warms up.
            if round == 0 {
                senders.forget();
            }
        }
    }
    fenced_server.stop().await?;
    unfenced_server.stop().await?;
    let line = |against: &Senders, what: &str| {
        let mut reference = against.side();
        what.clone_into(&mut reference.what);
        let what = format!("durable sends, 1 KiB, WAIT 1, {}", fenced.what);
        Line::ratio("B14", what, fenced.side(), reference, Goal::AtLeast(0.75))
            .note(fenced.note())
            .note(format!("without: {}", against.note()))
    };
    Ok(vec![
        line(&unfenced, "sends with a replica, and no WAIT"),
        line(&alone, "sends without a replica"),
    ])
}

async fn senders(server: &Server) -> Result<Senders> {
    let mut administrator = Administrator::enrol(server).await?;
    Senders::one_group(&mut administrator, server).await
}
