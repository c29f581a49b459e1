//! What of a store is not in its database, for people: what `logd status` shows, from the disk alone.
//!
//! The role leaves below its state directory, as `documents/.trouble`, why something is not written, and what else somebody
//! should know ([`Known`]); a start takes it away.

use super::{DONE, Marker, REJECT, STATE, marker};
use crate::config::MongoConfig;
use crate::disk::{self, Disk};
use crate::integrity::{Certificate, Store};
use crate::pack::HourKey;
use crate::record;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::Path;

/// [`Known`], below [`STATE`].
const TROUBLE: &str = ".trouble";
/// Longest file of it, in bytes.
const KNOWN_MAX: u64 = 1 << 20;
/// Hours that are named.
const NAMED: usize = 3;
/// How much of a reject file is looked at.
const FIRST: usize = 1024;

/// What a running role knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Why something is not written, a sentence each.
    pub wrong: Vec<String>,
    /// What the database has made it say.
    pub notes: Vec<String>,
}

impl Known {
    /// Leaves it for others; nothing is left of nothing.
    pub fn note(&self, disk: &Disk, state_dir: &Path) -> disk::Result<()> {
        let path = state_dir.join(STATE).join(TROUBLE);
        if *self == Self::default() {
            return disk.remove(&path);
        }
        disk.replace(&path, &record::to_json(self), 0o640)
    }

    fn read(disk: &Disk, state_dir: &Path) -> disk::Result<Self> {
        let bytes = disk.read_opt(&state_dir.join(STATE).join(TROUBLE), KNOWN_MAX)?;
        Ok(bytes.and_then(|b| record::from_json(&b).ok()).unwrap_or_default())
    }
}

impl Marker {
    /// Were more lines rejected than so many hundredths?
    pub fn rejects_more_than(&self, percent: u64) -> bool {
        self.rejected.saturating_mul(100) > self.lines.saturating_mul(percent)
    }

    /// About them: how many, why the first one, where they are.
    pub fn rejects(&self, disk: &Disk, save_dir: &Path, key: &HourKey) -> String {
        let path = save_dir.join(REJECT).join(key.to_string());
        let why =
            first_reason(disk, &path).map_or(String::new(), |why| format!(", the first one because: {why}"));
        format!(
            "{} of its {} lines are no documents{why}; {} has them",
            self.rejected,
            self.lines,
            path.display()
        )
    }
}

/// The second field of the first line.
fn first_reason(disk: &Disk, path: &Path) -> Option<String> {
    let mut begin = vec![0; FIRST];
    let n = disk.open(path).ok()?.read_at(&mut begin, 0).ok()?;
    let text = String::from_utf8_lossy(begin.get(..n)?).into_owned();
    Some(text.split('\t').nth(1)?.chars().filter(|c| !c.is_control()).collect())
}

/// What is not in the database, and what is wrong.
#[derive(Debug)]
pub struct Waits {
    /// Those asked for, the oldest first.
    hours: Vec<HourKey>,
    /// Hours of which too much was rejected, and what of them.
    rejected: Vec<(HourKey, String)>,
    known: Known,
    runs: bool,
}

impl Waits {
    /// Reads it; changes nothing.
    pub fn read(
        disk: &Disk,
        conf: &MongoConfig,
        state_dir: &Path,
        runs: bool,
        asked: &dyn Fn(&HourKey) -> bool,
    ) -> disk::Result<Self> {
        let save_dir = &conf.store.save_dir;
        let store = Store::new(disk, save_dir, state_dir, conf.store.file_mode, conf.store.dir_mode);
        let mut keys = store.hours()?;
        // An hour without lines has no proof.
        if disk.stat(&state_dir.join("closed"))?.is_some() {
            keys.extend(store.closed_list()?);
        }
        keys.retain(|key| asked(key));
        keys.sort_by(|a, b| (a.hour, &a.name).cmp(&(b.hour, &b.name)));
        keys.dedup();
        let (mut hours, mut rejected) = (Vec::new(), Vec::new());
        for key in keys {
            let certificate = store.closed(&key)?.filter(Certificate::is_tag);
            match (marker(disk, save_dir, &key)?, certificate) {
                (Some(m), Some(c)) if m.is_of(&c) => {
                    if m.rejects_more_than(conf.max_reject) {
                        rejected.push((key.clone(), m.rejects(disk, save_dir, &key)));
                    }
                }
                _ => hours.push(key),
            }
        }
        Ok(Self { hours, rejected, known: Known::read(disk, state_dir)?, runs })
    }

    fn named(&self) -> String {
        let names: Vec<String> = self.hours.iter().take(NAMED).map(ToString::to_string).collect();
        match (names.as_slice(), self.hours.len().saturating_sub(names.len())) {
            ([], _) => String::new(),
            (_, 0) => format!(": {}", names.join(", ")),
            (_, n) => format!(": {} and {n} more", names.join(", ")),
        }
    }

    /// Lines about them.
    pub fn text(&self) -> String {
        let hours = crate::log::count(self.hours.len(), "hour");
        let mut text = format!("  {hours} not whole in the database{}\n", self.named());
        for note in &self.known.notes {
            text += "  note: ";
            text += note;
            text.push('\n');
        }
        text
    }

    /// What somebody should look at.
    pub fn wrong(&self) -> Vec<String> {
        let when = if self.runs { "" } else { "when the role ran last: " };
        let mut list: Vec<String> =
            self.known.wrong.iter().map(|why| format!("database: {when}{why}")).collect();
        if !self.runs && !self.hours.is_empty() {
            let hours = crate::log::count(self.hours.len(), "hour");
            list.push(format!("database: {hours} not whole in it, and the role does not run: start it"));
        }
        if let Some((key, what)) = self.rejected.first() {
            let more = match self.rejected.len().saturating_sub(1) {
                0 => String::new(),
                n => format!("; {} more are such", crate::log::count(n, "hour")),
            };
            list.push(format!(
                "{key}: {what}; that is more than max_reject; if log_format was wrong, logd.conf(5) tells how an hour \
                 is written anew{more}"
            ));
        }
        list
    }

    /// The same for programs.
    pub fn json(&self) -> Value {
        let names =
            |keys: &mut dyn Iterator<Item = &HourKey>| keys.map(ToString::to_string).collect::<Vec<_>>();
        let trouble = (!self.known.wrong.is_empty()).then(|| self.known.wrong.join("; "));
        json!({
            "role": "mgocollector", "hours_waiting": self.hours.len(), "waiting": names(&mut self.hours.iter()),
            "trouble": trouble, "notes": self.known.notes, "running": self.runs,
            "rejecting": names(&mut self.rejected.iter().map(|(key, _)| key)),
        })
    }
}

/// How many hours were written to another place than the one that the configuration names, and where one of them is.
pub fn elsewhere(disk: &Disk, conf: &MongoConfig) -> disk::Result<Option<(usize, String)>> {
    let save_dir = &conf.store.save_dir;
    let dir = save_dir.join(DONE);
    if disk.stat(&dir)?.is_none() {
        return Ok(None);
    }
    let (mut n, mut place) = (0_usize, String::new());
    for key in disk.list(&dir)?.iter().filter_map(|e| HourKey::parse(&e.name)) {
        let Some(m) = marker(disk, save_dir, &key)? else { continue };
        let database = format!("{}{}", conf.db, key.hour.day_of());
        if (m.database.as_str(), m.collection.as_str()) != (database.as_str(), conf.collection.as_str()) {
            n = n.saturating_add(1);
            place = format!("{}.{}", m.database, m.collection);
        }
    }
    Ok((n > 0).then_some((n, place)))
}
