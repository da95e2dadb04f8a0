//! The model, drawn. Everything that other people wrote is clean by now; this measures and places it.
//!
//! ```text
//! Valise  alice@a.example  live
//! groups      | history of the group that is shown, | members, with roles
//!             | or what was found, or the commands   |
//! what went wrong, or how far something has come
//! > what is being typed
//! keys
//! ```

#[cfg(test)]
mod tests;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Paragraph};
use valise_client_sdk::{Connection, GroupStatus};

use super::history::{History, Tone};
use super::keys;
use super::model::{Model, OpenGroup, connection_in_words};
use super::text::{cut, width};

/// Narrower terminals show no members, then no groups.
const WIDTH_WITH_MEMBERS: u16 = 80;
const WIDTH_WITH_GROUPS: u16 = 40;
const GROUPS_WIDTH: u16 = 22;
const MEMBERS_WIDTH: u16 = 28;
const PROMPT: &str = "> ";

/// Draws everything. Returns where the lines of the history are.
pub(super) fn draw(model: &Model, frame: &mut Frame<'_>) -> Rect {
    let [top, middle, status, input, help] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Min(3),
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let shown = |shown: bool, width| Constraint::Length(if shown { width } else { 0 });
    let [groups, history, members] = Layout::horizontal([
        shown(middle.width >= WIDTH_WITH_GROUPS, GROUPS_WIDTH),
        Constraint::Min(1),
        shown(middle.width >= WIDTH_WITH_MEMBERS, MEMBERS_WIDTH),
    ])
    .areas(middle);
    draw_top(model, frame, top);
    draw_groups(model, frame, groups);
    let pane = draw_history(model, frame, history);
    draw_members(model, frame, members);
    draw_status(model, frame, status);
    draw_input(model, frame, input);
    put(frame, help, dim(), keys::HELP);
    pane
}

fn dim() -> Style {
    Style::new().add_modifier(Modifier::DIM)
}

fn bold() -> Style {
    Style::new().add_modifier(Modifier::BOLD)
}

fn error() -> Style {
    bold().fg(Color::Red)
}

/// One row of text, cut where it does not fit.
fn put(frame: &mut Frame<'_>, area: Rect, style: Style, text: &str) {
    frame.render_widget(Line::styled(cut(text, area.width.into()), style), area);
}

fn draw_top(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let connection = connection_in_words(&model.connection);
    let style = match model.connection {
        Connection::Live => Style::new().fg(Color::Green),
        Connection::CatchingUp => Style::new().fg(Color::Yellow),
        Connection::Offline { .. } => error(),
    };
    let name = format!("Valise  {}  ", model.user);
    let left = usize::from(area.width).saturating_sub(width(&name));
    // How it stands is worth more than who one is.
    let line = if left >= width(&connection) {
        Line::from(vec![Span::styled(name, bold()), Span::styled(connection, style)])
    } else {
        Line::styled(cut(&connection, area.width.into()), style)
    };
    frame.render_widget(line, area);
}

/// A box with a title; what is inside of it.
fn boxed(frame: &mut Frame<'_>, area: Rect, borders: Borders, title: &str) -> Rect {
    let block = Block::new()
        .borders(borders)
        .border_style(dim())
        .title(Span::styled(
            cut(title, usize::from(area.width).saturating_sub(2)),
            bold(),
        ));
    let inner = block.inner(area);
    frame.render_widget(block, area);
    inner
}

fn draw_groups(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    if area.width == 0 {
        return;
    }
    let inner = boxed(frame, area, Borders::TOP, "Groups");
    let selected = model.selected().map_or(0, |(index, _)| index);
    let rows = usize::from(inner.height).max(1);
    // The one that is shown is always in the list's window.
    let first = (selected + 1).saturating_sub(rows);
    let lines = model.groups().iter().enumerate().skip(first).take(rows);
    let lines: Vec<Line<'_>> = lines
        .map(|(index, group)| group_line(group, index == selected, inner.width.into()))
        .collect();
    frame.render_widget(Paragraph::new(lines), inner);
}

fn group_line(group: &OpenGroup, selected: bool, columns: usize) -> Line<'static> {
    let count = match group.unread {
        0 => String::new(),
        1..=999 => format!(" {}", group.unread),
        _ => " 999+".to_owned(),
    };
    let mark = if has_trouble(group) { "! " } else { "" };
    let title = cut(
        &format!("{mark}{}", group.title()),
        columns.saturating_sub(width(&count)),
    );
    let gap = columns.saturating_sub(width(&title) + width(&count));
    let style = match (selected, group.status) {
        (true, _) => bold().add_modifier(Modifier::REVERSED),
        (false, _) if has_trouble(group) => error(),
        (false, Some(GroupStatus::Removed | GroupStatus::Reset)) => dim(),
        (false, _) if group.unread > 0 => bold(),
        (false, _) => Style::new(),
    };
    Line::styled(format!("{title}{}{count}", " ".repeat(gap)), style)
}

/// The user should look at it.
fn has_trouble(group: &OpenGroup) -> bool {
    let usual = matches!(
        group.status,
        None | Some(
            GroupStatus::Creating
                | GroupStatus::Active
                | GroupStatus::Leaving
                | GroupStatus::Removed
                | GroupStatus::Reset
        )
    );
    group.forked || !usual
}

fn draw_history(model: &Model, frame: &mut Frame<'_>, area: Rect) -> Rect {
    let borders = Borders::TOP | Borders::LEFT;
    if let Some(aside) = model.aside() {
        let title = format!("{}{}", aside.title, more_below(&aside.history));
        let inner = boxed(frame, area, borders, &title);
        draw_lines(&aside.history, std::iter::empty(), frame, inner);
        return inner;
    }
    let Some((_, group)) = model.selected() else {
        let inner = boxed(frame, area, borders, "");
        put(frame, inner, dim(), "no group yet: /new NAME makes one");
        return inner;
    };
    let inner = boxed(frame, area, borders, &history_title(group, area.width.into()));
    let shown = draw_lines(&group.history, model.pending(group.id), frame, inner);
    if group.history.is_empty() && shown == 0 {
        put(frame, inner, dim(), "nothing is remembered here");
    }
    inner
}

/// The newest at the bottom. Returns how many rows there are.
fn draw_lines<'a>(
    history: &'a History,
    more: impl DoubleEndedIterator<Item = (Tone, &'a str)>,
    frame: &mut Frame<'_>,
    area: Rect,
) -> usize {
    let (columns, height) = (usize::from(area.width), usize::from(area.height));
    let rows = history.rows(columns, height, more);
    let shown = rows.len();
    let lines: Vec<Line<'_>> = std::iter::repeat_n(Line::default(), height.saturating_sub(shown))
        .chain(
            rows.into_iter()
                .map(|(tone, row)| Line::styled(row, tone_style(tone))),
        )
        .collect();
    frame.render_widget(Paragraph::new(lines), area);
    shown
}

fn more_below(history: &History) -> String {
    match history.rows_below() {
        0 => String::new(),
        below => format!(", {below} more below"),
    }
}

/// The name gives way to how the group stands.
fn history_title(group: &OpenGroup, columns: usize) -> String {
    let status = group.status.map_or_else(|| "…".to_owned(), status_in_words);
    let below = more_below(&group.history);
    let forked = if group.forked {
        ", members saw different histories"
    } else {
        ""
    };
    let rest = format!(
        " ({}) {status}, epoch {}{forked}{below}",
        group.short_id(),
        group.epoch
    );
    let name = cut(&group.title(), columns.saturating_sub(width(&rest) + 2).max(4));
    format!("{name}{rest}")
}

fn status_in_words(status: GroupStatus) -> String {
    match status {
        GroupStatus::HeldByBadCommit => "held: a commit cannot be processed".into(),
        GroupStatus::Quarantined => "quarantined: nothing is sent but removals".into(),
        GroupStatus::LogRegressed => "stopped: the log went back in time".into(),
        GroupStatus::Lost => "lost: this device has to be added again".into(),
        GroupStatus::Reset => "ended by an administrator".into(),
        other => other.to_string(),
    }
}

fn tone_style(tone: Tone) -> Style {
    match tone {
        Tone::Own => Style::new().fg(Color::Cyan),
        Tone::Others => Style::new(),
        Tone::Notice => dim(),
        Tone::Alarm => error(),
        Tone::Pending => dim().add_modifier(Modifier::ITALIC),
    }
}

fn draw_members(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let Some((_, group)) = model.selected().filter(|_| area.width > 0) else {
        return;
    };
    let title = format!("Members: {}", group.people.len());
    let inner = boxed(frame, area, Borders::TOP | Borders::LEFT, &title);
    let (columns, rows) = (usize::from(inner.width), usize::from(inner.height));
    let fits = group.people.len() <= rows;
    let shown = if fits { rows } else { rows.saturating_sub(1) };
    let mut lines: Vec<Line<'_>> = Vec::with_capacity(rows);
    for person in group.people.iter().take(shown) {
        let devices = match person.devices {
            1 => String::new(),
            devices => format!(" ×{devices}"),
        };
        let rest = format!("{devices} {}", person.role);
        let user = cut(&person.user, columns.saturating_sub(width(&rest)));
        lines.push(Line::from(vec![Span::raw(user), Span::styled(rest, dim())]));
    }
    if !fits {
        let more = format!("and {} more", group.people.len().saturating_sub(shown));
        lines.push(Line::styled(more, dim()));
    }
    frame.render_widget(Paragraph::new(lines), inner);
}

fn draw_status(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let progress = model.progress();
    let notice = model.notice();
    let style = match notice {
        Some(notice) if notice.is_error => error(),
        _ => Style::new(),
    };
    let parts = [progress.as_deref(), notice.map(|notice| notice.text.as_str())];
    let parts: Vec<&str> = parts.into_iter().flatten().collect();
    put(frame, area, style, &parts.join(" · "));
}

fn draw_input(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let columns = usize::from(area.width).saturating_sub(width(PROMPT));
    let (text, cursor) = model.input.window(columns);
    let line = Line::from(vec![Span::styled(PROMPT, dim()), Span::raw(text)]);
    frame.render_widget(line, area);
    let column = width(PROMPT) + cursor.min(columns.saturating_sub(1));
    if area.height > 0 && column < usize::from(area.width) {
        let column = u16::try_from(column).unwrap_or(0);
        frame.set_cursor_position((area.x + column, area.y));
    }
}
