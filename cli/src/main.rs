//! The `valise` command line.

use std::process::ExitCode;

/// A message passes through dozens of allocations on several threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    valise_cli::run()
}
