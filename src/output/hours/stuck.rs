//! Hours whose files cannot be used: one bad file stops one hour, not all hosts (P4).
//!
//! A directory or a link stands where a file should, a sector is bad, rights are missing; or, at a start, a full disk has
//! no room for what an hour needs first. Nothing of such an hour is changed. Its packs wait as those beyond a gap do: in
//! the spool, from the next checkpoint on below `aside/early/` within their sender's limit. It is tried again every few
//! seconds, and goes on as if nothing had been when that succeeds.

use super::{Copy, Early, Hours, Role, Spooled};
use crate::disk;
use crate::integrity::{Health, Scan};
use crate::pack::HourKey;
use crate::spool::Loc;
use std::collections::BTreeSet;

/// It is tried again after this time.
const RETRY_MS: u64 = 10_000;

/// Why an hour does not go on.
pub(super) struct Stuck {
    retry_ms: u64,
    told: String,
    /// It could not even be looked at; what the spool held of it at start.
    unknown: Option<Spooled>,
}

impl Copy {
    /// The number of the waiting pack that is to be stored next, if it is not missing.
    pub(super) fn next_early(&self) -> Option<u64> {
        match self.health {
            Health::Good => self.summary.high.checked_add(1).filter(|id| self.early.contains_key(id)),
            // What the original began is in no order.
            Health::Foreign { .. } => self.early.keys().next().copied(),
            Health::Damaged(_) => None,
        }
    }

    /// Is this pack stored?
    pub(super) fn has(&self, id: u64) -> bool {
        match &self.health {
            Health::Good => id <= self.summary.high,
            Health::Foreign { ids, .. } => ids.contains(&id),
            Health::Damaged(_) => false,
        }
    }
}

impl Hours {
    /// Does this hour wait for its files?
    pub fn is_stuck(&self, key: &HourKey) -> bool {
        self.stuck.contains_key(key)
    }

    /// Lets an hour wait, and says why unless that is known.
    pub(super) fn stick(&mut self, key: &HourKey, e: &disk::Error, now_ms: u64) {
        let told = e.to_string();
        let old = self.stuck.remove(key);
        if old.as_ref().is_none_or(|o| o.told != told) {
            let next = if e.no_space() { "make room" } else { "mend that, or move away what stands there" };
            self.alarms.push(format!(
                "{key}: {told}; its packs are kept and other hours go on; {next}: it is tried again every {} s",
                RETRY_MS / 1000
            ));
        }
        let unknown = match old {
            Some(o) => o.unknown,
            None => (!self.states.contains_key(key)).then(Spooled::default),
        };
        self.stuck.insert(key.clone(), Stuck { retry_ms: now_ms.saturating_add(RETRY_MS), told, unknown });
    }

    /// The same at start, where `spooled` tells which bytes beyond a proof may be cut when the hour can be looked at.
    pub(super) fn stick_at_start(&mut self, key: &HourKey, e: &disk::Error, spooled: Spooled, now_ms: u64) {
        self.stick(key, e, now_ms);
        if let Some(unknown) = self.stuck.get_mut(key).and_then(|s| s.unknown.as_mut()) {
            *unknown = spooled;
        }
    }

    /// Makes copies durable. One whose files cannot be used stays as it is; the others do not wait for it.
    pub(super) fn sync_all(&mut self, dirty: &BTreeSet<(HourKey, u64)>, now_ms: u64) -> disk::Result<()> {
        let go: BTreeSet<_> =
            dirty.iter().filter(|(key, _)| !self.stuck.contains_key(key)).cloned().collect();
        match self.sync_in_turn(&go) {
            Err(e) if e.is_of_one_path() => {}
            other => return other,
        }
        // Which one it is shows when each is tried alone.
        for copy in go {
            let key = copy.0.clone();
            match self.sync_in_turn(&BTreeSet::from([copy])) {
                Err(e) if e.is_of_one_path() => self.stick(&key, &e, now_ms),
                other => other?,
            }
        }
        Ok(())
    }

    /// A pack of an hour that is stuck waits.
    pub(super) fn keep_back(&mut self, key: &HourKey, generation: u64, id: u64, loc: Loc, now_ms: u64) {
        let unknown = self.stuck.get(key).is_some_and(|s| s.unknown.is_some());
        if unknown {
            // Whatever is on disk of it: nothing may be written there.
            let found = Scan { health: Health::Damaged(String::new()), ..Scan::empty(1) };
            let place = self.store.place(key);
            let state = self.states.entry(key.clone()).or_default();
            state.copies.entry(generation).or_insert_with(|| Copy::new(place, Role::InPlace, found));
        } else if self.choose(key, generation).is_none() {
            self.done_now.push(loc.seq);
            return;
        }
        let Some(copy) = self.copy(key, generation) else { return };
        if copy.early.is_empty() {
            copy.early_since_ms = now_ms;
        }
        if copy.has(id) || matches!(copy.early.get(&id), Some(Early::Shelf(_))) {
            copy.seqs.push(loc.seq);
        } else if let Some(Early::Spool(old)) = copy.early.insert(id, Early::Spool(loc))
            && old.seq != loc.seq
        {
            // It came again.
            copy.seqs.push(old.seq);
        }
        self.dirty.insert((key.clone(), generation));
    }

    /// Tries again what has waited long enough.
    pub fn retry(&mut self, now_ms: u64) -> disk::Result<()> {
        let due = self.stuck.iter().filter(|(_, s)| now_ms >= s.retry_ms).map(|(key, _)| key.clone());
        for key in due.collect::<Vec<_>>() {
            match self.go_on(&key, now_ms) {
                Ok(()) => {
                    self.stuck.remove(&key);
                }
                Err(e) if e.fatal() => return Err(e),
                Err(e) => self.stick(&key, &e, now_ms),
            }
        }
        Ok(())
    }

    fn go_on(&mut self, key: &HourKey, now_ms: u64) -> disk::Result<()> {
        if let Some(spooled) = self.stuck.get(key).and_then(|s| s.unknown.clone()) {
            let state = self.look(key, &spooled, now_ms)?;
            if let Some(s) = self.stuck.get_mut(key) {
                s.unknown = None;
            }
            let waited = self.states.insert(key.clone(), state);
            for (generation, copy) in waited.into_iter().flat_map(|s| s.copies) {
                self.done_now.extend(copy.seqs);
                for (id, early) in copy.early {
                    // Those on the shelf were found there.
                    if let Early::Spool(loc) = early {
                        self.keep_back(key, generation, id, loc, now_ms);
                    }
                }
            }
        }
        self.continue_install(key)?;
        let state = self.states.get(key);
        let copies: BTreeSet<(HourKey, u64)> =
            state.map(|s| s.copies.keys().map(|g| (key.clone(), *g)).collect()).unwrap_or_default();
        for (_, generation) in &copies {
            if let Some(id) = self.copy(key, *generation).and_then(|c| c.next_early()) {
                self.reopen(key, *generation, id)?;
            }
        }
        self.drain_all(key)?;
        self.sync_in_turn(&copies)
    }
}
