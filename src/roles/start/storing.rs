//! The roles that store: the store itself, and what goes on with its hours.

use super::super::beyond as of_hours;
use super::super::collector::{self, Collector};
use super::super::compress;
use super::super::disk_trouble;
use super::super::documents::{self, Savers};
use super::super::fleet::Fleet;
use super::super::report;
use super::super::serve::{Server, Shared, fd_limit, max_connections, spawn};
use super::super::ship;
use super::super::tables::{Etl, Workers};
use super::super::verifying::Verifying;
use super::super::watch::Watch;
use super::super::web::{Look, Site, Web};
use super::super::whole::Beside;
use super::receiving::{self, reports, start_report};
use super::{Run, World, bind, controlled, host_name, share};
use crate::clock;
use crate::config::{Config, EtlConfig, MongoConfig, Role, StoreConfig, Warning};
use crate::footprint;
use crate::integrity::Store;
use crate::log::count;
use crate::metrics;
use crate::output::hours::Due;
use crate::receiver::gate::Gate;
use crate::receiver::lock;
use crate::shutdown::Shutdown;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

/// What becomes of hours that are stored.
pub(super) enum Beyond<'c> {
    Nothing,
    Tables(&'c EtlConfig),
    Documents(&'c MongoConfig),
}

impl Beyond<'_> {
    fn role(&self) -> Role {
        match self {
            Self::Nothing => Role::Fcollector,
            Self::Tables(_) => Role::Etlcollector,
            Self::Documents(_) => Role::Mgocollector,
        }
    }
}

/// Runs a role that stores.
pub(super) fn run_store(
    file: (&Path, &Config),
    conf: &StoreConfig,
    beyond: &Beyond,
    warnings: &[Warning],
    options: Run,
) -> Result<u8, String> {
    let role = beyond.role();
    let say = |e: String| format!("logd: {}: {e}", role.command());
    let begun = receiving::begin(
        role,
        file.0,
        (&conf.receiver, conf.state_dir.as_deref(), &conf.log, &conf.watch),
        warnings,
        options,
    )?;
    let (w, keys, tls) = match begun {
        Ok(b) => (b.w, (b.keys, b.memory), b.tls),
        Err(code) => return Ok(code),
    };
    let now = w.clock.mono_ms();
    w.disk.create_dir_all(&conf.save_dir, conf.dir_mode).map_err(|e| say(format!("save_dir: {e}")))?;
    crate::state::refuse_links(&conf.save_dir).map_err(|e| say(format!("save_dir: {e}")))?;
    let Some(save_lock) =
        w.disk.lock(&conf.save_dir.join(".lock")).map_err(|e| say(format!("save_dir: {e}")))?
    else {
        return Err(say(format!(
            "save_dir {}: another logd stores there; stop it, or give each its own save_dir",
            conf.save_dir.display()
        )));
    };
    let report = &mut |t: String| w.log.error(&t);
    // Two files each, beside the connections, the spool and the hours that are read again.
    let others = max_connections(&conf.receiver).saturating_add(64);
    let max_open = (fd_limit().saturating_sub(others) / 2).clamp(2, 4096);
    let (mut gate, mut collector, waiting) =
        collector::open(&w.disk, &w.instance.dir, conf, max_open, now, report).map_err(say)?;
    if waiting > 0 {
        w.log.info(&format!("{} of the spool to be applied", count(waiting, "pack")));
    }
    compare_footprint(&w, &mut gate, now);
    let report = &mut |t: String| w.log.warn(&t);
    let (mut etl, mut database) = (None, None);
    match beyond {
        Beyond::Nothing => {}
        Beyond::Tables(t) => etl = Some(Etl::open(&w.disk, t, &w.instance.dir, report).map_err(say)?),
        Beyond::Documents(d) => {
            database = Some(documents::open(&w.disk, d, &w.instance.dir).map_err(say)?);
        }
    }
    let listener = bind(&conf.receiver.listen).map_err(say)?;
    let addr = listener.local_addr().map_err(|e| say(e.to_string()))?;
    w.log.info(&format!("listening on {addr}, storing in {}", conf.save_dir.display()));
    let mut pulse = w.pulse(&conf.watch, role, &host_name(), false);
    let (shared, instance) = share(w, gate, &conf.receiver.allow, keys, tls);
    let shown = conf.http.hours;
    let span = if reports(&conf.watch, true) { shown.max(report::SPAN) } else { shown };
    let (dir, hosts) = (conf.save_dir.clone(), conf.hosts_file.clone());
    // One for both, so that the monitor is told what the page shows.
    let fleet = Arc::new(Mutex::new(Fleet::new(&shared, dir, hosts, span, host_name())));
    let for_report = Arc::clone(&fleet);
    let hours: report::Source = Box::new(move || lock(&for_report).seen(report::SPAN));
    start_report(
        &mut pulse,
        &conf.watch,
        &shared,
        &instance.dir,
        (conf.spool.size, conf.alarm_after_ms),
        Some(hours),
    );
    let server = Server::start(listener, conf.receiver.clone(), &shared, true, conf.spool.group_commit_ms);
    let look = Some(Box::new(move || lock(&fleet).look(shown)) as Look);
    let more = match beyond {
        Beyond::Nothing => 0,
        Beyond::Tables(_) => metrics::TABLES,
        Beyond::Documents(_) => metrics::DATABASE,
    };
    let roles = metrics::STORE | more;
    let site = Site { word: role.command(), roles, health: shared.health.clone(), look };
    let web = Web::start(&conf.http, site, (&shared.clock, &shared.log, &shared.stop));
    let compress = conf.compress_closed.then(|| {
        let store = Store::new(&shared.disk, &conf.save_dir, &instance.dir, conf.file_mode, conf.dir_mode);
        compress::start(store, of_hours::done(role), compress::AFTER_SECS, &shared)
    });
    let workers = etl.map(|etl| Workers::start(etl, &shared));
    let savers = database.map(|d| Savers::start(d, &shared, &instance.dir));
    let control = controlled(role, file, &instance.dir, &shared);
    store_loop(&mut collector, conf, (workers.as_ref(), savers.as_ref()), &shared, &instance.dir);
    drop(control);
    server.join(clock::deadline(Duration::from_millis(conf.quit_timeout_ms)));
    finish_store(&mut collector, &shared, &instance.dir);
    if let Some(workers) = workers {
        workers.join();
    }
    if let Some(savers) = savers {
        savers.join();
    }
    if let Some(compress) = compress {
        let _ = compress.join();
    }
    shared.close_senders();
    web.join();
    // Before the state directory is given back, on which `logd stop` waits: whoever starts right behind it needs both.
    drop(save_lock);
    Ok(0)
}

/// `footprint.json` is never believed, but what it knew and nobody knows any more is worth a message.
fn compare_footprint(w: &World, gate: &mut Gate, now_ms: u64) {
    let Some(told) = footprint::load_json(&w.disk, &w.instance.dir) else { return };
    let Some(m) = &mut gate.memory else { return };
    for (key, (generation, high, _)) in told {
        let have = m.footprint.hour(&key, now_ms).and_then(|h| h.copies.get(&generation)).map(|c| c.high);
        if let Some(have) = have.filter(|h| *h < high) {
            w.log.error(&format!(
                "{key}: {} acknowledged before the last stop, {have} of them here; `logd resend` on {} \
                 sends packs {}-{high} again",
                count(high, "pack"),
                key.name,
                have.saturating_add(1)
            ));
        }
    }
}

fn store_loop(
    c: &mut Collector,
    conf: &StoreConfig,
    (workers, savers): (Option<&Workers>, Option<&Savers>),
    s: &Arc<Shared>,
    state_dir: &Path,
) {
    let (tx, results) = mpsc::channel();
    let mut verifying = Verifying::default();
    let (mut running, mut last_minute) = (0usize, s.clock.mono_ms());
    let mut watch = Watch::new(&s.health);
    while !s.stop.requested() {
        let now = s.clock.mono_ms();
        let turn = turn(c, s, now);
        watch.disk(&turn);
        for job in c.hours.take_jobs() {
            let key = job.key.clone();
            let wait = verifying.push(job, now);
            if wait >= 60_000 {
                let secs = wait / 1000;
                s.log.info(&format!(
                    "{key}: was complete again and again; it is verified in {secs} s, nothing is lost"
                ));
            }
        }
        while running < conf.max_verifying {
            let Some(job) = verifying.pop(now) else { break };
            let (tx, disk) = (tx.clone(), s.disk.clone());
            running = running.saturating_add(1);
            drop(spawn("verify", move || {
                let _ = tx.send(crate::output::hours::VerifyJob::run(job, &disk, &mut Beside::default()));
            }));
        }
        let mut certified = 0_usize;
        while let Ok(result) = results.try_recv() {
            running = running.saturating_sub(1);
            certified = certified.saturating_add(1);
            let key = result.job().key.clone();
            if let Err(e) = c.certify(result, &s.gate, now, s.clock.now_secs()) {
                verifying.failed(&key);
                disk_trouble(&s.disk, &s.log, &s.stop, &e);
            }
        }
        let (keys, grown) = (std::mem::take(&mut c.certified), std::mem::take(&mut c.grown));
        match (workers, savers) {
            (Some(workers), _) => workers.certified(keys),
            (_, Some(savers)) => savers.grown([keys, grown].concat()),
            _ => {}
        }
        tell(c, s);
        if watch.turn(&s.clock) {
            watch_disk(s, &conf.save_dir, conf.spool.min_free);
            s.save_senders();
            ship::watch_spool(&watch, s, &conf.spool, now);
        }
        if now.saturating_sub(last_minute) >= 60_000 {
            last_minute = now;
            let saved = c.hours.write_gaps(now).and_then(|()| save(s, state_dir));
            if let Err(e) = saved {
                disk_trouble(&s.disk, &s.log, &s.stop, &e);
            }
        }
        match turn {
            Ok(0) if certified == 0 => {
                let wait = if running > 0 { 5 } else { 100 };
                let gate = lock(&s.gate);
                drop(s.durable.wait_timeout(gate, Duration::from_millis(wait)));
            }
            Ok(_) => {}
            Err(e) => disk_trouble(&s.disk, &s.log, &s.stop, &e),
        }
    }
}

fn turn(c: &mut Collector, s: &Shared, now: u64) -> crate::disk::Result<usize> {
    if s.no_descriptors.swap(false, Ordering::Relaxed) {
        c.hours.relieve()?;
    }
    let n = c.step(&s.gate, now, 64)?;
    if let Some(due) = c.wants_checkpoint(&s.gate, now) {
        c.checkpoint(due, &s.gate, now)?;
    }
    Ok(n)
}

fn tell(c: &mut Collector, s: &Shared) {
    for a in c.hours.alarms.drain(..) {
        s.log.error(&a);
    }
    for (good, text) in c.messages.drain(..) {
        if good { s.log.info(&text) } else { s.log.error(&text) }
    }
}

fn watch_disk(s: &Shared, save_dir: &Path, min_free: u64) {
    let short = s.disk.shortage_in_short(save_dir, min_free).ok().flatten();
    *lock(&s.paused) = short.map(|what| format!("paused: disk: {what}"));
}

fn save(s: &Shared, state_dir: &Path) -> crate::disk::Result<()> {
    let now = s.zone.format_ms(s.clock.now_ms());
    let mut gate = lock(&s.gate);
    gate.spool.save_marks()?;
    match &gate.memory {
        Some(m) => m.footprint.save(&s.disk, state_dir, &now),
        None => Ok(()),
    }
}

/// Everything durable is applied and made durable in its hour file; then the spool is empty.
fn finish_store(c: &mut Collector, s: &Shared, state_dir: &Path) {
    let now = s.clock.mono_ms();
    let work = |c: &mut Collector| -> crate::disk::Result<()> {
        lock(&s.gate).spool.sync()?;
        while c.step(&s.gate, now, 64)? > 0 {}
        c.checkpoint(Due::All, &s.gate, now)?;
        save(s, state_dir)?;
        lock(&s.gate).spool.close()
    };
    if let Err(e) = work(c) {
        disk_trouble(&s.disk, &s.log, &Shutdown::default(), &e);
    }
    tell(c, s);
    let left = lock(&s.gate).spool.waiting();
    s.log.info(&format!("stopped: {} stored, {left} wait in the spool", count(c.hours.packs, "pack")));
}
