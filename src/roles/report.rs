//! A receiver's look at itself, every few seconds: what it tells the monitor of its hours, and what is an alarm.
//!
//! One thread, beside the role and never waited for. The states of hours go to the monitor as requests `hours`, on
//! connections of their own: what changed, and all of it every five minutes, in case the monitor has lost it, or has what is not
//! here any more. A monitor that does not know that request (the original) says so, and is left alone for an hour; one that
//! refuses it for another reason is asked again soon.
//!
//! Alarms: an hour that is not whole some time after its end, a spool that fills, tables that lack an hour, a disk that pauses
//! the role, files that were put into quarantine; and that each of them is well again.

mod told;

use super::alarm::Alarms;
use super::fleet::Seen;
use super::pulse::{self, World};
use super::serve::{Shared, spawn};
use crate::clock::Hour;
use crate::disk::{self, Disk};
use crate::heartbeat::{self, Message};
use crate::log::count;
use crate::overview::HostHour;
use crate::pack::{Seal, hex};
use crate::receiver::lock;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use told::{News, Told};

/// How often it looks.
const EVERY: Duration = Duration::from_secs(10);
/// How long a question to the monitor may take.
const ASK: Duration = Duration::from_secs(5);
/// A monitor that does not understand is tried again after this time, ms.
const AGAIN_MS: u64 = 3_600_000;
/// The first wait for one that refuses; the longest is [`ALL_MS`], ms.
const REFUSED_MS: u64 = 10_000;
/// All hours are told again after this time, ms: the monitor may have lost them, or be told false ones by others.
const ALL_MS: u64 = 5 * 60_000;
/// Hours back from now that are looked at.
pub const SPAN: u64 = 72;
/// Bytes of the list in one request, as they are quoted in it; with the rest below [`heartbeat::FRAME_MAX`].
const CHUNK: usize = 56 << 10;
/// Looking at the hours may take one part in so many of the time.
const SHARE: u64 = 20;

/// What tells the states of the hours: those of the last days, each time it is called.
pub type Source = Box<dyn FnMut() -> Seen + Send>;

/// What a receiver reports of.
pub struct Report {
    pub shared: Arc<Shared>,
    pub world: Arc<World>,
    pub alarms: Alarms,
    pub state_dir: PathBuf,
    /// Bytes of the spool at most.
    pub spool_size: u64,
    /// The monitor, and the hours; a relay has none.
    pub monitor: Option<String>,
    pub hours: Option<Source>,
    /// Milliseconds after its end at which an hour that is not whole is an alarm.
    pub alarm_after_ms: u64,
}

/// What the monitor was told.
#[derive(Default)]
struct ToMonitor {
    hours: BTreeMap<(String, String), HostHour>,
    all_again_ms: u64,
    quiet_until_ms: u64,
    failing: bool,
    /// How often it refused, one after the other.
    refused: u32,
    /// What it left out.
    left: String,
}

impl Report {
    /// Starts the thread.
    pub fn start(mut self) -> JoinHandle<()> {
        spawn("report", move || {
            let mut told = Told::open(&self.shared.disk, &self.state_dir);
            let mut to_monitor = ToMonitor::default();
            let (mut wait, mut look_ms) = (Duration::from_secs(1), 0);
            while !self.world.quit.wait(wait) {
                wait = EVERY;
                self.spool(&mut told);
                self.tables(&mut told);
                self.quarantine(&mut told);
                self.remember(&mut told);
                let began = self.shared.clock.mono_ms();
                if began < look_ms {
                    continue;
                }
                let Some(seen) = self.hours.as_mut().map(|look| look()) else { continue };
                let ended = self.shared.clock.mono_ms();
                look_ms = ended.saturating_add(ended.saturating_sub(began).saturating_mul(SHARE));
                self.overdue(&mut told, &seen);
                self.tell(&mut to_monitor, &seen);
            }
            self.remember(&mut told);
        })
    }

    fn raise(&self, news: impl IntoIterator<Item = News>) {
        for (subject, text) in news {
            match text {
                Some(text) => self.alarms.raise(&subject, &text),
                None => self.alarms.settled(&subject),
            }
        }
    }

    fn tables(&self, told: &mut Told) {
        self.raise(told.tables(self.shared.health.reason("tables")));
    }

    fn spool(&self, told: &mut Told) {
        let bytes = lock(&self.shared.gate).spool.bytes();
        let percent = bytes.saturating_mul(100).checked_div(self.spool_size.max(1)).unwrap_or(0);
        self.raise(told.spool(percent));
        let paused = lock(&self.shared.paused).clone();
        self.raise(told.paused(paused.as_deref()));
    }

    fn quarantine(&self, told: &mut Told) {
        if let Ok(now) = files(&self.shared.disk, &self.state_dir.join("quarantine")) {
            self.raise(told.quarantine(now));
        }
    }

    fn overdue(&self, told: &mut Told, seen: &Seen) {
        // Of a store that could not be read nobody knows what is late.
        let Some(first) = &seen.first else { return };
        let now_ms = self.shared.clock.now_ms();
        let limit = i64::try_from(self.alarm_after_ms).unwrap_or(i64::MAX);
        let late = |h: &HostHour| {
            let ends = Hour::parse(&h.hour).and_then(|hour| self.shared.zone.ends_ms(hour));
            !is_whole(h) && ends.is_some_and(|ends| now_ms.saturating_sub(ends) > limit)
        };
        let after = crate::log::escape(&minutes(self.alarm_after_ms));
        self.raise(told.hours(&seen.hours, first, late, &after));
    }

    /// Remembers what was told, unless something of it waits still.
    fn remember(&self, told: &mut Told) {
        if self.alarms.is_idle()
            && let Err(e) = told.save(&self.shared.disk)
        {
            super::disk_error(&self.shared.disk, &self.world.log, &e);
        }
    }

    fn tell(&self, told: &mut ToMonitor, seen: &Seen) {
        let Some(monitor) = &self.monitor else { return };
        let now = self.shared.clock.mono_ms();
        if now < told.quiet_until_ms {
            return;
        }
        let hours = &seen.hours;
        let all = now >= told.all_again_ms;
        if all {
            told.hours.clear();
        }
        let key = |h: &HostHour| (h.hour.clone(), h.name.clone());
        let changed: Vec<&HostHour> = hours.iter().filter(|h| told.hours.get(&key(h)) != Some(h)).collect();
        let mut parts = chunks(&changed);
        // That there are none at all is to be told, too.
        if all && parts.is_empty() {
            parts.push(Vec::new());
        }
        let first = seen.first.as_ref().filter(|_| all);
        let report = self.shared.clock.now_ms().unsigned_abs();
        let mut left = String::new();
        for (n, chunk) in parts.iter().enumerate() {
            if self.world.quit.requested() {
                return;
            }
            let whole = first.map(|first| {
                [
                    ("report", report.to_string()),
                    ("part", n.saturating_add(1).to_string()),
                    ("parts", parts.len().to_string()),
                    ("first", first.clone()),
                ]
            });
            let answer = match self.ask(monitor, chunk, whole.into_iter().flatten()) {
                Ok(answer) => answer,
                Err(why) => {
                    if !std::mem::replace(&mut told.failing, true) {
                        self.world
                            .log
                            .warn(&format!("monitor {monitor}: {why}; states of hours are told later"));
                    }
                    return;
                }
            };
            if let Err(why) = heartbeat::done(&answer) {
                return self.refused(told, monitor, &why, heartbeat::is_unknown(&answer), now);
            }
            told.hours.extend(chunk.iter().map(|h| (key(h), (*h).clone())));
            if answer.contains_key("left") {
                left = crate::log::escape(answer.get("msg").map_or("", String::as_str));
            }
            told.refused = 0;
            if std::mem::take(&mut told.failing) {
                self.world.log.info(&format!("monitor {monitor}: states of hours are told again"));
            }
        }
        if all {
            told.all_again_ms = now.saturating_add(ALL_MS);
            if !left.is_empty() && left != told.left {
                self.world.log.warn(&format!("monitor {monitor}: {left}"));
            }
            told.left = left;
        }
        let seen: BTreeSet<_> = hours.iter().map(key).collect();
        told.hours.retain(|k, _| seen.contains(k));
    }

    /// It answers, and does not take it.
    fn refused(&self, told: &mut ToMonitor, monitor: &str, why: &str, unknown: bool, now: u64) {
        let log = &self.world.log;
        if unknown {
            told.quiet_until_ms = now.saturating_add(AGAIN_MS);
            let text = format!("it does not take the states of hours: {why}; asked again in an hour");
            return log.info(&format!("monitor {monitor}: {text}"));
        }
        let wait_ms = REFUSED_MS.checked_shl(told.refused.min(20)).unwrap_or(ALL_MS).min(ALL_MS);
        told.quiet_until_ms = now.saturating_add(wait_ms);
        told.refused = told.refused.saturating_add(1);
        if !std::mem::replace(&mut told.failing, true) {
            log.warn(&format!("monitor {monitor}: {why}; states of hours are told later"));
        }
    }

    /// The monitor's answer. An error is of the way there.
    fn ask(
        &self,
        monitor: &str,
        hours: &[&HostHour],
        whole: impl Iterator<Item = (&'static str, String)>,
    ) -> Result<Message, String> {
        let me = lock(&self.world.me).clone();
        let list = serde_json::to_string(hours).unwrap_or_default();
        // The same after a restart, and another one of another store on this host.
        let store = hex(&Seal::of(self.state_dir.as_os_str().as_encoded_bytes()).sha256);
        let mut more: Vec<(&str, String)> = whole.collect();
        more.push(("hours", list));
        more.push(("store", store.chars().take(16).collect()));
        pulse::reach(monitor, |to| {
            heartbeat::ask(to, ASK, |own| {
                let mut m = me.request("hours", Some(own));
                m.extend(more.iter().map(|(k, v)| ((*k).to_owned(), v.clone())));
                m
            })
        })
    }
}

/// Is there nothing to wait for?
fn is_whole(h: &HostHour) -> bool {
    matches!(h.state.as_str(), "verified" | "empty" | "unverified")
}

fn minutes(ms: u64) -> String {
    count(ms.checked_div(60_000).unwrap_or(0), "minute")
}

/// Parts of a list that fit into a frame each.
fn chunks<'h>(hours: &[&'h HostHour]) -> Vec<Vec<&'h HostHour>> {
    let (mut all, mut part, mut size) = (Vec::new(), Vec::new(), 0_usize);
    for hour in hours {
        let json = serde_json::to_string(hour).unwrap_or_default();
        // The list is a string in the frame: quotes and backslashes get another one before them.
        let escapes = json.bytes().filter(|b| *b == b'"' || *b == b'\\').count();
        let len = json.len().saturating_add(escapes).saturating_add(1);
        if size.saturating_add(len) > CHUNK && !part.is_empty() {
            all.push(std::mem::take(&mut part));
            size = 0;
        }
        size = size.saturating_add(len);
        part.push(*hour);
    }
    if !part.is_empty() {
        all.push(part);
    }
    all
}

/// Files of a directory and of those in it.
fn files(disk: &Disk, dir: &Path) -> disk::Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    if disk.stat(dir)?.is_none() {
        return Ok(found);
    }
    for entry in disk.list(dir)? {
        if entry.is_dir {
            let inside = disk.list(&dir.join(&entry.name))?;
            found.extend(inside.into_iter().map(|e| format!("{}/{}", entry.name, e.name)));
        } else {
            found.insert(entry.name);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_cut_so_that_each_part_fits_into_a_frame() {
        let hour = |n: usize| HostHour {
            name: format!("web{n}"),
            hour: "2026112205".into(),
            state: "gaps".into(),
            missing: vec![(1, 2); n % 20],
            note: "\"\\".repeat(n % 500),
            ..HostHour::default()
        };
        let all: Vec<HostHour> = (0..5_000).map(hour).collect();
        let list: Vec<&HostHour> = all.iter().collect();
        let parts = chunks(&list);
        assert_eq!(parts.concat(), list);
        for part in parts {
            let mut m: heartbeat::Message = [("req".to_owned(), "hours".to_owned())].into();
            m.insert("hours".into(), serde_json::to_string(&part).unwrap());
            assert!(heartbeat::frame(&m).len() < heartbeat::FRAME_MAX - 1_000);
        }
        assert!(chunks(&[]).is_empty());
    }
}
