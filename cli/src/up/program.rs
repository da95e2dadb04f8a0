//! How a newcomer calls this program: in a shell, from the folder in which it was started.

use std::env::consts::EXE_SUFFIX;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

const NAME: &str = "valise";

/// `valise` where the shell finds this program under that name, else its path. A newcomer starts it with `cargo run` and has not installed it.
pub(super) fn program() -> String {
    let (Ok(running), Ok(folder)) = (std::env::current_exe(), std::env::current_dir()) else {
        return NAME.to_owned();
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    name_of(&running, &folder, &path)
}

fn name_of(running: &Path, folder: &Path, path: &OsStr) -> String {
    // The shell takes the first one, whatever else is called so.
    let found = std::env::split_paths(path)
        .map(|directory| directory.join(format!("{NAME}{EXE_SUFFIX}")))
        .find(|file| is_program(file));
    if found.is_some_and(|found| real(&found) == real(running)) {
        return NAME.to_owned();
    }
    let (real_program, real_folder) = (real(running), real(folder));
    let shown = match real_program.strip_prefix(&real_folder) {
        // Without a slash the shell would look for it in PATH.
        Ok(below) if below.components().count() == 1 => Path::new(".").join(below),
        Ok(below) => below.to_owned(),
        Err(_) => real_program,
    };
    quoted(&shown.display().to_string())
}

fn real(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

#[cfg(unix)]
fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(file).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

#[cfg(not(unix))]
fn is_program(file: &Path) -> bool {
    file.is_file()
}

/// As one word of a POSIX shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@%".contains(c);
    if word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_where_a_shell_needs_it() {
        assert_eq!(quoted("target/release/valise"), "target/release/valise");
        assert_eq!(quoted("/home/ann b/valise"), "'/home/ann b/valise'");
        assert_eq!(quoted("/it's/valise"), r"'/it'\''s/valise'");
    }

    #[cfg(unix)]
    #[test]
    fn a_program_that_is_not_in_the_path_is_called_by_its_own() {
        use std::os::unix::fs::{PermissionsExt, symlink};

        let parent = tempfile::tempdir().unwrap();
        let folder = fs::canonicalize(parent.path()).unwrap();
        let make = |directory: &str, mode| {
            let directory = folder.join(directory);
            fs::create_dir_all(&directory).unwrap();
            let file = directory.join(NAME);
            fs::write(&file, directory.display().to_string()).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            file
        };
        let running = make("target/release", 0o755);
        let release = running.parent().unwrap();
        make("other", 0o755);
        make("text", 0o644);
        fs::create_dir(folder.join("links")).unwrap();
        symlink(&running, folder.join("links/valise")).unwrap();
        let called = |from: &Path, path: &[&str]| {
            let path = std::env::join_paths(path.iter().map(|directory| folder.join(directory))).unwrap();
            name_of(&running, from, &path)
        };

        let below = "target/release/valise";
        assert_eq!(called(&folder, &[]), below);
        assert_eq!(called(&folder, &["text", "missing"]), below, "not a program");
        assert_eq!(
            called(&folder, &["other", "target/release"]),
            below,
            "another one comes first"
        );
        assert_eq!(called(&folder, &["text", "target/release", "other"]), NAME);
        assert_eq!(called(&folder, &["links"]), NAME);
        assert_eq!(called(release, &[]), "./valise");
        let elsewhere = folder.join("other");
        assert_eq!(called(&elsewhere, &[]), running.display().to_string());
    }
}
