//! The ETL of a store: each certified hour becomes rows, by a few threads beside the store's own.
//!
//! What is to be done is found out, not remembered: an hour whose certificate is not the one in its marker. So nothing has to
//! be durable between a certificate and its rows, and at a start all hours are compared.
//!
//! An hour that cannot be done waits, for longer each time, and the others go on.

use super::super::serve::{Shared, spawn};
use crate::config::EtlConfig;
use crate::disk::{self, Disk};
use crate::etl::fields::Source;
use crate::etl::marks;
use crate::etl::rules::{Rules, Watched};
use crate::etl::tables::{Input, Origin, Outcome, Tables};
use crate::integrity::{Certificate, Store, packed};
use crate::log::count;
use crate::metrics;
use crate::pack::HourKey;
use crate::receiver::lock;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long a worker without work sleeps.
const IDLE: Duration = Duration::from_millis(200);
/// How often it is looked at the rules, and at what failed, ms.
const LOOK_MS: u64 = 1_000;
/// After so long a store that could not be listed is listed again, ms.
const LIST_MS: u64 = 10_000;
/// The first and the longest wait before an hour is tried again, ms.
const RETRY_MS: (u64, u64) = (1_000, 600_000);
/// How long everything waits after an error that is not one hour's.
const PAUSE: Duration = Duration::from_secs(1);

/// Hours that are to be done.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// Those that have no rows, without those that would fail as they did before.
    New,
    /// All that have no rows, or failed.
    Failed,
    /// Every certified one.
    All,
}

/// What came of an hour, for people.
pub enum Turn {
    /// There was nothing to do.
    Nothing,
    /// It has its rows.
    Done(String),
    /// It fails with these rules.
    Failed(String),
    /// It cannot be done now, and may be later.
    Again(String),
    /// It was told to stop.
    Stopped,
}

/// Rules, and what is to be told of them.
struct Known {
    watched: Watched,
    rules: Arc<Rules>,
    /// What is wrong with them as they are in their files.
    wrong: Option<String>,
    news: Vec<(bool, String)>,
}

/// Rules and tables, ready to work.
pub struct Etl {
    tables: Tables,
    rules: Mutex<Known>,
    store: Store,
    workers: usize,
    min_free: u64,
}

/// What is wrong with the rules of a configuration.
pub fn wrong_rules(disk: &Disk, conf: &EtlConfig) -> Vec<String> {
    Rules::load(disk, conf).err().unwrap_or_default()
}

impl Etl {
    /// Opens the tables of a store. Wrong rules end a start.
    pub fn open(
        disk: &Disk,
        conf: &EtlConfig,
        state_dir: &Path,
        report: &mut dyn FnMut(String),
    ) -> Result<Self, String> {
        let mut watched = Watched::load(disk, conf).map_err(|e| e.join("\n"))?;
        let rules = watched.now(disk).0;
        let s = &conf.store;
        let store = Store::new(disk, &s.save_dir, state_dir, s.file_mode, s.dir_mode);
        let tables = Tables::open(disk, conf, report)?;
        let known = Known { watched, rules, wrong: None, news: Vec::new() };
        Ok(Self {
            tables,
            rules: Mutex::new(known),
            store,
            workers: conf.workers,
            min_free: s.spool.min_free,
        })
    }

    /// Hours whose rows are not those of their certificate.
    pub fn pending(&self, which: Which) -> disk::Result<Vec<HourKey>> {
        let (rules, mut list) = (self.rules(), Vec::new());
        for key in self.store.closed_list()? {
            let open = match self.certificate(&key) {
                Ok(None) => false,
                Ok(Some(cert)) => !self.is_done(&key, &cert, &rules, which).unwrap_or(false),
                Err(e) if e.fatal() => return Err(e),
                // Whoever takes it up tells why it cannot be done.
                Err(_) => true,
            };
            if open {
                list.push(key);
            }
        }
        Ok(list)
    }

    /// What its certificate says of an hour of the store, if it has one.
    pub fn origin(&self, key: &HourKey) -> disk::Result<Option<Origin>> {
        Ok(self.certificate(key)?.as_ref().map(Origin::of))
    }

    fn certificate(&self, key: &HourKey) -> disk::Result<Option<Certificate>> {
        Ok(self.store.closed(key)?.filter(Certificate::is_tag))
    }

    fn is_done(&self, key: &HourKey, cert: &Certificate, rules: &Rules, which: Which) -> disk::Result<bool> {
        let name = key.to_string();
        let failed = self.tables.failed(&name)?;
        if which == Which::All || which == Which::Failed && failed.is_some() {
            return Ok(false);
        }
        // What failed fails again, unless the rules are others or the reason may have passed.
        let fails =
            failed.is_some_and(|m| !m.again && m.source.is_of(cert) && m.rules == self.tables.digest(rules));
        Ok(fails || self.tables.done(&name)?.is_some_and(|m| m.source.is_of(cert)))
    }

    /// Makes the rows of one hour, if it is certified and they are not there.
    pub fn hour(
        &self,
        key: &HourKey,
        which: Which,
        now_secs: i64,
        stop: &mut dyn FnMut(u64) -> bool,
    ) -> disk::Result<Turn> {
        let mut origin = Origin::default();
        match self.attempt(key, which, now_secs, stop, &mut origin) {
            Err(e) if e.is_of_one_path() => self.cannot(key, origin, &e.to_string(), now_secs),
            other => other,
        }
    }

    fn cannot(&self, key: &HourKey, origin: Origin, why: &str, now_secs: i64) -> disk::Result<Turn> {
        // Without a certificate nobody knows what failed; it is read again each time.
        if origin != Origin::default() {
            self.tables.cannot(&key.to_string(), origin, &self.rules(), why, now_secs)?;
        }
        Ok(Turn::Again(format!("{key}: etl: {why}; no rows are made of it, its lines stay where they are")))
    }

    fn attempt(
        &self,
        key: &HourKey,
        which: Which,
        now_secs: i64,
        stop: &mut dyn FnMut(u64) -> bool,
        origin: &mut Origin,
    ) -> disk::Result<Turn> {
        let Some(cert) = self.certificate(key)? else { return Ok(Turn::Nothing) };
        *origin = Origin::of(&cert);
        let rules = self.rules();
        if self.is_done(key, &cert, &rules, which)? {
            return Ok(Turn::Nothing);
        }
        let (disk, data, packed) =
            (self.store.disk(), self.store.place(key).data, packed::path(&self.store, key));
        let (mut lines, path): (Box<dyn Read>, &Path) = match disk.open(&data) {
            Ok(file) => (Box::new(packed::plain(file)), &data),
            Err(e) if e.not_found() && cert.bytes == 0 => (Box::new(io::empty()), &data),
            Err(e) if e.not_found() => match packed::open(disk, &packed) {
                Ok(lines) => (Box::new(lines), &packed),
                Err(e) if e.not_found() => {
                    let why = format!(
                        "its data file was taken away before its rows were made; put it back, or run `logd etl CONFIG` on \
                         it with --name {key}"
                    );
                    return self.cannot(key, origin.clone(), &why, now_secs);
                }
                Err(e) => return Err(e),
            },
            Err(e) => return Err(e),
        };
        let name = key.to_string();
        let mut input = Input {
            name: &name,
            source: Source { name: key.name.clone(), hour: key.hour.to_string() },
            lines: &mut *lines,
            path,
            origin: origin.clone(),
            exact: true,
        };
        let outcome = self.tables.run(&mut input, &rules, now_secs, stop)?;
        if let Outcome::Done(m) | Outcome::Failed(m) = &outcome {
            metrics::REJECTED_LINES.add(sum(&m.rejected));
        }
        let said = format!("{key}: etl: {}", describe(&outcome));
        Ok(match &outcome {
            Outcome::Done(m) => {
                metrics::ROWS.add(sum(&m.rows));
                metrics::TABLED_HOURS.inc();
                Turn::Done(said)
            }
            Outcome::Failed(_) => {
                metrics::FAILED_HOURS.inc();
                Turn::Failed(said)
            }
            Outcome::Changed if self.certificate(key)?.as_ref() == Some(&cert) => {
                let why =
                    "its bytes are not those of its certificate; `logd verify` tells more and what to do";
                return self.cannot(key, origin.clone(), why, now_secs);
            }
            // It is certified anew, and comes again.
            Outcome::Changed => Turn::Nothing,
            Outcome::Stopped => Turn::Stopped,
        })
    }

    /// Must what is left of the disk be left?
    fn is_short(&self) -> bool {
        let short = self.store.disk().shortage(&self.store.path(""), self.min_free);
        // What cannot be asked is found out by whoever writes.
        short.is_ok_and(|s| s.is_some())
    }

    /// The tables, for whoever has other lines than the store's.
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// The rules as they are now; wrong ones are told once, and those before go on.
    pub fn rules(&self) -> Arc<Rules> {
        let mut known = lock(&self.rules);
        let (rules, wrong) = known.watched.now(self.store.disk());
        if !wrong.is_empty() {
            let why = wrong.join("; ");
            known.news.push((false, format!("rules: {why}; the rules go on as they were before")));
            known.wrong = Some(why);
        } else if !Arc::ptr_eq(&rules, &known.rules) {
            known.news.push((true, "rules: read again".into()));
            known.wrong = None;
        }
        known.rules = Arc::clone(&rules);
        rules
    }

    /// What was found out of the rules since the last call, with whether it is good; and what is wrong with them now.
    fn told_of_rules(&self) -> (Vec<(bool, String)>, Option<String>) {
        let _ = self.rules();
        let mut known = lock(&self.rules);
        (std::mem::take(&mut known.news), known.wrong.clone())
    }

    /// Why not all is well with the tables, and how many hours failed.
    fn trouble(&self, rules: Option<String>) -> disk::Result<(u64, Option<String>)> {
        const NAMED: usize = 3;
        let failed = marks::failed(self.store.disk(), &self.store.path(""))?;
        let mut why: Vec<String> = rules.map(|r| format!("the rules: {r}")).into_iter().collect();
        if !failed.is_empty() {
            let names: Vec<&str> = failed.iter().take(NAMED).map(String::as_str).collect();
            let more = if failed.len() > NAMED { " and others" } else { "" };
            why.push(format!(
                "{} without rows ({}{more}); `logd status` tells why and what to do",
                count(failed.len(), "hour"),
                names.join(", ")
            ));
        }
        Ok((failed.len() as u64, Some(why.join("; ")).filter(|w| !w.is_empty())))
    }
}

fn sum(counts: &BTreeMap<String, u64>) -> u64 {
    counts.values().fold(0_u64, |s, n| s.saturating_add(*n))
}

/// What came of it, for people.
pub fn describe(outcome: &Outcome) -> String {
    let marker = match outcome {
        Outcome::Done(marker) => marker,
        Outcome::Failed(marker) => {
            return format!(
                "{}; they are in etl_reject/{}; rows of an earlier run stand as they were; mend log_format, the columns file \
                 or max_reject and it is done again, by a running role for the files, else at its start or by `logd etl`",
                marker.failed, marker.name
            );
        }
        Outcome::Changed => return "it is being changed; it comes again".into(),
        Outcome::Stopped => return "stopped; nothing was changed".into(),
    };
    let rejected = sum(&marker.rejected);
    let more = if rejected == 0 { String::new() } else { format!(" (etl_reject/{})", marker.name) };
    format!(
        "{}: {} in {}, {} filtered, {rejected} rejected{more}",
        count(marker.lines, "line"),
        count(sum(&marker.rows), "row"),
        count(marker.files.len(), "file"),
        sum(&marker.filtered)
    )
}

type Id = (crate::clock::Hour, String);

/// An hour that is tried again.
#[derive(Default)]
struct Later {
    at_ms: u64,
    wait_ms: u64,
    told: String,
}

#[derive(Default)]
struct Queue {
    waiting: BTreeSet<Id>,
    /// Two workers on one hour would be in each other's way.
    busy: BTreeSet<Id>,
    /// Of those that wait, which were tried.
    later: BTreeMap<Id, Later>,
    look_ms: u64,
    /// When the store is to be listed; `None` = it was.
    list_ms: Option<u64>,
}

struct All {
    etl: Etl,
    queue: Mutex<Queue>,
    more: Condvar,
    shared: Arc<Shared>,
}

/// The workers.
pub struct Workers {
    all: Arc<All>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts them, with the hours that a stop or a crash has left.
    pub fn start(etl: Etl, s: &Arc<Shared>) -> Self {
        let (workers, shared) = (etl.workers, Arc::clone(s));
        let queue = Mutex::new(Queue { list_ms: Some(0), ..Queue::default() });
        let all = Arc::new(All { etl, queue, more: Condvar::new(), shared });
        let threads = (0..workers).map(|_| {
            let all = Arc::clone(&all);
            spawn("etl", move || all.work())
        });
        Self { threads: threads.collect(), all }
    }

    /// These hours were certified.
    pub fn certified(&self, keys: Vec<HourKey>) {
        if keys.is_empty() {
            return;
        }
        let mut q = lock(&self.all.queue);
        for id in keys.into_iter().map(|k| (k.hour, k.name)) {
            // What was wrong was so with another copy.
            q.later.remove(&id);
            q.waiting.insert(id);
        }
        self.all.more.notify_all();
    }

    /// Waits for them; the role has been told to stop.
    pub fn join(self) {
        self.all.more.notify_all();
        for thread in self.threads {
            // A panic has ended the process.
            let _ = thread.join();
        }
    }
}

impl All {
    fn work(&self) {
        let s = &self.shared;
        while !s.stop.requested() {
            let (now, paused) = (s.clock.mono_ms(), lock(&s.paused).is_some());
            let mut q = lock(&self.queue);
            if now >= q.look_ms {
                q.look_ms = now.saturating_add(LOOK_MS);
                // In a worker: with many hours it takes a while, and the store receives meanwhile.
                let list = q.list_ms.take_if(|at| *at <= now).is_some();
                drop(q);
                self.look(list, now);
                continue;
            }
            metrics::WAITING_HOURS.set(q.waiting.len() as u64);
            // The oldest first: whoever waits for hours waits for them in order.
            let due = |id: &Id| !q.busy.contains(id) && q.later.get(id).is_none_or(|l| l.at_ms <= now);
            let next = q.waiting.iter().filter(|_| !paused).find(|id| due(id)).cloned();
            let Some(next) = next else {
                drop(self.more.wait_timeout(q, IDLE));
                continue;
            };
            q.waiting.remove(&next);
            q.busy.insert(next.clone());
            drop(q);
            let key = HourKey { name: next.1.clone(), hour: next.0 };
            // What it has written is in the way of what must be stored.
            let mut stop = |_| s.stop.requested() || self.etl.is_short();
            let turn = self.etl.hour(&key, Which::New, s.clock.now_secs(), &mut stop);
            self.ended(next, turn);
        }
    }

    /// The rules, what failed, and if asked for all hours of the store.
    fn look(&self, list: bool, now: u64) {
        let s = &self.shared;
        let (news, wrong) = self.etl.told_of_rules();
        for (good, text) in news {
            if good {
                s.log.info(&text);
                // What failed may not fail any more.
                lock(&self.queue).list_ms = Some(now);
            } else {
                s.log.error(&text);
            }
        }
        match self.etl.trouble(wrong) {
            Ok((failed, why)) => {
                metrics::HOURS_WITHOUT_ROWS.set(failed);
                s.health.set("tables", why);
            }
            Err(e) => s.health.set("tables", Some(e.to_string())),
        }
        if !list {
            return;
        }
        match self.etl.pending(Which::New) {
            Ok(found) => {
                lock(&self.queue).waiting.extend(found.into_iter().map(|k| (k.hour, k.name)));
                self.more.notify_all();
            }
            Err(e) => {
                super::super::disk_error(&s.disk, &s.log, &e);
                lock(&self.queue).list_ms = Some(now.saturating_add(LIST_MS));
            }
        }
    }

    fn ended(&self, id: Id, turn: disk::Result<Turn>) {
        let s = &self.shared;
        let told = match &turn {
            Ok(Turn::Again(why)) => why.clone(),
            Ok(Turn::Stopped) => String::new(),
            Err(e) => e.to_string(),
            Ok(Turn::Nothing | Turn::Done(_) | Turn::Failed(_)) => {
                let mut q = lock(&self.queue);
                q.busy.remove(&id);
                q.later.remove(&id);
                drop(q);
                return match turn {
                    Ok(Turn::Done(text)) => s.log.info(&text),
                    Ok(Turn::Failed(text)) => s.log.error(&text),
                    _ => {}
                };
            }
        };
        let mut q = lock(&self.queue);
        q.busy.remove(&id);
        q.waiting.insert(id.clone());
        let later = q.later.entry(id).or_default();
        later.wait_ms = later.wait_ms.saturating_mul(2).clamp(RETRY_MS.0, RETRY_MS.1);
        later.at_ms = s.clock.mono_ms().saturating_add(later.wait_ms);
        let fresh = later.told != told;
        later.told = told;
        drop(q);
        match turn {
            Ok(Turn::Again(why)) if fresh => {
                metrics::FAILED_HOURS.inc();
                s.log.error(&format!("{why}; it is tried again, at last every 10 minutes"));
            }
            Err(e) => {
                if fresh || e.fatal() {
                    super::super::disk_error(&s.disk, &s.log, &e);
                }
                s.stop.wait(PAUSE);
            }
            Ok(_) => {}
        }
    }
}
