//! The spool: packs that are durable here and not yet durable further on.
//!
//! Carries P1 at a receiver (`ok` is sent when [`Spool::durable`] has passed the pack) and P4 (size, free space).
//! Files in its directory, each named by the first sequence number in it:
//!
//! - `<seq>.seg`: append-only [records](crate::record), payload = one frame as on the wire. It exists while one of
//!   its packs is not done. Directory entries are durable before the first pack in a new segment counts as durable.
//! - `<seq>.done`: one record holding a bitmap of the packs that are done. It may lag behind: what is then delivered
//!   again is recognised by whoever takes it.
//!
//! At start everything is read and checked. A torn or damaged stretch is copied to the quarantine directory before
//! anything is cut; what lies behind it is used. No index of packs is kept in memory, only one bit each.

mod shelf;

pub use shelf::Shelf;

use crate::config::SpoolConfig;
use crate::disk::{self, Disk, Entry, File};
use crate::pack::{self, Meta};
use crate::planted::{self, Bug};
use crate::record::{self, Found};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Largest record that is believed: a body at its limit and its header.
pub const RECORD_MAX: u32 = 80 << 20;
/// Largest record of marks that is believed.
pub const MARKS_MAX: u32 = 1 << 24;
/// Kind of a record that holds a pack.
pub const KIND_PACK: u8 = b'P';
/// Kind of the record that holds a segment's marks.
pub const KIND_DONE: u8 = b'D';
/// Nobody ever stores so many packs: a segment of such a name is not ours.
const SEQ_END: u64 = 1 << 62;
/// What no record is shorter than.
const HEADER: u64 = record::HEADER as u64;
const MODE: u32 = 0o640;
/// Free space is asked for once per this many appended bytes.
const FREE_CHECK: u64 = 4 << 20;

/// Where a pack lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loc {
    /// Sequence number in this spool.
    pub seq: u64,
    /// First sequence number of its segment.
    pub base: u64,
    /// Byte offset of its record.
    pub offset: u64,
    /// Bytes on disk.
    pub len: u64,
}

impl Loc {
    fn of(head: &record::Head, base: u64) -> Self {
        let len = head.end().saturating_sub(head.offset);
        Self { seq: head.seq, base, offset: head.offset, len }
    }
}

/// Why a pack was not taken.
#[derive(Debug)]
pub enum AppendError {
    /// The spool is at its size, or the disk at `min_free`; try again later.
    Full(String),
    /// The disk failed.
    Disk(disk::Error),
}

struct Segment {
    len: u64,
    count: u64,
    done: Vec<u64>,
    done_count: u64,
    marks_dirty: bool,
    /// It holds damage that could not be set aside yet: it stays, whatever is done.
    pinned: bool,
}

impl Segment {
    fn is_done(&self, i: u64) -> bool {
        self.done.get((i / 64) as usize).is_some_and(|w| w & (1 << (i % 64)) != 0)
    }
    fn mark(&mut self, i: u64) -> bool {
        let word = (i / 64) as usize;
        if self.done.len() <= word {
            self.done.resize(word.saturating_add(1), 0);
        }
        match self.done.get_mut(word) {
            Some(w) if *w & (1 << (i % 64)) == 0 => {
                *w |= 1 << (i % 64);
                self.done_count = self.done_count.saturating_add(1);
                self.marks_dirty = true;
                true
            }
            _ => false,
        }
    }
}

/// See the module's header.
pub struct Spool {
    disk: Disk,
    dir: PathBuf,
    conf: SpoolConfig,
    segments: BTreeMap<u64, Segment>,
    active: Option<(u64, Arc<File>)>,
    /// Files with bytes that no sync has covered yet.
    dirty: Vec<Arc<File>>,
    dir_dirty: bool,
    next_seq: u64,
    durable: u64,
    bytes: u64,
    until_free_check: u64,
    buf: Vec<u8>,
    damaged: Vec<Meta>,
}

/// What became of a stretch that is no record.
#[derive(PartialEq, Eq)]
enum Aside {
    Safe,
    NoRoom,
    Unread,
}

/// For a planted bug: are these bytes all zero?
fn is_zero(file: &File, from: u64, to: u64) -> disk::Result<bool> {
    let mut bytes = vec![0; usize::try_from(to.saturating_sub(from)).unwrap_or(0).min(4096)];
    file.read_at(&mut bytes, from)?;
    Ok(bytes.iter().all(|b| *b == 0))
}

/// First sequence number in the file of this name, if the name ends in `end` (`.seg`, `.done`).
pub fn base_of(name: &str, end: &str) -> Option<u64> {
    let digits = name.strip_suffix(end).filter(|d| d.len() == 20)?;
    digits.parse::<u64>().ok().filter(|n| *n < SEQ_END)
}

/// What one group commit has to sync; run it without holding the spool.
pub struct SyncJob {
    files: Vec<Arc<File>>,
    dir: Option<(Disk, PathBuf)>,
    upto: u64,
}

impl SyncJob {
    /// One fdatasync per file with new bytes, and the directory's when it has a new name.
    pub fn run(&self) -> disk::Result<()> {
        let synced = self.files.iter().try_for_each(|f| f.sync());
        let synced = synced.and_then(|()| match &self.dir {
            Some((disk, dir)) => disk.sync_dir(dir),
            None => Ok(()),
        });
        if planted::is(Bug::AckAfterFailedSync) { Ok(()) } else { synced }
    }
}

impl Spool {
    /// Opens or creates the spool in `dir`. `each` sees every pack that is not done, oldest first; `report` gets one
    /// sentence for each thing that was set aside into `quarantine`.
    pub fn open(
        disk: &Disk,
        dir: &Path,
        quarantine: &mut Shelf,
        conf: &SpoolConfig,
        report: &mut dyn FnMut(String),
        each: &mut dyn FnMut(Loc, &[u8]),
    ) -> disk::Result<Self> {
        disk.create_dir_all(dir, 0o750)?;
        let mut spool = Self {
            disk: disk.clone(),
            dir: dir.to_owned(),
            conf: conf.clone(),
            segments: BTreeMap::new(),
            active: None,
            dirty: Vec::new(),
            dir_dirty: false,
            next_seq: 1,
            durable: 1,
            bytes: 0,
            until_free_check: 0,
            buf: Vec::new(),
            damaged: Vec::new(),
        };
        let (dirs, names): (Vec<Entry>, Vec<Entry>) = disk.list(dir)?.into_iter().partition(|e| e.is_dir);
        for e in dirs {
            let from = dir.join(&e.name);
            let ours = base_of(&e.name, ".seg").or(base_of(&e.name, ".done")).is_some();
            if !ours && e.name.strip_suffix(".tmp").is_none() {
                report(format!("{}: not a spool file; left alone", from.display()));
                continue;
            }
            // The file of that name could not be made, now or when its number comes.
            let mut to = from.clone();
            while disk.stat(&to)?.is_some() {
                to.as_mut_os_string().push(".dir");
            }
            disk.rename(&from, &to)?;
            let (from, to) = (from.display(), to.display());
            report(format!("{from}: a directory under a name that a spool file needs; moved to {to}"));
        }
        let mut bases: Vec<u64> = names.iter().filter_map(|e| base_of(&e.name, ".seg")).collect();
        bases.sort_unstable();
        for e in &names {
            let orphan = base_of(&e.name, ".done").is_some_and(|b| bases.binary_search(&b).is_err());
            if orphan || e.name.strip_suffix(".tmp").is_some() {
                disk.remove(&dir.join(&e.name))?;
            } else if base_of(&e.name, ".seg").or(base_of(&e.name, ".done")).is_none() {
                report(format!("{}: not a spool file; left alone", dir.join(&e.name).display()));
            }
        }
        let ends = bases.iter().skip(1).copied().chain([SEQ_END]);
        for (base, end) in bases.iter().zip(ends) {
            spool.load(*base..end, quarantine, report, each)?;
        }
        // The names, too, may so far exist only in memory.
        disk.sync_dir(dir)?;
        Ok(spool)
    }

    fn path(&self, base: u64, end: &str) -> PathBuf {
        self.dir.join(format!("{base:020}.{end}"))
    }

    /// Reads a segment, which may hold these numbers: the next one's base ends them.
    fn load(
        &mut self,
        numbers: Range<u64>,
        quarantine: &mut Shelf,
        report: &mut dyn FnMut(String),
        each: &mut dyn FnMut(Loc, &[u8]),
    ) -> disk::Result<()> {
        let base = numbers.start;
        let file = self.disk.open_rw(&self.path(base, "seg"))?;
        let mut seg =
            Segment { len: 0, count: 0, done: Vec::new(), done_count: 0, marks_dirty: false, pinned: false };
        let marks = self.load_marks(base, report)?;
        let (mut offset, mut expect) = (0, base);
        let (mut cut, mut lost, mut unread) = (None, 0_u64, false);
        let mut buf = std::mem::take(&mut self.buf);
        loop {
            match record::read_past(&file, offset, RECORD_MAX, &mut buf)? {
                Found::End => break,
                Found::Damage { next }
                    if planted::is(Bug::ZerosAreRecords) && is_zero(&file, offset, next)? =>
                {
                    let zeros = next.saturating_sub(offset) / HEADER;
                    expect = expect.saturating_add(zeros);
                    seg.count = seg.count.saturating_add(zeros);
                    offset = next;
                }
                Found::Damage { next } => {
                    let aside = self.set_aside(&file, base, offset, next, quarantine, report)?;
                    let safe = aside == Aside::Safe;
                    seg.pinned |= !safe;
                    unread |= aside == Aside::Unread;
                    if next >= file.stat()?.len {
                        cut = Some(offset).filter(|_| safe);
                        // The numbers of what may be there are taken.
                        if unread {
                            let most = next.saturating_sub(offset) / HEADER;
                            expect = expect.saturating_add(most).saturating_add(1);
                        }
                        break;
                    }
                    lost = lost.saturating_add(next.saturating_sub(offset));
                    offset = next;
                }
                Found::Record(head) => {
                    offset = head.end();
                    // Each record that a damaged stretch held took room there. A number that goes beyond it, or back,
                    // was not written here: it would be delivered twice, or pin and mark packs that never were.
                    let most = expect.saturating_add(lost / HEADER);
                    let its_turn = (expect..=most).contains(&head.seq) && head.seq < numbers.end;
                    if head.kind != KIND_PACK || !its_turn {
                        let safe = self.set_aside(&file, base, head.offset, offset, quarantine, report)?;
                        seg.pinned |= safe != Aside::Safe;
                        lost = lost.saturating_add(offset.saturating_sub(head.offset));
                        continue;
                    }
                    lost = 0;
                    // What a damaged stretch held cannot be delivered: it must not pin the segment. What could not be read
                    // may be another time.
                    for missing in (expect..head.seq).filter(|_| !unread) {
                        seg.mark(missing.saturating_sub(base));
                    }
                    unread = false;
                    let i = head.seq.saturating_sub(base);
                    seg.count = i.saturating_add(1);
                    expect = head.seq.saturating_add(1);
                    if marks.get((i / 64) as usize).is_some_and(|w| w & (1 << (i % 64)) != 0) {
                        seg.mark(i);
                        let again = u64::from(planted::is(Bug::DoneCountedTwice));
                        seg.done_count = seg.done_count.saturating_add(again);
                    } else {
                        each(Loc::of(&head, base), buf.get(record::HEADER..).unwrap_or_default());
                    }
                }
            }
        }
        self.buf = buf;
        if let Some(at) = cut {
            file.set_len(at)?;
            file.sync()?;
        }
        seg.len = file.stat()?.len;
        self.bytes = self.bytes.saturating_add(seg.len);
        // The name of a segment that stays is taken, even if none of its numbers is.
        let named = if seg.pinned { base.saturating_add(1) } else { 0 };
        self.next_seq = self.next_seq.max(expect).max(named);
        self.durable = self.next_seq;
        self.segments.insert(base, seg);
        // Marks of packs that were cut off would make a later look believe that they are missing.
        if let Some(seg) = self.segments.get_mut(&base) {
            seg.marks_dirty |= seg.done != marks;
        }
        // What was read may still be only in the page cache of a process that was killed.
        file.sync()?;
        self.drop_if_done(base)
    }

    fn load_marks(&self, base: u64, report: &mut dyn FnMut(String)) -> disk::Result<Vec<u64>> {
        let path = self.path(base, "done");
        if self.disk.stat(&path)?.is_none() {
            return Ok(Vec::new());
        }
        let mut buf = Vec::new();
        match record::read(&self.disk.open_rw(&path)?, 0, MARKS_MAX, &mut buf)? {
            Found::Record(h) if h.kind == KIND_DONE && h.seq == base => {
                let bits = buf.get(record::HEADER..).unwrap_or_default();
                Ok(bits.chunks_exact(8).filter_map(|c| Some(u64::from_le_bytes(*c.first_chunk()?))).collect())
            }
            _ => {
                report(format!(
                    "{}: damaged; its packs are delivered again, receivers recognise them",
                    path.display()
                ));
                self.disk.remove(&path)?;
                Ok(Vec::new())
            }
        }
    }

    /// Nothing that was acknowledged is cut away before a copy of it is safe. A full disk may have no room for one, or
    /// a bad one not give it: neither must keep the role from starting, for what it sends on may be what fills the disk.
    fn set_aside(
        &mut self,
        file: &File,
        base: u64,
        from: u64,
        to: u64,
        quarantine: &mut Shelf,
        report: &mut dyn FnMut(String),
    ) -> disk::Result<Aside> {
        let len = usize::try_from(to.saturating_sub(from)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; len.min(RECORD_MAX as usize)];
        let n = match file.read_at(&mut bytes, from) {
            Ok(n) => n,
            Err(e) if e.fatal() => return Err(e),
            Err(e) => {
                report(format!(
                    "{e}: bytes {from} to {to} are left where they are and read again at the next start; check the disk;                      at a receiver the collector's `logd status` names hours that must be sent again"
                ));
                return Ok(Aside::Unread);
            }
        };
        bytes.truncate(n);
        // Numbers begin again when a spool was empty at a start: the CRC tells other bytes at the same place apart.
        let name = format!("{base:020}-{from}-{:08x}.bin", crc32fast::hash(&bytes));
        let (place, safe) = match quarantine.put_raw("spool", &name, &bytes) {
            Ok(true) => (quarantine.dir().join("spool").join(name).display().to_string(), Aside::Safe),
            Ok(false) => ("its place, as quarantine is full".to_owned(), Aside::NoRoom),
            Err(e) if e.no_space() => {
                (format!("its place until a start that finds room: {e}"), Aside::NoRoom)
            }
            Err(e) => return Err(e),
        };
        let meta = pack::peek(bytes.get(record::HEADER..).unwrap_or_default());
        report(format!(
            "{}: bytes {from} to {to} are not a record that belongs there (torn by a crash, or damaged); kept in {place}; \
             {}a follower sends it from its source; at a receiver, if it was acknowledged, the collector's `logd status` \
             names the hour (one of which nothing came, only if hosts_file lists its host); `logd resend` \
             on the host sends it again",
            self.path(base, "seg").display(),
            meta.as_ref().map_or(String::new(), |m| format!("it was {}; ", m.label()))
        ));
        self.damaged.extend(meta);
        Ok(safe)
    }

    /// What the stretches that were set aside at the start say that they were, where they do.
    pub fn damaged(&self) -> &[Meta] {
        &self.damaged
    }

    /// A pack that waits cannot be read any more: copies the damage of its segment into `quarantine`, so that the rest of
    /// the segment pins nothing. Says what became of it.
    pub fn set_aside_damage(&mut self, seq: u64, base: u64, quarantine: &mut Shelf) -> disk::Result<String> {
        match self.copy_damage(base, quarantine) {
            Ok(true) => {
                self.mark_done(seq)?;
                Ok(format!("what is left of it is kept in {}", quarantine.dir().join("spool").display()))
            }
            Err(e) if e.fatal() => Err(e),
            _ => Ok("it stays there until a start that can set it aside".into()),
        }
    }

    fn copy_damage(&mut self, base: u64, quarantine: &mut Shelf) -> disk::Result<bool> {
        let file = self.disk.open(&self.path(base, "seg"))?;
        let (mut at, mut safe) = (0, true);
        let mut buf = std::mem::take(&mut self.buf);
        loop {
            match record::read(&file, at, RECORD_MAX, &mut buf)? {
                Found::End => break,
                Found::Record(head) => at = head.end(),
                Found::Damage { next } => {
                    safe &= self.set_aside(&file, base, at, next, quarantine, &mut |_| {})? == Aside::Safe;
                    at = next;
                }
            }
        }
        self.buf = buf;
        Ok(safe)
    }

    /// Sequence number below which every pack is durable.
    pub fn durable(&self) -> u64 {
        self.durable
    }

    /// Bytes on disk, done packs in segments that are not all done included.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes that can still be added, as far as anybody can know.
    pub fn room(&self) -> disk::Result<u64> {
        let retired = self.active.as_ref().and_then(|(base, _)| self.segments.get(base));
        let retired = retired.filter(|s| s.count > 0 && s.done_count >= s.count).map_or(0, |s| s.len);
        let own = self.conf.size.saturating_sub(self.bytes.saturating_sub(retired));
        Ok(own.min(self.disk.free_bytes(&self.dir)?.saturating_sub(self.conf.min_free)))
    }

    /// Is it more than half full? Then whoever drains it should make progress durable.
    pub fn half_full(&self) -> bool {
        self.bytes > self.conf.size / 2
    }

    /// Packs that are not done.
    pub fn waiting(&self) -> u64 {
        self.segments.values().map(|s| s.count.saturating_sub(s.done_count)).sum()
    }

    /// Adds one frame, given in parts. It is not durable before a sync.
    pub fn append(&mut self, frame: &[&[u8]]) -> Result<Loc, AppendError> {
        let payload: u64 = frame.iter().map(|p| p.len() as u64).sum();
        let len = payload.saturating_add(HEADER);
        if self.bytes.saturating_add(len) > self.conf.size {
            self.retire().map_err(AppendError::Disk)?;
        }
        if self.bytes.saturating_add(len) > self.conf.size {
            return Err(AppendError::Full(format!(
                "spool {} holds {} of {} bytes",
                self.dir.display(),
                self.bytes,
                self.conf.size
            )));
        }
        if self.until_free_check < len {
            let free = self.disk.free_bytes(&self.dir).map_err(AppendError::Disk)?;
            if free < self.conf.min_free.saturating_add(len) {
                return Err(AppendError::Full(format!(
                    "paused: disk: too few bytes free below {}, min_free is {}",
                    self.dir.display(),
                    disk::size(self.conf.min_free)
                )));
            }
            self.until_free_check = FREE_CHECK.max(len);
        }
        let (base, file) = self.active_for(len).map_err(Self::no_space)?;
        let Some(seg) = self.segments.get_mut(&base) else {
            return Err(AppendError::Full("the active segment is gone".into()));
        };
        let offset = seg.len;
        self.buf.clear();
        record::encode(KIND_PACK, self.next_seq, offset, frame, &mut self.buf);
        if let Err(e) = file.write_at(&self.buf, offset) {
            // Half a record would look like damage after a crash, and it takes room.
            let _ = file.set_len(offset);
            if !(planted::is(Bug::FullDiskIgnored) && e.no_space()) {
                return Err(Self::no_space(e));
            }
        }
        if self.buf.capacity() > 4 << 20 {
            self.buf = Vec::new();
        }
        let loc = Loc { seq: self.next_seq, base, offset, len };
        seg.len = seg.len.saturating_add(len);
        seg.count = seg.count.saturating_add(1);
        self.bytes = self.bytes.saturating_add(len);
        self.until_free_check = self.until_free_check.saturating_sub(len);
        self.next_seq = self.next_seq.saturating_add(1);
        if !self.dirty.iter().any(|f| Arc::ptr_eq(f, &file)) {
            self.dirty.push(file);
        }
        Ok(loc)
    }

    /// The active segment goes too when all of it is done: it may be all that the spool holds.
    fn retire(&mut self) -> disk::Result<()> {
        let done = |b: &u64| self.segments.get(b).is_some_and(|s| s.count > 0 && s.done_count >= s.count);
        match self.active.take_if(|(base, _)| done(base)) {
            Some((base, _)) => self.drop_if_done(base),
            None => Ok(()),
        }
    }

    fn no_space(e: disk::Error) -> AppendError {
        if e.no_space() {
            AppendError::Full(format!("paused: disk: {e}"))
        } else if e.too_many_files() {
            AppendError::Full(e.to_string())
        } else {
            AppendError::Disk(e)
        }
    }

    fn active_for(&mut self, len: u64) -> disk::Result<(u64, Arc<File>)> {
        if let Some((base, file)) = &self.active {
            let used = self.segments.get(base).map_or(u64::MAX, |s| s.len);
            if used == 0 || used.saturating_add(len) <= self.conf.segment_size {
                return Ok((*base, Arc::clone(file)));
            }
        }
        let base = self.next_seq;
        let file = Arc::new(self.disk.create_new(&self.path(base, "seg"), MODE)?);
        self.dir_dirty = !planted::is(Bug::NoSegmentSync);
        self.segments.insert(
            base,
            Segment { len: 0, count: 0, done: Vec::new(), done_count: 0, marks_dirty: false, pinned: false },
        );
        let old = self.active.replace((base, Arc::clone(&file)));
        if let Some((old, _)) = old {
            self.drop_if_done(old)?;
        }
        Ok((base, file))
    }

    /// What must be synced for everything appended so far to be durable; `None` when nothing is new.
    pub fn begin_sync(&mut self) -> Option<SyncJob> {
        if self.durable == self.next_seq && !self.dir_dirty {
            return None;
        }
        let dir = std::mem::take(&mut self.dir_dirty).then(|| (self.disk.clone(), self.dir.clone()));
        Some(SyncJob { files: std::mem::take(&mut self.dirty), dir, upto: self.next_seq })
    }

    /// After [`SyncJob::run`] succeeded.
    pub fn end_sync(&mut self, job: &SyncJob) {
        let upto = if planted::is(Bug::AckWhileSyncing) { self.next_seq } else { job.upto };
        self.durable = self.durable.max(upto);
    }

    /// Syncs in place, for callers that share the spool with nobody.
    pub fn sync(&mut self) -> disk::Result<()> {
        let Some(job) = self.begin_sync() else { return Ok(()) };
        let synced = job.run();
        if synced.is_ok() {
            self.end_sync(&job);
        } else {
            // Unless it ends the process, the next sync has to do all of it.
            self.dir_dirty |= job.dir.is_some();
            self.dirty.extend(job.files);
        }
        synced
    }

    /// The oldest pack from `seq` on that is durable and not done: its number and its segment's.
    pub fn next_waiting(&self, seq: u64) -> Option<(u64, u64)> {
        let first = self.segments.range(..=seq).next_back().map_or(0, |(b, _)| *b);
        for (base, seg) in self.segments.range(first..) {
            let mut i = seq.saturating_sub(*base);
            while i < seg.count {
                if seg.done.get((i / 64) as usize) == Some(&u64::MAX) {
                    i = (i / 64).saturating_add(1).saturating_mul(64);
                } else if seg.is_done(i) {
                    i = i.saturating_add(1);
                } else {
                    let found = base.saturating_add(i);
                    return (found < self.durable).then_some((found, *base));
                }
            }
        }
        None
    }

    /// The pack is durable further on. Its segment goes when all of it is done.
    pub fn mark_done(&mut self, seq: u64) -> disk::Result<()> {
        let Some((&base, seg)) = self.segments.range_mut(..=seq).next_back() else { return Ok(()) };
        if seq.saturating_sub(base) < seg.count {
            seg.mark(seq.saturating_sub(base));
        }
        self.drop_if_done(base)
    }

    fn drop_if_done(&mut self, base: u64) -> disk::Result<()> {
        let idle = self.active.as_ref().is_none_or(|(a, _)| *a != base);
        let early = u64::from(planted::is(Bug::SegmentDeletedEarly));
        let all_done = |s: &Segment| !s.pinned && s.done_count.saturating_add(early) >= s.count;
        if idle && self.segments.get(&base).is_some_and(all_done) {
            self.disk.remove(&self.path(base, "seg"))?;
            self.disk.remove(&self.path(base, "done"))?;
            let gone = self.segments.remove(&base);
            self.bytes = self.bytes.saturating_sub(gone.map_or(0, |s| s.len));
        }
        Ok(())
    }

    /// Writes the bitmaps that changed, so that a restart delivers little twice.
    pub fn save_marks(&mut self) -> disk::Result<()> {
        for (base, seg) in &mut self.segments {
            if seg.marks_dirty {
                let bits: Vec<u8> = seg.done.iter().flat_map(|w| w.to_le_bytes()).collect();
                let mut out = Vec::new();
                record::encode(KIND_DONE, *base, 0, &[&bits], &mut out);
                self.disk.replace(&self.dir.join(format!("{base:020}.done")), &out, MODE)?;
                seg.marks_dirty = false;
            }
        }
        // Those that could not be removed when their last pack was done.
        let bases: Vec<u64> = self.segments.keys().copied().collect();
        bases.into_iter().try_for_each(|base| self.drop_if_done(base))
    }

    /// A clean stop: bitmaps are written, a segment that is all done is removed.
    pub fn close(&mut self) -> disk::Result<()> {
        self.sync()?;
        if let Some((base, _)) = self.active.take() {
            self.drop_if_done(base)?;
        }
        self.save_marks()
    }

    /// A reader of this spool's files that needs no lock.
    pub fn reader(&self) -> Reader {
        Reader { disk: self.disk.clone(), dir: self.dir.clone(), at: None }
    }
}

/// Walks through the segments in order, outside any lock.
pub struct Reader {
    disk: Disk,
    dir: PathBuf,
    at: Option<(u64, File, u64)>,
}

impl Reader {
    /// The file of the segment that begins with this number.
    pub fn path(&self, base: u64) -> PathBuf {
        self.dir.join(format!("{base:020}.seg"))
    }

    /// Reads pack `seq` of segment `base` into `buf`; `None` if it is no longer readable (damage since the start).
    pub fn fetch(&mut self, seq: u64, base: u64, buf: &mut Vec<u8>) -> disk::Result<Option<Loc>> {
        if self.at.as_ref().is_none_or(|(b, _, _)| *b != base) {
            let file = self.disk.open(&self.path(base))?;
            self.at = Some((base, file, 0));
        }
        let Some((_, file, offset)) = &mut self.at else { return Ok(None) };
        // A second pass over the segment covers a call for an older pack than the last one.
        for from in [*offset, 0] {
            *offset = from;
            loop {
                match record::read_past(file, *offset, RECORD_MAX, buf)? {
                    Found::Record(h) if h.seq == seq && h.kind == KIND_PACK => {
                        let loc = Loc::of(&h, base);
                        *offset = h.end();
                        buf.drain(..record::HEADER);
                        return Ok(Some(loc));
                    }
                    // A pass from the start also goes over one that stands in a wrong place.
                    Found::Record(h) if h.seq < seq || from == 0 => *offset = h.end(),
                    Found::Damage { next } if next > *offset => *offset = next,
                    _ => break,
                }
            }
        }
        Ok(None)
    }

    /// Reads the pack at `loc` into `buf`.
    pub fn fetch_at(&self, loc: &Loc, buf: &mut Vec<u8>) -> disk::Result<bool> {
        let file = self.disk.open(&self.path(loc.base))?;
        let found = record::read_past(&file, loc.offset, RECORD_MAX, buf)?;
        let good = matches!(found, Found::Record(h) if h.seq == loc.seq);
        if good {
            buf.drain(..record::HEADER);
        }
        Ok(good)
    }
}

#[cfg(test)]
mod tests;
