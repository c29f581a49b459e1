//! States of hours as collectors tell them, the last days of them, in memory and as `hours.json`.

use super::{Said, read_state, set_aside};
use crate::clock::Hour;
use crate::disk::{self, Disk};
use crate::name;
use crate::overview::{HOURS_MAX, HostHour, NO_DATA, Overview, STATES};
use crate::record;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// Bytes of the file, at most.
const FILE_MAX: u64 = 256 << 20;
/// Bytes of each text that stands beside an hour.
const TEXT_BYTES: usize = 200;
/// Hours whose names are so far ahead are a mistake of a clock, ms.
const AHEAD_MS: i64 = 3 * 3_600_000;

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
    #[serde(flatten)]
    hour: HostHour,
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
    /// By hour and name, so that the oldest come first.
    list: BTreeMap<(String, String), Told>,
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
            dirty: false,
            saved_ms: 0,
        };
        // A file that cannot be believed must not keep the monitor from starting.
        let next = "collectors tell its hours again";
        match read_state(disk, path, FILE_MAX, next, said)?.map(|b| record::from_json::<Saved>(&b)) {
            None => {}
            Some(Ok(saved)) => drop(hours.put(saved.hours)),
            Some(Err(why)) => said.push((1, set_aside(disk, path, &why, next)?)),
        }
        hours.dirty = false;
        Ok(hours)
    }

    /// Takes the list that a collector sent; `from` is the same each time that one sends. Those that make no sense are left
    /// out.
    pub fn take(&mut self, json: &str, from: &str, now_ms: i64) -> Result<(), String> {
        let list: Vec<HostHour> =
            serde_json::from_str(json).map_err(|e| format!("`hours` is no list of hours: {e}"))?;
        let ahead = crate::clock::Zone::named("UTC").map(|utc| utc.hour_at(now_ms.saturating_add(AHEAD_MS)));
        let mut all = Overview { hours: list, ..Overview::default() };
        all.limit();
        let good = all.hours.into_iter().filter(|h| {
            let hour = Hour::parse(&h.hour);
            name::problem(&h.name).is_none()
                && STATES.contains(&h.state.as_str())
                && hour.is_some_and(|hour| ahead.as_ref().is_ok_and(|a| hour.day_of() <= a.day_of()))
        });
        let told = good.map(|mut hour| {
            // The page tells people to run this: whoever reaches the port must not choose what.
            if !is_resend(&hour) {
                hour.repull.clear();
            }
            // There are many hours, and each is in memory, in a file and on the page.
            for text in [&mut hour.note, &mut hour.loss, &mut hour.word] {
                let end = text.floor_char_boundary(TEXT_BYTES);
                text.truncate(end);
            }
            Told { from: from.to_owned(), hour }
        });
        match self.put(told.collect()) {
            0 => Ok(()),
            n => Err(format!(
                "{n} hours are left out: {HOURS_MAX} are known, the limit, and most of them from here"
            )),
        }
    }

    /// How many were left out: when the list is full, whoever has told most of it gives way.
    fn put(&mut self, hours: Vec<Told>) -> usize {
        let mut left_out = 0_usize;
        for told in hours {
            let key = (told.hour.hour.clone(), told.hour.name.clone());
            // That one collector has nothing of a host says nothing where another one has: a host sends to one of them.
            let known = self.list.get(&key).filter(|k| k.hour.state != NO_DATA && k.from != told.from);
            if known.is_some() && told.hour.state == NO_DATA {
                continue;
            }
            if self.list.len() >= HOURS_MAX && !self.list.contains_key(&key) {
                let mut by_peer: HashMap<&str, usize> = HashMap::new();
                for known in self.list.values() {
                    let count = by_peer.entry(peer_of(&known.from)).or_default();
                    *count = count.saturating_add(1);
                }
                let most = by_peer.into_iter().max_by_key(|(_, n)| *n).map(|(peer, _)| peer.to_owned());
                let oldest = self.list.iter().find(|(_, t)| Some(peer_of(&t.from)) == most.as_deref());
                match oldest.map(|(key, _)| key.clone()) {
                    Some(oldest) if most.as_deref() != Some(peer_of(&told.from)) => self.list.remove(&oldest),
                    _ => {
                        left_out = left_out.saturating_add(1);
                        continue;
                    }
                };
            }
            self.dirty = true;
            self.list.insert(key, told);
        }
        left_out
    }

    /// Those before this hour go.
    pub fn forget_before(&mut self, first: Hour) {
        let (hour, day) = (first.to_string(), first.day_of().to_string());
        let before = self.list.len();
        // Hours of a day have a shorter name; they stay for as long as any hour of that day.
        self.list.retain(|(at, _), _| if at.len() > 8 { *at >= hour } else { *at >= day });
        self.dirty |= self.list.len() != before;
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
