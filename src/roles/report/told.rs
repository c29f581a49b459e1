//! What of a receiver is to be told to the operator's program, and what of it was told.
//!
//! `alarms.json` in the state directory keeps it over a restart, so that nothing is told again that goes on, and its end is told
//! although it came meanwhile. It is written when nothing waits to be told: what a kill cut off is told after the next start.
//! Losing the file has alarms come twice, and loses nothing.

use crate::disk::{self, Disk};
use crate::log::count;
use crate::overview::HostHour;
use crate::record;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const FORMAT: u32 = 1;
/// Bytes of the file, at most.
const FILE_MAX: u64 = 16 << 20;
/// Files in quarantine that are remembered; if there are more, those beyond are told again after a restart.
const FILES_MAX: usize = 10_000;
/// Hours that are named one by one in alarms of one look.
const NAMED_MAX: usize = 3;

/// Hour and name.
pub type Key = (String, String);

/// The subject of an alarm, and its text; `None` = what was told of it is over, and told with others.
pub type News = (String, Option<String>);

/// What is remembered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Kept {
    format: u32,
    overdue: BTreeSet<Key>,
    filling: bool,
    tables: Option<String>,
    paused: bool,
    quarantine: BTreeSet<String>,
}

/// See the module's header.
#[derive(Default)]
pub struct Told {
    path: PathBuf,
    kept: Kept,
    /// As the file has it.
    saved: Kept,
}

impl Told {
    /// As the last run left it.
    pub fn open(disk: &Disk, state_dir: &Path) -> Self {
        let path = state_dir.join("alarms.json");
        let bytes = disk.read_opt(&path, FILE_MAX).ok().flatten();
        let kept = bytes.and_then(|b| record::from_json::<Kept>(&b).ok()).filter(|k| k.format == FORMAT);
        let kept = kept.unwrap_or(Kept { format: FORMAT, ..Kept::default() });
        Self { path, saved: kept.clone(), kept }
    }

    /// Writes the file if anything has changed.
    pub fn save(&mut self, disk: &Disk) -> disk::Result<()> {
        if self.kept == self.saved {
            return Ok(());
        }
        let some = Kept {
            quarantine: self.kept.quarantine.iter().take(FILES_MAX).cloned().collect(),
            ..self.kept.clone()
        };
        match disk.replace(&self.path, &record::to_json(&some), 0o640) {
            // There will be room again.
            Err(e) if e.no_space() => Ok(()),
            other => {
                self.saved = self.kept.clone();
                other
            }
        }
    }

    /// How full the spool is, in hundredths.
    pub fn spool(&mut self, percent: u64) -> Option<News> {
        // Between the two marks nothing changes, so that it is not told to and fro.
        let text = if !self.kept.filling && percent >= 80 {
            let text = "what it receives is not passed on as fast; when it is full senders are told to wait";
            format!("the spool is {percent}% full: {text}")
        } else if self.kept.filling && percent < 50 {
            "the spool has room again".into()
        } else {
            return None;
        };
        self.kept.filling = !self.kept.filling;
        Some(("spool".into(), Some(text)))
    }

    /// Why hours have no rows.
    pub fn tables(&mut self, why: Option<String>) -> Option<News> {
        if self.kept.tables == why {
            return None;
        }
        let text = match &why {
            Some(why) => format!("tables: {why}"),
            None => "all hours have their rows again".into(),
        };
        self.kept.tables = why;
        Some(("tables".into(), Some(text)))
    }

    /// Why nothing is taken.
    pub fn paused(&mut self, why: Option<&str>) -> Option<News> {
        let before = std::mem::replace(&mut self.kept.paused, why.is_some());
        let text = match why {
            Some(why) if !before => {
                format!("nothing is taken: {}", why.strip_prefix("paused: ").unwrap_or(why))
            }
            None if before => "packs are taken again".into(),
            _ => return None,
        };
        Some(("paused".into(), Some(text)))
    }

    /// The files that are in quarantine.
    pub fn quarantine(&mut self, now: BTreeSet<String>) -> Option<News> {
        let new: Vec<&String> = now.difference(&self.kept.quarantine).collect();
        let text = new.first().map(|first| {
            format!("{} put into quarantine, such as {first}; the log says why", count(new.len(), "file"))
        });
        self.kept.quarantine = now;
        Some(("quarantine".into(), Some(text?)))
    }

    /// The hours from `first` on, of which some are `late`; `after` is how long one may take.
    pub fn hours(
        &mut self,
        hours: &[HostHour],
        first: &str,
        late: impl Fn(&HostHour) -> bool,
        after: &str,
    ) -> Vec<News> {
        let known: BTreeMap<Key, &HostHour> = hours.iter().map(|h| (key(h), h)).collect();
        let is_late = |h: &HostHour| !h.known && late(h);
        let new: Vec<&HostHour> =
            hours.iter().filter(|h| is_late(h) && !self.kept.overdue.contains(&key(h))).collect();
        let mut news = Vec::new();
        if new.len() > NAMED_MAX {
            let names: Vec<String> =
                new.iter().take(NAMED_MAX).map(|h| format!("{} {}", h.name, h.hour)).collect();
            let text = format!(
                "{} are not whole {after} after their end, such as {}; `logd status` tells what is missing",
                count(new.len(), "hour"),
                names.join(", ")
            );
            news.push(("hours".into(), Some(text)));
        } else {
            for h in new {
                let text =
                    format!("hour {} of {} is not whole {after} after its end: {}", h.hour, h.name, state(h));
                news.push((subject(&key(h)), Some(text)));
            }
        }
        // What is too old to be looked at is not whole for that. A day belongs to its first hour here.
        let told = std::mem::take(&mut self.kept.overdue);
        let looked_at = told.into_iter().filter(|(hour, _)| format!("{hour:0<10}").as_str() >= first);
        let over: Vec<(Key, Option<&HostHour>)> = looked_at
            .map(|k| (known.get(&k).copied(), k))
            .filter(|(h, _)| !h.is_some_and(is_late))
            .map(|(h, k)| (k, h))
            .collect();
        if over.len() > NAMED_MAX {
            news.extend(over.iter().map(|(k, _)| (subject(k), None)));
            let text =
                format!("{} that were late are whole, or not waited for any more", count(over.len(), "hour"));
            news.push(("hours".into(), Some(text)));
        } else {
            for (k, h) in over {
                // Accepted, or of a host that was retired or taken out of the list of those that are expected.
                let whole = h.is_some_and(|h| !h.known);
                let what = if whole { "is whole" } else { "is not waited for any more" };
                news.push((subject(&k), Some(format!("hour {} of {} {what}", k.0, k.1))));
            }
        }
        self.kept.overdue = hours.iter().filter(|h| is_late(h)).map(key).collect();
        news
    }
}

fn key(h: &HostHour) -> Key {
    (h.hour.clone(), h.name.clone())
}

fn subject((hour, name): &Key) -> String {
    format!("hour {name}_{hour}")
}

fn state(h: &HostHour) -> String {
    let ranges: Vec<String> = h
        .missing
        .iter()
        .map(|(from, to)| if from == to { from.to_string() } else { format!("{from}-{to}") })
        .collect();
    let word = if h.word.is_empty() { &h.state } else { &h.word };
    if ranges.is_empty() { word.clone() } else { format!("{word}, packs {} are missing", ranges.join(",")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hour(name: &str, hour: &str, state: &str) -> HostHour {
        HostHour { name: name.into(), hour: hour.into(), state: state.into(), ..HostHour::default() }
    }

    fn look(told: &mut Told, hours: &[HostHour]) -> Vec<String> {
        let news = told.hours(hours, "2026112200", |h| h.state != "verified", "60 minutes");
        news.into_iter().map(|(subject, text)| text.unwrap_or(subject)).collect()
    }

    /// The story: each restart of a store told all of it once more, and what a start put into quarantine nobody was told.
    #[test]
    fn a_restart_tells_nothing_again_and_what_came_meanwhile() {
        let (disk, _) = Disk::sim(1);
        let dir = Path::new("/state");
        disk.create_dir_all(dir, 0o750).unwrap();
        let files = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<BTreeSet<_>>();
        let mut told = Told::open(&disk, dir);
        let late = [hour("web1", "2026112205", "gaps"), hour("web2", "2026112205", "open")];
        assert_eq!(look(&mut told, &late).len(), 2);
        assert!(told.quarantine(files(&["a"])).is_some(), "put there by the first start");
        assert!(told.spool(85).is_some() && told.paused(Some("disk: full")).is_some());
        told.save(&disk).unwrap();
        for _ in 0..2 {
            let mut told = Told::open(&disk, dir);
            assert!(look(&mut told, &late).is_empty());
            assert!(told.spool(85).is_none() && told.paused(Some("disk: full")).is_none());
            let (_, text) = told.quarantine(files(&["a", "b"])).unwrap();
            assert_eq!(text.unwrap(), "1 file put into quarantine, such as b; the log says why");
            assert!(told.quarantine(files(&["a", "b"])).is_none());
            assert!(told.quarantine(files(&["b"])).is_none(), "somebody has looked at it");
            // It was killed before it could save.
        }
        let mut told = Told::open(&disk, dir);
        let news = look(&mut told, &[hour("web1", "2026112205", "verified"), late[1].clone()]);
        assert_eq!(news, ["hour 2026112205 of web1 is whole"]);
        assert_eq!(told.spool(10).unwrap().1.unwrap(), "the spool has room again");
        assert_eq!(told.paused(None).unwrap().1.unwrap(), "packs are taken again");
    }

    #[test]
    fn nobody_waits_any_more_for_what_is_accepted_or_gone() {
        let mut told = Told::default();
        let mut late = vec![
            hour("web1", "2026112205", "doubtful"),
            hour("web2", "2026112205", crate::overview::NO_DATA),
        ];
        assert_eq!(look(&mut told, &late).len(), 2);
        late[0].known = true;
        // The other host is retired.
        let over = |name: &str| format!("hour 2026112205 of {name} is not waited for any more");
        assert_eq!(look(&mut told, &late[..1]), [over("web1"), over("web2")]);
        assert!(look(&mut told, &late[..1]).is_empty());
        // What was accepted before its time is no alarm, what is too old to be looked at no all-clear.
        assert_eq!(look(&mut told, &[hour("web3", "2026112200", "gaps")]).len(), 1);
        assert!(told.hours(&[], "2026112201", |_| true, "60 minutes").is_empty());
    }

    #[test]
    fn many_hours_are_one_alarm_and_one_all_clear() {
        let mut told = Told::default();
        let late: Vec<HostHour> = (0..9).map(|n| hour(&format!("web{n}"), "2026112205", "gaps")).collect();
        let news = look(&mut told, &late);
        assert!(news.len() == 1 && news[0].starts_with("9 hours are not whole 60 minutes after"), "{news:?}");
        let news = look(&mut told, &[]);
        assert_eq!((news.len(), news[0].as_str()), (10, "hour web0_2026112205"), "the same is news again");
        assert!(news[9].starts_with("9 hours that were late are whole"), "{news:?}");
    }
}
