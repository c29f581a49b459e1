//! The names below a `save_dir`, gathered once: which hours there are, and which files each has. One listing per
//! directory, so that a store of a year costs a few listings and not one per hour. [`hour`] is the judgement on one.

pub mod hosts;
pub mod hour;
pub mod known;
pub mod pruned;

use crate::clock::Hour;
use crate::disk::{self, Disk};
use crate::integrity::{Certificate, Store};
use crate::pack::HourKey;
use crate::record;
use known::Known;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What a store that has ever started has.
pub const PARTS: [&str; 3] = ["log_data", "headers", "received"];
/// An hour that is not closed this long after its end has a follower that does not work. Beyond `close_wait` and
/// `quiet`, so that the normal course is never called late.
pub const OVERDUE_MS: i64 = 30 * 60 * 1000;
/// Longest tag that is read.
const TAG_MAX: u64 = 4 << 20;

/// Which hours are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only this sender.
    pub host: Option<String>,
    /// Only this hour and later ones.
    pub since: Option<Hour>,
}

impl Filter {
    /// Is this hour of this sender asked for?
    pub fn takes(&self, key: &HourKey) -> bool {
        self.takes_name(&key.name) && self.takes_hour(key.hour)
    }

    /// Is this sender asked for?
    pub fn takes_name(&self, name: &str) -> bool {
        self.host.as_deref().is_none_or(|h| h == name)
    }

    /// Is this hour asked for?
    pub fn takes_hour(&self, hour: Hour) -> bool {
        match self.since {
            None => true,
            // A day and an hour are compared as days.
            Some(since) if since.is_daily() != hour.is_daily() => hour.day_of() >= since.day_of(),
            Some(since) => hour >= since,
        }
    }
}

/// The files of one hour.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // each is one file that is there or not
pub struct Files {
    /// `log_data/…`.
    pub data: bool,
    /// `headers/…`.
    pub headers: bool,
    /// Names of its tags; more than one is a fault.
    pub tags: Vec<String>,
    /// `doubtful/…`.
    pub doubtful: bool,
    /// `aside/….late`: bytes that came after the data file was taken away.
    pub late: bool,
    /// `aside/….gaps`: packs beyond a gap that waited too long.
    pub gaps: bool,
    /// Copies that are being built in `aside/`.
    pub building: BTreeSet<u64>,
    /// Packs beyond a gap that are kept in `aside/early/`, by copy.
    pub early: BTreeMap<u64, BTreeSet<u64>>,
    /// Packs that contradict stored ones, by copy.
    pub conflict: BTreeMap<u64, BTreeSet<u64>>,
    /// Packs that were acknowledged and cannot be read any more, by copy.
    pub lost: BTreeMap<u64, BTreeSet<u64>>,
}

/// What says that an hour is whole, or why it cannot be certified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// No certificate.
    None,
    /// A tag of ours.
    Tag(Certificate),
    /// A tag that is no certificate: the original's, or a damaged one.
    Foreign,
    /// A certificate that is no proof.
    Doubtful(Certificate),
    /// A certificate of a later format: what it says is not known here.
    Later,
}

/// What is said of a certificate of a later format.
pub const LATER: &str = "its certificate is of a later format, which a newer logd knows";

#[derive(Deserialize)]
struct Format {
    format: u32,
}

/// A store and its hours.
pub struct Inventory {
    /// The store's paths. Its state directory is not known here.
    pub store: Store,
    /// The files of each hour.
    pub hours: BTreeMap<HourKey, Files>,
    /// What an operator has said of them.
    pub known: Known,
    /// There are earlier hours than the filter takes.
    pub older: bool,
}

impl Inventory {
    /// Lists what is below `save_dir`. An error is a sentence without a full stop.
    pub fn read(disk: &Disk, save_dir: &Path, filter: &Filter) -> Result<Self, String> {
        let at = save_dir.display();
        let advice = "it must be the directory that save_dir names, not the configuration";
        match disk.stat(save_dir).map_err(|e| e.to_string())? {
            Some(s) if s.is_dir => {}
            Some(_) => return Err(format!("{at}: not a directory; {advice}")),
            None => return Err(format!("{at}: no such directory; {advice}")),
        }
        // The modes are for writing, and nothing is written here.
        let store = Store::new(disk, save_dir, Path::new(""), 0o644, 0o755);
        let mut all = Self { store, hours: BTreeMap::new(), known: Known::default(), older: false };
        let parts = PARTS.map(|d| disk.stat(&save_dir.join(d)));
        if parts.iter().all(|p| matches!(p, Ok(None))) {
            return Err(format!("{at}: holds no log_data, headers or received: not a store; {advice}"));
        }
        all.gather(filter).map_err(|e| e.to_string())?;
        all.known = Known::read(disk, save_dir).map_err(|e| e.to_string())?;
        Ok(all)
    }

    fn gather(&mut self, filter: &Filter) -> disk::Result<()> {
        let mut hours: BTreeMap<HourKey, Files> = BTreeMap::new();
        let mut with = |hour: &str, change: &mut dyn FnMut(&mut Files)| {
            if let Some(key) = HourKey::parse(hour).filter(|k| filter.takes(k)) {
                change(hours.entry(key).or_default());
            }
        };
        // Of a store of years only the names that are asked for are kept in memory.
        let mut older = false;
        let mut asked = |hour: &str| {
            HourKey::parse(hour).is_some_and(|key| {
                older |= filter.takes_name(&key.name) && !filter.takes_hour(key.hour);
                filter.takes(&key)
            })
        };
        for name in self.names("log_data", &mut asked)? {
            with(&name, &mut |f| f.data = true);
        }
        for name in self.names("headers", &mut asked)? {
            with(&name, &mut |f| f.headers = true);
        }
        for name in self.names("doubtful", &mut asked)? {
            with(&name, &mut |f| f.doubtful = true);
        }
        for name in self.names("received", &mut |tag| tagged(tag).is_some_and(&mut asked))? {
            if let Some(hour) = tagged(&name) {
                with(hour, &mut |f| f.tags.push(name.clone()));
            }
        }
        for file in self.names("aside", &mut |_| true)? {
            // A sender's name may hold dots; what follows the hour begins at the first one after it.
            let Some((name, rest)) = file.split_once('_') else { continue };
            let Some((hour, what)) = rest.split_once('.') else { continue };
            with(&format!("{name}_{hour}"), &mut |f| match what {
                "late" => f.late = true,
                "gaps" => f.gaps = true,
                copy => f.building.extend(copy.parse::<u64>()),
            });
        }
        for shelf in ["aside/early", "aside/conflict", "aside/lost"] {
            for name in self.names(shelf, &mut |_| true)?.iter().filter(|n| filter.takes_name(n)) {
                for file in self.names(&format!("{shelf}/{name}"), &mut |_| true)? {
                    let mut parts = file.split('.');
                    let mut number = || parts.next().and_then(|p| p.parse::<u64>().ok());
                    let (Some(hour), Some(copy), Some(id)) = (number(), number(), number()) else { continue };
                    with(&format!("{name}_{hour}"), &mut |f| {
                        let list = match shelf {
                            "aside/early" => &mut f.early,
                            "aside/conflict" => &mut f.conflict,
                            _ => &mut f.lost,
                        };
                        list.entry(copy).or_default().insert(id);
                    });
                }
            }
        }
        self.hours = hours;
        self.older = older;
        Ok(())
    }

    fn names(&self, dir: &str, keep: &mut dyn FnMut(&str) -> bool) -> disk::Result<Vec<String>> {
        match self.store.disk().list_some(&self.store.path(dir), keep) {
            Ok(list) => Ok(list.into_iter().map(|e| e.name).collect()),
            Err(e) if e.not_found() => Ok(Vec::new()),
            Err(e) => Err(e),
        }
    }

    /// The hour's certificate.
    pub fn proof(&self, key: &HourKey) -> disk::Result<Proof> {
        let Some(files) = self.hours.get(key) else { return Ok(Proof::None) };
        let disk = self.store.disk();
        for tag in &files.tags {
            match disk.read_opt(&self.store.path("received").join(tag), TAG_MAX)? {
                // Revoked since it was listed.
                None => {}
                Some(bytes) => {
                    if record::from_json::<Format>(&bytes).is_ok_and(|f| f.format > 1) {
                        return Ok(Proof::Later);
                    }
                    let read: Option<Certificate> = record::from_json(&bytes).ok();
                    let its = read.filter(|c| c.name == key.name && c.hour == key.hour);
                    return Ok(its.map_or(Proof::Foreign, Proof::Tag));
                }
            }
        }
        let doubtful = if files.doubtful { self.store.doubtful(key)? } else { None };
        Ok(match doubtful {
            Some(c) if c.format > 1 => Proof::Later,
            Some(c) => Proof::Doubtful(c),
            None => Proof::None,
        })
    }
}

/// The names of an hour's tags in a listing of `received`.
pub fn tagged(tag: &str) -> Option<&str> {
    // A day's tag and the fleet's have no line count; what would be left of them is no hour.
    let (hour, lines) = tag.rsplit_once('_')?;
    let digits = !lines.is_empty() && lines.bytes().all(|b| b.is_ascii_digit());
    digits.then_some(hour)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{Temp, key};

    fn hour(text: &str) -> Hour {
        Hour::parse(text).unwrap()
    }

    #[test]
    fn filters() {
        let takes =
            |since: &str, at: &str| Filter { host: None, since: Some(hour(since)) }.takes_hour(hour(at));
        assert!(takes("2026112205", "2026112205") && takes("2026112205", "2026112300"));
        assert!(!takes("2026112205", "2026112204"));
        assert!(takes("20261122", "2026112200") && !takes("20261122", "2026112123"));
        assert!(takes("2026112205", "20261122") && !takes("2026112205", "20261121"));
        let one = Filter { host: Some("web1".into()), since: None };
        assert!(one.takes(&key("web1_2026112205")) && !one.takes(&key("web10_2026112205")));
    }

    #[test]
    fn every_kind_of_name_finds_its_hour() {
        let temp = Temp::new();
        for file in [
            "log_data/10.0.0.7_2026112205",
            "headers/10.0.0.7_2026112205",
            "headers/.10.0.0.7_2026112205.tmp",
            "received/10.0.0.7_2026112205_120",
            "received/10.0.0.7_20261122",
            "received/all_2026112205",
            "received/web1_20261122_7",
            "doubtful/web1_2026112206",
            "aside/10.0.0.7_2026112205.late",
            "aside/10.0.0.7_2026112205.late.headers",
            "aside/10.0.0.7_2026112205.1234/data",
            "aside/10.0.0.7_2026112205.1200.replaced/data",
            "aside/web1_2026112206.gaps",
            "aside/early/10.0.0.7/2026112205.0.9",
            "aside/early/10.0.0.7/2026112205.0.7",
            "aside/conflict/10.0.0.7/2026112205.0.3.0badcafe",
            "aside/lost/10.0.0.7/2026112205.0.4",
            "log_data/lost+found",
        ] {
            temp.file(file, "");
        }
        let all = Inventory::read(&Disk::real(), temp.dir(), &Filter::default()).unwrap();
        let names: Vec<String> = all.hours.keys().map(ToString::to_string).collect();
        assert_eq!(names, ["10.0.0.7_2026112205", "web1_20261122", "web1_2026112206"]);
        let files = all.hours.get(&key("10.0.0.7_2026112205")).unwrap();
        let want = Files {
            data: true,
            headers: true,
            tags: vec!["10.0.0.7_2026112205_120".into()],
            doubtful: false,
            late: true,
            gaps: false,
            building: [1234].into(),
            early: [(0, [7, 9].into())].into(),
            conflict: [(0, [3].into())].into(),
            lost: [(0, [4].into())].into(),
        };
        assert_eq!(*files, want);
        assert_eq!(all.proof(&key("10.0.0.7_2026112205")).unwrap(), Proof::Foreign);
        assert_eq!(all.proof(&key("web1_2026112206")).unwrap(), Proof::None);
        assert!(all.hours.get(&key("web1_2026112206")).unwrap().gaps);
        let filter = Filter { host: Some("web1".into()), since: None };
        assert_eq!(Inventory::read(&Disk::real(), temp.dir(), &filter).unwrap().hours.len(), 2);
    }

    #[test]
    fn what_is_no_store_is_told() {
        let temp = Temp::new();
        let read = |path: &Path| Inventory::read(&Disk::real(), path, &Filter::default()).err().unwrap();
        assert!(read(temp.dir()).contains("not a store"));
        assert!(read(&temp.path("none")).contains("no such directory"));
        assert!(read(&temp.file("file", "")).contains("not a directory"));
    }
}
