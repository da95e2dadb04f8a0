//! Looks through files for what must not be in them.

use std::fs;
use std::io;
use std::path::Path;

use super::checks::{Check, Secrets};
use crate::error::CliError;

/// What was looked through.
#[derive(Default, Debug, PartialEq, Eq)]
struct Found {
    files: usize,
    bytes: usize,
    hits: usize,
}

/// All files of the services.
pub(super) fn services(directory: &Path, secrets: &Secrets, when: &str) -> Result<Check, CliError> {
    let found = search(&directory.join("services"), secrets.mark())?;
    Ok(nothing_of(
        "nothing that was said is readable in the services' files",
        &found,
        when,
    ))
}

/// The store files of all devices.
pub(super) fn devices(directory: &Path, secrets: &Secrets) -> Result<Check, CliError> {
    let found = search(&directory.join("devices"), secrets.mark())?;
    Ok(nothing_of(
        "nothing that was said is readable in the devices' store files",
        &found,
        "encrypted",
    ))
}

/// The search would find something if it were there.
pub(super) fn control(directory: &Path) -> Result<Check, CliError> {
    let found = search(&directory.join("services"), "alice@valise.example")?;
    let detail = format!("the services know names: {} places", found.hits);
    Ok(Check::new(
        "the search finds what is there",
        found.hits > 0,
        detail,
    ))
}

fn nothing_of(name: &'static str, found: &Found, how: &str) -> Check {
    let Found { files, bytes, hits } = found;
    let detail = format!("{how}: {files} files, {bytes} bytes, {hits} places");
    Check::new(name, *hits == 0 && *files > 0 && *bytes > 0, detail)
}

fn search(directory: &Path, text: &str) -> Result<Found, CliError> {
    let mut found = Found::default();
    search_into(directory, text.as_bytes(), &mut found)
        .map_err(CliError::io(format!("cannot search {}", directory.display())))?;
    Ok(found)
}

fn search_into(directory: &Path, needle: &[u8], found: &mut Found) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            search_into(&entry.path(), needle, found)?;
            continue;
        }
        let bytes = match fs::read(entry.path()) {
            Ok(bytes) => bytes,
            // A running service may delete its temporary files.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        found.files += 1;
        found.bytes += bytes.len();
        found.hits += count(&bytes, needle);
    }
    Ok(())
}

fn count(bytes: &[u8], needle: &[u8]) -> usize {
    bytes
        .windows(needle.len())
        .filter(|window| *window == needle)
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_found_in_all_files() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("sub")).unwrap();
        fs::write(directory.path().join("a"), b"\x00mark mark").unwrap();
        fs::write(directory.path().join("sub/b"), b"xmarkx").unwrap();
        let found = search(directory.path(), "mark").unwrap();
        assert_eq!(
            found,
            Found {
                files: 2,
                bytes: 16,
                hits: 3
            }
        );
        assert!(!nothing_of("x", &found, "").ok);
        assert!(nothing_of("x", &search(directory.path(), "none").unwrap(), "").ok);
    }

    #[test]
    fn a_search_of_nothing_proves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        assert!(!nothing_of("x", &search(directory.path(), "mark").unwrap(), "").ok);
        assert!(search(&directory.path().join("none"), "mark").is_err());
    }
}
