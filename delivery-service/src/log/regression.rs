//! A group's log in Redis that is not the one that was archived.

use std::fmt;

use valise_service_runtime::names;

use super::StoreError;
use super::postgres::{ArchivedGroup, PostgresArchive};
use super::redis::RedisLog;

/// Why it is not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Regression {
    /// Its head is gone.
    HeadLost,
    /// It was created anew.
    OtherOrigin,
    /// It ends before the newest archived entry.
    Shorter,
    /// Another entry has that one's position, or begins after it.
    OtherEntry,
    /// Entries are missing.
    Gap,
    /// An entry was archived at the same position, or a commit of the same epoch.
    Conflict,
    /// Something of it cannot be read: what is to be archived, or what is to be trimmed.
    Damaged,
}

impl fmt::Display for Regression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HeadLost => "its head is lost",
            Self::OtherOrigin => "it was created anew",
            Self::Shorter => "it is shorter than the archive",
            Self::OtherEntry => "another entry has the position of the newest archived one",
            Self::Gap => "entries are missing",
            Self::Conflict => "an entry conflicts with an archived one",
            Self::Damaged => "it cannot be read",
        })
    }
}

/// Marks the group, first where all replicas will see it, then where it stops writes at once. Said once, however often it is found.
pub(crate) async fn report(
    hot: &RedisLog,
    archive: &PostgresArchive,
    group: &ArchivedGroup,
    regression: Regression,
) -> Result<(), StoreError> {
    if !archive.mark_regressed(group).await? {
        return Ok(());
    }
    let meter = opentelemetry::global::meter(names::SCOPE);
    meter.u64_counter(names::REGRESSED).build().add(1, &[]);
    tracing::error!(
        group = %group.group,
        position = group.head.position.0,
        %regression,
        "a group's log went back in time: it is frozen until it is repaired"
    );
    hot.set_frozen(group.group, true).await?;
    Ok(())
}
