//! Access tokens: who is calling, shown by a short-lived signed text that every service verifies by itself.
//!
//! - A device or service makes an [`assertion()`] with its own key and exchanges it at the authentication service.
//! - The authentication service signs tokens with a [`Signer`].
//! - Every service verifies them with a [`Verifier`], by means of [`TokenLayer`] in front of its RPCs, which finds the
//!   [`Caller`] in the request's extensions ([`Caller::of`]).
//! - A [`Verifier`] also knows who is revoked or suspended. It is fed by a [`VerifierFeed`]: in a service's own process
//!   that is [`feed`], which follows the authentication service over the network.
//! - [`ServiceTokens`] are what a service calls other services with.
//!
//! No token text is ever written to a log or to a `Debug` output.

mod assertion;
mod caller;
mod claims;
pub mod feed;
mod layer;
mod revocations;
mod service_tokens;
mod signer;
mod verifier;

pub use assertion::{Assertion, VerifiedAssertion, assertion};
pub use caller::Caller;
pub use claims::{
    ASSERTION_AUDIENCE, AUDIENCE, MAX_ASSERTION_LIFETIME, MAX_CLOCK_SKEW, MAX_TOKEN_BYTES, VerifiedToken,
};
pub use feed::Feed;
pub use layer::{TokenLayer, TokenService};
pub use revocations::{FeedError, MAX_SILENCE, Revocation, RevocationSubject};
pub use service_tokens::ServiceTokens;
pub use signer::{Signer, SignerError};
pub use verifier::{Verifier, VerifierFeed};
