//! The database of the archive, asked and locked from outside.

use std::process::Stdio;

use valise_local_stack::LocalStack;
use valise_tests::positions::psql;
use valise_tests::wait::until;

/// The one number that a query answers.
async fn number(stack: &LocalStack, query: &str) -> u64 {
    let mut psql = psql(stack, query);
    let output = tokio::task::spawn_blocking(move || psql.output().unwrap())
        .await
        .unwrap();
    let number = String::from_utf8(output.stdout).unwrap();
    number.trim().parse().unwrap_or(0)
}

/// How long the group's log is in the archive.
pub(crate) async fn position_in_archive(stack: &LocalStack) -> u64 {
    number(stack, "SELECT position FROM groups").await
}

/// Nothing is written into the archive as long as it lives.
pub(crate) struct Lock(std::process::Child);

impl Lock {
    pub(crate) async fn hold(stack: &LocalStack) -> Self {
        let statement = "BEGIN; LOCK TABLE entries IN SHARE ROW EXCLUSIVE MODE; SELECT pg_sleep(3600)";
        let mut psql = psql(stack, statement);
        let lock = Self(psql.stdout(Stdio::null()).spawn().unwrap());
        let held = "SELECT count(*) FROM pg_locks WHERE granted AND mode = 'ShareRowExclusiveLock'
                    AND relation = 'entries'::regclass";
        until("the lock", async || {
            (number(stack, held).await == 1).then_some(())
        })
        .await;
        lock
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}
