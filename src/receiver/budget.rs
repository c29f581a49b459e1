//! Bytes in flight over all connections of a receiver.
//!
//! Who must wait for room is woken by whoever makes it, and only if it is enough: thousands of frames may wait, and would
//! take the processor from each other at every byte that becomes free. Room goes to the host that has least of it, so that
//! one whose frames fill their share is no reason for the others to wait.

use super::lock;
use crate::pack::BodyCheck;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Of the budget one host's frames have this part, but the oldest of them may exceed it: others always find room.
const SHARE: usize = 4;
/// Long headers that are coming in have one share together: nobody knows yet whose they are, and bodies must find room beside
/// them. No host has this name.
pub const HEADERS: &str = "";
/// Where room is short, a frame of which nothing came for this time goes, or that has been coming for the longer one.
const STALLED: Duration = Duration::from_secs(5);
const SLOW: Duration = Duration::from_secs(30);
/// How often who waits looks for such a frame.
const LOOK: Duration = Duration::from_secs(1);

/// Ticket of charges that are no frame's.
const LUXURY: u64 = 0;

#[derive(Default)]
struct Used {
    bytes: usize,
    /// Of these, raw lines that could be inflated again.
    kept: usize,
    next: u64,
    frames: BTreeMap<u64, Coming>,
    hosts: HashMap<Arc<str>, Share>,
    /// Frames that wait for room.
    waiting: usize,
}

/// What the frames of one host take: of a sender that signs, or of an address.
#[derive(Default)]
struct Share {
    bytes: usize,
    frames: BTreeSet<u64>,
    /// Those of them that wait, for how many bytes, and how they are woken.
    waiting: BTreeMap<u64, (usize, Arc<Condvar>)>,
}

/// Closes the connection that a frame comes over.
pub type Closer = Arc<dyn Fn() + Send + Sync>;

/// A frame that is coming in.
struct Coming {
    whose: Arc<str>,
    begun: Instant,
    moved: Instant,
    /// It is the sender that it waits for, not us.
    theirs: bool,
    close: Option<Closer>,
}

impl Share {
    /// Of those of a host that wait only the first looks for frames that are too slow: all together would take the processor
    /// at each look.
    fn looks(&self, ticket: u64) -> bool {
        self.waiting.first_key_value().is_some_and(|(first, _)| *first == ticket)
    }

    /// The first of those who wait that would go, if so many bytes are free.
    fn next(&self, free: usize, cap: usize) -> Option<u64> {
        let mine = (cap / SHARE).saturating_sub(self.bytes).min(free);
        let (first, (n, _)) = self.waiting.first_key_value()?;
        if self.frames.first() == Some(first) && *n <= free {
            return Some(*first);
        }
        self.waiting.iter().find(|(_, (n, _))| *n <= mine).map(|(ticket, _)| *ticket)
    }
}

impl Used {
    /// May a frame have so many bytes more? The oldest of all always, and the oldest of a host whatever its share is.
    fn goes(&self, ticket: u64, whose: &str, n: usize, cap: usize) -> bool {
        let in_share = self.hosts.get(whose).is_none_or(|share| {
            share.bytes.saturating_add(n) <= cap / SHARE || share.frames.first() == Some(&ticket)
        });
        let oldest = self.frames.first_key_value().is_some_and(|(first, _)| *first == ticket);
        n == 0 || oldest || in_share && self.bytes.saturating_add(n) <= cap
    }

    fn take(&mut self, ticket: u64, whose: &str, n: usize, now: Instant) {
        self.bytes = self.bytes.saturating_add(n);
        if let Some(share) = self.hosts.get_mut(whose) {
            share.bytes = share.bytes.saturating_add(n);
        }
        self.moved(ticket, true, now);
    }

    fn moved(&mut self, ticket: u64, theirs: bool, now: Instant) {
        if let Some(f) = self.frames.get_mut(&ticket) {
            (f.theirs, f.moved) = (theirs, now);
        }
    }

    /// Gives what has become free to those who wait: to the oldest frame of all, then to the host that has least.
    fn give(&mut self, cap: usize) {
        while self.waiting > 0 {
            let oldest = self.frames.first_key_value().map(|(ticket, f)| (*ticket, Arc::clone(&f.whose)));
            let oldest = oldest.filter(|(ticket, whose)| {
                self.hosts.get(whose).is_some_and(|share| share.waiting.contains_key(ticket))
            });
            let free = cap.saturating_sub(self.bytes);
            let next = oldest.or_else(|| {
                let can = |(whose, share): (&Arc<str>, &Share)| {
                    Some((share.bytes, share.next(free, cap)?, Arc::clone(whose)))
                };
                let least =
                    self.hosts.iter().filter_map(can).min_by_key(|(bytes, ticket, _)| (*bytes, *ticket));
                least.map(|(_, ticket, whose)| (ticket, whose))
            });
            let Some((ticket, whose)) = next else { return };
            let Some((n, wake)) = self.leave(ticket, &whose) else { return };
            self.take(ticket, &whose, n, Instant::now());
            wake.notify_one();
        }
    }

    /// A frame waits no longer; `None` if it did not.
    fn leave(&mut self, ticket: u64, whose: &str) -> Option<(usize, Arc<Condvar>)> {
        let share = self.hosts.get_mut(whose)?;
        let looks = share.looks(ticket);
        let left = share.waiting.remove(&ticket)?;
        self.waiting = self.waiting.saturating_sub(1);
        // The next one looks from now on.
        if looks && let Some((_, (_, wake))) = share.waiting.first_key_value() {
            wake.notify_one();
        }
        Some(left)
    }

    /// Who has most.
    fn greatest(&self) -> Option<Arc<str>> {
        self.hosts.iter().max_by_key(|(_, share)| share.bytes).map(|(whose, _)| Arc::clone(whose))
    }

    /// Closes a frame for one of this host that does not find room for `n` bytes: one of its own, or of whoever has most.
    fn close_slowest_for(&mut self, whose: &Arc<str>, n: usize, cap: usize, now: Instant) {
        let room = self.bytes.saturating_add(n) <= cap;
        let whose = if room { Some(Arc::clone(whose)) } else { self.greatest() };
        if let Some(whose) = whose {
            self.close_slowest(&whose, now);
        }
    }

    /// Closes the frame of this host for which its sender has been waited longest, if that is long. Its sender keeps it.
    fn close_slowest(&mut self, whose: &str, now: Instant) {
        let Some(share) = self.hosts.get(whose) else { return };
        let late = |since: Instant, time: Duration| now.saturating_duration_since(since) >= time;
        let slow = share.frames.iter().filter(|ticket| {
            self.frames.get(ticket).is_some_and(|f| {
                f.theirs && f.close.is_some() && (late(f.moved, STALLED) || late(f.begun, SLOW))
            })
        });
        let slowest = slow.min_by_key(|ticket| self.frames.get(ticket).map(|f| f.moved)).copied();
        let close = slowest.and_then(|ticket| self.frames.get_mut(&ticket)?.close.take());
        if let Some(close) = close {
            close();
        }
    }
}

/// Bytes in flight over all connections, and those who inflate them.
pub struct Budget {
    cap: usize,
    used: Mutex<Used>,
    checks: Mutex<Checks>,
    check_freed: Condvar,
}

/// Bodies are inflated when they are whole, a few at a time: an inflater and its window are a tenth of a megabyte, and
/// thousands of connections may be in the middle of a body.
#[derive(Default)]
struct Checks {
    free: Vec<BodyCheck>,
    made: usize,
}

/// Bodies that are inflated at a time; more than most machines have cores.
const CHECKS_MAX: usize = 16;

impl Budget {
    /// A budget of `cap` bytes.
    pub fn new(cap: usize) -> Arc<Self> {
        Arc::new(Self { cap, used: Mutex::default(), checks: Mutex::default(), check_freed: Condvar::new() })
    }

    /// How many bytes there are in all.
    pub(super) fn cap(&self) -> usize {
        self.cap
    }

    /// Does a piece of work with an inflater. It takes as long as a body takes to inflate, so that whoever waits waits shortly.
    pub(super) fn with_check<R>(&self, work: impl FnOnce(&mut BodyCheck) -> R) -> R {
        let mut checks = lock(&self.checks);
        let mut check = loop {
            if let Some(check) = checks.free.pop() {
                break check;
            }
            if checks.made < CHECKS_MAX {
                checks.made = checks.made.saturating_add(1);
                break BodyCheck::new();
            }
            checks = self.check_freed.wait(checks).unwrap_or_else(PoisonError::into_inner);
        };
        drop(checks);
        let done = work(&mut check);
        lock(&self.checks).free.push(check);
        self.check_freed.notify_one();
        done
    }

    /// A frame of a host begins; `close` ends the connection that it comes over.
    pub fn enter(self: &Arc<Self>, whose: &str, close: Option<Closer>) -> Charge {
        let (whose, now) = (Arc::<str>::from(whose), Instant::now());
        let mut u = lock(&self.used);
        u.next = u.next.saturating_add(1);
        let ticket = u.next;
        u.hosts.entry(Arc::clone(&whose)).or_default().frames.insert(ticket);
        let coming = Coming { whose: Arc::clone(&whose), begun: now, moved: now, theirs: true, close };
        u.frames.insert(ticket, coming);
        Charge { budget: Arc::clone(self), whose, ticket, bytes: 0 }
    }
}

/// What one frame has charged; given back when dropped.
pub struct Charge {
    budget: Arc<Budget>,
    whose: Arc<str>,
    ticket: u64,
    bytes: usize,
}

impl Charge {
    /// What it has charged.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Charges `n` bytes if there is room now. If not, a frame that is too slow makes some for another attempt.
    pub fn now(&mut self, n: usize) -> bool {
        let budget = Arc::clone(&self.budget);
        let mut u = lock(&budget.used);
        let charged = self.at_once(&mut u, n);
        if !charged {
            u.close_slowest_for(&self.whose, n, budget.cap, Instant::now());
        }
        charged
    }

    fn at_once(&mut self, u: &mut Used, n: usize) -> bool {
        let goes = u.goes(self.ticket, &self.whose, n, self.budget.cap);
        if goes {
            u.take(self.ticket, &self.whose, n, Instant::now());
            self.bytes = self.bytes.saturating_add(n);
        } else {
            u.moved(self.ticket, false, Instant::now());
        }
        goes
    }

    /// Charges `n` bytes, waiting for others to finish until `deadline`; false if they did not. The oldest frame of all never
    /// waits, and the oldest of a host not for that host's share.
    pub fn wait(&mut self, n: usize, deadline: Instant) -> bool {
        let budget = Arc::clone(&self.budget);
        let (cap, ticket, mut now) = (budget.cap, self.ticket, Instant::now());
        let mut u = lock(&budget.used);
        if self.at_once(&mut u, n) {
            return true;
        }
        let wake = Arc::new(Condvar::new());
        if let Some(share) = u.hosts.get_mut(&self.whose) {
            share.waiting.insert(ticket, (n, Arc::clone(&wake)));
            u.waiting = u.waiting.saturating_add(1);
        }
        loop {
            let left = deadline.saturating_duration_since(now);
            if left.is_zero() {
                u.leave(ticket, &self.whose);
                return false;
            }
            let mut pause = left;
            if u.hosts.get(&self.whose).is_some_and(|share| share.looks(ticket)) {
                pause = left.min(LOOK);
                u.close_slowest_for(&self.whose, n, cap, now);
            }
            u = wake.wait_timeout(u, pause).unwrap_or_else(PoisonError::into_inner).0;
            let waits = u.hosts.get(&self.whose).is_some_and(|share| share.waiting.contains_key(&ticket));
            if !waits {
                // Whoever made room has charged it.
                self.bytes = self.bytes.saturating_add(n);
                return true;
            }
            now = Instant::now();
        }
    }

    /// The frame is here, whole: what it waits for from now on is not its sender's fault.
    pub(super) fn whole(&self) {
        if let Some(f) = lock(&self.budget.used).frames.get_mut(&self.ticket) {
            f.theirs = false;
        }
    }

    /// A charge on the same budget, of nothing yet, for bytes that it would be good to keep.
    #[must_use]
    pub fn luxury(&self) -> Self {
        Self { budget: Arc::clone(&self.budget), whose: Arc::clone(&self.whose), ticket: LUXURY, bytes: 0 }
    }

    /// Charges `n` bytes more, only if there is room now: half of the budget is for what still arrives, or whoever stores
    /// too slowly would keep all senders waiting.
    pub(super) fn grow(&mut self, n: usize) -> bool {
        let mut u = lock(&self.budget.used);
        let fits =
            u.kept.saturating_add(n) <= self.budget.cap / 2 && u.bytes.saturating_add(n) <= self.budget.cap;
        if fits {
            u.kept = u.kept.saturating_add(n);
            u.bytes = u.bytes.saturating_add(n);
            self.bytes = self.bytes.saturating_add(n);
        }
        fits
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let mut u = lock(&self.budget.used);
        u.bytes = u.bytes.saturating_sub(self.bytes);
        if self.ticket == LUXURY {
            u.kept = u.kept.saturating_sub(self.bytes);
        } else {
            u.frames.remove(&self.ticket);
            if let Some(share) = u.hosts.get_mut(&self.whose) {
                share.bytes = share.bytes.saturating_sub(self.bytes);
                share.frames.remove(&self.ticket);
                if share.frames.is_empty() {
                    u.hosts.remove(&self.whose);
                }
            }
        }
        u.give(self.budget.cap);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, channel};
    use std::thread::{JoinHandle, spawn};

    const CAP: usize = 400;

    fn soon() -> Instant {
        Instant::now() + Duration::from_mins(1)
    }

    /// A frame that takes so many bytes, at once.
    fn held(budget: &Arc<Budget>, whose: &str, n: usize) -> Charge {
        let mut charge = budget.enter(whose, None);
        assert!(charge.wait(n, Instant::now()), "{whose}");
        charge
    }

    /// A frame that waits for so many, in a thread; its name comes out when it has them.
    fn waits(
        budget: &Arc<Budget>,
        whose: &'static str,
        n: usize,
        done: &std::sync::mpsc::Sender<&'static str>,
    ) -> JoinHandle<Charge> {
        let (mut charge, done) = (budget.enter(whose, None), done.clone());
        let before = lock(&budget.used).waiting;
        let thread = spawn(move || {
            assert!(charge.wait(n, soon()), "{whose}");
            done.send(whose).unwrap();
            charge
        });
        while lock(&budget.used).waiting == before {
            std::thread::yield_now();
        }
        thread
    }

    fn nobody(done: &Receiver<&'static str>) {
        assert_eq!(done.recv_timeout(Duration::from_millis(50)).ok(), None);
    }

    #[test]
    fn room_goes_to_the_host_that_has_least_and_nobody_else_is_woken() {
        let budget = Budget::new(CAP);
        let (told, done) = channel();
        let first = held(&budget, "a", 100);
        let others: Vec<Charge> = ["b", "c", "d"].map(|whose| held(&budget, whose, 100)).into();
        // They fill all of it; who came first among those that wait has most already.
        let more = waits(&budget, "b", 60, &told);
        let least = waits(&budget, "e", 60, &told);
        nobody(&done);
        drop(first);
        assert_eq!(done.recv().unwrap(), "e");
        // 40 bytes are free, and b may have none of them.
        nobody(&done);
        assert_eq!(lock(&budget.used).waiting, 1);
        drop(others);
        assert_eq!(done.recv().unwrap(), "b");
        drop((more.join().unwrap(), least.join().unwrap()));
        let u = lock(&budget.used);
        assert!(u.bytes == 0 && u.hosts.is_empty() && u.frames.is_empty() && u.waiting == 0);
    }

    #[test]
    fn the_oldest_frame_never_waits_and_is_woken_when_it_becomes_the_oldest() {
        let budget = Budget::new(CAP);
        let (told, done) = channel();
        let mut oldest = held(&budget, "a", 400);
        assert!(oldest.wait(1_000, Instant::now()));
        let next = waits(&budget, "b", 2_000, &told);
        let last = waits(&budget, "c", 1, &told);
        nobody(&done);
        drop(oldest);
        // It has more than all, and c must wait until it is done.
        assert_eq!(done.recv().unwrap(), "b");
        nobody(&done);
        drop(next.join().unwrap());
        assert_eq!(done.recv().unwrap(), "c");
        drop(last.join().unwrap());
    }

    #[test]
    fn a_small_piece_passes_a_large_one_of_its_host_that_does_not_fit() {
        let budget = Budget::new(CAP);
        let (told, done) = channel();
        let (first, second) = (held(&budget, "a", 50), held(&budget, "a", 40));
        let large = waits(&budget, "a", 90, &told);
        let small = waits(&budget, "a", 45, &told);
        nobody(&done);
        drop(second);
        assert_eq!(done.recv().unwrap(), "a");
        drop(small.join().unwrap());
        nobody(&done);
        drop(first);
        drop(large.join().unwrap());
    }

    #[test]
    fn who_has_waited_long_enough_leaves_nothing_behind() {
        let budget = Budget::new(CAP);
        let all = held(&budget, "a", 400);
        let mut late = budget.enter("b", None);
        assert!(!late.wait(1, Instant::now() + Duration::from_millis(20)));
        assert_eq!((late.bytes(), lock(&budget.used).waiting), (0, 0));
        drop(all);
        assert!(late.wait(100, Instant::now()));
        drop(late);
        assert_eq!(lock(&budget.used).bytes, 0);
    }
}
