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

mod content;
pub mod followed;
mod identity;
pub mod pattern;
pub mod streams;
#[cfg(test)]
mod tests;
pub mod undated;
pub mod unpack;

use crate::clock::{Clock, Hour, Zone};
use crate::disk::{self, Disk, File};
use crate::journal::{Cut, Event, HourLog, Journal};
use crate::pack::{HourKey, Meta};
use crate::packer::{Packer, PackerConfig};
use crate::planted::{self, Bug};
pub use content::reread;
use content::{Content, compare};
pub use identity::{Identity, begin};
use pattern::Pattern;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Hours that are read at the same time.
const ACTIVE_MAX: usize = 3;
/// Bytes read at a time: few enough to stay in the processor's cache. Only a longer line needs more.
const BLOCK: usize = 128 << 10;
/// Buffers of a pack each that are kept during a catch-up.
const SPARE_MAX: usize = 4;
const LATE_WAIT_MAX_MS: u64 = 3_600_000;
/// So long before an hour begins its file is looked for only now and then: by how much clocks may differ without a delay.
const EARLY_MS: i64 = 60_000;
const EARLY_LOOK_MS: u64 = 10_000;
/// Time between two looks at a file that has long been quiet.
pub const LOOK_MAX_MS: u64 = 1_000;

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
    /// Where compressed files are unpacked.
    pub unpacked: PathBuf,
    /// Of a file without a date: what was rotated away before the first look is read, too.
    pub with_rotated: bool,
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

/// Buffers that are used again.
#[derive(Debug, Default)]
pub struct Scratch {
    block: Vec<u8>,
    spare: Vec<Vec<u8>>,
}

impl Scratch {
    /// A buffer that a sent pack no longer needs; `pack_bytes` is the size of a pack.
    pub fn recycle(&mut self, mut raw: Vec<u8>, pack_bytes: usize) {
        if self.spare.len() < SPARE_MAX && (1..=pack_bytes.saturating_mul(2)).contains(&raw.capacity()) {
            raw.clear();
            self.spare.push(raw);
        }
    }

    /// No catch-up: what it needed goes back to the system.
    pub fn shrink(&mut self) {
        self.spare.clear();
        self.block = Vec::new();
    }
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
    /// When the file of an hour that is far from its beginning is looked for.
    early_ms: u64,
    /// `--once`: nothing beyond this hour is looked at.
    last: Option<Hour>,
    had_file: bool,
    /// Memory that comes and goes; whoever follows many files lends one to each in turn.
    pub scratch: Scratch,
    /// The last look at the files; what is read now may have been there since.
    looked_ms: u64,
    /// Hours whose compressed file cannot be unpacked.
    left_out: usize,
    /// Sentences for the log.
    pub alarms: Vec<String>,
}

/// What became of an hour's compressed file.
enum Packed {
    Absent,
    Unpacked,
    Unusable,
}

impl Tail {
    /// Begins where the journal and `identity` say; `archived` is the journal's list of closed hours.
    #[allow(clippy::too_many_arguments)] // all of them are its surroundings; a struct would only be taken apart again
    pub fn open(
        disk: &Disk,
        clock: &Clock,
        zone: &Zone,
        conf: FollowConfig,
        pattern: Pattern,
        identity: Identity,
        journal: &mut Journal,
        archived: &[HourKey],
    ) -> disk::Result<Self> {
        let mut tail = Self {
            disk: disk.clone(),
            clock: clock.clone(),
            zone: zone.clone(),
            next: identity.first_hour,
            early_ms: 0,
            last: None,
            had_file: false,
            active: BTreeMap::new(),
            late: BTreeMap::new(),
            scratch: Scratch::default(),
            looked_ms: clock.mono_ms(),
            left_out: 0,
            alarms: Vec::new(),
            conf,
            identity,
            pattern,
        };
        let existing = unpack::existing(&tail.pattern, disk).unwrap_or_default();
        tail.had_file = !existing.is_empty() || journal.hours().values().any(|h| h.pos > 0);
        tail.last = tail.conf.once.then(|| existing.last().copied().unwrap_or(tail.next));
        let open: Vec<HourKey> =
            journal.hours().keys().filter(|k| k.name == tail.identity.name).cloned().collect();
        for key in open {
            match journal.hour(&key) {
                Some(log) if log.is_done() => tail.watch(key.hour, log.pos),
                _ => tail.activate(key.hour)?,
            }
        }
        for key in archived {
            if key.name != tail.identity.name {
                continue;
            }
            let young = tail.zone.ends_ms(key.hour).is_some_and(|e| tail.is_watched(e));
            if young && !tail.late.contains_key(&key.hour) {
                match journal.archived(key)? {
                    Some(log) => tail.watch(key.hour, log.pos),
                    None => tail.alarms.push(format!(
                        "{key}: the journal's file of this closed hour is damaged; lines that come late to it are \
                         not sent; if its log file grew, send the hour again"
                    )),
                }
            }
        }
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

    /// Bytes that are read and not sealed yet.
    pub fn unsealed(&self) -> usize {
        self.active.values().map(|f| f.packer.len()).sum()
    }

    /// Seals what was read so far: the memory is needed.
    pub fn seal_all(&mut self, journal: &mut Journal, out: &mut Vec<Sealed>) {
        let begun = self.active.iter().filter(|(_, f)| !f.packer.is_empty()).map(|(h, _)| *h);
        for hour in begun.collect::<Vec<_>>() {
            self.seal(journal, hour, false, out);
        }
    }

    /// Can this hour be read once more from its first byte? The error says why not.
    pub fn can_restart(&self, hour: Hour) -> disk::Result<Result<(), String>> {
        if hour.is_daily() != self.pattern.is_daily() {
            let (file, form) =
                if self.pattern.is_daily() { ("a day", "YYYYMMDD") } else { ("an hour", "YYYYMMDDHH") };
            return Ok(Err(format!("each file holds {file}: name it {form}")));
        }
        let path = self.source(hour)?;
        Ok(match self.disk.stat(&path)? {
            Some(_) if self.zone.starts_ms(hour).is_none_or(|ms| ms > self.clock.now_ms()) => {
                Err("it has not begun yet".to_owned())
            }
            Some(_) => Ok(()),
            None => Err(format!("{} is not there", path.display())),
        })
    }

    /// Begins an hour anew, as a copy that is read from the first byte.
    pub fn restart(&mut self, journal: &mut Journal, hour: Hour, generation: u64) -> disk::Result<()> {
        self.late.remove(&hour);
        let path = self.source(hour)?;
        journal.append(&Event::Opened {
            hour: self.key(hour).to_string(),
            generation,
            path,
            first_id: 1,
            pos: 0,
            clock: false,
        });
        self.activate(hour)
    }

    /// The file from which an hour is read: its own, or what its compressed form was unpacked to.
    fn source(&self, hour: Hour) -> disk::Result<PathBuf> {
        let own = self.pattern.path(hour);
        let unpacked = unpack::place(&self.conf.unpacked, &self.key(hour));
        Ok(match self.disk.stat(&own)? {
            None if self.disk.stat(&unpacked)?.is_some() => unpacked,
            _ => own,
        })
    }

    /// An hour's file that is only there compressed is unpacked: its hour is not empty. If that cannot be done the hour is left
    /// out; the others go on.
    fn unpack(&mut self, hour: Hour) -> disk::Result<Packed> {
        let from = unpack::packed(&self.pattern.path(hour));
        if self.disk.stat(&from)?.is_none() {
            return Ok(Packed::Absent);
        }
        let to = unpack::place(&self.conf.unpacked, &self.key(hour));
        let dir = self.disk.create_dir_all(&self.conf.unpacked, 0o750);
        let why = match dir.and_then(|()| unpack::unpack(&self.disk, &from, &to)) {
            Ok(Ok(())) => return Ok(Packed::Unpacked),
            Ok(Err(why)) => why,
            Err(e) if e.fatal() => return Err(e),
            Err(e) => format!("{}: it cannot be unpacked: {e}", from.display()),
        };
        self.left_out = self.left_out.saturating_add(1);
        self.alarms.push(format!(
            "{}: {why}; its hour is not sent; mend that and start the follower again, or ask by `logd resend`",
            self.key(hour)
        ));
        Ok(Packed::Unusable)
    }

    /// Hours that are not sent because their compressed file cannot be unpacked.
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    /// Is this hour's file being read? Then its journal is not at rest, even if the hour was closed once.
    pub fn is_reading(&self, hour: Hour) -> bool {
        self.active.contains_key(&hour)
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
            room_packs = room_packs.saturating_sub(out.len().saturating_sub(before));
            room_bytes =
                room_bytes.saturating_sub(out.iter().skip(before).map(|s: &Sealed| s.raw.len()).sum());
            if room_bytes == 0 || room_packs == 0 {
                break;
            }
        }
        self.looked_ms = self.clock.mono_ms();
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
            // Only a writer whose clock is ahead makes such a file; a thousand quiet ones are not asked for it each second.
            let early = self.zone.starts_ms(hour).is_some_and(|ms| ms.saturating_sub(now) > EARLY_MS);
            if early && self.last.is_none() {
                let mono_ms = self.clock.mono_ms();
                if mono_ms < self.early_ms {
                    return Ok(());
                }
                self.early_ms = mono_ms.saturating_add(EARLY_LOOK_MS);
            }
            let own = self.disk.stat(&self.pattern.path(hour))?.is_some();
            if !own && hour > current {
                return Ok(());
            }
            let archived = journal.is_archived(&self.key(hour))?;
            let mut exists = own || self.disk.stat(&self.source(hour)?)?.is_some();
            if !exists && !archived {
                match self.unpack(hour)? {
                    Packed::Absent => {}
                    Packed::Unpacked => exists = true,
                    Packed::Unusable => {
                        self.next = self.zone.next(hour);
                        continue;
                    }
                }
            }
            let gap = now.saturating_sub(self.zone.ends_ms(hour).unwrap_or(now));
            if !exists && gap > self.conf.journal_ms {
                let first = self.zone.hour_at(now.saturating_sub(self.conf.journal_ms));
                let first = if self.pattern.is_daily() { first.day_of() } else { first };
                let existing = unpack::existing(&self.pattern, &self.disk)?;
                let to = existing.into_iter().find(|h| *h > hour).map_or(first, |h| h.min(first));
                if to > hour {
                    self.alarms
                        .push(format!("hours {hour} to {to}: no files; too long ago to be declared empty"));
                    self.next = to;
                    continue;
                }
            }
            let taken_up = self.late.contains_key(&hour) || self.active.contains_key(&hour);
            if !taken_up && !archived {
                self.activate(hour)?;
            }
            self.next = self.zone.next(hour);
            if self.next == hour {
                return Ok(());
            }
        }
        Ok(())
    }

    fn activate(&mut self, hour: Hour) -> disk::Result<()> {
        let packer = Packer::new(self.conf.packer.clone());
        let path = self.source(hour)?;
        self.active.insert(hour, Follow { path, file: None, packer, mtime_ms: 0, failed: false });
        Ok(())
    }

    /// The journal knows an hour from the moment when there is something to say of it.
    fn ensure_opened(&self, hour: Hour, journal: &mut Journal) {
        let key = self.key(hour);
        if journal.hour(&key).is_some() {
            return;
        }
        let path = self.active.get(&hour).map_or_else(|| self.pattern.path(hour), |f| f.path.clone());
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
        let mut tail = vec![0; usize::try_from(len.saturating_sub(from)).ok()?];
        let n = file.read_at(&mut tail, from).ok()?;
        let end = memchr::memrchr(b'\n', tail.get(..n)?).map_or(n, |i| i.saturating_add(1));
        Some(from.saturating_add(end as u64))
    }

    fn seal(&mut self, journal: &mut Journal, hour: Hour, done: bool, out: &mut Vec<Sealed>) {
        let key = self.key(hour);
        let Some(log) = journal.hour(&key) else { return };
        let (id, start, generation) = (log.next_id(), log.pos, log.generation);
        let Some(f) = self.active.get_mut(&hour) else { return };
        let filled = f.packer.cut(self.scratch.spare.pop().unwrap_or_default());
        let unterminated = done && !filled.raw.is_empty() && filled.raw.last() != Some(&b'\n');
        let lines = filled.lines.saturating_add(u64::from(unterminated));
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
                        "{}: it lost bytes that were sent already; going on at byte {end}; the hour is not certified: see `logd status` of its store",
                        path.display()
                    ));
                }
                Content::New => {
                    self.note(journal, hour, "changed", None, 0);
                    self.alarms.push(format!(
                        "{}: it is not the file that was sent; read from its beginning as further packs; \
                         the hour is not certified: see `logd status` of its store",
                        path.display()
                    ));
                }
            }
            self.had_file = true;
            if let Some(f) = self.active.get_mut(&hour) {
                f.file = Some((file, stat.dev, stat.ino));
            }
            left = room_packs.saturating_sub(out.len().saturating_sub(first));
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
        let shrunk = file.stat()?.len < sealed.saturating_add(follow.packer.len() as u64);
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
        // A quiet file is looked at less often; its first line must not wait longer for that.
        let since = self.looked_ms.max(now.saturating_sub(LOOK_MAX_MS));
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
            let at = sealed.saturating_add(f.packer.len() as u64);
            let useful =
                usize::try_from(stat.len.saturating_sub(at)).unwrap_or(usize::MAX).min(f.packer.wants());
            let want = useful.min(most);
            let block = &mut self.scratch.block;
            block.resize(want, 0);
            let n = file.read_at(block, at)?;
            let block = block.get(..n).unwrap_or_default();
            let whole = at.saturating_add(n as u64) >= stat.len;
            let taken = f.packer.push(block, last && whole, since);
            if taken == 0 && n == want && want < useful {
                // A line that is longer than the block.
                most = useful;
                continue;
            }
            most = BLOCK;
            let end = taken == 0 || (whole && taken == n);
            // With `last` the caller seals what is left: it knows whether it is the hour's end.
            if f.packer.is_due(end && !last, now) {
                self.seal(journal, hour, false, out);
                *left = left.saturating_sub(1);
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
        let over = now.saturating_sub(ends);
        let waited = over >= self.conf.close_wait_ms;
        let quiet = now.saturating_sub(f.mtime_ms) >= self.conf.quiet_ms;
        if !has_file && !self.had_file && waited && !planted::is(Bug::AbsentHoursTakePlaces) {
            // No file was ever seen: there is nothing to declare, and younger hours need the place.
            self.active.remove(&hour);
            return Ok(());
        }
        let next_exists = self.disk.stat(&self.pattern.path(self.zone.next(hour)))?.is_some();
        let ready = if has_file {
            (quiet && (waited || next_exists)) || over >= self.conf.close_wait_ms.saturating_mul(2)
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
        if !has_file && !exists {
            // It may have been compressed while nobody looked.
            match self.unpack(hour)? {
                Packed::Absent => {}
                Packed::Unpacked => return self.activate(hour),
                Packed::Unusable => {
                    self.active.remove(&hour);
                    return Ok(());
                }
            }
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
                "{key}: its file is gone; it was read to byte {pos} and may have held more; the hour is not certified: see `logd status` of its store"
            ));
        }
        let empty = self.active.get(&hour).is_none_or(|f| f.packer.is_empty());
        if !(empty && journal.hour(&key).is_some_and(HourLog::is_done)) {
            self.seal(journal, hour, true, out);
        }
        self.active.remove(&hour);
        let pos = journal.hour(&key).map_or(0, |l| l.pos);
        self.watch(hour, pos);
        Ok(())
    }

    /// Closed files: did one grow?
    fn look_at_closed(&mut self, journal: &mut Journal) -> disk::Result<()> {
        let now = self.clock.mono_ms();
        let due: Vec<Hour> = self.late.iter().filter(|(_, l)| l.next_ms <= now).map(|(h, _)| *h).collect();
        for hour in due {
            let len = self.disk.stat(&self.pattern.path(hour))?.map_or(0, |s| s.len);
            let watched = self.zone.ends_ms(hour).is_some_and(|e| self.is_watched(e));
            let Some(late) = self.late.get_mut(&hour) else { continue };
            late.next_ms = now.saturating_add(late.wait_ms);
            late.wait_ms = late.wait_ms.saturating_mul(2).min(LATE_WAIT_MAX_MS);
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
            self.activate(hour)?;
        }
        Ok(())
    }

    /// Of the journal's closed hours its own that are old, but never the newest. They are none of ours any more: when that
    /// is durable in the [`Identity`], the journal may forget them.
    pub fn outdated(&mut self, archived: &[HourKey]) -> Vec<HourKey> {
        let now = self.clock.now_ms();
        let mut keys: Vec<&HourKey> = archived.iter().filter(|k| k.name == self.identity.name).collect();
        keys.sort_unstable();
        keys.pop();
        let mut out = Vec::new();
        for key in keys {
            let ends = self.zone.ends_ms(key.hour);
            let old = ends.is_some_and(|e| now.saturating_sub(e) > self.conf.journal_ms);
            if old && key.hour >= self.identity.first_hour {
                self.identity.first_hour = self.zone.next(key.hour);
            }
            if old && !self.late.contains_key(&key.hour) {
                out.push(key.clone());
            }
        }
        out
    }

    /// What the state directory is bound to; `first_hour` moves on as old hours are forgotten.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }
}
