//! What an error means for a call, and how long it waits before the next try.

use std::time::Duration;

use redis::Value;

use super::dial::Address;

/// The first pause is at least half of this, the later ones at most [`LONGEST`].
const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_millis(500);

/// Pauses that grow from 50 to 500 ms, with jitter.
#[derive(Debug)]
pub(super) struct Backoff(Duration);

impl Backoff {
    pub(super) fn new() -> Self {
        Self(FIRST)
    }

    /// The next pause.
    pub(super) fn pause(&mut self) -> Duration {
        let longest = self.0;
        self.0 = (longest * 2).min(LONGEST);
        rand::random_range(longest / 2..=longest)
    }
}

/// Why a try failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Failure {
    /// The slot belongs to this node by now.
    Moved(Address),
    /// The slot is moving to this node, and the keys are there: the keys of all commands.
    Ask(Address),
    /// The slot is moving, and the keys of some commands are on the other side already: neither node has what all of them ask for, and
    /// the one that a slot moves to says of a key that is still to come that there is none.
    Apart,
    /// The server does not know the script.
    UnknownScript,
    /// It may pass. What it was, for the error text; and whether the server is not, or no more, what it was taken for.
    Again { reason: String, elsewhere: bool },
    /// It does not pass.
    Refused(String),
}

impl Failure {
    pub(super) fn again(reason: impl Into<String>) -> Self {
        Self::Again {
            reason: reason.into(),
            elsewhere: false,
        }
    }
}

/// What is wrong with the answers of a node, the passing errors first: a call that is repeated gets all answers anew.
pub(super) fn judge(asked: &Address, answers: &[Value]) -> Option<Failure> {
    let mut worst = None;
    for answer in answers {
        let Value::ServerError(error) = answer else {
            continue;
        };
        let failure = judge_code(asked, error.code(), error.details().unwrap_or_default());
        match failure {
            Failure::Refused(_) => worst = worst.or(Some(failure)),
            Failure::Ask(_) if !answers.iter().all(is_ask) => return Some(Failure::Apart),
            passing => return Some(passing),
        }
    }
    worst
}

fn is_ask(answer: &Value) -> bool {
    matches!(answer, Value::ServerError(error) if error.code() == "ASK")
}

fn judge_code(asked: &Address, code: &str, details: &str) -> Failure {
    let again = |elsewhere| Failure::Again {
        reason: format!("Redis answers {code}"),
        elsewhere,
    };
    match code {
        "MOVED" => Address::of_redirection(asked, details).map_or(again(true), |(_, to)| Failure::Moved(to)),
        "ASK" => Address::of_redirection(asked, details).map_or(again(false), |(_, to)| Failure::Ask(to)),
        "NOSCRIPT" => Failure::UnknownScript,
        "TRYAGAIN" | "LOADING" | "NOREPLICAS" => again(false),
        "CLUSTERDOWN" | "READONLY" | "MASTERDOWN" => again(true),
        // Said by a script of ours, with what is damaged.
        "DAMAGED" => Failure::Refused(format!("{code} {details}")),
        code => Failure::Refused(code.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(line: &str) -> Value {
        redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap()
    }

    fn judged(lines: &[&str]) -> Option<Failure> {
        let answers: Vec<_> = lines.iter().map(|line| answer(line)).collect();
        judge(&Address::new("asked", 1), &answers)
    }

    #[test]
    fn errors_that_pass_are_told_from_those_that_do_not() {
        assert_eq!(judge(&Address::new("asked", 1), &[Value::Okay, Value::Nil]), None);
        assert_eq!(
            judged(&["MOVED 14315 db-2:7001"]),
            Some(Failure::Moved(Address::new("db-2", 7001)))
        );
        assert_eq!(
            judged(&["ASK 14315 :7001"]),
            Some(Failure::Ask(Address::new("asked", 7001)))
        );
        let moved = answer("ASK 14315 :7001");
        for mixed in [[moved.clone(), Value::Nil], [Value::Int(1), moved]] {
            assert_eq!(judge(&Address::new("asked", 1), &mixed), Some(Failure::Apart));
        }
        assert_eq!(
            judged(&["ASK 1 :7001", "ASK 1 :7001"]),
            Some(Failure::Ask(Address::new("asked", 7001)))
        );
        assert_eq!(
            judged(&["MOVED 1 [::1]:7001"]),
            Some(Failure::Moved(Address::new("::1", 7001)))
        );
        assert_eq!(
            judged(&["NOSCRIPT No matching script."]),
            Some(Failure::UnknownScript)
        );
        for passing in [
            "TRYAGAIN Multiple keys request during rehashing of slot",
            "LOADING Redis is loading the dataset in memory",
            "CLUSTERDOWN The cluster is down",
            "READONLY You can't write against a read only replica.",
            "NOREPLICAS Not enough good replicas to write.",
            "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        ] {
            assert!(
                matches!(judged(&[passing]), Some(Failure::Again { .. })),
                "{passing}"
            );
        }
        assert_eq!(
            judged(&["OOM command not allowed"]),
            Some(Failure::Refused("OOM".to_owned()))
        );
        assert_eq!(
            judged(&["DAMAGED entry 5 cannot be read"]),
            Some(Failure::Refused("DAMAGED entry 5 cannot be read".to_owned()))
        );
        assert!(matches!(
            judged(&["WRONGTYPE x", "TRYAGAIN y"]),
            Some(Failure::Again { .. })
        ));
    }

    #[test]
    fn pauses_grow_from_50_to_500_ms() {
        let mut backoff = Backoff::new();
        let pauses: Vec<_> = (0..20).map(|_| backoff.pause()).collect();
        assert!(pauses[0] <= FIRST);
        assert!(pauses.iter().all(|pause| (FIRST / 2..=LONGEST).contains(pause)));
        assert!(pauses[5..].iter().all(|pause| *pause >= LONGEST / 2));
    }
}
