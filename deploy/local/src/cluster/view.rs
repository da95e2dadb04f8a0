//! The cluster as one of its nodes sees it.

use std::collections::HashMap;

use crate::redis::Redis;

/// What `CLUSTER NODES` says, by node id.
#[derive(Debug)]
pub(super) struct View(HashMap<String, Line>);

#[derive(Debug)]
struct Line {
    healthy: bool,
    primary: Option<String>,
    epoch: u64,
    /// Inclusive.
    slots: Vec<(u16, u16)>,
}

impl View {
    /// None: it does not answer.
    pub(super) async fn of(node: &Redis) -> Option<Self> {
        let text = node.ask(&["CLUSTER", "NODES"]).await.ok()?.to_string();
        Some(Self(text.lines().filter_map(parse).collect()))
    }

    /// Whether this node is known, and taken for alive.
    pub(super) fn is_healthy(&self, id: &str) -> bool {
        self.0.get(id).is_some_and(|line| line.healthy)
    }

    /// Whom this node follows, if it is a replica.
    pub(super) fn primary_of(&self, id: &str) -> Option<&String> {
        self.0.get(id)?.primary.as_ref()
    }

    /// Who has this slot.
    pub(super) fn owner(&self, slot: u16) -> Option<&String> {
        let has = |line: &Line| {
            line.slots
                .iter()
                .any(|&(first, last)| (first..=last).contains(&slot))
        };
        self.0.iter().find(|(_, line)| has(line)).map(|(id, _)| id)
    }

    /// Enters owners with their configuration epochs, where that is not lower than what is there.
    pub(super) fn owners(&self, owners: &mut [(u64, String)]) {
        for (id, line) in &self.0 {
            for &(first, last) in &line.slots {
                for owner in &mut owners[usize::from(first)..=usize::from(last)] {
                    if owner.1.is_empty() || line.epoch > owner.0 {
                        *owner = (line.epoch, id.clone());
                    }
                }
            }
        }
    }
}

/// `id address flags primary ping pong epoch link slot slot ...`
fn parse(line: &str) -> Option<(String, Line)> {
    let words: Vec<_> = line.split_whitespace().collect();
    let [id, _, flags, primary, _, _, epoch, link, slots @ ..] = words.as_slice() else {
        return None;
    };
    let bad = |flag| matches!(flag, "fail" | "fail?" | "handshake" | "noaddr");
    let line = Line {
        healthy: *link == "connected" && !flags.split(',').any(bad),
        primary: (*primary != "-").then(|| (*primary).to_owned()),
        epoch: epoch.parse().ok()?,
        // Those in brackets are on their way.
        slots: slots.iter().filter_map(|slots| range(slots)).collect(),
    };
    Some(((*id).to_owned(), line))
}

fn range(slots: &str) -> Option<(u16, u16)> {
    let (first, last) = slots.split_once('-').unwrap_or((slots, slots));
    Some((first.parse().ok()?, last.parse().ok()?))
}
