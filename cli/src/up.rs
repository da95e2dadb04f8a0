//! `valise up`: all three services in one process, on one port, with embedded stores.

mod data;
mod embedded;
mod program;
mod services;

use serde::Serialize;
use valise_service_runtime::termination;

use crate::args::UpArgs;
use crate::error::CliError;
use crate::out::Out;

pub use data::DataError;
pub use embedded::{Embedded, Options, UpError};

/// What is told once the services answer.
#[derive(Serialize)]
struct Report<'a> {
    address: String,
    /// `null` once an administrator has enrolled.
    administrator: Option<&'a str>,
    administrator_enrolment_code: Option<&'a str>,
    user: &'a str,
    /// `null` where the user is suspended.
    user_enrolment_code: Option<&'a str>,
    data: String,
}

/// Runs the services until the process is asked to end.
pub(crate) async fn run(arguments: UpArgs) -> Result<(), CliError> {
    // First of all, so that a signal during the start is a clean end too.
    let termination = termination().map_err(CliError::io("cannot wait for signals"))?;
    let json = arguments.json;
    let options = arguments.into_options()?;
    let administrator = options.administrator.to_string();
    let user = options.user.to_string();
    let data = options.data.display().to_string();
    let mut embedded = Embedded::start(options).await?;
    let url = embedded.url();
    let report = Report {
        administrator: embedded
            .administrator_enrolment_code()
            .is_some()
            .then_some(administrator.as_str()),
        administrator_enrolment_code: embedded.administrator_enrolment_code(),
        user: &user,
        user_enrolment_code: embedded.user_enrolment_code(),
        address: url,
        data,
    };
    let told = if json {
        Out::stdout().json(&report)
    } else {
        Out::stdout().text(&story(&report, &program::program()))
    };
    if let Err(error) = told {
        embedded.stop().await;
        return Err(error);
    }
    let ended = tokio::select! {
        () = termination.cancelled() => Ok(()),
        why = embedded.ended() => Err(CliError::Up(why)),
    };
    embedded.stop().await;
    ended
}

/// What a newcomer does next: each line can be pasted as it is. `valise` is how this program is called.
fn story(report: &Report<'_>, valise: &str) -> String {
    use std::fmt::Write;

    let Report {
        address, user, data, ..
    } = report;
    let mut text = format!("Valise is up at {address}. Its data is in {data}. Ctrl-C ends it.\n");
    // Writing to a string cannot fail.
    if let Some(code) = report.user_enrolment_code {
        let _ = write!(
            text,
            "\nIn another terminal, in this folder, enrol a device of {user} and talk:\n\n  \
             {valise} enrol --server {address} --code {code} --name laptop\n  \
             {valise} group new \"Budget 2027\"\n  \
             {valise} send \"Budget 2027\" \"Bonjour\"\n  \
             {valise} listen --count 1\n"
        );
    }
    match (report.administrator, report.administrator_enrolment_code) {
        (Some(administrator), Some(code)) => {
            let domain = administrator.split_once('@').map_or("", |(_, domain)| domain);
            let _ = write!(
                text,
                "\nTo invite others, enrol the first administrator ({administrator}; the code is valid for 24 hours), enrol somebody \
                 with a code from there, and add them to a group:\n\n  \
                 {valise} --profile ./admin enrol --server {address} --code {code} --name desk\n  \
                 {valise} --profile ./bob enrol --server {address} --code \"$({valise} --profile ./admin admin code bob@{domain})\" --name phone\n  \
                 {valise} group add \"Budget 2027\" bob@{domain}\n  \
                 {valise} --profile ./bob chat \"Budget 2027\"\n"
            );
        }
        _ => {
            let _ = writeln!(
                text,
                "\nAn administrator has enrolled: further codes come from `{valise} admin code USER`."
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report<'a>() -> Report<'a> {
        Report {
            address: "http://127.0.0.1:7400".into(),
            administrator: Some("admin@valise.example"),
            administrator_enrolment_code: Some("AAAA-BBBB"),
            user: "alice@valise.example",
            user_enrolment_code: Some("CCCC-DDDD"),
            data: "./valise-data".into(),
        }
    }

    #[test]
    fn a_newcomer_is_told_what_to_do() {
        let text = story(&report(), "target/release/valise");
        assert!(text.contains("\n  target/release/valise group new"));
        assert!(text.contains("release/valise enrol --server http://127.0.0.1:7400 --code CCCC-DDDD"));
        assert!(text.contains("enrol --server http://127.0.0.1:7400 --code AAAA-BBBB"));
        assert!(text.contains("admin code bob@valise.example"));
    }

    #[test]
    fn a_code_that_is_not_there_is_not_shown() {
        let report = Report {
            administrator: None,
            administrator_enrolment_code: None,
            user_enrolment_code: None,
            ..report()
        };
        let text = story(&report, "valise");
        assert!(!text.contains("--code"), "{text}");
    }

    #[test]
    fn the_line_for_machines_keeps_its_names() {
        let json = serde_json::to_value(report()).unwrap();
        for name in [
            "address",
            "administrator_enrolment_code",
            "user",
            "user_enrolment_code",
        ] {
            assert!(json[name].is_string(), "{name}");
        }
    }
}
