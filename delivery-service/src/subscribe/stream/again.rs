//! A group whose log is found to be another one, or was repaired: is what was sent of it in there?

use valise_proto::{GroupId, Position, Reason, Refusal};

use super::DeviceStream;
use crate::grpc;
use crate::subscribe::follow::Start;

impl DeviceStream {
    /// Compares what went out last with the log, as if the device began there. It goes on, or is told why it cannot.
    pub(super) async fn judge_again(&mut self, group: GroupId) -> Result<(), Refusal> {
        let Some(followed) = self.groups.get(&group) else {
            return Ok(());
        };
        let start = Start::at(group, followed.sent, followed.sent_id);
        let device = self.subscriber.device;
        let verdict = self.delivery.start_following(device, &[start]).await?.pop();
        match verdict.unwrap_or(Err((Reason::GroupNotFound, Position::NONE))) {
            Ok((fresh, _)) => {
                if let Some(followed) = self.groups.get_mut(&group) {
                    followed.until = fresh.until;
                    followed.known = fresh.known;
                    followed.behind = true;
                }
                Ok(())
            }
            Err((reason, position)) => {
                self.drop_group(group);
                self.say(grpc::group_ended(group, reason, position)).await?;
                self.judge_target().await
            }
        }
    }
}
