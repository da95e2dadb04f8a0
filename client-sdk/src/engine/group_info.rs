//! Is what the service gives to devices that come in by external commits really of this group's epoch?
//!
//! A commit comes with the GroupInfo of the epoch that it begins. The service checks all of it but `external_pub`, which follows from the epoch's
//! secrets (RFC 9420 §12.4.3.2): only members can tell whether it is right. If it is not, whoever comes in by it makes a commit that no member can
//! process. So the members that are there compare, some time after somebody else has begun an epoch. That is remembered in memory only: it is a watch, not a gate.

use std::time::Duration;

use openmls::messages::group_info::VerifiableGroupInfo;
use openmls::prelude::tls_codec::DeserializeBytes as _;
use openmls::prelude::{MlsMessageBodyIn, MlsMessageIn};
use valise_proto::delivery::v1 as wire;
use valise_proto::{GroupId, Position};

use super::Engine;
use super::effects::{Chore, Effect};
use super::live;
use super::upkeep::between;
use crate::{Error, EventKind};

/// Members ask by and by: so long apart, by chance.
const APART: Duration = Duration::from_millis(20);
const WITHIN: Duration = Duration::from_mins(1);

impl Engine {
    /// Somebody else has begun an epoch, or added this device to it.
    pub(super) fn compare_group_info_soon(&mut self, group: GroupId) -> Result<(), Error> {
        let members = live::get(&mut self.live, &self.db, group)?.roster.len();
        let within = APART.saturating_mul(u32::try_from(members).unwrap_or(u32::MAX));
        let within = u64::try_from(within.min(WITHIN).as_millis()).unwrap_or(0);
        let after = Duration::from_millis(between(0, within));
        self.effects
            .push(Effect::Chore(Chore::CompareGroupInfo { group, after }));
        Ok(())
    }

    /// Compares what the service gives out with what this device knows, where both are in the same epoch. A difference is reported to the service's
    /// administrators and told to the app; it changes nothing for the group's members.
    pub(crate) fn compare_group_info(
        &mut self,
        group: GroupId,
        current: &wire::GetGroupInfoResponse,
    ) -> Result<(), Error> {
        self.transaction(|engine| {
            let row = engine.db.group(group)?.filter(|row| row.status.is_followed());
            // After a repair the service may have none for an epoch.
            let Some(row) = row.filter(|_| !current.group_info.is_empty()) else {
                return Ok(());
            };
            let epoch = live::get(&mut engine.live, &engine.db, group)?.epoch();
            // The later epoch's is compared when both have reached it.
            if current.epoch != epoch.0 {
                return Ok(());
            }
            let Some(fault) = engine.fault_of(group, &current.group_info)? else {
                return Ok(());
            };
            let position = Position(current.commit_position);
            tracing::error!(%group, %position, "the GroupInfo that the service gives out is not of this group's epoch");
            engine.report(group, position, fault)?;
            let kind = EventKind::WrongGroupInfo {
                epoch,
                evidence: current.group_info.to_vec(),
            };
            let now = engine.options.clock.unix_millis();
            engine.emit(group, row.position, now, &kind)
        })
    }

    /// What is wrong with a GroupInfo of the epoch in which this device is.
    fn fault_of(&mut self, group: GroupId, theirs: &[u8]) -> Result<Option<wire::CommitFault>, Error> {
        const DOING: &str = "comparing a GroupInfo";
        let mls = &live::get(&mut self.live, &self.db, group)?.mls;
        let own = mls
            .export_group_info(&self.crypto, &self.device.signer, false)
            .map_err(|error| Error::mls(DOING)(&error))?
            .to_bytes()
            .map_err(|error| Error::mls(DOING)(&error))?;
        let own = read(&own).ok_or(Error::Rule("group_info"))?;
        let Some(theirs) = read(theirs).filter(|theirs| theirs.group_context() == own.group_context()) else {
            return Ok(Some(wire::CommitFault::Other));
        };
        let same = theirs.extensions().external_pub() == own.extensions().external_pub();
        Ok((!same).then_some(wire::CommitFault::ExternalPub))
    }
}

fn read(message: &[u8]) -> Option<VerifiableGroupInfo> {
    match MlsMessageIn::tls_deserialize_exact_bytes(message).ok()?.extract() {
        MlsMessageBodyIn::GroupInfo(info) => Some(info),
        _ => None,
    }
}
