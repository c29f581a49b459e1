//! The follower of date-named files: from bytes in a file to sealed packs.
//!
//! Carries P1 and P2 at the source: every complete line is read once, in order, and cut into packs that the journal
//! makes durable before anybody sends them. [`Tail::step`] looks at the files once and returns what it sealed; it
//! neither sleeps nor waits. Its only files are the journal's and `follower.json` ([`Identity`]), which fixes what
//! must not change under a running journal: the sender's name, the zone, and where this state directory began.
//!
//! When an hour closes: it is over, the next file exists or `close_wait` has passed, and its file has been quiet. An
//! hour without a file closes as an empty one, by the clock. A closed file is watched for `late_watch`: what comes
//! late is shipped as further packs and closes the hour again.
//!
//! A file is the same file when the bytes of the last cut still have their CRC, whatever its inode says. Anything else
//! is read as new content and bars the certificate (`changed`): never a silent restart at the beginning or the end.

pub mod pattern;
#[cfg(test)]
mod tests;
pub mod undated;

use crate::clock::{Clock, Hour, Zone};
use crate::disk::{self, Disk, File};
use crate::journal::{Cut, Event, HourLog, Journal};
use crate::pack::{HourKey, Meta};
use crate::packer::{Packer, PackerConfig};
use crate::planted::{self, Bug};
use crate::record;
use pattern::Pattern;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Hours that are read at the same time.
const ACTIVE_MAX: usize = 3;
/// Bytes read at a time: few enough to stay in the processor's cache. Only a longer line needs more.
const BLOCK: usize = 128 << 10;
const LATE_WAIT_MAX_MS: u64 = 3_600_000;

/// What this stage needs of the configuration.
#[derive(Clone, Debug)]
pub struct FollowConfig {
    /// Where packs are cut.
    pub packer: PackerConfig,
    /// How long the next hour's file is waited for, in ms.
    pub close_wait_ms: i64,
    /// How long a file must be unchanged before its hour closes, in ms.
    pub quiet_ms: i64,
    /// How long closed files are watched, in ms.
    pub late_watch_ms: i64,
    /// How long archived hours are kept, and the longest gap that is declared empty, in ms.
    pub journal_ms: i64,
    /// Ship what is there and come to an end.
    pub once: bool,
}

/// `follower.json`: what a state directory was begun with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// 1.
    pub format: u32,
    /// Sender's name.
    pub name: String,
    /// Time zone of the hours.
    pub zone: String,
    /// Hours before this one are none of ours.
    pub first_hour: Hour,
    /// Up to this hour packs may have been sent before this state began: its hours go as a copy.
    pub copies_until: Option<Hour>,
    /// The copy's number, the unix millisecond at which the state began: a state lost twice in a second needs two.
    pub copies_generation: u64,
    /// Read the first hour from its end (`start = end`).
    #[serde(default)]
    pub from_end: bool,
}

const IDENTITY: &str = "follower.json";

impl Identity {
    /// Loads it; `Ok(None)` = a new state directory; `Err` = it is damaged.
    pub fn load(disk: &Disk, state_dir: &Path) -> disk::Result<Option<Result<Self, String>>> {
        let path = state_dir.join(IDENTITY);
        let Some(bytes) = disk.read_opt(&path, 64 << 10)? else { return Ok(None) };
        Ok(Some(match record::from_json::<Self>(&bytes) {
            Ok(id) if id.format != 1 => {
                Err(format!("{}: format {} is not known here", path.display(), id.format))
            }
            Ok(id) if crate::name::problem(&id.name).is_none() => Ok(id),
            Ok(id) => Err(format!("{}: name {:?} is not valid", path.display(), id.name)),
            Err(e) => Err(format!("{}: {e}", path.display())),
        }))
    }

    /// Saves it.
    pub fn save(&self, disk: &Disk, state_dir: &Path) -> disk::Result<()> {
        disk.replace(&state_dir.join(IDENTITY), &record::to_json(self), 0o640)
    }
}

/// A pack that the journal holds as a cut.
#[derive(Debug)]
pub struct Sealed {
    /// Whose hour.
    pub key: HourKey,
    /// Copy.
    pub generation: u64,
    /// Number.
    pub id: u64,
    /// Its bytes.
    pub raw: Vec<u8>,
}

/// What a sealed pack's header says, from the journal alone.
pub fn meta_of(key: &HourKey, log: &HourLog, id: u64, zone: &Zone) -> Option<Meta> {
    let cut = log.cut(id)?;
    let done = cut.done;
    Some(Meta {
        key: key.clone(),
        generation: log.generation,
        id,
        lines: cut.lines,
        done,
        // A relay forgets nothing that it took lately, but for this; nor does the original with a second empty body.
        repull: log.again.contains(&id) || (done && cut.start == cut.end),
        seal: Some(cut.seal()),
        totals: done.then(|| log.totals(id)),
        state: if done { log.state() } else { String::new() },
        loss: if done { log.loss_text() } else { String::new() },
        day_hours: if done && !key.hour.is_daily() { zone.hours_in_day(key.hour.day_of()) } else { 0 },
        clock: log.clock,
    })
}

/// Reads the bytes of a cut from its source again; `None` = the source does not have them any more.
pub fn reread(disk: &Disk, path: &Path, cut: &Cut, raw: &mut Vec<u8>) -> disk::Result<Option<()>> {
    let len = usize::try_from(cut.end.saturating_sub(cut.start)).unwrap_or(usize::MAX);
    if len == 0 {
        raw.clear();
        return Ok(Some(()));
    }
    let file = match disk.open(path) {
        Ok(f) => f,
        Err(e) if e.not_found() => return Ok(None),
        Err(e) => return Err(e),
    };
    if file.stat()?.len < cut.end {
        return Ok(None);
    }
    raw.resize(len, 0);
    let n = file.read_at(raw, cut.start)?;
    Ok((n == len && crc32fast::hash(raw) == cut.crc).then_some(()))
}

struct Follow {
    path: PathBuf,
    file: Option<(File, u64, u64)>,
    packer: Packer,
    mtime_ms: i64,
    /// It could not be read at the last look, and takes no other hour's place.
    failed: bool,
}

struct Late {
    pos: u64,
    next_ms: u64,
    wait_ms: u64,
}

enum Content {
    Same,
    /// Equal to the cuts up to this byte, where it ends.
    Shorter(u64),
    New,
}

/// See the module's header.
pub struct Tail {
    disk: Disk,
    clock: Clock,
    zone: Zone,
    conf: FollowConfig,
    identity: Identity,
    pattern: Pattern,
    active: BTreeMap<Hour, Follow>,
    late: BTreeMap<Hour, Late>,
    next: Hour,
    /// `--once`: nothing beyond this hour is looked at.
    last: Option<Hour>,
    had_file: bool,
    block: Vec<u8>,
    spare: Vec<Vec<u8>>,
    /// Sentences for the log.
    pub alarms: Vec<String>,
}

impl Tail {
    /// Begins where the journal and `identity` say.
    pub fn open(
        disk: &Disk,
        clock: &Clock,
        zone: &Zone,
        conf: FollowConfig,
        pattern: Pattern,
        identity: Identity,
        journal: &mut Journal,
    ) -> disk::Result<Self> {
        let mut tail = Self {
            disk: disk.clone(),
            clock: clock.clone(),
            zone: zone.clone(),
            next: identity.first_hour,
            last: None,
            had_file: false,
            active: BTreeMap::new(),
            late: BTreeMap::new(),
            block: Vec::new(),
            spare: Vec::new(),
            alarms: Vec::new(),
            conf,
            identity,
            pattern,
        };
        let existing = tail.pattern.existing(disk).unwrap_or_default();
        tail.had_file = !existing.is_empty() || journal.hours().values().any(|h| h.pos > 0);
        tail.last = tail.conf.once.then(|| existing.last().copied().unwrap_or(tail.next));
        let open: Vec<HourKey> =
            journal.hours().keys().filter(|k| k.name == tail.identity.name).cloned().collect();
        for key in open {
            match journal.hour(&key) {
                Some(log) if log.is_done() => tail.watch(key.hour, log.pos),
                _ => tail.activate(key.hour),
            }
        }
        for key in journal.archive_list()? {
            let young = tail.zone.ends_ms(key.hour).is_some_and(|e| tail.is_watched(e));
            if key.name == tail.identity.name && young && !tail.late.contains_key(&key.hour) {
                match journal.archived(&key)? {
                    Some(log) => tail.watch(key.hour, log.pos),
                    None => tail.alarms.push(format!(
                        "{key}: the journal's file of this closed hour is damaged; lines that come late to it are \
                         not sent; if its log file grew, send the hour again"
                    )),
                }
            }
        }
        tail.prune(journal)?;
        Ok(tail)
    }

    fn key(&self, hour: Hour) -> HourKey {
        HourKey { name: self.identity.name.clone(), hour }
    }

    fn is_watched(&self, ends_ms: i64) -> bool {
        self.clock.now_ms().saturating_sub(ends_ms) < self.conf.late_watch_ms
    }

    fn watch(&mut self, hour: Hour, pos: u64) {
        let wait_ms = self.conf.quiet_ms.unsigned_abs().clamp(1000, LATE_WAIT_MAX_MS);
        // The first look is at once: a file may have grown while nobody watched.
        let next_ms = self.clock.mono_ms();
        self.late.insert(hour, Late { pos, next_ms, wait_ms });
    }

    /// The files that are followed now, each with the byte from which, for the first message and for tests.
    pub fn following(&self, journal: &Journal) -> Vec<(PathBuf, u64)> {
        let pos = |h: &Hour| journal.hour(&self.key(*h)).map_or(0, |l| l.pos);
        self.active.iter().map(|(h, f)| (f.path.clone(), pos(h))).collect()
    }

    /// Hours whose files are being read.
    pub fn active(&self) -> usize {
        self.active.len()
    }

    /// Can this hour be read once more from its first byte? The error says why not.
    pub fn can_restart(&self, hour: Hour) -> disk::Result<Result<(), String>> {
        if hour.is_daily() != self.pattern.is_daily() {
            let (file, form) =
                if self.pattern.is_daily() { ("a day", "YYYYMMDD") } else { ("an hour", "YYYYMMDDHH") };
            return Ok(Err(format!("each file holds {file}: name it {form}")));
        }
        let path = self.pattern.path(hour);
        Ok(match self.disk.stat(&path)? {
            Some(_) if self.zone.starts_ms(hour).is_none_or(|ms| ms > self.clock.now_ms()) => {
                Err("it has not begun yet".to_owned())
            }
            Some(_) => Ok(()),
            None => Err(format!("{} is not there", path.display())),
        })
    }

    /// Begins an hour anew, as a copy that is read from the first byte.
    pub fn restart(&mut self, journal: &mut Journal, hour: Hour, generation: u64) {
        self.late.remove(&hour);
        let path = self.pattern.path(hour);
        journal.append(&Event::Opened {
            hour: self.key(hour).to_string(),
            generation,
            path,
            first_id: 1,
            pos: 0,
            clock: false,
        });
        self.activate(hour);
    }

    /// Is this hour's file being read? Then its journal is not at rest, even if the hour was closed once.
    pub fn is_reading(&self, hour: Hour) -> bool {
        self.active.contains_key(&hour)
    }

    /// A buffer that a sent pack no longer needs.
    pub fn recycle(&mut self, mut raw: Vec<u8>) {
        if self.spare.len() < 8 && raw.capacity() <= self.conf.packer.pack_bytes * 2 {
            raw.clear();
            self.spare.push(raw);
        }
    }

    /// With `--once`: is everything sealed that will be?
    pub fn at_end(&self) -> bool {
        if !self.had_file {
            return true;
        }
        let beyond = self.last.is_some_and(|l| self.next > l);
        let now = self.clock.now_ms();
        let open = |h: &Hour| self.zone.ends_ms(*h).is_some_and(|e| e > now);
        beyond && self.active.iter().all(|(h, f)| open(h) && f.packer.is_empty())
    }

    /// One look at all files. At most `room_bytes` raw bytes and `room_packs` packs are sealed and added to `out`,
    /// also when an error ends the look. The caller commits the journal before it sends any of them.
    pub fn step(
        &mut self,
        journal: &mut Journal,
        mut room_bytes: usize,
        mut room_packs: usize,
        out: &mut Vec<Sealed>,
    ) -> disk::Result<()> {
        self.advance(journal)?;
        let hours: Vec<Hour> = self.active.keys().copied().collect();
        let mut failed = None;
        let mut oldest = true;
        for hour in &hours {
            let before = out.len();
            // A file that cannot be read must not hold up the others.
            let looked = self.poll(journal, *hour, oldest, room_bytes, room_packs, out);
            if let Some(f) = self.active.get_mut(hour) {
                f.failed = looked.is_err();
                oldest &= f.failed;
            }
            failed = failed.or(looked.err());
            if failed.is_some() && planted::is(Bug::UnreadableStopsOthers) {
                break;
            }
            room_packs = room_packs.saturating_sub(out.len() - before);
            room_bytes =
                room_bytes.saturating_sub(out.iter().skip(before).map(|s: &Sealed| s.raw.len()).sum());
            if room_bytes == 0 || room_packs == 0 {
                break;
            }
        }
        if out.is_empty() {
            // No catch-up: what it needed goes back to the system.
            self.spare.truncate(1);
        }
        self.look_at_closed(journal)?;
        failed.map_or(Ok(()), Err)
    }

    /// Takes up the hours whose turn has come.
    fn advance(&mut self, journal: &Journal) -> disk::Result<()> {
        let now = self.clock.now_ms();
        let current = if self.pattern.is_daily() { self.zone.day_at(now) } else { self.zone.hour_at(now) };
        while self.active.values().filter(|f| !f.failed).count() < ACTIVE_MAX
            && self.last.is_none_or(|l| self.next <= l)
        {
            let hour = self.next;
            let exists = self.disk.stat(&self.pattern.path(hour))?.is_some();
            if !exists && hour > current {
                return Ok(());
            }
            let gap = now.saturating_sub(self.zone.ends_ms(hour).unwrap_or(now));
            if !exists && gap > self.conf.journal_ms {
                let first = self.zone.hour_at(now - self.conf.journal_ms);
                let first = if self.pattern.is_daily() { first.day_of() } else { first };
                let existing = self.pattern.existing(&self.disk)?;
                let to = existing.into_iter().find(|h| *h > hour).map_or(first, |h| h.min(first));
                if to > hour {
                    self.alarms
                        .push(format!("hours {hour} to {to}: no files; too long ago to be declared empty"));
                    self.next = to;
                    continue;
                }
            }
            let key = self.key(hour);
            let taken_up = self.late.contains_key(&hour) || self.active.contains_key(&hour);
            if !taken_up && !journal.is_archived(&key)? {
                self.activate(hour);
            }
            self.next = self.zone.next(hour);
            if self.next == hour {
                return Ok(());
            }
        }
        Ok(())
    }

    fn activate(&mut self, hour: Hour) {
        let packer = Packer::new(self.conf.packer.clone());
        let path = self.pattern.path(hour);
        self.active.insert(hour, Follow { path, file: None, packer, mtime_ms: 0, failed: false });
    }

    /// The journal knows an hour from the moment when there is something to say of it.
    fn ensure_opened(&self, hour: Hour, journal: &mut Journal) {
        let key = self.key(hour);
        if journal.hour(&key).is_some() {
            return;
        }
        let path = self.pattern.path(hour);
        let copy =
            self.identity.copies_until.is_some_and(|u| hour <= u) && !planted::is(Bug::SameNumberForNewCopy);
        let generation = if copy { self.identity.copies_generation } else { 0 };
        let from_end = self.identity.from_end && hour == self.identity.first_hour;
        let pos = if from_end { self.last_line_end(&path).unwrap_or(0) } else { 0 };
        let before = journal.hours().values().next_back().filter(|_| planted::is(Bug::PositionOfOtherHour));
        let pos = before.map_or(pos, |l| l.pos);
        let hour = key.to_string();
        journal.append(&Event::Opened {
            hour: hour.clone(),
            generation,
            path,
            first_id: 1,
            pos,
            clock: false,
        });
        if pos > 0 {
            journal.append(&Event::Note { hour, what: "partial".into(), range: None, pos: None });
        }
    }

    fn last_line_end(&self, path: &Path) -> Option<u64> {
        let file = self.disk.open(path).ok()?;
        let len = file.stat().ok()?.len;
        let from = len.saturating_sub(self.conf.packer.max_line as u64);
        let mut tail = vec![0; usize::try_from(len - from).ok()?];
        let n = file.read_at(&mut tail, from).ok()?;
        let end = memchr::memrchr(b'\n', tail.get(..n)?).map_or(n, |i| i + 1);
        Some(from + end as u64)
    }

    fn seal(&mut self, journal: &mut Journal, hour: Hour, done: bool, out: &mut Vec<Sealed>) {
        let key = self.key(hour);
        let Some(log) = journal.hour(&key) else { return };
        let (id, start, generation) = (log.next_id(), log.pos, log.generation);
        let Some(f) = self.active.get_mut(&hour) else { return };
        let filled = f.packer.cut(self.spare.pop().unwrap_or_default());
        let unterminated = done && !filled.raw.is_empty() && filled.raw.last() != Some(&b'\n');
        let lines = filled.lines + u64::from(unterminated);
        let cut = Cut::new(id, start, lines, &filled.seal, done);
        journal.append(&Event::Cut { hour: key.to_string(), cut });
        out.push(Sealed { key, generation, id, raw: filled.raw });
    }

    fn note(
        &mut self,
        journal: &mut Journal,
        hour: Hour,
        what: &str,
        range: Option<(u64, Option<u64>)>,
        pos: u64,
    ) {
        let key = self.key(hour).to_string();
        journal.append(&Event::Note { hour: key, what: what.into(), range, pos: Some(pos) });
    }

    /// One look at one file.
    fn poll(
        &mut self,
        journal: &mut Journal,
        hour: Hour,
        oldest: bool,
        room_bytes: usize,
        room_packs: usize,
        out: &mut Vec<Sealed>,
    ) -> disk::Result<()> {
        let Some(path) = self.active.get(&hour).map(|f| f.path.clone()) else { return Ok(()) };
        let there = self.disk.stat(&path)?;
        let (first, mut left) = (out.len(), room_packs);
        let mut at_end = true;
        // What an open handle still has is read before anything else is believed, even if its name is gone.
        if self.active.get(&hour).is_some_and(|f| f.file.is_some()) {
            let stale = self.is_stale(journal, hour, there.as_ref())?;
            at_end = self.read(journal, hour, stale, room_bytes, &mut left, out)?;
            if stale && at_end {
                if self.active.get(&hour).is_some_and(|f| !f.packer.is_empty()) {
                    self.seal(journal, hour, false, out);
                }
                if let Some(f) = self.active.get_mut(&hour) {
                    f.file = None;
                }
            }
        }
        let opened = self.active.get(&hour).is_some_and(|f| f.file.is_some());
        if let (false, Some(stat)) = (opened, there) {
            let file = match self.disk.open(&path) {
                Ok(f) => f,
                Err(e) if e.not_found() => return Ok(()),
                Err(e) => return Err(e),
            };
            self.ensure_opened(hour, journal);
            let known = journal.hour(&self.key(hour)).cloned().unwrap_or_default();
            match compare(&file, &known)? {
                Content::Same => {}
                Content::Shorter(end) => {
                    self.note(journal, hour, "changed", None, end);
                    self.alarms.push(format!(
                        "{}: it lost bytes that were sent already; going on at byte {end}; the hour is not certified",
                        path.display()
                    ));
                }
                Content::New => {
                    self.note(journal, hour, "changed", None, 0);
                    self.alarms.push(format!(
                        "{}: it is not the file that was sent; read from its beginning as further packs; \
                         the hour is not certified",
                        path.display()
                    ));
                }
            }
            self.had_file = true;
            if let Some(f) = self.active.get_mut(&hour) {
                f.file = Some((file, stat.dev, stat.ino));
            }
            left = room_packs.saturating_sub(out.len() - first);
            let used: usize = out.iter().skip(first).map(|s| s.raw.len()).sum();
            at_end = self.read(journal, hour, false, room_bytes.saturating_sub(used), &mut left, out)?;
        }
        if at_end && left > 0 {
            self.maybe_close(journal, hour, oldest, there.is_some(), out)?;
        }
        Ok(())
    }

    /// Does another file stand at the path, or is the open one shorter than what was read of it? A path that is
    /// only missing may come back.
    fn is_stale(&self, journal: &Journal, hour: Hour, there: Option<&disk::Stat>) -> disk::Result<bool> {
        let Some(follow) = self.active.get(&hour) else { return Ok(false) };
        let (Some((file, dev, ino)), Some(stat)) = (&follow.file, there) else { return Ok(false) };
        let sealed = journal.hour(&self.key(hour)).map_or(0, |l| l.pos);
        let shrunk = file.stat()?.len < sealed + follow.packer.len() as u64;
        Ok((stat.dev, stat.ino) != (*dev, *ino) || shrunk)
    }

    /// Reads what is there; true = the end of the file is reached.
    fn read(
        &mut self,
        journal: &mut Journal,
        hour: Hour,
        last: bool,
        room_bytes: usize,
        left: &mut usize,
        out: &mut Vec<Sealed>,
    ) -> disk::Result<bool> {
        let now = self.clock.mono_ms();
        let first = out.len();
        let mut most = BLOCK;
        loop {
            let used: usize = out.iter().skip(first).map(|s| s.raw.len()).sum();
            // A pack is begun only if a whole one fits.
            if *left == 0 || used.saturating_add(self.conf.packer.pack_bytes) > room_bytes {
                return Ok(false);
            }
            let sealed = journal.hour(&self.key(hour)).map_or(0, |l| l.pos);
            let Some(f) = self.active.get_mut(&hour) else { return Ok(true) };
            let Some((file, ..)) = &f.file else { return Ok(true) };
            let stat = file.stat()?;
            f.mtime_ms = stat.mtime_ms;
            let at = sealed + f.packer.len() as u64;
            let useful =
                usize::try_from(stat.len.saturating_sub(at)).unwrap_or(usize::MAX).min(f.packer.wants());
            let want = useful.min(most);
            self.block.resize(want, 0);
            let n = file.read_at(&mut self.block, at)?;
            let block = self.block.get(..n).unwrap_or_default();
            let whole = at + n as u64 >= stat.len;
            let taken = f.packer.push(block, last && whole, now);
            if taken == 0 && n == want && want < useful {
                // A line that is longer than the block.
                most = useful;
                continue;
            }
            most = BLOCK;
            let end = taken == 0 || (whole && taken == n);
            if f.packer.is_due(end, now) {
                self.seal(journal, hour, false, out);
                *left -= 1;
            } else if end {
                return Ok(true);
            }
        }
    }

    /// Closes the hour if its time has come.
    fn maybe_close(
        &mut self,
        journal: &mut Journal,
        hour: Hour,
        oldest: bool,
        exists: bool,
        out: &mut Vec<Sealed>,
    ) -> disk::Result<()> {
        let now = self.clock.now_ms();
        let Some(ends) = self.zone.ends_ms(hour) else { return Ok(()) };
        let Some(f) = self.active.get(&hour) else { return Ok(()) };
        if now < ends {
            if self.conf.once && !f.packer.is_empty() {
                self.seal(journal, hour, false, out);
            }
            return Ok(());
        }
        let has_file = f.file.is_some();
        let over = now - ends;
        let waited = over >= self.conf.close_wait_ms;
        let quiet = now.saturating_sub(f.mtime_ms) >= self.conf.quiet_ms;
        if !has_file && !self.had_file && waited && !planted::is(Bug::AbsentHoursTakePlaces) {
            // No file was ever seen: there is nothing to declare, and younger hours need the place.
            self.active.remove(&hour);
            return Ok(());
        }
        let next_exists = self.disk.stat(&self.pattern.path(self.zone.next(hour)))?.is_some();
        let ready = if has_file {
            (quiet && (waited || next_exists)) || over >= 2 * self.conf.close_wait_ms
        } else {
            // An absent file says nothing if the directory cannot be read, or if none was ever seen.
            waited && oldest && self.had_file && self.disk.list(&self.pattern.directory()).is_ok()
        };
        if !ready && !(self.conf.once && (has_file || (oldest && self.had_file))) {
            return Ok(());
        }
        let key = self.key(hour);
        let before = self.identity.copies_until.is_some_and(|until| hour <= until);
        if self.conf.once && before && !exists && journal.hour(&key).is_none() {
            // It was asked to send files that were there before it; of an hour between them it knows nothing.
            self.active.remove(&hour);
            return Ok(());
        }
        self.ensure_opened(hour, journal);
        let (pos, was_done, begun, copy) = journal
            .hour(&key)
            .map_or((0, false, false, false), |l| (l.pos, l.is_done(), !l.cuts.is_empty(), l.generation > 0));
        if has_file {
            // Nothing will follow: an unterminated last line belongs to the hour.
            let mut left = usize::MAX;
            let whole = self.read(journal, hour, true, usize::MAX, &mut left, out)?;
            debug_assert!(whole);
        } else if (begun || copy) && !exists && !was_done {
            // Somebody may have read more of it before this state began: absence proves nothing for a copy.
            self.note(journal, hour, "loss", Some((pos, None)), pos);
            self.alarms.push(format!(
                "{key}: its file is gone; it was read to byte {pos} and may have held more; the hour is not certified"
            ));
        }
        let empty = self.active.get(&hour).is_none_or(|f| f.packer.is_empty());
        if !(empty && journal.hour(&key).is_some_and(HourLog::is_done)) {
            self.seal(journal, hour, true, out);
        }
        self.active.remove(&hour);
        let pos = journal.hour(&key).map_or(0, |l| l.pos);
        self.watch(hour, pos);
        self.prune(journal)
    }

    /// Closed files: did one grow?
    fn look_at_closed(&mut self, journal: &mut Journal) -> disk::Result<()> {
        let now = self.clock.mono_ms();
        let due: Vec<Hour> = self.late.iter().filter(|(_, l)| l.next_ms <= now).map(|(h, _)| *h).collect();
        for hour in due {
            let len = self.disk.stat(&self.pattern.path(hour))?.map_or(0, |s| s.len);
            let watched = self.zone.ends_ms(hour).is_some_and(|e| self.is_watched(e));
            let Some(late) = self.late.get_mut(&hour) else { continue };
            late.next_ms = now + late.wait_ms;
            late.wait_ms = (late.wait_ms * 2).min(LATE_WAIT_MAX_MS);
            let grown = len > late.pos;
            if !grown {
                if !watched {
                    self.late.remove(&hour);
                }
                continue;
            }
            let key = self.key(hour);
            if journal.hour(&key).is_none() && !journal.reopen(&key)? {
                self.alarms.push(format!(
                    "{}: it grew after its hour was closed, but the journal's file of the hour is damaged; \
                     send the hour again",
                    self.pattern.path(hour).display()
                ));
                self.late.remove(&hour);
                continue;
            }
            self.late.remove(&hour);
            self.activate(hour);
        }
        Ok(())
    }

    /// Forgets archived hours that are old, but never the newest.
    fn prune(&mut self, journal: &mut Journal) -> disk::Result<()> {
        let now = self.clock.now_ms();
        let mut keys = journal.archive_list()?;
        keys.retain(|k| k.name == self.identity.name);
        keys.sort();
        keys.pop();
        for key in keys {
            let old = self.zone.ends_ms(key.hour).is_some_and(|e| now - e > self.conf.journal_ms);
            if old && key.hour >= self.identity.first_hour {
                self.identity.first_hour = self.zone.next(key.hour);
            }
            if old && !self.late.contains_key(&key.hour) {
                journal.forget(&key)?;
            }
        }
        Ok(())
    }

    /// What the state directory is bound to; `first_hour` moves on as old hours are forgotten.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }
}

/// Is this the file whose bytes the cuts describe?
fn compare(file: &File, log: &HourLog) -> disk::Result<Content> {
    let len = file.stat()?.len;
    // After a replacement positions begin again: only the cuts since then speak of this file.
    let mut from = log.cuts.len();
    let mut next = log.pos;
    for (i, c) in log.cuts.iter().enumerate().rev() {
        if c.end != next {
            break;
        }
        (from, next) = (i, c.start);
    }
    let cuts = log.cuts.get(from..).unwrap_or_default();
    let Some(last) = cuts.iter().rev().find(|c| c.end > c.start) else {
        return Ok(if len >= log.pos { Content::Same } else { Content::New });
    };
    if len >= last.end && holds(file, last)? {
        return Ok(Content::Same);
    }
    let mut end = None;
    for c in cuts.iter().filter(|c| c.end > c.start && c.end <= len) {
        if !holds(file, c)? {
            return Ok(Content::New);
        }
        end = Some(c.end);
    }
    // Bytes after the last whole cut cannot be compared; they are sent again rather than lost.
    Ok(end.filter(|_| len < last.end).map_or(Content::New, Content::Shorter))
}

fn holds(file: &File, cut: &Cut) -> disk::Result<bool> {
    let mut hash = crc32fast::Hasher::new();
    let mut buf = vec![0; 64 << 10];
    let mut at = cut.start;
    while at < cut.end {
        let want = usize::try_from(cut.end - at).unwrap_or(usize::MAX).min(buf.len());
        let part = buf.get_mut(..want).unwrap_or_default();
        if file.read_at(part, at)? < want {
            return Ok(false);
        }
        hash.update(part);
        at += want as u64;
    }
    Ok(hash.finalize() == cut.crc)
}
