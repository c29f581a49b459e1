//! `compress_closed = gzip`: a store's thread that compresses hours some time after they were certified ([`packed`]).

use super::serve::{Shared, spawn};
use crate::clock::Clock;
use crate::disk::{self, Disk};
use crate::integrity::{Certificate, Store, packed};
use crate::pack::HourKey;
use crate::receiver::lock;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// Until then a host may send late lines, which find their hour as it is.
pub const AFTER_SECS: i64 = 48 * 3_600;
/// How often hours are looked for.
const LOOK: Duration = Duration::from_mins(10);
/// How much it gives way to what is urgent.
const NICE: i32 = 10;

/// Has what is done beyond storing been done with an hour, as its certificate has it? Below a `save_dir`.
pub type Done = fn(&Disk, &Path, &HourKey, &Certificate) -> disk::Result<bool>;

/// Starts it; it ends with the role. `done`: only hours of which that says so.
pub fn start(store: Store, done: Option<Done>, after_secs: i64, s: &Arc<Shared>) -> JoinHandle<()> {
    let s = Arc::clone(s);
    spawn("compress", move || {
        // The niceness of a thread; without it, it is only less polite.
        let _ = rustix::process::setpriority_process(None, NICE);
        loop {
            turn(&store, done, after_secs, &s);
            if s.stop.wait(LOOK) {
                return;
            }
        }
    })
}

/// Compresses what is old enough.
fn turn(store: &Store, done: Option<Done>, after_secs: i64, s: &Shared) {
    let dir = store.path("log_data");
    let names = match store.disk().list_some(&dir, &mut |name| HourKey::parse(name).is_some()) {
        Ok(names) => names,
        Err(e) => {
            return s.log.warn(&format!("{e}; no hour is compressed until that is mended, nothing is lost"));
        }
    };
    for key in names.iter().filter_map(|e| HourKey::parse(&e.name)) {
        if s.stop.requested() || lock(&s.paused).is_some() {
            return;
        }
        match due(store, done, after_secs, &s.clock, &key)
            .and_then(|c| c.map_or(Ok(()), |c| one(store, &key, &c, s)))
        {
            Ok(()) => {}
            Err(e) if e.fatal() => return super::disk_error(&s.disk, &s.log, &e),
            Err(e) => s.log.warn(&format!("{key}: {e}; it stays as it is, nothing is lost")),
        }
    }
}

/// The certificate of an hour that is to be compressed now.
fn due(
    store: &Store,
    done: Option<Done>,
    after_secs: i64,
    clock: &Clock,
    key: &HourKey,
) -> disk::Result<Option<Certificate>> {
    let old = clock.now_secs().saturating_sub(after_secs);
    // A look at its file spares one into its certificate.
    let young = |ms: i64| ms > old.saturating_mul(1000);
    if store.disk().stat(&store.place(key).data)?.is_none_or(|s| young(s.mtime_ms)) {
        return Ok(None);
    }
    let closed = store.closed(key)?;
    let due = closed.filter(|c| c.is_tag() && c.bytes > 0 && !c.sha256.is_empty() && c.certified <= old);
    match (due, done) {
        (Some(c), Some(done)) => Ok(done(store.disk(), &store.path(""), key, &c)?.then_some(c)),
        (due, _) => Ok(due),
    }
}

fn one(store: &Store, key: &HourKey, certificate: &Certificate, s: &Shared) -> disk::Result<()> {
    match packed::pack(store, key, certificate, &mut || s.stop.requested())? {
        Err(why) if why.is_empty() => return Ok(()),
        Err(why) => {
            s.log.error(&format!("{key}: {why}"));
            return Ok(());
        }
        Ok(()) => {}
    }
    // Who takes bytes for an hour removes its tag first, under this lock.
    let _gate = lock(&s.gate);
    if packed::finish(store, key, certificate)? {
        s.log.debug(&format!("{key}: compressed"));
    }
    Ok(())
}
