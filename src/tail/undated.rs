//! The follower of a file whose name has no date (`/var/log/nginx/access.log`), through every way of rotating it.
//!
//! Carries P1 and P2 at such a source. A line belongs to the hour, by the wall clock and the configured zone, in which it
//! was read; the certificate says `cut: clock`. [`Undated::step`] looks once and returns what it sealed. Its only files
//! are the journal's: the position is the open hour's, and the next hour goes on where the last one ended.
//!
//! **When an hour closes**: at the first look after its end, wherever the position is. If nobody looked around that
//! moment (the follower was down, stalled, or had no room for more than a minute) and there are unread bytes, every
//! hour that they may belong to is `partial`. So are hours that a jump of the clock cuts short.
//!
//! **Which file**: after a restart the one in which the last cuts stand at their places; its name and inode say nothing.
//! While it runs an open handle says it, because its inode cannot be given to another file.
//!
//! - *rename and create, delete and create, a link that is switched*: the open file is read until it has not grown for
//!   5 seconds with another one at the path, then the other one. Writers that go on with the old one for a while are
//!   followed: their bytes come as packs *aside*, which move no position.
//! - *copytruncate*: the file is shorter, or other bytes stand before the position. What was not read is taken from the
//!   copy that was made; without one what was seen is `loss`, and the hour is `partial` in any case.
//! - *down meanwhile*: the file is looked for under the names that rotation gives, compressed or not; then every newer one
//!   is read, then the one at the path. Content that the journal knows is not sent again. Behind one rotation there is one
//!   file; who finds more than that beside the path cannot know whether they are all, and the hour is `partial`.
//!
//! **What may be lost without a word**, because nobody can see it: what the writer adds between the copy and the truncation
//! of a `copytruncate`, if nobody looked in between; a file that is made and deleted between two looks (or while the
//! follower is down, behind one that is found); a rewrite after which 1,024 equal bytes stand before the position; what
//! comes to a rotated file after it was watched for ten times `quiet`, or after its name went while the follower was down;
//! what comes to a file that was rotated away empty, if the follower is restarted before it has read that.
//! **What may be sent twice**: a file shorter than 1 KiB that comes back to the path under a new inode.
//! **What may be left out**: of two files with equal bytes up to the position, the second, if the follower was down when
//! the one took the other's place.

mod find;
#[cfg(test)]
mod model;
mod rotated;
mod source;
#[cfg(test)]
mod tests;

use super::{BLOCK, FollowConfig, Identity, Scratch, Sealed};
use crate::clock::{Clock, Hour, Zone};
use crate::disk::{self, Disk, File};
use crate::journal::{Cut, Event, Journal};
use crate::pack::HourKey;
use crate::packer::{Filled, Packer};
pub use rotated::{behind, find_bytes, is_rotated};
use source::{Fetched, Plain, Source};
use std::collections::VecDeque;
use std::path::PathBuf;

/// Why an hour cannot be sent again as a whole.
pub const NOT_WHOLE: &str = "its log file has no date in its name, and nobody knows any more which of its bytes were read in \
                             that hour; what is not acknowledged waits in retry/ and is sent by itself";
/// Who did not look for so long has not seen an hour end, in ms: twice what an hour may well take to be closed.
const STALL_MS: i64 = 60_000;
/// A replaced file is done with when it has not grown for so long, in ms: writers are signalled within a second or two,
/// and the lines stay in order.
const STILL_MS: u64 = 5_000;
/// A replaced file whose writer never stops must not keep the new one waiting, in ms.
const SWITCH_MAX_MS: u64 = 60_000;
/// File times are compared with this much patience, in ms: a replaced file may still have grown, beyond the next one.
const SLACK_MS: i64 = 60_000;
/// Rotated files whose writers are still watched.
const OLD_MAX: usize = 8;
/// Files that were seen at the path and wait for their turn.
const NEXT_MAX: usize = 16;
/// Compressed files that are searched for lines behind what was read of them: inflating is dear.
const GZ_MAX: usize = 2;

/// The file that is being read.
struct Current {
    source: Source,
    path: PathBuf,
    /// Another one was seen at the path: when (monotonic), and when this one had last changed.
    replaced: Option<(u64, i64)>,
    /// Nobody writes to it any more: it is a copy.
    finished: bool,
    /// It was found beside the path, rotated already.
    found: bool,
}

/// A file that was seen at the path, and how it began.
struct Next {
    plain: Box<Plain>,
}

impl Next {
    fn inode(&self) -> (u64, u64) {
        (self.plain.dev, self.plain.ino)
    }
}

/// A rotated file that may still grow.
struct Old {
    source: Source,
    path: PathBuf,
    pos: u64,
    look_ms: u64,
    until_ms: u64,
}

/// What may still be sealed in this step, and what was.
struct Room<'a> {
    bytes: usize,
    packs: usize,
    out: &'a mut Vec<Sealed>,
}

impl Room<'_> {
    fn put(&mut self, sealed: Sealed) {
        self.bytes = self.bytes.saturating_sub(sealed.raw.len());
        self.packs = self.packs.saturating_sub(1);
        self.out.push(sealed);
    }
}

/// What a cut is besides its bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Usual,
    Last,
    Aside,
}

/// How reading ended.
enum Read {
    NoRoom,
    End,
    Rewritten,
}

/// See the module's header.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Undated {
    disk: Disk,
    clock: Clock,
    zone: Zone,
    conf: FollowConfig,
    path: PathBuf,
    identity: Identity,
    /// The open hour.
    hour: Option<Hour>,
    /// Hours before it that have no end.
    stale: Vec<Hour>,
    /// The newest hour that is closed, and where it ended.
    closed: Option<(Hour, u64)>,
    /// What is read now was found; until then no hour is closed.
    settled: bool,
    /// When it was looked for in vain.
    settled_ms: Option<u64>,
    /// Something may be missing, and nobody knows of which hour: every one up to now is `partial`.
    unsure: bool,
    cur: Option<Current>,
    /// Files that changed after this are newer than what was read.
    since_ms: i64,
    next: VecDeque<Next>,
    old: Vec<Old>,
    packer: Packer,
    /// Memory that comes and goes; whoever follows many files lends one to each in turn.
    pub scratch: Scratch,
    /// Rotated files that could not be read and were told.
    unreadable: Vec<(u64, u64)>,
    /// Compressed files that were given up.
    broken: Vec<(u64, u64)>,
    /// When newer files were looked for, while there was none at the path.
    searched_ms: Option<u64>,
    /// The last look that could read, by the wall's clock and by the monotonic one.
    looked_ms: Option<(i64, u64)>,
    /// The open hour, if the clock was put back before it.
    early: Option<Hour>,
    /// There was no file at the path.
    missing: bool,
    /// What is at the path cannot be opened.
    blocked: bool,
    /// At the first start there was none: its first byte will be the first.
    waited: bool,
    ended: bool,
    /// Sentences for the log.
    pub alarms: Vec<String>,
}

impl Undated {
    /// Begins where the journal and `identity` say. The file itself is looked for by the first step.
    #[allow(clippy::too_many_arguments)] // as of `Tail::open`
    pub fn open(
        disk: &Disk,
        clock: &Clock,
        zone: &Zone,
        conf: FollowConfig,
        path: PathBuf,
        identity: Identity,
        journal: &mut Journal,
        archived: &[HourKey],
    ) -> disk::Result<Self> {
        let mut me = Self {
            disk: disk.clone(),
            clock: clock.clone(),
            zone: zone.clone(),
            packer: Packer::new(conf.packer.clone()),
            conf,
            path,
            identity,
            hour: None,
            stale: Vec::new(),
            closed: None,
            settled: false,
            settled_ms: None,
            unsure: false,
            cur: None,
            since_ms: i64::MAX,
            next: VecDeque::new(),
            old: Vec::new(),
            scratch: Scratch::default(),
            unreadable: Vec::new(),
            broken: Vec::new(),
            searched_ms: None,
            looked_ms: None,
            early: None,
            missing: false,
            blocked: false,
            waited: false,
            ended: false,
            alarms: Vec::new(),
        };
        let mine = |k: &&HourKey| k.name == me.identity.name;
        let newest = journal.hours().keys().filter(mine).max().cloned();
        let archived = archived.iter().filter(mine).max().cloned();
        // After damage an older hour may be open again; what follows it stands in the newer one.
        let open =
            journal.hours().iter().filter(|(k, l)| mine(k) && !l.is_done() && Some(*k) != newest.as_ref());
        me.stale = open.map(|(k, _)| k.hour).collect();
        if let Some((key, log)) = newest.as_ref().and_then(|k| Some((k, journal.hour(k)?)))
            && archived.as_ref().is_none_or(|a| *a <= *key)
        {
            if log.is_done() {
                me.closed = Some((key.hour, log.pos));
            } else {
                me.hour = Some(key.hour);
            }
        } else if let Some(key) = archived {
            let log = rotated::closed_hour(journal, &key)?;
            if log.is_none() {
                me.unsure = true;
                me.alarms.push(format!(
                    "{key}: the journal's file of this closed hour is damaged; where {} was read to is found from older \
                     hours; lines may be sent twice; the hour is not certified: see `logd status` of its store",
                    me.path.display()
                ));
            }
            me.closed = Some((key.hour, log.map_or(0, |l| l.pos)));
        }
        Ok(me)
    }

    /// What was read before may be read once more, or skipped: the journal was lost.
    pub fn doubt(&mut self) {
        self.unsure = true;
    }

    fn key(&self, hour: Hour) -> HourKey {
        HourKey { name: self.identity.name.clone(), hour }
    }

    fn pos(&self, journal: &Journal) -> u64 {
        self.hour.and_then(|h| journal.hour(&self.key(h))).map_or(0, |l| l.pos)
    }

    /// The file that is followed, with the byte from which, for the first message and for tests.
    pub fn following(&self, journal: &Journal) -> Vec<(PathBuf, u64)> {
        let path = self.cur.as_ref().map_or(&self.path, |c| &c.path);
        self.hour.map(|_| (path.clone(), self.pos(journal))).into_iter().collect()
    }

    /// Is this hour open? Then its journal is not at rest.
    pub fn is_reading(&self, hour: Hour) -> bool {
        self.hour == Some(hour)
    }

    /// With `--once`: is everything sealed that is there?
    pub fn at_end(&self) -> bool {
        self.ended || (self.missing && !self.settled)
    }

    /// What the state directory is bound to; `first_hour` moves on as old hours are forgotten.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Bytes that are read and not sealed yet.
    pub fn unsealed(&self) -> usize {
        self.packer.len()
    }

    /// Seals what was read so far: the memory is needed.
    pub fn seal_all(&mut self, journal: &mut Journal, out: &mut Vec<Sealed>) {
        if let Some(hour) = self.hour.filter(|_| !self.packer.is_empty()) {
            self.seal(journal, hour, false, &mut Room { bytes: 0, packs: 0, out });
        }
    }

    /// Closed hours that are old enough to be forgotten, but never the newest.
    pub fn outdated(&mut self, archived: &[HourKey]) -> Vec<HourKey> {
        let now = self.clock.now_ms();
        let mut keys: Vec<HourKey> =
            archived.iter().filter(|k| k.name == self.identity.name).cloned().collect();
        keys.sort_unstable();
        keys.pop();
        keys.retain(|key| {
            self.zone.ends_ms(key.hour).is_some_and(|e| now.saturating_sub(e) > self.conf.journal_ms)
        });
        if let Some(newest) = keys.last() {
            self.identity.first_hour = self.identity.first_hour.max(self.zone.next(newest.hour));
        }
        keys
    }

    /// One look. At most `room_bytes` raw bytes and `room_packs` packs are sealed and added to `out`, also when an error
    /// ends the look. The caller commits the journal before it sends any of them.
    pub fn step(
        &mut self,
        journal: &mut Journal,
        room_bytes: usize,
        room_packs: usize,
        out: &mut Vec<Sealed>,
    ) -> disk::Result<()> {
        let mut room = Room { bytes: room_bytes, packs: room_packs, out };
        self.ended = false;
        while room.packs > 0
            && let Some(hour) = self.stale.pop()
        {
            self.note(journal, hour, "partial", None);
            let at = journal.hour(&self.key(hour)).map_or(0, |l| l.pos);
            let nothing = Packer::new(self.conf.packer.clone()).cut(Vec::new());
            self.cut(journal, hour, nothing, at, Kind::Last, &mut room);
        }
        let mut behind = None;
        loop {
            if room.packs == 0 {
                return self.glance(journal);
            }
            let Some(hour) = self.begin(journal)? else { return Ok(()) };
            if !self.settled {
                // It may take reading all that rotation left.
                let now = self.clock.mono_ms();
                if self.settled_ms.is_some_and(|ms| now.saturating_sub(ms) < STILL_MS) && !self.conf.once {
                    return Ok(());
                }
                self.settled_ms = Some(now);
                if !self.settle(journal, hour)? {
                    return Ok(());
                }
            }
            let seen = self.look_at_path();
            self.blocked = seen.is_err();
            if self.edge(journal, hour, &mut behind, &mut room)? {
                continue;
            }
            self.note_doubts(journal, hour);
            let could = room.bytes >= self.conf.packer.pack_bytes;
            if self.old.len() > OLD_MAX {
                self.look_at_old(journal, hour, &mut room)?;
            }
            // A file that cannot be read holds up none of the others.
            let turned = self.turn(journal, hour, &mut room);
            if matches!(turned, Ok(true)) && self.conf.once && !self.packer.is_empty() {
                self.seal(journal, hour, false, &mut room);
            }
            let old = self.look_at_old(journal, hour, &mut room);
            // It must not be forgotten if the process ends here.
            self.note_doubts(journal, hour);
            seen?;
            self.ended = turned?;
            old?;
            if could {
                self.looked_ms = Some((self.clock.now_ms(), self.clock.mono_ms()));
            }
            break;
        }
        Ok(())
    }

    /// There is no room to read; but what stands at the position is remembered, in case the file is emptied before the next
    /// look, and who takes its place.
    pub fn glance(&mut self, journal: &Journal) -> disk::Result<()> {
        if self.settled {
            self.look_at_path()?;
        }
        let at = self.pos(journal).saturating_add(self.packer.len() as u64);
        let mono_ms = self.clock.mono_ms();
        match &mut self.cur {
            Some(Current { source: Source::Plain(p), .. }) => p.peek(at, mono_ms, &mut self.scratch.block),
            _ => Ok(()),
        }
    }

    // ---- hours ------------------------------------------------------------------------------------------------

    /// The open hour; opens one if there is none and something to say of it.
    fn begin(&mut self, journal: &mut Journal) -> disk::Result<Option<Hour>> {
        if let (None, Some((hour, pos))) = (self.hour, self.closed) {
            // Never one that is closed, whatever the clock says now.
            self.open_hour(journal, self.zone.next(hour), pos);
        }
        if self.hour.is_some() {
            return Ok(self.hour);
        }
        let Some(file) = self.open_path()? else {
            self.waited = true;
            return Ok(None);
        };
        let pos = if self.identity.from_end && !self.waited { self.last_line_end(&file)? } else { 0 };
        let hour = self.zone.hour_at(self.clock.now_ms());
        self.open_hour(journal, hour, pos);
        if pos > 0 {
            self.note(journal, hour, "partial", None);
        }
        self.settled = true;
        if self.conf.with_rotated {
            self.since_ms = i64::MIN;
            let mono_ms = self.clock.mono_ms();
            self.next.push_back(Next { plain: Box::new(Plain::new(file, 0, mono_ms)?) });
        } else {
            let path = self.path.clone();
            self.read_from(file, path, pos)?;
        }
        Ok(self.hour)
    }

    fn open_hour(&mut self, journal: &mut Journal, hour: Hour, pos: u64) {
        let copy = self.identity.copies_until.is_some_and(|until| hour <= until);
        journal.append(&Event::Opened {
            hour: self.key(hour).to_string(),
            generation: if copy { self.identity.copies_generation } else { 0 },
            path: self.path.clone(),
            first_id: 1,
            pos,
            clock: true,
        });
        self.hour = Some(hour);
    }

    fn last_line_end(&self, file: &File) -> disk::Result<u64> {
        let len = file.stat()?.len;
        let from = len.saturating_sub(self.conf.packer.max_line as u64);
        let mut tail = vec![0; usize::try_from(len.saturating_sub(from)).unwrap_or(0)];
        let n = file.read_at(&mut tail, from)?;
        let end = tail.get(..n).and_then(|t| memchr::memrchr(b'\n', t)).map(|i| (i as u64).saturating_add(1));
        // A line longer than any that is kept in one piece, or the first one, not finished.
        Ok(end.map_or(if from == 0 { 0 } else { len }, |e| from.saturating_add(e)))
    }

    /// Closes the open hour if it is over; true = it was, and the next one is open. `behind` = is anything unread, once that
    /// is known: after a long time many hours are closed in one look, and it is the same for all of them.
    fn edge(
        &mut self,
        journal: &mut Journal,
        hour: Hour,
        behind: &mut Option<bool>,
        room: &mut Room<'_>,
    ) -> disk::Result<bool> {
        let now = self.clock.now_ms();
        let ends = self.zone.ends_ms(hour).unwrap_or(i64::MIN);
        if now < ends {
            return Ok(false);
        }
        let looked = self.looked_ms;
        let seen = looked.is_some_and(|(wall, _)| now.saturating_sub(wall) <= STALL_MS)
            && now.saturating_sub(ends) <= STALL_MS;
        // By the clock that nobody sets: has the time passed at all?
        let passed = looked.map_or(i64::MAX, |(_, mono)| {
            self.clock.mono_ms().saturating_sub(mono).cast_signed().saturating_add(STALL_MS)
        });
        let jumped = looked.is_some_and(|(wall, _)| now.saturating_sub(wall) > passed);
        if jumped {
            self.alarms.push(format!(
                "{}: the clock was put forward, and hour {hour} ended before its time; what follows belongs to the hours \
                 after it; it is not certified",
                self.path.display()
            ));
        }
        if !seen && behind.is_none() {
            *behind = Some(self.is_behind(journal)?);
        }
        let partial = self.unsure || jumped || (!seen && *behind == Some(true));
        self.close(journal, hour, partial, room);
        Ok(true)
    }

    /// Closes the hour and opens the next one.
    fn close(&mut self, journal: &mut Journal, hour: Hour, partial: bool, room: &mut Room<'_>) {
        if partial {
            self.note(journal, hour, "partial", None);
        }
        self.seal(journal, hour, true, room);
        let pos = self.pos(journal);
        let mut next = self.zone.next(hour);
        let oldest = self.clock.now_ms().saturating_sub(self.conf.journal_ms);
        if self.zone.ends_ms(next).is_some_and(|ends| ends < oldest) {
            let to = self.zone.hour_at(oldest);
            self.alarms.push(format!(
                "{}: hours {next} to {to}: nobody looked; too long ago to be declared",
                self.path.display()
            ));
            next = to;
        }
        self.closed = Some((hour, pos));
        self.open_hour(journal, next, pos);
        if partial {
            self.note(journal, next, "partial", None);
        }
    }

    /// Is anything there that was not read?
    fn is_behind(&mut self, journal: &Journal) -> disk::Result<bool> {
        let at = self.pos(journal).saturating_add(self.packer.len() as u64);
        if let Some(c) = &self.cur
            && c.source.has_more(at)?
        {
            return Ok(true);
        }
        for n in &self.next {
            if n.plain.file.stat()?.len > 0 {
                return Ok(true);
            }
        }
        for o in &self.old {
            if o.source.has_more(o.pos)? {
                return Ok(true);
            }
        }
        if self.blocked {
            return Ok(true);
        }
        Ok((!self.next.is_empty() || self.missing || self.cur.is_none())
            && self.newer(journal)?.iter().any(|(c, _)| c.len > 0))
    }

    /// Says in the journal what this process knows to be uncertain.
    fn note_doubts(&mut self, journal: &mut Journal, hour: Hour) {
        let early =
            self.zone.starts_ms(hour).is_some_and(|ms| ms.saturating_sub(self.clock.now_ms()) > STALL_MS);
        if early && self.early != Some(hour) {
            self.early = Some(hour);
            self.unsure = true;
            self.alarms.push(format!(
                "{}: it is not yet {hour} by the clock, and the hours before it are closed: until then all lines go to that \
                 one, which is not certified",
                self.path.display()
            ));
        }
        if std::mem::take(&mut self.unsure) {
            self.note(journal, hour, "partial", None);
        }
    }

    fn note(&self, journal: &mut Journal, hour: Hour, what: &str, range: Option<(u64, Option<u64>)>) {
        let hour = self.key(hour).to_string();
        journal.append(&Event::Note { hour, what: what.into(), range, pos: None });
    }

    // ---- sealing ----------------------------------------------------------------------------------------------

    fn seal(&mut self, journal: &mut Journal, hour: Hour, done: bool, room: &mut Room<'_>) {
        let filled = self.packer.cut(self.scratch.spare.pop().unwrap_or_default());
        let start = self.pos(journal);
        let kind = if done { Kind::Last } else { Kind::Usual };
        self.cut(journal, hour, filled, start, kind, room);
    }

    fn cut(
        &self,
        journal: &mut Journal,
        hour: Hour,
        filled: Filled,
        start: u64,
        kind: Kind,
        room: &mut Room<'_>,
    ) {
        let key = self.key(hour);
        let Some(log) = journal.hour(&key) else { return };
        let (id, generation) = (log.next_id(), log.generation);
        let (done, aside) = (kind == Kind::Last, kind == Kind::Aside);
        let unterminated = done && !filled.raw.is_empty() && filled.raw.last() != Some(&b'\n');
        let lines = filled.lines.saturating_add(u64::from(unterminated));
        let cut = Cut { aside, ..Cut::new(id, start, lines, &filled.seal, done) };
        journal.append(&Event::Cut { hour: key.to_string(), cut });
        room.put(Sealed { key, generation, id, raw: filled.raw });
    }

    // ---- reading ----------------------------------------------------------------------------------------------

    /// Reads the current file, and those after it; true = nothing more is there.
    fn turn(&mut self, journal: &mut Journal, hour: Hour, room: &mut Room<'_>) -> disk::Result<bool> {
        loop {
            if self.cur.is_none() && !self.go_on(journal, hour)? {
                return Ok(true);
            }
            let over = self.is_over() || self.passed_by(journal)?;
            let read = match self.read(journal, hour, over, room) {
                Err(e) if e.is_of_one_path() && self.is_given_up() => {
                    if !self.packer.is_empty() {
                        self.seal(journal, hour, false, room);
                    }
                    self.note(journal, hour, "loss", Some((self.pos(journal), None)));
                    self.alarms.push(format!(
                        "{e}: another file has taken its place; not read on; the hour is not certified: see `logd status` of its store"
                    ));
                    self.cur = None;
                    continue;
                }
                read => read?,
            };
            match read {
                Read::NoRoom => return Ok(false),
                Read::Rewritten => {
                    if !self.packer.is_empty() {
                        self.seal(journal, hour, false, room);
                    }
                    self.rewritten(journal, hour)?;
                }
                Read::End if over => {
                    if !self.packer.is_empty() {
                        self.seal(journal, hour, false, room);
                    }
                    self.finish(journal, hour);
                }
                Read::End => return Ok(self.next.is_empty()),
            }
        }
    }

    /// It cannot be read, and others wait behind it for as long as anybody waits.
    fn is_given_up(&self) -> bool {
        let since = self.cur.as_ref().filter(|_| !self.next.is_empty()).and_then(|c| c.replaced);
        since.is_some_and(|(since, _)| self.clock.mono_ms().saturating_sub(since) >= SWITCH_MAX_MS)
    }

    /// Has the current file's turn ended, as soon as it is read?
    fn is_over(&self) -> bool {
        let Some(cur) = self.cur.as_ref().filter(|_| !self.next.is_empty()) else { return false };
        let Source::Plain(p) = &cur.source else { return true };
        let Some((since, _)) = cur.replaced else { return cur.finished };
        let now = self.clock.mono_ms();
        let age = self.clock.now_ms().saturating_sub(p.mtime_ms);
        cur.finished
            || self.conf.once
            || (cur.found && age >= STILL_MS.cast_signed())
            || now.saturating_sub(p.grown_ms.max(since)) >= STILL_MS
            || now.saturating_sub(since) >= SWITCH_MAX_MS
    }

    /// Reads what the current file holds.
    fn read(
        &mut self,
        journal: &mut Journal,
        hour: Hour,
        last: bool,
        room: &mut Room<'_>,
    ) -> disk::Result<Read> {
        let now = self.clock.mono_ms();
        loop {
            // A pack is begun only if a whole one fits.
            if room.packs == 0 || room.bytes < self.conf.packer.pack_bytes {
                return Ok(Read::NoRoom);
            }
            let pos = self.pos(journal);
            let Some(cur) = &mut self.cur else { return Ok(Read::End) };
            let taken = take(&mut cur.source, &mut self.packer, pos, last, now, &mut self.scratch.block)?;
            let Some(end) = taken else { return Ok(Read::Rewritten) };
            if self.packer.is_due(end, now) {
                self.seal(journal, hour, false, room);
            } else if end {
                return Ok(Read::End);
            }
        }
    }

    /// Reads on in this file.
    fn read_from(&mut self, file: File, path: PathBuf, at: u64) -> disk::Result<()> {
        let mono_ms = self.clock.mono_ms();
        let mut plain = Plain::new(file, at, mono_ms)?;
        plain.peek(at, mono_ms, &mut self.scratch.block)?;
        let source = Source::Plain(Box::new(plain));
        self.cur = Some(Current { source, path, replaced: None, finished: false, found: false });
        Ok(())
    }

    /// What came to files that were rotated away, by writers that do not know it yet.
    fn look_at_old(&mut self, journal: &mut Journal, hour: Hour, room: &mut Room<'_>) -> disk::Result<()> {
        let now = self.clock.mono_ms();
        let mut failed = Ok(());
        let too_many = self.old.len().saturating_sub(OLD_MAX);
        for (i, mut old) in std::mem::take(&mut self.old).into_iter().enumerate() {
            if (now < old.look_ms && i >= too_many && !self.conf.once) || failed.is_err() {
                self.old.push(old);
                continue;
            }
            let last = now >= old.until_ms || i < too_many;
            match self.read_old(journal, hour, &mut old, last, room) {
                // It was read to its end for the last time.
                Ok(true) if last => {}
                Ok(_) => self.old.push(old),
                Err(e) if last => {
                    self.note(journal, hour, "loss", Some((old.pos, None)));
                    self.alarms.push(format!(
                        "{e}: it was rotated away and read to byte {}; not read on; the hour is not certified: see `logd status` of its store",
                        old.pos
                    ));
                }
                Err(e) => {
                    failed = Err(e);
                    self.old.push(old);
                }
            }
        }
        failed
    }

    /// True = it is read to its end.
    fn read_old(
        &mut self,
        journal: &mut Journal,
        hour: Hour,
        old: &mut Old,
        last: bool,
        room: &mut Room<'_>,
    ) -> disk::Result<bool> {
        let now = self.clock.mono_ms();
        let mut packer = Packer::new(self.conf.packer.clone());
        loop {
            if room.packs == 0 || room.bytes < self.conf.packer.pack_bytes {
                return Ok(false);
            }
            let taken = take(&mut old.source, &mut packer, old.pos, last, now, &mut self.scratch.block);
            let (result, end) = match taken {
                Ok(Some(end)) => (Ok(true), end),
                Ok(None) => {
                    self.note(journal, hour, "partial", None);
                    self.alarms.push(format!(
                        "{}: it was rotated and read to byte {}, and holds something else now; not read on; the hour is not \
                         certified",
                        old.path.display(),
                        old.pos.saturating_add(packer.len() as u64)
                    ));
                    old.until_ms = 0;
                    (Ok(true), true)
                }
                Err(e) => (Err(e), true),
            };
            if !packer.is_empty() && (end || packer.is_due(false, now)) {
                let filled = packer.cut(Vec::new());
                let start = old.pos;
                old.pos = old.pos.saturating_add(filled.raw.len() as u64);
                old.until_ms = old.until_ms.max(now.saturating_add(self.watch_ms()));
                self.cut(journal, hour, filled, start, Kind::Aside, room);
            }
            if end {
                old.look_ms = now.saturating_add(self.conf.packer.flush_ms);
                return result;
            }
        }
    }

    fn watch_ms(&self) -> u64 {
        self.conf.quiet_ms.unsigned_abs().saturating_mul(10)
    }
}

/// Fills the packer with what follows in a source, from the byte behind what it holds already; `pos` is that of its first
/// one. `last` = a line without an end is one, too. True = nothing more is there; `None` = it is not the same content any more.
fn take(
    source: &mut Source,
    packer: &mut Packer,
    pos: u64,
    last: bool,
    now: u64,
    block: &mut Vec<u8>,
) -> disk::Result<Option<bool>> {
    let at = pos.saturating_add(packer.len() as u64);
    let mut most = BLOCK;
    loop {
        let Fetched::Bytes { whole, more } = source.fetch(at, most, packer.wants(), now, block)? else {
            return Ok(None);
        };
        let taken = packer.push(block, last && whole, now);
        if taken == 0 && more {
            // A line that is longer than the block.
            most = usize::MAX;
            continue;
        }
        source.took(block, taken);
        return Ok(Some(taken == 0 || (whole && taken == block.len())));
    }
}
