//! What the delivery service has stored of the conversation.

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;
use valise_client_sdk::Position;
use valise_delivery_service::log::sqlite::SqliteLog;
use valise_delivery_service::log::{Entry, EntryKind, OrderedLog};

use super::checks::Check;
use super::people::Heard;
use super::report::Report;
use crate::error::CliError;

const ENTRIES_AT_ONCE: usize = 1000;
const BYTES_AT_ONCE: usize = 64 * 1024 * 1024;
/// Bytes of a message that are shown: its header (group, epoch) is in clear, for the service, and then nothing is.
const EXCERPT: usize = 80;

/// The group's log, as the service has it.
#[derive(Default, Serialize)]
pub(super) struct Stored {
    entries: u64,
    application_messages: u64,
    commits: u64,
    proposals: u64,
    bytes: usize,
    #[serde(skip)]
    gapless: bool,
    /// Of the first message.
    ciphertext_bytes: usize,
    ciphertext_excerpt: String,
}

impl Stored {
    /// Reads the log of the stopped service.
    pub(super) async fn read(file: &Path, report: &Report) -> Result<Self, CliError> {
        let file = file.to_owned();
        let opened = tokio::task::spawn_blocking(move || SqliteLog::open(&file)).await;
        let failed =
            |error: &dyn std::fmt::Display| CliError::failed(format!("the log cannot be read: {error}"));
        let log = opened
            .map_err(|error| failed(&error))?
            .map_err(|error| failed(&error))?;
        let mut stored = Self {
            gapless: true,
            ..Self::default()
        };
        let mut after = Position::NONE;
        loop {
            let read = log
                .read(report.group_id, after, ENTRIES_AT_ONCE, BYTES_AT_ONCE)
                .await;
            let entries: Vec<Arc<Entry>> = read.map_err(|error| failed(&error))?;
            let Some(last) = entries.last() else {
                return Ok(stored);
            };
            after = last.position;
            for entry in entries {
                stored.add(&entry, &report.sample);
            }
        }
    }

    fn add(&mut self, entry: &Entry, sample: &Heard) {
        self.entries += 1;
        self.gapless &= entry.position.0 == self.entries;
        self.bytes += entry.bytes.len();
        *match entry.kind {
            EntryKind::Commit => &mut self.commits,
            EntryKind::Proposal => &mut self.proposals,
            EntryKind::Application => &mut self.application_messages,
        } += 1;
        if entry.position == sample.position {
            self.ciphertext_bytes = entry.bytes.len();
            self.ciphertext_excerpt = hex::encode(&entry.bytes[..entry.bytes.len().min(EXCERPT)]);
        }
    }

    /// Every message is there once, and the positions are 1, 2, 3…
    pub(super) fn check(&self, report: &Report) -> Check {
        // Besides those, the library's own, which tell new members the group's name.
        let enough = self.application_messages >= report.messages as u64;
        Check::new(
            "the service stores each message once, in a log without gaps",
            self.gapless && enough && self.ciphertext_bytes > 0,
            format!("{} entries for {} devices", self.entries, report.devices.len()),
        )
    }

    pub(super) fn lines(&self, sample: &Heard) -> String {
        let Self {
            entries,
            application_messages,
            commits,
            proposals,
            bytes,
            ..
        } = self;
        let dots = if self.ciphertext_bytes > EXCERPT {
            "…"
        } else {
            ""
        };
        format!(
            "  {entries} entries, {bytes} bytes: {application_messages} messages, {commits} commits, {proposals} proposals\n  \
             position {}, for people: {:?}\n  position {}, for the service: {} bytes {}{dots}",
            sample.position, sample.text, sample.position, self.ciphertext_bytes, self.ciphertext_excerpt
        )
    }
}
