//! Whether an SQLite file is as the service left it that used it last.
//!
//! To look for damage is to read the whole file, which takes longer the more there is: a service does so only where there may be some,
//! after an end that was none, or where the file is another one by now. That it was closed in order is said by a note beside it.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// Notes that the file was closed in order: to be called when its last connection is closed. Where that has left something in the
/// write-ahead log, or a note cannot be written, there is none, and the next start looks at everything.
pub fn note_clean_end(database: &Path) {
    if let Some(state) = state(database) {
        // Half a note is none.
        let _ = fs::write(note(database), state);
    }
}

/// Was the file closed in order, and is it the same since then? To be asked before it is opened, once: the note is used up.
pub fn ended_cleanly(database: &Path) -> bool {
    let note = note(database);
    let Ok(noted) = fs::read_to_string(&note) else {
        return false;
    };
    fs::remove_file(&note).is_ok() && state(database).is_some_and(|state| state == noted)
}

fn note(database: &Path) -> PathBuf {
    beside(database, ".closed")
}

fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(database);
    name.push(suffix);
    name.into()
}

/// Its size, and when it was written to last; `None` where it is not all in one file.
fn state(database: &Path) -> Option<String> {
    if fs::metadata(beside(database, "-wal")).is_ok_and(|log| log.len() > 0) {
        return None;
    }
    let file = fs::metadata(database).ok()?;
    let changed = file.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(format!(
        "{} bytes, changed at {}\n",
        file.len(),
        changed.as_nanos()
    ))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_note_counts_once_and_for_the_same_file() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("a.db");
        let write = |text: &str, at| {
            fs::write(&database, text).unwrap();
            let file = fs::File::options().write(true).open(&database).unwrap();
            file.set_modified(UNIX_EPOCH + Duration::from_secs(at)).unwrap();
        };
        note_clean_end(&database);
        assert!(!ended_cleanly(&database), "there is no file");

        write("rows", 1000);
        assert!(!ended_cleanly(&database), "there is no note");
        note_clean_end(&database);
        assert!(ended_cleanly(&database));
        assert!(!ended_cleanly(&database), "it is used up");

        for (text, at) in [("more rows", 1000), ("Rows", 1001)] {
            write("rows", 1000);
            note_clean_end(&database);
            write(text, at);
            assert!(!ended_cleanly(&database), "{text}");
        }

        write("rows", 1000);
        note_clean_end(&database);
        let log = folder.path().join("a.db-wal");
        fs::write(&log, "changes").unwrap();
        assert!(!ended_cleanly(&database));
        note_clean_end(&database);
        fs::write(&log, "").unwrap();
        assert!(!ended_cleanly(&database), "it was not closed by the last one");
    }
}
