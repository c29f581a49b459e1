//! The follower's journal: which bytes of which file were sealed as which pack.
//!
//! Carries P1 and P2 at the source. A cut is durable here *before* its pack is first sent, so (name, hour, copy, id)
//! means the same raw bytes for ever, whatever happens to the process or the configuration. Positions, the next
//! number and every resend come from here. Files below the state directory:
//!
//! - `journal/log`: [records](crate::record) of JSON [`Event`]s, appended, one fdatasync per tick; replaced as a whole
//!   by a snapshot of the open hours when it has grown.
//!   Zeros follow the last record, at least one and up to a multiple of 4 KiB: a file that was cut between two records is
//!   recognised by its length.
//! - `journal/hours/<name>_<hour>`: the same records for an hour that is closed and wholly acknowledged. Its presence
//!   proves that the hour need not be sent again. Kept `journal_days`.
//!
//! P5: any damage makes [`Journal::open`] say so; the follower then sends the hours concerned whole, as a new copy.
//! That includes a torn end, since nobody can tell a torn end from one that was cut away.

#[cfg(test)]
mod tests;

use crate::disk::{self, Disk, File};
use crate::pack::{HourKey, ID_MAX, LOSS_MAX, Seal, Totals, hex, unhex};
use crate::planted::{self, Bug};
use crate::record::{self, Found};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

const KIND: u8 = b'J';
const MODE: u32 = 0o640;
const RECORD_MAX: u32 = 1 << 20;
/// Every file's length is a multiple of this; see the module's header.
const GRAIN: u64 = 4096;
/// The log is rewritten when it is larger than this and than twice what is live.
const COMPACT_AT: u64 = 1 << 20;

/// One sealed pack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// Pack number.
    pub id: u64,
    /// First byte in the source.
    pub start: u64,
    /// Byte after the last one.
    pub end: u64,
    /// Lines, as the header counts them.
    pub lines: u64,
    /// CRC-32 of the bytes.
    pub crc: u32,
    /// SHA-256 of the bytes, hex.
    pub sha: String,
    /// Last pack of the hour (so far).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub done: bool,
    /// Read from a rotated file behind the position: it moves no position and says nothing of the current file.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub aside: bool,
}

impl Cut {
    /// What the header says of the bytes.
    pub fn seal(&self) -> Seal {
        let sha256 = unhex(&self.sha).unwrap_or_default();
        Seal { bytes: self.end.saturating_sub(self.start), crc32: self.crc, sha256 }
    }
    /// A cut with this seal.
    pub fn new(id: u64, start: u64, lines: u64, seal: &Seal, done: bool) -> Self {
        Self {
            id,
            start,
            end: start.saturating_add(seal.bytes),
            lines,
            crc: seal.crc32,
            sha: hex(&seal.sha256),
            done,
            aside: false,
        }
    }
}

/// What a record says. `hour` is the `NAME_HOUR` form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "t", rename_all = "lowercase")]
pub enum Event {
    /// An hour (or a new copy of it) begins; replaces whatever stood for that hour.
    Opened {
        /// `NAME_HOUR`.
        hour: String,
        /// Copy, 0 in normal life.
        generation: u64,
        /// Source file.
        path: PathBuf,
        /// Number of the first pack: 1, but when an original's position is taken over.
        first_id: u64,
        /// Byte at which reading begins.
        pos: u64,
        /// The hour is cut by the clock, from a file whose name has no date.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        clock: bool,
    },
    /// A pack is sealed.
    Cut {
        /// `NAME_HOUR`.
        hour: String,
        /// The pack.
        #[serde(flatten)]
        cut: Cut,
    },
    /// Something that bars a certificate happened to the source.
    Note {
        /// `NAME_HOUR`.
        hour: String,
        /// `partial`, `changed` or `loss`.
        what: String,
        /// Lost byte range of the source; no end = unknown.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        range: Option<(u64, Option<u64>)>,
        /// Where reading goes on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pos: Option<u64>,
    },
    /// The source is another file from here on, as its rotation wants it: nothing is lost.
    Rotated {
        /// `NAME_HOUR`.
        hour: String,
        /// Where reading goes on in it.
        pos: u64,
    },
    /// Packs that the receiver has made durable.
    Acked {
        /// `NAME_HOUR`.
        hour: String,
        /// Copy.
        generation: u64,
        /// Their numbers.
        ids: Vec<u64>,
        /// The address to which the hour is bound from here on. It stands in the first such record, before or with the
        /// first number, so that no acknowledgement is ever known without its receiver.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<String>,
    },
    /// Packs that are to be sent again although they were acknowledged.
    Again {
        /// `NAME_HOUR`.
        hour: String,
        /// Copy.
        generation: u64,
        /// Their numbers.
        ids: Vec<u64>,
    },
    /// The hour has a file of its own now.
    Archived {
        /// `NAME_HOUR`.
        hour: String,
    },
}

/// All that is known of one hour.
#[derive(Clone, Debug, Default)]
pub struct HourLog {
    /// Copy.
    pub generation: u64,
    /// Source file.
    pub path: PathBuf,
    /// Number of the first pack.
    pub first_id: u64,
    /// Sealed packs, in order.
    pub cuts: Vec<Cut>,
    /// Numbers of those that are not acknowledged.
    pub unacked: BTreeSet<u64>,
    /// Byte at which the next pack begins.
    pub pos: u64,
    /// Of these the packs that somebody asked for once more.
    pub again: BTreeSet<u64>,
    /// Byte at which reading of this copy began.
    pub begin: u64,
    /// Why no certificate is possible: `partial`, `changed`, `loss`.
    pub notes: BTreeSet<String>,
    /// Lost ranges.
    pub loss: Vec<(u64, Option<u64>)>,
    /// The hour is cut by the clock.
    pub clock: bool,
    /// Where the source became another file: number of the next pack, and its first byte.
    pub rotated: Vec<(u64, u64)>,
    /// The address that acknowledged packs of it; only there it can become whole.
    pub bound: Option<String>,
}

impl HourLog {
    /// Was one of its packs ever acknowledged?
    pub fn is_begun(&self) -> bool {
        self.cuts.len() > self.unacked.len() || !self.again.is_empty()
    }
    /// Number of the next pack.
    pub fn next_id(&self) -> u64 {
        self.first_id.saturating_add(self.cuts.len() as u64)
    }
    /// Is the hour closed (its last pack says so)?
    pub fn is_done(&self) -> bool {
        self.cuts.last().is_some_and(|c| c.done)
    }
    /// A sealed pack by its number.
    pub fn cut(&self, id: u64) -> Option<&Cut> {
        self.cuts.get(usize::try_from(id.checked_sub(self.first_id)?).ok()?)
    }
    /// Totals over the packs up to `id`.
    pub fn totals(&self, id: u64) -> Totals {
        let cuts = || self.cuts.iter().take_while(|c| c.id <= id);
        let digests: Vec<_> = cuts().map(|c| unhex(&c.sha).unwrap_or_default()).collect();
        Totals {
            lines: cuts().map(|c| c.lines).fold(0, u64::saturating_add),
            bytes: cuts().map(|c| c.end.saturating_sub(c.start)).fold(0, u64::saturating_add),
            sha256: crate::pack::total_digest(digests.iter()),
        }
    }
    /// `notes` as the wire's `state`.
    pub fn state(&self) -> String {
        self.notes.iter().cloned().collect::<Vec<_>>().join(",")
    }
    /// `loss` as on the wire, at most [`LOSS_MAX`] ranges.
    pub fn loss_text(&self) -> String {
        let mut out = String::new();
        for (from, to) in self.loss.iter().take(LOSS_MAX) {
            let sep = if out.is_empty() { "" } else { "," };
            let _ = write!(out, "{sep}{from}-");
            if let Some(to) = to {
                let _ = write!(out, "{to}");
            }
        }
        out
    }

    fn apply(&mut self, event: &Event) -> bool {
        match event {
            Event::Opened { generation, path, first_id, pos, clock, .. } => {
                *self = Self {
                    generation: *generation,
                    path: path.clone(),
                    first_id: (*first_id).max(1),
                    pos: *pos,
                    begin: *pos,
                    clock: *clock,
                    ..Self::default()
                };
            }
            Event::Cut { cut, .. } => {
                if cut.id != self.next_id() || unhex::<32>(&cut.sha).is_none() || cut.end < cut.start {
                    return false;
                }
                if !cut.aside {
                    self.pos = cut.end;
                }
                self.unacked.insert(cut.id);
                self.cuts.push(cut.clone());
            }
            Event::Note { what, range, pos, .. } => {
                self.notes.insert(what.clone());
                // A range is lost whatever word came with it: nothing may be certified.
                self.notes.extend(range.map(|_| "loss".to_owned()));
                self.loss.extend(*range);
                self.pos = pos.unwrap_or(self.pos);
            }
            Event::Rotated { pos, .. } => {
                self.rotated.push((self.next_id(), *pos));
                self.pos = *pos;
            }
            Event::Acked { generation, ids, to, .. } => {
                if *generation == self.generation {
                    self.bound = to.clone().or_else(|| self.bound.take());
                    for id in ids {
                        self.unacked.remove(id);
                        self.again.remove(id);
                    }
                }
            }
            Event::Again { generation, ids, .. } => {
                if *generation == self.generation {
                    let known: Vec<u64> = ids.iter().copied().filter(|id| self.cut(*id).is_some()).collect();
                    self.again.extend(&known);
                    self.unacked.extend(known);
                }
            }
            Event::Archived { .. } => {}
        }
        true
    }

    /// Events that lead to this state.
    fn snapshot(&self, hour: &str) -> Vec<Event> {
        let hour = || hour.to_owned();
        let mut out = vec![Event::Opened {
            hour: hour(),
            generation: self.generation,
            path: self.path.clone(),
            first_id: self.first_id,
            pos: self.begin,
            clock: self.clock,
        }];
        let mut rotated = self.rotated.iter().peekable();
        for c in &self.cuts {
            while let Some((_, pos)) = rotated.next_if(|(id, _)| *id <= c.id) {
                out.push(Event::Rotated { hour: hour(), pos: *pos });
            }
            out.push(Event::Cut { hour: hour(), cut: c.clone() });
        }
        out.extend(rotated.map(|(_, pos)| Event::Rotated { hour: hour(), pos: *pos }));
        for what in self.notes.iter().filter(|w| *w != "loss" || self.loss.is_empty()) {
            out.push(Event::Note { hour: hour(), what: what.clone(), range: None, pos: Some(self.pos) });
        }
        for range in &self.loss {
            out.push(Event::Note {
                hour: hour(),
                what: "loss".into(),
                range: Some(*range),
                pos: Some(self.pos),
            });
        }
        let acked: Vec<u64> =
            self.cuts.iter().map(|c| c.id).filter(|id| !self.unacked.contains(id)).collect();
        let acked_by = |ids: &[u64], to: Option<String>| Event::Acked {
            hour: hour(),
            generation: self.generation,
            ids: ids.to_vec(),
            to,
        };
        out.extend(self.bound.clone().map(|addr| acked_by(&[], Some(addr))));
        out.extend(acked.chunks(10_000).map(|ids| acked_by(ids, None)));
        if !self.again.is_empty() {
            let ids = self.again.iter().copied().collect();
            out.push(Event::Again { hour: hour(), generation: self.generation, ids });
        }
        out
    }
}

impl Event {
    fn hour(&self) -> &str {
        match self {
            Self::Opened { hour, .. }
            | Self::Cut { hour, .. }
            | Self::Note { hour, .. }
            | Self::Rotated { hour, .. }
            | Self::Acked { hour, .. }
            | Self::Again { hour, .. }
            | Self::Archived { hour } => hour,
        }
    }
}

/// See the module's header.
pub struct Journal {
    disk: Disk,
    dir: PathBuf,
    /// `None` = what stands there is damaged or gone: it is replaced as a whole, by the next write.
    file: Option<File>,
    /// Bytes of the log that are written, and how long the file is with its zeros.
    len: u64,
    size: u64,
    seq: u64,
    /// Encoded events that are not written yet.
    pending: Vec<u8>,
    unsynced: bool,
    live: u64,
    hours: BTreeMap<HourKey, HourLog>,
    written_ms: i64,
}

impl Journal {
    /// Opens or creates the journal below `state_dir`. `true` = it was damaged or (in a state directory that has
    /// served before) it is gone: hours that are not archived must be sent again whole. Then the log stays as it is until
    /// the first [`Journal::commit`], so that a crash before the caller has said so does not hide the damage.
    pub fn open(
        disk: &Disk,
        state_dir: &Path,
        served_before: bool,
        report: &mut dyn FnMut(String),
    ) -> disk::Result<(Self, bool)> {
        let dir = state_dir.join("journal");
        disk.create_dir_all(&dir.join("hours"), 0o750)?;
        let path = dir.join("log");
        let before = disk.stat(&path)?;
        let there = before.is_some();
        let mut damaged = served_before && !there;
        if damaged {
            report(format!("{}: missing; open hours are sent again whole, as new copies", path.display()));
        }
        // A new one begins as a snapshot, so that it is never there without its zeros.
        let mut file = if there { Some(disk.open_rw(&path)?) } else { None };
        let mut hours = BTreeMap::new();
        let (len, bad, seq) = match &file {
            Some(f) => replay(f, &mut |e| apply(&mut hours, &e))?,
            None => (0, None, 0),
        };
        let size = file.as_ref().map_or(Ok(0), |f| f.stat().map(|s| s.len))?;
        if let (Some(at), Some(file)) = (bad, file.take_if(|_| bad.is_some())) {
            let aside = dir.join(format!("log.damaged-{at}"));
            let mut all = vec![0; usize::try_from(file.stat()?.len).unwrap_or(0)];
            file.read_at(&mut all, 0)?;
            disk.replace(&aside, &all, MODE)?;
            report(format!(
                "{}: damaged at byte {at} (or torn by a crash); kept as {}; open hours are sent again whole, \
                 as new copies; nothing is lost",
                path.display(),
                aside.display()
            ));
            damaged = !planted::is(Bug::JournalDamageIgnored);
        }
        let mut journal = Self {
            disk: disk.clone(),
            dir,
            file,
            len,
            size,
            seq,
            pending: Vec::new(),
            unsynced: true,
            live: 0,
            hours,
            written_ms: before.map_or(i64::MAX, |s| s.mtime_ms),
        };
        // A snapshot is written at every start: it proves that the log can be written. A full disk must not keep packs
        // from being sent that fill it: then the log goes on as it is.
        if !damaged || planted::is(Bug::DamageForgotten) {
            match journal.compact() {
                Err(e) if e.no_space() => {
                    disk.sync_dir(&journal.dir)?;
                    report(format!("paused: disk: {e}; nothing is lost, sealed packs are sent"));
                }
                other => other?,
            }
        }
        Ok((journal, damaged))
    }

    /// When it was last written before it was opened (unix milliseconds); the end of time if it was not there.
    pub fn written_ms(&self) -> i64 {
        self.written_ms
    }

    /// Open hours.
    pub fn hours(&self) -> &BTreeMap<HourKey, HourLog> {
        &self.hours
    }

    /// One open hour.
    pub fn hour(&self, key: &HourKey) -> Option<&HourLog> {
        self.hours.get(key)
    }

    /// Notes an event; it is durable after [`Journal::commit`].
    pub fn append(&mut self, event: &Event) {
        apply(&mut self.hours, event);
        // Serialising strings and numbers cannot fail.
        let json = serde_json::to_vec(event).unwrap_or_default();
        let offset = self.len.saturating_add(self.pending.len() as u64);
        record::encode(KIND, self.seq, offset, &[&json], &mut self.pending);
        self.seq = self.seq.saturating_add(1);
    }

    /// Writes what was noted, without a sync: for acknowledgements, which may be forgotten.
    pub fn flush(&mut self) -> disk::Result<()> {
        let Some(file) = &self.file else { return self.compact() };
        if !self.pending.is_empty() {
            let end = self.len.saturating_add(self.pending.len() as u64);
            if end >= self.size {
                file.set_len(padded(end))?;
                self.size = padded(end);
            }
            if let Err(e) = file.write_at(&self.pending, self.len) {
                // Half a record would look like damage after a crash.
                let _ = file.set_len(self.len).and_then(|()| file.set_len(self.size));
                return Err(e);
            }
            self.len = self.len.saturating_add(self.pending.len() as u64);
            self.pending.clear();
            self.unsynced = true;
        }
        Ok(())
    }

    /// Makes everything noted so far durable. After an error nothing is forgotten; call it again.
    pub fn commit(&mut self) -> disk::Result<()> {
        let flushed = self.flush();
        // What is written becomes durable even if there is no room for more: packs of it may be sent.
        if let Some(file) = self.file.as_ref().filter(|_| self.unsynced) {
            file.sync()?;
            self.unsynced = false;
        }
        flushed?;
        if self.len > COMPACT_AT.max(self.live.saturating_mul(2)) {
            self.compact()?;
        }
        Ok(())
    }

    fn compact(&mut self) -> disk::Result<()> {
        let path = self.dir.join("log");
        let mut out = Vec::new();
        let mut seq = 0;
        for (key, log) in &self.hours {
            for e in log.snapshot(&key.to_string()) {
                encode(&e, &mut seq, &mut out);
            }
        }
        let len = out.len() as u64;
        let size = pad(&mut out);
        self.disk.replace(&path, &out, MODE)?;
        self.file = Some(self.disk.open_rw(&path)?);
        (self.len, self.size) = (len, size);
        self.live = self.len;
        self.seq = seq;
        self.pending.clear();
        self.unsynced = false;
        Ok(())
    }

    fn archive_path(&self, key: &HourKey) -> PathBuf {
        self.dir.join("hours").join(key.to_string())
    }

    /// Moves a closed and wholly acknowledged hour to a file of its own.
    pub fn archive(&mut self, key: &HourKey) -> disk::Result<()> {
        let Some(log) = self.hours.get(key) else { return Ok(()) };
        let (mut out, mut seq) = (Vec::new(), 0);
        for e in log.snapshot(&key.to_string()) {
            encode(&e, &mut seq, &mut out);
        }
        pad(&mut out);
        self.disk.replace(&self.archive_path(key), &out, MODE)?;
        self.append(&Event::Archived { hour: key.to_string() });
        Ok(())
    }

    /// Was this hour closed and wholly acknowledged?
    pub fn is_archived(&self, key: &HourKey) -> disk::Result<bool> {
        Ok(self.disk.stat(&self.archive_path(key))?.is_some())
    }

    /// Does the journal know that this pack was acknowledged?
    pub fn has_acked(&self, key: &HourKey, generation: u64, id: u64) -> disk::Result<bool> {
        let log = match self.hours.get(key) {
            Some(log) => Some(log.clone()),
            None => self.archived(key)?,
        };
        let log = log.filter(|l| l.generation == generation);
        Ok(log.is_some_and(|l| l.cut(id).is_some() && !l.unacked.contains(&id)))
    }

    /// An archived hour; `None` if there is none or its file is damaged.
    pub fn archived(&self, key: &HourKey) -> disk::Result<Option<HourLog>> {
        archived_at(&self.disk, &self.archive_path(key), key)
    }

    /// Takes an archived hour back, because its file grew: later packs go on where it ended.
    pub fn reopen(&mut self, key: &HourKey) -> disk::Result<bool> {
        let Some(log) = self.archived(key)? else { return Ok(false) };
        for e in log.snapshot(&key.to_string()) {
            self.append(&e);
        }
        Ok(true)
    }

    /// Archived hours.
    pub fn archive_list(&self) -> disk::Result<Vec<HourKey>> {
        let dir = self.dir.join("hours");
        Ok(self.disk.list(&dir)?.iter().filter_map(|e| HourKey::parse(&e.name)).collect())
    }

    /// Forgets an archived hour that is older than anybody asks for.
    pub fn forget(&mut self, key: &HourKey) -> disk::Result<()> {
        self.disk.remove(&self.archive_path(key))
    }
}

/// Reads a follower's open hours without touching anything, for `logd status`; and what is wrong with the file, which may be
/// that it is being written.
pub fn peek(disk: &Disk, state_dir: &Path) -> disk::Result<(BTreeMap<HourKey, HourLog>, Option<String>)> {
    let mut hours = BTreeMap::new();
    let path = state_dir.join("journal").join("log");
    let bad = if disk.stat(&path)?.is_some() {
        let (_, bad, _) = replay(&disk.open(&path)?, &mut |e| apply(&mut hours, &e))?;
        bad.map(|at| format!("{}: damaged at byte {at} (or torn by a crash)", path.display()))
    } else {
        Some(format!("{}: missing", path.display()))
    };
    Ok((hours, bad))
}

/// Reads one hour, open or archived, without touching anything; `None` = the journal does not know it, or not surely.
pub fn peek_hour(disk: &Disk, state_dir: &Path, key: &HourKey) -> disk::Result<Option<HourLog>> {
    match peek(disk, state_dir)?.0.remove(key) {
        Some(log) => Ok(Some(log)),
        None => archived_at(disk, &state_dir.join("journal").join("hours").join(key.to_string()), key),
    }
}

fn archived_at(disk: &Disk, path: &Path, key: &HourKey) -> disk::Result<Option<HourLog>> {
    if disk.stat(path)?.is_none() {
        return Ok(None);
    }
    let mut hours = BTreeMap::new();
    let (_, bad, _) = replay(&disk.open(path)?, &mut |e| apply(&mut hours, &e))?;
    Ok(hours.remove(key).filter(|_| bad.is_none()))
}

fn encode(event: &Event, seq: &mut u64, out: &mut Vec<u8>) {
    let json = serde_json::to_vec(event).unwrap_or_default();
    record::encode(KIND, *seq, out.len() as u64, &[&json], out);
    *seq = seq.saturating_add(1);
}

fn padded(len: u64) -> u64 {
    (len / GRAIN).saturating_add(1).saturating_mul(GRAIN)
}

/// Zeros behind the records; the length with them.
fn pad(out: &mut Vec<u8>) -> u64 {
    let size = padded(out.len() as u64);
    out.resize(usize::try_from(size).unwrap_or(out.len()), 0);
    size
}

fn apply(hours: &mut BTreeMap<HourKey, HourLog>, event: &Event) -> bool {
    let Some(key) = HourKey::parse(event.hour()) else { return false };
    match event {
        Event::Archived { .. } => hours.remove(&key).is_some(),
        // No pack has such a number, and adding to it would end the process at every start.
        Event::Opened { first_id, .. } if *first_id > ID_MAX => false,
        Event::Opened { .. } => hours.entry(key).or_default().apply(event),
        _ => hours.get_mut(&key).is_some_and(|h| h.apply(event)),
    }
}

/// Applies every record; the end of the last one, the place of the first damage, and the next record's number.
fn replay(file: &File, each: &mut dyn FnMut(Event) -> bool) -> disk::Result<(u64, Option<u64>, u64)> {
    let (mut at, mut bad, mut expect) = (0, None, 0);
    let mut buf = Vec::new();
    loop {
        match record::read(file, at, RECORD_MAX, &mut buf)? {
            // The zeros were cut off, and perhaps records before them.
            Found::End => return Ok((at, bad.or(Some(at)), expect)),
            Found::Damage { next } if is_padding(file, at, next)? => return Ok((at, bad, expect)),
            Found::Damage { next } => {
                bad = bad.or(Some(at));
                at = next;
            }
            Found::Record(h) => {
                let event = serde_json::from_slice(buf.get(record::HEADER..).unwrap_or_default()).ok();
                if h.seq != expect || !event.is_some_and(&mut *each) {
                    bad = bad.or(Some(h.offset));
                }
                expect = h.seq.saturating_add(1);
                at = h.end();
            }
        }
    }
}

/// Are these the zeros that end every file?
fn is_padding(file: &File, from: u64, to: u64) -> disk::Result<bool> {
    if to != file.stat()?.len || !to.is_multiple_of(GRAIN) {
        return Ok(false);
    }
    let (mut at, mut block) = (from, vec![0; GRAIN as usize]);
    while at < to {
        let n = file.read_at(&mut block, at)?;
        if n == 0 || block.iter().take(n).any(|b| *b != 0) {
            return Ok(false);
        }
        at = at.saturating_add(n as u64);
    }
    Ok(true)
}
