//! The ETL of a store: each certified hour becomes rows, by a few threads beside the store's own.
//!
//! What is to be done is found out, not remembered: an hour whose certificate is not the one in its marker. So nothing has to
//! be durable between a certificate and its rows, and at a start all hours are compared.

use super::super::serve::{Shared, spawn};
use crate::config::EtlConfig;
use crate::disk::{self, Disk, File};
use crate::etl::fields::Source;
use crate::etl::rules::{Rules, Watched};
use crate::etl::tables::{Input, Marker, Origin, Outcome, Tables};
use crate::integrity::{Certificate, Store};
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

/// How often a worker without work looks whether the role stops.
const LOOK: Duration = Duration::from_millis(200);

/// Rules and tables, ready to work.
pub struct Etl {
    tables: Tables,
    rules: Mutex<Watched>,
    store: Store,
    workers: usize,
}

impl Etl {
    /// Opens the tables of a store. Wrong rules end a start.
    pub fn open(
        disk: &Disk,
        conf: &EtlConfig,
        state_dir: &Path,
        report: &mut dyn FnMut(String),
    ) -> Result<Self, String> {
        let rules = Watched::load(disk, conf).map_err(|e| e.join("\n"))?;
        let s = &conf.store;
        let store = Store::new(disk, &s.save_dir, state_dir, s.file_mode, s.dir_mode);
        let tables = Tables::open(disk, conf, report)?;
        Ok(Self { tables, rules: Mutex::new(rules), store, workers: conf.workers })
    }

    /// Hours whose rows are not those of their certificate.
    pub fn pending(&self) -> disk::Result<Vec<HourKey>> {
        let mut list = Vec::new();
        for key in self.store.closed_list()? {
            if self.certificate(&key)?.is_some_and(|c| !self.is_done(&key, &c).unwrap_or(false)) {
                list.push(key);
            }
        }
        Ok(list)
    }

    fn certificate(&self, key: &HourKey) -> disk::Result<Option<Certificate>> {
        Ok(self.store.closed(key)?.filter(Certificate::is_tag))
    }

    fn is_done(&self, key: &HourKey, cert: &Certificate) -> disk::Result<bool> {
        let name = key.to_string();
        let same = |m: &Marker| is_of(&m.source, cert);
        if self.tables.done(&name)?.as_ref().is_some_and(same) {
            return Ok(true);
        }
        // What failed fails again, unless the rules are others.
        let rules = lock(&self.rules).now(self.store.disk()).0;
        Ok(self.tables.failed(&name)?.is_some_and(|m| same(&m) && m.rules == rules.digest))
    }

    /// Makes the rows of one hour, if it is certified and they are not there; a sentence about it, with whether it is good news.
    pub fn hour(
        &self,
        key: &HourKey,
        now_secs: i64,
        stop: &mut dyn FnMut(u64) -> bool,
    ) -> disk::Result<Option<(bool, String)>> {
        let Some(cert) = self.certificate(key)? else { return Ok(None) };
        if self.is_done(key, &cert)? {
            return Ok(None);
        }
        let (rules, wrong) = lock(&self.rules).now(self.store.disk());
        let mut told = wrong.join("; ");
        if !told.is_empty() {
            told.push_str("; the rules go on as they were before; ");
        }
        let place = self.store.place(key);
        let mut lines: Box<dyn Read> = match self.store.disk().open(&place.data) {
            Ok(file) => Box::new(Reading { file, at: 0 }),
            Err(e) if e.not_found() && cert.bytes == 0 => Box::new(io::empty()),
            Err(e) if e.not_found() => {
                let why = "its data file was taken away before its rows were made; put it back, or run `logd etl` on it";
                self.tables.cannot(&key.to_string(), origin(&cert), &rules, why, now_secs)?;
                metrics::FAILED_HOURS.inc();
                return Ok(Some((false, format!("{told}{key}: etl: {why}"))));
            }
            Err(e) => return Err(e),
        };
        let name = key.to_string();
        let mut input = Input {
            name: &name,
            source: Source { name: key.name.clone(), hour: key.hour.to_string() },
            lines: &mut *lines,
            path: &place.data,
            origin: origin(&cert),
        };
        let outcome = self.tables.run(&mut input, &rules, now_secs, stop)?;
        let said = describe(&outcome);
        if let Outcome::Done(m) | Outcome::Failed(m) = &outcome {
            metrics::REJECTED_LINES.add(sum(&m.rejected));
        }
        match &outcome {
            Outcome::Done(m) => {
                metrics::ROWS.add(sum(&m.rows));
                metrics::TABLED_HOURS.inc();
            }
            Outcome::Failed(_) => metrics::FAILED_HOURS.inc(),
            Outcome::Changed | Outcome::Stopped => {}
        }
        Ok(match outcome {
            Outcome::Done(_) => Some((told.is_empty(), format!("{told}{key}: etl: {said}"))),
            Outcome::Failed(_) => Some((false, format!("{told}{key}: etl: {said}"))),
            // It is certified anew, and comes again; or at the next start.
            Outcome::Changed | Outcome::Stopped => None,
        })
    }

    /// The tables, for whoever has other lines than the store's.
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// The rules as they are now.
    pub fn rules(&self) -> Arc<Rules> {
        lock(&self.rules).now(self.store.disk()).0
    }
}

fn origin(cert: &Certificate) -> Origin {
    Origin {
        generation: cert.generation,
        revision: cert.revision,
        bytes: cert.bytes,
        sha256: cert.sha256.clone(),
    }
}

fn is_of(source: &Origin, cert: &Certificate) -> bool {
    (source.generation, source.revision) == (cert.generation, cert.revision)
        && (cert.sha256.is_empty() || cert.sha256 == source.sha256)
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
                "{}; they are in etl_reject/{}; rows of an earlier run stand as they were",
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

/// A file of the store, from its beginning.
struct Reading {
    file: File,
    at: u64,
}

impl Read for Reading {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read_at(buf, self.at)?;
        self.at = self.at.saturating_add(n as u64);
        Ok(n)
    }
}

#[derive(Default)]
struct Queue {
    waiting: BTreeSet<(crate::clock::Hour, String)>,
    /// Two workers on one hour would be in each other's way.
    busy: BTreeSet<(crate::clock::Hour, String)>,
}

/// The workers.
pub struct Workers {
    queue: Arc<(Mutex<Queue>, Condvar)>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts them, with the hours that a stop or a crash has left.
    pub fn start(etl: Etl, s: &Arc<Shared>) -> Self {
        let (etl, queue) = (Arc::new(etl), Arc::<(Mutex<Queue>, Condvar)>::default());
        let threads = (0..etl.workers).map(|n| {
            let (etl, queue, s) = (Arc::clone(&etl), Arc::clone(&queue), Arc::clone(s));
            spawn("etl", move || {
                if n == 0 {
                    // In a thread: with many hours it takes a while, and the store receives meanwhile.
                    match etl.pending() {
                        Ok(list) => lock(&queue.0).waiting.extend(list.into_iter().map(|k| (k.hour, k.name))),
                        Err(e) => super::super::disk_error(&s.disk, &s.log, &e),
                    }
                    queue.1.notify_all();
                }
                work(&etl, &queue, &s);
            })
        });
        Self { threads: threads.collect(), queue }
    }

    /// These hours were certified.
    pub fn certified(&self, keys: Vec<HourKey>) {
        if !keys.is_empty() {
            lock(&self.queue.0).waiting.extend(keys.into_iter().map(|k| (k.hour, k.name)));
            self.queue.1.notify_all();
        }
    }

    /// Waits for them; the role has been told to stop.
    pub fn join(self) {
        self.queue.1.notify_all();
        for thread in self.threads {
            // A panic has ended the process.
            let _ = thread.join();
        }
    }
}

fn work(etl: &Etl, queue: &(Mutex<Queue>, Condvar), s: &Shared) {
    while !s.stop.requested() {
        let mut q = lock(&queue.0);
        // The oldest first: whoever waits for hours waits for them in order.
        metrics::WAITING_HOURS.set(q.waiting.len() as u64);
        let next = q.waiting.iter().find(|k| !q.busy.contains(*k)).cloned();
        let Some(next) = next else {
            drop(queue.1.wait_timeout(q, LOOK));
            continue;
        };
        q.waiting.remove(&next);
        q.busy.insert(next.clone());
        drop(q);
        let key = HourKey { name: next.1.clone(), hour: next.0 };
        let done = etl.hour(&key, s.clock.now_secs(), &mut |_| s.stop.requested());
        let mut q = lock(&queue.0);
        q.busy.remove(&next);
        if done.is_err() {
            q.waiting.insert(next);
        }
        drop(q);
        match done {
            Ok(None) => {}
            Ok(Some((true, text))) => s.log.info(&text),
            Ok(Some((false, text))) => s.log.error(&text),
            Err(e) => super::super::disk_trouble(&s.disk, &s.log, &s.stop, &e),
        }
    }
}
