//! `valise safety-number`: two people compare the keys of their devices.

use std::io::IsTerminal;

use qrcode::QrCode;
use qrcode::render::unicode::Dense1x2;
use serde_json::json;
use valise_client_sdk::{Client, SafetyNumber};

use crate::args::SafetyNumberArgs;
use crate::error::CliError;
use crate::out::Out;
use crate::profile::Profile;

/// Groups of five digits on one line.
const GROUPS_PER_LINE: usize = 4;

pub(crate) async fn run(arguments: SafetyNumberArgs, profile: &Profile) -> Result<(), CliError> {
    let client = profile.open_synced().await?;
    let outcome = show(arguments, &client).await;
    client.close().await;
    outcome
}

async fn show(arguments: SafetyNumberArgs, client: &Client) -> Result<(), CliError> {
    let other = &arguments.user;
    let number = match &arguments.group {
        Some(group) => {
            crate::group::find(client, group)
                .await?
                .safety_number(other)
                .await?
        }
        None => client.safety_number(other).await?,
    };
    let number =
        number.ok_or_else(|| CliError::failed(format!("there is no group of this device with {other}")))?;
    let mut out = Out::stdout();
    if arguments.json {
        let devices: Vec<_> = number
            .devices()
            .iter()
            .map(|peer| json!({ "user": peer.user, "device": peer.device }))
            .collect();
        return out.json(&json!({
            "user": other,
            "safety_number": number.digits(),
            "qr": number.qr_text(),
            "devices": devices,
        }));
    }
    out.line(&format!("{} and {other}: both must see the same", client.user()))?;
    out.text(&digits(&number))?;
    for peer in number.devices() {
        out.line(&format!("  {}  device {}", peer.user, peer.device))?;
    }
    if arguments.qr {
        out.text(&qr(&number.qr_text(), std::io::stdout().is_terminal())?)?;
    }
    Ok(())
}

fn digits(number: &SafetyNumber) -> String {
    let groups: Vec<&str> = number.groups().collect();
    let lines: Vec<String> = groups
        .chunks(GROUPS_PER_LINE)
        .map(|line| line.join(" "))
        .collect();
    format!("    {}\n", lines.join("\n    "))
}

/// The code in half blocks; in a terminal, black on white whatever its colours are: many readers want that.
fn qr(text: &str, colours: bool) -> Result<String, CliError> {
    let code =
        QrCode::new(text).map_err(|error| CliError::failed(format!("cannot draw a QR code: {error}")))?;
    let drawn = code.render::<Dense1x2>().quiet_zone(true).build();
    let lines = drawn.lines().map(|line| {
        if colours {
            format!("\x1b[30;107m{line}\x1b[0m\n")
        } else {
            format!("{line}\n")
        }
    });
    Ok(lines.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The modules of a drawn code, without its quiet zone of four on each side: is it dark?
    fn modules(drawn: &str) -> Vec<Vec<bool>> {
        let halves = |c| match c {
            '\u{2588}' => (true, true),
            '\u{2580}' => (true, false),
            '\u{2584}' => (false, true),
            ' ' => (false, false),
            other => panic!("{other:?}"),
        };
        let rows = drawn.lines().flat_map(|line| {
            let (upper, lower): (Vec<bool>, Vec<bool>) = line.chars().map(halves).unzip();
            [upper, lower]
        });
        let rows: Vec<_> = rows.collect();
        let size = rows[0].len() - 8;
        rows[4..4 + size]
            .iter()
            .map(|row| row[4..4 + size].to_vec())
            .collect()
    }

    #[test]
    fn what_is_drawn_is_the_code() {
        let text = format!("VALISE:SN:1:{}", "12345".repeat(12));
        let code = QrCode::new(&text).unwrap();
        let modules = modules(&qr(&text, false).unwrap());
        assert_eq!(modules.len(), code.width());
        let expected: Vec<bool> = code
            .to_colors()
            .iter()
            .map(|color| *color == qrcode::Color::Dark)
            .collect();
        assert_eq!(modules.concat(), expected);
        // In alphanumeric mode it is small enough for any terminal of 24 lines.
        assert!(code.width() <= 37, "{}", code.width());
    }

    #[test]
    fn colours_are_for_terminals() {
        assert!(!qr("VALISE", false).unwrap().contains('\x1b'));
        for line in qr("VALISE", true).unwrap().lines() {
            assert!(line.starts_with("\x1b[30;107m") && line.ends_with("\x1b[0m"));
        }
    }
}
