//! The follower's side of `logd status`: what of each open hour is sealed, and what is on its way.

use super::super::inventory::Filter;
use super::super::out;
use super::queue::{Queue, Shows};
use crate::config::{Failover, Role, SenderConfig, TailConfig};
use crate::disk::{self, Disk};
use crate::journal::{self, HourLog};
use crate::pack::HourKey;
use crate::roles::admission;
use crate::roles::follower::bound::RouteFile;
use crate::tail::pattern::Pattern;
use crate::tail::{Identity, streams, undated, unpack};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::Path;

/// One hour that the journal holds open.
#[derive(Clone, Debug)]
struct Row {
    key: HourKey,
    log: HourLog,
    /// Length and time of the last change of the source; `None` = it is not there.
    source: Option<(u64, i64)>,
    /// Bytes that are not sealed.
    behind: u64,
    /// The address that it is bound to, if that is not the first.
    bound: Option<String>,
}

impl Row {
    /// How many bytes of its file, or of those that took its place, are not sealed.
    fn count_behind(&mut self, disk: &Disk) -> disk::Result<()> {
        let len = self.source.map_or(0, |(len, _)| len);
        self.behind = match (self.log.clock, self.log.is_done()) {
            (false, _) => len.saturating_sub(self.log.pos),
            // What comes to a file without a date is the next hour's.
            (true, true) => 0,
            (true, false) => undated::behind(disk, &self.log.path, &self.log)?,
        };
        Ok(())
    }

    /// For how long there have been bytes that are not sealed, at least. A follower that does not run has sealed none since
    /// it last wrote its journal.
    fn behind_ms(&self, now_ms: i64, stopped_ms: Option<i64>) -> u64 {
        if self.behind == 0 {
            return 0;
        }
        let since = self.source.map(|(_, at)| at).into_iter().chain(stopped_ms).min().unwrap_or(now_ms);
        u64::try_from(now_ms.saturating_sub(since)).unwrap_or(0)
    }

    /// Bytes of its file that are sealed.
    fn sealed(&self) -> u64 {
        if self.log.clock {
            self.log.cuts.iter().map(|c| c.end.saturating_sub(c.start)).sum()
        } else {
            self.log.pos
        }
    }

    fn unacked_bytes(&self) -> u64 {
        let cuts = self.log.unacked.iter().filter_map(|id| self.log.cut(*id));
        cuts.map(|c| c.end.saturating_sub(c.start)).sum()
    }
}

/// See the module's header.
pub struct Follower {
    rows: Vec<Row>,
    archived: usize,
    queue: Queue,
    /// What is said of several addresses.
    route: Option<Route>,
    /// Why the follower finds no files.
    blind: Option<String>,
    /// Files that match and are not followed.
    problems: Vec<String>,
    /// Why a start would refuse its key.
    key: Option<String>,
    now_ms: i64,
    /// When the journal was last written, if the follower does not run.
    stopped_ms: Option<i64>,
}

/// Where packs go, while that is not simply the first address.
#[derive(Debug)]
struct Route {
    used: String,
    silent: Vec<Silent>,
}

/// An address that does not answer.
#[derive(Debug)]
struct Silent {
    addr: String,
    since_ms: i64,
    /// Packs that no other address may get.
    packs: usize,
}

impl Route {
    /// `None` = there is nothing to tell.
    fn read(disk: &Disk, state_dir: &Path, conf: &SenderConfig, rows: &[Row]) -> Option<Self> {
        let found = RouteFile::load(disk, state_dir).unwrap_or_default().filter(|_| conf.send_to.len() > 1);
        let waits_for = |row: &Row, addr: &String| match &row.log.bound {
            Some(bound) if conf.failover == Failover::Hour => bound == addr,
            _ => false,
        };
        let count = |addr: &String| {
            rows.iter().filter(|row| waits_for(row, addr)).map(|row| row.log.unacked.len()).sum()
        };
        found.map(|file| {
            let named = file.silent.into_iter().filter(|(addr, _)| conf.send_to.contains(addr));
            let silent = named.map(|(addr, since_ms)| Silent { packs: count(&addr), addr, since_ms });
            Self { silent: silent.collect(), used: file.used }
        })
    }

    fn wrong(&self, now_ms: i64) -> impl Iterator<Item = String> + '_ {
        self.silent.iter().map(move |s| {
            let since = u64::try_from(now_ms.saturating_sub(s.since_ms)).unwrap_or(0);
            let rest = if self.used == s.addr {
                "all else waits, too".to_owned()
            } else {
                format!("all else goes to {}", self.used)
            };
            let what = match s.packs {
                0 => format!("no pack has to wait for it, {rest}"),
                n => format!(
                    "{} for it alone, of hours that it has begun to acknowledge, {rest}; if it is gone for good, `logd \
                     resend --to` sends such hours elsewhere",
                    if n == 1 { "1 pack waits".to_owned() } else { format!("{n} packs wait") }
                ),
            };
            format!("{} does not answer since {}: {what}", s.addr, out::duration(since))
        })
    }

    fn json(&self) -> Value {
        let silent: Vec<Value> = self
            .silent
            .iter()
            .map(|s| json!({"addr": s.addr, "since_ms": s.since_ms, "packs": s.packs}))
            .collect();
        json!({"used": self.used, "silent": silent})
    }
}

/// Why nothing can be read of these files, as far as one look tells.
fn unread(disk: &Disk, pattern: &Pattern) -> Option<String> {
    let newest = if pattern.is_dated() {
        match unpack::existing(pattern, disk) {
            Ok(hours) => hours.last().map(|hour| pattern.path(*hour)),
            Err(e) => return Some(e.to_string()),
        }
    } else {
        Some(pattern.file())
    };
    let Some(path) = newest else {
        return Some(format!(
            "{pattern}: there is no file of such a name; compare log_file with those that are there"
        ));
    };
    match disk.stat(&path) {
        Ok(Some(stat)) if stat.is_file => disk.open(&path).err().map(|e| e.to_string()),
        Ok(Some(_)) => Some(format!("{}: not a file; nothing can be read of it", path.display())),
        Ok(None) if !pattern.is_dated() => {
            Some(format!("{}: not there; it is waited for; is log_file spelt right?", path.display()))
        }
        Ok(_) => None,
        Err(e) => Some(e.to_string()),
    }
}

impl Follower {
    /// Looks at journal, files and retry spool.
    pub fn read(
        disk: &Disk,
        config: &TailConfig,
        state_dir: &Path,
        filter: &Filter,
        now_ms: i64,
    ) -> disk::Result<Self> {
        let (mut blind, mut problems) = (None, Vec::new());
        match streams::sources(config) {
            Err(why) => blind = Some(format!("{why}; `logd check` tells more")),
            Ok(sources) => {
                for source in &sources {
                    if let Err(e) = disk.list(&source.pattern.directory()) {
                        blind = Some(format!(
                            "{e}: no log file can be found there; the follower's user (run this as that one) \
                             must be able to list it"
                        ));
                    }
                }
                // The name only matters for its length here.
                let host = config.name.as_deref().unwrap_or("h");
                let (found, told) =
                    streams::find(disk, &sources, host, state_dir, &streams::known_files(disk, state_dir));
                problems = told;
                let unread = |f: &streams::Found| unread(disk, &f.pattern);
                problems.extend(found.iter().filter(|_| blind.is_none()).filter_map(unread));
                let matched = |i: usize| found.iter().any(|f| f.source == i);
                problems.extend(sources.iter().enumerate().filter(|(i, _)| !matched(*i)).map(|(_, s)| {
                    format!(
                        "{}: nothing matches it; compare log_file with the names that are there",
                        s.pattern
                    )
                }));
            }
        }
        let mut rows = Vec::new();
        let (hours, bad) = journal::peek(disk, state_dir)?;
        for (key, log) in hours.into_iter().filter(|(key, _)| filter.takes(key)) {
            let source = match disk.stat(&log.path) {
                // For the same reason; the rest is worth telling.
                Err(_) if blind.is_some() => None,
                found => {
                    let found = found?;
                    if found.as_ref().is_some_and(|s| !s.is_file) {
                        problems.push(format!(
                            "{key}: {}: not a file any more; the hour waits for it, and no other one does",
                            log.path.display()
                        ));
                    }
                    found.map(|s| (s.len, s.mtime_ms))
                }
            };
            // The first address goes without saying, and one that is not named any more binds nothing.
            let binds = config.sender.failover == Failover::Hour;
            let mut others = config.sender.send_to.iter().skip(1).filter(|_| binds);
            let bound = others.find(|addr| log.bound.as_ref() == Some(*addr)).cloned();
            let mut row = Row { key, log, source, behind: 0, bound };
            match row.count_behind(disk) {
                Err(_) if blind.is_some() => {}
                Err(e) => problems.push(e.to_string()),
                Ok(()) => {}
            }
            rows.push(row);
        }
        let archive = state_dir.join("journal").join("hours");
        let archived = match disk.list(&archive) {
            Ok(list) => {
                let keys = list.iter().filter_map(|e| HourKey::parse(&e.name));
                keys.filter(|key| filter.takes(key)).count()
            }
            Err(e) if e.not_found() => 0,
            Err(e) => return Err(e),
        };
        let mut queue = Queue::read(disk, state_dir, Role::Tail, &config.spool)?;
        queue.shows = Shows {
            key: config.key_file.is_some(),
            certificate: config.sender.tls.as_ref().is_some_and(|tls| tls.own.is_some()),
            relay: false,
        };
        let route = Route::read(disk, state_dir, &config.sender, &rows);
        let journal = disk.stat(&state_dir.join("journal").join("log"))?;
        let stopped_ms = journal.filter(|_| queue.running == Some(false)).map(|s| s.mtime_ms);
        // One that runs has read both, and writes one of them meanwhile.
        if queue.running == Some(false) {
            let begun = Identity::load(disk, &Identity::path(state_dir, ""))?;
            let bad = bad.filter(|_| begun.is_some()).into_iter().chain(begun.and_then(Result::err));
            problems.extend(bad.map(|why| {
                format!("{why}; nothing is lost: its next start sends the hours that are open again, as new copies")
            }));
        }
        let key = admission::check_key(disk, config, state_dir).err();
        Ok(Self { rows, archived, queue, route, blind, problems, key, now_ms, stopped_ms })
    }

    /// For people.
    pub fn text(&self) -> String {
        let done = self.archived;
        let mut text = format!(
            "  {} under way, {done} closed and wholly acknowledged\n",
            out::count(self.rows.len(), "hour")
        );
        for row in &self.rows {
            let log = &row.log;
            let copy = if log.generation > 0 { format!(" copy {}", log.generation) } else { String::new() };
            let now =
                row.source.map_or("not there any more".into(), |(len, _)| format!("now {}", out::bytes(len)));
            let sealed = out::bytes(row.sealed());
            let _ = write!(text, "  {}{copy}: {}: sealed {sealed}, {now}", row.key, log.path.display());
            if row.behind > 0 {
                let time = out::duration(row.behind_ms(self.now_ms, self.stopped_ms));
                let _ = write!(text, ", behind {} since {time}", out::bytes(row.behind));
            }
            match log.unacked.len() {
                0 => text += ", all acknowledged",
                n => {
                    let bytes = out::bytes(row.unacked_bytes());
                    let _ = write!(text, ", {} ({bytes}) not acknowledged", out::count(n, "pack"));
                }
            }
            if let Some(addr) = &row.bound {
                let _ = write!(text, ", bound to {addr}");
            }
            text += if log.is_done() { ", closed\n" } else { "\n" };
        }
        let _ = writeln!(text, "  {}", self.queue.summary("retry spool"));
        text
    }

    /// Bytes of the hours under way that were acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.rows.iter().map(|r| r.sealed().saturating_sub(r.unacked_bytes())).sum()
    }

    /// What somebody must look at.
    pub fn wrong(&self) -> Vec<String> {
        let mut list: Vec<String> = self.blind.iter().chain(&self.problems).cloned().collect();
        for row in &self.rows {
            let log = &row.log;
            if !log.notes.is_empty() {
                let lost = log.loss_text();
                let range = if lost.is_empty() { String::new() } else { format!(", lost bytes {lost}") };
                list.push(format!(
                    "{}: {}{range}: its hour will have no tag; compare {} with what is stored",
                    row.key,
                    log.state(),
                    log.path.display()
                ));
            }
            if row.source.is_none() && !log.is_done() && !log.clock && self.blind.is_none() {
                list.push(format!(
                    "{}: {}: gone before the hour was closed; what was sealed is still sent; put it back, or look why it \
                     was removed so early",
                    row.key,
                    log.path.display()
                ));
            }
        }
        let waiting: usize = self.rows.iter().map(|row| row.log.unacked.len()).sum();
        let behind: u64 = self.rows.iter().map(|row| row.behind).sum();
        if self.queue.running == Some(false) && behind > 0 && waiting == 0 {
            list.push(format!(
                "NOT RUNNING, and {} of its files are not sent: start it with `logd tail CONFIG`",
                out::bytes(behind)
            ));
        }
        // It is an early word: when the spool is full the file is not read any more.
        let destroyed: u64 = self.rows.iter().filter(|row| row.log.clock).map(|row| row.behind).sum();
        if destroyed > 0 && self.queue.spool_bytes > self.queue.spool_size / 2 {
            list.push(format!(
                "the retry spool is more than half full ({} of {}), and {} of files that rotation may destroy are not read: \
                 see why packs are not acknowledged, or raise spool_size",
                out::bytes(self.queue.spool_bytes),
                out::bytes(self.queue.spool_size),
                out::bytes(destroyed)
            ));
        }
        list.extend(self.route.iter().flat_map(|r| r.wrong(self.now_ms)));
        list.extend(
            self.key
                .iter()
                .map(|why| format!("{why}; so a start is refused: mend it and start the follower")),
        );
        list.extend(self.queue.wrong(waiting, self.now_ms));
        list
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                json!({
                    "name": row.key.name, "hour": row.key.hour.to_string(), "gen": row.log.generation,
                    "path": row.log.path.display().to_string(), "sealed": row.log.pos,
                    "size": row.source.map(|s| s.0), "behind": row.behind,
                    "behind_ms": row.behind_ms(self.now_ms, self.stopped_ms), "packs": row.log.cuts.len(),
                    "unacknowledged": row.log.unacked.len(), "unacknowledged_bytes": row.unacked_bytes(),
                    "closed": row.log.is_done(), "state": row.log.state(), "loss": row.log.loss_text(),
                    "bound": row.log.bound,
                })
            })
            .collect();
        json!({
            "role": "tail", "hours": rows, "archived": self.archived, "blind": self.blind,
            "key": self.key, "route": self.route.as_ref().map(Route::json), "queue": self.queue.json(),
        })
    }
}
