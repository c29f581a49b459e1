//! The event log: messages of nodes, outages, registrations; append-only, in segments, bounded.
//!
//! `events/<seq>.jsonl` begins with the event of that number; each line is one event. Numbers only grow. The oldest
//! segment goes when there are more than [`SEGMENTS`]. A torn last line is left where it is, and a new segment begun;
//! whoever reads leaves out lines that are no events.

use super::{Said, reason, set_aside};
use crate::disk::{self, Disk, File};
use crate::overview::ERRORS_MAX;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};

/// Bytes after which a segment ends.
pub const SEGMENT: u64 = 8 << 20;
/// Segments that are kept.
pub const SEGMENTS: usize = 8;
/// The first number of a segment, at most; more is no number that was ever counted to.
const BASE_MAX: u64 = u64::MAX / 2;
/// Read at a time; longer than any line.
const WINDOW: usize = 256 << 10;

/// What an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// A message, or an outage.
    Error,
    /// A node registered.
    Register,
    /// A node took its entry back.
    Unregister,
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its number.
    pub seq: u64,
    /// What it is.
    pub what: What,
    /// When it was received (Unix milliseconds).
    pub ms: i64,
    /// When it happened, by the clock of who tells it (Unix milliseconds); 0 = unknown, or not plausible.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub at_ms: i64,
    /// The same in its own zone, as it was told: `2026-11-22 08:23:58`.
    pub time: String,
    /// The node's address.
    pub ip: String,
    /// The node's port; 0 = unknown.
    pub port: u16,
    /// The node's role.
    pub role: String,
    /// The host's name.
    pub host: String,
    /// Kind of the message.
    pub kind: String,
    /// The message.
    pub msg: String,
}

impl Event {
    /// The node, as the original writes it: `10.0.0.7:4000`, or without a port the address.
    pub fn address(&self) -> String {
        if self.port == 0 { self.ip.clone() } else { format!("{}:{}", self.ip, self.port) }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for this form")]
fn is_zero(n: &i64) -> bool {
    *n == 0
}

/// The name of a segment.
fn segment(base: u64) -> String {
    format!("{base:020}.jsonl")
}

struct Open {
    file: File,
    len: u64,
}

/// See the module's header.
pub struct Events {
    disk: Disk,
    dir: PathBuf,
    /// First numbers of the segments.
    bases: VecDeque<u64>,
    open: Option<Open>,
    next: u64,
    synced: u64,
    recent: VecDeque<Event>,
    /// Where the event after the last one that was read begins: number before it, segment, byte.
    cursor: (u64, u64, u64),
}

impl Events {
    /// Opens the directory.
    pub fn open(disk: &Disk, dir: &Path, said: &mut Vec<Said>) -> disk::Result<Self> {
        if disk.stat(dir)?.is_some_and(|s| !s.is_dir) {
            said.push((0, set_aside(disk, dir, "not a directory", "events begin again")?));
        }
        disk.create_dir_all(dir, 0o750)?;
        let (mut bases, mut foreign) = (Vec::new(), Vec::new());
        for entry in disk.list(dir)? {
            let base = entry.name.strip_suffix(".jsonl").and_then(|n| n.parse().ok());
            match base.filter(|b| *b <= BASE_MAX && segment(*b) == entry.name) {
                None => foreign.push(entry.name),
                // Where it stands a segment would have to be.
                Some(base) if !disk.stat(&dir.join(&entry.name))?.is_some_and(|s| s.is_file) => {
                    let at = dir.join(segment(base));
                    said.push((0, set_aside(disk, &at, "not a file", "what it was is not known")?));
                }
                Some(base) => bases.push(base),
            }
        }
        if let Some(first) = foreign.first() {
            let n = foreign.len();
            said.push((
                1,
                format!("{}: {n} names are not ours and left alone, such as {first}", dir.display()),
            ));
        }
        bases.sort_unstable();
        let next = bases.last().copied().unwrap_or(1);
        let mut events = Self {
            disk: disk.clone(),
            dir: dir.to_owned(),
            bases: bases.into(),
            open: None,
            next,
            synced: 0,
            recent: VecDeque::new(),
            cursor: (0, 0, 0),
        };
        let last_two: Vec<u64> = events.bases.iter().rev().take(2).rev().copied().collect();
        for base in last_two {
            let mut bad = 0_u64;
            let (mut at, mut last) = (0, 0);
            loop {
                let window = match events.window(base, at) {
                    Err(e) if e.is_of_one_path() => {
                        let path = events.path(base);
                        said.push((0, set_aside(disk, &path, &reason(&e), "its events are not known")?));
                        events.bases.retain(|b| *b != base);
                        break;
                    }
                    other => other?,
                };
                let Some((lines, end, torn)) = window else { break };
                for line in lines.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
                    match serde_json::from_slice::<Event>(line) {
                        Ok(e) => {
                            last = e.seq.max(last);
                            events.remember(e);
                        }
                        Err(_) => bad = bad.saturating_add(1),
                    }
                }
                bad = bad.saturating_add(u64::from(torn));
                at = end;
            }
            events.next = events.next.max(last.saturating_add(1));
            if bad > 0 {
                let path = events.path(base);
                said.push((1, format!("{}: {bad} lines are torn or damaged and left out", path.display())));
            }
        }
        events.synced = events.next.saturating_sub(1);
        Ok(events)
    }

    fn path(&self, base: u64) -> PathBuf {
        self.dir.join(segment(base))
    }

    /// Whole lines of a segment from a place on, the place behind them, and whether it was the torn rest of the segment;
    /// `None` at its end.
    fn window(&self, base: u64, at: u64) -> disk::Result<Option<(Vec<u8>, u64, bool)>> {
        let file = self.disk.open(&self.path(base))?;
        let mut bytes = vec![0; WINDOW];
        let n = file.read_at(&mut bytes, at)?;
        if n == 0 {
            return Ok(None);
        }
        bytes.truncate(n);
        let whole = memchr::memrchr(b'\n', &bytes).map_or(0, |i| i.saturating_add(1));
        // Without an end of line it is a torn rest, or damage.
        let used = if whole == 0 { n } else { whole };
        bytes.truncate(whole);
        Ok(Some((bytes, at.saturating_add(used as u64), whole == 0)))
    }

    fn remember(&mut self, event: Event) {
        if event.what == What::Error {
            self.recent.push_front(event);
            self.recent.truncate(ERRORS_MAX);
        }
    }

    /// The latest messages and outages, the newest first.
    pub fn recent(&self) -> impl Iterator<Item = &Event> {
        self.recent.iter()
    }

    /// Number of the newest event.
    pub fn newest(&self) -> u64 {
        self.next.saturating_sub(1)
    }

    /// Number of the oldest event that is still here, if any is.
    pub fn oldest(&self) -> u64 {
        self.bases.front().copied().unwrap_or(self.next)
    }

    /// Adds an event, and gives it its number.
    pub fn append(&mut self, mut event: Event) -> disk::Result<()> {
        event.seq = self.next;
        // Plain values cannot fail to be written.
        let mut line = serde_json::to_vec(&event).unwrap_or_default();
        line.push(b'\n');
        let len = line.len() as u64;
        if self.open.as_ref().is_none_or(|o| o.len.saturating_add(len) > SEGMENT) {
            self.begin()?;
        }
        if let Some(open) = &mut self.open {
            open.file.write_at(&line, open.len)?;
            open.len = open.len.saturating_add(len);
        }
        self.next = self.next.saturating_add(1);
        self.remember(event);
        Ok(())
    }

    fn begin(&mut self) -> disk::Result<()> {
        self.sync()?;
        self.open = None;
        let path = self.path(self.next);
        // After a start whose segment held no whole line its name is there already.
        self.disk.remove(&path)?;
        let file = self.disk.create_new(&path, 0o640)?;
        self.disk.sync_dir(&self.dir)?;
        if self.bases.back() != Some(&self.next) {
            self.bases.push_back(self.next);
        }
        self.open = Some(Open { file, len: 0 });
        while self.bases.len() > SEGMENTS {
            if let Some(oldest) = self.bases.front().copied() {
                self.disk.remove(&self.path(oldest))?;
                self.bases.pop_front();
            }
        }
        Ok(())
    }

    /// Makes all events durable.
    pub fn sync(&mut self) -> disk::Result<()> {
        if self.synced < self.newest() {
            if let Some(open) = &self.open {
                open.file.sync()?;
            }
            self.synced = self.newest();
        }
        Ok(())
    }

    /// Up to `most` durable events with higher numbers than `after`, in order. Those that are not here any more, or
    /// damaged, are left out.
    pub fn batch(&mut self, after: u64, most: usize) -> disk::Result<Vec<Event>> {
        let mut found: Vec<Event> = Vec::new();
        if after >= self.synced {
            return Ok(found);
        }
        let first =
            self.bases.iter().rev().find(|b| **b <= after.saturating_add(1)).or(self.bases.front()).copied();
        let Some(first) = first else { return Ok(found) };
        let start = if self.cursor.0 == after && self.bases.contains(&self.cursor.1) {
            (self.cursor.1, self.cursor.2)
        } else {
            (first, 0)
        };
        let (mut base, mut at) = start;
        loop {
            let Some((lines, end, _)) = self.window(base, at)? else {
                let Some(next) = self.bases.iter().find(|b| **b > base).copied() else { return Ok(found) };
                (base, at) = (next, 0);
                continue;
            };
            for line in lines.split_inclusive(|b| *b == b'\n') {
                let event = serde_json::from_slice::<Event>(line).ok();
                if event.as_ref().is_some_and(|e| e.seq > self.synced) {
                    return Ok(found);
                }
                at = at.saturating_add(line.len() as u64);
                let Some(event) = event.filter(|e| e.seq > after) else { continue };
                self.cursor = (event.seq, base, at);
                found.push(event);
                if found.len() >= most {
                    return Ok(found);
                }
            }
            at = end;
        }
    }
}
