//! Groups in memory.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use openmls::prelude::{LeafNodeIndex, MlsGroup};
use openmls_rust_crypto::RustCrypto;
use valise_group_rules::{Authority, Identity, Roster};
use valise_proto::{Epoch, GroupId};

use crate::mls::Storage;
use crate::store::Database;
use crate::{Error, Peer};

/// A loaded group. Kept across good transactions: loading takes 33 to 94 ms at 1,000 members.
pub(super) struct LiveGroup {
    pub(super) mls: MlsGroup,
    pub(super) roster: Roster,
    /// Who may do what in this epoch.
    pub(super) authority: Authority,
    /// The roster before the last merge; empty until there was one.
    pub(super) former: Roster,
}

impl LiveGroup {
    pub(super) fn new(mls: MlsGroup) -> Result<Self, Error> {
        let roster = Roster::of(mls.members(), None)?;
        Self::with(mls, roster)
    }

    /// With its roster, which was read before.
    pub(super) fn with(mls: MlsGroup, roster: Roster) -> Result<Self, Error> {
        let authority = Authority::of(mls.public_group().group_context(), &roster)?;
        Ok(Self {
            mls,
            roster,
            authority,
            former: Roster::default(),
        })
    }

    pub(super) fn epoch(&self) -> Epoch {
        Epoch(self.mls.epoch().as_u64())
    }

    /// Who has that leaf.
    pub(super) fn peer(&self, leaf: LeafNodeIndex) -> Option<Peer> {
        self.roster.at(leaf).map(|member| peer(&member.identity))
    }

    /// After a merge.
    pub(super) fn refresh_roster(&mut self) -> Result<(), Error> {
        let roster = Roster::of(self.mls.members(), Some(&self.roster))?;
        self.former = std::mem::replace(&mut self.roster, roster);
        self.authority = Authority::of(self.mls.public_group().group_context(), &self.roster)?;
        Ok(())
    }
}

pub(super) fn peer(identity: &Identity) -> Peer {
    Peer {
        user: identity.user.clone(),
        device: identity.device,
    }
}

/// A group of this device, loaded if it is not. Takes the engine's fields, not the engine, so that its caller can use others.
pub(super) fn get<'a>(
    live: &'a mut HashMap<GroupId, LiveGroup>,
    db: &Database,
    id: GroupId,
) -> Result<&'a mut LiveGroup, Error> {
    match live.entry(id) {
        Entry::Occupied(entry) => Ok(entry.into_mut()),
        Entry::Vacant(entry) => {
            let mls = load(db, id)?.ok_or(Error::UnknownGroup(id))?;
            Ok(entry.insert(LiveGroup::new(mls)?))
        }
    }
}

/// A fresh instance of a group, as it is stored.
pub(super) fn load(db: &Database, id: GroupId) -> Result<Option<MlsGroup>, Error> {
    let id = openmls::prelude::GroupId::from_slice(id.as_bytes());
    Ok(MlsGroup::load(&Storage::new(&db.connection), &id)?)
}

/// Deletes all keys of a group (RFC 9420 §12.4.2).
pub(super) fn delete(
    live: &mut HashMap<GroupId, LiveGroup>,
    db: &Database,
    id: GroupId,
) -> Result<(), Error> {
    let mls = match live.remove(&id) {
        Some(group) => Some(group.mls),
        None => load(db, id)?,
    };
    if let Some(mut mls) = mls {
        mls.delete(&Storage::new(&db.connection))?;
    }
    Ok(())
}

pub(super) fn digest(crypto: &RustCrypto, message: &[u8]) -> Result<Vec<u8>, Error> {
    use openmls_traits::crypto::OpenMlsCrypto as _;
    crypto
        .hash(openmls_traits::types::HashType::Sha2_256, message)
        .map_err(|error| Error::mls("hashing")(&format!("{error:?}")))
}
