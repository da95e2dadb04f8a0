//! A copy of Redis's files, put back in their place later.

use std::path::Path;

use tempfile::TempDir;
use valise_local_stack::LocalStack;

/// Of Redis's folder.
const FILES: &str = "appendonlydir";

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

pub(crate) async fn copy_of_redis(stack: &mut LocalStack) -> TempDir {
    let copies = tempfile::tempdir().unwrap();
    let redis = stack.standalone_redis();
    redis.kill().await;
    copy(&redis.folder().join(FILES), copies.path());
    redis.restart().await;
    copies
}

pub(crate) async fn put_back(stack: &mut LocalStack, copies: &TempDir) {
    let redis = stack.standalone_redis();
    redis.kill().await;
    let files = redis.folder().join(FILES);
    std::fs::remove_dir_all(&files).unwrap();
    copy(copies.path(), &files);
    redis.restart().await;
}
