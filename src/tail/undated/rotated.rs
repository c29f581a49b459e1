//! Which file is which: what the journal's cuts say of the files beside the one that is followed.
//!
//! A file is known by its content: the last cuts that were read of it stand in it, at their places. Names and inodes say
//! nothing: rotation changes the first, and file systems hand out the second again.

use super::super::content;
use super::source::{Gz, Source};
use crate::disk::{self, Disk, File};
use crate::journal::{Cut, HourLog, Journal};
use crate::pack::{HourKey, Seal};
use std::borrow::Cow;
use std::path::{Path, PathBuf};

/// Archived hours that are looked through at least: a day, and a little for the hour that the clock repeats.
const HOURS: usize = 26;
/// Bytes of the last cuts that must stand in a file, if so many were read of it, and how many cuts at most.
const ENOUGH: u64 = 64 << 10;
const CUTS_MAX: usize = 8;
/// So many equal bytes are no accident, such as a greeting with which every file begins.
pub(super) const STRONG: u64 = 1024;
/// Files beside the followed one that are looked at, the newest of them.
const FILES_MAX: usize = 64;

/// A file that may be one of ours under another name.
pub(super) struct Candidate {
    pub(super) path: PathBuf,
    pub(super) inode: (u64, u64),
    pub(super) len: u64,
    pub(super) mtime_ms: i64,
    pub(super) gz: bool,
    /// Its name says that it comes from rotation: it is read whole if it is new. Of others only known content is read.
    pub(super) series: bool,
    /// The number that rotation gave it, to tell the order of files of one instant.
    pub(super) number: u64,
}

/// The files beside `path` whose names begin like its name, the newest first.
pub(super) fn candidates(disk: &Disk, path: &Path) -> disk::Result<Vec<Candidate>> {
    let dir = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let Some(name) = path.file_name().and_then(|n| n.to_str()) else { return Ok(Vec::new()) };
    let names: Vec<String> = disk.list(dir)?.into_iter().filter(|e| !e.is_dir).map(|e| e.name).collect();
    let mut out = Vec::new();
    for other in &names {
        let Some(series) = is_relative(name, other) else { continue };
        let plain = other.strip_suffix(".gz");
        // While it is being compressed both are there, and the compressed one is not whole.
        if plain.is_some_and(|p| names.iter().any(|n| n == p)) {
            continue;
        }
        let path = dir.join(other);
        let stat = match disk.stat(&path) {
            // A link that leads nowhere, or where this user may not look.
            Err(e) if e.is_of_one_path() => continue,
            found => found?,
        };
        let Some(stat) = stat.filter(|s| s.is_file) else { continue };
        let digits: String =
            other.get(name.len()..).unwrap_or_default().chars().filter(char::is_ascii_digit).collect();
        out.push(Candidate {
            path,
            inode: (stat.dev, stat.ino),
            len: stat.len,
            mtime_ms: stat.mtime_ms,
            gz: plain.is_some(),
            series,
            number: digits.parse().ok().filter(|n| *n < 10_000_000).unwrap_or(0),
        });
    }
    out.sort_by(|a, b| b.mtime_ms.cmp(&a.mtime_ms).then(a.number.cmp(&b.number)).then(b.path.cmp(&a.path)));
    out.truncate(FILES_MAX);
    Ok(out)
}

/// Is `other` what rotation makes of `base`, by its name?
pub fn is_rotated(base: &Path, other: &Path) -> bool {
    let name = |p: &Path| p.file_name().and_then(|n| n.to_str()).map(str::to_owned);
    base.parent() == other.parent()
        && name(base).zip(name(other)).is_some_and(|(b, o)| is_relative(&b, &o) == Some(true))
}

/// Does `other` begin like `name`? And if so, does it look like what rotation makes of it: `access.log.1`,
/// `access.log-20261122`, `access-2026112205.log`, each also with `.gz`? A short number behind the stem may be anything,
/// a port for instance.
fn is_relative(name: &str, other: &str) -> Option<bool> {
    let (stem, extension) = name.rsplit_once('.').filter(|(s, _)| !s.is_empty()).unwrap_or((name, ""));
    if other == name || !other.starts_with(stem) || Path::new(other).extension().is_some_and(|e| e == "tmp") {
        return None;
    }
    let plain = other.strip_suffix(".gz").unwrap_or(other);
    let sign = |c: char| "-._T:".contains(c);
    let dated = |text: &str, least: usize| {
        text.starts_with(['-', '.', '_'])
            && text.chars().all(|c| c.is_ascii_digit() || sign(c))
            && text.chars().filter(char::is_ascii_digit).count() >= least
    };
    let behind_name = plain.strip_prefix(name).is_some_and(|rest| dated(rest, 1));
    let behind_stem = plain.strip_prefix(stem).is_some_and(|rest| {
        let rest =
            if extension.is_empty() { Some(rest) } else { rest.strip_suffix(&format!(".{extension}")) };
        rest.is_some_and(|r| dated(r, 8))
    });
    Some(behind_name || behind_stem)
}

/// A closed hour; one that cannot be read says as little as a damaged one.
pub(super) fn closed_hour(journal: &Journal, key: &HourKey) -> disk::Result<Option<HourLog>> {
    match journal.archived(key) {
        Err(e) if e.is_of_one_path() => Ok(None),
        read => read,
    }
}

/// Bytes that were read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    start: u64,
    end: u64,
    crc: u32,
}

/// What was read of one file, one behind the other.
#[derive(Default)]
struct Chain(Vec<Mark>);

impl Chain {
    fn end(&self) -> u64 {
        self.0.last().map_or(0, |m| m.end)
    }
    fn first(&self) -> &[Mark] {
        self.0.get(..CUTS_MAX).unwrap_or(&self.0)
    }
    /// The last marks, enough to know the file by.
    fn last(&self) -> &[Mark] {
        let (mut from, mut sum) = (self.0.len(), 0);
        while from > 0 && sum < ENOUGH && self.0.len().saturating_sub(from) < CUTS_MAX {
            from = from.saturating_sub(1);
            sum = sum.saturating_add(self.0.get(from).map_or(0, |m| m.end.saturating_sub(m.start)));
        }
        self.0.get(from..).unwrap_or_default()
    }
}

/// What the journal knows of the files that were read lately, the oldest first.
#[derive(Default)]
pub(super) struct History {
    chains: Vec<Chain>,
    /// Files of which everything was read aside.
    late: Vec<Chain>,
    asides: Vec<Mark>,
    /// Of the last of them the next byte is to be read; else reading was about to begin with another file.
    pub(super) current: bool,
    /// The journal's file of one of the hours is damaged.
    pub(super) damaged: bool,
}

/// What is known of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Known {
    /// It was read up to here.
    pub(super) upto: u64,
    /// Its length, inflated.
    pub(super) len: u64,
    /// It is the file that was read last.
    pub(super) newest: bool,
    /// Which of the files that were read it is.
    pub(super) chain: usize,
    /// Bytes that were compared.
    pub(super) compared: u64,
}

impl Known {
    /// Is it one of the files that were read, and not a copy of a part of one?
    pub(super) fn is_file(&self) -> bool {
        self.chain != usize::MAX
    }
}

impl History {
    /// Reads it from the journal.
    pub(super) fn of(journal: &Journal, name: &str) -> disk::Result<Self> {
        let mine = |(k, _): &(&HourKey, &HourLog)| k.name == name;
        let mut hours: Vec<(HourKey, Option<Cow<'_, HourLog>>)> =
            journal.hours().iter().filter(mine).map(|(k, l)| (k.clone(), Some(Cow::Borrowed(l)))).collect();
        let mut archived = journal.archive_list()?;
        archived.retain(|k| k.name == name && journal.hour(k).is_none());
        archived.sort();
        // A file to which nobody writes for days is known by what was read before them.
        let mut known = false;
        for (n, key) in archived.into_iter().rev().enumerate() {
            if n >= HOURS && known {
                break;
            }
            let log = closed_hour(journal, &key)?;
            known |= log.as_ref().is_some_and(|l| l.cuts.iter().any(|c| c.end > c.start));
            hours.push((key, log.map(Cow::Owned)));
        }
        hours.sort_by(|a, b| a.0.cmp(&b.0));
        let (mut me, mut pos) = (Self::default(), None);
        let mut broken = true;
        for (_, log) in hours {
            let Some(log) = log else {
                (broken, me.damaged) = (true, true);
                continue;
            };
            broken |= pos != Some(log.begin);
            me.add(&log, &mut broken);
            pos = Some(log.pos);
        }
        me.current = !broken && me.chains.last().is_some_and(|c| Some(c.end()) == pos);
        Ok(me)
    }

    fn add(&mut self, log: &HourLog, broken: &mut bool) {
        let mut rotated = log.rotated.iter().peekable();
        for cut in &log.cuts {
            while rotated.next_if(|(id, _)| *id <= cut.id).is_some() {
                *broken = true;
            }
            let mark = Mark { start: cut.start, end: cut.end, crc: cut.crc };
            if cut.aside {
                self.asides.push(mark);
                if cut.start == 0 {
                    self.late.push(Chain(vec![mark]));
                }
            } else if cut.end > cut.start {
                match self.chains.last_mut().filter(|c| !*broken && c.end() == cut.start) {
                    Some(chain) => chain.0.push(mark),
                    None => self.chains.push(Chain(vec![mark])),
                }
                *broken = false;
            }
        }
        *broken |= rotated.next().is_some();
    }

    /// Was nothing ever read?
    pub(super) fn is_empty(&self) -> bool {
        self.chains.is_empty()
    }

    /// What is known of a plain file.
    pub(super) fn plain(&self, file: &File) -> disk::Result<Option<Known>> {
        self.judge(file.stat()?.len, |m| holds(file, m))
    }

    /// What is known of a candidate; `None` also if it is gone or damaged.
    pub(super) fn candidate(&self, disk: &Disk, c: &Candidate) -> disk::Result<Option<Known>> {
        let file = match disk.open(&c.path) {
            Ok(f) => f,
            Err(e) if e.not_found() => return Ok(None),
            Err(e) => return Err(e),
        };
        if !c.gz {
            return self.plain(&file);
        }
        let firsts = self.chains.iter().flat_map(Chain::first);
        let lasts = self.chains.iter().chain(&self.late).flat_map(Chain::last);
        let mut open: Vec<(Mark, crc32fast::Hasher)> =
            firsts.chain(lasts).chain(&self.asides).map(|m| (*m, crc32fast::Hasher::new())).collect();
        let (mut gz, mut block, mut at) = (Gz::new(file)?, vec![0; 64 << 10], 0_u64);
        loop {
            let n = match gz.next(&mut block)? {
                Ok(n) => n,
                Err(_) if at == 0 => return Ok(None),
                // Of a damaged one that counts which comes out of it.
                Err(_) => 0,
            };
            if n == 0 {
                break;
            }
            let end = at.saturating_add(n as u64);
            for (m, hash) in open.iter_mut().filter(|(m, _)| m.start < end && m.end > at) {
                let place = |byte: u64| usize::try_from(byte.saturating_sub(at)).unwrap_or(n).min(n);
                hash.update(block.get(place(m.start)..place(m.end)).unwrap_or_default());
            }
            at = end;
        }
        if at == 0 {
            return Ok(Some(Known { upto: 0, len: 0, newest: false, chain: usize::MAX, compared: 0 }));
        }
        let good: Vec<Mark> =
            open.into_iter().filter(|(m, h)| h.clone().finalize() == m.crc).map(|(m, _)| m).collect();
        self.judge(at, |m| Ok(good.contains(m)))
    }

    fn judge(
        &self,
        len: u64,
        mut holds: impl FnMut(&Mark) -> disk::Result<bool>,
    ) -> disk::Result<Option<Known>> {
        let all: Vec<&Chain> = self.late.iter().chain(&self.chains).collect();
        for (i, chain) in all.iter().enumerate().rev() {
            let newest = i.saturating_add(1) == all.len() && !self.chains.is_empty();
            let mut compared = 0_u64;
            for m in chain.last().iter().rev().take_while(|_| len >= chain.end()) {
                if !holds(m)? {
                    compared = 0;
                    break;
                }
                compared = compared.saturating_add(m.end.saturating_sub(m.start));
            }
            if compared > 0 {
                let upto = self.with_asides(chain.end(), len, &mut holds)?;
                return Ok(Some(Known { upto, len, newest, chain: i, compared }));
            }
            // A copy that was made before the file was read to its end holds nothing new. One equal line at the beginning
            // is no proof of that.
            if len < chain.end() && chain.0.first().is_some_and(|m| m.start == 0) {
                let mut compared = 0;
                for m in chain.first().iter().take_while(|m| m.end <= len) {
                    if !holds(m)? {
                        compared = 0;
                        break;
                    }
                    compared = m.end;
                }
                if compared > 0 && (compared >= len / 2 || compared >= ENOUGH) {
                    return Ok(Some(Known {
                        upto: compared,
                        len,
                        newest: false,
                        chain: usize::MAX,
                        compared,
                    }));
                }
            }
        }
        Ok(None)
    }

    fn with_asides(
        &self,
        mut upto: u64,
        len: u64,
        holds: &mut impl FnMut(&Mark) -> disk::Result<bool>,
    ) -> disk::Result<u64> {
        loop {
            let mut next = None;
            for m in self.asides.iter().filter(|m| m.start == upto && m.end > upto && m.end <= len) {
                if holds(m)? {
                    next = Some(m.end);
                    break;
                }
            }
            match next {
                Some(end) => upto = end,
                None => return Ok(upto),
            }
        }
    }

    /// A power cut may take the end of a file that was read already: if this is what is left of the one that was read
    /// last, the end of the last cut that it still holds.
    pub(super) fn shorter(&self, file: &File) -> disk::Result<Option<u64>> {
        let len = file.stat()?.len;
        let Some(chain) = self.chains.last().filter(|c| self.current && len < c.end()) else {
            return Ok(None);
        };
        if chain.0.first().is_none_or(|m| m.start > 0) {
            return Ok(None);
        }
        let mut end = None;
        for m in chain.0.iter().take_while(|m| m.end <= len) {
            if !holds(file, m)? {
                return Ok(None);
            }
            end = Some(m.end);
        }
        Ok(end)
    }
}

fn holds(file: &File, mark: &Mark) -> disk::Result<bool> {
    content::holds(file, mark.start, mark.end, mark.crc)
}

/// Is this a copy of an open file, or of so much of it that it is no accident?
pub(super) fn is_copy(disk: &Disk, c: &Candidate, file: &File) -> bool {
    let compare = || -> disk::Result<bool> {
        let Some(mut copy) = Source::open(disk, &c.path, c.gz, 0, 0)? else { return Ok(false) };
        let (mut at, mut one, mut other) = (0, Vec::new(), Vec::new());
        loop {
            copy.fetch(at, 64 << 10, 64 << 10, 0, &mut one)?;
            copy.took(&one, one.len());
            other.resize(one.len(), 0);
            let n = file.read_at(&mut other, at)?;
            if n < one.len() || one != other {
                return Ok(false);
            }
            if one.is_empty() {
                return Ok(at > 0 && (at >= STRONG || at == file.stat()?.len));
            }
            at = at.saturating_add(one.len() as u64);
        }
    };
    compare().unwrap_or(false)
}

/// What stands at a place of a candidate; false = it is gone.
fn around(disk: &Disk, c: &Candidate, start: u64, wants: usize, out: &mut Vec<u8>) -> disk::Result<bool> {
    let Some(mut source) = Source::open(disk, &c.path, c.gz, start, 0)? else { return Ok(false) };
    source.fetch(start, wants, wants, 0, out)?;
    Ok(true)
}

/// The bytes of a cut, from whatever rotation left beside `path`.
pub fn find_bytes(disk: &Disk, path: &Path, cut: &Cut, raw: &mut Vec<u8>) -> disk::Result<bool> {
    let Ok(wants) = usize::try_from(cut.end.saturating_sub(cut.start)) else { return Ok(false) };
    for c in candidates(disk, path)?.iter().filter(|c| c.gz || c.len >= cut.end) {
        match around(disk, c, cut.start, wants, raw) {
            Ok(true) if Seal::of(raw) == cut.seal() => return Ok(true),
            Err(e) if !e.is_of_one_path() => return Err(e),
            _ => {}
        }
    }
    Ok(false)
}

/// Bytes behind those that an hour's log knows, in the file at `path` and in the one that was there before, if the end of
/// what was read stands there.
pub fn behind(disk: &Disk, path: &Path, log: &HourLog) -> disk::Result<u64> {
    let len = disk.stat(path)?.map_or(0, |s| s.len);
    let last = log.cuts.iter().rfind(|c| !c.aside && c.end > c.start && c.end == log.pos);
    let begun_anew = log.rotated.last() == Some(&(log.next_id(), log.pos));
    let Some(cut) = last.filter(|_| !begun_anew) else {
        return Ok(len.checked_sub(log.pos).unwrap_or(len));
    };
    let mark = Mark { start: cut.start, end: cut.end, crc: cut.crc };
    let has = |path: &Path| disk.open(path).and_then(|file| holds(&file, &mark));
    if len >= log.pos && has(path)? {
        return Ok(len.saturating_sub(log.pos));
    }
    for c in candidates(disk, path)?.iter().filter(|c| !c.gz && c.len >= log.pos) {
        if has(&c.path).is_ok_and(|has| has) {
            return Ok(c.len.saturating_sub(log.pos).saturating_add(len));
        }
    }
    Ok(len)
}

/// The copy that was made of a file before it was emptied: it holds what was read last, at the same place.
pub(super) fn copy_of(
    disk: &Disk,
    path: &Path,
    at: u64,
    mark: (&[u8], &[u8]),
    not: (u64, u64),
) -> disk::Result<Option<Candidate>> {
    let (tail, ahead) = mark;
    if tail.is_empty() && ahead.is_empty() {
        return Ok(None);
    }
    let start = at.saturating_sub(tail.len() as u64);
    let (mut out, wants) = (Vec::new(), tail.len().saturating_add(ahead.len()));
    for c in candidates(disk, path)?.into_iter().filter(|c| c.inode != not && (c.gz || c.len >= at)) {
        match around(disk, &c, start, wants, &mut out) {
            Ok(true) => {}
            // A neighbour that this user may not read is not the copy that its own rotation made.
            Err(e) if !e.is_of_one_path() => return Err(e),
            _ => continue,
        }
        // A few bytes may stand in any file.
        if !c.series && start.saturating_add(STRONG) > at {
            continue;
        }
        if out.strip_prefix(tail).is_some_and(|rest| rest == ahead) {
            return Ok(Some(c));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_rotation_makes_are_told_from_others() {
        for other in [
            "access.log.1",
            "access.log.12.gz",
            "access.log-20261122",
            "access.log-20261122.gz",
            "access.log.2026112205",
            "access-20261122.log",
            "access_2026-11-22T05:00.log.gz",
        ] {
            assert_eq!(is_relative("access.log", other), Some(true), "{other}");
        }
        for other in [
            "access.log.old",
            "access-443.log",
            "access.1.log",
            "access_ssl.log",
            "access.log.1.bak",
            "access",
        ] {
            assert_eq!(is_relative("access.log", other), Some(false), "{other}");
        }
        for other in ["access.log", "error.log", ".access.log.1", "access.log.1.tmp"] {
            assert_eq!(is_relative("access.log", other), None, "{other}");
        }
        assert_eq!(is_relative("messages", "messages-20261122"), Some(true));
        assert_eq!(is_relative("messages", "messages.1.gz"), Some(true));
    }
}
