//! The savers: threads that write the lines of a store to its database, beside the store's own.
//!
//! One saver at a time works for a sender, on the oldest of its hours first, so that of lines with one transaction id the last
//! one wins. [`Queue`] says which is next.

use super::super::serve::{Shared, spawn};
use super::queue::{At, Queue};
use crate::config::MongoConfig;
use crate::config::value::hosts_of;
use crate::disk::Disk;
use crate::documents::Marker;
use crate::documents::hour::{Documents, Stopped, Turn};
use crate::documents::server::Server;
use crate::documents::shape::{Shape, Work};
use crate::documents::waits::{Known, elsewhere};
use crate::log::count;
use crate::metrics;
use crate::pack::HourKey;
use crate::receiver::lock;
use mongodb::error::ErrorKind;
use mongodb::options::{ConnectionString, Tls};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often a saver without work looks whether the role stops.
const LOOK: Duration = Duration::from_millis(200);
/// How long a saver waits that has met the same trouble twice in a row: it is not one sender's then.
const SAME: Duration = Duration::from_secs(2);
/// How soon hours that a start could not look through are looked through again.
const PENDING: Duration = Duration::from_secs(30);
/// Sentences of the database that are kept for the status.
const NOTES_MAX: usize = 20;

/// Opens what the savers need. A configuration that cannot be used ends a start; a database that does not answer does not.
pub fn open(disk: &Disk, conf: &MongoConfig, state_dir: &Path) -> Result<Documents, String> {
    check(conf)?;
    Documents::open(disk, conf, state_dir)
}

/// What a start would refuse. Nobody is asked for anything.
pub fn check(conf: &MongoConfig) -> Result<(), String> {
    Shape::new(conf)?;
    for uri in &conf.uris {
        let said = match ConnectionString::parse(uri) {
            Ok(parsed) => {
                files_of(&parsed)?;
                String::new()
            }
            Err(e) => match *e.kind {
                ErrorKind::InvalidArgument { ref message, .. } => message.clone(),
                ref other => other.to_string(),
            },
        };
        // An option is repeated there, and may be secret.
        let said =
            [", got ", " pair: "].iter().fold(said.as_str(), |s, end| s.split(end).next().unwrap_or(s));
        if !said.is_empty() {
            return Err(format!("uri: the connection string of {} cannot be used: {said}", hosts_of(uri)));
        }
    }
    Ok(())
}

/// Its files must be readable; else that shows as a server that does not answer.
fn files_of(uri: &ConnectionString) -> Result<(), String> {
    let Some(Tls::Enabled(tls)) = &uri.tls else { return Ok(()) };
    for path in tls.ca_file_path.iter().chain(&tls.cert_key_file_path) {
        std::fs::File::open(path).map_err(|e| {
            format!("uri: {}: {e}; name a file that the role's user may read", path.display())
        })?;
    }
    Ok(())
}

struct All {
    documents: Documents,
    queue: Mutex<Queue>,
    more: Condvar,
    shared: Arc<Shared>,
    state_dir: PathBuf,
    /// What the database has made us say.
    notes: Mutex<BTreeSet<String>>,
    /// What was left for the status.
    noted: Mutex<Known>,
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
        if let Err(e) = Known::default().note(&s.disk, state_dir) {
            super::super::disk_error(&s.disk, &s.log, &e);
        }
        let all = Arc::new(All {
            documents,
            queue: Mutex::default(),
            more: Condvar::new(),
            shared: Arc::clone(s),
            state_dir: state_dir.to_owned(),
            notes: Mutex::default(),
            noted: Mutex::default(),
        });
        let threads = (0..savers).map(|n| {
            let all = Arc::clone(&all);
            spawn("saver", move || all.work(n == 0))
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
            lock(&self.queue).grown(keys);
            self.more.notify_all();
        }
    }

    /// Says that the configuration names another place than before, in which earlier hours are not.
    fn moved(&self) {
        let (s, conf) = (&self.shared, self.documents.conf());
        match elsewhere(&s.disk, conf) {
            Ok(None) => {}
            Ok(Some((n, place))) => s.log.warn(&format!(
                "database: {} were written to other places than {}YYYYMMDD.{}, one to {place}; they stay there; \
                 logd.conf(5) tells how an hour is written anew",
                count(n, "hour"),
                conf.db,
                conf.collection
            )),
            Err(e) => super::super::disk_error(&s.disk, &s.log, &e),
        }
    }

    /// Hours of earlier processes; true if all were looked at.
    fn pending(&self) -> bool {
        match self.documents.pending() {
            Ok(list) => self.grown(list),
            Err(e) => {
                super::super::disk_error(&self.shared.disk, &self.shared.log, &e);
                return false;
            }
        }
        true
    }

    fn work(&self, first: bool) {
        let (s, mut last) = (&self.shared, String::new());
        let stop = s.stop.clone();
        let mut server = Server::new(self.documents.conf(), Box::new(move || stop.requested()));
        let mut work = Work::default();
        let mut pending = first.then_some(Instant::now());
        while !s.stop.requested() {
            if pending.is_some_and(|at| at <= Instant::now()) {
                pending = if self.pending() { None } else { Instant::now().checked_add(PENDING) };
                if pending.is_none() {
                    self.moved();
                }
            }
            let mut q = lock(&self.queue);
            metrics::WAITING_DOCUMENTS.set(q.len() as u64);
            let Some(at) = q.next(s.clock.mono_ms()) else {
                drop(self.more.wait_timeout(q, LOOK));
                server.idle();
                continue;
            };
            drop(q);
            let key = HourKey { name: at.1.clone(), hour: at.0 };
            let mut stop = || s.stop.requested();
            let turn = self.documents.hour(&key, &mut server, &mut work, s.clock.now_secs(), &mut stop);
            self.told(&mut server);
            match turn {
                Ok(turn) => {
                    last.clear();
                    self.tell(&key, at, turn);
                }
                Err(Stopped::Disk(e)) => {
                    super::super::disk_trouble(&s.disk, &s.log, &s.stop, &e);
                    // It may be one file of this hour.
                    lock(&self.queue).away(at, &e.to_string(), s.clock.mono_ms());
                    self.note();
                }
                Err(Stopped::Stop) => lock(&self.queue).put_back(at),
                // Nobody was waited for.
                Err(Stopped::Away(_)) if s.stop.requested() => {}
                Err(Stopped::Away(why)) => {
                    if lock(&self.queue).away(at, &why, s.clock.mono_ms()) {
                        s.log.error(&format!(
                            "database: {why}; {key} is tried again; lines wait in the store, nothing is lost"
                        ));
                    }
                    self.note();
                    if last == why {
                        s.stop.wait(SAME);
                    }
                    last = why;
                }
            }
        }
    }

    /// Passes on what the database has made its connection say.
    fn told(&self, server: &mut Server) {
        if server.told.is_empty() {
            return;
        }
        let mut notes = lock(&self.notes);
        for text in server.told.drain(..) {
            self.shared.log.warn(&text);
            if notes.len() < NOTES_MAX {
                notes.insert(text);
            }
        }
        drop(notes);
        self.note();
    }

    fn tell(&self, key: &HourKey, at: At, turn: Turn) {
        let s = &self.shared;
        metrics::DOCUMENTS.add(turn.written);
        metrics::REJECTED_DOCUMENTS.add(turn.rejected);
        if let Some(marker) = &turn.done {
            s.log.info(&format!("{key}: database: {}", describe(marker)));
            let conf = self.documents.conf();
            if marker.rejects_more_than(conf.max_reject) {
                s.log.error(&format!(
                    "{key}: database: {}; the others are written; that is more than max_reject = {} percent; if log_format \
                     was wrong, logd.conf(5) tells how an hour is written anew",
                    marker.rejects(&s.disk, &conf.store.save_dir, key),
                    conf.max_reject
                ));
            }
        }
        let asked = turn.written > 0 || turn.done.is_some();
        if let Some(why) = turn.wrong {
            if lock(&self.queue).wrong(at, &why, s.clock.mono_ms()) {
                s.log.error(&format!("{key}: database: {why}"));
            }
        } else {
            lock(&self.queue).done(&at, asked);
        }
        self.note();
    }

    /// Tells health and the status what stands in the way now, if that is something else.
    fn note(&self) {
        let s = &self.shared;
        let mut noted = lock(&self.noted);
        let wrong = lock(&self.queue).reasons();
        let now = Known { wrong, notes: lock(&self.notes).iter().cloned().collect() };
        if *noted == now {
            return;
        }
        s.health.set("database", (!now.wrong.is_empty()).then(|| now.wrong.join("; ")));
        if now.wrong.is_empty() && !noted.wrong.is_empty() {
            s.log.info("database: nothing stands in the way any more");
        }
        if let Err(e) = now.note(&s.disk, &self.state_dir) {
            super::super::disk_error(&s.disk, &s.log, &e);
        }
        *noted = now;
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
