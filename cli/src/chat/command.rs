//! What a typed line asks for.

use valise_client_sdk::{Role, UserId};

/// All of them, for people. N is the number of a message, as the screen shows it.
pub(super) const HELP: [&str; 13] = [
    "/reply N TEXT: answers a message",
    "/edit N TEXT: says something else in place of what you said",
    "/delete N: takes back what you said; removes here what was not sent",
    "/react N EMOJI: reacts to a message; without EMOJI, takes your last reaction back",
    "/search WORDS: shows what was said here with all these words; Esc: back",
    "/add USER…: adds users to this group",
    "/remove USER…: removes them",
    "/role USER ROLE: makes a user reader, member, moderator or owner",
    "/rename NAME: gives this group another name",
    "/leave: leaves it",
    "/rejoin: comes back into it, where this device lost its place",
    "/new NAME: makes a group",
    "/quit: ends; // at the beginning of a line says /",
];

/// Most bytes of a reaction: longer ones would be taken for replies.
const MAX_EMOJI: usize = 128;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Command {
    Nothing,
    Say(String),
    /// Answers the message that is meant by `to`.
    Reply {
        to: String,
        text: String,
    },
    Edit {
        of: String,
        text: String,
    },
    Delete {
        of: String,
    },
    /// Without an emoji: takes back the last.
    React {
        to: String,
        emoji: Option<String>,
    },
    Search(String),
    Add(Vec<UserId>),
    Remove(Vec<UserId>),
    Role(UserId, Role),
    Rename(String),
    Leave,
    Rejoin,
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
    let (command, argument) = first_word(rest);
    match command {
        "add" | "remove" | "role" => of_members(command, argument, domain),
        "reply" | "edit" | "delete" | "react" => of_message(command, argument),
        "search" | "rename" | "new" => of_words(command, argument),
        "leave" | "rejoin" | "quit" | "help" if !argument.is_empty() => {
            Command::Wrong(format!("/{command} takes no argument"))
        }
        "leave" => Command::Leave,
        "rejoin" => Command::Rejoin,
        "quit" => Command::Quit,
        "help" => Command::Help,
        _ => Command::Wrong(format!("there is no /{command}: /help lists the commands")),
    }
}

fn of_members(command: &str, argument: &str, domain: &str) -> Command {
    match (command, argument) {
        (_, "") => Command::Wrong(format!("/{command} whom?")),
        ("add", names) => users(names, domain).map_or_else(Command::Wrong, Command::Add),
        ("remove", names) => users(names, domain).map_or_else(Command::Wrong, Command::Remove),
        (_, argument) => {
            let (name, role) = first_word(argument);
            let role = crate::roles::role(role).map_err(|roles| format!("/role {name} what? {roles}"));
            user(name, domain)
                .and_then(|user| Ok(Command::Role(user, role?)))
                .unwrap_or_else(Command::Wrong)
        }
    }
}

fn of_message(command: &str, argument: &str) -> Command {
    let (message, rest) = first_word(argument);
    let (message, text) = (message.to_owned(), rest.to_owned());
    match command {
        _ if message.is_empty() => {
            Command::Wrong(format!("/{command} which message? Its number is after its time"))
        }
        "delete" if rest.is_empty() => Command::Delete { of: message },
        "delete" => Command::Wrong("/delete takes the number of a message, and nothing else".into()),
        "react" if rest.len() > MAX_EMOJI => Command::Wrong("a reaction is an emoji, or a word".into()),
        "react" => Command::React {
            to: message,
            emoji: Some(text).filter(|emoji| !emoji.is_empty()),
        },
        _ if rest.is_empty() => Command::Wrong(format!("/{command} {message} with what?")),
        "edit" => Command::Edit { of: message, text },
        _ => Command::Reply { to: message, text },
    }
}

fn of_words(command: &str, argument: &str) -> Command {
    match (command, argument) {
        ("search", "") => Command::Wrong("/search for what?".into()),
        (_, "") => Command::Wrong(format!("/{command} needs a name")),
        ("search", words) => Command::Search(words.to_owned()),
        ("rename", name) => Command::Rename(name.to_owned()),
        (_, name) => Command::New(name.to_owned()),
    }
}

/// The first word, and what is behind it.
fn first_word(text: &str) -> (&str, &str) {
    let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    (word, rest.trim())
}

fn users(names: &str, domain: &str) -> Result<Vec<UserId>, String> {
    names
        .split([' ', ','])
        .filter(|name| !name.is_empty())
        .map(|name| user(name, domain))
        .collect()
}

fn user(name: &str, domain: &str) -> Result<UserId, String> {
    let full = if name.contains('@') {
        name.to_owned()
    } else {
        format!("{name}@{domain}")
    };
    full.parse()
        .map_err(|_| format!("{name} is not a user: name@domain"))
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
        assert_eq!(told("/rejoin"), Command::Rejoin);
        assert_eq!(told("/new  Lunch at noon "), Command::New("Lunch at noon".into()));
        assert_eq!(told("/rename Tea"), Command::Rename("Tea".into()));
        assert_eq!(told("/search budget 2027"), Command::Search("budget 2027".into()));
        let users: Vec<UserId> = ["bob@a.example", "eve@b.example"]
            .map(|user| user.parse().unwrap())
            .into();
        assert_eq!(told("/add bob, eve@b.example"), Command::Add(users.clone()));
        assert_eq!(
            told("/role bob moderator"),
            Command::Role(users[0].clone(), Role::Moderator)
        );
        assert_eq!(told("/remove bob eve@b.example"), Command::Remove(users));
    }

    #[test]
    fn messages_are_meant_by_the_first_word() {
        let (of, to) = ("#12".to_owned(), "7".to_owned());
        let text = "so  it is".to_owned();
        assert_eq!(
            told("/reply 7  so  it is"),
            Command::Reply {
                to: to.clone(),
                text: text.clone()
            }
        );
        assert_eq!(
            told("/edit #12 so  it is"),
            Command::Edit { of: of.clone(), text }
        );
        assert_eq!(told("/delete #12"), Command::Delete { of });
        let react = |emoji: Option<&str>| Command::React {
            to: to.clone(),
            emoji: emoji.map(str::to_owned),
        };
        assert_eq!(told("/react 7 👍"), react(Some("👍")));
        assert_eq!(told("/react 7"), react(None));
    }

    #[test]
    fn what_cannot_be_done_is_said() {
        let long = format!("/react 7 {}", "👍".repeat(100));
        for line in [
            "/quid",
            "/",
            "/add",
            "/remove ",
            "/new",
            "/rename",
            "/search ",
            "/leave now",
            "/rejoin now",
            "/add b@b@b",
            "/add A!",
            "/role",
            "/role bob",
            "/role bob king",
            "/role A! owner",
            "/reply",
            "/reply 7",
            "/edit 7 ",
            "/delete",
            "/delete 7 8",
            "/react",
            &long,
        ] {
            assert!(matches!(told(line), Command::Wrong(_)), "{line}");
        }
    }

    #[test]
    fn help_lists_what_there_is() {
        let listed: Vec<&str> = HELP
            .iter()
            .filter_map(|line| line.split([' ', ':']).next())
            .collect();
        for command in &listed {
            let known = !matches!(told(command), Command::Wrong(why) if why.starts_with("there is no"));
            assert!(known, "{command}");
        }
        for command in [
            "reply", "edit", "delete", "react", "search", "role", "rename", "rejoin",
        ] {
            assert!(listed.contains(&format!("/{command}").as_str()), "{command}");
        }
    }
}
