//! Which of several addresses the packs go to, and when that changes: decisions only, no connection and no thread.
//!
//! One address is in use. When it has failed `failover_after` times in a row the next one is, and the list is a ring. An
//! hour of which one pack was acknowledged stays where that was, because a receiver proves hours, and a half on each of two
//! collectors is certified by neither; so whoever owns the queue tells it which packs are *bound* to which address.
//! `failover = any` is for relays of one collector: nothing is bound.
//!
//! Back to the first address it goes at an hour's start, when most is unbound, and only after that address could be reached
//! for ten minutes. Where nothing is bound it need not wait for the hour.

use super::{Fail, Outcome};
use crate::clock::Hour;
use crate::config::{Failover, SenderConfig};

/// How often the first address is tried while another is in use.
pub const PROBE_MS: u64 = 30_000;
/// How long it must have answered before it is used again.
pub const BACK_MS: u64 = 600_000;

/// See the module's header.
pub struct Route {
    addrs: Vec<String>,
    binds: bool,
    after: u32,
    used: usize,
    /// Failures in a row of the address in use.
    row: u32,
    /// Failures in a row of each address.
    fails: Vec<u32>,
    /// Since when the first address can be reached, while another is in use.
    answers_since_ms: Option<u64>,
    probe_ms: u64,
    hour: Option<Hour>,
    warnings: Vec<String>,
}

impl Route {
    /// Begins with the first address.
    pub fn new(conf: &SenderConfig) -> Self {
        Self {
            addrs: conf.send_to.clone(),
            binds: conf.failover == Failover::Hour,
            after: conf.failover_after,
            used: 0,
            row: 0,
            fails: vec![0; conf.send_to.len()],
            answers_since_ms: None,
            probe_ms: 0,
            hour: None,
            warnings: Vec::new(),
        }
    }

    /// The address in use, as an index.
    pub fn used(&self) -> usize {
        self.used
    }

    /// How many addresses there are.
    pub fn count(&self) -> usize {
        self.addrs.len()
    }

    /// Does an hour stay where one of its packs was acknowledged?
    pub fn binds(&self) -> bool {
        self.binds
    }

    /// An address by its index.
    pub fn addr(&self, index: usize) -> &str {
        self.addrs.get(index).map_or("", String::as_str)
    }

    /// The index of an address; `None` = it is not in the list (any more).
    pub fn index_of(&self, addr: &str) -> Option<usize> {
        self.addrs.iter().position(|a| a == addr)
    }

    /// Addresses that have failed so often that they would be left.
    pub fn silent(&self) -> impl Iterator<Item = usize> + '_ {
        self.fails.iter().enumerate().filter(|(_, n)| **n >= self.after).map(|(i, _)| i)
    }

    /// Takes what became of an attempt at one address; true = another is in use now.
    pub fn note(&mut self, to: usize, outcome: &Outcome, now_ms: u64) -> bool {
        let failed = matches!(outcome, Outcome::TempFail { how: Fail::NoConnection | Fail::NoAnswer, .. });
        if let Some(fails) = self.fails.get_mut(to) {
            *fails = if failed { fails.saturating_add(1) } else { 0 };
        }
        if to == 0 {
            self.reached(!failed, now_ms);
        }
        if to != self.used {
            return false;
        }
        self.row = if failed { self.row.saturating_add(1) } else { 0 };
        if self.row < self.after || self.addrs.len() < 2 {
            return false;
        }
        let old = self.used;
        self.used = old.saturating_add(1).checked_rem(self.addrs.len()).unwrap_or(0);
        self.warnings.push(format!(
            "sending to {} now: {} does not answer since {} attempts; nothing is lost",
            self.addr(self.used),
            self.addr(old),
            self.row
        ));
        (self.row, self.answers_since_ms, self.probe_ms) = (0, None, now_ms.saturating_add(PROBE_MS));
        true
    }

    /// Could a connection to the first address be opened?
    fn reached(&mut self, yes: bool, now_ms: u64) {
        self.answers_since_ms = self.answers_since_ms.filter(|_| yes).or(yes.then_some(now_ms));
    }

    /// The address to be probed now, if one is.
    pub fn probe(&mut self, now_ms: u64) -> Option<usize> {
        if self.used == 0 || now_ms < self.probe_ms {
            return None;
        }
        self.probe_ms = now_ms.saturating_add(PROBE_MS);
        Some(0)
    }

    /// Takes what became of a probe. A connection that opens is no answer to a pack: it ends no row of failures.
    pub fn probed(&mut self, to: usize, connected: bool, now_ms: u64) {
        if to == 0 {
            self.reached(connected, now_ms);
        }
    }

    /// The time goes on; `hour` is the current one. True = the first address is in use again.
    pub fn tick(&mut self, now_ms: u64, hour: Hour) -> bool {
        let begins = self.hour.replace(hour).is_some_and(|before| before != hour);
        let long = self.answers_since_ms.is_some_and(|since| now_ms.saturating_sub(since) >= BACK_MS);
        if self.used == 0 || !long || (self.binds && !begins) {
            return false;
        }
        let rest = if self.binds {
            format!("; hours that {} has begun to acknowledge are ended there", self.addr(self.used))
        } else {
            String::new()
        };
        self.warnings.push(format!("sending to {} again: it answers since ten minutes{rest}", self.addr(0)));
        (self.used, self.row) = (0, 0);
        true
    }

    /// Sentences for the log since the last call.
    pub fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn route(keys: &str) -> Route {
        let text = format!("[tail]\nlog_file = /l.<%Y%m%d%H>\nsend_to = a:1, b:1, c:1\n{keys}");
        Route::new(&Config::parse("t", text.as_bytes()).tail(false).unwrap().0.sender)
    }

    fn fail(how: Fail) -> Outcome {
        Outcome::TempFail { reason: String::new(), how }
    }

    fn hour(text: &str) -> Hour {
        Hour::parse(text).unwrap()
    }

    /// Fails until the address changes; how often.
    fn leave(r: &mut Route, now_ms: u64) -> u32 {
        let used = r.used();
        (1..=100).find(|_| r.note(used, &fail(Fail::NoConnection), now_ms)).unwrap()
    }

    #[test]
    fn ten_failures_in_a_row_and_the_list_is_a_ring() {
        let mut r = route("");
        for next in [1, 2, 0] {
            assert_eq!((leave(&mut r, 0), r.used()), (10, next));
        }
        let said = r.take_warnings();
        assert_eq!(said[0], "sending to b:1 now: a:1 does not answer since 10 attempts; nothing is lost");
        assert_eq!((said.len(), r.take_warnings().len()), (3, 0));
        assert_eq!(r.silent().collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[test]
    fn any_answer_ends_the_row() {
        let mut r = route("failover_after = 3\n");
        let refused = Outcome::PermFail(String::new());
        for answer in [Outcome::Sent, fail(Fail::Answered), fail(Fail::Denied), refused] {
            assert!(!r.note(0, &fail(Fail::NoAnswer), 0));
            assert!(!r.note(0, &fail(Fail::NoConnection), 0));
            assert!(!r.note(0, &answer, 0));
        }
        // What comes late from an address that was left counts for nobody else.
        assert_eq!(leave(&mut r, 0), 3);
        (0..9).for_each(|_| assert!(!r.note(0, &fail(Fail::NoAnswer), 0)));
        assert_eq!((r.used(), leave(&mut r, 0)), (1, 3));
    }

    #[test]
    fn one_address_is_never_left() {
        let text = b"[tail]\nlog_file = /l.<%Y%m%d%H>\nsend_to = a:1\nfailover = any\n";
        let mut r = Route::new(&Config::parse("t", text).tail(false).unwrap().0.sender);
        (0..99).for_each(|_| assert!(!r.note(0, &fail(Fail::NoConnection), 0)));
        assert_eq!((r.used(), r.probe(u64::MAX)), (0, None));
    }

    #[test]
    fn back_at_an_hours_start_after_ten_minutes() {
        let (five, six, seven) = (hour("2026112205"), hour("2026112206"), hour("2026112207"));
        let mut r = route("");
        assert!(!r.tick(0, five) && r.probe(0).is_none());
        leave(&mut r, 0);
        r.take_warnings();
        assert_eq!((r.probe(PROBE_MS - 1), r.probe(PROBE_MS), r.probe(PROBE_MS)), (None, Some(0), None));
        r.probed(0, true, PROBE_MS);
        // Too short, whatever hour begins.
        assert!(!r.tick(PROBE_MS + BACK_MS - 1, six));
        // Long enough, and no hour begins.
        assert!(!r.tick(PROBE_MS + 2 * BACK_MS, six));
        assert!(r.tick(PROBE_MS + 3 * BACK_MS, seven) && r.used() == 0);
        assert!(!r.tick(PROBE_MS + 4 * BACK_MS, seven));
        let said = r.take_warnings();
        assert_eq!(
            said,
            [
                "sending to a:1 again: it answers since ten minutes; hours that b:1 has begun to acknowledge are \
              ended there"
            ]
        );
    }

    #[test]
    fn a_probe_or_a_pack_that_fails_begins_the_ten_minutes_anew() {
        for by_pack in [false, true] {
            let mut r = route("failover = any\n");
            let five = hour("2026112205");
            leave(&mut r, 0);
            r.probed(0, true, 1_000);
            if by_pack {
                r.note(0, &fail(Fail::NoAnswer), 300_000);
            } else {
                r.probed(0, false, 300_000);
            }
            r.probed(0, true, 330_000);
            assert!(!r.tick(1_000 + BACK_MS, five));
            // Nothing is bound: it waits for no hour.
            assert!(r.tick(330_000 + BACK_MS, five));
        }
    }
}
