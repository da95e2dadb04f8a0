//! A wall clock that a test moves, for everything in its process.
//!
//! The services and the SDK ask a `valise_clock::Clock`, which a test can move; openmls and rustls ask the system. A process that
//! links this crate has a `clock_gettime` of its own, which the standard library calls in place of the C library's: with it, all
//! Rust code of the process moves. Only the wall clock does (`CLOCK_REALTIME`): timers and deadlines run on as they did. Code in C that is
//! linked in from a shared library asks that library itself and stays in the present, as do other processes.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

/// Seconds by which the wall clock is ahead.
static AHEAD: AtomicI64 = AtomicI64::new(0);

/// Moves the wall clock of this process forward.
pub fn travel(by: Duration) {
    let by = i64::try_from(by.as_secs()).unwrap_or(i64::MAX);
    AHEAD.fetch_add(by, Ordering::SeqCst);
}

/// Asks the kernel, and moves the answer.
///
/// # Safety
///
/// `time` must be valid for a write, as for the function of that name in POSIX.
#[expect(unsafe_code, reason = "the C library's name, signature and contract")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> libc::c_int {
    // SAFETY: the system call takes what the caller vouches for, and writes a whole `timespec` where it succeeds.
    unsafe {
        let answer = libc::syscall(libc::SYS_clock_gettime, libc::c_long::from(clock), time);
        if answer == 0 && clock == libc::CLOCK_REALTIME {
            (*time).tv_sec += AHEAD.load(Ordering::SeqCst);
        }
        if answer == 0 { 0 } else { -1 }
    }
}
