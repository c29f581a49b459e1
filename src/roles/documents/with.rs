//! The savers: threads that write the lines of a store to its database, beside the store's own.
//!
//! One saver at a time works for a sender, on the oldest of its hours first, so that of lines with one transaction id the last
//! one wins.

use super::super::serve::{Shared, spawn};
use crate::clock::Hour;
use crate::config::MongoConfig;
use crate::disk::Disk;
use crate::documents::hour::{Documents, Stopped, Turn};
use crate::documents::server::Server;
use crate::documents::shape::Work;
use crate::documents::{Marker, note_trouble};
use crate::log::count;
use crate::metrics;
use crate::pack::HourKey;
use crate::receiver::lock;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often a saver without work looks whether the role stops.
const LOOK: Duration = Duration::from_millis(200);
/// The first and the longest wait before a database that does not answer is asked again.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// Opens what the savers need. A configuration that cannot be used ends a start; a database that does not answer does not.
pub fn open(disk: &Disk, conf: &MongoConfig, state_dir: &Path) -> Result<Documents, String> {
    Documents::open(disk, conf, state_dir)
}

#[derive(Default)]
struct Queue {
    waiting: BTreeSet<(Hour, String)>,
    /// Senders that are worked for.
    busy: BTreeSet<String>,
    /// Why a hour does not go on, once it was told.
    told: BTreeMap<(Hour, String), String>,
}

struct All {
    documents: Documents,
    queue: Mutex<Queue>,
    more: Condvar,
    shared: Arc<Shared>,
    state_dir: PathBuf,
    /// Why the database takes nothing; empty = it does.
    trouble: Mutex<String>,
}

/// The savers.
pub struct Savers {
    all: Arc<All>,
    threads: Vec<JoinHandle<()>>,
}

impl Savers {
    /// Starts them, with what a stop or a crash has left.
    pub fn start(documents: Documents, s: &Arc<Shared>, state_dir: &Path) -> Self {
        let savers = documents.conf().savers;
        // What an earlier process met.
        if let Err(e) = note_trouble(&s.disk, state_dir, None) {
            super::super::disk_error(&s.disk, &s.log, &e);
        }
        let all = Arc::new(All {
            documents,
            queue: Mutex::default(),
            more: Condvar::new(),
            shared: Arc::clone(s),
            state_dir: state_dir.to_owned(),
            trouble: Mutex::default(),
        });
        let threads = (0..savers).map(|n| {
            let all = Arc::clone(&all);
            spawn("saver", move || {
                if n == 0 {
                    match all.documents.pending() {
                        Ok(list) => all.grown(list),
                        Err(e) => super::super::disk_error(&all.shared.disk, &all.shared.log, &e),
                    }
                }
                all.work();
            })
        });
        Self { threads: threads.collect(), all }
    }

    /// These hours have more packs, or a certificate.
    pub fn grown(&self, keys: Vec<HourKey>) {
        self.all.grown(keys);
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
    fn grown(&self, keys: Vec<HourKey>) {
        if !keys.is_empty() {
            lock(&self.queue).waiting.extend(keys.into_iter().map(|k| (k.hour, k.name)));
            self.more.notify_all();
        }
    }

    fn work(&self) {
        let (s, mut retry) = (&self.shared, RETRY.0);
        let stop = s.stop.clone();
        let mut server = Server::new(self.documents.conf(), Box::new(move || stop.requested()));
        let mut work = Work::default();
        while !s.stop.requested() {
            let mut q = lock(&self.queue);
            metrics::WAITING_DOCUMENTS.set(q.waiting.len() as u64);
            let next = q.waiting.iter().find(|(_, name)| !q.busy.contains(name)).cloned();
            let Some(next) = next else {
                drop(self.more.wait_timeout(q, LOOK));
                continue;
            };
            q.waiting.remove(&next);
            q.busy.insert(next.1.clone());
            drop(q);
            let key = HourKey { name: next.1.clone(), hour: next.0 };
            let mut stop = || s.stop.requested();
            let turn = self.documents.hour(&key, &mut server, &mut work, s.clock.now_secs(), &mut stop);
            for text in server.told.drain(..) {
                s.log.warn(&text);
            }
            let mut q = lock(&self.queue);
            q.busy.remove(&next.1);
            if turn.is_err() {
                q.waiting.insert(next.clone());
            }
            drop(q);
            match turn {
                Ok(turn) => {
                    retry = RETRY.0;
                    self.answers(&turn);
                    self.tell(&key, next, turn);
                }
                Err(Stopped::Disk(e)) => super::super::disk_trouble(&s.disk, &s.log, &s.stop, &e),
                Err(Stopped::Stop) => {}
                // Nobody was waited for.
                Err(Stopped::Away(_)) if s.stop.requested() => {}
                Err(Stopped::Away(why)) => {
                    self.away(&why);
                    s.stop.wait(retry);
                    retry = retry.saturating_mul(2).min(RETRY.1);
                }
            }
        }
    }

    fn tell(&self, key: &HourKey, at: (Hour, String), turn: Turn) {
        let s = &self.shared;
        metrics::DOCUMENTS.add(turn.written);
        metrics::REJECTED_DOCUMENTS.add(turn.rejected);
        if let Some(marker) = &turn.done {
            s.log.info(&format!("{key}: database: {}", describe(marker)));
        }
        let mut q = lock(&self.queue);
        match turn.wrong {
            None => drop(q.told.remove(&at)),
            Some(why) if q.told.get(&at) == Some(&why) => {}
            Some(why) => {
                s.log.error(&format!("{key}: database: {why}"));
                q.told.insert(at, why);
            }
        }
    }

    fn answers(&self, turn: &Turn) {
        let s = &self.shared;
        let mut trouble = lock(&self.trouble);
        if trouble.is_empty() || turn.written == 0 && turn.done.is_none() {
            return;
        }
        trouble.clear();
        s.health.set("database", None);
        s.log.info("database: it takes documents again");
        if let Err(e) = note_trouble(&s.disk, &self.state_dir, None) {
            super::super::disk_error(&s.disk, &s.log, &e);
        }
    }

    fn away(&self, why: &str) {
        let s = &self.shared;
        let mut trouble = lock(&self.trouble);
        if *trouble == why {
            return;
        }
        why.clone_into(&mut trouble);
        s.health.set("database", Some(why.to_owned()));
        s.log.error(&format!("database: {why}; trying again; lines wait in the store, nothing is lost"));
        if let Err(e) = note_trouble(&s.disk, &self.state_dir, Some(why)) {
            super::super::disk_error(&s.disk, &s.log, &e);
        }
    }
}

fn describe(m: &Marker) -> String {
    format!(
        "{}: {}, {} updated, {} skipped, {} rejected",
        count(m.lines, "line"),
        count(m.inserted, "document"),
        m.updated,
        m.skipped,
        m.rejected
    )
}
