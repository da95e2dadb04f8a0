//! How `valise admin group repair` says what it did, or would do.

use serde_json::json;
use valise_client_sdk::{EntryId, GroupId, Repair, RepairCandidate, RepairEnd};

use crate::error::CliError;
use crate::out::{Out, printable};

pub(crate) fn print(
    repair: &Repair,
    group: GroupId,
    dry_run: bool,
    as_json: bool,
    out: &mut Out,
) -> Result<(), CliError> {
    if as_json {
        return out.json(&in_json(repair, group, dry_run));
    }
    for line in in_words(repair, group, dry_run) {
        out.line(&line)?;
    }
    Ok(())
}

fn in_words(repair: &Repair, group: GroupId, dry_run: bool) -> Vec<String> {
    let Repair {
        position,
        epoch,
        archived,
        devices,
        least_agreeing,
        offered,
        ..
    } = repair;
    let done = if dry_run { "would repair" } else { "repaired" };
    let mut lines = vec![
        format!("{done} {group}: position {position}, epoch {epoch}"),
        format!("  from the archive: up to position {archived}"),
    ];
    match repair.restored() {
        0 => lines.push("  from devices: nothing".to_owned()),
        restored => lines.push(format!(
            "  from devices: {restored} entries, up to position {position}, of {devices} devices; each of at least {least_agreeing}"
        )),
    }
    lines.push(match repair.lost() {
        0 => "  lost: nothing that any device has told of".to_owned(),
        lost => format!(
            "  lost: {lost} entries that devices have told of, up to position {offered}: {}",
            why(repair.end)
        ),
    });
    for RepairCandidate { entry, devices, rule } in &repair.candidates {
        let broken = if rule.is_empty() {
            String::new()
        } else {
            format!("; breaks the rule {}", printable(rule))
        };
        let devices: Vec<String> = devices.iter().map(ToString::to_string).collect();
        let next = position.next();
        lines.push(format!(
            "    position {next}, entry {}: of {}{broken}",
            hex(*entry),
            devices.join(", ")
        ));
    }
    if let Some(abandoned) = repair.abandoned.filter(|abandoned| abandoned > archived) {
        lines.push(format!(
            "  given up: the log that took the place of the archived one, up to position {abandoned}"
        ));
    }
    if repair.group_info_missing {
        lines.push(
            "  no device can rejoin until a member commits: the newest commit's GroupInfo did not come back"
                .to_owned(),
        );
    }
    lines
}

fn hex(entry: EntryId) -> String {
    format!("{:016x}", u64::from_be_bytes(*entry.as_bytes()))
}

const fn why(end: RepairEnd) -> &'static str {
    match end {
        RepairEnd::Missing => "no device has the next one",
        RepairEnd::Conflict => "devices do not agree on the next one",
        RepairEnd::Refused => "the next one cannot have been in the log",
        RepairEnd::Limit => "not wanted",
        _ => "they did not come back",
    }
}

const fn end(end: RepairEnd) -> &'static str {
    match end {
        RepairEnd::Complete => "complete",
        RepairEnd::Missing => "missing",
        RepairEnd::Conflict => "conflict",
        RepairEnd::Refused => "refused",
        RepairEnd::Limit => "limit",
        _ => "other",
    }
}

fn in_json(repair: &Repair, group: GroupId, dry_run: bool) -> serde_json::Value {
    let candidates: Vec<_> = repair
        .candidates
        .iter()
        .map(|candidate| {
            let devices: Vec<String> = candidate.devices.iter().map(ToString::to_string).collect();
            json!({
                "entry": hex(candidate.entry),
                "devices": devices,
                "rule": candidate.rule,
            })
        })
        .collect();
    json!({
        "group": group.to_string(),
        "dry_run": dry_run,
        "position": repair.position.0,
        "epoch": repair.epoch.0,
        "archived": repair.archived.0,
        "restored": repair.restored(),
        "devices": repair.devices,
        "least_agreeing": repair.least_agreeing,
        "end": end(repair.end),
        "offered": repair.offered.0,
        "lost": repair.lost(),
        "candidates": candidates,
        "group_info_missing": repair.group_info_missing,
        "abandoned": repair.abandoned.map(|position| position.0),
    })
}

#[cfg(test)]
mod tests {
    use valise_client_sdk::{DeviceId, Epoch, Position};

    use super::*;

    fn device(number: u8) -> DeviceId {
        format!("00000000-0000-4000-8000-0000000000{number:02}")
            .parse()
            .unwrap()
    }

    #[test]
    fn an_administrator_sees_what_came_from_where_and_what_is_lost() {
        let repair = Repair {
            position: Position(110),
            epoch: Epoch(4),
            archived: Position(100),
            devices: 3,
            least_agreeing: 2,
            end: RepairEnd::Conflict,
            offered: Position(112),
            candidates: vec![
                RepairCandidate {
                    entry: EntryId::from_bytes([1; 8]),
                    devices: vec![device(1), device(2)],
                    rule: String::new(),
                },
                RepairCandidate {
                    entry: EntryId::from_bytes([2; 8]),
                    devices: vec![device(3)],
                    rule: String::new(),
                },
            ],
            group_info_missing: false,
            abandoned: Some(Position(120)),
        };
        let group = GroupId::from_bytes([7; 16]);
        let lines = in_words(&repair, group, true);
        assert_eq!(lines[0], format!("would repair {group}: position 110, epoch 4"));
        assert_eq!(lines[1], "  from the archive: up to position 100");
        assert_eq!(
            lines[2],
            "  from devices: 10 entries, up to position 110, of 3 devices; each of at least 2"
        );
        assert_eq!(
            lines[3],
            "  lost: 2 entries that devices have told of, up to position 112: devices do not agree on the next one"
        );
        assert!(lines[4].contains("position 111") && lines[4].contains(&device(2).to_string()));
        assert!(lines[5].contains(&device(3).to_string()));
        assert!(lines[6].contains("up to position 120"));
        assert_eq!(lines.len(), 7);
        let value = in_json(&repair, group, true);
        assert_eq!((&value["restored"], &value["lost"]), (&json!(10), &json!(2)));
        assert_eq!(value["end"], "conflict");
    }
}
