//! What a typed line asks for.

use valise_client_sdk::UserId;

pub(super) const HELP: &str =
    "/add USER…  /remove USER…  /leave  /new NAME  /quit; // at the beginning says /";

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Command {
    Nothing,
    Say(String),
    Add(Vec<UserId>),
    Remove(Vec<UserId>),
    Leave,
    New(String),
    Help,
    Quit,
    /// Not to be done, and why.
    Wrong(String),
}

/// Users without a domain are of this one.
pub(super) fn read(line: &str, domain: &str) -> Command {
    let line = line.trim();
    let Some(rest) = line.strip_prefix('/') else {
        return match line {
            "" => Command::Nothing,
            text => Command::Say(text.to_owned()),
        };
    };
    if rest.starts_with('/') {
        return Command::Say(rest.to_owned());
    }
    let (command, argument) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let argument = argument.trim();
    match (command, argument) {
        ("add" | "remove", "") => Command::Wrong(format!("/{command} whom?")),
        ("add", names) => users(names, domain).map_or_else(Command::Wrong, Command::Add),
        ("remove", names) => users(names, domain).map_or_else(Command::Wrong, Command::Remove),
        ("new", "") => Command::Wrong("/new needs a name".into()),
        ("new", name) => Command::New(name.to_owned()),
        ("leave", "") => Command::Leave,
        ("quit", "") => Command::Quit,
        ("help", "") => Command::Help,
        ("leave" | "quit" | "help", _) => Command::Wrong(format!("/{command} takes no argument")),
        _ => Command::Wrong(format!("there is no /{command}: {HELP}")),
    }
}

fn users(names: &str, domain: &str) -> Result<Vec<UserId>, String> {
    let user = |name: &str| {
        let full = if name.contains('@') {
            name.to_owned()
        } else {
            format!("{name}@{domain}")
        };
        full.parse()
            .map_err(|_| format!("{name} is not a user: name@domain"))
    };
    names
        .split([' ', ','])
        .filter(|name| !name.is_empty())
        .map(user)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(line: &str) -> Command {
        read(line, "a.example")
    }

    #[test]
    fn lines_are_messages_or_commands() {
        assert_eq!(told(" hello "), Command::Say("hello".into()));
        assert_eq!(told("  "), Command::Nothing);
        assert_eq!(told("//quit"), Command::Say("/quit".into()));
        assert_eq!(told("/quit"), Command::Quit);
        assert_eq!(told("/leave"), Command::Leave);
        assert_eq!(told("/new  Lunch at noon "), Command::New("Lunch at noon".into()));
        let users: Vec<UserId> = ["bob@a.example", "eve@b.example"]
            .map(|user| user.parse().unwrap())
            .into();
        assert_eq!(told("/add bob, eve@b.example"), Command::Add(users.clone()));
        assert_eq!(told("/remove bob eve@b.example"), Command::Remove(users));
    }

    #[test]
    fn what_cannot_be_done_is_said() {
        for line in [
            "/quid",
            "/",
            "/add",
            "/remove ",
            "/new",
            "/leave now",
            "/add b@b@b",
            "/add A!",
        ] {
            assert!(matches!(told(line), Command::Wrong(_)), "{line}");
        }
    }
}
