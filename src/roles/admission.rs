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

/// A listener to which anybody may send is a decision, which a new one has to be told. One that has served before goes on: the
/// original asked nobody, and its configurations must keep working. `decided`: the configuration says who may; `unset` is what
/// it does not say else, for people.
fn may_serve(listen: &str, decided: bool, unset: &str, state_dir: &Path) -> Result<(), String> {
    if decided || is_loopback(listen) || instance::has_served(state_dir) {
        return Ok(());
    }
    Err(format!(
        "listen {listen}: {unset} set, so that whoever reaches the port could send, and the state directory {} is new: a start \
         is refused; list your hosts' networks, or write `allow = any`",
        state_dir.display()
    ))
}

/// May a collector be started, as it listens?
pub fn may_receive(conf: &ReceiverConfig, state_dir: &Path) -> Result<(), String> {
    let decided = conf.allow_set || conf.knows_senders();
    may_serve(&conf.listen, decided, "neither `allow` nor `keys_file` is", state_dir)
}

/// May a monitor be started, as it listens?
pub fn may_monitor(conf: &MonitorConfig, state_dir: &Path) -> Result<(), String> {
    may_serve(&conf.listen, conf.allow_set, "`allow` is not", state_dir)
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
    match conf.name.clone().or_else(|| begun_as(disk, state_dir).ok().flatten()) {
        Some(name) => fits(&key, &name),
        None => Ok(()),
    }
}

fn begun_as(disk: &Disk, state_dir: &Path) -> disk::Result<Option<String>> {
    Ok(Identity::load(disk, &Identity::path(state_dir, ""))?.and_then(Result::ok).map(|id| id.name))
}
