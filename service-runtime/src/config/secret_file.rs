//! Secrets that stand in files of their own: for a setting `x`, `x_file` names the file with its value.

use std::collections::BTreeMap;
use std::path::PathBuf;

use figment::value::{Dict, Value};

use super::ConfigError;
use super::source::value_of;

/// The files that settings were read from, by the setting's path.
pub(super) type Origins = BTreeMap<Vec<String>, PathBuf>;

/// Puts the value of a secret, which may be in a section (`section.name`), where its file was named. What the environment says,
/// either way, overrides what the configuration file says.
pub(super) fn resolve(
    secret: &str,
    environment: &mut Dict,
    settings: &mut Dict,
    origins: &mut Origins,
) -> Result<(), ConfigError> {
    let path: Vec<String> = secret.split('.').map(str::to_owned).collect();
    let Some((name, sections)) = path.split_last() else {
        return Ok(());
    };
    let named_by = format!("{name}_file");
    let mut overridden = false;
    for (source, origin) in [
        (environment, "environment variables"),
        (settings, "the configuration file"),
    ] {
        let Some(section) = section(source, sections) else {
            continue;
        };
        let named = section.remove(&named_by);
        if overridden {
            continue;
        }
        overridden = section.contains_key(name) || named.is_some();
        let Some(named) = named else { continue };
        let wrong = |problem: &str| ConfigError::Setting {
            problem: format!("{problem}: {secret}_file"),
            origin: origin.to_owned(),
        };
        if section.contains_key(name) {
            return Err(wrong("given twice, as it is and as a file"));
        }
        let file = PathBuf::from(
            named
                .as_str()
                .ok_or_else(|| wrong("expected the path of a file"))?,
        );
        match std::fs::read_to_string(&file) {
            Ok(text) => section.insert(name.clone(), value_of(text.trim())),
            Err(source) => return Err(ConfigError::Unreadable { file, source }),
        };
        origins.insert(path.clone(), file);
    }
    Ok(())
}

/// A section that is there.
fn section<'a>(mut dict: &'a mut Dict, sections: &[String]) -> Option<&'a mut Dict> {
    for name in sections {
        let Some(Value::Dict(_, inner)) = dict.get_mut(name) else {
            return None;
        };
        dict = inner;
    }
    Some(dict)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::path::Path;

    use serde::Deserialize;

    use crate::config::source::load;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Config {
        database: u16,
        #[serde(default)]
        store: Store,
    }

    #[derive(Debug, Default, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Store {
        urls: Vec<String>,
    }

    /// What is loaded with these files in a folder, which the texts call FOLDER.
    fn with(
        files: &[(&str, &str)],
        toml: &str,
        variables: &[(&str, &str)],
    ) -> Result<(u16, Vec<String>), String> {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().display().to_string();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let configuration = folder.path().join("service.toml");
        std::fs::write(&configuration, toml.replace("FOLDER", &place)).unwrap();
        let variables = variables.iter().map(|(name, value)| {
            (
                (*name).to_owned(),
                OsString::from(value.replace("FOLDER", &place)),
            )
        });
        let file: Option<&Path> = Some(&configuration);
        let loaded = load::<Config>(file, "VALISE_TEST", &["database", "store.urls"], variables);
        loaded
            .map(|config| (config.database, config.store.urls))
            .map_err(|error| error.to_string().replace(&place, "FOLDER"))
    }

    #[test]
    fn a_secret_is_what_its_file_says() {
        let toml = "database_file = \"FOLDER/database\"\n[store]\nurls_file = \"FOLDER/urls\"\n";
        let files = [
            ("database", " 17\n"),
            ("urls", "[\"a\", \"b\"]\n"),
            ("other", "18"),
        ];
        let urls = vec!["a".to_owned(), "b".to_owned()];
        assert_eq!(with(&files, toml, &[]), Ok((17, urls.clone())));
        let variables = [
            ("VALISE_TEST_DATABASE_FILE", "FOLDER/other"),
            ("VALISE_TEST_STORE__URLS_FILE", "FOLDER/urls"),
        ];
        assert_eq!(with(&files, "database = 1\n", &variables), Ok((18, urls)));
    }

    #[test]
    fn the_environment_overrides_a_file_that_need_not_be_there() {
        let toml = "database_file = \"FOLDER/none\"\n";
        let direct = [("VALISE_TEST_DATABASE", "19")];
        assert_eq!(with(&[], toml, &direct), Ok((19, Vec::new())));
        let by_file = [("VALISE_TEST_DATABASE_FILE", "FOLDER/database")];
        assert_eq!(with(&[("database", "20")], toml, &by_file), Ok((20, Vec::new())));
    }

    #[test]
    fn what_is_wrong_is_said_without_the_secret() {
        let refused = |text: &str, toml: &str, variables: &[(&str, &str)]| {
            let error = with(&[("secret", text)], toml, variables).unwrap_err();
            assert!(
                !error.contains("hunter2") && error.lines().count() == 1,
                "{error}"
            );
            error
        };
        let toml = "database_file = \"FOLDER/secret\"\n";
        let wrong = refused("hunter2", toml, &[]);
        assert!(
            wrong.starts_with("configuration: found a text, expected ")
                && wrong.ends_with(": database (in FOLDER/secret)"),
            "{wrong}"
        );
        let missing = refused("", "database_file = \"FOLDER/none\"\n", &[]);
        assert!(
            missing.starts_with("configuration: cannot read FOLDER/none: "),
            "{missing}"
        );
        assert_eq!(
            refused("1", &format!("database = 1\n{toml}"), &[]),
            "configuration: given twice, as it is and as a file: database_file (the configuration file)"
        );
        let twice = [
            ("VALISE_TEST_STORE__URLS", "[]"),
            ("VALISE_TEST_STORE__URLS_FILE", "FOLDER/secret"),
        ];
        assert_eq!(
            refused("1", "database = 1\n", &twice),
            "configuration: given twice, as it is and as a file: store.urls_file (environment variables)"
        );
        assert_eq!(
            refused("1", "database_file = 1\n", &[]),
            "configuration: expected the path of a file: database_file (the configuration file)"
        );
    }

    #[test]
    fn other_settings_have_no_files() {
        let toml = "database = 1\n[store]\nother_file = \"FOLDER/secret\"\n";
        assert_eq!(
            with(&[("secret", "x")], toml, &[]).unwrap_err(),
            "configuration: unknown setting: store.other_file (in FOLDER/service.toml)"
        );
    }
}
