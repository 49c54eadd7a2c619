//! Moments at which a test may want this process to die.
//!
//! A restore in place promises that a kill at any moment is survived, and so does a base backup. The moments that matter lie before
//! and after each thing that is written down or done; a test sets `WINDLASS_DIE_AT` to the number of one of them, or to the name of
//! one that has one. Release builds have none of it.

use std::fmt::Debug;

/// Dies here, as by `kill -9`, if this is the moment a test has chosen.
#[cfg(debug_assertions)]
pub fn pass() {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    static CHOSEN: LazyLock<Option<u64>> = LazyLock::new(|| std::env::var("WINDLASS_DIE_AT").ok()?.parse().ok());
    static PASSED: AtomicU64 = AtomicU64::new(0);
    if let Some(chosen) = *CHOSEN
        && PASSED.fetch_add(1, Ordering::Relaxed) + 1 == chosen
    {
        die();
    }
}

/// Dies here, if a test has chosen this moment by its name: `before` or `after` something, as it is written in the code.
#[cfg(debug_assertions)]
pub fn reach(when: &str, what: &dyn Debug) {
    if std::env::var("WINDLASS_DIE_AT").is_ok_and(|chosen| chosen == format!("{when} {what:?}")) {
        die();
    }
}

#[cfg(debug_assertions)]
fn die() {
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
}

/// Nothing happens here.
#[cfg(not(debug_assertions))]
pub fn pass() {}

/// Nothing happens here.
#[cfg(not(debug_assertions))]
pub fn reach(_when: &str, _what: &dyn Debug) {}
