//! How long an object that failed waits for its next turn: twice as long each time, each by itself.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_mins(5);

/// How often each object failed in a row. It forgets at a restart: then everything is tried at once.
#[derive(Default)]
pub(crate) struct Backoff {
    failures: Mutex<HashMap<String, u32>>,
}

impl Backoff {
    /// Notes a failure, and tells how long to wait.
    pub(crate) fn failed(&self, uid: &str) -> Duration {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.entry(uid.to_owned()).or_default();
        *count += 1;
        jittered(FIRST.saturating_mul(1 << (*count - 1).min(9)).min(LONGEST))
    }

    /// Forgets an object's failures.
    pub(crate) fn succeeded(&self, uid: &str) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}

/// Up to a fifth more, so that what failed together does not come back together.
pub(crate) fn jittered(duration: Duration) -> Duration {
    let nanos = jiff::Timestamp::now().subsec_nanosecond().unsigned_abs();
    duration + duration.mul_f64(f64::from(nanos % 1000) / 5000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_object_waits_longer_for_itself_and_starts_anew_once_it_succeeded() {
        let backoff = Backoff::default();
        let at_least = |seconds: u64, wait: Duration| assert!(wait >= Duration::from_secs(seconds), "{wait:?}");
        at_least(1, backoff.failed("a"));
        at_least(2, backoff.failed("a"));
        at_least(4, backoff.failed("a"));
        assert!(backoff.failed("b") < Duration::from_secs(2));
        for _ in 0..40 {
            assert!(backoff.failed("a") <= LONGEST * 6 / 5);
        }
        backoff.succeeded("a");
        assert!(backoff.failed("a") < Duration::from_secs(2));
    }
}
