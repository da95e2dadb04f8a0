//! GroupInfo and ratchet trees, for those who join.

use bytes::Bytes;
use valise_group_rules::{RuleViolation, may_join};
use valise_proto::{DeviceId, Epoch, GroupId, Position, Reason, Refusal, UserId};

use crate::door::broken;
use crate::service::Delivery;

pub(crate) struct CurrentGroupInfo {
    pub(crate) group_info: Bytes,
    pub(crate) epoch: Epoch,
    pub(crate) commit_position: Position,
    /// Empty where it was not wanted.
    pub(crate) ratchet_tree: Bytes,
}

impl Delivery {
    /// For members, and for another device of a member's user where policy lets it come in by an external commit.
    pub(crate) async fn get_group_info(
        &self,
        user: &UserId,
        device: DeviceId,
        group: GroupId,
        with_tree: bool,
    ) -> Result<CurrentGroupInfo, Refusal> {
        let mut view = self.states.view(group).await?;
        let (group_info, epoch, commit_position) =
            self.log.group_info(group).await?.ok_or(Reason::GroupNotFound)?;
        // Who may see it is who is a member then, or later.
        if view.epoch < epoch {
            view = self.states.refresh(group).await?;
        }
        if view.roster.device(device).is_none() {
            if !view.roster.has_user(user) {
                return Err(Reason::NotAMember.into());
            }
            if !may_join(&view.authority, &view.roster, user, device) {
                return Err(broken(Reason::PolicyDenied)(RuleViolation("external_joiner")));
            }
        }
        let ratchet_tree = if with_tree {
            self.tree_of(group, epoch).await?
        } else {
            Bytes::new()
        };
        Ok(CurrentGroupInfo {
            group_info,
            epoch,
            commit_position,
            ratchet_tree,
        })
    }

    /// The tree of an epoch that the caller was or is in.
    pub(crate) async fn get_ratchet_tree(
        &self,
        device: DeviceId,
        group: GroupId,
        epoch: Epoch,
    ) -> Result<Bytes, Refusal> {
        let head = self.log.head(group).await?.ok_or(Reason::GroupNotFound)?;
        let windows = self.log.windows(group, device).await?;
        if windows.is_empty() {
            return Err(Reason::NotAMember.into());
        }
        if epoch > head.epoch {
            return Err(Refusal::new(Reason::EpochAhead).with("current_epoch", head.epoch));
        }
        // The epoch began with the commit that ended the one before.
        let began = match epoch.0.checked_sub(1) {
            None => Position::NONE,
            Some(before) => self
                .log
                .winner(group, Epoch(before))
                .await?
                .ok_or_else(|| Refusal::new(Reason::EpochTooOld).with("current_epoch", head.epoch))?,
        };
        let inside = |window: &crate::log::Window| {
            began >= window.after && window.until.is_none_or(|until| began < until)
        };
        if !windows.iter().any(inside) {
            return Err(Reason::NotAMember.into());
        }
        self.tree_of(group, epoch).await
    }

    /// What is known of a group is of a log that was lost, or is no more: it is read anew.
    pub(crate) fn forget(&self, group: GroupId) {
        self.states.forget(group);
        // An epoch may come again with another tree. It is rare, and the trees of other groups are soon made.
        self.trees.invalidate_all();
    }

    async fn tree_of(&self, group: GroupId, epoch: Epoch) -> Result<Bytes, Refusal> {
        // Many joiners ask for the same tree at once.
        let known = self.trees.get(&(group, epoch)).await;
        if let Some(tree) = known {
            return Ok(tree);
        }
        let mut held = self.states.hold(group).await?;
        let state = held.state()?;
        let tree = if state.epoch() == epoch {
            state.tree()?
        } else {
            drop(held);
            self.states.at_epoch(group, epoch).await?.tree()?
        };
        self.trees.insert((group, epoch), tree.clone()).await;
        Ok(tree)
    }
}
