//! Which outages, and which ends of them, are to be told to the operator's program, and when.
//!
//! Each node remembers which of its outages was told last ([`Node::told_ms`]), and that is made durable only after the
//! program has succeeded. What is to be told is the difference between that and what is: so an outage that could not be
//! told is told later, after a restart, too, and one that is over before its turn is not told at all. An alarm comes twice
//! if what was told cannot be stored, and never too seldom.
//!
//! A node that changes to and fro is told less and less often; one of which it failed is tried less and less often, and
//! keeps no other waiting.

use super::nodes::Node;
use super::{Monitor, NAMED_MAX, span};
use std::collections::HashMap;
use std::net::IpAddr;

/// Nodes that are an alarm each; more of them are one alarm: behind a switch that is dead there are hundreds.
const SINGLY_MAX: usize = 3;
/// The least and the longest time between two alarms of one node, ms.
const WAIT_MS: (u64, u64) = (2_000, 3_600_000);
/// After so long without a change the next one is news again, ms.
const QUIET_MS: u64 = 600_000;
/// A program that fails is run so often in quick succession.
const TRIES: u32 = 3;
/// The waits after a failure among these, and the first of the longer ones, ms.
const AGAIN_MS: (u64, u64) = (5_000, 60_000);

type Key = (IpAddr, u16);

/// What is to be said of a node.
#[derive(Clone, Copy, PartialEq, Eq)]
enum News {
    Down,
    Left,
    Up,
}

/// One call of the program.
#[derive(Debug)]
pub struct Alarm {
    /// What it gets.
    pub text: String,
    /// Whom it tells of, and what is told of them then.
    of: Vec<(Key, i64)>,
}

/// When a node may be told of again.
#[derive(Default)]
struct Turn {
    due_ms: u64,
    wait_ms: u64,
    /// What could not be told last, how often, and when it is tried again.
    failed: Option<(i64, u32, u64)>,
}

/// When which node may be told of again.
#[derive(Default)]
pub struct Turns(HashMap<Key, Turn>);

impl Turns {
    /// How often it failed, and when its turn is.
    fn of(&self, key: Key, told_ms: i64) -> (u32, u64) {
        let Some(turn) = self.0.get(&key) else { return (0, 0) };
        match turn.failed.filter(|(what, ..)| *what == told_ms) {
            Some((_, tries, again_ms)) => (tries, turn.due_ms.max(again_ms)),
            None => (0, turn.due_ms),
        }
    }

    /// Only these are remembered.
    pub fn retain(&mut self, known: impl Fn(Key) -> bool) {
        self.0.retain(|key, _| known(*key));
    }
}

/// What is to be said of a node, and what is told of it then.
fn news(n: &Node) -> Option<(News, i64)> {
    match n.alive {
        _ if n.stopped => (n.told_ms != 0).then_some((News::Left, 0)),
        Some(true) => (n.told_ms != 0).then_some((News::Up, 0)),
        // Whether it still does not answer is not known before it was asked.
        Some(false) => (n.told_ms != n.since_ms && n.heard.is_some()).then_some((News::Down, n.since_ms)),
        None => None,
    }
}

impl Monitor {
    /// What is to be told now (monotonic milliseconds), if anything is.
    pub fn alarm(&self, now: u64) -> Option<Alarm> {
        let mut due: Vec<(u32, u64, News, i64, &Node)> = Vec::new();
        for node in self.nodes.iter() {
            if let Some((news, told_ms)) = news(node) {
                let (tries, at) = self.turns.of((node.ip, node.port), told_ms);
                if at <= now {
                    due.push((tries, at, news, told_ms, node));
                }
            }
        }
        // Who has not failed yet comes first, and stands in no list with who has.
        let (tries, _, news, ..) = *due.iter().min_by_key(|(tries, at, ..)| (*tries, *at))?;
        due.retain(|d| (d.0, d.2) == (tries, news));
        due.sort_by_key(|d| d.1);
        if due.len() <= SINGLY_MAX {
            due.truncate(1);
        }
        let of = due.iter().map(|(_, _, _, told_ms, node)| ((node.ip, node.port), *told_ms)).collect();
        let nodes: Vec<&Node> = due.into_iter().map(|d| d.4).collect();
        Some(Alarm { text: self.alarm_text(news, &nodes), of })
    }

    fn alarm_text(&self, news: News, nodes: &[&Node]) -> String {
        let [node] = nodes else {
            let what = match news {
                News::Down => "do not answer",
                News::Left => "that did not answer were unregistered",
                News::Up => "answer again",
            };
            let named: Vec<String> = nodes.iter().take(NAMED_MAX).map(|n| n.label()).collect();
            return format!("{} nodes {what}, such as {}", nodes.len(), named.join(", "));
        };
        let label = node.label();
        let since = self.seconds(node.since_ms);
        if news == News::Down {
            let why = node.heard.as_deref().unwrap_or_default();
            return format!("node {label} does not answer: {why}; down since {since}");
        }
        let what = if news == News::Up { "answers again" } else { "was unregistered" };
        let for_ms = node.since_ms.saturating_sub(node.told_ms);
        format!("node {label} {what}, down from {} to {since}, {}", self.seconds(node.told_ms), span(for_ms))
    }

    /// What came of it; a sentence for the log if it failed. What was told is durable with the next [`Self::commit`].
    pub fn alarmed(&mut self, alarm: &Alarm, done: Result<(), String>, now: u64) -> Option<String> {
        let mut most = 0;
        for (key, told_ms) in &alarm.of {
            let turn = self.turns.0.entry(*key).or_default();
            if done.is_ok() {
                let quiet_ms = turn.wait_ms.saturating_mul(10).max(QUIET_MS);
                let quiet = now.saturating_sub(turn.due_ms) > quiet_ms;
                turn.wait_ms = if quiet {
                    WAIT_MS.0
                } else {
                    turn.wait_ms.max(WAIT_MS.0).saturating_mul(2).min(WAIT_MS.1)
                };
                (turn.due_ms, turn.failed) = (now.saturating_add(turn.wait_ms), None);
                if let Some(mut node) = self.nodes.get(key.0, key.1).cloned() {
                    node.told_ms = *told_ms;
                    self.nodes.put(node, true);
                }
                continue;
            }
            let before = turn.failed.filter(|(what, ..)| what == told_ms).map_or(0, |(_, tries, _)| tries);
            let tries = before.saturating_add(1);
            let wait_ms = match tries.checked_sub(TRIES) {
                None => AGAIN_MS.0.saturating_mul(u64::from(tries)),
                Some(more) => AGAIN_MS.1.checked_shl(more.min(20)).unwrap_or(WAIT_MS.1).min(WAIT_MS.1),
            };
            turn.failed = Some((*told_ms, tries, now.saturating_add(wait_ms)));
            most = most.max(tries);
        }
        let why = done.err()?;
        Some(if most < TRIES {
            format!("{why}; it is run again")
        } else {
            format!("{why}; this alarm was not told: {}; it is tried again, at last every hour", alarm.text)
        })
    }

    /// What is not told yet, whether its turn has come or not.
    pub fn untold(&self) -> Vec<String> {
        let mut texts = Vec::new();
        for which in [News::Down, News::Left, News::Up] {
            let all = self.nodes.iter().filter(|n| news(n).is_some_and(|(news, _)| news == which));
            let all: Vec<&Node> = all.collect();
            if all.len() > SINGLY_MAX {
                texts.push(self.alarm_text(which, &all));
            } else {
                texts.extend(all.iter().map(|n| self.alarm_text(which, &[n])));
            }
        }
        texts
    }
}
