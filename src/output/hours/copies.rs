//! Certificates, and the installation of later copies (P3).
//!
//! An hour is complete when the pack that says `done` and everything before it are stored and nothing waits behind
//! it. Then its data file is read again ([`VerifyJob::run`], in any thread) and, if nothing arrived meanwhile, its
//! certificate is filed. A later copy (`gen`) is verified where it was built, installed by steps that can each be
//! repeated after a crash, and then verified and certified in its place like any other:
//!
//! 1. `aside/<name>_<hour>.install` is written: from here on the installation is finished at every start
//! 2. tags are removed, durably
//! 3. the old data and proof move to `aside/<name>_<hour>.<gen>.replaced/`
//! 4. the new ones move to their place
//! 5. the intent is removed

use super::{Copy, Hours, Role};
use crate::disk;
use crate::integrity::packed;
use crate::integrity::{Certificate, Health, Place, Reread, Whole, reread};
use crate::pack::{HourKey, hex};
use crate::planted::{self, Bug};
use crate::record;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// A copy that is complete and has to be read again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyJob {
    /// Whose hour.
    pub key: HourKey,
    /// Copy.
    pub generation: u64,
    /// Its last pack: more packs since then make the result void.
    pub high: u64,
    place: Place,
}

/// A job's result.
pub struct VerifyDone {
    job: VerifyJob,
    result: disk::Result<Option<Reread>>,
}

impl VerifyDone {
    /// The job it answers.
    pub fn job(&self) -> &VerifyJob {
        &self.job
    }
}

impl VerifyJob {
    /// One of a copy in its place.
    #[cfg(test)]
    pub fn of(store: &crate::integrity::Store, key: &HourKey, generation: u64, high: u64) -> Self {
        Self { key: key.clone(), generation, high, place: store.place(key) }
    }

    /// Reads the copy again. Needs no lock.
    pub fn run(self, disk: &disk::Disk, whole: &mut dyn Whole) -> VerifyDone {
        let result = reread(disk, &self.place, whole);
        VerifyDone { job: self, result }
    }
}

/// What came of a verification.
#[derive(Debug)]
pub enum Filed {
    /// More packs came, or the hour is not what it was: nothing was done.
    Void,
    /// A certificate was filed.
    Certified(Box<Certificate>),
    /// A later copy took the place of the hour; its verification there follows.
    Installed,
    /// The copy is not what its sender sealed; nothing was certified or installed.
    Refused(String),
}

#[derive(Serialize, Deserialize)]
struct Intent {
    name: String,
    hour: String,
    from: u64,
    to: u64,
}

impl Copy {
    pub(super) fn is_complete(&self) -> bool {
        match &self.health {
            Health::Good => self.summary.done.is_some() && self.early.is_empty() && self.role != Role::Late,
            Health::Foreign { ids, done, barred, .. } => {
                let n = done.unwrap_or(0);
                !barred && n > 0 && ids.len() as u64 == n && (1..=n).all(|i| ids.contains(&i))
            }
            Health::Damaged(_) => false,
        }
    }

    fn high(&self) -> u64 {
        match &self.health {
            Health::Foreign { ids, .. } => ids.len() as u64,
            _ => self.summary.high,
        }
    }
}

impl Hours {
    /// Hands out a verification if the copy is complete and everything of it is durable.
    pub(super) fn note_complete(&mut self, key: &HourKey, generation: u64) {
        let Some(state) = self.states.get_mut(key) else { return };
        let closed = state.closed.as_ref().is_some_and(|c| c.generation >= generation);
        let Some(copy) = state.copies.get_mut(&generation) else { return };
        let high = copy.high();
        if closed && copy.role == Role::InPlace && state.closed.as_ref().is_some_and(|c| c.packs == high) {
            return;
        }
        if copy.lines.is_empty() && copy.is_complete() && copy.verified_to < high {
            copy.verified_to = high;
            copy.verifying = true;
            self.verify.push(VerifyJob { key: key.clone(), generation, high, place: copy.place.clone() });
        }
    }

    /// Copies that wait for being read again.
    pub fn take_jobs(&mut self) -> Vec<VerifyJob> {
        std::mem::take(&mut self.verify)
    }

    /// The result is of no use: packs came meanwhile, or the disk failed. The copy is verified again after the next
    /// checkpoint.
    pub fn abandon(&mut self, job: &VerifyJob) {
        if let Some(copy) = self.states.get_mut(&job.key).and_then(|s| s.copies.get_mut(&job.generation)) {
            copy.verifying = false;
            copy.verified_to = 0;
            self.dirty.insert((job.key.clone(), job.generation));
        }
    }

    /// Files the result. Until it returns, the gate must take no pack of this hour. After an error it is verified again.
    pub fn finish(&mut self, done: VerifyDone, now_secs: i64) -> disk::Result<Filed> {
        let VerifyDone { job, result } = done;
        let filed = result.and_then(|r| self.file(&job, r.as_ref(), now_secs));
        if filed.is_err() {
            self.abandon(&job);
            // At once where room or descriptors were short for a moment; a file that cannot be read has time.
            self.verify_again = filed.as_ref().is_err_and(|e| e.no_space() || e.too_many_files());
        }
        filed
    }

    fn file(&mut self, job: &VerifyJob, result: Option<&Reread>, now_secs: i64) -> disk::Result<Filed> {
        let key = &job.key;
        if self.continue_install(key)? {
            return Ok(Filed::Installed);
        }
        let conflict = self.store.has_conflict(key, job.generation)?;
        if let Some(copy) = self.states.get_mut(key).and_then(|s| s.copies.get_mut(&job.generation)) {
            copy.verifying = false;
        }
        let Some(state) = self.states.get(key) else { return Ok(Filed::Void) };
        let Some(copy) = state.copies.get(&job.generation) else { return Ok(Filed::Void) };
        let changed = copy.high() != job.high
            || copy.place != job.place
            || !copy.lines.is_empty()
            || !copy.is_complete();
        if changed && !planted::is(Bug::CertifiedMeanwhile) {
            return Ok(Filed::Void);
        }
        let lost = self.still_lost(key, job.generation)?;
        if !lost.is_empty() {
            let ids: Vec<String> = lost.iter().map(u64::to_string).collect();
            return Ok(Filed::Refused(format!(
                "{key}: not certified: packs {} were acknowledged and lost here; send them again from their host",
                ids.join(",")
            )));
        }
        let Some(state) = self.states.get(key) else { return Ok(Filed::Void) };
        let Some(copy) = state.copies.get(&job.generation) else { return Ok(Filed::Void) };
        if conflict {
            return Ok(Filed::Refused(format!(
                "{key}: packs in aside/conflict contradict stored ones; send the hour again from its source"
            )));
        }
        let role = copy.role;
        let (cert, refused) = match result {
            None => (foreign_certificate(key, copy, now_secs), None),
            Some(r) => self.certificate(key, copy, r, now_secs)?,
        };
        if role == Role::Building {
            if let Some(why) = refused.filter(|_| !planted::is(Bug::CopyUnverified)) {
                return Ok(Filed::Refused(why));
            }
            let old_verified = state.closed.as_ref().is_some_and(|c| c.verified);
            if old_verified && !cert.verified {
                return Ok(Filed::Refused(format!(
                    "{key}: copy {} is complete but {}; the verified copy stays in place",
                    job.generation,
                    if cert.state.is_empty() { "unverified" } else { &cert.state }
                )));
            }
            if state.in_place.is_some_and(|g| g > job.generation) && !planted::is(Bug::OldCopyInstalled) {
                return Ok(Filed::Void);
            }
            // A log file only grows: a later copy that is shorter was read when less of it was there, by a follower whose
            // clock stood elsewhere, or somebody has cut the file.
            let certified = state.certified_bytes();
            if cert.bytes < certified && !planted::is(Bug::OldCopyInstalled) {
                return Ok(Filed::Refused(format!(
                    "{key}: copy {} is whole with {} bytes, fewer than the {certified} that are certified, and is not \
                     installed; send the hour again if its source has more; if this is the right one it is {}",
                    job.generation,
                    cert.bytes,
                    job.place.data.display()
                )));
            }
            // The copy in place may be about to prove more than this one does: it is heard first.
            let first = state.in_place.filter(|_| !cert.verified && state.closed.is_none());
            let first = first.filter(|g| state.copies.get(g).is_some_and(|c| c.is_complete()));
            if let Some(g) = first
                && !self.store.has_conflict(key, g)?
            {
                self.abandon(job);
                return Ok(Filed::Void);
            }
            let stored = state.in_place.and_then(|g| state.copies.get(&g)).map_or(0, |c| c.summary.bytes);
            if !cert.is_tag() && cert.bytes < stored {
                return Ok(Filed::Refused(format!(
                    "{key}: copy {} is at its end and {}: it has {} bytes, and {stored} are stored; both stay where they \
                     are; send the hour again if its source has all of it",
                    job.generation, cert.state, cert.bytes
                )));
            }
            self.install(key, job.generation)?;
            return Ok(Filed::Installed);
        }
        if let Err(e) = self.store.certify(&cert) {
            self.abandon(job);
            return Err(e);
        }
        let tag = cert.is_tag();
        if let Some(state) = self.states.get_mut(key) {
            state.closed = Some(cert.clone());
            if tag && !planted::is(Bug::OldCopyInstalled) {
                // Lower copies are history now, those under construction too.
                let kept = state.copies.split_off(&job.generation);
                let gone = std::mem::replace(&mut state.copies, kept);
                self.done_now.extend(gone.into_values().flat_map(|c| c.let_go()));
            }
        }
        if tag {
            if !planted::is(Bug::OldCopyInstalled) {
                self.drop_lower(key, job.generation)?;
            }
            // A gap that was given out is filled now.
            self.disk().remove(&self.store.path("aside").join(format!("{key}.gaps")))?;
        }
        match refused {
            Some(why) => Ok(Filed::Refused(why)),
            None => Ok(Filed::Certified(Box::new(cert))),
        }
    }

    fn certificate(
        &self,
        key: &HourKey,
        copy: &Copy,
        r: &Reread,
        now_secs: i64,
    ) -> disk::Result<(Certificate, Option<String>)> {
        let s = &r.summary;
        let totals = s.done.as_ref().and_then(|d| d.totals);
        let mut notes: Vec<String> = s.notes.iter().cloned().collect();
        let lost = s.notes.contains("loss");
        let mut refused = None;
        let mismatch = match (&r.fault, totals) {
            (Some(why), _) => Some(why.to_string()),
            _ if s.high != copy.summary.high && !planted::is(Bug::CertifiedMeanwhile) => {
                Some("the proof changed while it was read".into())
            }
            // Where the source lost bytes, the sender's totals still count them: the reason is known.
            (None, Some(t)) if !lost && (t.lines, t.bytes, t.sha256) != (s.lines, s.bytes, s.digest()) => {
                Some(format!(
                    "stored are {} lines, {} bytes, digest {}; the sender told {} lines, {} bytes, digest {}",
                    s.lines,
                    s.bytes,
                    hex(&s.digest()),
                    t.lines,
                    t.bytes,
                    hex(&t.sha256)
                ))
            }
            _ => None,
        };
        if let Some(why) = mismatch {
            refused = Some(format!(
                "{key}: not certified: {why}; send the hour again from its source, as a new copy"
            ));
            notes = vec!["mismatch".into()];
        } else if s.sealed && totals.is_none() {
            notes.push("no totals".into());
        } else if s.reopened_by_original {
            notes.push("packs after the last".into());
        }
        let state = notes.join(",");
        let replaced = self.replaced(key)?;
        let done = s.done.as_ref();
        let cert = Certificate {
            format: 1,
            name: key.name.clone(),
            hour: key.hour,
            generation: s.generation,
            revision: s.dones.max(1).saturating_add(replaced),
            packs: s.high,
            lines: s.lines,
            bytes: s.bytes,
            digest: if s.sealed { hex(&s.digest()) } else { String::new() },
            sha256: r.sha256.clone(),
            verified: state.is_empty() && s.sealed && totals.is_some(),
            authentic: s.high > 0 && s.authentic,
            empty: s.bytes == 0,
            state,
            loss: s.loss.join(","),
            day_hours: done.map_or(0, |d| d.day_hours),
            cut: if done.is_some_and(|d| d.clock) { "clock".into() } else { String::new() },
            certified: now_secs,
        };
        Ok((cert, refused))
    }

    /// How many copies of this hour were replaced.
    fn replaced(&self, key: &HourKey) -> disk::Result<u64> {
        let prefix = format!("{key}.");
        let names = self.disk().list(&self.store.path("aside"))?;
        Ok(names
            .iter()
            .filter(|e| e.is_dir && e.name.starts_with(&prefix) && e.name.contains(".replaced"))
            .count() as u64)
    }

    /// Copies below an installed and certified one are of no use: nobody can want them back.
    fn drop_lower(&mut self, key: &HourKey, generation: u64) -> disk::Result<()> {
        for lower in self.store.building_list(key)? {
            if lower < generation {
                self.remove_building(&self.store.building_dir(key, lower))?;
            }
        }
        for shelf in [&mut self.early, &mut self.missing] {
            for (g, _, file) in shelf.packs_of(key)? {
                if g < generation {
                    shelf.remove(&key.name, &file)?;
                }
            }
        }
        Ok(())
    }

    fn remove_building(&self, dir: &Path) -> disk::Result<()> {
        for e in self.disk().list(dir)? {
            self.disk().remove(&dir.join(e.name))?;
        }
        self.disk().remove_dir(dir)
    }

    fn intent_path(&self, key: &HourKey) -> PathBuf {
        self.store.path("aside").join(format!("{key}.install"))
    }

    fn install(&mut self, key: &HourKey, to: u64) -> disk::Result<()> {
        let state = self.states.get(key);
        let closed = state.and_then(|s| s.closed.as_ref()).map(|c| c.generation);
        let from = state.and_then(|s| s.in_place).or(closed).unwrap_or(0);
        let intent = Intent { name: key.name.clone(), hour: key.hour.to_string(), from, to };
        self.disk().replace(&self.intent_path(key), &record::to_json(&intent), 0o640)?;
        if let Some(state) = self.states.get_mut(key) {
            state.installing = Some((from, to));
        }
        self.continue_install(key).map(|_| ())
    }

    /// Goes on with an installation that has begun; true = it is finished now. Nothing is stored meanwhile: the files of
    /// two copies are between their places.
    pub(super) fn continue_install(&mut self, key: &HourKey) -> disk::Result<bool> {
        let Some((from, to)) = self.states.get(key).and_then(|s| s.installing) else { return Ok(false) };
        self.finish_install(key, from, to)?;
        // From now on it is an hour like any other. Further copies under construction stay as they are: not all of
        // what they hold is on disk yet.
        let place = self.store.place(key);
        if let Some(state) = self.states.get_mut(key) {
            let old = state.in_place.replace(to).and_then(|g| state.copies.remove(&g));
            let late = state.copies.extract_if(.., |_, c| c.role == Role::Late).map(|(_, c)| c);
            self.done_now.extend(old.into_iter().chain(late).flat_map(|c| c.let_go()));
            (state.closed, state.installing) = (None, None);
            if let Some(copy) = state.copies.get_mut(&to) {
                (copy.place, copy.role, copy.files, copy.verified_to) = (place, Role::InPlace, None, 0);
            }
        }
        self.note_complete(key, to);
        Ok(true)
    }

    /// Steps 2 to 5. Each may have been done before.
    fn finish_install(&mut self, key: &HourKey, from: u64, to: u64) -> disk::Result<()> {
        let disk = self.disk().clone();
        self.store.revoke(key)?;
        let place = self.store.place(key);
        let building = self.store.building(key, to);
        let old = self.store.path("aside").join(format!("{key}.{from}.replaced"));
        disk.create_dir_all(&old, self.store.dir_mode)?;
        let compressed = packed::path(&self.store, key);
        if disk.stat(&compressed)?.is_some() {
            self.move_file(&compressed, &old.join("data.gz"))?;
        }
        for (new, current, name) in
            [(&building.data, &place.data, "data"), (&building.headers, &place.headers, "headers")]
        {
            // While the new file is where it was built, what stands in its place is the old one.
            if disk.stat(new)?.is_some() {
                if disk.stat(current)?.is_some()
                    && !self.same_file(new, current)?
                    && !planted::is(Bug::ReplacedDeleted)
                {
                    self.move_file(current, &old.join(name))?;
                }
                self.move_file(new, current)?;
            }
        }
        self.remove_if_there(&self.store.building_dir(key, to))?;
        disk.sync_dir(&self.store.path("aside"))?;
        disk.remove(&self.intent_path(key))?;
        disk.sync_dir(&self.store.path("aside"))
    }

    fn remove_if_there(&self, dir: &Path) -> disk::Result<()> {
        if self.disk().stat(dir)?.is_some() { self.remove_building(dir) } else { Ok(()) }
    }

    fn same_file(&self, a: &Path, b: &Path) -> disk::Result<bool> {
        Ok(match (self.disk().stat(a)?, self.disk().stat(b)?) {
            (Some(a), Some(b)) => (a.dev, a.ino) == (b.dev, b.ino),
            _ => false,
        })
    }

    /// A rename that is durable in both directories. After a crash both names may stand for the same file; a rename
    /// does nothing then, so the old name is removed by itself.
    fn move_file(&self, from: &Path, to: &Path) -> disk::Result<()> {
        let disk = self.disk();
        if self.same_file(from, to)? {
            disk.remove(from)?;
        } else {
            disk.rename(from, to)?;
        }
        for dir in [to.parent(), from.parent()].into_iter().flatten() {
            disk.sync_dir(dir)?;
        }
        Ok(())
    }

    /// Finishes the installation that a crash cut short.
    pub(super) fn resume_install(&mut self, key: &HourKey) -> disk::Result<()> {
        let path = self.intent_path(key);
        let Some(bytes) = self.disk().read_opt(&path, 4096)? else { return Ok(()) };
        match record::from_json::<Intent>(&bytes) {
            Ok(i) if i.name == key.name && i.hour == key.hour.to_string() => {
                self.finish_install(key, i.from, i.to)?;
                self.alarms.push(format!(
                    "{key}: installation of copy {} was finished after a crash; nothing needs to be done",
                    i.to
                ));
            }
            _ => self.alarms.push(format!(
                "{}: damaged; the copy below aside/ is verified and installed from the beginning",
                path.display()
            )),
        }
        Ok(())
    }
}

/// What can be said of an hour that the original began: how many lines its headers tell.
fn foreign_certificate(key: &HourKey, copy: &Copy, now_secs: i64) -> Certificate {
    let lines = match &copy.health {
        Health::Foreign { lines, .. } => *lines,
        _ => 0,
    };
    Certificate {
        format: 1,
        name: key.name.clone(),
        hour: key.hour,
        generation: 0,
        revision: 1,
        packs: copy.high(),
        lines,
        bytes: copy.data_end,
        digest: String::new(),
        sha256: String::new(),
        verified: false,
        authentic: false,
        empty: copy.data_end == 0,
        state: String::new(),
        loss: String::new(),
        day_hours: 0,
        cut: String::new(),
        certified: now_secs,
    }
}
