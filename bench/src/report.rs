//! What was measured: both sides of each ratio, round by round.

use std::io::Write;

use serde::Serialize;

use crate::Result;

/// The values of all rounds of one side.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) rounds: Vec<f64>,
}

impl Spread {
    pub(crate) fn of(rounds: Vec<f64>) -> Self {
        let mut sorted = rounds.clone();
        sorted.sort_by(f64::total_cmp);
        Self {
            median: middle(&sorted),
            min: sorted.first().copied().unwrap_or(f64::NAN),
            max: sorted.last().copied().unwrap_or(f64::NAN),
            rounds,
        }
    }
}

fn middle(sorted: &[f64]) -> f64 {
    let half = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => sorted[half],
        _ => f64::midpoint(sorted[half - 1], sorted[half]),
    }
}

/// The value that so many per cent of the samples do not exceed.
pub(crate) fn percentile(samples: &mut [f64], percent: usize) -> f64 {
    samples.sort_by(f64::total_cmp);
    let index = (samples.len() * percent).div_ceil(100).saturating_sub(1);
    samples.get(index).copied().unwrap_or(f64::NAN)
}

/// One side of a ratio.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Side {
    pub(crate) what: String,
    pub(crate) unit: &'static str,
    #[serde(flatten)]
    pub(crate) spread: Spread,
}

impl Side {
    pub(crate) fn new(what: impl Into<String>, unit: &'static str, rounds: Vec<f64>) -> Self {
        Self {
            what: what.into(),
            unit,
            spread: Spread::of(rounds),
        }
    }
}

/// What the ratio, or without a reference the value, should be.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Goal {
    AtLeast(f64),
    AtMost(f64),
    /// Measured to be known.
    None,
}

impl Goal {
    fn met(self, value: f64) -> Option<bool> {
        match self {
            Self::AtLeast(goal) => Some(value >= goal),
            Self::AtMost(goal) => Some(value <= goal),
            Self::None => None,
        }
    }

    fn words(self) -> String {
        match self {
            Self::AtLeast(goal) => format!(">= {goal}"),
            Self::AtMost(goal) => format!("<= {goal}"),
            Self::None => "none".to_owned(),
        }
    }
}

/// A line of the results.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Line {
    id: &'static str,
    what: String,
    valise: Side,
    reference: Option<Side>,
    /// Of each round's two sides.
    ratio: Option<Spread>,
    goal: Goal,
    met: Option<bool>,
    notes: Vec<String>,
}

impl Line {
    /// Valise against a reference, measured in the same rounds.
    pub(crate) fn ratio(
        id: &'static str,
        what: impl Into<String>,
        valise: Side,
        reference: Side,
        goal: Goal,
    ) -> Self {
        let pairs = valise.spread.rounds.iter().zip(&reference.spread.rounds);
        let ratio = Spread::of(pairs.map(|(ours, theirs)| ours / theirs).collect());
        let met = goal.met(ratio.median);
        Self {
            id,
            what: what.into(),
            valise,
            reference: Some(reference),
            ratio: Some(ratio),
            goal,
            met,
            notes: Vec::new(),
        }
    }

    /// A value with a goal of its own.
    pub(crate) fn value(id: &'static str, what: impl Into<String>, valise: Side, goal: Goal) -> Self {
        let met = goal.met(valise.spread.median);
        Self {
            id,
            what: what.into(),
            valise,
            reference: None,
            ratio: None,
            goal,
            met,
            notes: Vec::new(),
        }
    }

    pub(crate) fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// For people.
    pub(crate) fn print(&self, out: &mut impl Write) -> Result<()> {
        writeln!(out, "{}  {}", self.id, self.what)?;
        print_side(out, "valise", &self.valise)?;
        if let Some(reference) = &self.reference {
            print_side(out, "reference", reference)?;
        }
        let verdict = match self.met {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "-",
        };
        if let Some(ratio) = &self.ratio {
            write!(
                out,
                "    ratio      {:.2}  ({:.2} to {:.2})",
                ratio.median, ratio.min, ratio.max
            )?;
            writeln!(out, "   goal {}: {verdict}", self.goal.words())?;
        } else {
            writeln!(out, "    goal {}: {verdict}", self.goal.words())?;
        }
        for note in &self.notes {
            writeln!(out, "    {note}")?;
        }
        Ok(writeln!(out)?)
    }
}

fn print_side(out: &mut impl Write, name: &str, side: &Side) -> Result<()> {
    let Spread { median, min, max, .. } = &side.spread;
    let Side { what, unit, .. } = side;
    Ok(writeln!(
        out,
        "    {name:<10} {median:>10.2} {unit}  ({min:.2} to {max:.2})  {what}"
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_that_of_each_round() {
        let ours = Side::new("", "1/s", vec![10.0, 40.0, 30.0]);
        let theirs = Side::new("", "1/s", vec![10.0, 10.0, 10.0]);
        let line = Line::ratio("B0", "", ours, theirs, Goal::AtLeast(3.0));
        let ratio = line.ratio.unwrap();
        assert_eq!(ratio.rounds, [1.0, 4.0, 3.0]);
        assert_eq!((ratio.median, ratio.min, ratio.max), (3.0, 1.0, 4.0));
        assert_eq!(line.met, Some(true));
    }

    #[test]
    fn percentiles_are_samples() {
        let mut samples: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(vec![percentile(&mut samples, 50)], [50.0]);
        assert_eq!(vec![percentile(&mut samples, 99)], [99.0]);
        assert_eq!(vec![percentile(&mut [7.0], 99)], [7.0]);
    }
}
