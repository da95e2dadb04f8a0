//! The groups that the service knows this device's user in.

use bytes::Bytes;
use valise_proto::delivery::v1::{GroupSummary, ListGroupsRequest};

use super::Session;
use crate::Error;

const PAGE: u32 = 1000;

impl Session {
    /// All groups of this user's devices, by id.
    pub(super) async fn listed(&self) -> Result<Vec<GroupSummary>, Error> {
        let mut listed = Vec::new();
        loop {
            let request = ListGroupsRequest {
                page_size: PAGE,
                after_group_id: last(&listed),
            };
            let page = self.transport.list_groups(request).await?.groups;
            if page.is_empty() {
                return Ok(listed);
            }
            take(&mut listed, page)?;
        }
    }
}

fn last(listed: &[GroupSummary]) -> Bytes {
    listed
        .last()
        .map(|group| group.group_id.clone())
        .unwrap_or_default()
}

/// Adds a page to those before it. A service that repeats itself would be asked for ever.
fn take(listed: &mut Vec<GroupSummary>, page: Vec<GroupSummary>) -> Result<(), Error> {
    for group in page {
        if group.group_id <= last(listed) {
            tracing::error!("the service lists groups out of order");
            return Err(Error::Unreachable);
        }
        listed.push(group);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(ids: &[&'static [u8]]) -> Vec<GroupSummary> {
        let group = |id: &&'static [u8]| GroupSummary {
            group_id: Bytes::from_static(id),
            ..GroupSummary::default()
        };
        ids.iter().map(group).collect()
    }

    #[test]
    fn a_service_that_repeats_itself_is_not_asked_for_ever() {
        let mut listed = Vec::new();
        take(&mut listed, page(&[b"a", b"b"])).unwrap();
        assert_eq!(last(&listed), "b");
        take(&mut listed, page(&[b"c"])).unwrap();
        assert_eq!(listed, page(&[b"a", b"b", b"c"]));
        for again in [page(&[b"c"]), page(&[b"a"]), page(&[b""]), page(&[b"d", b"d"])] {
            assert!(matches!(
                take(&mut listed.clone(), again),
                Err(Error::Unreachable)
            ));
        }
    }
}
