//! Which pack goes next, to which address, and what an outcome means for it: packs and a clock in, numbers out.
//!
//! A pack may be bound to an address ([`super::route`] says why). Those for the address in use have all connections; those
//! for another one go there one at a time, and wait with its back-off. Beyond a few of each address they are mere numbers, so
//! that a million packs for a collector that is away slow down nobody.

use super::route::Route;
use super::{Fail, Outcome};
use crate::clock::Hour;
use crate::config::SenderConfig;
use crate::disk::sim::Rng;
use crate::planted::{self, Bug};
use std::collections::{BTreeMap, BTreeSet, HashMap};

const BACKOFF_MIN_MS: u64 = 200;
/// Tries after the first `wrong header`.
const REFUSALS_MAX: u32 = 5;
/// Packs bound to one address that are looked at together; at least two for each connection.
const BOUND_MIN: usize = 64;
/// What to do with a pack after an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Forget it.
    Done,
    /// It stays in the queue.
    Again,
    /// Set it aside; it left the queue.
    Hold,
}

#[derive(Clone, Default)]
struct Item {
    ready_ms: u64,
    attempts: u32,
    refusals: u32,
    first_refusal_ms: u64,
    busy: bool,
    /// It got no answer when its address had taken so many others.
    unanswered: Option<u64>,
    /// The address that it is bound to; none = the one in use.
    bound: Option<usize>,
}

/// What is known of the way to one address.
#[derive(Clone, Default)]
struct Lane {
    ready_ms: u64,
    fails: u32,
    /// Packs that were taken there.
    taken: u64,
    /// Packs bound to it among the items.
    bound: usize,
    /// The others: mere numbers, which cost little, and no time when the next pack is looked for.
    parked: BTreeSet<u64>,
}

/// The packs that wait for being sent, oldest first. It holds numbers only.
pub struct Queue {
    items: BTreeMap<u64, Item>,
    route: Route,
    /// By address.
    lanes: Vec<Lane>,
    /// Packs under way, and to which address.
    away: HashMap<u64, usize>,
    senders: usize,
    bound_max: usize,
    backoff_max_ms: u64,
    held_after_ms: u64,
    holds_denied: bool,
    turn: bool,
    rng: Rng,
}

impl Queue {
    /// An empty queue. `seed` is for the jitter.
    pub fn new(conf: &SenderConfig, seed: u64) -> Self {
        let route = Route::new(conf);
        Self {
            items: BTreeMap::new(),
            lanes: vec![Lane::default(); route.count()],
            away: HashMap::new(),
            // With one address the connections are limit enough.
            senders: if route.count() > 1 { conf.senders } else { usize::MAX },
            route,
            bound_max: BOUND_MIN.max(conf.senders.saturating_mul(2)),
            backoff_max_ms: conf.backoff_max_ms,
            held_after_ms: conf.held_after_ms,
            holds_denied: false,
            turn: false,
            rng: Rng::new(seed),
        }
    }

    /// A pack that is denied is set aside as one that is refused for good: a relay's queue has packs of many senders, and the
    /// one that nobody takes must not fill the room of the others.
    #[must_use]
    pub fn holding_denied(mut self) -> Self {
        self.holds_denied = true;
        self
    }

    /// Is this pack in the queue, whatever its state?
    pub fn has(&self, number: u64) -> bool {
        self.items.contains_key(&number) || self.lanes.iter().any(|l| l.parked.contains(&number))
    }

    /// Was this pack sent before, and is still in the queue?
    pub fn is_tried(&self, number: u64) -> bool {
        self.items.get(&number).is_some_and(|item| item.attempts > 0)
    }

    /// Where packs go.
    pub fn route(&self) -> &Route {
        &self.route
    }

    /// Sentences of the route for the log.
    pub fn take_warnings(&mut self) -> Vec<String> {
        self.route.take_warnings()
    }

    /// Adds a pack; lower numbers go first.
    pub fn push(&mut self, number: u64) {
        self.items.entry(number).or_default();
    }

    /// From now on this pack goes to one address only; an answer that another one still gives to it counts for nothing.
    /// `None` = to the address in use.
    pub fn bind(&mut self, number: u64, to: Option<usize>) {
        let before = self.bound(number);
        if before == to {
            return;
        }
        for lane in &mut self.lanes {
            if lane.parked.remove(&number) {
                self.items.insert(number, Item::default());
            }
        }
        if let Some(mut item) = self.take(number) {
            item.bound = to;
            self.put(number, item);
        }
        self.park(number);
        self.unpark(before);
    }

    /// Is this pack bound to an address that is not in use?
    pub fn is_elsewhere(&self, number: u64) -> bool {
        self.bound(number).is_some_and(|to| to != self.route.used())
    }

    /// The address to which this pack is bound.
    pub fn bound(&self, number: u64) -> Option<usize> {
        match self.items.get(&number) {
            Some(item) => item.bound,
            None => self.lanes.iter().position(|l| l.parked.contains(&number)),
        }
    }

    fn take(&mut self, number: u64) -> Option<Item> {
        let item = self.items.remove(&number)?;
        if let Some(lane) = item.bound.and_then(|to| self.lanes.get_mut(to)) {
            lane.bound = lane.bound.saturating_sub(1);
        }
        Some(item)
    }

    fn put(&mut self, number: u64, item: Item) {
        if let Some(lane) = item.bound.and_then(|to| self.lanes.get_mut(to)) {
            lane.bound = lane.bound.saturating_add(1);
        }
        self.items.insert(number, item);
    }

    /// A pack that was not tried yet waits as a number, if enough others are bound to the same address.
    fn park(&mut self, number: u64) {
        let most = self.bound_max;
        let untried = self.items.get(&number).filter(|i| !i.busy && i.attempts == 0);
        let Some(to) = untried.and_then(|i| i.bound) else { return };
        if self.lanes.get(to).is_some_and(|l| l.bound > most) && self.take(number).is_some() {
            self.lanes.get_mut(to).map(|l| l.parked.insert(number));
        }
    }

    /// The oldest of those take the places that become free.
    fn unpark(&mut self, to: Option<usize>) {
        let Some(to) = to else { return };
        while let Some(lane) = self.lanes.get_mut(to).filter(|l| l.bound < self.bound_max) {
            let Some(number) = lane.parked.pop_first() else { return };
            self.put(number, Item { bound: Some(to), ..Item::default() });
        }
    }

    /// The address to which this pack is under way.
    pub fn sent_to(&self, number: u64) -> Option<usize> {
        self.away.get(&number).copied()
    }

    /// Takes a pack out, whatever its state. If it is under way its connection is free again when that is reported.
    pub fn remove(&mut self, number: u64) {
        self.lanes.iter_mut().for_each(|l| _ = l.parked.remove(&number));
        let to = self.take(number).and_then(|item| item.bound);
        self.unpark(to);
    }

    /// A pack that [`Queue::next`] gave out was not sent, because of its binding: its turn comes there.
    pub fn put_back(&mut self, number: u64) {
        self.away.remove(&number);
        if let Some(item) = self.items.get_mut(&number) {
            item.busy = false;
        }
        self.park(number);
    }

    /// A pack that [`Queue::next`] gave out will never be sent.
    pub fn drop_unsent(&mut self, number: u64) {
        self.away.remove(&number);
        self.remove(number);
    }

    /// As [`Queue::put_back`], because it could not be read; it waits as after an attempt, and no address is to blame.
    pub fn put_off(&mut self, number: u64, now_ms: u64) {
        self.put_back(number);
        let attempts = self.items.get(&number).map_or(0, |i| i.attempts.saturating_add(1));
        let ready_ms = now_ms.saturating_add(self.backoff(attempts));
        if let Some(item) = self.items.get_mut(&number) {
            (item.attempts, item.ready_ms) = (attempts, ready_ms);
        }
    }

    /// Packs in the queue, those under way included.
    pub fn len(&self) -> usize {
        self.items.len().saturating_add(self.lanes.iter().map(|l| l.parked.len()).sum::<usize>())
    }

    /// Packs that are bound to an address that is not in use.
    pub fn elsewhere(&self) -> usize {
        let others = self.lanes.iter().enumerate().filter(|(to, _)| *to != self.route.used());
        others.map(|(_, lane)| lane.bound.saturating_add(lane.parked.len())).sum()
    }

    /// All packs, without those that wait as mere numbers.
    pub fn weighed(&self) -> usize {
        self.items.len()
    }

    /// Packs for the address in use that were not tried yet.
    pub fn fresh(&self) -> usize {
        self.items.values().filter(|i| i.attempts == 0 && !self.waits_elsewhere(i)).count()
    }

    fn waits_elsewhere(&self, item: &Item) -> bool {
        item.bound.is_some_and(|to| to != self.route.used())
    }

    /// Is the queue empty?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Has the address in use not been reachable lately?
    pub fn is_link_down(&self) -> bool {
        self.lanes.get(self.route.used()).is_some_and(|l| l.fails > 0)
    }

    /// May another pack be sent to each address now?
    fn open_lanes(&self, now_ms: u64) -> Vec<bool> {
        let open = |(to, lane): (usize, &Lane)| {
            let under_way = self.away.values().filter(|a| **a == to).count();
            now_ms >= lane.ready_ms && under_way < if to == self.route.used() { self.senders } else { 1 }
        };
        self.lanes.iter().enumerate().map(open).collect()
    }

    /// The pack to send now, if one is ready; it counts as under way until [`Queue::report`], and [`Queue::sent_to`] says
    /// where to.
    pub fn next(&mut self, now_ms: u64) -> Option<u64> {
        let (open, used) = (self.open_lanes(now_ms), self.route.used());
        let goes = |i: &Item| open.get(i.bound.unwrap_or(used)).is_some_and(|o| *o);
        // In turn the oldest pack and the one that has been ready longest (an untried one first): packs that are
        // refused again and again must not take up every sender.
        self.turn = !self.turn;
        let mut ready = self.items.iter_mut().filter(|(_, i)| !i.busy && i.ready_ms <= now_ms && goes(i));
        let (number, item) =
            if self.turn { ready.next()? } else { ready.min_by_key(|(n, i)| (i.ready_ms, **n))? };
        item.busy = true;
        self.away.insert(*number, item.bound.unwrap_or(used));
        Some(*number)
    }

    /// When the next pack is ready, if all are waiting; for a thread that wants to sleep.
    pub fn ready_at(&self) -> Option<u64> {
        let lane = |i: &Item| self.lanes.get(i.bound.unwrap_or(self.route.used())).map_or(0, |l| l.ready_ms);
        self.items.values().filter(|i| !i.busy).map(|i| i.ready_ms.max(lane(i))).min()
    }

    /// The time goes on; `hour` is the current one.
    pub fn tick(&mut self, now_ms: u64, hour: Hour) {
        if self.route.tick(now_ms, hour) {
            self.begin_anew(now_ms);
        }
    }

    /// The address to be probed now, if one is.
    pub fn probe(&mut self, now_ms: u64) -> Option<usize> {
        self.route.probe(now_ms)
    }

    /// Takes what became of a probe.
    pub fn probed(&mut self, to: usize, outcome: &Outcome, now_ms: u64) {
        self.route.probed(to, *outcome == Outcome::Sent, now_ms);
    }

    /// Another address is in use: what waited because of the one before need not wait any more.
    fn begin_anew(&mut self, now_ms: u64) {
        for item in self.items.values_mut().filter(|i| i.bound.is_none() && i.refusals == 0) {
            item.ready_ms = item.ready_ms.min(now_ms);
        }
    }

    /// Takes an outcome.
    pub fn report(&mut self, number: u64, outcome: &Outcome, now_ms: u64) -> Next {
        let to = self.away.remove(&number).unwrap_or_else(|| self.route.used());
        let fails = match outcome {
            Outcome::TempFail { how: Fail::NoConnection, .. } => {
                self.lanes.get(to).map_or(0, |l| l.fails).saturating_add(1)
            }
            _ => 0,
        };
        // Nothing is wrong with the pack; everybody waits for the link.
        let ready_ms = if fails > 0 { now_ms.saturating_add(self.backoff(fails)) } else { 0 };
        if let Some(lane) = self.lanes.get_mut(to) {
            (lane.fails, lane.ready_ms) = (fails, ready_ms);
        }
        let bound = self.bound(number);
        let its_own = self.is_its_own(number, to, outcome);
        let next = self.weigh(number, to, outcome, now_ms);
        self.unpark(bound);
        // What one pack is answered says nothing of the address that takes others.
        if !its_own && self.route.note(to, outcome, now_ms) {
            self.begin_anew(now_ms);
        }
        next
    }

    /// A pack that gets no answer again, although others were taken since it got none before: it is not the address.
    fn is_its_own(&mut self, number: u64, to: usize, outcome: &Outcome) -> bool {
        let Some(lane) = self.lanes.get_mut(to) else { return false };
        match outcome {
            Outcome::Sent => {
                lane.taken = lane.taken.saturating_add(1);
                false
            }
            Outcome::TempFail { how: Fail::NoAnswer, .. } => {
                let Some(item) = self.items.get_mut(&number) else { return false };
                let before = item.unanswered.replace(lane.taken);
                before.is_some_and(|taken| lane.taken > taken)
            }
            _ => false,
        }
    }

    fn weigh(&mut self, number: u64, to: usize, outcome: &Outcome, now_ms: u64) -> Next {
        let Some(mut item) = self.take(number) else { return Next::Done };
        item.busy = false;
        item.attempts = item.attempts.saturating_add(1);
        match outcome {
            // Its hour was bound to another address meanwhile, and all of it has to be there.
            Outcome::Sent if item.bound.is_some_and(|b| b != to) => item.ready_ms = now_ms,
            Outcome::Sent => return Next::Done,
            Outcome::TempFail { how: Fail::NoConnection, .. } => item.ready_ms = now_ms,
            Outcome::TempFail { .. } if planted::is(Bug::SentCountsAsAcked) => return Next::Done,
            Outcome::TempFail { how: Fail::Denied, .. } if self.holds_denied => {
                if self.is_given_up(&mut item, now_ms) {
                    return Next::Hold;
                }
            }
            Outcome::TempFail { .. } => item.ready_ms = now_ms.saturating_add(self.backoff(item.attempts)),
            Outcome::PermFail(_) => {
                if self.is_given_up(&mut item, now_ms) {
                    return Next::Hold;
                }
            }
        }
        self.put(number, item);
        Next::Again
    }

    /// A pack was refused once more. Was that the last time?
    fn is_given_up(&self, item: &mut Item, now_ms: u64) -> bool {
        if item.refusals == 0 {
            item.first_refusal_ms = now_ms;
        }
        item.refusals = item.refusals.saturating_add(1);
        let waited = now_ms.saturating_sub(item.first_refusal_ms);
        if item.refusals > REFUSALS_MAX && waited >= self.held_after_ms {
            return true;
        }
        let step = self.held_after_ms.checked_div(u64::from(REFUSALS_MAX)).unwrap_or(0);
        item.ready_ms = item.first_refusal_ms.saturating_add(step.saturating_mul(u64::from(item.refusals)));
        false
    }

    fn backoff(&mut self, attempts: u32) -> u64 {
        let cap =
            BACKOFF_MIN_MS.saturating_mul(1 << attempts.min(20)).min(self.backoff_max_ms).max(BACKOFF_MIN_MS);
        let spread = cap.saturating_sub(BACKOFF_MIN_MS).saturating_add(1);
        self.rng.below(spread).saturating_add(BACKOFF_MIN_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn queue() -> Queue {
        let text = b"[tail]\nlog_file = /l.<%Y%m%d%H>\nsend_to = h:1\n";
        Queue::new(&Config::parse("t", text).tail(false).unwrap().0.sender, 1)
    }

    #[test]
    fn oldest_first_and_a_refused_pack_delays_no_other() {
        let mut q = queue();
        (1..=3).for_each(|n| q.push(n));
        assert_eq!((q.next(0), q.next(0)), (Some(1), Some(2)));
        let busy = Outcome::TempFail { reason: "busy".into(), how: Fail::Answered };
        assert_eq!(q.report(1, &busy, 0), Next::Again);
        assert_eq!(q.next(0), Some(3));
        assert_eq!(q.next(0), None);
        assert_eq!(q.next(60_000), Some(1));
    }

    /// The story: packs that the next receiver closed its connection for, each time, made a relay leave a good address.
    #[test]
    fn a_pack_that_is_never_answered_while_others_are_taken_is_no_fault_of_the_address() {
        let text = b"[tail]\nlog_file = /l.<%Y%m%d%H>\nsend_to = a:1, b:1\nfailover_after = 3\n";
        let conf = Config::parse("t", text).tail(false).unwrap().0.sender;
        let silence = Outcome::TempFail { reason: String::new(), how: Fail::NoAnswer };
        let mut q = Queue::new(&conf, 1).holding_denied();
        q.push(1);
        let (mut now, mut next) = (0, 2);
        for _ in 0..200 {
            now += 1_000;
            q.push(next);
            next += 1;
            while let Some(n) = q.next(now) {
                let outcome = if n == 1 { &silence } else { &Outcome::Sent };
                q.report(n, outcome, now);
            }
            assert_eq!(q.route().used(), 0);
        }
        // When nothing else is taken the address is to blame.
        assert_eq!(q.route().used(), 0);
        (1..=3).for_each(|n| q.push(next + n));
        for _ in 1..=3 {
            assert_eq!(q.route().used(), 0);
            let number = q.next(now).unwrap();
            q.report(number, &silence, now);
        }
        assert_eq!(q.route().used(), 1);
    }

    #[test]
    fn without_a_link_all_wait_and_the_first_goes_first_again() {
        let mut q = queue();
        (1..=2).for_each(|n| q.push(n));
        let down = Outcome::TempFail { reason: "refused".into(), how: Fail::NoConnection };
        let n = q.next(0).unwrap();
        q.report(n, &down, 0);
        assert!(q.is_link_down());
        assert_eq!(q.next(0), None);
        assert!(q.ready_at().unwrap() >= BACKOFF_MIN_MS);
        assert_eq!(q.next(60_000), Some(1));
        q.report(1, &Outcome::Sent, 60_000);
        assert!(!q.is_link_down());
    }

    #[test]
    fn wrong_header_is_tried_five_more_times_over_ten_minutes_and_in_a_relay_so_is_denied() {
        let denied = silence(Fail::Denied);
        for (mut q, refusal) in
            [(queue(), Outcome::PermFail("wrong header".into())), (queue().holding_denied(), denied.clone())]
        {
            q.push(1);
            let (mut now, mut tries) = (0, 0);
            loop {
                assert_eq!(q.next(now), Some(1));
                tries += 1;
                match q.report(1, &refusal, now) {
                    Next::Hold => break,
                    _ => now = q.ready_at().unwrap(),
                }
            }
            assert_eq!((tries, now), (6, 600_000));
            assert!(q.is_empty() && !q.has(1));
        }
        // A follower has packs of its own only: they wait, however long.
        let mut q = queue();
        q.push(1);
        for now in (0..100).map(|n| n * 60_000) {
            assert_eq!((q.next(now), q.report(1, &denied, now)), (Some(1), Next::Again));
        }
    }

    fn two() -> Queue {
        let text = b"[tail]\nlog_file = /l.<%Y%m%d%H>\nsend_to = a:1, b:1\nsenders = 3\nfailover_after = 2\n";
        Queue::new(&Config::parse("t", text).tail(false).unwrap().0.sender, 1)
    }

    fn silence(how: Fail) -> Outcome {
        Outcome::TempFail { reason: String::new(), how }
    }

    #[test]
    fn what_is_bound_to_a_silent_address_waits_there_and_stops_no_other() {
        let mut q = two();
        (1..=9).for_each(|n| q.push(n));
        (1..=4).for_each(|n| q.bind(n, Some(0)));
        // The bound and the unbound ones go to the first address, until it has failed twice.
        let sent: Vec<u64> = std::iter::from_fn(|| q.next(0)).collect();
        assert_eq!((sent.len(), q.sent_to(sent[0])), (3, Some(0)));
        for n in sent {
            q.report(n, &silence(Fail::NoConnection), 0);
        }
        assert!(q.route().used() == 1 && !q.is_link_down());
        assert_eq!(q.take_warnings().len(), 1);
        // Unbound packs need not wait for what was the link; one bound pack is tried when that is ready.
        let (mut now, mut bound) = (0, 0);
        for n in 5..=9 {
            let (number, to) = loop {
                let number = q.next(now).unwrap();
                let to = q.sent_to(number).unwrap();
                if to == 1 {
                    break (number, to);
                }
                bound += 1;
                assert!(number <= 4 && q.is_elsewhere(number));
                q.report(number, &silence(Fail::NoConnection), now);
            };
            assert_eq!((number, to), (n, 1));
            assert_eq!(q.report(number, &Outcome::Sent, now), Next::Done);
            now += 1_000;
        }
        assert!(bound > 0 && q.len() == 4 && q.fresh() == 0, "{bound}");
        // Never two at a time.
        now += 60_000;
        assert!(q.next(now).is_some_and(|n| n <= 4));
        assert_eq!(q.next(now), None);
    }

    #[test]
    fn many_that_wait_for_one_address_wait_as_numbers() {
        let mut q = two();
        let all = 1..=1_000;
        all.clone().for_each(|n| q.push(n));
        all.clone().for_each(|n| q.bind(n, Some(1)));
        assert_eq!((q.len(), q.elsewhere(), q.weighed(), q.fresh()), (1_000, 1_000, BOUND_MIN, 0));
        assert!(q.is_elsewhere(1) && q.is_elsewhere(1_000) && q.bound(1_000) == Some(1));
        // Others come and go, one is taken out, one is bound anew.
        q.push(1_001);
        q.remove(999);
        q.bind(1_000, Some(0));
        let mut first = Vec::new();
        let mut sent = Vec::new();
        while let Some(n) = q.next(0) {
            if q.sent_to(n) == Some(0) {
                first.push(n);
            } else {
                sent.push(n);
            }
            assert_eq!(q.report(n, &Outcome::Sent, 0), Next::Done);
        }
        first.sort_unstable();
        sent.sort_unstable();
        assert_eq!((first, sent), (vec![1_000, 1_001], (1..=998).collect()));
        assert_eq!((q.len(), q.weighed(), q.elsewhere()), (0, 0, 0));
    }

    #[test]
    fn an_answer_of_an_address_that_its_hour_is_not_bound_to_counts_for_nothing() {
        let mut q = two();
        (1..=2).for_each(|n| q.push(n));
        assert_eq!((q.next(0), q.next(0)), (Some(1), Some(2)));
        q.bind(1, Some(1));
        assert_eq!(q.report(1, &Outcome::Sent, 0), Next::Again);
        assert_eq!((q.next(0), q.sent_to(1)), (Some(1), Some(1)));
        assert_eq!(q.report(1, &Outcome::Sent, 0), Next::Done);
        // One that was taken out meanwhile is of no interest, and its connection is free again.
        q.remove(2);
        assert_eq!(q.report(2, &silence(Fail::NoAnswer), 0), Next::Done);
        assert!(q.is_empty() && q.sent_to(2).is_none());
        // So it is for those that nobody will send.
        (3..=9).for_each(|n| q.push(n));
        for n in 3..=8 {
            assert_eq!(q.next(0), Some(n));
            q.drop_unsent(n);
        }
        assert_eq!((q.next(0), q.len()), (Some(9), 1));
    }
}
