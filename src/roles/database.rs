//! The monitor's database, where this program was built with the feature `mysql`: one thread that delivers.
//!
//! The event log is its queue. `delivered.json` says how far the database has it, under the name by which the database
//! knows this store. While the database is away nothing waits for it, and the log keeps the newest 64 MiB.

use super::monitor::Shared;
use crate::config::MonitorConfig;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

/// Makes the tables.
#[cfg(not(feature = "mysql"))]
pub(super) fn init(_: &MonitorConfig) -> Result<(), String> {
    Err("--init-db: this program was built without the feature mysql; build with `cargo build --release --features mysql`"
        .into())
}

/// Starts the thread, if there is a database.
#[cfg(not(feature = "mysql"))]
#[expect(clippy::unnecessary_wraps, reason = "same shape as with the feature")]
pub(super) fn start(_: &MonitorConfig, _: &Arc<Shared>, _: &Path) -> Result<Option<JoinHandle<()>>, String> {
    Ok(None)
}

#[cfg(feature = "mysql")]
pub(super) use with::{init, start};

#[cfg(feature = "mysql")]
mod with {
    use super::{Arc, JoinHandle, MonitorConfig, Path, Shared};
    use crate::config::DbConfig;
    use crate::disk::Disk;
    use crate::log::{complain, count};
    use crate::monitor;
    use crate::monitor::mysql::{self, Db};
    use crate::monitor::nodes::Node;
    use crate::pack::{Seal, hex};
    use crate::receiver::lock;
    use crate::record;
    use crate::roles::serve::spawn;
    use crate::roles::watch;
    use serde::{Deserialize, Serialize};
    use std::path::PathBuf;
    use std::time::Duration;

    /// Events in one transaction.
    const BATCH: usize = 200;
    /// How soon new events are seen.
    const LOOK_AGAIN: Duration = Duration::from_millis(300);
    /// The first and the longest wait before the database is tried again.
    const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));
    const FILE_MAX: u64 = 64 << 10;

    /// Makes the tables.
    pub fn init(conf: &MonitorConfig) -> Result<(), String> {
        let db = conf.db.as_ref().ok_or("--init-db: db_host is not set in [receiver]")?;
        mysql::init(db).map_err(|e| format!("--init-db: database {db:?}: {e}"))?;
        complain(&format!("logd: monitor: the tables are in {db:?}"));
        Ok(())
    }

    #[derive(Serialize, Deserialize)]
    struct Mark {
        /// Name of this store in the database.
        store: String,
        /// The last event that the database has.
        seq: u64,
        /// The database may lack nodes that are here.
        resync: bool,
    }

    struct Delivery {
        s: Arc<Shared>,
        conf: DbConfig,
        disk: Disk,
        path: PathBuf,
        mark: Mark,
        every_ms: u64,
    }

    /// Starts the thread, if there is a database.
    pub fn start(
        conf: &MonitorConfig,
        s: &Arc<Shared>,
        dir: &Path,
    ) -> Result<Option<JoinHandle<()>>, String> {
        let Some(db) = conf.db.clone() else { return Ok(None) };
        let path = dir.join("delivered.json");
        let say = |e: crate::disk::Error| format!("logd: monitor: {e}");
        let old = {
            let mut m = lock(&s.monitor);
            let next = "the database may get events twice";
            monitor::read_state(&s.disk, &path, FILE_MAX, next, &mut m.said).map_err(say)?
        };
        let mark = old.and_then(|b| record::from_json::<Mark>(&b).ok()).unwrap_or_else(|| fresh(s, &path));
        // After the rounds that read the list again.
        let every_ms = conf.check_interval_ms.saturating_mul(3);
        let delivery = Delivery { s: Arc::clone(s), conf: db, disk: s.disk.clone(), path, mark, every_ms };
        // Counted from now on, however long the first connection takes.
        lock(&s.monitor).delivered = Some(delivery.mark.seq);
        // Its name is durable before the first event goes out under it.
        delivery.save().map_err(say)?;
        Ok(Some(spawn("database", move || delivery.run())))
    }

    /// The mark of a store of which the database knows nothing.
    fn fresh(s: &Shared, path: &Path) -> Mark {
        // Unlike any other store's: the database knows by it which events are ours.
        let text = format!("{} {} {}", s.clock.now_ms(), std::process::id(), path.display());
        let store: String = hex(&Seal::of(text.as_bytes()).sha256).chars().take(32).collect();
        Mark { store, seq: 0, resync: true }
    }

    impl Delivery {
        fn save(&self) -> crate::disk::Result<()> {
            self.disk.replace(&self.path, &record::to_json(&self.mark), 0o640)
        }

        fn run(mut self) {
            let (mut wait, mut failing, mut away_ms) = (RETRY.0, false, None);
            loop {
                let result = self.connection(&mut failing);
                match result {
                    Ok(()) => return,
                    Err(why) => {
                        let now = self.s.clock.mono_ms();
                        if !failing {
                            away_ms = None;
                        }
                        let ms = now.saturating_sub(*away_ms.get_or_insert(now));
                        self.tell(Some((&why, ms)));
                        if !std::mem::replace(&mut failing, true) {
                            wait = RETRY.0;
                            let text = "events wait in the state directory and are delivered later";
                            self.s.log.error(&format!("database {:?}: {why}; {text}", self.conf));
                        }
                    }
                }
                if self.s.stop.wait(wait) {
                    return;
                }
                wait = wait.saturating_mul(2).min(RETRY.1);
            }
        }

        /// Sets what is told of the database: what it lacks, and why it is away and for how many ms.
        fn tell(&self, away: Option<(&str, u64)>) {
            let waiting = {
                let mut m = lock(&self.s.monitor);
                m.delivered = Some(self.mark.seq);
                m.events.newest().saturating_sub(self.mark.seq)
            };
            watch::database(&self.s.health, away, waiting);
        }

        /// One connection, until it breaks or the role stops.
        fn connection(&mut self, failing: &mut bool) -> Result<(), String> {
            let mut db = Db::open(&self.conf)?;
            if !db.marks() {
                let text = "has no table logd_delivered: after a crash events may come twice; `logd monitor --init-db CONFIG` makes it";
                self.s.log.warn(&format!("database {:?}: {text}", self.conf));
            }
            match db.arrived(&self.mark.store)? {
                // The event log was removed, and its numbers begin again.
                Some(seq) if seq > lock(&self.s.monitor).events.newest() => {
                    self.mark = fresh(&self.s, &self.path);
                    self.save().map_err(|e| e.to_string())?;
                }
                Some(seq) => self.mark.seq = seq,
                // It is a new one: what the old one had of nodes it has not.
                None if self.mark.seq > 0 => self.mark.resync = true,
                None => {}
            }
            let mut again_ms = 0;
            loop {
                if self.deliver(&mut db)? {
                    self.tell(None);
                    if std::mem::take(failing) {
                        self.s.log.info(&format!("database {:?}: it has all events again", self.conf));
                    }
                    let now = self.s.clock.mono_ms();
                    if now >= again_ms || self.mark.resync {
                        again_ms = now.saturating_add(self.every_ms);
                        self.nodes(&mut db)?;
                    }
                    if self.s.stop.wait(LOOK_AGAIN) {
                        // What was said last is sent, too.
                        return self.deliver(&mut db).map(|_| ());
                    }
                } else if self.s.stop.requested() {
                    return Ok(());
                } else {
                    self.tell(None);
                }
            }
        }

        /// Delivers some events; true = there are no more.
        fn deliver(&mut self, db: &mut Db) -> Result<bool, String> {
            let (batch, oldest) = {
                let mut m = lock(&self.s.monitor);
                let synced = m.events.sync();
                let batch = synced.and_then(|()| m.events.batch(self.mark.seq, BATCH));
                (batch, m.events.oldest())
            };
            let batch = match batch {
                Ok(batch) => batch,
                Err(e) => {
                    self.s.trouble(&e);
                    return Err(e.to_string());
                }
            };
            let lost = oldest.saturating_sub(1).saturating_sub(self.mark.seq);
            let Some(last) = batch.last() else { return Ok(true) };
            if lost > 0 {
                self.mark.resync = true;
                self.s.log.error(&format!(
                    "database {:?}: it was away for so long that {} are not kept any more and will not be in it; \
                     `logd status` has the newest",
                    self.conf,
                    count(lost, "event")
                ));
            }
            db.deliver(&self.mark.store, &batch)?;
            self.mark.seq = last.seq;
            if let Err(e) = self.save() {
                // The database knows better anyway.
                self.s.trouble(&e);
            }
            Ok(false)
        }

        /// Takes over nodes that were added or removed in the database.
        fn nodes(&mut self, db: &mut Db) -> Result<(), String> {
            let now_ms = self.s.clock.now_ms();
            if self.mark.resync {
                let (ours, time): (Vec<Node>, String) = {
                    let m = lock(&self.s.monitor);
                    (m.nodes.iter().filter(|n| !n.stopped).cloned().collect(), m.seconds(now_ms))
                };
                db.put(&ours, &time)?;
                self.mark.resync = false;
                if let Err(e) = self.save() {
                    self.s.trouble(&e);
                }
            }
            let (rows, bad) = db.nodes()?;
            for row in bad {
                self.s.log.warn(&format!(
                    "database {:?}: registered_node: {row} is no address and port; left out",
                    self.conf
                ));
            }
            let mut m = lock(&self.s.monitor);
            // Somebody registered while it was read: the next time will do.
            let adopted = if m.events.newest() == self.mark.seq { m.adopt(rows, now_ms) } else { Ok(()) };
            drop(m);
            if let Err(e) = adopted {
                self.s.trouble(&e);
            }
            self.s.tell();
            Ok(())
        }
    }
}
