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
//! from its rename on the hour is carried through, after a crash by `Tables::recover`. Every step may be done twice. Without
//! a plan what lies aside is half an hour and is thrown away. So there is always one copy of each row or, until the source is
//! read again, none.

use super::fields::Source;
use super::rows::{Counts, LINE_MAX, Made, Rows, Style, file_of};
use super::rules::Rules;
use crate::config::EtlConfig;
use crate::disk::{self, Disk, Lock};
use crate::pack::hex;
use crate::record;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashSet};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Longest marker or plan, in bytes. A plan names as many folders as one hour may have ([`super::rows`]), and those that it
/// had before; with all else about each of their files they are less than half as much.
const MARKER_MAX: u64 = 32 << 20;
/// Bytes that are read at once.
const BLOCK: usize = 256 << 10;

/// Which bytes an hour's rows were made of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Copy of the hour, from its certificate.
    #[serde(rename = "gen")]
    pub generation: u64,
    /// How often it was certified.
    pub revision: u64,
    /// Bytes read.
    pub bytes: u64,
    /// SHA-256 of them, hex.
    pub sha256: String,
}

/// A file of rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Below `save_dir`.
    pub path: String,
    /// Rows.
    pub rows: u64,
    /// Bytes.
    pub bytes: u64,
    /// CRC-32 of the file, hex: enough to notice damage, and a sixth of the whole work cheaper than a SHA-256.
    pub crc32: String,
}

/// The content of `etl_done/NAME` and `etl_fail/NAME`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// 1.
    pub format: u32,
    /// NAME.
    pub name: String,
    /// What was read.
    pub source: Origin,
    /// SHA-256 of the rules, hex.
    pub rules: String,
    /// Lines read: as many as rows, filtered and rejected ones.
    pub lines: u64,
    /// Rows by kind.
    pub rows: BTreeMap<String, u64>,
    /// Lines that were not wanted: `host`, `address`, `kind`.
    pub filtered: BTreeMap<String, u64>,
    /// Lines in `etl_reject`, by reason.
    pub rejected: BTreeMap<String, u64>,
    /// The files.
    pub files: Vec<Listed>,
    /// Why it failed; empty if it did not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub failed: String,
    /// When (unix seconds).
    pub at: i64,
}

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
    /// What its certificate says; `sha256` empty = nobody knows.
    pub origin: Origin,
}

/// See the module's header.
pub struct Tables {
    disk: Disk,
    save_dir: PathBuf,
    style: Style,
    dir_mode: u32,
    max_reject: u64,
    /// Folders that become empty are removed, others are made: not both at once.
    placing: Mutex<()>,
    _lock: Lock,
}

impl Tables {
    /// Opens the tables below a `save_dir` and finishes what a crash has left; what that was, a sentence each.
    pub fn open(disk: &Disk, conf: &EtlConfig, report: &mut dyn FnMut(String)) -> Result<Self, String> {
        let (save_dir, dir_mode) = (conf.store.save_dir.clone(), conf.store.dir_mode);
        let say = |e: disk::Error| e.to_string();
        for dir in ["etl", "etl_done", "etl_fail", "etl_reject", "etl_aside"] {
            disk.create_dir_all(&save_dir.join(dir), dir_mode).map_err(say)?;
        }
        let lock = disk.lock(&save_dir.join("etl_aside/.lock")).map_err(say)?;
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
            placing: Mutex::new(()),
            _lock: lock,
        };
        me.recover(report).map_err(say)?;
        Ok(me)
    }

    fn recover(&self, report: &mut dyn FnMut(String)) -> disk::Result<()> {
        for entry in self.disk.list(&self.save_dir.join("etl_aside"))?.iter().filter(|e| e.is_dir) {
            if let Some(text) = self.settle(&entry.name)? {
                report(text);
            }
        }
        Ok(())
    }

    /// Carries through what a crash or an error has left of an hour, or throws it away; a sentence about it, if it was more
    /// than half an hour.
    fn settle(&self, name: &str) -> disk::Result<Option<String>> {
        let dir = self.aside(name);
        let Some(bytes) = self.disk.read_opt(&dir.join("plan"), MARKER_MAX)? else {
            self.clear(&dir)?;
            return Ok(None);
        };
        let text = match record::from_json::<Plan>(&bytes) {
            Ok(plan) if plan.marker.name == name => {
                if self.place(&plan)? {
                    return Ok(Some(format!("{name}: its rows were being put in place; done now")));
                }
                format!("{name}: files of its rows are gone; they are made again")
            }
            _ => format!("{name}: {}: damaged; its rows are made again", dir.join("plan").display()),
        };
        // Some may be in place, of this run or of the one before.
        self.remove_rows(name)?;
        self.clear(&dir)?;
        Ok(Some(text))
    }

    /// What is known of an hour that was done.
    pub fn done(&self, name: &str) -> disk::Result<Option<Marker>> {
        self.marker("etl_done", name)
    }

    /// What is known of an hour that failed.
    pub fn failed(&self, name: &str) -> disk::Result<Option<Marker>> {
        self.marker("etl_fail", name)
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
        self.settle(input.name)?;
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
        let known = !input.origin.sha256.is_empty();
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
                    other => break other.map_err(|e| disk::Error::new("read", input.path, e))?,
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
        let origin = Origin { bytes, sha256, ..input.origin.clone() };
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
        self.disk.replace(&dir.join("plan"), &record::to_json(&plan), self.style.mode)?;
        if !self.place(&plan)? {
            let why = std::io::Error::other("files that were just written are gone");
            return Err(disk::Error::new("rename", dir, why));
        }
        Ok(Outcome::Done(plan.marker))
    }

    /// Notes that an hour cannot be done.
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
        let path = self.save_dir.join("etl_fail").join(name);
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
            rules: rules.digest.clone(),
            lines: counts.lines,
            rows: counts.rows.clone(),
            filtered: counts.filtered.clone(),
            rejected: counts.rejected.clone(),
            files,
            failed: String::new(),
            at,
        }
    }

    /// Files of an earlier run that are not among the new ones.
    fn stale(&self, marker: &Marker) -> disk::Result<Vec<String>> {
        let path = self.save_dir.join("etl_done").join(&marker.name);
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

    /// Carries a plan through; false if a file of it is neither here nor there.
    fn place(&self, plan: &Plan) -> disk::Result<bool> {
        let _one = self.placing.lock().unwrap_or_else(PoisonError::into_inner);
        let (disk, marker) = (&self.disk, &plan.marker);
        let dir = self.aside(&marker.name);
        let done = self.save_dir.join("etl_done");
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
            disk.create_dir_all(folder, self.dir_mode)?;
            disk.rename(&from, &to)?;
            disk.sync_dir(folder)?;
        }
        self.place_rejects(&marker.name, plan.rejects, &dir)?;
        disk.replace(&done.join(&marker.name), &record::to_json(marker), self.style.mode)?;
        let fail = self.save_dir.join("etl_fail");
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
        let path = self.save_dir.join("etl_fail").join(&marker.name);
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
        let tables = self.save_dir.join("etl");
        self.disk.remove(path)?;
        for folder in path.ancestors().skip(1).take_while(|f| *f != tables) {
            if self.disk.stat(folder)?.is_some() {
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
        let done = self.save_dir.join("etl_done");
        self.disk.remove(&done.join(name))?;
        self.disk.sync_dir(&done)?;
        found.iter().try_for_each(|path| self.remove_file(path))
    }

    fn find_rows(&self, dir: &Path, name: &str, found: &mut Vec<PathBuf>) -> disk::Result<()> {
        let names = [format!("{name}.tsv"), format!("{name}.tsv.gz")];
        for entry in self.disk.list(dir)? {
            let path = dir.join(&entry.name);
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
