//! Which authorities this device trusts.

use valise_device_certificate::TrustBundle;

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
}
