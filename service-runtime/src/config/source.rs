//! Puts file and environment together and says in one line what is wrong.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use figment::error::{Actual, Kind};
use figment::providers::{Format, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};
use serde::de::DeserializeOwned;

use super::ConfigError;
use super::secret_file::{self, Origins};

pub(super) fn load<T: DeserializeOwned>(
    file: Option<&Path>,
    env_prefix: &str,
    secrets: &[&str],
    variables: impl Iterator<Item = (String, OsString)>,
) -> Result<T, ConfigError> {
    let mut settings = file.map(read).transpose()?.unwrap_or_default();
    let environment = Environment::collect(env_prefix, variables)?;
    let mut overriding = environment.settings();
    let mut origins = Origins::new();
    for secret in secrets {
        secret_file::resolve(secret, &mut overriding, &mut settings, &mut origins)?;
    }
    Figment::new()
        .merge(Settings(settings))
        .merge(Settings(overriding))
        .extract_lossy()
        .map_err(|error| describe(&error, file, &environment, &origins))
}

/// The file's settings, read here so that a missing file is an error and a broken one is named.
fn read(file: &Path) -> Result<Dict, ConfigError> {
    let text = std::fs::read_to_string(file).map_err(|source| ConfigError::Unreadable {
        file: file.to_owned(),
        source,
    })?;
    let mut data = Toml::string(&text).data().map_err(|error| {
        // The lines after the first show the file's text, which may hold a secret.
        let text = error.kind.to_string();
        let problem = text.lines().next().unwrap_or_default().to_owned();
        ConfigError::NotToml {
            file: file.to_owned(),
            problem,
        }
    })?;
    Ok(data.remove(&Profile::Default).unwrap_or_default())
}

struct Settings(Dict);

impl Provider for Settings {
    fn metadata(&self) -> Metadata {
        Metadata::named("settings")
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Map::from([(Profile::Default, self.0.clone())]))
    }
}

/// The variables with the prefix.
struct Environment {
    prefix: String,
    /// By the setting's path, the variable's name and value.
    variables: BTreeMap<Vec<String>, (String, String)>,
}

impl Environment {
    fn collect(
        env_prefix: &str,
        variables: impl Iterator<Item = (String, OsString)>,
    ) -> Result<Self, ConfigError> {
        let prefix = format!("{env_prefix}_");
        let mut found = BTreeMap::new();
        for (name, value) in variables {
            let Some(key) = name.strip_prefix(&prefix) else {
                continue;
            };
            let path = key.to_ascii_lowercase().split("__").map(str::to_owned).collect();
            let value = value.into_string().map_err(|_| ConfigError::Setting {
                problem: "the value is not UTF-8".to_owned(),
                origin: format!("environment variable {name}"),
            })?;
            found.insert(path, (name, value));
        }
        Ok(Self {
            prefix,
            variables: found,
        })
    }

    fn variable_of(&self, path: &[String]) -> String {
        format!("{}{}", self.prefix, path.join("__").to_ascii_uppercase())
    }

    fn settings(&self) -> Dict {
        let mut root = Dict::new();
        for (path, (_, text)) in &self.variables {
            insert(&mut root, path, value_of(text));
        }
        root
    }
}

/// What a text that is no TOML means. It stays text, so that a password of digits remains one; numbers are made where one is required.
pub(super) fn value_of(text: &str) -> Value {
    match text.trim_start().chars().next() {
        Some('[' | '{') => text.parse().unwrap_or_else(|_| Value::from(text)),
        _ => Value::from(text),
    }
}

fn insert(dict: &mut Dict, path: &[String], value: Value) {
    let [first, rest @ ..] = path else { return };
    if rest.is_empty() {
        dict.insert(first.clone(), value);
        return;
    }
    let section = dict
        .entry(first.clone())
        .or_insert_with(|| Value::from(Dict::new()));
    if let Value::Dict(_, section) = section {
        insert(section, rest, value);
    } else {
        // The section was given as text as well: the single setting wins, as the more exact one.
        let mut inner = Dict::new();
        insert(&mut inner, rest, value);
        *section = Value::from(inner);
    }
}

fn describe(
    error: &figment::Error,
    file: Option<&Path>,
    environment: &Environment,
    secret_files: &Origins,
) -> ConfigError {
    let mut path = error.path.clone();
    let (what, named) = what(&error.kind);
    if let Some(named) = named
        && path.last() != Some(&named)
    {
        path.push(named);
    }
    let key = path.join(".");
    let problem = if key.is_empty() {
        what
    } else {
        format!("{what}: {key}")
    };
    let ends = || (1..=path.len()).rev();
    let set_by = ends().find_map(|end| environment.variables.get(path.get(..end)?));
    let secret_file = ends().find_map(|end| secret_files.get(path.get(..end)?));
    let origin = match (set_by, secret_file.map(PathBuf::as_path).or(file)) {
        (Some((variable, _)), _) => format!("environment variable {variable}"),
        (None, file) if matches!(error.kind, Kind::MissingField(_)) => {
            let file = file
                .map(|file| format!("in {} or ", file.display()))
                .unwrap_or_default();
            format!(
                "set it {file}as environment variable {}",
                environment.variable_of(&path)
            )
        }
        (None, Some(file)) => format!("in {}", file.display()),
        (None, None) => "not set".to_owned(),
    };
    ConfigError::Setting { problem, origin }
}

/// What is wrong, without the value, and the key that the problem is about if the path does not end in it.
fn what(kind: &Kind) -> (String, Option<String>) {
    match kind {
        Kind::Message(text) => (one_line(text), None),
        Kind::InvalidType(found, expected) | Kind::InvalidValue(found, expected) => (
            format!("found {}, expected {}", type_of(found), one_line(expected)),
            None,
        ),
        Kind::InvalidLength(found, expected) => (
            format!("found {found} items, expected {}", one_line(expected)),
            None,
        ),
        Kind::UnknownVariant(_, expected) => (format!("expected one of {}", expected.join(", ")), None),
        Kind::UnknownField(field, _) => ("unknown setting".to_owned(), Some(field.clone())),
        Kind::MissingField(field) => ("missing setting".to_owned(), Some(field.to_string())),
        Kind::DuplicateField(field) => ("given twice".to_owned(), Some((*field).to_owned())),
        Kind::ISizeOutOfRange(_) | Kind::USizeOutOfRange(_) => {
            ("the number is out of range".to_owned(), None)
        }
        Kind::Unsupported(found) | Kind::UnsupportedKey(found, _) => {
            (format!("{} cannot stand here", type_of(found)), None)
        }
    }
}

fn type_of(found: &Actual) -> &'static str {
    match found {
        Actual::Bool(_) => "a boolean",
        Actual::Unsigned(_) | Actual::Signed(_) => "a whole number",
        Actual::Float(_) => "a number",
        Actual::Char(_) | Actual::Str(_) | Actual::Bytes(_) => "a text",
        Actual::Unit | Actual::Option => "nothing",
        Actual::Seq => "a list",
        Actual::Map => "a table",
        _ => "something else",
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::SocketAddr;
    use std::time::Duration;

    use serde::Deserialize;

    use super::*;
    use crate::config::{LogFormat, LogLevel, ServerConfig, TelemetryConfig};

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Config {
        #[serde(default)]
        server: ServerConfig,
        #[serde(default)]
        telemetry: TelemetryConfig,
        store: Store,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Store {
        password: String,
        #[serde(default)]
        domains: Vec<String>,
    }

    fn with(toml: Option<&str>, variables: &[(&str, &str)]) -> Result<Config, String> {
        let file = toml.map(|toml| {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(toml.as_bytes()).unwrap();
            file
        });
        let variables = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), OsString::from(value)));
        let path = file.as_ref().map(tempfile::NamedTempFile::path);
        let loaded = load(
            path,
            "VALISE_TEST",
            &["store.password", "store.domains"],
            variables,
        )
        .map_err(|error| error.to_string());
        match (loaded, path) {
            (Err(error), Some(path)) => Err(error.replace(&path.display().to_string(), "FILE")),
            (loaded, _) => loaded,
        }
    }

    const STORE: &str = "[store]\npassword = \"p\"\n";

    #[test]
    fn defaults_hold_where_nothing_is_set() {
        let config = with(Some(STORE), &[]).unwrap();
        assert_eq!(config.server.request_deadline, Duration::from_secs(30));
        assert_eq!(config.server.max_streams_per_connection, 256);
        assert_eq!(config.telemetry.log_format, LogFormat::Text);
        assert!(config.server.tls.is_none() && config.telemetry.otlp_endpoint.is_none());
    }

    #[test]
    fn the_environment_overrides_the_file() {
        let toml = "[server]\nlisten = \"127.0.0.1:1\"\nrequest_deadline_seconds = 5\nmax_streams_per_connection = 7\n\
                    [store]\npassword = \"from file\"\ndomains = [\"a.example\"]\n";
        let config = with(
            Some(toml),
            &[
                ("VALISE_TEST_SERVER__LISTEN", "127.0.0.1:2"),
                ("VALISE_TEST_SERVER__REQUEST_DEADLINE_SECONDS", "0.25"),
                ("VALISE_TEST_SERVER__REFLECTION", "false"),
                ("VALISE_TEST_STORE__PASSWORD", "0123"),
                ("VALISE_TEST_STORE__DOMAINS", "[\"b.example\", \"c.example\"]"),
                ("VALISE_TEST_TELEMETRY__LOG_FORMAT", "json"),
                ("VALISE_TEST_TELEMETRY__LOG_LEVEL", "warn"),
                ("VALISE_TESTING_SERVER__LISTEN", "of another program"),
            ],
        )
        .unwrap();
        assert_eq!(config.server.listen, "127.0.0.1:2".parse::<SocketAddr>().unwrap());
        assert_eq!(config.server.request_deadline, Duration::from_millis(250));
        assert_eq!(config.server.max_streams_per_connection, 7);
        assert!(!config.server.reflection);
        assert_eq!(config.store.password, "0123");
        assert_eq!(config.store.domains, ["b.example", "c.example"]);
        assert_eq!(config.telemetry.log_format, LogFormat::Json);
        assert_eq!(config.telemetry.log_level, LogLevel::Warn);
    }

    #[test]
    fn an_unknown_setting_is_named_with_its_source() {
        let toml = format!("[server]\nlissten = \"127.0.0.1:1\"\n{STORE}");
        assert_eq!(
            with(Some(&toml), &[]).unwrap_err(),
            "configuration: unknown setting: server.lissten (in FILE)"
        );
        let error = with(Some(STORE), &[("VALISE_TEST_SERVER__LISSTEN", "127.0.0.1:1")]).unwrap_err();
        assert_eq!(
            error,
            "configuration: unknown setting: server.lissten (environment variable VALISE_TEST_SERVER__LISSTEN)"
        );
        let error = with(Some(&format!("sever = 1\n{STORE}")), &[]).unwrap_err();
        assert_eq!(error, "configuration: unknown setting: sever (in FILE)");
    }

    #[test]
    fn a_missing_setting_says_where_it_could_be_set() {
        assert_eq!(
            with(Some("[store]\n"), &[]).unwrap_err(),
            "configuration: missing setting: store.password (set it in FILE or as environment variable \
             VALISE_TEST_STORE__PASSWORD)"
        );
        assert_eq!(
            with(None, &[]).unwrap_err(),
            "configuration: missing setting: store (set it as environment variable VALISE_TEST_STORE)"
        );
    }

    #[test]
    fn a_wrong_value_is_named_and_not_shown() {
        let error = with(
            Some(STORE),
            &[("VALISE_TEST_SERVER__CONCURRENCY_LIMIT", "hunter2")],
        )
        .unwrap_err();
        assert_eq!(
            error,
            "configuration: found a text, expected a nonzero usize: server.concurrency_limit (environment variable \
             VALISE_TEST_SERVER__CONCURRENCY_LIMIT)"
        );
        let error = with(Some("[store]\npassword = 12345\n"), &[]).unwrap_err();
        assert_eq!(
            error,
            "configuration: found a whole number, expected a string: store.password (in FILE)"
        );
        for (setting, value, problem) in [
            ("SERVER__CONCURRENCY_LIMIT", "0", "expected a nonzero usize"),
            (
                "SERVER__REQUEST_DEADLINE_SECONDS",
                "0",
                "must be more than 0 seconds",
            ),
            (
                "SERVER__GRACEFUL_SHUTDOWN_SECONDS",
                "-1",
                "not a number of seconds",
            ),
            ("TELEMETRY__SAMPLE_RATIO", "1.5", "must be 0 to 1"),
            ("TELEMETRY__LOG_FORMAT", "xml", "expected one of text, json"),
            (
                "TELEMETRY__OTLP_ENDPOINT",
                "http://user:hunter2@collector",
                "must not hold a password",
            ),
            (
                "TELEMETRY__OTLP_ENDPOINT",
                "collector",
                "not an http or https URL",
            ),
        ] {
            let variable = format!("VALISE_TEST_{setting}");
            let error = with(Some(STORE), &[(&variable, value)]).unwrap_err();
            assert!(error.contains(problem) && error.contains(&variable), "{error}");
            assert!(
                !error.contains("hunter2") && error.lines().count() == 1,
                "{error}"
            );
        }
    }

    #[test]
    fn a_file_that_cannot_be_used_is_named() {
        let error = with(Some("[store]\npassword = \"hunter2\nx = 1\n"), &[]).unwrap_err();
        assert!(
            error.starts_with("configuration: FILE is not valid TOML: "),
            "{error}"
        );
        assert!(error.contains("line 2") && !error.contains("hunter2"), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
        let missing: Result<Config, _> = load(Some(Path::new("/nowhere.toml")), "X", &[], std::iter::empty());
        let error = missing.unwrap_err().to_string();
        assert!(
            error.starts_with("configuration: cannot read /nowhere.toml: "),
            "{error}"
        );
    }
}
