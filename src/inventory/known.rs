//! What an operator has said of a store: hours that stay as they are, and hosts that send no more.
//!
//! `accepted/NAME_HOUR` and `retired/NAME` below `save_dir` are small JSON files with who, when and why. They change what is
//! called wrong and what a batch job waits for, and nothing else: no certificate is made or changed by them. Whoever takes
//! the file away takes the word back. Beside them `pruned.json` tells up to which hour an operator has had hours removed.

use super::hour::{Row, State};
use super::pruned::Pruned;
use crate::clock::Hour;
use crate::disk::{self, Disk};
use crate::pack::HourKey;
use crate::record;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const FILE_MAX: u64 = 64 << 10;
/// Words of more hours than these are not looked for: nobody gives them one by one.
const FILES_MAX: usize = 100_000;

/// An hour that stays as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// 1.
    pub format: u32,
    /// Its sender.
    pub name: String,
    /// Which hour.
    pub hour: Hour,
    /// The state that was accepted: in another one it is wrong again.
    pub state: String,
    /// The packs that were missing then.
    #[serde(default)]
    pub missing: Vec<(u64, u64)>,
    /// What more was known of it then, such as how many bytes came late; a file of before has none.
    #[serde(default)]
    pub detail: Option<String>,
    /// Who said so.
    pub by: String,
    /// When (unix seconds).
    pub at: i64,
    /// Why.
    pub reason: String,
}

/// A host that sends no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retired {
    /// 1.
    pub format: u32,
    /// Its name; its streams are meant, too.
    pub name: String,
    /// The first hour that nobody expects of it.
    pub since: Hour,
    /// Who said so.
    pub by: String,
    /// When (unix seconds).
    pub at: i64,
    /// Why.
    pub reason: String,
}

impl Accepted {
    /// Where it stands.
    pub fn path(save_dir: &Path, key: &HourKey) -> PathBuf {
        save_dir.join("accepted").join(key.to_string())
    }
}

impl Retired {
    /// Where it stands.
    pub fn path(save_dir: &Path, name: &str) -> PathBuf {
        save_dir.join("retired").join(name)
    }

    /// Is this hour of this sender not expected any more?
    fn covers(&self, key: &HourKey) -> bool {
        let host = key.name.split_once('+').map_or(key.name.as_str(), |(host, _)| host);
        (self.name == key.name || self.name == host) && key.hour.is_from(self.since)
    }
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    accepted: BTreeMap<HourKey, Accepted>,
    retired: Vec<Retired>,
    pruned: Pruned,
}

impl Known {
    /// Reads it; a file that cannot be understood says nothing.
    pub fn read(disk: &Disk, save_dir: &Path) -> disk::Result<Self> {
        let accepted: Vec<Accepted> = all(disk, &save_dir.join("accepted"))?;
        let retired: Vec<Retired> = all(disk, &save_dir.join("retired"))?;
        let of = |a: Accepted| (HourKey { name: a.name.clone(), hour: a.hour }, a);
        Ok(Self {
            accepted: accepted.into_iter().filter(|a| a.format == 1).map(of).collect(),
            retired: retired.into_iter().filter(|r| r.format == 1).collect(),
            pruned: Pruned::read(disk, save_dir)?,
        })
    }

    /// Hosts that are retired, for whoever expects hours of them.
    pub fn is_retired(&self, key: &HourKey) -> bool {
        self.retired.iter().any(|r| r.covers(key))
    }

    /// If nothing of this hour is here, nobody misses it: it was removed, or all of its time was.
    pub fn is_pruned(&self, hour: Hour) -> bool {
        self.pruned.covers(hour)
    }

    /// Is there a word on this hour?
    pub fn has(&self, key: &HourKey) -> bool {
        self.accepted.contains_key(key) || self.is_retired(key)
    }

    /// Notes in a row what was said of it, if that was of the state that it has.
    pub fn settle(&self, row: &mut Row) {
        let same = |a: &Accepted| {
            let detail = a.detail.as_ref().is_none_or(|d| *d == row.detail);
            a.state == row.state.word() && a.missing == row.missing && detail
        };
        let said = self.accepted.get(&row.key).filter(|a| same(a));
        if let Some(a) = said {
            row.known = Some(format!("accepted by {}: {}", a.by, a.reason));
            return;
        }
        let ends = matches!(row.state, State::Silent | State::Open | State::Gaps);
        let retired = self.retired.iter().find(|r| ends && r.covers(&row.key));
        row.known = retired.map(|r| format!("{} was retired by {}: {}", r.name, r.by, r.reason));
    }
}

fn all<T: for<'de> Deserialize<'de>>(disk: &Disk, dir: &Path) -> disk::Result<Vec<T>> {
    let names = match disk.list(dir) {
        Ok(names) => names,
        Err(e) if e.not_found() => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut found = Vec::new();
    for entry in names.iter().filter(|e| !e.is_dir && !e.name.starts_with('.')).take(FILES_MAX) {
        let bytes = disk.read_opt(&dir.join(&entry.name), FILE_MAX)?;
        found.extend(bytes.and_then(|b| record::from_json::<T>(&b).ok()));
    }
    Ok(found)
}
