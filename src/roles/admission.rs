//! Who may send, as the configuration has it: the same questions at a start, in `logd check` and in `logd status`.

use crate::auth::{Key, Keyring, Mode};
use crate::config::value::is_loopback;
use crate::config::{MonitorConfig, ReceiverConfig, TailConfig};
use crate::disk::{self, Disk};
use crate::instance;
use crate::log::count;
use crate::tail::Identity;
use std::collections::BTreeSet;
use std::path::Path;

/// A listener to which anybody may send is a decision, which has to be told. Whoever has served so until now goes on, so that an
/// update stops nobody; one that has been closed is not opened again by a line that is missing.
fn may_serve(open: Option<String>, state_dir: &Path) -> Result<(), String> {
    match open.filter(|_| !instance::served_open(state_dir)) {
        None => Ok(()),
        Some(why) => Err(format!(
            "{why}: whoever reaches the port could send, and a start is refused; list your hosts' networks in `allow`, or write \
             `allow = any`"
        )),
    }
}

/// Why whoever reaches the port of a collector may send, if nobody has decided that.
pub fn is_open(conf: &ReceiverConfig) -> Option<String> {
    if conf.allow_set || conf.knows_senders() || is_loopback(&conf.listen) {
        return None;
    }
    let why = if conf.keys_file.is_some() {
        "`keys = accept` lets unsigned packs in, so that `allow` is needed, which is not set"
    } else if conf.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some()) {
        "`tls = accept` lets hosts in that show no certificate, so that `allow` is needed, which is not set"
    } else {
        "none of `allow`, `keys_file` and `tls_client_ca` is set"
    };
    Some(format!("listen {}: {why}", conf.listen))
}

/// The same of a monitor.
pub fn is_open_monitor(conf: &MonitorConfig) -> Option<String> {
    let open = !conf.allow_set && !is_loopback(&conf.listen);
    open.then(|| format!("listen {}: `allow` is not set", conf.listen))
}

/// What `logd status` says of a listener that goes on as it was.
pub fn told_open(why: &str) -> String {
    format!(
        "{why}: whoever reaches the port may send; it may go on only because it has served so before; list your hosts' networks \
         in `allow`, or write `allow = any`"
    )
}

/// May a collector be started, as it listens?
pub fn may_receive(conf: &ReceiverConfig, state_dir: &Path) -> Result<(), String> {
    may_serve(is_open(conf), state_dir)
}

/// May a monitor be started, as it listens?
pub fn may_monitor(conf: &MonitorConfig, state_dir: &Path) -> Result<(), String> {
    may_serve(is_open_monitor(conf), state_dir)
}

/// The keys of those who may send. What is configured and cannot be used ends a start: it must not let everybody in.
pub fn keyring(conf: &ReceiverConfig) -> Result<Option<Keyring>, String> {
    let Some(path) = &conf.keys_file else { return Ok(None) };
    let mode = if conf.keys_required { Mode::Require } else { Mode::Accept };
    Keyring::open(path, mode).map(Some).map_err(|e| format!("keys_file: {e}"))
}

/// Mode and number of keys, in a few words.
pub fn summary(keys: &Keyring) -> String {
    let list = keys.list();
    let hosts: BTreeSet<&str> = list.iter().map(|(name, _)| name.as_str()).collect();
    let mode = match keys.mode() {
        Mode::Require => "require",
        Mode::Accept => "accept (unsigned packs are taken, too)",
    };
    format!("{mode}, {} of {}", count(list.len(), "key"), count(hosts.len(), "host"))
}

/// The key that a follower signs with. What is configured and cannot be used ends a start, before anything is sent unsigned.
pub fn key_of(conf: &TailConfig) -> Result<Option<Key>, String> {
    conf.key_file.as_deref().map(Key::load).transpose().map_err(|e| format!("key_file: {e}"))
}

/// Does the key open the hours of this host?
pub fn fits(key: &Key, host: &str) -> Result<(), String> {
    if key.opens(host) {
        return Ok(());
    }
    Err(format!(
        "key_file: {} does not open the hours of {host}, which is this host's name at the receiver; take the line of {host} \
         from keys_file there, or make a key (`logd key new {host}`) and add its line there, too",
        key.label()
    ))
}

/// The same of a follower that is not running: its name is the configured one, or what its state directory was begun with, if
/// it was.
pub fn check_key(disk: &Disk, conf: &TailConfig, state_dir: &Path) -> Result<(), String> {
    let Some(key) = key_of(conf)? else { return Ok(()) };
    name_of(disk, conf, state_dir).map_or(Ok(()), |name| fits(&key, &name))
}

/// The name of a follower, as far as it is known before it runs.
pub fn name_of(disk: &Disk, conf: &TailConfig, state_dir: &Path) -> Option<String> {
    conf.name.clone().or_else(|| begun_as(disk, state_dir).ok().flatten())
}

fn begun_as(disk: &Disk, state_dir: &Path) -> disk::Result<Option<String>> {
    Ok(Identity::load(disk, &Identity::path(state_dir, ""))?.and_then(Result::ok).map(|id| id.name))
}
