//! From one file to the next: what stands at the path, what rotation left beside it, and which of them it was that was
//! read before a restart.

use super::rotated::{self, History};
use super::source::{Plain, Source};
use super::{Current, GZ_MAX, NEXT_MAX, Next, Old, SLACK_MS, STILL_MS, Undated};
use crate::clock::Hour;
use crate::disk::{self, File};
use crate::journal::{Event, Journal};
use std::path::Path;

impl Undated {
    // ---- rotation ---------------------------------------------------------------------------------------------

    pub(super) fn open_path(&mut self) -> disk::Result<Option<File>> {
        let file = match self.disk.open(&self.path) {
            Ok(f) => Some(f),
            Err(e) if e.not_found() => None,
            Err(e) => return Err(e),
        };
        self.missing = file.is_none();
        Ok(file)
    }

    /// Another file at the path is opened at once: it may be gone when its turn comes.
    pub(super) fn look_at_path(&mut self) -> disk::Result<()> {
        let stat = self.disk.stat(&self.path)?;
        self.missing = stat.is_none();
        let Some(stat) = stat else { return Ok(()) };
        let inode = Some((stat.dev, stat.ino));
        let known = self.next.back().map(Next::inode);
        let mono_ms = self.clock.mono_ms();
        if let Some(n) = self.next.back_mut() {
            n.plain.peek(0, mono_ms, &mut self.scratch.block)?;
        }
        if let Some(cur) = &mut self.cur {
            if cur.source.inode() == inode {
                // With others seen in between, its turn comes again behind them.
                cur.replaced = cur.replaced.filter(|_| known.is_some());
                return Ok(());
            }
            cur.replaced = cur.replaced.or(Some((mono_ms, cur.source.mtime_ms())));
        }
        if inode == known || self.next.len() >= NEXT_MAX {
            return Ok(());
        }
        let Some(file) = self.open_path()? else { return Ok(()) };
        let mut plain = Box::new(Plain::new(file, 0, mono_ms)?);
        plain.peek(0, mono_ms, &mut self.scratch.block)?;
        self.next.push_back(Next { plain });
        Ok(())
    }

    /// The current file is read to its end, and another one stands at the path.
    pub(super) fn finish(&mut self, journal: &mut Journal, hour: Hour) {
        let Some(cur) = self.cur.take() else { return };
        self.searched_ms = None;
        let pos = self.pos(journal);
        let since_ms = cur.replaced.map_or(i64::MAX, |(_, m)| m).min(cur.source.mtime_ms());
        // All that is newer is looked at again, until the one at the path is begun.
        self.since_ms = since_ms.min(self.since_ms);
        if let Some(why) = cur.source.broken() {
            self.broken.extend(cur.source.gz_inode());
            self.note(journal, hour, "loss", Some((pos, None)));
            self.alarms.push(format!(
                "{}: damaged behind byte {pos} of the log ({why}); lost; the hour is not certified: see `logd status` of its store",
                cur.path.display()
            ));
        }
        if matches!(cur.source, Source::Plain(_)) && !cur.finished {
            let now = self.clock.mono_ms();
            let look_ms = now.saturating_add(self.conf.packer.flush_ms);
            let until_ms = now.saturating_add(self.watch_ms());
            self.watch(Old { source: cur.source, path: cur.path, pos, look_ms, until_ms });
        }
    }

    /// Each file is watched once.
    fn watch(&mut self, old: Old) {
        let id = |o: &Old| o.source.inode().or(o.source.gz_inode());
        self.old.retain(|o| id(o) != id(&old));
        self.old.push(old);
    }

    /// Files that rotation left and nobody has read, the oldest first, each with the byte to begin at.
    pub(super) fn newer(&mut self, journal: &Journal) -> disk::Result<Vec<(rotated::Candidate, u64)>> {
        let mut mine: Vec<(u64, u64)> = self.next.iter().map(Next::inode).collect();
        let open = self.old.iter().map(|o| &o.source).chain(self.cur.iter().map(|c| &c.source));
        mine.extend(open.filter_map(|s| s.inode().or(s.gz_inode())));
        mine.extend(&self.broken);
        let since = self.cur.as_ref().map_or(self.since_ms, |c| c.source.mtime_ms().min(self.since_ms));
        let mut found = rotated::candidates(&self.disk, &self.path)?;
        found
            .retain(|c| c.series && c.mtime_ms >= since.saturating_sub(SLACK_MS) && !mine.contains(&c.inode));
        let mut out = Vec::new();
        if !found.is_empty() {
            let history = History::of(journal, &self.identity.name)?;
            for c in found.into_iter().rev() {
                if c.len == 0 {
                    // Its writer may not know yet that it was rotated.
                    out.push((c, 0));
                    continue;
                }
                let from = match history.candidate(&self.disk, &c) {
                    Ok(None) => 0,
                    Ok(Some(k)) if k.upto < k.len => k.upto,
                    Ok(Some(_)) => continue,
                    Err(e) if !e.is_of_one_path() => return Err(e),
                    Err(e) => {
                        // It is looked at again with the next rotation; meanwhile nobody knows what it holds.
                        if !self.unreadable.contains(&c.inode) {
                            self.unreadable.push(c.inode);
                            self.unsure = true;
                            self.alarms.push(format!(
                                "{e}: it was rotated away and cannot be read; the hour is not certified: see `logd status` of its store"
                            ));
                        }
                        continue;
                    }
                };
                // Its original may be open here, and wait for its turn, or be read to its end and watched.
                let open = self.old.iter().map(|o| &o.source).chain(self.cur.iter().map(|c| &c.source));
                let old = open.filter_map(Source::plain);
                if !old
                    .chain(self.next.iter().map(|n| &*n.plain))
                    .any(|p| rotated::is_copy(&self.disk, &c, &p.file))
                {
                    out.push((c, from));
                }
            }
        }
        Ok(out)
    }

    /// Nothing is at the path yet, but newer files stand beside it.
    pub(super) fn passed_by(&mut self, journal: &Journal) -> disk::Result<bool> {
        let now = self.clock.mono_ms();
        let wall = self.clock.now_ms();
        let still = |c: &Current| wall.saturating_sub(c.source.mtime_ms()) >= STILL_MS.cast_signed();
        let done = |c: &Current| c.found && still(c);
        let due = self.searched_ms.is_none_or(|ms| now.saturating_sub(ms) >= STILL_MS);
        if !self.missing || !due || !self.next.is_empty() || !self.cur.as_ref().is_some_and(done) {
            return Ok(false);
        }
        self.searched_ms = Some(now);
        Ok(self.newer(journal)?.iter().any(|(c, _)| c.len > 0))
    }

    /// Begins with the next file; false = there is none yet.
    pub(super) fn go_on(&mut self, journal: &mut Journal, hour: Hour) -> disk::Result<bool> {
        self.look_at_path()?;
        let front = match self.next.front().filter(|_| self.next.len() > 1) {
            Some(n) => n.plain.file.stat()?.mtime_ms,
            // The one at the path is the newest, whatever its time says.
            None => i64::MAX,
        };
        for (c, from) in self.newer(journal)?.into_iter().filter(|(c, _)| c.mtime_ms < front) {
            if c.len == 0 && c.gz {
                // Its compression has just begun.
                continue;
            }
            if c.len == 0 {
                let now = self.clock.mono_ms();
                if let Some(source) = Source::open(&self.disk, &c.path, false, 0, now)? {
                    self.watch(Old {
                        source,
                        path: c.path,
                        pos: 0,
                        look_ms: now,
                        until_ms: now.saturating_add(self.watch_ms()),
                    });
                }
                continue;
            }
            let Some(source) = Source::open(&self.disk, &c.path, c.gz, from, self.clock.mono_ms())? else {
                continue;
            };
            // It was replaced before it was seen. Who still writes to it is followed like any other.
            let replaced = Some((self.clock.mono_ms(), c.mtime_ms));
            self.rotate(journal, hour, from);
            self.note(journal, hour, "partial", None);
            self.alarms.push(format!(
                "{}: it was rotated away before it was seen; read now, but others may have come and gone like it; the hour \
                 is not certified",
                c.path.display()
            ));
            self.cur = Some(Current { source, path: c.path, replaced, finished: false, found: true });
            return Ok(true);
        }
        let Some(n) = self.next.front() else { return Ok(false) };
        let old = self.old.iter().position(|o| o.source.inode() == Some(n.inode()));
        let from = match old.and_then(|i| self.old.get(i)) {
            // The link was switched back.
            Some(old) => old.pos,
            None if n.plain.file.stat()?.len >= rotated::STRONG => {
                let known = History::of(journal, &self.identity.name)?.plain(&n.plain.file)?;
                known.filter(|k| k.compared >= rotated::STRONG && k.is_file()).map_or(0, |k| k.upto)
            }
            None => 0,
        };
        if old.is_none() && from > 0 {
            self.note(journal, hour, "partial", None);
            self.alarms.push(format!(
                "{}: another file took its place, and begins with the {from} bytes that were sent of an earlier one; they are \
                 not sent again; the hour is not certified: see `logd status` of its store",
                self.path.display()
            ));
        }
        if let Some(n) = self.next.pop_front() {
            let path = self.path.clone();
            if let Some(i) = old {
                let source = self.old.remove(i).source;
                self.cur = Some(Current { source, path, replaced: None, finished: false, found: false });
            } else if from > 0 {
                self.read_from(n.plain.file, path, from)?;
            } else {
                let source = Source::Plain(n.plain);
                self.cur = Some(Current { source, path, replaced: None, finished: false, found: false });
            }
            self.rotate(journal, hour, from);
            if self.next.is_empty() {
                self.since_ms = i64::MAX;
            } else if let Some(c) = &mut self.cur {
                c.replaced = Some((self.clock.mono_ms(), c.source.mtime_ms()));
            }
        }
        Ok(true)
    }

    fn rotate(&self, journal: &mut Journal, hour: Hour, pos: u64) {
        let key = self.key(hour);
        let said = |l: &crate::journal::HourLog| l.rotated.last() == Some(&(l.next_id(), pos));
        if !journal.hour(&key).is_some_and(said) {
            journal.append(&Event::Rotated { hour: key.to_string(), pos });
        }
    }

    /// Other bytes stand in the file, or fewer: it was emptied, perhaps after a copy was made.
    pub(super) fn rewritten(&mut self, journal: &mut Journal, hour: Hour) -> disk::Result<()> {
        let at = self.pos(journal);
        let mono_ms = self.clock.mono_ms();
        let Some(Source::Plain(p)) = self.cur.as_ref().map(|c| &c.source) else { return Ok(()) };
        let copy = rotated::copy_of(&self.disk, &self.path, at, p.mark(), (p.dev, p.ino))?;
        let mut found = None;
        if let Some(c) = copy {
            // It may have been read before the file's turn came.
            let known = History::of(journal, &self.identity.name)?.candidate(&self.disk, &c)?;
            let from = known.map_or(at, |k| k.upto.max(at));
            found = Source::open(&self.disk, &c.path, c.gz, from, mono_ms)?.map(|s| (c.path, s, from));
        }
        let Some(Current { source: Source::Plain(p), path, replaced, .. }) = self.cur.take() else {
            return Ok(());
        };
        if let Some((path, source, from)) = found {
            if from > at {
                self.rotate(journal, hour, from);
            }
            let mut plain = Box::new(Plain::new(p.file, 0, mono_ms)?);
            plain.peek(0, mono_ms, &mut self.scratch.block)?;
            self.next.push_front(Next { plain });
            self.cur = Some(Current { source, path, replaced: None, finished: true, found: true });
            return Ok(());
        }
        if p.seen > at {
            self.note(journal, hour, "loss", Some((at, Some(p.seen))));
            self.alarms.push(format!(
                "{}: it was emptied before bytes {at}-{} were read, and no copy of it was found; lost; the hour is not \
                 certified",
                path.display(),
                p.seen
            ));
        } else {
            self.note(journal, hour, "partial", None);
            self.alarms.push(format!(
                "{}: it was emptied, and no copy of it was found; it was read to byte {at}, and what came between the last \
                 look and that moment is nowhere; the hour is not certified: see `logd status` of its store",
                path.display()
            ));
        }
        self.rotate(journal, hour, 0);
        self.read_from(p.file, path, 0)?;
        if let Some(c) = &mut self.cur {
            c.replaced = replaced;
        }
        Ok(())
    }

    // ---- after a restart --------------------------------------------------------------------------------------

    /// Finds the file that was being read; false = it may still come.
    pub(super) fn settle(&mut self, journal: &mut Journal, hour: Hour) -> disk::Result<bool> {
        let pos = self.pos(journal);
        let mut unreadable = None;
        let there = match self.open_path() {
            Err(e) if e.is_of_one_path() => {
                unreadable = Some(e);
                None
            }
            opened => opened?,
        };
        let history = History::of(journal, &self.identity.name)?;
        let path = self.path.clone();
        if history.is_empty() {
            // It began, and read nothing: nobody can tell whether this is still the same file.
            let Some(file) = there else {
                return unreadable.map_or_else(|| self.wait(journal, hour, pos), Err);
            };
            self.unsure = true;
            let at = if file.stat()?.len < pos { 0 } else { pos };
            self.alarms.push(format!(
                "{}: nothing was read of it yet, so it cannot be told from one that took its place; read from byte {at}; the \
                 hour is not certified",
                path.display()
            ));
            if at < pos {
                self.rotate(journal, hour, 0);
            }
            self.read_from(file, path, at)?;
            self.settled = true;
            return Ok(true);
        }
        let known = match &there {
            Some(file) => history.plain(file)?,
            None => None,
        };
        let at_path = known.filter(|k| k.newest);
        let inode = match &there {
            Some(f) => f.stat().map(|s| Some((s.dev, s.ino)))?,
            None => None,
        };
        let mut mine = None;
        let mut inflated = 0;
        let mut others = Vec::new();
        // Of copies of one file only one is read.
        let mut chains: Vec<usize> = at_path.iter().map(|k| k.chain).collect();
        for c in rotated::candidates(&self.disk, &path)? {
            others.extend((c.series && c.number > 0).then_some((c.number, c.mtime_ms)));
            let searched = at_path.is_some() || mine.is_some();
            if Some(c.inode) == inode || (c.gz && searched && inflated >= GZ_MAX) {
                continue;
            }
            inflated = inflated.saturating_add(usize::from(c.gz));
            match history.candidate(&self.disk, &c) {
                // A stranger may have the same beginning.
                Ok(Some(k)) if !c.series && k.compared < rotated::STRONG => {}
                Ok(Some(k)) if chains.contains(&k.chain) || !k.is_file() => {}
                Ok(Some(k)) => {
                    chains.push(k.chain);
                    if k.newest {
                        mine = Some((c, k));
                    } else {
                        self.watch_again(&c, k)?;
                    }
                }
                Err(e) if !e.is_of_one_path() => return Err(e),
                // Of others only known content is read.
                Err(e) if c.series => unreadable = Some(e),
                Ok(None) | Err(_) => {}
            }
        }
        match (there, at_path, mine, unreadable) {
            (Some(file), Some(k), ..) => {
                let at = if history.current || history.damaged { pos } else { k.upto };
                if at != pos {
                    self.rotate(journal, hour, at);
                }
                self.read_from(file, path, at)?;
                self.since_ms = journal.written_ms();
                let newer = self.newer(journal)?;
                self.since_ms = i64::MAX;
                if let Some((c, _)) = newer.into_iter().find(|(c, _)| c.len > 0) {
                    self.unsure = true;
                    self.alarms.push(format!(
                        "{}: rotated away, and not sent as far as the journal knows; it is not read, because newer lines \
                         were; the hour is not certified: see `logd status` of its store",
                        c.path.display()
                    ));
                }
            }
            (_, _, Some((c, k)), _) => {
                // Rotation counts down to the newest, whatever the clock said meanwhile. And whatever has changed since
                // somebody last looked may hold lines, however old it is.
                let newer = others.iter().filter(|(number, _)| (1..c.number).contains(number));
                let known_ms = c.mtime_ms.min(journal.written_ms());
                self.since_ms = newer.map(|(_, ms)| *ms).min().unwrap_or(known_ms).min(known_ms);
                if history.current {
                    let now = self.clock.mono_ms();
                    let Some(source) = Source::open(&self.disk, &c.path, c.gz, pos, now)? else {
                        return Ok(false);
                    };
                    self.cur =
                        Some(Current { source, path: c.path, replaced: None, finished: false, found: true });
                } else {
                    self.watch_again(&c, k)?;
                }
            }
            // One of those that cannot be read may be the one: it is tried again, until the hour has to end.
            (_, _, _, Some(e)) if !self.is_overdue(hour) => return Err(e),
            (Some(file), ..) => match history.shorter(&file)? {
                Some(end) => {
                    self.unsure = true;
                    self.note(journal, hour, "changed", None);
                    self.rotate(journal, hour, end);
                    self.alarms.push(format!(
                        "{}: it lost bytes that were sent already; going on at byte {end}; the hour is not certified: see `logd status` of its store",
                        path.display()
                    ));
                    self.read_from(file, path, end)?;
                }
                None => self.lost(journal, hour, pos),
            },
            (None, ..) => return self.wait(journal, hour, pos),
        }
        self.settled = true;
        Ok(true)
    }

    /// A rotated file that is known: somebody may have written to it meanwhile, or still does.
    fn watch_again(&mut self, c: &rotated::Candidate, k: rotated::Known) -> disk::Result<()> {
        let age = self.clock.now_ms().saturating_sub(c.mtime_ms);
        if k.upto >= k.len && (c.gz || age.unsigned_abs() >= self.watch_ms()) {
            return Ok(());
        }
        let now = self.clock.mono_ms();
        if let Some(source) = Source::open(&self.disk, &c.path, c.gz, k.upto, now)? {
            let (look_ms, until_ms) = (now, now.saturating_add(self.watch_ms()));
            self.watch(Old { source, path: c.path.clone(), pos: k.upto, look_ms, until_ms });
        }
        Ok(())
    }

    /// Has the hour been over for longer than anybody waits?
    fn is_overdue(&self, hour: Hour) -> bool {
        let ends = self.zone.ends_ms(hour).unwrap_or(i64::MIN);
        self.clock.now_ms() >= ends.saturating_add(self.conf.close_wait_ms)
    }

    /// Nothing is at the path and nothing known beside it: it may be on a disk that is not mounted yet.
    fn wait(&mut self, journal: &mut Journal, hour: Hour, pos: u64) -> disk::Result<bool> {
        if !self.is_overdue(hour) {
            return Ok(false);
        }
        self.disk.list(self.path.parent().unwrap_or(Path::new("/")))?;
        self.lost(journal, hour, pos);
        self.settled = true;
        Ok(true)
    }

    fn lost(&mut self, journal: &mut Journal, hour: Hour, pos: u64) {
        self.unsure = true;
        self.note(journal, hour, "loss", Some((pos, None)));
        self.alarms.push(format!(
            "{}: the file that was read to byte {pos} is gone, and no rotated one holds what was read of it; it may have \
             held more; the hour is not certified: see `logd status` of its store",
            self.path.display()
        ));
        self.rotate(journal, hour, 0);
    }
}
