//! The file itself: what it must survive, and what is not opened.

use std::os::unix::fs::FileExt;

use super::*;
use crate::log::conformance::{self, Backend};

struct File {
    folder: tempfile::TempDir,
    log: Option<Arc<SqliteLog>>,
}

impl File {
    fn path(&self) -> PathBuf {
        self.folder.path().join("delivery.db")
    }
}

#[async_trait]
impl Backend for File {
    fn log(&self) -> Arc<dyn OrderedLog> {
        Arc::clone(self.log.as_ref().unwrap()) as Arc<dyn OrderedLog>
    }

    async fn reopen(&mut self) {
        self.log = None;
        self.log = Some(Arc::new(SqliteLog::open(&self.path()).unwrap()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms() {
    let mut file = File {
        folder: tempfile::tempdir().unwrap(),
        log: None,
    };
    file.reopen().await;
    conformance::all(file).await;
}

#[test]
fn refuses_files_that_it_must_not_touch() {
    let folder = tempfile::tempdir().unwrap();
    let garbage = folder.path().join("garbage.db");
    std::fs::write(&garbage, vec![7; 8192]).unwrap();
    assert!(matches!(
        SqliteLog::open(&garbage),
        Err(OpenError::Damaged { .. })
    ));

    let newer = folder.path().join("newer.db");
    drop(SqliteLog::open(&newer).unwrap());
    Connection::open(&newer)
        .unwrap()
        .pragma_update(None, "user_version", 99)
        .unwrap();
    let error = SqliteLog::open(&newer).err().unwrap();
    assert!(
        matches!(error, OpenError::NewerSchema { found: 99, .. }),
        "{error}"
    );

    let nowhere = folder.path().join("missing/delivery.db");
    assert!(matches!(
        SqliteLog::open(&nowhere),
        Err(OpenError::NotWritable { .. })
    ));
}

#[test]
fn a_damaged_page_is_noticed_when_opening() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("delivery.db");
    drop(SqliteLog::open(&path).unwrap());
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[100..4096].fill(0xAA);
    std::fs::write(&path, bytes).unwrap();
    assert!(matches!(SqliteLog::open(&path), Err(OpenError::Damaged { .. })));
}

#[test]
fn a_file_that_was_closed_in_order_is_not_read_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("delivery.db");
    let log = SqliteLog::open(&path).unwrap();
    let index: i64 = Connection::open(&path)
        .unwrap()
        .query_row(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'commit_reports_by_reporter'",
            [],
            |row| row.get(0),
        )
        .unwrap();
    drop(log);
    // Damage that only reading everything tells of: size and time are as they were.
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    let before = file.metadata().unwrap();
    file.write_all_at(&[0xAA; 4096], (index.cast_unsigned() - 1) * 4096)
        .unwrap();
    file.set_modified(before.modified().unwrap()).unwrap();
    drop(file);
    drop(SqliteLog::open(&path).unwrap());

    // Without the note of its end, as after a crash.
    assert!(ended_cleanly(&path));
    assert!(matches!(SqliteLog::open(&path), Err(OpenError::Damaged { .. })));
}
