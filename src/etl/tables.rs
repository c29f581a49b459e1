//! The tables of one directory, hour by hour, all or nothing (P1, P5).
//!
//! Files below `save_dir`; NAME is what an hour is called, `<host>_<hour>`:
//!
//! - `etl/<kind>/<partitions>/NAME.tsv`: the rows. Complete if, and only if, `etl_done/NAME` is there.
//! - `etl_done/NAME`: what was done ([`Marker`]). Gone while the hour's rows are being replaced.
//! - `etl_fail/NAME`: the hour could not be done, and why. Rows of an earlier run stand as they were.
//! - `etl_reject/NAME`: lines that could not be read: number, reason, line.
//! - `etl_aside/NAME/`: files that are being written; with `plan` in it they are whole and are being put in place.
//!
//! An hour's files are written and synced aside; then `plan` says which of them go where and which older ones go away, and
//! from its rename on the hour is carried through, after a crash by `Tables::recover`. Every step may be done twice. Whether
//! all of them can be done is seen before the first one takes away what was there. Without a plan what lies aside is half an
//! hour and is thrown away. So there is always one copy of each row or, until the source is read again, none.
//!
//! An hour that cannot be put in place stands alone: the others go on, and so does the store.

use super::fields::Source;
use super::marks::{DONE, FAIL, MARKER_MAX};
pub use super::marks::{Listed, Marker, Origin};
use super::rows::{Counts, LINE_MAX, Made, Rows, Style, file_of};
use super::rules::Rules;
use crate::config::EtlConfig;
use crate::disk::{self, Disk, Lock};
use crate::pack::hex;
use crate::record;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes that are read at once.
const BLOCK: usize = 256 << 10;

/// Why nothing can be moved to a directory.
const ELSEWHERE: &str = "on another file system than etl_aside, from where whole files are moved there; put all etl* \
                         directories of save_dir on one";

#[derive(Serialize, Deserialize)]
struct Plan {
    marker: Marker,
    /// Number of each of the marker's files.
    numbers: Vec<usize>,
    /// Files of an earlier run.
    stale: Vec<String>,
    rejects: bool,
}

/// What came of an hour.
#[derive(Debug)]
pub enum Outcome {
    /// Its rows are in place.
    Done(Marker),
    /// It has too many rejected lines.
    Failed(Marker),
    /// Its bytes are not those of the certificate: it is being changed, and comes again.
    Changed,
    /// The role stops.
    Stopped,
}

/// What is to be read.
pub struct Input<'i> {
    /// What the hour is called.
    pub name: &'i str,
    /// Whose it is.
    pub source: Source,
    /// Its lines.
    pub lines: &'i mut dyn Read,
    /// For errors.
    pub path: &'i Path,
    /// What its certificate says, if there is one; `sha256` empty = nobody knows.
    pub origin: Origin,
    /// Other bytes give no rows. Else they do, and are not called those of the certificate.
    pub exact: bool,
}

/// See the module's header.
pub struct Tables {
    disk: Disk,
    save_dir: PathBuf,
    style: Style,
    dir_mode: u32,
    max_reject: u64,
    limits: String,
    /// Folders that become empty are removed, others are made: not both at once.
    placing: Mutex<()>,
    _lock: Lock,
}

impl Tables {
    /// Opens the tables below a `save_dir` and finishes what a crash has left; what that was, a sentence each.
    pub fn open(disk: &Disk, conf: &EtlConfig, report: &mut dyn FnMut(String)) -> Result<Self, String> {
        let (save_dir, dir_mode) = (conf.store.save_dir.clone(), conf.store.dir_mode);
        let say = |e: disk::Error| e.to_string();
        for dir in ["etl", DONE, FAIL, "etl_reject", "etl_aside"] {
            disk.create_dir_all(&save_dir.join(dir), dir_mode).map_err(say)?;
        }
        // Not in etl_aside, which somebody may remove.
        let lock = disk.lock(&save_dir.join(".etl.lock")).map_err(say)?;
        let Some(lock) = lock else {
            return Err(format!(
                "{}: another logd writes tables there (the role etlcollector, or logd etl); wait for it or stop it",
                save_dir.display()
            ));
        };
        let style = Style {
            hive: conf.hive,
            gzip: conf.gzip,
            max_parts: conf.max_partitions,
            mode: conf.store.file_mode,
        };
        let me = Self {
            disk: disk.clone(),
            save_dir,
            style,
            dir_mode,
            max_reject: conf.max_reject,
            limits: format!("{} {}", conf.max_reject, conf.max_partitions),
            placing: Mutex::new(()),
            _lock: lock,
        };
        me.recover(report).map_err(say)?;
        Ok(me)
    }

    fn recover(&self, report: &mut dyn FnMut(String)) -> disk::Result<()> {
        let aside = self.save_dir.join("etl_aside");
        let home = self.disk.stat(&aside)?.map(|s| s.dev);
        for dir in ["etl", "etl_reject"].map(|dir| self.save_dir.join(dir)) {
            if self.disk.stat(&dir)?.map(|s| s.dev) != home {
                report(format!(
                    "{}: {ELSEWHERE}; until then no hour gets rows, and those that are there stay",
                    dir.display()
                ));
            }
        }
        for entry in self.disk.list(&aside)?.iter().filter(|e| e.is_dir) {
            match self.settle(&entry.name, false) {
                Ok(text) => text.into_iter().for_each(&mut *report),
                Err(e) if e.fatal() => return Err(e),
                Err(e) => report(format!(
                    "{}: what a stop left of its rows is neither put in place nor removed: {e}; it is tried again at \
                     the next start, and when its rows are made; the others go on",
                    entry.name
                )),
            }
        }
        Ok(())
    }

    /// Carries through what a crash or an error has left of an hour, or throws it away; a sentence about it, if it was more
    /// than half an hour. `anew`: the lines are at hand, so what cannot be put in place is no loss.
    fn settle(&self, name: &str, anew: bool) -> disk::Result<Option<String>> {
        let dir = self.aside(name);
        if let Some(foreign) = self.foreign(&dir)? {
            let why = io::Error::other("it is none of logd's files, and is left alone; move it away");
            return Err(disk::Error::new("use", &foreign, why));
        }
        let plan = match self.disk.read_opt(&dir.join("plan"), MARKER_MAX) {
            Ok(None) => {
                self.clear(&dir)?;
                return Ok(None);
            }
            Ok(Some(bytes)) => record::from_json::<Plan>(&bytes).ok().filter(|p| p.marker.name == name),
            Err(e) if e.is_of_one_path() => None,
            Err(e) => return Err(e),
        };
        let mut whole = false;
        let text = match plan.map(|plan| {
            let one = self.one_at_a_time();
            self.prepare(&plan).and_then(|()| self.place(&plan, &one))
        }) {
            Some(Ok(true)) => return Ok(Some(format!("{name}: its rows were being put in place; done now"))),
            Some(Ok(false)) => format!("{name}: files of its rows are gone; they are made again"),
            Some(Err(e)) if anew && e.is_of_one_path() => {
                // The marker goes before anything else does.
                whole = self.disk.stat(&self.save_dir.join(DONE).join(name))?.is_some();
                format!("{name}: its rows could not be put in place: {e}; they are made again")
            }
            Some(Err(e)) => return Err(e),
            None => format!("{name}: {}: damaged; its rows are made again", dir.join("plan").display()),
        };
        if !whole {
            // Some may be in place, of this run or of the one before.
            self.remove_rows(name)?;
        }
        self.clear(&dir)?;
        Ok(Some(text))
    }

    /// What lies in a directory aside and was not put there by us.
    fn foreign(&self, dir: &Path) -> disk::Result<Option<PathBuf>> {
        if self.disk.stat(dir)?.is_none() {
            return Ok(None);
        }
        let ours = |name: &str| {
            matches!(name, "plan" | ".plan.tmp" | "reject") || name.bytes().all(|b| b.is_ascii_digit())
        };
        let names = self.disk.list(dir)?;
        Ok(names.iter().find(|e| e.is_dir || !ours(&e.name)).map(|e| dir.join(&e.name)))
    }

    /// What is known of an hour that was done.
    pub fn done(&self, name: &str) -> disk::Result<Option<Marker>> {
        self.marker(DONE, name)
    }

    /// What is known of an hour that failed.
    pub fn failed(&self, name: &str) -> disk::Result<Option<Marker>> {
        self.marker(FAIL, name)
    }

    fn marker(&self, dir: &str, name: &str) -> disk::Result<Option<Marker>> {
        let bytes = self.disk.read_opt(&self.save_dir.join(dir).join(name), MARKER_MAX)?;
        Ok(bytes.and_then(|b| record::from_json(&b).ok()))
    }

    fn aside(&self, name: &str) -> PathBuf {
        self.save_dir.join("etl_aside").join(name)
    }

    /// Makes the rows of an hour and puts them in the place of those it had. No two threads do the same hour at once. `stop`
    /// is asked after each block, and told how many bytes were read.
    pub fn run(
        &self,
        input: &mut Input,
        rules: &Rules,
        now_secs: i64,
        stop: &mut dyn FnMut(u64) -> bool,
    ) -> disk::Result<Outcome> {
        let dir = self.aside(input.name);
        // Left by a run that met an error.
        self.settle(input.name, true)?;
        self.disk.create_dir_all(&dir, self.dir_mode)?;
        let result = self.make(input, rules, now_secs, &dir, stop);
        if !matches!(result, Ok(Outcome::Done(_))) && !result.as_ref().is_err_and(disk::Error::fatal) {
            // With a plan it is carried through at the next start; without one it is half an hour.
            if self.disk.stat(&dir.join("plan"))?.is_none() {
                self.clear(&dir)?;
            }
        }
        result
    }

    fn make(
        &self,
        input: &mut Input,
        rules: &Rules,
        now_secs: i64,
        dir: &Path,
        stop: &mut dyn FnMut(u64) -> bool,
    ) -> disk::Result<Outcome> {
        let mut rows = Rows::new(&self.disk, dir, rules, &input.source, self.style);
        let (mut sha, mut bytes, mut buf, mut filled) = (Sha256::new(), 0_u64, vec![0; BLOCK], 0_usize);
        let known = input.exact && !input.origin.sha256.is_empty();
        let limit = if known { input.origin.bytes } else { u64::MAX };
        let mut lines = (&mut *input.lines).take(limit);
        loop {
            if filled == buf.len() {
                // One line; `take` makes an end of it before it is much longer than LINE_MAX.
                buf.resize(buf.len().saturating_mul(2).min(LINE_MAX.saturating_add(BLOCK)), 0);
            }
            let free = buf.get_mut(filled..).unwrap_or_default();
            let n = loop {
                match lines.read(free) {
                    Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                    other => {
                        break other.map_err(|e| {
                            // What the disk said already names its path.
                            e.downcast().unwrap_or_else(|e| disk::Error::new("read", input.path, e))
                        })?;
                    }
                }
            };
            sha.update(free.get(..n).unwrap_or_default());
            bytes = bytes.saturating_add(n as u64);
            filled = filled.saturating_add(n);
            let taken = rows.take(buf.get(..filled).unwrap_or_default(), n == 0)?;
            buf.copy_within(taken..filled, 0);
            filled = filled.saturating_sub(taken);
            if n == 0 {
                break;
            }
            if stop(bytes) {
                return Ok(Outcome::Stopped);
            }
        }
        let sha256 = hex(&sha.finalize());
        if known && (bytes != input.origin.bytes || sha256 != input.origin.sha256) {
            return Ok(Outcome::Changed);
        }
        let (made, rejects, counts) = rows.finish()?;
        self.disk.sync_dir(dir)?;
        let same = (bytes, &sha256) == (input.origin.bytes, &input.origin.sha256);
        let of = if input.exact || same { input.origin.clone() } else { Origin::default() };
        let origin = Origin { bytes, sha256, ..of };
        let numbers = made.iter().map(|m| m.number).collect();
        let mut marker = self.describe(input.name, origin, rules, made, &counts, now_secs);
        let rejected = counts.rejects();
        if rejected.saturating_mul(100) > self.max_reject.saturating_mul(counts.lines) {
            marker.failed = format!(
                "{rejected} of {} lines were rejected, more than max_reject = {} percent",
                counts.lines, self.max_reject
            );
            marker.files = Vec::new();
            self.fail(&marker, dir)?;
            return Ok(Outcome::Failed(marker));
        }
        let plan = Plan { numbers, stale: self.stale(&marker)?, rejects, marker };
        let one = self.one_at_a_time();
        self.prepare(&plan)?;
        self.disk.replace(&dir.join("plan"), &record::to_json(&plan), self.style.mode)?;
        if !self.place(&plan, &one)? {
            let why = io::Error::other("files that were just written are gone");
            return Err(disk::Error::new("rename", dir, why));
        }
        Ok(Outcome::Done(plan.marker))
    }

    /// What decides whether an hour fails: two equal ones make the same of the same lines.
    pub fn digest(&self, rules: &Rules) -> String {
        hex(&Sha256::digest(format!("{} {}", rules.digest, self.limits)))
    }

    /// Notes that an hour cannot be done for a reason that may pass.
    pub fn cannot(
        &self,
        name: &str,
        origin: Origin,
        rules: &Rules,
        why: &str,
        now_secs: i64,
    ) -> disk::Result<()> {
        let mut marker = self.describe(name, origin, rules, Vec::new(), &Counts::default(), now_secs);
        why.clone_into(&mut marker.failed);
        marker.again = true;
        let path = self.save_dir.join(FAIL).join(name);
        self.disk.replace(&path, &record::to_json(&marker), self.style.mode)
    }

    fn describe(
        &self,
        name: &str,
        source: Origin,
        rules: &Rules,
        made: Vec<Made>,
        counts: &Counts,
        at: i64,
    ) -> Marker {
        let tables = Path::new("etl");
        let files: Vec<Listed> = made
            .into_iter()
            .map(|m| Listed {
                path: file_of(tables, &m.folder, name, self.style.gzip).display().to_string(),
                rows: m.rows,
                bytes: m.bytes,
                crc32: format!("{:08x}", m.crc32),
            })
            .collect();
        Marker {
            format: 1,
            name: name.to_owned(),
            source,
            rules: self.digest(rules),
            lines: counts.lines,
            rows: counts.rows.clone(),
            filtered: counts.filtered.clone(),
            rejected: counts.rejected.clone(),
            files,
            failed: String::new(),
            again: false,
            at,
        }
    }

    /// Files of an earlier run that are not among the new ones.
    fn stale(&self, marker: &Marker) -> disk::Result<Vec<String>> {
        let path = self.save_dir.join(DONE).join(&marker.name);
        let before: Vec<String> = match self.done(&marker.name)? {
            Some(before) => before.files.into_iter().map(|f| f.path).collect(),
            None if self.disk.stat(&path)?.is_some() => {
                // Damaged: nobody knows where its rows are but the tree itself.
                let mut found = Vec::new();
                self.find_rows(&self.save_dir.join("etl"), &marker.name, &mut found)?;
                let below = |p: &PathBuf| Some(p.strip_prefix(&self.save_dir).ok()?.to_str()?.to_owned());
                found.iter().filter_map(below).collect()
            }
            None => Vec::new(),
        };
        let new: HashSet<&str> = marker.files.iter().map(|f| f.path.as_str()).collect();
        Ok(before.into_iter().filter(|p| !new.contains(p.as_str())).collect())
    }

    fn one_at_a_time(&self) -> MutexGuard<'_, ()> {
        self.placing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the folders of a plan and looks whether it can be carried through. An error has changed nothing.
    fn prepare(&self, plan: &Plan) -> disk::Result<()> {
        let files = || plan.marker.files.iter().filter(|f| is_inside(&f.path));
        let all = || files().map(|f| self.save_dir.join(&f.path));
        let dev = |path: &Path| self.disk.stat(path).map(|s| s.map(|s| s.dev));
        let home = dev(&self.save_dir.join("etl_aside"))?;
        let look = |path: &Path| -> disk::Result<()> {
            let folder = path.parent().unwrap_or(path);
            self.disk.create_dir_all(folder, self.dir_mode)?;
            if dev(folder)? != home {
                return Err(disk::Error::new("move rows", folder, io::Error::other(ELSEWHERE)));
            }
            if self.disk.stat(path)?.is_some_and(|s| s.is_dir) {
                let why = io::Error::other("a directory in the place of a file of rows; move it away");
                return Err(disk::Error::new("move rows", path, why));
            }
            Ok(())
        };
        let looked = all().try_for_each(|path| look(&path)).and_then(|()| {
            let rejects = self.save_dir.join("etl_reject");
            if plan.rejects && dev(&rejects)? != home {
                return Err(disk::Error::new("move lines", &rejects, io::Error::other(ELSEWHERE)));
            }
            Ok(())
        });
        if looked.as_ref().is_err_and(|e| !e.fatal()) {
            // What was made for nothing; the reason is worth more than what becomes of that.
            all().try_for_each(|path| self.remove_folders(&path)).unwrap_or_default();
        }
        looked
    }

    /// Carries a prepared plan through; false if a file of it is neither here nor there.
    fn place(&self, plan: &Plan, _one: &MutexGuard<()>) -> disk::Result<bool> {
        let (disk, marker) = (&self.disk, &plan.marker);
        let dir = self.aside(&marker.name);
        let done = self.save_dir.join(DONE);
        disk.remove(&done.join(&marker.name))?;
        disk.sync_dir(&done)?;
        for stale in plan.stale.iter().filter(|p| is_inside(p)) {
            self.remove_file(&self.save_dir.join(stale))?;
        }
        for (file, number) in marker.files.iter().zip(&plan.numbers).filter(|(f, _)| is_inside(&f.path)) {
            let (from, to) = (dir.join(number.to_string()), self.save_dir.join(&file.path));
            if disk.stat(&from)?.is_none() {
                if disk.stat(&to)?.is_none_or(|s| s.len != file.bytes) {
                    return Ok(false);
                }
                continue;
            }
            let Some(folder) = to.parent() else { continue };
            // The last file of an earlier run has gone from it, and it with that.
            disk.create_dir_all(folder, self.dir_mode)?;
            disk.rename(&from, &to)?;
            disk.sync_dir(folder)?;
        }
        self.place_rejects(&marker.name, plan.rejects, &dir)?;
        disk.replace(&done.join(&marker.name), &record::to_json(marker), self.style.mode)?;
        let fail = self.save_dir.join(FAIL);
        disk.remove(&fail.join(&marker.name))?;
        disk.sync_dir(&fail)?;
        self.clear(&dir)?;
        Ok(true)
    }

    fn place_rejects(&self, name: &str, rejects: bool, dir: &Path) -> disk::Result<()> {
        let folder = self.save_dir.join("etl_reject");
        let (from, to) = (dir.join("reject"), folder.join(name));
        if !rejects {
            self.disk.remove(&to)?;
        } else if self.disk.stat(&from)?.is_some() {
            self.disk.rename(&from, &to)?;
        }
        self.disk.sync_dir(&folder)
    }

    fn fail(&self, marker: &Marker, dir: &Path) -> disk::Result<()> {
        self.place_rejects(&marker.name, true, dir)?;
        let path = self.save_dir.join(FAIL).join(&marker.name);
        self.disk.replace(&path, &record::to_json(marker), self.style.mode)
    }

    /// Removes a directory aside; its plan last but one, so that what is left of it is carried through or thrown away.
    fn clear(&self, dir: &Path) -> disk::Result<()> {
        if self.disk.stat(dir)?.is_none() {
            return Ok(());
        }
        let names = self.disk.list(dir)?;
        self.disk.remove(&dir.join("plan"))?;
        self.disk.sync_dir(dir)?;
        for entry in names.iter().filter(|e| !e.is_dir) {
            self.disk.remove(&dir.join(&entry.name))?;
        }
        self.disk.remove_dir(dir)
    }

    /// Removes a file of rows, and the folders that become empty.
    fn remove_file(&self, path: &Path) -> disk::Result<()> {
        match self.disk.remove(path) {
            // Somebody has put a file in the place of a folder: there are no rows.
            Err(e) if e.source.kind() == io::ErrorKind::NotADirectory => {}
            other => other?,
        }
        self.remove_folders(path)
    }

    fn remove_folders(&self, path: &Path) -> disk::Result<()> {
        let tables = self.save_dir.join("etl");
        for folder in path.ancestors().skip(1).take_while(|f| *f != tables) {
            if self.disk.stat(folder).is_ok_and(|s| s.is_some_and(|s| s.is_dir)) {
                self.disk.sync_dir(folder)?;
                // Others may still be in it.
                match self.disk.remove_dir(folder) {
                    Err(e) if e.fatal() => return Err(e),
                    Err(_) => break,
                    Ok(()) => {}
                }
            }
        }
        Ok(())
    }

    fn remove_rows(&self, name: &str) -> disk::Result<()> {
        let mut found = Vec::new();
        self.find_rows(&self.save_dir.join("etl"), name, &mut found)?;
        let done = self.save_dir.join(DONE);
        self.disk.remove(&done.join(name))?;
        self.disk.sync_dir(&done)?;
        found.iter().try_for_each(|path| self.remove_file(path))
    }

    fn find_rows(&self, dir: &Path, name: &str, found: &mut Vec<PathBuf>) -> disk::Result<()> {
        let names = [format!("{name}.tsv"), format!("{name}.tsv.gz")];
        let entries = match self.disk.list(dir) {
            // Another hour's folder, which became empty.
            Err(e) if e.not_found() => return Ok(()),
            other => other?,
        };
        for entry in entries {
            let path = dir.join(&entry.name);
            if std::fs::symlink_metadata(&path).is_ok_and(|m| m.is_symlink()) {
                // It may lead in a circle, or to what is no table.
                continue;
            }
            if entry.is_dir {
                self.find_rows(&path, name, found)?;
            } else if names.contains(&entry.name) {
                found.push(path);
            }
        }
        Ok(())
    }
}

/// A damaged or planted list must not reach what is no table.
fn is_inside(path: &str) -> bool {
    path.starts_with("etl/") && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}
