//! MLS messages taken apart into bytes, changed, and signed again: what openmls would not build.

use openmls::prelude::tls_codec::{DeserializeBytes as _, Serialize as _, VLBytes};
use openmls::prelude::{GroupContext, MlsGroup};
use openmls_basic_credential::SignatureKeyPair;
use openmls_traits::signatures::Signer as _;

/// `opaque bytes<V>` (RFC 9420 §2.1.2).
pub fn vector(bytes: &[u8]) -> Vec<u8> {
    VLBytes::new(bytes.to_vec()).tls_serialize_detached().unwrap()
}

fn take_vector(bytes: &[u8]) -> (Vec<u8>, &[u8]) {
    let (vector, rest) = VLBytes::tls_deserialize_bytes(bytes).unwrap();
    (vector.into(), rest)
}

/// A signature with a label (RFC 9420 §5.1.2).
fn sign(signer: &SignatureKeyPair, label: &str, content: &[u8]) -> Vec<u8> {
    let label = vector(format!("MLS 1.0 {label}").as_bytes());
    signer.sign(&[label, vector(content)].concat()).unwrap()
}

/// An MLSMessage with a PublicMessage (RFC 9420 §6.2) of a member, in parts.
#[derive(Clone, Debug)]
pub struct Framed {
    /// Version and wire format.
    pub header: [u8; 4],
    /// The group.
    pub group: Vec<u8>,
    /// The epoch.
    pub epoch: u64,
    /// The sender's leaf.
    pub leaf: u32,
    /// Authenticated data.
    pub aad: Vec<u8>,
    /// 2 for a proposal, 3 for a commit.
    pub content_type: u8,
    /// Of a commit, its proposals (the content of the vector); of a proposal, the proposal.
    pub proposals: Vec<u8>,
    /// Of a commit, its optional path.
    pub path: Vec<u8>,
    /// The signature.
    pub signature: Vec<u8>,
    /// The confirmation tag of a commit.
    pub confirmation_tag: Vec<u8>,
    /// The membership tag.
    pub membership_tag: Vec<u8>,
}

/// Signature<V> of 64 bytes and two tags<V> of 32.
const COMMIT_TRAILER: usize = 2 + 64 + 33 + 33;

impl Framed {
    /// Takes a commit of a member apart.
    pub fn commit(message: &[u8]) -> Self {
        let (content, trailer) = message.split_at(message.len() - COMMIT_TRAILER);
        let (header, rest) = content.split_first_chunk().unwrap();
        let (group, rest) = take_vector(rest);
        let (epoch, rest) = rest.split_first_chunk().unwrap();
        let (sender, rest) = rest.split_first_chunk::<5>().unwrap();
        assert_eq!(sender[0], 1, "of a member");
        let leaf = u32::from_be_bytes(sender[1..].try_into().unwrap());
        let (aad, rest) = take_vector(rest);
        let (&content_type, rest) = rest.split_first().unwrap();
        assert_eq!(content_type, 3, "a commit");
        let (proposals, path) = take_vector(rest);
        let (signature, trailer) = take_vector(trailer);
        let (confirmation_tag, trailer) = take_vector(trailer);
        let (membership_tag, trailer) = take_vector(trailer);
        assert!(trailer.is_empty());
        Self {
            header: *header,
            group,
            epoch: u64::from_be_bytes(*epoch),
            leaf,
            aad,
            content_type,
            proposals,
            path: path.to_vec(),
            signature,
            confirmation_tag,
            membership_tag,
        }
    }

    fn content(&self) -> Vec<u8> {
        let mut bytes = vector(&self.group);
        bytes.extend(self.epoch.to_be_bytes());
        bytes.push(1);
        bytes.extend(self.leaf.to_be_bytes());
        bytes.extend(vector(&self.aad));
        bytes.push(self.content_type);
        if self.content_type == 3 {
            bytes.extend(vector(&self.proposals));
            bytes.extend(&self.path);
        } else {
            bytes.extend(&self.proposals);
        }
        bytes
    }

    /// The message.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.header.to_vec();
        bytes.extend(self.content());
        bytes.extend(vector(&self.signature));
        if self.content_type == 3 {
            bytes.extend(vector(&self.confirmation_tag));
        }
        bytes.extend(vector(&self.membership_tag));
        bytes
    }

    /// Signs it again. The tags stay as they are: the service has no key for them.
    pub fn signed(mut self, group: &MlsGroup, signer: &SignatureKeyPair) -> Self {
        let context = group
            .public_group()
            .group_context()
            .tls_serialize_detached()
            .unwrap();
        let signed = [self.header.to_vec(), self.content(), context].concat();
        self.signature = sign(signer, "FramedContentTBS", &signed);
        self
    }
}

/// A proposal inside a commit, by value (RFC 9420 §12.4): its type and what follows.
pub fn inline(proposal_type: u16, body: &[u8]) -> Vec<u8> {
    [&[1][..], &proposal_type.to_be_bytes(), body].concat()
}

/// An MLSMessage with a GroupInfo (RFC 9420 §12.4.3), in parts.
#[derive(Clone, Debug)]
pub struct Info {
    /// Version and wire format.
    pub header: [u8; 4],
    /// The GroupContext.
    pub context: Vec<u8>,
    /// The extensions: the content of the vector.
    pub extensions: Vec<u8>,
    /// The confirmation tag.
    pub confirmation_tag: Vec<u8>,
    /// The signer's leaf.
    pub signer: u32,
    /// The signature.
    pub signature: Vec<u8>,
}

impl Info {
    /// Takes it apart.
    pub fn read(message: &[u8]) -> Self {
        let (header, body) = message.split_first_chunk().unwrap();
        let (_, rest) = GroupContext::tls_deserialize_bytes(body).unwrap();
        let context = body[..body.len() - rest.len()].to_vec();
        let (extensions, rest) = take_vector(rest);
        let (confirmation_tag, rest) = take_vector(rest);
        let (signer, rest) = rest.split_first_chunk().unwrap();
        let (signature, rest) = take_vector(rest);
        assert!(rest.is_empty());
        Self {
            header: *header,
            context,
            extensions,
            confirmation_tag,
            signer: u32::from_be_bytes(*signer),
            signature,
        }
    }

    fn signed_part(&self) -> Vec<u8> {
        let mut bytes = self.context.clone();
        bytes.extend(vector(&self.extensions));
        bytes.extend(vector(&self.confirmation_tag));
        bytes.extend(self.signer.to_be_bytes());
        bytes
    }

    /// The message.
    pub fn to_bytes(&self) -> Vec<u8> {
        [self.header.to_vec(), self.signed_part(), vector(&self.signature)].concat()
    }

    /// Signs it again.
    pub fn signed(mut self, signer: &SignatureKeyPair) -> Self {
        self.signature = sign(signer, "GroupInfoTBS", &self.signed_part());
        self
    }
}

/// An MLSMessage with a PrivateMessage (RFC 9420 §6.3) of content type application that nobody can read.
pub fn opaque(group: &[u8], epoch: u64, ciphertext: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 1, 0, 2];
    bytes.extend(vector(group));
    bytes.extend(epoch.to_be_bytes());
    bytes.push(1);
    bytes.extend(vector(&[]));
    bytes.extend(vector(&[7; 28]));
    bytes.extend(vector(ciphertext));
    bytes
}

/// The same bytes with one bit changed, counted from the end.
pub fn flipped(bytes: &[u8], from_end: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let at = bytes.len() - 1 - from_end;
    bytes[at] ^= 1;
    bytes
}
