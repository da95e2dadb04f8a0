//! Safety numbers: two people compare the keys of their devices, past all services.

use std::collections::BTreeSet;
use std::fmt;

use openmls_rust_crypto::RustCrypto;
use openmls_traits::crypto::OpenMlsCrypto as _;
use openmls_traits::types::HashType;
use valise_proto::{DeviceId, GroupId, UserId};

use crate::engine::SharedDevices;
use crate::session::Session;
use crate::{Client, Error, Group, Peer};

const LABEL: &[u8] = b"Valise safety number";
const VERSION: u16 = 1;
const ITERATIONS: u32 = 5200;
/// Digits of a group, as it is read aloud.
const GROUP: usize = 5;

/// One device as a roster has it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct KnownDevice {
    pub(crate) device: DeviceId,
    pub(crate) signature_key: Vec<u8>,
}

/// A number of 60 digits by which two users compare the keys of their devices. Equal on both sides if nobody was shown another key.
///
/// Certificates say which keys are whose, and the authentication service signs them. Whoever does not want to believe it compares
/// a number with the other person, face to face or on the phone: 60 digits, 30 for each user, or a QR code with the same digits.
/// Both see the same number exactly if both devices know the same devices and keys of both users.
///
/// # Which devices count
///
/// Only what this device has verified itself: leaves in the current rosters of its groups, each of which came with a Welcome
/// or a commit whose credentials were judged. Never what a service says when it is asked. Of one user the set is all pairs (device id,
/// signature key) in the groups **that both users are in** and that this device follows; groups of only one of them do not matter. Groups
/// that are quarantined, held, lost or regressed are left out.
///
/// So the numbers differ if somebody was shown another key; if one side has not caught up; and if two devices of one user are not
/// in the same groups with the other. [`crate::Group::safety_number`] takes one group alone, where the last cannot be. A new device
/// or key, and one that goes, changes the number.
///
/// # How the digits are computed (version 1)
///
/// For each user, in the notation of RFC 8446 §3, integers big-endian:
///
/// ```text
/// struct {
///     opaque label<0..255>;          // "Valise safety number"
///     uint16 version;                // 1
///     opaque user_id<0..65535>;      // as text, name@domain
///     Device devices<0..2^32-1>;     // by device_id, then by key, each once; the length counts bytes
/// } Material;
///
/// struct {
///     uint8 device_id[16];           // UUID, RFC 9562
///     opaque signature_key<0..65535>;
/// } Device;
/// ```
///
/// `h[0] = SHA-512(Material)`, `h[n] = SHA-512(h[n-1] || Material)`; `h[5200]` is taken. Iterating makes it 5,200 times as costly to look
/// for keys whose digits resemble a given number. Its first 30 bytes are six integers of 5 bytes; each, modulo 100,000, gives five
/// digits with leading zeros. The user whose id is smaller, byte by byte, comes first: so both see the same.
///
/// The QR code holds the text `VALISE:SN:1:` and the 60 digits.
///
/// # Example
///
/// [`fmt::Display`] writes twelve groups of five digits.
///
/// ```
/// # valise_tests::example::with_group(async |alice, group, bob, of_bob| {
/// let number = alice.safety_number(bob.user()).await?.ok_or("never seen")?;
/// println!("read this to Bob: {number}");
/// assert_eq!(number.to_string().split_whitespace().count(), 12);
/// # Ok(()) });
/// ```
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct SafetyNumber {
    digits: String,
    devices: Vec<Peer>,
}

impl SafetyNumber {
    fn new(
        own: (&UserId, &BTreeSet<KnownDevice>),
        other: (&UserId, &BTreeSet<KnownDevice>),
    ) -> Result<Self, Error> {
        let mut sides = [own, other];
        sides.sort_by_key(|&(user, _)| user.as_str().as_bytes());
        let mut digits = String::with_capacity(60);
        let mut devices = Vec::new();
        for (user, known) in sides {
            digits.push_str(&half(user, known)?);
            devices.extend(known.iter().map(|known| Peer {
                user: user.clone(),
                device: known.device,
            }));
        }
        devices.dedup();
        Ok(Self { digits, devices })
    }

    /// The 60 digits without spaces.
    ///
    /// ```
    /// # valise_tests::example::with_group(async |alice, group, bob, of_bob| {
    /// let number = group.safety_number(bob.user()).await?.ok_or("no member")?;
    /// assert_eq!(number.digits().len(), 60);
    /// # Ok(()) });
    /// ```
    pub fn digits(&self) -> &str {
        &self.digits
    }

    /// The twelve groups of five digits.
    ///
    /// ```
    /// # valise_tests::example::with_group(async |alice, group, bob, of_bob| {
    /// let number = group.safety_number(bob.user()).await?.ok_or("no member")?;
    /// let read_out: Vec<_> = number.groups().collect();
    /// assert_eq!((read_out.len(), read_out[0].len()), (12, 5));
    /// # Ok(()) });
    /// ```
    pub fn groups(&self) -> impl Iterator<Item = &str> {
        (0..self.digits.len())
            .step_by(GROUP)
            .filter_map(|start| self.digits.get(start..start + GROUP))
    }

    /// What a QR code of it holds: characters of the alphanumeric mode (ISO/IEC 18004).
    ///
    /// ```
    /// # valise_tests::example::with_group(async |alice, group, bob, of_bob| {
    /// let number = group.safety_number(bob.user()).await?.ok_or("no member")?;
    /// let shown_as_qr_code = number.qr_text();
    /// assert!(shown_as_qr_code.starts_with("VALISE:SN:"));
    /// # Ok(()) });
    /// ```
    pub fn qr_text(&self) -> String {
        format!("VALISE:SN:{VERSION}:{}", self.digits)
    }

    /// Is this what a QR code of the other side says?
    ///
    /// ```
    /// # valise_tests::example::with_group(async |alice, group, bob, of_bob| {
    /// let of_alice = group.safety_number(bob.user()).await?.ok_or("no member")?;
    /// let of_bob = of_bob.safety_number(alice.user()).await?.ok_or("no member")?;
    /// assert!(of_bob.matches_qr_text(&of_alice.qr_text()));
    /// # Ok(()) });
    /// ```
    pub fn matches_qr_text(&self, text: &str) -> bool {
        self.qr_text() == text
    }

    /// The devices of both users that the number is about, in the order of the digits.
    ///
    /// ```
    /// # valise_tests::example::with_group(async |alice, group, bob, of_bob| {
    /// let number = group.safety_number(bob.user()).await?.ok_or("no member")?;
    /// assert_eq!(number.devices().len(), 2);
    /// # Ok(()) });
    /// ```
    pub fn devices(&self) -> &[Peer] {
        &self.devices
    }
}

impl fmt::Display for SafetyNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, group) in self.groups().enumerate() {
            if number > 0 {
                f.write_str(" ")?;
            }
            f.write_str(group)?;
        }
        Ok(())
    }
}

/// The 30 digits of one user.
fn half(user: &UserId, devices: &BTreeSet<KnownDevice>) -> Result<String, Error> {
    let material = material(user, devices)?;
    let crypto = RustCrypto::default();
    let sha512 = |data: &[u8]| {
        crypto
            .hash(HashType::Sha2_512, data)
            .map_err(|error| Error::mls("hashing")(&format!("{error:?}")))
    };
    let mut hash = sha512(&material)?;
    for _ in 0..ITERATIONS {
        hash.extend_from_slice(&material);
        hash = sha512(&hash)?;
    }
    let digits = hash.chunks_exact(5).take(6).map(|chunk| {
        let number = chunk
            .iter()
            .fold(0_u64, |number, &byte| (number << 8) | u64::from(byte));
        format!("{:05}", number % 100_000)
    });
    Ok(digits.collect())
}

fn material(user: &UserId, devices: &BTreeSet<KnownDevice>) -> Result<Vec<u8>, Error> {
    let mut material = Vec::new();
    put_opaque(&mut material, 1, LABEL)?;
    material.extend_from_slice(&VERSION.to_be_bytes());
    put_opaque(&mut material, 2, user.as_str().as_bytes())?;
    let mut list = Vec::new();
    for known in devices {
        list.extend_from_slice(known.device.as_uuid().as_bytes());
        put_opaque(&mut list, 2, &known.signature_key)?;
    }
    put_opaque(&mut material, 4, &list)?;
    Ok(material)
}

/// Bytes after their length, which has that many bytes.
fn put_opaque(to: &mut Vec<u8>, length_bytes: usize, bytes: &[u8]) -> Result<(), Error> {
    let length = bytes.len().to_be_bytes();
    let (high, low) = length
        .split_at_checked(length.len().saturating_sub(length_bytes))
        .ok_or(Error::InvalidInput("a length"))?;
    if high.iter().any(|&byte| byte != 0) {
        return Err(Error::InvalidInput("too much for a safety number"));
    }
    to.extend_from_slice(low);
    to.extend_from_slice(bytes);
    Ok(())
}

impl Session {
    async fn safety_number(
        &self,
        other: &UserId,
        only: Option<GroupId>,
    ) -> Result<Option<SafetyNumber>, Error> {
        if *other == self.user {
            return Err(Error::InvalidInput("a safety number is between two users"));
        }
        let user = other.clone();
        let shared = self
            .engine
            .run(move |engine| engine.shared_devices(&user, only))
            .await?;
        let Some(SharedDevices { own, others }) = shared else {
            return Ok(None);
        };
        let (own_user, other) = (self.user.clone(), other.clone());
        // Some milliseconds of hashing.
        tokio::task::spawn_blocking(move || SafetyNumber::new((&own_user, &own), (&other, &others)))
            .await
            .map_err(|_| Error::Closed)?
            .map(Some)
    }
}

impl Client {
    /// The safety number with another user, over the devices in all groups that both are in. `None` where there is no such group.
    ///
    /// ```
    /// # valise_tests::example::with_group(async |alice, group, bob, of_bob| {
    /// let seen_by_alice = alice.safety_number(bob.user()).await?.ok_or("no group in common")?;
    /// let seen_by_bob = bob.safety_number(alice.user()).await?.ok_or("no group in common")?;
    /// assert_eq!(seen_by_alice, seen_by_bob);
    /// println!("{seen_by_alice}"); // twelve groups of five digits, to be read out
    /// # Ok(()) });
    /// ```
    pub async fn safety_number(&self, other: &UserId) -> Result<Option<SafetyNumber>, Error> {
        self.session.safety_number(other, None).await
    }
}

impl Group {
    /// The safety number with another member, over the devices in this group alone. `None` where that user is no member.
    ///
    /// ```
    /// # valise_tests::example::with_group(async |alice, group, bob, of_bob| {
    /// let seen_by_alice = group.safety_number(bob.user()).await?.ok_or("no member")?;
    /// let seen_by_bob = of_bob.safety_number(alice.user()).await?.ok_or("no member")?;
    /// assert_eq!(seen_by_alice, seen_by_bob);
    /// println!("{seen_by_alice}"); // twelve groups of five digits, to be read out
    /// # Ok(()) });
    /// ```
    pub async fn safety_number(&self, other: &UserId) -> Result<Option<SafetyNumber>, Error> {
        self.session.safety_number(other, Some(self.id)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> UserId {
        format!("{name}@a.example").parse().unwrap()
    }

    fn known(number: u8, key: u8) -> KnownDevice {
        KnownDevice {
            device: format!("0b000000-0000-4000-8000-0000000000{number:02x}")
                .parse()
                .unwrap(),
            signature_key: vec![key; 32],
        }
    }

    fn set(devices: &[(u8, u8)]) -> BTreeSet<KnownDevice> {
        devices.iter().map(|&(number, key)| known(number, key)).collect()
    }

    fn number(alices: &[(u8, u8)], bobs: &[(u8, u8)]) -> SafetyNumber {
        SafetyNumber::new((&user("alice"), &set(alices)), (&user("bob"), &set(bobs))).unwrap()
    }

    #[test]
    fn the_digits_stay_as_they_are() {
        // Computed with another implementation.
        assert_eq!(
            number(&[(1, 0xA1)], &[(2, 0xB2), (3, 0xB3)]).to_string(),
            "40267 08622 34158 62526 61223 75737 03469 91924 18545 73161 01074 05889"
        );
        assert_eq!(
            number(&[], &[(2, 0)]).to_string(),
            "45140 07495 71645 50914 28094 09262 88573 91420 63025 63951 10341 60384"
        );
    }

    #[test]
    fn both_sides_see_the_same() {
        let (alices, bobs) = (set(&[(1, 1), (4, 4)]), set(&[(2, 2)]));
        let (alice, bob) = (user("alice"), user("bob"));
        let hers = SafetyNumber::new((&alice, &alices), (&bob, &bobs)).unwrap();
        let his = SafetyNumber::new((&bob, &bobs), (&alice, &alices)).unwrap();
        assert_eq!(hers, his);
        assert!(his.matches_qr_text(&hers.qr_text()));
        assert_eq!(hers.devices().len(), 3);
    }

    #[test]
    fn every_device_and_key_counts() {
        let numbers: BTreeSet<String> = [
            number(&[(1, 1)], &[(2, 2)]),
            number(&[(1, 1), (3, 3)], &[(2, 2)]),
            number(&[(1, 1)], &[(2, 2), (3, 3)]),
            number(&[(1, 9)], &[(2, 2)]),
            number(&[(9, 1)], &[(2, 2)]),
            number(&[(2, 2)], &[(1, 1)]),
        ]
        .iter()
        .map(|number| number.digits().to_owned())
        .collect();
        assert_eq!(numbers.len(), 6);
        // The half of the one whose devices are the same stays.
        let (before, after) = (number(&[(1, 1)], &[(2, 2)]), number(&[(1, 1)], &[(2, 3)]));
        assert_eq!(before.digits()[..30], after.digits()[..30]);
        assert_ne!(before.digits()[30..], after.digits()[30..]);
    }

    #[test]
    fn it_is_read_in_groups_of_five() {
        let number = number(&[(1, 1)], &[(2, 2)]);
        assert_eq!(number.digits().len(), 60);
        assert!(number.digits().bytes().all(|byte| byte.is_ascii_digit()));
        assert_eq!(number.groups().count(), 12);
        assert_eq!(number.to_string().replace(' ', ""), number.digits());
        assert_eq!(number.qr_text(), format!("VALISE:SN:1:{}", number.digits()));
    }

    #[test]
    fn lengths_that_do_not_fit_are_refused() {
        let mut to = Vec::new();
        put_opaque(&mut to, 1, &[7; 255]).unwrap();
        assert_eq!((to.len(), to[0]), (256, 255));
        assert!(put_opaque(&mut to, 1, &[7; 256]).is_err());
    }
}
