//! What is told once everything answers.

use std::path::Path;

use serde::Serialize;

use crate::stack::LocalStack;

/// For machines, in this form.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// URLs of the replicas of the authentication service.
    authentication: Vec<String>,
    /// Of the key-package directory.
    directory: Vec<String>,
    /// Of the delivery service.
    delivery: Vec<String>,
    /// URLs of the nodes of the Redis Cluster.
    redis: Vec<String>,
    /// URL of the PostgreSQL server.
    postgres: String,
    administrator: String,
    /// `null` once an administrator has enrolled.
    administrator_enrolment_code: Option<String>,
    data: String,
}

impl Report {
    pub(super) fn of(stack: &LocalStack, data: &Path) -> Self {
        let [authentication, directory, delivery] = stack.service_urls();
        Self {
            authentication,
            directory,
            delivery,
            redis: stack.redis().urls(),
            postgres: stack.postgres().url("postgres"),
            administrator: stack.administrator(),
            administrator_enrolment_code: stack.administrator_code().map(str::to_owned),
            data: data.display().to_string(),
        }
    }

    pub(super) fn json(&self) -> String {
        serde_json::to_string(self).expect("it is text and lists of it")
    }

    /// For people: what there is, and what a newcomer does next.
    pub(super) fn story(&self) -> String {
        let Self {
            data, administrator, ..
        } = self;
        let mut text = format!(
            "Valise is up. Its data and logs are in {data}; `valise-local-stack down` stops it.\n\n  \
             authentication service  {}\n  \
             key-package directory   {}\n  \
             delivery service        {}\n  \
             Redis Cluster           {}\n  \
             PostgreSQL              {}\n\n",
            self.authentication.join("  "),
            self.directory.join("  "),
            self.delivery.join("  "),
            self.redis.join("  "),
            self.postgres,
        );
        let domain = administrator.split_once('@').map_or("", |(_, domain)| domain);
        let (first, last) = (self.servers(false), self.servers(true));
        text.push_str(&match &self.administrator_enrolment_code {
            Some(code) => format!(
                "Enrol the first administrator ({administrator}; the code is valid for 24 hours), and with their codes two \
                 people, each at other replicas, who talk:\n\n  \
                 valise --profile ./admin enrol {first} --code {code} --name desk\n  \
                 valise --profile ./admin admin code alice@{domain}\n  \
                 valise --profile ./alice enrol {first} --code <the first code> --name laptop\n  \
                 valise --profile ./admin admin code bob@{domain}\n  \
                 valise --profile ./bob enrol {last} --code <the second code> --name phone\n  \
                 valise --profile ./alice group new \"Budget 2027\"\n  \
                 valise --profile ./alice group add \"Budget 2027\" bob@{domain}\n  \
                 valise --profile ./alice send \"Budget 2027\" \"Bonjour\"\n  \
                 valise --profile ./bob listen --count 1"
            ),
            None => format!(
                "An administrator has enrolled: codes come from `valise admin code USER`, and are used with\n\n  \
                 valise enrol {first} --code <the code>"
            ),
        });
        text
    }

    /// How a device is told where the services are.
    fn servers(&self, last: bool) -> String {
        let one = |urls: &[String]| {
            if last { urls.last() } else { urls.first() }
                .cloned()
                .unwrap_or_default()
        };
        format!(
            "--server {} --directory {} --delivery {}",
            one(&self.authentication),
            one(&self.directory),
            one(&self.delivery)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(code: Option<&str>) -> Report {
        let urls = |first: u16| {
            vec![
                format!("http://127.0.0.1:{first}"),
                format!("http://127.0.0.1:{}", first + 1),
            ]
        };
        Report {
            authentication: urls(7411),
            directory: urls(7421),
            delivery: urls(7431),
            redis: vec!["redis://127.0.0.1:7451".to_owned()],
            postgres: "postgres://valise@127.0.0.1:7450/postgres".to_owned(),
            administrator: "admin@valise.example".to_owned(),
            administrator_enrolment_code: code.map(str::to_owned),
            data: "./valise-local-data".to_owned(),
        }
    }

    #[test]
    fn a_newcomer_is_told_what_to_do() {
        let text = report(Some("AAAA-BBBB")).story();
        let at = "--server http://127.0.0.1:7411 --directory http://127.0.0.1:7421 --delivery http://127.0.0.1:7431";
        assert!(text.contains(&format!("enrol {at} --code AAAA-BBBB")), "{text}");
        assert!(
            text.contains("--delivery http://127.0.0.1:7432"),
            "bob is at other replicas: {text}"
        );
        assert!(!report(None).story().contains("AAAA"));
    }

    #[test]
    fn the_line_for_machines_keeps_its_names() {
        let json: serde_json::Value = serde_json::from_str(&report(Some("AAAA")).json()).unwrap();
        let names: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
        let mut expected = [
            "administrator",
            "administrator_enrolment_code",
            "authentication",
            "data",
            "delivery",
            "directory",
            "postgres",
            "redis",
        ];
        expected.sort_unstable();
        let mut names = names;
        names.sort_unstable();
        assert_eq!(names, expected);
    }
}
