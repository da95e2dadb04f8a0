//! What members say of commits that they cannot process.

use valise_proto::{DeviceId, Epoch, GroupId, Position};

/// What a member says of a commit that it cannot process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CommitReport {
    /// Whose log.
    pub group: GroupId,
    /// The commit.
    pub position: Position,
    /// The epoch that it ended.
    pub epoch: Epoch,
    /// Who submitted it.
    pub sender: Option<DeviceId>,
    /// Who reports it.
    pub reporter: DeviceId,
    /// What is wrong with it: the contract's number.
    pub fault: i32,
    /// Milliseconds since 1970-01-01 UTC.
    pub at: u64,
}

/// What members said of one commit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReportedCommit {
    /// Whose log.
    pub group: GroupId,
    /// The commit.
    pub position: Position,
    /// The epoch that it ended.
    pub epoch: Epoch,
    /// Who submitted it.
    pub sender: Option<DeviceId>,
    /// How many devices reported which fault, by the fault's number.
    pub faults: Vec<(i32, u32)>,
    /// When the first report came, in milliseconds since 1970-01-01 UTC.
    pub first_at: u64,
    /// When the last one came.
    pub last_at: u64,
}

/// Reports that are kept of one device in one group: of the newest commits.
pub const MAX_REPORTS: usize = 16;
