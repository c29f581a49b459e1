//! Checkpoints: what was applied becomes durable, and the spool may forget it.
//!
//! The order is data, then the lines that prove it, each with its name; only then is a pack of the spool done (P1, P2). A
//! crash in between leaves bytes that no line proves, and the spool still has their packs.

use super::{Copy, Early, Hours};
use crate::disk;
use crate::integrity::{Health, Store};
use crate::pack::HourKey;
use crate::planted::{self, Bug};
use crate::spool::Loc;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Packs that go to the early shelf in one checkpoint, a file each: those of all others wait for that.
const SHELVE_STEP: usize = 64;

/// What a checkpoint makes durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Hours that are complete.
    Complete,
    /// Everything.
    All,
}

/// Packs whose proof is durable now.
#[derive(Debug, Default)]
pub struct Progress {
    /// Spool numbers that are done.
    pub seqs: Vec<u64>,
    /// Per hour and copy: the number up to which all is stored (0 = not in id order), and the spool's numbers.
    pub stored: Vec<(HourKey, u64, u64, Vec<u64>)>,
    /// Packs that moved to the early shelf.
    pub shelved: Vec<(HourKey, u64, u64)>,
}

impl Hours {
    /// Makes what was applied so far durable, in the order that the proof needs: all of it, or only the hours that are
    /// complete, which wait for nothing else.
    pub fn checkpoint(&mut self, due: Due, now_ms: u64) -> disk::Result<Progress> {
        let mut out = Progress { seqs: std::mem::take(&mut self.done_now), ..Progress::default() };
        let mut dirty = std::mem::take(&mut self.dirty);
        if due == Due::Complete {
            (dirty, self.dirty) = dirty.into_iter().partition(|copy| self.is_complete(copy));
        } else {
            self.kept.clear();
            self.kept_bytes = 0;
        }
        if let Err(e) = self.sync_all(&dirty, now_ms)
            && !planted::is(Bug::CheckpointErrorIgnored)
        {
            // A full disk: everything stays noted and is tried again.
            self.dirty.extend(dirty);
            self.done_now = out.seqs;
            return Err(e);
        }
        for (key, generation) in dirty {
            let Some(copy) = self.states.get_mut(&key).and_then(|s| s.copies.get_mut(&generation)) else {
                continue;
            };
            if self.stuck.contains_key(&key) && !copy.lines.is_empty() {
                self.dirty.insert((key.clone(), generation));
            } else {
                let high = if matches!(copy.health, Health::Good) { copy.summary.high } else { 0 };
                out.seqs.extend_from_slice(&copy.seqs);
                out.stored.push((key.clone(), generation, high, std::mem::take(&mut copy.seqs)));
            }
            if let Err(e) = self.shelve_early(&key, generation, now_ms, &mut out) {
                self.put_off(e)?;
                self.dirty.insert((key.clone(), generation));
            }
            self.note_complete(&key, generation);
        }
        // Now that they are in the data files, the shelf's copies are not needed.
        for (key, generation, id) in std::mem::take(&mut self.shelved) {
            if self.copy(&key, generation).is_some_and(|c| !c.lines.is_empty()) {
                self.shelved.push((key, generation, id));
            } else if let Err(e) = self.early.remove(&key.name, &Store::shelf_name(&key, generation, id)) {
                self.put_off(e)?;
                self.shelved.push((key, generation, id));
            }
        }
        if self.open_copies > self.conf.max_open {
            self.close_files();
        }
        self.forget_idle(now_ms);
        self.verify_again &= due == Due::Complete;
        Ok(out)
    }

    /// Makes copies durable, no more at once than may be open.
    pub(super) fn sync_in_turn(&mut self, dirty: &BTreeSet<(HourKey, u64)>) -> disk::Result<()> {
        let all: Vec<&(HourKey, u64)> = dirty.iter().collect();
        for some in all.chunks(self.conf.max_open.max(1)) {
            if all.len() > some.len() {
                self.make_room()?;
            }
            self.sync_copies(&some.iter().map(|c| (*c).clone()).collect())?;
        }
        Ok(())
    }

    /// Data first, with its name; only then the lines that prove it, with theirs.
    fn sync_copies(&mut self, dirty: &BTreeSet<(HourKey, u64)>) -> disk::Result<()> {
        let mut data_dirs: BTreeSet<PathBuf> = BTreeSet::new();
        let mut header_dirs: BTreeSet<PathBuf> = BTreeSet::new();
        for (key, generation) in dirty {
            let Some(copy) = self.states.get_mut(key).and_then(|s| s.copies.get_mut(generation)) else {
                continue;
            };
            if copy.lines.is_empty() {
                continue;
            }
            copy.open(&self.store)?;
            if let (Some((data, _)), false) = (&copy.files, unsynced(copy)) {
                data.sync()?;
                copy.unsynced = 0;
            }
            if copy.new_names {
                data_dirs.extend(copy.place.data.parent().map(Path::to_owned));
                header_dirs.extend(copy.place.headers.parent().map(Path::to_owned));
            }
        }
        for dir in &data_dirs {
            self.disk().sync_dir(dir)?;
        }
        for (key, generation) in dirty {
            let Some(copy) = self.states.get_mut(key).and_then(|s| s.copies.get_mut(generation)) else {
                continue;
            };
            let (false, Some((_, headers))) = (copy.lines.is_empty(), &copy.files) else { continue };
            headers.write_at(&copy.lines, copy.headers_len)?;
            if !(planted::is(Bug::CertifyBeforeSync) && copy.is_complete()) {
                headers.sync()?;
            }
        }
        for dir in &header_dirs {
            self.disk().sync_dir(dir)?;
        }
        // Only now: after an error before this all of it is done again, with the same bytes at the same place.
        for (key, generation) in dirty {
            if let Some(copy) = self.states.get_mut(key).and_then(|s| s.copies.get_mut(generation))
                && !copy.lines.is_empty()
            {
                copy.headers_len = copy.headers_len.saturating_add(copy.lines.len() as u64);
                // An hour at rest takes no memory for its next lines.
                copy.lines = Vec::new();
                copy.new_names = false;
            }
        }
        Ok(())
    }

    /// Housekeeping that failed is tried again at the next checkpoint: what was made durable before it must be told to
    /// the spool and the gate all the same.
    fn put_off(&mut self, e: disk::Error) -> disk::Result<()> {
        if e.fatal() {
            return Err(e);
        }
        self.alarms.push(format!("{e}; nothing is lost, trying again"));
        Ok(())
    }

    /// Packs beyond a gap leave the spool, so that they pin no segment.
    fn shelve_early(
        &mut self,
        key: &HourKey,
        generation: u64,
        now_ms: u64,
        out: &mut Progress,
    ) -> disk::Result<()> {
        let Some(copy) = self.states.get(key).and_then(|s| s.copies.get(&generation)) else { return Ok(()) };
        if matches!(copy.health, Health::Foreign { .. }) {
            // No gap is waited for: only what is stuck, and a start finds that in the spool.
            return Ok(());
        }
        let waiting: Vec<(u64, Loc)> = copy
            .early
            .iter()
            .filter_map(|(id, e)| match e {
                Early::Spool(loc) => Some((*id, *loc)),
                Early::Shelf(_) => None,
            })
            .collect();
        // A gap that two senders in parallel make closes by itself; give it one checkpoint.
        if now_ms.saturating_sub(copy.early_since_ms) < 5_000 {
            if !waiting.is_empty() {
                self.dirty.insert((key.clone(), generation));
            }
            return Ok(());
        }
        let mut frame = std::mem::take(&mut self.frame);
        for (id, loc) in waiting {
            if out.shelved.len() >= SHELVE_STEP {
                self.dirty.insert((key.clone(), generation));
                break;
            }
            let file = Store::shelf_name(key, generation, id);
            if !self.reader.fetch_at(&loc, &mut frame)? || !self.early.put(&key.name, &file, &frame)? {
                continue;
            }
            out.seqs.push(loc.seq);
            out.shelved.push((key.clone(), generation, id));
            if let Some(copy) = self.states.get_mut(key).and_then(|s| s.copies.get_mut(&generation)) {
                copy.early.insert(id, Early::Shelf(file));
            }
        }
        self.frame = frame;
        Ok(())
    }

    /// Does anything wait for a checkpoint?
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty() || !self.done_now.is_empty() || !self.shelved.is_empty()
    }

    /// Is an hour complete and only waiting for a checkpoint? Then it is worth one now.
    pub fn has_complete(&self) -> bool {
        self.dirty.iter().any(|copy| self.is_complete(copy))
    }

    /// Has a verification to be handed out again? Only a checkpoint of everything does that.
    pub fn wants_all(&self) -> bool {
        self.verify_again
    }

    /// Is this copy complete, and not all of it durable?
    fn is_complete(&self, (key, generation): &(HourKey, u64)) -> bool {
        let copy = self.states.get(key).and_then(|s| s.copies.get(generation));
        !self.stuck.contains_key(key) && copy.is_some_and(|c| !c.lines.is_empty() && c.is_complete())
    }
}

/// For planted bugs: are the data left unsynced?
fn unsynced(copy: &Copy) -> bool {
    planted::is(Bug::HeadersBeforeData) || (planted::is(Bug::CertifyBeforeSync) && copy.is_complete())
}
