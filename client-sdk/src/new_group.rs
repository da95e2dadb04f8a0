//! A group for certain users: its suite is the best that all of their devices can be in.

use std::sync::Arc;

use valise_proto::delivery::v1::GetParametersRequest;
use valise_proto::directory::v1::{DeviceCipherSuites, FindCipherSuitesRequest};
use valise_proto::{GroupId, UserId};

use crate::adding::Adding;
use crate::engine::MAX_GROUP_NAME;
use crate::group::distinct;
use crate::{Added, CipherSuite, Client, Error, Group, Users};

/// Users that are asked about at once.
const BATCH: usize = 256;

/// A group that was just made, and what became of those whom it was made for.
///
/// ```
/// # valise_tests::example::with_people(async |alice, bob| {
/// let made = alice.create_group_with("Budget 2027", &[bob.user()]).await?;
/// println!("{} devices are in {}", made.added.devices.len() + 1, made.group.id());
/// # Ok(()) });
/// ```
#[derive(Debug)]
pub struct NewGroup {
    /// The group.
    pub group: Group,
    /// Who is in it, and who could not be added.
    pub added: Added,
}

impl Client {
    /// Creates a group with this device as its only member, and the suite of [`Options::cipher_suite`](crate::Options). Resolves
    /// when the service has registered it.
    ///
    /// The name is told to members only, in messages: the service does not learn it. At most 256 bytes.
    ///
    /// ```
    /// # valise_tests::example::with_people(async |alice, bob| {
    /// let group = alice.create_group("Budget 2027").await?;
    /// group.add(&[bob.user()]).await?;
    /// # Ok(()) });
    /// ```
    pub async fn create_group(&self, name: &str) -> Result<Group, Error> {
        self.create_with_suite(name, self.session.options.cipher_suite)
            .await
    }

    /// Creates a group and adds all devices of these users, as [`Group::add`] does. The group's suite is the best that this device
    /// and all of them have key packages of, in the deployment's order of preference; it stays for ever, so who comes later must
    /// have it too ([`AddFailure::NoKeyPackage`](crate::AddFailure)). Devices that have no packages at all do not count.
    ///
    /// [`Error::NoSharedSuite`] where there is none: nothing is created then. Once the suite is known, the group and its users are stored in
    /// one step: dropping the future, or a crash, does not take it back. Where the adding fails, in part or as a whole, the group is there all
    /// the same, and [`NewGroup::added`] says who is not in it. An error where that is not known yet, as with [`Group::add`]: the group is among
    /// [`Client::groups`] then, too.
    ///
    /// ```
    /// # valise_tests::example::with_people(async |alice, bob| {
    /// let made = alice.create_group_with("Budget 2027", &["bob@valise.example"]).await?;
    /// assert_eq!(made.added.devices, [(bob.user().clone(), bob.device())]);
    /// made.group.send("Bonjour").await?;
    /// # Ok(()) });
    /// ```
    pub async fn create_group_with(
        &self,
        name: &str,
        users: &(impl Users + ?Sized),
    ) -> Result<NewGroup, Error> {
        check_name(name)?;
        let users = distinct(users.users()?);
        let suite = self.shared_suite(&users).await?;
        let id = GroupId::random(&mut rand::rng());
        let count = users.len();
        let span = tracing::info_span!("valise.create_group", group = %id, suite = %suite, users = count);
        let (adding, adder) = Adding::begin(&self.session.long_work, id, count, span);
        self.session
            .engine
            .create_group_with(id, name.to_owned(), suite.mls(), users, adder)
            .await?;
        let added = adding.end().await.into_known()?;
        let group = Group {
            session: Arc::clone(&self.session),
            id,
        };
        Ok(NewGroup { group, added })
    }

    /// The best suite that this device and all devices of these users have packages of. Nothing is claimed: another answer may be
    /// right a moment later, and then the adding says so per device.
    async fn shared_suite(&self, users: &[UserId]) -> Result<CipherSuite, Error> {
        let transport = &self.session.transport;
        let parameters = transport.get_parameters(GetParametersRequest {}).await?;
        let own = self.session.options.suites();
        let mut shared: Vec<CipherSuite> = parameters
            .cipher_suites
            .into_iter()
            .filter_map(CipherSuite::from_number)
            .filter(|suite| own.contains(suite))
            .collect();
        let users: Vec<String> = users.iter().map(UserId::to_string).collect();
        for users in users.chunks(BATCH) {
            let request = FindCipherSuitesRequest {
                user_ids: users.to_vec(),
            };
            let found = transport.find_cipher_suites(request).await?;
            keep_shared(&mut shared, &found.devices);
        }
        shared.first().copied().ok_or(Error::NoSharedSuite)
    }

    async fn create_with_suite(&self, name: &str, suite: CipherSuite) -> Result<Group, Error> {
        check_name(name)?;
        let id = GroupId::random(&mut rand::rng());
        let span = tracing::info_span!("valise.create_group", group = %id, suite = %suite);
        self.session
            .engine
            .create_group(id, name.to_owned(), suite.mls(), span)
            .await?;
        Ok(Group {
            session: Arc::clone(&self.session),
            id,
        })
    }
}

fn check_name(name: &str) -> Result<(), Error> {
    if name.len() > MAX_GROUP_NAME {
        return Err(Error::InvalidInput("a group's name has at most 256 bytes"));
    }
    Ok(())
}

/// Those that each of the devices has, too. The order stays.
fn keep_shared(shared: &mut Vec<CipherSuite>, devices: &[DeviceCipherSuites]) {
    for device in devices {
        shared.retain(|suite| device.cipher_suites.contains(&suite.number()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use CipherSuite::{MlKem768X25519Aes128, P256Aes128, X25519Aes128, X25519ChaCha20};

    fn of(devices: &[&[u32]]) -> Option<CipherSuite> {
        let devices: Vec<_> = devices
            .iter()
            .map(|suites| DeviceCipherSuites {
                cipher_suites: suites.to_vec(),
                ..DeviceCipherSuites::default()
            })
            .collect();
        let mut shared = vec![MlKem768X25519Aes128, X25519ChaCha20, X25519Aes128];
        keep_shared(&mut shared, &devices);
        shared.first().copied()
    }

    #[test]
    fn the_best_that_all_have_is_taken() {
        assert_eq!(of(&[]), Some(MlKem768X25519Aes128));
        assert_eq!(of(&[&[1, 3, 0x4F], &[0x4F]]), Some(MlKem768X25519Aes128));
        assert_eq!(of(&[&[1, 3, 0x4F], &[1, 3]]), Some(X25519ChaCha20));
        assert_eq!(of(&[&[1, 3], &[1, 0x4F]]), Some(X25519Aes128));
        assert_eq!(of(&[&[3], &[1, 0x4F]]), None);
        // It is this device that cannot.
        assert_eq!(of(&[&[P256Aes128.number()]]), None);
    }
}
