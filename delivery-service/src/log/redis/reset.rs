//! Ends a group, and has its members told.

use valise_proto::{GroupId, Position};

use super::RedisLog;
use super::append::stream_id;
use super::keys::Keys;
use super::partition::Partition;
use super::scripts::{RESET, text, unknown};
use super::value::{damaged, decimal, list, string};
use crate::log::{Refused, Reset, StoreError};

impl RedisLog {
    /// See [`OrderedLog::reset`](crate::log::OrderedLog::reset); but which successor a group got first is not known here: the caller keeps it.
    pub(crate) async fn reset(
        &self,
        group: GroupId,
        successor: GroupId,
        at: u64,
    ) -> Result<Result<Reset, Refused>, StoreError> {
        let partition = Partition::of_group(&group);
        let keys = Keys::of(partition);
        let mut names = keys.numbering();
        names.extend([keys.out(), keys.channel(), keys.windows(&group)]);
        let arguments = vec![group.to_vec(), successor.to_vec(), text(at)];
        let answer = self
            .store
            .run(partition, &RESET, names, arguments)
            .await
            .map_err(unknown)?;
        let answer: Vec<Vec<u8>> = list(answer)?.into_iter().map(string).collect::<Result<_, _>>()?;
        let last = match answer.first().map(Vec::as_slice) {
            None => return Ok(Err(Refused::GroupNotFound)),
            Some(b"f") => return Ok(Err(Refused::Frozen)),
            Some(last) => Position(decimal(last)?),
        };
        if let Some(handed) = answer.get(1) {
            // Looked at, not made here: the script knows who the members are.
            stream_id(handed).map_err(|_| damaged("hand-off"))?;
            self.relay.look_at_once(partition);
        }
        Ok(Ok(Reset {
            group,
            successor,
            last,
        }))
    }
}
