//! Which complete hour is read again next, and when.
//!
//! A verification reads the whole hour, and one small pack behind its end makes the next one necessary. So that nobody keeps the
//! disk busy by that, an hour that is verified again and again waits longer each time. Whoever sends an hour once more, or has
//! late lines a few times, does not notice.

use crate::output::hours::VerifyJob;
use crate::pack::HourKey;
use std::collections::{BTreeMap, VecDeque};

/// Verifications of an hour without a pause; a copy that takes the place of another is verified twice.
const AT_ONCE: u32 = 3;
/// The first pause; each is twice the one before.
const FIRST_MS: u64 = 1_000;
const LONGEST_MS: u64 = 10 * 60_000;
/// An hour that was not verified for this time begins anew.
const FORGET_MS: u64 = 60 * 60_000;

struct Before {
    times: u32,
    last_ms: u64,
}

/// See the module's header. Times in milliseconds of the monotonic clock.
#[derive(Default)]
pub(super) struct Verifying {
    ready: VecDeque<VerifyJob>,
    /// By the time at which they are due; the number keeps them apart.
    pausing: BTreeMap<(u64, u64), VerifyJob>,
    next: u64,
    before: BTreeMap<HourKey, Before>,
}

impl Verifying {
    /// Takes a job up; how many ms it has to wait.
    pub fn push(&mut self, job: VerifyJob, now_ms: u64) -> u64 {
        // Only the newest is of use: more packs make a result void.
        let other = |j: &VerifyJob| j.key != job.key || j.generation != job.generation;
        self.ready.retain(other);
        self.pausing.retain(|_, j| other(j));
        let before = self.before.get(&job.key).filter(|b| now_ms.saturating_sub(b.last_ms) < FORGET_MS);
        let due = before.map_or(now_ms, |b| b.last_ms.saturating_add(pause(b.times)));
        if due <= now_ms {
            self.ready.push_back(job);
            return 0;
        }
        self.next = self.next.saturating_add(1);
        self.pausing.insert((due, self.next), job);
        due.saturating_sub(now_ms)
    }

    /// The next one that is due.
    pub fn pop(&mut self, now_ms: u64) -> Option<VerifyJob> {
        while let Some(first) = self.pausing.first_entry().filter(|e| e.key().0 <= now_ms) {
            self.ready.push_back(first.remove());
        }
        let job = self.ready.pop_front()?;
        self.before.retain(|_, b| now_ms.saturating_sub(b.last_ms) < FORGET_MS);
        let before = self.before.entry(job.key.clone()).or_insert(Before { times: 0, last_ms: now_ms });
        before.times = before.times.saturating_add(1);
        before.last_ms = now_ms;
        Some(job)
    }

    /// It failed here, which is not its sender's doing.
    pub fn failed(&mut self, key: &HourKey) {
        if let Some(before) = self.before.get_mut(key) {
            before.times = before.times.saturating_sub(1);
        }
    }
}

/// How long after the last of so many verifications the next one may begin.
fn pause(times: u32) -> u64 {
    let Some(more) = times.checked_sub(AT_ONCE) else { return 0 };
    FIRST_MS.saturating_mul(1 << more.min(20)).min(LONGEST_MS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Hour;

    fn job(name: &str, high: u64) -> VerifyJob {
        let key = HourKey { name: name.into(), hour: Hour::parse("2026112205").unwrap() };
        VerifyJob::of(
            &crate::integrity::Store::new(
                &crate::disk::Disk::real(),
                "/save".as_ref(),
                "/state".as_ref(),
                0o640,
                0o750,
            ),
            &key,
            7,
            high,
        )
    }

    #[test]
    fn an_hour_that_is_verified_again_and_again_waits_longer_and_others_do_not() {
        let mut queue = Verifying::default();
        let mut now = 1_000_000;
        let mut waits = Vec::new();
        for high in 1..=16 {
            let wait = queue.push(job("web1", high), now);
            if wait > 0 {
                assert_eq!(queue.pop(now + wait - 1), None);
            }
            now += wait;
            assert_eq!(queue.pop(now), Some(job("web1", high)));
            waits.push(wait / 1_000);
            assert_eq!(queue.push(job(&format!("db{high}"), 1), now), 0);
            assert_eq!(queue.pop(now), Some(job(&format!("db{high}"), 1)));
        }
        assert_eq!(waits, [0, 0, 0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600, 600]);
        now += FORGET_MS;
        assert_eq!(queue.push(job("web1", 17), now), 0);
    }

    #[test]
    fn a_newer_job_takes_the_place_of_one_that_waits_and_a_failure_is_nobodys_fault() {
        let mut queue = Verifying::default();
        for n in 0..10 {
            queue.push(job("web1", 1), n);
            assert_eq!(queue.pop(n), Some(job("web1", 1)));
            queue.failed(&job("web1", 1).key);
        }
        for n in 0..3 {
            queue.push(job("web1", 1), n + 9);
            assert!(queue.pop(n + 9).is_some());
        }
        assert_eq!((queue.push(job("web1", 2), 10), queue.push(job("web1", 3), 10)), (1_001, 1_001));
        assert_eq!(
            (queue.pop(1_010), queue.pop(1_011), queue.pop(9_999)),
            (None, Some(job("web1", 3)), None)
        );
        queue.push(job("db1", 1), 9_999);
        queue.push(job("db1", 2), 9_999);
        assert_eq!((queue.pop(9_999), queue.pop(9_999)), (Some(job("db1", 2)), None));
    }
}
