//! Two replicas of the delivery service, and people whose devices talk to the one or the other.

use valise_local_stack::{LocalStack, RedisShape, StackOptions};

use crate::crowd::{door, servers};
use crate::people::Town;
use crate::raw::Device;

/// Services of one's own, of which the delivery service has two replicas on one Redis.
pub struct Replicas {
    /// Its administrator's device talks to the first replica.
    pub town: Town,
    /// What runs.
    pub stack: LocalStack,
}

impl Replicas {
    /// Starts them.
    pub async fn start() -> Self {
        let options = StackOptions {
            authentication_replicas: 1,
            directory_replicas: 1,
            delivery_replicas: 2,
            redis: RedisShape::Standalone,
            ..StackOptions::default()
        };
        let stack = LocalStack::start(options).await;
        let first = servers(&stack, stack.delivery(0).url());
        let town = Town::at(first, stack.administrator_code().unwrap(), stack.domain()).await;
        Self { town, stack }
    }

    /// A new device of that user, which talks to that replica.
    pub async fn device(&self, replica: usize, name: &str) -> Device {
        let code = self.town.code(name).await;
        Device::enrol_at(door(&self.stack, replica).await, &code).await
    }
}
