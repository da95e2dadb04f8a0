//! A group, and a device that is not in it.

use openmls::prelude::MlsGroup;
use valise_tests::people::Town;
use valise_tests::raw::Device;
use valise_tests::service::Service;

use crate::hostile_requests::answers::healthy;

/// Alice and Bob are in a group, Mallory is not.
pub(crate) struct Scene {
    pub(crate) service: Service,
    pub(crate) alice: Device,
    pub(crate) mallory: Device,
    pub(crate) group: MlsGroup,
    pub(crate) id: Vec<u8>,
}

impl Scene {
    pub(crate) async fn new() -> Self {
        let service = Service::start().await;
        let town = Town::of(&service).await;
        let alice = Device::enrol(&service, &town.code("alice").await).await;
        let bob = Device::enrol(&service, &town.code("bob").await).await;
        let mallory = Device::enrol(&service, &town.code("mallory").await).await;
        let (group, _) = alice.group_with(&[&bob]).await;
        let id = group.group_id().as_slice().to_vec();
        Self {
            service,
            alice,
            mallory,
            group,
            id,
        }
    }

    pub(crate) async fn unchanged(self) {
        assert_eq!(self.alice.head(&self.group).await, (1, 1));
        healthy(&self.service, &self.alice).await;
    }
}
