//! The retry spool of a follower: packs on disk that wait for their acknowledgement.
//!
//! Two ways lead there. What could not be sent goes from memory to disk, so that the follower reads on and the source may be
//! cleaned away; if there is no room, it is read again from its source. And where rotation may destroy the source
//! ([`crate::tail::undated`]), a pack is here *before* the journal knows its cut: then a cut means that its bytes are safe.
//! A crash in between leaves a record without a cut; its bytes are read again, and the record is dropped at the next start.
//!
//! Files below the state directory: `retry/` ([`crate::spool`]), and `held/`, where packs wait that a receiver refused for good
//! or that the journal has forgotten.

use super::{Bytes, COUNT_MS, Follower, Job, Load};
use crate::config::Peer;
use crate::disk;
use crate::journal::{Cut, HourLog};
use crate::log::count;
use crate::pack::{Encoder, HourKey, Meta, inflate, split_frame};
use crate::spool::{AppendError, Loc, Shelf, Spool};
use crate::tail::Sealed;
use std::collections::{BTreeMap, BTreeSet};

/// What the journal says of a pack on disk.
enum Known {
    /// It has this cut under the pack's name.
    As(Cut),
    /// Its hour goes on where the journal ends: the cut was never written.
    NotYet,
    /// Nothing.
    Not,
}

/// Does the cut stand for these bytes?
fn is_of(cut: &Cut, meta: &Meta) -> bool {
    meta.done == cut.done && meta.seal.as_ref().is_none_or(|seal| *seal == cut.seal())
}

impl Follower {
    /// Packs that an earlier run could not send lie here, in case their source is gone.
    pub(super) fn open_retry_spool(&mut self, damaged: bool) -> disk::Result<()> {
        if self.conf.spool.size == 0 {
            return Ok(());
        }
        let dir = self.state_dir.join("retry");
        let mut quarantine = Shelf::open(
            &self.disk,
            &self.state_dir.join("quarantine"),
            self.conf.sender.held_per_name,
            self.conf.sender.held_total,
        )?;
        let mut found = Vec::new();
        let alarms = &mut self.alarms;
        let mut spool = Spool::open(
            &self.disk,
            &dir,
            &mut quarantine,
            &self.conf.spool,
            &mut |t| alarms.push(t),
            &mut |loc, frame| {
                found.extend(split_frame(frame).and_then(|(h, _)| h.meta("none").ok()).map(|m| (loc, m)));
            },
        )?;
        let mut forgotten = BTreeMap::new();
        // The newest first: of two records of one pack the older one was dropped once, and nobody knows it any more.
        for (loc, meta) in found.into_iter().rev() {
            match self.known(&meta) {
                Known::As(cut) if !is_of(&cut, &meta) => {}
                Known::As(_) => {
                    let number = self.numbers.get(&(meta.key.clone(), meta.id)).copied();
                    let now = number
                        .and_then(|n| self.meta(n))
                        .is_some_and(|m| m.state == meta.state && m.loss == meta.loss);
                    let waiting = number.and_then(|n| self.waiting.get_mut(&n));
                    if let Some(w) = waiting.filter(|w| matches!(w.bytes, Bytes::Source)) {
                        if now {
                            w.bytes = Bytes::Spool(loc);
                            continue;
                        }
                        // The hour has become another one since then: the bytes go under a new header.
                        let mut frame = Vec::new();
                        let mut raw = Vec::new();
                        let most = meta.seal.map_or(0, |s| s.bytes);
                        if spool.reader().fetch_at(&loc, &mut frame)?
                            && split_frame(&frame)
                                .is_some_and(|(_, body)| inflate(body, &meta, &mut raw, most).is_some())
                        {
                            w.weight = raw.len();
                            self.in_memory = self.in_memory.saturating_add(raw.len());
                            w.bytes = Bytes::Memory(raw);
                        }
                    }
                }
                Known::NotYet if !damaged => {}
                Known::NotYet | Known::Not => {
                    if !self.journal.has_acked(&meta.key, meta.generation, meta.id)? {
                        let kept = self.hold(&spool, &loc, &meta)?;
                        let n = forgotten.entry((meta.key, kept)).or_insert(0_usize);
                        *n = n.saturating_add(1);
                        if !kept {
                            continue;
                        }
                    }
                }
            }
            spool.mark_done(loc.seq)?;
        }
        self.tell_forgotten(&forgotten);
        spool.save_marks()?;
        self.put_back(&mut spool, true)?;
        self.retry_reader = Some(spool.reader());
        self.retry = Some(spool);
        Ok(())
    }

    /// What the journal says of a pack.
    fn known(&self, meta: &Meta) -> Known {
        // To an original every copy is the first.
        let original = self.conf.sender.peer == Peer::Original;
        let mine = |log: &&HourLog| meta.generation == if original { 0 } else { log.generation };
        let log = self.journal.hour(&meta.key);
        if let Some(log) = log.filter(mine) {
            return match log.cut(meta.id) {
                Some(cut) => Known::As(cut.clone()),
                None if log.clock => Known::NotYet,
                None => Known::Not,
            };
        }
        let newest = self.journal.hours().iter().rfind(|(k, _)| k.name == meta.key.name);
        if newest.is_some_and(|(k, log)| log.clock && k.hour < meta.key.hour) {
            Known::NotYet
        } else {
            Known::Not
        }
    }

    /// A pack of which the journal knows nothing any more: its log file may be gone, so this may be the only copy.
    fn hold(&mut self, spool: &Spool, loc: &Loc, meta: &Meta) -> disk::Result<bool> {
        let mut frame = Vec::new();
        if !spool.reader().fetch_at(loc, &mut frame)? {
            return Ok(true);
        }
        let file = format!("{}.{}.{}", meta.key.hour, meta.generation, meta.id);
        self.held.put(&meta.key.name, &file, &frame)
    }

    /// One sentence for the packs of an hour.
    fn tell_forgotten(&mut self, forgotten: &BTreeMap<(HourKey, bool), usize>) {
        for ((key, kept), n) in forgotten {
            self.alarms.push(format!(
                "{key}: the journal does not know whether {} of it in the retry spool were acknowledged: {}; {}, `logd spool \
                 salvage` makes a relay's spool of them",
                count(*n, "pack"),
                if *kept { "kept in held/" } else { "held/ is full, they stay in retry/ and take its room" },
                if self.streams.is_undated(&key.name) {
                    "its file has no date and may not have them any more"
                } else {
                    "the hour is sent again from its log file, as a new copy; if that file is gone"
                }
            ));
        }
    }

    /// Packs that a receiver refused for good get another chance; their source may be gone by now.
    pub(super) fn put_back(&mut self, spool: &mut Spool, tell: bool) -> disk::Result<()> {
        let names: Vec<String> = self.held.names().map(str::to_owned).collect();
        for name in names {
            for file in self.held.list(&name)? {
                let Some(frame) = self.held.get(&name, &file)? else {
                    if tell {
                        let path = self.held.dir().join(&name).join(&file);
                        self.alarms.push(format!(
                            "{}: damaged; its pack is read again from the log file; remove this file",
                            path.display()
                        ));
                    }
                    continue;
                };
                let Some(meta) = split_frame(&frame).and_then(|(h, _)| h.meta("none").ok()) else { continue };
                let log = self.journal.hour(&meta.key);
                match self.known(&meta) {
                    Known::As(cut) if is_of(&cut, &meta) => {}
                    _ => continue,
                }
                if log.is_none_or(|l| !l.unacked.contains(&meta.id)) {
                    continue;
                }
                let loc = match spool.append(&[&frame]) {
                    Ok(loc) => loc,
                    Err(AppendError::Full(_)) => continue,
                    Err(AppendError::Disk(e)) => return Err(e),
                };
                let number = self.numbers.get(&(meta.key.clone(), meta.id)).copied();
                match number.and_then(|n| self.waiting.get_mut(&n)) {
                    Some(w) => {
                        // A crash between held/ and the mark may have left its record of before.
                        if let Bytes::Spool(before) = std::mem::replace(&mut w.bytes, Bytes::Spool(loc)) {
                            self.retry_done.push(before.seq);
                        }
                    }
                    None => self.add(meta.key, meta.generation, meta.id, Bytes::Spool(loc), 0),
                }
                spool.sync()?;
                self.held.remove(&name, &file)?;
            }
        }
        Ok(())
    }

    /// Is the retry spool the only place where this pack will be, once its file is rotated away?
    fn must_keep(&self, s: &Sealed) -> bool {
        self.journal.hour(&s.key).is_some_and(|log| log.clock)
    }

    /// Bytes that may be read of files that rotation may destroy, headers included. Also finds out which streams have had
    /// their part of the spool.
    pub(super) fn room_to_keep(&mut self) -> disk::Result<u64> {
        let (streams, size) = (self.streams.undated(), self.conf.spool.size);
        let Some(retry) = self.retry.as_ref().filter(|_| streams > 0) else { return Ok(0) };
        let room = retry.room()?;
        let now = self.clock.mono_ms();
        if now < self.parts_ms {
            return Ok(room);
        }
        // Counting takes time, and there may be as many turns as packs.
        self.parts_ms = now.saturating_add(COUNT_MS);
        let mut over = BTreeSet::new();
        // While it fills, whoever has more than an even part of the first half leaves the rest to the others.
        if streams > 1 && room < size / 2 {
            let mut held: BTreeMap<&str, u64> = BTreeMap::new();
            for w in self.waiting.values() {
                if let Bytes::Spool(loc) = &w.bytes {
                    let sum = held.entry(&w.key.name).or_default();
                    *sum = sum.saturating_add(loc.len);
                }
            }
            let part = (size / 2).checked_div(streams as u64).unwrap_or(0);
            over.extend(held.into_iter().filter(|(_, n)| *n > part).map(|(name, _)| name.to_owned()));
        }
        self.streams.set_over(over);
        Ok(room)
    }

    /// Puts sealed packs that their source may soon not have any more into the retry spool, durably, before the journal knows
    /// them. If there is suddenly no room, they stay in memory like any other, and nothing more is read of their files.
    pub(super) fn keep_unreleased(&mut self) -> disk::Result<()> {
        let Some(mut retry) = self.retry.take() else { return Ok(()) };
        let mut encoder = None;
        let mut unreleased = std::mem::take(&mut self.unreleased);
        let mut kept = Ok(());
        for (s, loc) in unreleased.iter_mut().filter(|(_, loc)| loc.is_none()) {
            let meta = self.meta_of_pack(&s.key, s.generation, s.id).filter(|_| self.must_keep(s));
            let Some(meta) = meta else { continue };
            let job = Job { number: 0, load: Load::Raw(Box::new(meta), std::mem::take(&mut s.raw)) };
            let wall = self.wall();
            // A quarter of a megabyte, which most followers never need.
            let encoder = encoder.get_or_insert_with(|| Encoder::new(self.conf.sender.compress_level));
            job.frame(encoder, self.key.as_deref(), &wall, &mut self.frame);
            if let Load::Raw(_, raw) = job.load {
                s.raw = raw;
            }
            match retry.append(&[&self.frame]) {
                Ok(at) => *loc = Some(at),
                Err(AppendError::Full(why)) => {
                    self.alarms.push(format!(
                        "{}: {why}; pack {} is in memory and in its log file only until it is acknowledged",
                        s.key, s.id
                    ));
                    break;
                }
                Err(AppendError::Disk(e)) => {
                    kept = Err(e);
                    break;
                }
            }
        }
        let synced = retry.sync();
        self.retry = Some(retry);
        self.unreleased = unreleased;
        kept.and(synced)
    }

    /// The first `n` packs of the retry spool may go: the journal knows durably that they were acknowledged. Before that
    /// they may be all that is left of their source.
    pub(super) fn forget_retry(&mut self, n: usize) -> disk::Result<()> {
        let Some(retry) = &mut self.retry else { return Ok(()) };
        // Each is marked, even if the file of one cannot be removed now.
        self.retry_done.drain(..n).map(|seq| retry.mark_done(seq)).fold(Ok(()), Result::and)
    }

    /// Nobody answers: packs go from memory to disk, so that the follower reads on and the source may be cleaned.
    pub(super) fn spill(&mut self) -> disk::Result<()> {
        let held: Vec<u64> = self
            .waiting
            .iter()
            .filter(|(_, w)| matches!(w.bytes, Bytes::Memory(_)))
            .map(|(n, _)| *n)
            .take(8)
            .collect();
        let mut encoder = None;
        for number in held {
            let Some(w) = self.waiting.get_mut(&number) else { continue };
            let Bytes::Memory(raw) = std::mem::replace(&mut w.bytes, Bytes::Away) else { continue };
            let Some(meta) = self.meta(number) else { continue };
            let job = Job { number, load: Load::Raw(Box::new(meta), raw) };
            let mut frame = std::mem::take(&mut self.frame);
            let wall = self.wall();
            let encoder = encoder.get_or_insert_with(|| Encoder::new(self.conf.sender.compress_level));
            job.frame(encoder, self.key.as_deref(), &wall, &mut frame);
            self.keep(job, &frame)?;
            self.frame = frame;
        }
        if let Some(r) = &mut self.retry {
            r.sync()?;
        }
        Ok(())
    }

    /// Puts an unsent pack's frame on disk, or leaves it to its source.
    pub(super) fn keep(&mut self, job: Job, frame: &[u8]) -> disk::Result<()> {
        let Some(w) = self.waiting.get_mut(&job.number) else { return Ok(()) };
        let Load::Raw(_, raw) = job.load else { return Ok(()) };
        w.bytes = Bytes::Source;
        self.in_memory = self.in_memory.saturating_sub(std::mem::take(&mut w.weight));
        self.streams.recycle(raw);
        // What waits for another address must not fill the room of those that will be sent first.
        let lasting = self.journal.hour(&w.key).is_some_and(|log| !log.clock);
        let elsewhere = lasting && self.queue.is_elsewhere(job.number);
        let Some(retry) = self.retry.as_mut().filter(|_| !elsewhere) else { return Ok(()) };
        match retry.append(&[frame]) {
            Ok(loc) => {
                w.bytes = Bytes::Spool(loc);
                Ok(())
            }
            // Full: the cut is read again from its source when its turn comes.
            Err(AppendError::Full(_)) => Ok(()),
            Err(AppendError::Disk(e)) => Err(e),
        }
    }
}
