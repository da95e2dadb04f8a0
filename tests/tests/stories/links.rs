//! What the documents of the repository link to is there.

#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

use std::fs;
use std::path::{Path, PathBuf};

/// What is built or installed, and not the repository's own.
const OTHERS: [&str; 3] = ["target", "node_modules", "venv"];

/// All Markdown files below a folder.
fn documents(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if entry.file_type().unwrap().is_dir() {
            if !name.starts_with('.') && !OTHERS.contains(&&*name) {
                documents(&entry.path(), found);
            }
        } else if Path::new(&name)
            .extension()
            .is_some_and(|extension| extension == "md")
        {
            found.push(entry.path());
        }
    }
}

/// The relative links of a text, outside of code, without their fragments.
fn links(text: &str) -> Vec<&str> {
    let prose = text.split("```").step_by(2);
    let targets = prose.flat_map(|prose| {
        prose
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
    });
    targets
        .filter(|target| !target.contains(':'))
        .filter_map(|target| target.split('#').next())
        .filter(|path| !path.is_empty())
        .collect()
}

#[test]
fn they_lead_somewhere() {
    let mut found = Vec::new();
    documents(
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap(),
        &mut found,
    );
    let mut count = 0;
    let mut broken = Vec::new();
    for document in &found {
        let text = fs::read_to_string(document).unwrap();
        for link in links(&text) {
            count += 1;
            if !document.parent().unwrap().join(link).exists() {
                broken.push(format!("{}: {link}", document.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
    assert!(
        found.len() > 10 && count > 100,
        "{count} links in {} documents",
        found.len()
    );
}
