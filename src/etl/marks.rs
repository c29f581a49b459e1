//! What is known of hours that became tables, in files below `save_dir`. Every program reads it, also one that makes no tables.

use crate::disk::{self, Disk};
use crate::integrity::{Certificate, Store};
use crate::log::count;
use crate::pack::HourKey;
use crate::record;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Hours whose rows are in place.
pub const DONE: &str = "etl_done";
/// Hours that could not be done.
pub const FAIL: &str = "etl_fail";
/// Longest marker or plan, in bytes. A plan names as many folders as one hour may have (`rows`), and those that it had before;
/// with all else about each of their files they are less than half as much.
pub const MARKER_MAX: u64 = 32 << 20;
/// An hour that waits so long after it was certified is told, seconds.
const LATE: i64 = 3_600;
/// Hours that are named one by one.
const NAMED_MAX: usize = 10;

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

impl Origin {
    /// What a certificate tells of them.
    pub fn of(cert: &Certificate) -> Self {
        Self {
            generation: cert.generation,
            revision: cert.revision,
            bytes: cert.bytes,
            sha256: cert.sha256.clone(),
        }
    }

    /// Are they those of this certificate?
    pub fn is_of(&self, cert: &Certificate) -> bool {
        (self.generation, self.revision) == (cert.generation, cert.revision)
            && (cert.sha256.is_empty() || cert.sha256 == self.sha256)
    }
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
    /// SHA-256 of the rules and limits, hex.
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
    /// It failed for a reason that may pass, and is tried again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub again: bool,
    /// When (unix seconds).
    pub at: i64,
}

/// What is asked of a marker most of the time: without the list of its files.
#[derive(Deserialize)]
struct Short {
    source: Origin,
    #[serde(default)]
    failed: String,
}

fn short(disk: &Disk, save_dir: &Path, dir: &str, name: &str) -> disk::Result<Option<Short>> {
    let bytes = disk.read_opt(&save_dir.join(dir).join(name), MARKER_MAX)?;
    Ok(bytes.and_then(|b| record::from_json(&b).ok()))
}

/// Are the rows of an hour in place, as it was certified here?
pub fn has_rows(disk: &Disk, save_dir: &Path, key: &HourKey, cert: &Certificate) -> disk::Result<bool> {
    Ok(short(disk, save_dir, DONE, &key.to_string())?.is_some_and(|m| m.source.is_of(cert)))
}

/// Names of what failed.
pub fn failed(disk: &Disk, save_dir: &Path) -> disk::Result<Vec<String>> {
    let dir = save_dir.join(FAIL);
    if disk.stat(&dir)?.is_none() {
        return Ok(Vec::new());
    }
    let names = disk.list_some(&dir, &mut |name| !name.starts_with('.'))?;
    Ok(names.into_iter().map(|e| e.name).collect())
}

/// What a store has no rows of, for people.
#[derive(Debug)]
pub struct Waits {
    done: usize,
    waiting: usize,
    late: Vec<String>,
    /// With the reason.
    failed: Vec<(String, String)>,
    rules: Vec<String>,
}

impl Waits {
    /// Reads it; changes nothing. `rules` is what is wrong with the rules as they are now.
    pub fn read(disk: &Disk, store: &Store, rules: Vec<String>, now_secs: i64) -> disk::Result<Self> {
        let save_dir = store.path("");
        let mut all = Self { done: 0, waiting: 0, late: Vec::new(), failed: Vec::new(), rules };
        let known: BTreeSet<String> = failed(disk, &save_dir)?.into_iter().collect();
        for name in &known {
            let why = short(disk, &save_dir, FAIL, name)?.map(|m| m.failed);
            all.failed.push((name.clone(), why.unwrap_or_else(|| "its file in etl_fail is damaged".into())));
        }
        let keys = match store.closed_list() {
            Err(e) if e.not_found() => Vec::new(),
            keys => keys?,
        };
        for key in keys {
            let name = key.to_string();
            let cert = match store.closed(&key) {
                Ok(cert) => cert.filter(Certificate::is_tag),
                Err(e) if e.denied() => return Err(e),
                Err(e) => {
                    all.failed.push((name, e.to_string()));
                    continue;
                }
            };
            let Some(cert) = cert else { continue };
            if has_rows(disk, &save_dir, &key, &cert)? {
                all.done = all.done.saturating_add(1);
            } else if !known.contains(&name) {
                all.waiting = all.waiting.saturating_add(1);
                if cert.certified < now_secs.saturating_sub(LATE) {
                    all.late.push(name);
                }
            }
        }
        Ok(all)
    }

    /// A line about them.
    pub fn text(&self) -> String {
        format!(
            "  rows of {}, {} waiting, {} failed\n",
            count(self.done, "hour"),
            self.waiting,
            self.failed.len()
        )
    }

    /// What somebody should look at.
    pub fn wrong(&self) -> Vec<String> {
        let list = |names: &mut dyn Iterator<Item = String>, all: usize| {
            let mut lines: Vec<String> = names.take(NAMED_MAX).collect();
            if let more @ 1.. = all.saturating_sub(NAMED_MAX) {
                lines.push(format!("and {more} more"));
            }
            format!("\n    {}", lines.join("\n    "))
        };
        let mut wrong: Vec<String> = self
            .rules
            .iter()
            .map(|why| format!("rules: {why}; a running role goes on with those before, no other starts"))
            .collect();
        if !self.failed.is_empty() {
            let names = &mut self.failed.iter().map(|(name, why)| format!("{name}  {why}"));
            wrong.push(format!(
                "no rows ({}): the lines are safe; mend the cause, then stop the role and run `logd etl CONFIG`, or start it \
                 again{}",
                count(self.failed.len(), "hour"),
                list(names, self.failed.len())
            ));
        }
        if !self.late.is_empty() {
            wrong.push(format!(
                "rows not made an hour after the certificate ({}): see whether the role runs, has room, and what its log \
                 says{}",
                count(self.late.len(), "hour"),
                list(&mut self.late.iter().cloned(), self.late.len())
            ));
        }
        wrong
    }

    /// The same for programs.
    pub fn json(&self) -> Value {
        let failed: Vec<Value> =
            self.failed.iter().map(|(name, why)| json!({"name": name, "why": why})).collect();
        json!({
            "role": "etlcollector", "hours_with_rows": self.done, "hours_waiting": self.waiting,
            "hours_late": self.late, "failed": failed, "rules": self.rules,
        })
    }
}
