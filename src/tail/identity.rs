//! What a state directory, and each stream in it, was begun with.

use super::pattern::Pattern;
use crate::clock::{Clock, Hour, Zone};
use crate::config::Start;
use crate::disk::{self, Disk};
use crate::record;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};

/// `follower.json`: what a state directory was begun with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// 1.
    pub format: u32,
    /// Sender's name.
    pub name: String,
    /// Time zone of the hours.
    pub zone: String,
    /// Hours before this one are none of ours.
    pub first_hour: Hour,
    /// Up to this hour packs may have been sent before this state began: its hours go as a copy.
    pub copies_until: Option<Hour>,
    /// The copy's number, the unix millisecond at which the state began: a state lost twice in a second needs two.
    pub copies_generation: u64,
    /// Read the first hour from its end (`start = end`).
    #[serde(default)]
    pub from_end: bool,
    /// The files of a match of a `*`: another match with the same name is not taken for it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub files: String,
}

impl Identity {
    /// Where it lies: `follower.json`, and `streams/NAME.json` for a stream of that name.
    pub fn path(state_dir: &Path, stream: &str) -> PathBuf {
        if stream.is_empty() {
            state_dir.join("follower.json")
        } else {
            state_dir.join("streams").join(format!("{stream}.json"))
        }
    }

    /// Loads it; `Ok(None)` = a new state directory or stream; the inner `Err` = it is damaged. One of a later format is an
    /// error, because to begin again over it would send hours twice.
    pub fn load(disk: &Disk, path: &Path) -> disk::Result<Option<Result<Self, String>>> {
        let Some(bytes) = disk.read_opt(path, 64 << 10)? else { return Ok(None) };
        Ok(Some(match record::from_json::<Self>(&bytes) {
            Ok(id) if id.format != 1 => {
                let why = format!(
                    "format {} is not known to this version; start the version that wrote it",
                    id.format
                );
                return Err(disk::Error::new("read", path, io::Error::new(io::ErrorKind::InvalidData, why)));
            }
            Ok(id) if crate::name::problem(&id.name).is_none() => Ok(id),
            Ok(id) => Err(format!("{}: name {:?} is not valid", path.display(), id.name)),
            Err(e) => Err(format!("{}: {e}", path.display())),
        }))
    }

    /// Why a follower with this configured name and zone cannot go on from it.
    pub fn unfit(&self, name: Option<&str>, zone: &str, state_dir: &Path) -> Option<String> {
        let at = state_dir.display();
        if let Some(name) = name.filter(|name| *name != self.name) {
            return Some(format!(
                "name: {name:?} is configured, but this state directory ({at}) ships as {:?}; set name = {} again, or give the new \
                 name a new state_dir",
                self.name, self.name
            ));
        }
        (zone != self.zone).then(|| {
            format!(
                "timezone: {zone} is configured, but this state directory ({at}) counts hours in {}; set timezone = {}",
                self.zone, self.zone
            )
        })
    }

    /// Saves it.
    pub fn save(&self, disk: &Disk, path: &Path) -> disk::Result<()> {
        disk.replace(path, &record::to_json(self), 0o640)
    }
}

/// The beginning of a stream that is new. `existing` are the hours that have files; `copies` = packs of them may have been
/// sent before this state began, so they go as a copy.
pub fn begin(
    name: &str,
    pattern: &Pattern,
    start: Start,
    existing: &[Hour],
    copies: bool,
    (zone, clock): (&Zone, &Clock),
) -> Identity {
    let now = clock.now_ms();
    let current = if pattern.is_daily() { zone.day_at(now) } else { zone.hour_at(now) };
    let first_hour = match start {
        Start::Beginning | Start::End => current,
        Start::Oldest => existing.first().copied().unwrap_or(current),
        Start::Hour(hour) => hour,
    };
    let last = if pattern.is_dated() { existing.last().copied() } else { Some(current) };
    Identity {
        format: 1,
        name: name.to_owned(),
        zone: zone.name(),
        first_hour,
        copies_until: last.filter(|_| copies),
        copies_generation: now.unsigned_abs(),
        // A file that appears later is read whole.
        from_end: start == Start::End && (existing.contains(&first_hour) || !pattern.is_dated()),
        files: String::new(),
    }
}
