//! The event log: messages of nodes, outages, registrations; append-only, in segments, bounded.
//!
//! `events/<seq>.jsonl` begins with the event of that number; each line is one event. Numbers only grow. The oldest
//! segment goes when those after it hold [`KEPT`] bytes; a start goes on with the last one, so that no number of starts
//! costs an event. A torn last line is left where it is, and ended; whoever reads leaves out lines that are no events.
//! A segment of which no line is an event is set aside.

use super::{Said, reason, set_aside};
use crate::disk::{self, Disk, File};
use crate::overview::ERRORS_MAX;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};

/// Bytes after which a segment ends.
pub const SEGMENT: u64 = 8 << 20;
/// Bytes that are kept, at least; two segments more at most.
pub const KEPT: u64 = 64 << 20;
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

struct Segment {
    /// The number of its first event.
    base: u64,
    /// Its bytes.
    len: u64,
}

struct Open {
    file: File,
    /// Its last line has no end.
    torn: bool,
}

/// What a segment holds.
#[derive(Default)]
struct Held {
    /// The latest messages and outages, the oldest first.
    errors: VecDeque<Event>,
    /// The highest number; 0 = none.
    last: u64,
    /// Lines that are no events.
    bad: u64,
}

/// See the module's header.
pub struct Events {
    disk: Disk,
    dir: PathBuf,
    segments: VecDeque<Segment>,
    /// The last one, if it may grow.
    open: Option<Open>,
    next: u64,
    synced: u64,
    recent: VecDeque<Event>,
    /// Where the event after the last one that was read begins: number before it, segment, byte.
    cursor: (u64, u64, u64),
    /// Sentences for the log.
    pub said: Vec<Said>,
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
                Some(base) => {
                    let len = disk.stat(&dir.join(&entry.name))?.map_or(0, |s| s.len);
                    bases.push(Segment { base, len });
                }
            }
        }
        if let Some(first) = foreign.first() {
            let n = foreign.len();
            said.push((
                1,
                format!("{}: {n} names are not ours and left alone, such as {first}", dir.display()),
            ));
        }
        bases.sort_unstable_by_key(|s: &Segment| s.base);
        let mut events = Self {
            disk: disk.clone(),
            dir: dir.to_owned(),
            next: bases.last().map_or(1, |s| s.base),
            segments: bases.into(),
            open: None,
            synced: 0,
            recent: VecDeque::new(),
            cursor: (0, 0, 0),
            said: Vec::new(),
        };
        events.look_back()?;
        events.go_on()?;
        events.synced = events.next.saturating_sub(1);
        said.append(&mut events.said);
        Ok(events)
    }

    /// Reads segments from the last one back, until the latest messages are known.
    fn look_back(&mut self) -> disk::Result<()> {
        let bases: Vec<u64> = self.segments.iter().rev().map(|s| s.base).collect();
        for (n, base) in bases.into_iter().enumerate() {
            if n > 0 && self.recent.len() >= ERRORS_MAX {
                break;
            }
            let path = self.path(base);
            let held = match self.held(base) {
                Err(e) if e.is_of_one_path() => {
                    self.damaged(base, &reason(&e))?;
                    continue;
                }
                other => other?,
            };
            if held.last == 0 && held.bad > 0 {
                self.damaged(base, "no line of it can be read")?;
                // Whoever was told of its events knows their numbers.
                self.next = self.next.max(base.saturating_add(held.bad));
                continue;
            }
            self.next = self.next.max(held.last.saturating_add(1));
            self.recent.extend(held.errors.into_iter().rev());
            if held.bad > 0 {
                let text = format!("{}: {} lines are torn or damaged and left out", path.display(), held.bad);
                self.said.push((1, text));
            }
        }
        self.recent.truncate(ERRORS_MAX);
        Ok(())
    }

    fn damaged(&mut self, base: u64, why: &str) -> disk::Result<()> {
        let text = set_aside(&self.disk, &self.path(base), why, "its events are not known")?;
        self.said.push((0, text));
        self.segments.retain(|s| s.base != base);
        Ok(())
    }

    fn held(&self, base: u64) -> disk::Result<Held> {
        let (mut held, mut at) = (Held::default(), 0);
        while let Some((lines, end, torn)) = self.window(base, at)? {
            for line in lines.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
                let Ok(e) = serde_json::from_slice::<Event>(line) else {
                    held.bad = held.bad.saturating_add(1);
                    continue;
                };
                held.last = e.seq.max(held.last);
                if e.what == What::Error {
                    if held.errors.len() >= ERRORS_MAX {
                        held.errors.pop_front();
                    }
                    held.errors.push_back(e);
                }
            }
            held.bad = held.bad.saturating_add(u64::from(torn));
            at = end;
        }
        Ok(held)
    }

    /// Opens the last segment to add to it, if it is not full.
    fn go_on(&mut self) -> disk::Result<()> {
        let Some(last) = self.segments.back().filter(|s| s.len < SEGMENT) else { return Ok(()) };
        let file = match self.disk.open_rw(&self.path(last.base)) {
            // Then a new one is begun.
            Err(e) if e.is_of_one_path() => return Ok(()),
            other => other?,
        };
        // What was read of it counts as durable from now on.
        file.sync()?;
        let mut end = *b"\n";
        let torn = match last.len.checked_sub(1) {
            Some(at) => file.read_at(&mut end, at)? == 1 && end != *b"\n",
            None => false,
        };
        self.open = Some(Open { file, torn });
        Ok(())
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
        self.segments.front().map_or(self.next, |s| s.base)
    }

    /// Adds an event, and gives it its number.
    pub fn append(&mut self, mut event: Event) -> disk::Result<()> {
        event.seq = self.next;
        // Plain values cannot fail to be written.
        let mut line = serde_json::to_vec(&event).unwrap_or_default();
        line.push(b'\n');
        let full = |s: &Segment| s.len.saturating_add(line.len() as u64) > SEGMENT;
        if self.open.is_none() || self.segments.back().is_none_or(full) {
            self.begin()?;
        }
        if let (Some(open), Some(last)) = (&mut self.open, self.segments.back_mut()) {
            if open.torn {
                line.insert(0, b'\n');
            }
            open.file.write_at(&line, last.len)?;
            open.torn = false;
            last.len = last.len.saturating_add(line.len() as u64);
        }
        self.next = self.next.saturating_add(1);
        self.remember(event);
        Ok(())
    }

    fn begin(&mut self) -> disk::Result<()> {
        self.sync()?;
        self.open = None;
        let path = self.path(self.next);
        if self.disk.stat(&path)?.is_some() {
            self.damaged(self.next, "it is in the way of a new segment")?;
        }
        let file = self.disk.create_new(&path, 0o640)?;
        self.disk.sync_dir(&self.dir)?;
        self.segments.push_back(Segment { base: self.next, len: 0 });
        self.open = Some(Open { file, torn: false });
        let mut bytes = self.segments.iter().map(|s| s.len).fold(0, u64::saturating_add);
        while let Some((base, len)) = self.segments.front().map(|s| (s.base, s.len)) {
            bytes = bytes.saturating_sub(len);
            if bytes < KEPT {
                break;
            }
            self.disk.remove(&self.path(base))?;
            self.segments.pop_front();
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
        let bases: Vec<u64> = self.segments.iter().map(|s| s.base).collect();
        let first = bases.iter().rev().find(|b| **b <= after.saturating_add(1)).or(bases.first()).copied();
        let Some(first) = first else { return Ok(found) };
        let start = if self.cursor.0 == after && bases.contains(&self.cursor.1) {
            (self.cursor.1, self.cursor.2)
        } else {
            (first, 0)
        };
        let (mut base, mut at) = start;
        loop {
            let Some((lines, end, _)) = self.window(base, at)? else {
                let Some(next) = bases.iter().find(|b| **b > base).copied() else { return Ok(found) };
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
