//! `valise chat` in a terminal: the real program on a pseudo-terminal, which it must give back as it was.

#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Termios, Winsize, tcgetattr, tcsetwinsize};
use tokio::process::{Child, Command};
use valise_tests::command::{Running, run};
use valise_tests::homes::Homes;
use valise_tests::service::Service;
use valise_tests::wait::{soon, until};

const COLUMNS: usize = 120;
const ROWS: usize = 24;

/// A program on a pseudo-terminal.
struct Terminal {
    child: Child,
    keyboard: File,
    /// Keeps the terminal after the program has ended, to look at it.
    line: OwnedFd,
    written: Arc<Mutex<Vec<u8>>>,
    /// How it was.
    before: Termios,
}

impl Terminal {
    fn run(mut command: Command) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let path = ptsname(&master, Vec::new()).unwrap();
        let line = rustix::fs::open(path, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
        let size = Winsize {
            ws_row: ROWS as u16,
            ws_col: COLUMNS as u16,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&line, size).unwrap();
        let before = tcgetattr(&line).unwrap();
        let end = || Stdio::from(line.try_clone().unwrap());
        let child = command.stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
        // The command holds ends of the line as well.
        drop(command);
        let keyboard = File::from(master);
        let mut output = keyboard.try_clone().unwrap();
        let written = Arc::new(Mutex::new(Vec::new()));
        let to = Arc::clone(&written);
        // Ends with an error when the line is closed.
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                to.lock().extend_from_slice(&bytes[..count]);
            }
        });
        Self {
            child,
            keyboard,
            line,
            written,
            before,
        }
    }

    fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    fn modes(&self) -> Termios {
        tcgetattr(&self.line).unwrap()
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.written.lock()).into_owned()
    }

    /// Waits until the screen shows that; all its rows then.
    async fn shows(&self, what: &str) -> Vec<String> {
        let found = until(what, async || {
            let rows = screen(&self.text());
            rows.iter().any(|row| row.contains(what)).then_some(rows)
        });
        found.await
    }

    /// Waits until the screen shows a message with that text; its number.
    async fn number_of(&self, text: &str) -> String {
        let found = until(text, async || {
            let rows = screen(&self.text());
            let row = rows.iter().find(|row| row.contains(text))?;
            let number = row.split_whitespace().find(|word| word.starts_with('#'));
            number.map(str::to_owned)
        });
        found.await
    }

    /// Waits for its end. The terminal must be as it was before.
    async fn ends(mut self) {
        let code = soon(self.child.wait()).await.unwrap().code();
        assert_eq!(code, Some(0), "{}", self.text());
        let (before, after) = (&self.before, self.modes());
        assert_eq!(after.local_modes, before.local_modes);
        assert_eq!(after.input_modes, before.input_modes);
        assert_eq!(after.output_modes, before.output_modes);
        let given_back = until("the end of the output", async || {
            let text = self.text();
            let (entered, left) = (text.rfind("\x1b[?1049h")?, text.rfind("\x1b[?1049l")?);
            let shown = text.rfind("\x1b[?25h")?;
            (left > entered && shown > entered && text.rfind("\x1b[?2004l")? > entered).then_some(text)
        });
        let text = given_back.await;
        // Nothing is drawn after that, and no panic or complaint was.
        let (_, rest) = text.rsplit_once("\x1b[?1049l").unwrap();
        assert_eq!(rest.replace("\x1b[?25h", ""), "");
    }
}

/// What a terminal shows that was sent this: the sequences that move the cursor, clear, and set colours.
fn screen(text: &str) -> Vec<String> {
    let mut cells = vec![vec![' '; COLUMNS]; ROWS];
    let (mut row, mut column) = (0, 0);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\x1b' {
            if let Some(cell) = cells.get_mut(row).and_then(|cells| cells.get_mut(column)) {
                *cell = c;
            }
            column += 1;
            continue;
        }
        if chars.next() != Some('[') {
            continue;
        }
        let sequence = rest_of_sequence(&mut chars);
        // Cut off where it has not arrived as a whole.
        let Some((arguments, end)) = sequence.split_at_checked(sequence.len().saturating_sub(1)) else {
            continue;
        };
        match end {
            "H" => {
                let (down, right) = arguments.split_once(';').unwrap_or(("1", "1"));
                (row, column) = (
                    down.parse::<usize>().unwrap() - 1,
                    right.parse::<usize>().unwrap() - 1,
                );
            }
            "J" => cells = vec![vec![' '; COLUMNS]; ROWS],
            _ => {}
        }
    }
    cells
        .into_iter()
        .map(|cells| cells.into_iter().collect())
        .collect()
}

/// The rest of a control sequence, up to and with the letter that ends it.
fn rest_of_sequence(chars: &mut impl Iterator<Item = char>) -> String {
    let mut sequence = String::new();
    for c in chars {
        sequence.push(c);
        if c.is_ascii_alphabetic() {
            break;
        }
    }
    sequence
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_talks_on_the_screen_and_gets_the_terminal_back() {
    let service = Service::start().await;
    let homes = Homes::of(&service).await;
    homes.enrol("anna").await;
    homes.enrol("ben").await;
    let lunch = homes.new_group("anna", "Lunch").await;
    homes.add("anna", &lunch, &["ben"]).await;

    let mut ben = Running::start(homes.command("ben", &["chat", "Lunch"]));
    let mut anna = Terminal::run(homes.command("anna", &["chat", "Lunch"]));
    let rows = anna.shows("  live").await;
    assert!(
        rows[0].starts_with(&format!("Valise  {}", homes.user("anna"))),
        "{rows:?}"
    );
    let rows = anna.shows(&format!("{} member", homes.user("ben"))).await;
    assert!(
        rows[1].contains("Lunch (") && rows[1].contains(") active"),
        "{rows:?}"
    );
    assert!(
        !anna
            .modes()
            .local_modes
            .intersects(LocalModes::ICANON | LocalModes::ECHO)
    );

    // What is typed arrives at the other device, and in one's own history.
    anna.press("Bonjour tout le mondf\x7fe\r");
    ben.line_that(|line| line.contains(&homes.user("anna")) && line.ends_with(": Bonjour tout le monde"))
        .await;
    anna.shows(&format!("{}: Bonjour tout le monde", homes.user("anna")))
        .await;
    // What others send does not steer the terminal.
    ben.write("Cou\x1b[2J\x1b]0;t\x07 Anna\n").await;
    let rows = anna.shows("]0;t\u{fffd} Anna").await;
    assert!(rows[0].starts_with("Valise"), "{rows:?}");
    assert!(!anna.text().contains("\x1b]0;"));

    // A mistake is told in the status line; a new group is shown; what is said elsewhere is counted.
    anna.press("/dance\r");
    anna.shows("there is no /dance").await;
    anna.press("/new Tea\r");
    anna.shows("Tea (").await;
    ben.write("tu es où ?\n").await;
    let rows = anna.shows("Lunch                1").await;
    assert!(rows.iter().all(|row| !row.contains("tu es où")), "{rows:?}");

    anna.press("/quit\r");
    anna.ends().await;

    // What was not looked at comes again; what was, does not.
    let listened = run(homes.command("anna", &["listen", "Lunch", "--json", "--count", "1"]))
        .await
        .ok();
    let texts: Vec<serde_json::Value> = listened
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(texts.len(), 1, "{listened}");
    assert_eq!(texts[0]["text"], "tu es où ?");
    ben.write("/quit\n").await;
    assert_eq!(soon(ben.rest()).await.1, Some(0));

    // A signal that ends it gives the terminal back as well.
    let anna = Terminal::run(homes.command("anna", &["chat"]));
    anna.shows("  live").await;
    let process = anna.child.id().unwrap().to_string();
    let kill = std::process::Command::new("kill")
        .args(["-HUP", &process])
        .status();
    assert!(kill.unwrap().success());
    anna.ends().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_said_is_there_at_the_next_start_and_is_changed_where_it_stands() {
    let service = Service::start().await;
    let homes = Homes::of(&service).await;
    homes.enrol("anna").await;
    homes.enrol("ben").await;
    let lunch = homes.new_group("anna", "Lunch").await;
    homes.new_group("anna", "Tea").await;
    homes.add("anna", &lunch, &["ben"]).await;
    run(homes.command("anna", &["send", "Lunch", "On mange ou ?"]))
        .await
        .ok();
    run(homes.command("ben", &["send", "Lunch", "Chez Marcel"]))
        .await
        .ok();

    // What was not looked at is counted, again at each start.
    for _ in 0..2 {
        let mut anna = Terminal::run(homes.command("anna", &["chat", "Tea"]));
        anna.shows("Lunch                1").await;
        anna.press("/quit\r");
        anna.ends().await;
    }

    // Messages are shown as they are now, and named by their numbers.
    let mut anna = Terminal::run(homes.command("anna", &["chat", "Lunch"]));
    let question = anna.number_of(": On mange ou ?").await;
    let answer = anna.number_of(": Chez Marcel").await;
    anna.press(&format!("/edit {question} On mange où ?\r"));
    anna.shows(": On mange où ?  [edited]").await;
    anna.press(&format!("/react {answer} 👍\r"));
    anna.shows(": Chez Marcel  [👍").await;
    anna.press(&format!("/reply {answer} Bien\r"));
    anna.shows(&format!(": (to {answer}) Bien")).await;
    anna.press(&format!("/delete {answer}\r"));
    anna.shows(&format!("{answer} is not yours")).await;
    // The line is still there, to be mended: Ctrl-U.
    anna.press("\x15/search marcel\r");
    anna.shows("1 found in Lunch").await;
    anna.press("\x1b");
    anna.shows(": (to ").await;

    // The group, too.
    anna.press("/rename Dinner\r");
    anna.shows("Dinner (").await;
    anna.press("/role ben moderator\r");
    anna.shows(&format!("{}: moderator now", homes.user("ben"))).await;
    anna.press("/quit\r");
    anna.ends().await;
}
