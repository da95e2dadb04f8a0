//! B13: from the start of the program until all services are healthy.

use crate::embedded::time_to_start;
use crate::report::{Goal, Line, Side};
use crate::{Bench, Result};

pub(crate) async fn run(bench: &Bench) -> Result<Vec<Line>> {
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for round in 0..bench.args.rounds {
        let data = bench.data.path().join(format!("b13-{round}"));
        first.push(time_to_start(&bench.args, &data).await?);
        second.push(time_to_start(&bench.args, &data).await?);
    }
    let line = |what: &str, seconds| {
        Line::value(
            "B13",
            what,
            Side::new("start to healthy", "s", seconds),
            Goal::AtMost(1.0),
        )
    };
    Ok(vec![
        line("`valise up` in a new directory, until healthy", first),
        line("`valise up` again, after a kill, until healthy", second),
    ])
}
