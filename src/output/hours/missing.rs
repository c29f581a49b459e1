//! Packs that are missing: those that were acknowledged and cannot be read any more, each a file in `aside/lost/` that bars
//! its copy's tag until the pack came again; and what lies beyond a gap that stays, given out in `aside/….gaps`.

use super::{Early, Hours};
use crate::disk;
use crate::integrity::{Health, Store};
use crate::pack::{self, HourKey, Meta, split_frame};

impl Hours {
    /// Notes durably that a pack was acknowledged and is lost.
    pub fn note_lost(&mut self, key: &HourKey, generation: u64, id: u64) -> disk::Result<()> {
        if !self.missing.put(&key.name, &Store::shelf_name(key, generation, id), b"")? {
            self.alarms.push(format!("{key} pack {id}: aside/lost is full: only this message tells of it; `logd resend` on its host sends it again"));
        }
        self.lost.push((key.clone(), generation, id));
        Ok(())
    }

    /// The same of a pack that was found damaged at the start, unless it was stored before.
    pub fn note_damaged(&mut self, meta: &Meta) -> disk::Result<()> {
        let (key, generation, id) = (&meta.key, meta.generation, meta.id);
        let stored = self.copy(key, generation).is_some_and(|c| c.has(id));
        let closed = self.store.closed(key)?.is_some_and(|c| (c.generation, c.packs) >= (generation, id));
        if stored || closed {
            return Ok(());
        }
        match self.note_lost(key, generation, id) {
            // A full disk keeps the damage where it is, too: the next start finds it again.
            Err(e) if e.no_space() => self.unwritten.push((key.clone(), generation, id)),
            other => other?,
        }
        self.lost.clear();
        Ok(())
    }

    /// Packs that were noted as lost since the last call: when they come again they are new.
    pub fn take_lost(&mut self) -> Vec<(HourKey, u64, u64)> {
        std::mem::take(&mut self.lost)
    }

    /// Packs of a copy that are lost and did not come again. Those that did are forgotten.
    pub(super) fn still_lost(&mut self, key: &HourKey, generation: u64) -> disk::Result<Vec<u64>> {
        let mut left = Vec::new();
        for (k, g, id) in self.unwritten.clone() {
            let here = k == *key && g == generation;
            left.extend((here && !self.copy(key, g).is_some_and(|c| c.has(id))).then_some(id));
        }
        for (g, id, file) in self.missing.packs_of(key)? {
            if g != generation {
                continue;
            }
            if self.copy(key, g).is_some_and(|c| c.has(id)) {
                self.missing.remove(&key.name, &file)?;
            } else {
                left.push(id);
            }
        }
        Ok(left)
    }

    /// After `gap_wait`: what lies beyond a gap is given out in `aside/….gaps`, in id order, so that people have it.
    /// It stays on the shelf too; a pack that comes after all is still put where it belongs.
    pub fn write_gaps(&mut self, now_ms: u64) -> disk::Result<()> {
        let wait = self.conf.gap_wait_ms;
        let mut due = Vec::new();
        for (key, state) in &self.states {
            for (generation, c) in &state.copies {
                let late = now_ms.saturating_sub(c.early_since_ms) >= wait;
                let free = !self.stuck.contains_key(key) && matches!(c.health, Health::Good);
                if !c.early.is_empty() && late && !c.gaps_written && free {
                    due.push((key.clone(), *generation));
                }
            }
        }
        for (key, generation) in due {
            let Some(copy) = self.states.get_mut(&key).and_then(|s| s.copies.get_mut(&generation)) else {
                continue;
            };
            copy.gaps_written = true;
            let path = self.store.path("aside").join(format!("{key}.gaps"));
            let temp = self.store.path("aside").join(format!(".{key}.gaps.tmp"));
            self.store.disk().remove(&temp)?;
            let file = self.store.disk().create(&temp, self.store.file_mode)?;
            let (mut at, mut raw, mut frame) = (0, Vec::new(), Vec::new());
            for e in copy.early.values() {
                match e {
                    Early::Spool(loc) => {
                        self.reader.fetch_at(loc, &mut frame)?;
                    }
                    Early::Shelf(f) => frame = self.early.get(&key.name, f)?.unwrap_or_default(),
                }
                let Some((header, body)) = split_frame(&frame) else { continue };
                let Ok(meta) = header.meta("unknown") else { continue };
                if pack::inflate(body, &meta, &mut raw, self.conf.max_raw).is_some() {
                    file.write_at(&raw, at)?;
                    at = at.saturating_add(raw.len() as u64);
                }
            }
            file.sync()?;
            self.store.disk().rename(&temp, &path)?;
            self.store.disk().sync_dir(&self.store.path("aside"))?;
            let first = copy.summary.high.saturating_add(1);
            self.alarms.push(format!(
                "{key}: pack {first} has been missing for {} h; the packs after it are also in {}; \
                 send the hour again from its source",
                wait / 3_600_000,
                path.display()
            ));
        }
        Ok(())
    }
}
