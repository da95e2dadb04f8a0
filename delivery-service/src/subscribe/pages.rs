//! Pages of the log that several streams read together: after a replica has died, many devices come back at once, and those of one
//! group miss the same entries.
//!
//! A page is read anew after any news of its group ([`FanOut::news_of`](super::fan_out::FanOut::news_of)): a stream that was told to
//! read does not get what was read before that.

use std::sync::Arc;
use std::time::Duration;

use moka::future::Cache;
use valise_proto::{GroupId, Position};

use crate::log::{Entry, StoreError};

/// Bytes of all pages that are kept.
const BYTES: u64 = 64 * 1024 * 1024;
/// For so long: devices that lost the same replica come within seconds.
const KEPT: Duration = Duration::from_secs(5);

/// What is read. Streams that ask for the same share it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Page {
    pub(crate) group: GroupId,
    /// Entries after this one (exclusive).
    pub(crate) after: Position,
    /// So many at most.
    pub(crate) max_entries: usize,
    /// See [`OrderedLog::read`](crate::log::OrderedLog::read).
    pub(crate) max_bytes: usize,
    /// What was heard of the group when it was asked for.
    pub(crate) news: u64,
}

/// The pages that were read last.
pub(crate) struct Pages {
    cache: Cache<Page, Arc<[Arc<Entry>]>>,
}

impl Default for Pages {
    fn default() -> Self {
        let weigh = |_: &Page, entries: &Arc<[Arc<Entry>]>| {
            // An entry takes about 200 bytes besides its own.
            let bytes: usize = entries.iter().map(|entry| entry.bytes.len() + 200).sum();
            u32::try_from(bytes + 200).unwrap_or(u32::MAX)
        };
        Self {
            cache: Cache::builder()
                .max_capacity(BYTES)
                .weigher(weigh)
                .time_to_live(KEPT)
                .build(),
        }
    }
}

impl Pages {
    /// That page: `read` is awaited where nobody has read it, or is reading it.
    pub(crate) async fn get(
        &self,
        page: Page,
        read: impl Future<Output = Result<Vec<Arc<Entry>>, StoreError>>,
    ) -> Result<Arc<[Arc<Entry>]>, StoreError> {
        let read = async { Ok::<Arc<[Arc<Entry>]>, StoreError>(Arc::from(read.await?)) };
        self.cache
            .try_get_with(page, read)
            .await
            .map_err(|error| StoreError(error.0.clone()))
    }
}

#[cfg(test)]
impl Pages {
    /// How many are kept.
    pub(crate) async fn count(&self) -> u64 {
        self.cache.run_pending_tasks().await;
        self.cache.entry_count()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use bytes::Bytes;
    use futures::future::join_all;
    use valise_proto::{EntryId, Epoch};

    use super::*;
    use crate::log::EntryKind;

    const PAGE: Page = Page {
        group: GroupId::from_bytes([7; 16]),
        after: Position(4),
        max_entries: 9,
        max_bytes: 900,
        news: 1,
    };

    fn entries() -> Vec<Arc<Entry>> {
        vec![Arc::new(Entry {
            group: PAGE.group,
            position: Position(5),
            kind: EntryKind::Application,
            epoch: Epoch(0),
            accepted_at: 0,
            id: EntryId::from_bytes([1; 8]),
            sender: None,
            bytes: Bytes::from_static(b"five"),
        })]
    }

    #[tokio::test]
    async fn those_who_ask_for_the_same_share_one_read_until_there_is_news() {
        let (pages, reads) = (Pages::default(), AtomicUsize::new(0));
        let ask = |page| {
            pages.get(page, async {
                reads.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
                Ok(entries())
            })
        };
        for got in join_all((0..50).map(|_| ask(PAGE))).await {
            assert_eq!(got.unwrap()[..], entries());
        }
        ask(PAGE).await.unwrap();
        assert_eq!(reads.load(Ordering::Relaxed), 1);
        ask(Page { news: 2, ..PAGE }).await.unwrap();
        assert_eq!(reads.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn a_read_that_failed_is_tried_again() {
        let pages = Pages::default();
        let failed = pages
            .get(PAGE, async { Err(StoreError("away".to_owned())) })
            .await;
        assert_eq!(failed.unwrap_err().0, "away");
        let got = pages.get(PAGE, async { Ok(entries()) }).await.unwrap();
        assert_eq!(got[..], entries());
    }
}
