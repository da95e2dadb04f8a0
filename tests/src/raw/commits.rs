//! Commits, and what goes along with them.

use openmls::prelude::tls_codec::Serialize as _;
use openmls::prelude::{KeyPackage, LeafNodeIndex, MlsGroup, MlsMessageOut, OpenMlsProvider as _};
use valise_proto::Refusal;
use valise_proto::delivery::v1 as wire;

use super::{Device, key, refusal};

/// A commit with what goes along.
#[derive(Clone, Debug, Default)]
pub struct Bundle {
    /// The commit, an MLSMessage.
    pub commit: Vec<u8>,
    /// Its GroupInfo.
    pub group_info: Vec<u8>,
    /// Its Welcome, or nothing.
    pub welcome: Vec<u8>,
}

/// What a commit is to do.
#[derive(Default)]
pub struct Plan {
    /// Whom to add.
    pub adds: Vec<KeyPackage>,
    /// Whom to remove.
    pub removals: Vec<LeafNodeIndex>,
    /// With a path, even if nothing else asks for one.
    pub path: bool,
    /// With whatever proposals came in before.
    pub pending: bool,
}

impl Plan {
    /// New keys for the committer.
    pub fn self_update() -> Self {
        Self {
            path: true,
            ..Self::default()
        }
    }

    /// Adds.
    pub fn add(adds: Vec<KeyPackage>) -> Self {
        Self {
            adds,
            ..Self::default()
        }
    }

    /// Removes.
    pub fn remove(removals: Vec<LeafNodeIndex>) -> Self {
        Self {
            removals,
            ..Self::default()
        }
    }
}

impl Device {
    /// Builds a commit and leaves it pending.
    pub fn commit(&self, group: &mut MlsGroup, plan: Plan) -> Bundle {
        let built = group
            .commit_builder()
            .consume_proposal_store(plan.pending)
            .force_self_update(plan.path)
            .propose_adds(plan.adds)
            .propose_removals(plan.removals)
            .load_psks(self.provider.storage())
            .unwrap()
            .create_group_info(true)
            .use_ratchet_tree_extension(false)
            .build(self.provider.rand(), self.provider.crypto(), &self.signer, |_| {
                true
            })
            .unwrap()
            .stage_commit(&self.provider)
            .unwrap();
        bundle(built)
    }

    /// Forgets the pending commit.
    pub fn forget(&self, group: &mut MlsGroup) {
        group.clear_pending_commit(self.provider.storage()).unwrap();
    }

    /// Submits a commit.
    pub async fn submit(&self, bundle: &Bundle) -> Result<wire::Accepted, Refusal> {
        let request = wire::SubmitCommitRequest {
            commit: bundle.commit.clone().into(),
            group_info: bundle.group_info.clone().into(),
            welcome: bundle.welcome.clone().into(),
            idempotency_key: key(),
            may_be_repeat: false,
        };
        let answer = self.door.delivery().submit_commit(request).await;
        answer
            .map(|answer| answer.into_inner().accepted.unwrap())
            .map_err(|status| refusal(&status))
    }

    /// Submits an external commit.
    pub async fn submit_external(&self, bundle: &Bundle) -> Result<wire::Accepted, Refusal> {
        let request = wire::SubmitExternalCommitRequest {
            commit: bundle.commit.clone().into(),
            group_info: bundle.group_info.clone().into(),
            idempotency_key: key(),
            may_be_repeat: false,
        };
        let answer = self.door.delivery().submit_external_commit(request).await;
        answer
            .map(|answer| answer.into_inner().accepted.unwrap())
            .map_err(|status| refusal(&status))
    }
}

/// What openmls built, as it is submitted.
pub fn bundle(built: openmls::prelude::CommitMessageBundle) -> Bundle {
    let (commit, welcome, group_info) = built.into_messages();
    let bytes = |message: MlsMessageOut| message.tls_serialize_detached().unwrap();
    Bundle {
        commit: bytes(commit),
        group_info: group_info.map(bytes).unwrap_or_default(),
        welcome: welcome.map(bytes).unwrap_or_default(),
    }
}
