//! States of hours as collectors tell them, the last days of them, in memory and as `hours.json`.
//!
//! A collector tells all its hours every five minutes: what it does not name any more is gone there, and so here
//! ([`Whole`]). Of what one address tells there is a limit, so that the hours of others stay, and stay readable.

use super::{Said, read_state, set_aside};
use crate::clock::{Hour, Zone};
use crate::disk::{self, Disk};
use crate::heartbeat::Message;
use crate::log::count;
use crate::name;
use crate::overview::{HOURS_MAX, HostHour, NO_DATA, NODES_MAX, Overview, STATES};
use crate::record;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

/// Bytes of the file, at most.
const FILE_MAX: u64 = 256 << 20;
/// Bytes of each text that stands beside an hour.
const TEXT_BYTES: usize = 200;
/// Hours are named in the zones of their hosts, of which the first is 14 hours before UTC. What has not begun there is a
/// mistake of a clock; an hour of that is forgiven, ms.
const AHEAD_MS: i64 = 15 * 3_600_000;
/// Names of hosts that one address may tell of: the page has fewer hours for each, the more there are.
const NAMES_PER_PEER: usize = NODES_MAX / 2;
/// Reports of all hours that are under way.
const REPORTS_MAX: usize = 1_000;

/// By hour and name, so that the oldest come first.
type Key = (String, String);

#[derive(Serialize, Deserialize)]
struct Saved {
    format: u32,
    hours: Vec<Told>,
}

/// What a collector told.
#[derive(Serialize, Deserialize)]
struct Told {
    /// Which one.
    #[serde(default)]
    from: String,
    /// In which of its reports.
    #[serde(skip)]
    report: u64,
    #[serde(flatten)]
    hour: HostHour,
}

/// A part of a report of all the hours that a collector has from one on.
pub struct Whole {
    report: u64,
    part: u32,
    parts: u32,
    first: String,
}

impl Whole {
    /// As a request tells it; `None` = it only tells changes, or does not know of reports.
    pub fn of(m: &Message) -> Option<Self> {
        let number = |name: &str| m.get(name)?.parse().ok();
        let first = Hour::parse(m.get("first")?)?.to_string();
        let report = m.get("report")?.parse().ok().filter(|id| *id > 0)?;
        Some(Self { report, part: number("part")?, parts: number("parts")?, first })
    }
}

/// What an address has told.
#[derive(Default)]
struct Peer {
    keys: BTreeSet<Key>,
    /// And of how many hours of which name.
    names: HashMap<String, usize>,
}

/// How many hours were left out, and why.
#[derive(Default)]
pub struct Left {
    senseless: usize,
    ahead: usize,
    names: usize,
    full: usize,
}

impl Left {
    /// All of them.
    pub fn count(&self) -> usize {
        self.senseless.saturating_add(self.ahead).saturating_add(self.names).saturating_add(self.full)
    }

    /// A sentence.
    pub fn text(&self) -> String {
        let names = format!("of more than {NAMES_PER_PEER} names from one address");
        let full = format!("beyond the {HOURS_MAX} that are known, most of them from here");
        let all = [
            (self.senseless, "without a name, hour or state that is one"),
            (self.ahead, "that have begun in no zone"),
            (self.names, names.as_str()),
            (self.full, full.as_str()),
        ];
        let all = all.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}"));
        let what = if self.count() == 1 { "is" } else { "are" };
        format!("{} {what} left out: {}", count(self.count(), "hour"), all.collect::<Vec<_>>().join(", "))
    }
}

/// The address at the beginning of who told.
fn peer_of(from: &str) -> &str {
    from.split_once(' ').map_or(from, |(peer, _)| peer)
}

/// Is the command one that sends this hour again, and nothing else?
fn is_resend(h: &HostHour) -> bool {
    let stream = h.name.split_once('+').map_or(String::new(), |(_, s)| format!(" --stream {s}"));
    let rest = h.repull.strip_prefix(&format!("logd resend{stream}"));
    let rest = rest.and_then(|r| r.strip_suffix(&format!(" /etc/logd/tail.ini {}", h.hour)));
    let ranges = |p: &str| p.bytes().all(|b| b.is_ascii_digit() || b == b',' || b == b'-');
    rest.is_some_and(|r| r.is_empty() || r.strip_prefix(" --packs ").is_some_and(ranges))
}

/// See the module's header.
pub struct Hours {
    disk: Disk,
    path: PathBuf,
    list: BTreeMap<Key, Told>,
    peers: HashMap<String, Peer>,
    /// By who tells: the report, and which part comes next.
    reports: HashMap<String, (u64, u32)>,
    dirty: bool,
    saved_ms: u64,
}

impl Hours {
    /// Reads the file.
    pub fn open(disk: &Disk, path: &Path, said: &mut Vec<Said>) -> disk::Result<Self> {
        let mut hours = Self {
            disk: disk.clone(),
            path: path.to_owned(),
            list: BTreeMap::new(),
            peers: HashMap::new(),
            reports: HashMap::new(),
            dirty: false,
            saved_ms: 0,
        };
        // A file that cannot be believed must not keep the monitor from starting.
        let next = "collectors tell its hours again";
        match read_state(disk, path, FILE_MAX, next, said)?.map(|b| record::from_json::<Saved>(&b)) {
            None => {}
            Some(Ok(saved)) => hours.put(saved.hours, &mut Left::default()),
            Some(Err(why)) => said.push((1, set_aside(disk, path, &why, next)?)),
        }
        hours.dirty = false;
        Ok(hours)
    }

    /// Takes the list that a collector sent; `from` is the same each time that one sends. What was left out of it.
    pub fn take(
        &mut self,
        json: &str,
        from: &str,
        whole: Option<&Whole>,
        now_ms: i64,
    ) -> Result<Left, String> {
        let list: Vec<HostHour> =
            serde_json::from_str(json).map_err(|e| format!("`hours` is no list of hours: {e}"))?;
        let ahead = Zone::named("UTC").map(|utc| utc.hour_at(now_ms.saturating_add(AHEAD_MS)))?;
        let mut all = Overview { hours: list, ..Overview::default() };
        all.limit();
        let (mut left, mut good) = (Left::default(), Vec::new());
        let report = whole.map_or(0, |w| w.report);
        for mut hour in all.hours {
            let at = Hour::parse(&hour.hour).filter(|_| name::problem(&hour.name).is_none());
            let Some(at) = at.filter(|_| STATES.contains(&hour.state.as_str())) else {
                left.senseless = left.senseless.saturating_add(1);
                continue;
            };
            if if at.is_daily() { at > ahead.day_of() } else { at > ahead } {
                left.ahead = left.ahead.saturating_add(1);
                continue;
            }
            // The page tells people to run this: whoever reaches the port must not choose what.
            if !is_resend(&hour) {
                hour.repull.clear();
            }
            // There are many hours, and each is in memory, in a file and on the page.
            for text in [&mut hour.note, &mut hour.loss, &mut hour.word] {
                let end = text.floor_char_boundary(TEXT_BYTES);
                text.truncate(end);
            }
            good.push(Told { from: from.to_owned(), report, hour });
        }
        self.put(good, &mut left);
        if let Some(whole) = whole {
            self.reported(from, whole);
        }
        Ok(left)
    }

    /// A part of a report is taken. After the last one, of which none is lacking, what was not named goes.
    fn reported(&mut self, from: &str, whole: &Whole) {
        let due = match self.reports.get(from) {
            Some((report, due)) if *report == whole.report => *due,
            _ => 1,
        };
        if whole.part != due {
            self.reports.remove(from);
            return;
        }
        if whole.part < whole.parts {
            if self.reports.len() >= REPORTS_MAX {
                // They come again.
                self.reports.clear();
            }
            self.reports.insert(from.to_owned(), (whole.report, due.saturating_add(1)));
            return;
        }
        self.reports.remove(from);
        let Some(peer) = self.peers.get(peer_of(from)) else { return };
        let gone = |key: &&Key| {
            // A day belongs to its first hour here, as it does at the collector.
            let told = format!("{:0<10}", key.0) >= whole.first;
            told && self.list.get(*key).is_some_and(|t| t.from == from && t.report != whole.report)
        };
        let gone: Vec<Key> = peer.keys.iter().filter(gone).cloned().collect();
        for key in gone {
            self.remove(&key);
        }
    }

    fn insert(&mut self, key: Key, told: Told) {
        self.remove(&key);
        let peer = self.peers.entry(peer_of(&told.from).to_owned()).or_default();
        let n = peer.names.entry(key.1.clone()).or_default();
        *n = n.saturating_add(1);
        peer.keys.insert(key.clone());
        self.list.insert(key, told);
        self.dirty = true;
    }

    fn remove(&mut self, key: &Key) {
        let Some(told) = self.list.remove(key) else { return };
        self.dirty = true;
        let of = peer_of(&told.from);
        let Some(peer) = self.peers.get_mut(of) else { return };
        peer.keys.remove(key);
        if let Some(n) = peer.names.get_mut(&key.1) {
            *n = n.saturating_sub(1);
            if *n == 0 {
                peer.names.remove(&key.1);
            }
        }
        if peer.keys.is_empty() {
            self.peers.remove(of);
        }
    }

    /// When the list is full, whoever has told most of it gives way.
    fn put(&mut self, hours: Vec<Told>, left: &mut Left) {
        for told in hours {
            let key = (told.hour.hour.clone(), told.hour.name.clone());
            let from = peer_of(&told.from);
            // That one collector has nothing of a host says nothing where another one has: a host sends to one of them.
            let known = self.list.get(&key).filter(|k| k.hour.state != NO_DATA && k.from != told.from);
            if known.is_some() && told.hour.state == NO_DATA {
                continue;
            }
            let mine = self.peers.get(from);
            if mine.is_some_and(|p| p.names.len() >= NAMES_PER_PEER && !p.names.contains_key(&key.1)) {
                left.names = left.names.saturating_add(1);
                continue;
            }
            if self.list.len() >= HOURS_MAX && !self.list.contains_key(&key) {
                let most = self.peers.iter().max_by_key(|(_, p)| p.keys.len());
                let oldest =
                    most.filter(|(peer, _)| *peer != from).and_then(|(_, p)| p.keys.first().cloned());
                let Some(oldest) = oldest else {
                    left.full = left.full.saturating_add(1);
                    continue;
                };
                self.remove(&oldest);
            }
            self.insert(key, told);
        }
    }

    /// Those before this hour go.
    pub fn forget_before(&mut self, first: Hour) {
        let (hour, day) = (first.to_string(), first.day_of().to_string());
        // Hours of a day have a shorter name; they stay for as long as any hour of that day.
        let past = |at: &str| if at.len() > 8 { at < hour.as_str() } else { at < day.as_str() };
        let past: Vec<Key> = self.list.keys().filter(|(at, _)| past(at)).cloned().collect();
        for key in past {
            self.remove(&key);
        }
    }

    /// All of them, by name and then by hour.
    pub fn list(&self) -> impl Iterator<Item = HostHour> {
        let mut all: Vec<&HostHour> = self.list.values().map(|t| &t.hour).collect();
        all.sort_by(|a, b| (&a.name, &a.hour).cmp(&(&b.name, &b.hour)));
        all.into_iter().cloned()
    }

    /// Writes the file if something changed, seconds after the last time: the longer the list, the more of them.
    pub fn save_soon(&mut self, now_ms: u64) -> disk::Result<()> {
        let wait = (self.list.len() as u64).saturating_mul(2).saturating_add(5_000);
        if now_ms.saturating_sub(self.saved_ms) < wait {
            return Ok(());
        }
        self.saved_ms = now_ms;
        self.save()
    }

    /// Writes the file if something changed.
    pub fn save(&mut self) -> disk::Result<()> {
        if self.dirty {
            // Taken and put back: a copy of the list would take as much memory once more.
            let saved = Saved { format: 1, hours: std::mem::take(&mut self.list).into_values().collect() };
            let bytes = record::to_json(&saved);
            let told = saved.hours.into_iter();
            self.list = told.map(|t| ((t.hour.hour.clone(), t.hour.name.clone()), t)).collect();
            self.disk.replace(&self.path, &bytes, 0o640)?;
            self.dirty = false;
        }
        Ok(())
    }
}
