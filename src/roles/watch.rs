//! What a role's loop tells of itself about once a second: gauges, and whether it is well.

use crate::clock::Clock;
use crate::disk::{self, Disk};
use crate::health::Health;
use crate::metrics;
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;

/// How often.
const EVERY_MS: u64 = 1_000;
/// Nothing was acknowledged for so long, although it was tried: that is no hiccup.
const LINK_MS: u64 = 5 * 60 * 1000;
/// The spool is nearly full at so many hundredths.
const NEARLY_FULL: u64 = 90;
/// The wall clock may be moved so far against the monotonic one.
const STEP_MS: i64 = 60_000;
/// Time before which no clock can be right (2026-01-01).
const EPOCH_MS: i64 = 1_767_225_600_000;
/// How long a step of the clock is told.
const STEP_TOLD_MS: u64 = 10 * 60 * 1000;

/// See the module's header.
pub struct Watch {
    health: Health,
    next_ms: u64,
    down_ms: Option<u64>,
    /// Wall time minus monotonic time.
    offset: Option<i64>,
    step: Option<(u64, i64)>,
}

impl Watch {
    /// Begins.
    pub fn new(health: &Health) -> Self {
        Self { health: health.clone(), next_ms: 0, down_ms: None, offset: None, step: None }
    }

    /// The loop has turned. True about once a second: then the others are to be told.
    pub fn turn(&mut self, clock: &Clock) -> bool {
        let now = clock.mono_ms();
        self.health.turned(now);
        if now < self.next_ms {
            return false;
        }
        self.next_ms = now.saturating_add(EVERY_MS);
        self.clock(clock.now_ms(), now);
        true
    }

    fn clock(&mut self, wall_ms: i64, now: u64) {
        let offset = wall_ms.saturating_sub(i64::try_from(now).unwrap_or(i64::MAX));
        let moved = offset.saturating_sub(self.offset.unwrap_or(offset));
        self.offset = Some(offset);
        if moved.saturating_abs() > STEP_MS {
            self.step = Some((now, moved));
        }
        self.step = self.step.filter(|(at, _)| now.saturating_sub(*at) < STEP_TOLD_MS);
        let reason = match self.step {
            _ if wall_ms < EPOCH_MS => Some(
                "it is before 2026: set it, or hours get wrong names and close at wrong times".to_owned(),
            ),
            Some((_, moved)) => Some(format!(
                "it was set {} by {} s: see whether it is right now; hours close by it",
                if moved < 0 { "back" } else { "forward" },
                moved.saturating_abs().checked_div(1_000).unwrap_or(0)
            )),
            None => None,
        };
        self.health.set("clock", reason);
    }

    /// How a sender's way out is, and how many packs wait for it.
    pub fn link(&mut self, down: bool, waiting: u64, now: u64) {
        metrics::WAITING_PACKS.set(waiting);
        self.down_ms = if down { self.down_ms.or(Some(now)) } else { None };
        let since = self.down_ms.map(|at| now.saturating_sub(at)).filter(|ms| *ms >= LINK_MS);
        self.health.set(
            "link",
            since.map(|ms| {
                format!(
                    "nothing was acknowledged for {} min, {waiting} packs wait: see whether send_to can be reached and runs",
                    ms.checked_div(60_000).unwrap_or(0)
                )
            }),
        );
    }

    /// How full a spool is. Nothing is said of one of size 0.
    pub fn spool(&self, bytes: u64, limit: u64, packs: u64) {
        metrics::SPOOL_BYTES.set(bytes);
        metrics::SPOOL_LIMIT.set(limit);
        metrics::SPOOL_PACKS.set(packs);
        let full = limit > 0 && bytes.saturating_mul(100) >= limit.saturating_mul(NEARLY_FULL);
        // One segment that is nearly full and done is no backlog.
        let reason = (full && packs > 0).then(|| {
            format!(
                "{bytes} of {limit} bytes (spool_size) are used, {packs} packs wait: see why they are not taken on"
            )
        });
        self.health.set("spool", reason);
    }

    /// Why nothing is taken for lack of room.
    pub fn paused(&self, why: Option<String>) {
        metrics::PAUSED.set(u64::from(why.is_some()));
        // The part is named already.
        let bare = |why: String| why.strip_prefix("paused: ").map_or(why.clone(), str::to_owned);
        self.health.set("paused", why.map(bare));
    }

    /// How the last work on the disk ended.
    pub fn disk<T>(&self, result: &disk::Result<T>) {
        let why = result.as_ref().err();
        self.health.set("disk", why.map(|e| format!("{e}; nothing is lost, it is tried again")));
    }
}

/// Why the monitor's database is away and for how many ms, and how many events wait for it.
#[cfg(any(test, feature = "mysql"))]
pub fn database(health: &Health, away: Option<(&str, u64)>, waiting: u64) {
    let long = away.filter(|(_, ms)| *ms >= LINK_MS).map(|(why, ms)| {
        format!(
            "{why}; for {} min, {waiting} events wait: see whether db_host can be reached and runs",
            ms.checked_div(60_000).unwrap_or(0)
        )
    });
    health.set("database", long);
}

/// Since when packs wait that have numbers in their order.
#[derive(Default)]
pub struct Ages {
    /// Numbers, and when each came: one about every second.
    marks: VecDeque<(u64, u64)>,
}

/// Marks that are kept. When there are more every other one is dropped, and ages become coarser.
const MARKS_MAX: usize = 4_096;

impl Ages {
    /// A pack came.
    pub fn note(&mut self, seq: u64, now_ms: u64) {
        if self.marks.back().is_some_and(|(_, at)| now_ms.saturating_sub(*at) < EVERY_MS) {
            return;
        }
        if self.marks.len() >= MARKS_MAX {
            let mut keep = false;
            self.marks.retain(|_| {
                keep = !keep;
                keep
            });
        }
        self.marks.push_back((seq, now_ms));
    }

    /// Age in ms of the oldest one that waits. Those from before the first call count from then.
    pub fn oldest(&mut self, seq: Option<u64>, now_ms: u64) -> u64 {
        let Some(seq) = seq else {
            self.marks.clear();
            return 0;
        };
        if self.marks.front().is_none_or(|(first, _)| *first > seq) {
            self.marks.push_front((seq, self.marks.front().map_or(now_ms, |(_, at)| *at)));
        }
        while self.marks.get(1).is_some_and(|(next, _)| *next <= seq) {
            self.marks.pop_front();
        }
        self.marks.front().map_or(0, |(_, at)| now_ms.saturating_sub(*at))
    }
}

/// What of the followed files is not yet in a pack, and since when.
#[derive(Default)]
pub struct Unread {
    /// By file: a length that it had, and when that was.
    marks: BTreeMap<PathBuf, (u64, i64)>,
}

impl Unread {
    /// Bytes that are in no pack, and for how long (ms) the oldest of them have been there, at least.
    pub fn look(
        &mut self,
        disk: &Disk,
        files: impl IntoIterator<Item = (PathBuf, u64)>,
        now_ms: i64,
    ) -> (u64, u64) {
        let mut left = BTreeMap::new();
        let (mut bytes, mut since) = (0u64, now_ms);
        for (path, pos) in files {
            let Ok(Some(stat)) = disk.stat(&path) else { continue };
            let more = stat.len.saturating_sub(pos);
            if more == 0 {
                continue;
            }
            bytes = bytes.saturating_add(more);
            let known = self.marks.get(&path).filter(|(len, _)| pos < *len);
            let mark = known.copied().unwrap_or((stat.len, stat.mtime_ms.min(now_ms)));
            since = since.min(mark.1);
            left.insert(path, mark);
        }
        self.marks = left;
        (bytes, now_ms.saturating_sub(since).unsigned_abs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn a_link_that_is_down_for_long_and_a_spool_that_is_nearly_full_are_told() {
        let health = Health::default();
        let mut w = Watch::new(&health);
        let now = |n: u64| health.problems(n).join("|");
        w.link(true, 3, 1_000);
        w.link(true, 3, 1_000 + LINK_MS - 1);
        assert_eq!(now(0), "");
        w.link(true, 3, 1_000 + LINK_MS);
        assert!(now(0).starts_with("link: nothing was acknowledged for 5 min, 3 packs wait"), "{}", now(0));
        w.link(false, 3, 1_000 + LINK_MS);
        assert_eq!(now(0), "");
        w.link(true, 3, 2_000 + LINK_MS);
        assert_eq!(now(0), "", "it begins anew");
        w.spool(89, 100, 5);
        w.spool(90, 100, 0);
        assert_eq!(now(0), "");
        w.spool(90, 100, 5);
        assert!(now(0).starts_with("spool: 90 of 100 bytes"), "{}", now(0));
        w.spool(0, 0, 0);
        w.paused(Some("paused: disk: x".into()));
        assert_eq!(now(0), "paused: disk: x");
    }

    #[test]
    fn a_clock_that_jumps_is_told_for_a_while() {
        const DAY_MS: i64 = EPOCH_MS + 86_400_000;
        let health = Health::default();
        let mut w = Watch::new(&health);
        w.clock(DAY_MS + 10_000, 10_000);
        w.clock(DAY_MS + 11_000 + STEP_MS, 11_000);
        assert!(health.problems(0).is_empty(), "that is how clocks are corrected");
        w.clock(DAY_MS + 12_000 - STEP_MS, 12_000);
        assert!(health.problems(0)[0].starts_with("clock: it was set back by 120 s"));
        let later = 12_000 + STEP_TOLD_MS;
        w.clock(DAY_MS - STEP_MS + i64::try_from(later).unwrap(), later);
        assert!(health.problems(0).is_empty());
        w.clock(5_000, 12_000);
        assert!(health.problems(0)[0].contains("before 2026"));
    }

    #[test]
    fn a_database_that_is_away_for_long_is_told_until_it_is_back() {
        let health = Health::default();
        database(&health, Some(("refused", LINK_MS - 1)), 7);
        assert!(health.problems(0).is_empty(), "a restart takes as long");
        database(&health, Some(("refused", LINK_MS)), 7);
        assert!(health.problems(0)[0].starts_with("database: refused; for 5 min, 7 events wait"));
        database(&health, None, 3);
        assert!(health.problems(0).is_empty());
    }

    #[test]
    fn ages_of_packs() {
        let mut a = Ages::default();
        assert_eq!(a.oldest(None, 5), 0);
        assert_eq!(a.oldest(Some(3), 1_000), 0, "from before the start");
        a.note(7, 4_000);
        a.note(8, 4_500);
        a.note(9, 6_000);
        assert_eq!(a.oldest(Some(3), 7_000), 6_000);
        assert_eq!(a.oldest(Some(7), 7_000), 3_000);
        assert_eq!(a.oldest(Some(9), 7_000), 1_000);
        assert_eq!(a.oldest(None, 7_000), 0);
        for n in 0..100_000 {
            a.note(n, n * 1_000);
        }
        assert!(a.marks.len() <= MARKS_MAX && a.oldest(Some(0), 100_000_000) == 100_000_000);
    }

    #[test]
    fn unread_bytes_have_an_age_that_ends_when_they_are_read() {
        let (disk, sim) = Disk::sim(1);
        let path = Path::new("/log");
        sim.put(path, &[b'x'; 100]);
        let mut u = Unread::default();
        let t0 = disk.stat(path).unwrap().unwrap().mtime_ms;
        let mut look = |pos, at: i64| u.look(&disk, vec![(path.to_owned(), pos)], t0 + at);
        assert_eq!(look(100, 5_000), (0, 0));
        assert_eq!(look(40, 5_000), (60, 5_000));
        sim.put(path, &[b'x'; 150]);
        assert_eq!(look(90, 9_000), (60, 9_000));
        // What was there at first is read, what came meanwhile is not.
        assert!(look(110, 9_000).0 == 40);
        assert_eq!(look(150, 10_000), (0, 0));
    }
}
