//! What relay and store begin with alike: may they serve, the state directory, keys, certificates.

use super::super::admission::{is_open, keyring, may_receive, summary};
use super::super::pulse::Pulse;
use super::super::report;
use super::super::serve::raise_fd_limit;
use super::{Run, Shared, World, warn_all, world};
use crate::auth::{Keyring, Memory};
use crate::clock::Zone;
use crate::config::{LogConfig, ReceiverConfig, Role, Warning, WatchConfig};
use crate::{instance, tls};
use std::path::Path;
use std::sync::Arc;

/// What both receiving roles begin with.
pub(super) struct Begun {
    pub w: World,
    pub keys: Option<Arc<Keyring>>,
    pub memory: Arc<Memory>,
    pub tls: Option<tls::Server>,
}

/// `Ok(Err(code))` = nothing more to do here.
pub(super) fn begin(
    role: Role,
    config: &Path,
    (receiver, state_dir, log, watch): (&ReceiverConfig, Option<&Path>, &LogConfig, &WatchConfig),
    warnings: &[Warning],
    options: Run,
) -> Result<Result<Begun, u8>, String> {
    let say = |e: String| format!("logd: {}: {e}", role.command());
    raise_fd_limit();
    let zone = Zone::local().map_err(say)?;
    let dir = crate::state::resolve(&role, state_dir);
    may_receive(receiver, &dir).map_err(say)?;
    // What these end must not leave a directory that looks as if it had served. Whoever runs has read his, and whoever starts
    // him once more is not told of them.
    if instance::is_running(&dir) != Some(true) {
        keyring(receiver).map_err(say)?;
        receiver.tls.as_ref().map(tls::Server::open).transpose().map_err(say)?;
    }
    let w = match world(role, config, state_dir, (log, Some(watch)), zone, options)? {
        Ok(w) => w,
        Err(code) => return Ok(Err(code)),
    };
    warn_all(&w.log, warnings);
    let (keys, memory) = keys_of(receiver, &w).map_err(say)?;
    let tls = receiver.tls.as_ref().map(tls::Server::open).transpose().map_err(say)?;
    w.instance.note_open(&w.disk, is_open(receiver).is_some()).map_err(|e| say(e.to_string()))?;
    Ok(Ok(Begun { w, keys, memory, tls }))
}

/// The keys of those who may send, and says what they are; and the memory of who did.
fn keys_of(conf: &ReceiverConfig, w: &World) -> Result<(Option<Arc<Keyring>>, Arc<Memory>), String> {
    let keys = keyring(conf)?;
    let (memory, alarm) = Memory::open(&w.disk, &w.clock, &w.zone, &w.instance.dir, keys.as_ref())
        .map_err(|e| e.to_string())?;
    let memory = Arc::new(memory);
    if let Some(alarm) = alarm {
        w.log.error(&alarm);
    }
    if let Some(tls) = &conf.tls {
        let mode = if tls.required { "require" } else { "accept (connections without it are taken, too)" };
        let asked = if tls.client_ca.is_some() { ", clients show certificates" } else { "" };
        w.log.info(&format!("tls: {mode}{asked}"));
    }
    match &keys {
        Some(keys) => w.log.info(&format!("keys: {}", summary(keys))),
        None if conf.knows_senders() => {
            w.log.info("keys: none: a certificate says whose hours a client may send");
        }
        None => {
            w.log.info("keys: none: whoever may connect may send any host's hours");
        }
    }
    Ok((keys.map(|keys| Arc::new(keys.remembering(&memory))), memory))
}

/// Does anybody want to know how a receiver is?
pub(super) fn reports(watch: &WatchConfig, has_hours: bool) -> bool {
    !watch.alarm.is_empty() || (watch.monitor.is_some() && has_hours)
}

/// Starts what tells the monitor and the operator how a receiver is, if anybody wants to know.
pub(super) fn start_report(
    pulse: &mut Pulse,
    watch: &WatchConfig,
    shared: &Arc<Shared>,
    state_dir: &Path,
    (spool_size, alarm_after_ms): (u64, u64),
    hours: Option<report::Source>,
) {
    if !reports(watch, hours.is_some()) {
        return;
    }
    let report = report::Report {
        shared: Arc::clone(shared),
        world: Arc::clone(&pulse.world),
        alarms: pulse.alarms.clone(),
        state_dir: state_dir.to_owned(),
        spool_size,
        monitor: watch.monitor.clone(),
        hours,
        alarm_after_ms,
    };
    pulse.add(report.start());
}
