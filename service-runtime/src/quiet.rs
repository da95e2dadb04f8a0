//! Catches panics of handlers and tasks. Only where it was is logged: what a panic says may quote what was worked on.

use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

/// Something panicked, and it has been logged.
pub(crate) struct Panicked;

thread_local! {
    /// Whether this thread is inside [`quietly`].
    static QUIET: Cell<bool> = const { Cell::new(false) };
    /// Where the last panic inside [`quietly`] was.
    static PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Does the work, a poll of a future or of a body, and catches its panic. `what` is for the log.
pub(crate) fn quietly<T>(what: &'static str, work: impl FnOnce() -> T) -> Result<T, Panicked> {
    install_hook();
    let before = QUIET.replace(true);
    let result = panic::catch_unwind(AssertUnwindSafe(work));
    QUIET.set(before);
    result.map_err(|_text| {
        let place = PLACE.take().unwrap_or_default();
        tracing::error!(what, place, "panicked");
        Panicked
    })
}

/// Keeps the default hook from printing what such a panic says. All other panics are printed as before.
fn install_hook() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let others = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if QUIET.get() {
                PLACE.set(info.location().map(ToString::to_string));
            } else {
                others(info);
            }
        }));
    });
}
