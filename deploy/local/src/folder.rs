//! Where servers are: thrown away with the test, or kept for the local stack.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::port::Port;
use crate::record::Record;

/// Where servers keep their data, on which ports they listen, and with that how long they are there.
#[derive(Debug, Clone)]
pub(crate) enum Ground {
    /// In temporary folders, on free ports. Server and folder are gone when the value is dropped.
    Thrown,
    /// In a folder and from a port on. The servers run on when the values are dropped, and are recorded, so that
    /// another process can stop them.
    Kept(Kept),
}

/// See [`Ground::Kept`].
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    pub(crate) data: PathBuf,
    pub(crate) first_port: u16,
    pub(crate) record: Record,
}

impl Ground {
    /// The folder of the server with this name.
    pub(crate) fn folder(&self, name: &str) -> Folder {
        match self {
            Self::Thrown => {
                let folder = tempfile::Builder::new()
                    .prefix(&format!("valise-{name}-"))
                    .tempdir();
                Folder::Thrown(folder.expect("cannot create a temporary folder"))
            }
            Self::Kept(kept) => {
                let path = kept.data.join(name);
                fs::create_dir_all(&path)
                    .unwrap_or_else(|error| panic!("cannot create {}: {error}", path.display()));
                let path = path.canonicalize().expect("it was just created");
                Folder::Kept(path)
            }
        }
    }

    /// A port; where ports are given, the one with this distance from the first.
    pub(crate) fn port(&self, offset: u16) -> Port {
        match self {
            Self::Thrown => Port::free(),
            Self::Kept(kept) => {
                let number = kept.first_port + offset;
                Port::claim(number).unwrap_or_else(|| panic!("port {number} of 127.0.0.1 is in use"))
            }
        }
    }

    /// Whether another port would do.
    pub(crate) fn any_port(&self) -> bool {
        matches!(self, Self::Thrown)
    }

    /// Where running servers are recorded, if they outlive us.
    pub(crate) fn record(&self) -> Option<&Record> {
        match self {
            Self::Thrown => None,
            Self::Kept(kept) => Some(&kept.record),
        }
    }
}

/// A server's folder.
#[derive(Debug)]
pub(crate) enum Folder {
    /// Deleted when it is dropped.
    Thrown(TempDir),
    Kept(PathBuf),
}

impl Folder {
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Thrown(folder) => folder.path(),
            Self::Kept(path) => path,
        }
    }
}
