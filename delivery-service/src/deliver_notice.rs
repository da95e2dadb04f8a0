//! Notices of other services for devices' inboxes.

use valise_proto::Refusal;
use valise_proto::delivery::v1::{DeviceNotice, device_notice};

use crate::log::Notice;
use crate::service::Delivery;

const MAX_NOTICES: usize = 1000;
const MAX_KEY: usize = 128;

impl Delivery {
    pub(crate) async fn deliver_notices(&self, notices: &[DeviceNotice]) -> Result<(), Refusal> {
        if notices.len() > MAX_NOTICES {
            return Err(Refusal::too_large("notices", MAX_NOTICES));
        }
        let at = self.clock.unix_millis();
        let notices = notices
            .iter()
            .map(|notice| read(notice, at))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(self.log.notify(notices).await?)
    }
}

fn read(notice: &DeviceNotice, at: u64) -> Result<Notice, Refusal> {
    let device = notice
        .device_id
        .parse()
        .map_err(|_| Refusal::malformed("device_id"))?;
    if !(1..=MAX_KEY).contains(&notice.deduplication_key.len()) {
        return Err(Refusal::malformed("deduplication_key"));
    }
    let Some(device_notice::Notice::LowStock(low)) = &notice.notice else {
        return Err(Refusal::malformed("notice"));
    };
    Ok(Notice {
        device,
        deduplication_key: notice.deduplication_key.clone(),
        cipher_suite: low.cipher_suite,
        one_time: low.one_time,
        at,
    })
}
