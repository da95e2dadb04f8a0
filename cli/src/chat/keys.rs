//! What keys do.

use crossterm::event::{Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::input::Edit;

/// What somebody at the terminal wants.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Action {
    Edit(Edit),
    Enter,
    /// Put away what is shown in place of the history; if nothing is, forget the line and the notice.
    Escape,
    /// So many groups further down the list.
    Switch(isize),
    /// So many rows back.
    Scroll(isize),
    ScrollPages(isize),
    /// Turn to something else than this terminal, and back. Not all terminals say so.
    LookAway,
    LookAgain,
    Quit,
}

pub(super) const HELP: &str = "Tab: next group  PgUp/PgDn: scroll  /help: commands  Ctrl-C: quit";

/// `None` for what means nothing here.
pub(super) fn action(event: Event) -> Option<Action> {
    match event {
        Event::Key(key) if key.kind != KeyEventKind::Release => of_key(key),
        Event::Paste(text) => Some(Action::Edit(Edit::Insert(text))),
        Event::FocusLost => Some(Action::LookAway),
        Event::FocusGained => Some(Action::LookAgain),
        _ => None,
    }
}

fn of_key(key: KeyEvent) -> Option<Action> {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    let alt = key.modifiers.contains(KeyModifiers::ALT);
    let edit = |edit| Some(Action::Edit(edit));
    match key.code {
        KeyCode::Char(c) if control => match c.to_ascii_lowercase() {
            'c' | 'q' => Some(Action::Quit),
            'n' => Some(Action::Switch(1)),
            'p' => Some(Action::Switch(-1)),
            'a' => edit(Edit::Home),
            'e' => edit(Edit::End),
            'b' => edit(Edit::Left),
            'f' => edit(Edit::Right),
            'd' => edit(Edit::Delete),
            'h' => edit(Edit::Backspace),
            'u' => edit(Edit::DeleteToStart),
            'k' => edit(Edit::DeleteToEnd),
            'w' => edit(Edit::DeleteWord),
            _ => None,
        },
        KeyCode::Char(_) if alt => None,
        KeyCode::Char(c) => edit(Edit::Insert(c.to_string())),
        KeyCode::Enter => Some(Action::Enter),
        KeyCode::Esc => Some(Action::Escape),
        KeyCode::Tab => Some(Action::Switch(1)),
        KeyCode::BackTab => Some(Action::Switch(-1)),
        KeyCode::Up if alt || control => Some(Action::Switch(-1)),
        KeyCode::Down if alt || control => Some(Action::Switch(1)),
        KeyCode::Up => Some(Action::Scroll(1)),
        KeyCode::Down => Some(Action::Scroll(-1)),
        KeyCode::PageUp => Some(Action::ScrollPages(1)),
        KeyCode::PageDown => Some(Action::ScrollPages(-1)),
        KeyCode::Left => edit(Edit::Left),
        KeyCode::Right => edit(Edit::Right),
        KeyCode::Home => edit(Edit::Home),
        KeyCode::End => edit(Edit::End),
        KeyCode::Backspace => edit(Edit::Backspace),
        KeyCode::Delete => edit(Edit::Delete),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_type_switch_scroll_and_quit() {
        let press = |code, modifiers| action(Event::Key(KeyEvent::new(code, modifiers)));
        let none = KeyModifiers::NONE;
        assert_eq!(
            press(KeyCode::Char('é'), none),
            Some(Action::Edit(Edit::Insert("é".into())))
        );
        assert_eq!(
            press(KeyCode::Char('c'), KeyModifiers::CONTROL),
            Some(Action::Quit)
        );
        assert_eq!(press(KeyCode::Tab, none), Some(Action::Switch(1)));
        assert_eq!(
            press(KeyCode::BackTab, KeyModifiers::SHIFT),
            Some(Action::Switch(-1))
        );
        assert_eq!(press(KeyCode::PageUp, none), Some(Action::ScrollPages(1)));
        assert_eq!(press(KeyCode::F(9), none), None);
        assert_eq!(action(Event::Resize(80, 24)), None);
        assert_eq!(action(Event::FocusLost), Some(Action::LookAway));
        assert_eq!(action(Event::FocusGained), Some(Action::LookAgain));
        assert_eq!(
            action(Event::Paste("a\nb".into())),
            Some(Action::Edit(Edit::Insert("a\nb".into())))
        );
    }
}
