//! Is the role well? What `/healthz` answers from.
//!
//! Whoever meets trouble names it under a word of its part (`disk`, `link`), and takes it back when it has passed. The
//! answer is made from these alone: asking must not wait for a lock that a stuck disk holds. That the role's loop itself
//! is stuck is seen by the time at which it turned last.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A loop that did not turn for so long is stuck: much longer than a slow sync.
const STUCK_MS: u64 = 120_000;

/// Cheap to clone; all clones are of one role.
#[derive(Clone, Default)]
pub struct Health(Arc<Inner>);

#[derive(Default)]
struct Inner {
    reasons: Mutex<BTreeMap<&'static str, String>>,
    turned_ms: AtomicU64,
}

impl Health {
    /// What is wrong with a part, as a sentence without a full stop; `None` = it is well.
    pub fn set(&self, part: &'static str, reason: Option<String>) {
        let mut reasons = self.0.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        match reason {
            Some(why) => reasons.insert(part, why),
            None => reasons.remove(part),
        };
    }

    /// The role's loop has turned, at this time of the monotonic clock.
    pub fn turned(&self, now_ms: u64) {
        self.0.turned_ms.store(now_ms, Ordering::Relaxed);
    }

    /// What is wrong with a part.
    pub fn reason(&self, part: &str) -> Option<String> {
        self.0.reasons.lock().unwrap_or_else(PoisonError::into_inner).get(part).cloned()
    }

    /// What is wrong, as `PART: REASON`; empty = all is well.
    pub fn problems(&self, now_ms: u64) -> Vec<String> {
        let reasons = self.0.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<String> = reasons.iter().map(|(part, why)| format!("{part}: {why}")).collect();
        let idle = now_ms.saturating_sub(self.0.turned_ms.load(Ordering::Relaxed));
        if idle > STUCK_MS {
            all.push(format!(
                "role: nothing has gone on for {} s; see whether a disk hangs, and the log",
                idle.checked_div(1_000).unwrap_or(0)
            ));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_come_and_go_and_a_stuck_loop_is_seen() {
        let health = Health::default();
        health.turned(1_000);
        assert!(health.problems(2_000).is_empty());
        health.set("link", Some("down".into()));
        health.set("disk", Some("full".into()));
        health.set("disk", Some("fuller".into()));
        assert_eq!(health.problems(2_000), ["disk: fuller", "link: down"]);
        health.set("disk", None);
        health.clone().set("link", None);
        assert!(health.problems(2_000).is_empty());
        assert!(health.problems(STUCK_MS + 1_001)[0].contains("nothing has gone on for 120 s"));
    }
}
