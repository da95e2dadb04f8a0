//! Which authorities this device trusts, and as whom it knows the delivery service.

use valise_device_certificate::TrustBundle;
use valise_group_rules::{identify_sender, is_same_sender};

use super::Engine;
use crate::Error;
use crate::store::Enrolled;

impl Engine {
    /// The authentication service says which authorities the deployment trusts now (DER, 1 to 16). That is taken as a whole, so that an authority
    /// can come and go; but only if it still trusts this device's own certificate: a service that has lost its authorities, or is another one,
    /// changes nothing.
    pub(crate) fn adopt_trust_bundle(&mut self, certificates: Vec<Vec<u8>>) -> Result<(), Error> {
        if certificates == self.device.bundle.certificates() {
            return Ok(());
        }
        let bundle = TrustBundle::from_der(certificates.iter().cloned())?;
        bundle.verify_as_was(&self.device.chain, self.now())?;
        let enrolled = Enrolled {
            trust_bundle: certificates,
            ..self.enrolled()?
        };
        self.transaction(|engine| engine.db.put_enrolled(&enrolled))?;
        tracing::info!(
            authorities = bundle.certificates().len(),
            "the deployment trusts other authorities than before"
        );
        self.device.bundle = bundle;
        self.end_quarantines()
    }

    /// The delivery service says with which certificate it is in new groups (RFC 9420 §12.1.8.1; TLS-encoded, empty where it says nothing).
    /// A renewed one, for the key that this device knows, is taken. With another key it would be another service, in whose groups the one
    /// that this device knows could not remove anybody: that changes nothing here.
    pub(super) fn adopt_external_sender(&mut self, encoded: &[u8]) -> Result<(), Error> {
        if encoded.is_empty() {
            return Ok(());
        }
        let sender = crate::mls::external_sender(encoded)?;
        if sender == self.device.external_sender {
            return Ok(());
        }
        if !is_same_sender(&sender, &self.device.external_sender) {
            return Err(Error::Rule("external_senders"));
        }
        identify_sender(&sender, &self.device.bundle)?;
        let enrolled = Enrolled {
            external_sender: encoded.to_vec(),
            ..self.enrolled()?
        };
        self.transaction(|engine| engine.db.put_enrolled(&enrolled))?;
        tracing::info!("the delivery service has another certificate than before");
        self.device.external_sender = sender;
        Ok(())
    }
}
