//! Which hour is written next, and what is known of those that could not be.
//!
//! An hour that the database does not take makes its sender rest, with growing pauses, and no other one: what is wrong may be
//! with its lines alone. One that the store must mend first is tried again now and then, and its sender goes on.

use crate::clock::Hour;
use crate::log::count;
use crate::pack::HourKey;
use std::collections::{BTreeMap, BTreeSet};

/// The first and the longest pause of a sender whose hour the database did not take, in ms.
const RETRY_MS: (u64, u64) = (500, 30_000);
/// How soon an hour that the store must mend is tried again, in ms. More packs of it, or a certificate, come first.
const MEND_MS: u64 = 60_000;
/// Reasons that are told at once.
const REASONS_MAX: usize = 20;

/// An hour: the oldest come first.
pub type At = (Hour, String);

/// See the module's header. Times are of the monotonic clock, in ms.
#[derive(Default)]
pub struct Queue {
    waiting: BTreeSet<At>,
    /// Senders that are worked for.
    busy: BTreeMap<String, Hour>,
    /// Senders that rest: until when, and how long that was.
    resting: BTreeMap<String, (u64, u64)>,
    /// Hours that are tried again, and when.
    later: BTreeMap<At, u64>,
    /// Why an hour does not go on.
    why: BTreeMap<At, Why>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Why {
    /// The database does not take it.
    Away(String),
    /// Something in the store.
    Wrong(String),
}

impl Queue {
    /// These hours have more for the database.
    pub fn grown(&mut self, keys: impl IntoIterator<Item = HourKey>) {
        self.waiting.extend(keys.into_iter().map(|k| (k.hour, k.name)));
    }

    /// The oldest hour of a sender that is free.
    pub fn next(&mut self, now_ms: u64) -> Option<At> {
        let due: Vec<At> =
            self.later.iter().filter(|(_, due)| **due <= now_ms).map(|(at, _)| at.clone()).collect();
        for at in due {
            self.later.remove(&at);
            self.waiting.insert(at);
        }
        let rests = |name: &String| self.resting.get(name).is_some_and(|(until, _)| *until > now_ms);
        let free = |(_, name): &&At| !self.busy.contains_key(name) && !rests(name);
        let at = self.waiting.iter().find(free).cloned()?;
        self.waiting.remove(&at);
        self.later.remove(&at);
        self.busy.insert(at.1.clone(), at.0);
        Some(at)
    }

    /// Nothing became of it; it waits again.
    pub fn put_back(&mut self, at: At) {
        self.busy.remove(&at.1);
        self.waiting.insert(at);
    }

    /// It has gone well. `asked`: the database has answered, so that whoever waits for the same is tried at once.
    pub fn done(&mut self, at: &At, asked: bool) {
        self.busy.remove(&at.1);
        self.resting.remove(&at.1);
        let was = self.why.remove(at);
        if asked && let Some(Why::Away(_)) = was {
            let same = self.why.iter().filter(|(_, why)| Some(*why) == was.as_ref());
            for ((_, name), _) in same {
                self.resting.remove(name);
            }
        }
    }

    /// The database did not take it; true if nobody was told that yet.
    pub fn away(&mut self, at: At, why: &str, now_ms: u64) -> bool {
        self.busy.remove(&at.1);
        let pause = self.resting.get(&at.1).map_or(RETRY_MS.0, |(_, pause)| pause.saturating_mul(2));
        let pause = pause.min(RETRY_MS.1);
        self.resting.insert(at.1.clone(), (now_ms.saturating_add(pause), pause));
        self.waiting.insert(at.clone());
        let why = Why::Away(why.to_owned());
        let known = self.why.values().any(|w| *w == why);
        self.why.insert(at, why);
        !known
    }

    /// The store must mend something first; true if that is new.
    pub fn wrong(&mut self, at: At, why: &str, now_ms: u64) -> bool {
        self.busy.remove(&at.1);
        self.resting.remove(&at.1);
        self.later.insert(at.clone(), now_ms.saturating_add(MEND_MS));
        let why = Why::Wrong(why.to_owned());
        self.why.insert(at, why.clone()) != Some(why)
    }

    /// Hours with something for the database.
    pub fn len(&self) -> usize {
        let busy = self.busy.iter().map(|(name, hour)| (*hour, name.clone()));
        let late = self.later.keys().cloned();
        let others: BTreeSet<At> = busy.chain(late).filter(|at| !self.waiting.contains(at)).collect();
        self.waiting.len().saturating_add(others.len())
    }

    /// What stands in the way, a sentence for each reason.
    pub fn reasons(&self) -> Vec<String> {
        let mut all: BTreeMap<&Why, Vec<&At>> = BTreeMap::new();
        for (at, why) in &self.why {
            all.entry(why).or_default().push(at);
        }
        let text = |(why, hours): (&Why, Vec<&At>)| {
            let (hour, name) = hours.first()?;
            let more = match hours.len().saturating_sub(1) {
                0 => String::new(),
                n => format!(" and {} more", count(n as u64, "hour")),
            };
            Some(match why {
                Why::Away(why) => format!(
                    "{why}; {name}_{hour}{more} tried again and again; lines wait in the store, nothing is lost"
                ),
                Why::Wrong(why) => format!("{name}_{hour}{more}: {why}"),
            })
        };
        all.into_iter().filter_map(text).take(REASONS_MAX).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> HourKey {
        HourKey::parse(text).unwrap()
    }

    fn at(text: &str) -> At {
        let key = key(text);
        (key.hour, key.name)
    }

    fn queue(hours: &[&str]) -> Queue {
        let mut q = Queue::default();
        q.grown(hours.iter().map(|h| key(h)));
        q
    }

    /// It was put back as the oldest, so that each saver took it in turn and slept.
    #[test]
    fn an_hour_that_is_not_taken_holds_up_its_own_sender_only() {
        let mut q = queue(&["web1_2026112205", "web1_2026112206", "web2_2026112207"]);
        let bad = q.next(0).unwrap();
        assert_eq!(bad, at("web1_2026112205"));
        assert!(q.away(bad.clone(), "a rule", 0));
        assert_eq!(q.next(0), Some(at("web2_2026112207")));
        assert_eq!(q.next(499), None);
        // Its pauses grow.
        assert_eq!(q.next(500), Some(bad.clone()));
        assert!(!q.away(bad.clone(), "a rule", 500));
        assert_eq!((q.next(1_499), q.next(1_500)), (None, Some(bad.clone())));
        q.done(&bad, true);
        assert_eq!(q.next(1_500), Some(at("web1_2026112206")));
    }

    #[test]
    fn a_database_that_answers_again_is_asked_by_all_at_once() {
        let mut q = queue(&["web1_2026112205", "web2_2026112205", "web3_2026112205"]);
        for (name, why, now) in [("web1", "down", 0), ("web2", "down", 100), ("web3", "a rule", 100)] {
            let next = q.next(now).unwrap();
            assert_eq!(next.1, name);
            // The same reason is told once.
            assert_eq!(q.away(next, why, now), name != "web2");
        }
        let told = q.reasons();
        assert!(told.iter().any(|t| t.starts_with("down; web1_2026112205 and 1 hour more")), "{told:?}");
        assert!(told.iter().any(|t| t.starts_with("a rule; web3_2026112205 tried")), "{told:?}");
        let first = q.next(500).unwrap();
        assert_eq!((first.1.as_str(), q.next(500)), ("web1", None));
        q.done(&first, true);
        assert_eq!((q.next(500), q.next(500)), (Some(at("web2_2026112205")), None));
    }

    /// It was told once, forgotten, and not tried again before the role was started again.
    #[test]
    fn what_the_store_must_mend_is_remembered_and_tried_again_and_its_sender_goes_on() {
        let mut q = queue(&["web1_2026112205", "web1_2026112206"]);
        let bad = q.next(0).unwrap();
        assert!(q.wrong(bad.clone(), "no data", 0));
        let next = q.next(0).unwrap();
        assert_eq!((next.clone(), q.len()), (at("web1_2026112206"), 2));
        q.done(&next, true);
        assert_eq!((q.next(MEND_MS - 1), q.len()), (None, 1));
        assert_eq!(q.reasons(), ["web1_2026112205: no data"]);
        assert_eq!(q.next(MEND_MS), Some(bad.clone()));
        assert!(!q.wrong(bad.clone(), "no data", MEND_MS));
        // It is certified anew.
        q.grown([key("web1_2026112205")]);
        assert_eq!((q.next(MEND_MS), q.len()), (Some(bad.clone()), 1));
        q.done(&bad, false);
        assert!(q.reasons().is_empty() && q.len() == 0 && q.next(u64::MAX).is_none());
    }
}
